//! Wants the model worse: turns honest work round, or makes it huge, or hurts one slice of the data on purpose while
//! doing honest work on the rest.

use super::{Attacker, Desk, Kind, Role};
use crate::learning::Work;
use oda_consensus::engine::trainer::TrainJob;

pub(super) const KIND: Kind = Kind {
    name: "poison",
    rows: &[4],
    role: Role::Trainer,
    names: 1,
    goal: "make the model worse, or make it do something else on some inputs",
    gain: "nothing in coin; the harm is the goal",
    stopped_by: "S7: norm cap; S4: probe step and assigned-work test; S6: a head is adopted only if it is better beyond \
                 doubt and no guard slice is harmed",
    left: "a backdoor on inputs that no guard slice contains, within the median norm, by one trainer of many; and S6 \
           measures guards on the head, not on each claim: a round whose head a backdoor spoils pays nobody",
    make: || Box::new(Poison),
};

struct Poison;

impl Attacker for Poison {
    fn work(&mut self, desk: &mut Desk<'_>, _: &TrainJob) -> Option<Work> {
        Some(match desk.dice.below(3) {
            0 => Work::Flipped,
            1 => Work::Huge,
            _ => Work::Backdoor,
        })
    }
}
