//! What is counted while a network runs: the story of every claim, for the report.

use crate::learning::{Made, Work};
use crate::sim::Addr;
use crate::sim::lightning::{Fate, Lightning};
use oda_consensus::engine::trainer::Phase;
use oda_consensus::ids::{ClaimId, ModelId, NodeId};
use oda_consensus::outcome::Outcome;
use oda_consensus::score::Verdict;
use oda_consensus::state::State;
use oda_consensus::tx::{Reveal, claim_escrow};
use std::collections::BTreeMap;

/// What became of one claim.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimStory {
    /// Its trainer.
    pub trainer: Addr,
    /// What was handed in.
    pub work: Work,
    /// Steps computed, thousandths of an honest run.
    pub cost_milli: u32,
    /// Height-independent: when it was committed, judged and paid, ms.
    pub committed_ms: Option<u64>,
    /// When its preimages were in.
    pub received_ms: Option<u64>,
    /// Judgement.
    pub verdict: Option<Verdict>,
    /// Whether the head was adopted.
    pub adopted: bool,
    /// Credit, micro-nats.
    pub credit_unat: u64,
    /// What its trainer received, msat.
    pub paid_msat: u64,
    /// The blob exists.
    pub revealed: bool,
    /// Why it ended without pay, in its trainer's words.
    pub note: String,
}

/// Everything counted.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Who is where.
    pub names: BTreeMap<NodeId, Addr>,
    /// Every claim that was trained for.
    pub claims: BTreeMap<ClaimId, ClaimStory>,
    /// Rounds judged, and those that moved the head.
    pub rounds: (u64, u64),
    /// Proven gain, micro-nats.
    pub proven_unat: u64,
    /// Heads in order, by model: virtual ms at which they came, and their hash.
    pub heads: BTreeMap<ModelId, Vec<(u64, oda_consensus::ids::BlobHash)>>,
    /// Validators evicted: who, why, when.
    pub evicted: Vec<(NodeId, String, u64)>,
}

impl Tally {
    pub(super) fn trained(&mut self, claim: ClaimId, trainer: Addr, work: &Work, made: &Made) {
        self.claims.entry(claim).or_insert_with(|| ClaimStory {
            trainer,
            work: work.clone(),
            cost_milli: made.cost_milli,
            committed_ms: None,
            received_ms: None,
            verdict: None,
            adopted: false,
            credit_unat: 0,
            paid_msat: 0,
            revealed: false,
            note: String::new(),
        });
    }

    pub(super) fn report(&mut self, at_ms: u64, claim: ClaimId, phase: Phase, note: &str) {
        let Some(story) = self.claims.get_mut(&claim) else { return };
        match phase {
            Phase::Committed => story.committed_ms = story.committed_ms.or(Some(at_ms)),
            Phase::Received => story.received_ms = story.received_ms.or(Some(at_ms)),
            Phase::Failing | Phase::Void if story.note.is_empty() => story.note = note.to_owned(),
            _ => {}
        }
    }

    pub(super) fn revealed(&mut self, reveal: &Reveal, exists: bool) {
        if let Some(story) = self.claims.get_mut(&reveal.claim) {
            story.revealed = exists;
        }
    }

    pub(super) fn judged(&mut self, ledger: &State, outcome: &Outcome, at_ms: u64) {
        self.rounds.0 += 1;
        self.rounds.1 += u64::from(outcome.adopted());
        self.proven_unat += outcome.proven_unat;
        if let Some(model) = ledger.model(outcome.model).filter(|_| outcome.adopted()) {
            self.heads.entry(outcome.model).or_default().push((at_ms, model.head.weights.hash));
        }
        for c in &outcome.claims {
            if let Some(story) = self.claims.get_mut(&c.claim) {
                story.verdict = Some(c.verdict);
                story.adopted = outcome.adopted();
                story.credit_unat = c.credit_unat;
            }
        }
    }

    pub(super) fn count_pay(&mut self, ledger: &State, lightning: &Lightning) {
        for (id, story) in &mut self.claims {
            let Some(escrow) = ledger.escrow(claim_escrow(*id)) else { continue };
            let paid = |hash| matches!(lightning.htlc(hash).map(|h| h.fate), Some(Fate::Claimed(_)));
            story.paid_msat = escrow.tranches.iter().filter(|t| paid(t.payment_hash)).map(|t| t.amount_msat).sum();
        }
    }

    /// Claims without any work of their own: how many were paid, of how many that were opened.
    pub(super) fn false_pay(&self) -> (usize, usize) {
        let nothing = |w: &Work| {
            matches!(
                w,
                Work::Noise
                    | Work::Flipped
                    | Work::Foreign
                    | Work::Malformed
                    | Work::Oversize
                    | Work::WrongShape
                    | Work::Huge
            )
        };
        let all = || self.claims.values().filter(|c| nothing(&c.work) && c.revealed);
        (all().filter(|c| c.paid_msat > 0).count(), all().count())
    }
}
