//! The page of a full node: complete in itself, nothing in it runs what a stranger wrote, and JSON-RPC is still there.
//! How it looks and behaves in Chromium: `scripts/web-check`.

use http::{Method, Request, Response, StatusCode};
use oda_node::web::{CSP, HEADERS, PATHS, WebLayer, page};
use std::convert::Infallible;
use tower::{Layer as _, ServiceExt as _};

fn text(path: &str) -> String {
    let (_, bytes) = page(path).unwrap_or_else(|| panic!("{path} is not served"));
    String::from_utf8(bytes.to_vec()).unwrap_or_else(|_| panic!("{path} is not UTF-8"))
}

/// What stands between `before` and the next `after`, everywhere.
fn between<'a>(text: &'a str, before: &str, after: char) -> Vec<&'a str> {
    text.split(before).skip(1).filter_map(|rest| rest.split(after).next()).collect()
}

#[test]
fn everything_the_page_refers_to_is_served_from_here() {
    let html = text("/");
    let mut referred: Vec<String> = Vec::new();
    for attribute in ["src=\"", "href=\""] {
        referred.extend(between(&html, attribute, '"').into_iter().filter(|r| !r.starts_with('#')).map(String::from));
    }
    for script in PATHS.iter().filter(|p| p.ends_with(".js")) {
        referred.extend(between(&text(script), " from './", '\'').into_iter().map(String::from));
    }
    assert!(referred.len() >= 6, "{referred:?}");
    for name in &referred {
        assert!(page(&format!("/{name}")).is_some(), "{name} is referred to and not served");
    }
    for path in PATHS {
        let used = matches!(path, "/" | "/index.html") || referred.iter().any(|r| format!("/{r}") == path);
        assert!(used, "{path} is served and never used");
    }
}

#[test]
fn nothing_comes_from_another_origin() {
    for path in PATHS {
        let text = text(path).replace("http://www.w3.org/2000/svg", "");
        for foreign in ["http:", "https:", "src=\"//", "href=\"//", "url(", "@import", "ws:", "data:"] {
            assert!(!text.contains(foreign), "{path} holds {foreign}");
        }
    }
}

#[test] // a model named like an element is shown as that text
fn no_script_or_style_is_inline_and_no_text_becomes_an_element() {
    let html = text("/");
    let tags = between(&html, "<script", '>');
    assert_eq!(tags.len(), 1);
    assert!(tags.iter().all(|tag| tag.contains("src=\"")) && html.contains("></script>"));
    for inline in [" style=", "<style", " onclick", " onload", " onerror", "javascript:"] {
        assert!(!html.contains(inline), "index.html holds {inline}");
    }
    let sinks = [
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "DOMParser",
        "createContextualFragment",
        "eval(",
        "new Function",
        "setHTML",
        "srcdoc",
    ];
    for path in PATHS.iter().filter(|p| p.ends_with(".js")) {
        // what a comment says is no code
        let code: String = text(path).lines().filter(|l| !l.trim_start().starts_with("//")).collect();
        for sink in sinks {
            assert!(!code.contains(sink), "{path} uses {sink}");
        }
    }
}

#[test]
fn the_policy_lets_the_browser_load_nothing_else() {
    let directives: Vec<&str> = CSP.split(';').map(str::trim).collect();
    for wanted in [
        "default-src 'none'",
        "script-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ] {
        assert!(directives.contains(&wanted), "{wanted}: {CSP}");
    }
    assert!(!CSP.contains("unsafe") && !CSP.contains('*') && !CSP.contains("  "), "{CSP}");
}

#[test]
fn every_method_the_page_calls_is_one_the_node_has() {
    let offered: Vec<String> =
        between(include_str!("../src/rpc/api.rs"), "#[method(name = \"", '"').into_iter().map(String::from).collect();
    let mut called = 0;
    for path in PATHS.iter().filter(|p| p.ends_with(".js")) {
        for method in between(&text(path), "call('", '\'') {
            assert!(offered.iter().any(|o| o == method), "{path} calls {method}");
            called += 1;
        }
    }
    assert!(called >= 8, "{called}");
}

#[test]
fn the_whole_page_is_small() {
    let bytes: usize = PATHS.iter().skip(1).filter_map(|p| page(p)).map(|(_, b)| b.len()).sum();
    assert!(bytes < 80_000, "{bytes} bytes");
    assert!(
        ["", "app.js", "/../rpc.rs", "/assets/app.js", "//", "/app.js/", "/APP.JS"].iter().all(|p| page(p).is_none())
    );
}

async fn ask(method: Method, path: &str, header: Option<(&str, &str)>) -> Response<Vec<u8>> {
    let inner = tower::service_fn(|_: Request<()>| async {
        let mut response = Response::new(b"json-rpc".to_vec());
        *response.status_mut() = StatusCode::ACCEPTED;
        Ok::<_, Infallible>(response)
    });
    let mut request = Request::builder().method(method).uri(path);
    if let Some((name, value)) = header {
        request = request.header(name, value);
    }
    let request = request.body(()).expect("a request");
    WebLayer.layer(inner).oneshot(request).await.unwrap_or_else(|never| match never {})
}

#[tokio::test]
async fn the_page_comes_with_its_headers_and_the_rest_goes_to_json_rpc() {
    for path in PATHS {
        let got = ask(Method::GET, &format!("{path}?x=1"), None).await;
        assert_eq!(got.status(), StatusCode::OK, "{path}");
        let (content_type, bytes) = page(path).expect(path);
        assert_eq!((got.headers()["content-type"].as_bytes(), got.body().as_slice()), (content_type.as_bytes(), bytes));
        for (name, value) in HEADERS {
            assert_eq!(got.headers()[name], value, "{path}");
        }
    }
    let head = ask(Method::HEAD, "/", None).await;
    assert!(
        head.status() == StatusCode::OK
            && head.body().is_empty()
            && head.headers().contains_key("content-security-policy")
    );
    let others = [
        ask(Method::POST, "/", None).await,
        ask(Method::GET, "/health", None).await,
        ask(Method::GET, "/", Some(("upgrade", "websocket"))).await,
        ask(Method::OPTIONS, "/", None).await,
    ];
    assert!(others.iter().all(|r| r.status() == StatusCode::ACCEPTED && r.body() == b"json-rpc"));
}

async fn say(address: std::net::SocketAddr, request: String) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("a connection");
    stream.write_all(request.as_bytes()).await.expect("it takes the request");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("it answers");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn one_port_serves_the_page_and_json_rpc() {
    let middleware = tower::ServiceBuilder::new().layer(WebLayer);
    let server = jsonrpsee::server::Server::builder().set_http_middleware(middleware);
    let server = server.build("127.0.0.1:0").await.expect("a port");
    let address = server.local_addr().expect("its address");
    let mut methods = jsonrpsee::RpcModule::new(());
    methods.register_method("oda_status", |_, (), _| "fine").expect("a method");
    let handle = server.start(methods);
    let page = say(address, format!("GET / HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")).await;
    assert!(page.starts_with("HTTP/1.1 200") && page.contains(CSP) && page.contains("<!doctype html>"), "{page}");
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"oda_status"}"#;
    let head = format!("POST / HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-type: application/json");
    let rpc = say(address, format!("{head}\r\ncontent-length: {}\r\n\r\n{call}", call.len())).await;
    assert!(rpc.starts_with("HTTP/1.1 200") && rpc.contains(r#""result":"fine""#), "{rpc}");
    let absent = say(address, format!("GET /rpc.rs HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")).await;
    assert!(!absent.starts_with("HTTP/1.1 200"), "{absent}");
    handle.stop().expect("it runs");
}
