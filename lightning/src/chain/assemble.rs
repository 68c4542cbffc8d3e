//! Making blocks, and paying out of the coins they make.

use super::blocks::{BITS, Chain, ChainRejection, Coin, MAX_BLOCK_WEIGHT, height_push, subsidy_sat};
use super::check;
use super::policy::is_dust;
use super::select::select;
use bitcoin::absolute::LockTime;
use bitcoin::block::{Header, Version as BlockVersion};
use bitcoin::hashes::Hash as _;
use bitcoin::opcodes::OP_TRUE;
use bitcoin::script::{Builder, PushBytesBuf};
use bitcoin::transaction::Version;
use bitcoin::{
    Address, Amount, Block, CompactTarget, Network, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxMerkleNode,
    TxOut, Witness,
};

/// Start of a witness commitment output (BIP 141).
const COMMITMENT_PREFIX: [u8; 4] = [0xaa, 0x21, 0xa9, 0xed];
/// Weight kept for header, coinbase and the number of transactions.
const RESERVED_WEIGHT: u64 = 4_000;
/// Signature operations of the transactions in a block made here, weighted; some are left for the coinbase.
const MAX_SIGOPS: u64 = 79_600;
/// Most blocks made alike but for a number in the coinbase, until one is new.
const MAX_TWINS: i64 = 10_000;
/// Fee rate of faucet payments, sat per vbyte.
const FAUCET_FEE_RATE: u64 = 2;
/// Most coins one faucet payment spends, and most outputs it makes.
const MAX_FAUCET_COINS: usize = 500;

/// The script whose coins the faucet pays from: anyone may spend them.
pub(super) fn faucet_witness_script() -> ScriptBuf {
    Builder::new().push_opcode(OP_TRUE).into_script()
}

/// The faucet's address.
pub(super) fn faucet_address() -> Address {
    Address::p2wsh(&faucet_witness_script(), Network::Regtest)
}

impl Chain {
    /// Weight that transactions may have in a block made here.
    pub(super) fn block_room(&self) -> u64 {
        self.policy.max_block_weight.min(MAX_BLOCK_WEIGHT).saturating_sub(RESERVED_WEIGHT)
    }

    /// Makes the next block out of what waits and pays best; its subsidy and fees go to `payout`. Nothing
    /// changes.
    ///
    /// # Errors
    /// Only if no such block can be made.
    pub fn assemble(&self, payout: ScriptBuf, now_s: u64) -> Result<Block, ChainRejection> {
        let order = select(&self.pool, self.block_room(), MAX_SIGOPS).order;
        let chosen: Vec<_> = order.iter().filter_map(|at| self.pool.at(*at)).collect();
        let fees_sat = chosen.iter().map(|e| e.fee_sat).sum();
        let txs: Vec<Transaction> = chosen.iter().map(|e| e.tx.clone()).collect();
        self.assemble_from(&txs, fees_sat, payout, now_s)
    }

    /// Makes the next block of exactly these transactions, which pay `fees_sat`; whether it is valid shows
    /// when it is added.
    ///
    /// # Errors
    /// Only if no such block can be made.
    pub fn assemble_from(
        &self,
        txs: &[Transaction],
        fees_sat: u64,
        payout: ScriptBuf,
        now_s: u64,
    ) -> Result<Block, ChainRejection> {
        // a block just declared invalid must not be made again
        let twins = (0..MAX_TWINS).map(|twin| self.assemble_twin(twin, txs, fees_sat, payout.clone(), now_s));
        let new = |b: &Result<Block, _>| b.as_ref().map_or(true, |b| self.any_block(&b.block_hash()).is_none());
        twins.into_iter().find(new).unwrap_or(Err(ChainRejection::Assembly))
    }

    fn assemble_twin(
        &self,
        twin: i64,
        txs: &[Transaction],
        fees_sat: u64,
        payout: ScriptBuf,
        now_s: u64,
    ) -> Result<Block, ChainRejection> {
        let next = self.next();
        let number = Builder::new().push_int(twin).into_script();
        let coinbase = Transaction {
            version: Version::TWO,
            lock_time: LockTime::ZERO,
            input: vec![TxIn {
                previous_output: OutPoint::null(),
                script_sig: [height_push(next.height).as_bytes(), number.as_bytes()].concat().into(),
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
            txdata: std::iter::once(coinbase).chain(txs.iter().cloned()).collect(),
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
        let change = TxOut { value: Amount::from_sat(change_sat), script_pubkey: faucet };
        if !is_dust(&change) {
            output.push(change);
        }
        Ok(Transaction { version: Version::TWO, lock_time: LockTime::ZERO, input, output })
    }
}
