//! What the wallet is asked and what it answers.

use oda_consensus::genesis::BitcoinNetwork;
use oda_consensus::ids::{PaymentHash, Preimage};
use std::net::SocketAddr;
use std::path::PathBuf;
use zeroize::Zeroizing;

/// How to start a wallet.
pub struct WalletConfig {
    /// Its directory; one wallet, one network.
    pub data_dir: PathBuf,
    /// Everything derives from it: coins, channels, node id.
    pub seed: Zeroizing<[u8; 64]>,
    /// Bitcoin network.
    pub network: BitcoinNetwork,
    /// Where Lightning peers connect.
    pub listen: SocketAddr,
    /// bitcoind's JSON-RPC (or the embedded chain's).
    pub bitcoind: SocketAddr,
    /// Its user.
    pub rpc_user: String,
    /// Its password.
    pub rpc_password: String,
    /// Node ids whose channels are taken before they confirm and without an on-chain reserve. Such a peer
    /// could cheat this wallet of an unconfirmed channel: name only yourself, your sponsor, or test peers.
    pub trusted_peers: Vec<String>,
    /// Name shown to others, at most 32 bytes.
    pub alias: String,
}

/// A channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelInfo {
    /// Node id of the other side.
    pub counterparty: String,
    /// Size, sat.
    pub capacity_sat: u64,
    /// Whether payments can go through it now: confirmed, and the peer connected.
    pub usable: bool,
    /// Whether it is confirmed.
    pub ready: bool,
    /// Largest payment that can leave through it now, msat.
    pub outbound_msat: u64,
    /// Largest sum that can arrive through it, msat.
    pub inbound_msat: u64,
    /// Whether this side opened it (and pays its on-chain fees).
    pub opened_by_us: bool,
    /// `txid:vout` of its funding, once negotiated.
    pub funding: Option<String>,
}

/// A payment that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldPayment {
    /// Payment hash.
    pub hash: PaymentHash,
    /// Amount held, msat.
    pub amount_msat: u64,
    /// First height at which LDK gives it back by itself.
    pub claim_deadline_height: u32,
    /// Whether it is being claimed.
    pub claiming: bool,
}

/// Who pays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Others pay this wallet.
    Inbound,
    /// This wallet pays.
    Outbound,
}

/// Where a payment stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PaymentState {
    /// Invoice made and not paid, or payment under way.
    Pending,
    /// Held by this wallet.
    Held,
    /// Settled.
    Succeeded,
    /// Failed, given back, or expired: the payer has its money.
    Failed,
}

impl std::fmt::Display for PaymentState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Pending => "pending",
            Self::Held => "held",
            Self::Succeeded => "settled",
            Self::Failed => "failed",
        })
    }
}

/// What the wallet knows of a payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PaymentStatus {
    /// Who pays.
    pub direction: Direction,
    /// Where it stands.
    pub state: PaymentState,
    /// Amount, msat.
    pub amount_msat: Option<u64>,
    /// Routing fee paid, msat, once settled.
    pub fee_paid_msat: Option<u64>,
    /// Preimage, once a payer knows it. LDK keeps none for payees of hold invoices.
    pub preimage: Option<Preimage>,
}

/// Something happened. Acknowledge each with [`Wallet::event_handled`](super::Wallet::event_handled).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LnEvent {
    /// A payment for one of our hold invoices is locked: claim or fail it before the deadline.
    Held {
        /// Payment hash.
        hash: PaymentHash,
        /// Amount, msat.
        amount_msat: u64,
        /// First height at which LDK gives it back by itself.
        claim_deadline_height: u32,
    },
    /// A claimed payment is ours: its preimage is on disk, the payer cannot avoid it any more.
    Received {
        /// Payment hash.
        hash: PaymentHash,
        /// Amount, msat.
        amount_msat: u64,
    },
    /// Our payment settled.
    Sent {
        /// Payment hash.
        hash: PaymentHash,
        /// The receipt.
        preimage: Option<Preimage>,
        /// Routing fee, msat.
        fee_paid_msat: u64,
    },
    /// Our payment failed: the money is back.
    SendFailed {
        /// Payment hash.
        hash: PaymentHash,
        /// LDK's words.
        reason: String,
    },
    /// A channel can be used.
    ChannelReady {
        /// Node id of the other side.
        counterparty: String,
    },
    /// A channel is closed.
    ChannelClosed {
        /// Node id of the other side.
        counterparty: String,
        /// LDK's words.
        reason: String,
    },
}
