//! Trains every round but hands in only every third, and then what it trained two rounds before: gains kept for a time
//! in which they should earn more.

use super::{Attacker, Desk, Kind, Role};
use crate::learning::{Made, Work};
use crate::sim::Out;
use oda_consensus::engine::trainer::TrainJob;
use oda_consensus::ids::BlobHash;
use oda_consensus::tx::Tx;
use oda_consensus::wire::Request;

pub(super) const KIND: Kind = Kind {
    name: "hoard",
    rows: &[11],
    role: Role::Trainer,
    names: 1,
    goal: "sell gains when they are scarce",
    gain: "a better price for the same work",
    stopped_by: "S4: the delta is judged against today's head and today's shard; measured, it earns nothing two rounds later",
    left: "nothing seen",
    make: || Box::new(Hoard { kept: None }),
};

struct Hoard {
    kept: Option<BlobHash>,
}

fn sells(round: u64) -> bool {
    round.is_multiple_of(3)
}

impl Attacker for Hoard {
    fn work(&mut self, _: &mut Desk<'_>, job: &TrainJob) -> Option<Work> {
        let old = self.kept.take_if(|_| sells(job.round));
        Some(old.map_or(Work::Honest, |of| Work::Copy { of }))
    }

    fn trained(&mut self, _: &mut Desk<'_>, job: &TrainJob, made: &Made) {
        if job.round % 3 == 1 {
            self.kept = Some(made.delta.hash);
        }
    }

    fn out(&mut self, _: &mut Desk<'_>, out: Out) -> Vec<Out> {
        if let Out::Ask(_, request) = &out
            && let Request::SubmitTx(tx) = request.as_ref()
            && let Tx::Commit(commit) = &tx.tx
            && !sells(commit.round)
        {
            return Vec::new();
        }
        vec![out]
    }
}
