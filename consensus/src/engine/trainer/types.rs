//! What a trainer remembers, is told, and asks to be done.

use crate::epoch::HandoverLink;
use crate::escrow::{Terms, TrancheSet};
use crate::frost::{Deal, ReleaseShare};
use crate::ids::{Beacon, BlobRef, ClaimId, Digest, EscrowId, ModelId, NodeId, PaymentHash, Preimage};
use crate::manifest::Manifest;
use crate::record;
use crate::tx::Tx;
use crate::wire::{ClaimView, ModelView};
use serde::{Deserialize, Serialize};

/// Figures of a trainer.
#[derive(Clone, Copy, Debug)]
pub struct TrainerConfig {
    /// Blocks of the Bitcoin chain the hold must last at least, when the payment arrives (P3).
    pub min_hold_blocks: u32,
    /// Blocks asked for in the hold invoice.
    pub hold_blocks: u32,
    /// Fails a payment back when its deadline is this close and no preimage came.
    pub safety_blocks: u32,
    /// Pause before an unanswered step is repeated, ms.
    pub retry_ms: u64,
    /// Most claims with open payments at once; no new work is taken above (P8).
    pub max_open: usize,
}

impl Default for TrainerConfig {
    fn default() -> Self {
        Self { min_hold_blocks: 100, hold_blocks: 288, safety_blocks: 12, retry_ms: 700, max_open: 32 }
    }
}

/// Where a claim stands with its trainer.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, bincode::Encode, bincode::Decode, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Committing; waiting for the sponsor's offer.
    Committed,
    /// An offer is confirmed by a threshold of members, and the draw made; waiting for the deal (P2).
    Chosen,
    /// A deal is confirmed by a threshold of members; the invoices are due.
    Dealt,
    /// The invoices are with the sponsor; waiting for the HTLCs.
    Invoiced,
    /// Every HTLC is held: the lock (P3). Revealing, then waiting for the verdict.
    Held,
    /// The preimages of what was earned are known: claiming these HTLCs, failing the others back.
    Claiming,
    /// Lightning says received: the receipts go to the ledger.
    Received,
    /// Rejected or out of time: the HTLCs go back.
    Failing,
    /// Over: paid.
    Paid,
    /// Over: not paid.
    Void,
}

impl Phase {
    /// Whether nothing more is to be done.
    pub fn is_over(self) -> bool {
        matches!(self, Phase::Paid | Phase::Void)
    }
}

/// The draw of a claim's tranches (P2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Choice {
    /// Hash of the offer it was made for. Another offer gets another draw: a payer that knew the draw
    /// beforehand could make its false candidate one that is kept.
    pub offer: Digest,
    /// The draw.
    pub seed: Digest,
}

/// What became of one tranche on Lightning.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum PartEnd {
    /// Not over.
    Open,
    /// The preimage is known: claiming it.
    Earned(Preimage),
    /// Lightning says received.
    Received(Preimage),
    /// These shares rebuild something else than the preimage: the payer cheated (P2).
    False(Vec<ReleaseShare>),
    /// The hold ended before Lightning said received.
    Expired,
}

/// One tranche as the trainer knows it.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Part {
    /// Amount, msat.
    pub amount_msat: u64,
    /// SHA-256 of the preimage.
    pub payment_hash: PaymentHash,
    /// The deal, to check and combine shares.
    pub deal: Deal,
    /// The hold invoice.
    pub bolt11: Option<String>,
    /// Bitcoin height at which the HTLC must be claimed, once it is held.
    pub claim_deadline_height: Option<u32>,
    /// What became of it.
    pub end: PartEnd,
}

/// The payment of a claim as the trainer knows it.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Payment {
    /// Its escrow.
    pub escrow: EscrowId,
    /// Who pays.
    pub payer: NodeId,
    /// What can be earned.
    pub terms: Terms,
    /// Epoch of the committee that holds the shares.
    pub epoch: u64,
    /// Its tranches, largest first.
    pub parts: Vec<Part>,
    /// Those the attested outcome releases.
    pub earned: Option<TrancheSet>,
}

impl Payment {
    pub(super) fn is_earned(&self, tranche: usize) -> bool {
        self.earned.is_some_and(|e| e.contains(tranche))
    }

    /// The first height at which a held HTLC is lost.
    pub(super) fn deadline(&self) -> Option<u32> {
        self.parts.iter().filter_map(|p| p.claim_deadline_height).min()
    }

    /// Holds of tranches that are not ours: those not earned (P5), and those whose preimage was dealt falsely (P2).
    pub(super) fn given_back(&self) -> impl Iterator<Item = PaymentHash> {
        let not_ours = |(i, p): &(usize, &Part)| match p.end {
            PartEnd::Open => !self.is_earned(*i),
            PartEnd::False(_) => true,
            PartEnd::Earned(_) | PartEnd::Received(_) | PartEnd::Expired => false,
        };
        self.parts.iter().enumerate().filter(not_ours).map(|(_, p)| p.payment_hash)
    }

    pub(super) fn with(&self, wanted: impl Fn(&PartEnd) -> bool) -> TrancheSet {
        self.parts.iter().enumerate().filter(|(_, p)| wanted(&p.end)).map(|(i, _)| i).collect()
    }

    pub(super) fn receipts(&self) -> Vec<Preimage> {
        let received = |p: &Part| if let PartEnd::Received(preimage) = p.end { Some(preimage) } else { None };
        self.parts.iter().filter_map(received).collect()
    }
}

/// All a trainer must remember of a claim.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct ClaimRecord {
    /// The claim.
    pub claim: ClaimId,
    /// Model.
    pub model: ModelId,
    /// Round.
    pub round: u64,
    /// Head it was made against.
    pub parent: BlobRef,
    /// The delta, in the blob store before this record exists.
    pub delta: BlobRef,
    /// Stated gain, micro-nats.
    pub stated_gain_unat: i64,
    /// Salt of the commitment.
    pub salt: Digest,
    /// Where it stands.
    pub phase: Phase,
    /// The draw.
    pub choice: Option<Choice>,
    /// Its payment.
    pub payment: Option<Payment>,
}
record!(ClaimRecord, b"clrc", 128 << 10);

/// A piece of training work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrainJob {
    /// Model.
    pub model: ModelId,
    /// Its manifest.
    pub manifest: Manifest,
    /// Round.
    pub round: u64,
    /// Head to start from.
    pub head: BlobRef,
    /// Beacon of the shard (S3).
    pub start: Beacon,
}

/// What happened.
#[derive(Debug)]
pub enum TrainerInput {
    /// Time passed.
    Tick {
        /// Clock, ms.
        now_ms: u64,
        /// Height of the Bitcoin chain.
        chain_height: u32,
    },
    /// A peer told of the keys of later epochs.
    Epochs(Vec<HandoverLink>),
    /// A peer told of a model.
    Model(Box<ModelView>),
    /// A peer told of one of our claims.
    Claim {
        /// The peer.
        from: NodeId,
        /// Its view.
        view: Box<ClaimView>,
    },
    /// Training finished; the delta is in the blob store.
    Trained {
        /// Model.
        model: ModelId,
        /// Round.
        round: u64,
        /// The delta.
        delta: BlobRef,
        /// Gain measured by the trainer itself, micro-nats of mean loss.
        stated_gain_unat: i64,
    },
    /// Training could not be done.
    TrainFailed {
        /// Model.
        model: ModelId,
        /// Round.
        round: u64,
    },
    /// The wallet made the invoice of a tranche.
    InvoiceMade {
        /// Claim.
        claim: ClaimId,
        /// Tranche.
        tranche: u8,
        /// BOLT 11.
        bolt11: String,
    },
    /// The wallet sees an HTLC held for us.
    Held {
        /// Payment hash.
        payment_hash: PaymentHash,
        /// Amount, msat.
        amount_msat: u64,
        /// Bitcoin height at which it must be claimed.
        claim_deadline_height: u32,
    },
    /// The wallet says the payment is ours.
    Received {
        /// Payment hash.
        payment_hash: PaymentHash,
    },
    /// A member sent its shares, by tranche.
    Shares {
        /// Escrow.
        escrow: EscrowId,
        /// The shares.
        shares: Vec<(u8, ReleaseShare)>,
    },
}

/// What to do, in order.
#[derive(Debug, PartialEq)]
pub enum TrainerEffect {
    /// Store the record, synced, before any later effect (P6).
    Persist(Box<ClaimRecord>),
    /// Fetch the head and train.
    Train(Box<TrainJob>),
    /// Put a transaction before the network.
    Submit(Tx),
    /// Ask for the signed keys of the epochs after this one.
    AskEpochs(u64),
    /// Ask the committee for a claim.
    AskClaim(ClaimId),
    /// Make a hold invoice (P3).
    MakeInvoice {
        /// Claim.
        claim: ClaimId,
        /// Tranche.
        tranche: u8,
        /// Hash dealt by the sponsor.
        payment_hash: PaymentHash,
        /// Amount, msat.
        amount_msat: u64,
        /// Blocks the hold must last.
        hold_blocks: u32,
    },
    /// Send the invoice of a tranche to the payer.
    SendInvoice {
        /// Payer.
        to: NodeId,
        /// Escrow.
        escrow: EscrowId,
        /// Tranche.
        tranche: u8,
        /// BOLT 11.
        bolt11: String,
    },
    /// Ask the members of a committee for their shares of what is released (P4).
    AskShares(EscrowId, NodeId),
    /// Claim the held HTLC.
    ClaimHtlc {
        /// Payment hash.
        payment_hash: PaymentHash,
        /// Its preimage.
        preimage: Preimage,
        /// Amount, msat.
        amount_msat: u64,
    },
    /// Fail the held HTLC back.
    FailHtlc(PaymentHash),
    /// A claim changed phase or was judged, for people.
    Report {
        /// Claim.
        claim: ClaimId,
        /// Round.
        round: u64,
        /// New phase.
        phase: Phase,
        /// Why, if there is more to say.
        note: String,
    },
}
