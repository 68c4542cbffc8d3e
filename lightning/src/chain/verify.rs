//! Scripts and signatures, by Bitcoin Core's own verifier (libbitcoinconsensus 26.0), taproot included.
//!
//! `bitcoin`'s feature of that name brings an older copy (25.1) that knows no taproot and never sees the other
//! coins a transaction spends, which a taproot signature covers: so the library is called directly. It is
//! the last one there is (Bitcoin Core dropped it in 28); the rules it checks have not changed since.

use super::check::{Spent, TxRejection};
use bitcoin::Transaction;
use bitcoin::consensus::encode::serialize;
use bitcoinconsensus::{Utxo, VERIFY_ALL_PRE_TAPROOT, VERIFY_TAPROOT, verify_with_flags};

/// On regtest every rule holds from the first block.
const FLAGS: u32 = VERIFY_ALL_PRE_TAPROOT | VERIFY_TAPROOT;

/// Checks every input against the coin it spends, given in input order.
pub(super) fn check_scripts(tx: &Transaction, spent: &[Spent]) -> Result<(), TxRejection> {
    if tx.input.len() != spent.len() {
        return Err(TxRejection::Script("the coins spent are not all known".into()));
    }
    let bytes = serialize(tx);
    let coin = |s: &Spent| {
        let script = s.output.script_pubkey.as_bytes();
        let length = u32::try_from(script.len()).map_err(|_| TxRejection::InputTooLarge)?;
        let value = i64::try_from(s.output.value.to_sat()).map_err(|_| TxRejection::InputTooLarge)?;
        // borrowed from `spent`, which outlives every call below
        Ok(Utxo { script_pubkey: script.as_ptr(), script_pubkey_len: length, value })
    };
    let coins = spent.iter().map(coin).collect::<Result<Vec<_>, TxRejection>>()?;
    for (n, s) in spent.iter().enumerate() {
        let (script, sat) = (s.output.script_pubkey.as_bytes(), s.output.value.to_sat());
        verify_with_flags(script, sat, &bytes, Some(&coins), n, FLAGS)
            .map_err(|e| TxRejection::Script(format!("input {n}: {e:?}")))?;
    }
    Ok(())
}
