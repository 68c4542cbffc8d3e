//! Private records of a node: what a role engine writes down before it acts (P6).
//!
//! A lock it asked for, an invoice it made, a share it sent: if the process dies between acting and
//! remembering, money is lost or paid twice, and no peer can tell. So every write here is synced
//! before it returns, and several changes that belong together go in one atomic [`RecordStore::apply`].
//! Full nodes keep these in their ledger's database; lite nodes and sponsors, which store no ledger,
//! in a small one of their own.

use crate::error::StoreError;
use crate::ledger::EntryChange;
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

/// Longest key of a private record or ledger entry, in bytes (K3).
pub const MAX_KEY_BYTES: usize = 512;
/// Largest value of a private record or ledger entry, in bytes (K3).
pub const MAX_VALUE_BYTES: usize = 4 << 20;
/// Most changes in one atomic write (K3).
pub const MAX_CHANGES: usize = 1 << 16;
/// Most bytes of keys and values in one atomic write (K3).
pub const MAX_CHANGES_BYTES: usize = 32 << 20;

/// A key and its value.
pub type KeyValue = (Vec<u8>, Vec<u8>);

/// Called with each key and value in key order; `Break` ends the visit.
pub type Visitor<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// Durable private records by key.
pub trait RecordStore: Send {
    /// Makes all changes or none, and syncs them before returning.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] before anything is written, or the database's error; then it is
    /// unknown whether the changes were made, as after a crash: read before going on.
    fn apply(&mut self, changes: &[EntryChange]) -> Result<(), StoreError>;

    /// The record of a key.
    ///
    /// # Errors
    /// The database's.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Shows every record whose key starts with `prefix`, in key order, holding one at a time.
    ///
    /// # Errors
    /// The database's.
    fn visit(&self, prefix: &[u8], visitor: &mut Visitor<'_>) -> Result<(), StoreError>;

    /// Writes one record, synced.
    ///
    /// # Errors
    /// As [`RecordStore::apply`].
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.apply(&[EntryChange::put(key, value)])
    }

    /// Removes one record, synced; a missing one is no error.
    ///
    /// # Errors
    /// As [`RecordStore::apply`].
    fn delete(&mut self, key: &[u8]) -> Result<(), StoreError> {
        self.apply(&[EntryChange::delete(key)])
    }

    /// Every record whose key starts with `prefix`, in key order, at most `max_records`.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] if there are more: silence about the rest would lose payments.
    fn scan(&self, prefix: &[u8], max_records: usize) -> Result<Vec<KeyValue>, StoreError> {
        let mut found = Vec::new();
        let mut more = false;
        self.visit(prefix, &mut |key, value| {
            if found.len() == max_records {
                more = true;
                return ControlFlow::Break(());
            }
            found.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        })?;
        if more {
            let max = max_records as u64;
            return Err(StoreError::TooLarge { what: "records of one prefix", len: max.saturating_add(1), max });
        }
        Ok(found)
    }
}

/// Refuses changes beyond the limits, before any is made (K3).
pub(crate) fn check_changes(changes: &[EntryChange]) -> Result<(), StoreError> {
    fn limit(what: &'static str, len: usize, max: usize) -> Result<(), StoreError> {
        if len > max {
            return Err(StoreError::TooLarge { what, len: len as u64, max: max as u64 });
        }
        Ok(())
    }
    limit("changes in one write", changes.len(), MAX_CHANGES)?;
    let mut total_bytes = 0_usize;
    for change in changes {
        let value_bytes = change.value.as_ref().map_or(0, Vec::len);
        limit("bytes of a key", change.key.len(), MAX_KEY_BYTES)?;
        limit("bytes of a value", value_bytes, MAX_VALUE_BYTES)?;
        total_bytes = total_bytes.saturating_add(change.key.len()).saturating_add(value_bytes);
    }
    limit("bytes of changes in one write", total_bytes, MAX_CHANGES_BYTES)
}

/// Private records in memory, for simulation and tests.
#[derive(Debug, Clone, Default)]
pub struct MemoryRecords {
    map: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl MemoryRecords {
    /// No records.
    pub fn new() -> Self {
        Self::default()
    }
}

impl RecordStore for MemoryRecords {
    fn apply(&mut self, changes: &[EntryChange]) -> Result<(), StoreError> {
        check_changes(changes)?;
        apply_to_map(&mut self.map, changes);
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.map.get(key).cloned())
    }

    fn visit(&self, prefix: &[u8], visitor: &mut Visitor<'_>) -> Result<(), StoreError> {
        visit_map(&self.map, prefix, visitor);
        Ok(())
    }
}

pub(crate) fn apply_to_map(map: &mut BTreeMap<Vec<u8>, Vec<u8>>, changes: &[EntryChange]) {
    for change in changes {
        match &change.value {
            Some(value) => map.insert(change.key.clone(), value.clone()),
            None => map.remove(&change.key),
        };
    }
}

pub(crate) fn visit_map(map: &BTreeMap<Vec<u8>, Vec<u8>>, prefix: &[u8], visitor: &mut Visitor<'_>) {
    for (key, value) in map.range::<[u8], _>((Bound::Included(prefix), Bound::Unbounded)) {
        if !key.starts_with(prefix) || visitor(key, value).is_break() {
            break;
        }
    }
}

#[cfg(feature = "rocksdb")]
pub use on_disk::RocksRecords;

#[cfg(feature = "rocksdb")]
mod on_disk {
    use super::{RecordStore, Visitor, check_changes};
    use crate::error::StoreError;
    use crate::ledger::EntryChange;
    use crate::rocks::{Access, Database, Kind};
    use oda_consensus::ids::ChainId;
    use rocksdb::WriteBatch;
    use std::path::Path;

    /// Private records in a database of their own, for nodes that keep no ledger.
    ///
    /// One column family, `records`: the caller's keys and values as they are.
    #[derive(Debug)]
    pub struct RocksRecords {
        db: Database,
    }

    impl RocksRecords {
        /// Opens or creates the records of this network in `dir`.
        ///
        /// # Errors
        /// [`StoreError::WrongChain`], [`StoreError::NewerSchema`], [`StoreError::WrongKind`],
        /// [`StoreError::Locked`], or the database's.
        pub fn open(dir: &Path, chain: ChainId) -> Result<Self, StoreError> {
            Ok(Self { db: Database::open(dir, chain, Kind::Records, Access::Write)? })
        }
    }

    impl RecordStore for RocksRecords {
        fn apply(&mut self, changes: &[EntryChange]) -> Result<(), StoreError> {
            check_changes(changes)?;
            let mut batch = WriteBatch::default();
            self.db.add_changes(&mut batch, "records", changes)?;
            self.db.commit(batch)
        }

        fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
            self.db.get("records", key)
        }

        fn visit(&self, prefix: &[u8], visitor: &mut Visitor<'_>) -> Result<(), StoreError> {
            self.db.visit("records", prefix, visitor)
        }
    }
}
