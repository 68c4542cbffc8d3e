//! One validator dead for ever and one that lies throughout: what goes on, what stops, and what ends it.

use super::lying::{FalseScores, SpoiledShares};
use super::*;
use oda_consensus::evidence::Offence;
use oda_consensus::state::ValidatorStatus;

fn rounds(sim: &Sim) -> usize {
    sim.outcomes.values().map(Vec::len).sum()
}

#[test] // C4, C6, R5: f = 1 of each committee of four fails, now this way, now the other
fn a_dead_one_and_a_liar_in_different_committees() {
    for (seed, spoils) in [(31, false), (32, true)] {
        let mut sim = Sim::new(seed, 7, federation(4));
        let seated = sim.seated();
        let (dead, liar) = ((0..7).find(|i| !seated.contains(i)).unwrap(), seated[seed as usize % 4]);
        sim.stop(dead);
        if spoils {
            sim.corrupt(liar, SpoiledShares)
        } else {
            sim.corrupt(liar, FalseScores)
        }
        let took = sim.run_until("the liar goes", 60, |s| s.status(liar) != ValidatorStatus::Active);
        let offence = if spoils { Offence::BadSignatureShare } else { Offence::FalseScores };
        assert_eq!(sim.status(liar), ValidatorStatus::Evicted(offence));
        let slots = sim.run_until("five epochs", 5 * 24 + 60, |s| s.ledger.current().number >= 5);
        println!("{offence:?} evicted after {took} slots; five epochs in {slots} more, {} rounds", rounds(&sim));
        assert!(sim.epochs.iter().skip(1).count() >= 5);
        assert!(!sim.seated().contains(&liar) && !sim.seated().contains(&dead));
        assert!(rounds(&sim) >= 6);
        // still dead
        let dead_record = sim.ledger.validator(sim.nodes[dead].id).unwrap().record;
        assert_eq!(dead_record.agreed, 0);
        sim.market.closing = true;
        sim.finish();
    }
}

#[test] // C3, C4: two faults in one committee of four are more than it bears. Blocks go on (three are up), rounds
// and signatures do not; nothing is lost, and it goes on when the dead one is back
fn a_dead_one_and_a_spoiler_in_the_same_committee_wait_for_the_dead() {
    let mut sim = Sim::new(34, 7, federation(4));
    let seated = sim.seated();
    sim.stop(seated[0]);
    sim.corrupt(seated[1], SpoiledShares);
    sim.run_slots(80);
    assert_eq!((rounds(&sim), sim.ledger.current().number), (0, 0), "two honest shares are no signature");
    assert!(sim.ledger.tip().height > 70, "but blocks are made");
    assert_eq!(sim.status(seated[1]), ValidatorStatus::Evicted(Offence::BadSignatureShare), "and the cheater is named");
    sim.start(seated[0]);
    let round = sim.run_until("a round is judged", 60, |s| rounds(s) > 0);
    let epoch = sim.run_until("the next committee", 60, |s| s.ledger.current().number > 0);
    println!("back: round after {round} slots, epoch after {epoch} more");
    assert!(!sim.seated().contains(&seated[1]));
    sim.run_until("and the next", 40, |s| s.ledger.current().number > 1);
    assert!(sim.finish() >= 2);
}

#[test] // R4, R5: two false judges cannot be outvoted in a committee of four; the round goes to a later committee
fn a_dead_one_and_a_false_judge_are_replaced_by_the_next_but_one() {
    let mut sim = Sim::new(35, 7, federation(4));
    let seated = sim.seated();
    sim.stop(seated[0]);
    sim.corrupt(seated[1], FalseScores);
    let took = sim.run_until("a round is judged", 4 * 26, |s| rounds(s) > 0);
    let model = sim.market.models().next().unwrap();
    let by = sim.ledger.outcomes(model).next().unwrap().epoch;
    println!("the first round is judged after {took} slots by the committee of epoch {by}");
    assert_eq!(by, 2, "its judges are replaced two epochs later");
    assert!(matches!(sim.status(seated[1]), ValidatorStatus::Active | ValidatorStatus::Evicted(Offence::FalseScores)));
    sim.run_until("it goes on", 60, |s| rounds(s) > 2);
    assert!(sim.finish() >= 2);
}

#[test] // C3, C4: f = 2 of seven, one dead and one lying all the time
fn a_dead_one_and_a_liar_in_one_committee_of_seven() {
    let mut sim = Sim::new(36, 10, federation(7));
    let seated = sim.seated();
    sim.stop(seated[2]);
    sim.corrupt(seated[4], SpoiledShares);
    sim.run_until("the liar goes", 60, |s| s.status(seated[4]) != ValidatorStatus::Active);
    sim.run_until("two epochs", 3 * 26, |s| s.ledger.current().number >= 2);
    assert!(rounds(&sim) >= 2);
    sim.finish();
}
