//! Takes locks under many names and holds them to the end: it opens nothing, claims nothing and fails nothing back.
//!
//! A held payment costs its payee nothing and binds the payer's money, and one of the HTLC slots of its channel. Enough of
//! them and a sponsor cannot pay anybody.

use super::{Attacker, Desk, Kind, Role};
use crate::learning::Work;
use crate::sim::Out;
use crate::sim::lightning::MAX_HOLD_BLOCKS;
use oda_consensus::engine::trainer::TrainJob;
use oda_consensus::tx::Tx;
use oda_consensus::wire::Request;
use std::rc::Rc;

pub(super) const KIND: Kind = Kind {
    name: "jammer",
    rows: &[14],
    role: Role::Trainer,
    names: 4,
    goal: "bind a sponsor's money and channels",
    gain: "rivals unpaid; a ransom",
    stopped_by: "P3, P4: a hold ends at its deadline whatever the payee does; P8: one claim a name and round, a cap on claims, and \
                 a fee for each submission if the sponsor asks one; a channel has its own slots",
    left: "without a fee each name binds one claim's tranches a round, for up to 1,008 blocks; and R3 makes a round in which it \
           never reveals wait until its time is over, which costs the others rounds",
    make: || Box::new(Jammer),
};

struct Jammer;

impl Attacker for Jammer {
    fn work(&mut self, _: &mut Desk<'_>, _: &TrainJob) -> Option<Work> {
        Some(Work::Noise)
    }

    fn out(&mut self, desk: &mut Desk<'_>, out: Out) -> Vec<Out> {
        if desk.own_tx(&out).is_some_and(|said| matches!(said.tx, Tx::Reveal(_) | Tx::Settle(..))) {
            return Vec::new();
        }
        match out {
            Out::Claim(..) | Out::Fail(_) => Vec::new(),
            Out::Tell(to, request) => {
                let mut request = request.as_ref().clone();
                if let Request::Invoice { bolt11, .. } = &mut request
                    && let Some((head, _)) = bolt11.rsplit_once(':')
                {
                    // the longest hold the payer's wallet will agree to
                    *bolt11 = format!("{head}:{MAX_HOLD_BLOCKS}");
                }
                vec![Out::Tell(to, Rc::new(request))]
            }
            out => vec![out],
        }
    }
}
