//! The whole loop over real processes: training, proof, attestation, payment; and the same after
//! `kill -9` of a validator, of a trainer between held and claimed, and of the sponsor. At the end a newcomer joins with
//! one command.
//!
//! One network and one story, because starting it is the expensive part.

mod common;

use anyhow::{Context, Result, bail, ensure};
use common::{ROUND, Story, options, tell};
use oda_consensus::ids::NodeId;
use oda_testnet::config::JOIN_FILE;
use oda_testnet::demo::view::{Money, RoundView};
use oda_testnet::trainer::Phase;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
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
        self.join_with_one_command().await.context("a lite node started with one command in an empty account")
    }

    // the lite node anyone starts and forgets: nothing but the network's file, an empty home and no further word
    async fn join_with_one_command(&mut self) -> Result<()> {
        let home = tempfile::tempdir()?;
        let log = home.path().with_extension("log");
        let join = self.network.dir().join(JOIN_FILE);
        let mut guest = self.start_guest(home.path(), &["lite", "--join", &join.display().to_string()], &log)?;
        let deadline = Instant::now() + 3 * ROUND;
        let earned = loop {
            if let Some(status) = guest.0.try_wait()? {
                bail!("it ended by itself, {status}:\n{}", std::fs::read_to_string(&log)?);
            }
            let said = self.guest(home.path()).args(["lite", "status", "--json"]).output()?;
            let status: Value = serde_json::from_slice(&said.stdout).unwrap_or_default();
            match status["earned_msat"].as_u64() {
                Some(earned) if earned > 0 => break status,
                _ if Instant::now() > deadline => {
                    bail!("no pay: {status:#}\n{}", std::fs::read_to_string(&log)?)
                }
                _ => self.pass().await?,
            }
        };
        // what it says of itself is what the ledger says
        let node: NodeId = serde_json::from_value(earned["node"].clone())?;
        let rpc = self.network.rpc("validator-0")?;
        let model = rpc.models().await?.into_iter().find(|m| m.round.is_some()).context("no model")?;
        let mut settled_msat = 0;
        for round in 1..=model.round.map_or(0, |r| r.number) {
            let claims = rpc.claims(model.id, round).await?;
            let own = claims.iter().filter(|i| i.claim.trainer == node).filter_map(|i| i.escrow.as_ref());
            settled_msat += own.map(|e| e.paid_msat()).sum::<u64>();
        }
        let told_msat = earned["earned_msat"].as_u64().unwrap_or(u64::MAX);
        ensure!(settled_msat >= told_msat && earned["is_running"] == true, "{settled_msat} msat settled: {earned:#}");
        // K1: the words are for a terminal only
        let datadir = home.path().join(".local/share/oda/lite");
        let words = std::fs::read_to_string(datadir.join("keys/mnemonic"))?;
        let told = std::fs::read_to_string(&log)?;
        ensure!(words.split_whitespace().count() == 12 && !told.contains(words.trim()), "words in a log");
        for line in ["a new wallet is in", "steps a second", "pays best here", "earned"] {
            ensure!(told.contains(line), "it does not tell {line:?}:\n{told}");
        }
        let mode = std::fs::metadata(datadir.join("oda.toml"))?.permissions().mode() & 0o777;
        ensure!(mode == 0o600, "oda.toml may hold a password, its mode is {mode:o}");
        drop(guest);
        self.retire_the_guest(home.path(), node, &log).await.context("its retirement")?;
        std::fs::remove_file(&log)?;
        Ok(())
    }

    // what it was promised is received before it ends, and nothing new is begun; it was killed in the middle of a round
    async fn retire_the_guest(&mut self, home: &Path, node: NodeId, log: &Path) -> Result<()> {
        let mut guest = self.start_guest(home, &["lite", "--finish"], log)?;
        let deadline = Instant::now() + 3 * ROUND;
        let ended = loop {
            match guest.0.try_wait()? {
                Some(status) => break status,
                None if Instant::now() > deadline => bail!("it does not end:\n{}", std::fs::read_to_string(log)?),
                None => self.pass().await?,
            }
        };
        let told = std::fs::read_to_string(log)?;
        ensure!(ended.success() && told.contains("every claim is over"), "{ended}:\n{told}");
        ensure!(!told.contains("training from head"), "it took new work:\n{told}");
        let rpc = self.network.rpc("validator-0")?;
        let model = rpc.models().await?.into_iter().find(|m| m.round.is_some()).context("no model")?;
        for round in 1..=model.round.as_ref().map_or(0, |r| r.number) {
            let claims = rpc.claims(model.id, round).await?;
            let mut own = claims.iter().filter(|i| i.claim.trainer == node).filter_map(|i| i.escrow.as_ref());
            ensure!(own.all(|e| e.releasing_msat() == 0), "it left what it earned in round {round}:\n{told}");
        }
        Ok(())
    }

    fn start_guest(&self, home: &Path, args: &[&str], log: &Path) -> Result<Guest> {
        let out = std::fs::File::create(log)?;
        let err = out.try_clone()?;
        Ok(Guest(self.guest(home).args(args).stdin(Stdio::null()).stdout(out).stderr(err).spawn()?))
    }

    /// `oda` in an account of its own. The machine of a test is in use; whether that makes it pause is not asked here.
    fn guest(&self, home: &Path) -> Command {
        let mut command = Command::new(self.network.oda());
        command
            .env("HOME", home)
            .env_remove("XDG_DATA_HOME")
            .env_remove("ODA_DATADIR")
            .env("OMP_WAIT_POLICY", "PASSIVE");
        command.env("ODA_PAUSE_WHEN_USED", "false").env("ODA_PAUSE_ON_BATTERY", "false");
        command
    }
}

/// Killed when the story is over.
struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test] // L1, R1-R5, S4, S6, P1, P3, P4, P6
fn the_loop_pays_for_proof_and_survives_kill_9() {
    tell(options("loop-test"), async |story: &mut Story| story.play().await);
}
