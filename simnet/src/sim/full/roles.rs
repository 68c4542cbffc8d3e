//! Lets the engines see what happened and does what they decide; the mempool.

use super::*;

impl Full {
    pub(super) fn state_changed(&mut self, env: &mut Env<'_>) {
        self.drive_validator(env, ValidatorInput::StateChanged);
        self.drive_sponsor(env, SponsorInput::StateChanged);
        for tx in self.funding_due() {
            self.submit(env, tx);
        }
        let status = self.state.validator(self.id).map(|v| v.status);
        if self.up && self.is_validator && status.is_none() && self.height().is_multiple_of(8) {
            self.submit(env, Tx::Apply(self.encryption.public()));
        }
    }

    pub(super) fn funding_due(&self) -> Vec<Tx> {
        let mut out = Vec::new();
        let Some(Payer { funding, .. }) = self.payer.as_ref().filter(|_| self.up) else { return out };
        for manifest in &funding.models {
            let model = self.state.model(manifest.id());
            if let Some(m) = model.filter(|m| m.added_by == self.id && m.guests != funding.guests) {
                let (model, turn, guests) = (manifest.id(), m.invitations + 1, funding.guests.clone());
                out.push(Tx::Invite(Invite { model, turn, guests }));
            }
            match model {
                None => out.push(Tx::AddModel(manifest.clone())),
                Some(m) if !m.sponsors.iter().any(|s| s.sponsor == self.id) => out.push(Tx::Fund(Fund {
                    model: manifest.id(),
                    terms: funding.terms,
                    budget_msat: funding.budget_msat,
                })),
                Some(_) => {}
            }
        }
        out
    }

    /// Gives the validator's engine an input and does what it decides.
    pub(in crate::sim) fn drive_validator(&mut self, env: &mut Env<'_>, input: ValidatorInput) {
        // C5: what it said of heights it had decided before a repair is not in its state any more
        if !self.is_validator || self.height() < self.silent_until() {
            return;
        }
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            if !self.up {
                return;
            }
            let state = self.state.clone();
            for effect in self.engine.handle(&state, input, &mut self.rng) {
                inputs.extend(self.validator_effect(env, effect));
                if !self.up {
                    return;
                }
            }
        }
    }

    pub(super) fn validator_effect(&mut self, env: &mut Env<'_>, effect: ValidatorEffect) -> Vec<ValidatorInput> {
        match effect {
            ValidatorEffect::Persist(r) => {
                let key = [b"score/", &r.outcome.model.0[..], &r.outcome.round.to_be_bytes(), &r.attempt.to_be_bytes()];
                self.write(&key.concat(), &codec::encode(r.as_ref()));
            }
            ValidatorEffect::LoadSeed { epoch, fresh } => {
                if fresh && self.seed(epoch).is_none() {
                    let seed = EpochSeed::random(&mut self.rng);
                    let Ok(sealed) = seed.seal(epoch, &self.encryption.public(), &mut self.rng) else {
                        return Vec::new();
                    };
                    if !self.write(&seed_key(epoch), &sealed) {
                        return Vec::new();
                    }
                }
                return self.seed(epoch).map(|seed| ValidatorInput::Seed(epoch, seed)).into_iter().collect();
            }
            ValidatorEffect::ForgetSeed(epoch) => {
                let result = self.disk.delete(&seed_key(epoch));
                self.written(result);
            }
            ValidatorEffect::Seat { epoch, group, share } => {
                let config = SignerConfig::default();
                self.signers.insert(epoch, Signer::new(self.id, *group, share, config));
                return self.sign(env, epoch, SignInput::Start);
            }
            ValidatorEffect::Unseat(epoch) => drop(self.signers.remove(&epoch)),
            ValidatorEffect::Sign(epoch, input) => return self.sign(env, epoch, input),
            ValidatorEffect::Tell(epoch, input, partial) => {
                self.out.push(Out::Committee(epoch, CommitteeMessage::Partial(input, partial)));
            }
            ValidatorEffect::Judge(job) => self.out.push(Out::Judge(job)),
            ValidatorEffect::Submit(tx) => self.submit(env, tx),
            ValidatorEffect::Blame { node, why } => *self.blamed.entry((node, why)).or_default() += 1,
        }
        Vec::new()
    }

    pub(super) fn sign(&mut self, env: &mut Env<'_>, epoch: u64, input: SignInput) -> Vec<ValidatorInput> {
        let Some(signer) = self.signers.get_mut(&epoch) else { return Vec::new() };
        let mut reports = Vec::new();
        let mut refused = Vec::new();
        for effect in signer.handle(input, env.now_ms, &mut self.rng) {
            match effect {
                SignEffect::Broadcast(message) => self.out.push(Out::Committee(epoch, CommitteeMessage::Sign(message))),
                SignEffect::Refused { why, .. } => refused.push(why.to_string()),
                report => reports.push(ValidatorInput::Signing(epoch, report)),
            }
        }
        refused.iter().for_each(|why| self.refuse(why));
        reports
    }

    /// Gives the sponsor's engine an input and does what it decides.
    pub(in crate::sim) fn drive_sponsor(&mut self, env: &mut Env<'_>, input: SponsorInput) {
        let state = self.state.clone();
        let Some(payer) = self.payer.as_mut().filter(|_| self.up) else { return };
        for effect in payer.engine.handle(&state, input, &mut self.rng) {
            match effect {
                SponsorEffect::Persist(r) => {
                    let key = [b"pay/", &r.escrow.0[..]].concat();
                    if !self.write(&key, &codec::encode(r.as_ref())) {
                        return;
                    }
                }
                SponsorEffect::Submit(tx) => self.submit(env, tx),
                SponsorEffect::Pay { bolt11, payment_hash, amount_msat } => {
                    let payee = self.payee(payment_hash);
                    self.out.push(Out::Pay { payee, bolt11, payment_hash, amount_msat });
                }
                SponsorEffect::RefuseInvoice(why) => self.refuse(why),
            }
        }
    }

    /// Whether this sponsor takes the fee of a claim now: not twice, and not if it would offer nothing.
    pub(in crate::sim) fn charge(&self, claim: ClaimId) -> bool {
        let Some(payer) = &self.payer else { return false };
        let admitted = |id: ClaimId| payer.admitted.contains(&id);
        !admitted(claim) && may_charge(&self.state, self.id, claim, admitted).is_ok()
    }

    /// The fee of a claim is paid.
    pub(in crate::sim) fn admit(&mut self, env: &mut Env<'_>, claim: ClaimId) {
        if self.write(&[b"fee/", &claim.0[..]].concat(), b"")
            && let Some(payer) = &mut self.payer
        {
            payer.admitted.insert(claim);
            payer.engine.admit(claim);
            self.drive_sponsor(env, SponsorInput::StateChanged);
        }
    }

    pub(super) fn payee(&self, hash: PaymentHash) -> Option<NodeId> {
        let records = self.payer.as_ref()?.engine.records();
        let mut found = records.filter(|r| r.parts.iter().any(|p| p.payment_hash == hash));
        found.next().map(|r| r.payee)
    }

    /// Signs a transaction and puts it to everybody.
    pub(in crate::sim) fn submit(&mut self, env: &mut Env<'_>, tx: Tx) {
        let signed = Rc::new(SignedTx::new(tx, &self.key, self.chain));
        if self.take(env, &signed) {
            self.out.push(Out::Tx(signed));
        }
    }

    /// Forgets a transaction that waits: what an attacker does not want in its own block.
    pub fn unsay(&mut self, id: TxId) {
        self.mempool.retain(|(tx, _)| tx.id() != id);
        self.waiting.remove(&id);
    }

    /// Takes a transaction as the mempool does: if it is valid now.
    pub(in crate::sim) fn take(&mut self, env: &mut Env<'_>, tx: &Rc<SignedTx>) -> bool {
        let id = tx.id();
        if self.waiting.contains(&id) || self.mempool.len() >= MAX_WAITING {
            return false;
        }
        if !env.ledgers.is_authentic(tx) {
            self.refuse("a transaction with a wrong signature");
            return false;
        }
        self.watch(env, tx);
        let state = self.state.clone();
        if !env.ledgers.fits(&state, tx, id) {
            return false;
        }
        self.waiting.insert(id);
        self.mempool.push((tx.clone(), self.height()));
        true
    }

    /// Who sees two different statements where one is allowed shows them to the ledger (C6).
    pub(super) fn watch(&mut self, env: &mut Env<'_>, tx: &Rc<SignedTx>) {
        let Some(slot) = tx.slot() else { return };
        if self.said.len() >= MAX_SAID {
            self.said.pop_first();
        }
        let first = self.said.entry((tx.signer, slot)).or_insert_with(|| tx.clone()).clone();
        let active = self.state.validator(tx.signer).is_some_and(|v| v.status == ValidatorStatus::Active);
        if first.tx != tx.tx && active && self.is_validator {
            let evidence = Evidence::Twice(codec::encode(first.as_ref()), codec::encode(tx.as_ref()));
            self.submit(env, Tx::Evidence(evidence));
        }
    }

    pub(super) fn refuse(&mut self, why: &str) {
        if self.refused.len() < 256 || self.refused.contains_key(why) {
            *self.refused.entry(why.to_owned()).or_default() += 1;
        }
    }
}
