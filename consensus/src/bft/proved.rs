//! Which votes and proposals were found authentic already.
//!
//! One vote comes by many ways: early and kept for its height, by itself, repeated, in a certificate. Checking its
//! signature each time was a third of a validator's work. What is remembered is the whole signed message, so that
//! another message in the same place, or the same with another signature, is checked anew.

use super::ctx::MAX_VALIDATORS;
use super::wire::{SignedHeader, SignedVote};
use crate::ids::{ChainId, NodeId};
use arc_malachitebft_core_types::VoteType;
use std::collections::BTreeMap;

/// Votes remembered, and as many proposals; what comes after is checked each time.
const MAX_PROVED: usize = 16 * MAX_VALIDATORS;

/// Height, round, signer.
type Place = (u64, i64, NodeId);

#[derive(Default)]
pub(super) struct Proved {
    prevotes: BTreeMap<Place, SignedVote>,
    precommits: BTreeMap<Place, SignedVote>,
    proposals: BTreeMap<Place, SignedHeader>,
}

/// One message a place, the first: whoever signs two in one place has only itself checked twice.
fn remembered<T: PartialEq + Clone>(
    known: &mut BTreeMap<Place, T>,
    place: Place,
    signed: &T,
    holds: impl FnOnce() -> bool,
) -> bool {
    if known.get(&place) == Some(signed) {
        return true;
    }
    let holds = holds();
    if holds && known.len() < MAX_PROVED {
        known.entry(place).or_insert_with(|| signed.clone());
    }
    holds
}

impl Proved {
    pub fn vote(&mut self, chain: ChainId, signed: &SignedVote) -> bool {
        let v = &signed.vote;
        let known = match v.kind {
            VoteType::Prevote => &mut self.prevotes,
            VoteType::Precommit => &mut self.precommits,
        };
        remembered(known, (v.height.0, v.round.as_i64(), v.voter), signed, || signed.is_authentic(chain))
    }

    pub fn proposal(&mut self, chain: ChainId, signed: &SignedHeader) -> bool {
        let h = &signed.header;
        let place = (h.height, i64::from(h.round), h.proposer);
        remembered(&mut self.proposals, place, signed, || signed.is_authentic(chain))
    }

    /// Forgets what lies below a height.
    pub fn forget_below(&mut self, height: u64) {
        self.prevotes.retain(|(at, ..), _| *at >= height);
        self.precommits.retain(|(at, ..), _| *at >= height);
        self.proposals.retain(|(at, ..), _| *at >= height);
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::Vote;
    use super::super::{Height, ProposalHeader};
    use super::*;
    use crate::ids::{BlockHash, Signature};
    use crate::keys::NodeKey;
    use arc_malachitebft_core_types::{NilOrVal, Round};

    const CHAIN: ChainId = ChainId([9; 32]);

    fn vote(key: &NodeKey, height: u64, block: u8) -> SignedVote {
        let (kind, block) = (VoteType::Prevote, NilOrVal::Val(BlockHash([block; 32])));
        let vote = Vote { kind, height: Height(height), round: Round::new(0), block, voter: key.id() };
        SignedVote { signature: key.sign(CHAIN, &vote), vote }
    }

    #[test] // L1
    fn a_remembered_place_vouches_for_nothing_but_the_same_message() {
        let (key, other) = (NodeKey::from_secret(&[1; 32]), NodeKey::from_secret(&[2; 32]));
        let (good, mut proved) = (vote(&key, 5, 1), Proved::default());
        assert!(proved.vote(CHAIN, &good) && proved.vote(CHAIN, &good));
        let changed = SignedVote { vote: vote(&key, 5, 2).vote, ..good.clone() };
        assert!(!proved.vote(CHAIN, &changed), "another block, the signature of the first");
        let unsigned = SignedVote { signature: Signature([0; 64]), ..good.clone() };
        assert!(!proved.vote(CHAIN, &unsigned), "the same vote, another signature");
        let foreign = SignedVote { signature: other.sign(CHAIN, &good.vote), ..good.clone() };
        assert!(!proved.vote(CHAIN, &foreign));
        let precommit = SignedVote { vote: Vote { kind: VoteType::Precommit, ..good.vote }, ..good };
        assert!(!proved.vote(CHAIN, &precommit), "a prevote's signature, as a precommit");
        assert!(proved.vote(CHAIN, &vote(&key, 5, 2)), "an equivocation is authentic, and evidence");

        let header = |block: u8| ProposalHeader {
            height: 5,
            round: 0,
            pol_round: None,
            block: BlockHash([block; 32]),
            proposer: key.id(),
        };
        let good = SignedHeader { signature: key.sign(CHAIN, &header(1)), header: header(1) };
        assert!(proved.proposal(CHAIN, &good));
        assert!(!proved.proposal(CHAIN, &SignedHeader { header: header(2), ..good }));
    }

    #[test]
    fn it_stays_bounded_and_forgets() {
        let (key, mut proved) = (NodeKey::from_secret(&[1; 32]), Proved::default());
        for height in 0..MAX_PROVED as u64 + 3 {
            assert!(proved.vote(CHAIN, &vote(&key, height, 1)));
        }
        assert_eq!(proved.prevotes.len(), MAX_PROVED);
        proved.forget_below(MAX_PROVED as u64 - 1);
        assert_eq!(proved.prevotes.len(), 1);
    }
}
