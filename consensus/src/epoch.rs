//! Committees over time (C1, C2): who is in charge, and how anyone follows the keys from genesis to now.
//!
//! Each epoch's committee signs the keys of the next. So a lite node, or an auditor with a file, needs
//! one signature an epoch and no blocks: [`EpochChain`] starts from the genesis and takes one
//! [`HandoverLink`] after the other; a link that is forged, missing or out of order is refused.

use crate::beacon::{BeaconInput, BeaconKey, Purpose};
use crate::codec;
use crate::frost::{CommitteeKey, EncryptionKey, GroupKey, GroupPoint, GroupSignature};
use crate::genesis::{Genesis, GenesisError};
use crate::ids::{Beacon, BlockHash, ChainId, Digest, NodeId};
use crate::outcome::{Attestation, Statement};
use crate::record;
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore as _, SeedableRng};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How the federation works; part of the genesis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Federation {
    /// Members drawn for each epoch's committee (n of C1); fewer only if fewer validators are left.
    pub committee: u16,
    /// Blocks after which the next committee takes over, if its key is ready; 0: never.
    pub epoch_blocks: u32,
    /// Blocks a drawn member has for each step of the key generation (C2).
    pub dkg_blocks: u32,
    /// A block is attested every so many blocks; 0: never.
    pub checkpoint_blocks: u32,
    /// Once a threshold has committed scores, the others have so many blocks left (R4).
    pub score_grace_blocks: u32,
}

impl Default for Federation {
    fn default() -> Self {
        Self { committee: 4, epoch_blocks: 600, dkg_blocks: 30, checkpoint_blocks: 100, score_grace_blocks: 3 }
    }
}

/// A threshold of the running committee says: these are the keys of the next.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Handover {
    /// The next epoch.
    pub epoch: u64,
    /// Its members and their common key.
    pub committee: CommitteeKey,
    /// Hash over the whole signing key and the beacon key: who only follows the chain need not read those.
    pub keys: Digest,
}

impl Handover {
    /// The handover to these keys.
    pub fn new(epoch: u64, group: &GroupKey, beacon: &BeaconKey) -> Self {
        let mut h = blake3::Hasher::new_derive_key("oda 2026 keys of an epoch");
        h.update(&codec::hash(group)).update(&codec::hash(beacon));
        Self { epoch, committee: group.committee(), keys: Digest(*h.finalize().as_bytes()) }
    }
}
record!(Handover, b"hndo", 3 << 10);

/// A handover with the signature of the committee before.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct HandoverLink {
    /// What.
    pub handover: Handover,
    /// Signed by the epoch before.
    pub signature: GroupSignature,
}
record!(HandoverLink, b"hndl", 4 << 10, |value| codec::within(&value.handover));

/// A block with the state after it, attested every `checkpoint_blocks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Height.
    pub height: u64,
    /// Hash of the block there.
    pub block: BlockHash,
    /// State root after it.
    pub state_root: Digest,
}
record!(Checkpoint, b"chkp", 256);

/// An attested change of the validator set (C1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize)]
pub enum Membership {
    /// Takes an applicant in.
    Admit {
        /// Who.
        node: NodeId,
        /// Its key for sealed boxes, as it applied with.
        encryption: EncryptionKey,
        /// Height of the application.
        since: u64,
    },
    /// Removes a validator.
    Evict {
        /// Who.
        node: NodeId,
        /// Height at which it was admitted; 0 for those of the genesis.
        since: u64,
    },
}

/// What the beacon is evaluated at to draw the committee of an epoch.
pub fn draw_input(chain: ChainId, epoch: u64) -> BeaconInput {
    BeaconInput { chain, purpose: Purpose::Committee, number: epoch, subject: [0; 32] }
}

/// The order in which the beacon calls the candidates: a Fisher-Yates shuffle without bias.
pub fn draw_order(beacon: Beacon, candidates: &[NodeId]) -> Vec<NodeId> {
    let mut order = candidates.to_vec();
    order.sort_unstable();
    let mut rng = ChaCha20Rng::from_seed(beacon.seed("committee draw", &[]));
    for left in (2..=order.len()).rev() {
        let bound = left as u64;
        let zone = u64::MAX - u64::MAX % bound; // rejection keeps every order equally likely
        let pick = loop {
            let r = rng.next_u64();
            if r < zone {
                break r % bound;
            }
        };
        order.swap(left - 1, usize::try_from(pick).unwrap_or(0));
    }
    order
}

/// A chain of handovers was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// The genesis itself is bad.
    #[error("{0}")]
    Genesis(#[from] GenesisError),
    /// A link is missing, doubled or out of order.
    #[error("the link to epoch {got} does not follow epoch {at}: a link is missing or the file is of another network")]
    NotNext {
        /// Epoch reached.
        at: u64,
        /// Epoch of the link.
        got: u64,
    },
    /// Not signed by the committee before.
    #[error("the keys of epoch {0} are not signed by the committee of epoch {before}: forged, or of another network", before = .0 - 1)]
    Forged(u64),
    /// A checkpoint or block not attested by the newest committee.
    #[error("the checkpoint at height {0} is not attested by any committee of this chain")]
    Checkpoint(u64),
}

/// The committees' keys, verified from the genesis on.
///
/// What a committee signed holds for ever: a model's newest head may be as old as the model, a claim to replay older. So
/// the point of every epoch stays (33 bytes; 1.7 MB a year at ten minutes an epoch), the members of the newest only.
#[derive(Clone, Debug)]
pub struct EpochChain {
    chain: ChainId,
    epoch: u64,
    /// By epoch.
    points: Vec<GroupPoint>,
    groups: BTreeMap<u64, CommitteeKey>,
}

/// Members of so many epochs are kept: those who may hold key shares of a payment. No payment lasts longer than 30 days,
/// 4,320 epochs of ten minutes.
const KEPT: usize = 8_192;
/// A checkpoint is attested by the committee in charge, or by one of so many before it.
const ATTESTING: usize = 64;

impl EpochChain {
    /// The chain with its first committee.
    ///
    /// # Errors
    /// If the genesis is not valid.
    pub fn new(genesis: &Genesis) -> Result<Self, GenesisError> {
        let first = genesis.keys()?.0.committee();
        let points = vec![first.point()];
        Ok(Self { chain: genesis.chain(), epoch: 0, points, groups: BTreeMap::from([(0, first)]) })
    }

    /// The newest epoch whose keys are known.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Network.
    pub fn chain(&self) -> ChainId {
        self.chain
    }

    /// Whether the committee of an epoch, however old, signed the message.
    pub fn verify(&self, epoch: u64, message: &[u8], signature: &GroupSignature) -> bool {
        let point = usize::try_from(epoch).ok().and_then(|e| self.points.get(e));
        point.is_some_and(|p| p.verify(message, signature))
    }

    /// The committee of an epoch; of all before the newest 8,192 only the key is kept, see [`Self::verify`].
    pub fn group(&self, epoch: u64) -> Option<&CommitteeKey> {
        self.groups.get(&epoch)
    }

    /// The newest signing key.
    pub fn newest(&self) -> Option<&CommitteeKey> {
        self.groups.get(&self.epoch)
    }

    /// Takes the next link, at the cost of one signature.
    ///
    /// # Errors
    /// If it does not follow or is not signed by the epoch before; nothing changes then.
    pub fn advance(&mut self, link: HandoverLink) -> Result<(), ChainError> {
        self.advance_keeping(link, KEPT)
    }

    pub(crate) fn advance_keeping(&mut self, link: HandoverLink, kept: usize) -> Result<(), ChainError> {
        let HandoverLink { handover, signature } = link;
        let refused = ChainError::NotNext { at: self.epoch, got: handover.epoch };
        if Some(handover.epoch) != self.epoch.checked_add(1) {
            return Err(refused);
        }
        let epoch = handover.epoch;
        let group = handover.committee.clone();
        let message = Attestation { chain: self.chain, statement: Statement::Handover(handover) };
        let signed = self.verify(self.epoch, &codec::encode(&message), &signature);
        if !signed || !group.is_sound() {
            return Err(ChainError::Forged(epoch));
        }
        self.epoch = epoch;
        self.points.push(group.point());
        self.groups.insert(epoch, group);
        if self.groups.len() > kept {
            self.groups.pop_first();
        }
        Ok(())
    }

    /// Which of the known committees attested a checkpoint.
    ///
    /// # Errors
    /// If none did.
    pub fn attested(&self, checkpoint: &Checkpoint, signature: &GroupSignature) -> Result<u64, ChainError> {
        let message = Attestation { chain: self.chain, statement: Statement::Checkpoint(*checkpoint) };
        let bytes = codec::encode(&message);
        let found = (0..=self.epoch).rev().take(ATTESTING).find(|e| self.verify(*e, &bytes, signature));
        found.ok_or(ChainError::Checkpoint(checkpoint.height))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test] // C1: the draw is a permutation, the same for everyone, and every place is equally likely
    fn the_draw_is_a_fair_permutation() {
        let nodes: Vec<NodeId> = (0..7).map(|i| NodeId([i; 32])).collect();
        let mut shuffled = nodes.clone();
        shuffled.reverse();
        let mut seats = [0u32; 7];
        for k in 0..7_000u32 {
            let beacon = Beacon(*blake3::hash(&k.to_le_bytes()).as_bytes());
            let order = draw_order(beacon, &nodes);
            assert_eq!(order, draw_order(beacon, &shuffled), "the order of the candidates does not matter");
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, nodes);
            for node in &order[..4] {
                seats[usize::from(node.0[0])] += 1;
            }
        }
        // 7,000 draws of 4 of 7: 4,000 expected, standard deviation 41
        assert!(seats.iter().all(|s| s.abs_diff(4_000) < 250), "{seats:?}");
    }
}
