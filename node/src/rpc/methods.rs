//! What the methods do: read the state after the last block, or pass something on to the node.

use super::api::ApiServer;
use super::errors::*;
use super::page::{MAX_PAGE, limit, page};
use super::records::{Filter, block_info};
use super::subscribe::{self, Ended};
use super::types::*;
use crate::full::{PaymentInfo, PeerInfo, Shared};
use crate::ledger::LedgerReader;
use crate::proof::{ProveError, entry_json, hexed};
use jsonrpsee::PendingSubscriptionSink;
use jsonrpsee::core::RpcResult;
use jsonrpsee::types::ErrorObjectOwned;
use oda_consensus::codec;
use oda_consensus::escrow::EscrowState;
use oda_consensus::ids::{ClaimId, EscrowId, ModelId, NodeId};
use oda_consensus::outcome::{Attestation, Statement};
use oda_consensus::proof::Subject;
use oda_consensus::state::{ClaimState, Entry, EpochState, ModelState, State, ValidatorState};
use oda_consensus::tx::SignedTx;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Blocks looked at for one answer, when empty ones are left out.
const MAX_LOOKED: u32 = 20 * MAX_PAGE;
/// Longest ban.
const MAX_BAN_SECS: u64 = 365 * 24 * 3600;
/// Most kinds a subscription may name.
const MAX_KINDS: usize = 64;

pub(super) struct ApiImpl {
    pub(super) shared: Arc<Shared>,
    pub(super) blocks: Arc<dyn LedgerReader>,
    pub(super) slow_consumer: Duration,
    /// One replay of the ledger at a time: it takes a core for minutes.
    pub(super) replays: Arc<Semaphore>,
}

/// A transaction as [`ApiServer::submit`] takes it, or what is wrong with it.
fn read_tx(tx: &str) -> Result<SignedTx, String> {
    if tx.len() > 2 * SignedTx::MAX_BYTES {
        return Err(format!("{} hex digits: a transaction has at most {} bytes", tx.len(), SignedTx::MAX_BYTES));
    }
    let bytes = hex::decode(tx).map_err(|e| format!("not hex ({e}): send the codec bytes of a SignedTx in hex"))?;
    codec::decode(&bytes).map_err(|e| format!("not a transaction ({e}): send the codec bytes of a SignedTx in hex"))
}

/// Reads the store beside the server's own threads.
async fn read<T: Send + 'static>(read: impl FnOnce() -> RpcResult<T> + Send + 'static) -> RpcResult<T> {
    tokio::task::spawn_blocking(read).await.map_err(|e| error(DAMAGED, e.to_string()))?
}

fn unproven(why: ProveError) -> ErrorObjectOwned {
    match why {
        ProveError::NotFound(text) => error(NOT_FOUND, text),
        ProveError::Damaged(text) => error(DAMAGED, text),
    }
}

fn json(value: &impl Serialize) -> RpcResult<serde_json::Value> {
    // by way of text: a sum of squares may be above 64 bits, which a JSON value holds only as a float
    let text = serde_json::to_string(value).map_err(|e| error(DAMAGED, e.to_string()))?;
    serde_json::from_str(&text).map_err(|e| error(DAMAGED, e.to_string()))
}

/// A validator with how it keeps blobs.
fn validator_json(state: &State, validator: &ValidatorState) -> RpcResult<serde_json::Value> {
    let mut out = json(validator)?;
    if let Some(fields) = out.as_object_mut() {
        fields.insert("storage".into(), json(&state.storage_record(validator.node))?);
    }
    Ok(out)
}

fn claim_info(state: &State, id: ClaimId) -> RpcResult<ClaimInfo> {
    let claim: &ClaimState =
        state.claim(id).ok_or_else(|| error(NOT_FOUND, format!("claim {id} is not on the ledger")))?;
    let escrow: Option<&EscrowState> = claim.escrow.and_then(|e| state.escrow(e));
    Ok(ClaimInfo { claim: json(claim)?, escrow: escrow.map(json).transpose()? })
}

fn model_of(state: &State, id: ModelId) -> RpcResult<&ModelState> {
    state.model(id).ok_or_else(|| error(NOT_FOUND, format!("model {id} is not on the ledger")))
}

fn model_info(id: ModelId, model: &ModelState) -> RpcResult<ModelInfo> {
    Ok(ModelInfo { id, state: json(model)?, parameters: model.manifest.parameters() })
}

/// The claims of each round of a model from one on, ascending by id: judged rounds, then the open one. The order of an
/// open round's commits would change when it is judged, and with it what is behind a cursor.
fn rounds(state: &State, model: ModelId, from: u64) -> impl Iterator<Item = (u64, Vec<ClaimId>)> {
    let judged = state
        .outcomes(model)
        .filter(move |o| o.outcome.round >= from)
        .map(|o| (o.outcome.round, o.outcome.claims.iter().map(|c| c.claim).collect()));
    let open = state.model(model).and_then(|m| m.round.as_ref());
    let open = open.filter(|r| r.number >= from && state.outcome(model, r.number).is_none());
    judged.chain(open.map(|r| (r.number, r.claims.clone()))).map(|(number, mut claims): (u64, Vec<ClaimId>)| {
        claims.sort_unstable();
        (number, claims)
    })
}

fn attested(state: &State, statement: Statement) -> (Attestation, String) {
    let attestation = Attestation { chain: state.chain(), statement };
    let message = hex::encode(codec::encode(&attestation));
    (attestation, message)
}

fn committee_info(state: &State, epoch: &EpochState) -> CommitteeInfo {
    let handover = epoch.handover();
    let key = hex::encode(codec::encode(&epoch.group));
    CommitteeInfo {
        epoch: epoch.number,
        attempt: epoch.attempt,
        start_height: epoch.start_height,
        members: epoch.group.members().to_vec(),
        threshold: epoch.group.threshold(),
        key,
        message: attested(state, Statement::Handover(handover)).1,
        signature: epoch.signature.as_ref().map(ToString::to_string),
    }
}

#[jsonrpsee::core::async_trait]
impl ApiServer for ApiImpl {
    async fn status(&self) -> RpcResult<Status> {
        let (peers, mempool) = (self.shared.peers(), self.shared.mempool());
        let state = self.shared.state();
        let tip = state.tip();
        let (reachability, relays) = self.shared.reachability();
        Ok(Status {
            node: self.shared.me,
            chain: state.chain(),
            network: state.genesis().name.clone(),
            validator: self.shared.validator,
            height: tip.height,
            hash: tip.hash,
            time_ms: tip.time_ms,
            connected: peers.iter().filter(|p| p.connected).count(),
            reachability,
            relays,
            mempool,
            committee: (state.group().members().len(), state.group().threshold()),
            epoch: state.current().number,
            seated: state.group().index_of(self.shared.me).is_some(),
        })
    }

    async fn block(&self, height: u64) -> RpcResult<BlockInfo> {
        block_info(self.blocks.as_ref(), height)?.ok_or_else(|| {
            error(NOT_FOUND, format!("no block {height}; the tip is {}", self.shared.state().tip().height))
        })
    }

    async fn blocks(&self, to: Option<u64>, asked: Option<u32>, empty: Option<bool>) -> RpcResult<Vec<BlockInfo>> {
        let tip = self.shared.state().tip().height;
        let (blocks, empty) = (self.blocks.clone(), empty.unwrap_or(false));
        read(move || {
            let newest = to.unwrap_or(tip).min(tip);
            let kept_from = blocks.bodies_from().map_err(|e| error(DAMAGED, e))?;
            if newest > 0 && newest < kept_from {
                block_info(blocks.as_ref(), newest)?; // says that it is pruned
            }
            let oldest = (newest.saturating_sub(MAX_LOOKED.into()) + 1).max(kept_from);
            let found = (oldest..=newest).rev().filter_map(|h| block_info(blocks.as_ref(), h).transpose());
            let wanted = found.filter(|b| !matches!(b, Ok(b) if b.txs.is_empty() && !empty));
            let mut out = page(asked, wanted)?;
            out.reverse();
            Ok(out)
        })
        .await
    }

    async fn models(&self, asked: Option<u32>, after: Option<ModelId>) -> RpcResult<Vec<ModelInfo>> {
        let state = self.shared.state();
        page(asked, state.models().filter(|(id, _)| after.is_none_or(|a| *id > a)).map(|(id, m)| model_info(id, m)))
    }

    async fn model(&self, id: ModelId) -> RpcResult<ModelInfo> {
        model_info(id, model_of(&self.shared.state(), id)?)
    }

    async fn claim(&self, id: ClaimId) -> RpcResult<ClaimInfo> {
        claim_info(&self.shared.state(), id)
    }

    async fn claims(
        &self,
        model: ModelId,
        round: Option<u64>,
        asked: Option<u32>,
        after: Option<ClaimId>,
    ) -> RpcResult<Vec<ClaimInfo>> {
        let state = self.shared.state();
        model_of(&state, model)?;
        let after = match after.map(|id| (id, state.claim(id).filter(|c| c.model == model))) {
            None => None,
            Some((id, Some(claim))) => Some((id, claim.round)),
            Some((id, None)) => return Err(error(INVALID_PARAMS, format!("after: the model has no claim {id}"))),
        };
        let after = after.map(|(id, round)| (round, id));
        let from = round.or(after.map(|(round, _)| round)).unwrap_or(0);
        let mut rounds =
            rounds(&state, model, from).take_while(|(number, _)| round.is_none_or(|r| *number == r)).peekable();
        if let Some(round) = round.filter(|_| rounds.peek().is_none()) {
            return Err(error(NOT_FOUND, format!("model {model} has no round {round}")));
        }
        let ids = rounds.flat_map(|(number, claims)| claims.into_iter().map(move |id| (number, id)));
        page(asked, ids.filter(|place| after.is_none_or(|a| *place > a)).map(|(_, id)| claim_info(&state, id)))
    }

    async fn outcomes(
        &self,
        model: ModelId,
        from_round: Option<u64>,
        asked: Option<u32>,
    ) -> RpcResult<Vec<serde_json::Value>> {
        let (state, from) = (self.shared.state(), from_round.unwrap_or(0));
        page(asked, state.outcomes(model).filter(|o| o.outcome.round >= from).map(json))
    }

    async fn attestations(
        &self,
        model: Option<ModelId>,
        asked: Option<u32>,
        after: Option<u64>,
    ) -> RpcResult<Vec<AttestationInfo>> {
        let state = self.shared.state();
        let info = |kind: &str, number, epoch, statement, signature: String| {
            let (attestation, message) = attested(&state, statement);
            Ok(AttestationInfo {
                kind: kind.into(),
                number,
                model,
                epoch,
                topic: attestation.topic(),
                message,
                signature,
            })
        };
        let Some(model) = model else {
            let checkpoints = state.checkpoints().filter(|c| after.is_none_or(|a| c.checkpoint.height > a));
            return page(
                asked,
                checkpoints.map(|c| {
                    let statement = Statement::Checkpoint(c.checkpoint);
                    info("checkpoint", c.checkpoint.height, c.epoch, statement, c.signature.to_string())
                }),
            );
        };
        model_of(&state, model)?;
        let outcomes = state.outcomes(model).filter(|o| after.is_none_or(|a| o.outcome.round > a));
        page(
            asked,
            outcomes.map(|o| {
                let statement = Statement::Outcome(o.outcome.clone());
                info("outcome", o.outcome.round, o.epoch, statement, o.signature.to_string())
            }),
        )
    }

    async fn committees(&self, asked: Option<u32>, after: Option<u64>) -> RpcResult<Vec<CommitteeInfo>> {
        let state = self.shared.state();
        let first = after.map_or(0, |a| a.saturating_add(1));
        let epochs = (first..=u64::MAX).map_while(|number| state.epoch_state(number));
        page(asked, epochs.map(|epoch| Ok(committee_info(&state, epoch))))
    }

    async fn credit(
        &self,
        model: Option<ModelId>,
        asked: Option<u32>,
        after: Option<CreditCursor>,
        trainer: Option<NodeId>,
    ) -> RpcResult<Vec<CreditInfo>> {
        let state = self.shared.state();
        let behind = |c: &CreditCursor| after.is_none_or(|a| *c > a);
        let credits = state
            .credits()
            .filter(|c| model.is_none_or(|m| c.model == m) && trainer.is_none_or(|t| c.trainer == t))
            .filter(|c| behind(&CreditCursor { model: c.model, trainer: c.trainer }));
        page(
            asked,
            credits.map(|c| {
                Ok(CreditInfo {
                    model: c.model,
                    trainer: c.trainer,
                    credit_unat: c.credit_unat,
                    claims: c.claims,
                    paid_claims: c.paid_claims,
                    paid_msat: c.paid_msat,
                })
            }),
        )
    }

    async fn escrow(&self, id: EscrowId) -> RpcResult<serde_json::Value> {
        let state = self.shared.state();
        json(state.escrow(id).ok_or_else(|| error(NOT_FOUND, format!("escrow {id} is not on the ledger")))?)
    }

    async fn federation(&self) -> RpcResult<FederationInfo> {
        let state = self.shared.state();
        let current = state.current();
        Ok(FederationInfo {
            epoch: current.number,
            start_height: current.start_height.unwrap_or(1),
            members: current.group.members().to_vec(),
            threshold: current.group.threshold(),
            checkpoint: state.federation().checkpoint,
            dkg: state.dkg().map(json).transpose()?,
            challenge: state.challenge().as_ref().map(json).transpose()?,
            validators: page(None, state.all_validators().map(|v| validator_json(&state, v)))?,
        })
    }

    async fn validators(&self, asked: Option<u32>, after: Option<NodeId>) -> RpcResult<Vec<serde_json::Value>> {
        let state = self.shared.state();
        let rest = state.all_validators().filter(|v| after.is_none_or(|a| v.node > a));
        page(asked, rest.map(|v| validator_json(&state, v)))
    }

    async fn peers(&self, asked: Option<u32>, after: Option<NodeId>) -> RpcResult<Vec<PeerInfo>> {
        page(asked, self.shared.peers().into_iter().filter(|p| after.is_none_or(|a| p.node > a)).map(Ok))
    }

    async fn payments(&self, asked: Option<u32>, after: Option<PaymentCursor>) -> RpcResult<Vec<PaymentInfo>> {
        page(asked, self.shared.payments_after(after.map(|a| (a.escrow, a.tranche)), limit(asked)).into_iter().map(Ok))
    }

    async fn wallet(&self) -> RpcResult<WalletInfo> {
        self.shared.wallet().ok_or_else(|| error(UNAVAILABLE, "this node has no Lightning wallet"))
    }

    async fn verify_ledger(&self) -> RpcResult<VerifyReport> {
        let permit = self.replays.clone().try_acquire_owned();
        let permit =
            permit.map_err(|_| error(BUSY, "the ledger is being replayed already: wait for that call to end"))?;
        let (genesis, tip) = {
            let state = self.shared.state();
            (state.genesis().clone(), state.tip())
        };
        let blocks = self.blocks.clone();
        let replay = move || {
            let _one_at_a_time = permit; // also when nobody waits for the answer any more
            crate::ledger::verify(genesis, Some(tip.height), blocks.as_ref())
        };
        let report = tokio::task::spawn_blocking(replay)
            .await
            .map_err(|e| error(DAMAGED, e.to_string()))?
            .map_err(|e| error(DAMAGED, e))?;
        if report.hash != tip.hash.to_string() || report.state_root != tip.state_root.to_string() {
            return Err(error(DAMAGED, "the replayed state is not the state this node serves"));
        }
        Ok(report)
    }

    async fn proof(&self, subject: Subject) -> RpcResult<ProofInfo> {
        let newest = self.shared.state().checkpoints().next_back().cloned();
        let newest = newest.ok_or_else(|| error(NOT_FOUND, "no block is attested yet: ask again later"))?;
        let blocks = self.blocks.clone();
        read(move || {
            let record = crate::proof::prove(blocks.as_ref(), &newest, subject).map_err(unproven)?;
            Ok(ProofInfo { record: hexed(&record), checkpoint: hexed(&newest) })
        })
        .await
    }

    async fn extension(&self, old: u64, new: u64) -> RpcResult<String> {
        let blocks = self.blocks.clone();
        read(move || crate::proof::extend(blocks.as_ref(), old, new).map(|p| hexed(&p)).map_err(unproven)).await
    }

    async fn handovers(&self, asked: Option<u32>, after: Option<u64>) -> RpcResult<Vec<String>> {
        let links = self.shared.state().links(after.unwrap_or(0), limit(asked));
        page(asked, links.iter().map(|link| Ok(hexed(link))))
    }

    async fn history(
        &self,
        subject: Subject,
        from_height: Option<u64>,
        asked: Option<u32>,
    ) -> RpcResult<Vec<VersionInfo>> {
        let (blocks, most) = (self.blocks.clone(), limit(asked));
        read(move || {
            let versions =
                blocks.versions(&subject.key(), from_height.unwrap_or(0), most).map_err(|e| error(DAMAGED, e))?;
            page(
                asked,
                versions.into_iter().map(|v| {
                    let entry = Entry::decode(&v.key, &v.value).map_err(|e| error(DAMAGED, e.to_string()))?;
                    let (_, record) = entry_json(&entry).map_err(|e| error(DAMAGED, e.to_string()))?;
                    Ok(VersionInfo { index: v.index, height: v.height, record })
                }),
            )
        })
        .await
    }

    async fn submit(&self, tx: String) -> RpcResult<String> {
        let tx = read_tx(&tx).map_err(|why| error(REFUSED, why))?;
        let id = tx.id().to_string();
        match self.shared.submit(tx).await {
            Ok(()) => Ok(id),
            Err(why) => Err(error(REFUSED, format!("transaction {id} was not taken: {why}"))),
        }
    }

    async fn stop(&self) -> RpcResult<bool> {
        tracing::info!("asked over RPC to stop");
        self.shared.ask_to_stop();
        Ok(true)
    }

    async fn ban(&self, node: NodeId, seconds: u64) -> RpcResult<bool> {
        if seconds > MAX_BAN_SECS {
            return Err(error(INVALID_PARAMS, format!("seconds: at most {MAX_BAN_SECS}, a year")));
        }
        self.shared.ban(node, Duration::from_secs(seconds)).await.map_err(|why| error(UNAVAILABLE, why))?;
        Ok(true)
    }

    async fn subscribe_blocks(&self, pending: PendingSubscriptionSink, from_height: Option<u64>) -> Ended {
        let blocks = self.blocks.clone();
        let items = move |height| Ok(block_info(blocks.as_ref(), height)?.map(|block| vec![block]));
        subscribe::run(pending, &self.shared, from_height, self.slow_consumer, items).await
    }

    async fn subscribe_records(
        &self,
        pending: PendingSubscriptionSink,
        model: Option<ModelId>,
        kinds: Option<Vec<String>>,
        from_height: Option<u64>,
    ) -> Ended {
        if let Some(kinds) = kinds.as_ref().filter(|k| k.len() > MAX_KINDS) {
            pending.reject(error(INVALID_PARAMS, format!("kinds: {} named, at most {MAX_KINDS}", kinds.len()))).await;
            return Ended::quietly();
        }
        let (blocks, shared, filter) = (self.blocks.clone(), self.shared.clone(), Filter { model, kinds });
        let items = move |height| {
            let decided = super::records::decided(blocks.as_ref(), height)?;
            Ok(decided.map(|decided| super::records::record_infos(&decided, &shared, &filter)))
        };
        subscribe::run(pending, &self.shared, from_height, self.slow_consumer, items).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oda_consensus::ids::Signature;
    use oda_consensus::tx::Tx;

    #[test]
    fn what_is_no_transaction_is_refused_with_what_to_send() {
        for bad in ["", "zz", "abc", "00", &"00".repeat(300)] {
            let why = read_tx(bad).unwrap_err();
            assert!(why.contains("codec bytes of a SignedTx in hex"), "{bad}: {why}");
        }
        let why = read_tx(&"00".repeat(SignedTx::MAX_BYTES + 1)).unwrap_err();
        assert!(why.contains(&SignedTx::MAX_BYTES.to_string()), "{why}");
    }

    #[test]
    fn a_transaction_is_read_whole_and_without_a_tail() {
        let tx = SignedTx { tx: Tx::Leave, signer: NodeId([1; 32]), signature: Signature([2; 64]) };
        let text = hex::encode(codec::encode(&tx));
        assert_eq!(read_tx(&text).unwrap(), tx);
        assert!(read_tx(&format!("{text}00")).is_err());
        assert!(read_tx(&text[..text.len() - 2]).is_err());
    }
}
