//! The simulator: one process, one thread, virtual time, everything from one seed.
//!
//! Events are taken from a heap ordered by time and, at one time, by the order in which they were made. Nodes are the
//! real engines of `consensus/` with the real ledger, Tendermint, FROST, scoring and escrow; what is simulated is what
//! surrounds them: the network ([`net`]), Lightning and Bitcoin ([`lightning`]), the blob store, disks
//! (`oda-storage`'s faulty store) and how models learn ([`crate::learning`]). The checks of [`crate::checks`] look on
//! after every event, so that no scenario can forget to.

mod build;
mod dice;
mod effects;
mod faults;
mod full;
mod ledgers;
pub mod lightning;
mod lite;
mod net;
mod phases;

pub use build::START_MS;
pub use dice::Dice;
pub use full::{Full, Funding};
pub use ledgers::{Ledgers, Step};
pub use lite::Lite;
pub use net::{Msg, Net};

use crate::attackers::{Attacker, Desk, Gang, Seat};
use crate::checks::Checks;
use crate::learning::{Learning, Work};
use crate::scenario::Scenario;
use lightning::{Lightning, NotPaid};
use oda_consensus::bft::TimeoutToken;
use oda_consensus::codec;
use oda_consensus::engine::sponsor::SponsorInput;
use oda_consensus::engine::trainer::{Phase, TrainJob, TrainerInput};
use oda_consensus::engine::validator::{JudgeJob, ValidatorInput};
use oda_consensus::ids::{BlobHash, ChainId, ClaimId, ModelId, NodeId, PaymentHash, Preimage};
use oda_consensus::state::State;
use oda_consensus::tx::{SignedTx, Tx};
use oda_consensus::wire::{CommitteeMessage, DecidedBlock, Request, Response, SignedCommitteeEnvelope};
use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::rc::Rc;

/// Place of a node: full nodes first, then lite nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Addr(pub u32);

/// What a node waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// Tendermint.
    Bft(TimeoutToken),
    /// The next height may begin.
    StartHeight,
    /// Signers look at their timeouts.
    Tick,
    /// A full node asks for blocks.
    Sync,
    /// A lite node asks for rounds.
    Poll,
}

/// What a node wants done.
#[derive(Clone, Debug)]
pub enum Out {
    /// Say to all full nodes: Tendermint.
    Bft(Vec<u8>),
    /// Say to a committee.
    Committee(u64, CommitteeMessage),
    /// Put a transaction to all full nodes.
    Tx(Rc<SignedTx>),
    /// Show a decided block to all full nodes.
    Block(Rc<DecidedBlock>),
    /// Ask a node.
    Ask(Addr, Rc<Request>),
    /// Ask a full node drawn at random.
    AskSomebody(Rc<Request>),
    /// Ask or tell a node known by its name.
    Tell(NodeId, Rc<Request>),
    /// Answer.
    Answer(Addr, Rc<Request>, Rc<Response>),
    /// Anything to one node, or to all full nodes: what only attackers do.
    Raw(Option<Addr>, Msg),
    /// Replay a round.
    Judge(Box<JudgeJob>),
    /// Train.
    Train(Box<TrainJob>),
    /// Pay a hold invoice.
    Pay {
        /// To whom.
        payee: Option<NodeId>,
        /// The invoice.
        bolt11: String,
        /// Its hash.
        payment_hash: PaymentHash,
        /// Msat.
        amount_msat: u64,
    },
    /// Claim a held payment.
    Claim(PaymentHash, Preimage),
    /// Give it back.
    Fail(PaymentHash),
    /// Pay the fee that the claim's sponsor asks (P8).
    Fee(ClaimId),
    /// Wake me in so many ms; replaces an earlier one of the same name.
    Timer(u64, Timer),
    /// Do not.
    Cancel(Timer),
    /// Nor for any step of Tendermint.
    CancelBft,
    /// A block is committed.
    Committed(Rc<DecidedBlock>),
    /// The disk stopped the node.
    Stopped,
    /// The node cannot go on: always a bug.
    Broken(String),
    /// A claim went on.
    Report(ClaimId, Phase, String),
}

/// What nodes may look at while they act.
pub struct Env<'a> {
    /// Virtual time.
    pub now_ms: u64,
    /// Time between blocks.
    pub block_ms: u64,
    /// The network.
    pub chain: ChainId,
    /// Shared work.
    pub ledgers: &'a mut Ledgers,
    /// The own wallet's view.
    pub lightning: &'a Lightning,
}

enum Event {
    Deliver { to: Addr, from: Addr, msg: Msg },
    Timer { to: Addr, life: u32, timer: Timer, serial: u64 },
    Judged { to: Addr, life: u32, job: Box<JudgeJob> },
    Trained { to: Addr, life: u32, job: Box<TrainJob>, work: Work },
    Held { to: Addr, hash: PaymentHash },
    Ended { payer: Addr, hash: PaymentHash, sent: bool },
    Received { to: Addr, hash: PaymentHash },
    NotStarted { payer: Addr, hash: PaymentHash },
    Start(Addr),
    Plot,
    Fault,
    Heal(faults::Heal),
    Bitcoin,
}

/// An attacker and whom it works with.
pub(crate) struct Bad {
    pub(crate) attacker: Box<dyn Attacker>,
    pub(crate) seat: Seat,
    pub(crate) gang: Rc<RefCell<Gang>>,
    addr: Addr,
    /// It takes part in the gossip without being a full node.
    listens: bool,
    dice: Dice,
}

/// Blobs: who can give them.
#[derive(Default)]
pub struct Blobs {
    owners: BTreeMap<BlobHash, Addr>,
    /// Full nodes that fetched one keep it.
    copies: BTreeMap<BlobHash, BTreeSet<Addr>>,
}

/// A running network.
pub struct Sim {
    /// What is run.
    pub scenario: Scenario,
    /// From which seed.
    pub seed: u64,
    /// Virtual time, ms.
    pub now_ms: u64,
    /// Full nodes.
    pub fulls: Vec<Full>,
    /// Lite nodes.
    pub lites: Vec<Lite>,
    /// Lightning and Bitcoin.
    pub lightning: Lightning,
    /// The network.
    pub net: Net,
    /// How models learn.
    pub learning: Box<dyn Learning>,
    /// What is checked, and what was found.
    pub checks: Checks,
    /// Events handled.
    pub events: u64,
    pub(crate) bad: BTreeMap<Addr, Bad>,
    ledgers: Ledgers,
    blobs: Blobs,
    names: BTreeMap<NodeId, Addr>,
    chain: ChainId,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    pending: BTreeMap<u64, Event>,
    serial: u64,
    timers: BTreeMap<(Addr, Timer), u64>,
    trace: blake3::Hasher,
    faults: faults::Schedule,
    roles: Dice,
    /// Faults and attacks are over.
    pub settling: bool,
}

/// Whether two states are the same as far as their roots say.
fn same_state(a: &State, b: &State) -> bool {
    let (a, b) = (a.tip(), b.tip());
    (a.height, a.hash, a.state_root) == (b.height, b.hash, b.state_root)
}

impl Sim {
    /// A node's name; nobody's for a place that is none.
    pub fn name(&self, addr: Addr) -> Option<NodeId> {
        match self.full(addr) {
            Some(full) => Some(full.id),
            None => self.lite(addr).map(|l| l.id),
        }
    }

    /// Where a node is.
    pub fn place(&self, node: NodeId) -> Option<Addr> {
        self.names.get(&node).copied()
    }

    /// A full node.
    pub fn full(&self, addr: Addr) -> Option<&Full> {
        self.fulls.get(addr.0 as usize)
    }

    /// A lite node.
    pub fn lite(&self, addr: Addr) -> Option<&Lite> {
        self.lites.get((addr.0 as usize).checked_sub(self.fulls.len())?)
    }

    fn lite_mut(&mut self, addr: Addr) -> Option<&mut Lite> {
        let place = (addr.0 as usize).checked_sub(self.fulls.len())?;
        self.lites.get_mut(place)
    }

    /// All places.
    pub fn everybody(&self) -> impl Iterator<Item = Addr> + use<> {
        (0..(self.fulls.len() + self.lites.len()) as u32).map(Addr)
    }

    /// Whether a node is honest.
    pub fn is_honest(&self, addr: Addr) -> bool {
        !self.bad.contains_key(&addr)
    }

    /// What attackers of a kind counted.
    pub fn notes(&self, kind: &str) -> BTreeMap<&'static str, u64> {
        let gang = self.bad.values().find(|b| b.seat.kind == kind).map(|b| b.gang.borrow().notes.clone());
        gang.unwrap_or_default()
    }

    /// Whether a node's process runs.
    pub fn is_up(&self, addr: Addr) -> bool {
        self.full(addr).map_or_else(|| self.lite(addr).is_some_and(|l| l.up), |f| f.up)
    }

    /// Hash over everything that happened.
    pub fn trace_hash(&self) -> String {
        self.trace.finalize().to_hex()[..16].to_owned()
    }

    fn life(&self, addr: Addr) -> u32 {
        self.full(addr).map_or_else(|| self.lite(addr).map_or(0, |l| l.life), |f| f.life)
    }

    fn push(&mut self, in_ms: u64, event: Event) -> u64 {
        self.serial += 1;
        self.queue.push(Reverse((self.now_ms + in_ms, self.serial)));
        self.pending.insert(self.serial, event);
        self.serial
    }

    /// Lets a node act and carries out what it then wants.
    fn act(
        &mut self,
        addr: Addr,
        full: impl FnOnce(&mut Full, &mut Env<'_>),
        lite: impl FnOnce(&mut Lite, &mut Env<'_>),
    ) {
        let mut env = Env {
            now_ms: self.now_ms,
            block_ms: self.scenario.block_interval_ms.into(),
            chain: self.chain,
            ledgers: &mut self.ledgers,
            lightning: &self.lightning,
        };
        let fulls = self.fulls.len();
        if let Some(node) = self.fulls.get_mut(addr.0 as usize) {
            full(node, &mut env);
        } else if let Some(node) = (addr.0 as usize).checked_sub(fulls).and_then(|i| self.lites.get_mut(i)) {
            lite(node, &mut env);
        }
        self.flush(addr);
    }

    fn on_full(&mut self, addr: Addr, act: impl FnOnce(&mut Full, &mut Env<'_>)) {
        self.act(addr, act, |_, _| {});
    }

    fn on_lite(&mut self, addr: Addr, act: impl FnOnce(&mut Lite, &mut Env<'_>)) {
        self.act(addr, |_, _| {}, act);
    }

    fn flush(&mut self, addr: Addr) {
        // what is carried out may make the node want more
        for _ in 0..64 {
            let outs = match self.fulls.get_mut(addr.0 as usize) {
                Some(full) => std::mem::take(&mut full.out),
                None => self.lite_mut(addr).map(|l| std::mem::take(&mut l.out)).unwrap_or_default(),
            };
            if outs.is_empty() {
                return;
            }
            for out in outs {
                for out in self.twisted(addr, out) {
                    self.carry_out(addr, out);
                }
            }
        }
    }

    /// What an attacker makes of what its honest engine wants.
    fn twisted(&mut self, addr: Addr, out: Out) -> Vec<Out> {
        let own = matches!(out, Out::Timer(..) | Out::Cancel(_) | Out::CancelBft | Out::Committed(_) | Out::Stopped);
        if own || !self.bad.contains_key(&addr) || self.settling {
            return vec![out];
        }
        self.with_bad(addr, |attacker, desk| attacker.out(desk, out)).unwrap_or_default()
    }

    /// Lets an attacker act.
    fn with_bad<T>(&mut self, addr: Addr, act: impl FnOnce(&mut dyn Attacker, &mut Desk<'_>) -> T) -> Option<T> {
        let mut bad = self.bad.remove(&addr)?;
        let found = {
            let lite = (addr.0 as usize).checked_sub(self.fulls.len());
            let full = self.fulls.get_mut(addr.0 as usize);
            let (me, key, full) = match full {
                Some(full) => (full.id, full.key.clone(), Some(full)),
                None => {
                    let lite = self.lites.get(lite.unwrap_or(0))?;
                    (lite.id, lite.key.clone(), None)
                }
            };
            // what anybody can see: the ledger as decided
            let state = full.as_ref().map_or_else(|| self.checks.ledger(), |f| f.state.clone());
            let mut gang = bad.gang.borrow_mut();
            let mut desk = Desk {
                addr,
                me,
                key,
                state,
                full,
                now_ms: self.now_ms,
                chain: self.chain,
                dice: &mut bad.dice,
                seat: bad.seat,
                gang: &mut gang,
                lightning: &self.lightning,
                names: &self.names,
            };
            act(bad.attacker.as_mut(), &mut desk)
        };
        self.bad.insert(addr, bad);
        Some(found)
    }

    fn step(&mut self) -> bool {
        let Some(Reverse((at, serial))) = self.queue.pop() else { return false };
        let Some(event) = self.pending.remove(&serial) else { return true };
        self.now_ms = at;
        self.events += 1;
        match event {
            Event::Deliver { to, from, msg } => self.deliver(to, from, &msg),
            Event::Timer { to, life, timer, serial } => {
                let current = self.timers.get(&(to, timer)) == Some(&serial) && self.life(to) == life;
                if current && self.is_up(to) {
                    if self.faults.is_paused(to) {
                        self.push(1_000, Event::Timer { to, life, timer, serial });
                    } else {
                        self.timers.remove(&(to, timer));
                        self.act(to, |f, env| f.timer(env, timer), |l, env| l.timer(env, timer));
                    }
                }
            }
            Event::Judged { to, life, job } => {
                if self.life(to) == life && self.is_up(to) {
                    self.judged(to, &job);
                }
            }
            Event::Trained { to, life, job, work } => {
                if self.life(to) == life && self.is_up(to) {
                    self.trained(to, &job, &work);
                }
            }
            Event::Held { to, hash } if self.is_up(to) => self.on_lite(to, |lite, env| lite.held(env, hash)),
            Event::Received { to, hash } if self.is_up(to) => {
                self.on_lite(to, |lite, env| lite.drive(env, TrainerInput::Received { payment_hash: hash }));
            }
            Event::Ended { payer, hash, sent } if self.is_up(payer) => {
                let payment_hash = hash;
                let input = if sent {
                    SponsorInput::Sent { payment_hash, fee_msat: 0 }
                } else {
                    SponsorInput::SendFailed { payment_hash }
                };
                self.on_full(payer, |full, env| full.drive_sponsor(env, input));
            }
            Event::NotStarted { payer, hash } if self.is_up(payer) => {
                let input = SponsorInput::NotStarted { payment_hash: hash };
                self.on_full(payer, |full, env| full.drive_sponsor(env, input));
            }
            // the wallet tells it at the next start
            Event::Held { .. } | Event::Received { .. } | Event::Ended { .. } | Event::NotStarted { .. } => {}
            Event::Start(addr) => self.begin(addr),
            Event::Plot => self.plot(),
            Event::Fault => self.break_something(),
            Event::Heal(heal) => self.heal(heal),
            Event::Bitcoin => self.bitcoin(),
        }
        true
    }

    fn deliver(&mut self, to: Addr, from: Addr, msg: &Msg) {
        if !self.is_up(to) || !self.net.reaches(from, to, self.now_ms) {
            return;
        }
        if self.faults.is_paused(to) {
            self.push(1_000, Event::Deliver { to, from, msg: msg.clone() });
            return;
        }
        let mut mark = [0u8; 17];
        mark[..8].copy_from_slice(&self.now_ms.to_le_bytes());
        mark[8..12].copy_from_slice(&to.0.to_le_bytes());
        mark[12..16].copy_from_slice(&from.0.to_le_bytes());
        mark[16] = msg.kind();
        self.trace.update(&mark);
        if self.bad.contains_key(&to) && !self.settling {
            let outs = self.with_bad(to, |attacker, desk| attacker.hears(desk, from, msg)).unwrap_or_default();
            outs.into_iter().for_each(|out| self.carry_out(to, out));
        }
        let Some(name) = self.name(from) else { return };
        self.act(to, |f, env| f.hear(env, (from, name), msg), |l, env| l.hear(env, (from, name), msg));
    }

    fn begin(&mut self, addr: Addr) {
        if !self.is_up(addr) {
            if let Some(full) = self.fulls.get_mut(addr.0 as usize) {
                full.full_disk = false;
            }
            self.act(addr, |f, env| f.start(env), |l, env| l.start(env));
        }
    }

    /// Attackers act of their own accord.
    fn plot(&mut self) {
        self.push(self.scenario.block_interval_ms.into(), Event::Plot);
        if self.settling {
            return;
        }
        let bad: Vec<Addr> = self.bad.keys().copied().collect();
        for addr in bad {
            if self.is_up(addr) {
                let outs = self.with_bad(addr, |attacker, desk| attacker.tick(desk)).unwrap_or_default();
                outs.into_iter().for_each(|out| self.carry_out(addr, out));
            }
        }
    }
}
