//! A real network under test, followed round by round. Every wait is bounded and fails with the end of
//! the log that should explain it.

#![allow(dead_code)]

use anyhow::{Context, Result, bail, ensure};
use oda_testnet::Network;
use oda_testnet::chain::ChainKind;
use oda_testnet::demo::summary::Summary;
use oda_testnet::demo::{Accountant, Follower};
use oda_testnet::genesis::Options;
use oda_testnet::network::Programs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Longest wait for one round.
pub const ROUND: Duration = Duration::from_secs(90);

pub fn options(name: &str) -> Options {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/fashion-mnist.toml");
    // so generous that whatever is proven earns a tranche: these tests say what is paid from who was accepted
    let rate_msat = 100_000;
    Options {
        name: name.into(),
        validators: 4,
        observers: 1,
        block_interval_ms: 300,
        model,
        rate_msat,
        ..Options::default()
    }
}

/// The network with what is needed to follow it.
pub struct Story {
    pub network: Network,
    pub follower: Follower,
    pub accountant: Accountant,
    pub mined: Instant,
}

impl Story {
    pub async fn begin(dir: &Path, options: &Options) -> Result<Self> {
        let programs = Programs::beside(Path::new(env!("CARGO_BIN_EXE_testnet")));
        let mut network = Network::open(dir, programs, ChainKind::Embedded, options).await?;
        network.start_all().await?;
        let (follower, accountant) = (Follower::new(&network)?, Accountant::new(&network, 1)?);
        Ok(Self { network, follower, accountant, mined: Instant::now() })
    }

    /// Lets time pass, and Bitcoin blocks with it.
    pub async fn pass(&mut self) -> Result<()> {
        self.network.check()?;
        if self.mined.elapsed() > Duration::from_secs(5) {
            self.mined = Instant::now();
            self.network.driver().mine(1).await?;
        }
        sleep(Duration::from_millis(200)).await;
        Ok(())
    }

    /// Waits until that many rounds are over, their money included.
    pub async fn rounds_over(&mut self, count: usize) -> Result<()> {
        let mut deadline = Instant::now() + ROUND;
        let mut known = self.follower.over().len();
        while known < count {
            let open = self.follower.look(&self.network).await.map(|v| v.open);
            let now = self.follower.over().len();
            if now > known {
                (known, deadline) = (now, Instant::now() + ROUND);
            }
            if Instant::now() > deadline {
                bail!("no round ended for {} s; open: {open:#?}\n{}", ROUND.as_secs(), self.logs());
            }
            self.pass().await?;
        }
        Ok(())
    }

    /// Runs `oda`: whether it succeeded, and what it said.
    pub fn oda(&self, args: &[&str]) -> Result<(bool, String)> {
        let out = Command::new(self.network.oda()).args(args).output().context("running oda")?;
        Ok((out.status.success(), String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned()))
    }

    pub fn logs(&self) -> String {
        ["validator-0", "sponsor-0", "trainer-0"].map(|n| format!("{n}:\n{}", self.network.log_tail(n))).join("\n")
    }

    /// The books, tried until they balance: what wallets and ledger say is under way for a moment.
    pub async fn balanced(&mut self) -> Result<Summary> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let summary = self.accountant.summary(&self.network, &mut self.follower).await;
            match summary {
                Ok(summary) if summary.is_good() => return Ok(summary),
                Ok(summary) if Instant::now() > deadline => {
                    bail!("the books do not balance:\n{}\n{}", wrong(&summary), self.logs())
                }
                Err(error) if Instant::now() > deadline => return Err(error),
                _ => {}
            }
            let _ = self.follower.look(&self.network).await;
            self.pass().await?;
        }
    }

    /// Height and block hash of a full node.
    pub async fn tip(&self, name: &str) -> Result<(u64, String)> {
        let status = self.network.rpc(name)?.status().await?;
        Ok((status.height, status.hash))
    }

    /// Waits until a full node has a height.
    pub async fn height(&mut self, name: &str, height: u64) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let at = self.tip(name).await.map(|(h, _)| h);
            if at.as_ref().is_ok_and(|h| *h >= height) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{name} is at {at:?}, not at {height}; the end of its log:\n{}", self.network.log_tail(name));
            }
            self.pass().await?;
        }
    }

    /// The last blocks of two nodes are the same.
    pub async fn same_ledger(&self, a: &str, b: &str) -> Result<()> {
        let height = self.tip(a).await?.0.min(self.tip(b).await?.0);
        let (x, y) = (self.network.rpc(a)?.block(height).await?, self.network.rpc(b)?.block(height).await?);
        ensure!(x.hash == y.hash, "{a} and {b} have different blocks {height}");
        Ok(())
    }
}

/// What does not add up.
fn wrong(summary: &Summary) -> String {
    let checks = summary
        .checks
        .iter()
        .filter(|c| !c.holds())
        .map(|c| format!("{}: {} is not {} {}", c.what, c.left, c.right, c.unit));
    checks.chain(summary.problems.iter().cloned()).collect::<Vec<_>>().join("\n")
}

/// Runs a story in a fresh directory, kept with its logs if the story ends badly. Nothing runs afterwards.
pub fn tell<F>(options: Options, play: F)
where
    F: AsyncFnOnce(&mut Story) -> Result<()>,
{
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let result = runtime.block_on(async {
        let mut story = Story::begin(&dir.path().join("net"), &options).await?;
        let result = play(&mut story).await;
        let problems = story.network.stop_all().await;
        result?;
        ensure!(problems.is_empty(), "unclean ends: {problems:#?}");
        Ok::<(), anyhow::Error>(())
    });
    if let Err(error) = result {
        let kept: PathBuf = dir.keep();
        panic!("{error:#}\nall logs are in {}", kept.display());
    }
}
