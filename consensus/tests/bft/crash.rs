//! A validator of a running network is killed between any two effects, with its log whole, torn or lost.

use super::attack::HONEST;
use super::net::Sim;
use super::silent::SILENT;

#[test] // C5, P6: whatever was done when the process died, it never signs twice, and it goes on
fn crash_between_any_two_effects() {
    let effects = {
        let mut sim = Sim::new(40, &[HONEST; 4], 0);
        sim.run(5);
        sim.nodes[0].effects
    };
    assert!(effects > 60);
    for at in 1..=effects {
        let mut sim = Sim::new(40, &[HONEST; 4], 0);
        sim.crash_at = vec![at];
        sim.run(7);
        assert_eq!(sim.nodes[0].life, 1);
        // With one silent the crashed validator is needed for every decision, and crashes again soon.
        let mut sim = Sim::new(at, &[HONEST, HONEST, SILENT, HONEST], 10);
        sim.crash_at = vec![at, at + 3, at + 4 + at % 7];
        sim.run(6);
    }
}

#[test] // the checker above can fail: without the log a restarted proposer signs another block
#[should_panic(expected = "two ")]
fn without_its_log_a_validator_signs_twice() {
    for at in 1..400 {
        let mut sim = Sim::new(40, &[HONEST; 4], 0);
        sim.forgets_log = true;
        sim.crash_at = vec![at];
        sim.run(7);
    }
}

#[test] // C5: a validator whose log was damaged in the crash is silent until it has fetched the decided block
fn a_damaged_log_waits_for_the_decided_block() {
    let tears: [fn(&mut Vec<u8>); 3] = [
        |entry| entry.truncate(entry.len() / 2),
        |entry| entry.clear(),
        |entry| {
            let middle = entry.len() / 2;
            entry[middle] ^= 1;
        },
    ];
    let mut damaged = 0;
    for (kind, tear) in tears.into_iter().enumerate() {
        for at in (1..90).step_by(3) {
            let mut sim = Sim::new(41 + kind as u64, &[HONEST; 4], 0);
            sim.tears_log = Some(tear);
            sim.crash_at = vec![at];
            sim.run(16);
            // What it signs at later heights counts: it is back.
            let back = sim.nodes[0].key.id();
            assert!(sim.votes.keys().any(|k| k.0 == back && k.1 >= 10), "seed {kind}, effect {at}");
            assert!(sim.damaged == 0 || sim.synced > 0);
            damaged += sim.damaged;
        }
    }
    assert!(damaged > 40, "only {damaged} restarts met a damaged log");
}
