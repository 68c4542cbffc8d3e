//! Answers Malachite's effects: signs and verifies on the spot, hands everything else to the host.

use super::certificate::{CommitCertificate, Evidence, Needed, verify_votes};
use super::ctx::{Ctx, Validators};
use super::proved::Proved;
use super::wire::{Message, SignedHeader, SignedVote, Step, WalEntry};
use super::{BftConfig, BftEffect, Seen, TimeoutToken};
use crate::codec;
use crate::ids::BlockHash;
use arc_malachitebft_core_consensus as tendermint;
use arc_malachitebft_core_types as mala;
use mala::{Round, SignedMessage, ValidatorSet, Value as _};
use std::collections::{BTreeMap, BTreeSet};
use tendermint::{ConsensusMsg, Effect, Input, LivenessMsg, Resumable, Resume, SignedConsensusMsg};

pub(super) struct Handler<'a> {
    pub(super) config: &'a BftConfig,
    pub(super) height: u64,
    pub(super) seen: &'a mut BTreeMap<BlockHash, Seen>,
    pub(super) own_proposal: &'a mut Option<(Round, Vec<u8>)>,
    pub(super) proved: &'a mut Proved,
    pub(super) out: &'a mut Vec<BftEffect>,
    pub(super) forged: bool,
}

type Verdict = Result<(), mala::CertificateError<Ctx>>;

#[expect(clippy::result_large_err, reason = "Malachite's error type")]
impl Handler<'_> {
    pub(super) fn on(&mut self, effect: Effect<Ctx>) -> Resume<Ctx> {
        match effect {
            Effect::CancelAllTimeouts(r) => {
                self.out.push(BftEffect::CancelTimeouts);
                r.resume_with(())
            }
            Effect::CancelTimeout(timeout, r) => {
                self.out.extend(self.token(timeout).map(BftEffect::CancelTimeout));
                r.resume_with(())
            }
            Effect::ScheduleTimeout(timeout, r) => {
                let after_ms = self.config.timeouts.after_ms(timeout);
                self.out.extend(self.token(timeout).map(|token| BftEffect::ScheduleTimeout { token, after_ms }));
                r.resume_with(())
            }
            Effect::StartRound(.., r) => r.resume_with(()),
            Effect::PublishConsensusMsg(SignedConsensusMsg::Vote(vote), r) | Effect::RepublishVote(vote, r) => {
                self.publish(&Message::Vote(SignedVote::of(vote)));
                r.resume_with(())
            }
            Effect::PublishConsensusMsg(SignedConsensusMsg::Proposal(proposal), r) => {
                self.publish(&Message::of_proposal(&proposal));
                r.resume_with(())
            }
            Effect::PublishLivenessMsg(message, r) => {
                self.publish(&match message {
                    LivenessMsg::Vote(vote) => Message::Vote(SignedVote::of(vote)),
                    LivenessMsg::PolkaCertificate(polka) => Message::of_polka(&polka),
                    LivenessMsg::SkipRoundCertificate(round) => Message::of_round(&round),
                });
                r.resume_with(())
            }
            Effect::RepublishRoundCertificate(round, r) => {
                self.publish(&Message::of_round(&round));
                r.resume_with(())
            }
            Effect::GetValue(height, round, timeout, r) => {
                let within_ms = self.config.timeouts.after_ms(timeout);
                let round = round.as_u32().unwrap_or(0);
                self.out.push(BftEffect::NeedBlock { height: height.0, round, within_ms });
                r.resume_with(())
            }
            // The proposal that follows carries the whole block.
            Effect::RestreamProposal(.., r) => r.resume_with(()),
            Effect::WalAppend(height, input, r) => {
                self.log(height.0, &input);
                r.resume_with(())
            }
            Effect::Decide(certificate, _, r) => {
                self.decided(certificate);
                r.resume_with(())
            }
            Effect::Finalize(_, _, evidence, r) => {
                report(evidence.votes, evidence.proposals, self.out);
                r.resume_with(())
            }
            Effect::SignVote(vote, r) => {
                // In memory only: the engine logs it (P6) before it asks to publish it.
                let signature = self.config.key.sign(self.config.chain, &vote);
                r.resume_with(SignedMessage::new(vote, signature))
            }
            Effect::SignProposal(proposal, r) => {
                let signature = self.config.key.sign(self.config.chain, &proposal.header());
                r.resume_with(SignedMessage::new(proposal, signature))
            }
            Effect::VerifySignature(SignedMessage { message, signature }, _, r) => {
                // The engine looked the key up by the signer's name, and here they are the same.
                let holds = match message {
                    ConsensusMsg::Vote(vote) => self.proved.vote(self.config.chain, &SignedVote { vote, signature }),
                    ConsensusMsg::Proposal(p) => {
                        self.proved.proposal(self.config.chain, &SignedHeader { header: p.header(), signature })
                    }
                };
                self.forged |= !holds;
                r.resume_with(holds)
            }
            Effect::VerifyCommitCertificate(c, set, _, r) => {
                let precommit = |s: mala::CommitSignature<Ctx>| {
                    let block = mala::NilOrVal::Val(c.value_id);
                    let vote = mala::Context::new_precommit(&Ctx, c.height, c.round, block, s.address);
                    SignedVote { vote, signature: s.signature }
                };
                r.resume_with(self.verify(&set, c.commit_signatures.into_iter().map(precommit), Needed::Quorum))
            }
            Effect::VerifyPolkaCertificate(polka, set, _, r) => {
                r.resume_with(self.verify(&set, polka.votes(&Ctx).map(SignedVote::of), Needed::Quorum))
            }
            Effect::VerifyRoundCertificate(round, set, _, r) => r.resume_with(self.verify_round(&round, &set)),
            // Below: blocks decided elsewhere come through the host, and vote extensions are disabled.
            Effect::CertVerifiedSyncValue(.., r) => r.resume_with(()),
            Effect::CertRejectedSyncValue(.., r) => r.resume_with(()),
            Effect::VerifyExtendedCommitCertificate(.., r) => {
                r.resume_with(Err(mala::CertificateError::VerificationError(None)))
            }
            Effect::ExtendVote(.., r) => r.resume_with(None),
            Effect::VerifyVoteExtension(.., r) => {
                r.resume_with(Err(tendermint::VoteExtensionError::InvalidVoteExtension))
            }
        }
    }

    fn token(&self, timeout: mala::Timeout) -> Option<TimeoutToken> {
        let (round, step) = (timeout.round.as_u32()?, Step::of(timeout.kind)?);
        Some(TimeoutToken { height: self.height, round, step })
    }

    fn publish(&mut self, message: &Message) {
        self.out.push(BftEffect::Publish(codec::encode(message)));
    }

    /// Everything the engine acts on passes here first, so this is also where blocks become known.
    fn log(&mut self, height: u64, input: &Input<Ctx>) {
        let Some(entry) = WalEntry::of(input) else {
            self.out.push(BftEffect::Fault { reason: "the engine logs an unknown kind of input".into() });
            return;
        };
        self.out.push(BftEffect::WalAppend { height, entry: codec::encode(&entry) });
        match input {
            Input::Proposal(signed) => {
                let p = &signed.message;
                if p.proposer == self.config.key.id() {
                    *self.own_proposal = Some((p.round, codec::encode(&Message::of_proposal(signed))));
                }
                if let std::collections::btree_map::Entry::Vacant(unknown) = self.seen.entry(p.block.id()) {
                    unknown.insert(Seen { block: p.block.clone(), round: p.round, proposer: p.proposer, valid: None });
                    self.out.push(BftEffect::ValidateBlock {
                        height,
                        round: p.round.as_u32().unwrap_or(0),
                        proposer: p.proposer,
                        block: p.block.bytes(),
                        block_id: p.block.id(),
                    });
                }
            }
            Input::ProposedValue(v, _) => {
                let fresh = Seen { block: v.value.clone(), round: v.round, proposer: v.proposer, valid: None };
                self.seen.entry(v.value.id()).or_insert(fresh).valid = Some(v.validity.is_valid());
            }
            _ => {}
        }
    }

    fn decided(&mut self, c: mala::CommitCertificate<Ctx>) {
        let Some(seen) = self.seen.get(&c.value_id) else {
            self.out.push(BftEffect::Fault { reason: format!("decided {} without its bytes", c.value_id) });
            return;
        };
        let (height, round) = (c.height.0, c.round.as_u32().unwrap_or(0));
        let signatures = c.commit_signatures.into_iter().map(|s| (s.address, s.signature)).collect();
        let certificate = CommitCertificate { height, round, block: c.value_id, signatures };
        self.out.push(BftEffect::Decided { height, round, block: seen.block.bytes(), certificate });
    }

    fn verify_round(&mut self, round: &mala::RoundCertificate<Ctx>, set: &Validators) -> Verdict {
        let needed = match round.cert_type {
            mala::RoundCertificateType::Skip => Needed::OneHonest,
            mala::RoundCertificateType::Precommit => {
                let wrong = |s: &&mala::RoundSignature<Ctx>| s.vote_type != mala::VoteType::Precommit;
                if let Some(s) = round.round_signatures.iter().find(wrong) {
                    self.forged = true;
                    return Err(mala::CertificateError::InvalidVoteType(s.address));
                }
                Needed::Quorum
            }
        };
        self.verify(set, round.votes(&Ctx).map(SignedVote::of), needed)
    }

    fn verify(&mut self, set: &Validators, votes: impl Iterator<Item = SignedVote>, needed: Needed) -> Verdict {
        let validators: BTreeSet<_> = set.iter().map(|v| *mala::Validator::address(v)).collect();
        let chain = self.config.chain;
        verify_votes(&validators, votes, needed, |vote| self.proved.vote(chain, vote)).map_err(|e| {
            self.forged = true;
            mala::CertificateError::VerificationError(Some(mala::BoxError::from(
                Box::new(e) as Box<dyn std::error::Error + Send + Sync>
            )))
        })
    }
}

/// Hands collected evidence to the host. Malachite keeps at most three pairs a validator.
pub(super) fn report(
    votes: impl IntoIterator<Item = (crate::ids::NodeId, Vec<mala::DoubleVote<Ctx>>)>,
    proposals: impl IntoIterator<Item = (crate::ids::NodeId, Vec<mala::DoubleProposal<Ctx>>)>,
    out: &mut Vec<BftEffect>,
) {
    out.extend(
        votes.into_iter().flat_map(|(_, pairs)| pairs).map(|p| BftEffect::Evidence(Box::new(Evidence::of_votes(p)))),
    );
    let pairs = proposals.into_iter().flat_map(|(_, pairs)| pairs);
    out.extend(pairs.map(|p| BftEffect::Evidence(Box::new(Evidence::of_proposals(&p)))));
}
