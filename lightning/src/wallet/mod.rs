//! The wallet of one node: hold invoices for the trainer, payments for the sponsor (P3, P4, P6).
//!
//! Every call except [`Wallet::next_event`] blocks (LDK writes to SQLite, waits for peers, or asks
//! bitcoind): call them on a thread that may, such as tokio's `spawn_blocking`. Start the wallet inside a
//! multi-threaded tokio runtime, or outside of any (it then brings its own); a current-thread runtime
//! panics inside LDK.
//!
//! Money moves only through five calls. [`Wallet::hold_invoice`] makes an invoice whose payment is held,
//! not taken. [`Wallet::pay`] pays one, once. [`Wallet::claim`] takes a held payment with its preimage,
//! [`Wallet::fail`] gives it back. What became of it arrives as an [`LnEvent`]; an event comes again, after
//! a restart too, until [`Wallet::event_handled`] says that what follows from it is on disk (P6).
//!
//! LDK never reports a held payment that it failed back at its deadline: the caller compares
//! [`Wallet::best_block_height`] with the deadline of the event or of [`Wallet::held_payments`].

mod channels;
mod error;
mod events;
mod holds;
mod invoice;
mod log;
mod payments;
mod types;

pub use error::LightningError;
pub use types::{ChannelInfo, Direction, HeldPayment, LnEvent, PaymentState, PaymentStatus, WalletConfig};

use crate::rpc::{RpcClient, RpcEndpoint};
use channels::key;
use events::Unacknowledged;
use holds::Holds;
use ldk_node::config::{AnchorChannelsConfig, Config};
use ldk_node::lightning::ln::msgs::SocketAddress;
use ldk_node::{BuildError, Builder, Node, NodeError};
use oda_consensus::genesis::BitcoinNetwork;
use std::fs::{File, TryLockError};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A running wallet. Dropping it stops it.
pub struct Wallet {
    node: Node,
    node_id: String,
    network: BitcoinNetwork,
    signer: invoice::Signer,
    holds: Holds,
    unacknowledged: Mutex<Option<Unacknowledged>>,
    /// One claim, fail or invoice at a time: each looks before it acts.
    deciding: Mutex<()>,
    _lock: File,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn ldk(action: &'static str) -> impl FnOnce(NodeError) -> LightningError {
    move |error| match error {
        NodeError::NotRunning => LightningError::Stopped,
        other => LightningError::Ldk { action, why: other.to_string() },
    }
}

impl Wallet {
    /// Starts the wallet of a directory, creating it at first. Blocks.
    ///
    /// # Errors
    /// If bitcoind does not answer or is on another network, the directory is in use or another
    /// network's, or the port is taken; each error says what to do.
    pub fn start(config: WalletConfig) -> Result<Self, LightningError> {
        let WalletConfig { data_dir, seed, network, listen, bitcoind, rpc_user, rpc_password, trusted_peers, alias } =
            config;
        let io = |source| LightningError::Io { path: data_dir.clone(), source };
        std::fs::create_dir_all(&data_dir).map_err(io)?;
        let lock = File::create(data_dir.join("lock")).map_err(io)?;
        lock.try_lock().map_err(|e| match e {
            TryLockError::WouldBlock => LightningError::InUse(data_dir.clone()),
            TryLockError::Error(source) => LightningError::Io { path: data_dir.join("lock"), source },
        })?;
        let trusted = trusted_peers.iter().map(|p| key(p)).collect::<Result<Vec<_>, _>>()?;
        check_chain(RpcEndpoint { addr: bitcoind, user: rpc_user.clone(), password: rpc_password.clone() }, network)?;
        let signer = invoice::Signer::new(&seed, network)?;
        let holds = Holds::open(data_dir.join("holds"))?;

        let mut ldk_config = Config {
            storage_dir_path: data_dir.join("ldk").display().to_string(),
            network: invoice::network(network),
            listening_addresses: Some(vec![socket_address(listen)]),
            trusted_peers_0conf: trusted.clone(),
            ..Config::default()
        };
        ldk_config.anchor_channels_config =
            Some(AnchorChannelsConfig { trusted_peers_no_reserve: trusted, ..AnchorChannelsConfig::default() });
        let mut builder = Builder::from_config(ldk_config);
        builder.set_entropy_seed_bytes(*seed);
        builder.set_chain_source_bitcoind_rpc(bitcoind.ip().to_string(), bitcoind.port(), rpc_user, rpc_password);
        builder.set_custom_logger(Arc::new(log::TracingLog));
        builder.set_node_alias(alias.clone()).map_err(|_| LightningError::BadAlias(alias))?;
        let node = builder.build().map_err(|e| match e {
            BuildError::NetworkMismatch => LightningError::OtherNetwork(data_dir.clone()),
            other => LightningError::Ldk { action: "opening the wallet", why: other.to_string() },
        })?;
        let node_id = node.node_id().to_string();
        if !signer.signs_for(&node_id) {
            let why = "LDK derives its node key differently than this version expects".into();
            return Err(LightningError::Ldk { action: "opening the wallet", why });
        }
        node.start().map_err(|e| match e {
            NodeError::InvalidSocketAddress => LightningError::Listen(listen),
            other => ldk("starting the wallet")(other),
        })?;
        let wallet = Self {
            node,
            node_id,
            network,
            signer,
            holds,
            unacknowledged: Mutex::new(None),
            deciding: Mutex::new(()),
            _lock: lock,
        };
        wallet.resume()?;
        Ok(wallet)
    }

    /// Stops it: disconnects and writes everything. Blocks. Fine if it is stopped already.
    ///
    /// # Errors
    /// If LDK could not write its state.
    pub fn stop(&self) -> Result<(), LightningError> {
        match self.node.stop() {
            Ok(()) | Err(NodeError::NotRunning) => Ok(()),
            Err(error) => Err(ldk("stopping the wallet")(error)),
        }
    }

    /// Its Lightning node id.
    pub fn node_id(&self) -> String {
        self.node_id.clone()
    }

    /// A new on-chain address of this wallet.
    ///
    /// # Errors
    /// If the wallet cannot write its state.
    pub fn new_address(&self) -> Result<String, LightningError> {
        self.node.onchain_payment().new_address().map(|a| a.to_string()).map_err(ldk("making an address"))
    }

    /// Coins that can be spent on chain, sat, the channels' reserve kept back.
    pub fn onchain_balance_sat(&self) -> u64 {
        self.node.list_balances().spendable_onchain_balance_sats
    }

    /// All coins on chain, sat, confirmed or not, reserve included.
    pub fn onchain_total_sat(&self) -> u64 {
        self.node.list_balances().total_onchain_balance_sats
    }

    /// Height of the block the channels are synced to.
    pub fn best_block_height(&self) -> u32 {
        self.node.status().current_best_block.height
    }

    /// Asks bitcoind for news now instead of within two seconds. Blocks.
    ///
    /// # Errors
    /// If bitcoind does not answer.
    pub fn sync(&self) -> Result<(), LightningError> {
        self.node.sync_wallets().map_err(ldk("asking bitcoind for blocks"))?;
        let _one_at_a_time = lock(&self.deciding);
        self.expire_overdue()
    }
}

impl Drop for Wallet {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            tracing::warn!(%error, "the wallet did not stop cleanly");
        }
    }
}

fn socket_address(addr: SocketAddr) -> SocketAddress {
    match addr {
        SocketAddr::V4(v4) => v4.into(),
        SocketAddr::V6(v6) => v6.into(),
    }
}

/// LDK on regtest starts without bitcoind and on the wrong chain alike, and then sees no blocks: ask first.
fn check_chain(endpoint: RpcEndpoint, network: BitcoinNetwork) -> Result<(), LightningError> {
    let addr = endpoint.addr;
    let info = RpcClient::new(endpoint).call("getblockchaininfo", serde_json::json!([]))?;
    let found = info.get("chain").and_then(serde_json::Value::as_str).unwrap_or("unknown");
    let expected = match network {
        BitcoinNetwork::Regtest => "regtest",
        BitcoinNetwork::Signet => "signet",
        BitcoinNetwork::Bitcoin => "main",
    };
    if found != expected {
        return Err(LightningError::WrongChain { addr, expected: network, found: found.into() });
    }
    Ok(())
}
