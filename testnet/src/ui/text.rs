//! Lines of the table.

use crate::demo::view::{ClaimView, Money, RoundView, View};
use crate::trainer::Activity;
use oda_consensus::score::TestReport;

/// Width of a progress bar, characters.
const BAR_WIDTH: u64 = 24;

/// Colours, or none.
#[derive(Clone, Copy)]
pub(super) struct Paint(pub(super) bool);

impl Paint {
    fn with(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }
    pub(super) fn dim(self, text: &str) -> String {
        self.with("2", text)
    }
    pub(super) fn bold(self, text: &str) -> String {
        self.with("1", text)
    }
    pub(super) fn good(self, text: &str) -> String {
        self.with("32", text)
    }
    pub(super) fn bad(self, text: &str) -> String {
        self.with("31", text)
    }
    fn busy(self, text: &str) -> String {
        self.with("36", text)
    }
}

/// 5,000,000
pub(super) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// Nats with four digits from micro-nats.
#[allow(clippy::cast_precision_loss)]
pub(super) fn nats(unat: i64) -> String {
    format!("{:.4}", unat as f64 / 1e6)
}

/// Mean loss in nats, and share of correct samples in per cent.
pub(super) fn test(report: Option<TestReport>) -> (String, String) {
    let Some(r) = report.filter(|r| r.n > 0) else { return ("-".into(), "-".into()) };
    let accuracy = 100.0 * f64::from(r.correct) / f64::from(r.n);
    (nats(r.loss_sum_unat / i64::from(r.n)), format!("{accuracy:.1} %"))
}

/// Head of the table.
pub(super) fn header() -> [String; 2] {
    [
        format!("{:>5}  {:<10}{:>9}{:>10}{:>16}", "ROUND", "HEAD", "LOSS", "ACCURACY", "PROVEN GAIN"),
        format!("{:>5}  {:<12}{:>16}{:>8}  {:<46}{}", "", "trainer", "gain, own shard", "z", "verdict", "money"),
    ]
}

/// A round that is over.
pub(super) fn round(r: &RoundView, p: Paint) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(result) = r.result {
        let (loss, accuracy) = test(result.after);
        let proven = if result.adopted {
            format!("{} nat", signed(i64::try_from(result.proven_unat).unwrap_or(i64::MAX)))
        } else {
            "not adopted".into()
        };
        let text = format!("{:>5}  {:<10}{loss:>9}{accuracy:>10}{proven:>16}", r.round, result.head.short());
        lines.push(p.bold(&text));
    }
    lines.extend(r.claims.iter().map(|c| claim(c, p)));
    lines
}

fn signed(unat: i64) -> String {
    format!("{}{}", if unat < 0 { "" } else { "+" }, nats(unat))
}

fn claim(c: &ClaimView, p: Paint) -> String {
    let gain = c.gain_unat.map_or("-".into(), |g| format!("{} nat", signed(g)));
    #[allow(clippy::cast_precision_loss)]
    let z = c.z_milli.map_or("-".into(), |z| format!("{:.1}", z as f64 / 1e3));
    let verdict = format!("{:<46}", c.stage);
    let verdict = match c.accepted {
        Some(true) => p.good(&verdict),
        Some(false) => p.bad(&verdict),
        None => p.busy(&verdict),
    };
    format!("{:>5}  {:<12}{gain:>16}{z:>8}  {verdict}{}", "", c.trainer, money(c, p))
}

fn money(c: &ClaimView, p: Paint) -> String {
    if c.money == Money::None {
        return String::new();
    }
    let text = format!("{:<9} {:>11} msat", c.money.word(), grouped(c.amount_msat));
    match c.money {
        Money::Paid => p.good(&text),
        Money::Refunded => text,
        _ => p.busy(&text),
    }
}

/// Plain output: one step of one claim; only where its money is, if that is all that is new.
pub(super) fn change(round: u64, c: &ClaimView, only_money: bool) -> String {
    let mut steps = Vec::new();
    if !only_money {
        steps.push(c.stage.clone());
        steps.extend(c.gain_unat.map(|g| format!("gain {} nat", signed(g))));
    }
    if !matches!(c.money, Money::None | Money::Offered | Money::Dealt) {
        steps.push(format!("{} {} msat", c.money.word(), grouped(c.amount_msat)));
    }
    format!("round {round}: {} {}", c.trainer, steps.join(", "))
}

/// The redrawn part: claims under way, then what every trainer does.
pub(super) fn area(view: &View, p: Paint) -> Vec<String> {
    let mut lines = vec![String::new()];
    for r in &view.open {
        let state = if r.result.is_some() { "judged, paying" } else { "open" };
        lines.push(p.bold(&format!("{:>5}  {state}", r.round)));
        lines.extend(r.claims.iter().map(|c| claim(c, p)));
    }
    for (name, activity) in &view.trainers {
        lines.push(format!("{:>5}  {name:<12}{}", "", doing(activity, p)));
    }
    lines.push(p.dim(&format!("{:>5}  block {}, Bitcoin block {}; Ctrl-C stops", "", view.height, view.chain_height)));
    lines
}

fn doing(activity: &Activity, p: Paint) -> String {
    match activity {
        Activity::Waiting => p.dim("waiting"),
        Activity::Fetching { what, done, total } => {
            format!("{} fetching {what}, {} of {} bytes", bar(*done, *total, p), grouped(*done), grouped(*total))
        }
        Activity::Training { round, step, steps, loss } => {
            format!(
                "{} training for round {round}, step {step} of {steps}, loss {loss:.4}",
                bar((*step).into(), (*steps).into(), p)
            )
        }
        Activity::Trained { round, bytes, gain_unat } => p.dim(&format!(
            "trained for round {round}: delta of {} bytes, own measurement {} nat",
            grouped(*bytes),
            signed(*gain_unat)
        )),
    }
}

fn bar(done: u64, total: u64, p: Paint) -> String {
    let full = done.min(total).saturating_mul(BAR_WIDTH) / total.max(1);
    let part = |n: u64, c: &str| c.repeat(usize::try_from(n).unwrap_or(0));
    format!("{}{}", p.busy(&part(full, "━")), p.dim(&part(BAR_WIDTH - full, "━")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::view::tests::round as sample;

    #[test]
    fn numbers_for_people() {
        assert_eq!([0, 999, 1000, 5_000_000].map(grouped), ["0", "999", "1,000", "5,000,000"]);
        assert_eq!(signed(-12_345), "-0.0123");
        assert_eq!(signed(351_234), "+0.3512");
        assert_eq!(test(None).0, "-");
    }

    #[test]
    fn a_round_reads_like_this() {
        let lines = [header().to_vec(), round(&sample(3), Paint(false))].concat();
        let expected = [
            "ROUND  HEAD           LOSS  ACCURACY     PROVEN GAIN",
            "       trainer      gain, own shard       z  verdict                                       money",
            "    3  abababab     0.9120    68.4 %     +0.4120 nat",
            "       trainer-0        +0.3512 nat    12.3  accepted                                      paid        5,000,000 msat",
            "       trainer-2                  -       -  refused: not a delta                          refunded    5,000,000 msat",
        ];
        assert_eq!(lines, expected);
        assert!(round(&sample(3), Paint(true)).iter().any(|l| l.contains("\x1b[32m")));
    }

    #[test]
    fn plain_lines_tell_what_is_new() {
        let claim = &sample(3).claims[0];
        assert_eq!(change(3, claim, false), "round 3: trainer-0 accepted, gain +0.3512 nat, paid 5,000,000 msat");
        assert_eq!(change(3, claim, true), "round 3: trainer-0 paid 5,000,000 msat");
    }

    #[test]
    fn bars_fill_and_never_overflow() {
        for (done, total, full) in [(0, 10, 0), (5, 10, 12), (10, 10, 24), (20, 10, 24), (0, 0, 0)] {
            let text = bar(done, total, Paint(true));
            let filled = text.split("\x1b[0m").next().unwrap().matches('━').count();
            assert_eq!((filled, text.matches('━').count()), (full, 24));
        }
    }
}
