//! A sponsor's decoys (C6): now and then a claim of pure noise under a name of its own, to see whether
//! the committee looks.
//!
//! A decoy goes the way of any claim: commit, lock (dealt like all others, by the sponsor engine), reveal,
//! verdict, refund. No Lightning payment is made for it. Once judged, its seed is shown and every
//! member's part in the verdict goes on its record.

use crate::decoy;
use crate::escrow::{Stage, TrancheStatus};
use crate::ids::{ClaimId, Digest, ModelId, NodeId};
use crate::keys::NodeKey;
use crate::record;
use crate::state::State;
use crate::tx::{Commit, Reveal, SignedTx, Tx, claim_escrow, claim_id, commitment};
use rand_core::{CryptoRng, RngCore};
use std::collections::BTreeMap;

/// All a sponsor must remember of a decoy.
#[derive(Clone, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct DecoyRecord {
    /// Claim.
    pub claim: ClaimId,
    /// Model.
    pub model: ModelId,
    /// Round.
    pub round: u64,
    /// Secret of the name it goes under.
    alias: [u8; 32],
    /// Seed of its noise.
    seed: Digest,
    /// Gain it states, micro-nats: like an honest one's.
    stated_gain_unat: i64,
    /// Over, and shown.
    pub shown: bool,
}
record!(DecoyRecord, b"dcrc", 512);

impl std::fmt::Debug for DecoyRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DecoyRecord({}, <redacted>)", self.claim.short())
    }
}

/// What to do, in order.
#[derive(Debug)]
pub enum DecoyEffect {
    /// Store the record, synced, before any later effect.
    Persist(DecoyRecord),
    /// Keep the delta for those who fetch it.
    Keep(Vec<u8>),
    /// Put a transaction, signed already, before the network.
    Submit(Box<SignedTx>),
}

/// The decoys of one sponsor.
pub struct Decoys {
    me: NodeId,
    percent: u8,
    records: BTreeMap<ClaimId, DecoyRecord>,
    /// Rounds for which the dice are thrown.
    decided: BTreeMap<ModelId, u64>,
}

impl Decoys {
    /// Decoys in so many per cent of the rounds, with the records there were before.
    pub fn new(me: NodeId, percent: u8, records: Vec<DecoyRecord>) -> Self {
        let records = records.into_iter().map(|r| (r.claim, r)).collect();
        Self { me, percent: percent.min(100), records, decided: BTreeMap::new() }
    }

    /// Whether a claim is one of these.
    pub fn contains(&self, claim: ClaimId) -> bool {
        self.records.contains_key(&claim)
    }

    /// After every block; `key` is the sponsor's.
    pub fn follow(&mut self, state: &State, key: &NodeKey, rng: &mut (impl RngCore + CryptoRng)) -> Vec<DecoyEffect> {
        let mut out = Vec::new();
        self.plant(state, rng, &mut out);
        let open: Vec<ClaimId> = self.records.values().filter(|r| !r.shown).map(|r| r.claim).collect();
        for claim in open {
            self.go_on(state, claim, key, &mut out);
        }
        out
    }

    /// Throws the dice once a round, when others have committed already: the first claim starts the clock.
    fn plant(&mut self, state: &State, rng: &mut (impl RngCore + CryptoRng), out: &mut Vec<DecoyEffect>) {
        for (id, model) in state.models() {
            let Some(round) = model.round.as_ref().filter(|r| !r.claims.is_empty() && r.sealed.is_none()) else {
                continue;
            };
            let mine = model.sponsors.iter().any(|s| s.sponsor == self.me);
            if !mine || self.decided.get(&id).is_some_and(|r| *r >= round.number) {
                continue;
            }
            self.decided.insert(id, round.number);
            let known = self.records.values().any(|r| (r.model, r.round) == (id, round.number));
            if known || rng.next_u32() % 100 >= u32::from(self.percent) {
                continue;
            }
            let (mut alias, mut seed) = ([0; 32], Digest([0; 32]));
            rng.fill_bytes(&mut alias);
            rng.fill_bytes(&mut seed.0);
            let record = DecoyRecord {
                claim: claim_id(id, round.number, NodeKey::from_secret(&alias).id()),
                model: id,
                round: round.number,
                alias,
                seed,
                stated_gain_unat: i64::from(rng.next_u32() % 400_000),
                shown: false,
            };
            out.push(DecoyEffect::Persist(record.clone()));
            out.push(DecoyEffect::Keep(decoy::delta(seed, &model.manifest)));
            self.records.insert(record.claim, record);
        }
    }

    /// Says what is due for a decoy; repeated every block until it is on the ledger.
    fn go_on(&mut self, state: &State, id: ClaimId, key: &NodeKey, out: &mut Vec<DecoyEffect>) {
        let Some(r) = self.records.get_mut(&id) else { return };
        let (alias, chain) = (NodeKey::from_secret(&r.alias), state.chain());
        let Some(model) = state.model(r.model) else { return };
        let delta = decoy::delta_ref(r.seed, &model.manifest);
        let submit = |tx: Tx, key: &NodeKey| DecoyEffect::Submit(Box::new(SignedTx::new(tx, key, chain)));
        let current = model.round.as_ref().filter(|round| round.number == r.round && round.sealed.is_none());
        let escrow = state.escrow(claim_escrow(id));
        match (state.claim(id), current) {
            (None, Some(_)) => {
                let (parent, salt) = (model.head.weights.hash, decoy::salt(r.seed));
                let c = commitment(alias.id(), r.model, r.round, parent, delta, r.stated_gain_unat, salt);
                let (model, round) = (r.model, r.round);
                out.push(submit(Tx::Commit(Commit { model, round, parent, commitment: c }), &alias));
            }
            // what it is paid from is its own; the draw goes the way of every claim's
            (Some(_), Some(_)) if escrow.is_some_and(|e| e.stage == Stage::Offered) => {
                out.push(submit(Tx::Choose(claim_escrow(id), decoy::choice(r.seed)), &alias));
            }
            (Some(claim), Some(_)) if claim.reveal.is_none() && escrow.is_some_and(|e| e.stage == Stage::Dealt) => {
                let (stated_gain_unat, salt) = (r.stated_gain_unat, decoy::salt(r.seed));
                out.push(submit(Tx::Reveal(Reveal { claim: id, delta, stated_gain_unat, salt }), &alias));
            }
            (Some(claim), None) => {
                let released = escrow.map(|e| e.with(|s| *s == TrancheStatus::Releasing)).unwrap_or_default();
                if !released.is_empty() {
                    out.push(submit(Tx::Refund(claim_escrow(id), released), &alias)); // nobody was paid for noise
                }
                if claim.judged.is_some() && claim.reveal.is_some() && !claim.decoy {
                    return out.push(submit(Tx::Decoy(id, r.seed), key));
                }
                if escrow.is_none_or(|e| e.is_over()) && claim.judged.is_some() {
                    r.shown = true;
                    out.push(DecoyEffect::Persist(r.clone()));
                }
            }
            (None, None) => {
                // the round closed before it was in
                r.shown = true;
                out.push(DecoyEffect::Persist(r.clone()));
            }
            _ => {}
        }
    }
}
