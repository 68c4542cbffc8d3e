//! What signers have said where they may speak only once, so that a second, different statement is
//! noticed (C6).

use oda_consensus::codec;
use oda_consensus::evidence::Evidence;
use oda_consensus::ids::{Digest, NodeId};
use oda_consensus::tx::SignedTx;
use std::collections::{BTreeMap, VecDeque};

/// Most statements remembered; the oldest are forgotten first.
const MAX_SAID: usize = 4096;

/// First statements, by signer and slot.
#[derive(Default)]
pub(super) struct Said {
    first: BTreeMap<(NodeId, Digest), SignedTx>,
    order: VecDeque<(NodeId, Digest)>,
}

impl Said {
    /// Takes note of an authentic transaction; evidence, if its signer has said something else before.
    pub(super) fn hear(&mut self, tx: &SignedTx) -> Option<Evidence> {
        let key = (tx.signer, tx.slot()?);
        if let Some(first) = self.first.get(&key) {
            return (first.tx != tx.tx).then(|| Evidence::Twice(codec::encode(first), codec::encode(tx)));
        }
        self.first.insert(key, tx.clone());
        self.order.push_back(key);
        if self.order.len() > MAX_SAID {
            let oldest = self.order.pop_front();
            oldest.and_then(|k| self.first.remove(&k));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oda_consensus::ids::{ChainId, ModelId};
    use oda_consensus::keys::NodeKey;
    use oda_consensus::tx::{ScoreCommit, Tx};

    #[test] // C6
    fn a_second_different_statement_is_evidence() {
        let (a, b) = (NodeKey::from_secret(&[1; 32]), NodeKey::from_secret(&[2; 32]));
        let say = |key: &NodeKey, round, n| {
            let commit = ScoreCommit { model: ModelId([0; 32]), round, attempt: 0, commitment: Digest([n; 32]) };
            SignedTx::new(Tx::Score(commit), key, ChainId([7; 32]))
        };
        let mut said = Said::default();
        for tx in [say(&a, 1, 1), say(&a, 1, 1), say(&a, 2, 2), say(&b, 1, 3)] {
            assert!(said.hear(&tx).is_none());
        }
        assert!(matches!(said.hear(&say(&a, 1, 2)), Some(Evidence::Twice(..))));
        for round in 0..2 * MAX_SAID as u64 {
            said.hear(&say(&b, round + 10, 0));
        }
        assert_eq!((said.first.len(), said.order.len()), (MAX_SAID, MAX_SAID));
    }
}
