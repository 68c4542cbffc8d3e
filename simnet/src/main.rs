//! `simnet`: networks and attacks as commands.

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use oda_simnet::attackers;
use oda_simnet::beacon_bias::{Setting, Wish, measure};
use oda_simnet::report::page::Page;
use oda_simnet::report::summary::{Summary, grouped};
use oda_simnet::report::table::Table;
use oda_simnet::scenario::Attack;
use oda_simnet::sweep::{self, Sweep};
use oda_simnet::{Scenario, ScenarioError, bench, run_told};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

#[derive(Parser)]
#[command(name = "simnet", about = "Whole networks in one process, and what attacks on them gain", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run one network from one seed, and say what came of it. Exit code 1 if a rule was broken.
    Run(Run),
    /// Show the scenarios and the attackers there are.
    List,
    /// Run every attack and every scenario with seed after seed, and say what attackers gained.
    Sweep {
        /// Wall time; what has begun is finished.
        #[arg(long, default_value_t = 10)]
        minutes: u64,
        /// At most so many seeds, from 1.
        #[arg(long, default_value_t = 1_000)]
        seeds: u64,
        /// Only this scenario (a name or a path), and no attack alone; may be given several times.
        #[arg(long)]
        scenario: Vec<String>,
        /// Networks at once.
        #[arg(long, default_value_t = 2)]
        workers: usize,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// Write `attacks.json` and `attacks.md` into this folder.
        #[arg(long)]
        write: Option<PathBuf>,
    },
    /// Turn what a sweep found into one HTML file that needs nothing else.
    Report {
        /// What `simnet sweep --write` wrote.
        #[arg(default_value = "docs/results/attacks.json")]
        file: PathBuf,
        /// Where to.
        #[arg(short, long, default_value = "attacks.html")]
        output: PathBuf,
    },
    /// Measure the simulator itself, and print a table for docs/benchmarks.md.
    Bench {
        /// A first look: less of everything.
        #[arg(long)]
        quick: bool,
        /// Nodes of the largest network.
        #[arg(long, default_value_t = 1_000)]
        nodes: u32,
        /// Add a line for each figure to `simulator.jsonl` in this folder: how fast it was, release by release.
        #[arg(long)]
        write: Option<PathBuf>,
    },
    /// What a grinding minority gains from the naive beacon and from the DVRF (attack 18).
    BeaconBias {
        /// Committee size n; t = floor(2n/3) + 1.
        #[arg(long, default_value_t = 4)]
        members: usize,
        /// Members that grind, at most n - t.
        #[arg(long, default_value_t = 1)]
        grinders: usize,
        /// Beacons drawn for each line of the table.
        #[arg(long, default_value_t = 2_000)]
        trials: u32,
        /// Everything is drawn from it.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Signatures a leading grinder makes before it publishes one.
        #[arg(long, default_value_t = 8)]
        tries: u32,
        /// The grinders wish for a property that one beacon in this many has.
        #[arg(long, default_value_t = 8, conflicts_with = "validators")]
        one_in: u32,
        /// Instead: they wish that all of them sit in the next committee, drawn from this many validators.
        #[arg(long)]
        validators: Option<u32>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
struct Run {
    /// Name, or path of a .toml file.
    scenario: String,
    /// Everything is drawn from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// About so many nodes: trainers, and attackers in proportion, are added or left out.
    #[arg(long)]
    nodes: Option<u32>,
    /// Virtual minutes during which faults and attacks last.
    #[arg(long)]
    minutes: Option<u64>,
    /// These attackers instead of the scenario's; `noise:3` is three of a kind.
    #[arg(long, value_delimiter = ',')]
    attackers: Option<Vec<String>>,
    /// Print a line for every block, outcome, claim, fault and eviction, to standard error.
    #[arg(long)]
    trace: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// A name that comes with the program, or the path of a file.
fn scenario(name: &str) -> Result<Scenario, ScenarioError> {
    if !name.ends_with(".toml") && !name.contains('/') {
        return Scenario::named(name);
    }
    let read = std::fs::read_to_string(name);
    Scenario::parse(&read.map_err(|e| ScenarioError::Unreadable(format!("{name}: {e}")))?)
}

impl Run {
    fn scenario(&self) -> Result<Scenario, ScenarioError> {
        let mut scenario = scenario(&self.scenario)?;
        if let Some(asked) = &self.attackers {
            let attack = |text: &String| {
                let (name, count) = text.split_once(':').unwrap_or((text, "0"));
                let count = count.parse();
                let limit = || "name or name:count".to_owned();
                let wrong = |_| ScenarioError::Impossible { what: format!("attacker `{text}`"), limit: limit() };
                Ok(Attack { name: name.to_owned(), count: count.map_err(wrong)?, strength_milli: 1_000 })
            };
            let wanted = asked.iter().filter(|text| !text.is_empty());
            scenario = sweep::attacked(&scenario, wanted.map(attack).collect::<Result<_, ScenarioError>>()?);
        }
        scenario.minutes = self.minutes.unwrap_or(scenario.minutes);
        scenario.check()?;
        match self.nodes {
            Some(nodes) => scenario.with_nodes(nodes),
            None => Ok(scenario),
        }
    }

    /// The command that does it again.
    fn again(&self) -> String {
        let mut out = format!("simnet run {} --seed {}", self.scenario, self.seed);
        let mut add = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                out += &format!(" --{name} {value}");
            }
        };
        add("nodes", self.nodes.map(|n| n.to_string()));
        add("minutes", self.minutes.map(|n| n.to_string()));
        add("attackers", self.attackers.as_ref().map(|a| if a.is_empty() { "''".into() } else { a.join(",") }));
        out
    }

    fn run(&self) -> anyhow::Result<ExitCode> {
        let scenario = self.scenario()?;
        let log: Option<oda_simnet::checks::Log> = self.trace.then(|| {
            Box::new(|at_ms: u64, line: &str| {
                let ms = at_ms.saturating_sub(oda_simnet::sim::START_MS);
                let (h, m, s) = (ms / 3_600_000, ms / 60_000 % 60, ms as f64 / 1e3 % 60.0);
                eprintln!("{h:02}:{m:02}:{s:06.3}  {}", line.trim_end());
            }) as _
        });
        let begun = Instant::now();
        let report = run_told(&scenario, self.seed, log)?;
        let again = self.again();
        let mut out = std::io::stdout().lock();
        if self.json {
            writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
        } else {
            let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            write!(out, "{}", Summary { report: &report, replay: &again, colour })?;
            let wall_s = begun.elapsed().as_secs_f64();
            let speed = report.virtual_ms as f64 / 1e3 / wall_s.max(1e-3);
            writeln!(out, "It took {wall_s:.1} s: {} times as fast as the clock.", grouped(speed.round() as i128))?;
        }
        if report.found > 0 && self.json {
            eprintln!("simnet: {} violations; once more: {again} --trace", report.found);
        }
        Ok(if report.found == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
    }
}

fn list(out: &mut impl Write) -> anyhow::Result<()> {
    writeln!(out, "Scenarios: simnet run NAME")?;
    for (name, text) in Scenario::built_in() {
        let scenario = Scenario::parse(text)?;
        writeln!(out, "  {name:<16} {}", scenario.about)?;
    }
    writeln!(out, "\nAttackers: simnet run SCENARIO --attackers NAME,NAME:COUNT")?;
    for kind in attackers::kinds() {
        let rows: Vec<String> = kind.rows.iter().map(u8::to_string).collect();
        let role = format!("{:?}", kind.role).to_lowercase();
        writeln!(out, "  {:<16} {role}, row {} of the attack table", kind.name, rows.join(" and "))?;
        for (what, text) in
            [("wants", kind.goal), ("gains", kind.gain), ("stopped by", kind.stopped_by), ("left", kind.left)]
        {
            writeln!(out, "  {:<16}   {what:<10} {text}", "")?;
        }
    }
    Ok(())
}

fn sweep(options: &sweep::Options, json: bool, write: Option<&Path>) -> anyhow::Result<ExitCode> {
    let deadline = Instant::now() + Duration::from_secs(options.minutes * 60);
    let told = |done: &sweep::Done| {
        if !done.failed.is_empty() {
            eprintln!("{}", done.failed);
        }
        eprintln!("seed {:>3}  {:<28} {} runs", done.seed, done.label, done.runs);
    };
    let found = sweep::run(options, || Instant::now() < deadline, told)?;
    let mut out = std::io::stdout().lock();
    let (text, table) = (serde_json::to_string_pretty(&found)?, Table(&found).to_string());
    if let Some(dir) = write {
        std::fs::create_dir_all(dir)?;
        std::fs::write(dir.join("attacks.json"), format!("{text}\n"))?;
        std::fs::write(dir.join("attacks.md"), &table)?;
    }
    writeln!(out, "{}", if json { text } else { table })?;
    Ok(if found.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn report(file: &Path, output: &Path) -> anyhow::Result<()> {
    let why =
        |e: &dyn std::fmt::Display| anyhow::anyhow!("{}: {e}; `simnet sweep --write DIR` makes one", file.display());
    let text = std::fs::read_to_string(file).map_err(|e| why(&e))?;
    let found: Sweep = serde_json::from_str(&text).map_err(|e| why(&e))?;
    if output.extension().is_some_and(|end| end == "md") {
        std::fs::write(output, Table(&found).to_string())?;
    } else {
        std::fs::write(output, Page(&found).to_string())?;
        println!("{}: open it in a browser", output.display());
    }
    Ok(())
}

fn bench_all(quick: bool, nodes: u32, write: Option<&Path>) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let file = write.map(|folder| folder.join("simulator.jsonl"));
    let open = |path: &PathBuf| {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        file.with_context(|| format!("{}: give --write a folder that exists", path.display()))
    };
    let mut trend = file.as_ref().map(open).transpose()?;
    writeln!(out, "{}", bench::HEAD)?;
    for measurement in bench::all(quick, nodes) {
        let begun = Instant::now();
        let done = (measurement.run)()?;
        let wall_s = begun.elapsed().as_secs_f64();
        writeln!(out, "{}", measurement.line(&done, wall_s))?;
        out.flush()?;
        if let Some(trend) = &mut trend {
            let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
            writeln!(trend, "{}", measurement.record(&done, wall_s, now_s))?;
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    let done = command(Cli::parse().command);
    done.unwrap_or_else(|error| {
        eprintln!("simnet: {error}");
        // what was asked cannot be done; 1 is for rules that were broken
        ExitCode::from(2)
    })
}

fn command(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(run) => return run.run(),
        Command::List => list(&mut std::io::stdout().lock())?,
        Command::Sweep { minutes, seeds, scenario: names, workers, json, write } => {
            let scenarios = names.iter().map(|name| Ok((name.clone(), scenario(name)?)));
            let scenarios = scenarios.collect::<Result<Vec<_>, ScenarioError>>()?;
            let options = sweep::Options { minutes, seeds, scenarios, workers };
            return sweep(&options, json, write.as_deref());
        }
        Command::Report { file, output } => report(&file, &output)?,
        Command::Bench { quick, nodes, write } => bench_all(quick, nodes, write.as_deref())?,
        Command::BeaconBias { members, grinders, trials, seed, tries, one_in, validators, json } => {
            let wish = validators.map_or(Wish::OneIn(one_in), |validators| Wish::Seats { validators });
            let mut out = std::io::stdout().lock();
            let report = measure(&Setting { members, grinders, trials, seed, tries, wish })?;
            if json {
                writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
            } else {
                write!(out, "{report}")?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
