//! Says again what others said: messages of committees, votes, transactions of now and of long ago, and their claims
//! under its own name.
//!
//! What was true once may be taken twice: a commitment paid again in a later round, a nonce used again, an old proof of
//! an old beacon. It joins the gossip, keeps what it hears, and repeats it word for word.

use super::{Attacker, Desk, Kind, Role};
use crate::learning::Work;
use crate::sim::{Addr, Msg, Out};
use oda_consensus::codec;
use oda_consensus::engine::trainer::TrainJob;
use oda_consensus::frost::SignMessage;
use oda_consensus::tx::{Reveal, SignedTx, Tx, claim_id};
use oda_consensus::wire::{CommitteeMessage, SignedCommitteeEnvelope};
use std::rc::Rc;

pub(super) const KIND: Kind = Kind {
    name: "replay",
    rows: &[9],
    role: Role::Outsider,
    names: 1,
    goal: "be paid for what was paid before, or have something counted twice",
    gain: "another's work, or confusion",
    stopped_by: "R1: a commitment binds trainer, head and round; C5: a nonce is used once; L2: a transaction that was applied does \
                 not apply again; S3: a beacon is bound to its input",
    left: "the bytes it sends",
    make: || Box::new(Replay::default()),
};

#[derive(Default)]
struct Replay {
    heard: Vec<Msg>,
    from: usize,
}

const KEPT: usize = 600;
const AT_ONCE: usize = 12;

impl Replay {
    /// The same claim and its opening, as if it were its own.
    fn mine(desk: &Desk<'_>, tx: &SignedTx) -> Option<Tx> {
        match &tx.tx {
            Tx::Commit(commit) => Some(Tx::Commit(*commit)),
            Tx::Reveal(reveal) => {
                let theirs = desk.state.claim(reveal.claim)?;
                let claim = claim_id(theirs.model, theirs.round, desk.me);
                Some(Tx::Reveal(Reveal { claim, ..*reveal }))
            }
            Tx::Settle(escrow, preimages) => Some(Tx::Settle(*escrow, preimages.clone())),
            _ => None,
        }
    }
}

impl Attacker for Replay {
    fn work(&mut self, _: &mut Desk<'_>, _: &TrainJob) -> Option<Work> {
        None
    }

    fn hears(&mut self, desk: &mut Desk<'_>, _: Addr, msg: &Msg) -> Vec<Out> {
        let keeps = match msg {
            Msg::Committee(bytes) => codec::decode::<SignedCommitteeEnvelope>(bytes).is_ok_and(|signed| {
                !matches!(signed.envelope.message, CommitteeMessage::Sign(SignMessage::Nonces { .. }))
            }),
            Msg::Bft(_) => desk.dice.milli(50),
            Msg::Tx(_) | Msg::Block(_) => true,
            Msg::Ask(_) | Msg::Answer(..) | Msg::Noise(_) => false,
        };
        if keeps && self.heard.len() >= KEPT {
            let place = usize::try_from(desk.dice.below(KEPT as u64)).unwrap_or(0);
            self.heard.swap_remove(place);
        }
        if keeps {
            self.heard.push(msg.clone());
        }
        let Msg::Tx(tx) = msg else { return Vec::new() };
        let mine = Self::mine(desk, tx).filter(|_| tx.signer != desk.me && desk.tries(500));
        mine.map(|tx| Out::Tx(Rc::new(SignedTx::new(tx, &desk.key, desk.chain)))).into_iter().collect()
    }

    fn tick(&mut self, desk: &mut Desk<'_>) -> Vec<Out> {
        self.from = self.from.wrapping_add(AT_ONCE);
        let many = if desk.tries(1_000) { AT_ONCE } else { 0 };
        let pick = |i: usize| self.heard.get(self.from.wrapping_add(i).checked_rem(self.heard.len())?).cloned();
        let again: Vec<Out> = (0..many).filter_map(pick).map(|msg| Out::Raw(None, msg)).collect();
        *desk.gang.notes.entry("repeated").or_default() += again.len() as u64;
        again
    }
}
