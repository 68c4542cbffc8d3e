//! Equivocating: two different commitments to scores. (Two deals: see `rotation`.)

use super::attack::{Attacker, Desk};
use super::*;
use oda_consensus::evidence::Offence;
use oda_consensus::ids::Digest;
use oda_consensus::state::ValidatorStatus;
use oda_consensus::tx::{ScoreCommit, Tx};

struct TwoScores;

impl Attacker for TwoScores {
    fn submit(&mut self, _: &mut Desk<'_>, tx: Tx) -> Vec<Tx> {
        let Tx::Score(commit) = tx else { return vec![tx] };
        vec![tx, Tx::Score(ScoreCommit { commitment: Digest([1; 32]), ..commit })]
    }
}

#[test] // C6, R4
fn two_commitments_are_one_too_many() {
    for place in [0, 2] {
        let mut sim = Sim::new(100 + place, 7, federation(4));
        let bad = sim.seated()[place as usize];
        sim.corrupt(bad, TwoScores);
        sim.run_until("conviction", 40, |s| s.status(bad) != ValidatorStatus::Active);
        assert_eq!(sim.status(bad), ValidatorStatus::Evicted(Offence::EquivocatedStatements));
        sim.run_until("a committee without it", 40, |s| !s.seated().contains(&bad));
        assert!(sim.finish() > 0);
    }
}
