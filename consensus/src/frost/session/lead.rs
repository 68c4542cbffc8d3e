//! The coordinator's side: ROAST (eprint 2022/550, figure 4) with nonces known in advance.

use super::message::{Asked, share_fits};
use super::nonces::Nonce;
use super::{
    Chosen, Effects, NonceOffer, RefusedWhy, SessionId, ShareEvidence, SignEffect, SignMessage, Signer, payload_hash,
};
use crate::frost::group::{GroupKey, GroupSignature, identifier};
use crate::ids::{Digest, Signature};
use frost::round2::SignatureShare;
use frost_secp256k1 as frost;
use rand_core::{CryptoRng, RngCore};
use std::collections::{BTreeMap, BTreeSet};

/// One attempt at one topic.
pub(super) struct Lead {
    pub attempt: u32,
    payload: Vec<u8>,
    payload_hash: Digest,
    /// At most n - t + 1.
    pub sessions: Vec<Session>,
    /// Declined, or did not know its nonce: in no further session of this attempt, but not at fault.
    out: BTreeSet<u16>,
    done: bool,
}

pub(super) struct Session {
    asked: Asked,
    shares: BTreeMap<u16, Received>,
    opened_ms: u64,
    /// Not worth waiting for: somebody cheated, declined or cannot answer.
    dead: bool,
    /// The hedge is over: shares are checked one by one as they come.
    strict: bool,
    /// The members that let the hedge pass were counted.
    late: bool,
    /// The silent were named.
    reported: bool,
}

/// An answer, with what is needed to prove it wrong.
pub(super) struct Received {
    share: Vec<u8>,
    next: Vec<NonceOffer>,
    proof: Signature,
    verdict: Verdict,
}

#[derive(Clone, Copy)]
enum Verdict {
    Unchecked,
    Valid(SignatureShare),
    Invalid,
}

#[cfg(test)]
impl Lead {
    pub fn owed(&self, id: SessionId, request: Digest, member: u16) -> bool {
        self.sessions.iter().any(|s| s.asked.id == id && s.asked.digest == request && s.owes(member))
    }
}

impl Received {
    pub fn new(share: Vec<u8>, next: Vec<NonceOffer>, proof: Signature) -> Result<Self, RefusedWhy> {
        if !share_fits(&share) {
            return Err(RefusedWhy::Oversized);
        }
        Ok(Self { share, next, proof, verdict: Verdict::Unchecked })
    }
}

impl Session {
    fn owes(&self, member: u16) -> bool {
        self.asked.has(member) && !self.shares.contains_key(&member)
    }

    fn is_complete(&self) -> bool {
        self.shares.len() == self.asked.chosen.len()
    }

    /// Checks every share not yet checked, and names each cheater with proof (C4, C6).
    fn check(&mut self, group: &GroupKey, cheaters: &mut BTreeSet<u16>, out: &mut Effects) {
        for (member, received) in &mut self.shares {
            if !matches!(received.verdict, Verdict::Unchecked) {
                continue;
            }
            if let Some(share) = self.asked.check_share(group, *member, &received.share) {
                received.verdict = Verdict::Valid(share);
                continue;
            }
            received.verdict = Verdict::Invalid;
            self.dead = true;
            cheaters.insert(*member);
            let Some(node) = group.members().get(usize::from(*member)).copied() else { continue };
            out.push(SignEffect::Blame { node, topic: self.asked.id.topic, why: "sent an invalid signature share" });
            let evidence = ShareEvidence {
                id: self.asked.id,
                payload: self.asked.payload.clone(),
                chosen: self.asked.chosen.clone(),
                member: *member,
                share: received.share.clone(),
                next: received.next.clone(),
            };
            out.push(SignEffect::Evidence { node, evidence, proof: received.proof });
        }
    }

    /// The signature of t shares. Tried before any share is checked: when nobody cheats that is all the
    /// work there is; when somebody does, all shares are checked next. Shares whose errors cancel each
    /// other pass: their senders did together what was asked of them.
    fn aggregate(&self, group: &GroupKey) -> Option<GroupSignature> {
        let read = |(member, r): (&u16, &Received)| {
            let share = match r.verdict {
                Verdict::Valid(share) => share,
                Verdict::Unchecked => SignatureShare::deserialize(&r.share).ok()?,
                Verdict::Invalid => return None,
            };
            Some((identifier(usize::from(*member)), share))
        };
        let shares = self.shares.iter().map(read).collect::<Option<_>>()?;
        let detection = frost::CheaterDetection::Disabled;
        let signature = frost::aggregate_custom(&self.asked.package, &shares, group.package(), detection).ok()?;
        GroupSignature::of(&signature)
    }
}

impl Signer {
    /// Starts the attempt if it is ours to lead and we have something to propose.
    pub(super) fn lead_if_due(
        &mut self,
        topic: Digest,
        now_ms: u64,
        rng: &mut (impl RngCore + CryptoRng),
        out: &mut Effects,
    ) {
        let Some(attempt) = self.topics.get(&topic).map(|t| t.attempt) else { return };
        if self.leader(topic, attempt) != Some(self.me) {
            return;
        }
        let me = self.me;
        let Some(t) = self.topics.get_mut(&topic) else { return };
        let Some(payload) = t.mine.clone().filter(|_| t.lead.as_ref().is_none_or(|l| l.attempt != attempt)) else {
            return;
        };
        let payload_hash = payload_hash(&payload);
        if !t.approved.contains(&payload_hash) && !t.refused.contains(&payload_hash) {
            out.push(SignEffect::Review { topic, leader: me, payload: payload.clone() });
        }
        t.lead = Some(Lead { attempt, payload, payload_hash, sessions: Vec::new(), out: BTreeSet::new(), done: false });
        self.advance(topic, now_ms, rng, out);
    }

    pub(super) fn advance_all(&mut self, now_ms: u64, rng: &mut (impl RngCore + CryptoRng), out: &mut Effects) {
        let leading = |(k, t): (&Digest, &super::Topic)| t.lead.as_ref().filter(|l| !l.done).map(|_| *k);
        let topics: Vec<Digest> = self.topics.iter().filter_map(leading).collect();
        for topic in topics {
            self.advance(topic, now_ms, rng, out);
        }
    }

    /// Checks what the hedge is over for, and opens the next session if one is due and t members are free.
    pub(super) fn advance(
        &mut self,
        topic: Digest,
        now_ms: u64,
        rng: &mut (impl RngCore + CryptoRng),
        out: &mut Effects,
    ) {
        let Self { group, cheaters, strikes, config, index, .. } = self;
        let Some(t) = self.topics.get_mut(&topic) else { return };
        let Some(lead) = t.lead.as_mut().filter(|l| !l.done) else { return };
        for session in &mut lead.sessions {
            let age_ms = now_ms.saturating_sub(session.opened_ms);
            if (session.dead || age_ms >= config.hedge_ms) && !session.strict {
                session.strict = true;
                session.check(group, cheaters, out);
            }
            if age_ms >= config.hedge_ms && !session.late {
                session.late = true;
                for member in session.asked.chosen.iter().map(|c| c.member).filter(|m| session.owes(*m)) {
                    let strike = strikes.entry(member).or_default();
                    *strike = strike.saturating_add(1);
                }
            }
            let silent = session.asked.chosen.iter().map(|c| c.member).filter(|m| session.owes(*m));
            if age_ms >= config.share_wait_ms && !session.reported {
                for member in silent.filter(|m| !lead.out.contains(m)) {
                    if let Some(node) = group.members().get(usize::from(member)).copied() {
                        out.push(SignEffect::Blame { node, topic, why: "did not send its signature share" });
                    }
                }
                session.reported = true;
            }
        }
        if lead.attempt != t.attempt || lead.sessions.last().is_some_and(|s| !s.strict) {
            return;
        }
        let (n, own) = (group.members().len(), *index);
        let busy = |m: u16| lead.out.contains(&m) || cheaters.contains(&m) || lead.sessions.iter().any(|s| s.owes(m));
        let mut free: Vec<u16> = (0..=u16::MAX).take(n).filter(|m| !busy(*m)).collect();
        free.retain(|m| if *m == own { t.approved.contains(&lead.payload_hash) } else { self.offers.has(*m) });
        // each unfinished session keeps a disturber of its own busy, so the second bound never binds
        if free.len() < group.threshold() || lead.sessions.len() > n.saturating_sub(group.threshold()) {
            return;
        }
        let after_us = |m: u16| (usize::from(m) + n - usize::from(own)) % n;
        free.sort_by_key(|m| (strikes.get(m).copied().unwrap_or(0), after_us(*m)));
        free.truncate(group.threshold());
        free.sort_unstable();
        let session = u16::try_from(lead.sessions.len()).unwrap_or(u16::MAX);
        let id = SessionId { topic, attempt: lead.attempt, session };
        let payload = lead.payload.clone();
        self.open_session(id, payload, &free, now_ms, rng, out);
    }

    fn open_session(
        &mut self,
        id: SessionId,
        payload: Vec<u8>,
        members: &[u16],
        now_ms: u64,
        rng: &mut (impl RngCore + CryptoRng),
        out: &mut Effects,
    ) {
        let mut own = None;
        let mut chosen = Vec::new();
        for member in members.iter().copied() {
            let (nonce_id, commitments) = if member == self.index {
                let Some((nonce, commitments)) = Nonce::fresh(&self.share, rng) else { return };
                own = Some(nonce);
                (0, commitments)
            } else {
                let Some(offer) = self.offers.take(member) else { return };
                offer
            };
            chosen.push(Chosen { member, nonce_id, commitments });
        }
        let Ok(asked) = Asked::read(&self.group, id, payload.clone(), chosen.clone()) else { return };
        let mut shares = BTreeMap::new();
        // C5: our own nonce is made, used and gone within this call
        if let Some(share) = own.and_then(|nonce| nonce.sign(&asked.package, &self.share)) {
            let received = Received {
                share: share.serialize(),
                next: Vec::new(),
                proof: Signature([0; 64]),
                verdict: Verdict::Valid(share),
            };
            shares.insert(self.index, received);
        }
        let Some(lead) = self.topics.get_mut(&id.topic).and_then(|t| t.lead.as_mut()) else { return };
        lead.sessions.push(Session {
            asked,
            shares,
            opened_ms: now_ms,
            dead: false,
            strict: false,
            late: false,
            reported: false,
        });
        out.push(SignEffect::Broadcast(SignMessage::Request { id, payload, chosen }));
    }

    /// Notes a member's nonces; what it held before a restart cannot be asked of it any more.
    pub(super) fn learn(&mut self, member: u16, offers: &[NonceOffer]) -> Result<(), RefusedWhy> {
        if self.offers.learn(member, offers)? {
            self.give_up_on(member, None);
        }
        Ok(())
    }

    /// A member will not answer the session (or any): nobody's fault, but others must.
    pub(super) fn give_up_on(&mut self, member: u16, id: Option<SessionId>) {
        for lead in self.topics.values_mut().filter_map(|t| t.lead.as_mut()) {
            for session in &mut lead.sessions {
                if session.owes(member) && id.is_none_or(|id| id == session.asked.id) {
                    session.dead = true;
                    lead.out.insert(member);
                }
            }
        }
    }

    /// The session, if it is one of this process and the request is its own; anything else is late.
    fn session(&mut self, id: SessionId, request: Digest) -> Option<&mut Session> {
        let lead = self.topics.get_mut(&id.topic)?.lead.as_mut()?;
        lead.sessions.iter_mut().find(|s| s.asked.id == id && s.asked.digest == request)
    }

    pub(super) fn on_decline(&mut self, member: u16, id: SessionId, request: Digest) {
        if self.session(id, request).is_some() {
            self.give_up_on(member, Some(id));
        }
    }

    pub(super) fn on_share(
        &mut self,
        member: u16,
        id: SessionId,
        request: Digest,
        received: Received,
        out: &mut Effects,
    ) -> Result<(), RefusedWhy> {
        let Self { group, cheaters, strikes, .. } = self;
        let Some(lead) = self.topics.get_mut(&id.topic).and_then(|t| t.lead.as_mut()) else { return Ok(()) };
        let session = lead.sessions.iter_mut().find(|s| s.asked.id == id && s.asked.digest == request);
        let Some(session) = session else { return Ok(()) };
        if !session.asked.has(member) {
            return Err(RefusedWhy::NotAsked);
        }
        if session.shares.contains_key(&member) {
            return Err(RefusedWhy::Duplicate);
        }
        strikes.remove(&member);
        session.shares.insert(member, received);
        if session.strict || lead.done {
            session.check(group, cheaters, out);
        }
        if !session.is_complete() || lead.done {
            return Ok(());
        }
        if let Some(signature) = session.aggregate(group) {
            lead.done = true;
            out.push(SignEffect::Signed { topic: id.topic, payload: lead.payload.clone(), signature });
            for other in lead.sessions.iter_mut().filter(|s| s.asked.id != id) {
                other.check(group, cheaters, out);
            }
        } else {
            session.dead = true;
            session.check(group, cheaters, out);
        }
        Ok(())
    }
}
