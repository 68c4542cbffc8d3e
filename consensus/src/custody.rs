//! Who keeps which blobs, and how a node shows that it does (D2).
//!
//! To ask a node "do you still have it?" is worth nothing, and to fetch the whole blob from it now and then costs as
//! much as keeping it. So the draw of each epoch names a few blobs, those validators that should keep them, and for
//! each of these one chunk that nobody could know before. Whoever has the blob cuts the chunk out of it with the hashes
//! that lead to the blob's own (BLAKE3 is a tree), a kilobyte or two, and anybody can check that with nothing but the
//! ledger. Each node is asked for another chunk, so one node's answer is no help to the next.
//!
//! What it does not show is *where* the bytes are: a node may fetch them from another when it is asked.

use crate::ids::{Beacon, BlobHash, BlobRef, NodeId};
use bao_tree::io::BaoContentItem;
use bao_tree::io::sync::DecodeResponseIter;
use bao_tree::{BaoTree, BlockSize, ChunkNum, ChunkRanges};
use serde::Serialize;
use std::collections::BTreeSet;

/// Blobs that one epoch asks for.
pub const BLOBS_ASKED: u64 = 8;
/// Validators that keep each blob and are asked for it.
pub const KEEPERS: usize = 3;
/// A chunk of BLAKE3, bytes.
pub const CHUNK_BYTES: u64 = 1_024;
/// Longest slice, bytes: a chunk, and two hashes on each level of the largest tree there can be.
pub const MAX_SLICE_BYTES: usize = 1_024 + 64 * 54;

/// Nodes by who keeps this blob first, the first `replicas` of them: when one leaves, its place goes to the next in
/// each order, and no other blob moves (rendezvous hashing, Thaler and Ravishankar 1998).
pub fn keepers(blob: BlobHash, nodes: impl IntoIterator<Item = NodeId>, replicas: usize) -> Vec<NodeId> {
    let weight = |node: &NodeId| {
        let mut h = blake3::Hasher::new_derive_key("oda 2026 blob keepers");
        h.update(&node.0).update(&blob.0);
        *h.finalize().as_bytes()
    };
    let mut ranked: Vec<([u8; 32], NodeId)> = nodes.into_iter().map(|node| (weight(&node), node)).collect();
    ranked.sort_unstable_by(|a, b| b.cmp(a));
    ranked.dedup();
    ranked.into_iter().take(replicas).map(|(_, node)| node).collect()
}

/// What one node is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize)]
pub struct Asked {
    /// Who.
    pub node: NodeId,
    /// The blob.
    pub blob: BlobRef,
    /// Which chunk of [`CHUNK_BYTES`], from 0.
    pub chunk: u64,
    /// Whether it has answered.
    pub answered: bool,
}

/// Whom an epoch's beacon asks for what: at most [`BLOBS_ASKED`] of these blobs, of each of them its [`KEEPERS`], and
/// nobody twice.
pub fn draw(beacon: Beacon, blobs: &BTreeSet<BlobRef>, nodes: &[NodeId]) -> Vec<Asked> {
    let blobs: Vec<&BlobRef> = blobs.iter().filter(|blob| blob.len > 0).collect();
    let mut asked: Vec<Asked> = Vec::new();
    for place in 0..BLOBS_ASKED {
        let Some(blob) = pick(&number(beacon, b"blob", &place.to_le_bytes()), &blobs) else { break };
        for node in keepers(blob.hash, nodes.iter().copied(), KEEPERS) {
            if asked.iter().any(|a| a.node == node) {
                continue;
            }
            let which = number(beacon, b"part", &[node.0, blob.hash.0].concat());
            let chunk = u64::from_le_bytes(which) % blob.len.div_ceil(CHUNK_BYTES);
            asked.push(Asked { node, blob: **blob, chunk, answered: false });
        }
    }
    asked
}

fn number(beacon: Beacon, what: &[u8; 4], of: &[u8]) -> [u8; 8] {
    let mut h = blake3::Hasher::new_derive_key("oda 2026 storage challenge");
    h.update(&beacon.0).update(what).update(of);
    let mut out = [0; 8];
    h.finalize_xof().fill(&mut out);
    out
}

fn pick<'a, T>(number: &[u8; 8], of: &'a [T]) -> Option<&'a T> {
    let most = u64::try_from(of.len()).ok().filter(|n| *n > 0)?;
    of.get(usize::try_from(u64::from_le_bytes(*number) % most).ok()?)
}

/// Whether a slice is this chunk of the blob: its bytes behind the pairs of hashes from the root down to it, as
/// iroh-blobs sends them, without the length in front.
pub fn is_chunk(blob: &BlobRef, chunk: u64, slice: &[u8]) -> bool {
    let Some(next) = chunk.checked_add(1) else { return false };
    if slice.len() > MAX_SLICE_BYTES || chunk >= blob.len.div_ceil(CHUNK_BYTES) {
        return false;
    }
    let (tree, root) = (BaoTree::new(blob.len, BlockSize::ZERO), blake3::Hash::from_bytes(blob.hash.0));
    let ranges = ChunkRanges::from(ChunkNum(chunk)..ChunkNum(next));
    let (mut rest, mut leaves) = (slice, 0);
    for item in DecodeResponseIter::new(root, tree, &mut rest, &ranges) {
        match item {
            Ok(BaoContentItem::Leaf(leaf)) if leaf.offset == chunk.saturating_mul(CHUNK_BYTES) => leaves += 1,
            Ok(BaoContentItem::Parent(_)) => {}
            Ok(BaoContentItem::Leaf(_)) | Err(_) => return false,
        }
    }
    leaves == 1 && rest.is_empty()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use bao_tree::io::outboard::PreOrderMemOutboard;
    use bao_tree::io::sync::encode_ranges_validated;
    use proptest::prelude::*;

    pub(crate) fn slice(bytes: &[u8], chunk: u64) -> Vec<u8> {
        let outboard = PreOrderMemOutboard::create(bytes, BlockSize::ZERO);
        let ranges = ChunkRanges::from(ChunkNum(chunk)..ChunkNum(chunk + 1));
        let mut out = Vec::new();
        encode_ranges_validated(bytes, outboard, &ranges, &mut out).unwrap();
        out
    }

    fn bytes(len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut out);
        out
    }

    fn node(n: u8) -> NodeId {
        NodeId([n; 32])
    }

    proptest! {
        #[test] // D2: what is cut from the blob passes; any other byte, chunk, length or blob does not
        fn only_the_chunk_that_was_asked_for_passes(
            len in prop_oneof![1_usize..5_000, 1_usize..60_000],
            at in any::<prop::sample::Index>(),
            other in any::<prop::sample::Index>(),
            flip in any::<prop::sample::Index>(),
            bit in 0_u8..8,
        ) {
            let data = bytes(len);
            let blob = BlobRef::of(&data);
            let chunks = len.div_ceil(1_024);
            let (chunk, other) = (at.index(chunks) as u64, other.index(chunks) as u64);
            let good = slice(&data, chunk);
            prop_assert!(is_chunk(&blob, chunk, &good));
            prop_assert_eq!(is_chunk(&blob, other, &good), other == chunk);
            let mut bad = good.clone();
            bad[flip.index(good.len())] ^= 1 << bit;
            prop_assert!(!is_chunk(&blob, chunk, &bad));
            prop_assert!(!is_chunk(&blob, chunk, &good[..good.len() - 1]));
            prop_assert!(!is_chunk(&blob, chunk, &[good.as_slice(), &[0]].concat()));
            prop_assert!(!is_chunk(&BlobRef::of(b"another"), chunk, &good));
            prop_assert!(!is_chunk(&blob, chunks as u64, &good), "behind the end");
        }

        #[test] // K3: whatever a record states and a node answers
        fn nothing_panics(len in any::<u64>(), chunk in any::<u64>(), slice in prop::collection::vec(any::<u8>(), 0..6_000)) {
            let blob = BlobRef { hash: BlobHash([7; 32]), len };
            prop_assert!(!is_chunk(&blob, chunk, &slice));
            prop_assert!(!is_chunk(&blob, chunk % len.max(1).div_ceil(1_024), &slice));
        }

        #[test] // D2: few are asked, each once, for what it keeps, and each for a chunk of its own
        fn keepers_are_asked(seed in any::<[u8; 32]>(), blobs in 0_u8..30, nodes in 0_u8..30) {
            let blobs: BTreeSet<BlobRef> = (0..blobs).map(|i| BlobRef { len: 1 << 40, ..BlobRef::of(&[i]) }).collect();
            let nodes: Vec<NodeId> = (0..nodes).map(node).collect();
            let asked = draw(Beacon(seed), &blobs, &nodes);
            prop_assert!(asked.len() <= 24 && asked.len() <= nodes.len());
            prop_assert_eq!(asked.is_empty(), blobs.is_empty() || nodes.is_empty());
            let (mut who, mut chunks) = (BTreeSet::new(), BTreeSet::new());
            for a in &asked {
                prop_assert!(who.insert(a.node) && chunks.insert(a.chunk), "asked twice, or for another's chunk");
                prop_assert!(blobs.contains(&a.blob) && a.chunk < a.blob.len.div_ceil(CHUNK_BYTES));
                prop_assert!(keepers(a.blob.hash, nodes.iter().copied(), KEEPERS).contains(&a.node));
            }
        }
    }

    #[test] // L2: what is drawn is part of the protocol
    fn the_draw_is_pinned() {
        let blobs: BTreeSet<BlobRef> = (0..5_u8).map(|i| BlobRef { len: 1_000_000, ..BlobRef::of(&[i]) }).collect();
        let nodes: Vec<NodeId> = (0..9).map(node).collect();
        let asked = draw(Beacon([1; 32]), &blobs, &nodes);
        let seen: Vec<(u8, u64)> = asked.iter().map(|a| (a.node.0[0], a.chunk)).collect();
        assert_eq!(seen, [(1, 676), (2, 34), (5, 959), (4, 645), (6, 150), (3, 527), (0, 179), (8, 462)]);
    }

    #[test] // D2: an empty blob has nothing to show
    fn empty_blobs_are_not_asked_for() {
        assert_eq!(draw(Beacon([1; 32]), &BTreeSet::from([BlobRef::of(b"")]), &[node(1)]), []);
    }
}
