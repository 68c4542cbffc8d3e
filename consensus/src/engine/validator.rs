//! A committee member's judging duties (R4, R5, S3): when to attest a seal, what to replay, and
//! which outcome it may sign.
//!
//! It watches the ledger after every block. When a round can be sealed it opens the signing session
//! for the seal; when a round is sealed it asks for the replay of its claims; with its own measurement
//! at hand it opens the session for the outcome. A proposal of another leader is approved only if
//! the member's own state or own replay confirms it; approval is withheld, not refused, while the
//! member still lacks the block or the measurement.

use crate::codec;
use crate::frost::{SignEffect, SignInput};
use crate::ids::{Beacon, BlobRef, ClaimId, Digest, ModelId, NodeId};
use crate::manifest::Manifest;
use crate::outcome::{Attestation, HeadScores, Outcome, Statement, outcome_topic, seal_topic};
use crate::score::{Measurement, Refusal};
use crate::state::State;
use crate::tx::Tx;
use std::collections::BTreeMap;

/// A replay to do: everything follows from the ledger and the blobs it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JudgeJob {
    /// Model.
    pub model: ModelId,
    /// Its manifest.
    pub manifest: Manifest,
    /// Round.
    pub round: u64,
    /// Beacon of the shards.
    pub start: Beacon,
    /// Beacon of gate and confirm samples.
    pub sealed: Beacon,
    /// Head the claims were made against.
    pub parent: BlobRef,
    /// Claims with their trainer and revealed delta.
    pub claims: Vec<(ClaimId, NodeId, Option<BlobRef>)>,
    /// Counts repeated replays of one round (a delta that could not be fetched may come later).
    pub attempt: u32,
}

/// What a replay found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Model.
    pub model: ModelId,
    /// Round.
    pub round: u64,
    /// Beacon of the seal it was judged under.
    pub sealed: Beacon,
    /// Each claim's measurement.
    pub measured: Vec<(ClaimId, NodeId, Measurement)>,
    /// Scores of the candidate head, if any claim was accepted.
    pub head: Option<HeadScores>,
}

/// What happened.
#[derive(Debug)]
pub enum ValidatorInput {
    /// A block was applied (or the node has just started); the state is the argument of `handle`.
    StateChanged,
    /// A replay finished.
    Judged(Judged),
    /// A replay could not be done (head or data not to be had yet).
    JudgeFailed {
        /// Model.
        model: ModelId,
        /// Round.
        round: u64,
    },
    /// The signing engine reports.
    Signing(SignEffect),
}

/// What to do.
#[derive(Debug)]
pub enum ValidatorEffect {
    /// Feed the signing engine.
    Sign(SignInput),
    /// Fetch, replay, report.
    Judge(Box<JudgeJob>),
    /// Put an attested statement on the ledger.
    Submit(Tx),
    /// A member disturbed a signing session.
    Blame {
        /// Who.
        node: NodeId,
        /// How.
        why: String,
    },
}

#[derive(Default)]
struct RoundWork {
    round: u64,
    seal_open: bool,
    judging: bool,
    attempt: u32,
    mine: Option<Outcome>,
}

/// The judging engine of one committee member.
#[derive(Default)]
pub struct Validator {
    work: BTreeMap<ModelId, RoundWork>,
    /// Proposals waiting for a block or a measurement: topic -> payload.
    reviews: BTreeMap<Digest, Vec<u8>>,
}

/// Most replays of one round by one member; later ones cannot find what these did not.
const MAX_ATTEMPTS: u32 = 8;
/// Most proposals kept for later review.
const MAX_REVIEWS: usize = 256;

impl Validator {
    /// A member that has seen nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Handles one input against the current ledger state.
    pub fn handle(&mut self, state: &State, input: ValidatorInput) -> Vec<ValidatorEffect> {
        let mut out = Vec::new();
        match input {
            ValidatorInput::StateChanged => self.follow(state, &mut out),
            ValidatorInput::Judged(judged) => self.judged(state, judged, &mut out),
            ValidatorInput::JudgeFailed { model, round } => {
                if let Some(work) = self.work.get_mut(&model).filter(|w| w.round == round) {
                    work.judging = false; // asked for again at the next block
                }
            }
            ValidatorInput::Signing(effect) => self.signing(state, effect, &mut out),
        }
        self.review_pending(state, &mut out);
        out
    }

    fn follow(&mut self, state: &State, out: &mut Vec<ValidatorEffect>) {
        let chain = state.chain();
        for (id, model) in state.models() {
            let Some(round) = &model.round else { continue };
            let work = self.work.entry(id).or_default();
            if work.round != round.number {
                for topic in [seal_topic(chain, id, work.round), outcome_topic(chain, id, work.round)] {
                    self.reviews.remove(&topic);
                    if work.round > 0 {
                        out.push(ValidatorEffect::Sign(SignInput::Close { topic }));
                    }
                }
                *work = RoundWork { round: round.number, ..RoundWork::default() };
            }
            match round.sealed {
                None if !work.seal_open && state.may_seal(model, state.tip().height.saturating_add(1)) => {
                    if let Some(seal) = state.seal_of(id) {
                        work.seal_open = true;
                        let attestation = Attestation { chain, statement: Statement::Seal(seal) };
                        let topic = attestation.topic();
                        let payload = codec::encode(&attestation);
                        let payload_hash = payload_hash(&payload);
                        out.push(ValidatorEffect::Sign(SignInput::Open { topic, payload: Some(payload) }));
                        out.push(ValidatorEffect::Sign(SignInput::Approve { topic, payload_hash }));
                    }
                }
                Some(sealed) => {
                    if work.seal_open {
                        work.seal_open = false;
                        let topic = seal_topic(chain, id, round.number);
                        self.reviews.remove(&topic);
                        out.push(ValidatorEffect::Sign(SignInput::Close { topic }));
                        // from here on the outcome is due, whoever leads
                        let topic = outcome_topic(chain, id, round.number);
                        out.push(ValidatorEffect::Sign(SignInput::Open { topic, payload: None }));
                    }
                    if work.mine.is_none() && !work.judging {
                        work.judging = true;
                        out.push(ValidatorEffect::Judge(Box::new(JudgeJob {
                            model: id,
                            manifest: model.manifest.clone(),
                            round: round.number,
                            start: round.start,
                            sealed,
                            parent: model.head.weights,
                            claims: round
                                .claims
                                .iter()
                                .filter_map(|c| state.claim(*c))
                                .map(|c| (c.id, c.trainer, c.reveal.map(|r| r.delta)))
                                .collect(),
                            attempt: work.attempt,
                        })));
                    }
                }
                None => {}
            }
        }
    }

    fn judged(&mut self, state: &State, judged: Judged, out: &mut Vec<ValidatorEffect>) {
        let Some(model) = state.model(judged.model) else { return };
        let current = model.round.as_ref().is_some_and(|r| r.number == judged.round && r.sealed == Some(judged.sealed));
        let Some(work) = self.work.get_mut(&judged.model).filter(|w| current && w.round == judged.round) else {
            return;
        };
        work.judging = false;
        let name = (judged.model, judged.round, model.head.weights, judged.sealed);
        let outcome = Outcome::derive(&model.manifest, name, judged.measured, judged.head);
        work.mine = Some(outcome.clone());
        let attestation = Attestation { chain: state.chain(), statement: Statement::Outcome(outcome) };
        let topic = attestation.topic();
        let payload = codec::encode(&attestation);
        let payload_hash = payload_hash(&payload);
        out.push(ValidatorEffect::Sign(SignInput::Open { topic, payload: Some(payload) }));
        out.push(ValidatorEffect::Sign(SignInput::Approve { topic, payload_hash }));
    }

    fn signing(&mut self, state: &State, effect: SignEffect, out: &mut Vec<ValidatorEffect>) {
        match effect {
            SignEffect::Review { topic, payload, .. } => {
                if self.reviews.len() < MAX_REVIEWS || self.reviews.contains_key(&topic) {
                    self.reviews.insert(topic, payload);
                }
            }
            SignEffect::Signed { payload, signature, .. } => {
                let Ok(attestation) = codec::decode::<Attestation>(&payload) else { return };
                if attestation.chain == state.chain() {
                    out.push(ValidatorEffect::Submit(match attestation.statement {
                        Statement::Seal(seal) => Tx::Seal(seal, signature),
                        Statement::Outcome(outcome) => Tx::Outcome(outcome, signature),
                    }));
                }
            }
            SignEffect::Blame { node, why, .. } => out.push(ValidatorEffect::Blame { node, why: why.to_string() }),
            SignEffect::Broadcast(_) => {} // transport's part
        }
    }

    fn review_pending(&mut self, state: &State, out: &mut Vec<ValidatorEffect>) {
        let reviews = std::mem::take(&mut self.reviews);
        for (topic, payload) in reviews {
            let payload_hash = payload_hash(&payload);
            match self.opinion(state, topic, &payload) {
                Some(true) => out.push(ValidatorEffect::Sign(SignInput::Approve { topic, payload_hash })),
                Some(false) => out.push(ValidatorEffect::Sign(SignInput::Refuse { topic, payload_hash })),
                None => drop(self.reviews.insert(topic, payload)),
            }
        }
    }

    /// Whether to sign: yes, no, or not known yet.
    fn opinion(&mut self, state: &State, topic: Digest, payload: &[u8]) -> Option<bool> {
        let Ok(attestation) = codec::decode::<Attestation>(payload) else { return Some(false) };
        if attestation.chain != state.chain() || attestation.topic() != topic {
            return Some(false);
        }
        match attestation.statement {
            Statement::Seal(seal) => {
                let Some(model) = state.model(seal.model) else { return Some(false) };
                let number = model.round.as_ref().map_or(0, |r| r.number);
                if seal.round > number {
                    return None;
                }
                if seal.round < number || model.round.as_ref().is_some_and(|r| r.sealed.is_some()) {
                    return Some(false);
                }
                if !state.may_seal(model, state.tip().height.saturating_add(1)) {
                    return None;
                }
                Some(state.seal_of(seal.model).as_ref() == Some(&seal))
            }
            Statement::Outcome(outcome) => {
                let Some(model) = state.model(outcome.model) else { return Some(false) };
                let number = model.round.as_ref().map_or(0, |r| r.number);
                if outcome.round != number {
                    return if outcome.round > number { None } else { Some(false) };
                }
                let work = self.work.get_mut(&outcome.model)?;
                let mine = work.mine.as_ref()?;
                // R5: its own replay confirms it, and the arithmetic follows from the integers
                if outcome.agrees(mine) && outcome.is_consistent(&model.manifest) {
                    return Some(true);
                }
                // A delta I could not fetch and the leader could: fetch again before refusing (R3).
                let missing = |m: &Measurement| matches!(m, Measurement::Refused(Refusal::NotServed));
                let retry = mine
                    .claims
                    .iter()
                    .zip(&outcome.claims)
                    .any(|(a, b)| missing(&a.measurement) && !missing(&b.measurement));
                if retry && work.attempt < MAX_ATTEMPTS && !work.judging {
                    work.attempt += 1;
                    work.mine = None; // the next block asks for a new replay
                    return None;
                }
                Some(false)
            }
        }
    }
}

/// Hash by which the signing engine names a payload.
pub fn payload_hash(payload: &[u8]) -> Digest {
    crate::frost::payload_hash(payload)
}
