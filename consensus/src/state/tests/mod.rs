//! Worlds in which the ledger's rules are tested; the tests are by subject.

mod challenge;
mod federation;
mod judging;
mod money;
mod places;
mod sealed;

use super::*;
use crate::beacon::{BeaconInput, BeaconProof};
use crate::epoch::Federation;
use crate::escrow::{Committee, Seeds, Terms};
use crate::frost::{
    EncryptionKey, EncryptionSecret, EpochSeed, GroupSignature, SignEffect, SignInput, Signer, SignerConfig,
    payload_hash,
};
use crate::genesis::{BitcoinNetwork, Validator};
use crate::ids::{Beacon, BlobHash, BlobRef, Digest, Preimage, Signature};
use crate::keys::NodeKey;
use crate::manifest::Manifest;
use crate::outcome::{Attestation, Measured, Outcome, Statement, samples_input};
use crate::score::{ClaimScores, HeadScores, Measurement, Paired, Refusal, TestReport};
use crate::tx::{self, Commit, Fund, Reveal, ScoreCommit, ScoreReveal, Tx};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

/// Nine of ten thousand micro-nats proven earn nine of fifteen units.
const TERMS: Terms = Terms { rate_msat: 1_000, unit_msat: 1_000_000, tranches: 4 };
const CHOICE: Digest = Digest([7; 32]);

/// A committee of four, a sponsor and three trainers on one ledger.
struct World {
    state: State,
    /// Secrets of the genesis committee, in member order.
    seeds: Vec<EpochSeed>,
    members: Vec<NodeKey>,
    sponsor: NodeKey,
    trainers: Vec<NodeKey>,
    manifest: Manifest,
    rng: ChaCha20Rng,
}

impl World {
    fn new() -> Self {
        Self::with(Federation { epoch_blocks: 0, checkpoint_blocks: 0, ..Federation::default() }, 4)
    }

    fn with(federation: Federation, validators: u8) -> Self {
        let mut rng = ChaCha20Rng::from_seed([7; 32]);
        let keys: Vec<NodeKey> = (0..validators).map(|i| NodeKey::from_secret(&[i + 1; 32])).collect();
        let genesis = Genesis {
            name: "test".into(),
            bitcoin: BitcoinNetwork::Regtest,
            time_ms: 1,
            block_interval_ms: 100,
            validators: keys
                .iter()
                .map(|k| Validator { node: k.id(), encryption: EncryptionSecret::derive(&k.secret()).public() })
                .collect(),
            federation,
            first_committee: Vec::new(),
        };
        let (genesis, seeds) = Genesis::ceremony(genesis, &mut rng).unwrap();
        let key_of = |id: NodeId| (0..validators).map(|i| NodeKey::from_secret(&[i + 1; 32])).find(|k| k.id() == id);
        let members = seeds.iter().map(|(id, _)| key_of(*id).unwrap()).collect();
        Self {
            state: State::new(genesis).unwrap(),
            seeds: seeds.into_iter().map(|(_, seed)| seed).collect(),
            members,
            sponsor: NodeKey::from_secret(&[100; 32]),
            trainers: (0..3u8).map(|i| NodeKey::from_secret(&[110 + i; 32])).collect(),
            manifest: crate::manifest::tests::sample(),
            rng,
        }
    }

    /// One block of these transactions, as every node would apply it.
    fn block(&mut self, txs: &[(Tx, &NodeKey)]) -> Result<(), TxError> {
        let chain = self.state.chain();
        let signed: Vec<SignedTx> = txs.iter().map(|(tx, key)| SignedTx::new(tx.clone(), key, chain)).collect();
        let (block, mut refused) = self.state.build(&signed, self.state.tip().time_ms + 100);
        let before = self.state.clone();
        let entries = self.state.apply(&block).expect("a built block applies").entries;
        // L2, D3: a state restored from the stored entries is the same state
        let mut restored = before;
        entries.into_iter().for_each(|e| restored.restore(Entry::decode(&e.key(), &e.value()).unwrap()));
        assert_eq!(restored.tip(), self.state.tip());
        assert_eq!(restored.build(&[], 10).0, self.state.build(&[], 10).0);
        refused.pop().map_or(Ok(()), |(_, error)| Err(error))
    }

    fn idle(&mut self, blocks: u64) {
        (0..blocks).for_each(|_| self.block(&[]).unwrap());
    }

    /// The genesis committee signs whatever it is given; the rules under test are the ledger's.
    fn attest(&mut self, statement: Statement) -> GroupSignature {
        let (transcript, group) =
            (self.state.genesis().transcript().unwrap(), &self.state.epoch_state(0).unwrap().group);
        let signers = self.members.iter().enumerate().map(|(i, k)| {
            let secret = EncryptionSecret::derive(&k.secret());
            let (share, _) = transcript.shares(&self.seeds[i], i, &secret).unwrap();
            (k.id(), Signer::new(k.id(), group.clone(), share, SignerConfig::default()))
        });
        attest(signers.collect(), &Attestation { chain: self.state.chain(), statement }, &mut self.rng)
    }

    /// The genesis committee evaluates the beacon.
    fn beacon(&mut self, input: &BeaconInput) -> BeaconProof {
        let transcript = self.state.genesis().transcript().unwrap();
        let mut partials = Vec::new();
        for (i, k) in self.members.iter().enumerate() {
            let secret = EncryptionSecret::derive(&k.secret());
            let (_, share) = transcript.shares(&self.seeds[i], i, &secret).unwrap();
            partials.push(share.partial(input, &mut self.rng));
        }
        self.state.epoch_state(0).unwrap().beacon.combine(input, &partials).unwrap().1
    }

    fn model(&self) -> ModelId {
        self.manifest.id()
    }

    fn fund(&self) -> Tx {
        Tx::Fund(Fund { model: self.model(), terms: TERMS, budget_msat: 50_000_000 })
    }

    fn start(&mut self) {
        let (manifest, sponsor) = (self.manifest.clone(), NodeKey::from_secret(&[100; 32]));
        self.block(&[(Tx::AddModel(manifest), &sponsor), (self.fund(), &sponsor)]).unwrap();
    }

    fn reveal_of(&self, trainer: usize) -> Reveal {
        let round = self.state.model(self.model()).unwrap().round.clone().unwrap().number;
        let claim = tx::claim_id(self.model(), round, self.trainers[trainer].id());
        let delta = BlobRef { hash: BlobHash([trainer as u8; 32]), len: 100 };
        Reveal { claim, delta, stated_gain_unat: 7, salt: Digest([3; 32]) }
    }

    fn commit_of(&self, trainer: usize) -> Tx {
        let model = self.state.model(self.model()).unwrap();
        let round = model.round.as_ref().unwrap().number;
        let r = self.reveal_of(trainer);
        let parent = model.head.weights.hash;
        let who = self.trainers[trainer].id();
        let commitment = tx::commitment(who, self.model(), round, parent, r.delta, r.stated_gain_unat, r.salt);
        Tx::Commit(Commit { model: self.model(), round, parent, commitment })
    }

    fn with_committee<T>(&self, trainer: usize, make: impl FnOnce(Committee<'_>) -> T) -> T {
        let members: Vec<EncryptionKey> = self.state.encryption_keys(self.state.group().members()).unwrap();
        let escrow = tx::claim_escrow(self.reveal_of(trainer).claim);
        make(Committee { escrow, members: &members, threshold: 3 })
    }

    fn offer_of(&mut self, trainer: usize) -> (Tx, Seeds) {
        let seeds = Seeds::draw(TERMS.tranches, &mut self.rng);
        let offer = self.with_committee(trainer, |c| seeds.offer(TERMS, 0, c)).unwrap();
        (Tx::Offer(self.reveal_of(trainer).claim, offer), seeds)
    }

    fn choose_of(&self, trainer: usize) -> Tx {
        Tx::Choose(tx::claim_escrow(self.reveal_of(trainer).claim), CHOICE)
    }

    fn deal_of(&self, trainer: usize, seeds: &Seeds) -> (Tx, Vec<Preimage>) {
        let (preimages, opening) = self.with_committee(trainer, |c| seeds.open(CHOICE, TERMS.tranches, c)).unwrap();
        (Tx::Deal(tx::claim_escrow(self.reveal_of(trainer).claim), opening), preimages)
    }

    /// The sponsor offers, the trainers draw, the sponsor deals. Returns the preimages of each.
    fn to_dealt(&mut self, trainers: &[usize]) -> Vec<Vec<Preimage>> {
        let (sponsor, keys) = (NodeKey::from_secret(&[100; 32]), self.trainer_keys());
        let offers: Vec<_> = trainers.iter().map(|t| self.offer_of(*t)).collect();
        self.block(&offers.iter().map(|(tx, _)| (tx.clone(), &sponsor)).collect::<Vec<_>>()).unwrap();
        self.block(&trainers.iter().map(|t| (self.choose_of(*t), &keys[*t])).collect::<Vec<_>>()).unwrap();
        let deals: Vec<_> = trainers.iter().zip(&offers).map(|(t, (_, seeds))| self.deal_of(*t, seeds)).collect();
        self.block(&deals.iter().map(|(tx, _)| (tx.clone(), &sponsor)).collect::<Vec<_>>()).unwrap();
        deals.into_iter().map(|(_, preimages)| preimages).collect()
    }

    fn trainer_keys(&self) -> Vec<NodeKey> {
        (0..3u8).map(|i| NodeKey::from_secret(&[110 + i; 32])).collect()
    }

    /// Trainers commit, the sponsor deals, they reveal, the committee seals. Returns the preimages.
    fn to_sealed(&mut self, trainers: &[usize]) -> Vec<Vec<Preimage>> {
        let keys = self.trainer_keys();
        for t in trainers {
            let tx = self.commit_of(*t);
            self.block(&[(tx, &keys[*t])]).unwrap();
        }
        let preimages = self.to_dealt(trainers);
        self.idle(2);
        for t in trainers {
            let tx = Tx::Reveal(self.reveal_of(*t));
            self.block(&[(tx, &keys[*t])]).unwrap();
        }
        self.seal();
        preimages
    }

    fn seal(&mut self) {
        let seal = self.state.seal_of(self.model()).unwrap();
        let proof = self.beacon(&samples_input(self.state.chain(), seal.model, seal.round));
        let key = NodeKey::from_secret(&[1; 32]);
        self.block(&[(Tx::Seal(seal, proof), &key)]).unwrap();
    }

    fn commit_scores(&mut self, member: usize, outcome: &Outcome) -> Result<(), TxError> {
        let attempt = self.round().scores.attempt;
        let key = NodeKey::from_secret(&self.members[member].secret());
        let commitment = tx::score_commitment(key.id(), outcome, Digest([5; 32]));
        let (model, round) = (outcome.model, outcome.round);
        self.block(&[(Tx::Score(ScoreCommit { model, round, attempt, commitment }), &key)])
    }

    fn open_scores(&mut self, member: usize, outcome: &Outcome) -> Result<(), TxError> {
        let attempt = self.round().scores.attempt;
        let key = NodeKey::from_secret(&self.members[member].secret());
        let reveal = ScoreReveal { attempt, outcome: outcome.clone(), salt: Digest([5; 32]) };
        self.block(&[(Tx::ScoreReveal(Box::new(reveal)), &key)])
    }

    /// Members commit to their scores, then open them.
    fn score(&mut self, scores: &[(usize, Outcome)]) {
        scores.iter().for_each(|(m, o)| self.commit_scores(*m, o).unwrap());
        self.idle(4);
        scores.iter().for_each(|(m, o)| self.open_scores(*m, o).unwrap());
    }

    fn round(&self) -> Round {
        self.state.model(self.model()).unwrap().round.clone().unwrap()
    }

    /// An outcome with the given trainers honest and the rest measured as noise.
    fn outcome(&self, honest: &[usize]) -> Outcome {
        let model = self.state.model(self.model()).unwrap();
        let round = model.round.clone().unwrap();
        let claims: Vec<_> = round
            .claims
            .iter()
            .map(|c| self.state.claim(*c).unwrap())
            .map(|c| {
                let is_honest = honest.iter().any(|t| self.trainers[*t].id() == c.trainer);
                let m = match (c.reveal.is_some(), is_honest) {
                    (false, _) => Measurement::NotRevealed,
                    (true, true) => Measurement::Scored(scores(60_000)),
                    (true, false) => Measurement::Scored(scores(0)),
                };
                (c.id, c.trainer, m)
            })
            .collect();
        let head = (!honest.is_empty()).then(|| head_scores(10_000));
        let name = (self.model(), round.number, model.head.weights, round.sealed.unwrap());
        Outcome::derive(&self.manifest, name, Measured { claims, twins: Vec::new(), head })
    }

    /// All members score the outcome, and the committee signs it.
    fn submit(&mut self, outcome: Outcome) -> Result<(), TxError> {
        if self.round().scores.revealed.is_empty() && self.round().number == outcome.round {
            self.score(&(0..4).map(|m| (m, outcome.clone())).collect::<Vec<_>>());
        }
        self.submit_signed(outcome)
    }

    fn submit_signed(&mut self, outcome: Outcome) -> Result<(), TxError> {
        let signature = self.attest(Statement::Outcome(outcome.clone()));
        let key = NodeKey::from_secret(&[1; 32]);
        self.block(&[(Tx::Outcome(outcome, signature), &key)])
    }
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

fn head_scores(gain: i64) -> HeadScores {
    let test = |correct| TestReport { n: 64, loss_sum_unat: 64_000_000, correct };
    let candidate = BlobRef { hash: BlobHash([0xaa; 32]), len: 400 };
    let (parent_test, candidate_test) = (test(10), test(20));
    HeadScores { candidate, confirm: paired(128, gain), guards: Vec::new(), parent_test, candidate_test }
}

/// What these members sign together.
fn attest(signers: Vec<(NodeId, Signer)>, attestation: &Attestation, rng: &mut ChaCha20Rng) -> GroupSignature {
    let (topic, payload) = (attestation.topic(), crate::codec::encode(attestation));
    let (ids, mut signers): (Vec<NodeId>, Vec<Signer>) = signers.into_iter().unzip();
    let mut queue = std::collections::VecDeque::new();
    (0..signers.len()).for_each(|i| queue.push_back((i, SignInput::Start)));
    for i in 0..signers.len() {
        queue.push_back((i, SignInput::Approve { topic, payload_hash: payload_hash(&payload) }));
        queue.push_back((i, SignInput::Open { topic, payload: Some(payload.clone()) }));
    }
    while let Some((to, input)) = queue.pop_front() {
        for effect in signers[to].handle(input, 1, rng) {
            match effect {
                SignEffect::Broadcast(message) => {
                    let others = (0..signers.len()).filter(|i| *i != to);
                    let (from, proof) = (ids[to], Signature([0; 64]));
                    queue.extend(others.map(|i| (i, SignInput::Message { from, message: message.clone(), proof })));
                }
                SignEffect::Signed { signature, .. } => return signature,
                _ => {}
            }
        }
    }
    panic!("no signature");
}
