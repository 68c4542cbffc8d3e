//! A network from a scenario and a seed.

use super::full::{Duties, genesis_state};
use super::{Addr, Bad, Blobs, Dice, Event, Full, Funding, Ledgers, Lite, Net, Sim, faults};
use crate::attackers::{self, Gang, Role, Seat};
use crate::checks::Checks;
use crate::learning::{Learning, stub::Stub};
use crate::scenario::{LearningKind, Scenario, ScenarioError};
use oda_consensus::frost::EncryptionSecret;
use oda_consensus::genesis::{BitcoinNetwork, Genesis, Validator};
use oda_consensus::ids::NodeId;
use oda_consensus::keys::NodeKey;
use oda_consensus::manifest::Manifest;
use oda_consensus::state::MAX_GUESTS;
use rand_core::SeedableRng;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::rc::Rc;

/// Virtual time begins here: 1 January 2026.
pub const START_MS: u64 = 1_767_225_600_000;

fn key(seed: u64, role: &str, number: u32) -> NodeKey {
    let mut h = blake3::Hasher::new_derive_key("oda simnet key");
    h.update(&seed.to_le_bytes()).update(role.as_bytes()).update(&number.to_le_bytes());
    NodeKey::from_secret(h.finalize().as_bytes())
}

fn learning(kind: LearningKind, seed: u64) -> Result<Box<dyn Learning>, ScenarioError> {
    match kind {
        LearningKind::Stub => Ok(Box::new(Stub::new(seed))),
        #[cfg(feature = "reference")]
        LearningKind::Reference => match crate::learning::reference::Reference::open() {
            Ok(reference) => Ok(Box::new(reference)),
            Err(why) => Err(ScenarioError::Unreadable(why.to_string())),
        },
        #[cfg(not(feature = "reference"))]
        LearningKind::Reference => {
            Err(ScenarioError::Unreadable("built without real weights: build it with the feature `reference`".into()))
        }
    }
}

impl Sim {
    /// Builds the network and starts every node.
    ///
    /// # Errors
    /// If the scenario cannot be run.
    pub fn new(scenario: Scenario, seed: u64) -> Result<Self, ScenarioError> {
        scenario.check()?;
        let mut learning = learning(scenario.learning, seed)?;
        let validators: Vec<NodeKey> = (0..scenario.validators).map(|i| key(seed, "validator", i)).collect();
        let (genesis, seeds) = ceremony(&scenario, &validators, seed)?;
        let unreadable = |e: oda_consensus::genesis::GenesisError| ScenarioError::Unreadable(e.to_string());
        let state = genesis_state(genesis).map_err(unreadable)?;
        let genesis = Rc::new(state.genesis().clone());
        let manifests: Vec<Manifest> =
            (0..scenario.models).map(|i| learning.manifest(&format!("model {i}"), scenario.timing)).collect();
        let mut fulls = Vec::new();
        let mut add = |key: NodeKey, duties: Duties| {
            let addr = Addr(fulls.len() as u32);
            let first = seeds.iter().find(|(id, _)| *id == key.id()).map(|(_, s)| s);
            let entropy = seed ^ (u64::from(addr.0) + 1) << 32;
            fulls.push(Full::new(addr, key, &state, first, duties, entropy));
        };
        for key in validators {
            add(key, Duties { validator: true, funding: None });
        }
        let invited = (0..scenario.trainers).filter(|_| scenario.guests).take(MAX_GUESTS);
        let guests: BTreeSet<NodeId> = invited.map(|i| key(seed, "trainer", i).id()).collect();
        let guests: Vec<NodeId> = guests.into_iter().collect();
        for i in 0..scenario.sponsors {
            let mine = |(m, _): &(usize, &Manifest)| *m as u32 % scenario.sponsors == i;
            let models = manifests.iter().enumerate().filter(mine).map(|(_, m)| m.clone()).collect();
            let (terms, budget_msat, asks_fee) = (scenario.terms, scenario.budget_msat, scenario.fee_msat > 0);
            let funding = Funding { models, terms, budget_msat, guests: guests.clone(), asks_fee };
            add(key(seed, "sponsor", i), Duties { validator: false, funding: Some(funding) });
        }
        for i in 0..scenario.followers {
            add(key(seed, "follower", i), Duties { validator: false, funding: None });
        }
        let block_ms = u64::from(scenario.block_interval_ms);
        let mut bad = BTreeMap::new();
        let mut lites = Vec::new();
        let first_lite = fulls.len() as u32;
        let peers: Vec<Addr> = (0..scenario.validators).map(Addr).collect();
        let mut lite = |role: &str, number: u32| -> Result<Addr, ScenarioError> {
            let addr = Addr(first_lite + lites.len() as u32);
            let entropy = seed ^ (u64::from(addr.0) + 1) << 32;
            let node = Lite::new(addr, key(seed, role, number), genesis.clone(), peers.clone(), block_ms, entropy);
            let node = node.ok_or_else(|| ScenarioError::Unreadable("the genesis has no keys".into()))?;
            lites.push(node);
            Ok(addr)
        };
        for i in 0..scenario.trainers {
            lite("trainer", i)?;
        }
        // hostile validators are the last of those drawn first, so that some sit in the first committee
        let first: Vec<u32> =
            (0..scenario.validators).filter(|i| seeds.iter().any(|(id, _)| *id == fulls[*i as usize].id)).collect();
        let others = (0..scenario.validators).filter(|i| !first.contains(i));
        let mut free: Vec<u32> = others.chain(first.iter().copied()).collect();
        let mut sponsors: Vec<u32> = (0..scenario.sponsors).rev().map(|i| scenario.validators + i).collect();
        for attack in &scenario.attackers {
            let Some(kind) = attackers::kind(&attack.name) else { continue };
            let gang = Rc::new(RefCell::new(Gang::default()));
            let names = scenario.count_of(attack);
            for number in 0..names + attackers::accomplices(kind.name) {
                let addr = match kind.role {
                    _ if number >= names => Some(lite(kind.name, number)?),
                    Role::Validator => free.pop().map(Addr),
                    Role::Sponsor => sponsors.pop().map(Addr),
                    Role::Trainer | Role::Outsider => Some(lite(kind.name, number)?),
                };
                let Some(addr) = addr else { continue };
                let seat = Seat { kind: kind.name, number, names, strength_milli: attack.strength_milli };
                let dice = Dice::new(seed, &format!("{} {number}", kind.name));
                let listens = kind.role == Role::Outsider;
                bad.insert(addr, Bad { attacker: (kind.make)(), seat, gang: gang.clone(), addr, listens, dice });
            }
        }
        surround(&mut lites, &bad);
        let names: BTreeMap<NodeId, Addr> =
            fulls.iter().map(|f| (f.id, f.addr)).chain(lites.iter().map(|l| (l.id, l.addr))).collect();
        let chain = state.chain();
        let mut lightning = super::Lightning::new(seed);
        lightning.failing_milli = scenario.faults.payments_milli;
        let mut checks = Checks::new(state);
        checks.tally.names = names.clone();
        let mut sim = Self {
            seed,
            now_ms: START_MS,
            fulls,
            lites,
            lightning,
            net: Net::new(seed, scenario.weather),
            learning,
            checks,
            events: 0,
            bad,
            ledgers: Ledgers::new(chain),
            blobs: Blobs::default(),
            names,
            chain,
            queue: BinaryHeap::new(),
            pending: BTreeMap::new(),
            serial: 0,
            timers: BTreeMap::new(),
            trace: blake3::Hasher::new(),
            faults: faults::Schedule::new(seed, scenario.faults),
            roles: Dice::new(seed, "roles"),
            settling: false,
            scenario,
        };
        let all: Vec<Addr> = sim.everybody().collect();
        for addr in all {
            let ms = sim.roles.below(block_ms / 4);
            sim.push(ms, Event::Start(addr));
        }
        sim.push(block_ms, Event::Plot);
        sim.begin_faults();
        Ok(sim)
    }
}

/// The first honest trainer knows nobody but those that want to surround it, and one honest node.
fn surround(lites: &mut [Lite], bad: &BTreeMap<Addr, Bad>) {
    let around: Vec<Addr> = bad.values().filter(|b| attackers::surrounds(b.seat.kind)).map(|b| b.addr).collect();
    let victim = lites.iter_mut().find(|l| !bad.contains_key(&l.addr));
    if let Some(victim) = victim.filter(|_| !around.is_empty()) {
        victim.peers.truncate(1);
        victim.peers.extend(around);
    }
}

fn ceremony(
    scenario: &Scenario,
    validators: &[NodeKey],
    seed: u64,
) -> Result<(Genesis, Vec<(NodeId, oda_consensus::frost::EpochSeed)>), ScenarioError> {
    let encryption = |k: &NodeKey| EncryptionSecret::derive(&k.secret()).public();
    let genesis = Genesis {
        name: "simnet".into(),
        bitcoin: BitcoinNetwork::Regtest,
        time_ms: START_MS,
        block_interval_ms: scenario.block_interval_ms,
        validators: validators.iter().map(|k| Validator { node: k.id(), encryption: encryption(k) }).collect(),
        federation: scenario.federation(),
        first_committee: Vec::new(),
    };
    let mut rng = rand_chacha::ChaCha20Rng::seed_from_u64(seed);
    Genesis::ceremony(genesis, &mut rng).map_err(|e| ScenarioError::Unreadable(e.to_string()))
}
