//! The client: pays what it may, once, and remembers.

use super::fake::*;
use axum::Router;
use axum::body::Body;
use http::header::WWW_AUTHENTICATE;
use http::{Response, StatusCode};
use lightning_invoice::Currency;
use oda_consensus::genesis::BitcoinNetwork;
use oda_lightning::l402::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use tower::{Layer as _, Service, ServiceExt as _};

fn limits() -> Limits {
    Limits::new(BitcoinNetwork::Regtest, 2 * PRICE_MSAT)
}

type Paying = L402Client<Router, Fake, MemoryStore>;

fn client(fake: &Fake, store: &Arc<MemoryStore>) -> Paying {
    L402ClientLayer::with(fake.clone(), Arc::clone(store), limits(), fake.clock()).layer(app(fake))
}

const SUBMIT: &str = "http://trainer.test/submit";

async fn get(client: &Paying, uri: &str) -> Result<Response<Body>, ClientError> {
    client.clone().oneshot(request(uri)).await
}

fn key() -> TokenKey {
    TokenKey { origin: "http://trainer.test".into(), scope: String::new() }
}

/// Runs until its payment hangs, and then gives up on it: a crash in the middle.
async fn crash<F: Future>(fake: &Fake, future: F) {
    tokio::select! {
        _ = future => panic!("it was to hang"),
        () = fake.hangs.notified() => {}
    }
}

#[test]
fn over_real_http_a_request_is_paid_once_and_then_served() {
    run(async {
        let fake = Fake::new();
        let addr = serve(app(&fake)).await;
        let paying = L402ClientLayer::with(fake.clone(), Arc::new(MemoryStore::default()), limits(), fake.clock());
        let mut client = paying.layer(http());
        for _ in 0..3 {
            let response = client.ready().await.unwrap().call(request(&format!("http://{addr}/submit"))).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            assert!(body_of(response).await.ends_with(" work"), "the body was sent again");
        }
        assert_eq!(fake.sent(), 1);
        let response = client.ready().await.unwrap().call(request(&format!("http://{addr}/free"))).await.unwrap();
        assert_eq!(body_of(response).await, "true");
    });
}

#[test]
fn sixteen_requests_at_once_pay_once() {
    run(async {
        let fake = Fake::new();
        let store = Arc::new(MemoryStore::default());
        let client = client(&fake, &store);
        let tasks: Vec<_> = (0..16)
            .map(|_| {
                let client = client.clone();
                tokio::spawn(async move { get(&client, SUBMIT).await.unwrap().status() })
            })
            .collect();
        for task in tasks {
            assert_eq!(task.await.unwrap(), StatusCode::OK);
        }
        assert_eq!(fake.sent(), 1);
        assert!(fake.books.lock().unwrap().len() > 1, "more than one was asked to pay");
    });
}

#[test]
fn scopes_and_origins_have_tokens_of_their_own() {
    run(async {
        let fake = Fake::new();
        let client = client(&fake, &Arc::default());
        let scoped = |path: &str| {
            let mut request = request(&format!("http://trainer.test/{path}"));
            request.extensions_mut().insert(Scope(path.into()));
            client.clone().oneshot(request)
        };
        for _ in 0..2 {
            assert_eq!(scoped("submit").await.unwrap().status(), StatusCode::OK);
            assert_eq!(scoped("status").await.unwrap().status(), StatusCode::OK);
        }
        assert_eq!(fake.sent(), 2);
        get(&client, "http://other.test/submit").await.unwrap();
        assert_eq!(fake.sent(), 3, "a token goes to its origin alone");
        assert!(matches!(get(&client, "/submit").await, Err(ClientError::NoOrigin)));
    });
}

#[test]
fn nothing_is_paid_that_was_not_agreed() {
    run(async {
        let attempt = async |fake: &Fake| {
            let store = Arc::new(MemoryStore::default());
            let error = get(&client(fake, &store), SUBMIT).await.unwrap_err();
            assert_eq!(fake.sent(), 0);
            assert_eq!(store.load(&key()).unwrap(), None);
            error
        };
        let fake = Fake::new();
        *fake.amount.lock().unwrap() = Some(Some(2 * PRICE_MSAT + 1));
        assert!(matches!(attempt(&fake).await, ClientError::TooExpensive { amount_msat: 20_001, max_msat: 20_000 }));
        *fake.amount.lock().unwrap() = Some(None);
        assert!(matches!(attempt(&fake).await, ClientError::NoAmount));
        let mainnet = Fake { currency: Currency::Bitcoin, ..Fake::new() };
        assert!(matches!(attempt(&mainnet).await, ClientError::WrongNetwork { .. }));

        // servers that answer what they like
        let fake = Fake::new();
        let answer = async |token: &Token, bolt11: &str| {
            let headers = Challenge { token: token.clone(), bolt11: bolt11.into() }.to_headers().unwrap();
            let respond = move || {
                let value = headers[0].clone();
                async move { (StatusCode::PAYMENT_REQUIRED, [(WWW_AUTHENTICATE, value)]) }
            };
            let server = Router::new().fallback(respond);
            let store = Arc::new(MemoryStore::default());
            let layer = L402ClientLayer::with(fake.clone(), store, limits(), fake.clock());
            let error = layer.layer(server).oneshot(request(SUBMIT)).await.unwrap_err();
            assert_eq!(fake.sent(), 0);
            error
        };
        let (mine, others) = (fake.make(Some(PRICE_MSAT), 600), fake.make(Some(PRICE_MSAT), 600));
        let token_id = TokenId([9; 32]);
        let root = keys().root_key(&token_id).unwrap();
        let token = Token::mint(&root, "x", Identifier { payment_hash: mine.payment_hash, token_id }).unwrap();
        assert!(matches!(answer(&token, &others.bolt11).await, ClientError::HashMismatch { .. }));
        assert!(matches!(answer(&token, "lnbcrt1nonsense").await, ClientError::BadInvoice(_)));
        fake.later(600_000);
        assert!(matches!(answer(&token, &mine.bolt11).await, ClientError::InvoiceExpired { .. }));
    });
}

#[test]
fn an_answer_402_of_another_kind_is_the_callers() {
    run(async {
        let fake = Fake::new();
        let respond = async |header: &'static str| {
            let respond = move || async move { (StatusCode::PAYMENT_REQUIRED, [(WWW_AUTHENTICATE, header)]) };
            let layer = L402ClientLayer::with(fake.clone(), Arc::new(MemoryStore::default()), limits(), fake.clock());
            layer.layer(Router::new().fallback(respond)).oneshot(request(SUBMIT)).await
        };
        assert_eq!(respond("Basic realm=\"x\"").await.unwrap().status(), StatusCode::PAYMENT_REQUIRED);
        assert!(matches!(respond("L402 macaroon=\"AgEE\"").await, Err(ClientError::BadChallenge(_))));
        assert!(matches!(respond("L402 macaroon=\"AgEE\", invoice=\"l\"").await, Err(ClientError::BadChallenge(_))));
    });
}

/// P6: stored before paying, so that whoever comes back asks the wallet first.
#[test]
fn a_crash_after_the_payment_does_not_pay_twice() {
    run(async {
        let fake = Fake::new();
        let store = Arc::new(MemoryStore::default());
        fake.set(Mode::PaysAndHangs);
        crash(&fake, get(&client(&fake, &store), SUBMIT)).await;
        assert_eq!(fake.sent(), 1);
        assert!(matches!(store.load(&key()).unwrap(), Some(Record::Paying { .. })));

        fake.set(Mode::Pays);
        let restarted = client(&fake, &store);
        assert_eq!(get(&restarted, SUBMIT).await.unwrap().status(), StatusCode::OK);
        assert_eq!(fake.sent(), 1, "the token of the first payment serves");
        assert!(matches!(store.load(&key()).unwrap(), Some(Record::Paid { .. })));
    });
}

#[test]
fn a_crash_before_the_payment_pays_the_stored_invoice() {
    run(async {
        let fake = Fake::new();
        let store = Arc::new(MemoryStore::default());
        fake.set(Mode::HangsBefore);
        crash(&fake, get(&client(&fake, &store), SUBMIT)).await;
        assert_eq!(fake.sent(), 0);
        let Some(Record::Paying { payment_hash, .. }) = store.load(&key()).unwrap() else { panic!("not stored") };
        fake.set(Mode::Pays);
        get(&client(&fake, &store), SUBMIT).await.unwrap();
        assert_eq!(fake.sent(), 1);
        assert_eq!(fake.books.lock().unwrap()[&payment_hash].sent, 1, "that one, no second");

        // and a new one if it expired meanwhile
        let store = Arc::new(MemoryStore::default());
        fake.set(Mode::HangsBefore);
        crash(&fake, get(&client(&fake, &store), SUBMIT)).await;
        fake.later(600_000);
        fake.set(Mode::Pays);
        get(&client(&fake, &store), SUBMIT).await.unwrap();
        assert_eq!(fake.sent(), 2);
    });
}

#[test]
fn an_error_of_the_wallet_is_no_reason_to_pay_again() {
    run(async {
        let fake = Fake::new();
        let store = Arc::new(MemoryStore::default());
        let client = client(&fake, &store);
        fake.set(Mode::ErrorWhilePending);
        for _ in 0..3 {
            assert!(matches!(get(&client, SUBMIT).await, Err(ClientError::PaymentPending { .. })));
            fake.set(Mode::Pays);
        }
        assert_eq!(fake.sent(), 1);
        let forgotten = L402ClientLayer::with(fake.clone(), Arc::clone(&store), limits(), fake.clock());
        assert!(matches!(forgotten.forget(&key()).await, Err(ClientError::PaymentPending { .. })), "nor to forget it");
        // it arrives late
        for payment in fake.books.lock().unwrap().values_mut().filter(|p| p.sent == 1) {
            payment.outcome = Outcome::Paid(payment.preimage);
        }
        get(&client, SUBMIT).await.unwrap();
        assert_eq!(fake.sent(), 1);

        // one that fails for good is replaced
        let (fake, store) = (Fake::new(), Arc::new(MemoryStore::default()));
        let client = self::client(&fake, &store);
        fake.set(Mode::NoRoute);
        assert!(matches!(get(&client, SUBMIT).await, Err(ClientError::PaymentFailed { .. })));
        assert_eq!(store.load(&key()).unwrap(), None);
        fake.set(Mode::Pays);
        get(&client, SUBMIT).await.unwrap();
        assert_eq!(fake.sent(), 1);
        let (fake, store) = (Fake::new(), Arc::new(MemoryStore::default()));
        fake.set(Mode::WrongPreimage);
        assert!(matches!(get(&self::client(&fake, &store), SUBMIT).await, Err(ClientError::WrongPreimage(_))));
    });
}

/// A server that takes money for ever gets one price in a token's least life.
#[test]
fn a_server_that_refuses_paid_tokens_is_not_paid_again() {
    run(async {
        let fake = Fake::new();
        let asked = Arc::new(AtomicU32::new(0));
        let (issuer, count) = (fake.clone(), Arc::clone(&asked));
        let refuse = move || {
            count.fetch_add(1, SeqCst);
            let made = issuer.make(Some(PRICE_MSAT), 600);
            let token_id = TokenId([9; 32]);
            let key = keys().root_key(&token_id).unwrap();
            let token = Token::mint(&key, "x", Identifier { payment_hash: made.payment_hash, token_id }).unwrap();
            let [value, _] = Challenge { token, bolt11: made.bolt11 }.to_headers().unwrap();
            async move { (StatusCode::PAYMENT_REQUIRED, [(WWW_AUTHENTICATE, value)]) }
        };
        let layer = L402ClientLayer::with(fake.clone(), Arc::new(MemoryStore::default()), limits(), fake.clock());
        let client = layer.layer(Router::new().fallback(refuse));
        for i in 0..5 {
            let error = client.clone().oneshot(request(SUBMIT)).await.unwrap_err();
            assert!(matches!(error, ClientError::RefusedAfterPayment { .. }), "{error}");
            assert_eq!(fake.sent(), 1, "after request {i}");
        }
        assert_eq!(asked.load(SeqCst), 2 + 4, "the first is repeated once, the others not");
        fake.later(limits().min_token_life_ms);
        client.clone().oneshot(request(SUBMIT)).await.unwrap_err();
        assert_eq!(fake.sent(), 2);
    });
}

#[test]
fn an_expired_token_is_replaced() {
    run(async {
        let fake = Fake::new();
        let client = client(&fake, &Arc::default());
        get(&client, SUBMIT).await.unwrap();
        fake.later(3_600_000);
        assert_eq!(get(&client, SUBMIT).await.unwrap().status(), StatusCode::OK);
        assert_eq!(fake.sent(), 2);
    });
}

/// Fails at a chosen write.
struct Failing {
    inner: MemoryStore,
    saves_left: AtomicU32,
}

impl TokenStore for Failing {
    fn load(&self, key: &TokenKey) -> Result<Option<Record>, StoreError> {
        self.inner.load(key)
    }
    fn save(&self, key: &TokenKey, record: &Record) -> Result<(), StoreError> {
        if self.saves_left.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_err() {
            return Err(StoreError::Full(0));
        }
        self.inner.save(key, record)
    }
    fn remove(&self, key: &TokenKey) -> Result<(), StoreError> {
        self.inner.remove(key)
    }
}

#[test]
fn without_a_store_nothing_is_paid_and_nothing_used() {
    run(async {
        for (saves, sent) in [(0, 0), (1, 1)] {
            let fake = Fake::new();
            let store = Arc::new(Failing { inner: MemoryStore::default(), saves_left: AtomicU32::new(saves) });
            let layer = L402ClientLayer::with(fake.clone(), Arc::clone(&store), limits(), fake.clock());
            let client = layer.layer(app(&fake));
            let error = client.clone().oneshot(request(SUBMIT)).await.unwrap_err();
            assert!(matches!(error, ClientError::Store(_)), "{error}");
            assert_eq!(fake.sent(), sent);
            store.saves_left.store(10, SeqCst);
            client.oneshot(request(SUBMIT)).await.unwrap();
            assert_eq!(fake.sent(), 1, "what was paid before the disk filled up is used after");
        }
    });
}

#[test]
fn files_survive_a_restart_and_damage_is_noticed() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let fake = Fake::new();
        for _ in 0..2 {
            let store = Arc::new(FileStore::open(dir.path()).unwrap());
            let layer = L402ClientLayer::with(fake.clone(), store, limits(), fake.clock());
            layer.layer(app(&fake)).oneshot(request(SUBMIT)).await.unwrap();
        }
        assert_eq!(fake.sent(), 1);
        let file = std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600, "a token is money");
        let text = std::fs::read(&file).unwrap();
        std::fs::write(&file, &text[..text.len() / 2]).unwrap();
        let store = FileStore::open(dir.path()).unwrap();
        assert!(matches!(store.load(&key()), Err(StoreError::Damaged { .. })));
        let layer = L402ClientLayer::with(fake.clone(), Arc::new(store), limits(), fake.clock());
        assert!(layer.layer(app(&fake)).oneshot(request(SUBMIT)).await.is_err());
        assert_eq!(fake.sent(), 1);
        layer.forget(&key()).await.unwrap_err();
    });
}
