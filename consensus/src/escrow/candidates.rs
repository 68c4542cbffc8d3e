//! Cut and choose (P2): why a payer can hardly deal a preimage that pays nothing.
//!
//! A payer could publish the hash of one secret and deal another: the work would be shown, the shares rebuilt,
//! and the payment could not be claimed. Nothing in a dealt secret shows this beforehand. So the payer commits
//! to more candidates than it needs, each made from one seed. *The payee* draws which of them become the
//! tranches, and only then: it is who would be cheated, and to it all candidates look alike. The payer shows
//! the seeds of the others, everyone makes those anew, and the tranches may be dealt only if all of them are
//! what was committed to. A payer that cannot show them is seen, before any work is.
//!
//! With 2 T + 2 candidates for T tranches, one false candidate is found with probability (T + 2) / (2 T + 2), and
//! becomes one given tranche with 1 / (2 T + 2). One that is not found is proven when the tranche is to be
//! released: t good shares that rebuild something else than was hashed.

use super::tranches::{MAX_TRANCHES, Terms};
use super::{Offer, Opening};
use crate::codec;
use crate::frost::{Deal, DealError, EncryptionKey, deal_preimage};
use crate::ids::{Digest, EscrowId, PaymentHash, Preimage};
use crate::record;
use crate::sample;
use rand_chacha::ChaCha20Rng;
use rand_core::{CryptoRng, RngCore, SeedableRng};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A payment a payer could make: what it commits to before it knows whether it must show the seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize, Deserialize)]
pub struct Candidate {
    /// SHA-256 of the preimage.
    pub payment_hash: PaymentHash,
    /// Hash of the deal.
    pub deal: Digest,
}

/// Candidates for so many tranches.
pub fn candidates_for(tranches: u8) -> usize {
    2 * usize::from(tranches.min(MAX_TRANCHES)) + 2
}

record!(Deal, b"deal", 32 << 10);

/// Hash of a deal, as candidates carry it.
pub fn deal_digest(deal: &Deal) -> Digest {
    Digest(codec::hash(deal))
}

/// Who holds the shares, and for what.
#[derive(Clone, Copy, Debug)]
pub struct Committee<'a> {
    /// The escrow the shares are bound to.
    pub escrow: EscrowId,
    /// The members' keys, in member order.
    pub members: &'a [EncryptionKey],
    /// Shares that rebuild a preimage.
    pub threshold: usize,
}

/// Makes a candidate from its seed: the same on every machine, which is what lets others check it.
///
/// # Errors
/// If the committee is not one the sharing supports.
pub fn candidate(seed: Digest, committee: Committee<'_>) -> Result<(Preimage, Candidate, Deal), DealError> {
    let mut h = blake3::Hasher::new_derive_key("oda 2026 dealt candidate");
    h.update(&seed.0).update(&committee.escrow.0);
    let mut rng = ChaCha20Rng::from_seed(*h.finalize().as_bytes());
    let (preimage, payment_hash, deal) =
        deal_preimage(committee.members, committee.threshold, &committee.escrow.0, &mut rng)?;
    let candidate = Candidate { payment_hash, deal: deal_digest(&deal) };
    Ok((preimage, candidate, deal))
}

/// The candidates that become tranches 0, 1, ... by the payee's draw.
pub fn kept(choice: Digest, escrow: EscrowId, tranches: u8) -> Vec<usize> {
    let mut h = blake3::Hasher::new_derive_key("oda 2026 choice of candidates");
    h.update(&choice.0).update(&escrow.0);
    let population = u32::try_from(candidates_for(tranches)).unwrap_or(0);
    let drawn = sample::draw(*h.finalize().as_bytes(), population, tranches.min(MAX_TRANCHES).into());
    drawn.into_iter().filter_map(|i| usize::try_from(i).ok()).collect()
}

/// Those that do not, ascending: the payer must show their seeds.
pub fn opened(choice: Digest, escrow: EscrowId, tranches: u8) -> Vec<usize> {
    let kept = kept(choice, escrow, tranches);
    (0..candidates_for(tranches)).filter(|i| !kept.contains(i)).collect()
}

/// What a payer keeps to itself: whoever has the seeds has the preimages.
#[derive(Clone, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Seeds(Vec<Digest>);

impl fmt::Debug for Seeds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Seeds(<redacted> of {})", self.0.len())
    }
}

impl Seeds {
    /// Seeds for the candidates of so many tranches.
    pub fn draw(tranches: u8, rng: &mut (impl RngCore + CryptoRng)) -> Self {
        let seed = |_| {
            let mut seed = Digest([0; 32]);
            rng.fill_bytes(&mut seed.0);
            seed
        };
        Self((0..candidates_for(tranches)).map(seed).collect())
    }

    /// The offer that commits to them.
    ///
    /// # Errors
    /// If the committee is not one the sharing supports.
    pub fn offer(&self, terms: Terms, epoch: u64, committee: Committee<'_>) -> Result<Offer, DealError> {
        let candidates = self.0.iter().map(|seed| candidate(*seed, committee).map(|(_, made, _)| made));
        Ok(Offer { terms, epoch, candidates: candidates.collect::<Result<_, _>>()? })
    }

    /// The preimages of the tranches the payee drew, and what is to be shown.
    ///
    /// # Errors
    /// As [`Seeds::offer`].
    pub fn open(
        &self,
        choice: Digest,
        tranches: u8,
        committee: Committee<'_>,
    ) -> Result<(Vec<Preimage>, Opening), DealError> {
        let seed = |place: usize| self.0.get(place).copied().ok_or(DealError::Sealed);
        let (mut preimages, mut deals) = (Vec::new(), Vec::new());
        for place in kept(choice, committee.escrow, tranches) {
            let (preimage, _, deal) = candidate(seed(place)?, committee)?;
            preimages.push(preimage);
            deals.push(deal);
        }
        let seeds = opened(choice, committee.escrow, tranches).into_iter().map(seed).collect::<Result<_, _>>()?;
        Ok((preimages, Opening { seeds, deals }))
    }
}
