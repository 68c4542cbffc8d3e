//! Old blocks go, a few at a time (`[ledger] keep_blocks`, D3).
//!
//! Dropping everything below a height at once would stop the node for minutes, and a height chosen from the tip alone
//! would leave a ledger that nobody can check any more. So a turn takes a few blocks, in one atomic write; and only blocks
//! up to the newest attested one go, from whose root the state can be made again and blocks replayed onwards.

use super::Core;
use anyhow::{Context, Result};
use oda_consensus::codec;
use oda_consensus::state::State;
use oda_consensus::wire::DecidedBlock;
use oda_storage::{LedgerStore, StoreError};

/// Blocks pruned in one turn, four of which are in a second.
const PRUNED_A_TURN: u64 = 32;

/// The highest block that may lose its body: attested, or below an attested one, and `keep_blocks` behind the tip.
pub fn horizon(state: &State, keep_blocks: u64) -> Option<u64> {
    let newest = state.checkpoints().next_back()?.checkpoint.height;
    let behind = state.tip().height.checked_sub(keep_blocks)?;
    (keep_blocks > 0).then_some(newest.min(behind)).filter(|height| *height > 0)
}

/// Prunes the oldest whole blocks up to a height, at most so many; how many went.
///
/// # Errors
/// If the store fails; then none went, or it is unknown.
pub fn prune(store: &mut impl LedgerStore, upto: u64, most: u64) -> Result<u64, StoreError> {
    let from = store.bodies_from().max(1);
    let mut headers = Vec::new();
    for height in from..=upto.min(from.saturating_add(most.saturating_sub(1))) {
        let Some(bytes) = store.block(height)? else { break };
        // a block that does not decode is not pruned: `oda ledger verify` must still find it
        let Ok(decided) = codec::decode::<DecidedBlock>(&bytes) else { break };
        headers.push((height, codec::encode(&decided.block.header)));
    }
    if !headers.is_empty() {
        store.prune(&headers)?;
    }
    Ok(headers.len() as u64)
}

impl Core {
    /// One turn of pruning, if anything is to go.
    pub(super) fn prune_blocks(&self) -> Result<()> {
        let Some(horizon) = horizon(&self.shared.state(), self.ledger_options.keep_blocks) else { return Ok(()) };
        if self.ledger().bodies_from() <= horizon {
            prune(&mut *self.ledger_mut(), horizon, PRUNED_A_TURN).context("pruning old blocks")?;
        }
        Ok(())
    }
}
