//! What one run was and what came of it, for somebody who has read nothing else.

use super::{HONEST, Party, Report, rule_of};
use crate::attackers::{self, Role};
use std::fmt::{self, Display, Formatter, Write as _};

/// A report as text.
pub struct Summary<'a> {
    /// What is told.
    pub report: &'a Report,
    /// The command that does it again.
    pub replay: &'a str,
    /// For a terminal that shows colours.
    pub colour: bool,
}

/// A number with its thousands apart.
pub fn grouped(number: i128) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut out = String::from(if number < 0 { "-" } else { "" });
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Msat as whole sats.
pub fn sats(msat: f64) -> String {
    grouped((msat / 1e3).round() as i128)
}

/// A span of virtual time.
pub fn span(ms: u64) -> String {
    match ms {
        0..90_000 => format!("{:.0} s", ms as f64 / 1e3),
        90_000..7_200_000 => format!("{:.1} min", ms as f64 / 6e4),
        _ => format!("{:.1} h", ms as f64 / 3.6e6),
    }
}

/// How many of what.
pub fn many(count: u64, what: &str) -> String {
    let (stem, end) = what.strip_suffix('y').filter(|_| count != 1).map_or((what, "s"), |stem| (stem, "ies"));
    format!("{} {stem}{}", grouped(count.into()), if count == 1 { "" } else { end })
}

/// A share in percent, with its interval.
pub fn percent(share: super::Share) -> String {
    let (low, high) = share.interval();
    format!("{:.2} %, 95 % sure: {:.2} to {:.2} %", share.rate() * 1e2, low * 1e2, high * 1e2)
}

/// What stopped a party's claims, most frequent first.
fn stopped(party: &Party) -> String {
    let mut all: Vec<(&String, &u64)> = party.money.refused.iter().collect();
    all.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    let mut said: Vec<String> =
        all.iter().map(|(verdict, n)| format!("{n} {verdict} ({})", rule_of(verdict))).collect();
    if party.evicted > 0 {
        said.push(format!("{} evicted (C6)", party.evicted));
    }
    if said.is_empty() && party.kind != HONEST {
        let rule = attackers::kind(&party.kind).map_or("", |k| k.stopped_by);
        return rule.split([':', ';']).next().unwrap_or("").to_owned();
    }
    said.join(", ")
}

struct Ink(bool);

impl Ink {
    fn bold(&self, text: &str) -> String {
        self.paint("1", text)
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.0 { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

impl Display for Summary<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (r, ink) = (self.report, Ink(self.colour));
        self.what_was_run(f, &ink)?;
        self.who_got_what(f, &ink)?;
        let Some(honest) = r.honest() else { return Ok(()) };
        writeln!(f, "\n{}", ink.bold("Honest trainers"))?;
        let wrong = r.wrongly_refused;
        writeln!(f, "  wrongly refused  {} of {} claims ({})", wrong.count, wrong.of, percent(wrong))?;
        let (got, fees) = (honest.money.received_msat as f64, honest.money.fees_msat as f64);
        writeln!(f, "  received         {} sats, and paid {} in fees", sats(got), sats(fees))?;
        if r.waited.claims > 0 {
            let (median, most) = (span(r.waited.median_ms), span(r.waited.max_ms));
            writeln!(f, "  commit to paid   {median} in the median, {most} at most")?;
        }
        writeln!(f, "\n{}", ink.bold("Learning (loss on data that nobody in the network has)"))?;
        for curve in &r.curves {
            if let (Some((_, from)), Some((_, to))) = (curve.points.first(), curve.points.last()) {
                let steps = curve.points.len() - 1;
                writeln!(f, "  {:<16} {from:.3} -> {to:.3} nats in {}", curve.model, many(steps as u64, "step"))?;
            }
        }
        writeln!(f, "\n{}", ink.bold("Checks, made at every event"))?;
        for (name, about, violated) in r.by_check() {
            let (mark, times) = match violated {
                0 => (ink.paint("32", "ok      "), String::new()),
                n => (ink.paint("31;1", "VIOLATED"), format!(" ({n} times)")),
            };
            writeln!(f, "  {mark} {name:<18} {about}{times}")?;
        }
        self.verdict(f, &ink)
    }
}

impl Summary<'_> {
    fn what_was_run(&self, f: &mut Formatter<'_>, ink: &Ink) -> fmt::Result {
        let r = self.report;
        writeln!(f, "{}: {}", ink.bold(&format!("{}, seed {}", r.scenario, r.seed)), r.about)?;
        let (validators, committee, nodes) = r.network;
        let honest = r.honest().map_or(0, |p| p.money.names);
        let hostile: u64 = r.hostile().iter().map(|p| p.money.names).sum();
        let sponsors = many(r.sponsors.len() as u64, "sponsor");
        writeln!(
            f,
            "  {} nodes: {validators} validators (committees of {committee}), {sponsors}, {}; {} hostile",
            grouped(nodes.into()),
            many(honest, "honest trainer"),
            if hostile == 0 { "none is".to_owned() } else { grouped(hostile.into()) },
        )?;
        let (judged, adopted) = r.rounds;
        writeln!(
            f,
            "  {} of virtual time, {}, {}: {adopted} made a model better, beyond doubt",
            span(r.virtual_ms),
            many(r.blocks, "block"),
            many(judged, "round"),
        )?;
        let [sent, lost, twice] = r.messages;
        let (sent, lost, twice) = (grouped(sent.into()), grouped(lost.into()), grouped(twice.into()));
        writeln!(f, "  {sent} messages sent, {lost} lost, {twice} delivered twice")?;
        if !r.faults.is_empty() {
            let faults: Vec<String> = r.faults.iter().map(|(what, count)| format!("{count} x {what}")).collect();
            writeln!(f, "  broken on purpose: {}", faults.join(", "))?;
        }
        Ok(())
    }

    fn who_got_what(&self, f: &mut Formatter<'_>, ink: &Ink) -> fmt::Result {
        let r = self.report;
        writeln!(f, "\n{}", ink.bold("Who tried what, and what it got"))?;
        let head = ["party", "names", "claims", "judged", "accepted", "sats net", "per work", "profit", "stopped by"];
        let line = |cells: &[String]| {
            let mut out = String::from(" ");
            for (place, cell) in cells.iter().enumerate() {
                match place {
                    0 => write!(out, " {cell:<16}")?,
                    8 => write!(out, "  {cell}")?,
                    _ => write!(out, " {cell:>9}")?,
                }
            }
            Ok::<String, fmt::Error>(out)
        };
        writeln!(f, "{}", ink.paint("2", &line(&head.map(str::to_owned))?))?;
        for p in &r.parties {
            let m = &p.money;
            let trains = p.role == Role::Trainer || m.judged > 0;
            let figure = |n: u64| if trains { grouped(n.into()) } else { "-".to_owned() };
            let per_work = p.relative_pay.map_or("-".to_owned(), |x| format!("{x:.2}"));
            let profit = if trains && p.kind != HONEST { sats(p.profit_msat) } else { "-".to_owned() };
            let net = if trains { sats(m.net_msat()) } else { "-".to_owned() };
            let (claims, judged, accepted) = (figure(m.claims), figure(m.judged), figure(m.accepted));
            let cells =
                [p.kind.clone(), grouped(m.names.into()), claims, judged, accepted, net, per_work, profit, stopped(p)];
            let text = line(&cells)?;
            let earns = trains && p.kind != HONEST && p.profit_msat > 0.0;
            writeln!(f, "{}", if earns { ink.paint("33", text.trim_end()) } else { text.trim_end().to_owned() })?;
        }
        writeln!(f, "  net: received less fees. per work: net for a run of training, against the honest trainers'.")?;
        writeln!(
            f,
            "  profit: net, less what honest trainers net for the same work; below 0 the attack does not pay."
        )?;
        for p in r.hostile() {
            if let Some(kind) = attackers::kind(&p.kind) {
                writeln!(f, "  {:<16} wants: {}", p.kind, kind.goal)?;
            }
        }
        for (who, bad, why, at_ms) in &r.evicted {
            let who_is = if *bad { "attacker" } else { "honest" };
            writeln!(f, "  validator {who} ({who_is}) was evicted after {}: {why}", span(*at_ms))?;
        }
        Ok(())
    }

    fn verdict(&self, f: &mut Formatter<'_>, ink: &Ink) -> fmt::Result {
        let r = self.report;
        let settled = match r.settled_ms {
            Some(ms) => format!("everything that was open ended within {}", span(ms)),
            None => "NOT everything that was open ended in time".into(),
        };
        writeln!(f, "\n{} {settled}.", ink.bold("After faults and attacks:"))?;
        if r.found == 0 {
            return writeln!(
                f,
                "{} no rule was broken; same seed, same trace: {}",
                ink.paint("32;1", "Held:"),
                r.trace
            );
        }
        writeln!(f, "{} {}:", ink.paint("31;1", "Failed:"), many(r.found, "violation"))?;
        for v in r.violations.iter().take(8) {
            let after = v.at_ms.saturating_sub(crate::sim::START_MS);
            writeln!(f, "  seed {}, after {}: {}: {}", r.seed, span(after), v.check, v.detail)?;
        }
        writeln!(f, "  once more, line by line: {}", ink.bold(&format!("{} --trace", self.replay)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!(["0", "-1,234", "12,345,678", "999"], [0, -1_234, 12_345_678, 999].map(grouped));
        assert_eq!(["1 block", "2 blocks", "3 parties"], [many(1, "block"), many(2, "block"), many(3, "party")]);
        assert_eq!(["30 s", "2.0 min", "3.0 h"], [30_000, 120_000, 10_800_000].map(span));
    }
}
