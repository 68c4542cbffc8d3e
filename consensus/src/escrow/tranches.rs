//! How much of a payment is released (P5).
//!
//! A Lightning HTLC is paid whole or not at all, and what a piece of work proves is known only after the
//! money is locked. So the most it can earn is locked in binary tranches (8 : 4 : 2 : 1 of it); those that
//! add up to what was earned are released, the others go back. With n tranches the payee loses less than
//! one part in 2^n - 1 to rounding, at the price of n HTLCs.

use serde::{Deserialize, Serialize};

/// Most tranches of an escrow. A Lightning channel carries 50 HTLCs, and all deals of an escrow must fit one
/// transaction.
pub const MAX_TRANCHES: u8 = 6;
/// Most msat in any amount: 21 million bitcoin.
pub const MAX_MSAT: u64 = 2_100_000_000_000_000_000;

/// Some of an escrow's tranches; tranche 0 is the largest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TrancheSet(u8);

impl TrancheSet {
    /// Whether a tranche is one of them.
    pub fn contains(self, tranche: usize) -> bool {
        tranche < 8 && self.0 >> tranche & 1 == 1
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The tranches, largest first.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..8).filter(move |i| self.contains(*i))
    }
}

impl FromIterator<usize> for TrancheSet {
    fn from_iter<I: IntoIterator<Item = usize>>(tranches: I) -> Self {
        Self(tranches.into_iter().filter(|i| *i < 8).fold(0, |set, i| set | 1 << i))
    }
}

/// What a payer offers for work whose worth is measured later. Says nothing of what is measured: micro-nats of
/// gain here, tokens or rows elsewhere; a fixed price is one tranche and a rate no smaller than it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize, Deserialize)]
pub struct Terms {
    /// Pay for one unit of what is proved, msat. For claims on a model: per micro-nat of proven gain.
    pub rate_msat: u64,
    /// The smallest tranche, msat.
    pub unit_msat: u64,
    /// Number of tranches; each is twice the next, the last is the unit.
    pub tranches: u8,
}

impl Terms {
    /// A price that is paid whole or not at all.
    pub fn whole(amount_msat: u64) -> Self {
        Self { rate_msat: amount_msat, unit_msat: amount_msat, tranches: 1 }
    }

    /// Whether the figures are possible.
    pub fn is_possible(&self) -> bool {
        let count = (1..=MAX_TRANCHES).contains(&self.tranches);
        count && self.rate_msat > 0 && (1..=MAX_MSAT / u64::from(self.units())).contains(&self.unit_msat)
    }

    fn units(&self) -> u8 {
        (1u8 << self.tranches.min(MAX_TRANCHES)) - 1
    }

    /// The most that can be earned, and what is locked: the sum of all tranches, msat.
    pub fn most_msat(&self) -> u64 {
        self.unit_msat.saturating_mul(self.units().into())
    }

    /// Amount of one tranche, msat; 0 if there is none of this number.
    pub fn amount_msat(&self, tranche: usize) -> u64 {
        let places = usize::from(self.tranches.min(MAX_TRANCHES)).checked_sub(tranche + 1);
        places.map_or(0, |p| self.unit_msat.saturating_mul(1 << p))
    }

    /// Sum of some tranches, msat.
    pub fn sum_msat(&self, tranches: TrancheSet) -> u64 {
        tranches.iter().fold(0u64, |sum, t| sum.saturating_add(self.amount_msat(t)))
    }

    /// The tranches that `proved` units have earned: rate times units, no more than all, rounded down to the
    /// smallest tranche (P5).
    pub fn earned(&self, proved: u64) -> TrancheSet {
        let earned_msat = u128::from(self.rate_msat) * u128::from(proved);
        let units = (earned_msat / u128::from(self.unit_msat.max(1))).min(self.units().into());
        let tranches = usize::from(self.tranches.min(MAX_TRANCHES));
        (0..tranches).filter(|t| units >> (tranches - 1 - t) & 1 == 1).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test] // P5: never more than rate x proved, and less than a unit below it
        fn what_is_released_is_what_was_earned_rounded_down(
            rate_msat in 1u64..1_000_000, unit_msat in 1u64..10_000_000, tranches in 1u8..=MAX_TRANCHES, proved in 0u64..1 << 40
        ) {
            let terms = Terms { rate_msat, unit_msat, tranches };
            prop_assert!(terms.is_possible());
            let all: TrancheSet = (0..usize::from(tranches)).collect();
            prop_assert_eq!(terms.sum_msat(all), terms.most_msat());
            let (paid, due) = (terms.sum_msat(terms.earned(proved)), u128::from(rate_msat) * u128::from(proved));
            prop_assert!(u128::from(paid) <= due);
            prop_assert!(u128::from(paid) + u128::from(unit_msat) > due.min(terms.most_msat().into()));
        }

        #[test] // K3: terms come from outside
        fn no_figures_panic(rate_msat: u64, unit_msat: u64, tranches: u8, proved: u64, bits: u8) {
            let terms = Terms { rate_msat, unit_msat, tranches };
            let _ = (terms.is_possible(), terms.most_msat(), terms.sum_msat(TrancheSet(bits)), terms.earned(proved));
        }
    }

    #[test]
    fn tranches_are_binary() {
        let terms = Terms { rate_msat: 100, unit_msat: 1_000, tranches: 4 };
        assert_eq!((0..5).map(|t| terms.amount_msat(t)).collect::<Vec<_>>(), [8_000, 4_000, 2_000, 1_000, 0]);
        assert_eq!(terms.earned(59).iter().collect::<Vec<_>>(), [1, 3], "5,900 msat: 4,000 and 1,000");
        assert_eq!(terms.earned(9), TrancheSet::default());
        assert_eq!(terms.sum_msat(terms.earned(u64::MAX)), 15_000);
        assert_eq!(Terms::whole(5_000).earned(1).iter().collect::<Vec<_>>(), [0]);
        assert!(!Terms { tranches: 7, ..terms }.is_possible() && !Terms { tranches: 0, ..terms }.is_possible());
        assert!(!Terms { unit_msat: MAX_MSAT, ..terms }.is_possible());
    }
}
