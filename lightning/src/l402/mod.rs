//! L402, Lightning HTTP 402 (bLIP-26): requests that are paid for over Lightning.
//!
//! A server answers a request that costs something with 402, a macaroon and an invoice. Paying the invoice
//! reveals a preimage, and macaroon and preimage together are a token that the client sends from then on.
//! The obvious way, a table of paid invoices, makes the server remember every invoice that anybody ever
//! asked for, before a single one is paid. A macaroon commits to the payment hash and carries its own
//! permissions, so the server stores nothing, and any holder can restrict a token before lending it.
//!
//! Nothing here knows LDK or what is sold: whoever makes invoices is an [`Issuer`], whoever pays a
//! [`Payer`], prices are a [`Tariff`]. With feature `ldk` an `Arc` of this crate's wallet is both.
//!
//! * `macaroon`: a bearer token within limits, which a node's own RPC tokens are too ([`Bearer`]).
//! * `token`, `header`: macaroon and preimage, and how they travel; `caveat`, `verify`: what they allow.
//! * `server`: [`L402Layer`], for axum or any tower service. `client`: [`L402ClientLayer`], for
//!   hyper-util's client or any tower service of requests. `store`: what the client must not forget.
//!
//! Tokens are bearer tokens: send them over TLS, or over connections nobody listens to.
//!
//! # A server
//! ```
//! # use oda_lightning::l402::{BoxError, IssuedInvoice, Issuer};
//! # struct Node;
//! # impl Issuer for Node {
//! #     async fn invoice(&self, _: u64, _: &str, _: u32) -> Result<IssuedInvoice, BoxError> { Err("none".into()) }
//! # }
//! use axum::{Extension, Router, routing::post};
//! use http::request::Parts;
//! use oda_lightning::l402::{Charge, L402Layer, L402Paid, Terms};
//! use std::num::NonZeroU64;
//!
//! # fn app(node: Node, secret: zeroize::Zeroizing<[u8; 32]>) -> Result<Router, Box<dyn std::error::Error>> {
//! let tariff = |request: &Parts| match request.uri.path() {
//!     "/submit" => Some(Charge { capability: "submit".into(), amount_msat: NonZeroU64::new(10_000)? }),
//!     _ => None, // free
//! };
//! let layer = L402Layer::new(Terms::new("train"), secret, node, tariff)?;
//! let submit = |Extension(paid): Extension<L402Paid>| async move { format!("paid by {}", paid.token_id) };
//! let app = Router::new().route("/submit", post(submit)).layer(layer);
//! # Ok(app)
//! # }
//! ```
//!
//! # A client
//! ```
//! # use oda_lightning::l402::{FileStore, L402Client, L402ClientLayer, Limits, Payer, StoreError};
//! # use oda_consensus::genesis::BitcoinNetwork;
//! use hyper_util::{client::legacy::{Client, connect::HttpConnector}, rt::TokioExecutor};
//! use tower::Layer as _;
//!
//! # type Body = http_body_util::Full<axum::body::Bytes>;
//! # fn client<P: Payer>(wallet: P) -> Result<L402Client<Client<HttpConnector, Body>, P, FileStore>, StoreError> {
//! let limits = Limits::new(BitcoinNetwork::Regtest, 20_000); // msat a token
//! let paying = L402ClientLayer::new(wallet, FileStore::open("tokens")?, limits);
//! Ok(paying.layer(Client::builder(TokioExecutor::new()).build_http()))
//! # }
//! ```

mod caveat;
mod client;
mod error;
mod header;
mod macaroon;
mod server;
mod store;
mod token;
mod verify;
#[cfg(feature = "ldk")]
mod wallet;

pub use caveat::{Granted, Needed, judge};
pub use client::{ClientError, InvoiceTerms, L402Client, L402ClientLayer, Limits, Outcome, Payer, Scope};
pub use error::L402Error;
pub use header::{Challenge, MAX_HEADER_BYTES};
pub use macaroon::{Bearer, MAX_CAVEATS, MAX_MACAROON_BYTES, MAX_MACAROON_TEXT_BYTES, RootKey};
pub use server::{
    BadName, BoxError, Charge, Clock, ERROR_HEADER, IssuedInvoice, Issuer, L402Layer, L402Service, Tariff, Terms,
    system_clock,
};
pub use store::{FileStore, MemoryStore, Record, StoreError, TokenKey, TokenStore};
pub use token::{Credential, Identifier, Token, TokenId};
pub use verify::{DerivedRootKeys, L402Paid, MemoryRevocations, Revocations, RevocationsFull, RootKeys, verify};
