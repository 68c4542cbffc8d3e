//! Beacon shares (S3): given out once the ledger says a draw or a round's samples are due, never before.
//!
//! Before that, nobody short of a threshold of members knows the value; after that, nobody can change
//! what it is for. Shares are collected by every member, and the members take turns in putting the
//! combined proof on the ledger.

use super::epochs::Epochs;
use super::{Effects, ValidatorEffect, again};
use crate::beacon::{BeaconInput, Partial};
use crate::codec;
use crate::epoch::draw_input;
use crate::ids::{Digest, ModelId, NodeId};
use crate::outcome::samples_input;
use crate::state::State;
use crate::tx::Tx;
use rand_core::{CryptoRng, RngCore};
use std::collections::{BTreeMap, VecDeque};

/// Shares kept of one member that are not due here: it may be a block ahead. Its oldest makes room, so a
/// flood crowds out only its sender's.
const MAX_EARLY: usize = 32;

#[derive(Default)]
struct Duty {
    told: Option<u64>,
    submitted: Option<u64>,
    good: BTreeMap<u16, Partial>,
}

#[derive(Default)]
pub(super) struct Beacons {
    duties: BTreeMap<(u64, Digest), Duty>,
    /// By epoch and member.
    early: BTreeMap<(u64, u16), VecDeque<(Digest, Partial)>>,
}

/// Why a beacon is due.
enum Purpose {
    Draw(u64),
    Seal(ModelId),
}

/// Beacons that are due: the epoch whose key evaluates, the input, and what for.
fn due(state: &State) -> Vec<(u64, BeaconInput, Purpose)> {
    let mut due = Vec::new();
    if state.may_draw() {
        let (epoch, next) = (state.current().number, state.current().number.saturating_add(1));
        due.push((epoch, draw_input(state.chain(), next), Purpose::Draw(next)));
    }
    for (id, model) in state.models() {
        if let Some(round) = &model.round
            && let (Some(judges), None) = (round.judges, round.sealed)
        {
            due.push((judges, samples_input(state.chain(), id, round.number), Purpose::Seal(id)));
        }
    }
    due
}

fn name(input: &BeaconInput) -> Digest {
    Digest(codec::hash(input))
}

impl Beacons {
    pub fn received(&mut self, state: &State, from: NodeId, epoch: u64, input: BeaconInput, partial: Partial) {
        let place = state.epoch_state(epoch).and_then(|e| e.group.index_of(from));
        if place != Some(usize::from(partial.index)) {
            return;
        }
        let (name, early) = (name(&input), self.early.entry((epoch, partial.index)).or_default());
        early.retain(|(known, _)| *known != name);
        early.push_back((name, partial));
        if early.len() > MAX_EARLY {
            early.pop_front();
        }
    }

    pub fn follow(&mut self, state: &State, epochs: &Epochs, rng: &mut (impl RngCore + CryptoRng), out: &mut Effects) {
        let height = state.tip().height;
        let due = due(state);
        let names: Vec<(u64, Digest)> = due.iter().map(|(epoch, input, _)| (*epoch, name(input))).collect();
        self.duties.retain(|key, _| names.contains(key));
        let oldest = state.current().number.saturating_sub(2);
        self.early.retain(|(epoch, ..), _| *epoch >= oldest);
        for ((epoch, input, purpose), key) in due.into_iter().zip(names) {
            let (Some(seat), Some(committee)) = (epochs.seat(epoch), state.epoch_state(epoch)) else { continue };
            let duty = self.duties.entry(key).or_default();
            if again(duty.told, height) {
                duty.told = Some(height);
                let partial = seat.beacon.partial(&input, rng);
                duty.good.insert(seat.index, partial.clone());
                out.push(ValidatorEffect::Tell(epoch, input, partial));
            }
            for ((_, member), early) in self.early.range_mut((key.0, 0)..=(key.0, u16::MAX)) {
                let Some(at) = early.iter().position(|(name, _)| *name == key.1) else { continue };
                if let Some((_, partial)) = early.remove(at)
                    && !duty.good.contains_key(member)
                    && committee.beacon.verify_partial(&input, &partial)
                {
                    duty.good.insert(*member, partial);
                }
            }
            let n = committee.group.members().len() as u64;
            let my_turn = height % n == u64::from(seat.index);
            if duty.good.len() < committee.group.threshold() || !(my_turn && again(duty.submitted, height)) {
                continue;
            }
            let partials: Vec<Partial> = duty.good.values().cloned().collect();
            let Ok((_, proof)) = committee.beacon.combine(&input, &partials) else { continue };
            duty.submitted = Some(height);
            match purpose {
                Purpose::Draw(next) => out.push(ValidatorEffect::Submit(Tx::Draw(next, proof))),
                Purpose::Seal(model) => {
                    if let Some(seal) = state.seal_of(model) {
                        out.push(ValidatorEffect::Submit(Tx::Seal(seal, proof)));
                    }
                }
            }
        }
    }
}
