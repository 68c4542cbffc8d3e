//! Five hundred times a process that writes as fast as it can is killed, and nothing it had acknowledged is lost (D3, P6).
//!
//! SIGKILL shows that no write is half seen and that a store opens after any moment of its work, opening included; what
//! the operating system had not written when the power failed is the matter of the faulty store (`tests/ledger.rs`).

mod common;

use common::{CHAIN, block, hash};
use oda_consensus::ids::Digest;
use oda_consensus::records::{Appended, LogNode, Version};
use oda_storage::{BlockRecord, EntryChange, LedgerStore, RecordStore, RocksLedger};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const KILLS: u32 = 500;
/// Blocks whose bodies stay.
const KEPT: u64 = 64;
/// Set for the process that is killed: the store's directory.
const DIR: &str = "ODA_TEST_WRITES_TO";
/// Before each acknowledged height on its output.
const ACKED: &str = "acked ";
/// Opening takes some milliseconds; this is for machines that stand still.
const PATIENCE: Duration = Duration::from_secs(60);

fn append(ledger: &mut RocksLedger, height: u64) {
    let (index, key, value) = (height - 1, b"height".to_vec(), height.to_be_bytes().to_vec());
    let log = Appended {
        versions: vec![Version { index, height, key, value }],
        nodes: vec![LogNode { index: 2 * index, hash: Digest([7; 32]) }],
    };
    let slot = [b"slot/".as_slice(), &(height % 64).to_be_bytes()].concat();
    let changes = [EntryChange::put(b"height", &height.to_be_bytes()), EntryChange::put(&slot, &[7; 200])];
    ledger.append(&BlockRecord { log, ..block(height) }, &changes).unwrap();
    // D3: every fourth block, some of the oldest bodies go
    if height > KEPT && height.is_multiple_of(4) {
        let from = ledger.bodies_from().max(1);
        ledger.prune(&(from..=height - KEPT).take(9).map(|h| (h, header(h))).collect::<Vec<_>>()).unwrap();
    }
}

fn header(height: u64) -> Vec<u8> {
    format!("header {height}").into_bytes()
}

#[test] // does nothing but in the process that the other test starts
fn writer() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let mut ledger = RocksLedger::open(&PathBuf::from(dir), CHAIN).unwrap();
    let mut out = std::io::stdout();
    writeln!(out, "\nopened").unwrap();
    for height in ledger.tip().map_or(1, |(height, _)| height + 1).. {
        append(&mut ledger, height);
        ledger.wal_append(height + 1, b"vote").unwrap();
        ledger.put(b"claim", &height.to_be_bytes()).unwrap();
        writeln!(out, "{ACKED}{height}").unwrap();
        out.flush().unwrap();
    }
}

/// Starts the writer; what it says comes line by line.
fn start(dir: &Path) -> (Child, Receiver<String>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["writer", "--exact", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (lines, said) = channel();
    let out = BufReader::new(child.stdout.take().unwrap());
    std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| lines.send(line)));
    (child, said)
}

/// The last height acknowledged before it was killed, if any.
fn killed(dir: &Path, dice: &mut StdRng) -> Option<u64> {
    let (mut child, said) = start(dir);
    let mut acked = None;
    let mut note = |line: String| acked = line.strip_prefix(ACKED).and_then(|h| h.parse().ok()).or(acked);
    // one in five while it opens, the others while it writes
    if dice.gen_range(0..5) > 0 {
        let begun = Instant::now();
        loop {
            let line = said.recv_timeout(PATIENCE).expect("the writer opens the store and writes");
            let is_ack = line.starts_with(ACKED);
            note(line);
            if is_ack {
                break;
            }
            assert!(begun.elapsed() < PATIENCE);
        }
    }
    std::thread::sleep(Duration::from_micros(dice.gen_range(0..12_000)));
    child.kill().unwrap(); // SIGKILL
    child.wait().unwrap();
    said.iter().for_each(note); // all it had said: its end of the pipe is closed
    acked
}

#[test] // D3, P6: what was acknowledged is there, at most one block more, and every part of a block with it
fn five_hundred_kills_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut dice = StdRng::seed_from_u64(500);
    let (mut acked, mut in_work, mut pruned) = (0, 0_u32, 0);
    for kill in 1..=KILLS {
        let last = killed(dir.path(), &mut dice);
        in_work += u32::from(last.is_some());
        let before = acked;
        acked = last.unwrap_or(acked);
        let ledger = RocksLedger::open(dir.path(), CHAIN).unwrap_or_else(|e| panic!("after kill {kill}: {e}"));
        let tip = ledger.tip().map_or(0, |(height, _)| height);
        // a process that was killed before it said anything may have written one block; one that spoke, one more
        assert!(tip >= acked && tip <= acked + 1, "kill {kill}: acknowledged {acked}, found {tip}");
        for height in before + 1..=tip {
            let (whole, pruned) = (ledger.block(height).unwrap(), ledger.header(height).unwrap());
            match height < ledger.bodies_from() {
                false => assert_eq!((whole, pruned), (Some(block(height).bytes), None), "kill {kill}"),
                true => assert_eq!((whole, pruned), (None, Some(header(height))), "kill {kill}"),
            }
        }
        if tip > 0 {
            assert_eq!(ledger.tip(), Some((tip, hash(tip))));
            assert_eq!(ledger.entry(b"height").unwrap(), Some(tip.to_be_bytes().to_vec()), "one block, one write");
            let claim = ledger.get(b"claim").unwrap().map(|v| u64::from_be_bytes(v.try_into().unwrap()));
            assert!(claim.unwrap_or(0) >= last.unwrap_or(0), "kill {kill}: private records");
        }
        if last == Some(tip) {
            assert_eq!(ledger.wal(tip + 1).unwrap(), [b"vote".to_vec()], "kill {kill}: votes");
        }
        if kill % 50 == 0 {
            assert_eq!(ledger.verify_links().unwrap(), tip);
        }
        assert!(ledger.bodies_from() >= pruned && ledger.bodies_from() <= tip.max(KEPT) - KEPT + 1, "kill {kill}");
        pruned = ledger.bodies_from();
        acked = tip;
    }
    println!("{KILLS} kills, {in_work} of them while it wrote, {acked} blocks, {pruned} of them pruned");
    assert!(in_work > KILLS / 2 && acked > u64::from(KILLS) && pruned > acked / 2);
}
