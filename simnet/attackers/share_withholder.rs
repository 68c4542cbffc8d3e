//! Spoils or keeps back what only members can give: signature shares, finished signatures, shares of preimages.
//!
//! Whoever can stop attestations can ask to be paid for letting them go on. A session without it is one of t others; a
//! spoilt share names it; and t of n members rebuild a preimage.

use super::{Attacker, Desk, Kind, Role};
use crate::sim::Out;
use oda_consensus::frost::SignMessage;
use oda_consensus::tx::Tx;
use oda_consensus::wire::{CommitteeMessage, Request, Response};
use std::rc::Rc;

pub(super) const KIND: Kind = Kind {
    name: "share_withholder",
    rows: &[16],
    role: Role::Validator,
    names: 1,
    goal: "stop outcomes, handovers and payments until it is paid",
    gain: "a ransom",
    stopped_by: "C4: a session asks t others beside it, at most n - t + 1 sessions; C6: an invalid share convicts; P4: t \
                 good shares of a preimage are enough, and bad ones are left out",
    left: "silence costs an attempt some 0.2 s, a silent leader 4 s; n - t + 1 such members stop the committee (C3)",
    make: || Box::new(Withholder),
};

struct Withholder;

impl Attacker for Withholder {
    fn out(&mut self, desk: &mut Desk<'_>, out: Out) -> Vec<Out> {
        match out {
            Out::Committee(epoch, CommitteeMessage::Sign(SignMessage::Share { id, request, mut share, next })) => {
                if desk.tries(400) {
                    return Vec::new();
                }
                if let Some(byte) = share.last_mut().filter(|_| desk.tries(300)) {
                    *byte ^= 1;
                    *desk.gang.notes.entry("spoiled").or_default() += 1;
                }
                vec![Out::Committee(epoch, CommitteeMessage::Sign(SignMessage::Share { id, request, share, next }))]
            }
            Out::Answer(to, request, response) => {
                let mut response = response.as_ref().clone();
                if let (Request::Shares(_), Response::Shares(shares)) = (request.as_ref(), &mut response) {
                    if desk.tries(500) {
                        shares.clear();
                    }
                    // as if it were another's
                    shares.iter_mut().for_each(|(_, share)| share.index = (share.index + 1) % 4);
                }
                vec![Out::Answer(to, request, Rc::new(response))]
            }
            out => {
                let signed = |tx: &Tx| matches!(tx, Tx::Outcome(..) | Tx::Handover(..) | Tx::Checkpoint(..));
                match desk.own_tx(&out).filter(|said| signed(&said.tx)).cloned() {
                    Some(said) if desk.tries(700) => desk.instead(&said, Vec::new()),
                    _ => vec![out],
                }
            }
        }
    }
}
