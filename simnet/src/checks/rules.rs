//! S4 to S6 once more, from the published measurements, in other arithmetic than `consensus::score`.

use oda_consensus::manifest::{Manifest, WorkMode};
use oda_consensus::outcome::Outcome;
use oda_consensus::score::{ClaimScores, Measurement, Paired, Verdict};

/// Micro-nats by which the two ways to round may differ.
const SLACK: f64 = 2.0;

fn mean(p: &Paired) -> f64 {
    p.sum_unat as f64 / f64::from(p.n.max(1))
}

/// Variance of the mean.
fn variance(p: &Paired) -> f64 {
    let n = f64::from(p.n);
    if p.n < 2 {
        return f64::INFINITY;
    }
    let m = mean(p);
    ((p.sum_sq_unat2 as f64 / n - m * m) / (n - 1.0)).max(0.0)
}

fn z(milli: u32) -> f64 {
    f64::from(milli) / 1_000.0
}

/// Whether two judges say the same of a round, but for rounding edges (S2).
pub(super) fn same(a: &Outcome, b: &Outcome) -> bool {
    a.parent == b.parent
        && a.sealed == b.sealed
        && a.claims.len() == b.claims.len()
        && a.claims.iter().zip(&b.claims).all(|(x, y)| x.claim == y.claim && x.verdict == y.verdict)
        && a.proven_unat.abs_diff(b.proven_unat) <= 8
        && a.head.as_ref().map(|h| h.candidate) == b.head.as_ref().map(|h| h.candidate)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(0.0)
}

/// What in an outcome does not follow from its measurements.
pub(super) fn wrong(manifest: &Manifest, outcome: &Outcome) -> Vec<String> {
    let j = &manifest.judging;
    let mut out = Vec::new();
    let accepted = |v: Verdict| v == Verdict::Accepted;
    let mut standing: Vec<(usize, &ClaimScores)> = Vec::new();
    for (i, c) in outcome.claims.iter().enumerate() {
        let stands = accepted(c.verdict) || c.verdict == Verdict::TooLittleWork;
        match (manifest.work_mode, &c.measurement) {
            (WorkMode::Assigned, Measurement::Scored(s)) if stands => {
                let sizes = s.shard.n == j.shard_samples && s.gate.n == j.gate_samples;
                let margin = z(j.assigned_z_milli) * (variance(&s.shard) + variance(&s.gate)).sqrt();
                if !sizes || mean(&s.shard) - mean(&s.gate) < margin - SLACK {
                    out.push(format!("claim {} stands without having done the assigned work", c.claim.short()));
                }
                let harmful = s.probe.is_none_or(|p| {
                    p.n != j.gate_samples || mean(&p) + z(j.harm_z_milli) * variance(&p).sqrt() < -SLACK
                });
                if harmful {
                    out.push(format!("claim {} stands and is harmful", c.claim.short()));
                }
                if s.norm_micro > j.norm_cap_milli.saturating_mul(1_000) {
                    out.push(format!("claim {} stands above the norm cap", c.claim.short()));
                }
                standing.push((i, s));
            }
            (WorkMode::Free, Measurement::Added(a)) if stands => {
                let bound = mean(&a.gate) - z(j.adopt_z_milli) * variance(&a.gate).sqrt();
                if a.gate.n != j.gate_samples || a.stated_unat <= 0 || bound < a.stated_unat as f64 - SLACK {
                    out.push(format!("claim {} adds less than it states", c.claim.short()));
                }
            }
            _ if stands => out.push(format!("claim {} stands without a measurement", c.claim.short())),
            _ => {}
        }
        if !accepted(c.verdict) && c.credit_unat > 0 {
            out.push(format!("claim {} is refused and credited", c.claim.short()));
        }
    }
    for t in &outcome.twins {
        let both = [t.a, t.b].iter().all(|i| outcome.claims.get(usize::from(*i)).is_some_and(|c| accepted(c.verdict)));
        if both {
            out.push(format!("claims {} and {} are near-copies and both accepted", t.a, t.b));
        }
    }
    // deltas clipped to the median norm; who shows much less than the median excess did a part of the work
    let norm = median(standing.iter().map(|(_, s)| s.norm_micro as f64).collect());
    let clip = |s: &ClaimScores| if s.norm_micro as f64 > norm { norm / s.norm_micro as f64 } else { 1.0 };
    let excess = |s: &ClaimScores| clip(s) * (mean(&s.shard) - mean(&s.gate));
    let usual = median(standing.iter().map(|(_, s)| excess(s)).collect());
    let least = usual * f64::from(j.least_work_milli) / 1_000.0;
    for (i, s) in &standing {
        let verdict = outcome.claims.get(*i).map(|c| c.verdict);
        if verdict == Some(Verdict::Accepted) && excess(s) < least - SLACK {
            out.push(format!("claim {i} is accepted with too little work"));
        }
    }
    // what was proven, and how it is split
    let proven = outcome.head.as_ref().map_or(0.0, |h| {
        let guards = h.guards.len() == manifest.data.guards.len()
            && h.guards.iter().all(|g| g.n == 0 || mean(g) + z(j.harm_z_milli) * variance(g).sqrt() >= -SLACK);
        let bound = mean(&h.confirm) - z(j.adopt_z_milli) * variance(&h.confirm).sqrt();
        let sound = guards && h.confirm.n == j.confirm_samples && bound + SLACK >= j.min_gain_unat as f64;
        if sound { bound.max(0.0) } else { 0.0 }
    });
    if outcome.proven_unat as f64 > proven + SLACK {
        out.push(format!("{} micro-nats are called proven, the confirm sample shows {proven:.0}", outcome.proven_unat));
    }
    let total: u128 = outcome.claims.iter().map(|c| u128::from(c.credit_unat)).sum();
    if total > u128::from(outcome.proven_unat) {
        out.push(format!("{total} micro-nats are credited, {} are proven", outcome.proven_unat));
    }
    if manifest.work_mode == WorkMode::Assigned && outcome.proven_unat > 0 {
        let taken = || standing.iter().filter(|(i, _)| outcome.claims.get(*i).is_some_and(|c| accepted(c.verdict)));
        let norm = median(taken().map(|(_, s)| s.norm_micro as f64).collect());
        let weight = |s: &ClaimScores| {
            let gain = s.probe.map_or(0.0, |p| p.sum_unat as f64).max(0.0);
            if s.norm_micro as f64 > norm { gain * norm / s.norm_micro as f64 } else { gain }
        };
        let chosen: Vec<(usize, f64)> = taken().map(|(i, s)| (*i, weight(s))).collect();
        let sum: f64 = chosen.iter().map(|(_, w)| w).sum();
        for (i, weight) in chosen {
            let due = if sum > 0.0 { outcome.proven_unat as f64 * weight / sum } else { f64::INFINITY };
            let got = outcome.claims.get(i).map_or(0, |c| c.credit_unat) as f64;
            if got > due + SLACK + due * 1e-9 {
                out.push(format!("claim {i} is credited {got} micro-nats, its share is {due:.0}"));
            }
        }
    }
    out
}
