//! Transactions (L3) and the blocks that order them.

use crate::codec;
use crate::frost::{Deal, GroupSignature};
use crate::ids::{
    BlobHash, BlobRef, BlockHash, ChainId, ClaimId, Digest, EscrowId, ModelId, NodeId, PaymentHash, Preimage,
    Signature, TxId,
};
use crate::keys::NodeKey;
use crate::manifest::Manifest;
use crate::outcome::{Outcome, Seal};
use crate::record;
use serde::Serialize;

/// What can be recorded on the ledger.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum Tx {
    /// Announces a model.
    AddModel(Manifest),
    /// A sponsor promises to lock payments for a model's claims.
    Fund(Fund),
    /// R1: a trainer commits to a delta it does not show yet.
    Commit(Commit),
    /// R2: the sponsor deals the preimage of the payment it locks.
    Lock(Lock),
    /// R3: the trainer opens its commitment.
    Reveal(Reveal),
    /// S3: the committee closes a round; the signature is the beacon of its samples.
    Seal(Seal, GroupSignature),
    /// R5: the committee's verdict.
    Outcome(Outcome, GroupSignature),
    /// P4: the payee shows the preimage as its receipt.
    Settle(EscrowId, Preimage),
    /// P4: the payer has its money again.
    Refund(EscrowId),
}

/// A sponsor's promise for one model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize)]
pub struct Fund {
    /// Model.
    pub model: ModelId,
    /// Payment for one accepted claim, msat.
    pub per_claim_msat: u64,
    /// Most that may be locked and paid in total, msat. A later promise may only raise it.
    pub budget_msat: u64,
}

/// A trainer's commitment (R1), bound to trainer (the signer), head and round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize)]
pub struct Commit {
    /// Model.
    pub model: ModelId,
    /// Round.
    pub round: u64,
    /// Head the delta applies to.
    pub parent: BlobHash,
    /// [`commitment`] of what will be revealed.
    pub commitment: Digest,
}

/// A dealt payment (P1).
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Lock {
    /// Claim it is for.
    pub claim: ClaimId,
    /// Amount of the hold invoice, msat.
    pub amount_msat: u64,
    /// SHA-256 of the dealt preimage.
    pub payment_hash: PaymentHash,
    /// Encrypted shares of it, one per committee member.
    pub deal: Deal,
}

/// An opened commitment (R3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize)]
pub struct Reveal {
    /// Claim.
    pub claim: ClaimId,
    /// The delta.
    pub delta: BlobRef,
    /// Gain the trainer states, micro-nats of mean loss. Binding in free mode only.
    pub stated_gain_unat: i64,
    /// Random salt.
    pub salt: Digest,
}

/// A trainer's one claim on a round.
pub fn claim_id(model: ModelId, round: u64, trainer: NodeId) -> ClaimId {
    let mut h = blake3::Hasher::new_derive_key("oda 2026 claim id");
    h.update(&model.0).update(&round.to_le_bytes()).update(&trainer.0);
    ClaimId(*h.finalize().as_bytes())
}

/// The escrow of a claim.
pub fn claim_escrow(claim: ClaimId) -> EscrowId {
    EscrowId(blake3::derive_key("oda 2026 escrow of a claim", &claim.0))
}

/// R1: H(delta, stated gain, salt, trainer, parent head, model, round).
pub fn commitment(
    trainer: NodeId,
    model: ModelId,
    round: u64,
    parent: BlobHash,
    delta: BlobRef,
    stated_gain_unat: i64,
    salt: Digest,
) -> Digest {
    let mut h = blake3::Hasher::new_derive_key("oda 2026 claim commitment");
    h.update(&trainer.0).update(&model.0).update(&round.to_le_bytes()).update(&parent.0);
    h.update(&delta.hash.0).update(&delta.len.to_le_bytes()).update(&stated_gain_unat.to_le_bytes()).update(&salt.0);
    Digest(*h.finalize().as_bytes())
}

/// A transaction with its signer.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct SignedTx {
    /// What.
    pub tx: Tx,
    /// Who.
    pub signer: NodeId,
    /// Signature over chain and transaction.
    pub signature: Signature,
}
record!(SignedTx, b"sgtx", SignedTx::MAX_BYTES);

#[derive(bincode::Encode, bincode::Decode)]
struct Unsigned {
    tx: Tx,
    signer: NodeId,
}
record!(Unsigned, b"ustx", SignedTx::MAX_BYTES);

impl SignedTx {
    /// Largest transaction, bytes.
    pub const MAX_BYTES: usize = 64 << 10;

    /// Signs a transaction for a chain.
    pub fn new(tx: Tx, key: &NodeKey, chain: ChainId) -> Self {
        let unsigned = Unsigned { tx, signer: key.id() };
        let signature = key.sign(chain, &unsigned);
        Self { tx: unsigned.tx, signer: unsigned.signer, signature }
    }

    /// Whether the signature is the signer's.
    pub fn is_authentic(&self, chain: ChainId) -> bool {
        let unsigned = Unsigned { tx: self.tx.clone(), signer: self.signer };
        self.signer.verify(chain, &unsigned, &self.signature)
    }

    /// The transaction's name.
    pub fn id(&self) -> TxId {
        TxId(codec::hash(self))
    }

    /// Name of its kind, as in L3.
    pub fn kind(&self) -> &'static str {
        match &self.tx {
            Tx::AddModel(_) => "add-model",
            Tx::Fund(_) => "fund",
            Tx::Commit(_) => "commit",
            Tx::Lock(_) => "lock",
            Tx::Reveal(_) => "reveal",
            Tx::Seal(..) => "seal",
            Tx::Outcome(..) => "outcome",
            Tx::Settle(..) => "settle",
            Tx::Refund(_) => "refund",
        }
    }
}

/// A block: ordered transactions (L1, L4).
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Block {
    /// Its header.
    pub header: Header,
    /// Its transactions.
    pub txs: Vec<SignedTx>,
}
record!(Block, b"blck", Block::MAX_BYTES);

/// What a block commits to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize)]
pub struct Header {
    /// Network.
    pub chain: ChainId,
    /// From 1; genesis is height 0.
    pub height: u64,
    /// Proposer's clock, ms since the Unix epoch; later than the parent's.
    pub time_ms: u64,
    /// Hash of the parent's header; the chain id for the first block.
    pub prev: BlockHash,
    /// Hash over the transactions.
    pub txs_root: Digest,
    /// State root after the transactions.
    pub state_root: Digest,
}
record!(Header, b"hedr", 256);

impl Header {
    /// The block's name.
    pub fn hash(&self) -> BlockHash {
        BlockHash(codec::hash(self))
    }
}

impl Block {
    /// Largest block, bytes.
    pub const MAX_BYTES: usize = 1 << 20;

    /// Hash over a list of transactions.
    pub fn txs_root(txs: &[SignedTx]) -> Digest {
        let mut h = blake3::Hasher::new_derive_key("oda 2026 transactions root");
        for tx in txs {
            h.update(&tx.id().0);
        }
        Digest(*h.finalize().as_bytes())
    }
}
