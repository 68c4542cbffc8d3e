//! Publishes scores it did not measure, to favour or to hurt.
//!
//! A judge that could say what it likes would sell verdicts. Each judge's scores are on the ledger beside the others',
//! and the attested ones prove it wrong.

use super::{Attacker, Desk, Kind, Role};
use oda_consensus::engine::validator::Judged;
use oda_consensus::score::Measurement;

pub(super) const KIND: Kind = Kind {
    name: "misjudge",
    rows: &[6, 7],
    role: Role::Validator,
    names: 1,
    goal: "decide who is paid",
    gain: "bribes",
    stopped_by: "R5: an outcome takes a threshold of opened scores that agree; C6: scores that contradict the attested ones evict",
    left: "once: after the first false scores it is out",
    make: || Box::new(Misjudge),
};

struct Misjudge;

impl Attacker for Misjudge {
    fn judged(&mut self, desk: &mut Desk<'_>, mut judged: Judged) -> Option<Judged> {
        if desk.tries(700) {
            for (_, _, measurement) in &mut judged.measured.claims {
                if let Measurement::Scored(scores) = measurement {
                    scores.shard.sum_unat += 1_000;
                }
            }
        }
        Some(judged)
    }
}
