//! What operators and their monitoring see.

use super::*;
use oda_consensus::state::Entry;
use oda_node::full::PeerInfo;
use std::collections::BTreeSet;

fn now_ms() -> u64 {
    u64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap()
}

#[tokio::test]
async fn ready_is_another_thing_than_alive() {
    let mut stand = Stand::new().await;
    assert_eq!(stand.get("/health").await.0, 200);
    let (status, text) = stand.get("/ready").await;
    let why: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((status, why["reasons"].as_array().unwrap().len()), (503, 2), "old and alone: {text}");
    let age = now_ms() - stand.world.state.tip().time_ms;
    stand.world.wait_ms(age);
    stand.publish();
    let (status, text) = stand.get("/ready").await;
    assert_eq!(status, 503);
    assert!(text.contains("no peer"), "{text}");
    stand.shared.put_peers(vec![PeerInfo { node: NodeId([1; 32]), connected: true, role: None }]);
    let (status, text) = stand.get("/ready").await;
    assert_eq!(status, 200, "{text}");
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["reasons"], json!([]));
}

#[tokio::test]
async fn monitoring_is_read_with_get_and_nothing_else_is_there() {
    let stand = Stand::new().await;
    for path in ["/health", "/metrics", "/openrpc.json", "/ready"] {
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            let (status, headers, _) = stand.http(method, path, &[("content-type", "application/json")], "{}").await;
            assert_eq!((status, headers["allow"].to_str().unwrap()), (405, "GET"), "{method} {path}");
        }
    }
    for path in ["/healthz", "/metrics/", "/../health", "/%2e", "/rpc.cookie"] {
        assert_eq!(stand.get(path).await.0, 404, "{path}");
    }
}

/// Names of the samples in OpenMetrics text, after checking that it is such.
fn samples(text: &str) -> BTreeSet<String> {
    assert!(text.ends_with("# EOF\n"));
    let lines = text.lines().filter(|l| !l.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
            name.split('{').next().unwrap().to_string()
        })
        .collect()
}

fn names_in(expression: &str) -> BTreeSet<String> {
    let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    expression.split(word).filter(|w| w.starts_with("oda_")).map(str::to_string).collect()
}

fn expressions(dashboard: &Value, out: &mut Vec<String>) {
    match dashboard {
        Value::Object(fields) => {
            out.extend(fields.get("expr").and_then(Value::as_str).map(str::to_string));
            fields.values().for_each(|v| expressions(v, out));
        }
        Value::Array(items) => items.iter().for_each(|v| expressions(v, out)),
        _ => {}
    }
}

#[tokio::test]
async fn the_dashboard_shows_only_metrics_there_are() {
    let mut stand = Stand::new().await;
    stand.shared.set_wallet(oda_node::rpc::WalletInfo::default());
    stand.shared.set_custody(oda_storage::Usage::default(), oda_node::custody::Report::default());
    // a model whose head was measured
    let mut model = stand.world.state.model(stand.world.model()).unwrap().clone();
    model.head.test = Some(oda_consensus::score::TestReport { n: 4, loss_sum_unat: 8_000_000, correct: 1 });
    stand.world.state.restore(Entry::Model(Box::new(model)));
    stand.publish();
    let _ = stand.call("oda_status", json!([])).await;
    let _ = stand.call("oda_model", json!(["00".repeat(32)])).await;
    let _ = stand.call("no_such_method", json!([])).await;
    let _ = stand.http("GET", "/", &[("host", "evil.example")], "").await;
    let (status, text) = stand.get("/metrics").await;
    assert_eq!(status, 200);
    let there = samples(&text);
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/grafana.json");
    let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let mut shown = Vec::new();
    expressions(&dashboard, &mut shown);
    assert!(shown.len() > 10, "the dashboard was not found");
    let shown: BTreeSet<String> = shown.iter().flat_map(|e| names_in(e)).collect();
    assert_eq!(shown.difference(&there).collect::<Vec<_>>(), Vec::<&String>::new());
    let base = |name: &String| {
        name.trim_end_matches("_sum").trim_end_matches("_count").trim_end_matches("_bucket").to_string()
    };
    let bases: BTreeSet<String> = shown.iter().map(base).collect();
    let unseen: Vec<_> = there.iter().map(base).filter(|n| !bases.contains(n)).collect();
    assert_eq!(unseen, Vec::<String>::new(), "shown nowhere");
    // what they say
    let says = |line: &str| assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    says(&format!("oda_ledger_height {}", stand.world.state.tip().height));
    says("oda_rpc_requests_total{method=\"oda_status\",code=\"0\"} 1");
    says("oda_rpc_requests_total{method=\"oda_model\",code=\"-32001\"} 1");
    says("oda_rpc_requests_total{method=\"unknown\",code=\"-32601\"} 1");
    says("oda_rpc_request_duration_seconds_count{method=\"oda_status\"} 1");
    says("oda_rpc_refused_total{reason=\"host\"} 1");
    let judged: u64 = stand.world.state.credits().map(|c| c.claims).sum();
    says(&format!("oda_claims_judged_total {judged}"));
    let sponsored: u64 = stand.world.state.models().flat_map(|(_, m)| &m.sponsors).map(|s| s.held_msat).sum();
    says(&format!("oda_held_msat {sponsored}"));
    says(&format!("oda_model_test_loss_nats{{model=\"{}\",name=\"corpus\"}} 2.0", stand.world.model()));
}
