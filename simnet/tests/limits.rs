//! What is left to attackers for whom names and promises cost nothing, measured, so that a change that ends it is noticed;
//! and two ways in which an honest member's scores can look false and must not be held against it.

use oda_consensus::ids::{Beacon, ClaimId, NodeId};
use oda_consensus::manifest::{Manifest, Timing, WorkMode};
use oda_consensus::outcome::{Measured, Outcome};
use oda_consensus::score::{Added, ClaimScores, Measurement, Paired, Refusal, Verdict, is_assigned_work};
use oda_simnet::Scenario;
use oda_simnet::learning::Learning;
use oda_simnet::learning::stub::Stub;
use oda_simnet::scenario::Attack;
use oda_simnet::sim::Sim;

const TIMING: Timing = Timing { commit_blocks: 8, linger_blocks: 2, reveal_blocks: 6 };

/// Honest trainers paid while a flooder commits under so many names, of how many; rounds judged.
fn flooded(strength_milli: u32, guests: bool) -> (usize, usize, u64) {
    let attackers = vec![Attack { name: "flooder".into(), count: 1, strength_milli }];
    let scenario = Scenario { minutes: 20, trainers: 3, guests, attackers, ..Scenario::default() };
    let mut sim = Sim::new(scenario, 5).unwrap();
    sim.run_stormy();
    let honest: Vec<_> = sim.lites.iter().map(|l| l.addr).filter(|a| sim.is_honest(*a)).collect();
    assert!(sim.checks.violations.is_empty(), "{:?}", sim.checks.violations);
    let paid = honest.iter().filter(|a| sim.lightning.balance(**a) > 0).count();
    (paid, honest.len(), sim.checks.tally.rounds.0)
}

#[test] // P8: commits are free, and a round has `max_claims` places; half of them are for who is known
fn free_names_fill_the_places_of_strangers() {
    let (few, of, _) = flooded(1_000, false);
    let (none, _, rounds) = flooded(8_000, false);
    let (guests, _, judged) = flooded(8_000, true);
    println!(
        "3 free names a round: {few} of {of} paid; 24: {none} in {rounds} rounds; 24 beside guests: {guests} in {judged}"
    );
    assert!(few == of && none < of && guests == of);
}

fn manifest(mode: WorkMode) -> Manifest {
    let mut stub = if mode == WorkMode::Free { Stub::free(1) } else { Stub::new(1) };
    stub.manifest("limits", TIMING)
}

fn outcome(m: &Manifest, claims: Vec<Measurement>) -> Outcome {
    let named = (0u8..).zip(claims).map(|(i, c)| (ClaimId([i; 32]), NodeId([i; 32]), c)).collect();
    let name = (m.id(), 1, m.initial_head, Beacon([1; 32]));
    Outcome::derive(m, name, Measured { claims: named, twins: Vec::new(), head: None })
}

fn paired(n: u32, mean_unat: i64, spread_unat: i64) -> Paired {
    let before: Vec<i64> =
        (0..n).map(|i| 1_000_000 + mean_unat + if i % 2 == 0 { spread_unat } else { -spread_unat }).collect();
    let after = vec![1_000_000; before.len()];
    Paired::of(&before, &after).unwrap()
}

#[test] // C6, S2: two members on either side of a rounding edge of the assigned-work test
fn an_edge_of_the_first_test() {
    let m = manifest(WorkMode::Assigned);
    let j = &m.judging;
    let gate = paired(j.gate_samples, 0, 500_000);
    // the smallest gain on the shard that passes
    let base = paired(j.shard_samples, 0, 500_000);
    let at = |sum_unat: i64| {
        let mean = sum_unat / i64::from(j.shard_samples);
        Paired { sum_unat, sum_sq_unat2: base.sum_sq_unat2 + u128::try_from(mean * sum_unat).unwrap(), ..base }
    };
    let (mut low, mut high) = (0, 500_000 * i64::from(j.shard_samples));
    while high - low > 1 {
        let middle = i64::midpoint(low, high);
        if is_assigned_work(j, &at(middle), &gate) { high = middle } else { low = middle }
    }
    let (fails, passes) = (at(low), Paired { sum_sq_unat2: at(low).sum_sq_unat2, ..at(high) });
    assert!(fails.agrees(&passes), "within S2's rounding");
    let scores = |shard, probe| Measurement::Scored(ClaimScores { shard, gate, probe, norm_micro: 1_000_000 });
    let probe = Some(paired(j.gate_samples, 1_000, 50_000));
    let attested = outcome(&m, vec![scores(passes, probe)]);
    let honest = outcome(&m, vec![scores(fails, None)]);
    println!("{:?} against {:?}", attested.claims[0].verdict, honest.claims[0].verdict);
    assert_eq!((attested.claims[0].verdict, honest.claims[0].verdict), (Verdict::Accepted, Verdict::NotAssignedWork));
    assert!(!honest.contradicts(&attested) && !attested.contradicts(&honest), "neither lied");
    // but who says other sums does
    let lie = outcome(&m, vec![scores(at(low / 2), None)]);
    assert!(lie.contradicts(&attested));
}

#[test] // C6, R3: free mode; a delta that states more is served to all members but one
fn a_delta_served_to_some_in_free_mode() {
    let m = manifest(WorkMode::Free);
    let n = m.judging.gate_samples;
    let added = |stated_unat, gate| Measurement::Added(Added { stated_unat, gate });
    // what the second claim adds to the first is less than what it adds to the parent alone
    let attested =
        outcome(&m, vec![added(50_000, paired(n, 60_000, 100_000)), added(10_000, paired(n, 20_000, 100_000))]);
    let honest = outcome(&m, vec![Measurement::Refused(Refusal::NotServed), added(10_000, paired(n, 40_000, 100_000))]);
    assert!(!honest.contradicts(&attested) && !attested.contradicts(&honest), "neither lied");
    // served alike, the same figures are a lie
    let lie = outcome(&m, vec![added(50_000, paired(n, 60_000, 100_000)), added(10_000, paired(n, 40_000, 100_000))]);
    assert!(lie.contradicts(&attested));
}
