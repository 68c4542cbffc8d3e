//! What a sweep shows of the goals: which are met beyond doubt, which are not, and the rule behind each gap.
//!
//! A table of thirty rows lets every reader find the row that pleases him. So the sweep itself says where a goal is
//! missed, and where its seeds are too few to tell.

use super::Share;
use super::stats::Mean;
use super::table::{earns, percent, plus_minus, scaled};
use crate::sweep::{AttackRow, Sweep};

/// False rejections that are accepted: 1 %.
const MOST_REFUSED: f64 = 0.01;
/// Pay of honest trainers beside attackers that is asked for: 95 %.
const LEAST_PAY: f64 = 0.95;

fn named<'a>(rows: impl Iterator<Item = &'a AttackRow>) -> String {
    let names: Vec<&str> = rows.map(|a| a.name.as_str()).collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

fn profits(s: &Sweep) -> Vec<String> {
    let all: Vec<&AttackRow> = s.attacks.iter().filter(|a| earns(a)).collect();
    let of = |which: fn(&AttackRow) -> bool| all.iter().copied().filter(move |a| which(a));
    let below: fn(&AttackRow) -> bool = |a| a.profit_sat.is_surely_below_0();
    let above: fn(&AttackRow) -> bool = |a| a.profit_sat.is_surely_above_0();
    let open: fn(&AttackRow) -> bool = |a| !a.profit_sat.is_surely_below_0() && !a.profit_sat.is_surely_above_0();
    let mut out = vec![
        format!("**Cheating earns less than working** (goal: each attack). Shown for: {}.", named(of(below))),
        format!(
            "These seeds do not tell for: {}. Whoever works honestly under one name and hands in its copies or slices under \
             others is paid for the one (S4): its profit is about nothing, less fees.",
            named(of(open))
        ),
    ];
    for a in of(above) {
        let profit = plus_minus(a.profit_sat, 0);
        out.push(format!("Missed by **{}** ({profit} sats a run): {}.", a.name, a.left));
    }
    out
}

fn refused(share: Share) -> String {
    let (low, high) = share.interval();
    let verdict = match (high < MOST_REFUSED, low > MOST_REFUSED) {
        (true, _) => "met",
        (_, true) => "missed",
        _ => "these seeds do not tell",
    };
    let what = "**Honest work is not refused** (S4; goal: below 1 % of honest claims):";
    format!("{what} {} over all runs: {verdict}.", percent(share, 2))
}

fn pay(s: &Sweep) -> Vec<String> {
    let means = |of: fn(&AttackRow) -> Mean| {
        let all: Vec<f64> = s.attacks.iter().map(of).filter(|m| m.seeds > 0).map(|m| m.mean).collect();
        Mean::of(&all)
    };
    let (pay, rounds) = (means(|a| a.effect.honest_pay), means(|a| a.effect.rounds_kept));
    let verdict = if pay.low() >= LEAST_PAY {
        "met"
    } else if pay.high() < LEAST_PAY {
        "missed"
    } else {
        "these seeds do not tell"
    };
    let low: fn(&AttackRow) -> bool = |a| a.effect.honest_pay.half.is_some() && a.effect.honest_pay.high() < LEAST_PAY;
    vec![
        format!(
            "**Honest trainers are paid beside attackers** (goal: 95 % of what they net without): {} % on average over \
             attacks: {verdict}. In the same time {} % of the rounds are judged: a round with a claim that is never revealed \
             waits until its time is over (R3), and one whose judges or sponsor fail goes on when the next may act (R5, \
             P2). For each round that is judged it is {:.0} %.",
            plus_minus(scaled(pay), 1),
            plus_minus(scaled(rounds), 1),
            pay.mean / rounds.mean.max(1e-9) * 1e2,
        ),
        format!("Below 95 % beyond doubt beside: {}.", named(s.attacks.iter().filter(|a| low(a)))),
    ]
    .into_iter()
    .chain(s.attacks.iter().filter(|a| low(a)).map(|a| format!("What **{}** can do to others: {}.", a.name, a.left)))
    .collect()
}

/// A sentence for each goal, and for each gap.
pub fn goals(s: &Sweep) -> Vec<String> {
    if s.attacks.is_empty() {
        return Vec::new();
    }
    let mut out = profits(s);
    out.push(refused(s.wrongly_refused()));
    out.extend(pay(s));
    let broken: u64 = s.checks.iter().map(|c| c.runs).sum();
    out.push(format!("**No check is violated** (goal: in no run): {broken} violations in {} runs.", s.runs));
    out
}
