//! What an attacker may do: everything a network participant with its own key can.

use super::net::{CHAIN, key};
use arc_malachitebft_core_types::{NilOrVal, VoteType};
use oda_consensus::bft::*;
use oda_consensus::codec;
use oda_consensus::ids::{BlockHash, ChainId};
use oda_consensus::keys::NodeKey;
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;

/// `None` is an honest validator.
pub type Kind = Option<fn() -> Box<dyn Attacker>>;
pub const HONEST: Kind = None;

/// Sizes of the network at which every kind of attacker is tried, as f of 3f+1.
pub const SIZES: [usize; 3] = [4, 7, 10];

/// Whom a message is meant for.
#[derive(Clone)]
pub enum To {
    All,
    Some(Vec<usize>),
}

/// A message on its way.
#[derive(Clone)]
pub struct Sending {
    pub to: To,
    /// On top of the network's own delay.
    pub after_ms: u64,
    pub bytes: Vec<u8>,
    /// Nobody honest may act on it.
    pub forged: bool,
}

impl Sending {
    pub fn all(bytes: Vec<u8>) -> Self {
        Self { to: To::All, after_ms: 0, bytes, forged: false }
    }
    pub fn some(nodes: Vec<usize>, message: &Message) -> Self {
        Self { to: To::Some(nodes), ..Self::all(codec::encode(message)) }
    }
    pub fn forged(message: &Message) -> Self {
        Self { forged: true, ..Self::all(codec::encode(message)) }
    }
}

/// The attacker's own situation.
pub struct Me<'a> {
    pub index: usize,
    pub key: Arc<NodeKey>,
    /// Which validators are attackers: they know each other.
    pub attackers: Vec<bool>,
    /// Height its own engine works on.
    pub height: u64,
    pub rng: &'a mut ChaCha8Rng,
}

/// A validator that does as it likes. Its engine runs like an honest one's, except that what it says
/// goes through here.
pub trait Attacker {
    /// Whether it runs at all.
    fn runs(&self) -> bool {
        true
    }
    /// What it proposes instead of this block.
    fn block(&mut self, _: &mut Me<'_>, block: Vec<u8>) -> Vec<u8> {
        block
    }
    /// What it sends instead of what an honest validator would publish.
    fn publish(&mut self, _: &mut Me<'_>, bytes: &[u8]) -> Vec<Sending> {
        vec![Sending::all(bytes.to_vec())]
    }
    /// What it sends upon hearing this.
    fn hear(&mut self, _: &mut Me<'_>, _: &[u8]) -> Vec<Sending> {
        Vec::new()
    }
    /// What it sends by itself, several times a second.
    fn tick(&mut self, _: &mut Me<'_>) -> Vec<Sending> {
        Vec::new()
    }
    /// What it answers to a validator that asks for a decided block.
    fn answer_sync(&mut self, _: &mut Me<'_>, honest: (Vec<u8>, CommitCertificate)) -> (Vec<u8>, CommitCertificate) {
        honest
    }
}

/// A vote, signed for some chain by some key, in the name of some validator.
pub fn signed(chain: ChainId, signer: &NodeKey, vote: Vote) -> SignedVote {
    SignedVote { signature: signer.sign(chain, &vote), vote }
}

/// A vote of validator i as it would sign it.
pub fn vote_in(i: usize, kind: VoteType, height: u64, round: u32, block: Option<BlockHash>) -> SignedVote {
    let block = block.map_or(NilOrVal::Nil, NilOrVal::Val);
    let vote = Vote { kind, height: Height(height), round: round.into(), block, voter: key(i).id() };
    signed(CHAIN, &key(i), vote)
}

pub fn vote(i: usize, kind: VoteType, height: u64, block: BlockHash) -> SignedVote {
    vote_in(i, kind, height, 0, Some(block))
}

/// A proposal of validator i as it would sign it.
pub fn proposal(i: usize, height: u64, round: u32, pol_round: Option<u32>, block: &[u8]) -> Message {
    let header = ProposalHeader { height, round, pol_round, block: block_id(block), proposer: key(i).id() };
    Message::Proposal(SignedHeader { signature: key(i).sign(CHAIN, &header), header }, block.to_vec())
}

/// Validator i of four at height 1, started with an empty log.
pub fn one(i: usize) -> Bft {
    let mut bft = fresh(i, 1);
    bft.replay(&[]).unwrap();
    bft
}

/// Validator i of four at a height, not started.
pub fn fresh(i: usize, height: u64) -> Bft {
    let config = BftConfig { key: key(i), chain: CHAIN, timeouts: Timeouts::default() };
    Bft::new(config, height, &four()).unwrap()
}

pub fn four() -> Vec<oda_consensus::ids::NodeId> {
    (0..4).map(|i| key(i).id()).collect()
}

pub fn say(bft: &mut Bft, message: &Message) -> Result<Vec<BftEffect>, BftError> {
    bft.handle(BftInput::Message { bytes: codec::encode(message) })
}
