//! A sweep as Markdown.

use super::Share;
use super::stats::Mean;
use super::summary::grouped;
use crate::attackers::Role;
use crate::sweep::{AttackRow, Sweep};
use std::fmt::{self, Display, Formatter};

/// A sweep as the tables of `docs/results/attacks.md`.
pub struct Table<'a>(pub &'a Sweep);

/// What no run says: what is left to those who have more than the rules allow for.
pub const LIMITS: [(&str, &str); 6] = [
    (
        "A quorum of t = floor(2n/3) + 1 members of a committee",
        "can attest any verdict, release or withhold any payment and decide any block: it is trusted (C3). Rotation, \
         the draw of committees by the beacon and public evidence bound how long it lasts, not what it does meanwhile.",
    ),
    (
        "More than f members, fewer than t",
        "can stop blocks and verdicts for as long as they sit in the committee. Nothing false is paid; locked money \
         comes back when its time is over.",
    ),
    (
        "A sponsor together with t members",
        "can have a claim judged worthless and keep its delta, which is public once revealed. With fewer than t it \
         cannot: what it locked is released by an attested verdict, not by it.",
    ),
    (
        "A majority of lazy trainers among the claims that pass",
        "sets the median against which work is measured (S4); the fixed assigned-work test remains.",
    ),
    (
        "Names that cost nothing",
        "can fill the places of strangers: a commit is free, and the fee comes with the offer (P8). Half of a round's \
         `max_claims` places are for who was paid on the model before and for its sponsor's guests; newcomers compete with \
         free names for the rest (`simnet/tests/limits.rs`).",
    ),
    (
        "A better recipe than the sponsor's",
        "earns more for each step than the manifest's. That is no cheat: the sponsor gets what it pays for.",
    ),
];

/// What was not simulated.
pub const NOT_SIMULATED: [&str; 7] = [
    "Weights, but for runs with `learning = \"reference\"`: what a replay measures is drawn as it was measured of real models.",
    "Sockets, NAT, relays and bandwidth: a message arrives after a delay, twice, or never, whatever its size.",
    "Lightning beyond direct channels: no routes, no routing fees, no on-chain claims; deadlines, slots and failures are there.",
    "Broken cryptography, stolen keys and side channels.",
    "A dishonest ceremony of the first committee.",
    "Prices: profit is in sats at the honest trainers' own cost of work, not in what electricity costs somebody.",
    "Attackers that learn from the run; each follows the plan its file states.",
];

/// Mean and half width.
pub fn plus_minus(mean: Mean, digits: usize) -> String {
    let number = |x: f64| if digits == 0 { grouped(x.round() as i128) } else { format!("{x:.digits$}") };
    match (mean.seeds, mean.half) {
        (0, _) => "-".into(),
        (_, None) => number(mean.mean),
        (_, Some(half)) => format!("{} ± {}", number(mean.mean), number(half)),
    }
}

/// Percent with its interval.
pub fn percent(share: Share, digits: usize) -> String {
    if share.of == 0 {
        return "-".into();
    }
    let (low, high) = share.interval();
    format!("{:.digits$} % ({:.digits$} .. {:.digits$})", share.rate() * 1e2, low * 1e2, high * 1e2)
}

/// Whether an attack has a profit at all: it trains, or has an accomplice who does.
pub fn earns(attack: &AttackRow) -> bool {
    attack.role == Role::Trainer || attack.money.judged > 0
}

impl Display for Table<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let s = self.0;
        writeln!(f, "# What attacks gain\n")?;
        writeln!(
            f,
            "{} runs, {} seeds, {} virtual hours, {} rounds judged. Intervals are 95 %: Student's over seeds for means, \
             Wilson's for shares. Profit is what the attackers of a run received, less their fees, less what the honest \
             trainers of that run net for the same work. `simnet report` makes a page of it, `simnet list` says what each \
             attacker wants and which rule stops it.\n",
            grouped(s.runs.into()),
            s.seeds,
            grouped(s.virtual_hours.round() as i128),
            grouped(s.rounds.into()),
        )?;
        if !s.attacks.is_empty() {
            writeln!(f, "## Each attack alone, in an honest network\n")?;
            writeln!(
                f,
                "| row | attack | seeds | claims judged | caught | profit, sats a run | pay for work, honest = 1 | honest wrongly refused | honest pay, without = 100 % | rounds, without = 100 % | settled within, min |"
            )?;
            writeln!(f, "|---|---|---|---|---|---|---|---|---|---|---|")?;
        }
        for a in &s.attacks {
            let rows: Vec<String> = a.rows.iter().map(u8::to_string).collect();
            let (profit, work) = if earns(a) {
                (plus_minus(a.profit_sat, 0), plus_minus(a.per_work, 2))
            } else {
                ("-".into(), "-".into())
            };
            let e = &a.effect;
            writeln!(
                f,
                "| {} | {} | {} | {} | {} | {profit} | {work} | {} | {} | {} | {:.1}{} |",
                rows.join(", "),
                a.name,
                e.seeds,
                grouped(a.money.judged.into()),
                percent(a.caught, 1),
                percent(e.wrongly_refused, 2),
                plus_minus(scaled(e.honest_pay), 1),
                plus_minus(scaled(e.rounds_kept), 0),
                e.settled_max_min,
                if e.not_settled > 0 { format!(", {} did not", e.not_settled) } else { String::new() },
            )?;
        }
        let goals = super::goals::goals(s);
        if !goals.is_empty() {
            writeln!(f, "\n### Goals, and what is missed\n")?;
        }
        for line in goals {
            writeln!(f, "- {line}")?;
        }
        writeln!(f, "\n## Scenarios\n")?;
        writeln!(
            f,
            "| scenario | seeds | faults | attackers' profit, sats a run | honest wrongly refused | honest pay, without = 100 % | commit to paid, min: median, most | settled within, min | violations |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|---|---|---|")?;
        for row in s.honest.iter().chain(&s.scenarios) {
            let e = &row.effect;
            let faults: u64 = row.faults.values().sum();
            let profits: Vec<String> = row
                .attackers
                .iter()
                .filter(|(kind, ..)| crate::attackers::kind(kind).is_some_and(|k| k.role == Role::Trainer))
                .map(|(kind, _, profit)| format!("{kind} {}", plus_minus(*profit, 0)))
                .collect();
            writeln!(
                f,
                "| {} | {} | {} | {} | {} | {} | {:.1}, {:.1} | {:.1}{} | {} |",
                row.name,
                e.seeds,
                grouped(faults.into()),
                if profits.is_empty() { "-".into() } else { profits.join("; ") },
                percent(e.wrongly_refused, 2),
                plus_minus(scaled(e.honest_pay), 1),
                e.waited_min.0,
                e.waited_min.1,
                e.settled_max_min,
                if e.not_settled > 0 { format!(", {} did not", e.not_settled) } else { String::new() },
                e.violations,
            )?;
        }
        writeln!(f, "\n## Checks, made at every event of every run\n")?;
        writeln!(f, "| check | what it says | runs in which it was violated |\n|---|---|---|")?;
        for c in &s.checks {
            writeln!(f, "| {} | {} | {} |", c.name, c.about, c.runs)?;
        }
        for v in &s.violations {
            writeln!(f, "\n- {}: {} (`{}`)", v.check, v.detail.replace('\n', " "), v.command)?;
        }
        writeln!(f, "\n## Limits\n")?;
        for (who, what) in LIMITS {
            writeln!(f, "- **{who}** {what}")?;
        }
        writeln!(f, "\n## Not simulated\n")?;
        for what in NOT_SIMULATED {
            writeln!(f, "- {what}")?;
        }
        Ok(())
    }
}

/// As percent.
pub fn scaled(mean: Mean) -> Mean {
    Mean { mean: mean.mean * 1e2, half: mean.half.map(|h| h * 1e2), seeds: mean.seeds }
}
