//! `oda verify CLAIM`: replays a claim on any machine, from an empty directory, and compares every
//! integer with the attested outcome.
//!
//! Nothing a peer says is believed: the manifest must hash to the model's id, every blob to its hash,
//! the outcome must carry the group key's signature, and the samples follow from its beacons. One figure cannot
//! be replayed by everyone: that of a sealed guard, before its key is public (S3). It is taken as attested, and
//! the output says so.

use crate::config::read_genesis;
use crate::jobs::{self, ReplayInput};
use crate::net::{Net, NetConfig, NetEvent};
use crate::peers::PeerBook;
use crate::query::nats;
use crate::verify_chain::follow_epochs;
use anyhow::{Context, Result, bail};
use clap::Args;
use oda_consensus::codec;
use oda_consensus::engine::trainer::verify_outcome;
use oda_consensus::engine::validator::JudgeJob;
use oda_consensus::epoch::EpochChain;
use oda_consensus::ids::{ChainId, ClaimId, NodeId};
use oda_consensus::keys::NodeKey;
use oda_consensus::manifest::Manifest;
use oda_consensus::outcome::{Outcome, first_beacon};
use oda_consensus::score::{Measurement, Paired};
use oda_consensus::sealed::GuardKey;
use oda_consensus::wire::{ClaimView, Request, Response};
use oda_storage::Blobs;
use rand_core::RngCore as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::time::{Duration, timeout};

/// How long to ask around for a delta: nodes that are gone answer nothing, each for ten seconds.
const DELTA_TIMEOUT: Duration = Duration::from_secs(120);
use zeroize::Zeroizing;

/// Arguments of `oda verify`.
#[derive(Args)]
pub struct VerifyArgs {
    /// Claim to replay.
    pub claim: ClaimId,
    /// Genesis file of the network.
    #[arg(long, env = "ODA_GENESIS")]
    pub genesis: PathBuf,
    /// A full node to start from, as multiaddress ending in /p2p/PEERID; may be repeated.
    #[arg(long = "peer", required = true)]
    pub peers: Vec<String>,
    /// Where to keep what is fetched; a temporary directory if absent.
    #[arg(long)]
    pub datadir: Option<PathBuf>,
}

/// Asks full nodes under a name made up for this one look.
pub(crate) struct Asker {
    secret: [u8; 32],
    ip: IpAddr,
    net: Net,
    events: mpsc::Receiver<NetEvent>,
}

impl Asker {
    /// Joins the network as a lite node.
    pub(crate) async fn start(chain: ChainId, peers: &[String]) -> Result<Self> {
        let mut secret = [0; 32];
        rand_core::OsRng.fill_bytes(&mut secret);
        let (net, events) = Net::start(NetConfig {
            key: NodeKey::from_secret(&secret).secret(),
            chain,
            listen: vec![],
            peers: crate::net::parse_peers(peers)?,
            role: crate::net::Role::Lite,
            ..NetConfig::default()
        })
        .await?;
        Ok(Self { secret, ip: crate::net::address::own_ip(peers), net, events })
    }

    /// A store for what is to be fetched, that reaches whom the peers reach: bound to loopback it would find this
    /// machine's nodes only.
    pub(crate) async fn open_blobs(&self, dir: &Path) -> Result<Blobs> {
        let key = Zeroizing::new(self.secret);
        Ok(Blobs::open(&dir.join("blobs"), &key, SocketAddr::new(self.ip, 0)).await?)
    }

    /// Leaves the network.
    pub(crate) async fn stop(&self) {
        self.net.shutdown().await;
    }

    /// Waits for the first full node to connect.
    pub(crate) async fn connect(&mut self) -> Result<NodeId> {
        let wait = async {
            loop {
                match self.events.recv().await {
                    Some(NetEvent::PeerConnected(peer)) => return Ok(peer),
                    Some(_) => {}
                    None => bail!("the network stopped"),
                }
            }
        };
        timeout(Duration::from_secs(20), wait)
            .await
            .context("no peer answered within 20 s: check --peer and that the node runs")?
    }

    /// One question.
    pub(crate) async fn ask(&self, peer: NodeId, request: Request) -> Result<Response> {
        let bytes = self.net.request(peer, codec::encode(&request)).await?;
        Ok(codec::decode(&bytes)?)
    }
}

/// Runs the verification; an error is "could not be checked" or "differs".
///
/// # Errors
/// If anything needed cannot be had, or anything differs from the ledger.
pub async fn run(args: VerifyArgs, json: bool, mut stop: watch::Receiver<bool>) -> Result<()> {
    let temp;
    let dir = match &args.datadir {
        Some(dir) => dir.clone(),
        None => {
            temp = std::env::temp_dir().join(format!("oda-verify-{}", std::process::id()));
            temp.clone()
        }
    };
    let result = tokio::select! {
        result = replay(&args, &dir, json) => result,
        _ = stop.changed() => Err(anyhow::anyhow!("stopped")),
    };
    if args.datadir.is_none() {
        let _ = std::fs::remove_dir_all(&dir);
    }
    result
}

async fn replay(args: &VerifyArgs, dir: &Path, json: bool) -> Result<()> {
    let genesis = read_genesis(&args.genesis)?;
    let chain = genesis.chain();
    let mut epochs = EpochChain::new(&genesis)?;
    let mut asker = Asker::start(chain, &args.peers).await?;
    let blobs = Arc::new(asker.open_blobs(dir).await?);
    let peer = asker.connect().await?;
    follow_epochs(&asker, peer, &mut epochs).await?;

    let Response::Claim(Some(view)) = asker.ask(peer, Request::Claim(args.claim)).await? else {
        bail!("claim {} is not on the ledger of {}", args.claim, peer.short());
    };
    let ClaimView { claim, outcome, .. } = *view;
    let outcome = outcome
        .with_context(|| format!("claim {} is in round {}, which is not judged yet", args.claim, claim.round))?;
    let Response::Model(Some(model)) = asker.ask(peer, Request::Model(claim.model)).await? else {
        bail!("the peer does not know model {}", claim.model);
    };
    let manifest = model.model.manifest;
    anyhow::ensure!(manifest.id() == claim.model && manifest.check().is_ok(), "the peer's manifest is not the model's");
    let attested = verify_outcome(&epochs, claim.model, &outcome)
        .context("the attestation does not hold: the committee's group key did not sign this outcome")?;
    anyhow::ensure!(attested.round == claim.round, "the peer sent another round's outcome");
    anyhow::ensure!(
        attested.claims.iter().any(|c| c.claim == args.claim),
        "the attested outcome does not know the claim"
    );
    // the beacon from which the shards came: attested with the round before
    let start = if claim.round == 1 {
        first_beacon(chain, claim.model)
    } else {
        let Response::Outcome(Some(before)) = asker.ask(peer, Request::Outcome(claim.model, claim.round - 1)).await?
        else {
            bail!("the peer does not have the outcome of round {}", claim.round - 1);
        };
        let before_attested = verify_outcome(&epochs, claim.model, &before)
            .context("the attestation of the round before does not hold")?;
        anyhow::ensure!(before_attested.round == claim.round - 1, "the peer sent another round's outcome");
        before_attested.next_beacon()
    };

    // deltas of all claims of the round: the new head is made of all accepted ones
    let mut claims = Vec::new();
    for judged in &attested.claims {
        let Response::Claim(Some(view)) = asker.ask(peer, Request::Claim(judged.claim)).await? else {
            bail!("the peer does not have claim {}", judged.claim);
        };
        claims.push((judged.claim, judged.trainer, view.claim.reveal));
    }
    let mut book = PeerBook::new(chain);
    if let Response::Peers(records) = asker.ask(peer, Request::Peers).await? {
        for record in records {
            book.insert(record, crate::clock::now_ms());
        }
    }
    // S3: what the committee measured on sealed guards can be replayed once their key is everyone's
    let measured = attested.head.as_ref().is_some_and(|h| {
        manifest.data.guards.iter().zip(&h.guards).any(|(slice, scores)| slice.sealed.is_some() && scores.n > 0)
    });
    let guard_key = model.model.revealed.filter(|_| measured).map(|key| GuardKey::new(key.0));
    let believed = measured && guard_key.is_none();
    let job = JudgeJob {
        model: claim.model,
        manifest: manifest.clone(),
        round: claim.round,
        start,
        sealed: attested.sealed,
        parent: attested.parent,
        claims,
        guard_key,
        attempt: 0,
    };
    let mut judged = {
        let (blobs, providers) = (blobs.clone(), book.providers(&genesis.nodes()));
        jobs::replay(ReplayInput { job, blobs, providers, puller: None, delta_timeout: DELTA_TIMEOUT }).await?
    };
    if believed {
        judged.measured.take_sealed(&manifest, attested);
    }
    let name = (judged.model, judged.round, attested.parent, attested.sealed);
    let mine = Outcome::derive(&manifest, name, judged.measured);
    asker.stop().await;
    let _ = blobs.shutdown().await;
    report(args.claim, &manifest, (attested, &mine), believed, json)
}

fn report(
    claim: ClaimId,
    manifest: &Manifest,
    (ledger, mine): (&Outcome, &Outcome),
    believed: bool,
    json: bool,
) -> Result<()> {
    let find = |o: &Outcome| o.claims.iter().find(|c| c.claim == claim).copied();
    let (Some(theirs), Some(ours)) = (find(ledger), find(mine)) else { bail!("the replay lost the claim") };
    let (equal, agrees) = (ledger == mine, ledger.agrees(mine));
    if json {
        crate::query::print_json(&serde_json::json!({
            "claim": claim, "attested": true, "equal": equal, "within_rounding": agrees, "ledger": theirs, "replayed": ours,
            "ledger_head": ledger.head, "replayed_head": mine.head, "sealed_guards_taken_as_attested": believed,
        }))?;
    } else {
        println!("attestation  holds: signed by the committee's group key");
        println!("verdict      ledger {:?}, replayed {:?}", theirs.verdict, ours.verdict);
        if let (Measurement::Scored(a), Measurement::Scored(b)) = (&theirs.measurement, &ours.measurement) {
            row("own shard", &a.shard, &b.shard);
            row("gate", &a.gate, &b.gate);
            if let (Some(a), Some(b)) = (&a.probe, &b.probe) {
                row("probe", a, b);
            }
        }
        if let (Measurement::Added(a), Measurement::Added(b)) = (&theirs.measurement, &ours.measurement) {
            println!("{:<12} {} unat", "stated", a.stated_unat);
            row("added", &a.gate, &b.gate);
        }
        if let (Some(a), Some(b)) = (&ledger.head, &mine.head) {
            row("new head", &a.confirm, &b.confirm);
            for (guard, (a, b)) in manifest.data.guards.iter().zip(a.guards.iter().zip(&b.guards)) {
                match guard.sealed {
                    Some(_) if a.n == 0 => {
                        println!("{:<12} sealed; the committee had no key and skipped it", guard.name)
                    }
                    Some(_) if believed => println!(
                        "{:<12} ledger {:>12} unat over {} samples ? sealed: not replayed, its key is not public yet",
                        guard.name, a.sum_unat, a.n
                    ),
                    _ => row(&guard.name, a, b),
                }
            }
            println!("candidate    ledger {}, replayed {}", a.candidate.hash.short(), b.candidate.hash.short());
        }
        println!(
            "credit       ledger {} nat, replayed {} nat",
            nats(theirs.credit_unat.try_into()?),
            nats(ours.credit_unat.try_into()?)
        );
    }
    if !agrees {
        bail!("the replay differs from the ledger");
    }
    if !json {
        println!(
            "{}",
            if equal && believed {
                "equal: every integer but those on sealed guards, taken as attested, is the ledger's"
            } else if equal {
                "equal: every integer is the ledger's"
            } else {
                "equal but for rounding edges of single samples (S2)"
            }
        );
    }
    Ok(())
}

fn row(name: &str, ledger: &Paired, mine: &Paired) {
    let mark = if ledger == mine { "=" } else { "!" };
    println!(
        "{name:<12} ledger {:>12} unat over {} samples {mark} replayed {:>12} unat",
        ledger.sum_unat, ledger.n, mine.sum_unat
    );
}
