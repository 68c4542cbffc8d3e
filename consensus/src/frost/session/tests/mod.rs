//! A committee in one thread: a queue of messages with drawn delays, a conduct for each member.

mod attempts;
mod hostile;
mod nonce;
mod roast;
mod vectors;

use super::*;
use crate::codec;
use crate::frost::{dkg_all_local, threshold};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::sync::Mutex;

/// How a member behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Conduct {
    Honest,
    /// Sends nothing at all.
    Mute,
    /// Announces nonces, then sends nothing.
    Silent,
    /// Sends broken shares.
    Lying,
    /// Announces commitments that are not its nonces', and answers with made-up shares.
    Forging,
    /// Its host refuses.
    Refusing,
    /// Its host has no opinion.
    Undecided,
    /// Answers with what it heard before.
    Replaying,
    /// Says it knows none of its nonces, every time.
    Forgetful,
}
use Conduct::*;

impl Conduct {
    /// Sends shares that prove its fault.
    fn cheats(self) -> bool {
        matches!(self, Lying | Forging | Replaying)
    }
}

const TOPIC: Digest = Digest([5; 32]);
const CONFIG: SignerConfig = SignerConfig { attempt_ms: 4_000, share_wait_ms: 1_000, hedge_ms: 150, nonces: 2 };

/// The group of n members; made once, since the key generation is most of a test's work.
fn keys(n: usize) -> (GroupKey, Vec<KeyShare>) {
    type Made = BTreeMap<usize, (GroupKey, Vec<Vec<u8>>)>;
    static MADE: Mutex<Made> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap_or_else(|e| e.into_inner());
    let (group, bytes) = made.entry(n).or_insert_with(|| {
        let members: Vec<NodeId> = (0..n).map(|i| NodeId([u8::try_from(i).unwrap() + 1; 32])).collect();
        let mut rng = ChaCha20Rng::from_seed([n as u8; 32]);
        let (group, shares) = dkg_all_local(&members, threshold(n), &mut rng).unwrap();
        (group, shares.iter().map(|s| s.to_secret_bytes().unwrap().to_vec()).collect())
    });
    (group.clone(), bytes.iter().map(|b| KeyShare::from_secret_bytes(b).unwrap()).collect())
}

/// What a transport would sign.
fn proof(from: NodeId, message: &SignMessage) -> Signature {
    let mut h = blake3::Hasher::new();
    h.update(&from.0).update(&codec::encode(message));
    let mut out = [0; 64];
    h.finalize_xof().fill(&mut out);
    Signature(out)
}

struct Net {
    signers: Vec<Signer>,
    conduct: Vec<Conduct>,
    rng: ChaCha20Rng,
    queue: Vec<(u64, usize, NodeId, SignMessage)>,
    now_ms: u64,
    /// Of 1000 messages; and the most they take.
    lost: u32,
    delay_ms: u32,
    signed: Vec<(Vec<u8>, GroupSignature)>,
    sent: Vec<(NodeId, SignMessage)>,
    group: GroupKey,
    // what the honest say:
    blamed: BTreeSet<NodeId>,
    proven: Vec<(NodeId, ShareEvidence)>,
    refused: Vec<(NodeId, RefusedWhy)>,
    /// Cheaters whose share reached the honest coordinator that asked.
    cheated: BTreeSet<NodeId>,
}

impl Net {
    fn new(conduct: &[Conduct], seed: u8) -> Self {
        let mut net = Self::cold(conduct, seed);
        for i in 0..conduct.len() {
            net.input(i, SignInput::Start);
        }
        net.drain();
        net.sent.clear();
        net
    }

    /// Without nonces exchanged.
    fn cold(conduct: &[Conduct], seed: u8) -> Self {
        let (group, shares) = keys(conduct.len());
        let make = |(m, s): (&NodeId, KeyShare)| Signer::new(*m, group.clone(), s, CONFIG);
        let signers = group.members().iter().zip(shares).map(make).collect();
        Self {
            signers,
            conduct: conduct.to_vec(),
            rng: ChaCha20Rng::from_seed([seed; 32]),
            queue: vec![],
            now_ms: 0,
            lost: 0,
            delay_ms: 50,
            signed: vec![],
            sent: vec![],
            group,
            blamed: BTreeSet::new(),
            proven: vec![],
            refused: vec![],
            cheated: BTreeSet::new(),
        }
    }

    fn honest(&self, i: usize) -> bool {
        self.conduct[i] == Honest
    }

    fn index(&self, node: NodeId) -> usize {
        self.group.index_of(node).unwrap()
    }

    fn leader(&self, attempt: u32) -> usize {
        self.index(self.signers[0].leader(TOPIC, attempt).unwrap())
    }

    /// What a member of that conduct sends instead.
    fn bend(&mut self, i: usize, message: SignMessage) -> Option<SignMessage> {
        Some(match (self.conduct[i], message) {
            (Mute, _) => return None,
            (Silent, message) if !matches!(message, SignMessage::Nonces { .. }) => return None,
            (Lying, SignMessage::Share { id, request, mut share, next }) => {
                share[9] ^= 1 << i; // no two errors cancel
                SignMessage::Share { id, request, share, next }
            }
            (Forging, SignMessage::Nonces { to, why, mut offers }) => {
                let names: Vec<u64> = offers.iter().map(|o| o.nonce_id).collect();
                offers.reverse();
                offers.iter_mut().zip(names).for_each(|(o, name)| o.nonce_id = name);
                SignMessage::Nonces { to, why, offers }
            }
            (Replaying, SignMessage::Share { id, request, .. }) => {
                let same =
                    |m: &&(NodeId, SignMessage)| matches!(&m.1, SignMessage::Share { request: r, .. } if *r == request);
                let any = |m: &&(NodeId, SignMessage)| matches!(&m.1, SignMessage::Share { .. });
                let old = self.sent.iter().find(same).or_else(|| self.sent.iter().find(any));
                old.map(|m| m.1.clone()).unwrap_or(SignMessage::Decline { id, request, next: vec![] })
            }
            (Forgetful, SignMessage::Share { id, next, .. }) => {
                let to = u16::try_from(self.index(self.signers[i].leader(id.topic, id.attempt).unwrap())).unwrap();
                SignMessage::Nonces { to, why: Announce::Unknown(id), offers: next }
            }
            (_, message) => message,
        })
    }

    fn send(&mut self, i: usize, message: SignMessage) {
        let me = self.group.members()[i];
        self.sent.push((me, message.clone()));
        for to in (0..self.signers.len()).filter(|to| *to != i) {
            let delay = u64::from(self.rng.next_u32() % self.delay_ms);
            if self.rng.next_u32() % 1000 >= self.lost {
                self.queue.push((self.now_ms + delay, to, me, message.clone()));
            }
        }
    }

    fn deliver(&mut self, to: usize, from: NodeId, message: SignMessage) {
        if let SignMessage::Request { id, payload, chosen } = &message
            && self.conduct[to] == Forging
            && chosen.iter().any(|c| usize::from(c.member) == to)
        {
            let request = request_digest(*id, payload, chosen).unwrap();
            return self.send(to, SignMessage::Share { id: *id, request, share: vec![3; 32], next: vec![] });
        }
        if let SignMessage::Share { id, request, .. } = &message {
            let lead = self.signers[to].topics.get(&id.topic).and_then(|t| t.lead.as_ref());
            let asked = lead.is_some_and(|l| l.owed(*id, *request, self.index(from) as u16));
            if asked && self.honest(to) && self.conduct[self.index(from)].cheats() {
                self.cheated.insert(from);
            }
        }
        let proof = proof(from, &message);
        self.input(to, SignInput::Message { from, message, proof });
    }

    fn input(&mut self, to: usize, input: SignInput) {
        let effects = self.signers[to].handle(input, self.now_ms, &mut self.rng);
        let honest = self.honest(to);
        for effect in effects {
            match effect {
                SignEffect::Broadcast(message) => {
                    assert!(codec::encode(&message).len() <= <SignMessage as codec::Record>::MAX_BYTES);
                    if let Some(message) = self.bend(to, message) {
                        self.send(to, message);
                    }
                }
                SignEffect::Review { topic, payload, .. } => self.opinion(to, topic, &payload),
                SignEffect::Signed { payload, signature, .. } => self.signed.push((payload, signature)),
                SignEffect::Blame { node, .. } if honest => drop(self.blamed.insert(node)),
                SignEffect::Evidence { node, evidence, proof: kept } if honest => {
                    assert!(evidence.proves(&self.group), "evidence that proves nothing");
                    assert_eq!(evidence.node(&self.group), Some(node));
                    assert_eq!(kept, proof(node, &evidence.message().unwrap()), "the wrong signature was kept");
                    let bytes = codec::encode(&evidence);
                    assert_eq!(codec::decode::<ShareEvidence>(&bytes).unwrap(), evidence);
                    self.proven.push((node, evidence));
                }
                SignEffect::Refused { from, why } if honest => self.refused.push((from, why)),
                SignEffect::Blame { .. } | SignEffect::Evidence { .. } | SignEffect::Refused { .. } => {}
            }
        }
    }

    fn opinion(&mut self, to: usize, topic: Digest, payload: &[u8]) {
        let payload_hash = payload_hash(payload);
        match self.conduct[to] {
            Undecided => {}
            Refusing => self.input(to, SignInput::Refuse { topic, payload_hash }),
            _ => self.input(to, SignInput::Approve { topic, payload_hash }),
        }
    }

    fn open(&mut self, payload: &[u8]) {
        for i in 0..self.signers.len() {
            self.opinion(i, TOPIC, payload);
            self.input(i, SignInput::Open { topic: TOPIC, payload: Some(payload.to_vec()) });
        }
    }

    fn run(&mut self, payload: &[u8], until_ms: u64) {
        self.open(payload);
        self.advance(until_ms);
    }

    /// Delivers all that is on its way, in order and without time.
    fn drain(&mut self) {
        for _ in 0..20 {
            for (_, to, from, message) in std::mem::take(&mut self.queue) {
                self.deliver(to, from, message);
            }
        }
        assert!(self.queue.is_empty(), "the members do not come to rest");
    }

    fn step(&mut self) {
        self.now_ms += 10;
        let all = std::mem::take(&mut self.queue).into_iter();
        let (due, later): (Vec<_>, Vec<_>) = all.partition(|m| m.0 <= self.now_ms);
        self.queue = later;
        for (_, to, from, message) in due {
            self.deliver(to, from, message);
        }
        if self.now_ms.is_multiple_of(50) {
            for i in 0..self.signers.len() {
                self.input(i, SignInput::Tick);
            }
        }
    }

    fn advance(&mut self, until_ms: u64) {
        while self.now_ms < until_ms && self.signed.is_empty() {
            self.step();
        }
    }

    fn restart(&mut self, i: usize) {
        let share = keys(self.signers.len()).1.swap_remove(i);
        self.signers[i] = Signer::new(self.group.members()[i], self.group.clone(), share, CONFIG);
        self.input(i, SignInput::Start);
    }

    /// Shares sent by all members.
    fn shares(&self) -> usize {
        self.sent.iter().filter(|(_, m)| matches!(m, SignMessage::Share { .. })).count()
    }

    fn requests(&self) -> Vec<(NodeId, SessionId, Vec<Chosen>)> {
        let of = |(node, m): &(NodeId, SignMessage)| match m {
            SignMessage::Request { id, chosen, .. } => Some((*node, *id, chosen.clone())),
            _ => None,
        };
        self.sent.iter().filter_map(of).collect()
    }

    fn assert_signed(&self, payload: &[u8]) {
        let (what, signature) = self.signed.first().expect("signed");
        assert_eq!(what, payload);
        assert!(self.group.verify(payload, signature));
        assert!(!self.group.verify(b"something else", signature));
    }

    /// Nobody honest is accused by anybody honest, and all who cheated are.
    fn assert_just(&self) {
        for node in &self.blamed {
            assert!(!self.honest(self.index(*node)), "an honest member was blamed");
        }
        for (node, why) in &self.refused {
            assert!(!self.honest(self.index(*node)), "an honest member's message was refused: {why}");
        }
        let proven: BTreeSet<NodeId> = self.proven.iter().map(|(node, _)| *node).collect();
        assert_eq!(proven, self.cheated, "named by evidence, and cheated");
    }

    /// C4: no honest coordinator needed more sessions than ROAST promises.
    fn assert_few_sessions(&self) {
        let n = self.signers.len();
        for (node, id, chosen) in self.requests() {
            assert_eq!(chosen.len(), threshold(n));
            assert!(usize::from(id.session) <= n - threshold(n), "{node:?} opened session {}", id.session);
        }
    }
}
