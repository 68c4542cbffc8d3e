//! One run cut into slices of coordinates, each handed in under another name: pay that sums the gains of parts would
//! pay the whole several times over.

use super::{Attacker, Desk, Kind, Role, wait_for_first};
use crate::learning::{Made, Work};
use crate::sim::Out;
use oda_consensus::engine::trainer::TrainJob;

pub(super) const KIND: Kind = Kind {
    name: "slice",
    rows: &[10],
    role: Role::Trainer,
    names: 3,
    goal: "be paid for one gain in several pieces",
    gain: "more than the whole",
    stopped_by: "S4: a slice has not learned the shard assigned to its name; the pool is what the new head proved, however \
                 many claim",
    left: "nothing beyond an honest share",
    make: || Box::new(Slice { waiting: Vec::new() }),
};

struct Slice {
    waiting: Vec<TrainJob>,
}

impl Attacker for Slice {
    fn work(&mut self, desk: &mut Desk<'_>, job: &TrainJob) -> Option<Work> {
        let first = desk.gang.deltas.get(&(job.model, job.round)).and_then(|d| d.first()).copied();
        let (part, parts) = (desk.seat.number as u8, desk.seat.names.min(16) as u8);
        Some(match first {
            Some(of) if desk.seat.number > 0 => Work::Slice { of, part, parts },
            _ => Work::Honest,
        })
    }

    fn trained(&mut self, desk: &mut Desk<'_>, job: &TrainJob, made: &Made) {
        desk.gang.deltas.entry((job.model, job.round)).or_default().push(made.delta.hash);
    }

    fn out(&mut self, desk: &mut Desk<'_>, out: Out) -> Vec<Out> {
        wait_for_first(desk, &mut self.waiting, out)
    }

    fn tick(&mut self, desk: &mut Desk<'_>) -> Vec<Out> {
        let jobs = std::mem::take(&mut self.waiting);
        jobs.into_iter().flat_map(|job| wait_for_first(desk, &mut self.waiting, Out::Train(Box::new(job)))).collect()
    }
}
