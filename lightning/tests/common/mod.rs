//! Two funded wallets with a channel, on either chain.

#![allow(dead_code)] // each test file uses its part

use oda_consensus::genesis::BitcoinNetwork;
use oda_consensus::ids::{PaymentHash, Preimage};
use oda_lightning::bitcoind::{BitcoindConfig, exe_from_env, free_port};
use oda_lightning::chain::{ChainConfig, ChainPolicy};
use oda_lightning::rpc::RpcClient;
use oda_lightning::{ChainSource, LightningError, LnEvent, RegtestDriver, RpcEndpoint, Wallet, WalletConfig};
use serde_json::json;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Longest wait for anything; generous, since tests share two cores with builds.
pub const PATIENCE: Duration = Duration::from_secs(120);
pub const CHANNEL_SAT: u64 = 10_000_000;

/// Each of these tests on the embedded chain, and on a real bitcoind if there is one.
#[allow(unused_macros)]
macro_rules! on_both_chains {
    ($($test:ident),* $(,)?) => {
        mod on_embedded {
            $(#[test] fn $test() { super::$test(super::common::embedded(None)); })*
        }
        mod on_bitcoind {
            $(#[test] fn $test() {
                let dir = tempfile::tempdir().unwrap();
                if let Some(driver) = super::common::bitcoind(dir.path()) { super::$test(driver); }
            })*
        }
    };
}

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().unwrap())
}

pub fn embedded(dir: Option<&Path>) -> RegtestDriver {
    RegtestDriver::start_embedded(ChainConfig {
        data_dir: dir.map(Into::into),
        listen: "127.0.0.1:0".parse().unwrap(),
        rpc_user: "oda".into(),
        rpc_password: "secret".into(),
        policy: ChainPolicy::default(),
    })
    .unwrap()
}

/// A real bitcoind, if `BITCOIND_EXE` names one.
pub fn bitcoind(dir: &Path) -> Option<RegtestDriver> {
    let Some(exe) = exe_from_env() else {
        eprintln!("not run on a real bitcoind: BITCOIND_EXE is not set");
        return None;
    };
    let config = BitcoindConfig {
        exe,
        data_dir: dir.into(),
        listen: free_port().unwrap(),
        rpc_user: "oda".into(),
        rpc_password: "secret".into(),
    };
    Some(RegtestDriver::start_bitcoind(config).unwrap())
}

pub fn wallet_config(dir: &Path, seed: u8, endpoint: &RpcEndpoint) -> WalletConfig {
    WalletConfig {
        data_dir: dir.into(),
        seed: zeroize::Zeroizing::new([seed; 64]),
        network: BitcoinNetwork::Regtest,
        listen: free_port().unwrap(),
        chain: ChainSource::Bitcoind(endpoint.clone()),
        trusted_peers: Vec::new(),
        alias: format!("test {seed}"),
        liquidity: None,
        serve_liquidity: None,
        recover: false,
    }
}

pub fn secret(n: u8) -> (Preimage, PaymentHash) {
    let preimage = Preimage([n; 32]);
    (preimage, preimage.payment_hash())
}

/// Waits until `f` says so.
pub fn until(what: &str, mut f: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !f() {
        assert!(Instant::now() < deadline, "gave up waiting until {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The next event, not acknowledged.
pub fn next(wallet: &Wallet) -> LnEvent {
    let event = runtime().block_on(async { tokio::time::timeout(PATIENCE, wallet.next_event()).await });
    event.expect("gave up waiting for an event")
}

/// The next event of interest, acknowledged.
pub fn event(wallet: &Wallet) -> LnEvent {
    loop {
        let event = next(wallet);
        wallet.event_handled().unwrap();
        if !matches!(event, LnEvent::ChannelReady { .. }) {
            return event;
        }
    }
}

/// Sponsor and trainer.
pub struct Net {
    pub driver: RegtestDriver,
    pub sponsor: Wallet,
    pub trainer: Option<Wallet>,
    trainer_addr: std::net::SocketAddr,
    trusting: bool,
    dir: TempDir,
}

impl Net {
    /// Without a channel. `trusting`: the trainer has no coins and trusts the sponsor's channel.
    pub fn new(driver: RegtestDriver, trusting: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let sponsor = Wallet::start(wallet_config(&dir.path().join("sponsor"), 1, driver.endpoint())).unwrap();
        let trainer_addr = free_port().unwrap();
        let mut net = Self { driver, sponsor, trainer: None, trainer_addr, trusting, dir };
        net.start_trainer();
        let mut to = vec![(net.sponsor.new_address().unwrap(), 2 * CHANNEL_SAT)];
        if !trusting {
            to.push((net.trainer().new_address().unwrap(), 1_000_000));
        }
        net.driver.fund(&to).unwrap();
        net.sync();
        assert_eq!(net.sponsor.onchain_balance_sat(), 2 * CHANNEL_SAT);
        net
    }

    pub fn with_channel(driver: RegtestDriver, trusting: bool) -> Self {
        let net = Self::new(driver, trusting);
        net.open_channel();
        net
    }

    pub fn open_channel(&self) {
        self.propose_channel();
        self.mine(6);
        self.wait_usable();
    }

    /// A channel whose funding waits for a block.
    pub fn propose_channel(&self) {
        let (peer, address) = (self.trainer().node_id(), self.trainer_addr.to_string());
        self.sponsor.open_channel(&peer, &address, CHANNEL_SAT).unwrap();
        let funding = || self.sponsor.channels().iter().all(|c| c.funding.is_some());
        until("the channel is funded", || !self.sponsor.channels().is_empty() && funding());
        let rpc = self.driver.rpc();
        let waiting = || rpc.call("getrawmempool", json!([])).unwrap().as_array().is_some_and(|a| !a.is_empty());
        until("its funding is broadcast", waiting);
    }

    pub fn wait_usable(&self) {
        let usable = |w: &Wallet| w.channels().iter().any(|c| c.usable);
        until("the channel is usable", || usable(&self.sponsor) && usable(self.trainer()));
    }

    pub fn trainer(&self) -> &Wallet {
        self.trainer.as_ref().unwrap()
    }

    pub fn start_trainer(&mut self) {
        let mut config = wallet_config(&self.dir.path().join("trainer"), 2, self.driver.endpoint());
        config.listen = self.trainer_addr;
        if self.trusting {
            config.trusted_peers = vec![self.sponsor.node_id()];
        }
        self.trainer = Some(Wallet::start(config).unwrap());
    }

    /// Stops the trainer cleanly and starts it again.
    pub fn restart_trainer(&mut self) {
        drop(self.trainer.take());
        self.start_trainer();
    }

    pub fn reconnect(&self) {
        self.sponsor.connect(&self.trainer().node_id(), &self.trainer_addr.to_string()).unwrap();
        self.wait_usable();
    }

    pub fn mine(&self, blocks: u32) {
        self.driver.mine(blocks).unwrap();
        self.sync();
    }

    pub fn sync(&self) {
        let height = u32::try_from(self.driver.height().unwrap()).unwrap();
        for wallet in [Some(&self.sponsor), self.trainer.as_ref()].into_iter().flatten() {
            until("the wallet has seen the last block", || match wallet.sync() {
                Err(LightningError::Stopped) => true,
                _ => wallet.best_block_height() >= height,
            });
        }
    }

    /// Has the sponsor's payment held by the trainer; returns the claim deadline.
    pub fn hold(&self, hash: PaymentHash, amount_msat: u64, hold_blocks: u32) -> u32 {
        let bolt11 = self.trainer().hold_invoice(hash, amount_msat, "work", 3600, hold_blocks).unwrap();
        self.sponsor.pay(&bolt11, hash, amount_msat).unwrap();
        match event(self.trainer()) {
            LnEvent::Held { hash: h, amount_msat: a, claim_deadline_height } => {
                assert_eq!((h, a), (hash, amount_msat));
                claim_deadline_height
            }
            other => panic!("{other:?}"),
        }
    }

    /// Both balances, msat.
    pub fn balances(&self) -> (u64, u64) {
        (self.sponsor.lightning_balance_msat(), self.trainer().lightning_balance_msat())
    }

    pub fn until_balances(&self, expected: (u64, u64)) {
        until(&format!("the balances are {expected:?}, now {:?}", self.balances()), || self.balances() == expected);
    }

    /// Stops all; a real bitcoind checks every block the embedded chain made.
    pub fn finish(self) {
        let Self { driver, sponsor, trainer, .. } = self;
        drop((sponsor, trainer));
        if matches!(driver, RegtestDriver::Embedded(_)) {
            cross_check(&driver.rpc());
        }
        driver.stop().unwrap();
    }
}

/// Hands every block of an embedded chain, those that lost included, to a fresh bitcoind; it must take them
/// all and end on the same tip.
pub fn cross_check(embedded: &RpcClient) {
    let dir = tempfile::tempdir().unwrap();
    let Some(real) = bitcoind(dir.path()) else { return };
    let rpc = real.rpc();
    let header = |hash: &str| embedded.call("getblockheader", json!([hash])).unwrap();
    // by height and the lost ones first: so bitcoind goes there, checks them in full, and leaves again
    let mut blocks: Vec<(u64, bool, String)> = Vec::new();
    let mut invalid = Vec::new();
    for tip in embedded.call("getchaintips", json!([])).unwrap().as_array().unwrap() {
        let mut hash = tip["hash"].as_str().unwrap().to_string();
        let on_chain = tip["status"] == "active";
        let until = if on_chain { 0 } else { tip["height"].as_u64().unwrap() - tip["branchlen"].as_u64().unwrap() };
        while header(&hash)["height"].as_u64().unwrap() > until {
            blocks.push((header(&hash)["height"].as_u64().unwrap(), on_chain, hash.clone()));
            if tip["status"] == "invalid" && header(&hash)["height"] == until + 1 {
                invalid.push(hash.clone());
            }
            hash = header(&hash)["previousblockhash"].as_str().unwrap().to_string();
        }
    }
    blocks.sort();
    blocks.dedup();
    for (height, _, hash) in &blocks {
        let block = embedded.call_string("getblock", json!([hash, 0])).unwrap();
        let verdict = rpc.call("submitblock", json!([block])).unwrap();
        assert!(verdict.is_null() || verdict == "inconclusive", "bitcoind refuses block {height} {hash}: {verdict}");
    }
    for hash in invalid {
        rpc.call("invalidateblock", json!([hash])).unwrap();
    }
    let tip = |rpc: &RpcClient| rpc.call_string("getbestblockhash", json!([])).unwrap();
    assert_eq!(tip(&rpc), tip(embedded), "both chains end alike");
    eprintln!("a real bitcoind accepts all {} blocks", blocks.len());
    real.stop().unwrap();
}
