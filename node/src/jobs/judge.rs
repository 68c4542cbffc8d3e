//! Replays on a validator, and for whoever verifies one.

use super::{DATA_TIMEOUT, model_data, obtain};
use crate::full::CoreEvent;
use crate::full::deltas::{Delta, PullError, Puller};
use anyhow::{Context, Result};
use oda_consensus::engine::validator::{JudgeJob, Judged};
use oda_consensus::ids::{ModelId, NodeId};
use oda_consensus::score::Refusal;
use oda_ml::judge::{self, Claim, Round, Submitted};
use oda_ml::torch::Torch;
use oda_storage::{BlobAddr, Blobs};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Duration, Instant, timeout_at};

/// How long a trainer has to serve its delta to one validator (R3).
const DELTA_TIMEOUT: Duration = Duration::from_secs(10);
/// How long those who serve blobs have for it before the trainer is asked over its own connection.
const HEAD_START: Duration = Duration::from_millis(1_500);

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
    puller: Puller,
    /// What is wanted of each model: a replay that waited for its turn and is not wanted any more is not done.
    wanted: Arc<Mutex<BTreeMap<ModelId, (u64, u32)>>>,
}

impl Judges {
    pub(crate) fn new(blobs: Arc<Blobs>, events: mpsc::Sender<CoreEvent>, puller: Puller) -> Self {
        Self { blobs, events, turn: Arc::new(Semaphore::new(1)), puller, wanted: Arc::default() }
    }

    pub(crate) fn start(&self, job: JudgeJob, providers: Vec<BlobAddr>) {
        let (blobs, events, turn) = (self.blobs.clone(), self.events.clone(), self.turn.clone());
        let (wanted, puller) = (self.wanted.clone(), Some(self.puller.clone()));
        let (model, round) = (job.model, job.round);
        wanted.lock().unwrap_or_else(PoisonError::into_inner).insert(model, (round, job.attempt));
        tokio::spawn(async move {
            let Ok(_turn) = turn.acquire().await else { return };
            let latest = wanted.lock().unwrap_or_else(PoisonError::into_inner).get(&model).copied();
            if latest != Some((round, job.attempt)) {
                return;
            }
            let report = match replay(ReplayInput { job, blobs, providers, puller, delta_timeout: DELTA_TIMEOUT }).await
            {
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
    /// Asks trainers over the connections they opened themselves, in a round.
    pub puller: Option<Puller>,
    /// How long to wait for a delta. In a round late is not served (R3); afterwards there is time to ask everyone.
    pub delta_timeout: Duration,
}

/// Replays a round: fetches what is missing, measures, keeps the candidate head.
///
/// # Errors
/// If head or data cannot be had or do not fit; never because of a delta.
pub async fn replay(input: ReplayInput) -> Result<Judged> {
    let ReplayInput { job, blobs, providers, puller, delta_timeout } = input;
    let data = model_data(job.model, &job.manifest, &blobs, &providers, job.guard_key.as_ref(), None).await?;
    let parent = obtain(&blobs, job.parent, &providers, DATA_TIMEOUT, None).await.context("fetching the head")?;
    // all at once: one that is not served must not make the others wait (R3)
    let max_bytes = job.manifest.judging.max_delta_bytes;
    let trainers: BTreeSet<NodeId> = job.claims.iter().map(|(_, trainer, _)| *trainer).collect();
    let trainers = &trainers;
    let asked = |claim, trainer, blob| Delta { claim, trainer, blob };
    let fetches = job.claims.iter().map(|(claim, trainer, reveal)| {
        let (blobs, puller) = (&blobs, &puller);
        // other trainers have none of it, and waiting for one that cannot be reached takes all the time there is
        let providers: Vec<BlobAddr> =
            providers.iter().filter(|p| p.node == *trainer || !trainers.contains(&p.node)).cloned().collect();
        async move {
            let submitted = match reveal {
                None => Submitted::NotRevealed,
                Some(r) if r.delta.len > max_bytes => Submitted::Refused(Refusal::Oversize),
                Some(r) => {
                    match delta(blobs, &providers, puller.as_ref(), asked(*claim, *trainer, r.delta), delta_timeout)
                        .await
                    {
                        Ok(bytes) => Submitted::Delta { bytes, stated_unat: r.stated_gain_unat },
                        Err(error) => {
                            tracing::info!(claim = %claim.short(), error = format!("{error:#}"), "delta not served");
                            Submitted::Refused(Refusal::NotServed)
                        }
                    }
                }
            };
            Claim { id: *claim, trainer: *trainer, submitted }
        }
    });
    let claims: Vec<Claim> = futures::future::join_all(fetches).await;
    let (model, round, sealed, attempt) = (job.model, job.round, job.sealed, job.attempt);
    let result = tokio::task::spawn_blocking(move || {
        let r = Round { manifest: &job.manifest, model, round, start: job.start, sealed, parent: &parent, data: &data };
        judge::replay(&Torch::default(), &r, claims)
    })
    .await??;
    if let Some(candidate) = result.candidate {
        blobs.add(candidate).await.context("keeping the new head")?;
    }
    Ok(Judged { model, round, sealed, attempt, measured: result.measured })
}

/// A delta, from whoever serves it or, a little later, from its trainer over the connection it opened itself (N2).
///
/// # Errors
/// If neither gave it in time.
pub async fn delta(
    blobs: &Blobs,
    providers: &[BlobAddr],
    puller: Option<&Puller>,
    delta: Delta,
    wait: Duration,
) -> Result<Vec<u8>> {
    let served = obtain(blobs, delta.blob, providers, wait, None);
    let Some(puller) = puller else { return served.await };
    let deadline = Instant::now() + wait;
    let handed = async {
        tokio::time::sleep(HEAD_START).await;
        timeout_at(deadline, puller.pull(&delta)).await.unwrap_or(Err(PullError::TooSlow))
    };
    tokio::pin!(served, handed);
    tokio::select! {
        bytes = &mut served => match bytes {
            Ok(bytes) => Ok(bytes),
            Err(error) => match handed.await {
                Ok(()) => Ok(blobs.get(&delta.blob).await?),
                Err(_) => Err(error),
            },
        },
        came = &mut handed => match came {
            Ok(()) => Ok(blobs.get(&delta.blob).await?),
            Err(_) => served.await,
        },
    }
}
