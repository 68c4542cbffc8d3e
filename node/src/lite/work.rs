//! What a lite node knows of the models on offer, and what it decides from it.
//!
//! Views of models come from single peers, and only heads are attested: rates, budgets and what others earned are their
//! word. A liar can so send this node to worse work, never make it lose a payment; what the node itself was paid counts
//! more with every claim.

use super::choose::{Candidate, OWN_CLAIMS, earned_msat, pick};
use super::limits::{CpuShare, dir_bytes, model_disk_bytes, training_bytes};
use super::measure::Speeds;
use super::status::ModelStatus;
use oda_consensus::engine::trainer::{ClaimRecord, PartEnd};
use oda_consensus::ids::ModelId;
use oda_consensus::manifest::Manifest;
use oda_consensus::wire::ModelView;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Most models followed.
pub const MAX_MODELS: usize = 16;
/// Judged claims, whoever made them, whose pay is remembered of each model.
const MAX_OTHERS: usize = 32;
/// Assumed until it is measured, if measuring failed: a step a second.
const UNKNOWN_STEP_US: u64 = 1_000_000;
const MB: u64 = 1_000_000;

/// What a claim brought, msat.
pub fn received_msat(record: &ClaimRecord) -> u64 {
    let parts = record.payment.iter().flat_map(|p| &p.parts);
    let received = parts.filter(|p| matches!(p.end, PartEnd::Received(_)));
    received.fold(0u64, |sum, p| sum.saturating_add(p.amount_msat))
}

/// A model as peers tell it.
struct Seen {
    manifest: Arc<Manifest>,
    is_funded: bool,
    most_msat: u64,
    others_msat: Vec<u64>,
    round: u64,
    /// Ledger time at which the round opened, ms.
    opened_ms: Option<u64>,
    round_ms: Option<u64>,
}

/// The models on offer, and this node's past with them.
pub struct Work {
    datadir: PathBuf,
    share: CpuShare,
    speeds: Speeds,
    /// Bytes this process may hold, and held before any training.
    max_bytes: u64,
    base_bytes: u64,
    max_disk_bytes: u64,
    seen: BTreeMap<ModelId, Seen>,
    /// By round: what this node's last claims brought.
    own: BTreeMap<ModelId, BTreeMap<u64, u64>>,
    done: BTreeMap<ModelId, u64>,
    refused: BTreeMap<ModelId, String>,
    unmeasurable: BTreeMap<ModelId, String>,
    measuring: Option<ModelId>,
}

/// Figures that bound the choice.
pub struct Bounds {
    /// Threads and working time.
    pub share: CpuShare,
    /// Most memory of the process, bytes; 0: any.
    pub max_bytes: u64,
    /// What it holds without training, bytes.
    pub base_bytes: u64,
    /// Most disk, bytes; 0: any.
    pub max_disk_bytes: u64,
}

impl Work {
    /// With what was measured and earned before.
    pub fn new<'a>(
        datadir: PathBuf,
        bounds: Bounds,
        speeds: Speeds,
        claims: impl Iterator<Item = &'a ClaimRecord>,
    ) -> Self {
        let mut work = Self {
            datadir,
            share: bounds.share,
            speeds,
            max_bytes: bounds.max_bytes,
            base_bytes: bounds.base_bytes,
            max_disk_bytes: bounds.max_disk_bytes,
            seen: BTreeMap::new(),
            own: BTreeMap::new(),
            done: BTreeMap::new(),
            refused: BTreeMap::new(),
            unmeasurable: BTreeMap::new(),
            measuring: None,
        };
        for record in claims {
            let done = work.done.entry(record.model).or_insert(0);
            *done = (*done).max(record.round);
            if record.phase.is_over() {
                work.over(record);
            }
        }
        work
    }

    /// A claim is over.
    pub fn over(&mut self, record: &ClaimRecord) {
        if self.own.len() >= MAX_MODELS && !self.own.contains_key(&record.model) {
            return;
        }
        let own = self.own.entry(record.model).or_default();
        own.insert(record.round, received_msat(record));
        while own.len() > OWN_CLAIMS {
            own.pop_first();
        }
    }

    /// A round is trained for, handed in or given up.
    pub fn trained(&mut self, model: ModelId, round: u64, step_us: Option<u64>) {
        let done = self.done.entry(model).or_insert(0);
        *done = (*done).max(round);
        if let Some(Err(error)) = step_us.map(|us| self.speeds.keep(model, us)) {
            tracing::warn!("{error:#}");
        }
    }

    /// A peer shows a model.
    pub fn hear(&mut self, model: ModelId, view: &ModelView) {
        if self.seen.len() >= MAX_MODELS && !self.seen.contains_key(&model) {
            return;
        }
        let last = view.last.as_ref();
        let round = last.map_or(1, |l| l.outcome.round.saturating_add(1));
        let opened_ms = last.map(|l| l.time_ms);
        let known = self.seen.get(&model);
        if known.is_some_and(|k| k.round > round) {
            return;
        }
        let funded = view.model.sponsors.iter().filter(|s| s.covers_another()).map(|s| s.fund.terms);
        let terms = funded.max_by_key(|t| t.most_msat());
        let lasted = |before: &Seen| {
            let (from, to) = (before.opened_ms?, opened_ms?);
            to.saturating_sub(from).checked_div(round.saturating_sub(before.round))
        };
        // the mean of the last rounds, each half as important as the next
        let round_ms = known.and_then(|k| match (k.round_ms, lasted(k)) {
            (Some(old), Some(new)) => Some(old / 2 + new / 2),
            (old, new) => new.or(old),
        });
        let mut others_msat = known.map(|k| k.others_msat.clone()).unwrap_or_default();
        if let (Some(terms), Some(last), true) = (&terms, last, known.is_none_or(|k| k.round < round)) {
            others_msat.extend(earned_msat(&last.outcome, terms));
            let old = others_msat.len().saturating_sub(MAX_OTHERS);
            others_msat.drain(..old);
        }
        let manifest = known.map_or_else(|| Arc::new(view.model.manifest.clone()), |k| k.manifest.clone());
        let is_news = known.is_none_or(|k| k.round < round);
        let (is_funded, most_msat) = (terms.is_some(), terms.map_or(0, |t| t.most_msat()));
        self.seen.insert(model, Seen { manifest, is_funded, most_msat, others_msat, round, opened_ms, round_ms });
        if is_news && self.takes(&model) {
            self.check(model);
        }
    }

    /// Whether a model fits into what this machine gives.
    fn check(&mut self, model: ModelId) {
        let Some(seen) = self.seen.get(&model) else { return };
        let needs = self.base_bytes.saturating_add(training_bytes(&seen.manifest));
        if self.max_bytes > 0 && needs > self.max_bytes {
            let why = format!("needs about {} MB of memory of {} MB (max_memory_mb)", needs / MB, self.max_bytes / MB);
            self.refuse(model, why);
            return;
        }
        // of a model it has worked on, everything is there
        let more = if self.done.contains_key(&model) { 0 } else { model_disk_bytes(&seen.manifest) };
        let needs = dir_bytes(&self.datadir).saturating_add(more);
        if self.max_disk_bytes > 0 && needs > self.max_disk_bytes {
            let why = format!("needs about {} MB of disk of {} MB (max_disk_mb)", needs / MB, self.max_disk_bytes / MB);
            self.refuse(model, why);
        }
    }

    /// No work on this model until the node is started again.
    pub fn refuse(&mut self, model: ModelId, why: String) {
        tracing::warn!(model = %model.short(), why, "this model is left to others");
        self.refused.insert(model, why);
    }

    fn takes(&self, model: &ModelId) -> bool {
        !self.refused.contains_key(model)
    }

    /// A funded model that is to be measured now; nothing may be trained until [`Work::measured`].
    pub fn to_measure(&mut self) -> Option<(ModelId, Arc<Manifest>)> {
        if self.measuring.is_some() {
            return None;
        }
        let unknown = |id: &ModelId| self.speeds.step_us(*id).is_none() && !self.unmeasurable.contains_key(id);
        let mut found = self.seen.iter().filter(|(id, s)| s.is_funded && self.takes(id) && unknown(id));
        let (model, manifest) = found.next().map(|(id, s)| (*id, s.manifest.clone()))?;
        self.measuring = Some(model);
        Some((model, manifest))
    }

    /// A measurement ended.
    pub fn measured(&mut self, model: ModelId, step_us: Result<u64, String>) {
        self.measuring = None;
        match step_us.and_then(|us| self.speeds.keep(model, us).map_err(|e| format!("{e:#}"))) {
            Ok(()) => {}
            Err(why) => {
                tracing::warn!(model = %model.short(), why, "this model could not be measured");
                self.unmeasurable.insert(model, why);
            }
        }
    }

    fn candidate(&self, model: ModelId, seen: &Seen, now_ms: u64) -> Candidate {
        let step_us = self.speeds.step_us(model).unwrap_or(UNKNOWN_STEP_US);
        let steps = u64::from(seen.manifest.training.inner_steps);
        let train_ms = steps.saturating_mul(step_us) / u64::from(self.share.duty_milli.max(1));
        let next_ms = || Some(seen.opened_ms?.saturating_add(seen.round_ms?).saturating_sub(now_ms));
        Candidate {
            model,
            is_funded: seen.is_funded && self.takes(&model),
            most_msat: seen.most_msat,
            others_msat: seen.others_msat.clone(),
            own_msat: self.own.get(&model).map(|own| own.values().copied().collect()).unwrap_or_default(),
            train_ms: train_ms.max(1),
            round_ms: seen.round_ms,
            is_done: self.done.get(&model).is_some_and(|done| *done >= seen.round),
            next_ms: next_ms(),
        }
    }

    /// The model to work on now, and what an hour of it should bring, msat.
    pub fn choose(&self, now_ms: u64) -> Option<(ModelId, u64)> {
        if self.measuring.is_some() {
            return None;
        }
        let all: Vec<Candidate> = self.seen.iter().map(|(id, s)| self.candidate(*id, s, now_ms)).collect();
        let model = pick(&all)?;
        all.iter().find(|c| c.model == model).map(|c| (model, c.msat_per_hour()))
    }

    /// What the owner is shown.
    pub fn models(&self, now_ms: u64) -> Vec<ModelStatus> {
        let status = |(id, seen): (&ModelId, &Seen)| {
            let c = self.candidate(*id, seen, now_ms);
            ModelStatus {
                model: *id,
                name: seen.manifest.name.clone(),
                is_funded: seen.is_funded,
                round: seen.round,
                step_us: self.speeds.step_us(*id),
                train_ms: c.train_ms,
                round_ms: c.round_ms,
                msat_per_hour: c.msat_per_hour(),
                refused: self.refused.get(id).cloned(),
            }
        };
        self.seen.iter().map(status).collect()
    }
}
