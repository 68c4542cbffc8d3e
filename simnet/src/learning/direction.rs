//! Which way a delta of the stub points: enough of a vector to tell cosines, and no vector.
//!
//! A real delta has a hundred thousand coordinates; all that judging asks of two of them is their cosine. That follows
//! from descent: a copy points where its original does, a slice is a part of it, independent work on one head agrees a
//! little. So a direction is a short sum of roots, each the fresh part of one delta, seen through masks of coordinates.

use oda_consensus::ids::BlobHash;

/// Most terms of a sum; the smallest go first.
const MAX_TERMS: usize = 64;

/// A regular part of all coordinates: those that leave `rest` when divided by `modulus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mask {
    rest: u64,
    modulus: u64,
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Mask {
    /// All coordinates.
    pub const ALL: Self = Self { rest: 0, modulus: 1 };

    /// Largest modulus; a finer slice is empty.
    const MAX_MODULUS: u64 = 1 << 20;

    /// Part `part` of `parts`.
    pub fn part(part: u8, parts: u8) -> Self {
        let modulus = u64::from(parts.max(1));
        Self { rest: u64::from(part) % modulus, modulus }
    }

    /// What both leave through; `None` if nothing.
    pub fn and(self, other: Self) -> Option<Self> {
        let common = gcd(self.modulus, other.modulus);
        let modulus = self.modulus / common * other.modulus;
        if self.rest % common != other.rest % common || modulus > Self::MAX_MODULUS {
            return None;
        }
        let rest =
            (0..other.modulus).map(|k| self.rest + k * self.modulus).find(|r| r % other.modulus == other.rest)?;
        Some(Self { rest: rest % modulus, modulus })
    }

    /// Share of the coordinates.
    #[allow(clippy::cast_precision_loss)]
    fn share(self) -> f64 {
        1.0 / self.modulus as f64
    }
}

/// The fresh part of one delta.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Root {
    delta: BlobHash,
    /// The head it was trained on, if it was trained at all.
    head: Option<BlobHash>,
}

/// A vector of length one.
#[derive(Clone, Debug, PartialEq)]
pub struct Direction(Vec<(Root, f64, Mask)>);

fn product(a: &[(Root, f64, Mask)], b: &[(Root, f64, Mask)], common: f64) -> f64 {
    let mut sum = 0.0;
    for (x, v, m) in a {
        for (y, w, n) in b {
            let like = if x.delta == y.delta {
                1.0
            } else if x.head.is_some() && x.head == y.head {
                common
            } else {
                continue;
            };
            sum += v * w * like * m.and(*n).map_or(0.0, Mask::share);
        }
    }
    sum
}

impl Direction {
    /// Of fresh work on a head, or of noise.
    pub fn fresh(delta: BlobHash, head: Option<BlobHash>) -> Self {
        Self(vec![(Root { delta, head }, 1.0, Mask::ALL)])
    }

    /// `sum` of others seen through a mask, in shares of the new delta's norm; what is missing to length one is fresh.
    pub fn made_of(delta: BlobHash, head: Option<BlobHash>, sum: &[(&Self, f64)], mask: Mask, common: f64) -> Self {
        let mut terms: Vec<(Root, f64, Mask)> = Vec::new();
        for (direction, weight) in sum {
            for (root, w, m) in &direction.0 {
                let Some(mask) = m.and(mask) else { continue };
                match terms.iter_mut().find(|(r, _, m)| r == root && *m == mask) {
                    Some(found) => found.1 += w * weight,
                    None => terms.push((*root, w * weight, mask)),
                }
            }
        }
        terms.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()));
        terms.truncate(MAX_TERMS - 1);
        let length = product(&terms, &terms, common);
        if length > 1.0 {
            let long = length.sqrt();
            terms.iter_mut().for_each(|t| t.1 /= long);
        }
        // what is fresh agrees with other work on the head no more than the rest does: left out of `common` here
        terms.push((Root { delta, head }, (1.0 - length).max(0.0).sqrt(), Mask::ALL));
        Self(terms)
    }

    /// The other way.
    pub fn flipped(&self) -> Self {
        Self(self.0.iter().map(|(root, w, m)| (*root, -w, *m)).collect())
    }

    /// Cosine of the angle between two deltas; `common`: of independent honest work on one head.
    pub fn cosine(&self, other: &Self, common: f64) -> f64 {
        if self == other {
            return 1.0;
        }
        let lengths = product(&self.0, &self.0, common) * product(&other.0, &other.0, common);
        if lengths <= 0.0 { 0.0 } else { (product(&self.0, &other.0, common) / lengths.sqrt()).clamp(-1.0, 1.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMON: f64 = 0.2;

    fn hash(n: u8) -> BlobHash {
        BlobHash([n; 32])
    }

    fn honest(n: u8) -> Direction {
        Direction::fresh(hash(n), Some(hash(100)))
    }

    #[test]
    fn masks_meet_by_remainder() {
        let (a, b) = (Mask::part(1, 2), Mask::part(3, 4));
        assert_eq!(a.and(b), Some(b));
        assert_eq!(a.and(Mask::part(2, 4)), None);
        assert_eq!(Mask::part(1, 2).and(Mask::part(2, 3)), Some(Mask { rest: 5, modulus: 6 }));
    }

    #[test]
    fn cosines_follow_from_descent() {
        let (a, b) = (honest(1), honest(2));
        assert!((a.cosine(&b, COMMON) - COMMON).abs() < 1e-9);
        assert!((a.cosine(&a.flipped(), COMMON) + 1.0).abs() < 1e-9);
        assert_eq!(a.cosine(&Direction::fresh(hash(3), None), COMMON), 0.0);
        assert_eq!(a.cosine(&Direction::fresh(hash(2), Some(hash(101))), COMMON), 0.0, "made on another head");
        let slice = |n, part| Direction::made_of(hash(n), None, &[(&a, 1.0 / 0.82)], Mask::part(part, 2), COMMON);
        assert!((slice(4, 0).cosine(&a, COMMON) - 0.61).abs() < 0.01);
        assert_eq!(slice(4, 0).cosine(&slice(5, 1), COMMON), 0.0, "slices share no coordinate");
        let tuned = |n| Direction::made_of(hash(n), Some(hash(100)), &[(&a, 0.9)], Mask::ALL, 0.0);
        assert!(tuned(6).cosine(&tuned(7), COMMON) > 0.75);
    }
}
