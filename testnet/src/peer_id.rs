//! libp2p's name of a node, for the multiaddresses in configuration files (K1).
//!
//! A PeerId of an ed25519 key is the key itself in three wrappers, so it is computed here and libp2p,
//! some two hundred crates, stays out of this program.

use oda_consensus::ids::NodeId;

/// `identity` multihash (code 0) of 36 bytes: the protobuf message "key type ed25519, 32 bytes".
/// Source: libp2p specs, peer-ids/peer-ids.md.
const PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// The PeerId, base58: `12D3KooW...`.
pub fn peer_id(node: NodeId) -> String {
    bitcoin::base58::encode(&[PREFIX.as_slice(), &node.0].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test] // K1: vectors made with libp2p-identity 0.3.1
    fn known_values() {
        let known = [
            (
                "1ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e",
                "12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pq",
            ),
            (
                "8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c",
                "12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5",
            ),
        ];
        for (key, id) in known {
            assert_eq!(peer_id(key.parse().unwrap()), id);
        }
    }
}
