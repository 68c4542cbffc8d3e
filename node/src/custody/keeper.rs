//! Carries out what [`super::decide`] says: one quiet fetch at a time, and nothing is deleted for its own sake (D2).
//!
//! Nobody waits for these fetches, so they never stand in the way of one somebody waits for: they run when no other
//! does, and stop when one begins. What failed is tried again after a while, and others first.

use super::{Census, Decision, Question, Wanted, decide};
use oda_consensus::ids::{BlobHash, NodeId};
use oda_storage::{BlobAddr, Blobs, FetchError};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::time::{Duration, Instant, timeout};

/// Providers asked for one blob.
const PROVIDERS_MAX: usize = 16;
/// Blobs waited for that are remembered (K3).
const WAITING_MAX: usize = 1 << 16;

/// How fast a keeper goes about it.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Between two decisions.
    pub every_ms: u64,
    /// How long a blob has to be wanted before it is fetched: a new head is made here soon, or peers become known.
    pub patience_ms: u64,
    /// After how long a blob nobody gave is asked for again.
    pub retry_ms: u64,
    /// Longest time for one fetch.
    pub fetch_ms_max: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self { every_ms: 15_000, patience_ms: 30_000, retry_ms: 60_000, fetch_ms_max: 1_800_000 }
    }
}

/// Full nodes heard of lately, with where they serve blobs; this one left out.
pub type Peers = BTreeMap<NodeId, BlobAddr>;

/// What a turn came to, for people and plots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Blobs here that the ledger needs.
    pub kept: usize,
    /// Live blobs this node should keep.
    pub assigned: usize,
    /// Of these, how many are not here.
    pub missing: usize,
    /// Of these, how many do not fit `max_disk_mb`.
    pub no_room: usize,
    /// Blobs here that may go when room is needed.
    pub spare: usize,
    /// Full nodes heard of lately, this one among them.
    pub nodes: usize,
    /// Fetched since the start.
    pub fetched: u64,
}

/// The keeping side of one node.
#[derive(Debug)]
pub struct Keeper {
    blobs: Arc<Blobs>,
    replicas: usize,
    pace: Pace,
    /// When each wanted blob may be fetched.
    due: BTreeMap<BlobHash, Instant>,
    fetched: u64,
}

impl Keeper {
    /// Keeps blobs in this store.
    pub fn new(blobs: Arc<Blobs>, replicas: usize, pace: Pace) -> Self {
        Self { blobs, replicas, pace, due: BTreeMap::new(), fetched: 0 }
    }

    /// One decision, and the fetches that follow from it, until one has to give way.
    pub async fn turn(&mut self, census: Arc<Census>, peers: Arc<Peers>) -> Report {
        let mut decision = self.decide(&census, &peers).await;
        self.blobs.set_spare(std::mem::take(&mut decision.spare));
        self.remember(&decision.fetch);
        for wanted in &decision.fetch {
            if self.due.get(&wanted.blob.hash).is_some_and(|due| *due > Instant::now()) {
                continue;
            }
            let providers = providers(wanted, &peers);
            let fetch = self.blobs.fetch_quietly(&wanted.blob, &providers, wanted.blob.len);
            let why = match timeout(Duration::from_millis(self.pace.fetch_ms_max), fetch).await {
                Ok(Ok(())) => {
                    tracing::debug!(blob = %wanted.blob.hash.short(), "a replica is kept");
                    self.fetched = self.fetched.saturating_add(1);
                    self.due.remove(&wanted.blob.hash);
                    continue;
                }
                Ok(Err(FetchError::GaveWay)) => break,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "took too long".into(),
            };
            tracing::debug!(blob = %wanted.blob.hash.short(), why, "a replica could not be fetched");
            self.due.insert(wanted.blob.hash, Instant::now() + Duration::from_millis(self.pace.retry_ms));
        }
        let after = self.decide(&census, &peers).await;
        Report {
            kept: after.keep.len(),
            assigned: after.assigned,
            missing: after.missing,
            no_room: after.no_room,
            spare: after.spare.len(),
            nodes: peers.len().saturating_add(1),
            fetched: self.fetched,
        }
    }

    /// Ranking thousands of nodes for thousands of blobs takes a while: not on the threads that serve.
    async fn decide(&self, census: &Arc<Census>, peers: &Arc<Peers>) -> Decision {
        let (census, peers, blobs) = (census.clone(), peers.clone(), self.blobs.clone());
        let replicas = self.replicas;
        let decided = tokio::task::spawn_blocking(move || {
            let nodes: BTreeSet<NodeId> = peers.keys().copied().collect();
            let (have, quota_bytes) = (blobs.held(), blobs.usage().quota_bytes);
            let me = blobs.node();
            decide(&Question { me, peers: &nodes, census: &census, have: &have, replicas, quota_bytes })
        });
        decided.await.unwrap_or_default() // only at shutdown: nothing is decided then
    }

    /// Notes when what is newly wanted may be fetched, and forgets what no longer is.
    fn remember(&mut self, wanted: &[Wanted]) {
        let hashes: BTreeSet<BlobHash> = wanted.iter().map(|w| w.blob.hash).take(WAITING_MAX).collect();
        self.due.retain(|hash, _| hashes.contains(hash));
        let first = Instant::now() + Duration::from_millis(self.pace.patience_ms);
        for hash in hashes {
            self.due.entry(hash).or_insert(first);
        }
    }
}

/// Who is asked: those who should have it, then everyone.
fn providers(wanted: &Wanted, peers: &Peers) -> Vec<BlobAddr> {
    let first = wanted.keepers.iter().filter_map(|node| peers.get(node));
    let rest = peers.iter().filter(|(node, _)| !wanted.keepers.contains(node)).map(|(_, addr)| addr);
    first.chain(rest).take(PROVIDERS_MAX).cloned().collect()
}
