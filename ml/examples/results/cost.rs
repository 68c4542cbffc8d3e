//! What judging a claim costs beside training it, over the size of a round.
//!
//! "Evaluation is cheap" is no figure: a claim is measured on its shard and on the gate sample, before and after and at
//! the probe step, in float64, and by every validator, while the demo's rounds train for seconds. So the evaluations are
//! counted, by the judge itself and by the formula the curves are drawn with, and they must be the same number; one
//! evaluation and one trained sample are timed in turns; and some rounds of each size are really run.

use crate::Args;
use crate::collaboration;
use crate::evaluations::{DRAWN, RULES, Reach, Rule, measured, of_claim, of_round, reach};
use crate::model::{self, Model, TORCH, Trainer};
use crate::report::{Report, Series};
use crate::speed::{clocked, median};
use oda_consensus::ids::{BlobRef, ClaimId};
use oda_consensus::manifest::Manifest;
use oda_consensus::outcome::Outcome;
use oda_consensus::score::{self, Measurement, Paired, Verdict, excess_z_milli};
use oda_ml::judge::{self, Claim, Round, RoundResult, Submitted};
use oda_ml::{Backend, Dataset, Inner, Measured, MlError, Step, Work, cheat, compress, weights};
use std::error::Error;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const MODELS: [&str; 2] = ["fashion-mnist", "bytes"];

/// Claims of a round that share its fixed costs.
const CLAIMS: [u32; 3] = [1, 3, 16];

/// Honest trainers of the rounds that are run.
const HONEST: u32 = 3;

/// Where the goal is set, and the goal.
const GOAL: (f64, f64) = (250_000.0, 0.02);

/// Counts the evaluations of the judge.
#[derive(Default)]
struct Counting(AtomicU64);

impl Backend for Counting {
    fn measure(&self, m: &Manifest, weights: &[f32], data: &Dataset, indices: &[u32]) -> Result<Measured, MlError> {
        self.0.fetch_add(indices.len() as u64, Ordering::Relaxed);
        TORCH.measure(m, weights, data, indices)
    }

    fn train(
        &self,
        work: &Work<'_>,
        inner: &mut Inner,
        stop: &AtomicBool,
        watch: &mut dyn FnMut(Step),
    ) -> Result<Vec<f32>, MlError> {
        TORCH.train(work, inner, stop, watch)
    }
}

/// One model with what was found.
struct Subject {
    name: &'static str,
    model: Model,
    /// Time of an evaluated sample over that of a trained one; seconds of each.
    times: (f64, f64, f64),
    counted: Vec<String>,
    rounds: Vec<Ran>,
}

impl Subject {
    /// Replay over training of an accepted claim, with its share of the round.
    fn ratio(&self, rule: Rule, claims: u32, trained: f64) -> f64 {
        let m = &self.model.manifest;
        let own = of_claim(m, measured(m, rule, trained), Reach::Probed);
        (own + of_round(m, true) / f64::from(claims)) * self.times.0 / trained
    }

    /// The smallest round at which the ratio is no more than this; none if even a billion samples are too few.
    fn reaches(&self, rule: Rule, claims: u32, ratio: f64) -> Option<f64> {
        let (mut low, mut high) = (1.0f64, 1e9f64);
        if self.ratio(rule, claims, high) > ratio {
            return None;
        }
        for _ in 0..60 {
            let middle = (low * high).sqrt();
            *(if self.ratio(rule, claims, middle) > ratio { &mut low } else { &mut high }) = middle;
        }
        Some(high)
    }
}

/// A round that was really run.
struct Ran {
    steps: u32,
    trained: f64,
    shard: u32,
    /// Processor seconds of all trainers, and of one replay.
    train_s: f64,
    replay_s: f64,
    evaluations: f64,
    accepted: usize,
    z: f64,
    /// With [`DRAWN`] samples of each shard: claims that pass the assigned-work test, and their median z.
    drawn: (usize, f64),
}

/// Runs the experiment.
///
/// # Errors
/// If a model cannot be loaded or run, evaluations are miscounted, or a file cannot be written.
pub fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let (turns, seconds, names) = if args.quick { (2, 0.02, &MODELS[..1]) } else { (9, 0.3, &MODELS[..]) };
    let mut subjects = Vec::new();
    let mut data = Vec::new();
    for name in names {
        let model = Model::load(&args.root.join(format!("models/{name}.toml")))?;
        let times = times(&model, turns, seconds)?;
        let counted = count(&model)?;
        println!("{name}: an evaluation takes {:.3} of a trained sample; {counted:?}", times.0);
        let mut subject = Subject { name, model, times, counted, rounds: Vec::new() };
        let all: &[u32] = match (args.quick, *name) {
            (true, _) => &[20],
            (_, "fashion-mnist") => &[30, 120, 480, 1920, 3907, 8000],
            _ => &[30, 120, 480],
        };
        let folder = args.data.as_deref().unwrap_or(Path::new(collaboration::DEBIAN));
        if *name == "fashion-mnist" && !args.quick {
            match collaboration::full(&mut subject.model, folder) {
                Ok(()) => data.push("the full Fashion-MNIST set".to_string()),
                Err(e) => println!("large rounds only as far as the repository's data go: {e}"),
            }
        }
        let judged = subject.model.manifest.clone();
        for steps in all {
            let ran = round(&subject.model, *steps)?;
            if let Some(ran) = ran {
                println!("{name}, {steps} steps: {:.4} of training", ran.replay_s / ran.train_s);
                subject.rounds.push(ran);
            }
        }
        // curves and tables are those of the model file, with its test set
        let own = Model::load(&args.root.join(format!("models/{name}.toml")))?;
        data.push(format!("{} training samples for the rounds of `{name}`", judged.data.train.samples));
        subject.model = own;
        subjects.push(subject);
    }
    write(&subjects, &data).write(&args.out)?;
    Ok(())
}

/// Time of an evaluated sample over that of a trained one, by turns; seconds of each.
fn times(model: &Model, turns: u32, seconds: f64) -> Result<(f64, f64, f64), MlError> {
    let m = &model.manifest;
    let head = model.initial(m, 0);
    let shard: Vec<u32> = (0..m.judging.shard_samples).collect();
    let gate: Vec<u32> = (0..m.judging.gate_samples).collect();
    let train = |steps: u32| {
        let mut inner = Inner::new(head.len());
        Ok::<_, MlError>(clocked(|| model::train(model, m, &head, &shard, steps, [2; 32], &mut inner))?.1.cpu_s)
    };
    let evaluate = |passes: u32| {
        let all = || (0..passes).try_for_each(|_| TORCH.measure(m, &head, &model.data.eval, &gate).map(drop));
        Ok::<_, MlError>(clocked(all)?.1.cpu_s)
    };
    train(2)?; // the first of each sets libtorch up
    evaluate(1)?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let times = |one: f64| (seconds / one.max(1e-9)).ceil().clamp(1.0, 1e6) as u32;
    let (steps, passes) = (times(train(10)? / 10.0), times(evaluate(1)?));
    let mut found = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..turns {
        let trained = train(steps)? / f64::from(steps) / f64::from(m.training.batch);
        let evaluated = evaluate(passes)? / f64::from(passes) / f64::from(m.judging.gate_samples);
        found.0.push(evaluated / trained);
        found.1.push(evaluated);
        found.2.push(trained);
    }
    Ok((median(&found.0), median(&found.1), median(&found.2)))
}

/// A claim with these bytes.
fn claim(number: u32, bytes: Vec<u8>) -> Claim {
    let id = model::node(number);
    Claim { id: ClaimId(id.0), trainer: id, submitted: Submitted::Delta { bytes, stated_unat: 0 } }
}

/// A head on which some has been learned, and honest deltas against it; seconds the deltas took.
fn honest(model: &Model, m: &Manifest) -> Result<(Vec<f32>, Vec<Claim>, f64), MlError> {
    let first = model.initial(m, 0);
    let mut inner = Inner::new(first.len());
    let general: Vec<u32> = (0..m.data.train.samples).collect();
    let steps = model.manifest.training.inner_steps;
    let change = model::train(model, m, &first, &general, steps, [3; 32], &mut inner)?;
    let head: Vec<f32> = first.iter().zip(change).map(|(w, c)| w + c).collect();
    let (mut claims, mut seconds) = (Vec::new(), 0.0);
    for (number, mut trainer) in (0..).zip(Trainer::several(HONEST, m, head.len())) {
        let inner_steps = m.training.inner_steps;
        let (change, spent) = clocked(|| trainer.train(model, m, (1, model::beacon(0)), &head, inner_steps))?;
        seconds += spent.cpu_s;
        claims.push(claim(number, trainer.feedback.compress(&change, &m.training)));
    }
    Ok((head, claims, seconds))
}

/// Replays claims; the evaluations it took, and its seconds.
fn replay(model: &Model, m: &Manifest, head: &[f32], claims: Vec<Claim>) -> Result<(RoundResult, f64, f64), MlError> {
    let parent = weights::to_bytes(m, head)?;
    let start = model::beacon(0);
    let sealed = start.next(b"results, sealed");
    let r = Round { manifest: m, model: model.id, round: 1, start, sealed, parent: &parent, data: &model.data };
    let counting = Counting::default();
    let (found, spent) = clocked(|| judge::replay(&counting, &r, claims))?;
    #[allow(clippy::cast_precision_loss)]
    let evaluations = counting.0.load(Ordering::Relaxed) as f64;
    let formula = expected(m, &found);
    if (evaluations - formula).abs() > 0.0 {
        return Err(MlError::Backend(format!("{evaluations} evaluations were counted, the formula says {formula}")));
    }
    Ok((found, evaluations, spent.cpu_s))
}

fn expected(m: &Manifest, found: &RoundResult) -> f64 {
    let reached = found.measured.claims.iter().filter_map(|(.., x)| reach(m, x));
    let own: f64 = reached.map(|r| of_claim(m, f64::from(m.judging.shard_samples), r)).sum();
    own + of_round(m, found.candidate.is_some())
}

/// Counts one round of honest and hopeless claims as the model file has it, and says what the formula said.
fn count(model: &Model) -> Result<Vec<String>, MlError> {
    let m = &model.manifest;
    let (head, mut claims, _) = honest(model, m)?;
    for number in HONEST..2 * HONEST {
        let noise = cheat::random(head.len(), 0.004, model::node(number).0);
        claims.push(claim(number, compress::compress(&noise, &m.training)));
    }
    let (found, evaluations, _) = replay(model, m, &head, claims)?;
    let of = |wanted: Reach| found.measured.claims.iter().filter(|(.., x)| reach(m, x) == Some(wanted)).count();
    Ok(vec![
        of(Reach::Probed).to_string(),
        of(Reach::Failed).to_string(),
        of(Reach::Stopped).to_string(),
        format!("{evaluations}"),
        format!("{}", expected(m, &found)),
    ])
}

/// A round of honest trainers with so many steps, the shard grown with them; none if the data do not suffice.
fn round(model: &Model, steps: u32) -> Result<Option<Ran>, MlError> {
    let mut m = model.manifest.clone();
    let trained = f64::from(steps) * f64::from(m.training.batch);
    let shard = measured(&m, Rule::Grown, trained);
    if shard > f64::from(m.data.train.samples) {
        return Ok(None);
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let shard = shard as u32;
    (m.judging.shard_samples, m.training.inner_steps) = (shard, steps);
    m.judging.norm_cap_milli = 1_000_000;
    let (head, claims, train_s) = honest(model, &m)?;
    let (found, evaluations, replay_s) = replay(model, &m, &head, claims.clone())?;
    let (mut all, mut drawn) = (Vec::new(), Vec::new());
    let mut passed = 0;
    for (claim, (.., measurement)) in claims.iter().zip(&found.measured.claims) {
        let (Measurement::Scored(s), Submitted::Delta { bytes, .. }) = (measurement, &claim.submitted) else {
            continue;
        };
        all.push(z(&s.shard, &s.gate));
        let mut some = judge::shard(&m, model.id, 1, model::beacon(0), claim.trainer);
        some.truncate(DRAWN as usize);
        let after = model::received(bytes, &m, head.len())?.applied(&head, 1.0);
        let losses = |w: &[f32]| Ok::<_, MlError>(TORCH.measure(&m, w, &model.data.train, &some)?.losses_unat);
        let Some(part) = Paired::of(&losses(&head)?, &losses(&after)?) else { continue };
        passed += usize::from(score::is_assigned_work(&m.judging, &part, &s.gate));
        drawn.push(z(&part, &s.gate));
    }
    let parent = weights::to_bytes(&m, &head)?;
    let name = (m.id(), 1, BlobRef::of(&parent), model::beacon(0));
    let outcome = Outcome::derive(&m, name, found.measured);
    let accepted = outcome.claims.iter().filter(|c| c.verdict == Verdict::Accepted).count();
    let drawn = (passed, median(&drawn));
    Ok(Some(Ran { steps, trained, shard, train_s, replay_s, evaluations, accepted, z: median(&all), drawn }))
}

fn z(shard: &Paired, gate: &Paired) -> f64 {
    #[allow(clippy::cast_precision_loss)]
    let z = excess_z_milli(shard, gate) as f64 / 1000.0;
    z
}

fn percent(ratio: f64) -> String {
    let percent = 100.0 * ratio;
    if percent < 10.0 { format!("{percent:.2} %") } else { format!("{percent:.0} %") }
}

fn size(samples: Option<f64>) -> String {
    samples.map_or_else(|| "never".into(), |n| format!("{n:.0}"))
}

fn write(subjects: &[Subject], data: &[String]) -> Report {
    let mut r = Report::new("cost", "Replaying a claim against training it");
    r.text(&format!(
        "What one validator spends on judging an accepted claim, over what its trainer spent on making it; the goal is at \
         most {} where a round trains on {} samples. One thread, processor time; float64 evaluation with libtorch, float32 \
         training with AdamW. Run with {}.",
        percent(GOAL.1),
        GOAL.0,
        data.join(", ")
    ));
    r.text(
        "## Evaluations\n\nA claim is measured on its shard before and after (2S), on the gate sample (G) and, if it shows \
         assigned work, again at the probe step (G); a hopeless claim only on the first part of the gate sample. A round \
         measures its head on the gate sample (G) and, if any claim is accepted, both heads on confirm sample, test set and \
         guards. One round with three honest claims and three of noise was counted in the judge, and by this formula:",
    );
    let row = |s: &Subject| [vec![format!("`{}`", s.name)], s.counted.clone()].concat();
    let head = ["model", "probed", "failed", "stopped early", "evaluations counted", "by the formula"];
    r.table(&head, &subjects.iter().map(row).collect::<Vec<_>>());
    let row = |s: &Subject| {
        let (m, shard) = (&s.model.manifest, f64::from(s.model.manifest.judging.shard_samples));
        let trained = f64::from(m.training.inner_steps) * f64::from(m.training.batch);
        vec![
            format!("`{}`", s.name),
            format!("{:.2} us", 1e6 * s.times.1),
            format!("{:.2} us", 1e6 * s.times.2),
            format!("**{:.3}**", s.times.0),
            format!("{trained}"),
            format!("{}", of_claim(m, shard, Reach::Probed)),
            format!("{}", of_claim(m, shard, Reach::Stopped)),
            format!("{}", of_round(m, true)),
        ]
    };
    let head = [
        "model",
        "an evaluation",
        "a trained sample",
        "ratio",
        "trained in a round",
        "evaluations: accepted",
        "hopeless",
        "of the round",
    ];
    r.table(&head, &subjects.iter().map(row).collect::<Vec<_>>());
    r.text(&format!(
        "## Over the size of a round\n\n* *fixed shard*: the model file's shard, however long a round trains on it.\n* *grown \
         shard*: the shard grows so that each sample is seen as often as in the model file, and all of it is measured, as \
         the judge does today.\n* *grown, {DRAWN} drawn*: the same, but of each shard only {DRAWN} samples are measured, drawn \
         by the beacon after commits close, so that no trainer knows which. Not built; shown because it decides the cost.\n\n\
         Break-even is where judging costs as much as training."
    ));
    let mut rows = Vec::new();
    for s in subjects {
        for (rule, name) in RULES {
            for claims in CLAIMS {
                rows.push(vec![
                    format!("`{}`", s.name),
                    name.into(),
                    claims.to_string(),
                    size(s.reaches(rule, claims, 1.0)),
                    size(s.reaches(rule, claims, GOAL.1)),
                    percent(s.ratio(rule, claims, GOAL.0)),
                    percent(s.ratio(rule, claims, 2.0 * GOAL.0)),
                ]);
            }
        }
    }
    r.table(&["model", "shard", "claims a round", "break-even, samples", "2 % at", "at 250,000", "at 500,000"], &rows);
    for s in subjects {
        plot(&mut r, s);
    }
    rounds(&mut r, subjects);
    ways(&mut r, subjects);
    committee(&mut r, subjects);
    r.text(
        "## Repeat\n\n`apt-get install dataset-fashion-mnist` (without it, rounds only as large as the repository's data), then \
         `OMP_WAIT_POLICY=PASSIVE nice cargo run --release -p oda-ml --example results -- cost`.",
    );
    r
}

fn plot(r: &mut Report, s: &Subject) {
    let first = f64::from(30 * s.model.manifest.training.batch);
    let sizes = || (0..).map(|i| first * 1.35f64.powi(i)).take_while(|n| *n < 520_000.0);
    let curve = |(rule, name): (Rule, &str)| Series {
        name: format!("{name}, 3 claims"),
        points: sizes().map(|n| (n, s.ratio(rule, HONEST, n).log10())).collect(),
        error: None,
    };
    let level = |name: &str, ratio: f64| Series {
        name: name.into(),
        points: [first, 500_000.0].map(|n| (n, ratio.log10())).to_vec(),
        error: None,
    };
    let mut series: Vec<Series> = RULES.map(curve).into();
    let ran = s.rounds.iter().map(|ran| (ran.trained, (ran.replay_s / ran.train_s).log10())).collect();
    series.push(Series { name: "run, grown shard".into(), points: ran, error: None });
    series.push(level("break-even", 1.0));
    series.push(level("goal, 2 %", GOAL.1));
    let title = format!("Replay over training, {}", s.name);
    r.plot(s.name, &title, "samples a round trains on", "log10 of the cost ratio (-2: 1 %, 0: equal)", &series);
}

fn rounds(r: &mut Report, subjects: &[Subject]) {
    r.text(&format!(
        "## Rounds that were run\n\nThree honest trainers on a head that was trained for one round, with their grown shards, \
         and one replay of their claims by the judge as it is: whole processor time, with decoding, adding up and hashing. \
         Then z of the assigned-work test with the whole shard and with {DRAWN} samples of it (medians; the bound is in the \
         model file). Where claims are not accepted, they cost less than the curve: no probe, no new head."
    ));
    let mut rows = Vec::new();
    for s in subjects {
        for ran in &s.rounds {
            rows.push(vec![
                format!("`{}`", s.name),
                ran.steps.to_string(),
                format!("{}", ran.trained),
                ran.shard.to_string(),
                format!("{:.2}", ran.train_s / f64::from(HONEST)),
                format!("{:.2}", ran.replay_s / f64::from(HONEST)),
                format!("{:.0}", ran.evaluations / f64::from(HONEST)),
                percent(ran.replay_s / ran.train_s),
                format!("{} of {HONEST}", ran.accepted),
                format!("{:.1}", ran.z),
                format!("{} of {HONEST}", ran.drawn.0),
                format!("{:.1}", ran.drawn.1),
            ]);
        }
    }
    let drawn = format!("pass with {DRAWN} drawn");
    let head = [
        "model",
        "steps",
        "samples trained on",
        "shard",
        "training, s",
        "replay a claim, s",
        "evaluations a claim",
        "ratio",
        "accepted",
        "z",
        &drawn,
        "z",
    ];
    r.table(&head, &rows);
}

/// What each change to the rules would bring where the goal is set.
fn ways(r: &mut Report, subjects: &[Subject]) {
    r.text(&format!(
        "## Ways to the goal\n\nThe same where a round trains on {} samples, each line with the changes above it, for three \
         and for 16 claims a round:",
        GOAL.0
    ));
    let mut rows = Vec::new();
    for s in subjects {
        let mut m = s.model.manifest.clone();
        let mut row = |m: &Manifest, what: &str, rule: Rule, saved: f64| {
            let of = |claims: u32| {
                let own = of_claim(m, measured(m, rule, GOAL.0), Reach::Probed);
                percent((own + (of_round(m, true) - saved) / f64::from(claims)) * s.times.0 / GOAL.0)
            };
            rows.push(vec![format!("`{}`", s.name), what.into(), of(3), of(16)]);
        };
        row(&m, "as the judge does it, grown shard", Rule::Grown, 0.0);
        row(&m, &format!("{DRAWN} samples of the shard drawn after commits close"), Rule::Drawn, 0.0);
        // the parent's figures are those of the round in which it was the candidate
        let test = f64::from(m.data.test.samples);
        row(&m, "the test set for the new head only", Rule::Drawn, test);
        (m.judging.gate_samples, m.judging.confirm_samples) =
            (m.judging.gate_samples * 2 / 3, m.judging.confirm_samples * 2 / 3);
        row(&m, "two thirds of the gate and confirm samples", Rule::Drawn, test);
    }
    r.table(&["model", "change", "3 claims", "16 claims"], &rows);
}

fn committee(r: &mut Report, subjects: &[Subject]) {
    r.text(
        "## All validators together\n\nEvery member of a committee replays every claim, so the network pays n times. Three \
         accepted claims a round (and a hopeless one, which pays a fee, shares nothing and is stopped early where the model \
         file says so), over the training of one claim:",
    );
    let mut rows = Vec::new();
    for s in subjects {
        let m = &s.model.manifest;
        let own = f64::from(m.training.inner_steps) * f64::from(m.training.batch);
        for (trained, rule) in [(own, Rule::Fixed), (GOAL.0, Rule::Grown), (GOAL.0, Rule::Drawn)] {
            let one = s.ratio(rule, HONEST, trained);
            let hopeless = of_claim(m, measured(m, rule, trained), Reach::Stopped) * s.times.0 / trained;
            let name = RULES.iter().find(|(r, _)| *r == rule).map_or("", |(_, name)| name);
            let mut row = vec![format!("`{}`", s.name), format!("{trained}"), name.to_string()];
            row.extend([1.0, 4.0, 7.0, 16.0].map(|n| percent(n * one)));
            row.extend([1.0, 7.0].map(|n| percent(n * hopeless)));
            rows.push(row);
        }
    }
    let head =
        ["model", "samples a round", "shard", "1 validator", "4", "7", "16", "hopeless, 1 validator", "hopeless, 7"];
    r.table(&head, &rows);
}
