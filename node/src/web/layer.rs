//! Answers GET and HEAD for the page's paths before JSON-RPC sees them; everything else goes on, WebSocket upgrades
//! (which are GET too) among it.

use super::{HEADERS, page};
use futures::future::{Either, Ready, ready};
use http::header::{CONTENT_TYPE, HeaderValue, UPGRADE};
use http::{Method, Request, Response};
use std::task::{Context, Poll};
use tower::{Layer, Service};

/// Puts [`Web`] around a service.
#[derive(Clone, Copy, Debug, Default)]
pub struct WebLayer;

impl<S> Layer<S> for WebLayer {
    type Service = Web<S>;

    fn layer(&self, inner: S) -> Web<S> {
        Web { inner }
    }
}

/// Serves the page, and hands on what is not for it.
#[derive(Clone, Debug)]
pub struct Web<S> {
    inner: S,
}

/// Whether a request is for the page.
pub fn serves<R>(request: &Request<R>) -> bool {
    matches!(*request.method(), Method::GET | Method::HEAD)
        && !request.headers().contains_key(UPGRADE)
        && page(request.uri().path()).is_some()
}

/// The answer to a request for the page.
fn answer<R, B: From<Vec<u8>>>(request: &Request<R>) -> Option<Response<B>> {
    if !serves(request) {
        return None;
    }
    let (content_type, bytes) = page(request.uri().path())?;
    let body = if request.method() == Method::HEAD { Vec::new() } else { bytes.to_vec() };
    let mut response = Response::new(B::from(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    Some(response)
}

impl<S, R, B> Service<Request<R>> for Web<S>
where
    S: Service<Request<R>, Response = Response<B>>,
    B: From<Vec<u8>>,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = Either<Ready<Result<Response<B>, S::Error>>, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<R>) -> Self::Future {
        match answer(&request) {
            Some(response) => Either::Left(ready(Ok(response))),
            None => Either::Right(self.inner.call(request)),
        }
    }
}
