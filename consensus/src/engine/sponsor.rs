//! A sponsor's decisions (R2, P1, P3, P4, P6): deal a preimage for every claim on its models, pay
//! the trainer's hold invoice for it once, and book the end of each payment.
//!
//! The sponsor knows every preimage it deals, and may: it is the payer, so knowing it early can only
//! pay the trainer. Its record of a deal is on disk before the deal is public, so that a restarted
//! sponsor neither deals a claim twice nor pays an invoice it does not remember.

use crate::frost::{Deal, deal_preimage};
use crate::ids::{ClaimId, EscrowId, ModelId, NodeId, PaymentHash, Preimage};
use crate::record;
use crate::state::{EscrowStatus, State};
use crate::tx::{Lock, Tx, claim_escrow};
use rand_core::{CryptoRng, RngCore};
use std::collections::BTreeMap;

/// Where a payment stands with its payer.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
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

/// All a sponsor must remember of a payment.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct PayRecord {
    /// Escrow.
    pub escrow: EscrowId,
    /// Claim.
    pub claim: ClaimId,
    /// Who is paid.
    pub payee: NodeId,
    /// Amount, msat.
    pub amount_msat: u64,
    /// SHA-256 of the preimage.
    pub payment_hash: PaymentHash,
    /// The preimage it drew.
    pub preimage: Preimage,
    /// Epoch of the committee it is dealt to.
    pub epoch: u64,
    /// The public deal.
    pub deal: Deal,
    /// Invoice being paid.
    pub bolt11: Option<String>,
    /// Routing fee, msat, once sent.
    pub fee_msat: u64,
    /// Where it stands.
    pub phase: PayPhase,
}
record!(PayRecord, b"pyrc", 64 << 10);

/// What happened.
#[derive(Debug)]
pub enum SponsorInput {
    /// A block was applied (or the node has just started).
    StateChanged,
    /// A trainer sent its invoice.
    Invoice {
        /// Who sent it.
        from: NodeId,
        /// Escrow.
        escrow: EscrowId,
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
}

impl Sponsor {
    /// A sponsor with the records it had before.
    pub fn new(me: NodeId, records: Vec<PayRecord>) -> Self {
        Self { me, records: records.into_iter().map(|r| (r.escrow, r)).collect() }
    }

    /// All payments ever dealt.
    pub fn records(&self) -> impl Iterator<Item = &PayRecord> {
        self.records.values()
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
                self.deal_for_claims(state, rng, &mut out);
                self.close_payments(state, &mut out);
            }
            SponsorInput::Invoice { from, escrow, bolt11 } => self.on_invoice(state, from, escrow, bolt11, &mut out),
            SponsorInput::Sent { payment_hash, fee_msat } => {
                if let Some(r) = self.records.values_mut().find(|r| r.payment_hash == payment_hash) {
                    r.fee_msat = fee_msat;
                }
                self.set(payment_hash, PayPhase::Sent, &mut out);
                self.close_payments(state, &mut out);
            }
            SponsorInput::SendFailed { payment_hash } => {
                self.set(payment_hash, PayPhase::Failed, &mut out);
                self.close_payments(state, &mut out);
            }
            SponsorInput::NotStarted { payment_hash } => {
                // says nothing about a payment that is over: only one under way can turn out not to be
                let paying =
                    self.records.values().any(|r| r.payment_hash == payment_hash && r.phase == PayPhase::Paying);
                if paying {
                    self.set(payment_hash, PayPhase::Dealt, &mut out);
                }
            }
        }
        out
    }

    fn set(&mut self, hash: PaymentHash, phase: PayPhase, out: &mut Vec<SponsorEffect>) {
        let found = self.records.values_mut().find(|r| r.payment_hash == hash);
        // settled is final: no later report takes it back
        let open = |r: &&mut PayRecord| r.phase != phase && !matches!(r.phase, PayPhase::Sent | PayPhase::Closed);
        if let Some(r) = found.filter(open) {
            r.phase = phase;
            out.push(SponsorEffect::Persist(Box::new(r.clone())));
        }
    }

    // R2, P1
    fn deal_for_claims(&mut self, state: &State, rng: &mut (impl RngCore + CryptoRng), out: &mut Vec<SponsorEffect>) {
        let wanted: Vec<(ModelId, ClaimId, NodeId, u64)> = state
            .models()
            .filter_map(|(id, m)| Some((id, m, m.sponsors.iter().find(|s| s.sponsor == self.me)?)))
            .flat_map(|(id, m, s)| {
                let claims = m.round.iter().filter(|r| r.sealed.is_none()).flat_map(|r| r.claims.iter());
                let mut left = s.fund.budget_msat.saturating_sub(s.held_msat).saturating_sub(s.paid_msat);
                let amount = s.fund.per_claim_msat;
                claims
                    .filter_map(|c| state.claim(*c))
                    .filter(|c| c.escrow.is_none())
                    .filter(move |_| {
                        let fits = left >= amount;
                        left = left.saturating_sub(amount);
                        fits
                    })
                    .map(move |c| (id, c.id, c.trainer, amount))
                    .collect::<Vec<_>>()
            })
            .collect();
        for (_, claim, payee, amount_msat) in wanted {
            let escrow = claim_escrow(claim);
            // A deal to a committee that is gone can no longer enter the ledger: deal anew.
            let now = state.current();
            let fresh = |r: &PayRecord| r.epoch.saturating_add(1) >= now.number;
            if !self.records.get(&escrow).is_some_and(fresh) {
                let Some(members) = state.encryption_keys(now.group.members()) else { continue };
                let Ok((preimage, payment_hash, deal)) = deal_preimage(&members, now.group.threshold(), &escrow.0, rng)
                else {
                    continue;
                };
                let epoch = now.number;
                let record = PayRecord {
                    escrow,
                    claim,
                    payee,
                    amount_msat,
                    payment_hash,
                    preimage,
                    epoch,
                    deal,
                    bolt11: None,
                    fee_msat: 0,
                    phase: PayPhase::Dealt,
                };
                out.push(SponsorEffect::Persist(Box::new(record.clone())));
                self.records.insert(escrow, record);
            }
            // repeated every block until it is on the ledger: the transaction is the same each time
            if let Some(r) = self.records.get(&escrow) {
                out.push(SponsorEffect::Submit(Tx::Lock(Lock {
                    claim,
                    amount_msat: r.amount_msat,
                    payment_hash: r.payment_hash,
                    epoch: r.epoch,
                    deal: r.deal.clone(),
                })));
            }
        }
    }

    // P3, P6
    fn on_invoice(
        &mut self,
        state: &State,
        from: NodeId,
        escrow: EscrowId,
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
        let on_ledger =
            state.escrow(escrow).is_some_and(|e| e.status == EscrowStatus::Dealt && e.payment_hash == r.payment_hash);
        if !on_ledger {
            return out.push(refuse("the escrow is not open on the ledger"));
        }
        match r.phase {
            PayPhase::Dealt | PayPhase::Failed => {
                r.phase = PayPhase::Paying;
                r.bolt11 = Some(bolt11.clone());
                out.push(SponsorEffect::Persist(Box::new(r.clone())));
                out.push(SponsorEffect::Pay { bolt11, payment_hash: r.payment_hash, amount_msat: r.amount_msat });
            }
            PayPhase::Paying => {} // under way; the answer is the HTLC itself
            PayPhase::Sent | PayPhase::Closed => out.push(refuse("this payment is over")),
        }
    }

    // P4
    fn close_payments(&mut self, state: &State, out: &mut Vec<SponsorEffect>) {
        for r in self.records.values_mut().filter(|r| r.phase != PayPhase::Closed) {
            let Some(e) = state.escrow(r.escrow) else { continue };
            match (&e.status, &r.phase) {
                (EscrowStatus::Settled(_), PayPhase::Sent)
                | (EscrowStatus::Refunded, PayPhase::Dealt | PayPhase::Failed) => {
                    r.phase = PayPhase::Closed;
                    out.push(SponsorEffect::Persist(Box::new(r.clone())));
                }
                // the payee has its money but its receipt is not booked: book it
                (EscrowStatus::Releasing, PayPhase::Sent) => {
                    out.push(SponsorEffect::Submit(Tx::Settle(r.escrow, r.preimage)))
                }
                (EscrowStatus::Refunding, PayPhase::Dealt | PayPhase::Failed) => {
                    out.push(SponsorEffect::Submit(Tx::Refund(r.escrow)))
                }
                _ => {}
            }
        }
    }
}
