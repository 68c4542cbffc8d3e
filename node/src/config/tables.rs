//! The tables of `oda.toml`: one type for each, with what holds when nothing is said.

use oda_consensus::escrow::Terms;
use oda_consensus::ids::NodeId;
use oda_ml::cheat::Cheating;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;

/// What a lite node may take of its machine, and when it leaves it alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lite {
    /// Most of all cores together that training uses, per cent.
    #[serde(default = "default_cpu_percent")]
    pub max_cpu_percent: u32,
    /// Most memory this process holds, MB; models that need more are left to others. 0: half of the machine's.
    #[serde(default)]
    pub max_memory_mb: u64,
    /// Most disk the data directory takes, MB; models that need more are left to others. 0: any.
    #[serde(default = "default_disk_mb")]
    pub max_disk_mb: u64,
    /// Fastest download of models and data, KiB/s. 0: as fast as it comes.
    #[serde(default)]
    pub max_download_kib_s: u64,
    /// Pause training while the machine runs on battery.
    #[serde(default = "default_true")]
    pub pause_on_battery: bool,
    /// Pause training while a person uses the machine.
    #[serde(default = "default_true")]
    pub pause_when_used: bool,
    /// How long nobody must have touched the machine before training goes on, minutes.
    #[serde(default = "default_idle_minutes")]
    pub idle_minutes: u32,
    /// Pause training while other processes use more than this of all cores, per cent. 0: whatever they use, for training
    /// has low priority.
    #[serde(default)]
    pub pause_above_others_cpu_percent: u32,
}

impl Default for Lite {
    fn default() -> Self {
        Self {
            max_cpu_percent: default_cpu_percent(),
            max_memory_mb: 0,
            max_disk_mb: default_disk_mb(),
            max_download_kib_s: 0,
            pause_on_battery: true,
            pause_when_used: true,
            idle_minutes: default_idle_minutes(),
            pause_above_others_cpu_percent: 0,
        }
    }
}

/// A validator's settings.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Validator {
    /// Applicants this operator votes to admit (C1).
    #[serde(default)]
    pub admit: Vec<NodeId>,
    /// Validators this operator votes to remove (C1).
    #[serde(default)]
    pub evict: Vec<NodeId>,
    /// Test networks only: reveal false scores (`"misjudge"`), send invalid signature shares (`"share_withholder"`), or
    /// both (`true`).
    #[serde(default)]
    pub misbehave: Misbehaviour,
}

/// How a validator of a test network misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Misbehaviour {
    /// Not at all, or in both ways.
    Both(bool),
    /// In one.
    One(Lie),
}

/// One way to misbehave; the simulator's attacker that does the same has this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lie {
    /// False scores.
    Misjudge,
    /// Spoiled signature shares.
    ShareWithholder,
}

impl Default for Misbehaviour {
    fn default() -> Self {
        Self::Both(false)
    }
}

impl Misbehaviour {
    /// Whether it misbehaves in this way.
    pub fn does(self, lie: Lie) -> bool {
        self == Self::Both(true) || self == Self::One(lie)
    }
}

/// libp2p.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct P2p {
    /// Multiaddresses to listen on.
    pub listen: Vec<String>,
    /// Peers to stay connected to, each ending in /p2p/PEERID.
    #[serde(default)]
    pub peers: Vec<String>,
    /// How many connections this node opens, those to `peers` counted in; more are found through the network. 0: only
    /// those to `peers`.
    #[serde(default = "default_outbound")]
    pub outbound: usize,
    /// Multiaddresses to tell others instead of those listened on: the public ones of a node behind a forwarded port.
    #[serde(default)]
    pub external: Vec<String>,
    /// Whether a full node passes small connections on to nodes behind routers, and dials others back so that they learn
    /// whether they can be reached.
    #[serde(default = "default_true")]
    pub relay: bool,
}

/// iroh-blobs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blobs {
    /// UDP address of the blob endpoint; port 0 takes any.
    #[serde(default = "default_blobs_listen")]
    pub listen: SocketAddr,
    /// Most disk that models, data and deltas take, MB; what the ledger no longer needs goes first. 0: any.
    #[serde(default)]
    pub max_disk_mb: u64,
    /// Full nodes that keep each head and data set (D2); all of them if there are fewer.
    #[serde(default = "default_replicas")]
    pub replicas: usize,
    /// UDP addresses to tell others instead of those listened on: the public ones of a node behind a forwarded port.
    #[serde(default)]
    pub external: Vec<SocketAddr>,
}

impl Blobs {
    /// The bounds of the blob store.
    pub fn limits(&self) -> oda_storage::BlobLimits {
        oda_storage::BlobLimits { disk_bytes_max: self.max_disk_mb.saturating_mul(1_000_000), ..Default::default() }
    }
}

impl Default for Blobs {
    fn default() -> Self {
        Self { listen: default_blobs_listen(), max_disk_mb: 0, replicas: default_replicas(), external: Vec::new() }
    }
}

fn default_blobs_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn default_replicas() -> usize {
    3
}

/// The stored ledger of a full node.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    /// Blocks of which transactions and votes are kept, counted from the tip; older ones keep their headers. 0: all.
    #[serde(default)]
    pub keep_blocks: u64,
    /// A node that begins, or was away for long, takes the ledger's state at an attested block from its peers instead of
    /// replaying every block. It then has the committees' word that those blocks kept the rules, and no body of them.
    #[serde(default)]
    pub snapshot_sync: bool,
}

impl Ledger {
    /// Fewest blocks that may be kept: what a node verifies on opening (128), and what peers that were away for a
    /// while, or begin with a snapshot, still have to fetch.
    pub const MIN_KEEP_BLOCKS: u64 = 1_024;
}

/// JSON-RPC.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rpc {
    /// Address of the HTTP and WebSocket server.
    #[serde(default = "default_rpc")]
    pub listen: SocketAddr,
    /// Names under which it may be asked, besides localhost and IP addresses, and whose web pages may ask it.
    #[serde(default)]
    pub hosts: Vec<String>,
}

impl Default for Rpc {
    fn default() -> Self {
        Self { listen: default_rpc(), hosts: Vec::new() }
    }
}

fn default_rpc() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 8645))
}

/// The wallet.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lightning {
    /// TCP address for Lightning peers.
    pub listen: SocketAddr,
    /// Short for a `chain` of kind "bitcoind": its JSON-RPC address.
    #[serde(default)]
    pub bitcoind: Option<SocketAddr>,
    /// Its user.
    #[serde(default)]
    pub rpc_user: String,
    /// Its password.
    #[serde(default)]
    pub rpc_password: String,
    /// Lightning nodes (secp256k1 public keys, hex) whose channels are taken without reserve and confirmations.
    #[serde(default)]
    pub trusted: Vec<String>,
    /// Confirms that the wallet may hold real bitcoin; needed on network "bitcoin".
    #[serde(default)]
    pub i_know_this_is_real_money: bool,
    /// Who tells the wallet what is on the Bitcoin chain. Without: a public Esplora server, except on regtest.
    #[serde(default)]
    pub chain: Option<Chain>,
    /// Who opens a channel to this wallet when it is first paid (LSPS2).
    #[serde(default)]
    pub liquidity: Option<Liquidity>,
    /// On which terms this wallet opens channels to others when they are first paid (LSPS2).
    #[serde(default)]
    pub serve_liquidity: Option<ServeLiquidity>,
}

/// A source of the Bitcoin chain.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Chain {
    /// bitcoind's JSON-RPC.
    Bitcoind {
        /// Its address; the network's usual port on this machine if absent.
        #[serde(default)]
        address: Option<SocketAddr>,
        /// Its user.
        #[serde(default)]
        user: Option<String>,
        /// Its password.
        #[serde(default)]
        password: Option<String>,
        /// Instead of both: its cookie file. bitcoind writes a new one at each start, and this node reads it at its
        /// own, so a password is better for a node that outlives bitcoind's restarts.
        #[serde(default)]
        cookie: Option<PathBuf>,
    },
    /// A block explorer that speaks Esplora's HTTP.
    Esplora {
        /// Its address.
        url: String,
    },
    /// An Electrum server.
    Electrum {
        /// Its address, `tcp://host:port` or `ssl://host:port`.
        url: String,
    },
}

/// A liquidity provider.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Liquidity {
    /// Its Lightning node id. Trusted until the channel it opens confirms.
    pub node_id: String,
    /// Its address, host:port.
    pub address: String,
    /// What it asks for, if it does not serve everybody.
    #[serde(default)]
    pub token: Option<String>,
}

/// A liquidity provider's terms; what is absent is [`oda_lightning::LiquidityService`]'s default.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServeLiquidity {
    /// Serve only those who know it.
    #[serde(default)]
    pub token: Option<String>,
    /// Fee for opening a channel, millionths of the first payment.
    #[serde(default)]
    pub fee_ppm: Option<u32>,
    /// Lowest fee for opening a channel, msat.
    #[serde(default)]
    pub min_fee_msat: Option<u64>,
    /// How much larger than the first payment the channel is, millionths of it.
    #[serde(default)]
    pub over_provisioning_ppm: Option<u32>,
    /// Smallest first payment, msat.
    #[serde(default)]
    pub min_payment_msat: Option<u64>,
    /// Largest first payment, msat.
    #[serde(default)]
    pub max_payment_msat: Option<u64>,
}

/// A sponsor's model and money.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sponsor {
    /// Model description, see `models/`, or what `oda model add` made of one.
    pub model: PathBuf,
    /// Where its data lies, if not beside it.
    #[serde(default)]
    pub data: Option<PathBuf>,
    /// Pay for each micro-nat of proven gain, msat.
    pub rate_msat: u64,
    /// The smallest payment, msat: what is earned is rounded down to it (P5).
    pub unit_msat: u64,
    /// Payments a claim is locked in, each twice the next: a claim earns at most 2^n - 1 units.
    #[serde(default = "default_tranches")]
    pub tranches: u8,
    /// Allow units too small to be enforced on chain (P7): until it is settled, such a payment is only the
    /// peer's word.
    #[serde(default)]
    pub unenforced: bool,
    /// Most to be held and paid in total, msat.
    pub budget_msat: u64,
    /// Size of the channel opened to each trainer, sat.
    #[serde(default = "default_channel_sat")]
    pub channel_sat: u64,
    /// Most channels opened.
    #[serde(default = "default_channels")]
    pub max_channels: usize,
    /// In how many per cent of the rounds a decoy tests the committee (C6).
    #[serde(default = "default_decoys")]
    pub decoy_percent: u8,
    /// Trainers for whom, besides those paid for work on the model before, half of a round's places are kept (P8): a place
    /// costs nothing, and names made up by the dozen could take all. At most 64; for the model this node added.
    #[serde(default)]
    pub guests: Vec<NodeId>,
    /// Ask a fee for each claim before payment is offered for it (P8). Without: none is asked. A fee keeps out floods
    /// of worthless claims, and also every newcomer that has nothing in a channel yet.
    #[serde(default)]
    pub submissions: Option<Submissions>,
}

/// Where a sponsor takes submission fees, and how much.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Submissions {
    /// TCP address of the HTTP server.
    pub listen: SocketAddr,
    /// How trainers reach it, `http://host:port`; told to all in the node's signed peer record.
    pub url: String,
    /// The fee, msat.
    pub fee_msat: NonZeroU64,
}

impl Submissions {
    /// As it stands in the peer record.
    pub fn public(&self) -> oda_consensus::wire::Submissions {
        oda_consensus::wire::Submissions { url: self.url.clone(), fee_msat: self.fee_msat.get() }
    }
}

/// A trainer's settings.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trainer {
    /// Threads for training; 0: as many as `[lite] max_cpu_percent` allows.
    #[serde(default)]
    pub threads: u32,
    /// Where to train: "auto" (a GPU if libtorch finds one), "cpu" or "cuda".
    #[serde(default = "default_device")]
    pub device: String,
    /// Most to be paid to a sponsor for a submission, msat, routing fees apart; claims that cost more are not paid for.
    #[serde(default = "default_max_fee_msat")]
    pub max_fee_msat: u64,
    /// Test networks only: submit dishonest work, of every kind in turn (`true`) or of one kind (its name).
    #[serde(default)]
    pub cheat: Cheating,
}

impl Sponsor {
    /// What a claim can earn.
    pub fn terms(&self) -> Terms {
        Terms { rate_msat: self.rate_msat, unit_msat: self.unit_msat, tranches: self.tranches }
    }
}

impl Default for Trainer {
    fn default() -> Self {
        Self { threads: 0, device: default_device(), max_fee_msat: default_max_fee_msat(), cheat: Cheating::default() }
    }
}

fn default_tranches() -> u8 {
    4
}

fn default_outbound() -> usize {
    8
}
fn default_true() -> bool {
    true
}
fn default_cpu_percent() -> u32 {
    50
}
fn default_disk_mb() -> u64 {
    10_000
}
fn default_idle_minutes() -> u32 {
    5
}
fn default_device() -> String {
    "auto".into()
}
fn default_max_fee_msat() -> u64 {
    10_000
}
fn default_channel_sat() -> u64 {
    2_000_000
}
fn default_decoys() -> u8 {
    20
}
fn default_channels() -> usize {
    64
}
