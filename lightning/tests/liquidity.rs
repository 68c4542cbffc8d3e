//! A first channel for a newcomer without coins (LSPS2), on both chains: payer, provider, newcomer.

#![cfg(all(feature = "ldk", feature = "chain"))]

#[macro_use]
mod common;

use common::{embedded, event, secret, until, wallet_config};
use oda_lightning::bitcoind::free_port;
use oda_lightning::{
    LightningError, LiquidityProvider, LiquidityService, LnEvent, PaymentState, RegtestDriver, Wallet, WalletConfig,
};
use std::net::SocketAddr;
use std::time::Instant;
use tempfile::TempDir;

const CHANNEL_SAT: u64 = 5_000_000;
const FIRST_MSAT: u64 = 20_000_000;
const MAX_FEE_MSAT: u64 = 1_000_000;
const HOLD_BLOCKS: u32 = 144;

/// A payer with a channel to a provider, who has coins left.
struct Town {
    driver: RegtestDriver,
    payer: Wallet,
    provider: Wallet,
    provider_addr: SocketAddr,
    dir: TempDir,
}

impl Town {
    fn new(driver: RegtestDriver, service: LiquidityService) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let payer = Wallet::start(wallet_config(&dir.path().join("payer"), 1, driver.endpoint())).unwrap();
        let provider_addr = free_port().unwrap();
        let config = wallet_config(&dir.path().join("provider"), 2, driver.endpoint());
        let config = WalletConfig { listen: provider_addr, serve_liquidity: Some(service), ..config };
        let provider = Wallet::start(config).unwrap();
        let to = [&payer, &provider].map(|w| (w.new_address().unwrap(), 2 * CHANNEL_SAT));
        driver.fund(&to).unwrap();
        let town = Self { driver, payer, provider, provider_addr, dir };
        town.sync();
        town.payer.open_channel(&town.provider.node_id(), &provider_addr.to_string(), CHANNEL_SAT).unwrap();
        let waiting = || {
            let pool = town.driver.rpc().call("getrawmempool", serde_json::json!([])).unwrap();
            pool.as_array().is_some_and(|p| !p.is_empty())
        };
        until("the payer's channel is funded", waiting);
        town.driver.mine(6).unwrap();
        town.sync();
        until("the payer can pay", || town.payer.has_usable_channel(&town.provider.node_id(), FIRST_MSAT));
        town
    }

    fn sync(&self) {
        let height = u32::try_from(self.driver.height().unwrap()).unwrap();
        for wallet in [&self.payer, &self.provider] {
            until("the wallet has seen the last block", || {
                wallet.sync().unwrap();
                wallet.best_block_height() >= height
            });
        }
    }

    fn newcomer(&self, token: Option<&str>) -> Wallet {
        let config = wallet_config(&self.dir.path().join("newcomer"), 3, self.driver.endpoint());
        let provider = LiquidityProvider {
            node_id: self.provider.node_id(),
            address: self.provider_addr.to_string(),
            token: token.map(Into::into),
        };
        Wallet::start(WalletConfig { liquidity: Some(provider), ..config }).unwrap()
    }

    fn finish(self) {
        let Self { driver, payer, provider, .. } = self;
        drop((payer, provider));
        driver.stop().unwrap();
    }
}

/// From an empty wallet to its first sat: no coins, no channel, nothing set up but the provider's name.
fn a_newcomer_is_paid_over_a_channel_made_for_it(driver: RegtestDriver) {
    let town = Town::new(driver, LiquidityService::default());
    let began = Instant::now();
    let newcomer = town.newcomer(None);
    let started = began.elapsed();
    assert_eq!((newcomer.onchain_total_sat(), newcomer.channels().len()), (0, 0));
    let dear = newcomer.receive_just_in_time(FIRST_MSAT, "first", 600, MAX_FEE_MSAT - 1);
    assert!(matches!(dear, Err(LightningError::OfferTooDear { .. })), "{dear:?}");
    for out_of_limits in [LiquidityService::default().min_payment_msat - 1, 1_000_000_001] {
        let refused = newcomer.receive_just_in_time(out_of_limits, "first", 600, MAX_FEE_MSAT);
        assert!(matches!(refused, Err(LightningError::NoOffer { .. })), "{refused:?}");
    }
    let invoiced = Instant::now();
    let bolt11 = newcomer.receive_just_in_time(FIRST_MSAT, "first", 600, MAX_FEE_MSAT).unwrap();
    let hash = town.payer.pay_invoice(&bolt11, None, None).unwrap();
    let net_msat = FIRST_MSAT - LiquidityService::default().min_fee_msat;
    assert_eq!(event(&newcomer), LnEvent::Received { hash, amount_msat: net_msat });
    let paid = invoiced.elapsed();
    eprintln!("newcomer: wallet started in {started:?}, first payment {paid:?} after asking for it");
    let channel = newcomer.channels().pop().unwrap();
    assert_eq!((channel.usable, channel.opened_by_us), (true, false));
    assert_eq!(channel.capacity_sat, net_msat * 5 / 1000, "five times the first payment");
    assert!(matches!(event(&town.payer), LnEvent::Sent { .. }));
    until("it is the newcomer's", || newcomer.lightning_balance_msat() == net_msat);
    let line = newcomer.history(10).pop().unwrap();
    assert_eq!((line.id, line.state), (hash.to_string(), PaymentState::Succeeded));
    assert_eq!(line.fee_msat, Some(LiquidityService::default().min_fee_msat));
    // and the second payment takes the same channel, without a fee
    let mut hash = None;
    until("the payer finds the way", || {
        let (bolt11, _) = newcomer.receive(5_000_000, "second", 600).unwrap();
        hash = town.payer.pay_invoice(&bolt11, None, None).ok();
        hash.is_some()
    });
    let hash = hash.unwrap();
    assert_eq!(event(&newcomer), LnEvent::Received { hash, amount_msat: 5_000_000 });
    assert_eq!(newcomer.channels().len(), 1);
    drop(newcomer);
    town.finish();
}

/// P3, P4: escrow over a channel that did not exist when the invoice was made.
fn a_payment_is_held_and_claimed_over_a_channel_made_for_it(driver: RegtestDriver) {
    let town = Town::new(driver, LiquidityService { min_fee_msat: 0, fee_ppm: 0, ..LiquidityService::default() });
    let newcomer = town.newcomer(None);
    let (preimage, hash) = secret(1);
    let invoice = |w: &Wallet| w.hold_invoice_just_in_time(hash, FIRST_MSAT, "work", 600, HOLD_BLOCKS, 0);
    let bolt11 = invoice(&newcomer).unwrap();
    assert_eq!(invoice(&newcomer).unwrap(), bolt11, "P6: asked again it is the same");
    town.payer.pay(&bolt11, hash, FIRST_MSAT).unwrap();
    let LnEvent::Held { hash: h, amount_msat, claim_deadline_height } = event(&newcomer) else { panic!() };
    assert_eq!((h, amount_msat), (hash, FIRST_MSAT), "a provider without fee passes on all of it");
    let window = claim_deadline_height - newcomer.best_block_height();
    assert!(window >= HOLD_BLOCKS, "P3: {window} blocks to hold, {HOLD_BLOCKS} demanded");
    // the channel is on the chain while the payment is held, so the lock is more than the provider's word
    let funding = newcomer.channels().pop().unwrap().funding.unwrap();
    let (txid, _) = funding.split_once(':').unwrap();
    let known = || town.driver.rpc().call("getrawtransaction", serde_json::json!([txid])).is_ok();
    until("the channel's funding is broadcast", known);
    town.driver.mine(6).unwrap();
    town.sync();
    assert_eq!(newcomer.payment_status(hash).unwrap().state, PaymentState::Held);
    newcomer.claim(hash, preimage).unwrap();
    assert_eq!(event(&newcomer), LnEvent::Received { hash, amount_msat: FIRST_MSAT });
    assert!(matches!(event(&town.payer), LnEvent::Sent { preimage: Some(p), .. } if p == preimage));

    // P4: and another that is given back
    let (_, hash) = secret(2);
    let before = town.payer.lightning_balance_msat();
    let bolt11 = newcomer.hold_invoice_just_in_time(hash, FIRST_MSAT, "work", 600, HOLD_BLOCKS, 0).unwrap();
    town.payer.pay(&bolt11, hash, FIRST_MSAT).unwrap();
    assert!(matches!(event(&newcomer), LnEvent::Held { hash: h, .. } if h == hash));
    newcomer.fail(hash).unwrap();
    assert!(matches!(event(&town.payer), LnEvent::SendFailed { hash: h, .. } if h == hash));
    until("the payer has it back", || town.payer.lightning_balance_msat() == before);
    drop(newcomer);
    town.finish();
}

fn the_fee_of_a_held_payment_is_kept_by_the_provider(driver: RegtestDriver) {
    let town = Town::new(driver, LiquidityService { token: Some("friends".into()), ..LiquidityService::default() });
    let stranger = town.newcomer(None);
    let refused = stranger.receive_just_in_time(FIRST_MSAT, "first", 600, MAX_FEE_MSAT);
    assert!(matches!(refused, Err(LightningError::NoOffer { .. })), "{refused:?}");
    drop(stranger);
    let newcomer = town.newcomer(Some("friends"));
    let (preimage, hash) = secret(3);
    let bolt11 = newcomer.hold_invoice_just_in_time(hash, FIRST_MSAT, "work", 600, HOLD_BLOCKS, MAX_FEE_MSAT).unwrap();
    town.payer.pay(&bolt11, hash, FIRST_MSAT).unwrap();
    let LnEvent::Held { amount_msat, .. } = event(&newcomer) else { panic!() };
    assert_eq!(amount_msat, FIRST_MSAT - MAX_FEE_MSAT);
    newcomer.claim(hash, preimage).unwrap();
    assert_eq!(event(&newcomer), LnEvent::Received { hash, amount_msat: FIRST_MSAT - MAX_FEE_MSAT });
    drop(newcomer);
    town.finish();
}

#[test]
fn without_a_provider_the_error_says_what_to_do() {
    let driver = embedded(None);
    let dir = tempfile::tempdir().unwrap();
    let wallet = Wallet::start(wallet_config(dir.path(), 4, driver.endpoint())).unwrap();
    let refused = wallet.receive_just_in_time(FIRST_MSAT, "first", 600, MAX_FEE_MSAT);
    assert!(matches!(refused, Err(LightningError::NoProvider)), "{refused:?}");
    drop(wallet);
    let nobody = LiquidityProvider {
        node_id: "02c6047f9441ed7d6d3045406e95c07cd85c778e4b8cef3ca7abac09b95c709ee5".into(),
        address: free_port().unwrap().to_string(),
        token: None,
    };
    let config = WalletConfig { liquidity: Some(nobody), ..wallet_config(dir.path(), 4, driver.endpoint()) };
    let wallet = Wallet::start(config).unwrap();
    let refused = wallet.receive_just_in_time(FIRST_MSAT, "first", 600, MAX_FEE_MSAT);
    assert!(matches!(refused, Err(LightningError::NoOffer { .. })), "{refused:?}");
    drop(wallet);
    driver.stop().unwrap();
}

on_both_chains!(
    a_newcomer_is_paid_over_a_channel_made_for_it,
    a_payment_is_held_and_claimed_over_a_channel_made_for_it,
    the_fee_of_a_held_payment_is_kept_by_the_provider,
);
