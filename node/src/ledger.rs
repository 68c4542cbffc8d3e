//! Reading a stored ledger: for RPC beside a running node, and to replay it from genesis (`oda ledger verify`): every
//! signature, vote, rule and root.

use crate::full::check_certificate;
use crate::rpc::VerifyReport;
use oda_consensus::codec;
use oda_consensus::genesis::Genesis;
use oda_consensus::ids::Digest;
use oda_consensus::records::Version;
use oda_consensus::state::State;
use oda_consensus::wire::DecidedBlock;

/// Reads the stored ledger beside the one that writes it.
pub trait LedgerReader: Send + Sync + 'static {
    /// Codec bytes of a decided block.
    ///
    /// # Errors
    /// If the store fails.
    fn block(&self, height: u64) -> Result<Option<Vec<u8>>, String>;

    /// The newest version of an entry up to a height.
    ///
    /// # Errors
    /// If the store fails.
    fn version(&self, key: &[u8], upto: u64) -> Result<Option<Version>, String>;

    /// The versions of an entry from a height on, oldest first, at most so many.
    ///
    /// # Errors
    /// If the store fails.
    fn versions(&self, key: &[u8], from: u64, most: usize) -> Result<Vec<Version>, String>;

    /// A node of the log of records (L4).
    ///
    /// # Errors
    /// If the store fails.
    fn log_node(&self, index: u64) -> Result<Option<Digest>, String>;
}

/// Replays blocks 1 to `tip`.
///
/// # Errors
/// The first block that is missing, does not decode, is not certified, or breaks a rule.
pub fn verify(
    genesis: Genesis,
    tip: Option<u64>,
    block: &dyn Fn(u64) -> Result<Option<Vec<u8>>, String>,
) -> Result<VerifyReport, String> {
    let mut state = State::new(genesis).map_err(|e| e.to_string())?;
    let mut txs = 0;
    for height in 1..=tip.unwrap_or(0) {
        let at = |e: String| format!("block {height}: {e}");
        let bytes = block(height)?.ok_or_else(|| at("missing".into()))?;
        let decided: DecidedBlock = codec::decode(&bytes).map_err(|e| at(e.to_string()))?;
        check_certificate(&decided, state.chain(), &state.validators()).map_err(at)?;
        state.apply(&decided.block).map_err(|e| at(e.to_string()))?;
        txs += decided.block.txs.len() as u64;
    }
    let models: Vec<_> = state.models().map(|(id, _)| id).collect();
    state.check_invariants(models.into_iter())?;
    let end = state.tip();
    Ok(VerifyReport { blocks: end.height, txs, hash: end.hash.to_string(), state_root: end.state_root.to_string() })
}
