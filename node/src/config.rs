//! Configuration: `oda.toml` in the data directory, overridden by flags and environment variables.
//!
//! Unknown keys are refused, so a misspelt key cannot silently mean its default.

mod tables;

pub use tables::*;

use anyhow::{Context, Result, bail};
use oda_consensus::genesis::{BitcoinNetwork, Genesis};
use oda_consensus::state::MAX_GUESTS;
use oda_ml::cheat::Cheating;
use serde::{Deserialize, Serialize};
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
    /// Stored ledger of full nodes.
    #[serde(default)]
    pub ledger: Ledger,
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

fn default_genesis() -> PathBuf {
    "genesis.json".into()
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
        if (1..Ledger::MIN_KEEP_BLOCKS).contains(&self.ledger.keep_blocks) {
            let least = Ledger::MIN_KEEP_BLOCKS;
            bail!("[ledger] keep_blocks = {}: give 0 to keep all, or at least {least}", self.ledger.keep_blocks);
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

    #[test] // D3
    fn few_blocks_cannot_be_kept() {
        let keep = |n: i64| load(&format!("{GOOD}[ledger]\nkeep_blocks = {n}\n"));
        assert_eq!(load(GOOD).unwrap().ledger.keep_blocks, 0);
        assert_eq!(keep(1_024).unwrap().ledger.keep_blocks, 1_024);
        let error = format!("{:#}", keep(1_023).unwrap_err());
        assert!(error.contains("keep_blocks") && error.contains("1024"), "{error}");
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
        assert!(given.relay && !p2p("relay = false").unwrap().p2p.relay);
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
