//! Looks at what a beacon will be before others do, and keeps its share back unless it likes it.
//!
//! Who can make one of two values come true sits in more committees than its share and draws its samples twice. It
//! collects the others' shares, computes the value, and gives its own only if that seats it; it keeps others' proofs
//! out of its own blocks, lets sessions it leads go by, and gives out proofs of its own making.

use super::{Attacker, Desk, Kind, Role};
use crate::sim::{Addr, Msg, Out};
use oda_consensus::beacon::{BeaconInput, Partial};
use oda_consensus::codec;
use oda_consensus::epoch::{draw_input, draw_order};
use oda_consensus::frost::SignMessage;
use oda_consensus::ids::TxId;
use oda_consensus::tx::Tx;
use oda_consensus::wire::{CommitteeMessage, SignedCommitteeEnvelope};
use std::collections::BTreeMap;

pub(super) const KIND: Kind = Kind {
    name: "grinder",
    rows: &[18],
    role: Role::Validator,
    names: 1,
    goal: "choose among several values of a beacon",
    gain: "seats in more committees, samples that suit its friends",
    stopped_by: "S3: the value is one function of the key and the input, whoever gives shares and whatever proof is shown; any \
                 t shares are enough, and every member submits in turn",
    left: "silence: n - t + 1 members together stop the beacon; t together know values ahead (C3)",
    make: || Box::new(Grinder::default()),
};

#[derive(Default)]
struct Grinder {
    partials: BTreeMap<(u64, BeaconInput), BTreeMap<u16, Partial>>,
    mine: BTreeMap<(u64, BeaconInput), Partial>,
    disliked: Vec<TxId>,
}

const KEPT: usize = 64;

impl Grinder {
    /// Whether it likes the value, if it can know it.
    fn likes(&self, desk: &Desk<'_>, epoch: u64, input: BeaconInput) -> Option<bool> {
        let known: Vec<Partial> = self.partials.get(&(epoch, input))?.values().cloned().collect();
        let (beacon, _) = desk.state.epoch_state(epoch)?.beacon.combine(&input, &known).ok()?;
        if input != draw_input(desk.chain, epoch + 1) {
            return Some(beacon.0.first().is_some_and(|byte| byte % 2 == 0));
        }
        let order = draw_order(beacon, &desk.state.federation().candidates);
        Some(order.iter().take(desk.state.validators().len()).any(|member| *member == desk.me))
    }

    fn note(&mut self, epoch: u64, input: BeaconInput, partial: Partial) {
        self.partials.entry((epoch, input)).or_default().insert(partial.index, partial);
        if self.partials.len() > KEPT {
            self.partials.pop_first();
        }
    }
}

impl Attacker for Grinder {
    fn hears(&mut self, desk: &mut Desk<'_>, _: Addr, msg: &Msg) -> Vec<Out> {
        match msg {
            Msg::Committee(bytes) => {
                let Ok(signed) = codec::decode::<SignedCommitteeEnvelope>(bytes) else { return Vec::new() };
                let epoch = signed.envelope.epoch;
                let CommitteeMessage::Partial(input, partial) = signed.envelope.message else { return Vec::new() };
                self.note(epoch, input, partial);
                let liked = self.likes(desk, epoch, input) == Some(true);
                if let Some(mine) = self.mine.remove(&(epoch, input)).filter(|_| liked) {
                    *desk.gang.notes.entry("given").or_default() += 1;
                    return vec![Out::Committee(epoch, CommitteeMessage::Partial(input, mine))];
                }
            }
            Msg::Tx(tx) if matches!(tx.tx, Tx::Draw(..) | Tx::Seal(..)) => self.disliked.push(tx.id()),
            _ => {}
        }
        Vec::new()
    }

    fn out(&mut self, desk: &mut Desk<'_>, out: Out) -> Vec<Out> {
        match out {
            Out::Committee(epoch, CommitteeMessage::Partial(input, partial)) => {
                self.note(epoch, input, partial.clone());
                match self.likes(desk, epoch, input) {
                    Some(true) => vec![Out::Committee(epoch, CommitteeMessage::Partial(input, partial))],
                    _ => {
                        *desk.gang.notes.entry("kept back").or_default() += 1;
                        self.mine.insert((epoch, input), partial);
                        Vec::new()
                    }
                }
            }
            Out::Committee(_, CommitteeMessage::Sign(SignMessage::Request { .. })) if desk.tries(500) => Vec::new(),
            out => {
                let proof = |tx: &Tx| matches!(tx, Tx::Draw(..) | Tx::Seal(..));
                match desk.own_tx(&out).filter(|said| proof(&said.tx)).cloned() {
                    Some(said) if desk.tries(500) => desk.instead(&said, Vec::new()),
                    _ => vec![out],
                }
            }
        }
    }

    fn tick(&mut self, desk: &mut Desk<'_>) -> Vec<Out> {
        for id in std::mem::take(&mut self.disliked) {
            if let Some(full) = &mut desk.full {
                full.unsay(id);
            }
        }
        Vec::new()
    }
}
