//! The new head (S6): accepted deltas clipped to their median norm, averaged, added, in plain Rust and
//! in claim order, so that every machine gets the same bits.

use crate::delta::SparseDelta;

/// `parent + outer_lr * mean(clipped deltas)`. The parent itself if there is no delta.
pub fn new_head(parent: &[f32], deltas: &[&SparseDelta], outer_lr_milli: u32) -> Vec<f32> {
    if deltas.is_empty() {
        return parent.to_vec();
    }
    let norms: Vec<f64> = deltas.iter().map(|d| d.norm()).collect();
    let mut sorted = norms.clone();
    sorted.sort_by(f64::total_cmp);
    // lower median: with two deltas neither can raise the bound for itself
    let median = sorted[(sorted.len() - 1) / 2];
    let mut sum = vec![0.0f64; parent.len()];
    for (delta, norm) in deltas.iter().zip(&norms) {
        let clip = if *norm > median && *norm > 0.0 { median / norm } else { 1.0 };
        for (at, v) in &delta.changes {
            if let Some(s) = sum.get_mut(*at as usize) {
                *s += f64::from(*v) * clip;
            }
        }
    }
    #[allow(clippy::cast_precision_loss)]
    let step = f64::from(outer_lr_milli) / 1000.0 / deltas.len() as f64;
    #[allow(clippy::cast_possible_truncation)]
    parent.iter().zip(&sum).map(|(w, s)| (f64::from(*w) + s * step) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delta(values: &[(u32, f32)]) -> SparseDelta {
        SparseDelta { parameters: 8, changes: values.to_vec() }
    }

    #[test] // S6: bits are pinned; another build or machine must give the same
    fn golden_bits() {
        let parent: Vec<f32> = (0..8).map(|i| i as f32 * 0.1).collect();
        let (a, b, c) = (delta(&[(0, 0.3), (5, -0.7)]), delta(&[(0, 0.1), (7, 0.2)]), delta(&[(1, 9.0)]));
        let head = new_head(&parent, &[&a, &b, &c], 700);
        let bytes: Vec<u8> = head.iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(
            blake3::hash(&bytes).to_hex().as_str(),
            "a148bc64be18bd5a6e659214f3ba36f47bbf7959b08a14b3481c20de7456ff76"
        );
    }

    #[test] // attack 10: an inflated delta weighs no more than the median one
    fn inflation_is_clipped() {
        let parent = vec![0.0; 8];
        let (a, b, big) = (delta(&[(0, 1.0)]), delta(&[(1, 1.0)]), delta(&[(2, 1000.0)]));
        let head = new_head(&parent, &[&a, &b, &big], 1000);
        assert!((head[2] - 1.0 / 3.0).abs() < 1e-6);
        assert_eq!(new_head(&parent, &[], 1000), parent);
    }
}
