//! One function per transaction kind: which rule lets it in, and what it changes.

use super::entry::*;
use super::places::MAX_SPONSORS;
use super::{At, MAX_GUESTS, State};
use crate::escrow::{EscrowError, MAX_MSAT, Stage};
use crate::ids::{BlobHash, ClaimId, Digest, EscrowId, ModelId, NodeId, PaymentHash};
use crate::manifest::{Manifest, ManifestError};
use crate::outcome;
use crate::tx::{self, Commit, Fund, Reveal, SignedTx, Tx};

/// Most models on a ledger.
pub const MAX_MODELS: usize = 1024;

/// A transaction was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum TxError {
    #[error("the signature is not the signer's")]
    BadSignature,
    #[error("{0}")]
    Manifest(#[from] ManifestError),
    #[error("model {0} is already on the ledger")]
    ModelExists(ModelId),
    #[error("the ledger holds its most of {MAX_MODELS} models")]
    TooManyModels,
    #[error("model {0} is not on the ledger")]
    NoModel(ModelId),
    #[error("claim {0} is not on the ledger")]
    NoClaim(ClaimId),
    #[error("escrow {0} is not on the ledger")]
    NoEscrow(EscrowId),
    #[error("the amount is zero, above the budget, or the budget does not grow")]
    BadAmount,
    #[error("the model has its most of {MAX_SPONSORS} sponsors")]
    TooManySponsors,
    #[error("the model is not funded, so no round is open")]
    NoRound,
    #[error("the model is in round {0}")]
    WrongRound(u64),
    #[error("the head is {0}")]
    WrongHead(BlobHash),
    #[error("the round takes no more of these: closed at block {0}")]
    Closed(u64),
    #[error("too early: taken after block {0}")]
    TooEarly(u64),
    #[error("the trainer has its claim in this round already")]
    ClaimExists,
    #[error("the round holds its most of claims")]
    TooManyClaims,
    #[error("the round holds its most of claims by trainers that were not paid for work on this model yet")]
    NoPlaceForStrangers,
    #[error(
        "half of the places for models are kept for validators and for who added a model that was improved: let one of them \
         add it"
    )]
    NoModelPlaceForStrangers,
    #[error("guests are at most {MAX_GUESTS}, ascending, each once")]
    BadGuests,
    #[error("payment for this claim is offered already")]
    AlreadyOffered,
    #[error("the sponsor has dealt a false payment: its promises are over")]
    Barred,
    #[error("{0}")]
    Escrow(#[from] EscrowError),
    #[error("the signer does not sponsor this model")]
    NotASponsor,
    #[error("the offer's terms are not those the sponsor promised")]
    WrongTerms,
    #[error("the sponsor's budget is used up")]
    BudgetUsedUp,
    #[error("payment hash {0} was used before")]
    PaymentHashReused(PaymentHash),
    #[error("only {0} may do this")]
    WrongSigner(NodeId),
    #[error("no payment is dealt for this claim yet")]
    NotDealt,
    #[error("revealed already")]
    AlreadyRevealed,
    #[error("what is revealed is not what was committed to")]
    WrongOpening,
    #[error("the round is sealed already")]
    AlreadySealed,
    #[error("the round is not sealed yet")]
    NotSealed,
    #[error("the statement is not about the round as it stands on the ledger")]
    WrongStatement,
    #[error("verdicts, adoption or credit do not follow from the measurements")]
    WrongArithmetic,
    #[error("not attested by the committee's group key")]
    NotAttested,
    #[error("the committee of this epoch is {0}")]
    WrongEpoch(u64),
    #[error("the signer is not in the committee that judges this round")]
    NotAJudge,
    #[error("said already, or too late to say it")]
    SaidAlready,
    #[error("the round's scores are taken for the {0}th time again")]
    WrongAttempt(u32),
    #[error("scores may not be opened yet: others could copy them")]
    ScoresHidden,
    #[error("scores were not opened by a threshold of the committee, or do not support this outcome")]
    NotSupported,
    #[error("no committee is to be drawn now")]
    NoDraw,
    #[error("the beacon's proof does not hold")]
    BadBeacon,
    #[error("no such key generation is running")]
    NoSuchDkg,
    #[error("the signer is not drawn for this key generation")]
    NotDrawn,
    #[error("the key generation is at another step")]
    WrongDkgStep,
    #[error("the key generation message is not one an honest member sends")]
    BadDkgPackage,
    #[error("a node that comes back keeps its key for sealed boxes")]
    WrongKey,
    #[error("all places for validators and applicants are taken: applications lapse after some hours")]
    TooManyValidators,
    #[error("{0} is not a validator, or not in the state that allows this")]
    NoValidator(NodeId),
    #[error("the evidence proves nothing")]
    ProvesNothing,
    #[error("whom this convicts is not an active validator")]
    NotActive,
    #[error("the claim is not a judged decoy of this sponsor")]
    NotADecoy,
    #[error("the model has no sealed guards")]
    NothingSealed,
    #[error("a committee of {0} needs one box of its size a member")]
    BadBoxes(usize),
    #[error("no storage challenge is open for epoch {0}")]
    NoChallenge(u64),
    #[error("the signer is not asked for a blob in this epoch")]
    NotAsked,
    #[error("these bytes and hashes are not the chunk that was asked for")]
    BadSlice,
}

/// What a seal commits to: every claim of the round with what it revealed.
pub fn claims_digest<'a>(claims: impl Iterator<Item = &'a ClaimState>) -> Digest {
    let mut h = blake3::Hasher::new_derive_key("oda 2026 claims of a round");
    for c in claims {
        h.update(&c.id.0);
        h.update(&[u8::from(c.reveal.is_some())]);
        if let Some(r) = &c.reveal {
            h.update(&r.delta.hash.0).update(&r.delta.len.to_le_bytes());
        }
    }
    Digest(*h.finalize().as_bytes())
}

impl State {
    /// The entries a transaction replaces, or the rule it breaks. Does not check the transaction's
    /// own signature: [`SignedTx::is_authentic`] does.
    ///
    /// # Errors
    /// The rule it breaks.
    pub fn transition(&self, signed: &SignedTx, at: At) -> Result<Vec<Entry>, TxError> {
        let who = signed.signer;
        match &signed.tx {
            Tx::AddModel(manifest) => self.add_model(who, manifest, at),
            Tx::Fund(fund) => self.fund(who, fund, at),
            Tx::Commit(commit) => self.commit(who, commit, at),
            Tx::Offer(claim, offer) => self.offer(who, *claim, offer, at),
            Tx::Choose(escrow, choice) => self.choose(who, *escrow, *choice, at),
            Tx::Deal(escrow, opening) => self.deal(who, *escrow, opening, at),
            Tx::Reveal(reveal) => self.reveal(who, reveal, at),
            Tx::Seal(seal, proof) => self.seal(seal, proof),
            Tx::Score(commit) => self.score(who, commit, at),
            Tx::ScoreReveal(reveal) => self.score_reveal(who, reveal, at),
            Tx::Outcome(outcome, signature) => self.outcome_tx(outcome, signature, at),
            Tx::Settle(escrow, preimages) => self.settle(*escrow, preimages, at),
            Tx::Refund(escrow, which) => self.refund(who, *escrow, *which, at),
            Tx::FalseDeal(escrow, tranche, shares) => self.false_deal(*escrow, *tranche, shares, at),
            Tx::Draw(epoch, proof) => self.draw(*epoch, proof, at),
            Tx::Dkg(message) => self.dkg_message(who, message),
            Tx::Handover(handover, signature) => self.handover(handover, signature),
            Tx::Checkpoint(checkpoint, signature) => self.checkpoint(checkpoint, signature),
            Tx::Apply(encryption) => self.apply_for(who, *encryption, at),
            Tx::Membership(membership, signature) => self.membership(membership, signature, at),
            Tx::Leave => self.leave(who, at),
            Tx::Evidence(evidence) => self.evidence(evidence, at),
            Tx::Decoy(claim, seed) => self.decoy(who, *claim, *seed, at),
            Tx::Unseal(unseal) => self.unseal(who, unseal),
            Tx::Invite(invite) => self.invite(who, invite),
            Tx::StorageProof(proof) => self.storage_proof(who, proof),
        }
    }

    pub(super) fn model_or(&self, id: ModelId) -> Result<&ModelState, TxError> {
        self.model(id).ok_or(TxError::NoModel(id))
    }

    fn add_model(&self, who: NodeId, manifest: &Manifest, at: At) -> Result<Vec<Entry>, TxError> {
        manifest.check()?;
        let id = manifest.id();
        if self.model(id).is_some() {
            return Err(TxError::ModelExists(id));
        }
        self.has_model_place(who)?; // P8
        Ok(vec![Entry::Model(Box::new(ModelState {
            manifest: manifest.clone(),
            added_by: who,
            added_height: at.height,
            head: Head { weights: manifest.initial_head, round: 0, test: None },
            round: None,
            proven_unat: 0,
            sponsors: Vec::new(),
            keys: Vec::new(),
            revealed: None,
            guests: Vec::new(),
            invitations: 0,
        }))])
    }

    fn fund(&self, who: NodeId, fund: &Fund, at: At) -> Result<Vec<Entry>, TxError> {
        let mut model = self.model_or(fund.model)?.clone();
        let possible = fund.terms.is_possible() && fund.budget_msat >= fund.terms.most_msat();
        if !possible || fund.budget_msat > MAX_MSAT {
            return Err(TxError::BadAmount);
        }
        let full = !Self::has_sponsor_place(&model, who);
        match model.sponsors.iter_mut().find(|s| s.sponsor == who) {
            Some(s) if s.frauds > 0 => return Err(TxError::Barred),
            Some(s) if fund.budget_msat <= s.fund.budget_msat => return Err(TxError::BadAmount),
            Some(s) => s.fund = *fund,
            None if full => return Err(TxError::TooManySponsors),
            None => model.sponsors.push(Sponsorship {
                sponsor: who,
                fund: *fund,
                held_msat: 0,
                paid_msat: 0,
                refunded_msat: 0,
                unopened: 0,
                frauds: 0,
            }),
        }
        if model.round.is_none() {
            let start = outcome::first_beacon(self.chain, fund.model);
            model.round = Some(open_round(1, at.height, start));
        }
        Ok(vec![Entry::Model(Box::new(model))])
    }

    // R1
    fn commit(&self, who: NodeId, commit: &Commit, at: At) -> Result<Vec<Entry>, TxError> {
        let mut model = self.model_or(commit.model)?.clone();
        let timing = model.manifest.timing;
        let parent = model.head.weights;
        let round = model.round.as_mut().ok_or(TxError::NoRound)?;
        if commit.round != round.number {
            return Err(TxError::WrongRound(round.number));
        }
        if commit.parent != parent.hash {
            return Err(TxError::WrongHead(parent.hash));
        }
        if round.sealed.is_some() {
            return Err(TxError::AlreadySealed);
        }
        if let Some(close) = round.commits_close(&timing).filter(|close| at.height > *close) {
            return Err(TxError::Closed(close));
        }
        let id = tx::claim_id(commit.model, commit.round, who);
        if self.claim(id).is_some() {
            return Err(TxError::ClaimExists); // P8: one open claim per key and round
        }
        self.has_place(self.model_or(commit.model)?, who)?; // P8
        round.first_commit_height.get_or_insert(at.height);
        round.claims.push(id);
        let claim = ClaimState {
            id,
            model: commit.model,
            round: commit.round,
            trainer: who,
            parent,
            commitment: commit.commitment,
            committed_height: at.height,
            escrow: None,
            reveal: None,
            judged: None,
            decoy: false,
        };
        Ok(vec![Entry::Model(Box::new(model)), Entry::Claim(Box::new(claim))])
    }

    /// The open, unsealed round a claim belongs to, with its model.
    pub(super) fn open_claim(&self, id: ClaimId, at: At) -> Result<(ClaimState, ModelState), TxError> {
        let claim = self.claim(id).ok_or(TxError::NoClaim(id))?.clone();
        let model = self.model_or(claim.model)?.clone();
        let round = model.round.as_ref().ok_or(TxError::NoRound)?;
        if round.number != claim.round {
            return Err(TxError::WrongRound(round.number));
        }
        if round.sealed.is_some() {
            return Err(TxError::AlreadySealed);
        }
        match round.reveals_close(&model.manifest.timing) {
            Some(close) if at.height > close => Err(TxError::Closed(close)),
            _ => Ok((claim, model)),
        }
    }

    // R3
    fn reveal(&self, who: NodeId, reveal: &Reveal, at: At) -> Result<Vec<Entry>, TxError> {
        let (mut claim, model) = self.open_claim(reveal.claim, at)?;
        if who != claim.trainer {
            return Err(TxError::WrongSigner(claim.trainer));
        }
        let dealt = claim.escrow.and_then(|id| self.escrow(id)).is_some_and(|e| e.stage == Stage::Dealt);
        if !dealt {
            return Err(TxError::NotDealt);
        }
        if claim.reveal.is_some() {
            return Err(TxError::AlreadyRevealed);
        }
        let round = model.round.as_ref().ok_or(TxError::NoRound)?;
        if let Some(close) = round.commits_close(&model.manifest.timing).filter(|close| at.height <= *close) {
            return Err(TxError::TooEarly(close)); // nobody may see a delta while commits are taken
        }
        let Reveal { delta, stated_gain_unat, salt, .. } = *reveal;
        let opened = tx::commitment(who, claim.model, claim.round, claim.parent.hash, delta, stated_gain_unat, salt);
        if opened != claim.commitment {
            return Err(TxError::WrongOpening);
        }
        claim.reveal = Some(*reveal);
        Ok(vec![Entry::Claim(Box::new(claim))])
    }

    pub(super) fn credit_or_new(&self, model: ModelId, trainer: NodeId) -> Credit {
        let none =
            Credit { model, trainer, credit_unat: 0, claims: 0, paid_claims: 0, failed_in_a_row: 0, paid_msat: 0 };
        self.credit(model, trainer).copied().unwrap_or(none)
    }
}

pub(super) fn open_round(number: u64, opened_height: u64, start: crate::ids::Beacon) -> Round {
    Round {
        number,
        opened_height,
        start,
        first_commit_height: None,
        claims: Vec::new(),
        judges: None,
        sealed: None,
        opened: false,
        scores: ScorePhase::default(),
    }
}
