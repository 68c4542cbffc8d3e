//! The simulated network: what becomes of a message between two nodes.

use super::{Addr, Dice};
use crate::scenario::Weather;
use oda_consensus::tx::SignedTx;
use oda_consensus::wire::{DecidedBlock, Request, Response};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// What nodes send each other.
#[derive(Clone, Debug)]
pub enum Msg {
    /// Tendermint.
    Bft(Rc<Vec<u8>>),
    /// Signing and beacon shares.
    Committee(Rc<Vec<u8>>),
    /// A transaction by gossip.
    Tx(Rc<SignedTx>),
    /// A decided block by gossip.
    Block(Rc<DecidedBlock>),
    /// A request.
    Ask(Rc<Request>),
    /// Its answer.
    Answer(Rc<Request>, Rc<Response>),
    /// Bytes that are nothing.
    Noise(Rc<Vec<u8>>),
}

impl Msg {
    pub(super) fn kind(&self) -> u8 {
        match self {
            Self::Bft(_) => 0,
            Self::Committee(_) => 1,
            Self::Tx(_) => 2,
            Self::Block(_) => 3,
            Self::Ask(_) => 4,
            Self::Answer(..) => 5,
            Self::Noise(_) => 6,
        }
    }
}

struct Cut {
    from: BTreeSet<Addr>,
    to: BTreeSet<Addr>,
    until_ms: u64,
}

/// State of the network between all nodes.
pub struct Net {
    weather: Weather,
    dice: Dice,
    cuts: Vec<Cut>,
    clogs: BTreeMap<Addr, u64>,
    slow: BTreeMap<Addr, (u64, u64)>,
    /// Messages sent, lost, and delivered twice.
    pub counts: [u64; 3],
}

impl Net {
    pub(super) fn new(seed: u64, weather: Weather) -> Self {
        let (cuts, clogs, slow) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        Self { weather, dice: Dice::new(seed, "network"), cuts, clogs, slow, counts: [0; 3] }
    }

    /// Nothing is lost or cut any more.
    pub(super) fn calm(&mut self) {
        self.weather = Weather::default();
        self.cuts.clear();
        self.clogs.clear();
        self.slow.clear();
    }

    pub(super) fn cut(&mut self, from: BTreeSet<Addr>, to: BTreeSet<Addr>, until_ms: u64) {
        self.cuts.push(Cut { from, to, until_ms });
    }

    pub(super) fn clog(&mut self, node: Addr, until_ms: u64) {
        self.clogs.insert(node, until_ms);
    }

    pub(super) fn slow_down(&mut self, node: Addr, lag_ms: u64, until_ms: u64) {
        self.slow.insert(node, (lag_ms, until_ms));
    }

    /// Whether one reaches the other now; asked again on arrival, so that what is on its way is cut too.
    pub fn reaches(&self, from: Addr, to: Addr, now_ms: u64) -> bool {
        !self.cuts.iter().any(|c| now_ms < c.until_ms && c.from.contains(&from) && c.to.contains(&to))
    }

    /// When copies of a message arrive, ms from now.
    pub(super) fn deliveries(&mut self, from: Addr, to: Addr, now_ms: u64) -> Vec<u64> {
        self.counts[0] += 1;
        let Weather { delay_ms: (least, most), loss_milli, twice_milli } = self.weather;
        if self.dice.milli(loss_milli) || !self.reaches(from, to, now_ms) {
            self.counts[1] += 1;
            return Vec::new();
        }
        let copies = 1 + usize::from(self.dice.milli(twice_milli));
        self.counts[2] += copies as u64 - 1;
        let lag = |node: Addr| self.slow.get(&node).filter(|(_, until)| now_ms < *until).map_or(0, |(lag, _)| *lag);
        let lag_ms = lag(from) + lag(to);
        let clogged = self.clogs.get(&to).map_or(0, |until| until.saturating_sub(now_ms));
        (0..copies).map(|_| clogged + lag_ms + self.dice.between(least, most)).collect()
    }

    pub(super) fn forget_old(&mut self, now_ms: u64) {
        self.cuts.retain(|c| now_ms < c.until_ms);
        self.clogs.retain(|_, until| now_ms < *until);
    }
}
