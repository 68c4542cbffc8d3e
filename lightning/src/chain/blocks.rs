//! The chain itself: blocks, coins, and the making of new ones. Pure: no file, socket or clock.

use super::check::{self, Next, Spent, TxRejection};
use super::mempool::{Entry, Mempool};
use bitcoin::absolute::LockTime;
use bitcoin::block::{Header, Version as BlockVersion};
use bitcoin::hashes::Hash as _;
use bitcoin::opcodes::{OP_0, OP_TRUE};
use bitcoin::script::{Builder, PushBytesBuf};
use bitcoin::transaction::Version;
use bitcoin::{
    Address, Amount, Block, BlockHash, CompactTarget, Network, OutPoint, ScriptBuf, Sequence, Transaction, TxIn,
    TxMerkleNode, TxOut, Txid, Witness,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Difficulty of regtest: every second hash will do.
const BITS: u32 = 0x207f_ffff;
/// Subsidy of the first blocks, sat.
const SUBSIDY_SAT: u64 = 50 * 100_000_000;
/// Blocks between halvings on regtest.
const HALVING_BLOCKS: u32 = 150;
/// Heaviest block.
const MAX_BLOCK_WEIGHT: u64 = 4_000_000;
/// Most signature operations in a block, weighted.
const MAX_BLOCK_SIGOPS: usize = 80_000;
/// Longest chain kept: blocks live in memory.
const MAX_BLOCKS: usize = 500_000;
/// Blocks whose times make a median (BIP 113).
const MEDIAN_BLOCKS: usize = 11;
/// Start of a witness commitment output (BIP 141).
const COMMITMENT_PREFIX: [u8; 4] = [0xaa, 0x21, 0xa9, 0xed];
/// Scripts longer than this cannot be spent.
const MAX_SCRIPT_BYTES: usize = 10_000;
/// Fee rate of faucet payments, sat per vbyte.
const FAUCET_FEE_RATE: u64 = 2;
/// Most coins one faucet payment spends, and most outputs it makes.
const MAX_FAUCET_COINS: usize = 500;

/// Why a block is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the messages are bitcoind's own names of its rules
pub enum ChainRejection {
    #[error("prevblk-not-found")]
    NotOnTip,
    #[error("bad-diffbits")]
    Difficulty,
    #[error("high-hash")]
    ProofOfWork,
    #[error("time-too-old")]
    TimeTooOld,
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

#[derive(Clone, Debug)]
struct Coin {
    output: TxOut,
    height: u32,
    coinbase: bool,
}

/// What a checked block does to the coins.
pub(super) struct Change {
    spent: BTreeSet<OutPoint>,
    made: BTreeMap<OutPoint, Coin>,
}

/// A chain and what waits for its next block.
pub struct Chain {
    blocks: Vec<Block>,
    heights: HashMap<BlockHash, u32>,
    coins: BTreeMap<OutPoint, Coin>,
    places: HashMap<Txid, (u32, usize)>,
    pool: Mempool,
}

impl Default for Chain {
    fn default() -> Self {
        Self::new()
    }
}

/// The script whose coins the faucet pays from: anyone may spend them.
pub(super) fn faucet_witness_script() -> ScriptBuf {
    Builder::new().push_opcode(OP_TRUE).into_script()
}

/// The faucet's address.
pub(super) fn faucet_address() -> Address {
    Address::p2wsh(&faucet_witness_script(), Network::Regtest)
}

fn subsidy_sat(height: u32) -> u64 {
    SUBSIDY_SAT.checked_shr(height / HALVING_BLOCKS).unwrap_or(0)
}

fn spendable(script: &ScriptBuf) -> bool {
    !script.is_op_return() && script.len() <= MAX_SCRIPT_BYTES
}

fn height_push(height: u32) -> ScriptBuf {
    Builder::new().push_int(height.into()).into_script()
}

impl Chain {
    /// The regtest chain with its genesis block only.
    pub fn new() -> Self {
        let genesis = bitcoin::constants::genesis_block(Network::Regtest);
        let heights = HashMap::from([(genesis.block_hash(), 0)]);
        // the genesis coin cannot be spent
        Self {
            blocks: vec![genesis],
            heights,
            coins: BTreeMap::new(),
            places: HashMap::new(),
            pool: Mempool::default(),
        }
    }

    /// Height of its last block.
    pub fn height(&self) -> u32 {
        u32::try_from(self.blocks.len().saturating_sub(1)).unwrap_or(u32::MAX)
    }

    /// Hash of its last block.
    pub fn tip(&self) -> BlockHash {
        self.blocks.last().map_or_else(BlockHash::all_zeros, Block::block_hash)
    }

    /// The block at a height.
    pub fn block(&self, height: u32) -> Option<&Block> {
        self.blocks.get(usize::try_from(height).ok()?)
    }

    /// The height of a block.
    pub fn height_of(&self, hash: &BlockHash) -> Option<u32> {
        self.heights.get(hash).copied()
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

    /// Median time of the eleven blocks up to a height, s (BIP 113).
    pub fn median_time_s(&self, height: u32) -> u32 {
        let end = self.blocks.len().min(usize::try_from(height).unwrap_or(usize::MAX).saturating_add(1));
        let window = self.blocks.get(end.saturating_sub(MEDIAN_BLOCKS)..end).unwrap_or_default();
        let mut times: Vec<u32> = window.iter().map(|b| b.header.time).collect();
        times.sort_unstable();
        times.get(times.len() / 2).copied().unwrap_or(0)
    }

    fn next(&self) -> Next {
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
        check::check_alone(&tx)?;
        check::check_relay(&tx)?;
        if self.places.contains_key(&txid) {
            return Err(TxRejection::AlreadyConfirmed);
        }
        let next = self.next();
        let spent =
            tx.input.iter().map(|i| self.spendable_coin(&i.previous_output, next)).collect::<Result<Vec<_>, _>>()?;
        let fee_sat = check::check_spend(&tx, &spent, next, |h| self.median_time_s(h))?;
        let vsize = u64::try_from(tx.vsize()).unwrap_or(u64::MAX);
        if fee_sat < vsize {
            return Err(TxRejection::FeeTooLow { fee_sat, needed_sat: vsize });
        }
        let sigops = tx.total_sigop_cost(|o| check::find(&tx, &spent, o)) as u64;
        if sigops > MAX_BLOCK_SIGOPS as u64 / 5 {
            return Err(TxRejection::TooManySigops);
        }
        let (weight, height) = (tx.weight().to_wu(), self.height());
        self.pool.insert(Entry { tx, txid, fee_sat, vsize, weight, sigops, time_s: now_s, height })?;
        Ok(txid)
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

    /// Checks a block against every rule; nothing changes.
    pub(super) fn check(&self, block: &Block) -> Result<Change, ChainRejection> {
        let next = self.next();
        if self.blocks.len() >= MAX_BLOCKS {
            return Err(ChainRejection::Full);
        }
        let header = &block.header;
        if header.prev_blockhash != self.tip() {
            return Err(ChainRejection::NotOnTip);
        }
        if header.bits.to_consensus() != BITS {
            return Err(ChainRejection::Difficulty);
        }
        header.validate_pow(header.target()).map_err(|_| ChainRejection::ProofOfWork)?;
        if header.time <= next.median_time_s {
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
        if !script.as_bytes().starts_with(height_push(next.height).as_bytes()) {
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

    /// Adds a block just checked on this very chain.
    pub(super) fn apply(&mut self, block: Block, change: Change) {
        assert_eq!(block.header.prev_blockhash, self.tip(), "a block is applied where it was checked");
        let height = self.height().saturating_add(1);
        for outpoint in &change.spent {
            let coin = self.coins.remove(outpoint);
            assert!(coin.is_some(), "a checked block spends coins that exist");
        }
        self.coins.extend(change.made);
        for (at, tx) in block.txdata.iter().enumerate() {
            self.places.insert(tx.compute_txid(), (height, at));
        }
        self.pool.confirm(&block.txdata);
        self.heights.insert(block.block_hash(), height);
        self.blocks.push(block);
    }

    /// Adds a block if it keeps every rule.
    ///
    /// # Errors
    /// Says which rule it breaks.
    pub fn connect(&mut self, block: Block) -> Result<(), ChainRejection> {
        let change = self.check(&block)?;
        self.apply(block, change);
        Ok(())
    }

    /// Makes the next block out of all that waits; its subsidy and fees go to `payout`. Nothing changes.
    ///
    /// # Errors
    /// Only if the mempool's limits are wrong.
    pub fn assemble(&self, payout: ScriptBuf, now_s: u64) -> Result<Block, ChainRejection> {
        let next = self.next();
        let fees_sat: u64 = self.pool.entries().map(|e| e.fee_sat).sum();
        let coinbase = Transaction {
            version: Version::TWO,
            lock_time: LockTime::ZERO,
            input: vec![TxIn {
                previous_output: OutPoint::null(),
                script_sig: [height_push(next.height).as_bytes(), &[OP_0.to_u8()]].concat().into(),
                sequence: Sequence::MAX,
                witness: Witness::from_slice(&[[0u8; 32]]),
            }],
            output: vec![TxOut {
                value: Amount::from_sat(subsidy_sat(next.height).saturating_add(fees_sat)),
                script_pubkey: payout,
            }],
        };
        let mut block = Block {
            header: Header {
                version: BlockVersion::from_consensus(0x2000_0000),
                prev_blockhash: self.tip(),
                merkle_root: TxMerkleNode::all_zeros(),
                time: u32::try_from(now_s).unwrap_or(u32::MAX).max(next.median_time_s.saturating_add(1)),
                bits: CompactTarget::from_consensus(BITS),
                nonce: 0,
            },
            txdata: std::iter::once(coinbase).chain(self.pool.entries().map(|e| e.tx.clone())).collect(),
        };
        let root = block.witness_root().ok_or(ChainRejection::Assembly)?;
        let mut commitment = COMMITMENT_PREFIX.to_vec();
        commitment.extend(Block::compute_witness_commitment(&root, &[0; 32]).to_byte_array());
        let commitment = PushBytesBuf::try_from(commitment).map_err(|_| ChainRejection::Assembly)?;
        let output = TxOut { value: Amount::ZERO, script_pubkey: ScriptBuf::new_op_return(commitment) };
        block.txdata.first_mut().ok_or(ChainRejection::Assembly)?.output.push(output);
        block.header.merkle_root = block.compute_merkle_root().ok_or(ChainRejection::Assembly)?;
        let target = block.header.target();
        while block.header.validate_pow(target).is_err() {
            block.header.nonce = block.header.nonce.checked_add(1).ok_or(ChainRejection::Assembly)?;
        }
        Ok(block)
    }

    /// A transaction paying from the faucet's mature coins, largest first.
    ///
    /// # Errors
    /// If they do not suffice.
    pub fn faucet_payment(&self, to: Vec<TxOut>) -> Result<Transaction, ChainRejection> {
        let faucet = faucet_address().script_pubkey();
        let next = self.next();
        let mature = |c: &Coin| !c.coinbase || next.height.saturating_sub(c.height) >= check::COINBASE_MATURITY;
        let free =
            |(o, c): &(&OutPoint, &Coin)| c.output.script_pubkey == faucet && mature(c) && !self.pool.is_spent(o);
        let mut coins: Vec<_> = self.coins.iter().filter(free).collect();
        coins.sort_by_key(|(_, c)| std::cmp::Reverse(c.output.value));
        let paid_sat = to.iter().map(|o| o.value.to_sat()).fold(0, u64::saturating_add);
        let bytes: usize = 60 + to.iter().map(TxOut::size).sum::<usize>();
        let (mut has_sat, mut needed_sat) = (0u64, paid_sat.saturating_add(bytes as u64 * FAUCET_FEE_RATE));
        let mut input = Vec::new();
        for (outpoint, coin) in coins.into_iter().take(MAX_FAUCET_COINS) {
            if has_sat >= needed_sat {
                break;
            }
            has_sat = has_sat.saturating_add(coin.output.value.to_sat());
            needed_sat = needed_sat.saturating_add(42 * FAUCET_FEE_RATE);
            let witness = Witness::from_slice(&[faucet_witness_script().into_bytes()]);
            input.push(TxIn { previous_output: *outpoint, sequence: Sequence::MAX, witness, ..TxIn::default() });
        }
        let Some(change_sat) = has_sat.checked_sub(needed_sat).filter(|_| !input.is_empty()) else {
            return Err(ChainRejection::FaucetEmpty { has_sat, needed_sat });
        };
        let mut output = to;
        if change_sat > 0 {
            output.push(TxOut { value: Amount::from_sat(change_sat), script_pubkey: faucet });
        }
        Ok(Transaction { version: Version::TWO, lock_time: LockTime::ZERO, input, output })
    }
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
