//! The whole loop over real processes: training, proof, attestation, payment; and the same after
//! `kill -9` of a validator, of a trainer between held and claimed, and of the sponsor.
//!
//! One network and one story, because starting it is the expensive part. Every wait is bounded and
//! fails with the end of the log that should explain it.

use anyhow::{Context, Result, bail, ensure};
use oda_testnet::Network;
use oda_testnet::chain::ChainKind;
use oda_testnet::demo::summary::Summary;
use oda_testnet::demo::view::{Money, RoundView};
use oda_testnet::demo::{Accountant, Follower};
use oda_testnet::genesis::Options;
use oda_testnet::network::Programs;
use oda_testnet::trainer::Phase;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Longest wait for one round.
const ROUND: Duration = Duration::from_secs(90);

fn options() -> Options {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/fashion-mnist.toml");
    Options {
        name: "loop-test".into(),
        validators: 4,
        sponsors: 1,
        observers: 1,
        trainers: 3,
        cheats: 1,
        base_port: 0,
        block_interval_ms: 300,
        model,
        per_claim_msat: 5_000_000,
        budget_msat: 1_000_000_000,
        channel_sat: 2_000_000,
        threads: 1,
    }
}

/// The network with what is needed to follow it.
struct Story {
    network: Network,
    follower: Follower,
    accountant: Accountant,
    mined: Instant,
}

impl Story {
    async fn begin(dir: &Path) -> Result<Self> {
        let programs = Programs::beside(Path::new(env!("CARGO_BIN_EXE_testnet")));
        let mut network = Network::open(dir, programs, ChainKind::Embedded, &options()).await?;
        network.start_all().await?;
        let (follower, accountant) = (Follower::new(&network)?, Accountant::new(&network, 1)?);
        Ok(Self { network, follower, accountant, mined: Instant::now() })
    }

    /// Lets time pass, and Bitcoin blocks with it.
    async fn pass(&mut self) -> Result<()> {
        self.network.check()?;
        if self.mined.elapsed() > Duration::from_secs(5) {
            self.mined = Instant::now();
            self.network.driver().mine(1).await?;
        }
        sleep(Duration::from_millis(200)).await;
        Ok(())
    }

    /// Waits until that many rounds are over, their money included.
    async fn rounds_over(&mut self, count: usize) -> Result<()> {
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

    fn logs(&self) -> String {
        ["validator-0", "sponsor-0", "trainer-0"].map(|n| format!("{n}:\n{}", self.network.log_tail(n))).join("\n")
    }

    /// The books, tried until they balance: what wallets and ledger say is under way for a moment.
    async fn balanced(&mut self) -> Result<Summary> {
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
    async fn tip(&self, name: &str) -> Result<(u64, String)> {
        let status = self.network.rpc(name)?.status().await?;
        Ok((status.height, status.hash))
    }

    /// Waits until a full node has a height.
    async fn height(&mut self, name: &str, height: u64) -> Result<()> {
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
    async fn same_ledger(&self, a: &str, b: &str) -> Result<()> {
        let height = self.tip(a).await?.0.min(self.tip(b).await?.0);
        let (x, y) = (self.network.rpc(a)?.block(height).await?, self.network.rpc(b)?.block(height).await?);
        ensure!(x.hash == y.hash, "{a} and {b} have different blocks {height}");
        Ok(())
    }

    // L1: three of four go on; the fourth catches up
    async fn kill_a_validator(&mut self) -> Result<()> {
        self.network.kill9("validator-0").await?;
        let height = self.tip("validator-1").await?.0;
        self.height("validator-1", height + 8).await.context("three of four validators should go on")?;
        self.network.start("validator-0")?;
        self.network.wait_ready("validator-0").await?;
        let height = self.tip("validator-1").await?.0;
        self.height("validator-0", height).await.context("a restarted validator should catch up")?;
        self.same_ledger("validator-0", "validator-1").await
    }

    // P6: killed while its payment is held, the trainer is paid after a restart
    async fn kill_a_trainer(&mut self) -> Result<()> {
        for _ in 0..4 {
            let claim = self.held_claim("trainer-0").await?;
            self.network.kill9("trainer-0").await?;
            self.network.start("trainer-0")?;
            let round = self.ended_round_of(claim).await?;
            let c = round.claims.iter().find(|c| c.claim == claim).context("the claim is gone")?;
            let earned = c.accepted == Some(true) && round.result.is_some_and(|r| r.adopted);
            ensure!(
                c.money == if earned { Money::Paid } else { Money::Refunded },
                "claim {claim} ended {:?}: {c:?}",
                c.money
            );
            if earned {
                return Ok(());
            }
        }
        bail!("trainer-0 earned nothing in four rounds\n{}", self.network.log_tail("trainer-0"))
    }

    /// A claim of that trainer whose payment has just been locked.
    async fn held_claim(&mut self, trainer: &str) -> Result<oda_consensus::ids::ClaimId> {
        let deadline = Instant::now() + ROUND;
        loop {
            let facts = self.network.trainer(trainer)?.facts();
            if let Some((claim, _)) =
                facts.claims.iter().filter(|(_, c)| c.phase == Phase::Held).max_by_key(|(_, c)| c.round)
            {
                return Ok(*claim);
            }
            if Instant::now() > deadline {
                bail!(
                    "{trainer} had no payment held for {} s; the end of its log:\n{}",
                    ROUND.as_secs(),
                    self.network.log_tail(trainer)
                );
            }
            let _ = self.follower.look(&self.network).await;
            self.pass().await?;
        }
    }

    async fn ended_round_of(&mut self, claim: oda_consensus::ids::ClaimId) -> Result<RoundView> {
        let deadline = Instant::now() + ROUND;
        loop {
            let _ = self.follower.look(&self.network).await;
            if let Some(round) = self.follower.over().values().find(|r| r.claims.iter().any(|c| c.claim == claim)) {
                return Ok(round.clone());
            }
            if Instant::now() > deadline {
                bail!("the round of claim {claim} did not end within {} s\n{}", ROUND.as_secs(), self.logs());
            }
            self.pass().await?;
        }
    }

    // P6: killed while payments are open, the sponsor ends each as the ledger says, and pays none twice
    async fn kill_the_sponsor(&mut self) -> Result<()> {
        let claim = self.held_claim("trainer-1").await?;
        self.network.kill9("sponsor-0").await?;
        sleep(Duration::from_secs(1)).await;
        self.network.start("sponsor-0")?;
        self.network.wait_ready("sponsor-0").await?;
        let round = self.ended_round_of(claim).await?;
        for c in &round.claims {
            let earned = c.accepted == Some(true) && round.result.is_some_and(|r| r.adopted);
            let right = if earned { c.money == Money::Paid } else { c.money != Money::Paid };
            ensure!(right, "claim {} ended {:?} though earned is {earned}", c.claim, c.money);
        }
        let over = self.follower.over().len();
        self.rounds_over(over + 1).await.context("work should go on after the sponsor's return")
    }

    async fn start_late(&mut self) -> Result<()> {
        self.network.start("observer-0")?;
        self.network.wait_ready("observer-0").await?;
        let height = self.tip("validator-1").await?.0;
        self.height("observer-0", height).await.context("a node started late should catch up")?;
        self.same_ledger("observer-0", "validator-1").await?;
        let verified = self.network.rpc("observer-0")?.verify_ledger().await?;
        ensure!(verified.blocks >= height && verified.txs > 0, "{verified:?}");
        Ok(())
    }

    async fn play(&mut self) -> Result<()> {
        self.rounds_over(2).await?;
        let summary = self.balanced().await.context("after two rounds")?;
        ensure!(summary.spent_msat > 0 && summary.adopted > 0, "{summary:#?}");
        self.kill_a_validator().await.context("kill -9 of a validator")?;
        self.kill_a_trainer().await.context("kill -9 of a trainer between held and claimed")?;
        self.kill_the_sponsor().await.context("kill -9 of the sponsor")?;
        self.start_late().await.context("a node started late")?;
        self.balanced().await.context("at the end")?;
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

/// Ends the story, well or not; then nothing runs any more.
async fn tell(dir: PathBuf) -> Result<()> {
    let mut story = Story::begin(&dir).await?;
    let result = story.play().await;
    let problems = story.network.stop_all().await;
    result?;
    ensure!(problems.is_empty(), "unclean ends: {problems:#?}");
    Ok(())
}

#[test] // L1, R1-R5, S4, S6, P1, P3, P4, P6
fn the_loop_pays_for_proof_and_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let result = runtime.block_on(tell(dir.path().join("net")));
    if let Err(error) = result {
        let kept = dir.keep();
        panic!("{error:#}\nall logs are in {}", kept.display());
    }
}
