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
    /// The chain source is on another network.
    #[error("{source_name} is on `{found}`, this wallet on {expected:?}: correct the chain source or `network`")]
    WrongChain {
        /// The chain source.
        source_name: String,
        /// The wallet's network.
        expected: BitcoinNetwork,
        /// What it calls its own, or the hash of its first block.
        found: String,
    },
    /// An Esplora or Electrum server does not answer.
    #[error(
        "{source_name} does not answer ({why}): check its address and your connection, or use another chain source"
    )]
    ChainSilent {
        /// The chain source.
        source_name: String,
        /// What happened.
        why: String,
    },
    /// bitcoind is not up to date.
    #[error(
        "{source_name} knows {blocks} of {headers} blocks and is still catching up: the wallet goes on by itself when \
         it is done"
    )]
    Syncing {
        /// The chain source.
        source_name: String,
        /// Blocks it has.
        blocks: u64,
        /// Blocks there are, or this wallet has seen.
        headers: u64,
    },
    /// bitcoind has deleted blocks that are needed.
    #[error(
        "{source_name} is pruned to block {prune_height}, but this wallet must read on from block {needed_height}: use \
         an unpruned bitcoind, or an Esplora or Electrum server"
    )]
    Pruned {
        /// The chain source.
        source_name: String,
        /// First block it has.
        prune_height: u64,
        /// First block needed.
        needed_height: u64,
    },
    /// The chain source has another chain than the wallet saw.
    #[error(
        "{source_name} does not know block {height} ({hash}) that this wallet has seen: it was started anew or is on a \
         fork; use the chain source the wallet had before"
    )]
    UnknownBlock {
        /// The chain source.
        source_name: String,
        /// Height of the block.
        height: u32,
        /// Its hash.
        hash: String,
    },
    /// Closing together takes both sides.
    #[error(
        "the peer of this channel is offline: wait until it is back, or close without it by --force (a day of blocks)"
    )]
    PeerAway,
    /// The wallet is offline until the chain source is well.
    #[error("the wallet is offline until it can see the chain: {0}")]
    Waiting(String),
    /// The seed cannot be looked for in a wallet that is there already.
    #[error("{} holds a wallet already: restore into an empty data directory", .0.display())]
    NotEmpty(PathBuf),
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
    #[error(
        "{} is damaged ({why}): an older copy of a wallet loses money, so put none back; see docs/operating.md, section 5",
        path.display()
    )]
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
    /// No such amount can be sent or asked for.
    #[error("{amount_msat} msat is no amount for an invoice: 1 msat to 21 million bitcoin")]
    BadAmount {
        /// Amount, msat.
        amount_msat: u64,
    },
    /// The invoice leaves the amount to the payer, who named none.
    #[error("the invoice leaves the amount open: say how much to pay")]
    AmountMissing,
    /// More than there is.
    #[error(
        "{amount_msat} msat is more than the {sendable_msat} msat this wallet can send now: open a channel, or pay less"
    )]
    TooLittle {
        /// Amount, msat.
        amount_msat: u64,
        /// What its usable channels can send together, msat.
        sendable_msat: u64,
    },
    /// Nobody is configured to open channels to this wallet.
    #[error("no liquidity provider is configured: name one, or open a channel first")]
    NoProvider,
    /// The provider does not open a channel.
    #[error(
        "the liquidity provider {provider} does not offer a channel for {amount_msat} msat ({why}): is it running, is \
         the amount within its limits, and the token right?"
    )]
    NoOffer {
        /// Its node id.
        provider: String,
        /// Amount asked for, msat.
        amount_msat: u64,
        /// LDK's words.
        why: String,
    },
    /// The provider asks for too much.
    #[error(
        "the liquidity provider asks for more than {max_fee_msat} msat to open a channel: allow more, or ask another"
    )]
    OfferTooDear {
        /// Limit, msat.
        max_fee_msat: u64,
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
    /// More was to be sent on chain than there is.
    #[error(
        "{} cannot be sent: {balance_sat} sat can be spent on chain, fees included, and what channels keep back is not \
         among them: see `oda wallet balance`", .sat.map_or("everything".into(), |sat| format!("{sat} sat"))
    )]
    TooFewCoins {
        /// How much, sat; everything if absent.
        sat: Option<u64>,
        /// Spendable, sat.
        balance_sat: u64,
    },
    /// Not a bitcoin address of this wallet's network.
    #[error("`{0}` is no bitcoin address of this wallet's network")]
    BadBitcoinAddress(String),
    /// A peer does not answer.
    #[error("cannot connect to Lightning peer {peer} at {address}: is it running and reachable?")]
    Connect {
        /// Node id.
        peer: String,
        /// Address.
        address: String,
    },
    /// A backup cannot be used.
    #[error("the backup cannot be used: {0}")]
    BadBackup(String),
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

impl LightningError {
    /// Whether it may pass without anyone changing this wallet's configuration: the wallet waits, and asks again.
    pub fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Chain(_)
                | Self::ChainSilent { .. }
                | Self::Syncing { .. }
                | Self::Pruned { .. }
                | Self::UnknownBlock { .. }
        )
    }
}
