//! Which waiting transactions enter a block, and what entering costs.
//!
//! Taking the best payers one by one would leave a poor parent, and the rich child that pays for both, waiting
//! for ever; a Lightning channel is closed with exactly that pair. So a transaction is judged together
//! with everything it needs that is not in the block yet, as bitcoind does.

use super::mempool::Mempool;
use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

/// Packages in a row that do not fit before a block counts as full.
const MAX_MISSES: usize = 1_000;

/// Fee per size, compared without rounding.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    pub(super) fee_sat: u64,
    pub(super) vbytes: u64,
}

impl Rate {
    /// Rounded up, sat per 1,000 vbytes.
    pub(super) fn sat_per_kvb(self) -> u64 {
        let rate = (u128::from(self.fee_sat) * 1000).div_ceil(u128::from(self.vbytes.max(1)));
        u64::try_from(rate).unwrap_or(u64::MAX)
    }

    /// What so many vbytes cost at a rate, rounded up, sat.
    pub(super) fn fee_at(sat_per_kvb: u64, vbytes: u64) -> u64 {
        u64::try_from((u128::from(sat_per_kvb) * u128::from(vbytes)).div_ceil(1000)).unwrap_or(u64::MAX)
    }
}

impl Ord for Rate {
    fn cmp(&self, other: &Self) -> Ordering {
        let cross = |a: &Self, b: &Self| u128::from(a.fee_sat) * u128::from(b.vbytes);
        cross(self, other).cmp(&cross(other, self))
    }
}

impl PartialOrd for Rate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Rate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Rate {}

/// What enters.
#[derive(Debug, Default)]
pub(super) struct Selection {
    /// Places in the mempool, parents before children.
    pub(super) order: Vec<u64>,
    /// The worst rate that still got in, if something had to stay outside.
    pub(super) price: Option<Rate>,
}

struct Package {
    rate: Rate,
    weight: u64,
    sigops: u64,
    places: BTreeSet<u64>,
}

/// A transaction and what it needs that is not taken.
fn package(pool: &Mempool, at: u64, taken: &BTreeSet<u64>) -> Option<Package> {
    let mut places: BTreeSet<u64> = pool.ancestors(&pool.at(at)?.tx).difference(taken).copied().collect();
    places.insert(at);
    let each = || places.iter().filter_map(|at| pool.at(*at));
    let rate = Rate { fee_sat: each().map(|e| e.fee_sat).sum(), vbytes: each().map(|e| e.vsize).sum() };
    let (weight, sigops) = (each().map(|e| e.weight).sum(), each().map(|e| e.sigops).sum());
    Some(Package { rate, weight, sigops, places })
}

/// Chooses by the fee rate of a transaction with its ancestors, best first.
pub(super) fn select(pool: &Mempool, max_weight: u64, max_sigops: u64) -> Selection {
    let (mut weight, mut sigops, mut misses) = (0u64, 0u64, 0);
    let mut taken = BTreeSet::new();
    let mut selection = Selection::default();
    let mut worst: Option<Rate> = None;
    let mut scores: BTreeMap<u64, Rate> =
        pool.places().filter_map(|(at, _)| Some((at, package(pool, at, &taken)?.rate))).collect();
    let mut heap: BinaryHeap<(Rate, Reverse<u64>)> = scores.iter().map(|(at, r)| (*r, Reverse(*at))).collect();
    while let Some((rate, Reverse(at))) = heap.pop() {
        if taken.contains(&at) || scores.get(&at).is_none_or(|s| *s != rate) {
            continue; // its score has changed since
        }
        let Some(package) = package(pool, at, &taken) else { continue };
        let fits =
            weight.saturating_add(package.weight) <= max_weight && sigops.saturating_add(package.sigops) <= max_sigops;
        if !fits {
            selection.price = worst;
            scores.remove(&at);
            misses += 1;
            if misses >= MAX_MISSES {
                break;
            }
            continue;
        }
        misses = 0;
        weight = weight.saturating_add(package.weight);
        sigops = sigops.saturating_add(package.sigops);
        worst = Some(worst.map_or(rate, |w| w.min(rate)));
        selection.order.extend(&package.places); // by arrival, so parents come first
        taken.extend(&package.places);
        for child in pool.descendants(package.places) {
            if !taken.contains(&child)
                && let Some(again) = self::package(pool, child, &taken)
                && let Some(score) = scores.get_mut(&child)
            {
                *score = again.rate;
                heap.push((again.rate, Reverse(child)));
            }
        }
    }
    if selection.price.is_some() {
        selection.price = worst;
    }
    selection
}
