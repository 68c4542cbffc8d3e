//! Which blobs this node keeps, so that each one the ledger needs has several keepers (D2).
//!
//! The obvious way, somebody who assigns blobs to nodes, needs that somebody to be right, awake and believed. Here
//! nobody is told anything: every full node ranks all full nodes it has heard of lately by BLAKE3(node, blob), and who
//! stands among the first k keeps the blob. All who have heard of the same nodes come to the same answer; when a node
//! falls silent its place goes to the next in each order, and no other blob moves (rendezvous hashing, Thaler and
//! Ravishankar 1998).
//!
//! [`decide`] is a pure function; [`Keeper`] carries it out.

mod census;
mod keeper;

pub use census::{Bounds, Census, Kind, Live};
pub use keeper::{Keeper, Pace, Peers, Report};

use oda_consensus::custody::{KEEPERS, keepers};
use oda_consensus::ids::{BlobHash, BlobRef, NodeId};
use std::collections::BTreeSet;

/// Most blobs one decision asks for (K3); the rest waits for the next.
const WANTED_MAX: usize = 1_024;

/// What a decision is made from.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// This node.
    pub me: NodeId,
    /// Other full nodes heard of lately.
    pub peers: &'a BTreeSet<NodeId>,
    /// What the ledger needs, and what it needs no longer.
    pub census: &'a Census,
    /// Blobs that are here, whole.
    pub have: &'a BTreeSet<BlobHash>,
    /// Nodes that should keep each blob.
    pub replicas: usize,
    /// Disk allowed, bytes; 0: any.
    pub quota_bytes: u64,
}

/// A blob this node should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The blob, as a signed record states it (D1).
    pub blob: BlobRef,
    /// Who else should have it: asked first.
    pub keepers: Vec<NodeId>,
}

/// What follows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// To be fetched, in this order.
    pub fetch: Vec<Wanted>,
    /// Here, and needed by the ledger: stays whatever happens.
    pub keep: Vec<BlobHash>,
    /// Here, and needed no longer: may go when room is needed, in this order.
    pub spare: Vec<BlobHash>,
    /// Live blobs whose keeper this node is.
    pub assigned: usize,
    /// Of these, how many are not here.
    pub missing: usize,
    /// Of these, how many do not fit the disk allowed.
    pub no_room: usize,
}

/// Decides what to fetch, what to keep and what may go. What the ledger needs and is here is kept, whoever its keepers
/// are: the others may not have it yet.
pub fn decide(q: &Question<'_>) -> Decision {
    let mut out = Decision::default();
    let kept = |live: &&Live| q.have.contains(&live.blob.hash);
    let held_bytes = q.census.live.values().filter(kept).map(|live| live.cost_bytes()).fold(0, u64::saturating_add);
    let mut room_bytes = if q.quota_bytes == 0 { u64::MAX } else { q.quota_bytes.saturating_sub(held_bytes) };
    // heads before data: a network without its head stops, and heads are small
    let mut live: Vec<&Live> = q.census.live.values().collect();
    live.sort_by_key(|live| (live.kind, live.blob));
    for live in live {
        let is_here = q.have.contains(&live.blob.hash);
        if is_here {
            out.keep.push(live.blob.hash);
        }
        if live.kind == Kind::Delta {
            continue; // whoever judges fetches it; it is over soon
        }
        let nodes = q.peers.iter().copied().chain([q.me]);
        let mut kept_by = keepers(live.blob.hash, nodes, q.replicas);
        // validators keep copies among themselves too: the ledger asks them for it (storage challenges)
        let validators = keepers(live.blob.hash, q.census.validators.iter().copied(), KEEPERS);
        kept_by.extend(validators.into_iter().filter(|v| !kept_by.contains(v)).collect::<Vec<_>>());
        if !kept_by.contains(&q.me) {
            continue;
        }
        out.assigned = out.assigned.saturating_add(1);
        if is_here {
            continue;
        }
        out.missing = out.missing.saturating_add(1);
        let Some(left_bytes) = room_bytes.checked_sub(live.cost_bytes()) else {
            out.no_room = out.no_room.saturating_add(1);
            continue;
        };
        room_bytes = left_bytes;
        if out.fetch.len() < WANTED_MAX {
            let keepers = kept_by.into_iter().filter(|node| *node != q.me).collect();
            out.fetch.push(Wanted { blob: live.blob, keepers });
        }
    }
    let may_go = |hash: &&BlobHash| q.have.contains(*hash) && !q.census.live.contains_key(*hash);
    out.spare = q.census.past.iter().filter(may_go).copied().collect();
    out
}

#[cfg(test)]
mod tests;
