//! Slow work beside the event loops: fetching blobs, replaying claims, training.

use crate::config::Trainer as TrainerOptions;
use crate::full::CoreEvent;
use crate::report::{LiteEvent, Reporter};
use anyhow::{Context, Result};
use oda_consensus::engine::trainer::TrainJob;
use oda_consensus::engine::validator::{JudgeJob, Judged};
use oda_consensus::ids::{BlobRef, ClaimId, ModelId, NodeId};
use oda_consensus::manifest::Manifest;
use oda_consensus::score::{Measurement, Refusal};
use oda_ml::torch::TorchBackend;
use oda_ml::{Dataset, ModelData, RoundSeeds, TrainProgress, cheat, judge};
use oda_storage::{BlobAddr, Blobs};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Duration, timeout};

/// How long a trainer has to serve its delta to one validator (R3).
const DELTA_TIMEOUT: Duration = Duration::from_secs(10);
/// How long head and data may take to arrive.
const DATA_TIMEOUT: Duration = Duration::from_secs(600);
/// Parsed data sets kept in memory.
const MAX_CACHED: usize = 4;

/// What became of a replay.
pub(crate) enum JudgeReport {
    /// Measured.
    Done(Judged),
    /// Not possible now.
    Failed {
        /// Model.
        model: ModelId,
        /// Round.
        round: u64,
        /// Why.
        why: String,
    },
}

/// Runs replays one after the other.
pub(crate) struct Judges {
    blobs: Arc<Blobs>,
    events: mpsc::Sender<CoreEvent>,
    turn: Arc<Semaphore>,
}

impl Judges {
    pub(crate) fn new(blobs: Arc<Blobs>, events: mpsc::Sender<CoreEvent>) -> Self {
        Self { blobs, events, turn: Arc::new(Semaphore::new(1)) }
    }

    pub(crate) fn start(&self, job: JudgeJob, providers: Vec<BlobAddr>) {
        let (blobs, events, turn) = (self.blobs.clone(), self.events.clone(), self.turn.clone());
        tokio::spawn(async move {
            let Ok(_turn) = turn.acquire().await else { return };
            let (model, round) = (job.model, job.round);
            let report = match replay(ReplayInput { job, blobs, providers }).await {
                Ok(judged) => JudgeReport::Done(judged),
                Err(error) => {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    JudgeReport::Failed { model, round, why: format!("{error:#}") }
                }
            };
            let _ = events.send(CoreEvent::Judged(report)).await;
        });
    }
}

/// All a replay needs.
pub struct ReplayInput {
    /// What to replay.
    pub job: JudgeJob,
    /// Where blobs are kept.
    pub blobs: Arc<Blobs>,
    /// Who may have those that are missing.
    pub providers: Vec<BlobAddr>,
}

/// Fetches a blob unless it is here, and reads it (D1: hash and size are the ledger's).
async fn obtain(blobs: &Blobs, blob: BlobRef, providers: &[BlobAddr], wait: Duration, progress: Option<mpsc::Sender<u64>>) -> Result<Vec<u8>> {
    timeout(wait, blobs.fetch(&blob, providers, blob.len, progress)).await.context("took too long")??;
    Ok(blobs.get(&blob).await?)
}

static CACHE: Mutex<BTreeMap<ModelId, Arc<ModelData>>> = Mutex::new(BTreeMap::new());

/// The parsed data of a model; fetched and parsed once per process.
async fn model_data(model: ModelId, manifest: &Manifest, blobs: &Blobs, providers: &[BlobAddr], reporter: Option<&Arc<Reporter>>) -> Result<Arc<ModelData>> {
    if let Some(data) = CACHE.lock().unwrap_or_else(PoisonError::into_inner).get(&model) {
        return Ok(data.clone());
    }
    let d = &manifest.data;
    let named = [
        ("training images", d.train.images),
        ("training labels", d.train.labels),
        ("evaluation images", d.eval.images),
        ("evaluation labels", d.eval.labels),
        ("test images", d.test.images),
        ("test labels", d.test.labels),
    ];
    let mut files = Vec::new();
    for (what, blob) in named {
        let progress = reporter.map(|r| fetch_progress(r.clone(), what, blob.len));
        files.push(obtain(blobs, blob, providers, DATA_TIMEOUT, progress).await.with_context(|| format!("fetching {what}"))?);
    }
    let manifest = manifest.clone();
    let data = tokio::task::spawn_blocking(move || -> Result<ModelData> {
        let mut files = files.iter();
        let mut split = |split: &oda_consensus::manifest::Split| -> Result<Dataset> {
            let (images, labels) = (files.next().context("images")?, files.next().context("labels")?);
            Ok(Dataset::from_idx(images, labels, split.samples)?)
        };
        let d = &manifest.data;
        Ok(ModelData { train: split(&d.train)?, eval: split(&d.eval)?, test: split(&d.test)? })
    })
    .await??;
    let data = Arc::new(data);
    let mut cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    if cache.len() >= MAX_CACHED {
        cache.pop_first();
    }
    cache.insert(model, data.clone());
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
