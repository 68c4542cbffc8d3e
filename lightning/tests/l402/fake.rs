//! A Lightning network of one process with real bolt11 invoices, a server behind the layer, and a client.

use axum::body::Bytes;
use axum::routing::{get, post};
use axum::{Extension, Router};
use bitcoin::hashes::{Hash as _, sha256};
use bitcoin::secp256k1::{Secp256k1, SecretKey};
use http::request::Parts;
use http::{Request, Response};
use http_body_util::Full;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo};
use lightning_invoice::{Bolt11Invoice, Currency, InvoiceBuilder, PaymentSecret};
use oda_consensus::genesis::BitcoinNetwork;
use oda_consensus::ids::{PaymentHash, Preimage};
use oda_lightning::l402::*;
use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use zeroize::Zeroizing;

/// 2027, ms.
pub const NOW_MS: u64 = 1_800_000_000_000;
pub const PRICE_MSAT: u64 = 10_000;

/// How the payer behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Pays,
    /// The payment goes out, the answer is an error, and it is under way for ever.
    ErrorWhilePending,
    /// The payment succeeds, but nobody is told: the caller hangs.
    PaysAndHangs,
    /// Hangs before anything is sent.
    HangsBefore,
    /// Nothing is sent.
    NoRoute,
    /// Gives a preimage that is none.
    WrongPreimage,
}

pub struct Payment {
    pub preimage: Preimage,
    pub outcome: Outcome,
    pub sent: u32,
}

/// Both ends of the network.
#[derive(Clone)]
pub struct Fake {
    pub books: Arc<Mutex<BTreeMap<PaymentHash, Payment>>>,
    pub now_ms: Arc<AtomicU64>,
    pub mode: Arc<Mutex<Mode>>,
    pub currency: Currency,
    /// What the invoices ask for in place of the price.
    pub amount: Arc<Mutex<Option<Option<u64>>>>,
    pub serial: Arc<AtomicU64>,
    /// Told when a payment hangs.
    pub hangs: Arc<tokio::sync::Notify>,
}

impl Fake {
    pub fn new() -> Self {
        Self {
            books: Arc::default(),
            now_ms: Arc::new(AtomicU64::new(NOW_MS)),
            mode: Arc::new(Mutex::new(Mode::Pays)),
            currency: Currency::Regtest,
            amount: Arc::default(),
            serial: Arc::default(),
            hangs: Arc::default(),
        }
    }

    pub fn clock(&self) -> Clock {
        let now_ms = Arc::clone(&self.now_ms);
        Arc::new(move || now_ms.load(SeqCst))
    }

    pub fn later(&self, ms: u64) {
        self.now_ms.fetch_add(ms, SeqCst);
    }

    pub fn set(&self, mode: Mode) {
        *self.mode.lock().unwrap() = mode;
    }

    /// Payments that left the wallet, in all; no hash may have two.
    pub fn sent(&self) -> u32 {
        let books = self.books.lock().unwrap();
        assert!(books.values().all(|p| p.sent <= 1), "an invoice was paid twice");
        books.values().map(|p| p.sent).sum()
    }

    async fn hang<T>(&self) -> T {
        self.hangs.notify_one();
        std::future::pending().await
    }

    pub fn make(&self, amount_msat: Option<u64>, expiry_s: u32) -> IssuedInvoice {
        let mut seed = [0x5a; 32];
        seed[..8].copy_from_slice(&self.serial.fetch_add(1, SeqCst).to_be_bytes());
        let preimage = Preimage(seed);
        let payment_hash = preimage.payment_hash();
        let key = SecretKey::from_slice(&[7; 32]).unwrap();
        let builder = InvoiceBuilder::new(self.currency.clone())
            .description("a token".into())
            .payment_hash(sha256::Hash::from_byte_array(payment_hash.0))
            .payment_secret(PaymentSecret([3; 32]))
            .duration_since_epoch(Duration::from_millis(self.now_ms.load(SeqCst)))
            .expiry_time(Duration::from_secs(expiry_s.into()))
            .min_final_cltv_expiry_delta(42);
        let builder = match amount_msat {
            Some(amount_msat) => builder.amount_milli_satoshis(amount_msat),
            None => builder,
        };
        let invoice = builder.build_signed(|m| Secp256k1::new().sign_ecdsa_recoverable(m, &key)).unwrap();
        let payment = Payment { preimage, outcome: Outcome::NotStarted, sent: 0 };
        self.books.lock().unwrap().insert(payment_hash, payment);
        IssuedInvoice { bolt11: invoice.to_string(), payment_hash }
    }
}

impl Issuer for Fake {
    async fn invoice(&self, amount_msat: u64, _: &str, expiry_s: u32) -> Result<IssuedInvoice, BoxError> {
        let asked = self.amount.lock().unwrap().unwrap_or(Some(amount_msat));
        Ok(self.make(asked, expiry_s))
    }
}

impl Payer for Fake {
    fn decode(&self, bolt11: &str) -> Result<InvoiceTerms, BoxError> {
        let invoice: Bolt11Invoice = bolt11.parse().map_err(|e| format!("{e}"))?;
        let network = match invoice.currency() {
            Currency::Regtest => BitcoinNetwork::Regtest,
            Currency::Bitcoin => BitcoinNetwork::Bitcoin,
            _ => BitcoinNetwork::Signet,
        };
        let expires_at = invoice.duration_since_epoch() + invoice.expiry_time();
        Ok(InvoiceTerms {
            payment_hash: PaymentHash(invoice.payment_hash().to_byte_array()),
            amount_msat: invoice.amount_milli_satoshis(),
            expires_at_ms: expires_at.as_millis() as u64,
            network,
        })
    }

    async fn pay(&self, _: &str, terms: &InvoiceTerms, _: u64) -> Result<Preimage, BoxError> {
        let mode = *self.mode.lock().unwrap();
        // a slow wallet: everything else gets its turn meanwhile
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        match mode {
            Mode::NoRoute => return Err("no route".into()),
            Mode::HangsBefore => self.hang().await,
            _ => {}
        }
        let preimage = {
            let mut books = self.books.lock().unwrap();
            let payment = books.get_mut(&terms.payment_hash).unwrap();
            payment.sent += 1;
            let known = payment.preimage;
            payment.outcome = if mode == Mode::ErrorWhilePending { Outcome::Pending } else { Outcome::Paid(known) };
            known
        };
        match mode {
            Mode::ErrorWhilePending => Err("timed out".into()),
            Mode::PaysAndHangs => self.hang().await,
            Mode::WrongPreimage => Ok(Preimage([0xee; 32])),
            _ => Ok(preimage),
        }
    }

    async fn outcome(&self, hash: PaymentHash) -> Result<Outcome, BoxError> {
        Ok(self.books.lock().unwrap().get(&hash).map_or(Outcome::NotStarted, |p| p.outcome))
    }
}

pub fn secret() -> Zeroizing<[u8; 32]> {
    Zeroizing::new([0x77; 32])
}

pub fn keys() -> Arc<DerivedRootKeys> {
    Arc::new(DerivedRootKeys::new(secret()))
}

/// `/submit` and `/status` cost something, `/free` does not.
pub fn tariff(request: &Parts) -> Option<Charge> {
    let capability = request.uri.path().trim_start_matches('/');
    let amount_msat = NonZeroU64::new(PRICE_MSAT)?;
    matches!(capability, "submit" | "status").then(|| Charge { capability: capability.into(), amount_msat })
}

pub fn router() -> Router {
    let submit =
        |Extension(paid): Extension<L402Paid>, body: String| async move { format!("{} {body}", paid.payment_hash) };
    Router::new()
        .route("/submit", post(submit))
        .route("/status", post(|| async { "fine" }))
        .route("/free", get(|paid: Option<Extension<L402Paid>>| async move { format!("{}", paid.is_none()) }))
}

pub fn app_with(fake: &Fake, revocations: Arc<dyn Revocations>) -> Router {
    let terms = Terms::new("train");
    let layer = L402Layer::with(terms, keys(), revocations, fake.clock(), fake.clone(), tariff).unwrap();
    router().layer(layer)
}

pub fn app(fake: &Fake) -> Router {
    app_with(fake, Arc::new(MemoryRevocations::default()))
}

/// Serves on a port of this machine until the test ends.
pub async fn serve(app: Router) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = hyper_util::service::TowerToHyperService::new(app.clone());
            let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            tokio::spawn(async move { server.serve_connection(TokioIo::new(stream), service).await.ok() });
        }
    });
    addr
}

pub type Http = Client<HttpConnector, Full<Bytes>>;

pub fn http() -> Http {
    Client::builder(TokioExecutor::new()).build_http()
}

pub fn request(uri: &str) -> Request<Full<Bytes>> {
    let method = if uri.ends_with("/free") { "GET" } else { "POST" };
    Request::builder().method(method).uri(uri).body(Full::from("work")).unwrap()
}

pub async fn body_of<B: axum::body::HttpBody<Error: std::fmt::Debug>>(response: Response<B>) -> String {
    let bytes = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

pub fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(test)
}
