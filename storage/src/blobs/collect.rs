//! When unpinned blobs are removed: now and then, and at once when room is needed.
//!
//! The store collects by itself, but only by the clock, and says neither when it has begun nor when it is done. Its
//! loop asks a callback before each run; that callback is where this one waits, so it is also told: another call means
//! that the run before has ended.

use super::{BlobError, Blobs, failed};
use iroh_blobs::Hash;
use iroh_blobs::store::{GcConfig, ProtectCb, ProtectOutcome};
use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

/// How long a run may take before whoever waits for room gives up.
const RUN_MS_MAX: u64 = 60_000;

#[derive(Debug)]
pub(super) struct Collector {
    every_ms: u64,
    wanted: Arc<Notify>,
    turns: watch::Sender<Turns>,
}

/// How often the store's loop came round.
#[derive(Debug, Clone, Copy, Default)]
struct Turns {
    ended: u64,
    is_running: bool,
}

type Answer<'a> = Pin<Box<dyn Future<Output = ProtectOutcome> + Send + Sync + 'a>>;

/// Names the type that the store wants, which a closure alone is not inferred to have.
fn callback(wait: impl for<'a> Fn(&'a mut HashSet<Hash>) -> Answer<'a> + Send + Sync + 'static) -> ProtectCb {
    Arc::new(wait)
}

impl Collector {
    pub(super) fn new(every_ms: u64) -> Self {
        // the first call comes before any run
        Self { every_ms: every_ms.max(1), wanted: Arc::default(), turns: watch::Sender::default() }
    }

    /// What the store is opened with.
    pub(super) fn config(&self) -> GcConfig {
        let (wanted, turns) = (self.wanted.clone(), self.turns.clone());
        let every = Duration::from_millis(self.every_ms);
        let wait = callback(move |_| {
            let (wanted, turns) = (wanted.clone(), turns.clone());
            Box::pin(async move {
                turns.send_modify(|t| {
                    t.ended = t.ended.saturating_add(u64::from(t.is_running));
                    t.is_running = false;
                });
                let _asked_or_due = timeout(every, wanted.notified()).await;
                turns.send_modify(|t| t.is_running = true);
                ProtectOutcome::Continue
            })
        });
        GcConfig { interval: Duration::from_millis(1), add_protected: Some(wait) }
    }

    /// How many runs have ended.
    pub(super) fn ended(&self) -> u64 {
        self.turns.borrow().ended
    }
}

impl Blobs {
    /// Removes what nothing pins, and waits until it is gone.
    ///
    /// # Errors
    /// [`BlobError::Store`] if the store does not get it done.
    pub async fn collect(&self) -> Result<(), BlobError> {
        let mut turns = self.collector.turns.subscribe();
        // a run under way may have looked at the pins before the caller changed them
        let enough = {
            let now = turns.borrow_and_update();
            now.ended.saturating_add(1 + u64::from(now.is_running))
        };
        self.collector.wanted.notify_one();
        timeout(Duration::from_millis(RUN_MS_MAX), turns.wait_for(|t| t.ended >= enough))
            .await
            .map_err(failed("collecting blobs"))?
            .map_err(failed("collecting blobs"))?;
        self.count().await
    }
}
