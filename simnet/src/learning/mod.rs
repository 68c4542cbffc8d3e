//! What stands in for machine learning in the simulator.
//!
//! Real training for every trainer, and a real replay for every validator, would make a simulated day take a day. So
//! the simulator asks this trait, with two answers: [`stub`] draws the integers a replay measures from what was
//! measured of real claims, without any weights; `reference` trains and replays on real data in plain Rust, to show
//! that nothing hangs on the stub's figures.

pub mod calibration;
pub mod direction;
#[cfg(feature = "reference")]
pub mod reference;
pub mod stub;

use oda_consensus::engine::trainer::TrainJob;
use oda_consensus::engine::validator::{JudgeJob, Judged};
use oda_consensus::ids::{BlobHash, BlobRef, ModelId, NodeId};
use oda_consensus::manifest::{Manifest, Timing};

/// What a trainer hands in as its delta.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// All the steps on the own shard.
    Honest,
    /// Fewer steps.
    Part {
        /// Share of the steps, thousandths.
        milli: u32,
    },
    /// Fewer steps at twice the learning rate.
    Hurried {
        /// Share of the steps, thousandths.
        milli: u32,
    },
    /// Random changes of a plausible size.
    Noise,
    /// Honest work with its sign turned round.
    Flipped,
    /// Honest work made larger.
    Inflated {
        /// Factor, thousandths.
        milli: u32,
    },
    /// Honest work on another shard.
    Foreign,
    /// Half on the own shard, half on the evaluation pool.
    Pool,
    /// The very bytes of another delta.
    Copy {
        /// The other.
        of: BlobHash,
    },
    /// Another delta, and noise of half its size.
    NoisyCopy {
        /// The other.
        of: BlobHash,
    },
    /// Every so-many-th stretch of coordinates of another delta.
    Slice {
        /// The other.
        of: BlobHash,
        /// Which, from 0.
        part: u8,
        /// Of how many.
        parts: u8,
    },
    /// The mean of other deltas.
    Average {
        /// The others.
        of: Vec<BlobHash>,
    },
    /// Another delta, trained further on the own shard.
    Tuned {
        /// The other.
        of: BlobHash,
        /// Share of the steps, thousandths.
        milli: u32,
    },
    /// Hurts a guard slice, and is honest work otherwise.
    Backdoor,
    /// Bytes that are no delta.
    Malformed,
    /// More bytes than the model allows.
    Oversize,
    /// A delta of another model's shape.
    WrongShape,
    /// Norm above the model's cap.
    Huge,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Made {
    /// The delta.
    pub delta: BlobRef,
    /// Gain that the trainer states, micro-nats of mean loss.
    pub stated_gain_unat: i64,
    /// Steps computed, thousandths of an honest run.
    pub cost_milli: u32,
}

/// Makes models, trains and measures.
pub trait Learning {
    /// A model of this kind of learning; every name another model.
    fn manifest(&mut self, name: &str, timing: Timing) -> Manifest;

    /// Trains, or pretends to.
    fn train(&mut self, job: &TrainJob, trainer: NodeId, work: &Work) -> Made;

    /// What a validator measures that can fetch the blobs for which `served` holds; `validator` seeds its rounding
    /// edges (S2).
    fn replay(&mut self, job: &JudgeJob, served: &dyn Fn(BlobHash) -> bool, validator: u64) -> Judged;

    /// Mean loss of a head on fresh data, nats; what nobody in the network knows. Infinite for a head nobody made.
    fn true_loss(&self, model: ModelId, head: BlobHash) -> f64;
}

/// Steps that a kind of work takes, thousandths of an honest run.
fn cost_milli(work: &Work) -> u32 {
    match work {
        Work::Part { milli } | Work::Hurried { milli } | Work::Tuned { milli, .. } => *milli,
        Work::Honest | Work::Flipped | Work::Inflated { .. } | Work::Foreign | Work::Pool => 1000,
        Work::Backdoor | Work::Huge => 1000,
        Work::Noise | Work::Copy { .. } | Work::NoisyCopy { .. } | Work::Slice { .. } | Work::Average { .. } => 0,
        Work::Malformed | Work::Oversize | Work::WrongShape => 0,
    }
}
