//! A node's signing key (K1): one ed25519 secret is its ledger identity, PeerId and EndpointId.

use crate::codec::{self, Record};
use crate::ids::{ChainId, NodeId, Signature};
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};

/// The secret of a node. Prints as `<redacted>`; wiped from memory when dropped.
pub struct NodeKey(SigningKey);

impl NodeKey {
    /// The key of a 32-byte secret.
    pub fn from_secret(secret: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(secret))
    }

    /// The key that a BIP 39 seed stands for (K1): one mnemonic restores it.
    pub fn from_seed(seed: &[u8]) -> Self {
        let secret = zeroize::Zeroizing::new(blake3::derive_key("oda 2026 node identity", seed));
        Self::from_secret(&secret)
    }

    /// The secret bytes, for the transports that use the same key.
    pub fn secret(&self) -> zeroize::Zeroizing<[u8; 32]> {
        zeroize::Zeroizing::new(self.0.to_bytes())
    }

    /// The public name of this node.
    pub fn id(&self) -> NodeId {
        NodeId(self.0.verifying_key().to_bytes())
    }

    /// Signs a record for one chain; the record's domain tag and the chain are both bound.
    pub fn sign<T: Record>(&self, chain: ChainId, record: &T) -> Signature {
        Signature(self.0.sign(&message(chain, record)).to_bytes())
    }
}

impl std::fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NodeKey(<redacted> of {})", self.id().short())
    }
}

fn message<T: Record>(chain: ChainId, record: &T) -> Vec<u8> {
    let mut m = b"oda signed ".to_vec();
    m.extend_from_slice(&chain.0);
    m.extend_from_slice(&codec::encode(record));
    m
}

impl NodeId {
    /// Whether `signature` is this node's over the record on that chain (strict ed25519).
    pub fn verify<T: Record>(&self, chain: ChainId, record: &T, signature: &Signature) -> bool {
        let Ok(key) = VerifyingKey::from_bytes(&self.0) else { return false };
        key.verify_strict(&message(chain, record), &ed25519_dalek::Signature::from_bytes(&signature.0)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record;

    #[derive(bincode::Encode, bincode::Decode)]
    struct Text(String);
    record!(Text, b"text", 64);

    #[test] // K1, K2
    fn signature_is_bound_to_signer_chain_and_record() {
        let (a, b) = (NodeKey::from_secret(&[1; 32]), NodeKey::from_secret(&[2; 32]));
        let chain = ChainId([9; 32]);
        let text = Text("pay".into());
        let s = a.sign(chain, &text);
        assert!(a.id().verify(chain, &text, &s));
        assert!(!b.id().verify(chain, &text, &s));
        assert!(!a.id().verify(ChainId([8; 32]), &text, &s));
        assert!(!a.id().verify(chain, &Text("Pay".into()), &s));
        assert!(!NodeId([0xff; 32]).verify(chain, &text, &s));
        assert!(format!("{a:?}").contains("redacted"));
    }
}
