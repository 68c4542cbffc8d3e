//! The client's side: a `tower::Layer` that pays a challenge, once and within a price cap, and repeats the
//! request.
//!
//! Why not simply "on 402 pay and try again": sixteen requests at once would pay sixteen times, a crash
//! between payment and storing the token would pay twice, and a server that answers 402 for ever would
//! empty the wallet. Here
//! * requests to the same origin and scope queue for one payment and share its token;
//! * the invoice is stored before it is paid, the token before it is used, and before anything is paid the
//!   wallet is asked what became of the stored invoice ([`Payer::outcome`]); an invoice is handed to
//!   [`Payer::pay`] only when the wallet says that it never started it;
//! * a request is repeated once; a token refused sooner than [`Limits::min_token_life_ms`] after it was
//!   paid is an error, not a reason to pay again, in this request or a later one.

use super::error::L402Error;
use super::header::Challenge;
use super::macaroon::clip;
use super::server::{BoxError, Clock, ERROR_HEADER, system_clock};
use super::store::{Record, StoreError, TokenKey, TokenStore};
use super::token::Credential;
use http::header::{AUTHORIZATION, HOST};
use http::{HeaderMap, Request, Response, StatusCode};
use oda_consensus::genesis::BitcoinNetwork;
use oda_consensus::ids::{PaymentHash, Preimage};
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use tower::{Layer, Service};

/// Keys with requests under way after which unused ones are dropped.
const PRUNE_ABOVE: usize = 256;

/// What an invoice says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvoiceTerms {
    /// What paying it reveals the preimage of.
    pub payment_hash: PaymentHash,
    /// Amount, msat; none if the payer may choose.
    pub amount_msat: Option<u64>,
    /// When it expires, ms since the Unix epoch.
    pub expires_at_ms: u64,
    /// For which network.
    pub network: BitcoinNetwork,
}

/// What became of a payment, by the wallet's own books.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Never started: nothing was sent.
    NotStarted,
    /// Under way.
    Pending,
    /// Paid, with the proof.
    Paid(Preimage),
    /// Failed for good: the money is back.
    Failed,
}

/// A wallet that pays.
pub trait Payer: Send + Sync + 'static {
    /// Reads an invoice, signature included.
    ///
    /// # Errors
    /// If it is not valid.
    fn decode(&self, bolt11: &str) -> Result<InvoiceTerms, BoxError>;

    /// Pays an invoice that [`Payer::decode`] read, and waits for the end. May be dropped while it waits:
    /// the payment then goes on.
    fn pay(
        &self,
        bolt11: &str,
        terms: &InvoiceTerms,
        max_fee_msat: u64,
    ) -> impl Future<Output = Result<Preimage, BoxError>> + Send;

    /// What became of a payment, restarts included. Must not say `NotStarted` or `Failed` of one that may
    /// still succeed.
    fn outcome(&self, payment_hash: PaymentHash) -> impl Future<Output = Result<Outcome, BoxError>> + Send;
}

/// What a client is willing to pay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The wallet's network.
    pub network: BitcoinNetwork,
    /// Most a token may cost, msat.
    pub max_amount_msat: u64,
    /// Most its payment may cost in routing fees, msat.
    pub max_fee_msat: u64,
    /// A token refused sooner than this after it was paid is not replaced, ms. It bounds what a dishonest
    /// server can take to one price in this time. 0 for services that sell single uses.
    pub min_token_life_ms: u64,
}

impl Limits {
    /// At most 1 % and 5 sat of fees, one token a minute.
    pub fn new(network: BitcoinNetwork, max_amount_msat: u64) -> Self {
        let max_fee_msat = (max_amount_msat / 100).saturating_add(5_000);
        Self { network, max_amount_msat, max_fee_msat, min_token_life_ms: 60_000 }
    }
}

/// A request extension that says for which part of a service it is: requests of the same origin and scope
/// share a token. Without it all requests to an origin do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope(pub String);

/// A paid request failed. Nothing was paid unless it says so.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The request itself failed.
    #[error("the request failed: {0}")]
    Transport(BoxError),
    /// No origin to keep a token for.
    #[error("the request has neither a full URI nor a `Host`: a token must not go to an unknown server")]
    NoOrigin,
    /// The challenge cannot be read.
    #[error("the server's challenge is not valid: {0}")]
    BadChallenge(L402Error),
    /// The invoice cannot be read.
    #[error("the server's invoice is not valid: {0}")]
    BadInvoice(BoxError),
    /// Invoice and token do not belong together.
    #[error("the invoice is for payment {invoice}, the token for {token}: paying it would buy nothing; not paid")]
    HashMismatch {
        /// The invoice's.
        invoice: PaymentHash,
        /// The macaroon's.
        token: PaymentHash,
    },
    /// Wrong network.
    #[error("the invoice is for {found:?}, this wallet is on {expected:?}: not paid")]
    WrongNetwork {
        /// Ours.
        expected: BitcoinNetwork,
        /// The invoice's.
        found: BitcoinNetwork,
    },
    /// No amount.
    #[error("the invoice leaves the amount open: not paid")]
    NoAmount,
    /// Above the cap.
    #[error(
        "the server asks for {amount_msat} msat, the limit is {max_msat}: not paid; raise the limit if that is a fair price"
    )]
    TooExpensive {
        /// Asked for.
        amount_msat: u64,
        /// Limit.
        max_msat: u64,
    },
    /// Too late.
    #[error("the invoice expired at {expires_at_ms} ms, now {now_ms}: not paid; is a clock wrong?")]
    InvoiceExpired {
        /// End of the invoice.
        expires_at_ms: u64,
        /// Now.
        now_ms: u64,
    },
    /// The payment failed; the money is back.
    #[error("payment {payment_hash} failed, the money is back: {why}")]
    PaymentFailed {
        /// Which.
        payment_hash: PaymentHash,
        /// The wallet's words.
        why: String,
    },
    /// It is not known yet whether it was paid.
    #[error("payment {payment_hash} is under way: repeat the request later, it will not be paid again ({why})")]
    PaymentPending {
        /// Which.
        payment_hash: PaymentHash,
        /// The wallet's words.
        why: String,
    },
    /// The wallet gave a preimage that is none.
    #[error("the wallet's preimage does not belong to payment {0}: the wallet is broken")]
    WrongPreimage(PaymentHash),
    /// A token that was paid moments ago is refused.
    #[error(
        "the server refuses the token that was paid {age_ms} ms ago ({why}): not paying again; forget the token if this is known to be over"
    )]
    RefusedAfterPayment {
        /// Time since it was paid, ms.
        age_ms: u64,
        /// The server's word.
        why: String,
    },
    /// The store failed.
    #[error("tokens cannot be stored, so nothing is paid: {0}")]
    Store(#[from] StoreError),
    /// The blocking part was cancelled.
    #[error("the program is shutting down")]
    Shutdown,
}

struct Shared<P, T> {
    payer: P,
    store: Arc<T>,
    limits: Limits,
    clock: Clock,
    turns: Mutex<HashMap<TokenKey, Arc<tokio::sync::Mutex<()>>>>,
}

/// Makes a client that pays. Its clones, and those of its services, share tokens and payments.
pub struct L402ClientLayer<P, T> {
    shared: Arc<Shared<P, T>>,
}

impl<P, T> Clone for L402ClientLayer<P, T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<P: Payer, T: TokenStore> L402ClientLayer<P, T> {
    /// With the machine's clock. Two processes must not share a store.
    pub fn new(payer: P, store: T, limits: Limits) -> Self {
        Self::with(payer, Arc::new(store), limits, system_clock())
    }

    /// With everything chosen.
    pub fn with(payer: P, store: Arc<T>, limits: Limits, clock: Clock) -> Self {
        Self { shared: Arc::new(Shared { payer, store, limits, clock, turns: Mutex::default() }) }
    }

    /// Forgets a token, so that the next request pays for a new one; not while its payment is under way.
    ///
    /// # Errors
    /// If the store fails, or the payment is under way.
    pub async fn forget(&self, key: &TokenKey) -> Result<(), ClientError> {
        let turn = self.shared.turn(key);
        let _turn = turn.lock().await;
        let record = self.shared.load(key).await?;
        if let Some(Record::Paying { payment_hash, .. }) = &record
            && self.shared.outcome(*payment_hash).await? == Outcome::Pending
        {
            let why = "wait for its end".into();
            return Err(ClientError::PaymentPending { payment_hash: *payment_hash, why });
        }
        self.shared.blocking(key, |store, key| store.remove(key)).await
    }
}

impl<S, P, T> Layer<S> for L402ClientLayer<P, T> {
    type Service = L402Client<S, P, T>;

    fn layer(&self, inner: S) -> Self::Service {
        L402Client { inner, shared: Arc::clone(&self.shared) }
    }
}

/// A client that pays.
pub struct L402Client<S, P, T> {
    inner: S,
    shared: Arc<Shared<P, T>>,
}

impl<S: Clone, P, T> Clone for L402Client<S, P, T> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), shared: Arc::clone(&self.shared) }
    }
}

impl<S, P, T, B, R> Service<Request<B>> for L402Client<S, P, T>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    P: Payer,
    T: TokenStore,
    B: Clone + Send + 'static,
    R: Send + 'static,
{
    type Response = Response<R>;
    type Error = ClientError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, ClientError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        self.inner.poll_ready(cx).map_err(|e| ClientError::Transport(e.into()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let fresh = self.inner.clone();
        let mut ready = std::mem::replace(&mut self.inner, fresh);
        let mut again = self.inner.clone();
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            let key = key_of(&request)?;
            let known = shared.load(&key).await?;
            let first = with_token(request.clone(), known.as_ref())?;
            let response = ready.call(first).await.map_err(|e| ClientError::Transport(e.into()))?;
            let Some(challenge) = challenge_of(&response)? else { return Ok(response) };
            let why = reason(response.headers());
            drop(response);

            let paid = shared.token(&key, known.as_ref(), challenge, why).await?;
            let second = with_token(request, Some(&paid))?;
            std::future::poll_fn(|cx| again.poll_ready(cx)).await.map_err(|e| ClientError::Transport(e.into()))?;
            let response = again.call(second).await.map_err(|e| ClientError::Transport(e.into()))?;
            if response.status() == StatusCode::PAYMENT_REQUIRED {
                return Err(shared.refused(&paid, reason(response.headers())));
            }
            Ok(response)
        })
    }
}

impl<P: Payer, T: TokenStore> Shared<P, T> {
    /// The mutex whose holder alone pays for a key.
    fn turn(&self, key: &TokenKey) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        if turns.len() > PRUNE_ABOVE {
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        }
        Arc::clone(turns.entry(key.clone()).or_default())
    }

    async fn blocking<R: Send + 'static>(
        &self,
        key: &TokenKey,
        job: impl FnOnce(&T, &TokenKey) -> Result<R, StoreError> + Send + 'static,
    ) -> Result<R, ClientError> {
        let (store, key) = (Arc::clone(&self.store), key.clone());
        let done = tokio::task::spawn_blocking(move || job(&store, &key)).await;
        Ok(done.map_err(|_| ClientError::Shutdown)??)
    }

    async fn load(&self, key: &TokenKey) -> Result<Option<Record>, ClientError> {
        self.blocking(key, |store, key| store.load(key)).await
    }

    async fn save(&self, key: &TokenKey, record: &Record) -> Result<(), ClientError> {
        let record = record.clone();
        self.blocking(key, move |store, key| store.save(key, &record)).await
    }

    fn refused(&self, paid: &Record, why: String) -> ClientError {
        ClientError::RefusedAfterPayment { age_ms: self.age_ms(paid), why }
    }

    fn age_ms(&self, record: &Record) -> u64 {
        match record {
            Record::Paid { paid_at_ms, .. } => (self.clock)().saturating_sub(*paid_at_ms),
            Record::Paying { .. } => 0,
        }
    }

    /// A paid token other than `refused`, which the server answered with this challenge.
    async fn token(
        &self,
        key: &TokenKey,
        refused: Option<&Record>,
        challenge: Challenge,
        why: String,
    ) -> Result<Record, ClientError> {
        let turn = self.turn(key);
        let _turn = turn.lock().await;
        let stored = self.load(key).await?;
        if let Some(record) = &stored {
            match record {
                // paid by a request that was faster
                Record::Paid { .. } if stored.as_ref() != refused => return Ok(record.clone()),
                Record::Paid { .. } => {
                    if self.age_ms(record) < self.limits.min_token_life_ms {
                        return Err(self.refused(record, why));
                    }
                }
                // left by a crash, or by a request that was dropped
                Record::Paying { .. } => match self.finish(key, record).await {
                    Err(ClientError::PaymentFailed { .. }) => {}
                    finished => return finished,
                },
            }
        }
        let (terms, amount_msat) = self.agreeable(&challenge)?;
        let paying = Record::Paying {
            macaroon: challenge.token.to_base64().map_err(ClientError::BadChallenge)?,
            bolt11: challenge.bolt11.clone(),
            payment_hash: terms.payment_hash,
            amount_msat,
        };
        self.save(key, &paying).await?; // from here on a restart asks the wallet first
        self.finish(key, &paying).await
    }

    /// Whether a challenge may be paid.
    fn agreeable(&self, challenge: &Challenge) -> Result<(InvoiceTerms, u64), ClientError> {
        let terms = self.payer.decode(&challenge.bolt11).map_err(ClientError::BadInvoice)?;
        let token = challenge.token.identifier().payment_hash;
        if terms.payment_hash != token {
            return Err(ClientError::HashMismatch { invoice: terms.payment_hash, token });
        }
        if terms.network != self.limits.network {
            return Err(ClientError::WrongNetwork { expected: self.limits.network, found: terms.network });
        }
        let amount_msat = terms.amount_msat.ok_or(ClientError::NoAmount)?;
        if amount_msat > self.limits.max_amount_msat {
            return Err(ClientError::TooExpensive { amount_msat, max_msat: self.limits.max_amount_msat });
        }
        let now_ms = (self.clock)();
        if now_ms >= terms.expires_at_ms {
            return Err(ClientError::InvoiceExpired { expires_at_ms: terms.expires_at_ms, now_ms });
        }
        Ok((terms, amount_msat))
    }

    /// Brings the payment of a stored invoice to its end and stores the paid token. After
    /// [`ClientError::PaymentFailed`] the money is here and the record gone; after any other error it stays.
    async fn finish(&self, key: &TokenKey, record: &Record) -> Result<Record, ClientError> {
        let Record::Paying { macaroon, payment_hash, amount_msat, .. } = record else { return Ok(record.clone()) };
        let payment_hash = *payment_hash;
        let (outcome, why) = match self.outcome(payment_hash).await? {
            Outcome::NotStarted => self.pay(record, payment_hash).await?,
            known => (known, "as the wallet remembers".into()),
        };
        match outcome {
            Outcome::Paid(preimage) if preimage.payment_hash() == payment_hash => {
                let (macaroon, amount_msat) = (macaroon.clone(), *amount_msat);
                let paid = Record::Paid { macaroon, preimage, amount_msat, paid_at_ms: (self.clock)() };
                self.save(key, &paid).await?; // before it is used
                Ok(paid)
            }
            Outcome::Paid(_) => Err(ClientError::WrongPreimage(payment_hash)),
            Outcome::Pending => Err(ClientError::PaymentPending { payment_hash, why }),
            Outcome::NotStarted | Outcome::Failed => {
                self.blocking(key, |store, key| store.remove(key)).await?;
                Err(ClientError::PaymentFailed { payment_hash, why })
            }
        }
    }

    /// Pays an invoice that the wallet never started, if it may (still) be paid.
    async fn pay(&self, record: &Record, payment_hash: PaymentHash) -> Result<(Outcome, String), ClientError> {
        let unreadable = || ClientError::BadChallenge(L402Error::Malformed("the stored token is damaged".into()));
        let challenge = record.challenge().ok_or_else(unreadable)?;
        let terms = match self.agreeable(&challenge) {
            Ok((terms, _)) => terms,
            Err(error) => return Ok((Outcome::NotStarted, error.to_string())),
        };
        match self.payer.pay(&challenge.bolt11, &terms, self.limits.max_fee_msat).await {
            Ok(preimage) => Ok((Outcome::Paid(preimage), String::new())),
            // an error says nothing about the money: the books do
            Err(error) => Ok((self.outcome(payment_hash).await?, clip(&error.to_string()))),
        }
    }

    async fn outcome(&self, payment_hash: PaymentHash) -> Result<Outcome, ClientError> {
        let known = self.payer.outcome(payment_hash).await;
        known.map_err(|e| ClientError::PaymentPending { payment_hash, why: clip(&e.to_string()) })
    }
}

/// `scheme://authority` of the server a request goes to, and its scope.
fn key_of<B>(request: &Request<B>) -> Result<TokenKey, ClientError> {
    let uri = request.uri();
    let host = || request.headers().get(HOST).and_then(|h| h.to_str().ok());
    let authority = uri.authority().map(http::uri::Authority::as_str).or_else(host).ok_or(ClientError::NoOrigin)?;
    // a user name in the authority is no part of the origin
    let authority = authority.rsplit('@').next().unwrap_or(authority).to_ascii_lowercase();
    let origin = format!("{}://{authority}", uri.scheme_str().unwrap_or("http"));
    let scope = request.extensions().get::<Scope>().map_or_else(String::new, |s| s.0.clone());
    Ok(TokenKey { origin, scope })
}

/// The request with a paid token beside whatever other credentials it has.
fn with_token<B>(mut request: Request<B>, record: Option<&Record>) -> Result<Request<B>, ClientError> {
    if let Some(credential) = record.and_then(Record::credential) {
        let value = Credential::to_header(&credential).map_err(ClientError::BadChallenge)?;
        request.headers_mut().append(AUTHORIZATION, value);
    }
    Ok(request)
}

/// The challenge of a 402; other answers, also a 402 of another kind, are the caller's.
fn challenge_of<R>(response: &Response<R>) -> Result<Option<Challenge>, ClientError> {
    if response.status() != StatusCode::PAYMENT_REQUIRED {
        return Ok(None);
    }
    Challenge::from_headers(response.headers()).map_err(ClientError::BadChallenge)
}

fn reason(headers: &HeaderMap) -> String {
    let word = headers.get(ERROR_HEADER).and_then(|value| value.to_str().ok());
    word.map_or_else(|| "no reason given".into(), clip)
}
