//! One run under several names again: copies with a little noise over them, and averages of all deltas the gang has.

use super::{Attacker, Desk, Kind, Role, wait_for_first};
use crate::learning::{Made, Work};
use crate::sim::Out;
use oda_consensus::engine::trainer::TrainJob;

pub(super) const KIND: Kind = Kind {
    name: "mirror",
    rows: &[2, 5],
    role: Role::Trainer,
    names: 3,
    goal: "be paid several times for one run",
    gain: "the pool's shares of names that did nothing",
    stopped_by: "S4: copies and averages have not learned their names' shards; near-copies count as one; P8",
    left: "nothing seen",
    make: || Box::new(Mirror { waiting: Vec::new() }),
};

struct Mirror {
    waiting: Vec<TrainJob>,
}

impl Attacker for Mirror {
    fn work(&mut self, desk: &mut Desk<'_>, job: &TrainJob) -> Option<Work> {
        let known = desk.gang.deltas.get(&(job.model, job.round)).cloned().unwrap_or_default();
        Some(match known.first().copied() {
            Some(of) if desk.seat.number % 2 == 1 => Work::NoisyCopy { of },
            Some(_) if desk.seat.number > 0 => Work::Average { of: known },
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
