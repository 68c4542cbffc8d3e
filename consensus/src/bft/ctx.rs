//! The types Malachite works with, and nothing else: equal votes, sorted validators, rotating proposer.

use super::wire::{Proposal, Vote};
use crate::ids::{BlockHash, NodeId, Signature};
use arc_malachitebft_core_types as mala;
use mala::{NilOrVal, Round, VoteType};
use std::fmt;
use std::sync::Arc;

/// Most validators of one height.
pub const MAX_VALIDATORS: usize = 128;
/// Largest block, bytes.
pub const MAX_BLOCK_BYTES: usize = 1 << 20;

/// The name of a block inside the consensus: BLAKE3 of its bytes under its own domain.
pub fn block_id(block: &[u8]) -> BlockHash {
    let mut h = blake3::Hasher::new_derive_key("oda 2026 bft block bytes");
    h.update(block);
    BlockHash(*h.finalize().as_bytes())
}

/// Who proposes at a height and round: the sorted validators take turns (L1).
pub fn proposer(sorted: &[NodeId], height: u64, round: u32) -> Option<NodeId> {
    let n = sorted.len() as u64;
    let turn = (height.checked_rem(n)? + u64::from(round) % n) % n;
    sorted.get(turn as usize).copied()
}

/// Opaque block bytes with their name, which is always computed, never received.
#[derive(Clone)]
pub struct Block {
    id: BlockHash,
    bytes: Arc<[u8]>,
}

impl Block {
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self { id: block_id(&bytes), bytes: bytes.into() }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.bytes.to_vec()
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Block({}, {} bytes)", self.id.short(), self.bytes.len())
    }
}
// The name is collision resistant, so it stands for the bytes.
impl PartialEq for Block {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}
impl Eq for Block {}
impl PartialOrd for Block {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Block {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.id.cmp(&other.id)
    }
}
impl mala::Value for Block {
    type Id = BlockHash;
    fn id(&self) -> BlockHash {
        self.id
    }
}

/// A block height; its own type because Malachite's trait is foreign.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    bincode::Encode,
    bincode::Decode,
    serde::Serialize,
)]
pub struct Height(pub u64);

impl fmt::Display for Height {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
impl mala::Height for Height {
    const ZERO: Self = Self(0);
    const INITIAL: Self = Self(1);
    fn increment_by(&self, n: u64) -> Self {
        Self(self.0.saturating_add(n))
    }
    fn decrement_by(&self, n: u64) -> Option<Self> {
        self.0.checked_sub(n).map(Self)
    }
    fn as_u64(&self) -> u64 {
        self.0
    }
}

impl mala::Address for NodeId {}

/// A validator: its key is its name, and all weigh the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validator(NodeId);

impl mala::Validator<Ctx> for Validator {
    fn address(&self) -> &NodeId {
        &self.0
    }
    fn public_key(&self) -> &NodeId {
        &self.0
    }
    fn voting_power(&self) -> u64 {
        1
    }
}

/// Distinct validators in ascending order; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validators(Arc<[Validator]>);

impl Validators {
    /// Sorts them; `None` if empty, too many, or one is named twice.
    pub(super) fn new(ids: &[NodeId]) -> Option<Self> {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids.dedup();
        (1..=MAX_VALIDATORS).contains(&ids.len()).then(|| Self(ids.into_iter().map(Validator).collect()))
    }

    pub(super) fn contains(&self, id: &NodeId) -> bool {
        mala::ValidatorSet::get_by_address(self, id).is_some()
    }
}

impl mala::ValidatorSet<Ctx> for Validators {
    fn count(&self) -> usize {
        self.0.len()
    }
    fn total_voting_power(&self) -> u64 {
        self.0.len() as u64
    }
    fn get_by_address(&self, address: &NodeId) -> Option<&Validator> {
        self.0.binary_search_by(|v| v.0.cmp(address)).ok().and_then(|i| self.0.get(i))
    }
    fn get_by_index(&self, index: usize) -> Option<&Validator> {
        self.0.get(index)
    }
}

/// Blocks travel whole inside the proposal, so there are no parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoParts {}

impl mala::ProposalPart<Ctx> for NoParts {
    fn is_first(&self) -> bool {
        match *self {}
    }
    fn is_last(&self) -> bool {
        match *self {}
    }
}

/// ed25519; private keys never enter Malachite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ed25519;

impl mala::SigningScheme for Ed25519 {
    type DecodingError = &'static str;
    type Signature = Signature;
    type PublicKey = NodeId;
    type PrivateKey = std::convert::Infallible;

    fn decode_signature(bytes: &[u8]) -> Result<Signature, &'static str> {
        bytes.try_into().map(Signature).map_err(|_| "a signature has 64 bytes")
    }
    fn encode_signature(signature: &Signature) -> Vec<u8> {
        signature.0.to_vec()
    }
    fn decode_public_key(bytes: &[u8]) -> Result<NodeId, &'static str> {
        bytes.try_into().map(NodeId).map_err(|_| "a public key has 32 bytes")
    }
    fn encode_public_key(key: &NodeId) -> Vec<u8> {
        key.0.to_vec()
    }
}

/// How long each step waits, in milliseconds; `step_ms` is added per round, up to `max_ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Waiting for a proposal.
    pub propose_ms: u64,
    /// Waiting for more prevotes once two thirds voted without agreeing.
    pub prevote_ms: u64,
    /// Waiting for more precommits once two thirds voted without agreeing.
    pub precommit_ms: u64,
    /// Before votes are sent again; gossip does not retransmit.
    pub rebroadcast_ms: u64,
    /// Added for each further round.
    pub step_ms: u64,
    /// No wait is longer.
    pub max_ms: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            propose_ms: 3_000,
            prevote_ms: 1_000,
            precommit_ms: 1_000,
            rebroadcast_ms: 2_000,
            step_ms: 500,
            max_ms: 30_000,
        }
    }
}

impl Timeouts {
    pub(super) fn after_ms(&self, timeout: mala::Timeout) -> u64 {
        let base_ms = match timeout.kind {
            mala::TimeoutKind::Propose => self.propose_ms,
            mala::TimeoutKind::Prevote => self.prevote_ms,
            mala::TimeoutKind::Precommit => self.precommit_ms,
            mala::TimeoutKind::Rebroadcast => self.rebroadcast_ms,
            mala::TimeoutKind::FinalizeHeight(wait) => u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
        };
        let rounds = u64::from(timeout.round.as_u32().unwrap_or(0));
        base_ms.saturating_add(self.step_ms.saturating_mul(rounds)).min(self.max_ms)
    }
}

impl mala::Timeouts<Ctx> for Timeouts {
    fn duration_for(&self, timeout: mala::Timeout) -> std::time::Duration {
        std::time::Duration::from_millis(self.after_ms(timeout))
    }
}

/// Malachite's view of this chain.
#[derive(Clone, Debug)]
pub struct Ctx;

impl mala::Context for Ctx {
    type Address = NodeId;
    type Height = Height;
    type ProposalPart = NoParts;
    type Proposal = Proposal;
    type Validator = Validator;
    type ValidatorSet = Validators;
    type Timeouts = Timeouts;
    type Value = Block;
    type Vote = Vote;
    type Extension = ();
    type SigningScheme = Ed25519;

    fn select_proposer<'a>(&self, set: &'a Validators, height: Height, round: Round) -> &'a Validator {
        let n = set.0.len() as u64; // never zero, by construction
        let turn = (height.0 % n + u64::from(round.as_u32().unwrap_or(0)) % n) % n;
        &set.0[turn as usize]
    }

    fn new_proposal(&self, height: Height, round: Round, block: Block, pol: Round, proposer: NodeId) -> Proposal {
        Proposal { height, round, pol, block, proposer }
    }

    fn new_prevote(&self, height: Height, round: Round, block: NilOrVal<BlockHash>, voter: NodeId) -> Vote {
        Vote { kind: VoteType::Prevote, height, round, block, voter }
    }

    fn new_precommit(&self, height: Height, round: Round, block: NilOrVal<BlockHash>, voter: NodeId) -> Vote {
        Vote { kind: VoteType::Precommit, height, round, block, voter }
    }
}
