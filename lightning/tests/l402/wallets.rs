//! The same over two real wallets on the embedded chain.

use super::common::{Net, embedded};
use super::fake::{body_of, http, request, router, secret, serve, tariff};
use oda_consensus::genesis::BitcoinNetwork;
use oda_consensus::ids::PaymentHash;
use oda_lightning::l402::*;
use oda_lightning::{PaymentState, PaymentStatus};
use std::sync::Arc;
use tower::{Layer as _, Service, ServiceExt as _};

#[test]
fn a_real_invoice_is_paid_once() {
    let net = Net::with_channel(embedded(None), true);
    let Net { driver, sponsor, trainer, .. } = net;
    let (sponsor, trainer) = (Arc::new(sponsor), Arc::new(trainer.unwrap()));
    let hash = super::fake::run(async {
        let layer = L402Layer::new(Terms::new("train"), secret(), Arc::clone(&trainer), tariff).unwrap();
        let addr = serve(router().layer(layer)).await;
        let limits = Limits::new(BitcoinNetwork::Regtest, 20_000);
        let store = Arc::new(MemoryStore::default());
        let paying = L402ClientLayer::with(Arc::clone(&sponsor), Arc::clone(&store), limits, system_clock());
        let mut client = paying.layer(http());
        let mut bodies = Vec::new();
        for _ in 0..2 {
            let response = client.ready().await.unwrap().call(request(&format!("http://{addr}/submit"))).await.unwrap();
            assert_eq!(response.status(), 200);
            bodies.push(body_of(response).await);
        }
        assert_eq!(bodies[0], bodies[1], "one payment for both");
        let hash: PaymentHash = bodies[0].split(' ').next().unwrap().parse().unwrap();
        assert!(matches!(sponsor.outcome(hash).await.unwrap(), Outcome::Paid(p) if p.payment_hash() == hash));
        assert!(trainer.outcome(hash).await.is_err(), "the payee is no payer");

        // a client that lost everything but the record of the invoice finds its payment in the wallet
        let key = TokenKey { origin: format!("http://{addr}"), scope: String::new() };
        let Some(Record::Paid { macaroon, .. }) = store.load(&key).unwrap() else { panic!("no token") };
        let paying_record =
            Record::Paying { macaroon, bolt11: "lnbcrt1".into(), payment_hash: hash, amount_msat: 10_000 };
        store.save(&key, &paying_record).unwrap();
        let response = client.ready().await.unwrap().call(request(&format!("http://{addr}/submit"))).await.unwrap();
        assert_eq!(body_of(response).await, bodies[0]);
        hash
    });
    // (its balance would not show it: so little has no output on chain)
    let taken = |status: PaymentStatus| status.state == PaymentState::Succeeded && status.amount_msat == Some(10_000);
    super::common::until("the trainer has taken it", || trainer.payment_status(hash).is_some_and(taken));
    drop((sponsor, trainer));
    driver.stop().unwrap();
}
