//! A deterministic network of validators: virtual time, and every delay, loss and crash from one seed.
//!
//! The network checks while it runs, so that no test can forget to: an honest validator never signs two
//! different things (C5, P6), no two honest ones commit different blocks (agreement), nothing invalid is
//! committed (validity), evidence convicts attackers only, and a forged message moves nothing.

use super::attack::{Attacker, Kind, Me, Sending, To};
use arc_malachitebft_core_types::{NilOrVal, VoteType};
use oda_consensus::bft::*;
use oda_consensus::codec;
use oda_consensus::ids::{BlockHash, ChainId, NodeId};
use oda_consensus::keys::NodeKey;
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use std::collections::BTreeMap;
use std::sync::Arc;

pub const CHAIN: ChainId = ChainId([7; 32]);
/// How often an attacker may act on its own.
const TICK_MS: u64 = 250;
/// Most decided blocks in one answer.
const SYNC_BLOCKS: usize = 8;

pub fn key(i: usize) -> Arc<NodeKey> {
    Arc::new(NodeKey::from_secret(&[i as u8 + 1; 32]))
}

/// What every honest validator thinks of a block: blocks name their height first.
pub fn is_valid(height: u64, block: &[u8]) -> bool {
    block.starts_with(format!("{height} ").as_bytes())
}

enum Event {
    Deliver { to: usize, bytes: Vec<u8>, forged: bool },
    Timer(usize, TimeoutToken, u64),
    Host(usize, u32, BftInput),
    Sync(usize),
    Tick(usize),
    Stop(usize),
    Restart(usize),
}

pub struct Node {
    pub key: Arc<NodeKey>,
    pub attacker: Option<Box<dyn Attacker>>,
    bft: Option<Bft>,
    pub life: u32,
    blocks_built: u32,
    /// Stopped by a damaged log until the decided block has been fetched.
    fetching: bool,
    // survive a crash:
    wal: Vec<(u64, Vec<u8>)>,
    pub chain: Vec<(Vec<u8>, CommitCertificate)>,
    timers: BTreeMap<TimeoutToken, u64>,
    pub effects: u64,
}

/// Between these times no message passes from one group of validators to another.
pub struct Partition {
    pub from_ms: u64,
    pub until_ms: u64,
    /// Group of each validator.
    pub groups: Vec<u8>,
}

pub struct Sim {
    seed: u64,
    rng: ChaCha8Rng,
    pub now_ms: u64,
    next: u64,
    queue: BTreeMap<(u64, u64), Event>,
    pub nodes: Vec<Node>,
    pub validators: Vec<NodeId>,
    loss_percent: u32,
    pub partitions: Vec<Partition>,
    /// Until the first time (ms) every message takes up to the second (ms).
    pub slow_until: (u64, u64),
    /// Node 0 crashes when about to carry out this effect of its life.
    pub crash_at: Vec<u64>,
    /// The planted bug: the log is lost in a crash.
    pub forgets_log: bool,
    /// What a crash does to the last log entry.
    pub tears_log: Option<fn(&mut Vec<u8>)>,
    pub votes: BTreeMap<(NodeId, u64, u32, bool), Option<BlockHash>>,
    proposals: BTreeMap<(NodeId, u64, u32), ProposalHeader>,
    /// What honest validators committed.
    decided: BTreeMap<u64, BlockHash>,
    pub evidence: Vec<Evidence>,
    pub trace: blake3::Hasher,
    pub synced: u64,
    /// Messages and certificates refused with an error.
    pub refused: u64,
    /// Restarts refused because of a damaged log.
    pub damaged: u64,
    /// Latest round in which an honest validator decided.
    pub max_round: u32,
}

impl Sim {
    pub fn new(seed: u64, kinds: &[Kind], loss_percent: u32) -> Self {
        let validators: Vec<NodeId> = (0..kinds.len()).map(|i| key(i).id()).collect();
        let nodes = kinds.iter().enumerate().map(|(i, kind)| Node {
            key: key(i),
            attacker: kind.map(|make| make()),
            bft: None,
            life: 0,
            blocks_built: 0,
            fetching: false,
            wal: Vec::new(),
            chain: Vec::new(),
            timers: BTreeMap::new(),
            effects: 0,
        });
        let mut sim = Self {
            seed,
            rng: ChaCha8Rng::seed_from_u64(seed),
            now_ms: 0,
            next: 0,
            queue: BTreeMap::new(),
            nodes: nodes.collect(),
            validators,
            loss_percent,
            partitions: Vec::new(),
            slow_until: (0, 0),
            crash_at: Vec::new(),
            forgets_log: false,
            tears_log: None,
            votes: BTreeMap::new(),
            proposals: BTreeMap::new(),
            decided: BTreeMap::new(),
            evidence: Vec::new(),
            trace: blake3::Hasher::new(),
            synced: 0,
            refused: 0,
            damaged: 0,
            max_round: 0,
        };
        for i in 0..sim.nodes.len() {
            if sim.nodes[i].attacker.as_ref().is_none_or(|a| a.runs()) {
                sim.at(i as u64, Event::Restart(i));
                sim.at(500 + i as u64, Event::Sync(i));
            }
            if sim.nodes[i].attacker.is_some() {
                sim.at(TICK_MS + i as u64, Event::Tick(i));
            }
        }
        sim
    }

    /// n validators, the last f = (n - 1) / 3 of them of one kind.
    pub fn attacked(seed: u64, n: usize, kind: Kind, loss_percent: u32) -> Self {
        let f = (n - 1) / 3;
        let kinds: Vec<Kind> = (0..n).map(|i| if i < n - f { None } else { kind }).collect();
        Self::new(seed, &kinds, loss_percent)
    }

    /// Takes a validator off the network for a while; what it has on disk stays.
    pub fn absent(&mut self, i: usize, from_ms: u64, until_ms: u64) {
        self.at(from_ms + 20, Event::Stop(i)); // after it has started
        self.at(until_ms, Event::Restart(i));
    }

    fn at(&mut self, after_ms: u64, event: Event) {
        self.next += 1;
        self.queue.insert((self.now_ms + after_ms, self.next), event);
    }

    fn lost(&mut self) -> bool {
        self.rng.next_u32() % 100 < self.loss_percent
    }

    fn cut(&self, a: usize, b: usize) -> bool {
        let now = |p: &&Partition| (p.from_ms..p.until_ms).contains(&self.now_ms);
        self.partitions.iter().filter(now).any(|p| p.groups[a] != p.groups[b])
    }

    fn send(&mut self, from: usize, sending: &Sending) {
        for to in 0..self.nodes.len() {
            let meant = match &sending.to {
                To::All => true,
                To::Some(nodes) => nodes.contains(&to),
            };
            if to != from && meant && !self.lost() && !self.cut(from, to) {
                let (slow_until_ms, slow_ms) = self.slow_until;
                let span_ms = if self.now_ms < slow_until_ms { slow_ms } else { 80 };
                let delay_ms = 1 + u64::from(self.rng.next_u32()) % span_ms; // reorders
                let (bytes, forged) = (sending.bytes.clone(), sending.forged);
                self.at(sending.after_ms + delay_ms, Event::Deliver { to, bytes, forged });
            }
        }
    }

    fn is_honest(&self, id: &NodeId) -> bool {
        self.nodes.iter().any(|n| n.key.id() == *id && n.attacker.is_none())
    }

    /// No honest validator ever signs two different things (C5, P6).
    fn check(&mut self, bytes: &[u8]) {
        let votes = match codec::decode::<Message>(bytes).expect("published messages decode") {
            Message::Vote(v) => vec![v],
            Message::Polka(votes) | Message::Round { votes, .. } => votes,
            Message::Proposal(SignedHeader { header, .. }, _) => {
                if self.is_honest(&header.proposer) {
                    let at = (header.proposer, header.height, header.round);
                    let first = self.proposals.entry(at).or_insert_with(|| header.clone());
                    assert_eq!(*first, header, "two proposals, seed {}", self.seed);
                }
                Vec::new()
            }
        };
        for SignedVote { vote: v, .. } in votes {
            if self.is_honest(&v.voter) {
                let block = match v.block {
                    NilOrVal::Nil => None,
                    NilOrVal::Val(id) => Some(id),
                };
                let at = (v.voter, v.height.0, v.round.as_u32().unwrap(), v.kind == VoteType::Precommit);
                assert_eq!(*self.votes.entry(at).or_insert(block), block, "two votes {at:?}, seed {}", self.seed);
            }
        }
    }

    /// Lets the attacker act, if there is one.
    fn attack<T>(&mut self, i: usize, act: impl FnOnce(&mut dyn Attacker, &mut Me<'_>) -> T) -> Option<T> {
        let attackers = self.nodes.iter().map(|n| n.attacker.is_some()).collect();
        let node = &mut self.nodes[i];
        let height = node.chain.len() as u64 + 1;
        let mut me = Me { index: i, key: node.key.clone(), attackers, height, rng: &mut self.rng };
        node.attacker.as_mut().map(|a| act(a.as_mut(), &mut me))
    }

    fn publish(&mut self, i: usize, bytes: Vec<u8>) {
        match self.attack(i, |a, me| a.publish(me, &bytes)) {
            Some(sendings) => sendings.iter().for_each(|s| self.send(i, s)),
            None => {
                self.check(&bytes);
                self.send(i, &Sending::all(bytes));
            }
        }
    }

    /// An honest validator commits a block: valid, and the same everywhere.
    fn commit(&mut self, i: usize, block: Vec<u8>, certificate: CommitCertificate) {
        let height = self.nodes[i].chain.len() as u64 + 1;
        assert_eq!(certificate.height, height);
        assert_eq!(certificate.block, block_id(&block));
        verify_certificate(CHAIN, &self.validators, &certificate).unwrap();
        if self.nodes[i].attacker.is_none() {
            assert!(is_valid(height, &block), "invalid block decided, seed {}", self.seed);
            let first = *self.decided.entry(height).or_insert(certificate.block);
            assert_eq!(first, certificate.block, "fork at {height}, seed {}", self.seed);
            self.max_round = self.max_round.max(certificate.round);
        }
        self.nodes[i].chain.push((block, certificate));
    }

    fn crash(&mut self, i: usize) {
        let node = &mut self.nodes[i];
        node.bft = None;
        node.life += 1;
        node.timers.clear();
        if self.forgets_log {
            node.wal.clear();
        }
        let height = node.chain.len() as u64 + 1;
        if let (Some(tear), Some((_, entry))) = (self.tears_log, node.wal.last_mut().filter(|(h, _)| *h == height)) {
            tear(entry);
        }
    }

    fn carry_out(&mut self, i: usize, effects: Vec<BftEffect>) {
        for effect in effects {
            let node = &mut self.nodes[i];
            node.effects += 1;
            if i == 0 && self.crash_at.first() == Some(&node.effects) {
                self.crash_at.remove(0);
                self.crash(i);
                return self.at(300, Event::Restart(i));
            }
            self.trace.update(format!("{} {i} {effect:?}", self.now_ms).as_bytes());
            let life = node.life;
            match effect {
                BftEffect::WalAppend { height, entry } => node.wal.push((height, entry)),
                BftEffect::Publish(bytes) => self.publish(i, bytes),
                BftEffect::ScheduleTimeout { token, after_ms } => {
                    node.timers.insert(token, self.next + 1);
                    let id = self.next + 1;
                    self.at(after_ms, Event::Timer(i, token, id));
                }
                BftEffect::CancelTimeout(token) => drop(node.timers.remove(&token)),
                BftEffect::CancelTimeouts => node.timers.clear(),
                BftEffect::NeedBlock { height, round, .. } => {
                    node.blocks_built += 1; // a restarted validator builds another block
                    let block = format!("{height} {round} {i} {}", node.blocks_built).into_bytes();
                    let block = self.attack(i, |a, me| a.block(me, block.clone())).unwrap_or(block);
                    self.at(5, Event::Host(i, life, BftInput::Propose { height, round, block }));
                }
                BftEffect::ValidateBlock { height, block, block_id: id, .. } => {
                    assert_eq!(block_id(&block), id);
                    let valid = is_valid(height, &block) || node.attacker.is_some();
                    self.at(3, Event::Host(i, life, BftInput::Validated { height, block_id: id, valid }));
                }
                BftEffect::Decided { block, certificate, .. } => {
                    let height = certificate.height;
                    self.commit(i, block, certificate);
                    let validators = self.validators.clone();
                    self.at(10, Event::Host(i, life, BftInput::StartHeight { height: height + 1, validators }));
                }
                BftEffect::Evidence(evidence) => {
                    let culprit = evidence.culprit(CHAIN).expect("evidence proves something");
                    assert!(!self.is_honest(&culprit), "{culprit} is honest, seed {}", self.seed);
                    self.evidence.push(*evidence);
                }
                BftEffect::Fault { reason } => panic!("{reason}, seed {}", self.seed),
            }
        }
    }

    fn feed(&mut self, i: usize, input: BftInput) -> bool {
        let peaceful = self.nodes.iter().all(|n| n.attacker.is_none());
        let from_outside = matches!(input, BftInput::Message { .. });
        match self.nodes[i].bft.as_mut().map(|b| b.handle(input)) {
            Some(Ok(effects)) => {
                let moved = !effects.is_empty();
                self.carry_out(i, effects);
                moved
            }
            Some(Err(e)) => {
                let late = matches!(e, BftError::HeightPassed { .. });
                assert!(late || (from_outside && !peaceful), "{e}, seed {}", self.seed);
                self.refused += u64::from(from_outside);
                false
            }
            None => false,
        }
    }

    fn restart(&mut self, i: usize) {
        let node = &mut self.nodes[i];
        let height = node.chain.len() as u64 + 1;
        let config = BftConfig { key: node.key.clone(), chain: CHAIN, timeouts: Timeouts::default() };
        let log: Vec<_> = node.wal.iter().filter(|(h, _)| *h == height).map(|(_, e)| e.clone()).collect();
        let mut bft = Bft::new(config, height, &self.validators).unwrap();
        match bft.replay(&log) {
            Ok(effects) => {
                (node.bft, node.fetching) = (Some(bft), false);
                self.carry_out(i, effects);
            }
            Err(BftError::DamagedLog { .. }) => {
                (node.bft, node.fetching) = (None, true); // until the decided block is here
                self.damaged += 1;
            }
            Err(e) => panic!("{e}, seed {}", self.seed),
        }
    }

    /// Asks one peer for the next decided blocks.
    fn sync(&mut self, i: usize) {
        let peer = self.rng.next_u32() as usize % self.nodes.len();
        let lost = self.lost() || self.cut(i, peer);
        for _ in 0..SYNC_BLOCKS {
            let here = &self.nodes[i];
            let next = self.nodes[peer].chain.get(here.chain.len()).cloned();
            let Some(honest) = next.filter(|_| !lost && peer != i && (here.bft.is_some() || here.fetching)) else {
                return;
            };
            let height = here.chain.len() as u64 + 1;
            let (block, certificate) = self.attack(peer, |a, me| a.answer_sync(me, honest.clone())).unwrap_or(honest);
            let proven = certificate.height == height
                && certificate.block == block_id(&block)
                && verify_certificate(CHAIN, &self.validators, &certificate).is_ok();
            if !proven {
                self.refused += 1;
                return;
            }
            self.commit(i, block, certificate);
            self.synced += 1;
            if self.nodes[i].fetching {
                self.restart(i);
            } else {
                let validators = self.validators.clone();
                self.feed(i, BftInput::StartHeight { height: height + 1, validators });
            }
        }
    }

    pub fn step(&mut self) {
        let ((now_ms, _), event) = self.queue.pop_first().expect("something always happens");
        self.now_ms = now_ms;
        match event {
            Event::Deliver { to, bytes, forged } => {
                if let Some(sendings) = self.attack(to, |a, me| a.hear(me, &bytes)) {
                    sendings.iter().for_each(|s| self.send(to, s));
                }
                let honest = self.nodes[to].attacker.is_none();
                let moved = self.feed(to, BftInput::Message { bytes });
                assert!(!(moved && forged && honest), "a forged message moved {to}, seed {}", self.seed);
            }
            Event::Timer(i, token, id) => {
                if self.nodes[i].timers.get(&token) == Some(&id) {
                    self.nodes[i].timers.remove(&token);
                    self.feed(i, BftInput::Timeout(token));
                }
            }
            Event::Host(i, life, input) => {
                if self.nodes[i].life == life {
                    self.feed(i, input);
                }
            }
            Event::Tick(i) => {
                self.at(TICK_MS, Event::Tick(i));
                if let Some(sendings) = self.attack(i, |a, me| a.tick(me)) {
                    sendings.iter().for_each(|s| self.send(i, s));
                }
            }
            Event::Stop(i) => self.crash(i),
            Event::Restart(i) => self.restart(i),
            Event::Sync(i) => {
                self.at(500, Event::Sync(i));
                self.sync(i);
            }
        }
    }

    /// Fewest blocks any honest validator has.
    pub fn slowest(&self) -> usize {
        self.nodes.iter().filter(|n| n.attacker.is_none()).map(|n| n.chain.len()).min().unwrap_or(0)
    }

    /// Runs until a time.
    pub fn run_until(&mut self, until_ms: u64) {
        while self.queue.first_key_value().is_some_and(|((at, _), _)| *at <= until_ms) {
            self.step();
        }
    }

    /// Runs until all honest nodes have this many blocks, within an hour.
    pub fn run(&mut self, heights: usize) {
        self.run_within(heights, 3_600_000);
    }

    /// Runs until all honest nodes have this many blocks, which must be before this time.
    pub fn run_within(&mut self, heights: usize, until_ms: u64) {
        while self.slowest() < heights {
            assert!(self.now_ms < until_ms, "no progress, {} of {heights}, seed {}", self.slowest(), self.seed);
            self.step();
        }
    }
}
