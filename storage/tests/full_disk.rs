//! A disk that is full in the middle of a write (D3, P6): the write is refused in words, nothing that was acknowledged is lost
//! and no part of the refused block is seen, neither by the process that met it nor by the next, when there is room again.
//!
//! A file that may not grow (`ulimit -f`, RLIMIT_FSIZE) stands for the full disk: nobody needs to be root, and no other
//! program of the machine notices.

mod common;

use common::{CHAIN, block, hash};
use oda_consensus::ids::Digest;
use oda_consensus::records::{Appended, LogNode, Version};
use oda_storage::{BlockRecord, EntryChange, LedgerStore, RecordStore, RocksLedger};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Set for the process with the small disk: the store's directory.
const DIR: &str = "ODA_TEST_FULL_DISK";
/// Longest file, in the shell's unit: 512 or 1,024 bytes.
const MOST: &str = "600";
/// Blocks of 4 KB that surely do not fit, and how often the writer tries once more.
const BLOCKS: u64 = 1_000;
const AGAIN: u32 = 3;
const PATIENCE: Duration = Duration::from_secs(120);

fn append(ledger: &mut RocksLedger, height: u64) -> Result<(), oda_storage::StoreError> {
    let (index, key, value) = (height - 1, b"height".to_vec(), height.to_be_bytes().to_vec());
    let log = Appended {
        versions: vec![Version { index, height, key, value }],
        nodes: vec![LogNode { index: 2 * index, hash: Digest([7; 32]) }],
    };
    let bytes = vec![height as u8; 4_000];
    ledger.append(&BlockRecord { log, bytes, ..block(height) }, &[EntryChange::put(b"height", &height.to_be_bytes())])
}

#[test] // does nothing but in the process that the other test starts
fn writer() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let mut ledger = RocksLedger::open(&PathBuf::from(dir), CHAIN).unwrap();
    let mut height = 1;
    while height < BLOCKS {
        if let Err(error) = append(&mut ledger, height) {
            println!("\nrefused {error}");
            break;
        }
        ledger.put(b"claim", &height.to_be_bytes()).map(|()| println!("\npaid {height}")).unwrap_or_default();
        println!("\nacked {height}");
        height += 1;
    }
    let before = height - 1;
    assert_eq!(ledger.tip(), (before > 0).then(|| (before, hash(before))), "a refused block changes nothing");
    for _ in 0..AGAIN {
        // there is still no room: what is said to be written then must be
        if append(&mut ledger, height).is_ok() {
            println!("\nacked {height}");
            height += 1;
        }
    }
}

/// What the writer said, each word with its last height, and how it refused.
fn said(dir: &Path) -> (u64, u64, String) {
    let test = std::env::current_exe().unwrap();
    let script = format!("trap '' XFSZ; ulimit -f {MOST}; exec \"$0\" writer --exact --nocapture --test-threads=1");
    let mut child = Command::new("sh")
        .args(["-c", &script])
        .arg(test)
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let out = std::thread::spawn(move || std::io::read_to_string(out).unwrap());
    let err = std::thread::spawn(move || std::io::read_to_string(err).unwrap());
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None => assert!(begun.elapsed() < PATIENCE, "a full disk must not hang the store"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let (out, err) = (out.join().unwrap(), err.join().unwrap());
    assert!(status.success(), "{out}\n{err}");
    let last = |word: &str| out.lines().filter_map(|l| l.strip_prefix(word)?.parse().ok()).next_back().unwrap_or(0);
    let refused = out.lines().find_map(|l| l.strip_prefix("refused ")).unwrap_or_default();
    (last("acked "), last("paid "), refused.to_string())
}

#[test]
fn a_full_disk_is_named_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (acked, paid, refused) = said(dir.path());
    assert!(acked > 10 && acked < BLOCKS, "{acked} blocks were written");
    assert!(refused.contains("free space"), "{refused}");
    let mut ledger = RocksLedger::open(dir.path(), CHAIN).unwrap();
    let (tip, _) = ledger.tip().unwrap();
    assert!(tip == acked || tip == acked + 1, "acknowledged {acked}, found {tip}");
    assert_eq!(ledger.verify_links().unwrap(), tip);
    assert_eq!(ledger.entry(b"height").unwrap().unwrap(), tip.to_be_bytes(), "one block, one write");
    assert!((1..=tip).all(|h| ledger.block(h).unwrap() == Some(vec![h as u8; 4_000])));
    let claim = ledger.get(b"claim").unwrap().map_or(0, |v| u64::from_be_bytes(v.try_into().unwrap()));
    assert!(claim >= paid, "private records: {paid} acknowledged, {claim} found");
    // with room again it goes on
    for height in tip + 1..tip + 20 {
        append(&mut ledger, height).unwrap();
    }
    drop(ledger);
    assert_eq!(RocksLedger::open(dir.path(), CHAIN).unwrap().verify_links().unwrap(), tip + 19);
}
