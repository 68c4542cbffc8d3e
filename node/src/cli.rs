//! The command line `oda`: run nodes, and ask them.

use crate::config::{Config, MoneyFlags};
use crate::full::{FullNode, StoreReader};
use crate::identity::Identity;
use crate::ledger::LedgerReader;
use crate::lite::flags::LiteFlags;
use crate::report::{Reporter, Style};
use crate::{config_show, ledger_file, lite, query, rpc, verify, verify_chain};
use anyhow::{Context, Result};
use clap::builder::BoolishValueParser;
use clap::{Args, CommandFactory, Parser, Subcommand};
use oda_consensus::genesis::BitcoinNetwork;
use oda_consensus::ids::{ClaimId, ModelId};
use oda_consensus::tx::{SignedTx, Tx, Unseal};
use oda_storage::{LedgerStore, RocksLedger};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;

/// Pays people in bitcoin, the moment it is proved, for making machine-learning models better.
#[derive(Parser)]
#[command(name = "oda", version, arg_required_else_help = true)]
pub struct Cli {
    /// One JSON value on standard output instead of tables.
    #[arg(long, global = true, env = "ODA_JSON", value_parser = BoolishValueParser::new())]
    pub json: bool,
    /// What to log to standard error: error, warn, info, debug, trace, or tracing directives.
    #[arg(
        long,
        global = true,
        env = "ODA_LOG",
        default_value = "warn,oda_node=info,oda_storage=info,oda_lightning=info,iroh=error,noq=error,noq_udp=error,libp2p_gossipsub=error"
    )]
    pub log: String,
    /// Confirm that the wallet may hold real bitcoin; needed on network "bitcoin", unless oda.toml says so.
    #[arg(long, global = true, env = "ODA_I_KNOW_THIS_IS_REAL_MONEY", value_parser = BoolishValueParser::new())]
    pub i_know_this_is_real_money: bool,
    /// The Bitcoin network that is meant: regtest, signet or bitcoin. A data directory of another one is refused.
    #[arg(long, global = true, env = "ODA_NETWORK", value_parser = network)]
    pub network: Option<BitcoinNetwork>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a full node: stores the ledger, serves it, and validates with --validator.
    Node(NodeArgs),
    /// Run a full node that funds a model and pays for work on it.
    Sponsor(DataDir),
    /// Run a lite node: trains, is paid, stores no ledger. Makes wallet and configuration at its first start.
    Lite(LiteArgs),
    /// Make a wallet in an empty data directory; shows its words once.
    Init(DataDir),
    /// Models: prepare one, list those on the ledger.
    #[command(subcommand)]
    Model(ModelCommand),
    /// Claims on the ledger.
    #[command(subcommand)]
    Claim(ClaimCommand),
    /// The ledger of a full node.
    #[command(subcommand)]
    Ledger(LedgerCommand),
    /// Replay a claim on this machine and compare every integer with the ledger.
    Verify(verify::VerifyArgs),
    /// Prove one record of the ledger, and check such a proof offline from the genesis file alone.
    #[command(subcommand)]
    Proof(crate::proof::ProofCommand),
    /// Follow the committees' keys from the genesis to now, from a peer or offline from a file.
    VerifyChain(verify_chain::VerifyChainArgs),
    /// Validators with their service record, committees, and the running key generation.
    Federation(RpcArgs),
    /// End a validator's service; its seat is filled once the next committee has its key.
    Leave {
        /// Data directory of the validator.
        #[arg(long, env = "ODA_DATADIR")]
        datadir: PathBuf,
        #[command(flatten)]
        rpc: RpcArgs,
    },
    /// The bitcoin and Lightning wallet of a data directory, whether its node runs or not.
    Wallet(crate::wallet_cli::WalletArgs),
    /// Status of a running full node.
    Status(RpcArgs),
    /// Peers of a running full node.
    Peers(RpcArgs),
    /// A full node's view of the network on this terminal, kept up to date: rounds, claims, loss, earnings, peers.
    Top(RpcArgs),
    /// Stop a running full node of this machine, as SIGTERM does.
    Stop {
        /// Data directory of the node: its cookie shows that it is yours.
        #[arg(long, env = "ODA_DATADIR")]
        datadir: PathBuf,
        #[command(flatten)]
        rpc: RpcArgs,
    },
    /// Tokens for the RPC of a full node that open a part of what its cookie opens, for a while.
    #[command(subcommand)]
    Token(crate::token_cli::TokenCommand),
    /// Print the reference of the RPC interface; with --json as OpenRPC document.
    RpcDoc,
    /// Show the effective configuration.
    Config(ConfigArgs),
    /// Write manual pages into a folder: one for `oda`, one for each command.
    Man {
        /// Folder, made if it is not there; `man -M` wants its pages in `man1/`.
        dir: PathBuf,
    },
    /// Print a completion script for a shell.
    Completions {
        /// bash, zsh, fish, elvish or powershell.
        shell: clap_complete::Shell,
    },
}

#[derive(Args)]
struct DataDir {
    /// Data directory of the node.
    #[arg(long, env = "ODA_DATADIR")]
    datadir: PathBuf,
}

#[derive(Args)]
struct LiteArgs {
    #[command(flatten)]
    flags: LiteFlags,
    /// Take no new work, and end once every claim is paid or void.
    #[arg(long)]
    finish: bool,
    #[command(subcommand)]
    command: Option<LiteCommand>,
}

#[derive(Subcommand)]
enum LiteCommand {
    /// What it does and what it earned, whether it runs or not.
    Status,
}

#[derive(Args)]
struct ConfigArgs {
    #[command(flatten)]
    flags: LiteFlags,
    #[command(subcommand)]
    command: Option<ConfigCommand>,
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Every setting with where it comes from: default, file, environment or flag. Secrets are hidden.
    Show,
}

#[derive(Args)]
struct NodeArgs {
    /// Data directory of the node.
    #[arg(long, env = "ODA_DATADIR")]
    datadir: PathBuf,
    /// Validate: sit in committees when drawn. A node the ledger does not know asks to be admitted.
    #[arg(long, env = "ODA_VALIDATOR", value_parser = BoolishValueParser::new())]
    validator: bool,
}

/// Where a full node answers unless told otherwise.
pub const DEFAULT_RPC: &str = "http://127.0.0.1:8645";

/// Which full node to ask.
#[derive(Args, Clone)]
pub struct RpcArgs {
    /// JSON-RPC address of a full node.
    #[arg(long, env = "ODA_RPC", default_value = DEFAULT_RPC)]
    pub rpc: String,
}

#[derive(Subcommand)]
enum ModelCommand {
    /// Reads a model description and its data, tries it, and keeps it for a sponsor.
    Add(crate::model_add::AddArgs),
    /// The newest weights of a model as a safetensors file, from any full node, proved by the genesis file alone.
    Get(crate::model_get::GetArgs),
    /// Give everyone the key of the sealed guards of the own model, once and for all: from then on anyone can replay
    /// every figure, and train on them.
    Reveal {
        /// Data directory of the sponsor; its [sponsor] section names the model.
        #[arg(long, env = "ODA_DATADIR")]
        datadir: PathBuf,
        #[command(flatten)]
        rpc: RpcArgs,
    },
    /// All models.
    List(RpcArgs),
    /// One model with its rounds.
    Show {
        /// Model id.
        id: ModelId,
        #[command(flatten)]
        rpc: RpcArgs,
    },
}

#[derive(Subcommand)]
enum ClaimCommand {
    /// One claim from commit to payment.
    Show {
        /// Claim id.
        id: ClaimId,
        #[command(flatten)]
        rpc: RpcArgs,
    },
}

#[derive(Subcommand)]
enum LedgerCommand {
    /// The last blocks that hold transactions.
    Tail {
        /// How many.
        #[arg(short = 'n', long, default_value_t = 20)]
        blocks: u32,
        /// Empty blocks too.
        #[arg(long)]
        empty: bool,
        #[command(flatten)]
        rpc: RpcArgs,
    },
    /// One block.
    Get {
        /// Height.
        height: u64,
        #[command(flatten)]
        rpc: RpcArgs,
    },
    /// Who improved which model by how much.
    Credit {
        /// Only this model.
        model: Option<ModelId>,
        #[command(flatten)]
        rpc: RpcArgs,
    },
    /// Replay the whole ledger from genesis: every signature, vote, rule and root.
    Verify {
        /// Of a node that is not running, in this data directory, instead of over RPC.
        #[arg(long)]
        datadir: Option<PathBuf>,
        /// An exported ledger instead; needs --genesis and nothing else.
        #[arg(long, requires = "genesis", conflicts_with = "datadir")]
        file: Option<PathBuf>,
        /// Genesis file of the network.
        #[arg(long, env = "ODA_GENESIS")]
        genesis: Option<PathBuf>,
        #[command(flatten)]
        rpc: RpcArgs,
    },
    /// Write all blocks to one file, which anyone can verify offline; the node may be running.
    Export {
        /// Data directory of the full node.
        #[arg(long, env = "ODA_DATADIR")]
        datadir: PathBuf,
        /// File to make.
        out: PathBuf,
    },
    /// Add the blocks of an exported file to a node that is not running, each verified as if it came from a peer.
    Import {
        /// Data directory of the full node.
        #[arg(long, env = "ODA_DATADIR")]
        datadir: PathBuf,
        /// Exported file.
        file: PathBuf,
    },
    /// Drop a damaged chain, so that the node fetches it again from its peers; keeps the node's private records.
    Repair(DataDir),
    /// Compare accounts, receipts and earned pay on the ledger with each other, and with a wallet's own records.
    Audit {
        /// Data directory whose wallet is asked, of a sponsor or a trainer.
        #[arg(long, env = "ODA_DATADIR")]
        datadir: Option<PathBuf>,
        #[command(flatten)]
        rpc: RpcArgs,
    },
}

/// Runs the command line. The exit code: 0 done, 1 failed or differs, 2 bad usage.
///
/// # Errors
/// What went wrong, for one line on standard error.
pub async fn run(cli: Cli) -> Result<()> {
    let json = cli.json;
    let money = MoneyFlags { network: cli.network, is_real: cli.i_know_this_is_real_money };
    match cli.command {
        Command::Node(args) => {
            let config = Config::load(&args.datadir)?.with(money)?;
            full_node(config, args.datadir, args.validator).await
        }
        Command::Sponsor(args) => {
            let config = Config::load(&args.datadir)?.with(money)?;
            anyhow::ensure!(
                config.sponsor.is_some(),
                "oda.toml has no [sponsor] section: name the model and the money there"
            );
            full_node(config, args.datadir, false).await
        }
        Command::Lite(LiteArgs { flags, finish, command }) => {
            let datadir = flags.datadir.clone().map_or_else(lite::join::default_datadir, Ok)?;
            if let Some(LiteCommand::Status) = command {
                return lite::status::show(&datadir, json);
            }
            if let Some(made) = lite::join::prepare(&datadir, flags.join.as_deref())? {
                let on_terminal = !json && std::io::IsTerminal::is_terminal(&std::io::stdout());
                let said = lite::join::welcome(&made, &datadir, on_terminal);
                if on_terminal { println!("{said}") } else { eprintln!("{said}") }
            }
            let mut config = Config::load(&datadir)?.with(money)?;
            flags.apply(&mut config.lite);
            config.check()?;
            let reporter = Arc::new(Reporter::new(if json { Style::Json } else { Style::People }));
            lite::run(config, &datadir, reporter, finish, stop_signal()?).await
        }
        Command::Init(args) => {
            std::fs::create_dir_all(&args.datadir).with_context(|| args.datadir.display().to_string())?;
            let words = Identity::create(&args.datadir)?;
            let id = Identity::load(&args.datadir)?.key.id();
            println!(
                "node {id}\npeer {}\n\nWrite these words down; they restore identity and wallet and are not shown again:\n\n  {}",
                crate::net::peer_id(id).map(|peer| peer.to_string()).unwrap_or_default(),
                *words
            );
            Ok(())
        }
        Command::Model(ModelCommand::Add(args)) => crate::model_add::run(&args, json),
        Command::Model(ModelCommand::Get(args)) => crate::model_get::run(args, json, stop_signal()?).await,
        Command::Model(ModelCommand::Reveal { datadir, rpc }) => {
            let config = Config::load(&datadir)?;
            let chain = config.genesis(&datadir)?.chain();
            let sponsor = config.sponsor.as_ref().context("oda.toml has no [sponsor] section: whose model is it?")?;
            let identity = Identity::load(&datadir)?;
            let bundle = crate::sponsor::load(sponsor, &datadir, &identity).await?;
            let key = bundle.guard_key.context("the model has no sealed guards: there is nothing to reveal")?;
            let unseal = Unseal::Public { model: bundle.manifest.id(), key: key.public() };
            query::submit(&rpc.rpc, &SignedTx::new(Tx::Unseal(unseal), &identity.key, chain), json).await
        }
        Command::Model(ModelCommand::List(r)) => query::models(&r.rpc, json).await,
        Command::Model(ModelCommand::Show { id, rpc }) => query::model(&rpc.rpc, id, json).await,
        Command::Claim(ClaimCommand::Show { id, rpc }) => query::claim(&rpc.rpc, id, json).await,
        Command::Ledger(LedgerCommand::Tail { blocks, empty, rpc }) => query::tail(&rpc.rpc, blocks, empty, json).await,
        Command::Ledger(LedgerCommand::Get { height, rpc }) => query::block(&rpc.rpc, height, json).await,
        Command::Ledger(LedgerCommand::Credit { model, rpc }) => query::credit(&rpc.rpc, model, json).await,
        Command::Ledger(LedgerCommand::Audit { datadir, rpc }) => {
            let books = match datadir {
                Some(dir) => Some(crate::wallet_cli::books(&dir, money).await?),
                None => None,
            };
            query::audit(&rpc.rpc, books.as_ref(), json).await
        }
        Command::Ledger(LedgerCommand::Export { datadir, out }) => {
            let chain = Config::load(&datadir)?.genesis(&datadir)?.chain();
            let store = RocksLedger::open_read_only(&datadir.join("ledger"), chain)?;
            let blocks = ledger_file::export(&store, chain, &out)?;
            println!("{blocks} blocks in {}", out.display());
            Ok(())
        }
        Command::Ledger(LedgerCommand::Import { datadir, file }) => {
            let genesis = Config::load(&datadir)?.genesis(&datadir)?;
            let import = move || ledger_file::import(&datadir.join("ledger"), genesis, &file);
            println!("{} blocks added, each verified", tokio::task::spawn_blocking(import).await??);
            Ok(())
        }
        Command::Ledger(LedgerCommand::Verify { file: Some(file), genesis, .. }) => {
            let genesis = crate::config::read_genesis(&genesis.context("--file needs --genesis")?)?;
            let verify = move || ledger_file::verify(&file, genesis);
            query::print_verify(&tokio::task::spawn_blocking(verify).await??, json)
        }
        Command::Ledger(LedgerCommand::Verify { datadir: None, rpc, .. }) => query::verify_ledger(&rpc.rpc, json).await,
        Command::Ledger(LedgerCommand::Verify { datadir: Some(dir), .. }) => {
            let genesis = Config::load(&dir)?.genesis(&dir)?;
            let store = RocksLedger::open_read_only(&dir.join("ledger"), genesis.chain())?;
            let tip = store.tip().map(|(height, _)| height);
            let read = move || crate::ledger::verify(genesis, tip, &StoreReader::new(store));
            let report = tokio::task::spawn_blocking(read).await?.map_err(anyhow::Error::msg)?;
            query::print_verify(&report, json)
        }
        Command::Ledger(LedgerCommand::Repair(args)) => {
            let chain = Config::load(&args.datadir)?.genesis(&args.datadir)?.chain();
            RocksLedger::clear_chain(&args.datadir.join("ledger"), chain)?;
            println!(
                "the chain is dropped; start the node, and it fetches all blocks from its peers; a validator votes again once it \
                 has caught up"
            );
            Ok(())
        }
        Command::Verify(args) => verify::run(args, json, stop_signal()?).await,
        Command::Proof(command) => crate::proof::run(command, json).await,
        Command::VerifyChain(args) => verify_chain::run(args, json, stop_signal()?).await,
        Command::Federation(r) => query::federation(&r.rpc, json).await,
        Command::Leave { datadir, rpc } => {
            let chain = Config::load(&datadir)?.genesis(&datadir)?.chain();
            let tx = SignedTx::new(Tx::Leave, &Identity::load(&datadir)?.key, chain);
            query::submit(&rpc.rpc, &tx, json).await
        }
        Command::Wallet(args) => crate::wallet_cli::run(args, money, json).await,
        Command::Status(r) => query::status(&r.rpc, json).await,
        Command::Peers(r) => query::peers(&r.rpc, json).await,
        Command::Top(r) => crate::top::run(&r.rpc, stop_signal()?).await,
        Command::Stop { datadir, rpc } => query::stop(&rpc.rpc, &datadir).await,
        Command::Token(command) => crate::token_cli::run(command, json),
        Command::RpcDoc if json => query::print_json(&rpc::doc::openrpc()),
        Command::RpcDoc => {
            print!("{}", rpc::doc::markdown());
            Ok(())
        }
        Command::Config(ConfigArgs { flags, command }) => {
            let datadir = flags.datadir.clone().map_or_else(lite::join::default_datadir, Ok)?;
            let mut config = Config::load(&datadir)?.with(money)?;
            flags.apply(&mut config.lite);
            config.check()?;
            match command {
                Some(ConfigCommand::Show) => config_show::show(&config, &datadir, &said(), json),
                None if json => query::print_json(&config),
                None => {
                    print!("{}", toml::to_string(&config)?);
                    Ok(())
                }
            }
        }
        Command::Man { dir } => {
            std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
            clap_mangen::generate_to(Cli::command(), &dir)
                .with_context(|| format!("cannot write manual pages into {}", dir.display()))
        }
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "oda", &mut std::io::stdout());
            Ok(())
        }
    }
}

/// Which settings this command line says itself, and which its environment.
fn said() -> config_show::Said {
    let matches = Cli::command().try_get_matches_from(std::env::args_os());
    config_show::said(matches.ok().as_ref())
}

fn network(text: &str) -> Result<BitcoinNetwork, String> {
    let json = serde_json::Value::String(text.into());
    serde_json::from_value(json).map_err(|_| "one of regtest, signet, bitcoin".into())
}

async fn full_node(config: Config, datadir: PathBuf, validator: bool) -> Result<()> {
    let mut stop = stop_signal()?;
    let mut node = FullNode::start(&config, &datadir, validator).await?;
    let blocks: Arc<dyn LedgerReader> = Arc::new(node.reader());
    let served = rpc::serve(&config.rpc, rpc::Limits::default(), &datadir, node.shared.clone(), blocks).await;
    let server = match served {
        Ok(server) => server,
        Err(error) => {
            node.stop().await?;
            return Err(error);
        }
    };
    tracing::info!(address = %server.address, "JSON-RPC");
    println!("node {} ready, JSON-RPC on http://{}", node.shared.me, server.address);
    let shared = node.shared.clone();
    let ended = tokio::select! {
        result = node.wait() => Some(result),
        _ = stop.changed() => {
            tracing::info!("asked to stop");
            None
        }
        () = shared.asked_to_stop() => None,
    };
    // calls under way may need the node, so they are answered before it stops
    server.stop().await;
    match ended {
        Some(result) => result,
        None => node.stop().await,
    }
}

/// Changes when the process is asked to stop (SIGINT, SIGTERM) or its standard input, if told to
/// watch it (ODA_STOP_ON_EOF=1), closes: a child then never outlives the process that started it.
fn stop_signal() -> Result<watch::Receiver<bool>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (tx, rx) = watch::channel(false);
    let (mut int, mut term) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let tx = Arc::new(tx);
    let on_signal = tx.clone();
    tokio::spawn(async move {
        tokio::select! { _ = int.recv() => {}, _ = term.recv() => {} }
        let _ = on_signal.send(true);
    });
    if std::env::var_os("ODA_STOP_ON_EOF").is_some_and(|v| v == "1") {
        std::thread::spawn(move || {
            let mut sink = [0; 64];
            while matches!(std::io::Read::read(&mut std::io::stdin(), &mut sink), Ok(n) if n > 0) {}
            let _ = tx.send(true);
        });
    }
    Ok(rx)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_may_stand_anywhere_and_every_command_is_consistent() {
        Cli::command().debug_assert();
        for line in [
            "oda proof get block 1 --genesis g.json --rpc http://127.0.0.1:1 --out f --after old",
            "oda proof get --rpc http://127.0.0.1:1 block 1",
            "oda --json proof check f --genesis g.json --after old",
            "oda ledger verify --file f --genesis g.json",
            "oda lite",
            "oda lite status --datadir d --json",
            "oda lite --datadir d status",
            "oda config show --datadir d --max-disk-mb 7",
            "oda config --datadir d",
            "oda lite --join join.json --max-cpu-percent 20 --pause-when-used false",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
        assert!(Cli::try_parse_from("oda ledger verify --file f".split(' ')).is_err(), "nothing to check it against");
    }
}
