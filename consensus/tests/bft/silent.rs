//! Validators that say nothing, and networks that fall apart and heal.

use super::attack::{Attacker, HONEST, Kind, SIZES};
use super::net::{Partition, Sim};

struct Silent;

pub const SILENT: Kind = Some(|| Box::new(Silent));

impl Attacker for Silent {
    fn runs(&self) -> bool {
        false
    }
}

#[test] // L1: f of 3f+1 silent
fn decides_with_f_silent() {
    Sim::new(4, &[HONEST, HONEST, SILENT, HONEST], 0).run(30);
    Sim::new(5, &[HONEST, SILENT, HONEST, HONEST, SILENT, HONEST, HONEST], 0).run(30);
    for n in SIZES {
        let mut sim = Sim::attacked(6, n, SILENT, 0);
        sim.run(20);
        let f = (n - 1) as u32 / 3;
        assert!(sim.max_round <= f, "at most f proposers in a row are silent, but round {}", sim.max_round);
        assert!(sim.evidence.is_empty());
    }
}

#[test] // L1: with f + 1 silent nothing is decided, rather than something wrong
fn without_a_quorum_nothing_is_decided() {
    let mut sim = Sim::new(7, &[HONEST, HONEST, SILENT, SILENT], 0);
    sim.run_until(300_000);
    assert_eq!(sim.slowest(), 0);
}

#[test] // L1
fn decides_with_a_fifth_of_the_messages_lost() {
    for seed in 10..14 {
        Sim::new(seed, &[HONEST; 4], 20).run(30);
    }
    Sim::new(14, &[HONEST, HONEST, SILENT, HONEST], 20).run(10);
}

#[test] // L1: no side of a partition without a quorum goes on; once healed all do, within bounded time
fn partitions_heal() {
    for n in SIZES {
        // halves; a quorum and the rest; three parts
        let shapes: [fn(usize, usize) -> u8; 3] =
            [|i, _| (i % 2) as u8, |i, n| u8::from(i > (n * 2) / 3), |i, _| (i % 3) as u8];
        for (seed, shape) in shapes.into_iter().enumerate() {
            let mut sim = Sim::new(seed as u64, &vec![HONEST; n], 0);
            let groups: Vec<u8> = (0..n).map(|i| shape(i, n)).collect();
            let largest = (0..3).map(|g| groups.iter().filter(|x| **x == g).count()).max().unwrap();
            sim.partitions.push(Partition { from_ms: 2_000, until_ms: 30_000, groups });
            sim.run_until(2_500);
            let (before, most) = (sim.slowest(), sim.nodes.iter().map(|n| n.chain.len()).max().unwrap());
            sim.run_until(30_000);
            let fastest = sim.nodes.iter().map(|n| n.chain.len()).max().unwrap();
            assert_eq!(largest * 3 > n * 2, fastest > most + 1, "only a quorum goes on");
            assert!(sim.slowest() <= before + 1, "the smaller side stands still");
            sim.run_within(fastest + 10, 30_000 + 60_000);
        }
    }
}

#[test] // L1: a partition that moves every few seconds, an attacker-free network with losses
fn moving_partitions() {
    for seed in 0..6u64 {
        let mut sim = Sim::new(seed, &[HONEST; 7], 5);
        sim.partitions = (0..30)
            .map(|k| {
                let groups = (0..7u64).map(|i| ((i * 7 + k * (seed + 3)) % 5 / 2) as u8).collect();
                Partition { from_ms: k * 4_000, until_ms: k * 4_000 + 3_500, groups }
            })
            .collect();
        sim.run_until(120_000);
        let there = sim.slowest();
        sim.run_within(there + 10, 120_000 + 300_000);
    }
}
