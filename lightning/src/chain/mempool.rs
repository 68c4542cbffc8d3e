//! Transactions that wait for a block.
//!
//! There may be more of them than the next block holds: `select.rs` chooses. Here is who may wait at all:
//! what pays the minimum fee (which rises while the pool is full), what pays more than what it replaces
//! (BIP 125), and no long chains of transactions that depend on each other, so that every walk over
//! relatives stays short.

use super::check::TxRejection;
use super::select::Rate;
use bitcoin::{OutPoint, Transaction, TxOut, Txid};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Most transactions, whatever their size.
pub(super) const MAX_POOL_TXS: usize = 20_000;
/// Most transactions one replacement may evict (BIP 125, rule 5).
const MAX_EVICTED: usize = 100;
/// Most waiting ancestors of a transaction, itself included; and as many descendants (bitcoind's limit).
const MAX_RELATIVES: usize = 25;
/// Most vbytes of them together.
const MAX_RELATIVES_VBYTES: u64 = 101_000;

/// One waiting transaction.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) tx: Transaction,
    pub(super) txid: Txid,
    pub(super) fee_sat: u64,
    pub(super) vsize: u64,
    pub(super) weight: u64,
    pub(super) sigops: u64,
    pub(super) time_s: u64,
    /// Height of the chain when it came.
    pub(super) height: u32,
}

impl Entry {
    pub(super) fn rate(&self) -> Rate {
        Rate { fee_sat: self.fee_sat, vbytes: self.vsize }
    }
}

/// All of them.
#[derive(Default, Debug)]
pub(super) struct Mempool {
    /// By arrival: what a transaction spends always came before it.
    entries: BTreeMap<u64, Entry>,
    by_txid: HashMap<Txid, u64>,
    spenders: HashMap<OutPoint, u64>,
    next: u64,
    vbytes: u64,
    weight: u64,
    /// What was last evicted for want of room paid this much, sat per 1,000 vbytes.
    risen_fee_rate: u64,
}

impl Mempool {
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    pub(super) fn places(&self) -> impl Iterator<Item = (u64, &Entry)> {
        self.entries.iter().map(|(at, e)| (*at, e))
    }

    pub(super) fn at(&self, at: u64) -> Option<&Entry> {
        self.entries.get(&at)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn vbytes(&self) -> u64 {
        self.vbytes
    }

    pub(super) fn weight(&self) -> u64 {
        self.weight
    }

    pub(super) fn get(&self, txid: &Txid) -> Option<&Entry> {
        self.by_txid.get(txid).and_then(|at| self.entries.get(at))
    }

    pub(super) fn output(&self, outpoint: &OutPoint) -> Option<&TxOut> {
        self.get(&outpoint.txid)?.tx.output.get(usize::try_from(outpoint.vout).ok()?)
    }

    pub(super) fn is_spent(&self, outpoint: &OutPoint) -> bool {
        self.spenders.contains_key(outpoint)
    }

    /// Fee rate below which nothing enters, sat per 1,000 vbytes, on top of the configured minimum.
    pub(super) fn risen_fee_rate(&self) -> u64 {
        self.risen_fee_rate
    }

    /// Number, vbytes and fees of a transaction's waiting ancestors and of its descendants, itself included.
    pub(super) fn relatives(&self, txid: &Txid) -> Option<[(usize, u64, u64); 2]> {
        let at = *self.by_txid.get(txid)?;
        let entry = self.entries.get(&at)?;
        let sum = |mut of: BTreeSet<u64>| {
            of.insert(at);
            let each = || of.iter().filter_map(|at| self.entries.get(at));
            (of.len(), each().map(|e| e.vsize).sum(), each().map(|e| e.fee_sat).sum())
        };
        Some([sum(self.ancestors(&entry.tx)), sum(self.descendants([at].into()))])
    }

    /// Whatever waits that `tx` depends on.
    pub(super) fn ancestors(&self, tx: &Transaction) -> BTreeSet<u64> {
        let mut found = BTreeSet::new();
        let parents = |tx: &Transaction| -> Vec<u64> {
            tx.input.iter().filter_map(|i| self.by_txid.get(&i.previous_output.txid)).copied().collect()
        };
        let mut queue = parents(tx);
        while let Some(at) = queue.pop() {
            if found.insert(at)
                && let Some(entry) = self.entries.get(&at)
            {
                queue.extend(parents(&entry.tx));
            }
        }
        found
    }

    /// These, and whatever depends on them.
    pub(super) fn descendants(&self, of: BTreeSet<u64>) -> BTreeSet<u64> {
        let mut queue: Vec<u64> = of.iter().copied().collect();
        let mut found = of;
        while let Some(parent) = queue.pop().and_then(|at| self.entries.get(&at)) {
            for vout in 0..parent.tx.output.len() {
                let outpoint = OutPoint::new(parent.txid, u32::try_from(vout).unwrap_or(u32::MAX));
                if let Some(child) = self.spenders.get(&outpoint)
                    && found.insert(*child)
                {
                    queue.push(*child);
                }
            }
        }
        found
    }

    fn direct_conflicts(&self, tx: &Transaction) -> BTreeSet<u64> {
        tx.input.iter().filter_map(|i| self.spenders.get(&i.previous_output)).copied().collect()
    }

    /// What a new transaction would evict, if it may (BIP 125 rules 2 to 5, without the need to signal, as
    /// bitcoind does since 28). `relay_fee_rate` is what relaying costs, sat per 1,000 vbytes.
    pub(super) fn may_enter(&self, entry: &Entry, relay_fee_rate: u64) -> Result<BTreeSet<u64>, TxRejection> {
        let direct = self.direct_conflicts(&entry.tx);
        let evicted = self.descendants(direct.clone());
        let ancestors = self.ancestors(&entry.tx);
        if ancestors.iter().any(|at| evicted.contains(at)) {
            return Err(TxRejection::SpendsConflict);
        }
        self.check_relatives(entry, &ancestors, &evicted)?;
        if direct.is_empty() {
            return Ok(evicted);
        }
        let each = |of: &BTreeSet<u64>| of.iter().filter_map(|at| self.entries.get(at)).collect::<Vec<_>>();
        if each(&direct).iter().any(|old| entry.rate() <= old.rate()) {
            return Err(TxRejection::ReplacementRate);
        }
        if evicted.len() > MAX_EVICTED {
            return Err(TxRejection::TooManyReplacements); // rule 5
        }
        let old_parents: BTreeSet<Txid> =
            each(&direct).iter().flat_map(|e| e.tx.input.iter().map(|i| i.previous_output.txid)).collect();
        let new_parent = |o: &&OutPoint| self.by_txid.contains_key(&o.txid) && !old_parents.contains(&o.txid);
        if let Some(outpoint) = entry.tx.input.iter().map(|i| &i.previous_output).find(new_parent) {
            return Err(TxRejection::ReplacementAddsUnconfirmed(*outpoint)); // rule 2
        }
        // rule 3: pay more than all of it; rule 4: and for its own relay
        let gone_sat: u64 = each(&evicted).iter().map(|e| e.fee_sat).sum();
        let needed_sat = gone_sat.saturating_add(Rate::fee_at(relay_fee_rate, entry.vsize));
        if entry.fee_sat < needed_sat {
            return Err(TxRejection::ReplacementFee { fee_sat: entry.fee_sat, needed_sat });
        }
        Ok(evicted)
    }

    fn check_relatives(
        &self,
        entry: &Entry,
        ancestors: &BTreeSet<u64>,
        evicted: &BTreeSet<u64>,
    ) -> Result<(), TxRejection> {
        let fits = |others: &BTreeSet<u64>| {
            let vbytes: u64 = others.iter().filter_map(|at| self.entries.get(at)).map(|e| e.vsize).sum();
            others.len() < MAX_RELATIVES && vbytes.saturating_add(entry.vsize) <= MAX_RELATIVES_VBYTES
        };
        let others = |at: &u64| self.descendants([*at].into()).difference(evicted).copied().collect();
        let fit = fits(ancestors) && ancestors.iter().all(|at| fits(&others(at)));
        if fit { Ok(()) } else { Err(TxRejection::TooLongChain) }
    }

    /// Adds a transaction after [`Mempool::may_enter`], which named what goes.
    pub(super) fn insert(&mut self, entry: Entry, evicted: &BTreeSet<u64>) {
        evicted.iter().for_each(|at| self.remove(*at));
        let at = self.next;
        self.next += 1;
        self.vbytes = self.vbytes.saturating_add(entry.vsize);
        self.weight = self.weight.saturating_add(entry.weight);
        self.by_txid.insert(entry.txid, at);
        for input in &entry.tx.input {
            self.spenders.insert(input.previous_output, at);
        }
        self.entries.insert(at, entry);
    }

    fn remove(&mut self, at: u64) {
        if let Some(entry) = self.entries.remove(&at) {
            self.by_txid.remove(&entry.txid);
            for input in &entry.tx.input {
                self.spenders.remove(&input.previous_output);
            }
            self.vbytes = self.vbytes.saturating_sub(entry.vsize);
            self.weight = self.weight.saturating_sub(entry.weight);
        }
    }

    /// Evicts what pays worst until the rest fits, and raises the minimum fee above what that paid. A
    /// transaction is judged with its descendants if they pay better, since it takes them along.
    pub(super) fn trim(&mut self, max_vbytes: u64, relay_fee_rate: u64) {
        while self.vbytes > max_vbytes || self.entries.len() > MAX_POOL_TXS {
            let package = |(at, entry): (&u64, &Entry)| {
                let with = self.descendants([*at].into());
                let each = || with.iter().filter_map(|at| self.entries.get(at));
                let all = Rate { fee_sat: each().map(|e| e.fee_sat).sum(), vbytes: each().map(|e| e.vsize).sum() };
                (all.max(entry.rate()), all, with)
            };
            let worst = self.entries.iter().map(package).min_by(|a, b| a.0.cmp(&b.0));
            let Some((_, paid, gone)) = worst else { return };
            self.risen_fee_rate = self.risen_fee_rate.max(paid.sat_per_kvb().saturating_add(relay_fee_rate));
            gone.into_iter().for_each(|at| self.remove(at));
        }
    }

    /// Forgets what a block took, and what can never confirm any more because of it. The minimum fee falls
    /// by half: bitcoind's does so with time, but here blocks come when somebody asks.
    pub(super) fn confirm(&mut self, txs: &[Transaction], relay_fee_rate: u64) {
        for tx in txs {
            match self.by_txid.get(&tx.compute_txid()).copied() {
                Some(at) => self.remove(at),
                None => {
                    let gone = self.descendants(self.direct_conflicts(tx));
                    gone.into_iter().for_each(|at| self.remove(at));
                }
            }
        }
        self.risen_fee_rate /= 2;
        if self.risen_fee_rate < relay_fee_rate / 2 {
            self.risen_fee_rate = 0;
        }
    }

    /// Takes everything out, in order of arrival; the minimum fee stays.
    pub(super) fn take(&mut self) -> Vec<Entry> {
        let risen_fee_rate = self.risen_fee_rate;
        let old = std::mem::take(self);
        self.risen_fee_rate = risen_fee_rate;
        old.entries.into_values().collect()
    }
}
