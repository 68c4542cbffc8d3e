//! Knows the public evaluation pool and trains half on it, to look better where it is measured.

use super::{Attacker, Desk, Kind, Role};
use crate::learning::Work;
use oda_consensus::engine::trainer::TrainJob;

pub(super) const KIND: Kind = Kind {
    name: "overfit",
    rows: &[1],
    role: Role::Trainer,
    names: 1,
    goal: "be paid for knowing the test instead of the matter",
    gain: "a larger measured gain than there is",
    stopped_by: "S3: gate and confirm are drawn after commits close; S4: what is learned of the pool raises the gate, and \
                 only the excess of the own shard over the gate counts; S5",
    left: "a pool that is small against the gate can be learned by heart: the manifest demands its size; a sealed guard \
           sees it",
    make: || Box::new(Overfit),
};

struct Overfit;

impl Attacker for Overfit {
    fn work(&mut self, _: &mut Desk<'_>, _: &TrainJob) -> Option<Work> {
        Some(Work::Pool)
    }
}
