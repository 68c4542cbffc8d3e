//! A snapshot as a file: each record's codec bytes behind their length as four little-endian bytes.

use super::{Builder, stream};
use crate::ledger::LedgerReader;
use anyhow::{Context, Result, anyhow};
use oda_consensus::codec::{self, Record as _};
use oda_consensus::genesis::Genesis;
use oda_consensus::ids::{BlobHash, BlobRef, Digest};
use oda_consensus::snapshot::{Checker, SnapshotRecord};
use oda_consensus::state::State;
use oda_consensus::tx::Header;
use oda_storage::{Base, EntryChange, LedgerStore, Part};
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;

/// Records and bytes that are written to the store at once.
const PART_RECORDS: usize = 4_096;
const PART_BYTES: usize = 1 << 20;

/// Writes the snapshot of the ledger as a block left it; the file is the blob that every honest node makes of it.
///
/// # Errors
/// If the store or the file fails.
pub fn write(reader: &dyn LedgerReader, header: &Header, path: &Path) -> Result<BlobRef> {
    let writing = || format!("writing {}", path.display());
    let mut out = BufWriter::new(File::create(path).with_context(writing)?);
    let (mut hasher, mut len) = (blake3::Hasher::new(), 0_u64);
    stream(reader, header, &mut |record| {
        let bytes = codec::encode(&record);
        let size = u32::try_from(bytes.len()).map_err(|e| e.to_string())?.to_le_bytes();
        hasher.update(&size).update(&bytes);
        len = len.saturating_add(4).saturating_add(bytes.len() as u64);
        out.write_all(&size).and_then(|()| out.write_all(&bytes)).map_err(|e| e.to_string())
    })
    .map_err(|e| anyhow!(e))
    .with_context(writing)?;
    out.into_inner().map_err(std::io::IntoInnerError::into_error).and_then(|f| f.sync_all()).with_context(writing)?;
    Ok(BlobRef { hash: BlobHash(*hasher.finalize().as_bytes()), len })
}

/// The records of a file, one at a time.
pub struct Records<R> {
    read: R,
}

impl Records<BufReader<File>> {
    /// Opens a file.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self { read: BufReader::new(File::open(path).with_context(|| path.display().to_string())?) })
    }
}

impl<R: Read> Records<R> {
    /// Of bytes from wherever they come.
    pub fn new(read: R) -> Self {
        Self { read }
    }

    fn record(&mut self) -> Result<Option<SnapshotRecord>> {
        let mut size = [0; 4];
        if self.read.read(&mut size[..1])? == 0 {
            return Ok(None);
        }
        self.read.read_exact(&mut size[1..]).context("it is cut off")?;
        let size = u32::from_le_bytes(size) as usize;
        anyhow::ensure!(size <= SnapshotRecord::MAX_BYTES, "a record of {size} bytes");
        let mut bytes = vec![0; size];
        self.read.read_exact(&mut bytes).context("it is cut off")?;
        Ok(Some(codec::decode(&bytes)?))
    }
}

impl<R: Read> Iterator for Records<R> {
    type Item = Result<SnapshotRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        self.record().transpose()
    }
}

/// Whether these are the records of the ledger as a block with this header left it. Nothing is kept of them.
///
/// # Errors
/// What differs.
pub fn check(
    records: impl Iterator<Item = Result<SnapshotRecord>>,
    header: Header,
    own: Option<(u64, Digest)>,
) -> Result<()> {
    let mut checker = Checker::new(header, own);
    for record in records {
        checker.take(&record?)?;
    }
    checker.finish()?;
    Ok(())
}

/// Puts a snapshot in the place of a store's chain; the state it leads to. The caller has checked it: here it is
/// checked again as it is written, and what does not hold never becomes a ledger.
///
/// # Errors
/// What differs, or the store's; then the store has no chain until it is opened again, and is empty after that.
pub fn install(
    store: &mut impl LedgerStore,
    genesis: Genesis,
    header: Header,
    records: impl Iterator<Item = Result<SnapshotRecord>>,
) -> Result<State> {
    let mut builder = Builder::new(genesis, header, None).map_err(|e| anyhow!(e))?;
    store.begin_load()?;
    let (mut part, mut bytes) = (Part::default(), 0_usize);
    for record in records {
        builder.take(record?, &mut part)?;
        bytes = bytes.saturating_add(part.entries.last().map_or(0, |e| e.value.as_ref().map_or(0, Vec::len)));
        if part.records.len() >= PART_RECORDS || bytes >= PART_BYTES {
            store.load(&std::mem::take(&mut part))?;
            bytes = 0;
        }
    }
    store.load(&part)?;
    let state = builder.finish()?;
    let entries = super::last_entries(&header, state.log().clone());
    let base = Base {
        height: header.height,
        hash: header.hash(),
        prev: header.prev,
        header: codec::encode(&header),
        entries: entries.iter().map(|e| EntryChange::put(&e.key(), &e.value())).collect(),
    };
    store.finish_load(&base)?;
    Ok(state)
}
