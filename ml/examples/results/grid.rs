//! Runs the cells of an experiment, some at once, each finished one kept on disk at once.

use crate::Args;
use crate::report;
use oda_ml::MlError;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::error::Error;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Runs the cells that `path` does not hold yet, in order, and returns every finished cell of the list as
/// `{"cell": parameters, "result": what was measured}`.
///
/// A cell sees only its parameters and one thread, so results do not depend on what else runs.
///
/// # Errors
/// If a cell fails or the file cannot be written; what was finished before is kept.
pub fn run(
    cells: &[Value],
    path: &Path,
    args: &Args,
    one: impl Fn(&Value) -> Result<Value, MlError> + Sync,
) -> Result<Vec<Value>, Box<dyn Error>> {
    let others = args.cells.as_ref().map(|file| report::load(file));
    let cells = others.as_deref().unwrap_or(cells);
    let done: BTreeSet<String> = report::load(path).iter().map(|line| line["cell"].to_string()).collect();
    let left: Vec<&Value> = cells.iter().filter(|cell| !done.contains(&cell.to_string())).collect();
    println!("{} cells, {} of them to run", cells.len(), left.len());
    let (clock, next, failed) = (Instant::now(), AtomicUsize::new(0), Mutex::new(None));
    let worker = || {
        // libtorch counts the threads of each thread by itself
        oda_ml::torch::set_threads(1);
        loop {
            let late = args.minutes.is_some_and(|m| clock.elapsed().as_secs_f64() > 60.0 * m);
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(cell) = left.get(at).filter(|_| !late) else { return };
            let begun = clock.elapsed().as_secs_f64();
            let kept = one(cell).map_err(|e| format!("{cell}: {e}")).and_then(|result| {
                let seconds = clock.elapsed().as_secs_f64() - begun;
                println!("{} of {}, {seconds:.0} s: {cell} {}", at + 1, left.len(), brief(&result));
                // one short write a line: lines of two workers do not mix
                report::append(path, &json!({ "cell": cell, "result": result })).map_err(|e| e.to_string())
            });
            if let (Err(e), Ok(mut failed)) = (kept, failed.lock()) {
                *failed = Some(e);
                next.fetch_add(left.len(), Ordering::Relaxed);
                return;
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..args.workers.clamp(1, 64) {
            scope.spawn(worker);
        }
    });
    if let Some(e) = failed.into_inner().unwrap_or(None) {
        return Err(e.into());
    }
    let wanted: BTreeSet<String> = cells.iter().map(Value::to_string).collect();
    Ok(report::load(path).into_iter().filter(|line| wanted.contains(&line["cell"].to_string())).collect())
}

/// A result without its lists.
fn brief(result: &Value) -> String {
    let plain = result.as_object().into_iter().flatten().filter(|(_, v)| !v.is_array());
    plain.map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" ")
}

/// Lines whose cell has all of these parameters.
pub fn those<'a>(lines: &'a [Value], with: &[(&str, Value)]) -> Vec<&'a Value> {
    lines.iter().filter(|line| with.iter().all(|(key, value)| line["cell"][*key] == *value)).collect()
}

/// A figure of each of those results.
pub fn figures(lines: &[Value], with: &[(&str, Value)], figure: &str) -> Vec<f64> {
    those(lines, with).iter().filter_map(|line| line["result"][figure].as_f64()).collect()
}

/// A parameter that must be there.
///
/// # Errors
/// If the cell has no such whole number.
pub fn number(cell: &Value, key: &str) -> Result<u32, MlError> {
    let found = cell[key].as_u64().and_then(|n| u32::try_from(n).ok());
    found.ok_or_else(|| MlError::Data(format!("a cell without `{key}`")))
}

/// `1.234 ± 0.005`.
pub fn plus_minus(values: &[f64], digits: usize) -> String {
    match values.len() {
        0 => "-".into(),
        1 => format!("{:.digits$}", report::mean_ci(values).0),
        _ => {
            let (mean, half) = report::mean_ci(values);
            format!("{mean:.digits$} ± {half:.digits$}")
        }
    }
}
