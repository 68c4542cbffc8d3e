//! Key generations and seats (C1, C2): what this node deals, and which committees' shares it holds.
//!
//! Everything follows from a seed on disk and the ledger, so a node that restarts in the middle of a key
//! generation says the same again and never something else.

use super::{Effects, ValidatorEffect, again};
use crate::beacon::BeaconShare;
use crate::frost::{EncryptionSecret, EpochSeed, deal_round1, dkg_context};
use crate::ids::NodeId;
use crate::state::{DkgPhase, DkgState, State};
use crate::tx::{DkgMessage, DkgStep, Tx};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A committee is of use for so many epochs after its own: its rounds and payments may still be open.
const USEFUL_EPOCHS: u64 = 2;

/// A place in a committee.
pub(super) struct Seat {
    pub index: u16,
    pub beacon: BeaconShare,
    attempt: u32,
}

pub(super) struct Epochs {
    encryption: Arc<EncryptionSecret>,
    seeds: BTreeMap<u64, EpochSeed>,
    asked: BTreeSet<u64>,
    seats: BTreeMap<u64, Seat>,
    /// Attempts whose share could not be computed: not tried again.
    broken: BTreeSet<(u64, u32)>,
    said: BTreeMap<(u64, u32, u8, u16), u64>,
}

impl Epochs {
    pub fn new(encryption: Arc<EncryptionSecret>) -> Self {
        let (seeds, asked, seats, said) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new(), BTreeMap::new());
        Self { encryption, seeds, asked, seats, broken: BTreeSet::new(), said }
    }

    pub fn has_seat(&self, epoch: u64) -> bool {
        self.seats.contains_key(&epoch)
    }

    pub fn seat(&self, epoch: u64) -> Option<&Seat> {
        self.seats.get(&epoch)
    }

    pub fn seed(&mut self, epoch: u64, seed: EpochSeed) {
        self.seeds.insert(epoch, seed);
    }

    pub fn follow(&mut self, me: NodeId, state: &State, out: &mut Effects) {
        self.take_seats(me, state, out);
        if let Some(dkg) = state.dkg()
            && let Some(index) = dkg.members.iter().position(|m| *m == me)
        {
            if !self.seeds.contains_key(&dkg.epoch) {
                self.ask(dkg.epoch, dkg.phase == DkgPhase::Deal, out);
            } else {
                let steps = self.steps(state, dkg, index);
                steps.into_iter().for_each(|step| self.say(state, dkg, step, out));
            }
        }
        self.forget(state, out);
    }

    fn ask(&mut self, epoch: u64, fresh: bool, out: &mut Effects) {
        if self.asked.insert(epoch) {
            out.push(ValidatorEffect::LoadSeed { epoch, fresh });
        }
    }

    /// Computes the shares of the committees this node sits in, the coming one included.
    fn take_seats(&mut self, me: NodeId, state: &State, out: &mut Effects) {
        // the key generation was repeated without this node: its share is of nobody's key
        let lost = |e: u64| state.epoch_state(e).is_some_and(|known| known.group.index_of(me).is_none());
        let over: Vec<u64> = self.seats.keys().copied().filter(|e| lost(*e)).collect();
        for epoch in over {
            self.seats.remove(&epoch);
            out.push(ValidatorEffect::Unseat(epoch));
        }
        let now = state.current().number;
        let known = (now.saturating_sub(USEFUL_EPOCHS)..=now).filter_map(|e| state.epoch_state(e));
        for epoch in known.chain(state.coming()) {
            let (number, attempt) = (epoch.number, epoch.attempt);
            let Some(index) = epoch.group.index_of(me) else { continue };
            if self.seats.get(&number).is_some_and(|s| s.attempt == attempt) || self.broken.contains(&(number, attempt))
            {
                continue;
            }
            let Some(seed) = self.seeds.get(&number) else {
                self.ask(number, false, out);
                continue;
            };
            let shares = state
                .transcript(number, attempt, epoch.group.members())
                .ok_or_else(|| "the ledger lacks its key generation".to_string())
                .and_then(|t| t.shares(seed, index, &self.encryption).map_err(|e| e.to_string()));
            let place = u16::try_from(index).unwrap_or(u16::MAX);
            match shares {
                Ok((share, beacon)) if share.belongs_to(&epoch.group, me) && beacon.belongs_to(&epoch.beacon) => {
                    self.seats.insert(number, Seat { index: place, beacon, attempt });
                    out.push(ValidatorEffect::Seat { epoch: number, group: Box::new(epoch.group.clone()), share });
                }
                Ok(_) => drop(self.broken.insert((number, attempt))),
                Err(why) => {
                    self.broken.insert((number, attempt));
                    out.push(ValidatorEffect::Blame { node: me, why: format!("no share of epoch {number}: {why}") });
                }
            }
        }
    }

    /// What this member has to say in the running key generation: one step, or all answers to complaints at
    /// once, since there may be more of them than blocks to answer in.
    fn steps(&self, state: &State, dkg: &DkgState, index: usize) -> Vec<DkgStep> {
        if dkg.phase == DkgPhase::Open {
            return self.openings(state, dkg, index).unwrap_or_default();
        }
        self.step(state, dkg, index).into_iter().collect()
    }

    fn openings(&self, state: &State, dkg: &DkgState, index: usize) -> Option<Vec<DkgStep>> {
        let (me, place) = (*dkg.members.get(index)?, u16::try_from(index).ok()?);
        let dealing = state.dealing(dkg.epoch, dkg.attempt, me)?;
        let open = |r: &u16| dealing.opened.iter().all(|(done, _)| done != r);
        let asked = dkg.complaints.iter().filter(|(_, dealer)| *dealer == place).map(|(r, _)| *r).filter(open);
        let asked: Vec<u16> = asked.collect();
        let (seed, transcript) = (self.seeds.get(&dkg.epoch)?, state.transcript(dkg.epoch, dkg.attempt, &dkg.members)?);
        let answer = |r: u16| Some(DkgStep::Open(r, transcript.open_for(seed, index, usize::from(r)).ok()?));
        Some(asked.into_iter().filter_map(answer).collect())
    }

    fn step(&self, state: &State, dkg: &DkgState, index: usize) -> Option<DkgStep> {
        let me = *dkg.members.get(index)?;
        if dkg.done.contains(&me) {
            return None;
        }
        let seed = self.seeds.get(&dkg.epoch)?;
        let context = dkg_context(state.chain(), dkg.epoch, dkg.attempt);
        let transcript = || state.transcript(dkg.epoch, dkg.attempt, &dkg.members);
        match dkg.phase {
            DkgPhase::Deal => deal_round1(seed, context, index, dkg.members.len()).ok().map(DkgStep::Deal),
            DkgPhase::Share => {
                let keys = state.encryption_keys(&dkg.members)?;
                transcript()?.deal_round2(seed, index, &keys).ok().map(DkgStep::Share)
            }
            DkgPhase::Confirm => Some(DkgStep::Confirm(transcript()?.bad_dealers(index, &self.encryption))),
            DkgPhase::Open | DkgPhase::Done | DkgPhase::Failed => None,
        }
    }

    fn say(&mut self, state: &State, dkg: &DkgState, step: DkgStep, out: &mut Effects) {
        let (kind, part) = match &step {
            DkgStep::Deal(_) => (0, 0),
            DkgStep::Share(_) => (1, 0),
            DkgStep::Confirm(_) => (2, 0),
            DkgStep::Open(recipient, _) => (3, *recipient),
        };
        let (key, height) = ((dkg.epoch, dkg.attempt, kind, part), state.tip().height);
        if again(self.said.get(&key).copied(), height) {
            self.said.insert(key, height);
            let (epoch, attempt) = (dkg.epoch, dkg.attempt);
            out.push(ValidatorEffect::Submit(Tx::Dkg(DkgMessage { epoch, attempt, step })));
        }
    }

    fn forget(&mut self, state: &State, out: &mut Effects) {
        let oldest = state.current().number.saturating_sub(USEFUL_EPOCHS);
        let old: Vec<u64> = self.seats.range(..oldest).map(|(e, _)| *e).collect();
        for epoch in old {
            self.seats.remove(&epoch);
            out.push(ValidatorEffect::Unseat(epoch));
        }
        let old: Vec<u64> = self.asked.range(..oldest).copied().collect();
        for epoch in old {
            self.asked.remove(&epoch);
            self.seeds.remove(&epoch);
            out.push(ValidatorEffect::ForgetSeed(epoch));
        }
        self.said.retain(|(epoch, ..), _| *epoch >= oldest);
        self.broken.retain(|(epoch, _)| *epoch >= oldest);
    }
}
