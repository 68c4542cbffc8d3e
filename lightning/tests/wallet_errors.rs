//! What people get wrong when they start a wallet, and that each is told what to do.

#![cfg(all(feature = "ldk", feature = "chain"))]

mod common;

use common::{embedded, wallet_config};
use oda_consensus::genesis::BitcoinNetwork;
use oda_lightning::rpc::RpcError;
use oda_lightning::{ChainSource, LightningError, RpcEndpoint, Wallet, WalletConfig};

#[test]
fn a_wallet_that_cannot_start_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let driver = embedded(None);
    let good = || wallet_config(dir.path(), 3, driver.endpoint());
    let refused = |config: WalletConfig| match Wallet::start(config) {
        Ok(_) => panic!("it started"),
        Err(error) => error,
    };
    let asking = |addr, password: &str| {
        ChainSource::Bitcoind(RpcEndpoint { addr, user: "oda".into(), password: password.into() })
    };
    let nobody = asking(oda_lightning::bitcoind::free_port().unwrap(), "secret");
    let nobody = WalletConfig { chain: nobody, ..good() };
    assert!(matches!(refused(nobody), LightningError::Chain(RpcError::Unreachable { .. })));
    let stranger = WalletConfig { chain: asking(driver.endpoint().addr, "wrong"), ..good() };
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

/// BOLT 11's first example: mainnet, 2017, any amount.
const MAINNET: &str = "lnbc1pvjluezsp5zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygspp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqypqdpl2pkx2ctnv5sxxmmwwd5kgetjypeh2ursdae8g6twvus8g6rfwvs8qun0dfjkxaq9qrsgq357wnc5r2ueh7ck6q93dj32dlqnls087fxdwk8qakdyafkq3yap2r09nt4ndd0unm3z9u5t48y6ucv4r5sg7lk98c77ctvjczkspk5qprc90gx";

#[test]
fn an_invoice_that_cannot_be_paid_says_why_and_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let driver = embedded(None);
    let start = |n: u8| Wallet::start(wallet_config(&dir.path().join(n.to_string()), n, driver.endpoint())).unwrap();
    let (payer, payee) = (start(1), start(2));
    let pay = |bolt11: &str, amount| payer.pay_invoice(bolt11, amount, None);
    let (good, _) = payee.receive(5_000, "work", 3600).unwrap();
    let info = payer.read_invoice(&good).unwrap();
    assert_eq!((info.amount_msat, info.description.as_str(), info.payee), (Some(5_000), "work", payee.node_id()));
    assert!(matches!(pay(&good, Some(4_999)), Err(LightningError::WrongAmount { .. })));
    assert!(matches!(pay(&good, None), Err(LightningError::TooLittle { amount_msat: 5_000, sendable_msat: 0 })));
    assert!(matches!(payee.pay_invoice(&good, None, None), Err(LightningError::OwnInvoice)));
    assert!(matches!(pay(MAINNET, None), Err(LightningError::WrongNetwork { .. })));
    let (brief, _) = payee.receive(5_000, "work", 1).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(2_100));
    assert!(matches!(pay(&brief, None), Err(LightningError::Expired)));
    for malformed in ["", "lnbcrt1", "bitcoin:bcrt1q", &good[1..], &good.replace("lnbcrt50n", "lnbcrt60n")] {
        assert!(matches!(pay(malformed, None), Err(LightningError::InvalidInvoice(_))), "{malformed}");
    }
    let (_, hash) = common::secret(1);
    for none in [0, 2_100_000_000_000_000_001] {
        assert!(matches!(payee.receive(none, "", 60), Err(LightningError::BadAmount { .. })));
        assert!(matches!(payee.hold_invoice(hash, none, "", 60, 10), Err(LightningError::BadAmount { .. })));
    }
    let hash = info.hash;
    assert!(matches!(payer.pay(&good, common::secret(9).1, 5_000), Err(LightningError::WrongHash { .. })));
    assert_eq!(payer.payment_status(hash), None, "nothing was booked, so it can be paid later");
    assert!(payer.history(10).is_empty());
    drop((payer, payee));
    driver.stop().unwrap();
}
