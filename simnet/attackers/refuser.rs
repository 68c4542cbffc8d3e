//! Makes an offer for every claim and shows nothing after the draw, so that nobody else can offer either.
//!
//! A claim has one offer. Whoever promises first and then is silent keeps the claim without a payment, at no cost: there
//! is no deposit. Trying harder, it promises on others' models too and races their sponsors.

use super::{Attacker, Desk, Kind, Role};
use crate::sim::Out;
use oda_consensus::ids::ModelId;
use oda_consensus::tx::{Fund, Tx};
use std::collections::BTreeSet;

pub(super) const KIND: Kind = Kind {
    name: "refuser",
    rows: &[15],
    role: Role::Sponsor,
    names: 1,
    goal: "keep trainers from being paid, or find out which claims are made",
    gain: "a rival model stands still",
    stopped_by: "P2: an offer that is not opened is withdrawn with the round, counts against the sponsor (`unopened`), and no \
                 work was shown",
    left: "on a model it may promise on, it takes the claims whose offers it is first to make, each round, for nothing: the \
           count bars it from nothing",
    make: || Box::new(Refuser::default()),
};

#[derive(Default)]
struct Refuser {
    joined: BTreeSet<ModelId>,
}

impl Attacker for Refuser {
    fn out(&mut self, desk: &mut Desk<'_>, out: Out) -> Vec<Out> {
        match desk.own_tx(&out).filter(|said| matches!(said.tx, Tx::Deal(..))).cloned() {
            Some(said) if desk.tries(1_000) => {
                *desk.gang.notes.entry("not opened").or_default() += 1;
                desk.instead(&said, Vec::new())
            }
            _ => vec![out],
        }
    }

    fn tick(&mut self, desk: &mut Desk<'_>) -> Vec<Out> {
        if desk.seat.strength_milli <= 1_000 {
            return Vec::new();
        }
        let state = desk.state.clone();
        let mut out = Vec::new();
        for (model, m) in state.models() {
            let Some(first) = m.sponsors.first() else { continue };
            if self.joined.insert(model) {
                let (terms, budget_msat) = (first.fund.terms, first.fund.budget_msat);
                out.push(Out::Tx(desk.signed(Tx::Fund(Fund { model, terms, budget_msat }))));
            }
        }
        out
    }
}
