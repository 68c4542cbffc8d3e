//! The ledger on disk as a running node has it: read beside the writer, and brought into memory at the start.

use crate::ledger::LedgerReader;
use anyhow::Result;
use oda_consensus::ids::Digest;
use oda_consensus::records::Version;
use oda_consensus::state::{Entry, State};
use oda_storage::{KeptRecord, LedgerStore, RocksLedger, StoreError};
use std::ops::ControlFlow;
use std::sync::{Arc, PoisonError, RwLock};

/// The ledger store: written by the core alone, read by the RPC server beside it.
pub(super) type Store = Arc<RwLock<RocksLedger>>;

/// Reads stored blocks of a running node.
pub struct StoreReader(pub(super) Store);

impl StoreReader {
    /// Reads a ledger that no node is running on.
    pub fn new(ledger: RocksLedger) -> Self {
        Self(Arc::new(RwLock::new(ledger)))
    }

    fn read<T>(&self, read: impl FnOnce(&RocksLedger) -> Result<T, StoreError>) -> Result<T, String> {
        read(&self.0.read().unwrap_or_else(PoisonError::into_inner)).map_err(|e| e.to_string())
    }
}

impl LedgerReader for StoreReader {
    fn block(&self, height: u64) -> Result<Option<Vec<u8>>, String> {
        self.read(|ledger| ledger.block(height))
    }
    fn version(&self, key: &[u8], upto: u64) -> Result<Option<Version>, String> {
        self.read(|ledger| ledger.version(key, upto))
    }
    fn versions(&self, key: &[u8], from: u64, most: usize) -> Result<Vec<Version>, String> {
        let mut found = Vec::new();
        self.read(|ledger| {
            ledger.versions(key, from, &mut |version| {
                found.push(version);
                if found.len() < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })
        })?;
        Ok(found)
    }
    fn log_node(&self, index: u64) -> Result<Option<Digest>, String> {
        self.read(|ledger| ledger.log_node(index))
    }
    fn bodies_from(&self) -> Result<u64, String> {
        self.read(|ledger| Ok(ledger.bodies_from()))
    }
    fn header(&self, height: u64) -> Result<Option<Vec<u8>>, String> {
        self.read(|ledger| ledger.header(height))
    }
    fn kept(&self, from: (&[u8], u64), upto: u64, most: usize) -> Result<Vec<KeptRecord>, String> {
        let mut found = Vec::new();
        self.read(|ledger| {
            ledger.kept(from, upto, &mut |record| {
                found.push(record);
                if found.len() < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })
        })?;
        Ok(found)
    }
}

/// Loads the stored entries and checks that they are the state of the stored tip (D3).
pub(crate) fn restore(state: &mut State, store: &RocksLedger) -> Result<()> {
    let mut problem = None;
    store.entries(&mut |key, value| match Entry::decode(key, value) {
        Ok(entry) => {
            state.restore(entry);
            ControlFlow::Continue(())
        }
        Err(error) => {
            problem = Some(error);
            ControlFlow::Break(())
        }
    })?;
    if let Some(error) = problem {
        anyhow::bail!(
            "{error}: the ledger on disk is damaged; `oda ledger verify` says where, `oda ledger repair` drops it so that it \
             is fetched again from peers"
        );
    }
    if let Some((height, hash)) = store.tip() {
        anyhow::ensure!(
            state.tip().height == height && state.tip().hash == hash && state.log().root() == state.tip().state_root,
            "ledger entries and blocks on disk differ: `oda ledger repair` drops them so that they are fetched again from \
             peers"
        );
    }
    Ok(())
}
