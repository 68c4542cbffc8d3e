//! The first file of a network: who validates, the first committee's keys, on which Bitcoin network.
//!
//! Everything later is checked against it: its hash is the [`ChainId`] bound into every signature.

use crate::beacon::BeaconKey;
use crate::codec;
use crate::epoch::{Federation, draw_order};
use crate::frost::{EncryptionKey, EpochSeed, GroupKey, Transcript, deal_locally};
use crate::ids::{Beacon, ChainId, Digest, NodeId};
use crate::record;
use rand_core::{CryptoRng, RngCore};
use serde::{Deserialize, Serialize};

/// Bitcoin network on which escrows settle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BitcoinNetwork {
    /// Local chain without value.
    Regtest,
    /// Public test network.
    Signet,
    /// Real money.
    Bitcoin,
}

/// One genesis validator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Validator {
    /// Ledger identity.
    pub node: NodeId,
    /// Key to which preimage shares are encrypted (P1).
    pub encryption: EncryptionKey,
}

/// The network's genesis.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Genesis {
    /// Name for people.
    pub name: String,
    /// Bitcoin network of the escrows.
    pub bitcoin: BitcoinNetwork,
    /// Creation time, ms since the Unix epoch.
    pub time_ms: u64,
    /// Shortest time between two blocks, ms.
    pub block_interval_ms: u32,
    /// First validators, ascending by node.
    pub validators: Vec<Validator>,
    /// How committees are drawn and work.
    pub federation: Federation,
    /// Key generation of the first committee: codec bytes of a [`Transcript`].
    #[serde(serialize_with = "crate::ids::to_hex", deserialize_with = "crate::ids::from_hex")]
    pub first_committee: Vec<u8>,
}
record!(Genesis, b"gnss", 3 << 20);

/// A genesis was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("genesis: {0}")]
pub struct GenesisError(String);

impl Genesis {
    /// Most validators.
    pub const MAX_VALIDATORS: usize = 67;

    /// The network's name in every signature.
    pub fn chain(&self) -> ChainId {
        ChainId(codec::hash(self))
    }

    /// Validators' identities, ascending.
    pub fn nodes(&self) -> Vec<NodeId> {
        self.validators.iter().map(|v| v.node).collect()
    }

    /// The first committee's key generation.
    ///
    /// # Errors
    /// If its bytes are damaged.
    pub fn transcript(&self) -> Result<Transcript, GenesisError> {
        codec::decode(&self.first_committee).map_err(|e| GenesisError(format!("first committee unreadable: {e}")))
    }

    /// The first committee's signing and beacon keys.
    ///
    /// # Errors
    /// If they are not the keys of a committee of these validators.
    pub fn keys(&self) -> Result<(GroupKey, BeaconKey), GenesisError> {
        let transcript = self.transcript()?;
        let nodes = self.nodes();
        if transcript.members.len() != usize::from(self.federation.committee)
            || !transcript.members.iter().all(|m| nodes.contains(m))
            || !transcript.round2.iter().all(|r| r.check(transcript.members.len()))
        {
            return Err(GenesisError("the first committee is not one of these validators".into()));
        }
        transcript.keys().map_err(|e| GenesisError(format!("keys of the first committee: {e}")))
    }

    /// Makes a genesis with its first committee: for whoever starts a network and holds, for that
    /// moment, the seeds of all its members. Returns the members' seeds, for their key files.
    ///
    /// # Errors
    /// If the parameters are out of their limits.
    pub fn ceremony(
        mut genesis: Self,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<(Self, Vec<(NodeId, EpochSeed)>), GenesisError> {
        genesis.validators.sort_unstable_by_key(|v| v.node);
        genesis.first_committee = Vec::new();
        let context = Digest(codec::hash(&genesis));
        let order = draw_order(Beacon(context.0), &genesis.nodes());
        let mut members: Vec<(NodeId, EncryptionKey)> = order
            .iter()
            .take(genesis.federation.committee.into())
            .filter_map(|n| genesis.validators.iter().find(|v| v.node == *n))
            .map(|v| (v.node, v.encryption))
            .collect();
        members.sort_unstable_by_key(|(node, _)| *node);
        let seeds: Vec<EpochSeed> = members.iter().map(|_| EpochSeed::random(rng)).collect();
        let transcript = deal_locally(&members, context, &seeds).map_err(|e| GenesisError(e.to_string()))?;
        genesis.first_committee = codec::encode(&transcript);
        genesis.check()?;
        Ok((genesis, members.into_iter().map(|(node, _)| node).zip(seeds).collect()))
    }

    /// Checks every limit.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), GenesisError> {
        let n = self.validators.len();
        if n == 0 || n > Self::MAX_VALIDATORS {
            return Err(GenesisError(format!("{n} validators; 1 to {} are supported", Self::MAX_VALIDATORS)));
        }
        if !self.nodes().is_sorted_by(|a, b| a < b) {
            return Err(GenesisError("validators must be distinct and ascending".into()));
        }
        if self.name.is_empty() || self.name.len() > 64 {
            return Err(GenesisError("the name must be 1 to 64 bytes".into()));
        }
        if !(10..=600_000).contains(&self.block_interval_ms) {
            return Err(GenesisError("block_interval_ms must be 10 to 600000".into()));
        }
        let f = &self.federation;
        if f.committee < 2 || usize::from(f.committee) > n.min(67) {
            return Err(GenesisError(format!(
                "a committee of {} of {n} validators; 2 to 67 are supported",
                f.committee
            )));
        }
        if f.epoch_blocks > 0 && (f.dkg_blocks == 0 || f.epoch_blocks < 10) {
            return Err(GenesisError("epoch_blocks must be 0 or at least 10, and dkg_blocks above 0".into()));
        }
        self.keys().map(|_| ())
    }
}
