//! Training on a lite node.

use super::{DATA_TIMEOUT, fetch_progress, model_data, obtain};
use crate::config::Trainer as TrainerOptions;
use crate::lite::limits::{Ended, Pace, Valve};
use crate::report::{LiteEvent, Reporter};
use anyhow::{Context, Result, bail, ensure};
use oda_consensus::delta;
use oda_consensus::engine::trainer::TrainJob;
use oda_consensus::ids::{BlobRef, ModelId, NodeId};
use oda_consensus::manifest::WorkMode;
use oda_consensus::sample;
use oda_consensus::score::Paired;
use oda_ml::cheat::{self, Cheat};
use oda_ml::compress::{ErrorFeedback, compress};
use oda_ml::torch::{Torch, set_threads};
use oda_ml::train::be_nice;
use oda_ml::{Backend as _, Dataset, Inner, MlError, ModelData, Work, judge, weights};
use oda_storage::{BlobAddr, Blobs};
use rand_core::RngCore as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Standard errors, in thousandths, that a trainer in free mode leaves between what it measured and what
/// it states, beside those the judges subtract: they measure on another sample.
const STATED_MARGIN_MILLI: u32 = 2_330;

/// What a trainer trains with.
pub struct Training {
    /// Own name: the shard follows from it.
    pub me: NodeId,
    /// Settings.
    pub options: TrainerOptions,
    /// Threads for training.
    pub threads: u32,
    /// Blobs of this node.
    pub blobs: Arc<Blobs>,
    /// Who may have what is missing.
    pub providers: Vec<BlobAddr>,
    /// Where progress is told.
    pub reporter: Arc<Reporter>,
    /// Where the optimiser's state is kept from round to round.
    pub dir: PathBuf,
    /// What the training may take of the machine.
    pub valve: Arc<Valve>,
    /// Ends it.
    pub stop: Arc<AtomicBool>,
}

/// A delta's bytes, and the gain that its trainer states, micro-nats.
type Made = (Vec<u8>, i64);

/// What became of a training.
#[derive(Debug, Default)]
pub struct Trained {
    /// The compressed delta and the gain to state.
    pub done: Option<(BlobRef, i64)>,
    /// Why it was ended early.
    pub ended: Option<Ended>,
    /// How long a step took, microseconds.
    pub step_us: Option<u64>,
}

impl Training {
    /// Trains for a round and stores the compressed delta.
    ///
    /// # Errors
    /// If head or data cannot be had, or training fails.
    pub async fn run(self, job: TrainJob) -> Result<Trained> {
        let (blobs, reporter) = (&self.blobs, &self.reporter);
        let data = model_data(job.model, &job.manifest, blobs, &self.providers, None, Some(reporter)).await?;
        let progress = fetch_progress(reporter.clone(), "head", job.head.len);
        let head = obtain(blobs, job.head, &self.providers, DATA_TIMEOUT, Some(progress))
            .await
            .context("fetching the head")?;
        let blobs = self.blobs.clone();
        // on a thread of its own: its low priority must not stay with the runtime's threads
        let work = move || {
            std::thread::scope(|scope| {
                let trained = scope.spawn(|| {
                    be_nice();
                    self.work(&job, &data, &head)
                });
                trained.join().unwrap_or_else(|_| bail!("training panicked"))
            })
        };
        let (made, mut trained) = tokio::task::spawn_blocking(work).await??;
        if let Some((bytes, gain)) = made {
            trained.done = Some((blobs.add(bytes).await.context("storing the delta")?, gain));
        }
        Ok(trained)
    }

    /// The training itself; blocks.
    fn work(&self, job: &TrainJob, data: &ModelData, head: &[u8]) -> Result<(Option<Made>, Trained)> {
        let (m, t) = (&job.manifest, &job.manifest.training);
        set_threads(self.threads.max(1));
        let backend = Torch { device: self.options.device.parse()? };
        let head = weights::from_bytes(m, head)?;
        let mut seed = [0; 32];
        rand_core::OsRng.fill_bytes(&mut seed);
        let own = match m.work_mode {
            WorkMode::Assigned => judge::shard(m, job.model, job.round, job.start, self.me),
            WorkMode::Free => sample::draw(seed, m.data.train.samples, t.inner_steps.saturating_mul(t.batch)),
        };
        let (mut shard, mut steps, mut sign) = (own.clone(), t.inner_steps, 1.0);
        if let Some(cheat) = self.options.cheat.in_round(job.round) {
            tracing::info!(?cheat, round = job.round, "cheating");
            if let Some(bytes) = cheat::malformed(cheat, m) {
                return Ok((Some((bytes, 1_000_000)), Trained::default()));
            }
            match cheat {
                Cheat::Random => {
                    let bytes = compress(&cheat::random(head.len(), 0.02, seed), t);
                    return Ok((Some((bytes, 1_000_000)), Trained::default()));
                }
                Cheat::Poison => sign = -1.0,
                Cheat::Lazy => steps = 1,
                _ => shard = judge::shard(m, job.model, job.round, job.start, NodeId(seed)),
            }
        }
        let mut state = State::open(&self.dir, job.model, head.len(), t.feedback_milli);
        let round = job.round;
        let mut pace = Pace::new(&self.valve, &self.stop);
        let mut watch = |s: oda_ml::Step| {
            pace.step();
            if s.step.is_multiple_of(10) || s.step == s.steps {
                self.reporter.lite(&LiteEvent::Train { round, step: s.step, steps: s.steps, loss: s.loss });
            }
        };
        let work = Work { manifest: m, head: &head, data: &data.train, indices: &shard, steps, seed };
        let dense = backend.train(&work, &mut state.inner, &self.stop, &mut watch);
        let trained = Trained { done: None, ended: pace.ended, step_us: pace.step_us() };
        let mut dense = match dense {
            Err(MlError::Stopped) => {
                let ended = trained.ended.or(Some(Ended::Stale));
                return Ok((None, Trained { ended, ..trained }));
            }
            other => other?,
        };
        dense.iter_mut().for_each(|v| *v *= sign);
        let bytes = state.feedback.compress(&dense, t);
        let sparse = delta::decode(&bytes, head.len(), t, &m.judging)
            .map_err(|why| anyhow::anyhow!("the own delta would be refused: {why:?}"))?;
        let gain = |data: &Dataset, on: &[u32]| -> Result<Paired> {
            let before = backend.measure(m, &head, data, on)?.losses_unat;
            let after = backend.measure(m, &sparse.applied(&head, 1.0), data, on)?.losses_unat;
            Paired::of(&before, &after).context("samples differ")
        };
        let stated = match m.work_mode {
            WorkMode::Assigned => gain(&data.train, &own)?.mean_unat(),
            WorkMode::Free => {
                let on = sample::draw(seed, m.data.eval.samples, m.judging.gate_samples);
                let z = m.judging.adopt_z_milli.saturating_add(STATED_MARGIN_MILLI);
                let stated = gain(&data.eval, &on)?.lower_bound_unat(z);
                ensure!(stated > 0, "no gain beyond doubt yet; training again");
                stated
            }
        };
        // only of work that is handed in: what is done again must not count as sent
        state.save(&self.dir, job.model);
        Ok((Some((bytes, stated)), trained))
    }
}

/// What a trainer keeps from round to round. Losing it costs some quality, nothing else.
struct State {
    inner: Inner,
    feedback: ErrorFeedback,
}

impl State {
    fn paths(dir: &Path, model: ModelId) -> [PathBuf; 2] {
        ["adamw", "feedback"].map(|kind| dir.join(format!("{model}.{kind}")))
    }

    fn open(dir: &Path, model: ModelId, parameters: usize, feedback_milli: u32) -> Self {
        let [inner, feedback] = Self::paths(dir, model).map(|path| std::fs::read(path).unwrap_or_default());
        #[allow(clippy::cast_precision_loss)]
        let decay = feedback_milli as f32 / 1000.0;
        Self {
            inner: Inner::from_bytes(&inner, parameters).unwrap_or_else(|_| Inner::new(parameters)),
            feedback: ErrorFeedback::from_bytes(parameters, decay, &feedback)
                .unwrap_or_else(|_| ErrorFeedback::with_decay(parameters, decay)),
        }
    }

    fn save(&self, dir: &Path, model: ModelId) {
        let kept = || -> std::io::Result<()> {
            std::fs::create_dir_all(dir)?;
            for (path, bytes) in
                Self::paths(dir, model).into_iter().zip([self.inner.to_bytes(), self.feedback.to_bytes()])
            {
                crate::file::replace(&path, &bytes)?;
            }
            Ok(())
        };
        if let Err(error) = kept() {
            tracing::warn!(%error, dir = %dir.display(), "keeping the optimiser's state failed; the next round begins afresh");
        }
    }
}
