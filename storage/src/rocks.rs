//! One RocksDB directory: opened with a check of whose it is, written only in synced batches.
//!
//! Opening a database by path alone is how a regtest node comes to write into a mainnet wallet:
//! so every directory names its kind, its format and its network, and anything else is refused
//! before a byte is written. `meta` holds, in both kinds:
//!
//! | key      | value                                                     |
//! |----------|-----------------------------------------------------------|
//! | `schema` | format number; checked first, its own encoding never changes |
//! | `owner`  | kind of store and chain id                                 |

use crate::error::StoreError;
use crate::ledger::EntryChange;
use crate::records::{KeyValue, Visitor};
use oda_consensus::codec;
use oda_consensus::ids::ChainId;
use oda_consensus::record;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode, Direction,
    IteratorMode, Options, ReadOptions, WriteBatch, WriteOptions,
};
use std::cmp::Ordering;
use std::path::{Path, PathBuf};

#[derive(bincode::Encode, bincode::Decode)]
struct Schema(u32);
record!(Schema, b"schm", 16);

#[derive(bincode::Encode, bincode::Decode)]
struct Owner {
    kind: u8,
    chain: ChainId,
}
record!(Owner, b"ownr", 64);

/// What a directory holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Ledger,
    Records,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Kind::Ledger => 1,
            Kind::Records => 2,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Ledger => "ledger",
            Kind::Records => "records",
        }
    }

    /// The on-disk format this release reads and writes. The ledger's 2 brought the log of records, and blocks
    /// whose headers name it; 3 the guests of a model and a trainer's failures, by which places are kept (P8).
    pub(crate) fn schema(self) -> u32 {
        match self {
            Kind::Ledger => 3,
            Kind::Records => 1,
        }
    }

    fn families(self) -> &'static [&'static str] {
        match self {
            Kind::Ledger => &["meta", "blocks", "hashes", "entries", "log", "history", "wal", "private"],
            Kind::Records => &["meta", "records"],
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Write,
    Read,
}

/// An open directory whose kind, format and network are the expected ones.
#[derive(Debug)]
pub(crate) struct Database {
    db: DB,
    dir: PathBuf,
    access: Access,
}

/// Small settings: several nodes share a laptop, and blocks are few and cheap.
fn options() -> Options {
    let mut o = Options::default();
    o.create_if_missing(true);
    o.create_missing_column_families(true);
    o.set_db_write_buffer_size(16 << 20);
    o.set_max_total_wal_size(32 << 20);
    o.set_max_open_files(256);
    o.set_max_background_jobs(2);
    o.set_keep_log_file_num(2);
    o.set_max_log_file_size(1 << 20);
    // D3: a torn last record is what a crash leaves; damage before it is an error, never a
    // silently shorter history (the default would drop synced private records without a word).
    o.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    o
}

fn family_options(cache: &Cache) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    let mut o = Options::default();
    o.set_write_buffer_size(4 << 20);
    o.set_compression_type(DBCompressionType::Lz4);
    o.set_block_based_table_factory(&table);
    o
}

impl Database {
    pub(crate) fn open(dir: &Path, chain: ChainId, kind: Kind, access: Access) -> Result<Self, StoreError> {
        let cache = Cache::new_lru_cache(8 << 20);
        let families = kind.families().iter().map(|name| ColumnFamilyDescriptor::new(*name, family_options(&cache)));
        let options = options();
        if access == Access::Write {
            std::fs::create_dir_all(dir).map_err(|e| StoreError::Database {
                dir: dir.into(),
                doing: "creating the directory",
                reason: e.to_string(),
            })?;
            Self::refuse_foreign_families(dir, kind, &options)?;
            crate::replay::check(dir).map_err(|reason| StoreError::Unreadable { dir: dir.into(), reason })?;
        } else if !dir.join("CURRENT").exists() {
            // RocksDB would create the directory even to read it.
            let reason = "there is no database in it".to_owned();
            return Err(StoreError::WrongKind { dir: dir.into(), expected: kind.name(), reason });
        }
        let db = match access {
            Access::Write => DB::open_cf_descriptors(&options, dir, families),
            Access::Read => DB::open_cf_descriptors_read_only(&options, dir, families, false),
        }
        .map_err(|e| open_error(dir, &e))?;
        let database = Self { db, dir: dir.into(), access };
        database.check_owner(chain, kind)?;
        Ok(database)
    }

    /// Creating the missing families of a foreign database would already change it.
    fn refuse_foreign_families(dir: &Path, kind: Kind, options: &Options) -> Result<(), StoreError> {
        if !dir.join("CURRENT").exists() {
            return Ok(());
        }
        let found = DB::list_cf(options, dir).map_err(|e| open_error(dir, &e))?;
        // A crash while creating leaves only some of the families: that is ours to finish.
        if let Some(foreign) = found.iter().find(|f| *f != "default" && !kind.families().contains(&f.as_str())) {
            let reason = format!("it holds `{foreign}`");
            return Err(StoreError::WrongKind { dir: dir.into(), expected: kind.name(), reason });
        }
        Ok(())
    }

    fn check_owner(&self, chain: ChainId, kind: Kind) -> Result<(), StoreError> {
        let wrong = |reason: String| StoreError::WrongKind { dir: self.dir.clone(), expected: kind.name(), reason };
        match (self.get("meta", b"schema")?, self.get("meta", b"owner")?) {
            (None, None) if self.access == Access::Write => {
                let mut batch = WriteBatch::default();
                batch.put_cf(self.family("meta")?, b"schema", codec::encode(&Schema(kind.schema())));
                batch.put_cf(self.family("meta")?, b"owner", codec::encode(&Owner { kind: kind.code(), chain }));
                self.commit(batch)
            }
            (Some(schema), owner) => {
                let Schema(found) = codec::decode(&schema).map_err(|e| wrong(e.to_string()))?;
                let (dir, known) = (self.dir.clone(), kind.schema());
                match found.cmp(&known) {
                    Ordering::Greater => return Err(StoreError::NewerSchema { dir, found, known }),
                    Ordering::Less => return Err(StoreError::OlderSchema { dir, found, known }),
                    Ordering::Equal => {}
                }
                let owner = owner.ok_or_else(|| wrong("it names no owner".into()))?;
                let owner: Owner = codec::decode(&owner).map_err(|e| wrong(e.to_string()))?;
                if owner.kind != kind.code() {
                    return Err(wrong(format!("it holds a store of kind {}", owner.kind)));
                }
                if owner.chain != chain {
                    let (found, expected) = (owner.chain, chain);
                    return Err(StoreError::WrongChain { dir: self.dir.clone(), found, expected });
                }
                Ok(())
            }
            (None, _) => Err(wrong("it names no format".into())),
        }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn error(&self, doing: &'static str, reason: impl ToString) -> StoreError {
        StoreError::Database { dir: self.dir.clone(), doing, reason: reason.to_string() }
    }

    pub(crate) fn family(&self, name: &'static str) -> Result<&ColumnFamily, StoreError> {
        self.db.cf_handle(name).ok_or_else(|| self.error("looking up a column family", name))
    }

    pub(crate) fn get(&self, family: &'static str, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.db.get_cf(self.family(family)?, key).map_err(|e| self.error("reading", e))
    }

    /// Writes a batch atomically; it is on disk when this returns (D3, P6).
    pub(crate) fn commit(&self, batch: WriteBatch) -> Result<(), StoreError> {
        if self.access == Access::Read {
            return Err(StoreError::ReadOnly { dir: self.dir.clone() });
        }
        let mut options = WriteOptions::default();
        options.set_sync(true);
        self.db.write_opt(batch, &options).map_err(|e| self.error("writing", e))
    }

    pub(crate) fn add_changes(
        &self,
        batch: &mut WriteBatch,
        family: &'static str,
        changes: &[EntryChange],
    ) -> Result<(), StoreError> {
        let family = self.family(family)?;
        for change in changes {
            match &change.value {
                Some(value) => batch.put_cf(family, &change.key, value),
                None => batch.delete_cf(family, &change.key),
            }
        }
        Ok(())
    }

    /// Shows the records whose key starts with `prefix`, in key order, holding one at a time.
    pub(crate) fn visit(
        &self,
        family: &'static str,
        prefix: &[u8],
        visitor: &mut Visitor<'_>,
    ) -> Result<(), StoreError> {
        for item in self.db.iterator_cf(self.family(family)?, IteratorMode::From(prefix, Direction::Forward)) {
            let (key, value) = item.map_err(|e| self.error("scanning", e))?;
            if !key.starts_with(prefix) || visitor(&key, &value).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Shows the records from this key on, in key order, holding one at a time.
    pub(crate) fn visit_from(
        &self,
        family: &'static str,
        first: &[u8],
        visitor: &mut Visitor<'_>,
    ) -> Result<(), StoreError> {
        for item in self.db.iterator_cf(self.family(family)?, IteratorMode::From(first, Direction::Forward)) {
            let (key, value) = item.map_err(|e| self.error("scanning", e))?;
            if visitor(&key, &value).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// The last record with a key from `first` to `last`, both included.
    pub(crate) fn last_within(
        &self,
        family: &'static str,
        first: &[u8],
        last: &[u8],
    ) -> Result<Option<KeyValue>, StoreError> {
        let mode = IteratorMode::From(last, Direction::Reverse);
        let found = self.db.iterator_cf(self.family(family)?, mode).next().transpose();
        let found =
            found.map_err(|e| self.error("scanning", e))?.map(|(key, value)| (key.into_vec(), value.into_vec()));
        Ok(found.filter(|(key, _)| key.as_slice() >= first))
    }

    /// The last record whose key starts with `prefix`.
    pub(crate) fn last(&self, family: &'static str, prefix: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let mut options = ReadOptions::default();
        options.set_iterate_range(rocksdb::PrefixRange(prefix));
        let mut found = self.db.iterator_cf_opt(self.family(family)?, options, IteratorMode::End);
        found.next().transpose().map(|item| item.map(|(key, _)| key.into_vec())).map_err(|e| self.error("scanning", e))
    }
}

fn open_error(dir: &Path, error: &rocksdb::Error) -> StoreError {
    let reason = error.to_string();
    // "While lock file: .../LOCK: Resource temporarily unavailable", or "lock hold by current process".
    if reason.contains("lock file") || reason.contains("lock hold") {
        return StoreError::Locked { dir: dir.into() };
    }
    if error.kind() == rocksdb::ErrorKind::Corruption {
        return StoreError::Unreadable { dir: dir.into(), reason };
    }
    StoreError::Database { dir: dir.into(), doing: "opening the database", reason }
}
