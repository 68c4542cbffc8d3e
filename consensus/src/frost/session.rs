//! Signing sessions that a silent or cheating member cannot stop (R5, C4, C5), without sockets or clock.
//!
//! One topic is one statement to attest. Its leader rotates with the attempt; any member follows any
//! attempt's rightful leader, so members need not agree on the time. A leader proposes a payload,
//! members whose host approved it answer with fresh nonce commitments, the leader fixes a set of t,
//! they answer with signature shares. Whoever is silent or wrong is left out and a new session
//! starts; the leader being silent, the next attempt starts. The obvious way, keeping nonces ready on
//! disk, turns one restored backup into a leaked key: here a nonce lives in memory, in a type that can
//! neither be copied nor written, and is consumed by its one use.

use super::group::{GroupKey, GroupSignature, KeyShare, identifier};
use crate::ids::{Digest, NodeId};
use crate::record;
use frost::round1::{SigningCommitments, SigningNonces};
use frost::round2::SignatureShare;
use frost_secp256k1 as frost;
use rand_core::{CryptoRng, RngCore};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Largest payload, bytes.
const MAX_PAYLOAD: usize = 64 << 10;
/// Topics worked on at once.
const MAX_TOPICS: usize = 128;
/// Topics remembered as closed.
const MAX_CLOSED: usize = 1024;
/// Payloads considered for one topic.
const MAX_PAYLOADS: usize = 16;
/// Live nonces of one topic.
const MAX_NONCES: usize = 64;
/// A leader's attempt may be this far ahead of ours.
const MAX_AHEAD: u32 = 64;

/// How long to wait, ms.
#[derive(Clone, Copy, Debug)]
pub struct SignerConfig {
    /// For a leader, before the next takes over; grows by half of it with each attempt.
    pub attempt_ms: u64,
    /// For the shares of a chosen set, before the silent are left out.
    pub share_wait_ms: u64,
}

impl Default for SignerConfig {
    fn default() -> Self {
        Self { attempt_ms: 4_000, share_wait_ms: 1_000 }
    }
}

/// Which session a message belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, bincode::Encode, bincode::Decode)]
pub struct SessionId {
    /// Topic.
    pub topic: Digest,
    /// Attempt, which names the leader.
    pub attempt: u32,
    /// The leader's session within it.
    pub session: u16,
}

/// What members say to each other. The transport proves who says it.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum SignMessage {
    /// Leader: sign this.
    Propose {
        /// Session.
        id: SessionId,
        /// The message to be signed.
        payload: Vec<u8>,
    },
    /// Member: I would; my nonce commitments.
    Commit {
        /// Session.
        id: SessionId,
        /// Of the payload.
        payload_hash: Digest,
        /// FROST round one.
        commitments: Vec<u8>,
    },
    /// Leader: these t members sign.
    Package {
        /// Session.
        id: SessionId,
        /// Of the payload.
        payload_hash: Digest,
        /// Member index and commitments.
        chosen: Vec<(u16, Vec<u8>)>,
    },
    /// Member: my signature share.
    Share {
        /// Session.
        id: SessionId,
        /// FROST round two.
        share: Vec<u8>,
    },
}
record!(SignMessage, b"sgms", MAX_PAYLOAD + 1024);

/// What happens to a signer.
#[derive(Debug)]
pub enum SignInput {
    /// The host wants a topic attested; with a payload this member can lead.
    Open {
        /// Topic.
        topic: Digest,
        /// What it would propose.
        payload: Option<Vec<u8>>,
    },
    /// A member said something.
    Message {
        /// Who, authenticated.
        from: NodeId,
        /// What.
        message: SignMessage,
    },
    /// The host agrees to sign a payload.
    Approve {
        /// Topic.
        topic: Digest,
        /// [`payload_hash`].
        payload_hash: Digest,
    },
    /// The host does not.
    Refuse {
        /// Topic.
        topic: Digest,
        /// [`payload_hash`].
        payload_hash: Digest,
    },
    /// Attested or obsolete.
    Close {
        /// Topic.
        topic: Digest,
    },
    /// Time passed.
    Tick,
}

/// What a signer wants done.
#[derive(Debug)]
pub enum SignEffect {
    /// Send to all members.
    Broadcast(SignMessage),
    /// A leader proposes this: approve or refuse it.
    Review {
        /// Topic.
        topic: Digest,
        /// Who proposes.
        leader: NodeId,
        /// What.
        payload: Vec<u8>,
    },
    /// Signed; only the leader learns it from here.
    Signed {
        /// Topic.
        topic: Digest,
        /// What was signed.
        payload: Vec<u8>,
        /// By the group, verified.
        signature: GroupSignature,
    },
    /// A member disturbed a session.
    Blame {
        /// Who.
        node: NodeId,
        /// Where.
        topic: Digest,
        /// How.
        why: &'static str,
    },
}

/// Name of a payload.
pub fn payload_hash(payload: &[u8]) -> Digest {
    Digest(blake3::derive_key("oda 2026 signing payload", payload))
}

/// C5: lives in memory only; no copy, no bytes, used by being consumed.
struct Nonce(SigningNonces);

impl Nonce {
    fn sign(self, package: &frost::SigningPackage, share: &KeyShare) -> Option<SignatureShare> {
        frost::round2::sign(package, &self.0, share.package()).ok()
    }
}

struct LiveNonce {
    nonce: Nonce,
    commitments: SigningCommitments,
    payload_hash: Digest,
}

#[derive(Default)]
struct Topic {
    mine: Option<Vec<u8>>,
    open_since_ms: Option<u64>,
    attempt: u32,
    payloads: BTreeMap<Digest, Vec<u8>>,
    approved: BTreeSet<Digest>,
    refused: BTreeSet<Digest>,
    /// Proposals waiting for the host's opinion.
    waiting: BTreeSet<(Digest, SessionId)>,
    /// Keyed by session: one nonce each, never refilled.
    nonces: BTreeMap<SessionId, LiveNonce>,
    spent: BTreeSet<SessionId>,
    lead: Option<Lead>,
}

struct Lead {
    id: SessionId,
    payload: Vec<u8>,
    excluded: BTreeSet<u16>,
    commitments: BTreeMap<u16, SigningCommitments>,
    package: Option<(frost::SigningPackage, u64)>,
    chosen: BTreeSet<u16>,
    shares: BTreeMap<u16, SignatureShare>,
    done: bool,
}

/// The signing engine of one member.
pub struct Signer {
    me: NodeId,
    index: u16,
    group: GroupKey,
    share: KeyShare,
    config: SignerConfig,
    topics: BTreeMap<Digest, Topic>,
    closed: VecDeque<Digest>,
}

impl Signer {
    /// A member with its share. A share of another group never produces a valid signature.
    pub fn new(me: NodeId, group: GroupKey, share: KeyShare, config: SignerConfig) -> Self {
        let index = group.index_of(me).and_then(|i| u16::try_from(i).ok()).unwrap_or(u16::MAX);
        Self { me, index, group, share, config, topics: BTreeMap::new(), closed: VecDeque::new() }
    }

    /// Who leads an attempt of a topic.
    pub fn leader(&self, topic: Digest, attempt: u32) -> Option<NodeId> {
        let mut first = [0; 8];
        first.copy_from_slice(topic.0.get(..8)?);
        let n = self.group.members().len() as u64;
        let turn = (u64::from_le_bytes(first) % n + u64::from(attempt) % n) % n;
        self.group.members().get(usize::try_from(turn).ok()?).copied()
    }

    /// Handles one input.
    pub fn handle(&mut self, input: SignInput, now_ms: u64, rng: &mut (impl RngCore + CryptoRng)) -> Vec<SignEffect> {
        let mut out = Vec::new();
        // what we broadcast we also hear, at once
        let mut heard = VecDeque::new();
        match input {
            SignInput::Open { topic, payload } => self.open(topic, payload, now_ms, &mut heard),
            SignInput::Message { from, message } => {
                if self.group.index_of(from).is_some() && from != self.me {
                    self.hear(from, message, now_ms, rng, &mut heard, &mut out);
                }
            }
            SignInput::Approve { topic, payload_hash } => {
                if let Some(t) = self.topic(topic) {
                    if t.approved.len() < MAX_PAYLOADS {
                        t.approved.insert(payload_hash);
                    }
                    let ready: Vec<_> = t.waiting.iter().filter(|(h, _)| *h == payload_hash).copied().collect();
                    t.waiting.retain(|(h, _)| *h != payload_hash);
                    for (hash, id) in ready {
                        self.commit(id, hash, rng, &mut heard);
                    }
                }
            }
            SignInput::Refuse { topic, payload_hash } => {
                if let Some(t) = self.topics.get_mut(&topic) {
                    t.waiting.retain(|(h, _)| *h != payload_hash);
                    if t.refused.len() < MAX_PAYLOADS {
                        t.refused.insert(payload_hash);
                    }
                }
            }
            SignInput::Close { topic } => {
                self.topics.remove(&topic);
                self.closed.push_back(topic);
                if self.closed.len() > MAX_CLOSED {
                    self.closed.pop_front();
                }
            }
            SignInput::Tick => self.tick(now_ms, &mut heard, &mut out),
        }
        while let Some(message) = heard.pop_front() {
            out.push(SignEffect::Broadcast(message.clone()));
            self.hear(self.me, message, now_ms, rng, &mut heard, &mut out);
        }
        out
    }

    fn topic(&mut self, topic: Digest) -> Option<&mut Topic> {
        if self.closed.contains(&topic) || (self.topics.len() >= MAX_TOPICS && !self.topics.contains_key(&topic)) {
            return None;
        }
        Some(self.topics.entry(topic).or_default())
    }

    fn open(&mut self, topic: Digest, payload: Option<Vec<u8>>, now_ms: u64, heard: &mut VecDeque<SignMessage>) {
        let payload = payload.filter(|p| p.len() <= MAX_PAYLOAD);
        let Some(t) = self.topic(topic) else { return };
        t.open_since_ms.get_or_insert(now_ms);
        if payload.is_some() {
            t.mine = payload;
        }
        self.lead_if_due(topic, heard);
    }

    fn lead_if_due(&mut self, topic: Digest, heard: &mut VecDeque<SignMessage>) {
        let Some(t) = self.topics.get(&topic) else { return };
        let attempt = t.attempt;
        if t.lead.as_ref().is_some_and(|l| l.id.attempt == attempt) || self.leader(topic, attempt) != Some(self.me) {
            return;
        }
        if let Some(payload) = t.mine.clone() {
            self.start_session(SessionId { topic, attempt, session: 0 }, payload, BTreeSet::new(), heard);
        }
    }

    fn start_session(
        &mut self,
        id: SessionId,
        payload: Vec<u8>,
        excluded: BTreeSet<u16>,
        heard: &mut VecDeque<SignMessage>,
    ) {
        let Some(t) = self.topics.get_mut(&id.topic) else { return };
        heard.push_back(SignMessage::Propose { id, payload: payload.clone() });
        t.lead = Some(Lead {
            id,
            payload,
            excluded,
            commitments: BTreeMap::new(),
            package: None,
            chosen: BTreeSet::new(),
            shares: BTreeMap::new(),
            done: false,
        });
    }

    fn hear(
        &mut self,
        from: NodeId,
        message: SignMessage,
        now_ms: u64,
        rng: &mut (impl RngCore + CryptoRng),
        heard: &mut VecDeque<SignMessage>,
        out: &mut Vec<SignEffect>,
    ) {
        match message {
            SignMessage::Propose { id, payload } => {
                if payload.len() > MAX_PAYLOAD || self.leader(id.topic, id.attempt) != Some(from) {
                    return;
                }
                let hash = payload_hash(&payload);
                let Some(t) = self.topic(id.topic) else { return };
                if id.attempt > t.attempt.saturating_add(MAX_AHEAD)
                    || t.refused.contains(&hash)
                    || t.spent.contains(&id)
                {
                    return;
                }
                if t.approved.contains(&hash) {
                    return self.commit(id, hash, rng, heard);
                }
                if t.waiting.len() < MAX_NONCES && t.payloads.len() < MAX_PAYLOADS {
                    t.waiting.insert((hash, id));
                    if t.payloads.insert(hash, payload.clone()).is_none() {
                        out.push(SignEffect::Review { topic: id.topic, leader: from, payload });
                    }
                }
            }
            SignMessage::Commit { id, payload_hash: hash, commitments } => {
                let Some(index) = self.group.index_of(from).and_then(|i| u16::try_from(i).ok()) else { return };
                let t_needed = self.group.threshold();
                let Some(lead) = self.topics.get_mut(&id.topic).and_then(|t| t.lead.as_mut()) else { return };
                let mine = lead.id == id
                    && lead.package.is_none()
                    && !lead.excluded.contains(&index)
                    && hash == payload_hash(&lead.payload);
                let Ok(commitments) = SigningCommitments::deserialize(&commitments) else { return };
                if !mine {
                    return;
                }
                lead.commitments.entry(index).or_insert(commitments);
                if lead.commitments.len() < t_needed {
                    return;
                }
                let chosen: Vec<(u16, SigningCommitments)> =
                    lead.commitments.iter().map(|(i, c)| (*i, *c)).take(t_needed).collect();
                let map = chosen.iter().map(|(i, c)| (identifier(usize::from(*i)), *c)).collect();
                lead.chosen = chosen.iter().map(|(i, _)| *i).collect();
                lead.package = Some((frost::SigningPackage::new(map, &lead.payload), now_ms));
                let bytes = chosen.iter().filter_map(|(i, c)| Some((*i, c.serialize().ok()?))).collect();
                heard.push_back(SignMessage::Package { id, payload_hash: hash, chosen: bytes });
            }
            SignMessage::Package { id, payload_hash: hash, chosen } => {
                if self.leader(id.topic, id.attempt) == Some(from) && chosen.len() == self.group.threshold() {
                    self.sign(id, hash, &chosen, heard);
                }
            }
            SignMessage::Share { id, share } => self.on_share(from, id, &share, heard, out),
        }
    }

    /// Answers a proposal the host approved with a fresh nonce; one per session, ever.
    fn commit(
        &mut self,
        id: SessionId,
        hash: Digest,
        rng: &mut (impl RngCore + CryptoRng),
        heard: &mut VecDeque<SignMessage>,
    ) {
        let signing_share = *self.share.package().signing_share();
        let Some(t) = self.topics.get_mut(&id.topic) else { return };
        if t.nonces.contains_key(&id)
            || t.spent.contains(&id)
            || t.nonces.len() >= MAX_NONCES
            || t.spent.len() >= 16 * MAX_NONCES
        {
            return;
        }
        let (nonces, commitments) = frost::round1::commit(&signing_share, rng);
        let Ok(bytes) = commitments.serialize() else { return };
        t.nonces.insert(id, LiveNonce { nonce: Nonce(nonces), commitments, payload_hash: hash });
        heard.push_back(SignMessage::Commit { id, payload_hash: hash, commitments: bytes });
    }

    /// Signs with the session's nonce, which is gone afterwards whatever happens (C5).
    fn sign(&mut self, id: SessionId, hash: Digest, chosen: &[(u16, Vec<u8>)], heard: &mut VecDeque<SignMessage>) {
        let Some(t) = self.topics.get_mut(&id.topic) else { return };
        let Some(own) = chosen.iter().find(|(i, _)| *i == self.index) else { return };
        let Some(live) = t.nonces.remove(&id) else { return };
        t.spent.insert(id);
        let payload = t.payloads.get(&hash).or(t.mine.as_ref()).filter(|p| payload_hash(p) == hash).cloned();
        let (Some(payload), true) = (payload, t.approved.contains(&hash) && live.payload_hash == hash) else { return };
        if live.commitments.serialize().ok().as_ref() != Some(&own.1) {
            return;
        }
        let mut map = BTreeMap::new();
        for (i, bytes) in chosen {
            let Ok(commitments) = SigningCommitments::deserialize(bytes) else { return };
            if usize::from(*i) >= self.group.members().len() {
                return;
            }
            map.insert(identifier(usize::from(*i)), commitments);
        }
        if map.len() != chosen.len() {
            return;
        }
        let package = frost::SigningPackage::new(map, &payload);
        if let Some(share) = live.nonce.sign(&package, &self.share) {
            heard.push_back(SignMessage::Share { id, share: share.serialize() });
        }
    }

    fn on_share(
        &mut self,
        from: NodeId,
        id: SessionId,
        share: &[u8],
        heard: &mut VecDeque<SignMessage>,
        out: &mut Vec<SignEffect>,
    ) {
        let Some(index) = self.group.index_of(from).and_then(|i| u16::try_from(i).ok()) else { return };
        let group = self.group.clone();
        let Some(lead) = self.topics.get_mut(&id.topic).and_then(|t| t.lead.as_mut()) else { return };
        let Some((package, _)) =
            lead.package.as_ref().filter(|_| lead.id == id && !lead.done && lead.chosen.contains(&index))
        else {
            return;
        };
        let member = identifier(usize::from(index));
        let keys = group.package();
        let checked = SignatureShare::deserialize(share).ok().filter(|s| {
            keys.verifying_shares()
                .get(&member)
                .is_some_and(|v| frost_core_verify(member, v, s, package, keys.verifying_key()))
        });
        let Some(good) = checked else {
            out.push(SignEffect::Blame { node: from, topic: id.topic, why: "sent an invalid signature share" });
            let excluded = lead.excluded.iter().copied().chain([index]).collect();
            return self.next_session(id, excluded, heard);
        };
        lead.shares.insert(index, good);
        if lead.shares.len() < lead.chosen.len() {
            return;
        }
        let shares = lead.shares.iter().map(|(i, s)| (identifier(usize::from(*i)), *s)).collect();
        let signature = frost::aggregate(package, &shares, keys).ok().and_then(|s| GroupSignature::of(&s));
        if let Some(signature) = signature.filter(|s| group.verify(&lead.payload, s)) {
            lead.done = true;
            out.push(SignEffect::Signed { topic: id.topic, payload: lead.payload.clone(), signature });
        }
    }

    /// C4: a new session without the disturbers, while enough members are left.
    fn next_session(&mut self, id: SessionId, excluded: BTreeSet<u16>, heard: &mut VecDeque<SignMessage>) {
        let left = self.group.members().len().saturating_sub(excluded.len());
        let Some(payload) = self.topics.get(&id.topic).and_then(|t| t.lead.as_ref()).map(|l| l.payload.clone()) else {
            return;
        };
        if left >= self.group.threshold() {
            let id = SessionId { session: id.session.saturating_add(1), ..id };
            self.start_session(id, payload, excluded, heard);
        }
    }

    fn tick(&mut self, now_ms: u64, heard: &mut VecDeque<SignMessage>, out: &mut Vec<SignEffect>) {
        let topics: Vec<Digest> = self.topics.keys().copied().collect();
        for topic in topics {
            let Some(t) = self.topics.get_mut(&topic) else { continue };
            if let Some(lead) = t.lead.as_ref().filter(|l| !l.done && l.id.attempt == t.attempt)
                && let Some((_, since)) = &lead.package
                && now_ms.saturating_sub(*since) >= self.config.share_wait_ms
            {
                let silent: BTreeSet<u16> =
                    lead.chosen.iter().filter(|i| !lead.shares.contains_key(i)).copied().collect();
                for node in silent.iter().filter_map(|i| self.group.members().get(usize::from(*i))) {
                    out.push(SignEffect::Blame { node: *node, topic, why: "did not send its signature share" });
                }
                let (id, excluded) = (lead.id, lead.excluded.union(&silent).copied().collect());
                self.next_session(id, excluded, heard);
                continue;
            }
            let Some(since) = t.open_since_ms else { continue };
            let wait = self.config.attempt_ms.saturating_add(self.config.attempt_ms / 2 * u64::from(t.attempt));
            if now_ms.saturating_sub(since) >= wait {
                t.open_since_ms = Some(now_ms);
                t.attempt = t.attempt.saturating_add(1);
                self.lead_if_due(topic, heard);
            }
        }
    }
}

fn frost_core_verify(
    member: frost::Identifier,
    share_key: &frost::keys::VerifyingShare,
    share: &SignatureShare,
    package: &frost::SigningPackage,
    group: &frost::VerifyingKey,
) -> bool {
    frost_core::verify_signature_share(member, share_key, share, package, group).is_ok()
}

#[cfg(test)]
mod tests;
