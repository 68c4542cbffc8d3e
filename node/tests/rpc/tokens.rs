//! Scoped tokens as people and programs use them: made, narrowed and withdrawn by `oda token`, shown to a server.

use super::*;
use oda_node::rpc::TOKEN_KEY_FILE;
use oda_node::rpc::schema::{Auth, METHODS, Method};
use std::process::Command;
use tokio::io::AsyncWriteExt as _;

const BAD_TOKEN: i64 = -32024;
const TOKEN_EXPIRED: i64 = -32025;
const BEYOND_TOKEN: i64 = -32026;

/// `oda token` with these words; what it says on standard output.
fn token(args: &[&str]) -> Result<String, String> {
    let out = Command::new(env!("CARGO_BIN_EXE_oda")).arg("token").args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().trim().to_string();
    if out.status.success() { Ok(text(out.stdout)) } else { Err(text(out.stderr)) }
}

fn make(stand: &Stand, args: &[&str]) -> String {
    let dir = stand.dir.path().to_str().unwrap();
    token(&[&["make", "--datadir", dir], args].concat()).unwrap()
}

/// A call that shows a token: 0 if it was let through, whatever then came of it.
async fn code(stand: &Stand, token: &str, method: &str) -> i64 {
    let node = json!(NodeId([9; 32]));
    let call = request(method, if method == "oda_ban" { json!([node, 1]) } else { json!([]) });
    let shown = format!("Bearer {token}");
    let answer = stand.post(&call, &[("authorization", &shown)]).await;
    let refusals = [-32020, BAD_TOKEN, TOKEN_EXPIRED, BEYOND_TOKEN];
    answer["error"]["code"].as_i64().filter(|code| refusals.contains(code)).unwrap_or(0)
}

fn write() -> impl Iterator<Item = &'static Method> {
    METHODS.iter().filter(|m| m.auth == Auth::Write)
}

#[tokio::test] // every method by its access class in the table: what a token opens, and what needs none
async fn tokens_open_the_methods_they_name_and_no_other() {
    let stand = Stand::new().await;
    let all = make(&stand, &["--class", "write"]);
    let useless = make(&stand, &["--class", "open"]);
    for m in write() {
        let own = make(&stand, &["--method", m.name, "--expires-in", "never"]);
        for other in write() {
            let expected = if other.name == m.name { 0 } else { BEYOND_TOKEN };
            assert_eq!(code(&stand, &own, other.name).await, expected, "{} with one for {}", other.name, m.name);
        }
        assert_eq!(code(&stand, &all, m.name).await, 0, "{}", m.name);
        assert_eq!(code(&stand, &useless, m.name).await, BEYOND_TOKEN, "{}", m.name);
    }
    for m in METHODS.iter().filter(|m| m.auth == Auth::Open) {
        for shown in [&useless, "nonsense"] {
            assert_eq!(code(&stand, shown, m.name).await, 0, "{} needs no token", m.name);
        }
    }
    // in a batch each call is judged for itself
    let ban = make(&stand, &["--method", "oda_ban"]);
    let calls = json!([request("oda_stop", json!([])), request("oda_ban", json!([NodeId([9; 32]), 1]))]);
    let batch = stand.post(&calls, &[("authorization", &format!("bearer {ban}"))]).await;
    assert_eq!(answer(batch[0].clone()), Err(BEYOND_TOKEN));
    assert_ne!(batch[1]["error"]["code"], BEYOND_TOKEN);
}

#[tokio::test]
async fn a_token_is_narrowed_offline_expires_and_is_withdrawn() {
    let stand = Stand::new().await;
    let dir = stand.dir.path().to_str().unwrap().to_string();
    let all = make(&stand, &["--class", "write"]);
    let ban = token(&["narrow", &all, "--method", "oda_ban", "--expires-in", "1h"]).unwrap();
    assert_eq!(code(&stand, &ban, "oda_ban").await, 0);
    assert_eq!(code(&stand, &ban, "oda_stop").await, BEYOND_TOKEN);
    // narrowing it by what it never allowed opens nothing
    let wider = token(&["narrow", &ban, "--class", "write", "--expires-in", "never"]).unwrap();
    assert_eq!(code(&stand, &wider, "oda_stop").await, BEYOND_TOKEN);

    let short = token(&["narrow", &all, "--expires-in", "1s"]).unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while code(&stand, &short, "oda_ban").await != TOKEN_EXPIRED {
        assert!(std::time::Instant::now() < deadline, "a token of a second is good for a minute");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }

    // a WebSocket that was opened with a good token is not let through once it is withdrawn
    let host = format!("host: {}\r\nauthorization: Bearer {ban}\r\n", stand.address);
    let (mut stream, _) = raw::handshake(stand.address, &host).await;
    let call = raw::frame(1, request("oda_ban", json!([NodeId([9; 32]), 1])).to_string().as_bytes());
    for (expected, revoke) in [(false, true), (true, false)] {
        stream.write_all(&call).await.unwrap();
        let got = loop {
            let (opcode, payload) = raw::read(&mut stream).await.unwrap();
            if opcode == 1 {
                break answer(serde_json::from_slice(&payload).unwrap());
            }
        };
        assert_eq!(got == Err(BAD_TOKEN), expected, "{got:?}");
        if revoke {
            token(&["revoke-all", "--datadir", &dir]).unwrap();
        }
    }
    for old in [&all, &ban, &wider, &short] {
        assert_eq!(code(&stand, old, "oda_ban").await, BAD_TOKEN);
    }
    assert_eq!(code(&stand, &make(&stand, &["--method", "oda_ban"]), "oda_ban").await, 0);
    // without a key there are no tokens
    std::fs::remove_file(stand.dir.path().join(TOKEN_KEY_FILE)).unwrap();
    assert_eq!(code(&stand, &all, "oda_ban").await, BAD_TOKEN);
}

#[tokio::test]
async fn one_token_is_withdrawn_by_name_or_identifier_and_the_others_hold() {
    let stand = Stand::new().await;
    let dir = stand.dir.path().to_str().unwrap().to_string();
    let [alice, bob, anonymous] = [&["--name", "alice"][..], &["--name", "bob"], &[]]
        .map(|n| make(&stand, &[&["--method", "oda_ban"], n].concat()));
    let lent = token(&["narrow", &alice, "--expires-in", "1h"]).unwrap();
    let codes = async |all: [&String; 4]| {
        let mut found = Vec::new();
        for token in all {
            found.push(code(&stand, token, "oda_ban").await);
        }
        found
    };
    let all = [&alice, &lent, &bob, &anonymous];
    assert_eq!(codes(all).await, [0; 4]);
    assert!(token(&["make", "--datadir", &dir, "--class", "write", "--name", "bob"]).unwrap_err().contains("bob"));
    let listed = token(&["list", "--datadir", &dir]).unwrap();
    let words: Vec<Vec<&str>> = listed.lines().map(|line| line.split(' ').collect()).collect();
    assert_eq!(words.iter().map(|w| w[2]).collect::<Vec<_>>(), ["alice", "bob", "-"]);
    assert!(!listed.contains(&alice), "the tokens themselves are not kept");
    for nobody in ["carol", "-", &"00".repeat(16)] {
        assert!(token(&["revoke", "--datadir", &dir, nobody]).unwrap_err().contains("no token"), "{nobody}");
    }
    assert!(token(&["revoke", "--datadir", &dir, "alice"]).unwrap().contains(words[0][0]));
    assert_eq!(codes(all).await, [BAD_TOKEN, BAD_TOKEN, 0, 0]);
    token(&["revoke", "--datadir", &dir, words[2][0]]).unwrap();
    assert_eq!(codes(all).await, [BAD_TOKEN, BAD_TOKEN, 0, BAD_TOKEN]);
    // the name is free again, and the old token stays withdrawn
    let again = make(&stand, &["--method", "oda_ban", "--name", "alice"]);
    assert_eq!(codes([&again, &lent, &bob, &alice]).await, [0, BAD_TOKEN, 0, BAD_TOKEN]);
    token(&["revoke-all", "--datadir", &dir]).unwrap();
    assert_eq!(codes(all).await, [BAD_TOKEN; 4]);
    assert_eq!(token(&["list", "--datadir", &dir]).unwrap(), "");
}

#[tokio::test] // K3
async fn what_is_no_token_opens_nothing() {
    let (stand, other) = (Stand::new().await, Stand::new().await);
    let good = make(&stand, &["--class", "write"]);
    let foreign = make(&other, &["--class", "write"]);
    let long = "A".repeat(100_000);
    let mut changed = good.clone().into_bytes();
    changed[60] ^= 1;
    let changed = String::from_utf8_lossy(&changed).into_owned();
    for wrong in ["x", &good[..good.len() - 8], &foreign, &long, &changed, &format!("{good} {good}")] {
        assert_eq!(code(&stand, wrong, "oda_ban").await, BAD_TOKEN, "{wrong:.60}");
    }
    for scheme in ["Basic", "Token", "L402", "Bearer\t"] {
        let shown = format!("{scheme} {good}");
        let answered = stand.post(&request("oda_stop", json!([])), &[("authorization", &shown)]).await;
        assert!(matches!(answer(answered), Err(-32020 | BAD_TOKEN)), "{scheme}");
    }
}

#[test]
fn bad_usage_is_refused_before_a_key_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    for args in [
        &["make", "--datadir", path][..],
        &["make", "--datadir", path, "--method", "oda_nothing"],
        &["make", "--datadir", path, "--class", "admin"],
        &["make", "--datadir", path, "--class", "write", "--expires-in", "soon"],
        &["make", "--datadir", path, "--class", "write", "--name", "two words"],
        &["revoke", "--datadir", "/nowhere/at/all", "alice"],
        &["narrow", "nonsense"],
        &["revoke-all", "--datadir", "/nowhere/at/all"],
    ] {
        assert!(token(args).is_err(), "{args:?}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
