//! What a ledger keeps that does not keep everything: headers instead of old blocks, hashes instead of old versions.
//!
//! Deleting old blocks one by one would leave a ledger of which nobody knows where it begins. So the store always says
//! from which height on it has whole blocks, and from which on headers, and moves both only in the same write that
//! takes something away. The rules are here, once for every store.

use super::EntryChange;
use crate::error::StoreError;
use crate::records::check_changes;
use oda_consensus::ids::{BlockHash, Digest};
use oda_consensus::records::{LedgerRecord, LogNode, Version};
use std::ops::ControlFlow;

/// Most blocks pruned by one write (K3).
pub const MAX_PRUNED_AT_ONCE: usize = 1 << 10;
/// Longest header, bytes (K3).
pub const MAX_HEADER_BYTES: usize = 1 << 10;
/// Most bytes of keys and values in one part of a snapshot (K3); a single record may be all of it.
pub const MAX_PART_BYTES: usize = 8 << 20;

/// A record of the log as far as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptRecord {
    /// Number of the record in the log.
    pub index: u64,
    /// Height of the block.
    pub height: u64,
    /// Key of the entry.
    pub key: Vec<u8>,
    /// Its bytes, or what stays of them.
    pub value: KeptValue,
}

/// What is kept of an entry as a block left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeptValue {
    /// All of it.
    Whole(Vec<u8>),
    /// BLAKE3 of its canonical bytes: it was replaced before the snapshot with which this ledger began.
    Digest(Digest),
}

impl KeptRecord {
    /// The leaf of the log that stands for it.
    pub fn record(&self) -> LedgerRecord {
        match &self.value {
            KeptValue::Whole(value) => LedgerRecord::new(self.height, self.key.clone(), value),
            KeptValue::Digest(value) => LedgerRecord { height: self.height, key: self.key.clone(), value: *value },
        }
    }

    /// The version, if all of it is kept.
    pub(super) fn whole(self) -> Option<Version> {
        let KeptValue::Whole(value) = self.value else { return None };
        Some(Version { index: self.index, height: self.height, key: self.key, value })
    }
}

impl From<Version> for KeptRecord {
    fn from(v: Version) -> Self {
        Self { index: v.index, height: v.height, key: v.key, value: KeptValue::Whole(v.value) }
    }
}

/// Sees one record and says whether to go on.
pub type KeptVisitor<'a> = dyn FnMut(KeptRecord) -> ControlFlow<()> + 'a;

/// A part of a snapshot, small enough for one write.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Part {
    /// Records of the log.
    pub records: Vec<KeptRecord>,
    /// Nodes of the log.
    pub nodes: Vec<LogNode>,
    /// Hashes of blocks, for the index by hash.
    pub hashes: Vec<(BlockHash, u64)>,
    /// State entries.
    pub entries: Vec<EntryChange>,
}

/// The block with which a ledger begins that was loaded from a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// Height.
    pub height: u64,
    /// Hash.
    pub hash: BlockHash,
    /// Hash of the block before.
    pub prev: BlockHash,
    /// Its header, opaque here.
    pub header: Vec<u8>,
    /// State entries that come with it: position and tip.
    pub entries: Vec<EntryChange>,
}

/// Whether these blocks are the oldest whole ones, in order, below the tip; `first` is the oldest there is.
pub(super) fn check_prune(
    headers: &[(u64, Vec<u8>)],
    first: u64,
    tip: Option<(u64, BlockHash)>,
) -> Result<(), StoreError> {
    limit("blocks pruned at once", headers.len(), MAX_PRUNED_AT_ONCE)?;
    let tip = tip.map_or(0, |(height, _)| height);
    let mut next = first;
    for (height, header) in headers {
        limit("bytes of a header", header.len(), MAX_HEADER_BYTES)?;
        if *height != next || *height >= tip {
            return Err(StoreError::NotPrunable { height: *height, from: first, tip });
        }
        next = next.saturating_add(1);
    }
    Ok(())
}

pub(super) fn check_part(part: &Part, is_loading: bool) -> Result<(), StoreError> {
    if !is_loading {
        return Err(StoreError::NotLoading);
    }
    let records = part.records.iter().map(|r| match &r.value {
        KeptValue::Whole(value) => r.key.len().saturating_add(value.len()),
        KeptValue::Digest(_) => r.key.len().saturating_add(32),
    });
    limit("bytes of a part of a snapshot", records.fold(0, usize::saturating_add), MAX_PART_BYTES)?;
    check_changes(&part.entries)
}

pub(super) fn check_base(base: &Base, is_loading: bool) -> Result<(), StoreError> {
    if !is_loading {
        return Err(StoreError::NotLoading);
    }
    limit("bytes of a header", base.header.len(), MAX_HEADER_BYTES)?;
    check_changes(&base.entries)
}

fn limit(what: &'static str, len: usize, max: usize) -> Result<(), StoreError> {
    if len <= max { Ok(()) } else { Err(StoreError::TooLarge { what, len: len as u64, max: max as u64 }) }
}
