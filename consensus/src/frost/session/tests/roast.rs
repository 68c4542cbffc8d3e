//! R5, C4: signing without faults is one round trip; no n - t members can stop it, and who cheats is named.

use super::*;

#[test] // R5: one request, t - 1 answers, nothing else
fn without_faults_signing_is_one_round_trip() {
    for n in 2..=7 {
        let mut net = Net::new(&vec![Honest; n], 1);
        net.open(b"outcome");
        assert_eq!(net.requests().len(), 1);
        // first hop: the request to everybody; second hop: the shares
        for _ in 0..2 {
            assert!(net.signed.is_empty());
            for (_, to, from, message) in std::mem::take(&mut net.queue) {
                net.deliver(to, from, message);
            }
        }
        net.assert_signed(b"outcome");
        assert_eq!(net.sent.len(), 1 + threshold(n) - 1, "messages for n = {n}");
        assert!(net.blamed.is_empty() && net.proven.is_empty() && net.refused.is_empty());
    }
}

#[test] // R5: a hundred signatures one after the other find their nonces ready
fn pools_refill_themselves() {
    let mut net = Net::new(&[Honest; 4], 2);
    for k in 0..20u8 {
        let topic = Digest([k; 32]);
        for i in 0..4 {
            net.input(i, SignInput::Approve { topic, payload_hash: payload_hash(&[k]) });
            net.input(i, SignInput::Open { topic, payload: Some(vec![k]) });
        }
        net.drain();
        assert_eq!(net.signed.len(), usize::from(k) + 1);
        for i in 0..4 {
            net.input(i, SignInput::Close { topic });
        }
    }
    assert!(net.sent.iter().all(|(_, m)| !matches!(m, SignMessage::Nonces { .. })), "only the shares carry nonces");
    assert_eq!(net.requests().len(), 20);
    net.assert_just();
}

/// Every subset of at most n - t members of n = 2..=7 as disruptors of one kind.
fn every_minority(kind: Conduct) {
    for n in 2usize..=7 {
        for mask in 0u32..1 << n {
            if mask.count_ones() as usize > n - threshold(n) {
                continue;
            }
            let conduct: Vec<_> = (0..n).map(|i| if mask >> i & 1 == 1 { kind } else { Honest }).collect();
            let mut net = Net::new(&conduct, (mask % 251) as u8);
            net.run(b"outcome", 60_000);
            net.assert_signed(b"outcome");
            for _ in 0..20 {
                net.step(); // what is still on its way
            }
            net.assert_just();
            net.assert_few_sessions();
            if net.honest(net.leader(0)) {
                assert!(net.requests().iter().all(|r| r.1.attempt == 0), "an honest first leader is enough");
            }
        }
    }
}

#[test]
fn no_mute_minority_stops_a_signature() {
    every_minority(Mute);
}
#[test]
fn no_silent_minority_stops_a_signature() {
    every_minority(Silent);
}
#[test]
fn no_lying_minority_stops_a_signature() {
    every_minority(Lying);
}
#[test]
fn no_forging_minority_stops_a_signature() {
    every_minority(Forging);
}
#[test]
fn no_refusing_minority_stops_a_signature() {
    every_minority(Refusing);
}
#[test]
fn no_undecided_minority_stops_a_signature() {
    every_minority(Undecided);
}
#[test]
fn no_replaying_minority_stops_a_signature() {
    every_minority(Replaying);
}
#[test]
fn no_forgetful_minority_stops_a_signature() {
    every_minority(Forgetful);
}

#[test] // C4: a cheater costs no waiting; the coordinator asks others at once
fn a_cheater_is_replaced_at_once() {
    let mut net = Net::new(&[Honest; 4], 3);
    let leader = net.leader(0);
    net.conduct[(leader + 1) % 4] = Lying; // would be chosen first
    net.open(b"outcome");
    net.drain();
    net.assert_signed(b"outcome");
    assert_eq!((net.now_ms, net.requests().len(), net.proven.len()), (0, 2, 1));
    // and is not asked again, in any topic it leads to
    net.signed.clear();
    net.sent.clear();
    let topic = Digest([9; 32]);
    let again = (0..4).find(|a| net.signers[0].leader(topic, *a) == Some(net.group.members()[leader])).unwrap();
    net.signers[leader].topics.entry(topic).or_default().attempt = again;
    for i in 0..4 {
        net.input(i, SignInput::Approve { topic, payload_hash: payload_hash(b"next") });
    }
    net.input(leader, SignInput::Open { topic, payload: Some(b"next".to_vec()) });
    net.drain();
    net.assert_signed(b"next");
    assert_eq!(net.requests().len(), 1);
    net.assert_just();
}

#[test] // C4: the silent are asked last, so they cost one hedge and not one each time
fn the_silent_are_asked_last() {
    let mut net = Net::new(&[Honest; 4], 4);
    let leader = net.leader(0);
    net.conduct[(leader + 1) % 4] = Silent;
    net.run(b"outcome", 1_000);
    net.assert_signed(b"outcome");
    assert!(net.now_ms >= CONFIG.hedge_ms && net.requests().len() == 2);
    let topic = Digest([5 + 4; 32]);
    assert_eq!(net.signers[0].leader(topic, 0), net.signers[0].leader(TOPIC, 0), "the same leader");
    net.signed.clear();
    net.sent.clear();
    for i in 0..4 {
        net.input(i, SignInput::Approve { topic, payload_hash: payload_hash(b"next") });
        net.input(i, SignInput::Open { topic, payload: Some(b"next".to_vec()) });
    }
    net.advance(net.now_ms + 1_000);
    net.assert_signed(b"next");
    assert_eq!(net.requests().len(), 1);
}

#[test] // C4: a share that comes after the hedge still counts
fn a_late_share_completes_its_session() {
    let mut net = Net::new(&[Honest; 3], 5); // t = n: no other session is possible
    let leader = net.leader(0);
    let late = (leader + 1) % 3;
    net.conduct[late] = Undecided;
    net.open(b"outcome");
    net.advance(3_000);
    assert!(net.signed.is_empty());
    net.input(late, SignInput::Approve { topic: TOPIC, payload_hash: payload_hash(b"outcome") });
    net.advance(3_500);
    net.assert_signed(b"outcome");
    assert_eq!(net.requests().len(), 1);
}

#[test] // C3, R5: what n - t + 1 members do not confirm is never signed
fn a_blocking_minority_blocks() {
    for kind in [Undecided, Refusing, Silent] {
        let mut net = Net::new(&[kind, kind, Honest, Honest], 6);
        net.run(b"outcome", 60_000);
        assert!(net.signed.is_empty());
        net.assert_few_sessions();
    }
}
