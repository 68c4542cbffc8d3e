//! A member's side: announce nonces, answer requests the host approved, each nonce once (C5).

use super::message::{Asked, MAX_OFFERS};
use super::nonces::{Nonce, Standing};
use super::{
    Announce, Chosen, Effects, MAX_PAYLOADS, NonceOffer, RefusedWhy, SessionId, SignEffect, SignMessage, Signer,
    request_digest,
};
use crate::ids::{Digest, NodeId};
use rand_core::{CryptoRng, RngCore};

/// A request that waits for the host's opinion, and the nonce it named, which serves nothing else.
pub(super) struct Waiting {
    asked: Asked,
    nonce: Nonce,
}

impl Signer {
    fn offers_for(&mut self, coordinator: u16, rng: &mut (impl RngCore + CryptoRng)) -> Vec<NonceOffer> {
        let size = usize::from(self.config.nonces).clamp(1, MAX_OFFERS);
        self.vault.offers(coordinator, size, &self.share, rng)
    }

    fn announce(&mut self, to: u16, why: Announce, rng: &mut (impl RngCore + CryptoRng), out: &mut Effects) {
        let offers = self.offers_for(to, rng);
        out.push(SignEffect::Broadcast(SignMessage::Nonces { to, why, offers }));
    }

    /// Greets the members of which no nonce is known: at the start, after our restart, after a loss.
    pub(super) fn greet(&mut self, now_ms: u64, rng: &mut (impl RngCore + CryptoRng), out: &mut Effects) {
        for to in (0..=u16::MAX).take(self.group.members().len()) {
            let due = |last: &u64| now_ms.saturating_sub(*last) >= self.config.attempt_ms;
            if to != self.index && !self.offers.has(to) && self.greeted_ms.get(&to).is_none_or(due) {
                self.greeted_ms.insert(to, now_ms);
                let used = self.offers.used(to);
                self.announce(to, Announce::Hello { used }, rng, out);
            }
        }
    }

    /// Answers a greeting; not more often than a session takes, however often it comes.
    pub(super) fn welcome(
        &mut self,
        to: u16,
        used: u64,
        now_ms: u64,
        rng: &mut (impl RngCore + CryptoRng),
        out: &mut Effects,
    ) {
        let due = |last: &u64| now_ms.saturating_sub(*last) >= self.config.hedge_ms;
        if self.welcomed_ms.get(&to).is_none_or(due) {
            self.welcomed_ms.insert(to, now_ms);
            self.vault.count_only_above(to, used);
            self.announce(to, Announce::Refill, rng, out);
        }
    }

    #[allow(clippy::too_many_arguments)] // the parts of one message
    pub(super) fn on_request(
        &mut self,
        from: NodeId,
        leader: u16,
        id: SessionId,
        payload: Vec<u8>,
        chosen: Vec<Chosen>,
        rng: &mut (impl RngCore + CryptoRng),
        out: &mut Effects,
    ) -> Result<(), RefusedWhy> {
        let digest = request_digest(id, &payload, &chosen).ok_or(RefusedWhy::Oversized)?;
        if self.leader(id.topic, id.attempt) != Some(from) {
            return Err(RefusedWhy::WrongLeader);
        }
        let Some(own) = chosen.iter().find(|c| c.member == self.index) else { return Ok(()) };
        let nonce_id = own.nonce_id;
        match self.vault.standing(leader, nonce_id, &own.commitments) {
            Standing::Live => {}
            Standing::Forged => return Err(RefusedWhy::BadCommitments),
            Standing::Used => {
                let same = self.topics.get(&id.topic).is_some_and(|t| t.asked.get(&leader) == Some(&digest));
                return Err(if same { RefusedWhy::Duplicate } else { RefusedWhy::NonceUsed });
            }
            Standing::Unknown => {
                // made by an earlier process of this member: nobody's fault
                self.announce(leader, Announce::Unknown(id), rng, out);
                return Ok(());
            }
        }
        let asked = Asked::read(&self.group, id, payload, chosen)?;
        let Some(nonce) = self.vault.take(leader, nonce_id) else { return Ok(()) };
        let Some(t) = self.proposed_topic(id.topic, from) else {
            // closed: the nonce is spent all the same, the coordinator counts on as many as before
            self.announce(leader, Announce::Refill, rng, out);
            return Ok(());
        };
        t.asked.insert(leader, digest);
        if t.refused.contains(&asked.payload_hash) {
            self.decline(leader, &asked, rng, out);
        } else if t.approved.contains(&asked.payload_hash) {
            self.answer(leader, &asked, nonce, rng, out);
        } else {
            if t.waiting.values().all(|w| w.asked.payload_hash != asked.payload_hash) {
                let payload = asked.payload.clone();
                out.push(SignEffect::Review { topic: id.topic, leader: from, payload });
            }
            // an older request of this leader is dropped with its nonce
            t.waiting.insert(leader, Waiting { asked, nonce });
            self.announce(leader, Announce::Refill, rng, out);
        }
        Ok(())
    }

    /// Signs, and by that ends the nonce.
    fn answer(
        &mut self,
        leader: u16,
        asked: &Asked,
        nonce: Nonce,
        rng: &mut (impl RngCore + CryptoRng),
        out: &mut Effects,
    ) {
        let Some(share) = nonce.sign(&asked.package, &self.share) else { return };
        let (share, next) = (share.serialize(), self.offers_for(leader, rng));
        out.push(SignEffect::Broadcast(SignMessage::Share { id: asked.id, request: asked.digest, share, next }));
    }

    fn decline(&mut self, leader: u16, asked: &Asked, rng: &mut (impl RngCore + CryptoRng), out: &mut Effects) {
        let next = self.offers_for(leader, rng);
        out.push(SignEffect::Broadcast(SignMessage::Decline { id: asked.id, request: asked.digest, next }));
    }

    pub(super) fn approve(
        &mut self,
        topic: Digest,
        payload_hash: Digest,
        now_ms: u64,
        rng: &mut (impl RngCore + CryptoRng),
        out: &mut Effects,
    ) {
        // only Open makes a proposed topic the host's own
        if !self.topics.contains_key(&topic) && self.topic(topic).is_none() {
            return;
        }
        let Some(t) = self.topics.get_mut(&topic) else { return };
        t.refused.remove(&payload_hash);
        if t.approved.len() < MAX_PAYLOADS {
            t.approved.insert(payload_hash);
        }
        if !t.approved.contains(&payload_hash) {
            return;
        }
        for (leader, waiting) in self.waiting_for(topic, payload_hash) {
            self.answer(leader, &waiting.asked, waiting.nonce, rng, out);
        }
        self.advance(topic, now_ms, rng, out);
    }

    pub(super) fn refuse(
        &mut self,
        topic: Digest,
        payload_hash: Digest,
        rng: &mut (impl RngCore + CryptoRng),
        out: &mut Effects,
    ) {
        for (leader, waiting) in self.waiting_for(topic, payload_hash) {
            self.decline(leader, &waiting.asked, rng, out);
        }
        let Some(t) = self.topics.get_mut(&topic) else { return };
        t.approved.remove(&payload_hash);
        if t.refused.len() < MAX_PAYLOADS {
            t.refused.insert(payload_hash);
        }
    }

    fn waiting_for(&mut self, topic: Digest, payload_hash: Digest) -> Vec<(u16, Waiting)> {
        let Some(t) = self.topics.get_mut(&topic) else { return Vec::new() };
        let all = std::mem::take(&mut t.waiting).into_iter();
        let (due, later): (Vec<_>, Vec<_>) = all.partition(|(_, w)| w.asked.payload_hash == payload_hash);
        t.waiting = later.into_iter().collect();
        due
    }
}
