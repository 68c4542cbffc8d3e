//! Does not replay: waits until others have opened their scores and says the same.
//!
//! Replaying is most of what a validator pays for. Who could commit after the first scores are open would be right
//! without it. So it watches the ledger and copies the first opened scores it finds; but by then nobody can commit.

use super::{Attacker, Desk, Kind, Role};
use crate::sim::Out;
use oda_consensus::engine::validator::Judged;
use oda_consensus::ids::{Digest, NodeId};
use oda_consensus::tx::{ScoreCommit, ScoreReveal, Tx, score_commitment};

pub(super) const KIND: Kind = Kind {
    name: "lazy_validator",
    rows: &[6],
    role: Role::Validator,
    names: 1,
    goal: "sit in the committee without computing",
    gain: "a validator's standing for no work",
    stopped_by: "R4: nobody opens before everybody has committed or commits are closed, so there is nothing to copy in time; \
                 the missing judge is on record",
    left: "it may stay silent; up to n - t silent judges delay a round by the grace for commits",
    make: || Box::new(Lazy),
};

struct Lazy;

impl Attacker for Lazy {
    fn judged(&mut self, _: &mut Desk<'_>, _: Judged) -> Option<Judged> {
        None
    }

    fn tick(&mut self, desk: &mut Desk<'_>) -> Vec<Out> {
        let state = desk.state.clone();
        let mut out = Vec::new();
        for (model, m) in state.models() {
            let (Some(round), Some(judges)) = (m.round.as_ref(), state.judges(model)) else { continue };
            if judges.group.index_of(desk.me).is_none() {
                continue;
            }
            let opened = |who: &NodeId| state.score_of(model, round.number, *who)?.measured.as_deref();
            let Some(copied) = round.scores.revealed.iter().find_map(opened) else { continue };
            let (attempt, outcome, salt) = (round.scores.attempt, copied.clone(), Digest([0x1a; 32]));
            let commitment = score_commitment(desk.me, &outcome, salt);
            *desk.gang.notes.entry("copied").or_default() += 1;
            let commit = ScoreCommit { model, round: round.number, attempt, commitment };
            out.push(Out::Tx(desk.signed(Tx::Score(commit))));
            out.push(Out::Tx(desk.signed(Tx::ScoreReveal(Box::new(ScoreReveal { attempt, outcome, salt })))));
        }
        out
    }
}
