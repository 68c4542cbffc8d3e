//! One round on this machine before a model is announced: would honest trainers pass, and would their work be
//! proven, on samples of the sizes the model file asks for? What is too small is said in samples (S5).

use crate::compress::compress;
use crate::judge::{self, Claim, Round, Submitted};
use crate::model_file::{Bundle, samples_needed};
use crate::train::Inner;
use crate::{Backend, MlError, Work, weights};
use oda_consensus::ids::{Beacon, ClaimId, NodeId};
use oda_consensus::manifest::WorkMode;
use oda_consensus::score::{Measurement, Paired, excess_z_milli, own_verdict};
use std::fmt::Write as _;
use std::sync::atomic::AtomicBool;

/// Trainers of the trial.
const TRAINERS: u8 = 3;

/// What the trial found.
#[derive(Clone, Debug)]
pub struct Trial {
    /// Standard errors, in thousandths, by which each honest trainer passes the assigned-work test.
    pub z_milli: Vec<i64>,
    /// Gain of the new head on the confirm sample.
    pub confirm: Option<Paired>,
    /// What is wrong with the model's figures, and what would be right.
    pub problems: Vec<String>,
    /// The same in a few lines for people.
    pub report: String,
}

/// Trains and judges the first round with honest trainers. A model in free mode is judged without the
/// assigned-work test: it has no shards.
///
/// # Errors
/// If the model cannot be trained at all.
pub fn run(backend: &dyn Backend, bundle: &Bundle) -> Result<Trial, MlError> {
    let (mut m, data) = (bundle.manifest.clone(), bundle.data()?);
    let free = m.work_mode == WorkMode::Free;
    if free {
        (m.work_mode, m.judging.assigned_z_milli, m.judging.least_work_milli) = (WorkMode::Assigned, 0, 0);
    }
    let (id, parent) = (m.id(), bundle.blobs.last().ok_or_else(|| MlError::ModelFile("no initial head".into()))?);
    let head = weights::from_bytes(&m, parent)?;
    let start = Beacon(id.0).next(b"trial");
    let mut claims = Vec::new();
    for n in 1..=TRAINERS {
        let trainer = NodeId([n; 32]);
        let indices = judge::shard(&m, id, 1, start, trainer);
        let (steps, seed) = (m.training.inner_steps, [n; 32]);
        let work = Work { manifest: &m, head: &head, data: &data.train, indices: &indices, steps, seed };
        let dense = backend.train(&work, &mut Inner::new(head.len()), &AtomicBool::new(false), &mut |_| {})?;
        let submitted = Submitted::Delta { bytes: compress(&dense, &m.training), stated_unat: 0 };
        claims.push(Claim { id: ClaimId([n; 32]), trainer, submitted });
    }
    let r = Round { manifest: &m, model: id, round: 1, start, sealed: start.next(b"seal"), parent, data: &data };
    let measured = judge::replay(backend, &r, claims)?.measured;

    let j = &m.judging;
    let (mut z_milli, mut problems, mut report) = (Vec::new(), Vec::new(), String::new());
    for (.., found) in &measured.claims {
        match found {
            Measurement::Scored(s) => z_milli.push(excess_z_milli(&s.shard, &s.gate)),
            other => problems.push(format!(
                "an honest delta is refused ({:?}): raise norm_cap_milli or max_delta_bytes",
                own_verdict(m.work_mode, j, other)
            )),
        }
    }
    let smallest = z_milli.iter().min().copied().unwrap_or(0);
    let milli = |v: i64| format!("{}{}.{:02}", if v < 0 { "-" } else { "" }, v.abs() / 1000, v.abs() % 1000 / 10);
    let shown: Vec<String> = z_milli.iter().map(|z| milli(*z)).collect();
    let needed = i64::from(j.assigned_z_milli);
    if !free {
        let _ = writeln!(report, "assigned work  z {}; {} are needed", shown.join(", "), milli(needed));
        if smallest <= needed {
            // z grows with the square root of the shard; a quarter more for bad luck
            let factor = (5 * needed).pow(2) / (4 * smallest.max(100)).pow(2).max(1);
            let shard = i64::from(j.shard_samples).saturating_mul(factor.max(2));
            problems.push(format!(
                "honest work would be refused: its z is {}, {} are needed. Give shards of about {shard} samples (shard_samples, \
                 now {}), or more steps on them (inner_steps, now {})",
                milli(smallest), milli(needed), j.shard_samples, m.training.inner_steps
            ));
        }
    }
    let confirm = measured.head.as_ref().map(|h| h.confirm);
    if let Some(c) = confirm {
        let mean = c.mean_unat();
        // from the spread of what was seen: enough samples to prove half of the gain
        let variance = (c.sum_sq_unat2 / u128::from(c.n.max(1))).saturating_sub(u128::from(mean.unsigned_abs()).pow(2));
        let spread = u64::try_from(variance.isqrt()).unwrap_or(u64::MAX);
        let bound = c.lower_bound_unat(j.adopt_z_milli);
        let nats = |unat: i64| format!("{:.6}", unat as f64 / 1e6);
        let _ = writeln!(
            report,
            "new head       gains {} nat a sample on {} confirm samples; {} are beyond doubt",
            nats(mean),
            c.n,
            nats(bound.max(0))
        );
        let enough = samples_needed(j.adopt_z_milli, spread, u64::try_from(mean / 2).unwrap_or(0).max(1));
        if mean <= 0 {
            problems.push("a round of honest work makes the model no better: lower lr_micro or outer_lr_milli".into());
        } else if bound < i64::try_from(j.min_gain_unat).unwrap_or(i64::MAX) {
            problems.push(format!(
                "a round gains {} nat, but samples differ by {}: {} confirm samples cannot prove it, about {enough} would",
                nats(mean), nats(i64::try_from(spread).unwrap_or(i64::MAX)), c.n
            ));
        } else {
            let _ = writeln!(report, "               about {enough} would prove half of such a gain");
        }
    } else if problems.is_empty() {
        problems.push("no claim was accepted".into());
    }
    Ok(Trial { z_milli, confirm, problems, report })
}
