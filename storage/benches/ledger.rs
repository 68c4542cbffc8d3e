//! The ledger store beside bare RocksDB, in one run: `cargo bench --workspace --bench ledger`; `-- --quick` for a look.
//!
//! Both write the same bytes in one synced batch a block and read them back by the same keys, with the same memory and
//! compression, so the ratio is what checks, checksums, index and log cost. Absolute figures are the disk's.

use oda_consensus::ids::{BlockHash, ChainId};
use oda_consensus::records::{RecordLog, consistency_path, inclusion_path};
use oda_storage::{BlockRecord, EntryChange, LedgerStore, RocksLedger};
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBCompressionType, Options, WriteBatch, WriteOptions,
};
use std::hint::black_box;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

const CHAIN: ChainId = ChainId([7; 32]);
/// A block with its certificate, bytes.
const BLOCK_BYTES: usize = 4_000;
/// Entries of a block and bytes of each.
const ENTRIES: u64 = 8;
const ENTRY_BYTES: usize = 400;
/// Records of a block in the large ledger.
const LARGE_BLOCK: u64 = 2_000;

fn hash(height: u64) -> BlockHash {
    BlockHash(*blake3::hash(&height.to_be_bytes()).as_bytes())
}

fn key(number: u64) -> Vec<u8> {
    [b"c".as_slice(), blake3::hash(&number.to_be_bytes()).as_bytes()].concat()
}

/// The next block of a ledger, `entries` new ones in it.
fn block(log: &mut RecordLog, height: u64, entries: u64, block_bytes: usize) -> (BlockRecord, Vec<EntryChange>) {
    let numbers = (height - 1) * entries..height * entries;
    let changes: Vec<_> = numbers.map(|n| EntryChange::put(&key(n), &[n as u8; ENTRY_BYTES])).collect();
    let appended = log.append(height, changes.iter().map(|c| (c.key.clone(), c.value.clone().unwrap_or_default())));
    let (hash, prev) = (hash(height), hash(height - 1));
    (BlockRecord { height, hash, prev, bytes: vec![height as u8; block_bytes], log: appended }, changes)
}

/// The same bytes, written as plainly as RocksDB lets one, with the memory that the ledger gives it.
struct Bare(DB);

const FAMILIES: [&str; 6] = ["meta", "blocks", "hashes", "entries", "log", "history"];

impl Bare {
    fn open(dir: &Path) -> Self {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_db_write_buffer_size(16 << 20);
        let (cache, mut table) = (Cache::new_lru_cache(8 << 20), BlockBasedOptions::default());
        table.set_block_cache(&cache);
        let mut family = Options::default();
        family.set_write_buffer_size(4 << 20);
        family.set_compression_type(DBCompressionType::Lz4);
        family.set_block_based_table_factory(&table);
        let families = FAMILIES.map(|name| ColumnFamilyDescriptor::new(name, family.clone()));
        Self(DB::open_cf_descriptors(&options, dir, families).expect("an empty directory"))
    }

    fn family(&self, name: &str) -> &rocksdb::ColumnFamily {
        self.0.cf_handle(name).expect("a family")
    }

    fn append(&self, block: &BlockRecord, changes: &[EntryChange]) {
        let (mut batch, height) = (WriteBatch::default(), block.height.to_be_bytes());
        batch.put_cf(self.family("blocks"), height, &block.bytes);
        batch.put_cf(self.family("hashes"), block.hash.0, height);
        batch.put_cf(self.family("meta"), b"tip", height);
        for change in changes {
            batch.put_cf(self.family("entries"), &change.key, change.value.as_deref().unwrap_or_default());
        }
        for node in &block.log.nodes {
            batch.put_cf(self.family("log"), node.index.to_be_bytes(), node.hash.0);
        }
        for v in &block.log.versions {
            batch.put_cf(self.family("history"), [v.key.as_slice(), &height].concat(), &v.value);
        }
        let mut options = WriteOptions::default();
        options.set_sync(true);
        self.0.write_opt(batch, &options).expect("a write");
    }
}

fn timed<T>(act: impl FnOnce() -> T) -> Duration {
    let start = Instant::now();
    black_box(act());
    start.elapsed()
}

fn percentile(times: &mut [Duration], percent: usize) -> f64 {
    times.sort_unstable();
    times[(times.len() * percent / 100).min(times.len() - 1)].as_secs_f64() * 1e6
}

/// Reads by number in an order that repeats nothing nearby.
fn scattered(count: u64, within: u64) -> impl Iterator<Item = u64> {
    (0..count).map(move |i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15) % within)
}

fn main() {
    let quick = std::env::args().any(|a| a == "--quick");
    let (blocks, reads, large) = if quick { (100, 2_000, 20) } else { (2_000, 50_000, 500) };
    let dir = tempfile::tempdir().expect("a directory");
    let mut ours = RocksLedger::open(&dir.path().join("ours"), CHAIN).expect("an empty ledger");
    let bare = Bare::open(&dir.path().join("bare"));
    let mut log = RecordLog::default();
    let (mut own, mut plain) = (Vec::new(), Vec::new());
    for height in 1..=blocks {
        let (block, changes) = block(&mut log, height, ENTRIES, BLOCK_BYTES);
        own.push(timed(|| ours.append(&block, &changes).expect("the next block")));
        plain.push(timed(|| bare.append(&block, &changes)));
    }
    println!("| what | ledger | bare RocksDB | ratio of speed |\n|---|---|---|---|");
    let line = |what: &str, own: &mut [Duration], plain: &mut [Duration]| {
        for percent in [50, 99] {
            let (a, b) = (percentile(own, percent), percentile(plain, percent));
            println!("| {what}, p{percent} | {a:.1} us | {b:.1} us | {:.2} |", b / a);
        }
    };
    line("append a block of 8 entries, synced", &mut own, &mut plain);

    let (mut own, mut plain) = (Vec::new(), Vec::new());
    for n in scattered(reads, blocks * ENTRIES) {
        let key = key(n);
        own.push(timed(|| ours.entry(&key).expect("a read").expect("an entry")));
        plain.push(timed(|| bare.0.get_cf(bare.family("entries"), &key).expect("a read").expect("an entry")));
    }
    line("look an entry up", &mut own, &mut plain);
    let (mut own, mut plain) = (Vec::new(), Vec::new());
    for height in scattered(reads, blocks).map(|h| h + 1) {
        own.push(timed(|| ours.block(height).expect("a read").expect("a block")));
        let height = height.to_be_bytes();
        plain.push(timed(|| bare.0.get_cf(bare.family("blocks"), height).expect("a read").expect("a block")));
    }
    line("look a block up, checked", &mut own, &mut plain);
    drop((ours, bare));

    // a ledger of a million records
    let path = dir.path().join("large");
    let mut ledger = RocksLedger::open(&path, CHAIN).expect("an empty ledger");
    let mut log = RecordLog::default();
    for height in 1..=large {
        let (block, changes) = block(&mut log, height, LARGE_BLOCK, BLOCK_BYTES);
        ledger.append(&block, &changes).expect("the next block");
    }
    let records = large * LARGE_BLOCK;
    let read = |i: u64| ledger.log_node(i).map_err(|e| e.to_string());
    let mut versions: Vec<_> = scattered(reads / 10, records)
        .map(|n| timed(|| ledger.version(&key(n), u64::MAX).expect("a read").expect("a version")))
        .collect();
    let mut paths: Vec<_> =
        scattered(reads / 10, records).map(|n| timed(|| inclusion_path(n, records, &read).expect("a path"))).collect();
    let mut extensions: Vec<_> = scattered(reads / 10, records - 1)
        .map(|n| timed(|| consistency_path(n + 1, records, &read).expect("a path")))
        .collect();
    println!("\n| of {records} records | p50 | p99 |\n|---|---|---|");
    for (what, times) in [
        ("newest version of a record", &mut versions),
        ("inclusion proof", &mut paths),
        ("consistency proof", &mut extensions),
    ] {
        println!("| {what} | {:.1} us | {:.1} us |", percentile(times, 50), percentile(times, 99));
    }
    drop(ledger);
    let start = Instant::now();
    let ledger = RocksLedger::open(&path, CHAIN).expect("the ledger");
    let opened = start.elapsed();
    let mut count = 0u64;
    let mut visit = |_: &[u8], _: &[u8]| {
        count += 1;
        ControlFlow::Continue(())
    };
    ledger.entries(&mut visit).expect("a scan");
    println!(
        "\nopened in {:.0} ms, {count} entries scanned in {:.0} ms",
        opened.as_secs_f64() * 1e3,
        (start.elapsed() - opened).as_secs_f64() * 1e3
    );
}
