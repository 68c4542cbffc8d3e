//! Proofs a stranger can check offline (L4): record -> state root -> attested block -> committees' keys -> genesis.
//!
//! The last two steps are [`crate::epoch::EpochChain`]'s. Here an attested block is given, and a [`RecordProof`]
//! shows that one entry had one value after one block at or before it; an [`ExtensionProof`] shows that the ledger
//! of an older attested block is the beginning of the newer one's: nothing was rewritten between.

use crate::codec;
use crate::epoch::Checkpoint;
use crate::ids::{ClaimId, Digest, EscrowId, ModelId, NodeId};
use crate::record;
use crate::records::{MAX_PATH, Version, check_consistency, check_inclusion};
use crate::state::{Entry, EntryError, MAX_ENTRY_BYTES};
use crate::tx::Header;
use serde::{Deserialize, Serialize};

/// What can be asked about: names the entry without its contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// The block at a height: its hash, time and state root. Proven by the block after it.
    Block(u64),
    /// A model.
    Model(ModelId),
    /// A claim.
    Claim(ClaimId),
    /// An escrow.
    Escrow(EscrowId),
    /// The outcome of a round.
    Outcome(ModelId, u64),
    /// Credit of a trainer on a model.
    Credit(ModelId, NodeId),
    /// A committee's keys.
    Epoch(u64),
    /// A validator with its service record.
    Validator(NodeId),
}

impl Subject {
    /// Key of its entry.
    pub fn key(&self) -> Vec<u8> {
        match self {
            Subject::Block(_) => vec![b't'],
            Subject::Model(id) => [b"m".as_slice(), &id.0].concat(),
            Subject::Claim(id) => [b"c".as_slice(), &id.0].concat(),
            Subject::Escrow(id) => [b"e".as_slice(), &id.0].concat(),
            Subject::Outcome(model, round) => [b"o".as_slice(), &model.0, &round.to_be_bytes()].concat(),
            Subject::Credit(model, trainer) => [b"r".as_slice(), &model.0, &trainer.0].concat(),
            Subject::Epoch(number) => [b"p".as_slice(), &number.to_be_bytes()].concat(),
            Subject::Validator(node) => [b"v".as_slice(), &node.0].concat(),
        }
    }

    /// Height of the one version that is meant, where it is not simply the newest.
    pub fn height(&self) -> Option<u64> {
        match self {
            Subject::Block(height) => Some(height.saturating_add(1)),
            _ => None,
        }
    }
}

/// One entry as one block left it, tied to an attested block.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct RecordProof {
    /// Number of the record in the log.
    pub index: u64,
    /// Height of the block that wrote it.
    pub height: u64,
    /// Key of the entry.
    pub key: Vec<u8>,
    /// Its canonical bytes.
    pub value: Vec<u8>,
    /// Hashes from the record up to the state root.
    pub path: Vec<Digest>,
    /// Header of the attested block.
    pub header: Header,
}
record!(RecordProof, b"rprf", MAX_ENTRY_BYTES + 8 * 1024, |value| codec::within(&value.header));

/// An older attested block's ledger is the beginning of a newer one's.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct ExtensionProof {
    /// Header of the older attested block.
    pub old: Header,
    /// Header of the newer attested block.
    pub new: Header,
    /// Hashes of RFC 9162, 2.1.4.
    pub path: Vec<Digest>,
}
record!(ExtensionProof, b"xprf", 8 << 10, |value| codec::within(&value.old).and(codec::within(&value.new)));

/// A proof does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The header is not of the attested block.
    #[error("the header of height {0} is not that of the attested block: made up, or of another network")]
    NotAttested(u64),
    /// The hashes do not lead from the record to the root.
    #[error("the record is not under the attested state root: record or path was changed")]
    NotIncluded,
    /// The hashes do not connect the two roots.
    #[error("the older ledger is not the beginning of the newer one: one of them was rewritten")]
    NotExtended,
    /// A block after the attested one cannot be shown by it.
    #[error("the record is of height {height}, after the attested block {attested}")]
    Later {
        /// Of the record.
        height: u64,
        /// Of the attested block.
        attested: u64,
    },
    /// The value is no entry of its key.
    #[error(transparent)]
    Entry(#[from] EntryError),
}

fn attested(header: &Header, checkpoint: &Checkpoint) -> Result<(), ProofError> {
    let same = header.hash() == checkpoint.block
        && header.height == checkpoint.height
        && header.state_root == checkpoint.state_root;
    if same { Ok(()) } else { Err(ProofError::NotAttested(header.height)) }
}

impl RecordProof {
    /// The entry, if it is under an attested block. Whether the block is attested, and by whose keys, the
    /// caller has from [`crate::epoch::EpochChain::attested`].
    ///
    /// # Errors
    /// What does not hold.
    pub fn check(&self, checkpoint: &Checkpoint) -> Result<Entry, ProofError> {
        attested(&self.header, checkpoint)?;
        if self.height > self.header.height {
            return Err(ProofError::Later { height: self.height, attested: self.header.height });
        }
        if self.key.len() > Entry::MAX_KEY_BYTES {
            return Err(ProofError::NotIncluded);
        }
        let Header { records, state_root, .. } = self.header;
        let version =
            Version { index: self.index, height: self.height, key: self.key.clone(), value: self.value.clone() };
        if !check_inclusion(state_root, records, self.index, &version.record(), &self.path) {
            return Err(ProofError::NotIncluded);
        }
        Ok(Entry::decode(&self.key, &self.value)?)
    }
}

impl ExtensionProof {
    /// Whether the older ledger is the beginning of the newer one; both blocks attested.
    ///
    /// # Errors
    /// What does not hold.
    pub fn check(&self, old: &Checkpoint, new: &Checkpoint) -> Result<(), ProofError> {
        attested(&self.old, old)?;
        attested(&self.new, new)?;
        let root = |h: &Header| (h.records, h.state_root);
        let extends = self.path.len() <= MAX_PATH && check_consistency(root(&self.old), root(&self.new), &self.path);
        if extends { Ok(()) } else { Err(ProofError::NotExtended) }
    }
}
