//! `oda-consensus` with bugs planted in it, all asleep until one is switched on. For `simnet/planted/simnet` alone.

// style is judged where the code is written
#![allow(clippy::all, missing_docs)]

pub mod planted;

include!(concat!(env!("OUT_DIR"), "/consensus/lib.rs"));
