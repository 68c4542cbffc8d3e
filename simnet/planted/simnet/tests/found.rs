//! Does the alarm work? Every planted bug, awake, is found by the check that is there for it, within its seeds; the
//! same runs with all bugs asleep are clean. And every row of the attack table with its defence switched off breaks a
//! rule. One bug alone: `PLANTED=name cargo test -p oda-simnet-planted`.

#[path = "../../plant.rs"]
mod plant;

use oda_consensus::planted::wake;
use oda_simnet_planted::attackers::kind;
use oda_simnet_planted::checks::CHECKS;
use oda_simnet_planted::run;
use oda_simnet_planted::scenario::{Attack, Scenario};
use plant::{Bug, Row};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

/// Name of no bug: with it awake, all sleep.
const NONE: &str = "none";

fn toml() -> String {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../bugs.toml");
    std::fs::read_to_string(file).expect(file)
}

/// Whether a bug is to be looked at.
fn wanted(name: &str) -> bool {
    std::env::var("PLANTED").map_or(true, |part| name.contains(&part))
}

fn list() -> Vec<Bug> {
    let bugs = plant::read(&toml()).expect("the list");
    bugs.into_iter().filter(|b| wanted(&b.name)).collect()
}

/// Attackers: which, how many (0: as its kind says), how hard they try (0: as usual).
type Attackers = Vec<(String, u32, u32)>;

fn scenario(name: &str, attackers: &Attackers) -> Scenario {
    let file = format!("{}/../scenarios/{name}.toml", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{file}: {e}"));
    let mut scenario = Scenario::parse(&text).unwrap_or_else(|e| panic!("{file}: {e}"));
    let strength = |milli| if milli == 0 { 1_000 } else { milli };
    let attack = |(name, count, milli): &(String, u32, u32)| Attack {
        name: name.clone(),
        count: *count,
        strength_milli: strength(*milli),
    };
    scenario.attackers = attackers.iter().map(attack).collect();
    scenario.check().unwrap_or_else(|e| panic!("{name} with {attackers:?}: {e}"));
    scenario
}

fn attackers(bug: &Bug) -> Attackers {
    bug.attackers.iter().map(|name| (name.clone(), 0, bug.strength_milli)).collect()
}

fn attack(row: &Row) -> Attackers {
    vec![(row.attack.clone(), row.names, row.strength_milli)]
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
        let (scenario, mut reached) = (scenario(&bug.scenario, &attackers(&bug)), 0);
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
    let mut runs: BTreeMap<(String, Attackers), u64> = BTreeMap::new();
    let rows = plant::rows(&toml()).expect("the list").into_iter().filter(|row| wanted(&row.bug));
    let bugs = list().into_iter().map(|bug| ((bug.scenario.clone(), attackers(&bug)), bug.seeds));
    for (run, seeds) in bugs.chain(rows.map(|row| ((row.scenario.clone(), attack(&row)), row.seeds))) {
        let most = runs.entry(run).or_default();
        *most = seeds.max(*most);
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

/// What came of one row: the seed and what the check said, how often the wrong line ran, which other checks rang, and
/// whether the check rings without the attack.
struct Tried {
    row: Row,
    found: Option<(u64, String)>,
    reached: u64,
    others: BTreeSet<String>,
    alone: bool,
}

fn try_row(row: Row) -> Tried {
    let attacked = scenario(&row.scenario, &attack(&row));
    let alone = scenario(&row.scenario, &Vec::new());
    let (mut found, mut reached, mut others) = (None, 0, BTreeSet::new());
    for seed in 1..=row.seeds {
        let (mut rang, times) = ring(&row.bug, &attacked, seed);
        reached += times;
        if let Some(said) = rang.remove(&row.breaks) {
            found = Some((seed, said));
            break;
        }
        others.extend(rang.into_keys());
    }
    let last = found.as_ref().map_or(row.seeds, |(seed, _)| *seed);
    let alone = (1..=last).any(|seed| ring(&row.bug, &alone, seed).0.contains_key(&row.breaks));
    Tried { row, found, reached, others, alone }
}

#[test]
fn every_attack_with_its_defence_off_breaks_a_rule() {
    let rows = plant::rows(&toml()).expect("the list");
    let missing: Vec<u8> = (1..=18).filter(|n| !rows.iter().any(|row| row.row == *n)).collect();
    assert!(missing.is_empty(), "rows of the attack table without a test that switches their defence off: {missing:?}");
    for row in &rows {
        assert!(
            CHECKS.iter().any(|(name, _)| *name == row.breaks),
            "row {}: there is no check {}",
            row.row,
            row.breaks
        );
        let kind = kind(&row.attack).unwrap_or_else(|| panic!("row {}: no attacker {}", row.row, row.attack));
        assert!(kind.rows.contains(&row.row), "{} is no attack of row {}", row.attack, row.row);
    }
    let rows: Vec<Row> = rows.into_iter().filter(|row| wanted(&row.bug)).collect();
    let mut tried = on_two_threads(rows, try_row);
    tried.sort_by_key(|t| t.row.row);
    println!(
        "| row | attack | defence off | check | seed | without the attack | what it said |\n|---:|---|---|---|---:|---|---|"
    );
    let mut wrong = Vec::new();
    for Tried { row, found, reached, others, alone } in &tried {
        let Row { row: number, attack, bug, breaks, seeds, .. } = row;
        let (seed, said) =
            found.as_ref().map_or(("-".into(), String::new()), |(seed, said)| (seed.to_string(), said.clone()));
        let quiet = if *alone { "rings" } else { "quiet" };
        println!(
            "| {number} | {attack} | {bug} | {breaks} | {seed} | {quiet} | {} |",
            said.chars().take(90).collect::<String>()
        );
        if found.is_none() {
            wrong.push(format!("row {number}: {attack} without {bug} breaks nothing in {seeds} seeds (reached {reached} times, others rang {others:?})"));
        }
        if *alone != row.alone {
            wrong.push(format!("row {number}: without the attack {breaks} {quiet}, `alone` says otherwise"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
