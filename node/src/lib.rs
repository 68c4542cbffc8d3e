//! The node: adapters around the engines of `oda-consensus`, and the command line `oda`.
//!
//! Engines decide, this crate does: it owns sockets, clock, disk and wallet, feeds what happens to the
//! engines and carries out their effects in order.
//!
//! ```
//! use oda_consensus::keys::NodeKey;
//! use oda_node::net::{node_id, peer_id};
//!
//! // K1: the ledger's name of a node and libp2p's are one ed25519 key, so nobody keeps a table of who is who
//! let node = NodeKey::from_secret(&[1; 32]).id();
//! assert_eq!(peer_id(node).as_ref().and_then(node_id), Some(node));
//! ```

pub mod audit;
pub mod chain_file;
pub mod cli;
pub mod clock;
pub mod config;
pub mod config_show;
pub mod custody;
mod fees;
mod file;
pub mod full;
pub mod identity;
pub mod jobs;
pub mod known;
pub mod ledger;
pub mod ledger_file;
pub mod lite;
pub mod mempool;
pub mod model_add;
pub mod model_get;
pub mod net;
pub mod peers;
pub mod proof;
pub mod query;
pub mod report;
pub mod rpc;
pub mod seeds;
pub mod snapshot;
pub mod sponsor;
mod submissions;
mod token_cli;
pub mod top;
pub mod verify;
pub mod verify_chain;
pub mod wallet;
pub mod wallet_cli;
pub mod wallet_socket;
#[cfg(test)]
mod wallet_tests;
pub mod web;

/// What to do about a damaged record of what this node has promised, measured or is owed (P6, C5): an older copy would have
/// it say or pay something twice.
pub(crate) fn damaged(what: &str) -> String {
    format!(
        "{what} is damaged: do not put an older copy back; keep the directory as it is and see docs/operating.md, section 5"
    )
}
