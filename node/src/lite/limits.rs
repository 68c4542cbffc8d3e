//! What training may take of this machine: processor, memory, disk; and the valve through which it is held.
//!
//! Stopping and continuing a process from outside (SIGSTOP) would also stop the wallet, which must answer when a payment
//! comes. So training asks between two steps whether it may go on, and everything else runs on.

use super::machine;
use oda_consensus::manifest::Manifest;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often a held training looks whether it may go on.
const HELD: Duration = Duration::from_millis(200);
/// Longest rest after one step.
const MAX_REST: Duration = Duration::from_secs(60);
/// Steps between two looks at the memory.
const MEMORY_STEPS: u32 = 16;
/// Copies of the weights that training, compressing and measuring hold at once: head, change, both means of the
/// optimiser and their successors, feedback, gradient, and libtorch's own.
const WEIGHT_COPIES: u64 = 12;
/// Values kept for each weight and sample of a batch are fewer than the batch's inputs times this, except in very deep models.
const BATCH_COPIES: u64 = 64;
/// Most files counted.
const MAX_FILES: usize = 1 << 20;

/// Threads and working time that keep training below a share of the machine's processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuShare {
    /// Threads.
    pub threads: u32,
    /// Of the time, thousandths.
    pub duty_milli: u32,
}

/// `wanted` threads (0: as many as the share allows) on so many cores, together no more than `max_percent` of all cores.
pub fn cpu_share(cores: u32, max_percent: u32, wanted: u32) -> CpuShare {
    let (cores, percent) = (u64::from(cores.max(1)), u64::from(max_percent.clamp(1, 100)));
    let threads = if wanted == 0 { (cores * percent / 100).max(1) } else { u64::from(wanted) };
    let duty_milli = (cores * percent * 10 / threads).min(1000);
    CpuShare {
        threads: u32::try_from(threads).unwrap_or(u32::MAX),
        duty_milli: u32::try_from(duty_milli.max(1)).unwrap_or(1000),
    }
}

/// How long to rest after working for `worked`, to work so many thousandths of the time.
pub fn rest(worked: Duration, duty_milli: u32) -> Duration {
    let duty = duty_milli.clamp(1, 1000);
    (worked * (1000 - duty) / duty).min(MAX_REST)
}

/// Memory that training a model takes beside what the process holds anyway, bytes: an estimate from above for small
/// models, good to a factor of two for large ones. Data are read from disk as they are needed.
pub fn training_bytes(manifest: &Manifest) -> u64 {
    let weights = manifest.parameters().saturating_mul(4).saturating_mul(WEIGHT_COPIES);
    let sample = match manifest.architecture.sample() {
        oda_consensus::architecture::SampleShape::Row { inputs, .. } => u64::from(inputs),
        oda_consensus::architecture::SampleShape::Window { context } => u64::from(context).saturating_mul(256),
    };
    let batch = u64::from(manifest.training.batch).saturating_mul(sample).saturating_mul(4 * BATCH_COPIES);
    weights.saturating_add(batch)
}

/// Disk that a model takes, bytes: its data twice (as blobs, and as plain files to read from), and two heads with the
/// optimiser's state.
pub fn model_disk_bytes(manifest: &Manifest) -> u64 {
    let d = &manifest.data;
    let open = d.guards.iter().filter(|g| g.sealed.is_none()).map(|g| g.split.blob.len);
    let data: u64 = [d.train.blob.len, d.eval.blob.len, d.test.blob.len].into_iter().chain(open).sum();
    data.saturating_mul(2).saturating_add(manifest.initial_head.len.saturating_mul(6))
}

/// Bytes of all files below a directory.
pub fn dir_bytes(dir: &Path) -> u64 {
    let (mut all, mut files, mut open) = (0u64, 0, vec![dir.to_path_buf()]);
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            files += 1;
            match entry.metadata() {
                Ok(meta) if meta.is_dir() && files < MAX_FILES => open.push(entry.path()),
                Ok(meta) => all = all.saturating_add(meta.len()),
                Err(_) => {}
            }
        }
    }
    all
}

/// A training that should not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Its round is over.
    Stale,
    /// It holds more memory than it may.
    Memory,
}

/// Holds and ends training from outside.
#[derive(Debug, Default)]
pub struct Valve {
    held: AtomicBool,
    duty_milli: AtomicU32,
    max_bytes: AtomicU64,
}

impl Valve {
    /// A valve that lets training work so much of the time, and hold so much memory (bytes of the process; 0: any).
    pub fn new(duty_milli: u32, max_bytes: u64) -> Self {
        Self { held: AtomicBool::new(false), duty_milli: duty_milli.into(), max_bytes: max_bytes.into() }
    }

    /// Most memory, bytes; 0: any.
    pub fn max_bytes(&self) -> u64 {
        self.max_bytes.load(Ordering::Relaxed)
    }

    /// Of the time, thousandths.
    pub fn duty_milli(&self) -> u32 {
        self.duty_milli.load(Ordering::Relaxed)
    }

    /// Holds training, or lets it go on.
    pub fn hold(&self, held: bool) {
        self.held.store(held, Ordering::Relaxed);
    }

    /// Whether it is held.
    pub fn is_held(&self) -> bool {
        self.held.load(Ordering::Relaxed)
    }
}

/// One training's use of the valve.
pub struct Pace<'a> {
    valve: &'a Valve,
    stop: &'a AtomicBool,
    since: Instant,
    steps: u32,
    worked: Duration,
    /// Why the training was ended, if it was.
    pub ended: Option<Ended>,
}

impl<'a> Pace<'a> {
    /// Begins a training; `stop` ends it.
    pub fn new(valve: &'a Valve, stop: &'a AtomicBool) -> Self {
        Self { valve, stop, since: Instant::now(), steps: 0, worked: Duration::ZERO, ended: None }
    }

    /// After a step: rests, waits while held, and ends the training where it must.
    pub fn step(&mut self) {
        let worked = self.since.elapsed();
        self.worked += worked;
        self.steps += 1;
        std::thread::sleep(rest(worked, self.valve.duty_milli()));
        while self.valve.is_held() && !self.stop.load(Ordering::Relaxed) {
            std::thread::sleep(HELD);
        }
        let most = self.valve.max_bytes();
        if most > 0 && self.steps % MEMORY_STEPS == 1 && machine::resident_bytes().is_some_and(|held| held > most) {
            self.ended = Some(Ended::Memory);
            self.stop.store(true, Ordering::Relaxed);
        } else if self.stop.load(Ordering::Relaxed) && self.ended.is_none() {
            self.ended = Some(Ended::Stale);
        }
        self.since = Instant::now();
    }

    /// How long a step takes without rests, microseconds; `None` before the first.
    pub fn step_us(&self) -> Option<u64> {
        u64::try_from(self.worked.as_micros()).ok()?.checked_div(self.steps.into())
    }
}
