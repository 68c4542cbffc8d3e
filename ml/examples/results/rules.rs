//! Other ways to judge and to split the pool, tried on claims that were measured once.

use crate::grid;
use crate::pay::{Mean, Party, RoundSeen, Seen};
use crate::pay_report::per_work;
use crate::report::{Report, mean_ci};
use std::ops::RangeInclusive;

/// What a claim's part of the pool is in proportion to.
#[derive(Clone, Copy, PartialEq)]
pub enum Weight {
    /// Gain of the probe step on the gate sample.
    Probe,
    /// Gain on the own shard beyond that on the gate sample.
    Excess,
    /// That less z standard errors.
    ExcessBound,
    /// The excess squared.
    ExcessSquare,
    /// The excess bound squared.
    BoundSquare,
    /// Equal parts.
    Equal,
}

/// A way to judge.
pub struct Rule {
    /// For the table.
    pub name: &'static str,
    /// Assigned-work test.
    pub z: f64,
    /// Near-copies, thousandths.
    pub cosine: i32,
    /// Whether all is measured of deltas clipped to the median norm.
    pub clipped: bool,
    /// Excess needed, in shares of the lower median one among claims that pass the test.
    pub of_median: f64,
    /// Excess needed, in shares of a figure in the manifest: the mean over honest claims of a test run.
    pub of_fixed: f64,
    /// Split.
    pub weight: Weight,
}

const fn rule(name: &'static str, z: f64, cosine: i32, clipped: bool, of_median: f64, weight: Weight) -> Rule {
    Rule { name, z, cosine, clipped, of_median, of_fixed: 0.0, weight }
}

const fn fixed(name: &'static str, of_fixed: f64, weight: Weight) -> Rule {
    Rule { name, z: 4.0, cosine: 600, clipped: true, of_median: 0.0, of_fixed, weight }
}

/// The rules that were tried; the first is the one in force when the claims were measured.
const ALTERNATIVES: [Rule; 19] = [
    rule("the rules before: z 4, cosine 0.8, probe gain", 4.0, 800, false, 0.0, Weight::Probe),
    rule("cosine 0.6", 4.0, 600, false, 0.0, Weight::Probe),
    rule("z 3", 3.0, 800, false, 0.0, Weight::Probe),
    rule("z 6", 6.0, 800, false, 0.0, Weight::Probe),
    rule("clipped before it is measured (so in all below, with cosine 0.6)", 4.0, 600, true, 0.0, Weight::Probe),
    rule("equal parts", 4.0, 600, true, 0.0, Weight::Equal),
    rule("equal parts, 0.8 of the median excess needed", 4.0, 600, true, 0.8, Weight::Equal),
    rule("probe gain, 0.8 of the median excess needed", 4.0, 600, true, 0.8, Weight::Probe),
    rule("excess", 4.0, 600, true, 0.0, Weight::Excess),
    rule("excess squared", 4.0, 600, true, 0.0, Weight::ExcessSquare),
    rule("excess squared, 0.8 of the median needed", 4.0, 600, true, 0.8, Weight::ExcessSquare),
    rule("lower bound of the excess", 4.0, 600, true, 0.0, Weight::ExcessBound),
    rule("lower bound, 0.8 of the median excess needed", 4.0, 600, true, 0.8, Weight::ExcessBound),
    rule("lower bound squared", 4.0, 600, true, 0.0, Weight::BoundSquare),
    rule("lower bound squared, 0.6 of the median excess needed", 4.0, 600, true, 0.6, Weight::BoundSquare),
    rule("lower bound squared, 0.8 of the median excess needed", 4.0, 600, true, 0.8, Weight::BoundSquare),
    rule("lower bound squared, z 3, 0.8 of the median excess needed", 3.0, 600, true, 0.8, Weight::BoundSquare),
    fixed("lower bound, 0.75 of a fixed excess needed", 0.75, Weight::ExcessBound),
    fixed("lower bound squared, 0.75 of a fixed excess needed", 0.75, Weight::BoundSquare),
];

fn measured<'a>(rule: &Rule, claim: &'a Seen) -> &'a [Mean; 3] {
    if rule.clipped { &claim.clipped } else { &claim.full }
}

/// Gain on the own shard beyond that on the gate, and its standard error.
pub fn excess(rule: &Rule, claim: &Seen) -> Mean {
    let [shard, gate, _] = measured(rule, claim);
    (shard.0 - gate.0, shard.1.hypot(gate.1).max(1e-9))
}

/// Which claims are accepted: honest ones, then the party's.
pub fn accepted(rule: &Rule, honest: &[Seen], party: &[Seen], usual: f64) -> Vec<bool> {
    let all: Vec<&Seen> = honest.iter().chain(party).collect();
    let mut fine: Vec<bool> = all
        .iter()
        .map(|c| {
            let ((more, se), probe) = (excess(rule, c), measured(rule, c)[2]);
            more > rule.z * se && probe.0 + 2.33 * probe.1 >= 0.0 && c.cosine < rule.cosine
        })
        .collect();
    let mut found: Vec<f64> =
        all.iter().zip(&fine).filter(|(_, fine)| **fine).map(|(c, _)| excess(rule, c).0).collect();
    found.sort_by(f64::total_cmp);
    let median = found.get(found.len().saturating_sub(1) / 2).copied().unwrap_or(0.0);
    for (claim, fine) in all.iter().zip(&mut fine) {
        *fine &= excess(rule, claim).0 >= (rule.of_median * median).max(rule.of_fixed * usual);
    }
    fine
}

fn weight(rule: &Rule, claim: &Seen) -> f64 {
    let ((more, se), probe) = (excess(rule, claim), measured(rule, claim)[2].0.max(0.0));
    match rule.weight {
        Weight::Probe => probe,
        Weight::Excess => more.max(0.0),
        Weight::ExcessBound => (more - rule.z * se).max(0.0),
        Weight::ExcessSquare => more.max(0.0).powi(2),
        Weight::BoundSquare => (more - rule.z * se).max(0.0).powi(2),
        Weight::Equal => 1.0,
    }
}

/// Parts of the party and of the honest by another rule.
pub fn split(rule: &Rule, round: &RoundSeen, party: &Party) -> [f64; 2] {
    let fine = accepted(rule, &round.honest, &party.claims, round.usual);
    let weights: Vec<f64> = round
        .honest
        .iter()
        .chain(&party.claims)
        .zip(fine)
        .map(|(claim, fine)| if fine { weight(rule, claim) } else { 0.0 })
        .collect();
    let (honest, own) = weights.split_at(round.honest.len());
    [own.iter().sum(), honest.iter().sum()]
}

/// Mean excess of all honest claims: what a sponsor would find in a test run.
pub fn usual(seeds: &[Vec<RoundSeen>]) -> f64 {
    let all: Vec<f64> = seeds.iter().flatten().flat_map(|r| &r.honest).map(|c| excess(&ALTERNATIVES[4], c).0).collect();
    mean_ci(&all).0
}

/// Honest claims accepted by a rule, of all of them, with nobody else there.
fn honest_share(rule: &Rule, seeds: &[Vec<RoundSeen>], stage: &RangeInclusive<u64>) -> (usize, usize) {
    seeds.iter().flatten().filter(|r| stage.contains(&r.round)).fold((0, 0), |(yes, all), round| {
        let fine = accepted(rule, &round.honest, &[], round.usual);
        (yes + fine.iter().filter(|f| **f).count(), all + fine.len())
    })
}

/// What honest claims vary in pay: standard deviation of the weights over their mean.
#[allow(clippy::cast_precision_loss)]
fn luck(rule: &Rule, seeds: &[Vec<RoundSeen>], stage: &RangeInclusive<u64>) -> f64 {
    let spread = |round: &RoundSeen| {
        let weights: Vec<f64> = round.honest.iter().map(|c| weight(rule, c)).collect();
        let mean = weights.iter().sum::<f64>() / weights.len() as f64;
        let variance = weights.iter().map(|w| (w - mean).powi(2)).sum::<f64>() / (weights.len() as f64 - 1.0);
        (mean > 0.0).then(|| variance.sqrt() / mean)
    };
    let all: Vec<f64> = seeds.iter().flatten().filter(|r| stage.contains(&r.round)).filter_map(spread).collect();
    mean_ci(&all).0
}

/// The strategies told one by one; all others count in the columns for the worst.
const TOLD: [&str; 8] = [
    "1/10 of the steps",
    "1/10 of the steps, 3 x inflated",
    "1/3 of the steps",
    "1/3 of the steps, 2 x rate",
    "2 x inflated",
    "half own shard, half evaluation pool",
    "1 run tuned 1/10, 4 names, half hidden",
    "1 run tuned 1/3, 4 names, half hidden",
];

/// A table of rules.
pub fn tell(report: &mut Report, seeds: &[Vec<RoundSeen>], names: &[String], stage: &RangeInclusive<u64>) {
    let mut rows = Vec::new();
    for rule in &ALTERNATIVES {
        let (yes, all) = honest_share(rule, seeds, stage);
        let found: Vec<(&String, f64, f64)> = names
            .iter()
            .map(|name| {
                let (mean, half) = mean_ci(&per_work(seeds, name, stage, Some(rule)));
                (name, mean, half)
            })
            .filter(|(_, mean, _)| mean.is_finite())
            .collect();
        let above = found.iter().filter(|(_, mean, half)| mean - half > 1.0).count();
        let worst = found.iter().max_by(|a, b| a.1.total_cmp(&b.1));
        let mut row = vec![
            rule.name.to_string(),
            format!("{} of {all}", all - yes),
            format!("{:.2}", luck(rule, seeds, stage)),
            above.to_string(),
            worst.map_or(String::new(), |(name, mean, half)| format!("{mean:.2} ± {half:.2} ({name})")),
        ];
        row.extend(TOLD.iter().map(|name| {
            let ratios = per_work(seeds, name, stage, Some(rule));
            if ratios.is_empty() { "-".into() } else { grid::plus_minus(&ratios, 2) }
        }));
        rows.push(row);
    }
    let mut head = vec!["rule", "lost", "luck", "above", "worst"];
    head.extend(TOLD);
    report.table(&head, &rows);
}
