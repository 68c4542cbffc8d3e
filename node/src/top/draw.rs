//! Draws the screen. Reads the state and nothing else, so that a test sees what a terminal would show.
//!
//! Whatever comes from the ledger goes through [`plain`]: a model named after an escape sequence is shown, not obeyed.

use super::app::{App, MAX_MODELS, Point, claim_row, curve, phase, plain, sat, span};
use crate::query::nats;
use ratatui_core::layout::{Alignment, Constraint, Layout, Rect};
use ratatui_core::style::{Color, Modifier, Style};
use ratatui_core::symbols::Marker;
use ratatui_core::terminal::Frame;
use ratatui_core::text::{Line, Span};
use ratatui_widgets::block::Block;
use ratatui_widgets::chart::{Axis, Chart, Dataset, GraphType};
use ratatui_widgets::clear::Clear;
use ratatui_widgets::paragraph::{Paragraph, Wrap};
use ratatui_widgets::table::{Row, Table};

const QUIET: Style = Style::new().fg(Color::DarkGray);
const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const GOOD: Style = Style::new().fg(Color::Green);
const BAD: Style = Style::new().fg(Color::Red);
const MARK: Style = Style::new().fg(Color::Cyan);

/// Smallest screen on which everything has room; on a smaller one something is cut off, and nothing breaks.
pub const SMALLEST: (u16, u16) = (80, 24);

/// Draws everything.
pub fn draw(frame: &mut Frame<'_>, app: &App) {
    let rows = [
        Constraint::Length(2),
        Constraint::Length(u16::from(app.trouble.is_some())),
        Constraint::Min(1),
        Constraint::Length(1),
    ];
    let [head, trouble, body, foot] = Layout::vertical(rows).areas(frame.area());
    header(frame, head, app);
    if let Some(why) = &app.trouble {
        let old =
            app.answer.as_ref().map(|_| format!("; shown is {} old", span(app.now_ms.saturating_sub(app.answered_ms))));
        let text = format!("no answer from {}, retrying{} ({why})", app.url, old.unwrap_or_default());
        frame.render_widget(Paragraph::new(text).style(BAD.patch(BOLD)), trouble);
    }
    let [top, bottom] = Layout::vertical([Constraint::Percentage(46), Constraint::Fill(1)]).areas(body);
    let [list, chart] = Layout::horizontal([Constraint::Percentage(40), Constraint::Fill(1)]).areas(top);
    let [left, right] = Layout::horizontal([Constraint::Percentage(60), Constraint::Fill(1)]).areas(bottom);
    let [credits, others] = Layout::vertical([Constraint::Percentage(52), Constraint::Fill(1)]).areas(right);
    models(frame, list, app);
    losses(frame, chart, app);
    claims(frame, left, app);
    credit(frame, credits, app);
    peers(frame, others, app);
    let keys = " up/down model  left/right round  n now  ? help  q quit";
    frame.render_widget(Paragraph::new(keys).style(QUIET), foot);
    if app.help {
        help(frame);
    }
}

fn header(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let Some(answer) = &app.answer else {
        let text = if app.trouble.is_some() { "oda top" } else { "oda top: asking" };
        frame.render_widget(Paragraph::new(format!("{text} {}", app.url)).style(BOLD), area);
        return;
    };
    let s = &answer.status;
    let (n, t) = s.committee;
    let age = span(app.now_ms.saturating_sub(s.time_ms));
    let role = if s.seated {
        "seated"
    } else if s.validator {
        "validator"
    } else {
        "follows"
    };
    let first = Line::from(vec![
        Span::styled(plain(&s.network, 24), BOLD),
        format!("  node {} ({role})  block {}, {age} old  {} peers", s.node.short(), s.height, s.connected).into(),
    ]);
    let waiting = s.mempool;
    let second = format!(
        "epoch {}: {t} of {n} sign; forging needs {t}, blocking {}  {waiting} waiting",
        s.epoch,
        (n + 1).saturating_sub(t)
    );
    frame.render_widget(Paragraph::new(vec![first, Line::styled(second, QUIET)]), area);
}

fn framed(title: String) -> Block<'static> {
    Block::bordered().border_style(QUIET).title(Line::styled(title, BOLD))
}

fn none(frame: &mut Frame<'_>, area: Rect, title: String, text: &str) {
    let text = Paragraph::new(text.to_string()).style(QUIET).wrap(Wrap { trim: true });
    frame.render_widget(text.block(framed(title)), area);
}

/// The part of a list that fits, so that the chosen line is in it.
fn window(count: usize, chosen: usize, fits: usize) -> std::ops::Range<usize> {
    let fits = fits.max(1);
    let first = chosen.saturating_sub(fits - 1).min(count.saturating_sub(fits));
    first..count.min(first + fits)
}

fn models(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let Some(answer) = &app.answer else { return none(frame, area, "Models".into(), "") };
    let count = answer.models.len().min(MAX_MODELS);
    if count == 0 {
        let text =
            "No model yet. A sponsor adds one: oda model add FILE.toml --datadir DIR, then oda sponsor --datadir DIR";
        return none(frame, area, "Models".into(), text);
    }
    let chosen = app.selected().unwrap_or(0);
    let each = 2;
    let shown = window(count, chosen, usize::from(area.height.saturating_sub(2)) / each);
    let width = usize::from(area.width.saturating_sub(2));
    let mut lines = Vec::new();
    for (i, m) in answer.models.iter().enumerate().take(shown.end).skip(shown.start) {
        let s = &m.state;
        let style = if i == chosen { MARK.patch(BOLD) } else { Style::new() };
        let mark = if i == chosen { '>' } else { ' ' };
        let round = s["round"]["number"].as_u64().map_or_else(|| "-".into(), |r| r.to_string());
        let name = plain(s["manifest"]["name"].as_str().unwrap_or("?"), width.saturating_sub(14 + round.len()).max(9));
        lines.push(Line::styled(format!("{mark} {name}  round {round}"), style));
        lines.push(Line::styled(plain(&format!("  {}", phase(s, answer.status.height)), width), QUIET));
    }
    frame.render_widget(Paragraph::new(lines).block(framed(format!("Models ({})", answer.models.len()))), area);
}

fn bounds(points: &[Point]) -> ([f64; 2], [f64; 2]) {
    let heads = || points.iter().map(|p| p.head);
    let (low, high) = (heads().fold(f64::INFINITY, f64::min), heads().fold(f64::NEG_INFINITY, f64::max));
    let pad = ((high - low) * 0.08).max(high.abs() * 0.02).max(1e-4);
    let first = points.first().map_or(0, |p| p.round);
    let last = points.last().map_or(1, |p| p.round).max(first + 1);
    ([real(first), real(last)], [(low - pad).max(0.0), high + pad])
}

#[allow(clippy::cast_precision_loss)] // for a chart
fn real(round: u64) -> f64 {
    round as f64
}

fn losses(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let points = match &app.answer {
        Some(answer) if app.is_current() => curve(&answer.outcomes),
        _ => vec![],
    };
    let Some(last) = points.last() else {
        return none(frame, area, "Loss".into(), "No outcome yet: the first one brings the first figures.");
    };
    let (x, y) = bounds(&points);
    let heads: Vec<_> = points.iter().map(|p| (real(p.round), p.head)).collect();
    // a refused candidate may be anywhere: it is drawn at the edge
    let refused: Vec<_> = points.iter().filter_map(|p| Some((real(p.round), p.refused?.clamp(y[0], y[1])))).collect();
    let sets = vec![
        Dataset::default().marker(Marker::Braille).graph_type(GraphType::Line).style(MARK).data(&heads),
        Dataset::default().marker(Marker::Dot).graph_type(GraphType::Scatter).style(BAD).data(&refused),
    ];
    let label = |v: f64| format!("{v:.3}");
    let ends = [format!("round {:.0}", x[0]), format!("{:.0}", x[1])];
    let chart = Chart::new(sets)
        .block(framed(format!("Loss, nat: {:.4} after round {}", last.head, last.round)))
        .legend_position(None)
        .x_axis(Axis::default().style(QUIET).bounds(x).labels(ends))
        .y_axis(Axis::default().style(QUIET).bounds(y).labels([label(y[0]), label((y[0] + y[1]) / 2.0), label(y[1])]));
    frame.render_widget(chart, area);
}

fn claims(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let Some((answer, round)) = app.answer.as_ref().filter(|_| app.is_current()).zip(app.shown_round()) else {
        return none(frame, area, "Claims".into(), "No round is open.");
    };
    let title = format!("Claims of round {round}");
    if answer.round != round {
        return none(frame, area, title, "asking");
    }
    if answer.claims.is_empty() {
        return none(frame, area, title, "No claim yet. A trainer makes one: oda lite --datadir DIR");
    }
    let fits = usize::from(area.height.saturating_sub(3));
    let hidden = answer.claims.len().saturating_sub(fits);
    let title = if hidden > 0 { format!("{title} ({hidden} more)") } else { title };
    // without room for all, the trainer goes: it stands in the table of earnings
    let narrow = area.width < 60;
    let rows = answer.claims.iter().take(fits).map(|info| {
        let ([claim, trainer, state, z, payment], accepted) = claim_row(info);
        let row = if narrow {
            Row::new(vec![claim, state, z, payment])
        } else {
            Row::new(vec![claim, trainer, state, z, payment])
        };
        match accepted {
            Some(true) => row.style(GOOD),
            Some(false) => row.style(BAD),
            None => row,
        }
    });
    let (eight, rest) = (Constraint::Length(8), Constraint::Min(13));
    let table = if narrow {
        let widths = [eight, Constraint::Length(17), Constraint::Length(4), rest];
        Table::new(rows, widths).header(Row::new(["CLAIM", "STATE", "Z", "SAT"]).style(QUIET))
    } else {
        let widths = [eight, eight, Constraint::Max(24), Constraint::Length(5), rest];
        Table::new(rows, widths).header(Row::new(["CLAIM", "TRAINER", "STATE", "Z", "SAT"]).style(QUIET))
    };
    frame.render_widget(table.column_spacing(1).block(framed(title)), area);
}

fn credit(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let Some(answer) = app.answer.as_ref().filter(|a| app.is_current() && !a.credit.is_empty()) else {
        return none(frame, area, "Credit".into(), "Nobody has credit yet.");
    };
    let mut of: Vec<_> = answer.credit.iter().collect();
    of.sort_by_key(|c| (std::cmp::Reverse(c.credit_unat), std::cmp::Reverse(c.paid_msat)));
    let rows = of.iter().take(usize::from(area.height.saturating_sub(3))).map(|c| {
        let nat = nats(i64::try_from(c.credit_unat).unwrap_or(i64::MAX));
        Row::new([c.trainer.short(), nat, format!("{}/{}", c.paid_claims, c.claims), sat(c.paid_msat)])
    });
    let widths = [Constraint::Length(8), Constraint::Length(8), Constraint::Length(5), Constraint::Min(4)];
    let table = Table::new(rows, widths).header(Row::new(["TRAINER", "NAT", "PAID", "SAT"]).style(QUIET));
    frame.render_widget(table.column_spacing(1).block(framed("Credit and earnings".into())), area);
}

fn peers(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let Some(answer) = &app.answer else { return none(frame, area, "Peers".into(), "") };
    if answer.peers.is_empty() {
        return none(frame, area, "Peers".into(), "No peer is known.");
    }
    let mut of: Vec<_> = answer.peers.iter().collect();
    of.sort_by_key(|p| (!p.connected, p.node));
    let rows = of.iter().take(usize::from(area.height.saturating_sub(2))).map(|p| {
        let (state, style) = if p.connected { ("connected", Style::new()) } else { ("known", QUIET) };
        Row::new([p.node.short(), plain(p.role.as_deref().unwrap_or("?"), 6), state.into()]).style(style)
    });
    let connected = answer.peers.iter().filter(|p| p.connected).count();
    let title = format!("Peers ({connected} of {} connected)", answer.peers.len());
    let widths = [Constraint::Length(8), Constraint::Length(6), Constraint::Min(9)];
    frame.render_widget(Table::new(rows, widths).column_spacing(1).block(framed(title)), area);
}

fn help(frame: &mut Frame<'_>) {
    let lines = [
        "up, down, tab   choose a model",
        "left, right     the round before, the round after",
        "n               back to the round in progress",
        "?               this list",
        "q, Ctrl-C       leave",
        "",
        "Loss: the line is the head's, a dot a refused round.",
        "Z: by how much the work shows on the trainer's own",
        "shard. Amounts are in sat, gains and losses in nat.",
    ];
    let all = frame.area();
    let (width, height) = (56.min(all.width), 11.min(all.height));
    let area = Rect { x: (all.width - width) / 2, y: (all.height - height) / 2, width, height };
    frame.render_widget(Clear, area);
    let text: Vec<Line<'_>> = lines.into_iter().map(Line::from).collect();
    frame.render_widget(Paragraph::new(text).alignment(Alignment::Left).block(framed("Keys".into())), area);
}
