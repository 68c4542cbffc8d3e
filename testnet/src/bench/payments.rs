//! How long a proved claim waits for its money, in a network of real processes: validators, a sponsor, trainers and
//! their Lightning channels.
//!
//! Three clocks of one machine are read. The sponsor's log says when a verdict was on its ledger, and how long after
//! it its wallet saw the payments end; a trainer says when it had the preimages and claimed. So each claim gives the
//! whole wait and, as its last part, what Lightning alone took for the same HTLCs: the ratio of the two is the cost of
//! attestation, shares and gossip, whatever the machine.

use super::Options;
use super::cluster::Scratch;
use super::watch::{memory_mib, percentile};
use crate::chain::ChainKind;
use crate::config::Role;
use crate::genesis;
use crate::network::{Network, Programs, now_ms};
use crate::trainer::Phase;
use anyhow::{Context, Result, ensure};
use oda_consensus::ids::ClaimId;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Claims whose payment is timed.
const CLAIMS: usize = 200;
/// Trainers; the last one cheats, and the first is the newcomer that starts when all others are done.
const TRAINERS: usize = 7;
const BLOCK_INTERVAL_MS: u32 = 200;
const LIMIT: Duration = Duration::from_secs(1_800);
const LOOK: Duration = Duration::from_millis(500);
/// Time between two Bitcoin blocks.
const BITCOIN_BLOCK: Duration = Duration::from_secs(5);
/// The model's outer learning rate: it must still be learning after fifty rounds.
const OUTER_LR_MILLI: u32 = 50;

/// An end of payments in the sponsor's log.
#[derive(Clone, Copy, Debug, PartialEq)]
struct End {
    /// When, ms since the Unix epoch.
    time_ms: f64,
    /// How long after the verdict, ms.
    ms: f64,
}

/// What the sponsor's log says after `what`, by claim.
fn ends(log: &str, what: &str) -> BTreeMap<ClaimId, End> {
    let field = |line: &str, name: &str| {
        let (_, rest) = line.split_once(&format!(" {name}="))?;
        rest.split_whitespace().next().map(str::to_string)
    };
    let end = |line: &str| {
        let claim = field(line, "claim")?.parse().ok()?;
        Some((claim, End { time_ms: field(line, "time_ms")?.parse().ok()?, ms: field(line, "ms")?.parse().ok()? }))
    };
    log.lines().filter(|l| l.contains(what)).filter_map(end).collect()
}

/// The shipped model, learning slowly.
fn model(dir: &Path) -> Result<PathBuf> {
    let shipped = std::fs::canonicalize("models/fashion-mnist.toml")
        .context("models/fashion-mnist.toml: run this from the project's directory")?;
    let data = shipped.parent().and_then(Path::parent).context("no directory")?.join("data");
    let text = std::fs::read_to_string(&shipped).context("reading the model file")?;
    let text = text.replace("\"../data", &format!("\"{}", data.display()));
    let rate = text.lines().find(|l| l.starts_with("outer_lr_milli")).context("no outer_lr_milli")?.to_string();
    let path = dir.join("slow.toml");
    std::fs::write(&path, text.replace(&rate, &format!("outer_lr_milli = {OUTER_LR_MILLI}")))
        .context("writing the model file")?;
    Ok(path)
}

/// A network that pays.
struct Market {
    network: Network,
    sponsor_log: PathBuf,
    mined: Instant,
}

impl Market {
    async fn start(me: &Path, oda: &Path, dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        let genesis = genesis::Options {
            trainers: TRAINERS,
            cheats: 1,
            block_interval_ms: BLOCK_INTERVAL_MS,
            rate_msat: 10_000, // late gains still earn a tranche, early ones all
            budget_msat: 20_000_000_000,
            model: model(dir)?,
            ..genesis::Options::default()
        };
        let programs = Programs { oda: oda.to_path_buf(), testnet: me.to_path_buf() };
        let kind = ChainKind::choose(None);
        let mut network = Network::open(&dir.join("net"), programs, kind, &genesis).await?;
        network.start_chain().await?;
        network.start_validators().await?;
        network.start_sponsors().await?;
        let sponsor = network.names(Role::Sponsor).into_iter().next().context("no sponsor")?;
        let sponsor_log = network.datadir(&sponsor).join("log");
        let mut market = Self { network, sponsor_log, mined: Instant::now() };
        for name in market.network.names(Role::Trainer).into_iter().skip(1) {
            market.network.start(&name)?;
        }
        Ok(market)
    }

    /// Waits a moment, and sees that all goes on.
    async fn tick(&mut self) -> Result<()> {
        self.network.check()?;
        if self.mined.elapsed() >= BITCOIN_BLOCK {
            self.mined = Instant::now();
            self.network.driver().mine(1).await?;
        }
        sleep(LOOK).await;
        Ok(())
    }

    fn log(&self) -> Result<String> {
        std::fs::read_to_string(&self.sponsor_log).context("reading the sponsor's log")
    }

    /// Until so many claims were paid.
    async fn paid(&mut self, wanted: usize) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let paid = ends(&self.log()?, "verdict paid").len();
            if paid >= wanted {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "only {paid} of {wanted} claims were paid in {} s", LIMIT.as_secs());
            self.tick().await?;
        }
    }

    /// When a trainer's claims entered a phase.
    fn entered(&self, phase: Phase) -> Result<BTreeMap<ClaimId, f64>> {
        let mut found = BTreeMap::new();
        for name in self.network.names(Role::Trainer) {
            let claims = self.network.trainer(&name)?.facts().claims;
            found.extend(claims.iter().filter_map(|(id, c)| Some((*id, *c.entered_ms.get(&phase)? as f64))));
        }
        Ok(found)
    }

    /// Seconds from the start of an empty lite node to its first received payment.
    async fn newcomer(&mut self) -> Result<f64> {
        let name = self.network.names(Role::Trainer).into_iter().next().context("no trainer")?;
        let start = now_ms() as f64;
        self.network.start(&name)?;
        let deadline = Instant::now() + LIMIT;
        loop {
            let claims = self.network.trainer(&name)?.facts().claims;
            let first = claims.values().filter_map(|c| c.entered_ms.get(&Phase::Received)).min();
            if let Some(received) = first {
                return Ok((*received as f64 - start) / 1e3);
            }
            ensure!(Instant::now() < deadline, "{name} was not paid in {} s", LIMIT.as_secs());
            self.tick().await?;
        }
    }

    /// Mean memory of a role's processes, MiB.
    fn memory(&self, role: Role) -> Result<f64> {
        let pids: Vec<u32> = self.network.names(role).iter().filter_map(|n| self.network.pid(n)).collect();
        let total = pids.iter().map(|pid| memory_mib(*pid)).sum::<Result<f64>>()?;
        Ok(total / pids.len().max(1) as f64)
    }
}

fn row(what: &str, values: &[f64]) {
    let (p50, p99) = (percentile(values, 50), percentile(values, 99));
    println!("| {what} | {} | {p50:.0} | {p99:.0} |", values.len());
}

/// From verdict to money, over real claims.
///
/// # Errors
/// If the network does not run, or too few claims are paid.
pub async fn payments(options: &Options, me: &Path, oda: &Path) -> Result<()> {
    let wanted = if options.quick { CLAIMS / 4 } else { CLAIMS };
    let scratch = Scratch::new();
    let mut market = Market::start(me, oda, &scratch.0).await?;
    market.paid(wanted).await?;
    let memory = [Role::Validator, Role::Sponsor, Role::Trainer].map(|role| market.memory(role));
    let first_s = market.newcomer().await?;
    let (log, claimed) = (market.log()?, market.entered(Phase::Claiming)?);
    let problems = market.network.stop_all().await;
    problems.iter().for_each(|p| println!("{p}"));

    let (paid, refunded) = (ends(&log, "verdict paid"), ends(&log, "verdict refunded"));
    let both: Vec<(f64, f64)> =
        paid.iter().filter_map(|(id, end)| Some((end.ms, end.time_ms - claimed.get(id)?))).collect();
    ensure!(both.len() >= wanted, "only {} of {} paid claims are known to their trainers", both.len(), paid.len());
    let (whole, lightning): (Vec<f64>, Vec<f64>) = both.into_iter().unzip();
    let rejected: Vec<f64> = refunded.iter().filter(|(id, _)| !paid.contains_key(id)).map(|(_, e)| e.ms).collect();
    let unearned: Vec<f64> = refunded.iter().filter(|(id, _)| paid.contains_key(id)).map(|(_, e)| e.ms).collect();
    println!(
        "From verdict to money: 4 validators, a sponsor, {TRAINERS} trainers of which one cheats, a direct channel to \
         each, blocks of {BLOCK_INTERVAL_MS} ms, up to four tranches a claim:\n\n\
         | | claims | p50 ms | p99 ms |\n|---|---|---|---|"
    );
    row("attestation on the payer's ledger -> its wallet sees all that was released settled", &whole);
    row("of that, Lightning alone: payee claims -> payer's wallet sees it", &lightning);
    row("claim refused -> all its payments back", &rejected);
    row("claim paid in part -> the rest back", &unearned);
    let ratio = |percent| percentile(&whole, percent) / percentile(&lightning, percent);
    println!(
        "\nThe whole wait is {:.2} times Lightning's part at p50 and {:.2} times at p99. An empty lite node had its first \
         payment {first_s:.1} s after its start (channel, a round's work, verdict). Resident memory, MiB: validator \
         {:.0}, sponsor {:.0}, trainer {:.0}.\n",
        ratio(50),
        ratio(99),
        memory[0].as_ref().copied().unwrap_or(f64::NAN),
        memory[1].as_ref().copied().unwrap_or(f64::NAN),
        memory[2].as_ref().copied().unwrap_or(f64::NAN),
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_read_from_the_sponsors_log() {
        let id = ClaimId([7; 32]);
        let log = format!(
            "2026-01-01T00:00:00Z  INFO oda_node::sponsor: verdict paid claim={id} msat=5 time_ms=1234 ms=56\n\
             2026-01-01T00:00:00Z  INFO oda_node::sponsor: verdict refunded claim={id} msat=5 time_ms=1300 ms=122\n\
             2026-01-01T00:00:00Z  INFO oda_node::sponsor: verdict paid claim=broken\n"
        );
        assert_eq!(ends(&log, "verdict paid"), BTreeMap::from([(id, End { time_ms: 1234.0, ms: 56.0 })]));
        assert_eq!(ends(&log, "verdict refunded")[&id].ms, 122.0);
    }
}
