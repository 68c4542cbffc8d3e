//! What the tests of the stores share.
#![allow(dead_code)] // each test binary uses a part

use oda_consensus::ids::{BlockHash, ChainId};
use oda_storage::{BlockRecord, LedgerStore};
use std::ops::ControlFlow;

pub const CHAIN: ChainId = ChainId([7; 32]);

pub fn hash(height: u64) -> BlockHash {
    BlockHash(*blake3::hash(&height.to_be_bytes()).as_bytes())
}

pub fn block(height: u64) -> BlockRecord {
    let prev = height.checked_sub(1).map_or(BlockHash([0; 32]), hash);
    BlockRecord {
        height,
        hash: hash(height),
        prev,
        bytes: format!("block {height}").into_bytes(),
        log: Default::default(),
    }
}

pub fn entries(ledger: &dyn LedgerStore) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    ledger
        .entries(&mut |key, value| {
            all.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        })
        .unwrap();
    all
}
