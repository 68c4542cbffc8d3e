//! A whole attestation session, from the members' approval to the verified signature.

use super::{Bench, ms, percentile};
use oda_consensus::frost::{
    GroupKey, KeyShare, SignEffect, SignInput, SignMessage, Signer, SignerConfig, dkg_all_local, payload_hash,
    threshold,
};
use oda_consensus::ids::{Digest, NodeId, Signature};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::collections::VecDeque;
use std::time::Duration;

/// How the measurements of sessions are named.
pub const NAME: &str = "attestation";
const TOPIC: Digest = Digest([5; 32]);
const PAYLOAD: [u8; 1024] = [7; 1024];
/// How often the members look at the clock.
const TICK_MS: u64 = 10;

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    Silent,
    Lying,
}

/// What a session took beside CPU time.
#[derive(Clone, Copy, Default)]
pub struct Cost {
    messages: usize,
    /// Spent waiting for members that say nothing.
    waited_ms: u64,
}

/// One line of the table.
pub struct Case {
    name: String,
    n: usize,
    faulty: usize,
    fault: Fault,
    cost: Cost,
}

/// Members with their nonces exchanged. The faulty ones are those the leader asks first.
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

impl Committee {
    fn new(group: &GroupKey, shares: Vec<KeyShare>, faulty: usize, fault: Fault, seed: u64) -> Self {
        let members = group.members().to_vec();
        let n = members.len();
        let new =
            |(member, share): (&NodeId, KeyShare)| Signer::new(*member, group.clone(), share, SignerConfig::default());
        let signers: Vec<Signer> = members.iter().zip(shares).map(new).collect();
        let leader = signers.first().and_then(|s| s.leader(TOPIC, 0));
        let leader = members.iter().position(|m| Some(*m) == leader).unwrap_or(0);
        let faulty = (0..n).map(|i| (1..=faulty).contains(&((i + n - leader) % n))).collect();
        let rng = ChaCha20Rng::seed_from_u64(seed);
        let (queue, cost) = (VecDeque::new(), Cost::default());
        let mut committee = Self { signers, members, faulty, fault, queue, rng, now_ms: 0, cost, signed: false };
        (0..n).for_each(|i| committee.input(i, SignInput::Start));
        committee.drain();
        committee.cost = Cost::default();
        committee
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
            self.cost.messages += 1;
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

    fn sign(mut self) -> Cost {
        let n = self.members.len();
        for i in 0..n {
            self.input(i, SignInput::Approve { topic: TOPIC, payload_hash: payload_hash(&PAYLOAD) });
            self.input(i, SignInput::Open { topic: TOPIC, payload: Some(PAYLOAD.to_vec()) });
        }
        self.drain();
        while !self.signed && self.now_ms < 600_000 {
            self.now_ms += TICK_MS;
            (0..n).for_each(|i| self.input(i, SignInput::Tick));
            self.drain();
        }
        assert!(self.signed, "no signature");
        Cost { waited_ms: self.now_ms, ..self.cost }
    }
}

/// Measures committees of 4 to 20.
pub fn run(bench: &mut Bench) -> Vec<Case> {
    let mut done = Vec::new();
    for n in [4usize, 7, 10, 20] {
        let members: Vec<NodeId> = (0..n).map(|i| NodeId([i as u8 + 1; 32])).collect();
        let t = threshold(n);
        let mut rng = ChaCha20Rng::seed_from_u64(n as u64);
        let (group, shares) = dkg_all_local(&members, t, &mut rng).expect("a committee");
        let kept: Vec<_> = shares.iter().map(|s| s.to_secret_bytes().expect("a share")).collect();
        let shares = || kept.iter().map(|b| KeyShare::from_secret_bytes(b).expect("a share")).collect();
        let mut cases = vec![(0, Fault::Silent)];
        for faulty in [1, n - t] {
            cases.extend([(faulty, Fault::Silent), (faulty, Fault::Lying)]);
        }
        if n - t == 1 {
            cases.truncate(3);
        }
        for (faulty, fault) in cases {
            let kind = if fault == Fault::Lying { "lying" } else { "silent" };
            let name = format!("{NAME}/n={n} faulty={faulty} {kind}");
            let (mut seed, mut cost) = (0, Cost::default());
            let setup = || {
                seed += 1;
                Committee::new(&group, shares(), faulty, fault, seed)
            };
            if bench.time(&name, setup, |committee| cost = committee.sign()) {
                done.push(Case { name, n, faulty, fault, cost });
            }
        }
    }
    done
}

/// The table of sessions.
pub fn print(cases: &[Case], runs: &[(String, Vec<Duration>)]) {
    if cases.is_empty() {
        return;
    }
    println!(
        "One attestation of 1 KiB. CPU is of all n members together; waiting is what the protocol's own timers add,\n\
         to which the network's round trips come.\n\n\
         | n | t | faulty | | CPU p50 ms | CPU p99 ms | of one member, p50 ms | broadcasts | waiting ms |\n\
         |---|---|---|---|---|---|---|---|---|"
    );
    for Case { name, n, faulty, fault, cost } in cases {
        let mut runs: Vec<Duration> =
            runs.iter().find(|(of, _)| of == name).map(|(_, r)| r.clone()).unwrap_or_default();
        runs.sort_unstable();
        let (p50, p99) = (percentile(&runs, 50), percentile(&runs, 99));
        let kind = match fault {
            _ if *faulty == 0 => "",
            Fault::Lying => "lying",
            Fault::Silent => "silent",
        };
        let one = p50 / u32::try_from(*n).unwrap_or(1);
        let (t, Cost { messages, waited_ms }) = (threshold(*n), cost);
        println!(
            "| {n} | {t} | {faulty} | {kind} | {} | {} | {} | {messages} | {waited_ms} |",
            ms(p50),
            ms(p99),
            ms(one)
        );
    }
    println!();
}
