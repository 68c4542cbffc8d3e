//! `testnet`: real networks on one machine. See [`oda_testnet`].

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use oda_testnet::chain::ChainKind;
use oda_testnet::{attack, bench, chain_server, demo, genesis, network};
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::sync::watch;

/// Runs networks of many nodes, each its own process, on one machine.
#[derive(Parser)]
#[command(name = "testnet", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the whole loop: train, prove, attest, pay; and add up the money.
    Demo(Box<demo::Options>),
    /// Run a network with one kind of attacker in it, and say what it got.
    Attack(attack::Options),
    /// Measure consensus between real processes: block intervals, attestations, key generation, CPU.
    Bench(bench::Options),
    /// Write a new network: genesis file, and each node's data directory with its secrets.
    Genesis {
        /// Where to write it.
        #[arg(long)]
        dir: PathBuf,
        #[command(flatten)]
        options: genesis::Options,
    },
    /// Run the Bitcoin regtest chain of a network.
    Chain {
        /// Directory of the network.
        #[arg(long)]
        dir: PathBuf,
        /// Which chain [default: embedded, or bitcoind if BITCOIND_EXE is set].
        #[arg(long, value_enum)]
        chain: Option<ChainKind>,
    },
}

async fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Demo(options) => {
            let me = std::env::current_exe().context("finding this program")?;
            Ok(ended(demo::run(&options, &me, stop_signal()?).await?))
        }
        Command::Attack(options) => {
            let Some(name) = &options.name else {
                print!("{}", attack::list());
                return Ok(ExitCode::SUCCESS);
            };
            let me = std::env::current_exe().context("finding this program")?;
            let demo = attack::network(attack::named(name)?, &options);
            Ok(ended(demo::run(&demo, &me, stop_signal()?).await?))
        }
        Command::Bench(options) => {
            let me = std::env::current_exe().context("finding this program")?;
            bench::run(&options, &me, stop_signal()?).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Genesis { dir, options } => {
            let network = genesis::create(&dir, &options, network::now_ms())?;
            let (count, dir) = (network.nodes.len(), dir.display());
            println!("{count} nodes in {dir}; run them with `testnet demo --dir {dir}`");
            Ok(ExitCode::SUCCESS)
        }
        Command::Chain { dir, chain } => {
            chain_server::run(&dir, ChainKind::choose(chain), stop_signal()?).await?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn ended(end: demo::End) -> ExitCode {
    match end {
        demo::End::Good => ExitCode::SUCCESS,
        demo::End::Bad => ExitCode::FAILURE,
        demo::End::Interrupted => ExitCode::from(130), // as a shell reports SIGINT
    }
}

/// Turns true at SIGINT or SIGTERM, or, if told to watch it (`ODA_STOP_ON_EOF=1`), when standard
/// input closes.
fn stop_signal() -> Result<watch::Receiver<bool>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (tx, rx) = watch::channel(false);
    let (mut int, mut term) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let on_eof = tx.clone();
    tokio::spawn(async move {
        tokio::select! { _ = int.recv() => {}, _ = term.recv() => {} }
        let _ = tx.send(true);
    });
    if std::env::var_os("ODA_STOP_ON_EOF").is_some_and(|v| v == "1") {
        std::thread::spawn(move || {
            let mut sink = [0; 64];
            while matches!(std::io::Read::read(&mut std::io::stdin(), &mut sink), Ok(n) if n > 0) {}
            let _ = on_eof.send(true);
        });
    }
    Ok(rx)
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("ODA_LOG").unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("testnet: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(run(cli));
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    result.unwrap_or_else(|error| {
        eprintln!("testnet: {error:#}");
        ExitCode::FAILURE
    })
}
