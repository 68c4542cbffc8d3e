//! What the demo shows: a live table on a terminal, plain lines elsewhere, JSON lines for machines.
//!
//! Rounds that are over scroll up and stay; only what is still moving is redrawn below them, so the
//! terminal's history reads like the plain output.

mod live;
mod summary;
mod text;

use crate::demo::summary::Summary;
use crate::demo::view::{ClaimView, Money, RoundView, View};
use live::Live;
use oda_consensus::ids::ClaimId;
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use text::Paint;

/// How to show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Redrawn in place.
    Live,
    /// Lines.
    Plain,
    /// One JSON object a line.
    Json,
}

impl Mode {
    /// JSON if asked for, live if somebody looks, else lines.
    pub fn choose(json: bool) -> Self {
        match (json, std::io::stdout().is_terminal()) {
            (true, _) => Self::Json,
            (false, true) => Self::Live,
            (false, false) => Self::Plain,
        }
    }
}

/// The screen.
pub struct Screen {
    mode: Mode,
    paint: Paint,
    live: Option<Live>,
    told: BTreeMap<ClaimId, (String, Money)>,
    header_shown: bool,
}

impl Screen {
    /// A screen of that mode.
    pub fn new(mode: Mode) -> Self {
        let colour = mode == Mode::Live && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        let live = (mode == Mode::Live).then(Live::new);
        Self { mode, paint: Paint(colour), live, told: BTreeMap::new(), header_shown: false }
    }

    fn line(&self, line: &str) {
        if let Some(live) = &self.live {
            live.print(line);
            return;
        }
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{line}"); // a closed pipe is the reader's choice
        let _ = out.flush();
    }

    /// A step of starting or stopping.
    pub fn say(&self, text: &str) {
        match self.mode {
            Mode::Json => self.line(&json!({"event": "note", "text": text}).to_string()),
            _ => self.line(&self.paint.dim(text)),
        }
    }

    /// Lines for the reader as they are.
    pub fn print(&self, text: &str) {
        match self.mode {
            Mode::Json => self.say(text),
            _ => text.lines().for_each(|line| self.line(line)),
        }
    }

    /// The network as it is now.
    pub fn show(&mut self, view: &View) {
        for round in view.ended.iter().chain(&view.open) {
            self.tell_changes(round);
        }
        for round in &view.ended {
            match self.mode {
                Mode::Json => self.line(&json!({"event": "round", "result": round}).to_string()),
                _ => {
                    if !std::mem::replace(&mut self.header_shown, true) {
                        text::header().iter().for_each(|line| self.line(&self.paint.dim(line)));
                    }
                    text::round(round, self.paint).iter().for_each(|line| self.line(line));
                }
            }
            for claim in &round.claims {
                self.told.remove(&claim.claim);
            }
        }
        if let Some(live) = &mut self.live {
            live.draw(&text::area(view, self.paint));
        }
    }

    /// Plain and JSON: what has happened to each claim since it was last told.
    fn tell_changes(&mut self, round: &RoundView) {
        if self.mode == Mode::Live {
            return;
        }
        for claim in &round.claims {
            let now = (claim.stage.clone(), claim.money);
            let before = self.told.get(&claim.claim);
            if before == Some(&now) {
                continue;
            }
            let only_money = before.is_some_and(|(stage, _)| *stage == claim.stage);
            self.told.insert(claim.claim, now);
            // on the way to being locked, nothing that a reader waits for
            if only_money && matches!(claim.money, Money::None | Money::Offered | Money::Dealt) {
                continue;
            }
            let line = match self.mode {
                Mode::Json => claim_json(round.round, claim),
                _ => text::change(round.round, claim, only_money),
            };
            self.line(&line);
        }
    }

    /// The end.
    pub fn summary(&mut self, summary: &Summary) {
        if let Some(live) = &mut self.live {
            live.draw(&[]);
        }
        match self.mode {
            Mode::Json => self.line(&json!({"event": "summary", "summary": summary}).to_string()),
            _ => summary::lines(summary, self.paint).iter().for_each(|line| self.line(line)),
        }
    }

    /// Takes the live area off the screen.
    pub fn clear(&mut self) {
        if let Some(live) = &mut self.live {
            live.draw(&[]);
        }
    }
}

fn claim_json(round: u64, claim: &ClaimView) -> String {
    json!({"event": "claim", "round": round, "claim": claim}).to_string()
}
