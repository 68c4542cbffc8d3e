//! JSON-RPC 2.0 over HTTP (jsonrpsee): every record of the ledger, and a door for signed transactions; on loopback
//! by default.
//!
//! The trait below is server, client and list of methods in one, so they cannot drift apart.

use crate::full::{PaymentInfo, PeerInfo, Shared};
use crate::ledger::LedgerReader;
use crate::proof::{ProveError, hexed};
use anyhow::{Context, Result};
use jsonrpsee::core::RpcResult;
use jsonrpsee::proc_macros::rpc;
use jsonrpsee::server::{Server, ServerConfig, ServerHandle};
use jsonrpsee::types::ErrorObjectOwned;
use oda_consensus::epoch::Membership;
use oda_consensus::escrow::EscrowState;
use oda_consensus::ids::{BlockHash, ChainId, ClaimId, EscrowId, ModelId, NodeId};
use oda_consensus::proof::Subject;
use oda_consensus::state::{ClaimState, ModelState};
use oda_consensus::tx::{SignedTx, Tx};
use oda_consensus::wire::MAX_LINKS;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::sync::Arc;

/// Most items of one answer.
pub const MAX_PAGE: u32 = 500;

/// What the node is and where its ledger stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// This node.
    pub node: NodeId,
    /// Network.
    pub chain: ChainId,
    /// Name of the network.
    pub network: String,
    /// Whether it validates.
    pub validator: bool,
    /// Ledger height.
    pub height: u64,
    /// Hash of the last block.
    pub hash: BlockHash,
    /// Its time, ms since the Unix epoch.
    pub time_ms: u64,
    /// Peers connected.
    pub connected: usize,
    /// Transactions waiting.
    pub mempool: usize,
    /// Committee in charge: how many sign (n), how many must (t). Forging needs t, blocking n - t + 1.
    pub committee: (usize, usize),
    /// Epoch of that committee.
    pub epoch: u64,
    /// Whether this node sits in it.
    pub seated: bool,
}

/// The federation: who validates, who is in charge, what comes next.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FederationInfo {
    /// Epoch in charge.
    pub epoch: u64,
    /// Height of its first block.
    pub start_height: u64,
    /// Its members.
    pub members: Vec<NodeId>,
    /// Members needed to sign.
    pub threshold: usize,
    /// Height of the newest attested block.
    pub checkpoint: u64,
    /// The ledger's record of the coming epoch's key generation.
    pub dkg: Option<serde_json::Value>,
    /// Every validator and applicant, with its service record.
    pub validators: Vec<serde_json::Value>,
}

/// A block for people.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BlockInfo {
    /// Height.
    pub height: u64,
    /// Hash.
    pub hash: BlockHash,
    /// Parent.
    pub prev: BlockHash,
    /// Time, ms since the Unix epoch.
    pub time_ms: u64,
    /// State root.
    pub state_root: String,
    /// Number of validators whose votes decided it.
    pub votes: usize,
    /// Transactions.
    pub txs: Vec<TxInfo>,
}

/// A transaction for people.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TxInfo {
    /// Hash.
    pub id: String,
    /// Kind (L3).
    pub kind: String,
    /// Who signed it.
    pub signer: NodeId,
    /// What it is about: model, claim or escrow.
    pub about: String,
}

/// A model with everything the ledger knows of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ModelInfo {
    /// Name everywhere.
    pub id: ModelId,
    /// The ledger's record.
    #[serde(flatten)]
    pub state: serde_json::Value,
    /// Parameters.
    pub parameters: u64,
}

/// A claim with its escrow.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClaimInfo {
    /// The ledger's record of the claim.
    pub claim: serde_json::Value,
    /// The ledger's record of its escrow.
    pub escrow: Option<serde_json::Value>,
}

/// Credit of one trainer on one model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CreditInfo {
    /// Model.
    pub model: ModelId,
    /// Trainer.
    pub trainer: NodeId,
    /// Share of the proven gains, micro-nats.
    pub credit_unat: u64,
    /// Claims judged.
    pub claims: u64,
    /// Claims paid.
    pub paid_claims: u64,
    /// Receipts shown, msat.
    pub paid_msat: u64,
}

/// This node's Lightning wallet.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct WalletInfo {
    /// Lightning node id, hex.
    pub node_id: String,
    /// An address to fund it.
    pub address: String,
    /// Spendable on chain, sat.
    pub onchain_sat: u64,
    /// Spendable over Lightning, msat.
    pub lightning_msat: u64,
    /// Channels with their counterparty and usability.
    pub channels: Vec<ChannelInfo>,
}

/// One channel.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ChannelInfo {
    /// Counterparty, hex.
    pub counterparty: String,
    /// Capacity, sat.
    pub capacity_sat: u64,
    /// Ready and connected.
    pub usable: bool,
}

/// The methods.
#[rpc(server, client, namespace = "oda")]
pub trait Api {
    /// Node and ledger status.
    #[method(name = "status")]
    async fn status(&self) -> RpcResult<Status>;
    /// One block.
    #[method(name = "block")]
    async fn block(&self, height: u64) -> RpcResult<BlockInfo>;
    /// Up to `limit` blocks ending at `to` (the tip if absent), newest last; only those with transactions unless `empty`.
    #[method(name = "blocks")]
    async fn blocks(&self, to: Option<u64>, limit: u32, empty: bool) -> RpcResult<Vec<BlockInfo>>;
    /// All models.
    #[method(name = "models")]
    async fn models(&self) -> RpcResult<Vec<ModelInfo>>;
    /// One model.
    #[method(name = "model")]
    async fn model(&self, id: ModelId) -> RpcResult<ModelInfo>;
    /// One claim.
    #[method(name = "claim")]
    async fn claim(&self, id: ClaimId) -> RpcResult<ClaimInfo>;
    /// The claims of one round.
    #[method(name = "claims")]
    async fn claims(&self, model: ModelId, round: u64) -> RpcResult<Vec<ClaimInfo>>;
    /// The outcomes of a model from a round on.
    #[method(name = "outcomes")]
    async fn outcomes(&self, model: ModelId, from_round: u64, limit: u32) -> RpcResult<Vec<serde_json::Value>>;
    /// Credit, of one model or all.
    #[method(name = "credit")]
    async fn credit(&self, model: Option<ModelId>) -> RpcResult<Vec<CreditInfo>>;
    /// One escrow.
    #[method(name = "escrow")]
    async fn escrow(&self, id: EscrowId) -> RpcResult<serde_json::Value>;
    /// The federation: validators with their service record, the committee in charge, the coming one.
    #[method(name = "federation")]
    async fn federation(&self) -> RpcResult<FederationInfo>;

    /// Peers.
    #[method(name = "peers")]
    async fn peers(&self) -> RpcResult<Vec<PeerInfo>>;
    /// Payments this node has dealt.
    #[method(name = "payments")]
    async fn payments(&self) -> RpcResult<Vec<PaymentInfo>>;
    /// This node's wallet.
    #[method(name = "wallet")]
    async fn wallet(&self) -> RpcResult<WalletInfo>;
    /// Replays the whole ledger of this node from genesis and checks every block, vote and root.
    #[method(name = "verifyLedger")]
    async fn verify_ledger(&self) -> RpcResult<VerifyReport>;
    /// Proof that a record is under the newest attested block, offline checkable (`oda proof check`).
    #[method(name = "proof")]
    async fn proof(&self, subject: Subject) -> RpcResult<ProofInfo>;
    /// Handovers after an epoch, oldest first, at most 128: codec bytes of each in hex.
    #[method(name = "handovers")]
    async fn handovers(&self, after: u64) -> RpcResult<Vec<String>>;
    /// Proof that the ledger at one attested height is the beginning of that at another: codec bytes in hex.
    #[method(name = "extension")]
    async fn extension(&self, old: u64, new: u64) -> RpcResult<String>;
    /// Puts a signed transaction before the network: codec bytes of a `SignedTx` in hex. Returns its hash. Needs no
    /// password: a transaction carries its signer's signature, and peers take it from anyone too.
    #[method(name = "submit")]
    async fn submit(&self, tx: String) -> RpcResult<String>;
}

/// A record and the attested block that covers it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProofInfo {
    /// Codec bytes of a `RecordProof`, hex.
    pub record: String,
    /// Codec bytes of the `CheckpointState` it is under, hex.
    pub checkpoint: String,
}

/// Result of a ledger verification.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VerifyReport {
    /// Blocks replayed.
    pub blocks: u64,
    /// Transactions executed.
    pub txs: u64,
    /// Hash of the last block.
    pub hash: String,
    /// Final state root.
    pub state_root: String,
}

/// JSON-RPC error: not on the ledger.
pub const NOT_FOUND: i32 = -32001;
/// JSON-RPC error: this node does not offer that.
pub const UNAVAILABLE: i32 = -32002;
/// JSON-RPC error: the store failed or the ledger is damaged.
pub const DAMAGED: i32 = -32003;

/// JSON-RPC error: a transaction was not taken.
pub const REFUSED: i32 = -32004;

/// Largest request: the largest transaction in hex, and room for the call around it.
const MAX_REQUEST_BYTES: u32 = 2 * SignedTx::MAX_BYTES as u32 + 1024;

/// A transaction as [`ApiServer::submit`] takes it, or what is wrong with it.
fn read_tx(tx: &str) -> Result<SignedTx, String> {
    if tx.len() > 2 * SignedTx::MAX_BYTES {
        return Err(format!("{} hex digits: a transaction has at most {} bytes", tx.len(), SignedTx::MAX_BYTES));
    }
    let bytes = hex::decode(tx).map_err(|e| format!("not hex ({e}): send the codec bytes of a SignedTx in hex"))?;
    oda_consensus::codec::decode(&bytes)
        .map_err(|e| format!("not a transaction ({e}): send the codec bytes of a SignedTx in hex"))
}

fn error(code: i32, text: impl Into<String>) -> ErrorObjectOwned {
    ErrorObjectOwned::owned(code, text.into(), None::<()>)
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

struct ApiImpl {
    shared: Arc<Shared>,
    blocks: Arc<dyn LedgerReader>,
}

impl ApiImpl {
    fn claim_info(&self, id: ClaimId) -> RpcResult<ClaimInfo> {
        let state = self.shared.state();
        let claim: &ClaimState =
            state.claim(id).ok_or_else(|| error(NOT_FOUND, format!("claim {id} is not on the ledger")))?;
        let escrow: Option<&EscrowState> = claim.escrow.and_then(|e| state.escrow(e));
        Ok(ClaimInfo { claim: json(claim)?, escrow: escrow.map(json).transpose()? })
    }

    fn model_info(id: ModelId, model: &ModelState) -> RpcResult<ModelInfo> {
        Ok(ModelInfo { id, state: json(model)?, parameters: model.manifest.parameters() })
    }

    fn read_block(&self, height: u64) -> RpcResult<Option<BlockInfo>> {
        let Some(bytes) = self.blocks.block(height).map_err(|e| error(DAMAGED, e))? else { return Ok(None) };
        let decided: oda_consensus::wire::DecidedBlock =
            oda_consensus::codec::decode(&bytes).map_err(|e| error(DAMAGED, format!("block {height}: {e}")))?;
        let h = decided.block.header;
        Ok(Some(BlockInfo {
            height: h.height,
            hash: h.hash(),
            prev: h.prev,
            time_ms: h.time_ms,
            state_root: h.state_root.to_string(),
            votes: decided.certificate.signatures.len(),
            txs: decided
                .block
                .txs
                .iter()
                .map(|t| TxInfo {
                    id: t.id().to_string(),
                    kind: t.kind().into(),
                    signer: t.signer,
                    about: about(&t.tx),
                })
                .collect(),
        }))
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
    }
}

#[jsonrpsee::core::async_trait]
impl ApiServer for ApiImpl {
    async fn status(&self) -> RpcResult<Status> {
        let (peers, mempool) = (self.shared.peers(), self.shared.mempool());
        let state = self.shared.state();
        let tip = state.tip();
        Ok(Status {
            node: self.shared.me,
            chain: state.chain(),
            network: state.genesis().name.clone(),
            validator: self.shared.validator,
            height: tip.height,
            hash: tip.hash,
            time_ms: tip.time_ms,
            connected: peers.iter().filter(|p| p.connected).count(),
            mempool,
            committee: (state.group().members().len(), state.group().threshold()),
            epoch: state.current().number,
            seated: state.group().index_of(self.shared.me).is_some(),
        })
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
            validators: state.all_validators().map(json).collect::<RpcResult<_>>()?,
        })
    }

    async fn block(&self, height: u64) -> RpcResult<BlockInfo> {
        self.read_block(height)?.ok_or_else(|| {
            error(NOT_FOUND, format!("no block {height}; the tip is {}", self.shared.state().tip().height))
        })
    }

    async fn blocks(&self, to: Option<u64>, limit: u32, empty: bool) -> RpcResult<Vec<BlockInfo>> {
        let tip = self.shared.state().tip().height;
        let mut height = to.unwrap_or(tip).min(tip);
        let (mut out, mut looked) = (Vec::new(), 0u32);
        while height > 0 && out.len() < limit.min(MAX_PAGE) as usize && looked < 20 * MAX_PAGE {
            if let Some(block) = self.read_block(height)?.filter(|b| empty || !b.txs.is_empty()) {
                out.push(block);
            }
            height -= 1;
            looked += 1;
        }
        out.reverse();
        Ok(out)
    }

    async fn models(&self) -> RpcResult<Vec<ModelInfo>> {
        self.shared.state().models().map(|(id, m)| Self::model_info(id, m)).collect()
    }

    async fn model(&self, id: ModelId) -> RpcResult<ModelInfo> {
        let state = self.shared.state();
        let model = state.model(id).ok_or_else(|| error(NOT_FOUND, format!("model {id} is not on the ledger")))?;
        Self::model_info(id, model)
    }

    async fn claim(&self, id: ClaimId) -> RpcResult<ClaimInfo> {
        self.claim_info(id)
    }

    async fn claims(&self, model: ModelId, round: u64) -> RpcResult<Vec<ClaimInfo>> {
        let ids: Vec<ClaimId> = {
            let state = self.shared.state();
            let open = state.model(model).and_then(|m| m.round.clone()).filter(|r| r.number == round);
            match (open, state.outcome(model, round)) {
                (Some(open), _) => open.claims,
                (None, Some(o)) => o.outcome.claims.iter().map(|c| c.claim).collect(),
                (None, None) => return Err(error(NOT_FOUND, format!("model {model} has no round {round}"))),
            }
        };
        ids.into_iter().map(|id| self.claim_info(id)).collect()
    }

    async fn outcomes(&self, model: ModelId, from_round: u64, limit: u32) -> RpcResult<Vec<serde_json::Value>> {
        let state = self.shared.state();
        state
            .outcomes(model)
            .filter(|o| o.outcome.round >= from_round)
            .take(limit.min(MAX_PAGE) as usize)
            .map(json)
            .collect()
    }

    async fn credit(&self, model: Option<ModelId>) -> RpcResult<Vec<CreditInfo>> {
        let state = self.shared.state();
        Ok(state
            .credits()
            .filter(|c| model.is_none_or(|m| c.model == m))
            .take(MAX_PAGE as usize)
            .map(|c| CreditInfo {
                model: c.model,
                trainer: c.trainer,
                credit_unat: c.credit_unat,
                claims: c.claims,
                paid_claims: c.paid_claims,
                paid_msat: c.paid_msat,
            })
            .collect())
    }

    async fn escrow(&self, id: EscrowId) -> RpcResult<serde_json::Value> {
        let state = self.shared.state();
        json(state.escrow(id).ok_or_else(|| error(NOT_FOUND, format!("escrow {id} is not on the ledger")))?)
    }

    async fn peers(&self) -> RpcResult<Vec<PeerInfo>> {
        Ok(self.shared.peers())
    }

    async fn payments(&self) -> RpcResult<Vec<PaymentInfo>> {
        Ok(self.shared.payments())
    }

    async fn wallet(&self) -> RpcResult<WalletInfo> {
        self.shared.wallet().ok_or_else(|| error(UNAVAILABLE, "this node has no Lightning wallet"))
    }

    async fn verify_ledger(&self) -> RpcResult<VerifyReport> {
        let (genesis, tip) = {
            let state = self.shared.state();
            (state.genesis().clone(), state.tip())
        };
        let blocks = self.blocks.clone();
        let report =
            tokio::task::spawn_blocking(move || crate::ledger::verify(genesis, Some(tip.height), &|h| blocks.block(h)))
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
        let record = crate::proof::prove(self.blocks.as_ref(), &newest, subject).map_err(unproven)?;
        Ok(ProofInfo { record: hexed(&record), checkpoint: hexed(&newest) })
    }

    async fn handovers(&self, after: u64) -> RpcResult<Vec<String>> {
        Ok(self.shared.state().links(after, MAX_LINKS).iter().map(hexed).collect())
    }

    async fn extension(&self, old: u64, new: u64) -> RpcResult<String> {
        crate::proof::extend(self.blocks.as_ref(), old, new).map(|p| hexed(&p)).map_err(unproven)
    }

    async fn submit(&self, tx: String) -> RpcResult<String> {
        let tx = read_tx(&tx).map_err(|why| error(REFUSED, why))?;
        let id = tx.id().to_string();
        match self.shared.submit(tx).await {
            Ok(()) => Ok(id),
            Err(why) => Err(error(REFUSED, format!("transaction {id} was not taken: {why}"))),
        }
    }
}

/// Starts the server.
///
/// # Errors
/// If the address cannot be bound; says which and what to change.
pub async fn serve(
    listen: SocketAddr,
    shared: Arc<Shared>,
    blocks: Arc<dyn LedgerReader>,
) -> Result<(ServerHandle, SocketAddr)> {
    let config = ServerConfig::builder().max_request_body_size(MAX_REQUEST_BYTES).max_connections(128).build();
    let page = tower::ServiceBuilder::new().layer(crate::web::WebLayer);
    let server = Server::builder().set_config(config).set_http_middleware(page).build(listen).await.with_context(|| {
        format!("RPC address {listen} cannot be used (is it taken?): stop the other process or change [rpc] listen")
    })?;
    let address = server.local_addr()?;
    Ok((server.start(ApiImpl { shared, blocks }.into_rpc()), address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use oda_consensus::ids::Signature;

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
        let text = hex::encode(oda_consensus::codec::encode(&tx));
        assert_eq!(read_tx(&text).unwrap(), tx);
        assert!(read_tx(&format!("{text}00")).is_err());
        assert!(read_tx(&text[..text.len() - 2]).is_err());
    }
}
