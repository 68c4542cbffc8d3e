//! The rules every ledger store keeps, run over each of them.

mod common;

use common::{block, entries, hash};
use oda_consensus::ids::{BlockHash, Digest};
use oda_consensus::records::{Appended, LogNode, Version};
use oda_storage::{
    BlockRecord, EntryChange, Fault, FaultyLedger, LedgerStore, MemoryLedger, MemoryRecords, RecordStore, StoreError,
};
use std::ops::ControlFlow;

/// Runs a test over every kind of ledger.
fn over_each(test: impl Fn(&mut dyn LedgerStore)) {
    test(&mut MemoryLedger::new());
    test(&mut FaultyLedger::new(MemoryLedger::new(), []));
    #[cfg(feature = "rocksdb")]
    {
        let dir = tempfile::tempdir().unwrap();
        test(&mut oda_storage::RocksLedger::open(dir.path(), common::CHAIN).unwrap());
    }
}

fn records_over_each(test: impl Fn(&mut dyn RecordStore)) {
    test(&mut MemoryRecords::new());
    #[cfg(feature = "rocksdb")]
    {
        let dir = tempfile::tempdir().unwrap();
        test(&mut oda_storage::RocksRecords::open(dir.path(), common::CHAIN).unwrap());
    }
    over_each(|ledger| test(ledger));
}

#[test] // D3
fn blocks_and_entries_are_kept_and_found() {
    over_each(|ledger| {
        assert_eq!(ledger.tip(), None);
        ledger.append(&block(1), &[EntryChange::put(b"b", b"1"), EntryChange::put(b"a", b"1")]).unwrap();
        ledger.append(&block(2), &[EntryChange::put(b"c", b"2"), EntryChange::delete(b"b")]).unwrap();
        assert_eq!(ledger.tip(), Some((2, hash(2))));
        assert_eq!(ledger.block(1).unwrap().unwrap(), b"block 1");
        assert_eq!(ledger.block(3).unwrap(), None);
        assert_eq!(ledger.height_of(hash(2)).unwrap(), Some(2));
        assert_eq!(ledger.height_of(hash(3)).unwrap(), None);
        assert_eq!(ledger.entry(b"a").unwrap().unwrap(), b"1");
        assert_eq!(ledger.entry(b"b").unwrap(), None);
        assert_eq!(entries(ledger), [(b"a".to_vec(), b"1".to_vec()), (b"c".to_vec(), b"2".to_vec())]);
    });
}

#[test] // D3: only the next block of this chain enters
fn refuses_gaps_repeats_and_foreign_parents() {
    over_each(|ledger| {
        assert!(matches!(ledger.append(&block(2), &[]), Err(StoreError::NotNext { .. })));
        ledger.append(&block(1), &[]).unwrap();
        for wrong in [block(1), block(3), BlockRecord { prev: BlockHash([9; 32]), ..block(2) }] {
            let change = [EntryChange::put(b"x", b"x")];
            assert!(matches!(ledger.append(&wrong, &change), Err(StoreError::NotNext { .. })));
        }
        assert_eq!(ledger.tip(), Some((1, hash(1))));
        assert!(entries(ledger).is_empty());
        ledger.append(&block(2), &[]).unwrap();
    });
}

#[test] // L1: the log keeps its order, and goes with the block that decides its height
fn wal_is_ordered_and_dropped_by_the_deciding_block() {
    over_each(|ledger| {
        ledger.append(&block(1), &[]).unwrap();
        let votes: Vec<Vec<u8>> = (0..300_u16).map(|n| n.to_be_bytes().to_vec()).collect();
        for vote in &votes {
            ledger.wal_append(2, vote).unwrap();
        }
        ledger.wal_append(3, b"early").unwrap();
        assert_eq!(ledger.wal(2).unwrap(), votes);
        ledger.append(&block(2), &[]).unwrap();
        assert!(ledger.wal(2).unwrap().is_empty());
        assert_eq!(ledger.wal(3).unwrap(), [b"early".to_vec()]);
        assert!(matches!(ledger.wal_append(2, b"late"), Err(StoreError::AlreadyDecided { height: 2, tip: 2 })));
    });
}

#[test] // K3
fn refuses_what_exceeds_its_limits() {
    over_each(|ledger| {
        let huge = BlockRecord { bytes: vec![0; oda_storage::ledger::MAX_BLOCK_BYTES + 1], ..block(1) };
        assert!(matches!(ledger.append(&huge, &[]), Err(StoreError::TooLarge { .. })));
        let most = BlockRecord { bytes: vec![0; oda_storage::ledger::MAX_BLOCK_BYTES], ..block(1) };
        ledger.append(&most, &[]).unwrap();
        let entry = vec![0; oda_storage::ledger::MAX_WAL_ENTRY_BYTES + 1];
        assert!(matches!(ledger.wal_append(2, &entry), Err(StoreError::TooLarge { .. })));
    });
    records_over_each(|records| {
        let key = vec![0; oda_storage::records::MAX_KEY_BYTES + 1];
        assert!(matches!(records.put(&key, b""), Err(StoreError::TooLarge { .. })));
        let value = vec![0; oda_storage::records::MAX_VALUE_BYTES + 1];
        assert!(matches!(records.put(b"k", &value), Err(StoreError::TooLarge { .. })));
        let many = vec![EntryChange::delete(b"k"); oda_storage::records::MAX_CHANGES + 1];
        assert!(matches!(records.apply(&many), Err(StoreError::TooLarge { .. })));
    });
}

#[test] // P6
fn private_records_are_kept_apart_and_found_by_prefix() {
    records_over_each(|records| {
        records.put(b"claim/2", b"held").unwrap();
        records.put(b"claim/1", b"held").unwrap();
        records.put(b"claim0", b"beyond the prefix").unwrap();
        records.put(b"\xff\xff", b"last").unwrap();
        let both = [EntryChange::put(b"claim/1", b"paid"), EntryChange::delete(b"claim/2")];
        records.apply(&both).unwrap();
        assert_eq!(records.get(b"claim/1").unwrap().unwrap(), b"paid");
        assert_eq!(records.get(b"claim/2").unwrap(), None);
        records.put(b"claim/3", b"").unwrap();
        let found = records.scan(b"claim/", 10).unwrap();
        assert_eq!(found, [(b"claim/1".to_vec(), b"paid".to_vec()), (b"claim/3".to_vec(), b"".to_vec())]);
        assert_eq!(records.scan(b"\xff", 10).unwrap().len(), 1);
        assert_eq!(records.scan(b"", 4).unwrap().len(), 4);
        // the rest must not be left out silently
        assert!(matches!(records.scan(b"", 3), Err(StoreError::TooLarge { .. })));
        records.delete(b"claim/3").unwrap();
        records.delete(b"claim/3").unwrap();
        assert_eq!(records.scan(b"claim/", 10).unwrap().len(), 1);
    });
    over_each(|ledger| {
        ledger.put(b"a", b"private").unwrap();
        ledger.append(&block(1), &[EntryChange::put(b"a", b"public")]).unwrap();
        assert_eq!(ledger.get(b"a").unwrap().unwrap(), b"private");
        assert_eq!(ledger.entry(b"a").unwrap().unwrap(), b"public");
    });
}

fn with_two_blocks(fault: Fault) -> FaultyLedger<MemoryLedger> {
    let mut ledger = FaultyLedger::new(MemoryLedger::new(), [(3, fault)]);
    ledger.append(&block(1), &[EntryChange::put(b"a", b"1")]).unwrap();
    ledger.wal_append(2, b"vote").unwrap();
    ledger
}

#[test] // D3: an append that fails leaves the old tip, entries and log as they were
fn failed_append_changes_nothing() {
    for fault in [Fault::Fails, Fault::Dies] {
        let mut ledger = with_two_blocks(fault);
        let change = [EntryChange::put(b"a", b"2"), EntryChange::put(b"b", b"2")];
        assert!(matches!(ledger.append(&block(2), &change), Err(StoreError::Injected { write: 3 })));
        assert_eq!(ledger.tip(), Some((1, hash(1))));
        assert_eq!(entries(&ledger), [(b"a".to_vec(), b"1".to_vec())]);
        assert_eq!(ledger.wal(2).unwrap(), [b"vote".to_vec()]);
        assert_eq!(ledger.put(b"k", b"v").is_err(), fault == Fault::Dies);
        ledger.restart();
        ledger.append(&block(2), &change).unwrap();
    }
}

#[test] // D3: a lost write is noticed at the next block, and never becomes a gap
fn lost_append_cannot_become_a_gap() {
    let mut ledger = with_two_blocks(Fault::Lost);
    ledger.append(&block(2), &[]).unwrap();
    assert!(matches!(ledger.append(&block(3), &[]), Err(StoreError::NotNext { .. })));
    assert_eq!(ledger.into_inner().tip(), Some((1, hash(1))));
}

#[test] // D3: an error may hide success; the tip tells, and the block is not added twice
fn unknown_outcome_is_resolved_by_the_tip() {
    let mut ledger = with_two_blocks(Fault::WrittenButFails);
    ledger.append(&block(2), &[]).unwrap_err();
    assert_eq!(ledger.tip(), Some((2, hash(2))));
    assert!(matches!(ledger.append(&block(2), &[]), Err(StoreError::NotNext { .. })));
    ledger.append(&block(3), &[]).unwrap();
    assert_eq!(ledger.writes(), 5);
}

fn version(index: u64, height: u64, key: &[u8], value: &[u8]) -> Version {
    Version { index, height, key: key.to_vec(), value: value.to_vec() }
}

#[test] // L4, D3: nodes and versions of a block come with it, and are found by place, and by key and height
fn the_log_of_records_is_kept_with_its_blocks() {
    over_each(|ledger| {
        let node = |index, n| LogNode { index, hash: Digest([n; 32]) };
        let first = Appended {
            versions: vec![version(0, 1, b"ca", b"1"), version(1, 1, b"cb", b"x")],
            nodes: vec![node(0, 1), node(2, 2), node(1, 3)],
        };
        let third = Appended { versions: vec![version(2, 3, b"ca", b"3")], nodes: vec![node(4, 4)] };
        ledger.append(&BlockRecord { log: first.clone(), ..block(1) }, &[]).unwrap();
        ledger.append(&block(2), &[]).unwrap();
        assert!(ledger.append(&BlockRecord { log: third.clone(), ..block(2) }, &[]).is_err(), "not the next block");
        assert_eq!(ledger.log_node(4).unwrap(), None, "a refused block leaves nothing");
        ledger.append(&BlockRecord { log: third.clone(), ..block(3) }, &[]).unwrap();

        assert_eq!(
            (0..6).map(|i| ledger.log_node(i).unwrap().map(|d| d.0[0])).collect::<Vec<_>>(),
            [Some(1), Some(3), Some(2), None, Some(4), None]
        );
        let at = |key: &[u8], upto| ledger.version(key, upto).unwrap();
        assert_eq!(at(b"ca", 0), None);
        assert_eq!(at(b"ca", 1), Some(first.versions[0].clone()));
        assert_eq!(at(b"ca", 2), Some(first.versions[0].clone()));
        assert_eq!(at(b"ca", u64::MAX), Some(third.versions[0].clone()));
        assert_eq!(at(b"cb", u64::MAX), Some(first.versions[1].clone()));
        assert_eq!((at(b"bz", u64::MAX), at(b"cc", u64::MAX)), (None, None), "neighbours are not taken for it");

        let seen = |prefix: &[u8], from, most: usize| {
            let mut all = Vec::new();
            let mut visit = |v: Version| {
                all.push(v);
                if all.len() < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            };
            ledger.versions(prefix, from, &mut visit).unwrap();
            all
        };
        let all = [first.versions[0].clone(), third.versions[0].clone(), first.versions[1].clone()];
        assert_eq!(seen(b"c", 0, 9), all);
        assert_eq!(seen(b"c", 0, 2), all[..2]);
        assert_eq!(seen(b"c", 2, 9), all[1..2]);
        assert!(seen(b"d", 0, 9).is_empty());
    });
}
