//! The wallet of one node: hold invoices for the trainer, payments for the sponsor (P3, P4, P6).
//!
//! Every call except [`Wallet::next_event`] blocks (LDK writes to SQLite, waits for peers, or asks
//! bitcoind): call them on a thread that may, such as tokio's `spawn_blocking`. Start the wallet inside a
//! multi-threaded tokio runtime, or outside of any (it then brings its own); a current-thread runtime
//! panics inside LDK.
//!
//! Money moves only through five calls. [`Wallet::hold_invoice`] makes an invoice whose payment is held,
//! not taken; [`Wallet::receive`] a plain one, taken as it arrives. [`Wallet::pay`] pays one, once.
//! [`Wallet::claim`] takes a held payment with its preimage, [`Wallet::fail`] gives it back. What became
//! of it arrives as an [`LnEvent`]; an event comes again, after a restart too, until
//! [`Wallet::event_handled`] says that what follows from it is on disk (P6).
//!
//! The chain comes from a [`ChainSource`]. A wallet's first start needs it; later ones do without: the wallet then
//! opens offline, says why in [`Wallet::chain_status`], and goes online by itself.
//!
//! LDK never reports a held payment that it failed back at its deadline: the caller compares
//! [`Wallet::best_block_height`] with the deadline of the event or of [`Wallet::held_payments`].

mod channels;
mod error;
mod events;
mod history;
mod holds;
mod invoice;
mod liquidity;
mod log;
mod payments;
mod source;
mod types;
mod watch;

pub use error::LightningError;
pub use types::{
    ChainSource, ChainStatus, ChannelEntry, ChannelInfo, Direction, HeldPayment, InvoiceInfo, LiquidityProvider,
    LiquidityService, LnEvent, PaymentRecord, PaymentState, PaymentStatus, PeerEntry, StaticBackup, WalletConfig,
};

use crate::rpc::RpcEndpoint;
use channels::key;
use events::Unacknowledged;
use holds::Holds;
use ldk_node::bitcoin::Address;
use ldk_node::config::{AnchorChannelsConfig, Config};
use ldk_node::lightning::ln::msgs::SocketAddress;
use ldk_node::{BuildError, Builder, Node, NodeError};
use oda_consensus::genesis::BitcoinNetwork;
use source::Source;
use std::fs::{File, TryLockError};
use std::net::SocketAddr;
use std::path::Path;
use std::str::FromStr as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use watch::Watch;

/// File that names the network of a wallet's directory.
const NETWORK_FILE: &str = "network";
/// The directory in it that is LDK's, and the file LDK keeps everything in (ldk-node's `io/sqlite_store`).
const LDK_DIR: &str = "ldk";
const LDK_FILE: &str = "ldk_node_data.sqlite";

/// A running wallet. Dropping it stops it.
pub struct Wallet {
    node: Arc<Node>,
    watch: Watch,
    /// Node id of the liquidity provider.
    provider: Option<String>,
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
    /// If the configuration is wrong, the directory is in use or another network's, or the port is taken; on the first
    /// start also if the chain source is not well (later ones wait for it, see [`Wallet::chain_status`]). Each error
    /// says what to do.
    pub fn start(config: WalletConfig) -> Result<Self, LightningError> {
        let data_dir = config.data_dir.clone();
        let io = |source| LightningError::Io { path: data_dir.clone(), source };
        std::fs::create_dir_all(&data_dir).map_err(io)?;
        let lock = File::create(data_dir.join("lock")).map_err(io)?;
        lock.try_lock().map_err(|e| match e {
            TryLockError::WouldBlock => LightningError::InUse(data_dir.clone()),
            TryLockError::Error(source) => LightningError::Io { path: data_dir.join("lock"), source },
        })?;
        check_network(&data_dir, config.network)?;
        let first = !data_dir.join(LDK_DIR).join(LDK_FILE).exists();
        if config.recover && !first {
            return Err(LightningError::NotEmpty(data_dir));
        }
        source::check_port(config.listen)?;
        let chain = Source { chain: config.chain.clone(), network: config.network };
        let probed = match chain.probe() {
            Err(error) if first || !error.may_pass() => return Err(error),
            probed => probed,
        };
        if let (true, Ok(tip)) = (config.recover, &probed) {
            chain.has_blocks_from(tip, 0)?;
        }
        let signer = invoice::Signer::new(&config.seed, config.network)?;
        let holds = Holds::open(data_dir.join("holds"))?;
        let (listen, network) = (config.listen, config.network);
        let provider = config.liquidity.as_ref().map(|p| p.node_id.clone());
        let node = Arc::new(build(config, &chain)?);
        std::fs::write(data_dir.join(NETWORK_FILE), network_name(network)).map_err(io)?;
        let node_id = node.node_id().to_string();
        if !signer.signs_for(&node_id) {
            let why = "LDK derives its node key differently than this version expects".into();
            return Err(LightningError::Ldk { action: "opening the wallet", why });
        }
        let started = probed
            .and_then(|tip| chain.can_continue(&tip, node.status().current_best_block))
            .and_then(|()| watch::start(&node, &chain, listen));
        let trouble = match started {
            Ok(()) => None,
            Err(error) if first || !error.may_pass() => return Err(error),
            Err(error) => {
                tracing::warn!("the wallet starts offline: {error}");
                Some(error)
            }
        };
        let watch = Watch::new(&node, chain, listen, trouble.as_ref())?;
        let wallet = Self {
            node,
            watch,
            provider,
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
        match self.watch.stop(&self.node) {
            Ok(()) | Err(NodeError::NotRunning) => Ok(()),
            Err(error) => Err(ldk("stopping the wallet")(error)),
        }
    }

    /// Its Lightning node id.
    pub fn node_id(&self) -> String {
        self.node_id.clone()
    }

    /// Whether it can see the chain, and if not, why.
    pub fn chain_status(&self) -> ChainStatus {
        let (running, trouble) = self.watch.status();
        ChainStatus { running, trouble, height: self.best_block_height() }
    }

    /// Its network.
    pub fn network(&self) -> BitcoinNetwork {
        self.network
    }

    /// LDK's refusal, with the reason if it does not run.
    fn why(&self, action: &'static str) -> impl FnOnce(NodeError) -> LightningError + '_ {
        move |error| match error {
            NodeError::NotRunning => self.watch.not_running(),
            other => ldk(action)(other),
        }
    }

    /// A new on-chain address of this wallet.
    ///
    /// # Errors
    /// If the wallet cannot write its state.
    pub fn new_address(&self) -> Result<String, LightningError> {
        self.node.onchain_payment().new_address().map(|a| a.to_string()).map_err(ldk("making an address"))
    }

    /// Sends coins on chain: so much, or everything but what open channels keep back. The id of the transaction.
    ///
    /// # Errors
    /// If the address is malformed or of another network, or the coins do not suffice.
    pub fn send_onchain(&self, address: &str, sat: Option<u64>) -> Result<String, LightningError> {
        let malformed = |_| LightningError::BadBitcoinAddress(address.chars().take(100).collect());
        let to = Address::from_str(address).map_err(malformed)?;
        let to = to.require_network(invoice::network(self.network)).map_err(malformed)?;
        let coins = self.node.onchain_payment();
        let sent = match sat {
            Some(sat) => coins.send_to_address(&to, sat, None),
            None => coins.send_all_to_address(&to, true, None),
        };
        sent.map(|id| id.to_string()).map_err(|e| match e {
            NodeError::InsufficientFunds => {
                LightningError::TooFewCoins { sat, balance_sat: self.onchain_balance_sat() }
            }
            other => ldk("sending coins")(other),
        })
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

    /// Asks the chain source for news now: LDK asks bitcoind every two seconds, others every half minute. Blocks.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn sync(&self) -> Result<(), LightningError> {
        self.node.sync_wallets().map_err(self.why("asking the chain source for blocks"))?;
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

/// The network's name in a wallet's directory.
fn network_name(network: BitcoinNetwork) -> &'static str {
    match network {
        BitcoinNetwork::Regtest => "regtest",
        BitcoinNetwork::Signet => "signet",
        BitcoinNetwork::Bitcoin => "bitcoin",
    }
}

/// Refuses a directory of another network, before anything is derived or written for this one.
fn check_network(data_dir: &Path, network: BitcoinNetwork) -> Result<(), LightningError> {
    let path = data_dir.join(NETWORK_FILE);
    match std::fs::read_to_string(&path) {
        Ok(found) if found.trim() == network_name(network) => Ok(()),
        Ok(_) => Err(LightningError::OtherNetwork(data_dir.into())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()), // new, or from before there was the file
        Err(source) => Err(LightningError::Io { path, source }),
    }
}

/// Puts LDK's database into write-ahead mode, which the file remembers. LDK writes it some thirty times a payment, and
/// every write must be on disk before the next step: one sync each then, instead of the four of SQLite's usual journal.
fn keep_a_write_ahead_log(dir: &Path) -> Result<(), LightningError> {
    std::fs::create_dir_all(dir).map_err(|source| LightningError::Io { path: dir.into(), source })?;
    let set = |path: &Path| {
        let db = rusqlite::Connection::open(path)?;
        db.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get::<_, String>(0))
    };
    let failed = |why: String| LightningError::Ldk { action: "opening the wallet's database", why };
    let mode = set(&dir.join(LDK_FILE)).map_err(|e| failed(e.to_string()))?;
    if mode != "wal" {
        tracing::warn!(mode, "the wallet's file system takes no write-ahead log; payments are slower");
    }
    Ok(())
}

/// Builds LDK's node, not started.
fn build(config: WalletConfig, chain: &Source) -> Result<Node, LightningError> {
    let WalletConfig { data_dir, seed, network, listen, trusted_peers, alias, liquidity, recover, .. } = config;
    let trusted = trusted_peers.iter().map(|p| key(p)).collect::<Result<Vec<_>, _>>()?;
    // A newcomer has no coins to keep in reserve for a first channel's anchors; LDK would refuse it, and the provider
    // fall back to a channel without anchors, whose fees cannot be raised when it must be closed.
    let provider = liquidity.as_ref().map(|p| key(&p.node_id)).transpose()?;
    let no_reserve = trusted.iter().copied().chain(provider).collect();
    let mut ldk_config = Config {
        storage_dir_path: data_dir.join(LDK_DIR).display().to_string(),
        network: invoice::network(network),
        listening_addresses: Some(vec![socket_address(listen)]),
        trusted_peers_0conf: trusted,
        ..Config::default()
    };
    ldk_config.anchor_channels_config =
        Some(AnchorChannelsConfig { trusted_peers_no_reserve: no_reserve, ..AnchorChannelsConfig::default() });
    let mut builder = Builder::from_config(ldk_config);
    builder.set_entropy_seed_bytes(*seed);
    builder.set_custom_logger(Arc::new(log::TracingLog));
    if let Some(provider) = &liquidity {
        liquidity::use_provider(&mut builder, provider)?;
    }
    if let Some(service) = config.serve_liquidity {
        liquidity::serve(&mut builder, service);
    }
    builder.set_node_alias(alias.clone()).map_err(|_| LightningError::BadAlias(alias))?;
    let failed = |e| match e {
        BuildError::NetworkMismatch => LightningError::OtherNetwork(data_dir.clone()),
        other => LightningError::Ldk { action: "opening the wallet", why: other.to_string() },
    };
    keep_a_write_ahead_log(&data_dir.join(LDK_DIR))?; // makes the file: all that could be refused was looked at
    if let (true, ChainSource::Bitcoind(endpoint)) = (recover, &chain.chain) {
        // With a bitcoind LDK starts a new wallet at the tip and would never see older coins; with one that does not
        // answer it starts at the first block. What was built so stays when it is opened again.
        let nobody = RpcEndpoint { addr: SocketAddr::from(([127, 0, 0, 1], 1)), ..endpoint.clone() };
        Source { chain: ChainSource::Bitcoind(nobody), network }.configure(&mut builder);
        drop(builder.build().map_err(failed)?);
    }
    chain.configure(&mut builder);
    builder.build().map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test] // P6: every write on disk, with one sync
    fn ldk_writes_ahead_and_syncs() {
        let dir = tempfile::tempdir().unwrap();
        keep_a_write_ahead_log(dir.path()).unwrap();
        keep_a_write_ahead_log(dir.path()).unwrap();
        let db = rusqlite::Connection::open(dir.path().join(LDK_FILE)).unwrap(); // as LDK opens it
        let ask = |what: &str| db.query_row(&format!("SELECT * FROM pragma_{what}"), [], |row| row.get(0));
        assert_eq!(db.query_row("PRAGMA journal_mode", [], |row| row.get::<_, String>(0)).unwrap(), "wal");
        assert_eq!(ask("user_version"), Ok(0u16), "new to LDK");
        assert_eq!(db.query_row("PRAGMA synchronous", [], |row| row.get::<_, u8>(0)).unwrap(), 2, "FULL");
    }
}
