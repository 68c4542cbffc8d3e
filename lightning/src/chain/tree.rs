//! Blocks that compete: the longest valid branch is the chain, the others are kept aside.
//!
//! Replaying the chain from its first block at every change would be simpler and take seconds; so each block
//! leaves a note of the coins it spent and made, with which it is taken back. All regtest blocks are
//! equally hard, so the heaviest branch is the longest, and of two equally long the one that came first.
//! Nothing here is random or depends on time: the same blocks and words in the same order give the same chain,
//! which is what a restart relies on.

use super::blocks::{Chain, ChainRejection, Change, Coin};
use bitcoin::{Block, BlockHash, OutPoint, Transaction};
use std::collections::HashMap;

/// Most blocks a reorganisation takes back.
const MAX_REORG_BLOCKS: usize = 1_000;
/// Most known blocks off the chain.
const MAX_STALE_BLOCKS: usize = 5_000;

/// A block and its place in the order of arrival.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) block: Block,
    pub(super) arrival: u64,
}

/// A block off the chain.
#[derive(Clone, Debug)]
pub(super) struct Stale {
    pub(super) stored: Stored,
    pub(super) height: u32,
}

/// What takes a block back.
#[derive(Debug)]
pub(super) struct Undo {
    spent: Vec<(OutPoint, Coin)>,
    made: Vec<OutPoint>,
}

/// A block found good enough to be kept.
pub(super) enum Prepared {
    /// On the tip, and valid.
    OnTip(Change),
    /// Elsewhere, at that height.
    Aside(u32),
}

/// The last block of a branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainTip {
    /// Its hash.
    pub hash: BlockHash,
    /// Its height.
    pub height: u32,
    /// Blocks since the branch left the chain.
    pub branch_blocks: u32,
    /// Whether the chain may never go there.
    pub invalid: bool,
}

impl Chain {
    /// Adds a block if it keeps every rule; on a branch that becomes the longest, the chain goes there.
    ///
    /// # Errors
    /// Says which rule it breaks. A block in the middle of a branch is checked in full only when the chain
    /// goes there.
    pub fn connect(&mut self, block: Block) -> Result<(), ChainRejection> {
        let prepared = self.prepare(&block)?;
        self.commit(block, prepared)
    }

    /// Checks a block; nothing changes.
    pub(super) fn prepare(&self, block: &Block) -> Result<Prepared, ChainRejection> {
        let (hash, parent) = (block.block_hash(), block.header.prev_blockhash);
        if self.heights.contains_key(&hash) {
            return Err(ChainRejection::Duplicate);
        }
        if self.stale.contains_key(&hash) {
            let bad = self.is_invalid(&hash);
            return Err(if bad { ChainRejection::DuplicateInvalid } else { ChainRejection::Duplicate });
        }
        if parent == self.tip() {
            return self.check(block).map(Prepared::OnTip);
        }
        let (_, parent_height) = self.any_block(&parent).ok_or(ChainRejection::NotOnTip)?;
        if self.is_invalid(&parent) {
            return Err(ChainRejection::InvalidParent);
        }
        let height = parent_height.saturating_add(1);
        self.check_form(block, height)?;
        self.check_stale_room(1)?;
        if self.fork_height(&parent) < self.oldest_fork() {
            return Err(ChainRejection::TooDeep { max: MAX_REORG_BLOCKS });
        }
        Ok(Prepared::Aside(height))
    }

    /// Adds a block just prepared on this very chain.
    pub(super) fn commit(&mut self, block: Block, prepared: Prepared) -> Result<(), ChainRejection> {
        let stored = Stored { block, arrival: self.next_arrival };
        self.next_arrival += 1;
        match prepared {
            Prepared::OnTip(change) => {
                self.push(stored, change);
                self.confirm_last();
                Ok(())
            }
            Prepared::Aside(height) => {
                self.stale.insert(stored.block.block_hash(), Stale { stored, height });
                self.activate_best().map_or(Ok(()), Err)
            }
        }
    }

    /// Declares a block and all that is built on it invalid; the chain goes to the best of the rest.
    ///
    /// # Errors
    /// If the block is unknown, the genesis block, or too deep.
    pub fn invalidate(&mut self, hash: &BlockHash) -> Result<(), ChainRejection> {
        self.check_invalidate(hash)?;
        self.invalid.insert(*hash);
        // as bitcoind: what may not wait while the chain is that short is gone, whatever branch comes next
        if let Some(height) = self.heights.get(hash).copied() {
            let dropped = self.pop_to(height.saturating_sub(1));
            self.refill_pool(dropped);
        }
        self.activate_best();
        Ok(())
    }

    pub(super) fn check_invalidate(&self, hash: &BlockHash) -> Result<(), ChainRejection> {
        let (_, height) = self.any_block(hash).ok_or(ChainRejection::UnknownBlock)?;
        if height == 0 {
            return Err(ChainRejection::Genesis);
        }
        if self.heights.contains_key(hash) {
            if height <= self.oldest_fork() {
                return Err(ChainRejection::TooDeep { max: MAX_REORG_BLOCKS });
            }
            self.check_stale_room(usize::try_from(self.height() - height).unwrap_or(usize::MAX).saturating_add(1))?;
        }
        Ok(())
    }

    /// Takes [`Chain::invalidate`] back, for a block, what it is built on, and what is built on it.
    ///
    /// # Errors
    /// If the block is unknown.
    pub fn reconsider(&mut self, hash: &BlockHash) -> Result<(), ChainRejection> {
        self.any_block(hash).ok_or(ChainRejection::UnknownBlock)?;
        let related: Vec<BlockHash> = self
            .invalid
            .iter()
            .filter(|bad| self.descends_from(bad, hash) || self.descends_from(hash, bad))
            .copied()
            .collect();
        for bad in related {
            self.invalid.remove(&bad);
        }
        self.activate_best();
        Ok(())
    }

    /// The tips of all branches, the chain's first.
    pub fn tips(&self) -> Vec<ChainTip> {
        let first = ChainTip { hash: self.tip(), height: self.height(), branch_blocks: 0, invalid: false };
        let is_parent = |hash: &BlockHash| self.stale.values().any(|s| s.stored.block.header.prev_blockhash == *hash);
        let others = self.stale.iter().filter(|(hash, _)| !is_parent(hash)).map(|(hash, s)| ChainTip {
            hash: *hash,
            height: s.height,
            branch_blocks: s.height.saturating_sub(self.fork_height(hash)),
            invalid: self.is_invalid(hash),
        });
        std::iter::once(first).chain(others).collect()
    }

    /// A known block and its ancestors off the chain, newest first.
    fn branch(&self, hash: &BlockHash) -> impl Iterator<Item = BlockHash> + '_ {
        let next = |hash: &BlockHash| self.stale.get(hash).map(|s| s.stored.block.header.prev_blockhash);
        std::iter::successors(Some(*hash), next).take_while(|hash| self.stale.contains_key(hash))
    }

    /// Height at which a known block's branch leaves the chain; its own on the chain.
    fn fork_height(&self, hash: &BlockHash) -> u32 {
        let last = self.branch(hash).last();
        let on_chain = last.and_then(|l| self.stale.get(&l)).map_or(*hash, |s| s.stored.block.header.prev_blockhash);
        self.heights.get(&on_chain).copied().unwrap_or(0)
    }

    fn descends_from(&self, hash: &BlockHash, ancestor: &BlockHash) -> bool {
        let on_chain = self.heights.get(ancestor).is_some_and(|height| *height <= self.fork_height(hash));
        on_chain || self.branch(hash).any(|h| h == *ancestor)
    }

    fn is_invalid(&self, hash: &BlockHash) -> bool {
        self.invalid.iter().any(|bad| self.descends_from(hash, bad))
    }

    /// Lowest height the chain can go back to.
    fn oldest_fork(&self) -> u32 {
        self.height().saturating_sub(u32::try_from(self.undo.len()).unwrap_or(u32::MAX))
    }

    fn check_stale_room(&self, blocks: usize) -> Result<(), ChainRejection> {
        let fits = self.stale.len().saturating_add(blocks) <= MAX_STALE_BLOCKS;
        if fits { Ok(()) } else { Err(ChainRejection::TooManyStale { max: MAX_STALE_BLOCKS }) }
    }

    /// The branch the chain should go to: where it leaves the chain, and its blocks, oldest first. None if
    /// the chain is where it should be.
    fn better_branch(&self) -> Option<(u32, Vec<BlockHash>)> {
        let lowest_bad = self.invalid.iter().filter_map(|bad| self.heights.get(bad)).min();
        let valid_height = lowest_bad.map_or(self.height(), |bad| bad.saturating_sub(1));
        let arrival = |s: &Stored| std::cmp::Reverse(s.arrival);
        let stays = self.blocks.get(usize::try_from(valid_height).ok()?)?;
        let mut best = ((valid_height, arrival(stays)), valid_height, None);
        // by height, so that a parent is judged before its children: where it left the chain, if it is valid
        let mut by_height: Vec<(&BlockHash, &Stale)> = self.stale.iter().collect();
        by_height.sort_by_key(|(hash, s)| (s.height, **hash));
        let mut forks: HashMap<BlockHash, u32> = HashMap::new();
        for (hash, s) in by_height {
            let parent = &s.stored.block.header.prev_blockhash;
            let fork = match self.heights.get(parent) {
                Some(height) if *height <= valid_height && *height >= self.oldest_fork() => Some(*height),
                Some(_) => None,
                None => forks.get(parent).copied(),
            };
            let Some(fork) = fork.filter(|_| !self.invalid.contains(hash)) else { continue };
            forks.insert(*hash, fork);
            let work = (s.height, arrival(&s.stored));
            if work > best.0 {
                best = (work, fork, Some(*hash));
            }
        }
        let (_, fork, tip) = best;
        let mut path: Vec<BlockHash> = tip.map(|t| self.branch(&t).collect()).unwrap_or_default();
        path.reverse();
        (fork < self.height() || !path.is_empty()).then_some((fork, path))
    }

    /// Goes to the best branch. What fails on the way is invalid from then on, and the next best is tried;
    /// the first failure is returned. The mempool is filled again as soon as the chain is longer than before.
    fn activate_best(&mut self) -> Option<ChainRejection> {
        let old_height = self.height();
        let mut dropped: Option<Vec<_>> = None;
        let mut failure = None;
        while let Some((fork, path)) = self.better_branch() {
            if self.height() > fork {
                let mut txs = self.pop_to(fork);
                txs.extend(dropped.take().unwrap_or_default());
                dropped = Some(txs);
            }
            for hash in path {
                let Some(Stale { stored, height }) = self.stale.remove(&hash) else { break };
                match self.check(&stored.block) {
                    Ok(change) => self.push(stored, change),
                    Err(why) => {
                        self.stale.insert(hash, Stale { stored, height });
                        self.invalid.insert(hash);
                        failure.get_or_insert(why);
                        break;
                    }
                }
                if self.height() > old_height
                    && let Some(txs) = dropped.take()
                {
                    self.refill_pool(txs);
                }
                self.confirm_last();
            }
        }
        if let Some(txs) = dropped {
            self.refill_pool(txs);
        }
        failure
    }

    /// The mempool forgets what the last block took.
    fn confirm_last(&mut self) {
        if let Some(last) = self.blocks.last() {
            self.pool.confirm(&last.block.txdata, self.policy.min_fee_sat_per_kvb);
        }
    }

    /// Goes back to a height, and returns the transactions of the blocks taken off, oldest first.
    fn pop_to(&mut self, height: u32) -> Vec<(Transaction, u64)> {
        let mut blocks = Vec::new();
        while self.height() > height {
            let Some(txs) = self.pop() else { break };
            blocks.push(txs);
        }
        blocks.into_iter().rev().flatten().collect()
    }

    /// Adds a block just checked on this very chain; the mempool is the caller's.
    fn push(&mut self, stored: Stored, change: Change) {
        let block = &stored.block;
        assert_eq!(block.header.prev_blockhash, self.tip(), "a block is applied where it was checked");
        let height = self.height().saturating_add(1);
        let mut spent = Vec::with_capacity(change.spent.len());
        for outpoint in change.spent {
            let coin = self.coins.remove(&outpoint);
            assert!(coin.is_some(), "a checked block spends coins that exist");
            spent.extend(coin.map(|c| (outpoint, c)));
        }
        self.undo.push_back(Undo { spent, made: change.made.keys().copied().collect() });
        if self.undo.len() > MAX_REORG_BLOCKS {
            self.undo.pop_front();
        }
        self.coins.extend(change.made);
        for (at, tx) in block.txdata.iter().enumerate() {
            self.places.insert(tx.compute_txid(), (height, at));
        }
        self.heights.insert(block.block_hash(), height);
        self.blocks.push(stored);
    }

    /// Takes the last block off the chain and returns its transactions.
    fn pop(&mut self) -> Option<Vec<(Transaction, u64)>> {
        let undo = self.undo.pop_back()?;
        let height = self.height();
        let stored = self.blocks.pop()?;
        for outpoint in undo.made {
            let coin = self.coins.remove(&outpoint);
            assert!(coin.is_some(), "what the last block made is still there");
        }
        self.coins.extend(undo.spent);
        for tx in &stored.block.txdata {
            self.places.remove(&tx.compute_txid());
        }
        let hash = stored.block.block_hash();
        self.heights.remove(&hash);
        let time_s = u64::from(stored.block.header.time);
        let txs = stored.block.txdata.iter().skip(1).map(|tx| (tx.clone(), time_s)).collect();
        self.stale.insert(hash, Stale { stored, height });
        Some(txs)
    }

    /// After a reorganisation: what dropped blocks held waits again, before what waited already and may
    /// depend on it. What conflicts with the new blocks, or spends a coin that is gone or too young now,
    /// goes, and with it whatever spends that.
    fn refill_pool(&mut self, dropped: Vec<(Transaction, u64)>) {
        let waiting = self.pool.take();
        let heights: HashMap<_, _> = waiting.iter().map(|e| (e.txid, e.height)).collect();
        for (tx, time_s) in dropped.into_iter().chain(waiting.into_iter().map(|e| (e.tx, e.time_s))) {
            if let Ok((mut entry, evicted)) = self.may_enter(tx, time_s, false) {
                entry.height = heights.get(&entry.txid).copied().unwrap_or(entry.height).min(self.height());
                self.pool.insert(entry, &evicted);
            }
        }
        self.pool.trim(self.policy.max_pool_vbytes, self.policy.min_fee_sat_per_kvb);
    }
}

#[cfg(test)]
mod tests {
    use super::super::assemble::{faucet_address, faucet_witness_script};
    use super::super::blocks::ChainPolicy;
    use super::*;
    use bitcoin::{Amount, Sequence, TxIn, TxOut, Witness};
    use proptest::prelude::*;

    fn mine(chain: &mut Chain, empty: bool) {
        let payout = faucet_address().script_pubkey();
        let block = match empty {
            true => chain.assemble_from(&[], 0, payout, 1_800_000_000),
            false => chain.assemble(payout, 1_800_000_000),
        };
        chain.connect(block.unwrap()).unwrap();
    }

    /// Spends any coin there is or waits, into two.
    fn send(chain: &mut Chain, which: usize) {
        let waiting = chain.pool.entries().map(|e| OutPoint::new(e.txid, 0));
        let all: Vec<OutPoint> = chain.coins.keys().copied().chain(waiting).collect();
        let from = all[which % all.len()];
        let confirmed = chain.coins.get(&from).map(|c| c.output.value.to_sat());
        let sat = confirmed.or_else(|| chain.pool.output(&from).map(|o| o.value.to_sat())).unwrap();
        let half = sat.saturating_sub(1_000 + which as u64 % 3_000) / 2;
        let output = TxOut { value: Amount::from_sat(half), script_pubkey: faucet_address().script_pubkey() };
        let input = TxIn {
            previous_output: from,
            sequence: Sequence::MAX,
            witness: Witness::from_slice(&[faucet_witness_script().into_bytes()]),
            ..TxIn::default()
        };
        let tx = Transaction {
            version: bitcoin::transaction::Version::TWO,
            lock_time: bitcoin::absolute::LockTime::ZERO,
            input: vec![input],
            output: vec![output.clone(), output],
        };
        let _ = chain.accept(tx, 1_800_000_000);
    }

    /// The chain must be what its blocks alone give, and what waits must be ready for the next one.
    fn check_against_replay(chain: &Chain) {
        let mut again = Chain::new(ChainPolicy::default());
        for height in 1..=chain.height() {
            again.connect(chain.block(height).unwrap().clone()).unwrap();
        }
        assert_eq!(again.coins, chain.coins);
        assert_eq!(again.places, chain.places);
        assert_eq!(again.heights, chain.heights);
        for entry in chain.pool.entries() {
            assert!(again.accept(entry.tx.clone(), 0).is_ok(), "{} waits in vain", entry.txid);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn a_reorganised_chain_is_the_chain_of_its_blocks(steps in prop::collection::vec((0u8..9, any::<usize>()), 30..60)) {
            let mut chain = Chain::new(ChainPolicy::default());
            (0..104).for_each(|_| mine(&mut chain, false));
            let mut said = Vec::new();
            for (kind, which) in steps {
                match kind {
                    0 | 1 => mine(&mut chain, false),
                    2 => mine(&mut chain, true),
                    3 => {
                        let depth = u32::try_from(which % 7).unwrap();
                        let hash = chain.block(chain.height() - depth).unwrap().block_hash();
                        chain.invalidate(&hash).unwrap();
                        said.push(hash);
                    }
                    4 if !said.is_empty() => {
                        let hash = said.swap_remove(which % said.len());
                        chain.reconsider(&hash).unwrap();
                    }
                    _ => send(&mut chain, which),
                }
            }
            check_against_replay(&chain);
        }
    }

    #[test]
    fn a_reorganisation_has_a_limit() {
        let mut chain = Chain::new(ChainPolicy::default());
        (0..1_010).for_each(|_| mine(&mut chain, true));
        let hash = |chain: &Chain, height| chain.block(height).unwrap().block_hash();
        let too_deep = Err(ChainRejection::TooDeep { max: MAX_REORG_BLOCKS });
        assert_eq!(chain.invalidate(&hash(&chain, 10)), too_deep);
        assert_eq!(chain.height(), 1_010);
        chain.invalidate(&hash(&chain, 11)).unwrap();
        assert_eq!(chain.height(), 10);
        // what is left to go back on is nothing
        assert_eq!(chain.invalidate(&hash(&chain, 10)), too_deep);
        mine(&mut chain, true);
        assert_eq!(chain.height(), 11);
        check_against_replay(&chain);
    }
}
