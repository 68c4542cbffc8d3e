//! Trainers and a sponsor that want their models trained, and the replay all honest validators agree on.

use oda_consensus::engine::validator::{JudgeJob, Judged};
use oda_consensus::escrow::{Committee, Seeds, Stage, Terms, TrancheStatus};
use oda_consensus::fuzzing::sample_manifest;
use oda_consensus::ids::{BlobHash, BlobRef, ClaimId, Digest, ModelId, NodeId};
use oda_consensus::keys::NodeKey;
use oda_consensus::manifest::*;
use oda_consensus::outcome::Measured;
use oda_consensus::score::{ClaimScores, HeadScores, Measurement, Paired, TestReport};
use oda_consensus::state::State;
use oda_consensus::tx::{self, Commit, Fund, Reveal, SignedTx, Tx};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::collections::BTreeMap;

/// Two honest trainers, and one that delivers noise.
const HONEST: u8 = 2;
const TRAINERS: u8 = 3;
/// Any proven gain earns all of it.
const TERMS: Terms = Terms { rate_msat: 1_000, unit_msat: 1_000, tranches: 2 };

pub struct Market {
    manifests: Vec<Manifest>,
    sponsor: NodeKey,
    trainers: Vec<NodeKey>,
    /// The sponsor's seeds, by claim, with the epoch they are for.
    seeds: BTreeMap<ClaimId, (u64, Seeds)>,
    rng: ChaCha20Rng,
    /// No new round is begun any more.
    pub closing: bool,
}

fn manifest(name: &str) -> Manifest {
    let sample = sample_manifest(name);
    Manifest { timing: Timing { commit_blocks: 3, ..sample.timing }, ..sample }
}

impl Market {
    pub fn new(seed: u64, models: usize) -> Self {
        Self {
            manifests: (0..models).map(|i| manifest(&format!("model {i}"))).collect(),
            sponsor: NodeKey::from_secret(&[100; 32]),
            trainers: (0..TRAINERS).map(|i| NodeKey::from_secret(&[110 + i; 32])).collect(),
            seeds: BTreeMap::new(),
            rng: ChaCha20Rng::seed_from_u64(seed),
            closing: false,
        }
    }

    pub fn sponsor(&self) -> &NodeKey {
        &self.sponsor
    }

    pub fn models(&self) -> impl Iterator<Item = ModelId> + '_ {
        self.manifests.iter().map(Manifest::id)
    }

    /// What is due on the ledger and not on it yet. Said again until it is.
    pub fn act(&mut self, state: &State) -> Vec<SignedTx> {
        let mut out = Vec::new();
        let next = state.tip().height + 1;
        for manifest in self.manifests.clone() {
            let (model, timing) = (manifest.id(), manifest.timing);
            let sign = |tx, key: &NodeKey| SignedTx::new(tx, key, state.chain());
            let Some(known) = state.model(model) else {
                out.push(sign(Tx::AddModel(manifest), &self.sponsor));
                continue;
            };
            let Some(round) = &known.round else {
                let fund = Fund { model, terms: TERMS, budget_msat: 1_000_000_000 };
                out.push(sign(Tx::Fund(fund), &self.sponsor));
                continue;
            };
            if round.sealed.is_some() || (self.closing && round.claims.is_empty()) {
                continue;
            }
            let parent = known.head.weights.hash;
            for (i, trainer) in self.trainers.iter().enumerate() {
                let claim = tx::claim_id(model, round.number, trainer.id());
                let mut hash = [i as u8 + 1; 32];
                hash[..8].copy_from_slice(&round.number.to_le_bytes());
                let delta = BlobRef { hash: BlobHash(hash), len: 100 };
                let reveal = Reveal { claim, delta, stated_gain_unat: 7, salt: Digest([3; 32]) };
                let closed = round.commits_close(&timing).is_some_and(|close| next > close);
                match state.claim(claim) {
                    None if !closed => {
                        let (number, salt) = (round.number, reveal.salt);
                        let commitment = tx::commitment(trainer.id(), model, number, parent, delta, 7, salt);
                        out.push(sign(Tx::Commit(Commit { model, round: number, parent, commitment }), trainer));
                    }
                    Some(c) if c.escrow.is_none() => {
                        // another offer only when the one that was sent can no longer enter the ledger
                        let epoch = state.current().number;
                        if self.seeds.get(&claim).is_none_or(|(offered, _)| offered + 1 < epoch) {
                            let seeds = Seeds::draw(TERMS.tranches, &mut self.rng);
                            self.seeds.insert(claim, (epoch, seeds));
                        }
                        let (epoch, seeds) = &self.seeds[&claim];
                        let offer = with_committee(state, claim, *epoch, |c| seeds.offer(TERMS, *epoch, c));
                        out.push(sign(Tx::Offer(claim, offer.unwrap()), &self.sponsor));
                    }
                    Some(c) if state.escrow(c.escrow.unwrap()).unwrap().stage == Stage::Offered => {
                        out.push(sign(Tx::Choose(tx::claim_escrow(claim), reveal.salt), trainer));
                    }
                    Some(c) if state.escrow(c.escrow.unwrap()).unwrap().stage == Stage::Chosen => {
                        let epoch = state.escrow(c.escrow.unwrap()).unwrap().epoch;
                        let seeds = &self.seeds[&claim].1;
                        let opened =
                            with_committee(state, claim, epoch, |c| seeds.open(reveal.salt, TERMS.tranches, c));
                        out.push(sign(Tx::Deal(tx::claim_escrow(claim), opened.unwrap().1), &self.sponsor));
                    }
                    Some(c) if c.reveal.is_none() && closed => out.push(sign(Tx::Reveal(reveal), trainer)),
                    _ => {}
                }
            }
        }
        out
    }

    /// What a validator's replay measures. A sum may fall on the other side of a rounding edge (S2).
    pub fn replay(&self, job: &JudgeJob, validator: usize) -> Judged {
        let honest = |t: &NodeId| self.trainers.iter().take(HONEST.into()).any(|k| k.id() == *t);
        let mut accepted = false;
        let claims = job.claims.iter().map(|(claim, trainer, reveal)| {
            let measurement = match reveal {
                None => Measurement::NotRevealed,
                Some(_) => {
                    accepted |= honest(trainer);
                    let mut s = scores(if honest(trainer) { 60_000 } else { 0 });
                    s.gate.sum_unat += (job.round + validator as u64).is_multiple_of(3) as i64;
                    Measurement::Scored(s)
                }
            };
            (*claim, *trainer, measurement)
        });
        let claims: Vec<_> = claims.collect();
        let hash = blake3::hash(&[job.sealed.0, job.parent.hash.0].concat());
        let candidate = BlobRef { hash: BlobHash(*hash.as_bytes()), len: 400 };
        let test = |correct| TestReport { n: 64, loss_sum_unat: 64_000_000, correct };
        let confirm = paired(128, 10_000);
        let (parent_test, candidate_test) = (test(10), test(20));
        let head = HeadScores { candidate, confirm, guards: Vec::new(), parent_test, candidate_test };
        let measured = Measured { claims, twins: Vec::new(), head: accepted.then_some(head) };
        let (model, round, sealed, attempt) = (job.model, job.round, job.sealed, job.attempt);
        Judged { model, round, sealed, attempt, measured }
    }

    /// Every claim of a finished round has its verdict, and its payment is on its way or comes back.
    /// Returns how many are paid.
    pub fn assert_all_settled(&self, state: &State) -> usize {
        let mut paid = 0;
        for claim in state.claims() {
            let round = state.model(claim.model).unwrap().round.as_ref().unwrap().number;
            if claim.round == round {
                continue;
            }
            let (judged, _) = claim.judged.as_ref().unwrap_or_else(|| panic!("a claim of round {round} was lost"));
            let honest = self.trainers.iter().take(HONEST.into()).any(|k| k.id() == claim.trainer);
            assert!(claim.reveal.is_some(), "round {}: no reveal on the ledger", claim.round);
            let escrow = state.escrow(claim.escrow.expect("locked")).unwrap();
            let wanted = if honest { TrancheStatus::Releasing } else { TrancheStatus::Refunding };
            let all = escrow.stage == Stage::Judged && escrow.tranches.iter().all(|t| t.status == wanted);
            assert!(all, "round {} {:?}", claim.round, judged.verdict);
            paid += usize::from(honest);
        }
        paid
    }
}

fn with_committee<T>(state: &State, claim: ClaimId, epoch: u64, make: impl FnOnce(Committee<'_>) -> T) -> T {
    let group = &state.epoch_state(epoch).unwrap().group;
    let members = state.encryption_keys(group.members()).unwrap();
    make(Committee { escrow: tx::claim_escrow(claim), members: &members, threshold: group.threshold() })
}

fn paired(n: u32, mean: i64) -> Paired {
    let before = vec![3_000_000; n as usize];
    let after: Vec<i64> = (0..n).map(|i| 3_000_000 - mean - if i % 2 == 0 { 2_000 } else { -2_000 }).collect();
    Paired::of(&before, &after).unwrap()
}

fn scores(shard_gain: i64) -> ClaimScores {
    let probe = (shard_gain > 0).then(|| paired(128, 100));
    ClaimScores { shard: paired(64, shard_gain), gate: paired(128, 0), probe, norm_micro: 1_000_000 }
}
