//! The tables of `rejection`: what was observed, what the normal law predicts, and what follows for a model.

use crate::rejection::{Claim, KINDS, PROBES, Plan, Setting, THRESHOLDS};
use crate::report::{Report, Series, mean_ci};
use crate::strategies::World;
use oda_consensus::manifest::Judging;

/// What is measured and how to read it.
pub fn introduce(report: &mut Report) {
    report.text(
        "A claim passes the assigned-work test if its mean gain on its own shard exceeds that on the gate sample by z \
         standard errors. With s the spread of the per-sample gains and D the true excess, z is normal with mean D / \
         sqrt(s_shard^2 / n + s_gate^2 / m) for shard size n and gate size m, and a spread near 1; so P(refused) = \
         Phi(threshold - mean z). `predicted` puts the measured mean and spread of z into the normal law; `observed` \
         counts claims. Every honest claim is made on real heads, with an optimiser that has worked the rounds before, \
         and compressed. `foreign`: the same work handed in for another shard; `tenth`, `third`: so much of the \
         steps.\n\n\
         Repeat with `cargo run --release -p oda-ml --example results -- rejection`; measured sums of each claim are \
         in `rejection.jsonl`.",
    );
}

/// Probability of a standard normal below x (Abramowitz and Stegun 7.1.26, error below 2e-7).
fn phi(x: f64) -> f64 {
    let y = x.abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * y);
    let poly =
        t * (0.254_829_592 + t * (-0.284_496_736 + t * (1.421_413_741 + t * (-1.453_152_027 + t * 1.061_405_429))));
    let upper = 0.5 * poly * (-y * y).exp();
    if x < 0.0 { upper } else { 1.0 - upper }
}

#[allow(clippy::cast_precision_loss)]
fn spread(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    (mean, (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0)).sqrt())
}

fn of_kind(all: &[Setting], kind: usize, keep: impl Fn(&Setting) -> bool) -> Vec<&Claim> {
    all.iter().filter(|s| keep(s)).flat_map(|s| &s.claims).filter(|c| c.kind == kind).collect()
}

/// `3 of 180`.
fn count(values: &[f64], hit: impl Fn(f64) -> bool) -> String {
    format!("{} of {}", values.iter().filter(|v| hit(**v)).count(), values.len())
}

/// Everything about one model.
pub fn tell(report: &mut Report, plan: &Plan, world: &World, all: &[Setting], seeds: usize) {
    let j = &world.manifest.judging;
    let usual = plan.gates.iter().position(|g| *g == j.gate_samples).unwrap_or(0);
    let is_own = |s: &Setting| s.shard == j.shard_samples && s.steps_milli == 1000;
    report.text(&format!(
        "## {}\n\n{seeds} seeds, rounds {:?}; {} steps a run of batch {}, shard {}, gate {} where nothing else is \
         said.",
        plan.model,
        plan.rounds,
        world.steps(),
        world.manifest.training.batch,
        j.shard_samples,
        j.gate_samples
    ));
    by_setting(report, plan, all, usual, j);
    by_threshold(report, plan, all, usual, &is_own);
    by_gate(report, plan, all, &is_own);
    by_part(report, all, usual, j, &is_own);
    least(report, all, j, &is_own);
    screens(report, plan, all, j, &is_own);
    probes(report, plan, all, &is_own);
}

/// Mean z and refusals for each shard size, number of steps and stage.
fn by_setting(report: &mut Report, plan: &Plan, all: &[Setting], usual: usize, j: &Judging) {
    report.text(
        "**By shard size, steps and stage.** Honest z at the model's gate; refused at z 4: observed, and predicted; \
         foreign and tenth accepted at z 4.",
    );
    let (mut rows, mut lines) = (Vec::new(), Vec::new());
    let settings: Vec<(u32, u32)> = {
        let mut found: Vec<(u32, u32)> = all.iter().map(|s| (s.steps_milli, s.shard)).collect();
        found.sort_unstable();
        found.dedup();
        found
    };
    for round in plan.rounds {
        let mut points = (Vec::new(), Vec::new());
        for (steps, shard) in &settings {
            let here = |s: &Setting| s.round == *round && s.shard == *shard && s.steps_milli == *steps;
            let zs = |kind| -> Vec<f64> { of_kind(all, kind, here).iter().map(|c| c.z(usual)).collect() };
            let (honest, foreign, tenth) = (zs(0), zs(1), zs(2));
            if honest.is_empty() {
                continue;
            }
            let (mean, sd) = spread(&honest);
            rows.push(vec![
                round.to_string(),
                shard.to_string(),
                format!("{:.2}", f64::from(*steps) / 1000.0),
                format!("{mean:.1} ({sd:.1})"),
                format!("{:.1}", honest.iter().copied().fold(f64::MAX, f64::min)),
                count(&honest, |z| z <= 4.0),
                format!("{:.2} %", 100.0 * phi((4.0 - mean) / sd.max(0.01))),
                count(&foreign, |z| z > 4.0),
                if tenth.is_empty() { "-".into() } else { count(&tenth, |z| z > 4.0) },
            ]);
            if *steps == 1000 {
                points.0.push((f64::from(*shard), mean));
                points.1.push(sd);
            }
        }
        lines.push(Series { name: format!("round {round}"), points: points.0, error: Some(points.1) });
    }
    report.table(
        &[
            "round",
            "shard",
            "steps",
            "honest z (spread)",
            "least",
            "refused",
            "predicted",
            "foreign accepted",
            "tenth accepted",
        ],
        &rows,
    );
    let title = format!("{}: z of honest claims by shard size (bars: spread)", plan.model);
    report.plot(plan.model, &title, &format!("shard, samples (the model has {})", j.shard_samples), "z", &lines);
}

/// What each threshold refuses and lets through.
fn by_threshold(report: &mut Report, plan: &Plan, all: &[Setting], usual: usize, own: &impl Fn(&Setting) -> bool) {
    report.text(
        "**By threshold**, with the model's own figures: honest claims refused, others accepted by the assigned-work \
         test.",
    );
    let mut rows = Vec::new();
    for stage in std::iter::once(None).chain(plan.rounds.iter().map(Some)) {
        for threshold in THRESHOLDS {
            let mut row = vec![stage.map_or("all".into(), u64::to_string), format!("{threshold}")];
            for kind in 0..KINDS.len() {
                let here = |s: &Setting| own(s) && stage.is_none_or(|r| s.round == *r);
                let zs: Vec<f64> = of_kind(all, kind, here).iter().map(|c| c.z(usual)).collect();
                row.push(count(&zs, |z| if kind == 0 { z <= threshold } else { z > threshold }));
            }
            rows.push(row);
        }
    }
    let mut head = vec!["round", "z", "honest refused"];
    head.extend(KINDS.iter().skip(1));
    report.table(&head, &rows);
}

/// The gate's size.
fn by_gate(report: &mut Report, plan: &Plan, all: &[Setting], own: &impl Fn(&Setting) -> bool) {
    report.text("**By gate size**: all rounds together.");
    let mut rows = Vec::new();
    for (i, gate) in plan.gates.iter().enumerate() {
        let zs = |kind| -> Vec<f64> { of_kind(all, kind, own).iter().map(|c| c.z(i)).collect() };
        let (honest, foreign) = (zs(0), zs(1));
        let (mean, sd) = spread(&foreign);
        rows.push(vec![
            gate.to_string(),
            format!("{:.1}", spread(&honest).0),
            count(&honest, |z| z <= 3.0),
            count(&honest, |z| z <= 4.0),
            format!("{mean:.2} ({sd:.2})"),
            format!("{:.1}", foreign.iter().copied().fold(f64::MIN, f64::max)),
        ]);
    }
    report.table(&["gate", "honest z", "refused at 3", "refused at 4", "foreign z (spread)", "largest foreign"], &rows);
}

/// The square root law on parts of the same shards.
fn by_part(report: &mut Report, all: &[Setting], usual: usize, j: &Judging, own: &impl Fn(&Setting) -> bool) {
    report.text(
        "**Theory.** The same honest claims, measured on the first part of their shards only: z from the excess and \
         the spreads of the whole shard, against z measured; the spread of z over claims beyond 1 is that of the \
         claims themselves.",
    );
    let claims = of_kind(all, 0, own);
    let mut rows = Vec::new();
    let m = f64::from(j.gate_samples);
    for (i, part) in [8u32, 4, 2, 1].into_iter().enumerate() {
        let n = f64::from(j.shard_samples / part);
        #[allow(clippy::cast_precision_loss)]
        let measured: Vec<f64> =
            claims.iter().map(|c| c.parts.get(i).map_or(c.z(usual), |z| *z as f64 / 1000.0)).collect();
        let expected: Vec<f64> = claims
            .iter()
            .map(|c| {
                let [shard, s, gate, g] = c.gain();
                (shard - gate) / (s * s / n + g * g / m).sqrt()
            })
            .collect();
        let ((found, sd), (theory, theory_sd)) = (spread(&measured), spread(&expected));
        let predicted: f64 = mean_ci(&expected.iter().map(|e| phi(4.0 - e)).collect::<Vec<f64>>()).0;
        rows.push(vec![
            format!("{n}"),
            format!("{found:.2} ({sd:.2})"),
            format!("{theory:.2} ({theory_sd:.2})"),
            count(&measured, |z| z <= 4.0),
            format!("{:.1} %", 100.0 * predicted),
        ]);
    }
    report.table(
        &["samples of the shard", "z measured (spread)", "z by theory (spread)", "refused at 4", "predicted"],
        &rows,
    );
}

/// What a model must bring.
fn least(report: &mut Report, all: &[Setting], j: &Judging, own: &impl Fn(&Setting) -> bool) {
    report.text(
        "**What a model must bring.** To lose fewer than 1 % of honest claims, the mean z must reach threshold + \
         2.33: s_shard^2 / n + s_gate^2 / m <= (D / (threshold + 2.33))^2. With the gate m as it is this gives the \
         least shard n, from the excess D and the spreads measured (nats, medians over claims), at each stage. A \
         smaller shard is learned more thoroughly in as many steps (D grows), so this errs on the safe side; see the \
         first table for what was observed.",
    );
    let mut rounds: Vec<u64> = all.iter().map(|s| s.round).collect();
    rounds.sort_unstable();
    rounds.dedup();
    let median = |mut v: Vec<f64>| {
        v.sort_by(f64::total_cmp);
        v.get(v.len() / 2).copied().unwrap_or(f64::NAN)
    };
    let mut rows = Vec::new();
    for round in rounds {
        let claims = of_kind(all, 0, |s| own(s) && s.round == round);
        let m = f64::from(j.gate_samples);
        let d = median(claims.iter().map(|c| c.gain()[0] - c.gain()[2]).collect());
        let s = median(claims.iter().map(|c| c.gain()[1]).collect());
        let g = median(claims.iter().map(|c| c.gain()[3]).collect());
        let mut row =
            vec![round.to_string(), format!("{:.3}", d / 1e6), format!("{:.3}", s / 1e6), format!("{:.3}", g / 1e6)];
        for threshold in [3.0, 4.0, 5.0] {
            let left = (d / (threshold + 2.33)).powi(2) - g * g / m;
            row.push(if left > 0.0 { format!("{:.0}", (s * s / left).ceil()) } else { "no shard does".into() });
        }
        rows.push(row);
    }
    report.table(&["round", "D", "s_shard", "s_gate", "least shard at z 3", "at z 4", "at z 5"], &rows);
}

/// What stopping early saves.
fn screens(report: &mut Report, plan: &Plan, all: &[Setting], j: &Judging, own: &impl Fn(&Setting) -> bool) {
    report.text(
        "**Stopping early.** Claims that `hopeless` drops after the first part of the gate sample, at z 4; samples \
         measured of a claim at full step (its shard and the gate, parent not counted) against measuring all; and \
         verdicts changed against screening off.",
    );
    let mut rows = Vec::new();
    for (i, screen) in plan.screens.iter().enumerate() {
        let (mut changed, mut judged, mut row) = (0, 0, vec![screen.to_string()]);
        for kind in 0..KINDS.len() {
            let claims = of_kind(all, kind, own);
            let dropped: Vec<u8> = claims.iter().filter_map(|c| c.screens.get(i).copied()).filter(|s| *s > 0).collect();
            changed += dropped.iter().filter(|s| **s == 2).count();
            judged += claims.len();
            #[allow(clippy::cast_precision_loss)]
            let share = dropped.len() as f64 / claims.len().max(1) as f64;
            let all_samples = f64::from(j.shard_samples + j.gate_samples);
            let measured = all_samples - share * f64::from(j.gate_samples - screen);
            row.push(format!("{:.0} % ({:.0} % measured)", 100.0 * share, 100.0 * measured / all_samples));
        }
        row.push(format!("{changed} of {judged}"));
        rows.push(row);
    }
    let mut head = vec!["screen"];
    head.extend(KINDS);
    head.push("verdicts changed");
    report.table(&head, &rows);
}

/// The probe step.
fn probes(report: &mut Report, plan: &Plan, all: &[Setting], own: &impl Fn(&Setting) -> bool) {
    report.text(
        "**Probe step**: on the largest gate tried, share of claims that are significantly harmful (2.33) at each \
         step, and the mean gain in thousandths of a nat.",
    );
    let mut rows = Vec::new();
    for round in plan.rounds {
        for kind in [0, 4, 5] {
            let claims = of_kind(all, kind, |s| own(s) && s.round == *round);
            let tried: Vec<&&Claim> = claims.iter().filter(|c| !c.probes.is_empty()).collect();
            if tried.is_empty() {
                continue;
            }
            let mut row = vec![round.to_string(), KINDS[kind].to_string()];
            row.push(format!("{:.2}", spread(&claims.iter().map(|c| c.gain()[2] / 1e3).collect::<Vec<f64>>()).0));
            for i in 0..PROBES.len() {
                #[allow(clippy::cast_precision_loss)]
                let of = |f: &dyn Fn((i64, i64)) -> i64| -> Vec<f64> {
                    tried.iter().map(|c| f(c.probes[i]) as f64 / 1e3).collect()
                };
                row.push(format!("{} ({:.2})", count(&of(&|p| p.1), |z| z < -2.33), spread(&of(&|p| p.0)).0));
            }
            rows.push(row);
        }
    }
    report.table(&["round", "claims", "full step: gain", "1/4: harmful (gain)", "1/8", "1/16"], &rows);
}
