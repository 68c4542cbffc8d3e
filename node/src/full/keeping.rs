//! Lets a full node keep its share of the network's blobs, beside the event loop (D2).
//!
//! The loop only says who was heard of; reading the ledger for what is needed, ranking and fetching happen in one task
//! that nobody waits for. That other nodes know this one is here is a signed record that is made anew every minute: one
//! that grows old means that its node has left.

use super::{Core, Shared};
use crate::clock::now_ms;
use crate::custody::{Bounds, Census, Keeper, Pace, Peers};
use crate::net::Topic;
use crate::peers::{PeerBook, announced, signed_anew};
use oda_consensus::codec;
use oda_consensus::wire::Role;
use oda_storage::{BlobAddr, Blobs};
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Duration, Instant};

/// How often this node says anew that it is here.
const SAY_EVERY_MS: u64 = 60_000;
/// The same if others reach it elsewhere by now.
const MOVED_EVERY_MS: u64 = 5_000;
/// A node not heard of for so long has left. Three records may get lost.
const LEFT_AFTER_MS: u64 = 240_000;
/// How often the keeper hears who is there.
const TELL_EVERY_MS: u64 = 5_000;

/// The event loop's end of it.
pub(super) struct Keeping {
    peers: watch::Sender<Arc<Peers>>,
    said: Instant,
    told: Option<Instant>,
    task: AbortHandle,
}

impl Drop for Keeping {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Keeping {
    pub(super) fn start(shared: Arc<Shared>, blobs: Arc<Blobs>, replicas: usize) -> Self {
        let (peers, heard) = watch::channel(Arc::<Peers>::default());
        let pace = Pace::default();
        let keeper = Keeper::new(blobs.clone(), replicas, pace);
        let task = tokio::spawn(keep(keeper, pace, shared, blobs, heard)).abort_handle();
        Self { peers, said: Instant::now(), told: None, task }
    }
}

async fn keep(
    mut keeper: Keeper,
    pace: Pace,
    shared: Arc<Shared>,
    blobs: Arc<Blobs>,
    heard: watch::Receiver<Arc<Peers>>,
) {
    loop {
        tokio::time::sleep(Duration::from_millis(pace.every_ms)).await;
        let read = shared.clone();
        let census = tokio::task::spawn_blocking(move || Census::of(&read.state(), &Bounds::default()));
        let Ok(census) = census.await else { return }; // the node is stopping
        let peers = heard.borrow().clone();
        let report = keeper.turn(Arc::new(census), peers).await;
        shared.set_custody(blobs.usage(), report);
    }
}

/// Whether a node serves blobs to its own machine only.
fn is_local(addr: &BlobAddr) -> bool {
    addr.sockets.iter().all(|socket| socket.ip().is_loopback())
}

/// Full nodes that were heard of lately, and where they serve blobs. One that serves its own machine only keeps nothing
/// for nodes on others.
fn present(book: &PeerBook, me: &BlobAddr, now_ms: u64) -> Peers {
    let is_recent = |seq_ms: u64| now_ms.saturating_sub(seq_ms) < LEFT_AFTER_MS;
    let records = book.all().map(|signed| &signed.record);
    let others = records.filter(|r| r.role == Role::Full && r.node != me.node && is_recent(r.seq_ms));
    let reached = others.filter_map(crate::peers::blob_addr).filter(|addr| is_local(me) || !is_local(addr));
    reached.map(|addr| (addr.node, addr)).collect()
}

impl Core {
    /// Now and then: says that this node is here, and tells the keeper who else is.
    pub(super) fn keep_blobs(&mut self) {
        let since = |at: Instant| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX);
        let said_ms = since(self.keeping.said);
        // where it can be reached may change while it runs (N1)
        let moved = said_ms >= MOVED_EVERY_MS && self.record.record.p2p != announced(&self.net);
        if said_ms >= SAY_EVERY_MS || moved {
            self.keeping.said = Instant::now();
            self.record.record.p2p = announced(&self.net);
            self.record = signed_anew(&self.record, &self.key, self.chain);
            self.book.insert(self.record.clone(), now_ms());
            self.net.publish(Topic::Peers, codec::encode(&self.record));
        }
        if self.keeping.told.is_none_or(|at| since(at) >= TELL_EVERY_MS) {
            self.keeping.told = Some(Instant::now());
            self.keeping.peers.send_replace(Arc::new(present(&self.book, &self.blobs.addr(), now_ms())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oda_consensus::ids::{ChainId, NodeId};
    use oda_consensus::keys::NodeKey;
    use oda_consensus::wire::{PeerRecord, SignedPeerRecord};

    fn at(node: NodeId, socket: &str) -> BlobAddr {
        BlobAddr { node, sockets: vec![socket.parse().unwrap()] }
    }

    #[test] // D2: who left, who only trains and who serves nothing keeps nothing
    fn only_full_nodes_heard_of_lately_count() {
        let chain = ChainId([1; 32]);
        let mut book = PeerBook::new(chain);
        let keys: Vec<NodeKey> = (1..=5).map(|n| NodeKey::from_secret(&[n; 32])).collect();
        let now = LEFT_AFTER_MS * 2;
        let cases = [
            (Role::Full, now, vec!["127.0.0.1:9"]),
            (Role::Full, now - LEFT_AFTER_MS + 1, vec!["127.0.0.1:9"]),
            (Role::Full, now - LEFT_AFTER_MS, vec!["127.0.0.1:9"]),
            (Role::Lite, now, vec!["127.0.0.1:9"]),
            (Role::Full, now, vec![]),
        ];
        for (key, (role, seq_ms, blobs)) in keys.iter().zip(cases) {
            let blobs = blobs.into_iter().map(String::from).collect();
            let node = key.id();
            let record = PeerRecord { node, seq_ms, role, blobs, p2p: vec![], lightning: None, submissions: None };
            assert_eq!(book.insert(SignedPeerRecord::new(record, key, chain), now), Some(true));
        }
        let there: Vec<NodeId> = present(&book, &at(NodeId([9; 32]), "127.0.0.1:9"), now).into_keys().collect();
        let mut expected = vec![keys[0].id(), keys[1].id()];
        expected.sort();
        assert_eq!(there, expected);
        let own = at(keys[0].id(), "127.0.0.1:9");
        assert_eq!(present(&book, &own, now).len(), 1, "this node is no peer of its own");
        let elsewhere = at(NodeId([9; 32]), "203.0.113.7:9");
        assert_eq!(present(&book, &elsewhere, now), Peers::new(), "nobody there can be reached from another machine");
        // made anew, the record of one that was silent counts again
        let old = book.all().find(|r| r.record.node == keys[2].id()).unwrap().clone();
        let anew = signed_anew(&old, &keys[2], chain);
        assert!(anew.is_authentic(chain) && anew.record.seq_ms > now);
        assert_eq!(PeerRecord { seq_ms: old.record.seq_ms, ..anew.record }, old.record);
    }
}
