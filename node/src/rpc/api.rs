//! The methods: one trait is server and typed client in one, so these two cannot drift apart.
//!
//! [`super::schema::METHODS`] says the same for readers and holds who may call what; a test compares the two.
//! Parameters may be given by place or by name; those at the end that are `Option` may be left out.

use super::subscribe::Ended;
use super::types::*;
use crate::full::{PaymentInfo, PeerInfo};
use jsonrpsee::core::RpcResult;
use jsonrpsee::proc_macros::rpc;
use oda_consensus::ids::{ClaimId, EscrowId, ModelId, NodeId};
use oda_consensus::proof::Subject;

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
    async fn blocks(&self, to: Option<u64>, limit: Option<u32>, empty: Option<bool>) -> RpcResult<Vec<BlockInfo>>;
    /// Models, ascending by id.
    #[method(name = "models")]
    async fn models(&self, limit: Option<u32>, after: Option<ModelId>) -> RpcResult<Vec<ModelInfo>>;
    /// One model.
    #[method(name = "model")]
    async fn model(&self, id: ModelId) -> RpcResult<ModelInfo>;
    /// One claim.
    #[method(name = "claim")]
    async fn claim(&self, id: ClaimId) -> RpcResult<ClaimInfo>;
    /// The claims of a model, of one round or of all in their order.
    #[method(name = "claims")]
    async fn claims(
        &self,
        model: ModelId,
        round: Option<u64>,
        limit: Option<u32>,
        after: Option<ClaimId>,
    ) -> RpcResult<Vec<ClaimInfo>>;
    /// The outcomes of a model from a round on.
    #[method(name = "outcomes")]
    async fn outcomes(
        &self,
        model: ModelId,
        from_round: Option<u64>,
        limit: Option<u32>,
    ) -> RpcResult<Vec<serde_json::Value>>;
    /// Signatures of the committees: over the outcomes of a model, or over checkpoints if no model is named.
    #[method(name = "attestations")]
    async fn attestations(
        &self,
        model: Option<ModelId>,
        limit: Option<u32>,
        after: Option<u64>,
    ) -> RpcResult<Vec<AttestationInfo>>;
    /// Epochs with their committees.
    #[method(name = "committees")]
    async fn committees(&self, limit: Option<u32>, after: Option<u64>) -> RpcResult<Vec<CommitteeInfo>>;
    /// Credit, of one model or all, of one trainer or all, ascending by model and trainer.
    #[method(name = "credit")]
    async fn credit(
        &self,
        model: Option<ModelId>,
        limit: Option<u32>,
        after: Option<CreditCursor>,
        trainer: Option<NodeId>,
    ) -> RpcResult<Vec<CreditInfo>>;
    /// One escrow.
    #[method(name = "escrow")]
    async fn escrow(&self, id: EscrowId) -> RpcResult<serde_json::Value>;
    /// The federation: the committee in charge, the coming one, validators with their service record.
    #[method(name = "federation")]
    async fn federation(&self) -> RpcResult<FederationInfo>;
    /// Validators and applicants with their service record, ascending by node.
    #[method(name = "validators")]
    async fn validators(&self, limit: Option<u32>, after: Option<NodeId>) -> RpcResult<Vec<serde_json::Value>>;
    /// Peers, ascending by node.
    #[method(name = "peers")]
    async fn peers(&self, limit: Option<u32>, after: Option<NodeId>) -> RpcResult<Vec<PeerInfo>>;
    /// Payments this node has dealt, ascending by escrow and tranche.
    #[method(name = "payments")]
    async fn payments(&self, limit: Option<u32>, after: Option<PaymentCursor>) -> RpcResult<Vec<PaymentInfo>>;
    /// This node's wallet.
    #[method(name = "wallet")]
    async fn wallet(&self) -> RpcResult<WalletInfo>;
    /// Replays the whole ledger of this node from genesis and checks every block, vote and root.
    #[method(name = "verifyLedger")]
    async fn verify_ledger(&self) -> RpcResult<VerifyReport>;
    /// Proof that a record is under the newest attested block; checked offline by `oda proof check`.
    #[method(name = "proof")]
    async fn proof(&self, subject: Subject) -> RpcResult<ProofInfo>;
    /// Proof that the ledger at one attested height is the beginning of that at another.
    #[method(name = "extension")]
    async fn extension(&self, old: u64, new: u64) -> RpcResult<String>;
    /// Handovers of the committees' keys, oldest first.
    #[method(name = "handovers")]
    async fn handovers(&self, limit: Option<u32>, after: Option<u64>) -> RpcResult<Vec<String>>;
    /// What a record was from a height on: each version with the block that wrote it, oldest first.
    #[method(name = "history")]
    async fn history(
        &self,
        subject: Subject,
        from_height: Option<u64>,
        limit: Option<u32>,
    ) -> RpcResult<Vec<VersionInfo>>;
    /// Puts a signed transaction before the network: codec bytes of a `SignedTx` in hex. Returns its hash. Needs no
    /// password: a transaction carries its signer's signature, and peers take it from anyone too.
    #[method(name = "submit")]
    async fn submit(&self, tx: String) -> RpcResult<String>;

    /// Stops the node as SIGTERM does: calls under way are answered, then the ledger is closed.
    #[method(name = "stop")]
    async fn stop(&self) -> RpcResult<bool>;
    /// Closes the connection to a peer and takes none from it for so many seconds; 0 ends an earlier ban.
    #[method(name = "ban")]
    async fn ban(&self, node: NodeId, seconds: u64) -> RpcResult<bool>;

    /// Blocks from a height on: those on the ledger first, then each new one, none left out and none twice.
    #[subscription(name = "subscribeBlocks" => "newBlock", unsubscribe = "unsubscribeBlocks", item = BlockInfo)]
    async fn subscribe_blocks(&self, from_height: Option<u64>) -> Ended;
    /// Records of these kinds and this model, from a height on; those on the ledger first, then each new one.
    #[subscription(name = "subscribeRecords" => "newRecord", unsubscribe = "unsubscribeRecords", item = RecordInfo)]
    async fn subscribe_records(
        &self,
        model: Option<ModelId>,
        kinds: Option<Vec<String>>,
        from_height: Option<u64>,
    ) -> Ended;
}
