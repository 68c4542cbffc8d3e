//! The committee's key: one public key for the group, one share for each member.

use crate::ids::NodeId;
use crate::record;
use frost::Identifier;
use frost::keys::{KeyPackage, PublicKeyPackage, dkg};
use frost_secp256k1 as frost;
use rand_core::{CryptoRng, RngCore};
use std::collections::BTreeMap;
use std::fmt;

/// Members needed to sign: t = floor(2n/3) + 1 (C3). Forging needs t, blocking n - t + 1.
pub fn threshold(members: usize) -> usize {
    members * 2 / 3 + 1
}

/// A key or share was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// Not a committee FROST can serve.
    #[error("{0} members: 2 to 67 distinct, ascending ones are supported")]
    Members(usize),
    /// The library refused.
    #[error("key material is damaged or inconsistent: {0}")]
    Key(String),
}

fn damaged(e: impl fmt::Display) -> GroupError {
    GroupError::Key(e.to_string())
}

/// Public side of a committee: its members in order, and their FROST keys.
#[derive(Clone, PartialEq, Eq)]
pub struct GroupKey {
    members: Vec<NodeId>,
    package: PublicKeyPackage,
}

#[derive(bincode::Encode, bincode::Decode)]
struct GroupKeyBytes {
    members: Vec<NodeId>,
    package: Vec<u8>,
}

impl bincode::Encode for GroupKey {
    fn encode<E: bincode::enc::Encoder>(&self, e: &mut E) -> Result<(), bincode::error::EncodeError> {
        let package = self.package.serialize().map_err(|e| bincode::error::EncodeError::OtherString(e.to_string()))?;
        GroupKeyBytes { members: self.members.clone(), package }.encode(e)
    }
}

impl<C> bincode::Decode<C> for GroupKey {
    fn decode<D: bincode::de::Decoder<Context = C>>(d: &mut D) -> Result<Self, bincode::error::DecodeError> {
        let bytes = GroupKeyBytes::decode(d)?;
        let other = |e: String| bincode::error::DecodeError::OtherString(e);
        let package = PublicKeyPackage::deserialize(&bytes.package).map_err(|e| other(e.to_string()))?;
        Self::new(bytes.members, package).map_err(|e| other(e.to_string()))
    }
}

bincode::impl_borrow_decode!(GroupKey);
record!(GroupKey, b"grpk", 24 << 10);

impl fmt::Debug for GroupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GroupKey({} of {} members)", self.threshold(), self.members.len())
    }
}

/// FROST identifier of the member at an index. Total: the index may come from outside.
pub(super) fn identifier(index: usize) -> Identifier {
    let number = u16::try_from(index.saturating_add(1)).unwrap_or(u16::MAX);
    Identifier::try_from(number).expect("a number above zero is an identifier")
}

impl GroupKey {
    pub(super) fn new(members: Vec<NodeId>, package: PublicKeyPackage) -> Result<Self, GroupError> {
        check_members(&members)?;
        let expected: Vec<Identifier> = (0..members.len()).map(identifier).collect();
        let mut found: Vec<Identifier> = package.verifying_shares().keys().copied().collect();
        found.sort();
        let mut sorted = expected;
        sorted.sort();
        if found != sorted {
            return Err(damaged("shares and members differ"));
        }
        // C3: a key that fewer members can use is not a committee's
        if package.min_signers().is_some_and(|t| usize::from(t) != threshold(members.len())) {
            return Err(damaged("the threshold is not floor(2n/3)+1"));
        }
        Ok(Self { members, package })
    }

    /// Members, ascending; a member's index is its place here.
    pub fn members(&self) -> &[NodeId] {
        &self.members
    }

    /// Members needed to sign (C3).
    pub fn threshold(&self) -> usize {
        threshold(self.members.len())
    }

    /// Place of a member.
    pub fn index_of(&self, node: NodeId) -> Option<usize> {
        self.members.iter().position(|m| *m == node)
    }

    /// The part of it that those need who only check what the committee signs.
    pub fn committee(&self) -> CommitteeKey {
        let key = self.package.verifying_key().serialize().unwrap_or_default();
        CommitteeKey { members: self.members.clone(), key }
    }

    /// Whether the committee signed the message.
    pub fn verify(&self, message: &[u8], signature: &GroupSignature) -> bool {
        frost::Signature::deserialize(&signature.0)
            .is_ok_and(|s| self.package.verifying_key().verify(message, &s).is_ok())
    }

    pub(super) fn package(&self) -> &PublicKeyPackage {
        &self.package
    }
}

/// What there is to know of a committee for those who only check what it signs: members and one point. The
/// members' own verification keys, which take most of the time to read, are for those who sign.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct CommitteeKey {
    members: Vec<NodeId>,
    key: Vec<u8>,
}

impl CommitteeKey {
    /// Whether members and key are ones a committee can have.
    pub fn is_sound(&self) -> bool {
        check_members(&self.members).is_ok() && frost::VerifyingKey::deserialize(&self.key).is_ok()
    }

    /// Members, ascending.
    pub fn members(&self) -> &[NodeId] {
        &self.members
    }

    /// Members needed to sign (C3).
    pub fn threshold(&self) -> usize {
        threshold(self.members.len())
    }

    /// Whether the committee signed the message.
    pub fn verify(&self, message: &[u8], signature: &GroupSignature) -> bool {
        verify(&self.key, message, signature)
    }

    /// Its key alone.
    pub fn point(&self) -> GroupPoint {
        GroupPoint(self.key.clone().into())
    }
}

/// The one point of a committee's key: all it takes to check what it signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupPoint(Box<[u8]>);

impl GroupPoint {
    /// Whether the committee signed the message.
    pub fn verify(&self, message: &[u8], signature: &GroupSignature) -> bool {
        verify(&self.0, message, signature)
    }
}

fn verify(key: &[u8], message: &[u8], signature: &GroupSignature) -> bool {
    let key = frost::VerifyingKey::deserialize(key);
    let signature = frost::Signature::deserialize(&signature.0);
    key.is_ok_and(|k| signature.is_ok_and(|s| k.verify(message, &s).is_ok()))
}

fn check_members(members: &[NodeId]) -> Result<(), GroupError> {
    let ok = (2..=67).contains(&members.len()) && members.is_sorted_by(|a, b| a < b);
    if ok { Ok(()) } else { Err(GroupError::Members(members.len())) }
}

/// A FROST signature: R then z.
#[derive(Clone, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct GroupSignature(Vec<u8>);

impl GroupSignature {
    /// Its bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.clone()
    }

    pub(super) fn of(signature: &frost::Signature) -> Option<Self> {
        signature.serialize().ok().map(Self)
    }
}

impl fmt::Display for GroupSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}
impl fmt::Debug for GroupSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GroupSignature({self})")
    }
}
impl serde::Serialize for GroupSignature {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.to_string())
    }
}

/// A member's secret share of the group key. Prints as `<redacted>`; FROST wipes it when dropped.
pub struct KeyShare(KeyPackage);

impl fmt::Debug for KeyShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyShare(<redacted>)")
    }
}

impl KeyShare {
    /// Bytes for the operator's key file, and nothing else.
    ///
    /// # Errors
    /// If the library cannot serialise it.
    pub fn to_secret_bytes(&self) -> Result<zeroize::Zeroizing<Vec<u8>>, GroupError> {
        self.0.serialize().map(zeroize::Zeroizing::new).map_err(damaged)
    }

    /// Reads the bytes of a key file.
    ///
    /// # Errors
    /// If they are damaged.
    pub fn from_secret_bytes(bytes: &[u8]) -> Result<Self, GroupError> {
        KeyPackage::deserialize(bytes).map(Self).map_err(damaged)
    }

    /// Whether this is the share of that member of that group.
    pub fn belongs_to(&self, group: &GroupKey, node: NodeId) -> bool {
        let Some(index) = group.index_of(node) else { return false };
        *self.0.identifier() == identifier(index)
            && group.package.verifying_shares().get(self.0.identifier()) == Some(self.0.verifying_share())
            && self.0.verifying_key() == group.package.verifying_key()
            && usize::from(*self.0.min_signers()) == group.threshold()
    }

    pub(super) fn of(package: KeyPackage) -> Self {
        Self(package)
    }

    pub(super) fn package(&self) -> &KeyPackage {
        &self.0
    }
}

/// Runs FROST's key generation among all members in one place, for tests and measurements; a network's
/// own keys come from [`super::Transcript`]. Returns the group key and the shares in member order.
///
/// # Errors
/// If the member list is not one FROST serves, or `t` is not [`threshold`] of it (C3).
pub fn dkg_all_local(
    members: &[NodeId],
    t: usize,
    rng: &mut (impl RngCore + CryptoRng),
) -> Result<(GroupKey, Vec<KeyShare>), GroupError> {
    check_members(members)?;
    let n = u16::try_from(members.len()).map_err(damaged)?;
    let t = u16::try_from(t).map_err(damaged)?;
    let ids: Vec<Identifier> = (0..members.len()).map(identifier).collect();
    let (mut secrets1, mut packages1) = (BTreeMap::new(), BTreeMap::new());
    for id in &ids {
        let (secret, package) = dkg::part1(*id, n, t, &mut *rng).map_err(damaged)?;
        secrets1.insert(*id, secret);
        packages1.insert(*id, package);
    }
    let others1 = |id: &Identifier| {
        packages1.iter().filter(|(k, _)| *k != id).map(|(k, v)| (*k, v.clone())).collect::<BTreeMap<_, _>>()
    };
    let (mut secrets2, mut packages2) = (BTreeMap::new(), BTreeMap::new());
    for (id, secret) in secrets1 {
        let (secret, outgoing) = dkg::part2(secret, &others1(&id)).map_err(damaged)?;
        secrets2.insert(id, secret);
        packages2.insert(id, outgoing);
    }
    let (mut shares, mut group) = (Vec::new(), None);
    for id in &ids {
        let incoming: BTreeMap<_, _> = packages2
            .iter()
            .filter(|(from, _)| *from != id)
            .filter_map(|(from, out)| Some((*from, out.get(id)?.clone())))
            .collect();
        let secret = secrets2.get(id).ok_or_else(|| damaged("a member is missing"))?;
        let (key, public) = dkg::part3(secret, &others1(id), &incoming).map_err(damaged)?;
        shares.push(KeyShare(key));
        group = Some(public);
    }
    let package = group.ok_or_else(|| damaged("no member"))?;
    Ok((GroupKey::new(members.to_vec(), package)?, shares))
}
