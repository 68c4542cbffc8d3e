//! A sponsor that asks a fee for each submission (P8), over real processes and real Lightning: who pays is offered
//! payment and can earn, who does not is not even judged, and nobody pays twice, killed or not.

mod common;

use anyhow::{Context, Result, bail, ensure};
use common::{Story, options, tell};
use oda_consensus::ids::NodeId;
use oda_testnet::config::{self, NODE_FILE, NodeConfig};
use oda_testnet::genesis::Options;
use oda_testnet::trainer::Phase;
use serde_json::Value;
use std::time::Duration;
use tokio::time::{Instant, sleep};

const FEE_MSAT: u64 = 10_000;
/// Above what a trainer must keep in a channel of 2,000,000 sat (1 %).
const PUSHED_MSAT: u64 = 60_000_000;
const PATIENCE: Duration = Duration::from_secs(150);

impl Story {
    /// Runs `oda` until it succeeds.
    async fn insist(&mut self, args: &[&str]) -> Result<String> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            match self.oda(args)? {
                (true, said) => return Ok(said),
                (false, said) if Instant::now() > deadline => bail!("oda {args:?}: {said}\n{}", self.logs()),
                _ => self.pass().await?,
            }
        }
    }

    fn dir_of(&self, name: &str) -> String {
        self.network.datadir(name).display().to_string()
    }

    /// The sponsor gives a trainer something to pay with: a newcomer has nothing on its side of the channel.
    async fn push_to(&mut self, name: &str) -> Result<()> {
        let (to, from) = (self.dir_of(name), self.dir_of("sponsor-0"));
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            // a payment that failed, perhaps because the two are not connected again yet, needs a new invoice
            let said = self.insist(&["wallet", "--datadir", &to, "invoice", &PUSHED_MSAT.to_string()]).await?;
            let bolt11 = said.lines().find(|l| l.starts_with("lnbcrt")).context("no invoice")?.trim().to_string();
            let (paid, said) = self.oda(&["wallet", "--datadir", &from, "pay", &bolt11])?;
            if paid {
                return Ok(());
            }
            ensure!(Instant::now() < deadline && said.contains("failed"), "not paid: {said}");
            self.pass().await?;
        }
    }

    fn paid(&self, name: &str) -> Result<usize> {
        Ok(self.network.trainer(name)?.facts().claims.values().filter(|c| c.phase == Phase::Paid).count())
    }

    async fn paid_more(&mut self, name: &str, than: usize) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.paid(name)? <= than {
            if Instant::now() > deadline {
                bail!("{name} earned nothing for {} s\n{}", PATIENCE.as_secs(), self.logs());
            }
            self.pass().await?;
        }
        Ok(())
    }

    /// Claims of a trainer on the ledger, and how many of them were offered payment.
    async fn claims_of(&self, trainer: NodeId) -> Result<(u64, u64)> {
        let rpc = self.network.rpc("validator-0")?;
        let model = rpc.models().await?.into_iter().find(|m| m.round.is_some()).context("no model")?;
        let (mut claims, mut offered) = (0, 0);
        for round in 1..=model.round.map_or(0, |r| r.number) {
            for info in rpc.claims(model.id, round).await?.iter().filter(|i| i.claim.trainer == trainer) {
                claims += 1;
                offered += u64::from(info.escrow.is_some());
            }
        }
        Ok((claims, offered))
    }

    /// What a wallet received and paid besides what the ledger knows, from `oda ledger audit`: which must add up.
    async fn besides(&mut self, name: &str) -> Result<(u64, u64)> {
        let rpc = format!("http://{}", self.network.file().node("sponsor-0")?.rpc.context("no RPC")?);
        let dir = self.dir_of(name);
        let said = self.insist(&["--json", "ledger", "audit", "--datadir", &dir, "--rpc", &rpc]).await?;
        let audit: Value = serde_json::from_str(said.get(said.find('{').unwrap_or(0)..).unwrap_or_default())?;
        let msat = |key: &str| audit[key].as_u64().with_context(|| format!("no {key}: {said}"));
        Ok((msat("other_in_msat")?, msat("other_out_msat")?))
    }

    async fn play(&mut self) -> Result<()> {
        // the second trainer pays nothing, though it could
        self.network.stop("trainer-1").await?;
        let path = self.network.datadir("trainer-1").join(NODE_FILE);
        let mut own: NodeConfig = config::read(&path)?;
        own.trainer.as_mut().context("no [trainer]")?.max_fee_msat = Some(0);
        config::write(&path, &own)?;
        self.network.start("trainer-1")?;
        for name in ["trainer-0", "trainer-1"] {
            self.push_to(name).await.with_context(|| format!("giving {name} a balance"))?;
        }

        self.paid_more("trainer-0", 0).await.context("who pays the fee earns")?;
        self.network.kill9("trainer-0").await?;
        sleep(Duration::from_secs(1)).await;
        self.network.start("trainer-0")?;
        let known = self.paid("trainer-0")?;
        self.paid_more("trainer-0", known).await.context("and again after kill -9")?;

        let id = |name: &str| self.network.file().node(name).map(|n| n.node);
        let (payer, refuser) = (id("trainer-0")?, id("trainer-1")?);
        let (_, spent) = self.besides("trainer-0").await?;
        let (claims, offered) = self.claims_of(payer).await?;
        ensure!(spent % FEE_MSAT == 0, "{spent} msat are no fees of {FEE_MSAT} msat");
        let fees = spent / FEE_MSAT;
        ensure!(offered >= 2 && fees >= 2 && fees <= claims, "{claims} claims, {offered} offered, {fees} fees");
        let (claims, offered) = self.claims_of(refuser).await?;
        ensure!(claims > 0 && offered == 0, "{claims} claims without a fee, {offered} of them offered");
        ensure!(self.besides("trainer-1").await? == (PUSHED_MSAT, 0), "it paid something");
        let log = std::fs::read_to_string(self.network.datadir("trainer-1").join("log"))?;
        let warnings = log.lines().filter(|l| l.contains("max_fee_msat in [trainer]")).count();
        ensure!(warnings == 1, "{warnings} warnings that name the setting");
        // paid and collected are the same once nothing is under way
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let (paid, received) = (self.besides("trainer-0").await?.1, self.besides("sponsor-0").await?.0);
            if paid == received {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{paid} msat of fees paid, {received} received");
        }
    }
}

#[test] // P8, R2
fn who_pays_the_fee_is_offered_payment_and_nobody_else() {
    let options = Options { fee_msat: FEE_MSAT, trainers: 2, cheats: 0, ..options("fee-test") };
    tell(options, async |story: &mut Story| story.play().await);
}
