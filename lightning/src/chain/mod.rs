//! A regtest Bitcoin chain in this process, with the part of bitcoind's JSON-RPC that a wallet needs.
//!
//! A network for trying out and testing needs blocks, not a 27 MB binary that somebody must fetch first.
//! A mock that says yes to every transaction would be shorter, and would hide that a force-close is not
//! valid; so this is a real chain: scripts are checked by Bitcoin Core's own verifier, taproot included,
//! branches compete, blocks fill up, and a real bitcoind accepts every block made here and gives the same
//! verdict on transactions (tests/chain_agreement.rs). There are no peers, no packages, and no
//! version 3 transactions; the script flags that are relay policy only (low S, minimal pushes) are not checked.
//!
//! * `blocks.rs` the coins and the rules for a block; `check.rs` those for one transaction, `verify.rs` its
//!   scripts, `policy.rs` what bitcoind would not relay. `tree.rs` branches and reorganisations.
//! * `mempool.rs` what waits, `select.rs` what enters a block, `assemble.rs` making one.
//! * `store.rs` files that survive a crash, `files.rs` what is in them. `methods.rs`, `http.rs` and
//!   `server.rs` what callers see.
//!
//! Nothing happens by itself: a block is made when somebody asks for one. Use it on regtest only; anyone
//! may spend the faucet's coins, which are worth nothing.

mod assemble;
mod blocks;
mod check;
mod files;
mod http;
mod mempool;
mod methods;
mod policy;
mod select;
mod server;
mod store;
mod tree;
mod verify;

pub use blocks::{Chain, ChainPolicy, ChainRejection};
pub use check::TxRejection;
pub use server::{ChainConfig, ChainServer};
pub use tree::ChainTip;

use std::net::SocketAddr;
use std::path::PathBuf;

/// The chain, or a bitcoind, cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// It would be reachable from outside.
    #[error("{0} is not on loopback: a regtest chain has no value and no protection, it serves this machine only")]
    NotLoopback(SocketAddr),
    /// The port is taken.
    #[error("cannot listen on {addr}: {source}; choose another port, or stop the program that has it")]
    Listen {
        /// Where.
        addr: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Another process has the directory open.
    #[error("{} is in use by another process: stop that one first", .0.display())]
    InUse(PathBuf),
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file holds something else than was written.
    #[error("{} is damaged ({why}): restore it, or delete the directory to start a new chain", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A call failed.
    #[error(transparent)]
    Rpc(#[from] crate::rpc::RpcError),
    /// bitcoind did not start.
    #[error("{}: {why}; correct BITCOIND_EXE, or run scripts/fetch-bitcoind.sh", exe.display())]
    Bitcoind {
        /// The program.
        exe: PathBuf,
        /// What happened.
        why: String,
    },
    /// The chain does not do that.
    #[error("{0}")]
    Refused(String),
}
