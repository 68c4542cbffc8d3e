//! What a lite node tells its owner: a file beside its wallet, rewritten while it runs, and `oda lite status`.
//!
//! A lite node serves no RPC, and its records are locked while it runs. A small file needs no port and no protocol, and
//! still tells what was earned when the node is off.

use crate::clock::now_ms;
use anyhow::{Context, Result};
use oda_consensus::ids::{ModelId, NodeId};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The file in the data directory.
pub const STATUS_FILE: &str = "status.json";
/// Largest such file read, bytes.
const MAX_FILE: u64 = 1 << 20;
/// A running node rewrites it more often than this, ms.
const FRESH_MS: u64 = 30_000;

/// A model as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelStatus {
    /// The model.
    pub model: ModelId,
    /// Its name.
    pub name: String,
    /// Whether another claim is covered.
    pub is_funded: bool,
    /// The open round.
    pub round: u64,
    /// Microseconds a step takes here, once measured.
    pub step_us: Option<u64>,
    /// Milliseconds training for a round takes here, rests included.
    pub train_ms: u64,
    /// Milliseconds a round lasts, once two were seen.
    pub round_ms: Option<u64>,
    /// Expected pay of an hour, msat.
    pub msat_per_hour: u64,
    /// Why this node does not work on it.
    pub refused: Option<String>,
}

/// A lite node as its owner sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiteStatus {
    /// When this was written, ms since the Unix epoch.
    pub time_ms: u64,
    /// When the node was started.
    pub started_ms: u64,
    /// Ledger identity.
    pub node: NodeId,
    /// What it does, in words.
    pub doing: String,
    /// Whether training is paused.
    pub is_paused: bool,
    /// Received for work since the data directory was made, msat.
    pub earned_msat: u64,
    /// Received since this start, msat.
    pub earned_since_start_msat: u64,
    /// Claims that were paid.
    pub paid_claims: u64,
    /// Claims that ended without pay.
    pub unpaid_claims: u64,
    /// Claims under way.
    pub open_claims: u64,
    /// Spendable over Lightning, msat.
    pub lightning_msat: u64,
    /// Usable channels.
    pub channels: usize,
    /// Connected peers.
    pub peers: usize,
    /// Threads that train.
    pub threads: u32,
    /// Share of the time they work, thousandths.
    pub duty_milli: u32,
    /// Models on offer.
    pub models: Vec<ModelStatus>,
}

impl LiteStatus {
    /// Writes it where `oda lite status` looks for it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, datadir: &Path) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(self)?;
        crate::file::replace_passing(&datadir.join(STATUS_FILE), &bytes).context("writing the status")
    }

    /// Reads what a node wrote.
    ///
    /// # Errors
    /// If there is none.
    pub fn read(datadir: &Path) -> Result<Self> {
        let path = datadir.join(STATUS_FILE);
        let none = || format!("cannot read {}: no lite node was started there yet; give its --datadir", path.display());
        let size = std::fs::metadata(&path).with_context(none)?.len();
        anyhow::ensure!(size <= MAX_FILE, "{} is damaged: start the node, which writes it anew", path.display());
        let text = std::fs::read_to_string(&path).with_context(none)?;
        serde_json::from_str(&text).with_context(|| format!("{} is damaged: start the node", path.display()))
    }

    /// Whether the node that wrote this runs.
    pub fn is_running(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.time_ms) < FRESH_MS && self.doing != "stopped"
    }

    /// For people.
    pub fn text(&self, now_ms: u64) -> String {
        use std::fmt::Write as _;
        let mut out = String::new();
        let state = if self.is_running(now_ms) {
            self.doing.clone()
        } else {
            format!("not running since {} s", now_ms.saturating_sub(self.time_ms) / 1000)
        };
        let _ = writeln!(out, "state     {state}");
        let _ = writeln!(
            out,
            "earned    {} sat for {} claims ({} sat since its start); {} claims unpaid, {} under way",
            sat(self.earned_msat),
            self.paid_claims,
            sat(self.earned_since_start_msat),
            self.unpaid_claims,
            self.open_claims
        );
        let _ = writeln!(out, "wallet    {} sat over {} channels", sat(self.lightning_msat), self.channels);
        let _ = writeln!(out, "network   {} peers", self.peers);
        let _ = writeln!(out, "machine   {} threads, {} % of the time", self.threads, self.duty_milli / 10);
        for m in &self.models {
            let speed = match m.step_us {
                None => "not measured".into(),
                Some(_) => format!("{} s a round", m.train_ms.div_ceil(1000)),
            };
            let why = match (&m.refused, m.is_funded) {
                (Some(why), _) => why.clone(),
                (None, false) => "nobody pays for it now".into(),
                (None, true) => format!("{} sat an hour expected", sat(m.msat_per_hour)),
            };
            let _ = writeln!(out, "model     {} {}: {speed}, {why}", m.model.short(), m.name);
        }
        out
    }
}

/// Whole satoshi.
fn sat(msat: u64) -> String {
    crate::top::sat(msat - msat % 1000)
}

/// `oda lite status`.
///
/// # Errors
/// If no node ever ran there.
pub fn show(datadir: &Path, json: bool) -> Result<()> {
    let status = LiteStatus::read(datadir)?;
    let now = now_ms();
    if json {
        let mut value = serde_json::to_value(&status)?;
        if let Some(map) = value.as_object_mut() {
            map.insert("is_running".into(), status.is_running(now).into());
        }
        return crate::query::print_json(&value);
    }
    print!("{}", status.text(now));
    Ok(())
}
