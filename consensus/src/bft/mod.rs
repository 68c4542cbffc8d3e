//! Agreement on the next block among validators of equal weight: Tendermint, by Malachite (L1).
//!
//! The obvious way, writing the voting rules again, is how chains fork; the rules, the locks and the
//! equivocation guards are Malachite's sans-I/O core. Ours is what it leaves open: the context
//! (`ctx`), bytes on the wire and in the write-ahead log (`wire`), and this wrapper, which turns
//! inputs into a list of effects and does nothing by itself: no clock, no socket, no disk.
//!
//! Contract with the host:
//! * Carry out the effects of one call in order, and all of them before the next call. A
//!   [`BftEffect::WalAppend`] must be on disk before anything after it happens (C5, P6): an own vote
//!   is in the log before anybody can see it, so a restarted validator repeats it and never votes twice.
//! * On start: [`Bft::new`] at the height after the last committed block, then [`Bft::replay`] with the
//!   log entries of that height (an empty list the first time). Entries of lower heights may be deleted.
//! * After [`BftEffect::Decided`]: commit the block, then feed [`BftInput::StartHeight`] of the next
//!   height. A validator that fell behind gets decided blocks with certificates from others, checks
//!   them with [`verify_certificate`] and feeds `StartHeight` of any later height, whatever the state.
//! * Scheduling a [`TimeoutToken`] that is already pending replaces it. Rebroadcasts have the same
//!   bytes as the first sending: gossip must not drop them as duplicates.

mod certificate;
mod ctx;
mod handler;
mod log;
mod proved;
mod wire;

pub use certificate::{CertificateError, CommitCertificate, Evidence, verify_certificate};
pub use ctx::{Height, MAX_BLOCK_BYTES, MAX_VALIDATORS, Timeouts, block_id, proposer};
pub(crate) use log::{sealed_log, unsealed};
pub use wire::{MAX_MESSAGE_BYTES, Message, ProposalHeader, SignedHeader, SignedVote, Step, Vote};

use crate::codec::{self, CodecError};
use crate::ids::{BlockHash, ChainId, NodeId};
use crate::keys::NodeKey;
use arc_malachitebft_core_consensus as tendermint;
use arc_malachitebft_core_types as mala;
use ctx::{Block, Ctx, Validators};
use handler::Handler;
use log::LogSeal;
use mala::{Round, VoteType};
use proved::Proved;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use wire::WalEntry;

/// Messages of so many heights after the current one are kept; later ones are dropped.
const FUTURE_HEIGHTS: u64 = 2;

/// What a validator is.
#[derive(Clone, Debug)]
pub struct BftConfig {
    /// Its key.
    pub key: Arc<NodeKey>,
    /// The chain all signatures are bound to.
    pub chain: ChainId,
    /// How long to wait.
    pub timeouts: Timeouts,
}

/// Names a timer. Timers of a height or round that has passed are ignored when they fire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimeoutToken {
    /// Height it was set at.
    pub height: u64,
    /// Round it was set in.
    pub round: u32,
    /// What it waits for.
    pub step: Step,
}

/// What can happen to a validator.
#[derive(Clone, Debug)]
pub enum BftInput {
    /// Work on this height, dropping an unfinished lower one.
    StartHeight {
        /// Above the current height.
        height: u64,
        /// Who votes, in any order.
        validators: Vec<NodeId>,
    },
    /// A message from gossip.
    Message {
        /// As published by some validator's [`BftEffect::Publish`].
        bytes: Vec<u8>,
    },
    /// A timer fired.
    Timeout(TimeoutToken),
    /// The answer to [`BftEffect::NeedBlock`].
    Propose {
        /// As asked.
        height: u64,
        /// As asked.
        round: u32,
        /// At most [`MAX_BLOCK_BYTES`].
        block: Vec<u8>,
    },
    /// The answer to [`BftEffect::ValidateBlock`]; the first one counts.
    Validated {
        /// As asked.
        height: u64,
        /// As asked.
        block_id: BlockHash,
        /// Whether the block may follow the last committed one.
        valid: bool,
    },
}

/// What the host has to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BftEffect {
    /// Put this on disk before carrying out any later effect.
    WalAppend {
        /// Height the entry belongs to.
        height: u64,
        /// To be given to [`Bft::replay`] in the order appended.
        entry: Vec<u8>,
    },
    /// Send to all validators.
    Publish(Vec<u8>),
    /// Feed [`BftInput::Timeout`] after this long, replacing a pending timer of the same name.
    ScheduleTimeout {
        /// The timer.
        token: TimeoutToken,
        /// From now, milliseconds.
        after_ms: u64,
    },
    /// Forget this timer.
    CancelTimeout(TimeoutToken),
    /// Forget all timers.
    CancelTimeouts,
    /// We propose: build a block and feed [`BftInput::Propose`].
    NeedBlock {
        /// Height to build for.
        height: u64,
        /// Round to build for.
        round: u32,
        /// After this long the round is lost, milliseconds.
        within_ms: u64,
    },
    /// Execute the block on trial and feed [`BftInput::Validated`].
    ValidateBlock {
        /// Height it is proposed for.
        height: u64,
        /// Round it is proposed in.
        round: u32,
        /// Who proposes it.
        proposer: NodeId,
        /// The bytes.
        block: Vec<u8>,
        /// Their name.
        block_id: BlockHash,
    },
    /// The height is decided: commit the block.
    Decided {
        /// Height decided.
        height: u64,
        /// Round it was decided in.
        round: u32,
        /// The bytes.
        block: Vec<u8>,
        /// Proof for those who were not there.
        certificate: CommitCertificate,
    },
    /// A validator signed two conflicting messages.
    Evidence(Box<Evidence>),
    /// The engine could not finish a step. Nothing unsafe was emitted; write it to the log.
    Fault {
        /// What it said.
        reason: String,
    },
}

/// Why an input was refused. Except where said otherwise nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum BftError {
    /// `handle` before `replay`, or after one that failed.
    #[error("call replay with the log of the height first, even if the log is empty")]
    NotStarted,
    /// `replay` twice.
    #[error("replay comes once, before any other input")]
    AlreadyStarted,
    /// No, or too many, validators.
    #[error("{0} validators: there must be 1 to {MAX_VALIDATORS}")]
    Validators(usize),
    /// Starting a height again could sign twice.
    #[error("height {asked} is not above the current height {current}")]
    HeightPassed {
        /// Asked to start.
        asked: u64,
        /// Working on.
        current: u64,
    },
    /// The host proposed too large a block.
    #[error("a block of {0} bytes: build one of at most {MAX_BLOCK_BYTES}")]
    BlockTooLarge(usize),
    /// The peer sent bytes that are no message; blame whoever forwarded them.
    #[error("not a consensus message: {0}")]
    Malformed(#[from] CodecError),
    /// The peer sent a message no honest validator sends; blame whoever forwarded it.
    #[error("refused message: {0}")]
    Refused(&'static str),
    /// A log entry is damaged: do not vote at this height, fetch the decided block from others.
    #[error("log entry {index} is damaged ({reason}): do not vote at this height")]
    DamagedLog {
        /// Which one.
        index: usize,
        /// What is wrong.
        reason: String,
    },
    /// The log does not lead to what was signed: stop, and fetch the decided block from others.
    #[error("replaying the log went another way than the first run: {0}")]
    Diverged(String),
}

/// What is known about a proposed block of the current height.
struct Seen {
    block: Block,
    round: Round,
    proposer: NodeId,
    valid: Option<bool>,
}

/// One place per kind and validator, so that none can crowd out the others.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Slot {
    Proposal,
    Prevote(NodeId),
    Precommit(NodeId),
}

/// One validator's part in the agreement on one chain.
pub struct Bft {
    config: BftConfig,
    state: tendermint::State<Ctx>,
    validators: Validators,
    replayed: bool,
    /// Replayed, and without an error.
    started: bool,
    log_seal: LogSeal,
    /// Blocks of this height. Bounded by Malachite: two proposals a round, few rounds ahead.
    seen: BTreeMap<BlockHash, Seen>,
    /// Our own proposal of the latest round, sent again with our votes.
    own_proposal: Option<(Round, Vec<u8>)>,
    future: BTreeMap<(u64, Slot), Message>,
    proved: Proved,
}

impl Bft {
    /// A validator at the height after its last committed block. Call [`Self::replay`] next.
    ///
    /// # Errors
    /// [`BftError::Validators`].
    pub fn new(config: BftConfig, height: u64, validators: &[NodeId]) -> Result<Self, BftError> {
        let set = Validators::new(validators).ok_or(BftError::Validators(validators.len()))?;
        let params = tendermint::Params {
            address: config.key.id(),
            threshold_params: tendermint::ThresholdParams::default(),
            // The proposal carries the block, but counts only once the host has validated it: for
            // Malachite the "part" that completes it is our verdict.
            value_payload: mala::ValuePayload::ProposalAndParts,
            enabled: true,
        };
        // Its queue for later heights stays unused: it takes unverified messages, ours does not.
        let state = tendermint::State::new(Ctx, Height(height), set.clone(), params, 1, 1);
        let log_seal = LogSeal::new(config.chain, config.key.id(), height);
        Ok(Self {
            config,
            state,
            validators: set,
            replayed: false,
            started: false,
            log_seal,
            seen: BTreeMap::new(),
            own_proposal: None,
            future: BTreeMap::new(),
            proved: Proved::default(),
        })
    }

    /// The height worked on.
    pub fn height(&self) -> u64 {
        self.state.height().0
    }

    /// The round worked on.
    pub fn round(&self) -> u32 {
        self.state.round().as_u32().unwrap_or(0)
    }

    /// Starts the height, going again through what the log says happened before a crash.
    ///
    /// # Errors
    /// [`BftError::DamagedLog`] or [`BftError::Diverged`]: this validator must not vote at this height.
    pub fn replay(&mut self, entries: &[Vec<u8>]) -> Result<Vec<BftEffect>, BftError> {
        if self.replayed {
            return Err(BftError::AlreadyStarted);
        }
        self.replayed = true;
        let damaged = |index, reason: String| BftError::DamagedLog { index, reason };
        let mut inputs = Vec::with_capacity(entries.len());
        let mut logged = BTreeSet::new();
        for (index, bytes) in entries.iter().enumerate() {
            let bytes = self.log_seal.open(bytes).map_err(|e| damaged(index, e))?;
            let entry = codec::decode::<WalEntry>(&bytes).map_err(|e| damaged(index, e.to_string()))?;
            inputs.push(entry.into_input().map_err(|e| damaged(index, e.to_owned()))?);
            logged.insert(bytes);
        }
        let mut out = Vec::new();
        let (height, set) = (self.state.height(), self.validators.clone());
        let start = tendermint::Input::StartHeight(height, set, true, None, mala::VoteExtensionPolicy::Disabled);
        self.state.index_wal_entries(inputs.iter());
        let mut forged = false;
        let result = std::iter::once(start).chain(inputs).try_for_each(|input| {
            forged |= self.process(input, &mut out)?;
            Ok(())
        });
        self.state.reset_entries_index();
        result.map_err(BftError::Diverged)?;
        if forged {
            // The engine skipped an entry it had acted on, for instance because the validators differ.
            return Err(BftError::Diverged("a logged signature does not hold".into()));
        }

        // What is in the log already, and what the replay itself has overtaken, is not for the host.
        let (round, proposing) = (self.round(), self.state.driver.step_is_propose());
        let seen = &self.seen;
        out.retain(|effect| match effect {
            BftEffect::WalAppend { entry, .. } => !logged.contains(entry),
            BftEffect::NeedBlock { round: asked, .. } => proposing && *asked == round,
            BftEffect::ValidateBlock { block_id, .. } => seen.get(block_id).is_none_or(|s| s.valid.is_none()),
            _ => true,
        });
        self.seal(&mut out);
        self.started = true;
        Ok(out)
    }

    /// Seals new log entries in the order in which they will be stored.
    fn seal(&mut self, out: &mut [BftEffect]) {
        for effect in out {
            if let BftEffect::WalAppend { entry, .. } = effect {
                *entry = self.log_seal.seal(std::mem::take(entry));
            }
        }
    }

    /// Takes one input and says what to do.
    ///
    /// # Errors
    /// [`BftError`]; the input is then without consequence.
    pub fn handle(&mut self, input: BftInput) -> Result<Vec<BftEffect>, BftError> {
        if !self.started {
            return Err(BftError::NotStarted);
        }
        let mut out = match input {
            BftInput::StartHeight { height, validators } => self.start_height(height, &validators),
            BftInput::Message { bytes } => self.message(&bytes),
            BftInput::Timeout(token) => self.timeout(token),
            BftInput::Propose { height, round, block } => self.propose(height, round, block),
            BftInput::Validated { height, block_id, valid } => self.validated(height, block_id, valid),
        }?;
        self.seal(&mut out);
        Ok(out)
    }

    fn start_height(&mut self, height: u64, validators: &[NodeId]) -> Result<Vec<BftEffect>, BftError> {
        let current = self.height();
        if height <= current {
            return Err(BftError::HeightPassed { asked: height, current });
        }
        let set = Validators::new(validators).ok_or(BftError::Validators(validators.len()))?;
        let mut out = Vec::new();
        // Evidence since the decision, or of a height that is dropped undecided.
        let (votes, proposals) = (self.state.driver.take_vote_evidence(), self.state.driver.take_proposal_evidence());
        handler::report(votes, proposals, &mut out);
        self.log_seal = LogSeal::new(self.config.chain, self.config.key.id(), height);
        self.seen.clear();
        self.proved.forget_below(height);
        self.own_proposal = None;
        self.validators = set.clone();
        self.apply(
            tendermint::Input::StartHeight(Height(height), set, false, None, mala::VoteExtensionPolicy::Disabled),
            &mut out,
        );
        let later = self.future.split_off(&(height.saturating_add(1), Slot::Proposal));
        let kept = std::mem::replace(&mut self.future, later);
        for ((at, _), message) in kept {
            if let (true, Ok(input)) = (at == height, message.into_input()) {
                self.apply(input, &mut out);
            }
        }
        Ok(out)
    }

    fn message(&mut self, bytes: &[u8]) -> Result<Vec<BftEffect>, BftError> {
        let message = codec::decode::<Message>(bytes)?;
        let height = message.height().ok_or(BftError::Refused("an empty certificate"))?;
        let current = self.height();
        if height < current || height - current > FUTURE_HEIGHTS {
            return Ok(Vec::new());
        }
        if height > current {
            return self.keep(height, message).map(|()| Vec::new());
        }
        let input = message.into_input().map_err(BftError::Refused)?;
        let mut out = Vec::new();
        let forged = self.apply(input, &mut out);
        if forged && out.is_empty() {
            return Err(BftError::Refused("a signature or certificate does not hold"));
        }
        Ok(out)
    }

    /// Keeps an authentic message of a validator for a later height. Certificates are not kept:
    /// they are sent again.
    fn keep(&mut self, height: u64, message: Message) -> Result<(), BftError> {
        let (slot, authentic) = match &message {
            Message::Vote(v) => {
                let voter = v.vote.voter;
                if !self.validators.contains(&voter) {
                    return Ok(()); // perhaps a validator of that height: its votes will come again
                }
                let slot = match v.vote.kind {
                    VoteType::Prevote => Slot::Prevote(voter),
                    VoteType::Precommit => Slot::Precommit(voter),
                };
                (slot, self.proved.vote(self.config.chain, v))
            }
            Message::Proposal(h, _) => {
                let turn =
                    mala::Context::select_proposer(&Ctx, &self.validators, Height(height), Round::new(h.header.round));
                if mala::Validator::address(turn) != &h.header.proposer {
                    return Ok(());
                }
                (Slot::Proposal, self.proved.proposal(self.config.chain, h))
            }
            Message::Polka(_) | Message::Round { .. } => return Ok(()),
        };
        if !authentic {
            return Err(BftError::Refused("a signature does not hold"));
        }
        // Of votes the latest round is kept, of proposals the earliest.
        let rank = |m: &Message| match m {
            Message::Vote(v) => v.vote.round.as_i64(),
            Message::Proposal(h, _) => -i64::from(h.header.round),
            Message::Polka(_) | Message::Round { .. } => i64::MIN,
        };
        let key = (height, slot);
        if self.future.get(&key).is_none_or(|kept| rank(kept) < rank(&message)) {
            self.future.insert(key, message);
        }
        Ok(())
    }

    fn timeout(&mut self, token: TimeoutToken) -> Result<Vec<BftEffect>, BftError> {
        let mut out = Vec::new();
        if token.height != self.height() || token.round != self.round() {
            return Ok(out);
        }
        self.apply(tendermint::Input::TimeoutElapsed(token.step.timeout(token.round)), &mut out);
        if let (Step::Rebroadcast, Some((round, bytes))) = (token.step, &self.own_proposal)
            && *round == Round::new(token.round)
        {
            // Malachite repeats votes but not the proposal, and gossip does not retransmit.
            out.push(BftEffect::Publish(bytes.clone()));
        }
        Ok(out)
    }

    fn propose(&mut self, height: u64, round: u32, block: Vec<u8>) -> Result<Vec<BftEffect>, BftError> {
        if block.len() > MAX_BLOCK_BYTES {
            return Err(BftError::BlockTooLarge(block.len()));
        }
        let mut out = Vec::new();
        // Too late, or answered before: a second block for one round would only fill the log.
        if height == self.height() && round == self.round() && self.state.driver.step_is_propose() {
            let value = tendermint::LocallyProposedValue::new(Height(height), Round::new(round), Block::new(block));
            self.apply(tendermint::Input::Propose(value), &mut out);
        }
        Ok(out)
    }

    fn validated(&mut self, height: u64, id: BlockHash, valid: bool) -> Result<Vec<BftEffect>, BftError> {
        let mut out = Vec::new();
        if height != self.height() {
            return Ok(out);
        }
        let Some(seen) = self.seen.get(&id).filter(|seen| seen.valid.is_none()) else { return Ok(out) };
        let value = tendermint::ProposedValue {
            height: Height(height),
            round: seen.round,
            valid_round: Round::Nil,
            proposer: seen.proposer,
            value: seen.block.clone(),
            validity: mala::Validity::from_bool(valid),
        };
        self.apply(tendermint::Input::ProposedValue(value, mala::ValueOrigin::Consensus), &mut out);
        Ok(out)
    }

    /// Like [`Self::process`]; an engine error becomes the last effect. The effects before it stand,
    /// as each was complete and in order; what is missing can only delay.
    fn apply(&mut self, input: tendermint::Input<Ctx>, out: &mut Vec<BftEffect>) -> bool {
        self.process(input, out).unwrap_or_else(|reason| {
            out.push(BftEffect::Fault { reason });
            false
        })
    }

    /// Runs the engine on one input; says whether a signature or certificate did not hold.
    fn process(&mut self, input: tendermint::Input<Ctx>, out: &mut Vec<BftEffect>) -> Result<bool, String> {
        let Self { config, state, seen, own_proposal, proved, .. } = self;
        let height = match &input {
            tendermint::Input::StartHeight(height, ..) => height.0,
            _ => state.height().0,
        };
        let mut handler = Handler { config, height, seen, own_proposal, proved, out, forged: false };
        let result: Result<(), tendermint::Error<Ctx>> = tendermint::process!(
            input: input,
            state: state,
            metrics: &(),
            with: effect => Ok::<_, std::convert::Infallible>(handler.on(effect))
        );
        result.map(|()| handler.forged).map_err(|e| e.to_string())
    }
}

impl std::fmt::Debug for Bft {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bft(height {}, round {})", self.height(), self.round())
    }
}
