//! Surrounds a trainer and lies to it: old views, forged epochs and outcomes, withheld answers.
//!
//! Who is all that a newcomer sees could sell it a head that is none, have it work for a round that is over, or show it a
//! payment nobody dealt. A lite node believes what a committee's key signs, and counts only members' voices.

use super::{Attacker, Desk, Kind, Role};
use crate::learning::Work;
use crate::sim::{Addr, Msg, Out};
use oda_consensus::engine::trainer::TrainJob;
use oda_consensus::ids::{BlobHash, Digest, ModelId};
use oda_consensus::wire::{ClaimView, ModelView, Request, Response};
use std::collections::BTreeMap;
use std::rc::Rc;

pub(super) const KIND: Kind = Kind {
    name: "eclipser",
    rows: &[17],
    role: Role::Outsider,
    names: 6,
    goal: "have a trainer work on what they say",
    gain: "its work for nothing, or its rivals' place",
    stopped_by: "N1, C2, R2: heads, rounds and keys follow from signed outcomes and handovers; a lock counts when a threshold of \
                 members shows it; whoever is honest among the peers is enough for news",
    left: "whom nobody honest answers stands still and shows nothing",
    make: || Box::new(Eclipser::default()),
};

#[derive(Default)]
struct Eclipser {
    old: BTreeMap<ModelId, ModelView>,
}

impl Eclipser {
    fn model(&mut self, desk: &mut Desk<'_>, id: ModelId) -> Option<Response> {
        let model = desk.state.model(id)?.clone();
        let round = model.round.as_ref().map_or(0, |r| r.number);
        let last = desk.state.outcome(id, round.saturating_sub(1)).cloned();
        let mut view = ModelView { height: desk.state.tip().height, model, last };
        let old = self.old.entry(id).or_insert_with(|| view.clone()).clone();
        match desk.dice.below(4) {
            0 => return Some(Response::Model(None)),
            1 => view = old,
            // another head, another beacon, the true signature
            2 => {
                if let Some(head) = view.last.as_mut().and_then(|l| l.outcome.head.as_mut()) {
                    head.candidate.hash = BlobHash([0xec; 32]);
                }
            }
            _ => {
                view.last = None;
                view.model.head.weights.hash = BlobHash([0xec; 32]);
            }
        }
        Some(Response::Model(Some(Box::new(view))))
    }

    fn answer(&mut self, desk: &mut Desk<'_>, request: &Request) -> Option<Response> {
        let state = desk.state.clone();
        Some(match request {
            Request::Models => Response::Models(state.models().map(|(id, _)| id).collect()),
            Request::Model(id) => return self.model(desk, *id),
            // a claim in order, and a payment dealt that nobody holds
            Request::Claim(id) => {
                let claim = state.claim(*id)?.clone();
                let escrow = claim.escrow.and_then(|e| state.escrow(e)).cloned();
                let outcome = state.outcome(claim.model, claim.round).cloned();
                Response::Claim(Some(Box::new(ClaimView {
                    height: u64::MAX,
                    claim,
                    escrow,
                    share_held: true,
                    outcome,
                })))
            }
            Request::Epochs { after } => {
                let mut links = state.links(*after, 4);
                for link in &mut links {
                    link.handover.keys = Digest([0xec; 32]);
                }
                Response::Epochs(links)
            }
            Request::SubmitTx(_) | Request::Invoice { .. } => Response::Accepted,
            Request::Blocks { .. } => Response::Blocks(Vec::new()),
            _ => Response::Refused("no".into()),
        })
    }
}

impl Attacker for Eclipser {
    fn work(&mut self, _: &mut Desk<'_>, _: &TrainJob) -> Option<Work> {
        None
    }

    fn hears(&mut self, desk: &mut Desk<'_>, from: Addr, msg: &Msg) -> Vec<Out> {
        let Msg::Ask(request) = msg else { return Vec::new() };
        let response = self.answer(desk, request).filter(|_| desk.tries(900));
        *desk.gang.notes.entry("lies").or_default() += 1;
        response.map(|response| Out::Answer(from, request.clone(), Rc::new(response))).into_iter().collect()
    }
}
