//! A lite node: trains, is paid, stores no ledger.
//!
//! It asks full nodes for rounds and claims and lets [`Trainer`] decide what of their answers can be
//! believed and what to do. This file only moves messages: network, wallet, blobs and training run
//! beside the loop and report back as events. Which model is worth the work is decided in [`choose`], whether the machine
//! is free for it in [`machine`]; the engine is then shown the others, and all while paused, as if nobody paid for them.

pub mod choose;
pub mod deltas;
pub mod flags;
pub mod join;
mod labour;
pub mod limits;
pub mod machine;
pub mod measure;
mod parting;
mod pump;
pub mod status;
mod work;

use crate::clock::now_ms;
use crate::config::Config;
use crate::fees::{Fees, Unpaid};
use crate::identity::Identity;
use crate::net::{Net, NetConfig, NetEvent};
use crate::peers::{PeerBook, own_record};
use crate::report::{LiteEvent, Reporter};
use crate::wallet;
use anyhow::{Context, Result};
use labour::{Earned, bounds, cpu_share};
use limits::{Ended, Valve};
use machine::{Readings, Reason};
use measure::Speeds;
use oda_consensus::codec;
use oda_consensus::engine::trainer::{ClaimRecord, Phase, Trainer, TrainerConfig, TrainerEffect, TrainerInput};
use oda_consensus::epoch::EpochChain;
use oda_consensus::genesis::BitcoinNetwork;
use oda_consensus::ids::{BlobRef, ChainId, ClaimId, EscrowId, ModelId, NodeId, PaymentHash};
use oda_consensus::keys::NodeKey;
use oda_consensus::tx::SignedTx;
use oda_consensus::wire::{Request, Response, Role, SignedPeerRecord};
use oda_lightning::{PaymentState, Wallet};
use oda_storage::{BlobLimits, Blobs, RecordStore, RocksRecords};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Duration, MissedTickBehavior};
use work::Work;

/// How often the owner's status file is written.
const STATUS_EVERY: Duration = Duration::from_secs(5);
/// How often the earnings are told.
const TELL_EVERY: Duration = Duration::from_secs(600);
/// Deltas kept of claims that are over, for whoever verifies them later.
const KEPT_DELTAS: usize = 64;
const PREFIX: &[u8] = b"claim/";
const MAX_RECORDS: usize = 1 << 20;

/// What reaches the loop from the tasks beside it.
enum Event {
    Answer(NodeId, Box<Response>, Option<EscrowId>),
    Trained { model: ModelId, round: u64, step_us: Option<u64>, result: Result<(BlobRef, i64), Failed> },
    Measured { model: ModelId, result: Result<u64, String> },
    Machine(Readings),
    InvoiceMade { claim: ClaimId, tranche: u8, result: Result<String, String> },
    Held { hash: PaymentHash, amount_msat: u64, deadline: u32, done: Option<oneshot::Sender<()>> },
    Received { hash: PaymentHash, done: Option<oneshot::Sender<()>> },
    Chain { height: u32, lightning_msat: u64, channels: usize },
    FeePosted { claim: ClaimId, result: Result<NodeId, Unpaid> },
}

/// Why a training brought nothing.
enum Failed {
    Ended(Ended),
    Error(String),
}

/// The training under way.
struct Running {
    model: ModelId,
    round: u64,
    stop: Arc<AtomicBool>,
}

struct Lite {
    me: NodeId,
    key: Arc<NodeKey>,
    chain: ChainId,
    /// Validators of the genesis; blobs are asked of them first.
    founders: Vec<NodeId>,
    config: Config,
    net: Net,
    blobs: Arc<Blobs>,
    wallet: Arc<Wallet>,
    records: RocksRecords,
    trainer: Trainer,
    book: PeerBook,
    record: SignedPeerRecord,
    rng: ChaCha20Rng,
    models: BTreeSet<ModelId>,
    invoicing: BTreeSet<(ClaimId, u8)>,
    fees: Fees,
    chain_height: u32,
    wallet_seen: (u64, usize),
    announced: BTreeMap<ModelId, u64>,
    turn: usize,
    reporter: Arc<Reporter>,
    datadir: PathBuf,
    valve: Arc<Valve>,
    share: limits::CpuShare,
    work: Work,
    running: Option<Running>,
    chosen: Option<ModelId>,
    paused: Option<Reason>,
    /// No new work is taken.
    finish: bool,
    heads: BTreeMap<ModelId, BlobRef>,
    /// Deltas of claims that are over, oldest first.
    spent: VecDeque<BlobRef>,
    handover: deltas::Handover,
    earned: Earned,
    events: mpsc::Sender<Event>,
}

/// Runs a lite node until `stop` changes, or, if it is to finish, until every claim of its is over.
///
/// # Errors
/// Anything that keeps it from starting or going on, said in one line.
pub async fn run(
    config: Config,
    datadir: &Path,
    reporter: Arc<Reporter>,
    finish: bool,
    mut stop: watch::Receiver<bool>,
) -> Result<()> {
    let genesis = config.genesis(datadir)?;
    let (chain, epochs) = (genesis.chain(), EpochChain::new(&genesis)?);
    let identity = Identity::load(datadir)?;
    // before anything is opened that would have to be closed again
    wallet::check(&config, datadir, &identity)?;
    let key = identity.key.clone();
    let records = RocksRecords::open(&datadir.join("claims"), chain).context("opening the claim records")?;
    let known = records
        .scan(PREFIX, MAX_RECORDS)?
        .into_iter()
        .map(|(_, bytes)| codec::decode(&bytes))
        .collect::<Result<Vec<ClaimRecord>, _>>()
        .with_context(|| crate::damaged("a claim record"))?;
    let blob_limits =
        BlobLimits { fetch_bytes_per_s: config.lite.max_download_kib_s.saturating_mul(1024), ..config.blobs.limits() };
    let blobs = Arc::new(
        Blobs::open_with(&datadir.join("blobs"), &key.secret(), config.blobs.listen, blob_limits)
            .await
            .context("opening the blob store")?,
    );
    let (net, mut net_events) = Net::start(NetConfig {
        key: key.secret(),
        chain,
        role: crate::net::Role::Lite,
        ..NetConfig::of(&config.p2p, datadir)?
    })
    .await?;
    let external = config.blobs.external.clone();
    let (wallet, lightning) = wallet::start(&config, datadir, &identity, "oda lite").await?;
    if config.network == BitcoinNetwork::Bitcoin {
        tracing::warn!("this wallet holds real bitcoin; keep the mnemonic safe and channels small");
    }
    let record = own_record(&key, chain, Role::Lite, (&blobs, &external), &net, Some(lightning.clone()), None);
    reporter.lite(&LiteEvent::Started { node: key.id(), lightning: lightning.node_id.clone() });

    let (events, mut queue) = mpsc::channel(1024);
    for held in wallet.held_payments() {
        let event = Event::Held {
            hash: held.hash,
            amount_msat: held.amount_msat,
            deadline: held.claim_deadline_height,
            done: None,
        };
        events.send(event).await.context("starting")?;
    }
    let pump = tokio::spawn(pump::wallet(wallet.clone(), events.clone()));
    let look = tokio::spawn(pump::machine(events.clone()));
    let fees = Fees::new(&datadir.join("fees"), wallet.clone(), config.network, config.trainer.max_fee_msat)?;
    let share = cpu_share(&config);
    let bounds = bounds(&config, share);
    let valve = Arc::new(Valve::new(share.duty_milli, bounds.max_bytes));
    let speeds = Speeds::open(&datadir.join("speeds.json"), share.threads, &config.trainer.device);
    let work = Work::new(datadir.to_path_buf(), bounds, speeds, known.iter());
    let mut over: Vec<&ClaimRecord> = known.iter().filter(|r| r.phase.is_over()).collect();
    over.sort_by_key(|r| r.round);
    let spent = over.iter().skip(over.len().saturating_sub(KEPT_DELTAS)).map(|r| r.delta).collect();
    let earned = Earned::new(known.iter());
    let mut lite = Lite {
        me: key.id(),
        chain,
        founders: genesis.nodes(),
        trainer: Trainer::new(key.id(), epochs, TrainerConfig::default(), known),
        key,
        config,
        book: PeerBook::new(chain).telling(&net),
        net,
        blobs,
        wallet,
        records,
        record,
        rng: ChaCha20Rng::from_rng(rand_core::OsRng).context("no randomness")?,
        models: BTreeSet::new(),
        invoicing: BTreeSet::new(),
        fees,
        chain_height: 0,
        wallet_seen: (0, 0),
        announced: BTreeMap::new(),
        turn: 0,
        reporter,
        datadir: datadir.to_path_buf(),
        valve,
        share,
        work,
        running: None,
        chosen: None,
        paused: None,
        finish,
        heads: BTreeMap::new(),
        spent,
        handover: deltas::Handover::default(),
        earned,
        events,
    };
    let mut tick = tokio::time::interval(Duration::from_millis(300));
    let mut status = tokio::time::interval(STATUS_EVERY);
    let mut tell = tokio::time::interval_at(tokio::time::Instant::now() + TELL_EVERY, TELL_EVERY);
    for timer in [&mut tick, &mut status, &mut tell] {
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    }
    let mut parting = parting::Parting::default();
    let result = loop {
        let step = tokio::select! {
            _ = stop.changed() => break Ok(()),
            Some(event) = net_events.recv() => lite.on_net(event),
            Some(event) = queue.recv() => lite.on_event(event),
            _ = tick.tick() => lite.on_tick(),
            _ = status.tick() => {
                let doing = lite.doing();
                lite.write_status(&doing);
                Ok(())
            }
            _ = tell.tick() => {
                let (doing, earned) = (lite.doing(), &lite.earned);
                let (msat, claims) = (earned.msat, earned.paid);
                lite.reporter.lite(&LiteEvent::Earned { msat, claims, doing });
                Ok(())
            }
        };
        if let Err(error) = step {
            break Err(error);
        }
        if finish && lite.open_claims() == 0 && parting.is_over(&lite.wallet) {
            lite.reporter.lite(&LiteEvent::Finished { msat: lite.earned.msat });
            break Ok(());
        }
    };
    pump.abort();
    look.abort();
    lite.valve.hold(false);
    lite.running.iter().for_each(|r| r.stop.store(true, Ordering::Relaxed));
    lite.write_status("stopped");
    let wallet = lite.wallet.clone();
    let _ = wallet::blocking(move || wallet.stop()).await;
    lite.net.shutdown().await;
    let _ = lite.blobs.shutdown().await;
    result
}

impl Lite {
    fn full_peers(&self) -> Vec<NodeId> {
        let lite = |n: &NodeId| self.book.get(*n).is_some_and(|r| r.role == Role::Lite);
        self.net.connected().into_iter().filter(|n| !lite(n)).collect()
    }

    fn ask(&self, peer: NodeId, request: Request) {
        let escrow = if let Request::Shares(escrow) = &request { Some(*escrow) } else { None };
        let (net, events) = (self.net.clone(), self.events.clone());
        tokio::spawn(async move {
            if let Ok(bytes) = net.request(peer, codec::encode(&request)).await
                && let Ok(response) = codec::decode::<Response>(&bytes)
            {
                let _ = events.send(Event::Answer(peer, Box::new(response), escrow)).await;
            }
        });
    }

    fn ask_all(&self, nodes: &[NodeId], request: &Request) {
        let connected = self.net.connected();
        for node in nodes.iter().filter(|n| connected.contains(n)) {
            self.ask(*node, request.clone());
        }
    }

    fn on_tick(&mut self) -> Result<()> {
        let peers = self.net.askable();
        self.turn = self.turn.wrapping_add(1);
        if let Some(peer) = peers.get(self.turn % peers.len().max(1)) {
            self.ask(*peer, Request::Models);
            for model in &self.models {
                self.ask(*peer, Request::Model(*model));
            }
            if self.turn % 16 == 1 {
                self.ask(*peer, Request::Peers);
                self.ask(*peer, Request::Hello(self.record.clone()));
            }
        }
        self.pay_fees();
        let (now_ms, chain_height) = (now_ms(), self.chain_height);
        self.drive(TrainerInput::Tick { now_ms, chain_height })
    }

    /// Claims that wait for an offer may wait for a fee (P8).
    fn pay_fees(&mut self) {
        let waits = self.trainer.claims().filter(|r| r.phase == Phase::Committed);
        let waits: Vec<(ClaimId, ModelId)> = waits.map(|r| (r.claim, r.model)).collect();
        let offered = |claim| self.trainer.claims().any(|r| r.claim == claim && r.choice.is_some());
        for attempt in self.fees.due(&waits, offered, self.trainer.epochs(), &self.book) {
            let (payer, events, claim) = (self.fees.payer(), self.events.clone(), attempt.claim);
            tokio::spawn(async move {
                let result = payer.pay(attempt).await;
                let _ = events.send(Event::FeePosted { claim, result }).await;
            });
        }
    }

    fn on_net(&mut self, event: NetEvent) -> Result<()> {
        match event {
            NetEvent::PeerConnected(peer) => {
                self.ask(peer, Request::Hello(self.record.clone()));
                self.ask(peer, Request::Peers);
            }
            NetEvent::Request { from, data, token } => {
                let response = match codec::decode::<Request>(&data) {
                    Ok(Request::Hello(record)) => {
                        self.book.insert(record, now_ms());
                        Response::Hello(self.record.clone())
                    }
                    Ok(Request::Changed(escrow)) => {
                        if let Some(claim) = self.trainer.open_claim(escrow) {
                            self.ask(from, Request::Claim(claim));
                        }
                        Response::Accepted
                    }
                    Ok(Request::Delta { claim, from_byte }) => {
                        self.hand_over(from, claim, from_byte, token);
                        return Ok(());
                    }
                    _ => Response::Refused("a lite node serves only deltas".into()),
                };
                self.net.respond(token, codec::encode(&response));
            }
            NetEvent::Gossip { token, .. } => self.net.report(token, crate::net::Verdict::Ignore),
            NetEvent::PeerDisconnected(_) => {}
        }
        Ok(())
    }

    fn on_event(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Answer(peer, response, escrow) => self.on_answer(peer, *response, escrow),
            Event::Machine(readings) => {
                self.on_machine(&readings);
                Ok(())
            }
            Event::Measured { model, result } => {
                if let Ok(step_us) = result {
                    self.reporter.lite(&LiteEvent::Measured { model, step_us });
                }
                self.work.measured(model, result);
                Ok(())
            }
            Event::Trained { model, round, step_us, result } => match self.ended(model, round, step_us, result) {
                Ok((delta, stated_gain_unat)) => {
                    self.reporter.lite(&LiteEvent::Trained { round, bytes: delta.len, gain_unat: stated_gain_unat });
                    self.drive(TrainerInput::Trained { model, round, delta, stated_gain_unat })
                }
                Err(()) => self.drive(TrainerInput::TrainFailed { model, round }),
            },
            Event::InvoiceMade { claim, tranche, result } => {
                self.invoicing.remove(&(claim, tranche));
                match result {
                    Ok(bolt11) => self.drive(TrainerInput::InvoiceMade { claim, tranche, bolt11 }),
                    Err(why) => {
                        tracing::warn!(why, "invoice not made; trying again");
                        Ok(())
                    }
                }
            }
            Event::Held { hash, amount_msat, deadline, done } => {
                self.drive(TrainerInput::Held { payment_hash: hash, amount_msat, claim_deadline_height: deadline })?;
                if let Some(done) = done {
                    let _ = done.send(()); // handled only after it is persisted (P6)
                }
                Ok(())
            }
            Event::Received { hash, done } => {
                self.drive(TrainerInput::Received { payment_hash: hash })?;
                if let Some(done) = done {
                    let _ = done.send(());
                }
                Ok(())
            }
            Event::FeePosted { claim, result } => {
                self.fees.ended(claim, result);
                Ok(())
            }
            Event::Chain { height, lightning_msat, channels } => {
                self.chain_height = height;
                if self.wallet_seen != (lightning_msat, channels) {
                    self.wallet_seen = (lightning_msat, channels);
                    self.reporter.lite(&LiteEvent::Wallet { lightning_msat, channels });
                }
                Ok(())
            }
        }
    }

    fn on_answer(&mut self, peer: NodeId, response: Response, escrow: Option<EscrowId>) -> Result<()> {
        match response {
            Response::Hello(record) => {
                if record.record.node == peer {
                    self.book.insert(record, now_ms());
                }
            }
            Response::Peers(records) => {
                for record in records.into_iter().take(1024) {
                    self.book.insert(record, now_ms());
                }
            }
            Response::Models(ids) => {
                self.models.extend(ids.into_iter().take(work::MAX_MODELS.saturating_sub(self.models.len())))
            }
            Response::Model(Some(view)) => return self.on_model(peer, view),
            Response::Epochs(links) => return self.drive(TrainerInput::Epochs(links)),
            Response::Claim(Some(view)) => return self.drive(TrainerInput::Claim { from: peer, view }),
            Response::Shares(shares) => {
                if let Some(escrow) = escrow {
                    return self.drive(TrainerInput::Shares { escrow, shares });
                }
            }
            Response::Refused(why) => tracing::debug!(peer = %peer.short(), why, "refused"),
            _ => {}
        }
        Ok(())
    }

    /// Feeds the engine and carries out its effects in order.
    fn drive(&mut self, input: TrainerInput) -> Result<()> {
        for effect in self.trainer.handle(input, &mut self.rng) {
            match effect {
                TrainerEffect::Persist(record) => {
                    let key = [PREFIX, &record.claim.0].concat();
                    self.records.put(&key, &codec::encode(record.as_ref())).context("writing a claim record")?;
                }
                TrainerEffect::Train(job) => self.train(*job),
                TrainerEffect::Submit(tx) => {
                    let signed = SignedTx::new(tx, &self.key, self.chain);
                    let peers = self.net.askable();
                    for i in 0..peers.len().min(2) {
                        if let Some(peer) = peers.get((self.turn + i) % peers.len()) {
                            self.ask(*peer, Request::SubmitTx(Box::new(signed.clone())));
                        }
                    }
                }
                TrainerEffect::AskClaim(claim) => self.ask_all(&self.full_peers(), &Request::Claim(claim)),
                TrainerEffect::AskShares(escrow, member) => self.ask(member, Request::Shares(escrow)),
                TrainerEffect::AskEpochs(after) => {
                    let peers = self.net.askable();
                    if let Some(peer) = peers.get(self.turn % peers.len().max(1)) {
                        self.ask(*peer, Request::Epochs { after });
                    }
                }
                TrainerEffect::MakeInvoice { claim, tranche, payment_hash, amount_msat, hold_blocks } => {
                    if self.invoicing.insert((claim, tranche)) {
                        let (wallet, events) = (self.wallet.clone(), self.events.clone());
                        tokio::spawn(async move {
                            let text = format!("oda claim {claim}, part {}", tranche + 1);
                            let made = wallet::blocking(move || {
                                wallet.hold_invoice(payment_hash, amount_msat, &text, 3600, hold_blocks)
                            })
                            .await;
                            let result = made.and_then(|r| r.map_err(Into::into)).map_err(|e| format!("{e:#}"));
                            let _ = events.send(Event::InvoiceMade { claim, tranche, result }).await;
                        });
                    }
                }
                TrainerEffect::SendInvoice { to, escrow, tranche, bolt11 } => {
                    self.ask(to, Request::Invoice { escrow, tranche, bolt11 });
                }
                TrainerEffect::ClaimHtlc { payment_hash, preimage, .. } => {
                    let (wallet, events) = (self.wallet.clone(), self.events.clone());
                    tokio::task::spawn_blocking(move || {
                        // P6: the event may have come before a crash, and LDK tells it once
                        let over = |w: &Wallet| w.payment_status(payment_hash).map(|s| s.state);
                        if over(&wallet) == Some(PaymentState::Succeeded) {
                            let _ = events.blocking_send(Event::Received { hash: payment_hash, done: None });
                        } else if let Err(error) = wallet.claim(payment_hash, preimage) {
                            tracing::warn!(%error, "claiming the payment failed; trying again");
                        }
                    });
                }
                TrainerEffect::FailHtlc(payment_hash) => {
                    let wallet = self.wallet.clone();
                    tokio::task::spawn_blocking(move || {
                        if let Err(error) = wallet.fail(payment_hash) {
                            tracing::debug!(%error, "failing the payment back");
                        }
                    });
                }
                TrainerEffect::Report { claim, round, phase, note } => {
                    if phase.is_over() {
                        self.claim_over(claim);
                    }
                    self.reporter.lite(&LiteEvent::Claim { claim, round, phase, note, time_ms: now_ms() });
                }
            }
        }
        Ok(())
    }
}
