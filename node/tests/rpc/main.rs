//! The RPC server over a real ledger, asked over HTTP and WebSocket as others will ask it.

/// The rest of a reader that is only asked for blocks.
macro_rules! only_blocks {
    () => {
        fn version(&self, _: &[u8], _: u64) -> Result<Option<Version>, String> {
            Err("only blocks here".into())
        }
        fn versions(&self, _: &[u8], _: u64, _: usize) -> Result<Vec<Version>, String> {
            Err("only blocks here".into())
        }
        fn log_node(&self, _: u64) -> Result<Option<Digest>, String> {
            Err("only blocks here".into())
        }
    };
}

mod access;
mod answers;
mod fuzz;
mod limits;
mod operations;
mod process;
mod subscriptions;
mod tokens;
#[allow(dead_code)] // shared with the tests of the state machine
#[path = "../../../consensus/tests/world/mod.rs"]
mod world;

use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use jsonrpsee::server::HttpBody;
use oda_consensus::bft::CommitCertificate;
use oda_consensus::codec;
use oda_consensus::ids::{BlockHash, Digest, NodeId, Signature};
use oda_consensus::records::{Appended, LogNode, Version};
use oda_consensus::tx::Block;
use oda_consensus::wire::DecidedBlock;
use oda_node::config;
use oda_node::full::Shared;
use oda_node::ledger::LedgerReader;
use oda_node::rpc::{Limits, Running, serve};
use oda_storage::{BlockRecord, LedgerStore as _, MemoryLedger};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use world::World;

/// The ledger store behind the server.
#[derive(Default)]
struct Store(Mutex<MemoryLedger>);

impl LedgerReader for Store {
    fn block(&self, height: u64) -> Result<Option<Vec<u8>>, String> {
        self.0.lock().unwrap().block(height).map_err(|e| e.to_string())
    }
    fn version(&self, key: &[u8], upto: u64) -> Result<Option<Version>, String> {
        self.0.lock().unwrap().version(key, upto).map_err(|e| e.to_string())
    }
    fn versions(&self, key: &[u8], from: u64, most: usize) -> Result<Vec<Version>, String> {
        let mut all = Vec::new();
        let mut take = |version| {
            all.push(version);
            std::ops::ControlFlow::Continue(())
        };
        self.0.lock().unwrap().versions(key, from, &mut take).map_err(|e| e.to_string())?;
        all.truncate(most);
        Ok(all)
    }
    fn log_node(&self, index: u64) -> Result<Option<Digest>, String> {
        self.0.lock().unwrap().log_node(index).map_err(|e| e.to_string())
    }
}

/// A block as decided, with signatures nobody checks here.
fn decided(block: &Block) -> Vec<u8> {
    let (height, name) = (block.header.height, BlockHash([1; 32]));
    let signatures = vec![(NodeId([1; 32]), Signature([2; 64])); 3];
    let certificate = CommitCertificate { height, round: 0, block: name, signatures };
    codec::encode(&DecidedBlock { block: block.clone(), certificate })
}

/// A server, what it serves, and a client.
struct Stand {
    world: World,
    shared: Arc<Shared>,
    store: Arc<Store>,
    dir: tempfile::TempDir,
    address: SocketAddr,
    running: Option<Running>,
    client: Client<HttpConnector, HttpBody>,
    told: usize,
}

/// Starts a server on a free port.
async fn start(
    shared: Arc<Shared>,
    blocks: Arc<dyn LedgerReader>,
    limits: Limits,
    hosts: &[&str],
) -> (Running, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let hosts = hosts.iter().map(|h| (*h).to_string()).collect();
    let config = config::Rpc { listen: SocketAddr::from(([127, 0, 0, 1], 0)), hosts };
    (serve(&config, limits, dir.path(), shared, blocks).await.unwrap(), dir)
}

impl Stand {
    /// A network with one judged round behind it.
    async fn new() -> Self {
        Self::with(Limits::default(), &[]).await
    }

    async fn with(limits: Limits, hosts: &[&str]) -> Self {
        let mut world = World::new();
        let shared = Arc::new(Shared::detached(world.state.clone(), NodeId([77; 32])));
        world.whole_round();
        let store = Arc::new(Store::default());
        let (running, dir) = start(shared.clone(), store.clone(), limits, hosts).await;
        let client = Client::builder(TokioExecutor::new()).build_http();
        let address = running.address;
        let mut stand = Self { world, shared, store, dir, address, running: Some(running), client, told: 0 };
        stand.publish();
        stand
    }

    /// Stores and announces what blocks the world has made since, as a node does.
    fn publish(&mut self) {
        for block in &self.world.blocks[self.told..] {
            let h = block.header;
            let versions = self.world.versions.iter().filter(|v| v.height == h.height).cloned().collect();
            let nodes = self.world.nodes.iter().map(|(index, hash)| LogNode { index: *index, hash: *hash }).collect();
            let (hash, bytes, log) = (h.hash(), decided(block), Appended { versions, nodes });
            let record = BlockRecord { height: h.height, hash, prev: h.prev, bytes, log };
            self.store.0.lock().unwrap().append(&record, &[]).unwrap();
        }
        self.shared.replace(self.world.state.clone());
        for block in &self.world.blocks[self.told..] {
            let _ = self.shared.blocks.send(block.header.height);
        }
        self.told = self.world.blocks.len();
    }

    /// One more block.
    fn block(&mut self) {
        self.world.wait_ms(100);
        self.publish();
    }

    /// A request with these headers; status, headers and body of the response.
    async fn http(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Vec<u8>>,
    ) -> (u16, http::HeaderMap, String) {
        let body: Vec<u8> = body.into();
        let mut request = http::Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(HttpBody::new(Full::new(body.into()))).unwrap();
        let (parts, body) = self.client.request(request).await.unwrap().into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        (parts.status.as_u16(), parts.headers, String::from_utf8(bytes.to_vec()).unwrap())
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let (status, _, body) = self.http("GET", path, &[], "").await;
        (status, body)
    }

    /// Sends JSON and reads the answer.
    async fn post(&self, body: &Value, headers: &[(&str, &str)]) -> Value {
        let headers = [&[("content-type", "application/json")], headers].concat();
        let (status, _, text) = self.http("POST", "/", &headers, body.to_string()).await;
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    /// A call: its result, or its error code.
    async fn call(&self, method: &str, params: Value) -> Result<Value, i64> {
        answer(self.post(&request(method, params), &[]).await)
    }

    /// A call by the node's owner.
    async fn own_call(&self, method: &str, params: Value) -> Result<Value, i64> {
        let cookie = self.authorization();
        answer(self.post(&request(method, params), &[("authorization", &cookie)]).await)
    }

    fn authorization(&self) -> String {
        oda_node::rpc::read_authorization(self.dir.path()).unwrap()
    }
}

fn request(method: &str, params: Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params })
}

fn answer(response: Value) -> Result<Value, i64> {
    match response.get("error") {
        None => Ok(response["result"].clone()),
        Some(error) => Err(error["code"].as_i64().unwrap()),
    }
}

/// A WebSocket of our own making, which can be silent, slow or wrong.
mod raw {
    use std::net::SocketAddr;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    /// A frame of RFC 6455, section 5.2, masked as a client's must be.
    pub fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [7, 1, 9, 4];
        let mut out = vec![0x80 | opcode];
        match payload.len() {
            n @ 0..=125 => out.push(0x80 | u8::try_from(n).unwrap()),
            n @ 126..=0xffff => {
                out.push(0x80 | 126);
                out.extend(u16::try_from(n).unwrap().to_be_bytes());
            }
            n => {
                out.push(0x80 | 127);
                out.extend((n as u64).to_be_bytes());
            }
        }
        out.extend(mask);
        out.extend(payload.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
        out
    }

    /// Connects and shakes hands; the status line.
    pub async fn handshake(address: SocketAddr, headers: &str) -> (TcpStream, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let hello = format!(
            "GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
        );
        stream.write_all(hello.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => break,
            }
        }
        let head = String::from_utf8(head).unwrap();
        (stream, head.lines().next().unwrap_or("").to_string())
    }

    /// The next frame from the server: opcode and payload.
    pub async fn read(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
        let opcode = stream.read_u8().await.ok()? & 0xf;
        let len = match stream.read_u8().await.ok()? {
            126 => u64::from(stream.read_u16().await.ok()?),
            127 => stream.read_u64().await.ok()?,
            n => u64::from(n),
        };
        let mut payload = vec![0; usize::try_from(len).unwrap()];
        stream.read_exact(&mut payload).await.ok()?;
        Some((opcode, payload))
    }
}
