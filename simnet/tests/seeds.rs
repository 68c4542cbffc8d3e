//! Two hundred networks, each drawn from its seed: whatever weather, faults and attackers it has, every check holds
//! throughout, and once the faults stop everything honest comes to its end.

use oda_simnet::{Scenario, run};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

fn all(seeds: std::ops::RangeInclusive<u64>, make: impl Fn(u64) -> Scenario + Sync) -> Vec<String> {
    let (next, last) = (AtomicU64::new(*seeds.start()), *seeds.end());
    let found = Mutex::new(Vec::new());
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed > last {
                        return;
                    }
                    let scenario = make(seed);
                    let report = run(&scenario, seed).unwrap();
                    let attackers: Vec<&str> = scenario.attackers.iter().map(|a| a.name.as_str()).collect();
                    for v in report.violations {
                        let line = format!("seed {seed} {attackers:?}: {}: {}", v.check, v.detail);
                        found.lock().unwrap().push(line);
                    }
                }
            });
        }
    });
    found.into_inner().unwrap()
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(otherwise)
}

#[test] // every rule at once; more seeds: SIMNET_SEEDS=2000 SIMNET_FIRST=1
fn two_hundred_drawn_networks_keep_every_rule() {
    let (first, count) = (number("SIMNET_FIRST", 1), number("SIMNET_SEEDS", 200));
    let found = all(first..=first + count - 1, Scenario::drawn);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn one_seed_is_one_history() {
    let scenario = Scenario { minutes: 6, ..Scenario::drawn(7) };
    let (a, b) = (run(&scenario, 7).unwrap(), run(&scenario, 7).unwrap());
    assert_eq!(a.trace, b.trace);
    assert_ne!(a.trace, run(&scenario, 8).unwrap().trace);
}

#[test] // C5, found by a sweep: the ledger of a validator is dropped after a bit flip, and with it what it dealt long ago
fn a_repaired_validator_says_nothing_twice() {
    let report = run(&Scenario::named("churn").unwrap(), 3).unwrap();
    assert!(report.violations.is_empty(), "{:?}", report.violations);
}
