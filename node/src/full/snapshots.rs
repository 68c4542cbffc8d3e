//! Snapshots of the ledger: made for whoever begins, and taken by a node that does (L4, D3).
//!
//! Making one every few blocks would cost every node a scan of its whole log for nobody. So one is made when somebody
//! asks and the last is old, at most one a minute, and the newest two are kept as blobs. A node that begins looks for one
//! before it asks for blocks; if no peer has any, it replays, as it would without.

use super::sync::LACKING;
use super::{Core, CoreEvent, StoreReader};
use crate::config;
use crate::ledger::LedgerReader as _;
use crate::snapshot::{MAX_SNAPSHOT_BYTES, Own, Records, Search, find, install, write};
use anyhow::{Context, Result, anyhow};
use oda_consensus::codec;
use oda_consensus::ids::NodeId;
use oda_consensus::snapshot::SnapshotOffer;
use oda_consensus::state::CheckpointState;
use oda_consensus::tx::Header;
use oda_consensus::wire::{DecidedBlock, Request, Response};
use oda_storage::{Blobs, LedgerStore as _, RecordStore as _, RocksLedger};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;

/// Snapshots kept for others (K3).
const KEPT: usize = 2;
/// A snapshot so many blocks below the newest attested one is made anew when somebody asks. Half of what a pruning node
/// keeps at least, so that the blocks above it are to be had.
const STALE_BLOCKS: u64 = config::Ledger::MIN_KEEP_BLOCKS / 2;
/// Least time from one making to the next.
const MAKE_EVERY: Duration = Duration::from_secs(60);
/// A node so far behind takes a snapshot rather than the blocks, if it may.
const FAR_BLOCKS: u64 = 10_000;
/// How long a node with connected peers looks before it replays blocks instead.
const PATIENCE: Duration = Duration::from_secs(60);
/// From giving up to looking again.
const REST: Duration = Duration::from_secs(600);
/// From one search to the next, while peers are still making theirs.
const SEARCH_EVERY: Duration = Duration::from_secs(2);
/// How long a peer that lied is sent away.
const BAN: Duration = Duration::from_secs(600);
/// Private records with the snapshots this node has, newest first.
const OFFERS: [&[u8]; KEPT] = [b"snapshot/0", b"snapshot/1"];

/// What a node has for others, and what it looks for itself.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    /// Newest first, at most [`KEPT`].
    offers: Vec<SnapshotOffer>,
    is_making: bool,
    /// When the last making began.
    tried: Option<Instant>,
    /// The owner allows to begin with one.
    may_take: bool,
    is_wanted: bool,
    is_searching: bool,
    /// Since when there are peers to ask.
    since: Option<Instant>,
    searched: Option<Instant>,
    /// When the last search was given up.
    gave_up: Option<Instant>,
}

impl Snapshots {
    pub(super) fn open(ledger: &RocksLedger, options: &config::Ledger) -> Self {
        let stored = OFFERS.iter().filter_map(|key| ledger.get(key).ok().flatten());
        let offers = stored.filter_map(|bytes| codec::decode(&bytes).ok()).collect();
        let may_take = options.snapshot_sync;
        Self { offers, may_take, is_wanted: may_take && ledger.tip().is_none(), ..Self::default() }
    }

    /// Whether blocks are not asked for, because something better may come.
    pub(super) fn is_seeking(&self) -> bool {
        self.is_wanted || self.is_searching
    }

    /// A snapshot would help: peers have pruned what comes next, say. Not again soon after nobody had one, or blocks
    /// would never be asked for.
    pub(super) fn want(&mut self, now: Instant) {
        let rested = self.gave_up.is_none_or(|at| now.duration_since(at) >= REST);
        self.is_wanted = self.is_wanted || (self.may_take && rested);
    }

    /// A peer says where its ledger stands; if it lies, a search finds nothing.
    pub(super) fn heard(&mut self, mine: u64, theirs: u64, now: Instant) {
        if theirs.saturating_sub(mine) >= FAR_BLOCKS {
            self.want(now);
        }
    }
}

impl Core {
    /// What this node has for a peer that begins; if that is old, a newer one is made for the next who asks.
    pub(super) fn offer_snapshot(&mut self) -> Option<SnapshotOffer> {
        let newest = self.shared.state().checkpoints().next_back().cloned();
        let at = self.snapshots.offers.first().map(|offer| offer.header.height);
        let rested = self.snapshots.tried.is_none_or(|at| at.elapsed() >= MAKE_EVERY);
        if let Some(newest) = newest.filter(|_| rested && !self.snapshots.is_making) {
            let height = newest.checkpoint.height;
            if at.is_none_or(|at| at.saturating_add(STALE_BLOCKS) <= height) {
                self.make_snapshot(newest);
            }
        }
        self.snapshots.offers.first().cloned()
    }

    fn make_snapshot(&mut self, newest: CheckpointState) {
        (self.snapshots.is_making, self.snapshots.tried) = (true, Some(Instant::now()));
        let (reader, blobs, events) = (StoreReader(self.store.clone()), self.blobs.clone(), self.events.clone());
        let path = self.datadir.join("snapshot.part");
        tokio::spawn(async move {
            let made = make(reader, &blobs, newest, path).await;
            if let Err(error) = &made {
                tracing::warn!(error = format!("{error:#}"), "no snapshot was made");
            }
            let _ = events.send(CoreEvent::SnapshotMade(made.ok().map(Box::new))).await;
        });
    }

    pub(super) fn on_snapshot_made(&mut self, offer: Option<SnapshotOffer>) -> Result<()> {
        self.snapshots.is_making = false;
        let Some(offer) = offer else { return Ok(()) };
        tracing::info!(height = offer.header.height, bytes = offer.blob.len, "snapshot made");
        self.keep_offer(offer)
    }

    /// Remembers a snapshot this node has; the oldest goes.
    fn keep_offer(&mut self, offer: SnapshotOffer) -> Result<()> {
        self.snapshots.offers.retain(|old| old.blob != offer.blob);
        self.snapshots.offers.insert(0, offer);
        while self.snapshots.offers.len() > KEPT {
            let Some(old) = self.snapshots.offers.pop() else { break };
            let blobs = self.blobs.clone();
            tokio::spawn(async move {
                if let Err(error) = blobs.unpin(old.blob.hash).await {
                    tracing::warn!(%error, "an old snapshot was not removed");
                }
            });
        }
        let written: Vec<_> = self.snapshots.offers.iter().map(codec::encode).collect();
        for (key, bytes) in OFFERS.iter().zip(written) {
            self.ledger_mut().put(key, &bytes).context("writing down a snapshot")?;
        }
        Ok(())
    }

    /// Looks for a snapshot among the connected peers, if one is wanted and no search runs.
    pub(super) fn seek_snapshot(&mut self) {
        let s = &self.snapshots;
        if !s.is_wanted || s.is_searching || s.searched.is_some_and(|at| at.elapsed() < SEARCH_EVERY) {
            return;
        }
        let mut peers = self.net.connected();
        if peers.is_empty() {
            return;
        }
        // who votes where its ledger stands is not behind
        let is_late = self.snapshots.since.is_some_and(|since| since.elapsed() >= PATIENCE);
        if is_late || self.votes_now() {
            tracing::info!("no snapshot to begin with; fetching blocks");
            (self.snapshots.is_wanted, self.snapshots.since) = (false, None);
            self.snapshots.gave_up = Some(Instant::now());
            return;
        }
        let now = Instant::now();
        (self.snapshots.searched, self.snapshots.is_searching) = (Some(now), true);
        self.snapshots.since.get_or_insert(now);
        let turn = usize::try_from(crate::clock::now_ms() / 1_000).unwrap_or(0);
        let len = peers.len();
        peers.rotate_left(turn % len);
        self.search_snapshot(peers);
    }

    fn search_snapshot(&self, peers: Vec<NodeId>) {
        let (genesis, own) = {
            let state = self.shared.state();
            let log = (state.log().len(), state.log().root());
            (state.genesis().clone(), Own { height: state.tip().height, log })
        };
        let addresses = self.book.providers_among(&[], &peers);
        let (net, blobs, events) = (self.net.clone(), self.blobs.clone(), self.events.clone());
        tokio::spawn(async move {
            let ask = |peer: NodeId, request: Request| {
                let net = net.clone();
                async move {
                    let bytes = net.request(peer, codec::encode(&request)).await.ok()?;
                    codec::decode::<Response>(&bytes).ok()
                }
            };
            let get = |offer: SnapshotOffer, from: Vec<NodeId>| {
                let providers: Vec<_> = addresses.iter().filter(|a| from.contains(&a.node)).cloned().collect();
                let blobs = blobs.clone();
                async move {
                    let blob = offer.blob;
                    blobs.fetch(&blob, &providers, MAX_SNAPSHOT_BYTES, None).await.map_err(|e| e.to_string())?;
                    blobs.file(&blob).await.map_err(|e| e.to_string())
                }
            };
            let search = find(&genesis, own, &peers, ask, get).await.unwrap_or_else(|error| {
                tracing::warn!(error = format!("{error:#}"), "looking for a snapshot failed");
                Search::default()
            });
            let _ = events.send(CoreEvent::SnapshotSearched(Box::new(search))).await;
        });
    }

    pub(super) fn on_snapshot_searched(&mut self, search: Search) -> Result<()> {
        self.snapshots.is_searching = false;
        for (peer, why) in search.liars {
            tracing::warn!(peer = %peer.short(), why, "peer offered a false snapshot; banned");
            self.net.ban(peer, BAN);
        }
        match search.found {
            Some((offer, path)) => self.take_snapshot(offer, &path),
            None => Ok(()),
        }
    }

    /// The ledger begins anew with a snapshot that was checked. An error here is this node's own: it stops, and begins
    /// with an empty ledger when it is started again.
    fn take_snapshot(&mut self, offer: SnapshotOffer, path: &Path) -> Result<()> {
        (self.snapshots.is_wanted, self.snapshots.since) = (false, None);
        let (genesis, mine) = {
            let state = self.shared.state();
            (state.genesis().clone(), state.tip().height)
        };
        let height = offer.header.height;
        if height <= mine {
            return Ok(());
        }
        let installed = install(&mut *self.ledger_mut(), genesis, offer.header, Records::open(path)?);
        let state = installed.context("writing the ledger of a snapshot")?;
        tracing::info!(height, records = offer.header.records, "the ledger begins with a snapshot");
        // nothing of the old position is of use
        (self.tried, self.bft, self.syncing_from) = (None, None, None);
        self.opened.clear();
        self.timers.cancel(|_| true);
        self.shared.replace(state);
        self.mempool.prune(&self.shared.state(), &[]);
        let _ = self.shared.blocks.send(height);
        self.lacking.retain(|_, since| since.elapsed() < LACKING);
        self.keep_offer(offer)?;
        self.timers.insert(Instant::now(), super::Timer::StartHeight);
        self.state_changed()
    }
}

/// Makes the snapshot of an attested block and keeps it as a blob.
async fn make(reader: StoreReader, blobs: &Blobs, newest: CheckpointState, path: PathBuf) -> Result<SnapshotOffer> {
    let file = path.clone();
    let written = tokio::task::spawn_blocking(move || {
        let header = header(&reader, newest.checkpoint.height)?;
        anyhow::Ok(SnapshotOffer { blob: write(&reader, &header, &file)?, header, checkpoint: newest })
    });
    let offer = written.await??;
    let added = blobs.add_file(&path, &offer.blob).await.context("keeping a snapshot");
    let _ = std::fs::remove_file(&path);
    added.map(|()| offer)
}

fn header(reader: &StoreReader, height: u64) -> Result<Header> {
    if let Some(bytes) = reader.header(height).map_err(|e| anyhow!(e))? {
        return Ok(codec::decode(&bytes)?);
    }
    let bytes = reader.block(height).map_err(|e| anyhow!(e))?.context("the attested block is below this ledger")?;
    Ok(codec::decode::<DecidedBlock>(&bytes)?.block.header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test] // N1: however far ahead peers claim to be, blocks are asked for in the end
    fn a_search_that_found_nothing_rests() {
        let now = Instant::now();
        let mut s = Snapshots { may_take: true, ..Snapshots::default() };
        s.heard(5, 5 + FAR_BLOCKS - 1, now);
        assert!(!s.is_seeking(), "not far");
        s.heard(5, 5 + FAR_BLOCKS, now);
        assert!(s.is_seeking());
        (s.is_wanted, s.gave_up) = (false, Some(now));
        s.heard(5, u64::MAX, now);
        s.want(now);
        assert!(!s.is_seeking(), "it gave up just now");
        s.want(now + REST);
        assert!(s.is_seeking());
        let mut never = Snapshots::default();
        never.heard(0, u64::MAX, now);
        never.want(now);
        assert!(!never.is_seeking(), "its owner does not allow it");
    }
}
