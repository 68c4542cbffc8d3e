//! C3, C4, C6: impostors, floods, garbage, and evidence that frames nobody.

use super::*;
use proptest::prelude::*;

fn member_asked(net: &Net, leader: usize) -> usize {
    (leader + 1) % net.signers.len()
}

/// A request as `leader` could make it, with a fresh nonce of the member it is sent to.
fn request(net: &mut Net, leader: usize, member: usize, id: SessionId, payload: &[u8]) -> Option<SignMessage> {
    let (nonce_id, own) = net.signers[leader].offers.take(member as u16)?;
    let (_, other) = nonces::Nonce::fresh(&keys(4).1[0], &mut net.rng)?;
    let t = net.group.threshold();
    let mut members: Vec<usize> = (0..net.signers.len()).filter(|i| *i != member).take(t - 1).collect();
    members.push(member);
    members.sort_unstable();
    let one = |i: usize| {
        let (nonce_id, commitments) = if i == member { (nonce_id, own.clone()) } else { (0, other.clone()) };
        Chosen { member: i as u16, nonce_id, commitments }
    };
    Some(SignMessage::Request { id, payload: payload.to_vec(), chosen: members.into_iter().map(one).collect() })
}

#[test] // only the attempt's leader leads; foreigners are not heard
fn impostors_are_refused() {
    let mut net = Net::new(&[Honest; 4], 60);
    let leader = net.leader(0);
    let member = member_asked(&net, leader);
    let impostor = net.group.members()[(leader + 2) % 4];
    let id = SessionId { topic: TOPIC, attempt: 0, session: 0 };
    let message = request(&mut net, leader, member, id, b"x").unwrap();
    for (from, why) in [(impostor, RefusedWhy::WrongLeader), (NodeId([99; 32]), RefusedWhy::Stranger)] {
        let proof = Signature([0; 64]);
        let input = SignInput::Message { from, message: message.clone(), proof };
        let effects = net.signers[member].handle(input, 0, &mut net.rng);
        assert!(matches!(effects.as_slice(), [SignEffect::Refused { from: f, why: w }] if (*f, *w) == (from, why)));
    }
    assert!(net.signers[member].topics.is_empty());
}

#[test] // K3: each malformed request is refused with its reason, and costs the member no nonce
fn malformed_requests_are_refused() {
    let mut net = Net::new(&[Honest; 4], 61);
    let leader = net.leader(0);
    let (member, from) = (member_asked(&net, leader), net.group.members()[leader]);
    let good = SessionId { topic: TOPIC, attempt: 0, session: 0 };
    let Some(SignMessage::Request { id, payload, chosen }) = request(&mut net, leader, member, good, b"x") else {
        panic!("a request")
    };
    let me = chosen.iter().position(|c| usize::from(c.member) == member).unwrap();
    let with = |f: &dyn Fn(&mut Vec<Chosen>)| {
        let mut c = chosen.clone();
        f(&mut c);
        SignMessage::Request { id, payload: payload.clone(), chosen: c }
    };
    let cases = [
        (with(&|c| drop(c.remove((me + 1) % 3))), RefusedWhy::BadMembers),
        (with(&|c| c.reverse()), RefusedWhy::BadMembers),
        (with(&|c| c[(me + 1) % 3].member = 9), RefusedWhy::BadMembers),
        (with(&|c| c[(me + 1) % 3].member = u16::MAX), RefusedWhy::BadMembers),
        (with(&|c| c.extend(c.clone())), RefusedWhy::BadMembers),
        (with(&|c| c[(me + 1) % 3].commitments = vec![7; 71]), RefusedWhy::BadCommitments),
        (with(&|c| c[(me + 1) % 3].commitments = vec![7; 7_000]), RefusedWhy::Oversized),
        (with(&|c| c[me].commitments[9] ^= 1), RefusedWhy::BadCommitments),
        (with(&|c| *c = vec![c[0].clone(); 100]), RefusedWhy::Oversized),
        (
            SignMessage::Request {
                id: SessionId { session: 2, ..id },
                payload: payload.clone(),
                chosen: chosen.clone(),
            },
            RefusedWhy::TooManySessions,
        ),
        (SignMessage::Request { id, payload: vec![0; MAX_PAYLOAD + 1], chosen: chosen.clone() }, RefusedWhy::Oversized),
    ];
    let live = net.signers[member].vault.live();
    for (k, (message, why)) in cases.into_iter().enumerate() {
        net.refused.clear();
        net.input(member, SignInput::Message { from, message, proof: Signature([0; 64]) });
        assert_eq!(net.refused, vec![(from, why)], "case {k}");
        assert_eq!(net.signers[member].vault.live(), live, "case {k}");
    }
    net.refused.clear();
    net.input(member, SignInput::Message { from, message: with(&|_| {}), proof: Signature([0; 64]) });
    assert!(net.refused.is_empty(), "the unbent request is good");
}

#[test] // K3: answers nobody asked for, twice, or too large
fn unasked_answers_are_refused() {
    let mut net = Net::new(&[Honest; 7], 62);
    net.open(b"outcome");
    let leader = net.leader(0);
    let (_, id, chosen) = net.requests().remove(0);
    let request = request_digest(id, b"outcome", &chosen).unwrap();
    let outsider = (0..7).find(|i| chosen.iter().all(|c| usize::from(c.member) != *i)).unwrap();
    let chosen = (0..7).find(|i| *i != leader && *i != outsider).unwrap();
    let share = |share: Vec<u8>, next| SignMessage::Share { id, request, share, next };
    let offer = |nonce_id, len| NonceOffer { nonce_id, commitments: vec![2; len] };
    let cases = [
        (outsider, share(vec![1; 32], vec![]), Some(RefusedWhy::NotAsked)),
        (chosen, share(vec![1; 65], vec![]), Some(RefusedWhy::Oversized)),
        (chosen, share(vec![1; 32], vec![offer(1, 71); 17]), Some(RefusedWhy::Oversized)),
        (chosen, share(vec![1; 32], vec![offer(1, 129)]), Some(RefusedWhy::Oversized)),
        (chosen, share(vec![1; 32], vec![offer(u64::MAX, 71)]), Some(RefusedWhy::BadCommitments)),
        (chosen, share(vec![1; 32], vec![]), None),
        (chosen, share(vec![1; 32], vec![]), Some(RefusedWhy::Duplicate)),
        (outsider, SignMessage::Nonces { to: 7, why: Announce::Refill, offers: vec![] }, Some(RefusedWhy::BadMembers)),
    ];
    for (k, (from, message, why)) in cases.into_iter().enumerate() {
        let from = net.group.members()[from];
        net.refused.clear();
        net.deliver(leader, from, message);
        assert_eq!(net.refused.first().copied(), why.map(|w| (from, w)), "case {k}");
    }
}

#[test] // C4: a member that proposes endless topics crowds out only itself
fn invented_topics_take_no_place() {
    let mut net = Net::new(&[Silent, Honest, Honest, Honest], 63);
    let mut heard = 0;
    for k in 0..300u32 {
        let topic = Digest(*blake3::hash(&k.to_le_bytes()).as_bytes());
        let first = net.group.members()[0];
        let attempt = (0..4).find(|a| net.signers[1].leader(topic, *a) == Some(first)).unwrap();
        let id = SessionId { topic, attempt, session: 0 };
        for member in 1..4 {
            net.conduct[member] = Undecided;
            if let Some(message) = request(&mut net, 0, member, id, &k.to_le_bytes()) {
                net.deliver(member, first, message);
                heard += 1;
            }
            net.conduct[member] = Honest;
        }
        net.drain();
    }
    assert!(heard >= 800, "the flood must arrive to test anything: {heard}");
    assert!(net.signers.iter().all(|s| s.topics.len() <= MAX_UNOPENED));
    assert!(net.signers.iter().all(|s| s.vault.live() <= 3 * usize::from(CONFIG.nonces)));
    net.run(b"outcome", 60_000);
    net.assert_signed(b"outcome");
}

#[test] // C4: a leader that starts endless sessions and invents payloads crowds out only itself
fn endless_sessions_use_up_nothing() {
    let mut net = Net::new(&[Silent, Honest, Honest, Honest], 64);
    let first = (0..4).find(|a| net.leader(*a) == 0).unwrap();
    for i in 1..4 {
        net.input(i, SignInput::Open { topic: TOPIC, payload: None });
        net.input(i, SignInput::Approve { topic: TOPIC, payload_hash: payload_hash(b"outcome") });
    }
    for k in 0..300u32 {
        // far ahead, too: it speaks for all its attempts
        let attempt = if k % 3 == 0 { first } else { first + 4 * (k << 16) };
        let id = SessionId { topic: TOPIC, attempt, session: (k % 2) as u16 };
        let invented = k.to_le_bytes();
        for member in 1..4 {
            net.conduct[member] = Undecided;
            let payload: &[u8] = if k % 4 < 2 { b"outcome" } else { &invented };
            if let Some(message) = request(&mut net, 0, member, id, payload) {
                net.deliver(member, net.group.members()[0], message);
            }
            net.conduct[member] = Honest;
        }
        net.drain();
    }
    for t in net.signers.iter().filter_map(|s| s.topics.get(&TOPIC)) {
        assert!(t.waiting.len() <= 4 && t.asked.len() <= 4);
    }
    net.run(b"outcome", 60_000);
    net.assert_signed(b"outcome");
}

#[test] // C6: evidence holds against the cheater, and altered in any part against nobody
fn evidence_frames_nobody() {
    let mut net = Net::new(&[Honest; 4], 65);
    let liar = (net.leader(0) + 1) % 4;
    net.conduct[liar] = Lying;
    net.open(b"outcome");
    net.drain();
    let (node, evidence) = net.proven.first().cloned().expect("evidence");
    let signed = proof(node, &evidence.message().unwrap());
    // whatever is altered, the signature over the member's message does not fit any more
    let changes: Vec<ShareEvidence> = vec![
        ShareEvidence { payload: b"other".to_vec(), ..evidence.clone() },
        ShareEvidence { id: SessionId { attempt: 9, ..evidence.id }, ..evidence.clone() },
        ShareEvidence { share: vec![9; 32], ..evidence.clone() },
        ShareEvidence { next: vec![], ..evidence.clone() },
        {
            let mut e = evidence.clone();
            e.chosen[0].nonce_id ^= 1;
            e
        },
        {
            let mut e = evidence.clone();
            e.chosen.swap(0, 1);
            e
        },
    ];
    for e in changes {
        assert!(e.message().is_none_or(|m| proof(node, &m) != signed));
    }
    // an honest member's true answer proves nothing, with any other member named nothing either
    let answers: Vec<_> =
        net.sent.iter().filter(|(n, m)| *n != node && matches!(m, SignMessage::Share { .. })).collect();
    for (honest, message) in answers {
        let SignMessage::Share { id, request, share, next } = message else { continue };
        let asked = net.sent.iter().find_map(|(_, m)| match m {
            SignMessage::Request { id: i, payload, chosen } if i == id => Some((payload.clone(), chosen.clone())),
            _ => None,
        });
        let (payload, chosen) = asked.unwrap();
        assert_eq!(request_digest(*id, &payload, &chosen), Some(*request));
        let member = net.index(*honest) as u16;
        let e = ShareEvidence { id: *id, payload, chosen, member, share: share.clone(), next: next.clone() };
        assert!(!e.proves(&net.group));
    }
    // members that were not asked, sets that are no request, another group
    assert!(!ShareEvidence { member: 77, ..evidence.clone() }.proves(&net.group));
    let mut few = evidence.clone();
    few.chosen.pop();
    assert!(!few.proves(&net.group));
    assert!(!ShareEvidence { share: vec![0; 900], ..evidence.clone() }.proves(&net.group));
    assert!(!evidence.proves(&keys(5).0));
}

fn garbage() -> impl Strategy<Value = SignMessage> {
    let bytes = proptest::collection::vec(any::<u8>(), 0..80);
    let small = prop_oneof![Just(0u16), Just(1), Just(2), Just(3), any::<u16>()];
    let id = (any::<bool>(), prop_oneof![0u32..5, any::<u32>()], small.clone()).prop_map(|(ours, attempt, session)| {
        SessionId { topic: if ours { TOPIC } else { Digest([1; 32]) }, attempt, session }
    });
    let offer = (any::<u64>(), bytes.clone()).prop_map(|(nonce_id, commitments)| NonceOffer { nonce_id, commitments });
    let offers = proptest::collection::vec(offer, 0..20);
    let one = (small.clone(), any::<u64>(), bytes.clone()).prop_map(|(member, nonce_id, commitments)| Chosen {
        member,
        nonce_id,
        commitments,
    });
    let chosen = proptest::collection::vec(one, 0..80);
    let digest = any::<[u8; 32]>().prop_map(Digest);
    let why = prop_oneof![
        any::<u64>().prop_map(|used| Announce::Hello { used }),
        Just(Announce::Refill),
        id.clone().prop_map(Announce::Unknown)
    ];
    prop_oneof![
        (small, why, offers.clone()).prop_map(|(to, why, offers)| SignMessage::Nonces { to, why, offers }),
        (id.clone(), bytes.clone(), chosen).prop_map(|(id, payload, chosen)| SignMessage::Request {
            id,
            payload,
            chosen
        }),
        (id.clone(), digest.clone(), bytes, offers.clone()).prop_map(|(id, request, share, next)| SignMessage::Share {
            id,
            request,
            share,
            next
        }),
        (id, digest, offers).prop_map(|(id, request, next)| SignMessage::Decline { id, request, next }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    #[test] // K3: no message of a member, however made, makes another panic or stops the rest
    fn garbage_is_harmless(messages in proptest::collection::vec(garbage(), 1..40), seed: u8) {
        let mut net = Net::new(&[Mute, Honest, Honest, Honest], seed);
        let from = net.group.members()[0];
        net.open(b"outcome");
        for message in messages {
            for i in 1..4 {
                net.input(i, SignInput::Message { from, message: message.clone(), proof: Signature([0; 64]) });
            }
        }
        net.advance(60_000);
        net.assert_signed(b"outcome");
    }

    #[test] // K3
    fn arbitrary_bytes_are_no_message_or_a_canonical_one(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut bytes = vec![codec::VERSION];
        bytes.extend_from_slice(b"sgms");
        bytes.extend_from_slice(&body);
        if let Ok(message) = codec::decode::<SignMessage>(&bytes) {
            prop_assert_eq!(codec::encode(&message), bytes);
        }
    }
}
