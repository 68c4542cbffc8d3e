//! A sponsor's decisions (R2, P1-P6): offer payment for every claim on its models, deal the preimages after the
//! trainer's draw, pay each hold invoice once, and book the end of each payment.
//!
//! The sponsor knows every preimage it deals, and may: it is the payer, so knowing it early can only
//! pay the trainer. Its seeds are on disk before the offer is public, so that a restarted sponsor neither
//! offers a claim twice nor pays an invoice it does not remember.
//!
//! A sponsor may ask a fee for each submission (P8). Then it makes offers only for the claims that whoever collects
//! the fees has let in: without an offer there is no lock, without a lock nothing is revealed or judged. So flooding a
//! model with worthless claims costs money before it costs anyone work.

use crate::escrow::{Committee, EscrowState, Offer, Opening, Seeds, Stage, Terms, TrancheSet, TrancheStatus, kept};
use crate::ids::{ClaimId, Digest, EscrowId, NodeId, PaymentHash, Preimage};
use crate::record;
use crate::state::{ClaimState, State};
use crate::tx::{Tx, claim_escrow};
use rand_core::{CryptoRng, RngCore};
use std::collections::{BTreeMap, BTreeSet};

/// Most claims whose fee is paid and that wait for their offer.
const MAX_ADMITTED: usize = 1 << 16;

/// Where the payment of a tranche stands with its payer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum PayPhase {
    /// Dealt; no invoice paid yet.
    Dealt,
    /// Handed to Lightning.
    Paying,
    /// Lightning says settled; the preimage is the receipt.
    Sent,
    /// Lightning says failed: the money is back.
    Failed,
    /// Booked on the ledger.
    Closed,
}

/// The payment of one tranche.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct PartRecord {
    /// Amount, msat.
    pub amount_msat: u64,
    /// SHA-256 of the preimage.
    pub payment_hash: PaymentHash,
    /// The preimage.
    pub preimage: Preimage,
    /// Invoice being paid.
    pub bolt11: Option<String>,
    /// Routing fee, msat, once sent.
    pub fee_msat: u64,
    /// Where it stands.
    pub phase: PayPhase,
}

/// All a sponsor must remember of an escrow.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct PayRecord {
    /// Escrow.
    pub escrow: EscrowId,
    /// Claim.
    pub claim: ClaimId,
    /// Who is paid.
    pub payee: NodeId,
    /// What it offered.
    pub terms: Terms,
    /// Epoch of the committee the shares are for.
    pub epoch: u64,
    /// Seeds of the candidates (P2).
    pub seeds: Seeds,
    /// Payments, largest first, once the payee has drawn.
    pub parts: Vec<PartRecord>,
    /// Nothing more is to come.
    pub over: bool,
}
record!(PayRecord, b"pyrc", 64 << 10);

/// A submission fee that was paid, and for which claim (P8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct FeeRecord {
    /// Id of the token that the payment bought.
    pub token: Digest,
    /// The claim it was used for; it is good for no other.
    pub claim: ClaimId,
    /// Until when this is remembered, s since the Unix epoch.
    pub keep_until_s: u64,
}
record!(FeeRecord, b"feer", 128);

/// Why no fee is taken for a claim: it would buy nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoFee {
    /// No such claim.
    #[error("the claim is not on the ledger yet: ask again when its commitment is")]
    Unknown,
    /// Somebody else's model.
    #[error("this sponsor does not fund the claim's model")]
    NotFunded,
    /// Too late.
    #[error("the claim's round is over")]
    Over,
    /// It has what the fee would buy.
    #[error("the claim has an offer")]
    Offered,
    /// No money left.
    #[error("the sponsor's budget does not cover another claim")]
    BudgetUsedUp,
}

/// Whether a sponsor may take a fee for a claim: only if it would offer payment for it now, besides all those in
/// `admitted` that still wait.
///
/// # Errors
/// Why not.
pub fn may_charge(
    state: &State,
    sponsor: NodeId,
    claim: ClaimId,
    admitted: impl Fn(ClaimId) -> bool,
) -> Result<(), NoFee> {
    let c = state.claim(claim).ok_or(NoFee::Unknown)?;
    let model = state.model(c.model).ok_or(NoFee::Unknown)?;
    let mine = model.sponsors.iter().find(|s| s.sponsor == sponsor && s.frauds == 0).ok_or(NoFee::NotFunded)?;
    let round = model.round.as_ref().filter(|r| r.number == c.round && r.sealed.is_none()).ok_or(NoFee::Over)?;
    if round.reveals_close(&model.manifest.timing).is_some_and(|close| state.tip().height >= close) {
        return Err(NoFee::Over);
    }
    if c.escrow.is_some() {
        return Err(NoFee::Offered);
    }
    let unpaid = |id: &&ClaimId| state.claim(**id).is_some_and(|c| c.escrow.is_none());
    let waiting = round.claims.iter().filter(|id| **id != claim && admitted(**id)).filter(unpaid).count();
    if mine.covers() <= waiting { Err(NoFee::BudgetUsedUp) } else { Ok(()) }
}

/// What happened.
#[derive(Debug)]
pub enum SponsorInput {
    /// A block was applied (or the node has just started).
    StateChanged,
    /// A trainer sent its invoice for a tranche.
    Invoice {
        /// Who sent it.
        from: NodeId,
        /// Escrow.
        escrow: EscrowId,
        /// Tranche.
        tranche: u8,
        /// BOLT 11.
        bolt11: String,
    },
    /// Lightning settled a payment.
    Sent {
        /// Payment hash.
        payment_hash: PaymentHash,
        /// Routing fee, msat.
        fee_msat: u64,
    },
    /// Lightning failed a payment: refunded.
    SendFailed {
        /// Payment hash.
        payment_hash: PaymentHash,
    },
    /// The wallet could not even start the payment (no channel yet, say): it may be tried again.
    NotStarted {
        /// Payment hash.
        payment_hash: PaymentHash,
    },
}

/// What to do, in order.
#[derive(Debug, PartialEq)]
pub enum SponsorEffect {
    /// Store the record, synced, before any later effect (P6).
    Persist(Box<PayRecord>),
    /// Put a transaction on the ledger.
    Submit(Tx),
    /// Pay a hold invoice, if it is for exactly this hash and amount.
    Pay {
        /// BOLT 11.
        bolt11: String,
        /// Hash it must carry.
        payment_hash: PaymentHash,
        /// Amount it must ask, msat.
        amount_msat: u64,
    },
    /// Answer to an invoice that is not taken.
    RefuseInvoice(&'static str),
}

/// The engine of one sponsor.
pub struct Sponsor {
    me: NodeId,
    records: BTreeMap<EscrowId, PayRecord>,
    /// Claims whose fee is paid; none if no fee is asked.
    admitted: Option<BTreeSet<ClaimId>>,
    /// Offers made and not seen on the ledger yet: making one costs some milliseconds, saying it again does not.
    offers: BTreeMap<EscrowId, Offer>,
}

impl Sponsor {
    /// A sponsor with the records it had before.
    pub fn new(me: NodeId, records: Vec<PayRecord>) -> Self {
        Self {
            me,
            records: records.into_iter().map(|r| (r.escrow, r)).collect(),
            admitted: None,
            offers: BTreeMap::new(),
        }
    }

    /// The same sponsor asking a fee (P8), which is paid for these claims already.
    #[must_use]
    pub fn asking_fee(mut self, admitted: impl IntoIterator<Item = ClaimId>) -> Self {
        self.admitted = Some(admitted.into_iter().take(MAX_ADMITTED).collect());
        self
    }

    /// The fee of a claim is paid, durably noted by the caller: from the next [`SponsorInput::StateChanged`] on it is
    /// offered payment. Without a fee nothing changes.
    pub fn admit(&mut self, claim: ClaimId) {
        if let Some(admitted) = self.admitted.as_mut().filter(|a| a.len() < MAX_ADMITTED) {
            admitted.insert(claim);
        }
    }

    /// All escrows ever offered.
    pub fn records(&self) -> impl Iterator<Item = &PayRecord> {
        self.records.values()
    }

    /// What is remembered of one.
    pub fn record(&self, escrow: EscrowId) -> Option<&PayRecord> {
        self.records.get(&escrow)
    }

    /// Handles one input against the current ledger state.
    pub fn handle(
        &mut self,
        state: &State,
        input: SponsorInput,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Vec<SponsorEffect> {
        let mut out = Vec::new();
        match input {
            SponsorInput::StateChanged => {
                self.offer_for_claims(state, rng, &mut out);
                self.go_on(state, &mut out);
            }
            SponsorInput::Invoice { from, escrow, tranche, bolt11 } => {
                self.on_invoice(state, from, escrow, tranche, bolt11, &mut out);
            }
            SponsorInput::Sent { payment_hash, fee_msat } => {
                self.set(payment_hash, PayPhase::Sent, Some(fee_msat), &mut out);
                self.go_on(state, &mut out);
            }
            SponsorInput::SendFailed { payment_hash } => {
                self.set(payment_hash, PayPhase::Failed, None, &mut out);
                self.go_on(state, &mut out);
            }
            SponsorInput::NotStarted { payment_hash } => {
                // says nothing about a payment that is over: only one under way can turn out not to be
                let parts = || self.records.values().flat_map(|r| &r.parts);
                if parts().any(|p| p.payment_hash == payment_hash && p.phase == PayPhase::Paying) {
                    self.set(payment_hash, PayPhase::Dealt, None, &mut out);
                }
            }
        }
        out
    }

    fn set(&mut self, hash: PaymentHash, phase: PayPhase, fee_msat: Option<u64>, out: &mut Vec<SponsorEffect>) {
        // settled is final: no later report takes it back
        let open = |p: &PartRecord| {
            p.payment_hash == hash && p.phase != phase && !matches!(p.phase, PayPhase::Sent | PayPhase::Closed)
        };
        for r in self.records.values_mut() {
            let Some(p) = r.parts.iter_mut().find(|p| open(p)) else { continue };
            p.phase = phase;
            p.fee_msat = fee_msat.unwrap_or(p.fee_msat);
            return out.push(SponsorEffect::Persist(Box::new(r.clone())));
        }
    }

    // R2, P2
    fn offer_for_claims(&mut self, state: &State, rng: &mut (impl RngCore + CryptoRng), out: &mut Vec<SponsorEffect>) {
        if let Some(admitted) = &mut self.admitted {
            // a claim that has its offer, or that was judged without one, needs its admission no more
            let waits = |c: &ClaimState| c.escrow.is_none() && c.judged.is_none();
            admitted.retain(|claim| state.claim(*claim).is_none_or(waits));
        }
        let admitted = |claim: ClaimId| self.admitted.as_ref().is_none_or(|a| a.contains(&claim));
        let wanted: Vec<(ClaimId, NodeId, Terms)> = state
            .models()
            .filter_map(|(_, m)| Some((m, m.sponsors.iter().find(|s| s.sponsor == self.me && s.frauds == 0)?)))
            .flat_map(|(m, s)| {
                let claims = m.round.iter().filter(|r| r.sealed.is_none()).flat_map(|r| r.claims.iter());
                let unpaid = claims.filter_map(|c| state.claim(*c)).filter(|c| c.escrow.is_none() && admitted(c.id));
                unpaid.take(s.covers()).map(|c| (c.id, c.trainer, s.fund.terms)).collect::<Vec<_>>()
            })
            .collect();
        let waiting: BTreeSet<EscrowId> = wanted.iter().map(|(claim, ..)| claim_escrow(*claim)).collect();
        self.offers.retain(|escrow, _| waiting.contains(escrow));
        for (claim, payee, terms) in wanted {
            let escrow = claim_escrow(claim);
            let now = state.current();
            // An offer to a committee that is gone, or on other terms, can no longer enter the ledger: offer anew.
            let fresh = |r: &PayRecord| r.epoch.saturating_add(1) >= now.number && r.terms == terms;
            if !self.records.get(&escrow).is_some_and(fresh) {
                let seeds = Seeds::draw(terms.tranches, rng);
                let epoch = now.number;
                let record = PayRecord { escrow, claim, payee, terms, epoch, seeds, parts: Vec::new(), over: false };
                out.push(SponsorEffect::Persist(Box::new(record.clone())));
                self.records.insert(escrow, record);
                self.offers.remove(&escrow);
            }
            // repeated every block until it is on the ledger: the transaction is the same each time
            let Some(r) = self.records.get(&escrow) else { continue };
            let made = || with_committee(state, r, |committee| r.seeds.offer(r.terms, r.epoch, committee).ok());
            let Some(offer) = self.offers.get(&escrow).cloned().or_else(made) else { continue };
            self.offers.insert(escrow, offer.clone());
            out.push(SponsorEffect::Submit(Tx::Offer(claim, offer)));
        }
    }

    /// Deals what the payee has drawn, and books the ends of payments.
    fn go_on(&mut self, state: &State, out: &mut Vec<SponsorEffect>) {
        for r in self.records.values_mut().filter(|r| !r.over) {
            let Some(e) = state.escrow(r.escrow).filter(|e| e.payer == self.me) else { continue };
            match e.stage {
                Stage::Chosen => {
                    let opening = with_committee(state, r, |committee| opening_of(r, e, committee));
                    let Some((parts, opening)) = opening else { continue };
                    if r.parts.is_empty() {
                        r.parts = parts;
                        out.push(SponsorEffect::Persist(Box::new(r.clone())));
                    }
                    out.push(SponsorEffect::Submit(Tx::Deal(r.escrow, opening)));
                }
                Stage::Judged => close(r, e, e.has_lapsed(state.tip().time_ms), out),
                Stage::Withdrawn => {
                    r.parts.iter_mut().for_each(|p| p.phase = PayPhase::Closed);
                    r.over = true;
                    out.push(SponsorEffect::Persist(Box::new(r.clone())));
                }
                Stage::Offered | Stage::Dealt => {}
            }
        }
    }

    // P3, P6
    fn on_invoice(
        &mut self,
        state: &State,
        from: NodeId,
        escrow: EscrowId,
        tranche: u8,
        bolt11: String,
        out: &mut Vec<SponsorEffect>,
    ) {
        let refuse = |why| SponsorEffect::RefuseInvoice(why);
        let Some(r) = self.records.get_mut(&escrow) else {
            return out.push(refuse("no payment of mine has this escrow"));
        };
        if r.payee != from {
            return out.push(refuse("the escrow is another trainer's"));
        }
        let dealt = state.escrow(escrow).filter(|e| e.stage == Stage::Dealt);
        let hash = dealt.and_then(|e| e.tranches.get(usize::from(tranche))).map(|t| t.payment_hash);
        let part = r.parts.get_mut(usize::from(tranche)).filter(|p| Some(p.payment_hash) == hash);
        let Some(p) = part else { return out.push(refuse("the tranche is not open on the ledger")) };
        match p.phase {
            PayPhase::Dealt | PayPhase::Failed => {
                p.phase = PayPhase::Paying;
                p.bolt11 = Some(bolt11.clone());
                let (payment_hash, amount_msat) = (p.payment_hash, p.amount_msat);
                out.push(SponsorEffect::Persist(Box::new(r.clone())));
                out.push(SponsorEffect::Pay { bolt11, payment_hash, amount_msat });
            }
            PayPhase::Paying => {} // under way; the answer is the HTLC itself
            PayPhase::Sent | PayPhase::Closed => out.push(refuse("this payment is over")),
        }
    }
}

fn with_committee<T>(state: &State, r: &PayRecord, make: impl FnOnce(Committee<'_>) -> Option<T>) -> Option<T> {
    let group = &state.epoch_state(r.epoch)?.group;
    let members = state.encryption_keys(group.members())?;
    make(Committee { escrow: r.escrow, members: &members, threshold: group.threshold() })
}

/// The payments the payee has drawn, and what is to be shown; `None` if the ledger holds another offer than ours.
fn opening_of(r: &PayRecord, e: &EscrowState, committee: Committee<'_>) -> Option<(Vec<PartRecord>, Opening)> {
    let choice = e.choice?;
    let (preimages, opening) = r.seeds.open(choice, r.terms.tranches, committee).ok()?;
    let places = kept(choice, r.escrow, r.terms.tranches).into_iter();
    let offered = |(place, preimage): (usize, &Preimage)| {
        e.candidates.get(place).is_some_and(|c| c.payment_hash == preimage.payment_hash())
    };
    let ours = places.zip(&preimages).all(offered);
    let part = |(t, preimage): (usize, Preimage)| PartRecord {
        amount_msat: r.terms.amount_msat(t),
        payment_hash: preimage.payment_hash(),
        preimage,
        bolt11: None,
        fee_msat: 0,
        phase: PayPhase::Dealt,
    };
    ours.then(|| (preimages.into_iter().enumerate().map(part).collect(), opening))
}

/// P4: what Lightning and the ledger say of each payment must come to the same.
fn close(r: &mut PayRecord, e: &EscrowState, lapsed: bool, out: &mut Vec<SponsorEffect>) {
    let (mut receipts, mut back, mut changed) = (Vec::new(), Vec::new(), false);
    for (i, (p, t)) in r.parts.iter_mut().zip(&e.tranches).enumerate() {
        match (t.status, p.phase) {
            (TrancheStatus::Settled(_), PayPhase::Sent)
            | (
                TrancheStatus::Refunded | TrancheStatus::Expired | TrancheStatus::Fraud,
                PayPhase::Dealt | PayPhase::Failed,
            ) => {
                p.phase = PayPhase::Closed;
                changed = true;
            }
            // the payee has its money but its receipt is not booked: book it
            (TrancheStatus::Releasing, PayPhase::Sent) => receipts.push(p.preimage),
            (TrancheStatus::Refunding, PayPhase::Dealt | PayPhase::Failed) => back.push(i),
            (TrancheStatus::Releasing, PayPhase::Dealt | PayPhase::Failed) if lapsed => back.push(i),
            _ => {}
        }
    }
    if changed {
        r.over = r.parts.iter().all(|p| p.phase == PayPhase::Closed);
        out.push(SponsorEffect::Persist(Box::new(r.clone())));
    }
    if !receipts.is_empty() {
        out.push(SponsorEffect::Submit(Tx::Settle(r.escrow, receipts)));
    }
    let back: TrancheSet = back.into_iter().collect();
    if !back.is_empty() {
        out.push(SponsorEffect::Submit(Tx::Refund(r.escrow, back)));
    }
}
