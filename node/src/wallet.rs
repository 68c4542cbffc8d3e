//! The Lightning wallet as tasks: LDK's calls block, so they run on threads of their own, and its
//! events are acknowledged only after the engine has persisted what follows from them (P6).

use crate::config::{Config, Lightning};
use crate::identity::Identity;
use crate::rpc::{ChannelInfo, WalletInfo};
use anyhow::{Context, Result};
use oda_consensus::genesis::BitcoinNetwork;
use oda_consensus::wire::LightningAddress;
use oda_lightning::{Wallet, WalletConfig};
use std::path::Path;
use std::sync::Arc;

/// Starts the wallet of a data directory.
///
/// # Errors
/// If there is no [lightning] section, or the wallet cannot start; says what to do.
pub async fn start(
    config: &Config,
    datadir: &Path,
    identity: &Identity,
    alias: &str,
) -> Result<(Arc<Wallet>, LightningAddress)> {
    let lightning = config
        .lightning
        .clone()
        .context("this role needs a Lightning wallet: add a [lightning] section to oda.toml")?;
    let Lightning { listen, bitcoind, rpc_user, rpc_password, trusted } = lightning;
    let wallet_config = WalletConfig {
        data_dir: datadir.join("lightning"),
        seed: identity.lightning_seed.clone(),
        network: config.network,
        listen,
        bitcoind,
        rpc_user,
        rpc_password,
        trusted_peers: trusted,
        alias: alias.to_string(),
    };
    let wallet = blocking(move || Wallet::start(wallet_config)).await?.context("starting the Lightning wallet")?;
    let address = LightningAddress { node_id: wallet.node_id(), address: listen.to_string() };
    Ok((Arc::new(wallet), address))
}

/// Runs a blocking wallet call on a thread of its own.
///
/// # Errors
/// If the thread died.
pub async fn blocking<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(f).await.context("a wallet thread died")
}

/// What `oda wallet` shows.
pub fn info(wallet: &Wallet, address: &str) -> WalletInfo {
    let channels = wallet.channels();
    WalletInfo {
        node_id: wallet.node_id(),
        address: address.to_string(),
        onchain_sat: wallet.onchain_balance_sat(),
        lightning_msat: wallet.lightning_balance_msat(),
        channels: channels
            .into_iter()
            .map(|c| ChannelInfo { counterparty: c.counterparty, capacity_sat: c.capacity_sat, usable: c.usable })
            .collect(),
    }
}

/// Whether a Bitcoin network carries real money.
pub fn is_real_money(network: BitcoinNetwork) -> bool {
    network == BitcoinNetwork::Bitcoin
}
