//! What people get wrong when they start a wallet, and that each is told what to do.

#![cfg(all(feature = "ldk", feature = "chain"))]

mod common;

use common::{embedded, wallet_config};
use oda_consensus::genesis::BitcoinNetwork;
use oda_lightning::rpc::RpcError;
use oda_lightning::{LightningError, Wallet, WalletConfig};

#[test]
fn a_wallet_that_cannot_start_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let driver = embedded(None);
    let good = || wallet_config(dir.path(), 3, driver.endpoint());
    let refused = |config: WalletConfig| match Wallet::start(config) {
        Ok(_) => panic!("it started"),
        Err(error) => error,
    };
    let nobody = WalletConfig { bitcoind: oda_lightning::bitcoind::free_port().unwrap(), ..good() };
    assert!(matches!(refused(nobody), LightningError::Chain(RpcError::Unreachable { .. })));
    let stranger = WalletConfig { rpc_password: "wrong".into(), ..good() };
    assert!(matches!(refused(stranger), LightningError::Chain(RpcError::Unauthorized { .. })));
    let signet = WalletConfig { network: BitcoinNetwork::Signet, ..good() };
    assert!(matches!(refused(signet), LightningError::WrongChain { .. }));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let busy = WalletConfig { listen: taken.local_addr().unwrap(), ..good() };
    assert!(matches!(refused(busy), LightningError::Listen(_)));
    let friend = WalletConfig { trusted_peers: vec!["bob".into()], ..good() };
    assert!(matches!(refused(friend), LightningError::BadNodeId(_)));
    let long = WalletConfig { alias: "x".repeat(33), ..good() };
    assert!(matches!(refused(long), LightningError::BadAlias(_)));

    let wallet = Wallet::start(good()).unwrap();
    let error = refused(good());
    assert!(matches!(error, LightningError::InUse(_)));
    assert!(error.to_string().contains("stop that one"), "{error}");
    assert!(matches!(wallet.connect("bob", "127.0.0.1:1"), Err(LightningError::BadNodeId(_))));
    let peer = wallet.node_id();
    assert!(matches!(wallet.connect(&peer, "nowhere"), Err(LightningError::BadAddress(_))));
    let (_, hash) = common::secret(1);
    let long = wallet.hold_invoice(hash, 1, "", 60, 5000);
    assert!(matches!(long, Err(LightningError::HoldTooLong { .. })));
    let own = wallet.hold_invoice(hash, 1000, "", 60, 10).unwrap();
    assert!(matches!(wallet.pay(&own, hash, 1000), Err(LightningError::OwnInvoice)));
    wallet.stop().unwrap();
    wallet.stop().unwrap();
    assert!(matches!(wallet.sync(), Err(LightningError::Stopped)));
    drop(wallet);
    driver.stop().unwrap();
}
