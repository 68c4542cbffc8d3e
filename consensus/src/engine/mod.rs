//! What each role decides, as pure state machines: inputs in, effects out.
//!
//! An engine never touches a socket, a clock, a disk or a wallet. It is told what happened and
//! answers with what to do; whoever runs it (the node, the simulator) does it in the given order and
//! reports back. `Persist` effects come before the effects that depend on them (P6), so a crash
//! between any two effects leaves a record from which the engine goes on.

pub mod decoys;
pub mod sponsor;
pub mod trainer;
pub mod validator;
