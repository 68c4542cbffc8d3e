//! Why a store refused or failed; every message says what to do.

use oda_consensus::ids::{BlockHash, ChainId};
use std::path::PathBuf;

/// An error of the ledger or of the private records.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The block does not follow the tip: wrong height or wrong parent (D3).
    #[error(
        "block {height} with parent {prev} does not follow the tip {tip}: fetch the missing blocks from a peer first"
    )]
    NotNext {
        /// Height of the refused block.
        height: u64,
        /// Parent it names.
        prev: BlockHash,
        /// The tip, for people.
        tip: String,
    },
    /// A write-ahead entry for a height that is already decided.
    #[error("height {height} is already decided (tip {tip}): nothing may be voted or proposed there any more")]
    AlreadyDecided {
        /// Height of the refused entry.
        height: u64,
        /// Height of the tip.
        tip: u64,
    },
    /// Only the oldest whole blocks can be pruned, and never the tip.
    #[error(
        "block {height} cannot be pruned now: whole blocks from {from} to the tip {tip} go oldest first, but the tip"
    )]
    NotPrunable {
        /// Height asked for.
        height: u64,
        /// Oldest whole block.
        from: u64,
        /// The tip.
        tip: u64,
    },
    /// A part of a snapshot outside of its loading, or a block within.
    #[error("loading a snapshot was not begun, or has not ended: start the node again, and it begins anew")]
    NotLoading,
    /// A key, value, block or list is larger than the store takes (K3).
    #[error("{what}: {len} exceeds the limit of {max}")]
    TooLarge {
        /// What was too large.
        what: &'static str,
        /// Its size: bytes, or items of a list.
        len: u64,
        /// The largest allowed.
        max: u64,
    },
    /// What is on disk contradicts itself (D3).
    #[error(
        "the ledger in {dir} is damaged at height {height}: {reason}; `oda ledger verify` shows how far it holds, \
         `oda ledger repair` drops the chain, keeps this node's private records and fetches the blocks again"
    )]
    Corrupt {
        /// The data directory.
        dir: PathBuf,
        /// First height that does not hold.
        height: u64,
        /// What differs.
        reason: String,
    },
    /// The data directory belongs to another network.
    #[error(
        "the data directory {dir} belongs to network {found}, not {expected}: \
         choose another --datadir, or the --network and genesis it was made with"
    )]
    WrongChain {
        /// The data directory.
        dir: PathBuf,
        /// Network of the directory.
        found: ChainId,
        /// Network asked for.
        expected: ChainId,
    },
    /// The database's own files are damaged: a bad disk, or something else wrote to them.
    #[error(
        "the database files in {dir} are damaged ({reason}): check the disk, then move {dir} aside and start again. A \
         ledger is fetched from peers or imported; a validator waits until its peers are past the height it last voted \
         on, or it could say two things there. Payment, claim and score records no peer has: restore the disk's copy"
    )]
    Unreadable {
        /// The data directory.
        dir: PathBuf,
        /// What the database says.
        reason: String,
    },
    /// Written by a newer release.
    #[error(
        "the data directory {dir} has format {found}, this release knows {known}: run the newer release, or choose another --datadir"
    )]
    NewerSchema {
        /// The data directory.
        dir: PathBuf,
        /// Format of the directory.
        found: u32,
        /// Newest format known.
        known: u32,
    },
    /// Written by a release whose format this one cannot read.
    #[error(
        "the data directory {dir} has format {found}, of a network that began before format {known}: run the release \
         that made it, or choose another --datadir for this one"
    )]
    OlderSchema {
        /// The data directory.
        dir: PathBuf,
        /// Format of the directory.
        found: u32,
        /// Format known.
        known: u32,
    },
    /// The directory holds something else than what was to be opened.
    #[error("{dir} is no {expected} directory: {reason}; choose another --datadir")]
    WrongKind {
        /// The data directory.
        dir: PathBuf,
        /// What was to be opened.
        expected: &'static str,
        /// What was found.
        reason: String,
    },
    /// Another process has the directory open.
    #[error("the data directory {dir} is in use by another process: stop that one, or choose another --datadir")]
    Locked {
        /// The data directory.
        dir: PathBuf,
    },
    /// The database failed: disk full, permissions, damaged files.
    #[error("{doing} in {dir} failed: {reason}; check free space, permissions and the disk, then start again")]
    Database {
        /// The data directory.
        dir: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What the database said.
        reason: String,
    },
    /// Opened for reading only.
    #[error("{dir} was opened for reading only: start the node on it to write")]
    ReadOnly {
        /// The data directory.
        dir: PathBuf,
    },
    /// A fault planted by [`FaultyLedger`](crate::FaultyLedger).
    #[error("injected fault at write {write}")]
    Injected {
        /// Number of the write, from 1.
        write: u64,
    },
}
