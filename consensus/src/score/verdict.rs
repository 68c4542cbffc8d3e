//! The verdict on each claim (S4, S7).

use super::paired::{Paired, margin_milli};
use crate::manifest::{Judging, WorkMode};
use serde::{Deserialize, Serialize};

/// What a validator measured of one claim in assigned mode, each as gain over the parent head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize, Deserialize)]
pub struct ClaimScores {
    /// Full step, on the shard assigned to the trainer.
    pub shard: Paired,
    /// Full step, on the gate sample; on its first `screen_samples` if the claim is [`hopeless`] by then.
    pub gate: Paired,
    /// Probe step, on the gate sample. Not measured of a claim that is not the assigned work.
    pub probe: Option<Paired>,
    /// Euclidean norm of the delta, millionths.
    pub norm_micro: u64,
}

impl ClaimScores {
    /// What the claim gains more on its own shard than on fresh data, per sample, in thousandths of a micro-nat.
    fn excess_milli(&self) -> i128 {
        self.shard.mean_milli() - self.gate.mean_milli()
    }

    /// A gain of this delta as it counts after clipping to a median norm, as in the new head. Gains grow no faster
    /// than the step, so a delta made larger never counts for more than it was.
    pub(super) fn clipped(&self, gain: i128, median_micro: u64) -> i128 {
        if self.norm_micro <= median_micro {
            return gain;
        }
        gain.saturating_mul(i128::from(median_micro)) / i128::from(self.norm_micro)
    }
}

/// The lower median: of two, neither can raise it for itself.
pub(super) fn lower_median<T: Ord + Copy>(mut values: Vec<T>) -> Option<T> {
    values.sort_unstable();
    values.get(values.len().checked_sub(1)? / 2).copied()
}

/// What a validator measured of one claim in free mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize, Deserialize)]
pub struct Added {
    /// The gain it states, micro-nats of mean loss.
    pub stated_unat: i64,
    /// What its full step adds to the parent and all accepted claims that state more, on the gate sample.
    pub gate: Paired,
}

/// Why a delta was refused before any evaluation (S7, R3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// The blob could not be fetched before the deadline (R3).
    NotServed,
    /// The blob is larger than the model allows.
    Oversize,
    /// The bytes are not a delta.
    Malformed,
    /// A delta of another model's shape.
    WrongShape,
    /// Norm above the model's cap.
    NormAboveCap,
}

/// A validator's measurement of one claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measurement {
    /// The trainer never opened its commitment (R3).
    NotRevealed,
    /// Refused before evaluation.
    Refused(Refusal),
    /// Replayed in assigned mode.
    Scored(ClaimScores),
    /// Replayed in free mode.
    Added(Added),
}

impl Measurement {
    /// Whether two honest validators may have measured these of the same claim.
    pub fn agrees(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Scored(a), Self::Scored(b)) => {
                let probes = match (&a.probe, &b.probe) {
                    (Some(a), Some(b)) => a.agrees(b),
                    (a, b) => a == b,
                };
                a.shard.agrees(&b.shard) && a.gate.agrees(&b.gate) && probes && a.norm_micro == b.norm_micro
            }
            (Self::Added(a), Self::Added(b)) => a.stated_unat == b.stated_unat && a.gate.agrees(&b.gate),
            (a, b) => a == b,
        }
    }
}

impl Measurement {
    /// Whether two honest validators may stand on the two sides of a test with the same sums but for rounding (S2): the
    /// one measured on, the other did not. Each must still be what follows from its own sums ([`own_verdict`]).
    pub fn is_beside(&self, other: &Self) -> bool {
        let (Self::Scored(a), Self::Scored(b)) = (self, other) else { return false };
        // one screened out on a part of the gate sample; or one below the assigned-work test, one above it
        let screened = a.gate.n != b.gate.n;
        let edge = a.gate.agrees(&b.gate) && a.probe.is_some() != b.probe.is_some();
        (screened || edge) && a.shard.agrees(&b.shard) && a.norm_micro == b.norm_micro
    }
}

/// Two claims whose deltas point the same way.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, bincode::Encode, bincode::Decode, Serialize, Deserialize,
)]
pub struct Twin {
    /// Place of the one in the outcome's list of claims.
    pub a: u8,
    /// Place of the other, larger.
    pub b: u8,
    /// Cosine of the two deltas, thousandths.
    pub cosine_milli: u16,
}

/// The judgement on one claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Counts towards the new head.
    Accepted,
    /// Its commitment was never opened.
    NotRevealed,
    /// Refused before evaluation.
    Refused(Refusal),
    /// Gains no more on the shard assigned to it than on fresh data: not the assigned work.
    NotAssignedWork,
    /// Makes the model worse at the probe step.
    Harmful,
    /// Gains so much less on its shard, against fresh data, than the others of the round that it is a part of the work.
    TooLittleWork,
    /// Nearly the same delta as another claim's: they count as one, and the other stands for both.
    NearCopy,
    /// Adds less than it states (free mode).
    BelowStated,
    /// The measurement is not one of the samples the model prescribes.
    BadMeasurement,
}

/// Standard errors by which what is left of the gate sample would have to surprise for [`hopeless`] to err.
const SCREEN_SE: u32 = 5;

/// Assigned-work test (S4): the gain on the own shard exceeds the gain on fresh data significantly.
pub fn is_assigned_work(judging: &Judging, shard: &Paired, gate: &Paired) -> bool {
    let variance = shard.variance_milli2().saturating_add(gate.variance_milli2());
    shard.mean_milli() - gate.mean_milli() > margin_milli(variance, judging.assigned_z_milli)
}

/// Whether a claim can no longer pass the assigned-work test after `part` of the gate sample: to do so,
/// the mean over the whole sample would have to lie five standard errors below what the part
/// predicts (less than one in three million). Part of the rule, so stopping here changes no verdict.
pub fn hopeless(judging: &Judging, shard: &Paired, part: &Paired) -> bool {
    let (n, m) = (u128::from(judging.gate_samples.max(1)), u128::from(part.n));
    if m >= n {
        return false;
    }
    // with s^2/m the variance of the part's mean: s^2 (1/m - 1/n) is that of the whole around it, s^2/n the whole's
    let scaled = |num: u128| part.variance_milli2().checked_mul(num).map_or(u128::MAX >> 8, |v| v.div_ceil(n));
    let surprise = margin_milli(scaled(n - m), 1000 * SCREEN_SE);
    let needed = margin_milli(shard.variance_milli2().saturating_add(scaled(m)), judging.assigned_z_milli);
    shard.mean_milli() - part.mean_milli() + surprise <= needed
}

/// Whether the probe step is significantly harmful (S4, attack 4).
pub fn is_harmful(judging: &Judging, probe: &Paired) -> bool {
    probe.mean_milli() + margin_milli(probe.variance_milli2(), judging.harm_z_milli) < 0
}

/// The verdict that follows from a claim's own measurement, before claims are compared.
pub fn own_verdict(mode: WorkMode, judging: &Judging, measurement: &Measurement) -> Verdict {
    let good = |p: &Paired, n: u32| p.n == n && p.is_possible();
    match (mode, measurement) {
        (_, Measurement::NotRevealed) => Verdict::NotRevealed,
        (_, Measurement::Refused(why)) => Verdict::Refused(*why),
        (WorkMode::Assigned, Measurement::Scored(ClaimScores { shard, gate, probe, .. })) => {
            let whole = good(gate, judging.gate_samples);
            let part = judging.screen_samples > 0 && good(gate, judging.screen_samples);
            if !good(shard, judging.shard_samples) || !(whole || part) {
                return Verdict::BadMeasurement;
            }
            // what is measured further follows from what was measured so far: nothing is left out or added
            match probe {
                None if part && hopeless(judging, shard, gate) => Verdict::NotAssignedWork,
                None if whole && !is_assigned_work(judging, shard, gate) => Verdict::NotAssignedWork,
                Some(probe) if whole && good(probe, judging.gate_samples) && is_assigned_work(judging, shard, gate) => {
                    if is_harmful(judging, probe) {
                        Verdict::Harmful
                    } else {
                        Verdict::Accepted
                    }
                }
                _ => Verdict::BadMeasurement,
            }
        }
        (WorkMode::Free, Measurement::Added(Added { stated_unat, gate })) => {
            if !good(gate, judging.gate_samples) {
                return Verdict::BadMeasurement;
            }
            let proven = gate.lower_bound_unat(judging.adopt_z_milli);
            if *stated_unat > 0 && proven >= *stated_unat { Verdict::Accepted } else { Verdict::BelowStated }
        }
        _ => Verdict::BadMeasurement,
    }
}

/// Whether a list of near-copies is one that a replay can give: in order, each pair once, of
/// acceptable claims only, none below the model's bound. In free mode there is none: a copy adds nothing.
pub fn twins_are_canonical(mode: WorkMode, judging: &Judging, measured: &[Measurement], twins: &[Twin]) -> bool {
    let acceptable =
        |i: u8| measured.get(usize::from(i)).is_some_and(|m| own_verdict(mode, judging, m) == Verdict::Accepted);
    (mode == WorkMode::Assigned || twins.is_empty())
        && twins.windows(2).all(|w| (w[0].a, w[0].b) < (w[1].a, w[1].b))
        && twins.iter().all(|t| {
            t.a < t.b
                && acceptable(t.a)
                && acceptable(t.b)
                && (judging.copy_cosine_milli..=1000).contains(&u32::from(t.cosine_milli))
        })
}

/// S4: the verdict on every claim of a round. Of claims that are near-copies of each other, directly or
/// through others, the first stands for all. Of those left, whoever shows less than the model's share of the
/// round's median excess, deltas clipped to the median norm, did a part of the work: without this a tenth of
/// the steps was measured to earn up to sixteen times as much per step as all of them (`docs/results/pay.md`).
pub fn verdicts(mode: WorkMode, judging: &Judging, measured: &[Measurement], twins: &[Twin]) -> Vec<Verdict> {
    // each claim's lowest twin; lists are short, so no cleverness
    let mut stands_for: Vec<usize> = (0..measured.len()).collect();
    for _ in 0..measured.len() {
        for t in twins {
            let (a, b) = (usize::from(t.a), usize::from(t.b));
            let lowest = |i: usize| stands_for.get(i).copied();
            let (Some(x), Some(y)) = (lowest(a), lowest(b)) else { continue };
            for i in [a, b] {
                if let Some(s) = stands_for.get_mut(i) {
                    *s = x.min(y);
                }
            }
        }
    }
    let own = measured.iter().map(|m| own_verdict(mode, judging, m));
    let mut found: Vec<Verdict> = own
        .zip(stands_for)
        .enumerate()
        .map(|(i, (own, first))| if own == Verdict::Accepted && first != i { Verdict::NearCopy } else { own })
        .collect();
    let standing: Vec<(usize, &ClaimScores)> = measured
        .iter()
        .enumerate()
        .filter(|(i, _)| found.get(*i) == Some(&Verdict::Accepted))
        .filter_map(|(i, m)| if let Measurement::Scored(scores) = m { Some((i, scores)) } else { None })
        .collect();
    let norm = lower_median(standing.iter().map(|(_, s)| s.norm_micro).collect()).unwrap_or(0);
    let works: Vec<(usize, i128)> = standing.iter().map(|(i, s)| (*i, s.clipped(s.excess_milli(), norm))).collect();
    let usual = lower_median(works.iter().map(|(_, work)| *work).collect()).unwrap_or(0);
    for (i, work) in works {
        if let Some(verdict) = found.get_mut(i).filter(|_| work * 1000 < usual * i128::from(judging.least_work_milli)) {
            *verdict = Verdict::TooLittleWork;
        }
    }
    found
}
