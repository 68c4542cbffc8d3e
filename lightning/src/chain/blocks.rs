//! The chain itself: blocks, coins, and the rules for a block. Pure: no file, socket or clock.
//!
//! `tree.rs` has what happens when blocks compete, `assemble.rs` how new ones are made.

use super::check::{self, Next, Spent, TxRejection};
use super::mempool::{Entry, Mempool};
use super::policy;
use super::select::{Rate, select};
use super::tree::{Stale, Stored, Undo};
use bitcoin::block::Header;
use bitcoin::hashes::Hash as _;
use bitcoin::script::Builder;
use bitcoin::{Block, BlockHash, OutPoint, ScriptBuf, Transaction, TxOut, Txid};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

/// Difficulty of regtest: every second hash will do.
pub(super) const BITS: u32 = 0x207f_ffff;
/// Subsidy of the first blocks, sat.
const SUBSIDY_SAT: u64 = 50 * 100_000_000;
/// Blocks between halvings on regtest.
const HALVING_BLOCKS: u32 = 150;
/// Heaviest block.
pub(super) const MAX_BLOCK_WEIGHT: u64 = 4_000_000;
/// Most signature operations in a block, weighted.
const MAX_BLOCK_SIGOPS: usize = 80_000;
/// Longest chain kept: blocks live in memory.
const MAX_BLOCKS: usize = 500_000;
/// Blocks whose times make a median (BIP 113).
const MEDIAN_BLOCKS: usize = 11;
/// Furthest a new block's clock may be ahead, s.
const MAX_FUTURE_S: u64 = 2 * 3600;
/// Lowest block version since BIP 65.
const MIN_VERSION: i32 = 4;
/// Scripts longer than this cannot be spent.
const MAX_SCRIPT_BYTES: usize = 10_000;
/// Most signature operations in a relayed transaction, weighted.
const MAX_TX_SIGOPS: u64 = 16_000;
/// A signature operation counts as so many weight units at least when a fee is asked for.
const WEIGHT_PER_SIGOP: u64 = 20;
/// Lowest fee rate LDK works with (253 sat per 1,000 weight units), sat per 1,000 vbytes.
const FEE_FLOOR_SAT_PER_KVB: u64 = 1_012;

/// Why a block is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the messages are bitcoind's own names of its rules
pub enum ChainRejection {
    #[error("prevblk-not-found")]
    NotOnTip,
    #[error("duplicate")]
    Duplicate,
    #[error("duplicate-invalid")]
    DuplicateInvalid,
    #[error("bad-prevblk")]
    InvalidParent,
    #[error("Block not found")]
    UnknownBlock,
    #[error("the genesis block cannot be invalidated")]
    Genesis,
    #[error("the branches part more than {max} blocks ago: this chain keeps no more to go back on")]
    TooDeep { max: usize },
    #[error("{max} blocks off the chain are kept already: start a new chain")]
    TooManyStale { max: usize },
    #[error("bad-version")]
    Version,
    #[error("bad-diffbits")]
    Difficulty,
    #[error("high-hash")]
    ProofOfWork,
    #[error("time-too-old")]
    TimeTooOld,
    #[error("time-too-new")]
    TimeTooNew,
    #[error("bad-cb-missing")]
    NoCoinbase,
    #[error("bad-cb-multiple")]
    SecondCoinbase,
    #[error("bad-cb-height")]
    CoinbaseHeight,
    #[error("bad-cb-length")]
    CoinbaseLength,
    #[error("bad-cb-amount")]
    CoinbaseAmount,
    #[error("bad-txnmrklroot")]
    MerkleRoot,
    #[error("bad-witness-merkle-match")]
    WitnessCommitment,
    #[error("bad-blk-weight")]
    Weight,
    #[error("bad-blk-sigops")]
    Sigops,
    #[error("transaction {txid}: {why}")]
    Transaction { txid: Txid, why: TxRejection },
    #[error("the chain is full ({MAX_BLOCKS} blocks): start a new one")]
    Full,
    #[error("the faucet has {has_sat} sat that can be spent, {needed_sat} are needed: mine to it and mature the coins")]
    FaucetEmpty { has_sat: u64, needed_sat: u64 },
    #[error("the block cannot be assembled")]
    Assembly,
}

/// What may wait, and how full blocks get. None of it is a rule for blocks made elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainPolicy {
    /// Heaviest block made here, weight units; at most 4,000,000.
    pub max_block_weight: u64,
    /// Lowest fee rate taken, and what a replacement pays for its own relay, sat per 1,000 vbytes.
    pub min_fee_sat_per_kvb: u64,
    /// Most vbytes that wait; beyond, what pays worst is evicted.
    pub max_pool_vbytes: u64,
}

impl Default for ChainPolicy {
    /// bitcoind's, with a smaller mempool.
    fn default() -> Self {
        Self { max_block_weight: MAX_BLOCK_WEIGHT, min_fee_sat_per_kvb: 1_000, max_pool_vbytes: 5_000_000 }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Coin {
    pub(super) output: TxOut,
    pub(super) height: u32,
    pub(super) coinbase: bool,
}

/// What a checked block does to the coins.
pub(super) struct Change {
    pub(super) spent: BTreeSet<OutPoint>,
    pub(super) made: BTreeMap<OutPoint, Coin>,
}

/// A chain, the blocks that lost against it, and what waits for its next block.
pub struct Chain {
    pub(super) policy: ChainPolicy,
    /// The chain, by height.
    pub(super) blocks: Vec<Stored>,
    pub(super) heights: HashMap<BlockHash, u32>,
    pub(super) coins: BTreeMap<OutPoint, Coin>,
    pub(super) places: HashMap<Txid, (u32, usize)>,
    pub(super) pool: Mempool,
    /// How to take back the last blocks, the newest at the end.
    pub(super) undo: VecDeque<Undo>,
    /// Known blocks that are not on the chain.
    pub(super) stale: BTreeMap<BlockHash, Stale>,
    /// Blocks declared or found invalid; with each, everything built on it.
    pub(super) invalid: BTreeSet<BlockHash>,
    /// Number of the next block that comes: of two branches equally long, the first one stays.
    pub(super) next_arrival: u64,
}

impl Default for Chain {
    fn default() -> Self {
        Self::new(ChainPolicy::default())
    }
}

pub(super) fn subsidy_sat(height: u32) -> u64 {
    SUBSIDY_SAT.checked_shr(height / HALVING_BLOCKS).unwrap_or(0)
}

pub(super) fn spendable(script: &ScriptBuf) -> bool {
    !script.is_op_return() && script.len() <= MAX_SCRIPT_BYTES
}

pub(super) fn height_push(height: u32) -> ScriptBuf {
    Builder::new().push_int(height.into()).into_script()
}

impl Chain {
    /// The regtest chain with its genesis block only.
    pub fn new(policy: ChainPolicy) -> Self {
        let genesis = bitcoin::constants::genesis_block(bitcoin::Network::Regtest);
        let heights = HashMap::from([(genesis.block_hash(), 0)]);
        // the genesis coin cannot be spent
        Self {
            policy,
            blocks: vec![Stored { block: genesis, arrival: 0 }],
            heights,
            coins: BTreeMap::new(),
            places: HashMap::new(),
            pool: Mempool::default(),
            undo: VecDeque::new(),
            stale: BTreeMap::new(),
            invalid: BTreeSet::new(),
            next_arrival: 1,
        }
    }

    /// Height of its last block.
    pub fn height(&self) -> u32 {
        u32::try_from(self.blocks.len().saturating_sub(1)).unwrap_or(u32::MAX)
    }

    /// Hash of its last block.
    pub fn tip(&self) -> BlockHash {
        self.blocks.last().map_or_else(BlockHash::all_zeros, |s| s.block.block_hash())
    }

    /// The block at a height of the chain.
    pub fn block(&self, height: u32) -> Option<&Block> {
        self.blocks.get(usize::try_from(height).ok()?).map(|s| &s.block)
    }

    /// The height of a block of the chain.
    pub fn height_of(&self, hash: &BlockHash) -> Option<u32> {
        self.heights.get(hash).copied()
    }

    /// Any known block with its height, whether on the chain or not.
    pub fn any_block(&self, hash: &BlockHash) -> Option<(&Block, u32)> {
        match self.heights.get(hash) {
            Some(height) => self.block(*height).map(|b| (b, *height)),
            None => self.stale.get(hash).map(|s| (&s.stored.block, s.height)),
        }
    }

    /// A transaction, waiting or confirmed.
    pub fn transaction(&self, txid: &Txid) -> Option<&Transaction> {
        if let Some(entry) = self.pool.get(txid) {
            return Some(&entry.tx);
        }
        let (height, at) = self.places.get(txid)?;
        self.block(*height)?.txdata.get(*at)
    }

    /// An unspent confirmed output, with its height and whether a coinbase made it.
    pub(super) fn coin(&self, outpoint: &OutPoint) -> Option<(&TxOut, u32, bool)> {
        self.coins.get(outpoint).map(|c| (&c.output, c.height, c.coinbase))
    }

    pub(super) fn pool(&self) -> &Mempool {
        &self.pool
    }

    /// Empties the mempool.
    pub(super) fn forget_waiting(&mut self) {
        self.pool.take();
    }

    /// Median time of the eleven blocks up to a height of the chain, s (BIP 113).
    pub fn median_time_s(&self, height: u32) -> u32 {
        let end = self.blocks.len().min(usize::try_from(height).unwrap_or(usize::MAX).saturating_add(1));
        let window = self.blocks.get(end.saturating_sub(MEDIAN_BLOCKS)..end).unwrap_or_default();
        median(window.iter().map(|s| s.block.header.time))
    }

    /// As [`Chain::median_time_s`], up to any known block.
    pub fn median_time_of(&self, hash: &BlockHash) -> u32 {
        let mut next = self.any_block(hash);
        let back = std::iter::from_fn(|| {
            let (block, _) = next?;
            next = self.any_block(&block.header.prev_blockhash);
            Some(block.header.time)
        });
        median(back.take(MEDIAN_BLOCKS))
    }

    pub(super) fn next(&self) -> Next {
        Next { height: self.height().saturating_add(1), median_time_s: self.median_time_s(self.height()) }
    }

    /// Takes a transaction into the mempool, or says why not. One that waits already is fine.
    ///
    /// # Errors
    /// Says which rule it breaks.
    pub fn accept(&mut self, tx: Transaction, now_s: u64) -> Result<Txid, TxRejection> {
        let txid = tx.compute_txid();
        if self.pool.get(&txid).is_some() {
            return Ok(txid);
        }
        let (entry, evicted) = self.may_enter(tx, now_s, true)?;
        self.pool.insert(entry, &evicted);
        self.pool.trim(self.policy.max_pool_vbytes, self.policy.min_fee_sat_per_kvb);
        self.pool.get(&txid).map(|_| txid).ok_or(TxRejection::PoolFull)
    }

    /// Whether [`Chain::accept`] would take it, and for what fee, sat; nothing changes.
    ///
    /// # Errors
    /// Says which rule it breaks.
    pub fn test_accept(&self, tx: Transaction, now_s: u64) -> Result<u64, TxRejection> {
        if self.pool.get(&tx.compute_txid()).is_some() {
            return Err(TxRejection::AlreadyWaiting);
        }
        self.may_enter(tx, now_s, true).map(|(entry, _)| entry.fee_sat)
    }

    /// Lowest fee rate that gets in now, sat per 1,000 vbytes.
    pub fn min_fee_sat_per_kvb(&self) -> u64 {
        self.policy.min_fee_sat_per_kvb.max(self.pool.risen_fee_rate())
    }

    /// Checks all but the minimum fee, too, for what a dropped block gives back.
    pub(super) fn may_enter(
        &self,
        tx: Transaction,
        now_s: u64,
        ask_min_fee: bool,
    ) -> Result<(Entry, BTreeSet<u64>), TxRejection> {
        let txid = tx.compute_txid();
        check::check_alone(&tx)?;
        policy::check_standard(&tx)?;
        if self.places.contains_key(&txid) {
            return Err(TxRejection::AlreadyConfirmed);
        }
        let next = self.next();
        let spent =
            tx.input.iter().map(|i| self.spendable_coin(&i.previous_output, next)).collect::<Result<Vec<_>, _>>()?;
        policy::check_standard_inputs(&tx, &spent)?;
        let sigops = tx.total_sigop_cost(|o| check::find(&tx, &spent, o)) as u64;
        if sigops > MAX_TX_SIGOPS {
            return Err(TxRejection::TooManySigops);
        }
        let fee_sat = check::check_amounts(&tx, &spent)?;
        let weight = tx.weight().to_wu();
        let vsize = weight.max(sigops.saturating_mul(WEIGHT_PER_SIGOP)).div_ceil(4);
        let (least, risen) = (self.policy.min_fee_sat_per_kvb, self.min_fee_sat_per_kvb());
        match (Rate::fee_at(least, vsize), Rate::fee_at(risen, vsize)) {
            (needed_sat, _) if ask_min_fee && fee_sat < needed_sat => {
                return Err(TxRejection::FeeTooLow { fee_sat, needed_sat });
            }
            (_, needed_sat) if ask_min_fee && fee_sat < needed_sat => {
                return Err(TxRejection::PoolFeeTooLow { fee_sat, needed_sat });
            }
            _ => {}
        }
        let height = self.height();
        let entry = Entry { tx, txid, fee_sat, vsize, weight, sigops, time_s: now_s, height };
        let evicted = self.pool.may_enter(&entry, least)?;
        // last, since scripts cost most
        check::check_spend(&entry.tx, &spent, next, |h| self.median_time_s(h))?;
        Ok((entry, evicted))
    }

    /// Fee rate for confirmation within so many blocks, sat per 1,000 vbytes: what the last transaction of
    /// them would pay if they were made now, and a little more.
    pub fn fee_estimate_sat_per_kvb(&self, blocks: u64) -> u64 {
        let floor = FEE_FLOOR_SAT_PER_KVB.max(self.min_fee_sat_per_kvb());
        let room = self.block_room().saturating_mul(blocks.max(1));
        if self.pool.weight() <= room {
            return floor;
        }
        let sigops = (MAX_BLOCK_SIGOPS as u64).saturating_mul(blocks.max(1));
        let price = select(&self.pool, room, sigops).price.map_or(0, Rate::sat_per_kvb);
        floor.max(price.saturating_add(self.policy.min_fee_sat_per_kvb))
    }

    /// A confirmed or waiting coin; another waiting transaction may spend it (that is a replacement).
    fn spendable_coin(&self, outpoint: &OutPoint, next: Next) -> Result<Spent, TxRejection> {
        if let Some(Coin { output, height, coinbase }) = self.coins.get(outpoint) {
            return Ok(Spent { output: output.clone(), height: *height, coinbase: *coinbase });
        }
        let output = self.pool.output(outpoint).filter(|o| spendable(&o.script_pubkey));
        let output = output.ok_or(TxRejection::MissingInput(*outpoint))?.clone();
        Ok(Spent { output, height: next.height, coinbase: false })
    }

    /// Checks what a block says by itself and against its parent; nothing changes.
    pub(super) fn check_form(&self, block: &Block, height: u32) -> Result<(), ChainRejection> {
        let Header { version, prev_blockhash, time, bits, .. } = block.header;
        if usize::try_from(height).unwrap_or(usize::MAX) >= MAX_BLOCKS {
            return Err(ChainRejection::Full);
        }
        if bits.to_consensus() != BITS {
            return Err(ChainRejection::Difficulty);
        }
        block.header.validate_pow(block.header.target()).map_err(|_| ChainRejection::ProofOfWork)?;
        if version.to_consensus() < MIN_VERSION {
            return Err(ChainRejection::Version);
        }
        if time <= self.median_time_of(&prev_blockhash) {
            return Err(ChainRejection::TimeTooOld);
        }
        if !block.check_merkle_root() {
            return Err(ChainRejection::MerkleRoot);
        }
        let (coinbase, rest) = block.txdata.split_first().ok_or(ChainRejection::NoCoinbase)?;
        if !coinbase.is_coinbase() {
            return Err(ChainRejection::NoCoinbase);
        }
        if rest.iter().any(Transaction::is_coinbase) {
            return Err(ChainRejection::SecondCoinbase);
        }
        let script = coinbase.input.first().map(|i| &i.script_sig).ok_or(ChainRejection::NoCoinbase)?;
        if !script.as_bytes().starts_with(height_push(height).as_bytes()) {
            return Err(ChainRejection::CoinbaseHeight); // BIP 34
        }
        if !(2..=100).contains(&script.len()) {
            return Err(ChainRejection::CoinbaseLength);
        }
        if !block.check_witness_commitment() {
            return Err(ChainRejection::WitnessCommitment);
        }
        if block.weight().to_wu() > MAX_BLOCK_WEIGHT {
            return Err(ChainRejection::Weight);
        }
        Ok(())
    }

    /// Refuses a block from the future. Not asked of blocks read back from disk: clocks may be set back.
    ///
    /// # Errors
    /// If it is more than two hours ahead of `now_s`.
    pub fn check_clock(block: &Block, now_s: u64) -> Result<(), ChainRejection> {
        let ahead = u64::from(block.header.time) > now_s.saturating_add(MAX_FUTURE_S);
        if ahead { Err(ChainRejection::TimeTooNew) } else { Ok(()) }
    }

    /// Checks a block on the tip against every rule; nothing changes.
    pub(super) fn check(&self, block: &Block) -> Result<Change, ChainRejection> {
        if block.header.prev_blockhash != self.tip() {
            return Err(ChainRejection::NotOnTip);
        }
        let next = self.next();
        self.check_form(block, next.height)?;
        let (coinbase, rest) = block.txdata.split_first().ok_or(ChainRejection::NoCoinbase)?;
        self.check_transactions(coinbase, rest, next)
    }

    fn check_transactions(
        &self,
        coinbase: &Transaction,
        rest: &[Transaction],
        next: Next,
    ) -> Result<Change, ChainRejection> {
        let mut change = Change { spent: BTreeSet::new(), made: BTreeMap::new() };
        let mut allowed_sat = subsidy_sat(next.height);
        let mut sigops = coinbase.total_sigop_cost(|_| None);
        for tx in rest {
            let txid = tx.compute_txid();
            let fail = |why| ChainRejection::Transaction { txid, why };
            check::check_alone(tx).map_err(fail)?;
            let mut spent = Vec::with_capacity(tx.input.len());
            for input in &tx.input {
                spent.push(self.spend(&mut change, input.previous_output).map_err(fail)?);
            }
            let fee_sat = check::check_spend(tx, &spent, next, |h| self.median_time_s(h)).map_err(fail)?;
            allowed_sat = allowed_sat.saturating_add(fee_sat);
            sigops = sigops.saturating_add(tx.total_sigop_cost(|o| check::find(tx, &spent, o)));
            change.make(tx, txid, next.height);
        }
        if sigops > MAX_BLOCK_SIGOPS {
            return Err(ChainRejection::Sigops);
        }
        let txid = coinbase.compute_txid();
        check::check_alone(coinbase).map_err(|why| ChainRejection::Transaction { txid, why })?;
        if !check::is_final(coinbase, next) {
            return Err(ChainRejection::Transaction { txid, why: TxRejection::NotFinal });
        }
        if coinbase.output.iter().map(|o| o.value.to_sat()).sum::<u64>() > allowed_sat {
            return Err(ChainRejection::CoinbaseAmount);
        }
        change.make(coinbase, txid, next.height);
        Ok(change)
    }

    /// Spends a coin of this block or an earlier one, once.
    fn spend(&self, change: &mut Change, outpoint: OutPoint) -> Result<Spent, TxRejection> {
        let missing = TxRejection::MissingInput(outpoint);
        let Coin { output, height, coinbase } = match change.made.remove(&outpoint) {
            Some(coin) => coin,
            None if change.spent.contains(&outpoint) => return Err(missing),
            None => {
                let coin = self.coins.get(&outpoint).ok_or(missing)?.clone();
                change.spent.insert(outpoint);
                coin
            }
        };
        Ok(Spent { output, height, coinbase })
    }
}

fn median(times: impl Iterator<Item = u32>) -> u32 {
    let mut times: Vec<u32> = times.collect();
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or(0)
}

impl Change {
    fn make(&mut self, tx: &Transaction, txid: Txid, height: u32) {
        for (vout, output) in tx.output.iter().enumerate() {
            if spendable(&output.script_pubkey) {
                let outpoint = OutPoint::new(txid, u32::try_from(vout).unwrap_or(u32::MAX));
                let coin = Coin { output: output.clone(), height, coinbase: tx.is_coinbase() };
                self.made.insert(outpoint, coin);
            }
        }
    }
}
