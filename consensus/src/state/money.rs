//! How escrow and the sponsors' accounts change together: the ledger's side of [`crate::escrow`].

use super::entry::*;
use super::rules::TxError;
use super::{At, State};
use crate::codec;
use crate::escrow::{Committee, EscrowError, EscrowState, Moved, Offer, Opening, TrancheSet};
use crate::frost::{EncryptionKey, ReleaseShare};
use crate::ids::{ClaimId, Digest, EscrowId, NodeId, Preimage};
use crate::tx;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

/// Openings remembered; each costs 32 bytes, and forgetting one costs some milliseconds.
const MAX_SHOWN: usize = 4_096;

/// Openings of escrows that were checked in full, by name. Shared by all copies of a state: a name stands for an escrow
/// as it was, the committee it names and an opening, so what is remembered is true in every one of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Shown(Arc<Mutex<BTreeSet<Digest>>>);

impl Shown {
    fn contains(&self, name: &Digest) -> bool {
        self.0.lock().is_ok_and(|known| known.contains(name))
    }

    fn insert(&self, name: Digest) {
        if let Ok(mut known) = self.0.lock() {
            if known.len() >= MAX_SHOWN {
                known.clear();
            }
            known.insert(name);
        }
    }
}

fn opening_name(escrow: &EscrowState, opening: &Opening, members: &[EncryptionKey]) -> Digest {
    let mut h = blake3::Hasher::new_derive_key("oda 2026 checked opening");
    h.update(&codec::hash(escrow));
    for list in [members.len(), opening.seeds.len(), opening.deals.len()] {
        h.update(&(list as u64).to_le_bytes());
    }
    for key in members {
        h.update(key.as_bytes());
    }
    for seed in &opening.seeds {
        h.update(&seed.0);
    }
    for deal in &opening.deals {
        h.update(&codec::hash(deal));
    }
    Digest(*h.finalize().as_bytes())
}

impl State {
    // R2, P2, P6: held from the offer on, so that no promise is made twice
    pub(super) fn offer(&self, who: NodeId, claim: ClaimId, offer: &Offer, at: At) -> Result<Vec<Entry>, TxError> {
        let (mut claim, mut model) = self.open_claim(claim, at)?;
        if claim.escrow.is_some() {
            return Err(TxError::AlreadyOffered);
        }
        let s = model.sponsors.iter_mut().find(|s| s.sponsor == who).ok_or(TxError::NotASponsor)?;
        if s.frauds > 0 {
            return Err(TxError::Barred);
        }
        if offer.terms != s.fund.terms {
            return Err(TxError::WrongTerms);
        }
        if !s.covers_another() {
            return Err(TxError::BudgetUsedUp);
        }
        // an offer made just before the committee changed still counts
        let now = self.federation().epoch;
        if offer.epoch > now || offer.epoch.saturating_add(1) < now || self.epoch_state(offer.epoch).is_none() {
            return Err(TxError::WrongEpoch(now));
        }
        let id = tx::claim_escrow(claim.id);
        let escrow = EscrowState::offer((id, claim.model), (who, claim.trainer), offer.clone(), at.height)?;
        if let Some(used) = escrow.payment_hashes().find(|h| self.payment_hashes.contains(h)) {
            return Err(TxError::PaymentHashReused(used));
        }
        s.held_msat = s.held_msat.saturating_add(escrow.terms.most_msat());
        claim.escrow = Some(id);
        Ok(vec![Entry::Model(Box::new(model)), Entry::Claim(Box::new(claim)), Entry::Escrow(Box::new(escrow))])
    }

    fn escrow_or(&self, id: EscrowId) -> Result<EscrowState, TxError> {
        self.escrow(id).cloned().ok_or(TxError::NoEscrow(id))
    }

    // P2
    pub(super) fn choose(&self, who: NodeId, id: EscrowId, choice: Digest, at: At) -> Result<Vec<Entry>, TxError> {
        let mut escrow = self.escrow_or(id)?;
        escrow.choose(who, choice, at.height)?;
        Ok(vec![Entry::Escrow(Box::new(escrow))])
    }

    // P1, P2
    pub(super) fn deal(&self, who: NodeId, id: EscrowId, opening: &Opening, at: At) -> Result<Vec<Entry>, TxError> {
        let mut escrow = self.escrow_or(id)?;
        let group = &self.epoch_state(escrow.epoch).ok_or(TxError::WrongEpoch(escrow.epoch))?.group;
        let members = self.encryption_keys(group.members()).ok_or(TxError::WrongEpoch(escrow.epoch))?;
        let committee = Committee { escrow: id, members: &members, threshold: group.threshold() };
        // mempool, proposal and block ask the same: the curve operations are done once
        let name = opening_name(&escrow, opening, &members);
        if self.shown.contains(&name) {
            escrow.deal_again(who, opening, committee, at.height)?;
        } else {
            escrow.deal(who, opening, committee, at.height)?;
            self.shown.insert(name);
        }
        Ok(vec![Entry::Escrow(Box::new(escrow))])
    }

    /// What judgement does to a claim's escrow and its sponsor's account.
    pub(super) fn judge_escrow(
        &self,
        model: &mut ModelState,
        id: EscrowId,
        proved: u64,
        at: At,
    ) -> Result<Entry, TxError> {
        let mut escrow = self.escrow_or(id)?;
        let unopened = escrow.stage == crate::escrow::Stage::Chosen;
        let moved = escrow.judge(proved, at)?;
        if let Some(s) = model.sponsors.iter_mut().find(|s| s.sponsor == escrow.payer) {
            s.book(moved);
            s.unopened = s.unopened.saturating_add(unopened.into());
        }
        Ok(Entry::Escrow(Box::new(escrow)))
    }

    /// Changes an escrow and books what it did to the money with the sponsor and the payee.
    fn moving(
        &self,
        id: EscrowId,
        change: impl FnOnce(&mut EscrowState) -> Result<Moved, EscrowError>,
    ) -> Result<Vec<Entry>, TxError> {
        let mut escrow = self.escrow_or(id)?;
        let frauds = escrow.frauds();
        let moved = change(&mut escrow)?;
        let mut model = self.model_or(escrow.model)?.clone();
        let s = model.sponsors.iter_mut().find(|s| s.sponsor == escrow.payer).ok_or(TxError::NotASponsor)?;
        s.book(moved);
        s.frauds = s.frauds.saturating_add(escrow.frauds().saturating_sub(frauds));
        let mut credit = self.credit_or_new(escrow.model, escrow.payee);
        credit.paid_msat = credit.paid_msat.saturating_add(moved.paid_msat);
        Ok(vec![Entry::Model(Box::new(model)), Entry::Escrow(Box::new(escrow)), Entry::Credit(credit)])
    }

    // P4
    pub(super) fn settle(&self, id: EscrowId, preimages: &[Preimage], at: At) -> Result<Vec<Entry>, TxError> {
        self.moving(id, |escrow| escrow.settle(preimages, at.height))
    }

    // P4
    pub(super) fn refund(&self, who: NodeId, id: EscrowId, which: TrancheSet, at: At) -> Result<Vec<Entry>, TxError> {
        self.moving(id, |escrow| escrow.refund(who, which, at))
    }

    // P2
    pub(super) fn false_deal(
        &self,
        id: EscrowId,
        tranche: u8,
        shares: &[ReleaseShare],
        at: At,
    ) -> Result<Vec<Entry>, TxError> {
        self.moving(id, |escrow| escrow.convict(tranche, shares, at.height))
    }
}
