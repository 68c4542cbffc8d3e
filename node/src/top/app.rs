//! What the screen shows and how keys and answers change it. Pure: no terminal, no clock, no network.

use crate::full::PeerInfo;
use crate::rpc::{ClaimInfo, CreditInfo, ModelInfo, Status};
use oda_consensus::ids::ModelId;
use serde_json::Value;

/// Most rounds of a model that are kept and drawn.
pub const MAX_ROUNDS: u64 = 500;
/// Most models listed.
pub const MAX_MODELS: usize = 200;

/// What a full node said, all of it at about the same time.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Node and ledger.
    pub status: Status,
    /// All models.
    pub models: Vec<ModelInfo>,
    /// Peers.
    pub peers: Vec<PeerInfo>,
    /// The model the rest is about.
    pub model: Option<ModelId>,
    /// Its outcomes, oldest first.
    pub outcomes: Vec<Value>,
    /// Credit on it.
    pub credit: Vec<CreditInfo>,
    /// Round the claims are of; 0 if none is open.
    pub round: u64,
    /// Its claims.
    pub claims: Vec<ClaimInfo>,
}

/// What to ask the node for next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// Model; the first if none was chosen.
    pub model: Option<ModelId>,
    /// Round; the one in progress if none was chosen.
    pub round: Option<u64>,
}

/// A key, as far as it means anything here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// Model above.
    Up,
    /// Model below, and after the last the first.
    Down,
    /// Round before.
    Left,
    /// Round after.
    Right,
    /// Back to the round in progress.
    Now,
    /// What the keys are.
    Help,
    /// Leave.
    Quit,
}

/// The screen's state.
#[derive(Clone, Debug, Default)]
pub struct App {
    /// Address of the node.
    pub url: String,
    /// Its last answer.
    pub answer: Option<Answer>,
    /// When that came, ms since the Unix epoch.
    pub answered_ms: u64,
    /// Why the last attempt failed, if it did.
    pub trouble: Option<String>,
    /// What was chosen.
    pub ask: Ask,
    /// Whether the keys are being explained.
    pub help: bool,
    /// Whether to end.
    pub quit: bool,
    /// The time, ms since the Unix epoch.
    pub now_ms: u64,
}

impl App {
    /// An empty screen.
    pub fn new(url: &str, now_ms: u64) -> Self {
        Self { url: plain(url, 120), now_ms, ..Self::default() }
    }

    /// An answer came.
    pub fn answered(&mut self, answer: Answer, now_ms: u64) {
        self.trouble = None;
        (self.answered_ms, self.now_ms) = (now_ms, now_ms);
        self.answer = Some(answer);
    }

    /// No answer came. What was shown stays.
    pub fn failed(&mut self, why: &str, now_ms: u64) {
        self.trouble = Some(plain(why, 160));
        self.now_ms = now_ms;
    }

    /// A key was pressed. True if there is something else to ask for.
    pub fn key(&mut self, key: Key) -> bool {
        let before = self.ask;
        match key {
            Key::Quit if self.help => self.help = false,
            Key::Quit => self.quit = true,
            Key::Help => self.help = !self.help,
            Key::Up => self.turn(-1),
            Key::Down => self.turn(1),
            Key::Left => {
                self.ask.round = self.shown_round().and_then(|r| r.checked_sub(1)).filter(|r| *r > 0).or(before.round)
            }
            Key::Right => self.ask.round = self.shown_round().map(|r| r + 1).filter(|r| Some(*r) < self.last_round()),
            Key::Now => self.ask.round = None,
        }
        self.ask != before
    }

    fn turn(&mut self, by: isize) {
        let Some(answer) = &self.answer else { return };
        let count = answer.models.len().min(MAX_MODELS);
        let Ok(last) = isize::try_from(count) else { return };
        if last == 0 {
            return;
        }
        let at = self.selected().and_then(|i| isize::try_from(i).ok()).unwrap_or(0);
        let to = usize::try_from((at + by).rem_euclid(last)).unwrap_or(0);
        self.ask = Ask { model: answer.models.get(to).map(|m| m.id), round: None };
    }

    /// Place of the chosen model in the list.
    pub fn selected(&self) -> Option<usize> {
        let answer = self.answer.as_ref()?;
        let chosen = self.ask.model.or(answer.model)?;
        answer.models.iter().position(|m| m.id == chosen)
    }

    /// The chosen model.
    pub fn model(&self) -> Option<&ModelInfo> {
        self.answer.as_ref()?.models.get(self.selected()?)
    }

    /// Whether the details on the screen are of the chosen model, and not still of the one before.
    pub fn is_current(&self) -> bool {
        self.answer.as_ref().is_some_and(|a| a.model == self.model().map(|m| m.id))
    }

    fn last_round(&self) -> Option<u64> {
        self.model()?.state["round"]["number"].as_u64()
    }

    /// The round whose claims are shown.
    pub fn shown_round(&self) -> Option<u64> {
        self.ask
            .round
            .or_else(|| self.answer.as_ref().filter(|_| self.is_current()).map(|a| a.round).filter(|r| *r > 0))
            .or(self.last_round())
    }
}

/// A point of the loss curve.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Round; for the first point, the one before the first outcome.
    pub round: u64,
    /// Loss of the head after it, nat.
    pub head: f64,
    /// Loss of the candidate that was refused, nat; the head's if there was none.
    pub refused: Option<f64>,
}

fn loss(report: &Value) -> Option<f64> {
    let n = report["n"].as_f64().filter(|n| *n > 0.0)?;
    Some(report["loss_sum_unat"].as_f64()? / n / 1e6)
}

/// The loss curve of a model from its outcomes.
pub fn curve(outcomes: &[Value]) -> Vec<Point> {
    let mut points: Vec<Point> = Vec::new();
    let mut head: Option<f64> = None;
    for o in outcomes.iter().map(|o| &o["outcome"]) {
        let Some(round) = o["round"].as_u64() else { continue };
        let (before, after) = (loss(&o["head"]["parent_test"]), loss(&o["head"]["candidate_test"]));
        if let (true, Some(start)) = (points.is_empty(), before) {
            points.push(Point { round: round.saturating_sub(1), head: start, refused: None });
        }
        let adopted = o["proven_unat"].as_u64().is_some_and(|gain| gain > 0);
        head = if adopted { after.or(head) } else { head.or(before) };
        if let Some(now) = head {
            points.push(Point { round, head: now, refused: (!adopted).then_some(after.unwrap_or(now)) });
        }
    }
    points
}

/// Where a model's round stands, from its record, its timing and the height of the ledger.
pub fn phase(model: &Value, height: u64) -> String {
    let (round, timing) = (&model["round"], &model["manifest"]["timing"]);
    if round.is_null() {
        return "not funded yet".into();
    }
    let (scores, blocks) = (&round["scores"], |key: &str| timing[key].as_u64().unwrap_or(0));
    let many = |v: &Value| v.as_array().map_or(0, Vec::len);
    if !round["sealed"].is_null() {
        return if scores["supported"] == true {
            "judged, outcome being signed".into()
        } else if scores["quorum_height"].is_null() {
            format!("judging, {} committed to scores", many(&scores["committed"]))
        } else {
            format!("judging, {} of {} opened scores", many(&scores["revealed"]), many(&scores["committed"]))
        };
    }
    let Some(first) = round["first_commit_height"].as_u64() else { return "open, no claim yet".into() };
    let opened = round["opened_height"].as_u64().unwrap_or(0);
    let commits = opened.saturating_add(blocks("commit_blocks")).max(first.saturating_add(blocks("linger_blocks")));
    let reveals = commits.saturating_add(blocks("reveal_blocks"));
    if height <= commits {
        format!("commits, {} blocks left", commits - height + 1)
    } else if !round["judges"].is_null() {
        "being sealed".into()
    } else {
        format!("reveals, {} blocks left", reveals.saturating_sub(height).saturating_add(1))
    }
}

/// A claim as a row: short id, trainer, state, z of the work on its own shard, payment; and whether it was accepted.
pub fn claim_row(info: &ClaimInfo) -> ([String; 5], Option<bool>) {
    let c = &info.claim;
    let judged = &c["judged"][0];
    let state = if judged.is_object() {
        let said = crate::query::verdict(&judged["verdict"]);
        said.strip_prefix("refused: ").unwrap_or(&said).to_string()
    } else if c["reveal"].is_object() {
        "revealed".into()
    } else {
        "committed".into()
    };
    let accepted = judged.is_object().then(|| judged["verdict"] == "accepted");
    let scored = &judged["measurement"]["scored"];
    let z = excess_z(&scored["shard"], &scored["gate"]).map_or_else(String::new, |z| format!("{z:.1}"));
    let row = [short(&c["id"]), short(&c["trainer"]), plain(&state, 40), z, payment(info.escrow.as_ref())];
    (row, accepted)
}

/// Standard errors by which the mean gain on `a` exceeds that on `b`. For people: verdicts compare integers.
fn excess_z(a: &Value, b: &Value) -> Option<f64> {
    let mean = |p: &Value| {
        let n = p["n"].as_f64().filter(|n| *n >= 2.0)?;
        let mean = p["sum_unat"].as_f64()? / n;
        Some((mean, (p["sum_sq_unat2"].as_f64()? / n - mean * mean).max(0.0) / (n - 1.0)))
    };
    let ((mean_a, variance_a), (mean_b, variance_b)) = (mean(a)?, mean(b)?);
    Some((mean_a - mean_b) / (variance_a + variance_b).sqrt().max(1e-9))
}

fn payment(escrow: Option<&Value>) -> String {
    let Some(escrow) = escrow else { return "none offered".into() };
    let tranches = escrow["tranches"].as_array().map_or(&[][..], Vec::as_slice);
    let sum = |wanted: &[&str]| -> u64 {
        let is = |t: &Value| match &t["status"] {
            Value::String(s) => wanted.contains(&s.as_str()),
            Value::Object(o) => o.keys().any(|k| wanted.contains(&k.as_str())),
            _ => false,
        };
        tranches.iter().filter(|t| is(t)).filter_map(|t| t["amount_msat"].as_u64()).fold(0, u64::saturating_add)
    };
    let parts = [
        (sum(&["settled"]), "paid"),
        (sum(&["dealt"]), "held"),
        (sum(&["releasing", "refunding"]), "moving"),
        (sum(&["refunded"]), "back"),
        (sum(&["expired", "fraud"]), "lost"),
    ];
    let said: Vec<String> =
        parts.iter().filter(|(s, _)| *s > 0).map(|(s, what)| format!("{} {what}", sat(*s))).collect();
    if said.is_empty() { plain(&escrow["stage"].as_str().unwrap_or("-").to_lowercase(), 12) } else { said.join(", ") }
}

/// Millisatoshi as sat, with thousands separators; what is below a sat is said only if there is some.
pub fn sat(msat: u64) -> String {
    let (whole, rest) = (msat / 1000, msat % 1000);
    let digits = whole.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    if rest > 0 { format!("{out}.{rest:03}") } else { out }
}

/// A span of time, rounded down.
pub fn span(ms: u64) -> String {
    match ms / 1000 {
        s @ 0..120 => format!("{s} s"),
        s @ 120..7200 => format!("{} min", s / 60),
        s @ 7200..172_800 => format!("{} h", s / 3600),
        s => format!("{} days", s / 86_400),
    }
}

/// The first eight digits of an id in an answer.
pub fn short(v: &Value) -> String {
    v.as_str().map_or_else(|| "-".into(), |s| plain(s, 8))
}

/// A stranger's text as a terminal may show it: no control, direction or invisible character, at most `longest` of the rest.
pub fn plain(text: &str, longest: usize) -> String {
    let unseen = |c: char| {
        c.is_control()
            || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
    };
    let mut out: String = text.chars().take(longest).map(|c| if unseen(c) { '\u{b7}' } else { c }).collect();
    if text.chars().nth(longest).is_some() && longest > 8 {
        out.pop();
        out.push('\u{2026}');
    }
    out
}
