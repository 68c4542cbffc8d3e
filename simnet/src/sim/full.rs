//! A full node as the real one runs: its ledger on a disk, a mempool, Tendermint with its log, the validator's engine
//! with a signer for each seat, and a sponsor's engine if it is one. No network and no clock: what it wants done is
//! left in `out`.

mod bft;
mod roles;
mod talk;

use super::ledgers::Ledgers;
use super::lightning::Fate;
use super::net::Msg;
use super::{Addr, Env, Out, Timer};
use oda_consensus::bft::{Bft, BftConfig, BftEffect, BftError, BftInput, Timeouts, proposer};
use oda_consensus::codec;
use oda_consensus::engine::sponsor::{PayPhase, PayRecord, Sponsor, SponsorEffect, SponsorInput, may_charge};
use oda_consensus::engine::validator::{ScoreRecord, Validator, ValidatorEffect, ValidatorInput};
use oda_consensus::escrow::{Terms, TrancheStatus};
use oda_consensus::evidence::Evidence;
use oda_consensus::frost::{
    EncryptionSecret, EpochSeed, ReleaseShare, SignEffect, SignInput, Signer, SignerConfig, open_share,
};
use oda_consensus::genesis::Genesis;
use oda_consensus::ids::{ChainId, ClaimId, Digest, EscrowId, NodeId, PaymentHash, TxId};
use oda_consensus::keys::NodeKey;
use oda_consensus::manifest::Manifest;
use oda_consensus::state::{Entry, State, ValidatorStatus};
use oda_consensus::tx::{Block, Fund, Invite, SignedTx, Tx};
use oda_consensus::wire::{
    ClaimView, CommitteeEnvelope, CommitteeMessage, DecidedBlock, MAX_BLOCKS, MAX_LINKS, Request, Response,
    SignedCommitteeEnvelope,
};
use oda_storage::{FaultyLedger, LedgerStore, MemoryLedger, RecordStore, StoreError};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;

/// How often signers look at their timeouts.
const TICK_MS: u64 = 1_000;
/// Most transactions that wait.
const MAX_WAITING: usize = 8_192;
/// Most statements remembered in case of a second one.
const MAX_SAID: usize = 4_096;
/// A transaction that has waited so many blocks is told again.
const TELL_AGAIN_BLOCKS: u64 = 6;
/// A proposal may be so far ahead of the own clock, ms.
const MAX_AHEAD_MS: u64 = 10_000;

/// Where a node notes the height up to which it keeps silent.
const SILENT: &[u8] = b"silent";

/// What a sponsor wants.
pub struct Funding {
    /// The models it adds, if nobody else did, and funds.
    pub models: Vec<Manifest>,
    /// On these terms.
    pub terms: Terms,
    /// Msat for each.
    pub budget_msat: u64,
    /// Who is invited to those it adds, ascending (P8).
    pub guests: Vec<NodeId>,
    /// It asks a fee for each claim (P8).
    pub asks_fee: bool,
}

struct Payer {
    engine: Sponsor,
    funding: Funding,
    admitted: BTreeSet<ClaimId>,
}

/// One full node.
pub struct Full {
    /// Its place.
    pub addr: Addr,
    /// Its name.
    pub id: NodeId,
    /// Its key.
    pub key: Arc<NodeKey>,
    /// Opens what is sealed to it.
    pub encryption: Arc<EncryptionSecret>,
    /// Its process runs.
    pub up: bool,
    /// Counts its processes.
    pub life: u32,
    /// Its clock is so far off, ms.
    pub skew_ms: i64,
    /// Nothing can be written.
    pub full_disk: bool,
    /// The next start finds this entry of its ledger damaged.
    pub flip: Option<u64>,
    /// Damage that was found on opening; damage that was not.
    pub found: (u64, u64),
    /// Stopped by its disk.
    pub stops: u64,
    /// Its ledger.
    pub state: Rc<State>,
    /// Messages refused, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Who disturbed its duties, by its own account.
    pub blamed: BTreeMap<(NodeId, String), u64>,
    /// What it wants done.
    pub out: Vec<Out>,
    chain: ChainId,
    genesis: Rc<State>,
    is_validator: bool,
    disk: FaultyLedger<MemoryLedger>,
    /// With the height at which each came.
    mempool: Vec<(Rc<SignedTx>, u64)>,
    waiting: BTreeSet<TxId>,
    said: BTreeMap<(NodeId, Digest), Rc<SignedTx>>,
    engine: Validator,
    signers: BTreeMap<u64, Signer>,
    bft: Option<Bft>,
    height_started_ms: u64,
    payer: Option<Payer>,
    shares: BTreeMap<EscrowId, Rc<Vec<(u8, ReleaseShare)>>>,
    rng: ChaCha20Rng,
}

/// Who a full node is.
pub struct Duties {
    /// It may be drawn into committees.
    pub validator: bool,
    /// It pays for models.
    pub funding: Option<Funding>,
}

impl Full {
    pub(super) fn new(
        addr: Addr,
        key: NodeKey,
        genesis: &Rc<State>,
        first: Option<&EpochSeed>,
        duties: Duties,
        entropy: u64,
    ) -> Self {
        let encryption = Arc::new(EncryptionSecret::derive(&key.secret()));
        let mut rng = ChaCha20Rng::seed_from_u64(entropy);
        let mut disk = FaultyLedger::new(MemoryLedger::new(), []);
        if let Some(sealed) = first.and_then(|seed| seed.seal(0, &encryption.public(), &mut rng).ok()) {
            let _ = disk.put(&seed_key(0), &sealed);
        }
        let id = key.id();
        Self {
            addr,
            id,
            key: Arc::new(key),
            up: false,
            life: 0,
            skew_ms: 0,
            full_disk: false,
            flip: None,
            found: (0, 0),
            stops: 0,
            state: genesis.clone(),
            refused: BTreeMap::new(),
            blamed: BTreeMap::new(),
            out: Vec::new(),
            chain: genesis.chain(),
            genesis: genesis.clone(),
            is_validator: duties.validator,
            disk,
            mempool: Vec::new(),
            waiting: BTreeSet::new(),
            said: BTreeMap::new(),
            engine: Validator::new(id, encryption.clone(), Vec::new()),
            encryption,
            signers: BTreeMap::new(),
            bft: None,
            height_started_ms: 0,
            payer: duties.funding.map(|funding| {
                let (engine, admitted) = (Sponsor::new(id, Vec::new()), BTreeSet::new());
                Payer { engine, funding, admitted }
            }),
            shares: BTreeMap::new(),
            rng,
        }
    }

    /// Height of its ledger.
    pub fn height(&self) -> u64 {
        self.state.tip().height
    }

    /// Whether it pays for models.
    pub fn is_sponsor(&self) -> bool {
        self.payer.is_some()
    }

    /// Its payments that are not over, with their phases.
    pub fn payments(&self) -> Vec<(EscrowId, Vec<PayPhase>)> {
        let records = self.payer.iter().flat_map(|p| p.engine.records()).filter(|r| !r.over);
        records.map(|r| (r.escrow, r.parts.iter().map(|p| p.phase).collect())).collect()
    }

    /// Whether it may be drawn.
    pub fn is_validator(&self) -> bool {
        self.is_validator
    }

    /// Writes made to its disk.
    pub fn writes(&self) -> u64 {
        self.disk.writes()
    }

    pub(super) fn plant(&mut self, fault: oda_storage::Fault) {
        let next = self.disk.writes() + 1;
        self.disk.plant(next, fault);
    }

    /// A seed of one of its committees, as it lies on its disk.
    pub fn seed(&self, epoch: u64) -> Option<EpochSeed> {
        let sealed = self.disk.get(&seed_key(epoch)).ok()??;
        EpochSeed::open(&sealed, epoch, &self.encryption).ok()
    }

    fn clock(&self, env: &Env<'_>) -> u64 {
        env.now_ms.saturating_add_signed(self.skew_ms)
    }

    /// The process ends; what is on disk stays.
    pub(super) fn stop(&mut self) {
        self.up = false;
        self.life += 1;
        self.out.clear();
        self.bft = None;
    }

    /// The process begins, from what is on disk.
    pub(super) fn start(&mut self, env: &mut Env<'_>) {
        self.disk.restart();
        self.state = self.restored(env.ledgers);
        let mut records: Vec<ScoreRecord> = Vec::new();
        let _ = self.disk.visit(b"score/", &mut |_, value| {
            records.extend(codec::decode(value).ok());
            ControlFlow::Continue(())
        });
        self.engine = Validator::new(self.id, self.encryption.clone(), records);
        (self.mempool, self.waiting, self.signers, self.said) = Default::default();
        self.bft = None;
        self.up = true;
        if self.payer.is_some() {
            self.wake_payer(env);
        }
        self.state_changed(env);
        self.start_height(env);
        self.out.push(Out::Timer(TICK_MS, Timer::Tick));
        self.out.push(Out::Timer(env.block_ms, Timer::Sync));
    }

    /// The ledger as it is read from disk; an empty one if it is damaged (`oda ledger repair`).
    fn restored(&mut self, ledgers: &mut Ledgers) -> Rc<State> {
        let flip = self.flip.take();
        let mut state = (*self.genesis).clone();
        let (mut number, mut damaged) = (0, false);
        let _ = self.disk.entries(&mut |key, value| {
            number += 1;
            let mut value = value.to_vec();
            if let Some(place) = flip.filter(|_| !value.is_empty()) {
                let byte = usize::try_from(place).unwrap_or(0) % value.len();
                if number == 1 + place % 7
                    && let Some(b) = value.get_mut(byte)
                {
                    *b ^= 1;
                }
            }
            match Entry::decode(key, &value) {
                Ok(entry) => state.restore(entry),
                Err(_) => damaged = true,
            }
            ControlFlow::Continue(())
        });
        let tip = self.disk.tip().unwrap_or((0, self.genesis.tip().hash));
        let fits = (state.tip().height, state.tip().hash) == tip && state.log().root() == state.tip().state_root;
        // what another node worked out for the same block, if it is still known: they must be the same
        let known = ledgers.at(tip.1);
        let same = known.as_ref().is_none_or(|k| super::same_state(k, &state));
        if flip.is_some() && number > 0 {
            if damaged || !fits || !same { self.found.0 += 1 } else { self.found.1 += 1 }
        }
        if damaged || (tip.0 > 0 && (!fits || !same)) {
            self.disk = FaultyLedger::new(self.without_ledger(), []);
            return self.genesis.clone();
        }
        if tip.0 == 0 { self.genesis.clone() } else { known.unwrap_or_else(|| Rc::new(state)) }
    }

    /// Its disk without the ledger: private records stay, and the log of votes on the height after the last. What the
    /// log of earlier heights said is gone, so the node keeps silent until it is above them.
    fn without_ledger(&self) -> MemoryLedger {
        let mut fresh = MemoryLedger::new();
        let _ = self.disk.visit(b"", &mut |key, value| {
            let _ = fresh.put(key, value);
            ControlFlow::Continue(())
        });
        let decided = self.disk.tip().map_or(0, |(height, _)| height).max(self.silent_until());
        let _ = fresh.put(SILENT, &decided.to_be_bytes());
        for entry in self.disk.wal(decided + 1).unwrap_or_default() {
            let _ = fresh.wal_append(decided + 1, &entry);
        }
        fresh
    }

    /// Heights up to this one are not voted on.
    fn silent_until(&self) -> u64 {
        let stored = self.disk.get(SILENT).ok().flatten();
        stored.and_then(|b| Some(u64::from_be_bytes(b.try_into().ok()?))).unwrap_or(0)
    }

    /// What a wallet tells a sponsor at its start (P6).
    fn wake_payer(&mut self, env: &mut Env<'_>) {
        let mut records: Vec<PayRecord> = Vec::new();
        let _ = self.disk.visit(b"pay/", &mut |_, value| {
            records.extend(codec::decode(value).ok());
            ControlFlow::Continue(())
        });
        let paying: Vec<PaymentHash> = records
            .iter()
            .flat_map(|r| &r.parts)
            .filter(|p| p.phase == PayPhase::Paying)
            .map(|p| p.payment_hash)
            .collect();
        let mut admitted = BTreeSet::new();
        let _ = self.disk.visit(b"fee/", &mut |key, _| {
            let id = key.strip_prefix(b"fee/").and_then(|id| <[u8; 32]>::try_from(id).ok());
            admitted.extend(id.map(ClaimId));
            ControlFlow::Continue(())
        });
        if let Some(payer) = &mut self.payer {
            payer.engine = Sponsor::new(self.id, records);
            if payer.funding.asks_fee {
                payer.engine = std::mem::replace(&mut payer.engine, Sponsor::new(self.id, Vec::new()))
                    .asking_fee(admitted.iter().copied());
            }
            payer.admitted = admitted;
        }
        for payment_hash in paying {
            match env.lightning.htlc(payment_hash).map(|h| h.fate) {
                None => self.drive_sponsor(env, SponsorInput::NotStarted { payment_hash }),
                Some(Fate::Claimed(_)) => self.drive_sponsor(env, SponsorInput::Sent { payment_hash, fee_msat: 0 }),
                Some(Fate::Failed) => self.drive_sponsor(env, SponsorInput::SendFailed { payment_hash }),
                Some(Fate::Held) => {}
            }
        }
    }

    /// A write that failed stops the node with its reason; nothing after it happens.
    fn written(&mut self, result: Result<(), StoreError>) -> bool {
        if result.is_err() {
            self.stops += 1;
            self.stop();
            self.out.push(Out::Stopped);
        }
        result.is_ok()
    }

    fn write(&mut self, key: &[u8], value: &[u8]) -> bool {
        if self.full_disk {
            return self.written(Err(StoreError::Injected { write: 0 }));
        }
        let result = self.disk.put(key, value);
        self.written(result)
    }
}

fn seed_key(epoch: u64) -> Vec<u8> {
    [b"seed/", &epoch.to_be_bytes()[..]].concat()
}

/// The genesis of a network of these keys, with the seeds of its first committee.
pub(super) fn genesis_state(genesis: Genesis) -> Result<Rc<State>, oda_consensus::genesis::GenesisError> {
    Ok(Rc::new(State::new(genesis)?))
}
