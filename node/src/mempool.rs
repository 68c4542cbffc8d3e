//! Transactions waiting for a block, bounded in number and bytes (K3).

use oda_consensus::codec;
use oda_consensus::ids::{NodeId, TxId};
use oda_consensus::state::{State, TxError};
use oda_consensus::tx::SignedTx;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Most transactions waiting.
const MAX_TXS: usize = 4096;
/// Most of one signer.
const MAX_PER_SIGNER: usize = 64;
/// Most bytes waiting.
const MAX_BYTES: usize = 32 << 20;
/// A transaction that has waited so many blocks is told again.
const TELL_AGAIN_BLOCKS: u64 = 6;

/// Waiting transactions in order of arrival.
#[derive(Default)]
pub struct Mempool {
    /// With the height at which each came.
    txs: BTreeMap<TxId, (SignedTx, u64)>,
    order: VecDeque<TxId>,
    signers: BTreeMap<NodeId, usize>,
    bytes: usize,
}

/// A transaction was not taken.
#[derive(Debug, thiserror::Error)]
pub enum MempoolError {
    /// It breaks a rule of the ledger now.
    #[error("{0}")]
    Invalid(#[from] TxError),
    /// No room.
    #[error("too many transactions are waiting; try again after the next block")]
    Full,
}

impl Mempool {
    /// Takes a transaction if it is valid on the current state; false if it was known already.
    ///
    /// # Errors
    /// If it is invalid now, or there is no room.
    pub fn add(&mut self, state: &State, tx: SignedTx) -> Result<bool, MempoolError> {
        let id = tx.id();
        if self.txs.contains_key(&id) {
            return Ok(false);
        }
        if !tx.is_authentic(state.chain()) {
            return Err(TxError::BadSignature.into());
        }
        state.transition(&tx, state.next(0))?;
        let bytes = codec::encode(&tx).len();
        let of_signer = self.signers.get(&tx.signer).copied().unwrap_or(0);
        if self.txs.len() >= MAX_TXS || of_signer >= MAX_PER_SIGNER || self.bytes + bytes > MAX_BYTES {
            return Err(MempoolError::Full);
        }
        self.bytes += bytes;
        *self.signers.entry(tx.signer).or_default() += 1;
        self.order.push_back(id);
        self.txs.insert(id, (tx, state.tip().height));
        Ok(true)
    }

    /// Candidates for a block, oldest first.
    pub fn candidates(&self) -> Vec<SignedTx> {
        self.order.iter().filter_map(|id| self.txs.get(id).map(|(tx, _)| tx.clone())).collect()
    }

    /// Transactions of a signer that have waited for some blocks: whoever could propose them may have lost them, or never
    /// got them, and gossip tells a message once.
    pub fn overdue(&self, signer: NodeId, height: u64) -> Vec<SignedTx> {
        let due = |since: u64| {
            let waited = height.saturating_sub(since);
            waited > 0 && waited.is_multiple_of(TELL_AGAIN_BLOCKS)
        };
        let own = self
            .order
            .iter()
            .filter_map(|id| self.txs.get(id))
            .filter(|(tx, since)| tx.signer == signer && due(*since));
        own.map(|(tx, _)| tx.clone()).collect()
    }

    /// Drops what a new block included or made invalid.
    pub fn prune(&mut self, state: &State, included: &[SignedTx]) {
        let included: BTreeSet<TxId> = included.iter().map(SignedTx::id).collect();
        let at = state.next(0);
        let txs = std::mem::take(self);
        for id in txs.order {
            let Some((tx, since)) = txs.txs.get(&id) else { continue };
            if !included.contains(&id) && state.transition(tx, at).is_ok() {
                self.bytes += codec::encode(tx).len();
                *self.signers.entry(tx.signer).or_default() += 1;
                self.order.push_back(id);
                self.txs.insert(id, (tx.clone(), *since));
            }
        }
    }

    /// Whether this very transaction, signature and all, waits here; then its signature is good.
    pub fn contains(&self, tx: &SignedTx) -> bool {
        self.txs.contains_key(&tx.id())
    }

    /// Number waiting.
    pub fn len(&self) -> usize {
        self.txs.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.txs.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oda_consensus::fuzzing::{sample_genesis, validator};
    use oda_consensus::ids::Signature;
    use oda_consensus::tx::Tx;

    #[test] // P6: what gossip lost is told again, by its signer alone, every few blocks
    fn a_transaction_that_waits_is_told_again() {
        let mut state = State::new(sample_genesis().unwrap().0).unwrap();
        let (mut pool, chain, me) = (Mempool::default(), state.chain(), validator(0));
        let (own, other) = (SignedTx::new(Tx::Leave, &me, chain), SignedTx::new(Tx::Leave, &validator(1), chain));
        assert!(pool.add(&state, own.clone()).unwrap() && pool.add(&state, other).unwrap());
        let mut told = Vec::new();
        for time_ms in 10..10 + 2 * TELL_AGAIN_BLOCKS {
            let (block, _) = state.build(&[], time_ms);
            state.apply(&block).unwrap();
            pool.prune(&state, &block.txs);
            let again = pool.overdue(me.id(), state.tip().height);
            assert!(again.iter().all(|tx| *tx == own));
            told.extend(again.first().map(|_| state.tip().height));
        }
        assert_eq!(told, [TELL_AGAIN_BLOCKS, 2 * TELL_AGAIN_BLOCKS]);
    }

    #[test] // a block is spared only the signature checks that were made here
    fn only_the_very_transaction_that_was_checked_is_known() {
        let mut state = State::new(sample_genesis().unwrap().0).unwrap();
        let (mut pool, chain) = (Mempool::default(), state.chain());
        let tx = SignedTx::new(Tx::Leave, &validator(0), chain);
        let forged = SignedTx { signature: Signature([1; 64]), ..tx.clone() };
        assert!(matches!(pool.add(&state, forged.clone()), Err(MempoolError::Invalid(TxError::BadSignature))));
        assert!(pool.add(&state, tx.clone()).unwrap() && !pool.add(&state, tx.clone()).unwrap());
        assert!(pool.contains(&tx) && !pool.contains(&forged));
        let (mut block, _) = state.build(&[tx], 10);
        block.txs = vec![forged];
        block.header.txs_root = oda_consensus::tx::Block::txs_root(&block.txs);
        let refused = state.apply_known(&block, &|tx| pool.contains(tx)).unwrap_err().to_string();
        assert!(refused.contains("signature"), "{refused}");
    }
}
