//! Signing sessions that a silent or cheating member cannot stop (R5, C3, C4, C5), without sockets or clock.
//!
//! One topic is one statement to attest. Its leader rotates with the attempt and coordinates it; any
//! member answers any attempt's rightful leader, so members need not agree on the time. Members give every
//! possible coordinator commitments of a few nonces in advance, so signing is one round trip: the
//! coordinator names t members, one nonce of each and the payload, they answer with signature shares.
//!
//! The obvious way, waiting for t answers and starting over without the silent, lets t be missed again and
//! again by members that fail one at a time, and loses the share that comes a moment late. This is ROAST
//! (Ruffing, Ronge, Jin, Schneider-Bensch, Schröder, CCS 2022, eprint 2022/550): a member that owes an
//! answer is in no second session until it has given it, one that gave a wrong share is in none any more,
//! and sessions run side by side. Each unfinished session so holds a disturber of its own, and n - t + 1
//! sessions are enough. Unlike the paper, a next session waits a short hedge unless the last one cannot
//! finish: when all is well there is exactly one.

mod lead;
mod member;
mod message;
mod nonces;

pub use message::{
    Announce, Chosen, NonceOffer, RefusedWhy, SessionId, ShareEvidence, SignMessage, payload_hash, request_digest,
};

use super::group::{GroupKey, GroupSignature, KeyShare};
use crate::ids::{Digest, NodeId, Signature};
use lead::Lead;
use member::Waiting;
use message::MAX_PAYLOAD;
use nonces::{Offers, Vault};
use rand_core::{CryptoRng, RngCore};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Topics the host works on at once.
const MAX_TOPICS: usize = 128;
/// Topics one member may propose before our host opened them; its oldest makes room.
const MAX_UNOPENED: usize = 8;
/// Topics remembered as closed.
const MAX_CLOSED: usize = 1024;
/// Opinions of the host kept for one topic.
const MAX_PAYLOADS: usize = 16;
/// Attempts do not get longer after this many: a long outage must not make the recovery slow.
const MAX_GROWTH: u32 = 16;

/// How long to wait, ms, and how many nonces to keep.
#[derive(Clone, Copy, Debug)]
pub struct SignerConfig {
    /// For a leader, before the next takes over; grows by half of it with each of the first attempts.
    pub attempt_ms: u64,
    /// For a share, before its member is reported as silent.
    pub share_wait_ms: u64,
    /// For a session, before the next one opens beside it.
    pub hedge_ms: u64,
    /// Nonces kept ready for each coordinator, 1 to 16: topics it can have signed at the same time.
    pub nonces: u8,
}

impl Default for SignerConfig {
    fn default() -> Self {
        Self { attempt_ms: 4_000, share_wait_ms: 1_000, hedge_ms: 150, nonces: 4 }
    }
}

/// What happens to a signer.
#[derive(Debug)]
pub enum SignInput {
    /// The network is up: announce nonces. The first [`SignInput::Open`] or
    /// [`SignInput::Tick`] does it too.
    Start,
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
        /// The transport's signature over it, already verified; kept as evidence and not looked at.
        proof: Signature,
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
    /// A member disturbed a session; may be its network's fault, unless [`SignEffect::Evidence`] comes too.
    Blame {
        /// Who.
        node: NodeId,
        /// Where.
        topic: Digest,
        /// How.
        why: &'static str,
    },
    /// A member cheated, and anybody can be convinced of it (C6).
    Evidence {
        /// Who.
        node: NodeId,
        /// The invalid share and its request.
        evidence: ShareEvidence,
        /// The member's transport signature over [`ShareEvidence::message`].
        proof: Signature,
    },
    /// A message that no honest member sends: count it and lower the sender's score.
    Refused {
        /// Who.
        from: NodeId,
        /// Why.
        why: RefusedWhy,
    },
}

#[derive(Default)]
struct Topic {
    mine: Option<Vec<u8>>,
    open_since_ms: Option<u64>,
    attempt: u32,
    /// Who made us know the topic, and when in order, unless our host did.
    proposed_by: Option<(NodeId, u64)>,
    approved: BTreeSet<Digest>,
    refused: BTreeSet<Digest>,
    // The next two are by leader, one entry each: a leader that floods crowds out only itself (C4).
    waiting: BTreeMap<u16, Waiting>,
    /// Digest of its newest request.
    asked: BTreeMap<u16, Digest>,
    lead: Option<Lead>,
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
    /// Counts topics learnt from proposals, to know the oldest.
    learnt: u64,
    vault: Vault,
    offers: Offers,
    /// Gave an invalid share: not asked again.
    cheaters: BTreeSet<u16>,
    /// Sessions each member let pass the hedge since its last answer.
    strikes: BTreeMap<u16, u32>,
    /// When a member was last greeted and answered, ms.
    greeted_ms: BTreeMap<u16, u64>,
    welcomed_ms: BTreeMap<u16, u64>,
}

type Effects = Vec<SignEffect>;

impl Signer {
    /// A member with its share. A share of another group never produces a valid signature.
    pub fn new(me: NodeId, group: GroupKey, share: KeyShare, config: SignerConfig) -> Self {
        let index = group.index_of(me).and_then(|i| u16::try_from(i).ok()).unwrap_or(u16::MAX);
        Self {
            me,
            index,
            group,
            share,
            config,
            topics: BTreeMap::new(),
            closed: VecDeque::new(),
            learnt: 0,
            vault: Vault::new(),
            offers: Offers::default(),
            cheaters: BTreeSet::new(),
            strikes: BTreeMap::new(),
            greeted_ms: BTreeMap::new(),
            welcomed_ms: BTreeMap::new(),
        }
    }

    /// The committee it signs in.
    pub fn group(&self) -> &GroupKey {
        &self.group
    }

    /// Who leads an attempt of a topic.
    pub fn leader(&self, topic: Digest, attempt: u32) -> Option<NodeId> {
        let mut first = [0; 8];
        first.copy_from_slice(topic.0.get(..8)?);
        let n = self.group.members().len() as u64;
        let turn = (u64::from_le_bytes(first) % n + u64::from(attempt) % n) % n;
        self.group.members().get(usize::try_from(turn).ok()?).copied()
    }

    /// Handles one input. A signer that is no member of its group does nothing.
    pub fn handle(&mut self, input: SignInput, now_ms: u64, rng: &mut (impl RngCore + CryptoRng)) -> Vec<SignEffect> {
        let mut out = Vec::new();
        if usize::from(self.index) >= self.group.members().len() {
            return out;
        }
        match input {
            SignInput::Start => self.greet(now_ms, rng, &mut out),
            SignInput::Open { topic, payload } => self.open(topic, payload, now_ms, rng, &mut out),
            SignInput::Message { from, message, proof } => {
                if from != self.me
                    && let Err(why) = self.hear(from, message, proof, now_ms, rng, &mut out)
                {
                    out.push(SignEffect::Refused { from, why });
                }
            }
            SignInput::Approve { topic, payload_hash } => self.approve(topic, payload_hash, now_ms, rng, &mut out),
            SignInput::Refuse { topic, payload_hash } => self.refuse(topic, payload_hash, rng, &mut out),
            SignInput::Close { topic } => {
                self.topics.remove(&topic);
                if !self.closed.contains(&topic) {
                    self.closed.push_back(topic);
                }
                if self.closed.len() > MAX_CLOSED {
                    self.closed.pop_front();
                }
            }
            SignInput::Tick => self.tick(now_ms, rng, &mut out),
        }
        out
    }

    fn hear(
        &mut self,
        from: NodeId,
        message: SignMessage,
        proof: Signature,
        now_ms: u64,
        rng: &mut (impl RngCore + CryptoRng),
        out: &mut Effects,
    ) -> Result<(), RefusedWhy> {
        let member = self.group.index_of(from).and_then(|i| u16::try_from(i).ok()).ok_or(RefusedWhy::Stranger)?;
        match message {
            SignMessage::Nonces { to, why, offers } => {
                if usize::from(to) >= self.group.members().len() {
                    return Err(RefusedWhy::BadMembers);
                }
                if to != self.index {
                    return Ok(());
                }
                self.learn(member, &offers)?;
                match why {
                    Announce::Unknown(id) => self.give_up_on(member, Some(id)),
                    Announce::Hello { used } => self.welcome(member, used, now_ms, rng, out),
                    Announce::Refill => {}
                }
            }
            SignMessage::Request { id, payload, chosen } => {
                return self.on_request(from, member, id, payload, chosen, rng, out);
            }
            SignMessage::Share { id, .. } | SignMessage::Decline { id, .. }
                if self.leader(id.topic, id.attempt) != Some(self.me) =>
            {
                return Ok(());
            }
            SignMessage::Share { id, request, share, next } => {
                self.learn(member, &next)?;
                self.on_share(member, id, request, lead::Received::new(share, next, proof)?, out)?;
            }
            SignMessage::Decline { id, request, next } => {
                self.learn(member, &next)?;
                self.on_decline(member, id, request);
            }
        }
        self.advance_all(now_ms, rng, out);
        Ok(())
    }

    /// The topic, as its host knows it: what others proposed takes none of the host's places.
    fn topic(&mut self, topic: Digest) -> Option<&mut Topic> {
        if self.closed.contains(&topic) {
            return None;
        }
        let own = self.topics.values().filter(|t| t.proposed_by.is_none()).count();
        if own >= MAX_TOPICS && self.topics.get(&topic).is_none_or(|t| t.proposed_by.is_some()) {
            return None;
        }
        let t = self.topics.entry(topic).or_default();
        t.proposed_by = None;
        Some(t)
    }

    /// The topic, as a member that proposes it knows it.
    fn proposed_topic(&mut self, topic: Digest, from: NodeId) -> Option<&mut Topic> {
        if self.closed.contains(&topic) {
            return None;
        }
        if !self.topics.contains_key(&topic) {
            let theirs = |t: &Topic| t.proposed_by.filter(|(node, _)| *node == from).map(|(_, order)| order);
            if self.topics.values().filter_map(theirs).count() >= MAX_UNOPENED {
                let oldest = self.topics.iter().filter_map(|(k, t)| Some((theirs(t)?, *k))).min();
                oldest.and_then(|(_, k)| self.topics.remove(&k));
            }
            self.learnt = self.learnt.saturating_add(1);
            let proposed_by = Some((from, self.learnt));
            self.topics.insert(topic, Topic { proposed_by, ..Topic::default() });
        }
        self.topics.get_mut(&topic)
    }

    fn open(
        &mut self,
        topic: Digest,
        payload: Option<Vec<u8>>,
        now_ms: u64,
        rng: &mut (impl RngCore + CryptoRng),
        out: &mut Effects,
    ) {
        self.greet(now_ms, rng, out);
        let payload = payload.filter(|p| p.len() <= MAX_PAYLOAD);
        let Some(t) = self.topic(topic) else { return };
        t.open_since_ms.get_or_insert(now_ms);
        if payload.is_some() {
            t.mine = payload;
        }
        self.lead_if_due(topic, now_ms, rng, out);
    }

    fn tick(&mut self, now_ms: u64, rng: &mut (impl RngCore + CryptoRng), out: &mut Effects) {
        self.greet(now_ms, rng, out);
        let topics: Vec<Digest> = self.topics.keys().copied().collect();
        for topic in topics {
            let Some(t) = self.topics.get_mut(&topic) else { continue };
            if let Some(since) = t.open_since_ms {
                let growth = (self.config.attempt_ms / 2).saturating_mul(u64::from(t.attempt.min(MAX_GROWTH)));
                if now_ms.saturating_sub(since) >= self.config.attempt_ms.saturating_add(growth) {
                    t.open_since_ms = Some(now_ms);
                    t.attempt = t.attempt.saturating_add(1);
                    self.lead_if_due(topic, now_ms, rng, out);
                }
            }
            self.advance(topic, now_ms, rng, out);
        }
    }
}

#[cfg(test)]
mod tests;
