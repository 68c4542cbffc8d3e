//! Writes a data directory as this build writes it: `cargo run --release --workspace --example make_released`.
//!
//! Run it once for every format that is released, before the release, and commit what it writes below `storage/tests/data`:
//! `storage/tests/released.rs` opens each of them with every later build. The directory holds the ledger of one whole round
//! (commits to receipts), with votes of a height in progress, and a store of private records.
//! Files that RocksDB makes anew are left out. It refuses to overwrite: what was released stays as it was.

#[allow(dead_code)] // shared with the tests of the state machine
#[path = "../../consensus/tests/world/mod.rs"]
mod world;

use oda_consensus::bft::{CommitCertificate, block_id};
use oda_consensus::codec;
use oda_consensus::ids::{BlockHash, NodeId, Signature};
use oda_consensus::state::State;
use oda_consensus::wire::DecidedBlock;
use oda_storage::{BlockRecord, EntryChange, LedgerStore, RecordStore, RocksLedger, RocksRecords, StoreError};
use std::path::Path;
use world::World;

/// What a node does with each of these blocks (`ledger_file::batch` of the node).
fn write(ledger: &mut RocksLedger, world: &World) -> Result<(), StoreError> {
    let mut state = State::new(world.genesis.clone()).expect("a genesis");
    for block in &world.blocks {
        let applied = state.apply(block).expect("the world's own block");
        let changes: Vec<_> =
            applied.entries.iter().map(|e| EntryChange { key: e.key(), value: Some(e.value()) }).collect();
        let header = block.header;
        let prev = if header.height == 1 { BlockHash(header.chain.0) } else { header.prev };
        // the world's validators do not vote: the certificate has its form and nothing more
        let certificate = CommitCertificate {
            height: header.height,
            round: 0,
            block: block_id(&codec::encode(block)),
            signatures: vec![(NodeId([1; 32]), Signature([2; 64])); 3],
        };
        let bytes = codec::encode(&DecidedBlock { block: block.clone(), certificate });
        let record = BlockRecord { height: header.height, hash: header.hash(), prev, bytes, log: applied.appended };
        ledger.append(&record, &changes)?;
    }
    ledger.wal_append(state.tip().height + 1, b"a vote")?;
    ledger.put(b"claim", b"held")
}

/// Only what a store needs to open.
fn prune(dir: &Path) {
    for file in std::fs::read_dir(dir).expect("the directory").map(|f| f.expect("a file").path()) {
        let name = file.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let is_needed = ["CURRENT", "MANIFEST"].iter().any(|kept| name.starts_with(kept))
            || [".sst", ".log"].iter().any(|kept| name.ends_with(kept));
        if !is_needed || file.metadata().is_ok_and(|m| m.len() == 0) {
            std::fs::remove_file(file).expect("a file that can be removed");
        }
    }
}

fn main() {
    let out = std::env::args().nth(1).expect("the directory to write, as storage/tests/data/format-3");
    let out = Path::new(&out);
    assert!(!out.exists(), "{} exists: what was released stays as it was", out.display());
    let mut world = World::new();
    world.whole_round();
    let (ledger, records) = (out.join("ledger"), out.join("records"));
    write(&mut RocksLedger::open(&ledger, world.state.chain()).expect("a new ledger"), &world).expect("its blocks");
    // opened again, the log becomes tables, which are smaller and what most of a real ledger is
    drop(RocksLedger::open(&ledger, world.state.chain()).expect("the ledger"));
    RocksRecords::open(&records, world.state.chain()).expect("a new store").put(b"payment", b"sent").expect("a record");
    [ledger, records].iter().for_each(|dir| prune(dir));
    let genesis = serde_json::to_string(&world.genesis).expect("a genesis in JSON");
    std::fs::write(out.join("genesis.json"), genesis + "\n").expect("the genesis");
    let (tip, records) = (world.state.tip(), world.state.log().len());
    println!("{}: {} blocks, {records} records, tip {}", out.display(), tip.height, tip.hash);
}
