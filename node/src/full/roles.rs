//! Lets the role engines see what happened and carries out what they decide.

use super::Core;
use crate::net::Topic;
use crate::sponsor::WalletReport;
use anyhow::Result;
use oda_consensus::codec;
use oda_consensus::engine::sponsor::{SponsorEffect, SponsorInput};
use oda_consensus::engine::validator::{ValidatorEffect, ValidatorInput};
use oda_consensus::frost::{SignEffect, SignInput};
use oda_consensus::ids::{EscrowId, NodeId};
use oda_consensus::wire::{Response, SignEnvelope, SignedSignEnvelope};
use std::collections::VecDeque;

impl Core {
    /// After every applied block, and once at the start.
    pub(super) fn state_changed(&mut self) -> Result<()> {
        self.drive_validator(ValidatorInput::StateChanged);
        self.drive_sponsor(SponsorInput::StateChanged)?;
        if let Some(sponsor) = &self.sponsor {
            let wanted = sponsor.due_transactions(&self.shared.state());
            for tx in wanted {
                self.submit(tx);
            }
        }
        Ok(())
    }

    pub(super) fn drive_validator(&mut self, input: ValidatorInput) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let Some(validator) = &mut self.validator else { return };
            let effects = validator.handle(&self.shared.state(), input);
            for effect in effects {
                match effect {
                    ValidatorEffect::Sign(input) => {
                        inputs.extend(self.sign_effects(input).into_iter().map(ValidatorInput::Signing))
                    }
                    ValidatorEffect::Judge(job) => {
                        let mut preferred: Vec<NodeId> = job.claims.iter().map(|(_, trainer, _)| *trainer).collect();
                        preferred.extend(self.shared.state().validators());
                        self.judges.start(*job, self.book.providers(&preferred));
                    }
                    ValidatorEffect::Submit(tx) => self.submit(tx),
                    ValidatorEffect::Blame { node, why } => {
                        tracing::warn!(member = %node.short(), why, "signing disturbed")
                    }
                }
            }
        }
    }

    /// Feeds the signing engine and passes its reports on to the judging engine.
    pub(super) fn sign(&mut self, input: SignInput) {
        for effect in self.sign_effects(input) {
            self.drive_validator(ValidatorInput::Signing(effect));
        }
    }

    /// Feeds the signing engine; broadcasts what it says, returns what it reports.
    fn sign_effects(&mut self, input: SignInput) -> Vec<SignEffect> {
        let Some(signer) = &mut self.signer else { return Vec::new() };
        let effects = signer.handle(input, crate::clock::now_ms(), &mut self.rng);
        let mut reports = Vec::new();
        for effect in effects {
            match effect {
                SignEffect::Broadcast(message) => {
                    let envelope = SignEnvelope { from: self.me, message };
                    let signature = self.key.sign(self.chain, &envelope);
                    self.net.publish(Topic::Attest, codec::encode(&SignedSignEnvelope { envelope, signature }));
                }
                report => reports.push(report),
            }
        }
        reports
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
                    self.shared.set_payment(crate::sponsor::payment_info(&record));
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

    pub(super) fn on_invoice(&mut self, from: NodeId, escrow: EscrowId, bolt11: String) -> Response {
        match self.drive_sponsor(SponsorInput::Invoice { from, escrow, bolt11 }) {
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
