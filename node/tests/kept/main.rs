//! Ledgers that do not keep everything: pruned (D3), and begun with a snapshot (L4).

mod nodes;
mod pruned;
mod snapshots;
#[allow(dead_code)] // shared with the tests of the state machine
#[path = "../../../consensus/tests/world/mod.rs"]
mod world;

use arc_malachitebft_core_types::{NilOrVal, VoteType};
use oda_consensus::bft::{CommitCertificate, Height, Vote, block_id};
use oda_consensus::codec;
use oda_consensus::fuzzing::validator;
use oda_consensus::ids::{ChainId, Digest};
use oda_consensus::outcome::Statement;
use oda_consensus::records::Version;
use oda_consensus::state::{CheckpointState, State};
use oda_consensus::tx::{Block, Header, Tx};
use oda_consensus::wire::DecidedBlock;
use oda_node::full::StoreReader;
use oda_node::ledger::LedgerReader;
use oda_storage::{BlockRecord, EntryChange, KeptRecord, LedgerStore as _, RocksLedger};
use std::path::Path;
use world::World;

/// A network's history, every block of it decided.
struct History {
    world: World,
    decided: Vec<DecidedBlock>,
}

impl History {
    /// A judged round, a handover, and blocks after them, attested now and then.
    fn new() -> Self {
        let mut world = World::new();
        world.whole_round();
        for _ in 0..3 {
            (0..6).for_each(|_| world.wait_ms(100));
            let checkpoint = world.state.due_checkpoint().unwrap();
            let signature = world.attest(Statement::Checkpoint(checkpoint));
            let tx = world.sign(Tx::Checkpoint(checkpoint, signature), &validator(0));
            assert!(world.block(&[tx]).is_empty());
        }
        (0..3).for_each(|_| world.wait_ms(100));
        let mut history = Self { world, decided: Vec::new() };
        history.decide();
        history
    }

    /// Every block gets its votes.
    fn decide(&mut self) {
        let chain = self.world.state.chain();
        self.decided = self.world.blocks.iter().map(|block| decided(chain, block)).collect();
    }

    fn chain(&self) -> ChainId {
        self.world.state.chain()
    }

    fn header(&self, height: u64) -> Header {
        self.decided[height as usize - 1].block.header
    }

    fn tip(&self) -> u64 {
        self.world.state.tip().height
    }

    fn newest(&self) -> CheckpointState {
        self.world.state.checkpoints().next_back().unwrap().clone()
    }

    /// Applies blocks to a state, and adds them to a store, as a node does.
    fn play(&self, state: &mut State, store: &mut RocksLedger, upto: u64) {
        for decided in self.decided.iter().skip(state.tip().height as usize) {
            let header = decided.block.header;
            if header.height > upto {
                break;
            }
            let applied = state.apply(&decided.block).unwrap();
            let changes: Vec<_> = applied.entries.iter().map(|e| EntryChange::put(&e.key(), &e.value())).collect();
            let (bytes, log) = (codec::encode(decided), applied.appended);
            let record = BlockRecord { height: header.height, hash: header.hash(), prev: header.prev, bytes, log };
            store.append(&record, &changes).unwrap();
        }
    }

    /// A ledger with all blocks.
    fn ledger(&self, dir: &Path) -> RocksLedger {
        let mut store = RocksLedger::open(dir, self.chain()).unwrap();
        let mut state = State::new(self.world.genesis.clone()).unwrap();
        self.play(&mut state, &mut store, u64::MAX);
        store
    }
}

fn entries(ledger: &RocksLedger) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    let mut see = |key: &[u8], value: &[u8]| {
        all.push((key.to_vec(), value.to_vec()));
        std::ops::ControlFlow::Continue(())
    };
    ledger.entries(&mut see).unwrap();
    all
}

/// A block with three of four votes.
fn decided(chain: ChainId, block: &Block) -> DecidedBlock {
    let (height, name) = (block.header.height, block_id(&codec::encode(block)));
    let vote = |i: u8| {
        let key = validator(i);
        let (kind, block) = (VoteType::Precommit, NilOrVal::Val(name));
        let vote = Vote { kind, height: Height(height), round: 0u32.into(), block, voter: key.id() };
        (key.id(), key.sign(chain, &vote))
    };
    let signatures = (0..3).map(vote).collect();
    DecidedBlock { block: block.clone(), certificate: CommitCertificate { height, round: 0, block: name, signatures } }
}

/// A reader that changes what a good one says.
struct Lying<F> {
    inner: StoreReader,
    change: F,
}

impl<F: Fn(&mut Vec<KeptRecord>) + Send + Sync + 'static> LedgerReader for Lying<F> {
    fn block(&self, height: u64) -> Result<Option<Vec<u8>>, String> {
        self.inner.block(height)
    }
    fn version(&self, key: &[u8], upto: u64) -> Result<Option<Version>, String> {
        self.inner.version(key, upto)
    }
    fn versions(&self, key: &[u8], from: u64, most: usize) -> Result<Vec<Version>, String> {
        self.inner.versions(key, from, most)
    }
    fn log_node(&self, index: u64) -> Result<Option<Digest>, String> {
        self.inner.log_node(index)
    }
    fn bodies_from(&self) -> Result<u64, String> {
        self.inner.bodies_from()
    }
    fn header(&self, height: u64) -> Result<Option<Vec<u8>>, String> {
        self.inner.header(height)
    }
    fn kept(&self, from: (&[u8], u64), upto: u64, most: usize) -> Result<Vec<KeptRecord>, String> {
        let mut page = self.inner.kept(from, upto, most)?;
        (self.change)(&mut page);
        Ok(page)
    }
}
