//! What this machine can do: steps a second on each model, measured once and kept.
//!
//! Speeds on paper (cores, clock) are off by a factor of ten between a linear model and a transformer, so the model
//! itself is trained for a moment, on noise of its shape: its data need not be fetched for that. Every real training is
//! a measurement too.

use super::limits::{Pace, Valve};
use crate::clock::now_ms;
use crate::file;
use anyhow::{Context, Result};
use oda_consensus::architecture::SampleShape;
use oda_consensus::ids::ModelId;
use oda_consensus::manifest::Manifest;
use oda_ml::torch::{Torch, set_threads};
use oda_ml::{Backend as _, Dataset, Inner, MlError, Step, Work, data, weights};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Longest measurement, beyond one step.
const LONGEST: Duration = Duration::from_secs(2);
/// Most steps measured; the first is not counted: libtorch sets itself up in it.
const STEPS: u32 = 24;
/// Most samples of noise, whatever the batch.
const MAX_SAMPLES: u32 = 1 << 12;
/// Most noise, bytes.
const MAX_NOISE: usize = 64 << 20;
/// Most models remembered.
const MAX_MODELS: usize = 64;
/// Largest file read, bytes.
const MAX_FILE: u64 = 1 << 20;

/// How fast this machine trains one model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Speed {
    /// Microseconds a step.
    pub step_us: u64,
    /// On so many threads.
    pub threads: u32,
    /// On this device.
    pub device: String,
    /// When, ms since the Unix epoch.
    pub time_ms: u64,
}

/// What was measured, kept on disk.
#[derive(Debug)]
pub struct Speeds {
    path: PathBuf,
    threads: u32,
    device: String,
    known: BTreeMap<ModelId, Speed>,
}

impl Speeds {
    /// What was measured before. A damaged file is as none: everything is measured again.
    pub fn open(path: &Path, threads: u32, device: &str) -> Self {
        let small = std::fs::metadata(path).is_ok_and(|m| m.len() <= MAX_FILE);
        let text = if small { std::fs::read_to_string(path).unwrap_or_default() } else { String::new() };
        let known = serde_json::from_str(&text).unwrap_or_default();
        Self { path: path.into(), threads, device: device.into(), known }
    }

    /// Microseconds a step, if measured with as many threads and on the same device as now.
    pub fn step_us(&self, model: ModelId) -> Option<u64> {
        self.known.get(&model).filter(|s| s.threads == self.threads && s.device == self.device).map(|s| s.step_us)
    }

    /// Keeps a measurement.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn keep(&mut self, model: ModelId, step_us: u64) -> Result<()> {
        // half old, half new: one slow run does not make a machine slow
        let step_us = self.step_us(model).map_or(step_us, |old| old / 2 + step_us / 2).max(1);
        if self.known.len() >= MAX_MODELS && !self.known.contains_key(&model) {
            let oldest = self.known.iter().min_by_key(|(_, s)| s.time_ms).map(|(id, _)| *id);
            oldest.map(|id| self.known.remove(&id));
        }
        let speed = Speed { step_us, threads: self.threads, device: self.device.clone(), time_ms: now_ms() };
        self.known.insert(model, speed);
        file::replace(&self.path, &serde_json::to_vec_pretty(&self.known)?).context("keeping what was measured")
    }
}

/// Trains a model for a moment on noise; microseconds a step. Blocks, and takes what training takes.
///
/// # Errors
/// If the model cannot be trained here.
pub fn measure(manifest: &Manifest, threads: u32, device: &str, valve: &Valve) -> Result<u64, MlError> {
    set_threads(threads.max(1));
    let backend = Torch { device: device.parse()? };
    let shape = manifest.architecture.sample();
    let samples = manifest.training.batch.clamp(1, MAX_SAMPLES);
    let noise = noise(shape, samples)?;
    let head = weights::initial(manifest, [1; 32]);
    let indices: Vec<u32> = (0..samples).collect();
    let work =
        Work { manifest, head: &head, data: &noise, indices: &indices, steps: STEPS.saturating_add(1), seed: [2; 32] };
    let stop = AtomicBool::new(false);
    let (mut pace, mut begun) = (None, None);
    let mut watch = |_: Step| {
        let begun: &mut Instant = begun.get_or_insert_with(Instant::now);
        match &mut pace {
            None => pace = Some(Pace::new(valve, &stop)),
            Some(pace) => pace.step(),
        }
        if begun.elapsed() > LONGEST {
            stop.store(true, Ordering::Relaxed);
        }
    };
    match backend.train(&work, &mut Inner::new(head.len()), &stop, &mut watch) {
        // noise may drive weights anywhere; the time of the steps taken counts all the same
        Ok(_) | Err(MlError::Stopped | MlError::Diverged(_)) => {}
        Err(error) => return Err(error),
    }
    pace.and_then(|p| p.step_us()).ok_or_else(|| MlError::Backend("no two steps within the time".into()))
}

fn noise(shape: SampleShape, samples: u32) -> Result<Dataset, MlError> {
    let n = samples as usize;
    let per_sample = match shape {
        SampleShape::Row { inputs, .. } => inputs as usize,
        SampleShape::Window { context } => context as usize,
    };
    let bytes = n.saturating_mul(per_sample).saturating_add(1).min(MAX_NOISE);
    let mut noise = vec![0; bytes];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    let file = match shape {
        SampleShape::Window { .. } => data::text(&noise)?,
        SampleShape::Row { inputs, classes } => {
            noise.truncate(n.saturating_mul(inputs as usize));
            let labels: Vec<u8> = (0..n).map(|i| u8::try_from(i % (classes as usize).max(1)).unwrap_or(0)).collect();
            data::byte_rows(inputs as usize, &noise, &labels)?
        }
    };
    Dataset::from_bytes(file, shape, samples)
}
