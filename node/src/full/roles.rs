//! Lets the role engines see what happened and carries out what they decide.

use super::{Core, misbehave};
use crate::config::Lie;
use crate::net::{Topic, Verdict};
use crate::sponsor::WalletReport;
use anyhow::Result;
use oda_consensus::codec;
use oda_consensus::engine::sponsor::{SponsorEffect, SponsorInput};
use oda_consensus::engine::validator::{ValidatorEffect, ValidatorInput};
use oda_consensus::epoch::Membership;
use oda_consensus::frost::{SignEffect, SignInput, Signer, SignerConfig};
use oda_consensus::ids::{EscrowId, NodeId};
use oda_consensus::state::Entry;
use oda_consensus::state::ValidatorStatus;
use oda_consensus::tx::Tx;
use oda_consensus::wire::{CommitteeEnvelope, CommitteeMessage, Request, Response, SignedCommitteeEnvelope};
use std::collections::VecDeque;
use tokio::time::Instant;

/// Blocks between two applications of a node that the ledger does not know.
const APPLY_BLOCKS: u64 = 8;
/// Topics whose age is remembered, for the log.
const MAX_OPENED: usize = 1024;

impl Core {
    /// Tells the payees of escrows that the block changed, so that a payment does not wait for their next turn (P4).
    pub(super) fn tell_payees(&mut self, entries: &[Entry]) {
        if self.catching_up {
            return;
        }
        let connected = self.net.connected();
        for entry in entries {
            let Entry::Escrow(e) = entry else { continue };
            if connected.contains(&e.payee) {
                self.ask(e.payee, Request::Changed(e.id));
            }
            if let Some(sponsor) = &mut self.sponsor {
                sponsor.changed(e);
            }
        }
    }

    /// Gossip tells a message once; if whoever got it has died since, or nobody did, it would wait here for ever, for an
    /// engine that submits it again finds it waiting. So validators are asked to take it.
    pub(super) fn tell_again(&mut self, height: u64) {
        if self.catching_up {
            return;
        }
        let overdue = self.mempool.overdue(self.me, height);
        if overdue.is_empty() {
            return;
        }
        let validators = {
            let state = self.shared.state();
            let connected = self.net.connected().into_iter();
            connected.filter(|peer| state.validator(*peer).is_some()).collect::<Vec<_>>()
        };
        for peer in validators {
            for tx in &overdue {
                self.ask(peer, Request::SubmitTx(Box::new(tx.clone())));
            }
        }
    }

    /// After every applied block, and once at the start.
    pub(super) fn state_changed(&mut self) -> Result<()> {
        if self.catching_up {
            return Ok(());
        }
        // C5: what it said of heights it had decided before a repair is not in its state any more, and the seeds from which it
        // dealt may be deleted: said again, it would be something else
        if self.shared.state().tip().height >= self.ledger().voted_until() {
            self.drive_validator(ValidatorInput::StateChanged)?;
            self.vote_on_membership()?;
        }
        self.bring_deltas(true);
        self.drive_sponsor(SponsorInput::StateChanged)?;
        if let Some(sponsor) = &self.sponsor {
            let wanted = sponsor.due_transactions(&self.shared.state());
            for tx in wanted {
                self.submit(tx);
            }
        }
        if let Some(sponsor) = &mut self.sponsor {
            let planted = sponsor.plant(&self.shared.state(), &self.key, &mut self.rng)?;
            for tx in planted {
                if let Err(error) = self.submit_signed(tx) {
                    tracing::debug!(%error, "decoy not taken");
                }
            }
        }
        Ok(())
    }

    /// A validator that the ledger does not know asks to be admitted; one that is drawn votes as its
    /// operator says (C1).
    fn vote_on_membership(&mut self) -> Result<()> {
        let Some(duty) = &self.duty else { return Ok(()) };
        let (mut votes, mut apply) = (Vec::new(), false);
        {
            let state = self.shared.state();
            match state.validator(self.me).map(|v| v.status) {
                None => apply = state.tip().height.is_multiple_of(APPLY_BLOCKS),
                Some(ValidatorStatus::Evicted(offence)) if state.tip().height.is_multiple_of(APPLY_BLOCKS) => {
                    tracing::warn!(
                        ?offence,
                        "this validator was evicted; its operator has to settle that with the others"
                    );
                }
                _ => {}
            }
            for node in &duty.options.admit {
                if let Some(v) = state.validator(*node).filter(|v| v.status == ValidatorStatus::Applied) {
                    votes.push(Membership::Admit { node: *node, encryption: v.encryption, since: v.since });
                }
            }
            for node in &duty.options.evict {
                if let Some(v) = state.validator(*node).filter(|v| v.status == ValidatorStatus::Active) {
                    votes.push(Membership::Evict { node: *node, since: v.since });
                }
            }
        }
        if apply {
            self.submit(Tx::Apply(self.identity.encryption.public()));
        }
        votes.into_iter().try_for_each(|vote| self.drive_validator(ValidatorInput::Vote(vote)))
    }

    pub(super) fn drive_validator(&mut self, input: ValidatorInput) -> Result<()> {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let Some(duty) = &mut self.duty else { return Ok(()) };
            let lies = duty.options.misbehave.does(Lie::Misjudge);
            let input = if lies { misbehave::judge(input) } else { input };
            let effects = duty.engine.handle(&self.shared.state(), input, &mut self.rng);
            for effect in effects {
                inputs.extend(self.validator_effect(effect)?);
            }
        }
        Ok(())
    }

    fn validator_effect(&mut self, effect: ValidatorEffect) -> Result<Vec<ValidatorInput>> {
        let Some(duty) = &mut self.duty else { return Ok(Vec::new()) };
        match effect {
            ValidatorEffect::Persist(record) => duty.persist(&record)?,
            ValidatorEffect::LoadSeed { epoch, fresh } => {
                let secret = &self.identity.encryption;
                let seed = match crate::seeds::load(&self.datadir, epoch, secret)? {
                    None if fresh => Some(crate::seeds::create(&self.datadir, epoch, secret, &mut self.rng)?),
                    found => found,
                };
                match seed {
                    Some(seed) => return Ok(vec![ValidatorInput::Seed(epoch, seed)]),
                    None => tracing::warn!(epoch, "no key file for this epoch: this node cannot sign in it"),
                }
            }
            ValidatorEffect::ForgetSeed(epoch) => crate::seeds::forget(&self.datadir, epoch)?,
            ValidatorEffect::Seat { epoch, group, share } => {
                tracing::info!(epoch, members = group.members().len(), "seat in the committee");
                // a topic is opened when everybody can sign it, so a leader that is silent this long is down
                let config = SignerConfig { attempt_ms: 1_500, ..SignerConfig::default() };
                self.signers.insert(epoch, Signer::new(self.me, *group, share, config));
                return Ok(self.sign_effects(epoch, SignInput::Start));
            }
            ValidatorEffect::Unseat(epoch) => drop(self.signers.remove(&epoch)),
            ValidatorEffect::Sign(epoch, input) => return Ok(self.sign_effects(epoch, input)),
            ValidatorEffect::Tell(epoch, input, partial) => {
                self.tell(epoch, CommitteeMessage::Partial(input, partial));
            }
            ValidatorEffect::Judge(job) => {
                let trainers: Vec<NodeId> = job.claims.iter().map(|(_, trainer, _)| *trainer).collect();
                // a node that is down would cost every blob its time-out
                self.judges.start(*job, self.book.providers_among(&trainers, &self.net.connected()));
            }
            ValidatorEffect::Submit(tx) => self.submit(tx),
            ValidatorEffect::Blame { node, why } => tracing::warn!(member = %node.short(), why, "duty disturbed"),
        }
        Ok(Vec::new())
    }

    /// Feeds the signing engine of an epoch and passes its reports on to the validator's engine.
    pub(super) fn sign(&mut self, epoch: u64, input: SignInput) -> Result<()> {
        self.sign_effects(epoch, input).into_iter().try_for_each(|report| self.drive_validator(report))
    }

    /// Feeds the signing engine; broadcasts what it says, returns what it reports.
    fn sign_effects(&mut self, epoch: u64, input: SignInput) -> Vec<ValidatorInput> {
        let Some(signer) = self.signers.get_mut(&epoch) else { return Vec::new() };
        match &input {
            SignInput::Open { topic, .. } => {
                self.opened.entry((epoch, *topic)).or_insert_with(Instant::now);
                if self.opened.len() > MAX_OPENED {
                    self.opened.pop_first();
                }
            }
            SignInput::Close { topic } => drop(self.opened.remove(&(epoch, *topic))),
            _ => {}
        }
        let effects = signer.handle(input, crate::clock::now_ms(), &mut self.rng);
        let mut reports = Vec::new();
        for effect in effects {
            match effect {
                SignEffect::Broadcast(message) => {
                    let lies = self.duty.as_ref().is_some_and(|d| d.options.misbehave.does(Lie::ShareWithholder));
                    let message = if lies { misbehave::sign(message) } else { message };
                    self.tell(epoch, CommitteeMessage::Sign(message));
                }
                SignEffect::Refused { from, why } => {
                    tracing::debug!(from = %from.short(), %why, "signing message refused");
                    self.count_refused(&format!("signing: {why}"));
                }
                report => {
                    if let SignEffect::Signed { topic, .. } = &report
                        && let Some(since) = self.opened.remove(&(epoch, *topic))
                    {
                        let ms = since.elapsed().as_secs_f64() * 1e3;
                        tracing::debug!(epoch, %topic, ms, "signed"); // read by `testnet bench`
                    }
                    reports.push(ValidatorInput::Signing(epoch, report));
                }
            }
        }
        reports
    }

    /// Says something to the members of an epoch's committee.
    fn tell(&mut self, epoch: u64, message: CommitteeMessage) {
        let envelope = CommitteeEnvelope { from: self.me, epoch, message };
        let signature = self.key.sign(self.chain, &envelope);
        self.net.publish(Topic::Attest, codec::encode(&SignedCommitteeEnvelope { envelope, signature }));
    }

    /// A committee message from gossip; whether to pass it on (N1).
    pub(super) fn on_committee(&mut self, neighbour: NodeId, data: &[u8]) -> Result<Verdict> {
        let Ok(SignedCommitteeEnvelope { envelope, signature }) = codec::decode(data) else {
            return Ok(Verdict::Reject);
        };
        let (from, epoch) = (envelope.from, envelope.epoch);
        let (member, now) = {
            let state = self.shared.state();
            let members = state.epoch_state(epoch).map(|e| e.group.index_of(from).is_some());
            (members, state.current().number)
        };
        match member {
            // this node may be a block behind, or the key generation has begun again with others
            None => return Ok(Verdict::Ignore),
            Some(false) if epoch > now => return Ok(Verdict::Ignore),
            Some(false) => return Ok(Verdict::Reject),
            Some(true) if epoch.saturating_add(2) < now => return Ok(Verdict::Ignore),
            Some(true) => {}
        }
        if !from.verify(self.chain, &envelope, &signature) {
            return Ok(Verdict::Reject);
        }
        match envelope.message {
            CommitteeMessage::Partial(input, partial) => {
                self.drive_validator(ValidatorInput::Partial { from, epoch, input, partial })?;
            }
            CommitteeMessage::Sign(message) => {
                // a signer of an attempt that was given up knows other members
                let stale = self.signers.get(&epoch).is_some_and(|s| s.group().index_of(from).is_none());
                if stale {
                    return Ok(Verdict::Ignore);
                }
                let refused: u64 = self.refused.values().sum();
                self.sign(epoch, SignInput::Message { from, message, proof: signature })?;
                // blamed on its author alone: who passes it on cannot know
                if neighbour == from && self.refused.values().sum::<u64>() > refused {
                    return Ok(Verdict::Reject);
                }
            }
        }
        Ok(Verdict::Accept)
    }

    pub(super) fn drive_sponsor(&mut self, input: SponsorInput) -> Result<Option<&'static str>> {
        let Some(sponsor) = &mut self.sponsor else { return Ok(Some("this node is not a sponsor")) };
        let effects = sponsor.engine.handle(&self.shared.state(), input, &mut self.rng);
        let mut refusal = None;
        for effect in effects {
            let Some(sponsor) = &mut self.sponsor else { break };
            match effect {
                SponsorEffect::Persist(record) => {
                    sponsor.persist(&record)?;
                    crate::sponsor::payment_infos(&record).for_each(|p| self.shared.set_payment(p));
                    if let Some(escrow) = self.shared.state().escrow(record.escrow) {
                        sponsor.log_ends(escrow);
                    }
                }
                SponsorEffect::Submit(tx) => self.submit(tx),
                SponsorEffect::Pay { bolt11, payment_hash, amount_msat } => {
                    sponsor.pay(bolt11, payment_hash, amount_msat)
                }
                SponsorEffect::RefuseInvoice(why) => refusal = Some(why),
            }
        }
        Ok(refusal)
    }

    pub(super) fn on_invoice(&mut self, from: NodeId, escrow: EscrowId, tranche: u8, bolt11: String) -> Response {
        match self.drive_sponsor(SponsorInput::Invoice { from, escrow, tranche, bolt11 }) {
            Ok(None) => Response::Accepted,
            Ok(Some(why)) => Response::Refused(why.into()),
            Err(error) => Response::Refused(format!("{error:#}")),
        }
    }

    pub(super) fn on_wallet(&mut self, report: WalletReport) -> Result<()> {
        match report {
            WalletReport::Sent { payment_hash, fee_msat, done } => {
                self.drive_sponsor(SponsorInput::Sent { payment_hash, fee_msat })?;
                let _ = done.send(()); // handled only after it is persisted (P6)
            }
            WalletReport::SendFailed { payment_hash, done } => {
                self.drive_sponsor(SponsorInput::SendFailed { payment_hash })?;
                let _ = done.send(());
            }
            WalletReport::NotStarted { payment_hash, why } => {
                tracing::info!(hash = %payment_hash.short(), why, "payment not started; the trainer will ask again");
                self.drive_sponsor(SponsorInput::NotStarted { payment_hash })?;
            }
            WalletReport::Info(info) => self.shared.set_wallet(info),
        }
        Ok(())
    }
}
