//! What Lightning alone takes for the steps of an escrow: wallets of one process, real LDK, the embedded chain.
//!
//! `cargo bench --workspace --bench payments`; `-- --quick` for a look. The network around it is measured by
//! `testnet bench --only payments`.

#[path = "../tests/common/mod.rs"]
mod common;

use common::{embedded, event, until, wallet_config};
use oda_consensus::ids::{PaymentHash, Preimage};
use oda_lightning::bitcoind::free_port;
use oda_lightning::{LiquidityProvider, LiquidityService, LnEvent, RegtestDriver, Wallet, WalletConfig};
use std::cell::Cell;
use std::path::Path;
use std::time::Instant;

const CHANNEL_SAT: u64 = 10_000_000;
const AMOUNT_MSAT: u64 = 2_000_000;
const HOLD_BLOCKS: u32 = 144;
/// Payments one channel carries at once.
const AT_ONCE: u64 = 50;
const CHANNELS: usize = 4;

/// A wallet with its address.
struct Party {
    wallet: Wallet,
    address: String,
}

struct Town {
    driver: RegtestDriver,
    payer: Party,
    hub: Party,
    /// Each with a channel from the payer.
    near: Vec<Party>,
    /// With a channel from the hub.
    far: Party,
    number: Cell<u64>,
}

impl Town {
    fn new(dir: &Path) -> Self {
        let driver = embedded(None);
        let start = |name: &str, seed: u8, trusted: &[&Party], service: Option<LiquidityService>| {
            let listen = free_port().expect("a free port");
            let trusted_peers = trusted.iter().map(|p| p.wallet.node_id()).collect();
            let config = wallet_config(&dir.join(name), seed, driver.endpoint());
            let config = WalletConfig { listen, trusted_peers, serve_liquidity: service, ..config };
            Party { wallet: Wallet::start(config).expect("a wallet"), address: listen.to_string() }
        };
        let payer = start("payer", 1, &[], None);
        let hub = start("hub", 2, &[&payer], Some(LiquidityService::default()));
        let near = (0..CHANNELS).map(|i| start(&format!("near-{i}"), 10 + i as u8, &[&payer], None)).collect();
        let far = start("far", 3, &[&hub], None);
        let town = Self { payer, hub, near, far, driver, number: Cell::new(0) };
        for party in [&town.payer, &town.hub] {
            let address = party.wallet.new_address().expect("an address");
            town.driver.fund(&[(address, (CHANNELS as u64 + 2) * CHANNEL_SAT)]).expect("coins");
        }
        town.sync();
        town.near.iter().chain([&town.hub]).for_each(|to| town.open(&town.payer, to));
        town.open(&town.hub, &town.far);
        town
    }

    fn all(&self) -> impl Iterator<Item = &Party> {
        [&self.payer, &self.hub, &self.far].into_iter().chain(&self.near)
    }

    fn sync(&self) {
        let height = u32::try_from(self.driver.height().expect("a height")).expect("a height");
        for party in self.all() {
            until("the wallet has seen the last block", || {
                party.wallet.sync().is_ok() && party.wallet.best_block_height() >= height
            });
        }
    }

    fn open(&self, from: &Party, to: &Party) {
        let id = to.wallet.node_id();
        from.wallet.open_channel(&id, &to.address, CHANNEL_SAT).expect("a channel");
        let pool = || self.driver.rpc().call("getrawmempool", serde_json::json!([])).expect("the pool");
        until("the channel is funded", || pool().as_array().is_some_and(|p| !p.is_empty()));
        self.driver.mine(6).expect("blocks");
        self.sync();
        until("the channel is usable", || from.wallet.has_usable_channel(&id, AMOUNT_MSAT));
    }

    fn secret(&self) -> (Preimage, PaymentHash) {
        self.number.set(self.number.get() + 1);
        let mut bytes = [7; 32];
        bytes[..8].copy_from_slice(&self.number.get().to_be_bytes());
        (Preimage(bytes), Preimage(bytes).payment_hash())
    }

    /// An invoice of `to`, paid but not waited for.
    fn pay(&self, to: &Party) -> (Preimage, PaymentHash) {
        let (preimage, hash) = self.secret();
        let bolt11 = to.wallet.hold_invoice(hash, AMOUNT_MSAT, "bench", 3600, HOLD_BLOCKS).expect("an invoice");
        until("the payer finds the way", || self.payer.wallet.pay(&bolt11, hash, AMOUNT_MSAT).is_ok());
        (preimage, hash)
    }

    fn held(&self, at: &Party) {
        assert!(matches!(event(&at.wallet), LnEvent::Held { .. }));
    }

    fn ended(&self) {
        let end = event(&self.payer.wallet);
        assert!(matches!(end, LnEvent::Sent { .. } | LnEvent::SendFailed { .. }), "{end:?}");
    }

    /// One payment after the other. Milliseconds from payment to hold, and from claim (or fail) to the payer's word.
    fn one_by_one(&self, to: &Party, payments: usize, earned: bool) -> (Vec<f64>, Vec<f64>) {
        let one = |_| {
            let start = Instant::now();
            let (preimage, hash) = self.pay(to);
            self.held(to);
            let (hold, start) = (ms(start), Instant::now());
            if earned {
                to.wallet.claim(hash, preimage).expect("a claim");
            } else {
                to.wallet.fail(hash).expect("a refusal");
            }
            self.ended();
            let end = ms(start);
            if earned {
                assert!(matches!(event(&to.wallet), LnEvent::Received { .. }));
            }
            (hold, end)
        };
        (0..payments).map(one).unzip()
    }

    /// As many at once as the channels to these carry. Payments a second held, and settled.
    fn at_once(&self, to: &[Party]) -> (f64, f64) {
        let start = Instant::now();
        let mut open = Vec::new();
        for _ in 0..AT_ONCE {
            open.extend(to.iter().map(|party| (party, self.pay(party))));
        }
        open.iter().for_each(|(party, _)| self.held(party));
        let (held, start) = (start.elapsed().as_secs_f64(), Instant::now());
        for (party, (preimage, hash)) in &open {
            party.wallet.claim(*hash, *preimage).expect("a claim");
        }
        open.iter().for_each(|_| self.ended());
        let settled = start.elapsed().as_secs_f64();
        for (party, _) in &open {
            assert!(matches!(event(&party.wallet), LnEvent::Received { .. }));
        }
        let n = open.len() as f64;
        (n / held, n / settled)
    }

    /// Seconds from nothing to the first payment held, over a channel that is opened for it (LSPS2).
    fn newcomer(&self, dir: &Path, seed: u8) -> (f64, f64) {
        let start = Instant::now();
        let config = wallet_config(&dir.join(format!("newcomer-{seed}")), seed, self.driver.endpoint());
        let node_id = self.hub.wallet.node_id();
        let provider = LiquidityProvider { node_id, address: self.hub.address.clone(), token: None };
        let wallet = Wallet::start(WalletConfig { liquidity: Some(provider), ..config }).expect("a wallet");
        let started = start.elapsed().as_secs_f64();
        let service = LiquidityService::default();
        let amount_msat = service.min_payment_msat.max(20_000_000);
        let bolt11 = wallet.receive_just_in_time(amount_msat, "bench", 3600, amount_msat / 2).expect("an invoice");
        until("the payer finds the way", || self.payer.wallet.pay_invoice(&bolt11, None, None).is_ok());
        assert!(matches!(event(&wallet), LnEvent::Received { .. }));
        let paid = start.elapsed().as_secs_f64();
        self.ended();
        (started, paid)
    }
}

fn ms(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

/// The value that `percent` of these do not exceed.
fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1]
}

fn row(what: &str, values: &[f64]) {
    println!("| {what} | {} | {:.1} | {:.1} |", values.len(), percentile(values, 50), percentile(values, 99));
}

fn main() {
    let quick = std::env::args().any(|a| a == "--quick");
    let payments = if quick { 20 } else { 200 };
    let dir = tempfile::tempdir().expect("a directory");
    let town = Town::new(dir.path());
    let near = &town.near[0];
    town.one_by_one(near, 3, true); // caches, and the first commitments of fresh channels
    town.one_by_one(&town.far, 3, true);

    println!(
        "\n### Lightning alone (`cargo bench --bench payments`)\n\nWallets of one process, embedded chain, one payment after the other:\n"
    );
    println!("| | payments | p50 ms | p99 ms |\n|---|---|---|---|");
    let (held, claimed) = town.one_by_one(near, payments, true);
    row("one hop: invoice and payment -> held", &held);
    row("one hop: claim -> payer sees it settled", &claimed);
    let (_, failed) = town.one_by_one(near, payments / 4, false);
    row("one hop: given back -> payer sees it", &failed);
    let (held, claimed) = town.one_by_one(&town.far, payments, true);
    row("two hops: invoice and payment -> held", &held);
    row("two hops: claim -> payer sees it settled", &claimed);
    let (_, failed) = town.one_by_one(&town.far, payments / 4, false);
    row("two hops: given back -> payer sees it", &failed);

    println!("\n{AT_ONCE} payments a channel at once:\n\n| channels | held/s | settled/s |\n|---|---|---|");
    for channels in [1, CHANNELS] {
        let (held, settled) = town.at_once(&town.near[..channels]);
        println!("| {channels} | {held:.0} | {settled:.0} |");
    }
    let times: Vec<(f64, f64)> = (0..if quick { 1 } else { 5 }).map(|i| town.newcomer(dir.path(), 50 + i)).collect();
    let (started, paid): (Vec<f64>, Vec<f64>) = times.into_iter().unzip();
    println!(
        "\nA newcomer without coins or channels: wallet up {:.1} s after its start, first payment after {:.1} s \
         (LSPS2, medians of {}).\n",
        percentile(&started, 50),
        percentile(&paid, 50),
        paid.len()
    );
}
