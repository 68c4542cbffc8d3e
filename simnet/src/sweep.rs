//! Every attack and every scenario, seed after seed, until time is over; and what that says about attackers and the
//! honest.
//!
//! One run proves little: a lucky attacker and a seed without luck look alike. So each seed runs an honest network,
//! the same network with each kind of attacker alone, and the scenarios with their attackers and without; what is
//! compared is compared within a seed, and means come with intervals over seeds. When it ends is the caller's: here
//! is no clock.

mod rows;

pub use rows::{AttackRow, Broken, CheckRow, Effect, ScenarioRow, Sweep};

use crate::attackers::{self, Role};
use crate::scenario::Attack;
use crate::{Report, Scenario, ScenarioError};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Most networks at once.
const MAX_WORKERS: usize = 64;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// For how long it was asked; only said in the result.
    pub minutes: u64,
    /// At most so many seeds, from 1.
    pub seeds: u64,
    /// Only these, and what `simnet run` calls them; empty: all that come with the program, and each attack alone.
    pub scenarios: Vec<(String, Scenario)>,
    /// Threads.
    pub workers: usize,
}

/// What a job is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Purpose {
    /// The honest network with which attacks alone are compared.
    Base,
    /// One kind of attacker in it.
    Alone(&'static str),
    /// A scenario.
    Scenario(String),
    /// It, without its attackers.
    Twin(String),
}

#[derive(Clone, Debug)]
struct Job {
    purpose: Purpose,
    scenario: Scenario,
    /// Arguments of `simnet run`, without the seed.
    arguments: String,
}

/// One job of one seed.
pub(crate) struct Ran {
    pub(crate) purpose: Purpose,
    pub(crate) arguments: String,
    pub(crate) report: Report,
}

/// Told after every run.
pub struct Done {
    /// Of which seed.
    pub seed: u64,
    /// What was run.
    pub label: String,
    /// Runs so far.
    pub runs: usize,
    /// If a rule was broken: which, and the command that does it again.
    pub failed: String,
}

/// Virtual minutes of a network with one kind of attacker: about ten rounds, in which a model learns most of what it can.
const ALONE_MINUTES: u64 = 60;

/// `scale` takes as long as everything else together: it is run if it is asked for.
const TOO_LARGE: &str = "scale";

/// A scenario with other attackers. A hostile sponsor stands beside an honest one, or there would be nobody to be paid by.
pub fn attacked(scenario: &Scenario, attackers: Vec<Attack>) -> Scenario {
    let sponsors = |a: &Attack| attackers::kind(&a.name).is_some_and(|k| k.role == Role::Sponsor);
    let mut out = Scenario { attackers, ..scenario.clone() };
    if out.attackers.iter().any(sponsors) {
        (out.sponsors, out.models) = (out.sponsors.max(2), out.models.max(2));
    }
    out
}

fn jobs(options: &Options) -> Result<Vec<Job>, ScenarioError> {
    let mut out = Vec::new();
    let mut scenarios = options.scenarios.clone();
    if scenarios.is_empty() {
        let base = Scenario { minutes: ALONE_MINUTES, ..Scenario::named("honest")? };
        let arguments = format!("honest --minutes {ALONE_MINUTES}");
        out.push(Job { purpose: Purpose::Base, arguments, scenario: base.clone() });
        for kind in attackers::kinds() {
            let attack = Attack { name: kind.name.into(), count: 0, strength_milli: 1_000 };
            let scenario = attacked(&base, vec![attack]);
            scenario.check()?;
            let arguments = format!("honest --minutes {ALONE_MINUTES} --attackers {}", kind.name);
            out.push(Job { purpose: Purpose::Alone(kind.name), arguments, scenario });
        }
        let all = Scenario::built_in().map(|(name, _)| name).filter(|name| !["honest", TOO_LARGE].contains(name));
        scenarios =
            all.map(|name| Ok((name.to_owned(), Scenario::named(name)?))).collect::<Result<_, ScenarioError>>()?;
    }
    for (name, scenario) in scenarios {
        let twin = Scenario { attackers: Vec::new(), ..scenario.clone() };
        let attacked = !scenario.attackers.is_empty();
        out.push(Job { purpose: Purpose::Scenario(name.clone()), arguments: name.clone(), scenario });
        if attacked {
            let arguments = format!("{name} --attackers ''");
            out.push(Job { purpose: Purpose::Twin(name), arguments, scenario: twin });
        }
    }
    Ok(out)
}

/// Runs until `go_on` says no; what has begun is finished. What comes out follows from the runs that were made, in
/// whatever order they ended.
///
/// # Errors
/// If a scenario cannot be run.
pub fn run(
    options: &Options,
    go_on: impl Fn() -> bool + Sync,
    told: impl Fn(&Done) + Sync,
) -> Result<Sweep, ScenarioError> {
    let jobs = jobs(options)?;
    let most = jobs.len().saturating_mul(usize::try_from(options.seeds).unwrap_or(usize::MAX));
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let found: Mutex<Vec<(usize, Result<Ran, ScenarioError>)>> = Mutex::new(Vec::new());
    let lock = || found.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    // a network is not Send: each is built, run and dropped in its thread
    let work = || {
        while go_on() && !failed.load(Ordering::Relaxed) {
            let place = next.fetch_add(1, Ordering::Relaxed);
            let Some(job) = jobs.get(place % jobs.len()).filter(|_| place < most) else { return };
            let seed = 1 + (place / jobs.len()) as u64;
            let report = crate::run(&job.scenario, seed);
            failed.fetch_or(report.is_err(), Ordering::Relaxed);
            let (purpose, arguments) = (job.purpose.clone(), job.arguments.clone());
            let done = report.as_ref().ok().map(|report| {
                let first = report.violations.first();
                let broken = |v: &crate::checks::Violation| {
                    format!("{}: {}; once more: simnet run {arguments} --seed {seed} --trace", v.check, v.detail)
                };
                Done {
                    seed,
                    label: arguments.clone(),
                    runs: lock().len() + 1,
                    failed: first.map(broken).unwrap_or_default(),
                }
            });
            done.iter().for_each(&told);
            lock().push((place, report.map(|report| Ran { purpose, arguments, report })));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..options.workers.clamp(1, MAX_WORKERS) {
            scope.spawn(work);
        }
    });
    let mut found = found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    found.sort_by_key(|(place, _)| *place);
    let runs: Vec<Ran> = found.into_iter().map(|(_, ran)| ran).collect::<Result<_, _>>()?;
    Ok(Sweep::of(&runs))
}
