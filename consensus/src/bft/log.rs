//! Seals that chain the entries of one height's write-ahead log (C5).
//!
//! The obvious way, trusting whatever decodes, replays a log in which one flipped bit has made a peer's
//! vote unverifiable: the engine skips it, does not see that it precommitted, and precommits again. So
//! each entry carries a hash over itself, all entries before it, and whose log it is. A flipped bit, a torn,
//! missing, repeated or foreign entry shows. Only a cut at the end does not, and nothing later was sent.

use crate::codec;
use crate::ids::{ChainId, Digest, NodeId};
use crate::record;

/// A log entry as stored.
#[derive(bincode::Encode, bincode::Decode)]
struct SealedEntry {
    /// [`LogSeal`] after this entry.
    seal: Digest,
    /// Bytes of a `WalEntry`.
    entry: Vec<u8>,
}
record!(SealedEntry, b"bftl", super::MAX_MESSAGE_BYTES + 256);

/// Hash over the entries so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LogSeal(Digest);

impl LogSeal {
    /// Of an empty log.
    pub(super) fn new(chain: ChainId, me: NodeId, height: u64) -> Self {
        let mut h = blake3::Hasher::new_derive_key("oda 2026 bft log of a height");
        h.update(&chain.0).update(&me.0).update(&height.to_le_bytes());
        Self(Digest(*h.finalize().as_bytes()))
    }

    fn after(self, entry: &[u8]) -> Self {
        let mut h = blake3::Hasher::new_derive_key("oda 2026 bft log entry");
        h.update(&self.0.0).update(entry);
        Self(Digest(*h.finalize().as_bytes()))
    }

    /// What to store for the next entry.
    pub(super) fn seal(&mut self, entry: Vec<u8>) -> Vec<u8> {
        *self = self.after(&entry);
        codec::encode(&SealedEntry { seal: self.0, entry })
    }

    /// The next entry, from what was stored.
    pub(super) fn open(&mut self, stored: &[u8]) -> Result<Vec<u8>, String> {
        let SealedEntry { seal, entry } = codec::decode(stored).map_err(|e| e.to_string())?;
        let after = self.after(&entry);
        if after.0 != seal {
            return Err("its seal does not follow from the log before it".into());
        }
        *self = after;
        Ok(entry)
    }
}

/// A stored entry without its seal; anything else as it is. For fuzzing, which seals again.
pub(crate) fn unsealed(stored: &[u8]) -> Vec<u8> {
    codec::decode::<SealedEntry>(stored).map_or_else(|_| stored.to_vec(), |s| s.entry)
}

/// A log of these entries, whatever they are. For fuzzing.
pub(crate) fn sealed_log(chain: ChainId, me: NodeId, height: u64, entries: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut seal = LogSeal::new(chain, me, height);
    let fits = |entry: &Vec<u8>| entry.len() <= super::MAX_MESSAGE_BYTES;
    entries.into_iter().filter(fits).map(|entry| seal.seal(entry)).collect()
}
