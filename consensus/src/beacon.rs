//! The randomness beacon: a distributed verifiable random function of the committee (S3, attack 18).
//!
//! Samples, honeypots and the next committee are drawn from values nobody may know early or choose. The
//! obvious way, hashing the group's last signature, lets its maker choose: a FROST signature (RFC 9591)
//! is different for every set of signers and every nonce, its leader sees the finished signature before
//! anybody else, and one it dislikes is a session that "failed" and is run again. `oda-simnet
//! beacon-bias` measures what that is worth.
//!
//! Here is nothing to choose. The committee holds a key k of its own, made by the DKG and shared t of n.
//! The value of an input x is the one point Z = \[k\] H(x), hashed with x. Member i publishes
//! Z_i = \[k_i\] H(x) with a proof that it is so, and *any* t such partials interpolate in the exponent
//! to the same Z. That is DDH-DVRF of Galindo, Liu, Ordean and Wong, "Fully Distributed Verifiable Random
//! Functions and their Application to Decentralised Random Beacons" (EuroS&P 2021, eprint 2020/096), proven
//! there strongly pseudorandom, that is, also when fewer than t partials of x itself have been seen. H, the
//! proof of equal discrete logarithms and the final hash are those of RFC 9497, VOPRF mode, suite
//! ristretto255-SHA512, from the `voprf` crate: a partial is a server's evaluation for a client whose
//! blind is 1, because x is no secret. So a beacon is the RFC's output under k, which a test holds it to.
//!
//! *Why a key of its own.* A partial is \[k_i\] times a point derived from x. Members that also signed with
//! k_i would answer two protocols with one secret, and neither proof of security covers the other. It
//! is another group than the signing key's as well, so that even the same number could not be used twice.
//!
//! *What the last revealer gains.* Nothing but silence. Below t, members learn nothing of Z early. Having
//! seen t - 1 partials, the last one knows Z before the rest, but can only publish the partial that leads to
//! Z or none, and any other member's does as well; n - t + 1 silent members stop the beacon, exactly as
//! they stop every signature, and t members together know every value ahead: both are beyond what
//! a committee may contain (C3). A beacon that stopped must wait for its members: a rule that
//! replaced a missing value by another would hand the silent the choice this module takes away. For the same
//! reason the ledger must fix which epoch's key evaluates an input: two keys give two values.
//!
//! *What the DKG leaves open.* A rushing dealer can bias bits of the public key (Gennaro, Jarecki, Krawczyk
//! and Rabin, "Secure Distributed Key Generation for Discrete-Log Based Cryptosystems", J. Cryptology 2007), but
//! not the values: it cannot evaluate \[k\] H(x) for the keys it chooses among, since below t nobody can.
//!
//! Proofs are randomised: the same value has many valid proofs. Only the beacon is random, never hash proofs.

use crate::codec;
use crate::ids::{Beacon, ChainId};
use crate::record;
use bincode::Decode as _;
use curve25519_dalek::ristretto::{CompressedRistretto, RistrettoPoint};
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::{IsIdentity, VartimeMultiscalarMul};
use frost_ristretto255 as frost;
use rand_chacha::ChaCha20Rng;
use rand_core::{CryptoRng, RngCore, SeedableRng};
use sha2::Digest as _;
use std::collections::BTreeMap;
use std::fmt;
use voprf::{BlindedElement, EvaluationElement, Proof, Ristretto255, VoprfClient, VoprfServer};
use zeroize::Zeroizing;

/// Largest committee with a beacon.
pub const MAX_MEMBERS: usize = 67;

/// Why a key, share or set of partials was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BeaconError {
    /// No committee of that shape has a beacon.
    #[error("{threshold} of {members}: a beacon needs 2 to {MAX_MEMBERS} members and a threshold from 2 to all")]
    Shape {
        /// Members.
        members: usize,
        /// Partials needed.
        threshold: usize,
    },
    /// The key or share is not one a DKG gives; run the key generation again, or ask another member.
    #[error("beacon key material is damaged or inconsistent: {0}")]
    Key(&'static str),
    /// Wait for more partials, and ask again those that sent bad ones.
    #[error("{valid} valid partials of the {needed} needed; invalid: {bad:?}")]
    TooFew {
        /// Valid and distinct.
        valid: usize,
        /// The threshold.
        needed: usize,
        /// Indexes of the invalid ones, ascending.
        bad: Vec<u16>,
    },
    /// Not looked at: keep one partial for each member.
    #[error("{given} partials, but the committee has {members} members")]
    TooMany {
        /// Given.
        given: usize,
        /// Members.
        members: usize,
    },
    /// A proof has exactly t partials.
    #[error("a proof of {given} partials, exactly {needed} are needed")]
    Length {
        /// In the proof.
        given: usize,
        /// The threshold.
        needed: usize,
    },
    /// A proof lists each member once, in ascending order.
    #[error("the partials of a proof must be of distinct members in ascending order")]
    Order,
    /// Whoever made the proof made it wrongly: it could have checked.
    #[error("the proof contains invalid partials: {bad:?}")]
    Invalid {
        /// Indexes of the invalid ones, ascending.
        bad: Vec<u16>,
    },
}

/// What a value is for; one purpose's values say nothing about another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, bincode::Encode, bincode::Decode)]
pub enum Purpose {
    /// Shards, gate and confirm samples, honeypots.
    Samples,
    /// The committee of the next epoch.
    Committee,
}

/// What is evaluated: its encoding is the VRF's input.
///
/// There must be exactly one for each use, fixed before its value can be known: no field may be up to
/// a member, or that member can try inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, bincode::Encode, bincode::Decode)]
pub struct BeaconInput {
    /// Which network.
    pub chain: ChainId,
    /// What for.
    pub purpose: Purpose,
    /// Epoch, round or height, whichever the purpose counts.
    pub number: u64,
    /// What it is about, such as a model; zero where the purpose has only one.
    pub subject: [u8; 32],
}
record!(BeaconInput, b"bcni", 96);

impl BeaconInput {
    fn question(&self) -> Question {
        Question::new(&codec::encode(self), Scalar::ONE).expect("an input is neither empty nor over 65535 bytes")
    }
}

/// The point H(x) in the clothes of the library.
struct Question {
    x: Vec<u8>,
    client: VoprfClient<Ristretto255>,
    element: BlindedElement<Ristretto255>,
}

impl Question {
    /// The protocol uses blind 1 only; the vectors of the RFC have others.
    fn new(x: &[u8], blind: Scalar) -> Option<Self> {
        let asked = VoprfClient::deterministic_blind_unchecked(x, blind).ok()?;
        Some(Self { x: x.to_vec(), client: asked.state, element: asked.message })
    }

    /// Evaluation under a share, and its proof (RFC 9497, 3.3.2 BlindEvaluate).
    fn evaluate(
        &self,
        server: &VoprfServer<Ristretto255>,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> ([u8; 32], [u8; 64]) {
        let result = server.blind_evaluate(rng, &self.element);
        let (mut element, mut proof) = ([0; 32], [0; 64]);
        element.copy_from_slice(&result.message.serialize());
        proof.copy_from_slice(&result.proof.serialize());
        (element, proof)
    }

    /// The evaluation, if the proof shows that `key` made it.
    fn proven(&self, key: &RistrettoPoint, element: &[u8; 32], proof: &[u8; 64]) -> Option<RistrettoPoint> {
        let answer = EvaluationElement::deserialize(element).ok()?;
        let proof = Proof::deserialize(proof).ok()?;
        self.client.finalize(&self.x, &answer, &proof, *key).ok()?;
        point(element)
    }

    /// RFC 9497, 3.3.1 Finalize.
    fn finalize(&self, value: &RistrettoPoint) -> [u8; 64] {
        let len = u16::try_from(self.x.len()).unwrap_or(u16::MAX); // the library refused longer ones
        let mut h = sha2::Sha512::new();
        h.update(len.to_be_bytes());
        h.update(&self.x);
        h.update(32u16.to_be_bytes());
        h.update(value.compress().as_bytes());
        h.update(b"Finalize");
        h.finalize().into()
    }

    fn beacon(&self, value: &RistrettoPoint) -> Beacon {
        Beacon(blake3::derive_key("oda 2026 beacon vrf", &self.finalize(value)))
    }
}

/// A point, unless it is the identity or not in its one encoding.
fn point(bytes: &[u8; 32]) -> Option<RistrettoPoint> {
    CompressedRistretto(*bytes).decompress().filter(|p| !p.is_identity())
}

fn point_of(bytes: Result<Vec<u8>, frost::Error>) -> Result<RistrettoPoint, BeaconError> {
    let bytes = bytes.ok().and_then(|b| <[u8; 32]>::try_from(b).ok());
    bytes.and_then(|b| point(&b)).ok_or(BeaconError::Key("not a point"))
}

/// FROST identifier of a member: its index plus one, which is also its place on the polynomial.
fn identifier(index: usize) -> Option<frost::Identifier> {
    u16::try_from(index.checked_add(1)?).ok()?.try_into().ok()
}

fn place(index: u16) -> Scalar {
    Scalar::from(u32::from(index) + 1)
}

/// Member `index` says its share of the value is this. The index is a claim: blame the authenticated sender.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Partial {
    /// Place of the member in the committee.
    pub index: u16,
    element: [u8; 32],
    proof: [u8; 64],
}
record!(Partial, b"bcnp", 103);

/// Exactly t partials in ascending order: enough for anybody to compute the beacon.
///
/// The same beacon has many proofs; they prove the value and are no source of randomness.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode)]
pub struct BeaconProof {
    partials: Vec<Partial>,
}
record!(BeaconProof, b"bcpf", 16 + MAX_MEMBERS * 98);

impl BeaconProof {
    /// The partials, ascending by index.
    pub fn partials(&self) -> &[Partial] {
        &self.partials
    }
}

/// A list with at most [`MAX_MEMBERS`] entries; nothing is reserved for a length that is only claimed.
fn bounded<C, D, T>(d: &mut D) -> Result<Vec<T>, bincode::error::DecodeError>
where
    D: bincode::de::Decoder<Context = C>,
    T: bincode::Decode<C>,
{
    let len = u64::decode(d)?;
    if len > MAX_MEMBERS as u64 {
        return Err(bincode::error::DecodeError::OtherString(format!("{len} entries, {MAX_MEMBERS} are allowed")));
    }
    (0..len).map(|_| T::decode(d)).collect()
}

impl<C> bincode::Decode<C> for BeaconProof {
    fn decode<D: bincode::de::Decoder<Context = C>>(d: &mut D) -> Result<Self, bincode::error::DecodeError> {
        Ok(Self { partials: bounded(d)? })
    }
}
bincode::impl_borrow_decode!(BeaconProof);

/// Public side of a beacon: threshold, the group's key, and every member's in member order.
///
/// A value of this type is consistent: all keys lie on one polynomial of degree t - 1, so that every t members
/// give the same beacon. Whether the threshold is the right one for a committee (C3) is for its user to check.
#[derive(Clone, PartialEq, Eq)]
pub struct BeaconKey {
    threshold: u16,
    group: RistrettoPoint,
    members: Vec<RistrettoPoint>,
}
record!(BeaconKey, b"bcnk", 64 + MAX_MEMBERS * 32);

impl fmt::Debug for BeaconKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = hex::encode(&self.group.compress().to_bytes()[..4]);
        write!(f, "BeaconKey({name}, {} of {} members)", self.threshold, self.members.len())
    }
}

impl bincode::Encode for BeaconKey {
    fn encode<E: bincode::enc::Encoder>(&self, e: &mut E) -> Result<(), bincode::error::EncodeError> {
        self.threshold.encode(e)?;
        self.group.compress().to_bytes().encode(e)?;
        self.members.iter().map(|p| p.compress().to_bytes()).collect::<Vec<[u8; 32]>>().encode(e)
    }
}

impl<C> bincode::Decode<C> for BeaconKey {
    fn decode<D: bincode::de::Decoder<Context = C>>(d: &mut D) -> Result<Self, bincode::error::DecodeError> {
        let other = |e: BeaconError| bincode::error::DecodeError::OtherString(e.to_string());
        let read = |bytes: [u8; 32]| point(&bytes).ok_or_else(|| other(BeaconError::Key("not a point")));
        let threshold = u16::decode(d)?;
        let group = read(<[u8; 32]>::decode(d)?)?;
        let members = bounded::<C, D, [u8; 32]>(d)?.into_iter().map(read).collect::<Result<_, _>>()?;
        Self::new(threshold, group, members).map_err(other)
    }
}
bincode::impl_borrow_decode!(BeaconKey);

impl BeaconKey {
    fn new(threshold: u16, group: RistrettoPoint, members: Vec<RistrettoPoint>) -> Result<Self, BeaconError> {
        let (n, t) = (members.len(), usize::from(threshold));
        if !(2..=MAX_MEMBERS).contains(&n) || !(2..=n).contains(&t) {
            return Err(BeaconError::Shape { members: n, threshold: t });
        }
        let key = Self { threshold, group, members };
        if key.on_one_polynomial() { Ok(key) } else { Err(BeaconError::Key("the members' keys do not fit together")) }
    }

    /// Public side of a DKG's result; every member computes it for itself and gets the same.
    ///
    /// # Errors
    /// If the package is not one of `members` members numbered from 1 with that threshold, or is inconsistent.
    pub fn of(package: &frost::keys::PublicKeyPackage, members: usize, threshold: usize) -> Result<Self, BeaconError> {
        let shares = package.verifying_shares();
        let t = u16::try_from(threshold).map_err(|_| BeaconError::Shape { members, threshold })?;
        if members > MAX_MEMBERS || shares.len() != members {
            return Err(BeaconError::Key("shares and members differ"));
        }
        if package.min_signers().is_some_and(|m| m != t) {
            return Err(BeaconError::Key("made for another threshold"));
        }
        let of = |index| {
            let share = identifier(index).and_then(|id| shares.get(&id));
            point_of(share.ok_or(BeaconError::Key("shares and members differ"))?.serialize())
        };
        let points = (0..members).map(of).collect::<Result<Vec<_>, _>>()?;
        Self::new(t, point_of(package.verifying_key().serialize())?, points)
    }

    /// Whether the group's key (at 0) and the members' (at 1..=n) are of one polynomial of degree below t: a
    /// codeword is orthogonal to a random word of the dual code (SCRAPE: Cascudo and David, ACNS 2017, eprint
    /// 2017/216). The word is drawn from a hash of the keys, so that all verifiers agree.
    fn on_one_polynomial(&self) -> bool {
        let all: Vec<RistrettoPoint> = [self.group].into_iter().chain(self.members.iter().copied()).collect();
        let mut h = blake3::Hasher::new_derive_key("oda 2026 beacon dual code");
        h.update(&self.threshold.to_le_bytes());
        for key in &all {
            h.update(key.compress().as_bytes());
        }
        let mut stream = h.finalize_xof();
        let coefficients: Vec<Scalar> = (usize::from(self.threshold)..=self.members.len())
            .map(|_| {
                let mut wide = [0; 64];
                stream.fill(&mut wide);
                Scalar::from_bytes_mod_order_wide(&wide)
            })
            .collect();
        let places: Vec<Scalar> = (0..all.len() as u64).map(Scalar::from).collect();
        let word = places.iter().map(|x| {
            let value = coefficients.iter().rev().fold(Scalar::ZERO, |sum, c| sum * x + c);
            let product: Scalar = places.iter().filter(|other| *other != x).map(|other| x - other).product();
            value * product.invert()
        });
        RistrettoPoint::vartime_multiscalar_mul(word, &all).is_identity()
    }

    /// Members of the committee.
    pub fn members(&self) -> usize {
        self.members.len()
    }

    /// Partials that make a beacon.
    pub fn threshold(&self) -> usize {
        usize::from(self.threshold)
    }

    fn proven(&self, question: &Question, partial: &Partial) -> Option<RistrettoPoint> {
        let key = self.members.get(usize::from(partial.index))?;
        question.proven(key, &partial.element, &partial.proof)
    }

    /// Whether a partial is the one of its member for this input.
    pub fn verify_partial(&self, input: &BeaconInput, partial: &Partial) -> bool {
        self.proven(&input.question(), partial).is_some()
    }

    /// The beacon of any t valid partials of distinct members, given in any order, and its proof, which has those of
    /// the lowest indexes. Bad ones are left out.
    ///
    /// # Errors
    /// [`BeaconError::TooFew`] names the indexes whose partials are bad, if too few are left;
    /// [`BeaconError::TooMany`] for more partials than members.
    pub fn combine(&self, input: &BeaconInput, partials: &[Partial]) -> Result<(Beacon, BeaconProof), BeaconError> {
        let question = input.question();
        let (value, partials) = self.interpolate(&question, partials)?;
        Ok((question.beacon(&value), BeaconProof { partials }))
    }

    fn interpolate(
        &self,
        question: &Question,
        partials: &[Partial],
    ) -> Result<(RistrettoPoint, Vec<Partial>), BeaconError> {
        if partials.len() > self.members() {
            return Err(BeaconError::TooMany { given: partials.len(), members: self.members() });
        }
        let mut sorted: Vec<&Partial> = partials.iter().collect();
        sorted.sort_by_key(|p| p.index);
        let (mut good, mut bad) = (BTreeMap::new(), Vec::new());
        for partial in sorted {
            if good.len() == self.threshold() {
                break;
            }
            if good.contains_key(&partial.index) {
                continue;
            }
            match self.proven(question, partial) {
                Some(value) => drop(good.insert(partial.index, (value, partial.clone()))),
                None => bad.push(partial.index),
            }
        }
        if good.len() < self.threshold() {
            bad.dedup();
            return Err(BeaconError::TooFew { valid: good.len(), needed: self.threshold(), bad });
        }
        let value = at_zero(&good.iter().map(|(i, (value, _))| (*i, *value)).collect::<Vec<_>>());
        Ok((value, good.into_values().map(|(_, partial)| partial).collect()))
    }

    /// The one beacon of this input, if the proof shows it.
    ///
    /// # Errors
    /// Unless the proof has exactly t partials of distinct members in ascending order, all valid.
    pub fn verify(&self, input: &BeaconInput, proof: &BeaconProof) -> Result<Beacon, BeaconError> {
        if proof.partials.len() != self.threshold() {
            return Err(BeaconError::Length { given: proof.partials.len(), needed: self.threshold() });
        }
        if !proof.partials.is_sorted_by(|a, b| a.index < b.index) {
            return Err(BeaconError::Order);
        }
        let question = input.question();
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        for partial in &proof.partials {
            match self.proven(&question, partial) {
                Some(value) => good.push((partial.index, value)),
                None => bad.push(partial.index),
            }
        }
        if bad.is_empty() { Ok(question.beacon(&at_zero(&good))) } else { Err(BeaconError::Invalid { bad }) }
    }
}

/// Lagrange interpolation in the exponent, at zero. All is public, so time need not be constant.
fn at_zero(values: &[(u16, RistrettoPoint)]) -> RistrettoPoint {
    let weight = |i: u16| -> Scalar {
        let others = || values.iter().map(|(j, _)| *j).filter(move |j| *j != i);
        let above: Scalar = others().map(place).product();
        let below: Scalar = others().map(|j| place(j) - place(i)).product();
        above * below.invert()
    };
    RistrettoPoint::vartime_multiscalar_mul(values.iter().map(|(i, _)| weight(*i)), values.iter().map(|(_, v)| v))
}

/// A member's secret share of the beacon's key. Prints as `<redacted>`, cannot be cloned, wiped when dropped.
pub struct BeaconShare {
    index: u16,
    secret: Zeroizing<[u8; 32]>,
    server: VoprfServer<Ristretto255>,
}

impl fmt::Debug for BeaconShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BeaconShare(<redacted> of member {})", self.index)
    }
}

impl BeaconShare {
    /// The share in a DKG's key package of the member at `index`.
    ///
    /// # Errors
    /// If the package is another member's, or its secret and public halves differ.
    pub fn of(package: &frost::keys::KeyPackage, index: usize) -> Result<Self, BeaconError> {
        let number = u16::try_from(index).ok().filter(|i| usize::from(*i) < MAX_MEMBERS);
        let (Some(number), Some(id)) = (number, identifier(index)) else {
            return Err(BeaconError::Key("no member has that index"));
        };
        if *package.identifier() != id {
            return Err(BeaconError::Key("the share of another member"));
        }
        let bytes = Zeroizing::new(package.signing_share().serialize());
        let secret = <[u8; 32]>::try_from(bytes.as_slice()).map(Zeroizing::new);
        let secret = secret.map_err(|_| BeaconError::Key("not a scalar"))?;
        let server =
            VoprfServer::new_with_key(secret.as_slice()).map_err(|_| BeaconError::Key("not a non-zero scalar"))?;
        if server.get_public_key() != point_of(package.verifying_share().serialize())? {
            return Err(BeaconError::Key("secret and public half differ"));
        }
        Ok(Self { index: number, secret, server })
    }

    /// Whether this is its member's share of that key.
    pub fn belongs_to(&self, key: &BeaconKey) -> bool {
        key.members.get(usize::from(self.index)) == Some(&self.server.get_public_key())
    }

    /// This member's part of the value, with its proof. Must not leave the member before the value may be known.
    ///
    /// The proof's nonce comes from `rng`, the share and the input together (a hedged nonce: Aranha, Orlandi,
    /// Takahashi and Zaverucha, EUROCRYPT 2020): a generator that repeats itself, as in a restored
    /// backup, gives away no share.
    pub fn partial(&self, input: &BeaconInput, rng: &mut (impl RngCore + CryptoRng)) -> Partial {
        let question = input.question();
        let mut material = Zeroizing::new([0u8; 64]);
        let (share, noise) = material.split_at_mut(32);
        share.copy_from_slice(self.secret.as_slice());
        rng.fill_bytes(noise);
        let mut h = blake3::Hasher::new_derive_key("oda 2026 beacon proof nonce");
        h.update(material.as_slice());
        h.update(&question.x);
        let mut hedged = ChaCha20Rng::from_seed(*h.finalize().as_bytes());
        let (element, proof) = question.evaluate(&self.server, &mut hedged);
        Partial { index: self.index, element, proof }
    }
}

#[cfg(test)]
mod tests;
