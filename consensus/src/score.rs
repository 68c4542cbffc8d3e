//! Judging: from measured integers to verdicts, adoption and credit (S2, S4, S5, S6).
//!
//! Pure functions over sums of per-sample differences in micro-nats. Whoever holds the
//! measurements of an outcome recomputes every verdict and every credit from them, bit for bit;
//! floating point ends where these functions begin. The obvious question, "did this delta, applied
//! alone and whole, improve the model?", would refuse honest trainers: measured, from about round
//! five every honest delta alone makes the model worse while their average makes it better. So a
//! claim must instead show that its *assigned* shard was learned (work nobody else could have done)
//! and be harmless at a small probe step; and only the average has to prove itself.

use crate::manifest::Judging;
use serde::{Deserialize, Serialize};

/// A per-sample loss is clamped to this, in micro-nats (100 nats), so that sums stay bounded.
pub const MAX_LOSS_UNAT: i64 = 100_000_000;

/// Most samples in one measurement; keeps the arithmetic below inside 128 bits.
pub const MAX_SAMPLES: u32 = 1 << 20;

/// Sums over the paired per-sample differences `before - after` of one sample, in micro-nats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize, Deserialize)]
pub struct Paired {
    /// Samples measured.
    pub n: u32,
    /// Sum of differences: the gain on this sample.
    pub sum_unat: i64,
    /// Sum of squared differences.
    pub sum_sq_unat2: u128,
}

impl Paired {
    /// Sums of two loss lists over the same samples. `None` if their lengths differ or exceed [`MAX_SAMPLES`].
    pub fn of(before_unat: &[i64], after_unat: &[i64]) -> Option<Self> {
        let n = u32::try_from(before_unat.len()).ok().filter(|n| *n <= MAX_SAMPLES)?;
        if before_unat.len() != after_unat.len() {
            return None;
        }
        let mut out = Self { n, sum_unat: 0, sum_sq_unat2: 0 };
        for (b, a) in before_unat.iter().zip(after_unat) {
            let d = b.clamp(&0, &MAX_LOSS_UNAT) - a.clamp(&0, &MAX_LOSS_UNAT);
            out.sum_unat += d;
            out.sum_sq_unat2 += u128::from(d.unsigned_abs()).pow(2);
        }
        Some(out)
    }

    /// Whether the three figures can come from real differences at all (K3).
    pub fn is_possible(&self) -> bool {
        let n = u128::from(self.n);
        let sum = u128::from(self.sum_unat.unsigned_abs());
        let max = MAX_LOSS_UNAT.unsigned_abs();
        self.n <= MAX_SAMPLES
            && sum <= n * u128::from(max)
            && self.sum_sq_unat2 <= n * u128::from(max).pow(2)
            && sum * sum <= n * self.sum_sq_unat2
    }

    /// Mean gain per sample in thousandths of a micro-nat, rounded down.
    fn mean_milli(&self) -> i128 {
        (i128::from(self.sum_unat) * 1000).div_euclid(i128::from(self.n.max(1)))
    }

    /// Squared standard error of the mean, in (thousandths of a micro-nat) squared, rounded up.
    fn variance_milli2(&self) -> u128 {
        let n = u128::from(self.n);
        if n < 2 {
            return u128::MAX >> 8; // nothing is significant on one sample
        }
        let sum = u128::from(self.sum_unat.unsigned_abs());
        let spread = (n * self.sum_sq_unat2).saturating_sub(sum * sum);
        (spread * 1_000_000).div_ceil(n * n * (n - 1))
    }

    /// Mean gain per sample in micro-nats, rounded towards zero.
    pub fn mean_unat(&self) -> i64 {
        self.sum_unat / i64::from(self.n.max(1))
    }

    /// Lower bound of the mean gain per sample, in micro-nats: mean minus `z` standard errors, rounded down.
    pub fn lower_bound_unat(&self, z_milli: u32) -> i64 {
        let bound = self.mean_milli() - margin_milli(self.variance_milli2(), z_milli);
        i64::try_from(bound.div_euclid(1000)).unwrap_or(i64::MIN)
    }

    /// Whether two honest measurements of the same thing may differ this much (S2): one sample in
    /// a thousand may fall on the other side of a rounding edge, and no more.
    pub fn agrees(&self, other: &Self) -> bool {
        let edges = 2 + u64::from(self.n) / 1000;
        let sq_slack = 4 * u128::from(edges) * (self.sum_sq_unat2.max(other.sum_sq_unat2).isqrt() + 1);
        self.n == other.n
            && self.sum_unat.abs_diff(other.sum_unat) <= edges
            && self.sum_sq_unat2.abs_diff(other.sum_sq_unat2) <= sq_slack
    }
}

/// `z` standard errors in thousandths of a micro-nat, rounded up.
fn margin_milli(variance_milli2: u128, z_milli: u32) -> i128 {
    let root = variance_milli2.isqrt();
    let root = if root * root < variance_milli2 { root + 1 } else { root };
    i128::try_from((root * u128::from(z_milli)).div_ceil(1000)).unwrap_or(i128::MAX >> 1)
}

/// Standard errors, in thousandths, by which the mean gain on `a` exceeds the mean gain on `b`.
/// For people; verdicts compare without dividing.
pub fn excess_z_milli(a: &Paired, b: &Paired) -> i64 {
    let se = (a.variance_milli2() + b.variance_milli2()).isqrt().max(1);
    i64::try_from((a.mean_milli() - b.mean_milli()) * 1000 / i128::try_from(se).unwrap_or(i128::MAX)).unwrap_or(0)
}

/// What a validator measured of one claim, each as gain over the parent head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize, Deserialize)]
pub struct ClaimScores {
    /// Full step, on the shard assigned to the trainer.
    pub shard: Paired,
    /// Full step, on the gate sample.
    pub gate: Paired,
    /// Probe step, on the gate sample.
    pub probe: Paired,
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
    /// NaN or infinity inside.
    NotFinite,
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
    /// Replayed.
    Scored(ClaimScores),
}

impl Measurement {
    /// Whether two honest validators may have measured these of the same claim.
    pub fn agrees(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Scored(a), Self::Scored(b)) => {
                a.shard.agrees(&b.shard) && a.gate.agrees(&b.gate) && a.probe.agrees(&b.probe)
            }
            (a, b) => a == b,
        }
    }
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
    /// The measurement is not one of the samples the model prescribes.
    BadMeasurement,
}

/// S4, assigned mode: the verdict that follows from a measurement.
pub fn verdict(judging: &Judging, measurement: &Measurement) -> Verdict {
    let scores = match measurement {
        Measurement::NotRevealed => return Verdict::NotRevealed,
        Measurement::Refused(why) => return Verdict::Refused(*why),
        Measurement::Scored(scores) => scores,
    };
    let ClaimScores { shard, gate, probe } = scores;
    let sizes = shard.n == judging.shard_samples && gate.n == judging.gate_samples && probe.n == judging.gate_samples;
    if !sizes || ![shard, gate, probe].iter().all(|p| p.is_possible()) {
        return Verdict::BadMeasurement;
    }
    let excess = shard.mean_milli() - gate.mean_milli();
    if excess <= margin_milli(shard.variance_milli2() + gate.variance_milli2(), judging.assigned_z_milli) {
        return Verdict::NotAssignedWork;
    }
    if probe.mean_milli() + margin_milli(probe.variance_milli2(), judging.harm_z_milli) < 0 {
        return Verdict::Harmful;
    }
    Verdict::Accepted
}

/// S6: what a new head has proven on the confirm sample, in micro-nats of mean loss; zero means
/// it is not adopted and nothing is paid.
pub fn proven_gain_unat(judging: &Judging, confirm: &Paired) -> u64 {
    if confirm.n != judging.confirm_samples || !confirm.is_possible() {
        return 0;
    }
    let bound = u64::try_from(confirm.lower_bound_unat(judging.adopt_z_milli)).unwrap_or(0);
    if bound < judging.min_gain_unat { 0 } else { bound }
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

/// Weight of an accepted claim in the split of credit: the positive part of its probe-step gain (S4).
pub fn credit_weight(measurement: &Measurement) -> u64 {
    match measurement {
        Measurement::Scored(scores) => u64::try_from(scores.probe.sum_unat).unwrap_or(0),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn judging() -> Judging {
        crate::manifest::tests::sample().judging
    }

    /// `n` differences with this mean and an alternating spread around it.
    fn paired(n: u32, mean_unat: i64, spread_unat: i64) -> Paired {
        let before = vec![50_000_000; n as usize];
        let after: Vec<i64> =
            (0..n).map(|i| 50_000_000 - mean_unat - if i % 2 == 0 { spread_unat } else { -spread_unat }).collect();
        Paired::of(&before, &after).unwrap()
    }

    fn scored(shard: Paired, gate: Paired, probe: Paired) -> Measurement {
        Measurement::Scored(ClaimScores { shard, gate, probe })
    }

    #[test] // S4: assigned work, with its noise, is accepted; the same gain everywhere is not
    fn assigned_work_is_told_from_other_work() {
        let j = judging();
        let (gate, probe) = (paired(128, 10_000, 40_000), paired(128, 2_000, 5_000));
        assert_eq!(verdict(&j, &scored(paired(64, 60_000, 40_000), gate, probe)), Verdict::Accepted);
        assert_eq!(verdict(&j, &scored(paired(64, 12_000, 40_000), gate, probe)), Verdict::NotAssignedWork);
    }

    #[test] // S4, attack 4
    fn harm_at_the_probe_step_is_refused_but_noise_is_not() {
        let j = judging();
        let (shard, gate) = (paired(64, 60_000, 40_000), paired(128, 0, 40_000));
        assert_eq!(verdict(&j, &scored(shard, gate, paired(128, -2_000, 5_000))), Verdict::Harmful);
        assert_eq!(verdict(&j, &scored(shard, gate, paired(128, -500, 5_000))), Verdict::Accepted);
    }

    #[test] // the vacuous verifier: empty, all-zero and impossible measurements fail
    fn vacuous_measurements_fail() {
        let j = judging();
        let zero = |n| Paired { n, sum_unat: 0, sum_sq_unat2: 0 };
        assert_eq!(verdict(&j, &scored(zero(64), zero(128), zero(128))), Verdict::NotAssignedWork);
        assert_eq!(verdict(&j, &scored(zero(0), zero(0), zero(0))), Verdict::BadMeasurement);
        let impossible = Paired { n: 64, sum_unat: 1 << 30, sum_sq_unat2: 0 };
        assert_eq!(verdict(&j, &scored(impossible, zero(128), zero(128))), Verdict::BadMeasurement);
        assert_eq!(verdict(&j, &Measurement::Refused(Refusal::NotFinite)), Verdict::Refused(Refusal::NotFinite));
        assert_eq!(verdict(&j, &Measurement::NotRevealed), Verdict::NotRevealed);
    }

    #[test] // S6
    fn only_a_gain_beyond_doubt_is_proven() {
        let j = judging();
        assert_eq!(proven_gain_unat(&j, &paired(128, -1_000, 100)), 0);
        assert_eq!(proven_gain_unat(&j, &paired(128, 1_000, 100_000)), 0);
        let proven = proven_gain_unat(&j, &paired(128, 10_000, 5_000));
        // 10000 - 2.33 * 5000 / sqrt(127) = 8966.2
        assert!((8_960..8_970).contains(&proven), "{proven}");
        assert_eq!(proven_gain_unat(&j, &paired(64, 10_000, 5_000)), 0, "wrong sample size");
    }

    #[test] // S2: a few units of rounding agree, more do not
    fn agreement_allows_rounding_edges_only() {
        let a = paired(4000, 1_000, 3_000);
        let mut b = a;
        b.sum_unat += 5;
        assert!(a.agrees(&b));
        b.sum_unat += 5;
        assert!(!a.agrees(&b));
        let mut c = a;
        c.sum_sq_unat2 += c.sum_sq_unat2 / 100;
        assert!(!a.agrees(&c));
        let mut d = a;
        d.n -= 1;
        assert!(!a.agrees(&d));
    }

    proptest! {
        #[test]
        fn credit_adds_up_exactly(total: u64, weights in proptest::collection::vec(any::<u64>(), 1..20)) {
            let parts = split_exactly(total, &weights);
            prop_assert_eq!(parts.len(), weights.len());
            prop_assert_eq!(parts.iter().map(|p| u128::from(*p)).sum::<u128>(), u128::from(total));
        }

        #[test] // S4: slicing one claim in two earns nothing extra beyond one unit of rounding
        fn slicing_does_not_raise_credit(total in 0u64..1 << 40, a in 1u64..1 << 40, b in 1u64..1 << 40, cut in 0u64..1 << 40) {
            let cut = cut.min(a);
            let whole = split_exactly(total, &[a, b]);
            let sliced = split_exactly(total, &[cut, a - cut, b]);
            prop_assert!(sliced[0] + sliced[1] <= whole[0] + 2);
        }

        #[test] // L2: total on any integers
        fn verdict_is_total(n: u32, sum: i64, sq: u128) {
            let p = Paired { n, sum_unat: sum, sum_sq_unat2: sq };
            verdict(&judging(), &scored(p, p, p));
            proven_gain_unat(&judging(), &p);
            let _ = p.agrees(&p);
        }

        #[test]
        fn measured_sums_are_possible(pairs in proptest::collection::vec((any::<i64>(), any::<i64>()), 0..50)) {
            let (b, a): (Vec<i64>, Vec<i64>) = pairs.into_iter().unzip();
            prop_assert!(Paired::of(&b, &a).unwrap().is_possible());
        }
    }
}
