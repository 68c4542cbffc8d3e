//! A ledger that fails on purpose, at the write a test names.
//!
//! Killing a process tests less than it seems to: the operating system keeps what was written, so
//! `kill -9` loses nothing even without a sync. What loses data is a write that fails, one that is
//! reported and never made, and one that is made and reported failed; those are planted here.

use super::{Base, BlockRecord, EntryChange, KeptVisitor, LedgerStore, Part, VersionVisitor};
use crate::error::StoreError;
use crate::records::{RecordStore, Visitor};
use oda_consensus::ids::{BlockHash, Digest};
use oda_consensus::records::Version;
use std::collections::BTreeMap;

/// What happens at a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is written and the error is reported.
    Fails,
    /// Nothing is written and success is reported: a disk that lies about a sync.
    Lost,
    /// Everything is written, yet an error is reported: the outcome is unknown to the caller.
    WrittenButFails,
    /// This write and all later ones fail: the process is dying. [`FaultyLedger::restart`] ends it.
    Dies,
}

/// Wraps a ledger and injects faults into its writes, which are counted from 1.
#[derive(Debug)]
pub struct FaultyLedger<S> {
    inner: S,
    plan: BTreeMap<u64, Fault>,
    writes: u64,
    dead: bool,
}

impl<S: LedgerStore> FaultyLedger<S> {
    /// Wraps `inner`; `plan` names the faults by the number of the write.
    pub fn new(inner: S, plan: impl IntoIterator<Item = (u64, Fault)>) -> Self {
        Self { inner, plan: plan.into_iter().collect(), writes: 0, dead: false }
    }

    /// Writes attempted so far.
    pub fn writes(&self) -> u64 {
        self.writes
    }

    /// Plants one more fault.
    pub fn plant(&mut self, write: u64, fault: Fault) {
        self.plan.insert(write, fault);
    }

    /// Goes on with what was written, as a process started again would.
    pub fn restart(&mut self) {
        self.dead = false;
    }

    /// What was really written.
    pub fn into_inner(self) -> S {
        self.inner
    }

    fn write(&mut self, act: impl FnOnce(&mut S) -> Result<(), StoreError>) -> Result<(), StoreError> {
        self.writes = self.writes.saturating_add(1);
        let injected = StoreError::Injected { write: self.writes };
        if self.dead {
            return Err(injected);
        }
        match self.plan.remove(&self.writes) {
            None => act(&mut self.inner),
            Some(Fault::Fails) => Err(injected),
            Some(Fault::Lost) => Ok(()),
            Some(Fault::WrittenButFails) => act(&mut self.inner).and(Err(injected)),
            Some(Fault::Dies) => {
                self.dead = true;
                Err(injected)
            }
        }
    }
}

impl<S: LedgerStore> RecordStore for FaultyLedger<S> {
    fn apply(&mut self, changes: &[EntryChange]) -> Result<(), StoreError> {
        self.write(|inner| inner.apply(changes))
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.get(key)
    }

    fn visit(&self, prefix: &[u8], visitor: &mut Visitor<'_>) -> Result<(), StoreError> {
        self.inner.visit(prefix, visitor)
    }
}

impl<S: LedgerStore> LedgerStore for FaultyLedger<S> {
    fn append(&mut self, block: &BlockRecord, changes: &[EntryChange]) -> Result<(), StoreError> {
        self.write(|inner| inner.append(block, changes))
    }

    fn tip(&self) -> Option<(u64, BlockHash)> {
        self.inner.tip()
    }

    fn block(&self, height: u64) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.block(height)
    }

    fn height_of(&self, hash: BlockHash) -> Result<Option<u64>, StoreError> {
        self.inner.height_of(hash)
    }

    fn entry(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.entry(key)
    }

    fn entries(&self, visitor: &mut Visitor<'_>) -> Result<(), StoreError> {
        self.inner.entries(visitor)
    }

    fn log_node(&self, index: u64) -> Result<Option<Digest>, StoreError> {
        self.inner.log_node(index)
    }

    fn version(&self, key: &[u8], upto: u64) -> Result<Option<Version>, StoreError> {
        self.inner.version(key, upto)
    }

    fn versions(&self, prefix: &[u8], from: u64, visitor: &mut VersionVisitor<'_>) -> Result<(), StoreError> {
        self.inner.versions(prefix, from, visitor)
    }

    fn bodies_from(&self) -> u64 {
        self.inner.bodies_from()
    }

    fn headers_from(&self) -> u64 {
        self.inner.headers_from()
    }

    fn header(&self, height: u64) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.header(height)
    }

    fn prune(&mut self, headers: &[(u64, Vec<u8>)]) -> Result<(), StoreError> {
        self.write(|inner| inner.prune(headers))
    }

    fn kept(&self, from: (&[u8], u64), upto: u64, visitor: &mut KeptVisitor<'_>) -> Result<(), StoreError> {
        self.inner.kept(from, upto, visitor)
    }

    fn begin_load(&mut self) -> Result<(), StoreError> {
        self.write(S::begin_load)
    }

    fn load(&mut self, part: &Part) -> Result<(), StoreError> {
        self.write(|inner| inner.load(part))
    }

    fn finish_load(&mut self, base: &Base) -> Result<(), StoreError> {
        self.write(|inner| inner.finish_load(base))
    }

    fn wal_append(&mut self, height: u64, entry: &[u8]) -> Result<(), StoreError> {
        self.write(|inner| inner.wal_append(height, entry))
    }

    fn wal(&self, height: u64) -> Result<Vec<Vec<u8>>, StoreError> {
        self.inner.wal(height)
    }
}
