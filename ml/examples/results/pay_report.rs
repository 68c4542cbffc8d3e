//! The tables of `pay`: what each strategy earned, what the sponsor paid for, and how alike deltas are.

use crate::grid;
use crate::pay::{HONEST, Mean, Party, Plan, RoundSeen, Seen};
use crate::report::{Report, mean_ci};
use crate::rules::{self, Rule};
use crate::strategies::World;

/// Stages of training.
const STAGES: [(&str, std::ops::RangeInclusive<u64>); 4] =
    [("rounds 1-3", 1..=3), ("4-8", 4..=8), ("9 and later", 9..=99), ("all", 1..=99)];

/// What is measured and how to read it.
pub fn introduce(report: &mut Report) {
    report.text(
        "Four honest trainers, and beside them one party that tries to earn more for less, in the same rounds on the \
         same heads. Every claim is compressed, decoded, replayed by `judge::replay` and judged by `Outcome::derive`; \
         the head is moved by the honest claims alone, so that each strategy is tried on the same heads. Work is \
         counted in whole local runs (gradient steps computed for all of the party's names over the steps of a run). \
         **Pay per unit of work** is the party's credit over its work, divided by the honest four's credit over theirs \
         in the same rounds, every round counted alike: above 1, the strategy pays better than honesty. Intervals are \
         95 % by Student's t over seeds. `tuned` means trained further on each name's own shard; `half hidden` that \
         each name leaves out another random half of the weights. Claims cannot be copied from strangers before \
         commits close (R1), so copies and averages are an accomplice's.\n\nRepeat with `cargo run --release -p oda-ml \
         --example results -- pay`; every claim's measurement is in `pay.jsonl`.",
    );
}

/// What the committed cells show; written by hand, so check it against the tables when they change.
pub const FOUND: &str = "\
## What came out

- **Never paid for more than was proven**: asserted in every one of these rounds; no head was credited beyond doubt \
more than it gains on fresh data.
- **Earn nothing under the rules as shipped**: noise, flipped signs, work on other data, tenfold inflation (refused by \
the norm cap), hoarded deltas, a tenth of the steps. **Earn no more than honesty**: copies, noisy copies, slices, \
averages, inflation, one run under 2 to 16 names with or without further steps, weights hidden or not.
- **Earn more than honesty still** (whole interval above 1 in a stage): a third of the steps at twice the rate, from \
round 9 on (Fashion-MNIST, 2.6 times per unit of work; over all rounds 1.8 ± 0.9), and two thirds of the steps, from \
round 9 on (bytes, 1.9 times). Both are less training than the manifest asks for that learns the shard as well: a better \
recipe rather than less work. A sponsor should state the cheapest recipe that trains well, and then there is nothing to \
shorten. Of some 200 intervals at 95 % a few lie above 1 by chance: one run under two names cannot earn more than one, \
and shows 1.12 ± 0.08 in one stage of bytes.
- **What the rules before these paid** (z 4, cosine 0.8, pay by the probe gain of the delta as it was sent; first row of \
the tables of rules). (1) *Inflating* twofold earned twice as much. (2) *Fewer steps*: AdamW moves most in its first \
steps, so from round 4 on a tenth of them passes z 4 in most claims and earned 6 times an honest part per unit of work, \
inflated 18 times. (3) *One run tuned for a third of the steps under several names*; hiding half of the weights brings \
cosines (0.33-0.44) down to those of honest pairs (up to 0.37), so no cosine bound stops it. (4) *Training on the \
evaluation pool*, late: whoever knows the pool raises its own probe gain.
- **What closed them.** The probe gain saturates within a few steps, the excess of the own shard over the gate does \
not: a tenth of the steps has a quarter of it, a third a little over half. So a delta is clipped to the median norm \
*before* anything is measured of it, and a claim whose excess is below 0.75 of the lower median among claims that pass \
is refused (`least_work_milli`; the tables try 0.6 and 0.8). It costs 2 of 120 honest claims of Fashion-MNIST at \
0.8. Paying by the lower bound of the excess would be steeper still, and pays honest trainers by luck: its spread within a \
round is 0.3 of the mean instead of 0.07.
- **The limit of the median**: it is the honest ones' only while they are the larger part of what passes. Where lazy \
names are as many, it is theirs, and the rows without it apply. The fixed figure has no such limit, but must be \
measured for each model.
- The rules were ranked on the first two seeds, then run on all; nothing else was fitted.
- **Cosine**: 0.6 separates independent honest work (at most 0.36) from a run tuned for a third or a tenth of the \
steps (0.62 and more); 0.8 lets most of the former through.";

/// A party in all rounds of a seed.
fn parties<'a>(
    rounds: &'a [RoundSeen],
    name: &str,
    stage: &std::ops::RangeInclusive<u64>,
) -> Vec<(&'a RoundSeen, &'a Party)> {
    let of_stage = rounds.iter().filter(|r| stage.contains(&r.round));
    of_stage.filter_map(|r| r.parties.iter().find(|p| p.name == name).map(|p| (r, p))).collect()
}

/// Pay per unit of work relative to the honest, for each seed in which there was any.
#[allow(clippy::cast_precision_loss)]
pub fn per_work(
    seeds: &[Vec<RoundSeen>],
    name: &str,
    stage: &std::ops::RangeInclusive<u64>,
    rule: Option<&Rule>,
) -> Vec<f64> {
    let ratio = |rounds: &Vec<RoundSeen>| {
        let (mut mine, mut theirs, mut work, mut honest_work) = (0.0, 0.0, 0.0, 0.0);
        for (round, party) in parties(rounds, name, stage) {
            let [own, honest] = match rule {
                None => [party.credit[0] as f64, party.credit[1] as f64],
                Some(rule) => rules::split(rule, round, party),
            };
            if own + honest <= 0.0 {
                continue; // nothing proven, nobody paid
            }
            // every round counts alike, or the first, where most is gained, would hide the others
            mine += own / (own + honest);
            theirs += honest / (own + honest);
            work += party.work;
            honest_work += HONEST as f64;
        }
        (theirs > 0.0 && work > 0.0).then(|| (mine / work) / (theirs / honest_work))
    };
    seeds.iter().filter_map(ratio).collect()
}

#[allow(clippy::cast_precision_loss)]
/// Everything about one model.
pub fn tell(report: &mut Report, plan: &Plan, world: &World, seeds: &[Vec<RoundSeen>]) {
    let j = &world.manifest.judging;
    report.text(&format!(
        "## {}\n\n{} seeds, rounds {:?} of each; {} steps a run, shard {}, gate and confirm {} and {}, z {}, probe \
         1/{}, cosine {}.",
        plan.model,
        seeds.len(),
        plan.rounds,
        world.steps(),
        j.shard_samples,
        j.gate_samples,
        j.confirm_samples,
        f64::from(j.assigned_z_milli) / 1000.0,
        j.probe_divisor,
        f64::from(j.copy_cosine_milli) / 1000.0
    ));
    let names: Vec<String> =
        seeds.iter().flatten().last().map_or(Vec::new(), |r| {
            r.parties.iter().filter(|p| !p.claims.is_empty()).map(|p| p.name.clone()).collect()
        });
    let (mut rows, mut bars) = (Vec::new(), Vec::new());
    for name in &names {
        let all: Vec<(&RoundSeen, &Party)> = seeds.iter().flat_map(|s| parties(s, name, &STAGES[3].1)).collect();
        let claims: Vec<&Seen> = all.iter().flat_map(|(_, p)| &p.claims).collect();
        let accepted = claims.iter().filter(|c| c.accepted).count() as f64 / claims.len().max(1) as f64;
        let (own, total) = all.iter().fold((0, 0), |(o, t), (_, p)| (o + p.credit[0], t + p.credit[0] + p.credit[1]));
        let mut row = vec![
            name.clone(),
            format!("{:.2}", all.first().map_or(0.0, |(_, p)| p.work)),
            format!("{:.0} %", 100.0 * accepted),
            format!("{:.1} %", 100.0 * own as f64 / total.max(1) as f64),
        ];
        for (_, stage) in &STAGES {
            let ratios = per_work(seeds, name, stage, None);
            row.push(if ratios.is_empty() { "-".into() } else { grid::plus_minus(&ratios, 2) });
        }
        let (mean, half) = mean_ci(&per_work(seeds, name, &STAGES[3].1, None));
        if mean.is_finite() {
            bars.push((name.clone(), mean, half));
        }
        rows.push(row);
    }
    report.table(
        &["strategy", "work", "accepted", "share of pay", "per work, rounds 1-3", "4-8", "9 and later", "all"],
        &rows,
    );
    report.bars(plan.model, &format!("{}: pay per unit of work, honest = 1", plan.model), "times honest", &bars);
    sponsor(report, seeds);
    likeness(report, seeds);
    thresholds(report, seeds);
    report.text(
        "**Other rules on the same claims.** Pay per unit of work by each rule. `lost`: honest claims refused, with \
         nobody else there; `luck`: standard deviation of an honest claim's part over its mean within a round; \
         `above`: strategies whose whole interval is above 1.",
    );
    for (name, stage) in [("Rounds 1-3", 1..=3), ("Later rounds", 4..=99)] {
        report.text(&format!("{name}:"));
        rules::tell(report, seeds, &names, &stage);
    }
}

/// What the sponsor pays against what it gets.
#[allow(clippy::cast_precision_loss)]
fn sponsor(report: &mut Report, seeds: &[Vec<RoundSeen>]) {
    let all: Vec<(f64, Mean)> = seeds
        .iter()
        .flatten()
        .flat_map(|r| &r.parties)
        .filter_map(|p| p.fresh.filter(|_| p.credit[2] > 0).map(|fresh| (p.credit[2] as f64, fresh)))
        .collect();
    let above = all.iter().filter(|(proven, fresh)| *proven > fresh.0).count();
    let clearly = all.iter().filter(|(proven, fresh)| *proven > fresh.0 + 2.33 * fresh.1).count();
    let (paid, real) = all.iter().fold((0.0, 0.0), |(p, r), (proven, fresh)| (p + proven, r + fresh.0));
    report.text(&format!(
        "**The sponsor.** Credits never added up to more than was proven (asserted in every round). Of {} heads that \
         were adopted and measured on fresh data, {above} were credited more than their gain there, {clearly} of them \
         beyond doubt (2.33 standard errors). In all {:.0} % of the gain on fresh data was paid for.",
        all.len(),
        100.0 * paid / real
    ));
}

/// The assigned-work test on these claims at several thresholds.
fn thresholds(report: &mut Report, seeds: &[Vec<RoundSeen>]) {
    report.text(
        "**Thresholds** of the assigned-work test on these claims: honest ones refused, others that would pass it \
         (single claims, near-copies not counted).",
    );
    let z = |c: &Seen| {
        let [shard, gate, _] = c.full;
        (shard.0 - gate.0) / shard.1.hypot(gate.1).max(1e-9)
    };
    let mut rows = Vec::new();
    for (name, stage) in STAGES {
        let of_stage = || seeds.iter().flatten().filter(|r| stage.contains(&r.round));
        for threshold in [2.33, 3.0, 4.0, 5.0, 6.0] {
            let honest: Vec<f64> = of_stage().flat_map(|r| &r.honest).map(z).collect();
            let refused = honest.iter().filter(|z| **z <= threshold).count();
            let mut row = vec![name.to_string(), threshold.to_string(), format!("{refused} of {}", honest.len())];
            for party in ["noise", "sign flipped", "other data", "1/10 of the steps", "1/3 of the steps"] {
                let of_party = of_stage().flat_map(|r| &r.parties).filter(|p| p.name == party);
                let all: Vec<f64> = of_party.flat_map(|p| &p.claims).map(z).collect();
                row.push(format!("{} of {}", all.iter().filter(|z| **z > threshold).count(), all.len()));
            }
            rows.push(row);
        }
    }
    let head = [
        "stage",
        "z",
        "honest refused",
        "noise",
        "sign flipped",
        "other data",
        "1/10 of the steps",
        "1/3 of the steps",
    ];
    report.table(&head, &rows);
}

fn likeness(report: &mut Report, seeds: &[Vec<RoundSeen>]) {
    let quantiles = |mut values: Vec<i32>| -> Vec<String> {
        values.sort_unstable();
        let at = |share: f64| {
            #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let i = ((values.len() as f64 - 1.0) * share).round() as usize;
            values.get(i).map_or("-".into(), |v| format!("{:.2}", f64::from(*v) / 1000.0))
        };
        vec![values.len().to_string(), at(0.0), at(0.5), at(0.99), at(1.0)]
    };
    let mut rows = Vec::new();
    for (name, stage) in &STAGES {
        let of_stage = seeds.iter().flatten().filter(|r| stage.contains(&r.round));
        let mut row = vec![format!("honest pairs, {name}")];
        row.extend(quantiles(of_stage.flat_map(|r| r.cosines.clone()).collect()));
        rows.push(row);
    }
    let every = || seeds.iter().flatten().flat_map(|r| &r.parties);
    for name in [
        "copy with noise, 2 names",
        "2 runs and their average, 3 names",
        "1 run tuned 1/10, 4 names",
        "1 run tuned 1/3, 4 names",
        "1 run tuned 1/10, 4 names, half hidden",
        "1 run tuned 1/3, 4 names, half hidden",
        "slices, 4 names",
    ] {
        let of_name = every().filter(|p| p.name == name);
        let mut row = vec![name.to_string()];
        row.extend(quantiles(of_name.flat_map(|p| p.claims.iter().skip(1).map(|c| c.cosine)).collect()));
        rows.push(row);
    }
    report.text("**Cosines** of what was sent: honest pairs, and each further name with the nearest one before it.");
    report.table(&["pairs", "number", "least", "median", "99 %", "largest"], &rows);
}
