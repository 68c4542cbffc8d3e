//! The network in one process: virtual time, faults and attackers from one seed, and checks that look on.
//!
//! Everything runs in memory on the code the node runs; nothing here has a socket or a clock.
//!
//! ```
//! use oda_simnet::{Scenario, run};
//!
//! let scenario = Scenario { minutes: 10, ..Scenario::named("honest").unwrap() };
//! let report = run(&scenario, 1).unwrap();
//! assert!(report.violations.is_empty());
//! ```

#[path = "../attackers/mod.rs"]
pub mod attackers;
pub mod beacon_bias;
pub mod bench;
pub mod checks;
pub mod learning;
pub mod report;
pub mod scenario;
pub mod sim;
pub mod sweep;

pub use report::Report;
pub use scenario::{Scenario, ScenarioError};

use sim::Sim;

/// Runs a scenario from a seed: the safety phase, then the liveness phase.
///
/// # Errors
/// If the scenario cannot be run.
pub fn run(scenario: &Scenario, seed: u64) -> Result<Report, ScenarioError> {
    run_told(scenario, seed, None)
}

/// [`run`], and somebody is told what happens while it does.
///
/// # Errors
/// If the scenario cannot be run.
pub fn run_told(scenario: &Scenario, seed: u64, log: Option<checks::Log>) -> Result<Report, ScenarioError> {
    let mut sim = Sim::new(scenario.clone(), seed)?;
    sim.checks.log = log;
    sim.run_stormy();
    let settled_ms = sim.run_calm();
    Ok(Report::of(sim, settled_ms))
}
