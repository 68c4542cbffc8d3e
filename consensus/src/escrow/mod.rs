//! Escrow: what a payer locks for work, who may release it, and what becomes of every part (P1, P2, P4-P6).
//!
//! The ledger, the payer's engine and the payee's engine all go by this one machine; each transition is a
//! pure function that is refused unless it is due, so a message that comes twice, late or from the wrong party
//! changes nothing. It knows nothing of models, claims or Lightning: who judges says how many units were proved,
//! who moves money reports preimages and refunds.
//!
//! `Offered` (candidates committed to) -> `Chosen` (the payee has drawn) -> `Dealt` (the others were shown, the
//! shares of the tranches are public; now the HTLCs are held, which only payer and payee see) -> `Judged`, or
//! `Withdrawn` if judgement comes before the deal. Then every tranche goes its own way: `Releasing` -> `Settled`,
//! `Expired` or `Fraud`; `Refunding` -> `Refunded`.

mod candidates;
mod tranches;

pub use candidates::{Candidate, Committee, Seeds, candidate, candidates_for, deal_digest, kept, opened};
pub use tranches::{MAX_MSAT, MAX_TRANCHES, Terms, TrancheSet};

use crate::codec;
use crate::frost::{Deal, DealError, ReleaseShare, rebuild};
use crate::ids::{Digest, EscrowId, ModelId, NodeId, PaymentHash, Preimage};
use crate::record;
use crate::state::At;
use serde::{Deserialize, Serialize};

/// Time after judgement at which a payment that was earned and not received may be taken as lost: a hold ends
/// within the 1,008 blocks that LDK lets an HTLC last, about a week, and its outputs on chain well after it.
pub const LAPSE_MS: u64 = 30 * 24 * 3_600_000;

/// Where an escrow stands as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The payer has committed to candidates.
    Offered,
    /// The payee has drawn; the payer must show the other seeds.
    Chosen,
    /// Shares of every tranche are on the ledger; nobody may release them yet.
    Dealt,
    /// Judged: each tranche is released or goes back.
    Judged,
    /// Judged before it was dealt: nothing was ever locked.
    Withdrawn,
}

/// Where one tranche stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrancheStatus {
    /// Dealt; nobody may release it yet.
    Dealt,
    /// Earned: members give their shares to the payee (P4).
    Releasing,
    /// The payee has shown the preimage.
    Settled(Preimage),
    /// Not earned: the payee fails the HTLC back (P4).
    Refunding,
    /// The payer has its money again.
    Refunded,
    /// Earned, but the hold ended before it was claimed: the payee says so, or nobody says anything any more.
    Expired,
    /// Earned, but what was dealt is not the preimage of the hash: proven against the payer (P2).
    Fraud,
}

impl TrancheStatus {
    /// Whether nothing more is to come.
    pub fn is_over(&self) -> bool {
        !matches!(self, Self::Dealt | Self::Releasing | Self::Refunding)
    }
}

/// One payment of an escrow.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize)]
pub struct Tranche {
    /// Amount, msat.
    pub amount_msat: u64,
    /// SHA-256 of the preimage.
    pub payment_hash: PaymentHash,
    /// Encrypted shares of the preimage.
    #[serde(skip)]
    pub deal: Deal,
    /// Where it stands.
    pub status: TrancheStatus,
}

/// A payer's offer for one piece of work.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Offer {
    /// What can be earned.
    pub terms: Terms,
    /// Epoch of the committee the shares are for.
    pub epoch: u64,
    /// What it commits to: [`candidates_for`] its tranches.
    pub candidates: Vec<Candidate>,
}

/// What a payer shows after the payee's draw.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Opening {
    /// Seeds of the candidates that were not drawn, ascending.
    pub seeds: Vec<Digest>,
    /// Deals of those that were, in tranche order.
    pub deals: Vec<Deal>,
}

/// An escrow on the ledger. Knows nothing of what it is paid for but the name.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize)]
pub struct EscrowState {
    /// Its name.
    pub id: EscrowId,
    /// Model whose budget pays.
    pub model: ModelId,
    /// Who pays.
    pub payer: NodeId,
    /// Who is paid.
    pub payee: NodeId,
    /// What can be earned.
    pub terms: Terms,
    /// Epoch whose committee holds the shares.
    pub epoch: u64,
    /// What the payer committed to (P2).
    pub candidates: Vec<Candidate>,
    /// The payee's draw.
    pub choice: Option<Digest>,
    /// Its payments, largest first; none before they are dealt.
    pub tranches: Vec<Tranche>,
    /// Where it stands.
    pub stage: Stage,
    /// Time of judgement, ms since the Unix epoch; 0 before.
    pub judged_ms: u64,
    /// Height of the last change.
    pub changed_height: u64,
}
record!(EscrowState, b"escr", 64 << 10, |value| value.tranches.iter().map(|t| &t.deal).try_for_each(codec::within));

/// What a change did to the money, msat. Added up over all changes, it is what the payer's account says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Earned and received.
    pub paid_msat: u64,
    /// Back with the payer.
    pub refunded_msat: u64,
}

/// A transition was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EscrowError {
    /// Not due.
    #[error("the escrow is not in a state that allows this")]
    NotDue,
    /// Somebody else's turn.
    #[error("only {0} may do this")]
    WrongSigner(NodeId),
    /// Impossible terms.
    #[error("the terms are not possible: tranches, unit or rate")]
    BadTerms,
    /// Wrong number of candidates, or the same twice.
    #[error("the offer needs {0} different candidates")]
    BadCandidates(usize),
    /// P2: what was shown is not what was committed to.
    #[error("candidate {0} is not what was committed to")]
    NotAsCommitted(usize),
    /// The deal does not fit the committee.
    #[error("the deal is malformed: {0}")]
    BadDeal(#[from] DealError),
    /// Not a preimage of any tranche that is to be released.
    #[error("the preimage is not one of a tranche that is released")]
    WrongPreimage,
    /// The shares do not prove a false deal.
    #[error("the shares prove nothing against the payer")]
    ProvesNothing,
}

impl EscrowState {
    /// A new escrow by a payer's offer.
    ///
    /// # Errors
    /// If the offer is malformed.
    pub fn offer(
        (id, model): (EscrowId, ModelId),
        (payer, payee): (NodeId, NodeId),
        offer: Offer,
        height: u64,
    ) -> Result<Self, EscrowError> {
        let Offer { terms, epoch, candidates } = offer;
        if !terms.is_possible() {
            return Err(EscrowError::BadTerms);
        }
        let wanted = candidates_for(terms.tranches);
        let hashes: std::collections::BTreeSet<_> = candidates.iter().map(|c| c.payment_hash).collect();
        if candidates.len() != wanted || hashes.len() != wanted {
            return Err(EscrowError::BadCandidates(wanted));
        }
        let (choice, tranches, stage) = (None, Vec::new(), Stage::Offered);
        let (judged_ms, changed_height) = (0, height);
        Ok(Self {
            id,
            model,
            payer,
            payee,
            terms,
            epoch,
            candidates,
            choice,
            tranches,
            stage,
            judged_ms,
            changed_height,
        })
    }

    /// The payee draws (P2).
    ///
    /// # Errors
    /// Unless it is the payee's turn.
    pub fn choose(&mut self, who: NodeId, choice: Digest, height: u64) -> Result<(), EscrowError> {
        self.due(Stage::Offered, self.payee, who)?;
        (self.choice, self.stage, self.changed_height) = (Some(choice), Stage::Chosen, height);
        Ok(())
    }

    /// The payer shows the candidates that were not drawn and deals the tranches (P1, P2).
    ///
    /// # Errors
    /// Unless it is the payer's turn and everything is what it committed to.
    pub fn deal(
        &mut self,
        who: NodeId,
        opening: &Opening,
        committee: Committee<'_>,
        height: u64,
    ) -> Result<(), EscrowError> {
        let tranches = self.dealt(who, opening, committee)?;
        let choice = self.choice.ok_or(EscrowError::NotDue)?;
        for (place, seed) in opened(choice, self.id, self.terms.tranches).into_iter().zip(&opening.seeds) {
            let (_, made, _) = candidate(*seed, committee)?;
            if self.candidates.get(place).copied() != Some(made) {
                return Err(EscrowError::NotAsCommitted(place));
            }
        }
        (self.tranches, self.stage, self.changed_height) = (tranches, Stage::Dealt, height);
        Ok(())
    }

    /// As [`Self::deal`], for an opening that this very escrow took before in the same state: without making the shown
    /// candidates again, which is nearly all of its cost.
    ///
    /// # Errors
    /// As [`Self::deal`].
    pub fn deal_again(
        &mut self,
        who: NodeId,
        opening: &Opening,
        committee: Committee<'_>,
        height: u64,
    ) -> Result<(), EscrowError> {
        let tranches = self.dealt(who, opening, committee)?;
        (self.tranches, self.stage, self.changed_height) = (tranches, Stage::Dealt, height);
        Ok(())
    }

    /// The tranches an opening leads to, if what is kept is as committed; what is shown is not looked at.
    fn dealt(&self, who: NodeId, opening: &Opening, committee: Committee<'_>) -> Result<Vec<Tranche>, EscrowError> {
        self.due(Stage::Chosen, self.payer, who)?;
        let choice = self.choice.ok_or(EscrowError::NotDue)?;
        let (kept, opened) = (kept(choice, self.id, self.terms.tranches), opened(choice, self.id, self.terms.tranches));
        if opening.seeds.len() != opened.len() || opening.deals.len() != kept.len() {
            return Err(EscrowError::BadCandidates(self.candidates.len()));
        }
        let mut tranches = Vec::new();
        // the cheap part first: what is wrong in it costs nobody a curve operation
        for (t, (place, deal)) in kept.into_iter().zip(&opening.deals).enumerate() {
            let candidate = self.candidates.get(place).filter(|c| c.deal == deal_digest(deal));
            let candidate = candidate.ok_or(EscrowError::NotAsCommitted(place))?;
            deal.check(committee.members.len(), committee.threshold)?;
            tranches.push(Tranche {
                amount_msat: self.terms.amount_msat(t),
                payment_hash: candidate.payment_hash,
                deal: deal.clone(),
                status: TrancheStatus::Dealt,
            });
        }
        Ok(tranches)
    }

    /// The work was judged: what `proved` units have earned is released, the rest goes back (P5). Nothing to
    /// release or give back if it was never dealt; then the payer has all of it at once.
    ///
    /// # Errors
    /// If it was judged before.
    pub fn judge(&mut self, proved: u64, at: At) -> Result<Moved, EscrowError> {
        let moved = match self.stage {
            Stage::Offered | Stage::Chosen => {
                self.stage = Stage::Withdrawn;
                Moved { refunded_msat: self.terms.most_msat(), ..Moved::default() }
            }
            Stage::Dealt => {
                let earned = self.terms.earned(proved);
                for (i, t) in self.tranches.iter_mut().enumerate() {
                    let released = earned.contains(i);
                    t.status = if released { TrancheStatus::Releasing } else { TrancheStatus::Refunding };
                }
                self.stage = Stage::Judged;
                Moved::default()
            }
            Stage::Judged | Stage::Withdrawn => return Err(EscrowError::NotDue),
        };
        (self.judged_ms, self.changed_height) = (at.time_ms, at.height);
        Ok(moved)
    }

    /// Receipts (P4): a preimage proves itself, so anyone may show it. All must be of tranches that are
    /// released, and one of a tranche that is not settled yet.
    ///
    /// # Errors
    /// If they are not.
    pub fn settle(&mut self, preimages: &[Preimage], height: u64) -> Result<Moved, EscrowError> {
        let mut moved = Moved::default();
        for preimage in preimages {
            let hash = preimage.payment_hash();
            let tranche = self.tranches.iter_mut().find(|t| t.payment_hash == hash);
            let tranche = tranche.ok_or(EscrowError::WrongPreimage)?;
            match tranche.status {
                // payee and payer may both show it
                TrancheStatus::Settled(_) => {}
                TrancheStatus::Releasing => {
                    tranche.status = TrancheStatus::Settled(*preimage);
                    moved.paid_msat = moved.paid_msat.saturating_add(tranche.amount_msat);
                }
                _ => return Err(EscrowError::NotDue),
            }
        }
        if moved.paid_msat == 0 {
            return Err(EscrowError::NotDue);
        }
        self.changed_height = height;
        Ok(moved)
    }

    /// The payer has money back (P4). What was not earned, the payer says; what was earned, only the payee may
    /// give up, or the payer could write off what it still owes. If the payee says nothing for [`LAPSE_MS`], no
    /// HTLC of it can be left, and the payer's word is enough.
    ///
    /// # Errors
    /// If a tranche is not due to go back by this party's word.
    pub fn refund(&mut self, who: NodeId, which: TrancheSet, at: At) -> Result<Moved, EscrowError> {
        if which.is_empty() || which.iter().any(|i| i >= self.tranches.len()) {
            return Err(EscrowError::NotDue);
        }
        let lapsed = self.has_lapsed(at.time_ms);
        let mut moved = Moved::default();
        for (_, t) in self.tranches.iter_mut().enumerate().filter(|(i, _)| which.contains(*i)) {
            let (allowed, status) = match t.status {
                TrancheStatus::Refunding => (self.payer, TrancheStatus::Refunded),
                TrancheStatus::Releasing if lapsed && who == self.payer => (self.payer, TrancheStatus::Expired),
                TrancheStatus::Releasing => (self.payee, TrancheStatus::Expired),
                _ => return Err(EscrowError::NotDue),
            };
            if who != allowed {
                return Err(EscrowError::WrongSigner(allowed));
            }
            t.status = status;
            moved.refunded_msat = moved.refunded_msat.saturating_add(t.amount_msat);
        }
        self.changed_height = at.height;
        Ok(moved)
    }

    /// A false deal is proven by what the committee gave out (P2): shares that fit the payer's commitments rebuild
    /// something else than the preimage. The payment cannot be claimed; who dealt it is known.
    ///
    /// # Errors
    /// If it is not proven.
    pub fn convict(&mut self, tranche: u8, shares: &[ReleaseShare], height: u64) -> Result<Moved, EscrowError> {
        let t = self.tranches.get_mut(usize::from(tranche)).ok_or(EscrowError::NotDue)?;
        if t.status != TrancheStatus::Releasing {
            return Err(EscrowError::NotDue);
        }
        if rebuild(&t.deal, t.payment_hash, shares) != Err(DealError::FalsePreimage) {
            return Err(EscrowError::ProvesNothing);
        }
        (t.status, self.changed_height) = (TrancheStatus::Fraud, height);
        Ok(Moved { refunded_msat: t.amount_msat, ..Moved::default() })
    }

    fn due(&self, stage: Stage, allowed: NodeId, who: NodeId) -> Result<(), EscrowError> {
        if self.stage != stage {
            return Err(EscrowError::NotDue);
        }
        if who == allowed { Ok(()) } else { Err(EscrowError::WrongSigner(allowed)) }
    }

    /// Whether so much time has passed since judgement that no HTLC can be held any more.
    pub fn has_lapsed(&self, time_ms: u64) -> bool {
        self.stage == Stage::Judged && time_ms >= self.judged_ms.saturating_add(LAPSE_MS)
    }

    /// Whether nothing more is to come.
    pub fn is_over(&self) -> bool {
        match self.stage {
            Stage::Offered | Stage::Chosen | Stage::Dealt => false,
            Stage::Judged => self.tranches.iter().all(|t| t.status.is_over()),
            Stage::Withdrawn => true,
        }
    }

    /// The tranches whose status is as asked.
    pub fn with(&self, wanted: impl Fn(&TrancheStatus) -> bool) -> TrancheSet {
        self.tranches.iter().enumerate().filter(|(_, t)| wanted(&t.status)).map(|(i, _)| i).collect()
    }

    /// Where its money is: held, paid, refunded, msat (L2).
    pub fn account(&self) -> (u64, Moved) {
        let settled = self.with(|s| matches!(s, TrancheStatus::Settled(_)));
        let back = self.with(|s| matches!(s, TrancheStatus::Refunded | TrancheStatus::Expired | TrancheStatus::Fraud));
        let paid_msat = self.terms.sum_msat(settled);
        let refunded_msat = match self.stage {
            Stage::Withdrawn => self.terms.most_msat(),
            _ => self.terms.sum_msat(back),
        };
        let held = self.terms.most_msat().saturating_sub(paid_msat).saturating_sub(refunded_msat);
        (held, Moved { paid_msat, refunded_msat })
    }

    /// Tranches proven to be false.
    pub fn frauds(&self) -> u32 {
        self.tranches.iter().map(|t| u32::from(t.status == TrancheStatus::Fraud)).sum()
    }

    /// All payment hashes it could use (P6).
    pub fn payment_hashes(&self) -> impl Iterator<Item = PaymentHash> + '_ {
        self.candidates.iter().map(|c| c.payment_hash)
    }
}

#[cfg(test)]
mod tests;
