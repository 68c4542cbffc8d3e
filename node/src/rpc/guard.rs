//! Stands before every call, alone or in a batch: who may call what, how many at once, how long, and what is counted.

use super::errors::{BUSY, TIMED_OUT, UNAUTHORIZED, UNAVAILABLE, error};
use super::metrics::Metrics;
use super::schema::{self, Auth, Kind};
use super::tokens::{Doorkeeper, KEPT_BYTES};
use super::{Limits, MAX_RESPONSE_BYTES};
use crate::clock::now_ms;
use jsonrpsee::core::middleware::{Batch, BatchEntry, Notification, Request, RpcServiceT};
use jsonrpsee::server::{BatchResponseBuilder, MethodResponse};
use jsonrpsee::types::ErrorObjectOwned;
use std::future::Future;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Semaphore;

/// What the HTTP layer found out about a caller.
#[derive(Clone, Default)]
pub(super) struct Caller {
    /// What it says it may.
    pub(super) shown: Shown,
    /// It can be sent more than one answer.
    pub(super) websocket: bool,
}

/// What a caller has shown of itself.
#[derive(Clone, Default)]
pub(super) enum Shown {
    /// Nothing that opens anything.
    #[default]
    Nothing,
    /// The cookie.
    Cookie,
    /// A token: judged at each call, for its time may end while a connection lasts.
    Token(Arc<str>),
}

impl Shown {
    /// What an `Authorization` header that is not the cookie shows (RFC 6750, 2.1).
    pub(super) fn token(header: &[u8]) -> Self {
        let (scheme, rest) = header.split_at(header.len().min("Bearer ".len()));
        if !scheme.eq_ignore_ascii_case(b"Bearer ") {
            return Self::Nothing;
        }
        let kept = rest.get(..KEPT_BYTES).unwrap_or(rest);
        Self::Token(String::from_utf8_lossy(kept).trim().into())
    }
}

/// Makes a [`Guarded`] for each connection.
#[derive(Clone)]
pub(super) struct Guard {
    pub(super) metrics: Arc<Metrics>,
    pub(super) limits: Limits,
    pub(super) doorkeeper: Doorkeeper,
}

impl Guard {
    /// Whether what was shown opens a method.
    fn admit(&self, method: &schema::Method, shown: &Shown) -> Result<(), ErrorObjectOwned> {
        match (method.auth, shown) {
            (Auth::Open, _) | (Auth::Write, Shown::Cookie) => Ok(()),
            (Auth::Write, Shown::Token(text)) => {
                let judged = self.doorkeeper.judge(text, method, now_ms());
                judged.map_err(|refused| error(refused.code(), refused.to_string()))
            }
            (Auth::Write, Shown::Nothing) => {
                let why = "this acts for the node's owner: send the content of the cookie file as HTTP basic \
                           authentication, or a token that allows it (`oda token make`) as `Authorization: Bearer`";
                Err(error(UNAUTHORIZED, why))
            }
        }
    }
}

impl<S> tower::Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        let running = Arc::new(Semaphore::new(self.limits.calls_per_connection));
        Guarded { inner, guard: self.clone(), running }
    }
}

/// The calls of one connection.
#[derive(Clone)]
pub(super) struct Guarded<S> {
    inner: S,
    guard: Guard,
    running: Arc<Semaphore>,
}

impl<S> Guarded<S>
where
    S: RpcServiceT<MethodResponse = MethodResponse> + Clone + Send + Sync + 'static,
{
    async fn answer(&self, request: Request<'_>, method: Option<&schema::Method>) -> MethodResponse {
        let caller = request.extensions().get::<Caller>().cloned().unwrap_or_default();
        let id = request.id().into_owned();
        let Some(method) = method else { return self.inner.call(request).await };
        if let Err(refused) = self.guard.admit(method, &caller.shown) {
            return MethodResponse::error(id, refused);
        }
        if method.kind != Kind::Call && !caller.websocket {
            return MethodResponse::error(id, error(UNAVAILABLE, "subscriptions need a WebSocket connection"));
        }
        let Ok(_running) = self.running.try_acquire() else {
            let most = self.guard.limits.calls_per_connection;
            return MethodResponse::error(id, error(BUSY, format!("{most} calls of this connection run already")));
        };
        let most = method.patience.unwrap_or(self.guard.limits.call_timeout);
        match tokio::time::timeout(most, self.inner.call(request)).await {
            Ok(response) => response,
            Err(_) => MethodResponse::error(id, error(TIMED_OUT, format!("no answer within {} s", most.as_secs_f32()))),
        }
    }
}

impl<S> RpcServiceT for Guarded<S>
where
    S: RpcServiceT<
            MethodResponse = MethodResponse,
            BatchResponse = MethodResponse,
            NotificationResponse = MethodResponse,
        > + Clone
        + Send
        + Sync
        + 'static,
{
    type MethodResponse = MethodResponse;
    type BatchResponse = MethodResponse;
    type NotificationResponse = MethodResponse;

    fn call<'a>(&self, request: Request<'a>) -> impl Future<Output = MethodResponse> + Send + 'a {
        let this = self.clone();
        async move {
            let started = Instant::now();
            let method = schema::method(request.method_name());
            let response = this.answer(request, method).await;
            // names from outside would let anyone fill the memory of whoever collects the metrics
            let name = method.map_or("unknown", |m| m.name);
            this.guard.metrics.answered(name, response.as_error_code().unwrap_or(0), started.elapsed());
            response
        }
    }

    fn batch<'a>(&self, batch: Batch<'a>) -> impl Future<Output = MethodResponse> + Send + 'a {
        let this = self.clone();
        async move {
            let (mut answers, mut notified) =
                (BatchResponseBuilder::new_with_limit(MAX_RESPONSE_BYTES as usize), false);
            for entry in batch {
                let answer = match entry {
                    Ok(BatchEntry::Call(request)) => this.call(request).await,
                    Ok(BatchEntry::Notification(_)) => {
                        notified = true;
                        continue;
                    }
                    Err(wrong) => {
                        let (why, id) = wrong.into_parts();
                        MethodResponse::error(id, why)
                    }
                };
                if let Err(too_long) = answers.append(answer) {
                    return too_long;
                }
            }
            // JSON-RPC 2.0, 6: nothing is returned for notifications, and an empty batch is an invalid request
            match answers.is_empty() && notified {
                true => MethodResponse::notification(),
                false => MethodResponse::from_batch(answers.finish()),
            }
        }
    }

    fn notification<'a>(&self, n: Notification<'a>) -> impl Future<Output = MethodResponse> + Send + 'a {
        self.inner.notification(n)
    }
}
