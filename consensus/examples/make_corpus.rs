//! Writes the seed corpus of the fuzz targets, the same files every time:
//! `cargo run -p oda-consensus --example make_corpus`. Run it after changing an encoding.
//!
//! Real values of every kind, not hand-made bytes: a fuzzer that starts from them gets behind the header
//! check at once. Stale files of a target are removed first.

#[path = "../tests/world/mod.rs"]
#[allow(dead_code)]
mod world;

use oda_consensus::bft::*;
use oda_consensus::codec::{self, Record};
use oda_consensus::custody;
use oda_consensus::fuzzing::{CHAIN, join, targets, validator, validators};
use oda_consensus::ids::{Beacon, BlockHash, ClaimId, EscrowId, ModelId};
use oda_consensus::keys::NodeKey;
use oda_consensus::outcome::Statement;
use oda_consensus::snapshot::SnapshotOffer;
use oda_consensus::state::{ChallengeState, Entry, StorageRecord};
use oda_consensus::tx::Block;
use oda_consensus::wire::*;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use world::World;

/// Files by target and name.
type Corpus = BTreeMap<(&'static str, String), Vec<u8>>;

fn put<T: Record>(corpus: &mut Corpus, target: &'static str, name: impl Into<String>, value: &T) {
    corpus.insert((target, name.into()), codec::encode(value));
}

fn main() -> std::io::Result<()> {
    let mut corpus = Corpus::new();
    let mut world = World::new();
    let txs = world.whole_round();
    ledger(&mut corpus, &world, &txs);
    attestations(&mut corpus, &world);
    network(&mut corpus, &world, &txs);
    agreement(&mut corpus);
    deltas(&mut corpus);

    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (target, _) in targets() {
        let dir = root.join(target);
        if dir.exists() {
            std::fs::remove_dir_all(&dir)?;
        }
        std::fs::create_dir_all(&dir)?;
    }
    for ((target, name), bytes) in &corpus {
        std::fs::write(root.join(target).join(name), bytes)?;
    }
    println!("{} files for {} targets", corpus.len(), targets().len());
    Ok(())
}

fn ledger(corpus: &mut Corpus, world: &World, txs: &[oda_consensus::tx::SignedTx]) {
    put(corpus, "genesis", "four_validators", &world.genesis);
    put(corpus, "transcript", "genesis", &world.genesis.transcript().expect("the sample genesis is sound"));
    for link in world.state.links(0, 9) {
        put(corpus, "handover_link", format!("epoch_{}", link.handover.epoch), &link);
    }
    put(corpus, "manifest", "small", &world::manifest("corpus"));
    for tx in txs {
        put(corpus, "signed_tx", tx.kind(), tx);
    }
    let settle = world.settle(1, vec![oda_consensus::ids::Preimage([9; 32])]);
    put(corpus, "signed_tx", "settle", &settle);
    put(corpus, "signed_tx", "storage-proof", &world.storage_proof());
    put(corpus, "manifest", "sealed_guard", &world::sealed_manifest());
    for block in &world.blocks {
        let kinds: Vec<&str> = block.txs.iter().map(|t| t.kind()).collect();
        let name = if kinds.is_empty() { "empty".into() } else { kinds.join("_") };
        put(corpus, "block", name.clone(), block);
        put(corpus, "decided_block", name, &decided(block));
    }
    let (last, middle) = (&world.blocks[world.blocks.len() - 1], &world.blocks[world.blocks.len() / 2]);
    for version in
        [&world.versions[0], &world.versions[world.versions.len() / 2], &world.versions[world.versions.len() - 1]]
    {
        put(corpus, "record_proof", format!("record_{}", version.index), &world.proof(version, last));
    }
    put(corpus, "record_proof", "extension", &world.extension(middle, last));
    put(corpus, "record_proof", "log", world.state.log());
    let nodes: Vec<_> = (0..4).map(|i| validator(i).id()).collect();
    let blobs = world::manifest("corpus").blobs().into_iter().collect();
    let asked = custody::draw(Beacon([5; 32]), &blobs, &nodes);
    let storage = StorageRecord { node: nodes[0], kept: 3, missed: 1, last_kept: Some(4) };
    let kept = [Entry::Challenge(Box::new(ChallengeState { epoch: 1, asked })), Entry::Storage(storage)];
    for entry in world.entries.iter().chain(&kept) {
        let name = match entry {
            Entry::Tip(_) => "tip",
            Entry::Log(_) => "log",
            Entry::Model(_) => "model",
            Entry::Claim(_) => "claim",
            Entry::Escrow(_) => "escrow",
            Entry::Outcome(_) => "outcome",
            Entry::Credit(_) => "credit",
            Entry::Federation(_) => "federation",
            Entry::Epoch(_) => "epoch",
            Entry::Dkg(_) => "dkg",
            Entry::Dealing(_) => "dealing",
            Entry::Validator(_) => "validator",
            Entry::Score(_) => "score",
            Entry::Checkpoint(_) => "checkpoint",
            Entry::Challenge(_) => "challenge",
            Entry::Storage(_) => "storage",
        };
        corpus.insert(("entry", name.into()), join(&[entry.key(), entry.value()]));
    }
}

fn decided(block: &Block) -> DecidedBlock {
    let bytes = codec::encode(block);
    let (height, round, id) = (block.header.height, 0, block_id(&bytes));
    let kind = arc_malachitebft_core_types::VoteType::Precommit;
    let sign = |i| (validator(i).id(), vote(i, kind, height, Some(id)).signature);
    let certificate = CommitCertificate { height, round, block: id, signatures: (0..3).map(sign).collect() };
    DecidedBlock { block: block.clone(), certificate }
}

fn attestations(corpus: &mut Corpus, world: &World) {
    for attestation in &world.attestations {
        let name = match attestation.statement {
            Statement::Outcome(_) => "outcome",
            Statement::Handover(_) => "handover",
            Statement::Checkpoint(_) => "checkpoint",
            Statement::Membership(_) => "membership",
        };
        put(corpus, "attestation", name, attestation);
    }
    for message in &world.signing {
        use oda_consensus::frost::SignMessage;
        let name = match message {
            SignMessage::Nonces { .. } => "nonces",
            SignMessage::Request { .. } => "request",
            SignMessage::Share { .. } => "share",
            SignMessage::Decline { .. } => "decline",
        };
        put(corpus, "sign_message", name, message);
        let key = validator(0);
        let envelope = CommitteeEnvelope { from: key.id(), epoch: 0, message: CommitteeMessage::Sign(message.clone()) };
        let signature = key.sign(CHAIN, &envelope);
        put(corpus, "committee_envelope", name, &SignedCommitteeEnvelope { envelope, signature });
    }
}

fn peer_record(key: &NodeKey, lightning: bool) -> SignedPeerRecord {
    let lightning = lightning.then(|| LightningAddress { node_id: "02".repeat(33), address: "127.0.0.1:9735".into() });
    let record = PeerRecord {
        node: key.id(),
        seq_ms: 1_700_000_000_000,
        role: if lightning.is_some() { Role::Full } else { Role::Lite },
        blobs: vec!["127.0.0.1:4001".into(), "[::1]:4001".into()],
        p2p: vec!["/ip4/127.0.0.1/udp/4002/quic-v1".into()],
        submissions: lightning.is_some().then(|| Submissions { url: "http://127.0.0.1:8646".into(), fee_msat: 10_000 }),
        lightning,
    };
    SignedPeerRecord::new(record, key, CHAIN)
}

fn network(corpus: &mut Corpus, world: &World, txs: &[oda_consensus::tx::SignedTx]) {
    let hello = peer_record(&validator(0), true);
    put(corpus, "signed_peer_record", "full", &hello);
    put(corpus, "signed_peer_record", "lite", &peer_record(&validator(1), false));
    let model = world.model();
    let claim = world.state.claims().next().cloned();
    let requests = [
        ("hello", Request::Hello(hello.clone())),
        ("status", Request::Status),
        ("blocks", Request::Blocks { from: 1, max: MAX_BLOCKS }),
        ("submit", Request::SubmitTx(Box::new(txs[0].clone()))),
        ("models", Request::Models),
        ("model", Request::Model(model)),
        ("outcome", Request::Outcome(model, 1)),
        ("changed", Request::Changed(EscrowId([4; 32]))),
        ("shares", Request::Shares(EscrowId([4; 32]))),
        ("invoice", Request::Invoice { escrow: EscrowId([4; 32]), tranche: 1, bolt11: "lnbcrt50u1".into() }),
        ("peers", Request::Peers),
        ("epochs", Request::Epochs { after: 0 }),
        ("checkpoint", Request::Checkpoint),
        ("snapshot", Request::Snapshot),
        ("delta", Request::Delta { claim: ClaimId([5; 32]), from_byte: 131_072 }),
    ];
    for (name, request) in requests {
        put(corpus, "request", name, &request);
    }
    let outcome = world.state.outcome(model, 1).cloned();
    let view = world.state.model(model).cloned().map(|model| ModelView { height: 9, model, last: outcome.clone() });
    let claim = claim.map(|claim| {
        let escrow = claim.escrow.and_then(|id| world.state.escrow(id)).cloned();
        ClaimView { height: 9, claim, escrow, share_held: true, outcome: outcome.clone() }
    });
    let offer = world.state.checkpoints().next().cloned().map(|checkpoint| SnapshotOffer {
        checkpoint,
        header: world.blocks[0].header,
        blob: oda_consensus::ids::BlobRef::of(b"snapshot"),
    });
    let responses = [
        ("hello", Response::Hello(hello.clone())),
        ("status", Response::Status(world.state.tip())),
        ("blocks", Response::Blocks(world.blocks.iter().take(2).map(decided).collect())),
        ("accepted", Response::Accepted),
        ("models", Response::Models(vec![model, ModelId([1; 32])])),
        ("model", Response::Model(view.map(Box::new))),
        ("no_model", Response::Model(None)),
        ("claim", Response::Claim(claim.map(Box::new))),
        ("outcome", Response::Outcome(outcome.map(Box::new))),
        ("peers", Response::Peers(vec![hello])),
        ("refused", Response::Refused("not now".into())),
        ("epochs", Response::Epochs(world.state.links(0, MAX_LINKS))),
        ("checkpoint", Response::Checkpoint(world.state.checkpoints().next().cloned().map(Box::new))),
        ("snapshot", Response::Snapshot(offer.map(Box::new))),
        ("no_snapshot", Response::Snapshot(None)),
        ("delta", Response::Delta(vec![7; 3])),
    ];
    for (name, response) in responses {
        put(corpus, "response", name, &response);
    }
}

/// One delta of each shape the target knows: half of the kept changes from the chunk's end, large and small, and
/// where all are kept, zeros too.
fn deltas(corpus: &mut Corpus) {
    use oda_consensus::delta::{Chunk, Kept, encode};
    for (parameters, training) in oda_consensus::fuzzing::delta_shapes() {
        let (size, keep) = (training.chunk as usize, training.keep_per_chunk as usize);
        let chunks: Vec<Chunk> = (0..parameters)
            .step_by(size)
            .map(|at| {
                let len = size.min(parameters - at);
                let count = keep.min(len);
                let places = (0..count / 2).chain(len - count.div_ceil(2)..len);
                let kept = places.map(|at| Kept {
                    at: u16::try_from(at).expect("within a chunk"),
                    negative: at % 3 == 0,
                    large: at >= count / 2,
                });
                Chunk { low: if keep == size { 0 } else { 120 }, high: 140, kept: kept.collect() }.tidied()
            })
            .collect();
        let bytes = encode(parameters, &training, &chunks).expect("as the format wants it");
        corpus.insert(("delta", format!("{parameters}_by_{keep}_of_{size}")), bytes);
    }
}

fn vote(i: u8, kind: arc_malachitebft_core_types::VoteType, height: u64, block: Option<BlockHash>) -> SignedVote {
    use arc_malachitebft_core_types::NilOrVal;
    let key = validator(i);
    let block = block.map_or(NilOrVal::Nil, NilOrVal::Val);
    let vote = Vote { kind, height: Height(height), round: 0u32.into(), block, voter: key.id() };
    SignedVote { signature: key.sign(CHAIN, &vote), vote }
}

/// Height 1 of four validators, each with its log; everything they say becomes a file.
fn agreement(corpus: &mut Corpus) {
    use arc_malachitebft_core_types::VoteType::{Precommit, Prevote};
    let id = block_id(b"a block");
    put(corpus, "bft_message", "nil_vote", &Message::Vote(vote(1, Prevote, 1, None)));
    put(corpus, "bft_message", "future_vote", &Message::Vote(vote(1, Precommit, 2, Some(id))));
    let polka = (1..4).map(|i| vote(i, Prevote, 1, Some(id))).collect();
    put(corpus, "bft_message", "polka", &Message::Polka(polka));
    let votes: Vec<SignedVote> = (1..4).map(|i| vote(i, Precommit, 1, None)).collect();
    put(corpus, "bft_message", "round", &Message::Round { skip: false, votes: votes.clone() });
    put(corpus, "bft_message", "skip", &Message::Round { skip: true, votes });

    let config = |i| BftConfig { key: Arc::new(validator(i)), chain: CHAIN, timeouts: Timeouts::default() };
    let mut engines: Vec<Bft> = (0..4).map(|i| Bft::new(config(i), 1, &validators()).unwrap()).collect();
    let mut logs = vec![Vec::new(); 4];
    let mut queue: std::collections::VecDeque<(usize, BftInput)> = Default::default();
    let mut effects: Vec<(usize, BftEffect)> = Vec::new();
    for (i, engine) in engines.iter_mut().enumerate() {
        effects.extend(engine.replay(&[]).unwrap().into_iter().map(|e| (i, e)));
    }
    loop {
        for (i, effect) in std::mem::take(&mut effects) {
            match effect {
                BftEffect::WalAppend { entry, .. } => logs[i].push(entry),
                BftEffect::Publish(bytes) => {
                    let name = match codec::decode::<Message>(&bytes) {
                        Ok(Message::Proposal(..)) => "proposal",
                        Ok(Message::Vote(v)) if v.vote.kind == Prevote => "prevote",
                        _ => "precommit",
                    };
                    corpus.insert(("bft_message", name.into()), bytes.clone());
                    let message = |to| (to, BftInput::Message { bytes: bytes.clone() });
                    queue.extend((0..4).filter(|to| *to != i).map(message));
                }
                BftEffect::NeedBlock { height, round, .. } => {
                    queue.push_back((i, BftInput::Propose { height, round, block: b"a block".to_vec() }));
                }
                BftEffect::ValidateBlock { height, block_id, .. } => {
                    queue.push_back((i, BftInput::Validated { height, block_id, valid: true }));
                }
                _ => {}
            }
        }
        let Some((to, input)) = queue.pop_front() else { break };
        effects.extend(engines[to].handle(input).unwrap_or_default().into_iter().map(|e| (to, e)));
    }
    corpus.insert(("bft_replay", "no_log".into()), Vec::new());
    // the target replays as validator 0
    corpus.insert(("bft_replay", "decided".into()), join(&logs[0]));
    corpus.insert(("bft_replay", "half".into()), join(&logs[0][..logs[0].len() / 2]));
    corpus.insert(("bft_replay", "of_another".into()), join(&logs[1]));
}
