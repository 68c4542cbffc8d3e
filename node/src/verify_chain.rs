//! `oda verify-chain`: follows the committees' keys from the genesis to now (C2), from a peer or from a
//! file without any network, at the cost of one signature an epoch.
//! The file is a [`ChainFile`].

use crate::chain_file::ChainFile;
use crate::config::read_genesis;
use crate::verify::Asker;
use anyhow::{Context, Result, bail};
use clap::Args;
use oda_consensus::epoch::{EpochChain, HandoverLink};
use oda_consensus::ids::NodeId;
use oda_consensus::state::CheckpointState;
use oda_consensus::wire::{Request, Response};
use std::path::PathBuf;
use tokio::sync::watch;

/// Arguments of `oda verify-chain`.
#[derive(Args)]
pub struct VerifyChainArgs {
    /// Genesis file of the network: the one thing that has to be trusted.
    #[arg(long, env = "ODA_GENESIS")]
    pub genesis: PathBuf,
    /// A full node to ask, as multiaddress ending in /p2p/PEERID; may be repeated.
    #[arg(long = "peer", required_unless_present = "file")]
    pub peers: Vec<String>,
    /// Check this file instead, without any network.
    #[arg(long, conflicts_with = "peers")]
    pub file: Option<PathBuf>,
    /// Write what was fetched and verified to a file.
    #[arg(long, requires = "peers")]
    pub out: Option<PathBuf>,
}

/// Asks a peer for all handovers after the newest known one, and verifies each.
///
/// # Errors
/// If a link is missing or forged.
pub(crate) async fn follow_epochs(asker: &Asker, peer: NodeId, chain: &mut EpochChain) -> Result<Vec<HandoverLink>> {
    let mut all = Vec::new();
    loop {
        let Response::Epochs(links) = asker.ask(peer, Request::Epochs { after: chain.epoch() }).await? else {
            bail!("peer {} does not tell its epochs", peer.short());
        };
        if links.is_empty() {
            return Ok(all);
        }
        for link in links {
            chain.advance(link.clone()).with_context(|| format!("peer {} sent a bad chain", peer.short()))?;
            all.push(link);
        }
    }
}

/// Runs the verification.
///
/// # Errors
/// If the chain cannot be had, or does not hold.
pub async fn run(args: VerifyChainArgs, json: bool, mut stop: watch::Receiver<bool>) -> Result<()> {
    let genesis = read_genesis(&args.genesis)?;
    let mut chain = EpochChain::new(&genesis)?;
    let checkpoint = match &args.file {
        Some(path) => {
            let shown = ChainFile::load(path)?.verify(chain).with_context(|| path.display().to_string())?;
            chain = shown.chain;
            shown.checkpoint.map(|(c, _)| c)
        }
        None => tokio::select! {
            result = fetch(&args, &mut chain) => result?,
            _ = stop.changed() => bail!("stopped"),
        },
    };
    let group = chain.newest().context("no committee")?;
    let members: Vec<String> = group.members().iter().map(ToString::to_string).collect();
    if json {
        return crate::query::print_json(&serde_json::json!({
            "chain": chain.chain(), "epoch": chain.epoch(), "members": members, "threshold": group.threshold(),
            "checkpoint": checkpoint,
        }));
    }
    println!("chain holds: genesis to epoch {}, every key signed by the committee before", chain.epoch());
    let (n, t) = (members.len(), group.threshold());
    println!("committee    {n} members: forging an attestation needs {t}, blocking one {}", n - t + 1);
    members.iter().for_each(|m| println!("             {m}"));
    match checkpoint {
        Some(c) => println!(
            "attested     block {} {}, state root {} (epoch {})",
            c.checkpoint.height, c.checkpoint.block, c.checkpoint.state_root, c.epoch
        ),
        None => println!("attested     no block yet"),
    }
    Ok(())
}

async fn fetch(args: &VerifyChainArgs, chain: &mut EpochChain) -> Result<Option<CheckpointState>> {
    let mut asker = Asker::start(chain.chain(), &args.peers).await?;
    let peer = asker.connect().await?;
    let links = follow_epochs(&asker, peer, chain).await?;
    let Response::Checkpoint(checkpoint) = asker.ask(peer, Request::Checkpoint).await? else {
        bail!("peer {} does not tell its attested blocks", peer.short());
    };
    asker.stop().await;
    let checkpoint = checkpoint.map(|c| *c);
    if let Some(c) = &checkpoint {
        chain.attested(&c.checkpoint, &c.signature).with_context(|| format!("peer {}", peer.short()))?;
    }
    if let Some(path) = &args.out {
        ChainFile { links, checkpoint: checkpoint.clone(), ..ChainFile::default() }.save(path)?;
    }
    Ok(checkpoint)
}
