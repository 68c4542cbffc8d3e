//! Spoils key generations: deals boxes nobody can read and does not open them, or a package that proves nothing.
//!
//! While no new committee has its key the old one stays in charge. A member that is in it and fears the next draw
//! gains time, if a key generation can be spoilt again and again.

use super::{Attacker, Desk, Kind, Role};
use crate::sim::Out;
use oda_consensus::frost::{EncryptionSecret, EpochSeed, deal_round1, dkg_context};
use oda_consensus::tx::{DkgMessage, DkgStep, Tx};

pub(super) const KIND: Kind = Kind {
    name: "bad_dealer",
    rows: &[16],
    role: Role::Validator,
    names: 1,
    goal: "keep the committee it sits in",
    gain: "more epochs in charge than the draw gave it",
    stopped_by: "C2: each step has a deadline, who misses it is left out, the next of the order takes the place; C6: opened \
                 shares that do not fit convict",
    left: "silence is counted, not punished: it delays a key generation by a step, once for each draw it is in",
    make: || Box::new(BadDealer),
};

struct BadDealer;

impl BadDealer {
    fn step(desk: &mut Desk<'_>, m: &DkgMessage) -> Option<Option<DkgStep>> {
        let state = desk.state.clone();
        let members = &state.dkg().filter(|d| (d.epoch, d.attempt) == (m.epoch, m.attempt))?.members;
        let index = members.iter().position(|member| *member == desk.me)?;
        match &m.step {
            DkgStep::Deal(_) if desk.tries(250) => {
                // its proof is for another place of the committee
                let context = dkg_context(desk.chain, m.epoch, m.attempt);
                let place = (index + 1) % members.len();
                let seed = EpochSeed::random(&mut desk.dice.0);
                Some(deal_round1(&seed, context, place, members.len()).ok().map(DkgStep::Deal))
            }
            DkgStep::Share(_) if desk.tries(800) => {
                let nobody = |i| EncryptionSecret::derive(&[200_u8.wrapping_add(i); 32]).public();
                let keys: Vec<_> = (0u8..).take(members.len()).map(nobody).collect();
                let seed = desk.full.as_ref()?.seed(m.epoch)?;
                let transcript = state.transcript(m.epoch, m.attempt, members)?;
                Some(transcript.deal_round2(&seed, index, &keys).ok().map(DkgStep::Share))
            }
            DkgStep::Open(..) => Some(None),
            _ => None,
        }
    }
}

impl Attacker for BadDealer {
    fn out(&mut self, desk: &mut Desk<'_>, out: Out) -> Vec<Out> {
        let Some(said) = desk.own_tx(&out).cloned() else { return vec![out] };
        let Tx::Dkg(message) = &said.tx else { return vec![out] };
        let (epoch, attempt) = (message.epoch, message.attempt);
        match Self::step(desk, message) {
            Some(step) => {
                let others = step.map(|step| Tx::Dkg(DkgMessage { epoch, attempt, step }));
                desk.instead(&said, others.into_iter().collect())
            }
            None => vec![out],
        }
    }
}
