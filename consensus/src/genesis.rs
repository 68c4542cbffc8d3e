//! The first file of a network: who validates, under which group key, on which Bitcoin network.
//!
//! Everything later is checked against it: its hash is the [`ChainId`] bound into every signature.

use crate::codec;
use crate::frost::{EncryptionKey, GroupKey};
use crate::ids::{ChainId, NodeId};
use crate::record;
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
    /// Group key of their DKG: codec bytes of a [`GroupKey`].
    #[serde(serialize_with = "crate::ids::to_hex", deserialize_with = "crate::ids::from_hex")]
    pub group_key: Vec<u8>,
}
record!(Genesis, b"gnss", 64 << 10);

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

    /// The group key.
    ///
    /// # Errors
    /// If its bytes are not a group key of exactly these validators.
    pub fn group(&self) -> Result<GroupKey, GenesisError> {
        let key: GroupKey =
            codec::decode(&self.group_key).map_err(|e| GenesisError(format!("group key unreadable: {e}")))?;
        if key.members() != self.nodes().as_slice() {
            return Err(GenesisError("the group key belongs to other validators".into()));
        }
        Ok(key)
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
        self.group().map(|_| ())
    }
}
