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
use oda_ml::cheat::{self, Cheat};
use oda_ml::judge::{self, Round, Submitted};
use oda_ml::torch::Torch;
use oda_ml::{Backend as _, Dataset, ModelData, delta, weights};
use oda_storage::{BlobAddr, Blobs};
use rand_core::RngCore as _;
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
async fn obtain(
    blobs: &Blobs,
    blob: BlobRef,
    providers: &[BlobAddr],
    wait: Duration,
    progress: Option<mpsc::Sender<u64>>,
) -> Result<Vec<u8>> {
    timeout(wait, blobs.fetch(&blob, providers, blob.len, progress)).await.context("took too long")??;
    Ok(blobs.get(&blob).await?)
}

static CACHE: Mutex<BTreeMap<ModelId, Arc<ModelData>>> = Mutex::new(BTreeMap::new());

/// The parsed data of a model; fetched and parsed once per process.
async fn model_data(
    model: ModelId,
    manifest: &Manifest,
    blobs: &Blobs,
    providers: &[BlobAddr],
    reporter: Option<&Arc<Reporter>>,
) -> Result<Arc<ModelData>> {
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
        files.push(
            obtain(blobs, blob, providers, DATA_TIMEOUT, progress).await.with_context(|| format!("fetching {what}"))?,
        );
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

/// Replays a round: fetches what is missing, measures, keeps the candidate head.
///
/// # Errors
/// If head or data cannot be had or do not fit; never because of a delta.
pub async fn replay(input: ReplayInput) -> Result<Judged> {
    let ReplayInput { job, blobs, providers } = input;
    let data = model_data(job.model, &job.manifest, &blobs, &providers, None).await?;
    let parent = obtain(&blobs, job.parent, &providers, DATA_TIMEOUT, None).await.context("fetching the head")?;
    // all at once: one that is not served must not make the others wait (R3)
    let max_bytes = job.manifest.judging.max_delta_bytes;
    let fetches = job.claims.iter().map(|(claim, trainer, delta)| {
        let (blobs, providers) = (&blobs, &providers);
        async move {
            let submitted = match delta {
                None => Submitted::NotRevealed,
                Some(blob) if blob.len > max_bytes => Submitted::Refused(Refusal::Oversize),
                Some(blob) => match obtain(blobs, *blob, providers, DELTA_TIMEOUT, None).await {
                    Ok(bytes) => Submitted::Bytes(bytes),
                    Err(error) => {
                        tracing::info!(claim = %claim.short(), error = format!("{error:#}"), "delta not served");
                        Submitted::Refused(Refusal::NotServed)
                    }
                },
            };
            (*claim, *trainer, submitted)
        }
    });
    let mut claims: Vec<(ClaimId, NodeId, Submitted)> = futures::future::join_all(fetches).await;
    claims.sort_by_key(|(claim, ..)| *claim);
    let (model, round, sealed, attempt) = (job.model, job.round, job.sealed, job.attempt);
    let (names, submitted): (Vec<_>, Vec<_>) =
        claims.into_iter().map(|(claim, trainer, s)| ((claim, trainer), (trainer, s))).unzip();
    let result = tokio::task::spawn_blocking(move || {
        let r = Round { manifest: &job.manifest, model, round, start: job.start, sealed, parent: &parent, data: &data };
        judge::replay(&Torch, &r, &submitted)
    })
    .await??;
    if let Some(candidate) = result.candidate {
        blobs.add(candidate).await.context("keeping the new head")?;
    }
    let measured = names
        .into_iter()
        .zip(result.measured)
        .map(|((claim, trainer), m): (_, Measurement)| (claim, trainer, m))
        .collect();
    Ok(Judged { model, round, sealed, attempt, measured, head: result.head })
}

/// Trains for a round and stores the compressed delta; its reference, and the gain on the own shard.
///
/// # Errors
/// If head or data cannot be had, or training fails.
pub async fn train(
    job: TrainJob,
    me: NodeId,
    options: TrainerOptions,
    blobs: Arc<Blobs>,
    providers: Vec<BlobAddr>,
    reporter: Arc<Reporter>,
) -> Result<(BlobRef, i64)> {
    let data = model_data(job.model, &job.manifest, &blobs, &providers, Some(&reporter)).await?;
    let progress = fetch_progress(reporter.clone(), "head", job.head.len);
    let head = obtain(&blobs, job.head, &providers, DATA_TIMEOUT, Some(progress)).await.context("fetching the head")?;
    let (bytes, gain) =
        tokio::task::spawn_blocking(move || work(&job, me, &options, &data, &head, &reporter)).await??;
    Ok((blobs.add(bytes).await.context("storing the delta")?, gain))
}

/// The training itself; blocks.
fn work(
    job: &TrainJob,
    me: NodeId,
    options: &TrainerOptions,
    data: &ModelData,
    head: &[u8],
    reporter: &Reporter,
) -> Result<(Vec<u8>, i64)> {
    let (m, t) = (&job.manifest, &job.manifest.training);
    oda_ml::torch::set_threads(options.threads.max(1));
    let head = weights::from_bytes(m, head)?;
    let mut seed = [0; 32];
    rand_core::OsRng.fill_bytes(&mut seed);
    let own = judge::shard(m, job.model, job.round, job.start, me);
    let (mut shard, mut steps, mut sign) = (own.clone(), t.inner_steps, 1.0);
    if options.cheat {
        let cheat = Cheat::of_round(job.round);
        tracing::info!(?cheat, round = job.round, "cheating");
        if let Some(bytes) = cheat::malformed(cheat, m) {
            return Ok((bytes, 1_000_000));
        }
        match cheat {
            Cheat::Random => return Ok((delta::encode(&cheat::random(head.len(), 0.02, seed), t), 1_000_000)),
            Cheat::Poison => sign = -1.0,
            Cheat::Lazy => steps = 1,
            _ => shard = judge::shard(m, job.model, job.round, job.start, NodeId(seed)),
        }
    }
    let round = job.round;
    let mut watch = |s: oda_ml::torch::Step| {
        if s.step % 10 == 0 || s.step == s.steps {
            reporter.lite(&LiteEvent::Train { round, step: s.step, steps: s.steps, loss: s.loss });
        }
    };
    let stop = std::sync::atomic::AtomicBool::new(false);
    let mut dense = oda_ml::torch::train(m, &head, &data.train, &shard, steps, seed, &stop, &mut watch)?;
    dense.iter_mut().for_each(|v| *v *= sign);
    let bytes = delta::encode(&dense, t);
    let sparse = delta::decode(&bytes, head.len(), t, &m.judging)
        .map_err(|why| anyhow::anyhow!("the own delta would be refused: {why:?}"))?;
    let before = Torch.measure(m, &head, &data.train, &own)?.losses_unat;
    let after = Torch.measure(m, &sparse.applied(&head, 1.0), &data.train, &own)?.losses_unat;
    let gain = oda_consensus::score::Paired::of(&before, &after).map_or(0, |p| p.mean_unat());
    Ok((bytes, gain))
}
