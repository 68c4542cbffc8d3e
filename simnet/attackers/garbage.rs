//! Commits to bytes that are no delta of this model: cut off, too long, of another shape.

use super::{Attacker, Desk, Kind, Role};
use crate::learning::Work;
use oda_consensus::engine::trainer::TrainJob;

pub(super) const KIND: Kind = Kind {
    name: "garbage",
    rows: &[13, 17],
    role: Role::Trainer,
    names: 1,
    goal: "make judges fail, or disagree about what they were given",
    gain: "nothing in coin; a round without a verdict",
    stopped_by: "S7, K3: a delta is refused before any evaluation, with the same reason everywhere; D1: wrong bytes are \
                 noticed by their hash",
    left: "nothing seen",
    make: || Box::new(Garbage),
};

struct Garbage;

impl Attacker for Garbage {
    fn work(&mut self, desk: &mut Desk<'_>, _: &TrainJob) -> Option<Work> {
        Some(match desk.dice.below(3) {
            0 => Work::Malformed,
            1 => Work::Oversize,
            _ => Work::WrongShape,
        })
    }
}
