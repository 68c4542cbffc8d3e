//! The process that runs a network's Bitcoin chain until it is told to stop.

use crate::chain::ChainKind;
use crate::config::{ChainEntry, NetworkFile};
use anyhow::{Context, Result};
use oda_lightning::bitcoind::{Bitcoind, BitcoindConfig, exe_from_env};
use oda_lightning::chain::{ChainConfig, ChainPolicy, ChainServer};
use std::path::{Path, PathBuf};
use tokio::sync::watch;
use tokio::task::spawn_blocking;

/// Runs the chain of the network in `dir` until `stop` is true.
///
/// # Errors
/// If it cannot start, or does not stop cleanly.
pub async fn run(dir: &Path, kind: ChainKind, mut stop: watch::Receiver<bool>) -> Result<()> {
    let ChainEntry { rpc: listen, rpc_user, rpc_password } = NetworkFile::load(dir)?.chain;
    let data = dir.join("chain");
    match kind {
        ChainKind::Embedded => {
            let data_dir = Some(data.join("embedded"));
            let policy = ChainPolicy::default();
            let config = ChainConfig { data_dir, listen, rpc_user, rpc_password, policy };
            let server = spawn_blocking(|| ChainServer::start(config)).await?.context("starting the embedded chain")?;
            let _ = stop.wait_for(|stop| *stop).await;
            spawn_blocking(move || server.stop()).await.context("stopping the embedded chain")
        }
        // bitcoind knows nothing of whoever started it; so it is a child of this process, which does
        ChainKind::Bitcoind => {
            let exe = exe_from_env().unwrap_or_else(|| PathBuf::from("bitcoind"));
            let config = BitcoindConfig { exe, data_dir: data.join("bitcoind"), listen, rpc_user, rpc_password };
            let bitcoind = spawn_blocking(|| Bitcoind::start(config)).await?.context("starting bitcoind")?;
            let _ = stop.wait_for(|stop| *stop).await;
            spawn_blocking(move || bitcoind.stop()).await?.context("stopping bitcoind")
        }
    }
}
