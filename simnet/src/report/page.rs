//! A sweep as one HTML file that tells its story alone: nothing is fetched and nothing is run, so it can be sent,
//! printed and opened in ten years.

use super::goals::goals;
use super::plot::{Row, Scale, curves, escaped, rows};
use super::summary::{grouped, many};
use super::table::{LIMITS, NOT_SIMULATED, earns, percent, plus_minus, scaled};
use super::{Share, rule_of};
use crate::attackers::Role;
use crate::sweep::{AttackRow, Effect, ScenarioRow, Sweep};
use std::fmt::{self, Display, Formatter};

/// A sweep as a page.
pub struct Page<'a>(pub &'a Sweep);

const STYLE: &str = include_str!("page.css");

impl Display for Page<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>What cheating earns</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n"
        )?;
        self.opening(f)?;
        self.profit(f)?;
        self.caught(f)?;
        self.cards(f)?;
        self.honest(f)?;
        self.learning(f)?;
        self.liveness(f)?;
        self.cost(f)?;
        self.checks(f)?;
        self.limits(f)?;
        writeln!(f, "</main>\n</body>\n</html>")
    }
}

fn tile(f: &mut Formatter<'_>, class: &str, figure: &str, what: &str) -> fmt::Result {
    writeln!(f, "<div class=\"tile\"><b class=\"{class}\">{}</b><span>{}</span></div>", escaped(figure), escaped(what))
}

fn title(name: &str) -> String {
    name.replace('_', " ")
}

/// A table whose cells say on a narrow screen what they are of.
fn table(f: &mut Formatter<'_>, head: &[&str], lines: &[Vec<String>]) -> fmt::Result {
    let cells: String = head.iter().map(|h| format!("<th>{}</th>", escaped(h))).collect();
    writeln!(f, "<table><thead><tr>{cells}</tr></thead><tbody>")?;
    for line in lines {
        write!(f, "<tr>")?;
        for (place, (cell, of)) in line.iter().zip(head).enumerate() {
            let of = if place == 0 { String::new() } else { format!(" data-of=\"{}\"", escaped(of)) };
            write!(f, "<td{of}>{}</td>", escaped(cell))?;
        }
        writeln!(f, "</tr>")?;
    }
    writeln!(f, "</tbody></table>")
}

/// Round figures for a signed axis.
fn signed_ticks(most: f64) -> Vec<(f64, String)> {
    let mut out = vec![(0.0, "0".to_owned())];
    for power in 1..9 {
        let tick = 10f64.powi(power);
        if tick > most {
            break;
        }
        // every second one on a long axis, so that they do not touch on a telephone
        if most < 1e4 || power % 2 == 1 {
            let text = if power < 3 { format!("{tick:.0}") } else { format!("{:.0}k", tick / 1e3) };
            out.push((tick, text.clone()));
            out.push((-tick, format!("-{text}")));
        }
    }
    out
}

impl Page<'_> {
    fn trainers(&self) -> impl Iterator<Item = &AttackRow> {
        self.0.attacks.iter().filter(|a| earns(a))
    }

    fn opening(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let s = self.0;
        writeln!(f, "<h1>What cheating earns</h1>")?;
        writeln!(
            f,
            "<p class=\"lede\">A network pays strangers for making machine-learning models better. It must pay for real work, and for \
             nothing else, while some of the strangers cheat, some of the judges are hostile and machines break. Here are {} such networks, \
             each simulated whole, with the attacks in the middle of them.</p>",
            grouped(s.runs.into())
        )?;
        let pays = self.trainers().filter(|a| a.profit_sat.is_surely_above_0()).count();
        let trainers = self.trainers().count();
        let mut caught = Share::default();
        self.trainers().for_each(|a| caught.add(a.caught));
        let wrong = s.wrongly_refused();
        let broken: u64 = s.checks.iter().map(|c| c.runs).sum();
        writeln!(f, "<div class=\"tiles\">")?;
        let hours = grouped(s.virtual_hours.round() as i128);
        tile(
            f,
            "",
            &hours,
            &format!("hours of network time, {}, {} rounds judged", many(s.seeds, "seed"), grouped(s.rounds.into())),
        )?;
        if trainers > 0 {
            let class = if pays == 0 { "good" } else { "bad" };
            tile(
                f,
                class,
                &format!("{pays} of {trainers}"),
                "ways to cheat with claims that earn more than honest work, beyond doubt",
            )?;
            tile(f, "plain", &format!("{:.1} %", caught.rate() * 1e2), "of the cheats' claims were refused")?;
        }
        let (low, high) = wrong.interval();
        let class = if high < 0.01 { "good" } else { "bad" };
        let said = format!(
            "of {} honest claims were wrongly refused ({:.2} to {:.2} %)",
            grouped(wrong.of.into()),
            low * 1e2,
            high * 1e2
        );
        tile(f, class, &format!("{:.2} %", wrong.rate() * 1e2), &said)?;
        let class = if broken == 0 { "good" } else { "bad" };
        tile(f, class, &broken.to_string(), &format!("runs in which one of {} rules was broken", s.checks.len()))?;
        writeln!(f, "</div>\n<h2>How it works, in short</h2>")?;
        writeln!(
            f,
            "<p>A <b>sponsor</b> promises money for a model. In each round, <b>trainers</b> train it on data assigned to their names and \
             commit to what they made before anybody sees it. The sponsor locks the money. Only then are the test data drawn, by dice that \
             nobody can load, and a committee of <b>validators</b> measures every claim: did it learn what it was assigned, and is the model \
             better for it, beyond doubt? A threshold of the committee must say the same, and its joint signature is what releases the money.</p>\
             <p>The simulator runs the code of the real node – ledger, agreement, threshold signatures, scoring, escrow – and replaces what is \
             around it: time, network, disks, Lightning and the training itself. Everything follows from a seed, so every figure here can be \
             had again. After every event, {} checks look whether a rule was broken.</p>",
            s.checks.len()
        )?;
        writeln!(
            f,
            "<p class=\"soft\">Marks show a mean or a share, lines its 95 % interval: Student's t over seeds, Wilson's for shares. Where the \
             interval holds 0, the figure may be chance.</p>"
        )
    }

    fn profit(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.0.attacks.is_empty() {
            return Ok(());
        }
        writeln!(f, "<h2>Does it pay?</h2>")?;
        writeln!(
            f,
            "<p>What the cheats of a run received, less their fees, less what the honest trainers beside them net for the same amount of \
             computing, in sats. Left of zero, honest work would have been the better idea. Steps of the axis are factors of ten.</p>"
        )?;
        let most =
            self.trainers().map(|a| a.profit_sat.low().abs().max(a.profit_sat.high().abs())).fold(100.0, f64::max);
        let row = |a: &AttackRow| {
            let p = a.profit_sat;
            let class = match () {
                () if p.is_surely_above_0() => "bad",
                () if p.is_surely_below_0() => "good",
                () => "plain",
            };
            let work =
                if a.per_work.seeds > 0 { format!("{:.2} x honest pay", a.per_work.mean) } else { "no work".into() };
            let value = format!("{} sats; {work}", plus_minus(p, 0));
            Row { label: title(&a.name), value, figures: Some((p.low(), p.mean, p.high())), class }
        };
        let all: Vec<Row> = self.trainers().map(row).collect();
        write!(
            f,
            "{}",
            rows(
                Scale::Signed(most),
                &signed_ticks(most),
                Some((0.0, "no better and no worse than honest work")),
                &all
            )
        )?;
        let each = self.0.attacks.first().map(|a| a.honest_net_sat.mean).unwrap_or(0.0);
        writeln!(
            f,
            "<p class=\"soft\">For scale: an honest trainer nets about {} sats in such a run.</p>",
            grouped(each.round() as i128)
        )
    }

    fn caught(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.0.attacks.is_empty() {
            return Ok(());
        }
        writeln!(f, "<h2>Are they caught?</h2>")?;
        writeln!(
            f,
            "<p>Share of the cheats' judged claims that were refused. Not all should be: who sends one honest run under four names is paid \
             for one of them, and whoever inflates honest work is cut down to size and paid for the work. What counts is that nothing \
             is earned by it, above.</p>"
        )?;
        let row = |a: &AttackRow| {
            let (low, high) = a.caught.interval();
            let figures = (a.caught.of > 0).then_some((low, a.caught.rate(), high));
            let value = match a.caught.of {
                0 => "no claim was judged".to_owned(),
                of => format!("{:.1} % of {}", a.caught.rate() * 1e2, grouped(of.into())),
            };
            Row { label: title(&a.name), value, figures, class: "plain" }
        };
        let ticks: Vec<(f64, String)> = [0, 25, 50, 75, 100].map(|p| (f64::from(p) / 1e2, format!("{p} %"))).to_vec();
        write!(f, "{}", rows(Scale::Linear(0.0, 1.0), &ticks, None, &self.trainers().map(row).collect::<Vec<_>>()))
    }

    fn cards(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.0.attacks.is_empty() {
            return Ok(());
        }
        writeln!(f, "<h2>The attacks, one by one</h2>")?;
        writeln!(
            f,
            "<p>Each ran alone against an otherwise honest network. Letters with figures (S4, R1) are rules of the specification; rows are \
             those of its attack table.</p><div class=\"cards\">"
        )?;
        for a in &self.0.attacks {
            card(f, a)?;
        }
        writeln!(f, "</div>")
    }

    fn honest(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let s = self.0;
        writeln!(f, "<h2>Are the honest hit?</h2>")?;
        writeln!(
            f,
            "<p>A guard that refuses everybody catches every cheat. So: honest claims, opened and served, that were refused all the same. \
             The aim is less than one in a hundred.</p>"
        )?;
        let effects = || {
            let attacks = s.attacks.iter().map(|a| (title(&a.name), &a.effect));
            let scenarios =
                s.honest.iter().chain(&s.scenarios).map(|r| (format!("{} (scenario)", title(&r.name)), &r.effect));
            scenarios.chain(attacks)
        };
        let wrong = |(label, e): (String, &Effect)| {
            let (low, high) = e.wrongly_refused.interval();
            let (rate, of) = (e.wrongly_refused.rate(), e.wrongly_refused.of);
            let value = format!("{:.2} % of {}", rate * 1e2, grouped(of.into()));
            let class = if rate < 0.01 { "good" } else { "bad" };
            Row { label, value, figures: (of > 0).then_some((low, rate, high)), class }
        };
        let all: Vec<Row> = effects().map(wrong).collect();
        let most = all.iter().filter_map(|r| r.figures).map(|(.., high)| high).fold(0.02, f64::max);
        let ticks: Vec<(f64, String)> =
            (0..=4).map(|i| most * f64::from(i) / 4.0).map(|x| (x, format!("{:.1} %", x * 1e2))).collect();
        write!(f, "{}", rows(Scale::Linear(0.0, most), &ticks, Some((0.01, "the aim: below 1 %")), &all))?;
        writeln!(
            f,
            "<p>And what honest trainers net, against the same network from the same seed without the attackers. The aim is at least 95 %. \
             Cheats that do some real work take their share of the pool, as any trainer would.</p>"
        )?;
        let pay = |(label, e): (String, &Effect)| {
            let p = scaled(e.honest_pay);
            let class = if p.mean >= 95.0 { "good" } else { "bad" };
            (p.seeds > 0).then(|| Row {
                label,
                value: format!("{} %", plus_minus(p, 1)),
                figures: Some((p.low(), p.mean, p.high())),
                class,
            })
        };
        let all: Vec<Row> = effects().filter_map(pay).collect();
        let least = all.iter().filter_map(|r| r.figures).map(|(low, ..)| low).fold(80.0, f64::min).max(0.0);
        let most = all.iter().filter_map(|r| r.figures).map(|(.., high)| high).fold(110.0, f64::max).min(300.0);
        let ticks: Vec<(f64, String)> =
            (0..=4).map(|i| least + (most - least) * f64::from(i) / 4.0).map(|x| (x, format!("{x:.0} %"))).collect();
        write!(f, "{}", rows(Scale::Linear(least, most), &ticks, Some((95.0, "the aim: at least 95 %")), &all))
    }

    fn learning(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "<h2>Do the models still learn?</h2>")?;
        writeln!(
            f,
            "<p>Loss on data that nobody in the network has, over virtual time; lower is better. Mean over models and seeds.</p>\
             <p class=\"key\"><i></i>as it ran <i class=\"twin\"></i>the same without attackers</p><div class=\"curves\">"
        )?;
        let alone = self.0.honest.iter().map(|h| (title(&h.name), &h.effect.loss, &h.effect.loss));
        let scenarios = self.0.scenarios.iter().map(|s| (title(&s.name), &s.effect.loss, &s.loss_without));
        for (name, front, behind) in alone.chain(scenarios) {
            write!(f, "{}", curves(&name, front, behind))?;
        }
        let base = self.0.honest.as_ref().map(|h| h.effect.loss.clone()).unwrap_or_default();
        for a in &self.0.attacks {
            write!(f, "{}", curves(&format!("with {}", title(&a.name)), &a.effect.loss, &base))?;
        }
        writeln!(f, "</div>")
    }

    fn liveness(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "<h2>Does it come back?</h2>")?;
        writeln!(
            f,
            "<p>Processes die, disks fill, networks split, the Bitcoin chain turns back. When faults and attacks stop, everything that was open \
             – every round, claim and payment of an honest party – must come to its end. The mark is the mean over seeds, the line reaches to \
             the longest.</p>"
        )?;
        let lines = || {
            let scenarios = self.0.honest.iter().chain(&self.0.scenarios);
            let scenarios = scenarios.map(|r| (title(&r.name), r.faults.values().sum::<u64>(), &r.effect));
            scenarios.chain(self.0.attacks.iter().map(|a| (format!("with {}", title(&a.name)), 0, &a.effect)))
        };
        let row = |(label, faults, e): (String, u64, &Effect)| {
            let failed = if e.not_settled > 0 { format!("; {} did not end", e.not_settled) } else { String::new() };
            let broken = if faults > 0 { format!(" after {} faults", grouped(faults.into())) } else { String::new() };
            let value = format!("{:.1} min, {:.1} at most{broken}{failed}", e.settled_min.mean, e.settled_max_min);
            let class = if e.not_settled > 0 { "bad" } else { "good" };
            let figures =
                (e.settled_min.seeds > 0).then_some((e.settled_min.mean, e.settled_min.mean, e.settled_max_min));
            Row { label, value, figures, class }
        };
        let all: Vec<Row> = lines().map(row).collect();
        let most = all.iter().filter_map(|r| r.figures).map(|(.., high)| high).fold(1.0, f64::max);
        let ticks: Vec<(f64, String)> =
            (0..=4).map(|i| most * f64::from(i) / 4.0).map(|x| (x, format!("{x:.0} min"))).collect();
        write!(f, "{}", rows(Scale::Linear(0.0, most), &ticks, None, &all))
    }

    fn cost(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "<h2>What the defence costs</h2>")?;
        writeln!(
            f,
            "<p>Honest trainers pay a fee for each claim (P8) and wait; sponsors lock money, some of it for nothing; judges compute every claim \
             again, all of them, which is not simulated and measured apart (docs/benchmarks.md).</p>"
        )?;
        let line = |r: &ScenarioRow| {
            let (e, h) = (&r.effect, &r.effect.honest);
            let fees = h.fees_msat as f64 / h.received_msat.max(1) as f64 * 1e2;
            let all = || r.attackers.iter().map(|(_, money, _)| money).chain([h]);
            let locked: u64 = all().map(|m| m.locked_msat_hours).sum();
            let received: u64 = all().map(|m| m.received_msat).sum();
            vec![
                title(&r.name),
                format!("{fees:.2} %"),
                format!("{:.2} %", e.wrongly_refused.rate() * 1e2),
                format!("{:.1} min, {:.1} at most", e.waited_min.0, e.waited_min.1),
                format!("{:.0} sats for an hour", locked as f64 / received.max(1) as f64 * 1e3),
                grouped(e.messages_a_claim.round() as i128),
            ]
        };
        let head = [
            "scenario",
            "fees, of honest pay",
            "honest claims lost",
            "commit to paid",
            "locked for nothing, for 1,000 sats paid",
            "messages a claim",
        ];
        let lines: Vec<Vec<String>> = self.0.honest.iter().chain(&self.0.scenarios).map(line).collect();
        table(f, &head, &lines)
    }

    fn checks(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "<h2>What was checked</h2><p>After every one of {} events.</p>", grouped(self.0.events.into()))?;
        let line = |c: &crate::sweep::CheckRow| {
            let held = if c.runs == 0 { "held in all runs".to_owned() } else { format!("BROKEN in {} runs", c.runs) };
            vec![c.name.clone(), c.about.clone(), held]
        };
        table(f, &["check", "what it says", "result"], &self.0.checks.iter().map(line).collect::<Vec<_>>())?;
        for v in &self.0.violations {
            let (check, detail, command) = (escaped(&v.check), escaped(&v.detail), escaped(&v.command));
            writeln!(f, "<p class=\"bad\"><b>{check}</b>: {detail}<br><code>{command}</code></p>")?;
        }
        Ok(())
    }

    fn limits(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let goals = goals(self.0);
        if !goals.is_empty() {
            writeln!(f, "<h2>Goals, and what is missed</h2><ul>")?;
        }
        for line in &goals {
            // every second part of a line stands between two asterisks
            let parts = line.split("**").enumerate();
            let html: String =
                parts.map(|(i, p)| [escaped(p), format!("<b>{}</b>", escaped(p))][i % 2].clone()).collect();
            writeln!(f, "<li>{html}</li>")?;
        }
        if !goals.is_empty() {
            writeln!(f, "</ul>")?;
        }
        writeln!(f, "<h2>What could still be done</h2><ul>")?;
        for (who, what) in LIMITS {
            writeln!(f, "<li><b>{}</b> {}</li>", escaped(who), escaped(what))?;
        }
        writeln!(f, "</ul><h2>What was not simulated</h2><ul>")?;
        for what in NOT_SIMULATED {
            writeln!(f, "<li>{}</li>", escaped(what))?;
        }
        writeln!(
            f,
            "</ul><footer>Again: <code>simnet sweep --minutes 60 --write docs/results</code>, then <code>simnet report</code>. One network: \
             <code>simnet run adversarial</code>. All attackers and scenarios: <code>simnet list</code>.</footer>"
        )
    }
}

fn card(f: &mut Formatter<'_>, a: &AttackRow) -> fmt::Result {
    let rows: Vec<String> = a.rows.iter().map(u8::to_string).collect();
    let role = format!("{:?}", a.role).to_lowercase();
    writeln!(
        f,
        "<article class=\"card\"><header><h3>{}</h3><span class=\"chip\">{role}, row {}</span></header>",
        escaped(&title(&a.name)),
        rows.join(", ")
    )?;
    writeln!(f, "<p><b>Wants:</b> {}. It would gain: {}.</p>", escaped(&a.goal), escaped(&a.gain))?;
    writeln!(f, "<p><b>Stopped by</b> {}.</p>", escaped(&a.stopped_by))?;
    writeln!(f, "<p><b>Left to it:</b> {}.</p><dl>", escaped(&a.left))?;
    let mut line = |what: &str, text: &str| writeln!(f, "<dt>{what}</dt><dd>{}</dd>", escaped(text));
    line("seeds", &a.effect.seeds.to_string())?;
    if earns(a) {
        line(
            "claims",
            &format!("{} judged, {} accepted", grouped(a.money.judged.into()), grouped(a.money.accepted.into())),
        )?;
        let mut refused: Vec<(&String, &u64)> = a.money.refused.iter().collect();
        refused.sort_by(|x, y| y.1.cmp(x.1).then(x.0.cmp(y.0)));
        let refused: Vec<String> =
            refused.iter().map(|(why, n)| format!("{} {why} ({})", grouped(i128::from(**n)), rule_of(why))).collect();
        if !refused.is_empty() {
            line("refused", &refused.join(", "))?;
        }
        line("caught", &percent(a.caught, 1))?;
        line("profit", &format!("{} sats a run", plus_minus(a.profit_sat, 0)))?;
    } else {
        if a.role == Role::Validator {
            line("evicted", &format!("{} in {} runs", a.effect.evicted, a.effect.seeds))?;
        }
        let unpaid = a.effect.honest.unpaid;
        line("honest, accepted", &format!("{} claims, {unpaid} not paid", grouped(a.effect.honest.accepted.into())))?;
        if a.effect.honest_pay.seeds > 0 {
            line("honest pay", &format!("{} % of that without it", plus_minus(scaled(a.effect.honest_pay), 1)))?;
        }
    }
    line("rules broken", &a.effect.violations.to_string())?;
    writeln!(f, "</dl></article>")
}
