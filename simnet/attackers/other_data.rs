//! Trains honestly, on data of its own choice instead of the shard assigned to it.

use super::{Attacker, Desk, Kind, Role};
use crate::learning::Work;
use oda_consensus::engine::trainer::TrainJob;

pub(super) const KIND: Kind = Kind {
    name: "other_data",
    rows: &[3, 5],
    role: Role::Trainer,
    names: 1,
    goal: "be paid for one run as often as it is asked for",
    gain: "work done elsewhere, sold again",
    stopped_by: "S4: it gains no more on the assigned shard than on fresh data",
    left: "nothing seen",
    make: || Box::new(OtherData),
};

struct OtherData;

impl Attacker for OtherData {
    fn work(&mut self, _: &mut Desk<'_>, _: &TrainJob) -> Option<Work> {
        Some(Work::Foreign)
    }
}
