//! The ledger store: blocks, the state they lead to, and the write-ahead log of the height in progress.
//!
//! Writing a block, then its effects, then the new tip is how a ledger comes to hold half a block
//! after a crash. Here one block is one atomic synced write (D3): the block with its certificate,
//! every state entry it changes, what it adds to the log of records, the tip, and the removal of the write-ahead log of the heights it
//! decides. What the bytes mean is the state machine's business (L2): the store sees only heights,
//! hashes and keys, so it can be replaced by one in memory, or by one that fails on purpose.
//!
//! Old blocks may be pruned ([`LedgerStore::prune`]): their bodies go, their headers stay, and everything else does.
//! And a ledger may begin with a snapshot instead of block 1 ([`LedgerStore::begin_load`]): then it has the log of
//! records whole, of what was replaced before the snapshot only hashes, and no block below it.

mod faulty;
mod kept;
mod memory;
#[cfg(feature = "rocksdb")]
mod rocks;

pub use faulty::{Fault, FaultyLedger};
pub use kept::{Base, KeptRecord, KeptValue, KeptVisitor, MAX_HEADER_BYTES, MAX_PART_BYTES, MAX_PRUNED_AT_ONCE, Part};
pub use memory::MemoryLedger;
#[cfg(feature = "rocksdb")]
pub use rocks::RocksLedger;

use crate::error::StoreError;
use crate::records::{RecordStore, Visitor};
use oda_consensus::ids::{BlockHash, Digest};
use oda_consensus::records::{Appended, Version};
use std::ops::ControlFlow;

/// Largest block with its certificate, in bytes (K3).
pub const MAX_BLOCK_BYTES: usize = 4 << 20;
/// Largest write-ahead entry, in bytes (K3).
pub const MAX_WAL_ENTRY_BYTES: usize = 6 << 20;
/// Most write-ahead entries of one height (K3).
pub const MAX_WAL_ENTRIES: u32 = 1 << 16;
/// Blocks whose links are verified on every open (D3).
pub const VERIFIED_ON_OPEN_BLOCKS: u64 = 128;

/// Sees one version of an entry and says whether to go on.
pub type VersionVisitor<'a> = dyn FnMut(Version) -> ControlFlow<()> + 'a;

/// A block as the store keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockRecord {
    /// Height; the first block may have height 0 or 1, each later one follows the tip.
    pub height: u64,
    /// Hash of the block's header.
    pub hash: BlockHash,
    /// Hash of the block before it; of the first block, whatever the chain starts from.
    pub prev: BlockHash,
    /// Block and certificate, opaque here.
    pub bytes: Vec<u8>,
    /// What it adds to the log of records (L4).
    pub log: Appended,
}

/// One change of a state entry or private record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryChange {
    /// The key.
    pub key: Vec<u8>,
    /// The new value, or `None` to remove the entry.
    pub value: Option<Vec<u8>>,
}

impl EntryChange {
    /// Writes `value` under `key`.
    pub fn put(key: &[u8], value: &[u8]) -> Self {
        Self { key: key.to_vec(), value: Some(value.to_vec()) }
    }

    /// Removes `key`.
    pub fn delete(key: &[u8]) -> Self {
        Self { key: key.to_vec(), value: None }
    }
}

/// The durable ledger of a full node; its [`RecordStore`] part holds the node's private records.
pub trait LedgerStore: RecordStore {
    /// Adds the next block: one atomic synced write of the block, its entry changes, its part of the log, the tip, and
    /// the removal of the write-ahead log of heights up to the block's (D3).
    ///
    /// # Errors
    /// [`StoreError::NotNext`] unless `height` is the tip's plus one and `prev` the tip's hash;
    /// [`StoreError::TooLarge`]; or the database's. On any error the tip is unchanged in this
    /// process; after a database error open the ledger again before going on.
    fn append(&mut self, block: &BlockRecord, changes: &[EntryChange]) -> Result<(), StoreError>;

    /// Height and hash of the last block.
    fn tip(&self) -> Option<(u64, BlockHash)>;

    /// Block and certificate of a height; none if its body was pruned.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if its bytes are not those written; or the database's.
    fn block(&self, height: u64) -> Result<Option<Vec<u8>>, StoreError>;

    /// Height of the block with this hash.
    ///
    /// # Errors
    /// The database's.
    fn height_of(&self, hash: BlockHash) -> Result<Option<u64>, StoreError>;

    /// One state entry.
    ///
    /// # Errors
    /// The database's.
    fn entry(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Shows every state entry in key order, holding one at a time.
    ///
    /// # Errors
    /// The database's.
    fn entries(&self, visitor: &mut Visitor<'_>) -> Result<(), StoreError>;

    /// A node of the log of records, by its place (L4).
    ///
    /// # Errors
    /// The database's.
    fn log_node(&self, index: u64) -> Result<Option<Digest>, StoreError>;

    /// The newest version of an entry that a block of height `upto` or less wrote. No key may be the beginning of
    /// another's.
    ///
    /// # Errors
    /// The database's.
    fn version(&self, key: &[u8], upto: u64) -> Result<Option<Version>, StoreError>;

    /// Shows the versions of every entry whose key starts with `prefix`, by key, each one's oldest first, those of
    /// blocks below `from` left out.
    ///
    /// # Errors
    /// The database's.
    fn versions(&self, prefix: &[u8], from: u64, visitor: &mut VersionVisitor<'_>) -> Result<(), StoreError>;

    /// Blocks of this height and above are whole; 0 while none was ever left out.
    fn bodies_from(&self) -> u64;

    /// Blocks of this height and above have a header at least; 0 unless the ledger began with a snapshot.
    fn headers_from(&self) -> u64;

    /// What stays of a block whose body was pruned, as [`LedgerStore::prune`] was given it.
    ///
    /// # Errors
    /// As [`LedgerStore::block`].
    fn header(&self, height: u64) -> Result<Option<Vec<u8>>, StoreError>;

    /// Replaces the oldest whole blocks by their headers, in one atomic synced write: heights ascending, none left out,
    /// the tip's not among them. Links, index and everything but the bodies stay.
    ///
    /// # Errors
    /// [`StoreError::NotPrunable`], [`StoreError::TooLarge`], or the database's; then nothing is changed, or, after a
    /// database error, it is unknown.
    fn prune(&mut self, headers: &[(u64, Vec<u8>)]) -> Result<(), StoreError>;

    /// Shows the records of blocks up to height `upto`, by key, each entry's oldest first, from this key and height
    /// on. What was recorded up to a height never changes, so a long visit can be made in pieces.
    ///
    /// # Errors
    /// The database's.
    fn kept(&self, from: (&[u8], u64), upto: u64, visitor: &mut KeptVisitor<'_>) -> Result<(), StoreError>;

    /// Drops the chain, and nothing private, to make place for a snapshot. Until [`LedgerStore::finish_load`] there is
    /// no tip, and a store that is opened in between is empty again: half a snapshot never looks whole.
    ///
    /// # Errors
    /// The database's.
    fn begin_load(&mut self) -> Result<(), StoreError>;

    /// Writes a part of the snapshot, as it is: the caller has checked it.
    ///
    /// # Errors
    /// [`StoreError::NotLoading`], [`StoreError::TooLarge`], or the database's.
    fn load(&mut self, part: &Part) -> Result<(), StoreError>;

    /// Makes the snapshot's block the tip, in one atomic synced write. The write-ahead log of heights up to it goes.
    ///
    /// # Errors
    /// [`StoreError::NotLoading`], [`StoreError::TooLarge`], or the database's.
    fn finish_load(&mut self, base: &Base) -> Result<(), StoreError>;

    /// Adds to the write-ahead log of a height in progress; synced (L1: persist, then sign, then send).
    ///
    /// # Errors
    /// [`StoreError::AlreadyDecided`] for a height up to the tip's, [`StoreError::TooLarge`], or the database's.
    fn wal_append(&mut self, height: u64, entry: &[u8]) -> Result<(), StoreError>;

    /// The write-ahead log of a height, in the order it was written.
    ///
    /// # Errors
    /// The database's.
    fn wal(&self, height: u64) -> Result<Vec<Vec<u8>>, StoreError>;
}

/// Whether a block may follow the tip.
fn check_next(tip: Option<(u64, BlockHash)>, block: &BlockRecord) -> Result<(), StoreError> {
    let follows = match tip {
        None => block.height <= 1,
        Some((height, hash)) => height.checked_add(1) == Some(block.height) && block.prev == hash,
    };
    if !follows {
        let tip = tip.map_or("of an empty ledger".to_owned(), |(height, hash)| format!("{height} ({hash})"));
        return Err(StoreError::NotNext { height: block.height, prev: block.prev, tip });
    }
    if block.bytes.len() > MAX_BLOCK_BYTES {
        let (len, max) = (block.bytes.len() as u64, MAX_BLOCK_BYTES as u64);
        return Err(StoreError::TooLarge { what: "bytes of a block", len, max });
    }
    Ok(())
}

/// Whether a write-ahead entry is welcome.
fn check_wal(tip: Option<(u64, BlockHash)>, height: u64, entry: &[u8]) -> Result<(), StoreError> {
    if let Some((tip, _)) = tip.filter(|(tip, _)| height <= *tip) {
        return Err(StoreError::AlreadyDecided { height, tip });
    }
    if entry.len() > MAX_WAL_ENTRY_BYTES {
        let (len, max) = (entry.len() as u64, MAX_WAL_ENTRY_BYTES as u64);
        return Err(StoreError::TooLarge { what: "bytes of a write-ahead entry", len, max });
    }
    Ok(())
}

fn too_many_wal_entries() -> StoreError {
    let max = u64::from(MAX_WAL_ENTRIES);
    StoreError::TooLarge { what: "write-ahead entries of one height", len: max + 1, max }
}
