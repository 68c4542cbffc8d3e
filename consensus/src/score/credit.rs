//! What a new head has proven, and who is credited for it (S4, S6).

use super::paired::Paired;
use super::verdict::{Measurement, Verdict, is_harmful, lower_median};
use crate::ids::BlobRef;
use crate::manifest::{Manifest, WorkMode};
use serde::{Deserialize, Serialize};

/// How a head does on the held-out test split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize, Deserialize)]
pub struct TestReport {
    /// Samples.
    pub n: u32,
    /// Sum of per-sample losses, micro-nats.
    pub loss_sum_unat: i64,
    /// Samples classified correctly.
    pub correct: u32,
}

impl TestReport {
    fn agrees(&self, other: &Self) -> bool {
        let edges = 2 + self.n / 1000;
        self.n == other.n
            && self.loss_sum_unat.abs_diff(other.loss_sum_unat) <= u64::from(edges)
            && self.correct.abs_diff(other.correct) <= edges
    }
}

/// What was measured of the candidate head.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize, Deserialize)]
pub struct HeadScores {
    /// Weights after applying the accepted deltas (S6).
    pub candidate: BlobRef,
    /// Gain over the parent on the confirm sample.
    pub confirm: Paired,
    /// Gain over the parent on each guard slice, in the manifest's order; on a sealed one that the round
    /// does not open, [`Paired::SKIPPED`].
    pub guards: Vec<Paired>,
    /// Parent on the test split.
    pub parent_test: TestReport,
    /// Candidate on the test split.
    pub candidate_test: TestReport,
}

impl HeadScores {
    /// Whether two honest validators may have measured these of the same candidate.
    pub fn agrees(&self, other: &Self) -> bool {
        self.candidate == other.candidate
            && self.confirm.agrees(&other.confirm)
            && self.guards.len() == other.guards.len()
            && self.guards.iter().zip(&other.guards).all(|(a, b)| a.agrees(b))
            && self.parent_test.agrees(&other.parent_test)
            && self.candidate_test.agrees(&other.candidate_test)
    }
}

/// S6: what a new head has proven on the confirm sample, in micro-nats of mean loss: the lower bound
/// of its gain. Zero, so that it is not adopted and nothing is paid, if that is below the model's
/// minimum or the head is worse on a guard slice beyond doubt. A sealed guard may have been skipped: whether
/// it was right to, the ledger checks ([`crate::outcome::Outcome::fits_sealed`]).
pub fn proven_gain_unat(manifest: &Manifest, head: &HeadScores) -> u64 {
    let judging = &manifest.judging;
    let slices = &manifest.data.guards;
    let guarded = head.guards.len() == slices.len()
        && head.guards.iter().zip(slices).all(|(scores, slice)| {
            let skipped = slice.sealed.is_some() && scores.n == 0;
            (scores.n == slice.split.samples || skipped) && scores.is_possible() && !is_harmful(judging, scores)
        });
    if !guarded || head.confirm.n != judging.confirm_samples || !head.confirm.is_possible() {
        return 0;
    }
    let bound = u64::try_from(head.confirm.lower_bound_unat(judging.adopt_z_milli)).unwrap_or(0);
    if bound < judging.min_gain_unat { 0 } else { bound }
}

/// What is paid for in all, and each claim's part of it, micro-nats: never more than was proven.
/// Assigned mode splits the proven gain by the positive part of the probe-step gains, deltas clipped to their
/// median norm as in the new head; free mode gives each claim what it stated.
pub fn credits(mode: WorkMode, proven_unat: u64, measured: &[Measurement], verdicts: &[Verdict]) -> (u64, Vec<u64>) {
    let positive = |v: i64| u64::try_from(v).unwrap_or(0);
    let accepted_norms = measured.iter().zip(verdicts).filter(|(_, v)| **v == Verdict::Accepted);
    let norms =
        accepted_norms.filter_map(|(m, _)| if let Measurement::Scored(s) = m { Some(s.norm_micro) } else { None });
    let median = lower_median(norms.collect()).unwrap_or(0);
    let weights: Vec<u64> = measured
        .iter()
        .zip(verdicts)
        .map(|(m, v)| match m {
            Measurement::Scored(s) if *v == Verdict::Accepted => {
                let gain = s.clipped(s.probe.map_or(0, |p| i128::from(p.sum_unat)), median);
                u64::try_from(gain).unwrap_or(0)
            }
            Measurement::Added(a) if *v == Verdict::Accepted => positive(a.stated_unat),
            _ => 0,
        })
        .collect();
    let total = match mode {
        WorkMode::Assigned => proven_unat,
        WorkMode::Free => proven_unat.min(weights.iter().fold(0, |sum: u64, w| sum.saturating_add(*w))),
    };
    // nobody accepted, nothing to split; accepted claims without any gain share alike
    let accepted: Vec<u64> =
        weights.iter().zip(verdicts).filter(|(_, v)| **v == Verdict::Accepted).map(|(w, _)| *w).collect();
    if accepted.is_empty() {
        return (0, vec![0; measured.len()]);
    }
    let mut parts = split_exactly(total, &accepted).into_iter();
    let part = |v: &Verdict| if *v == Verdict::Accepted { parts.next().unwrap_or(0) } else { 0 };
    (total, verdicts.iter().map(part).collect())
}

/// Splits `total` in proportion to `weights` so that the parts add up to it exactly: largest
/// remainder first, then first in order. Equal parts if every weight is zero.
pub fn split_exactly(total: u64, weights: &[u64]) -> Vec<u64> {
    let sum: u128 = weights.iter().map(|w| u128::from(*w)).sum();
    let even = vec![1u64; weights.len()];
    let (weights, sum) = if sum == 0 { (even.as_slice(), weights.len() as u128) } else { (weights, sum) };
    if sum == 0 {
        return Vec::new();
    }
    let share = |w: &u64| u128::from(total) * u128::from(*w);
    let mut parts: Vec<u64> = weights.iter().map(|w| u64::try_from(share(w) / sum).unwrap_or(0)).collect();
    let mut by_remainder: Vec<usize> = (0..weights.len()).collect();
    by_remainder.sort_by_key(|i| (std::cmp::Reverse(weights.get(*i).map_or(0, |w| share(w) % sum)), *i));
    let left = total - parts.iter().sum::<u64>();
    for i in by_remainder.into_iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
        if let Some(part) = parts.get_mut(i) {
            *part += 1;
        }
    }
    parts
}
