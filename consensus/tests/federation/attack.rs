//! What an attacker may do: it runs the honest engine and changes what goes in and comes out, and it may
//! say anything at all under its own key or in another's name.

use oda_consensus::codec;
use oda_consensus::engine::validator::ValidatorInput;
use oda_consensus::frost::{EncryptionSecret, EpochSeed};
use oda_consensus::ids::NodeId;
use oda_consensus::keys::NodeKey;
use oda_consensus::state::State;
use oda_consensus::tx::Tx;
use oda_consensus::wire::{CommitteeEnvelope, CommitteeMessage, SignedCommitteeEnvelope};
use rand_chacha::ChaCha20Rng;
use std::collections::BTreeMap;

/// What an attacker has before it.
pub struct Desk<'a> {
    pub me: NodeId,
    pub key: &'a NodeKey,
    pub state: &'a State,
    pub seeds: &'a BTreeMap<u64, Vec<u8>>,
    pub encryption: &'a EncryptionSecret,
    pub rng: &'a mut ChaCha20Rng,
}

impl Desk<'_> {
    /// An envelope in somebody's name, signed with the own key.
    pub fn sealed(&self, from: NodeId, epoch: u64, message: CommitteeMessage) -> Vec<u8> {
        let envelope = CommitteeEnvelope { from, epoch, message };
        let signature = self.key.sign(self.state.chain(), &envelope);
        codec::encode(&SignedCommitteeEnvelope { envelope, signature })
    }

    pub fn seed(&self, epoch: u64) -> Option<EpochSeed> {
        EpochSeed::open(self.seeds.get(&epoch)?, epoch, self.encryption).ok()
    }
}

/// One kind of misbehaviour; by default everything is honest.
pub trait Attacker {
    fn input(&mut self, input: ValidatorInput) -> ValidatorInput {
        input
    }
    /// The honest engine says this to its committee.
    fn say(&mut self, desk: &mut Desk<'_>, epoch: u64, message: CommitteeMessage) -> Vec<Vec<u8>> {
        vec![desk.sealed(desk.me, epoch, message)]
    }
    fn submit(&mut self, _: &mut Desk<'_>, tx: Tx) -> Vec<Tx> {
        vec![tx]
    }
    fn hears(&mut self, _: &mut Desk<'_>, _bytes: &[u8], _: &SignedCommitteeEnvelope) -> Vec<Vec<u8>> {
        Vec::new()
    }
    /// After every block.
    fn block(&mut self, _: &mut Desk<'_>) -> Vec<Vec<u8>> {
        Vec::new()
    }
}
