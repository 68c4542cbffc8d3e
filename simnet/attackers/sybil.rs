//! One run under many names: the first name trains, the others hand in its delta, trained a little further on their own
//! shards so that each has learned something of what it was assigned.

use super::{Attacker, Desk, Kind, Role, wait_for_first};
use crate::learning::{Made, Work};
use crate::sim::Out;
use oda_consensus::engine::trainer::TrainJob;

pub(super) const KIND: Kind = Kind {
    name: "sybil",
    rows: &[5],
    role: Role::Trainer,
    names: 4,
    goal: "be paid several times for one run",
    gain: "the pool's shares of names that did next to nothing",
    stopped_by: "S4: a second name needs a second shard's worth of work; near-copies count as one; the pool does not grow \
                 with the names; P8",
    left: "as much as honest work for the same computing, not more",
    make: || Box::new(Sybil { waiting: Vec::new() }),
};

/// A tenth of the steps for each further name at usual strength.
fn tuned_milli(strength_milli: u32) -> u32 {
    (strength_milli / 10).min(1_000)
}

struct Sybil {
    waiting: Vec<TrainJob>,
}

impl Attacker for Sybil {
    fn work(&mut self, desk: &mut Desk<'_>, job: &TrainJob) -> Option<Work> {
        let first = desk.gang.deltas.get(&(job.model, job.round)).and_then(|d| d.first()).copied();
        Some(match first {
            Some(of) if desk.seat.number > 0 => Work::Tuned { of, milli: tuned_milli(desk.seat.strength_milli) },
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
