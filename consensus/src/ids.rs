//! Names of things: 32-byte hashes and keys, each its own type so that they cannot be mixed up.
//!
//! All print as lower-case hex, parse from it, and serialise to JSON as hex strings.

use std::fmt;
use std::str::FromStr;

/// A hex string was not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {expected} hex digits")]
pub struct ParseIdError {
    text: String,
    expected: usize,
}

macro_rules! bytes_type {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, bincode::Encode, bincode::Decode)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// The first eight hex digits, for people.
            pub fn short(&self) -> String {
                hex::encode(&self.0[..4])
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }
        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let mut out = [0; $len];
                hex::decode_to_slice(text, &mut out)
                    .map_err(|_| ParseIdError { text: text.chars().take(200).collect(), expected: $len * 2 })?;
                Ok(Self(out))
            }
        }
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&hex::encode(self.0))
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                <String as serde::Deserialize>::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

bytes_type!(
    /// Hash of the genesis file: which network a message belongs to.
    ChainId, 32);
bytes_type!(
    /// A node: its ed25519 public key, which is also its libp2p PeerId and iroh EndpointId (K1).
    NodeId, 32);
bytes_type!(
    /// BLAKE3 hash of a blob: weights, delta or data (D1).
    BlobHash, 32);
bytes_type!(
    /// BLAKE3 hash of a model's canonical manifest.
    ModelId, 32);
bytes_type!(
    /// Hash of (model, round, trainer): a trainer's one claim on a head.
    ClaimId, 32);
bytes_type!(
    /// Hash of what an escrow is for; free of assumptions about the use.
    EscrowId, 32);
bytes_type!(
    /// Hash of a signed transaction.
    TxId, 32);
bytes_type!(
    /// Hash of a block header.
    BlockHash, 32);
bytes_type!(
    /// A plain 32-byte digest: commitments, roots, salts.
    Digest, 32);
bytes_type!(
    /// Value nobody could know before the attestation that made it (S3).
    Beacon, 32);
bytes_type!(
    /// SHA-256 of a preimage (BOLT 2).
    PaymentHash, 32);
bytes_type!(
    /// Lightning preimage: whoever holds it can claim the HTLC, so it is public only as a receipt.
    Preimage, 32);
bytes_type!(
    /// ed25519 signature.
    Signature, 64);

/// Serialises bytes as a hex string.
pub(crate) fn to_hex<S: serde::Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&hex::encode(bytes))
}

/// Reads bytes from a hex string.
pub(crate) fn from_hex<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
    hex::decode(<String as serde::Deserialize>::deserialize(d)?).map_err(serde::de::Error::custom)
}

/// A blob with the size its signed record promised (D1).
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    bincode::Encode,
    bincode::Decode,
    serde::Serialize,
    serde::Deserialize,
)]
pub struct BlobRef {
    /// BLAKE3 hash of the bytes.
    pub hash: BlobHash,
    /// Length in bytes.
    pub len: u64,
}

impl BlobRef {
    /// The reference of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self { hash: BlobHash(*blake3::hash(bytes).as_bytes()), len: bytes.len() as u64 }
    }
}

impl Preimage {
    /// SHA-256 of this preimage.
    pub fn payment_hash(&self) -> PaymentHash {
        use sha2::Digest as _;
        PaymentHash(sha2::Sha256::digest(self.0).into())
    }
}

impl Beacon {
    /// The beacon after an attestation (S3): hash chain over the signatures of the committee.
    pub fn next(&self, signature: &[u8]) -> Self {
        let mut h = blake3::Hasher::new_derive_key("oda 2026 beacon chain");
        h.update(&self.0);
        h.update(signature);
        Self(*h.finalize().as_bytes())
    }

    /// A seed for one purpose, bound to a context.
    pub fn seed(&self, purpose: &str, context: &[&[u8]]) -> [u8; 32] {
        let mut h = blake3::Hasher::new_derive_key("oda 2026 beacon seed");
        h.update(&self.0);
        h.update(&(purpose.len() as u64).to_le_bytes());
        h.update(purpose.as_bytes());
        for part in context {
            h.update(&(part.len() as u64).to_le_bytes());
            h.update(part);
        }
        *h.finalize().as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_round_trip_and_refusal() {
        let id = ModelId([7; 32]);
        assert_eq!(id.to_string().parse::<ModelId>().unwrap(), id);
        assert_eq!(serde_json::from_str::<ModelId>(&serde_json::to_string(&id).unwrap()).unwrap(), id);
        assert!("zz".parse::<ModelId>().unwrap_err().to_string().contains("64 hex digits"));
    }

    #[test] // S3: a seed depends on purpose, context and its cutting
    fn seeds_are_bound() {
        let b = Beacon([1; 32]);
        assert_ne!(b.seed("gate", &[b"ab", b"c"]), b.seed("gate", &[b"a", b"bc"]));
        assert_ne!(b.seed("gate", &[b"ab"]), b.seed("shard", &[b"ab"]));
        assert_ne!(b.next(b"x").seed("gate", &[]), b.seed("gate", &[]));
    }
}
