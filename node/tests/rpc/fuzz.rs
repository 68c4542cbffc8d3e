//! 10,000 malformed bodies and frames: no panic, no 5xx, no error code without an entry, no growth.

use super::*;
use oda_node::rpc::errors::ERRORS;
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore as _, SeedableRng as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const BODIES: usize = 6_000;
const FRAMES: usize = 3_000;
const FRAMES_PER_CONNECTION: usize = 100;
const STREAMS: usize = 1_000;
/// What the process may grow by, bytes: allocator slack and the client's own side are in it.
const MAX_GROWTH: u64 = 64 << 20;

fn below(rng: &mut ChaCha20Rng, n: usize) -> usize {
    usize::try_from(rng.next_u32()).unwrap() % n.max(1)
}

fn seeds(stand: &Stand) -> Vec<Vec<u8>> {
    let (model, hash) = (stand.world.model().to_string(), "00".repeat(32));
    let calls = [
        request("oda_status", json!([])),
        request("oda_block", json!([1])),
        request("oda_blocks", json!({ "to": 9, "limit": 2, "empty": true })),
        request("oda_claims", json!([model, 1, 2, hash])),
        request("oda_credit", json!({ "after": { "model": model, "trainer": hash } })),
        request("oda_payments", json!([1, { "escrow": hash, "tranche": 0 }])),
        request("oda_submit", json!(["00".repeat(200)])),
        request("oda_ban", json!([hash, 1])),
        request("oda_subscribeRecords", json!([model, ["commit"], 1])),
        request("oda_unsubscribeBlocks", json!([1])),
        request("rpc.discover", Value::Null),
        json!([request("oda_status", json!([])), { "jsonrpc": "2.0", "method": "oda_status" }, 7, []]),
    ];
    calls.iter().map(|c| c.to_string().into_bytes()).collect()
}

/// One malformed message.
fn mutate(rng: &mut ChaCha20Rng, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = seeds[below(rng, seeds.len())].clone();
    const TOKENS: [&str; 14] = [
        "null",
        "-1",
        "1e999",
        "18446744073709551616",
        "\"\\u0000\"",
        "\"\\ud800\"",
        "{}",
        "[]",
        "true",
        "[[",
        "}}",
        "\"id\":",
        ",",
        "\u{feff}",
    ];
    match below(rng, 8) {
        0 => bytes = (0..below(rng, 300)).map(|_| rng.next_u32().to_le_bytes()[0]).collect(),
        1 => bytes.truncate(below(rng, bytes.len())),
        2 => {
            let nested = ["[", "{\"a\":"][below(rng, 2)].repeat(below(rng, 20_000));
            bytes = nested.into_bytes();
        }
        3 => {
            let other = &seeds[below(rng, seeds.len())];
            let (cut, from) = (below(rng, bytes.len()), below(rng, other.len()));
            bytes.truncate(cut);
            bytes.extend(&other[from..]);
        }
        _ => {}
    }
    for _ in 0..below(rng, 6) {
        let at = below(rng, bytes.len() + 1);
        match below(rng, 3) {
            0 => drop(bytes.get_mut(at).map(|b| *b ^= 1 << below(rng, 8))),
            1 => drop(bytes.splice(at..at, TOKENS[below(rng, TOKENS.len())].bytes())),
            _ => drop(bytes.drain(at.min(bytes.len())..(at + below(rng, 9)).min(bytes.len()))),
        }
    }
    bytes
}

fn check_codes(text: &str) {
    let Ok(value) = serde_json::from_str::<Value>(text) else { return };
    let answers = value.as_array().cloned().unwrap_or_else(|| vec![value]);
    for code in answers.iter().filter_map(|a| a["error"]["code"].as_i64()) {
        assert!(ERRORS.iter().any(|e| i64::from(e.code) == code), "{code} is in no table: {text}");
        assert_ne!(code, -32603, "{text}");
    }
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

async fn bodies(stand: &Stand, rng: &mut ChaCha20Rng, seeds: &[Vec<u8>], count: usize) {
    for _ in 0..count {
        let body = mutate(rng, seeds);
        let kinds = ["application/json", "application/json; charset=utf-8", "text/plain", "\u{1f4a9}"];
        let kind = kinds[if below(rng, 20) == 0 { below(rng, 4) } else { 0 }];
        let path = ["/", "/x?y#z", "/health", "//"][if below(rng, 20) == 0 { below(rng, 4) } else { 0 }];
        let (status, _, text) = stand.http("POST", path, &[("content-type", kind)], body.clone()).await;
        assert!(status < 500, "{status} for {:?}: {text}", String::from_utf8_lossy(&body));
        check_codes(&text);
    }
}

/// Well-formed frames with malformed messages, and every connection's answers read.
async fn frames(stand: &Stand, rng: &mut ChaCha20Rng, seeds: &[Vec<u8>], count: usize) {
    let (mut stream, status) = raw::handshake(stand.address, &format!("host: {}\r\n", stand.address)).await;
    assert!(status.contains(" 101 "), "{status}");
    for _ in 0..count {
        let message = mutate(rng, seeds);
        let opcode = if below(rng, 10) == 0 { 2 } else { 1 };
        // text that is no UTF-8 rightly ends a connection, see `streams`
        let message = if opcode == 1 { String::from_utf8_lossy(&message).into_owned().into_bytes() } else { message };
        if stream.write_all(&raw::frame(opcode, &message)).await.is_err() {
            break;
        }
    }
    stream.write_all(&raw::frame(1, br#"{"jsonrpc":"2.0","id":"end","method":"oda_status"}"#)).await.unwrap();
    loop {
        let (opcode, payload) = raw::read(&mut stream).await.expect("the connection outlives malformed messages");
        if opcode == 1 {
            let text = String::from_utf8(payload).unwrap();
            check_codes(&text);
            if text.contains("\"end\"") {
                return;
            }
        }
    }
}

/// Bytes that are no HTTP, no WebSocket frames, or stop in between.
async fn stream(stand: &Stand, rng: &mut ChaCha20Rng, seeds: &[Vec<u8>]) {
    let host = format!("host: {}\r\n", stand.address);
    let mut stream = match below(rng, 3) {
        0 => raw::handshake(stand.address, &host).await.0,
        _ => tokio::net::TcpStream::connect(stand.address).await.unwrap(),
    };
    let mut bytes = match below(rng, 3) {
        0 => raw::frame(u8::try_from(below(rng, 16)).unwrap(), &mutate(rng, seeds)),
        1 => format!("POST / HTTP/1.1\r\n{host}content-length: {}\r\n\r\n{{", below(rng, 99)).into_bytes(),
        _ => mutate(rng, seeds),
    };
    for _ in 0..below(rng, 4) {
        let at = below(rng, bytes.len());
        if let Some(byte) = bytes.get_mut(at) {
            *byte = rng.next_u32().to_le_bytes()[0];
        }
    }
    let _ = stream.write_all(&bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let _ = stream.take(1 << 20).read_to_end(&mut answer).await;
    let status = String::from_utf8_lossy(&answer);
    assert!(!status.starts_with("HTTP/1.1 5"), "{status} for {:?}", String::from_utf8_lossy(&bytes));
}

#[tokio::test]
async fn ten_thousand_malformed_bodies_and_frames_do_no_harm() {
    static PANICS: AtomicUsize = AtomicUsize::new(0);
    let seed = 6;
    println!("seed {seed}");
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        // other tests of this program run beside this one
        if !info.location().is_some_and(|l| l.file().contains("tests/rpc")) {
            PANICS.fetch_add(1, Ordering::Relaxed);
        }
        hook(info);
    }));
    let stand = Stand::new().await;
    let seeds = seeds(&stand);
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    bodies(&stand, &mut rng, &seeds, BODIES / 10).await; // everything is warm now
    let before = resident_bytes();
    bodies(&stand, &mut rng, &seeds, BODIES - BODIES / 10).await;
    for _ in 0..FRAMES / FRAMES_PER_CONNECTION {
        frames(&stand, &mut rng, &seeds, FRAMES_PER_CONNECTION).await;
    }
    for _ in 0..STREAMS {
        stream(&stand, &mut rng, &seeds).await;
    }
    let grown = resident_bytes().saturating_sub(before);
    println!("{} messages, grown by {} KiB", BODIES + FRAMES + STREAMS, grown / 1024);
    assert_eq!(PANICS.load(Ordering::Relaxed), 0, "panics outside the tests");
    assert!(grown < MAX_GROWTH, "{grown} bytes");
    assert_eq!(stand.get("/health").await.0, 200);
    assert!(stand.call("oda_status", json!([])).await.is_ok());
    let tip = stand.call("oda_block", json!([1])).await.unwrap();
    assert_eq!(tip["height"], 1);
}
