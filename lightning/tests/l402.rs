//! L402: the token byte by byte, every refusal, and a client that pays once whatever happens.
#![cfg(feature = "l402")]

#[path = "l402/client.rs"]
mod client;
#[path = "l402/fake.rs"]
mod fake;
#[path = "l402/server.rs"]
mod server;
#[path = "l402/token.rs"]
mod token;
#[cfg(all(feature = "ldk", feature = "chain"))]
#[path = "l402/wallets.rs"]
mod wallets;

#[cfg(all(feature = "ldk", feature = "chain"))]
mod common;
