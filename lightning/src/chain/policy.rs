//! What a mempool refuses although a block may hold it: bitcoind's standardness rules, as far as they protect.
//!
//! A chain that takes more than bitcoind hides that a wallet's transaction would never get relayed: dust, an
//! odd version, a script nobody mines. Rules follow Bitcoin Core 29 (`policy/policy.cpp`). Not among them: the
//! stricter script flags (low S, minimal pushes), which the verifier here does not know, and version 3
//! transactions (BIP 431), which no wallet here makes and which are refused.

use super::check::{Spent, TxRejection};
use bitcoin::{ScriptBuf, Transaction, TxOut};

/// Heaviest transaction relayed.
const MAX_TX_WEIGHT: u64 = 400_000;
/// Smallest transaction relayed, bytes without witness (CVE-2017-12842).
const MIN_TX_BYTES: usize = 65;
/// Longest scriptSig: that of a 15-of-15 P2SH.
const MAX_SCRIPT_SIG_BYTES: usize = 1_650;
/// Longest OP_RETURN script.
const MAX_OP_RETURN_BYTES: usize = 83;
/// Longest script of a P2WSH.
const MAX_P2WSH_SCRIPT_BYTES: usize = 3_600;
/// Most items a P2WSH script is given.
const MAX_P2WSH_ITEMS: usize = 100;
/// Longest item a P2WSH or tapscript is given.
const MAX_ITEM_BYTES: usize = 80;
/// First byte of a taproot annex (BIP 341).
const ANNEX_TAG: u8 = 0x50;
/// Leaf version of tapscript (BIP 342), parity bit off.
const TAPSCRIPT: u8 = 0xc0;
/// Pay-to-anchor (Bitcoin Core 28): anyone may spend it, to add a fee.
const PAY_TO_ANCHOR: [u8; 4] = [0x51, 0x02, 0x4e, 0x73];

/// What a mempool asks of a transaction alone.
pub(super) fn check_standard(tx: &Transaction) -> Result<(), TxRejection> {
    let odd = |rule| Err(TxRejection::NotStandard(rule));
    if tx.is_coinbase() {
        return Err(TxRejection::Coinbase);
    }
    if tx.weight().to_wu() > MAX_TX_WEIGHT {
        return Err(TxRejection::TooLarge);
    }
    if tx.base_size() < MIN_TX_BYTES {
        return Err(TxRejection::TooSmall);
    }
    if !(1..=2).contains(&tx.version.0) {
        return odd("version");
    }
    for input in &tx.input {
        if input.script_sig.len() > MAX_SCRIPT_SIG_BYTES {
            return odd("scriptsig-size");
        }
        if !input.script_sig.is_push_only() {
            return odd("scriptsig-not-pushonly");
        }
    }
    let mut op_returns = 0;
    for output in &tx.output {
        let script = &output.script_pubkey;
        if script.is_op_return() {
            op_returns += 1;
            if script.len() > MAX_OP_RETURN_BYTES || !is_data(script) {
                return odd("scriptpubkey");
            }
        } else if !(script.is_p2pkh() || script.is_p2sh() || script.is_witness_program()) {
            return odd("scriptpubkey");
        } else if is_dust(output) {
            return odd("dust");
        }
    }
    if op_returns > 1 { odd("multi-op-return") } else { Ok(()) }
}

fn is_data(op_return: &ScriptBuf) -> bool {
    op_return.as_bytes().get(1..).is_some_and(|rest| ScriptBuf::from_bytes(rest.to_vec()).is_push_only())
}

/// Whether spending it costs more than a third of it, at 3 sat per vbyte.
pub(super) fn is_dust(output: &TxOut) -> bool {
    output.value < output.script_pubkey.minimal_non_dust()
}

/// What a mempool asks of the coins spent and what unlocks them; `spent` is in input order.
pub(super) fn check_standard_inputs(tx: &Transaction, spent: &[Spent]) -> Result<(), TxRejection> {
    for (input, coin) in tx.input.iter().zip(spent) {
        let script = &coin.output.script_pubkey;
        let known = script.is_p2pkh() || script.is_p2sh() || script.is_p2wpkh() || script.is_p2wsh();
        if !known && !script.is_p2tr() && script.as_bytes() != PAY_TO_ANCHOR {
            // an unknown witness version has no rules yet: anyone may spend it until it has
            return Err(TxRejection::NotStandard("bad-txns-nonstandard-inputs"));
        }
        let mut items: Vec<&[u8]> = input.witness.iter().collect();
        let fits = if script.is_p2wsh() {
            let unlocked = items.pop();
            unlocked.is_none_or(|s| s.len() <= MAX_P2WSH_SCRIPT_BYTES)
                && items.len() <= MAX_P2WSH_ITEMS
                && items.iter().all(|i| i.len() <= MAX_ITEM_BYTES)
        } else if script.is_p2tr() {
            let annex = items.len() > 1 && items.last().is_some_and(|i| i.first() == Some(&ANNEX_TAG));
            let control = if items.len() > 1 { items.pop() } else { None };
            let tapscript = control.is_some_and(|c| c.first().is_some_and(|b| b & 0xfe == TAPSCRIPT));
            items.pop(); // the script, or the key's signature
            !annex && (!tapscript || items.iter().all(|i| i.len() <= MAX_ITEM_BYTES))
        } else {
            script.as_bytes() != PAY_TO_ANCHOR || items.is_empty()
        };
        if !fits {
            return Err(TxRejection::NotStandard("bad-witness-nonstandard"));
        }
    }
    Ok(())
}
