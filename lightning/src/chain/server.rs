//! The chain as a server: one thread per connection, one lock around the chain.

use super::assemble::faucet_address;
use super::blocks::ChainPolicy;
use super::files::{MAX_GENERATE, State};
use super::methods::{self, Fail};
use super::{ChainError, http};
use crate::rpc::{RpcEndpoint, basic_auth};
use bitcoin::{Address, Amount, Network, TxOut};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::BufReader;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::str::FromStr as _;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Most connections at a time.
const MAX_CONNECTIONS: usize = 128;
/// Longest silence on a connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// Longest wait for a caller to take an answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);

/// How to start a chain.
#[derive(Clone, Debug)]
pub struct ChainConfig {
    /// Where blocks are kept; none keeps them in memory only.
    pub data_dir: Option<PathBuf>,
    /// Where to serve JSON-RPC, on loopback; port 0 picks one.
    pub listen: SocketAddr,
    /// User callers must name.
    pub rpc_user: String,
    /// Their password.
    pub rpc_password: String,
    /// What may wait for a block, and how full blocks get.
    pub policy: ChainPolicy,
}

struct Shared {
    /// None once stopped: the files are closed.
    state: Mutex<Option<State>>,
    authorization: String,
    stopped: Condvar,
    connections: Mutex<BTreeMap<u64, TcpStream>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running chain. Dropping it stops it.
pub struct ChainServer {
    shared: Arc<Shared>,
    endpoint: RpcEndpoint,
    acceptor: Option<JoinHandle<()>>,
}

impl ChainServer {
    /// Starts serving; reads and checks the blocks of the directory first.
    ///
    /// # Errors
    /// If the address is not on loopback or taken, or the directory is in use or damaged.
    pub fn start(config: ChainConfig) -> Result<Self, ChainError> {
        let ChainConfig { data_dir, listen, rpc_user: user, rpc_password: password, policy } = config;
        if !listen.ip().is_loopback() {
            return Err(ChainError::NotLoopback(listen));
        }
        let state = State::open(data_dir.as_deref(), policy)?;
        let fail = |source| ChainError::Listen { addr: listen, source };
        let listener = TcpListener::bind(listen).map_err(fail)?;
        let addr = listener.local_addr().map_err(fail)?;
        let shared = Arc::new(Shared {
            state: Mutex::new(Some(state)),
            authorization: basic_auth(&user, &password),
            stopped: Condvar::new(),
            connections: Mutex::default(),
        });
        let serving = shared.clone();
        let acceptor = std::thread::Builder::new()
            .name("chain-accept".into())
            .spawn(move || accept_loop(&listener, &serving))
            .map_err(fail)?;
        Ok(Self { shared, endpoint: RpcEndpoint { addr, user, password }, acceptor: Some(acceptor) })
    }

    /// Where it serves.
    pub fn addr(&self) -> SocketAddr {
        self.endpoint.addr
    }

    /// Where it serves, and as whom to ask.
    pub fn endpoint(&self) -> &RpcEndpoint {
        &self.endpoint
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> Result<T, ChainError>) -> Result<T, ChainError> {
        match lock(&self.shared.state).as_mut() {
            Some(state) => f(state),
            None => Err(ChainError::Refused("the chain is stopped".into())),
        }
    }

    /// Height of the last block.
    ///
    /// # Errors
    /// If it is stopped.
    pub fn height(&self) -> Result<u32, ChainError> {
        self.with(|state| Ok(state.chain.height()))
    }

    /// Makes blocks; their coins go to the faucet.
    ///
    /// # Errors
    /// If it is stopped, or cannot write.
    pub fn mine(&self, blocks: u32) -> Result<(), ChainError> {
        let mut left = u64::from(blocks);
        while left > 0 {
            let batch = left.min(MAX_GENERATE);
            self.with(|state| state.mine(batch, &faucet_address().script_pubkey()).map(drop))?;
            left -= batch;
        }
        Ok(())
    }

    /// Pays each address so many satoshis, in one confirmed transaction; mines what it takes.
    ///
    /// # Errors
    /// If an address is not a regtest one, or the coins do not suffice.
    pub fn fund(&self, to: &[(String, u64)]) -> Result<(), ChainError> {
        let output = |(address, sat): &(String, u64)| {
            let parsed = Address::from_str(address).ok().and_then(|a| a.require_network(Network::Regtest).ok());
            let script_pubkey = parsed
                .ok_or_else(|| ChainError::Refused(format!("`{address}` is not a regtest address")))?
                .script_pubkey();
            Ok(TxOut { value: Amount::from_sat(*sat), script_pubkey })
        };
        let outputs = to.iter().map(output).collect::<Result<Vec<_>, ChainError>>()?;
        if self.height()? == 0 {
            self.mine(101)?;
        }
        self.with(|state| {
            let refused = |e: String| ChainError::Refused(e);
            let tx = state.chain.faucet_payment(outputs).map_err(|e| refused(e.to_string()))?;
            state.accept(tx)?.map_err(|e| refused(e.to_string()))?;
            state.mine(1, &faucet_address().script_pubkey()).map(drop)
        })
    }

    /// Waits until somebody calls `stop`.
    pub fn wait(&self) {
        let mut state = lock(&self.shared.state);
        while state.as_ref().is_some_and(|s| !s.stopping) {
            state = self.shared.stopped.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Stops serving and closes the files.
    pub fn stop(mut self) {
        self.shutdown();
    }

    fn shutdown(&mut self) {
        let Some(acceptor) = self.acceptor.take() else { return };
        drop(lock(&self.shared.state).take());
        self.shared.stopped.notify_all();
        for connection in lock(&self.shared.connections).values() {
            let _ = connection.shutdown(Shutdown::Both);
        }
        // wakes the acceptor, which then sees that there is nothing to serve
        let woken = TcpStream::connect_timeout(&self.endpoint.addr, Duration::from_secs(1)).is_ok();
        if woken {
            let _ = acceptor.join();
        }
    }
}

impl Drop for ChainServer {
    fn drop(&mut self) {
        self.shutdown();
    }
}

fn accept_loop(listener: &TcpListener, shared: &Arc<Shared>) {
    for (id, stream) in (0u64..).zip(listener.incoming()) {
        if lock(&shared.state).is_none() {
            return;
        }
        let Ok(stream) = stream else {
            std::thread::sleep(Duration::from_millis(50)); // out of file descriptors, say
            continue;
        };
        let Ok(handle) = stream.try_clone() else { continue };
        {
            let mut connections = lock(&shared.connections);
            if connections.len() >= MAX_CONNECTIONS {
                // a short answer fits into the socket's buffer, so this does not wait for the caller
                let _ = http::write(&mut &handle, "503 Service Unavailable", &refusal(-32600, "busy"), false);
                let _ = handle.shutdown(Shutdown::Both);
                continue;
            }
            connections.insert(id, handle);
        }
        let serving = shared.clone();
        let spawned = std::thread::Builder::new().name("chain-rpc".into()).spawn(move || {
            let _ = serve(&stream, &serving);
            lock(&serving.connections).remove(&id);
        });
        if spawned.is_err() {
            lock(&shared.connections).remove(&id);
        }
    }
}

fn refusal(code: i64, message: &str) -> Value {
    json!({"result": null, "error": {"code": code, "message": message}, "id": null})
}

/// Serves one connection until it ends.
fn serve(stream: &TcpStream, shared: &Shared) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(IDLE_TIMEOUT))?;
    stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    loop {
        let request = match http::read(&mut reader, &shared.authorization) {
            Ok(request) => request,
            Err(http::Bad::Gone) => return Ok(()),
            Err(http::Bad::Status(status)) => {
                return http::write(&mut writer, status, &refusal(-32600, status), false);
            }
        };
        let (status, answer) = match lock(&shared.state).as_mut() {
            Some(state) => answer(state, &request.body),
            None => return Ok(()),
        };
        http::write(&mut writer, status, &answer, request.keep_alive)?;
        shared.stopped.notify_all(); // in case it was `stop`
        if !request.keep_alive {
            return Ok(());
        }
    }
}

/// The answer to one request body.
fn answer(state: &mut State, body: &[u8]) -> (&'static str, Value) {
    let parsed: Result<Value, _> = serde_json::from_slice(body);
    let id = parsed.as_ref().ok().and_then(|v| v.get("id")).cloned().unwrap_or(Value::Null);
    let result = match &parsed {
        Err(_) => Err(Fail { code: -32700, message: "Parse error".into() }),
        Ok(request) => {
            let method = request.get("method").and_then(Value::as_str);
            let params = match request.get("params") {
                None | Some(Value::Null) => Some([].as_slice()),
                Some(Value::Array(params)) => Some(params.as_slice()),
                Some(_) => None,
            };
            match (method, params) {
                (Some(method), Some(params)) => methods::call(state, method, params),
                (Some(_), None) => Err(Fail { code: -32600, message: "params must be an array".into() }),
                (None, _) => Err(Fail { code: -32600, message: "Invalid request: one object with a method".into() }),
            }
        }
    };
    match result {
        Ok(result) => ("200 OK", json!({"result": result, "error": null, "id": id})),
        Err(Fail { code, message }) => {
            let status = match code {
                -32600 => "400 Bad Request",
                -32601 => "404 Not Found",
                _ => "500 Internal Server Error",
            };
            (status, json!({"result": null, "error": {"code": code, "message": message}, "id": id}))
        }
    }
}
