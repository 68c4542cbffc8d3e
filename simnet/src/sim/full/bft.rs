//! Tendermint with its log, timers and proposals, and what a decision leads to (L1).

use super::*;

impl Full {
    pub(super) fn votes_now(&self) -> bool {
        let seated = self.is_validator && self.state.group().index_of(self.id).is_some();
        seated && self.height() >= self.silent_until()
    }

    pub(super) fn start_height(&mut self, env: &mut Env<'_>) {
        if !self.up || !self.votes_now() {
            return;
        }
        self.height_started_ms = env.now_ms;
        let (height, validators) = (self.height() + 1, self.state.validators());
        if self.bft.is_some() {
            return self.drive_bft(env, BftInput::StartHeight { height, validators });
        }
        let wal = self.disk.wal(height).unwrap_or_default();
        let config = BftConfig { key: self.key.clone(), chain: self.chain, timeouts: Timeouts::default() };
        let Ok(mut bft) = Bft::new(config, height, &validators) else { return };
        // a damaged log never votes: the node waits for the decided block (C5)
        let Ok(effects) = bft.replay(&wal) else { return };
        self.bft = Some(bft);
        self.carry_out(env, effects);
    }

    pub(super) fn drive_bft(&mut self, env: &mut Env<'_>, input: BftInput) {
        let Some(bft) = &mut self.bft else { return };
        match bft.handle(input) {
            Ok(effects) => self.carry_out(env, effects),
            Err(BftError::Malformed(_)) => self.refuse("bft: malformed"),
            Err(BftError::Refused(why)) => self.refuse(why),
            Err(_) => {}
        }
    }

    pub(super) fn carry_out(&mut self, env: &mut Env<'_>, effects: Vec<BftEffect>) {
        let mut effects = VecDeque::from(effects);
        let mut answers = VecDeque::new();
        loop {
            while let Some(effect) = effects.pop_front() {
                self.bft_effect(env, effect, &mut answers);
                if !self.up {
                    return;
                }
            }
            let (Some(answer), Some(bft)) = (answers.pop_front(), &mut self.bft) else { return };
            effects.extend(bft.handle(answer).unwrap_or_default());
        }
    }

    pub(super) fn bft_effect(&mut self, env: &mut Env<'_>, effect: BftEffect, answers: &mut VecDeque<BftInput>) {
        match effect {
            BftEffect::WalAppend { height, .. } if height <= self.height() => {}
            BftEffect::WalAppend { height, entry } => {
                let result = if self.full_disk {
                    Err(StoreError::Injected { write: 0 })
                } else {
                    self.disk.wal_append(height, &entry)
                };
                self.written(result);
            }
            BftEffect::Publish(bytes) => self.out.push(Out::Bft(bytes)),
            BftEffect::ScheduleTimeout { token, after_ms } => self.out.push(Out::Timer(after_ms, Timer::Bft(token))),
            BftEffect::CancelTimeout(token) => self.out.push(Out::Cancel(Timer::Bft(token))),
            BftEffect::CancelTimeouts => self.out.push(Out::CancelBft),
            BftEffect::NeedBlock { height, round, .. } if height == self.height() + 1 => {
                let candidates: Vec<SignedTx> = self.mempool.iter().map(|(tx, _)| (**tx).clone()).collect();
                let (block, _) = self.state.build(&candidates, self.clock(env));
                if let Err(error) = env.ledgers.apply(&self.state, &block) {
                    self.out.push(Out::Broken(format!("its own block {height} does not apply: {error}")));
                }
                answers.push_back(BftInput::Propose { height, round, block: codec::encode(&block) });
            }
            BftEffect::NeedBlock { .. } => {}
            BftEffect::ValidateBlock { height, block, block_id, .. } => {
                let valid = self.is_valid_proposal(env, height, &block);
                answers.push_back(BftInput::Validated { height, block_id, valid });
            }
            BftEffect::Decided { height, .. } if height <= self.height() => {}
            BftEffect::Decided { height, round, block, certificate } => {
                let Ok(block) = codec::decode::<Block>(&block) else { return };
                let first = proposer(&self.state.validators(), height, round) == Some(self.id);
                let decided = Rc::new(DecidedBlock { block, certificate });
                if first {
                    self.out.push(Out::Block(decided.clone()));
                }
                if !self.commit(env, &decided) {
                    return;
                }
                let due = (self.height_started_ms + env.block_ms).saturating_sub(env.now_ms);
                self.out.push(Out::Timer(due, Timer::StartHeight));
            }
            BftEffect::Evidence(evidence) => {
                self.drive_validator(env, ValidatorInput::Equivocation(evidence));
            }
            BftEffect::Fault { reason } => self.refuse(&reason),
        }
    }

    pub(super) fn is_valid_proposal(&mut self, env: &mut Env<'_>, height: u64, bytes: &[u8]) -> bool {
        let Ok(block) = codec::decode::<Block>(bytes) else { return false };
        let ahead = self.clock(env).saturating_add(MAX_AHEAD_MS);
        block.header.height == height && block.header.time_ms <= ahead && env.ledgers.apply(&self.state, &block).is_ok()
    }

    pub(super) fn commit(&mut self, env: &mut Env<'_>, decided: &Rc<DecidedBlock>) -> bool {
        let step = match env.ledgers.apply(&self.state, &decided.block) {
            Ok(step) => step,
            Err(error) => {
                self.out.push(Out::Broken(format!("a decided block does not apply: {error}")));
                return false;
            }
        };
        let record = Ledgers::record(decided, &step);
        let result = if self.full_disk {
            Err(StoreError::Injected { write: 0 })
        } else {
            self.disk.append(&record, &step.changes)
        };
        if !self.written(result) {
            return false;
        }
        self.state = step.state.clone();
        self.out.push(Out::Committed(decided.clone()));
        let included: BTreeSet<TxId> = decided.block.txs.iter().map(SignedTx::id).collect();
        let state = self.state.clone();
        self.mempool.retain(|(tx, _)| {
            let id = tx.id();
            !included.contains(&id) && env.ledgers.fits(&state, tx, id)
        });
        self.waiting = self.mempool.iter().map(|(tx, _)| tx.id()).collect();
        self.tell_again();
        for (escrow, payee) in &step.escrows {
            self.out.push(Out::Tell(*payee, Rc::new(Request::Changed(*escrow))));
        }
        self.state_changed(env);
        self.up
    }

    /// As the node does: what waits for some blocks is told again.
    pub(super) fn tell_again(&mut self) {
        let height = self.height();
        let due = |since: u64| height > since && (height - since).is_multiple_of(TELL_AGAIN_BLOCKS);
        let overdue = self.mempool.iter().filter(|(tx, since)| tx.signer == self.id && due(*since));
        self.out.extend(overdue.map(|(tx, _)| Out::Tx(tx.clone())));
    }

    pub(super) fn take_decided(&mut self, env: &mut Env<'_>, decided: &Rc<DecidedBlock>) -> bool {
        if decided.block.header.height != self.height() + 1 {
            return false;
        }
        if !env.ledgers.is_certified(decided, &self.state.validators()) {
            self.refuse("a block without its certificate");
            return false;
        }
        if !self.commit(env, decided) {
            return false;
        }
        if self.is_validator {
            self.out.push(Out::CancelBft);
            self.out.push(Out::Timer(0, Timer::StartHeight));
        }
        true
    }
}
