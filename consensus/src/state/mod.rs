//! The ledger's state machine (L2): any transaction gives the same new entries or the same error
//! everywhere, and nothing else.
//!
//! [`State::transition`] is a pure function from state and transaction to replaced entries;
//! [`State::apply`] puts them in place. Ordering (L1), judging and paying live elsewhere (L5): an
//! outcome enters with its attestation, and checking it costs one signature and integer arithmetic.

mod challenge;
mod entry;
mod federation;
mod federation_entry;
mod judging;
mod money;
mod places;
mod rules;
#[cfg(test)]
mod tests;

pub use challenge::{ChallengeState, StorageRecord};
pub use entry::{
    ClaimState, CommitteeKeys, Credit, Entry, EntryError, Head, MAX_ENTRY_BYTES, MAX_GUESTS, MAX_KEYS, ModelState,
    OutcomeState, Round, ScorePhase, Sponsorship, Tip,
};
pub use federation_entry::{
    CheckpointState, Dealing, DkgPhase, DkgState, EpochState, FederationState, ScoreState, ServiceRecord,
    ValidatorState, ValidatorStatus,
};
pub use places::MAX_FAILED;
pub use rules::{MAX_MODELS, TxError, claims_digest};

use crate::escrow::EscrowState;
use crate::frost::GroupKey;
use crate::genesis::{Genesis, GenesisError};
use crate::ids::{BlockHash, ChainId, ClaimId, EscrowId, ModelId, NodeId, PaymentHash};
use crate::records::{Appended, RecordLog};
use crate::tx::{Block, Header, SignedTx};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// State after some block.
#[derive(Clone, Debug)]
pub struct State {
    genesis: Arc<Genesis>,
    chain: ChainId,
    tip: Tip,
    log: RecordLog,
    federation: FederationState,
    epochs: BTreeMap<u64, Arc<EpochState>>,
    dkg: Option<Arc<DkgState>>,
    dealings: BTreeMap<(u64, u32, NodeId), Arc<Dealing>>,
    validators: BTreeMap<NodeId, ValidatorState>,
    scores: BTreeMap<(ModelId, u64, NodeId), Arc<ScoreState>>,
    checkpoints: BTreeMap<u64, Arc<CheckpointState>>,
    challenge: Option<Arc<ChallengeState>>,
    storage: BTreeMap<NodeId, StorageRecord>,
    models: BTreeMap<ModelId, Arc<ModelState>>,
    claims: BTreeMap<ClaimId, Arc<ClaimState>>,
    escrows: BTreeMap<EscrowId, Arc<EscrowState>>,
    outcomes: BTreeMap<(ModelId, u64), Arc<OutcomeState>>,
    credits: BTreeMap<(ModelId, NodeId), Credit>,
    payment_hashes: BTreeSet<PaymentHash>,
    shown: money::Shown,
}

/// Height and time of the block a transaction is in.
#[derive(Clone, Copy, Debug)]
pub struct At {
    /// Height of the block.
    pub height: u64,
    /// Its time, ms since the Unix epoch.
    pub time_ms: u64,
}

/// What a block did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Every entry it changed, then the position of the log, the new tip last.
    pub entries: Vec<Entry>,
    /// What it added to the log of records.
    pub appended: Appended,
}

/// A block was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// Another chain's block.
    #[error("block of chain {0}, this is another network")]
    WrongChain(ChainId),
    /// Not the next block.
    #[error("block {got} on {prev} does not extend block {tip}")]
    NotNext {
        /// Its height.
        got: u64,
        /// Its parent.
        prev: BlockHash,
        /// Our height.
        tip: u64,
    },
    /// Not later than its parent.
    #[error("block time {0} ms is not later than its parent's")]
    NotLater(u64),
    /// Header and transactions differ.
    #[error("the header names other transactions")]
    WrongTxs,
    /// Executing gives another state.
    #[error("the header's state root is not what executing the block gives")]
    WrongRoot,
    /// More transactions than allowed.
    #[error("{0} transactions, at most {MAX_TXS} are allowed")]
    TooManyTxs(usize),
    /// A transaction was refused.
    #[error("transaction {index} ({kind}): {error}")]
    Tx {
        /// Its index.
        index: usize,
        /// Its kind.
        kind: &'static str,
        /// Why.
        error: TxError,
    },
    /// An invariant of the money or credit accounting broke: a bug, never a valid block.
    #[error("invariant broken: {0}")]
    Invariant(String),
}

/// Most transactions in a block.
pub const MAX_TXS: usize = 2048;

impl State {
    /// The state before the first block.
    ///
    /// # Errors
    /// If the genesis is not valid.
    pub fn new(genesis: Genesis) -> Result<Self, GenesisError> {
        genesis.check()?;
        let chain = genesis.chain();
        let (group, beacon) = genesis.keys()?;
        let log = RecordLog::default();
        let first = EpochState { number: 0, attempt: 0, start_height: Some(1), group, beacon, signature: None };
        let validators = genesis
            .validators
            .iter()
            .map(|v| {
                let (status, record) = (ValidatorStatus::Active, ServiceRecord::default());
                (v.node, ValidatorState { node: v.node, encryption: v.encryption, status, since: 0, record })
            })
            .collect();
        let federation = FederationState { candidates: genesis.nodes(), ..FederationState::default() };
        Ok(Self {
            tip: Tip { height: 0, hash: BlockHash(chain.0), time_ms: genesis.time_ms, state_root: log.root() },
            log,
            genesis: Arc::new(genesis),
            chain,
            federation,
            epochs: BTreeMap::from([(0, Arc::new(first))]),
            dkg: None,
            dealings: BTreeMap::new(),
            validators,
            scores: BTreeMap::new(),
            checkpoints: BTreeMap::new(),
            challenge: None,
            storage: BTreeMap::new(),
            models: BTreeMap::new(),
            claims: BTreeMap::new(),
            escrows: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            credits: BTreeMap::new(),
            payment_hashes: BTreeSet::new(),
            shown: money::Shown::default(),
        })
    }

    /// Puts a stored entry in place; a state restored from all its entries equals the one stored.
    pub fn restore(&mut self, entry: Entry) {
        self.put(entry);
    }

    /// Genesis.
    pub fn genesis(&self) -> &Genesis {
        &self.genesis
    }
    /// Network.
    pub fn chain(&self) -> ChainId {
        self.chain
    }
    /// Signing key of the committee in charge.
    pub fn group(&self) -> &GroupKey {
        &self.current().group
    }
    /// Who orders the next block: the committee in charge, ascending.
    pub fn validators(&self) -> Vec<NodeId> {
        self.current().group.members().to_vec()
    }
    /// Last block.
    pub fn tip(&self) -> Tip {
        self.tip
    }
    /// The log of records, whose root is the tip's state root (L4).
    pub fn log(&self) -> &RecordLog {
        &self.log
    }
    /// One model.
    pub fn model(&self, id: ModelId) -> Option<&ModelState> {
        self.models.get(&id).map(Arc::as_ref)
    }
    /// All models, ascending by id.
    pub fn models(&self) -> impl Iterator<Item = (ModelId, &ModelState)> {
        self.models.iter().map(|(id, m)| (*id, m.as_ref()))
    }
    /// One claim.
    pub fn claim(&self, id: ClaimId) -> Option<&ClaimState> {
        self.claims.get(&id).map(Arc::as_ref)
    }
    /// All claims, ascending by id.
    pub fn claims(&self) -> impl Iterator<Item = &ClaimState> {
        self.claims.values().map(Arc::as_ref)
    }
    /// One escrow.
    pub fn escrow(&self, id: EscrowId) -> Option<&EscrowState> {
        self.escrows.get(&id).map(Arc::as_ref)
    }
    /// All escrows, ascending by id.
    pub fn escrows(&self) -> impl Iterator<Item = &EscrowState> {
        self.escrows.values().map(Arc::as_ref)
    }
    /// One outcome.
    pub fn outcome(&self, model: ModelId, round: u64) -> Option<&OutcomeState> {
        self.outcomes.get(&(model, round)).map(Arc::as_ref)
    }
    /// A model's outcomes by round.
    pub fn outcomes(&self, model: ModelId) -> impl DoubleEndedIterator<Item = &OutcomeState> {
        self.outcomes.range((model, 0)..=(model, u64::MAX)).map(|(_, o)| o.as_ref())
    }
    /// Credit of one trainer on one model.
    pub fn credit(&self, model: ModelId, trainer: NodeId) -> Option<&Credit> {
        self.credits.get(&(model, trainer))
    }
    /// All credit, ascending by model and trainer.
    pub fn credits(&self) -> impl Iterator<Item = &Credit> {
        self.credits.values()
    }

    fn put(&mut self, entry: Entry) {
        match entry {
            Entry::Tip(tip) => self.tip = tip,
            Entry::Log(log) => self.log = log,
            Entry::Model(m) => drop(self.models.insert(m.manifest.id(), Arc::new(*m))),
            Entry::Claim(c) => drop(self.claims.insert(c.id, Arc::new(*c))),
            Entry::Escrow(e) => {
                self.payment_hashes.extend(e.payment_hashes());
                self.escrows.insert(e.id, Arc::new(*e));
            }
            Entry::Outcome(o) => drop(self.outcomes.insert((o.outcome.model, o.outcome.round), Arc::new(*o))),
            Entry::Credit(c) => drop(self.credits.insert((c.model, c.trainer), c)),
            Entry::Federation(f) => self.federation = f,
            Entry::Epoch(e) => drop(self.epochs.insert(e.number, Arc::new(*e))),
            Entry::Dkg(d) => {
                // entries of earlier epochs are history
                if self.dkg.as_ref().is_none_or(|known| known.epoch <= d.epoch) {
                    self.dkg = Some(Arc::new(*d));
                }
            }
            Entry::Dealing(d) => drop(self.dealings.insert((d.epoch, d.attempt, d.node), Arc::new(*d))),
            Entry::Validator(v) => drop(self.validators.insert(v.node, *v)),
            Entry::Score(s) => drop(self.scores.insert((s.model, s.round, s.member), Arc::new(*s))),
            Entry::Checkpoint(c) => drop(self.checkpoints.insert(c.checkpoint.height, Arc::new(*c))),
            Entry::Challenge(c) => {
                // entries of earlier epochs are history
                if self.challenge.as_ref().is_none_or(|known| known.epoch <= c.epoch) {
                    self.challenge = Some(Arc::new(*c));
                }
            }
            Entry::Storage(s) => drop(self.storage.insert(s.node, s)),
        }
    }

    /// Executes one transaction in place (no signature or block checks); the entries it replaced.
    ///
    /// # Errors
    /// The rule it breaks; the state is then unchanged.
    pub fn execute(&mut self, tx: &SignedTx, at: At) -> Result<Vec<Entry>, TxError> {
        let entries = self.transition(tx, at)?;
        for entry in &entries {
            self.put(entry.clone());
        }
        Ok(entries)
    }

    /// Puts entries in place and remembers them as changed.
    fn note(&mut self, entries: Vec<Entry>, changed: &mut BTreeMap<Vec<u8>, Entry>) {
        for entry in entries {
            self.put(entry.clone());
            changed.insert(entry.key(), entry);
        }
    }

    /// The position of the next block.
    pub fn next(&self, time_ms: u64) -> At {
        At { height: self.tip.height.saturating_add(1), time_ms: time_ms.max(self.tip.time_ms.saturating_add(1)) }
    }

    /// Builds the next block from candidates: those that are valid in order, within the limits.
    /// Returns the block and the candidates refused.
    pub fn build(&self, candidates: &[SignedTx], time_ms: u64) -> (Block, Vec<(SignedTx, TxError)>) {
        let at = self.next(time_ms);
        let mut next = self.clone();
        let (mut txs, mut refused, mut changed, mut bytes) = (Vec::new(), Vec::new(), BTreeMap::new(), 1024usize);
        next.note(next.begin_block(), &mut changed);
        for tx in candidates {
            let size = crate::codec::encode(tx).len();
            if txs.len() >= MAX_TXS || bytes + size > Block::MAX_BYTES {
                break;
            }
            match next.execute(tx, at) {
                Ok(entries) => {
                    changed.extend(entries.into_iter().map(|e| (e.key(), e)));
                    bytes += size;
                    txs.push(tx.clone());
                }
                Err(error) => refused.push((tx.clone(), error)),
            }
        }
        next.end_block(at, &mut changed);
        let (log, _) = self.logged(at, &changed);
        let header = Header {
            chain: self.chain,
            height: at.height,
            time_ms: at.time_ms,
            prev: self.tip.hash,
            txs_root: Block::txs_root(&txs),
            records: log.len(),
            state_root: log.root(),
        };
        (Block { header, txs }, refused)
    }

    /// Checks and applies the next block.
    ///
    /// # Errors
    /// Why the block is invalid; the state is then unchanged.
    pub fn apply(&mut self, block: &Block) -> Result<Applied, BlockError> {
        self.apply_known(block, &|_| false)
    }

    /// As [`Self::apply`], without checking signatures that the caller has checked already: with many small
    /// transactions they are nearly all of a block's cost. Every other rule is checked.
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub fn apply_known(
        &mut self,
        block: &Block,
        is_authentic: &dyn Fn(&SignedTx) -> bool,
    ) -> Result<Applied, BlockError> {
        let h = &block.header;
        if h.chain != self.chain {
            return Err(BlockError::WrongChain(h.chain));
        }
        if h.height != self.tip.height.saturating_add(1) || h.prev != self.tip.hash {
            return Err(BlockError::NotNext { got: h.height, prev: h.prev, tip: self.tip.height });
        }
        if h.time_ms <= self.tip.time_ms {
            return Err(BlockError::NotLater(h.time_ms));
        }
        if block.txs.len() > MAX_TXS {
            return Err(BlockError::TooManyTxs(block.txs.len()));
        }
        if h.txs_root != Block::txs_root(&block.txs) {
            return Err(BlockError::WrongTxs);
        }
        let at = At { height: h.height, time_ms: h.time_ms };
        let mut next = self.clone();
        let mut changed = BTreeMap::new();
        next.note(next.begin_block(), &mut changed);
        for (index, tx) in block.txs.iter().enumerate() {
            let refused = |error| BlockError::Tx { index, kind: tx.kind(), error };
            if !is_authentic(tx) && !tx.is_authentic(self.chain) {
                return Err(refused(TxError::BadSignature));
            }
            changed.extend(next.execute(tx, at).map_err(refused)?.into_iter().map(|e| (e.key(), e)));
        }
        next.end_block(at, &mut changed);
        let (log, appended) = self.logged(at, &changed);
        if (log.len(), log.root()) != (h.records, h.state_root) {
            return Err(BlockError::WrongRoot);
        }
        let touched: BTreeSet<ModelId> = changed
            .values()
            .filter_map(|e| if let Entry::Model(m) = e { Some(m.manifest.id()) } else { None })
            .collect();
        next.check_invariants(touched.iter().copied()).map_err(BlockError::Invariant)?;
        next.tip = Tip { height: h.height, hash: h.hash(), time_ms: h.time_ms, state_root: h.state_root };
        let mut entries: Vec<Entry> = changed.into_values().collect();
        entries.extend([Entry::Log(log.clone()), Entry::Tip(next.tip)]);
        next.log = log;
        *self = next;
        Ok(Applied { entries, appended })
    }

    /// The log after a block: the tip before it, which proves every earlier block, then each changed entry in
    /// key order (L4).
    fn logged(&self, at: At, changed: &BTreeMap<Vec<u8>, Entry>) -> (RecordLog, Appended) {
        let mut log = self.log.clone();
        let tip = Entry::Tip(self.tip);
        let entries = [(tip.key(), tip.value())].into_iter();
        let appended = log.append(at.height, entries.chain(changed.iter().map(|(k, e)| (k.clone(), e.value()))));
        (log, appended)
    }

    /// Money and credit of these models add up (L2): what is held, paid and refunded per sponsor is
    /// the sum of its escrows, nothing above its budget, and credit is the proven gain, to the unit.
    ///
    /// # Errors
    /// The first sum that does not.
    pub fn check_invariants(&self, models: impl Iterator<Item = ModelId>) -> Result<(), String> {
        for id in models {
            let Some(model) = self.model(id) else { continue };
            for s in &model.sponsors {
                let (mut held, mut paid, mut refunded) = (0u128, 0u128, 0u128);
                for e in self.escrows().filter(|e| e.model == id && e.payer == s.sponsor) {
                    let (still, moved) = e.account();
                    held += u128::from(still);
                    paid += u128::from(moved.paid_msat);
                    refunded += u128::from(moved.refunded_msat);
                }
                if (held, paid, refunded) != (s.held_msat.into(), s.paid_msat.into(), s.refunded_msat.into()) {
                    return Err(format!(
                        "sponsor {} of model {}: escrows add up to {held} held, {paid} paid, {refunded} refunded msat",
                        s.sponsor.short(),
                        id.short()
                    ));
                }
                if held + paid > u128::from(s.fund.budget_msat) {
                    return Err(format!("sponsor {} of model {} is above its budget", s.sponsor.short(), id.short()));
                }
            }
            let credit: u128 = self
                .credits
                .range((id, NodeId([0; 32]))..=(id, NodeId([0xff; 32])))
                .map(|(_, c)| u128::from(c.credit_unat))
                .sum();
            if credit != u128::from(model.proven_unat) {
                return Err(format!(
                    "model {}: credit {credit} is not the proven gain {}",
                    id.short(),
                    model.proven_unat
                ));
            }
        }
        Ok(())
    }
}
