//! `oda model get`: the newest weights of a model as a file, from any full node, proved by the genesis alone.
//!
//! The obvious way, asking a node for "the model", is how one comes to run somebody else's weights. Here the manifest must
//! hash to the id that was asked for, the outcome that made the head must carry a committee's key that follows from the
//! genesis, and the bytes must have the head's hash. That it is the *newest* is the peer's word: the round is printed.

use crate::config::read_genesis;
use crate::jobs;
use crate::peers::PeerBook;
use crate::query::{nats, print_json};
use crate::verify::Asker;
use crate::verify_chain::follow_epochs;
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use oda_consensus::engine::trainer::verify_model;
use oda_consensus::epoch::EpochChain;
use oda_consensus::ids::ModelId;
use oda_consensus::wire::{Request, Response};
use std::path::{Path, PathBuf};
use tokio::sync::watch;
use tokio::time::Duration;

/// How long the weights may take to arrive.
const FETCH_TIMEOUT: Duration = Duration::from_secs(600);

/// Arguments of `oda model get`.
#[derive(Args)]
pub struct GetArgs {
    /// Model id.
    pub id: ModelId,
    /// Where to write the weights (safetensors); a file that is there is replaced.
    #[arg(short, long)]
    pub output: PathBuf,
    /// Genesis file of the network.
    #[arg(long, env = "ODA_GENESIS")]
    pub genesis: PathBuf,
    /// A full node to start from, as multiaddress ending in /p2p/PEERID; may be repeated.
    #[arg(long = "peer", required = true)]
    pub peers: Vec<String>,
}

/// Fetches the weights, verifies them and writes them.
///
/// # Errors
/// If they cannot be had, or do not follow from the genesis.
pub async fn run(args: GetArgs, json: bool, mut stop: watch::Receiver<bool>) -> Result<()> {
    let dir = std::env::temp_dir().join(format!("oda-model-get-{}", std::process::id()));
    let result = tokio::select! {
        result = get(&args, &dir, json) => result,
        _ = stop.changed() => Err(anyhow::anyhow!("stopped")),
    };
    let _ = std::fs::remove_dir_all(&dir);
    result
}

async fn get(args: &GetArgs, dir: &Path, json: bool) -> Result<()> {
    let genesis = read_genesis(&args.genesis)?;
    let mut epochs = EpochChain::new(&genesis)?;
    let mut asker = Asker::start(genesis.chain(), &args.peers).await?;
    let blobs = asker.open_blobs(dir).await?;
    let peer = asker.connect().await?;
    follow_epochs(&asker, peer, &mut epochs).await?;
    let Response::Model(Some(view)) = asker.ask(peer, Request::Model(args.id)).await? else {
        bail!("model {} is not on the ledger of {}: `oda model list` shows those that are", args.id, peer.short());
    };
    // L4, D1: what follows from id, genesis and attestation is believed, and nothing else
    let verified = verify_model(&epochs, args.id, &view)
        .context("the peer's model does not follow from its id, the genesis and a committee's attestation")?;
    let mut book = PeerBook::new(genesis.chain());
    if let Response::Peers(records) = asker.ask(peer, Request::Peers).await? {
        for record in records {
            book.insert(record, crate::clock::now_ms());
        }
    }
    let weights = jobs::obtain(&blobs, verified.head, &book.providers(&genesis.nodes()), FETCH_TIMEOUT, None)
        .await
        .with_context(|| format!("weights {}", verified.head.hash))?;
    asker.stop().await;
    let _ = blobs.shutdown().await;
    ensure!(weights.len() as u64 == verified.head.len, "the weights have another size than the ledger says");
    crate::file::replace(&args.output, &weights)
        .with_context(|| format!("{}: give a place that can be written with -o", args.output.display()))?;

    let judged = verified.round.saturating_sub(1);
    let head = view.last.as_ref().and_then(|last| Some((last.outcome.adopted(), last.outcome.head.as_ref()?)));
    let test = head.map(|(adopted, h)| if adopted { h.candidate_test } else { h.parent_test });
    if json {
        return print_json(&serde_json::json!({
            "model": args.id, "name": view.model.manifest.name, "rounds": judged, "weights": verified.head.hash,
            "bytes": weights.len(), "test": test, "file": args.output,
        }));
    }
    println!("model        {} ({})", view.model.manifest.name, args.id);
    println!("weights      {} after {judged} rounds, attested by a committee the genesis leads to", verified.head.hash);
    if let Some(test) = test.filter(|t| t.n > 0) {
        let right = f64::from(test.correct) / f64::from(test.n) * 100.0;
        let loss = nats(test.loss_sum_unat / i64::from(test.n));
        println!("test         {right:.1} % right, loss {loss} nat, on {} samples, as attested", test.n);
    }
    println!("written      {} ({} bytes, safetensors)", args.output.display(), weights.len());
    Ok(())
}
