//! Writes a new network: one genesis file, and per node a data directory with its own secrets.
//!
//! A ceremony that writes all secrets into one directory and copies them around later leaves them
//! lying where it ran. Here each mnemonic and each FROST share is written once, into the directory of
//! the node it belongs to, readable by its owner only, and nowhere else. The first committee's keys come
//! from a real DKG among its members (C2): at no moment does anything hold a whole secret on disk,
//! though here, unlike in the DKGs of all later epochs, one process sees all shares.

use crate::config::{
    self, ChainEntry, JOIN_FILE, Lightning, Listen, Lite, Misdeed, NETWORK_FILE, NODE_FILE, NetworkFile, NodeConfig,
    NodeEntry, P2p, Role, Sponsor, Submissions, Trainer, Validator,
};
use crate::peer_id::peer_id;
use crate::ports::Ports;
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use oda_consensus::epoch::Federation;
use oda_consensus::frost::EncryptionSecret;
use oda_consensus::genesis::{self, BitcoinNetwork, Genesis};
use oda_consensus::ids::NodeId;
use oda_consensus::keys::NodeKey;
use rand_core::{OsRng, RngCore};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// File name of the genesis.
pub const GENESIS_FILE: &str = "genesis.json";
/// Most nodes of one network on one machine.
const MAX_NODES: usize = 256;

/// Who is in the network, and its figures.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Name of the network.
    #[arg(long, default_value = "oda-testnet")]
    pub name: String,
    /// Validating full nodes.
    #[arg(long, default_value_t = 4)]
    pub validators: usize,
    /// How many of the validators, counted from the last, reveal false scores and spoil signatures.
    #[arg(long, default_value_t = 0)]
    pub liars: usize,
    /// Validators drawn for each committee; 0: all of them.
    #[arg(long, default_value_t = 0)]
    pub committee: u16,
    /// Blocks after which the next committee takes over; 0: never.
    #[arg(long, default_value_t = 0)]
    pub epoch_blocks: u32,
    /// Blocks a drawn validator has for each step of a key generation.
    #[arg(long, default_value_t = 20)]
    pub dkg_blocks: u32,
    /// A block is attested every so many blocks; 0: never.
    #[arg(long, default_value_t = 50)]
    pub checkpoint_blocks: u32,
    /// Full nodes that pay.
    #[arg(long, default_value_t = 1)]
    pub sponsors: usize,
    /// Full nodes that only follow the ledger.
    #[arg(long, default_value_t = 0)]
    pub observers: usize,
    /// Lite nodes that train.
    #[arg(long, default_value_t = 3)]
    pub trainers: usize,
    /// How many of the trainers, counted from the last, submit dishonest work.
    #[arg(long, default_value_t = 1)]
    pub cheats: usize,
    /// What they submit, by a name that `testnet attack` lists, instead of every kind in turn.
    #[arg(long)]
    pub cheat_as: Option<String>,
    /// What the lying validators do, by a name that `testnet attack` lists, instead of everything.
    #[arg(long)]
    pub lie_as: Option<String>,
    /// First port; each service takes the next. 0 takes free ones.
    #[arg(long, default_value_t = 0)]
    pub base_port: u16,
    /// Shortest time between two blocks of the ledger, milliseconds.
    #[arg(long, default_value_t = 500)]
    pub block_interval_ms: u32,
    /// Description of the model the sponsors fund.
    #[arg(long, default_value = "models/fashion-mnist.toml")]
    pub model: PathBuf,
    /// Pay for each micro-nat of proven gain, millisatoshi.
    #[arg(long, default_value_t = 100)]
    pub rate_msat: u64,
    /// Smallest payment, millisatoshi; what is earned is rounded down to it.
    #[arg(long, default_value_t = 1_000_000)]
    pub unit_msat: u64,
    /// Payments a claim is locked in, each twice the next.
    #[arg(long, default_value_t = 4)]
    pub tranches: u8,
    /// Most a sponsor holds and pays in total, millisatoshi.
    #[arg(long, default_value_t = 2_000_000_000)]
    pub budget_msat: u64,
    /// Channel a sponsor opens to each trainer, satoshi.
    #[arg(long, default_value_t = 2_000_000)]
    pub channel_sat: u64,
    /// In how many per cent of the rounds a sponsor tests the committee with a decoy.
    #[arg(long, default_value_t = 0)]
    pub decoy_percent: u8,
    /// Fee a sponsor asks for each submission, millisatoshi; 0: none, for a newcomer has nothing to pay it with.
    #[arg(long, default_value_t = 0)]
    pub fee_msat: u64,
    /// Threads of each trainer.
    #[arg(long, default_value_t = 1)]
    pub threads: u32,
}

impl Default for Options {
    /// What the command line gives without any flag.
    fn default() -> Self {
        #[derive(clap::Parser)]
        struct Flags {
            #[command(flatten)]
            options: Options,
        }
        <Flags as clap::Parser>::parse_from(["testnet"]).options
    }
}

/// Secrets of a node being made. Dropped, and wiped, once written.
struct Made {
    name: String,
    role: Role,
    cheat: bool,
    words: Zeroizing<String>,
    id: NodeId,
    encryption: EncryptionSecret,
    lies: bool,
}

fn misdeed(does: bool, one: Option<&String>) -> Misdeed {
    match one.filter(|_| does) {
        Some(name) => Misdeed::One(name.clone()),
        None => Misdeed::All(does),
    }
}

fn make(name: String, role: Role, cheat: bool, lies: bool) -> Result<Made> {
    let mut entropy = Zeroizing::new([0; 16]);
    OsRng.fill_bytes(entropy.as_mut_slice());
    let mnemonic = bip39::Mnemonic::from_entropy(entropy.as_slice()).context("making a mnemonic")?;
    // K1: as in `node/src/identity.rs`; the nodes of this crate's tests start only if it is the same
    let seed = Zeroizing::new(mnemonic.to_seed_normalized(""));
    let key = NodeKey::from_seed(seed.as_slice());
    let encryption = EncryptionSecret::derive(&key.secret());
    Ok(Made { name, role, cheat, words: Zeroizing::new(mnemonic.to_string()), id: key.id(), encryption, lies })
}

/// Writes a network into `dir`.
///
/// # Errors
/// If there is a network already, a figure is out of range, or a file cannot be written.
pub fn create(dir: &Path, options: &Options, time_ms: u64) -> Result<NetworkFile> {
    if dir.join(NETWORK_FILE).exists() {
        bail!(
            "{} holds a network already: choose another --dir, or remove it with all its keys and money",
            dir.display()
        );
    }
    let o = options;
    let count = o.validators + o.sponsors + o.observers + o.trainers;
    ensure!(count <= MAX_NODES, "{count} nodes: at most {MAX_NODES} are supported on one machine");
    ensure!(
        o.validators >= 2,
        "--validators {}: FROST needs 2 or more, and one fault is survived from 4 on",
        o.validators
    );
    ensure!(o.liars <= o.validators, "--liars {} is more than --validators {}", o.liars, o.validators);
    ensure!(o.cheats <= o.trainers, "--cheats {} is more than --trainers {}", o.cheats, o.trainers);
    let model = std::fs::canonicalize(&o.model)
        .with_context(|| format!("the model file {} cannot be found: give its path with --model", o.model.display()))?;

    let mut made = Vec::new();
    for (role, prefix, n) in [
        (Role::Validator, "validator", o.validators),
        (Role::Sponsor, "sponsor", o.sponsors),
        (Role::Observer, "observer", o.observers),
        (Role::Trainer, "trainer", o.trainers),
    ] {
        for i in 0..n {
            let cheat = role == Role::Trainer && i >= n - o.cheats;
            let lies = role == Role::Validator && i >= n - o.liars;
            made.push(make(format!("{prefix}-{i}"), role, cheat, lies)?);
        }
    }
    let genesis = ceremony(dir, options, &made, time_ms)?;
    let genesis_text = serde_json::to_string_pretty(&genesis).context("writing the genesis file")?;
    write(&dir.join(GENESIS_FILE), genesis_text.as_bytes())?;

    let mut ports = Ports::new(o.base_port);
    let mut password = [0; 16];
    OsRng.fill_bytes(&mut password);
    let chain = ChainEntry { rpc: ports.take()?, rpc_user: "oda".into(), rpc_password: hex::encode(password) };
    let mut network = NetworkFile { chain, nodes: Vec::new() };
    let mut listen = Vec::new();
    for m in &made {
        let p2p = ports.take()?;
        let p2p_listen = format!("/ip4/{}/tcp/{}", p2p.ip(), p2p.port());
        let full = m.role != Role::Trainer;
        network.nodes.push(NodeEntry {
            name: m.name.clone(),
            role: m.role,
            cheat: m.cheat || m.lies,
            node: m.id,
            p2p: format!("{p2p_listen}/p2p/{}", peer_id(m.id)),
            rpc: if full { Some(ports.take()?) } else { None },
        });
        listen.push(p2p_listen);
    }
    for ((m, entry), p2p_listen) in made.iter().zip(&network.nodes).zip(listen) {
        let datadir = dir.join(&m.name);
        write_secret(&datadir.join("keys/mnemonic"), m.words.as_bytes())?;
        write(&datadir.join(GENESIS_FILE), genesis_text.as_bytes())?;
        let wallet = matches!(m.role, Role::Sponsor | Role::Trainer);
        let submissions = match (m.role, o.fee_msat) {
            (Role::Sponsor, 1..) => {
                let listen = ports.take()?;
                Some(Submissions { listen, url: format!("http://{listen}"), fee_msat: o.fee_msat })
            }
            _ => None,
        };
        let config = NodeConfig {
            network: genesis.bitcoin,
            genesis: GENESIS_FILE.into(),
            p2p: P2p { listen: vec![p2p_listen], peers: peers_of(&network, entry) },
            blobs: Listen { listen: ports.take()? },
            rpc: entry.rpc.map(|listen| Listen { listen }),
            lightning: if wallet {
                let ChainEntry { rpc, rpc_user, rpc_password } = network.chain.clone();
                Some(Lightning { listen: ports.take()?, bitcoind: rpc, rpc_user, rpc_password, trusted: Vec::new() })
            } else {
                None
            },
            sponsor: (m.role == Role::Sponsor).then(|| Sponsor {
                model: model.clone(),
                rate_msat: o.rate_msat,
                unit_msat: o.unit_msat,
                tranches: o.tranches,
                budget_msat: o.budget_msat,
                channel_sat: o.channel_sat,
                max_channels: 64,
                decoy_percent: o.decoy_percent,
                submissions,
            }),
            validator: m.lies.then(|| Validator { misbehave: misdeed(true, o.lie_as.as_ref()) }),
            trainer: (m.role == Role::Trainer).then(|| Trainer {
                threads: o.threads,
                cheat: misdeed(m.cheat, o.cheat_as.as_ref()),
                max_fee_msat: None,
            }),
            lite: (m.role == Role::Trainer).then_some(Lite::EAGER),
        };
        config::write(&datadir.join(NODE_FILE), &config)?;
    }
    config::write(&dir.join(NETWORK_FILE), &network)?;
    Ok(network)
}

/// Runs the first committee's DKG (C2), hands each member its seed, and returns the checked genesis.
fn ceremony(dir: &Path, o: &Options, made: &[Made], time_ms: u64) -> Result<Genesis> {
    let validators: Vec<&Made> = made.iter().filter(|m| m.role == Role::Validator).collect();
    let all = u16::try_from(validators.len()).context("too many validators")?;
    let federation = Federation {
        committee: if o.committee == 0 { all } else { o.committee },
        epoch_blocks: o.epoch_blocks,
        dkg_blocks: o.dkg_blocks,
        checkpoint_blocks: o.checkpoint_blocks,
        ..Federation::default()
    };
    let genesis = Genesis {
        name: o.name.clone(),
        bitcoin: BitcoinNetwork::Regtest,
        time_ms,
        block_interval_ms: o.block_interval_ms,
        validators: validators
            .iter()
            .map(|m| genesis::Validator { node: m.id, encryption: m.encryption.public() })
            .collect(),
        federation,
        first_committee: Vec::new(),
    };
    let (genesis, seeds) = Genesis::ceremony(genesis, &mut OsRng).context("key generation of the first committee")?;
    let transcript = genesis.transcript()?;
    let (group, _) = genesis.keys()?;
    for (index, (node, seed)) in seeds.iter().enumerate() {
        let m = validators.iter().find(|m| m.id == *node).context("a member that is no validator")?;
        let (share, _) = transcript.shares(seed, index, &m.encryption)?;
        ensure!(share.belongs_to(&group, m.id), "key generation gave {} a share that is not its own", m.name);
        let sealed = seed.seal(0, &m.encryption.public(), &mut OsRng)?;
        write_secret(&dir.join(&m.name).join("keys/epoch-0"), hex::encode(sealed).as_bytes())?;
    }
    Ok(genesis)
}

/// Full nodes know the validators; trainers also the sponsors, to whom their invoices go (P3).
fn peers_of(network: &NetworkFile, me: &NodeEntry) -> Vec<String> {
    let known = |n: &&NodeEntry| n.role == Role::Validator || (n.role == Role::Sponsor && me.role == Role::Trainer);
    network.nodes.iter().filter(|n| n.name != me.name).filter(known).map(|n| n.p2p.clone()).collect()
}

/// Writes `join.json`: all that `oda lite --join` needs to join this network and be paid on it. `lightning` are the
/// sponsors' Lightning nodes. Only its owner can read it: it holds the password of the local chain.
///
/// # Errors
/// If the genesis cannot be read or the file not written.
pub fn write_join(dir: &Path, network: &NetworkFile, lightning: &[String]) -> Result<()> {
    let path = dir.join(GENESIS_FILE);
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let genesis: serde_json::Value =
        serde_json::from_str(&text).with_context(|| format!("{} is malformed", path.display()))?;
    let known = network.nodes.iter().filter(|n| matches!(n.role, Role::Validator | Role::Sponsor));
    let ChainEntry { rpc, rpc_user, rpc_password } = &network.chain;
    let join = serde_json::json!({
        "genesis": genesis,
        "peers": known.map(|n| &n.p2p).collect::<Vec<_>>(),
        "lightning": {
            "trusted": lightning,
            "chain": {"kind": "bitcoind", "address": rpc, "user": rpc_user, "password": rpc_password},
        },
    });
    write_secret(&dir.join(JOIN_FILE), serde_json::to_string_pretty(&join).context("writing JSON")?.as_bytes())
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    }
    std::fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))
}

/// Writes a file only its owner can read, creating its directory. Durable before it returns: a key
/// that a crash loses takes its money along.
///
/// # Errors
/// If it cannot be written.
pub fn write_secret(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
    if let Some(dir) = path.parent() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .with_context(|| format!("creating {}", dir.display()))?;
    }
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("writing {}", path.display()))?;
    file.write_all(bytes)
        .and_then(|()| file.write_all(b"\n"))
        .and_then(|()| file.sync_all())
        .with_context(|| format!("writing {}", path.display()))
}
