//! HTTP/1.1, as much of it as bitcoind's callers use: POST with a length, keep-alive, basic authentication.
//!
//! Every line, body and pause has a limit: a request comes from any program on this machine.

use serde_json::Value;
use std::io::{BufRead, Read as _, Write};

/// Longest line of a head, bytes.
const MAX_LINE_BYTES: u64 = 8 << 10;
/// Most header lines.
const MAX_HEADERS: usize = 64;
/// Longest body, bytes: the heaviest block in hex, and room for the call around it.
const MAX_BODY_BYTES: u64 = (8 << 20) + (64 << 10);
/// Longest body of a caller with a wrong password that is read at all, so that its answer arrives, bytes.
const MAX_STRANGER_BODY_BYTES: u64 = 64 << 10;

/// A request whose head and body are whole.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct HttpRequest {
    pub(super) body: Vec<u8>,
    pub(super) keep_alive: bool,
}

/// What came instead of one.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Bad {
    /// The connection ended or fell silent.
    Gone,
    /// Answer with this status, and close.
    Status(&'static str),
}

fn line(reader: &mut impl BufRead) -> Result<String, Bad> {
    let mut bytes = Vec::new();
    let read = reader.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut bytes).map_err(|_| Bad::Gone)?;
    match bytes.strip_suffix(b"\n") {
        Some(line) => {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            String::from_utf8(line.to_vec()).map_err(|_| Bad::Status("400 Bad Request"))
        }
        None if read as u64 >= MAX_LINE_BYTES => Err(Bad::Status("431 Request Header Fields Too Large")),
        None => Err(Bad::Gone),
    }
}

/// Reads one request of a caller who shows this authorization.
pub(super) fn read(reader: &mut impl BufRead, expected: &str) -> Result<HttpRequest, Bad> {
    let first = line(reader)?;
    let mut words = first.split(' ');
    let (method, _path, version) = (words.next(), words.next(), words.next());
    let keep_alive = match version {
        Some("HTTP/1.1") => true,
        Some("HTTP/1.0") => false,
        _ => return Err(Bad::Status("400 Bad Request")),
    };
    if method != Some("POST") {
        return Err(Bad::Status("405 Method Not Allowed"));
    }
    let mut request = HttpRequest { body: Vec::new(), keep_alive };
    let (mut length, mut authorized) = (None, false);
    for n in 0.. {
        let header = line(reader)?;
        if header.is_empty() {
            break;
        }
        if n >= MAX_HEADERS {
            return Err(Bad::Status("431 Request Header Fields Too Large"));
        }
        let (name, value) = header.split_once(':').ok_or(Bad::Status("400 Bad Request"))?;
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => {
                let parsed = value.parse::<u64>().map_err(|_| Bad::Status("400 Bad Request"))?;
                if length.replace(parsed).is_some_and(|old| old != parsed) {
                    return Err(Bad::Status("400 Bad Request"));
                }
            }
            "transfer-encoding" => return Err(Bad::Status("411 Length Required")),
            "authorization" => authorized = value == expected,
            "connection" if value.eq_ignore_ascii_case("close") => request.keep_alive = false,
            "connection" if value.eq_ignore_ascii_case("keep-alive") => request.keep_alive = true,
            _ => {}
        }
    }
    let length = length.ok_or(Bad::Status("411 Length Required"))?;
    if length > MAX_BODY_BYTES {
        return Err(Bad::Status("413 Content Too Large"));
    }
    if !authorized && length > MAX_STRANGER_BODY_BYTES {
        return Err(Bad::Status("401 Unauthorized"));
    }
    // grows with what arrives: a length alone costs nothing
    let read = reader.by_ref().take(length).read_to_end(&mut request.body).map_err(|_| Bad::Gone)?;
    match (read as u64 == length, authorized) {
        (false, _) => Err(Bad::Gone),
        (true, false) => Err(Bad::Status("401 Unauthorized")),
        (true, true) => Ok(request),
    }
}

/// Writes one answer.
pub(super) fn write(writer: &mut impl Write, status: &str, body: &Value, keep_alive: bool) -> std::io::Result<()> {
    let body = body.to_string();
    let connection = if keep_alive { "keep-alive" } else { "close" };
    let challenge = if status.starts_with("401") { "WWW-Authenticate: Basic realm=\"jsonrpc\"\r\n" } else { "" };
    let answer = format!(
        "HTTP/1.1 {status}\r\n{challenge}Content-Type: application/json\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n{body}",
        body.len(),
    );
    writer.write_all(answer.as_bytes())?;
    writer.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(bytes: &[u8]) -> Result<HttpRequest, Bad> {
        read(&mut &bytes[..], "Basic eA==")
    }

    #[test]
    fn requests_and_what_is_wrong_with_them() {
        let ok = parse(b"POST / HTTP/1.1\r\nauthorization: Basic eA==\r\nContent-Length: 2\r\n\r\n{}rest").unwrap();
        assert_eq!(ok, HttpRequest { body: b"{}".to_vec(), keep_alive: true });
        let closing = b"POST / HTTP/1.1\r\nConnection: Close\r\nAuthorization: Basic eA==\r\nContent-Length: 0\r\n\r\n";
        assert!(!parse(closing).unwrap().keep_alive);
        let long_line = [b"POST /".as_slice(), &[b'x'; 9000]].concat();
        let many = ["POST / HTTP/1.1\r\n".to_string(), "a: b\r\n".repeat(70)].concat();
        for (bytes, status) in [
            (b"GET / HTTP/1.1\r\n\r\n".as_slice(), "405"),
            (b"\r\n", "400"),
            (b"POST / HTTP/9\r\n\r\n", "400"),
            (b"POST / HTTP/1.1\r\n\xff\xfe\r\n\r\n", "400"),
            (b"POST / HTTP/1.1\r\nno colon\r\n\r\n", "400"),
            (b"POST / HTTP/1.1\r\n\r\n", "411"),
            (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", "411"),
            (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", "400"),
            (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n12", "400"),
            (b"POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", "413"),
            (b"POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\n1", "401"),
            (b"POST / HTTP/1.1\r\nAuthorization: Basic eB==\r\nContent-Length: 1\r\n\r\n1", "401"),
            (b"POST / HTTP/1.1\r\nContent-Length: 8000000\r\n\r\n", "401"), // not read
            (&long_line, "431"),
            (many.as_bytes(), "431"),
        ] {
            let Err(Bad::Status(found)) = parse(bytes) else { panic!("{:?}", String::from_utf8_lossy(bytes)) };
            assert!(found.starts_with(status), "{found}, not {status}");
        }
        assert_eq!(parse(b""), Err(Bad::Gone));
        assert_eq!(parse(b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n123"), Err(Bad::Gone));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = parse(&bytes);
            let _ = parse(&[b"POST / HTTP/1.1\r\n".as_slice(), &bytes].concat());
        }
    }
}
