//! What nodes say to each other besides Tendermint's own messages: requests, answers, and the
//! envelopes of gossip. All bounded codec records (K2, K3).

use crate::beacon::{BeaconInput, Partial};
use crate::bft::CommitCertificate;
use crate::codec;
use crate::epoch::HandoverLink;
use crate::escrow::EscrowState;
use crate::frost::{ReleaseShare, SignMessage};
use crate::ids::{ChainId, ClaimId, EscrowId, ModelId, NodeId, Signature};
use crate::keys::NodeKey;
use crate::record;
use crate::snapshot::SnapshotOffer;
use crate::state::{CheckpointState, ClaimState, ModelState, OutcomeState, Tip};
use crate::tx::{Block, SignedTx};
use serde::Serialize;

/// Most blocks in one answer.
pub const MAX_BLOCKS: u32 = 64;
/// Most handovers in one answer.
pub const MAX_LINKS: usize = 128;
/// Bytes of a delta in one answer; the last answer has what is left. A slow line at home sends so much to several
/// members at once before a request runs out of time.
pub const DELTA_PART_BYTES: usize = 128 << 10;

/// What a node does on the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Stores the ledger and serves it.
    Full,
    /// Trains only.
    Lite,
}

/// How to reach a node's Lightning side.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize)]
pub struct LightningAddress {
    /// secp256k1 public key, hex.
    pub node_id: String,
    /// host:port.
    pub address: String,
}

/// Where a sponsor takes submissions, and what it asks for each (P8).
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize)]
pub struct Submissions {
    /// Address of its HTTP server, `http://host:port`, perhaps with a path.
    pub url: String,
    /// Fee, msat.
    pub fee_msat: u64,
}

impl Submissions {
    /// Longest address, bytes.
    pub const MAX_URL_BYTES: usize = 256;

    /// Whether the address can be one and a fee is asked.
    pub fn is_sound(&self) -> bool {
        let host = self.url.strip_prefix("http://").unwrap_or_default();
        let fits = self.url.len() <= Self::MAX_URL_BYTES && self.url.bytes().all(|b| b.is_ascii_graphic());
        fits && self.fee_msat > 0 && !host.is_empty() && !host.contains(['@', '?', '#'])
    }
}

/// Where a node's services are. Newer sequence numbers replace older ones.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize)]
pub struct PeerRecord {
    /// Whose.
    pub node: NodeId,
    /// Its clock when it was made, ms; the larger wins.
    pub seq_ms: u64,
    /// What it does.
    pub role: Role,
    /// Socket addresses of its blob endpoint (N2).
    pub blobs: Vec<String>,
    /// libp2p multiaddresses.
    pub p2p: Vec<String>,
    /// Lightning side, if it has one.
    pub lightning: Option<LightningAddress>,
    /// Where it takes submissions, if it is a sponsor that asks a fee.
    pub submissions: Option<Submissions>,
}
record!(PeerRecord, b"peer", 2 << 10);

/// A peer record signed by its node.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct SignedPeerRecord {
    /// The record.
    pub record: PeerRecord,
    /// Its node's signature.
    pub signature: Signature,
}
record!(SignedPeerRecord, b"spre", 3 << 10, |value| codec::within(&value.record));

impl SignedPeerRecord {
    /// Signs one's own record.
    pub fn new(record: PeerRecord, key: &NodeKey, chain: ChainId) -> Self {
        let signature = key.sign(chain, &record);
        Self { record, signature }
    }

    /// Whether the node signed it, its lists are within limits, and its addresses can be such.
    pub fn is_authentic(&self, chain: ChainId) -> bool {
        let r = &self.record;
        let sound = r.submissions.as_ref().is_none_or(Submissions::is_sound);
        r.blobs.len() <= 8 && r.p2p.len() <= 8 && sound && r.node.verify(chain, r, &self.signature)
    }
}

/// A block with the votes that decided it.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct DecidedBlock {
    /// The block.
    pub block: Block,
    /// More than two thirds of precommits for it.
    pub certificate: CommitCertificate,
}
record!(DecidedBlock, b"dblk", Block::MAX_BYTES + (64 << 10), |value| {
    codec::within(&value.certificate).and_then(|()| codec::within(&value.block))
});

/// What committee members say to each other besides Tendermint's messages.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum CommitteeMessage {
    /// Part of a signing session.
    Sign(SignMessage),
    /// A share of a beacon.
    Partial(BeaconInput, Partial),
}

/// A committee message with its author.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct CommitteeEnvelope {
    /// Author.
    pub from: NodeId,
    /// Epoch of the committee in which it speaks.
    pub epoch: u64,
    /// Message.
    pub message: CommitteeMessage,
}
record!(CommitteeEnvelope, b"cmen", 128 << 10, |value| match &value.message {
    CommitteeMessage::Sign(message) => codec::within(message),
    CommitteeMessage::Partial(..) => Ok(()),
});

/// A committee envelope with its author's signature.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct SignedCommitteeEnvelope {
    /// The envelope.
    pub envelope: CommitteeEnvelope,
    /// Author's signature.
    pub signature: Signature,
}
record!(SignedCommitteeEnvelope, b"scme", 129 << 10, |value| codec::within(&value.envelope));

/// A question to a peer.
#[derive(Clone, Debug, bincode::Encode, bincode::Decode)]
pub enum Request {
    /// Introduces oneself; answered with the peer's own record.
    Hello(SignedPeerRecord),
    /// Where the peer's ledger stands.
    Status,
    /// Decided blocks from a height on.
    Blocks {
        /// First height.
        from: u64,
        /// Most blocks wanted.
        max: u32,
    },
    /// Puts a transaction before the network.
    SubmitTx(Box<SignedTx>),
    /// Names of all models.
    Models,
    /// A model with its round and latest attested outcome.
    Model(ModelId),
    /// A claim with its escrow.
    Claim(ClaimId),
    /// To the payee: this escrow has changed, so ask now rather than at the next turn. A hint, believed by nobody;
    /// answered with `Accepted`.
    Changed(EscrowId),
    /// The outcome of a round.
    Outcome(ModelId, u64),
    /// A member's shares of the preimages whose release is attested; answered to the payee only (P4).
    Shares(EscrowId),
    /// The payee's hold invoice for one tranche, for the payer (P3).
    Invoice {
        /// Escrow it is for.
        escrow: EscrowId,
        /// Tranche.
        tranche: u8,
        /// BOLT 11 invoice.
        bolt11: String,
    },
    /// The freshest peer records known.
    Peers,
    /// Signed keys of the epochs after this one, oldest first (C2).
    Epochs {
        /// Epoch the asker knows.
        after: u64,
    },
    /// The newest attested block.
    Checkpoint,
    /// The newest snapshot of the ledger at an attested block.
    Snapshot,
    /// To a claim's trainer: the part of its revealed delta that begins here, over the connection the trainer opened
    /// (R3, N2).
    Delta {
        /// The claim.
        claim: ClaimId,
        /// First byte.
        from_byte: u64,
    },
}
record!(Request, b"rqst", 128 << 10, |value| match value {
    Request::Hello(record) => codec::within(record),
    Request::SubmitTx(tx) => codec::within(tx.as_ref()),
    _ => Ok(()),
});

/// A model as a peer tells it. Nothing of it is believed unchecked: see `engine::trainer`.
#[derive(Clone, Debug, bincode::Encode, bincode::Decode)]
pub struct ModelView {
    /// Ledger height at which this was read.
    pub height: u64,
    /// The model.
    pub model: ModelState,
    /// The outcome before the current round.
    pub last: Option<OutcomeState>,
}

/// A claim as a peer tells it.
#[derive(Clone, Debug, bincode::Encode, bincode::Decode)]
pub struct ClaimView {
    /// Ledger height at which this was read.
    pub height: u64,
    /// The claim.
    pub claim: ClaimState,
    /// Its escrow.
    pub escrow: Option<EscrowState>,
    /// Whether the peer is a committee member that has decrypted its share of every tranche and found them good (P1).
    pub share_held: bool,
    /// The outcome of the claim's round, if judged.
    pub outcome: Option<OutcomeState>,
}

/// An answer.
#[derive(Clone, Debug, bincode::Encode, bincode::Decode)]
pub enum Response {
    /// To `Hello`.
    Hello(SignedPeerRecord),
    /// To `Status`.
    Status(Tip),
    /// To `Blocks`.
    Blocks(Vec<DecidedBlock>),
    /// To `SubmitTx` and `Invoice`: taken.
    Accepted,
    /// To `Models`.
    Models(Vec<ModelId>),
    /// To `Model`.
    Model(Option<Box<ModelView>>),
    /// To `Claim`.
    Claim(Option<Box<ClaimView>>),
    /// To `Outcome`.
    Outcome(Option<Box<OutcomeState>>),
    /// To `Shares`: by tranche.
    Shares(Vec<(u8, ReleaseShare)>),
    /// To `Peers`.
    Peers(Vec<SignedPeerRecord>),
    /// To `Epochs`: at most [`MAX_LINKS`].
    Epochs(Vec<HandoverLink>),
    /// To `Checkpoint`.
    Checkpoint(Option<Box<CheckpointState>>),
    /// Not done, and why.
    Refused(String),
    /// To `Snapshot`; none while there is none.
    Snapshot(Option<Box<SnapshotOffer>>),
    /// To `Delta`: at most [`DELTA_PART_BYTES`].
    Delta(Vec<u8>),
}
record!(Response, b"rspn", 8 << 20, |value| match value {
    Response::Hello(record) => codec::within(record),
    Response::Blocks(blocks) => blocks.iter().try_for_each(codec::within),
    Response::Model(Some(view)) => {
        codec::within(&view.model).and_then(|()| view.last.iter().try_for_each(codec::within))
    }
    Response::Claim(Some(view)) => {
        codec::within(&view.claim)?;
        view.escrow.iter().try_for_each(codec::within)?;
        view.outcome.iter().try_for_each(codec::within)
    }
    Response::Outcome(Some(outcome)) => codec::within(outcome.as_ref()),
    Response::Shares(shares) => shares.iter().try_for_each(|(_, share)| codec::within(share)),
    Response::Epochs(links) => links.iter().try_for_each(codec::within),
    Response::Snapshot(Some(offer)) => codec::within(offer.as_ref()),
    Response::Checkpoint(Some(checkpoint)) => codec::within(checkpoint.as_ref()),
    Response::Peers(records) => records.iter().try_for_each(codec::within),
    _ => Ok(()),
});
