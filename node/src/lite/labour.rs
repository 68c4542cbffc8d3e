//! The part of a lite node's loop that deals with its own machine: choosing, measuring, training, pausing, telling.

use super::limits::{self, CpuShare, Ended};
use super::machine::{Manners, Readings, decide};
use super::status::LiteStatus;
use super::work::{Bounds, received_msat};
use super::{Event, Failed, KEPT_DELTAS, Lite, Running, measure};
use crate::clock::now_ms;
use crate::config::Config;
use crate::jobs::{Trained, Training};
use crate::report::LiteEvent;
use anyhow::Result;
use oda_consensus::engine::trainer::{ClaimRecord, TrainJob, TrainerInput, verify_model};
use oda_consensus::ids::{BlobRef, ClaimId, ModelId, NodeId};
use oda_consensus::wire::ModelView;
use oda_ml::train::be_nice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::time::Duration;

const MB: u64 = 1_000_000;

/// Threads and working time for training on this machine.
pub(super) fn cpu_share(config: &Config) -> CpuShare {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let cores = u32::try_from(cores).unwrap_or(1);
    limits::cpu_share(cores, config.lite.max_cpu_percent, config.trainer.threads)
}

/// What a model may need.
pub(super) fn bounds(config: &Config, share: CpuShare) -> Bounds {
    let max_bytes = match config.lite.max_memory_mb {
        0 => super::machine::memory_bytes().map_or(0, |all| all / 2),
        mb => mb.saturating_mul(MB),
    };
    let base_bytes = super::machine::resident_bytes().unwrap_or(0);
    Bounds { share, max_bytes, base_bytes, max_disk_bytes: config.lite.max_disk_mb.saturating_mul(MB) }
}

/// What this node was paid.
pub(super) struct Earned {
    pub(super) msat: u64,
    pub(super) before_msat: u64,
    pub(super) paid: u64,
    pub(super) unpaid: u64,
    pub(super) started_ms: u64,
}

impl Earned {
    /// From the records of all claims.
    pub(super) fn new<'a>(claims: impl Iterator<Item = &'a ClaimRecord>) -> Self {
        let mut earned = Self { msat: 0, before_msat: 0, paid: 0, unpaid: 0, started_ms: now_ms() };
        for record in claims.filter(|r| r.phase.is_over()) {
            earned.add(record);
        }
        earned.before_msat = earned.msat;
        earned
    }

    fn add(&mut self, record: &ClaimRecord) -> u64 {
        let msat = received_msat(record);
        self.msat = self.msat.saturating_add(msat);
        if msat > 0 {
            self.paid += 1
        } else {
            self.unpaid += 1
        }
        msat
    }
}

impl Lite {
    /// A peer shows a model: the engine sees it as funded only if this node should work on it now.
    pub(super) fn on_model(&mut self, peer: NodeId, mut view: Box<ModelView>) -> Result<()> {
        let model = view.model.manifest.id();
        if !self.models.contains(&model) || view.model.manifest.check().is_err() {
            return Ok(());
        }
        self.work.hear(model, &view);
        self.measure_next();
        self.end_stale(model, &view);
        // no work is taken before a payment could reach us
        if self.wallet_seen.1 == 0 && self.trainer.claims().next().is_none() {
            return Ok(());
        }
        self.fees.heard(peer, &view);
        let now = now_ms();
        let choice = self.work.choose(now).filter(|_| self.paused.is_none() && !self.finish);
        if let Some((chosen, msat_per_hour)) = choice.filter(|(chosen, _)| self.chosen != Some(*chosen)) {
            self.chosen = Some(chosen);
            self.reporter.lite(&LiteEvent::Chosen { model: chosen, msat_per_hour });
        }
        if choice.is_none_or(|(chosen, _)| chosen != model) {
            view.model.sponsors.clear();
        }
        self.drive(TrainerInput::Model(view))
    }

    /// A model nobody here knows the speed of is measured, unless something trains.
    fn measure_next(&mut self) {
        if self.running.is_some() || self.paused.is_some() || self.finish {
            return;
        }
        let Some((model, manifest)) = self.work.to_measure() else { return };
        let (valve, events) = (self.valve.clone(), self.events.clone());
        let (threads, device) = (self.share.threads, self.config.trainer.device.clone());
        tokio::spawn(async move {
            // on a thread of its own: its low priority must not stay with the runtime's threads
            let work = move || {
                std::thread::scope(|scope| {
                    let measured = scope.spawn(|| {
                        be_nice();
                        measure::measure(&manifest, threads, &device, &valve).map_err(|e| e.to_string())
                    });
                    measured.join().unwrap_or_else(|_| Err("measuring panicked".into()))
                })
            };
            let result = tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(e.to_string()));
            let _ = events.send(Event::Measured { model, result }).await;
        });
    }

    /// Ends a training whose round is over: nothing is paid for it any more.
    fn end_stale(&mut self, model: ModelId, view: &ModelView) {
        let Some(running) = self.running.as_ref().filter(|r| r.model == model) else { return };
        let stated = view.last.as_ref().map_or(1, |l| l.outcome.round.saturating_add(1));
        // signatures are checked only of what would end it
        if stated > running.round
            && verify_model(self.trainer.epochs(), model, view).is_some_and(|v| v.round > running.round)
        {
            running.stop.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn train(&mut self, job: TrainJob) {
        if self.announced.insert(job.model, job.round) != Some(job.round) {
            self.reporter.lite(&LiteEvent::Round { model: job.model, round: job.round, head: job.head.hash });
        }
        // what nobody here needs any more makes room on the disk
        if let Some(old) = self.heads.insert(job.model, job.head).filter(|old| *old != job.head) {
            self.unpin(old);
        }
        let stop = Arc::new(AtomicBool::new(false));
        self.running = Some(Running { model: job.model, round: job.round, stop: stop.clone() });
        let training = Training {
            me: self.me,
            options: self.config.trainer.clone(),
            threads: self.share.threads,
            blobs: self.blobs.clone(),
            providers: self.book.providers(&self.founders),
            reporter: self.reporter.clone(),
            dir: self.datadir.join("training"),
            valve: self.valve.clone(),
            stop,
        };
        let events = self.events.clone();
        tokio::spawn(async move {
            let (model, round) = (job.model, job.round);
            let (step_us, result) = match training.run(job).await {
                Ok(Trained { step_us, ended: Some(ended), .. }) => (step_us, Err(Failed::Ended(ended))),
                Ok(Trained { step_us, done: Some(done), .. }) => (step_us, Ok(done)),
                Ok(Trained { step_us, .. }) => (step_us, Err(Failed::Error("it brought nothing".into()))),
                Err(error) => (None, Err(Failed::Error(format!("{error:#}")))),
            };
            if matches!(result, Err(Failed::Error(_))) {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            let _ = events.send(Event::Trained { model, round, step_us, result }).await;
        });
    }

    /// A training ended.
    pub(super) fn ended(
        &mut self,
        model: ModelId,
        round: u64,
        step_us: Option<u64>,
        result: Result<(BlobRef, i64), Failed>,
    ) -> Result<(BlobRef, i64), ()> {
        self.running = None;
        match result {
            Ok(done) => {
                self.work.trained(model, round, step_us);
                return Ok(done);
            }
            Err(Failed::Ended(Ended::Stale)) => tracing::info!(round, "the round is over; its training is given up"),
            Err(Failed::Ended(Ended::Memory)) => {
                let most = self.valve.max_bytes() / MB;
                self.work.refuse(model, format!("training it took more than {most} MB of memory (max_memory_mb)"));
            }
            Err(Failed::Error(why)) => tracing::warn!(round, why, "training failed; trying again"),
        }
        Err(())
    }

    pub(super) fn on_machine(&mut self, readings: &Readings) {
        let l = &self.config.lite;
        let manners = Manners {
            pause_on_battery: l.pause_on_battery,
            pause_when_used: l.pause_when_used,
            idle_s: u64::from(l.idle_minutes).saturating_mul(60),
            others_cpu_percent: l.pause_above_others_cpu_percent,
        };
        let paused = decide(&manners, readings, self.paused);
        if paused != self.paused {
            self.paused = paused;
            self.valve.hold(paused.is_some());
            self.reporter.lite(&match paused {
                Some(reason) => LiteEvent::Paused { reason: reason.to_string() },
                None => LiteEvent::Resumed,
            });
        }
    }

    pub(super) fn claim_over(&mut self, claim: ClaimId) {
        let Some(record) = self.trainer.claims().find(|r| r.claim == claim).cloned() else { return };
        self.work.over(&record);
        self.handover.over(claim);
        if self.earned.add(&record) > 0 {
            let (msat, claims, doing) = (self.earned.msat, self.earned.paid, self.doing());
            self.reporter.lite(&LiteEvent::Earned { msat, claims, doing });
        }
        self.spent.push_back(record.delta);
        if self.spent.len() > KEPT_DELTAS
            && let Some(old) = self.spent.pop_front().filter(|old| !self.spent.contains(old))
        {
            self.unpin(old);
        }
    }

    fn unpin(&self, blob: BlobRef) {
        let blobs = self.blobs.clone();
        tokio::spawn(async move {
            if let Err(error) = blobs.unpin(blob.hash).await {
                tracing::debug!(%error, "a blob of no more use stays");
            }
        });
    }

    /// Claims that are neither paid nor void.
    pub(super) fn open_claims(&self) -> usize {
        self.trainer.claims().filter(|r| !r.phase.is_over()).count()
    }

    /// What the node does, in words.
    pub(super) fn doing(&self) -> String {
        if self.finish {
            return format!("taking no new work; {} claims are not over", self.open_claims());
        }
        match (&self.paused, &self.running) {
            (Some(reason), _) => format!("paused: {reason}"),
            (None, Some(r)) => format!("training round {} of model {}", r.round, r.model.short()),
            (None, None) if self.full_peers().is_empty() => "looking for peers".into(),
            (None, None) if self.wallet_seen.1 == 0 => "waiting for a channel to be paid over".into(),
            (None, None) => "waiting for a round".into(),
        }
    }

    pub(super) fn write_status(&self, doing: &str) {
        let now = now_ms();
        let status = LiteStatus {
            time_ms: now,
            started_ms: self.earned.started_ms,
            node: self.me,
            doing: doing.into(),
            is_paused: self.paused.is_some(),
            earned_msat: self.earned.msat,
            earned_since_start_msat: self.earned.msat.saturating_sub(self.earned.before_msat),
            paid_claims: self.earned.paid,
            unpaid_claims: self.earned.unpaid,
            open_claims: self.open_claims() as u64,
            lightning_msat: self.wallet_seen.0,
            channels: self.wallet_seen.1,
            peers: self.net.connected().len(),
            threads: self.share.threads,
            duty_milli: self.share.duty_milli,
            models: self.work.models(now),
        };
        if let Err(error) = status.write(&self.datadir) {
            tracing::debug!("{error:#}");
        }
    }
}
