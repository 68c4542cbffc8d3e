//! A validator's duties, whether it sits in the committee in charge, a past or a coming one.
//!
//! It watches the ledger after every block. `epochs` takes part in key generations and keeps the
//! seats of its committees; `beacons` gives out beacon shares when the ledger says one is due; `judging`
//! replays rounds, commits to and opens scores. What the committee has to sign follows from the ledger
//! and the own replay alone, and is decided here: a proposal of another leader is approved only if the
//! member would have made it itself; approval is withheld, not refused, while the member still lacks
//! the block or the measurement.

mod beacons;
mod epochs;
mod judging;

pub use judging::{JudgeJob, Judged, ScoreRecord};

use crate::beacon::{BeaconInput, Partial};
use crate::bft;
use crate::codec;
use crate::epoch::Membership;
use crate::evidence::Evidence;
use crate::frost::{EncryptionSecret, EpochSeed, GroupKey, KeyShare, SignEffect, SignInput, payload_hash};
use crate::ids::{Digest, ModelId, NodeId};
use crate::outcome::{Attestation, Statement};
use crate::state::State;
use crate::tx::Tx;
use rand_core::{CryptoRng, RngCore};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What happened.
#[derive(Debug)]
pub enum ValidatorInput {
    /// A block was applied (or the node has just started); the state is the argument of `handle`.
    StateChanged,
    /// The seed asked for by [`ValidatorEffect::LoadSeed`], on disk by now.
    Seed(u64, EpochSeed),
    /// A replay finished.
    Judged(Judged),
    /// A replay could not be done (head or data not to be had yet).
    JudgeFailed {
        /// Model.
        model: ModelId,
        /// Round.
        round: u64,
    },
    /// The signing engine of an epoch reports.
    Signing(u64, SignEffect),
    /// A member sent its share of a beacon.
    Partial {
        /// Who, authenticated.
        from: NodeId,
        /// Epoch of the key.
        epoch: u64,
        /// What is evaluated.
        input: BeaconInput,
        /// The share.
        partial: Partial,
    },
    /// The operator wants a change of membership.
    Vote(Membership),
    /// Tendermint saw a validator sign twice.
    Equivocation(Box<bft::Evidence>),
}

/// What to do, in order.
#[derive(Debug)]
pub enum ValidatorEffect {
    /// Store the record, synced, before any later effect (C5).
    Persist(Box<ScoreRecord>),
    /// Load the seed of an epoch; `fresh`: if there is none, make one and store it, synced.
    LoadSeed {
        /// Epoch.
        epoch: u64,
        /// Whether a new one may be made.
        fresh: bool,
    },
    /// The keys of this epoch are of no use any more: delete its seed.
    ForgetSeed(u64),
    /// This node has a seat: start a signing engine for the epoch.
    Seat {
        /// Epoch.
        epoch: u64,
        /// The committee's key.
        group: Box<GroupKey>,
        /// This member's share.
        share: KeyShare,
    },
    /// The epoch's signing engine has nothing left to do.
    Unseat(u64),
    /// Feed the signing engine of an epoch.
    Sign(u64, SignInput),
    /// Tell the members of an epoch one's share of a beacon.
    Tell(u64, BeaconInput, Partial),
    /// Fetch, replay, report.
    Judge(Box<JudgeJob>),
    /// Put a transaction on the ledger.
    Submit(Tx),
    /// A member disturbed a signing session.
    Blame {
        /// Who.
        node: NodeId,
        /// How.
        why: String,
    },
}

type Effects = Vec<ValidatorEffect>;

/// A proposal of another leader waiting for a block or a measurement.
struct Review {
    epoch: u64,
    payload: Vec<u8>,
}

/// A statement that is to be signed: the epoch whose committee does, and the bytes, if this member can say them.
type Due = (u64, Option<Vec<u8>>);

/// The engine of one validator.
pub struct Validator {
    me: NodeId,
    encryption: Arc<EncryptionSecret>,
    epochs: epochs::Epochs,
    beacons: beacons::Beacons,
    judging: judging::Judging,
    /// Statements this member wants signed: topic -> epoch and payload.
    open: BTreeMap<Digest, Due>,
    reviews: BTreeMap<Digest, Review>,
    votes: Vec<Membership>,
}

/// Most proposals kept for later review.
const MAX_REVIEWS: usize = 256;
/// Most wishes of the operator kept.
const MAX_VOTES: usize = 64;
/// Blocks after which what did not reach the ledger is said again.
const REPEAT_BLOCKS: u64 = 6;

impl Validator {
    /// A validator with the score records it had before.
    pub fn new(me: NodeId, encryption: Arc<EncryptionSecret>, records: Vec<ScoreRecord>) -> Self {
        Self {
            me,
            epochs: epochs::Epochs::new(encryption.clone()),
            encryption,
            beacons: beacons::Beacons::default(),
            judging: judging::Judging::new(records),
            open: BTreeMap::new(),
            reviews: BTreeMap::new(),
            votes: Vec::new(),
        }
    }

    /// Handles one input against the current ledger state.
    pub fn handle(
        &mut self,
        state: &State,
        input: ValidatorInput,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Vec<ValidatorEffect> {
        let mut out = Vec::new();
        match input {
            ValidatorInput::StateChanged => {
                self.epochs.follow(self.me, state, &mut out);
                self.beacons.follow(state, &self.epochs, rng, &mut out);
                self.judging.follow(self.me, state, &self.encryption, &mut out);
                self.follow_statements(state, &mut out);
            }
            ValidatorInput::Seed(epoch, seed) => {
                self.epochs.seed(epoch, seed);
                self.epochs.follow(self.me, state, &mut out);
                self.beacons.follow(state, &self.epochs, rng, &mut out);
                self.follow_statements(state, &mut out);
            }
            ValidatorInput::Judged(judged) => {
                self.judging.judged(state, judged, rng, &mut out);
                self.judging.follow(self.me, state, &self.encryption, &mut out);
            }
            ValidatorInput::JudgeFailed { model, round } => self.judging.failed(model, round),
            ValidatorInput::Signing(epoch, effect) => self.signing(state, epoch, effect, &mut out),
            ValidatorInput::Partial { from, epoch, input, partial } => {
                self.beacons.received(state, from, epoch, input, partial);
                self.beacons.follow(state, &self.epochs, rng, &mut out);
            }
            ValidatorInput::Vote(membership) => {
                if !self.votes.contains(&membership) && self.votes.len() < MAX_VOTES {
                    self.votes.push(membership);
                }
                self.follow_statements(state, &mut out);
            }
            ValidatorInput::Equivocation(evidence) => {
                self.accuse(state, Evidence::Bft(evidence), &mut out);
            }
        }
        self.review_pending(state, &mut out);
        out
    }

    fn accuse(&self, state: &State, evidence: Evidence, out: &mut Effects) {
        let active = |node| state.validator(node).is_some_and(|v| v.status == crate::state::ValidatorStatus::Active);
        if evidence.fits() && evidence.culprit(state).is_some_and(|(node, _)| active(node)) {
            out.push(ValidatorEffect::Submit(Tx::Evidence(evidence)));
        }
    }

    /// What this member wants signed now: epoch, and the statement.
    fn wanted(&mut self, state: &State) -> Vec<(u64, Statement)> {
        let epoch = state.current().number;
        let mut wanted = Vec::new();
        if let Some(coming) = state.coming().filter(|e| e.signature.is_none()) {
            wanted.push((epoch, Statement::Handover(coming.handover())));
        }
        if let Some(checkpoint) = state.due_checkpoint() {
            wanted.push((epoch, Statement::Checkpoint(checkpoint)));
        }
        self.votes.retain(|m| state.check_membership(m).is_ok());
        wanted.extend(self.votes.iter().map(|m| (epoch, Statement::Membership(*m))));
        wanted
    }

    /// Opens sessions for what is due, and closes those that are done or overtaken.
    fn follow_statements(&mut self, state: &State, out: &mut Effects) {
        let mut due = BTreeMap::new();
        for (epoch, statement) in self.wanted(state) {
            let attestation = Attestation { chain: state.chain(), statement };
            due.insert(attestation.topic(), (epoch, Some(codec::encode(&attestation))));
        }
        due.extend(self.judging.due(self.me, state));
        due.retain(|_, (epoch, _)| self.epochs.has_seat(*epoch));
        let stale: Vec<(Digest, u64)> =
            self.open.iter().filter(|(t, o)| due.get(*t) != Some(*o)).map(|(t, o)| (*t, o.0)).collect();
        for (topic, epoch) in stale {
            self.open.remove(&topic);
            // also when another committee signs it now
            if due.get(&topic).is_none_or(|(now, _)| *now != epoch) {
                self.reviews.remove(&topic);
                out.push(ValidatorEffect::Sign(epoch, SignInput::Close { topic }));
            }
        }
        for (topic, (epoch, payload)) in due {
            if self.open.contains_key(&topic) {
                continue;
            }
            self.open.insert(topic, (epoch, payload.clone()));
            let hash = payload.as_deref().map(payload_hash);
            out.push(ValidatorEffect::Sign(epoch, SignInput::Open { topic, payload }));
            if let Some(payload_hash) = hash {
                out.push(ValidatorEffect::Sign(epoch, SignInput::Approve { topic, payload_hash }));
            }
        }
    }

    fn signing(&mut self, state: &State, epoch: u64, effect: SignEffect, out: &mut Effects) {
        match effect {
            SignEffect::Review { topic, payload, .. } => {
                if self.reviews.len() < MAX_REVIEWS || self.reviews.contains_key(&topic) {
                    self.reviews.insert(topic, Review { epoch, payload });
                }
            }
            SignEffect::Signed { payload, signature, .. } => {
                let Ok(attestation) = codec::decode::<Attestation>(&payload) else { return };
                if attestation.chain == state.chain() {
                    out.push(ValidatorEffect::Submit(match attestation.statement {
                        Statement::Outcome(outcome) => Tx::Outcome(outcome, signature),
                        Statement::Handover(handover) => Tx::Handover(handover, signature),
                        Statement::Checkpoint(checkpoint) => Tx::Checkpoint(checkpoint, signature),
                        Statement::Membership(membership) => Tx::Membership(membership, signature),
                    }));
                }
            }
            SignEffect::Blame { node, why, .. } => out.push(ValidatorEffect::Blame { node, why: why.to_string() }),
            SignEffect::Evidence { evidence, proof, .. } => {
                self.accuse(state, Evidence::Share { epoch, share: Box::new(evidence), signature: proof }, out);
            }
            SignEffect::Broadcast(_) | SignEffect::Refused { .. } => {} // transport's part
        }
    }

    fn review_pending(&mut self, state: &State, out: &mut Effects) {
        let reviews = std::mem::take(&mut self.reviews);
        for (topic, review) in reviews {
            let payload_hash = payload_hash(&review.payload);
            match self.opinion(state, topic, &review) {
                Some(true) => out.push(ValidatorEffect::Sign(review.epoch, SignInput::Approve { topic, payload_hash })),
                Some(false) => out.push(ValidatorEffect::Sign(review.epoch, SignInput::Refuse { topic, payload_hash })),
                None => drop(self.reviews.insert(topic, review)),
            }
        }
    }

    /// Whether to sign: yes, no, or not known yet.
    fn opinion(&mut self, state: &State, topic: Digest, review: &Review) -> Option<bool> {
        let Ok(attestation) = codec::decode::<Attestation>(&review.payload) else { return Some(false) };
        if attestation.chain != state.chain() || attestation.topic() != topic {
            return Some(false);
        }
        let now = state.current().number;
        match &attestation.statement {
            Statement::Outcome(outcome) => self.judging.opinion(self.me, state, review.epoch, outcome),
            statement if review.epoch == now => {
                if self.wanted(state).contains(&(now, statement.clone())) {
                    return Some(true);
                }
                match statement {
                    // the block that makes it due may not be here yet
                    Statement::Handover(h) if h.epoch == now.saturating_add(1) && state.coming().is_none() => None,
                    Statement::Checkpoint(c) if c.height >= state.tip().height => None,
                    // the operator may still decide
                    Statement::Membership(m) if state.check_membership(m).is_ok() => None,
                    _ => Some(false),
                }
            }
            _ if review.epoch > now => None,
            _ => Some(false),
        }
    }
}

/// Whether it is time to say something again that was last said at a height.
fn again(said: Option<u64>, height: u64) -> bool {
    said.is_none_or(|h| height >= h.saturating_add(REPEAT_BLOCKS))
}
