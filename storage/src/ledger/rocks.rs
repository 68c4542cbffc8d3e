//! The ledger of a full node on disk.
//!
//! | family    | key                                        | value                                          |
//! |-----------|--------------------------------------------|------------------------------------------------|
//! | `meta`    | `schema`, `owner`                          | whose directory this is                        |
//! | `meta`    | `tip`                                      | height and hash of the last block              |
//! | `meta`    | `kept`                                     | from which heights on there are headers and whole blocks; absent: all |
//! | `meta`    | `loading`                                  | there while a snapshot is being loaded: nothing of the chain counts |
//! | `meta`    | `voted`                                    | heights up to this one were decided before the chain was dropped; 8 bytes, big-endian |
//! | `blocks`  | height, 8 bytes big-endian                 | height, hash, previous hash, checksum, bytes; of a pruned block its header, under another tag |
//! | `hashes`  | block hash                                 | height                                         |
//! | `entries` | the state machine's key                    | the state machine's value                      |
//! | `log`     | place of the node, 8 bytes big-endian       | its hash, 32 bytes                             |
//! | `history` | the state machine's key, height (8 + big-endian) | number in the log, checksum, value; or, under another tag, only the value's hash |
//! | `wal`     | height and number, 8 + 4 bytes big-endian  | one write-ahead entry                          |
//! | `private` | the role engine's key                      | the role engine's value                        |
//!
//! Everything the store itself encodes goes through the codec (K2). Big-endian keys make RocksDB's
//! byte order the order of heights.

mod kept;
mod stored;

use super::{
    Base, BlockRecord, EntryChange, KeptRecord, KeptVisitor, LedgerStore, MAX_WAL_ENTRIES, Part,
    VERIFIED_ON_OPEN_BLOCKS, VersionVisitor, check_next, check_wal, too_many_wal_entries,
};
use crate::error::StoreError;
use crate::records::{RecordStore, Visitor, check_changes};
use crate::rocks::{Access, Database, Kind};
use oda_consensus::codec;
use oda_consensus::ids::{BlockHash, ChainId, Digest};
use oda_consensus::records::Version;
use rocksdb::WriteBatch;
use std::ops::ControlFlow;
use std::path::Path;
use stored::{Body, Height, Kept, Stored, StoredBlock, StoredVersion, Tip};

/// Keys of one kind are equally long, so the heights of one entry stand together and in order.
fn history_key(key: &[u8], height: u64) -> Vec<u8> {
    [key, &height.to_be_bytes()].concat()
}

fn wal_key(height: u64, number: u32) -> Vec<u8> {
    let mut key = height.to_be_bytes().to_vec();
    key.extend_from_slice(&number.to_be_bytes());
    key
}

/// The ledger of a full node in a RocksDB directory.
#[derive(Debug)]
pub struct RocksLedger {
    db: Database,
    tip: Option<(u64, BlockHash)>,
    voted: u64,
    kept: Kept,
    is_loading: bool,
}

impl RocksLedger {
    /// Opens or creates the ledger of this network in `dir`, and verifies the links of its last
    /// [`VERIFIED_ON_OPEN_BLOCKS`] blocks (D3).
    ///
    /// # Errors
    /// [`StoreError::WrongChain`], [`StoreError::NewerSchema`], [`StoreError::WrongKind`],
    /// [`StoreError::Locked`], [`StoreError::Corrupt`] at the first break, or the database's.
    pub fn open(dir: &Path, chain: ChainId) -> Result<Self, StoreError> {
        let mut ledger = Self::open_unverified(dir, chain, Access::Write)?;
        if ledger.is_loading {
            ledger.abandon_load()?;
        }
        if let Some((height, _)) = ledger.tip {
            ledger.verify_from(height.saturating_sub(VERIFIED_ON_OPEN_BLOCKS.saturating_sub(1)))?;
        }
        Ok(ledger)
    }

    /// Opens for reading only and verifies nothing: for `oda ledger verify` on a damaged ledger, or
    /// on one a running node has open. It shows the moment of opening.
    ///
    /// # Errors
    /// As [`RocksLedger::open`], but never [`StoreError::Corrupt`] for a broken link.
    pub fn open_read_only(dir: &Path, chain: ChainId) -> Result<Self, StoreError> {
        Self::open_unverified(dir, chain, Access::Read)
    }

    /// Drops blocks, entries and tip, so that the blocks can be fetched again, and keeps what no peer
    /// can give back: private records, and the write-ahead log of votes already sent (P6, L1). The log of decided
    /// heights is gone long since, so it is noted up to which height this node may have voted: [`Self::voted_until`].
    /// For `oda ledger repair`. Interrupted, it can simply be run again.
    ///
    /// # Errors
    /// As [`RocksLedger::open`], but [`StoreError::Corrupt`] only if the tip or that note is not readable: then nobody knows
    /// what was voted on, and nothing is dropped.
    pub fn clear_chain(dir: &Path, chain: ChainId) -> Result<(), StoreError> {
        let mut ledger = Self::open_unverified(dir, chain, Access::Write)?;
        ledger.clear(false)
    }

    fn open_unverified(dir: &Path, chain: ChainId, access: Access) -> Result<Self, StoreError> {
        let db = Database::open(dir, chain, Kind::Ledger, access)?;
        let tip = match db.get("meta", b"tip")? {
            None => None,
            Some(bytes) => {
                let corrupt = |e: codec::CodecError| StoreError::Corrupt {
                    dir: dir.into(),
                    height: 0,
                    reason: format!("the tip is not readable: {e}"),
                };
                let tip: Tip = codec::decode(&bytes).map_err(corrupt)?;
                Some((tip.height, tip.hash))
            }
        };
        let voted = match db.get("meta", b"voted")? {
            None => 0,
            Some(bytes) => u64::from_be_bytes(bytes.as_slice().try_into().map_err(|_| StoreError::Corrupt {
                dir: dir.into(),
                height: 0,
                reason: "the note of what was voted on is not readable".into(),
            })?),
        };
        let kept = match db.get("meta", b"kept")? {
            None => Kept::default(),
            Some(bytes) => codec::decode(&bytes).map_err(|e| StoreError::Corrupt {
                dir: dir.into(),
                height: 0,
                reason: format!("the note of what is kept is not readable: {e}"),
            })?,
        };
        let is_loading = db.get("meta", b"loading")?.is_some();
        Ok(Self { db, tip, voted, kept, is_loading })
    }

    /// Height up to which a node may have voted before its chain was dropped; 0 if it never was. It must not vote on any
    /// of these heights again: what it said there is no longer in its log (C5, C6).
    pub fn voted_until(&self) -> u64 {
        self.voted
    }

    /// Verifies checksum and link of every block up to the tip, those of which only the header stayed included, and
    /// returns how many there are.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] at the first block that does not hold, or the database's.
    pub fn verify_links(&self) -> Result<u64, StoreError> {
        self.verify_from(0)
    }

    /// Verifies the blocks from `first` to the tip, the link of the first of them included.
    fn verify_from(&self, first: u64) -> Result<u64, StoreError> {
        let Some((tip, tip_hash)) = self.tip else { return Ok(0) };
        let first = first.max(self.kept.headers_from);
        let mut before: Option<BlockHash> = match first.checked_sub(1) {
            Some(height) => self.stored(height)?.map(|block| block.hash),
            None => None,
        };
        let mut count = 0_u64;
        for height in first..=tip {
            let Some(block) = self.stored(height)? else {
                if height == 0 && tip > 0 {
                    continue; // the first block may have height 1
                }
                return Err(self.corrupt(height, "the block is missing"));
            };
            // A first block of height 1 follows no stored block, unless the index knows its parent. Nor does the block of
            // the snapshot with which a ledger began.
            let begins = self.kept.headers_from > 0 && height == self.kept.headers_from;
            if before.is_none() && height > 0 && !begins && (height > 1 || self.height_of(block.prev)?.is_some()) {
                return Err(self.corrupt(height.saturating_sub(1), "the block is missing"));
            }
            if before.is_some_and(|hash| hash != block.prev) {
                return Err(self.corrupt(height, "its previous hash is not that of the block before"));
            }
            if self.height_of(block.hash)? != Some(height) {
                return Err(self.corrupt(height, "the index by hash does not lead to it"));
            }
            before = Some(block.hash);
            count = count.saturating_add(1);
        }
        if before != Some(tip_hash) {
            return Err(self.corrupt(tip, "the last block is not the tip"));
        }
        let beyond = self.db.last("blocks", b"")?.filter(|key| key.as_slice() > tip.to_be_bytes().as_slice());
        if beyond.is_some() {
            return Err(self.corrupt(tip.saturating_add(1), "there is a block beyond the tip"));
        }
        Ok(count)
    }

    fn corrupt(&self, height: u64, reason: impl ToString) -> StoreError {
        StoreError::Corrupt { dir: self.db.dir().into(), height, reason: reason.to_string() }
    }

    fn read_record(&self, key: &[u8], bytes: &[u8]) -> Result<KeptRecord, StoreError> {
        stored::record(key, bytes).map_err(|reason| self.db.error("reading the history of an entry", reason))
    }

    fn stored(&self, height: u64) -> Result<Option<Stored>, StoreError> {
        let Some(bytes) = self.db.get("blocks", &height.to_be_bytes())? else { return Ok(None) };
        let block = Stored::read(&bytes, height).map_err(|reason| self.corrupt(height, reason))?;
        // a body goes in the same write that says so
        if matches!(block.body, Body::Pruned(_)) != (height < self.kept.bodies_from) {
            return Err(self.corrupt(height, "whether its body was pruned is not what the ledger says"));
        }
        Ok(Some(block))
    }
}

impl RecordStore for RocksLedger {
    fn apply(&mut self, changes: &[EntryChange]) -> Result<(), StoreError> {
        check_changes(changes)?;
        let mut batch = WriteBatch::default();
        self.db.add_changes(&mut batch, "private", changes)?;
        self.db.commit(batch)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.db.get("private", key)
    }

    fn visit(&self, prefix: &[u8], visitor: &mut Visitor<'_>) -> Result<(), StoreError> {
        self.db.visit("private", prefix, visitor)
    }
}

impl LedgerStore for RocksLedger {
    fn append(&mut self, block: &BlockRecord, changes: &[EntryChange]) -> Result<(), StoreError> {
        if self.is_loading {
            return Err(StoreError::NotLoading);
        }
        check_next(self.tip, block)?;
        check_changes(changes)?;
        let mut batch = WriteBatch::default();
        let key = block.height.to_be_bytes();
        batch.put_cf(self.db.family("blocks")?, key, codec::encode(&StoredBlock::new(block)));
        batch.put_cf(self.db.family("hashes")?, block.hash.0, codec::encode(&Height(block.height)));
        self.db.add_changes(&mut batch, "entries", changes)?;
        let log = self.db.family("log")?;
        block.log.nodes.iter().for_each(|n| batch.put_cf(log, n.index.to_be_bytes(), n.hash.0));
        let history = self.db.family("history")?;
        for version in &block.log.versions {
            batch.put_cf(
                history,
                history_key(&version.key, version.height),
                codec::encode(&StoredVersion::new(version)),
            );
        }
        let tip = Tip { height: block.height, hash: block.hash };
        batch.put_cf(self.db.family("meta")?, b"tip", codec::encode(&tip));
        self.drop_wal(&mut batch, block.height)?;
        self.db.commit(batch)?; // D3: all of it, or nothing
        self.tip = Some((block.height, block.hash));
        Ok(())
    }

    fn tip(&self) -> Option<(u64, BlockHash)> {
        self.tip
    }

    fn block(&self, height: u64) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.stored(height)?.and_then(|block| match block.body {
            Body::Whole(bytes) => Some(bytes),
            Body::Pruned(_) => None,
        }))
    }

    fn height_of(&self, hash: BlockHash) -> Result<Option<u64>, StoreError> {
        let Some(bytes) = self.db.get("hashes", &hash.0)? else { return Ok(None) };
        let Height(height) = codec::decode(&bytes).map_err(|e| self.db.error("reading the index by hash", e))?;
        Ok(Some(height))
    }

    fn entry(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.db.get("entries", key)
    }

    fn entries(&self, visitor: &mut Visitor<'_>) -> Result<(), StoreError> {
        self.db.visit("entries", b"", visitor)
    }

    fn log_node(&self, index: u64) -> Result<Option<Digest>, StoreError> {
        let Some(bytes) = self.db.get("log", &index.to_be_bytes())? else { return Ok(None) };
        let hash =
            bytes.try_into().map_err(|_| self.db.error("reading the log of records", "a node is not 32 bytes"))?;
        Ok(Some(Digest(hash)))
    }

    fn version(&self, key: &[u8], upto: u64) -> Result<Option<Version>, StoreError> {
        let (first, last) = (history_key(key, 0), history_key(key, upto));
        let found = self.db.last_within("history", &first, &last)?;
        let record = found.map(|(key, value)| self.read_record(&key, &value)).transpose()?;
        Ok(record.and_then(KeptRecord::whole))
    }

    fn versions(&self, prefix: &[u8], from: u64, visitor: &mut VersionVisitor<'_>) -> Result<(), StoreError> {
        let mut failed = None;
        self.db.visit("history", prefix, &mut |key, value| match self.read_record(key, value) {
            Ok(record) if record.height < from => ControlFlow::Continue(()),
            Ok(record) => record.whole().map_or(ControlFlow::Continue(()), &mut *visitor),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        })?;
        failed.map_or(Ok(()), Err)
    }

    fn bodies_from(&self) -> u64 {
        self.kept.bodies_from
    }

    fn headers_from(&self) -> u64 {
        self.kept.headers_from
    }

    fn header(&self, height: u64) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.stored(height)?.and_then(|block| match block.body {
            Body::Whole(_) => None,
            Body::Pruned(header) => Some(header),
        }))
    }

    fn prune(&mut self, headers: &[(u64, Vec<u8>)]) -> Result<(), StoreError> {
        self.prune_blocks(headers)
    }

    fn kept(&self, from: (&[u8], u64), upto: u64, visitor: &mut KeptVisitor<'_>) -> Result<(), StoreError> {
        let mut failed = None;
        self.db.visit_from("history", &history_key(from.0, from.1), &mut |key, value| match self
            .read_record(key, value)
        {
            Ok(record) if record.height > upto => ControlFlow::Continue(()),
            Ok(record) => visitor(record),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        })?;
        failed.map_or(Ok(()), Err)
    }

    fn begin_load(&mut self) -> Result<(), StoreError> {
        self.clear(true)
    }

    fn load(&mut self, part: &Part) -> Result<(), StoreError> {
        self.load_part(part)
    }

    fn finish_load(&mut self, base: &Base) -> Result<(), StoreError> {
        self.finish(base)
    }

    fn wal_append(&mut self, height: u64, entry: &[u8]) -> Result<(), StoreError> {
        check_wal(self.tip, height, entry)?;
        let number = match self.db.last("wal", &height.to_be_bytes())? {
            None => 0,
            Some(key) => {
                let last: Option<[u8; 4]> = key.get(8..).and_then(|number| number.try_into().ok());
                let last = last.ok_or_else(|| self.db.error("reading the write-ahead log", "a key is not 12 bytes"))?;
                u32::from_be_bytes(last).saturating_add(1)
            }
        };
        if number >= MAX_WAL_ENTRIES {
            return Err(too_many_wal_entries());
        }
        let mut batch = WriteBatch::default();
        batch.put_cf(self.db.family("wal")?, wal_key(height, number), entry);
        self.db.commit(batch)
    }

    fn wal(&self, height: u64) -> Result<Vec<Vec<u8>>, StoreError> {
        let mut log = Vec::new();
        self.db.visit("wal", &height.to_be_bytes(), &mut |_, entry| {
            log.push(entry.to_vec());
            ControlFlow::Continue(())
        })?;
        Ok(log)
    }
}
