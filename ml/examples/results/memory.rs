//! Peak memory of a validator that judges 16 claims of a model of ten million parameters.
//!
//! An estimate from sizes of tensors leaves out what libraries keep, and a process that has done anything else before
//! shows that instead. So for each case the deltas are made here, and a fresh process does nothing but read its files and
//! replay the round; its peak is what the kernel says (`VmHWM`), less that of another that loads libtorch and measures
//! one sample of a tiny model.

use crate::model::{self, TORCH};
use crate::report::Report;
use crate::{Args, report};
use oda_consensus::architecture::{Architecture, SampleShape};
use oda_consensus::delta;
use oda_consensus::fuzzing::sample_manifest;
use oda_consensus::ids::ClaimId;
use oda_consensus::manifest::Manifest;
use oda_consensus::score::Measurement;
use oda_ml::judge::{self, Claim, Round, Submitted};
use oda_ml::{Backend as _, Dataset, Inner, MlError, ModelData, Work, cheat, compress, data, weights};
use serde_json::{Value, json};
use std::error::Error;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;

/// Claims of the round.
const CLAIMS: u32 = 16;

/// The goal, in MB of 1,000,000 bytes.
const GOAL_MB: f64 = 1000.0;

/// Names the folder of a case to the fresh process.
const FOLDER: &str = "ODA_RESULTS_MEMORY_CASE";

/// Samples: training split (of which shards are drawn), evaluation split, test split.
type Splits = [u32; 3];

struct Case {
    name: &'static str,
    architecture: Architecture,
    /// Shard, gate (and confirm) sample.
    samples: [u32; 2],
    splits: Splits,
    /// Changes kept of each chunk.
    kept: (u32, u32),
    /// Steps each delta is trained for.
    steps: u32,
    batch: u32,
}

fn mlp(hidden: &[u32]) -> Architecture {
    Architecture::Mlp { inputs: 784, hidden: hidden.into(), classes: 10 }
}

fn cases(quick: bool) -> Vec<Case> {
    let large = || mlp(&[3072, 2432]);
    let (samples, splits, kept) = ([32, 100], [20_000, 4_000, 100], (64, 4096));
    let base = || Case { name: "MLP", architecture: large(), samples, splits, kept, steps: 8, batch: 16 };
    if quick {
        return vec![Case { name: "small MLP", architecture: mlp(&[64]), ..base() }];
    }
    let text = Architecture::Transformer { context: 32, width: 320, layers: 8, heads: 5 };
    vec![
        base(),
        Case { name: "MLP, 10 times the samples", samples: [320, 1000], ..base() },
        Case { name: "MLP, 1 of 8 changes kept", kept: (128, 1024), ..base() },
        Case {
            name: "transformer",
            architecture: text,
            samples: [32, 32],
            splits: [2_000, 1_000, 32],
            steps: 2,
            batch: 8,
            ..base()
        },
    ]
}

/// Runs the experiment, or one case of it in a fresh process.
///
/// # Errors
/// If a case fails or a file cannot be written.
pub fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    if let Some(folder) = std::env::var_os(FOLDER) {
        println!("{}", judge_case(Path::new(&folder))?);
        return Ok(());
    }
    let tiny = Case {
        name: "tiny",
        architecture: mlp(&[]),
        samples: [32, 32],
        splits: [64, 64, 32],
        kept: (64, 64),
        steps: 1,
        batch: 8,
    };
    let path = args.out.join("memory.jsonl");
    let baseline = once(&tiny, 0, &path)?;
    let mut found = Vec::new();
    for case in cases(args.quick) {
        let measured = once(&case, CLAIMS, &path)?;
        found.push((case, measured));
    }
    write(&baseline, &found).write(&args.out)?;
    Ok(())
}

/// What is known of a case, or is found now and kept.
fn once(case: &Case, claims: u32, path: &Path) -> Result<Value, Box<dyn Error>> {
    let cell = json!({
        "name": case.name, "architecture": case.architecture, "samples": case.samples, "splits": case.splits,
        "kept": case.kept, "steps": case.steps, "batch": case.batch, "claims": claims,
    });
    if let Some(line) = report::load(path).into_iter().find(|line| line["cell"] == cell) {
        return Ok(line["result"].clone());
    }
    let result = fresh(case, claims)?;
    println!("{}: {result}", case.name);
    report::append(path, &json!({ "cell": cell, "result": result }))?;
    Ok(result)
}

/// Makes the files of a case and judges it in a process of its own.
fn fresh(case: &Case, claims: u32) -> Result<Value, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    make(case, claims, folder.path())?;
    let out = Command::new(std::env::current_exe()?)
        .args(["memory", "--out"])
        .arg(folder.path())
        .env(FOLDER, folder.path())
        .output()?;
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    let answer = said.lines().find_map(|line| serde_json::from_str(line).ok());
    Ok(answer.ok_or_else(|| format!("{}: {}", case.name, String::from_utf8_lossy(&out.stderr)))?)
}

fn manifest(case: &Case) -> Manifest {
    let mut m = sample_manifest(case.name);
    m.architecture = case.architecture.clone();
    [m.data.train.samples, m.data.eval.samples, m.data.test.samples] = case.splits;
    m.training.batch = case.batch;
    (m.training.keep_per_chunk, m.training.chunk) = case.kept;
    let j = &mut m.judging;
    [j.shard_samples, j.gate_samples] = case.samples;
    j.confirm_samples = j.gate_samples;
    // every claim that learned its shard at all shall be measured to the end
    (j.assigned_z_milli, j.harm_z_milli, j.copy_cosine_milli) = (0, 20_000, 1000);
    (j.norm_cap_milli, j.max_delta_bytes) = (1_000_000, 64 << 20);
    m
}

/// Random samples: memory does not depend on what they show, and every trainer can learn its own by heart.
fn split(shape: SampleShape, samples: u32, seed: u8) -> Result<Vec<u8>, MlError> {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let bytes = |n: usize, below: f32, seed: [u8; 32]| -> Vec<u8> {
        cheat::random(n, 1.0, seed).iter().map(|v| ((v + 1.0) / 2.0 * below) as u8).collect()
    };
    let n = samples as usize;
    match shape {
        SampleShape::Row { inputs, classes: _ } => {
            let width = inputs as usize;
            data::byte_rows(width, &bytes(n * width, 255.0, [seed; 32]), &bytes(n, 9.99, [seed + 1; 32]))
        }
        SampleShape::Window { context } => data::text(&bytes(n * context as usize + 1, 255.0, [seed; 32])),
    }
}

const SPLITS: [&str; 3] = ["train", "eval", "test"];

fn make(case: &Case, claims: u32, folder: &Path) -> Result<(), Box<dyn Error>> {
    let m = manifest(case);
    let shape = m.architecture.sample();
    std::fs::write(folder.join("manifest.json"), serde_json::to_string(&m)?)?;
    for ((name, samples), seed) in SPLITS.iter().zip(case.splits).zip([10, 20, 30]) {
        std::fs::write(folder.join(name), split(shape, samples, seed)?)?;
    }
    let head = weights::initial(&m, [40; 32]);
    std::fs::write(folder.join("head"), weights::to_bytes(&m, &head)?)?;
    let train = Dataset::open(&folder.join("train"), shape, case.splits[0])?;
    for number in 0..claims {
        let indices = judge::shard(&m, m.id(), 1, model::beacon(0), model::node(number));
        let work =
            Work { manifest: &m, head: &head, data: &train, indices: &indices, steps: case.steps, seed: [50; 32] };
        let change = TORCH.train(&work, &mut Inner::new(head.len()), &AtomicBool::new(false), &mut |_| {})?;
        let bytes = compress::compress(&change, &m.training);
        if let Err(why) = delta::decode(&bytes, head.len(), &m.training, &m.judging) {
            return Err(format!("{}: a delta would be refused: {why:?}", case.name).into());
        }
        std::fs::write(folder.join(format!("delta-{number}")), bytes)?;
    }
    Ok(())
}

/// What a fresh process does: judges the case in a folder, or measures one sample if there are no deltas.
fn judge_case(folder: &Path) -> Result<Value, Box<dyn Error>> {
    let m: Manifest = serde_json::from_slice(&std::fs::read(folder.join("manifest.json"))?)?;
    let shape = m.architecture.sample();
    let open = |name: &str, samples| Dataset::open(&folder.join(name), shape, samples);
    let data = ModelData {
        train: open("train", m.data.train.samples)?,
        eval: open("eval", m.data.eval.samples)?,
        test: open("test", m.data.test.samples)?,
        guards: Vec::new(),
    };
    let parent = std::fs::read(folder.join("head"))?;
    let (mut claims, mut bytes_of_deltas) = (Vec::new(), 0);
    for number in 0..CLAIMS {
        let Ok(bytes) = std::fs::read(folder.join(format!("delta-{number}"))) else { break };
        bytes_of_deltas += bytes.len();
        let trainer = model::node(number);
        let submitted = Submitted::Delta { bytes, stated_unat: 0 };
        claims.push(Claim { id: ClaimId(trainer.0), trainer, submitted });
    }
    if claims.is_empty() {
        TORCH.measure(&m, &weights::from_bytes(&m, &parent)?, &data.test, &[0])?;
        return Ok(json!({ "peak_kb": peak_kb()? }));
    }
    let start = model::beacon(0);
    let sealed = start.next(b"results, sealed");
    let before = peak_kb()?;
    let r = Round { manifest: &m, model: m.id(), round: 1, start, sealed, parent: &parent, data: &data };
    let found = judge::replay(&TORCH, &r, claims)?;
    let probed = |x: &Measurement| matches!(x, Measurement::Scored(s) if s.probe.is_some());
    let probed = found.measured.claims.iter().filter(|(.., x)| probed(x)).count();
    Ok(json!({
        "peak_kb": peak_kb()?, "read_kb": before, "probed": probed, "candidate": found.candidate.is_some(),
        "parameters": m.parameters(), "delta_bytes": bytes_of_deltas,
    }))
}

/// Largest resident memory of this process so far.
fn peak_kb() -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kb = line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse().ok());
    Ok(kb.ok_or("no VmHWM in /proc/self/status: memory is measured on Linux only")?)
}

fn mb(kb: &Value) -> f64 {
    kb.as_f64().unwrap_or(f64::NAN) * 1024.0 / 1e6
}

fn write(baseline: &Value, found: &[(Case, Value)]) -> Report {
    let mut r = Report::new("memory", "Peak memory of a validator");
    let least = mb(&baseline["peak_kb"]);
    r.text(&format!(
        "A fresh process reads manifest, head, {CLAIMS} deltas and the splits (from files, as they are needed), and replays the \
         round; its peak resident memory (VmHWM), less that of a process that loads libtorch and measures one sample of a tiny \
         model ({least:.0} MB). One thread. The goal is at most {GOAL_MB:.0} MB beyond libtorch. Samples are random, the deltas \
         trained on their shards, and the bounds so mild that all claims are measured to the end."
    ));
    let row = |(case, v): &(Case, Value)| {
        let [shard, gate] = case.samples;
        vec![
            case.name.to_string(),
            v["parameters"].to_string(),
            format!("{shard}, {gate}, {gate}"),
            format!("{} of {}", case.kept.0, case.kept.1),
            format!("{:.1}", v["delta_bytes"].as_f64().unwrap_or(0.0) / 1e6),
            format!("{} of {CLAIMS}{}", v["probed"], if v["candidate"] == true { ", new head" } else { "" }),
            format!("{:.0}", mb(&v["peak_kb"])),
            format!("**{:.0}**", mb(&v["peak_kb"]) - least),
            if mb(&v["peak_kb"]) - least <= GOAL_MB { "yes" } else { "**no**" }.into(),
        ]
    };
    let head = [
        "model",
        "parameters",
        "shard, gate, confirm",
        "kept",
        "deltas, MB",
        "measured to the end",
        "peak, MB",
        "beyond libtorch, MB",
        "goal met",
    ];
    r.table(&head, &found.iter().map(row).collect::<Vec<_>>());
    r.text(
        "Copies of the model that are alive at the peak: the head as a file and as f32, the weights under measurement as f32 \
         and as float64; then all deltas decoded (8 bytes a change), and the activations of one batch, which are bounded \
         whatever the sample size. libtorch's own scratch memory for large matrix products counts as ours.",
    );
    r.text(
        "## Repeat\n\n`OMP_WAIT_POLICY=PASSIVE nice cargo run --release -p oda-ml --example results -- memory`. The processes \
         started have the environment variable `ODA_RESULTS_MEMORY_CASE`.",
    );
    r
}
