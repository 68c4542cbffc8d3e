//! Commits, takes the lock, and then withholds its work: never opens it, or opens it and serves it to nobody, or to some
//! members only.
//!
//! A round that waits for work which never comes costs everybody time; judges that could fetch a delta and judges that
//! could not publish different scores, and one of them looks like a liar.

use super::{Attacker, Desk, Kind, Role};
use crate::learning::{Made, Work};
use crate::sim::{Addr, Out};
use oda_consensus::engine::trainer::TrainJob;
use oda_consensus::ids::BlobHash;
use oda_consensus::tx::Tx;

pub(super) const KIND: Kind = Kind {
    name: "withhold",
    rows: &[8],
    role: Role::Trainer,
    names: 3,
    goal: "stop rounds, or have honest judges disagree",
    gain: "rivals unpaid, honest members under suspicion",
    stopped_by: "R3: reveals have a deadline, what is not revealed or served is not paid, members serve each other; R4: scores are \
                 taken again; C6: a delta that was not served to all convicts nobody",
    left: "a round takes up to `reveal_blocks` more, a locked payment waits as long",
    make: || Box::new(Withhold::default()),
};

#[derive(Default)]
struct Withhold {
    way: u32,
}

impl Attacker for Withhold {
    fn work(&mut self, desk: &mut Desk<'_>, _: &TrainJob) -> Option<Work> {
        self.way = desk.seat.number % 3;
        Some(Work::Honest)
    }

    fn trained(&mut self, desk: &mut Desk<'_>, _: &TrainJob, _: &Made) {
        *desk.gang.notes.entry("withheld").or_default() += 1;
    }

    fn out(&mut self, desk: &mut Desk<'_>, out: Out) -> Vec<Out> {
        let reveals = desk.own_tx(&out).is_some_and(|said| matches!(said.tx, Tx::Reveal(_)));
        if reveals && self.way == 0 { Vec::new() } else { vec![out] }
    }

    fn serves(&self, _: BlobHash, to: Addr) -> bool {
        self.way == 2 && to.0.is_multiple_of(2)
    }
}
