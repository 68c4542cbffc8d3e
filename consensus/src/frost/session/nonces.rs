//! Nonces made ahead of time, so that signing takes one round trip (C5).
//!
//! The obvious way, keeping them on disk or in a copyable value, turns one restored backup into a leaked
//! key: two shares from one nonce are two equations with one unknown. Here a nonce lives in memory, in a
//! type that can neither be copied nor written, and is consumed by its one use. Each belongs to one pair
//! of member and coordinator, so that no two coordinators can spend the same one.

use super::message::{MAX_OFFERS, NonceOffer, RefusedWhy, read_offers};
use crate::frost::group::KeyShare;
use frost::round1::{SigningCommitments, SigningNonces};
use frost::round2::SignatureShare;
use frost_secp256k1 as frost;
use rand_core::{CryptoRng, RngCore};
use std::collections::BTreeMap;

/// A secret that signs once. FROST wipes it when it is dropped.
pub(super) struct Nonce(SigningNonces);

impl Nonce {
    /// A new one, and its commitments as bytes; the key share hedges against a bad generator (RFC 9591, 4.1).
    pub fn fresh(share: &KeyShare, rng: &mut (impl RngCore + CryptoRng)) -> Option<(Self, Vec<u8>)> {
        let (nonces, commitments) = frost::round1::commit(share.package().signing_share(), rng);
        Some((Self(nonces), commitments.serialize().ok()?))
    }

    /// Its one use.
    pub fn sign(self, package: &frost::SigningPackage, share: &KeyShare) -> Option<SignatureShare> {
        frost::round2::sign(package, &self.0, share.package()).ok()
    }

    #[cfg(test)]
    pub fn from_vector(nonces: SigningNonces) -> Self {
        Self(nonces)
    }
}

/// C5, proven when compiling: were `Nonce` one of these, `check` would be ambiguous and nothing would build.
const _: () = {
    trait Lacks<A> {
        fn check() {}
    }
    enum IsClone {}
    enum IsSerde {}
    enum IsCodec {}
    enum IsDebug {}
    impl<T> Lacks<()> for T {}
    impl<T: Clone> Lacks<IsClone> for T {}
    impl<T: serde::Serialize> Lacks<IsSerde> for T {}
    impl<T: bincode::Encode> Lacks<IsCodec> for T {}
    impl<T: std::fmt::Debug> Lacks<IsDebug> for T {}
    const fn wiped_on_drop<T: zeroize::ZeroizeOnDrop>() {}
    let _ = <Nonce as Lacks<_>>::check;
    wiped_on_drop::<SigningNonces>();
};

/// How a nonce named by a coordinator stands.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Held, and the commitments are its own.
    Live,
    /// Held, but these are not its commitments.
    Forged,
    /// This process made it, and it is gone.
    Used,
    /// Of an earlier process, or of nobody.
    Unknown,
}

/// The nonces a member holds for one coordinator; at most [`MAX_OFFERS`].
#[derive(Default)]
struct Pool {
    live: BTreeMap<u64, (Nonce, Vec<u8>)>,
    /// The coordinator will not name these or older ones again.
    skipped: u64,
    /// The newest one dropped unused.
    dropped: u64,
}

/// The nonces a member holds, by coordinator.
pub(super) struct Vault {
    pools: BTreeMap<u16, Pool>,
    /// First name this process gave; drawn at random, so that names of an earlier one are not mistaken.
    first_id: u64,
    next_id: u64,
}

/// Low bits of a nonce's name that count; the high ones name the process.
const COUNTER_BITS: u32 = 32;

impl Vault {
    pub fn new() -> Self {
        Self { pools: BTreeMap::new(), first_id: 0, next_id: 0 }
    }

    /// Fills the coordinator's pool up and lists it.
    pub fn offers(
        &mut self,
        coordinator: u16,
        size: usize,
        share: &KeyShare,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Vec<NonceOffer> {
        let pool = self.pools.entry(coordinator).or_default();
        while pool.live.range(pool.skipped.saturating_add(1)..).count() < size {
            if self.next_id == self.first_id || (self.next_id >> COUNTER_BITS) != (self.first_id >> COUNTER_BITS) {
                self.first_id = u64::from(rng.next_u32().max(1)) << COUNTER_BITS;
                self.next_id = self.first_id.saturating_add(1);
            }
            let Some((nonce, commitments)) = Nonce::fresh(share, rng) else { break };
            pool.live.insert(self.next_id, (nonce, commitments));
            self.next_id = self.next_id.saturating_add(1);
        }
        while pool.live.len() > MAX_OFFERS {
            pool.dropped = pool.live.pop_first().map_or(pool.dropped, |(id, _)| id);
        }
        let offer = |(id, (_, commitments)): (&u64, &(Nonce, Vec<u8>))| NonceOffer {
            nonce_id: *id,
            commitments: commitments.clone(),
        };
        pool.live.iter().map(offer).collect()
    }

    /// The coordinator used, or lost, all nonces up to this one: it needs newer ones.
    pub fn count_only_above(&mut self, coordinator: u16, used: u64) {
        let pool = self.pools.entry(coordinator).or_default();
        pool.skipped = pool.skipped.max(used.min(self.next_id.saturating_sub(1)));
    }

    pub fn standing(&self, coordinator: u16, nonce_id: u64, commitments: &[u8]) -> Standing {
        let pool = self.pools.get(&coordinator);
        match pool.and_then(|p| p.live.get(&nonce_id)) {
            Some((_, own)) if own == commitments => Standing::Live,
            Some(_) => Standing::Forged,
            None if pool.is_some_and(|p| nonce_id <= p.dropped) => Standing::Unknown,
            None if (self.first_id..self.next_id).contains(&nonce_id) => Standing::Used,
            None => Standing::Unknown,
        }
    }

    /// Takes a nonce out for good.
    pub fn take(&mut self, coordinator: u16, nonce_id: u64) -> Option<Nonce> {
        self.pools.get_mut(&coordinator)?.live.remove(&nonce_id).map(|(nonce, _)| nonce)
    }

    #[cfg(test)]
    pub fn live(&self) -> usize {
        self.pools.values().map(|p| p.live.len()).sum()
    }
}

/// What the other members offered this one as coordinator.
#[derive(Default)]
pub(super) struct Offers(BTreeMap<u16, Offered>);

#[derive(Default)]
struct Offered {
    live: BTreeMap<u64, Vec<u8>>,
    /// The newest name this coordinator used; it never uses it or an older one again.
    used: u64,
}

impl Offers {
    /// Notes what a member holds. True if its earlier nonces died with its process.
    pub fn learn(&mut self, member: u16, offers: &[NonceOffer]) -> Result<bool, RefusedWhy> {
        read_offers(offers)?;
        let Some(process) = offers.first().map(|o| o.nonce_id >> COUNTER_BITS) else { return Ok(false) };
        if offers.iter().any(|o| o.nonce_id >> COUNTER_BITS != process) {
            return Err(RefusedWhy::BadCommitments);
        }
        let known = self.0.entry(member).or_default();
        let newest = known.live.keys().next_back().copied().unwrap_or(known.used).max(known.used);
        let restarted = newest != 0 && newest >> COUNTER_BITS != process;
        let mut live = BTreeMap::new();
        for offer in offers {
            if !restarted && offer.nonce_id <= known.used {
                continue;
            }
            if known.live.get(&offer.nonce_id) != Some(&offer.commitments) {
                SigningCommitments::deserialize(&offer.commitments).map_err(|_| RefusedWhy::BadCommitments)?;
            }
            live.insert(offer.nonce_id, offer.commitments.clone());
        }
        if restarted {
            *known = Offered { live, used: 0 };
        } else if live.keys().next_back() >= known.live.keys().next_back() {
            // a list that a newer one overtook on its way brings nothing
            known.live = live;
        }
        Ok(restarted)
    }

    pub fn has(&self, member: u16) -> bool {
        self.0.get(&member).is_some_and(|o| !o.live.is_empty())
    }

    /// The newest nonce used of a member.
    pub fn used(&self, member: u16) -> u64 {
        self.0.get(&member).map_or(0, |o| o.used)
    }

    /// Uses a member's oldest nonce.
    pub fn take(&mut self, member: u16) -> Option<(u64, Vec<u8>)> {
        let offered = self.0.get_mut(&member)?;
        let (id, commitments) = offered.live.pop_first()?;
        offered.used = offered.used.max(id);
        Some((id, commitments))
    }
}
