//! Whatever a disk does to a write (D3, P6): tears it, flips a bit of it, loses it. At every write of a ledger's life, in
//! the log that RocksDB replays on opening and in the tables it makes of it, either the store opens and shows what was
//! written before, as a whole, or it says that it is damaged. A shorter past that looks whole is the one thing that must not
//! happen: a validator that has lost its votes votes twice. What nobody can notice on one machine is the loss of the very
//! last write.

mod common;

use common::{CHAIN, block};
use oda_consensus::ids::Digest;
use oda_consensus::records::{Appended, LogNode, Version};
use oda_storage::{BlockRecord, EntryChange, LedgerStore, RecordStore, RocksLedger, StoreError};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

const BLOCKS: u64 = 3;

/// All that a ledger shows, or the error of whoever looks.
fn contents(ledger: &RocksLedger) -> Result<Vec<Vec<u8>>, StoreError> {
    let mut all = vec![format!("{:?} {}", ledger.tip(), ledger.verify_links()?).into_bytes()];
    for height in 0..BLOCKS + 2 {
        all.extend(ledger.block(height)?);
        all.extend(ledger.wal(height)?);
        all.extend(ledger.log_node(2 * height)?.map(|digest| digest.0.to_vec()));
    }
    ledger.entries(&mut |key, value| {
        all.push([key, value].concat());
        ControlFlow::Continue(())
    })?;
    ledger.versions(b"", 0, &mut |v| {
        all.push([v.key, v.height.to_be_bytes().to_vec(), v.value].concat());
        ControlFlow::Continue(())
    })?;
    all.extend(ledger.scan(b"", 1_000)?.into_iter().map(|(key, value)| [key, value].concat()));
    Ok(all)
}

/// Opens and reads everything.
fn look(dir: &Path) -> Result<Vec<Vec<u8>>, StoreError> {
    contents(&RocksLedger::open(dir, CHAIN)?)
}

/// The log that RocksDB will replay.
fn log(dir: &Path) -> PathBuf {
    let files = std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    files.filter(|f| f.extension().is_some_and(|e| e == "log")).max_by_key(|f| f.metadata().unwrap().len()).unwrap()
}

/// A ledger after some writes of every kind: where each ends in the log, and what the ledger showed then.
struct Past {
    dir: tempfile::TempDir,
    bytes: Vec<u8>,
    ends: Vec<usize>,
    shown: Vec<Vec<Vec<u8>>>,
}

fn past() -> Past {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = RocksLedger::open(dir.path(), CHAIN).unwrap();
    let path = log(dir.path());
    let (mut ends, mut shown) = (Vec::new(), Vec::new());
    let mut note = |ledger: &RocksLedger| {
        ends.push(usize::try_from(path.metadata().unwrap().len()).unwrap());
        shown.push(contents(ledger).unwrap());
    };
    note(&ledger);
    for height in 1..=BLOCKS {
        ledger.wal_append(height, &[height as u8; 40]).unwrap();
        note(&ledger);
        ledger.put(&height.to_be_bytes(), b"payment").unwrap();
        note(&ledger);
        let (key, value) = (b"height".to_vec(), height.to_be_bytes().to_vec());
        let log = Appended {
            versions: vec![Version { index: height - 1, height, key: key.clone(), value: value.clone() }],
            nodes: vec![LogNode { index: 2 * (height - 1), hash: Digest([height as u8; 32]) }],
        };
        ledger.append(&BlockRecord { log, ..block(height) }, &[EntryChange::put(&key, &value)]).unwrap();
        note(&ledger);
    }
    drop(ledger);
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(ends.last(), Some(&bytes.len()), "every write was on disk when it returned");
    Past { dir, bytes, ends, shown }
}

/// The same directory with another log.
fn with_log(past: &Past, bytes: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(past.dir.path()).unwrap().map(|file| file.unwrap().path()) {
        let name = file.file_name().unwrap();
        if name != "LOCK" {
            std::fs::copy(&file, dir.path().join(name)).unwrap();
        }
    }
    std::fs::write(log(past.dir.path()).file_name().map(|name| dir.path().join(name)).unwrap(), bytes).unwrap();
    dir
}

/// What opening and reading a ledger with this log comes to: the error, or after how many writes it looked so.
fn seen(past: &Past, bytes: &[u8]) -> Result<Option<usize>, String> {
    let found = look(with_log(past, bytes).path()).map_err(|e| e.to_string())?;
    Ok(past.shown.iter().position(|shown| *shown == found))
}

#[test] // D3: the last write may be torn by a crash; it is gone as a whole, and nothing else with it
fn a_torn_write_is_gone_as_a_whole() {
    let past = past();
    for write in 1..past.ends.len() {
        let (from, to) = (past.ends[write - 1], past.ends[write]);
        for cut in [from + 1, from + 6, from + 7, from + 20, to - 1] {
            assert_eq!(seen(&past, &past.bytes[..cut]), Ok(Some(write - 1)), "write {write} cut at {}", cut - from);
            // the file had grown already, and the disk had not written what it should hold
            let grown = [&past.bytes[..cut], &[0; 200]].concat();
            let found = seen(&past, &grown);
            let is_whole = grown.starts_with(&past.bytes[..to]); // its last bytes are zeros anyway
            let expected = if is_whole { write } else { write - 1 };
            assert!(found.is_err() || found == Ok(Some(expected)), "write {write} cut at {}: {found:?}", cut - from);
        }
    }
}

#[test] // D3, C5: a bit that flips in any write is noticed, unless what is left is what a crash leaves
fn a_flipped_bit_is_never_a_shorter_past() {
    let past = past();
    let last = past.ends.len() - 1;
    for write in 1..=last {
        let (from, to) = (past.ends[write - 1], past.ends[write]);
        // of the header every bit of the length, by which the next write is found
        let length = (from + 4..from + 6).flat_map(|at| (0..8).map(move |bit| (at, bit)));
        let others = [from, from + 6, from + 7, from + 15, from + 19, (from + to) / 2, to - 1].map(|at| (at, 1));
        for (at, bit) in length.chain(others) {
            let mut flipped = past.bytes.clone();
            flipped[at] ^= 1 << bit;
            match seen(&past, &flipped) {
                Err(error) => assert!(error.contains("damaged"), "{error}"),
                // a length beyond the end of the file, in the last write: as if it had been torn
                Ok(Some(shown)) if (write, shown) == (last, last - 1) && (4..6).contains(&(at - from)) => {}
                found => panic!("write {write} of {last}, byte {}, bit {bit}: {found:?}", at - from),
            }
        }
    }
}

#[test] // D3, C5: a write that never reached the disk is missed as soon as a later one did
fn a_lost_write_is_missed() {
    let past = past();
    let last = past.ends.len() - 1;
    for write in 1..=last {
        let (from, to) = (past.ends[write - 1], past.ends[write]);
        let never_made = [&past.bytes[..from], &past.bytes[to..]].concat();
        let mut never_filled = past.bytes.clone();
        never_filled[from..to].fill(0);
        for lost in [never_made, never_filled] {
            match seen(&past, &lost) {
                Err(error) => assert!(write < last && error.contains("damaged"), "write {write}: {error}"),
                // nothing on this machine knows of the last one any more
                found => assert_eq!((found, write), (Ok(Some(last - 1)), last)),
            }
        }
    }
}

#[test] // D3: the same in the tables that the log becomes: an error, or what was written, never something else
fn a_damaged_table_shows_nothing_wrong() {
    let past = past();
    let all = past.shown.last().unwrap();
    drop(RocksLedger::open(past.dir.path(), CHAIN).unwrap());
    let files = || std::fs::read_dir(past.dir.path()).unwrap().map(|file| file.unwrap().path());
    let tables: Vec<PathBuf> = files().filter(|f| f.extension().is_some_and(|e| e == "sst")).collect();
    assert!(tables.len() > 4, "each family has a table");
    let (mut noticed, mut tried) = (0, 0);
    for table in &tables {
        let whole = std::fs::read(table).unwrap();
        for at in (0..whole.len()).step_by(whole.len().div_ceil(40)) {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x10;
            std::fs::write(table, &flipped).unwrap();
            let found = look(past.dir.path());
            assert!(found.as_ref().map_or(true, |found| found == all), "{} byte {at}", table.display());
            (noticed, tried) = (noticed + u32::from(found.is_err()), tried + 1);
        }
        std::fs::write(table, &whole).unwrap();
    }
    assert!(noticed > tried / 4, "{noticed} of {tried} flips noticed: the others are in what nobody reads");
    assert_eq!(look(past.dir.path()).unwrap(), *all);
}
