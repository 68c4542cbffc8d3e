//! What a long ledger costs: to check it, to fetch it from one peer, to start with it.

use super::chain::{self, Chain};
use super::cluster::Scratch;
use super::{Options, watch};
use crate::peer_id::peer_id;
use crate::ports::Ports;
use crate::process::Process;
use crate::rpc::Rpc;
use anyhow::{Context, Result, ensure};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// Records of the ledger that is verified and fetched.
const RECORDS: u64 = 100_000;
/// Records of the ledger a node starts with: all of them with `--whole`, since making and importing them takes minutes.
const MANY_RECORDS: u64 = 1_000_000;
/// Without it, how much less.
const PART: u64 = 4;
/// How much less a first look takes.
const QUICK: u64 = 10;
/// Starts of a node; the middle one counts.
const STARTS: usize = 5;
/// Longest any step may take: ten times what the longest takes on two busy cores.
const PATIENCE: Duration = Duration::from_secs(1_800);
/// How often a node is asked how far it is: seldom enough to cost it nothing.
const LOOK: Duration = Duration::from_millis(20);

/// Runs `oda` to its end; how long it took, s.
async fn run(oda: &Path, args: &[&str]) -> Result<f64> {
    let start = Instant::now();
    let mut command = tokio::process::Command::new(oda);
    let output = command.args(args).kill_on_drop(true).output();
    let output = timeout(PATIENCE, output).await.context("a command takes too long")?.context("starting oda")?;
    ensure!(output.status.success(), "oda {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(start.elapsed().as_secs_f64())
}

/// A data directory of a full node.
struct Dir {
    path: PathBuf,
    p2p: SocketAddr,
    rpc: SocketAddr,
}

impl Dir {
    async fn make(path: PathBuf, ports: &mut Ports, chain: &Chain, peer: Option<String>, oda: &Path) -> Result<Self> {
        std::fs::create_dir_all(&path).context("making a data directory")?;
        let dir = Self { p2p: ports.take()?, rpc: ports.take()?, path };
        run(oda, &["init", "--datadir", dir.text()?]).await?;
        let genesis = serde_json::to_string(&chain.genesis).context("writing the genesis")?;
        std::fs::write(dir.path.join("genesis.json"), genesis).context("writing the genesis")?;
        let peers = peer.map(|peer| format!("\"{peer}\"")).unwrap_or_default();
        let toml = format!(
            "network = \"regtest\"\n[p2p]\nlisten = [\"{}\"]\npeers = [{peers}]\n[rpc]\nlisten = \"{}\"\n",
            multiaddr(dir.p2p),
            dir.rpc
        );
        std::fs::write(dir.path.join("oda.toml"), toml).context("writing the configuration")?;
        Ok(dir)
    }

    fn text(&self) -> Result<&str> {
        self.path.to_str().context("a directory's name")
    }

    /// Starts the node, and waits until it answers.
    async fn start(&self, oda: &Path) -> Result<Node> {
        let (start, log) = (Instant::now(), self.path.join("log"));
        let args = ["node", "--datadir", self.text()?].map(str::to_string);
        let (process, _) = Process::spawn("a full node", oda, &args, &log, false)?;
        let mut node = Node { process, rpc: Rpc::new(self.rpc)?, ready_s: 0.0 };
        while node.rpc.status().await.is_err() {
            node.process.check()?;
            ensure!(start.elapsed() < PATIENCE, "the node does not answer");
            sleep(LOOK).await;
        }
        node.ready_s = start.elapsed().as_secs_f64();
        Ok(node)
    }
}

fn multiaddr(at: SocketAddr) -> String {
    format!("/ip4/{}/tcp/{}", at.ip(), at.port())
}

struct Node {
    process: Process,
    rpc: Rpc,
    ready_s: f64,
}

impl Node {
    /// Waits for a height; how long it took, s.
    async fn reach(&mut self, height: u64) -> Result<f64> {
        let start = Instant::now();
        while self.rpc.status().await?.height < height {
            self.process.check()?;
            ensure!(start.elapsed() < PATIENCE, "the ledger does not come");
            sleep(LOOK).await;
        }
        Ok(start.elapsed().as_secs_f64())
    }

    fn memory_mib(&self) -> Result<f64> {
        watch::memory_mib(self.process.pid().context("the node has ended")?)
    }
}

async fn make(path: PathBuf, records: u64) -> Result<Chain> {
    tokio::task::spawn_blocking(move || chain::make(&path, records)).await.context("making a ledger")?
}

/// Verifies, fetches and opens long ledgers.
///
/// # Errors
/// If a node does not start, or does not take the ledger.
pub async fn history(options: &Options, oda: &Path) -> Result<()> {
    let scale = if options.quick { QUICK } else { 1 };
    let (scratch, mut ports) = (Scratch::new(), Ports::new(0));
    std::fs::create_dir_all(&scratch.0).context("making a directory")?;
    println!(
        "Long ledgers, through the program itself:\n\n| what | records | time | records a second |\n|---|---|---|---|"
    );
    let row = |what: &str, records: u64, seconds: f64| {
        println!("| {what} | {records} | {seconds:.2} s | {:.0} |", records as f64 / seconds);
    };
    let file = scratch.0.join("chain");
    let many_records = if options.whole { MANY_RECORDS } else { MANY_RECORDS / PART };
    let chain = make(file.clone(), RECORDS / scale).await?;
    let path = file.to_str().context("a file's name")?;
    let records = chain.records;

    let first = Dir::make(scratch.0.join("first"), &mut ports, &chain, None, oda).await?;
    let genesis = first.path.join("genesis.json");
    let genesis = genesis.to_str().context("a file's name")?;
    let verified = run(oda, &["ledger", "verify", "--file", path, "--genesis", genesis]).await?;
    row("verify every block, vote, signature, rule and root (`oda ledger verify`)", records, verified);
    let imported = run(oda, &["ledger", "import", "--datadir", first.text()?, path]).await?;
    row("the same, and store it (`oda ledger import`)", records, imported);

    let mut serving = first.start(oda).await?;
    let peer = format!("{}/p2p/{}", multiaddr(first.p2p), peer_id(serving.rpc.status().await?.node));
    let second = Dir::make(scratch.0.join("second"), &mut ports, &chain, Some(peer), oda).await?;
    let mut fetching = second.start(oda).await?;
    let empty_s = fetching.ready_s;
    let synced = fetching.reach(chain.blocks).await?;
    row("fetch it from one peer, an empty node", records, synced);
    serving.process.check()?;
    for node in [serving, fetching] {
        node.process.stop().await?;
    }

    let file = scratch.0.join("many");
    let many = make(file.clone(), many_records / scale).await?;
    let path = file.to_str().context("a file's name")?;
    let third = Dir::make(scratch.0.join("third"), &mut ports, &many, None, oda).await?;
    run(oda, &["ledger", "import", "--datadir", third.text()?, path]).await?;
    let (mut times, mut memory) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let node = third.start(oda).await?;
        times.push(node.ready_s);
        memory.push(node.memory_mib()?);
        node.process.stop().await?;
    }
    let ready = watch::percentile(&times, 50);
    row("start a node with it, to its first answer", many.records, ready);
    println!(
        "\nThe ledger of {} records: {} blocks, {} transactions, {} claims. That of {}: {} blocks, {} transactions, {} claims; \
         started {STARTS} times, slowest {:.2} s, resident then {:.0} MiB. An empty node took {empty_s:.2} s.\n",
        chain.records,
        chain.blocks,
        chain.txs,
        chain.claims,
        many.records,
        many.blocks,
        many.txs,
        many.claims,
        watch::percentile(&times, 100),
        watch::percentile(&memory, 50)
    );
    Ok(())
}
