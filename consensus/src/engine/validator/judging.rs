//! Judging a round (R4, R5): replay, commit to the scores, open them, sign what they confirm.

use super::{Due, Effects, ValidatorEffect, again};
use crate::codec;
use crate::frost::EncryptionSecret;
use crate::ids::{Beacon, BlobRef, ClaimId, Digest, ModelId, NodeId};
use crate::manifest::Manifest;
use crate::outcome::{Attestation, Measured, Outcome, Statement, outcome_topic};
use crate::record;
use crate::sealed::{GuardKey, key_for};
use crate::state::{Round, State};
use crate::tx::{Reveal, ScoreCommit, ScoreReveal, Tx, score_commitment};
use rand_core::{CryptoRng, RngCore};
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
    /// Claims with their trainer and what it revealed.
    pub claims: Vec<(ClaimId, NodeId, Option<Reveal>)>,
    /// Key of the sealed guards, if this round measures them; else they are skipped.
    pub guard_key: Option<GuardKey>,
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
    /// Attempt of the job.
    pub attempt: u32,
    /// What was measured.
    pub measured: Measured,
}

/// What a member must remember of its scores: it never commits to two.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct ScoreRecord {
    /// Attempt.
    pub attempt: u32,
    /// What it measured.
    pub outcome: Outcome,
    /// Salt of the commitment.
    pub salt: Digest,
}
record!(ScoreRecord, b"scrc", 61 << 10);

#[derive(Default)]
struct Work {
    round: u64,
    attempt: u32,
    judging: bool,
    mine: Option<ScoreRecord>,
    said: Option<u64>,
    opened: Option<u64>,
}

#[derive(Default)]
pub(super) struct Judging {
    records: BTreeMap<(ModelId, u64, u32), ScoreRecord>,
    work: BTreeMap<ModelId, Work>,
}

impl Judging {
    pub fn new(records: Vec<ScoreRecord>) -> Self {
        let keyed = |r: ScoreRecord| ((r.outcome.model, r.outcome.round, r.attempt), r);
        Self { records: records.into_iter().map(keyed).collect(), work: BTreeMap::new() }
    }

    /// The round of a model, if it is sealed and this node judges it.
    fn mine_to_judge(me: NodeId, state: &State, id: ModelId) -> Option<(&Round, Beacon)> {
        let round = state.model(id)?.round.as_ref()?;
        let member = state.judges(id)?.group.index_of(me).is_some();
        Some((round, round.sealed?)).filter(|_| member)
    }

    pub fn follow(&mut self, me: NodeId, state: &State, secret: &EncryptionSecret, out: &mut Effects) {
        let height = state.tip().height;
        let next = height.saturating_add(1);
        for (id, model) in state.models() {
            let Some((round, sealed)) = Self::mine_to_judge(me, state, id) else {
                self.work.remove(&id);
                continue;
            };
            let attempt = round.scores.attempt;
            let work = self.work.entry(id).or_default();
            if (work.round, work.attempt) != (round.number, attempt) {
                let mine = self.records.get(&(id, round.number, attempt)).cloned();
                *work = Work { round: round.number, attempt, mine, ..Work::default() };
                self.records.retain(|(m, r, _), _| *m != id || *r >= round.number);
            }
            let Some(mine) = &work.mine else {
                // S3: whoever cannot open the sealed guards that the round measures has nothing to say about it
                let key = (!work.judging).then(|| key_for(state, model, round, (me, secret))).flatten();
                if let Some(guard_key) = key {
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
                            .map(|c| (c.id, c.trainer, c.reveal))
                            .collect(),
                        guard_key,
                        attempt,
                    })));
                }
                continue;
            };
            let (committed, revealed) = (round.scores.committed.contains(&me), round.scores.revealed.contains(&me));
            if !committed && !state.may_reveal_scores(round, next) && again(work.said, height) {
                work.said = Some(height);
                let commitment = score_commitment(me, &mine.outcome, mine.salt);
                let (model, round) = (id, round.number);
                out.push(ValidatorEffect::Submit(Tx::Score(ScoreCommit { model, round, attempt, commitment })));
            }
            if committed && !revealed && state.may_reveal_scores(round, next) && again(work.opened, height) {
                work.opened = Some(height);
                let ScoreRecord { outcome, salt, .. } = mine.clone();
                out.push(ValidatorEffect::Submit(Tx::ScoreReveal(Box::new(ScoreReveal { attempt, outcome, salt }))));
            }
        }
    }

    pub fn judged(&mut self, state: &State, judged: Judged, rng: &mut (impl RngCore + CryptoRng), out: &mut Effects) {
        let Some(model) = state.model(judged.model) else { return };
        let current = model.round.as_ref().is_some_and(|r| r.number == judged.round && r.sealed == Some(judged.sealed));
        let fits =
            |w: &&mut Work| current && w.round == judged.round && w.attempt == judged.attempt && w.mine.is_none();
        let Some(work) = self.work.get_mut(&judged.model).filter(fits) else { return };
        work.judging = false;
        let name = (judged.model, judged.round, model.head.weights, judged.sealed);
        let outcome = Outcome::derive(&model.manifest, name, judged.measured);
        let mut salt = Digest([0; 32]);
        rng.fill_bytes(&mut salt.0);
        let record = ScoreRecord { attempt: judged.attempt, outcome, salt };
        out.push(ValidatorEffect::Persist(Box::new(record.clone())));
        self.records.insert((judged.model, judged.round, judged.attempt), record.clone());
        work.mine = Some(record);
    }

    pub fn failed(&mut self, model: ModelId, round: u64) {
        if let Some(work) = self.work.get_mut(&model).filter(|w| w.round == round) {
            work.judging = false; // asked for again at the next block
        }
    }

    /// Outcomes that are due: the topic is open, whoever leads; with a payload if the own scores are
    /// what a threshold of members opened.
    pub fn due(&self, me: NodeId, state: &State) -> Vec<(Digest, Due)> {
        let mut due = Vec::new();
        for (id, _) in state.models() {
            let Some((round, _)) = Self::mine_to_judge(me, state, id) else { continue };
            if !state.may_conclude(round, state.tip().height.saturating_add(1)) {
                continue;
            }
            let Some(judges) = state.judges(id) else { continue };
            let mine = self.work.get(&id).and_then(|w| w.mine.as_ref()).map(|r| &r.outcome);
            let opened = |m: &NodeId| state.score_of(id, round.number, *m)?.measured.as_deref();
            let supported = mine.filter(|mine| {
                let agree = round.scores.revealed.iter().filter_map(opened).filter(|o| mine.agrees(o)).count();
                agree >= judges.group.threshold()
            });
            let payload = supported.map(|outcome| {
                let statement = Statement::Outcome(outcome.clone());
                codec::encode(&Attestation { chain: state.chain(), statement })
            });
            due.push((outcome_topic(state.chain(), id, round.number), (judges.number, payload)));
        }
        due
    }

    /// Whether to sign an outcome: only what the own replay confirms (R5).
    pub fn opinion(&self, me: NodeId, state: &State, epoch: u64, outcome: &Outcome) -> Option<bool> {
        let Some(model) = state.model(outcome.model) else { return Some(false) };
        let number = model.round.as_ref().map_or(0, |r| r.number);
        if outcome.round != number {
            return if outcome.round > number { None } else { Some(false) };
        }
        let (round, _) = Self::mine_to_judge(me, state, outcome.model)?;
        if round.judges != Some(epoch) {
            return Some(false);
        }
        if !state.may_conclude(round, state.tip().height.saturating_add(1)) {
            return None; // scores are not open yet
        }
        let mine = self.work.get(&outcome.model)?.mine.as_ref()?;
        Some(outcome.agrees(&mine.outcome) && outcome.is_consistent(&model.manifest))
    }
}
