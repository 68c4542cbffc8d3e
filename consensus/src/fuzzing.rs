//! What the fuzz targets run: one body for each message that comes from outside.
//!
//! The obvious way, bodies inside the fuzz crate, runs them only where a fuzzer is installed. Here the same
//! code serves `fuzz/fuzz_targets/*` and the ordinary test that replays the corpus (`tests/corpus.rs`).
//! Each target checks two things: nothing panics, and what decodes encodes back to the same bytes (K2, K3).

use crate::bft::{self, Bft, BftConfig, BftInput, Message, Timeouts};
use crate::codec::{self, Record};
use crate::delta;
use crate::epoch::{Checkpoint, Federation, HandoverLink};
use crate::frost::{EncryptionSecret, EpochSeed, SignMessage, Transcript};
use crate::genesis::{BitcoinNetwork, Genesis, Validator};
use crate::ids::{BlobHash, BlobRef, ChainId, NodeId};
use crate::keys::NodeKey;
use crate::manifest::{Architecture, DataSet, Judging, Manifest, Objective, Split, Timing, Training, WorkMode};
use crate::outcome::Attestation;
use crate::proof::{ExtensionProof, RecordProof};
use crate::records::{LedgerRecord, MAX_RECORDS, RecordLog};
use crate::state::{Entry, State};
use crate::tx::{Block, Header, SignedTx};
use crate::wire::{DecidedBlock, Request, Response, SignedCommitteeEnvelope, SignedPeerRecord};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::sync::{Arc, OnceLock};

/// A target: its name, which is also its corpus directory, and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// The chain of all signatures in the corpus that bind to one.
pub const CHAIN: ChainId = ChainId([7; 32]);

/// All targets, ascending by name.
pub fn targets() -> &'static [Target] {
    &[
        ("attestation", attestation),
        ("bft_message", bft_message),
        ("bft_replay", bft_replay),
        ("block", block),
        ("committee_envelope", committee_envelope),
        ("decided_block", decided_block),
        ("delta", delta),
        ("entry", entry),
        ("genesis", genesis),
        ("handover_link", handover_link),
        ("manifest", manifest),
        ("record_proof", record_proof),
        ("request", request),
        ("response", response),
        ("sign_message", sign_message),
        ("signed_peer_record", signed_peer_record),
        ("signed_tx", signed_tx),
        ("transcript", transcript),
    ]
}

/// Runs one target; an unknown name is a mistake in the fuzz crate.
///
/// # Panics
/// If there is no such target, or if the target has found something.
pub fn run(name: &str, bytes: &[u8]) {
    let target = targets().iter().find(|(known, _)| *known == name);
    assert!(target.is_some(), "no fuzz target {name}");
    target.into_iter().for_each(|(_, body)| body(bytes));
}

/// Key of one of the four validators in the corpus.
pub fn validator(index: u8) -> NodeKey {
    NodeKey::from_secret(&[index.saturating_add(1); 32])
}

/// The four validators in the corpus.
pub fn validators() -> Vec<NodeId> {
    (0..4).map(|i| validator(i).id()).collect()
}

/// The genesis of the corpus with the seeds of the four validators' first keys. `None` is a bug.
pub fn sample_genesis() -> Option<(Genesis, Vec<(NodeId, EpochSeed)>)> {
    let encryption = |key: &NodeKey| EncryptionSecret::derive(&key.secret()).public();
    let genesis = Genesis {
        name: "corpus".into(),
        bitcoin: BitcoinNetwork::Regtest,
        time_ms: 1,
        block_interval_ms: 100,
        validators: (0..4).map(validator).map(|k| Validator { node: k.id(), encryption: encryption(&k) }).collect(),
        federation: Federation { epoch_blocks: 1_000, checkpoint_blocks: 5, ..Federation::default() },
        first_committee: Vec::new(),
    };
    Genesis::ceremony(genesis, &mut ChaCha20Rng::from_seed([7; 32])).ok()
}

/// A small valid manifest: four inputs, two classes, blobs that exist nowhere. For corpus, tests and benches.
pub fn sample_manifest(name: &str) -> Manifest {
    let blob = |n: u8, len| BlobRef { hash: BlobHash([n; 32]), len };
    let split = |n, samples| Split { blob: blob(n, 1000), samples };
    Manifest {
        name: name.into(),
        architecture: Architecture::Mlp { inputs: 4, hidden: vec![3], classes: 2 },
        objective: Objective::CrossEntropy,
        data: DataSet { train: split(1, 512), eval: split(3, 512), test: split(5, 64), guards: Vec::new() },
        initial_head: blob(9, 400),
        work_mode: WorkMode::Assigned,
        training: Training {
            inner_steps: 10,
            batch: 16,
            lr_micro: 1000,
            weight_decay_micro: 0,
            chunk: 64,
            keep_per_chunk: 8,
            feedback_milli: 0,
            outer_lr_milli: 1000,
        },
        judging: Judging {
            shard_samples: 64,
            gate_samples: 128,
            screen_samples: 0,
            confirm_samples: 128,
            assigned_z_milli: 3000,
            harm_z_milli: 2330,
            adopt_z_milli: 2330,
            probe_divisor: 8,
            norm_cap_milli: 10_000,
            least_work_milli: 700,
            copy_cosine_milli: 800,
            min_gain_unat: 1,
            max_delta_bytes: 10_000,
            max_claims: 16,
        },
        timing: Timing { commit_blocks: 4, linger_blocks: 2, reveal_blocks: 6 },
    }
}

/// Shapes the target `delta` reads its input as: parameters, and how they are compressed.
pub fn delta_shapes() -> [(usize, Training); 4] {
    let training = sample_manifest("corpus").training;
    [(23, 64, 8), (300, 64, 8), (100, 16, 16), (70_000, 65_536, 1)]
        .map(|(parameters, chunk, keep_per_chunk)| (parameters, Training { chunk, keep_per_chunk, ..training }))
}

/// The ledger of [`sample_genesis`] before its first block; made once, a key generation takes a while.
fn sample_state() -> Option<&'static State> {
    static STATE: OnceLock<Option<State>> = OnceLock::new();
    STATE.get_or_init(|| State::new(sample_genesis()?.0).ok()).as_ref()
}

/// Encodes a log, or any list of byte strings, as an input of `bft_replay`.
pub fn join(parts: &[Vec<u8>]) -> Vec<u8> {
    let frame = |part: &Vec<u8>| [&u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes()[..], part].concat();
    parts.iter().flat_map(frame).collect()
}

/// Most log entries tried at once.
const MAX_PARTS: usize = 64;

/// The reverse of [`join`]; what does not fit is cut.
fn split(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut parts = Vec::new();
    while let (Some((len, rest)), true) = (bytes.split_first_chunk::<4>(), parts.len() < MAX_PARTS) {
        let len = usize::try_from(u32::from_le_bytes(*len)).unwrap_or(usize::MAX).min(rest.len());
        let (part, rest) = rest.split_at(len);
        parts.push(part.to_vec());
        bytes = rest;
    }
    parts
}

/// Decodes and checks that the value encodes back to the same bytes.
fn decoded<T: Record>(bytes: &[u8]) -> Option<T> {
    let value = codec::decode::<T>(bytes).ok()?;
    assert!(codec::encode(&value) == bytes, "encodes back to other bytes");
    Some(value)
}

fn engine(index: u8) -> Option<Bft> {
    let config = BftConfig { key: Arc::new(validator(index)), chain: CHAIN, timeouts: Timeouts::default() };
    Bft::new(config, 1, &validators()).ok()
}

fn attestation(bytes: &[u8]) {
    if let Some(value) = decoded::<Attestation>(bytes) {
        value.topic();
    }
}

fn bft_message(bytes: &[u8]) {
    if let Some(message) = decoded::<Message>(bytes) {
        message.height();
    }
    let Some(mut bft) = engine(0) else { return };
    let _started = bft.replay(&[]);
    let _first = bft.handle(BftInput::Message { bytes: bytes.to_vec() });
    let again = bft.handle(BftInput::Message { bytes: bytes.to_vec() });
    assert!(again.is_err() || again.is_ok_and(|effects| effects.is_empty()), "a repeated message moves nothing");
}

fn bft_replay(bytes: &[u8]) {
    let Some(mut bft) = engine(0) else { return };
    // Sealed again, or every mutation would end at the seal.
    let entries = split(bytes).iter().map(|part| bft::unsealed(part)).collect();
    let log = bft::sealed_log(CHAIN, validator(0).id(), 1, entries);
    if bft.replay(&log).is_err() {
        let refused = bft.handle(BftInput::Message { bytes: bytes.to_vec() });
        assert!(matches!(refused, Err(bft::BftError::NotStarted)), "a validator with a damaged log is silent");
    }
}

fn block(bytes: &[u8]) {
    if let Some(block) = decoded::<Block>(bytes) {
        applied_twice(&block);
    }
}

/// L2: total and deterministic.
fn applied_twice(block: &Block) {
    let Some(state) = sample_state() else { return };
    let (mut first, mut second) = (state.clone(), state.clone());
    let (a, b) = (first.apply(block), second.apply(block));
    assert!(a == b && first.tip() == second.tip(), "two results of one block");
    assert!(a.is_ok() || first.tip() == state.tip(), "a refused block changes nothing");
    let (built, refused) = state.build(&block.txs, block.header.time_ms);
    assert!(state.build(&block.txs, block.header.time_ms) == (built, refused), "two blocks of one list");
}

fn decided_block(bytes: &[u8]) {
    if let Some(decided) = decoded::<DecidedBlock>(bytes) {
        let _proven = bft::verify_certificate(CHAIN, &validators(), &decided.certificate);
        // as every receiver does before it believes the certificate
        bft::block_id(&codec::encode(&decided.block));
        applied_twice(&decided.block);
    }
}

fn delta(bytes: &[u8]) {
    let judging = sample_manifest("corpus").judging;
    for (parameters, training) in delta_shapes() {
        if let Ok(chunks) = delta::chunks(bytes, parameters, &training) {
            let again = delta::encode(parameters, &training, &chunks);
            assert!(again.as_deref() == Ok(bytes), "encodes back to other bytes");
            assert!(bytes.len() <= delta::max_len(parameters, &training), "longer than any delta");
        }
        if let Ok(read) = delta::decode(bytes, parameters, &training, &judging) {
            assert!(read.changes.iter().all(|(at, _)| (*at as usize) < parameters), "a change outside the model");
            read.cosine_milli(&read);
        }
    }
}

fn entry(bytes: &[u8]) {
    let parts = split(bytes);
    let [key, value] = parts.as_slice() else { return };
    if let Ok(entry) = Entry::decode(key, value) {
        assert!((entry.key(), entry.value()) == (key.clone(), value.clone()), "encodes back to other bytes");
    }
}

fn genesis(bytes: &[u8]) {
    if let Some(genesis) = decoded::<Genesis>(bytes) {
        let sound = genesis.check().is_ok();
        assert!(!sound || State::new(genesis).is_ok(), "a sound genesis starts a ledger");
    }
}

fn manifest(bytes: &[u8]) {
    if let Some(manifest) = decoded::<Manifest>(bytes) {
        let _sound = manifest.check();
        manifest.id();
    }
}

fn record_proof(bytes: &[u8]) {
    let checkpoint = |h: Header| Checkpoint { height: h.height, block: h.hash(), state_root: h.state_root };
    if let Some(proof) = decoded::<RecordProof>(bytes) {
        // even under a root of its own making, a wrong path shows nothing
        let shown = proof.check(&checkpoint(proof.header));
        assert!(shown.is_err() || proof.height <= proof.header.height, "a record of the future");
    }
    if let Some(proof) = decoded::<ExtensionProof>(bytes) {
        let _extends = proof.check(&checkpoint(proof.old), &checkpoint(proof.new));
    }
    if let Some(log) = decoded::<RecordLog>(bytes) {
        let mut log = log.clone();
        let (sound, full) = (log.is_sound(), log.len() >= MAX_RECORDS);
        log.push(&LedgerRecord::new(1, vec![b'c'], b"value"));
        assert!(!sound || full || log.is_sound(), "appending breaks a log");
        log.root();
    }
}

fn request(bytes: &[u8]) {
    match decoded::<Request>(bytes) {
        Some(Request::Hello(record)) => drop(record.is_authentic(CHAIN)),
        Some(Request::SubmitTx(tx)) => tried(&tx),
        _ => {}
    }
}

fn response(bytes: &[u8]) {
    match decoded::<Response>(bytes) {
        Some(Response::Hello(record)) => drop(record.is_authentic(CHAIN)),
        Some(Response::Blocks(blocks)) => {
            blocks.iter().for_each(|b| drop(bft::verify_certificate(CHAIN, &validators(), &b.certificate)));
        }
        _ => {}
    }
}

fn committee_envelope(bytes: &[u8]) {
    if let Some(SignedCommitteeEnvelope { envelope, signature }) = decoded(bytes) {
        envelope.from.verify(CHAIN, &envelope, &signature);
    }
}

fn handover_link(bytes: &[u8]) {
    let (Some(link), Some(state)) = (decoded::<HandoverLink>(bytes), sample_state()) else { return };
    if let Ok(mut chain) = crate::epoch::EpochChain::new(state.genesis()) {
        let _followed = chain.advance(link);
    }
}

fn transcript(bytes: &[u8]) {
    if let Some(transcript) = decoded::<Transcript>(bytes) {
        let secret = EncryptionSecret::derive(&validator(0).secret());
        let bad = transcript.bad_dealers(0, &secret);
        assert!(transcript.keys().is_err() || bad.len() < transcript.members.len(), "more dealers than members");
    }
}

fn sign_message(bytes: &[u8]) {
    let _message = decoded::<SignMessage>(bytes);
}

fn signed_peer_record(bytes: &[u8]) {
    if let Some(record) = decoded::<SignedPeerRecord>(bytes) {
        record.is_authentic(CHAIN);
    }
}

fn signed_tx(bytes: &[u8]) {
    if let Some(tx) = decoded::<SignedTx>(bytes) {
        tried(&tx);
    }
}

/// Everything a node does with a transaction before it is in a block.
fn tried(tx: &SignedTx) {
    tx.is_authentic(CHAIN);
    let _ = (tx.id(), tx.kind());
    if let Some(state) = sample_state() {
        state.build(std::slice::from_ref(tx), 0);
    }
}
