//! Judging: from measured integers to verdicts, adoption and credit (S2, S4, S5, S6).
//!
//! Pure functions over sums of per-sample differences in micro-nats. Whoever holds the
//! measurements of an outcome recomputes every verdict and every credit from them, bit for bit;
//! floating point ends where these functions begin. The obvious question, "did this delta, applied
//! alone and whole, improve the model?", would refuse honest trainers: measured, from about round
//! five every honest delta alone makes the model worse while their average makes it better. So a
//! claim must instead show that its *assigned* shard was learned (work nobody else could have done)
//! and be harmless at a small probe step; and only the average has to prove itself.

mod credit;
mod paired;
mod verdict;

pub use credit::{HeadScores, TestReport, credits, proven_gain_unat, split_exactly};
pub use paired::{MAX_LOSS_UNAT, MAX_SAMPLES, Paired, excess_z_milli};
pub use verdict::{
    Added, ClaimScores, Measurement, Refusal, Twin, Verdict, hopeless, is_assigned_work, is_harmful, own_verdict,
    twins_are_canonical, verdicts,
};

#[cfg(test)]
mod tests;
