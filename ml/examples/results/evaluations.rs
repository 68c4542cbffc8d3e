//! How many samples a validator evaluates for a claim and for a round (S4), as a formula.
//!
//! [`crate::cost`] draws its curves with it and holds it against what the judge really evaluates.

use oda_consensus::manifest::Manifest;
use oda_consensus::score::Measurement;

/// Samples of a shard that would be measured if validators drew them after commits close.
pub const DRAWN: u32 = 512;

/// How far a claim comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Hopeless after the first part of the gate sample.
    Stopped,
    /// Fails the assigned-work test on the whole of it.
    Failed,
    /// Measured at the probe step, too.
    Probed,
}

pub fn reach(m: &Manifest, found: &Measurement) -> Option<Reach> {
    let Measurement::Scored(s) = found else { return None };
    Some(match s.probe {
        Some(_) => Reach::Probed,
        None if s.gate.n < m.judging.gate_samples => Reach::Stopped,
        None => Reach::Failed,
    })
}

/// Evaluations of one claim of which so many samples of the shard are measured (S4).
pub fn of_claim(m: &Manifest, shard: f64, reach: Reach) -> f64 {
    let j = &m.judging;
    let gate = f64::from(j.gate_samples);
    // shard of head and claim; gate at full step; gate at probe step
    2.0 * shard
        + match reach {
            Reach::Stopped if j.screen_samples > 0 => f64::from(j.screen_samples),
            Reach::Stopped | Reach::Failed => gate,
            Reach::Probed => 2.0 * gate,
        }
}

/// Evaluations of a round whatever the number of claims: head on gate; if any is accepted, both heads on confirm
/// sample, test set and guards.
pub fn of_round(m: &Manifest, any_accepted: bool) -> f64 {
    let guards: u32 = m.data.guards.iter().map(|g| g.split.samples).sum();
    let of_heads = f64::from(m.judging.confirm_samples) + f64::from(m.data.test.samples) + f64::from(guards);
    f64::from(m.judging.gate_samples) + if any_accepted { 2.0 * of_heads } else { 0.0 }
}

/// Which part of a shard there is, and which is measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// The model file's shard, however much a round trains.
    Fixed,
    /// A shard that grows so that its samples are seen as often as in the model file; all of it is measured.
    Grown,
    /// The same, of which [`DRAWN`] samples, drawn after commits close, are measured.
    Drawn,
}

pub const RULES: [(Rule, &str); 3] =
    [(Rule::Fixed, "fixed shard"), (Rule::Grown, "grown shard"), (Rule::Drawn, "grown, 512 drawn")];

/// Times a sample of the shard is seen in a round of the model file.
fn epochs(m: &Manifest) -> f64 {
    f64::from(m.training.inner_steps) * f64::from(m.training.batch) / f64::from(m.judging.shard_samples)
}

/// Samples of the shard that are measured where a round trains on `trained` samples.
pub fn measured(m: &Manifest, rule: Rule, trained: f64) -> f64 {
    let fixed = f64::from(m.judging.shard_samples);
    let grown = (trained / epochs(m)).max(fixed);
    match rule {
        Rule::Fixed => fixed,
        Rule::Grown => grown,
        Rule::Drawn => grown.min(f64::from(DRAWN)),
    }
}
