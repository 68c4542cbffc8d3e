//! Experiments on the pure protocol code: what an attack gains, measured instead of argued.
//!
//! Everything runs in memory, from one seed, on the code the node runs; nothing here has a socket or clock.

pub mod beacon_bias;
