//! JSON-RPC client of a full node, with the parts of its answers that are used here.
//!
//! The types are written out again instead of shared with the server: this program stands for all
//! others that will speak this interface, and notices when a field is renamed.

use anyhow::{Context, Result, anyhow};
use jsonrpsee::core::client::{ClientT, Error};
use jsonrpsee::core::traits::ToRpcParams;
use jsonrpsee::http_client::{HttpClient, HttpClientBuilder};
use jsonrpsee::rpc_params;
pub use oda_consensus::escrow::Stage;
use oda_consensus::escrow::{Terms, TrancheStatus};
use oda_consensus::ids::{BlobRef, ClaimId, EscrowId, ModelId, NodeId};
use oda_consensus::manifest::Manifest;
use oda_consensus::outcome::{ClaimOutcome, Outcome};
use serde::Deserialize;
use std::net::SocketAddr;
use std::time::Duration;

/// Most items asked for at once; the server's own limit.
pub const MAX_PAGE: u32 = 500;

/// Node and ledger.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    /// Node.
    pub node: NodeId,
    /// Ledger height.
    pub height: u64,
    /// Hash of the last block.
    pub hash: String,
    /// Time of the last block, ms since the Unix epoch.
    pub time_ms: u64,
    /// Peers connected.
    pub connected: usize,
    /// Members, and how many must sign.
    pub committee: (usize, usize),
}

/// The federation.
#[derive(Clone, Debug, Deserialize)]
pub struct Federation {
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
    /// Every validator and applicant.
    pub validators: Vec<Validator>,
}

/// A validator.
#[derive(Clone, Debug, Deserialize)]
pub struct Validator {
    /// Who.
    pub node: NodeId,
    /// Whether it may be drawn.
    pub status: ValidatorStatus,
    /// How it has served.
    pub record: Record,
    /// How it answered storage challenges, once it was asked (D2).
    pub storage: Option<Storage>,
}

/// Storage challenges of a validator.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Storage {
    /// Answered.
    pub kept: u64,
    /// Not answered.
    pub missed: u64,
}

/// Whether a validator may be drawn.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ValidatorStatus {
    /// Wants to be one.
    Applied,
    /// May be drawn.
    Active,
    /// Left.
    Left,
    /// Removed, and why.
    Evicted(String),
}

/// Counts of a validator's duties.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Record {
    /// Rounds it was to judge.
    pub rounds: u64,
    /// Scores that agreed with the outcome.
    pub agreed: u64,
    /// Scores proven wrong.
    pub false_scores: u64,
    /// Rounds without a commitment in time.
    pub late: u64,
    /// Decoys scored as their known answer says.
    pub decoys_passed: u64,
    /// Decoys not.
    pub decoys_failed: u64,
    /// Key generations missed.
    pub dkg_missed: u64,
}

/// A block.
#[derive(Clone, Debug, Deserialize)]
pub struct Block {
    /// Height.
    pub height: u64,
    /// Hash.
    pub hash: String,
    /// Time, ms since the Unix epoch.
    pub time_ms: u64,
    /// Transactions.
    pub txs: Vec<TxInfo>,
}

/// A transaction.
#[derive(Clone, Debug, Deserialize)]
pub struct TxInfo {
    /// Kind (L3).
    pub kind: String,
    /// What it is about.
    pub about: String,
}

/// A model.
#[derive(Clone, Debug, Deserialize)]
pub struct Model {
    /// Id.
    pub id: ModelId,
    /// Manifest.
    pub manifest: Manifest,
    /// Current weights.
    pub head: Head,
    /// Current round, once funded.
    pub round: Option<Round>,
    /// Gain proven by all adopted heads, micro-nats.
    pub proven_unat: u64,
    /// Who pays.
    pub sponsors: Vec<Sponsorship>,
}

/// Current weights.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Head {
    /// Weights.
    pub weights: BlobRef,
}

/// Current round.
#[derive(Clone, Debug, Deserialize)]
pub struct Round {
    /// Number, from 1.
    pub number: u64,
    /// Height at which it opened.
    pub opened_height: u64,
    /// Claims, in order of commitment.
    pub claims: Vec<ClaimId>,
    /// Set once sealed.
    pub sealed: Option<String>,
}

/// A sponsor's promise and what became of it.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Sponsorship {
    /// Who pays.
    pub sponsor: NodeId,
    /// Dealt and not ended, msat.
    pub held_msat: u64,
    /// Settled, msat.
    pub paid_msat: u64,
    /// Refunded, msat.
    pub refunded_msat: u64,
}

/// A claim with its escrow.
#[derive(Clone, Debug, Deserialize)]
pub struct ClaimInfo {
    /// Claim.
    pub claim: Claim,
    /// Escrow, once dealt.
    pub escrow: Option<Escrow>,
}

/// A claim.
#[derive(Clone, Debug, Deserialize)]
pub struct Claim {
    /// Id.
    pub id: ClaimId,
    /// Round.
    pub round: u64,
    /// Trainer.
    pub trainer: NodeId,
    /// Height of its commit.
    pub committed_height: u64,
    /// What was revealed.
    pub reveal: Option<Reveal>,
    /// The judgement, and the height of the outcome.
    pub judged: Option<(ClaimOutcome, u64)>,
    /// Shown to have been a sponsor's decoy.
    pub decoy: bool,
}

/// An opened commitment.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Reveal {
    /// The delta.
    pub delta: BlobRef,
}

/// A claim's escrow.
#[derive(Clone, Debug, Deserialize)]
pub struct Escrow {
    /// Id.
    pub id: EscrowId,
    /// Who is paid.
    pub payee: NodeId,
    /// What can be earned.
    pub terms: Terms,
    /// Where it stands.
    pub stage: Stage,
    /// Its payments, largest first.
    pub tranches: Vec<Tranche>,
}

/// One payment of an escrow.
#[derive(Clone, Debug, Deserialize)]
pub struct Tranche {
    /// Amount, msat.
    pub amount_msat: u64,
    /// Where it stands.
    pub status: TrancheStatus,
}

impl Escrow {
    fn sum(&self, wanted: impl Fn(&TrancheStatus) -> bool) -> u64 {
        self.tranches.iter().filter(|t| wanted(&t.status)).map(|t| t.amount_msat).sum()
    }

    /// Receipts shown, msat.
    pub fn paid_msat(&self) -> u64 {
        self.sum(|s| matches!(s, TrancheStatus::Settled(_)))
    }

    /// Attested and on its way to the trainer, msat.
    pub fn releasing_msat(&self) -> u64 {
        self.sum(|s| *s == TrancheStatus::Releasing)
    }

    /// Attested and on its way back, msat.
    pub fn refunding_msat(&self) -> u64 {
        self.sum(|s| *s == TrancheStatus::Refunding)
    }

    /// Back with the sponsor, msat.
    pub fn refunded_msat(&self) -> u64 {
        match self.stage {
            Stage::Withdrawn => self.terms.most_msat(),
            _ => self.sum(|s| matches!(s, TrancheStatus::Refunded | TrancheStatus::Expired | TrancheStatus::Fraud)),
        }
    }
}

/// An attested outcome.
#[derive(Clone, Debug, Deserialize)]
pub struct OutcomeInfo {
    /// What was attested.
    pub outcome: Outcome,
    /// Height of its block.
    pub height: u64,
    /// Time of its block, ms since the Unix epoch.
    pub time_ms: u64,
}

/// Credit of a trainer.
#[derive(Clone, Debug, Deserialize)]
pub struct Credit {
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

/// A payment as its payer's wallet knows it.
#[derive(Clone, Debug, Deserialize)]
pub struct Payment {
    /// Escrow.
    pub escrow: EscrowId,
    /// Tranche of it.
    pub tranche: u8,
    /// Claim it is for.
    pub claim: ClaimId,
    /// Amount, msat.
    pub amount_msat: u64,
    /// Routing fee, msat.
    pub fee_msat: u64,
    /// `dealt`, `paying`, `sent`, `failed` or `closed`.
    pub phase: String,
}

/// A Lightning wallet.
#[derive(Clone, Debug, Deserialize)]
pub struct Wallet {
    /// Lightning node id, hex.
    pub node_id: String,
    /// Address to fund it.
    pub address: String,
    /// On chain, sat.
    pub onchain_sat: u64,
    /// Over Lightning, msat.
    pub lightning_msat: u64,
    /// Channels.
    pub channels: Vec<Channel>,
}

/// A channel.
#[derive(Clone, Debug, Deserialize)]
pub struct Channel {
    /// Capacity, sat.
    pub capacity_sat: u64,
    /// Ready and connected.
    pub usable: bool,
}

/// Result of a full replay.
#[derive(Clone, Debug, Deserialize)]
pub struct Verified {
    /// Blocks replayed.
    pub blocks: u64,
    /// Transactions executed.
    pub txs: u64,
}

/// A connection to one full node.
#[derive(Clone)]
pub struct Rpc {
    url: String,
    client: HttpClient,
}

impl Rpc {
    /// A client of the node at `address`; connects with the first call.
    ///
    /// # Errors
    /// If the address is unusable.
    pub fn new(address: SocketAddr) -> Result<Self> {
        let url = format!("http://{address}");
        let client = HttpClientBuilder::default()
            .request_timeout(Duration::from_secs(20))
            .build(&url)
            .with_context(|| url.clone())?;
        Ok(Self { url, client })
    }

    /// Where it connects to.
    pub fn url(&self) -> &str {
        &self.url
    }

    async fn call<T: serde::de::DeserializeOwned>(&self, method: &str, params: impl ToRpcParams + Send) -> Result<T> {
        self.client.request(method, params).await.map_err(|error| match error {
            Error::Call(e) => anyhow!("{method} on {}: {}", self.url, e.message()),
            other => anyhow!("{method} on {}: {other}", self.url),
        })
    }

    /// Node and ledger status.
    ///
    /// # Errors
    /// If the node does not answer.
    pub async fn status(&self) -> Result<Status> {
        self.call("oda_status", rpc_params![]).await
    }

    /// The federation.
    ///
    /// # Errors
    /// If the node does not answer.
    pub async fn federation(&self) -> Result<Federation> {
        self.call("oda_federation", rpc_params![]).await
    }

    /// One block.
    ///
    /// # Errors
    /// If the node does not answer or has no such block.
    pub async fn block(&self, height: u64) -> Result<Block> {
        self.call("oda_block", rpc_params![height]).await
    }

    /// Blocks with transactions up to the tip, newest last.
    ///
    /// # Errors
    /// If the node does not answer.
    pub async fn blocks(&self, to: Option<u64>, limit: u32) -> Result<Vec<Block>> {
        self.call("oda_blocks", rpc_params![to, limit, false]).await
    }

    /// Up to `limit` blocks up to a height, the empty ones too, newest last.
    ///
    /// # Errors
    /// If the node does not answer.
    pub async fn all_blocks(&self, to: u64, limit: u32) -> Result<Vec<Block>> {
        self.call("oda_blocks", rpc_params![Some(to), limit, true]).await
    }

    /// All models.
    ///
    /// # Errors
    /// If the node does not answer.
    pub async fn models(&self) -> Result<Vec<Model>> {
        self.call("oda_models", rpc_params![]).await
    }

    /// Claims of a round.
    ///
    /// # Errors
    /// If the node does not answer or has no such round.
    pub async fn claims(&self, model: ModelId, round: u64) -> Result<Vec<ClaimInfo>> {
        self.call("oda_claims", rpc_params![model, round]).await
    }

    /// Outcomes from a round on.
    ///
    /// # Errors
    /// If the node does not answer.
    pub async fn outcomes(&self, model: ModelId, from_round: u64) -> Result<Vec<OutcomeInfo>> {
        self.call("oda_outcomes", rpc_params![model, from_round, MAX_PAGE]).await
    }

    /// Credit on a model.
    ///
    /// # Errors
    /// If the node does not answer.
    pub async fn credit(&self, model: ModelId) -> Result<Vec<Credit>> {
        self.call("oda_credit", rpc_params![Some(model)]).await
    }

    /// Payments of a sponsor.
    ///
    /// # Errors
    /// If the node does not answer.
    pub async fn payments(&self) -> Result<Vec<Payment>> {
        self.call("oda_payments", rpc_params![]).await
    }

    /// Wallet of a sponsor.
    ///
    /// # Errors
    /// If the node does not answer or has no wallet (yet).
    pub async fn wallet(&self) -> Result<Wallet> {
        self.call("oda_wallet", rpc_params![]).await
    }

    /// Lets the node replay its whole ledger.
    ///
    /// # Errors
    /// If the node does not answer or the ledger is damaged.
    pub async fn verify_ledger(&self) -> Result<Verified> {
        self.call("oda_verifyLedger", rpc_params![]).await
    }
}
