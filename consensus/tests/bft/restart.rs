//! One validator against the worst story: it is killed after every effect of a height, and after the restart the
//! others say something else, as if to make it forget what it signed.

use super::attack::{four, fresh, proposal, say, vote_in};
use super::net::key;
use arc_malachitebft_core_types::VoteType::{self, Precommit, Prevote};
use oda_consensus::bft::*;
use oda_consensus::codec;
use oda_consensus::ids::BlockHash;
use std::collections::BTreeMap;

/// What happens to the validator at height 1.
#[derive(Clone, Copy)]
enum Event {
    /// The proposer of this round proposes, if it is somebody else; the figure tells blocks apart.
    Proposal(u32, u8),
    /// So many others vote for the block last proposed in this round, or for none.
    Votes(VoteType, u32, usize, bool),
    Timer(Step),
}
use Event::{Proposal, Timer, Votes};

/// All that may happen, as far as it matters for what one signs: decided at once; nobody precommits though
/// all prevoted (a lock), then another block; nil rounds; another block in round 0; nothing but timers.
const STORIES: [&[Event]; 5] = [
    &[Proposal(0, 1), Votes(Prevote, 0, 3, true), Votes(Precommit, 0, 3, true)],
    &[
        Proposal(0, 1),
        Votes(Prevote, 0, 3, true),
        Votes(Precommit, 0, 3, false),
        Timer(Step::Precommit),
        Proposal(1, 2),
        Votes(Prevote, 1, 3, true),
        Votes(Precommit, 1, 3, true),
    ],
    &[
        Timer(Step::Propose),
        Votes(Prevote, 0, 3, false),
        Votes(Precommit, 0, 3, false),
        Timer(Step::Precommit),
        Proposal(1, 1),
        Votes(Prevote, 1, 1, true),
        Votes(Prevote, 1, 3, true),
        Votes(Precommit, 1, 3, true),
    ],
    &[Proposal(0, 3), Votes(Prevote, 0, 2, false), Timer(Step::Prevote), Votes(Precommit, 0, 3, true)],
    &[Timer(Step::Propose), Timer(Step::Prevote), Timer(Step::Precommit), Timer(Step::Rebroadcast), Proposal(0, 4)],
];

type Said = BTreeMap<(u8, u32), Option<BlockHash>>;

struct Puppet {
    me: usize,
    life: u32,
    bft: Bft,
    disk: Vec<Vec<u8>>,
    /// Over all lives: by kind and round.
    said: Said,
    proposed: BTreeMap<u32, BlockHash>,
    /// Effects carried out in this life, and after how many it dies.
    effects: usize,
    dies_after: usize,
    decided: bool,
}

impl Puppet {
    fn new(me: usize, dies_after: usize) -> Self {
        let (disk, said, proposed) = (Vec::new(), Said::new(), BTreeMap::new());
        let mut puppet =
            Self { me, life: 0, bft: fresh(me, 1), disk, said, proposed, effects: 0, dies_after, decided: false };
        puppet.start(dies_after).unwrap();
        puppet
    }

    fn start(&mut self, dies_after: usize) -> Result<(), BftError> {
        self.life += 1;
        (self.bft, self.effects, self.dies_after) = (fresh(self.me, 1), 0, dies_after);
        let effects = self.bft.replay(&self.disk)?;
        self.carry_out(effects);
        Ok(())
    }

    fn dead(&self) -> bool {
        self.effects >= self.dies_after
    }

    fn sign(&mut self, kind: u8, round: u32, block: Option<BlockHash>) {
        let first = *self.said.entry((kind, round)).or_insert(block);
        assert_eq!(first, block, "signed twice: kind {kind}, round {round}, life {}", self.life);
    }

    fn carry_out(&mut self, effects: Vec<BftEffect>) {
        let mut answers = Vec::new();
        for effect in effects {
            if self.dead() {
                return;
            }
            self.effects += 1;
            match effect {
                BftEffect::WalAppend { height, entry } => {
                    assert_eq!(height, 1);
                    self.disk.push(entry);
                }
                BftEffect::Publish(bytes) => match codec::decode(&bytes).unwrap() {
                    Message::Vote(SignedVote { vote, .. }) if vote.voter == key(self.me).id() => {
                        let block = match vote.block {
                            arc_malachitebft_core_types::NilOrVal::Nil => None,
                            arc_malachitebft_core_types::NilOrVal::Val(id) => Some(id),
                        };
                        self.sign(u8::from(vote.kind == Precommit), vote.round.as_u32().unwrap(), block);
                    }
                    Message::Proposal(SignedHeader { header, .. }, _) => {
                        self.sign(2, header.round, Some(header.block));
                        self.proposed.insert(header.round, header.block);
                    }
                    _ => {}
                },
                BftEffect::NeedBlock { height, round, .. } => {
                    // another block in every life: only the log can tell that one was proposed
                    let block = format!("1 of life {} round {round}", self.life).into_bytes();
                    answers.push(BftInput::Propose { height, round, block });
                }
                BftEffect::ValidateBlock { height, block_id, .. } => {
                    answers.push(BftInput::Validated { height, block_id, valid: true });
                }
                BftEffect::Decided { .. } => self.decided = true,
                BftEffect::Fault { reason } => panic!("{reason}"),
                _ => {}
            }
        }
        for answer in answers {
            self.feed(answer);
        }
    }

    fn feed(&mut self, input: BftInput) {
        if !self.dead() && !self.decided {
            let effects = self.bft.handle(input).unwrap_or_default();
            self.carry_out(effects);
        }
    }

    fn hear(&mut self, message: &Message) {
        self.feed(BftInput::Message { bytes: codec::encode(message) });
    }

    fn play(&mut self, story: &[Event]) {
        for step in story {
            match *step {
                Proposal(round, which) => {
                    let who = proposer_of(round);
                    if who != self.me {
                        let block = format!("1 by another, number {which}").into_bytes();
                        self.proposed.insert(round, block_id(&block));
                        self.hear(&proposal(who, 1, round, None, &block));
                    }
                }
                Votes(kind, round, others, for_block) => {
                    let block = for_block.then(|| self.proposed.get(&round).copied().unwrap_or(BlockHash([3; 32])));
                    let me = self.me;
                    for i in (0..4).filter(|i| *i != me).take(others) {
                        self.hear(&Message::Vote(vote_in(i, kind, 1, round, block)));
                    }
                }
                Timer(step) => {
                    let token = TimeoutToken { height: 1, round: self.bft.round(), step };
                    self.feed(BftInput::Timeout(token));
                }
            }
        }
    }
}

fn proposer_of(round: u32) -> usize {
    let mut ids = four();
    ids.sort();
    let id = proposer(&ids, 1, round).unwrap();
    (0..4).find(|i| key(*i).id() == id).unwrap()
}

/// Proposer of round 0, proposer of round 1, and one that does not propose.
fn roles() -> [usize; 3] {
    let (first, second) = (proposer_of(0), proposer_of(1));
    [first, second, (0..4).find(|i| ![first, second].contains(i)).unwrap()]
}

fn effects_of(me: usize, story: &[Event]) -> usize {
    let mut whole = Puppet::new(me, usize::MAX);
    whole.play(story);
    whole.effects
}

#[test] // C5, P6
fn killed_after_any_effect_it_signs_nothing_else_whatever_it_is_told() {
    let (mut cuts, mut restarts) = (0, 0);
    for me in roles() {
        for (number, story) in STORIES.into_iter().enumerate() {
            let decides = number < 3;
            for cut in 0..=effects_of(me, story) {
                cuts += 1;
                for (index, then) in STORIES.iter().enumerate() {
                    let mut puppet = Puppet::new(me, cut);
                    puppet.play(story);
                    // and once more, soon after the first restart
                    for dies_after in [cut % 5 + index, usize::MAX] {
                        puppet.start(dies_after).unwrap();
                        puppet.play(then);
                        restarts += 1;
                    }
                }
                // and told the same again, it goes on to the decision
                let mut puppet = Puppet::new(me, cut);
                puppet.play(story);
                puppet.start(usize::MAX).unwrap();
                // a proposal that was logged and not sent goes out with the first rebroadcast
                puppet.play(&[Timer(Step::Rebroadcast)]);
                puppet.play(story);
                assert!(puppet.decided || !decides, "role {me}, cut {cut}: does not go on");
            }
        }
    }
    assert!(cuts > 200 && restarts > 2_000, "{cuts} cuts, {restarts} restarts");
}

#[test] // the test above can fail: without its log a validator does sign twice, in each role and most stories
fn without_its_log_it_signs_twice() {
    for me in roles() {
        let twice = STORIES.iter().any(|story| {
            let story = *story;
            (0..=effects_of(me, story)).any(|cut| {
                let run = std::panic::catch_unwind(|| {
                    let mut puppet = Puppet::new(me, cut);
                    puppet.play(story);
                    puppet.disk.clear();
                    puppet.start(usize::MAX).unwrap();
                    puppet.play(STORIES[4]);
                });
                run.is_err()
            })
        });
        assert!(twice, "role {me}");
    }
}

/// Must be refused as damaged there, and the validator then says nothing at all.
fn is_refused(me: usize, height: u64, log: &[Vec<u8>], at: usize, how: &str) {
    let mut bft = fresh(me, height);
    match bft.replay(log) {
        Err(BftError::DamagedLog { index, .. }) => assert_eq!(index, at, "{how}"),
        other => panic!("{how} at entry {at}: {other:?}"),
    }
    let token = TimeoutToken { height, round: 0, step: Step::Propose };
    assert!(matches!(bft.handle(BftInput::Timeout(token)), Err(BftError::NotStarted)));
    assert!(matches!(say(&mut bft, &Message::Vote(vote_in(1, Prevote, height, 0, None))), Err(BftError::NotStarted)));
    assert!(matches!(bft.replay(&[]), Err(BftError::AlreadyStarted)), "no second try without the log");
}

#[test] // C5: a torn, flipped, missing, repeated or foreign entry stops the validator before it says anything
fn a_damaged_log_never_votes() {
    for me in roles() {
        for story in STORIES {
            let mut puppet = Puppet::new(me, usize::MAX);
            puppet.play(story);
            let whole = puppet.disk;
            fresh(me, 1).replay(&whole).unwrap();
            for len in 1..=whole.len() {
                let (log, last) = (&whole[..len], len - 1);
                for byte in 0..log[last].len() {
                    let mut bad = log.to_vec();
                    bad[last][byte] ^= 1 << (byte % 8);
                    is_refused(me, 1, &bad, last, "a flipped bit");
                }
                for keep in (0..log[last].len()).step_by(7) {
                    let mut torn = log.to_vec();
                    torn[last].truncate(keep);
                    is_refused(me, 1, &torn, last, "a torn entry");
                }
            }
            for at in 0..whole.len().saturating_sub(1) {
                let mut missing = whole.clone();
                missing.remove(at);
                is_refused(me, 1, &missing, at, "a missing entry");
                let mut repeated = whole.clone();
                repeated.insert(at, whole[at].clone());
                is_refused(me, 1, &repeated, at + 1, "a repeated entry");
                let mut swapped = whole.clone();
                swapped.swap(at, at + 1);
                is_refused(me, 1, &swapped, at, "swapped entries");
            }
            if !whole.is_empty() {
                is_refused(me, 2, &whole, 0, "another height's log");
                is_refused((me + 1) % 4, 1, &whole, 0, "another validator's log");
            }
        }
    }
}
