//! The fetching side: a blob by its signed reference, from providers that keep their word (D1).
//!
//! What is decided before anyone is asked: whether it is here, whether it fits, whose turn it is. Who then sends which
//! part is decided in `shares`, and what is believed of it in `transfer`.

use super::transfer::{Ended, ProviderFault};
use super::{BlobError, Blobs, failed, to_iroh};
use crate::blob_addr::BlobAddr;
use iroh_blobs::HashAndFormat;
use oda_consensus::ids::{BlobHash, BlobRef, NodeId};
use std::fmt;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, Weak};
use tokio::sync::{Notify, mpsc};

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
    /// Only for quiet fetches: others are under way, and go first.
    #[error("other fetches go first")]
    GaveWay,
    /// This node's own store failed; no provider is to blame.
    #[error(transparent)]
    Store(#[from] BlobError),
}

fn list(faults: &[(NodeId, ProviderFault)]) -> impl fmt::Display {
    let named: Vec<String> = faults.iter().map(|(node, fault)| format!("{}: {fault}", node.short())).collect();
    named.join("; ")
}

/// Fetches somebody waits for, so that the quiet one gives way.
#[derive(Debug, Default)]
pub(super) struct Hurry {
    urgent: AtomicUsize,
    begun: Notify,
}

struct Urgent<'a>(&'a Hurry);

impl Hurry {
    fn urgent(&self) -> Urgent<'_> {
        self.urgent.fetch_add(1, Ordering::SeqCst);
        Urgent(self)
    }
}

impl Drop for Urgent<'_> {
    fn drop(&mut self) {
        self.0.urgent.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Blobs {
    /// Fetches a blob by the reference a signed record gave (D1), from several providers at once if it is large, and
    /// pins it; done at once if it is here. `progress` is sent the bytes held so far, and is skipped while its channel
    /// is full. Fetches of one hash wait for each other. A fetch that ends early keeps what it got until the next
    /// collection, so trying again goes on from there.
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
        let _urgent = self.hurry.urgent();
        if blob.len > 0 && self.complete_len(blob.hash).await?.is_none() {
            // a quiet fetch of the same blob holds its lock, one of another the line
            self.hurry.begun.notify_waiters();
        }
        self.obtain(blob, providers, max_len, progress).await
    }

    /// [`Blobs::fetch`] for what nobody waits for: one at a time, not while other fetches run, and broken off when one
    /// begins; what has come is kept, so trying again goes on from there.
    ///
    /// # Errors
    /// [`FetchError`]; [`FetchError::GaveWay`] if others go first.
    pub async fn fetch_quietly(&self, blob: &BlobRef, providers: &[BlobAddr], max_len: u64) -> Result<(), FetchError> {
        let _alone = self.quiet.try_acquire().map_err(|_| FetchError::GaveWay)?;
        let hurry = self.hurry.begun.notified();
        tokio::pin!(hurry);
        hurry.as_mut().enable(); // before looking, or a fetch that begins in between is missed
        if self.hurry.urgent.load(Ordering::SeqCst) > 0 {
            return Err(FetchError::GaveWay);
        }
        tokio::select! {
            () = hurry => Err(FetchError::GaveWay),
            result = self.obtain(blob, providers, max_len, None) => result,
        }
    }

    async fn obtain(
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
        let others = providers.iter().filter(|provider| provider.node != self.node());
        let others: Vec<BlobAddr> = others.take(self.limits.providers_max).cloned().collect();
        if others.is_empty() {
            return Err(FetchError::NoProvider { hash: blob.hash });
        }
        let room = self.make_room(blob).await?;
        let _slot = self.fetch_slots.acquire().await.map_err(failed("waiting for other fetches"))?;
        match self.transfer(blob.hash, len, others, progress).await? {
            Ended::Complete => {
                self.pin(blob.hash).await?;
                room.filled();
                Ok(())
            }
            Ended::Faults(faults) => Err(FetchError::AllFailed { hash: blob.hash, faults }),
        }
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
}
