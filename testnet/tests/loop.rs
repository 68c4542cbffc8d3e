//! The whole loop over real processes: training, proof, attestation, payment; and the same after
//! `kill -9` of a validator, of a trainer between held and claimed, and of the sponsor.
//!
//! One network and one story, because starting it is the expensive part.

mod common;

use anyhow::{Context, Result, bail, ensure};
use common::{ROUND, Story, options, tell};
use oda_testnet::demo::view::{Money, RoundView};
use oda_testnet::trainer::Phase;
use std::time::Duration;
use tokio::time::{Instant, sleep};

impl Story {
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

#[test] // L1, R1-R5, S4, S6, P1, P3, P4, P6
fn the_loop_pays_for_proof_and_survives_kill_9() {
    tell(options("loop-test"), async |story: &mut Story| story.play().await);
}
