//! The server's side: a `tower::Layer` that lets paid requests through and answers others with 402.
//!
//! bLIP-26 asks for 402 when a credential is missing, "invalid or insufficient", and in another place for
//! 401 when it is invalid. As Aperture does, every refusal here is a 402 with a new challenge, so that a
//! client whose token expired recovers in one step; the body and the header `l402-error` say why.
//!
//! A request without a token costs one invoice. How many of those a second may be made is not decided
//! here: put a limit in front (`tower::limit`, a proxy), since only the caller knows its clients.

use super::caveat::{Needed, grant, is_name};
use super::error::L402Error;
use super::header::Challenge;
use super::token::{Credential, Identifier, Token, TokenId};
use super::verify::{DerivedRootKeys, L402Paid, MemoryRevocations, Revocations, RootKeys, verify};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{Request, Response, StatusCode};
use oda_consensus::ids::PaymentHash;
use rand_core::{OsRng, RngCore as _};
use std::future::Future;
use std::num::NonZeroU64;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{SystemTime, UNIX_EPOCH};
use tower::{Layer, Service};
use zeroize::Zeroizing;

/// Any error of whoever makes or pays invoices.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// Tells the time, ms since the Unix epoch.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;
/// Draws a token id.
type Draw = Arc<dyn Fn() -> Result<[u8; 32], BoxError> + Send + Sync>;

/// The header that says in one word why a token was refused.
pub const ERROR_HEADER: HeaderName = HeaderName::from_static("l402-error");

/// The machine's clock.
pub fn system_clock() -> Clock {
    Arc::new(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// An invoice that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedInvoice {
    /// As the payer gets it.
    pub bolt11: String,
    /// Its payment hash.
    pub payment_hash: PaymentHash,
}

/// Makes invoices. The preimage must be known to the payee alone until it is paid.
pub trait Issuer: Send + Sync + 'static {
    /// Makes an invoice that settles without further ado when it is paid.
    fn invoice(
        &self,
        amount_msat: u64,
        description: &str,
        expiry_s: u32,
    ) -> impl Future<Output = Result<IssuedInvoice, BoxError>> + Send;
}

/// What a request costs and needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    /// The part of the service, as it stands in `{service}_capabilities`.
    pub capability: String,
    /// Price of a token for it, msat.
    pub amount_msat: NonZeroU64,
}

/// The price list: what each request costs. `None` lets it through free of charge. A closure will do.
pub trait Tariff: Send + Sync + 'static {
    /// What this request costs.
    fn charge(&self, request: &Parts) -> Option<Charge>;
}

impl<F: Fn(&Parts) -> Option<Charge> + Send + Sync + 'static> Tariff for F {
    fn charge(&self, request: &Parts) -> Option<Charge> {
        self(request)
    }
}

/// The terms on which tokens are issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Name of the service in caveats: letters, digits, `_`, `-`, `.`.
    pub service: String,
    /// Its tier.
    pub tier: u32,
    /// The macaroons' location: a hint for people, not checked.
    pub location: String,
    /// How long a token is valid, s, from its challenge on.
    pub valid_for_s: u32,
    /// How long its invoice can be paid, s.
    pub invoice_expiry_s: u32,
}

impl Terms {
    /// Tokens for an hour, invoices for ten minutes.
    pub fn new(service: &str) -> Self {
        Self { service: service.into(), tier: 0, location: service.into(), valid_for_s: 3600, invoice_expiry_s: 600 }
    }
}

/// A service's name or capability that cannot stand in a caveat.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` cannot name a service: use 1 to 64 letters, digits, `_`, `-` and `.`")]
pub struct BadName(pub String);

struct Shared<I, T> {
    terms: Terms,
    issuer: I,
    tariff: T,
    keys: Arc<dyn RootKeys>,
    revocations: Arc<dyn Revocations>,
    clock: Clock,
    draw: Draw,
}

/// Protects a service. See the [module's example](crate::l402).
pub struct L402Layer<I, T> {
    shared: Arc<Shared<I, T>>,
}

impl<I, T> Clone for L402Layer<I, T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<I: Issuer, T: Tariff> L402Layer<I, T> {
    /// Root keys derived from `secret`, revocations in memory, the machine's clock and randomness.
    ///
    /// # Errors
    /// If the service's name cannot stand in a caveat.
    pub fn new(terms: Terms, secret: Zeroizing<[u8; 32]>, issuer: I, tariff: T) -> Result<Self, BadName> {
        let revocations = Arc::new(MemoryRevocations::default());
        Self::with(terms, Arc::new(DerivedRootKeys::new(secret)), revocations, system_clock(), issuer, tariff)
    }

    /// With everything chosen.
    ///
    /// # Errors
    /// If the service's name cannot stand in a caveat.
    pub fn with(
        terms: Terms,
        keys: Arc<dyn RootKeys>,
        revocations: Arc<dyn Revocations>,
        clock: Clock,
        issuer: I,
        tariff: T,
    ) -> Result<Self, BadName> {
        if !is_name(&terms.service) {
            return Err(BadName(terms.service));
        }
        let draw: Draw = Arc::new(|| {
            let mut id = [0; 32];
            OsRng.try_fill_bytes(&mut id)?;
            Ok(id)
        });
        Ok(Self { shared: Arc::new(Shared { terms, issuer, tariff, keys, revocations, clock, draw }) })
    }
}

impl<S, I, T> Layer<S> for L402Layer<I, T> {
    type Service = L402Service<S, I, T>;

    fn layer(&self, inner: S) -> Self::Service {
        L402Service { inner, shared: Arc::clone(&self.shared) }
    }
}

/// A protected service.
pub struct L402Service<S, I, T> {
    inner: S,
    shared: Arc<Shared<I, T>>,
}

impl<S: Clone, I, T> Clone for L402Service<S, I, T> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), shared: Arc::clone(&self.shared) }
    }
}

impl<S, I, T, B, R> Service<Request<B>> for L402Service<S, I, T>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    I: Issuer,
    T: Tariff,
    B: Send + 'static,
    R: From<String>,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (mut parts, body) = request.into_parts();
        let shared = Arc::clone(&self.shared);
        let refused = match shared.tariff.charge(&parts) {
            None => None,
            Some(charge) => match shared.check(&parts, &charge) {
                Ok(paid) => {
                    parts.extensions.insert(paid);
                    None
                }
                Err(why) => Some((charge, why)),
            },
        };
        let Some((charge, why)) = refused else {
            // the instance that said it is ready takes the request
            let fresh = self.inner.clone();
            let mut ready = std::mem::replace(&mut self.inner, fresh);
            let future = ready.call(Request::from_parts(parts, body));
            return Box::pin(future);
        };
        Box::pin(async move { Ok(shared.challenge(charge, &why).await) })
    }
}

impl<I: Issuer, T: Tariff> Shared<I, T> {
    fn check(&self, parts: &Parts, charge: &Charge) -> Result<L402Paid, L402Error> {
        let credential = Credential::from_headers(&parts.headers)?;
        let needed = Needed { service: &self.terms.service, capability: &charge.capability, now_ms: (self.clock)() };
        verify(&credential, self.keys.as_ref(), self.revocations.as_ref(), &needed)
    }

    async fn challenge<R: From<String>>(&self, charge: Charge, why: &L402Error) -> Response<R> {
        match self.issue(&charge).await {
            Ok([l402, lsat]) => {
                let mut response = text(StatusCode::PAYMENT_REQUIRED, format!("{why}\n"));
                let headers = response.headers_mut();
                headers.insert(WWW_AUTHENTICATE, l402);
                headers.append(WWW_AUTHENTICATE, lsat);
                headers.insert(ERROR_HEADER, HeaderValue::from_static(why.code()));
                response
            }
            Err(error) => {
                tracing::warn!(%error, capability = charge.capability, "no L402 challenge can be made");
                let sorry = "payment is required, but no invoice can be made now: try again later\n";
                text(StatusCode::SERVICE_UNAVAILABLE, sorry.into())
            }
        }
    }

    async fn issue(&self, charge: &Charge) -> Result<[HeaderValue; 2], BoxError> {
        let Terms { service, tier, location, valid_for_s, invoice_expiry_s } = &self.terms;
        if !is_name(&charge.capability) {
            return Err(Box::new(BadName(charge.capability.clone())));
        }
        let token_id = TokenId((self.draw)()?);
        let key = self.keys.new_root_key(&token_id).ok_or("no root key for a new token")?;
        let description = format!("{service}: {}", charge.capability);
        let invoice = self.issuer.invoice(charge.amount_msat.get(), &description, *invoice_expiry_s).await?;
        let identifier = Identifier { payment_hash: invoice.payment_hash, token_id };
        let valid_until_s = ((self.clock)() / 1000).saturating_add(u64::from(*valid_for_s));
        let token = Token::mint(&key, location, identifier)?;
        let token = grant(&token, service, *tier, &charge.capability, valid_until_s)?;
        Ok(Challenge { token, bolt11: invoice.bolt11 }.to_headers()?)
    }
}

fn text<R: From<String>>(status: StatusCode, body: String) -> Response<R> {
    let mut response = Response::new(R::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    // a challenge is for one client
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
