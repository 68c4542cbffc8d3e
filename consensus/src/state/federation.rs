//! Epochs, key generations, membership, evidence and checkpoints (C1, C2, C6).
//!
//! Phases end by block height, so every node sees the same member miss the same step. What happens
//! without a transaction happens in `begin_block` and `end_block`, in every node alike.

use super::entry::*;
use super::federation_entry::*;
use super::rules::TxError;
use super::{At, State};
use crate::beacon::BeaconProof;
use crate::codec;
use crate::epoch::{Checkpoint, Handover, HandoverLink, Membership, draw_input, draw_order};
use crate::evidence::{Evidence, Offence};
use crate::frost::{EncryptionKey, GroupSignature, Transcript, dkg_context};
use crate::ids::{BlockHash, ModelId, NodeId};
use crate::outcome::{Attestation, Statement};
use crate::tx::{DkgMessage, DkgStep};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Blocks waiting to be attested; older ones are passed over.
const MAX_DUE: usize = 4;

/// Changes of several federation entries at once.
struct Draft<'a> {
    state: &'a State,
    at: At,
    federation: FederationState,
    dkg: Option<DkgState>,
    validators: BTreeMap<NodeId, ValidatorState>,
}

impl<'a> Draft<'a> {
    fn new(state: &'a State, at: At) -> Self {
        let (federation, dkg) = (state.federation.clone(), state.dkg.as_deref().cloned());
        Self { state, at, federation, dkg, validators: BTreeMap::new() }
    }

    fn entries(self) -> Vec<Entry> {
        let mut out: Vec<Entry> = self.validators.into_values().map(|v| Entry::Validator(Box::new(v))).collect();
        if self.federation != self.state.federation {
            out.push(Entry::Federation(self.federation));
        }
        if let Some(dkg) = self.dkg.filter(|d| Some(d) != self.state.dkg.as_deref()) {
            out.push(Entry::Dkg(Box::new(dkg)));
        }
        out
    }

    fn validator(&mut self, node: NodeId) -> Option<&mut ValidatorState> {
        if let std::collections::btree_map::Entry::Vacant(v) = self.validators.entry(node) {
            v.insert(self.state.validators.get(&node)?.clone());
        }
        self.validators.get_mut(&node)
    }

    fn is_active(&self, node: NodeId) -> bool {
        let known = self.validators.get(&node).or_else(|| self.state.validators.get(&node));
        known.is_some_and(|v| v.status == ValidatorStatus::Active)
    }

    /// Ends a validator's service; its seat is filled again as soon as possible.
    fn remove(&mut self, node: NodeId, status: ValidatorStatus) {
        let since = self.at.height;
        let Some(v) = self.validator(node) else { return };
        (v.status, v.since) = (status, since);
        if self.state.current().group.index_of(node).is_some() {
            self.federation.hurry = true;
        }
        // also when its key is ready but not in charge yet
        let next = self.federation.epoch.saturating_add(1);
        if self.dkg.as_ref().is_some_and(|d| d.epoch == next && d.members.contains(&node)) {
            self.retry(&[node]);
        }
    }

    /// Starts the next attempt without some members.
    fn retry(&mut self, without: &[NodeId]) {
        let Some(mut dkg) = self.dkg.take() else { return };
        dkg.order.retain(|n| !without.contains(n));
        dkg.attempt = dkg.attempt.saturating_add(1);
        self.begin(dkg);
    }

    /// Leaves out who missed a step, and counts it.
    fn pass_over(&mut self, missing: &[NodeId]) {
        for node in missing {
            self.count(*node, |r| r.dkg_missed = r.dkg_missed.saturating_add(1));
        }
        self.retry(missing);
    }

    /// Opens an attempt among the first of the drawn order.
    fn begin(&mut self, mut dkg: DkgState) {
        let seats = usize::from(self.state.genesis.federation.committee);
        let mut members: Vec<NodeId> = dkg.order.iter().copied().filter(|n| self.is_active(*n)).take(seats).collect();
        members.sort_unstable();
        (dkg.done, dkg.complaints) = (Vec::new(), Vec::new());
        // A smaller committee would be weaker than the running one, which then goes on.
        if members.len() == seats {
            dkg.phase = DkgPhase::Deal;
            dkg.deadline = self.deadline();
        } else {
            dkg.phase = DkgPhase::Failed;
            let pause = u64::from(self.state.genesis.federation.epoch_blocks / 2).max(1);
            dkg.deadline = self.at.height.saturating_add(pause);
        }
        dkg.members = members;
        self.dkg = Some(dkg);
    }

    fn deadline(&self) -> u64 {
        self.at.height.saturating_add(self.state.genesis.federation.dkg_blocks.into())
    }

    fn enter(&mut self, phase: DkgPhase) {
        let deadline = self.deadline();
        if let Some(dkg) = &mut self.dkg {
            (dkg.phase, dkg.deadline) = (phase, deadline);
            dkg.done.clear();
        }
    }

    fn count(&mut self, node: NodeId, add: impl Fn(&mut ServiceRecord)) {
        if let Some(v) = self.validator(node) {
            add(&mut v.record);
        }
    }

    /// Moves the key generation on when a step is complete or out of time.
    fn advance_dkg(&mut self) {
        let next = self.federation.epoch.saturating_add(1);
        let Some(dkg) = self.dkg.clone().filter(|d| d.epoch == next) else { return };
        let late = self.at.height >= dkg.deadline;
        let missing: Vec<NodeId> = dkg.members.iter().copied().filter(|m| !dkg.done.contains(m)).collect();
        match dkg.phase {
            DkgPhase::Deal | DkgPhase::Share | DkgPhase::Confirm if missing.is_empty() => self.enter(match dkg.phase {
                DkgPhase::Deal => DkgPhase::Share,
                DkgPhase::Share => DkgPhase::Confirm,
                _ if dkg.complaints.is_empty() => DkgPhase::Done,
                _ => DkgPhase::Open,
            }),
            DkgPhase::Deal | DkgPhase::Share | DkgPhase::Confirm if late => self.pass_over(&missing),
            DkgPhase::Open => {
                let member = |i: u16| dkg.members.get(usize::from(i)).copied();
                let answered = |recipient: u16, dealer: u16| {
                    let dealing = member(dealer).and_then(|n| self.state.dealing(dkg.epoch, dkg.attempt, n));
                    dealing.is_some_and(|d| d.opened.iter().any(|(r, _)| *r == recipient))
                };
                let mut open: Vec<NodeId> =
                    dkg.complaints.iter().filter(|(r, d)| !answered(*r, *d)).filter_map(|(_, d)| member(*d)).collect();
                open.sort_unstable();
                open.dedup(); // however many complained of it, it missed one step
                if open.is_empty() {
                    for recipient in dkg.complaints.iter().filter_map(|(r, _)| member(*r)) {
                        self.count(recipient, |r| {
                            r.dkg_complaints_answered = r.dkg_complaints_answered.saturating_add(1);
                        });
                    }
                    self.enter(DkgPhase::Done);
                } else if late {
                    // Silence proves nothing: the complaint may be false, and the accused down or cut off. A dealer
                    // that opens what does not fit convicts itself (`Evidence::BadDeal`).
                    self.pass_over(&open);
                }
            }
            DkgPhase::Failed if late => {
                let order = draw_order(dkg.beacon, &self.federation.candidates);
                self.begin(DkgState { attempt: dkg.attempt.saturating_add(1), order, ..dkg });
            }
            _ => {}
        }
    }
}

impl State {
    /// The epoch in charge.
    pub fn current(&self) -> &EpochState {
        // the genesis epoch is always there, and no entry removes one
        self.epochs.get(&self.federation.epoch).or_else(|| self.epochs.get(&0)).expect("epoch 0 exists").as_ref()
    }

    /// Where the federation stands.
    pub fn federation(&self) -> &FederationState {
        &self.federation
    }

    /// One epoch, in charge, past, or coming with its key ready.
    pub fn epoch_state(&self, epoch: u64) -> Option<&EpochState> {
        self.epochs.get(&epoch).map(Arc::as_ref)
    }

    /// Signed links from an epoch on, for those who follow the keys.
    pub fn links(&self, after: u64, most: usize) -> Vec<HandoverLink> {
        self.epochs.range(after.saturating_add(1)..).filter_map(|(_, e)| e.link()).take(most).collect()
    }

    /// The key generation of the coming epoch.
    pub fn dkg(&self) -> Option<&DkgState> {
        self.dkg.as_deref().filter(|d| d.epoch == self.federation.epoch.saturating_add(1))
    }

    /// What a member dealt in an attempt.
    pub fn dealing(&self, epoch: u64, attempt: u32, node: NodeId) -> Option<&Dealing> {
        self.dealings.get(&(epoch, attempt, node)).map(Arc::as_ref)
    }

    /// All a member needs to compute its share of an epoch's keys.
    pub fn transcript(&self, epoch: u64, attempt: u32, members: &[NodeId]) -> Option<Transcript> {
        if epoch == 0 {
            return self.genesis.transcript().ok();
        }
        let dealings: Option<Vec<&Dealing>> = members.iter().map(|m| self.dealing(epoch, attempt, *m)).collect();
        let dealings = dealings?;
        let opened = dealings.iter().enumerate().flat_map(|(dealer, d)| {
            let dealer = u16::try_from(dealer).unwrap_or(u16::MAX);
            d.opened.iter().map(move |(recipient, shares)| (dealer, *recipient, shares.clone()))
        });
        Some(Transcript {
            context: dkg_context(self.chain, epoch, attempt),
            members: members.to_vec(),
            round1: dealings.iter().map(|d| d.round1.clone()).collect(),
            opened: opened.collect(),
            round2: dealings.iter().filter_map(|d| d.round2.clone()).collect(),
        })
    }

    /// One validator or applicant.
    pub fn validator(&self, node: NodeId) -> Option<&ValidatorState> {
        self.validators.get(&node)
    }

    /// All validators and applicants, ascending.
    pub fn all_validators(&self) -> impl Iterator<Item = &ValidatorState> {
        self.validators.values()
    }

    /// Encryption keys of an epoch's members, in member order.
    pub fn encryption_keys(&self, members: &[NodeId]) -> Option<Vec<EncryptionKey>> {
        members.iter().map(|m| self.validators.get(m).map(|v| v.encryption)).collect()
    }

    /// Attested blocks, ascending.
    pub fn checkpoints(&self) -> impl DoubleEndedIterator<Item = &CheckpointState> {
        self.checkpoints.values().map(Arc::as_ref)
    }

    /// The coming epoch, once its key generation is done.
    pub fn coming(&self) -> Option<&EpochState> {
        let dkg = self.dkg().filter(|d| d.phase == DkgPhase::Done)?;
        self.epoch_state(dkg.epoch).filter(|e| e.attempt == dkg.attempt && e.group.members() == dkg.members)
    }

    /// Whether the committee in charge should draw the next.
    pub fn may_draw(&self) -> bool {
        self.genesis.federation.epoch_blocks > 0 && self.dkg().is_none()
    }

    /// What happens before a block's transactions: the block before it becomes due for attestation.
    pub(super) fn begin_block(&self) -> Vec<Entry> {
        let every = u64::from(self.genesis.federation.checkpoint_blocks);
        if every == 0 || self.tip.height == 0 || !self.tip.height.is_multiple_of(every) {
            return Vec::new();
        }
        let mut federation = self.federation.clone();
        federation.due.push((self.tip.height, self.tip.hash, self.tip.state_root));
        if federation.due.len() > MAX_DUE {
            federation.due.remove(0);
        }
        vec![Entry::Federation(federation)]
    }

    /// What happens after a block's transactions.
    pub(super) fn end_block(&mut self, at: At, changed: &mut BTreeMap<Vec<u8>, Entry>) {
        let mut draft = Draft::new(self, at);
        draft.advance_dkg();
        let entries = draft.entries();
        self.note(entries, changed);
        let keys = self.finish_dkg();
        self.note(keys, changed);
        let epoch = self.change_epoch(at);
        self.note(epoch, changed);
        let rounds = self.appoint_judges(at);
        self.note(rounds, changed);
    }

    /// The public keys of a key generation that is complete.
    fn finish_dkg(&self) -> Vec<Entry> {
        let Some(dkg) = self.dkg().filter(|d| d.phase == DkgPhase::Done) else { return Vec::new() };
        if self.coming().is_some() {
            return Vec::new();
        }
        let keys = self.transcript(dkg.epoch, dkg.attempt, &dkg.members).and_then(|t| t.keys().ok());
        let Some((group, beacon)) = keys else { return Vec::new() };
        let (number, attempt) = (dkg.epoch, dkg.attempt);
        vec![Entry::Epoch(Box::new(EpochState { number, attempt, start_height: None, group, beacon, signature: None }))]
    }

    /// The next committee takes over once its key is signed and the epoch is over.
    fn change_epoch(&self, at: At) -> Vec<Entry> {
        let Some(coming) = self.coming().filter(|e| e.signature.is_some()) else { return Vec::new() };
        let start = self.current().start_height.unwrap_or(1);
        let over = start.saturating_add(self.genesis.federation.epoch_blocks.into());
        let next_height = at.height.saturating_add(1);
        if next_height < over && !self.federation.hurry {
            return Vec::new();
        }
        let active = |v: &&ValidatorState| v.status == ValidatorStatus::Active;
        let federation = FederationState {
            epoch: coming.number,
            candidates: self.validators.values().filter(active).map(|v| v.node).collect(),
            hurry: coming.group.members().iter().any(|m| self.validators.get(m).as_ref().is_none_or(|v| !active(v))),
            ..self.federation.clone()
        };
        let epoch = EpochState { start_height: Some(next_height), ..coming.clone() };
        vec![Entry::Federation(federation), Entry::Epoch(Box::new(epoch))]
    }

    /// Rounds that take no more claims get their judges: the committee in charge now, whatever
    /// happens to the epoch later. Judges two epochs old are replaced, or a lost committee could
    /// stop a round for ever.
    fn appoint_judges(&self, at: At) -> Vec<Entry> {
        let (next, epoch) = (at.height.saturating_add(1), self.federation.epoch);
        let mut out = Vec::new();
        for model in self.models.values() {
            let Some(round) = &model.round else { continue };
            let appoint = match round.judges {
                None => self.may_seal(model, next),
                Some(judges) => judges.saturating_add(2) <= epoch,
            };
            if !appoint && !self.must_repeat(round, next) {
                continue;
            }
            let mut model = model.as_ref().clone();
            // a sealed round keeps what it measures while it keeps its judges
            let opened = appoint && model.opens(epoch);
            if let Some(round) = &mut model.round {
                round.opened = if appoint { opened && round.sealed.is_some() } else { round.opened };
                let attempt = round.scores.attempt.saturating_add(round.judges.is_some().into());
                round.judges = if appoint { Some(epoch) } else { round.judges };
                round.scores = ScorePhase { attempt, ..ScorePhase::default() };
            }
            out.push(Entry::Model(Box::new(model)));
        }
        out
    }

    fn attested(&self, statement: Statement, signature: &GroupSignature) -> Result<(), TxError> {
        let message = codec::encode(&Attestation { chain: self.chain, statement });
        if self.group().verify(&message, signature) { Ok(()) } else { Err(TxError::NotAttested) }
    }

    // C1, S3
    pub(super) fn draw(&self, epoch: u64, proof: &BeaconProof, at: At) -> Result<Vec<Entry>, TxError> {
        if !self.may_draw() || epoch != self.federation.epoch.saturating_add(1) {
            return Err(TxError::NoDraw);
        }
        let beacon =
            self.current().beacon.verify(&draw_input(self.chain, epoch), proof).map_err(|_| TxError::BadBeacon)?;
        let order = draw_order(beacon, &self.federation.candidates);
        let mut draft = Draft::new(self, at);
        draft.begin(DkgState {
            epoch,
            attempt: 0,
            beacon,
            order,
            members: Vec::new(),
            phase: DkgPhase::Deal,
            deadline: 0,
            done: Vec::new(),
            complaints: Vec::new(),
        });
        Ok(draft.entries())
    }

    // C2
    pub(super) fn dkg_message(&self, who: NodeId, message: &DkgMessage) -> Result<Vec<Entry>, TxError> {
        let dkg = self.dkg().filter(|d| (d.epoch, d.attempt) == (message.epoch, message.attempt));
        let mut dkg = dkg.ok_or(TxError::NoSuchDkg)?.clone();
        let n = dkg.members.len();
        let index = dkg.members.iter().position(|m| *m == who).ok_or(TxError::NotDrawn)?;
        let place = u16::try_from(index).map_err(|_| TxError::NotDrawn)?;
        let mut dealing = self.dealing(dkg.epoch, dkg.attempt, who).cloned();
        let phase = match &message.step {
            DkgStep::Deal(_) => DkgPhase::Deal,
            DkgStep::Share(_) => DkgPhase::Share,
            DkgStep::Confirm(_) => DkgPhase::Confirm,
            DkgStep::Open(..) => DkgPhase::Open,
        };
        if dkg.phase != phase {
            return Err(TxError::WrongDkgStep);
        }
        if phase != DkgPhase::Open && dkg.done.contains(&who) {
            return Err(TxError::SaidAlready);
        }
        match &message.step {
            DkgStep::Deal(round1) => {
                if !round1.check(index, n) {
                    return Err(TxError::BadDkgPackage);
                }
                let (epoch, attempt) = (dkg.epoch, dkg.attempt);
                let (round1, round2, opened) = (round1.clone(), None, Vec::new());
                dealing = Some(Dealing { epoch, attempt, node: who, round1, round2, opened });
            }
            DkgStep::Share(round2) => {
                if !round2.check(n) {
                    return Err(TxError::BadDkgPackage);
                }
                dealing.as_mut().ok_or(TxError::WrongDkgStep)?.round2 = Some(round2.clone());
            }
            DkgStep::Confirm(bad) => {
                let fine = bad.is_sorted_by(|a, b| a < b) && bad.iter().all(|d| usize::from(*d) < n && *d != place);
                if !fine {
                    return Err(TxError::BadDkgPackage);
                }
                dkg.complaints.extend(bad.iter().map(|dealer| (place, *dealer)));
            }
            DkgStep::Open(recipient, shares) => {
                let asked = dkg.complaints.contains(&(*recipient, place));
                let dealing = dealing.as_mut().ok_or(TxError::WrongDkgStep)?;
                if !asked || dealing.opened.iter().any(|(r, _)| r == recipient) {
                    return Err(TxError::SaidAlready);
                }
                let transcript = self.transcript(dkg.epoch, dkg.attempt, &dkg.members).ok_or(TxError::WrongDkgStep)?;
                if !transcript.fits(index, usize::from(*recipient), shares) {
                    return Err(TxError::BadDkgPackage);
                }
                dealing.opened.push((*recipient, shares.clone()));
            }
        }
        let mut out: Vec<Entry> = dealing.map(|d| Entry::Dealing(Box::new(d))).into_iter().collect();
        if phase != DkgPhase::Open {
            dkg.done.push(who);
            out.push(Entry::Dkg(Box::new(dkg)));
        }
        Ok(out)
    }

    // C2: the old key signs the new
    pub(super) fn handover(&self, handover: &Handover, signature: &GroupSignature) -> Result<Vec<Entry>, TxError> {
        let coming = self.coming().ok_or(TxError::WrongStatement)?;
        if coming.signature.is_some() {
            return Err(TxError::SaidAlready);
        }
        if coming.handover() != *handover {
            return Err(TxError::WrongStatement);
        }
        self.attested(Statement::Handover(handover.clone()), signature)?;
        Ok(vec![Entry::Epoch(Box::new(EpochState { signature: Some(signature.clone()), ..coming.clone() }))])
    }

    /// The newest block that waits to be attested.
    pub fn due_checkpoint(&self) -> Option<Checkpoint> {
        let (height, block, state_root) = self.federation.due.last().copied()?;
        Some(Checkpoint { height, block, state_root })
    }

    pub(super) fn checkpoint(&self, c: &Checkpoint, signature: &GroupSignature) -> Result<Vec<Entry>, TxError> {
        let due: Vec<(u64, BlockHash, _)> = self.federation.due.clone();
        if !due.contains(&(c.height, c.block, c.state_root)) {
            return Err(TxError::WrongStatement);
        }
        self.attested(Statement::Checkpoint(*c), signature)?;
        let mut federation = self.federation.clone();
        federation.due.retain(|(height, ..)| *height > c.height);
        federation.checkpoint = c.height;
        let state = CheckpointState { checkpoint: *c, epoch: federation.epoch, signature: signature.clone() };
        Ok(vec![Entry::Federation(federation), Entry::Checkpoint(Box::new(state))])
    }

    // C1
    pub(super) fn apply_for(&self, who: NodeId, encryption: EncryptionKey, at: At) -> Result<Vec<Entry>, TxError> {
        let (status, since) = (ValidatorStatus::Applied, at.height);
        let applicant = match self.validators.get(&who) {
            Some(v) if v.status == ValidatorStatus::Active => return Err(TxError::SaidAlready),
            Some(v) if v.status == ValidatorStatus::Applied && Self::still_waits(v.since, at.height) => {
                return Err(TxError::SaidAlready);
            }
            // Shares are sealed to this key while older committees still have to release payments.
            Some(v) if v.encryption != encryption => return Err(TxError::WrongKey),
            // P8
            _ if !self.has_validator_place(at.height) => return Err(TxError::TooManyValidators),
            Some(v) => ValidatorState { status, since, ..v.clone() },
            None => ValidatorState { node: who, encryption, status, since, record: ServiceRecord::default() },
        };
        Ok(vec![Entry::Validator(Box::new(applicant))])
    }

    pub(super) fn membership(&self, m: &Membership, signature: &GroupSignature, at: At) -> Result<Vec<Entry>, TxError> {
        self.check_membership(m)?;
        self.attested(Statement::Membership(*m), signature)?;
        let mut draft = Draft::new(self, at);
        match m {
            Membership::Admit { node, .. } => {
                if let Some(v) = draft.validator(*node) {
                    (v.status, v.since) = (ValidatorStatus::Active, at.height);
                }
            }
            Membership::Evict { node, .. } => draft.remove(*node, ValidatorStatus::Evicted(Offence::Decision)),
        }
        Ok(draft.entries())
    }

    /// Whether a change of membership fits the ledger as it stands.
    ///
    /// # Errors
    /// What does not fit.
    pub fn check_membership(&self, m: &Membership) -> Result<(), TxError> {
        let (node, wanted, since) = match m {
            Membership::Admit { node, since, .. } => (node, ValidatorStatus::Applied, since),
            Membership::Evict { node, since } => (node, ValidatorStatus::Active, since),
        };
        let v = self.validators.get(node).ok_or(TxError::NoValidator(*node))?;
        let key = if let Membership::Admit { encryption, .. } = m { *encryption == v.encryption } else { true };
        if v.status == wanted && v.since == *since && key { Ok(()) } else { Err(TxError::WrongStatement) }
    }

    pub(super) fn leave(&self, who: NodeId, at: At) -> Result<Vec<Entry>, TxError> {
        let v = self.validators.get(&who).ok_or(TxError::NoValidator(who))?;
        if v.status != ValidatorStatus::Active {
            return Err(TxError::NoValidator(who));
        }
        let mut draft = Draft::new(self, at);
        draft.remove(who, ValidatorStatus::Left);
        Ok(draft.entries())
    }

    // C6
    pub(super) fn evidence(&self, evidence: &Evidence, at: At) -> Result<Vec<Entry>, TxError> {
        let (culprit, offence) = evidence.culprit(self).ok_or(TxError::ProvesNothing)?;
        self.evict(&[(culprit, offence)], at)
    }

    /// Evicts convicted validators.
    ///
    /// # Errors
    /// If none of them is active.
    pub(super) fn evict(&self, convicted: &[(NodeId, Offence)], at: At) -> Result<Vec<Entry>, TxError> {
        let mut draft = Draft::new(self, at);
        for (node, offence) in convicted {
            if draft.is_active(*node) {
                draft.remove(*node, ValidatorStatus::Evicted(*offence));
            }
        }
        let entries = draft.entries();
        if entries.is_empty() { Err(TxError::NotActive) } else { Ok(entries) }
    }

    /// Adds to service records and evicts, in one go.
    pub(super) fn book_service(
        &self,
        at: At,
        counts: &[(NodeId, Count)],
        convicted: &[(NodeId, Offence)],
    ) -> Vec<Entry> {
        let mut draft = Draft::new(self, at);
        for (node, add) in counts {
            draft.count(*node, add);
        }
        for (node, offence) in convicted {
            if draft.is_active(*node) {
                draft.remove(*node, ValidatorStatus::Evicted(*offence));
            }
        }
        draft.entries()
    }

    /// Members of the committee that seals and judges a model's round.
    pub fn judges(&self, model: ModelId) -> Option<&EpochState> {
        self.epoch_state(self.model(model)?.round.as_ref()?.judges?)
    }
}
