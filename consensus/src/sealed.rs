//! A sponsor's sealed test set (S3, attack 1): guard slices that only the committee can read.
//!
//! The obvious way, a test set that the sponsor keeps to itself, asks everybody to believe its figures. Here a
//! sealed set is an ordinary guard slice whose blob is encrypted: everybody stores it, the manifest names the
//! hash of cipher and plain text, and measurement, verdict and outcome are those of any guard. One key opens
//! all sealed guards of a model. Who added the model gives it to each committee in sealed boxes
//! ([`crate::tx::Unseal::Committee`]) and to everyone at the end ([`crate::tx::Unseal::Public`]); from then on
//! anyone can replay every figure.
//!
//! Nobody need believe the key: what it opens must have the hash that the manifest names, which a wrong key,
//! or a cipher text that two keys open, cannot have. Whether a round measures the sealed guards is fixed when
//! it is sealed. So a sponsor that posts no key has its guards skipped, and one that posts garbage keeps the
//! members from judging: it slows its own model, until other judges
//! take over and judge without the key, and nothing else.
//! What this does not do: a member can pass the key on, and stays able to read the set after its epoch; and the
//! hash of the plain text gives away a set that somebody can guess whole (a published one, say).

use crate::frost::{EncryptionKey, EncryptionSecret};
use crate::ids::{BlobRef, ChainId, Digest, ModelId, NodeId};
use crate::state::{ModelState, Round, State};
use crate::tx::{Tx, Unseal};
use crypto_secretbox::aead::Aead as _;
use crypto_secretbox::{KeyInit as _, Nonce, XSalsa20Poly1305};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;
use std::fmt;
use zeroize::Zeroizing;

/// By how many bytes the cipher text is longer: Poly1305's tag.
pub const TAG_BYTES: u64 = 16;
/// A boxed key: the key and the digest of what it is for, plus the sealed box's own key and tag.
pub const BOX_BYTES: usize = 32 + 32 + 48;

/// The key of a model's sealed guards.
#[derive(Clone, PartialEq, Eq)]
pub struct GuardKey(Zeroizing<[u8; 32]>);

impl fmt::Debug for GuardKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GuardKey(<redacted>)")
    }
}

impl GuardKey {
    /// The key of these bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The key of the sponsor with this secret, for the model file with this seed whose first sealed guard has
    /// this plain text: the same after a restart, another for another model.
    pub fn derive(sponsor_secret: &[u8; 32], seed: &str, first: BlobRef) -> Self {
        let mut h = blake3::Hasher::new_derive_key("oda 2026 key of sealed guards");
        h.update(sponsor_secret).update(&first.hash.0).update(&first.len.to_le_bytes()).update(seed.as_bytes());
        Self::new(*h.finalize().as_bytes())
    }

    /// What is told to everyone at the end.
    pub fn public(&self) -> Digest {
        Digest(*self.0)
    }
}

/// A sealed split could not be made or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealedError {
    /// Not the length the manifest says.
    #[error("{found} bytes of cipher text, the manifest says {expected}: fetch the blob again")]
    Length {
        /// Bytes found.
        found: u64,
        /// Bytes expected.
        expected: u64,
    },
    /// The library refused.
    #[error("the key does not open the sealed guard: whoever added the model posted another key")]
    WrongKey,
    /// It opens, but to something else.
    #[error("the opened guard is not the one the manifest names: whoever added the model cheated")]
    WrongPlain,
}

fn nonce(plain: BlobRef) -> Nonce {
    // one key never meets two plain texts under one nonce, and a restart gives the same cipher text
    let seed = blake3::derive_key("oda 2026 nonce of a sealed guard", &plain.hash.0);
    let mut nonce = Nonce::default();
    nonce.iter_mut().zip(seed).for_each(|(to, from)| *to = from);
    nonce
}

fn cipher(key: &GuardKey) -> XSalsa20Poly1305 {
    XSalsa20Poly1305::new((&*key.0).into())
}

/// Encrypts a split (XSalsa20-Poly1305, the secretbox of NaCl). The manifest names [`BlobRef::of`] both.
///
/// # Errors
/// If the library refuses.
pub fn seal_split(key: &GuardKey, plain: &[u8]) -> Result<Vec<u8>, SealedError> {
    cipher(key).encrypt(&nonce(BlobRef::of(plain)), plain).map_err(|_| SealedError::WrongKey)
}

/// Decrypts a split and checks that it is the one the manifest names.
///
/// # Errors
/// If the length, the key or the plain text is not what the manifest says.
pub fn open_split(key: &GuardKey, sealed: &[u8], expected: BlobRef) -> Result<Vec<u8>, SealedError> {
    let (found, length) = (sealed.len() as u64, expected.len.saturating_add(TAG_BYTES));
    if found != length {
        return Err(SealedError::Length { found, expected: length });
    }
    let plain = cipher(key).decrypt(&nonce(expected), sealed).map_err(|_| SealedError::WrongKey)?;
    if BlobRef::of(&plain) == expected { Ok(plain) } else { Err(SealedError::WrongPlain) }
}

fn context(chain: ChainId, model: ModelId, epoch: u64) -> blake3::Hasher {
    let mut h = blake3::Hasher::new_derive_key("oda 2026 box of a guard key");
    h.update(&chain.0).update(&model.0).update(&epoch.to_le_bytes());
    h
}

/// One box a member, in member order. The same every time, so that a sponsor that says it again says the same;
/// the boxes' own keys follow from the guard key, and whoever could compute them knows what is inside.
pub fn box_key(
    key: &GuardKey,
    members: &[EncryptionKey],
    (chain, model, epoch): (ChainId, ModelId, u64),
) -> Option<Vec<Vec<u8>>> {
    let mut bound = context(chain, model, epoch);
    let mut plain = Zeroizing::new(key.0.to_vec());
    plain.extend_from_slice(bound.finalize().as_bytes());
    let seed = bound.update(b"randomness").update(&*key.0).finalize();
    let mut rng = ChaCha20Rng::from_seed(*seed.as_bytes());
    members.iter().map(|m| m.seal(&plain, &mut rng)).collect()
}

/// Whether these can be the boxes for so many members; says nothing of what is inside.
pub fn boxes_fit(boxes: &[Vec<u8>], members: usize) -> bool {
    boxes.len() == members && boxes.iter().all(|b| b.len() == BOX_BYTES)
}

/// Opens a member's box. `None` if it is for another member, model or epoch.
pub fn unbox_key(
    sealed: &[u8],
    secret: &EncryptionSecret,
    (chain, model, epoch): (ChainId, ModelId, u64),
) -> Option<GuardKey> {
    let plain = secret.unseal(sealed)?;
    let (key, bound) = plain.split_first_chunk::<32>()?;
    (bound == context(chain, model, epoch).finalize().as_bytes()).then(|| GuardKey::new(*key))
}

/// A round's key, if its sealed guards are measured, for one of its judges. The outer `None`: they are, but this
/// member was not given the key and cannot judge.
pub fn key_for(
    state: &State,
    model: &ModelState,
    round: &Round,
    (me, secret): (NodeId, &EncryptionSecret),
) -> Option<Option<GuardKey>> {
    if !round.opened {
        return Some(None);
    }
    if let Some(key) = model.revealed {
        return Some(Some(GuardKey::new(key.0)));
    }
    let epoch = round.judges?;
    let place = state.epoch_state(epoch)?.group.index_of(me)?;
    let boxes = &model.keys.iter().find(|k| k.epoch == epoch)?.boxes;
    unbox_key(boxes.get(place)?, secret, (state.chain(), model.manifest.id(), epoch)).map(Some)
}

/// What the node that added a model has to post of its key now: to the committee in charge, or, if `reveal`, to
/// everyone.
pub fn due(state: &State, me: NodeId, id: ModelId, key: &GuardKey, reveal: bool) -> Option<Tx> {
    let model = state.model(id)?;
    if model.added_by != me || !model.manifest.has_sealed_guards() || model.revealed.is_some() {
        return None;
    }
    if reveal {
        return Some(Tx::Unseal(Unseal::Public { model: id, key: key.public() }));
    }
    let current = state.current();
    let epoch = current.number;
    if model.keys.iter().any(|k| k.epoch == epoch) {
        return None;
    }
    let members = state.encryption_keys(current.group.members())?;
    let boxes = box_key(key, &members, (state.chain(), id, epoch))?;
    Some(Tx::Unseal(Unseal::Committee { model: id, epoch, boxes }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> GuardKey {
        GuardKey::new([n; 32])
    }

    #[test]
    fn a_sealed_split_opens_to_itself_and_hides_what_it_holds() {
        let plain = b"the samples nobody may train on".repeat(9);
        let sealed = seal_split(&key(1), &plain).unwrap();
        assert_eq!(sealed.len() as u64, plain.len() as u64 + TAG_BYTES);
        assert!(!sealed.windows(8).any(|w| plain.windows(8).any(|p| p == w)));
        assert_eq!(open_split(&key(1), &sealed, BlobRef::of(&plain)).unwrap(), plain);
        assert_eq!(seal_split(&key(1), &plain).unwrap(), sealed, "the same after a restart");
        assert_ne!(seal_split(&key(2), &plain).unwrap(), sealed);
        let other: Vec<u8> = plain.iter().map(|b| b ^ 1).collect();
        let stream = |sealed: &[u8], plain: &[u8]| sealed.iter().zip(plain).map(|(a, b)| a ^ b).collect::<Vec<u8>>();
        let sealed_other = seal_split(&key(1), &other).unwrap();
        assert_ne!(stream(&sealed[16..], &plain), stream(&sealed_other[16..], &other), "one key, another nonce");
        assert!(format!("{:?}", key(1)).contains("redacted"));
    }

    #[test] // K3: nothing but the committed plain text comes out
    fn a_wrong_key_length_hash_or_bit_is_refused() {
        let plain = b"samples".to_vec();
        let expected = BlobRef::of(&plain);
        let sealed = seal_split(&key(1), &plain).unwrap();
        assert_eq!(open_split(&key(2), &sealed, expected), Err(SealedError::WrongKey));
        for at in 0..sealed.len() {
            let mut flipped = sealed.clone();
            flipped[at] ^= 1;
            assert_eq!(open_split(&key(1), &flipped, expected), Err(SealedError::WrongKey), "byte {at}");
        }
        let cut = open_split(&key(1), &sealed[1..], expected);
        assert_eq!(cut, Err(SealedError::Length { found: 22, expected: 23 }));
        assert!(open_split(&key(1), &[], BlobRef { len: u64::MAX, ..expected }).is_err());
        assert_eq!(open_split(&key(1), &sealed, BlobRef::of(b"another")), Err(SealedError::WrongKey));
        // a cheat that encrypts something else so that it opens
        let other = cipher(&key(1)).encrypt(&nonce(expected), &b"elpmas!"[..]).unwrap();
        assert_eq!(open_split(&key(1), &other, expected), Err(SealedError::WrongPlain));
    }

    #[test] // as shares are bound to their escrow
    fn a_box_is_for_one_member_model_and_epoch() {
        let secrets: Vec<_> = (0..4).map(|i| EncryptionSecret::derive(&[i; 32])).collect();
        let members: Vec<_> = secrets.iter().map(EncryptionSecret::public).collect();
        let name = (ChainId([1; 32]), ModelId([2; 32]), 3);
        let boxes = box_key(&key(9), &members, name).unwrap();
        assert!(boxes_fit(&boxes, 4) && !boxes_fit(&boxes, 5) && !boxes_fit(&boxes[1..], 4));
        assert!(!boxes_fit(&[vec![0; BOX_BYTES + 1]], 1));
        for (sealed, secret) in boxes.iter().zip(&secrets) {
            assert_eq!(unbox_key(sealed, secret, name), Some(key(9)));
        }
        assert_eq!(unbox_key(&boxes[0], &secrets[1], name), None);
        assert_eq!(unbox_key(&boxes[0], &secrets[0], (ChainId([2; 32]), name.1, 3)), None);
        assert_eq!(unbox_key(&boxes[0], &secrets[0], (name.0, ModelId([3; 32]), 3)), None);
        assert_eq!(unbox_key(&boxes[0], &secrets[0], (name.0, name.1, 4)), None);
        assert_eq!(unbox_key(b"short", &secrets[0], name), None);
        assert_eq!(box_key(&key(9), &members, name).unwrap(), boxes, "said again, it is the same");
        assert_ne!(box_key(&key(9), &members, (name.0, name.1, 4)).unwrap()[0][..32], boxes[0][..32]);
        assert_ne!(boxes[0][..32], boxes[1][..32], "each box has its own key");
    }
}
