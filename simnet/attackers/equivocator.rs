//! Says two things where one is allowed: two votes, two proposals, two commitments to scores.
//!
//! Two halves of a committee that saw different votes could decide different blocks, and money could be spent on both.
//! With f of 3f + 1 members no two blocks get a quorum, and gossip brings both statements to everybody.

use super::{Attacker, Desk, Kind, Role};
use crate::sim::{Addr, Msg, Out};
use arc_malachitebft_core_types::NilOrVal;
use oda_consensus::bft::{Message, ProposalHeader, SignedHeader, SignedVote, Vote, block_id};
use oda_consensus::codec;
use oda_consensus::ids::{BlockHash, Digest};
use oda_consensus::tx::{Block, ScoreCommit, Tx};
use std::rc::Rc;

pub(super) const KIND: Kind = Kind {
    name: "equivocator",
    rows: &[16],
    role: Role::Validator,
    names: 1,
    goal: "split the network into two ledgers, or choose its scores after others opened theirs",
    gain: "the same money twice",
    stopped_by: "L1: a block needs more than two thirds; C6: the two statements, both signed, evict whoever made them",
    left: "nothing: one pair of statements is enough",
    make: || Box::new(Equivocator),
};

struct Equivocator;

/// The other vote or proposal.
fn other(desk: &Desk<'_>, message: &Message) -> Option<Message> {
    match message {
        Message::Vote(SignedVote { vote, .. }) => {
            let block = match vote.block {
                NilOrVal::Nil => NilOrVal::Val(BlockHash([7; 32])),
                NilOrVal::Val(_) => NilOrVal::Nil,
            };
            let vote = Vote { block, ..vote.clone() };
            Some(Message::Vote(SignedVote { signature: desk.key.sign(desk.chain, &vote), vote }))
        }
        Message::Proposal(SignedHeader { header, .. }, bytes) => {
            let mut block: Block = codec::decode(bytes).ok()?;
            block.header.time_ms += 1;
            let bytes = codec::encode(&block);
            let header = ProposalHeader { block: block_id(&bytes), ..header.clone() };
            Some(Message::Proposal(SignedHeader { signature: desk.key.sign(desk.chain, &header), header }, bytes))
        }
        Message::Polka(_) | Message::Round { .. } => None,
    }
}

impl Attacker for Equivocator {
    fn out(&mut self, desk: &mut Desk<'_>, out: Out) -> Vec<Out> {
        if let Some(tx) = desk.own_tx(&out)
            && let Tx::Score(commit) = tx.tx
            && desk.tries(500)
        {
            let second = ScoreCommit { commitment: Digest([1; 32]), ..commit };
            return vec![out, Out::Tx(desk.signed(Tx::Score(second)))];
        }
        let Out::Bft(bytes) = &out else { return vec![out] };
        let Ok(message) = codec::decode::<Message>(bytes) else { return vec![out] };
        let own = match &message {
            Message::Vote(v) => v.vote.voter == desk.me,
            Message::Proposal(h, _) => h.header.proposer == desk.me,
            Message::Polka(_) | Message::Round { .. } => false,
        };
        let Some(second) = other(desk, &message).filter(|_| own && desk.tries(100)) else { return vec![out] };
        // one half hears the one first, the other half the other; gossip then carries both to everybody
        let said = [Rc::new(bytes.clone()), Rc::new(codec::encode(&second))];
        let mut out = Vec::new();
        let fulls: Vec<Addr> = desk.state.validators().iter().filter_map(|m| desk.names.get(m).copied()).collect();
        for (i, to) in fulls.into_iter().filter(|to| *to != desk.addr).enumerate() {
            for turn in [i % 2, (i + 1) % 2] {
                out.extend(said.get(turn).map(|bytes| Out::Raw(Some(to), Msg::Bft(bytes.clone()))));
            }
        }
        out
    }
}
