//! A trainer's payment: invoices, holds, what was earned, preimages, receipts (P3-P5).

use super::types::{ClaimRecord, PartEnd, Payment, Phase, TrainerEffect};
use super::{Trainer, verify_outcome};
use crate::frost::{CommitteeKey, DealError, ReleaseShare, rebuild};
use crate::ids::{ClaimId, EscrowId, NodeId, PaymentHash};
use crate::tx::Tx;
use crate::wire::ClaimView;

impl Trainer {
    /// P4, P5: an attested verdict says which tranches are ours; `member`, if one of the committee dealt to says so,
    /// has its shares of those.
    pub(super) fn on_verdict(
        &mut self,
        id: ClaimId,
        view: &ClaimView,
        member: Option<NodeId>,
        out: &mut Vec<TrainerEffect>,
    ) {
        let Some(state) = &view.outcome else { return };
        let Some(r) = self.claims.get_mut(&id) else { return };
        let Some(outcome) = verify_outcome(&self.epochs, r.model, state).filter(|o| o.round == r.round) else {
            return;
        };
        let Some(payment) = &mut r.payment else { return };
        let Some(judged) = outcome.claims.iter().find(|c| c.claim == id) else {
            return self.enter(id, Phase::Failing, "the round was judged without this claim", out);
        };
        let proved = if outcome.pays(judged) { judged.credit_unat } else { 0 };
        let earned = payment.terms.earned(proved);
        if earned.is_empty() {
            let why = match (outcome.pays(judged), outcome.adopted()) {
                (true, _) => format!("accepted, but {proved} micro-nats earn less than the smallest tranche"),
                (_, true) => format!("{:?}", judged.verdict),
                (_, false) => format!("{:?}, head not adopted", judged.verdict),
            };
            return self.enter(id, Phase::Failing, &why, out);
        }
        let escrow = payment.escrow;
        if payment.earned.replace(earned) != Some(earned) {
            self.persist(id, out);
        }
        // who shows the verdict has applied it, and so can give its shares now; once a pause is enough
        let Some(member) = member else { return };
        let asked = self.shares_asked_ms.entry(escrow).or_default().entry(member).or_insert(0);
        if *asked == 0 || self.now_ms.saturating_sub(*asked) >= self.config.retry_ms {
            *asked = self.now_ms.max(1);
            out.push(TrainerEffect::AskShares(escrow, member));
        }
    }

    pub(super) fn on_invoice(&mut self, claim: ClaimId, tranche: u8, bolt11: String, out: &mut Vec<TrainerEffect>) {
        let Some(r) = self.claims.get_mut(&claim).filter(|r| r.phase == Phase::Dealt) else { return };
        let Some(payment) = &mut r.payment else { return };
        if let Some(part) = payment.parts.get_mut(usize::from(tranche)) {
            part.bolt11 = Some(bolt11);
        }
        if payment.parts.iter().all(|p| p.bolt11.is_some()) {
            self.enter(claim, Phase::Invoiced, "", out);
        } else {
            self.persist(claim, out);
        }
    }

    // P3
    pub(super) fn on_held(&mut self, hash: PaymentHash, amount_msat: u64, deadline: u32, out: &mut Vec<TrainerEffect>) {
        let Some(r) = self.by_hash(hash) else {
            out.push(TrainerEffect::FailHtlc(hash)); // nothing of ours: do not keep the sender's money
            return;
        };
        let (claim, phase) = (r.claim, r.phase);
        let (height, least) = (self.chain_height, self.config.min_hold_blocks);
        let Some(part) = self.part_mut(claim, hash) else { return };
        match phase {
            Phase::Dealt | Phase::Invoiced => {
                if amount_msat < part.amount_msat {
                    self.enter(claim, Phase::Failing, "the payment is smaller than dealt", out);
                } else if deadline.saturating_sub(height) < least {
                    self.enter(claim, Phase::Failing, "the hold would end before the round can", out);
                } else {
                    part.claim_deadline_height = Some(deadline);
                    let parts = self.claims.get(&claim).and_then(|r| r.payment.as_ref()).map(|p| p.parts.as_slice());
                    let all = parts.is_some_and(|parts| parts.iter().all(|p| p.claim_deadline_height.is_some()));
                    if all {
                        self.enter(claim, Phase::Held, "", out);
                    } else {
                        self.persist(claim, out);
                    }
                }
            }
            Phase::Void | Phase::Failing => out.push(TrainerEffect::FailHtlc(hash)),
            Phase::Committed | Phase::Chosen | Phase::Held => {} // told before
            // told again after a crash that came before those not earned were given back
            Phase::Claiming | Phase::Received | Phase::Paid => {
                let payment = self.claims.get(&claim).and_then(|r| r.payment.as_ref());
                let back = payment.is_some_and(|p| p.given_back().any(|h| h == hash));
                out.extend(back.then_some(TrainerEffect::FailHtlc(hash)));
            }
        }
    }

    // P4
    pub(super) fn on_shares(
        &mut self,
        escrow: EscrowId,
        shares: Vec<(u8, ReleaseShare)>,
        out: &mut Vec<TrainerEffect>,
    ) {
        let held = |r: &&ClaimRecord| r.phase == Phase::Held && r.payment.as_ref().is_some_and(|p| p.escrow == escrow);
        let Some(r) = self.claims.values().find(held) else { return };
        let (claim, Some(mut payment)) = (r.claim, r.payment.clone()) else { return };
        let Some(threshold) = self.epochs.group(payment.epoch).map(CommitteeKey::threshold) else { return };
        for (tranche, share) in shares {
            let earned = payment.is_earned(tranche.into());
            let part = payment.parts.get_mut(usize::from(tranche)).filter(|p| earned && p.end == PartEnd::Open);
            let Some(part) = part else { continue };
            let known = self.shares.entry((escrow, tranche)).or_default();
            // one good share a member, whoever sends it
            if part.deal.accepts(&share) && !known.iter().any(|s| s.index == share.index) {
                known.push(share);
            }
            if known.len() < threshold {
                continue;
            }
            part.end = match rebuild(&part.deal, part.payment_hash, known) {
                Ok(preimage) => PartEnd::Earned(preimage),
                Err(DealError::FalsePreimage) => PartEnd::False(known.iter().take(threshold).cloned().collect()),
                Err(_) => continue,
            };
            self.shares.remove(&(escrow, tranche));
        }
        let rebuilt = payment.parts.iter().enumerate().all(|(i, p)| !payment.is_earned(i) || p.end != PartEnd::Open);
        let any = payment.parts.iter().any(|p| matches!(p.end, PartEnd::Earned(_)));
        if let Some(r) = self.claims.get_mut(&claim) {
            r.payment = Some(payment);
        }
        if rebuilt {
            self.shares_asked_ms.remove(&escrow);
            let (phase, note) = if any { (Phase::Claiming, "") } else { (Phase::Failing, "the payer dealt falsely") };
            self.enter(claim, phase, note, out);
        }
    }

    pub(super) fn on_received(&mut self, hash: PaymentHash, out: &mut Vec<TrainerEffect>) {
        let Some(claim) = self.by_hash(hash).filter(|r| r.phase == Phase::Claiming).map(|r| r.claim) else { return };
        let Some(part) = self.part_mut(claim, hash) else { return };
        let PartEnd::Earned(preimage) = part.end else { return };
        part.end = PartEnd::Received(preimage);
        self.claimed(claim, out);
    }

    /// Goes on when the last of the claimed tranches is received or lost.
    pub(super) fn claimed(&mut self, claim: ClaimId, out: &mut Vec<TrainerEffect>) {
        let Some(payment) = self.claims.get(&claim).and_then(|r| r.payment.as_ref()) else { return };
        if !payment.with(|end| matches!(end, PartEnd::Earned(_))).is_empty() {
            return self.persist(claim, out);
        }
        let (phase, note) = if payment.receipts().is_empty() {
            (Phase::Failing, "the hold ended before the payment was claimed")
        } else {
            (Phase::Received, "")
        };
        self.enter(claim, phase, note, out);
    }
}

/// What the ledger must still be told of a payment: receipts, what was given up, false deals.
pub(super) fn words(p: &Payment) -> Vec<TrainerEffect> {
    let mut out = Vec::new();
    let receipts = p.receipts();
    if !receipts.is_empty() {
        out.push(TrainerEffect::Submit(Tx::Settle(p.escrow, receipts)));
    }
    let expired = p.with(|end| *end == PartEnd::Expired);
    if !expired.is_empty() {
        out.push(TrainerEffect::Submit(Tx::Refund(p.escrow, expired)));
    }
    for (i, part) in p.parts.iter().enumerate() {
        if let (PartEnd::False(shares), Ok(tranche)) = (&part.end, u8::try_from(i)) {
            out.push(TrainerEffect::Submit(Tx::FalseDeal(p.escrow, tranche, shares.clone())));
        }
    }
    out
}
