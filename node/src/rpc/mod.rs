//! The RPC server of a full node: every record of the ledger, a door for signed transactions, and what operators need
//! to watch it; JSON-RPC 2.0 over HTTP and WebSocket on one port, on loopback by default.
//!
//! A request passes [`http`] (who may come in; `/health`, `/ready`, `/metrics`), then jsonrpsee (what it means), then
//! [`guard`] (who may call what, how long), then [`methods`]. What there is to call stands once, in [`schema`]: it
//! decides who may, is served as OpenRPC document and makes `docs/rpc.md`; a test holds it against the methods there are.

mod api;
mod cookie;
pub mod doc;
pub mod errors;
mod guard;
mod health;
mod http;
mod methods;
mod metrics;
mod page;
mod records;
pub mod schema;
mod shapes;
mod subscribe;
mod token_key;
mod token_list;
pub mod tokens;
mod types;

pub use api::{ApiClient, ApiServer};
pub use cookie::{COOKIE_FILE, read_authorization};
pub use page::{MAX_PAGE, MAX_PAGE_BYTES};
pub use subscribe::Ended;
pub use token_key::{TOKEN_KEY_FILE, TokenKeyFile};
pub use token_list::{Listed, TOKEN_LIST_FILE, TokenId, TokenList, token_name};
pub use types::*;

use crate::full::Shared;
use crate::ledger::LedgerReader;
use anyhow::{Context, Result};
use cookie::Cookie;
use guard::Guard;
use http::{Gate, GateLayer};
use jsonrpsee::RpcModule;
use jsonrpsee::core::middleware::RpcServiceBuilder;
use jsonrpsee::server::{BatchRequestConfig, PingConfig, Server, ServerConfig, ServerHandle};
use methods::ApiImpl;
use metrics::Metrics;
use oda_consensus::tx::SignedTx;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokens::Doorkeeper;
use tokio::sync::Semaphore;

/// Largest request: the largest transaction in hex, and room for the call around it.
pub const MAX_REQUEST_BYTES: u32 = 2 * SignedTx::MAX_BYTES as u32 + 1024;
/// Largest answer; a page ends well before.
pub const MAX_RESPONSE_BYTES: u32 = 8 << 20;
/// How long calls under way are waited for when the node stops.
const DRAIN: Duration = Duration::from_secs(10);

/// What the server allows.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Requests and WebSocket connections at once.
    pub connections: u32,
    /// Calls of one connection at once.
    pub calls_per_connection: usize,
    /// Calls in a batch.
    pub batch: u32,
    /// Subscriptions of one connection.
    pub subscriptions: u32,
    /// Messages that wait for a WebSocket's reader.
    pub buffered_messages: u32,
    /// Time for a request's body to come.
    pub body_timeout: Duration,
    /// Time for a call, unless its method says otherwise.
    pub call_timeout: Duration,
    /// How long a subscriber may read nothing while its buffer is full.
    pub slow_consumer: Duration,
    /// A WebSocket is asked so often whether it is still there.
    pub ping: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 128,
            calls_per_connection: 16,
            batch: 50,
            subscriptions: 16,
            buffered_messages: 64,
            body_timeout: Duration::from_secs(20),
            call_timeout: Duration::from_secs(30),
            slow_consumer: Duration::from_secs(10),
            ping: Duration::from_secs(30),
        }
    }
}

/// A running server.
pub struct Running {
    handle: ServerHandle,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Running {
    /// Takes no more calls, and waits until those under way are answered, but not for ever.
    pub async fn stop(self) {
        let _ = self.handle.stop();
        if tokio::time::timeout(DRAIN, self.handle.stopped()).await.is_err() {
            tracing::warn!("RPC calls were still running after {} s", DRAIN.as_secs());
        }
    }
}

fn module(api: ApiImpl) -> Result<RpcModule<ApiImpl>> {
    let mut module = api.into_rpc();
    module.register_method("rpc.discover", |_, _, _| doc::openrpc())?;
    Ok(module)
}

/// Names of all methods, ascending: what [`schema::METHODS`] is held against.
///
/// # Errors
/// If two methods have one name.
pub fn method_names(shared: Arc<Shared>, blocks: Arc<dyn LedgerReader>) -> Result<Vec<String>> {
    let api = ApiImpl { shared, blocks, slow_consumer: DRAIN, replays: Arc::new(Semaphore::new(1)) };
    let mut names: Vec<String> = module(api)?.method_names().map(str::to_string).collect();
    names.sort();
    Ok(names)
}

/// Starts the server; it ends with its handle. The cookie lies in `datadir` as long as the server runs.
///
/// # Errors
/// If the address cannot be bound or the cookie not written; says which and what to change.
pub async fn serve(
    config: &crate::config::Rpc,
    limits: Limits,
    datadir: &Path,
    shared: Arc<Shared>,
    blocks: Arc<dyn LedgerReader>,
) -> Result<Running> {
    let ping = PingConfig::new().ping_interval(limits.ping).inactive_limit(2 * limits.ping).max_failures(1);
    let server_config = ServerConfig::builder()
        .max_request_body_size(MAX_REQUEST_BYTES)
        .max_response_body_size(MAX_RESPONSE_BYTES)
        .max_connections(limits.connections)
        .max_subscriptions_per_connection(limits.subscriptions)
        .set_message_buffer_capacity(limits.buffered_messages)
        .set_batch_request_config(BatchRequestConfig::Limit(limits.batch))
        .enable_ws_ping(ping)
        .build();
    let metrics = Arc::new(Metrics::new(shared.clone()));
    let replays = Arc::new(Semaphore::new(1));
    let api = ApiImpl { shared: shared.clone(), blocks, slow_consumer: limits.slow_consumer, replays };
    let doorkeeper = Doorkeeper::of(datadir);
    let guard = Guard { metrics: metrics.clone(), limits, doorkeeper };
    let listen = config.listen;
    let builder = Server::builder().set_config(server_config).set_rpc_middleware(RpcServiceBuilder::new().layer(guard));
    let cookie = Cookie::create(&datadir.join(COOKIE_FILE))?;
    let bodies = Arc::new(Semaphore::new(limits.connections as usize));
    let gate = Gate { hosts: config.hosts.clone(), cookie, shared, metrics, limits, bodies };
    let http = tower::ServiceBuilder::new().layer(GateLayer(Arc::new(gate))).layer(crate::web::WebLayer);
    let server = builder.set_http_middleware(http).build(listen).await.with_context(|| {
        format!("RPC address {listen} cannot be used (is it taken?): stop the other process or change [rpc] listen")
    })?;
    let address = server.local_addr()?;
    Ok(Running { handle: server.start(module(api)?), address })
}
