//! Slow work beside the event loops: fetching blobs, replaying claims, training.

mod judge;
mod train;

pub(crate) use judge::{JudgeReport, Judges};
pub use judge::{ReplayInput, delta, replay};
pub use train::{Trained, Training};

use crate::report::{LiteEvent, Reporter};
use anyhow::{Context, Result};
use oda_consensus::ids::{BlobRef, ModelId};
use oda_consensus::manifest::{Manifest, Split};
use oda_consensus::sealed::{GuardKey, open_split};
use oda_ml::{Dataset, ModelData};
use oda_storage::{BlobAddr, Blobs};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;
use tokio::time::{Duration, timeout};

/// How long head and data may take to arrive.
const DATA_TIMEOUT: Duration = Duration::from_secs(600);
/// Open data sets kept.
const MAX_CACHED: usize = 4;

/// Fetches a blob unless it is here (D1: hash and size are the ledger's).
async fn fetch(
    blobs: &Blobs,
    blob: BlobRef,
    providers: &[BlobAddr],
    wait: Duration,
    progress: Option<mpsc::Sender<u64>>,
) -> Result<()> {
    Ok(timeout(wait, blobs.fetch(&blob, providers, blob.len, progress)).await.context("took too long")??)
}

/// Fetches a blob unless it is here, and reads it.
pub(crate) async fn obtain(
    blobs: &Blobs,
    blob: BlobRef,
    providers: &[BlobAddr],
    wait: Duration,
    progress: Option<mpsc::Sender<u64>>,
) -> Result<Vec<u8>> {
    fetch(blobs, blob, providers, wait, progress).await?;
    Ok(blobs.get(&blob).await?)
}

/// By model, and whether its sealed guards are open.
static CACHE: Mutex<BTreeMap<(ModelId, bool), Arc<ModelData>>> = Mutex::new(BTreeMap::new());

/// The data of a model, fetched and opened once per process; samples are read from disk as they are needed. Sealed
/// guards are opened with the key, in memory; without one they are left out (S3).
async fn model_data(
    model: ModelId,
    manifest: &Manifest,
    blobs: &Blobs,
    providers: &[BlobAddr],
    key: Option<&GuardKey>,
    reporter: Option<&Arc<Reporter>>,
) -> Result<Arc<ModelData>> {
    let kept = (model, key.is_some());
    if let Some(data) = CACHE.lock().unwrap_or_else(PoisonError::into_inner).get(&kept) {
        return Ok(data.clone());
    }
    let open = async |what: &'static str, split: &Split| -> Result<Dataset> {
        let progress = reporter.map(|r| fetch_progress(r.clone(), what, split.blob.len));
        fetch(blobs, split.blob, providers, DATA_TIMEOUT, progress)
            .await
            .with_context(|| format!("fetching {what}"))?;
        let path = blobs.file(&split.blob).await?;
        let (shape, samples) = (manifest.architecture.sample(), split.samples);
        let opened = tokio::task::spawn_blocking(move || Dataset::open(&path, shape, samples)).await?;
        opened.with_context(|| format!("reading {what}"))
    };
    let d = &manifest.data;
    let (train, eval, test) = (
        open("training data", &d.train).await?,
        open("evaluation data", &d.eval).await?,
        open("test data", &d.test).await?,
    );
    let mut guards = Vec::new();
    for guard in &d.guards {
        guards.push(match (guard.sealed, key) {
            (None, _) => Some(open("a guard slice", &guard.split).await?),
            (Some(_), None) => None,
            (Some(plain), Some(key)) => {
                let hidden = obtain(blobs, guard.split.blob, providers, DATA_TIMEOUT, None).await;
                let hidden = hidden.context("fetching a sealed guard")?;
                let (key, shape, samples) = (key.clone(), manifest.architecture.sample(), guard.split.samples);
                let opened = tokio::task::spawn_blocking(move || -> Result<Dataset> {
                    Ok(Dataset::from_bytes(open_split(&key, &hidden, plain)?, shape, samples)?)
                });
                Some(opened.await?.with_context(|| format!("opening the sealed guard `{}`", guard.name))?)
            }
        });
    }
    let data = Arc::new(ModelData { train, eval, test, guards });
    let mut cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    if cache.len() >= MAX_CACHED {
        cache.pop_first();
    }
    cache.insert(kept, data.clone());
    Ok(data)
}

fn fetch_progress(reporter: Arc<Reporter>, what: &'static str, total: u64) -> mpsc::Sender<u64> {
    let (tx, mut rx) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Some(done) = rx.recv().await {
            reporter.lite(&LiteEvent::Fetch { what: what.into(), done, total });
        }
    });
    tx
}
