//! Where a sponsor takes submission fees (P8): one HTTP endpoint behind L402.
//!
//! `POST {url}/submissions/{claim}` costs the fee; once it is paid the sponsor offers payment for that claim. What
//! would buy nothing is not charged: an unknown claim, one whose round is over or that has its offer, or a sponsor
//! without money is refused before any invoice is made. A token pays for one claim: which one is on disk before the
//! answer is given (P6), so that neither a crash nor a repeated request makes anybody pay twice or lets one payment
//! open the door to two claims.
//!
//! Tokens are bearer tokens and this is plain HTTP: on the open Internet, put a proxy that speaks TLS or a VPN in
//! front, or somebody who listens may use a token first (it is then lost for one fee, and nothing more).

use crate::clock::now_ms;
use crate::full::CoreEvent;
use anyhow::{Context, Result};
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router, routing::post};
use http::request::Parts;
use http::{Method, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use oda_consensus::codec;
use oda_consensus::engine::sponsor::{FeeRecord, NoFee};
use oda_consensus::ids::{ClaimId, Digest};
use oda_lightning::l402::{BoxError, Charge, IssuedInvoice, Issuer, L402Layer, L402Paid, Terms, TokenId};
use oda_storage::RecordStore;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Duration, Instant};
use zeroize::Zeroizing;

const PREFIX: &[u8] = b"fee/";
const PATH: &str = "/submissions/";
/// Most tokens remembered.
const MAX_FEES: usize = 1 << 16;
/// How long a token can be used, s.
const TOKEN_LIFE_S: u32 = 24 * 3600;
/// How long it is remembered for what it was used, s: longer than it is valid, and than any round.
const KEEP_S: u64 = 7 * 24 * 3600;
/// Most connections at once.
const MAX_CONNECTIONS: usize = 64;
/// Longest life of a connection: a request is one round trip.
const CONNECTION_LIFE: Duration = Duration::from_secs(60);
/// Invoices that may be made at once, and the pause after which one more may: LDK remembers each for good.
const INVOICE_BURST: u32 = 64;
const INVOICE_PAUSE: Duration = Duration::from_millis(500);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Which tokens were used for which claims, on disk.
pub(crate) struct FeeBook {
    records: Box<dyn RecordStore>,
    used: BTreeMap<Digest, FeeRecord>,
    paid: BTreeSet<ClaimId>,
}

/// Why a token was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BindError {
    #[error("this token paid for claim {0}: each claim needs its own")]
    OtherClaim(ClaimId),
    #[error("{0} fees are remembered, no more fit: try again in a day; the token stays good for a claim")]
    Full(usize),
    #[error("the fee cannot be written down, so it is not taken: {0}")]
    Store(#[from] oda_storage::StoreError),
}

impl FeeBook {
    /// Those written down before.
    pub(crate) fn load(records: Box<dyn RecordStore>) -> Result<Self> {
        let mut used = BTreeMap::new();
        for (_, bytes) in records.scan(PREFIX, MAX_FEES)? {
            let record: FeeRecord =
                codec::decode(&bytes).with_context(|| crate::damaged("a record of a submission fee"))?;
            used.insert(record.token, record);
        }
        let paid = used.values().map(|r| r.claim).collect();
        Ok(Self { records, used, paid })
    }

    /// Claims that are paid for.
    pub(crate) fn claims(&self) -> impl Iterator<Item = ClaimId> + '_ {
        self.paid.iter().copied()
    }

    fn is_paid(&self, claim: ClaimId) -> bool {
        self.paid.contains(&claim)
    }

    /// Uses a token for a claim; synced when it returns. The same again is fine, and a claim that is paid for uses no
    /// second token.
    fn bind(&mut self, token: TokenId, claim: ClaimId, now_s: u64) -> Result<(), BindError> {
        let token = Digest(token.0);
        match self.used.get(&token) {
            Some(known) if known.claim == claim => return Ok(()),
            Some(known) => return Err(BindError::OtherClaim(known.claim)),
            None if self.is_paid(claim) => return Ok(()),
            None => {}
        }
        let old: Vec<FeeRecord> = self.used.values().filter(|r| r.keep_until_s <= now_s).copied().collect();
        for record in old {
            self.records.delete(&key(record.token))?;
            self.used.remove(&record.token);
            self.paid.remove(&record.claim);
        }
        if self.used.len() >= MAX_FEES {
            return Err(BindError::Full(MAX_FEES));
        }
        let record = FeeRecord { token, claim, keep_until_s: now_s.saturating_add(KEEP_S) };
        self.records.put(&key(token), &codec::encode(&record))?;
        self.used.insert(token, record);
        self.paid.insert(claim);
        Ok(())
    }
}

fn key(token: Digest) -> Vec<u8> {
    [PREFIX, &token.0].concat()
}

/// Asks the ledger whether a fee may be taken for a claim, told which others are paid for.
pub(crate) type MayCharge = Arc<dyn Fn(ClaimId, &dyn Fn(ClaimId) -> bool) -> Result<(), NoFee> + Send + Sync>;

/// Takes the fees.
pub(crate) struct Desk {
    pub(crate) fees: Mutex<FeeBook>,
    pub(crate) may_charge: MayCharge,
    pub(crate) core: mpsc::Sender<CoreEvent>,
}

impl Desk {
    /// Whether a claim is paid for already, else whether it could be.
    fn look(&self, claim: ClaimId) -> Result<bool, NoFee> {
        let fees = lock(&self.fees);
        if fees.is_paid(claim) {
            return Ok(true);
        }
        (self.may_charge)(claim, &|other| fees.is_paid(other)).map(|()| false)
    }

    fn charge(&self, request: &Parts, fee_msat: NonZeroU64) -> Option<Charge> {
        let claim = request.uri.path().strip_prefix(PATH)?.parse().ok()?;
        let due = request.method == Method::POST && self.look(claim) == Ok(false);
        due.then(|| Charge { capability: "submit".into(), amount_msat: fee_msat })
    }

    async fn submit(self: Arc<Self>, claim: &str, paid: Option<L402Paid>) -> (StatusCode, String) {
        let Ok(claim) = claim.parse::<ClaimId>() else {
            return (StatusCode::BAD_REQUEST, "not a claim id: 64 hexadecimal digits are".into());
        };
        let thanks = || (StatusCode::OK, format!("the fee of claim {claim} is paid"));
        match self.look(claim) {
            Ok(true) => return thanks(),
            Ok(false) => {}
            Err(why @ NoFee::Unknown) => return (StatusCode::NOT_FOUND, why.to_string()),
            Err(why) => return (StatusCode::CONFLICT, why.to_string()),
        }
        // only if the ledger went on between the price and here
        let Some(paid) = paid else { return (StatusCode::SERVICE_UNAVAILABLE, "try again".into()) };
        let desk = Arc::clone(&self);
        let bound =
            tokio::task::spawn_blocking(move || lock(&desk.fees).bind(paid.token_id, claim, now_ms() / 1000)).await;
        match bound {
            Ok(Ok(())) => {
                tracing::info!(claim = %claim.short(), "submission fee paid");
                // if the core is gone, a restart finds the record
                let _ = self.core.send(CoreEvent::FeePaid(claim)).await;
                thanks()
            }
            Ok(Err(why @ BindError::OtherClaim(_))) => (StatusCode::CONFLICT, why.to_string()),
            Ok(Err(why)) => {
                tracing::warn!(%why, "submission fee not taken");
                (StatusCode::SERVICE_UNAVAILABLE, why.to_string())
            }
            Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the node is stopping".into()),
        }
    }
}

async fn submit(
    State(desk): State<Arc<Desk>>,
    Path(claim): Path<String>,
    paid: Option<Extension<L402Paid>>,
) -> Response {
    let (status, words) = desk.submit(&claim, paid.map(|Extension(paid)| paid)).await;
    (status, format!("{words}\n")).into_response()
}

/// An issuer that makes only so many invoices: whoever asks for one has not paid anything yet.
struct Rationed<I> {
    inner: I,
    left: Mutex<(u32, Instant)>,
}

impl<I: Issuer> Issuer for Rationed<I> {
    async fn invoice(&self, amount_msat: u64, text: &str, expiry_s: u32) -> Result<IssuedInvoice, BoxError> {
        {
            let (left, since) = &mut *lock(&self.left);
            let more = u32::try_from(since.elapsed().as_millis() / INVOICE_PAUSE.as_millis()).unwrap_or(u32::MAX);
            if more > 0 {
                (*left, *since) = (left.saturating_add(more).min(INVOICE_BURST), Instant::now());
            }
            *left = left.checked_sub(1).ok_or("too many invoices are asked for")?;
        }
        self.inner.invoice(amount_msat, text, expiry_s).await
    }
}

/// The endpoint.
pub(crate) fn router<I: Issuer>(
    desk: Arc<Desk>,
    issuer: I,
    fee_msat: NonZeroU64,
    secret: Zeroizing<[u8; 32]>,
) -> Result<Router> {
    let terms = Terms { valid_for_s: TOKEN_LIFE_S, ..Terms::new("train") };
    let issuer = Rationed { inner: issuer, left: Mutex::new((INVOICE_BURST, Instant::now())) };
    let prices = desk.clone();
    let layer = L402Layer::new(terms, secret, issuer, move |request: &Parts| prices.charge(request, fee_msat))?;
    Ok(Router::new().route(&format!("{PATH}{{claim}}"), post(submit)).with_state(desk).layer(layer))
}

/// Serves it until the task is aborted.
pub(crate) async fn serve(listen: SocketAddr, app: Router) -> Result<(SocketAddr, tokio::task::JoinHandle<()>)> {
    let listener = tokio::net::TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen on {listen}: change listen in [sponsor.submissions]"))?;
    let address = listener.local_addr()?;
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let task = tokio::spawn(async move {
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(100)).await; // out of file descriptors, say
                continue;
            };
            let service = hyper_util::service::TowerToHyperService::new(app.clone());
            tokio::spawn(async move {
                let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let served = server.serve_connection(TokioIo::new(stream), service);
                let _ = tokio::time::timeout(CONNECTION_LIFE, served).await;
                drop(place);
            });
        }
    });
    Ok((address, task))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use http::Request;
    use http::header::AUTHORIZATION;
    use http_body_util::BodyExt as _;
    use oda_consensus::ids::{ChainId, Preimage};
    use oda_lightning::l402::{Challenge, Credential};
    use oda_storage::RocksRecords;
    use std::future::Future;
    use std::path::Path as Dir;
    use std::sync::atomic::{AtomicU8, Ordering::SeqCst};
    use tower::ServiceExt as _;

    /// Its invoices are paid by whoever knows the count.
    #[derive(Clone, Default)]
    struct Invoices(Arc<AtomicU8>);

    fn preimage(n: u8) -> Preimage {
        Preimage([n; 32])
    }

    impl Issuer for Invoices {
        async fn invoice(&self, amount_msat: u64, _: &str, _: u32) -> Result<IssuedInvoice, BoxError> {
            assert_eq!(amount_msat, 7_000);
            let n = self.0.fetch_add(1, SeqCst) + 1;
            Ok(IssuedInvoice { bolt11: format!("lnbcrt{n}"), payment_hash: preimage(n).payment_hash() })
        }
    }

    const CLAIM: fn(u8) -> ClaimId = |n| ClaimId([n; 32]);

    struct Sponsor {
        app: Router,
        desk: Arc<Desk>,
        told: mpsc::Receiver<CoreEvent>,
        invoices: Invoices,
    }

    /// Claims 1 to 3 can be paid for, two of them at a time; 4 is over.
    fn sponsor(dir: &Dir, invoices: &Invoices) -> Sponsor {
        let records = RocksRecords::open(dir, ChainId([1; 32])).unwrap();
        let (core, told) = mpsc::channel(8);
        let may_charge: MayCharge = Arc::new(|claim, paid| match claim.0[0] {
            1..=3 if (1..=3).filter(|n| paid(CLAIM(*n))).count() < 2 => Ok(()),
            1..=3 => Err(NoFee::BudgetUsedUp),
            4 => Err(NoFee::Over),
            _ => Err(NoFee::Unknown),
        });
        let fees = Mutex::new(FeeBook::load(Box::new(records)).unwrap());
        let desk = Arc::new(Desk { fees, may_charge, core });
        let (fee, secret) = (NonZeroU64::new(7_000).unwrap(), Zeroizing::new([9; 32]));
        let app = router(desk.clone(), invoices.clone(), fee, secret).unwrap();
        Sponsor { app, desk, told, invoices: invoices.clone() }
    }

    impl Sponsor {
        async fn ask(&self, claim: &str, token: Option<&Credential>) -> (u16, String, Option<Challenge>) {
            let mut request = Request::post(format!("/submissions/{claim}"));
            if let Some(token) = token {
                request = request.header(AUTHORIZATION, token.to_header().unwrap());
            }
            let answer = self.app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
            let (status, challenge) = (answer.status().as_u16(), Challenge::from_headers(answer.headers()).unwrap());
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            (status, String::from_utf8_lossy(&body).into_owned(), challenge)
        }

        async fn code(&self, claim: u8, token: Option<&Credential>) -> u16 {
            self.ask(&CLAIM(claim).to_string(), token).await.0
        }

        /// Asks for a claim and pays.
        async fn buy(&self, claim: u8) -> Credential {
            let (status, _, challenge) = self.ask(&CLAIM(claim).to_string(), None).await;
            assert_eq!(status, 402);
            Credential { token: challenge.unwrap().token, preimage: preimage(self.invoices.0.load(SeqCst)) }
        }
    }

    fn run<T>(test: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap().block_on(test)
    }

    #[test] // P8, P6
    fn a_token_pays_for_one_claim_and_survives_a_restart() {
        let (dir, invoices) = (tempfile::tempdir().unwrap(), Invoices::default());
        run(async {
            let mut s = sponsor(dir.path(), &invoices);
            let token = s.buy(1).await;
            let unpaid = Credential { preimage: preimage(99), ..token.clone() };
            assert_eq!(s.code(1, Some(&unpaid)).await, 402, "a challenge is not a payment");
            assert!(s.told.try_recv().is_err());
            assert_eq!(s.code(1, Some(&token)).await, 200);
            assert!(matches!(s.told.try_recv(), Ok(CoreEvent::FeePaid(claim)) if claim == CLAIM(1)));
            assert_eq!(s.code(1, Some(&token)).await, 200, "the same again is fine");
            let (status, words, _) = s.ask(&CLAIM(2).to_string(), Some(&token)).await;
            assert_eq!(status, 409);
            assert!(words.contains(&CLAIM(1).to_string()), "{words}");
            assert!(s.told.try_recv().is_err());
        });
        run(async {
            let s = sponsor(dir.path(), &invoices);
            assert_eq!(lock(&s.desk.fees).claims().collect::<Vec<_>>(), [CLAIM(1)]);
            assert_eq!(s.code(1, None).await, 200, "it is paid for, whoever asks");
            let other = s.buy(2).await;
            assert_eq!(s.code(2, Some(&other)).await, 200);
        });
    }

    #[test] // P8: nobody is asked to pay for what buys nothing
    fn what_buys_nothing_is_not_charged() {
        let (dir, invoices) = (tempfile::tempdir().unwrap(), Invoices::default());
        run(async {
            let s = sponsor(dir.path(), &invoices);
            for garbage in ["x", "00", &"g".repeat(64), &"0".repeat(66), "%00"] {
                assert_eq!(s.ask(garbage, None).await.0, 400, "{garbage}");
            }
            assert_eq!((s.code(9, None).await, s.code(4, None).await), (404, 409));
            assert_eq!(
                s.app.clone().oneshot(Request::get("/").body(Body::empty()).unwrap()).await.unwrap().status(),
                404
            );
            assert_eq!(invoices.0.load(SeqCst), 0);
            for claim in [1, 2] {
                let token = s.buy(claim).await;
                assert_eq!(s.code(claim, Some(&token)).await, 200);
            }
            let (status, words, _) = s.ask(&CLAIM(3).to_string(), None).await;
            assert!(status == 409 && words.contains("budget"), "{words}");
            assert_eq!(invoices.0.load(SeqCst), 2);
        });
    }

    #[test] // each invoice costs the wallet a record, and whoever asks has not paid
    fn only_so_many_invoices_are_made() {
        let (dir, invoices) = (tempfile::tempdir().unwrap(), Invoices::default());
        run(async {
            let s = sponsor(dir.path(), &invoices);
            let mut refused = 0;
            for _ in 0..200 {
                refused += u8::from(s.code(1, None).await == 503);
            }
            assert!(refused > 0 && invoices.0.load(SeqCst) >= 64, "{refused} refused");
            tokio::time::sleep(2 * INVOICE_PAUSE).await;
            assert_eq!(s.code(1, None).await, 402, "later there are more");
        });
    }

    #[test]
    fn old_tokens_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let mut fees = FeeBook::load(Box::new(RocksRecords::open(dir.path(), ChainId([1; 32])).unwrap())).unwrap();
        fees.bind(TokenId([1; 32]), CLAIM(1), 100).unwrap();
        fees.bind(TokenId([9; 32]), CLAIM(1), 100).unwrap();
        assert_eq!(fees.used.len(), 1, "a claim that is paid for uses no second token");
        fees.bind(TokenId([2; 32]), CLAIM(2), 100 + KEEP_S - 1).unwrap();
        assert!(fees.is_paid(CLAIM(1)) && fees.is_paid(CLAIM(2)));
        fees.bind(TokenId([3; 32]), CLAIM(3), 100 + KEEP_S).unwrap();
        assert!(!fees.is_paid(CLAIM(1)) && fees.is_paid(CLAIM(2)) && fees.is_paid(CLAIM(3)));
        assert_eq!(fees.records.scan(PREFIX, 9).unwrap().len(), 2);
    }
}
