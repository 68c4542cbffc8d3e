//! What a node keeps: the ledger, its own private records, and blobs.
//!
//! Three different promises, so three stores. The **ledger** ([`ledger`]) must never show half a
//! block: one block is one atomic synced batch (D3). **Private records** ([`records`]) are what a
//! role engine persists before it acts (P6): a wallet's or a signer's memory, which no peer can
//! give back. **Blobs** ([`blobs`]) are weights, deltas and data named by their hash (D1): large,
//! replaceable, and fetched from whoever claims to have them, so nothing a provider says is
//! believed. Keeping all three in one database would make the first as slow and the second as
//! disposable as the third.
//!
//! Features: `rocksdb` (default) puts ledger and records on disk, `iroh` (default) blobs on disk
//! and on the network. With neither, only the in-memory and the faulty stores remain, and no C++
//! and no socket is linked: that is what the simulator uses.
//!
//! ```
//! use oda_storage::{BlockRecord, EntryChange, LedgerStore, MemoryLedger, RecordStore};
//! use oda_consensus::ids::BlockHash;
//!
//! let mut ledger = MemoryLedger::new();
//! let (hash, prev, bytes) = (BlockHash([1; 32]), BlockHash([0; 32]), b"block".to_vec());
//! let block = BlockRecord { height: 1, hash, prev, bytes, log: Default::default() };
//! ledger.append(&block, &[EntryChange::put(b"model", b"head")]).unwrap();
//! assert_eq!(ledger.tip(), Some((1, block.hash)));
//! ledger.put(b"claim/1", b"held").unwrap(); // a private record
//! ```

pub mod blob_addr;
#[cfg(feature = "iroh")]
pub mod blobs;
mod error;
pub mod ledger;
pub mod records;
#[cfg(feature = "rocksdb")]
mod replay;
#[cfg(feature = "rocksdb")]
mod rocks;

pub use blob_addr::BlobAddr;
#[cfg(feature = "iroh")]
pub use blobs::{BlobError, BlobLimits, Blobs, FetchError, ProviderFault, Usage};
pub use error::StoreError;
#[cfg(feature = "rocksdb")]
pub use ledger::RocksLedger;
pub use ledger::{Base, BlockRecord, EntryChange, KeptRecord, KeptValue, Part};
pub use ledger::{Fault, FaultyLedger, LedgerStore, MemoryLedger};
#[cfg(feature = "rocksdb")]
pub use records::RocksRecords;
pub use records::{MemoryRecords, RecordStore};
