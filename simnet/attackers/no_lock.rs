//! Offers and deals, and then does not lock what it promised: nothing, a part, or too late.
//!
//! The work of a round is worth something to a sponsor as soon as it is shown. This one hopes that it is shown for a
//! promise.

use super::{Attacker, Desk, Kind, Role};
use crate::sim::Out;
use oda_consensus::ids::PaymentHash;
use std::collections::BTreeMap;

pub(super) const KIND: Kind = Kind {
    name: "no_lock",
    rows: &[15],
    role: Role::Sponsor,
    names: 1,
    goal: "get work for a promise",
    gain: "a round's work",
    stopped_by: "R2: a trainer shows its work only when its own node holds every payment of the claim; what came in part goes back",
    left: "trainers train before the lock and so lose their time, for as long as they choose to work for such a sponsor",
    make: || Box::new(NoLock::default()),
};

#[derive(Default)]
struct NoLock {
    late: BTreeMap<PaymentHash, (u64, Out)>,
}

/// Too late for the round.
const LATE_MS: u64 = 15 * 60_000;

impl Attacker for NoLock {
    fn out(&mut self, desk: &mut Desk<'_>, out: Out) -> Vec<Out> {
        let Out::Pay { payment_hash, .. } = &out else { return vec![out] };
        let hash = *payment_hash;
        let escrow = desk.state.escrows().find_map(|e| {
            let place = e.tranches.iter().position(|t| t.payment_hash == hash)?;
            Some((e.id, place))
        });
        let Some((id, place)) = escrow else { return vec![out] };
        // every escrow its own way, the same for all its tranches
        match id.0.first().map_or(0, |byte| byte % 3) {
            _ if !desk.tries(1_000) => vec![out],
            0 => Vec::new(),
            1 if place == 0 => vec![out],
            1 => Vec::new(),
            _ => {
                self.late.insert(hash, (desk.now_ms + LATE_MS, out));
                Vec::new()
            }
        }
    }

    fn tick(&mut self, desk: &mut Desk<'_>) -> Vec<Out> {
        let due: Vec<PaymentHash> =
            self.late.iter().filter(|(_, (at, _))| *at <= desk.now_ms).map(|(hash, _)| *hash).collect();
        due.into_iter().filter_map(|hash| self.late.remove(&hash)).map(|(_, out)| out).collect()
    }
}
