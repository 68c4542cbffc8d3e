//! Old heights, rounds and messages, sent again without end.

use super::attack::{Attacker, Kind, Me, SIZES, Sending, one, proposal, say, vote, vote_in};
use super::net::Sim;
use arc_malachitebft_core_types::VoteType;
use oda_consensus::bft::*;
use oda_consensus::codec;
use rand_core::RngCore;
use std::collections::VecDeque;

/// Keeps what it hears, old and new, and sends it again to everybody.
struct Replayer {
    oldest: Vec<Vec<u8>>,
    latest: VecDeque<Vec<u8>>,
}

pub const REPLAYER: Kind = Some(|| Box::new(Replayer { oldest: Vec::new(), latest: VecDeque::new() }));

impl Attacker for Replayer {
    fn hear(&mut self, _: &mut Me<'_>, bytes: &[u8]) -> Vec<Sending> {
        if self.oldest.len() < 200 {
            self.oldest.push(bytes.to_vec());
        }
        self.latest.push_back(bytes.to_vec());
        if self.latest.len() > 200 {
            self.latest.pop_front();
        }
        Vec::new()
    }

    fn tick(&mut self, me: &mut Me<'_>) -> Vec<Sending> {
        let mut out = Vec::new();
        for _ in 0..6 {
            let pick = me.rng.next_u32() as usize;
            out.extend(self.oldest.get(pick % 200).cloned().map(Sending::all));
            out.extend(self.latest.get(pick % 200).cloned().map(Sending::all));
        }
        out
    }
}

#[test] // L1: f of 3f+1 replay; nobody is accused for what was sent twice
fn f_replayers_neither_stop_nor_accuse_anybody() {
    for n in SIZES {
        for loss_percent in [0, 15] {
            let mut sim = Sim::attacked(1, n, REPLAYER, loss_percent);
            sim.run(20);
            assert!(sim.evidence.is_empty());
            assert!(loss_percent > 0 || sim.max_round == 0, "replays cost no round, but {}", sim.max_round);
            assert_eq!(sim.refused, 0, "what was true once is no offence");
        }
    }
}

#[test] // K3: what was heard, or is long decided, costs neither log space nor an answer
fn repeated_and_old_messages_move_nothing() {
    let block = b"1 block".to_vec();
    let round_0 = (0..4).find(|i| proposer(&sorted(), 1, 0) == Some(super::net::key(*i).id())).unwrap();
    let me = (round_0 + 1) % 4;
    let mut bft = one(me);
    let peers: Vec<usize> = (0..4).filter(|i| *i != me).collect();
    let mut said = vec![proposal(round_0, 1, 0, None, &block)];
    for kind in [VoteType::Prevote, VoteType::Precommit] {
        said.extend(peers.iter().map(|i| Message::Vote(vote_in(*i, kind, 1, 0, None))));
    }
    for message in &said {
        assert!(!say(&mut bft, message).unwrap().is_empty());
        for old in &said {
            if bft.round() == 0 && said.iter().position(|m| m == old) <= said.iter().position(|m| m == message) {
                assert!(say(&mut bft, old).unwrap().is_empty(), "{old:?} again");
            }
        }
    }
    let validators = super::attack::four();
    bft.handle(BftInput::StartHeight { height: 9, validators }).unwrap();
    for message in &said {
        assert!(say(&mut bft, message).unwrap().is_empty());
    }
}

fn sorted() -> Vec<oda_consensus::ids::NodeId> {
    let mut ids = super::attack::four();
    ids.sort();
    ids
}

#[test] // K3: messages for heights far ahead are dropped, those just ahead kept one of a kind
fn future_messages_do_not_pile_up() {
    let mut bft = one(0);
    for height in [2, 3, 4, 50, u64::MAX] {
        for round in 0..200 {
            let message = Message::Vote(vote_in(1, VoteType::Prevote, height, round, None));
            assert!(say(&mut bft, &message).unwrap().is_empty());
        }
    }
    let validators = super::attack::four();
    let effects = bft.handle(BftInput::StartHeight { height: 2, validators }).unwrap();
    let logged = effects.iter().filter(|e| matches!(e, BftEffect::WalAppend { .. })).count();
    assert!(logged <= 1, "{logged} of 200 votes were kept");
    let again = codec::encode(&Message::Vote(vote(1, VoteType::Prevote, 1, block_id(b"x"))));
    assert!(bft.handle(BftInput::Message { bytes: again }).unwrap().is_empty());
}
