//! Answers the ledger's storage challenges, beside the event loop (D2).
//!
//! What is asked follows from the ledger alone, so nothing is remembered: every few seconds this node looks whether it
//! is asked, cuts the chunk out of the blob and submits it, again and again until its answer is on the ledger or the
//! challenge is over. Signatures repeat, so the same answer is one transaction. A blob that is not here is the keeper's
//! business ([`crate::custody`]).

use super::Shared;
use oda_consensus::ids::NodeId;
use oda_consensus::keys::NodeKey;
use oda_consensus::state::State;
use oda_consensus::tx::{SignedTx, StorageProof, Tx};
use oda_storage::Blobs;
use std::sync::Arc;
use tokio::task::AbortHandle;
use tokio::time::Duration;

/// How often a node looks whether it is asked.
const LOOK_EVERY_MS: u64 = 3_000;

/// The task, for as long as the node runs.
pub(super) struct Challenges(AbortHandle);

impl Drop for Challenges {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Challenges {
    pub(super) fn start(shared: Arc<Shared>, blobs: Arc<Blobs>, key: Arc<NodeKey>) -> Self {
        Self(tokio::spawn(answer(shared, blobs, key)).abort_handle())
    }
}

async fn answer(shared: Arc<Shared>, blobs: Arc<Blobs>, key: Arc<NodeKey>) {
    loop {
        tokio::time::sleep(Duration::from_millis(LOOK_EVERY_MS)).await;
        let state = shared.state();
        let chain = state.chain();
        let Some((epoch, asked)) = asked(&state, key.id()) else { continue };
        drop(state);
        let slice = match blobs.slice(&asked.blob, asked.chunk).await {
            Ok(slice) => slice,
            Err(why) => {
                tracing::info!(epoch, blob = %asked.blob.hash, %why, "asked for a blob that this node should keep");
                continue;
            }
        };
        let tx = SignedTx::new(Tx::StorageProof(StorageProof { epoch, slice }), &key, chain);
        match shared.submit(tx).await {
            Ok(()) => tracing::debug!(epoch, blob = %asked.blob.hash.short(), "showed that it is kept"),
            Err(why) => tracing::debug!(epoch, why, "storage proof not taken"),
        }
    }
}

/// What a node is asked for and has not answered.
fn asked(state: &State, me: NodeId) -> Option<(u64, oda_consensus::custody::Asked)> {
    if !state.federation().candidates.contains(&me) {
        return None;
    }
    let challenge = state.challenge()?;
    let asked = challenge.asked.iter().find(|a| a.node == me && !a.answered)?;
    Some((challenge.epoch, *asked))
}
