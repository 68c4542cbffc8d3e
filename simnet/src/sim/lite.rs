//! A lite node: the trainer's engine, a wallet, and nobody it believes.

use super::lightning::{Fate, invoice};
use super::net::Msg;
use super::{Addr, Env, Out, Timer};
use oda_consensus::codec;
use oda_consensus::engine::trainer::{ClaimRecord, Phase, Trainer, TrainerConfig, TrainerEffect, TrainerInput};
use oda_consensus::epoch::EpochChain;
use oda_consensus::genesis::Genesis;
use oda_consensus::ids::{ClaimId, EscrowId, ModelId, NodeId, PaymentHash};
use oda_consensus::keys::NodeKey;
use oda_consensus::tx::SignedTx;
use oda_consensus::wire::{Request, Response};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

/// Full nodes to which a transaction is given.
const SUBMIT_TO: usize = 3;

/// One trainer.
pub struct Lite {
    /// Its place.
    pub addr: Addr,
    /// Its name.
    pub id: NodeId,
    /// Its key.
    pub key: Arc<NodeKey>,
    /// Its process runs.
    pub up: bool,
    /// Counts its processes.
    pub life: u32,
    /// Full nodes it knows.
    pub peers: Vec<Addr>,
    /// Training done, thousandths of honest runs.
    pub work_milli: u64,
    /// It was stopped, paused or cut off at some time: what it lost then is nobody's fault.
    pub disturbed: bool,
    /// What it wants done.
    pub out: Vec<Out>,
    engine: Trainer,
    genesis: Rc<Genesis>,
    records: BTreeMap<ClaimId, Vec<u8>>,
    models: BTreeSet<ModelId>,
    turn: usize,
    rng: ChaCha20Rng,
}

impl Lite {
    pub(super) fn new(
        addr: Addr,
        key: NodeKey,
        genesis: Rc<Genesis>,
        peers: Vec<Addr>,
        block_ms: u64,
        entropy: u64,
    ) -> Option<Self> {
        let engine = engine_of(&key, &genesis, block_ms, Vec::new())?;
        let id = key.id();
        Some(Self {
            addr,
            id,
            key: Arc::new(key),
            up: false,
            life: 0,
            peers,
            work_milli: 0,
            disturbed: false,
            out: Vec::new(),
            engine,
            genesis,
            records: BTreeMap::new(),
            models: BTreeSet::new(),
            turn: usize::try_from(addr.0).unwrap_or(0),
            rng: ChaCha20Rng::seed_from_u64(entropy),
        })
    }

    /// Its claims.
    pub fn claims(&self) -> impl Iterator<Item = &ClaimRecord> {
        self.engine.claims()
    }

    pub(super) fn stop(&mut self) {
        self.up = false;
        self.life += 1;
        self.disturbed = true;
        self.out.clear();
    }

    pub(super) fn start(&mut self, env: &mut Env<'_>) {
        let records = self.records.values().filter_map(|bytes| codec::decode(bytes).ok()).collect();
        if let Some(engine) = engine_of(&self.key, &self.genesis, env.block_ms, records) {
            self.engine = engine;
        }
        self.up = true;
        // what a wallet tells at its start: what is held, and what was received
        let mine = env.lightning.htlcs().filter(|(_, h)| h.payee == self.addr);
        let mine: Vec<_> = mine.map(|(hash, h)| (*hash, *h)).collect();
        for (payment_hash, htlc) in mine {
            match htlc.fate {
                Fate::Held => self.held(env, payment_hash),
                Fate::Claimed(_) => self.drive(env, TrainerInput::Received { payment_hash }),
                Fate::Failed => {}
            }
        }
        self.out.push(Out::Timer(env.block_ms / 4 + u64::from(self.addr.0 % 64) * 10, Timer::Poll));
    }

    /// The wallet sees a payment locked.
    pub(super) fn held(&mut self, env: &mut Env<'_>, payment_hash: PaymentHash) {
        let Some(htlc) = env.lightning.htlc(payment_hash).filter(|h| h.fate == Fate::Held) else { return };
        let (amount_msat, claim_deadline_height) = (htlc.amount_msat, htlc.deadline);
        self.drive(env, TrainerInput::Held { payment_hash, amount_msat, claim_deadline_height });
    }

    pub(super) fn drive(&mut self, env: &mut Env<'_>, input: TrainerInput) {
        if !self.up {
            return;
        }
        for effect in self.engine.handle(input, &mut self.rng) {
            self.effect(env, effect);
        }
    }

    fn effect(&mut self, env: &mut Env<'_>, effect: TrainerEffect) {
        match effect {
            TrainerEffect::Persist(r) => drop(self.records.insert(r.claim, codec::encode(r.as_ref()))),
            TrainerEffect::Train(job) => self.out.push(Out::Train(job)),
            TrainerEffect::Submit(tx) => {
                let tx = Rc::new(Request::SubmitTx(Box::new(SignedTx::new(tx, &self.key, env.chain))));
                for _ in 0..SUBMIT_TO.min(self.peers.len()) {
                    self.turn = self.turn.wrapping_add(1);
                    if let Some(peer) = self.peer() {
                        self.out.push(Out::Ask(peer, tx.clone()));
                    }
                }
            }
            TrainerEffect::AskEpochs(after) => {
                if let Some(peer) = self.peer() {
                    self.out.push(Out::Ask(peer, Rc::new(Request::Epochs { after })));
                }
            }
            TrainerEffect::AskClaim(claim) => {
                if self.claims().any(|r| r.claim == claim && r.phase == Phase::Committed) {
                    self.out.push(Out::Fee(claim));
                }
                let ask = Rc::new(Request::Claim(claim));
                let peers = self.peers.iter();
                self.out.extend(peers.map(|peer| Out::Ask(*peer, ask.clone())));
            }
            TrainerEffect::AskShares(escrow, member) => {
                self.out.push(Out::Tell(member, Rc::new(Request::Shares(escrow))));
            }
            TrainerEffect::MakeInvoice { claim, tranche, payment_hash, amount_msat, hold_blocks } => {
                let bolt11 = invoice(payment_hash, amount_msat, hold_blocks);
                self.drive(env, TrainerInput::InvoiceMade { claim, tranche, bolt11 });
            }
            TrainerEffect::SendInvoice { to, escrow, tranche, bolt11 } => {
                self.out.push(Out::Tell(to, Rc::new(Request::Invoice { escrow, tranche, bolt11 })));
            }
            TrainerEffect::ClaimHtlc { payment_hash, preimage, .. } => {
                self.out.push(Out::Claim(payment_hash, preimage));
            }
            TrainerEffect::FailHtlc(hash) => self.out.push(Out::Fail(hash)),
            TrainerEffect::Report { claim, phase, note, .. } => self.out.push(Out::Report(claim, phase, note)),
        }
    }

    fn peer(&self) -> Option<Addr> {
        self.peers.get(self.turn % self.peers.len().max(1)).copied()
    }

    pub(super) fn timer(&mut self, env: &mut Env<'_>, timer: Timer) {
        if timer != Timer::Poll {
            return;
        }
        self.turn = self.turn.wrapping_add(1);
        if let Some(peer) = self.peer() {
            if self.models.is_empty() || self.turn % 16 == 1 {
                self.out.push(Out::Ask(peer, Rc::new(Request::Models)));
            }
            let asks = self.models.iter().map(|model| Out::Ask(peer, Rc::new(Request::Model(*model))));
            self.out.extend(asks);
        }
        let (now_ms, chain_height) = (env.now_ms, env.lightning.height);
        self.drive(env, TrainerInput::Tick { now_ms, chain_height });
        self.out.push(Out::Timer(env.block_ms / 2, Timer::Poll));
    }

    pub(super) fn hear(&mut self, env: &mut Env<'_>, from: (Addr, NodeId), msg: &Msg) {
        match msg {
            Msg::Ask(request) => {
                if let Request::Changed(escrow) = request.as_ref() {
                    self.changed(from.0, *escrow);
                }
            }
            Msg::Answer(request, response) => match (request.as_ref(), response.as_ref()) {
                (Request::Models, Response::Models(models)) => {
                    self.models.extend(models.iter().take(64));
                }
                (_, Response::Model(Some(view))) => self.drive(env, TrainerInput::Model(view.clone())),
                (_, Response::Claim(Some(view))) => {
                    self.drive(env, TrainerInput::Claim { from: from.1, view: view.clone() });
                }
                (Request::Shares(escrow), Response::Shares(shares)) => {
                    self.drive(env, TrainerInput::Shares { escrow: *escrow, shares: shares.clone() });
                }
                (_, Response::Epochs(links)) => self.drive(env, TrainerInput::Epochs(links.clone())),
                _ => {}
            },
            Msg::Bft(_) | Msg::Committee(_) | Msg::Tx(_) | Msg::Block(_) | Msg::Noise(_) => {}
        }
    }

    fn changed(&mut self, from: Addr, escrow: EscrowId) {
        if let Some(claim) = self.engine.open_claim(escrow) {
            self.out.push(Out::Ask(from, Rc::new(Request::Claim(claim))));
        }
    }

    /// Whether a claim of its is over for it.
    pub fn is_over(&self, claim: ClaimId) -> bool {
        self.engine.claims().find(|r| r.claim == claim).is_none_or(|r| matches!(r.phase, Phase::Paid | Phase::Void))
    }
}

fn engine_of(key: &NodeKey, genesis: &Genesis, block_ms: u64, records: Vec<ClaimRecord>) -> Option<Trainer> {
    let config = TrainerConfig { retry_ms: block_ms, ..TrainerConfig::default() };
    Some(Trainer::new(key.id(), EpochChain::new(genesis).ok()?, config, records))
}
