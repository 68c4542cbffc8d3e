//! What a validator of the stub measures, and what is true of the heads that come of it.

use super::super::calibration::{BYTES, Kind};
use super::{Content, ELSEWHERE, Good, Shard, Stub, to_f64, to_u64};
use oda_consensus::engine::validator::JudgeJob;
use oda_consensus::ids::{Beacon, BlobHash, BlobRef, ClaimId, ModelId, NodeId};
use oda_consensus::manifest::WorkMode;
use oda_consensus::score::{
    self, Added, ClaimScores, HeadScores, MAX_LOSS_UNAT, Measurement, Paired, Refusal, TestReport, Twin, Verdict,
};
use oda_consensus::tx::Reveal;

impl Stub {
    /// What becomes of a claim before anything is measured (S7), as in `judge::replay` and the node before it.
    pub(super) fn read(
        &self,
        job: &JudgeJob,
        reveal: Option<&Reveal>,
        served: &dyn Fn(BlobHash) -> bool,
    ) -> Result<&Good, Measurement> {
        let refused = |why| Err(Measurement::Refused(why));
        let Some(reveal) = reveal else { return Err(Measurement::NotRevealed) };
        if reveal.delta.len > job.manifest.judging.max_delta_bytes {
            return refused(Refusal::Oversize);
        }
        if !served(reveal.delta.hash) {
            return refused(Refusal::NotServed);
        }
        match self.deltas.get(&reveal.delta.hash) {
            // D1: nobody can serve bytes of another length under this hash
            Some((len, _)) if *len != reveal.delta.len => refused(Refusal::NotServed),
            Some((_, Content::Bad(why))) => refused(*why),
            Some((_, Content::Good(good))) if good.model != job.model => refused(Refusal::WrongShape),
            Some((_, Content::Good(good))) => Ok(good),
            None => refused(Refusal::Malformed),
        }
    }

    /// What the full step of a delta is worth on this head, in honest deltas of the head's own.
    pub(super) fn worth(&self, good: &Good, parent: BlobHash) -> f64 {
        let honest = self.profile(good.model).of_claim(Kind::Honest, good.loss).probe;
        let worth = if honest > 0.0 { (good.figures.probe / honest).clamp(-1.5, 2.5) } else { 0.0 };
        if good.parent == parent { worth } else { worth * if worth > 0.0 { ELSEWHERE } else { 1.0 } }
    }

    /// S4, assigned mode: one claim.
    pub(super) fn scores(
        &self,
        job: &JudgeJob,
        trainer: NodeId,
        hash: BlobHash,
        good: &Good,
        edge: &Edge<'_>,
    ) -> ClaimScores {
        let (j, p) = (&job.manifest.judging, self.profile(job.model));
        let loss = self.loss(job.model, job.parent.hash);
        let stage = p.of_stage(p.stage(loss));
        let mut f = good.figures;
        if good.parent != job.parent.hash {
            let faded = (p.round_gain(loss) / p.round_gain(good.loss).max(1e-6)).clamp(0.0, 1.0);
            (f.gate, f.probe) = (f.gate * faded * 0.8, f.probe * faded * 0.8);
        }
        let draw = |what: &str, extra: &[u8]| self.normal(what, &[&hash.0, &job.sealed.0, extra]);
        let size = (f.norm_milli / 1e3).min(1.0);
        let gate = f.gate + draw("gate", &[]) * stage.gate_spread * size;
        let probe = f.probe + draw("probe", &[]) * stage.probe_spread * size;
        let shard: Shard = (job.round, job.start, trainer);
        let learned = good.learned.iter().filter(|(s, _)| *s == shard).map(|(_, e)| *e).sum::<f64>();
        let excess = learned + draw("excess", &trainer.0) * f.excess_spread;
        let of = |what: &str, n: u32, mean: f64, sd: f64| edge.of(what, hash, paired(n, mean, sd));
        let norm_micro = self.norm_micro(good);
        let shard = of("shard", j.shard_samples, gate + excess, f.shard_sd);
        if j.screen_samples > 0 {
            let (n, m) = (f64::from(j.gate_samples), f64::from(j.screen_samples));
            let part = gate + draw("screen", &[]) * f.gate_sd * (1.0 / m - 1.0 / n).max(0.0).sqrt();
            let part = of("screen", j.screen_samples, part, f.gate_sd);
            if score::hopeless(j, &shard, &part) {
                return ClaimScores { shard, gate: part, probe: None, norm_micro };
            }
        }
        let gate = of("gate", j.gate_samples, gate, f.gate_sd);
        let assigned = score::is_assigned_work(j, &shard, &gate);
        let probe = assigned.then(|| of("probe", j.gate_samples, probe, f.probe_sd));
        ClaimScores { shard, gate, probe, norm_micro }
    }

    /// Linear and square part of what a step of honest worth gains on a head, nats: such that four honest trainers
    /// gain what was measured.
    pub(super) fn slope(&self, model: ModelId, loss: f64) -> (f64, f64) {
        let p = self.profile(model);
        let (gain, r) = (p.round_gain(loss), p.curvature(p.stage(loss)));
        let common = p.of_stage(p.stage(loss)).cosine;
        let four = common + (1.0 - common) / 4.0;
        let a = gain.abs() / (0.7 - r * 0.49 * four).max(0.1);
        // where four gain nothing, nothing does: what is left of the step is loss
        if gain > 0.0 { (a, a * r) } else { (0.0, a) }
    }

    /// True gain of the accepted deltas' average, nats (S6).
    pub(super) fn average_gain(&self, job: &JudgeJob, accepted: &[(ClaimId, BlobHash, &Good)]) -> f64 {
        let loss = self.loss(job.model, job.parent.hash);
        let ((a, b), p) = (self.slope(job.model, loss), self.profile(job.model));
        let common = p.of_stage(p.stage(loss)).cosine;
        let mut norms: Vec<u64> = accepted.iter().map(|(.., g)| self.norm_micro(g)).collect();
        norms.sort_unstable();
        let median = to_f64(norms.get(norms.len().saturating_sub(1) / 2).copied().unwrap_or(1));
        let clip = |g: &Good| (median / to_f64(self.norm_micro(g)).max(1.0)).min(1.0);
        let n = f64::from(u32::try_from(accepted.len()).unwrap_or(u32::MAX)).max(1.0);
        let lr = f64::from(job.manifest.training.outer_lr_milli) / 1e3;
        let worth = accepted.iter().map(|(.., g)| self.worth(g, job.parent.hash) * clip(g)).sum::<f64>() / n;
        let long = |g: &Good| clip(g) * g.figures.norm_milli / 1e3;
        let pairs = accepted.iter().flat_map(|(.., x)| accepted.iter().map(move |(.., y)| (*x, *y)));
        let square = pairs.map(|(x, y)| x.direction.cosine(&y.direction, common) * long(x) * long(y)).sum::<f64>();
        let gain = a * worth * lr - b * lr * lr * square / (n * n);
        let rest = loss - self.profile(job.model).least_loss();
        gain.min(0.8 * rest.max(0.0))
    }

    /// S4, free mode: whoever states more goes first. Returns what was measured and the true gain of all accepted.
    pub(super) fn added(&self, job: &JudgeJob, read: &[Entry<'_>], edge: &Edge<'_>) -> (Vec<Measurement>, f64) {
        let loss = self.loss(job.model, job.parent.hash);
        let ((a, b), p) = (self.slope(job.model, loss), self.profile(job.model));
        let (j, common) = (&job.manifest.judging, p.of_stage(p.stage(loss)).cosine);
        let stated = |r: &Entry<'_>| r.reveal.map_or(0, |r| r.stated_gain_unat);
        let mut order: Vec<(usize, &Entry<'_>)> = read.iter().enumerate().collect();
        order.sort_by_key(|(i, r)| (std::cmp::Reverse(stated(r)), *i));
        let mut found = vec![Measurement::NotRevealed; read.len()];
        let (mut applied, mut gained): (Vec<&Good>, f64) = (Vec::new(), 0.0);
        for (i, r) in order {
            found[i] = match &r.content {
                Err(without) => *without,
                Ok(good) => {
                    let (hash, long) = (r.hash(), |g: &Good| g.figures.norm_milli / 1e3);
                    let with = |g: &Good| 2.0 * good.direction.cosine(&g.direction, common) * long(g) * long(good);
                    let square = applied.iter().map(|g| with(g)).sum::<f64>() + long(good) * long(good);
                    let gain = alone(a * self.worth(good, job.parent.hash), b * square)
                        .min(0.8 * (loss - gained - p.least_loss()).max(0.0));
                    let sd = good.figures.gate_sd / 2.0;
                    let noise = self.normal("added", &[&hash.0, &job.sealed.0]);
                    let mean = gain * 1e6 + noise * sd / f64::from(j.gate_samples).sqrt();
                    let gate = edge.of("added", hash, paired(j.gate_samples, mean, sd));
                    let measured = Measurement::Added(Added { stated_unat: stated(r), gate });
                    if score::own_verdict(WorkMode::Free, j, &measured) == Verdict::Accepted {
                        applied.push(good);
                        gained += gain;
                    }
                    measured
                }
            };
        }
        (found, gained)
    }

    pub(super) fn report(&self, job: &JudgeJob, loss: f64, head: BlobHash, edge: &Edge<'_>) -> TestReport {
        let n = job.manifest.data.test.samples;
        // the split is one and the same draw of samples for ever: some nats off, by 0.005
        let mean = (loss + 0.005 * self.normal("test split", &[&job.model.0])).max(0.0);
        let right = if self.profile(job.model).name == BYTES.name { 0.9 - 0.24 * mean } else { 0.995 - 0.32 * mean };
        let whole = paired(n, mean * 1e6, 0.0).sum_unat;
        let correct = to_u64(f64::from(n) * right.clamp(0.08, 1.0));
        let loss_sum_unat = whole + edge.at("test", head);
        TestReport { n, loss_sum_unat, correct: u32::try_from(correct).unwrap_or(n) }
    }

    pub(super) fn head_scores(
        &self,
        job: &JudgeJob,
        candidate: BlobRef,
        gain: f64,
        hurt: f64,
        edge: &Edge<'_>,
    ) -> HeadScores {
        let (m, p) = (&job.manifest, self.profile(job.model));
        let loss = self.loss(job.model, job.parent.hash);
        let sd = p.of_stage(p.stage(loss)).head_sd;
        let hash = candidate.hash;
        let on = |what: &str, n: u32, mean: f64, sd: f64| {
            let noise = self.normal(what, &[&hash.0, &job.sealed.0]) * sd / f64::from(n.max(1)).sqrt();
            edge.of(what, hash, paired(n, mean + noise, sd))
        };
        let guards = m.data.guards.iter().enumerate().map(|(i, slice)| {
            if slice.sealed.is_some() && job.guard_key.is_none() {
                return Paired::SKIPPED;
            }
            on(&format!("guard {i}"), slice.split.samples, gain * 1e6 - hurt, sd + hurt / 2.0)
        });
        HeadScores {
            candidate,
            guards: guards.collect(),
            confirm: on("confirm", m.judging.confirm_samples, gain * 1e6, sd),
            parent_test: self.report(job, loss, job.parent.hash, edge),
            candidate_test: self.report(job, loss - gain, hash, edge),
        }
    }

    /// Pairs of acceptable claims whose deltas point the same way (attack 5).
    pub(super) fn twins(&self, job: &JudgeJob, read: &[Entry<'_>], measurements: &[Measurement]) -> Vec<Twin> {
        let (m, p) = (&job.manifest, self.profile(job.model));
        if m.work_mode == WorkMode::Free {
            return Vec::new();
        }
        let common = p.of_stage(p.stage(self.loss(job.model, job.parent.hash))).cosine;
        let fine = |found: &Measurement| score::own_verdict(m.work_mode, &m.judging, found) == Verdict::Accepted;
        let able = (0u8..).zip(read.iter().zip(measurements)).filter(|(_, (_, found))| fine(found));
        let able: Vec<(u8, &Good)> = able.filter_map(|(i, (r, _))| Some((i, *r.content.as_ref().ok()?))).collect();
        let mut out = Vec::new();
        for (n, (a, one)) in able.iter().enumerate() {
            for (b, other) in able.iter().skip(n + 1) {
                let cosine = to_u64(one.direction.cosine(&other.direction, common) * 1e3).min(1000);
                if cosine >= u64::from(m.judging.copy_cosine_milli) {
                    out.push(Twin { a: *a, b: *b, cosine_milli: u16::try_from(cosine).unwrap_or(1000) });
                }
            }
        }
        out
    }
}

/// A claim on its way through the judge.
pub(super) struct Entry<'a> {
    pub(super) claim: ClaimId,
    pub(super) trainer: NodeId,
    pub(super) reveal: Option<Reveal>,
    pub(super) content: Result<&'a Good, Measurement>,
}

impl Entry<'_> {
    pub(super) fn hash(&self) -> BlobHash {
        self.reveal.map_or(BlobHash([0; 32]), |r| r.delta.hash)
    }
}

/// The rounding edges of one validator (S2): a sum now and then off by one unit.
pub(super) struct Edge<'a> {
    pub(super) stub: &'a Stub,
    pub(super) sealed: Beacon,
    pub(super) validator: u64,
}

impl Edge<'_> {
    pub(super) fn at(&self, what: &str, hash: BlobHash) -> i64 {
        let digest =
            self.stub.digest("edge", &[what.as_bytes(), &hash.0, &self.sealed.0, &self.validator.to_le_bytes()]);
        match digest[0] {
            0..=15 => 1,
            16..=31 => -1,
            _ => 0,
        }
    }

    pub(super) fn of(&self, what: &str, hash: BlobHash, p: Paired) -> Paired {
        let sum_unat = p.sum_unat + self.at(what, hash);
        let least = u128::from(sum_unat.unsigned_abs()).pow(2).div_ceil(u128::from(p.n.max(1)));
        Paired { sum_unat, sum_sq_unat2: p.sum_sq_unat2.max(least), ..p }
    }
}

/// Sums over `n` samples of this mean and deviation; possible ones.
pub(super) fn paired(n: u32, mean: f64, sd: f64) -> Paired {
    let most = to_f64(MAX_LOSS_UNAT.unsigned_abs()) / 2.0;
    let (mean, sd) = (mean.clamp(-most, most), sd.clamp(0.0, most));
    let samples = f64::from(n);
    #[allow(clippy::cast_possible_truncation)]
    let sum_unat = (mean * samples) as i64;
    let least = u128::from(sum_unat.unsigned_abs()).pow(2).div_ceil(u128::from(n.max(1)));
    let spread = u128::from(to_u64(sd)).pow(2) * u128::from(n);
    Paired { n, sum_unat, sum_sq_unat2: least + spread }
}

/// Gain of a claim in free mode: there is no outer step, so trainers send smaller ones themselves, and bend less.
pub(super) fn alone(linear: f64, square: f64) -> f64 {
    0.7 * linear - 0.5 * 0.49 * square
}
