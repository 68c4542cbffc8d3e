//! The files that describe a network: `network.toml` of the whole, `oda.toml` of each node.
//!
//! `oda` refuses unknown keys in its file, so these types follow `node/src/config.rs` key by key; the
//! process tests start every role with them.

use anyhow::{Context, Result};
use oda_consensus::genesis::BitcoinNetwork;
use oda_consensus::ids::NodeId;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// File name of a node's configuration.
pub const NODE_FILE: &str = "oda.toml";
/// File name of what a lite node needs to join, as `node/src/lite/join.rs` reads it.
pub const JOIN_FILE: &str = "join.json";
/// File name of the network's description.
pub const NETWORK_FILE: &str = "network.toml";

/// A node's `oda.toml`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// Bitcoin network.
    pub network: BitcoinNetwork,
    /// Genesis file, relative to the data directory.
    pub genesis: PathBuf,
    /// libp2p.
    pub p2p: P2p,
    /// iroh-blobs.
    pub blobs: Listen,
    /// JSON-RPC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpc: Option<Listen>,
    /// Wallet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lightning: Option<Lightning>,
    /// What a sponsor funds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sponsor: Option<Sponsor>,
    /// How a trainer trains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trainer: Option<Trainer>,
    /// What a trainer may take of its machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lite: Option<Lite>,
    /// How a validator validates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validator: Option<Validator>,
}

/// What a trainer may take of its machine: here it is started on purpose, and watched by a person.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lite {
    /// Most of all cores, per cent.
    pub max_cpu_percent: u32,
    /// Pause on battery.
    pub pause_on_battery: bool,
    /// Pause while a person uses the machine.
    pub pause_when_used: bool,
}

impl Lite {
    /// Goes on whatever happens.
    pub const EAGER: Self = Self { max_cpu_percent: 100, pause_on_battery: false, pause_when_used: false };
}

/// How a validator validates.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Validator {
    /// Reveals false scores, or spoils signatures, or both.
    pub misbehave: Misdeed,
}

/// Not at all or in every way, or in one way by its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Misdeed {
    /// Not at all, or in every way.
    All(bool),
    /// In one way.
    One(String),
}

/// libp2p.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct P2p {
    /// Multiaddresses to listen on.
    pub listen: Vec<String>,
    /// Multiaddresses of peers, each ending in /p2p/PEERID.
    pub peers: Vec<String>,
}

/// A service with one address.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// The address.
    pub listen: SocketAddr,
}

/// The wallet.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lightning {
    /// For Lightning peers.
    pub listen: SocketAddr,
    /// bitcoind's JSON-RPC.
    pub bitcoind: SocketAddr,
    /// Its user.
    pub rpc_user: String,
    /// Its password.
    pub rpc_password: String,
    /// Lightning nodes whose channels are taken without reserve and confirmations.
    #[serde(default)]
    pub trusted: Vec<String>,
}

/// What a sponsor funds.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sponsor {
    /// Model file.
    pub model: PathBuf,
    /// Pay for each micro-nat of proven gain, msat.
    pub rate_msat: u64,
    /// Smallest payment, msat.
    pub unit_msat: u64,
    /// Payments a claim is locked in.
    pub tranches: u8,
    /// Most held and paid in total, msat.
    pub budget_msat: u64,
    /// Channel to each trainer, sat.
    pub channel_sat: u64,
    /// Most channels.
    pub max_channels: usize,
    /// Rounds with a decoy, per cent.
    pub decoy_percent: u8,
    /// The fee for a submission, if one is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub submissions: Option<Submissions>,
}

/// Where a sponsor takes submission fees.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Submissions {
    /// Its HTTP server.
    pub listen: SocketAddr,
    /// How trainers reach it.
    pub url: String,
    /// The fee, msat.
    pub fee_msat: u64,
}

/// How a trainer trains.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trainer {
    /// Threads.
    pub threads: u32,
    /// Dishonest work only.
    pub cheat: Misdeed,
    /// Most to be paid for a submission, msat, if not the usual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_fee_msat: Option<u64>,
}

/// What a node of the network does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Full node in the committee.
    Validator,
    /// Full node that pays.
    Sponsor,
    /// Lite node.
    Trainer,
    /// Full node that only watches.
    Observer,
}

/// One node of the network.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeEntry {
    /// Name and directory.
    pub name: String,
    /// What it does.
    pub role: Role,
    /// Whether it cheats.
    #[serde(default)]
    pub cheat: bool,
    /// Ledger identity.
    pub node: NodeId,
    /// libp2p multiaddress with PeerId.
    pub p2p: String,
    /// JSON-RPC of a full node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpc: Option<SocketAddr>,
}

/// The Bitcoin chain of the network.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChainEntry {
    /// JSON-RPC address.
    pub rpc: SocketAddr,
    /// User.
    pub rpc_user: String,
    /// Password.
    pub rpc_password: String,
}

/// `network.toml`: all that is needed to start the network again. Holds the password of the local
/// chain, no key.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkFile {
    /// The chain.
    pub chain: ChainEntry,
    /// The nodes.
    pub nodes: Vec<NodeEntry>,
}

impl NetworkFile {
    /// Reads the description of the network in `dir`.
    ///
    /// # Errors
    /// If it is missing or malformed.
    pub fn load(dir: &Path) -> Result<Self> {
        read(&dir.join(NETWORK_FILE))
            .with_context(|| format!("{} holds no network: make one with `testnet genesis --dir`", dir.display()))
    }

    /// Nodes of a role.
    pub fn of(&self, role: Role) -> impl Iterator<Item = &NodeEntry> {
        self.nodes.iter().filter(move |n| n.role == role)
    }

    /// A node by name.
    ///
    /// # Errors
    /// If the network has none of that name.
    pub fn node(&self, name: &str) -> Result<&NodeEntry> {
        self.nodes.iter().find(|n| n.name == name).with_context(|| format!("the network has no node {name}"))
    }
}

/// Reads a TOML file.
///
/// # Errors
/// If it is missing or malformed.
pub fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("{} is malformed", path.display()))
}

/// Writes a TOML file only its owner can read (it may hold a password).
///
/// # Errors
/// If it cannot be written.
pub fn write<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let text = toml::to_string(value).context("writing TOML")?;
    crate::genesis::write_secret(path, text.as_bytes())
}
