//! What consensus costs in CPU time, in memory and in one thread: no network, no disk.
//!
//! `make bench`, or this part alone: `cargo bench --workspace --bench consensus [-- FILTER]`
//!
//! Criterion decides how often each thing is repeated and compares it with the run before. Its estimates are
//! means, which hide the slow runs, so every single run is kept too, and printed at the end as median and
//! 99th percentile, in Markdown. What latency comes to between real processes is `testnet bench`.

mod attest;
mod keys;
mod ledger;

use criterion::Criterion;
use std::time::{Duration, Instant};

/// Measures and remembers.
struct Bench {
    criterion: Criterion,
    /// Name and every run, in order of measuring.
    runs: Vec<(String, Vec<Duration>)>,
    /// False when only tried out, by `cargo test --benches`: slow parts are left out then.
    real: bool,
    only: Option<String>,
}

impl Bench {
    /// Whether the command line asks for this one.
    fn wants(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| name.contains(only))
    }

    /// Times `routine` on what `setup` makes, as often as criterion wants. True if it was wanted.
    fn time<S, T>(&mut self, name: &str, mut setup: impl FnMut() -> S, mut routine: impl FnMut(S) -> T) -> bool {
        if !self.wants(name) {
            return false;
        }
        let mut runs = Vec::new();
        self.criterion.bench_function(name, |b| {
            b.iter_custom(|times| {
                let mut total = Duration::ZERO;
                for _ in 0..times {
                    let (took, made) = time_of(&mut setup, &mut routine);
                    runs.push(took);
                    total += took;
                    drop(made);
                }
                total
            });
        });
        self.runs.push((name.to_string(), runs));
        true
    }

    /// Times something slow once. False if it was not wanted.
    fn once<T>(&mut self, name: &str, routine: impl FnOnce() -> T) -> bool {
        if !self.real || !self.wants(name) {
            return false;
        }
        let start = Instant::now();
        let made = std::hint::black_box(routine());
        let took = start.elapsed();
        drop(made);
        println!("{name}: {took:?}");
        self.runs.push((name.to_string(), vec![took]));
        true
    }
}

fn time_of<S, T>(setup: &mut impl FnMut() -> S, routine: &mut impl FnMut(S) -> T) -> (Duration, T) {
    let input = setup();
    let start = Instant::now();
    let made = std::hint::black_box(routine(std::hint::black_box(input)));
    (start.elapsed(), made)
}

/// The value that `percent` of the sorted runs do not exceed.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let place = (sorted.len() * percent).div_ceil(100).clamp(1, sorted.len().max(1));
    sorted.get(place - 1).copied().unwrap_or_default()
}

fn ms(duration: Duration) -> String {
    let ms = duration.as_secs_f64() * 1e3;
    if ms < 1.0 { format!("{ms:.3}") } else { format!("{ms:.1}") }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let only = args.iter().find(|a| !a.starts_with("--")).cloned();
    let criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
        .sample_size(10)
        .configure_from_args();
    let mut bench = Bench { criterion, runs: Vec::new(), real: args.iter().any(|a| a == "--bench"), only };
    let sessions = attest::run(&mut bench);
    keys::run(&mut bench);
    ledger::run(&mut bench);
    bench.criterion.final_summary();

    println!("\n### CPU time in memory (`cargo bench --workspace --bench consensus`)\n");
    attest::print(&sessions, &bench.runs);
    println!("| what | runs | p50 ms | p99 ms |\n|---|---|---|---|");
    for (name, mut runs) in bench.runs {
        if name.starts_with(attest::NAME) {
            continue;
        }
        runs.sort_unstable();
        let p99 = if runs.len() < 20 { "-".into() } else { ms(percentile(&runs, 99)) };
        println!("| {name} | {} | {} | {p99} |", runs.len(), ms(percentile(&runs, 50)));
    }
    println!();
}
