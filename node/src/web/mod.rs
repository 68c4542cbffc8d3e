//! The page a full node serves: who makes which model better by how much, and is paid for it, for anyone with a
//! browser.
//!
//! The obvious way, a framework and a build step, makes thousands of strangers' files part of a node that holds money.
//! This is fifty kilobytes: plain HTML, CSS and JavaScript modules compiled into the program, which
//! ask the same JSON-RPC as `oda` does, from the same origin. It needs nothing from anywhere else, and its policy
//! ([`CSP`]) lets the browser load nothing else. What the ledger says reaches it as text nodes only.

mod layer;

pub use layer::{Web, WebLayer, serves};

/// What the page may do: its own scripts, styles and icon, and calls to where it came from. No inline script or style,
/// no frame around it, no form, no other origin.
pub const CSP: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                       base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Headers of every answer, beside its content type. `no-cache`: after an upgrade the next load is the new page.
pub const HEADERS: [(&str, &str); 5] = [
    ("content-security-policy", CSP),
    ("x-content-type-options", "nosniff"),
    ("cache-control", "no-cache"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
];

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// Paths of everything there is to get.
pub const PATHS: [&str; 8] =
    ["/", "/index.html", "/style.css", "/icon.svg", "/app.js", "/chart.js", "/claim.js", "/format.js"];

/// Content type and bytes of what is served under a path, without its query.
pub fn page(path: &str) -> Option<(&'static str, &'static [u8])> {
    let found: (&str, &[u8]) = match path {
        "/" | "/index.html" => (HTML, include_bytes!("assets/index.html")),
        "/style.css" => (CSS, include_bytes!("assets/style.css")),
        "/icon.svg" => (SVG, include_bytes!("assets/icon.svg")),
        "/app.js" => (JS, include_bytes!("assets/app.js")),
        "/chart.js" => (JS, include_bytes!("assets/chart.js")),
        "/claim.js" => (JS, include_bytes!("assets/claim.js")),
        "/format.js" => (JS, include_bytes!("assets/format.js")),
        _ => return None,
    };
    Some(found)
}
