//! A trainer's decisions from a new head to a paid receipt (R1-R3, P3, P4), without a ledger.
//!
//! A lite node believes no single peer. Round, head and beacon follow from the last outcome and the
//! group key's signature over it; an offered or dealt payment counts only when a threshold of members show the
//! same one and, once dealt, hold their shares; the verdict is again attested. What it does is driven by a record
//! per claim that is persisted before every step (P6): given the same record and the same answers it
//! goes on after any crash, and every step may be repeated without harm.

mod believe;
mod paying;
mod types;

pub use believe::{VerifiedRound, verify_model, verify_outcome};
pub use types::{
    Choice, ClaimRecord, Part, PartEnd, Payment, Phase, TrainJob, TrainerConfig, TrainerEffect, TrainerInput,
};

use crate::codec;
use crate::epoch::EpochChain;
use crate::escrow::{EscrowState, Stage, TrancheStatus};
use crate::frost::{CommitteeKey, ReleaseShare};
use crate::ids::{BlobRef, ClaimId, Digest, EscrowId, ModelId, NodeId, PaymentHash};
use crate::tx::{self, Commit, Reveal, Tx};
use crate::wire::{ClaimView, ModelView};
use paying::words;
use rand_core::{CryptoRng, RngCore};
use std::collections::BTreeMap;

/// The engine of one trainer, for any number of models.
pub struct Trainer {
    me: NodeId,
    epochs: EpochChain,
    epochs_asked_ms: Option<u64>,
    config: TrainerConfig,
    now_ms: u64,
    chain_height: u32,
    claims: BTreeMap<ClaimId, ClaimRecord>,
    acted_ms: BTreeMap<ClaimId, u64>,
    /// Hash of the offer or deal that each member shows.
    seen: BTreeMap<ClaimId, BTreeMap<NodeId, Digest>>,
    shares: BTreeMap<(EscrowId, u8), Vec<ReleaseShare>>,
    shares_asked_ms: BTreeMap<EscrowId, BTreeMap<NodeId, u64>>,
    rounds: BTreeMap<ModelId, VerifiedRound>,
    training: Option<(ModelId, u64)>,
    tried: BTreeMap<ModelId, u64>,
}

/// Models one trainer follows at most.
const MAX_FOLLOWED: usize = 64;

impl Trainer {
    /// A trainer with the records it had before.
    pub fn new(me: NodeId, epochs: EpochChain, config: TrainerConfig, records: Vec<ClaimRecord>) -> Self {
        Self {
            me,
            epochs,
            epochs_asked_ms: None,
            config,
            now_ms: 0,
            chain_height: 0,
            claims: records.into_iter().map(|r| (r.claim, r)).collect(),
            acted_ms: BTreeMap::new(),
            seen: BTreeMap::new(),
            shares: BTreeMap::new(),
            shares_asked_ms: BTreeMap::new(),
            rounds: BTreeMap::new(),
            training: None,
            tried: BTreeMap::new(),
        }
    }

    /// Records of all claims, open and over.
    pub fn claims(&self) -> impl Iterator<Item = &ClaimRecord> {
        self.claims.values()
    }

    /// The claim paid from that escrow, if it is this trainer's and not over.
    pub fn open_claim(&self, escrow: EscrowId) -> Option<ClaimId> {
        let paid_from_it = |r: &&ClaimRecord| !r.phase.is_over() && tx::claim_escrow(r.claim) == escrow;
        self.claims.values().find(paid_from_it).map(|r| r.claim)
    }

    /// The committees' keys as far as this trainer has verified them.
    pub fn epochs(&self) -> &EpochChain {
        &self.epochs
    }

    /// Asks for keys of epochs this trainer does not know yet, if a peer's view needs them.
    fn need_epoch(&mut self, epoch: u64, out: &mut Vec<TrainerEffect>) {
        let asked = self.epochs_asked_ms;
        if epoch > self.epochs.epoch() && asked.is_none_or(|t| self.now_ms.saturating_sub(t) >= self.config.retry_ms) {
            self.epochs_asked_ms = Some(self.now_ms);
            out.push(TrainerEffect::AskEpochs(self.epochs.epoch()));
        }
    }

    /// Handles one input.
    pub fn handle(&mut self, input: TrainerInput, rng: &mut (impl RngCore + CryptoRng)) -> Vec<TrainerEffect> {
        let mut out = Vec::new();
        match input {
            TrainerInput::Tick { now_ms, chain_height } => {
                self.now_ms = self.now_ms.max(now_ms);
                self.chain_height = self.chain_height.max(chain_height);
                let due: Vec<ClaimId> = self.claims.values().filter(|r| !r.phase.is_over()).map(|r| r.claim).collect();
                for claim in due {
                    self.step(claim, false, &mut out);
                }
            }
            TrainerInput::Epochs(links) => {
                // a forged or unfitting link ends the list; what was verified before it stays
                for link in links.into_iter().filter(|l| l.handover.epoch > self.epochs.epoch()).collect::<Vec<_>>() {
                    if self.epochs.advance(link).is_err() {
                        break;
                    }
                }
            }
            TrainerInput::Model(view) => self.on_model(*view, &mut out),
            TrainerInput::Claim { from, view } => self.on_claim(from, &view, rng, &mut out),
            TrainerInput::Trained { model, round, delta, stated_gain_unat } => {
                self.on_trained(model, round, delta, stated_gain_unat, rng, &mut out);
            }
            TrainerInput::TrainFailed { model, round } => {
                if self.training == Some((model, round)) {
                    self.training = None;
                }
            }
            TrainerInput::InvoiceMade { claim, tranche, bolt11 } => self.on_invoice(claim, tranche, bolt11, &mut out),
            TrainerInput::Held { payment_hash, amount_msat, claim_deadline_height } => {
                self.on_held(payment_hash, amount_msat, claim_deadline_height, &mut out);
            }
            TrainerInput::Received { payment_hash } => self.on_received(payment_hash, &mut out),
            TrainerInput::Shares { escrow, shares } => self.on_shares(escrow, shares, &mut out),
        }
        out
    }

    fn by_hash(&self, hash: PaymentHash) -> Option<&ClaimRecord> {
        let has = |p: &Payment| p.parts.iter().any(|part| part.payment_hash == hash);
        self.claims.values().find(|r| r.payment.as_ref().is_some_and(has))
    }

    /// The part of a claim's payment with this hash.
    fn part_mut(&mut self, claim: ClaimId, hash: PaymentHash) -> Option<&mut Part> {
        let payment = self.claims.get_mut(&claim)?.payment.as_mut()?;
        payment.parts.iter_mut().find(|p| p.payment_hash == hash)
    }

    fn persist(&self, claim: ClaimId, out: &mut Vec<TrainerEffect>) {
        if let Some(r) = self.claims.get(&claim) {
            out.push(TrainerEffect::Persist(Box::new(r.clone())));
        }
    }

    /// How many members show the same as this one, now that it has shown it.
    fn same_seen(&mut self, claim: ClaimId, from: NodeId, shown: Digest) -> usize {
        let seen = self.seen.entry(claim).or_default();
        seen.insert(from, shown);
        seen.values().filter(|s| **s == shown).count()
    }

    /// Moves a claim on: persist, report, then act at once.
    fn enter(&mut self, claim: ClaimId, phase: Phase, note: &str, out: &mut Vec<TrainerEffect>) {
        let Some(r) = self.claims.get_mut(&claim) else { return };
        r.phase = phase;
        out.push(TrainerEffect::Persist(Box::new(r.clone())));
        out.push(TrainerEffect::Report { claim, round: r.round, phase, note: note.into() });
        self.seen.remove(&claim);
        if phase.is_over() {
            self.acted_ms.remove(&claim);
        }
        self.step(claim, true, out);
    }

    fn on_model(&mut self, view: ModelView, out: &mut Vec<TrainerEffect>) {
        let model = view.model.manifest.id();
        if let Some(last) = &view.last {
            self.need_epoch(last.epoch, out);
        }
        let Some(verified) = verify_model(&self.epochs, model, &view) else { return };
        if self.rounds.get(&model).is_some_and(|known| known.round > verified.round) {
            return; // an old view
        }
        if self.rounds.len() >= MAX_FOLLOWED && !self.rounds.contains_key(&model) {
            return;
        }
        // Claims of earlier rounds that never reached the ledger, or never got a payment, are void; of a payment
        // that came in part, that part goes back first (P3).
        let stale = |r: &&ClaimRecord| r.model == model && r.round < verified.round && r.phase < Phase::Held;
        let held_in_part = |r: &ClaimRecord| r.payment.as_ref().is_some_and(|p| p.deadline().is_some());
        let stale: Vec<(ClaimId, bool)> =
            self.claims.values().filter(stale).map(|r| (r.claim, held_in_part(r))).collect();
        for (claim, held) in stale {
            let phase = if held { Phase::Failing } else { Phase::Void };
            self.enter(claim, phase, "the round went on without a held payment", out);
        }
        self.rounds.insert(model, verified.clone());
        let funded = view.model.sponsors.iter().any(|s| s.covers_another());
        let open = self.claims.values().filter(|r| !r.phase.is_over()).count();
        let done = self.tried.get(&model).is_some_and(|r| *r >= verified.round)
            || self.claims.contains_key(&tx::claim_id(model, verified.round, self.me));
        if funded && !done && self.training.is_none() && open < self.config.max_open {
            self.training = Some((model, verified.round));
            out.push(TrainerEffect::Train(Box::new(TrainJob {
                model,
                manifest: view.model.manifest,
                round: verified.round,
                head: verified.head,
                start: verified.start,
            })));
        }
    }

    // R1
    fn on_trained(
        &mut self,
        model: ModelId,
        round: u64,
        delta: BlobRef,
        stated_gain_unat: i64,
        rng: &mut (impl RngCore + CryptoRng),
        out: &mut Vec<TrainerEffect>,
    ) {
        if self.training == Some((model, round)) {
            self.training = None;
        }
        self.tried.insert(model, round);
        let claim = tx::claim_id(model, round, self.me);
        let Some(verified) = self.rounds.get(&model).filter(|v| v.round == round) else { return };
        if self.claims.contains_key(&claim) {
            return;
        }
        let mut salt = Digest([0; 32]);
        rng.fill_bytes(&mut salt.0);
        let record = ClaimRecord {
            claim,
            model,
            round,
            parent: verified.head,
            delta,
            stated_gain_unat,
            salt,
            phase: Phase::Committed,
            choice: None,
            payment: None,
        };
        self.claims.insert(claim, record);
        self.enter(claim, Phase::Committed, "", out);
    }

    fn on_claim(
        &mut self,
        from: NodeId,
        view: &ClaimView,
        rng: &mut (impl RngCore + CryptoRng),
        out: &mut Vec<TrainerEffect>,
    ) {
        let id = view.claim.id;
        if !self.claims.contains_key(&id) {
            return;
        }
        for epoch in view.escrow.iter().map(|e| e.epoch).chain(view.outcome.iter().map(|o| o.epoch)) {
            self.need_epoch(epoch, out);
        }
        let Some(r) = self.claims.get(&id) else { return };
        let dealt = r.payment.as_ref().map(|p| p.epoch).or(view.escrow.as_ref().map(|e| e.epoch));
        let group = dealt.and_then(|e| self.epochs.group(e));
        let member = group.is_some_and(|g| g.members().contains(&from));
        let threshold = group.map_or(usize::MAX, CommitteeKey::threshold);
        let mine = |e: &&EscrowState| e.payee == self.me && e.id == tx::claim_escrow(id);
        let escrow = view.escrow.as_ref().filter(mine).filter(|_| member);
        match (r.phase, escrow) {
            // P2: a threshold of members shows the same offer; only then may the draw be known
            (Phase::Committed, Some(e)) if e.stage == Stage::Offered => {
                let offer = offer_digest(e);
                if self.same_seen(id, from, offer) >= threshold {
                    let mut seed = Digest([0; 32]);
                    rng.fill_bytes(&mut seed.0);
                    if let Some(r) = self.claims.get_mut(&id) {
                        r.choice = Some(Choice { offer, seed });
                    }
                    self.enter(id, Phase::Chosen, "", out);
                }
            }
            // P1: a threshold of members shows the same deal and holds good shares of it
            (Phase::Chosen, Some(e)) if e.stage == Stage::Dealt && view.share_held => {
                let fits = |c: Choice| Some(c.seed) == e.choice && c.offer == offer_digest(e);
                if !r.choice.is_some_and(fits) {
                    return;
                }
                let deal = Digest(codec::hash(e));
                if self.same_seen(id, from, deal) >= threshold {
                    if let Some(r) = self.claims.get_mut(&id) {
                        r.payment = Some(payment_of(e));
                    }
                    self.enter(id, Phase::Dealt, "", out);
                }
            }
            // R3: visible on a member's ledger means no need to reveal again
            (Phase::Held, _) => self.on_verdict(id, view, member.then_some(from), out),
            (Phase::Received, Some(e)) => {
                let released = e.with(|s| *s == TrancheStatus::Releasing);
                if e.stage == Stage::Judged && released.is_empty() {
                    self.enter(id, Phase::Paid, "", out);
                }
            }
            (Phase::Failing, Some(e)) if e.is_over() => self.enter(id, Phase::Void, "refunded", out),
            _ => {}
        }
    }

    fn throttled(
        &mut self,
        claim: ClaimId,
        out: &mut Vec<TrainerEffect>,
        act: impl FnOnce(&Self) -> Vec<TrainerEffect>,
    ) {
        let last = self.acted_ms.get(&claim).copied();
        if last.is_none_or(|t| self.now_ms.saturating_sub(t) >= self.config.retry_ms) {
            out.extend(act(self));
            self.acted_ms.insert(claim, self.now_ms);
        }
    }

    /// Does, or repeats, what the claim's phase calls for. Every action may be repeated.
    fn step(&mut self, claim: ClaimId, at_once: bool, out: &mut Vec<TrainerEffect>) {
        if at_once {
            self.acted_ms.remove(&claim);
        }
        let Some(r) = self.claims.get(&claim).cloned() else { return };
        // Own clock (P3): never let LDK's deadline decide while we still wait.
        if let Some(deadline) = r.payment.as_ref().and_then(Payment::deadline) {
            let near = self.chain_height.saturating_add(self.config.safety_blocks) >= deadline;
            if near && r.phase == Phase::Held {
                return self.enter(claim, Phase::Failing, "no verdict before the hold's deadline", out);
            }
            let gone = self.chain_height >= deadline.saturating_add(self.config.safety_blocks);
            if self.chain_height >= deadline {
                match r.phase {
                    Phase::Failing if r.payment.as_ref().is_none_or(|p| words(p).is_empty()) => {
                        return self.enter(claim, Phase::Void, "the hold is over", out);
                    }
                    // Lightning says received as soon as it has the preimage: by now the hold is lost
                    Phase::Claiming if gone => {
                        let payment = self.claims.get_mut(&claim).and_then(|r| r.payment.as_mut());
                        let parts = payment.into_iter().flat_map(|p| p.parts.iter_mut());
                        parts.filter(|p| matches!(p.end, PartEnd::Earned(_))).for_each(|p| p.end = PartEnd::Expired);
                        return self.claimed(claim, out);
                    }
                    _ => {}
                }
            }
        }
        let mut act = vec![TrainerEffect::AskClaim(claim)];
        if let Some(p) =
            r.payment.as_ref().filter(|_| matches!(r.phase, Phase::Claiming | Phase::Received | Phase::Failing))
        {
            act.extend(words(p));
        }
        let parts = || r.payment.iter().flat_map(|p| p.parts.iter().enumerate());
        let number = |i: usize| u8::try_from(i).unwrap_or(u8::MAX);
        match (r.phase, &r.payment) {
            (Phase::Committed, _) => {
                let commitment =
                    tx::commitment(self.me, r.model, r.round, r.parent.hash, r.delta, r.stated_gain_unat, r.salt);
                act.push(TrainerEffect::Submit(Tx::Commit(Commit {
                    model: r.model,
                    round: r.round,
                    parent: r.parent.hash,
                    commitment,
                })));
            }
            (Phase::Chosen, _) => {
                let choose = r.choice.map(|c| Tx::Choose(tx::claim_escrow(claim), c.seed));
                act.extend(choose.map(TrainerEffect::Submit));
            }
            (Phase::Dealt, Some(_)) => {
                act.extend(parts().filter(|(_, p)| p.bolt11.is_none()).map(|(i, p)| TrainerEffect::MakeInvoice {
                    claim,
                    tranche: number(i),
                    payment_hash: p.payment_hash,
                    amount_msat: p.amount_msat,
                    hold_blocks: self.config.hold_blocks,
                }));
            }
            (Phase::Invoiced, Some(payment)) => {
                let (to, escrow) = (payment.payer, payment.escrow);
                act.extend(parts().filter(|(_, p)| p.claim_deadline_height.is_none()).filter_map(|(i, p)| {
                    let (tranche, bolt11) = (number(i), p.bolt11.clone()?);
                    Some(TrainerEffect::SendInvoice { to, escrow, tranche, bolt11 })
                }));
            }
            (Phase::Held, _) => act.push(TrainerEffect::Submit(Tx::Reveal(Reveal {
                claim,
                delta: r.delta,
                stated_gain_unat: r.stated_gain_unat,
                salt: r.salt,
            }))),
            (Phase::Claiming, Some(payment)) => {
                act.extend(parts().filter_map(|(_, p)| match p.end {
                    PartEnd::Earned(preimage) => Some(TrainerEffect::ClaimHtlc {
                        payment_hash: p.payment_hash,
                        preimage,
                        amount_msat: p.amount_msat,
                    }),
                    _ => None,
                }));
                act.extend(payment.given_back().map(TrainerEffect::FailHtlc));
            }
            // again, for a crash may have come between the claims and this
            (Phase::Received, Some(payment)) => act.extend(payment.given_back().map(TrainerEffect::FailHtlc)),
            (Phase::Failing, Some(_)) => act.extend(parts().map(|(_, p)| TrainerEffect::FailHtlc(p.payment_hash))),
            _ => return,
        }
        self.throttled(claim, out, |_| act);
    }
}

/// Terms, payer, epoch and candidates: what the draw is for.
fn offer_digest(e: &EscrowState) -> Digest {
    let (choice, tranches, stage, changed_height) = (None, Vec::new(), Stage::Offered, 0);
    Digest(codec::hash(&EscrowState { choice, tranches, stage, changed_height, ..e.clone() }))
}

fn payment_of(e: &EscrowState) -> Payment {
    let part = |t: &crate::escrow::Tranche| Part {
        amount_msat: t.amount_msat,
        payment_hash: t.payment_hash,
        deal: t.deal.clone(),
        bolt11: None,
        claim_deadline_height: None,
        end: PartEnd::Open,
    };
    let parts = e.tranches.iter().map(part).collect();
    Payment { escrow: e.id, payer: e.payer, terms: e.terms, epoch: e.epoch, parts, earned: None }
}
