//! The RPC server under load: claims by id over HTTP with keep-alive, client and server in one process on the same
//! cores. `cargo bench --workspace --bench rpc`; `-- --quick` for a look.

#[allow(dead_code)] // shared with the tests of the state machine
#[path = "../../consensus/tests/world/mod.rs"]
mod world;

use oda_consensus::ids::{Digest, NodeId};
use oda_consensus::records::Version;
use oda_node::config;
use oda_node::full::Shared;
use oda_node::ledger::LedgerReader;
use oda_node::rpc::{Limits, serve};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use world::World;

/// Only the state is asked.
struct Nothing;

impl LedgerReader for Nothing {
    fn block(&self, _: u64) -> Result<Option<Vec<u8>>, String> {
        Ok(None)
    }
    fn version(&self, _: &[u8], _: u64) -> Result<Option<Version>, String> {
        Ok(None)
    }
    fn versions(&self, _: &[u8], _: u64, _: usize) -> Result<Vec<Version>, String> {
        Ok(Vec::new())
    }
    fn log_node(&self, _: u64) -> Result<Option<Digest>, String> {
        Ok(None)
    }
}

/// One call over an open connection.
async fn call(stream: &mut TcpStream, request: &[u8], buffer: &mut Vec<u8>) -> std::io::Result<()> {
    stream.write_all(request).await?;
    buffer.clear();
    loop {
        if let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end]).to_lowercase();
            let len = head.lines().find_map(|l| l.strip_prefix("content-length: ")?.trim().parse::<usize>().ok());
            assert!(head.starts_with("http/1.1 200"), "{head}");
            if buffer.len() >= end + 4 + len.unwrap_or(0) {
                assert!(buffer.ends_with(b"}") && !buffer.windows(8).any(|w| w == b"\"error\":"));
                return Ok(());
            }
        }
        if stream.read_buf(buffer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Calls on `connections` for a while, at most `rate` a second in all; how many, and how long each took.
async fn load(
    at: SocketAddr,
    request: Arc<Vec<u8>>,
    connections: u32,
    rate: Option<f64>,
    span: Duration,
) -> (f64, Vec<f64>) {
    let begin = Instant::now();
    let mut tasks = Vec::new();
    for _ in 0..connections {
        let request = request.clone();
        tasks.push(tokio::spawn(async move {
            let mut stream = TcpStream::connect(at).await.expect("the server");
            stream.set_nodelay(true).expect("a socket");
            let (mut buffer, mut times) = (Vec::with_capacity(8 << 10), Vec::new());
            while begin.elapsed() < span {
                if let Some(rate) = rate {
                    let due = times.len() as f64 * f64::from(connections) / rate;
                    tokio::time::sleep(Duration::from_secs_f64(due).saturating_sub(begin.elapsed())).await;
                }
                let start = Instant::now();
                call(&mut stream, &request, &mut buffer).await.expect("an answer");
                times.push(start.elapsed().as_secs_f64() * 1e3);
            }
            times
        }));
    }
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.expect("a client"));
    }
    all.sort_by(f64::total_cmp);
    (all.len() as f64 / begin.elapsed().as_secs_f64(), all)
}

fn main() {
    let span = Duration::from_secs(if std::env::args().any(|a| a == "--quick") { 1 } else { 10 });
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut world = World::new();
        world.whole_round();
        let claim = world.state.claims().next().expect("a claim").id;
        let shared = Arc::new(Shared::detached(world.state.clone(), NodeId([77; 32])));
        let dir = tempfile::tempdir().expect("a directory");
        let config = config::Rpc { listen: SocketAddr::from(([127, 0, 0, 1], 0)), hosts: Vec::new() };
        let running = serve(&config, Limits::default(), dir.path(), shared, Arc::new(Nothing)).await.expect("a server");
        let body = format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"oda_claim\",\"params\":[\"{claim}\"]}}");
        let request = Arc::new(
            format!(
                "POST / HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            )
            .into_bytes(),
        );
        let at = running.address;
        load(at, request.clone(), 4, None, span / 5).await; // warm
        println!("| connections | asked a second | answered a second | p50 ms | p99 ms |\n|---|---|---|---|---|");
        let mut most = 0f64;
        for connections in [1, 8, 32] {
            let (rate, times) = load(at, request.clone(), connections, None, span).await;
            most = most.max(rate);
            let p = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
            println!("| {connections} | as fast as answered | {rate:.0} | {:.2} | {:.2} |", p(50), p(99));
        }
        let (rate, times) = load(at, request, 8, Some(most / 2.0), span).await;
        let p = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
        println!("| 8 | {:.0} | {rate:.0} | {:.2} | {:.2} |", most / 2.0, p(50), p(99));
        running.stop().await;
    });
}
