//! Where a node serves blobs: its key and its sockets, as a record that can be signed (N2).

use oda_consensus::ids::NodeId;
use oda_consensus::record;
use std::net::SocketAddr;

/// Most sockets of one node that are tried, or fit into its record (K3).
pub const MAX_SOCKETS: usize = 8;

/// A provider of blobs. The key is what counts: the transport only talks to whoever holds it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, bincode::Encode, bincode::Decode)]
pub struct BlobAddr {
    /// The node, which is also its transport key (K1).
    pub node: NodeId,
    /// Its direct addresses; the first [`MAX_SOCKETS`] count.
    pub sockets: Vec<SocketAddr>,
}
// Header, node, count, and per socket two variant numbers, 16 bytes of address and the port.
record!(BlobAddr, b"badr", 5 + 32 + 8 + MAX_SOCKETS * 26);

#[cfg(test)]
mod tests {
    use super::*;
    use oda_consensus::codec::{decode, encode};

    #[test] // K2, K3: pinned bytes; more sockets than allowed are refused as too long
    fn record_is_canonical_and_bounded() {
        let sockets = vec!["127.0.0.1:4001".parse().unwrap(), "[::1]:4002".parse().unwrap()];
        let addr = BlobAddr { node: NodeId([7; 32]), sockets };
        assert_eq!(decode::<BlobAddr>(&encode(&addr)).unwrap(), addr);
        assert_eq!(
            hex::encode(&encode(&addr)[37..]),
            "0200000000000000".to_owned()
                + "00000000"
                + "7f000001"
                + "a10f"
                + "01000000"
                + &"00".repeat(15)
                + "01"
                + "a20f"
        );
        let most = BlobAddr { node: addr.node, sockets: vec!["[::1]:1".parse().unwrap(); MAX_SOCKETS] };
        assert_eq!(decode::<BlobAddr>(&encode(&most)).unwrap(), most);
        let mut long = encode(&most);
        long.extend_from_slice(&[0; 64]);
        assert!(decode::<BlobAddr>(&long).is_err());
    }
}
