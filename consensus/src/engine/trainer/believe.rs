//! What of a peer's word a lite node may believe: what a committee's key attests, and nothing else.

use crate::epoch::EpochChain;
use crate::ids::{Beacon, BlobRef, ModelId};
use crate::outcome::{Attestation, Outcome, Statement, first_beacon};
use crate::state::OutcomeState;
use crate::wire::ModelView;

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
    let attested = epochs.verify(state.epoch, &crate::codec::encode(&attestation), &state.signature);
    (attested && state.outcome.model == model).then_some(&state.outcome)
}
