//! A ledger of so many records, made by the rules in one go: what a network would write in weeks.
//!
//! A copied store would show neither what checking it costs nor what a peer sends. So these blocks are real: signed
//! transactions, executed by the state machine, decided by Malachite (two validators in memory), and written as the
//! file that `oda ledger export` writes, which every node verifies and takes.

use anyhow::{Context, Result, ensure};
use oda_consensus::bft::{Bft, BftConfig, BftEffect, BftInput, CommitCertificate, Timeouts};
use oda_consensus::codec;
use oda_consensus::epoch::Federation;
use oda_consensus::escrow::Terms;
use oda_consensus::frost::EncryptionSecret;
use oda_consensus::fuzzing::sample_manifest;
use oda_consensus::genesis::{BitcoinNetwork, Genesis, Validator};
use oda_consensus::ids::{BlobHash, Digest, ModelId};
use oda_consensus::keys::NodeKey;
use oda_consensus::state::State;
use oda_consensus::tx::{Commit, Fund, SignedTx, Tx};
use oda_consensus::wire::DecidedBlock;
use rand_core::OsRng;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::sync::Arc;

/// The first bytes of an exported ledger (`oda ledger export`).
const MAGIC: &[u8; 13] = b"ODA ledger 1\n";
/// Models on which every place of a round is taken, and as many that are only funded.
const MODELS: usize = 512;
/// Places in a round.
const PLACES: u32 = 64;
/// Transactions of a block: a network with traffic, and far below what a block may hold.
const TXS: usize = 512;
/// Time between blocks by their headers, ms.
const INTERVAL_MS: u64 = 500;
/// Most blocks made: more records than anybody waits for.
const MAX_BLOCKS: u64 = 100_000;

/// What was made.
#[derive(Clone, Debug)]
pub struct Chain {
    /// Its genesis.
    pub genesis: Genesis,
    /// Blocks.
    pub blocks: u64,
    /// Transactions in them.
    pub txs: u64,
    /// Records: every entry each block wrote.
    pub records: u64,
    /// Claims among the entries that a node keeps in memory.
    pub claims: usize,
}

/// The validators, who agree at once.
struct Deciders {
    keys: Vec<Arc<NodeKey>>,
    nodes: Vec<Bft>,
    queue: VecDeque<(usize, BftInput)>,
    block: Vec<u8>,
    decided: Option<CommitCertificate>,
}

impl Deciders {
    fn new(genesis: &Genesis, keys: Vec<Arc<NodeKey>>) -> Result<Self> {
        let validators = genesis.nodes();
        let new = |key: &Arc<NodeKey>| {
            let config = BftConfig { key: key.clone(), chain: genesis.chain(), timeouts: Timeouts::default() };
            Bft::new(config, 1, &validators)
        };
        let nodes = keys.iter().map(new).collect::<Result<_, _>>()?;
        Ok(Self { keys, nodes, queue: VecDeque::new(), block: Vec::new(), decided: None })
    }

    fn carry_out(&mut self, me: usize, effects: Vec<BftEffect>) {
        for effect in effects {
            match effect {
                BftEffect::Publish(bytes) => {
                    let others = (0..self.nodes.len()).filter(|to| *to != me);
                    self.queue.extend(others.map(|to| (to, BftInput::Message { bytes: bytes.clone() })));
                }
                BftEffect::NeedBlock { height, round, .. } => {
                    self.queue.push_front((me, BftInput::Propose { height, round, block: self.block.clone() }));
                }
                BftEffect::ValidateBlock { height, block_id, .. } => {
                    self.queue.push_front((me, BftInput::Validated { height, block_id, valid: true }));
                }
                BftEffect::Decided { certificate, .. } => self.decided = Some(certificate),
                _ => {}
            }
        }
    }

    /// The proof that this block was decided at this height.
    fn decide(&mut self, height: u64, block: Vec<u8>) -> Result<CommitCertificate> {
        (self.block, self.decided) = (block, None);
        let validators: Vec<_> = self.keys.iter().map(|key| key.id()).collect();
        for i in 0..self.nodes.len() {
            let input = BftInput::StartHeight { height, validators: validators.clone() };
            if height == 1 {
                let effects = self.nodes.get_mut(i).context("no such validator")?.replay(&[])?;
                self.carry_out(i, effects);
            } else {
                self.queue.push_back((i, input));
            }
        }
        while let Some((to, input)) = self.queue.pop_front() {
            let node = self.nodes.get_mut(to).context("a message for nobody")?;
            let effects = node.handle(input).unwrap_or_default(); // late votes are refused, as in the node
            self.carry_out(to, effects);
        }
        self.decided.take().with_context(|| format!("block {height} was not decided in memory"))
    }
}

fn key(kind: u8, number: usize) -> Result<NodeKey> {
    let mut secret = [kind; 32];
    let (head, _) = secret.split_at_mut(8);
    head.copy_from_slice(&u64::try_from(number)?.to_be_bytes());
    Ok(NodeKey::from_secret(&secret))
}

fn genesis() -> Result<(Genesis, Vec<Arc<NodeKey>>)> {
    let mut keys: Vec<NodeKey> = (0..2).map(|n| key(1, n)).collect::<Result<_>>()?;
    keys.sort_unstable_by_key(NodeKey::id);
    let encryption = |key: &NodeKey| EncryptionSecret::derive(&key.secret()).public();
    let genesis = Genesis {
        name: "bench".into(),
        bitcoin: BitcoinNetwork::Regtest,
        time_ms: 1,
        block_interval_ms: u32::try_from(INTERVAL_MS)?,
        validators: keys.iter().map(|k| Validator { node: k.id(), encryption: encryption(k) }).collect(),
        federation: Federation { committee: 2, epoch_blocks: 0, checkpoint_blocks: 0, ..Federation::default() },
        first_committee: Vec::new(),
    };
    let (genesis, _) = Genesis::ceremony(genesis, &mut OsRng).context("a genesis")?;
    Ok((genesis, keys.into_iter().map(Arc::new).collect()))
}

/// What there is to do: first models and their money, then every place of a round, then more money for ever.
struct Plan {
    owners: Vec<NodeKey>,
    validators: Vec<Arc<NodeKey>>,
    trainers: Vec<NodeKey>,
    models: Vec<ModelId>,
    next: usize,
}

impl Plan {
    fn new(validators: Vec<Arc<NodeKey>>) -> Result<Self> {
        let owners = (0..16).map(|n| key(2, n)).collect::<Result<_>>()?;
        let trainers = (0..PLACES as usize).map(|n| key(3, n)).collect::<Result<_>>()?;
        Ok(Self { owners, validators, trainers, models: Vec::new(), next: 0 })
    }

    fn owner(&self, model: usize) -> Result<&NodeKey> {
        if model >= MODELS {
            // P8: the second half of the table of models is for validators
            return self.validators.get(model % self.validators.len().max(1)).map(Arc::as_ref).context("no validator");
        }
        self.owners.get(model % self.owners.len().max(1)).context("no owner")
    }

    /// The next transaction.
    fn tx(&mut self, genesis: &Genesis) -> Result<SignedTx> {
        let (number, chain) = (self.next, genesis.chain());
        self.next += 1;
        let fund = |model: ModelId, budget_msat: u64| Fund { model, terms: Terms::whole(1), budget_msat };
        let all = 2 * MODELS;
        let claims = MODELS * self.trainers.len();
        let after = |start: usize| number.checked_sub(start);
        if let Some(i) = after(2 * all + claims) {
            // the second half of the models, over and over
            let at = MODELS + i % MODELS;
            let model = *self.models.get(at).context("no model")?;
            let budget_msat = 2 + u64::try_from(i / MODELS)?;
            return Ok(SignedTx::new(Tx::Fund(fund(model, budget_msat)), self.owner(at)?, chain));
        }
        if let Some(i) = after(2 * all) {
            let model = *self.models.get(i % MODELS).context("no model")?;
            let trainer = self.trainers.get(i / MODELS).context("no trainer")?;
            let parent = BlobHash([9; 32]); // the first weights of the sample manifest
            let commitment = Digest(trainer.id().0);
            let commit = Commit { model, round: 1, parent, commitment };
            return Ok(SignedTx::new(Tx::Commit(commit), trainer, chain));
        }
        if let Some(i) = after(all) {
            let model = *self.models.get(i).context("no model")?;
            return Ok(SignedTx::new(Tx::Fund(fund(model, 1)), self.owner(i)?, chain));
        }
        let mut manifest = sample_manifest(&format!("bench {number}"));
        manifest.judging.max_claims = PLACES;
        // the round stays open until all its places are taken
        manifest.timing.commit_blocks = 10_000;
        self.models.push(manifest.id());
        Ok(SignedTx::new(Tx::AddModel(manifest), self.owner(number)?, chain))
    }
}

/// Writes a ledger of at least so many records to a file.
///
/// # Errors
/// If the rules refuse what is planned, or the file cannot be written.
pub fn make(path: &Path, records: u64) -> Result<Chain> {
    // Malachite describes each message to the log, which `oda` leaves out as well
    let silent = tracing::subscriber::NoSubscriber::default();
    tracing::subscriber::with_default(silent, || write(path, records))
}

fn write(path: &Path, records: u64) -> Result<Chain> {
    let (genesis, keys) = genesis()?;
    let chain = genesis.chain();
    let mut state = State::new(genesis.clone())?;
    let (mut plan, mut deciders, mut txs) = (Plan::new(keys.clone())?, Deciders::new(&genesis, keys)?, 0);
    let file = File::create_new(path).with_context(|| format!("writing {}", path.display()))?;
    let mut out = BufWriter::new(file);
    out.write_all(MAGIC).and_then(|()| out.write_all(&chain.0)).context("writing a ledger")?;
    while state.log().len() < records {
        let height = state.tip().height + 1;
        ensure!(height <= MAX_BLOCKS, "{records} records need more than {MAX_BLOCKS} blocks");
        let wanted: Vec<SignedTx> = (0..TXS).map(|_| plan.tx(&genesis)).collect::<Result<_>>()?;
        let (block, refused) = state.build(&wanted, height * INTERVAL_MS);
        if let Some((tx, error)) = refused.first() {
            anyhow::bail!("block {height}: the rules refuse a {}: {error}", tx.kind());
        }
        ensure!(block.txs.len() == wanted.len(), "block {height} has no room for {TXS} transactions");
        txs += u64::try_from(block.txs.len())?;
        state.apply_known(&block, &|_| true)?; // signed a moment ago
        let certificate = deciders.decide(height, codec::encode(&block))?;
        let bytes = codec::encode(&DecidedBlock { block, certificate });
        let len = u32::try_from(bytes.len())?.to_le_bytes();
        out.write_all(&len).and_then(|()| out.write_all(&bytes)).context("writing a ledger")?;
    }
    out.into_inner().map_err(std::io::IntoInnerError::into_error).context("writing a ledger")?;
    let (blocks, records, claims) = (state.tip().height, state.log().len(), state.claims().count());
    Ok(Chain { genesis, blocks, txs, records, claims })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_ledger_has_the_records_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("chain");
        let chain = make(&path, 5_000).unwrap();
        assert!(chain.records >= 5_000 && chain.claims > 0 && chain.txs == chain.blocks * TXS as u64);
        assert!(std::fs::read(&path).unwrap().starts_with(MAGIC));
    }
}
