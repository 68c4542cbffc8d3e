//! The chain together with its files: nothing is answered for before it is on disk.
//!
//! `blocks.dat` is a journal: blocks and what was said about them (invalid, reconsidered), in the order in
//! which they came. Reading it is doing it all again, so a restart ends on the same branch with the same
//! blocks beside it, even if the crash came in the middle of a reorganisation. `mempool.dat` names the tip it
//! was written for: if that is not the tip the journal leads to, what dropped blocks gave back counts too.

use super::blocks::{Chain, ChainPolicy, ChainRejection};
use super::store::RecordFile;
use super::tree::Prepared;
use super::{ChainError, TxRejection};
use bitcoin::consensus::encode::{deserialize, serialize};
use bitcoin::hashes::Hash as _;
use bitcoin::{Block, BlockHash, ScriptBuf, Transaction, Txid};
use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Most blocks made in one call.
pub(super) const MAX_GENERATE: u64 = 1_000;
/// Most words about blocks in a journal.
const MAX_WORDS: usize = 100_000;
/// Longest mempool file, bytes, until what was replaced is dropped from it.
const MAX_POOL_FILE_BYTES: u64 = 64 << 20;
/// Length of a record that is not a block or transaction: a tag and a block's hash. Anything of theirs is longer.
const WORD_BYTES: usize = 33;

/// What is said about a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Invalidate,
    Reconsider,
    /// The mempool file belongs to this tip.
    Tip,
}

impl Word {
    fn record(self, hash: &BlockHash) -> Vec<u8> {
        let tag = match self {
            Self::Invalidate => 1,
            Self::Reconsider => 2,
            Self::Tip => 3,
        };
        [&[tag], hash.as_byte_array().as_slice()].concat()
    }

    fn read(record: &[u8]) -> Option<(Self, BlockHash)> {
        let (tag, hash) = record.split_first().filter(|_| record.len() == WORD_BYTES)?;
        let word = match tag {
            1 => Self::Invalidate,
            2 => Self::Reconsider,
            3 => Self::Tip,
            _ => return None,
        };
        Some((word, BlockHash::from_slice(hash).ok()?))
    }
}

/// The files of a chain with a directory.
struct Files {
    blocks: RecordFile,
    /// What waits, so that a restart does not lose a channel's funding.
    pool: RecordFile,
    words: usize,
    _lock: File,
}

/// The chain and its files.
pub(super) struct State {
    pub(super) chain: Chain,
    files: Option<Files>,
    /// Set by `stop`.
    pub(super) stopping: bool,
    /// The time, if somebody set it.
    pub(super) mock_time_s: Option<u64>,
}

fn refused(why: ChainRejection) -> ChainError {
    ChainError::Refused(why.to_string())
}

impl State {
    pub(super) fn open(dir: Option<&Path>, policy: ChainPolicy) -> Result<Self, ChainError> {
        let mut state = Self { chain: Chain::new(policy), files: None, stopping: false, mock_time_s: None };
        let Some(dir) = dir else { return Ok(state) };
        let io = |source| ChainError::Io { path: dir.to_path_buf(), source };
        std::fs::create_dir_all(dir).map_err(io)?;
        let lock = File::create(dir.join("lock")).map_err(io)?;
        lock.try_lock().map_err(|e| match e {
            TryLockError::WouldBlock => ChainError::InUse(dir.to_path_buf()),
            TryLockError::Error(source) => io(source),
        })?;
        let path = dir.join("blocks.dat");
        let (blocks, records) = RecordFile::open(path.clone())?;
        let mut words = 0;
        for (n, record) in records.iter().enumerate() {
            let damaged =
                |why: String| ChainError::Damaged { path: path.clone(), why: format!("record {}: {why}", n + 1) };
            words += usize::from(state.chain.replay(record).map_err(damaged)?);
        }
        let (pool, records) = RecordFile::open(dir.join("mempool.dat"))?;
        state.read_pool(&records);
        state.files = Some(Files { blocks, pool, words, _lock: lock });
        Ok(state)
    }

    fn read_pool(&mut self, records: &[Vec<u8>]) {
        let written_for = records.iter().rev().find_map(|r| Word::read(r));
        if written_for == Some((Word::Tip, self.chain.tip())) {
            self.chain.forget_waiting(); // what the journal gave back long ago
        }
        for record in records {
            // one that a block took meanwhile, or that was replaced, is refused: fine
            if let Ok(tx) = deserialize::<Transaction>(record) {
                let _ = self.chain.accept(tx, self.now_s());
            }
        }
    }

    /// Seconds since the Unix epoch.
    pub(super) fn now_s(&self) -> u64 {
        self.mock_time_s.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()))
    }

    /// Takes a transaction, on disk too before anyone is told.
    pub(super) fn accept(&mut self, tx: Transaction) -> Result<Result<Txid, TxRejection>, ChainError> {
        let record = self.files.is_some().then(|| serialize(&tx));
        let waiting = self.chain.pool().get(&tx.compute_txid()).is_some();
        let now_s = self.now_s();
        let accepted = self.chain.accept(tx, now_s);
        if let (Ok(_), Some(record), Some(files), false) = (&accepted, record, &mut self.files, waiting) {
            files.pool.append(&record)?;
            files.pool.sync()?;
            if files.pool.len() > MAX_POOL_FILE_BYTES {
                self.write_pool()?;
            }
        }
        Ok(accepted)
    }

    /// Writes what waits now, as a whole.
    fn write_pool(&mut self) -> Result<(), ChainError> {
        let Some(files) = &mut self.files else { return Ok(()) };
        let tip = Word::Tip.record(&self.chain.tip());
        let waiting = self.chain.pool().entries().map(|e| serialize(&e.tx));
        files.pool.replace(std::iter::once(tip).chain(waiting))
    }

    fn add(&mut self, block: Block, prepared: Prepared) -> Result<Result<(), ChainRejection>, ChainError> {
        if let Some(files) = &mut self.files {
            files.blocks.append(&serialize(&block))?;
        }
        Ok(self.chain.commit(block, prepared))
    }

    /// Everything journalled is on disk, and the mempool file follows.
    fn settle(&mut self) -> Result<(), ChainError> {
        if let Some(files) = &mut self.files {
            files.blocks.sync()?;
        }
        self.write_pool() // only now: until the blocks are on disk their transactions must not be lost
    }

    /// Makes blocks, on disk before anyone is told.
    pub(super) fn mine(&mut self, blocks: u64, payout: &ScriptBuf) -> Result<Vec<BlockHash>, ChainError> {
        let mut hashes = Vec::new();
        for _ in 0..blocks.min(MAX_GENERATE) {
            let block = self.chain.assemble(payout.clone(), self.now_s()).map_err(refused)?;
            let prepared = self.chain.prepare(&block).map_err(refused)?;
            hashes.push(block.block_hash());
            self.add(block, prepared)?.map_err(refused)?;
        }
        self.settle()?;
        Ok(hashes)
    }

    /// Makes a block of exactly these transactions. As bitcoind does, it leaves their fees to nobody.
    pub(super) fn mine_exactly(&mut self, txs: &[Transaction], payout: &ScriptBuf) -> Result<BlockHash, ChainError> {
        let block = self.chain.assemble_from(txs, 0, payout.clone(), self.now_s()).map_err(refused)?;
        let hash = block.block_hash();
        let prepared = self.chain.prepare(&block).map_err(refused)?;
        self.add(block, prepared)?.map_err(refused)?;
        self.settle()?;
        Ok(hash)
    }

    /// Takes a block made elsewhere.
    pub(super) fn submit(&mut self, block: Block) -> Result<Result<(), ChainRejection>, ChainError> {
        let checked = Chain::check_clock(&block, self.now_s()).and_then(|()| self.chain.prepare(&block));
        let prepared = match checked {
            Ok(prepared) => prepared,
            Err(why) => return Ok(Err(why)),
        };
        let verdict = self.add(block, prepared)?;
        self.settle()?;
        Ok(verdict)
    }

    fn say(&mut self, word: Word, hash: &BlockHash) -> Result<(), ChainError> {
        let Some(files) = &mut self.files else { return Ok(()) };
        if files.words >= MAX_WORDS {
            return Err(ChainError::Refused(format!("{MAX_WORDS} words about blocks are kept: start a new chain")));
        }
        files.words += 1;
        files.blocks.append(&word.record(hash))?;
        files.blocks.sync()
    }

    /// See [`Chain::invalidate`].
    pub(super) fn invalidate(&mut self, hash: &BlockHash) -> Result<(), ChainError> {
        self.chain.check_invalidate(hash).map_err(refused)?;
        self.say(Word::Invalidate, hash)?;
        self.chain.invalidate(hash).map_err(refused)?;
        self.write_pool()
    }

    /// See [`Chain::reconsider`].
    pub(super) fn reconsider(&mut self, hash: &BlockHash) -> Result<(), ChainError> {
        if self.chain.any_block(hash).is_none() {
            return Err(refused(ChainRejection::UnknownBlock));
        }
        self.say(Word::Reconsider, hash)?;
        self.chain.reconsider(hash).map_err(refused)?;
        self.write_pool()
    }
}

impl Chain {
    /// Does again what a journal's record says; whether it was a word.
    fn replay(&mut self, record: &[u8]) -> Result<bool, String> {
        let text = |why: ChainRejection| why.to_string();
        match Word::read(record) {
            Some((Word::Invalidate, hash)) => self.invalidate(&hash).map(|()| true).map_err(text),
            Some((Word::Reconsider, hash)) => self.reconsider(&hash).map(|()| true).map_err(text),
            Some((Word::Tip, _)) => Err("a tip among blocks".into()),
            None => {
                let block: Block = deserialize(record).map_err(|e| e.to_string())?;
                let prepared = self.prepare(&block).map_err(text)?;
                // a branch that turned out invalid did so before, too
                let _ = self.commit(block, prepared);
                Ok(false)
            }
        }
    }
}
