//! Intervals: what a handful of seeds can say, and what it cannot.

use crate::report::Share;
use serde::{Deserialize, Serialize};

/// A mean over seeds, with a 95 % interval by Student's t.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Mean {
    /// Mean.
    pub mean: f64,
    /// Half the width of the interval; `None` for fewer than two seeds.
    pub half: Option<f64>,
    /// Seeds.
    pub seeds: u64,
}

/// Two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom (any table of it).
const STUDENT: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
];

/// The normal's.
const NORMAL: f64 = 1.959_964;

impl Mean {
    /// Of these values, one for each seed.
    pub fn of(values: &[f64]) -> Self {
        let n = values.len();
        if n == 0 {
            return Self::default();
        }
        let mean = values.iter().sum::<f64>() / n as f64;
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        let half = (n > 1).then(|| {
            // beyond the table, its expansion in 1/df is right to three digits
            let df = (n - 1) as f64;
            let t = STUDENT.get(n - 2).copied().unwrap_or(NORMAL + 2.3722 / df + 2.8 / (df * df));
            t * (squares / df / n as f64).sqrt()
        });
        Self { mean, half, seeds: n as u64 }
    }

    /// Whether it is above 0 beyond doubt: one seed leaves every doubt.
    pub fn is_surely_above_0(&self) -> bool {
        self.half.is_some() && self.low() > 0.0
    }

    /// Whether it is below 0 beyond doubt.
    pub fn is_surely_below_0(&self) -> bool {
        self.half.is_some() && self.high() < 0.0
    }

    /// Lower end.
    pub fn low(&self) -> f64 {
        self.mean - self.half.unwrap_or(0.0)
    }

    /// Upper end.
    pub fn high(&self) -> f64 {
        self.mean + self.half.unwrap_or(0.0)
    }
}

impl Share {
    /// The share itself; 0 of 0 is 0.
    pub fn rate(&self) -> f64 {
        if self.of == 0 { 0.0 } else { self.count as f64 / self.of as f64 }
    }

    /// 95 % interval (Wilson 1927): unlike the normal one it is right for no failure in many tries.
    pub fn interval(&self) -> (f64, f64) {
        if self.of == 0 {
            return (0.0, 1.0);
        }
        let (n, p, z2) = (self.of as f64, self.rate(), NORMAL * NORMAL);
        let middle = (p + z2 / (2.0 * n)) / (1.0 + z2 / n);
        let half = NORMAL / (1.0 + z2 / n) * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
        ((middle - half).max(0.0), (middle + half).min(1.0))
    }

    /// Both counts added.
    pub fn add(&mut self, other: Self) {
        self.count += other.count;
        self.of += other.of;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_those_of_the_books() {
        let (low, high) = Share { count: 0, of: 100 }.interval();
        assert!(low == 0.0 && (high - 0.037).abs() < 5e-4, "{high}");
        let (low, high) = Share { count: 5, of: 50 }.interval();
        assert!((low - 0.0435).abs() < 5e-4 && (high - 0.2136).abs() < 5e-4, "{low} {high}");
        let mean = Mean::of(&[1.0, 2.0, 3.0, 4.0, 5.0]);
        assert!((mean.mean - 3.0).abs() < 1e-12 && (mean.half.unwrap_or(0.0) - 1.963).abs() < 1e-3, "{mean:?}");
        assert_eq!(Mean::of(&[7.0]).half, None, "one seed says nothing about the next");
        assert!(!Mean::of(&[7.0]).is_surely_above_0() && Mean::of(&[7.0, 7.1]).is_surely_above_0());
        let many: Vec<f64> = (0..41).map(f64::from).collect();
        let t = Mean::of(&many).half.unwrap_or(0.0) / (143.5_f64 / 41.0).sqrt();
        assert!((t - 2.021).abs() < 2e-3, "{t}");
    }
}
