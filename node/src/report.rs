//! What a running node tells people and programs: progress bars on a terminal, plain lines otherwise,
//! JSON lines with `--json`.

use indicatif::{ProgressBar, ProgressStyle};
use oda_consensus::engine::trainer::Phase;
use oda_consensus::ids::{BlobHash, ClaimId, ModelId, NodeId};
use serde::Serialize;
use std::io::{IsTerminal as _, Write as _};
use std::sync::{Mutex, PoisonError};

/// What happens in a lite node.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum LiteEvent {
    /// It runs.
    Started {
        /// Ledger identity.
        node: NodeId,
        /// Lightning node id, hex.
        lightning: String,
    },
    /// Work on a round begins.
    Round {
        /// Model.
        model: ModelId,
        /// Round.
        round: u64,
        /// Weights it starts from.
        head: BlobHash,
    },
    /// A blob is being fetched.
    Fetch {
        /// What it is.
        what: String,
        /// Bytes so far.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// A training step is done.
    Train {
        /// Round.
        round: u64,
        /// Steps done.
        step: u32,
        /// Steps in all.
        steps: u32,
        /// Loss on the batch, nats.
        loss: f64,
    },
    /// Training is done.
    Trained {
        /// Round.
        round: u64,
        /// Size of the compressed delta.
        bytes: u64,
        /// Own measurement of the gain, micro-nats of mean loss.
        gain_unat: i64,
    },
    /// A claim moved on.
    Claim {
        /// Claim.
        claim: ClaimId,
        /// Round.
        round: u64,
        /// Where it stands now.
        phase: Phase,
        /// Why, if there is more to say.
        note: String,
        /// When, ms since the Unix epoch.
        time_ms: u64,
    },
    /// The machine's speed on a model is known.
    Measured {
        /// Model.
        model: ModelId,
        /// Microseconds a training step takes.
        step_us: u64,
    },
    /// This model pays best here.
    Chosen {
        /// Model.
        model: ModelId,
        /// Expected pay of an hour, msat.
        msat_per_hour: u64,
    },
    /// Training waits.
    Paused {
        /// What for.
        reason: String,
    },
    /// Training goes on.
    Resumed,
    /// What was earned so far.
    Earned {
        /// Since the data directory was made, msat.
        msat: u64,
        /// For so many claims.
        claims: u64,
        /// What the node does.
        doing: String,
    },
    /// The wallet changed.
    Wallet {
        /// Spendable over Lightning, msat.
        lightning_msat: u64,
        /// Usable channels.
        channels: usize,
    },
    /// Every claim is paid or void, and no new one was wanted.
    Finished {
        /// Earned since the data directory was made, msat.
        msat: u64,
    },
}

/// How to tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Bars on a terminal, lines otherwise.
    People,
    /// One JSON object a line.
    Json,
}

/// Writes events to standard output.
pub struct Reporter {
    style: Style,
    bar: Mutex<Option<ProgressBar>>,
}

impl Reporter {
    /// A reporter of that style.
    pub fn new(style: Style) -> Self {
        Self { style, bar: Mutex::new(None) }
    }

    /// Tells of an event.
    pub fn lite(&self, event: &LiteEvent) {
        if self.style == Style::Json {
            if let Ok(line) = serde_json::to_string(event) {
                let mut out = std::io::stdout().lock();
                let _ = writeln!(out, "{line}");
                let _ = out.flush();
            }
            return;
        }
        let mut bar = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            LiteEvent::Fetch { what, done, total } => progress(&mut bar, &format!("fetching {what}"), *done, *total),
            LiteEvent::Train { round, step, steps, loss } => {
                progress(
                    &mut bar,
                    &format!("round {round}: training, loss {loss:.4}"),
                    (*step).into(),
                    (*steps).into(),
                );
            }
            other => {
                if let Some(bar) = bar.take() {
                    bar.finish_and_clear();
                }
                if let Some(line) = line(other) {
                    let mut out = std::io::stdout().lock();
                    let _ = writeln!(out, "{line}");
                    let _ = out.flush();
                }
            }
        }
    }
}

fn line(event: &LiteEvent) -> Option<String> {
    Some(match event {
        LiteEvent::Started { node, lightning } => format!("node {node}\nlightning {lightning}\nlooking for work"),
        LiteEvent::Round { model, round, head } => {
            format!("round {round} of model {}: training from head {}", model.short(), head.short())
        }
        LiteEvent::Trained { round, bytes, gain_unat } => {
            #[allow(clippy::cast_precision_loss)]
            let gain = *gain_unat as f64 / 1e6;
            format!("round {round}: trained, delta of {bytes} bytes, gain on the own shard {gain:+.4} nat")
        }
        LiteEvent::Claim { claim, round, phase, note, .. } => {
            let note = if note.is_empty() { String::new() } else { format!(" ({note})") };
            format!("round {round}: claim {} {}{note}", claim.short(), format!("{phase:?}").to_lowercase())
        }
        LiteEvent::Measured { model, step_us } => {
            #[allow(clippy::cast_precision_loss)]
            let rate = 1e6 / (*step_us).max(1) as f64;
            format!("this machine trains model {} at {rate:.1} steps a second", model.short())
        }
        LiteEvent::Chosen { model, msat_per_hour } => {
            format!("model {} pays best here: about {} sat an hour", model.short(), msat_per_hour / 1000)
        }
        LiteEvent::Paused { reason } => format!("paused: {reason}"),
        LiteEvent::Resumed => "nobody needs this computer: training goes on".into(),
        LiteEvent::Earned { msat, claims, doing } => {
            format!("earned {} sat for {claims} claims; {doing}", msat / 1000)
        }
        LiteEvent::Wallet { lightning_msat, channels } => {
            format!("wallet: {lightning_msat} msat over {channels} channels")
        }
        LiteEvent::Finished { msat } => format!("finished: every claim is over; earned {} sat in all", msat / 1000),
        LiteEvent::Fetch { .. } | LiteEvent::Train { .. } => return None,
    })
}

fn progress(bar: &mut Option<ProgressBar>, text: &str, done: u64, total: u64) {
    if !std::io::stderr().is_terminal() {
        return;
    }
    let bar = bar.get_or_insert_with(|| {
        let style = ProgressStyle::with_template("{msg} [{bar:30}] {pos}/{len}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        ProgressBar::new(total).with_style(style)
    });
    bar.set_length(total);
    bar.set_message(text.to_string());
    bar.set_position(done);
}
