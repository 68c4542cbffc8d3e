//! Validators that join, or come back, many heights later.

use super::attack::HONEST;
use super::equivocating::TWO_FACED;
use super::net::Sim;

#[test] // a validator that fell behind jumps ahead with certified blocks, and votes again
fn a_late_validator_catches_up() {
    let mut sim = Sim::new(60, &[HONEST; 4], 0);
    sim.crash_at = vec![30];
    sim.run(20);
    assert!(sim.synced > 0);
    let late = sim.nodes[0].key.id();
    assert!(sim.votes.keys().any(|&(voter, height, ..)| voter == late && height > 15));
}

#[test] // L1: f of 3f+1 come for the first time, or back, after many heights; then they are needed
fn f_late_validators_catch_up_and_carry_the_chain() {
    for n in [4, 7, 10] {
        for (seed, from_ms) in [(1, 0), (2, 2_500)] {
            let f = (n - 1) / 3;
            let mut sim = Sim::new(seed, &vec![HONEST; n], 0);
            for i in n - f..n {
                sim.absent(i, from_ms, 20_000);
            }
            sim.run_until(19_000);
            let away = sim.slowest();
            let ahead = sim.nodes[0].chain.len();
            assert!(ahead >= away + 3, "the others went on: {ahead}, {away}");
            sim.run_within(ahead, 30_000);
            // now others leave, and the chain needs those that were late
            for i in 0..f {
                sim.absent(i, 0, 3_000_000);
            }
            let there = sim.nodes[n - 1].chain.len();
            sim.run_until(sim.now_ms + 40_000);
            assert!(sim.nodes[n - 1].chain.len() > there + 5);
            let voted = |i: usize| sim.votes.keys().any(|k| k.0 == sim.nodes[i].key.id() && k.1 > ahead as u64);
            assert!((n - f..n).all(voted));
        }
    }
}

#[test] // L1: all come late, one after the other, some with a liar among those already there
fn everybody_starts_at_another_time() {
    for (seed, kinds) in [(1, [HONEST; 4]), (2, [HONEST, HONEST, HONEST, TWO_FACED])] {
        let mut sim = Sim::new(seed, &kinds, 5);
        for i in 0..4 {
            sim.absent(i, 0, 1_000 + 7_000 * i as u64);
        }
        sim.run_within(10, 120_000);
    }
}
