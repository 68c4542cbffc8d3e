//! Channels and held payments while the chain is reorganised, full, or has to decide; on both chains.

#![cfg(all(feature = "ldk", feature = "chain"))]

#[macro_use]
mod common;

use bitcoin::absolute::LockTime;
use bitcoin::consensus::encode::{deserialize_hex, serialize_hex};
use bitcoin::opcodes::OP_TRUE;
use bitcoin::script::Builder;
use bitcoin::transaction::Version;
use bitcoin::{Address, Amount, Block, Network, OutPoint, Transaction, TxIn, TxOut, Witness};
use common::{CHANNEL_SAT, Net, event, secret, until};
use oda_consensus::ids::{PaymentHash, Preimage};
use oda_lightning::chain::{ChainConfig, ChainPolicy};
use oda_lightning::rpc::RpcClient;
use oda_lightning::{LightningError, LnEvent, PaymentState, RegtestDriver, Wallet};
use serde_json::json;

const AMOUNT_MSAT: u64 = 5_000_001;
const HOLD_BLOCKS: u32 = 288;
/// Blocks from the claim deadline until the payer can take the money back on chain (LDK's HTLC_FAIL_BACK_BUFFER).
const CLTV_PAST_DEADLINE: u32 = 39;
/// Most blocks until everything on chain is settled: cltv, 144 blocks of delay, confirmations.
const SETTLED_BLOCKS: u32 = 1_200;

/// Mines until a wallet has so much on chain.
fn mine_until_onchain(net: &Net, wallet: &Wallet, sat: u64) {
    let mut mined = 0;
    while wallet.onchain_total_sat() < sat {
        assert!(mined < SETTLED_BLOCKS, "{} sat on chain, {sat} expected", wallet.onchain_total_sat());
        let blocks = if mined == 16 { 140 } else { 8 }; // most of what LDK waits for is 144 blocks of delay
        net.mine(blocks);
        mined += blocks;
        // a wallet sends what follows from a block a moment after it has seen it
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    eprintln!("on chain after {mined} blocks");
}

fn claim_settles(net: &Net, (preimage, hash): (Preimage, PaymentHash), amount_msat: u64) {
    net.trainer().claim(hash, preimage).unwrap();
    assert_eq!(event(net.trainer()), LnEvent::Received { hash, amount_msat });
    assert_eq!(event(&net.sponsor), LnEvent::Sent { hash, preimage: Some(preimage), fee_paid_msat: 0 });
}

fn a_funding_reorganised_away_comes_back(driver: RegtestDriver) {
    let net = Net::new(driver, false);
    net.propose_channel();
    net.mine(3);
    let funding = net.sponsor.channels()[0].funding.clone().unwrap();
    let txid = funding.split(':').next().unwrap().to_string();
    net.driver.reorg_empty(3, 4).unwrap();
    net.sync();
    let waiting = net.driver.rpc().call("getrawmempool", json!([])).unwrap();
    assert!(waiting.as_array().unwrap().iter().any(|t| *t == *txid), "the funding waits again");
    net.driver.mine_empty(2).unwrap();
    net.sync();
    let ready = |w: &Wallet| w.channels().iter().any(|c| c.ready);
    assert!(!ready(&net.sponsor) && !ready(net.trainer()), "nine blocks, but none with the funding");
    net.mine(6);
    net.wait_usable();
    let secret = secret(1);
    net.hold(secret.1, AMOUNT_MSAT, HOLD_BLOCKS);
    claim_settles(&net, secret, AMOUNT_MSAT);
    net.finish();
}

/// LDK does not wait for the funding of a channel in use to come back: it closes, and all money returns.
fn a_channel_in_use_whose_funding_goes_is_closed_without_loss(driver: RegtestDriver) {
    let net = Net::with_channel(driver, false);
    net.driver.reorg_empty(6, 7).unwrap();
    net.sync();
    assert!(matches!(event(&net.sponsor), LnEvent::ChannelClosed { .. }));
    assert!(matches!(event(net.trainer()), LnEvent::ChannelClosed { .. }));
    mine_until_onchain(&net, &net.sponsor, 2 * CHANNEL_SAT - 20_000);
    net.finish();
}

fn a_held_payment_survives_a_reorganisation(driver: RegtestDriver) {
    let mut net = Net::with_channel(driver, true);
    let (sponsor, _) = net.balances();
    let (first, second) = (secret(2), secret(3));
    let deadline = net.hold(first.1, AMOUNT_MSAT, HOLD_BLOCKS);
    net.mine(4);
    net.driver.reorg(4, 6).unwrap();
    net.sync();
    net.hold(second.1, AMOUNT_MSAT, HOLD_BLOCKS);
    net.driver.reorg(2, 3).unwrap(); // and while the payee is away
    net.restart_trainer();
    net.sync();
    net.reconnect();
    let held = net.trainer().held_payments();
    assert_eq!(held.len(), 2);
    assert!(held.iter().any(|h| h.hash == first.1 && h.claim_deadline_height == deadline));
    assert_eq!(net.trainer().payment_status(first.1).unwrap().state, PaymentState::Held);
    assert_eq!(net.sponsor.payment_status(first.1).unwrap().state, PaymentState::Pending);
    claim_settles(&net, first, AMOUNT_MSAT);
    claim_settles(&net, second, AMOUNT_MSAT);
    net.until_balances((sponsor - 2 * AMOUNT_MSAT, 2 * AMOUNT_MSAT));
    net.finish();
}

/// P4: who has the preimage is paid, even if the channel is closed first and the chain changes its mind.
fn a_closed_channel_pays_the_payee_who_has_the_preimage(driver: RegtestDriver) {
    let net = Net::with_channel(driver, false);
    let (preimage, hash) = secret(4);
    let amount_sat = 500_000;
    net.hold(hash, amount_sat * 1000, HOLD_BLOCKS);
    let had_sat = net.trainer().onchain_total_sat();
    net.trainer().close_channels(&net.sponsor.node_id(), true).unwrap();
    assert!(matches!(event(net.trainer()), LnEvent::ChannelClosed { .. }));
    net.mine(2);
    net.trainer().claim(hash, preimage).unwrap();
    assert_eq!(event(net.trainer()), LnEvent::Received { hash, amount_msat: amount_sat * 1000 });
    net.mine(2);
    // commitment and HTLC success are taken back and confirm again
    net.driver.reorg_empty(4, 5).unwrap();
    net.sync();
    mine_until_onchain(&net, net.trainer(), had_sat + amount_sat - 20_000);
    loop {
        match event(&net.sponsor) {
            LnEvent::ChannelClosed { .. } => {}
            LnEvent::Sent { hash: h, preimage: p, .. } => break assert_eq!((h, p), (hash, Some(preimage))),
            other => panic!("{other:?}"),
        }
    }
    net.finish();
}

/// P4: nobody has the preimage: the payer's money returns when the lock has run out.
fn a_closed_channel_pays_the_payer_back_without_a_preimage(driver: RegtestDriver) {
    let net = Net::with_channel(driver, false);
    let (_, hash) = secret(5);
    let amount_sat = 900_000;
    let deadline = net.hold(hash, amount_sat * 1000, 10);
    net.sponsor.close_channels(&net.trainer().node_id(), true).unwrap();
    assert!(matches!(event(&net.sponsor), LnEvent::ChannelClosed { .. }));
    net.mine(6);
    net.mine(deadline + CLTV_PAST_DEADLINE - net.sponsor.best_block_height());
    mine_until_onchain(&net, &net.sponsor, 2 * CHANNEL_SAT - 20_000);
    assert!(matches!(event(&net.sponsor), LnEvent::SendFailed { hash: h, .. } if h == hash));
    assert!(net.trainer().held_payments().is_empty());
    net.finish();
}

/// P4 under fee pressure: the commitment pays little, and LDK's child on its anchor pulls it through blocks that
/// are full of better payers. (A real bitcoind's blocks are larger than a test can fill.)
#[test]
fn a_forced_close_gets_through_full_blocks() {
    const RATE: u64 = 5; // sat per vbyte
    const FILLERS: usize = 900;
    let policy = ChainPolicy { max_block_weight: 24_000, ..ChainPolicy::default() };
    let driver = RegtestDriver::start_embedded(ChainConfig {
        data_dir: None,
        listen: "127.0.0.1:0".parse().unwrap(),
        rpc_user: "oda".into(),
        rpc_password: "secret".into(),
        policy,
    });
    let net = Net::with_channel(driver.unwrap(), false);
    let (preimage, hash) = secret(6);
    let amount_sat = 500_000;
    net.hold(hash, amount_sat * 1000, HOLD_BLOCKS);
    let rpc = net.driver.rpc();
    let funding = net.sponsor.channels()[0].funding.clone().unwrap();
    let (funding_txid, funding_vout) = funding.split_once(':').unwrap();
    // many coins that anyone may spend, in one block that is as heavy as it must be
    let anyone = Builder::new().push_opcode(OP_TRUE).into_script();
    let address = Address::p2wsh(&anyone, Network::Regtest);
    rpc.call("generatetoaddress", json!([101, address.to_string()])).unwrap();
    net.sync();
    let first = rpc.call_string("getblockhash", json!([net.driver.height().unwrap() - 100])).unwrap();
    let block: Block = deserialize_hex(&rpc.call_string("getblock", json!([first, 0])).unwrap()).unwrap();
    let coin_sat = block.txdata[0].output[0].value.to_sat();
    let spend = |from: OutPoint, to: usize, sat: u64| Transaction {
        version: Version::TWO,
        lock_time: LockTime::ZERO,
        input: vec![TxIn {
            previous_output: from,
            witness: Witness::from_slice(&[anyone.as_bytes()]),
            ..TxIn::default()
        }],
        output: vec![TxOut { value: Amount::from_sat(sat), script_pubkey: address.script_pubkey() }; to],
    };
    let each_sat = (coin_sat - 1_000_000) / FILLERS as u64;
    let split = spend(OutPoint::new(block.txdata[0].compute_txid(), 0), FILLERS, each_sat);
    rpc.call("generateblock", json!([address.to_string(), [serialize_hex(&split)]])).unwrap();
    let vbytes = spend(OutPoint::null(), 1, 0).vsize() as u64;
    for vout in 0..FILLERS {
        let from = OutPoint::new(split.compute_txid(), u32::try_from(vout).unwrap());
        let filler = spend(from, 1, each_sat - RATE * vbytes);
        rpc.call("sendrawtransaction", json!([serialize_hex(&filler), 0])).unwrap();
    }
    let estimate = |rpc: &RpcClient| rpc.call("estimatesmartfee", json!([6])).unwrap()["feerate"].as_f64().unwrap();
    assert!(estimate(&rpc) > 0.000_05, "blocks are full: {} BTC per 1,000 vbytes", estimate(&rpc));
    net.mine(1); // LDK asks for fees after a new block
    std::thread::sleep(std::time::Duration::from_secs(5));
    net.trainer().close_channels(&net.sponsor.node_id(), true).unwrap();
    assert!(matches!(event(net.trainer()), LnEvent::ChannelClosed { .. }));
    let closed =
        || rpc.call("gettxout", json!([funding_txid, funding_vout.parse::<u32>().unwrap(), false])).unwrap().is_null();
    let mut blocks = 0;
    until("the commitment is in a block", || {
        std::thread::sleep(std::time::Duration::from_millis(500)); // for LDK to send
        net.mine(1);
        blocks += 1;
        closed() || blocks == 12
    });
    let waiting = rpc.call("getmempoolinfo", json!([])).unwrap()["bytes"].as_u64().unwrap();
    assert!(closed() && waiting * 4 > policy.max_block_weight, "{blocks} blocks, {waiting} vbytes wait");
    eprintln!("closed within {blocks} full blocks, {waiting} vbytes still waiting");
    let had_sat = net.trainer().onchain_total_sat();
    net.trainer().claim(hash, preimage).unwrap();
    assert_eq!(event(net.trainer()), LnEvent::Received { hash, amount_msat: amount_sat * 1000 });
    mine_until_onchain(&net, net.trainer(), had_sat + amount_sat - 30_000);
    net.finish();
}

/// LDK carries 50 payments per direction: the next one is refused at once and clearly.
fn fifty_payments_are_held_and_no_more(driver: RegtestDriver) {
    const AMOUNT_MSAT: u64 = 2_000_000;
    let net = Net::with_channel(driver, true);
    let (sponsor, _) = net.balances();
    let pay = |n: u8| {
        let hash = secret(n).1;
        let bolt11 = net.trainer().hold_invoice(hash, AMOUNT_MSAT, "work", 3600, HOLD_BLOCKS).unwrap();
        net.sponsor.pay(&bolt11, hash, AMOUNT_MSAT)
    };
    for n in 1..=50 {
        pay(n).unwrap();
    }
    for _ in 1..=50 {
        assert!(matches!(event(net.trainer()), LnEvent::Held { .. }));
    }
    assert_eq!(net.trainer().held_payments().len(), 50);
    let refused = pay(51);
    assert!(matches!(refused, Err(LightningError::NoRoute { .. })), "{refused:?}");
    assert!(refused.unwrap_err().to_string().contains("no channel can carry"));
    // half are earned, half are not
    for n in 1..=50 {
        let (preimage, hash) = secret(n);
        if n % 2 == 0 { net.trainer().claim(hash, preimage).unwrap() } else { net.trainer().fail(hash).unwrap() }
    }
    let (mut sent, mut failed) = (0, 0);
    while sent + failed < 50 {
        match event(&net.sponsor) {
            LnEvent::Sent { .. } => sent += 1,
            LnEvent::SendFailed { .. } => failed += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((sent, failed), (25, 25));
    net.until_balances((sponsor - 25 * AMOUNT_MSAT, 25 * AMOUNT_MSAT));
    for _ in 0..25 {
        assert!(matches!(event(net.trainer()), LnEvent::Received { .. }));
    }
    pay(51).unwrap();
    until("it is held", || {
        net.trainer().held_payments().len() == 1 || matches!(event(net.trainer()), LnEvent::Held { .. })
    });
    net.finish();
}

on_both_chains!(
    a_funding_reorganised_away_comes_back,
    a_channel_in_use_whose_funding_goes_is_closed_without_loss,
    a_held_payment_survives_a_reorganisation,
    a_closed_channel_pays_the_payee_who_has_the_preimage,
    a_closed_channel_pays_the_payer_back_without_a_preimage,
    fifty_payments_are_held_and_no_more,
);
