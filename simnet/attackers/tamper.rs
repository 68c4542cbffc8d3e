//! Changes what others build on: manifests that look like a known model's, claims on another head, openings that name other
//! bytes than were committed to, deltas that are none.
//!
//! Whoever can make validators replay something else than the ledger says, or trainers train something else than they
//! were asked to, owns the result.

use super::{Attacker, Desk, Kind, Role};
use crate::learning::Work;
use crate::sim::Out;
use oda_consensus::engine::trainer::TrainJob;
use oda_consensus::ids::{BlobHash, ModelId};
use oda_consensus::manifest::Manifest;
use oda_consensus::tx::{SignedTx, Tx};
use oda_consensus::wire::Request;
use std::collections::BTreeSet;
use std::rc::Rc;

pub(super) const KIND: Kind = Kind {
    name: "tamper",
    rows: &[13],
    role: Role::Trainer,
    names: 2,
    goal: "have something else judged, or trained on, than everybody believes",
    gain: "pay for what was not asked for; a model that learns what it wants",
    stopped_by: "D1: every blob is named by its hash; the ModelId is the hash of the whole manifest; R1: a claim binds head and \
                 delta; S7: what is no delta is refused before it is measured",
    left: "models of the same name for people to confuse; a place among the 1,024 models each",
    make: || Box::new(Tamper::default()),
};

#[derive(Default)]
struct Tamper {
    copied: BTreeSet<ModelId>,
}

fn changed(mut tx: Tx, desk: &mut Desk<'_>) -> Option<Tx> {
    let what = desk.dice.below(3);
    match &mut tx {
        Tx::Commit(commit) if what == 0 => commit.parent = BlobHash([0x7a; 32]),
        Tx::Commit(commit) if what == 1 => commit.round += 1,
        Tx::Reveal(reveal) if what == 0 => reveal.delta.hash = BlobHash([0x7a; 32]),
        Tx::Reveal(reveal) if what == 1 => reveal.delta.len = reveal.delta.len.saturating_sub(1),
        Tx::Reveal(reveal) => reveal.stated_gain_unat = i64::MAX,
        _ => return None,
    }
    Some(tx)
}

/// The same model to look at, on other data.
fn forged(manifest: &Manifest, turn: u64) -> Manifest {
    let mut forged = manifest.clone();
    match turn % 2 {
        0 => forged.initial_head.hash = BlobHash([0x7a; 32]),
        _ => forged.judging.assigned_z_milli = forged.judging.assigned_z_milli.saturating_add(1),
    }
    forged
}

impl Attacker for Tamper {
    fn work(&mut self, desk: &mut Desk<'_>, _: &TrainJob) -> Option<Work> {
        let all = [Work::Malformed, Work::WrongShape, Work::Oversize, Work::Huge, Work::Honest];
        desk.dice.pick(&all).cloned()
    }

    fn out(&mut self, desk: &mut Desk<'_>, out: Out) -> Vec<Out> {
        let Some(said) = desk.own_tx(&out).cloned().filter(|_| desk.tries(400)) else { return vec![out] };
        let (Out::Ask(to, _), Some(tx)) = (&out, changed(said.tx, desk)) else { return vec![out] };
        let signed = SignedTx::new(tx, &desk.key, desk.chain);
        vec![Out::Ask(*to, Rc::new(Request::SubmitTx(Box::new(signed))))]
    }

    fn tick(&mut self, desk: &mut Desk<'_>) -> Vec<Out> {
        let state = desk.state.clone();
        let mut out = Vec::new();
        for (id, model) in state.models().filter(|(_, m)| m.added_by != desk.me && !m.sponsors.is_empty()) {
            if self.copied.insert(id) {
                let forged = forged(&model.manifest, desk.dice.below(2));
                out.push(Out::Tx(desk.signed(Tx::AddModel(forged))));
            }
        }
        out
    }
}
