//! The validators of one measurement.

use crate::config::{NetworkFile, Role};
use crate::genesis::{self, GENESIS_FILE};
use crate::network::now_ms;
use crate::process::Process;
use crate::rpc::Rpc;
use anyhow::{Context, Result, ensure};
use clap::Parser;
use oda_consensus::genesis::Genesis;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// What a node writes to its log here: the time of every signature, beside the usual.
const LOG: &str = "warn,oda_node=info,oda_node::full::roles=debug,iroh=error,noq=error,noq_udp=error";
const START_TIMEOUT: Duration = Duration::from_secs(90);
static NEXT: AtomicU32 = AtomicU32::new(0);

/// What network to make.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Validators, all in the committee.
    pub validators: usize,
    /// Shortest time between blocks, ms.
    pub block_interval_ms: u32,
    /// Blocks between checkpoints; 0: none.
    pub checkpoint_blocks: u32,
    /// Blocks between rotations; 0: none.
    pub epoch_blocks: u32,
    /// Full nodes beside them that only follow; the last of [`Cluster::nodes`].
    pub observers: usize,
}

/// As on the command line, so that whatever is not named here has its usual value.
#[derive(Parser)]
struct CommandLine {
    #[command(flatten)]
    options: genesis::Options,
}

impl Setup {
    fn options(self, oda: &Path) -> Result<genesis::Options> {
        let args = [
            ("validators", self.validators.to_string()),
            ("block-interval-ms", self.block_interval_ms.to_string()),
            ("checkpoint-blocks", self.checkpoint_blocks.to_string()),
            ("epoch-blocks", self.epoch_blocks.to_string()),
            ("observers", self.observers.to_string()),
            ("sponsors", "0".into()),
            ("trainers", "0".into()),
            ("cheats", "0".into()),
            // nobody reads it without sponsors; it only has to be a file
            ("model", oda.display().to_string()),
        ];
        let args = args.into_iter().flat_map(|(name, value)| [format!("--{name}"), value]);
        let line = CommandLine::try_parse_from(std::iter::once("bench".to_string()).chain(args));
        Ok(line.context("the options of `testnet genesis` have changed")?.options)
    }
}

/// One validator.
pub struct Node {
    /// Its client.
    pub rpc: Rpc,
    /// Where its RPC is.
    pub address: SocketAddr,
    /// Its log.
    pub log: PathBuf,
    process: Option<Process>,
}

impl Node {
    /// Process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().and_then(Process::pid)
    }
}

/// A directory removed in the end.
pub(super) struct Scratch(pub(super) PathBuf);

impl Scratch {
    /// A new name below the system's directory for temporary files.
    pub(super) fn new() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(std::env::temp_dir().join(format!("oda-bench-{}-{number}", std::process::id())))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Running validators. Dropping it kills them and removes their directories.
pub struct Cluster {
    /// The validators.
    pub nodes: Vec<Node>,
    /// The genesis.
    pub genesis: Genesis,
    // after the processes, so that they are dead when it goes
    scratch: Scratch,
}

impl Cluster {
    /// Makes a network, starts its validators, and waits until they make blocks.
    ///
    /// # Errors
    /// If one does not start, or they make no blocks.
    pub async fn start(setup: Setup, oda: &Path) -> Result<Self> {
        let scratch = Scratch::new();
        let dir = scratch.0.clone();
        let options = setup.options(oda)?;
        let file: NetworkFile = genesis::create(&dir, &options, now_ms())?;
        let text = std::fs::read_to_string(dir.join(GENESIS_FILE)).context("reading the genesis")?;
        let genesis: Genesis = serde_json::from_str(&text).context("the genesis is malformed")?;
        let mut nodes = Vec::new();
        for entry in file.of(Role::Validator).chain(file.of(Role::Observer)) {
            let datadir = dir.join(&entry.name);
            let log = datadir.join("log");
            let args = ["node", "--log", LOG, "--datadir"].map(str::to_string).into_iter();
            let role = (entry.role == Role::Validator).then(|| "--validator".to_string());
            let args: Vec<String> = args.chain([datadir.display().to_string()]).chain(role).collect();
            let (process, _) = Process::spawn(&entry.name, oda, &args, &log, false)?;
            let address = entry.rpc.context("a validator without RPC")?;
            nodes.push(Node { rpc: Rpc::new(address)?, address, log, process: Some(process) });
        }
        let mut cluster = Self { nodes, genesis, scratch };
        cluster.wait_height(5).await?;
        Ok(cluster)
    }

    /// Where the network's files are.
    pub fn dir(&self) -> &Path {
        &self.scratch.0
    }

    /// Waits until every running validator has reached a height.
    ///
    /// # Errors
    /// If one ends, or it takes too long.
    pub async fn wait_height(&mut self, height: u64) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            self.check()?;
            let mut all = true;
            for node in self.nodes.iter().filter(|n| n.process.is_some()) {
                all &= node.rpc.status().await.is_ok_and(|s| s.height >= height);
            }
            if all {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "no block {height} after {} s", START_TIMEOUT.as_secs());
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Fails if a validator has ended by itself.
    ///
    /// # Errors
    /// Which one, with the end of its log.
    pub fn check(&mut self) -> Result<()> {
        self.nodes.iter_mut().filter_map(|n| n.process.as_mut()).try_for_each(Process::check)
    }

    /// `kill -9` for the last validator still running.
    ///
    /// # Errors
    /// If the system refuses.
    pub async fn kill_one(&mut self) -> Result<()> {
        let process = self.nodes.iter_mut().rev().find_map(|n| n.process.take());
        process.context("all validators are dead already")?.kill9().await
    }

    /// `kill -9` for the first validator still running.
    ///
    /// # Errors
    /// If the system refuses.
    pub async fn kill_first(&mut self) -> Result<()> {
        let process = self.nodes.iter_mut().find_map(|n| n.process.take());
        process.context("all validators are dead already")?.kill9().await
    }

    /// Stops all.
    ///
    /// # Errors
    /// If the system does not let us wait for one.
    pub async fn stop(mut self) -> Result<()> {
        let stopping: Vec<_> =
            self.nodes.iter_mut().filter_map(|n| n.process.take()).map(|p| tokio::spawn(p.stop())).collect();
        for task in stopping {
            task.await.context("waiting for a validator")??;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_network_of_a_bench_is_what_was_asked_for() {
        let setup =
            Setup { validators: 7, block_interval_ms: 10, checkpoint_blocks: 2, epoch_blocks: 60, observers: 0 };
        let options = setup.options(Path::new("/bin/sh")).unwrap();
        assert_eq!((options.validators, options.sponsors, options.trainers, options.cheats), (7, 0, 0, 0));
        assert_eq!((options.block_interval_ms, options.checkpoint_blocks, options.epoch_blocks), (10, 2, 60));
    }
}
