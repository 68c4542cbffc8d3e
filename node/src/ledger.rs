//! Reading a stored ledger: for RPC beside a running node, and to replay it (`oda ledger verify`): every signature, vote,
//! rule and root, from the genesis or from where its blocks begin.

use crate::full::check_certificate;
use crate::rpc::VerifyReport;
use crate::snapshot::state_before;
use oda_consensus::codec;
use oda_consensus::epoch::{Checkpoint, EpochChain};
use oda_consensus::genesis::Genesis;
use oda_consensus::ids::{BlockHash, Digest};
use oda_consensus::records::Version;
use oda_consensus::state::{CheckpointState, State};
use oda_consensus::wire::{DecidedBlock, MAX_LINKS};
use oda_storage::KeptRecord;
use std::collections::BTreeMap;

/// Reads the stored ledger beside the one that writes it.
pub trait LedgerReader: Send + Sync + 'static {
    /// Codec bytes of a decided block.
    ///
    /// # Errors
    /// If the store fails.
    fn block(&self, height: u64) -> Result<Option<Vec<u8>>, String>;

    /// The newest version of an entry up to a height.
    ///
    /// # Errors
    /// If the store fails.
    fn version(&self, key: &[u8], upto: u64) -> Result<Option<Version>, String>;

    /// The versions of an entry from a height on, oldest first, at most so many.
    ///
    /// # Errors
    /// If the store fails.
    fn versions(&self, key: &[u8], from: u64, most: usize) -> Result<Vec<Version>, String>;

    /// A node of the log of records (L4).
    ///
    /// # Errors
    /// If the store fails.
    fn log_node(&self, index: u64) -> Result<Option<Digest>, String>;

    /// Blocks of this height and above are whole; 0 if all are.
    ///
    /// # Errors
    /// If the store fails.
    fn bodies_from(&self) -> Result<u64, String> {
        Ok(0)
    }

    /// Codec bytes of the header of a block whose body was pruned.
    ///
    /// # Errors
    /// If the store fails.
    fn header(&self, _height: u64) -> Result<Option<Vec<u8>>, String> {
        Ok(None)
    }

    /// Records of blocks up to a height, by key, from a key and height on, at most so many.
    ///
    /// # Errors
    /// If the store fails, or does not have them.
    fn kept(&self, _from: (&[u8], u64), _upto: u64, _most: usize) -> Result<Vec<KeptRecord>, String> {
        Err("this store does not show the log of records".into())
    }
}

/// Why a block is not to be had from a ledger that no longer has it; `None` if that is not why.
///
/// # Errors
/// If the store fails.
pub fn pruned(reader: &dyn LedgerReader, height: u64) -> Result<Option<String>, String> {
    let from = reader.bodies_from()?;
    let advice = "ask a full node that keeps all ([ledger] keep_blocks = 0)";
    Ok((height < from).then(|| format!("block {height} is pruned here, whole blocks begin at {from}: {advice}")))
}

/// Replays the blocks up to `tip`: from the first, or, if old ones were pruned, from the state before the oldest whole
/// block, which is made again from every record of the ledger. A block that a committee attested, whose key follows
/// from the genesis, then stands for what was before.
///
/// # Errors
/// The first block that is missing, does not decode, is not certified, or breaks a rule; or what of the log is wrong.
pub fn verify(genesis: Genesis, tip: Option<u64>, reader: &dyn LedgerReader) -> Result<VerifyReport, String> {
    let tip = tip.unwrap_or(0);
    // on a running node old blocks go meanwhile: those read are those that were whole when it began, or it says so
    let first = reader.bodies_from()?.max(1);
    let mut state = match first {
        1 => State::new(genesis.clone()).map_err(|e| e.to_string())?,
        _ => state_before(genesis.clone(), first, reader)?,
    };
    let every = u64::from(genesis.federation.checkpoint_blocks).max(1);
    let mut hashes = BTreeMap::from([(state.tip().height, state.tip().hash)]);
    let mut txs = 0;
    for height in first..=tip {
        let at = |e: String| format!("block {height}: {e}");
        let Some(bytes) = reader.block(height)? else {
            return Err(pruned(reader, height)?.unwrap_or_else(|| at("missing".into())));
        };
        let decided: DecidedBlock = codec::decode(&bytes).map_err(|e| at(e.to_string()))?;
        check_certificate(&decided, state.chain(), &state.validators()).map_err(at)?;
        state.apply(&decided.block).map_err(|e| at(e.to_string()))?;
        if height.is_multiple_of(every) {
            hashes.insert(height, state.tip().hash);
        }
        txs += decided.block.txs.len() as u64;
    }
    if first > 1 {
        attested(genesis, &state, &hashes)?;
    }
    let models: Vec<_> = state.models().map(|(id, _)| id).collect();
    state.check_invariants(models.into_iter())?;
    let end = state.tip();
    let (hash, state_root) = (end.hash.to_string(), end.state_root.to_string());
    Ok(VerifyReport { blocks: end.height, blocks_from: first, txs, hash, state_root })
}

/// Whether one of these blocks was attested by a committee whose key follows from the genesis.
fn attested(genesis: Genesis, state: &State, hashes: &BTreeMap<u64, BlockHash>) -> Result<(), String> {
    let known = |c: &&CheckpointState| hashes.contains_key(&c.checkpoint.height);
    let Some(newest) = state.checkpoints().rev().find(known) else {
        return Err("nothing in it is attested from its oldest whole block on: try again after the next attested \
                    block, or compare with another node"
            .into());
    };
    let mut chain = EpochChain::new(&genesis).map_err(|e| e.to_string())?;
    while chain.epoch() < newest.epoch {
        let links = state.links(chain.epoch(), MAX_LINKS);
        let next = links.into_iter().next().ok_or("the keys of an epoch are missing")?;
        chain.advance(next).map_err(|e| e.to_string())?;
    }
    let Checkpoint { height, block, .. } = newest.checkpoint;
    chain.attested(&newest.checkpoint, &newest.signature).map_err(|e| e.to_string())?;
    match hashes.get(&height) {
        Some(hash) if *hash == block => Ok(()),
        _ => Err(format!("block {height} is not the one that was attested")),
    }
}
