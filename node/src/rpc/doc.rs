//! What [`super::schema`] says, as OpenRPC document for programs and as Markdown for people.
//!
//! `oda rpc-doc > docs/rpc.md` writes the file; a test fails as long as it is another.

use super::errors::ERRORS;
use super::schema::{COMMON_ERRORS, Field, Kind, METHODS, Method, SHAPES};
use super::{COOKIE_FILE, Limits, MAX_PAGE, MAX_PAGE_BYTES, MAX_REQUEST_BYTES, MAX_RESPONSE_BYTES};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// The JSON schema of a type.
pub fn json_schema(kind: &str) -> Value {
    if let Some(inner) = kind.strip_suffix('?') {
        return match json_schema(inner) {
            Value::Object(any) if any.is_empty() => json!({}),
            schema => json!({ "anyOf": [schema, { "type": "null" }] }),
        };
    }
    if let Some(inner) = kind.strip_suffix("[]") {
        return json!({ "type": "array", "items": json_schema(inner) });
    }
    match kind {
        "any" => json!({}),
        "u64" => json!({ "type": "integer", "minimum": 0 }),
        "i64" => json!({ "type": "integer" }),
        "bool" => json!({ "type": "boolean" }),
        "string" => json!({ "type": "string" }),
        "hash" => json!({ "type": "string", "pattern": "^[0-9a-f]{64}$" }),
        "hex" => json!({ "type": "string", "pattern": "^([0-9a-f]{2})*$" }),
        shape => json!({ "$ref": format!("#/components/schemas/{shape}") }),
    }
}

fn object(about: &str, fields: &[Field]) -> Value {
    let properties: serde_json::Map<String, Value> = fields
        .iter()
        .map(|(name, kind, about)| {
            let mut schema = json_schema(kind);
            schema["description"] = json!(about);
            ((*name).to_string(), schema)
        })
        .collect();
    let required: Vec<_> = fields.iter().filter(|(_, kind, _)| !kind.ends_with('?')).map(|(name, ..)| name).collect();
    json!({
        "type": "object",
        "description": about,
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

fn openrpc_method(m: &Method) -> Value {
    let params: Vec<Value> = m
        .params
        .iter()
        .map(|(name, kind, about)| {
            json!({ "name": name, "description": about, "required": !kind.ends_with('?'), "schema": json_schema(kind) })
        })
        .collect();
    let errors: Vec<Value> = m
        .errors
        .iter()
        .chain(COMMON_ERRORS)
        .map(|code| json!({ "$ref": format!("#/components/errors/E{}", -code) }))
        .collect();
    let result = match m.kind {
        Kind::Subscribe(_) => json!({ "name": "subscription", "schema": {} }),
        _ => json!({ "name": "result", "schema": json_schema(m.result) }),
    };
    let mut out = json!({
        "name": m.name,
        "summary": m.about,
        "paramStructure": "either",
        "params": params,
        "result": result,
        "errors": errors,
        "x-auth": auth(m),
    });
    if let Kind::Subscribe(notification) = m.kind {
        out["x-notification"] = json!({ "name": notification, "schema": json_schema(m.result) });
    }
    out
}

fn auth(m: &Method) -> &'static str {
    m.auth.name()
}

/// The OpenRPC document (<https://spec.open-rpc.org>, 1.3.2).
pub fn openrpc() -> Value {
    let shapes: serde_json::Map<String, Value> =
        SHAPES.iter().map(|(name, about, fields)| ((*name).to_string(), object(about, fields))).collect();
    let errors: serde_json::Map<String, Value> = ERRORS
        .iter()
        .map(|e| (format!("E{}", -e.code), json!({ "code": e.code, "message": format!("{}: {}", e.name, e.meaning) })))
        .collect();
    json!({
        "openrpc": "1.3.2",
        "info": { "title": "oda full node", "version": env!("CARGO_PKG_VERSION") },
        "methods": METHODS.iter().map(openrpc_method).collect::<Vec<_>>(),
        "components": { "schemas": shapes, "errors": errors },
    })
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn fields(out: &mut String, what: &str, fields: &[Field]) {
    let _ = writeln!(out, "\n| {what} | type | |\n|---|---|---|");
    for (name, kind, about) in fields {
        let _ = writeln!(out, "| `{name}` | {} | {} |", kind_link(kind), cell(about));
    }
}

fn kind_link(kind: &str) -> String {
    let base = kind.trim_end_matches('?').trim_end_matches("[]");
    match SHAPES.iter().any(|(name, ..)| *name == base) {
        true => format!("[{kind}](#{})", base.to_lowercase()),
        false => format!("`{kind}`"),
    }
}

fn markdown_method(out: &mut String, m: &Method) {
    let _ = writeln!(out, "\n### {}\n\n{}", m.name, m.about);
    if !m.params.is_empty() {
        fields(out, "parameter", m.params);
    }
    let _ = match m.kind {
        Kind::Subscribe(name) => writeln!(out, "\nItems: {}, as `{name}`. Access: {}.", kind_link(m.result), auth(m)),
        _ => writeln!(out, "\nAnswer: {}. Access: {}.", kind_link(m.result), auth(m)),
    };
    if let Some(patience) = m.patience {
        let _ = writeln!(out, "May take up to {} s.", patience.as_secs());
    }
    if !m.errors.is_empty() {
        let codes: Vec<String> = m.errors.iter().map(i32::to_string).collect();
        let _ = writeln!(out, "Errors of its own: {}.", codes.join(", "));
    }
}

/// `docs/rpc.md`.
pub fn markdown() -> String {
    let l = Limits::default();
    let mut out = format!(
        "# RPC of a full node\n\n\
         Made from `node/src/rpc/schema.rs` and `shapes.rs` with `oda rpc-doc > docs/rpc.md`; change them there.\n\n\
         A full node serves JSON-RPC 2.0 on `[rpc] listen` of its `oda.toml` (127.0.0.1:8645 if not set): over HTTP with \
         POST, one connection for as many requests as wanted, and over WebSocket, where subscriptions are possible too. \
         `GET /openrpc.json` and the method `rpc.discover` give what follows as an OpenRPC document.\n\n\
         ```\n\
         curl -s http://127.0.0.1:8645 -H 'content-type: application/json' \\\n  \
         -d '{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"oda_status\"}}'\n\
         curl -s http://127.0.0.1:8645 -H 'content-type: application/json' --user \"$(cat DATADIR/{COOKIE_FILE})\" \\\n  \
         -d '{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"oda_stop\"}}'\n\
         ```\n\n\
         Parameters are given by place or by name; absent ones at the end may be left out. Hashes and bytes are lowercase \
         hex. Amounts carry their unit in the name (`_msat`, `_sat`), as do gains (`_unat`: micro-nats of mean loss) and \
         times (`_ms`).\n\n\
         ## Access\n\n\
         - `open`: whoever reaches the port. The port has no other protection: keep it on loopback, or behind something \
         that decides who reaches it.\n\
         - `write`: acts for the node's owner, and needs the content of `{COOKIE_FILE}` in the data directory as HTTP basic \
         authentication. The file is new at each start, readable by its owner only, and removed at the end. On a WebSocket \
         it is shown in the handshake.\n\n\
         Whoever should do a part of that gets a token: `oda token make --method NAME` or `--class write`, sent as \
         `Authorization: Bearer TOKEN` wherever the cookie is. It opens what all of its caveats allow (`allow`: methods and \
         classes; `valid_until`: seconds since 1970), anyone who holds it can narrow it further offline (`oda token \
         narrow`), `oda token revoke` ends one of them and `oda token revoke-all` all. What is `open` needs none.\n\n\
         The `Host` of a request must be `localhost`, an IP address, or a name in `[rpc] hosts = [\"name\"]`, else it is \
         refused with 403: a web page that points its own name at this machine gets nothing (DNS rebinding). A request \
         with an `Origin`, as browsers send it, must come from the node's own address or from a host in that list. No \
         CORS headers are sent.\n\n\
         ## Limits\n\n\
         | | |\n|---|---|\n",
    );
    let rows = [
        ("request, bytes", MAX_REQUEST_BYTES.to_string()),
        ("answer, bytes", MAX_RESPONSE_BYTES.to_string()),
        ("calls in a batch", l.batch.to_string()),
        ("requests and WebSocket connections at once", l.connections.to_string()),
        ("calls of one WebSocket connection at once", l.calls_per_connection.to_string()),
        ("subscriptions of one WebSocket connection", l.subscriptions.to_string()),
        ("messages waiting for a WebSocket's reader", l.buffered_messages.to_string()),
        ("time for a request to come, s", l.body_timeout.as_secs().to_string()),
        ("time for a call, s", l.call_timeout.as_secs().to_string()),
        ("time a subscriber may read nothing while its messages wait, s", l.slow_consumer.as_secs().to_string()),
        ("time between pings of a WebSocket, s; one that misses two is closed", l.ping.as_secs().to_string()),
        ("items of a page", MAX_PAGE.to_string()),
        ("bytes at which a page ends", MAX_PAGE_BYTES.to_string()),
    ];
    for (what, most) in rows {
        let _ = writeln!(out, "| {what} | {most} |");
    }
    out.push_str(
        "\nToo long a body is answered with 413, one that does not come with 408, too many requests with 429, another \
         content type than `application/json` with 415.\n\n\
         ## Pages\n\n\
         A list takes `limit` and a cursor: `after`, the name of the last item received (`from_round` and `to` work alike). \
         A page may hold fewer items than asked for; only an empty one is the last.\n\n\
         ## Subscriptions\n\n\
         `from_height` makes a subscription start with what is on the ledger already; nothing between that and the newest \
         is left out or sent twice. To resume after a broken connection, subscribe from the height after the last block \
         received (with records: from its height, leaving out those up to its `index`). A reader that does not keep up gets \
         an error as last message and nothing more.\n\n\
         ## Monitoring\n\n\
         | GET | |\n|---|---|\n\
         | `/health` | 200 while the process runs |\n\
         | `/ready` | 200 if the ledger is up to date (last block at most 30 block intervals old, or 60 s if that is \
         longer) and a peer is connected, unless this node is the whole committee; else 503 with the reasons |\n\
         | `/metrics` | metrics in the text format of OpenMetrics; `docs/grafana.json` is a dashboard of them |\n\
         | `/openrpc.json` | this document |\n\n\
         ## Errors\n\n\
         A code never changes its meaning; messages may.\n\n\
         | code | | meaning | what to do |\n|---|---|---|---|\n",
    );
    for e in ERRORS {
        let _ = writeln!(out, "| {} | {} | {} | {} |", e.code, e.name, cell(e.meaning), cell(e.remedy));
    }
    let common: Vec<String> = COMMON_ERRORS.iter().map(i32::to_string).collect();
    let _ = writeln!(out, "\nAny method may answer with {}.\n\n## Methods", common.join(", "));
    METHODS.iter().for_each(|m| markdown_method(&mut out, m));
    out.push_str(
        "\n## Shapes\n\n`any` stands for a record of the ledger that is documented with the rules it belongs to; `?` for a \
         value that may be null or absent, `[]` for a list.\n",
    );
    for (name, about, shape) in SHAPES {
        let _ = writeln!(out, "\n### {name}\n\n{about}");
        fields(&mut out, "field", shape);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::schema::Auth;
    use super::*;

    #[test]
    fn every_named_type_and_error_is_described() {
        let kinds = METHODS.iter().flat_map(|m| m.params.iter().map(|p| p.1).chain([m.result]));
        let kinds = kinds.chain(SHAPES.iter().flat_map(|(.., fields)| fields.iter().map(|f| f.1)));
        for kind in kinds {
            let base = kind.trim_end_matches('?').trim_end_matches("[]");
            let is_word = ["any", "u64", "i64", "bool", "string", "hash", "hex"].contains(&base);
            assert!(is_word || SHAPES.iter().any(|(name, ..)| *name == base), "{kind}");
        }
        for code in METHODS.iter().flat_map(|m| m.errors).chain(COMMON_ERRORS) {
            assert!(ERRORS.iter().any(|e| e.code == *code), "{code}");
        }
        let mut names: Vec<_> = METHODS.iter().map(|m| m.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), METHODS.len());
    }

    #[test]
    fn who_acts_for_the_owner_shows_the_cookie() {
        let write: Vec<_> = METHODS.iter().filter(|m| m.auth == Auth::Write).map(|m| m.name).collect();
        assert_eq!(write, ["oda_stop", "oda_ban"]);
    }
}
