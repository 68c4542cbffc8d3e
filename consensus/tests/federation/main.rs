//! The whole federation at the level of its engines (C1, C2, C4, C6, R4, R5, S3, L2): rotating committees
//! order, judge and pay while members fail, lie, come and go.
//!
//! `net` is the network and checks while it runs; `node` is one validator as the node runs it; `market` are
//! the trainers, the sponsor and the replay; `attack` says what an attacker may do. Bounds are in blocks, or
//! in slots (the time of one block) where no block may come.

mod attack;
mod away;
mod equivocating;
mod faults;
mod impersonating;
mod late;
mod lying;
mod market;
mod net;
mod node;
mod random;
mod replaying;
mod rotation;
mod silent;
mod slow;
mod steady;

use net::{Sim, federation};
