//! Hold invoices between two real LDK nodes, on the embedded chain and (`BITCOIND_EXE`) on a real bitcoind.

#![cfg(all(feature = "ldk", feature = "chain"))]

#[macro_use]
mod common;

use common::{Net, event, next, secret, until};
use oda_lightning::{Direction, LightningError, LnEvent, PaymentState, RegtestDriver};

const AMOUNT_MSAT: u64 = 5_000_001;
const HOLD_BLOCKS: u32 = 288;

/// P3, P4, P6: the whole life of a payment that is earned.
fn claim_settles_on_both_sides_to_the_msat(driver: RegtestDriver) {
    let net = Net::new(driver, true);
    let (preimage, hash) = secret(1);
    let bolt11 = net.trainer().hold_invoice(hash, AMOUNT_MSAT, "work", 3600, HOLD_BLOCKS).unwrap();
    // before there is a channel nothing is sent, and the hash is not used up
    assert!(matches!(net.sponsor.pay(&bolt11, hash, AMOUNT_MSAT), Err(LightningError::NoRoute { .. })));
    assert_eq!(net.sponsor.payment_status(hash), None);
    net.open_channel();
    assert!(net.sponsor.has_usable_channel(&net.trainer().node_id(), AMOUNT_MSAT));
    let (sponsor, trainer) = net.balances();
    assert_eq!(trainer, 0);

    assert_eq!(net.trainer().hold_invoice(hash, AMOUNT_MSAT, "work", 3600, HOLD_BLOCKS).unwrap(), bolt11);
    let deadline = net.hold(hash, AMOUNT_MSAT, HOLD_BLOCKS);
    let window = deadline - net.trainer().best_block_height();
    assert!(window >= HOLD_BLOCKS, "P3: {window} blocks to hold, {HOLD_BLOCKS} demanded");
    assert_eq!(net.trainer().payment_status(hash).unwrap().state, PaymentState::Held);
    let sent = net.sponsor.payment_status(hash).unwrap();
    assert_eq!((sent.direction, sent.state), (Direction::Outbound, PaymentState::Pending));
    net.until_balances((sponsor - AMOUNT_MSAT, 0)); // in flight it is nobody's

    // P6: one hash, one payment
    let again = net.sponsor.pay(&bolt11, hash, AMOUNT_MSAT);
    assert!(matches!(again, Err(LightningError::AlreadyPaid { state: PaymentState::Pending, .. })));
    let other = net.trainer().hold_invoice(hash, AMOUNT_MSAT + 1, "work", 3600, HOLD_BLOCKS);
    assert!(matches!(other, Err(LightningError::HashUsed(_))));

    let wrong = net.trainer().claim(hash, secret(2).0);
    assert!(matches!(wrong, Err(LightningError::WrongPreimage(_))));
    assert!(matches!(net.trainer().claim(secret(2).1, secret(2).0), Err(LightningError::NotHeld(_))));
    net.trainer().claim(hash, preimage).unwrap();
    net.trainer().claim(hash, preimage).unwrap();
    assert_eq!(event(net.trainer()), LnEvent::Received { hash, amount_msat: AMOUNT_MSAT });
    assert_eq!(event(&net.sponsor), LnEvent::Sent { hash, preimage: Some(preimage), fee_paid_msat: 0 });
    net.until_balances((sponsor - AMOUNT_MSAT, AMOUNT_MSAT));
    let sent = net.sponsor.payment_status(hash).unwrap();
    assert_eq!((sent.state, sent.preimage), (PaymentState::Succeeded, Some(preimage)));
    assert_eq!(net.trainer().payment_status(hash).unwrap().state, PaymentState::Succeeded);

    // and what is settled stays settled
    assert!(net.trainer().held_payments().is_empty());
    assert!(matches!(net.trainer().fail(hash), Err(LightningError::AlreadyClaimed(_))));
    assert_eq!(net.trainer().payment_status(hash).unwrap().state, PaymentState::Succeeded);
    net.trainer().claim(hash, preimage).unwrap();
    let again = net.sponsor.pay(&bolt11, hash, AMOUNT_MSAT);
    assert!(matches!(again, Err(LightningError::AlreadyPaid { state: PaymentState::Succeeded, .. })));
    let reused = net.trainer().hold_invoice(hash, AMOUNT_MSAT, "work", 3600, HOLD_BLOCKS);
    assert!(matches!(reused, Err(LightningError::HashUsed(_))));
    net.finish();
}

/// P4: a rejected claim costs the sponsor nothing.
fn fail_refunds_the_payer(driver: RegtestDriver) {
    let net = Net::with_channel(driver, true);
    let before = net.balances();
    let (preimage, hash) = secret(3);
    net.hold(hash, AMOUNT_MSAT, HOLD_BLOCKS);
    assert_eq!(net.trainer().held_payments().len(), 1);
    net.trainer().fail(hash).unwrap();
    net.trainer().fail(hash).unwrap();
    assert!(matches!(event(&net.sponsor), LnEvent::SendFailed { hash: h, .. } if h == hash));
    net.until_balances(before);
    assert!(net.trainer().held_payments().is_empty());
    assert_eq!(net.trainer().payment_status(hash).unwrap().state, PaymentState::Failed);
    assert_eq!(net.sponsor.payment_status(hash).unwrap().state, PaymentState::Failed);
    assert!(matches!(net.trainer().claim(hash, preimage), Err(LightningError::AlreadyFailed(_))));
    assert!(matches!(net.trainer().fail(secret(4).1), Err(LightningError::NotHeld(_))));
    let reused = net.trainer().hold_invoice(hash, AMOUNT_MSAT, "work", 3600, HOLD_BLOCKS);
    assert!(matches!(reused, Err(LightningError::HashUsed(_))), "P6: no hash is used twice");
    net.finish();
}

/// P6: a restart between held and claimed neither loses nor doubles the payment.
fn a_restarted_payee_still_claims(driver: RegtestDriver) {
    let mut net = Net::with_channel(driver, true);
    let (sponsor, _) = net.balances();
    let (first, second) = (secret(5), secret(6));
    let deadline = net.hold(first.1, AMOUNT_MSAT, HOLD_BLOCKS); // acknowledged: LDK will not tell again
    let bolt11 = net.trainer().hold_invoice(second.1, AMOUNT_MSAT, "work", 3600, HOLD_BLOCKS).unwrap();
    net.sponsor.pay(&bolt11, second.1, AMOUNT_MSAT).unwrap();
    let not_acknowledged = next(net.trainer());
    assert!(matches!(not_acknowledged, LnEvent::Held { hash, .. } if hash == second.1));
    net.restart_trainer();
    assert_eq!(event(net.trainer()), not_acknowledged, "comes again until it is acknowledged");
    let held = net.trainer().held_payments();
    assert_eq!(held.len(), 2);
    assert!(held.iter().any(|h| h.hash == first.1 && h.claim_deadline_height == deadline && !h.claiming));
    net.reconnect();
    for (preimage, hash) in [first, second] {
        net.trainer().claim(hash, preimage).unwrap();
        assert_eq!(event(net.trainer()), LnEvent::Received { hash, amount_msat: AMOUNT_MSAT });
        assert_eq!(event(&net.sponsor), LnEvent::Sent { hash, preimage: Some(preimage), fee_paid_msat: 0 });
    }
    net.until_balances((sponsor - 2 * AMOUNT_MSAT, 2 * AMOUNT_MSAT));
    assert!(matches!(net.trainer().event_handled(), Err(LightningError::NoEvent)));
    net.finish();
}

/// P3, P4: nobody decides, the deadline does; LDK says nothing, the wallet knows.
fn a_forgotten_payment_goes_back_at_its_deadline(driver: RegtestDriver) {
    let net = Net::with_channel(driver, true);
    let before = net.balances();
    let (preimage, hash) = secret(7);
    let deadline = net.hold(hash, AMOUNT_MSAT, 10);
    net.mine(deadline - 1 - net.trainer().best_block_height());
    assert_eq!(net.trainer().payment_status(hash).unwrap().state, PaymentState::Held, "one block before");
    net.mine(1);
    let late = net.trainer().claim(hash, preimage);
    assert!(matches!(late, Err(LightningError::AlreadyFailed(_) | LightningError::DeadlinePassed { .. })));
    assert!(matches!(event(&net.sponsor), LnEvent::SendFailed { hash: h, .. } if h == hash));
    assert_eq!(net.trainer().payment_status(hash).unwrap().state, PaymentState::Failed);
    assert!(net.trainer().held_payments().is_empty());
    net.until_balances(before);
    net.wait_usable();
    net.finish();
}

/// P4, P7: a payer that goes away cannot keep a claimed payment: the chain enforces it.
fn a_vanished_payer_pays_on_chain(driver: RegtestDriver) {
    let net = Net::with_channel(driver, false);
    let (preimage, hash) = secret(8);
    let amount_sat = 50_000;
    let deadline = net.hold(hash, amount_sat * 1000, 10);
    let had_sat = net.trainer().onchain_total_sat();
    net.sponsor.stop().unwrap();
    until("the payer is missed", || net.trainer().channels().iter().all(|c| !c.usable));
    let refused = net.trainer().close_channels(&net.sponsor.node_id(), false).unwrap_err();
    assert!(matches!(refused, LightningError::PeerAway), "{refused}");
    net.trainer().claim(hash, preimage).unwrap();
    assert_eq!(event(net.trainer()), LnEvent::Received { hash, amount_msat: amount_sat * 1000 });
    // LDK closes the channel when the HTLC comes within 36 blocks of its expiry, three past the deadline
    net.mine(deadline + 3 - net.trainer().best_block_height());
    assert!(matches!(event(net.trainer()), LnEvent::ChannelClosed { .. }));
    let mut mined = 0;
    until("the payment is swept to the trainer", || {
        net.mine(6);
        mined += 6;
        // commitment, HTLC success and sweep cost some fees
        net.trainer().onchain_total_sat() > had_sat + amount_sat - 10_000 || mined > 600
    });
    assert!(mined <= 600, "not swept: {} sat before, {} now", had_sat, net.trainer().onchain_total_sat());
    net.finish();
}

/// A forced close is valid on the chain, and the money comes back.
fn a_forced_close_is_accepted_by_the_chain(driver: RegtestDriver) {
    let net = Net::with_channel(driver, true);
    let (preimage, hash) = secret(9);
    net.hold(hash, AMOUNT_MSAT, HOLD_BLOCKS);
    assert!(net.trainer().carries_unclaimed() && net.sponsor.carries_unclaimed());
    net.trainer().claim(hash, preimage).unwrap();
    assert!(matches!(event(net.trainer()), LnEvent::Received { .. }));
    assert!(matches!(event(&net.sponsor), LnEvent::Sent { .. }));
    until("both have signed for it", || !net.trainer().carries_unclaimed() && !net.sponsor.carries_unclaimed());
    let total_sat = net.sponsor.onchain_total_sat();
    assert_eq!(net.sponsor.closing_sat(), 0);
    net.sponsor.close_channels(&net.trainer().node_id(), true).unwrap();
    assert!(matches!(event(&net.sponsor), LnEvent::ChannelClosed { .. }));
    assert!(net.sponsor.closing_sat() > common::CHANNEL_SAT - 50_000, "{} sat", net.sponsor.closing_sat());
    let mut mined = 0;
    until("the sponsor's share is swept", || {
        net.mine(6);
        mined += 6;
        net.sponsor.onchain_total_sat() > total_sat + common::CHANNEL_SAT - 50_000 || mined > 400
    });
    assert!(mined <= 400, "not swept: {total_sat} sat before, {} now", net.sponsor.onchain_total_sat());
    until("the closing is over", || net.sponsor.closing_sat() == 0);
    net.finish();
}

/// Coins can leave the wallet, or nobody could retire a node; and only to where they can be spent.
fn coins_go_out_on_chain(driver: RegtestDriver) {
    let net = Net::new(driver, false);
    let to = net.trainer().new_address().unwrap();
    let mainnet = "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4"; // BIP 173
    for wrong in [mainnet, "", "bob", &to[1..]] {
        let refused = net.sponsor.send_onchain(wrong, Some(50_000));
        assert!(matches!(refused, Err(LightningError::BadBitcoinAddress(_))), "{wrong}");
    }
    let (had, theirs) = (net.sponsor.onchain_total_sat(), net.trainer().onchain_total_sat());
    let too_much = net.sponsor.send_onchain(&to, Some(had + 1));
    assert!(matches!(too_much, Err(LightningError::TooFewCoins { .. })), "{too_much:?}");
    net.sponsor.send_onchain(&to, Some(50_000)).unwrap();
    net.mine(1);
    assert_eq!(net.trainer().onchain_total_sat(), theirs + 50_000);
    let fee = had - 50_000 - net.sponsor.onchain_total_sat();
    assert!((1..10_000).contains(&fee), "a fee of {fee} sat");
    net.sponsor.send_onchain(&to, None).unwrap();
    net.mine(1);
    assert_eq!(net.sponsor.onchain_total_sat(), 0, "everything: there is no channel to keep coins for");
    assert!(net.trainer().onchain_total_sat() > theirs + had - 20_000);
    net.finish();
}

on_both_chains!(
    coins_go_out_on_chain,
    claim_settles_on_both_sides_to_the_msat,
    fail_refunds_the_payer,
    a_restarted_payee_still_claims,
    a_forgotten_payment_goes_back_at_its_deadline,
    a_vanished_payer_pays_on_chain,
    a_forced_close_is_accepted_by_the_chain,
);
