//! The rules for one transaction: Bitcoin's consensus rules, under the names bitcoind gives them.
//!
//! Everything here depends only on its arguments. Rules and their order follow Bitcoin Core
//! (`consensus/tx_check.cpp`, `consensus/tx_verify.cpp`, BIP 68, BIP 113).

use super::verify::check_scripts;
use bitcoin::{OutPoint, Transaction, TxOut};
use std::collections::BTreeSet;

/// Most satoshis there can be.
const MAX_MONEY_SAT: u64 = 21_000_000 * 100_000_000;
/// Blocks until a coinbase can be spent.
pub(super) const COINBASE_MATURITY: u32 = 100;
/// Lock times below are heights, others seconds.
const LOCKTIME_THRESHOLD: u32 = 500_000_000;
/// BIP 68: this bit switches the relative lock off.
const SEQUENCE_DISABLE: u32 = 1 << 31;
/// BIP 68: this bit makes it one of time.
const SEQUENCE_TIME: u32 = 1 << 22;
/// BIP 68: the lock itself.
const SEQUENCE_MASK: u32 = 0xffff;

/// Why a transaction is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the messages are bitcoind's own names of its rules
pub enum TxRejection {
    #[error("bad-txns-vin-empty")]
    NoInputs,
    #[error("bad-txns-vout-empty")]
    NoOutputs,
    #[error("bad-txns-vout-toolarge")]
    OutputTooLarge,
    #[error("bad-txns-inputs-duplicate")]
    DuplicateInput,
    #[error("bad-txns-prevout-null")]
    NullInput,
    #[error("coinbase")]
    Coinbase,
    #[error("tx-size")]
    TooLarge,
    #[error("tx-size-small")]
    TooSmall,
    #[error("bad-txns-too-many-sigops")]
    TooManySigops,
    #[error("non-final")]
    NotFinal,
    #[error("non-BIP68-final")]
    NotBip68Final,
    #[error("bad-txns-inputs-missingorspent {0}")]
    MissingInput(OutPoint),
    #[error("bad-txns-premature-spend-of-coinbase")]
    ImmatureCoinbase,
    #[error("bad-txns-inputvalues-outofrange")]
    InputTooLarge,
    #[error("bad-txns-in-belowout")]
    InBelowOut,
    #[error("mandatory-script-verify-flag-failed ({0})")]
    Script(String),
    #[error("{0}")]
    NotStandard(&'static str),
    #[error("min relay fee not met, {fee_sat} < {needed_sat}")]
    FeeTooLow { fee_sat: u64, needed_sat: u64 },
    #[error("mempool min fee not met, {fee_sat} < {needed_sat}")]
    PoolFeeTooLow { fee_sat: u64, needed_sat: u64 },
    #[error("too-long-mempool-chain: at most 25 waiting transactions or 101 kvB depend on each other")]
    TooLongChain,
    #[error("insufficient fee, rejecting replacement: {fee_sat} < {needed_sat}")]
    ReplacementFee { fee_sat: u64, needed_sat: u64 },
    #[error("insufficient fee, rejecting replacement: it pays less per vbyte than what it replaces")]
    ReplacementRate,
    #[error("replacement-adds-unconfirmed {0}")]
    ReplacementAddsUnconfirmed(OutPoint),
    #[error("too many potential replacements")]
    TooManyReplacements,
    #[error("bad-txns-spends-conflicting-tx")]
    SpendsConflict,
    #[error("mempool full")]
    PoolFull,
    #[error("txn-already-in-mempool")]
    AlreadyWaiting,
    #[error("Transaction outputs already in utxo set")]
    AlreadyConfirmed,
}

/// A coin about to be spent.
#[derive(Clone, Debug)]
pub(super) struct Spent {
    pub(super) output: TxOut,
    /// Height it was confirmed at; that of the block being made if it is not.
    pub(super) height: u32,
    pub(super) coinbase: bool,
}

/// The block the transaction is to enter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Next {
    pub(super) height: u32,
    /// Median time of the eleven blocks before (BIP 113), s.
    pub(super) median_time_s: u32,
}

fn sum_sat<'a>(outputs: impl Iterator<Item = &'a TxOut>) -> Option<u64> {
    let add = |sum: u64, o: &TxOut| sum.checked_add(o.value.to_sat()).filter(|s| *s <= MAX_MONEY_SAT);
    outputs.into_iter().try_fold(0, add)
}

/// What can be said of a transaction alone, a coinbase included.
pub(super) fn check_alone(tx: &Transaction) -> Result<(), TxRejection> {
    if tx.input.is_empty() {
        return Err(TxRejection::NoInputs);
    }
    if tx.output.is_empty() {
        return Err(TxRejection::NoOutputs);
    }
    sum_sat(tx.output.iter()).ok_or(TxRejection::OutputTooLarge)?;
    let mut seen = BTreeSet::new();
    for input in &tx.input {
        if !seen.insert(input.previous_output) {
            return Err(TxRejection::DuplicateInput);
        }
        if input.previous_output.is_null() && !tx.is_coinbase() {
            return Err(TxRejection::NullInput);
        }
    }
    Ok(())
}

/// `IsFinalTx` of Bitcoin Core.
pub(super) fn is_final(tx: &Transaction, next: Next) -> bool {
    let lock = tx.lock_time.to_consensus_u32();
    let reached = if lock < LOCKTIME_THRESHOLD { next.height } else { next.median_time_s };
    lock == 0 || lock < reached || tx.input.iter().all(|i| i.sequence.0 == u32::MAX)
}

/// Everything that depends on the coins spent, in input order; returns the fee, sat. `median_time_s` tells
/// the median time of the block at a height.
pub(super) fn check_spend(
    tx: &Transaction,
    spent: &[Spent],
    next: Next,
    median_time_s: impl Fn(u32) -> u32,
) -> Result<u64, TxRejection> {
    if !is_final(tx, next) {
        return Err(TxRejection::NotFinal);
    }
    for (input, coin) in tx.input.iter().zip(spent) {
        if coin.coinbase && next.height.saturating_sub(coin.height) < COINBASE_MATURITY {
            return Err(TxRejection::ImmatureCoinbase);
        }
        if !is_bip68_final(tx, input.sequence.0, coin, next, &median_time_s) {
            return Err(TxRejection::NotBip68Final);
        }
    }
    let fee_sat = check_amounts(tx, spent)?;
    check_scripts(tx, spent)?;
    Ok(fee_sat)
}

/// The fee, sat.
pub(super) fn check_amounts(tx: &Transaction, spent: &[Spent]) -> Result<u64, TxRejection> {
    let paid_sat = sum_sat(spent.iter().map(|s| &s.output)).ok_or(TxRejection::InputTooLarge)?;
    let sent_sat = sum_sat(tx.output.iter()).ok_or(TxRejection::OutputTooLarge)?;
    paid_sat.checked_sub(sent_sat).ok_or(TxRejection::InBelowOut)
}

/// The output an input of `tx` spends.
pub(super) fn find(tx: &Transaction, spent: &[Spent], outpoint: &OutPoint) -> Option<TxOut> {
    let at = tx.input.iter().position(|i| i.previous_output == *outpoint)?;
    spent.get(at).map(|s| s.output.clone())
}

/// BIP 68 for one input.
fn is_bip68_final(
    tx: &Transaction,
    sequence: u32,
    coin: &Spent,
    next: Next,
    median_time_s: impl Fn(u32) -> u32,
) -> bool {
    // Bitcoin Core compares the version as an unsigned number
    if u32::from_ne_bytes(tx.version.0.to_ne_bytes()) < 2 || sequence & SEQUENCE_DISABLE != 0 {
        return true;
    }
    let lock = sequence & SEQUENCE_MASK;
    if sequence & SEQUENCE_TIME != 0 {
        let since_s = median_time_s(coin.height.saturating_sub(1));
        next.median_time_s >= since_s.saturating_add(lock << 9)
    } else {
        next.height >= coin.height.saturating_add(lock)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bitcoin::absolute::LockTime;
    use bitcoin::hashes::Hash as _;
    use bitcoin::transaction::Version;
    use bitcoin::{Amount, ScriptBuf, Sequence, TxIn, Txid};

    fn tx(lock: u32, sequence: u32) -> Transaction {
        Transaction {
            version: Version::TWO,
            lock_time: LockTime::from_consensus(lock),
            input: vec![TxIn {
                previous_output: OutPoint::new(Txid::from_byte_array([1; 32]), 0),
                sequence: Sequence(sequence),
                ..TxIn::default()
            }],
            output: vec![TxOut { value: Amount::from_sat(1), script_pubkey: ScriptBuf::new() }],
        }
    }

    #[test]
    fn a_lock_time_is_the_last_height_that_must_exist() {
        let at = |height| Next { height, median_time_s: 600_000_000 };
        assert!(!is_final(&tx(101, 0), at(101)), "locked until block 101 exists");
        assert!(is_final(&tx(101, 0), at(102)));
        assert!(is_final(&tx(101, u32::MAX), at(5)), "final sequences switch it off");
        assert!(is_final(&tx(0, 0), at(1)));
        assert!(!is_final(&tx(600_000_000, 0), at(1)));
        assert!(is_final(&tx(599_999_999, 0), at(1)));
    }

    #[test] // BIP 68
    fn relative_locks_of_blocks_and_time() {
        let coin = |height| Spent {
            output: TxOut { value: Amount::from_sat(1), script_pubkey: ScriptBuf::new() },
            height,
            coinbase: false,
        };
        let next = Next { height: 110, median_time_s: 10_000 };
        let ok = |sequence, height| is_bip68_final(&tx(0, sequence), sequence, &coin(height), next, |h| h * 100);
        assert!(ok(10, 100));
        assert!(!ok(11, 100));
        assert!(!ok(1, 110), "an unconfirmed coin is zero blocks old");
        assert!(ok(0, 110));
        assert!(ok(11 | SEQUENCE_DISABLE, 100));
        assert!(ok(SEQUENCE_TIME | 1, 95), "median time 9,400 at height 94, 512 s later is 9,912");
        assert!(!ok(SEQUENCE_TIME | 2, 95));
        let mut old = tx(0, 11);
        old.version = Version::ONE;
        assert!(is_bip68_final(&old, 11, &coin(100), next, |_| 0));
    }

    #[test]
    fn what_a_transaction_says_alone() {
        assert_eq!(check_alone(&tx(0, 0)), Ok(()));
        let mut t = tx(0, 0);
        t.input.push(t.input[0].clone());
        assert_eq!(check_alone(&t), Err(TxRejection::DuplicateInput));
        let mut t = tx(0, 0);
        t.output[0].value = Amount::from_sat(MAX_MONEY_SAT);
        t.output.push(t.output[0].clone());
        assert_eq!(check_alone(&t), Err(TxRejection::OutputTooLarge));
        let mut t = tx(0, 0);
        t.input.push(TxIn { previous_output: OutPoint::null(), ..TxIn::default() });
        assert_eq!(check_alone(&t), Err(TxRejection::NullInput));
        let mut t = tx(0, 0);
        t.output.clear();
        assert_eq!(check_alone(&t), Err(TxRejection::NoOutputs));
        let mut t = tx(0, 0);
        t.input.clear();
        assert_eq!(check_alone(&t), Err(TxRejection::NoInputs));
    }
}
