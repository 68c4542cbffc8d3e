//! Measures the simulator itself. What a clock says is the caller's: here is only what is run.

use crate::report::summary::grouped;
use crate::{Report, Scenario, ScenarioError, run};

/// Head of the table.
pub const HEAD: &str = "| what | figure | goal | repeat |\n|---|---|---|---|";

/// What came out, without the clock.
pub enum Done {
    /// One network.
    Ran(Box<Report>),
    /// The same seed so many times; how many had the first one's trace.
    Same(u32, u32),
}

/// One line of the table.
pub struct Measurement {
    what: &'static str,
    goal: &'static str,
    repeat: String,
    /// What is run.
    pub run: Box<dyn Fn() -> Result<Done, ScenarioError>>,
}

impl Measurement {
    /// A line of the table.
    pub fn line(&self, done: &Done, wall_s: f64) -> String {
        let wall_s = wall_s.max(1e-3);
        let figure = match done {
            Done::Ran(r) => {
                let nodes = grouped(r.network.2.into());
                let speed = grouped((r.virtual_ms as f64 / 1e3 / wall_s).round() as i128);
                let events = grouped((r.events as f64 / wall_s).round() as i128);
                let (hours, broken) = (r.virtual_ms as f64 / 3.6e6, r.found);
                format!(
                    "{speed} simulated seconds a second, {events} events a second: {nodes} nodes, {hours:.1} h in {wall_s:.1} s, {broken} violations"
                )
            }
            Done::Same(same, of) => format!("{same} of {of}, {:.1} runs a second", f64::from(*of) / wall_s),
        };
        format!("| {} | {figure} | {} | {} |", self.what, self.goal, self.repeat)
    }

    /// The same as a line of JSON, to be compared with earlier ones.
    pub fn record(&self, done: &Done, wall_s: f64, now_s: u64) -> serde_json::Value {
        let mut record = match done {
            Done::Ran(r) => serde_json::json!({
                "nodes": r.network.2, "simulated_s": r.virtual_ms as f64 / 1e3, "events": r.events, "violations": r.found,
            }),
            Done::Same(same, of) => serde_json::json!({ "same": same, "of": of }),
        };
        record["what"] = self.what.into();
        record["wall_s"] = ((wall_s * 1e3).round() / 1e3).into();
        record["unix_s"] = now_s.into();
        record["version"] = env!("CARGO_PKG_VERSION").into();
        record
    }
}

fn of(what: &'static str, goal: &'static str, repeat: String, scenario: Scenario) -> Measurement {
    let go = move || run(&scenario, 1).map(|report| Done::Ran(Box::new(report)));
    Measurement { what, goal, repeat, run: Box::new(go) }
}

/// The lines, in order; `quick`: less of everything.
pub fn all(quick: bool, nodes: u32) -> Vec<Measurement> {
    let minutes = if quick { 30 } else { 600 };
    let small = Scenario { name: "bench".into(), minutes, validators: 4, trainers: 2, ..Scenario::default() };
    let seven = Scenario { validators: 7, trainers: 4, ..small.clone() };
    let repeat = || format!("`simnet bench{}`", if quick { " --quick" } else { "" });
    let times = if quick { 5 } else { 100 };
    let again = Scenario { minutes: 10, ..small.clone() };
    let same = move || {
        let traces = (0..times).map(|_| run(&again, 7).map(|r| r.trace)).collect::<Result<Vec<_>, _>>()?;
        let same = traces.iter().filter(|t| Some(*t) == traces.first()).count();
        Ok(Done::Same(u32::try_from(same).unwrap_or(0), times))
    };
    let large = Scenario::named("scale").and_then(|s| {
        let minutes = if quick { 20 } else { s.minutes };
        Scenario { minutes, ..s }.with_nodes(nodes)
    });
    let mut out = vec![
        of("7 nodes: 4 validators, a sponsor, 2 trainers", ">= 1,000", repeat(), small),
        of("7 validators, a sponsor, 4 trainers", "-", repeat(), seven),
        Measurement { what: "same seed, same trace", goal: "100 of 100", repeat: repeat(), run: Box::new(same) },
    ];
    let command = format!("`simnet run scale --nodes {nodes}{}`", if quick { " --minutes 20" } else { "" });
    match large {
        Ok(large) => {
            out.push(of("largest network, three kinds of attackers", "1,000 nodes within 10 min", command, large))
        }
        Err(error) => {
            let fail = move || Err(error.clone());
            out.push(Measurement { what: "largest network", goal: "-", repeat: command, run: Box::new(fail) });
        }
    }
    out
}
