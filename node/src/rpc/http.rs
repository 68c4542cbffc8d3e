//! What stands before JSON-RPC on the port: who may come in, and the pages for people and monitoring.
//!
//! A loopback address keeps strangers out, not web pages: a page in the operator's browser can send requests to
//! loopback, and read the answers once its host name has been pointed there (DNS rebinding). Such requests name a
//! foreign `Host` or `Origin`, so both are checked before anything else is looked at, WebSocket handshakes included.

use super::cookie::Cookie;
use super::errors::BUSY;
use super::guard::{Caller, Shown};
use super::health::Health;
use super::metrics::Metrics;
use super::{Limits, MAX_REQUEST_BYTES, doc};
use crate::clock::now_ms;
use crate::full::Shared;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use jsonrpsee::core::BoxError;
use jsonrpsee::server::{HttpBody, HttpRequest, HttpResponse, ws};
use serde_json::json;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::Semaphore;

const JSON: &str = "application/json; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";
const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Checks requests and answers those that are not JSON-RPC.
pub(super) struct Gate {
    pub(super) hosts: Vec<String>,
    pub(super) cookie: Cookie,
    pub(super) shared: Arc<Shared>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) limits: Limits,
    /// Bodies being received.
    pub(super) bodies: Arc<Semaphore>,
}

/// Puts a [`Gate`] before the server.
#[derive(Clone)]
pub(super) struct GateLayer(pub(super) Arc<Gate>);

impl<S> tower::Layer<S> for GateLayer {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated { inner, gate: self.0.clone() }
    }
}

/// The server behind its gate.
#[derive(Clone)]
pub(super) struct Gated<S> {
    inner: S,
    gate: Arc<Gate>,
}

impl<S> tower::Service<HttpRequest> for Gated<S>
where
    S: tower::Service<HttpRequest, Response = HttpResponse, Error = BoxError> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = HttpResponse;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: HttpRequest) -> Self::Future {
        let (gate, mut inner) = (self.gate.clone(), self.inner.clone());
        Box::pin(async move {
            match gate.admit(request).await {
                Ok(request) => inner.call(request).await,
                Err(response) => Ok(*response),
            }
        })
    }
}

impl Gate {
    /// The request for JSON-RPC, or the answer to everything else.
    async fn admit(&self, mut request: HttpRequest) -> Result<HttpRequest, Box<HttpResponse>> {
        if let Err((reason, why)) = self.check_names(&request) {
            self.metrics.refused(reason);
            return Err(text(http::StatusCode::FORBIDDEN, why));
        }
        let shown = match request.headers().get(http::header::AUTHORIZATION).map(|v| v.as_bytes()) {
            None => Shown::Nothing,
            Some(header) if self.cookie.opens(header) => Shown::Cookie,
            Some(header) => Shown::token(header),
        };
        let websocket = ws::is_upgrade_request(&request);
        request.extensions_mut().insert(Caller { shown, websocket });
        if websocket {
            return Ok(request);
        }
        let path = request.uri().path();
        let is_get = request.method() == http::Method::GET;
        if let Some(respond) = self.operations(path) {
            return Err(if is_get { respond() } else { only("GET") });
        }
        if crate::web::serves(&request) {
            return Ok(request);
        }
        if is_get {
            return Err(text(http::StatusCode::NOT_FOUND, "nothing here; JSON-RPC is sent with POST".into()));
        }
        if request.method() != http::Method::POST {
            return Err(only("GET, POST"));
        }
        self.with_body(request).await
    }

    /// Whether a request is meant for this node, and not sent by somebody else's web page.
    fn check_names(&self, request: &HttpRequest) -> Result<(), (&'static str, String)> {
        let header = |name| request.headers().get(name).map(|v| v.to_str().unwrap_or(""));
        let named = header(http::header::HOST).or_else(|| request.uri().authority().map(|a| a.as_str()));
        let host = named.unwrap_or("");
        if !is_ours(host, &self.hosts) {
            let why = format!("Host {host:?} is not this node's: use its IP address, or list the name in [rpc] hosts");
            return Err(("host", why));
        }
        let Some(origin) = header(http::header::ORIGIN) else { return Ok(()) };
        let site = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://")).unwrap_or("");
        if !site.eq_ignore_ascii_case(host) && !is_listed(site, &self.hosts) {
            let why =
                format!("Origin {origin:?} may not use this node: list its host name in [rpc] hosts if it is yours");
            return Err(("origin", why));
        }
        Ok(())
    }

    /// What is served to monitoring.
    fn operations(&self, path: &str) -> Option<Box<dyn Fn() -> Box<HttpResponse> + '_>> {
        let ok = http::StatusCode::OK;
        Some(match path {
            "/health" => Box::new(move || {
                let body = json!({ "status": "ok", "version": env!("CARGO_PKG_VERSION") });
                respond(ok, JSON, body.to_string())
            }),
            "/ready" => Box::new(move || {
                let health = Health::of(&self.shared, now_ms());
                let status = if health.is_ready() { ok } else { http::StatusCode::SERVICE_UNAVAILABLE };
                respond(status, JSON, health.to_json().to_string())
            }),
            "/metrics" => Box::new(move || match self.metrics.text() {
                Ok(text) => respond(ok, METRICS, text),
                Err(_) => text(http::StatusCode::SERVICE_UNAVAILABLE, "the metrics cannot be written".into()),
            }),
            "/openrpc.json" => Box::new(move || respond(ok, JSON, doc::openrpc().to_string())),
            _ => return None,
        })
    }

    /// The request with its whole body: received within the time and length allowed.
    async fn with_body(&self, request: HttpRequest) -> Result<HttpRequest, Box<HttpResponse>> {
        let refuse = |reason, status, why: String| {
            self.metrics.refused(reason);
            Err(text(status, why))
        };
        let Ok(_receiving) = self.bodies.try_acquire() else {
            return refuse("busy", http::StatusCode::TOO_MANY_REQUESTS, format!("too many requests at once ({BUSY})"));
        };
        let (parts, body) = request.into_parts();
        let whole = Limited::new(body, MAX_REQUEST_BYTES as usize).collect();
        match tokio::time::timeout(self.limits.body_timeout, whole).await {
            Ok(Ok(body)) => {
                Ok(HttpRequest::from_parts(parts, HttpBody::new(http_body_util::Full::new(body.to_bytes()))))
            }
            Ok(Err(e)) if e.is::<LengthLimitError>() => {
                let why = format!("the body is longer than {MAX_REQUEST_BYTES} bytes");
                refuse("length", http::StatusCode::PAYLOAD_TOO_LARGE, why)
            }
            Ok(Err(_)) => refuse("body", http::StatusCode::BAD_REQUEST, "the body ended early".into()),
            Err(_) => refuse("slow", http::StatusCode::REQUEST_TIMEOUT, "the body did not come in time".into()),
        }
    }
}

/// Whether a `Host` is this machine's loopback, an IP address, or listed. A rebound name is never an address.
fn is_ours(host: &str, listed: &[String]) -> bool {
    name_of(host).is_some_and(|name| {
        let address = name.trim_start_matches('[').trim_end_matches(']');
        name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok() || is_listed(host, listed)
    })
}

fn is_listed(host: &str, listed: &[String]) -> bool {
    name_of(host).is_some_and(|name| listed.iter().any(|l| l.eq_ignore_ascii_case(&name)))
}

/// The name in `name:port`.
fn name_of(host: &str) -> Option<String> {
    let authority: http::uri::Authority = host.parse().ok()?;
    (!authority.as_str().contains('@')).then(|| authority.host().to_string())
}

fn text(status: http::StatusCode, why: String) -> Box<HttpResponse> {
    respond(status, TEXT, why + "\n")
}

fn only(methods: &'static str) -> Box<HttpResponse> {
    let mut response = text(http::StatusCode::METHOD_NOT_ALLOWED, format!("use {methods}"));
    response.headers_mut().insert(http::header::ALLOW, http::HeaderValue::from_static(methods));
    response
}

fn respond(status: http::StatusCode, kind: &'static str, body: impl Into<Vec<u8>>) -> Box<HttpResponse> {
    let body: Vec<u8> = body.into();
    let mut response = HttpResponse::new(HttpBody::new(http_body_util::Full::new(body.into())));
    *response.status_mut() = status;
    for (name, value) in [
        (http::header::CONTENT_TYPE, kind),
        (http::header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (http::header::X_FRAME_OPTIONS, "DENY"),
        (http::header::CACHE_CONTROL, "no-store"),
    ] {
        response.headers_mut().insert(name, http::HeaderValue::from_static(value));
    }
    Box::new(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_an_address_or_a_listed_name() {
        let listed = vec!["node.example".to_string()];
        for good in ["localhost", "LocalHost:8645", "127.0.0.1:8645", "[::1]:8645", "10.1.2.3", "Node.Example:1"] {
            assert!(is_ours(good, &listed), "{good}");
        }
        let bad = [
            "",
            ":",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:8645",
            "u@localhost",
            "node.example.",
            "1.2.3",
            "[::1",
            "localhost/",
            "localhost localhost",
            "node.example@evil.example",
        ];
        for bad in bad {
            assert!(!is_ours(bad, &listed), "{bad}");
        }
        assert!(!is_ours("node.example", &[]));
        assert!(is_listed("node.example:3000", &listed) && !is_listed("127.0.0.1", &listed));
    }
}
