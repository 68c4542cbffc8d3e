//! Configuration: `oda.toml` in the data directory, overridden by flags and environment variables.
//!
//! Unknown keys are refused, so a misspelt key cannot silently mean its default.

use anyhow::{Context, Result, bail};
use oda_consensus::escrow::Terms;
use oda_consensus::genesis::{BitcoinNetwork, Genesis};
use oda_consensus::ids::NodeId;
use oda_consensus::state::MAX_GUESTS;
use oda_ml::cheat::Cheating;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

/// What the command line says about money.
#[derive(Clone, Copy, Debug, Default)]
pub struct MoneyFlags {
    /// The Bitcoin network that is meant.
    pub network: Option<BitcoinNetwork>,
    /// The wallet may hold real bitcoin.
    pub is_real: bool,
}

/// Everything a node is told from outside.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Bitcoin network; must be the one the genesis names.
    pub network: BitcoinNetwork,
    /// Genesis file, relative to the data directory.
    #[serde(default = "default_genesis")]
    pub genesis: PathBuf,
    /// Peer-to-peer side.
    pub p2p: P2p,
    /// Blob endpoint.
    #[serde(default)]
    pub blobs: Blobs,
    /// JSON-RPC server of full nodes.
    #[serde(default)]
    pub rpc: Rpc,
    /// Lightning wallet; trainers and sponsors need one.
    #[serde(default)]
    pub lightning: Option<Lightning>,
    /// What a sponsor funds.
    #[serde(default)]
    pub sponsor: Option<Sponsor>,
    /// Trainer settings.
    #[serde(default)]
    pub trainer: Trainer,
    /// What a lite node may take of its machine.
    #[serde(default)]
    pub lite: Lite,
    /// Validator settings.
    #[serde(default)]
    pub validator: Validator,
}

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
}

impl Blobs {
    /// The bounds of the blob store.
    pub fn limits(&self) -> oda_storage::BlobLimits {
        oda_storage::BlobLimits { disk_bytes_max: self.max_disk_mb.saturating_mul(1_000_000), ..Default::default() }
    }
}

impl Default for Blobs {
    fn default() -> Self {
        Self { listen: default_blobs_listen(), max_disk_mb: 0, replicas: default_replicas() }
    }
}

fn default_blobs_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn default_replicas() -> usize {
    3
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
    /// Threads for training; 0 takes one.
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
fn default_genesis() -> PathBuf {
    "genesis.json".into()
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

/// Slowest download that may be asked for, KiB/s.
const MIN_DOWNLOAD_KIB_S: u64 = 16;

/// Most full nodes that may be asked to keep a blob.
const MAX_REPLICAS: usize = 64;

/// Most connections a node may be told to open: half of those that strangers leave to it.
const MAX_OUTBOUND: usize = 32;

/// The configuration file of a data directory.
pub const FILE: &str = "oda.toml";

impl Config {
    /// Reads `oda.toml` of a data directory.
    ///
    /// # Errors
    /// If it is missing, unreadable, or holds an unknown key; says which and what to do.
    pub fn load(datadir: &Path) -> Result<Self> {
        let path = datadir.join(FILE);
        let text = std::fs::read_to_string(&path).with_context(|| {
            format!(
                "cannot read {}: give --datadir a directory made by `testnet genesis`, or write one",
                path.display()
            )
        })?;
        let config: Self =
            toml::from_str(&text).with_context(|| format!("{} is not a valid configuration", path.display()))?;
        config.check()?;
        Ok(config)
    }

    pub(crate) fn check(&self) -> Result<()> {
        if let Err(error) = self.trainer.device.parse::<oda_ml::torch::Device>() {
            bail!("[trainer] device: {error}");
        }
        if !(1..=100).contains(&self.lite.max_cpu_percent) {
            bail!("[lite] max_cpu_percent = {}: give 1 to 100", self.lite.max_cpu_percent);
        }
        if (1..MIN_DOWNLOAD_KIB_S).contains(&self.lite.max_download_kib_s) {
            bail!("[lite] max_download_kib_s below {MIN_DOWNLOAD_KIB_S}: rounds would be over first; 0 is no limit");
        }
        if !(1..=MAX_REPLICAS).contains(&self.blobs.replicas) {
            bail!("[blobs] replicas = {}: give 1 to {MAX_REPLICAS}", self.blobs.replicas);
        }
        if self.trainer.cheat != Cheating::default() && self.network != BitcoinNetwork::Regtest {
            bail!("[trainer] cheat is for regtest networks only: remove it or set network = \"regtest\"");
        }
        if let Some(host) = self.rpc.hosts.iter().find(|h| !is_host_name(h)) {
            bail!("[rpc] hosts: {host:?} is no host name: write the name alone, without http:// and port");
        }
        if self.sponsor.as_ref().is_some_and(|s| s.guests.len() > MAX_GUESTS) {
            bail!("[sponsor] guests: more than {MAX_GUESTS}; keep those you expect next");
        }
        if self.p2p.outbound > MAX_OUTBOUND {
            bail!("[p2p] outbound = {}: give at most {MAX_OUTBOUND}", self.p2p.outbound);
        }
        if self.p2p.external.len() > crate::net::address::MAX_ADDRESSES {
            bail!("[p2p] external: give at most {} addresses", crate::net::address::MAX_ADDRESSES);
        }
        for text in &self.p2p.external {
            // told to everybody as it stands here, so it must be one that others dial
            if !text.parse::<libp2p::Multiaddr>().is_ok_and(|a| crate::net::address::plain(&a).is_some()) {
                bail!("[p2p] external: {text:?} is not an address others can dial: write /ip4/HOST/tcp/PORT");
            }
        }
        let submissions = self.sponsor.as_ref().and_then(|s| s.submissions.as_ref());
        if let Some(s) = submissions.filter(|s| !s.public().is_sound()) {
            bail!("[sponsor.submissions] url = {:?} is no address: write http://host:port", s.url);
        }
        if self.lightning.as_ref().is_some_and(|l| l.bitcoind.is_some() && l.chain.is_some()) {
            bail!("[lightning] names the chain twice: keep either bitcoind or [lightning.chain]");
        }
        if self.validator.misbehave != Misbehaviour::default() && self.network != BitcoinNetwork::Regtest {
            bail!("[validator] misbehave is for regtest networks only: remove it or set network = \"regtest\"");
        }
        Ok(())
    }

    /// The same, as the command line wants it.
    ///
    /// # Errors
    /// If it names another Bitcoin network: a data directory belongs to one.
    pub fn with(mut self, money: MoneyFlags) -> Result<Self> {
        if let Some(network) = money.network.filter(|n| *n != self.network) {
            bail!(
                "this data directory is for network {:?}, not {network:?}: give the --datadir of that network, or leave \
                 --network out",
                self.network
            );
        }
        if let Some(lightning) = self.lightning.as_mut().filter(|_| money.is_real) {
            lightning.i_know_this_is_real_money = true;
        }
        Ok(self)
    }

    /// Reads the genesis file and checks that this configuration belongs to it.
    ///
    /// # Errors
    /// If the file is missing or malformed, or names another Bitcoin network.
    pub fn genesis(&self, datadir: &Path) -> Result<Genesis> {
        let genesis = read_genesis(&datadir.join(&self.genesis))?;
        if genesis.bitcoin != self.network {
            bail!(
                "the genesis is for {:?} but {FILE} says network = {:?}: use the data directory of the right network",
                genesis.bitcoin,
                self.network
            );
        }
        Ok(genesis)
    }
}

fn is_host_name(text: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    !text.is_empty() && text.len() <= 253 && text.chars().all(letter)
}

/// Reads and checks a genesis file.
///
/// # Errors
/// If it is missing, malformed or inconsistent.
pub fn read_genesis(path: &Path) -> Result<Genesis> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read the genesis file {}", path.display()))?;
    let genesis: Genesis =
        serde_json::from_str(&text).with_context(|| format!("{} is not a genesis file", path.display()))?;
    genesis.check().with_context(|| path.display().to_string())?;
    Ok(genesis)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "network = \"regtest\"\n[p2p]\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\n";

    fn load(text: &str) -> Result<Config> {
        let dir = tempfile::tempdir()?;
        std::fs::write(dir.path().join(FILE), text)?;
        Config::load(dir.path())
    }

    #[test]
    fn defaults_and_unknown_keys() {
        assert_eq!(load(GOOD).unwrap().rpc.listen.port(), 8645);
        let error = format!("{:#}", load(&GOOD.replace("listen", "lisen")).unwrap_err());
        assert!(error.contains("lisen") && error.contains("oda.toml"), "{error}");
        let error = format!("{:#}", load(&format!("colour = 1\n{GOOD}")).unwrap_err());
        assert!(error.contains("colour"), "{error}");
    }

    #[test] // D2
    fn blobs_have_a_quota_and_keepers() {
        let blobs = load(&format!("{GOOD}[blobs]\nmax_disk_mb = 5\n")).unwrap().blobs;
        assert_eq!((blobs.listen.port(), blobs.replicas), (0, 3));
        assert_eq!(blobs.limits().disk_bytes_max, 5_000_000);
        for bad in ["replicas = 0", "replicas = 65", "max_disk_mb = -1", "max_disk = 1"] {
            assert!(load(&format!("{GOOD}[blobs]\n{bad}\n")).is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts_are_names() {
        let hosts = |list: &str| load(&format!("{GOOD}[rpc]\nhosts = {list}\n"));
        assert_eq!(hosts("[\"node.example\"]").unwrap().rpc.hosts, ["node.example"]);
        for bad in ["http://node.example", "node.example:80", "*", ""] {
            let error = format!("{:#}", hosts(&format!("[{bad:?}]")).unwrap_err());
            assert!(error.contains("[rpc] hosts"), "{bad}: {error}");
        }
    }

    #[test] // N1
    fn outbound_and_external_are_checked() {
        let p2p = |line: &str| load(&format!("{GOOD}{line}\n"));
        let given = p2p("").unwrap().p2p;
        assert_eq!((given.outbound, given.external.len()), (8, 0));
        assert_eq!(p2p("outbound = 0").unwrap().p2p.outbound, 0);
        assert!(format!("{:#}", p2p("outbound = 33").unwrap_err()).contains("at most 32"));
        assert!(p2p("external = [\"/ip4/203.0.113.7/tcp/4001\", \"/ip4/203.0.113.7/udp/4001/quic-v1\"]").is_ok());
        for bad in ["/ip4/203.0.113.7/tcp/0", "203.0.113.7:4001", "/dns4/node.example/tcp/4001"] {
            let error = format!("{:#}", p2p(&format!("external = [{bad:?}]")).unwrap_err());
            assert!(error.contains("[p2p] external"), "{bad}: {error}");
        }
    }

    #[test] // P8
    fn a_fee_needs_an_amount_and_an_address() {
        assert_eq!(load(GOOD).unwrap().trainer.max_fee_msat, 10_000);
        let sponsor = |url: &str, fee_msat: u64| {
            let base = "[sponsor]\nmodel = \"m\"\nrate_msat = 1\nunit_msat = 1\nbudget_msat = 1\n";
            let fee =
                format!("[sponsor.submissions]\nlisten = \"127.0.0.1:8646\"\nurl = {url:?}\nfee_msat = {fee_msat}\n");
            load(&format!("{GOOD}{base}{fee}"))
        };
        assert!(sponsor("http://127.0.0.1:8646", 1).is_ok());
        assert!(sponsor("http://127.0.0.1:8646", 0).is_err());
        let error = format!("{:#}", sponsor("127.0.0.1:8646", 1).unwrap_err());
        assert!(error.contains("[sponsor.submissions]") && error.contains("http://"), "{error}");
    }

    #[test]
    fn cheating_is_for_regtest() {
        assert!(load(&format!("{GOOD}[trainer]\ncheat = true\n")).is_ok());
        let real = format!("{GOOD}[trainer]\ncheat = true\n").replace("regtest", "bitcoin");
        assert!(format!("{:#}", load(&real).unwrap_err()).contains("regtest networks only"));
        let named =
            load(&format!("{GOOD}[trainer]\ncheat = \"noise\"\n[validator]\nmisbehave = \"misjudge\"\n")).unwrap();
        assert_eq!(named.trainer.cheat.in_round(3), Some(oda_ml::cheat::Cheat::Random));
        assert!(named.validator.misbehave.does(Lie::Misjudge) && !named.validator.misbehave.does(Lie::ShareWithholder));
        assert!(load(&format!("{GOOD}[trainer]\ncheat = \"martian\"\n")).is_err());
    }
}
