//! What anybody can check without having been there: a block was decided, or a validator lied.

use super::ctx::{Height, MAX_VALIDATORS};
use super::wire::{SignedHeader, SignedVote, Vote};
use crate::ids::{BlockHash, ChainId, NodeId, Signature};
use crate::record;
use arc_malachitebft_core_types::{NilOrVal, Round, VoteType};
use std::collections::BTreeSet;

/// Precommits of more than two thirds of the validators for one block.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct CommitCertificate {
    /// Height decided.
    pub height: u64,
    /// Round it was decided in.
    pub round: u32,
    /// The block's name, [`block_id`](super::block_id) of its bytes.
    pub block: BlockHash,
    /// Who precommitted, with the signatures.
    pub signatures: Vec<(NodeId, Signature)>,
}
record!(CommitCertificate, b"bftc", 128 + MAX_VALIDATORS * 96);

/// Why signatures prove nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Signed by somebody who has no vote.
    #[error("{0} is no validator of this height")]
    Foreign(NodeId),
    /// One validator counted twice.
    #[error("{0} signed more than once")]
    Duplicate(NodeId),
    /// A signature over something else.
    #[error("the signature of {0} is not over this vote")]
    BadSignature(NodeId),
    /// A vote of the wrong kind.
    #[error("{0} prevoted where a precommit is needed")]
    WrongKind(NodeId),
    /// Too few.
    #[error("{signed} of {validators} validators signed: fewer than needed")]
    TooFew {
        /// Distinct signers.
        signed: usize,
        /// Validators in all.
        validators: usize,
    },
}

/// How many must have signed.
#[derive(Clone, Copy)]
pub(super) enum Needed {
    /// More than two thirds.
    Quorum,
    /// More than one third: at least one is honest.
    OneHonest,
}

/// Whether distinct validators, and enough of them, signed these votes; `authentic` looks at a signature.
pub(super) fn verify_votes(
    validators: &BTreeSet<NodeId>,
    votes: impl Iterator<Item = SignedVote>,
    needed: Needed,
    mut authentic: impl FnMut(&SignedVote) -> bool,
) -> Result<(), CertificateError> {
    let mut signed = BTreeSet::new();
    for vote in votes {
        let voter = vote.vote.voter;
        if !validators.contains(&voter) {
            return Err(CertificateError::Foreign(voter));
        }
        if !signed.insert(voter) {
            return Err(CertificateError::Duplicate(voter));
        }
        if !authentic(&vote) {
            return Err(CertificateError::BadSignature(voter));
        }
    }
    let enough = match needed {
        Needed::Quorum => signed.len() * 3 > validators.len() * 2,
        Needed::OneHonest => signed.len() * 3 > validators.len(),
    };
    if enough { Ok(()) } else { Err(CertificateError::TooFew { signed: signed.len(), validators: validators.len() }) }
}

/// Whether the certificate proves that its block was decided at its height by these validators (L1).
///
/// # Errors
/// [`CertificateError`] naming whom to blame; one bad signature refuses the whole certificate.
pub fn verify_certificate(
    chain: ChainId,
    validators: &[NodeId],
    certificate: &CommitCertificate,
) -> Result<(), CertificateError> {
    let votes = certificate.signatures.iter().map(|&(voter, signature)| SignedVote {
        vote: Vote {
            kind: VoteType::Precommit,
            height: Height(certificate.height),
            round: Round::new(certificate.round),
            block: NilOrVal::Val(certificate.block),
            voter,
        },
        signature,
    });
    let authentic = |vote: &SignedVote| vote.is_authentic(chain);
    verify_votes(&validators.iter().copied().collect(), votes, Needed::Quorum, authentic)
}

/// Two messages an honest validator never signs both.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum Evidence {
    /// Two votes of one kind, height and round for different blocks.
    Votes(SignedVote, SignedVote),
    /// Two proposals for one height and round.
    Proposals(SignedHeader, SignedHeader),
}
record!(Evidence, b"bfte", 1_024);

impl Evidence {
    /// Whom it convicts; `None` if it proves nothing.
    pub fn culprit(&self, chain: ChainId) -> Option<NodeId> {
        match self {
            Self::Votes(a, b) => {
                let (x, y) = (&a.vote, &b.vote);
                let conflict =
                    (x.kind, x.height, x.round, x.voter) == (y.kind, y.height, y.round, y.voter) && x.block != y.block;
                (conflict && a.is_authentic(chain) && b.is_authentic(chain)).then_some(x.voter)
            }
            Self::Proposals(a, b) => {
                let (x, y) = (&a.header, &b.header);
                let conflict = (x.height, x.round, x.proposer) == (y.height, y.round, y.proposer) && x != y;
                (conflict && a.is_authentic(chain) && b.is_authentic(chain)).then_some(x.proposer)
            }
        }
    }
}
