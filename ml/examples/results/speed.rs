//! Evaluation and training against the same models in Python PyTorch, in turns on the same core.
//!
//! Two programs timed one after the other on a busy machine say more about the neighbours than about the programs.
//! So both stay alive and take short turns, the processor time of each turn is counted instead of the time on the
//! wall, and what is reported is the median of the ratios of neighbouring turns. The other side is
//! `scripts/compare-pytorch.py`; it also shows that PyTorch reads our weights and we read those it wrote.

use crate::Args;
use crate::model::{self, Model, TORCH};
use crate::report::Report;
use oda_consensus::manifest::Manifest;
use oda_ml::{Backend as _, Batch, Dataset, Inner, MlError, ModelData, Work, arch, to_unat, weights};
use serde_json::{Value, json};
use std::error::Error;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::Instant;
use tch::{Kind, Tensor};

/// Models, and how many samples are evaluated at once: a pass should not take longer than a turn.
const MODELS: [(&str, u32); 4] = [("fashion-mnist", 3000), ("fashion-cnn", 1000), ("bytes", 256), ("bytes-1m", 128)];

/// PyTorch's AdamW: as it comes, and its two other implementations.
const VARIANTS: [&str; 3] = ["default", "foreach", "fused"];

/// Largest relative difference of a sample's loss between the programs.
const AGREEMENT: f64 = 1e-9;

/// Seconds of processor and wall.
#[derive(Clone, Copy, Debug)]
pub struct Spent {
    /// Of the calling thread on a core.
    pub cpu_s: f64,
    /// On the wall.
    pub wall_s: f64,
}

/// What one call takes. With one thread, processor time hardly depends on what else runs.
///
/// # Errors
/// If the call fails, or this is no Linux.
pub fn clocked<T>(what: impl FnOnce() -> Result<T, MlError>) -> Result<(T, Spent), MlError> {
    let (cpu, wall) = (cpu_s()?, Instant::now());
    let out = what()?;
    Ok((out, Spent { cpu_s: cpu_s()? - cpu, wall_s: wall.elapsed().as_secs_f64() }))
}

fn cpu_s() -> Result<f64, MlError> {
    let fail = || MlError::Backend("no /proc/thread-self/schedstat: processor time is counted on Linux only".into());
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").map_err(|_| fail())?;
    let ns: f64 = stat.split(' ').next().and_then(|n| n.parse().ok()).ok_or_else(fail)?;
    Ok(ns / 1e9)
}

/// The middle one; the mean of two.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    let at = |i: usize| sorted.get(i).copied().unwrap_or(f64::NAN);
    if n.is_multiple_of(2) { f64::midpoint(at((n / 2).wrapping_sub(1)), at(n / 2)) } else { at(n / 2) }
}

/// The program on the other side.
struct Python {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Python {
    /// Starts it; the text says why it cannot be.
    fn start(interpreter: &Path, script: &Path, folder: &Path) -> Result<(Self, Value), String> {
        let mut child = Command::new(interpreter)
            .arg(script)
            .arg(folder)
            // it must find its own libtorch, not ours
            .env_remove("LD_LIBRARY_PATH")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("`{}`: {e}; name a Python with `--python`", interpreter.display()))?;
        let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("no pipe to Python".into());
        };
        let mut out = Self { child, to, from: BufReader::new(from) };
        let hello = out.answer()?;
        Ok((out, hello))
    }

    fn answer(&mut self) -> Result<Value, String> {
        let mut line = String::new();
        self.from.read_line(&mut line).map_err(|e| e.to_string())?;
        let answer: Value = serde_json::from_str(&line).map_err(|_| "the Python side stopped".to_string())?;
        match answer["error"].as_str() {
            Some(error) => Err(error.to_string()),
            None => Ok(answer),
        }
    }

    fn ask(&mut self, task: &Value) -> Result<Value, String> {
        writeln!(self.to, "{task}").map_err(|e| e.to_string())?;
        self.answer()
    }

    fn clocked(&mut self, task: &Value) -> Result<Spent, String> {
        let answer = self.ask(task)?;
        let number = |key: &str| answer[key].as_f64().ok_or_else(|| format!("no {key} from Python"));
        Ok(Spent { cpu_s: number("cpu_s")?, wall_s: number("wall_s")? })
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A model ready to run: trained a little, so that its losses are no noise.
struct Subject {
    name: &'static str,
    manifest: Manifest,
    data: ModelData,
    head: Vec<f32>,
    eval: Vec<u32>,
    shard: Vec<u32>,
}

impl Subject {
    fn new((name, samples): (&'static str, u32), args: &Args) -> Result<Self, MlError> {
        let model = Model::load(&args.root.join(format!("models/{name}.toml")))?;
        let m = &model.manifest;
        let all = |n: u32| (0..n).collect::<Vec<u32>>();
        let (eval, shard) = (all(samples), all(m.judging.shard_samples));
        let mut inner = Inner::new(model.initial(m, 0).len());
        let steps = m.training.inner_steps;
        let first = model.initial(m, 0);
        let change = model::train(&model, m, &first, &shard, steps, [0; 32], &mut inner)?;
        let head = first.iter().zip(change).map(|(w, c)| w + c).collect();
        let Model { manifest, data, .. } = model;
        Ok(Self { name, manifest, data, head, eval, shard })
    }

    fn spec(&self) -> Value {
        let t = &self.manifest.training;
        json!({
            "name": self.name, "architecture": self.manifest.architecture, "batch": t.batch, "shard": self.shard.len(),
            "lr": f64::from(t.lr_micro) / 1e6, "decay": f64::from(t.weight_decay_micro) / 1e6,
        })
    }

    fn evaluate(&self, passes: u32) -> Result<Spent, MlError> {
        let (result, spent) = clocked(|| {
            (0..passes)
                .try_for_each(|_| TORCH.measure(&self.manifest, &self.head, &self.data.eval, &self.eval).map(drop))
        })?;
        let () = result;
        Ok(spent)
    }

    fn train(&self, steps: u32, inner: &mut Inner) -> Result<Spent, MlError> {
        let (manifest, head, data) = (&self.manifest, &self.head, &self.data.train);
        let work = Work { manifest, head, data, indices: &self.shard, steps, seed: [1; 32] };
        Ok(clocked(|| TORCH.train(&work, inner, &AtomicBool::new(false), &mut |_| {}))?.1)
    }

    /// Passes over the samples, and training steps, that take about so long.
    fn turn(&self, seconds: f64) -> Result<(u32, u32), MlError> {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let times = |one: f64| (seconds / one.max(1e-9)).ceil().clamp(1.0, 1e6) as u32;
        self.evaluate(1)?;
        let mut inner = Inner::new(self.head.len());
        self.train(2, &mut inner)?;
        Ok((times(self.evaluate(1)?.cpu_s), times(self.train(10, &mut inner)?.cpu_s / 10.0)))
    }
}

/// Figures of one model.
struct Found {
    name: &'static str,
    parameters: u64,
    evaluation: Vec<Pair>,
    training: Vec<(&'static str, Vec<Pair>)>,
    samples: f64,
    steps: f64,
    tuned: Value,
    agreement: Option<Agreement>,
}

/// Our turn, and the other's next to it.
struct Pair {
    ours: Spent,
    theirs: Option<Spent>,
}

/// Runs the comparison.
///
/// # Errors
/// If a model cannot be loaded or run, the two programs disagree, or a file cannot be written.
pub fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let (turns, seconds, models) = if args.quick { (2, 0.02, &MODELS[..1]) } else { (9, 0.3, &MODELS[..]) };
    let folder = tempfile::tempdir()?;
    let subjects = models.iter().map(|one| Subject::new(*one, args)).collect::<Result<Vec<_>, _>>()?;
    for subject in &subjects {
        let name = subject.name;
        let write = |what: &str, bytes: Vec<u8>| {
            std::fs::write(folder.path().join(format!("{name}-{what}.safetensors")), bytes)
        };
        write("head", weights::to_bytes(&subject.manifest, &subject.head)?)?;
        write("eval", samples(&subject.data.eval, &subject.eval)?)?;
        write("train", samples(&subject.data.train, &subject.shard)?)?;
    }
    let specs: Vec<Value> = subjects.iter().map(Subject::spec).collect();
    std::fs::write(folder.path().join("spec.json"), serde_json::to_string(&specs)?)?;
    let interpreter = args.python.as_deref().unwrap_or(Path::new("python3"));
    let started = Python::start(interpreter, &args.root.join("scripts/compare-pytorch.py"), folder.path());
    let (mut python, versions) = match started {
        Ok((python, versions)) => (Some(python), versions),
        Err(why) => {
            println!("no comparison, only our own figures: {why}");
            (None, json!({ "missing": why }))
        }
    };
    let mut found = Vec::new();
    for subject in &subjects {
        let one = compare(subject, python.as_mut(), folder.path(), turns, seconds)?;
        println!("{}: {}", one.name, brief(&one));
        found.push(one);
    }
    write(&found, &versions, turns).write(&args.out)?;
    Ok(())
}

/// Samples as a split of their own.
fn samples(data: &Dataset, indices: &[u32]) -> Result<Vec<u8>, MlError> {
    match data.batch(indices)? {
        Batch::Bytes { inputs, classes } => {
            oda_ml::data::byte_rows(inputs.len() / classes.len().max(1), &inputs, &classes)
        }
        Batch::Reals { inputs, classes } => {
            oda_ml::data::real_rows(inputs.len() / classes.len().max(1), &inputs, &classes)
        }
        Batch::Windows { bytes } => {
            // windows of neighbouring samples share a byte
            let width = bytes.len() / indices.len().max(1);
            let mut text: Vec<u8> = Vec::with_capacity(bytes.len());
            for window in bytes.chunks(width) {
                text.extend_from_slice(if text.is_empty() { window } else { window.get(1..).unwrap_or(&[]) });
            }
            oda_ml::data::text(&text)
        }
    }
}

fn compare(
    subject: &Subject,
    mut python: Option<&mut Python>,
    folder: &Path,
    turns: u32,
    seconds: f64,
) -> Result<Found, Box<dyn Error>> {
    let (name, count) = (subject.name, subject.eval.len());
    let (passes, steps) = subject.turn(seconds)?;
    let (mut tuned, mut agreement) = (Value::Null, None);
    if let Some(python) = python.as_deref_mut() {
        python.ask(&json!({ "do": "check", "model": name, "samples": count }))?;
        agreement = Some(agree(subject, folder)?);
        tuned = python.ask(&json!({ "do": "tune", "model": name, "samples": count, "steps": steps.div_ceil(4) }))?;
    }
    let mut evaluation = Vec::new();
    let mut training: Vec<(&'static str, Vec<Pair>)> = VARIANTS.map(|v| (v, Vec::new())).into();
    let mut inner = Inner::new(subject.head.len());
    for _ in 0..turns {
        let ours = subject.evaluate(passes)?;
        let task = json!({ "do": "evaluate", "model": name, "samples": count, "passes": passes });
        let theirs = python.as_deref_mut().map(|p| p.clocked(&task)).transpose()?;
        evaluation.push(Pair { ours, theirs });
        for (variant, pairs) in &mut training {
            let ours = subject.train(steps, &mut inner)?;
            let task = json!({ "do": "train", "model": name, "variant": variant, "steps": steps });
            let theirs = python.as_deref_mut().map(|p| p.clocked(&task)).transpose()?;
            pairs.push(Pair { ours, theirs });
        }
    }
    #[allow(clippy::cast_precision_loss)]
    let samples = f64::from(passes) * count as f64;
    let parameters = subject.manifest.parameters();
    Ok(Found { name, parameters, evaluation, training, samples, steps: f64::from(steps), tuned, agreement })
}

/// How far apart the two programs are.
struct Agreement {
    /// Largest relative difference of a sample's loss, with our weights and with weights trained by PyTorch.
    head: f64,
    trained: f64,
    /// Samples whose loss is another micro-nat, out of all.
    off_by_one: usize,
    samples: usize,
}

/// Reads what PyTorch computed and wrote, and compares.
fn agree(subject: &Subject, folder: &Path) -> Result<Agreement, Box<dyn Error>> {
    let (name, m) = (subject.name, &subject.manifest);
    let file = |what: &str| std::fs::read(folder.join(format!("{name}-{what}")));
    let back = weights::from_bytes(m, &file("back.safetensors")?)?;
    if back != subject.head {
        return Err(format!("{name}: weights saved by PyTorch are not those it loaded").into());
    }
    let trained = weights::from_bytes(m, &file("trained.safetensors")?)?;
    let mut out = Agreement { head: 0.0, trained: 0.0, off_by_one: 0, samples: 0 };
    for (weights, what) in [(&back, "head.f64"), (&trained, "trained.f64")] {
        let theirs: Vec<f64> = file(what)?.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect();
        let ours = losses(m, weights, &subject.data.eval, &subject.eval)?;
        let measured = TORCH.measure(m, weights, &subject.data.eval, &subject.eval)?.losses_unat;
        if theirs.len() != ours.len() || measured.len() != ours.len() {
            return Err(format!("{name}: {} losses from PyTorch, {} of ours", theirs.len(), ours.len()).into());
        }
        let worst = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs() / a.abs().max(1e-3)).fold(0.0, f64::max);
        let far = measured.iter().zip(&theirs).map(|(unat, nats)| unat.abs_diff(to_unat(*nats)));
        if worst > AGREEMENT || far.clone().any(|d| d > 1) {
            return Err(
                format!("{name}: the losses of {what} differ by {worst:.1e}, allowed are {AGREEMENT:.0e}").into()
            );
        }
        out.off_by_one += far.filter(|d| *d > 0).count();
        out.samples += ours.len();
        *(if what == "head.f64" { &mut out.head } else { &mut out.trained }) = worst;
    }
    Ok(out)
}

/// Losses before they are rounded, which [`Backend::measure`](oda_ml::Backend::measure) never shows.
fn losses(m: &Manifest, weights: &[f32], data: &Dataset, indices: &[u32]) -> Result<Vec<f64>, MlError> {
    let _no_grad = tch::no_grad_guard();
    let flat = Tensor::f_from_slice(weights)?.f_to_kind(Kind::Double)?;
    let (mut at, mut tensors) = (0, Vec::new());
    for spec in m.architecture.tensors() {
        let shape: Vec<i64> = spec.shape.iter().map(|d| i64::from(*d)).collect();
        let len = shape.iter().product();
        tensors.push(flat.f_narrow(0, at, len)?.f_view(shape.as_slice())?);
        at += len;
    }
    let mut out = Vec::new();
    for part in indices.chunks(100) {
        let n = i64::try_from(part.len()).unwrap_or(0);
        let whole = |bytes: &[u8]| Tensor::f_from_slice(bytes)?.f_to_kind(Kind::Int64)?.f_view([n, -1]);
        let (x, y) = match data.batch(part)? {
            Batch::Bytes { inputs, classes } => {
                let x = Tensor::f_from_slice(&inputs)?.f_to_kind(Kind::Double)?.f_div_scalar(255.0)?.f_view([n, -1])?;
                (x, whole(&classes)?)
            }
            Batch::Reals { inputs, classes } => {
                (Tensor::f_from_slice(&inputs)?.f_to_kind(Kind::Double)?.f_view([n, -1])?, whole(&classes)?)
            }
            Batch::Windows { bytes } => {
                let all = whole(&bytes)?;
                let context = all.size().last().copied().unwrap_or(1) - 1;
                (all.f_narrow(1, 0, context)?, all.f_narrow(1, 1, context)?)
            }
        };
        let logits = arch::network(&m.architecture).logits(&x, &tensors)?.f_view([n, y.size()[1], -1])?;
        let each = logits.f_log_softmax(-1, None)?.f_gather(-1, &y.f_unsqueeze(-1)?, false)?.f_neg()?;
        let means = each.f_view([n, -1])?.f_mean_dim([1i64].as_slice(), false, Kind::Double)?;
        out.extend(Vec::<f64>::try_from(means)?);
    }
    Ok(out)
}

/// Median, least and largest of their time over ours: above 1 we are faster.
fn ratio(pairs: &[Pair], of: fn(&Spent) -> f64) -> Option<(f64, f64, f64)> {
    let all: Vec<f64> = pairs.iter().filter_map(|p| Some(of(p.theirs.as_ref()?) / of(&p.ours))).collect();
    let ends = all.iter().fold((f64::MAX, f64::MIN), |(l, h), r| (l.min(*r), h.max(*r)));
    (!all.is_empty()).then(|| (median(&all), ends.0, ends.1))
}

fn shown(ratio: Option<(f64, f64, f64)>) -> String {
    ratio.map_or_else(|| "-".into(), |(m, l, h)| format!("**{m:.2}** ({l:.2}..{h:.2})"))
}

/// Work a second, by processor time, as the median over turns.
fn speed(work: f64, spent: impl Iterator<Item = Spent>) -> String {
    let all: Vec<f64> = spent.map(|s| work / s.cpu_s).collect();
    if all.is_empty() { "-".into() } else { format!("{:.0}", median(&all)) }
}

fn brief(one: &Found) -> String {
    let evaluation = shown(ratio(&one.evaluation, |s| s.cpu_s));
    let training = one.training.iter().map(|(v, pairs)| format!("{v} {}", shown(ratio(pairs, |s| s.cpu_s))));
    format!("evaluation {evaluation}, training {}", training.collect::<Vec<_>>().join(", "))
}

/// What was fastest for PyTorch: batch size, and attention where there is any.
fn tuned(f: &Found, key: &str) -> String {
    let Some(batch) = f.tuned["batch"].as_u64() else { return "-".into() };
    match (f.name.starts_with("bytes"), &f.tuned[key]) {
        (true, Value::Bool(true)) => format!("{batch}, sdpa"),
        (true, _) => format!("{batch}, plain"),
        (false, _) => batch.to_string(),
    }
}

fn write(found: &[Found], versions: &Value, turns: u32) -> Report {
    let mut r = Report::new("speed", "Evaluation and training against Python PyTorch");
    let ours = |pairs: &[Pair], work| speed(work, pairs.iter().map(|p| p.ours));
    let theirs = |pairs: &[Pair], work| speed(work, pairs.iter().filter_map(|p| p.theirs));
    if let Some(why) = versions["missing"].as_str() {
        r.text(&format!("**No comparison was made, these are our own figures only**: {why}."));
    } else {
        let (torch, python) = (versions["torch"].as_str().unwrap_or("?"), versions["python"].as_str().unwrap_or("?"));
        r.text(&format!(
            "The models of `models/` here and as plain `nn.Module`s in PyTorch {torch} (Python {python}), one thread each, \
             {turns} turns of each program in alternation. Ratios are PyTorch's processor time over ours in neighbouring \
             turns: **above 1 we are faster**; median (least..largest). Speeds are medians per second of processor time. \
             The machine was shared with other work, so compare ratios, not speeds."
        ));
    }
    r.text(
        "## Evaluation\n\nfloat64, the loss of each sample and the count of right answers. Ours is `Torch::measure` as \
         validators call it. PyTorch's is `F.cross_entropy(reduction=\"none\")` under `inference_mode`, with that batch size \
         (8, 64, 256, 1024) and that attention (`scaled_dot_product_attention` or plain) that was fastest just before.",
    );
    let row = |f: &Found| {
        let pairs = &f.evaluation;
        vec![
            format!("`{}`", f.name),
            f.parameters.to_string(),
            ours(pairs, f.samples),
            theirs(pairs, f.samples),
            shown(ratio(pairs, |s| s.cpu_s)),
            shown(ratio(pairs, |s| s.wall_s)),
            tuned(f, "attention_evaluation"),
        ]
    };
    let head = [
        "model",
        "parameters",
        "ours, samples/s",
        "PyTorch, samples/s",
        "ratio",
        "ratio on the wall",
        "PyTorch's choice",
    ];
    r.table(&head, &found.iter().map(row).collect::<Vec<_>>());
    r.text(
        "## Training\n\nfloat32, AdamW with the model's figures and batch size, from bytes of samples to the finite loss of \
         each step. Ours is `Backend::train`; PyTorch's is `torch.optim.AdamW` as it comes, with `foreach=True` and with \
         `fused=True`, each with the faster attention.",
    );
    let mut rows = Vec::new();
    for f in found {
        let mut row = vec![format!("`{}`", f.name)];
        let all: Vec<Spent> = f.training.iter().flat_map(|(_, pairs)| pairs.iter().map(|p| p.ours)).collect();
        row.push(speed(f.steps, all.into_iter()));
        for (_, pairs) in &f.training {
            row.push(theirs(pairs, f.steps));
            row.push(shown(ratio(pairs, |s| s.cpu_s)));
        }
        rows.push(row);
    }
    let head =
        ["model", "ours, steps/s", "default, steps/s", "ratio", "foreach, steps/s", "ratio", "fused, steps/s", "ratio"];
    r.table(&head, &rows);
    if found.iter().any(|f| f.agreement.is_some()) {
        r.text(&format!(
            "## The same numbers\n\nPyTorch loaded our weights (`load_state_dict(strict=True)`), saved them, and we read the same \
             bits. It trained them for 20 steps and saved again, and we loaded and measured those too. The largest relative \
             difference of a sample's loss (bound: {AGREEMENT:.0e}), and samples whose rounded loss is another micro-nat:"
        ));
        let row = |f: &Found| {
            let a = f.agreement.as_ref()?;
            Some(vec![
                format!("`{}`", f.name),
                format!("{:.1e}", a.head),
                format!("{:.1e}", a.trained),
                format!("{} of {}", a.off_by_one, a.samples),
            ])
        };
        let head = ["model", "our weights", "trained by PyTorch", "another micro-nat"];
        r.table(&head, &found.iter().filter_map(row).collect::<Vec<_>>());
    }
    r.text(
        "## Repeat\n\n`pip install torch==2.13.0 numpy safetensors`, then `OMP_WAIT_POLICY=PASSIVE cargo run --release -p oda-ml \
         --example results -- speed [--python PYTHON]`. Without them our own figures are still printed.",
    );
    r
}
