//! Pruning, and beginning with a snapshot, on disk.
//!
//! Pruning is a row of bounded atomic writes, and after each of them the ledger is whole from the height it names. A
//! snapshot is too large for one write: it is marked as begun in the write that takes the tip away, and becomes the
//! ledger in the one that sets it; whoever opens the directory in between drops all of it.

use super::super::kept::{check_base, check_part, check_prune};
use super::super::{Base, Part};
use super::stored::{Height, Kept, StoredHeader, Tip, record_bytes};
use super::{RocksLedger, history_key};
use crate::error::StoreError;
use oda_consensus::codec;
use rocksdb::WriteBatch;
use std::ops::ControlFlow;

/// Keys deleted by one write.
const DROPPED_AT_ONCE: u32 = 10_000;

impl RocksLedger {
    pub(super) fn prune_blocks(&mut self, headers: &[(u64, Vec<u8>)]) -> Result<(), StoreError> {
        let first = match self.kept.bodies_from {
            // nothing pruned yet: the first block may have height 0 or 1
            0 => u64::from(self.stored(0)?.is_none()),
            from => from,
        };
        check_prune(headers, first, self.tip)?;
        let Some((last, _)) = headers.last() else { return Ok(()) };
        let kept = Kept { bodies_from: last.saturating_add(1), ..self.kept };
        let mut batch = WriteBatch::default();
        let blocks = self.db.family("blocks")?;
        for (height, header) in headers {
            let block = self.stored(*height)?.ok_or_else(|| self.corrupt(*height, "the block is missing"))?;
            let header = StoredHeader::new(*height, block.hash, block.prev, header);
            batch.put_cf(blocks, height.to_be_bytes(), codec::encode(&header));
        }
        batch.put_cf(self.db.family("meta")?, b"kept", codec::encode(&kept));
        self.db.commit(batch)?; // D3: the bodies go with the word that they are gone
        self.kept = kept;
        Ok(())
    }

    /// Drops blocks, entries, tip and log, and keeps what no peer can give back; for a snapshot, or to fetch all again.
    pub(super) fn clear(&mut self, is_loading: bool) -> Result<(), StoreError> {
        let voted = self.tip.map_or(0, |(height, _)| height).max(self.voted);
        // from here on, whatever fails: there is no chain
        (self.tip, self.kept, self.voted, self.is_loading) = (None, Kept::default(), voted, true);
        for family in ["blocks", "hashes", "entries", "log", "history"] {
            loop {
                let mut batch = WriteBatch::default();
                let meta = self.db.family("meta")?;
                // The tip goes with the first batch: half a chain must never look whole.
                batch.delete_cf(meta, b"tip");
                batch.delete_cf(meta, b"kept");
                batch.put_cf(meta, b"loading", b"");
                batch.put_cf(meta, b"voted", voted.to_be_bytes());
                let column = self.db.family(family)?;
                let mut keys = 0_u32;
                self.db.visit(family, b"", &mut |key, _| {
                    batch.delete_cf(column, key);
                    keys = keys.saturating_add(1);
                    if keys < DROPPED_AT_ONCE { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
                })?;
                self.db.commit(batch)?;
                if keys == 0 {
                    break;
                }
            }
        }
        if !is_loading {
            let mut batch = WriteBatch::default();
            batch.delete_cf(self.db.family("meta")?, b"loading");
            self.db.commit(batch)?;
        }
        self.is_loading = is_loading;
        Ok(())
    }

    /// Drops what a snapshot left that was not loaded to its end.
    pub(super) fn abandon_load(&mut self) -> Result<(), StoreError> {
        self.clear(false)
    }

    pub(super) fn load_part(&mut self, part: &Part) -> Result<(), StoreError> {
        check_part(part, self.is_loading)?;
        let mut batch = WriteBatch::default();
        let (history, log, hashes) = (self.db.family("history")?, self.db.family("log")?, self.db.family("hashes")?);
        for record in &part.records {
            batch.put_cf(history, history_key(&record.key, record.height), record_bytes(record));
        }
        part.nodes.iter().for_each(|n| batch.put_cf(log, n.index.to_be_bytes(), n.hash.0));
        part.hashes.iter().for_each(|(hash, height)| batch.put_cf(hashes, hash.0, codec::encode(&Height(*height))));
        self.db.add_changes(&mut batch, "entries", &part.entries)?;
        self.db.commit(batch)
    }

    pub(super) fn finish(&mut self, base: &Base) -> Result<(), StoreError> {
        check_base(base, self.is_loading)?;
        let mut batch = WriteBatch::default();
        let kept = Kept { headers_from: base.height, bodies_from: base.height.saturating_add(1) };
        let header = StoredHeader::new(base.height, base.hash, base.prev, &base.header);
        batch.put_cf(self.db.family("blocks")?, base.height.to_be_bytes(), codec::encode(&header));
        batch.put_cf(self.db.family("hashes")?, base.hash.0, codec::encode(&Height(base.height)));
        self.db.add_changes(&mut batch, "entries", &base.entries)?;
        self.drop_wal(&mut batch, base.height)?;
        let meta = self.db.family("meta")?;
        batch.put_cf(meta, b"kept", codec::encode(&kept));
        batch.put_cf(meta, b"tip", codec::encode(&Tip { height: base.height, hash: base.hash }));
        batch.delete_cf(meta, b"loading");
        self.db.commit(batch)?; // D3: now it is a ledger
        (self.tip, self.kept, self.is_loading) = (Some((base.height, base.hash)), kept, false);
        Ok(())
    }

    /// Removes the write-ahead log of heights up to one that is decided.
    pub(super) fn drop_wal(&self, batch: &mut WriteBatch, decided: u64) -> Result<(), StoreError> {
        let (wal, decided) = (self.db.family("wal")?, decided.to_be_bytes());
        self.db.visit("wal", b"", &mut |entry, _| {
            if entry.get(..8).is_none_or(|height| height > decided.as_slice()) {
                return ControlFlow::Break(());
            }
            batch.delete_cf(wal, entry);
            ControlFlow::Continue(())
        })
    }
}
