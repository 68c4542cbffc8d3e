//! What the methods answer with.
//!
//! The ledger's own records pass through as JSON values: written out again here, they would be a second definition of
//! the same thing. [`super::schema`] lists their fields for readers, and a test holds it against real answers.

use crate::net::Reachability;
use oda_consensus::ids::{BlockHash, ChainId, Digest, EscrowId, ModelId, NodeId};
use serde::{Deserialize, Serialize};

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
    /// Whether others can reach this node, as far as it knows.
    #[serde(default)]
    pub reachability: Reachability,
    /// Relays that pass connections on to it.
    #[serde(default)]
    pub relays: usize,
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
    /// The storage challenge that is open, if one is.
    #[serde(default)]
    pub challenge: Option<serde_json::Value>,
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
    /// Claims that added to a new head; one that earned less than the smallest payment counts too.
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

/// Result of a ledger verification.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VerifyReport {
    /// Height of the last block.
    pub blocks: u64,
    /// Height of the first block replayed: 1, or the oldest whole one if older were pruned.
    #[serde(default)]
    pub blocks_from: u64,
    /// Transactions executed.
    pub txs: u64,
    /// Hash of the last block.
    pub hash: String,
    /// Final state root.
    pub state_root: String,
}

/// Where a list of credit goes on: behind this model's trainer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreditCursor {
    /// Model of the last item.
    pub model: ModelId,
    /// Its trainer.
    pub trainer: NodeId,
}

/// Where a list of payments goes on: behind this tranche.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PaymentCursor {
    /// Escrow of the last item.
    pub escrow: EscrowId,
    /// Its tranche.
    pub tranche: u8,
}

/// What a committee has signed, with everything needed to check it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AttestationInfo {
    /// `outcome` or `checkpoint`.
    pub kind: String,
    /// Round of the outcome, or height of the checkpoint.
    pub number: u64,
    /// Model of the outcome.
    pub model: Option<ModelId>,
    /// Epoch whose committee signed.
    pub epoch: u64,
    /// Name of the signing session.
    pub topic: Digest,
    /// What was signed: codec bytes of the attestation, hex.
    pub message: String,
    /// FROST signature by the epoch's group key (see `oda_committees`), hex.
    pub signature: String,
}

/// An epoch and its committee.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CommitteeInfo {
    /// Number; 0 is the genesis committee.
    pub epoch: u64,
    /// Attempt of the key generation that made its key.
    pub attempt: u32,
    /// Height of the first block it orders; none while the committee before is in charge.
    pub start_height: Option<u64>,
    /// Members, ascending.
    pub members: Vec<NodeId>,
    /// Members needed to sign.
    pub threshold: usize,
    /// Members and group public key: codec bytes of a `GroupKey`, hex.
    pub key: String,
    /// What the committee before signed: codec bytes of the attestation, hex.
    pub message: String,
    /// Its signature, hex; the genesis committee has none.
    pub signature: Option<String>,
}

/// A record as a subscription reports it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RecordInfo {
    /// Height of its block.
    pub height: u64,
    /// Time of the block, ms since the Unix epoch.
    pub time_ms: u64,
    /// Place in the block, from 0.
    pub index: u32,
    /// Model it is about, if about one.
    pub model: Option<ModelId>,
    /// The transaction.
    #[serde(flatten)]
    pub tx: TxInfo,
}

/// A record and the attested block that covers it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProofInfo {
    /// Codec bytes of a `RecordProof`, hex.
    pub record: String,
    /// Codec bytes of the `CheckpointState` it is under, hex.
    pub checkpoint: String,
}

/// A record as one block left it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VersionInfo {
    /// Number of the record in the log.
    pub index: u64,
    /// Height of the block that wrote it.
    pub height: u64,
    /// The entry.
    pub record: serde_json::Value,
}
