//! What came out of a run, in figures that follow from the scenario and the seed alone.
//!
//! Wall time is nowhere in it, so that two reports of one seed can be compared byte by byte. [`summary`] says it to a
//! reader at a terminal; [`page`] and [`table`] say what a whole sweep found.

mod goals;
pub mod page;
pub mod plot;
pub mod stats;
pub mod summary;
pub mod table;

use crate::attackers::{self, Role};
use crate::checks::{CHECKS, ClaimStory, Violation};
use crate::learning::Work;
use crate::scenario::Attack;
use crate::sim::lightning::Fate;
use crate::sim::{Addr, START_MS, Sim};
use oda_consensus::score::{Refusal, Verdict};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The name under which honest parties are counted.
pub const HONEST: &str = "honest";

/// Sum of the same figures over several parties or runs, or one party's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Money {
    /// Nodes.
    pub names: u64,
    /// Claims on the ledger.
    pub claims: u64,
    /// Judged.
    pub judged: u64,
    /// Accepted.
    pub accepted: u64,
    /// Refused, by verdict.
    pub refused: BTreeMap<String, u64>,
    /// Paid.
    pub paid: u64,
    /// Accepted, worth the smallest tranche, and not paid.
    pub unpaid: u64,
    /// Work done, thousandths of honest runs of training.
    pub work_milli: u64,
    /// Received, msat.
    pub received_msat: u64,
    /// Fees paid for claims (P8), msat.
    pub fees_msat: u64,
    /// Sponsors' money that was locked for nothing on this party's account, msat times hours.
    pub locked_msat_hours: u64,
}

impl Money {
    /// Received less fees for each whole run of work, msat; `None` if there was no work.
    pub fn pay_per_run_msat(&self) -> Option<f64> {
        (self.work_milli > 0).then(|| self.net_msat() / self.work_milli as f64 * 1e3)
    }

    /// Received less fees, msat.
    pub fn net_msat(&self) -> f64 {
        self.received_msat as f64 - self.fees_msat as f64
    }

    /// Adds another's figures.
    pub fn add(&mut self, other: &Self) {
        self.names += other.names;
        self.claims += other.claims;
        self.judged += other.judged;
        self.accepted += other.accepted;
        self.paid += other.paid;
        self.unpaid += other.unpaid;
        self.work_milli += other.work_milli;
        self.received_msat += other.received_msat;
        self.fees_msat += other.fees_msat;
        self.locked_msat_hours += other.locked_msat_hours;
        for (verdict, count) in &other.refused {
            *self.refused.entry(verdict.clone()).or_default() += count;
        }
    }
}

/// All nodes of one kind: the honest trainers, or one kind of attackers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Party {
    /// `honest`, or the attackers' kind.
    pub kind: String,
    /// What they are in the network.
    pub role: Role,
    /// How many, and what came of it.
    #[serde(flatten)]
    pub money: Money,
    /// Pay for a unit of work over the honest trainers'; `None` without work or without honest pay.
    pub relative_pay: Option<f64>,
    /// Received, less fees, less what honest trainers net for the same work, msat.
    pub profit_msat: f64,
    /// How many of them were evicted.
    pub evicted: u64,
}

/// A count among others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// How many.
    pub count: u64,
    /// Of how many.
    pub of: u64,
}

/// What a sponsor spent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Spent {
    /// Its place.
    pub sponsor: u32,
    /// The attackers' kind, if it is hostile.
    pub kind: String,
    /// Paid for claims, msat.
    pub paid_msat: u64,
    /// Its money that was locked for nothing, msat times hours.
    pub locked_msat_hours: u64,
    /// Payments locked and given back.
    pub given_back: u64,
}

/// How a model learned: virtual ms since the start, and the true mean loss from then on, nats.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Curve {
    /// Its name.
    pub model: String,
    /// Steps of the curve; the first is the start.
    pub points: Vec<(u64, f64)>,
}

/// Virtual time from commit to receipt of the honest claims that were paid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Waited {
    /// How many.
    pub claims: u64,
    /// Median, ms.
    pub median_ms: u64,
    /// Most, ms.
    pub max_ms: u64,
}

/// What came out of one run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Its scenario.
    pub scenario: String,
    /// What that shows.
    pub about: String,
    /// Seed.
    pub seed: u64,
    /// Validators, members of a committee, all nodes.
    pub network: (u32, u16, u32),
    /// The attackers asked for.
    pub attackers: Vec<Attack>,
    /// What must not happen and did; the first ones in words.
    pub violations: Vec<Violation>,
    /// All of them, counted.
    pub found: u64,
    /// Hash over everything that happened.
    pub trace: String,
    /// Events handled.
    pub events: u64,
    /// Blocks.
    pub blocks: u64,
    /// Rounds judged and adopted.
    pub rounds: (u64, u64),
    /// Virtual time, ms.
    pub virtual_ms: u64,
    /// Virtual time for which faults and attacks lasted, ms.
    pub stormy_ms: u64,
    /// After the faults, how long until all that was open had ended, ms; `None`: it did not in time.
    pub settled_ms: Option<u64>,
    /// Faults by kind.
    pub faults: BTreeMap<String, u64>,
    /// Validators evicted: who, whether it was an attacker, why, when (virtual ms since the start).
    pub evicted: Vec<(String, bool, String, u64)>,
    /// Messages sent, lost, and delivered twice.
    pub messages: [u64; 3],
    /// Honest trainers first, then every kind of attackers.
    pub parties: Vec<Party>,
    /// Honest claims that were opened, whose trainer was not disturbed by a fault, and that were refused all the same.
    pub wrongly_refused: Share,
    /// Sponsors.
    pub sponsors: Vec<Spent>,
    /// Learning.
    pub curves: Vec<Curve>,
    /// Patience.
    pub waited: Waited,
}

impl Report {
    pub(crate) fn of(mut sim: Sim, settled_ms: Option<u64>) -> Self {
        sim.checks.finish(sim.now_ms, &sim.lightning);
        let start_ms = START_MS;
        let parties = parties(&sim);
        let is_bad = |node| sim.place(node).is_some_and(|addr| !sim.is_honest(addr));
        let evicted = sim.checks.tally.evicted.iter();
        Self {
            scenario: sim.scenario.name.clone(),
            about: sim.scenario.about.clone(),
            seed: sim.seed,
            network: (sim.scenario.validators, sim.scenario.committee, (sim.fulls.len() + sim.lites.len()) as u32),
            attackers: sim.scenario.attackers.clone(),
            trace: sim.trace_hash(),
            events: sim.events,
            blocks: sim.checks.ledger().tip().height,
            rounds: sim.checks.tally.rounds,
            virtual_ms: sim.now_ms - start_ms,
            stormy_ms: sim.scenario.minutes * 60_000,
            settled_ms,
            faults: sim.faults_so_far().iter().map(|(name, count)| ((*name).to_owned(), *count)).collect(),
            evicted: evicted
                .map(|(node, why, at_ms)| (node.short(), is_bad(*node), why.clone(), at_ms - start_ms))
                .collect(),
            messages: sim.net.counts,
            parties,
            wrongly_refused: wrongly_refused(&sim),
            sponsors: sponsors(&sim),
            curves: curves(&sim, start_ms),
            waited: waited(&sim),
            found: sim.checks.found,
            violations: sim.checks.violations,
        }
    }

    /// The honest trainers.
    pub fn honest(&self) -> Option<&Party> {
        self.parties.first()
    }

    /// The kinds of attackers.
    pub fn hostile(&self) -> &[Party] {
        self.parties.get(1..).unwrap_or_default()
    }

    /// How many times each check was violated, as far as they were kept in words; all checks, in their order.
    pub fn by_check(&self) -> Vec<(&'static str, &'static str, u64)> {
        let count = |name: &str| self.violations.iter().filter(|v| v.check == name).count() as u64;
        CHECKS.iter().map(|(name, about)| (*name, *about, count(name))).collect()
    }
}

/// A verdict in words.
fn named(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Accepted => "accepted",
        Verdict::NotRevealed => "not revealed",
        Verdict::Refused(Refusal::NotServed) => "not served",
        Verdict::Refused(Refusal::Oversize) => "too many bytes",
        Verdict::Refused(Refusal::Malformed) => "no delta",
        Verdict::Refused(Refusal::WrongShape) => "wrong shape",
        Verdict::Refused(Refusal::NormAboveCap) => "norm above cap",
        Verdict::NotAssignedWork => "not the assigned work",
        Verdict::Harmful => "harmful",
        Verdict::TooLittleWork => "too little work",
        Verdict::NearCopy => "near copy",
        Verdict::BelowStated => "below stated gain",
        Verdict::BadMeasurement => "bad measurement",
    }
}

/// The rules by which a verdict stops a claim.
pub fn rule_of(verdict: &str) -> &'static str {
    match verdict {
        "not revealed" | "not served" => "R3",
        "too many bytes" | "no delta" | "wrong shape" | "norm above cap" => "S7",
        "bad measurement" => "S3",
        _ => "S4",
    }
}

/// Msat times ms as msat times hours.
fn hours(msat_ms: u128) -> u64 {
    u64::try_from(msat_ms / 3_600_000).unwrap_or(u64::MAX)
}

fn parties(sim: &Sim) -> Vec<Party> {
    let mut found: BTreeMap<Option<&'static str>, Money> = BTreeMap::new();
    found.entry(None).or_default();
    let kind_of = |addr: Addr| sim.bad.get(&addr).map(|b| b.seat.kind);
    for addr in sim.everybody() {
        let kind = kind_of(addr);
        let lite = sim.lite(addr);
        if lite.is_none() && kind.is_none() {
            continue;
        }
        let money = found.entry(kind).or_default();
        money.names += 1;
        money.work_milli += lite.map_or(0, |l| l.work_milli);
        money.fees_msat += sim.lightning.fees.get(&addr).copied().unwrap_or(0);
        money.locked_msat_hours += hours(sim.lightning.locked_for_nothing.get(&addr).copied().unwrap_or(0));
    }
    // received is what the wallet got, whatever claim it was for
    for (_, htlc) in sim.lightning.htlcs().filter(|(_, h)| matches!(h.fate, Fate::Claimed(_))) {
        found.entry(kind_of(htlc.payee)).or_default().received_msat += htlc.amount_msat;
    }
    let ledger = sim.checks.ledger();
    let (terms, calm_ms) = (&sim.scenario.terms, START_MS + sim.scenario.minutes * 60_000);
    for (id, story) in &sim.checks.tally.claims {
        let kind = kind_of(story.trainer);
        let Some(money) = found.get_mut(&kind).filter(|_| ledger.claim(*id).is_some()) else { continue };
        // once attacks are over attackers do as the honest do: that is no part of the attack
        if kind.is_some() && story.committed_ms.is_some_and(|ms| ms >= calm_ms) {
            money.received_msat = money.received_msat.saturating_sub(story.paid_msat);
            money.work_milli = money.work_milli.saturating_sub(story.cost_milli.into());
            money.fees_msat = money.fees_msat.saturating_sub(sim.scenario.fee_msat);
            continue;
        }
        money.claims += 1;
        money.paid += u64::from(story.paid_msat > 0);
        let Some(verdict) = story.verdict else { continue };
        money.judged += 1;
        if verdict == Verdict::Accepted {
            let worth = u128::from(story.credit_unat) * u128::from(terms.rate_msat) >= u128::from(terms.unit_msat);
            money.accepted += 1;
            money.unpaid += u64::from(worth && story.paid_msat == 0);
        } else {
            *money.refused.entry(named(verdict).to_owned()).or_default() += 1;
        }
    }
    let honest = found.get(&None).and_then(Money::pay_per_run_msat).filter(|pay| *pay > 0.0);
    let evicted = |kind: Option<&str>| {
        let of = |node| sim.place(node).is_some_and(|addr| kind_of(addr) == kind);
        sim.checks.tally.evicted.iter().filter(|(node, ..)| of(*node)).count() as u64
    };
    found
        .into_iter()
        .map(|(kind, money)| Party {
            kind: kind.unwrap_or(HONEST).to_owned(),
            role: kind.and_then(attackers::kind).map_or(Role::Trainer, |k| k.role),
            relative_pay: money.pay_per_run_msat().zip(honest).map(|(pay, honest)| pay / honest),
            profit_msat: money.net_msat() - money.work_milli as f64 / 1e3 * honest.unwrap_or(0.0),
            evicted: evicted(kind),
            money,
        })
        .collect()
}

fn wrongly_refused(sim: &Sim) -> Share {
    let calm = |story: &ClaimStory| sim.lite(story.trainer).is_some_and(|l| !l.disturbed);
    let counts = |s: &&ClaimStory| {
        s.work == Work::Honest && sim.is_honest(s.trainer) && s.revealed && s.verdict.is_some() && calm(s)
    };
    let all = || sim.checks.tally.claims.values().filter(counts);
    Share { count: all().filter(|s| s.verdict != Some(Verdict::Accepted)).count() as u64, of: all().count() as u64 }
}

fn sponsors(sim: &Sim) -> Vec<Spent> {
    let of = |addr: Addr| {
        let kind = sim.bad.get(&addr).map_or(HONEST, |b| b.seat.kind).to_owned();
        let mut spent = Spent { sponsor: addr.0, kind, paid_msat: 0, locked_msat_hours: 0, given_back: 0 };
        for (_, htlc) in sim.lightning.htlcs().filter(|(_, h)| h.payer == addr) {
            match htlc.fate {
                Fate::Claimed(_) => spent.paid_msat += htlc.amount_msat,
                Fate::Failed => spent.given_back += 1,
                Fate::Held => {}
            }
        }
        spent
    };
    let mut found: Vec<Spent> = sim.fulls.iter().filter(|f| f.is_sponsor()).map(|f| of(f.addr)).collect();
    // whose money it was is not kept apart: one sponsor's is all, several share it by what they gave back
    let locked: u128 = sim.lightning.locked_for_nothing.values().sum();
    let all: u64 = found.iter().map(|s| s.given_back).sum();
    for spent in &mut found {
        spent.locked_msat_hours = hours((locked * u128::from(spent.given_back)).checked_div(all.into()).unwrap_or(0));
    }
    found
}

fn curves(sim: &Sim, start_ms: u64) -> Vec<Curve> {
    let ledger = sim.checks.ledger();
    let heads = &sim.checks.tally.heads;
    let curve = |(id, model): (oda_consensus::ids::ModelId, &oda_consensus::state::ModelState)| {
        let first = (start_ms, model.manifest.initial_head.hash);
        let all = [first].into_iter().chain(heads.get(&id).into_iter().flatten().copied());
        let points = all.map(|(at_ms, head)| (at_ms - start_ms, sim.learning.true_loss(id, head)));
        // JSON has no infinity
        Curve { model: model.manifest.name.clone(), points: points.filter(|(_, loss)| loss.is_finite()).collect() }
    };
    let mut found: Vec<Curve> = ledger.models().map(curve).collect();
    found.sort_by(|a, b| a.model.cmp(&b.model));
    found
}

fn waited(sim: &Sim) -> Waited {
    let honest = sim.checks.tally.claims.values().filter(|s| sim.is_honest(s.trainer) && s.paid_msat > 0);
    let mut all: Vec<u64> = honest.filter_map(|s| Some(s.received_ms?.saturating_sub(s.committed_ms?))).collect();
    all.sort_unstable();
    let median_ms = all.get(all.len() / 2).copied().unwrap_or(0);
    Waited { claims: all.len() as u64, median_ms, max_ms: all.last().copied().unwrap_or(0) }
}
