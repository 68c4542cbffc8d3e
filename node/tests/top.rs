//! `oda top` on a terminal of memory, with answers recorded from a real network (`data/answers.json`).

use oda_node::full::PeerInfo;
use oda_node::rpc::{ClaimInfo, CreditInfo, ModelInfo, Status};
use oda_node::top::{Answer, App, Ask, Key, SMALLEST, curve, draw, phase, plain, sat, span};
use ratatui_core::backend::TestBackend;
use ratatui_core::buffer::Buffer;
use ratatui_core::style::Color;
use ratatui_core::terminal::Terminal;
use serde_json::{Value, json};

fn recorded() -> Value {
    serde_json::from_str(include_str!("data/answers.json")).expect("the recorded answers are JSON")
}

fn read<T: serde::de::DeserializeOwned>(v: &Value) -> T {
    serde_json::from_value(v.clone()).expect("the recorded answers are of the RPC's types")
}

fn answer(round: u64) -> Answer {
    let all = recorded();
    let models: Vec<ModelInfo> = read(&all["models"]);
    Answer {
        status: read::<Status>(&all["status"]),
        peers: read::<Vec<PeerInfo>>(&all["peers"]),
        model: models.first().map(|m| m.id),
        outcomes: read(&all["outcomes"]),
        credit: read::<Vec<CreditInfo>>(&all["credit"]),
        round,
        claims: read::<Vec<ClaimInfo>>(&all["claims"][round.to_string()]),
        models,
    }
}

fn app() -> App {
    let mut app = App::new("http://127.0.0.1:8645", 0);
    let answer = answer(10);
    let now_ms = answer.status.time_ms + 3_500;
    app.answered(answer, now_ms);
    app
}

fn buffer(app: &App, width: u16, height: u16) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal of memory");
    terminal.draw(|frame| draw(frame, app)).expect("it draws");
    terminal.backend().buffer().clone()
}

fn screen(app: &App, width: u16, height: u16) -> Vec<String> {
    let buffer = buffer(app, width, height);
    let row = |y| (0..width).map(|x| buffer[(x, y)].symbol().to_string()).collect::<String>();
    (0..height).map(row).collect()
}

#[track_caller]
fn holds(screen: &[String], wanted: &[&str]) {
    for w in wanted {
        assert!(screen.iter().any(|line| line.contains(w)), "no `{w}` in\n{}", screen.join("\n"));
    }
}

#[test]
fn a_small_terminal_shows_network_models_curve_claims_earnings_and_peers() {
    let mut app = app();
    let (width, height) = SMALLEST;
    let now = screen(&app, width, height);
    holds(
        &now,
        &[
            "oda-testnet  node 675717fc (seated)  block 217, 3 s old  7 peers",
            "epoch 0: 3 of 4 sign; forging needs 3, blocking 2",
        ],
    );
    holds(
        &now,
        &[
            "Models (1)",
            "> fashion-mnist  round 10",
            "Loss, nat: 0.4674 after round 9",
            "Claims of round 10",
            "15,000 held",
        ],
    );
    holds(&now, &["Credit and earnings", "7709b30f 1.2921", "43,000", "Peers (7 of 7 connected)", "q quit"]);
    assert!(!app.key(Key::Right) && app.key(Key::Left));
    app.answered(answer(9), app.now_ms);
    let before = screen(&app, width, height);
    holds(&before, &["Claims of round 9", "accepted", "oversize", "15,000 back"]);
}

#[test]
fn a_large_terminal_shows_verdicts_whole_and_every_peer() {
    let mut app = app();
    app.key(Key::Left);
    app.answered(answer(9), app.now_ms);
    let large = screen(&app, 120, 40);
    holds(&large, &["oversize", "CLAIM    TRAINER", "lite   connected", "full   connected", "accepted"]);
    assert_eq!(large.iter().filter(|l| l.contains("connected ")).count(), 7, "{}", large.join("\n"));
}

#[test]
fn any_size_draws() {
    let mut app = app();
    for step in 0..3 {
        for (width, height) in [(1, 1), (3, 2), (10, 4), (20, 8), (40, 12), (79, 23), (200, 60), (30, 3), (500, 1)] {
            assert_eq!(buffer(&app, width, height).area.width, width);
        }
        match step {
            0 => _ = app.key(Key::Help),
            _ => app.failed("gone", 0),
        }
    }
    assert_eq!(screen(&App::new("http://nobody:1", 0), 80, 24)[0].trim_end(), "oda top: asking http://nobody:1");
}

#[test] // a name is a stranger's text: what a terminal would obey is not sent to it
fn hostile_names_reach_the_terminal_as_text() {
    let evil = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m\r\nx\u{202e}gnp\u{200b}";
    let mut a = answer(10);
    a.models[0].state["manifest"]["name"] = json!(evil);
    a.status.network = evil.into();
    a.peers[0].role = Some("\u{1b}c".into());
    a.claims[0].claim["id"] = json!("\u{1b}[5m1234");
    a.claims[0].escrow.as_mut().expect("an escrow")["stage"] = json!("\u{1b}[8m");
    a.claims[0].escrow.as_mut().expect("an escrow")["tranches"] = json!([]);
    a.claims[1].claim["judged"] = json!([{ "verdict": { "refused": "\u{1b}[1m\u{7}" } }, 1]);
    let mut app = App::new("http://\u{1b}[0m", 0);
    let now_ms = a.status.time_ms;
    app.answered(a, now_ms);
    app.failed("\u{1b}[31mred\u{7}", now_ms);
    let shown = screen(&app, 120, 40);
    for line in &shown {
        let bad = |c: char| c.is_control() || matches!(c, '\u{200b}' | '\u{202e}');
        assert!(!line.chars().any(bad), "{line:?}");
    }
    holds(&shown, &["\u{b7}]0;owned\u{b7}\u{b7}[2J"]);
}

#[test]
fn a_node_that_is_gone_is_said_and_what_was_shown_stays() {
    let mut app = app();
    app.failed("connection refused", app.now_ms + 130_000);
    let shown = screen(&app, 110, 30);
    holds(
        &shown,
        &[
            "no answer from http://127.0.0.1:8645, retrying; shown is 2 min old (connection refused)",
            "fashion-mnist",
            "15,000 held",
        ],
    );
    app.answered(answer(10), app.now_ms);
    assert!(!screen(&app, 110, 30).iter().any(|l| l.contains("no answer")));
    let mut fresh = App::new("http://127.0.0.1:1", 0);
    fresh.failed("connection refused", 1);
    holds(&screen(&fresh, 80, 24), &["no answer from http://127.0.0.1:1, retrying (connection refused)"]);
}

#[test]
fn empty_networks_say_what_comes_first() {
    let mut a = answer(10);
    (a.models, a.model, a.round) = (vec![], None, 0);
    (a.claims, a.credit, a.outcomes, a.peers) = (vec![], vec![], vec![], vec![]);
    let mut app = App::new("http://127.0.0.1:1", 0);
    app.answered(a, 1);
    holds(
        &screen(&app, 80, 24),
        &["No model yet", "No outcome yet", "No round is open", "Nobody has credit yet", "No peer is known"],
    );
    for key in [Key::Up, Key::Down, Key::Left, Key::Right, Key::Now] {
        assert!(!app.key(key), "{key:?}");
    }
}

#[test]
fn keys_choose_models_and_rounds_and_leave() {
    let mut a = answer(10);
    let mut second = a.models[0].clone();
    second.id = oda_consensus::ids::ModelId([7; 32]);
    second.state["manifest"]["name"] = json!("another");
    a.models.push(second.clone());
    let mut app = App::new("u", 0);
    app.answered(a, 1);
    assert!(app.key(Key::Up), "before the first comes the last");
    assert_eq!((app.ask, app.selected()), (Ask { model: Some(second.id), round: None }, Some(1)));
    assert!(!app.is_current());
    holds(&screen(&app, 80, 24), &["> another"]);
    assert!(!screen(&app, 80, 24).iter().any(|l| l.contains("43,000")), "credit of another model");
    assert!(app.key(Key::Down) && app.selected() == Some(0));
    assert!(app.key(Key::Left) && app.ask.round == Some(9));
    holds(&screen(&app, 80, 24), &["Claims of round 9", "asking"]);
    assert!(app.key(Key::Left) && app.ask.round == Some(8));
    assert!(app.key(Key::Right) && app.ask.round == Some(9));
    assert!(app.key(Key::Right) && app.ask.round.is_none(), "the last round is the one in progress");
    assert!(!app.key(Key::Help) && app.help);
    holds(&screen(&app, 80, 24), &["a model", "the round before"]);
    assert!(!app.key(Key::Quit) && !app.quit && !app.help, "the first leaves the help");
    app.key(Key::Quit);
    assert!(app.quit);
}

#[test]
fn refused_rounds_stand_apart_from_new_heads() {
    let a = answer(10);
    let points = curve(&a.outcomes);
    assert_eq!(points.iter().map(|p| p.round).collect::<Vec<_>>(), (0..=9).collect::<Vec<_>>());
    let refused: Vec<u64> = points.iter().filter(|p| p.refused.is_some()).map(|p| p.round).collect();
    assert_eq!(refused, [6, 8]);
    assert_eq!((points[6].head, points[8].head), (points[5].head, points[7].head), "a refused round leaves the head");
    assert!(
        curve(&[]).is_empty() && curve(&[json!({}), json!({ "outcome": { "round": 1, "proven_unat": 5 } })]).is_empty()
    );
    let shown = buffer(&app(), 80, 24);
    let dots = shown.content.iter().filter(|c| c.fg == Color::Red && c.symbol() == "\u{2022}").count();
    assert_eq!(dots, 2);
}

#[test]
fn a_round_says_its_phase_from_its_record_and_timing() {
    let timing = json!({ "commit_blocks": 12, "linger_blocks": 6, "reveal_blocks": 40 });
    let at = |round: Value, height| phase(&json!({ "round": round, "manifest": { "timing": timing } }), height);
    let scores = json!({ "committed": [], "revealed": [], "quorum_height": null, "supported": false });
    let base =
        json!({ "opened_height": 100, "first_commit_height": 101, "judges": null, "sealed": null, "scores": scores });
    let with = |changes: Value| {
        let mut r = base.clone();
        changes.as_object().expect("changes").iter().for_each(|(k, v)| r[k] = v.clone());
        r
    };
    assert_eq!(at(Value::Null, 5), "not funded yet");
    assert_eq!(at(with(json!({ "first_commit_height": null })), 101), "open, no claim yet");
    assert_eq!(at(base.clone(), 112), "commits, 1 blocks left");
    assert_eq!(at(base.clone(), 113), "reveals, 40 blocks left");
    assert_eq!(at(with(json!({ "first_commit_height": 110 })), 116), "commits, 1 blocks left");
    assert_eq!(at(with(json!({ "judges": 2 })), 120), "being sealed");
    let judged = |s: Value| with(json!({ "sealed": "00", "scores": s }));
    assert_eq!(at(judged(json!({ "committed": ["a"], "quorum_height": null })), 130), "judging, 1 committed to scores");
    let opened = json!({ "committed": ["a", "b"], "revealed": ["a"], "quorum_height": 131 });
    assert_eq!(at(judged(opened), 132), "judging, 1 of 2 opened scores");
    assert_eq!(at(judged(json!({ "supported": true })), 140), "judged, outcome being signed");
}

#[test]
fn figures_are_for_people() {
    assert_eq!([0, 999, 1_000, 1_234_567_000, 1_500].map(sat), ["0", "0.999", "1", "1,234,567", "1.500"]);
    assert_eq!([0, 119_999, 120_000, 7_200_000, 172_800_000].map(span), ["0 s", "119 s", "2 min", "2 h", "2 days"]);
    assert_eq!(plain("abcdefghijkl", 10), "abcdefghi\u{2026}");
    assert_eq!(plain("a\tb\u{feff}c", 10), "a\u{b7}b\u{b7}c");
}
