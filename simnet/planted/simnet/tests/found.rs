//! Does the alarm work? Every planted bug, awake, is found by the check that is there for it, within its seeds; the
//! same runs with all bugs asleep are clean. One bug alone: `PLANTED=name cargo test -p oda-simnet-planted`.

#[path = "../../plant.rs"]
mod plant;

use oda_consensus::planted::wake;
use oda_simnet_planted::checks::CHECKS;
use oda_simnet_planted::run;
use oda_simnet_planted::scenario::{Attack, Scenario};
use plant::Bug;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

/// Name of no bug: with it awake, all sleep.
const NONE: &str = "none";

fn list() -> Vec<Bug> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../bugs.toml");
    let bugs = plant::read(&std::fs::read_to_string(file).expect(file)).expect("the list");
    match std::env::var("PLANTED") {
        Ok(name) => bugs.into_iter().filter(|b| b.name.contains(&name)).collect(),
        Err(_) => bugs,
    }
}

fn scenario(name: &str, attackers: &[String]) -> Scenario {
    let file = format!("{}/../scenarios/{name}.toml", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{file}: {e}"));
    let mut scenario = Scenario::parse(&text).unwrap_or_else(|e| panic!("{file}: {e}"));
    let attack = |name: &String| Attack { name: name.clone(), count: 0, strength_milli: 1_000 };
    scenario.attackers = attackers.iter().map(attack).collect();
    scenario.check().unwrap_or_else(|e| panic!("{name} with {attackers:?}: {e}"));
    scenario
}

/// The checks that rang in one run, and what they said first; how often the wrong line ran.
fn ring(bug: &str, scenario: &Scenario, seed: u64) -> (BTreeMap<String, String>, u64) {
    let awake = wake(bug);
    let report = catch_unwind(AssertUnwindSafe(|| run(scenario, seed).expect("a scenario that can be run")));
    let mut rang = BTreeMap::new();
    match report {
        Ok(report) => {
            for v in report.violations {
                rang.entry(v.check.to_string()).or_insert_with(|| format!("{} ms: {}", v.at_ms, v.detail));
            }
        }
        Err(what) => {
            let text = what.downcast_ref::<String>().map(String::as_str).or(what.downcast_ref::<&str>().copied());
            rang.insert("panic".into(), text.unwrap_or("a panic").into());
        }
    }
    (rang, awake.reached())
}

/// Runs jobs on both cores of a small machine; each simulation stays on its thread.
fn on_two_threads<J: Send, R: Send>(jobs: Vec<J>, work: impl Fn(J) -> R + Sync) -> Vec<R> {
    let (queue, done) = (Mutex::new(VecDeque::from(jobs)), Mutex::new(Vec::new()));
    let next = || queue.lock().ok()?.pop_front();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(job) = next() {
                    let result = work(job);
                    done.lock().expect("no panic while it is held").push(result);
                }
            });
        }
    });
    done.into_inner().expect("no panic while it is held")
}

#[test]
fn every_planted_bug_is_found() {
    let bugs = list();
    for bug in &bugs {
        let known = bug.found_by == "panic" || CHECKS.iter().any(|(name, _)| *name == bug.found_by);
        assert!(known, "{}: there is no check {}", bug.name, bug.found_by);
    }
    let mut rows = on_two_threads(bugs, |bug| {
        let (scenario, mut reached) = (scenario(&bug.scenario, &bug.attackers), 0);
        let mut others: BTreeMap<String, u64> = BTreeMap::new();
        for seed in 1..=bug.seeds {
            let (rang, times) = ring(&bug.name, &scenario, seed);
            reached += times;
            if let Some(said) = rang.get(&bug.found_by) {
                return (bug, Some((seed, said.clone())), reached, others);
            }
            rang.into_keys().for_each(|check| *others.entry(check).or_default() += 1);
        }
        (bug, None, reached, others)
    });
    rows.sort_by(|a, b| a.0.name.cmp(&b.0.name));
    println!("| bug | rule | check | seed | what it said |\n|---|---|---|---:|---|");
    let mut missed = Vec::new();
    for (bug, found, reached, others) in &rows {
        let Bug { name, rule, found_by, seeds, .. } = bug;
        let (seed, said) = match found {
            Some((seed, said)) => (seed.to_string(), said.chars().take(90).collect()),
            None => {
                ("-".into(), format!("**missed in {seeds} seeds**: reached {reached} times, others rang {others:?}"))
            }
        };
        println!("| {name} | {rule} | {found_by} | {seed} | {said} |");
        if found.is_none() {
            missed.push(format!("{name}: {} (reached {reached} times, others rang {others:?})", bug.what));
        }
    }
    assert!(missed.is_empty(), "planted bugs that no check finds:\n{}", missed.join("\n"));
}

#[test]
fn without_a_bug_the_same_runs_are_clean() {
    let mut runs: BTreeMap<(String, Vec<String>), u64> = BTreeMap::new();
    for bug in list() {
        let most = runs.entry((bug.scenario, bug.attackers)).or_default();
        *most = bug.seeds.max(*most);
    }
    let jobs = runs
        .into_iter()
        .flat_map(|((name, attackers), seeds)| (1..=seeds).map(move |seed| (name.clone(), attackers.clone(), seed)));
    let rang = on_two_threads(jobs.collect(), |(name, attackers, seed)| {
        let (rang, reached) = ring(NONE, &scenario(&name, &attackers), seed);
        assert_eq!(reached, 0, "a bug is awake that nobody woke");
        rang.into_iter().map(|(check, said)| format!("{name} {attackers:?} seed {seed}: {check}: {said}")).collect()
    });
    let rang: BTreeSet<String> = rang.into_iter().flat_map(|r: Vec<String>| r).collect();
    assert!(rang.is_empty(), "checks that ring without a bug:\n{}", rang.into_iter().collect::<Vec<_>>().join("\n"));
}
