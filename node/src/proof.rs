//! Proofs of the ledger's records (L4): a full node makes them, `oda proof` fetches and checks them.
//!
//! `oda proof check` needs the genesis file and nothing else: no node, no network. It follows the committees' keys
//! from the genesis, checks that one of them attested the block, that the record is under that block's state root,
//! and, given an older proof, that nothing recorded then was rewritten since.

use crate::chain_file::{ChainFile, Shown};
use crate::cli::DEFAULT_RPC;
use crate::config::read_genesis;
use crate::ledger::LedgerReader;
use crate::query::{asked, client, print_json};
use crate::rpc::ApiClient;
use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use oda_consensus::codec;
use oda_consensus::epoch::EpochChain;
use oda_consensus::ids::{ClaimId, EscrowId, ModelId, NodeId};
use oda_consensus::proof::{ExtensionProof, RecordProof, Subject};
use oda_consensus::records::{consistency_path, inclusion_path};
use oda_consensus::state::{CheckpointState, Entry};
use oda_consensus::tx::Header;
use oda_consensus::wire::DecidedBlock;
use serde_json::{Value, json};
use std::path::PathBuf;

/// Why a full node makes no proof.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    /// There is nothing to prove, or not yet.
    #[error("{0}")]
    NotFound(String),
    /// The store failed, or contradicts itself.
    #[error("{0}")]
    Damaged(String),
}

fn damaged(error: impl ToString) -> ProveError {
    ProveError::Damaged(error.to_string())
}

fn header(reader: &dyn LedgerReader, height: u64) -> Result<Header, ProveError> {
    let Some(bytes) = reader.block(height).map_err(damaged)? else {
        if let Some(bytes) = reader.header(height).map_err(damaged)? {
            return codec::decode(&bytes).map_err(damaged); // pruned: the header is what stays
        }
        let began = "this ledger has no header of it, or began with a snapshot above it: ask another full node";
        return Err(ProveError::NotFound(format!("block {height}: {began}")));
    };
    let decided: DecidedBlock = codec::decode(&bytes).map_err(damaged)?;
    Ok(decided.block.header)
}

/// The newest record of a subject that an attested block covers.
///
/// # Errors
/// [`ProveError`].
pub fn prove(reader: &dyn LedgerReader, newest: &CheckpointState, subject: Subject) -> Result<RecordProof, ProveError> {
    let attested = newest.checkpoint.height;
    let key = subject.key();
    let upto = subject.height().unwrap_or(attested);
    let not_yet = |height: u64| {
        ProveError::NotFound(format!(
            "it was recorded at height {height}, and the newest attested block is {attested}: ask again after the next \
             attested block"
        ))
    };
    if upto > attested {
        return Err(not_yet(upto));
    }
    let found = reader.version(&key, upto).map_err(damaged)?.filter(|v| subject.height().is_none_or(|h| v.height == h));
    let Some(version) = found else {
        return Err(match reader.version(&key, u64::MAX).map_err(damaged)? {
            Some(later) => not_yet(later.height),
            None => ProveError::NotFound("the ledger has no such record".into()),
        });
    };
    let header = header(reader, attested)?;
    let path = inclusion_path(version.index, header.records, &|i| reader.log_node(i)).map_err(damaged)?;
    let proof = RecordProof { index: version.index, height: version.height, key, value: version.value, path, header };
    proof.check(&newest.checkpoint).map_err(|e| damaged(format!("{e}; run `oda ledger repair`")))?; // never serve a bad one
    Ok(proof)
}

/// That the ledger at one attested height is the beginning of the ledger at another.
///
/// # Errors
/// [`ProveError`].
pub fn extend(reader: &dyn LedgerReader, old: u64, new: u64) -> Result<ExtensionProof, ProveError> {
    let (old, new) = (header(reader, old)?, header(reader, new)?);
    if old.records > new.records {
        return Err(ProveError::NotFound(format!("block {} is not before block {}", old.height, new.height)));
    }
    let path = consistency_path(old.records, new.records, &|i| reader.log_node(i)).map_err(damaged)?;
    Ok(ExtensionProof { old, new, path })
}

/// `oda proof`.
#[derive(Subcommand)]
pub enum ProofCommand {
    /// Fetch a proof from a full node, check it, and write it to a file.
    Get(GetArgs),
    /// Check a proof file offline.
    Check(CheckArgs),
}

/// Arguments of `oda proof get`.
#[derive(Args)]
pub struct GetArgs {
    /// What to prove.
    #[command(subcommand)]
    subject: SubjectArg,
    /// Genesis file of the network: the one thing that has to be trusted.
    #[arg(long, env = "ODA_GENESIS", global = true, default_value = "genesis.json")]
    genesis: PathBuf,
    /// Where to write the proof.
    #[arg(long, short, global = true, default_value = "oda.proof")]
    out: PathBuf,
    /// An older proof: prove too that nothing recorded then was rewritten since.
    #[arg(long, global = true)]
    after: Option<PathBuf>,
    /// JSON-RPC address of a full node.
    #[arg(long, env = "ODA_RPC", global = true, default_value = DEFAULT_RPC)]
    rpc: String,
}

#[derive(Subcommand)]
enum SubjectArg {
    /// Hash, time and state root of a block.
    Block {
        /// Height.
        height: u64,
    },
    /// A model with its head and its sponsors' accounts.
    Model {
        /// Model id.
        id: ModelId,
    },
    /// A claim with its verdict.
    Claim {
        /// Claim id.
        id: ClaimId,
    },
    /// An escrow with what was paid and refunded.
    Escrow {
        /// Escrow id.
        id: EscrowId,
    },
    /// What a round's committee attested.
    Outcome {
        /// Model id.
        model: ModelId,
        /// Round.
        round: u64,
    },
    /// How much a trainer improved a model, and what it was paid.
    Credit {
        /// Model id.
        model: ModelId,
        /// Trainer.
        trainer: NodeId,
    },
    /// An epoch with its committee.
    Epoch {
        /// Number.
        number: u64,
    },
    /// A validator with its service record.
    Validator {
        /// Its node id.
        node: NodeId,
    },
}

impl From<&SubjectArg> for Subject {
    fn from(arg: &SubjectArg) -> Self {
        match *arg {
            SubjectArg::Block { height } => Subject::Block(height),
            SubjectArg::Model { id } => Subject::Model(id),
            SubjectArg::Claim { id } => Subject::Claim(id),
            SubjectArg::Escrow { id } => Subject::Escrow(id),
            SubjectArg::Outcome { model, round } => Subject::Outcome(model, round),
            SubjectArg::Credit { model, trainer } => Subject::Credit(model, trainer),
            SubjectArg::Epoch { number } => Subject::Epoch(number),
            SubjectArg::Validator { node } => Subject::Validator(node),
        }
    }
}

/// Arguments of `oda proof check`.
#[derive(Args)]
pub struct CheckArgs {
    /// The proof.
    file: PathBuf,
    /// Genesis file of the network: the one thing that has to be trusted.
    #[arg(long, env = "ODA_GENESIS", default_value = "genesis.json")]
    genesis: PathBuf,
    /// An older proof: check too that nothing recorded then was rewritten since.
    #[arg(long)]
    after: Option<PathBuf>,
}

/// Runs `oda proof`.
///
/// # Errors
/// If there is no such proof, or it does not hold.
pub async fn run(command: ProofCommand, as_json: bool) -> Result<()> {
    let (file, genesis, after) = match command {
        ProofCommand::Get(args) => {
            let file = fetch(&args).await?;
            file.save(&args.out)?;
            (args.out, args.genesis, args.after)
        }
        ProofCommand::Check(args) => (args.file, args.genesis, args.after),
    };
    let genesis = EpochChain::new(&read_genesis(&genesis)?)?;
    let new = ChainFile::load(&file)?;
    let shown = new.verify(genesis.clone()).with_context(|| file.display().to_string())?;
    let older = after.map(|path| check_extension(&new, &shown, &ChainFile::load(&path)?, genesis)).transpose()?;
    report(&shown, older, as_json)
}

/// Checks that the newer file's ledger begins with the older one's; the older one's height.
fn check_extension(new: &ChainFile, shown: &Shown, old: &ChainFile, genesis: EpochChain) -> Result<u64> {
    let before = old.verify(genesis).context("the older proof")?;
    let (old, _) = before.checkpoint.context("the older proof has no attested block")?;
    let (newer, _) = shown.checkpoint.as_ref().context("the proof has no attested block")?;
    let proof = new.extension.as_ref().context("the proof does not connect to an older one: get it with --after")?;
    proof.check(&old.checkpoint, &newer.checkpoint)?;
    Ok(old.checkpoint.height)
}

async fn fetch(args: &GetArgs) -> Result<ChainFile> {
    let url = &args.rpc;
    let client = client(url)?;
    let found = asked(url, client.proof(Subject::from(&args.subject)).await)?;
    let mut file = ChainFile { checkpoint: Some(unhex(&found.checkpoint)?), ..ChainFile::default() };
    file.record = Some(unhex(&found.record)?);
    loop {
        let more = asked(url, client.handovers(None, Some(file.links.len() as u64)).await)?;
        if more.is_empty() {
            break;
        }
        for link in &more {
            file.links.push(unhex(link)?);
        }
    }
    if let Some(path) = &args.after {
        let old = ChainFile::load(path)?.checkpoint.context("the older proof has no attested block")?.checkpoint.height;
        let new = file.checkpoint.as_ref().map_or(0, |c| c.checkpoint.height);
        file.extension = Some(unhex(&asked(url, client.extension(old, new).await)?)?);
    }
    Ok(file)
}

fn unhex<T: codec::Record>(text: &str) -> Result<T> {
    let bytes = hex::decode(text).context("the node answered something else than hex")?;
    codec::decode(&bytes).context("the node answered something else than a proof: is it of this release?")
}

/// An entry for people.
pub(crate) fn entry_json(entry: &Entry) -> Result<(&'static str, Value)> {
    Ok(match entry {
        Entry::Tip(v) => ("block", serde_json::to_value(v)?),
        Entry::Model(v) => ("model", serde_json::to_value(v)?),
        Entry::Claim(v) => ("claim", serde_json::to_value(v)?),
        Entry::Escrow(v) => ("escrow", serde_json::to_value(v)?),
        Entry::Outcome(v) => {
            // by way of text: a sum of squares may be above 64 bits, which a JSON value holds only as a float
            ("outcome", serde_json::from_str(&serde_json::to_string(v)?)?)
        }
        Entry::Credit(v) => ("credit", serde_json::to_value(v)?),
        Entry::Epoch(v) => {
            let mut value = serde_json::to_value(v)?;
            value["members"] = json!(v.group.members());
            value["threshold"] = json!(v.group.threshold());
            ("epoch", value)
        }
        Entry::Validator(v) => ("validator", serde_json::to_value(v)?),
        _ => ("record", Value::Null),
    })
}

fn report(shown: &Shown, older: Option<u64>, as_json: bool) -> Result<()> {
    let (entry, height) =
        shown.entry.as_ref().context("the file holds no record: `oda verify-chain --file` reads it")?;
    let (checkpoint, epoch) = shown.checkpoint.as_ref().context("the file holds no attested block")?;
    let (kind, value) = entry_json(entry)?;
    let c = checkpoint.checkpoint;
    if as_json {
        return print_json(&json!({
            "chain": shown.chain.chain(), "kind": kind, "record": value, "height": height, "checkpoint": c,
            "epoch": epoch, "extends_height": older,
        }));
    }
    println!("{kind}, as block {height} of network {} recorded it:", shown.chain.chain().short());
    println!("{}", serde_json::to_string_pretty(&value)?);
    println!("under the state root of block {} {}", c.height, c.block);
    let group = shown.chain.group(*epoch).context("the attesting committee is not known")?;
    let (n, t) = (group.members().len(), group.threshold());
    println!("attested by {t} or more of the {n} members of epoch {epoch}, whose key follows from the genesis");
    if let Some(old) = older {
        println!("nothing recorded up to block {old} was rewritten since");
    }
    Ok(())
}

/// Codec bytes in hex, as RPC carries them.
pub(crate) fn hexed(record: &impl codec::Record) -> String {
    hex::encode(codec::encode(record))
}
