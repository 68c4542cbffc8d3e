//! What every full node works out alike is worked out once.
//!
//! The state machine is deterministic (L2; the checks apply every block a second time, in full, and compare): nodes
//! that stand on the same block and apply the same next one get the same state. So here they share it, copied on
//! write, and a signature or certificate that was found good once is good. A thousand nodes then cost little more than
//! one, and a node that is fed another block still works it out for itself.

use oda_consensus::bft::{block_id, verify_certificate};
use oda_consensus::codec;
use oda_consensus::ids::{BlockHash, ChainId, EscrowId, ModelId, NodeId, TxId};
use oda_consensus::state::{BlockError, Entry, State};
use oda_consensus::tx::{Block, SignedTx};
use oda_consensus::wire::{DecidedBlock, ModelView, Response};
use oda_storage::{BlockRecord, EntryChange};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

/// Blocks, and answers, that are remembered.
const KEPT: usize = 256;

/// What applying a block gives.
pub struct Step {
    /// State after it.
    pub state: Rc<State>,
    /// Every entry it changed, as stored.
    pub changes: Vec<EntryChange>,
    /// What it added to the log.
    pub log: oda_consensus::records::Appended,
    /// Escrows it changed, with their payees.
    pub escrows: Vec<(EscrowId, NodeId)>,
}

/// The shared work.
pub struct Ledgers {
    chain: ChainId,
    steps: BTreeMap<BlockHash, Rc<Step>>,
    order: VecDeque<BlockHash>,
    authentic: BTreeSet<TxId>,
    certified: BTreeSet<(BlockHash, BlockHash)>,
    fitting: BTreeMap<(BlockHash, TxId), bool>,
    models: BTreeMap<(BlockHash, ModelId), Rc<Response>>,
    /// Blocks applied in full.
    pub applied: u64,
}

impl Ledgers {
    pub(super) fn new(chain: ChainId) -> Self {
        Self {
            chain,
            steps: BTreeMap::new(),
            order: VecDeque::new(),
            authentic: BTreeSet::new(),
            certified: BTreeSet::new(),
            fitting: BTreeMap::new(),
            models: BTreeMap::new(),
            applied: 0,
        }
    }

    /// Whether the signature of a transaction holds.
    pub fn is_authentic(&mut self, tx: &SignedTx) -> bool {
        let id = tx.id();
        let fine = self.authentic.contains(&id) || tx.is_authentic(self.chain);
        if fine {
            self.authentic.insert(id);
        }
        fine
    }

    /// Whether a transaction is valid on top of this state.
    pub fn fits(&mut self, state: &State, tx: &SignedTx, id: TxId) -> bool {
        if self.fitting.len() > 1 << 16 {
            self.fitting.clear();
        }
        *self.fitting.entry((state.tip().hash, id)).or_insert_with(|| state.transition(tx, state.next(0)).is_ok())
    }

    /// # Errors
    /// Why the block does not apply.
    pub fn apply(&mut self, on: &Rc<State>, block: &Block) -> Result<Rc<Step>, BlockError> {
        let hash = block.header.hash();
        // the header names the transactions, so one hash is one block; and its parent, so one state
        let same_txs = block.header.txs_root == Block::txs_root(&block.txs);
        if let Some(step) = self.steps.get(&hash).filter(|_| same_txs && on.tip().hash == block.header.prev) {
            return Ok(step.clone());
        }
        let mut state = (**on).clone();
        let known = &self.authentic;
        let applied = state.apply_known(block, &|tx| known.contains(&tx.id()))?;
        self.applied += 1;
        let changes = applied.entries.iter().map(|e| EntryChange::put(&e.key(), &e.value())).collect();
        let escrows = applied.entries.iter().filter_map(|e| match e {
            Entry::Escrow(e) => Some((e.id, e.payee)),
            _ => None,
        });
        let escrows = escrows.collect();
        let step = Rc::new(Step { state: Rc::new(state), changes, log: applied.appended, escrows });
        self.steps.insert(hash, step.clone());
        self.order.push_back(hash);
        if self.order.len() > KEPT
            && let Some(old) = self.order.pop_front()
        {
            self.steps.remove(&old);
            self.models.retain(|(at, _), _| *at != old);
        }
        Ok(step)
    }

    /// Whether a decided block carries the certificate of these validators.
    pub fn is_certified(&mut self, decided: &DecidedBlock, validators: &[NodeId]) -> bool {
        let certificate = &decided.certificate;
        let fits = certificate.height == decided.block.header.height
            && certificate.block == block_id(&codec::encode(&decided.block));
        let name = BlockHash(*blake3::hash(&codec::encode(decided)).as_bytes());
        let key = (certificate.block, name);
        let fine =
            fits && (self.certified.contains(&key) || verify_certificate(self.chain, validators, certificate).is_ok());
        if fine {
            self.certified.insert(key);
        }
        fine
    }

    /// The answer to a question for a model, which every node at this height gives alike.
    pub fn model_view(&mut self, state: &State, id: ModelId) -> Rc<Response> {
        let make = || {
            let view = state.model(id).map(|model| {
                let round = model.round.as_ref();
                let last = round.and_then(|r| state.outcome(id, r.number.saturating_sub(1))).cloned();
                Box::new(ModelView { height: state.tip().height, model: model.clone(), last })
            });
            Rc::new(Response::Model(view))
        };
        self.models.entry((state.tip().hash, id)).or_insert_with(make).clone()
    }

    /// A block as it is stored.
    pub(super) fn record(decided: &DecidedBlock, step: &Step) -> BlockRecord {
        let header = &decided.block.header;
        BlockRecord {
            height: header.height,
            hash: header.hash(),
            prev: header.prev,
            bytes: codec::encode(decided),
            log: step.log.clone(),
        }
    }
}

impl Ledgers {
    /// The state after a block, if it is still known.
    pub fn at(&self, hash: BlockHash) -> Option<Rc<State>> {
        self.steps.get(&hash).map(|step| step.state.clone())
    }
}
