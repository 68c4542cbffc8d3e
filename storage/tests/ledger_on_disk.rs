//! What only a ledger on disk can get wrong: reopening, damage, the wrong directory.

mod common;

use common::{CHAIN, block, entries, hash};
use oda_consensus::codec::encode;
use oda_consensus::ids::{ChainId, Digest};
use oda_consensus::records::{Appended, LogNode, Version};
use oda_storage::{
    BlockRecord, EntryChange, LedgerStore, MemoryLedger, RecordStore, RocksLedger, RocksRecords, StoreError,
};
use proptest::prelude::*;
use std::path::Path;

const FAMILIES: [&str; 8] = ["meta", "blocks", "hashes", "entries", "log", "history", "wal", "private"];

/// Changes the database behind the ledger's back.
fn tamper(dir: &Path, act: impl FnOnce(&rocksdb::DB)) {
    let db = rocksdb::DB::open_cf(&rocksdb::Options::default(), dir, FAMILIES).unwrap();
    act(&db);
}

fn chain_of(dir: &Path, blocks: u64) {
    let mut ledger = RocksLedger::open(dir, CHAIN).unwrap();
    for height in 1..=blocks {
        let (index, key, value) = (height - 1, b"height".to_vec(), height.to_be_bytes().to_vec());
        let log = Appended {
            versions: vec![Version { index, height, key, value }],
            nodes: vec![LogNode { index: 2 * index, hash: Digest([7; 32]) }],
        };
        let block = BlockRecord { log, ..block(height) };
        ledger.append(&block, &[EntryChange::put(b"height", &height.to_be_bytes())]).unwrap();
    }
    ledger.wal_append(blocks + 1, b"vote").unwrap();
    ledger.put(b"claim", b"held").unwrap();
}

fn broken_height(result: Result<impl Sized, StoreError>) -> u64 {
    match result.map(|_| ()) {
        Err(error @ StoreError::Corrupt { height, .. }) => {
            assert!(error.to_string().contains("oda ledger verify"), "{error}");
            height
        }
        other => panic!("expected a damaged ledger, got {other:?}"),
    }
}

#[test] // D3, P6
fn everything_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    chain_of(dir.path(), 3);
    let ledger = RocksLedger::open(dir.path(), CHAIN).unwrap();
    assert_eq!(ledger.tip(), Some((3, hash(3))));
    assert_eq!(ledger.block(2).unwrap().unwrap(), b"block 2");
    assert_eq!(ledger.wal(4).unwrap(), [b"vote".to_vec()]);
    assert_eq!(ledger.get(b"claim").unwrap().unwrap(), b"held");
    assert_eq!(ledger.verify_links().unwrap(), 3);
}

#[test] // D3: a break in the last blocks stops the node; an older one is found by the full check
fn damage_is_named_by_height() {
    type Damage = fn(&rocksdb::DB, u64);
    let cases: [(u64, Damage); 4] = [
        (200, |db, h| db.delete_cf(db.cf_handle("blocks").unwrap(), h.to_be_bytes()).unwrap()),
        (199, |db, h| {
            let family = db.cf_handle("blocks").unwrap();
            let mut bytes = db.get_cf(family, h.to_be_bytes()).unwrap().unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            db.put_cf(family, h.to_be_bytes(), bytes).unwrap();
        }),
        (190, |db, h| {
            // a whole, well-formed block, but of another height
            let family = db.cf_handle("blocks").unwrap();
            let other = db.get_cf(family, (h - 1).to_be_bytes()).unwrap().unwrap();
            db.put_cf(family, h.to_be_bytes(), other).unwrap();
        }),
        (150, |db, h| db.delete_cf(db.cf_handle("hashes").unwrap(), hash(h).0).unwrap()),
    ];
    for (height, damage) in cases {
        let dir = tempfile::tempdir().unwrap();
        chain_of(dir.path(), 200);
        tamper(dir.path(), |db| damage(db, height));
        assert_eq!(broken_height(RocksLedger::open(dir.path(), CHAIN)), height);
    }
    let dir = tempfile::tempdir().unwrap();
    chain_of(dir.path(), 200);
    tamper(dir.path(), |db| db.delete_cf(db.cf_handle("blocks").unwrap(), 20_u64.to_be_bytes()).unwrap());
    let ledger = RocksLedger::open(dir.path(), CHAIN).unwrap();
    assert_eq!(broken_height(ledger.verify_links()), 20);
    assert_eq!(broken_height(RocksLedger::open_read_only(dir.path(), CHAIN).unwrap().verify_links()), 20);
}

#[test] // D3: a chain whose links do not meet is a break, though every block is whole
fn broken_link_is_found() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    chain_of(dir.path(), 5);
    {
        let mut ledger = RocksLedger::open(other.path(), CHAIN).unwrap();
        for height in 1..=3 {
            let mut fork = block(height);
            fork.hash.0[0] ^= 1;
            if height > 1 {
                fork.prev.0[0] ^= 1;
            }
            ledger.append(&fork, &[]).unwrap();
        }
    }
    let mut fork = Vec::new();
    tamper(other.path(), |db| {
        fork = db.get_cf(db.cf_handle("blocks").unwrap(), 3_u64.to_be_bytes()).unwrap().unwrap();
    });
    tamper(dir.path(), |db| {
        let (blocks, hashes) = (db.cf_handle("blocks").unwrap(), db.cf_handle("hashes").unwrap());
        db.put_cf(blocks, 3_u64.to_be_bytes(), fork).unwrap();
        // the index knows the block of the fork, so only its link can tell
        let mut foreign = hash(3).0;
        foreign[0] ^= 1;
        let height = db.get_cf(hashes, hash(3).0).unwrap().unwrap();
        db.put_cf(hashes, foreign, height).unwrap();
    });
    let result = RocksLedger::open(dir.path(), CHAIN);
    assert!(result.as_ref().unwrap_err().to_string().contains("previous hash"));
    assert_eq!(broken_height(result), 3);
}

#[test] // D3: a chain may start at height 0 or 1, and a missing first block is noticed in both
fn first_block_may_be_zero_but_not_missing() {
    let dir = tempfile::tempdir().unwrap();
    {
        let mut ledger = RocksLedger::open(dir.path(), CHAIN).unwrap();
        for height in 0..3 {
            ledger.append(&block(height), &[]).unwrap();
        }
        assert_eq!(ledger.verify_links().unwrap(), 3);
    }
    tamper(dir.path(), |db| db.delete_cf(db.cf_handle("blocks").unwrap(), 0_u64.to_be_bytes()).unwrap());
    assert_eq!(broken_height(RocksLedger::open(dir.path(), CHAIN)), 0);
    let dir = tempfile::tempdir().unwrap();
    chain_of(dir.path(), 3);
    tamper(dir.path(), |db| db.delete_cf(db.cf_handle("blocks").unwrap(), 1_u64.to_be_bytes()).unwrap());
    assert_eq!(broken_height(RocksLedger::open(dir.path(), CHAIN)), 1);
}

#[test] // D3: the repair command keeps what no peer can give back
fn repair_drops_the_chain_and_keeps_private_records_and_votes() {
    let dir = tempfile::tempdir().unwrap();
    chain_of(dir.path(), 10);
    tamper(dir.path(), |db| db.delete_cf(db.cf_handle("blocks").unwrap(), 9_u64.to_be_bytes()).unwrap());
    assert_eq!(broken_height(RocksLedger::open(dir.path(), CHAIN)), 9);
    RocksLedger::clear_chain(dir.path(), CHAIN).unwrap();
    let mut ledger = RocksLedger::open(dir.path(), CHAIN).unwrap();
    assert_eq!(ledger.tip(), None);
    assert!(entries(&ledger).is_empty());
    assert_eq!(ledger.height_of(hash(1)).unwrap(), None);
    assert_eq!(ledger.get(b"claim").unwrap().unwrap(), b"held");
    assert_eq!(ledger.wal(11).unwrap(), [b"vote".to_vec()]);
    assert_eq!(ledger.voted_until(), 10, "C5: on what was decided it may have voted");
    ledger.append(&block(1), &[]).unwrap();
    drop(ledger);
    // dropped again before it has caught up, it still knows
    RocksLedger::clear_chain(dir.path(), CHAIN).unwrap();
    assert_eq!(RocksLedger::open(dir.path(), CHAIN).unwrap().voted_until(), 10);
}

#[test] // bad input: each wrong directory ends with one line that says what to do
fn wrong_directories_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    chain_of(dir.path(), 1);
    let error = RocksLedger::open(dir.path(), ChainId([8; 32])).unwrap_err();
    assert!(matches!(error, StoreError::WrongChain { found: CHAIN, .. }), "{error}");
    assert!(error.to_string().contains("--datadir"), "{error}");

    let open = RocksLedger::open(dir.path(), CHAIN).unwrap();
    let error = RocksLedger::open(dir.path(), CHAIN).unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }), "{error}");
    // while it is open, it can still be read and verified
    let mut read_only = RocksLedger::open_read_only(dir.path(), CHAIN).unwrap();
    assert_eq!(read_only.verify_links().unwrap(), 1);
    assert!(matches!(read_only.append(&block(2), &[]), Err(StoreError::ReadOnly { .. })));
    drop((open, read_only));

    assert!(matches!(RocksRecords::open(dir.path(), CHAIN), Err(StoreError::WrongKind { .. })));
    let records = tempfile::tempdir().unwrap();
    RocksRecords::open(records.path(), CHAIN).unwrap().put(b"k", b"v").unwrap();
    assert!(matches!(RocksLedger::open(records.path(), CHAIN), Err(StoreError::WrongKind { .. })));
    assert!(matches!(RocksRecords::open(records.path(), ChainId([8; 32])), Err(StoreError::WrongChain { .. })));
    assert_eq!(RocksRecords::open(records.path(), CHAIN).unwrap().get(b"k").unwrap().unwrap(), b"v");

    let missing = dir.path().join("missing");
    assert!(RocksLedger::open_read_only(&missing, CHAIN).is_err());
    assert!(!missing.exists(), "reading must not create anything");
}

#[test] // another format is refused, not guessed at
fn newer_and_older_schemas_are_refused() {
    #[derive(bincode::Encode, bincode::Decode)]
    struct Schema(u32);
    oda_consensus::record!(Schema, b"schm", 16);
    let dir = tempfile::tempdir().unwrap();
    chain_of(dir.path(), 1);
    tamper(dir.path(), |db| {
        let family = db.cf_handle("meta").unwrap();
        assert_eq!(db.get_cf(family, b"schema").unwrap().unwrap(), encode(&Schema(3)), "the format number is pinned");
        db.put_cf(family, b"schema", encode(&Schema(4))).unwrap();
        db.put_cf(family, b"owner", b"something newer").unwrap();
    });
    let error = RocksLedger::open(dir.path(), CHAIN).unwrap_err();
    assert!(matches!(error, StoreError::NewerSchema { found: 4, known: 3, .. }), "{error}");
    tamper(dir.path(), |db| db.put_cf(db.cf_handle("meta").unwrap(), b"schema", encode(&Schema(2))).unwrap());
    let error = RocksLedger::open(dir.path(), CHAIN).unwrap_err();
    assert!(matches!(error, StoreError::OlderSchema { found: 2, known: 3, .. }), "{error}");
}

#[test] // L4, D3: a damaged version is an error, and goes with a repair
fn damaged_history_is_named_and_repaired() {
    let dir = tempfile::tempdir().unwrap();
    chain_of(dir.path(), 3);
    let key = [b"height".as_slice(), &2u64.to_be_bytes()].concat();
    tamper(dir.path(), |db| {
        let family = db.cf_handle("history").unwrap();
        let mut bytes = db.get_cf(family, &key).unwrap().unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        db.put_cf(family, &key, bytes).unwrap();
        db.put_cf(db.cf_handle("log").unwrap(), 2u64.to_be_bytes(), b"short").unwrap();
    });
    let ledger = RocksLedger::open(dir.path(), CHAIN).unwrap();
    assert!(ledger.version(b"height", 3).unwrap().is_some());
    assert!(ledger.version(b"height", 2).unwrap_err().to_string().contains("not those that were written"));
    assert!(ledger.versions(b"height", 0, &mut |_| std::ops::ControlFlow::Continue(())).is_err());
    assert!(ledger.log_node(2).is_err() && ledger.log_node(0).unwrap().is_some());
    drop(ledger);
    RocksLedger::clear_chain(dir.path(), CHAIN).unwrap();
    let ledger = RocksLedger::open(dir.path(), CHAIN).unwrap();
    assert_eq!((ledger.version(b"height", 9).unwrap(), ledger.log_node(0).unwrap()), (None, None));
}

#[test] // K2: changing the bytes on disk breaks a test on purpose
fn stored_bytes_are_pinned() {
    let dir = tempfile::tempdir().unwrap();
    chain_of(dir.path(), 2);
    let mut hasher = blake3::Hasher::new();
    tamper(dir.path(), |db| {
        for name in FAMILIES {
            for item in db.iterator_cf(db.cf_handle(name).unwrap(), rocksdb::IteratorMode::Start) {
                let (key, value) = item.unwrap();
                hasher.update(&(key.len() as u64).to_le_bytes()).update(&key);
                hasher.update(&(value.len() as u64).to_le_bytes()).update(&value);
            }
        }
    });
    assert_eq!(hasher.finalize().to_hex().as_str(), "47f4ac6b0f55b5f68d0640d2fdfe6ddfff281be03203833fd0c2ee3884a3721a");
}

#[test] // D3: a torn last write is forgiven as a crash; damage before it is an error, never a shorter past
fn damaged_log_file_is_never_a_silent_loss() {
    fn log(dir: &Path) -> std::path::PathBuf {
        let files = std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
        files.filter(|f| f.extension().is_some_and(|e| e == "log")).max_by_key(|f| f.metadata().unwrap().len()).unwrap()
    }
    let dir = tempfile::tempdir().unwrap();
    chain_of(dir.path(), 50);
    let path = log(dir.path());
    let whole = std::fs::read(&path).unwrap();

    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0xff;
    std::fs::write(&path, &flipped).unwrap();
    let error = RocksLedger::open(dir.path(), CHAIN).expect_err("synced blocks were dropped without a word");
    assert!(matches!(error, StoreError::Unreadable { .. }) && error.to_string().contains("aside"), "{error}");

    let dir = tempfile::tempdir().unwrap();
    chain_of(dir.path(), 50);
    let path = log(dir.path());
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 3]).unwrap();
    let ledger = RocksLedger::open(dir.path(), CHAIN).unwrap();
    assert_eq!(ledger.tip(), Some((50, hash(50))));
    assert_eq!(ledger.get(b"claim").unwrap(), None, "the torn write is gone as a whole");
    assert_eq!(ledger.wal(51).unwrap(), [b"vote".to_vec()]);
}

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<(u8, Option<u8>)>),
    Refused(u64),
    Wal(u64, u8),
    Put(u8, u8),
    Delete(u8),
    Prune(u64, u64),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => proptest::collection::vec((any::<u8>(), any::<Option<u8>>()), 0..6).prop_map(Step::Append),
        1 => any::<u64>().prop_map(Step::Refused),
        4 => (0..4_u64, any::<u8>()).prop_map(|(ahead, byte)| Step::Wal(ahead, byte)),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(key, value)| Step::Put(key, value)),
        1 => any::<u8>().prop_map(Step::Delete),
        2 => (0..3_u64, 1..5_u64).prop_map(|(skip, count)| Step::Prune(skip, count)),
        2 => Just(Step::Reopen),
    ]
}

fn changes(raw: &[(u8, Option<u8>)]) -> Vec<EntryChange> {
    raw.iter().map(|(key, value)| EntryChange { key: vec![*key], value: value.map(|v| vec![v]) }).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test] // D3, L1, P6: whatever is done, in whatever order, with restarts between: disk equals memory
    fn disk_equals_memory(steps in proptest::collection::vec(step(), 1..40)) {
        let dir = tempfile::tempdir().unwrap();
        let mut disk = Some(RocksLedger::open(dir.path(), CHAIN).unwrap());
        let mut model = MemoryLedger::new();
        for step in steps {
            let ledger = disk.as_mut().unwrap();
            let next = model.tip().map_or(1, |(height, _)| height + 1);
            let both: [&mut dyn LedgerStore; 2] = [ledger, &mut model];
            let results = match &step {
                Step::Append(raw) => both.map(|l| l.append(&block(next), &changes(raw)).map_err(|e| e.to_string())),
                Step::Refused(height) => {
                    let height = if *height == next { next + 1 } else { height % 1_000 + next + 1 };
                    both.map(|l| l.append(&block(height), &[]).map_err(|e| e.to_string()))
                }
                Step::Wal(ahead, byte) => {
                    let height = (next + ahead).saturating_sub(1);
                    both.map(|l| l.wal_append(height, &[*byte]).map_err(|e| e.to_string()))
                }
                Step::Put(key, value) => both.map(|l| l.put(&[*key], &[*value]).map_err(|e| e.to_string())),
                Step::Delete(key) => both.map(|l| l.delete(&[*key]).map_err(|e| e.to_string())),
                Step::Prune(skip, count) => both.map(|l| {
                    let first = l.bodies_from().max(1) + skip / 2; // one in three is not the oldest
                    let headers: Vec<_> = (first..first + count).map(|h| (h, vec![7, h as u8])).collect();
                    l.prune(&headers).map_err(|e| e.to_string())
                }),
                Step::Reopen => {
                    drop(disk.take());
                    disk = Some(RocksLedger::open(dir.path(), CHAIN).unwrap());
                    [Ok(()), Ok(())]
                }
            };
            prop_assert_eq!(&results[0], &results[1]);
        }
        let disk = disk.unwrap();
        prop_assert_eq!(disk.tip(), model.tip());
        prop_assert_eq!(entries(&disk), entries(&model));
        prop_assert_eq!(disk.scan(b"", 1_000).unwrap(), model.scan(b"", 1_000).unwrap());
        let tip = model.tip().map_or(0, |(height, _)| height);
        for height in 0..tip + 5 {
            prop_assert_eq!(disk.wal(height).unwrap(), model.wal(height).unwrap());
            prop_assert_eq!(disk.block(height).unwrap(), model.block(height).unwrap());
            prop_assert_eq!(disk.header(height).unwrap(), model.header(height).unwrap());
        }
        prop_assert_eq!(disk.bodies_from(), model.bodies_from());
        prop_assert_eq!(disk.verify_links().unwrap(), tip);
    }
}
