//! Signed messages between validators, and the write-ahead log's entries (K2).

use super::certificate::Evidence;
use super::ctx::{Block, Ctx, Height, MAX_BLOCK_BYTES, MAX_VALIDATORS};
use crate::ids::{BlockHash, ChainId, NodeId, Signature};
use crate::record;
use arc_malachitebft_core_consensus as tendermint;
use arc_malachitebft_core_types as mala;
use bincode::de::Decoder;
use bincode::enc::Encoder;
use bincode::error::{DecodeError, EncodeError};
use mala::{NilOrVal, Round, SignedMessage, Validity, Value as _, VoteType};

/// No honest validator gets here; keeps round arithmetic far from overflow.
const MAX_ROUND: u32 = 1 << 20;

/// Largest message or log entry, bytes: one block, or one vote of each validator.
pub const MAX_MESSAGE_BYTES: usize = MAX_BLOCK_BYTES + 1_024;
const _: () = assert!(MAX_VALIDATORS * 160 < MAX_MESSAGE_BYTES);

/// A vote, as signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vote {
    /// Prevote or precommit.
    pub kind: VoteType,
    /// Height voted on.
    pub height: Height,
    /// Round voted in.
    pub round: Round,
    /// For which block, or for none.
    pub block: NilOrVal<BlockHash>,
    /// Who votes.
    pub voter: NodeId,
}
record!(Vote, b"bftv", 128);

fn round(number: u32) -> Result<Round, DecodeError> {
    if number > MAX_ROUND {
        return Err(DecodeError::Other("round beyond the limit"));
    }
    Ok(Round::new(number))
}

fn number(round: Round) -> Result<u32, EncodeError> {
    round.as_u32().ok_or(EncodeError::Other("a signed message has a round"))
}

impl bincode::Encode for Vote {
    fn encode<E: Encoder>(&self, e: &mut E) -> Result<(), EncodeError> {
        let block = match self.block {
            NilOrVal::Nil => None,
            NilOrVal::Val(id) => Some(id),
        };
        (self.kind == VoteType::Precommit, self.height, number(self.round)?, block, self.voter).encode(e)
    }
}

impl<C> bincode::Decode<C> for Vote {
    fn decode<D: Decoder<Context = C>>(d: &mut D) -> Result<Self, DecodeError> {
        let (precommit, height, r, block, voter): (bool, Height, u32, Option<BlockHash>, NodeId) =
            bincode::Decode::decode(d)?;
        let kind = if precommit { VoteType::Precommit } else { VoteType::Prevote };
        Ok(Self { kind, height, round: round(r)?, block: block.map_or(NilOrVal::Nil, NilOrVal::Val), voter })
    }
}

bincode::impl_borrow_decode!(Vote);

impl mala::Vote<Ctx> for Vote {
    fn height(&self) -> Height {
        self.height
    }
    fn round(&self) -> Round {
        self.round
    }
    fn value(&self) -> &NilOrVal<BlockHash> {
        &self.block
    }
    fn take_value(self) -> NilOrVal<BlockHash> {
        self.block
    }
    fn vote_type(&self) -> VoteType {
        self.kind
    }
    fn validator_address(&self) -> &NodeId {
        &self.voter
    }
    fn extension(&self) -> Option<&mala::SignedExtension<Ctx>> {
        None
    }
    fn take_extension(&mut self) -> Option<mala::SignedExtension<Ctx>> {
        None
    }
    // Vote extensions are disabled, so Malachite never calls this.
    fn extend(self, _: mala::SignedExtension<Ctx>) -> Self {
        self
    }
}

/// A proposal with its whole block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    pub(super) height: Height,
    pub(super) round: Round,
    pub(super) pol: Round,
    pub(super) block: Block,
    pub(super) proposer: NodeId,
}

impl Proposal {
    pub(super) fn header(&self) -> ProposalHeader {
        ProposalHeader {
            height: self.height.0,
            round: self.round.as_u32().unwrap_or(0),
            pol_round: self.pol.as_u32(),
            block: self.block.id(),
            proposer: self.proposer,
        }
    }
}

impl mala::Proposal<Ctx> for Proposal {
    fn height(&self) -> Height {
        self.height
    }
    fn round(&self) -> Round {
        self.round
    }
    fn value(&self) -> &Block {
        &self.block
    }
    fn take_value(self) -> Block {
        self.block
    }
    fn pol_round(&self) -> Round {
        self.pol
    }
    fn validator_address(&self) -> &NodeId {
        &self.proposer
    }
}

/// What a proposer signs: the block by name, so that evidence against it stays small.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct ProposalHeader {
    /// Height proposed for.
    pub height: u64,
    /// Round proposed in.
    pub round: u32,
    /// Earlier round in which two thirds prevoted this block, if any.
    pub pol_round: Option<u32>,
    /// The block's name.
    pub block: BlockHash,
    /// Who proposes.
    pub proposer: NodeId,
}
record!(ProposalHeader, b"bftp", 128);

/// A vote with its signature.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct SignedVote {
    /// The vote.
    pub vote: Vote,
    /// The voter's signature over it.
    pub signature: Signature,
}

impl SignedVote {
    pub(super) fn is_authentic(&self, chain: ChainId) -> bool {
        self.vote.voter.verify(chain, &self.vote, &self.signature)
    }
    pub(super) fn of(signed: mala::SignedVote<Ctx>) -> Self {
        Self { vote: signed.message, signature: signed.signature }
    }
    pub(super) fn into_core(self) -> mala::SignedVote<Ctx> {
        SignedMessage::new(self.vote, self.signature)
    }
}

/// A proposal's header with its signature.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct SignedHeader {
    /// The header.
    pub header: ProposalHeader,
    /// The proposer's signature over it.
    pub signature: Signature,
}

impl SignedHeader {
    pub(super) fn is_authentic(&self, chain: ChainId) -> bool {
        self.header.proposer.verify(chain, &self.header, &self.signature)
    }
    pub(super) fn of(signed: &mala::SignedProposal<Ctx>) -> Self {
        Self { header: signed.message.header(), signature: signed.signature }
    }
}

/// What validators say to each other.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum Message {
    /// One vote.
    Vote(SignedVote),
    /// A proposal and its block.
    Proposal(SignedHeader, Vec<u8>),
    /// Prevotes of two thirds for one block.
    Polka(Vec<SignedVote>),
    /// Votes that justify entering a round: precommits of two thirds, or any of one third.
    Round {
        /// Whether they are one third's votes of the round entered.
        skip: bool,
        /// The votes.
        votes: Vec<SignedVote>,
    },
}
record!(Message, b"bftm", MAX_MESSAGE_BYTES);

impl Message {
    /// Height it is about; `None` for an empty certificate.
    pub fn height(&self) -> Option<u64> {
        match self {
            Self::Vote(v) => Some(v.vote.height.0),
            Self::Proposal(h, _) => Some(h.header.height),
            Self::Polka(votes) | Self::Round { votes, .. } => votes.first().map(|v| v.vote.height.0),
        }
    }

    /// Whether it is a vote or proposal signed by one of these validators: what a node that does not
    /// vote itself may pass on. Certificates are not, they are sent again by those who need them.
    pub fn is_of(&self, chain: ChainId, validators: &[NodeId]) -> bool {
        match self {
            Self::Vote(v) => validators.contains(&v.vote.voter) && v.is_authentic(chain),
            Self::Proposal(h, _) => validators.contains(&h.header.proposer) && h.is_authentic(chain),
            Self::Polka(_) | Self::Round { .. } => false,
        }
    }

    pub(super) fn of_proposal(signed: &mala::SignedProposal<Ctx>) -> Self {
        Self::Proposal(SignedHeader::of(signed), signed.message.block.bytes())
    }

    pub(super) fn of_polka(certificate: &mala::PolkaCertificate<Ctx>) -> Self {
        Self::Polka(certificate.votes(&Ctx).map(SignedVote::of).collect())
    }

    pub(super) fn of_round(certificate: &mala::RoundCertificate<Ctx>) -> Self {
        Self::Round {
            skip: certificate.cert_type == mala::RoundCertificateType::Skip,
            votes: certificate.votes(&Ctx).map(SignedVote::of).collect(),
        }
    }

    /// The engine's input, if the message is well formed.
    pub(super) fn into_input(self) -> Result<tendermint::Input<Ctx>, &'static str> {
        Ok(match self {
            Self::Vote(vote) => tendermint::Input::Vote(vote.into_core()),
            Self::Proposal(SignedHeader { header, signature }, bytes) => {
                if bytes.len() > MAX_BLOCK_BYTES {
                    return Err("the block is larger than the limit");
                }
                if header.round > MAX_ROUND || header.pol_round.is_some_and(|r| r >= header.round) {
                    return Err("the proposal's rounds are out of order");
                }
                let block = Block::new(bytes);
                if block.id() != header.block {
                    return Err("the block is not the one the proposer signed");
                }
                let proposal = Proposal {
                    height: Height(header.height),
                    round: Round::new(header.round),
                    pol: header.pol_round.into(),
                    block,
                    proposer: header.proposer,
                };
                tendermint::Input::Proposal(SignedMessage::new(proposal, signature))
            }
            Self::Polka(votes) => {
                let Vote { height, round, block, .. } = uniform(&votes)?;
                let NilOrVal::Val(id) = block else { return Err("a polka is for a block") };
                if votes.iter().any(|v| v.vote.kind != VoteType::Prevote || v.vote.block != block) {
                    return Err("a polka is prevotes for one block");
                }
                let votes = votes.into_iter().map(SignedVote::into_core).collect();
                tendermint::Input::PolkaCertificate(mala::PolkaCertificate::new(height, round, id, votes))
            }
            Self::Round { skip, votes } => {
                use mala::RoundCertificateType::{Precommit, Skip};
                let Vote { height, round, .. } = uniform(&votes)?;
                let votes = votes.into_iter().map(SignedVote::into_core).collect();
                let kind = if skip { Skip } else { Precommit };
                tendermint::Input::RoundCertificate(mala::RoundCertificate::new_from_votes(height, round, kind, votes))
            }
        })
    }
}

/// The first vote, if all are of its height and round and there are not too many.
fn uniform(votes: &[SignedVote]) -> Result<Vote, &'static str> {
    let first = votes.first().ok_or("an empty certificate")?.vote.clone();
    if votes.len() > MAX_VALIDATORS {
        return Err("more votes than validators allowed");
    }
    if votes.iter().any(|v| v.vote.height != first.height || v.vote.round != first.round) {
        return Err("votes of different heights or rounds");
    }
    Ok(first)
}

/// Which wait a timer measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, bincode::Encode, bincode::Decode)]
pub enum Step {
    /// For a proposal.
    Propose,
    /// For prevotes.
    Prevote,
    /// For precommits.
    Precommit,
    /// Until votes are sent again.
    Rebroadcast,
}

impl Step {
    pub(super) fn of(kind: mala::TimeoutKind) -> Option<Self> {
        match kind {
            mala::TimeoutKind::Propose => Some(Self::Propose),
            mala::TimeoutKind::Prevote => Some(Self::Prevote),
            mala::TimeoutKind::Precommit => Some(Self::Precommit),
            mala::TimeoutKind::Rebroadcast => Some(Self::Rebroadcast),
            mala::TimeoutKind::FinalizeHeight(_) => None,
        }
    }

    pub(super) fn timeout(self, round: u32) -> mala::Timeout {
        let kind = match self {
            Self::Propose => mala::TimeoutKind::Propose,
            Self::Prevote => mala::TimeoutKind::Prevote,
            Self::Precommit => mala::TimeoutKind::Precommit,
            Self::Rebroadcast => mala::TimeoutKind::Rebroadcast,
        };
        mala::Timeout::new(Round::new(round), kind)
    }
}

/// One entry of the write-ahead log: an input that moved the engine.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub(super) enum WalEntry {
    Message(Message),
    Verdict { height: u64, round: u32, pol_round: Option<u32>, proposer: NodeId, block: Vec<u8>, valid: bool },
    Timeout { round: u32, step: Step },
}
record!(WalEntry, b"bftw", MAX_MESSAGE_BYTES);

impl WalEntry {
    /// `None` for inputs the engine never asks to log.
    pub(super) fn of(input: &tendermint::Input<Ctx>) -> Option<Self> {
        Some(match input {
            tendermint::Input::Vote(vote) => Self::Message(Message::Vote(SignedVote::of(vote.clone()))),
            tendermint::Input::Proposal(proposal) => Self::Message(Message::of_proposal(proposal)),
            tendermint::Input::PolkaCertificate(polka) => Self::Message(Message::of_polka(polka)),
            tendermint::Input::ProposedValue(v, _) => Self::Verdict {
                height: v.height.0,
                round: v.round.as_u32()?,
                pol_round: v.valid_round.as_u32(),
                proposer: v.proposer,
                block: v.value.bytes(),
                valid: v.validity.is_valid(),
            },
            tendermint::Input::TimeoutElapsed(t) => Self::Timeout { round: t.round.as_u32()?, step: Step::of(t.kind)? },
            _ => return None,
        })
    }

    pub(super) fn into_input(self) -> Result<tendermint::Input<Ctx>, &'static str> {
        Ok(match self {
            Self::Message(message) => message.into_input()?,
            Self::Verdict { height, round, pol_round, proposer, block, valid } => tendermint::Input::ProposedValue(
                tendermint::ProposedValue {
                    height: Height(height),
                    round: Round::new(round),
                    valid_round: pol_round.into(),
                    proposer,
                    value: Block::new(block),
                    validity: Validity::from_bool(valid),
                },
                mala::ValueOrigin::Consensus,
            ),
            Self::Timeout { round, step } => tendermint::Input::TimeoutElapsed(step.timeout(round)),
        })
    }
}

impl Evidence {
    pub(super) fn of_votes((a, b): mala::DoubleVote<Ctx>) -> Self {
        Self::Votes(SignedVote::of(a), SignedVote::of(b))
    }
    pub(super) fn of_proposals((a, b): &mala::DoubleProposal<Ctx>) -> Self {
        Self::Proposals(SignedHeader::of(a), SignedHeader::of(b))
    }
}
