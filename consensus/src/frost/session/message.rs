//! What members say to each other while they sign, and the proof that one of them cheated.

use crate::frost::group::{GroupKey, identifier};
use crate::ids::{Digest, NodeId};
use crate::{codec, record};
use frost::round1::SigningCommitments;
use frost::round2::SignatureShare;
use frost_secp256k1 as frost;

/// Largest payload, bytes.
pub const MAX_PAYLOAD: usize = 64 << 10;
/// Largest committee [`GroupKey`] serves.
const MAX_MEMBERS: usize = 67;
/// Most commitments in one message.
pub(super) const MAX_OFFERS: usize = 16;
/// Bytes of one pair of commitments; FROST writes 71.
const MAX_COMMITMENTS: usize = 128;
/// Bytes of a signature share; FROST writes 32.
const MAX_SHARE: usize = 64;

/// Which session a message belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, bincode::Encode, bincode::Decode)]
pub struct SessionId {
    /// Topic.
    pub topic: Digest,
    /// Attempt, which names the leader.
    pub attempt: u32,
    /// The leader's session within it, from 0 to n - t.
    pub session: u16,
}

/// The public side of a nonce that its maker holds for one coordinator.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct NonceOffer {
    /// Its maker's name for it; above all names the same process gave before.
    pub nonce_id: u64,
    /// FROST round one.
    pub commitments: Vec<u8>,
}

/// A member of a session, and which of its nonces the session uses.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Chosen {
    /// Member index.
    pub member: u16,
    /// Name of the nonce; the coordinator's own has none and says 0.
    pub nonce_id: u64,
    /// FROST round one.
    pub commitments: Vec<u8>,
}

/// Why a member announces nonces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum Announce {
    /// It has none of the other's left and asks for some.
    Hello {
        /// The newest it used; requests that got lost made it skip nonces their maker still holds.
        used: u64,
    },
    /// It was asked, or its pool became short.
    Refill,
    /// The session named a nonce that it does not hold: it cannot answer.
    Unknown(SessionId),
}

/// What members say to each other. The transport proves who says it and sends it to all members.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum SignMessage {
    /// Member: all unused nonces I hold for you as coordinator.
    Nonces {
        /// Index of the coordinator.
        to: u16,
        /// Occasion.
        why: Announce,
        /// Ascending by name.
        offers: Vec<NonceOffer>,
    },
    /// Coordinator: these t members sign this.
    Request {
        /// Session.
        id: SessionId,
        /// The message to be signed.
        payload: Vec<u8>,
        /// Ascending by member.
        chosen: Vec<Chosen>,
    },
    /// Member: my signature share.
    Share {
        /// Session.
        id: SessionId,
        /// [`request_digest`] of the request answered.
        request: Digest,
        /// FROST round two.
        share: Vec<u8>,
        /// All unused nonces for this coordinator.
        next: Vec<NonceOffer>,
    },
    /// Member: my host does not sign this payload.
    Decline {
        /// Session.
        id: SessionId,
        /// [`request_digest`] of the request declined.
        request: Digest,
        /// All unused nonces for this coordinator.
        next: Vec<NonceOffer>,
    },
}
record!(SignMessage, b"sgms", MAX_PAYLOAD + (16 << 10));

/// Why a message was not acted on. Only what no honest member sends, however late it arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum RefusedWhy {
    /// Not in the committee.
    #[error("the sender is not a member")]
    Stranger,
    /// Beyond a size limit.
    #[error("a part of the message is larger than allowed")]
    Oversized,
    /// Only the attempt's leader may ask for shares.
    #[error("the sender does not lead this attempt")]
    WrongLeader,
    /// More sessions than ROAST ever needs.
    #[error("the session number is above n - t")]
    TooManySessions,
    /// Not t ascending members.
    #[error("a member index is forged, or the members are not t ascending ones")]
    BadMembers,
    /// Not what FROST or their maker would write.
    #[error("nonce commitments are malformed, out of order or not the ones announced")]
    BadCommitments,
    /// A second request for a nonce that is used up (C5).
    #[error("the request names a nonce that was already used")]
    NonceUsed,
    /// The same thing again.
    #[error("the message repeats an earlier one")]
    Duplicate,
    /// An answer to a request made to others.
    #[error("the sender was not asked")]
    NotAsked,
}

#[derive(bincode::Encode, bincode::Decode)]
struct RequestBody {
    id: SessionId,
    payload_hash: Digest,
    chosen: Vec<Chosen>,
}
record!(RequestBody, b"sgrq", 16 << 10);

/// Name of a payload.
pub fn payload_hash(payload: &[u8]) -> Digest {
    Digest(blake3::derive_key("oda 2026 signing payload", payload))
}

/// Name of a request: session, payload, members and their commitments. None if beyond the limits.
pub fn request_digest(id: SessionId, payload: &[u8], chosen: &[Chosen]) -> Option<Digest> {
    let ok = payload.len() <= MAX_PAYLOAD
        && chosen.len() <= MAX_MEMBERS
        && chosen.iter().all(|c| c.commitments.len() <= MAX_COMMITMENTS);
    let body = || RequestBody { id, payload_hash: payload_hash(payload), chosen: chosen.to_vec() };
    ok.then(|| Digest(codec::hash(&body())))
}

/// The commitments of offers that are ascending and within limits.
pub(super) fn read_offers(offers: &[NonceOffer]) -> Result<(), RefusedWhy> {
    if offers.len() > MAX_OFFERS || offers.iter().any(|o| o.commitments.len() > MAX_COMMITMENTS) {
        return Err(RefusedWhy::Oversized);
    }
    if offers.is_sorted_by(|a, b| a.nonce_id < b.nonce_id) { Ok(()) } else { Err(RefusedWhy::BadCommitments) }
}

/// A request that any honest member would answer: the one reading of it for members, coordinator, ledger.
pub(super) struct Asked {
    pub id: SessionId,
    pub payload: Vec<u8>,
    pub payload_hash: Digest,
    pub chosen: Vec<Chosen>,
    pub digest: Digest,
    pub package: frost::SigningPackage,
}

impl Asked {
    pub fn read(group: &GroupKey, id: SessionId, payload: Vec<u8>, chosen: Vec<Chosen>) -> Result<Self, RefusedWhy> {
        let digest = request_digest(id, &payload, &chosen).ok_or(RefusedWhy::Oversized)?;
        if usize::from(id.session) > group.members().len().saturating_sub(group.threshold()) {
            return Err(RefusedWhy::TooManySessions);
        }
        let in_group = chosen.iter().all(|c| usize::from(c.member) < group.members().len());
        let ascending = chosen.is_sorted_by(|a, b| a.member < b.member);
        if !in_group || !ascending || chosen.len() != group.threshold() {
            return Err(RefusedWhy::BadMembers);
        }
        let one = |c: &Chosen| {
            let commitments = SigningCommitments::deserialize(&c.commitments).ok()?;
            Some((identifier(usize::from(c.member)), commitments))
        };
        let map = chosen.iter().map(one).collect::<Option<_>>().ok_or(RefusedWhy::BadCommitments)?;
        let package = frost::SigningPackage::new(map, &payload);
        Ok(Self { id, payload_hash: payload_hash(&payload), payload, chosen, digest, package })
    }

    pub fn has(&self, member: u16) -> bool {
        self.chosen.iter().any(|c| c.member == member)
    }

    /// The share, if it is the member's correct one for this request (RFC 9591, section 5.4).
    pub fn check_share(&self, group: &GroupKey, member: u16, share: &[u8]) -> Option<SignatureShare> {
        let id = identifier(usize::from(member));
        let keys = group.package();
        let share = SignatureShare::deserialize(share).ok()?;
        let public = keys.verifying_shares().get(&id)?;
        frost_core::verify_signature_share(id, public, &share, &self.package, keys.verifying_key()).ok()?;
        Some(share)
    }
}

/// A share is short enough to be looked at.
pub(super) fn share_fits(share: &[u8]) -> bool {
    share.len() <= MAX_SHARE
}

/// An invalid signature share, together with the request it answers (C4, C6).
///
/// Together with the member's transport signature over [`ShareEvidence::message`] it convicts, and it
/// can convict nobody else. That message carries the digest of the whole request: session, payload, all
/// members and all commitments. An honest member answers only after it found in the request exactly the
/// commitments of the nonce it made for that coordinator, and then a correct share is valid whatever the
/// others' commitments are, since signer and verifier derive binding factors, group commitment and
/// challenge from the same list (RFC 9591, sections 4.4 to 5.4). So to frame it one would need its
/// signature over a message it never sent, or a second request with the same digest.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct ShareEvidence {
    /// Session.
    pub id: SessionId,
    /// What was to be signed.
    pub payload: Vec<u8>,
    /// Who was asked, with commitments.
    pub chosen: Vec<Chosen>,
    /// Index of the accused.
    pub member: u16,
    /// What it sent.
    pub share: Vec<u8>,
    /// The rest of its message.
    pub next: Vec<NonceOffer>,
}
record!(ShareEvidence, b"sgev", MAX_PAYLOAD + (32 << 10));

impl ShareEvidence {
    /// The accused, if it is in the group.
    pub fn node(&self, group: &GroupKey) -> Option<NodeId> {
        group.members().get(usize::from(self.member)).copied()
    }

    /// The message the accused must have signed; None if no honest coordinator would have kept it.
    pub fn message(&self) -> Option<SignMessage> {
        let request = request_digest(self.id, &self.payload, &self.chosen)?;
        let ok = share_fits(&self.share) && read_offers(&self.next).is_ok();
        let (share, next) = (self.share.clone(), self.next.clone());
        ok.then_some(SignMessage::Share { id: self.id, request, share, next })
    }

    /// Whether the share is wrong for a request the member had to answer correctly or not at all.
    pub fn proves(&self, group: &GroupKey) -> bool {
        let Ok(asked) = Asked::read(group, self.id, self.payload.clone(), self.chosen.clone()) else { return false };
        self.message().is_some()
            && asked.has(self.member)
            && asked.check_share(group, self.member, &self.share).is_none()
    }
}
