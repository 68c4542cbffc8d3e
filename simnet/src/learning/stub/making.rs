//! What a trainer of the stub makes: the figures of its delta, what it has learned, and which way it points.

use super::super::Work;
use super::super::calibration::{Figures, Kind};
use super::super::direction::{Direction, Mask};
use super::{Good, Shard, Stub};
use oda_consensus::engine::trainer::TrainJob;
use oda_consensus::ids::{BlobHash, NodeId};

impl Stub {
    /// What a trainer makes; `None` for a kind that needs a delta nobody made.
    pub(super) fn made(&self, job: &TrainJob, trainer: NodeId, work: &Work, hash: BlobHash) -> Option<Good> {
        let p = self.profile(job.model);
        let loss = self.loss(job.model, job.head.hash);
        let of = |kind| p.of_claim(kind, loss);
        let common = p.of_stage(p.stage(loss)).cosine;
        let own: Shard = (job.round, job.start, trainer);
        let fresh = |figures: Figures, trained: bool| {
            let direction = Direction::fresh(hash, trained.then_some(job.head.hash));
            let (model, parent) = (job.model, job.head.hash);
            Good { model, parent, loss, figures, learned: vec![(own, figures.excess)], direction, backdoor: false }
        };
        let part = |milli: u32| {
            let points = [(100.0, Kind::Tenth), (333.0, Kind::Third), (667.0, Kind::TwoThirds), (1000.0, Kind::Honest)];
            Figures::between(&points.map(|(at, kind)| (at, of(kind))), f64::from(milli))
        };
        // a source on another model is of no use
        let source = |of: &BlobHash| self.known(*of).filter(|g| g.model == job.model);
        let derived = |base: &Good, sum: &[(&Direction, f64)], mask, trained: bool| {
            let direction = Direction::made_of(hash, trained.then_some(job.head.hash), sum, mask, common);
            Good { direction, ..base.clone() }
        };
        Some(match work {
            Work::Honest => fresh(of(Kind::Honest), true),
            Work::Part { milli } => fresh(part(*milli), true),
            Work::Hurried { milli } => {
                let whole = Figures { norm_milli: of(Kind::Honest).norm_milli * 1.3, ..of(Kind::Honest) };
                let points = [(333.0, of(Kind::Hurried)), (1000.0, whole)];
                fresh(Figures::between(&points, f64::from(*milli)), true)
            }
            Work::Noise => Good { learned: Vec::new(), ..fresh(of(Kind::Noise), false) },
            Work::Flipped => {
                let made = fresh(of(Kind::Flipped), true);
                Good { direction: made.direction.flipped(), ..made }
            }
            Work::Inflated { milli } => {
                fresh(inflated(&of(Kind::Honest), &of(Kind::Doubled), f64::from(*milli) / 1e3), true)
            }
            Work::Foreign => Good { learned: Vec::new(), ..fresh(of(Kind::Foreign), true) },
            Work::Pool => fresh(of(Kind::Pool), true),
            Work::Backdoor => Good { backdoor: true, ..fresh(of(Kind::Honest), true) },
            Work::NoisyCopy { of: other } => {
                let base = source(other)?;
                let (noisy, plain) = (of(Kind::NoisyCopy), of(Kind::Foreign));
                let mut good = derived(base, &[(&base.direction, 0.77)], Mask::ALL, false);
                good.figures.gate += noisy.gate - plain.gate;
                good.figures.probe += noisy.probe - plain.probe;
                good.figures.norm_milli *= noisy.norm_milli / plain.norm_milli;
                good
            }
            Work::Slice { of: other, part, parts } => {
                let base = source(other)?;
                // two and four parts were measured (four: norm 0.62, excess 0.55, gain 0.83); what compression keeps
                // of a part is more than its share
                let n = f64::from((*parts).max(1)) - 1.0;
                let norm = 1.0 / (1.0 + 0.22 * n);
                let mut good = derived(base, &[(&base.direction, 1.0 / norm)], Mask::part(*part, *parts), false);
                good.learned.iter_mut().for_each(|l| l.1 /= 1.0 + 0.26 * n);
                good.figures.gate /= 1.0 + 0.07 * n;
                good.figures.probe /= 1.0 + 0.07 * n;
                good.figures.norm_milli *= norm;
                good
            }
            Work::Average { of: others } => {
                let all: Vec<&Good> = others.iter().filter_map(source).collect();
                let (first, n) = (*all.first()?, f64::from(u32::try_from(all.len()).unwrap_or(u32::MAX)));
                let pairs = all.iter().flat_map(|a| all.iter().map(move |b| (a, b)));
                let length = (pairs.map(|(a, b)| a.direction.cosine(&b.direction, common)).sum::<f64>()).sqrt() / n;
                // measured: compression makes a mean somewhat longer
                let norm = (1.13 * length).clamp(0.1, 1.0);
                let sum: Vec<(&Direction, f64)> = all.iter().map(|g| (&g.direction, 1.0 / (n * norm))).collect();
                let mut good = derived(first, &sum, Mask::ALL, false);
                good.learned = all.iter().flat_map(|g| &g.learned).map(|(s, e)| (*s, e * 1.1 / n)).collect();
                let mean = |f: &dyn Fn(&Figures) -> f64| all.iter().map(|g| f(&g.figures)).sum::<f64>() / n;
                good.figures.gate = mean(&|f| f.gate);
                good.figures.probe = mean(&|f| f.probe);
                good.figures.norm_milli = mean(&|f| f.norm_milli) * norm;
                good.backdoor = all.iter().any(|g| g.backdoor);
                good
            }
            Work::Tuned { of: other, milli } => {
                let base = source(other)?;
                let at = f64::from(*milli);
                let points = [(100.0, of(Kind::TunedTenth)), (333.0, of(Kind::TunedThird)), (1000.0, of(Kind::Honest))];
                let tuned = Figures::between(&points, at);
                let kept = lines(&[(0.0, 1.0), (100.0, 0.94), (333.0, 0.79), (1000.0, 0.45)], at);
                let mut good = derived(base, &[(&base.direction, kept)], Mask::ALL, true);
                good.learned.iter_mut().for_each(|l| l.1 *= kept);
                good.learned.push((own, tuned.excess));
                good.figures.norm_milli *= lines(&[(0.0, 1.0), (100.0, 1.035), (333.0, 1.13), (1000.0, 1.3)], at);
                good
            }
            Work::Copy { .. } | Work::Malformed | Work::Oversize | Work::WrongShape | Work::Huge => return None,
        })
    }
}

/// A line through points, level beyond them.
fn lines(points: &[(f64, f64)], at: f64) -> f64 {
    let mut last = points.first().copied().unwrap_or((0.0, 0.0));
    for (x, y) in points.iter().copied() {
        if at <= x {
            return if x > last.0 { last.1 + (y - last.1) * (at - last.0) / (x - last.0) } else { y };
        }
        last = (x, y);
    }
    last.1
}

/// Honest work made `k` times as large: gains as parabolas through nothing, once and twice.
fn inflated(once: &Figures, twice: &Figures, k: f64) -> Figures {
    let parabola = |once: f64, twice: f64| {
        let square = (2.0 * once - twice) / 2.0;
        (once + square) * k - square * k * k
    };
    Figures {
        excess: parabola(once.excess, twice.excess),
        gate: parabola(once.gate, twice.gate),
        probe: once.probe * k,
        excess_spread: once.excess_spread * k,
        shard_sd: once.shard_sd + (twice.shard_sd - once.shard_sd) * (k - 1.0).max(0.0),
        gate_sd: once.gate_sd + (twice.gate_sd - once.gate_sd) * (k - 1.0).max(0.0),
        probe_sd: once.probe_sd * k,
        norm_milli: once.norm_milli * k,
    }
}
