//! Bitcoin and Lightning: the wallet that holds and pays hold invoices, and a regtest chain to run it on.
//!
//! Why not use ldk-node directly: its invoices leave a payee three blocks to claim, its claim and fail
//! report success for payments that are long gone, a forgotten payment expires without an event, and
//! nothing stops two processes from opening one wallet. `Wallet` closes each of these holes in one
//! place, and no LDK type leaves this crate. Why a chain of our own: the first run of a network must not
//! need a bitcoind, and a test must be able to mine a thousand blocks in a second.
//!
//! * `wallet` (feature `ldk`): `Wallet`, hold invoices, payments, acknowledged events.
//! * `chain` (feature `chain`): `ChainServer`, the embedded regtest chain.
//! * `bitcoind` (feature `chain`): a real bitcoind as a child process.
//! * `driver` (feature `chain`): mining and funding on either of the two.
//! * `rpc`: the JSON-RPC client all of them share.
//! * `l402` (feature `l402`): requests paid over Lightning, both sides; needs none of the others.
//!
//! With no feature the crate is empty: whoever simulates money needs none of it.
//!
//! ```
//! # #[cfg(feature = "l402")] {
//! use oda_lightning::l402::{Bearer, RootKey};
//!
//! // a paid token: its holder may narrow what it opens before handing it on, nobody can widen it again
//! let key = RootKey::new(&[7; 32].into());
//! let token = Bearer::mint(&key, "https://sponsor.example", b"token 1").unwrap();
//! let narrower = token.restrict("train_capabilities", "submit").unwrap();
//! assert!(narrower.check_signature(&key).is_ok());
//! assert!(narrower.check_signature(&RootKey::new(&[8; 32].into())).is_err());
//! # }
//! ```

#[cfg(feature = "chain")]
pub mod bitcoind;
#[cfg(feature = "chain")]
pub mod chain;
#[cfg(feature = "chain")]
pub mod driver;
#[cfg(feature = "l402")]
pub mod l402;
#[cfg(any(feature = "ldk", feature = "chain"))]
pub mod rpc;
#[cfg(feature = "ldk")]
pub mod wallet;

#[cfg(feature = "chain")]
pub use driver::RegtestDriver;
#[cfg(any(feature = "ldk", feature = "chain"))]
pub use rpc::RpcEndpoint;
#[cfg(feature = "ldk")]
pub use wallet::{
    ChainSource, ChainStatus, ChannelEntry, ChannelInfo, Direction, HeldPayment, InvoiceInfo, LightningError,
    LiquidityProvider, LiquidityService, LnEvent, PaymentRecord, PaymentState, PaymentStatus, PeerEntry, StaticBackup,
    Wallet, WalletConfig,
};
