//! R5: attempts, opinions and topics over time.

use super::*;

#[test] // C4: when members come back after half a day, signing goes on
fn a_long_outage_ends() {
    let mut net = Net::new(&[Mute, Mute, Honest, Honest], 40);
    net.run(b"outcome", 12 * 3_600_000);
    assert!(net.signed.is_empty());
    net.conduct = vec![Honest; 4];
    net.advance(net.now_ms + 120_000);
    net.assert_signed(b"outcome");
}

#[test] // R5: the host's approval may come before the proposal and without a payload of its own
fn an_early_approval_counts() {
    let mut net = Net::new(&[Honest; 4], 41);
    for i in 0..4 {
        net.input(i, SignInput::Approve { topic: TOPIC, payload_hash: payload_hash(b"outcome") });
    }
    net.input(net.leader(0), SignInput::Open { topic: TOPIC, payload: Some(b"outcome".to_vec()) });
    net.advance(100);
    net.assert_signed(b"outcome");
    net.assert_just();
}

#[test] // R5: members that hear of a topic first from its leader are asked for their opinion
fn a_review_is_asked_and_answered() {
    let mut net = Net::new(&[Honest; 4], 42);
    net.input(net.leader(0), SignInput::Open { topic: TOPIC, payload: Some(b"outcome".to_vec()) });
    net.advance(140);
    net.assert_signed(b"outcome");
    assert_eq!(net.requests().len(), 1);
    net.assert_just();
}

#[test] // R5: a host that changes its mind takes its approval back, with the nonce
fn a_refusal_withdraws_the_approval() {
    let mut net = Net::new(&[Honest; 4], 43);
    let hash = payload_hash(b"outcome");
    let leader = net.leader(0);
    net.opinion(leader, TOPIC, b"outcome");
    net.conduct = vec![Undecided; 4];
    net.input(leader, SignInput::Open { topic: TOPIC, payload: Some(b"outcome".to_vec()) });
    net.drain(); // all asked members wait for their hosts
    for i in (0..4).filter(|i| *i != leader) {
        net.input(i, SignInput::Refuse { topic: TOPIC, payload_hash: hash });
    }
    for i in (0..4).filter(|i| *i != leader) {
        assert!(net.signers[i].topics.get(&TOPIC).is_none_or(|t| t.waiting.is_empty()));
    }
    net.advance(20_000);
    assert!(net.signed.is_empty());
    assert_eq!(net.shares(), 0);
}

#[test] // R5: a closed topic is not signed any more, and costs its coordinator no nonces
fn a_closed_topic_is_over() {
    let mut net = Net::new(&[Honest; 4], 44);
    let leader = net.leader(0);
    for i in (0..4).filter(|i| *i != leader) {
        net.input(i, SignInput::Close { topic: TOPIC });
    }
    net.opinion(leader, TOPIC, b"outcome");
    net.input(leader, SignInput::Open { topic: TOPIC, payload: Some(b"outcome".to_vec()) });
    net.advance(2_000);
    assert!(net.signed.is_empty() && net.shares() == 0);
    assert!((0..4).filter(|i| *i != leader).all(|i| net.signers[leader].offers.has(i as u16)));
    assert!(net.refused.is_empty());
}

#[test] // C3: only floor(2n/3)+1 makes a committee's key
fn another_threshold_is_refused() {
    let members: Vec<NodeId> = (1..=4).map(|i| NodeId([i; 32])).collect();
    let mut rng = ChaCha20Rng::from_seed([14; 32]);
    assert!(dkg_all_local(&members, 3, &mut rng).is_ok());
    for t in [2, 4] {
        assert!(dkg_all_local(&members, t, &mut rng).is_err());
    }
}

#[test] // K2: the group key survives its bytes, damaged bytes do not become a key
fn group_key_bytes() {
    let (group, shares) = keys(4);
    assert!(shares[1].belongs_to(&group, group.members()[1]));
    assert!(!shares[1].belongs_to(&group, group.members()[2]));
    let bytes = codec::encode(&group);
    assert_eq!(codec::decode::<GroupKey>(&bytes).unwrap(), group);
    for i in 5..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[i] ^= 0x80;
        if let Ok(key) = codec::decode::<GroupKey>(&damaged) {
            assert_ne!(key, group);
        }
    }
}

#[test] // K2: bytes on the wire and under a digest change on purpose only
fn wire_bytes_are_pinned() {
    let id = SessionId { topic: TOPIC, attempt: 3, session: 1 };
    let next = vec![NonceOffer { nonce_id: 9, commitments: vec![1, 2] }];
    let chosen = vec![Chosen { member: 4, nonce_id: 9, commitments: vec![1, 2] }];
    let request = request_digest(id, b"outcome", &chosen).unwrap();
    let share = vec![3; 32];
    let messages = [
        SignMessage::Nonces { to: 2, why: Announce::Hello { used: 8 }, offers: next.clone() },
        SignMessage::Nonces { to: 2, why: Announce::Refill, offers: next.clone() },
        SignMessage::Nonces { to: 2, why: Announce::Unknown(id), offers: next.clone() },
        SignMessage::Request { id, payload: b"outcome".to_vec(), chosen: chosen.clone() },
        SignMessage::Share { id, request, share: share.clone(), next: next.clone() },
        SignMessage::Decline { id, request, next: next.clone() },
    ];
    let mut all: Vec<u8> = messages.iter().flat_map(codec::encode).collect();
    let evidence = ShareEvidence { id, payload: b"outcome".to_vec(), chosen, member: 4, share, next };
    all.extend(codec::encode(&evidence));
    assert_eq!(evidence.message(), Some(messages[4].clone()));
    assert_eq!(
        blake3::hash(&all).to_hex().as_str(),
        "79c161501d740bb56dace29d15d90846a8e7eefa8cd748bf6772c0814f4dd566"
    );
}
