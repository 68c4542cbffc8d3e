//! Real networks of real processes, on one machine.
//!
//! What a node does alone is tested beside its code; what only shows between processes (ports taken,
//! a wallet that forgot, a child that outlives its parent, money that is nowhere) shows here. So
//! nothing in this crate links a node: it writes data directories, starts the `oda` program in them,
//! and speaks JSON-RPC to it like anyone else would. Calling the node as a library would be shorter
//! and would prove less: a panic would take the observer down, and `kill -9` could not be tried.
//!
//! * [`genesis`] writes a network: genesis file, and each node's secrets in its own directory only.
//! * [`Network`] starts, kills, restarts and stops the processes of one.
//! * [`attack`] puts one kind of attacker into it.
//! * [`mod@bench`] measures consensus.
//! * [`demo`] runs the whole loop and adds up the money to the millisatoshi.
//!
//! ```
//! use oda_testnet::attack;
//!
//! // what `testnet attack` lists, and what `testnet attack noise` puts into a network
//! assert!(attack::list().contains("noise"));
//! assert!(attack::named("no such attack").is_err());
//! ```

pub mod attack;
pub mod bench;
pub mod chain;
pub mod chain_server;
pub mod config;
pub mod demo;
pub mod genesis;
pub mod network;
pub mod peer_id;
pub mod ports;
pub mod process;
pub mod rpc;
pub mod trainer;
pub mod ui;

pub use network::Network;
