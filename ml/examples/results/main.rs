//! The experiments behind the claims of the project: each a command with fixed seeds that writes its table and
//! its plots, so that anyone may repeat it and look for what was left out.
//!
//! `cargo run --release -p oda-ml --example results -- NAME [--seeds N] [--minutes M] [--quick] [--tune]`
//! (see `docs/results/`). A figure measured once by hand cannot be checked; and a grid of hours that must start
//! anew after every interruption is never run again. So each finished cell is a line in `NAME.jsonl`, a cell that is
//! there is not run again, and the report is made from what there is.

mod collaboration;
mod cost;
mod evaluations;
mod grid;
mod language;
mod memory;
mod model;
mod overfit;
mod pay;
mod pay_report;
mod rejection;
mod rejection_report;
mod report;
mod rules;
mod settings;
mod speed;
mod strategies;

use std::error::Error;
use std::path::PathBuf;

/// An experiment.
type Run = fn(&Args) -> Result<(), Box<dyn Error>>;

/// Every experiment by name.
const EXPERIMENTS: &[(&str, &str, Run)] = &[
    ("language", "loss per byte of AdamW, dense DiLoCo and ours at equal tokens", language::run),
    ("collaboration", "Fashion-MNIST by several trainers against one with the same compute", collaboration::run),
    ("settings", "what compression suits the models of the demo", settings::run),
    ("overfit", "what 500 queries of a public score are worth", overfit::run),
    ("pay", "who gets paid for what", pay::run),
    ("rejection", "honest claims refused, dishonest ones accepted", rejection::run),
    ("speed", "evaluation and training against Python PyTorch", speed::run),
    ("cost", "replaying a claim against training it, over the size of a round", cost::run),
    ("memory", "peak memory of a validator judging 16 claims of a 10 M parameter model", memory::run),
];

/// What the command line says.
pub struct Args {
    /// Seeds 0 to this minus one; each experiment has its default.
    pub seeds: Option<u64>,
    /// No cell is started later than so many minutes after the start.
    pub minutes: Option<f64>,
    /// Tiny cells, in seconds: shows that the command works, and nothing else.
    pub quick: bool,
    /// Runs the cells from which the settings were chosen (seeds 100 and up) instead of the reported ones.
    pub tune: bool,
    /// Other cells than the experiment's own: one JSON object a line.
    pub cells: Option<PathBuf>,
    /// Cells run at once, each on one thread.
    pub workers: usize,
    /// Where data lie that the repository does not hold.
    pub data: Option<PathBuf>,
    /// The Python that has PyTorch, for `speed`.
    pub python: Option<PathBuf>,
    /// Where cells, reports and plots go.
    pub out: PathBuf,
    /// Where models and data of the repository lie.
    pub root: PathBuf,
}

const USAGE: &str = "usage: results NAME [--seeds N] [--minutes M] [--workers N] [--cells FILE] [--data DIR] [--out DIR] \
                     [--python PYTHON] [--quick] [--tune]";

impl Args {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<(String, Self), Box<dyn Error>> {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut args = Self {
            seeds: None,
            minutes: None,
            quick: false,
            tune: false,
            cells: None,
            workers: 2,
            data: None,
            python: None,
            out: PathBuf::new(),
            root,
        };
        let mut name = None;
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value\n{USAGE}"));
            match word.as_str() {
                "--quick" => args.quick = true,
                "--tune" => args.tune = true,
                "--seeds" => args.seeds = Some(value()?.parse()?),
                "--minutes" => args.minutes = Some(value()?.parse()?),
                "--workers" => args.workers = value()?.parse()?,
                "--cells" => args.cells = Some(value()?.into()),
                "--data" => args.data = Some(value()?.into()),
                "--python" => args.python = Some(value()?.into()),
                "--out" => args.out = value()?.into(),
                _ if name.is_none() && !word.starts_with('-') => name = Some(word),
                _ => return Err(format!("`{word}` is not known\n{USAGE}").into()),
            }
        }
        if args.out.as_os_str().is_empty() {
            // a quick run never touches the committed results
            let quick = std::env::temp_dir().join(format!("oda-results-{}", std::process::id()));
            args.out = if args.quick { quick } else { args.root.join("docs/results") };
        }
        Ok((name.ok_or_else(|| format!("{USAGE}\n{}", list()))?, args))
    }
}

fn list() -> String {
    EXPERIMENTS.iter().map(|(name, what, _)| format!("  {name}: {what}\n")).collect()
}

fn main() -> Result<(), Box<dyn Error>> {
    let (name, args) = Args::parse(std::env::args().skip(1))?;
    let wanted: Vec<_> = EXPERIMENTS.iter().filter(|(known, ..)| name == "all" || *known == name).collect();
    if wanted.is_empty() {
        return Err(format!("no experiment `{name}`; there are `all` and\n{}", list()).into());
    }
    oda_ml::torch::set_threads(1);
    for (name, _, run) in wanted {
        run(&args).map_err(|e| format!("{name}: {e}"))?;
        println!("{}", args.out.join(format!("{name}.md")).display());
    }
    Ok(())
}
