//! A small JSON-RPC client for bitcoind and for the embedded chain.
//!
//! bitcoind answers neither JSON-RPC 2.0 nor quite 1.0 (errors come with status 500 and a body), and its
//! callers here need a dozen calls a second at most, so this is one blocking connection per call with a
//! limit on time and size, rather than a client library.

use serde_json::{Value, json};
use std::fmt;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longest time to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest silence within an answer; mining many blocks in one call takes seconds.
const READ_TIMEOUT: Duration = Duration::from_secs(120);
/// Longest answer taken, bytes: a full block in hex, and room to spare.
const MAX_ANSWER_BYTES: u64 = 9 << 20;

/// Where a bitcoind (or the embedded chain) answers, and as whom to ask.
#[derive(Clone, PartialEq, Eq)]
pub struct RpcEndpoint {
    /// Its address.
    pub addr: SocketAddr,
    /// Its user.
    pub user: String,
    /// The user's password.
    pub password: String,
}

impl fmt::Debug for RpcEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RpcEndpoint({}@{}, password <redacted>)", self.user, self.addr)
    }
}

/// A call failed.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    /// Nobody listens, or the connection broke.
    #[error("nothing answers at {addr} ({source}): start bitcoind, or correct the address")]
    Unreachable {
        /// Where.
        addr: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Wrong user or password.
    #[error("{addr} refuses the user or password: correct them, or another program listens there")]
    Unauthorized {
        /// Where.
        addr: SocketAddr,
    },
    /// The call was understood and refused.
    #[error("{method} was refused: {message} (code {code})")]
    Refused {
        /// The method called.
        method: String,
        /// bitcoind's error code.
        code: i64,
        /// bitcoind's words.
        message: String,
    },
    /// The answer is not what a bitcoind would say.
    #[error("{addr} does not answer {method} like a bitcoind ({why}): another program listens there")]
    BadAnswer {
        /// Where.
        addr: SocketAddr,
        /// The method called.
        method: String,
        /// What is wrong.
        why: String,
    },
}

/// Calls methods of one endpoint. Every call blocks.
#[derive(Clone, Debug)]
pub struct RpcClient {
    endpoint: RpcEndpoint,
}

impl RpcClient {
    /// A client of an endpoint; connects at each call.
    pub fn new(endpoint: RpcEndpoint) -> Self {
        Self { endpoint }
    }

    /// What it calls.
    pub fn endpoint(&self) -> &RpcEndpoint {
        &self.endpoint
    }

    /// Calls a method. Blocks.
    ///
    /// # Errors
    /// If nothing answers, or the answer is an error.
    pub fn call(&self, method: &str, params: Value) -> Result<Value, RpcError> {
        let addr = self.endpoint.addr;
        let body = json!({"jsonrpc": "1.0", "id": "oda", "method": method, "params": params}).to_string();
        let request = format!(
            "POST / HTTP/1.1\r\nHost: {addr}\r\nAuthorization: {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            basic_auth(&self.endpoint.user, &self.endpoint.password),
            body.len(),
        );
        let answer = self.exchange(request.as_bytes()).map_err(|source| RpcError::Unreachable { addr, source })?;
        self.parse(method, &answer)
    }

    fn exchange(&self, request: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&self.endpoint.addr, CONNECT_TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(READ_TIMEOUT))?;
        stream.set_write_timeout(Some(READ_TIMEOUT))?;
        stream.write_all(request)?;
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer)?;
        Ok(answer)
    }

    fn parse(&self, method: &str, answer: &[u8]) -> Result<Value, RpcError> {
        let addr = self.endpoint.addr;
        let bad = |why: &str| RpcError::BadAnswer { addr, method: method.into(), why: why.into() };
        let text = std::str::from_utf8(answer).map_err(|_| bad("not text"))?;
        let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| bad("not HTTP"))?;
        let status = head.split(' ').nth(1).unwrap_or_default();
        if status == "401" || status == "403" {
            return Err(RpcError::Unauthorized { addr });
        }
        let mut value: Value = serde_json::from_str(body).map_err(|_| bad("the body is not JSON"))?;
        if let Some(error) = value.get("error").filter(|e| !e.is_null()) {
            let message = error.get("message").and_then(Value::as_str).unwrap_or("no reason given");
            return Err(RpcError::Refused {
                method: method.into(),
                code: error.get("code").and_then(Value::as_i64).unwrap_or(-1),
                message: message.chars().take(1000).collect(),
            });
        }
        value.get_mut("result").map(Value::take).ok_or_else(|| bad("no result"))
    }

    /// Calls a method that answers with a number.
    ///
    /// # Errors
    /// As [`RpcClient::call`], and if the answer is no number.
    pub fn call_u64(&self, method: &str, params: Value) -> Result<u64, RpcError> {
        let value = self.call(method, params)?;
        value.as_u64().ok_or_else(|| self.not_a(method, "number"))
    }

    /// Calls a method that answers with a string.
    ///
    /// # Errors
    /// As [`RpcClient::call`], and if the answer is no string.
    pub fn call_string(&self, method: &str, params: Value) -> Result<String, RpcError> {
        let value = self.call(method, params)?;
        value.as_str().map(Into::into).ok_or_else(|| self.not_a(method, "string"))
    }

    fn not_a(&self, method: &str, kind: &str) -> RpcError {
        RpcError::BadAnswer { addr: self.endpoint.addr, method: method.into(), why: format!("not a {kind}") }
    }
}

/// Value of an `Authorization` header (RFC 7617).
pub(crate) fn basic_auth(user: &str, password: &str) -> String {
    format!("Basic {}", base64(format!("{user}:{password}").as_bytes()))
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let bits = (0..3).fold(0u32, |bits, i| (bits << 8) | chunk.get(i).map_or(0, |b| u32::from(*b)));
        for place in 0..4 {
            let digit = DIGITS.get((bits >> (18 - 6 * place) & 63) as usize).map_or('=', |d| char::from(*d));
            out.push(if place <= chunk.len() { digit } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test] // RFC 4648, section 10
    fn base64_vectors() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn answers_and_refusals() {
        let endpoint =
            RpcEndpoint { addr: "127.0.0.1:1".parse().unwrap(), user: "u".into(), password: "secret".into() };
        assert!(!format!("{endpoint:?}").contains("secret"));
        let client = RpcClient::new(endpoint);
        let ok = b"HTTP/1.1 200 OK\r\n\r\n{\"result\":7,\"error\":null,\"id\":1}";
        assert_eq!(client.parse("m", ok).unwrap(), json!(7));
        let refused = b"HTTP/1.1 500 x\r\n\r\n{\"result\":null,\"error\":{\"code\":-5,\"message\":\"no\"}}";
        assert!(matches!(client.parse("m", refused).unwrap_err(), RpcError::Refused { code: -5, .. }));
        let denied = b"HTTP/1.1 401 Unauthorized\r\n\r\n";
        assert!(matches!(client.parse("m", denied).unwrap_err(), RpcError::Unauthorized { .. }));
        for noise in [b"".as_slice(), b"\xff", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n{}", b"\r\n\r\n[1]"]
        {
            assert!(matches!(client.parse("m", noise).unwrap_err(), RpcError::BadAnswer { .. }));
        }
        assert!(matches!(client.call("m", json!([])).unwrap_err(), RpcError::Unreachable { .. }));
    }
}
