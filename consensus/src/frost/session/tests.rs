use super::*;
use crate::frost::{dkg_all_local, threshold};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

/// How a member behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Conduct {
    Honest,
    Silent,
    /// Sends broken shares.
    Lying,
    /// Commits, then never signs.
    Stalling,
    /// Its host never approves.
    Disagreeing,
}

struct Net {
    signers: Vec<Signer>,
    conduct: Vec<Conduct>,
    rng: ChaCha20Rng,
    queue: Vec<(u64, usize, NodeId, SignMessage)>,
    now_ms: u64,
    signed: Vec<(Vec<u8>, GroupSignature)>,
    blamed: BTreeSet<NodeId>,
    sent: Vec<(NodeId, SignMessage)>,
    group: GroupKey,
    keys: Vec<zeroize::Zeroizing<Vec<u8>>>,
}

const TOPIC: Digest = Digest([5; 32]);

impl Net {
    fn new(conduct: &[Conduct], seed: u8) -> Self {
        let n = conduct.len();
        let mut rng = ChaCha20Rng::from_seed([seed; 32]);
        let members: Vec<NodeId> = (0..n).map(|i| NodeId([u8::try_from(i).unwrap() + 1; 32])).collect();
        let (group, shares) = dkg_all_local(&members, threshold(n), &mut rng).unwrap();
        let keys: Vec<_> = shares.iter().map(|s| s.to_secret_bytes().unwrap()).collect();
        let signers = members
            .iter()
            .zip(shares)
            .map(|(m, s)| Signer::new(*m, group.clone(), s, SignerConfig::default()))
            .collect();
        Self {
            signers,
            conduct: conduct.to_vec(),
            rng,
            queue: vec![],
            now_ms: 0,
            signed: vec![],
            blamed: BTreeSet::new(),
            sent: vec![],
            group,
            keys,
        }
    }

    fn input(&mut self, to: usize, input: SignInput) {
        let effects = self.signers[to].handle(input, self.now_ms, &mut self.rng);
        let me = self.group.members()[to];
        for effect in effects {
            match effect {
                SignEffect::Broadcast(mut message) => {
                    match (self.conduct[to], &mut message) {
                        (Conduct::Silent, _) | (Conduct::Stalling, SignMessage::Share { .. }) => continue,
                        (Conduct::Lying, SignMessage::Share { share, .. }) => share[7] ^= 1,
                        _ => {}
                    }
                    self.sent.push((me, message.clone()));
                    for i in (0..self.signers.len()).filter(|i| *i != to) {
                        let delay = u64::from(self.rng.next_u32() % 50);
                        self.queue.push((self.now_ms + delay, i, me, message.clone()));
                    }
                }
                SignEffect::Review { topic, payload, .. } => {
                    if self.conduct[to] != Conduct::Disagreeing {
                        self.input(to, SignInput::Approve { topic, payload_hash: payload_hash(&payload) });
                    }
                }
                SignEffect::Signed { payload, signature, .. } => self.signed.push((payload, signature)),
                SignEffect::Blame { node, .. } => drop(self.blamed.insert(node)),
            }
        }
    }

    fn run(&mut self, payload: &[u8], until_ms: u64) {
        for i in 0..self.signers.len() {
            self.input(i, SignInput::Open { topic: TOPIC, payload: Some(payload.to_vec()) });
            if self.conduct[i] != Conduct::Disagreeing {
                self.input(i, SignInput::Approve { topic: TOPIC, payload_hash: payload_hash(payload) });
            }
        }
        while self.now_ms < until_ms && self.signed.is_empty() {
            self.now_ms += 10;
            let (due, later): (Vec<_>, Vec<_>) =
                std::mem::take(&mut self.queue).into_iter().partition(|m| m.0 <= self.now_ms);
            self.queue = later;
            for (_, to, from, message) in due {
                self.input(to, SignInput::Message { from, message });
            }
            for i in 0..self.signers.len() {
                if self.now_ms % 250 == 0 {
                    self.input(i, SignInput::Tick);
                }
            }
        }
    }

    fn assert_signed(&self, payload: &[u8]) {
        let (what, signature) = self.signed.first().expect("signed");
        assert_eq!(what, payload);
        assert!(self.group.verify(payload, signature));
        assert!(!self.group.verify(b"something else", signature));
    }
}

use Conduct::{Disagreeing, Honest, Lying, Silent, Stalling};

#[test] // R5
fn all_honest_sign_in_the_first_attempt() {
    for (n, seed) in [(4, 1), (7, 2)] {
        let mut net = Net::new(&vec![Honest; n], seed);
        net.run(b"outcome", 3_000);
        net.assert_signed(b"outcome");
        assert!(net.blamed.is_empty());
    }
}

#[test] // C4: every set of n - t members may be silent, lie, stall or disagree
fn no_minority_can_stop_a_signature() {
    for bad in [Silent, Lying, Stalling, Disagreeing] {
        for n in [4usize, 7] {
            let f = n - threshold(n);
            for mask in 0u32..1 << n {
                if mask.count_ones() as usize != f {
                    continue;
                }
                let conduct: Vec<_> = (0..n).map(|i| if mask >> i & 1 == 1 { bad } else { Honest }).collect();
                let mut net = Net::new(&conduct, u8::try_from(mask % 251).unwrap());
                net.run(b"outcome", 120_000);
                net.assert_signed(b"outcome");
                for node in &net.blamed {
                    assert_ne!(conduct[net.group.index_of(*node).unwrap()], Honest, "an honest member was blamed");
                }
            }
        }
    }
}

#[test] // C3, R5: what n - t + 1 members do not confirm is never signed
fn a_blocking_minority_blocks() {
    let mut net = Net::new(&[Disagreeing, Disagreeing, Honest, Honest], 3);
    net.run(b"outcome", 60_000);
    assert!(net.signed.is_empty());
}

#[test] // C5: a replayed or repeated session message never gets a second share from one nonce
fn a_nonce_signs_once() {
    let mut net = Net::new(&[Honest; 4], 4);
    net.run(b"outcome", 3_000);
    let before = net.sent.iter().filter(|(_, m)| matches!(m, SignMessage::Share { .. })).count();
    let replay: Vec<_> = net.sent.clone();
    let packages: Vec<_> = replay.iter().filter(|(_, m)| matches!(m, SignMessage::Package { .. })).cloned().collect();
    assert!(!packages.is_empty());
    for (from, message) in replay {
        for i in 0..4 {
            net.input(i, SignInput::Message { from, message: message.clone() });
        }
    }
    // a leader asking the same session to sign another set: the nonce is gone
    for (from, message) in packages {
        if let SignMessage::Package { id, payload_hash, mut chosen } = message {
            chosen.reverse();
            for i in 0..4 {
                let message = SignMessage::Package { id, payload_hash, chosen: chosen.clone() };
                net.input(i, SignInput::Message { from, message });
            }
        }
    }
    let after = net.sent.iter().filter(|(_, m)| matches!(m, SignMessage::Share { .. })).count();
    assert_eq!(before, after);
    let mut seen = BTreeSet::new();
    for (node, message) in &net.sent {
        if let SignMessage::Commit { commitments, .. } = message {
            assert!(seen.insert((*node, commitments.clone())), "a nonce commitment was sent twice");
        }
    }
}

#[test] // C5, crash: a member that lost its memory takes part again with new nonces
fn a_restarted_member_signs_with_new_nonces() {
    let mut net = Net::new(&[Honest, Honest, Honest, Silent], 6);
    net.run(b"outcome", 20);
    let share = KeyShare::from_secret_bytes(&net.keys[1]).unwrap();
    assert!(share.belongs_to(&net.group, net.group.members()[1]));
    assert!(!share.belongs_to(&net.group, net.group.members()[2]));
    net.signers[1] = Signer::new(net.group.members()[1], net.group.clone(), share, SignerConfig::default());
    net.run(b"outcome", 120_000);
    net.assert_signed(b"outcome");
}

#[test] // only the attempt's leader leads; foreigners are not heard
fn impostors_are_ignored() {
    let mut net = Net::new(&[Honest; 4], 7);
    let leader = net.signers[0].leader(TOPIC, 0).unwrap();
    let impostor = *net.group.members().iter().find(|m| **m != leader).unwrap();
    let id = SessionId { topic: TOPIC, attempt: 0, session: 0 };
    for from in [impostor, NodeId([99; 32])] {
        let effects = net.signers[0].handle(
            SignInput::Message { from, message: SignMessage::Propose { id, payload: b"x".to_vec() } },
            0,
            &mut net.rng,
        );
        assert!(effects.is_empty());
    }
}

#[test] // K2: the group key survives its bytes, damaged bytes do not become a key
fn group_key_bytes() {
    let net = Net::new(&[Honest; 4], 8);
    let bytes = crate::codec::encode(&net.group);
    assert_eq!(crate::codec::decode::<GroupKey>(&bytes).unwrap(), net.group);
    for i in 5..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[i] ^= 0x80;
        if let Ok(key) = crate::codec::decode::<GroupKey>(&damaged) {
            assert_ne!(key, net.group);
        }
    }
}
