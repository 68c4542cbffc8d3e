//! Every error code the server answers with, in one table: programs go by the code, people read the message.
//!
//! A code never changes its meaning. -32768 to -32600 are JSON-RPC's own, -32011 to -32006 are the RPC library's.

use jsonrpsee::types::ErrorObjectOwned;

/// Not on the ledger.
pub const NOT_FOUND: i32 = -32001;
/// This node does not offer that.
pub const UNAVAILABLE: i32 = -32002;
/// The store failed or the ledger is damaged.
pub const DAMAGED: i32 = -32003;
/// A transaction was not taken.
pub const REFUSED: i32 = -32004;
/// The block's transactions were pruned on this node.
pub const PRUNED: i32 = -32005;
/// The method acts for the node's owner, and the caller has shown neither the cookie nor a token.
pub const UNAUTHORIZED: i32 = -32020;
/// The call took longer than it may.
pub const TIMED_OUT: i32 = -32021;
/// Too much is being done already.
pub const BUSY: i32 = -32022;
/// A subscriber did not read.
pub const TOO_SLOW: i32 = -32023;
/// The token shown is not one this node takes.
pub const BAD_TOKEN: i32 = -32024;
/// The time of the token shown is over.
pub const TOKEN_EXPIRED: i32 = -32025;
/// The token shown is good for other methods.
pub const BEYOND_TOKEN: i32 = -32026;
/// Parameters that do not fit the method.
pub const INVALID_PARAMS: i32 = -32602;

/// One line of the table.
pub struct ErrorDoc {
    /// Code.
    pub code: i32,
    /// Name for people.
    pub name: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// What to do.
    pub remedy: &'static str,
}

const fn row(code: i32, name: &'static str, meaning: &'static str, remedy: &'static str) -> ErrorDoc {
    ErrorDoc { code, name, meaning, remedy }
}

/// All of them.
pub const ERRORS: &[ErrorDoc] = &[
    row(-32700, "parse error", "the body is not JSON", "send JSON in UTF-8"),
    row(-32600, "invalid request", "JSON, but no JSON-RPC 2.0 request", "see jsonrpc.org/specification"),
    row(-32601, "method not found", "there is no such method", "see this list, or call `rpc.discover`"),
    row(INVALID_PARAMS, "invalid params", "parameters that do not fit the method", "see the method's parameters"),
    row(-32603, "internal error", "a fault of the node", "report it with the node's log"),
    row(NOT_FOUND, "not found", "not on this node's ledger", "check the id; `oda_status` says how far the ledger is"),
    row(UNAVAILABLE, "unavailable", "this node does not offer that, or not this way", "as the message says"),
    row(DAMAGED, "damaged", "the store failed or the ledger is damaged", "the operator runs `oda ledger verify`"),
    row(REFUSED, "refused", "a transaction was not taken", "the message says which rule it breaks"),
    row(PRUNED, "pruned", "the block's transactions were pruned on this node", "ask a node that keeps all blocks"),
    row(-32006, "too many subscriptions", "the connection has all it may have", "end one, or open another connection"),
    row(-32007, "oversized request", "the request is too long", "see limits"),
    row(-32008, "oversized response", "the answer would be too long", "ask for a smaller page"),
    row(-32010, "oversized batch", "too many calls in a batch", "see limits"),
    row(-32011, "oversized batch response", "the answers of a batch are too long", "send smaller batches"),
    row(UNAUTHORIZED, "unauthorized", "the method acts for the node's owner", "send the cookie or a token, see access"),
    row(TIMED_OUT, "timed out", "the call took longer than it may", "ask for less, or later"),
    row(BUSY, "busy", "too much is being done at once", "wait for earlier calls, then try again"),
    row(
        TOO_SLOW,
        "too slow",
        "the last message of a subscription whose reader did not keep up",
        "subscribe again from \
         the height after the last one received",
    ),
    row(BAD_TOKEN, "bad token", "the token is withdrawn, changed, unreadable or another node's", "as the message says"),
    row(TOKEN_EXPIRED, "token expired", "the time of the token is over", "ask for a new token"),
    row(
        BEYOND_TOKEN,
        "beyond the token",
        "the token is good for other methods",
        "ask for a token that allows this one",
    ),
];

pub(super) fn error(code: i32, text: impl Into<String>) -> ErrorObjectOwned {
    ErrorObjectOwned::owned(code, text.into(), None::<()>)
}
