//! What the committee attests: the seal that fixes a round's samples, and the round's outcome.
//!
//! An outcome carries the measured integers; verdicts, adoption and credit follow from them by
//! [`crate::score`], so anyone can check the arithmetic without a model (L5) and replay the
//! measurement with one (`oda verify`).

use crate::beacon::{BeaconInput, Purpose};
use crate::codec;
use crate::epoch::{Checkpoint, Handover, Membership};
use crate::ids::{Beacon, BlobRef, ChainId, ClaimId, Digest, ModelId, NodeId};
use crate::manifest::Manifest;
use crate::record;
use crate::score::{self, HeadScores, Measurement, Paired, Twin, Verdict};
use serde::{Deserialize, Serialize};

/// Statement that a round takes no more claims. It enters the ledger with the beacon from which gate
/// and confirm samples are drawn (S3); the beacon's input is the round's name, not the claims, so
/// nobody can try several.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize, Deserialize)]
pub struct Seal {
    /// Model.
    pub model: ModelId,
    /// Round number, from 1.
    pub round: u64,
    /// Hash over the round's claims with what each revealed.
    pub claims: Digest,
}

/// What the beacon is evaluated at for the samples of a round.
pub fn samples_input(chain: ChainId, model: ModelId, round: u64) -> BeaconInput {
    BeaconInput { chain, purpose: Purpose::Samples, number: round, subject: model.0 }
}

/// Judgement on one claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize, Deserialize)]
pub struct ClaimOutcome {
    /// The claim.
    pub claim: ClaimId,
    /// Its trainer.
    pub trainer: NodeId,
    /// What was measured.
    pub measurement: Measurement,
    /// What follows from it.
    pub verdict: Verdict,
    /// Share of the proven gain, micro-nats.
    pub credit_unat: u64,
}

/// What a replay of a round measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measured {
    /// Each claim's measurement; twins refer to them in ascending order.
    pub claims: Vec<(ClaimId, NodeId, Measurement)>,
    /// Pairs of near-copies, ascending.
    pub twins: Vec<Twin>,
    /// Scores of the candidate head, if any claim was accepted.
    pub head: Option<HeadScores>,
}

impl Measured {
    /// Puts what was attested of the sealed guards in place of what a replay without their key skipped (S3).
    pub fn take_sealed(&mut self, manifest: &Manifest, attested: &Outcome) {
        let (Some(mine), Some(theirs)) = (&mut self.head, &attested.head) else { return };
        for ((slice, mine), theirs) in manifest.data.guards.iter().zip(&mut mine.guards).zip(&theirs.guards) {
            if slice.sealed.is_some() && *mine == Paired::SKIPPED {
                *mine = *theirs;
            }
        }
    }
}

/// Model, round, parent head and beacon of the seal.
pub type RoundName = (ModelId, u64, BlobRef, Beacon);

/// The result of a round.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize, Deserialize)]
pub struct Outcome {
    /// Model.
    pub model: ModelId,
    /// Round number, from 1.
    pub round: u64,
    /// Head the claims were made against.
    pub parent: BlobRef,
    /// Beacon of the round's seal.
    pub sealed: Beacon,
    /// Every claim of the round, ascending by claim.
    pub claims: Vec<ClaimOutcome>,
    /// Pairs of claims that are near-copies, ascending.
    pub twins: Vec<Twin>,
    /// The candidate head, if any claim was accepted.
    pub head: Option<HeadScores>,
    /// Proven gain, micro-nats of mean loss; zero if the candidate is not adopted.
    pub proven_unat: u64,
}

record!(Outcome, b"outm", 60 << 10);

/// An attested statement, bound to its chain. Its codec bytes are the FROST message.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Attestation {
    /// Network.
    pub chain: ChainId,
    /// What is attested.
    pub statement: Statement,
}
record!(Attestation, b"atst", 64 << 10);

/// What a committee can attest.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum Statement {
    /// A round's outcome.
    Outcome(Outcome),
    /// The keys of the next epoch.
    Handover(Handover),
    /// A block with the state after it.
    Checkpoint(Checkpoint),
    /// A change of the validator set.
    Membership(Membership),
}

impl Attestation {
    /// Name of the signing session: one per statement kind and subject.
    pub fn topic(&self) -> Digest {
        let chain = self.chain;
        match &self.statement {
            Statement::Outcome(o) => outcome_topic(chain, o.model, o.round),
            // a key generation that had to be repeated is another statement
            Statement::Handover(h) => topic(chain, 2, &codec::hash(h), h.epoch),
            Statement::Checkpoint(c) => topic(chain, 3, &[0; 32], c.height),
            Statement::Membership(Membership::Admit { node, since, .. }) => topic(chain, 4, &node.0, *since),
            Statement::Membership(Membership::Evict { node, since }) => topic(chain, 5, &node.0, *since),
        }
    }
}

fn topic(chain: ChainId, kind: u8, subject: &[u8; 32], number: u64) -> Digest {
    let mut h = blake3::Hasher::new_derive_key("oda 2026 attestation topic");
    h.update(&chain.0).update(&[kind]).update(subject).update(&number.to_le_bytes());
    Digest(*h.finalize().as_bytes())
}

/// Session name of a round's outcome.
pub fn outcome_topic(chain: ChainId, model: ModelId, round: u64) -> Digest {
    topic(chain, 1, &model.0, round)
}

impl Outcome {
    /// Derives verdicts, adoption and credit from measurements (S4, S6).
    pub fn derive(manifest: &Manifest, (model, round, parent, sealed): RoundName, mut measured: Measured) -> Self {
        measured.claims.sort_by_key(|(claim, ..)| *claim);
        let (mode, judging, head) = (manifest.work_mode, &manifest.judging, measured.head);
        let measurements: Vec<Measurement> = measured.claims.iter().map(|(.., m)| *m).collect();
        let verdicts = score::verdicts(mode, judging, &measurements, &measured.twins);
        let proven = head.as_ref().map_or(0, |h| score::proven_gain_unat(manifest, h));
        let (proven_unat, credits) = score::credits(mode, proven, &measurements, &verdicts);
        let claims = measured.claims.into_iter().zip(verdicts.into_iter().zip(credits));
        let claims = claims
            .map(|((claim, trainer, measurement), (verdict, credit_unat))| ClaimOutcome {
                claim,
                trainer,
                measurement,
                verdict,
                credit_unat,
            })
            .collect();
        Self { model, round, parent, sealed, claims, twins: measured.twins, head, proven_unat }
    }

    /// What was measured, without what follows from it.
    pub fn measured(&self) -> Measured {
        let claims = self.claims.iter().map(|c| (c.claim, c.trainer, c.measurement)).collect();
        Measured { claims, twins: self.twins.clone(), head: self.head.clone() }
    }

    /// The head after this round: the candidate if it has proven itself, else the parent (S6).
    pub fn new_head(&self) -> BlobRef {
        match &self.head {
            Some(head) if self.proven_unat > 0 => head.candidate,
            _ => self.parent,
        }
    }

    /// Whether the candidate was adopted.
    pub fn adopted(&self) -> bool {
        self.head.is_some() && self.proven_unat > 0
    }

    /// Whether this claim is paid: accepted, and the head it went into adopted (S6).
    pub fn pays(&self, claim: &ClaimOutcome) -> bool {
        claim.verdict == Verdict::Accepted && self.adopted()
    }

    /// Beacon of the next round's shards: it follows from the beacon of this round's samples, so no
    /// signer of the outcome can choose it (S3).
    pub fn next_beacon(&self) -> Beacon {
        self.sealed.next(b"shards of the next round")
    }

    /// Hash of all of it.
    pub fn digest(&self) -> Digest {
        Digest(codec::hash(self))
    }

    /// Whether verdicts, adoption and credit are what [`Outcome::derive`] gives.
    pub fn is_consistent(&self, manifest: &Manifest) -> bool {
        let measured = self.measured();
        let measurements: Vec<Measurement> = measured.claims.iter().map(|(.., m)| *m).collect();
        let (mode, judging) = (manifest.work_mode, &manifest.judging);
        if !score::twins_are_canonical(mode, judging, &measurements, &self.twins) {
            return false;
        }
        let again = Self::derive(manifest, (self.model, self.round, self.parent, self.sealed), measured);
        let any_accepted = self.claims.iter().any(|c| c.verdict == Verdict::Accepted);
        again == *self && any_accepted == self.head.is_some()
    }

    /// Whether the sealed guards were measured if the round opened them, and skipped if not (S3).
    pub fn fits_sealed(&self, manifest: &Manifest, opened: bool) -> bool {
        let slices = &manifest.data.guards;
        self.head.as_ref().is_none_or(|head| {
            head.guards.len() == slices.len()
                && head.guards.iter().zip(slices).filter(|(_, slice)| slice.sealed.is_some()).all(|(scores, slice)| {
                    if opened { scores.n == slice.split.samples } else { *scores == Paired::SKIPPED }
                })
        })
    }

    /// Whether an honest validator that measured `mine` may sign `self` (R5): same claims and
    /// candidate, and every integer within the rounding edges of S2.
    pub fn agrees(&self, mine: &Self) -> bool {
        let same =
            (self.model, self.round, self.parent, self.sealed) == (mine.model, mine.round, mine.parent, mine.sealed);
        let claims = self.claims.len() == mine.claims.len()
            && self.claims.iter().zip(&mine.claims).all(|(a, b)| {
                a.claim == b.claim
                    && a.trainer == b.trainer
                    && a.measurement.agrees(&b.measurement)
                    && a.verdict == b.verdict
            });
        let head = match (&self.head, &mine.head) {
            (Some(a), Some(b)) => a.agrees(b),
            (None, None) => true,
            _ => false,
        };
        same && claims && head && self.twins == mine.twins
    }

    /// Whether `self`, revealed by a member, cannot be an honest measurement if `attested` is right
    /// (C6). A delta served to some members and not to others (R3), or a verdict that hangs on a
    /// rounding edge (S2), is nobody's lie, and what follows from it is not held against a member.
    pub fn contradicts(&self, attested: &Self) -> bool {
        let name = |o: &Self| (o.model, o.round, o.parent, o.sealed);
        if name(self) != name(attested) || self.claims.len() != attested.claims.len() {
            return true;
        }
        let served = |m: &Measurement| !matches!(m, Measurement::Refused(score::Refusal::NotServed));
        let pairs = || self.claims.iter().zip(&attested.claims);
        let alike = pairs().all(|(mine, theirs)| served(&mine.measurement) == served(&theirs.measurement));
        let mut comparable = true;
        for (mine, theirs) in pairs() {
            let (ours, others) = (&mine.measurement, &theirs.measurement);
            if (mine.claim, mine.trainer) != (theirs.claim, theirs.trainer) {
                return true;
            }
            if served(ours) != served(others) {
                comparable = false;
            } else if !ours.agrees(others) {
                // in free mode each is measured on top of those before it: who lacked one measures the rest on another head
                let on_another_head =
                    !alike && matches!((ours, others), (Measurement::Added(_), Measurement::Added(_)));
                if !on_another_head && !ours.is_beside(others) {
                    return true;
                }
                comparable = false;
            } else if mine.verdict != theirs.verdict {
                comparable = false;
            }
        }
        comparable && (self.twins != attested.twins || self.head_contradicts(attested))
    }

    fn head_contradicts(&self, attested: &Self) -> bool {
        match (&self.head, &attested.head) {
            (Some(a), Some(b)) => !a.agrees(b),
            (None, None) => false,
            _ => true,
        }
    }
}

/// The beacon of a model's first round: nobody's choice but the chain's and the model's.
pub fn first_beacon(chain: ChainId, model: ModelId) -> Beacon {
    let mut h = blake3::Hasher::new_derive_key("oda 2026 first beacon");
    h.update(&chain.0).update(&model.0);
    Beacon(*h.finalize().as_bytes())
}
