//! Data directories of every released format, opened by this build (K2, D3).
//!
//! A build that reads what it wrote itself shows nothing: the format may have changed on both sides. So a small directory of
//! each released format lies in `tests/data/format-N` as that release wrote it (`examples/make_released.rs`), and nobody
//! writes it again. When [`oda_storage`]'s ledger format grows, this test fails until the new format has its directory, and
//! until each older one either opens as ever (a migration) or is refused in words that say what to do.

use oda_consensus::codec;
use oda_consensus::genesis::Genesis;
use oda_consensus::ids::ChainId;
use oda_consensus::state::{Entry, State};
use oda_consensus::wire::DecidedBlock;
use oda_storage::{LedgerStore, RecordStore, RocksLedger, RocksRecords, StoreError};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// What is to be done when the first assertion fails.
const DUTY: &str = "this build writes a ledger format of which no directory is kept: write it with `cargo run --release \
                    --workspace --example make_released storage/tests/data/format-N`, and decide what becomes of older \
                    ones: a migration on opening, or a refusal that says what to do";

/// Each released format: its number, its tip and how many records its ledger has.
const RELEASED: [(u32, u64, u64); 1] = [(3, 49, 147)];

fn data(format: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/format-{format}"))
}

/// A copy: opening writes.
fn copied(format: u32) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for part in ["ledger", "records"] {
        std::fs::create_dir(dir.path().join(part)).unwrap();
        for file in std::fs::read_dir(data(format).join(part)).unwrap().map(|file| file.unwrap().path()) {
            std::fs::copy(&file, dir.path().join(part).join(file.file_name().unwrap())).unwrap();
        }
    }
    dir
}

fn genesis(format: u32) -> Genesis {
    serde_json::from_str(&std::fs::read_to_string(data(format).join("genesis.json")).unwrap()).unwrap()
}

/// The format this build writes.
fn current() -> u32 {
    #[derive(bincode::Encode, bincode::Decode)]
    struct Schema(u32);
    oda_consensus::record!(Schema, b"schm", 16);
    let dir = tempfile::tempdir().unwrap();
    drop(RocksLedger::open(dir.path(), ChainId([7; 32])).unwrap());
    let families = rocksdb::DB::list_cf(&rocksdb::Options::default(), dir.path()).unwrap();
    let db = rocksdb::DB::open_cf_for_read_only(&rocksdb::Options::default(), dir.path(), families, false).unwrap();
    let stored = db.get_cf(db.cf_handle("meta").unwrap(), b"schema").unwrap().unwrap();
    codec::decode::<Schema>(&stored).unwrap().0
}

/// Everything a node does with its directory at the start, and the replay of `oda ledger verify`.
fn check(ledger: &RocksLedger, genesis: Genesis, height: u64, records: u64) {
    assert_eq!(ledger.verify_links().unwrap(), height);
    let mut replayed = State::new(genesis.clone()).unwrap();
    for at in 1..=height {
        let decided: DecidedBlock = codec::decode(&ledger.block(at).unwrap().unwrap()).unwrap();
        replayed.apply(&decided.block).unwrap_or_else(|e| panic!("block {at}: {e}"));
    }
    assert_eq!((replayed.tip().height, replayed.log().len()), (height, records));
    let mut restored = State::new(genesis).unwrap();
    let mut entries = 0;
    ledger
        .entries(&mut |key, value| {
            let entry = Entry::decode(key, value).unwrap();
            assert_eq!(entry.value(), value, "written as it was read");
            restored.restore(entry);
            entries += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
    assert!(entries > 20, "{entries} entries");
    assert_eq!((restored.tip(), restored.log().root()), (replayed.tip(), replayed.tip().state_root));
    assert!(restored.claims().eq(replayed.claims()) && restored.escrows().eq(replayed.escrows()));
    assert!(restored.models().eq(replayed.models()));
    let mut versions = 0;
    let mut visit = |_| {
        versions += 1;
        ControlFlow::Continue(())
    };
    ledger.versions(b"", 0, &mut visit).unwrap();
    assert_eq!(versions, records);
    assert!((0..records).all(|i| ledger.log_node(2 * i).unwrap().is_some()), "every leaf of the log");
    assert_eq!(ledger.wal(height + 1).unwrap(), [b"a vote".to_vec()]);
    assert_eq!(ledger.get(b"claim").unwrap().unwrap(), b"held");
}

#[test]
fn every_released_format_opens_or_is_refused_with_a_remedy() {
    let newest = RELEASED.iter().map(|(format, ..)| *format).max();
    assert_eq!(newest, Some(current()), "{DUTY}");
    for (format, height, records) in RELEASED {
        let (dir, genesis) = (copied(format), genesis(format));
        let private = RocksRecords::open(&dir.path().join("records"), genesis.chain()).unwrap();
        assert_eq!(
            private.get(b"payment").unwrap().unwrap(),
            b"sent",
            "payments of format {format} are readable for ever"
        );
        match RocksLedger::open(&dir.path().join("ledger"), genesis.chain()) {
            Ok(mut ledger) => {
                check(&ledger, genesis, height, records);
                ledger.put(b"claim", b"paid").unwrap();
            }
            Err(error @ StoreError::OlderSchema { .. }) if format < current() => {
                let said = error.to_string();
                assert!(said.contains("run the release that made it") && said.contains("--datadir"), "{said}");
            }
            Err(error) => panic!("format {format}: {error}"),
        }
    }
}

#[test] // a directory that nobody lists is one that nobody opens
fn every_kept_directory_is_opened_and_small() {
    let mut kept: Vec<String> = std::fs::read_dir(data(0).parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    kept.sort();
    assert_eq!(kept, RELEASED.map(|(format, ..)| format!("format-{format}")));
    for (format, ..) in RELEASED {
        let files = ["ledger", "records"].map(|part| std::fs::read_dir(data(format).join(part)).unwrap());
        let bytes: u64 = files.into_iter().flatten().map(|file| file.unwrap().metadata().unwrap().len()).sum();
        assert!(bytes < 200_000, "format {format}: {bytes} bytes in the repository");
    }
}
