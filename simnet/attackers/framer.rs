//! Wants honest members evicted: forges what would convict them, and provokes what could look like guilt.
//!
//! With one honest member less its own weight grows, and the next draw is likelier to name it. It makes statements in
//! its victim's name, pairs true statements with altered copies, shows true signature shares with other requests, says
//! in key generations that every dealer cheated, and as a coordinator mixes up the commitments it sends.

use super::{Attacker, Desk, Kind, Role};
use crate::sim::{Addr, Msg, Out};
use arc_malachitebft_core_types::{NilOrVal, Round, VoteType};
use oda_consensus::bft::{self, Height, SignedVote, Vote};
use oda_consensus::codec;
use oda_consensus::evidence::Evidence;
use oda_consensus::frost::{Chosen, SessionId, ShareEvidence, SignMessage};
use oda_consensus::ids::{BlockHash, Digest, ModelId, NodeId, Signature};
use oda_consensus::tx::{DkgMessage, DkgStep, ScoreCommit, SignedTx, Tx};
use oda_consensus::wire::{CommitteeEnvelope, CommitteeMessage, SignedCommitteeEnvelope};

pub(super) const KIND: Kind = Kind {
    name: "framer",
    rows: &[12],
    role: Role::Validator,
    names: 1,
    goal: "have honest validators evicted",
    gain: "a larger share of the committee for itself and its friends",
    stopped_by: "C6: whatever convicts carries the culprit's own signature over exactly that; C4: a member finds its own \
                 commitments in a request before it answers; C2: a complaint is answered by opening one share",
    left: "each false complaint costs its dealer one transaction, and is counted",
    make: || Box::new(Framer::default()),
};

#[derive(Default)]
struct Framer {
    request: Option<(SessionId, Vec<u8>, Vec<Chosen>)>,
    shares: Vec<(CommitteeEnvelope, Signature)>,
    said: Vec<SignedTx>,
}

const KEPT: usize = 64;

impl Framer {
    fn forged(&self, desk: &mut Desk<'_>, victim: NodeId, kind: u64) -> Option<Evidence> {
        let score = |n: u8| {
            let (model, commitment) = (ModelId([9; 32]), Digest([n; 32]));
            Tx::Score(ScoreCommit { model, round: 1, attempt: 0, commitment })
        };
        Some(match kind {
            // two statements made up, and signed with the wrong key
            0 => {
                let made = |n| SignedTx { signer: victim, ..desk.signed(score(n)).as_ref().clone() };
                Evidence::Twice(codec::encode(&made(1)), codec::encode(&made(2)))
            }
            // a true statement, and the same altered
            1 => {
                let said = self.said.iter().find(|tx| tx.signer == victim)?;
                let Tx::Score(commit) = said.tx else { return None };
                let other = Tx::Score(ScoreCommit { commitment: Digest([3; 32]), ..commit });
                Evidence::Twice(codec::encode(said), codec::encode(&SignedTx { tx: other, ..said.clone() }))
            }
            2 => {
                let vote = |n: u8| {
                    let (kind, round) = (VoteType::Precommit, Round::new(0));
                    let (height, block) = (Height(desk.state.tip().height + 1), NilOrVal::Val(BlockHash([n; 32])));
                    let vote = Vote { kind, height, round, block, voter: victim };
                    SignedVote { signature: desk.key.sign(desk.chain, &vote), vote }
                };
                Evidence::Bft(Box::new(bft::Evidence::Votes(vote(1), vote(2))))
            }
            // a true package of somebody, as if it were the victim's
            3 => {
                let deal = self.said.iter().find(|tx| tx.kind() == "dkg-deal" && tx.signer != victim)?;
                Evidence::BadDeal(codec::encode(&SignedTx { signer: victim, ..deal.clone() }))
            }
            // a true share, and another request than it answers
            _ => {
                let (envelope, signature) = self.shares.iter().find(|(e, _)| e.from == victim)?;
                let CommitteeMessage::Sign(SignMessage::Share { id, share, next, .. }) = &envelope.message else {
                    return None;
                };
                let (_, mut payload, chosen) = self.request.clone()?;
                payload.push(0);
                let place = desk.state.epoch_state(envelope.epoch)?.group.index_of(victim)?;
                let member = u16::try_from(place).ok()?;
                let (share, next) = (share.clone(), next.clone());
                let share = Box::new(ShareEvidence { id: *id, payload, chosen, member, share, next });
                Evidence::Share { epoch: envelope.epoch, share, signature: *signature }
            }
        })
    }
}

impl Attacker for Framer {
    fn hears(&mut self, _: &mut Desk<'_>, _: Addr, msg: &Msg) -> Vec<Out> {
        match msg {
            Msg::Tx(tx) if tx.slot().is_some() => {
                self.said.insert(0, tx.as_ref().clone());
                self.said.truncate(KEPT);
            }
            Msg::Committee(bytes) => {
                let Ok(signed) = codec::decode::<SignedCommitteeEnvelope>(bytes) else { return Vec::new() };
                match &signed.envelope.message {
                    CommitteeMessage::Sign(SignMessage::Request { id, payload, chosen }) => {
                        self.request = Some((*id, payload.clone(), chosen.clone()));
                    }
                    CommitteeMessage::Sign(SignMessage::Share { .. }) => {
                        self.shares.insert(0, (signed.envelope, signed.signature));
                        self.shares.truncate(KEPT);
                    }
                    _ => {}
                }
            }
            _ => {}
        }
        Vec::new()
    }

    fn out(&mut self, desk: &mut Desk<'_>, out: Out) -> Vec<Out> {
        if let Some(said) = desk.own_tx(&out).cloned()
            && let Tx::Dkg(DkgMessage { epoch, attempt, step: DkgStep::Confirm(_) }) = said.tx
        {
            let members = desk.state.dkg().map(|d| d.members.clone()).unwrap_or_default();
            let all = (0u16..).zip(&members).filter(|(_, m)| **m != desk.me).map(|(i, _)| i).collect();
            let step = DkgStep::Confirm(all);
            return desk.instead(&said, vec![Tx::Dkg(DkgMessage { epoch, attempt, step })]);
        }
        match out {
            Out::Committee(epoch, CommitteeMessage::Sign(SignMessage::Request { id, payload, mut chosen }))
                if desk.tries(300) =>
            {
                // everybody's commitments but one's in another's place
                if let [first, .., last] = chosen.as_mut_slice() {
                    std::mem::swap(&mut first.commitments, &mut last.commitments);
                }
                vec![Out::Committee(epoch, CommitteeMessage::Sign(SignMessage::Request { id, payload, chosen }))]
            }
            out => vec![out],
        }
    }

    fn tick(&mut self, desk: &mut Desk<'_>) -> Vec<Out> {
        let others = desk.others();
        let Some(victim) = desk.dice.pick(&others).copied().filter(|_| desk.tries(700)) else { return Vec::new() };
        let kind = desk.dice.below(5);
        let forged = self.forged(desk, victim, kind);
        *desk.gang.notes.entry("forged").or_default() += u64::from(forged.is_some());
        forged.map(|evidence| Out::Tx(desk.signed(Tx::Evidence(evidence)))).into_iter().collect()
    }
}
