//! Carries out what nodes want done: messages, training, replays, payments.

use super::*;

impl Sim {
    pub(super) fn carry_out(&mut self, from: Addr, out: Out) {
        let honest = self.is_honest(from);
        match out {
            Out::Bft(bytes) => {
                if honest {
                    self.checks.said_bft(self.now_ms, from, &bytes);
                }
                self.gossip(from, &Msg::Bft(Rc::new(bytes)));
            }
            Out::Committee(epoch, message) => {
                let Some(full) = self.full(from) else { return };
                let bytes = full.sealed(full.id, epoch, message.clone());
                let id = full.id;
                if honest {
                    self.checks.said_committee(self.now_ms, id, epoch, &message);
                } else {
                    self.checks.heard_committee(&message);
                }
                self.gossip(from, &Msg::Committee(bytes));
            }
            Out::Tx(tx) => {
                if honest && self.name(from) == Some(tx.signer) {
                    self.checks.said_tx(self.now_ms, &tx);
                }
                self.gossip(from, &Msg::Tx(tx));
            }
            Out::Block(decided) => self.gossip(from, &Msg::Block(decided)),
            Out::Ask(to, request) => {
                if honest && let Request::SubmitTx(tx) = request.as_ref() {
                    self.checks.said_tx(self.now_ms, tx);
                }
                self.send(from, to, Msg::Ask(request));
            }
            Out::AskSomebody(request) => {
                let fulls = self.fulls.len() as u64;
                let to = Addr(self.roles.below(fulls) as u32);
                if to != from {
                    self.send(from, to, Msg::Ask(request));
                }
            }
            Out::Tell(node, request) => {
                if let Some(to) = self.place(node) {
                    self.send(from, to, Msg::Ask(request));
                }
            }
            Out::Answer(to, request, response) => {
                if honest {
                    self.checks.answered(self.now_ms, self.name(to), &request, &response);
                }
                self.send(from, to, Msg::Answer(request, response));
            }
            Out::Raw(to, msg) => {
                if let Msg::Committee(bytes) = &msg
                    && let Ok(signed) = codec::decode::<SignedCommitteeEnvelope>(bytes)
                {
                    self.checks.heard_committee(&signed.envelope.message);
                }
                match to {
                    Some(to) => self.send(from, to, msg),
                    None => self.gossip(from, &msg),
                }
            }
            Out::Judge(job) => {
                let ms = 200 + self.roles.below(u64::from(self.scenario.block_interval_ms));
                let life = self.life(from);
                self.push(ms, Event::Judged { to: from, life, job });
            }
            Out::Train(job) => self.train(from, job),
            Out::Pay { payee, bolt11, payment_hash, amount_msat } => {
                self.pay(from, payee, &bolt11, payment_hash, amount_msat);
            }
            Out::Claim(hash, preimage) => {
                let paid = self.lightning.claim(from, hash, preimage);
                self.checks.claimed(self.now_ms, hash, paid);
                if paid {
                    let (ms, back) = (50 + self.roles.below(400), 50 + self.roles.below(400));
                    self.push(ms, Event::Received { to: from, hash });
                    if let Some(payer) = self.lightning.htlc(hash).map(|h| h.payer) {
                        self.push(back, Event::Ended { payer, hash, sent: true });
                    }
                }
            }
            Out::Fail(hash) => {
                if let Some(payer) = self.lightning.fail(from, hash, self.now_ms) {
                    let ms = 50 + self.roles.below(400);
                    self.push(ms, Event::Ended { payer, hash, sent: false });
                }
            }
            Out::Fee(claim) => self.pay_fee(from, claim),
            Out::Timer(in_ms, timer) => {
                let life = self.life(from);
                let serial = self.serial + 1;
                self.timers.insert((from, timer), serial);
                self.push(in_ms, Event::Timer { to: from, life, timer, serial });
            }
            Out::Cancel(timer) => drop(self.timers.remove(&(from, timer))),
            Out::CancelBft => {
                let is_bft = |t: &Timer| matches!(t, Timer::Bft(_) | Timer::StartHeight);
                self.timers.retain(|(addr, timer), _| *addr != from || !is_bft(timer));
            }
            Out::Committed(decided) => {
                let state = self.full(from).map(|f| f.state.clone());
                if let Some(state) = state {
                    let fresh = self.checks.committed(self.now_ms, from, &decided, &state, honest);
                    if fresh {
                        self.trace.update(&state.tip().hash.0);
                        self.decided(&decided);
                    }
                }
            }
            Out::Stopped => {
                self.checks.say(self.now_ms, || format!("disk       node {} stops", from.0));
                self.checks.stopped += 1;
                let ms = self.faults.repair_ms();
                self.push(ms, Event::Start(from));
            }
            Out::Broken(why) => {
                if honest {
                    self.checks.broken(self.now_ms, from, why);
                }
            }
            Out::Report(claim, phase, note) => self.checks.report(self.now_ms, from, claim, phase, &note),
        }
    }

    /// A block is decided for the first time: what the checks and the gossip of the world want to know of it.
    pub(super) fn decided(&mut self, decided: &DecidedBlock) {
        for tx in &decided.block.txs {
            if let Tx::Reveal(reveal) = &tx.tx {
                self.checks.note_reveal(reveal, &self.blobs.owners);
            }
        }
        self.checks.after_block(self.now_ms, &self.lightning, &self.names, &self.bad);
    }

    pub(super) fn gossip(&mut self, from: Addr, msg: &Msg) {
        // who joins the gossip hears it, whether it is a full node or not; only outsiders do so without being one
        let listening = self.bad.values().filter(|b| b.listens).map(|b| b.addr);
        let fulls = (0..self.fulls.len() as u32).map(Addr);
        for to in fulls.chain(listening).filter(|to| *to != from).collect::<Vec<_>>() {
            self.send(from, to, msg.clone());
        }
    }

    pub(super) fn send(&mut self, from: Addr, to: Addr, msg: Msg) {
        for ms in self.net.deliveries(from, to, self.now_ms) {
            self.push(ms, Event::Deliver { to, from, msg: msg.clone() });
        }
    }

    pub(super) fn train(&mut self, from: Addr, job: Box<TrainJob>) {
        let work = match (self.bad.contains_key(&from), self.settling) {
            (true, false) => self.with_bad(from, |attacker, desk| attacker.work(desk, &job)).flatten(),
            // when attacks are over, hostile trainers hand in nothing: it would count as theirs
            (true, true) => None,
            (false, _) => Some(Work::Honest),
        };
        let Some(work) = work else { return };
        // an honest run takes about a third of the time in which commits are taken
        let window = u64::from(job.manifest.timing.commit_blocks) * u64::from(self.scenario.block_interval_ms);
        let ms = window / 6 + self.roles.below((window / 3).max(1));
        let life = self.life(from);
        self.push(ms, Event::Trained { to: from, life, job, work });
    }

    pub(super) fn trained(&mut self, to: Addr, job: &TrainJob, work: &Work) {
        let Some(trainer) = self.name(to) else { return };
        let made = self.learning.train(job, trainer, work);
        self.blobs.owners.insert(made.delta.hash, to);
        self.checks.trained(self.now_ms, (to, self.is_honest(to)), job, work, &made);
        if let Some(lite) = self.lite_mut(to) {
            lite.work_milli += u64::from(made.cost_milli);
        }
        self.with_bad(to, |attacker, desk| attacker.trained(desk, job, &made));
        let (model, round, delta, stated_gain_unat) = (job.model, job.round, made.delta, made.stated_gain_unat);
        let input = TrainerInput::Trained { model, round, delta, stated_gain_unat };
        self.on_lite(to, |lite, env| lite.drive(env, input));
    }

    pub(super) fn judged(&mut self, to: Addr, job: &JudgeJob) {
        let served: BTreeSet<BlobHash> = job
            .claims
            .iter()
            .filter_map(|(_, _, r)| r.as_ref())
            .map(|r| r.delta.hash)
            .filter(|b| self.serve(*b, to))
            .collect();
        let validator = u64::from(to.0);
        let judged = self.learning.replay(job, &|blob| served.contains(&blob), validator);
        let judged = if self.bad.contains_key(&to) && !self.settling {
            self.with_bad(to, |attacker, desk| attacker.judged(desk, judged)).flatten()
        } else {
            Some(judged)
        };
        let input = match judged {
            Some(judged) => ValidatorInput::Judged(judged),
            None => ValidatorInput::JudgeFailed { model: job.model, round: job.round },
        };
        self.on_full(to, |full, env| full.drive_validator(env, input));
    }

    /// Whether a full node can fetch a blob now.
    pub(super) fn serve(&mut self, blob: BlobHash, to: Addr) -> bool {
        let now_ms = self.now_ms;
        let copies = self.blobs.copies.get(&blob).cloned().unwrap_or_default();
        let near =
            |s: &Self, from: Addr| s.is_up(from) && s.net.reaches(from, to, now_ms) && s.net.reaches(to, from, now_ms);
        let from_full = copies.contains(&to) || copies.iter().any(|c| self.is_honest(*c) && near(self, *c));
        let from_owner = || -> bool {
            let Some(owner) = self.blobs.owners.get(&blob).copied() else { return false };
            near(self, owner) && (self.settling || self.bad.get(&owner).is_none_or(|b| b.attacker.serves(blob, to)))
        };
        let found = from_full || from_owner();
        if found {
            self.blobs.copies.entry(blob).or_default().insert(to);
        }
        found
    }

    pub(super) fn pay(
        &mut self,
        payer: Addr,
        payee: Option<NodeId>,
        bolt11: &str,
        hash: PaymentHash,
        amount_msat: u64,
    ) {
        let Some(to) = payee.and_then(|n| self.place(n)) else { return };
        if self.is_honest(payer)
            && self.lightning.htlc(hash).is_some_and(|h| matches!(h.fate, lightning::Fate::Claimed(_)))
        {
            self.checks.violated(self.now_ms, "money", format!("node {} pays again what was paid", payer.0));
        }
        match self.lightning.pay(payer, to, bolt11, (hash, amount_msat), self.now_ms) {
            Ok(()) => {
                let ms = 100 + self.roles.below(600);
                self.push(ms, Event::Held { to, hash });
            }
            Err(NotPaid::Known) => {}
            Err(NotPaid::NoRoute | NotPaid::WrongInvoice) => drop(self.push(50, Event::NotStarted { payer, hash })),
        }
    }

    /// P8: the fee of a claim, over L402: paid once, and only if the sponsor would offer payment for it.
    pub(super) fn pay_fee(&mut self, from: Addr, claim: ClaimId) {
        let fee_msat = self.scenario.fee_msat;
        let ledger = self.checks.ledger();
        let Some(model) = ledger.claim(claim).and_then(|c| ledger.model(c.model)) else { return };
        let sponsor = model.sponsors.first().and_then(|s| self.place(s.sponsor));
        let Some(to) = sponsor.filter(|to| fee_msat > 0 && self.is_up(*to)) else { return };
        let near = self.net.reaches(from, to, self.now_ms) && self.net.reaches(to, from, self.now_ms);
        let charged = self.fulls.get_mut(to.0 as usize).is_some_and(|full| near && full.charge(claim));
        if charged {
            self.lightning.transfer(from, to, fee_msat);
            self.on_full(to, |full, env| full.admit(env, claim));
        }
    }
}
