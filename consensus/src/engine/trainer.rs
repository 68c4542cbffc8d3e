//! A trainer's decisions from a new head to a paid receipt (R1-R3, P3, P4), without a ledger.
//!
//! A lite node believes no single peer. Round, head and beacon follow from the last outcome and the
//! group key's signature over it; the dealt payment counts only when a threshold of members show the
//! same one and hold their shares; the verdict is again attested. What it does is driven by a record
//! per claim that is persisted before every step (P6): given the same record and the same answers it
//! goes on after any crash, and every step may be repeated without harm.

use crate::epoch::{EpochChain, HandoverLink};
use crate::frost::{CommitteeKey, Deal, ReleaseShare, rebuild};
use crate::ids::{Beacon, BlobRef, ClaimId, Digest, EscrowId, ModelId, NodeId, PaymentHash, Preimage};
use crate::manifest::Manifest;
use crate::outcome::{Attestation, Outcome, Statement, first_beacon};
use crate::record;
use crate::state::{EscrowStatus, OutcomeState};
use crate::tx::{self, Commit, Reveal, Tx};
use crate::wire::{ClaimView, ModelView};
use rand_core::{CryptoRng, RngCore};
use serde::Serialize;
use std::collections::BTreeMap;

/// Figures of a trainer.
#[derive(Clone, Copy, Debug)]
pub struct TrainerConfig {
    /// Blocks of the Bitcoin chain the hold must last at least, when the payment arrives (P3).
    pub min_hold_blocks: u32,
    /// Blocks asked for in the hold invoice.
    pub hold_blocks: u32,
    /// Fails a payment back when its deadline is this close and no preimage came.
    pub safety_blocks: u32,
    /// Pause before an unanswered step is repeated, ms.
    pub retry_ms: u64,
    /// Most claims with open payments at once; no new work is taken above (P8).
    pub max_open: usize,
}

impl Default for TrainerConfig {
    fn default() -> Self {
        Self { min_hold_blocks: 100, hold_blocks: 288, safety_blocks: 12, retry_ms: 700, max_open: 32 }
    }
}

/// Where a claim stands with its trainer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, bincode::Encode, bincode::Decode, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Committing; waiting for the sponsor's deal.
    Committed,
    /// A deal is confirmed by a threshold of members; the invoice is due.
    Dealt,
    /// The invoice is with the sponsor; waiting for the HTLC.
    Invoiced,
    /// The HTLC is held: the lock (P3). Revealing, then waiting for the verdict.
    Held,
    /// The preimage is known: claiming the HTLC.
    Claiming,
    /// Lightning says received: the receipt goes to the ledger.
    Received,
    /// Rejected or out of time: the HTLC goes back.
    Failing,
    /// Over: paid.
    Paid,
    /// Over: not paid.
    Void,
}

impl Phase {
    /// Whether nothing more is to be done.
    pub fn is_over(self) -> bool {
        matches!(self, Phase::Paid | Phase::Void)
    }
}

/// The payment of a claim as the trainer knows it.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Payment {
    /// Its escrow.
    pub escrow: EscrowId,
    /// Who pays.
    pub payer: NodeId,
    /// Amount, msat.
    pub amount_msat: u64,
    /// SHA-256 of the preimage.
    pub payment_hash: PaymentHash,
    /// Epoch of the committee that holds the shares.
    pub epoch: u64,
    /// The deal, to check and combine shares.
    pub deal: Deal,
    /// The hold invoice.
    pub bolt11: Option<String>,
    /// Bitcoin height at which the HTLC must be claimed.
    pub claim_deadline_height: Option<u32>,
    /// The preimage, once rebuilt.
    pub preimage: Option<Preimage>,
}

/// All a trainer must remember of a claim.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct ClaimRecord {
    /// The claim.
    pub claim: ClaimId,
    /// Model.
    pub model: ModelId,
    /// Round.
    pub round: u64,
    /// Head it was made against.
    pub parent: BlobRef,
    /// The delta, in the blob store before this record exists.
    pub delta: BlobRef,
    /// Stated gain, micro-nats.
    pub stated_gain_unat: i64,
    /// Salt of the commitment.
    pub salt: Digest,
    /// Where it stands.
    pub phase: Phase,
    /// Its payment.
    pub payment: Option<Payment>,
}
record!(ClaimRecord, b"clrc", 64 << 10);

/// A piece of training work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrainJob {
    /// Model.
    pub model: ModelId,
    /// Its manifest.
    pub manifest: Manifest,
    /// Round.
    pub round: u64,
    /// Head to start from.
    pub head: BlobRef,
    /// Beacon of the shard (S3).
    pub start: Beacon,
}

/// What happened.
#[derive(Debug)]
pub enum TrainerInput {
    /// Time passed.
    Tick {
        /// Clock, ms.
        now_ms: u64,
        /// Height of the Bitcoin chain.
        chain_height: u32,
    },
    /// A peer told of the keys of later epochs.
    Epochs(Vec<HandoverLink>),
    /// A peer told of a model.
    Model(Box<ModelView>),
    /// A peer told of one of our claims.
    Claim {
        /// The peer.
        from: NodeId,
        /// Its view.
        view: Box<ClaimView>,
    },
    /// Training finished; the delta is in the blob store.
    Trained {
        /// Model.
        model: ModelId,
        /// Round.
        round: u64,
        /// The delta.
        delta: BlobRef,
        /// Gain measured by the trainer itself, micro-nats of mean loss.
        stated_gain_unat: i64,
    },
    /// Training could not be done.
    TrainFailed {
        /// Model.
        model: ModelId,
        /// Round.
        round: u64,
    },
    /// The wallet made the invoice.
    InvoiceMade {
        /// Claim.
        claim: ClaimId,
        /// BOLT 11.
        bolt11: String,
    },
    /// The wallet sees an HTLC held for us.
    Held {
        /// Payment hash.
        payment_hash: PaymentHash,
        /// Amount, msat.
        amount_msat: u64,
        /// Bitcoin height at which it must be claimed.
        claim_deadline_height: u32,
    },
    /// The wallet says the payment is ours.
    Received {
        /// Payment hash.
        payment_hash: PaymentHash,
    },
    /// A member sent its share.
    Share {
        /// Escrow.
        escrow: EscrowId,
        /// The share.
        share: ReleaseShare,
    },
}

/// What to do, in order.
#[derive(Debug, PartialEq)]
pub enum TrainerEffect {
    /// Store the record, synced, before any later effect (P6).
    Persist(Box<ClaimRecord>),
    /// Fetch the head and train.
    Train(Box<TrainJob>),
    /// Put a transaction before the network.
    Submit(Tx),
    /// Ask for the signed keys of the epochs after this one.
    AskEpochs(u64),
    /// Ask the committee for a claim.
    AskClaim(ClaimId),
    /// Make a hold invoice (P3).
    MakeInvoice {
        /// Claim.
        claim: ClaimId,
        /// Hash dealt by the sponsor.
        payment_hash: PaymentHash,
        /// Amount, msat.
        amount_msat: u64,
        /// Blocks the hold must last.
        hold_blocks: u32,
    },
    /// Send the invoice to the payer.
    SendInvoice {
        /// Payer.
        to: NodeId,
        /// Escrow.
        escrow: EscrowId,
        /// BOLT 11.
        bolt11: String,
    },
    /// Ask the members of a committee for their shares of the preimage (P4).
    AskShares(EscrowId, Vec<NodeId>),
    /// Claim the held HTLC.
    ClaimHtlc {
        /// Payment hash.
        payment_hash: PaymentHash,
        /// Its preimage.
        preimage: Preimage,
        /// Amount, msat.
        amount_msat: u64,
    },
    /// Fail the held HTLC back.
    FailHtlc(PaymentHash),
    /// A claim changed phase or was judged, for people.
    Report {
        /// Claim.
        claim: ClaimId,
        /// Round.
        round: u64,
        /// New phase.
        phase: Phase,
        /// Why, if there is more to say.
        note: String,
    },
}

/// A head the group key vouches for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedRound {
    /// Round that is open on it.
    pub round: u64,
    /// Weights.
    pub head: BlobRef,
    /// Beacon of the round's shards.
    pub start: Beacon,
}

/// What of a peer's view of a model can be believed: everything that follows from manifest,
/// genesis and an attested outcome. `None` if anything does not fit.
pub fn verify_model(epochs: &EpochChain, model: ModelId, view: &ModelView) -> Option<VerifiedRound> {
    if view.model.manifest.id() != model || view.model.manifest.check().is_err() {
        return None;
    }
    match &view.last {
        None => Some(VerifiedRound {
            round: 1,
            head: view.model.manifest.initial_head,
            start: first_beacon(epochs.chain(), model),
        }),
        Some(last) => {
            let outcome = verify_outcome(epochs, model, last)?;
            Some(VerifiedRound {
                round: outcome.round.checked_add(1)?,
                head: outcome.new_head(),
                start: outcome.next_beacon(),
            })
        }
    }
}

/// The outcome, if the committee of its epoch attests it.
pub fn verify_outcome<'a>(epochs: &EpochChain, model: ModelId, state: &'a OutcomeState) -> Option<&'a Outcome> {
    let attestation = Attestation { chain: epochs.chain(), statement: Statement::Outcome(state.outcome.clone()) };
    let attested = epochs.group(state.epoch)?.verify(&crate::codec::encode(&attestation), &state.signature);
    (attested && state.outcome.model == model).then_some(&state.outcome)
}

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
