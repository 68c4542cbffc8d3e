//! Hands in honest work, multiplied: pay follows the gain, so more of the same direction should gain more.

use super::{Attacker, Desk, Kind, Role};
use crate::learning::Work;
use oda_consensus::engine::trainer::TrainJob;

pub(super) const KIND: Kind = Kind {
    name: "inflate",
    rows: &[10],
    role: Role::Trainer,
    names: 1,
    goal: "take a larger share of the pool than the work is worth",
    gain: "the others' share",
    stopped_by: "S4: deltas are clipped to the median norm before anything is measured; S7: norm cap",
    left: "nothing beyond an honest share",
    make: || Box::new(Inflate),
};

struct Inflate;

impl Attacker for Inflate {
    fn work(&mut self, desk: &mut Desk<'_>, _: &TrainJob) -> Option<Work> {
        let milli = if desk.dice.milli(700) { 2_000 } else { 10_000 };
        Some(Work::Inflated { milli })
    }
}
