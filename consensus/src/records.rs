//! The log of records: every entry the ledger ever wrote, in order, under one root (L4).
//!
//! A running hash over all changes commits to the same history, but shows one entry only to who replays
//! everything. Here each change is a leaf of the append-only Merkle tree of Certificate Transparency (RFC 9162,
//! section 2.1, SHA-256), whose root is the state root in each header: about 20 hashes show that a record is in a
//! ledger of a million ([`check_inclusion`]), and as many that an older ledger is the beginning of a newer one
//! ([`check_consistency`]). The tree's complete subtrees are a Merkle mountain range, so that appending needs no
//! more than their roots ([`RecordLog`]). Anything that checks Certificate Transparency logs can check this one;
//! this project checks with the ct-merkle crate.
//!
//! A record says what an entry was after one block, not that it is still so: what is never written twice
//! (outcomes, attested blocks, past tips) is thereby proven for good, anything else as of the record's height.

use crate::codec;
use crate::ids::Digest;
use crate::record;
use ct_merkle::digest::Digest as _;
use ct_merkle::{ConsistencyProof, InclusionProof, RootHash};
use sha2_11::Sha256;

/// One leaf: an entry as a block left it.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct LedgerRecord {
    /// Height of the block.
    pub height: u64,
    /// Key of the entry: a kind byte, then the id.
    pub key: Vec<u8>,
    /// BLAKE3 of the entry's canonical bytes.
    pub value: Digest,
}
record!(LedgerRecord, b"lrec", 256);

impl LedgerRecord {
    /// The record of these bytes under a key.
    pub fn new(height: u64, key: Vec<u8>, value: &[u8]) -> Self {
        Self { height, key, value: Digest(*blake3::hash(value).as_bytes()) }
    }
}

/// A complete subtree's root, at its place in the tree laid out as an array (RFC 9420, appendix C: leaf i at 2i,
/// a node of level k at an index that ends in k ones). Such a node never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogNode {
    /// Place.
    pub index: u64,
    /// Hash of the subtree.
    pub hash: Digest,
}

/// An entry as a block left it, whole: what the store keeps beside the tree so that it can be shown again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Number of the record in the log.
    pub index: u64,
    /// Height of the block.
    pub height: u64,
    /// Key of the entry.
    pub key: Vec<u8>,
    /// Its canonical bytes.
    pub value: Vec<u8>,
}

impl Version {
    /// The leaf that stands for it.
    pub fn record(&self) -> LedgerRecord {
        LedgerRecord::new(self.height, self.key.clone(), &self.value)
    }
}

/// What one block adds to the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Appended {
    /// Its records, in order.
    pub versions: Vec<Version>,
    /// The nodes that are complete now and were not before.
    pub nodes: Vec<LogNode>,
}

/// Most records of one log: ct-merkle's limit is 2^63, no ledger comes near this one.
pub const MAX_RECORDS: u64 = 1 << 48;

/// Most hashes of one proof, whatever the log's size.
pub const MAX_PATH: usize = 64;

/// How far the log has grown: all that is needed to append and to name the root.
#[derive(Clone, Debug, Default, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct RecordLog {
    len: u64,
    /// Roots of the complete subtrees, largest first: one for each bit set in `len`.
    peaks: Vec<Digest>,
}
record!(RecordLog, b"rlog", 4 << 10);

impl RecordLog {
    /// Records so far.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether peaks and length fit together, as those of every log made by [`Self::push`] do.
    pub fn is_sound(&self) -> bool {
        self.len <= MAX_RECORDS && self.peaks.len() == self.len.count_ones() as usize
    }

    /// The Merkle tree hash of all records; the hash of nothing for an empty log (RFC 9162, 2.1.1).
    pub fn root(&self) -> Digest {
        let mut peaks = self.peaks.iter().rev();
        let Some(last) = peaks.next() else { return Digest(Sha256::digest([]).into()) };
        peaks.fold(*last, |right, left| parent(*left, right))
    }

    /// Appends the entries one block wrote.
    pub fn append(&mut self, height: u64, entries: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) -> Appended {
        let mut appended = Appended::default();
        for (key, value) in entries {
            let version = Version { index: self.len, height, key, value };
            appended.nodes.extend(self.push(&version.record()));
            appended.versions.push(version);
        }
        appended
    }

    /// Appends a record; the nodes that are complete now and were not before.
    pub fn push(&mut self, record: &LedgerRecord) -> Vec<LogNode> {
        let mut node = LogNode { index: self.len.saturating_mul(2), hash: leaf(record) };
        let mut made = vec![node];
        let mut merging = self.len;
        while merging & 1 == 1 {
            let Some(left) = self.peaks.pop() else { break };
            // an index of k trailing ones is a right child here: its parent ends in one more
            let level = node.index.trailing_ones();
            let index = (node.index & !(1 << (level + 1))) | (1 << level);
            node = LogNode { index, hash: parent(left, node.hash) };
            made.push(node);
            merging >>= 1;
        }
        self.peaks.push(node.hash);
        self.len = self.len.saturating_add(1);
        made
    }
}

fn leaf(record: &LedgerRecord) -> Digest {
    Digest(Sha256::new_with_prefix([0]).chain_update(codec::encode(record)).finalize().into())
}

fn parent(left: Digest, right: Digest) -> Digest {
    Digest(Sha256::new_with_prefix([1]).chain_update(left.0).chain_update(right.0).finalize().into())
}

/// Why no proof could be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// Asked for what the log does not hold.
    #[error("record {index} is not in a log of {len}")]
    NotThere {
        /// The record.
        index: u64,
        /// Records of the log.
        len: u64,
    },
    /// The store lacks a node it should have.
    #[error("node {0} of the log of records is missing: run `oda ledger repair`")]
    Missing(u64),
    /// The store failed.
    #[error("{0}")]
    Store(String),
}

/// Reads the node at a place of the array.
pub type ReadNode<'a> = dyn Fn(u64) -> Result<Option<Digest>, String> + 'a;

/// The hash of the node at an index in a tree of `len` leaves: stored if its subtree is complete, else
/// made of its children, of which the left one always is.
fn node(index: u64, len: u64, read: &ReadNode<'_>) -> Result<Digest, LogError> {
    let level = index.trailing_ones();
    let span = 1u64 << level;
    let first = (index + 1 - span) / 2;
    if first + span <= len {
        return read(index).map_err(LogError::Store)?.ok_or(LogError::Missing(index));
    }
    let half = span / 2;
    let (left, right) = (index - half, index + half);
    if half == 0 || first + half >= len {
        // beyond the last leaf, or nothing to the right: the node is its left child
        return if half == 0 { Err(LogError::Missing(index)) } else { node(left, len, read) };
    }
    Ok(parent(node(left, len, read)?, node(right, len, read)?))
}

/// The hashes that show a record in a log of `len` records, leaf upwards (RFC 9162, 2.1.3).
///
/// # Errors
/// [`LogError`].
pub fn inclusion_path(index: u64, len: u64, read: &ReadNode<'_>) -> Result<Vec<Digest>, LogError> {
    if index >= len || len > MAX_RECORDS {
        return Err(LogError::NotThere { index, len });
    }
    ct_merkle::indices_for_inclusion_proof(len, index).into_iter().map(|i| node(i, len, read)).collect()
}

/// The hashes that show a log of `old` records to be the beginning of one of `new` (RFC 9162, 2.1.4).
///
/// # Errors
/// [`LogError`]; an empty log is the beginning of any and needs no proof, so it is refused.
pub fn consistency_path(old: u64, new: u64, read: &ReadNode<'_>) -> Result<Vec<Digest>, LogError> {
    if old == 0 || old > new || new > MAX_RECORDS {
        return Err(LogError::NotThere { index: old, len: new });
    }
    ct_merkle::indices_for_consistency_proof(old, new - old).into_iter().map(|i| node(i, new, read)).collect()
}

fn tree(len: u64, root: Digest) -> RootHash<Sha256> {
    RootHash::new(root.0.into(), len)
}

fn concat(path: &[Digest]) -> Option<Vec<u8>> {
    (path.len() <= MAX_PATH).then(|| path.iter().flat_map(|hash| hash.0).collect())
}

/// Whether the log of `len` records under `root` holds this record at `index`.
pub fn check_inclusion(root: Digest, len: u64, index: u64, record: &LedgerRecord, path: &[Digest]) -> bool {
    let proof = concat(path).and_then(|bytes| InclusionProof::try_from_bytes(bytes).ok());
    let bytes = codec::encode(record);
    len <= MAX_RECORDS && proof.is_some_and(|p| tree(len, root).verify_inclusion(&bytes, index, &p).is_ok())
}

/// Whether the log `old` (records and root) is the beginning of the log `new`.
pub fn check_consistency(old: (u64, Digest), new: (u64, Digest), path: &[Digest]) -> bool {
    let proof = concat(path).and_then(|bytes| ConsistencyProof::try_from_bytes(bytes).ok());
    old.0 <= new.0
        && new.0 <= MAX_RECORDS
        && proof.is_some_and(|p| tree(new.0, new.1).verify_consistency(&tree(old.0, old.1), &p).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ct_merkle::mem_backed_tree::MemoryBackedTree;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn record(i: u64) -> LedgerRecord {
        LedgerRecord::new(i / 3, vec![b'c', i as u8], &i.to_be_bytes())
    }

    /// A log of `len` records with its roots by length, and every node it ever made.
    fn grown(len: u64) -> (Vec<Digest>, BTreeMap<u64, Digest>) {
        let (mut log, mut nodes) = (RecordLog::default(), BTreeMap::new());
        let mut roots = vec![log.root()];
        for i in 0..len {
            for node in log.push(&record(i)) {
                assert_eq!(nodes.insert(node.index, node.hash), None, "a node is written once");
            }
            assert!(log.is_sound());
            roots.push(log.root());
        }
        (roots, nodes)
    }

    #[test] // L4: the root is RFC 9162's, at every length
    fn the_root_is_that_of_the_standard() {
        let (roots, _) = grown(130);
        let mut tree = MemoryBackedTree::<Sha256, Vec<u8>>::new();
        assert_eq!(hex::encode(roots[0].0), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        for (i, root) in roots[1..].iter().enumerate() {
            tree.push(codec::encode(&record(i as u64)));
            assert_eq!(tree.root().as_bytes().as_slice(), root.0);
        }
    }

    #[test] // L4: each record in each log, and no other record, place, root or path
    fn every_record_is_shown_in_every_log_that_holds_it() {
        let (roots, nodes) = grown(40);
        let read = |i: u64| Ok(nodes.get(&i).copied());
        for len in 1..=40u64 {
            let root = roots[len as usize];
            for index in 0..len {
                let path = inclusion_path(index, len, &read).unwrap();
                assert!(check_inclusion(root, len, index, &record(index), &path));
                assert!(!check_inclusion(root, len, index, &record(index + 1), &path), "another record");
                assert!(!check_inclusion(roots[len as usize - 1], len, index, &record(index), &path), "another root");
                for i in 0..path.len() {
                    let mut other = path.clone();
                    other[i].0[7] ^= 1;
                    assert!(!check_inclusion(root, len, index, &record(index), &other), "a bit of the path");
                }
                let longer = [path.clone(), vec![Digest([0; 32])]].concat();
                assert!(!check_inclusion(root, len, index, &record(index), &longer));
            }
            assert_eq!(inclusion_path(len, len, &read), Err(LogError::NotThere { index: len, len }));
        }
    }

    #[test] // L4: an older log is the beginning of a newer one, and a rewritten one is not
    fn only_a_true_beginning_is_consistent() {
        let (roots, nodes) = grown(40);
        let read = |i: u64| Ok(nodes.get(&i).copied());
        let mut forked = RecordLog::default();
        let mut fork_roots = vec![forked.root()];
        for i in 0..40 {
            forked.push(&record(if i == 5 { 99 } else { i })); // record 5 rewritten
            fork_roots.push(forked.root());
        }
        for new in 1..=40u64 {
            for old in 1..=new {
                let path = consistency_path(old, new, &read).unwrap();
                let at = |roots: &[Digest], n: u64| (n, roots[n as usize]);
                assert!(check_consistency(at(&roots, old), at(&roots, new), &path), "{old} of {new}");
                if old > 5 {
                    assert!(!check_consistency(at(&fork_roots, old), at(&roots, new), &path), "{old} of {new}");
                }
            }
        }
        assert!(consistency_path(0, 4, &read).is_err() && consistency_path(5, 4, &read).is_err());
    }

    proptest! {
        #[test] // K3: whatever is claimed, checking says yes or no
        fn checking_is_total(len: u64, index: u64, old: u64, path in prop::collection::vec(any::<[u8; 32]>(), 0..70)) {
            let path: Vec<Digest> = path.into_iter().map(Digest).collect();
            prop_assert!(!check_inclusion(Digest([3; 32]), len, index, &record(1), &path));
            let same = old == len;
            prop_assert!(same || !check_consistency((old, Digest([1; 32])), (len, Digest([2; 32])), &path));
            let nothing = |_: u64| Ok(None);
            prop_assert!(inclusion_path(index, len, &nothing).is_err() || len == 1);
        }
    }
}
