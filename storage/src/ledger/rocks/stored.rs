//! What the ledger on disk holds under its keys, each value with a checksum of its own (K2).
//!
//! RocksDB's checksums are over its files; one over each value also shows a value that was written under another key.

use super::super::{BlockRecord, KeptRecord, KeptValue, MAX_BLOCK_BYTES, MAX_HEADER_BYTES};
use oda_consensus::codec;
use oda_consensus::ids::{BlockHash, Digest};
use oda_consensus::record;
use oda_consensus::records::Version;
use oda_consensus::state::MAX_ENTRY_BYTES;

#[derive(bincode::Encode, bincode::Decode)]
pub(super) struct Tip {
    pub(super) height: u64,
    pub(super) hash: BlockHash,
}
record!(Tip, b"ltip", 64);

#[derive(bincode::Encode, bincode::Decode)]
pub(super) struct Height(pub(super) u64);
record!(Height, b"lhgt", 16);

/// From which heights on there are headers, and whole blocks.
#[derive(Debug, Clone, Copy, Default, bincode::Encode, bincode::Decode)]
pub(super) struct Kept {
    pub(super) headers_from: u64,
    pub(super) bodies_from: u64,
}
record!(Kept, b"lkpt", 64);

/// A block as it is found on disk.
pub(super) struct Stored {
    pub(super) hash: BlockHash,
    pub(super) prev: BlockHash,
    pub(super) body: Body,
}

/// What is there of a block.
pub(super) enum Body {
    /// Block and certificate.
    Whole(Vec<u8>),
    /// The header alone.
    Pruned(Vec<u8>),
}

impl Stored {
    /// Reads what is stored at a height; what is wrong with it.
    pub(super) fn read(bytes: &[u8], at: u64) -> Result<Self, String> {
        let (height, hash, prev, found, made, body) = match codec::decode::<StoredBlock>(bytes) {
            Ok(b) => {
                let made = checksum(at, b.hash, b.prev, &b.bytes);
                (b.height, b.hash, b.prev, b.checksum, made, Body::Whole(b.bytes))
            }
            Err(error) => {
                let h: StoredHeader = codec::decode(bytes).map_err(|_| error.to_string())?;
                let made = header_checksum(at, h.hash, h.prev, &h.header);
                (h.height, h.hash, h.prev, h.checksum, made, Body::Pruned(h.header))
            }
        };
        if height != at {
            return Err(format!("it holds the block of height {height}"));
        }
        if found != made {
            return Err("its bytes are not those that were written".into());
        }
        Ok(Self { hash, prev, body })
    }
}

/// What stays of a pruned block, in its place.
#[derive(bincode::Encode, bincode::Decode)]
pub(super) struct StoredHeader {
    height: u64,
    hash: BlockHash,
    prev: BlockHash,
    checksum: Digest,
    header: Vec<u8>,
}
record!(StoredHeader, b"lhdr", MAX_HEADER_BYTES + 256);

impl StoredHeader {
    pub(super) fn new(height: u64, hash: BlockHash, prev: BlockHash, header: &[u8]) -> Self {
        Self { height, hash, prev, checksum: header_checksum(height, hash, prev, header), header: header.to_vec() }
    }
}

#[derive(bincode::Encode, bincode::Decode)]
pub(super) struct StoredBlock {
    height: u64,
    hash: BlockHash,
    prev: BlockHash,
    checksum: Digest,
    bytes: Vec<u8>,
}
record!(StoredBlock, b"lblk", MAX_BLOCK_BYTES + 256);

impl StoredBlock {
    pub(super) fn new(block: &BlockRecord) -> Self {
        let checksum = checksum(block.height, block.hash, block.prev, &block.bytes);
        Self { height: block.height, hash: block.hash, prev: block.prev, checksum, bytes: block.bytes.clone() }
    }
}

fn checksum(height: u64, hash: BlockHash, prev: BlockHash, bytes: &[u8]) -> Digest {
    of_block("oda 2026 stored block", height, hash, prev, bytes)
}

fn header_checksum(height: u64, hash: BlockHash, prev: BlockHash, header: &[u8]) -> Digest {
    of_block("oda 2026 stored header", height, hash, prev, header)
}

fn of_block(context: &'static str, height: u64, hash: BlockHash, prev: BlockHash, bytes: &[u8]) -> Digest {
    let mut h = blake3::Hasher::new_derive_key(context);
    h.update(&height.to_be_bytes());
    h.update(&hash.0);
    h.update(&prev.0);
    h.update(bytes);
    Digest(*h.finalize().as_bytes())
}

#[derive(bincode::Encode, bincode::Decode)]
pub(super) struct StoredVersion {
    index: u64,
    checksum: Digest,
    value: Vec<u8>,
}
record!(StoredVersion, b"lver", MAX_ENTRY_BYTES + 256);

impl StoredVersion {
    pub(super) fn new(version: &Version) -> Self {
        Self { index: version.index, checksum: version_checksum(version), value: version.value.clone() }
    }
}

fn version_checksum(version: &Version) -> Digest {
    let mut h = blake3::Hasher::new_derive_key("oda 2026 stored version");
    h.update(&version.index.to_be_bytes()).update(&version.height.to_be_bytes());
    h.update(&(version.key.len() as u64).to_be_bytes()).update(&version.key).update(&version.value);
    Digest(*h.finalize().as_bytes())
}

/// A version of which only the hash is kept.
#[derive(bincode::Encode, bincode::Decode)]
struct StoredDigest {
    index: u64,
    checksum: Digest,
    value: Digest,
}
record!(StoredDigest, b"ldig", 128);

fn digest_checksum(index: u64, height: u64, key: &[u8], value: Digest) -> Digest {
    let mut h = blake3::Hasher::new_derive_key("oda 2026 stored version hash");
    h.update(&index.to_be_bytes()).update(&height.to_be_bytes());
    h.update(&(key.len() as u64).to_be_bytes()).update(key).update(&value.0);
    Digest(*h.finalize().as_bytes())
}

/// The bytes of a record of a snapshot.
pub(super) fn record_bytes(record: &KeptRecord) -> Vec<u8> {
    let KeptRecord { index, height, key, value } = record;
    match value {
        KeptValue::Whole(value) => codec::encode(&StoredVersion::new(&Version {
            index: *index,
            height: *height,
            key: key.clone(),
            value: value.clone(),
        })),
        KeptValue::Digest(value) => {
            let checksum = digest_checksum(*index, *height, key, *value);
            codec::encode(&StoredDigest { index: *index, checksum, value: *value })
        }
    }
}

/// Reads a record; what is wrong with it.
pub(super) fn record(key: &[u8], bytes: &[u8]) -> Result<KeptRecord, String> {
    let (key, height) = key.split_last_chunk::<8>().ok_or("a key without a height")?;
    let (key, height) = (key.to_vec(), u64::from_be_bytes(*height));
    let changed = || format!("of height {height}: its bytes are not those that were written");
    match codec::decode::<StoredVersion>(bytes) {
        Ok(stored) => {
            let version = Version { index: stored.index, height, key, value: stored.value };
            if version_checksum(&version) == stored.checksum { Ok(version.into()) } else { Err(changed()) }
        }
        Err(error) => {
            let stored: StoredDigest = codec::decode(bytes).map_err(|_| error.to_string())?;
            if digest_checksum(stored.index, height, &key, stored.value) != stored.checksum {
                return Err(changed());
            }
            Ok(KeptRecord { index: stored.index, height, key, value: KeptValue::Digest(stored.value) })
        }
    }
}
