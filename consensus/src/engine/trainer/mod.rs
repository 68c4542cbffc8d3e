//! A trainer's decisions from a new head to a paid receipt (R1-R3, P3, P4), without a ledger.
//!
//! A lite node believes no single peer. Round, head and beacon follow from the last outcome and the
//! group key's signature over it; the dealt payment counts only when a threshold of members show the
//! same one and hold their shares; the verdict is again attested. What it does is driven by a record
//! per claim that is persisted before every step (P6): given the same record and the same answers it
//! goes on after any crash, and every step may be repeated without harm.

mod believe;
mod types;

pub use believe::{VerifiedRound, verify_model, verify_outcome};
pub use types::{ClaimRecord, Payment, Phase, TrainJob, TrainerConfig, TrainerEffect, TrainerInput};

use crate::epoch::EpochChain;
use crate::frost::{CommitteeKey, ReleaseShare, rebuild};
use crate::ids::{BlobRef, ClaimId, Digest, EscrowId, ModelId, NodeId, PaymentHash};
use crate::state::EscrowStatus;
use crate::tx::{self, Commit, Reveal, Tx};
use crate::wire::{ClaimView, ModelView};
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
    /// (amount, payer, hash, deal) as each member shows it.
    deals_seen: BTreeMap<ClaimId, BTreeMap<NodeId, Payment>>,
    shares: BTreeMap<EscrowId, Vec<ReleaseShare>>,
    shares_asked_ms: BTreeMap<EscrowId, u64>,
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
            deals_seen: BTreeMap::new(),
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
            TrainerInput::Claim { from, view } => self.on_claim(from, &view, &mut out),
            TrainerInput::Trained { model, round, delta, stated_gain_unat } => {
                self.on_trained(model, round, delta, stated_gain_unat, rng, &mut out);
            }
            TrainerInput::TrainFailed { model, round } => {
                if self.training == Some((model, round)) {
                    self.training = None;
                }
            }
            TrainerInput::InvoiceMade { claim, bolt11 } => {
                if let Some(r) = self.claims.get_mut(&claim).filter(|r| r.phase == Phase::Dealt) {
                    if let Some(p) = &mut r.payment {
                        p.bolt11 = Some(bolt11);
                    }
                    self.enter(claim, Phase::Invoiced, "", &mut out);
                }
            }
            TrainerInput::Held { payment_hash, amount_msat, claim_deadline_height } => {
                self.on_held(payment_hash, amount_msat, claim_deadline_height, &mut out);
            }
            TrainerInput::Received { payment_hash } => {
                if let Some(claim) = self.by_hash(payment_hash).filter(|r| r.phase == Phase::Claiming).map(|r| r.claim)
                {
                    self.enter(claim, Phase::Received, "", &mut out);
                }
            }
            TrainerInput::Share { escrow, share } => self.on_share(escrow, share, &mut out),
        }
        out
    }

    fn by_hash(&self, hash: PaymentHash) -> Option<&ClaimRecord> {
        self.claims.values().find(|r| r.payment.as_ref().is_some_and(|p| p.payment_hash == hash))
    }

    /// Moves a claim on: persist, report, then act at once.
    fn enter(&mut self, claim: ClaimId, phase: Phase, note: &str, out: &mut Vec<TrainerEffect>) {
        let Some(r) = self.claims.get_mut(&claim) else { return };
        r.phase = phase;
        out.push(TrainerEffect::Persist(Box::new(r.clone())));
        out.push(TrainerEffect::Report { claim, round: r.round, phase, note: note.into() });
        if phase.is_over() {
            self.deals_seen.remove(&claim);
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
        // Claims of earlier rounds that never reached the ledger, or never got a payment, are void.
        let stale: Vec<ClaimId> = self
            .claims
            .values()
            .filter(|r| r.model == model && r.round < verified.round && r.phase < Phase::Held)
            .map(|r| r.claim)
            .collect();
        for claim in stale {
            self.enter(claim, Phase::Void, "the round went on without a held payment", out);
        }
        self.rounds.insert(model, verified.clone());
        let funded = view.model.sponsors.iter().any(|s| {
            s.held_msat.saturating_add(s.paid_msat).saturating_add(s.fund.per_claim_msat) <= s.fund.budget_msat
        });
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
            payment: None,
        };
        self.claims.insert(claim, record);
        self.enter(claim, Phase::Committed, "", out);
    }

    fn on_claim(&mut self, from: NodeId, view: &ClaimView, out: &mut Vec<TrainerEffect>) {
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
        match r.phase {
            // P1: a threshold of members shows the same deal and holds good shares of it
            Phase::Committed if member && view.share_held => {
                let Some(e) = view.escrow.as_ref().filter(|e| e.payee == self.me && e.id == tx::claim_escrow(id))
                else {
                    return;
                };
                let payment = Payment {
                    escrow: e.id,
                    payer: e.payer,
                    amount_msat: e.amount_msat,
                    payment_hash: e.payment_hash,
                    epoch: e.epoch,
                    deal: e.deal.clone(),
                    bolt11: None,
                    claim_deadline_height: None,
                    preimage: None,
                };
                let seen = self.deals_seen.entry(id).or_default();
                seen.insert(from, payment.clone());
                let same = seen.values().filter(|p| **p == payment).count();
                if same >= threshold {
                    if let Some(r) = self.claims.get_mut(&id) {
                        r.payment = Some(payment);
                    }
                    self.enter(id, Phase::Dealt, "", out);
                }
            }
            Phase::Held => {
                // R3: visible on a member's ledger means no need to reveal again
                let Some(state) = &view.outcome else { return };
                let Some(outcome) = verify_outcome(&self.epochs, r.model, state).filter(|o| o.round == r.round) else {
                    return;
                };
                let judged = outcome.claims.iter().find(|c| c.claim == id).copied();
                match judged {
                    Some(c) if outcome.pays(&c) => {
                        if let Some(escrow) = r.payment.as_ref().map(|p| p.escrow) {
                            // every member's view says so; asking once per pause is enough
                            let asked = self.shares_asked_ms.get(&escrow);
                            if asked.is_none_or(|t| self.now_ms.saturating_sub(*t) >= self.config.retry_ms) {
                                self.shares_asked_ms.insert(escrow, self.now_ms);
                                let members = group.map(|g| g.members().to_vec()).unwrap_or_default();
                                out.push(TrainerEffect::AskShares(escrow, members));
                            }
                        }
                    }
                    Some(c) => {
                        let why = if outcome.adopted() {
                            format!("{:?}", c.verdict)
                        } else {
                            format!("{:?}, head not adopted", c.verdict)
                        };
                        self.enter(id, Phase::Failing, &why, out);
                    }
                    None => self.enter(id, Phase::Failing, "the round was judged without this claim", out),
                }
            }
            Phase::Received if member => {
                if view.escrow.as_ref().is_some_and(|e| matches!(e.status, EscrowStatus::Settled(_))) {
                    self.enter(id, Phase::Paid, "", out);
                }
            }
            Phase::Failing if member => {
                if view.escrow.as_ref().is_some_and(|e| e.status == EscrowStatus::Refunded) {
                    self.enter(id, Phase::Void, "refunded", out);
                }
            }
            _ => {}
        }
    }

    // P3
    fn on_held(&mut self, hash: PaymentHash, amount_msat: u64, deadline: u32, out: &mut Vec<TrainerEffect>) {
        let Some(r) = self.by_hash(hash) else {
            out.push(TrainerEffect::FailHtlc(hash)); // nothing of ours: do not keep the sender's money
            return;
        };
        let (claim, phase) = (r.claim, r.phase);
        let expected = r.payment.as_ref().map_or(0, |p| p.amount_msat);
        match phase {
            Phase::Dealt | Phase::Invoiced => {
                if amount_msat < expected {
                    self.enter(claim, Phase::Failing, "the payment is smaller than dealt", out);
                } else if deadline.saturating_sub(self.chain_height) < self.config.min_hold_blocks {
                    self.enter(claim, Phase::Failing, "the hold would end before the round can", out);
                } else {
                    if let Some(p) = self.claims.get_mut(&claim).and_then(|r| r.payment.as_mut()) {
                        p.claim_deadline_height = Some(deadline);
                    }
                    self.enter(claim, Phase::Held, "", out);
                }
            }
            Phase::Void | Phase::Failing => out.push(TrainerEffect::FailHtlc(hash)),
            _ => {} // told before
        }
    }

    // P4
    fn on_share(&mut self, escrow: EscrowId, share: ReleaseShare, out: &mut Vec<TrainerEffect>) {
        let Some(r) = self
            .claims
            .values()
            .find(|r| r.phase == Phase::Held && r.payment.as_ref().is_some_and(|p| p.escrow == escrow))
        else {
            return;
        };
        let Some(p) = r.payment.clone() else { return };
        let claim = r.claim;
        let Some(threshold) = self.epochs.group(p.epoch).map(CommitteeKey::threshold) else { return };
        let shares = self.shares.entry(escrow).or_default();
        // one good share a member, whoever sends it
        if p.deal.accepts(&share) && !shares.iter().any(|s| s.index == share.index) {
            shares.push(share);
        }
        if shares.len() < threshold {
            return;
        }
        if let Ok(preimage) = rebuild(&p.deal, p.payment_hash, shares) {
            self.shares.remove(&escrow);
            self.shares_asked_ms.remove(&escrow);
            if let Some(p) = self.claims.get_mut(&claim).and_then(|r| r.payment.as_mut()) {
                p.preimage = Some(preimage);
            }
            self.enter(claim, Phase::Claiming, "", out);
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
        if let Some(deadline) = r.payment.as_ref().and_then(|p| p.claim_deadline_height) {
            let near = self.chain_height.saturating_add(self.config.safety_blocks) >= deadline;
            if near && r.phase == Phase::Held {
                return self.enter(claim, Phase::Failing, "no verdict before the hold's deadline", out);
            }
            if r.phase == Phase::Failing && self.chain_height >= deadline {
                return self.enter(claim, Phase::Void, "the hold is over", out);
            }
        }
        let mut act = vec![TrainerEffect::AskClaim(claim)];
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
            (Phase::Dealt, Some(p)) => act.push(TrainerEffect::MakeInvoice {
                claim,
                payment_hash: p.payment_hash,
                amount_msat: p.amount_msat,
                hold_blocks: self.config.hold_blocks,
            }),
            (Phase::Invoiced, Some(Payment { payer, escrow, bolt11: Some(bolt11), .. })) => {
                act.push(TrainerEffect::SendInvoice { to: *payer, escrow: *escrow, bolt11: bolt11.clone() });
            }
            (Phase::Held, _) => act.push(TrainerEffect::Submit(Tx::Reveal(Reveal {
                claim,
                delta: r.delta,
                stated_gain_unat: r.stated_gain_unat,
                salt: r.salt,
            }))),
            (Phase::Claiming, Some(Payment { preimage: Some(preimage), payment_hash, amount_msat, .. })) => {
                act.push(TrainerEffect::ClaimHtlc {
                    payment_hash: *payment_hash,
                    preimage: *preimage,
                    amount_msat: *amount_msat,
                });
            }
            (Phase::Received, Some(Payment { preimage: Some(preimage), escrow, .. })) => {
                act.push(TrainerEffect::Submit(Tx::Settle(*escrow, *preimage)));
            }
            (Phase::Failing, Some(p)) => act.push(TrainerEffect::FailHtlc(p.payment_hash)),
            _ => return,
        }
        self.throttled(claim, out, |_| act);
    }
}
