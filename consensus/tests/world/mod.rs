//! A small ledger with everything on it, for the corpus and the property tests: built through the public
//! constructors only, one function a kind, so that a new kind costs one function.

use oda_consensus::beacon::{BeaconInput, BeaconProof, BeaconShare, Partial};
use oda_consensus::codec;
use oda_consensus::epoch::{Membership, draw_input};
use oda_consensus::escrow::{Committee, Seeds, Terms};
use oda_consensus::evidence::Evidence;
use oda_consensus::frost::*;
use oda_consensus::fuzzing::{sample_genesis, sample_manifest, validator};
use oda_consensus::genesis::Genesis;
use oda_consensus::ids::*;
use oda_consensus::keys::NodeKey;
use oda_consensus::manifest::*;
use oda_consensus::outcome::{Attestation, Outcome, Statement, samples_input};
use oda_consensus::proof::{ExtensionProof, RecordProof};
use oda_consensus::records::{Version, consistency_path, inclusion_path};
use oda_consensus::score::{ClaimScores, HeadScores, Measurement, Paired, TestReport};
use oda_consensus::sealed::{self, GuardKey};
use oda_consensus::state::{Applied, DkgPhase, Entry, State, TxError};
use oda_consensus::tx::{
    self, Block, Commit, DkgMessage, DkgStep, Fund, Invite, Reveal, ScoreCommit, ScoreReveal, SignedTx, StorageProof,
    Tx, Unseal,
};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

const TERMS: Terms = Terms { rate_msat: 1_000, unit_msat: 1_000_000, tranches: 2 };

pub struct World {
    pub state: State,
    pub genesis: Genesis,
    seeds: Vec<(NodeId, EpochSeed)>,
    /// Every block so far.
    pub blocks: Vec<Block>,
    /// Every entry written so far.
    pub entries: Vec<Entry>,
    /// Every version recorded so far, in the order of the log, and every node of the log (L4).
    pub versions: Vec<Version>,
    pub nodes: BTreeMap<u64, Digest>,
    /// Every signing message sent so far.
    pub signing: Vec<SignMessage>,
    pub attestations: Vec<Attestation>,
    rng: ChaCha20Rng,
}

pub fn sponsor() -> NodeKey {
    NodeKey::from_secret(&[100; 32])
}

pub fn trainer(i: u8) -> NodeKey {
    NodeKey::from_secret(&[110 + i; 32])
}

pub fn manifest(name: &str) -> Manifest {
    sample_manifest(name)
}

/// A model with a sealed guard.
pub fn sealed_manifest() -> Manifest {
    let mut manifest = manifest("sealed");
    let blob = |n, len| BlobRef { hash: BlobHash([n; 32]), len };
    let split = Split { blob: blob(21, 500 + sealed::TAG_BYTES), samples: 16 };
    manifest.data.guards = vec![Guard { name: "sealed".into(), split, sealed: Some(blob(22, 500)) }];
    manifest
}

impl World {
    pub fn new() -> Self {
        let (genesis, seeds) = sample_genesis().expect("the sample genesis is sound");
        Self {
            state: State::new(genesis.clone()).unwrap(),
            genesis,
            seeds,
            blocks: Vec::new(),
            entries: Vec::new(),
            versions: Vec::new(),
            nodes: BTreeMap::new(),
            signing: Vec::new(),
            attestations: Vec::new(),
            rng: ChaCha20Rng::from_seed([8; 32]),
        }
    }

    pub fn sign(&self, tx: Tx, key: &NodeKey) -> SignedTx {
        SignedTx::new(tx, key, self.state.chain())
    }

    /// One block of these transactions; why the others were refused.
    pub fn block(&mut self, txs: &[SignedTx]) -> Vec<TxError> {
        let (block, refused) = self.state.build(txs, self.state.tip().time_ms + 100);
        self.apply(block);
        refused.into_iter().map(|(_, error)| error).collect()
    }

    fn apply(&mut self, block: Block) {
        let Applied { entries, appended } = self.state.apply(&block).expect("a built block applies");
        self.entries.extend(entries);
        self.versions.extend(appended.versions);
        self.nodes.extend(appended.nodes.iter().map(|n| (n.index, n.hash)));
        self.blocks.push(block);
    }

    /// Proof of a recorded version under a block, attested or not.
    pub fn proof(&self, version: &Version, under: &Block) -> RecordProof {
        let header = under.header;
        let path = inclusion_path(version.index, header.records, &|i| Ok(self.nodes.get(&i).copied())).unwrap();
        let Version { index, height, key, value } = version.clone();
        RecordProof { index, height, key, value, path, header }
    }

    /// Proof that the ledger of one block is the beginning of another's.
    pub fn extension(&self, old: &Block, new: &Block) -> ExtensionProof {
        let read = |i: u64| Ok(self.nodes.get(&i).copied());
        let path = consistency_path(old.header.records, new.header.records, &read).unwrap();
        ExtensionProof { old: old.header, new: new.header, path }
    }

    /// A genesis member's shares.
    fn keys(&self, i: usize) -> (KeyShare, BeaconShare) {
        let secret = (0..4).map(validator).find(|k| k.id() == self.seeds[i].0).unwrap().secret();
        let transcript = self.genesis.transcript().unwrap();
        transcript.shares(&self.seeds[i].1, i, &EncryptionSecret::derive(&secret)).unwrap()
    }

    /// A member's key.
    fn member(&self, i: usize) -> NodeKey {
        (0..4).map(validator).find(|k| k.id() == self.seeds[i].0).unwrap()
    }

    /// The committee evaluates the beacon.
    pub fn beacon(&mut self, input: &BeaconInput) -> BeaconProof {
        let partials: Vec<Partial> = (0..4).map(|i| self.keys(i).1.partial(input, &mut self.rng)).collect();
        self.state.current().beacon.combine(input, &partials).unwrap().1
    }

    /// The committee signs whatever it is given.
    pub fn attest(&mut self, statement: Statement) -> GroupSignature {
        let attestation = Attestation { chain: self.state.chain(), statement };
        let (topic, payload) = (attestation.topic(), codec::encode(&attestation));
        self.attestations.push(attestation);
        let members = self.state.group().members().to_vec();
        let mut signers: Vec<Signer> = (0..members.len())
            .map(|i| Signer::new(members[i], self.state.group().clone(), self.keys(i).0, SignerConfig::default()))
            .collect();
        let mut queue = VecDeque::new();
        (0..signers.len()).for_each(|i| queue.push_back((i, SignInput::Start)));
        for i in 0..signers.len() {
            queue.push_back((i, SignInput::Open { topic, payload: Some(payload.clone()) }));
            queue.push_back((i, SignInput::Approve { topic, payload_hash: payload_hash(&payload) }));
        }
        while let Some((to, input)) = queue.pop_front() {
            for effect in signers[to].handle(input, 1, &mut self.rng) {
                match effect {
                    SignEffect::Broadcast(message) => {
                        self.signing.push(message.clone());
                        let others = (0..members.len()).filter(|i| *i != to);
                        let (from, proof) = (members[to], Signature([0; 64]));
                        queue.extend(others.map(|i| (i, SignInput::Message { from, message: message.clone(), proof })));
                    }
                    SignEffect::Signed { signature, .. } => return signature,
                    _ => {}
                }
            }
        }
        panic!("no signature");
    }

    pub fn model(&self) -> ModelId {
        manifest("corpus").id()
    }

    pub fn add_model(&self) -> SignedTx {
        self.sign(Tx::AddModel(manifest("corpus")), &sponsor())
    }

    pub fn fund(&self) -> SignedTx {
        let fund = Fund { model: self.model(), terms: TERMS, budget_msat: 50_000_000 };
        self.sign(Tx::Fund(fund), &sponsor())
    }

    fn opening(&self, i: u8) -> Reveal {
        let claim = tx::claim_id(self.model(), 1, trainer(i).id());
        let delta = BlobRef { hash: BlobHash([i; 32]), len: 100 };
        Reveal { claim, delta, stated_gain_unat: 7, salt: Digest([3; 32]) }
    }

    pub fn commit(&self, i: u8) -> SignedTx {
        let (model, parent, r) = (self.model(), manifest("corpus").initial_head.hash, self.opening(i));
        let commitment = tx::commitment(trainer(i).id(), model, 1, parent, r.delta, r.stated_gain_unat, r.salt);
        self.sign(Tx::Commit(Commit { model, round: 1, parent, commitment }), &trainer(i))
    }

    fn with_committee<T>(&self, i: u8, make: impl FnOnce(Committee<'_>) -> T) -> T {
        let members = self.state.encryption_keys(self.state.group().members()).unwrap();
        make(Committee { escrow: tx::claim_escrow(self.opening(i).claim), members: &members, threshold: threshold(4) })
    }

    /// The sponsor's offer for a claim, with the seeds it commits to.
    pub fn offer(&mut self, i: u8) -> (SignedTx, Seeds) {
        let seeds = Seeds::draw(TERMS.tranches, &mut self.rng);
        let offer = self.with_committee(i, |c| seeds.offer(TERMS, 0, c)).unwrap();
        (self.sign(Tx::Offer(self.opening(i).claim, offer), &sponsor()), seeds)
    }

    /// The trainer's draw.
    pub fn choose(&self, i: u8) -> SignedTx {
        self.sign(Tx::Choose(tx::claim_escrow(self.opening(i).claim), Digest([7; 32])), &trainer(i))
    }

    /// What the sponsor deals after it, with the preimages.
    pub fn deal(&self, i: u8, seeds: &Seeds) -> (SignedTx, Vec<Preimage>) {
        let (preimages, opening) = self.with_committee(i, |c| seeds.open(Digest([7; 32]), TERMS.tranches, c)).unwrap();
        (self.sign(Tx::Deal(tx::claim_escrow(self.opening(i).claim), opening), &sponsor()), preimages)
    }

    pub fn reveal(&self, i: u8) -> SignedTx {
        self.sign(Tx::Reveal(self.opening(i)), &trainer(i))
    }

    pub fn settle(&self, i: u8, preimages: Vec<Preimage>) -> SignedTx {
        self.sign(Tx::Settle(tx::claim_escrow(self.opening(i).claim), preimages), &trainer(i))
    }

    pub fn refund(&self, i: u8) -> SignedTx {
        self.sign(Tx::Refund(tx::claim_escrow(self.opening(i).claim), [0, 1].into_iter().collect()), &sponsor())
    }

    /// The key of a model's sealed guards, for the first committee and for everyone.
    pub fn unseal(&self) -> [SignedTx; 2] {
        let (key, model) = (GuardKey::new([11; 32]), sealed_manifest().id());
        let members = self.state.encryption_keys(self.state.epoch_state(0).unwrap().group.members()).unwrap();
        let boxes = sealed::box_key(&key, &members, (self.state.chain(), model, 0)).unwrap();
        [Unseal::Committee { model, epoch: 0, boxes }, Unseal::Public { model, key: key.public() }]
            .map(|unseal| self.sign(Tx::Unseal(unseal), &sponsor()))
    }

    /// A guest list (P8).
    pub fn invite(&self) -> SignedTx {
        let model = sealed_manifest().id();
        let guests = BTreeSet::from([trainer(0).id(), trainer(1).id()]).into_iter().collect();
        self.sign(Tx::Invite(Invite { model, turn: 1, guests }), &sponsor())
    }

    /// An answer to a storage challenge (D2).
    pub fn storage_proof(&self) -> SignedTx {
        self.sign(Tx::StorageProof(StorageProof { epoch: 1, slice: vec![6; 1_088] }), &sponsor())
    }

    /// An empty block, so much later.
    pub fn wait_ms(&mut self, ms: u64) {
        let (block, _) = self.state.build(&[], self.state.tip().time_ms + ms);
        self.apply(block);
    }

    /// Seals the first round and judges it: each claim accepted, or refused as noise.
    pub fn judge(&mut self, claims: &[(ClaimId, NodeId, bool)]) {
        let paired = |n: u32, mean: i64| {
            let before = vec![3_000_000; n as usize];
            let after: Vec<i64> = (0..n).map(|i| 3_000_000 - mean - if i % 2 == 0 { 2_000 } else { -2_000 }).collect();
            Paired::of(&before, &after).unwrap()
        };
        let scored = |gain: i64| ClaimScores {
            shard: paired(64, gain),
            gate: paired(128, 0),
            probe: (gain > 0).then(|| paired(128, 100)),
            norm_micro: 1_000_000,
        };
        let revealed = |c: &ClaimId| self.state.claim(*c).is_some_and(|c| c.reveal.is_some());
        let measured = claims.iter().map(|(claim, trainer, good)| {
            let scores = Measurement::Scored(scored(if *good { 60_000 } else { 0 }));
            (*claim, *trainer, if revealed(claim) { scores } else { Measurement::NotRevealed })
        });
        let test = |correct| TestReport { n: 64, loss_sum_unat: 64_000_000, correct };
        let head = claims.iter().any(|(.., good)| *good).then(|| HeadScores {
            candidate: BlobRef { hash: BlobHash([0xaa; 32]), len: 400 },
            // 2,000 micro-nats at the rate of the funding: two of three units
            confirm: paired(128, 2_500),
            guards: Vec::new(),
            parent_test: test(10),
            candidate_test: test(20),
        });
        let measured = measured.collect();
        self.verdict(measured, head);
    }

    /// Seal, scores of all members, outcome.
    fn verdict(&mut self, claims: Vec<(ClaimId, NodeId, Measurement)>, head: Option<HeadScores>) -> Vec<SignedTx> {
        let key = validator(0);
        let mut all = Vec::new();
        let mut put = |world: &mut Self, tx: SignedTx| {
            let refused = world.block(std::slice::from_ref(&tx));
            assert!(refused.is_empty(), "{}: {refused:?}, {:?}", tx.kind(), world.state.claims().collect::<Vec<_>>());
            all.push(tx);
        };
        let seal = self.state.seal_of(self.model()).unwrap();
        let proof = self.beacon(&samples_input(self.state.chain(), seal.model, seal.round));
        let tx = self.sign(Tx::Seal(seal, proof), &key);
        put(self, tx);
        let (model, parent) = (self.model(), manifest("corpus").initial_head);
        let sealed = self.state.model(model).unwrap().round.as_ref().unwrap().sealed.unwrap();
        let measured = oda_consensus::outcome::Measured { claims, twins: Vec::new(), head };
        let outcome = Outcome::derive(&manifest("corpus"), (model, 1, parent, sealed), measured);
        for open in [false, true] {
            for i in 0..4 {
                let (key, salt, attempt) = (self.member(i), Digest([5; 32]), 0);
                let commitment = tx::score_commitment(key.id(), &outcome, salt);
                let tx = if open {
                    Tx::ScoreReveal(Box::new(ScoreReveal { attempt, outcome: outcome.clone(), salt }))
                } else {
                    Tx::Score(ScoreCommit { model, round: 1, attempt, commitment })
                };
                let tx = self.sign(tx, &key);
                put(self, tx);
            }
        }
        let signature = self.attest(Statement::Outcome(outcome.clone()));
        let tx = self.sign(Tx::Outcome(outcome, signature), &key);
        put(self, tx);
        all
    }

    /// A round with two claims from commit to verdict (one revealed and refused, one never revealed).
    pub fn whole_round(&mut self) -> Vec<SignedTx> {
        let mut all = Vec::new();
        let mut put = |world: &mut Self, txs: Vec<SignedTx>| {
            let refused = world.block(&txs);
            assert!(refused.is_empty(), "{refused:?}");
            all.extend(txs);
        };
        let txs = vec![self.add_model(), self.fund()];
        put(self, txs);
        let txs = vec![self.commit(0), self.commit(1)];
        put(self, txs);
        let offers = [self.offer(0), self.offer(1)];
        put(self, offers.iter().map(|(tx, _)| tx.clone()).collect());
        let txs = vec![self.choose(0), self.choose(1)];
        put(self, txs);
        let txs = vec![self.deal(0, &offers[0].1).0, self.deal(1, &offers[1].1).0];
        put(self, txs);
        (0..2).for_each(|_| put(self, Vec::new()));
        let txs = vec![self.reveal(0)];
        put(self, txs);
        (0..8).for_each(|_| put(self, Vec::new()));
        let refused = Measurement::Refused(oda_consensus::score::Refusal::NotServed);
        let claim = |i| (self.opening(i).claim, trainer(i).id());
        let claims = vec![(claim(0).0, claim(0).1, refused), (claim(1).0, claim(1).1, Measurement::NotRevealed)];
        all.extend(self.verdict(claims, None));
        let mut put = |world: &mut Self, txs: Vec<SignedTx>| {
            let refused = world.block(&txs);
            assert!(refused.is_empty(), "{refused:?}");
            all.extend(txs);
        };
        let txs = vec![self.refund(0)];
        put(self, txs);
        let txs = vec![self.sign(Tx::AddModel(sealed_manifest()), &sponsor())];
        put(self, txs);
        let txs = self.unseal().to_vec();
        put(self, txs);
        let txs = vec![self.invite()];
        put(self, txs);
        let txs = self.next_committee();
        all.extend(txs);
        all
    }

    /// Draw, key generation and handover of the next epoch, a checkpoint, an application, evidence.
    pub fn next_committee(&mut self) -> Vec<SignedTx> {
        let mut all = Vec::new();
        let mut put = |world: &mut Self, tx: SignedTx| {
            let refused = world.block(std::slice::from_ref(&tx));
            assert!(refused.is_empty(), "{refused:?}");
            all.push(tx);
        };
        let proof = self.beacon(&draw_input(self.state.chain(), 1));
        let tx = self.sign(Tx::Draw(1, proof), &validator(0));
        put(self, tx);
        let seeds: Vec<EpochSeed> = (0..4).map(|_| EpochSeed::random(&mut self.rng)).collect();
        while self.state.dkg().is_some_and(|d| d.phase != DkgPhase::Done) {
            let dkg = self.state.dkg().unwrap().clone();
            for (i, seed) in seeds.iter().enumerate() {
                let transcript = || self.state.transcript(1, 0, &dkg.members).unwrap();
                let key = (0..4).map(validator).find(|k| k.id() == dkg.members[i]).unwrap();
                let step = match dkg.phase {
                    DkgPhase::Deal => {
                        DkgStep::Deal(deal_round1(seed, dkg_context(self.state.chain(), 1, 0), i, 4).unwrap())
                    }
                    DkgPhase::Share => {
                        let keys = self.state.encryption_keys(&dkg.members).unwrap();
                        DkgStep::Share(transcript().deal_round2(seed, i, &keys).unwrap())
                    }
                    _ => DkgStep::Confirm(transcript().bad_dealers(i, &EncryptionSecret::derive(&key.secret()))),
                };
                let tx = self.sign(Tx::Dkg(DkgMessage { epoch: 1, attempt: 0, step }), &key);
                put(self, tx);
            }
        }
        let handover = self.state.coming().unwrap().handover();
        let signature = self.attest(Statement::Handover(handover.clone()));
        let tx = self.sign(Tx::Handover(handover, signature), &validator(0));
        put(self, tx);
        let checkpoint = self.state.due_checkpoint().unwrap();
        let signature = self.attest(Statement::Checkpoint(checkpoint));
        let tx = self.sign(Tx::Checkpoint(checkpoint, signature), &validator(0));
        put(self, tx);
        let applicant = validator(9);
        let encryption = EncryptionSecret::derive(&applicant.secret()).public();
        let tx = self.sign(Tx::Apply(encryption), &applicant);
        put(self, tx);
        let since = self.state.validator(applicant.id()).unwrap().since;
        let admit = Membership::Admit { node: applicant.id(), encryption, since };
        let signature = self.attest(Statement::Membership(admit));
        let tx = self.sign(Tx::Membership(admit, signature), &validator(0));
        put(self, tx);
        let tx = self.sign(Tx::Leave, &applicant);
        put(self, tx);
        let score =
            |n| Tx::Score(ScoreCommit { model: self.model(), round: 9, attempt: 0, commitment: Digest([n; 32]) });
        let bytes = |tx: Tx| codec::encode(&self.sign(tx, &validator(3)));
        let evidence = Evidence::Twice(bytes(score(1)), bytes(score(2)));
        let tx = self.sign(Tx::Evidence(evidence), &validator(0));
        put(self, tx);
        all
    }
}
