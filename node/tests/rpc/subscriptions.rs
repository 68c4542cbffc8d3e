//! Subscriptions: nothing left out, nothing twice, and nobody waits for one that does not read.

use super::*;
use jsonrpsee::core::client::{ClientT as _, Error, SubscriptionClientT as _};
use jsonrpsee::rpc_params;
use jsonrpsee::ws_client::{WsClient, WsClientBuilder};
use oda_consensus::ids::Signature;
use oda_consensus::state::{Entry, State, Tip};
use oda_consensus::tx::{Header, SignedTx, Tx};
use oda_node::rpc::{ApiClient as _, BlockInfo, RecordInfo};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;

async fn connect(stand: &Stand) -> WsClient {
    WsClientBuilder::default().build(format!("ws://{}", stand.address)).await.unwrap()
}

#[tokio::test]
async fn a_subscription_replays_and_goes_on_without_gap_or_double() {
    let mut stand = Stand::new().await;
    let client = connect(&stand).await;
    let before = stand.world.state.tip().height;
    let mut from_first = client.subscribe_blocks(Some(1)).await.unwrap();
    let mut from_now = client.subscribe_blocks(None).await.unwrap();
    let mut later = client.subscribe_blocks(Some(before + 5)).await.unwrap();
    // far more at once than the channel of announcements holds, while the replay runs
    (0..600).for_each(|_| stand.world.wait_ms(100));
    stand.publish();
    let end = stand.world.state.tip().height;
    for (subscription, start) in [(&mut from_first, 1), (&mut from_now, before + 1), (&mut later, before + 5)] {
        for height in start..=end {
            let block: BlockInfo = subscription.next().await.unwrap().unwrap();
            assert_eq!(block.height, height);
            assert_eq!(block.hash, stand.world.blocks[usize::try_from(height).unwrap() - 1].header.hash());
        }
    }
    stand.block();
    for subscription in [&mut from_first, &mut from_now, &mut later] {
        assert_eq!(subscription.next().await.unwrap().unwrap().height, end + 1);
    }
    from_first.unsubscribe().await.unwrap();
    stand.block();
    assert_eq!(from_now.next().await.unwrap().unwrap().height, end + 2);
}

#[tokio::test]
async fn records_come_by_model_and_kind_in_order() {
    let stand = Stand::new().await;
    let client = connect(&stand).await;
    let model = stand.world.model();
    let all: Vec<(u64, u32, &'static str)> = stand
        .world
        .blocks
        .iter()
        .flat_map(|b| b.txs.iter().zip(0..).map(|(tx, i)| (b.header.height, i, tx.kind())))
        .collect();
    let commits: Vec<_> = all.iter().filter(|r| ["commit", "reveal"].contains(&r.2)).collect();
    assert_eq!(commits.len(), 3);
    let kinds = Some(vec!["commit".to_string(), "reveal".to_string()]);
    let mut of_model = client.subscribe_records(Some(model), kinds, Some(1)).await.unwrap();
    for expected in commits {
        let record: RecordInfo = of_model.next().await.unwrap().unwrap();
        assert_eq!((record.height, record.index, record.tx.kind.as_str()), *expected);
        assert_eq!(record.model, Some(model));
    }
    let mut every = client.subscribe_records(None, None, Some(1)).await.unwrap();
    let mut about_models = 0;
    for expected in &all {
        let record: RecordInfo = every.next().await.unwrap().unwrap();
        assert_eq!((record.height, record.index, record.tx.kind.as_str()), *expected);
        about_models += usize::from(record.model.is_some());
    }
    assert!(about_models > 10 && about_models < all.len());
    let many = Some(vec![String::new(); 65]);
    assert!(matches!(client.subscribe_records(None, many, None).await, Err(Error::Call(e)) if e.code() == -32602));
}

#[tokio::test]
async fn subscriptions_need_a_websocket_and_are_counted() {
    let stand = Stand::with(Limits { subscriptions: 2, ..Limits::default() }, &[]).await;
    assert_eq!(stand.call("oda_subscribeBlocks", json!([])).await, Err(-32002));
    assert_eq!(stand.call("oda_unsubscribeBlocks", json!([1])).await, Err(-32002));
    let client = connect(&stand).await;
    let kept = [client.subscribe_blocks(None).await.unwrap(), client.subscribe_blocks(None).await.unwrap()];
    assert!(matches!(client.subscribe_blocks(None).await, Err(Error::Call(e)) if e.code() == -32006));
    drop(kept);
    let status: Value = client.request("oda_status", rpc_params![]).await.unwrap();
    assert!(status["height"].as_u64() > Some(1), "other calls go on");
    // unsubscribing is asynchronous: a free place comes, sooner or later
    while client.subscribe_blocks(None).await.is_err() {}
    let client = connect(&stand).await;
    let lost = client.subscribe::<Value, _>("oda_subscribeBlocks", rpc_params!["x"], "oda_unsubscribeBlocks").await;
    assert!(matches!(lost, Err(Error::Call(e)) if e.code() == -32602));
}

#[tokio::test]
async fn a_block_that_is_not_kept_ends_a_subscription_with_the_reason() {
    let mut stand = Stand::new().await;
    let (mut stream, _) = raw::handshake(stand.address, &format!("host: {}\r\n", stand.address)).await;
    // a ledger whose first blocks are gone
    let tip = stand.world.state.tip();
    let mut ahead = State::new(stand.world.genesis.clone()).unwrap();
    ahead.restore(Entry::Tip(Tip { height: tip.height + 10, ..tip }));
    stand.world.state = ahead;
    stand.shared.replace(stand.world.state.clone());
    let call = request("oda_subscribeBlocks", json!([tip.height + 1]));
    stream.write_all(&raw::frame(1, call.to_string().as_bytes())).await.unwrap();
    let last = last_message(&mut stream).await;
    assert_eq!(last["params"]["error"]["code"], -32001, "{last}");
}

/// The message that ends the subscription.
async fn last_message(stream: &mut tokio::net::TcpStream) -> Value {
    loop {
        let (opcode, payload) = raw::read(stream).await.expect("a reason before the end");
        let message: Value = match opcode {
            1 => serde_json::from_slice(&payload).unwrap(),
            _ => continue,
        };
        if !message["params"]["error"].is_null() {
            return message;
        }
    }
}

/// The same large block at every height, and how often it was read.
struct Large(Vec<u8>, AtomicUsize);

impl LedgerReader for Large {
    only_blocks!();
    fn block(&self, _: u64) -> Result<Option<Vec<u8>>, String> {
        self.1.fetch_add(1, Ordering::Relaxed);
        Ok(Some(self.0.clone()))
    }
}

#[tokio::test]
async fn a_reader_that_does_not_read_is_cut_off_and_told_where_to_go_on() {
    let genesis = World::new().genesis;
    let mut state = State::new(genesis).unwrap();
    let tip = Tip { height: 1_000, ..state.tip() };
    state.restore(Entry::Tip(tip));
    let tx = SignedTx { tx: Tx::Leave, signer: NodeId([1; 32]), signature: Signature([2; 64]) };
    let header = Header {
        chain: state.chain(),
        height: 1,
        time_ms: 1,
        prev: tip.hash,
        txs_root: tip.state_root,
        records: 1,
        state_root: tip.state_root,
    };
    let block = decided(&Block { header, txs: vec![tx; 2_000] });
    let shared = Arc::new(Shared::detached(state, NodeId([7; 32])));
    let large = Arc::new(Large(block, AtomicUsize::new(0)));
    let limits = Limits { slow_consumer: Duration::from_millis(200), buffered_messages: 2, ..Limits::default() };
    let (running, _dir) = start(shared, large.clone(), limits, &[]).await;
    let (mut stream, _) = raw::handshake(running.address, &format!("host: {}\r\n", running.address)).await;
    let call = request("oda_subscribeBlocks", json!([1]));
    stream.write_all(&raw::frame(1, call.to_string().as_bytes())).await.unwrap();
    // reads nothing: the buffers of the sockets fill, then the server's, then it stops reading the store
    let (mut before, mut reads) = (usize::MAX, 0);
    while reads == 0 || reads != before {
        tokio::time::sleep(3 * limits.slow_consumer).await;
        (before, reads) = (reads, large.1.load(Ordering::Relaxed));
    }
    let (mut got, mut last) = (0u64, Value::Null);
    while last.is_null() {
        let (opcode, payload) = raw::read(&mut stream).await.unwrap();
        let message: Value = if opcode == 1 { serde_json::from_slice(&payload).unwrap() } else { continue };
        last = message["params"]["error"].clone();
        got += u64::from(message["params"]["result"].is_object());
        assert!(got < 1_000, "what waits is bounded");
    }
    assert_eq!(last["code"], -32023, "{last}");
    assert!(last["message"].as_str().unwrap().ends_with(&format!("from_height {}", got + 1)), "{got}: {last}");
    // the connection itself goes on
    stream.write_all(&raw::frame(1, request("oda_status", json!([])).to_string().as_bytes())).await.unwrap();
    let payload = loop {
        match raw::read(&mut stream).await.unwrap() {
            (1, payload) => break payload,
            _ping => continue,
        }
    };
    assert_eq!(serde_json::from_slice::<Value>(&payload).unwrap()["result"]["height"], 1_000);
    running.stop().await;
}
