//! Nothing fails: what a switch of committees costs, and what is on record afterwards.

use super::*;
use oda_consensus::epoch::Federation;
use std::collections::BTreeMap;

/// A switch in the middle of a round makes the round at most so many blocks longer.
const SWITCH_BLOCKS: u64 = 3;

/// Not a multiple of a round's length: switches fall anywhere into rounds.
const EPOCH_BLOCKS: u64 = 21;

fn run(seed: u64, validators: usize, committee: u16, epochs: u64) -> Sim {
    let rules = Federation { epoch_blocks: EPOCH_BLOCKS as u32, ..federation(committee) };
    let mut sim = Sim::new(seed, validators, rules);
    let blocks = epochs * EPOCH_BLOCKS;
    sim.run_until("epochs", blocks + 6 * epochs, |s| s.ledger.current().number >= epochs);
    sim
}

#[test] // C1, C2, R4, R5: six epochs with a round in flight across every switch
fn six_epochs_lose_and_delay_nothing() {
    let mut still = Sim::new(1, 7, Federation { epoch_blocks: 0, ..federation(4) });
    still.run_slots(EPOCH_BLOCKS * 6);
    let alone = still.longest_round();
    let mut sim = run(1, 7, 4, 6);
    sim.run_slots(20);
    let heights = sim.outcomes.values().next().unwrap();
    let in_flight = |start: &&u64| heights.windows(2).any(|w| w[0] + 2 < **start && **start <= w[1]);
    println!(
        "epochs began at {:?}, outcomes at {:?}; longest round {} blocks, without switches {alone}",
        sim.epochs,
        sim.outcomes.values().next().unwrap(),
        sim.longest_round()
    );
    assert!(sim.epochs[1..].iter().filter(in_flight).count() >= 3, "switches fall into rounds");
    assert!(sim.longest_round() <= alone + SWITCH_BLOCKS);
    assert_eq!(sim.slots, sim.ledger.tip().height, "every slot had its block");
    assert!(sim.epochs.windows(2).all(|w| w[1] - w[0] <= EPOCH_BLOCKS + 1), "{:?}", sim.epochs);
    let paid = sim.finish();
    assert!(paid >= 10, "{paid}");
    // the records say what everyone did
    let mut judged: BTreeMap<_, u64> = BTreeMap::new();
    for model in sim.market.models() {
        for outcome in sim.ledger.outcomes(model) {
            let members = sim.ledger.epoch_state(outcome.epoch).unwrap().group.members();
            members.iter().for_each(|m| *judged.entry(*m).or_default() += 1);
        }
    }
    for v in sim.ledger.all_validators() {
        let rounds = judged.get(&v.node).copied().unwrap_or(0);
        let r = v.record;
        assert_eq!((r.rounds, r.agreed + r.late), (rounds, rounds), "{:?}", v.record);
        assert_eq!(r.false_scores + r.withheld + r.incomparable + r.dkg_missed + r.dkg_complaints_answered, 0);
    }
    assert!(sim.ledger.checkpoints().count() as u64 >= sim.ledger.tip().height / 8 - 1);
}

#[test] // one seed replays any failure
fn same_seed_same_trace() {
    let trace = |seed| run(seed, 7, 4, 1).trace.finalize();
    assert_eq!(trace(5), trace(5));
    assert_ne!(trace(5), trace(6));
}

#[test] // C1, C3: committees of seven of ten
fn seven_of_ten() {
    let mut sim = run(2, 10, 7, 2);
    assert!(sim.finish() >= 2);
}
