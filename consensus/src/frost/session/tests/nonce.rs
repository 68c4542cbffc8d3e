//! C5: a nonce signs once, in memory, for one coordinator; who forgets its nonces goes on with new ones.

use super::*;
use proptest::prelude::*;

fn asked(net: &Net) -> (NodeId, SessionId, Vec<u8>, Vec<Chosen>) {
    let request = net.sent.iter().find_map(|(node, m)| match m {
        SignMessage::Request { id, payload, chosen } => Some((*node, *id, payload.clone(), chosen.clone())),
        _ => None,
    });
    request.unwrap()
}

#[test] // C5, planted: one nonce named in two requests, by its coordinator, gives one share
fn a_nonce_signs_once() {
    let mut net = Net::new(&[Honest; 4], 20);
    net.open(b"outcome");
    net.drain();
    net.assert_signed(b"outcome");
    let before = net.shares();
    let (from, id, payload, chosen) = asked(&net);
    let member =
        usize::from(chosen.iter().find(|c| net.group.members()[usize::from(c.member)] != from).unwrap().member);
    let others = [b"other".to_vec(), payload.clone()];
    for (k, payload) in others.into_iter().enumerate() {
        // other commitments for the other members, another session, another topic: nothing makes it sign
        let mut chosen = chosen.clone();
        let spare = chosen.iter().position(|c| usize::from(c.member) != member).unwrap();
        let (_, commitments) = nonces::Nonce::fresh(&keys(4).1[0], &mut net.rng).unwrap();
        chosen[spare].commitments = commitments;
        net.input(member, SignInput::Approve { topic: TOPIC, payload_hash: payload_hash(&payload) });
        for (session, topic) in [(0, TOPIC), (1, TOPIC), (1, Digest([5 + 4; 32]))] {
            net.input(member, SignInput::Approve { topic, payload_hash: payload_hash(&payload) });
            let id = SessionId { session, topic, ..id };
            let message = SignMessage::Request { id, payload: payload.clone(), chosen: chosen.clone() };
            net.deliver(member, from, message);
        }
        assert_eq!(net.refused.len(), 3 * (k + 1));
    }
    assert!(net.refused.iter().all(|r| *r == (from, RefusedWhy::NonceUsed)));
    net.deliver(member, from, SignMessage::Request { id, payload, chosen });
    assert_eq!(net.refused.last(), Some(&(from, RefusedWhy::Duplicate)));
    net.drain();
    assert_eq!(net.shares(), before, "a second share from one nonce");
}

#[test] // C5: while the host has no opinion, the nonce of a waiting request serves no other
fn a_waiting_nonce_is_spent() {
    let mut net = Net::new(&[Honest; 4], 21);
    let leader = net.leader(0);
    let member = (leader + 1) % 4;
    net.conduct[member] = Undecided;
    net.open(b"outcome");
    net.drain();
    let (from, id, _, chosen) = asked(&net);
    let before = net.shares();
    net.conduct[member] = Honest;
    net.input(member, SignInput::Approve { topic: TOPIC, payload_hash: payload_hash(b"other") });
    net.deliver(member, from, SignMessage::Request { id, payload: b"other".to_vec(), chosen });
    assert_eq!(net.refused.last(), Some(&(from, RefusedWhy::NonceUsed)));
    assert_eq!(net.shares(), before);
}

#[test] // C5: a nonce made for one coordinator is worth nothing to another, and not with other commitments
fn a_nonce_belongs_to_one_coordinator() {
    let mut net = Net::new(&[Honest; 4], 22);
    net.open(b"outcome");
    let (from, id, payload, chosen) = asked(&net);
    let me = chosen.iter().position(|c| net.group.members()[usize::from(c.member)] != from).unwrap();
    let member = usize::from(chosen[me].member);
    let thief = (0..4).find(|i| *i != member && net.group.members()[*i] != from).unwrap();
    let attempt = (0..4).find(|a| net.leader(*a) == thief).unwrap();
    let before = net.shares();
    let stolen =
        SignMessage::Request { id: SessionId { attempt, ..id }, payload: payload.clone(), chosen: chosen.clone() };
    net.deliver(member, net.group.members()[thief], stolen);
    assert_eq!(net.refused.last().unwrap().1, RefusedWhy::NonceUsed);
    let mut bent = chosen.clone();
    bent[me].commitments = chosen[(me + 1) % 3].commitments.clone();
    net.deliver(member, from, SignMessage::Request { id, payload, chosen: bent });
    assert_eq!(net.refused.last(), Some(&(from, RefusedWhy::BadCommitments)));
    assert_eq!(net.shares(), before);
    net.refused.clear();
    net.drain(); // the nonce is still there for the real request
    net.assert_signed(b"outcome");
}

#[test] // C5: no nonce commitment is ever shown twice under another name, no share uses one twice
fn commitments_are_used_once() {
    let mut net = Net::new(&[Honest, Honest, Silent, Honest, Lying, Honest, Honest], 23);
    net.lost = 100;
    net.run(b"outcome", 60_000);
    let mut used = BTreeSet::new();
    for (_, _, chosen) in net.requests() {
        for c in chosen {
            assert!(used.insert(c.commitments), "one nonce in two requests of honest coordinators");
        }
    }
}

#[test] // C5, crash: a member that lost its memory is asked again with new nonces and not blamed
fn a_member_restarts_mid_session() {
    let mut net = Net::new(&[Honest; 4], 24);
    let leader = net.leader(0);
    let member = (leader + 1) % 4;
    net.open(b"outcome");
    net.restart(member); // the request is on its way to it
    net.opinion(member, TOPIC, b"outcome");
    net.advance(1_000);
    net.assert_signed(b"outcome");
    net.assert_just();
    assert!(net.requests().iter().all(|r| r.1.attempt == 0), "the other members are enough");
    // it signs again: with t = n there is nobody else
    let mut net = Net::new(&[Honest; 3], 25);
    net.open(b"outcome");
    net.restart((net.leader(0) + 1) % 3);
    net.open(b"outcome");
    net.advance(20_000);
    net.assert_signed(b"outcome");
    net.assert_just();
}

#[test] // C5, crash: a coordinator that lost its memory asks for nonces and leads again
fn a_coordinator_restarts_mid_session() {
    let mut net = Net::new(&[Honest; 4], 26);
    let leader = net.leader(0);
    net.open(b"outcome");
    for _ in 0..3 {
        net.step();
    }
    net.restart(leader);
    net.opinion(leader, TOPIC, b"outcome");
    net.input(leader, SignInput::Open { topic: TOPIC, payload: Some(b"outcome".to_vec()) });
    net.advance(1_000);
    net.assert_signed(b"outcome");
    net.assert_just();
}

#[test] // C5: all restart together, nothing is known of anybody, ticks alone bring it back
fn all_restart() {
    let mut net = Net::cold(&[Honest; 4], 27);
    net.run(b"outcome", 5_000);
    net.assert_signed(b"outcome");
    net.assert_just();
}

#[test] // C5: requests that are lost use nonces up at the coordinator only; it asks for newer ones
fn lost_requests_do_not_starve_a_coordinator() {
    let mut net = Net::new(&[Honest; 4], 28);
    net.lost = 1000;
    net.open(b"outcome");
    net.advance(100_000);
    assert!(net.signed.is_empty());
    net.lost = 0;
    net.advance(net.now_ms + 60_000);
    net.assert_signed(b"outcome");
    assert!(net.signers.iter().all(|s| s.vault.live() <= 3 * message::MAX_OFFERS), "pools are bounded");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]
    #[test] // R5, C4: loss and reordering delay a signature; they accuse nobody
    fn loss_and_reordering(seed: u8, n in 2usize..=5, lost in 0u32..200, delay_ms in 1u32..400) {
        let mut net = Net::new(&vec![Honest; n], seed);
        (net.lost, net.delay_ms) = (lost, delay_ms);
        net.run(b"outcome", 600_000);
        net.assert_signed(b"outcome");
        prop_assert!(net.proven.is_empty());
        prop_assert!(net.refused.is_empty(), "refused: {:?}", net.refused);
        net.assert_few_sessions();
    }
}
