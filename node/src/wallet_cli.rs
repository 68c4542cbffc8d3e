//! `oda wallet`: one wallet, whether its node runs (then the node is asked) or not (then it is opened here).

use crate::audit::Books;
use crate::config::{Config, MoneyFlags};
use crate::identity::{Identity, write_secret};
use crate::query::{print_json, table};
use crate::wallet_socket::{self, Request, Running};
use crate::{query, seeds, wallet};
use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};
use oda_consensus::ids::PaymentHash;
use oda_lightning::{ChannelInfo, LightningError, StaticBackup, Wallet};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::io::{BufRead as _, IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// How long a payment is watched.
const PAY_PATIENCE: Duration = Duration::from_secs(90);
/// How long a wallet opened here waits for its channels.
///
/// LDK calls on its peers once a minute, and who accepted a channel is the one that is called.
const CHANNEL_PATIENCE: Duration = Duration::from_secs(90);
/// Longest line of words read, bytes.
const MAX_WORDS_BYTES: u64 = 1024;

const WHAT_A_BACKUP_IS: &str = "\
This file and the words together restore this node. The words alone restore all keys and the coins on chain.
The file says with whom there are channels; it deliberately holds no channel state: an old state published by
mistake forfeits the whole channel. After a loss `oda wallet restore` calls on these peers, and each that is alive
closes its channels. This wallet's share then lies on chain at keys that derive from the words (one of LDK's 1,000
static payment keys); this version does not collect it by itself yet. Payments that were held then may be lost.
A copy of the whole data directory, made while the node is STOPPED and never run beside the original or after it
ran on, is the only backup that keeps channels open.";

/// The wallet of a data directory.
#[derive(Args, Debug)]
pub struct WalletArgs {
    /// Data directory of the node.
    #[arg(long, global = true, env = "ODA_DATADIR")]
    datadir: Option<PathBuf>,
    #[command(subcommand)]
    command: WalletCommand,
}

#[derive(Subcommand, Debug, PartialEq, Eq)]
enum WalletCommand {
    /// Coins, channels, and whether the wallet can see the chain.
    Balance {
        /// Ask this full node over JSON-RPC instead, which may be on another machine.
        #[arg(long)]
        rpc: Option<String>,
    },
    /// A new bitcoin address to fund the wallet.
    Address,
    /// Send coins on chain, out of this wallet.
    Send {
        /// A bitcoin address.
        address: String,
        /// How much, sat; or "all", but for what open channels keep back for their fees.
        amount: String,
    },
    /// Open a channel.
    Open {
        /// NODE_ID@HOST:PORT of the peer.
        peer: String,
        /// Size, sat; all of it is this wallet's.
        sat: u64,
    },
    /// Close all channels with a peer.
    Close {
        /// Node id of the peer.
        peer: String,
        /// Without the peer: takes a day of blocks.
        #[arg(long)]
        force: bool,
    },
    /// Pay a Lightning invoice.
    Pay {
        /// The invoice, "lnbc...".
        bolt11: String,
        /// How much, if the invoice leaves it open, msat.
        #[arg(long)]
        amount_msat: Option<u64>,
        /// Most to pay in routing fees, msat; 1 % and 50 sat if absent.
        #[arg(long)]
        max_fee_msat: Option<u64>,
    },
    /// Make a Lightning invoice.
    Invoice {
        /// How much, msat.
        amount_msat: u64,
        /// What for.
        #[arg(default_value = "")]
        description: String,
        /// For how long, seconds.
        #[arg(long, default_value_t = 3600)]
        expiry_s: u32,
        /// Have the liquidity provider of oda.toml open a channel for it and keep at most this much, msat.
        #[arg(long, value_name = "MAX_FEE_MSAT")]
        just_in_time: Option<u64>,
        /// Stay until it is paid or expires.
        #[arg(long)]
        wait: bool,
    },
    /// Payments, newest first.
    History {
        /// How many.
        #[arg(short = 'n', long, default_value_t = 50)]
        limit: usize,
    },
    /// Write down what the words do not restore.
    Backup {
        /// File to write; it holds no secret in the clear, but tells with whom there are channels.
        to: PathBuf,
        /// Show the words, on a terminal only.
        #[arg(long)]
        show_mnemonic: bool,
    },
    /// Restore keys and coins from the words, asked for or read from standard input.
    Restore {
        /// What `oda wallet backup` wrote.
        from: Option<PathBuf>,
    },
}

/// What `oda wallet backup` writes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Backup {
    /// For whoever finds it.
    about: String,
    /// None of a node without a wallet.
    wallet: Option<StaticBackup>,
    /// Seeds of a validator's committee seats, sealed to the node's own key: epoch and hex.
    committee_keys: Vec<(u64, String)>,
}

enum Purse {
    Running(Running),
    Own(Arc<Wallet>),
}

impl Purse {
    async fn open(config: &Config, datadir: &Path) -> Result<Self> {
        if let Some(running) = Running::find(&wallet::dir(datadir)) {
            return Ok(Self::Running(running));
        }
        let identity = Identity::load(datadir)?;
        let (wallet, _) = wallet::open(config, datadir, &identity, "oda wallet", false).await?;
        let asked = wallet.clone();
        let _ = wallet::blocking(move || asked.sync()).await?; // what is wrong shows in the balance
        Ok(Self::Own(wallet))
    }

    async fn ask(&self, request: Request) -> Result<Value> {
        match self {
            Self::Running(running) => {
                let running = running.clone();
                wallet::blocking(move || running.ask(&request)).await?
            }
            Self::Own(wallet) => {
                let wallet = wallet.clone();
                wallet::blocking(move || wallet_socket::carry_out(&wallet, request)).await?
            }
        }
    }

    /// Waits while a wallet that was opened a moment ago has such a channel, but no longer than that. Says so if it takes.
    async fn wait_while(&self, what: &str, is_so: impl Fn(&ChannelInfo) -> bool) {
        let (begun, mut told) = (Instant::now(), false);
        while let Self::Own(wallet) = self
            && wallet.channels().iter().any(&is_so)
            && begun.elapsed() < CHANNEL_PATIENCE
        {
            if !told && begun.elapsed() > Duration::from_secs(2) {
                told = true;
                eprintln!("{what}, for up to {} s", CHANNEL_PATIENCE.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn close(self) -> Result<()> {
        if let Self::Own(wallet) = self {
            wallet::blocking(move || wallet.stop()).await??;
        }
        Ok(())
    }
}

/// A wallet's own record of every payment, and whose it is.
///
/// # Errors
/// If the wallet cannot be asked.
pub(crate) async fn books(datadir: &Path, money: MoneyFlags) -> Result<Books> {
    let config = Config::load(datadir)?.with(money)?;
    let purse = Purse::open(&config, datadir).await?;
    let history = purse.ask(Request::History { limit: usize::MAX }).await;
    purse.close().await?;
    let history = serde_json::from_value(history?).context("the wallet's answer")?;
    Ok(Books { me: Identity::load(datadir)?.key.id(), history })
}

/// Runs `oda wallet`.
///
/// # Errors
/// What went wrong, and what to do.
pub async fn run(args: WalletArgs, money: MoneyFlags, json: bool) -> Result<()> {
    if let WalletCommand::Balance { rpc: Some(url) } = &args.command {
        return query::wallet(url, json).await;
    }
    let datadir = args.datadir.context("whose wallet? give --datadir, or set ODA_DATADIR")?;
    let config = Config::load(&datadir)?.with(money)?;
    if let WalletCommand::Restore { from } = &args.command {
        return restore(&config, &datadir, from.as_deref(), read_words, json).await;
    }
    if let WalletCommand::Backup { show_mnemonic: true, .. } = &args.command {
        ensure!(
            std::io::stdout().is_terminal() && !json,
            "--show-mnemonic shows the words on a terminal only: whoever reads them has the money"
        );
    }
    if let (WalletCommand::Backup { to, show_mnemonic }, None) = (&args.command, &config.lightning) {
        return back_up(None, to, *show_mnemonic, &datadir, json); // a validator has no wallet, but committee keys
    }
    let purse = Purse::open(&config, &datadir).await?;
    let done = carry_out(&purse, args.command, &datadir, json).await;
    purse.close().await?;
    done
}

async fn carry_out(purse: &Purse, command: WalletCommand, datadir: &Path, json: bool) -> Result<()> {
    let show = |value: Value, text: String| {
        if json {
            return print_json(&value);
        }
        println!("{text}");
        Ok(())
    };
    match command {
        WalletCommand::Balance { .. } => {
            let balance = purse.ask(Request::Balance).await?;
            if json { print_json(&balance) } else { print_balance(&balance) }
        }
        WalletCommand::Address => {
            let answer = purse.ask(Request::Address).await?;
            let text = text(&answer, "address");
            show(answer, text)
        }
        WalletCommand::Send { address, amount } => {
            let sat = match amount.as_str() {
                "all" => None,
                sat => Some(sat.parse().context("how much? give a number of satoshi, or \"all\"")?),
            };
            let answer = purse.ask(Request::Send { address, sat }).await?;
            let sent = format!("sent in transaction {}", text(&answer, "txid"));
            show(answer, sent)
        }
        WalletCommand::Open { peer, sat } => {
            let (node_id, address) =
                peer.split_once('@').context("give the peer as NODE_ID@HOST:PORT, as `oda wallet balance` shows it")?;
            let (node_id, address) = (node_id.to_string(), address.to_string());
            let answer = purse.ask(Request::Open { node_id, address, sat }).await?;
            show(answer, format!("a channel of {sat} sat is being opened; it can be used after six blocks"))
        }
        WalletCommand::Close { peer, force } => {
            let with_peer = |c: &ChannelInfo| c.counterparty == peer;
            if !force {
                purse.wait_while("waiting for the peer", |c| with_peer(c) && !c.usable).await;
            }
            let answer = purse.ask(Request::Close { node_id: peer.clone(), force }).await?;
            // with no node to go on with it, the handshake has to end here
            purse.wait_while("waiting for the peer's signature", with_peer).await;
            show(answer, "closing; the coins come back on chain, see `oda wallet balance`".into())
        }
        WalletCommand::Pay { bolt11, amount_msat, max_fee_msat } => {
            purse.wait_while("waiting for the channels' peers", |c| c.ready && !c.usable).await;
            let answer = purse.ask(Request::Pay { bolt11, amount_msat, max_fee_msat }).await?;
            let hash: PaymentHash = serde_json::from_value(answer["hash"].clone())?;
            let payment = watch(purse, hash, PAY_PATIENCE).await?;
            match payment["state"].as_str() {
                Some("succeeded") => {
                    let text = format!(
                        "paid {} msat and {} msat in fees\nreceipt {}",
                        payment["amount_msat"],
                        payment["fee_paid_msat"],
                        text(&payment, "preimage")
                    );
                    show(payment, text)
                }
                Some("failed") => bail!("payment {hash} failed: the money is back"),
                _ => bail!("payment {hash} is still on its way: see `oda wallet history`; it cannot be paid twice"),
            }
        }
        WalletCommand::Invoice { amount_msat, description, expiry_s, just_in_time, wait } => {
            let request =
                Request::Invoice { amount_msat, description, expiry_s, just_in_time_max_fee_msat: just_in_time };
            let answer = purse.ask(request).await?;
            let bolt11 = text(&answer, "bolt11");
            show(answer, bolt11.clone())?;
            std::io::stdout().flush()?;
            if !wait {
                if matches!(purse, Purse::Own(_)) {
                    eprintln!("no node runs here, so nobody can pay this now: start one, or stay with --wait");
                }
                return Ok(());
            }
            let Some(newest) = purse.ask(Request::History { limit: 1 }).await?.get(0).cloned() else {
                bail!("the invoice is not in the wallet's history")
            };
            let hash: PaymentHash = text(&newest, "id").parse().map_err(|_| anyhow::anyhow!("no such payment"))?;
            let payment = watch(purse, hash, Duration::from_secs(expiry_s.into())).await?;
            match payment["state"].as_str() {
                Some("succeeded") => show(payment, "paid".into()),
                _ => bail!("not paid in time"),
            }
        }
        WalletCommand::History { limit } => {
            let history = purse.ask(Request::History { limit }).await?;
            if json { print_json(&history) } else { print_history(&history) }
        }
        WalletCommand::Backup { to, show_mnemonic } => {
            let wallet = serde_json::from_value(purse.ask(Request::Backup).await?)?;
            back_up(Some(wallet), &to, show_mnemonic, datadir, json)
        }
        WalletCommand::Restore { .. } => bail!("restore opens the wallet itself"), // handled before
    }
}

/// Writes down what the words do not restore.
fn back_up(wallet: Option<StaticBackup>, to: &Path, show_words: bool, datadir: &Path, json: bool) -> Result<()> {
    let backup = Backup { about: WHAT_A_BACKUP_IS.into(), wallet, committee_keys: seeds::export(datadir)? };
    write_secret(to, serde_json::to_string_pretty(&backup)?.as_bytes())?;
    let channels = backup.wallet.as_ref().map_or(0, |w| w.channels.len());
    let keys = backup.committee_keys.len();
    if json {
        return print_json(&json!({ "written": to, "channels": channels, "committee_keys": keys }));
    }
    println!("{}: {channels} channels, {keys} committee keys\n\n{WHAT_A_BACKUP_IS}", to.display());
    if show_words {
        let words = Identity::words(datadir)?;
        println!("\nThe words, from which everything derives; keep them on paper:\n\n  {}", *words);
    }
    Ok(())
}

/// Waits for the end of a payment.
async fn watch(purse: &Purse, hash: PaymentHash, patience: Duration) -> Result<Value> {
    let deadline = Instant::now() + patience;
    loop {
        let payment = purse.ask(Request::Payment { hash }).await?;
        if !matches!(payment["state"].as_str(), Some("pending" | "held")) || Instant::now() >= deadline {
            return Ok(payment);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Restores a data directory. `words` is asked last, when all else is known to be in order.
pub(crate) async fn restore(
    config: &Config,
    datadir: &Path,
    from: Option<&Path>,
    words: impl FnOnce() -> Result<Zeroizing<String>>,
    json: bool,
) -> Result<()> {
    let backup = from.map(read_backup).transpose()?;
    let lost = backup.as_ref().and_then(|b| b.wallet.as_ref());
    if let Some(wallet) = lost {
        ensure!(
            wallet.network == config.network,
            "the backup is of network {:?}, oda.toml says {:?}: use the data directory of the right network",
            wallet.network,
            config.network
        );
        ensure!(
            config.lightning.is_some(),
            "the backup has a wallet: restore it with a [lightning] section in oda.toml"
        );
    }
    let words = words()?;
    let identity = Identity::restore(datadir, &words)?;
    drop(words);
    if let Some(backup) = &backup {
        seeds::import(datadir, &backup.committee_keys, &identity.encryption)?;
    }
    if config.lightning.is_none() {
        let (node, keys) = (identity.key.id(), backup.map_or(0, |b| b.committee_keys.len()));
        if json {
            return print_json(&json!({ "node": node, "committee_keys": keys }));
        }
        println!("node {node} restored with {keys} committee keys; it has no wallet");
        return Ok(());
    }
    eprintln!(
        "looking for coins on the chain: seconds with Esplora or Electrum, hours to days with a bitcoind on mainnet"
    );
    let opened = match wallet::open(config, datadir, &identity, "oda wallet", true).await {
        Err(error) if matches!(error.downcast_ref(), Some(LightningError::NotEmpty(_))) => {
            eprintln!(
                "there is a wallet of these words already, perhaps of a restore that was cut off: going on with it"
            );
            wallet::open(config, datadir, &identity, "oda wallet", false).await
        }
        opened => opened,
    };
    let (wallet, _) = opened?;
    let purse = Purse::Own(wallet.clone());
    let synced = wallet.clone();
    wallet::blocking(move || synced.sync()).await?.context("the coins are looked for again at the next start")?;
    let answered = match lost {
        None => 0,
        Some(lost) => {
            let answer = purse.ask(Request::Reconnect { backup: lost.clone() }).await?;
            // a peer notices a lost channel when it hears from us; give each the time to say so
            tokio::time::sleep(Duration::from_secs(if lost.peers.is_empty() { 0 } else { 5 })).await;
            answer["answered"].as_u64().unwrap_or(0)
        }
    };
    let onchain_sat = wallet.onchain_total_sat();
    let (channels, peers) = lost.map_or((0, 0), |b| (b.channels.len(), b.peers.len()));
    purse.close().await?;
    if json {
        return print_json(&json!({
            "node": identity.key.id(), "onchain_sat": onchain_sat, "lost_channels": channels, "peers": peers,
            "peers_answered": answered,
        }));
    }
    println!("node {} restored: {onchain_sat} sat on chain", identity.key.id());
    if channels > 0 {
        println!(
            "{channels} channels are lost as such; {answered} of {peers} peers answered and were told to close theirs.\n\
             Start the node, which keeps asking the others. {WHAT_A_BACKUP_IS}"
        );
    }
    Ok(())
}

fn read_backup(path: &Path) -> Result<Backup> {
    let mut text = String::new();
    let file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
    file.take(StaticBackup::MAX_BYTES).read_to_string(&mut text).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| format!("{} is not what `oda wallet backup` writes", path.display()))
}

/// Never an argument: those are in the shell's history and in everyone's `ps`.
fn read_words() -> Result<Zeroizing<String>> {
    let input = std::io::stdin();
    if input.is_terminal() {
        eprint!("the words, in order, on one line: ");
    }
    let mut words = Zeroizing::new(String::new());
    input.lock().take(MAX_WORDS_BYTES).read_line(&mut words)?;
    ensure!(!words.trim().is_empty(), "no words came: type them, or hand them over on standard input");
    Ok(words)
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or("-").to_string()
}

fn print_balance(b: &Value) -> Result<()> {
    println!(
        "network    {}\nnode       {}\non chain   {} sat to spend, {} sat in all\nlightning  {} msat, {} msat to send now",
        text(b, "network"),
        text(b, "node_id"),
        b["onchain_sat"],
        b["onchain_total_sat"],
        b["lightning_msat"],
        b["sendable_msat"]
    );
    if let Some(sat) = b["closing_sat"].as_u64().filter(|sat| *sat > 0) {
        println!("closing    {sat} sat of closed channels wait for blocks: do not delete this wallet");
    }
    match b["chain"]["trouble"].as_str() {
        None => println!("chain      block {}", b["chain"]["height"]),
        Some(why) if b["chain"]["running"] == json!(true) => println!("chain      trouble: {why}"),
        Some(why) => println!("chain      offline: {why}"),
    }
    let rows: Vec<_> = b["channels"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|c| {
            let state = match (c["usable"] == json!(true), c["ready"] == json!(true)) {
                (true, _) => "usable",
                (_, true) => "peer is offline",
                _ => "waits for blocks",
            };
            let number = |key: &str| c[key].to_string();
            vec![
                text(c, "counterparty"),
                number("capacity_sat"),
                number("outbound_msat"),
                number("inbound_msat"),
                state.into(),
            ]
        })
        .collect();
    if !rows.is_empty() {
        println!();
        table(&["CHANNEL WITH", "SAT", "CAN SEND MSAT", "CAN RECEIVE MSAT", "STATE"], &rows);
    }
    Ok(())
}

fn print_history(history: &Value) -> Result<()> {
    let number = |v: &Value| v.as_u64().map_or_else(|| "-".into(), |n| n.to_string());
    let rows: Vec<_> = history
        .as_array()
        .into_iter()
        .flatten()
        .map(|p| {
            vec![
                number(&p["updated_s"]),
                if p["direction"] == json!("inbound") { "in" } else { "out" }.into(),
                number(&p["amount_msat"]),
                number(&p["fee_msat"]),
                text(p, "state"),
                if p["onchain"] == json!(true) { "chain" } else { "lightning" }.into(),
                text(p, "id"),
            ]
        })
        .collect();
    table(&["UNIX TIME", "", "MSAT", "FEE", "STATE", "OVER", "ID"], &rows);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        wallet: WalletArgs,
    }

    fn parse(line: &str) -> Result<WalletCommand, String> {
        let words = ["wallet"].into_iter().chain(line.split_whitespace());
        Line::try_parse_from(words).map(|l| l.wallet.command).map_err(|e| e.to_string())
    }

    #[test]
    fn every_subcommand_is_read() {
        assert_eq!(parse("balance --datadir d").unwrap(), WalletCommand::Balance { rpc: None });
        assert_eq!(parse("address").unwrap(), WalletCommand::Address);
        assert_eq!(parse("open 02ab@h:1 5").unwrap(), WalletCommand::Open { peer: "02ab@h:1".into(), sat: 5 });
        assert_eq!(parse("close 02ab --force").unwrap(), WalletCommand::Close { peer: "02ab".into(), force: true });
        let pay = WalletCommand::Pay { bolt11: "lnbc1".into(), amount_msat: Some(7), max_fee_msat: None };
        assert_eq!(parse("pay lnbc1 --amount-msat 7").unwrap(), pay);
        let invoice = WalletCommand::Invoice {
            amount_msat: 7,
            description: String::new(),
            expiry_s: 3600,
            just_in_time: Some(9),
            wait: false,
        };
        assert_eq!(parse("invoice 7 --just-in-time 9").unwrap(), invoice);
        assert_eq!(parse("history -n 3").unwrap(), WalletCommand::History { limit: 3 });
        assert_eq!(parse("backup f").unwrap(), WalletCommand::Backup { to: "f".into(), show_mnemonic: false });
        assert_eq!(parse("restore").unwrap(), WalletCommand::Restore { from: None });
        for bad in
            ["", "steal", "open 02ab@h:1", "open 02ab@h:1 -5", "pay", "invoice", "invoice x", "restore a b", "backup"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test] // K1: the words are never an argument
    fn words_are_no_argument() {
        assert!(parse("restore --mnemonic abandon").is_err());
        assert!(parse("backup f --mnemonic").is_err());
    }

    #[test]
    fn a_backup_is_read_back_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("backup.json");
        let wallet = StaticBackup {
            version: StaticBackup::VERSION,
            node_id: "02".into(),
            network: oda_consensus::genesis::BitcoinNetwork::Signet,
            made_at_s: 1,
            peers: Vec::new(),
            channels: Vec::new(),
        };
        let wallet = Some(wallet);
        let backup = Backup { about: WHAT_A_BACKUP_IS.into(), wallet, committee_keys: vec![(3, "00".into())] };
        write_secret(&file, serde_json::to_string(&backup).unwrap().as_bytes()).unwrap();
        assert_eq!(read_backup(&file).unwrap().wallet, backup.wallet);
        for bad in ["", "{}", "abandon abandon"] {
            std::fs::write(&file, bad).unwrap();
            assert!(read_backup(&file).unwrap_err().to_string().contains("oda wallet backup"), "{bad}");
        }
    }
}
