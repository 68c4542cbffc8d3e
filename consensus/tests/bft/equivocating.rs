//! Two proposals for one round, two votes of one kind: each half of the network is told another story.

use super::attack::{Attacker, HONEST, Kind, Me, SIZES, Sending, To, vote_in};
use super::net::{CHAIN, Sim, key};
use arc_malachitebft_core_types::{NilOrVal, VoteType};
use oda_consensus::bft::*;
use oda_consensus::codec;
use oda_consensus::ids::{BlockHash, ChainId};
use std::collections::BTreeSet;

/// Attackers together: the even validators are to decide one block, the odd ones its twin. Each
/// attacker signs proposal, prevote and precommit for both, whatever its engine thinks.
struct TwoFaced {
    /// Validator 0 hears both stories, so that the lie can be proven.
    leaks: bool,
    voted: BTreeSet<(u64, u32)>,
}

pub const TWO_FACED: Kind = Some(|| Box::new(TwoFaced { leaks: true, voted: BTreeSet::new() }));
pub const TWO_FACED_SECRETLY: Kind = Some(|| Box::new(TwoFaced { leaks: false, voted: BTreeSet::new() }));

impl TwoFaced {
    fn half(&self, me: &Me<'_>, odd: bool) -> Vec<usize> {
        let told = |i: &usize| i % 2 == usize::from(odd) || me.attackers[*i] || (self.leaks && *i == 0);
        (0..me.attackers.len()).filter(told).collect()
    }

    /// Both votes of both kinds on a pair of blocks.
    fn vote_both(&mut self, me: &Me<'_>, height: u64, round: u32, block: &[u8]) -> Vec<Sending> {
        if !self.voted.insert((height, round)) {
            return Vec::new();
        }
        let mut out = Vec::new();
        for (odd, block) in [(false, block.to_vec()), (true, twin(block))] {
            for kind in [VoteType::Prevote, VoteType::Precommit] {
                let vote = vote_in(me.index, kind, height, round, Some(block_id(&block)));
                out.push(Sending::some(self.half(me, odd), &Message::Vote(vote)));
            }
        }
        out
    }
}

fn twin(block: &[u8]) -> Vec<u8> {
    [block, b"!"].concat()
}

impl Attacker for TwoFaced {
    fn publish(&mut self, me: &mut Me<'_>, bytes: &[u8]) -> Vec<Sending> {
        match codec::decode::<Message>(bytes).unwrap() {
            Message::Vote(SignedVote { mut vote, .. }) => {
                vote.block = NilOrVal::Val(BlockHash([9; 32]));
                let other = SignedVote { signature: me.key.sign(CHAIN, &vote), vote };
                let first = Sending { to: To::Some(self.half(me, false)), ..Sending::all(bytes.to_vec()) };
                vec![first, Sending::some(self.half(me, true), &Message::Vote(other))]
            }
            Message::Proposal(SignedHeader { mut header, .. }, block) => {
                let other = twin(&block);
                header.block = block_id(&other);
                let (height, round) = (header.height, header.round);
                let signature = me.key.sign(CHAIN, &header);
                let other = Message::Proposal(SignedHeader { header, signature }, other);
                let mut out = vec![
                    Sending { to: To::Some(self.half(me, false)), ..Sending::all(bytes.to_vec()) },
                    Sending::some(self.half(me, true), &other),
                ];
                out.extend(self.vote_both(me, height, round, &block));
                out
            }
            Message::Polka(_) | Message::Round { .. } => vec![Sending::all(bytes.to_vec())],
        }
    }

    fn hear(&mut self, me: &mut Me<'_>, bytes: &[u8]) -> Vec<Sending> {
        let Ok(Message::Proposal(SignedHeader { header, .. }, block)) = codec::decode(bytes) else { return Vec::new() };
        let fellow = me.attackers.iter().enumerate().any(|(i, a)| *a && key(i).id() == header.proposer);
        if !fellow {
            return Vec::new();
        }
        let block = block.strip_suffix(b"!").unwrap_or(&block).to_vec();
        self.vote_both(me, header.height, header.round, &block)
    }
}

#[test] // L1, row 16 of the threat table
fn equivocation_surfaces_and_does_no_harm() {
    for seed in 30..34 {
        let mut sim = Sim::new(seed, &[HONEST, HONEST, HONEST, TWO_FACED], 0);
        sim.run(30);
        assert!(!sim.evidence.is_empty());
        let culprit = key(3).id();
        assert!(sim.evidence.iter().all(|e| e.culprit(CHAIN) == Some(culprit)));
        assert!(sim.evidence.iter().any(|e| matches!(e, Evidence::Votes(..))));
        assert!(sim.evidence.iter().any(|e| matches!(e, Evidence::Proposals(..))));
        assert!(sim.evidence.iter().all(|e| e.culprit(ChainId([8; 32])).is_none()));
    }
}

#[test] // L1: f of 3f+1, told openly and in secret
fn f_equivocators_neither_fork_nor_stop_the_chain() {
    for n in SIZES {
        for (seed, kind) in [(1, TWO_FACED), (2, TWO_FACED_SECRETLY), (3, TWO_FACED)] {
            let mut sim = Sim::attacked(seed, n, kind, if seed == 3 { 10 } else { 0 });
            sim.run(12);
            let f = (n - 1) / 3;
            assert!(sim.max_round as usize <= 3 * f + 3, "round {} with {f} of {n}", sim.max_round);
            let culprits: BTreeSet<_> = sim.evidence.iter().filter_map(|e| e.culprit(CHAIN)).collect();
            if seed == 1 {
                assert_eq!(culprits, (n - f..n).map(|i| key(i).id()).collect(), "every attacker is named");
            }
        }
    }
}

#[test] // the attack is real: one attacker more than the rules allow forks the chain
#[should_panic(expected = "fork")]
fn more_than_f_equivocators_fork() {
    for seed in 0..20 {
        let mut sim = Sim::new(seed, &[HONEST, HONEST, TWO_FACED_SECRETLY, TWO_FACED_SECRETLY], 0);
        sim.run_until(60_000);
    }
}

#[test] // L1: everything at once: a liar, losses and crashes of an honest validator
fn liar_losses_and_crashes() {
    for seed in 100..120 {
        let mut sim = Sim::new(seed, &[HONEST, HONEST, TWO_FACED, HONEST], 20);
        sim.crash_at = (0..8).map(|i| 5 + i * 23 + seed % 19).collect();
        sim.run(10);
        assert_eq!(sim.nodes[0].life, 8);
    }
}
