//! A full node: one task owns ledger, mempool and engines and handles one event at a time.
//!
//! Everything slow (replays, blob transfers, Lightning calls) runs beside it and reports back as an
//! event, so blocks never wait for a replay (L5) and no lock order has to be remembered: the only
//! shared thing is [`Shared`], written here and read by the RPC server.

mod bft_host;
mod challenge;
pub mod deltas;
mod keeping;
mod misbehave;
pub mod pruning;
mod requests;
mod roles;
mod said;
mod shared;
mod snapshots;
mod store;
mod sync;
mod timers;

pub(crate) use bft_host::check_certificate;
pub use shared::{PaymentInfo, PeerInfo, Shared};
pub use store::StoreReader;
pub(crate) use store::restore;

use crate::clock::now_ms;
use crate::config::Config;
use crate::identity::Identity;
use crate::jobs::{JudgeReport, Judges};
use crate::mempool::{Mempool, MempoolError};
use crate::net::{Net, NetConfig, NetEvent, Topic, Verdict};
use crate::peers::{PeerBook, own_record};
use crate::snapshot::Search;
use crate::sponsor::{SponsorHost, WalletReport};
use anyhow::{Context, Result};
use oda_consensus::bft::{Bft, BftInput, TimeoutToken};
use oda_consensus::codec;
use oda_consensus::engine::validator::{ScoreRecord, Validator, ValidatorInput};
use oda_consensus::evidence::Evidence;
use oda_consensus::frost::{SignInput, Signer};
use oda_consensus::ids::{BlockHash, ChainId, Digest, NodeId};
use oda_consensus::keys::NodeKey;
use oda_consensus::snapshot::SnapshotOffer;
use oda_consensus::state::{Applied, State, TxError, ValidatorStatus};
use oda_consensus::tx::{DkgStep, SignedTx, Tx};
use oda_consensus::wire::{DecidedBlock, Request, Response, Role, SignedPeerRecord};
use oda_storage::{Blobs, RecordStore, RocksLedger, RocksRecords};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use said::Said;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use store::Store;
use timers::Timers;
use tokio::sync::{mpsc, watch};
use tokio::time::{Duration, Instant};

/// What a timer was set for.
#[derive(Clone, Debug, PartialEq)]
enum Timer {
    Bft(TimeoutToken),
    StartHeight,
}

/// An event from one of the tasks beside the core.
pub(crate) enum CoreEvent {
    /// A replay ended.
    Judged(JudgeReport),
    /// Lightning reports.
    Wallet(WalletReport),
    /// A submission fee was paid, and written down (P8).
    FeePaid(oda_consensus::ids::ClaimId),
    /// A peer answered a request.
    Answer(NodeId, Box<Response>),
    /// The RPC server passes on a transaction.
    Submit(Box<SignedTx>, tokio::sync::oneshot::Sender<Result<(), String>>),
    /// A snapshot of this ledger was made for whoever asks, or not.
    SnapshotMade(Option<Box<SnapshotOffer>>),
    /// A search for a snapshot ended.
    SnapshotSearched(Box<Search>),
    /// A trainer handed over its delta, or not.
    DeltaAsked(oda_consensus::ids::ClaimId, Result<(), deltas::PullError>),
    /// The node's owner refuses a peer for a while.
    Ban(NodeId, Duration),
}

/// What makes a full node a validator.
pub(crate) struct Duty {
    engine: Validator,
    records: RocksRecords,
    options: crate::config::Validator,
}

/// Score records of a validator, by model, round and attempt.
const SCORES: &[u8] = b"score/";
const MAX_SCORES: usize = 1 << 20;

impl Duty {
    fn open(datadir: &Path, identity: &Identity, chain: ChainId, options: &crate::config::Validator) -> Result<Self> {
        let records = RocksRecords::open(&datadir.join("scores"), chain).context("opening the score records")?;
        let known = records
            .scan(SCORES, MAX_SCORES)?
            .into_iter()
            .map(|(_, bytes)| codec::decode(&bytes))
            .collect::<Result<Vec<ScoreRecord>, _>>()
            .with_context(|| crate::damaged("a score record"))?;
        let engine = Validator::new(identity.key.id(), identity.encryption.clone(), known);
        Ok(Self { engine, records, options: options.clone() })
    }

    fn persist(&mut self, record: &ScoreRecord) -> Result<()> {
        let (o, attempt) = (&record.outcome, record.attempt);
        let key = [SCORES, &o.model.0, &o.round.to_be_bytes(), &attempt.to_be_bytes()].concat();
        self.records.put(&key, &codec::encode(record)).context("writing a score record")
    }
}

/// The state behind the event loop.
pub(crate) struct Core {
    me: NodeId,
    key: Arc<NodeKey>,
    chain: ChainId,
    identity: Identity,
    shared: Arc<Shared>,
    store: Store,
    net: Net,
    blobs: Arc<Blobs>,
    book: PeerBook,
    mempool: Mempool,
    timers: Timers<Timer>,
    height_started: Instant,
    datadir: PathBuf,
    bft: Option<Bft>,
    /// The last block that was executed on trial, by its hash, with what came of it.
    tried: Option<(BlockHash, State, Applied)>,
    /// Signing engines of the committees this node sits in, by epoch.
    signers: BTreeMap<u64, Signer>,
    /// When this node first wanted a topic signed, by epoch and topic.
    opened: BTreeMap<(u64, Digest), Instant>,
    /// Present if this node validates.
    duty: Option<Duty>,
    /// Messages no honest node sends, by kind.
    refused: BTreeMap<String, u64>,
    judges: Judges,
    sponsor: Option<SponsorHost>,
    rng: ChaCha20Rng,
    events: mpsc::Sender<CoreEvent>,
    record: SignedPeerRecord,
    syncing_from: Option<(NodeId, Instant)>,
    /// Blocks come in bulk: duties wait for the last of them.
    catching_up: bool,
    /// What may be said only once, as first heard: by signer and slot (C6).
    said: Said,
    keeping: keeping::Keeping,
    _challenges: Option<challenge::Challenges>,
    deltas: deltas::Deltas,
    ledger_options: crate::config::Ledger,
    /// Peers that refused blocks we asked for, and when: they have pruned them.
    lacking: BTreeMap<NodeId, Instant>,
    snapshots: snapshots::Snapshots,
}

/// A running full node.
pub struct FullNode {
    /// What the RPC server reads.
    pub shared: Arc<Shared>,
    store: Store,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<Result<()>>,
}

impl FullNode {
    /// Opens the data directory and joins the network.
    ///
    /// # Errors
    /// Anything that keeps the node from starting, said in one line.
    pub async fn start(config: &Config, datadir: &Path, validator: bool) -> Result<Self> {
        let genesis = config.genesis(datadir)?;
        let identity = Identity::load(datadir)?;
        let key = identity.key.clone();
        let (me, chain) = (key.id(), genesis.chain());
        let ledger = RocksLedger::open(&datadir.join("ledger"), chain).context("opening the ledger")?;
        let mut state = State::new(genesis)?;
        restore(&mut state, &ledger)?;

        let blobs = Arc::new(
            Blobs::open_with(&datadir.join("blobs"), &key.secret(), config.blobs.listen, config.blobs.limits())
                .await
                .context("opening the blob store")?,
        );
        let (net, net_events) = Net::start(NetConfig {
            key: key.secret(),
            chain,
            role: crate::net::Role::Full,
            votes: validator,
            ..NetConfig::of(&config.p2p, datadir)?
        })
        .await?;

        let (events, event_queue) = mpsc::channel(1024);
        let mut sponsor = match &config.sponsor {
            Some(sponsor) => Some(
                SponsorHost::start(sponsor, config, datadir, &identity, &state, blobs.clone(), events.clone()).await?,
            ),
            None => None,
        };
        let submissions = config.sponsor.as_ref().and_then(|s| s.submissions.as_ref()).map(|s| s.public());
        let record = own_record(
            &key,
            chain,
            Role::Full,
            (&blobs, &config.blobs.external),
            &net,
            sponsor.as_ref().map(SponsorHost::lightning_address),
            submissions,
        );

        let peer = crate::net::peer_id(me).map(|peer| peer.to_string()).unwrap_or_default();
        for address in &record.record.p2p {
            // those it listens on name it already, those its owner announces may not
            let address = address.trim_end_matches(&format!("/p2p/{peer}"));
            tracing::info!("peers find this node at {address}/p2p/{peer}");
        }

        let rng = ChaCha20Rng::from_rng(rand_core::OsRng).context("no randomness")?;
        let duty = match validator {
            true => Some(Duty::open(datadir, &identity, chain, &config.validator)?),
            false => None,
        };
        let snapshots = snapshots::Snapshots::open(&ledger, &config.ledger);
        let store = Arc::new(RwLock::new(ledger));
        let shared = Arc::new(Shared::new(state, me, validator, events.clone()));
        for record in sponsor.iter().flat_map(|s| s.engine.records()) {
            crate::sponsor::payment_infos(record).for_each(|p| shared.set_payment(p));
        }
        if let Some(sponsor) = &mut sponsor {
            sponsor.open_desk(shared.clone(), &identity).await?;
        }
        let prove = || challenge::Challenges::start(shared.clone(), blobs.clone(), key.clone());
        let challenges = validator.then(prove);
        let puller = deltas::Puller::new(net.clone(), blobs.clone());
        let mut core = Core {
            me,
            key,
            chain,
            identity,
            shared: shared.clone(),
            store: store.clone(),
            book: PeerBook::new(chain).telling(&net),
            net,
            _challenges: challenges,
            judges: Judges::new(blobs.clone(), events.clone(), puller.clone()),
            deltas: deltas::Deltas::new(puller),
            keeping: keeping::Keeping::start(shared.clone(), blobs.clone(), config.blobs.replicas),
            blobs,
            ledger_options: config.ledger.clone(),
            lacking: BTreeMap::new(),
            snapshots,
            mempool: Mempool::default(),
            timers: Timers::default(),
            height_started: Instant::now(),
            datadir: datadir.to_path_buf(),
            bft: None,
            tried: None,
            signers: BTreeMap::new(),
            opened: BTreeMap::new(),
            duty,
            refused: BTreeMap::new(),
            sponsor,
            rng,
            events,
            record,
            syncing_from: None,
            catching_up: false,
            said: Said::default(),
        };
        core.book.insert(core.record.clone(), now_ms());
        core.start_height()?;
        core.state_changed()?;
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(core.run(net_events, event_queue, stopped));
        Ok(Self { shared, stop, task, store })
    }

    /// Reads blocks beside the running node.
    pub fn reader(&self) -> StoreReader {
        StoreReader(self.store.clone())
    }

    /// Waits until the node stops by itself (an error no node can go on after).
    ///
    /// # Errors
    /// Why it stopped.
    pub async fn wait(&mut self) -> Result<()> {
        (&mut self.task).await.context("the node's task died")?
    }

    /// Stops the node and waits until everything is on disk.
    ///
    /// # Errors
    /// What went wrong while stopping.
    pub async fn stop(self) -> Result<()> {
        let _ = self.stop.send(true);
        self.task.await.context("the node's task died")?
    }
}

impl Core {
    fn ledger(&self) -> RwLockReadGuard<'_, RocksLedger> {
        self.store.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn ledger_mut(&self) -> RwLockWriteGuard<'_, RocksLedger> {
        self.store.write().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(
        mut self,
        mut net_events: mpsc::Receiver<NetEvent>,
        mut events: mpsc::Receiver<CoreEvent>,
        mut stop: watch::Receiver<bool>,
    ) -> Result<()> {
        let mut tick = tokio::time::interval(Duration::from_millis(250));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let result = loop {
            let due = self.timers.next_due();
            let step = tokio::select! {
                _ = stop.changed() => break Ok(()),
                Some(event) = net_events.recv() => self.on_net(event),
                Some(event) = events.recv() => self.on_event(event),
                _ = tokio::time::sleep_until(due.unwrap_or_else(far_future)), if due.is_some() => self.on_timer(),
                _ = tick.tick() => self.on_tick(),
            };
            if let Err(error) = step {
                break Err(error);
            }
        };
        if let Some(sponsor) = self.sponsor.take() {
            sponsor.stop().await;
        }
        self.net.shutdown().await;
        let _ = self.blobs.shutdown().await;
        result
    }

    fn on_timer(&mut self) -> Result<()> {
        match self.timers.pop_due(Instant::now()) {
            Some(Timer::Bft(token)) => self.drive_bft(BftInput::Timeout(token)),
            Some(Timer::StartHeight) => {
                self.height_started = Instant::now();
                self.start_height()
            }
            None => Ok(()),
        }
    }

    fn on_tick(&mut self) -> Result<()> {
        let epochs: Vec<u64> = self.signers.keys().copied().collect();
        for epoch in epochs {
            self.sign(epoch, SignInput::Tick)?;
        }
        if let Some(sponsor) = &mut self.sponsor {
            sponsor.tick(&self.book);
        }
        self.poll_peer();
        self.keep_blobs();
        self.bring_deltas(false);
        self.prune_blocks()?;
        self.seek_snapshot();
        self.shared.set_peers(&self.net.connected(), &self.book);
        self.shared.set_reachability(self.net.reachability());
        self.shared.set_mempool(self.mempool.len());
        Ok(())
    }

    /// Sends a request; the answer comes back as an event.
    pub(super) fn ask(&self, peer: NodeId, request: Request) {
        let (net, events) = (self.net.clone(), self.events.clone());
        tokio::spawn(async move {
            if let Ok(bytes) = net.request(peer, codec::encode(&request)).await
                && let Ok(response) = codec::decode::<Response>(&bytes)
            {
                let _ = events.send(CoreEvent::Answer(peer, Box::new(response))).await;
            }
        });
    }

    fn on_net(&mut self, event: NetEvent) -> Result<()> {
        match event {
            NetEvent::Gossip { topic, data, token, from } => {
                let verdict = self.on_gossip(from, topic, data)?;
                if verdict == Verdict::Reject {
                    self.count_refused(&format!("{topic:?}: forged or malformed"));
                }
                self.net.report(token, verdict);
            }
            NetEvent::Request { from, data, token } => self.on_request(from, &data, token)?,
            NetEvent::PeerConnected(peer) => {
                self.ask(peer, Request::Hello(self.record.clone()));
                self.ask(peer, Request::Peers);
            }
            NetEvent::PeerDisconnected(_) => {}
        }
        Ok(())
    }

    /// Explicit validation (N1): what is passed on was checked here first.
    fn on_gossip(&mut self, from: NodeId, topic: Topic, data: Vec<u8>) -> Result<Verdict> {
        match topic {
            Topic::Bft => self.on_bft_gossip(&data),
            Topic::Tx => match codec::decode::<SignedTx>(&data) {
                Err(_) => Ok(Verdict::Reject),
                Ok(tx) => {
                    let watched = tx.clone();
                    let verdict = match self.mempool.add(&self.shared.state(), tx) {
                        Ok(_) => Verdict::Accept,
                        Err(MempoolError::Invalid(TxError::BadSignature)) => return Ok(Verdict::Reject),
                        Err(_) => Verdict::Ignore,
                    };
                    self.watch(watched);
                    Ok(verdict)
                }
            },
            Topic::Blocks => match codec::decode::<DecidedBlock>(&data) {
                Err(_) => Ok(Verdict::Reject),
                Ok(decided) => {
                    let state_tip = self.shared.state().tip().height;
                    if decided.block.header.height <= state_tip {
                        return Ok(Verdict::Ignore);
                    }
                    Ok(match self.take_decided(decided)? {
                        Ok(true) => Verdict::Accept,
                        Ok(false) => Verdict::Ignore,
                        Err(error) => {
                            tracing::warn!(%error, "block refused");
                            Verdict::Reject
                        }
                    })
                }
            },
            Topic::Attest => self.on_committee(from, &data),
            Topic::Peers => match codec::decode::<SignedPeerRecord>(&data) {
                Err(_) => Ok(Verdict::Reject),
                Ok(record) => Ok(match self.book.insert(record, now_ms()) {
                    None => Verdict::Reject,
                    Some(true) => Verdict::Accept,
                    Some(false) => Verdict::Ignore,
                }),
            },
        }
    }

    fn on_event(&mut self, event: CoreEvent) -> Result<()> {
        match event {
            CoreEvent::Judged(report) => {
                let input = match report {
                    JudgeReport::Done(judged) => ValidatorInput::Judged(judged),
                    JudgeReport::Failed { model, round, why } => {
                        tracing::warn!(model = %model.short(), round, why, "replay not possible yet");
                        ValidatorInput::JudgeFailed { model, round }
                    }
                };
                self.drive_validator(input)
            }
            CoreEvent::Wallet(report) => self.on_wallet(report),
            CoreEvent::FeePaid(claim) => {
                if let Some(sponsor) = &mut self.sponsor {
                    sponsor.engine.admit(claim);
                }
                self.drive_sponsor(oda_consensus::engine::sponsor::SponsorInput::StateChanged).map(|_| ())
            }
            CoreEvent::Answer(peer, response) => self.on_answer(peer, *response),
            CoreEvent::Submit(tx, reply) => {
                let _ = reply.send(self.submit_signed(*tx).map_err(|e| e.to_string()));
                Ok(())
            }
            CoreEvent::SnapshotMade(offer) => self.on_snapshot_made(offer.map(|offer| *offer)),
            CoreEvent::SnapshotSearched(search) => self.on_snapshot_searched(*search),
            CoreEvent::DeltaAsked(claim, result) => {
                self.on_delta_asked(claim, result);
                Ok(())
            }
            CoreEvent::Ban(peer, time) => {
                self.net.ban(peer, time);
                Ok(())
            }
        }
    }

    /// Looks at an authentic transaction for what its signer may not sign (C6), and says so on the ledger.
    fn watch(&mut self, tx: SignedTx) {
        let evidence = {
            let state = self.shared.state();
            let active = state.validator(tx.signer).is_some_and(|v| v.status == ValidatorStatus::Active);
            if !active || tx.signer == self.me {
                return;
            }
            let evidence = self.said.hear(&tx).or_else(|| {
                let deal = matches!(&tx.tx, Tx::Dkg(m) if matches!(m.step, DkgStep::Deal(_) | DkgStep::Open(..)));
                deal.then(|| Evidence::BadDeal(codec::encode(&tx)))
            });
            evidence.filter(|e| e.fits() && e.culprit(&state).is_some())
        };
        if let Some(evidence) = evidence {
            tracing::warn!(validator = %tx.signer.short(), kind = tx.kind(), "convicted");
            self.submit(Tx::Evidence(evidence));
        }
    }

    /// Signs and submits a transaction of this node.
    pub(super) fn submit(&mut self, tx: Tx) {
        let signed = SignedTx::new(tx, &self.key, self.chain);
        let kind = signed.kind();
        if let Err(error) = self.submit_signed(signed) {
            tracing::debug!(kind, %error, "own transaction not taken");
        }
    }

    /// Takes a transaction into the mempool and tells the network.
    pub(super) fn submit_signed(&mut self, tx: SignedTx) -> Result<(), MempoolError> {
        let bytes = codec::encode(&tx);
        let watched = tx.clone();
        let added = {
            let shared = self.shared.clone();
            let state = shared.state();
            self.mempool.add(&state, tx)
        };
        if !matches!(added, Err(MempoolError::Invalid(TxError::BadSignature))) {
            self.watch(watched);
        }
        let added = added?;
        if added {
            self.net.publish(Topic::Tx, bytes);
        }
        Ok(())
    }

    /// Counts what no honest node sends, for the operator.
    pub(super) fn count_refused(&mut self, why: &str) {
        let count = self.refused.entry(why.to_string()).or_default();
        *count = count.saturating_add(1);
        if count.is_power_of_two() {
            tracing::warn!(why, count, "message refused");
        }
    }
}

fn far_future() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}
