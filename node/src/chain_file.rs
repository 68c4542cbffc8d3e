//! What a stranger is given to check offline: one file, a list of codec records, each behind its length as four
//! little-endian bytes. Handovers in order, then the newest attested block, then what is proven under it. The file
//! proves itself against the genesis; who gave it does not matter.

use anyhow::{Context, Result, bail, ensure};
use oda_consensus::codec::{self, Record};
use oda_consensus::epoch::{EpochChain, HandoverLink};
use oda_consensus::proof::{ExtensionProof, RecordProof};
use oda_consensus::state::{CheckpointState, Entry};
use std::path::Path;

/// A chain of keys with what hangs on it.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct ChainFile {
    /// From epoch 0 on, in order.
    pub links: Vec<HandoverLink>,
    /// The newest attested block.
    pub checkpoint: Option<CheckpointState>,
    /// A record under it.
    pub record: Option<RecordProof>,
    /// That an older ledger is its beginning.
    pub extension: Option<ExtensionProof>,
}

/// What a file that holds has shown.
#[derive(Debug)]
pub struct Shown {
    /// The committees' keys.
    pub chain: EpochChain,
    /// The attested block, and the epoch whose committee attested it.
    pub checkpoint: Option<(CheckpointState, u64)>,
    /// The entry, and the height of the block that wrote it.
    pub entry: Option<(Entry, u64)>,
}

fn put(out: &mut Vec<u8>, record: &impl Record) {
    let bytes = codec::encode(record);
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(&bytes);
}

impl ChainFile {
    /// The bytes of the file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.links.iter().for_each(|link| put(&mut out, link));
        self.checkpoint.iter().for_each(|c| put(&mut out, c));
        self.record.iter().for_each(|r| put(&mut out, r));
        self.extension.iter().for_each(|e| put(&mut out, e));
        out
    }

    /// Reads a file's bytes; nothing is verified yet.
    ///
    /// # Errors
    /// The first record that is malformed, doubled or out of place.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let (mut file, mut rest, mut index) = (Self::default(), bytes, 0u64);
        while !rest.is_empty() {
            let (len, body) = rest.split_first_chunk::<4>().context("the file ends in the middle of a record")?;
            let len = u32::from_le_bytes(*len) as usize;
            let (record, after) = body.split_at_checked(len).context("the file ends in the middle of a record")?;
            file.take(record).with_context(|| format!("record {index}"))?;
            (rest, index) = (after, index + 1);
        }
        Ok(file)
    }

    fn take(&mut self, record: &[u8]) -> Result<()> {
        if let Ok(link) = codec::decode(record) {
            ensure!(self.checkpoint.is_none(), "a handover may not follow the attested block");
            self.links.push(link);
        } else if let Ok(checkpoint) = codec::decode(record) {
            ensure!(self.checkpoint.is_none(), "a second attested block");
            self.checkpoint = Some(checkpoint);
        } else if let Ok(proof) = codec::decode(record) {
            ensure!(
                self.checkpoint.is_some() && self.record.is_none(),
                "a record must follow the attested block, once"
            );
            self.record = Some(proof);
        } else if let Ok(proof) = codec::decode(record) {
            ensure!(
                self.checkpoint.is_some() && self.extension.is_none(),
                "an extension must follow the attested block, once"
            );
            self.extension = Some(proof);
        } else {
            bail!("it is neither a handover nor an attested block nor a proof of this release");
        }
        Ok(())
    }

    /// Reads a file from disk.
    ///
    /// # Errors
    /// If it cannot be read or is malformed.
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        Self::from_bytes(&bytes).with_context(|| path.display().to_string())
    }

    /// Writes the file to disk.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        crate::file::replace(path, &self.to_bytes()).with_context(|| format!("writing {}", path.display()))
    }

    /// Verifies everything but the extension, which needs the older file: the keys from the genesis on, the
    /// attested block, the record.
    ///
    /// # Errors
    /// The first thing that does not hold.
    pub fn verify(&self, mut chain: EpochChain) -> Result<Shown> {
        for (index, link) in self.links.iter().enumerate() {
            chain.advance(link.clone()).with_context(|| format!("record {index}"))?;
        }
        let mut shown = Shown { chain, checkpoint: None, entry: None };
        if let Some(c) = &self.checkpoint {
            let epoch = shown.chain.attested(&c.checkpoint, &c.signature)?;
            // the signature does not cover what the file says of it
            anyhow::ensure!(epoch == c.epoch, "the attested block is of epoch {epoch}, the file says {}", c.epoch);
            if let Some(proof) = &self.record {
                shown.entry = Some((proof.check(&c.checkpoint)?, proof.height));
            }
            shown.checkpoint = Some((c.clone(), epoch));
        }
        Ok(shown)
    }
}
