//! Votes in the name of others, of strangers, and of another chain.

use super::attack::{Attacker, Kind, Me, SIZES, Sending, four, one, say, signed};
use super::net::{CHAIN, Sim, key};
use arc_malachitebft_core_types::{NilOrVal, VoteType};
use oda_consensus::bft::*;
use oda_consensus::ids::{BlockHash, ChainId, NodeId};
use rand_core::RngCore;

/// A network on which the same validators validate with the same keys.
const OTHER_CHAIN: ChainId = ChainId([8; 32]);

struct Impersonator;

pub const IMPERSONATOR: Kind = Some(|| Box::new(Impersonator));

fn claim(kind: VoteType, height: u64, round: u32, block: Option<BlockHash>, voter: NodeId) -> Vote {
    let block = block.map_or(NilOrVal::Nil, NilOrVal::Val);
    Vote { kind, height: Height(height), round: round.into(), block, voter }
}

fn propose(chain: ChainId, signer: usize, name: NodeId, height: u64, round: u32) -> Message {
    let block = format!("{height} by an impersonator").into_bytes();
    let header = ProposalHeader { height, round, pol_round: None, block: block_id(&block), proposer: name };
    Message::Proposal(SignedHeader { signature: key(signer).sign(chain, &header), header }, block)
}

impl Attacker for Impersonator {
    fn tick(&mut self, me: &mut Me<'_>) -> Vec<Sending> {
        let n = me.attackers.len();
        let (height, round) = (me.height, me.rng.next_u32() % 2);
        let victims: Vec<usize> = (0..n).filter(|i| !me.attackers[*i]).collect();
        let mut out = Vec::new();
        for block in [None, Some(BlockHash([0xee; 32]))] {
            for kind in [VoteType::Prevote, VoteType::Precommit] {
                // in the victims' names with its own signature; by strangers; by the victims, elsewhere
                let name = |i: usize| claim(kind, height, round, block, key(i).id());
                let own: Vec<_> = victims.iter().map(|i| signed(CHAIN, &me.key, name(*i))).collect();
                let strangers: Vec<_> = (100..100 + n).map(|i| signed(CHAIN, &key(i), name(i))).collect();
                let elsewhere: Vec<_> = victims.iter().map(|i| signed(OTHER_CHAIN, &key(*i), name(*i))).collect();
                for votes in [own, strangers, elsewhere] {
                    let pick = me.rng.next_u32() as usize % votes.len();
                    out.push(Sending::forged(&Message::Vote(votes[pick].clone())));
                    out.push(Sending::forged(&Message::Round { skip: true, votes: votes.clone() }));
                    out.push(Sending::forged(&Message::Round { skip: false, votes: votes.clone() }));
                    out.push(Sending::forged(&Message::Polka(votes)));
                }
            }
        }
        let mut ids: Vec<NodeId> = (0..n).map(|i| key(i).id()).collect();
        ids.sort();
        let turn = proposer(&ids, height, round).unwrap();
        let whose = (0..n).find(|i| key(*i).id() == turn).unwrap();
        if !me.attackers[whose] {
            out.push(Sending::forged(&propose(CHAIN, me.index, turn, height, round)));
            out.push(Sending::forged(&propose(OTHER_CHAIN, whose, turn, height, round)));
            out.push(Sending::forged(&propose(CHAIN, me.index, key(me.index).id(), height, round))); // out of turn
        }
        out
    }
}

#[test] // L1: f of 3f+1 impersonate; the network checks that not one such message has an effect
fn f_impersonators_move_nobody() {
    for n in SIZES {
        let mut sim = Sim::attacked(1, n, IMPERSONATOR, 0);
        sim.run(15);
        assert!(sim.evidence.is_empty(), "nobody is accused by what it did not sign");
        assert_eq!(sim.max_round, 0, "forgeries cost no round");
        assert!(sim.refused > 100, "only {} refused", sim.refused);
    }
}

#[test] // C6, row 12 of the threat table: evidence needs the culprit's own signatures on this chain
fn evidence_cannot_be_forged() {
    let vote = |signer: usize, chain, name: usize, block| {
        signed(chain, &key(signer), claim(VoteType::Prevote, 1, 0, Some(BlockHash([block; 32])), key(name).id()))
    };
    let convicts = |a: &SignedVote, b: &SignedVote| Evidence::Votes(a.clone(), b.clone()).culprit(CHAIN);
    let (first, second) = (vote(1, CHAIN, 1, 1), vote(1, CHAIN, 1, 2));
    assert_eq!(convicts(&first, &second), Some(key(1).id()));
    assert_eq!(convicts(&first, &first), None);
    assert_eq!(convicts(&first, &vote(2, CHAIN, 1, 2)), None); // signed by somebody else
    assert_eq!(convicts(&first, &vote(1, OTHER_CHAIN, 1, 2)), None); // said on another chain
    assert_eq!(convicts(&first, &vote(2, CHAIN, 2, 2)), None); // two validators
    let other =
        |kind, height, round| signed(CHAIN, &key(1), claim(kind, height, round, Some(BlockHash([2; 32])), key(1).id()));
    assert_eq!(convicts(&first, &other(VoteType::Precommit, 1, 0)), None); // may differ between steps,
    assert_eq!(convicts(&first, &other(VoteType::Prevote, 1, 1)), None); // rounds
    assert_eq!(convicts(&first, &other(VoteType::Prevote, 2, 0)), None); // and heights
    assert_eq!(convicts(&first, &other(VoteType::Prevote, 1, 0)), Some(key(1).id()));
}

#[test] // L1: each forgery alone, against one validator
fn each_impersonation_is_refused() {
    let mut bft = one(0);
    for height in [1, 2, 3] {
        for kind in [VoteType::Prevote, VoteType::Precommit] {
            let name = |i: usize| claim(kind, height, 0, None, key(i).id());
            for forged in [signed(CHAIN, &key(1), name(2)), signed(OTHER_CHAIN, &key(2), name(2))] {
                assert!(matches!(say(&mut bft, &Message::Vote(forged)), Err(BftError::Refused(_))));
            }
            // a stranger's own vote is no offence: it may be a validator of another height
            let stranger = Message::Vote(signed(CHAIN, &key(9), name(9)));
            assert!(say(&mut bft, &stranger).is_ok_and(|e| e.is_empty()));
        }
    }
    assert!(!four().contains(&key(9).id()));
}
