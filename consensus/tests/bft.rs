//! L1 under a deterministic network: virtual time, and every delay, loss and crash from one seed.

use arc_malachitebft_core_types::{NilOrVal, VoteType};
use oda_consensus::bft::*;
use oda_consensus::codec;
use oda_consensus::ids::{BlockHash, ChainId, NodeId, Signature};
use oda_consensus::keys::NodeKey;
use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use std::collections::BTreeMap;
use std::sync::Arc;

const CHAIN: ChainId = ChainId([7; 32]);

fn key(i: usize) -> Arc<NodeKey> {
    Arc::new(NodeKey::from_secret(&[i as u8 + 1; 32]))
}

#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Honest,
    Silent,
    /// Says one thing to one half and another to the other half.
    TwoFaced,
    /// Proposes blocks nobody accepts.
    BadBlocks,
}

enum Event {
    Deliver(usize, Vec<u8>),
    Timer(usize, TimeoutToken, u64),
    Host(usize, u32, BftInput),
    Sync(usize),
    Restart(usize),
}

struct Node {
    key: Arc<NodeKey>,
    manner: Manner,
    bft: Option<Bft>,
    life: u32,
    blocks_built: u32,
    // survive a crash:
    wal: Vec<(u64, Vec<u8>)>,
    chain: Vec<(Vec<u8>, CommitCertificate)>,
    timers: BTreeMap<TimeoutToken, u64>,
    effects: u64,
}

struct Sim {
    seed: u64,
    rng: ChaCha8Rng,
    now_ms: u64,
    next: u64,
    queue: BTreeMap<(u64, u64), Event>,
    nodes: Vec<Node>,
    validators: Vec<NodeId>,
    loss_percent: u32,
    /// Node 0 crashes when about to carry out this effect of its life.
    crash_at: Vec<u64>,
    /// The planted bug: the log is lost in a crash.
    forgets_log: bool,
    votes: BTreeMap<(NodeId, u64, u32, bool), Option<BlockHash>>,
    proposals: BTreeMap<(NodeId, u64, u32), ProposalHeader>,
    evidence: Vec<Evidence>,
    trace: blake3::Hasher,
    synced: u64,
}

impl Sim {
    fn new(seed: u64, manners: &[Manner], loss_percent: u32) -> Self {
        let validators: Vec<NodeId> = (0..manners.len()).map(|i| key(i).id()).collect();
        let nodes = manners.iter().enumerate().map(|(i, &manner)| Node {
            key: key(i),
            manner,
            bft: None,
            life: 0,
            blocks_built: 0,
            wal: Vec::new(),
            chain: Vec::new(),
            timers: BTreeMap::new(),
            effects: 0,
        });
        let mut sim = Self {
            seed,
            rng: ChaCha8Rng::seed_from_u64(seed),
            now_ms: 0,
            next: 0,
            queue: BTreeMap::new(),
            nodes: nodes.collect(),
            validators,
            loss_percent,
            crash_at: Vec::new(),
            forgets_log: false,
            votes: BTreeMap::new(),
            proposals: BTreeMap::new(),
            evidence: Vec::new(),
            trace: blake3::Hasher::new(),
            synced: 0,
        };
        for i in 0..sim.nodes.len() {
            if sim.nodes[i].manner != Manner::Silent {
                sim.at(i as u64, Event::Restart(i));
                sim.at(500 + i as u64, Event::Sync(i));
            }
        }
        sim
    }

    fn at(&mut self, after_ms: u64, event: Event) {
        self.next += 1;
        self.queue.insert((self.now_ms + after_ms, self.next), event);
    }

    fn lost(&mut self) -> bool {
        self.rng.next_u32() % 100 < self.loss_percent
    }

    fn send(&mut self, from: usize, bytes: &[u8], to: impl Fn(usize) -> bool) {
        for i in 0..self.nodes.len() {
            if i != from && to(i) && !self.lost() {
                let delay_ms = 1 + u64::from(self.rng.next_u32() % 80); // reorders
                self.at(delay_ms, Event::Deliver(i, bytes.to_vec()));
            }
        }
    }

    /// No honest validator ever signs two different things (C5, P6).
    fn check(&mut self, bytes: &[u8]) {
        let honest =
            |id: &NodeId, nodes: &[Node]| nodes.iter().any(|n| n.key.id() == *id && n.manner != Manner::TwoFaced);
        let votes = match codec::decode::<Message>(bytes).expect("published messages decode") {
            Message::Vote(v) => vec![v],
            Message::Polka(votes) | Message::Round { votes, .. } => votes,
            Message::Proposal(SignedHeader { header, .. }, _) => {
                if honest(&header.proposer, &self.nodes) {
                    let at = (header.proposer, header.height, header.round);
                    let first = self.proposals.entry(at).or_insert_with(|| header.clone());
                    assert_eq!(*first, header, "two proposals, seed {}", self.seed);
                }
                Vec::new()
            }
        };
        for SignedVote { vote: v, .. } in votes {
            if honest(&v.voter, &self.nodes) {
                let block = match v.block {
                    NilOrVal::Nil => None,
                    NilOrVal::Val(id) => Some(id),
                };
                let at = (v.voter, v.height.0, v.round.as_u32().unwrap(), v.kind == VoteType::Precommit);
                assert_eq!(*self.votes.entry(at).or_insert(block), block, "two votes {at:?}, seed {}", self.seed);
            }
        }
    }

    fn publish(&mut self, i: usize, bytes: Vec<u8>) {
        if self.nodes[i].manner != Manner::TwoFaced {
            self.check(&bytes);
            return self.send(i, &bytes, |_| true);
        }
        let key = self.nodes[i].key.clone();
        let other = match codec::decode::<Message>(&bytes).unwrap() {
            Message::Vote(SignedVote { mut vote, .. }) => {
                vote.block = NilOrVal::Val(BlockHash([9; 32]));
                let signature = key.sign(CHAIN, &vote);
                Message::Vote(SignedVote { vote, signature })
            }
            Message::Proposal(SignedHeader { mut header, .. }, mut block) => {
                block.push(b'!');
                header.block = block_id(&block);
                let signature = key.sign(CHAIN, &header);
                Message::Proposal(SignedHeader { header, signature }, block)
            }
            other => other,
        };
        // One honest validator hears both, so that the lie can be proven.
        self.send(i, &bytes, |to| to <= self_half(i));
        self.send(i, &codec::encode(&other), |to| to == 0 || to > self_half(i));
    }

    fn carry_out(&mut self, i: usize, effects: Vec<BftEffect>) {
        for effect in effects {
            let node = &mut self.nodes[i];
            node.effects += 1;
            if i == 0 && self.crash_at.first() == Some(&node.effects) {
                self.crash_at.remove(0);
                node.bft = None;
                node.life += 1;
                node.timers.clear();
                if self.forgets_log {
                    node.wal.clear();
                }
                return self.at(300, Event::Restart(0));
            }
            self.trace.update(format!("{} {i} {effect:?}", self.now_ms).as_bytes());
            let life = node.life;
            match effect {
                BftEffect::WalAppend { height, entry } => node.wal.push((height, entry)),
                BftEffect::Publish(bytes) => self.publish(i, bytes),
                BftEffect::ScheduleTimeout { token, after_ms } => {
                    node.timers.insert(token, self.next + 1);
                    let id = self.next + 1;
                    self.at(after_ms, Event::Timer(i, token, id));
                }
                BftEffect::CancelTimeout(token) => drop(node.timers.remove(&token)),
                BftEffect::CancelTimeouts => node.timers.clear(),
                BftEffect::NeedBlock { height, round, .. } => {
                    node.blocks_built += 1; // a restarted validator builds another block
                    let bad = if node.manner == Manner::BadBlocks { "bad " } else { "" };
                    let block = format!("{bad}{height} {round} {i} {}", node.blocks_built).into_bytes();
                    self.at(5, Event::Host(i, life, BftInput::Propose { height, round, block }));
                }
                BftEffect::ValidateBlock { height, block, block_id: id, .. } => {
                    assert_eq!(block_id(&block), id);
                    let valid = !block.starts_with(b"bad");
                    self.at(3, Event::Host(i, life, BftInput::Validated { height, block_id: id, valid }));
                }
                BftEffect::Decided { height, block, certificate, .. } => {
                    assert_eq!(height, node.chain.len() as u64 + 1);
                    assert_eq!(certificate.block, block_id(&block));
                    verify_certificate(CHAIN, &self.validators, &certificate).unwrap();
                    assert!(!block.starts_with(b"bad"));
                    node.chain.push((block, certificate));
                    let validators = self.validators.clone();
                    self.at(10, Event::Host(i, life, BftInput::StartHeight { height: height + 1, validators }));
                }
                BftEffect::Evidence(evidence) => self.evidence.push(*evidence),
                BftEffect::Fault { reason } => panic!("{reason}, seed {}", self.seed),
            }
        }
    }

    fn feed(&mut self, i: usize, input: BftInput) {
        let honest_net = !self.nodes.iter().any(|n| n.manner == Manner::TwoFaced);
        match self.nodes[i].bft.as_mut().map(|b| b.handle(input)) {
            Some(Ok(effects)) => self.carry_out(i, effects),
            Some(Err(e)) => {
                assert!(!honest_net || matches!(e, BftError::HeightPassed { .. }), "{e}, seed {}", self.seed)
            }
            None => {}
        }
    }

    fn step(&mut self) {
        let ((now_ms, _), event) = self.queue.pop_first().expect("something always happens");
        self.now_ms = now_ms;
        match event {
            Event::Deliver(to, bytes) => self.feed(to, BftInput::Message { bytes }),
            Event::Timer(i, token, id) => {
                if self.nodes[i].timers.get(&token) == Some(&id) {
                    self.nodes[i].timers.remove(&token);
                    self.feed(i, BftInput::Timeout(token));
                }
            }
            Event::Host(i, life, input) => {
                if self.nodes[i].life == life {
                    self.feed(i, input);
                }
            }
            Event::Restart(i) => {
                let node = &mut self.nodes[i];
                let height = node.chain.len() as u64 + 1;
                let config = BftConfig { key: node.key.clone(), chain: CHAIN, timeouts: Timeouts::default() };
                let log: Vec<_> = node.wal.iter().filter(|(h, _)| *h == height).map(|(_, e)| e.clone()).collect();
                let mut bft = Bft::new(config, height, &self.validators).unwrap();
                let effects = bft.replay(&log).unwrap();
                node.bft = Some(bft);
                self.carry_out(i, effects);
            }
            Event::Sync(i) => {
                self.at(500, Event::Sync(i));
                let peer = self.rng.next_u32() as usize % self.nodes.len();
                let lost = self.lost();
                let len = self.nodes[i].chain.len();
                let Some((block, certificate)) = self.nodes[peer].chain.get(len).cloned().filter(|_| !lost) else {
                    return;
                };
                if self.nodes[i].bft.is_none() {
                    return;
                }
                verify_certificate(CHAIN, &self.validators, &certificate).unwrap();
                self.nodes[i].chain.push((block, certificate));
                self.synced += 1;
                let validators = self.validators.clone();
                self.feed(i, BftInput::StartHeight { height: len as u64 + 2, validators });
            }
        }
    }

    /// Runs until all running honest nodes have this many blocks, the same ones.
    fn run(&mut self, heights: usize) {
        let honest = |n: &&Node| matches!(n.manner, Manner::Honest);
        while self.nodes.iter().filter(honest).any(|n| n.chain.len() < heights) {
            assert!(self.now_ms < 3_600_000, "no progress, seed {}", self.seed);
            self.step();
        }
        let chains: Vec<Vec<&Vec<u8>>> =
            self.nodes.iter().filter(honest).map(|n| n.chain.iter().take(heights).map(|(b, _)| b).collect()).collect();
        assert!(chains.windows(2).all(|w| w[0] == w[1]), "fork, seed {}", self.seed);
    }
}

fn self_half(i: usize) -> usize {
    i / 2
}

use Manner::{BadBlocks, Honest, Silent, TwoFaced};

#[test] // L1
fn four_and_seven_decide_the_same_thirty_blocks() {
    for (seed, n) in [(1, 4), (2, 7), (3, 1)] {
        let mut sim = Sim::new(seed, &vec![Honest; n], 0);
        sim.run(30);
        assert!(sim.evidence.is_empty());
    }
}

#[test] // L1: f of 3f+1 silent
fn decides_with_f_silent() {
    Sim::new(4, &[Honest, Honest, Silent, Honest], 0).run(30);
    Sim::new(5, &[Honest, Silent, Honest, Honest, Silent, Honest, Honest], 0).run(30);
}

#[test] // L1
fn decides_with_a_fifth_of_the_messages_lost() {
    for seed in 10..14 {
        Sim::new(seed, &[Honest; 4], 20).run(30);
    }
    Sim::new(14, &[Honest, Honest, Silent, Honest], 20).run(10);
}

#[test] // L1: a validator whose blocks nobody accepts only costs rounds
fn refused_blocks_are_never_decided() {
    Sim::new(20, &[Honest, BadBlocks, Honest, Honest], 0).run(30);
}

#[test] // L1, row 16 of the threat table
fn equivocation_surfaces_and_does_no_harm() {
    for seed in 30..34 {
        let mut sim = Sim::new(seed, &[Honest, Honest, Honest, TwoFaced], 0);
        sim.run(30);
        assert!(!sim.evidence.is_empty());
        let culprit = key(3).id();
        assert!(sim.evidence.iter().all(|e| e.culprit(CHAIN) == Some(culprit)));
        assert!(sim.evidence.iter().any(|e| matches!(e, Evidence::Votes(..))));
        assert!(sim.evidence.iter().any(|e| matches!(e, Evidence::Proposals(..))));
        assert!(sim.evidence.iter().all(|e| e.culprit(ChainId([8; 32])).is_none()));
    }
}

#[test] // C5, P6: whatever was done when the process died, it never signs twice, and it goes on
fn crash_between_any_two_effects() {
    let effects = {
        let mut sim = Sim::new(40, &[Honest; 4], 0);
        sim.run(5);
        sim.nodes[0].effects
    };
    assert!(effects > 60);
    for at in 1..=effects {
        let mut sim = Sim::new(40, &[Honest; 4], 0);
        sim.crash_at = vec![at];
        sim.run(7);
        assert_eq!(sim.nodes[0].life, 1);
        // With one silent the crashed validator is needed for every decision, and crashes again soon.
        let mut sim = Sim::new(at, &[Honest, Honest, Silent, Honest], 10);
        sim.crash_at = vec![at, at + 3, at + 4 + at % 7];
        sim.run(6);
    }
}

#[test] // the checker above can fail: without the log a restarted proposer signs another block
#[should_panic(expected = "two ")]
fn without_its_log_a_validator_signs_twice() {
    for at in 1..400 {
        let mut sim = Sim::new(40, &[Honest; 4], 0);
        sim.forgets_log = true;
        sim.crash_at = vec![at];
        sim.run(7);
    }
}

#[test] // a validator that fell behind jumps ahead with certified blocks, and votes again
fn a_late_validator_catches_up() {
    let mut sim = Sim::new(60, &[Honest; 4], 0);
    sim.crash_at = vec![30];
    sim.run(20);
    assert!(sim.synced > 0);
    let late = sim.nodes[0].key.id();
    assert!(sim.votes.keys().any(|&(voter, height, ..)| voter == late && height > 15));
}

#[test] // everything at once: a liar, losses and crashes of an honest validator
fn liar_losses_and_crashes() {
    for seed in 100..120 {
        let mut sim = Sim::new(seed, &[Honest, Honest, TwoFaced, Honest], 20);
        sim.crash_at = (0..8).map(|i| 5 + i * 23 + seed % 19).collect();
        sim.run(10);
        assert_eq!(sim.nodes[0].life, 8);
    }
}

#[test] // one seed replays any failure
fn same_seed_same_trace() {
    let trace = |seed| {
        let mut sim = Sim::new(seed, &[Honest, Honest, Honest, TwoFaced], 10);
        sim.crash_at = vec![50, 90];
        sim.run(8);
        sim.trace.finalize()
    };
    assert_eq!(trace(50), trace(50));
    assert_ne!(trace(50), trace(51));
}

fn one(i: usize) -> Bft {
    let config = BftConfig { key: key(i), chain: CHAIN, timeouts: Timeouts::default() };
    let mut bft = Bft::new(config, 1, &(0..4).map(|i| key(i).id()).collect::<Vec<_>>()).unwrap();
    bft.replay(&[]).unwrap();
    bft
}

fn vote(i: usize, kind: VoteType, height: u64, block: BlockHash) -> SignedVote {
    let vote =
        Vote { kind, height: Height(height), round: 0u32.into(), block: NilOrVal::Val(block), voter: key(i).id() };
    SignedVote { signature: key(i).sign(CHAIN, &vote), vote }
}

fn say(bft: &mut Bft, message: &Message) -> Result<Vec<BftEffect>, BftError> {
    bft.handle(BftInput::Message { bytes: codec::encode(message) })
}

#[test] // L1, K3
fn forged_and_malformed_messages_are_refused() {
    let mut bft = one(0);
    let block = BlockHash([5; 32]);
    let good = vote(1, VoteType::Prevote, 1, block);
    let mut forged = good.clone();
    forged.signature = Signature([0; 64]);
    for height in [1, 2] {
        let mut forged = forged.clone();
        forged.vote.height = Height(height);
        assert!(matches!(say(&mut bft, &Message::Vote(forged)), Err(BftError::Refused(_))));
    }
    assert!(matches!(say(&mut bft, &Message::Polka(vec![good.clone()])), Err(BftError::Refused(_))));
    assert!(matches!(say(&mut bft, &Message::Polka(vec![])), Err(BftError::Refused(_))));
    let skip = Message::Round { skip: true, votes: vec![good.clone(), forged] };
    assert!(say(&mut bft, &skip).is_err() || say(&mut bft, &skip).unwrap().is_empty());
    let header = ProposalHeader { height: 1, round: 0, pol_round: None, block, proposer: key(1).id() };
    let proposal =
        Message::Proposal(SignedHeader { signature: key(1).sign(CHAIN, &header), header }, b"other".to_vec());
    assert!(matches!(say(&mut bft, &proposal), Err(BftError::Refused(_))));
    let oversized = vec![1; MAX_MESSAGE_BYTES + 1];
    assert!(matches!(bft.handle(BftInput::Message { bytes: oversized }), Err(BftError::Malformed(_))));
    let block = vec![0; MAX_BLOCK_BYTES + 1];
    assert!(matches!(bft.handle(BftInput::Propose { height: 1, round: 0, block }), Err(BftError::BlockTooLarge(_))));
    // the authentic one moves the engine: it is logged
    assert!(matches!(say(&mut bft, &Message::Vote(good)).unwrap()[..], [BftEffect::WalAppend { .. }, ..]));
}

#[test] // C5: a height never starts twice, a damaged log never votes
fn heights_only_rise_and_damage_stops() {
    let mut bft = one(0);
    let validators: Vec<_> = (0..4).map(|i| key(i).id()).collect();
    let start = |height| BftInput::StartHeight { height, validators: validators.clone() };
    assert!(matches!(bft.handle(start(1)), Err(BftError::HeightPassed { .. })));
    assert!(bft.handle(start(9)).is_ok());
    assert_eq!(bft.height(), 9);
    assert!(matches!(bft.handle(start(8)), Err(BftError::HeightPassed { .. })));
    assert!(matches!(bft.replay(&[]), Err(BftError::AlreadyStarted)));
    let config = BftConfig { key: key(0), chain: CHAIN, timeouts: Timeouts::default() };
    let mut fresh = Bft::new(config.clone(), 1, &validators).unwrap();
    assert!(matches!(fresh.handle(start(2)), Err(BftError::NotStarted)));
    assert!(matches!(fresh.replay(&[vec![1, 2, 3]]), Err(BftError::DamagedLog { index: 0, .. })));
    assert!(matches!(Bft::new(config, 1, &[]), Err(BftError::Validators(0))));
}

#[test] // L1
fn certificates_need_distinct_validators_and_a_quorum() {
    let validators: Vec<_> = (0..4).map(|i| key(i).id()).collect();
    let block = block_id(b"block");
    let sign = |i: usize, kind| (key(i).id(), vote(i, kind, 3, block).signature);
    let of = |signers: &[usize]| CommitCertificate {
        height: 3,
        round: 0,
        block,
        signatures: signers.iter().map(|&i| sign(i, VoteType::Precommit)).collect(),
    };
    let verify = |c: &CommitCertificate| verify_certificate(CHAIN, &validators, c);
    verify(&of(&[0, 1, 2])).unwrap();
    verify(&of(&[0, 1, 2, 3])).unwrap();
    assert!(matches!(verify(&of(&[0, 1])), Err(CertificateError::TooFew { signed: 2, validators: 4 })));
    assert!(matches!(verify(&of(&[])), Err(CertificateError::TooFew { .. })));
    assert!(matches!(verify(&of(&[0, 1, 1])), Err(CertificateError::Duplicate(_))));
    assert!(matches!(verify(&of(&[0, 1, 4])), Err(CertificateError::Foreign(_))));
    let other_block = CommitCertificate { block: block_id(b"other"), ..of(&[0, 1, 2]) };
    assert!(matches!(verify(&other_block), Err(CertificateError::BadSignature(_))));
    for wrong in [CommitCertificate { height: 4, ..of(&[0, 1, 2]) }, CommitCertificate { round: 1, ..of(&[0, 1, 2]) }] {
        assert!(matches!(verify(&wrong), Err(CertificateError::BadSignature(_))));
    }
    let mut prevote = of(&[0, 1, 2]);
    prevote.signatures[1] = sign(1, VoteType::Prevote);
    assert!(matches!(verify(&prevote), Err(CertificateError::BadSignature(_))));
    assert!(verify_certificate(ChainId([8; 32]), &validators, &of(&[0, 1, 2])).is_err());
    assert!(verify_certificate(CHAIN, &[], &of(&[])).is_err());
}

#[test] // K2: changing bytes on the wire breaks a test on purpose
fn bytes_are_pinned() {
    let v = vote(1, VoteType::Precommit, 3, BlockHash([5; 32]));
    let pinned = codec::hash(&Message::Vote(v.clone()));
    assert_eq!(codec::decode::<Message>(&codec::encode(&Message::Vote(v.clone()))).unwrap(), Message::Vote(v));
    assert_eq!(hex::encode(pinned), PINNED);
}
const PINNED: &str = "bc65dce50cbfb82d5de58f985d8e955a7fe8bc313652c3fe5360c14e082bbf5c";

#[test] // pure: no clock, no unseeded randomness, no unordered iteration
fn no_ambient_inputs() {
    for file in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/bft")).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        for word in ["Instant", "SystemTime", "thread_rng", "HashMap", "HashSet", "tokio"] {
            assert!(!text.contains(word), "{word}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test] // K3
    fn arbitrary_bytes_never_panic(body in proptest::collection::vec(any::<u8>(), 0..300), kind in 0u32..5) {
        let mut bft = one(0);
        let mut bytes = vec![codec::VERSION];
        bytes.extend_from_slice(b"bftm");
        bytes.extend_from_slice(&kind.to_le_bytes());
        bytes.extend_from_slice(&body);
        let effects = bft.handle(BftInput::Message { bytes }).unwrap_or_default();
        prop_assert!(effects.is_empty());
        let refused = bft.handle(BftInput::Message { bytes: body }).is_err();
        prop_assert!(refused);
    }

    #[test] // K3: one bit flipped anywhere in an authentic message is noticed
    fn flipped_bits_are_refused(bit in 0usize..8 * 140, precommit: bool, height in 1u64..4) {
        let mut bft = one(0);
        let kind = if precommit { VoteType::Precommit } else { VoteType::Prevote };
        let mut bytes = codec::encode(&Message::Vote(vote(1, kind, height, BlockHash([5; 32]))));
        let bit = bit % (8 * bytes.len());
        bytes[bit / 8] ^= 1 << (bit % 8);
        let effects = bft.handle(BftInput::Message { bytes }).unwrap_or_default();
        prop_assert!(effects.is_empty());
    }
}
