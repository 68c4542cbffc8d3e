//! Sums over the paired differences of one sample, and what they say beyond doubt (S2, S5).

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
    /// Nothing was measured.
    pub const SKIPPED: Self = Self { n: 0, sum_unat: 0, sum_sq_unat2: 0 };

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
    pub(super) fn mean_milli(&self) -> i128 {
        (i128::from(self.sum_unat) * 1000).div_euclid(i128::from(self.n.max(1)))
    }

    /// Squared standard error of the mean, in (thousandths of a micro-nat) squared, rounded up.
    pub(super) fn variance_milli2(&self) -> u128 {
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
pub(super) fn margin_milli(variance_milli2: u128, z_milli: u32) -> i128 {
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
