//! A ledger as one file: exported, carried anywhere, verified offline, imported.
//!
//! `ODA ledger 1\n`, the chain id, then each decided block behind its length as four little-endian bytes. The file needs
//! no trust: each block carries its votes, and whoever reads it replays every one of them from the genesis. So an
//! import is a sync from a peer that happens to be a file.

use crate::full::{check_certificate, restore};
use crate::rpc::VerifyReport;
use anyhow::{Context, Result, ensure};
use oda_consensus::codec::{self, Record as _};
use oda_consensus::genesis::Genesis;
use oda_consensus::ids::{BlockHash, ChainId};
use oda_consensus::records::Appended;
use oda_consensus::state::{Entry, State};
use oda_consensus::wire::DecidedBlock;
use oda_storage::{BlockRecord, EntryChange, LedgerStore, RocksLedger};
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;

const MAGIC: &[u8; 13] = b"ODA ledger 1\n";

/// What a block leads to on disk: one atomic batch (D3).
pub(crate) fn batch(decided: &DecidedBlock, entries: &[Entry], log: Appended) -> (BlockRecord, Vec<EntryChange>) {
    let changes = entries.iter().map(|e| EntryChange { key: e.key(), value: Some(e.value()) }).collect();
    let header = decided.block.header;
    let prev = if header.height == 1 { BlockHash(header.chain.0) } else { header.prev };
    (BlockRecord { height: header.height, hash: header.hash(), prev, bytes: codec::encode(decided), log }, changes)
}

/// Writes all blocks of a store to a file; how many there were. A file of that name is not overwritten.
///
/// # Errors
/// If the store or the file fails, or old blocks were pruned.
pub fn export(store: &RocksLedger, chain: ChainId, path: &Path) -> Result<u64> {
    let shown = path.display();
    // each block in a file is replayed from the genesis on: without the first ones it would prove nothing
    let from = store.bodies_from();
    ensure!(
        from <= 1,
        "blocks below {from} are not kept here, and an exported ledger needs all: export on a full node with [ledger] \
         keep_blocks = 0 and snapshot_sync = false"
    );
    let file = File::create_new(path).with_context(|| format!("{shown}: choose a name that is free"))?;
    let mut out = BufWriter::new(file);
    let tip = store.tip().map_or(0, |(height, _)| height);
    let writing = || format!("writing {shown}");
    out.write_all(MAGIC).with_context(writing)?;
    out.write_all(&chain.0).with_context(writing)?;
    for height in 1..=tip {
        let block =
            store.block(height)?.with_context(|| format!("block {height} is missing: run `oda ledger verify`"))?;
        out.write_all(&u32::try_from(block.len())?.to_le_bytes()).with_context(writing)?;
        out.write_all(&block).with_context(writing)?;
    }
    out.into_inner().map_err(std::io::IntoInnerError::into_error).and_then(|f| f.sync_all()).with_context(writing)?;
    Ok(tip)
}

/// The blocks of a file, one at a time.
struct Blocks<R> {
    read: R,
}

impl<R: Read> Blocks<R> {
    fn open(mut read: R, chain: ChainId) -> Result<Self> {
        let mut head = [0; MAGIC.len() + 32];
        read.read_exact(&mut head).ok().filter(|()| head.starts_with(MAGIC)).context("it is no exported ledger")?;
        ensure!(head[MAGIC.len()..] == chain.0, "it is the ledger of another network than the genesis file's");
        Ok(Self { read })
    }

    fn next(&mut self) -> Result<Option<DecidedBlock>> {
        let mut len = [0; 4];
        match self.read.read(&mut len[..1])? {
            0 => return Ok(None),
            _ => self.read.read_exact(&mut len[1..]).context("the file is cut off")?,
        }
        let len = u32::from_le_bytes(len) as usize;
        ensure!(len <= DecidedBlock::MAX_BYTES, "a block of {len} bytes: the file is damaged");
        let mut bytes = vec![0; len];
        self.read.read_exact(&mut bytes).context("the file is cut off")?;
        Ok(Some(codec::decode(&bytes)?))
    }
}

fn read(path: &Path, chain: ChainId) -> Result<Blocks<BufReader<File>>> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    Blocks::open(BufReader::new(file), chain).with_context(|| path.display().to_string())
}

/// Replays an exported ledger from genesis: every signature, vote, rule and root.
///
/// # Errors
/// The first thing in it that does not hold.
pub fn verify(path: &Path, genesis: Genesis) -> Result<VerifyReport> {
    let mut state = State::new(genesis)?;
    let mut blocks = read(path, state.chain())?;
    let mut txs = 0;
    while let Some(decided) = blocks.next().with_context(|| format!("after block {}", state.tip().height))? {
        certified(&decided, &state)?;
        state.apply(&decided.block).with_context(|| at(&decided))?;
        txs += decided.block.txs.len() as u64;
    }
    let models: Vec<_> = state.models().map(|(id, _)| id).collect();
    state.check_invariants(models.into_iter()).map_err(anyhow::Error::msg)?;
    let end = state.tip();
    let (hash, state_root) = (end.hash.to_string(), end.state_root.to_string());
    Ok(VerifyReport { blocks: end.height, blocks_from: 1, txs, hash, state_root })
}

fn at(decided: &DecidedBlock) -> String {
    format!("block {}", decided.block.header.height)
}

/// Whether a block was decided by those who decide at this state.
fn certified(decided: &DecidedBlock, state: &State) -> Result<()> {
    check_certificate(decided, state.chain(), &state.validators()).map_err(|e| anyhow::anyhow!("{}: {e}", at(decided)))
}

/// Adds the blocks of a file that the ledger in a directory does not have yet, each verified as if it came from
/// a peer; how many there were. Stopped half-way, it can simply be run again.
///
/// # Errors
/// The first block that does not follow or does not hold: those before it are kept.
pub fn import(dir: &Path, genesis: Genesis, path: &Path) -> Result<u64> {
    let chain = genesis.chain();
    let mut blocks = read(path, chain)?;
    let mut store = RocksLedger::open(dir, chain)?;
    let mut state = State::new(genesis)?;
    restore(&mut state, &store)?;
    let (had, mut added) = (state.tip().height, 0);
    while let Some(decided) = blocks.next().with_context(|| format!("after {added} new blocks"))? {
        let header = decided.block.header;
        if header.height <= had {
            let same = store.height_of(header.hash())? == Some(header.height);
            ensure!(same, "block {} of the file is not the one in {}: two ledgers", header.height, dir.display());
            continue;
        }
        certified(&decided, &state)?;
        let applied = state.apply(&decided.block).with_context(|| at(&decided))?;
        let (block, changes) = batch(&decided, &applied.entries, applied.appended);
        store.append(&block, &changes)?;
        added += 1;
    }
    Ok(added)
}
