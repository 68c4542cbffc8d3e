//! What can go wrong with money, and what to do about it.

use crate::rpc::RpcError;
use oda_consensus::genesis::BitcoinNetwork;
use oda_consensus::ids::PaymentHash;
use std::net::SocketAddr;
use std::path::PathBuf;

/// A wallet call failed.
#[derive(Debug, thiserror::Error)]
pub enum LightningError {
    /// bitcoind does not answer.
    #[error("the wallet needs a bitcoind: {0}")]
    Chain(#[from] RpcError),
    /// bitcoind is on another network.
    #[error("bitcoind at {addr} is on `{found}`, this wallet on {expected:?}: correct `bitcoind` or `network`")]
    WrongChain {
        /// bitcoind.
        addr: SocketAddr,
        /// The wallet's network.
        expected: BitcoinNetwork,
        /// What bitcoind calls its own.
        found: String,
    },
    /// Another process has the wallet open.
    #[error("{} is in use by another process: stop that one; one wallet open twice loses money", .0.display())]
    InUse(PathBuf),
    /// The directory belongs to another network.
    #[error("{} holds the wallet of another Bitcoin network: use another data directory", .0.display())]
    OtherNetwork(PathBuf),
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file holds something else than was written.
    #[error("{} is damaged ({why}): restore it from a backup before using the wallet", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The port is taken.
    #[error(
        "cannot listen for Lightning peers on {0}: another program has the port, or the address is not this machine's"
    )]
    Listen(SocketAddr),
    /// Not a node id.
    #[error("`{0}` is not a Lightning node id (33 bytes in hex)")]
    BadNodeId(String),
    /// Not an address.
    #[error("`{0}` is not an address of a Lightning peer (host:port)")]
    BadAddress(String),
    /// Alias too long.
    #[error("the alias `{0}` is longer than 32 bytes")]
    BadAlias(String),
    /// The wallet was stopped.
    #[error("the wallet is stopped")]
    Stopped,
    /// A bolt11 string is malformed or its signature is wrong.
    #[error("not a valid invoice: {0}")]
    InvalidInvoice(String),
    /// The invoice is for another network.
    #[error("the invoice is for {found}, this wallet is on {expected:?}: ask for one on the right network")]
    WrongNetwork {
        /// The wallet's network.
        expected: BitcoinNetwork,
        /// The invoice's.
        found: String,
    },
    /// The invoice has expired.
    #[error("the invoice has expired: ask for a new one")]
    Expired,
    /// The invoice carries another payment hash.
    #[error("the invoice is for payment {found}, not {expected}: not paid")]
    WrongHash {
        /// What was agreed.
        expected: PaymentHash,
        /// What it says.
        found: PaymentHash,
    },
    /// The invoice asks for another amount.
    #[error("the invoice asks for {found_msat:?} msat, not {expected_msat}: not paid")]
    WrongAmount {
        /// What was agreed.
        expected_msat: u64,
        /// What it says; none if it leaves the amount open.
        found_msat: Option<u64>,
    },
    /// The invoice is the wallet's own.
    #[error("the invoice is this wallet's own")]
    OwnInvoice,
    /// The payee wants to hold longer than LDK would ever lock.
    #[error("a hold of {blocks} blocks is more than the {max} this wallet locks money for")]
    HoldTooLong {
        /// Asked for.
        blocks: u32,
        /// Limit.
        max: u32,
    },
    /// The payment was started before.
    #[error("payment {hash} was started before and is {state}: no hash is paid twice")]
    AlreadyPaid {
        /// Payment hash.
        hash: PaymentHash,
        /// What became of it.
        state: super::PaymentState,
    },
    /// No way to send it now; nothing was sent.
    #[error(
        "no channel can carry {amount_msat} msat to the payee now: open one, wait until it is usable, or make it larger"
    )]
    NoRoute {
        /// Amount, msat.
        amount_msat: u64,
    },
    /// The hash was used for another invoice.
    #[error("payment hash {0} has been used before: a hash serves one payment")]
    HashUsed(PaymentHash),
    /// Too many open invoices.
    #[error("{0} invoices are open: claim, fail or let expire some first")]
    TooManyHolds(usize),
    /// Nothing is held for that hash.
    #[error("no payment is held for {0}")]
    NotHeld(PaymentHash),
    /// The preimage belongs to another hash.
    #[error("the preimage does not belong to payment {0}")]
    WrongPreimage(PaymentHash),
    /// Too late.
    #[error("payment {hash} had to be claimed before block {deadline_height}, now {height}: it went back to the payer")]
    DeadlinePassed {
        /// Payment hash.
        hash: PaymentHash,
        /// First height at which it cannot be claimed.
        deadline_height: u32,
        /// Height now.
        height: u32,
    },
    /// It is ours already.
    #[error("payment {0} is claimed: it cannot be failed back")]
    AlreadyClaimed(PaymentHash),
    /// It went back already.
    #[error("payment {0} went back to the payer")]
    AlreadyFailed(PaymentHash),
    /// Not enough coins.
    #[error(
        "opening a channel of {capacity_sat} sat (and its on-chain reserve) needs more than the {balance_sat} sat spendable: fund the wallet"
    )]
    InsufficientFunds {
        /// Channel size, sat.
        capacity_sat: u64,
        /// Spendable, sat.
        balance_sat: u64,
    },
    /// A peer does not answer.
    #[error("cannot connect to Lightning peer {peer} at {address}: is it running and reachable?")]
    Connect {
        /// Node id.
        peer: String,
        /// Address.
        address: String,
    },
    /// Nothing to acknowledge.
    #[error("no event is waiting to be acknowledged")]
    NoEvent,
    /// Anything else LDK refuses.
    #[error("{action} failed: {why}")]
    Ldk {
        /// What was tried.
        action: &'static str,
        /// LDK's words.
        why: String,
    },
}
