//! The ledger at one height without its blocks: every record of the log, and so the state they lead to (L4, D3).
//!
//! The state root is not over the entries as they are now but over every record there ever was. So entries alone could
//! not be checked: one left out, or an old value in place of the newest, would be under the root as well. Here the whole
//! log is gone through in its order, of what was replaced later only the hash, and the root is made again; what is
//! newest of each entry then follows, and nothing can be missing, doubled or old.
//!
//! The same records in the same order come out of every honest ledger of that height, so two nodes' snapshots of a height
//! are one blob with one hash. That the root is the network's is shown by the committee's signature under a key that
//! follows from the genesis ([`SnapshotOffer::check`]); that the blocks kept the rules is then the committees' word, as for
//! everyone who does not replay them.

use crate::codec;
use crate::epoch::{ChainError, EpochChain};
use crate::ids::{BlobRef, Digest};
use crate::record;
use crate::records::{LedgerRecord, LogNode, RecordLog};
use crate::state::{CheckpointState, Entry, MAX_ENTRY_BYTES};
use crate::tx::Header;
use std::collections::BTreeMap;

/// Key of the tips: they are carried whole, for they prove every earlier block's hash, time and root.
pub const TIP_KEY: &[u8] = b"t";

/// A snapshot that a node has as one blob, and what is needed to know it for one.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct SnapshotOffer {
    /// The attested block.
    pub checkpoint: CheckpointState,
    /// Its header, which says how many records there are.
    pub header: Header,
    /// The blob: each record's codec bytes behind their length as four little-endian bytes.
    pub blob: BlobRef,
}
record!(SnapshotOffer, b"snof", 2 << 10, |value| {
    codec::within(&value.checkpoint).and_then(|()| codec::within(&value.header))
});

/// An offer was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    /// No known committee attested it.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The header is another block's.
    #[error("the header is not that of the attested block {0}")]
    Header(u64),
    /// No snapshot of so many records can be so long, or so short.
    #[error("{len} bytes cannot be a snapshot of {records} records")]
    Length {
        /// Of the blob.
        len: u64,
        /// Of the header.
        records: u64,
    },
}

impl SnapshotOffer {
    /// Whether the block was attested by a committee of this chain of keys, and blob and header can belong to it.
    ///
    /// # Errors
    /// What does not hold.
    pub fn check(&self, chain: &EpochChain) -> Result<(), OfferError> {
        let (c, h) = (&self.checkpoint.checkpoint, &self.header);
        chain.attested(c, &self.checkpoint.signature)?;
        if (h.hash(), h.height, h.state_root) != (c.block, c.height, c.state_root) {
            return Err(OfferError::Header(c.height));
        }
        let (len, records) = (self.blob.len, h.records);
        let most = records.saturating_mul(SnapshotRecord::MOST_BYTES);
        if len > most || len < records {
            return Err(OfferError::Length { len, records });
        }
        Ok(())
    }
}

/// A record of the log as a snapshot carries it.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct SnapshotRecord {
    /// Height of the block that wrote it.
    pub height: u64,
    /// Key of the entry.
    pub key: Vec<u8>,
    /// Its bytes.
    pub value: Carried,
}
record!(SnapshotRecord, b"snrc", MAX_ENTRY_BYTES + 512);

impl SnapshotRecord {
    /// Most bytes that one takes in a snapshot, its length included.
    pub const MOST_BYTES: u64 = MAX_ENTRY_BYTES as u64 + 516;

    /// The leaf of the log that stands for it.
    pub fn record(&self) -> LedgerRecord {
        match &self.value {
            Carried::Whole(value) => LedgerRecord::new(self.height, self.key.clone(), value),
            Carried::Replaced(value) => LedgerRecord { height: self.height, key: self.key.clone(), value: *value },
        }
    }
}

/// What is carried of a record.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum Carried {
    /// All: it is the newest of its entry, or a tip.
    Whole(Vec<u8>),
    /// Its hash: a later record replaces it.
    Replaced(Digest),
}

/// Why something is no snapshot of the ledger at a height.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// More or fewer records than the header says.
    #[error("it has {0} records than the block's header says")]
    Count(&'static str),
    /// A record cannot be one of this ledger.
    #[error("record {index}: {problem}")]
    Record {
        /// Number in the log.
        index: u64,
        /// What is wrong.
        problem: String,
    },
    /// The records give another root.
    #[error("its records do not give the attested state root: entries are wrong, missing or made up")]
    WrongRoot,
    /// Of some entry the newest value is not carried.
    #[error("the newest value of entry {0} is missing")]
    Missing(String),
    /// This node's own ledger is not its beginning.
    #[error("this node's own ledger is not its beginning: one of them was rewritten")]
    OtherPast,
    /// Sums that do not add up, under an attested root.
    #[error("the state breaks a rule: {0}")]
    Invariant(String),
}

/// Takes the records of a snapshot one after the other and believes none of them before the last: then they give
/// the root of an attested block, or nothing.
pub struct Checker {
    header: Header,
    log: RecordLog,
    /// Records and root of this node's own ledger, which the snapshot has to go on from.
    own: Option<(u64, Digest)>,
    /// Of each entry, whether its newest record so far is carried whole. As many as the attested header allows (K3).
    keys: BTreeMap<Vec<u8>, bool>,
}

impl Checker {
    /// For the ledger as the block with this header left it; `own` is the log this node has already.
    pub fn new(header: Header, own: Option<(u64, Digest)>) -> Self {
        Self { header, log: RecordLog::default(), own: own.filter(|(len, _)| *len > 0), keys: BTreeMap::new() }
    }

    /// Records taken so far.
    pub fn taken(&self) -> u64 {
        self.log.len()
    }

    /// Takes the next record; the nodes of the log that are complete with it. Nothing is known to be true before the
    /// end.
    ///
    /// # Errors
    /// The first thing that cannot be.
    pub fn take(&mut self, record: &SnapshotRecord) -> Result<Vec<LogNode>, SnapshotError> {
        let index = self.log.len();
        let refused = |problem: &str| SnapshotError::Record { index, problem: problem.into() };
        if index >= self.header.records {
            return Err(SnapshotError::Count("more"));
        }
        if record.height > self.header.height || record.key.len() > Entry::MAX_KEY_BYTES {
            return Err(refused("its height or key is beyond what the ledger can have"));
        }
        let is_whole = match &record.value {
            Carried::Whole(value) if value.len() > MAX_ENTRY_BYTES => return Err(refused("its value is too long")),
            Carried::Whole(_) => true,
            Carried::Replaced(_) if record.key == TIP_KEY => return Err(refused("a tip is carried whole")),
            Carried::Replaced(_) => false,
        };
        let before = self.keys.insert(record.key.clone(), is_whole);
        // one form only, or equal ledgers would have different snapshots
        if before == Some(true) && record.key != TIP_KEY {
            return Err(refused("the one that it replaces is carried whole"));
        }
        let nodes = self.log.push(&record.record());
        if self.own.is_some_and(|(len, root)| len == self.log.len() && root != self.log.root()) {
            return Err(SnapshotError::OtherPast);
        }
        Ok(nodes)
    }

    /// Whether they were all, and gave the root.
    ///
    /// # Errors
    /// What differs.
    pub fn finish(self) -> Result<RecordLog, SnapshotError> {
        if self.log.len() < self.header.records {
            return Err(SnapshotError::Count("fewer"));
        }
        if self.log.root() != self.header.state_root {
            return Err(SnapshotError::WrongRoot);
        }
        if self.own.is_some_and(|(len, _)| len > self.log.len()) {
            return Err(SnapshotError::OtherPast);
        }
        match self.keys.iter().find(|(_, is_whole)| !**is_whole) {
            Some((key, _)) => Err(SnapshotError::Missing(hex::encode(key))),
            None => Ok(self.log),
        }
    }
}
