//! A validator that was away for epochs applies what it missed and takes its duties again (C1, L2).

use super::*;

#[test]
fn away_for_four_epochs() {
    let mut sim = Sim::new(110, 7, federation(4));
    sim.run_slots(10);
    let away = sim.seated()[2];
    let height = sim.nodes[away].height();
    sim.stop(away);
    sim.run_until("four epochs", 4 * 26 + 40, |s| s.ledger.current().number >= 4);
    let missed = sim.ledger.tip().height - height;
    sim.start(away);
    // what it does while it catches up disturbs nobody
    let caught_up = sim.run_until("it follows", 10, |s| s.nodes[away].height() == s.ledger.tip().height);
    println!("{missed} blocks missed, caught up within {caught_up} slots");
    assert!(missed > 70);
    let before = sim.ledger.validator(sim.nodes[away].id).unwrap().record;
    let served = |s: &Sim| s.ledger.validator(s.nodes[away].id).unwrap().record;
    sim.run_until("it judges again", 8 * 26, |s| served(s).agreed > before.agreed);
    sim.finish();
    assert!(served(&sim).agreed > before.agreed);
}

#[test] // the same with its process alive and its network gone: it keeps what it knew of a committee that is over
fn cut_off_for_two_epochs() {
    let mut sim = Sim::new(111, 7, federation(4));
    sim.run_slots(10);
    let away = sim.seated()[1];
    sim.nodes[away].side = 1;
    sim.run_until("two epochs", 2 * 26 + 30, |s| s.ledger.current().number >= 2);
    sim.nodes[away].side = 0;
    sim.run_until("it follows", 10, |s| s.nodes[away].height() == s.ledger.tip().height);
    sim.run_until("two more", 2 * 26 + 10, |s| s.ledger.current().number >= 4);
    sim.finish();
}

#[test] // R4, C5: what a judge has committed to it opens, whatever happens to its process in between
fn a_judge_restarts_between_commitment_and_opening() {
    let mut sim = Sim::new(112, 7, federation(4));
    let judge = sim.seated()[0];
    let (id, model) = (sim.nodes[judge].id, sim.market.models().next().unwrap());
    sim.run_until("its commitment", 30, |s| {
        let round = s.ledger.model(model).and_then(|m| m.round.as_ref());
        round.is_some_and(|r| r.scores.committed.contains(&id) && !r.scores.revealed.contains(&id))
    });
    sim.stop(judge);
    sim.start(judge);
    sim.run_until("the outcome", 20, |s| !s.outcomes[&model].is_empty());
    let record = sim.ledger.validator(id).unwrap().record;
    assert_eq!((record.rounds, record.agreed), (1, 1), "{record:?}");
    assert!(sim.finish() > 0);
}
