//! Takes others' work. On the ledger of a round lie first only commitments, later the opened deltas: it commits to
//! what another trainer committed to and opens that as its own when the other has shown it; and it hands in, one round later, what others opened.

use super::{Attacker, Desk, Kind, Role};
use crate::learning::Work;
use crate::sim::Out;
use oda_consensus::engine::trainer::TrainJob;
use oda_consensus::ids::{BlobHash, ClaimId};
use oda_consensus::state::{ClaimState, State};
use oda_consensus::tx::{Reveal, SignedTx, Tx};
use oda_consensus::wire::Request;
use std::rc::Rc;

pub(super) const KIND: Kind = Kind {
    name: "copy",
    rows: &[2],
    role: Role::Trainer,
    names: 1,
    goal: "be paid for what others computed",
    gain: "a share of the pool for no work",
    stopped_by: "R1: a commitment binds its trainer, head and round, and deltas are shown only after commits close; S4: an \
                 older delta has not learned the shard assigned now",
    left: "nothing seen",
    make: || Box::new(Copy),
};

struct Copy;

/// A delta that another trainer opened for this model.
fn opened(state: &State, desk_me: oda_consensus::ids::NodeId, job: &TrainJob) -> Option<BlobHash> {
    let others = state.claims().filter(|c| c.model == job.model && c.trainer != desk_me && c.round < job.round);
    others.filter_map(|c| Some((c.round, c.reveal?.delta.hash))).max_by_key(|(round, _)| *round).map(|(_, hash)| hash)
}

/// The opening of whoever's commitment it took, as soon as that is on the ledger, as its own.
fn stolen_opening(state: &State, claim: ClaimId) -> Option<Reveal> {
    let mine = state.claim(claim)?;
    let theirs = |c: &&ClaimState| c.model == mine.model && c.id != claim && c.commitment == mine.commitment;
    let opening = state.claims().filter(theirs).find_map(|c| c.reveal)?;
    Some(Reveal { claim, ..opening })
}

impl Attacker for Copy {
    fn work(&mut self, desk: &mut Desk<'_>, job: &TrainJob) -> Option<Work> {
        Some(opened(&desk.state, desk.me, job).map_or(Work::Noise, |of| Work::Copy { of }))
    }

    fn out(&mut self, desk: &mut Desk<'_>, out: Out) -> Vec<Out> {
        let Out::Ask(to, request) = &out else { return vec![out] };
        let Request::SubmitTx(tx) = request.as_ref() else { return vec![out] };
        if let Tx::Reveal(own) = &tx.tx {
            let Some(stolen) = stolen_opening(&desk.state, own.claim) else { return vec![out] };
            let tx = SignedTx::new(Tx::Reveal(stolen), &desk.key, desk.chain);
            return vec![Out::Ask(*to, Rc::new(Request::SubmitTx(Box::new(tx))))];
        }
        let Tx::Commit(mut mine) = tx.tx else { return vec![out] };
        // every second time: the commitment of whoever came first
        let mut theirs = desk.state.claims().filter(|c| {
            c.model == mine.model && c.round == mine.round && c.trainer != desk.me
        });
        let Some(stolen) = theirs.next().map(|c| c.commitment).filter(|_| mine.round % 2 == 0) else { return vec![out] };
        mine.commitment = stolen;
        let tx = SignedTx::new(Tx::Commit(mine), &desk.key, desk.chain);
        vec![Out::Ask(*to, Rc::new(Request::SubmitTx(Box::new(tx))))]
    }
}
