//! What a sweep found, line by line: the file from which tables and pages are made.

use super::{Purpose, Ran};
use crate::attackers::{self, Kind, Role};
use crate::checks::CHECKS;
use crate::report::stats::Mean;
use crate::report::{Money, Party, Report, Share};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Points of a loss curve.
const POINTS: u64 = 60;

/// Violations that are kept in words.
const MAX_BROKEN: usize = 64;

/// What a sweep found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sweep {
    /// Runs.
    pub runs: u64,
    /// Seeds.
    pub seeds: u64,
    /// Virtual time of all of them, hours.
    pub virtual_hours: f64,
    /// Events handled.
    pub events: u64,
    /// Rounds judged.
    pub rounds: u64,
    /// The honest network alone.
    pub honest: Option<ScenarioRow>,
    /// Each attack alone.
    pub attacks: Vec<AttackRow>,
    /// The scenarios.
    pub scenarios: Vec<ScenarioRow>,
    /// What was checked in all runs.
    pub checks: Vec<CheckRow>,
    /// What was broken, the first ones.
    pub violations: Vec<Broken>,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckRow {
    /// Its name.
    pub name: String,
    /// What it says.
    pub about: String,
    /// Runs in which it was violated.
    pub runs: u64,
}

/// A rule that was broken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broken {
    /// Which check.
    pub check: String,
    /// What.
    pub detail: String,
    /// The command that does it again.
    pub command: String,
}

/// What is common to both kinds of lines.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Effect {
    /// Seeds run.
    pub seeds: u64,
    /// The honest trainers, over all seeds.
    pub honest: Money,
    /// Honest claims refused wrongly.
    pub wrongly_refused: Share,
    /// What honest trainers net, over what they net without attackers in the same seed.
    pub honest_pay: Mean,
    /// Rounds judged, over those without attackers in the same seed.
    #[serde(default)]
    pub rounds_kept: Mean,
    /// After faults and attacks, until all that was open had ended: minutes.
    pub settled_min: Mean,
    /// The longest, minutes.
    pub settled_max_min: f64,
    /// Runs in which it did not end in time.
    pub not_settled: u64,
    /// Commit to receipt, minutes: median over seeds' medians, and the longest.
    pub waited_min: (f64, f64),
    /// Messages for each claim judged.
    pub messages_a_claim: f64,
    /// Rounds judged, and those that moved a model.
    pub rounds: (u64, u64),
    /// Violations.
    pub violations: u64,
    /// Validators evicted that were attackers; honest ones are violations.
    pub evicted: u64,
    /// True mean loss by virtual minutes, mean over models and seeds.
    pub loss: Vec<(f64, f64)>,
}

/// One attack, alone against an honest network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttackRow {
    /// Its kind.
    pub name: String,
    /// Rows of the attack table.
    pub rows: Vec<u8>,
    /// What it is in the network.
    pub role: Role,
    /// What it wants.
    pub goal: String,
    /// What it gains if it wins.
    pub gain: String,
    /// What stops it.
    pub stopped_by: String,
    /// What is left to it.
    pub left: String,
    /// Over all seeds.
    pub money: Money,
    /// Claims that were not accepted, of those judged.
    pub caught: Share,
    /// Received, less fees, less what the honest net for the same work: sats a run.
    pub profit_sat: Mean,
    /// Net pay for a unit of work over the honest trainers'.
    pub per_work: Mean,
    /// What honest trainers net in such a run, each: sats.
    pub honest_net_sat: Mean,
    /// What it did to the others.
    pub effect: Effect,
}

/// One scenario.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScenarioRow {
    /// Its name.
    pub name: String,
    /// What it shows.
    pub about: String,
    /// Faults by kind, over all seeds.
    pub faults: BTreeMap<String, u64>,
    /// Its attackers: kind, over all seeds, profit in sats a run.
    pub attackers: Vec<(String, Money, Mean)>,
    /// What came of it for the others.
    pub effect: Effect,
    /// Loss without attackers.
    pub loss_without: Vec<(f64, f64)>,
}

fn minutes(ms: u64) -> f64 {
    ms as f64 / 6e4
}

/// Mean over models and runs, on a grid of times.
fn loss(reports: &[&Report]) -> Vec<(f64, f64)> {
    let Some(end_ms) = reports.iter().map(|r| r.stormy_ms).min() else { return Vec::new() };
    let at =
        |points: &[(u64, f64)], ms: u64| points.iter().take_while(|(at, _)| *at <= ms).last().map(|(_, loss)| *loss);
    (0..=POINTS)
        .filter_map(|place| {
            let ms = end_ms * place / POINTS;
            let all = reports.iter().flat_map(|r| &r.curves).filter_map(|c| at(&c.points, ms));
            let all: Vec<f64> = all.collect();
            (!all.is_empty()).then(|| (minutes(ms), all.iter().sum::<f64>() / all.len() as f64))
        })
        .collect()
}

fn party<'a>(report: &'a Report, kind: &str) -> Option<&'a Party> {
    report.parties.iter().find(|p| p.kind == kind)
}

fn sum<'a>(parties: impl Iterator<Item = &'a Party>) -> Money {
    let mut all = Money::default();
    parties.for_each(|p| all.add(&p.money));
    all
}

impl Effect {
    fn of(reports: &[&Report], twins: &[&Report]) -> Self {
        let honest = |r: &Report| r.honest().map_or(0.0, |p| p.money.net_msat());
        let pay = |r: &&Report| {
            let twin = twins.iter().find(|t| t.seed == r.seed).map(|t| honest(t)).filter(|msat| *msat > 0.0)?;
            Some(honest(r) / twin)
        };
        let rounds = |r: &&Report| {
            let twin = twins.iter().find(|t| t.seed == r.seed).map(|t| t.rounds.0).filter(|rounds| *rounds > 0)?;
            Some(r.rounds.0 as f64 / twin as f64)
        };
        let settled: Vec<f64> = reports.iter().filter_map(|r| r.settled_ms.map(minutes)).collect();
        let mut medians: Vec<f64> =
            reports.iter().filter(|r| r.waited.claims > 0).map(|r| minutes(r.waited.median_ms)).collect();
        medians.sort_by(f64::total_cmp);
        let longest = reports.iter().map(|r| minutes(r.waited.max_ms)).fold(0.0, f64::max);
        let mut wrongly_refused = Share::default();
        reports.iter().for_each(|r| wrongly_refused.add(r.wrongly_refused));
        let judged: u64 = reports.iter().flat_map(|r| &r.parties).map(|p| p.money.judged).sum();
        let sent: u64 = reports.iter().map(|r| r.messages[0]).sum();
        Self {
            seeds: reports.len() as u64,
            honest: sum(reports.iter().filter_map(|r| r.honest())),
            wrongly_refused,
            honest_pay: Mean::of(&reports.iter().filter_map(pay).collect::<Vec<_>>()),
            rounds_kept: Mean::of(&reports.iter().filter_map(rounds).collect::<Vec<_>>()),
            settled_min: Mean::of(&settled),
            settled_max_min: settled.iter().copied().fold(0.0, f64::max),
            not_settled: (reports.len() - settled.len()) as u64,
            waited_min: (medians.get(medians.len() / 2).copied().unwrap_or(0.0), longest),
            messages_a_claim: sent as f64 / judged.max(1) as f64,
            rounds: reports.iter().fold((0, 0), |sum, r| (sum.0 + r.rounds.0, sum.1 + r.rounds.1)),
            violations: reports.iter().map(|r| r.found).sum(),
            evicted: reports.iter().flat_map(|r| &r.evicted).filter(|(_, bad, ..)| *bad).count() as u64,
            loss: loss(reports),
        }
    }
}

impl AttackRow {
    fn of(kind: &Kind, reports: &[&Report], base: &[&Report]) -> Self {
        let parties: Vec<&Party> = reports.iter().filter_map(|r| party(r, kind.name)).collect();
        let money = sum(parties.iter().copied());
        let caught = Share { count: money.judged - money.accepted, of: money.judged };
        let mean = |values: Vec<f64>| Mean::of(&values);
        let each = |r: &&Report| r.honest().map(|p| p.money.net_msat() / 1e3 / p.money.names.max(1) as f64);
        Self {
            name: kind.name.into(),
            rows: kind.rows.to_vec(),
            role: kind.role,
            goal: kind.goal.into(),
            gain: kind.gain.into(),
            stopped_by: kind.stopped_by.into(),
            left: kind.left.into(),
            caught,
            profit_sat: mean(parties.iter().map(|p| p.profit_msat / 1e3).collect()),
            per_work: mean(parties.iter().filter_map(|p| p.relative_pay).collect()),
            honest_net_sat: mean(reports.iter().filter_map(each).collect()),
            money,
            // with a second sponsor and model it is another network: nothing to compare with
            effect: Effect::of(reports, if kind.role == Role::Sponsor { &[] } else { base }),
        }
    }
}

impl ScenarioRow {
    fn of(reports: &[&Report], twins: &[&Report]) -> Option<Self> {
        let first = reports.first()?;
        let mut faults: BTreeMap<String, u64> = BTreeMap::new();
        for (fault, count) in reports.iter().flat_map(|r| &r.faults) {
            *faults.entry(fault.clone()).or_default() += count;
        }
        let attackers = first.hostile().iter().map(|p| {
            let all: Vec<&Party> = reports.iter().filter_map(|r| party(r, &p.kind)).collect();
            let profit = Mean::of(&all.iter().map(|p| p.profit_msat / 1e3).collect::<Vec<_>>());
            (p.kind.clone(), sum(all.into_iter()), profit)
        });
        Some(Self {
            name: first.scenario.clone(),
            about: first.about.clone(),
            faults,
            attackers: attackers.collect(),
            effect: Effect::of(reports, twins),
            loss_without: loss(twins),
        })
    }
}

impl Sweep {
    pub(super) fn of(runs: &[Ran]) -> Self {
        let all: Vec<&Report> = runs.iter().map(|r| &r.report).collect();
        let of = |purpose: &Purpose| -> Vec<&Report> {
            runs.iter().filter(|r| r.purpose == *purpose).map(|r| &r.report).collect()
        };
        let base = of(&Purpose::Base);
        let attacks = attackers::kinds().iter().map(|kind| (kind, of(&Purpose::Alone(kind.name))));
        let attacks = attacks.filter(|(_, reports)| !reports.is_empty());
        let mut names: Vec<&String> = Vec::new();
        for ran in runs {
            if let Purpose::Scenario(name) = &ran.purpose
                && !names.contains(&name)
            {
                names.push(name);
            }
        }
        let scenario = |name: &&String| {
            ScenarioRow::of(&of(&Purpose::Scenario((*name).clone())), &of(&Purpose::Twin((*name).clone())))
        };
        let checks = CHECKS.iter().map(|(name, about)| {
            let violated = |r: &&&Report| r.violations.iter().any(|v| v.check == *name);
            let runs = all.iter().filter(violated).count() as u64;
            CheckRow { name: (*name).into(), about: (*about).into(), runs }
        });
        let broken = runs.iter().flat_map(|ran| {
            let command = format!("simnet run {} --seed {}", ran.arguments, ran.report.seed);
            let of = move |v: &crate::checks::Violation| {
                let (check, detail) = (v.check.to_owned(), v.detail.clone());
                Broken { check, detail, command: command.clone() }
            };
            // one of each run: the others usually follow from it
            ran.report.violations.first().map(of)
        });
        Self {
            runs: all.len() as u64,
            seeds: all.iter().map(|r| r.seed).collect::<BTreeSet<_>>().len() as u64,
            virtual_hours: all.iter().map(|r| r.virtual_ms as f64 / 3.6e6).sum(),
            events: all.iter().map(|r| r.events).sum(),
            rounds: all.iter().map(|r| r.rounds.0).sum(),
            honest: ScenarioRow::of(&base, &[]),
            attacks: attacks.map(|(kind, reports)| AttackRow::of(kind, &reports, &base)).collect(),
            scenarios: names.iter().filter_map(scenario).collect(),
            checks: checks.collect(),
            violations: broken.take(MAX_BROKEN).collect(),
        }
    }

    /// Honest claims refused wrongly, over all lines.
    pub fn wrongly_refused(&self) -> Share {
        let mut all = Share::default();
        let effects = self.attacks.iter().map(|a| &a.effect).chain(self.scenarios.iter().map(|s| &s.effect));
        effects.chain(self.honest.iter().map(|h| &h.effect)).for_each(|e| all.add(e.wrongly_refused));
        all
    }
}
