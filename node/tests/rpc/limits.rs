//! Limits: each is reached once.

use super::*;
use oda_node::rpc::{MAX_REQUEST_BYTES, schema::METHODS};
use std::sync::mpsc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// A store whose reads wait until they are let go, and say when they begin.
struct Gated {
    store: Arc<Store>,
    begun: Mutex<mpsc::Sender<()>>,
    go: Mutex<mpsc::Receiver<()>>,
}

impl LedgerReader for Gated {
    only_blocks!();
    fn block(&self, height: u64) -> Result<Option<Vec<u8>>, String> {
        self.begun.lock().unwrap().send(()).map_err(|e| e.to_string())?;
        let _ = self.go.lock().unwrap().recv(); // closed: nobody waits any more
        self.store.block(height)
    }
}

/// A server with such a store: the stand it was made of now asks the new server.
async fn gated(limits: Limits) -> (Stand, mpsc::Receiver<()>, mpsc::Sender<()>) {
    let mut stand = Stand::new().await;
    let (begun, begins) = mpsc::channel();
    let (go, goes) = mpsc::channel();
    let store = Gated { store: stand.store.clone(), begun: Mutex::new(begun), go: Mutex::new(goes) };
    let (running, dir) = start(stand.shared.clone(), Arc::new(store), limits, &[]).await;
    (stand.address, stand.running, stand.dir) = (running.address, Some(running), dir);
    (stand, begins, go)
}

async fn wait_for(begins: mpsc::Receiver<()>) -> mpsc::Receiver<()> {
    tokio::task::spawn_blocking(move || {
        begins.recv().unwrap();
        begins
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn too_long_too_many_and_the_wrong_kind_are_refused_by_status() {
    let stand = Stand::new().await;
    let json_type = [("content-type", "application/json")];
    let long = vec![b' '; MAX_REQUEST_BYTES as usize + 1];
    assert_eq!(stand.http("POST", "/", &json_type, long).await.0, 413);
    let fits = format!("{:<len$}", request("oda_status", json!([])).to_string(), len = 60_000);
    assert_eq!(stand.http("POST", "/", &json_type, fits).await.0, 200);
    assert_eq!(stand.http("POST", "/", &[("content-type", "text/plain")], "{}").await.0, 415);
    assert_eq!(stand.http("POST", "/", &json_type, "").await.0, 400);
    assert_eq!(stand.http("PUT", "/", &json_type, "{}").await.0, 405);
    let calls = |n: usize| json!(vec![request("oda_status", json!([])); n]);
    assert_eq!(stand.post(&calls(50), &[]).await.as_array().unwrap().len(), 50);
    assert_eq!(answer(stand.post(&calls(51), &[]).await), Err(-32010));
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let limits = Limits { body_timeout: Duration::from_millis(50), ..Limits::default() };
    let stand = Stand::with(limits, &[]).await;
    let mut stream = tokio::net::TcpStream::connect(stand.address).await.unwrap();
    let head = format!(
        "POST / HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{{",
        stand.address
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut response = [0; 12];
    stream.read_exact(&mut response).await.unwrap();
    assert_eq!(&response, b"HTTP/1.1 408");
}

#[tokio::test]
async fn more_connections_than_allowed_are_told_so() {
    let stand = Stand::with(Limits { connections: 2, ..Limits::default() }, &[]).await;
    let host = format!("host: {}\r\n", stand.address);
    let first = raw::handshake(stand.address, &host).await;
    let second = raw::handshake(stand.address, &host).await;
    assert!(first.1.contains(" 101 ") && second.1.contains(" 101 "), "{} {}", first.1, second.1);
    let third = raw::handshake(stand.address, &host).await;
    assert!(third.1.contains(" 429 "), "{}", third.1);
    assert_eq!(stand.http("POST", "/", &[("content-type", "application/json")], "{}").await.0, 429);
    assert_eq!(stand.get("/health").await.0, 200, "monitoring still works");
}

#[tokio::test]
async fn a_call_that_takes_too_long_is_answered_all_the_same() {
    let (stand, _begins, go) = gated(Limits { call_timeout: Duration::from_millis(50), ..Limits::default() }).await;
    assert_eq!(stand.call("oda_blocks", json!([])).await, Err(-32021));
    assert!(stand.call("oda_status", json!([])).await.is_ok());
    drop(go);
    let patient = METHODS.iter().filter(|m| m.patience.is_some()).map(|m| m.name);
    assert_eq!(patient.collect::<Vec<_>>(), ["oda_verifyLedger"]);
}

#[tokio::test]
async fn the_ledger_is_replayed_once_at_a_time() {
    let (stand, begins, go) = gated(Limits::default()).await;
    let first = stand.call("oda_verifyLedger", json!([]));
    let second = async {
        let begins = wait_for(begins).await;
        let refused = stand.call("oda_verifyLedger", json!([])).await;
        drop(go);
        drop(begins);
        refused
    };
    let (first, second) = tokio::join!(first, second);
    assert_eq!(second, Err(-32022));
    assert_eq!(first, Err(-32003), "the blocks of this ledger carry no votes");
}

#[tokio::test]
async fn a_connection_runs_so_many_calls_and_no_more() {
    let limits = Limits { calls_per_connection: 1, ..Limits::default() };
    let (stand, begins, go) = gated(limits).await;
    let (mut stream, _) = raw::handshake(stand.address, &format!("host: {}\r\n", stand.address)).await;
    let call = |id: u64, method: &str| {
        let call = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": [] });
        raw::frame(1, call.to_string().as_bytes())
    };
    stream.write_all(&call(1, "oda_blocks")).await.unwrap();
    let begins = wait_for(begins).await;
    stream.write_all(&call(2, "oda_status")).await.unwrap();
    let mut next = async || loop {
        let (opcode, payload) = raw::read(&mut stream).await.unwrap();
        if opcode == 1 {
            return serde_json::from_slice::<Value>(&payload).unwrap();
        }
    };
    let busy = next().await;
    assert_eq!((busy["id"].as_u64(), busy["error"]["code"].as_i64()), (Some(2), Some(-32022)));
    drop(go);
    assert_eq!(next().await["id"], 1);
    drop(begins);
}

/// Calls under way are answered, then nothing is taken any more, and the cookie is gone.
#[tokio::test]
async fn stopping_lets_calls_under_way_finish() {
    let (mut stand, begins, go) = gated(Limits::default()).await;
    let running = stand.running.take().unwrap();
    let cookie = stand.dir.path().join(oda_node::rpc::COOKIE_FILE);
    assert!(cookie.exists());
    let call = stand.call("oda_blocks", json!([null, 1, true]));
    let stop = async {
        let begins = wait_for(begins).await;
        let stopping = tokio::spawn(running.stop());
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(!stopping.is_finished(), "a call is still under way");
        drop(go);
        stopping.await.unwrap();
        drop(begins);
    };
    let (answered, ()) = tokio::join!(call, stop);
    assert_eq!(answered.unwrap().as_array().unwrap().len(), 1);
    assert!(!cookie.exists());
}
