//! Chain sources, asked before LDK relies on them.
//!
//! LDK starts with any of them on the wrong network, behind or pruned alike, logs what it does not like, and sees no
//! blocks: on mainnet a wallet that cannot see the chain cannot see itself being cheated. So each source is asked for
//! its network and tip first, and LDK is started only when the answers fit the wallet.

use super::error::LightningError;
use super::invoice;
use super::types::ChainSource;
use crate::rpc::{RpcClient, RpcError};
use ldk_node::Builder;
use ldk_node::bitcoin::blockdata::constants::genesis_block;
use ldk_node::lightning::chain::BestBlock;
use oda_consensus::genesis::BitcoinNetwork;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;

/// Longest wait for one answer of an Esplora or Electrum server, seconds.
const TIMEOUT_S: u8 = 10;
/// A bitcoind that many blocks behind its headers is only passing a block on.
const BEHIND_BLOCKS: u64 = 6;
/// bitcoind's code for a block it does not know (RPC_INVALID_ADDRESS_OR_KEY, `src/rpc/protocol.h`).
const NOT_FOUND: i64 = -5;

/// What a source says of itself.
pub(super) struct Tip {
    height: u64,
    /// First block a pruned bitcoind has.
    prune_height: Option<u64>,
}

/// A source and the network it should be on.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) chain: ChainSource,
    pub(super) network: BitcoinNetwork,
}

impl Source {
    /// What people call it.
    pub(super) fn name(&self) -> String {
        match &self.chain {
            ChainSource::Bitcoind(endpoint) => format!("bitcoind at {}", endpoint.addr),
            ChainSource::Esplora { url } | ChainSource::Electrum { url } => url.clone(),
        }
    }

    /// Tells LDK to use it.
    pub(super) fn configure(&self, builder: &mut Builder) {
        match &self.chain {
            ChainSource::Bitcoind(e) => builder.set_chain_source_bitcoind_rpc(
                e.addr.ip().to_string(),
                e.addr.port(),
                e.user.clone(),
                e.password.clone(),
            ),
            ChainSource::Esplora { url } => builder.set_chain_source_esplora(url.clone(), None),
            ChainSource::Electrum { url } => builder.set_chain_source_electrum(url.clone(), None),
        };
    }

    /// Asks for network and tip. Blocks.
    pub(super) fn probe(&self) -> Result<Tip, LightningError> {
        match &self.chain {
            ChainSource::Bitcoind(endpoint) => self.probe_bitcoind(&RpcClient::new(endpoint.clone())),
            ChainSource::Esplora { url } => {
                let (genesis, height) = esplora(url.clone()).map_err(|why| self.silent(why))?;
                self.checked(genesis, height)
            }
            ChainSource::Electrum { url } => {
                let (genesis, height) = electrum(url).map_err(|why| self.silent(why))?;
                self.checked(genesis, height)
            }
        }
    }

    pub(super) fn silent(&self, why: impl std::fmt::Display) -> LightningError {
        let why = why.to_string().chars().take(300).collect();
        LightningError::ChainSilent { source_name: self.name(), why }
    }

    fn wrong_chain(&self, found: String) -> LightningError {
        LightningError::WrongChain { source_name: self.name(), expected: self.network, found }
    }

    fn checked(&self, genesis: String, height: u64) -> Result<Tip, LightningError> {
        if genesis != genesis_block(invoice::network(self.network)).block_hash().to_string() {
            return Err(self.wrong_chain(genesis));
        }
        Ok(Tip { height, prune_height: None })
    }

    fn probe_bitcoind(&self, rpc: &RpcClient) -> Result<Tip, LightningError> {
        let info = rpc.call("getblockchaininfo", json!([]))?;
        let found = info.get("chain").and_then(Value::as_str).unwrap_or("unknown");
        let expected = match self.network {
            BitcoinNetwork::Regtest => "regtest",
            BitcoinNetwork::Signet => "signet",
            BitcoinNetwork::Bitcoin => "main",
        };
        if found != expected {
            return Err(self.wrong_chain(found.chars().take(100).collect()));
        }
        let number = |key: &str| info.get(key).and_then(Value::as_u64);
        let flag = |key: &str| info.get(key).and_then(Value::as_bool).unwrap_or(false);
        let blocks = number("blocks").unwrap_or(0);
        let headers = number("headers").unwrap_or(blocks);
        // A regtest chain is in its "initial download" whenever its last block is a day old.
        let downloading = flag("initialblockdownload") && self.network != BitcoinNetwork::Regtest;
        if downloading || headers > blocks.saturating_add(BEHIND_BLOCKS) {
            return Err(LightningError::Syncing { source_name: self.name(), blocks, headers });
        }
        let prune_height = flag("pruned").then(|| number("pruneheight").unwrap_or(0));
        Ok(Tip { height: blocks, prune_height })
    }

    /// Whether it still has the blocks from a height on.
    pub(super) fn has_blocks_from(&self, tip: &Tip, needed_height: u64) -> Result<(), LightningError> {
        match tip.prune_height.filter(|p| *p > needed_height) {
            Some(prune_height) => Err(LightningError::Pruned { source_name: self.name(), prune_height, needed_height }),
            None => Ok(()),
        }
    }

    /// Whether a wallet that has seen `best` can read on from there. Blocks.
    pub(super) fn can_continue(&self, tip: &Tip, best: BestBlock) -> Result<(), LightningError> {
        let seen = u64::from(best.height);
        self.has_blocks_from(tip, seen)?;
        // Reorganisations are shorter, and Esplora servers behind one name differ by a block.
        if tip.height.saturating_add(BEHIND_BLOCKS) < seen {
            return Err(LightningError::Syncing { source_name: self.name(), blocks: tip.height, headers: seen });
        }
        if let ChainSource::Bitcoind(endpoint) = &self.chain {
            let hash = best.block_hash.to_string();
            match RpcClient::new(endpoint.clone()).call("getblockheader", json!([hash])) {
                Err(RpcError::Refused { code: NOT_FOUND, .. }) => {
                    return Err(LightningError::UnknownBlock { source_name: self.name(), height: best.height, hash });
                }
                other => other.map(drop)?,
            }
        }
        Ok(())
    }
}

/// Hash of its first block, height of its last. On a thread of its own: the caller may be inside a runtime.
fn esplora(url: String) -> Result<(String, u64), String> {
    let ask = move || -> Result<(String, u64), String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
        let client = esplora_client::Builder::new(&url)
            .timeout(TIMEOUT_S.into())
            .max_retries(0)
            .build_async()
            .map_err(|e| e.to_string())?;
        runtime.block_on(async {
            let genesis = client.get_block_hash(0).await.map_err(|e| e.to_string())?;
            let height = client.get_height().await.map_err(|e| e.to_string())?;
            Ok((genesis.to_string(), height.into()))
        })
    };
    let asked = std::thread::Builder::new().name("wallet-esplora".into()).spawn(ask).map_err(|e| e.to_string())?;
    asked.join().unwrap_or_else(|_| Err("the client died".into()))
}

/// As [`esplora`].
fn electrum(url: &str) -> Result<(String, u64), String> {
    use electrum_client::ElectrumApi as _;
    let config = electrum_client::ConfigBuilder::new().timeout(Some(TIMEOUT_S)).retry(0).build();
    let client = electrum_client::Client::from_config(url, config).map_err(|e| e.to_string())?;
    let genesis = client.block_header(0).map_err(|e| e.to_string())?.block_hash().to_string();
    let tip = client.block_headers_subscribe().map_err(|e| e.to_string())?;
    Ok((genesis, u64::try_from(tip.height).unwrap_or(u64::MAX)))
}

/// Whether a Lightning port can be had. LDK would find out only after it has started everything else.
pub(super) fn check_port(listen: SocketAddr) -> Result<(), LightningError> {
    // A wallet stopped a moment ago may still be letting go of it.
    for _ in 0..20 {
        if std::net::TcpListener::bind(listen).is_ok() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Err(LightningError::Listen(listen))
}
