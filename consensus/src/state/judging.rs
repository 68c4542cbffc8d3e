//! Judging on the ledger: seal, scores, outcome, decoys (R4, R5, S3, C6).
//!
//! Members first commit to what they measured, then open it, and only then may an outcome enter: so
//! nobody copies, and everybody's part in an outcome is on record. An outcome needs the committee's
//! signature and a threshold of opened scores that agree with it; whose scores it proves wrong is evicted.

use super::entry::*;
use super::federation_entry::{Count, ScoreState};
use super::rules::{TxError, claims_digest, open_round};
use super::{At, State};
use crate::beacon::BeaconProof;
use crate::codec;
use crate::decoy;
use crate::evidence::Offence;
use crate::frost::GroupSignature;
use crate::ids::{ClaimId, Digest, ModelId, NodeId};
use crate::outcome::{Attestation, Outcome, Seal, Statement, samples_input};
use crate::score::{Measurement, Verdict};
use crate::sealed::boxes_fit;
use crate::tx::{ScoreCommit, ScoreReveal, Unseal, score_commitment};

/// Blocks after which scores that nobody opens are taken again.
const PATIENCE_BLOCKS: u64 = 40;

impl State {
    /// Whether a round takes no more commits, locks or reveals at this height and can be sealed.
    pub fn may_seal(&self, model: &ModelState, height: u64) -> bool {
        let Some(round) = &model.round else { return false };
        let timing = &model.manifest.timing;
        let (Some(commits), Some(reveals)) = (round.commits_close(timing), round.reveals_close(timing)) else {
            return false;
        };
        let all_revealed = || round.claims.iter().all(|c| self.claim(*c).is_some_and(|c| c.reveal.is_some()));
        round.sealed.is_none() && (height > reveals || (height > commits && all_revealed()))
    }

    /// The seal that is due now.
    pub fn seal_of(&self, model: ModelId) -> Option<Seal> {
        let round = self.model(model)?.round.as_ref()?;
        let claims = claims_digest(round.claims.iter().filter_map(|c| self.claim(*c)));
        Some(Seal { model, round: round.number, claims })
    }

    // S3
    pub(super) fn seal(&self, seal: &Seal, proof: &BeaconProof) -> Result<Vec<Entry>, TxError> {
        let mut model = self.model_or(seal.model)?.clone();
        let opens = model.round.as_ref().and_then(|r| r.judges).is_some_and(|epoch| model.opens(epoch));
        let round = model.round.as_mut().ok_or(TxError::NoRound)?;
        if round.sealed.is_some() {
            return Err(TxError::AlreadySealed);
        }
        let judges = round.judges.and_then(|e| self.epoch_state(e)).ok_or(TxError::WrongStatement)?;
        if self.seal_of(seal.model).as_ref() != Some(seal) {
            return Err(TxError::WrongStatement);
        }
        let input = samples_input(self.chain, seal.model, seal.round);
        round.sealed = Some(judges.beacon.verify(&input, proof).map_err(|_| TxError::BadBeacon)?);
        round.opened = opens;
        Ok(vec![Entry::Model(Box::new(model))])
    }

    // S3: nobody but who brought the model knows the key
    pub(super) fn unseal(&self, who: NodeId, unseal: &Unseal) -> Result<Vec<Entry>, TxError> {
        let mut model = self.model_or(unseal.model())?.clone();
        if who != model.added_by {
            return Err(TxError::WrongSigner(model.added_by));
        }
        if !model.manifest.has_sealed_guards() {
            return Err(TxError::NothingSealed);
        }
        if model.revealed.is_some() {
            return Err(TxError::SaidAlready);
        }
        match unseal {
            Unseal::Public { key, .. } => {
                model.revealed = Some(*key);
                model.keys.clear();
            }
            Unseal::Committee { epoch, boxes, .. } => {
                let now = self.federation().epoch;
                let known = self.epoch_state(*epoch).filter(|_| *epoch <= now && epoch.saturating_add(1) >= now);
                let members = known.ok_or(TxError::WrongEpoch(now))?.group.members().len();
                if model.keys.iter().any(|k| k.epoch == *epoch) {
                    return Err(TxError::SaidAlready);
                }
                if !boxes_fit(boxes, members) {
                    return Err(TxError::BadBoxes(members));
                }
                model.keys.push(CommitteeKeys { epoch: *epoch, boxes: boxes.clone() });
                model.keys.sort_by_key(|k| k.epoch);
                let old = model.keys.len().saturating_sub(MAX_KEYS);
                model.keys.drain(..old);
            }
        }
        Ok(vec![Entry::Model(Box::new(model))])
    }

    /// The sealed round and the size and threshold of its committee, if the signer is in it.
    fn judged_round(&self, who: NodeId, id: ModelId, number: u64) -> Result<(ModelState, usize, usize), TxError> {
        let model = self.model_or(id)?.clone();
        let round = model.round.as_ref().ok_or(TxError::NoRound)?;
        if round.number != number {
            return Err(TxError::WrongRound(round.number));
        }
        if round.sealed.is_none() {
            return Err(TxError::NotSealed);
        }
        let group = &self.judges(id).ok_or(TxError::NotSealed)?.group;
        if group.index_of(who).is_none() {
            return Err(TxError::NotAJudge);
        }
        let (n, t) = (group.members().len(), group.threshold());
        Ok((model, n, t))
    }

    fn grace(&self) -> u64 {
        self.genesis().federation.score_grace_blocks.into()
    }

    /// Whether the members of a round may open their scores at this height.
    pub fn may_reveal_scores(&self, round: &Round, height: u64) -> bool {
        let n = round.judges.and_then(|e| self.epoch_state(e)).map_or(usize::MAX, |e| e.group.members().len());
        let grace_over = round.scores.quorum_height.is_some_and(|h| height > h.saturating_add(self.grace()));
        round.scores.committed.len() >= n || grace_over
    }

    /// Whether an outcome may enter at this height: whoever committed had time to open.
    pub fn may_conclude(&self, round: &Round, height: u64) -> bool {
        let s = &round.scores;
        let grace_over = s.revealed_height.is_some_and(|h| height > h.saturating_add(self.grace()));
        s.supported && (s.revealed.len() >= s.committed.len() || grace_over)
    }

    /// Whether the members must measure again: what they opened does not agree, or they do not open.
    pub(super) fn must_repeat(&self, round: &Round, height: u64) -> bool {
        let s = &round.scores;
        let grace = self.grace();
        let opened = s.revealed_height.is_some_and(|h| s.revealed.len() >= s.committed.len() || height > h + grace);
        let stuck =
            s.quorum_height.is_some_and(|h| height > h.saturating_add(PATIENCE_BLOCKS).saturating_add(4 * grace));
        !s.supported && (opened || stuck)
    }

    // R4
    pub(super) fn score(&self, who: NodeId, commit: &ScoreCommit, at: At) -> Result<Vec<Entry>, TxError> {
        let (mut model, _, t) = self.judged_round(who, commit.model, commit.round)?;
        let round = model.round.as_mut().ok_or(TxError::NoRound)?;
        if commit.attempt != round.scores.attempt {
            return Err(TxError::WrongAttempt(round.scores.attempt));
        }
        if round.scores.committed.contains(&who) || self.may_reveal_scores(round, at.height) {
            return Err(TxError::SaidAlready);
        }
        round.scores.committed.push(who);
        if round.scores.committed.len() == t {
            round.scores.quorum_height = Some(at.height);
        }
        let score = ScoreState {
            model: commit.model,
            round: commit.round,
            member: who,
            commitment: commit.commitment,
            committed_height: at.height,
            measured: None,
            agreed: None,
        };
        Ok(vec![Entry::Model(Box::new(model)), Entry::Score(Box::new(score))])
    }

    // R4
    pub(super) fn score_reveal(&self, who: NodeId, reveal: &ScoreReveal, at: At) -> Result<Vec<Entry>, TxError> {
        let o = &reveal.outcome;
        let (mut model, _, t) = self.judged_round(who, o.model, o.round)?;
        let (manifest, head) = (model.manifest.clone(), model.head.weights);
        let round = model.round.as_mut().ok_or(TxError::NoRound)?;
        if reveal.attempt != round.scores.attempt {
            return Err(TxError::WrongAttempt(round.scores.attempt));
        }
        if !self.may_reveal_scores(round, at.height) {
            return Err(TxError::ScoresHidden);
        }
        let score = self.score_of(o.model, o.round, who).filter(|_| round.scores.committed.contains(&who));
        let mut score = score.ok_or(TxError::NotAJudge)?.clone();
        if round.scores.revealed.contains(&who) {
            return Err(TxError::SaidAlready);
        }
        if score_commitment(who, o, reveal.salt) != score.commitment {
            return Err(TxError::WrongOpening);
        }
        let about = Some(o.sealed) == round.sealed && o.parent == head && o.claims.len() == round.claims.len();
        if !about || !o.fits_sealed(&manifest, round.opened) {
            return Err(TxError::WrongStatement);
        }
        if !o.is_consistent(&manifest) {
            return Err(TxError::WrongArithmetic);
        }
        let mut opened: Vec<&Outcome> = round
            .scores
            .revealed
            .iter()
            .filter_map(|m| self.score_of(o.model, o.round, *m)?.measured.as_deref())
            .collect();
        opened.push(o);
        round.scores.supported = opened.iter().any(|a| opened.iter().filter(|b| a.agrees(b)).count() >= t);
        round.scores.revealed.push(who);
        if round.scores.revealed.len() == t {
            round.scores.revealed_height = Some(at.height);
        }
        score.measured = Some(Box::new(o.clone()));
        Ok(vec![Entry::Model(Box::new(model)), Entry::Score(Box::new(score))])
    }

    /// One member's scores of a round.
    pub fn score_of(&self, model: ModelId, round: u64, member: NodeId) -> Option<&ScoreState> {
        self.scores.get(&(model, round, member)).map(AsRef::as_ref)
    }

    // R5, L5, S4, S6
    pub(super) fn outcome_tx(
        &self,
        outcome: &Outcome,
        signature: &GroupSignature,
        at: At,
    ) -> Result<Vec<Entry>, TxError> {
        let mut model = self.model_or(outcome.model)?.clone();
        let round = model.round.clone().ok_or(TxError::NoRound)?;
        if outcome.round != round.number {
            return Err(TxError::WrongRound(round.number));
        }
        let sealed = round.sealed.ok_or(TxError::NotSealed)?;
        if outcome.sealed != sealed
            || outcome.parent != model.head.weights
            || outcome.claims.len() != round.claims.len()
            || !outcome.fits_sealed(&model.manifest, round.opened)
        {
            return Err(TxError::WrongStatement);
        }
        if !outcome.is_consistent(&model.manifest) {
            return Err(TxError::WrongArithmetic);
        }
        let judges = self.judges(outcome.model).ok_or(TxError::NotSealed)?;
        let measured = |m: &NodeId| self.score_of(outcome.model, outcome.round, *m).and_then(|s| s.measured.as_deref());
        let support = round.scores.revealed.iter().filter_map(measured).filter(|mine| outcome.agrees(mine)).count();
        if support < judges.group.threshold() || !self.may_conclude(&round, at.height) {
            return Err(TxError::NotSupported);
        }
        let message = Attestation { chain: self.chain, statement: Statement::Outcome(outcome.clone()) };
        if !judges.group.verify(&codec::encode(&message), signature) {
            return Err(TxError::NotAttested);
        }
        let mut entries = self.book_scores(outcome, &round, judges.group.members(), at);
        for judged in &outcome.claims {
            let mut claim = self
                .claim(judged.claim)
                .filter(|c| round.claims.contains(&c.id))
                .ok_or(TxError::WrongStatement)?
                .clone();
            let hidden = matches!(judged.measurement, Measurement::NotRevealed);
            // free mode: judged by what the trainer itself stated
            let stated = match judged.measurement {
                Measurement::Added(added) => Some(added.stated_unat),
                _ => None,
            };
            if stated.is_some() && stated != claim.reveal.map(|r| r.stated_gain_unat) {
                return Err(TxError::WrongStatement);
            }
            if claim.trainer != judged.trainer || hidden != claim.reveal.is_none() {
                return Err(TxError::WrongStatement);
            }
            let pays = outcome.pays(judged);
            if let Some(escrow) = claim.escrow {
                let proved = if pays { judged.credit_unat } else { 0 };
                entries.push(self.judge_escrow(&mut model, escrow, proved, at)?);
            }
            let mut credit = self.credit_or_new(outcome.model, claim.trainer);
            credit.claims = credit.claims.saturating_add(1);
            credit.paid_claims = credit.paid_claims.saturating_add(pays.into());
            // P8: without an offer it was not for the trainer to go on
            let failed = credit.failed_in_a_row.saturating_add(claim.escrow.is_some().into());
            credit.failed_in_a_row = if pays { 0 } else { failed };
            credit.credit_unat = credit.credit_unat.saturating_add(judged.credit_unat);
            entries.push(Entry::Credit(credit));
            claim.judged = Some((*judged, at.height));
            entries.push(Entry::Claim(Box::new(claim)));
        }
        if let Some(scores) = &outcome.head {
            let test = if outcome.adopted() { scores.candidate_test } else { scores.parent_test };
            model.head.test = Some(test);
        }
        if outcome.adopted() {
            model.head.weights = outcome.new_head();
            model.head.round = outcome.round;
            model.proven_unat = model.proven_unat.saturating_add(outcome.proven_unat);
        }
        model.round = Some(open_round(outcome.round.saturating_add(1), at.height, outcome.next_beacon()));
        entries.push(Entry::Model(Box::new(model)));
        entries.push(Entry::Outcome(Box::new(OutcomeState {
            outcome: outcome.clone(),
            epoch: judges.number,
            signature: signature.clone(),
            height: at.height,
            time_ms: at.time_ms,
        })));
        Ok(entries)
    }

    /// Every member's part in a judged round goes on its record; false scores end its service (C6).
    fn book_scores(&self, outcome: &Outcome, round: &Round, members: &[NodeId], at: At) -> Vec<Entry> {
        let mut counts: Vec<(NodeId, Count)> = Vec::new();
        let (mut convicted, mut entries) = (Vec::new(), Vec::new());
        for member in members {
            counts.push((*member, |r| r.rounds = r.rounds.saturating_add(1)));
            if !round.scores.committed.contains(member) {
                counts.push((*member, |r| r.late = r.late.saturating_add(1)));
                continue;
            }
            let Some(score) = self.score_of(outcome.model, outcome.round, *member) else { continue };
            let Some(mine) = &score.measured else {
                counts.push((*member, |r| r.withheld = r.withheld.saturating_add(1)));
                continue;
            };
            let agreed = outcome.agrees(mine);
            if agreed {
                counts.push((*member, |r| r.agreed = r.agreed.saturating_add(1)));
            } else if mine.contradicts(outcome) {
                counts.push((*member, |r| r.false_scores = r.false_scores.saturating_add(1)));
                convicted.push((*member, Offence::FalseScores));
            } else {
                counts.push((*member, |r| r.incomparable = r.incomparable.saturating_add(1)));
            }
            let judged = ScoreState { measured: None, agreed: Some(agreed), ..score.clone() };
            entries.push(Entry::Score(Box::new(judged)));
        }
        entries.extend(self.book_service(at, &counts, &convicted));
        entries
    }

    // C6: a claim whose answer its sponsor knew beforehand
    pub(super) fn decoy(&self, who: NodeId, id: ClaimId, seed: Digest, at: At) -> Result<Vec<Entry>, TxError> {
        let claim = self.claim(id).ok_or(TxError::NoClaim(id))?.clone();
        let (Some(reveal), Some((judged, _)), false) = (claim.reveal, claim.judged, claim.decoy) else {
            return Err(TxError::NotADecoy);
        };
        let payer = claim.escrow.and_then(|e| self.escrow(e)).map(|e| e.payer);
        let manifest = &self.model_or(claim.model)?.manifest;
        if payer != Some(who) || reveal.salt != decoy::salt(seed) || reveal.delta != decoy::delta_ref(seed, manifest) {
            return Err(TxError::NotADecoy);
        }
        let outcome = self.outcome(claim.model, claim.round).ok_or(TxError::NotADecoy)?;
        let members = self.epoch_state(outcome.epoch).map(|e| e.group.members().to_vec()).unwrap_or_default();
        let accepted = judged.verdict == Verdict::Accepted;
        let counts: Vec<(NodeId, Count)> = members
            .into_iter()
            .filter(|m| self.score_of(claim.model, claim.round, *m).is_some_and(|s| s.agreed == Some(true)))
            .map(|m| {
                let add: Count = if accepted {
                    |r| r.decoys_failed = r.decoys_failed.saturating_add(1)
                } else {
                    |r| r.decoys_passed = r.decoys_passed.saturating_add(1)
                };
                (m, add)
            })
            .collect();
        let mut entries = self.book_service(at, &counts, &[]);
        entries.push(Entry::Claim(Box::new(ClaimState { decoy: true, ..claim })));
        Ok(entries)
    }
}
