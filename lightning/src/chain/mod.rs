//! A regtest Bitcoin chain in this process, with the part of bitcoind's JSON-RPC that a wallet needs.
//!
//! A network for trying out and testing needs blocks, not a 27 MB binary that somebody must fetch first.
//! A mock that says yes to every transaction would be shorter, and would hide that a force-close is not
//! valid; so this is a real chain: scripts are checked by Bitcoin's own verifier, and a real bitcoind
//! accepts every block made here (tests/cross_check.rs). What is missing, it refuses rather than guesses:
//! spending taproot outputs (the verifier predates them). There are no reorganisations, no peers, and of
//! relay policy only fee, size and replacement.
//!
//! * `chain.rs` the blocks and coins; `check.rs` the rules for one transaction; `mempool.rs` what waits.
//! * `store.rs` files that survive a crash. `methods.rs` and `http.rs` what callers see.
//!
//! Nothing happens by itself: a block is made when somebody asks for one. Use it on regtest only; anyone
//! may spend the faucet's coins, which are worth nothing.

mod blocks;
mod check;
mod http;
mod mempool;
mod methods;
mod server;
mod store;

pub use blocks::{Chain, ChainRejection};
pub use check::TxRejection;
pub use server::{ChainConfig, ChainServer};

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
