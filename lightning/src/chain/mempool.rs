//! Transactions that wait for a block.
//!
//! All of them together always fit into one block, so making one needs no choice: it takes everything,
//! in the order of arrival, and what a transaction spends always came before it.

use super::check::TxRejection;
use bitcoin::{OutPoint, Transaction, TxOut, Txid};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Most transactions.
pub(super) const MAX_POOL_TXS: usize = 5_000;
/// Most weight, all together: a block's, with room for header and coinbase.
const MAX_POOL_WEIGHT: u64 = 3_900_000;
/// Most signature operations, all together: a block's, with room for the coinbase.
const MAX_POOL_SIGOPS: u64 = 79_000;
/// Most transactions one replacement may evict (BIP 125, rule 5).
const MAX_EVICTED: usize = 100;

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

/// All of them.
#[derive(Default, Debug)]
pub(super) struct Mempool {
    /// By arrival.
    entries: BTreeMap<u64, Entry>,
    by_txid: HashMap<Txid, u64>,
    spenders: HashMap<OutPoint, u64>,
    next: u64,
    weight: u64,
    sigops: u64,
}

impl Mempool {
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
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

    /// Adds a checked transaction, evicting what it replaces (BIP 125 rules 3 to 5, without the need to
    /// signal, as bitcoind does since 28).
    pub(super) fn insert(&mut self, entry: Entry) -> Result<(), TxRejection> {
        let evicted = self.replaced_by(&entry)?;
        let gone = |f: fn(&Entry) -> u64| evicted.iter().filter_map(|at| self.entries.get(at)).map(f).sum::<u64>();
        if !evicted.is_empty() {
            // rule 3: pay more than all of it; rule 4: and for its own relay
            let (fee_sat, needed_sat) = (entry.fee_sat, gone(|e| e.fee_sat).saturating_add(entry.vsize));
            if fee_sat < needed_sat {
                return Err(TxRejection::ReplacementFee { fee_sat, needed_sat });
            }
        }
        let weight = self.weight.saturating_sub(gone(|e| e.weight)).saturating_add(entry.weight);
        let sigops = self.sigops.saturating_sub(gone(|e| e.sigops)).saturating_add(entry.sigops);
        let txs = self.entries.len().saturating_sub(evicted.len());
        if weight > MAX_POOL_WEIGHT || sigops > MAX_POOL_SIGOPS || txs >= MAX_POOL_TXS {
            return Err(TxRejection::PoolFull);
        }
        for at in evicted {
            self.remove(at);
        }
        let at = self.next;
        self.next += 1;
        self.weight = self.weight.saturating_add(entry.weight);
        self.sigops = self.sigops.saturating_add(entry.sigops);
        self.by_txid.insert(entry.txid, at);
        for input in &entry.tx.input {
            self.spenders.insert(input.previous_output, at);
        }
        self.entries.insert(at, entry);
        Ok(())
    }

    /// What spends the same coins as a new transaction, and whatever spends that.
    fn replaced_by(&self, entry: &Entry) -> Result<BTreeSet<u64>, TxRejection> {
        let evicted = self.spenders_of(&entry.tx);
        if evicted.len() > MAX_EVICTED {
            return Err(TxRejection::TooManyReplacements);
        }
        let needs = |at: &u64| entry.tx.input.iter().any(|i| self.by_txid.get(&i.previous_output.txid) == Some(at));
        if evicted.iter().any(needs) {
            return Err(TxRejection::SpendsConflict);
        }
        Ok(evicted)
    }

    /// Everything that spends what `tx` spends, and whatever spends that.
    fn spenders_of(&self, tx: &Transaction) -> BTreeSet<u64> {
        let mut found: BTreeSet<u64> =
            tx.input.iter().filter_map(|i| self.spenders.get(&i.previous_output)).copied().collect();
        let mut queue: Vec<u64> = found.iter().copied().collect();
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

    fn remove(&mut self, at: u64) {
        if let Some(entry) = self.entries.remove(&at) {
            self.by_txid.remove(&entry.txid);
            for input in &entry.tx.input {
                self.spenders.remove(&input.previous_output);
            }
            self.weight = self.weight.saturating_sub(entry.weight);
            self.sigops = self.sigops.saturating_sub(entry.sigops);
        }
    }

    /// Forgets what a block took, and what can never confirm any more because of it.
    pub(super) fn confirm(&mut self, txs: &[Transaction]) {
        for tx in txs {
            match self.by_txid.get(&tx.compute_txid()).copied() {
                Some(at) => self.remove(at),
                None => self.spenders_of(tx).into_iter().for_each(|at| self.remove(at)),
            }
        }
    }
}
