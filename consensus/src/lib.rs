//! The rules of the network, pure: ids and codec, the ledger's state machine, agreement on blocks,
//! threshold signatures, judging, and what each role decides.
//!
//! Nothing here touches a socket, a clock, a disk or randomness of its own: time and randomness are
//! arguments, decisions are returned as effects. So consensus and money logic can be run a million
//! times with faults, which is what `simnet` does, and the node runs the very same code.
//!
//! ```
//! use oda_consensus::ids::{BlobRef, Digest, ModelId};
//! use oda_consensus::keys::NodeKey;
//! use oda_consensus::tx::commitment;
//!
//! let trainer = NodeKey::from_secret(&[1; 32]).id();
//! let head = BlobRef::of(b"head weights");
//! let delta = BlobRef::of(b"compressed delta");
//! // R1: what a trainer shows of its work before the sponsor has locked the payment
//! let shown = commitment(trainer, ModelId([0; 32]), 1, head.hash, delta, 1_000, Digest([7; 32]));
//! assert_ne!(shown, commitment(trainer, ModelId([0; 32]), 2, head.hash, delta, 1_000, Digest([7; 32])));
//! ```

pub mod architecture;
pub mod beacon;
pub mod bft;
pub mod codec;
pub mod custody;
pub mod decoy;
pub mod delta;
pub mod engine;
pub mod epoch;
pub mod escrow;
pub mod evidence;
pub mod frost;
pub mod fuzzing;
pub mod genesis;
pub mod ids;
pub mod keys;
pub mod manifest;
pub mod outcome;
pub mod proof;
pub mod records;
pub mod sample;
pub mod score;
pub mod sealed;
pub mod snapshot;
pub mod state;
pub mod tx;
pub mod wire;
