//! Does a tenth or a third of the steps and hands that in as a whole run.

use super::{Attacker, Desk, Kind, Role};
use crate::learning::Work;
use oda_consensus::engine::trainer::TrainJob;

pub(super) const KIND: Kind = Kind {
    name: "free_ride",
    rows: &[3],
    role: Role::Trainer,
    names: 1,
    goal: "be paid for a whole run and do a part of it",
    gain: "the rest of the computing",
    stopped_by: "S4: too little is learned of the assigned shard, against fresh data (assigned-work test) or against the \
                 round's median (least work)",
    left: "two thirds of the steps pass in most rounds, for less pay; while the lazy are the larger part of what passes, \
           the median is theirs",
    make: || Box::new(FreeRide),
};

struct FreeRide;

impl Attacker for FreeRide {
    fn work(&mut self, desk: &mut Desk<'_>, _: &TrainJob) -> Option<Work> {
        let milli = if desk.dice.milli(500) { 100 } else { 333 };
        Some(Work::Part { milli })
    }
}
