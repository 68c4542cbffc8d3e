//! One fetch over the network: up to so many providers at once, each believed in nothing (D1).
//!
//! The length a provider states must be the reference's, every 16 KiB must fit the hash, and it must keep sending. What
//! one sent correctly is kept and not asked for again, from whomever.

use super::shares::{Next, Shares, Turn, bytes_of};
use super::standing::Mark;
use super::{BlobError, Blobs, endpoint_id, failed, to_iroh};
use crate::blob_addr::{BlobAddr, MAX_SOCKETS};
use iroh::endpoint::Connection;
use iroh::{EndpointAddr, TransportAddr};
use iroh_blobs::get::fsm::{self, AtBlobHeaderNextError, BlobContentNext, ConnectedNext, EndBlobNext};
use iroh_blobs::protocol::{ChunkRanges, GetRequest};
use oda_consensus::ids::{BlobHash, NodeId};
use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

/// Items on their way from the network to the disk, for each provider; each is at most 16 KiB.
const IMPORT_QUEUE_MAX: usize = 32;
/// How long a worker that has nothing to do sleeps at most before it looks again.
const IDLE_MS_MAX: u64 = 1_000;

/// What one provider did wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProviderFault {
    /// Its name is no key.
    #[error("its name is not an ed25519 key")]
    BadKey,
    /// No connection: down, unreachable, busy, or the key does not fit.
    #[error("no connection: {0}")]
    Unreachable(String),
    /// It does not have the blob.
    #[error("it does not have the blob")]
    NotFound,
    /// It states another length than the signed reference (D1).
    #[error("it states {stated} bytes, the reference says {expected}")]
    WrongLength {
        /// What it states.
        stated: u64,
        /// What the reference says.
        expected: u64,
    },
    /// It sent bytes that do not fit the hash (D1).
    #[error("it sent wrong bytes: {0}")]
    WrongBytes(String),
    /// It stopped sending.
    #[error("it sent nothing for {silence_ms} ms")]
    Silent {
        /// How long it was waited for.
        silence_ms: u64,
    },
    /// It sent too slowly.
    #[error("it was too slow: not done after {spent_ms} ms")]
    TooSlow {
        /// How long it was waited for.
        spent_ms: u64,
    },
    /// The transfer broke off.
    #[error("the transfer broke off: {0}")]
    Broken(String),
}

/// How a fetch over the network ended.
pub(super) enum Ended {
    /// Everything is here.
    Complete,
    /// Each provider tried, in the order it was given, and what it did wrong.
    Faults(Vec<(NodeId, ProviderFault)>),
}

enum Attempt {
    Fault(ProviderFault),
    Local(BlobError),
}

impl From<ProviderFault> for Attempt {
    fn from(fault: ProviderFault) -> Self {
        Attempt::Fault(fault)
    }
}

impl From<BlobError> for Attempt {
    fn from(error: BlobError) -> Self {
        Attempt::Local(error)
    }
}

/// What the workers of one fetch share.
struct Job {
    blobs: Blobs,
    hash: BlobHash,
    len: NonZeroU64,
    begun: Instant,
    work: Mutex<Work>,
    changed: Notify,
    progress: Option<mpsc::Sender<u64>>,
}

struct Work {
    shares: Shares,
    /// Who has not been asked, with their place in the order given.
    candidates: VecDeque<(usize, BlobAddr)>,
    faults: Vec<(usize, NodeId, ProviderFault)>,
    /// Who was asked on each turn.
    asked: BTreeMap<Turn, NodeId>,
    /// Bytes on disk when it began, and bytes that arrived since.
    held_bytes: u64,
    come_bytes: u64,
}

impl Blobs {
    /// Fetches what is missing of a blob. Providers that failed lately are asked last.
    pub(super) async fn transfer(
        &self,
        hash: BlobHash,
        len: NonZeroU64,
        providers: Vec<BlobAddr>,
        progress: Option<mpsc::Sender<u64>>,
    ) -> Result<Ended, BlobError> {
        let local = self.store.blobs().observe(to_iroh(hash)).await.map_err(failed("looking up a blob"))?;
        let held_bytes = local.total_bytes();
        let missing = ChunkRanges::all() - local.ranges;
        let now = Instant::now();
        let mut ordered: Vec<(Mark, usize, BlobAddr)> = {
            let standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
            let all = providers.into_iter().enumerate();
            all.map(|(place, provider)| (standing.of(provider.node, now), place, provider)).collect()
        };
        ordered.sort_by_key(|(mark, place, _)| (*mark, *place));
        // whoever failed lately is asked when the others have failed too, and not beside them
        let good = ordered.iter().filter(|(mark, ..)| *mark == Mark::Good).count();
        // one provider fills a line that is throttled on purpose
        let most = if self.limits.fetch_bytes_per_s > 0 { 1 } else { self.limits.parallel_max };
        let workers = good.min(most).max(1);
        let shares = Shares::new(&missing, len.get(), workers, self.limits.takeover_ms);
        let candidates = ordered.into_iter().map(|(_, place, provider)| (place, provider)).collect();
        let work = Work { shares, candidates, faults: Vec::new(), asked: BTreeMap::new(), held_bytes, come_bytes: 0 };
        let job = Arc::new(Job {
            blobs: self.clone(),
            hash,
            len,
            begun: now,
            work: Mutex::new(work),
            changed: Notify::new(),
            progress,
        });
        // dropped with its tasks: a fetch that is given up leaves nothing running
        let mut tasks = JoinSet::new();
        for _ in 0..workers {
            tasks.spawn(job.clone().worker());
        }
        while let Some(ended) = tasks.join_next().await {
            ended.map_err(failed("fetching a blob"))??;
            if job.work().shares.is_over() {
                break; // whoever is still sending sends what is here
            }
        }
        drop(tasks);
        job.note_silent();
        if self.complete_len(hash).await? == Some(len.get()) {
            return Ok(Ended::Complete);
        }
        let mut faults = std::mem::take(&mut job.work().faults);
        if faults.is_empty() {
            let reason = "all parts came, and the blob is not complete".into();
            return Err(BlobError::Store { doing: "storing a blob", reason });
        }
        faults.sort_by_key(|(place, ..)| *place);
        Ok(Ended::Faults(faults.into_iter().map(|(_, node, fault)| (node, fault)).collect()))
    }
}

impl Job {
    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks one provider after another for parts until all are here or nobody is left.
    async fn worker(self: Arc<Self>) -> Result<(), BlobError> {
        while let Some((turn, ranges)) = self.turn().await {
            let candidate = self.work().candidates.pop_front();
            let Some((place, provider)) = candidate else {
                self.give_back(turn);
                return Ok(());
            };
            match self.ask(&provider, turn, ranges).await {
                Ok(()) => return Ok(()),
                Err(Attempt::Local(error)) => return Err(error),
                Err(Attempt::Fault(fault)) => {
                    let (hash, node) = (self.hash.short(), provider.node);
                    tracing::debug!(blob = %hash, provider = %node.short(), "fetch: {fault}");
                    let mut standing = self.blobs.standing.lock().unwrap_or_else(PoisonError::into_inner);
                    standing.note(node, &fault, Instant::now());
                    drop(standing);
                    self.work().faults.push((place, node, fault));
                }
            }
        }
        Ok(())
    }

    /// Whoever was silent when the others were done is remembered, as if it had been waited for.
    fn note_silent(&self) {
        let (work, now) = (self.work(), Instant::now());
        let silence_ms = self.blobs.limits.takeover_ms;
        let mut standing = self.blobs.standing.lock().unwrap_or_else(PoisonError::into_inner);
        for node in work.shares.silent(now).iter().filter_map(|turn| work.asked.get(turn)) {
            standing.note(*node, &ProviderFault::Silent { silence_ms }, now);
        }
    }

    /// The next part to fetch, once there is one; none when all are here.
    async fn turn(&self) -> Option<(Turn, ChunkRanges)> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable(); // before looking, or a change in between is missed
            let now = Instant::now();
            let next = self.work().shares.next(now);
            let idle = now + Duration::from_millis(IDLE_MS_MAX);
            let due = match next {
                Next::Over => return None,
                Next::Take(turn, ranges) => return Some((turn, ranges)),
                Next::Wait(due) => due.map_or(idle, |due| due.min(idle)),
            };
            tokio::select! {
                () = changed => {}
                () = sleep_until(due) => {}
            }
        }
    }

    fn give_back(&self, turn: Turn) {
        self.work().shares.given_back(turn);
        self.changed.notify_waiters();
    }

    /// Fetches parts from one provider until none is left or it fails; then the part is anyone's again.
    async fn ask(&self, provider: &BlobAddr, first: Turn, ranges: ChunkRanges) -> Result<(), Attempt> {
        let connection = match self.connect(provider).await {
            Ok(connection) => connection,
            Err(fault) => {
                self.give_back(first);
                return Err(fault.into());
            }
        };
        let mut next = Some((first, ranges));
        while let Some((turn, ranges)) = next {
            self.work().asked.insert(turn, provider.node);
            if let Err(attempt) = self.part(&connection, turn, ranges).await {
                self.give_back(turn);
                connection.close(0_u32.into(), b"done");
                return Err(attempt);
            }
            self.work().shares.done(turn, Instant::now());
            self.changed.notify_waiters();
            next = self.turn().await;
        }
        connection.close(0_u32.into(), b"done");
        Ok(())
    }

    async fn connect(&self, provider: &BlobAddr) -> Result<Connection, ProviderFault> {
        let limits = &self.blobs.limits;
        let id = endpoint_id(provider.node).ok_or(ProviderFault::BadKey)?;
        let sockets = provider.sockets.iter().take(MAX_SOCKETS).map(|socket| TransportAddr::Ip(*socket));
        let address = EndpointAddr::from_parts(id, sockets);
        let connect = self.blobs.router.endpoint().connect(address, iroh_blobs::ALPN);
        timeout(Duration::from_millis(limits.connect_ms_max), connect)
            .await
            .map_err(|_| ProviderFault::Unreachable(format!("no answer within {} ms", limits.connect_ms_max)))?
            .map_err(|e| ProviderFault::Unreachable(format!("{e:#}")))
    }

    /// One part, in the time the slowest provider allowed would take.
    async fn part(&self, connection: &Connection, turn: Turn, ranges: ChunkRanges) -> Result<(), Attempt> {
        let limits = &self.blobs.limits;
        let slowest = match limits.fetch_bytes_per_s {
            0 => limits.rate_min_bytes_per_s,
            cap => limits.rate_min_bytes_per_s.min(cap / 2),
        };
        let rate_ms = bytes_of(&ranges, self.len.get()).saturating_mul(1_000) / slowest.max(1);
        let spent_ms = rate_ms.saturating_add(limits.silence_ms_max);
        let received = self.receive(connection, turn, ranges, spent_ms);
        match timeout(Duration::from_millis(spent_ms), received).await {
            Ok(result) => result,
            Err(_) => Err(ProviderFault::TooSlow { spent_ms }.into()),
        }
    }

    async fn receive(
        &self,
        connection: &Connection,
        turn: Turn,
        ranges: ChunkRanges,
        spent_ms: u64,
    ) -> Result<(), Attempt> {
        let broken = |reason: String| ProviderFault::Broken(reason);
        let (hash, len, blobs) = (to_iroh(self.hash), self.len, self.blobs.store.blobs());
        // what another provider sent of it meanwhile is not asked for again
        let local = blobs.observe(hash).await.map_err(failed("looking up a blob"))?;
        let missing = ranges - local.ranges;
        if missing.is_empty() {
            return Ok(());
        }
        let start = fsm::start(connection.clone(), GetRequest::blob_ranges(hash, missing), Default::default());
        let connected = self.patient(start.next()).await?.map_err(|e| broken(e.to_string()))?;
        let ConnectedNext::StartRoot(root) =
            self.patient(connected.next()).await?.map_err(|e| broken(e.to_string()))?
        else {
            return Err(broken("nothing was asked for".into()).into());
        };
        let (mut content, stated) = self.patient(root.next().next()).await?.map_err(|e| match e {
            AtBlobHeaderNextError::NotFound { .. } => ProviderFault::NotFound,
            e => broken(e.to_string()),
        })?;
        if stated != len.get() {
            // D1: before anything is stored; a stated length also bounds what the decoder will read.
            return Err(ProviderFault::WrongLength { stated, expected: len.get() }.into());
        }
        let import = blobs.import_bao(hash, len, IMPORT_QUEUE_MAX).await.map_err(failed("storing a blob"))?;
        let mut content_bytes = 0_u64;
        let end = loop {
            match self.patient(content.next()).await? {
                BlobContentNext::More((next, item)) => {
                    let item = item.map_err(|e| ProviderFault::WrongBytes(e.to_string()))?;
                    let more_bytes = next.stats().payload_bytes_read.saturating_sub(content_bytes);
                    content_bytes = content_bytes.saturating_add(more_bytes);
                    content = next;
                    if import.tx.send(item).await.is_err() {
                        break None; // the import ended; it says why below
                    }
                    let Some(come_bytes) = self.arrived(turn, more_bytes) else {
                        return Err(ProviderFault::TooSlow { spent_ms }.into());
                    };
                    // what is not read is not sent: QUIC's windows slow the providers down
                    let cap = self.blobs.limits.fetch_bytes_per_s;
                    if let Some(due_ms) = come_bytes.saturating_mul(1_000).checked_div(cap) {
                        sleep_until(self.begun + Duration::from_millis(due_ms)).await;
                    }
                }
                BlobContentNext::Done(end) => break Some(end),
            }
        };
        drop(import.tx);
        import.rx.await.map_err(failed("storing a blob"))?.map_err(failed("storing a blob"))?;
        match end.map(|end| end.next()) {
            Some(EndBlobNext::Closing(_)) => Ok(()),
            Some(EndBlobNext::MoreChildren(_)) => Err(broken("it started a second blob".into()).into()),
            None => Err(BlobError::Store { doing: "storing a blob", reason: "the import ended early".into() }.into()),
        }
    }

    /// Books what came and reports it. None: another provider was faster with this part. Else what came from all.
    fn arrived(&self, turn: Turn, more_bytes: u64) -> Option<u64> {
        let mut work = self.work();
        let is_wanted = work.shares.stirred(turn, Instant::now());
        work.come_bytes = work.come_bytes.saturating_add(more_bytes);
        if let Some(progress) = self.progress.as_ref().filter(|_| more_bytes > 0) {
            let held = work.held_bytes.saturating_add(work.come_bytes).min(self.len.get());
            progress.try_send(held).ok(); // a full channel misses a report, no more
        }
        is_wanted.then_some(work.come_bytes)
    }

    /// Waits for the provider's next word, but not for ever.
    async fn patient<T>(&self, step: impl Future<Output = T>) -> Result<T, ProviderFault> {
        let silence_ms = self.blobs.limits.silence_ms_max;
        timeout(Duration::from_millis(silence_ms), step).await.map_err(|_| ProviderFault::Silent { silence_ms })
    }
}
