//! A ledger in memory: the same rules, no disk. For simulation and tests.

use super::{
    BlockRecord, EntryChange, LedgerStore, MAX_WAL_ENTRIES, VersionVisitor, check_next, check_wal, too_many_wal_entries,
};
use crate::error::StoreError;
use crate::records::{MemoryRecords, RecordStore, Visitor, apply_to_map, check_changes, visit_map};
use oda_consensus::ids::{BlockHash, Digest};
use oda_consensus::records::Version;
use std::collections::BTreeMap;

/// A ledger that ends with its process; `clone` is a copy of everything in it.
#[derive(Debug, Clone, Default)]
pub struct MemoryLedger {
    tip: Option<(u64, BlockHash)>,
    blocks: BTreeMap<u64, Vec<u8>>,
    hashes: BTreeMap<BlockHash, u64>,
    entries: BTreeMap<Vec<u8>, Vec<u8>>,
    nodes: BTreeMap<u64, Digest>,
    versions: BTreeMap<(Vec<u8>, u64), Version>,
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
        check_next(self.tip, block)?;
        check_changes(changes)?;
        self.blocks.insert(block.height, block.bytes.clone());
        self.hashes.insert(block.hash, block.height);
        apply_to_map(&mut self.entries, changes);
        self.nodes.extend(block.log.nodes.iter().map(|n| (n.index, n.hash)));
        self.versions.extend(block.log.versions.iter().map(|v| ((v.key.clone(), v.height), v.clone())));
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
        Ok(self.versions.range((key.clone(), 0)..=(key, upto)).next_back().map(|(_, v)| v.clone()))
    }

    fn versions(&self, prefix: &[u8], from: u64, visitor: &mut VersionVisitor<'_>) -> Result<(), StoreError> {
        let all = self.versions.range((prefix.to_vec(), 0)..).take_while(|((key, _), _)| key.starts_with(prefix));
        for (_, version) in all.filter(|((_, height), _)| *height >= from) {
            if visitor(version.clone()).is_break() {
                break;
            }
        }
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
