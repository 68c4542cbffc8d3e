//! What one attestation costs: messages and CPU time of a whole session, summed over all members.
//!
//! `cargo run --release -p oda-consensus --example attestation [sessions]`
//!
//! In memory and in one thread: no network, no transport signatures, waiting costs nothing. The faulty
//! members are the ones the coordinator asks first, so they disturb as much as they can.

use oda_consensus::codec;
use oda_consensus::frost::{
    SignEffect, SignInput, SignMessage, Signer, SignerConfig, dkg_all_local, payload_hash, threshold,
};
use oda_consensus::ids::{Digest, NodeId, Signature};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::collections::VecDeque;
use std::time::Instant;

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    Silent,
    Lying,
}

/// Cost of one session.
struct Cost {
    cpu_us: u128,
    messages: usize,
    bytes: usize,
    sessions: usize,
}

struct Committee {
    signers: Vec<Signer>,
    members: Vec<NodeId>,
    faulty: Vec<bool>,
    fault: Fault,
    queue: VecDeque<(usize, NodeId, SignMessage)>,
    rng: ChaCha20Rng,
    now_ms: u64,
    cost: Cost,
    signed: bool,
}

type Keys = (oda_consensus::frost::GroupKey, Vec<oda_consensus::frost::KeyShare>);

impl Committee {
    fn new(n: usize, faulty: usize, fault: Fault, topic: Digest, (group, shares): Keys, seed: u64) -> Self {
        let members = group.members().to_vec();
        let mut signers: Vec<Signer> = members
            .iter()
            .zip(shares)
            .map(|(m, s)| Signer::new(*m, group.clone(), s, SignerConfig::default()))
            .collect();
        let leader = signers.first_mut().and_then(|s| s.leader(topic, 0));
        let leader = members.iter().position(|m| Some(*m) == leader).unwrap_or(0);
        let faulty = (0..n).map(|i| (1..=faulty).contains(&((i + n - leader) % n))).collect();
        let cost = Cost { cpu_us: 0, messages: 0, bytes: 0, sessions: 0 };
        let rng = ChaCha20Rng::seed_from_u64(seed);
        Self { signers, members, faulty, fault, queue: VecDeque::new(), rng, now_ms: 0, cost, signed: false }
    }

    fn input(&mut self, to: usize, input: SignInput) {
        for effect in self.signers[to].handle(input, self.now_ms, &mut self.rng) {
            let SignEffect::Broadcast(mut message) = effect else {
                self.signed |= matches!(effect, SignEffect::Signed { .. });
                continue;
            };
            if self.faulty[to] && !matches!(message, SignMessage::Nonces { .. }) {
                match &mut message {
                    SignMessage::Share { share, .. } if self.fault == Fault::Lying => share[9] ^= to as u8 + 1,
                    _ => continue,
                }
            }
            self.cost.sessions += usize::from(matches!(message, SignMessage::Request { .. }));
            self.cost.messages += 1;
            self.cost.bytes += codec::encode(&message).len();
            let from = self.members[to];
            let others = (0..self.members.len()).filter(|i| *i != to);
            self.queue.extend(others.map(|i| (i, from, message.clone())));
        }
    }

    fn drain(&mut self) {
        while let Some((to, from, message)) = self.queue.pop_front() {
            self.input(to, SignInput::Message { from, message, proof: Signature([0; 64]) });
        }
    }

    fn sign(mut self, topic: Digest, payload: &[u8]) -> Cost {
        for i in 0..self.members.len() {
            self.input(i, SignInput::Start);
        }
        self.drain();
        self.cost = Cost { cpu_us: 0, messages: 0, bytes: 0, sessions: 0 };
        let start = Instant::now();
        for i in 0..self.members.len() {
            self.input(i, SignInput::Approve { topic, payload_hash: payload_hash(payload) });
            self.input(i, SignInput::Open { topic, payload: Some(payload.to_vec()) });
        }
        self.drain();
        while !self.signed && self.now_ms < 600_000 {
            self.now_ms += 50;
            for i in 0..self.members.len() {
                self.input(i, SignInput::Tick);
            }
            self.drain();
        }
        self.cost.cpu_us = start.elapsed().as_micros();
        assert!(self.signed, "no signature");
        self.cost
    }
}

fn main() {
    let runs: u64 = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(20).max(1);
    println!(" n   t  faulty         sessions  messages    bytes  CPU p50 us  CPU p99 us");
    let topic = Digest([5; 32]);
    for n in [4usize, 7, 10, 20] {
        let members: Vec<NodeId> = (0..n).map(|i| NodeId([i as u8 + 1; 32])).collect();
        let mut rng = ChaCha20Rng::seed_from_u64(n as u64);
        let t = threshold(n);
        let (group, shares) = dkg_all_local(&members, t, &mut rng).expect("a committee");
        let kept: Vec<_> = shares.iter().map(|s| s.to_secret_bytes().expect("a share")).collect();
        let keys = || {
            let read = |b: &zeroize::Zeroizing<Vec<u8>>| oda_consensus::frost::KeyShare::from_secret_bytes(b);
            (group.clone(), kept.iter().map(|b| read(b).expect("a share")).collect())
        };
        let mut cases = vec![(0, Fault::Silent, "-")];
        for faulty in [1, n - t] {
            cases.extend([(faulty, Fault::Silent, "silent"), (faulty, Fault::Lying, "lying")]);
        }
        cases.dedup_by_key(|c| (c.0, c.2));
        if n - t == 1 {
            cases.truncate(3);
        }
        for (faulty, fault, name) in cases {
            let one = |seed| Committee::new(n, faulty, fault, topic, keys(), seed).sign(topic, &[7; 1024]);
            let mut costs: Vec<Cost> = (0..runs).map(one).collect();
            costs.sort_by_key(|c| c.cpu_us);
            let at = |percent: usize| costs[(costs.len() * percent).div_ceil(100).clamp(1, costs.len()) - 1].cpu_us;
            let Cost { sessions, messages, bytes, .. } = costs[0];
            println!(
                "{n:2}  {t:2}  {faulty:2} {name:10}  {sessions:8}  {messages:8}  {bytes:7}  {:10}  {:10}",
                at(50),
                at(99)
            );
        }
    }
}
