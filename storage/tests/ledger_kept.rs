//! Ledgers that do not keep everything: pruned ones, and those that began with a snapshot (D3, L4).

mod common;

use common::{CHAIN, block, entries, hash};
use oda_consensus::ids::Digest;
use oda_consensus::records::{Appended, LogNode, Version};
use oda_storage::ledger::{MAX_PART_BYTES, MAX_PRUNED_AT_ONCE};
use oda_storage::{
    Base, BlockRecord, EntryChange, Fault, FaultyLedger, KeptRecord, KeptValue, LedgerStore, MemoryLedger, Part,
    RecordStore, StoreError,
};
use std::ops::ControlFlow;

fn over_each(test: impl Fn(&mut dyn LedgerStore)) {
    test(&mut MemoryLedger::new());
    test(&mut FaultyLedger::new(MemoryLedger::new(), []));
    #[cfg(feature = "rocksdb")]
    {
        let dir = tempfile::tempdir().unwrap();
        test(&mut oda_storage::RocksLedger::open(dir.path(), CHAIN).unwrap());
    }
}

/// Blocks 1 to `blocks`, each with a version of one entry.
fn fill(ledger: &mut dyn LedgerStore, blocks: u64) {
    for height in 1..=blocks {
        let (index, key, value) = (height - 1, b"n".to_vec(), height.to_be_bytes().to_vec());
        let log = Appended {
            versions: vec![Version { index, height, key, value }],
            nodes: vec![LogNode { index: 2 * index, hash: Digest([7; 32]) }],
        };
        let change = [EntryChange::put(b"n", &height.to_be_bytes())];
        ledger.append(&BlockRecord { log, ..block(height) }, &change).unwrap();
    }
}

fn headers(heights: impl IntoIterator<Item = u64>) -> Vec<(u64, Vec<u8>)> {
    heights.into_iter().map(|h| (h, format!("header {h}").into_bytes())).collect()
}

fn kept(ledger: &dyn LedgerStore, from: (&[u8], u64), upto: u64) -> Vec<KeptRecord> {
    let mut all = Vec::new();
    let mut see = |record| {
        all.push(record);
        ControlFlow::Continue(())
    };
    ledger.kept(from, upto, &mut see).unwrap();
    all
}

#[test] // D3: bodies go and nothing else does
fn pruning_takes_bodies_and_nothing_else() {
    over_each(|ledger| {
        fill(ledger, 9);
        assert_eq!((ledger.bodies_from(), ledger.headers_from()), (0, 0));
        let (before, log) = (entries(ledger), kept(ledger, (b"", 0), u64::MAX));
        ledger.prune(&headers(1..=3)).unwrap();
        ledger.prune(&headers(4..=5)).unwrap();
        assert_eq!((ledger.bodies_from(), ledger.headers_from()), (6, 0));
        for height in 1..=5 {
            assert_eq!(ledger.block(height).unwrap(), None);
            assert_eq!(ledger.header(height).unwrap(), Some(format!("header {height}").into_bytes()));
            assert_eq!(ledger.height_of(hash(height)).unwrap(), Some(height));
        }
        for height in 6..=9 {
            assert_eq!(ledger.block(height).unwrap(), Some(block(height).bytes));
            assert_eq!(ledger.header(height).unwrap(), None);
        }
        assert_eq!((entries(ledger), kept(ledger, (b"", 0), u64::MAX)), (before, log));
        assert_eq!(ledger.version(b"n", 2).unwrap().unwrap().value, 2_u64.to_be_bytes());
        ledger.append(&block(10), &[]).unwrap();
    });
}

#[test] // D3, K3: the oldest first, none left out, never the tip, bounded
fn only_the_oldest_blocks_can_be_pruned() {
    over_each(|ledger| {
        fill(ledger, 5);
        for wrong in [vec![2, 3], vec![1, 3], vec![0, 1], vec![1, 1], vec![1, 2, 3, 4, 5], vec![9]] {
            assert!(matches!(ledger.prune(&headers(wrong)), Err(StoreError::NotPrunable { .. })));
        }
        let many = headers(1..=MAX_PRUNED_AT_ONCE as u64 + 1);
        assert!(matches!(ledger.prune(&many), Err(StoreError::TooLarge { .. })));
        assert!(matches!(ledger.prune(&[(1, vec![0; 2_000])]), Err(StoreError::TooLarge { .. })));
        assert_eq!(ledger.bodies_from(), 0);
        ledger.prune(&[]).unwrap();
        ledger.prune(&headers(1..=4)).unwrap();
        assert!(matches!(ledger.prune(&headers([4])), Err(StoreError::NotPrunable { from: 5, .. })));
    });
}

#[test] // D3: whatever a write does instead, what is left is whole
fn a_failed_prune_loses_nothing() {
    for fault in [Fault::Fails, Fault::Lost, Fault::WrittenButFails, Fault::Dies] {
        let mut ledger = FaultyLedger::new(MemoryLedger::new(), [(7, fault)]);
        fill(&mut ledger, 6);
        assert_eq!(ledger.prune(&headers(1..=3)).is_ok(), fault == Fault::Lost);
        ledger.restart();
        let from = ledger.bodies_from();
        assert_eq!(from, if fault == Fault::WrittenButFails { 4 } else { 0 });
        for height in 1..=6 {
            assert_eq!(ledger.block(height).unwrap().is_some(), height >= from, "{fault:?}");
        }
        // the next turn goes on from what the store says
        let next = from.max(1);
        ledger.prune(&headers(next..=4)).unwrap();
        assert_eq!(ledger.bodies_from(), 5);
    }
}

/// A snapshot at height 5 of what `fill` makes, with one entry more.
fn snapshot() -> (Part, Base) {
    let record = |index, height, value| KeptRecord { index, height, key: b"n".to_vec(), value };
    let mut part = Part::default();
    for height in 1..=4 {
        part.records.push(record(height - 1, height, KeptValue::Digest(Digest([height as u8; 32]))));
        part.hashes.push((hash(height), height));
    }
    part.records.push(record(4, 5, KeptValue::Whole(b"five".to_vec())));
    part.nodes = (0..5).map(|i| LogNode { index: 2 * i, hash: Digest([9; 32]) }).collect();
    part.entries = vec![EntryChange::put(b"n", b"five")];
    let (header, entries) = (b"header 5".to_vec(), vec![EntryChange::put(b"tip", b"5")]);
    (part, Base { height: 5, hash: hash(5), prev: hash(4), header, entries })
}

#[test] // D3, P6: a snapshot takes the chain's place and leaves alone what is private
fn a_ledger_begins_with_a_snapshot() {
    over_each(|ledger| {
        let (part, base) = snapshot();
        assert!(matches!(ledger.load(&part), Err(StoreError::NotLoading)));
        assert!(matches!(ledger.finish_load(&base), Err(StoreError::NotLoading)));
        fill(ledger, 2);
        ledger.prune(&headers([1])).unwrap();
        ledger.put(b"claim", b"held").unwrap();
        ledger.wal_append(3, b"decided meanwhile").unwrap();
        ledger.wal_append(6, b"vote").unwrap();
        ledger.begin_load().unwrap();
        assert_eq!((ledger.tip(), entries(ledger).len(), ledger.bodies_from()), (None, 0, 0));
        assert!(matches!(ledger.append(&block(1), &[]), Err(StoreError::NotLoading)), "no block in the midst");
        let huge = KeptValue::Whole(vec![0; MAX_PART_BYTES]);
        let huge = KeptRecord { index: 0, height: 1, key: b"n".to_vec(), value: huge };
        let too_much = Part { records: vec![huge], ..Part::default() };
        assert!(matches!(ledger.load(&too_much), Err(StoreError::TooLarge { .. })));
        ledger.load(&part).unwrap();
        ledger.finish_load(&base).unwrap();

        assert_eq!(ledger.tip(), Some((5, hash(5))));
        assert_eq!((ledger.headers_from(), ledger.bodies_from()), (5, 6));
        assert_eq!(ledger.header(5).unwrap(), Some(b"header 5".to_vec()));
        assert_eq!((ledger.header(4).unwrap(), ledger.block(5).unwrap()), (None, None));
        assert_eq!((ledger.height_of(hash(3)).unwrap(), ledger.height_of(hash(5)).unwrap()), (Some(3), Some(5)));
        assert_eq!(entries(ledger), [(b"n".to_vec(), b"five".to_vec()), (b"tip".to_vec(), b"5".to_vec())]);
        assert_eq!(ledger.log_node(8).unwrap(), Some(Digest([9; 32])));
        assert_eq!(ledger.version(b"n", 5).unwrap().unwrap().value, b"five");
        assert_eq!(ledger.version(b"n", 4).unwrap(), None, "only its hash is here");
        let mut seen = Vec::new();
        let mut see = |v: Version| {
            seen.push(v.height);
            ControlFlow::Continue(())
        };
        ledger.versions(b"n", 0, &mut see).unwrap();
        assert_eq!(seen, [5]);
        assert_eq!(kept(ledger, (b"", 0), u64::MAX), part.records);
        assert_eq!(kept(ledger, (b"n", 3), 4), part.records[2..4]);
        assert_eq!(ledger.get(b"claim").unwrap().unwrap(), b"held");
        assert_eq!((ledger.wal(3).unwrap().len(), ledger.wal(6).unwrap().len()), (0, 1));

        assert!(matches!(ledger.append(&block(7), &[]), Err(StoreError::NotNext { .. })));
        ledger.append(&block(6), &[]).unwrap();
        ledger.append(&block(7), &[]).unwrap();
        ledger.prune(&headers([6])).unwrap();
        assert_eq!((ledger.headers_from(), ledger.bodies_from()), (5, 7));
    });
}

#[cfg(feature = "rocksdb")]
mod on_disk {
    use super::*;
    use oda_storage::RocksLedger;

    #[test] // D3: pruned and loaded ledgers open again, and their links are verified
    fn what_is_kept_is_there_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let open = || RocksLedger::open(dir.path(), CHAIN).unwrap();
        fill(&mut open(), 300);
        for from in [1, 101] {
            open().prune(&headers(from..from + 100)).unwrap();
        }
        let ledger = open();
        assert_eq!((ledger.bodies_from(), ledger.verify_links().unwrap()), (201, 300));
        drop(ledger);
        let (part, base) = snapshot();
        {
            let mut ledger = open();
            ledger.begin_load().unwrap();
            ledger.load(&part).unwrap();
            ledger.finish_load(&base).unwrap();
            ledger.append(&block(6), &[]).unwrap();
        }
        let ledger = open();
        assert_eq!((ledger.tip(), ledger.headers_from(), ledger.bodies_from()), (Some((6, hash(6))), 5, 6));
        assert_eq!(ledger.verify_links().unwrap(), 2);
        assert_eq!(kept(&ledger, (b"", 0), 5), part.records);
        assert_eq!(ledger.voted_until(), 300, "what it may have voted on before is known");
    }

    #[test] // D3: half a snapshot is none, at whichever write the process ends
    fn an_interrupted_load_leaves_an_empty_ledger() {
        for writes in 0..3 {
            let dir = tempfile::tempdir().unwrap();
            let (part, _) = snapshot();
            {
                let mut ledger = RocksLedger::open(dir.path(), CHAIN).unwrap();
                fill(&mut ledger, 20);
                ledger.put(b"claim", b"held").unwrap();
                ledger.wal_append(21, b"vote").unwrap();
                ledger.begin_load().unwrap();
                (0..writes).for_each(|_| ledger.load(&part).unwrap());
            }
            assert_eq!(RocksLedger::open_read_only(dir.path(), CHAIN).unwrap().tip(), None);
            let mut ledger = RocksLedger::open(dir.path(), CHAIN).unwrap();
            assert_eq!((ledger.tip(), ledger.bodies_from()), (None, 0));
            assert!(entries(&ledger).is_empty() && kept(&ledger, (b"", 0), u64::MAX).is_empty());
            assert_eq!((ledger.voted_until(), ledger.wal(21).unwrap().len()), (20, 1));
            assert_eq!(ledger.get(b"claim").unwrap().unwrap(), b"held");
            ledger.append(&block(1), &[]).unwrap();
        }
    }

    #[test] // D3: a body that is gone without word, or there again, is damage
    fn a_half_pruned_block_is_found() {
        let dir = tempfile::tempdir().unwrap();
        {
            let mut ledger = RocksLedger::open(dir.path(), CHAIN).unwrap();
            fill(&mut ledger, 9);
            ledger.prune(&headers(1..=3)).unwrap();
        }
        let families = ["meta", "blocks", "hashes", "entries", "log", "history", "wal", "private"];
        let db = rocksdb::DB::open_cf(&rocksdb::Options::default(), dir.path(), families).unwrap();
        db.delete_cf(db.cf_handle("meta").unwrap(), b"kept").unwrap();
        drop(db);
        let found = RocksLedger::open(dir.path(), CHAIN).unwrap_err();
        assert!(matches!(found, StoreError::Corrupt { height: 1, .. }), "{found}");
    }
}
