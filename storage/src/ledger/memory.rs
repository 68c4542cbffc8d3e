//! A ledger in memory: the same rules, no disk. For simulation and tests.

use super::kept::{check_base, check_part, check_prune};
use super::{
    Base, BlockRecord, EntryChange, KeptRecord, KeptVisitor, LedgerStore, MAX_WAL_ENTRIES, Part, VersionVisitor,
    check_next, check_wal, too_many_wal_entries,
};
use crate::error::StoreError;
use crate::records::{MemoryRecords, RecordStore, Visitor, apply_to_map, check_changes, visit_map};
use oda_consensus::ids::{BlockHash, Digest};
use oda_consensus::records::Version;
use std::collections::BTreeMap;
use std::ops::Bound;

/// A ledger that ends with its process; `clone` is a copy of everything in it.
#[derive(Debug, Clone, Default)]
pub struct MemoryLedger {
    tip: Option<(u64, BlockHash)>,
    blocks: BTreeMap<u64, Vec<u8>>,
    hashes: BTreeMap<BlockHash, u64>,
    entries: BTreeMap<Vec<u8>, Vec<u8>>,
    nodes: BTreeMap<u64, Digest>,
    versions: BTreeMap<(Vec<u8>, u64), KeptRecord>,
    headers: BTreeMap<u64, Vec<u8>>,
    bodies_from: u64,
    headers_from: u64,
    is_loading: bool,
    wal: BTreeMap<u64, Vec<Vec<u8>>>,
    private: MemoryRecords,
}

impl MemoryLedger {
    /// An empty ledger.
    pub fn new() -> Self {
        Self::default()
    }
}

impl RecordStore for MemoryLedger {
    fn apply(&mut self, changes: &[EntryChange]) -> Result<(), StoreError> {
        self.private.apply(changes)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.private.get(key)
    }

    fn visit(&self, prefix: &[u8], visitor: &mut Visitor<'_>) -> Result<(), StoreError> {
        self.private.visit(prefix, visitor)
    }
}

impl LedgerStore for MemoryLedger {
    fn append(&mut self, block: &BlockRecord, changes: &[EntryChange]) -> Result<(), StoreError> {
        if self.is_loading {
            return Err(StoreError::NotLoading);
        }
        check_next(self.tip, block)?;
        check_changes(changes)?;
        self.blocks.insert(block.height, block.bytes.clone());
        self.hashes.insert(block.hash, block.height);
        apply_to_map(&mut self.entries, changes);
        self.nodes.extend(block.log.nodes.iter().map(|n| (n.index, n.hash)));
        self.versions.extend(block.log.versions.iter().map(|v| ((v.key.clone(), v.height), v.clone().into())));
        self.wal.retain(|height, _| *height > block.height);
        self.tip = Some((block.height, block.hash));
        Ok(())
    }

    fn tip(&self) -> Option<(u64, BlockHash)> {
        self.tip
    }

    fn block(&self, height: u64) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.blocks.get(&height).cloned())
    }

    fn height_of(&self, hash: BlockHash) -> Result<Option<u64>, StoreError> {
        Ok(self.hashes.get(&hash).copied())
    }

    fn entry(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.entries.get(key).cloned())
    }

    fn entries(&self, visitor: &mut Visitor<'_>) -> Result<(), StoreError> {
        visit_map(&self.entries, b"", visitor);
        Ok(())
    }

    fn log_node(&self, index: u64) -> Result<Option<Digest>, StoreError> {
        Ok(self.nodes.get(&index).copied())
    }

    fn version(&self, key: &[u8], upto: u64) -> Result<Option<Version>, StoreError> {
        let key = key.to_vec();
        let newest = self.versions.range((key.clone(), 0)..=(key, upto)).next_back();
        Ok(newest.and_then(|(_, v)| v.clone().whole()))
    }

    fn versions(&self, prefix: &[u8], from: u64, visitor: &mut VersionVisitor<'_>) -> Result<(), StoreError> {
        let all = self.versions.range((prefix.to_vec(), 0)..).take_while(|((key, _), _)| key.starts_with(prefix));
        for (_, version) in all.filter(|((_, height), _)| *height >= from) {
            if version.clone().whole().is_some_and(|version| visitor(version).is_break()) {
                break;
            }
        }
        Ok(())
    }

    fn bodies_from(&self) -> u64 {
        self.bodies_from
    }

    fn headers_from(&self) -> u64 {
        self.headers_from
    }

    fn header(&self, height: u64) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.headers.get(&height).cloned())
    }

    fn prune(&mut self, headers: &[(u64, Vec<u8>)]) -> Result<(), StoreError> {
        let first = self.blocks.first_key_value().map_or(self.bodies_from.max(1), |(height, _)| *height);
        check_prune(headers, first, self.tip)?;
        for (height, header) in headers {
            self.blocks.remove(height);
            self.headers.insert(*height, header.clone());
            self.bodies_from = height.saturating_add(1);
        }
        Ok(())
    }

    fn kept(&self, from: (&[u8], u64), upto: u64, visitor: &mut KeptVisitor<'_>) -> Result<(), StoreError> {
        let from = Bound::Included((from.0.to_vec(), from.1));
        for (_, record) in self.versions.range((from, Bound::Unbounded)).filter(|((_, height), _)| *height <= upto) {
            if visitor(record.clone()).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn begin_load(&mut self) -> Result<(), StoreError> {
        let (wal, private) = (std::mem::take(&mut self.wal), std::mem::take(&mut self.private));
        *self = Self { wal, private, is_loading: true, ..Self::default() };
        Ok(())
    }

    fn load(&mut self, part: &Part) -> Result<(), StoreError> {
        check_part(part, self.is_loading)?;
        self.versions.extend(part.records.iter().map(|r| ((r.key.clone(), r.height), r.clone())));
        self.nodes.extend(part.nodes.iter().map(|n| (n.index, n.hash)));
        self.hashes.extend(part.hashes.iter().copied());
        apply_to_map(&mut self.entries, &part.entries);
        Ok(())
    }

    fn finish_load(&mut self, base: &Base) -> Result<(), StoreError> {
        check_base(base, self.is_loading)?;
        self.headers.insert(base.height, base.header.clone());
        self.hashes.insert(base.hash, base.height);
        apply_to_map(&mut self.entries, &base.entries);
        (self.headers_from, self.bodies_from) = (base.height, base.height.saturating_add(1));
        self.wal.retain(|height, _| *height > base.height);
        self.tip = Some((base.height, base.hash));
        self.is_loading = false;
        Ok(())
    }

    fn wal_append(&mut self, height: u64, entry: &[u8]) -> Result<(), StoreError> {
        check_wal(self.tip, height, entry)?;
        let log = self.wal.entry(height).or_default();
        if log.len() >= MAX_WAL_ENTRIES as usize {
            return Err(too_many_wal_entries());
        }
        log.push(entry.to_vec());
        Ok(())
    }

    fn wal(&self, height: u64) -> Result<Vec<Vec<u8>>, StoreError> {
        Ok(self.wal.get(&height).cloned().unwrap_or_default())
    }
}
