//! Hands in random numbers of the usual size and hopes for luck.

use super::{Attacker, Desk, Kind, Role};
use crate::learning::Work;
use oda_consensus::engine::trainer::TrainJob;

pub(super) const KIND: Kind = Kind {
    name: "noise",
    rows: &[3],
    role: Role::Trainer,
    names: 1,
    goal: "be paid for random numbers",
    gain: "a share of the pool for no work",
    stopped_by: "S4: random numbers gain no more on the assigned shard than on fresh data; P8: each claim costs its fee",
    left: "one worthless claim in some thousand passes by chance, and its probe gain is next to nothing",
    make: || Box::new(Noise),
};

struct Noise;

impl Attacker for Noise {
    fn work(&mut self, _: &mut Desk<'_>, _: &TrainJob) -> Option<Work> {
        Some(Work::Noise)
    }
}
