//! Proof that a validator broke the rules, which anyone can submit and the ledger judges (C6).
//!
//! Every kind carries the culprit's own signature over what convicts it, so nobody can be framed
//! (attack 12). What the ledger sees by itself (a false score, a bad share it was asked to open, a
//! missed step) needs no evidence and is booked where it happens.

use crate::bft;
use crate::codec;
use crate::frost::ShareEvidence;
use crate::ids::{ChainId, NodeId, Signature};
use crate::state::State;
use crate::tx::{DkgStep, SignedTx, Tx};
use crate::wire::{CommitteeEnvelope, CommitteeMessage};

/// Largest transaction or signed statement inside an evidence, bytes.
const MAX_INNER_BYTES: usize = 28 << 10;

/// Proof against one validator.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum Evidence {
    /// Two conflicting votes or proposals.
    Bft(Box<bft::Evidence>),
    /// Two different transactions where only one may be signed: scores, steps of a key generation.
    /// Codec bytes of two [`SignedTx`].
    Twice(Vec<u8>, Vec<u8>),
    /// A first-round package without proof of knowledge, or opened shares that do not fit what was dealt. Codec bytes of
    /// the [`SignedTx`].
    BadDeal(Vec<u8>),
    /// An invalid signature share.
    Share {
        /// Epoch of the key.
        epoch: u64,
        /// What it was asked to sign, and its answer.
        share: Box<ShareEvidence>,
        /// Its signature over the envelope of that answer.
        signature: Signature,
    },
}

/// What a validator is convicted of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, bincode::Encode, bincode::Decode, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Offence {
    /// Two votes or proposals for one step.
    EquivocatedVotes,
    /// Two different statements in one slot.
    EquivocatedStatements,
    /// A key generation package that cannot be honest.
    BadDkgPackage,
    /// A signature share that cannot be honest.
    BadSignatureShare,
    /// Scores that a threshold of members proved wrong.
    FalseScores,
    /// The committee's decision.
    Decision,
}

fn authentic(bytes: &[u8], chain: ChainId) -> Option<SignedTx> {
    let tx: SignedTx = if bytes.len() > MAX_INNER_BYTES { None } else { codec::decode(bytes).ok() }?;
    tx.is_authentic(chain).then_some(tx)
}

impl Evidence {
    /// Whom it convicts, and of what; `None` if it proves nothing.
    pub fn culprit(&self, state: &State) -> Option<(NodeId, Offence)> {
        let chain = state.chain();
        match self {
            Self::Bft(e) => e.culprit(chain).map(|node| (node, Offence::EquivocatedVotes)),
            Self::Twice(a, b) => {
                let (a, b) = (authentic(a, chain)?, authentic(b, chain)?);
                let conflict = a.signer == b.signer && a.slot().is_some() && a.slot() == b.slot() && a.tx != b.tx;
                conflict.then_some((a.signer, Offence::EquivocatedStatements))
            }
            Self::BadDeal(bytes) => {
                let tx = authentic(bytes, chain)?;
                let Tx::Dkg(message) = &tx.tx else { return None };
                let dkg = state.dkg().filter(|d| (d.epoch, d.attempt) == (message.epoch, message.attempt))?;
                let index = dkg.members.iter().position(|m| *m == tx.signer)?;
                let honest = match &message.step {
                    DkgStep::Deal(round1) => round1.check(index, dkg.members.len()),
                    // what it opens follows from the seed it dealt with, whoever asked and whether anybody did
                    DkgStep::Open(recipient, shares) => state
                        .transcript(dkg.epoch, dkg.attempt, &dkg.members)
                        .is_none_or(|t| t.fits(index, usize::from(*recipient), shares)),
                    DkgStep::Share(_) | DkgStep::Confirm(_) => true,
                };
                (!honest).then_some((tx.signer, Offence::BadDkgPackage))
            }
            Self::Share { epoch, share, signature } => {
                let group = &state.epoch_state(*epoch)?.group;
                let from = share.node(group)?;
                let message = CommitteeMessage::Sign(share.message()?);
                let envelope = CommitteeEnvelope { from, epoch: *epoch, message };
                let convicts = from.verify(chain, &envelope, signature) && share.proves(group);
                convicts.then_some((from, Offence::BadSignatureShare))
            }
        }
    }

    /// Whether it fits into a transaction.
    pub fn fits(&self) -> bool {
        match self {
            Self::Bft(_) => true,
            Self::Twice(a, b) => a.len().max(b.len()) <= MAX_INNER_BYTES,
            Self::BadDeal(a) => a.len() <= MAX_INNER_BYTES,
            Self::Share { share, .. } => share.payload.len() <= MAX_INNER_BYTES,
        }
    }
}
