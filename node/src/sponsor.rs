//! The sponsor's side of a full node: its wallet, its channels to trainers, its records, and the model
//! it brings.

use crate::clock::now_ms;
use crate::config::{Config, Sponsor as SponsorConfig};
use crate::full::{CoreEvent, PaymentInfo, Shared};
use crate::identity::Identity;
use crate::peers::PeerBook;
use crate::rpc::WalletInfo;
use crate::submissions::{self, Desk, FeeBook};
use crate::wallet;
use anyhow::{Context, Result};
use oda_consensus::codec;
use oda_consensus::engine::decoys::{DecoyEffect, DecoyRecord, Decoys};
use oda_consensus::engine::sponsor::{PayPhase, PayRecord, Sponsor, may_charge};
use oda_consensus::escrow::{EscrowState, MAX_TRANCHES, Stage, TrancheStatus};
use oda_consensus::ids::{EscrowId, ModelId, NodeId, PaymentHash};
use oda_consensus::keys::NodeKey;
use oda_consensus::manifest::Manifest;
use oda_consensus::sealed::{self, GuardKey};
use oda_consensus::state::{ModelState, State};
use oda_consensus::tx::{Fund, Invite, SignedTx, Tx};
use oda_consensus::wire::{LightningAddress, Role};
use oda_lightning::{LnEvent, PaymentState, PaymentStatus, Wallet};
use oda_ml::model_file::{self, Bundle};
use oda_storage::{Blobs, RecordStore, RocksRecords};
use rand_chacha::ChaCha20Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Duration, Instant};

/// What the wallet tells the core.
pub(crate) enum WalletReport {
    /// A payment settled.
    Sent { payment_hash: PaymentHash, fee_msat: u64, done: oneshot::Sender<()> },
    /// A payment failed: the money is back.
    SendFailed { payment_hash: PaymentHash, done: oneshot::Sender<()> },
    /// A payment could not be started.
    NotStarted { payment_hash: PaymentHash, why: String },
    /// Balances and channels.
    Info(WalletInfo),
}

/// A verdict whose payments have not all ended: when it was on the ledger, and what of it was logged.
struct Verdict {
    at: Instant,
    paid: bool,
    back: bool,
}

/// Wallet, records and engine of a sponsor.
pub(crate) struct SponsorHost {
    pub(crate) engine: Sponsor,
    decoys: Decoys,
    blobs: Arc<Blobs>,
    me: NodeId,
    wallet: Arc<Wallet>,
    lightning: LightningAddress,
    records: RocksRecords,
    manifest: Manifest,
    guard_key: Option<GuardKey>,
    model: ModelId,
    config: SponsorConfig,
    opened: BTreeMap<String, Instant>,
    verdicts: BTreeMap<EscrowId, Verdict>,
    events: mpsc::Sender<CoreEvent>,
    refreshed: Option<Instant>,
    /// FeeBook paid before, until the desk takes them over; and the desk's task (P8).
    fees: Option<FeeBook>,
    desk: Option<tokio::task::JoinHandle<()>>,
}

/// The list of guests (P8), if it is for this node to say and the ledger has another.
fn invitation(model: &ModelState, me: NodeId, guests: &[NodeId]) -> Option<Tx> {
    let guests: Vec<NodeId> = guests.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
    let other = model.added_by == me && model.guests != guests;
    let turn = model.invitations.saturating_add(1);
    other.then(|| Tx::Invite(Invite { model: model.manifest.id(), turn, guests }))
}

/// The least an HTLC should carry: well above the fee of its success transaction (P7).
const ENFORCED_MSAT: u64 = 1_000_000;
const PREFIX: &[u8] = b"pay/";
const DECOYS: &[u8] = b"decoy/";
const MAX_RECORDS: usize = 1 << 20;
/// Verdicts whose ends are timed at once, for the log.
const MAX_VERDICTS: usize = 1024;
/// Pause before a channel that is not there yet is opened again.
const CHANNEL_RETRY: Duration = Duration::from_secs(20);
/// Pause between two channels; LDK looks at the chain every two seconds.
const CHANNEL_PAUSE: Duration = Duration::from_secs(3);

fn key(record: &PayRecord) -> Vec<u8> {
    [PREFIX, &record.escrow.0].concat()
}

/// The sponsor's model with its data, as the configuration names it.
pub(crate) async fn load(config: &SponsorConfig, datadir: &Path, identity: &Identity) -> Result<Bundle> {
    let path = if config.model.is_absolute() { config.model.clone() } else { datadir.join(&config.model) };
    let data = config.data.as_ref().map(|d| if d.is_absolute() { d.clone() } else { datadir.join(d) });
    let secret = identity.sealing_secret();
    Ok(wallet::blocking(move || model_file::load_sealed(&path, data.as_deref(), &secret)).await??)
}

impl SponsorHost {
    pub(crate) async fn start(
        config: &SponsorConfig,
        node: &Config,
        datadir: &Path,
        identity: &Identity,
        state: &State,
        blobs: Arc<Blobs>,
        events: mpsc::Sender<CoreEvent>,
    ) -> Result<Self> {
        let terms = config.terms();
        anyhow::ensure!(
            terms.is_possible() && config.budget_msat >= terms.most_msat(),
            "[sponsor] rate_msat and unit_msat must be above 0, tranches 1 to {MAX_TRANCHES}, and budget_msat = {} no less \
             than the {} msat of one claim",
            config.budget_msat,
            terms.most_msat()
        );
        anyhow::ensure!(
            config.unenforced || config.unit_msat >= ENFORCED_MSAT,
            "[sponsor] unit_msat = {} is below {ENFORCED_MSAT}: an HTLC of that size is not enforceable on chain (P7); \
             raise it, lower tranches, or accept the peer's word with unenforced = true",
            config.unit_msat
        );
        if config.unit_msat < ENFORCED_MSAT {
            tracing::warn!(unit_msat = config.unit_msat, "the smallest payments are not enforceable on chain (P7)");
        }
        let bundle = load(config, datadir, identity).await?;
        let model = bundle.manifest.id();
        for blob in bundle.blobs {
            blobs.add(blob).await.context("storing the model's data")?;
        }
        let me = identity.key.id();
        let records =
            RocksRecords::open(&datadir.join("payments"), state.chain()).context("opening the payment records")?;
        let known = records
            .scan(PREFIX, MAX_RECORDS)?
            .into_iter()
            .map(|(_, bytes)| codec::decode(&bytes))
            .collect::<Result<Vec<PayRecord>, _>>()
            .with_context(|| crate::damaged("a payment record"))?;
        let mut engine = Sponsor::new(me, known);
        let planted = records
            .scan(DECOYS, MAX_RECORDS)?
            .into_iter()
            .map(|(_, bytes)| codec::decode(&bytes))
            .collect::<Result<Vec<DecoyRecord>, _>>()
            .with_context(|| crate::damaged("a decoy record"))?;
        let fees = match config.submissions {
            Some(_) => {
                let records = RocksRecords::open(&datadir.join("submissions"), state.chain());
                Some(FeeBook::load(Box::new(records.context("opening the records of submission fees")?))?)
            }
            None => None,
        };
        if let Some(fees) = &fees {
            // its own decoys pay nobody
            let own = planted.iter().filter(|d| !d.shown).map(|d| d.claim);
            engine = engine.asking_fee(fees.claims().chain(own));
        }
        let decoys = Decoys::new(me, config.decoy_percent, planted);
        let (wallet, lightning) = wallet::start(node, datadir, identity, "oda sponsor").await?;
        let address = {
            let wallet = wallet.clone();
            wallet::blocking(move || wallet.new_address()).await??
        };
        tokio::spawn(pump(wallet.clone(), address, events.clone()));
        let host = Self {
            engine,
            decoys,
            blobs,
            me,
            wallet,
            lightning,
            records,
            manifest: bundle.manifest,
            guard_key: bundle.guard_key,
            model,
            config: config.clone(),
            opened: BTreeMap::new(),
            verdicts: BTreeMap::new(),
            events,
            refreshed: None,
            fees,
            desk: None,
        };
        host.reconcile();
        Ok(host)
    }

    /// Takes submission fees, if any are asked.
    pub(crate) async fn open_desk(&mut self, shared: Arc<Shared>, identity: &Identity) -> Result<()> {
        let (Some(config), Some(fees)) = (&self.config.submissions, self.fees.take()) else { return Ok(()) };
        let me = self.me;
        let desk = Arc::new(Desk {
            fees: Mutex::new(fees),
            may_charge: Arc::new(move |claim, paid| may_charge(&shared.state(), me, claim, paid)),
            core: self.events.clone(),
        });
        let app = submissions::router(desk, self.wallet.clone(), config.fee_msat, identity.token_secret())?;
        let (address, task) = submissions::serve(config.listen, app).await?;
        tracing::info!(%address, url = config.url, fee_msat = config.fee_msat, "submission fees");
        self.desk = Some(task);
        Ok(())
    }

    pub(crate) fn lightning_address(&self) -> LightningAddress {
        self.lightning.clone()
    }

    /// What the ledger does not say yet: the model, its guests, the promise to fund it, and for a committee that does not
    /// have it the key of the sealed guards (S3).
    pub(crate) fn due_transactions(&self, state: &State) -> Vec<Tx> {
        let Some(model) = state.model(self.model) else { return vec![Tx::AddModel(self.manifest.clone())] };
        let unseal = self.guard_key.as_ref().and_then(|key| sealed::due(state, self.me, self.model, key, false));
        let mut due: Vec<Tx> = unseal.into_iter().collect();
        // before the promise, which opens the first round
        due.extend(invitation(model, self.me, &self.config.guests));
        let promised = model.sponsors.iter().find(|s| s.sponsor == self.me).map_or(0, |s| s.fund.budget_msat);
        if promised < self.config.budget_msat {
            let (terms, budget_msat) = (self.config.terms(), self.config.budget_msat);
            due.push(Tx::Fund(Fund { model: self.model, terms, budget_msat }));
        }
        due
    }

    /// Plants decoys and goes on with those planted; transactions to be put before the network.
    pub(crate) fn plant(&mut self, state: &State, key: &NodeKey, rng: &mut ChaCha20Rng) -> Result<Vec<SignedTx>> {
        let mut txs = Vec::new();
        for effect in self.decoys.follow(state, key, rng) {
            match effect {
                DecoyEffect::Persist(record) => {
                    self.engine.admit(record.claim);
                    let key = [DECOYS, &record.claim.0].concat();
                    self.records.put(&key, &codec::encode(&record)).context("writing a decoy record")?;
                }
                DecoyEffect::Keep(bytes) => {
                    let blobs = self.blobs.clone();
                    tokio::spawn(async move {
                        if let Err(error) = blobs.add(bytes).await {
                            tracing::warn!(%error, "keeping a decoy failed");
                        }
                    });
                }
                DecoyEffect::Submit(tx) => txs.push(*tx),
            }
        }
        Ok(txs)
    }

    pub(crate) fn persist(&mut self, record: &PayRecord) -> Result<()> {
        self.records.put(&key(record), &codec::encode(record)).context("writing a payment record")
    }

    /// A block changed this escrow: with a verdict, if every tranche is still on its way.
    pub(crate) fn changed(&mut self, escrow: &EscrowState) {
        let open = |s: &TrancheStatus| matches!(s, TrancheStatus::Releasing | TrancheStatus::Refunding);
        let judged = escrow.stage == Stage::Judged && escrow.tranches.iter().all(|t| open(&t.status));
        if judged && escrow.payer == self.me && self.verdicts.len() < MAX_VERDICTS {
            let verdict = || Verdict { at: Instant::now(), paid: false, back: false };
            self.verdicts.entry(escrow.id).or_insert_with(verdict);
            self.log_ends(escrow); // the payee may have been faster than our ledger
        }
    }

    /// Logs how long after the verdict what it released was paid, and the rest was back.
    pub(crate) fn log_ends(&mut self, escrow: &EscrowState) {
        let Some(verdict) = self.verdicts.get_mut(&escrow.id) else { return };
        let Some(record) = self.engine.record(escrow.id) else { return };
        let due = escrow.with(|s| matches!(s, TrancheStatus::Releasing | TrancheStatus::Settled(_)));
        let parts = |wanted: bool| {
            record.parts.iter().enumerate().filter(move |(i, _)| due.contains(*i) == wanted).map(|(_, p)| p)
        };
        let (claim, time_ms, ms) = (record.claim, now_ms(), verdict.at.elapsed().as_millis());
        let msat = |wanted| parts(wanted).map(|p| p.amount_msat).sum::<u64>();
        if !verdict.paid && parts(true).all(|p| matches!(p.phase, PayPhase::Sent | PayPhase::Closed)) {
            verdict.paid = true;
            if msat(true) > 0 {
                tracing::info!(%claim, msat = msat(true), time_ms, ms, "verdict paid");
            }
        }
        if !verdict.back && parts(false).all(|p| !matches!(p.phase, PayPhase::Paying | PayPhase::Sent)) {
            verdict.back = true;
            if msat(false) > 0 {
                tracing::info!(%claim, msat = msat(false), time_ms, ms, "verdict refunded");
            }
        }
        if verdict.paid && verdict.back {
            self.verdicts.remove(&escrow.id);
        }
    }

    /// Pays in the background; the result comes back as an event.
    pub(crate) fn pay(&self, bolt11: String, payment_hash: PaymentHash, amount_msat: u64) {
        let (wallet, events) = (self.wallet.clone(), self.events.clone());
        tokio::spawn(async move {
            let payer = wallet.clone();
            let result = wallet::blocking(move || payer.pay(&bolt11, payment_hash, amount_msat)).await;
            if let Err(why) = result.and_then(|r| r.map_err(Into::into)) {
                report_end(&wallet, &events, payment_hash, &format!("{why:#}")).await;
            }
        });
    }

    /// What a restart may have missed (P6): the wallet's own record of every payment not yet over.
    fn reconcile(&self) {
        let parts = self.engine.records().flat_map(|r| &r.parts);
        let hashes: Vec<PaymentHash> = parts.filter(|p| p.phase == PayPhase::Paying).map(|p| p.payment_hash).collect();
        let (wallet, events) = (self.wallet.clone(), self.events.clone());
        tokio::spawn(async move {
            for hash in hashes {
                report_end(&wallet, &events, hash, "the node stopped before it was sent").await;
            }
        });
    }

    /// Opens a channel to every trainer that has none (R2: a lock needs a way to pay).
    pub(crate) fn tick(&mut self, book: &PeerBook) {
        if self.refreshed.is_some_and(|t| t.elapsed() < Duration::from_secs(1)) {
            return;
        }
        self.refreshed = Some(Instant::now());
        let lites = book.all().map(|r| &r.record).filter(|r| r.role == Role::Lite).filter_map(|r| r.lightning.clone());
        for peer in lites.collect::<Vec<_>>() {
            let known = self.opened.len();
            // One at a time, the wallet synced in between: it would fund two channels with one coin.
            if self.opened.values().any(|at| at.elapsed() < CHANNEL_PAUSE) {
                return;
            }
            match self.opened.get(&peer.node_id) {
                Some(at) if at.elapsed() < CHANNEL_RETRY => continue,
                None if known >= self.config.max_channels => continue,
                _ => {}
            }
            self.opened.insert(peer.node_id.clone(), Instant::now());
            let (wallet, sat) = (self.wallet.clone(), self.config.channel_sat);
            tokio::task::spawn_blocking(move || {
                if wallet.channels().iter().any(|c| c.counterparty == peer.node_id) {
                    let _ = wallet.connect(&peer.node_id, &peer.address);
                    return;
                }
                let _ = wallet.sync();
                if wallet.onchain_balance_sat() <= sat {
                    tracing::info!(sat, "waiting for coins to open a channel with");
                    return;
                }
                match wallet.open_channel(&peer.node_id, &peer.address, sat) {
                    Ok(()) => tracing::info!(trainer = %peer.node_id, sat, "channel opened"),
                    Err(error) => tracing::info!(%error, "channel not opened yet"),
                }
            });
        }
    }

    pub(crate) async fn stop(self) {
        if let Some(desk) = self.desk {
            desk.abort();
        }
        let wallet = self.wallet;
        let _ = wallet::blocking(move || wallet.stop()).await;
    }
}

/// Tells the core what the wallet's own record says of a payment that did not start: settled, failed,
/// under way (then its end comes as an event), or unknown, which alone means it never left.
async fn report_end(wallet: &Arc<Wallet>, events: &mpsc::Sender<CoreEvent>, payment_hash: PaymentHash, why: &str) {
    let asked = wallet.clone();
    let Ok(status) = wallet::blocking(move || asked.payment_status(payment_hash)).await else { return };
    let (done, _) = oneshot::channel();
    let report = match status {
        Some(PaymentStatus { state: PaymentState::Succeeded, fee_paid_msat, .. }) => {
            WalletReport::Sent { payment_hash, fee_msat: fee_paid_msat.unwrap_or(0), done }
        }
        Some(PaymentStatus { state: PaymentState::Failed, .. }) => WalletReport::SendFailed { payment_hash, done },
        Some(_) => return,
        None => WalletReport::NotStarted { payment_hash, why: why.into() },
    };
    let _ = events.send(CoreEvent::Wallet(report)).await;
}

/// Carries wallet events to the core, one at a time, and balances once a second.
async fn pump(wallet: Arc<Wallet>, address: String, events: mpsc::Sender<CoreEvent>) {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            event = wallet.next_event() => {
                let (done, handled) = oneshot::channel();
                let report = match event {
                    LnEvent::Sent { hash, fee_paid_msat, .. } => WalletReport::Sent { payment_hash: hash, fee_msat: fee_paid_msat, done },
                    LnEvent::SendFailed { hash, .. } => WalletReport::SendFailed { payment_hash: hash, done },
                    _ => {
                        let _ = wallet.event_handled();
                        continue;
                    }
                };
                if events.send(CoreEvent::Wallet(report)).await.is_err() {
                    return;
                }
                if handled.await.is_ok() {
                    let _ = wallet.event_handled();
                }
            }
            _ = tick.tick() => {
                let (w, a) = (wallet.clone(), address.clone());
                let Ok(info) = wallet::blocking(move || wallet::info(&w, &a)).await else { return };
                if events.send(CoreEvent::Wallet(WalletReport::Info(info))).await.is_err() {
                    return;
                }
            }
        }
    }
}

pub(crate) fn payment_infos(record: &PayRecord) -> impl Iterator<Item = PaymentInfo> + '_ {
    record.parts.iter().zip(0u8..).map(|(part, tranche)| PaymentInfo {
        escrow: record.escrow,
        tranche,
        claim: record.claim,
        payee: record.payee,
        payment_hash: part.payment_hash,
        amount_msat: part.amount_msat,
        fee_msat: part.fee_msat,
        phase: match part.phase {
            PayPhase::Dealt => "dealt",
            PayPhase::Paying => "paying",
            PayPhase::Sent => "sent",
            PayPhase::Failed => "failed",
            PayPhase::Closed => "closed",
        }
        .into(),
    })
}
