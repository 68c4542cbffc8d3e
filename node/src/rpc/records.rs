//! Blocks and transactions for people.

use super::errors::{DAMAGED, PRUNED, error};
use super::types::{BlockInfo, RecordInfo, TxInfo};
use crate::full::Shared;
use crate::ledger::{LedgerReader, pruned};
use jsonrpsee::core::RpcResult;
use oda_consensus::codec;
use oda_consensus::epoch::Membership;
use oda_consensus::ids::ModelId;
use oda_consensus::state::State;
use oda_consensus::tx::{SignedTx, Tx};
use oda_consensus::wire::DecidedBlock;
use std::sync::Arc;

/// A stored block.
pub(super) fn decided(blocks: &dyn LedgerReader, height: u64) -> RpcResult<Option<DecidedBlock>> {
    let Some(bytes) = blocks.block(height).map_err(|e| error(DAMAGED, e))? else {
        let why = pruned(blocks, height).map_err(|e| error(DAMAGED, e))?;
        return why.map_or(Ok(None), |why| Err(error(PRUNED, why)));
    };
    codec::decode(&bytes).map(Some).map_err(|e| error(DAMAGED, format!("block {height}: {e}")))
}

/// A stored block for people.
pub(super) fn block_info(blocks: &dyn LedgerReader, height: u64) -> RpcResult<Option<BlockInfo>> {
    Ok(decided(blocks, height)?.map(|decided| {
        let h = decided.block.header;
        BlockInfo {
            height: h.height,
            hash: h.hash(),
            prev: h.prev,
            time_ms: h.time_ms,
            state_root: h.state_root.to_string(),
            votes: decided.certificate.signatures.len(),
            txs: decided.block.txs.iter().map(tx_info).collect(),
        }
    }))
}

/// What a subscription to records wants to hear of.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    pub(super) model: Option<ModelId>,
    pub(super) kinds: Option<Vec<String>>,
}

/// The records of a block that pass the filter.
pub(super) fn record_infos(decided: &DecidedBlock, shared: &Arc<Shared>, filter: &Filter) -> Vec<RecordInfo> {
    let h = decided.block.header;
    let state = shared.state();
    let infos = decided.block.txs.iter().zip(0u32..).map(|(tx, index)| RecordInfo {
        height: h.height,
        time_ms: h.time_ms,
        index,
        model: model_of(&tx.tx, &state),
        tx: tx_info(tx),
    });
    infos
        .filter(|r| filter.model.is_none() || r.model == filter.model)
        .filter(|r| filter.kinds.as_ref().is_none_or(|kinds| kinds.contains(&r.tx.kind)))
        .collect()
}

fn tx_info(tx: &SignedTx) -> TxInfo {
    TxInfo { id: tx.id().to_string(), kind: tx.kind().into(), signer: tx.signer, about: about(&tx.tx) }
}

/// The model a transaction is about, by itself or through the claim or escrow it names.
fn model_of(tx: &Tx, state: &State) -> Option<ModelId> {
    let by_claim = |claim| state.claim(claim).map(|c| c.model);
    let by_escrow = |escrow| state.escrow(escrow).map(|e| e.model);
    match tx {
        Tx::AddModel(m) => Some(m.id()),
        Tx::Fund(f) => Some(f.model),
        Tx::Commit(c) => Some(c.model),
        Tx::Offer(claim, _) | Tx::Decoy(claim, _) => by_claim(*claim),
        Tx::Reveal(r) => by_claim(r.claim),
        Tx::Seal(s, _) => Some(s.model),
        Tx::Outcome(o, _) => Some(o.model),
        Tx::Choose(e, _) | Tx::Deal(e, _) | Tx::Settle(e, _) | Tx::Refund(e, _) | Tx::FalseDeal(e, ..) => by_escrow(*e),
        Tx::Score(s) => Some(s.model),
        Tx::ScoreReveal(r) => Some(r.outcome.model),
        Tx::Unseal(unseal) => Some(unseal.model()),
        Tx::Invite(invite) => Some(invite.model),
        Tx::Draw(..) | Tx::Dkg(_) | Tx::Handover(..) | Tx::Checkpoint(..) | Tx::Apply(_) | Tx::Leave => None,
        Tx::StorageProof(_) => None,
        Tx::Membership(..) | Tx::Evidence(_) => None,
    }
}

fn about(tx: &Tx) -> String {
    match tx {
        Tx::AddModel(m) => format!("model {} ({})", m.id(), m.name),
        Tx::Fund(f) => format!("model {} with up to {} msat", f.model, f.budget_msat),
        Tx::Commit(c) => format!("model {} round {}", c.model, c.round),
        Tx::Offer(claim, o) => format!("claim {claim} for up to {} msat", o.terms.most_msat()),
        Tx::Reveal(r) => format!("claim {}", r.claim),
        Tx::Seal(s, _) => format!("model {} round {}", s.model, s.round),
        Tx::Outcome(o, _) => format!("model {} round {}", o.model, o.round),
        Tx::Choose(e, _) | Tx::Deal(e, _) | Tx::Settle(e, _) | Tx::Refund(e, _) | Tx::FalseDeal(e, ..) => {
            format!("escrow {e}")
        }
        Tx::Score(s) => format!("model {} round {}", s.model, s.round),
        Tx::ScoreReveal(r) => format!("model {} round {}", r.outcome.model, r.outcome.round),
        Tx::Draw(epoch, _) => format!("epoch {epoch}"),
        Tx::Dkg(m) => format!("epoch {} attempt {}", m.epoch, m.attempt),
        Tx::Handover(h, _) => format!("epoch {}", h.epoch),
        Tx::Checkpoint(c, _) => format!("block {}", c.height),
        Tx::Apply(_) | Tx::Leave => String::new(),
        Tx::Membership(Membership::Admit { node, .. } | Membership::Evict { node, .. }, _) => format!("node {node}"),
        Tx::Evidence(_) => String::new(),
        Tx::Decoy(claim, _) => format!("claim {claim}"),
        Tx::Unseal(unseal) => format!("model {}", unseal.model()),
        Tx::Invite(i) => format!("model {}, {} guests", i.model, i.guests.len()),
        Tx::StorageProof(p) => format!("epoch {}, {} bytes", p.epoch, p.slice.len()),
    }
}
