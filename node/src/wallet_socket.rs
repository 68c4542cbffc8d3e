//! How `oda wallet` asks a running node: a socket in the wallet's own directory, which only its owner can enter.
//!
//! The node's JSON-RPC answers anyone who reaches it and lite nodes have none, so money does not move over it. Here the
//! file system is the password: the socket lies in a directory with mode 0700. One line of JSON asks, one answers.

use anyhow::{Context, Result, bail};
use oda_consensus::ids::PaymentHash;
use oda_lightning::{StaticBackup, Wallet};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};

/// Longest question, bytes.
const MAX_QUESTION_BYTES: u64 = 64 << 10;
/// Longest answer, bytes.
const MAX_ANSWER_BYTES: u64 = 16 << 20;
/// Most questions answered at a time.
const MAX_CALLERS: usize = 16;
/// Longest path of a Unix socket that every system takes, bytes (`sun_path` in unix(7), less a margin).
const MAX_PATH_BYTES: usize = 100;
/// Longest wait for a question once somebody called.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for an answer: opening a channel asks peers and the chain.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(180);

/// What a wallet can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Coins, channels, and whether it can see the chain.
    Balance,
    /// A new address to fund it.
    Address,
    /// Send coins on chain.
    Send {
        /// To this address.
        address: String,
        /// How much, sat; everything if absent.
        sat: Option<u64>,
    },
    /// Open a channel.
    Open {
        /// Peer.
        node_id: String,
        /// Its host:port.
        address: String,
        /// Size, sat.
        sat: u64,
    },
    /// Close all channels with a peer.
    Close {
        /// Peer.
        node_id: String,
        /// Alone, without the peer.
        force: bool,
    },
    /// Start paying an invoice.
    Pay {
        /// The invoice.
        bolt11: String,
        /// Amount, if the invoice leaves it open.
        amount_msat: Option<u64>,
        /// Most to pay in routing fees, msat.
        max_fee_msat: Option<u64>,
    },
    /// What became of a payment.
    Payment {
        /// Payment hash.
        hash: PaymentHash,
    },
    /// Make an invoice.
    Invoice {
        /// Amount, msat.
        amount_msat: u64,
        /// What for.
        description: String,
        /// For how long, seconds.
        expiry_s: u32,
        /// Over a channel that the liquidity provider opens for it, for at most so much, msat.
        just_in_time_max_fee_msat: Option<u64>,
    },
    /// The newest payments.
    History {
        /// Most of them.
        limit: usize,
    },
    /// With whom it has channels.
    Backup,
    /// Connect to the peers of a backup.
    Reconnect {
        /// The backup.
        backup: StaticBackup,
    },
}

/// Asks a wallet. Blocks.
///
/// # Errors
/// The wallet's own, in its words.
pub fn carry_out(wallet: &Wallet, request: Request) -> Result<Value> {
    Ok(match request {
        Request::Balance => {
            let channels: Vec<Value> = wallet
                .channels()
                .into_iter()
                .map(|c| {
                    json!({
                        "counterparty": c.counterparty, "capacity_sat": c.capacity_sat, "usable": c.usable,
                        "ready": c.ready, "outbound_msat": c.outbound_msat, "inbound_msat": c.inbound_msat,
                        "opened_by_us": c.opened_by_us, "funding": c.funding,
                    })
                })
                .collect();
            json!({
                "network": wallet.network(), "node_id": wallet.node_id(),
                "onchain_sat": wallet.onchain_balance_sat(), "onchain_total_sat": wallet.onchain_total_sat(),
                "closing_sat": wallet.closing_sat(),
                "lightning_msat": wallet.lightning_balance_msat(), "sendable_msat": wallet.sendable_msat(),
                "held_payments": wallet.held_payments().len(), "chain": wallet.chain_status(), "channels": channels,
            })
        }
        Request::Address => json!({ "address": wallet.new_address()? }),
        Request::Send { address, sat } => json!({ "txid": wallet.send_onchain(&address, sat)? }),
        Request::Open { node_id, address, sat } => {
            wallet.open_channel(&node_id, &address, sat)?;
            json!({ "opening": sat, "with": node_id })
        }
        Request::Close { node_id, force } => {
            let open = wallet.channels().iter().filter(|c| c.counterparty == node_id).count();
            wallet.close_channels(&node_id, force)?;
            if open == 0 {
                bail!("no channel with {node_id}: see `oda wallet balance` for those there are");
            }
            json!({ "closing": open, "with": node_id, "force": force })
        }
        Request::Pay { bolt11, amount_msat, max_fee_msat } => {
            json!({ "hash": wallet.pay_invoice(&bolt11, amount_msat, max_fee_msat)? })
        }
        Request::Payment { hash } => match wallet.payment_status(hash) {
            None => Value::Null,
            Some(s) => json!({
                "hash": hash, "state": s.state, "amount_msat": s.amount_msat, "fee_paid_msat": s.fee_paid_msat,
                "preimage": s.preimage,
            }),
        },
        Request::Invoice { amount_msat, description, expiry_s, just_in_time_max_fee_msat } => {
            let bolt11 = match just_in_time_max_fee_msat {
                None => wallet.receive(amount_msat, &description, expiry_s)?.0,
                Some(fee) => wallet.receive_just_in_time(amount_msat, &description, expiry_s, fee)?,
            };
            json!({ "bolt11": bolt11 })
        }
        Request::History { limit } => serde_json::to_value(wallet.history(limit))?,
        Request::Backup => serde_json::to_value(wallet.static_backup())?,
        Request::Reconnect { backup } => json!({ "answered": wallet.reconnect(&backup)? }),
    })
}

fn path(wallet_dir: &Path) -> PathBuf {
    wallet_dir.join("control").join("socket")
}

/// Answers questions until the wallet is gone. Only the holder of the wallet's lock may call this.
///
/// # Errors
/// If the socket cannot be made.
pub fn serve(wallet: &Arc<Wallet>, wallet_dir: &Path) -> Result<()> {
    let path = path(wallet_dir);
    anyhow::ensure!(
        path.as_os_str().len() <= MAX_PATH_BYTES,
        "{} is longer than {MAX_PATH_BYTES} bytes: use a data directory with a shorter path, or stop the node first",
        path.display()
    );
    let dir = wallet_dir.join("control");
    let io = || dir.display().to_string();
    if dir.exists() {
        std::fs::remove_dir_all(&dir).with_context(io)?; // of a run before this one
    }
    std::fs::DirBuilder::new().mode(0o700).create(&dir).with_context(io)?;
    let listener = tokio::net::UnixListener::bind(&path).with_context(|| path.display().to_string())?;
    let wallet = Arc::downgrade(wallet);
    let callers = Arc::new(tokio::sync::Semaphore::new(MAX_CALLERS));
    tokio::spawn(async move {
        while let Ok(caller) = callers.clone().acquire_owned().await {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let wallet = wallet.clone();
            tokio::spawn(async move {
                if let Err(error) = answer(stream, &wallet).await {
                    tracing::debug!("a question to the wallet was not answered: {error:#}");
                }
                drop(caller);
            });
        }
    });
    Ok(())
}

async fn answer(stream: tokio::net::UnixStream, wallet: &Weak<Wallet>) -> Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = Vec::new();
    let mut reader = tokio::io::BufReader::new(reader.take(MAX_QUESTION_BYTES));
    tokio::time::timeout(ASK_TIMEOUT, reader.read_until(b'\n', &mut line)).await.context("no question came")??;
    let done = match (serde_json::from_slice::<Request>(&line), wallet.upgrade()) {
        (Err(error), _) => Err(anyhow::anyhow!("not a question this node knows ({error}): same version of `oda`?")),
        (_, None) => Err(anyhow::anyhow!("the node is stopping")),
        (Ok(request), Some(wallet)) => {
            crate::wallet::blocking(move || carry_out(&wallet, request)).await.and_then(|r| r)
        }
    };
    let text = match done {
        Ok(value) => json!({ "ok": value }),
        Err(error) => json!({ "error": format!("{error:#}") }),
    };
    tokio::time::timeout(ASK_TIMEOUT, writer.write_all(format!("{text}\n").as_bytes())).await??;
    Ok(())
}

/// A running node that has the wallet.
#[derive(Clone)]
pub struct Running {
    path: PathBuf,
}

impl Running {
    /// The node that has the wallet of a directory, if one runs.
    pub fn find(wallet_dir: &Path) -> Option<Self> {
        let path = path(wallet_dir);
        UnixStream::connect(&path).is_ok().then_some(Self { path })
    }

    /// Asks it. Blocks.
    ///
    /// # Errors
    /// The wallet's own, in its words, or if the node stops meanwhile.
    pub fn ask(&self, request: &Request) -> Result<Value> {
        let gone = || format!("the node behind {} stopped answering", self.path.display());
        let mut stream = UnixStream::connect(&self.path).with_context(gone)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.set_write_timeout(Some(ASK_TIMEOUT))?;
        let mut question = serde_json::to_vec(request)?;
        question.push(b'\n');
        anyhow::ensure!(question.len() as u64 <= MAX_QUESTION_BYTES, "the question is too long");
        stream.write_all(&question).with_context(gone)?;
        let mut line = String::new();
        BufReader::new(stream.take(MAX_ANSWER_BYTES)).read_line(&mut line).with_context(gone)?;
        let mut answer: Value = serde_json::from_str(&line).with_context(gone)?;
        if let Some(error) = answer.get("error").and_then(Value::as_str) {
            bail!("{error}");
        }
        answer.get_mut("ok").map(Value::take).with_context(gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_read_whole() {
        let pay = Request::Pay { bolt11: "lnbcrt1".into(), amount_msat: None, max_fee_msat: Some(5) };
        let text = serde_json::to_string(&pay).unwrap();
        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), pay);
        for bad in ["{}", "{\"call\":\"steal\"}", "{\"call\":\"pay\"}", "[]", "{\"call\":\"close\",\"node_id\":\"x\"}"]
        {
            assert!(serde_json::from_str::<Request>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_directory_without_a_node_has_nobody_to_ask() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Running::find(dir.path()).is_none());
        std::fs::create_dir(dir.path().join("control")).unwrap();
        drop(std::os::unix::net::UnixListener::bind(path(dir.path())).unwrap());
        assert!(Running::find(dir.path()).is_none(), "what a crash leaves behind");
    }
}
