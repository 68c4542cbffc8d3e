//! A wallet whose chain source goes away, comes back, or is not what it should be.

#![cfg(all(feature = "ldk", feature = "chain"))]

mod common;
#[path = "common/moody.rs"]
mod moody;

use common::{embedded, until, wallet_config};
use moody::{Mood, Moody, explorer};
use oda_consensus::genesis::BitcoinNetwork;
use oda_lightning::bitcoind::free_port;
use oda_lightning::chain::ChainConfig;
use oda_lightning::rpc::RpcError;
use oda_lightning::{ChainSource, LightningError, RegtestDriver, Wallet, WalletConfig};
use std::net::SocketAddr;
use std::path::Path;

/// First block of signet (Bitcoin Core's `chainparams.cpp`), and of regtest.
const SIGNET: &str = "00000008819873e925422c1ff0f99f7cc9bbb232af63a077a480a3633bee1ef6";
const REGTEST: &str = "0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206";
const COINS_SAT: u64 = 1_000_000;

fn refused(config: WalletConfig) -> LightningError {
    match Wallet::start(config) {
        Ok(_) => panic!("it started"),
        Err(error) => error,
    }
}

fn chain_at(dir: &Path, listen: SocketAddr) -> RegtestDriver {
    let (rpc_user, rpc_password) = ("oda".into(), "secret".into());
    let config = ChainConfig {
        data_dir: Some(dir.into()),
        listen,
        rpc_user,
        rpc_password,
        policy: oda_lightning::chain::ChainPolicy::default(),
    };
    let mut driver = RegtestDriver::start_embedded(config.clone());
    until("the port is free again", || {
        if driver.is_err() {
            driver = RegtestDriver::start_embedded(config.clone());
        }
        driver.is_ok()
    });
    driver.unwrap()
}

fn sees(wallet: &Wallet, driver: &RegtestDriver) {
    let height = u32::try_from(driver.height().unwrap()).unwrap();
    until("the wallet has seen the last block", || {
        let _ = wallet.sync();
        wallet.best_block_height() >= height
    });
}

#[test]
fn a_wallet_outlives_its_bitcoind_and_goes_on_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let listen = free_port().unwrap();
    let driver = chain_at(&dir.path().join("chain"), listen);
    let config = || wallet_config(&dir.path().join("wallet"), 5, driver.endpoint());
    let wallet = Wallet::start(config()).unwrap();
    driver.fund(&[(wallet.new_address().unwrap(), COINS_SAT)]).unwrap();
    sees(&wallet, &driver);
    assert_eq!(wallet.onchain_balance_sat(), COINS_SAT);
    let (own, _) = wallet.receive(1_000, "", 3600).unwrap();
    wallet.stop().unwrap();
    drop(wallet);

    // gone at the start: what needs no chain works, what needs it says why
    let config = config();
    driver.stop().unwrap();
    let wallet = Wallet::start(config).unwrap();
    let status = wallet.chain_status();
    assert!(!status.running && status.trouble.as_ref().unwrap().contains("start bitcoind"), "{status:?}");
    assert_eq!(wallet.onchain_balance_sat(), COINS_SAT);
    assert!(wallet.new_address().is_ok());
    assert_eq!(wallet.history(10).len(), 2, "the funding and the unpaid invoice");
    assert!(matches!(wallet.sync(), Err(LightningError::Waiting(_))));
    let peer = "02c6047f9441ed7d6d3045406e95c07cd85c778e4b8cef3ca7abac09b95c709ee5";
    assert!(matches!(wallet.connect(peer, "127.0.0.1:1"), Err(LightningError::Waiting(_))));
    assert!(matches!(wallet.pay_invoice(&own, None, None), Err(LightningError::OwnInvoice)));

    // back: no restart, no call
    let driver = chain_at(&dir.path().join("chain"), listen);
    until("the wallet is online", || wallet.chain_status().running);
    assert_eq!(wallet.chain_status().trouble, None);
    driver.fund(&[(wallet.new_address().unwrap(), COINS_SAT)]).unwrap();
    sees(&wallet, &driver);
    assert_eq!(wallet.onchain_balance_sat(), 2 * COINS_SAT);

    // gone and back under a running wallet
    driver.stop().unwrap();
    until("the wallet notices", || wallet.chain_status().trouble.is_some());
    assert!(wallet.chain_status().running, "peers and channels stay");
    assert!(wallet.sync().is_err());
    let driver = chain_at(&dir.path().join("chain"), listen);
    until("the wallet is well again", || wallet.chain_status().trouble.is_none());
    driver.fund(&[(wallet.new_address().unwrap(), COINS_SAT)]).unwrap();
    sees(&wallet, &driver);
    assert_eq!(wallet.onchain_balance_sat(), 3 * COINS_SAT);
    wallet.stop().unwrap();
    assert!(matches!(wallet.sync(), Err(LightningError::Stopped)), "stopped, not waiting");
    drop(wallet);
    driver.stop().unwrap();
}

#[test]
fn a_bitcoind_that_is_not_well_is_told_by_name_and_waited_for() {
    let driver = embedded(None);
    driver.mine(120).unwrap();
    let moody = Moody::start(driver.endpoint().clone());
    let dir = tempfile::tempdir().unwrap();
    let config = || wallet_config(dir.path(), 6, &moody.endpoint);
    // on its first start a wallet is told at once
    moody.set(Mood::Denies);
    assert!(matches!(refused(config()), LightningError::Chain(RpcError::Unauthorized { .. })));
    moody.set(Mood::Babbles);
    assert!(matches!(refused(config()), LightningError::Chain(RpcError::BadAnswer { .. })));
    moody.set(Mood::Behind(100));
    assert!(matches!(refused(config()), LightningError::Syncing { blocks: 120, headers: 220, .. }));
    moody.set(Mood::Downloads);
    let signet = WalletConfig { network: BitcoinNetwork::Signet, ..config() };
    assert!(matches!(refused(signet), LightningError::Syncing { .. }));
    moody.set(Mood::Pruned(100));
    let restored = WalletConfig { recover: true, ..config() };
    let error = refused(restored);
    assert!(matches!(error, LightningError::Pruned { prune_height: 100, needed_height: 0, .. }), "{error}");
    let wallet = Wallet::start(config()).unwrap(); // a new wallet needs no old blocks
    sees(&wallet, &driver);
    drop(wallet);

    let ills = [
        (Mood::Denies, "password"),
        (Mood::Behind(100), "catching up"),
        (Mood::Pruned(130), "unpruned"),
        (Mood::Babbles, "another program"),
    ];
    for (ill, word) in ills {
        moody.set(ill.clone());
        let wallet = Wallet::start(config()).unwrap();
        let status = wallet.chain_status();
        assert!(!status.running && status.trouble.as_ref().unwrap().contains(word), "{ill:?}: {status:?}");
        moody.set(Mood::Well);
        until("the wallet is online", || wallet.chain_status().running);
        if ill == Mood::Denies {
            moody.set(Mood::Denies);
            until("a running wallet notices", || wallet.chain_status().trouble.is_some());
            moody.set(Mood::Well);
            until("and is well again", || wallet.chain_status().trouble.is_none());
        }
        drop(wallet);
    }
    driver.stop().unwrap();
}

#[test]
fn a_chain_started_anew_is_not_taken_for_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let old = embedded(None);
    old.mine(20).unwrap();
    let wallet = Wallet::start(wallet_config(dir.path(), 7, old.endpoint())).unwrap();
    sees(&wallet, &old);
    drop(wallet);
    old.stop().unwrap();
    let new = embedded(None);
    let config = || wallet_config(dir.path(), 7, new.endpoint());
    let wallet = Wallet::start(config()).unwrap();
    assert!(wallet.chain_status().trouble.unwrap().contains("0 of 20 blocks"));
    let address = wallet.new_address().unwrap(); // another payout, other blocks
    drop(wallet);
    new.rpc().call("generatetoaddress", serde_json::json!([30, address])).unwrap();
    let wallet = Wallet::start(config()).unwrap();
    let status = wallet.chain_status();
    assert!(!status.running && status.trouble.as_ref().unwrap().contains("does not know block 20"), "{status:?}");
    drop(wallet);
    new.stop().unwrap();
}

#[test]
fn a_directory_serves_one_network() {
    let dir = tempfile::tempdir().unwrap();
    let driver = embedded(None);
    let moody = Moody::start(driver.endpoint().clone());
    let config = || wallet_config(dir.path(), 8, &moody.endpoint);
    drop(Wallet::start(config()).unwrap());
    moody.set(Mood::On("signet"));
    let signet = || WalletConfig { network: BitcoinNetwork::Signet, ..config() };
    assert!(matches!(refused(signet()), LightningError::OtherNetwork(_)));
    std::fs::remove_file(dir.path().join("network")).unwrap(); // of an older version
    assert!(refused(signet()).to_string().contains("another Bitcoin network"));
    moody.set(Mood::Well);
    drop(Wallet::start(config()).unwrap());
    driver.stop().unwrap();
}

#[test] // K1: the words bring the coins back, and only if they are looked for
fn a_restored_wallet_finds_its_coins() {
    let driver = embedded(None);
    let dir = tempfile::tempdir().unwrap();
    let config = |name: &str| wallet_config(&dir.path().join(name), 9, driver.endpoint());
    let wallet = Wallet::start(config("lost")).unwrap();
    driver.fund(&[(wallet.new_address().unwrap(), COINS_SAT)]).unwrap();
    driver.fund(&[(wallet.new_address().unwrap(), COINS_SAT)]).unwrap();
    sees(&wallet, &driver);
    let (node_id, backup) = (wallet.node_id(), wallet.static_backup());
    drop(wallet);
    driver.mine(50).unwrap();

    let wallet = Wallet::start(config("not looked for")).unwrap();
    sees(&wallet, &driver);
    assert_eq!(wallet.onchain_total_sat(), 0, "LDK starts at the tip");
    drop(wallet);
    let wallet = Wallet::start(WalletConfig { recover: true, ..config("found") }).unwrap();
    assert_eq!(wallet.node_id(), node_id);
    sees(&wallet, &driver);
    until("the coins are found", || wallet.onchain_balance_sat() == 2 * COINS_SAT);
    assert_eq!(wallet.reconnect(&backup).unwrap(), 0);
    let other = oda_lightning::StaticBackup { node_id: "02".into(), ..backup };
    assert!(matches!(wallet.reconnect(&other), Err(LightningError::BadBackup(_))));
    drop(wallet);
    let again = WalletConfig { recover: true, ..config("found") };
    assert!(matches!(refused(again), LightningError::NotEmpty(_)), "never over a wallet");
    driver.stop().unwrap();
}

#[test]
fn esplora_and_electrum_are_asked_for_their_network_first() {
    let dir = tempfile::tempdir().unwrap();
    let nobody = free_port().unwrap();
    let with = |chain: ChainSource| {
        let endpoint = oda_lightning::RpcEndpoint { addr: nobody, user: String::new(), password: String::new() };
        WalletConfig { chain, ..wallet_config(dir.path(), 10, &endpoint) }
    };
    let esplora = |addr: SocketAddr| ChainSource::Esplora { url: format!("http://{addr}") };
    for silent in [esplora(nobody), ChainSource::Electrum { url: format!("tcp://{nobody}") }] {
        let error = refused(with(silent));
        assert!(matches!(error, LightningError::ChainSilent { .. }), "{error}");
    }
    let serve = |genesis: &'static str| {
        explorer(move |path| {
            Some(match path {
                "/block-height/0" => genesis.into(),
                "/blocks/tip/height" => "0".into(),
                "/blocks/tip/hash" => genesis.into(),
                "/fee-estimates" => "{}".into(),
                _ => return None,
            })
        })
    };
    let error = refused(with(esplora(serve(SIGNET))));
    assert!(matches!(&error, LightningError::WrongChain { found, .. } if found == SIGNET), "{error}");
    let wallet = Wallet::start(with(esplora(serve(REGTEST)))).unwrap();
    assert!(wallet.chain_status().running);
    drop(wallet);
    // and once there is a wallet, a silent server is waited for
    let wallet = Wallet::start(with(esplora(nobody))).unwrap();
    let status = wallet.chain_status();
    assert!(!status.running && status.trouble.as_ref().unwrap().contains("does not answer"), "{status:?}");
    drop(wallet);
}
