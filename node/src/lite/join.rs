//! The first start of a lite node: one file names the network, everything else is made here.
//!
//! A network has to be named by somebody: its genesis is what all trust begins with, and on which Bitcoin chain and from
//! whose Lightning node it pays cannot be guessed. So whoever runs a network hands out one small file, `join.json`, and
//! `oda lite --join join.json` makes keys, wallet and configuration from it. From then on `oda lite` is enough.

use crate::config::{Chain, Config, FILE, Liquidity};
use crate::identity::{Identity, keys_dir, write_secret};
use anyhow::{Context, Result, bail, ensure};
use oda_consensus::genesis::Genesis;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Name of the file that names a network.
pub const JOIN_FILE: &str = "join.json";
/// Largest such file, bytes.
const MAX_FILE: u64 = 4 << 20;
/// Most peers and Lightning nodes taken from it.
const MAX_NAMED: usize = 1024;
/// Where ports are looked for: below what systems hand out by themselves, so that they are free at the next start too.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// What names a network.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Join {
    /// Its genesis.
    pub genesis: Genesis,
    /// Peers to begin with, sponsors among them; each address ends in /p2p/PEERID.
    pub peers: Vec<String>,
    /// How to be paid.
    #[serde(default)]
    pub lightning: JoinLightning,
}

/// How to be paid on a network.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinLightning {
    /// Lightning nodes of sponsors whose channels are taken without reserve and confirmations.
    #[serde(default)]
    pub trusted: Vec<String>,
    /// Who tells what is on the Bitcoin chain. Without: a public Esplora server, except on regtest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<Chain>,
    /// Who opens a channel at the first payment (LSPS2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub liquidity: Option<Liquidity>,
}

impl Join {
    /// Reads the file, or the one of that name in a directory.
    ///
    /// # Errors
    /// If it is missing or malformed, or its genesis is not sound.
    pub fn load(path: &Path) -> Result<Self> {
        let path = if path.is_dir() { path.join(JOIN_FILE) } else { path.to_path_buf() };
        let size = std::fs::metadata(&path).with_context(|| {
            format!("cannot read {}: ask whoever runs the network for its {JOIN_FILE}", path.display())
        })?;
        ensure!(size.len() <= MAX_FILE, "{} is larger than {MAX_FILE} bytes: it names no network", path.display());
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let join: Self = serde_json::from_str(&text).with_context(|| format!("{} names no network", path.display()))?;
        join.genesis.check().with_context(|| path.display().to_string())?;
        ensure!(!join.peers.is_empty(), "{} names no peers to begin with", path.display());
        ensure!(
            join.peers.len().max(join.lightning.trusted.len()) <= MAX_NAMED,
            "{} names more than {MAX_NAMED} peers",
            path.display()
        );
        crate::net::parse_peers(&join.peers).with_context(|| path.display().to_string())?;
        Ok(join)
    }
}

/// Where a lite node lives unless told otherwise (XDG Base Directory Specification).
///
/// # Errors
/// If the user has no home.
pub fn default_datadir() -> Result<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let data = absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")));
    Ok(data.context("HOME is not set: say with --datadir where the node shall keep its wallet")?.join("oda/lite"))
}

/// Places where a network may be named if nobody says otherwise, in order.
fn usual_places(datadir: &Path) -> Vec<PathBuf> {
    vec![datadir.join(JOIN_FILE), PathBuf::from("/etc/oda").join(JOIN_FILE)]
}

/// What a first start made.
pub struct Made {
    /// The words of a new wallet, to be shown once; `None` if there were some already.
    pub words: Option<Zeroizing<String>>,
}

/// Makes what is missing in a data directory: keys, genesis and configuration. Does nothing if it is configured.
///
/// # Errors
/// If no network is named, or another than the one the directory belongs to, or a wallet's words are lost.
pub fn prepare(datadir: &Path, named: Option<&Path>) -> Result<Option<Made>> {
    if datadir.join(FILE).exists() {
        if let Some(path) = named {
            let (there, asked) = (Config::load(datadir)?.genesis(datadir)?.chain(), Join::load(path)?.genesis.chain());
            ensure!(
                there == asked,
                "{} belongs to another network than {}: give another --datadir, or leave --join out",
                datadir.display(),
                path.display()
            );
        }
        return Ok(None);
    }
    let place = match named {
        Some(path) => path.to_path_buf(),
        None => usual_places(datadir).into_iter().find(|p| p.exists()).with_context(|| {
            format!(
                "which network? Give --join {JOIN_FILE}, the file its founders or a sponsor hand out, or put it at {}",
                usual_places(datadir).iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(" or ")
            )
        })?,
    };
    let join = Join::load(&place)?;
    let has_words = keys_dir(datadir).join("mnemonic").exists();
    if !has_words && crate::wallet::dir(datadir).exists() {
        bail!("{} holds a wallet without its words: restore them with `oda wallet restore`", datadir.display());
    }
    std::fs::create_dir_all(datadir).with_context(|| datadir.display().to_string())?;
    let words = if has_words { None } else { Some(Identity::create(datadir)?) };
    let genesis = serde_json::to_vec_pretty(&join.genesis)?;
    crate::file::replace(&datadir.join("genesis.json"), &genesis).context("writing the genesis file")?;
    // last: with it the directory counts as ready. It may hold a password of the chain source
    write_secret(&datadir.join(FILE), toml::to_string(&configuration(&join)?)?.as_bytes())?;
    Config::load(datadir)?;
    Ok(Some(Made { words }))
}

/// The configuration of a new lite node; what is not in it is default, and may be added by hand.
fn configuration(join: &Join) -> Result<toml::Table> {
    let ip = crate::net::address::own_ip(&join.peers);
    let mut lightning = toml::Table::new();
    lightning.insert("listen".into(), free_port(ip)?.to_string().into());
    lightning.insert("trusted".into(), join.lightning.trusted.clone().into());
    if let Some(chain) = &join.lightning.chain {
        lightning.insert("chain".into(), toml::Value::try_from(chain)?);
    }
    if let Some(liquidity) = &join.lightning.liquidity {
        lightning.insert("liquidity".into(), toml::Value::try_from(liquidity)?);
    }
    let family = if ip.is_ipv4() { "ip4" } else { "ip6" };
    let mut p2p = toml::Table::new();
    p2p.insert("listen".into(), vec![format!("/{family}/{ip}/tcp/0")].into());
    p2p.insert("peers".into(), join.peers.clone().into());
    let mut blobs = toml::Table::new();
    blobs.insert("listen".into(), SocketAddr::new(ip, 0).to_string().into());
    let mut all = toml::Table::new();
    all.insert("network".into(), toml::Value::try_from(join.genesis.bitcoin)?);
    all.insert("p2p".into(), p2p.into());
    all.insert("blobs".into(), blobs.into());
    all.insert("lightning".into(), lightning.into());
    Ok(all)
}

/// A free TCP port below those the system hands out.
fn free_port(ip: IpAddr) -> Result<SocketAddr> {
    use rand_core::RngCore as _;
    let many = u32::from(PORTS.end - PORTS.start);
    let begin = rand_core::OsRng.next_u32() % many;
    let ports = (0..many).filter_map(|i| u16::try_from((begin + i) % many).ok()?.checked_add(PORTS.start));
    let mut free = ports.map(|port| SocketAddr::new(ip, port)).filter(|at| TcpListener::bind(at).is_ok());
    free.next().with_context(|| format!("no free port on {ip} between {} and {}", PORTS.start, PORTS.end))
}

/// What a new owner is told. The words themselves are for a terminal only: logs are kept, copied and read by others.
pub fn welcome(made: &Made, datadir: &Path, on_terminal: bool) -> String {
    let place = datadir.display();
    match &made.words {
        Some(words) if on_terminal => format!(
            "A new wallet is in {place}.\nWrite these words down; they restore identity and money and are not shown \
             again:\n\n  {}\n",
            **words
        ),
        Some(_) => format!(
            "a new wallet is in {place}; see its words once, on a terminal, and write them down: oda wallet --datadir \
             {place} backup {place}/wallet.backup --show-mnemonic"
        ),
        None => format!("{place} is ready"),
    }
}
