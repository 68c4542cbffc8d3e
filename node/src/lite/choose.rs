//! Which model pays best for the time this machine spends on it.
//!
//! The obvious answer, the model with the highest rate, sends a slow machine to a large model it cannot finish a round
//! of, and everybody to a sponsor whose rate is high because nothing is left to prove. So the pay is what claims really
//! brought, and the time what this machine really takes, but no less than a round lasts: a round pays once.

use oda_consensus::escrow::Terms;
use oda_consensus::ids::ModelId;
use oda_consensus::outcome::{ClaimOutcome, Outcome};

/// Own claims that count as this machine's experience with a model.
pub const OWN_CLAIMS: usize = 8;
/// How many own claims weigh as much as what the network tells.
const PRIOR_CLAIMS: u64 = 3;
/// Milliseconds of an hour.
const HOUR_MS: u64 = 3_600_000;

/// What is known of a model, from views of the ledger and from this machine's own past.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The model.
    pub model: ModelId,
    /// Whether a sponsor's budget covers another claim.
    pub is_funded: bool,
    /// Most a claim can earn, msat.
    pub most_msat: u64,
    /// What the last claims judged on it earned, msat, whoever made them; 0 for those that earned nothing.
    pub others_msat: Vec<u64>,
    /// What this node's last claims on it earned, msat, newest last; 0 for those that earned nothing.
    pub own_msat: Vec<u64>,
    /// How long this machine trains for a round, ms.
    pub train_ms: u64,
    /// How long a round lasts, ms, if two were seen.
    pub round_ms: Option<u64>,
    /// Whether this node's work for the current round is done already.
    pub is_done: bool,
    /// When the next round may open, ms from now, if that can be told.
    pub next_ms: Option<u64>,
}

impl Candidate {
    /// What a claim may be expected to earn, msat. Before anybody was paid anything: half of the most, so that new models
    /// are tried, and less with every claim that earned nothing.
    pub fn expected_msat(&self) -> u64 {
        let mean = |all: &[u64]| {
            let sum = all.iter().fold(0u64, |sum, v| sum.saturating_add(*v));
            sum.checked_div(all.len() as u64)
        };
        let untried = || (self.most_msat / 2) / (self.others_msat.len() as u64).saturating_add(1);
        let prior = mean(&self.others_msat).filter(|mean| *mean > 0).unwrap_or_else(untried);
        let own = self.own_msat.get(self.own_msat.len().saturating_sub(OWN_CLAIMS)..).unwrap_or_default();
        let sum = own.iter().fold(prior.saturating_mul(PRIOR_CLAIMS), |sum, v| sum.saturating_add(*v));
        sum / PRIOR_CLAIMS.saturating_add(own.len() as u64)
    }

    /// Expected pay of an hour spent on this model, msat. Who takes longer than a round misses the rounds in between,
    /// and most likely the one it trained for: its chance falls with the share of the work a round leaves time for.
    pub fn msat_per_hour(&self) -> u64 {
        let train_ms = self.train_ms.max(1);
        let round_ms = self.round_ms.unwrap_or(train_ms).max(1);
        let in_time = u128::from(self.expected_msat()) * u128::from(round_ms.min(train_ms)) / u128::from(train_ms);
        u64::try_from(in_time * u128::from(HOUR_MS) / u128::from(round_ms.max(train_ms))).unwrap_or(u64::MAX)
    }
}

/// The model to work on now. `None`: nothing is funded, or it pays more to wait for the best model's next round than to
/// begin something that would still be running then.
pub fn pick(candidates: &[Candidate]) -> Option<ModelId> {
    // equal pay: the smaller id, so that a node does not change its mind
    let value = |c: &&Candidate| (c.msat_per_hour(), std::cmp::Reverse(c.model));
    let funded = || candidates.iter().filter(|c| c.is_funded);
    let best = funded().max_by_key(value)?;
    if !best.is_done {
        return Some(best.model);
    }
    let fits = |c: &&Candidate| !c.is_done && best.next_ms.is_none_or(|next| c.train_ms <= next);
    funded().filter(fits).max_by_key(value).map(|c| c.model)
}

/// What each claim of a judged round earned under these terms, msat.
pub fn earned_msat(outcome: &Outcome, terms: &Terms) -> Vec<u64> {
    let proved = |c: &ClaimOutcome| if outcome.pays(c) { c.credit_unat } else { 0 };
    outcome.claims.iter().map(|c| terms.sum_msat(terms.earned(proved(c)))).collect()
}
