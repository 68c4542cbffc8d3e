//! What compression suits the models of the demo: few rounds, few trainers, and a verdict on every claim.
//!
//! What is best after hundreds of rounds is not what is best for the first eight, and a delta of which too little is
//! left no longer shows that the assigned shard was learned. So each setting is run through the judge as it is:
//! what the head has proven is added up, and how far honest claims are above the bound of the assigned-work test.

use crate::grid::{self, figures, number, plus_minus, those};
use crate::model::{self, Model, Trainer};
use crate::report::Report;
use crate::{Args, report};
use oda_consensus::ids::{BlobRef, ClaimId};
use oda_consensus::manifest::Manifest;
use oda_consensus::outcome::Outcome;
use oda_consensus::score::{Measurement, Verdict, excess_z_milli};
use oda_ml::judge::{self, Claim, Round, Submitted};
use oda_ml::{MlError, weights};
use serde_json::{Value, json};
use std::error::Error;

const MODELS: [&str; 2] = ["fashion-mnist", "bytes"];

/// Chunk and changes kept of each.
const KEPT: [(u32, u32); 6] = [(1024, 128), (1024, 64), (1024, 32), (1024, 16), (4096, 64), (4096, 256)];

fn cell(model: &str, (chunk, keep): (u32, u32), feedback: u32, outer: u32, seed: u64) -> Value {
    json!({
        "model": model, "chunk": chunk, "keep": keep, "feedback_milli": feedback, "outer_milli": outer,
        "trainers": 3, "rounds": 8, "seed": seed,
    })
}

fn cells(seeds: u64) -> Vec<Value> {
    let mut out = Vec::new();
    for seed in (100..).take(usize::try_from(seeds).unwrap_or(usize::MAX)) {
        for model in MODELS {
            for kept in KEPT {
                out.extend([0, 950].map(|feedback| cell(model, kept, feedback, 700, seed)));
            }
            // the outer step, where most and where little is kept
            for kept in [(1024, 128), (1024, 64), (4096, 64)] {
                out.extend([1000, 1400].map(|outer| cell(model, kept, 950, outer, seed)));
            }
        }
    }
    out
}

/// Runs the experiment.
///
/// # Errors
/// If a model cannot be loaded, a cell fails or a file cannot be written.
pub fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let mut models = Vec::new();
    for name in MODELS {
        models.push((name, Model::load(&args.root.join(format!("models/{name}.toml")))?));
    }
    let mut wanted = cells(args.seeds.unwrap_or(2));
    if args.quick {
        wanted = vec![cell(MODELS[0], (1024, 128), 950, 700, 0)];
        wanted[0]["rounds"] = json!(1);
    }
    let path = args.out.join("settings.jsonl");
    grid::run(&wanted, &path, args, |cell| {
        let found = models.iter().find(|(name, _)| cell["model"] == *name);
        let (_, model) = found.ok_or_else(|| MlError::Data("a cell of another model".into()))?;
        rounds(model, cell)
    })?;
    write(&models, &report::load(&path)).write(&args.out)?;
    Ok(())
}

fn rounds(model: &Model, cell: &Value) -> Result<Value, MlError> {
    let mut m = model.manifest.clone();
    (m.training.chunk, m.training.keep_per_chunk) = (number(cell, "chunk")?, number(cell, "keep")?);
    m.training.feedback_milli = number(cell, "feedback_milli")?;
    m.training.outer_lr_milli = number(cell, "outer_milli")?;
    (m.judging.norm_cap_milli, m.judging.max_delta_bytes) = (1_000_000, 64 << 20);
    // the judge reports each head on it, which decides nothing
    m.data.test.samples = m.data.test.samples.min(200);
    let seed = number(cell, "seed")?;
    let mut head = model.initial(&m, seed);
    let mut trainers = Trainer::several(number(cell, "trainers")?, &m, head.len());
    let mut beacon = model::beacon(seed);
    let (mut proven, mut z, mut accepted, mut norm, mut bytes) = (Vec::new(), Vec::new(), 0u32, 0f64, 0usize);
    let (mut cosine, mut adopted) = (0, 0u32);
    for round in 1..=number(cell, "rounds")? {
        let mut claims = Vec::new();
        let mut deltas = Vec::new();
        for trainer in &mut trainers {
            let steps = m.training.inner_steps;
            let change = trainer.train(model, &m, (round, beacon), &head, steps)?;
            let sent = trainer.feedback.compress(&change, &m.training);
            let delta = model::received(&sent, &m, head.len())?;
            (norm, bytes) = (norm.max(delta.norm()), bytes.max(sent.len()));
            cosine = deltas.iter().map(|other| delta.cosine_milli(other)).fold(cosine, i32::max);
            deltas.push(delta);
            let submitted = Submitted::Delta { bytes: sent, stated_unat: 0 };
            claims.push(Claim { id: ClaimId(trainer.id.0), trainer: trainer.id, submitted });
        }
        let (parent, sealed) = (weights::to_bytes(&m, &head)?, beacon.next(b"results, sealed"));
        let r = Round {
            manifest: &m,
            model: model.id,
            round: round.into(),
            start: beacon,
            sealed,
            parent: &parent,
            data: &model.data,
        };
        let found = judge::replay(&model::TORCH, &r, claims)?;
        let name = (m.id(), round.into(), BlobRef::of(&parent), sealed);
        let outcome = Outcome::derive(&m, name, found.measured);
        for claim in &outcome.claims {
            accepted += u32::from(claim.verdict == Verdict::Accepted);
            if let Measurement::Scored(s) = &claim.measurement {
                z.push(excess_z_milli(&s.shard, &s.gate));
            }
        }
        proven.push(outcome.proven_unat);
        if let (true, Some(bytes)) = (outcome.adopted(), found.candidate) {
            head = weights::from_bytes(&m, &bytes)?;
            adopted += 1;
        }
        beacon = outcome.next_beacon();
    }
    let test: Vec<u32> = (0..model.manifest.data.test.samples).collect();
    let (loss, right) = model::measure(&m, &head, &model.data.test, &test)?;
    z.sort_unstable();
    #[allow(clippy::cast_precision_loss)]
    let of = |milli: Option<&i64>| milli.map_or(f64::NAN, |z| *z as f64 / 1000.0);
    #[allow(clippy::cast_precision_loss)]
    let all = proven.iter().sum::<u64>() as f64 / 1e6;
    Ok(json!({
        "proven": all, "proven_unat": proven, "adopted": adopted, "z_least": of(z.first()), "z_median": of(z.get(z.len() / 2)),
        "z_milli": z, "accepted": accepted, "norm": norm, "bytes": bytes, "loss": loss, "right": right, "cosine_milli": cosine,
    }))
}

fn write(models: &[(&str, Model)], lines: &[Value]) -> Report {
    let mut r = Report::new("settings", "What compression suits the models of the demo");
    r.text(
        "Eight rounds of three honest trainers through the real judge, for each setting; z says by how many standard errors \
         an honest claim gains more on its own shard than on the gate sample.",
    );
    for (name, model) in models {
        let m: &Manifest = &model.manifest;
        let dense = 4 * m.parameters();
        r.text(&format!(
            "## `models/{name}.toml` ({} parameters, bound z = {})",
            m.parameters(),
            f64::from(m.judging.assigned_z_milli) / 1000.0
        ));
        let mut rows = Vec::new();
        let mut seen: Vec<Value> = Vec::new();
        for line in those(lines, &[("model", json!(name))]) {
            let mut cell = line["cell"].clone();
            if let Some(o) = cell.as_object_mut() {
                o.remove("seed");
            }
            if seen.contains(&cell) {
                continue;
            }
            let with: Vec<(&str, Value)> =
                cell.as_object().into_iter().flatten().map(|(k, v)| (k.as_str(), v.clone())).collect();
            let of = |figure: &str| figures(lines, &with, figure);
            let most = |figure: &str| of(figure).into_iter().fold(0.0, f64::max);
            let least = of("z_least").into_iter().fold(f64::MAX, f64::min);
            let claims: f64 = cell["trainers"].as_f64().unwrap_or(0.0) * cell["rounds"].as_f64().unwrap_or(0.0);
            let runs = of("accepted");
            #[allow(clippy::cast_precision_loss)]
            let accepted = 100.0 * runs.iter().sum::<f64>() / (claims * runs.len() as f64);
            #[allow(clippy::cast_precision_loss)]
            let dense = dense as f64;
            rows.push(vec![
                format!("{} of {}", cell["keep"], cell["chunk"]),
                format!("{}", cell["feedback_milli"]),
                format!("{}", cell["outer_milli"]),
                plus_minus(&of("proven"), 3),
                plus_minus(&of("loss"), 3),
                format!("{:.1}", 100.0 * report::mean_ci(&of("right")).0),
                format!("{least:.1}"),
                format!("{:.1}", report::mean_ci(&of("z_median")).0),
                format!("{accepted:.0}"),
                format!("{:.2}", most("norm")),
                format!("{:.2}", most("cosine_milli") / 1000.0),
                format!("{:.0} ({:.0})", most("bytes"), dense / most("bytes")),
                runs.len().to_string(),
            ]);
            seen.push(cell);
        }
        r.table(
            &[
                "kept",
                "feedback",
                "outer step",
                "proven in 8 rounds, nats",
                "test loss",
                "right, %",
                "least z",
                "median z",
                "accepted, %",
                "largest norm",
                "largest cosine",
                "bytes (dense / bytes)",
                "seeds",
            ],
            &rows,
        );
    }
    r.text("## Repeat\n\n`nice cargo run --release -p oda-ml --example results -- settings`.");
    r
}
