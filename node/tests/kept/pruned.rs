//! A pruned ledger says what it lacks, and is otherwise as good as a whole one (D3, L4).

use super::{History, Lying};
use jsonrpsee::core::ClientError;
use jsonrpsee::http_client::HttpClientBuilder;
use oda_consensus::codec;
use oda_consensus::epoch::EpochChain;
use oda_consensus::ids::NodeId;
use oda_consensus::proof::{RecordProof, Subject};
use oda_consensus::state::Entry;
use oda_node::full::pruning::{horizon, prune};
use oda_node::full::{Shared, StoreReader};
use oda_node::ledger::{LedgerReader, verify};
use oda_node::proof::{extend, prove};
use oda_node::rpc::{ApiClient as _, Limits, errors, serve};
use oda_node::{config, ledger_file};
use oda_storage::{KeptRecord, LedgerStore as _, RocksLedger};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

fn subjects(history: &History) -> Vec<Subject> {
    let state = &history.world.state;
    let mut all: Vec<Subject> = state.models().map(|(id, _)| Subject::Model(id)).collect();
    all.extend(state.claims().map(|c| Subject::Claim(c.id)));
    all.extend(state.escrows().map(|e| Subject::Escrow(e.id)));
    all.extend(
        state.models().flat_map(|(id, _)| state.outcomes(id).map(move |o| Subject::Outcome(id, o.outcome.round))),
    );
    all.extend((1..history.newest().checkpoint.height).map(Subject::Block));
    all
}

/// The proofs of everything the newest attested block covers, each checked.
pub fn proofs(history: &History, reader: &dyn LedgerReader) -> Vec<RecordProof> {
    let newest = history.newest();
    let proof = |subject: &Subject| {
        let proof = prove(reader, &newest, *subject).unwrap_or_else(|e| panic!("{subject:?}: {e}"));
        proof.check(&newest.checkpoint).unwrap();
        proof
    };
    subjects(history).iter().map(proof).collect()
}

pub fn reader(dir: &Path, history: &History) -> StoreReader {
    StoreReader::new(RocksLedger::open(dir, history.chain()).unwrap())
}

#[test] // D3: only what an attested block stands for, and never more than was asked for
fn only_attested_blocks_are_pruned() {
    let history = History::new();
    let (state, tip) = (&history.world.state, history.tip());
    let newest = history.newest().checkpoint.height;
    assert!(newest < tip - 2, "blocks after the newest attested one");
    assert_eq!(horizon(state, 0), None, "0 keeps all");
    assert_eq!(horizon(state, 1), Some(newest));
    assert_eq!(horizon(state, tip - 4), Some(4));
    assert_eq!((horizon(state, tip), horizon(state, tip + 9)), (None, None));
    let young = oda_consensus::state::State::new(history.world.genesis.clone()).unwrap();
    assert_eq!(horizon(&young, 1), None, "nothing is attested yet");
}

#[test] // D3, L4: wherever it begins, it opens, replays, and proves all that it proved before
fn a_pruned_ledger_is_verified_and_proves_as_before() {
    let history = History::new();
    let dir = tempfile::tempdir().unwrap();
    drop(history.ledger(dir.path()));
    let whole = reader(dir.path(), &history);
    let report = |reader: &StoreReader| verify(history.world.genesis.clone(), Some(history.tip()), reader).unwrap();
    let (before, shown) = (report(&whole), proofs(&history, &whole));
    assert_eq!((before.blocks_from, before.blocks), (1, history.tip()));
    drop(whole);
    let newest = history.newest().checkpoint.height;
    let mut from = 1;
    while from <= newest {
        let pruned = prune(&mut RocksLedger::open(dir.path(), history.chain()).unwrap(), newest, 7).unwrap();
        from += pruned;
        assert!(pruned == 7 || from == newest + 1);
        let reader = reader(dir.path(), &history); // after a restart
        let after = report(&reader);
        assert_eq!((after.blocks_from, after.blocks), (from, before.blocks));
        assert_eq!((&after.hash, &after.state_root), (&before.hash, &before.state_root));
        assert_eq!(proofs(&history, &reader), shown);
        // an older attested block's ledger is the beginning, though its body is gone
        let old = history.world.state.checkpoints().next().unwrap().checkpoint;
        extend(&reader, old.height, newest).unwrap().check(&old, &history.newest().checkpoint).unwrap();
    }
    let mut chain = EpochChain::new(&history.world.genesis).unwrap();
    history.world.state.links(0, 9).into_iter().for_each(|link| chain.advance(link).unwrap());
    chain.attested(&history.newest().checkpoint, &history.newest().signature).unwrap();
    // nothing above the attested block goes, whatever is asked for
    let mut store = RocksLedger::open(dir.path(), history.chain()).unwrap();
    assert_eq!(prune(&mut store, newest, 100).unwrap(), 0);
    assert!(store.prune(&[(history.tip(), Vec::new())]).is_err());
}

#[test] // L4: what of the log is changed, missing or doubled is found, though its block is gone
fn damage_below_the_oldest_whole_block_is_found() {
    let history = History::new();
    let dir = tempfile::tempdir().unwrap();
    drop(history.ledger(dir.path()));
    let newest = history.newest().checkpoint.height;
    prune(&mut RocksLedger::open(dir.path(), history.chain()).unwrap(), newest, 1_000).unwrap();
    type Damage = fn(&mut Vec<KeptRecord>);
    let damages: [(&str, Damage); 5] = [
        ("a record is missing", |page| page.retain(|r| r.index != 9)),
        ("an old value", |page| {
            let old = page.iter().position(|r| r.key[0] == b'f').unwrap();
            page[old].value = oda_storage::KeptValue::Whole(b"other".to_vec());
        }),
        ("another height", |page| page.iter_mut().filter(|r| r.index == 20).for_each(|r| r.height += 1)),
        ("another key", |page| page.iter_mut().filter(|r| r.index == 20).for_each(|r| r.key[0] ^= 1)),
        ("all of an entry", |page| page.retain(|r| r.key[0] != b'e')),
    ];
    for (what, change) in damages {
        let lying = Lying { inner: reader(dir.path(), &history), change };
        assert!(verify(history.world.genesis.clone(), Some(history.tip()), &lying).is_err(), "{what}");
    }
    let honest = Lying { inner: reader(dir.path(), &history), change: |_: &mut Vec<KeptRecord>| {} };
    verify(history.world.genesis.clone(), Some(history.tip()), &honest).unwrap();
    // another network's keys attested nothing of it
    let mut foreign = history.world.genesis.clone();
    foreign.time_ms += 1;
    assert!(verify(foreign, Some(history.tip()), &honest).is_err());
}

#[test] // D3: a file that begins in the middle would prove nothing, so none is written
fn a_pruned_ledger_is_not_exported_and_takes_imports() {
    let history = History::new();
    let (dir, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = history.ledger(dir.path());
    let path = files.path().join("whole");
    assert_eq!(ledger_file::export(&store, history.chain(), &path).unwrap(), history.tip());
    drop(store);
    let mut store = RocksLedger::open(dir.path(), history.chain()).unwrap();
    prune(&mut store, 9, 1_000).unwrap();
    let refused = files.path().join("pruned");
    let error = ledger_file::export(&store, history.chain(), &refused).unwrap_err().to_string();
    assert!(error.contains("below 10") && error.contains("keep_blocks = 0"), "{error}");
    assert!(!refused.exists());
    drop(store);
    assert_eq!(ledger_file::import(dir.path(), history.world.genesis.clone(), &path).unwrap(), 0, "it has them all");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)] // D3: one error code, and what to do
async fn rpc_says_what_is_pruned() {
    let history = History::new();
    let (dir, rpc_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    prune(&mut history.ledger(dir.path()), 9, 1_000).unwrap();
    let shared = Arc::new(Shared::detached(history.world.state.clone(), NodeId([7; 32])));
    let config = config::Rpc { listen: SocketAddr::from(([127, 0, 0, 1], 0)), hosts: Vec::new() };
    let blocks = Arc::new(reader(dir.path(), &history));
    let server = serve(&config, Limits::default(), rpc_dir.path(), shared, blocks).await.unwrap();
    let client = HttpClientBuilder::default().build(format!("http://{}", server.address)).unwrap();
    let pruned = |error: ClientError| {
        let ClientError::Call(error) = error else { panic!("{error}") };
        assert_eq!(error.code(), errors::PRUNED);
        assert!(error.message().contains("whole blocks begin at 10"), "{}", error.message());
    };
    pruned(client.block(3).await.unwrap_err());
    pruned(client.blocks(Some(9), None, Some(true)).await.unwrap_err());
    assert_eq!(client.block(10).await.unwrap().height, 10);
    let page = client.blocks(Some(15), None, Some(true)).await.unwrap();
    assert_eq!(page.iter().map(|b| b.height).collect::<Vec<_>>(), (10..=15).collect::<Vec<_>>());
    let ClientError::Call(unknown) = client.block(9_999).await.unwrap_err() else { panic!() };
    assert_eq!(unknown.code(), errors::NOT_FOUND);
    let report = client.verify_ledger().await.unwrap();
    assert_eq!((report.blocks_from, report.blocks), (10, history.tip()));
    let proof = client.proof(Subject::Block(3)).await.unwrap();
    let proof: RecordProof = codec::decode(&hex::decode(proof.record).unwrap()).unwrap();
    let Entry::Tip(tip) = proof.check(&history.newest().checkpoint).unwrap() else { panic!("no tip") };
    assert_eq!(tip.hash, history.world.blocks[2].header.hash());
    server.stop().await;
}
