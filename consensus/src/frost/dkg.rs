//! Distributed key generation with the ledger as its only channel (C2).
//!
//! Every member of a coming committee deals two keys at once: the signing key (secp256k1) and the
//! beacon's own key (ristretto255). What it deals follows from one secret seed, so a member that
//! restarts goes on where it was, and its share can be computed again from seed and ledger. The
//! obvious way, streams between each pair of members, leaves it one word against another whether a
//! package was sent; on the ledger everybody sees who dealt what and when. The private shares travel
//! there as sealed boxes, one for each recipient. A recipient that finds a bad share complains; the
//! dealer must then open that one share, and the ledger judges. An opened share costs nothing: either
//! its dealer or its recipient is a cheater that knew it already.
//!
//! The construction is the DKG of `frost-core` 3 (Pedersen's with proofs of knowledge, as in the FROST
//! paper, Komlo and Goldberg 2020) with the complaints of Gennaro, Jarecki, Krawczyk and Rabin.

use super::deal::{EncryptionKey, EncryptionSecret};
use super::group::{GroupError, GroupKey, KeyShare, threshold};
use crate::beacon::{BeaconKey, BeaconShare};
use crate::ids::{ChainId, Digest, NodeId};
use crate::record;
use frost_core::keys::dkg as core_dkg;
use frost_core::keys::dkg::{round1, round2};
use frost_core::keys::{KeyPackage, PublicKeyPackage, SecretShare, SigningShare, VerifiableSecretSharingCommitment};
use frost_core::{Ciphersuite, Identifier};
use frost_ristretto255::Ristretto255Sha512 as Ristretto;
use frost_secp256k1::Secp256K1Sha256 as Secp;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::collections::BTreeMap;
use std::fmt;
use zeroize::Zeroizing;

/// Bytes of a serialised scalar, on both curves.
const SCALAR_BYTES: usize = 32;
/// Two shares and the context, plus the sealed box's key and tag.
const BOX_BYTES: usize = 2 * SCALAR_BYTES + 32 + 48;
/// Most bytes of one curve's first-round package: 67 commitments and a proof.
const MAX_ROUND1_BYTES: usize = 2_600;

/// What one member publishes first: commitments to its polynomials, and proofs that it knows them.
#[derive(Clone, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Round1 {
    signing: Vec<u8>,
    beacon: Vec<u8>,
}

/// What it publishes second: a sealed box for each member, in member order, its own included.
#[derive(Clone, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Round2 {
    boxes: Vec<Vec<u8>>,
}

/// Its two shares for one member, in the open: the answer to a complaint.
#[derive(Clone, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct OpenedShares {
    signing: [u8; SCALAR_BYTES],
    beacon: [u8; SCALAR_BYTES],
}

macro_rules! brief_debug {
    ($($ty:ident),*) => {$(
        impl fmt::Debug for $ty {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($ty), "(..)"))
            }
        }
    )*};
}
brief_debug!(Round1, Round2, OpenedShares);

/// The secret from which all of a member's dealing in one epoch follows. Wiped when dropped.
pub struct EpochSeed(Zeroizing<[u8; 32]>);

impl fmt::Debug for EpochSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EpochSeed(<redacted>)")
    }
}

/// A seed as it lies on disk: sealed to its node's own encryption key.
#[derive(Clone, PartialEq, Eq, bincode::Encode, bincode::Decode)]
struct SeedFile {
    epoch: u64,
    seed: [u8; 32],
}
record!(SeedFile, b"seed", 64);

impl EpochSeed {
    /// A fresh one.
    pub fn random(rng: &mut (impl rand_core::RngCore + rand_core::CryptoRng)) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        rng.fill_bytes(seed.as_mut());
        Self(seed)
    }

    /// Encrypted bytes for the key file of an epoch.
    ///
    /// # Errors
    /// If sealing fails.
    pub fn seal(
        &self,
        epoch: u64,
        to: &EncryptionKey,
        rng: &mut (impl rand_core::RngCore + rand_core::CryptoRng),
    ) -> Result<Vec<u8>, DkgError> {
        let plain = Zeroizing::new(crate::codec::encode(&SeedFile { epoch, seed: *self.0 }));
        to.seal(&plain, rng).ok_or(DkgError::Damaged("sealing failed".into()))
    }

    /// Reads a key file.
    ///
    /// # Errors
    /// If it is damaged, of another node, or of another epoch.
    pub fn open(bytes: &[u8], epoch: u64, secret: &EncryptionSecret) -> Result<Self, DkgError> {
        let plain = secret
            .unseal(bytes)
            .ok_or_else(|| DkgError::Damaged("the key file is damaged or belongs to another node".into()))?;
        let file: SeedFile = crate::codec::decode(&plain).map_err(|e| DkgError::Damaged(e.to_string()))?;
        if file.epoch != epoch {
            return Err(DkgError::Damaged(format!("the key file is of epoch {}, not {epoch}", file.epoch)));
        }
        Ok(Self(Zeroizing::new(file.seed)))
    }

    fn rng(&self, context: Digest, what: &str) -> ChaCha20Rng {
        let mut h = blake3::Hasher::new_derive_key("oda 2026 key generation randomness");
        h.update(self.0.as_ref()).update(&context.0).update(what.as_bytes());
        ChaCha20Rng::from_seed(*h.finalize().as_bytes())
    }
}

/// Key generation failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DkgError {
    /// Key material that cannot be used.
    #[error("{0}")]
    Damaged(String),
    /// A first-round package that no honest member makes.
    #[error("the package of member {0} does not prove knowledge of its secret, or has the wrong shape")]
    BadPackage(usize),
    /// Wrong number or size of boxes.
    #[error("the boxes do not fit a committee of {0}")]
    Shape(usize),
    /// Shares of these dealers do not fit their commitments.
    #[error("the shares dealt by members {0:?} do not fit their commitments")]
    BadShares(Vec<u16>),
    /// The members are not a committee.
    #[error("{0}")]
    Group(#[from] GroupError),
}

fn damaged(e: impl fmt::Display) -> DkgError {
    DkgError::Damaged(e.to_string())
}

/// Names one attempt at the key of one epoch; bound into every box.
pub fn dkg_context(chain: ChainId, epoch: u64, attempt: u32) -> Digest {
    let mut h = blake3::Hasher::new_derive_key("oda 2026 key generation context");
    h.update(&chain.0).update(&epoch.to_le_bytes()).update(&attempt.to_le_bytes());
    Digest(*h.finalize().as_bytes())
}

/// One curve's side of a member's dealing.
struct Dealt<C: Ciphersuite> {
    secret: core_dkg::round1::SecretPackage<C>,
    package: round1::Package<C>,
}

fn id_of<C: Ciphersuite>(index: usize) -> Identifier<C> {
    let number = u16::try_from(index.saturating_add(1)).unwrap_or(u16::MAX);
    Identifier::try_from(number).expect("a number above zero is an identifier")
}

fn deal_one<C: Ciphersuite>(index: usize, n: usize, rng: ChaCha20Rng) -> Result<Dealt<C>, DkgError> {
    let size = |v: usize| u16::try_from(v).map_err(damaged);
    let (secret, package) = core_dkg::part1(id_of::<C>(index), size(n)?, size(threshold(n))?, rng).map_err(damaged)?;
    Ok(Dealt { secret, package })
}

fn package<C: Ciphersuite>(bytes: &[u8]) -> Option<round1::Package<C>> {
    if bytes.len() > MAX_ROUND1_BYTES { None } else { round1::Package::deserialize(bytes).ok() }
}

fn check_one<C: Ciphersuite>(bytes: &[u8], index: usize, n: usize) -> bool {
    package::<C>(bytes).is_some_and(|p| {
        p.commitment().coefficients().len() == threshold(n)
            && p.serialize().is_ok_and(|again| again == bytes)
            && core_dkg::verify_proof_of_knowledge(id_of::<C>(index), p.commitment(), p.proof_of_knowledge()).is_ok()
    })
}

impl Round1 {
    /// Whether this is a package an honest member at that place of a committee of `n` may publish.
    pub fn check(&self, index: usize, n: usize) -> bool {
        check_one::<Secp>(&self.signing, index, n) && check_one::<Ristretto>(&self.beacon, index, n)
    }
}

impl Round2 {
    /// Checks number and sizes; says nothing of the secrets inside.
    pub fn check(&self, n: usize) -> bool {
        self.boxes.len() == n && self.boxes.iter().all(|b| b.len() == BOX_BYTES)
    }
}

/// A member's first-round package: the same whenever it is computed from the same seed.
///
/// # Errors
/// If the committee's size is not supported.
pub fn deal_round1(seed: &EpochSeed, context: Digest, index: usize, n: usize) -> Result<Round1, DkgError> {
    let signing = deal_one::<Secp>(index, n, seed.rng(context, "signing"))?;
    let beacon = deal_one::<Ristretto>(index, n, seed.rng(context, "beacon"))?;
    Ok(Round1 {
        signing: signing.package.serialize().map_err(damaged)?,
        beacon: beacon.package.serialize().map_err(damaged)?,
    })
}

fn packages<C: Ciphersuite>(all: &[&[u8]]) -> Result<BTreeMap<Identifier<C>, round1::Package<C>>, DkgError> {
    all.iter()
        .enumerate()
        .map(|(i, bytes)| Ok((id_of::<C>(i), package(bytes).ok_or(DkgError::BadPackage(i))?)))
        .collect()
}

/// What one curve's part 2 gives a member: the state for part 3, and a share for every other member.
struct Shares<C: Ciphersuite> {
    state: core_dkg::round2::SecretPackage<C>,
    others: BTreeMap<Identifier<C>, round1::Package<C>>,
    outgoing: BTreeMap<Identifier<C>, round2::Package<C>>,
}

fn share_one<C: Ciphersuite>(index: usize, rng: ChaCha20Rng, round1: &[&[u8]]) -> Result<Shares<C>, DkgError> {
    let dealt = deal_one::<C>(index, round1.len(), rng)?;
    let mut others = packages::<C>(round1)?;
    let own = others.remove(&id_of::<C>(index));
    if own.as_ref() != Some(&dealt.package) {
        return Err(damaged(
            "the ledger holds another package of this member: its key file is not the one it dealt with",
        ));
    }
    let (state, outgoing) = core_dkg::part2(dealt.secret, &others).map_err(damaged)?;
    Ok(Shares { state, others, outgoing })
}

fn scalar_bytes<C: Ciphersuite>(share: &SigningShare<C>) -> Result<Zeroizing<[u8; SCALAR_BYTES]>, DkgError> {
    let bytes = Zeroizing::new(share.serialize());
    bytes.as_slice().try_into().map(Zeroizing::new).map_err(|_| damaged("a scalar is not 32 bytes"))
}

fn outgoing<C: Ciphersuite>(shares: &Shares<C>, to: usize) -> Result<Zeroizing<[u8; SCALAR_BYTES]>, DkgError> {
    match shares.outgoing.get(&id_of::<C>(to)) {
        Some(package) => scalar_bytes(package.signing_share()),
        None => Ok(Zeroizing::new([0; SCALAR_BYTES])), // a member's box to itself stays empty
    }
}

/// A finished or running dealing of one attempt, as the ledger shows it.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Transcript {
    /// [`dkg_context`] of the attempt.
    pub context: Digest,
    /// Members, ascending.
    pub members: Vec<NodeId>,
    /// First-round packages, in member order.
    pub round1: Vec<Round1>,
    /// Second-round boxes, in member order.
    pub round2: Vec<Round2>,
    /// Opened shares: dealer, recipient, shares.
    pub opened: Vec<(u16, u16, OpenedShares)>,
}
record!(Transcript, b"dkgt", 2 << 20);

impl Transcript {
    fn bytes(&self, pick: impl Fn(&Round1) -> &Vec<u8>) -> Vec<&[u8]> {
        self.round1.iter().map(|r| pick(r).as_slice()).collect()
    }

    /// The two public keys; they follow from the first-round packages alone.
    ///
    /// # Errors
    /// If a package is bad or the members are no committee.
    pub fn keys(&self) -> Result<(GroupKey, BeaconKey), DkgError> {
        let n = self.members.len();
        if self.round1.len() != n {
            return Err(DkgError::Shape(n));
        }
        if let Some(bad) = self.round1.iter().enumerate().find(|(i, r)| !r.check(*i, n)) {
            return Err(DkgError::BadPackage(bad.0));
        }
        let signing = public::<Secp>(&self.bytes(|r| &r.signing))?;
        let beacon = public::<Ristretto>(&self.bytes(|r| &r.beacon))?;
        let group = GroupKey::new(self.members.clone(), signing)?;
        Ok((group, BeaconKey::of(&beacon, n, threshold(n)).map_err(damaged)?))
    }

    /// A member's second-round boxes, once all first-round packages are there.
    ///
    /// # Errors
    /// If a package is bad or the seed is not the one the member dealt with.
    pub fn deal_round2(&self, seed: &EpochSeed, index: usize, keys: &[EncryptionKey]) -> Result<Round2, DkgError> {
        let signing = share_one::<Secp>(index, seed.rng(self.context, "signing"), &self.bytes(|r| &r.signing))?;
        let beacon = share_one::<Ristretto>(index, seed.rng(self.context, "beacon"), &self.bytes(|r| &r.beacon))?;
        let mut rng = seed.rng(self.context, "boxes");
        let mut boxes = Vec::with_capacity(keys.len());
        for (to, key) in keys.iter().enumerate() {
            let mut plain = Zeroizing::new(outgoing(&signing, to)?.to_vec());
            plain.extend_from_slice(outgoing(&beacon, to)?.as_ref());
            plain.extend_from_slice(&self.context.0);
            boxes.push(key.seal(&plain, &mut rng).ok_or_else(|| damaged("sealing failed"))?);
        }
        Ok(Round2 { boxes })
    }

    /// The answer to a complaint: this member's shares for one recipient, in the open.
    ///
    /// # Errors
    /// As [`Self::deal_round2`].
    pub fn open_for(&self, seed: &EpochSeed, index: usize, recipient: usize) -> Result<OpenedShares, DkgError> {
        let signing = share_one::<Secp>(index, seed.rng(self.context, "signing"), &self.bytes(|r| &r.signing))?;
        let beacon = share_one::<Ristretto>(index, seed.rng(self.context, "beacon"), &self.bytes(|r| &r.beacon))?;
        Ok(OpenedShares { signing: *outgoing(&signing, recipient)?, beacon: *outgoing(&beacon, recipient)? })
    }

    /// Whether shares of a dealer for a recipient fit the dealer's commitments.
    pub fn fits(&self, dealer: usize, recipient: usize, shares: &OpenedShares) -> bool {
        self.round1.get(dealer).is_some_and(|r| {
            fits::<Secp>(&r.signing, recipient, &shares.signing)
                && fits::<Ristretto>(&r.beacon, recipient, &shares.beacon)
        })
    }

    /// The shares a dealer meant for this member: from its box, or opened on the ledger.
    fn received(&self, dealer: usize, index: usize, secret: &EncryptionSecret) -> Option<OpenedShares> {
        let opened = self.opened.iter().find(|(d, r, _)| usize::from(*d) == dealer && usize::from(*r) == index);
        let shares = match opened {
            Some((_, _, shares)) => shares.clone(),
            None => {
                let plain = secret.unseal(self.round2.get(dealer)?.boxes.get(index)?)?;
                let (signing, rest) = plain.split_first_chunk::<SCALAR_BYTES>()?;
                let (beacon, context) = rest.split_first_chunk::<SCALAR_BYTES>()?;
                if context != self.context.0 {
                    return None;
                }
                OpenedShares { signing: *signing, beacon: *beacon }
            }
        };
        self.fits(dealer, index, &shares).then_some(shares)
    }

    /// Dealers whose shares for this member cannot be read or do not fit.
    pub fn bad_dealers(&self, index: usize, secret: &EncryptionSecret) -> Vec<u16> {
        (0..self.members.len())
            .filter(|dealer| *dealer != index && self.received(*dealer, index, secret).is_none())
            .filter_map(|dealer| u16::try_from(dealer).ok())
            .collect()
    }

    /// This member's two secret shares.
    ///
    /// # Errors
    /// [`DkgError::BadShares`] names every dealer to complain about.
    pub fn shares(
        &self,
        seed: &EpochSeed,
        index: usize,
        secret: &EncryptionSecret,
    ) -> Result<(KeyShare, BeaconShare), DkgError> {
        let bad = self.bad_dealers(index, secret);
        if !bad.is_empty() {
            return Err(DkgError::BadShares(bad));
        }
        let (mut signing_in, mut beacon_in) = (BTreeMap::new(), BTreeMap::new());
        for dealer in (0..self.members.len()).filter(|d| *d != index) {
            let received = self.received(dealer, index, secret).ok_or_else(|| damaged("a share is missing"))?;
            signing_in.insert(id_of::<Secp>(dealer), incoming::<Secp>(&received.signing)?);
            beacon_in.insert(id_of::<Ristretto>(dealer), incoming::<Ristretto>(&received.beacon)?);
        }
        let signing = share_one::<Secp>(index, seed.rng(self.context, "signing"), &self.bytes(|r| &r.signing))?;
        let beacon = share_one::<Ristretto>(index, seed.rng(self.context, "beacon"), &self.bytes(|r| &r.beacon))?;
        let key = finish(&signing, &signing_in)?;
        let beacon_key = finish(&beacon, &beacon_in)?;
        Ok((KeyShare::of(key), BeaconShare::of(&beacon_key, index).map_err(damaged)?))
    }
}

fn incoming<C: Ciphersuite>(bytes: &[u8]) -> Result<round2::Package<C>, DkgError> {
    SigningShare::<C>::deserialize(bytes).map(round2::Package::new).map_err(damaged)
}

fn finish<C: Ciphersuite>(
    own: &Shares<C>,
    received: &BTreeMap<Identifier<C>, round2::Package<C>>,
) -> Result<KeyPackage<C>, DkgError> {
    core_dkg::part3(&own.state, &own.others, received).map(|(key, _)| key).map_err(damaged)
}

fn public<C: Ciphersuite>(round1: &[&[u8]]) -> Result<PublicKeyPackage<C>, DkgError> {
    let packages = packages::<C>(round1)?;
    let commitments: BTreeMap<Identifier<C>, &VerifiableSecretSharingCommitment<C>> =
        packages.iter().map(|(id, p)| (*id, p.commitment())).collect();
    PublicKeyPackage::from_dkg_commitments(&commitments).map_err(damaged)
}

fn fits<C: Ciphersuite>(round1: &[u8], recipient: usize, share: &[u8]) -> bool {
    let (Some(package), Ok(share)) = (package::<C>(round1), SigningShare::<C>::deserialize(share)) else {
        return false;
    };
    SecretShare::new(id_of::<C>(recipient), share, package.commitment().clone()).verify().is_ok()
}

/// A whole key generation among members that are all here: genesis ceremonies and tests.
///
/// # Errors
/// If the member list is not one FROST serves.
pub fn deal_locally(
    members: &[(NodeId, EncryptionKey)],
    context: Digest,
    seeds: &[EpochSeed],
) -> Result<Transcript, DkgError> {
    let n = members.len();
    let nodes: Vec<NodeId> = members.iter().map(|(node, _)| *node).collect();
    let keys: Vec<EncryptionKey> = members.iter().map(|(_, key)| *key).collect();
    let round1 = seeds.iter().enumerate().map(|(i, s)| deal_round1(s, context, i, n)).collect::<Result<_, _>>()?;
    let mut transcript = Transcript { context, members: nodes, round1, round2: Vec::new(), opened: Vec::new() };
    let round2 =
        seeds.iter().enumerate().map(|(i, s)| transcript.deal_round2(s, i, &keys)).collect::<Result<_, _>>()?;
    transcript.round2 = round2;
    transcript.keys()?;
    Ok(transcript)
}

#[cfg(test)]
mod tests;
