//! Who may come in, and who may do what.

use super::*;
use oda_node::rpc::schema::{Auth, Kind, METHODS};

const STATUS: &str = r#"{"jsonrpc":"2.0","id":1,"method":"oda_status"}"#;

/// Headers of a request, and whether it is let in.
fn cases(port: u16) -> Vec<(Vec<(&'static str, String)>, bool)> {
    let here = format!("127.0.0.1:{port}");
    let case = |host: &str, origin: Option<&str>, good: bool| {
        let mut headers = vec![("host", host.to_string())];
        headers.extend(origin.map(|o| ("origin", o.to_string())));
        (headers, good)
    };
    vec![
        case(&here, None, true),
        case("localhost", None, true),
        case("[::1]:1", None, true),
        case("192.168.7.7", None, true),
        case("node.example:80", None, true),
        case("evil.example", None, false),
        case(&format!("localhost.evil.example:{port}"), None, false),
        case("user@localhost", None, false),
        case(&here, Some(&format!("http://{here}")), true),
        case(&here, Some("https://node.example"), true),
        case(&here, Some("http://evil.example"), false),
        case(&here, Some("http://127.0.0.1:1"), false), // another program of this machine
        case(&here, Some("http://localhost"), false),
        case(&here, Some("null"), false),
        case(&here, Some(""), false),
        case("evil.example", Some("http://evil.example"), false),
    ]
}

#[tokio::test]
async fn foreign_hosts_and_origins_get_nothing_over_http_and_websocket() {
    let stand = Stand::with(Limits::default(), &["node.example"]).await;
    for (headers, good) in cases(stand.address.port()) {
        let named: Vec<_> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
        let posted = [&named[..], &[("content-type", "application/json")]].concat();
        for (method, path, headers, body) in
            [("POST", "/", &posted, STATUS), ("GET", "/health", &named, ""), ("GET", "/metrics", &named, "")]
        {
            let (status, _, text) = stand.http(method, path, headers, body).await;
            assert_eq!(status, if good { 200 } else { 403 }, "{method} {path} {headers:?}: {text}");
        }
        let lines: String = headers.iter().map(|(n, v)| format!("{n}: {v}\r\n")).collect();
        let (_, status) = raw::handshake(stand.address, &lines).await;
        assert!(status.contains(if good { " 101 " } else { " 403 " }), "{headers:?}: {status}");
    }
    let (_, status) = raw::handshake(stand.address, "").await;
    assert!(status.contains(" 403 "), "no Host at all: {status}");
}

#[tokio::test]
async fn what_acts_for_the_owner_needs_the_cookie_and_nothing_else_does() {
    let stand = Stand::new().await;
    let node = json!(NodeId([9; 32]));
    let write: Vec<_> = METHODS.iter().filter(|m| m.auth == Auth::Write).collect();
    assert!(!write.is_empty());
    for m in METHODS.iter().filter(|m| m.kind == Kind::Call && m.auth == Auth::Open) {
        assert_ne!(stand.call(m.name, json!({})).await, Err(-32020), "{}", m.name);
    }
    let cookie = stand.authorization();
    let shorter = &cookie[..cookie.len() - 4];
    let wrong = ["", "Basic", "Bearer", "Bearerx", shorter, &cookie.to_lowercase()];
    let no_token = ["Bearer x", &cookie.replace("Basic", "Bearer")];
    for m in &write {
        let call = request(m.name, json!({}));
        assert_eq!(answer(stand.post(&call, &[]).await), Err(-32020), "{}", m.name);
        for wrong in wrong {
            let refused = stand.post(&call, &[("authorization", wrong)]).await;
            assert_eq!(answer(refused), Err(-32020), "{}: {wrong}", m.name);
        }
        for wrong in no_token {
            let refused = stand.post(&call, &[("authorization", wrong)]).await;
            assert_eq!(answer(refused), Err(-32024), "{}: {wrong}", m.name);
        }
        let batch = stand.post(&json!([call, request("oda_status", json!([]))]), &[]).await;
        assert_eq!((answer(batch[0].clone()), batch[1].get("error")), (Err(-32020), None), "{} in a batch", m.name);
        assert_ne!(stand.own_call(m.name, json!({ "node": node, "seconds": 1 })).await, Err(-32020), "{}", m.name);
    }
}

#[tokio::test]
async fn stop_reaches_whoever_runs_the_node() {
    let stand = Stand::new().await;
    assert_eq!(stand.call("oda_stop", json!([])).await, Err(-32020));
    let early = tokio::time::timeout(std::time::Duration::ZERO, stand.shared.asked_to_stop()).await;
    assert!(early.is_err(), "a refused call does nothing");
    assert_eq!(stand.own_call("oda_stop", json!([])).await, Ok(json!(true)));
    stand.shared.asked_to_stop().await;
    // no node stands behind this server, and no ban lasts for ever
    assert_eq!(stand.own_call("oda_ban", json!([NodeId([9; 32]), 5])).await, Err(-32002));
    assert_eq!(stand.own_call("oda_ban", json!([NodeId([9; 32]), 1_u64 << 40])).await, Err(-32602));
}

#[tokio::test]
async fn a_websocket_shows_the_cookie_in_its_handshake() {
    let stand = Stand::new().await;
    let host = format!("host: {}\r\n", stand.address);
    let call = raw::frame(1, request("oda_stop", json!([])).to_string().as_bytes());
    for (headers, expected) in
        [(host.clone(), Err(-32020)), (format!("{host}authorization: {}\r\n", stand.authorization()), Ok(json!(true)))]
    {
        let (mut stream, _) = raw::handshake(stand.address, &headers).await;
        tokio::io::AsyncWriteExt::write_all(&mut stream, &call).await.unwrap();
        let got = loop {
            let (opcode, payload) = raw::read(&mut stream).await.unwrap();
            if opcode == 1 {
                break answer(serde_json::from_slice(&payload).unwrap());
            }
        };
        assert_eq!(got, expected);
    }
}
