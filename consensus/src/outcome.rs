//! What the committee attests: the seal that fixes a round's samples, and the round's outcome.
//!
//! An outcome carries the measured integers; verdicts, adoption and credit follow from them by
//! [`crate::score`], so anyone can check the arithmetic without a model (L5) and replay the
//! measurement with one (`oda verify`).

use crate::frost::GroupSignature;
use crate::ids::{Beacon, BlobRef, ChainId, ClaimId, Digest, ModelId, NodeId};
use crate::manifest::Manifest;
use crate::record;
use crate::score::{self, Measurement, Paired, Verdict};
use serde::{Deserialize, Serialize};

/// Statement that a round takes no more claims; the signature over it is the beacon from which
/// gate and confirm samples are drawn (S3).
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize, Deserialize)]
pub struct Seal {
    /// Model.
    pub model: ModelId,
    /// Round number, from 1.
    pub round: u64,
    /// Beacon at the round's start.
    pub start: Beacon,
    /// Hash over the round's claims with what each revealed.
    pub claims: Digest,
}

/// How a head does on the held-out test split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize, Deserialize)]
pub struct TestReport {
    /// Samples.
    pub n: u32,
    /// Sum of per-sample losses, micro-nats.
    pub loss_sum_unat: i64,
    /// Samples classified correctly.
    pub correct: u32,
}

impl TestReport {
    fn agrees(&self, other: &Self) -> bool {
        let edges = 2 + self.n / 1000;
        self.n == other.n
            && self.loss_sum_unat.abs_diff(other.loss_sum_unat) <= u64::from(edges)
            && self.correct.abs_diff(other.correct) <= edges
    }
}

/// What was measured of the candidate head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize, Deserialize)]
pub struct HeadScores {
    /// Weights after applying the accepted deltas (S6).
    pub candidate: BlobRef,
    /// Gain over the parent on the confirm sample.
    pub confirm: Paired,
    /// Parent on the test split.
    pub parent_test: TestReport,
    /// Candidate on the test split.
    pub candidate_test: TestReport,
}

impl HeadScores {
    /// Whether two honest validators may have measured these of the same candidate.
    pub fn agrees(&self, other: &Self) -> bool {
        self.candidate == other.candidate
            && self.confirm.agrees(&other.confirm)
            && self.parent_test.agrees(&other.parent_test)
            && self.candidate_test.agrees(&other.candidate_test)
    }
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
    /// The candidate head, if any claim was accepted.
    pub head: Option<HeadScores>,
    /// Proven gain, micro-nats of mean loss; zero if the candidate is not adopted.
    pub proven_unat: u64,
}

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
    /// A round's seal.
    Seal(Seal),
    /// A round's outcome.
    Outcome(Outcome),
}

impl Attestation {
    /// Name of the signing session: one per statement kind, model and round.
    pub fn topic(&self) -> Digest {
        let (kind, model, round) = match &self.statement {
            Statement::Seal(s) => (0u8, s.model, s.round),
            Statement::Outcome(o) => (1, o.model, o.round),
        };
        topic(self.chain, kind, model, round)
    }
}

fn topic(chain: ChainId, kind: u8, model: ModelId, round: u64) -> Digest {
    let mut h = blake3::Hasher::new_derive_key("oda 2026 attestation topic");
    h.update(&chain.0).update(&[kind]).update(&model.0).update(&round.to_le_bytes());
    Digest(*h.finalize().as_bytes())
}

/// Session name of a round's seal.
pub fn seal_topic(chain: ChainId, model: ModelId, round: u64) -> Digest {
    topic(chain, 0, model, round)
}

/// Session name of a round's outcome.
pub fn outcome_topic(chain: ChainId, model: ModelId, round: u64) -> Digest {
    topic(chain, 1, model, round)
}

impl Outcome {
    /// Derives verdicts, adoption and credit from measurements (S4, S6).
    pub fn derive(
        manifest: &Manifest,
        (model, round, parent, sealed): (ModelId, u64, BlobRef, Beacon),
        mut measured: Vec<(ClaimId, NodeId, Measurement)>,
        head: Option<HeadScores>,
    ) -> Self {
        measured.sort_by_key(|(claim, ..)| *claim);
        let judging = &manifest.judging;
        let proven_unat = head.map_or(0, |h| score::proven_gain_unat(judging, &h.confirm));
        let mut claims: Vec<ClaimOutcome> = measured
            .into_iter()
            .map(|(claim, trainer, measurement)| {
                let verdict = score::verdict(judging, &measurement);
                ClaimOutcome { claim, trainer, measurement, verdict, credit_unat: 0 }
            })
            .collect();
        let accepted: Vec<&mut ClaimOutcome> = claims.iter_mut().filter(|c| c.verdict == Verdict::Accepted).collect();
        let weights: Vec<u64> = accepted.iter().map(|c| score::credit_weight(&c.measurement)).collect();
        for (claim, credit) in accepted.into_iter().zip(score::split_exactly(proven_unat, &weights)) {
            claim.credit_unat = credit;
        }
        Self { model, round, parent, sealed, claims, head, proven_unat }
    }

    /// The head after this round: the candidate if it has proven itself, else the parent (S6).
    pub fn new_head(&self) -> BlobRef {
        match self.head {
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

    /// Beacon of the next round, known only with the signature over this outcome (S3).
    pub fn next_beacon(&self, signature: &GroupSignature) -> Beacon {
        self.sealed.next(&signature.to_bytes())
    }

    /// Whether verdicts, adoption and credit are what [`Outcome::derive`] gives.
    pub fn is_consistent(&self, manifest: &Manifest) -> bool {
        let measured = self.claims.iter().map(|c| (c.claim, c.trainer, c.measurement)).collect();
        let again = Self::derive(manifest, (self.model, self.round, self.parent, self.sealed), measured, self.head);
        let any_accepted = self.claims.iter().any(|c| c.verdict == Verdict::Accepted);
        again == *self && any_accepted == self.head.is_some()
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
        same && claims && head
    }
}

/// The beacon of a model's first round: nobody's choice but the chain's and the model's.
pub fn first_beacon(chain: ChainId, model: ModelId) -> Beacon {
    let mut h = blake3::Hasher::new_derive_key("oda 2026 first beacon");
    h.update(&chain.0).update(&model.0);
    Beacon(*h.finalize().as_bytes())
}
