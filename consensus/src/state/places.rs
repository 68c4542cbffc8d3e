//! Who gets a place where names cost nothing: in a round, among a model's sponsors, in the table of models, and among
//! those who wait to be admitted as validators (P8).
//!
//! A round takes `max_claims` commits, and a commit is free, as a name is. First come, first served would let names made
//! up a minute ago keep everybody else out of a model for as long as they last. So half of a round's places are for those
//! who are known on the model: whoever was paid for work on it and has not failed [`MAX_FAILED`] times in a row since, and
//! the guests of who added it. A known name that only fills places is soon not known any more, and becoming known again
//! takes work that proves a gain. While nobody is known there is nothing to keep places for.
//!
//! Models and applications are as free. Half of the table of models is for active validators and for who added a model
//! that was improved; anybody may put money on what they add. Who waits to be admitted takes a place for a time only, or a
//! hundred names made up once would close the federation for ever.

use super::entry::*;
use super::federation_entry::{ValidatorState, ValidatorStatus};
use super::rules::{MAX_MODELS, TxError};
use super::{MAX_GUESTS, State};
use crate::ids::NodeId;
use crate::tx::Invite;

/// Claims in a row that came to nothing, after which a trainer is a stranger again. Honest claims fail now and then: the
/// head is not adopted, a node is restarted.
pub const MAX_FAILED: u32 = 3;
/// Blocks for which an application takes a place; then another may have it, and whoever still waits applies again.
pub const APPLICATION_BLOCKS: u64 = 20_000;
/// Most active validators and applicants together.
pub(super) const MAX_VALIDATORS: usize = 128;
/// Most sponsors of one model.
pub(super) const MAX_SPONSORS: usize = 16;

impl State {
    /// Whether a trainer is known on a model.
    pub fn is_known(&self, model: &ModelState, trainer: NodeId) -> bool {
        let worked = |c: &Credit| c.paid_claims > 0 && c.failed_in_a_row < MAX_FAILED;
        model.guests.contains(&trainer) || self.credit(model.manifest.id(), trainer).is_some_and(worked)
    }

    /// Whether a round that is open has a place for a trainer.
    ///
    /// # Errors
    /// That it is full, or full for strangers.
    pub fn has_place(&self, model: &ModelState, trainer: NodeId) -> Result<(), TxError> {
        let Some(round) = &model.round else { return Err(TxError::NoRound) };
        let most = model.manifest.judging.max_claims as usize;
        if round.claims.len() >= most {
            return Err(TxError::TooManyClaims);
        }
        let anybody_known = model.proven_unat > 0 || !model.guests.is_empty();
        if !anybody_known || self.is_known(model, trainer) {
            return Ok(());
        }
        let known = |who: NodeId| self.is_known(model, who);
        let strangers = round.claims.iter().filter(|id| self.claim(**id).is_none_or(|c| !known(c.trainer))).count();
        if strangers >= most.saturating_sub(most / 2) { Err(TxError::NoPlaceForStrangers) } else { Ok(()) }
    }

    /// Whether another may promise money for a model. The last place is for who added it: a promise costs nothing until
    /// somebody is to be paid.
    pub(super) fn has_sponsor_place(model: &ModelState, who: NodeId) -> bool {
        let kept = who != model.added_by && model.sponsors.iter().all(|s| s.sponsor != model.added_by);
        model.sponsors.len() < MAX_SPONSORS.saturating_sub(kept.into())
    }

    /// Whether somebody may add another model.
    pub(super) fn has_model_place(&self, who: NodeId) -> Result<(), TxError> {
        let all = self.models().count();
        if all >= MAX_MODELS {
            return Err(TxError::TooManyModels);
        }
        if all < MAX_MODELS / 2 {
            return Ok(());
        }
        let validator = self.validator(who).is_some_and(|v| v.status == ValidatorStatus::Active);
        let improved = || self.models().any(|(_, m)| m.added_by == who && m.proven_unat > 0);
        if validator || improved() { Ok(()) } else { Err(TxError::NoModelPlaceForStrangers) }
    }

    /// Whether an application made at a height still takes a place at another.
    pub(super) fn still_waits(since: u64, height: u64) -> bool {
        height.saturating_sub(since) <= APPLICATION_BLOCKS
    }

    /// Whether there is a place for another applicant.
    pub(super) fn has_validator_place(&self, height: u64) -> bool {
        let counts = |v: &&ValidatorState| match v.status {
            ValidatorStatus::Active => true,
            ValidatorStatus::Applied => Self::still_waits(v.since, height),
            ValidatorStatus::Left | ValidatorStatus::Evicted(_) => false,
        };
        self.all_validators().filter(counts).count() < MAX_VALIDATORS
    }

    /// Whoever added a model names its guests anew.
    pub(super) fn invite(&self, who: NodeId, invite: &Invite) -> Result<Vec<Entry>, TxError> {
        let Invite { model, turn, guests } = invite;
        let mut model = self.model_or(*model)?.clone();
        if who != model.added_by {
            return Err(TxError::WrongSigner(model.added_by));
        }
        if guests.len() > MAX_GUESTS || !guests.is_sorted_by(|a, b| a < b) {
            return Err(TxError::BadGuests);
        }
        if *turn != model.invitations.saturating_add(1) {
            return Err(TxError::SaidAlready); // a list that was replaced cannot be brought back by somebody else
        }
        (model.guests, model.invitations) = (guests.clone(), *turn);
        Ok(vec![Entry::Model(Box::new(model))])
    }
}
