//! One validator as the node runs it: the engine, a signer for each seat, a ledger of its own, a mempool,
//! and what it has on disk. No network and no clock: what it wants done is left in `out`.

use super::attack::{Attacker, Desk};
use oda_consensus::beacon::BeaconInput;
use oda_consensus::codec;
use oda_consensus::engine::validator::{JudgeJob, ScoreRecord, Validator, ValidatorEffect, ValidatorInput};
use oda_consensus::frost::{EncryptionSecret, EpochSeed, SignEffect, SignInput, Signer, SignerConfig};
use oda_consensus::ids::{ModelId, NodeId, TxId};
use oda_consensus::keys::NodeKey;
use oda_consensus::state::State;
use oda_consensus::tx::{Block, SignedTx, Tx};
use oda_consensus::wire::{CommitteeEnvelope, CommitteeMessage, SignedCommitteeEnvelope};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

/// What a node wants done.
pub enum Out {
    Gossip(Rc<Vec<u8>>),
    Tx(SignedTx),
    Judge(Box<JudgeJob>),
    /// It gave out a beacon share; for the checks.
    Told(u64, BeaconInput),
}

pub struct Node {
    pub id: NodeId,
    pub key: NodeKey,
    encryption: Arc<EncryptionSecret>,
    pub state: State,
    pub mempool: Vec<SignedTx>,
    waiting: BTreeSet<TxId>,
    engine: Validator,
    pub signers: BTreeMap<u64, Signer>,
    rng: ChaCha20Rng,
    pub attacker: Option<Box<dyn Attacker>>,
    pub up: bool,
    /// Counts its processes.
    pub life: u32,
    /// Nodes of different sides do not hear each other.
    pub side: u8,
    /// Every message from it takes so much longer.
    pub lag_ms: u64,
    // on disk
    seeds: BTreeMap<u64, Vec<u8>>,
    records: BTreeMap<(ModelId, u64, u32), ScoreRecord>,
    // what happened
    pub out: Vec<Out>,
    /// Messages refused, by author and reason.
    pub refused: BTreeMap<(NodeId, String), u64>,
    pub blamed: BTreeMap<(NodeId, String), u64>,
    /// Bytes that were no envelope, and envelopes of nobody who may speak.
    pub rejected: BTreeMap<&'static str, u64>,
}

impl Node {
    pub fn new(key: NodeKey, state: State, seed: Option<&EpochSeed>, entropy: u64) -> Self {
        let encryption = Arc::new(EncryptionSecret::derive(&key.secret()));
        let mut rng = ChaCha20Rng::seed_from_u64(entropy);
        let sealed = seed.map(|s| s.seal(0, &encryption.public(), &mut rng).unwrap());
        Self {
            id: key.id(),
            engine: Validator::new(key.id(), encryption.clone(), Vec::new()),
            key,
            encryption,
            state,
            mempool: Vec::new(),
            waiting: BTreeSet::new(),
            signers: BTreeMap::new(),
            rng,
            attacker: None,
            up: true,
            life: 0,
            side: 0,
            lag_ms: 0,
            seeds: sealed.map(|s| (0, s)).into_iter().collect(),
            records: BTreeMap::new(),
            out: Vec::new(),
            refused: BTreeMap::new(),
            blamed: BTreeMap::new(),
            rejected: BTreeMap::new(),
        }
    }

    pub fn height(&self) -> u64 {
        self.state.tip().height
    }

    /// The process ends; what is on disk stays.
    pub fn stop(&mut self) {
        self.up = false;
        self.life += 1;
        self.out.clear();
    }

    pub fn start(&mut self, now_ms: u64) {
        let records = self.records.values().cloned().collect();
        self.engine = Validator::new(self.id, self.encryption.clone(), records);
        (self.mempool, self.waiting, self.signers) = Default::default();
        self.up = true;
        self.drive(ValidatorInput::StateChanged, now_ms);
    }

    pub fn apply(&mut self, block: &Block, now_ms: u64) {
        self.state.apply(block).expect("every node applies what was decided");
        let included: BTreeSet<TxId> = block.txs.iter().map(SignedTx::id).collect();
        let (state, at) = (&self.state, self.state.next(0));
        self.mempool.retain(|tx| !included.contains(&tx.id()) && state.transition(tx, at).is_ok());
        self.waiting = self.mempool.iter().map(SignedTx::id).collect();
        self.attack(|attacker, desk| attacker.block(desk));
        self.drive(ValidatorInput::StateChanged, now_ms);
    }

    /// Takes a transaction as the node's mempool does: if it is valid now.
    pub fn take(&mut self, tx: &SignedTx) -> bool {
        let (id, state) = (tx.id(), &self.state);
        let fits = !self.waiting.contains(&id)
            && tx.is_authentic(state.chain())
            && state.transition(tx, state.next(0)).is_ok();
        if fits {
            self.waiting.insert(id);
            self.mempool.push(tx.clone());
        }
        fits
    }

    fn attack(&mut self, act: impl FnOnce(&mut dyn Attacker, &mut Desk<'_>) -> Vec<Vec<u8>>) {
        let Some(mut attacker) = self.attacker.take() else { return };
        let sayings = act(attacker.as_mut(), &mut self.desk());
        self.attacker = Some(attacker);
        self.out.extend(sayings.into_iter().map(|bytes| Out::Gossip(Rc::new(bytes))));
    }

    fn desk(&mut self) -> Desk<'_> {
        Desk {
            me: self.id,
            key: &self.key,
            state: &self.state,
            seeds: &self.seeds,
            encryption: &self.encryption,
            rng: &mut self.rng,
        }
    }

    pub fn drive(&mut self, input: ValidatorInput, now_ms: u64) {
        let mut inputs = VecDeque::from([input]);
        while let Some(mut input) = inputs.pop_front() {
            if let Some(attacker) = &mut self.attacker {
                input = attacker.input(input);
            }
            for effect in self.engine.handle(&self.state, input, &mut self.rng) {
                inputs.extend(self.effect(effect, now_ms));
            }
        }
    }

    fn effect(&mut self, effect: ValidatorEffect, now_ms: u64) -> Vec<ValidatorInput> {
        match effect {
            ValidatorEffect::Persist(r) => {
                self.records.insert((r.outcome.model, r.outcome.round, r.attempt), *r);
            }
            ValidatorEffect::LoadSeed { epoch, fresh } => {
                if fresh && !self.seeds.contains_key(&epoch) {
                    let seed = EpochSeed::random(&mut self.rng);
                    let sealed = seed.seal(epoch, &self.encryption.public(), &mut self.rng).unwrap();
                    self.seeds.insert(epoch, sealed);
                }
                let open = |bytes: &Vec<u8>| EpochSeed::open(bytes, epoch, &self.encryption).unwrap();
                return self.seeds.get(&epoch).map(open).map(|s| ValidatorInput::Seed(epoch, s)).into_iter().collect();
            }
            ValidatorEffect::ForgetSeed(epoch) => drop(self.seeds.remove(&epoch)),
            ValidatorEffect::Seat { epoch, group, share } => {
                self.signers.insert(epoch, Signer::new(self.id, *group, share, SignerConfig::default()));
                return self.sign(epoch, SignInput::Start, now_ms);
            }
            ValidatorEffect::Unseat(epoch) => drop(self.signers.remove(&epoch)),
            ValidatorEffect::Sign(epoch, input) => return self.sign(epoch, input, now_ms),
            ValidatorEffect::Tell(epoch, input, partial) => {
                self.out.push(Out::Told(epoch, input));
                self.tell(epoch, CommitteeMessage::Partial(input, partial));
            }
            ValidatorEffect::Judge(job) => self.out.push(Out::Judge(job)),
            ValidatorEffect::Submit(tx) => self.submit(tx),
            ValidatorEffect::Blame { node, why } => *self.blamed.entry((node, why)).or_default() += 1,
        }
        Vec::new()
    }

    fn sign(&mut self, epoch: u64, input: SignInput, now_ms: u64) -> Vec<ValidatorInput> {
        let Some(signer) = self.signers.get_mut(&epoch) else { return Vec::new() };
        let mut reports = Vec::new();
        for effect in signer.handle(input, now_ms, &mut self.rng) {
            match effect {
                SignEffect::Broadcast(message) => self.tell(epoch, CommitteeMessage::Sign(message)),
                SignEffect::Refused { from, why } => {
                    *self.refused.entry((from, why.to_string())).or_default() += 1;
                }
                report => reports.push(ValidatorInput::Signing(epoch, report)),
            }
        }
        reports
    }

    pub fn tick(&mut self, now_ms: u64) {
        let epochs: Vec<u64> = self.signers.keys().copied().collect();
        for epoch in epochs {
            let reports = self.sign(epoch, SignInput::Tick, now_ms);
            reports.into_iter().for_each(|report| self.drive(report, now_ms));
        }
    }

    fn submit(&mut self, tx: Tx) {
        let mut txs = vec![tx];
        if let Some(mut attacker) = self.attacker.take() {
            txs = txs.into_iter().flat_map(|tx| attacker.submit(&mut self.desk(), tx)).collect();
            self.attacker = Some(attacker);
        }
        for tx in txs {
            let signed = SignedTx::new(tx, &self.key, self.state.chain());
            self.take(&signed);
            // said whether the own mempool takes it or not: an attacker's second version is not taken
            self.out.push(Out::Tx(signed));
        }
    }

    pub fn knows(&self, tx: TxId) -> bool {
        self.waiting.contains(&tx)
    }

    fn tell(&mut self, epoch: u64, message: CommitteeMessage) {
        if self.attacker.is_some() {
            return self.attack(|attacker, desk| attacker.say(desk, epoch, message));
        }
        let me = self.id;
        let bytes = self.desk().sealed(me, epoch, message);
        self.out.push(Out::Gossip(Rc::new(bytes)));
    }

    /// A committee message from gossip.
    pub fn hear(&mut self, data: &[u8], now_ms: u64) {
        let mut reject = |why| *self.rejected.entry(why).or_default() += 1;
        let Ok(signed) = codec::decode::<SignedCommitteeEnvelope>(data) else { return reject("no envelope") };
        let CommitteeEnvelope { from, epoch, .. } = signed.envelope;
        match self.state.epoch_state(epoch).map(|e| e.group.index_of(from).is_some()) {
            None => return reject("unknown epoch"),
            Some(false) => return reject("no member"),
            Some(true) if epoch.saturating_add(2) < self.state.current().number => return reject("old epoch"),
            Some(true) => {}
        }
        if !from.verify(self.state.chain(), &signed.envelope, &signed.signature) {
            return reject("forged");
        }
        self.attack(|attacker, desk| attacker.hears(desk, data, &signed));
        let proof = signed.signature;
        match signed.envelope.message {
            CommitteeMessage::Partial(input, partial) => {
                self.drive(ValidatorInput::Partial { from, epoch, input, partial }, now_ms);
            }
            CommitteeMessage::Sign(message) => {
                let reports = self.sign(epoch, SignInput::Message { from, message, proof }, now_ms);
                reports.into_iter().for_each(|report| self.drive(report, now_ms));
            }
        }
    }
}
