//! What breaks, when, and how it is mended; all drawn from the seed.

use super::{Addr, Dice, Event, Sim};
use crate::scenario::Faults;
use oda_storage::Fault;
use std::collections::{BTreeMap, BTreeSet};

/// The end of a fault.
pub(super) enum Heal {
    Resume(Addr),
    Clock(Addr),
}

/// When the next fault comes.
pub(super) struct Schedule {
    rates: Faults,
    dice: Dice,
    paused: BTreeSet<Addr>,
    chain: Dice,
    /// What was broken how often.
    pub counts: BTreeMap<&'static str, u64>,
}

const HOUR_MS: u64 = 3_600_000;
/// Bitcoin's mean time between blocks.
const BITCOIN_MS: u64 = 600_000;

impl Schedule {
    pub fn new(seed: u64, rates: Faults) -> Self {
        let (dice, chain) = (Dice::new(seed, "faults"), Dice::new(seed, "bitcoin"));
        Self { rates, dice, paused: BTreeSet::new(), chain, counts: BTreeMap::new() }
    }

    pub fn is_paused(&self, addr: Addr) -> bool {
        self.paused.contains(&addr)
    }

    /// How long an operator takes to look after a stopped node.
    pub fn repair_ms(&mut self) -> u64 {
        self.dice.between(10_000, 240_000)
    }

    fn list(&self) -> [(&'static str, u32); 12] {
        let r = &self.rates;
        [
            ("crash", r.crashes),
            ("pause", r.pauses),
            ("partition", r.partitions),
            ("one-way", r.one_way),
            ("clog", r.clogs),
            ("slow", r.slow),
            ("clock skew", r.skews),
            ("disk", r.disk),
            ("full disk", r.full_disks),
            ("bit flip", r.bit_flips),
            ("reorg", r.reorgs),
            ("bitcoin jump", r.jumps),
        ]
    }

    fn total(&self) -> u64 {
        self.list().iter().map(|(_, rate)| u64::from(*rate)).sum()
    }
}

impl Sim {
    pub(super) fn begin_faults(&mut self) {
        self.push(BITCOIN_MS / 2, Event::Bitcoin);
        self.next_fault();
    }

    fn next_fault(&mut self) {
        if let Some(mean) = HOUR_MS.checked_div(self.faults.total()) {
            let ms = self.faults.dice.wait(mean);
            self.push(ms, Event::Fault);
        }
    }

    /// Everything is mended.
    pub(super) fn calm_faults(&mut self) {
        self.faults.rates = Faults::default();
        self.faults.paused.clear();
        for full in &mut self.fulls {
            (full.skew_ms, full.full_disk) = (0, false);
        }
        let all: Vec<Addr> = self.everybody().collect();
        for addr in all {
            self.begin(addr);
        }
    }

    pub(super) fn break_something(&mut self) {
        if self.settling {
            return;
        }
        self.next_fault();
        let mut place = self.faults.dice.below(self.faults.total().max(1));
        let mut what = "nothing";
        for (name, rate) in self.faults.list() {
            if place < u64::from(rate) {
                what = name;
                break;
            }
            place -= u64::from(rate);
        }
        *self.faults.counts.entry(what).or_default() += 1;
        let nodes = (self.fulls.len() + self.lites.len()) as u64;
        // full nodes are fewer and matter more: every second fault is theirs
        let full = Addr(self.faults.dice.below(self.fulls.len() as u64) as u32);
        let any = if self.faults.dice.milli(500) { full } else { Addr(self.faults.dice.below(nodes) as u32) };
        let until_ms = self.now_ms + self.faults.dice.between(20_000, 300_000);
        self.checks.say(self.now_ms, || format!("fault      {what} (node {} or {})", any.0, full.0));
        match what {
            "crash" => {
                self.stop(any);
                self.push(until_ms - self.now_ms, Event::Start(any));
            }
            "pause" => {
                self.disturb(any);
                self.faults.paused.insert(any);
                self.push(until_ms - self.now_ms, Event::Heal(Heal::Resume(any)));
            }
            "partition" => {
                let (mut left, mut right) = (BTreeSet::new(), BTreeSet::new());
                for addr in self.everybody() {
                    let side = if self.faults.dice.milli(500) { &mut left } else { &mut right };
                    side.insert(addr);
                }
                self.disturb_all();
                self.net.cut(left.clone(), right.clone(), until_ms);
                self.net.cut(right, left, until_ms);
            }
            "one-way" => {
                let deaf: BTreeSet<Addr> = self.everybody().filter(|_| self.faults.dice.milli(500)).collect();
                self.disturb(any);
                self.net.cut([any].into(), deaf, until_ms);
            }
            "clog" => {
                self.disturb(any);
                self.net.clog(any, until_ms);
            }
            "slow" => {
                self.disturb(any);
                let lag_ms = self.faults.dice.between(500, 6_000);
                self.net.slow_down(any, lag_ms, until_ms);
            }
            "clock skew" => {
                let skew = i64::try_from(self.faults.dice.below(120_000)).unwrap_or(0) - 60_000;
                if let Some(full) = self.fulls.get_mut(full.0 as usize) {
                    full.skew_ms = skew;
                }
                self.push(until_ms - self.now_ms, Event::Heal(Heal::Clock(full)));
            }
            "disk" => {
                let fault = match self.faults.dice.below(3) {
                    0 => Fault::Fails,
                    1 => Fault::WrittenButFails,
                    _ => Fault::Dies,
                };
                if let Some(full) = self.fulls.get_mut(full.0 as usize).filter(|f| f.up) {
                    full.plant(fault);
                }
            }
            "full disk" => {
                if let Some(full) = self.fulls.get_mut(full.0 as usize) {
                    full.full_disk = true;
                }
            }
            "bit flip" => {
                let place = self.faults.dice.below(1 << 20);
                self.stop(full);
                if let Some(full) = self.fulls.get_mut(full.0 as usize) {
                    full.flip = Some(place);
                }
                self.push(5_000, Event::Start(full));
            }
            "reorg" => {
                let depth = self.faults.dice.between(1, 3) as u32;
                self.at_bitcoin_height(self.lightning.height.saturating_sub(depth));
            }
            "bitcoin jump" => {
                let blocks = self.faults.dice.between(6, 30) as u32;
                self.at_bitcoin_height(self.lightning.height + blocks);
            }
            _ => {}
        }
        self.net.forget_old(self.now_ms);
    }

    fn disturb(&mut self, addr: Addr) {
        if let Some(lite) = self.lite_mut(addr) {
            lite.disturbed = true;
        }
    }

    fn disturb_all(&mut self) {
        self.lites.iter_mut().for_each(|l| l.disturbed = true);
    }

    pub(super) fn stop(&mut self, addr: Addr) {
        if let Some(full) = self.fulls.get_mut(addr.0 as usize) {
            full.stop();
        } else if let Some(lite) = self.lite_mut(addr) {
            lite.stop();
        }
        self.timers.retain(|(at, _), _| *at != addr);
    }

    pub(super) fn heal(&mut self, heal: Heal) {
        match heal {
            Heal::Resume(addr) => drop(self.faults.paused.remove(&addr)),
            Heal::Clock(addr) => {
                if let Some(full) = self.fulls.get_mut(addr.0 as usize) {
                    full.skew_ms = 0;
                }
            }
        }
    }

    pub(super) fn bitcoin(&mut self) {
        let ms = self.faults.chain.wait(BITCOIN_MS).max(1_000);
        self.push(ms, Event::Bitcoin);
        self.at_bitcoin_height(self.lightning.height + 1);
    }

    fn at_bitcoin_height(&mut self, height: u32) {
        for (hash, payer) in self.lightning.at_height(height, self.now_ms) {
            self.push(500, Event::Ended { payer, hash, sent: false });
        }
    }

    /// Faults so far, by kind.
    pub fn faults_so_far(&self) -> &BTreeMap<&'static str, u64> {
        &self.faults.counts
    }
}
