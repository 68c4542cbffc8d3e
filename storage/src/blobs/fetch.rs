//! The fetching side: a blob from the first provider that keeps its word (D1).
//!
//! Providers are tried in turn. Each is believed in nothing: the length it states must be the
//! reference's, every 16 KiB must fit the hash, and it must keep sending. What an earlier one sent
//! correctly is kept and not asked for again.

use super::{BlobError, Blobs, endpoint_id, failed, to_iroh};
use crate::blob_addr::{BlobAddr, MAX_SOCKETS};
use iroh::endpoint::Connection;
use iroh::{EndpointAddr, TransportAddr};
use iroh_blobs::HashAndFormat;
use iroh_blobs::get::fsm::{self, AtBlobHeaderNextError, BlobContentNext, ConnectedNext, EndBlobNext};
use iroh_blobs::protocol::{ChunkRanges, GetRequest};
use oda_consensus::ids::{BlobHash, BlobRef, NodeId};
use std::fmt;
use std::num::NonZeroU64;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

/// Items on their way from the network to the disk; each is at most 16 KiB.
const IMPORT_QUEUE_MAX: usize = 32;

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

/// Why a fetch ended without the blob.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The reference states more than the caller takes.
    #[error("blob {} is stated to have {} bytes, at most {max_len} are taken here", .blob.hash, .blob.len)]
    TooLarge {
        /// The reference.
        blob: BlobRef,
        /// The caller's limit in bytes.
        max_len: u64,
    },
    /// The reference states zero bytes for a hash that is not that of nothing.
    #[error("blob {hash} cannot have zero bytes: the reference is wrong")]
    NotEmpty {
        /// The hash.
        hash: BlobHash,
    },
    /// Nobody to ask.
    #[error("no provider of blob {hash} is known: wait for a peer that has it")]
    NoProvider {
        /// The blob.
        hash: BlobHash,
    },
    /// Every provider failed.
    #[error("no provider gave blob {hash}: {}", list(.faults))]
    AllFailed {
        /// The blob.
        hash: BlobHash,
        /// Each provider tried, in order, and what it did wrong.
        faults: Vec<(NodeId, ProviderFault)>,
    },
    /// This node's own store failed; no provider is to blame.
    #[error(transparent)]
    Store(#[from] BlobError),
}

fn list(faults: &[(NodeId, ProviderFault)]) -> impl fmt::Display {
    let named: Vec<String> = faults.iter().map(|(node, fault)| format!("{}: {fault}", node.short())).collect();
    named.join("; ")
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

impl Blobs {
    /// Fetches a blob by the reference a signed record gave (D1) and pins it; done at once if it is
    /// here. `progress` is sent the bytes held so far, and is skipped while its channel is full.
    /// Fetches of one hash wait for each other. A fetch that ends early keeps what it got until the
    /// next collection, so trying again goes on from there.
    ///
    /// # Errors
    /// [`FetchError`]; with [`FetchError::AllFailed`] naming what each provider did.
    pub async fn fetch(
        &self,
        blob: &BlobRef,
        providers: &[BlobAddr],
        max_len: u64,
        progress: Option<mpsc::Sender<u64>>,
    ) -> Result<(), FetchError> {
        if blob.len > max_len {
            return Err(FetchError::TooLarge { blob: *blob, max_len });
        }
        let Some(len) = NonZeroU64::new(blob.len) else {
            if *blob != BlobRef::of(b"") {
                return Err(FetchError::NotEmpty { hash: blob.hash });
            }
            self.add(Vec::new()).await?;
            return Ok(());
        };
        let flight = self.flight(blob.hash);
        let _alone = flight.lock().await;
        // Held until pinned, so that a collection in between takes nothing away.
        let content = HashAndFormat::raw(to_iroh(blob.hash));
        let _held = self.store.tags().temp_tag(content).await.map_err(failed("holding a blob"))?;
        match self.complete_len(blob.hash).await? {
            Some(found) if found == blob.len => return Ok(self.pin(blob.hash).await?),
            Some(found) => return Err(BlobError::WrongLength { blob: *blob, found }.into()),
            None => {}
        }
        let _slot = self.fetch_slots.acquire().await.map_err(failed("waiting for other fetches"))?;
        let mut faults = Vec::new();
        let others = providers.iter().filter(|provider| provider.node != self.node());
        for provider in others.take(self.limits.providers_max) {
            match self.fetch_from(provider, blob.hash, len, progress.as_ref()).await {
                Ok(()) => return Ok(self.pin(blob.hash).await?),
                Err(Attempt::Local(error)) => return Err(error.into()),
                Err(Attempt::Fault(fault)) => {
                    tracing::debug!(blob = %blob.hash.short(), provider = %provider.node.short(), "fetch: {fault}");
                    faults.push((provider.node, fault));
                }
            }
        }
        if faults.is_empty() {
            return Err(FetchError::NoProvider { hash: blob.hash });
        }
        Err(FetchError::AllFailed { hash: blob.hash, faults })
    }

    /// The lock of one hash's fetch.
    fn flight(&self, hash: BlobHash) -> Arc<tokio::sync::Mutex<()>> {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        flights.retain(|_, flight| flight.strong_count() > 0);
        if let Some(flight) = flights.get(&hash).and_then(Weak::upgrade) {
            return flight;
        }
        let flight = Arc::new(tokio::sync::Mutex::new(()));
        flights.insert(hash, Arc::downgrade(&flight));
        flight
    }

    async fn fetch_from(
        &self,
        provider: &BlobAddr,
        hash: BlobHash,
        len: NonZeroU64,
        progress: Option<&mpsc::Sender<u64>>,
    ) -> Result<(), Attempt> {
        let id = endpoint_id(provider.node).ok_or(ProviderFault::BadKey)?;
        let sockets = provider.sockets.iter().take(MAX_SOCKETS).map(|socket| TransportAddr::Ip(*socket));
        let address = EndpointAddr::from_parts(id, sockets);
        let connect = self.router.endpoint().connect(address, iroh_blobs::ALPN);
        let connection = timeout(Duration::from_millis(self.limits.connect_ms_max), connect)
            .await
            .map_err(|_| ProviderFault::Unreachable(format!("no answer within {} ms", self.limits.connect_ms_max)))?
            .map_err(|e| ProviderFault::Unreachable(format!("{e:#}")))?;
        let slowest = match self.limits.fetch_bytes_per_s {
            0 => self.limits.rate_min_bytes_per_s,
            cap => self.limits.rate_min_bytes_per_s.min(cap / 2),
        };
        let rate_ms = len.get().saturating_mul(1_000) / slowest.max(1);
        let spent_ms = rate_ms.saturating_add(self.limits.silence_ms_max);
        let transfer = self.transfer(&connection, hash, len, progress);
        let result = match timeout(Duration::from_millis(spent_ms), transfer).await {
            Ok(result) => result,
            Err(_) => Err(ProviderFault::TooSlow { spent_ms }.into()),
        };
        connection.close(0_u32.into(), b"done");
        result?;
        if self.complete_len(hash).await? != Some(len.get()) {
            return Err(ProviderFault::Broken("the blob is still not complete".into()).into());
        }
        Ok(())
    }

    async fn transfer(
        &self,
        connection: &Connection,
        hash: BlobHash,
        len: NonZeroU64,
        progress: Option<&mpsc::Sender<u64>>,
    ) -> Result<(), Attempt> {
        let broken = |reason: String| ProviderFault::Broken(reason);
        let local = self.store.blobs().observe(to_iroh(hash)).await.map_err(failed("looking up a blob"))?;
        let local_bytes = local.total_bytes();
        let request = GetRequest::blob_ranges(to_iroh(hash), ChunkRanges::all() - local.ranges);
        let start = fsm::start(connection.clone(), request, Default::default());
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
        let import = self.store.blobs().import_bao(to_iroh(hash), len, IMPORT_QUEUE_MAX).await;
        let import = import.map_err(failed("storing a blob"))?;
        let mut content_bytes = 0_u64;
        let begun = Instant::now();
        let end = loop {
            match self.patient(content.next()).await? {
                BlobContentNext::More((next, item)) => {
                    let item = item.map_err(|e| ProviderFault::WrongBytes(e.to_string()))?;
                    let before = content_bytes;
                    content_bytes = next.stats().payload_bytes_read;
                    content = next;
                    if import.tx.send(item).await.is_err() {
                        break None; // the import ended; it says why below
                    }
                    if let Some(progress) = progress.filter(|_| content_bytes > before) {
                        let held = local_bytes.saturating_add(content_bytes);
                        progress.try_send(held.min(len.get())).ok(); // a full channel misses a report, no more
                    }
                    // what is not read is not sent: QUIC's windows slow the provider down
                    if let Some(due_ms) = content_bytes.saturating_mul(1_000).checked_div(self.limits.fetch_bytes_per_s)
                    {
                        sleep_until(begun + Duration::from_millis(due_ms)).await;
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

    /// Waits for the provider's next word, but not for ever.
    async fn patient<T>(&self, step: impl Future<Output = T>) -> Result<T, ProviderFault> {
        let silence_ms = self.limits.silence_ms_max;
        timeout(Duration::from_millis(silence_ms), step).await.map_err(|_| ProviderFault::Silent { silence_ms })
    }
}
