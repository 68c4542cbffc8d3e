//! Snapshots of a stored ledger: their records read from a store, and made into a state (L4, D3).
//!
//! What a snapshot is, and why it is believed, is in `oda_consensus::snapshot`. The store has the records by key, and a
//! snapshot has them in the order of the log; sorting all of them in memory would take as much as the ledger does, so
//! they are put in order a window at a time.

mod file;
mod find;

pub use file::{Records, check, install, write};
pub use find::{MAX_SNAPSHOT_BYTES, Own, Search, find};

use crate::ledger::LedgerReader;
use oda_consensus::codec;
use oda_consensus::genesis::Genesis;
use oda_consensus::ids::Digest;
use oda_consensus::records::RecordLog;
use oda_consensus::snapshot::{Carried, Checker, SnapshotError, SnapshotRecord, TIP_KEY};
use oda_consensus::state::{Entry, State, Tip};
use oda_consensus::tx::Header;
use oda_storage::{EntryChange, KeptRecord, KeptValue, Part};
use std::collections::BTreeMap;

/// Records put in order at once: some 20 MB.
const WINDOW: u64 = 1 << 17;
/// Records read at once, so that whoever writes the ledger meanwhile does not wait for long.
const PAGE: usize = 512;

/// Shows every record of the ledger up to a block, in the order of the log; memory stays bounded however long it is.
///
/// # Errors
/// If the store fails, lacks a record, or whoever is shown them wants no more.
pub fn stream(
    reader: &dyn LedgerReader,
    header: &Header,
    show: &mut dyn FnMut(SnapshotRecord) -> Result<(), String>,
) -> Result<(), String> {
    let mut first = 0;
    while first < header.records {
        let last = first.saturating_add(WINDOW).min(header.records);
        let mut window = BTreeMap::new();
        each(reader, header.height, &mut |record, is_newest| {
            if (first..last).contains(&record.index) {
                let value = match record.value {
                    KeptValue::Digest(digest) => Some(digest),
                    KeptValue::Whole(_) if is_newest || record.key == TIP_KEY => None,
                    KeptValue::Whole(_) => Some(record.record().value),
                };
                window.insert(record.index, (record.height, record.key, value));
            }
        })?;
        for index in first..last {
            let missing = || format!("record {index} is missing: run `oda ledger repair`");
            let (height, key, replaced) = window.remove(&index).ok_or_else(missing)?;
            let value = match replaced {
                Some(digest) => Carried::Replaced(digest),
                None => {
                    let version = reader.version(&key, height)?.filter(|v| v.height == height);
                    Carried::Whole(version.ok_or_else(missing)?.value)
                }
            };
            show(SnapshotRecord { height, key, value })?;
        }
        first = last;
    }
    Ok(())
}

/// Goes through all records up to a height by key, and says of each whether it is the newest of its entry.
fn each(reader: &dyn LedgerReader, upto: u64, see: &mut dyn FnMut(KeptRecord, bool)) -> Result<(), String> {
    let mut before: Option<KeptRecord> = None;
    let (mut key, mut height) = (Vec::new(), 0);
    loop {
        let page = reader.kept((&key, height), upto, PAGE)?;
        let is_last = page.len() < PAGE;
        for record in page {
            (key, height) = (record.key.clone(), record.height.saturating_add(1));
            if let Some(before) = before.take() {
                let is_newest = before.key != record.key;
                see(before, is_newest);
            }
            before = Some(record);
        }
        if is_last {
            break;
        }
    }
    before.into_iter().for_each(|record| see(record, true));
    Ok(())
}

/// Makes a state of the records of a snapshot.
pub struct Builder {
    checker: Checker,
    header: Header,
    state: State,
}

impl Builder {
    /// As [`Checker::new`].
    ///
    /// # Errors
    /// If the genesis is not valid.
    pub fn new(genesis: Genesis, header: Header, own: Option<(u64, Digest)>) -> Result<Self, String> {
        let state = State::new(genesis).map_err(|e| e.to_string())?;
        Ok(Self { checker: Checker::new(header, own), header, state })
    }

    /// Takes the next record; the part gets what belongs on disk.
    ///
    /// # Errors
    /// As [`Checker::take`].
    pub fn take(&mut self, record: SnapshotRecord, part: &mut Part) -> Result<(), SnapshotError> {
        let index = self.checker.taken();
        if let Carried::Whole(value) = &record.value {
            let entry = Entry::decode(&record.key, value)
                .map_err(|e| SnapshotError::Record { index, problem: e.to_string() })?;
            match &entry {
                Entry::Tip(tip) if tip.height > 0 => part.hashes.push((tip.hash, tip.height)),
                Entry::Tip(_) => {}
                _ => part.entries.push(EntryChange::put(&record.key, value)),
            }
            self.state.restore(entry);
        }
        part.nodes.extend(self.checker.take(&record)?);
        let SnapshotRecord { height, key, value } = record;
        let value = match value {
            Carried::Whole(value) => KeptValue::Whole(value),
            Carried::Replaced(digest) => KeptValue::Digest(digest),
        };
        part.records.push(KeptRecord { index, height, key, value });
        Ok(())
    }

    /// The state after the block, all of it under the block's root.
    ///
    /// # Errors
    /// As [`Checker::finish`]; or a sum that does not add up.
    pub fn finish(mut self) -> Result<State, SnapshotError> {
        let log = self.checker.finish()?;
        for entry in last_entries(&self.header, log) {
            self.state.restore(entry);
        }
        let models: Vec<_> = self.state.models().map(|(id, _)| id).collect();
        self.state.check_invariants(models.into_iter()).map_err(SnapshotError::Invariant)?;
        Ok(self.state)
    }
}

/// The entries that no record holds: position of the log, and tip.
fn last_entries(header: &Header, log: RecordLog) -> [Entry; 2] {
    let Header { height, time_ms, state_root, .. } = *header;
    [Entry::Log(log), Entry::Tip(Tip { height, hash: header.hash(), time_ms, state_root })]
}

/// The state after the block before the oldest whole one, made again from every record of the ledger: its root is that
/// of the block's header.
///
/// # Errors
/// What is missing or differs.
pub fn state_before(genesis: Genesis, bodies_from: u64, reader: &dyn LedgerReader) -> Result<State, String> {
    let height = bodies_from.saturating_sub(1);
    let bytes = reader.header(height)?.ok_or_else(|| format!("the header of block {height} is missing"))?;
    let header: Header = codec::decode(&bytes).map_err(|e| format!("the header of block {height}: {e}"))?;
    let mut builder = Builder::new(genesis, header, None)?;
    stream(reader, &header, &mut |record| builder.take(record, &mut Part::default()).map_err(|e| e.to_string()))?;
    builder.finish().map_err(|e| format!("the records up to block {height}: {e}"))
}
