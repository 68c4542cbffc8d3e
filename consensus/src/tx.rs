//! Transactions (L3) and the blocks that order them.

use crate::beacon::BeaconProof;
use crate::codec;
use crate::epoch::{Checkpoint, Handover, Membership};
use crate::escrow::{Offer, Opening, Terms, TrancheSet};
use crate::evidence::Evidence;
use crate::frost::{EncryptionKey, GroupSignature, OpenedShares, ReleaseShare, Round1, Round2};
use crate::ids::{
    BlobHash, BlobRef, BlockHash, ChainId, ClaimId, Digest, EscrowId, ModelId, NodeId, Preimage, Signature, TxId,
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
    /// R2, P2: the sponsor offers payment for a claim and commits to candidates of what it will deal.
    Offer(ClaimId, Offer),
    /// P2: the trainer draws which of them are dealt.
    Choose(EscrowId, Digest),
    /// P1, P2: the sponsor shows the others and deals the preimages of the payments it locks.
    Deal(EscrowId, Opening),
    /// R3: the trainer opens its commitment.
    Reveal(Reveal),
    /// S3: a round takes no more claims; the proof is the beacon of its samples.
    Seal(Seal, BeaconProof),
    /// R4: a committee member commits to its measured scores.
    Score(ScoreCommit),
    /// R4: it opens them.
    ScoreReveal(Box<ScoreReveal>),
    /// R5: the committee's verdict.
    Outcome(Outcome, GroupSignature),
    /// P4: the payee shows preimages as its receipts.
    Settle(EscrowId, Vec<Preimage>),
    /// P4: the payer has the money of these tranches again.
    Refund(EscrowId, TrancheSet),
    /// P2: shares of a tranche that rebuild something else than its preimage.
    FalseDeal(EscrowId, u8, Vec<ReleaseShare>),
    /// C1: the beacon draws the committee of this epoch.
    Draw(u64, BeaconProof),
    /// C2: a drawn member's step of the key generation.
    Dkg(DkgMessage),
    /// C2: the running committee signs the keys of the next.
    Handover(Handover, GroupSignature),
    /// The committee attests a block and the state after it.
    Checkpoint(Checkpoint, GroupSignature),
    /// C1: a node asks to become a validator.
    Apply(EncryptionKey),
    /// C1: the committee admits or removes a validator.
    Membership(Membership, GroupSignature),
    /// C1: a validator leaves.
    Leave,
    /// C6: proof that a validator broke the rules.
    Evidence(Evidence),
    /// C6: a sponsor shows that a claim was a decoy with a known answer.
    Decoy(ClaimId, Digest),
    /// S3: who added a model gives the key of its sealed guards.
    Unseal(Unseal),
    /// P8: who added a model says for whom, besides those paid before, half of its rounds' places are kept.
    Invite(Invite),
    /// D2: a validator shows that it keeps a blob it was asked for.
    StorageProof(StorageProof),
}

/// The key of a model's sealed guards (S3), see [`crate::sealed`].
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum Unseal {
    /// To the committee of an epoch: the one in charge, or the one before.
    Committee {
        /// Model.
        model: ModelId,
        /// Epoch of the committee.
        epoch: u64,
        /// One sealed box a member, in member order.
        boxes: Vec<Vec<u8>>,
    },
    /// To everyone, once and for all.
    Public {
        /// Model.
        model: ModelId,
        /// The key.
        key: Digest,
    },
}

impl Unseal {
    /// Model it is about.
    pub fn model(&self) -> ModelId {
        match self {
            Self::Committee { model, .. } | Self::Public { model, .. } => *model,
        }
    }
}

/// A committee member's commitment to its measurement of a round (R4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize)]
pub struct ScoreCommit {
    /// Model.
    pub model: ModelId,
    /// Round.
    pub round: u64,
    /// How often the round's scores had to be taken again, see [`crate::state::ScorePhase`].
    pub attempt: u32,
    /// [`score_commitment`] of what will be revealed.
    pub commitment: Digest,
}

/// Its opening (R4).
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct ScoreReveal {
    /// Attempt it was committed in.
    pub attempt: u32,
    /// What the member measured.
    pub outcome: Outcome,
    /// Random salt.
    pub salt: Digest,
}

/// R4: H(member, measured outcome, salt): nobody can copy what it cannot see, nor claim another's.
pub fn score_commitment(member: NodeId, outcome: &Outcome, salt: Digest) -> Digest {
    let mut h = blake3::Hasher::new_derive_key("oda 2026 score commitment");
    h.update(&member.0).update(&outcome.digest().0).update(&salt.0);
    Digest(*h.finalize().as_bytes())
}

/// A drawn member's step of a key generation (C2).
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct DkgMessage {
    /// Epoch whose key it is.
    pub epoch: u64,
    /// Attempt.
    pub attempt: u32,
    /// The step.
    pub step: DkgStep,
}

/// The steps of a key generation.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum DkgStep {
    /// Commitments to the dealt polynomials.
    Deal(Round1),
    /// Sealed shares for the others.
    Share(Round2),
    /// All shares received; those of these dealers were bad.
    Confirm(Vec<u16>),
    /// The answer to the complaint of a recipient.
    Open(u16, OpenedShares),
}

/// A sponsor's promise for one model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize)]
pub struct Fund {
    /// Model.
    pub model: ModelId,
    /// What a claim can earn; the unit that is proved is a micro-nat of mean loss.
    pub terms: Terms,
    /// Most that may be locked and paid in total, msat. A later promise may only raise it.
    pub budget_msat: u64,
}

/// The guests of a model (P8).
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize)]
pub struct Invite {
    /// Model.
    pub model: ModelId,
    /// How many such lists there are with this one.
    pub turn: u32,
    /// All of them, ascending; those of an earlier list that are not in this one are no guests any more.
    pub guests: Vec<NodeId>,
}

/// The answer to a storage challenge (D2), see [`crate::custody`].
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct StorageProof {
    /// Epoch whose draw asks.
    pub epoch: u64,
    /// The chunk with the hashes that lead to the blob's, at most [`crate::custody::MAX_SLICE_BYTES`].
    pub slice: Vec<u8>,
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
record!(SignedTx, b"sgtx", SignedTx::MAX_BYTES, |value| match &value.tx {
    Tx::AddModel(manifest) => codec::within(manifest),
    Tx::Outcome(outcome, _) => codec::within(outcome),
    Tx::ScoreReveal(reveal) => codec::within(&reveal.outcome),
    Tx::Handover(handover, _) => codec::within(handover),
    Tx::Deal(_, opening) => opening.deals.iter().try_for_each(codec::within),
    Tx::FalseDeal(.., shares) => shares.iter().try_for_each(codec::within),
    _ => Ok(()),
});

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
            Tx::Offer(..) => "offer",
            Tx::Choose(..) => "choose",
            Tx::Deal(..) => "deal",
            Tx::Reveal(_) => "reveal",
            Tx::Seal(..) => "seal",
            Tx::Score(_) => "score",
            Tx::ScoreReveal(_) => "score-reveal",
            Tx::Outcome(..) => "outcome",
            Tx::Settle(..) => "settle",
            Tx::Refund(..) => "refund",
            Tx::FalseDeal(..) => "false-deal",
            Tx::Draw(..) => "draw",
            Tx::Dkg(m) => match m.step {
                DkgStep::Deal(_) => "dkg-deal",
                DkgStep::Share(_) => "dkg-share",
                DkgStep::Confirm(_) => "dkg-confirm",
                DkgStep::Open(..) => "dkg-open",
            },
            Tx::Handover(..) => "handover",
            Tx::Checkpoint(..) => "checkpoint",
            Tx::Apply(_) => "apply",
            Tx::Membership(Membership::Admit { .. }, _) => "admit",
            Tx::Membership(Membership::Evict { .. }, _) => "evict",
            Tx::Leave => "leave",
            Tx::Evidence(_) => "evidence",
            Tx::Decoy(..) => "decoy",
            Tx::Unseal(Unseal::Committee { .. }) => "unseal",
            Tx::Unseal(Unseal::Public { .. }) => "unseal-public",
            Tx::Invite(..) => "invite",
            Tx::StorageProof(..) => "storage-proof",
        }
    }

    /// Names what may be said only once: two authentic transactions of one signer and one slot that
    /// differ are equivocation (C6).
    pub fn slot(&self) -> Option<Digest> {
        let (kind, subject, number, part) = match &self.tx {
            Tx::Score(s) => (0u8, s.model.0, s.round, u64::from(s.attempt)),
            Tx::ScoreReveal(r) => (1, r.outcome.model.0, r.outcome.round, u64::from(r.attempt)),
            Tx::Dkg(m) => {
                let (kind, part) = match &m.step {
                    DkgStep::Deal(_) => (2, 0),
                    DkgStep::Share(_) => (3, 0),
                    DkgStep::Confirm(_) => (4, 0),
                    DkgStep::Open(to, _) => (5, u64::from(*to)),
                };
                (kind, [0; 32], m.epoch, part << 32 | u64::from(m.attempt))
            }
            _ => return None,
        };
        let mut h = blake3::Hasher::new_derive_key("oda 2026 slot of a statement");
        h.update(&[kind]).update(&subject).update(&number.to_le_bytes()).update(&part.to_le_bytes());
        Some(Digest(*h.finalize().as_bytes()))
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
record!(Block, b"blck", Block::MAX_BYTES, |value| value.txs.iter().try_for_each(codec::within));

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
    /// Records in the ledger after the transactions.
    pub records: u64,
    /// Root of all of them, the state root (L4): see [`crate::records`].
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
