//! Following a chain of epochs, and executing a full block.

use super::Bench;
use super::keys::Members;
use oda_consensus::beacon::BeaconKey;
use oda_consensus::codec;
use oda_consensus::epoch::{EpochChain, Federation, Handover, HandoverLink};
use oda_consensus::escrow::Terms;
use oda_consensus::frost::{
    EncryptionSecret, EpochSeed, GroupKey, GroupSignature, KeyShare, SignEffect, SignInput, Signer, SignerConfig,
    Transcript, payload_hash,
};
use oda_consensus::fuzzing::sample_manifest;
use oda_consensus::genesis::{BitcoinNetwork, Genesis, Validator};
use oda_consensus::ids::{ChainId, Signature};
use oda_consensus::keys::NodeKey;
use oda_consensus::outcome::{Attestation, Statement};
use oda_consensus::state::State;
use oda_consensus::tx::{Fund, SignedTx, Tx};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::collections::VecDeque;

const EPOCHS: u64 = 1_000;
/// Groups are used again after so many epochs: making one costs more than signing a link.
const GROUPS: usize = 8;
const SPONSORS: u64 = 16;
const FUNDS: u64 = 1_000;

/// A committee that signs handovers.
struct Group {
    group: GroupKey,
    beacon: BeaconKey,
    signers: Vec<Signer>,
}

impl Group {
    fn new(transcript: &Transcript, seeds: &[EpochSeed], secrets: &[EncryptionSecret]) -> Self {
        let (group, beacon) = transcript.keys().expect("keys");
        let share = |i: usize| -> KeyShare { transcript.shares(&seeds[i], i, &secrets[i]).expect("shares").0 };
        let new = |(i, m): (usize, &_)| Signer::new(*m, group.clone(), share(i), SignerConfig::default());
        let mut signers: Vec<Signer> = group.members().iter().enumerate().map(new).collect();
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let start: VecDeque<_> = (0..signers.len()).map(|i| (i, SignInput::Start)).collect();
        run_signers(&group, &mut signers, start, &mut rng);
        Self { group, beacon, signers }
    }

    fn sign(&mut self, attestation: &Attestation, rng: &mut ChaCha20Rng) -> GroupSignature {
        let (topic, payload) = (attestation.topic(), codec::encode(attestation));
        let mut queue = VecDeque::new();
        for i in 0..self.signers.len() {
            queue.push_back((i, SignInput::Approve { topic, payload_hash: payload_hash(&payload) }));
            queue.push_back((i, SignInput::Open { topic, payload: Some(payload.clone()) }));
        }
        let signature = run_signers(&self.group, &mut self.signers, queue, rng).expect("a signature");
        let close = (0..self.signers.len()).map(|i| (i, SignInput::Close { topic })).collect();
        run_signers(&self.group, &mut self.signers, close, rng);
        signature
    }
}

fn run_signers(
    group: &GroupKey,
    signers: &mut [Signer],
    mut queue: VecDeque<(usize, SignInput)>,
    rng: &mut ChaCha20Rng,
) -> Option<GroupSignature> {
    let mut signed = None;
    while let Some((to, input)) = queue.pop_front() {
        for effect in signers[to].handle(input, 1, rng) {
            match effect {
                SignEffect::Broadcast(message) => {
                    let (from, proof) = (group.members()[to], Signature([0; 64]));
                    let others = (0..signers.len()).filter(|i| *i != to);
                    queue.extend(others.map(|i| (i, SignInput::Message { from, message: message.clone(), proof })));
                }
                SignEffect::Signed { signature, .. } => signed = Some(signature),
                _ => {}
            }
        }
    }
    signed
}

fn genesis(n: usize, rng: &mut ChaCha20Rng) -> (Genesis, Vec<EpochSeed>, Vec<EncryptionSecret>) {
    let keys: Vec<NodeKey> = (0..n).map(|i| NodeKey::from_secret(&[i as u8 + 1; 32])).collect();
    let encryption = |key: &NodeKey| EncryptionSecret::derive(&key.secret());
    let genesis = Genesis {
        name: "bench".into(),
        bitcoin: BitcoinNetwork::Regtest,
        time_ms: 1,
        block_interval_ms: 100,
        validators: keys.iter().map(|k| Validator { node: k.id(), encryption: encryption(k).public() }).collect(),
        federation: Federation { committee: n as u16, epoch_blocks: 0, ..Federation::default() },
        first_committee: Vec::new(),
    };
    let (genesis, seeds) = Genesis::ceremony(genesis, rng).expect("a genesis");
    let secret_of = |node| keys.iter().find(|k| k.id() == node).map(&encryption).expect("a member");
    let secrets = seeds.iter().map(|(node, _)| secret_of(*node)).collect();
    (genesis, seeds.into_iter().map(|(_, seed)| seed).collect(), secrets)
}

/// Measures.
pub fn run(bench: &mut Bench) {
    for n in [4usize, 7] {
        if bench.wants(&format!("chain/n={n}")) && bench.real {
            chain(bench, n);
        }
    }
    if bench.wants("block/") {
        block(bench);
    }
}

/// Every link is a real one: each epoch's keys signed by the group before.
fn chain(bench: &mut Bench, n: usize) {
    let mut rng = ChaCha20Rng::seed_from_u64(n as u64);
    let (genesis, seeds, secrets) = genesis(n, &mut rng);
    let mut groups = vec![Group::new(&genesis.transcript().expect("a transcript"), &seeds, &secrets)];
    for epoch in 1..GROUPS as u64 {
        let members = Members::new(n, &mut rng);
        groups.push(Group::new(&members.deal(epoch), &members.seeds, &members.secrets));
    }
    let chain: ChainId = genesis.chain();
    let mut links = Vec::new();
    for epoch in 1..=EPOCHS {
        let next = &groups[epoch as usize % GROUPS];
        let handover = Handover::new(epoch, &next.group, &next.beacon);
        let attestation = Attestation { chain, statement: Statement::Handover(handover.clone()) };
        let signature = groups[(epoch as usize - 1) % GROUPS].sign(&attestation, &mut rng);
        links.push(HandoverLink { handover, signature });
    }
    let files: Vec<Vec<u8>> = links.iter().map(codec::encode).collect();
    println!("chain/n={n}: {EPOCHS} links, {} bytes", files.iter().map(Vec::len).sum::<usize>());
    let fresh = || (EpochChain::new(&genesis).expect("a chain"), links.clone());
    let follow = |(mut chain, links): (EpochChain, Vec<HandoverLink>)| {
        links.into_iter().for_each(|link| chain.advance(link).expect("a good link"));
        assert_eq!(chain.epoch(), EPOCHS);
    };
    bench.time(&format!("chain/n={n} verify {EPOCHS} epochs"), fresh, follow);
    bench.time(
        &format!("chain/n={n} decode and verify {EPOCHS} epochs"),
        || (),
        |()| {
            let links = files.iter().map(|bytes| codec::decode(bytes).expect("a link")).collect();
            follow((EpochChain::new(&genesis).expect("a chain"), links));
        },
    );
}

fn block(bench: &mut Bench) {
    let (genesis, ..) = genesis(4, &mut ChaCha20Rng::seed_from_u64(9));
    let chain = genesis.chain();
    let mut state = State::new(genesis).expect("a state");
    let sponsors: Vec<NodeKey> = (0..SPONSORS).map(|i| NodeKey::from_secret(&[100 + i as u8; 32])).collect();
    let manifest = sample_manifest("bench");
    let model = manifest.id();
    let (first, _) = state.build(&[SignedTx::new(Tx::AddModel(manifest), &sponsors[0], chain)], 100);
    state.apply(&first).expect("the first block");
    let fund = |i: u64| Tx::Fund(Fund { model, terms: Terms::whole(1), budget_msat: 1 + i / SPONSORS });
    let sign = |i: u64| SignedTx::new(fund(i), &sponsors[(i % SPONSORS) as usize], chain);
    let txs: Vec<SignedTx> = (0..FUNDS).map(sign).collect();
    let (block, refused) = state.build(&txs, 200);
    assert!(refused.is_empty() && block.txs.len() as u64 == FUNDS, "all are included");
    println!("block/: {} bytes", codec::encode(&block).len());
    bench.time("block/build, 1,000 fund transactions", || (), |()| state.build(&txs, 200));
    bench.time("block/check signatures of 1,000 transactions", || (), |()| txs.iter().all(|t| t.is_authentic(chain)));
    bench.time(
        "block/apply, 1,000 fund transactions",
        || state.clone(),
        |mut s| s.apply(&block).expect("a good block"),
    );
    bench.time(
        "block/build and apply an empty block",
        || state.clone(),
        |mut s| {
            let (block, _) = s.build(&[], 200);
            s.apply(&block).expect("a good block")
        },
    );
}
