//! The final report as lines.

use super::text::{Paint, grouped, nats, test};
use crate::demo::phases::PHASES;
use crate::demo::summary::{Check, Summary};

fn amount(value: i128, unit: &str) -> String {
    let size = u64::try_from(value.unsigned_abs()).unwrap_or(u64::MAX);
    let sign = if value < 0 { "-" } else { "" };
    match unit {
        "unat" => format!("{sign}{} nat", nats(i64::try_from(size).unwrap_or(i64::MAX))),
        _ => format!("{sign}{} {unit}", grouped(size)),
    }
}

fn check(c: &Check, p: Paint) -> String {
    let (left, right) = (amount(c.left, c.unit), amount(c.right, c.unit));
    if c.holds() {
        format!("  {} {:<60} {left:>22}", p.good("ok"), c.what)
    } else {
        format!(
            "  {} {:<60} {left:>22} is not {right} (differs by {} {})",
            p.bad("NO"),
            c.what,
            c.left - c.right,
            c.unit
        )
    }
}

pub(super) fn lines(s: &Summary, p: Paint) -> Vec<String> {
    let mut out = vec![
        String::new(),
        p.bold(&format!("Summary: {} rounds, {} new heads, {:.0} s", s.rounds, s.adopted, s.seconds)),
    ];
    if let Some((before, after)) = s.test {
        let ((loss0, accuracy0), (loss1, accuracy1)) = (test(Some(before)), test(Some(after)));
        out.push(format!(
            "  test accuracy {accuracy0} -> {accuracy1}, loss {loss0} -> {loss1} nat, on {} samples nobody trains on",
            grouped(after.n.into())
        ));
    }
    out.push(format!(
        "  sponsor spent {} msat ({} msat of it Lightning fees), {} msat came back to it",
        grouped(s.spent_msat),
        grouped(s.fees_msat),
        grouped(s.refunded_msat)
    ));
    out.push(String::new());
    out.push(p.dim(&format!("  {:<22}{:>8}{:>8}{:>20}{:>18}", "trainer", "claims", "added", "income", "credit")));
    for t in &s.trainers {
        let name = if t.cheat { format!("{} (cheats)", t.name) } else { t.name.clone() };
        let credit = nats(i64::try_from(t.credit_unat).unwrap_or(i64::MAX));
        out.push(format!(
            "  {name:<22}{:>8}{:>8}{:>15} msat{credit:>14} nat",
            t.claims,
            t.added_claims,
            grouped(t.income_msat)
        ));
    }
    let honest = || s.trainers.iter().filter(|t| !t.cheat);
    let (judged, added): (u64, u64) = (honest().map(|t| t.claims).sum(), honest().map(|t| t.added_claims).sum());
    out.push(format!("  honest claims that added to the model: {added} of {judged}"));
    let f = &s.federation;
    if f.rotations > 0 || f.killed.is_some() || !f.evicted.is_empty() {
        let (n, t) = f.committee;
        out.push(String::new());
        out.push(format!(
            "  {} validators, committees of {n} of which {t} sign; {} took over, at most {} rounds under one of them",
            f.validators, f.rotations, f.most_rounds_per_epoch
        ));
        if f.decoys != (0, 0) {
            out.push(format!("  decoys: judged right by members {} times, wrong {} times", f.decoys.0, f.decoys.1));
        }
        out.extend(f.evicted.iter().map(|(name, why)| format!("  {name} evicted: {why}")));
        out.extend(f.killed.iter().map(|name| format!("  {name} killed after the first round, and not replaced")));
    }
    out.push(String::new());
    out.extend(s.checks.iter().map(|c| check(c, p)));
    out.extend(s.problems.iter().map(|problem| format!("  {} {problem}", p.bad("NO"))));
    if !s.phases.is_empty() {
        out.push(String::new());
        out.push(p.dim("  seconds per phase, mean over the rounds (longest)"));
        #[allow(clippy::cast_precision_loss)]
        for (i, name) in PHASES.iter().enumerate() {
            let all = || s.phases.iter().filter_map(|r| r.seconds.get(i));
            let mean = all().sum::<f64>() / s.phases.len() as f64;
            out.push(format!("  {name:<22}{mean:>8.1} ({:.1})", all().fold(0.0, |a: f64, b| a.max(*b))));
        }
    }
    out.push(String::new());
    out.push(if s.is_good() {
        p.good("Everything adds up to the millisatoshi.")
    } else {
        p.bad("The books do not balance.")
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::summary::{draw_up, tests::books};

    #[test]
    fn what_differs_is_printed() {
        let (books, file) = books();
        let good = lines(&draw_up(&books, &file, Vec::new()), Paint(false)).join("\n");
        assert!(good.contains("adds up") && !good.contains("NO "), "{good}");
        let mut wrong = books;
        wrong.payments[0].amount_msat += 1;
        let bad = lines(&draw_up(&wrong, &file, Vec::new()), Paint(false)).join("\n");
        assert!(bad.contains("differs by 1 msat") && bad.contains("do not balance"), "{bad}");
    }
}
