#![no_main]
//! See `oda_consensus::fuzzing`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| oda_consensus::fuzzing::run("record_proof", bytes));
