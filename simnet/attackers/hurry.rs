//! Does a third of the steps at twice the learning rate: less work that learns the shard as well.

use super::{Attacker, Desk, Kind, Role};
use crate::learning::Work;
use oda_consensus::engine::trainer::TrainJob;

pub(super) const KIND: Kind = Kind {
    name: "hurry",
    rows: &[3],
    role: Role::Trainer,
    names: 1,
    goal: "be paid for a whole run and do a third of it, faster",
    gain: "two thirds of the computing",
    stopped_by: "S4, in the first rounds; later it learns the shard nearly as well as the whole run",
    left: "S4 measures gain, not steps: from about round 9 on it earns more per step than the recipe of the manifest: a better recipe rather than a \
           cheat. A sponsor states the cheapest recipe that trains well, and there is nothing left to shorten",
    make: || Box::new(Hurry),
};

struct Hurry;

impl Attacker for Hurry {
    fn work(&mut self, _: &mut Desk<'_>, _: &TrainJob) -> Option<Work> {
        Some(Work::Hurried { milli: 333 })
    }
}
