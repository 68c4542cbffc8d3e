//! A deterministic federation: virtual time, and every delay, loss and copy from one seed.
//!
//! Ordering is assumed (tests/bft proves it): at every slot, if more than two thirds of the committee in
//! charge are up, have the last block and hear each other, one of them builds the next from its mempool.
//! Everything else is as in the node: each validator has its own ledger and hears blocks, transactions and
//! committee messages late, twice or not at all; who misses blocks fetches them.
//!
//! The network checks while it runs, so that no test can forget to: all ledgers agree (L2), no honest
//! validator is evicted or says two different things where one is allowed (C6), no honest share of a beacon
//! leaves before the ledger says it is due (S3), nothing honest is refused.

use super::attack::Attacker;
use super::market::Market;
use super::node::{Node, Out};
use oda_consensus::beacon::BeaconInput;
use oda_consensus::codec;
use oda_consensus::engine::validator::{JudgeJob, ValidatorInput};
use oda_consensus::epoch::{EpochChain, Federation, draw_input};
use oda_consensus::evidence::{Evidence, Offence};
use oda_consensus::frost::EncryptionSecret;
use oda_consensus::genesis::{BitcoinNetwork, Genesis, Validator};
use oda_consensus::ids::{Digest, ModelId, NodeId};
use oda_consensus::keys::NodeKey;
use oda_consensus::outcome::samples_input;
use oda_consensus::state::{Round, State, ValidatorStatus};
use oda_consensus::tx::{Block, SignedTx, Tx};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

pub const BLOCK_MS: u64 = 500;
const TICK_MS: u64 = 250;
/// A node that lacks a block for so long fetches it.
const FETCH_MS: u64 = 400;
/// Most blocks fetched in one go.
const FETCH_BLOCKS: usize = 16;

enum Event {
    Slot,
    Tick,
    Committee(usize, usize, Rc<Vec<u8>>),
    Tx(usize, usize, Rc<SignedTx>),
    Block(usize, usize, u64),
    Judged(usize, u32, Box<JudgeJob>),
}

/// What the network does to messages.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    pub delay_ms: (u64, u64),
    pub loss_percent: u64,
    pub twice_percent: u64,
}

pub const CALM: Weather = Weather { delay_ms: (5, 60), loss_percent: 0, twice_percent: 0 };

pub struct Sim {
    seed: u64,
    rng: ChaCha8Rng,
    pub now_ms: u64,
    next: u64,
    queue: BTreeMap<(u64, u64), Event>,
    pub weather: Weather,
    pub nodes: Vec<Node>,
    pub market: Market,
    /// The ledger as decided, and its blocks with the time they were made.
    pub ledger: State,
    pub blocks: Vec<(Block, u64)>,
    pub slots: u64,
    /// Who said what where only one thing may be said.
    said: BTreeMap<(NodeId, Digest), SignedTx>,
    due: BTreeSet<(u64, BeaconInput)>,
    /// Honest shares given out, by input.
    pub told: BTreeMap<(u64, BeaconInput), BTreeSet<NodeId>>,
    /// Height at which each outcome entered, by model.
    pub outcomes: BTreeMap<ModelId, Vec<u64>>,
    /// Height at which each epoch began.
    pub epochs: Vec<u64>,
    pub trace: blake3::Hasher,
    /// Honest messages may be refused as repeated: the network copied them, or an attacker repeats them.
    pub copies: bool,
}

pub fn key(i: usize) -> NodeKey {
    NodeKey::from_secret(&[i as u8 + 1; 32])
}

pub fn federation(committee: u16) -> Federation {
    Federation { committee, epoch_blocks: 24, dkg_blocks: 6, checkpoint_blocks: 8, score_grace_blocks: 3 }
}

impl Sim {
    pub fn new(seed: u64, validators: usize, federation: Federation) -> Self {
        let mut rng = rand_chacha::ChaCha20Rng::seed_from_u64(seed);
        let genesis = Genesis {
            name: "federation".into(),
            bitcoin: BitcoinNetwork::Regtest,
            time_ms: 1,
            block_interval_ms: BLOCK_MS as u32,
            validators: (0..validators)
                .map(key)
                .map(|k| Validator { node: k.id(), encryption: EncryptionSecret::derive(&k.secret()).public() })
                .collect(),
            federation,
            first_committee: Vec::new(),
        };
        let (genesis, seeds) = Genesis::ceremony(genesis, &mut rng).unwrap();
        let ledger = State::new(genesis).unwrap();
        let mut keys: Vec<NodeKey> = (0..validators).map(key).collect();
        keys.sort_by_key(NodeKey::id);
        let nodes = keys.into_iter().enumerate().map(|(i, k)| {
            let dealt = seeds.iter().find(|(id, _)| *id == k.id()).map(|(_, s)| s);
            Node::new(k, ledger.clone(), dealt, seed ^ (i as u64 + 1) << 32)
        });
        let mut sim = Self {
            seed,
            rng: ChaCha8Rng::seed_from_u64(seed),
            now_ms: 1_000,
            next: 0,
            queue: BTreeMap::new(),
            weather: CALM,
            nodes: nodes.collect(),
            market: Market::new(seed, 1),
            ledger,
            blocks: Vec::new(),
            slots: 0,
            said: BTreeMap::new(),
            due: BTreeSet::new(),
            told: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            epochs: vec![1],
            trace: blake3::Hasher::new(),
            copies: false,
        };
        sim.note_due();
        for i in 0..sim.nodes.len() {
            sim.nodes[i].start(sim.now_ms);
            sim.flush(i);
        }
        sim.push(BLOCK_MS, Event::Slot);
        sim.push(TICK_MS, Event::Tick);
        sim
    }

    /// Whose place in `nodes` it is.
    pub fn place(&self, node: NodeId) -> usize {
        self.nodes.iter().position(|n| n.id == node).expect("a validator")
    }

    /// Places of the committee in charge.
    pub fn seated(&self) -> Vec<usize> {
        self.ledger.validators().into_iter().map(|n| self.place(n)).collect()
    }

    pub fn corrupt(&mut self, i: usize, attacker: impl Attacker + 'static) {
        self.nodes[i].attacker = Some(Box::new(attacker));
    }

    pub fn stop(&mut self, i: usize) {
        self.nodes[i].stop();
    }

    pub fn start(&mut self, i: usize) {
        if !self.nodes[i].up {
            self.nodes[i].start(self.now_ms);
            self.flush(i);
        }
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.rng.next_u64() % bound.max(1)
    }

    fn push(&mut self, in_ms: u64, event: Event) {
        self.next += 1;
        self.queue.insert((self.now_ms + in_ms, self.next), event);
    }

    /// When copies of a message arrive, if any does.
    fn deliveries(&mut self, from: usize) -> Vec<u64> {
        let Weather { delay_ms: (least, most), loss_percent, twice_percent } = self.weather;
        if self.below(100) < loss_percent {
            return Vec::new();
        }
        let copies = 1 + usize::from(self.below(100) < twice_percent);
        self.copies |= copies > 1;
        let lag = self.nodes[from].lag_ms;
        (0..copies).map(|_| lag + least + self.below(most - least + 1)).collect()
    }

    fn hears(&self, to: usize, from: usize) -> bool {
        self.nodes[to].up && self.nodes[to].side == self.nodes[from].side
    }

    /// Carries out what a node wants done.
    pub fn flush(&mut self, i: usize) {
        for out in std::mem::take(&mut self.nodes[i].out) {
            let honest = self.nodes[i].attacker.is_none();
            match out {
                Out::Gossip(bytes) => self.gossip(i, bytes),
                Out::Tx(tx) => {
                    self.watch(&tx, honest);
                    let tx = Rc::new(tx);
                    for to in (0..self.nodes.len()).filter(|to| *to != i) {
                        for ms in self.deliveries(i) {
                            self.push(ms, Event::Tx(to, i, tx.clone()));
                        }
                    }
                }
                Out::Judge(job) => {
                    let ms = 100 + self.below(800);
                    let life = self.nodes[i].life;
                    self.push(ms, Event::Judged(i, life, job));
                }
                Out::Told(epoch, input) if honest => {
                    let id = self.nodes[i].id;
                    assert!(self.due.contains(&(epoch, input)), "seed {}: a beacon share too early (S3)", self.seed);
                    self.told.entry((epoch, input)).or_default().insert(id);
                }
                Out::Told(..) => {}
            }
        }
    }

    pub fn gossip(&mut self, from: usize, bytes: Rc<Vec<u8>>) {
        for to in (0..self.nodes.len()).filter(|to| *to != from) {
            for ms in self.deliveries(from) {
                self.push(ms, Event::Committee(to, from, bytes.clone()));
            }
        }
    }

    /// Anybody who sees two different statements in one slot shows them to the ledger (C6).
    fn watch(&mut self, tx: &SignedTx, honest: bool) {
        let Some(slot) = tx.slot() else { return };
        let first = self.said.entry((tx.signer, slot)).or_insert_with(|| tx.clone()).clone();
        if first.tx == tx.tx {
            return;
        }
        assert!(!honest, "seed {}: {} said two things: {}", self.seed, tx.signer.short(), tx.kind());
        let evidence = Tx::Evidence(Evidence::Twice(codec::encode(&first), codec::encode(tx)));
        let tx = SignedTx::new(evidence, self.market.sponsor(), self.ledger.chain());
        self.publish(tx);
    }

    /// A client's transaction goes to every validator.
    pub fn publish(&mut self, tx: SignedTx) {
        let tx = Rc::new(tx);
        for to in 0..self.nodes.len() {
            let ms = 5 + self.below(60);
            self.push(ms, Event::Tx(to, to, tx.clone()));
        }
    }

    /// The validators that could decide the next block now, if they are enough.
    fn quorum(&self) -> Option<Vec<usize>> {
        let members = self.seated();
        let ready = |side: u8| -> Vec<usize> {
            let fit = |i: &usize| {
                let n = &self.nodes[*i];
                n.up && n.side == side && n.height() == self.ledger.tip().height
            };
            members.iter().copied().filter(fit).collect()
        };
        let sides: BTreeSet<u8> = members.iter().map(|i| self.nodes[*i].side).collect();
        sides.into_iter().map(ready).find(|r| 3 * r.len() > 2 * members.len())
    }

    fn slot(&mut self) {
        self.slots += 1;
        for tx in self.market.act(&self.ledger) {
            if !self.nodes.iter().all(|n| !n.up || n.knows(tx.id())) {
                self.publish(tx);
            }
        }
        let Some(ready) = self.quorum() else { return };
        let height = self.ledger.tip().height + 1;
        let proposer = &self.nodes[ready[height as usize % ready.len()]];
        let (block, _) = proposer.state.build(&proposer.mempool, self.ledger.tip().time_ms + BLOCK_MS);
        let proposer = self.place(proposer.id);
        self.ledger.apply(&block).expect("a built block applies");
        self.trace.update(&self.ledger.tip().hash.0);
        self.blocks.push((block, self.now_ms));
        self.check_ledger();
        self.give(proposer);
        for to in (0..self.nodes.len()).filter(|to| *to != proposer) {
            for ms in self.deliveries(proposer) {
                self.push(ms, Event::Block(to, proposer, height));
            }
        }
    }

    /// The node applies the next decided block.
    fn give(&mut self, i: usize) {
        let height = self.nodes[i].height();
        let Some((block, _)) = self.blocks.get(height as usize).cloned() else { return };
        self.nodes[i].apply(&block, self.now_ms);
        let tip = self.nodes[i].state.tip();
        assert_eq!((tip.hash, tip.state_root), (block.header.hash(), block.header.state_root), "L2");
        self.flush(i);
    }

    fn fetch(&mut self, i: usize) {
        let known = (0..self.nodes.len()).filter(|j| self.hears(i, *j) && self.nodes[*j].up);
        let best = known.map(|j| self.nodes[j].height()).max().unwrap_or(0);
        for _ in 0..FETCH_BLOCKS {
            let height = self.nodes[i].height();
            let late = |(_, made): &(Block, u64)| made + FETCH_MS <= self.now_ms;
            if height >= best || !self.blocks.get(height as usize).is_some_and(late) {
                break;
            }
            self.give(i);
        }
    }

    /// What is due on the ledger, by the rules and not by the engine's word: a draw once an epoch began,
    /// the samples of a round once it has its judges.
    fn note_due(&mut self) {
        let epoch = self.ledger.current().number;
        if self.ledger.may_draw() {
            self.due.insert((epoch, draw_input(self.ledger.chain(), epoch + 1)));
        }
        for (id, model) in self.ledger.models() {
            let Some(Round { number, judges: Some(judges), .. }) = model.round else { continue };
            let timing = &model.manifest.timing;
            let close = model.round.as_ref().and_then(|r| r.commits_close(timing)).unwrap_or(u64::MAX);
            assert!(self.ledger.tip().height >= close, "S3: judges only after commits close");
            self.due.insert((judges, samples_input(self.ledger.chain(), id, number)));
        }
    }

    fn check_ledger(&mut self) {
        self.note_due();
        let height = self.ledger.tip().height;
        if usize::try_from(self.ledger.current().number).unwrap() >= self.epochs.len() {
            self.epochs.push(height + 1);
        }
        for model in self.market.models() {
            let heights: Vec<u64> = self.ledger.outcomes(model).map(|o| o.height).collect();
            self.outcomes.insert(model, heights);
        }
        for v in self.ledger.all_validators() {
            if let ValidatorStatus::Evicted(offence) = v.status {
                let convicted = &self.nodes[self.place(v.node)];
                let why = format!("seed {}: honest {} evicted: {offence:?}", self.seed, v.node.short());
                assert!(convicted.attacker.is_some() || offence == Offence::Decision, "{why}");
            }
        }
    }

    fn step(&mut self) {
        let Some(((now_ms, _), event)) = self.queue.pop_first() else { return };
        self.now_ms = now_ms;
        match event {
            Event::Slot => {
                self.push(BLOCK_MS, Event::Slot);
                self.slot();
            }
            Event::Tick => {
                self.push(TICK_MS, Event::Tick);
                for i in (0..self.nodes.len()).filter(|i| self.nodes[*i].up).collect::<Vec<_>>() {
                    self.fetch(i);
                    self.nodes[i].tick(now_ms);
                    self.flush(i);
                }
            }
            Event::Committee(to, from, bytes) if self.hears(to, from) => {
                self.trace.update(&(to as u64).to_le_bytes()).update(blake3::hash(&bytes).as_bytes());
                self.nodes[to].hear(&bytes, now_ms);
                self.flush(to);
            }
            Event::Tx(to, from, tx) if self.hears(to, from) => drop(self.nodes[to].take(&tx)),
            Event::Block(to, from, height) if self.hears(to, from) && self.nodes[to].height() + 1 == height => {
                self.give(to);
            }
            Event::Judged(i, life, job) if self.nodes[i].up && self.nodes[i].life == life => {
                // a delta that cannot be had at first
                let input = if self.below(10) == 0 {
                    ValidatorInput::JudgeFailed { model: job.model, round: job.round }
                } else {
                    ValidatorInput::Judged(self.market.replay(&job, i))
                };
                self.nodes[i].drive(input, now_ms);
                self.flush(i);
            }
            _ => {} // nobody is there to hear it
        }
    }

    pub fn run_slots(&mut self, slots: u64) {
        let until = self.slots + slots;
        while self.slots < until {
            self.step();
        }
    }

    /// Runs until it is so; the slots it took. More than `most` fails the test.
    pub fn run_until(&mut self, what: &str, most: u64, so: impl Fn(&Sim) -> bool) -> u64 {
        let start = self.slots;
        while !so(self) {
            let took = self.slots - start;
            assert!(took <= most, "seed {}: {what}: not within {most} slots; {}", self.seed, self.story());
            self.step();
        }
        self.slots - start
    }

    pub fn story(&self) -> String {
        let round = |m| self.ledger.model(m).and_then(|m| m.round.clone());
        let rounds: Vec<_> = self.market.models().map(round).collect();
        let heights: Vec<_> = self.nodes.iter().map(|n| (n.id.short(), n.up, n.height())).collect();
        let dkg = self.ledger.dkg().map(|d| (d.epoch, d.attempt, d.phase, d.deadline, d.done.len(), d.members.len()));
        let coming = self.ledger.coming().map(|c| (c.number, c.attempt, c.signature.is_some()));
        let epoch = self.ledger.current().number;
        format!("height {} epoch {epoch}\n{heights:?}\n{dkg:?} {coming:?}\n{rounds:?}", self.ledger.tip().height)
    }

    /// Calm weather and all honest validators up: everyone gets the same ledger, every claim its verdict,
    /// and the keys can be followed from the genesis. Returns how many claims were paid.
    pub fn finish(&mut self) -> usize {
        self.weather = CALM;
        for i in 0..self.nodes.len() {
            self.nodes[i].side = 0;
            if self.nodes[i].attacker.is_none() {
                self.start(i);
            }
        }
        self.market.closing = true;
        self.run_until("last rounds", 160, |s| {
            let idle = |m| s.ledger.model(m).and_then(|m| m.round.as_ref()).is_none_or(|r| r.claims.is_empty());
            s.market.models().all(idle)
        });
        self.run_until("all honest validators follow", 20, |s| {
            s.nodes.iter().all(|n| n.attacker.is_some() || n.height() + 1 >= s.ledger.tip().height)
        });
        let mut chain = EpochChain::new(self.ledger.genesis()).unwrap();
        for link in self.ledger.links(0, usize::MAX) {
            if link.handover.epoch <= self.ledger.current().number {
                chain.advance(link).expect("C2: every handover is signed by the epoch before");
            }
        }
        assert_eq!(chain.epoch(), self.ledger.current().number);
        for c in self.ledger.checkpoints() {
            assert_eq!(chain.attested(&c.checkpoint, &c.signature).unwrap(), c.epoch);
            let (block, _) = &self.blocks[c.checkpoint.height as usize - 1];
            assert_eq!((block.header.hash(), block.header.state_root), (c.checkpoint.block, c.checkpoint.state_root));
        }
        self.check_manners();
        self.market.assert_all_settled(&self.ledger)
    }

    /// No honest message was refused, and nobody honest was blamed for a wrong share.
    fn check_manners(&self) {
        let honest = |id: NodeId| self.nodes[self.place(id)].attacker.is_none();
        for node in self.nodes.iter().filter(|n| n.attacker.is_none()) {
            for ((from, why), count) in &node.refused {
                let repeated = why.contains("repeats") || why.contains("already used");
                let fine = !honest(*from) || (self.copies && repeated);
                assert!(fine, "seed {}: honest {} refused {count} times: {why}", self.seed, from.short());
            }
            for (who, why) in node.blamed.keys() {
                assert!(!honest(*who) || !why.contains("invalid"), "seed {}: {who:?} {why}", self.seed);
            }
        }
    }

    /// Most blocks from one outcome of a model to the next.
    pub fn longest_round(&self) -> u64 {
        let gaps = |h: &Vec<u64>| h.windows(2).map(|w| w[1] - w[0]).max().unwrap_or(0);
        self.outcomes.values().map(gaps).max().unwrap_or(0)
    }

    pub fn status(&self, i: usize) -> ValidatorStatus {
        self.ledger.validator(self.nodes[i].id).unwrap().status
    }

    pub fn refusals(&self, why: &str) -> u64 {
        self.nodes.iter().flat_map(|n| &n.refused).filter(|((_, w), _)| w.contains(why)).map(|(_, c)| c).sum()
    }

    pub fn rejections(&self, why: &str) -> u64 {
        self.nodes.iter().filter_map(|n| n.rejected.get(why)).sum()
    }
}
