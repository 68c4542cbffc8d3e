//! A sponsor deals a preimage to the committee (P1).
//!
//! A FROST signature cannot be the preimage itself: it is not known when the invoice is made. So the
//! payer, the one party whose money it is, draws a scalar whose bytes are the preimage, publishes
//! its SHA-256, and shares it t-of-n by Feldman's scheme (frost's own verifiable secret sharing). Each
//! share travels in a sealed box to one member; the commitments let every member check its own.

use super::group::identifier;
use crate::ids::{Digest, PaymentHash, Preimage};
use crate::record;
use frost::keys::{IdentifierList, KeyPackage, SecretShare, SigningShare, VerifiableSecretSharingCommitment};
use frost_secp256k1 as frost;
use rand_core::{CryptoRng, RngCore};
use std::fmt;

/// A member's X25519 key for sealed boxes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct EncryptionKey(Digest);

impl EncryptionKey {
    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0.0
    }

    /// Seals bytes so that only the key's owner can open them.
    pub fn seal(&self, plain: &[u8], rng: &mut (impl RngCore + CryptoRng)) -> Option<Vec<u8>> {
        crypto_box::PublicKey::from_bytes(self.0.0).seal(rng, plain).ok()
    }
}

/// Its secret.
pub struct EncryptionSecret(crypto_box::SecretKey);

impl fmt::Debug for EncryptionSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EncryptionSecret(<redacted>)")
    }
}

impl EncryptionSecret {
    /// The secret that belongs to a node's secret (K1: one mnemonic restores it).
    pub fn derive(node_secret: &[u8; 32]) -> Self {
        Self(crypto_box::SecretKey::from_bytes(blake3::derive_key("oda 2026 share encryption", node_secret)))
    }

    /// Opens a sealed box.
    pub fn unseal(&self, sealed: &[u8]) -> Option<zeroize::Zeroizing<Vec<u8>>> {
        self.0.unseal(sealed).ok().map(zeroize::Zeroizing::new)
    }

    /// Its public key.
    pub fn public(&self) -> EncryptionKey {
        EncryptionKey(Digest(self.0.public_key().to_bytes()))
    }
}

/// The public part of a dealt preimage.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Deal {
    /// Feldman commitments, 33 bytes each, t of them.
    commitment: Vec<u8>,
    /// One sealed box a member, in member order.
    boxes: Vec<Vec<u8>>,
}

/// A member's share, opened for the payee.
#[derive(Clone, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct ReleaseShare {
    /// Place of the member.
    pub index: u16,
    share: Vec<u8>,
}
record!(ReleaseShare, b"rlsh", 128);

impl fmt::Debug for ReleaseShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReleaseShare(<redacted> of member {})", self.index)
    }
}

/// A deal or share was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DealError {
    /// Wrong number or size of parts.
    #[error("the deal's parts do not fit a committee of {members} with threshold {threshold}")]
    Shape {
        /// Members.
        members: usize,
        /// Threshold.
        threshold: usize,
    },
    /// Not for this member, or another context.
    #[error("the share cannot be decrypted with this key, or was dealt for something else")]
    Sealed,
    /// Does not fit the commitments.
    #[error("the share does not fit the commitments: the dealer cheated")]
    Inconsistent,
    /// Too few.
    #[error("{good} good shares, {needed} are needed; bad ones came from members {bad:?}")]
    TooFew {
        /// Shares that fit.
        good: usize,
        /// Needed.
        needed: usize,
        /// Members whose shares did not fit.
        bad: Vec<u16>,
    },
    /// P2: the dealer committed to something else than it hashed.
    #[error("the rebuilt secret is not the preimage of the payment hash: the dealer cheated")]
    FalsePreimage,
    /// The library refused.
    #[error("sharing failed: {0}")]
    Library(String),
}

const POINT_BYTES: usize = 33;
const SCALAR_BYTES: usize = 32;
/// Share and context digest, plus the sealed box's key and tag.
const BOX_BYTES: usize = SCALAR_BYTES + 32 + 48;

fn context_digest(context: &[u8]) -> [u8; 32] {
    blake3::derive_key("oda 2026 dealt share context", context)
}

impl Deal {
    /// Checks the sizes against a committee; says nothing of the secrets inside.
    ///
    /// # Errors
    /// [`DealError::Shape`].
    pub fn check(&self, members: usize, threshold: usize) -> Result<(), DealError> {
        let fits = self.commitment.len() == threshold * POINT_BYTES
            && self.boxes.len() == members
            && self.boxes.iter().all(|b| b.len() == BOX_BYTES)
            && self.commitments().is_ok();
        if fits { Ok(()) } else { Err(DealError::Shape { members, threshold }) }
    }

    fn threshold(&self) -> usize {
        self.commitment.len() / POINT_BYTES
    }

    fn commitments(&self) -> Result<VerifiableSecretSharingCommitment, DealError> {
        let parts = self.commitment.chunks(POINT_BYTES);
        VerifiableSecretSharingCommitment::deserialize(parts).map_err(|_| DealError::Inconsistent)
    }

    /// Whether a share fits the commitments. A payee collects one such share a member and nothing else.
    pub fn accepts(&self, share: &ReleaseShare) -> bool {
        self.verified(share).is_ok()
    }

    /// The share as frost's type, if it is a member's and fits the commitments.
    fn verified(&self, share: &ReleaseShare) -> Result<KeyPackage, DealError> {
        if usize::from(share.index) >= self.boxes.len() {
            return Err(DealError::Inconsistent);
        }
        let signing = SigningShare::deserialize(&share.share).map_err(|_| DealError::Inconsistent)?;
        let secret = SecretShare::new(identifier(usize::from(share.index)), signing, self.commitments()?);
        KeyPackage::try_from(secret).map_err(|_| DealError::Inconsistent)
    }
}

/// Draws a preimage and deals it to the members, bound to a context (the escrow's id).
///
/// # Errors
/// If the committee is not one the sharing supports.
pub fn deal_preimage(
    members: &[EncryptionKey],
    threshold: usize,
    context: &[u8],
    rng: &mut (impl RngCore + CryptoRng),
) -> Result<(Preimage, PaymentHash, Deal), DealError> {
    let library = |e: frost::Error| DealError::Library(e.to_string());
    let size = |n: usize| u16::try_from(n).map_err(|e| DealError::Library(e.to_string()));
    let secret = frost::SigningKey::new(rng);
    let preimage =
        Preimage(secret.serialize().try_into().map_err(|_| DealError::Library("a scalar is not 32 bytes".into()))?);
    let ids: Vec<_> = (0..members.len()).map(identifier).collect();
    let (shares, _) =
        frost::keys::split(&secret, size(members.len())?, size(threshold)?, IdentifierList::Custom(&ids), rng)
            .map_err(library)?;
    let (mut boxes, mut commitment) = (Vec::new(), Vec::new());
    for (id, key) in ids.iter().zip(members) {
        let share = shares.get(id).ok_or_else(|| DealError::Library("a share is missing".into()))?;
        if commitment.is_empty() {
            commitment = share.commitment().serialize().map_err(library)?.concat();
        }
        let mut plain = zeroize::Zeroizing::new(share.signing_share().serialize());
        plain.extend_from_slice(&context_digest(context));
        boxes.push(key.seal(&plain, rng).ok_or_else(|| DealError::Library("sealing failed".into()))?);
    }
    let hash = preimage.payment_hash();
    Ok((preimage, hash, Deal { commitment, boxes }))
}

/// Decrypts a member's share and checks it against the commitments.
///
/// # Errors
/// If it is not for this member and context, or the dealer cheated.
pub fn open_share(
    deal: &Deal,
    index: usize,
    secret: &EncryptionSecret,
    context: &[u8],
) -> Result<ReleaseShare, DealError> {
    let sealed = deal.boxes.get(index).ok_or(DealError::Sealed)?;
    let plain = secret.unseal(sealed).ok_or(DealError::Sealed)?;
    let (share, bound) = plain.split_at_checked(SCALAR_BYTES).ok_or(DealError::Sealed)?;
    if bound != context_digest(context) {
        return Err(DealError::Sealed);
    }
    let share = ReleaseShare { index: u16::try_from(index).map_err(|_| DealError::Sealed)?, share: share.to_vec() };
    deal.verified(&share)?;
    Ok(share)
}

/// Rebuilds the preimage from any t good shares; bad ones are left out and named.
///
/// # Errors
/// If fewer than t fit, or the dealer cheated on the hash (P2).
pub fn rebuild(deal: &Deal, hash: PaymentHash, shares: &[ReleaseShare]) -> Result<Preimage, DealError> {
    let (mut good, mut bad) = (std::collections::BTreeMap::new(), Vec::new());
    for share in shares {
        match deal.verified(share) {
            Ok(package) => drop(good.insert(share.index, package)),
            Err(_) => bad.push(share.index),
        }
    }
    let needed = deal.threshold();
    if good.len() < needed || needed == 0 {
        return Err(DealError::TooFew { good: good.len(), needed, bad });
    }
    let packages: Vec<KeyPackage> = good.into_values().take(needed).collect();
    let secret = frost::keys::reconstruct(&packages).map_err(|e| DealError::Library(e.to_string()))?;
    let bytes: [u8; 32] =
        secret.serialize().try_into().map_err(|_| DealError::Library("a scalar is not 32 bytes".into()))?;
    let preimage = Preimage(bytes);
    if preimage.payment_hash() == hash { Ok(preimage) } else { Err(DealError::FalsePreimage) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    fn committee(n: u8) -> (Vec<EncryptionSecret>, Vec<EncryptionKey>) {
        let secrets: Vec<_> = (0..n).map(|i| EncryptionSecret::derive(&[i; 32])).collect();
        let keys = secrets.iter().map(EncryptionSecret::public).collect();
        (secrets, keys)
    }

    #[test] // P1: any t rebuild, t - 1 do not, and the deal is small
    fn any_threshold_rebuilds_and_fewer_do_not() {
        let (secrets, keys) = committee(4);
        let mut rng = ChaCha20Rng::from_seed([1; 32]);
        let (preimage, hash, deal) = deal_preimage(&keys, 3, b"escrow", &mut rng).unwrap();
        assert_eq!(preimage.payment_hash(), hash);
        deal.check(4, 3).unwrap();
        println!("deal bytes n=4: {}", bincode::encode_to_vec(&deal, bincode::config::standard()).unwrap().len());
        assert!(deal.check(5, 4).is_err());
        let shares: Vec<_> = (0..4).map(|i| open_share(&deal, i, &secrets[i], b"escrow").unwrap()).collect();
        for skip in 0..4 {
            let three: Vec<_> = shares.iter().filter(|s| usize::from(s.index) != skip).cloned().collect();
            assert_eq!(rebuild(&deal, hash, &three).unwrap(), preimage);
            assert!(matches!(rebuild(&deal, hash, &three[1..]), Err(DealError::TooFew { good: 2, .. })));
        }
        let twice = [shares[0].clone(), shares[0].clone(), shares[1].clone()];
        assert!(rebuild(&deal, hash, &twice).is_err(), "one member counts once");
        assert!(format!("{:?}", shares[0]).contains("redacted"));
    }

    #[test] // P1: shares are bound to member and context; forged ones are named and left out
    fn foreign_and_forged_shares_are_refused() {
        let (secrets, keys) = committee(4);
        let mut rng = ChaCha20Rng::from_seed([2; 32]);
        let (preimage, hash, deal) = deal_preimage(&keys, 3, b"escrow", &mut rng).unwrap();
        assert_eq!(open_share(&deal, 0, &secrets[1], b"escrow"), Err(DealError::Sealed));
        assert_eq!(open_share(&deal, 0, &secrets[0], b"other"), Err(DealError::Sealed));
        assert_eq!(open_share(&deal, 9, &secrets[0], b"escrow"), Err(DealError::Sealed));
        let mut shares: Vec<_> = (0..4).map(|i| open_share(&deal, i, &secrets[i], b"escrow").unwrap()).collect();
        shares[2].share[5] ^= 1;
        assert_eq!(rebuild(&deal, hash, &shares).unwrap(), preimage);
        assert_eq!(rebuild(&deal, hash, &shares[1..]), Err(DealError::TooFew { good: 2, needed: 3, bad: vec![2] }));
    }

    #[test] // P1, P2: a dealer that deals a wrong share or hash is noticed
    fn a_cheating_dealer_is_noticed() {
        let (secrets, keys) = committee(4);
        let mut rng = ChaCha20Rng::from_seed([3; 32]);
        let (_, hash, deal) = deal_preimage(&keys, 3, b"escrow", &mut rng).unwrap();
        let (_, other_hash, other) = deal_preimage(&keys, 3, b"escrow", &mut rng).unwrap();
        let mixed = Deal { commitment: deal.commitment.clone(), boxes: other.boxes };
        assert_eq!(open_share(&mixed, 0, &secrets[0], b"escrow"), Err(DealError::Inconsistent));
        let shares: Vec<_> = (0..3).map(|i| open_share(&deal, i, &secrets[i], b"escrow").unwrap()).collect();
        assert_eq!(rebuild(&deal, other_hash, &shares), Err(DealError::FalsePreimage));
        assert!(rebuild(&deal, hash, &shares).is_ok());
    }

    #[test] // K3: the index of a share comes from outside and may be anything
    fn shares_of_nobody_are_refused() {
        let (secrets, keys) = committee(4);
        let mut rng = ChaCha20Rng::from_seed([4; 32]);
        let (preimage, hash, deal) = deal_preimage(&keys, 3, b"escrow", &mut rng).unwrap();
        let mut shares: Vec<_> = (0..3).map(|i| open_share(&deal, i, &secrets[i], b"escrow").unwrap()).collect();
        for index in [4, u16::MAX - 1, u16::MAX] {
            let share = ReleaseShare { index, share: vec![1; 32] };
            assert!(!deal.accepts(&share));
            assert_eq!(
                rebuild(&deal, hash, std::slice::from_ref(&share)),
                Err(DealError::TooFew { good: 0, needed: 3, bad: vec![index] })
            );
            shares.push(share);
        }
        assert_eq!(rebuild(&deal, hash, &shares).unwrap(), preimage);
    }

    proptest! {
        #[test] // K3
        fn garbage_never_panics(commitment in proptest::collection::vec(any::<u8>(), 0..140),
                                sealed in proptest::collection::vec(any::<u8>(), 0..140), index in any::<u16>()) {
            let deal = Deal { commitment, boxes: vec![sealed.clone(); 4] };
            let _ = deal.check(4, 3);
            let _ = open_share(&deal, usize::from(index), &EncryptionSecret::derive(&[0; 32]), b"x");
            let _ = rebuild(&deal, PaymentHash([0; 32]), &[ReleaseShare { index, share: sealed }]);
        }
    }
}
