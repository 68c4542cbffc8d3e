//! A ledger in memory: the same rules, no disk. For simulation and tests.

use super::{BlockRecord, EntryChange, LedgerStore, MAX_WAL_ENTRIES, check_next, check_wal, too_many_wal_entries};
use crate::error::StoreError;
use crate::records::{MemoryRecords, RecordStore, Visitor, apply_to_map, check_changes, visit_map};
use oda_consensus::ids::BlockHash;
use std::collections::BTreeMap;

/// A ledger that ends with its process; `clone` is a copy of everything in it.
#[derive(Debug, Clone, Default)]
pub struct MemoryLedger {
    tip: Option<(u64, BlockHash)>,
    blocks: BTreeMap<u64, Vec<u8>>,
    hashes: BTreeMap<BlockHash, u64>,
    entries: BTreeMap<Vec<u8>, Vec<u8>>,
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
