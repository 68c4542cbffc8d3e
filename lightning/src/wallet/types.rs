//! What the wallet is asked and what it answers.

use crate::rpc::RpcEndpoint;
use oda_consensus::genesis::BitcoinNetwork;
use oda_consensus::ids::{PaymentHash, Preimage};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;
use zeroize::Zeroizing;

/// Who tells the wallet what is on the Bitcoin chain. Only an own bitcoind learns nothing it did not know: the other
/// two see which addresses are asked about, and could hide payments (never take coins).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChainSource {
    /// bitcoind's JSON-RPC, or the embedded chain's.
    Bitcoind(RpcEndpoint),
    /// A block explorer that speaks Esplora's HTTP.
    Esplora {
        /// Its address, `http://...` or `https://...`.
        url: String,
    },
    /// An Electrum server.
    Electrum {
        /// Its address, `tcp://host:port` or `ssl://host:port`.
        url: String,
    },
}

impl ChainSource {
    /// The public server a wallet asks if nothing else is configured; none for regtest, which is private.
    /// bitcoin: ldk-node's own default (its `config.rs`); signet: mempool.space's public API.
    pub fn public(network: BitcoinNetwork) -> Option<Self> {
        let url = match network {
            BitcoinNetwork::Regtest => return None,
            BitcoinNetwork::Signet => "https://mempool.space/signet/api",
            BitcoinNetwork::Bitcoin => "https://blockstream.info/api",
        };
        Some(Self::Esplora { url: url.into() })
    }
}

/// A node that opens channels to this wallet when it is first paid (LSPS2, bLIP-52).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiquidityProvider {
    /// Its Lightning node id. Its channels are taken unconfirmed and without reserve: it could cheat this wallet of a
    /// payment until the channel confirms.
    pub node_id: String,
    /// Its address.
    pub address: String,
    /// What it asks for, if it does not serve everybody.
    pub token: Option<String>,
}

/// Terms on which a wallet opens channels to others when they are first paid (LSPS2, bLIP-52).
///
/// Channels are funded and broadcast at once (the provider trusts the client): a payment held over such a channel is
/// enforceable on chain as soon as it confirms. The price: who lets the payment lapse has cost the provider a funding
/// transaction, so hand out a token, or keep the fees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiquidityService {
    /// Serve only those who know it.
    pub token: Option<String>,
    /// Fee for opening a channel, millionths of the first payment.
    pub fee_ppm: u32,
    /// Lowest fee for opening a channel, msat.
    pub min_fee_msat: u64,
    /// How much larger than the first payment the channel is, millionths of it.
    pub over_provisioning_ppm: u32,
    /// Smallest first payment, msat.
    pub min_payment_msat: u64,
    /// Largest first payment, msat.
    pub max_payment_msat: u64,
    /// How long a channel is kept at least, blocks.
    pub min_lifetime_blocks: u32,
}

impl Default for LiquidityService {
    /// 1 % and at least 1,000 sat, a channel of five times the first payment, kept a month. The smallest payment
    /// leaves room in the channel for LDK's reserve (1,000 sat), the anchors (660 sat) and the commitment's fee.
    fn default() -> Self {
        Self {
            token: None,
            fee_ppm: 10_000,
            min_fee_msat: 1_000_000,
            over_provisioning_ppm: 4_000_000,
            min_payment_msat: 5_000_000,
            max_payment_msat: 1_000_000_000,
            min_lifetime_blocks: 4_320,
        }
    }
}

/// Whether the wallet can see the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainStatus {
    /// Whether peers are connected and payments can be made. A wallet that cannot see the chain at its start stays
    /// offline, since it could not see itself being cheated.
    pub running: bool,
    /// What is wrong with the chain source now; it is asked again until it is well.
    pub trouble: Option<String>,
    /// Height of the block the channels are synced to.
    pub height: u32,
}

/// What an invoice says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvoiceInfo {
    /// Payment hash.
    pub hash: PaymentHash,
    /// Amount asked for, msat; none leaves it to the payer.
    pub amount_msat: Option<u64>,
    /// What it is for, in the payee's words.
    pub description: String,
    /// Lightning node to be paid.
    pub payee: String,
    /// When it expires, seconds since the Unix epoch.
    pub expires_at_s: u64,
}

/// A line of the wallet's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentRecord {
    /// Payment hash, or transaction id.
    pub id: String,
    /// Whether it is a transaction on chain.
    pub onchain: bool,
    /// Who pays.
    pub direction: Direction,
    /// Where it stands.
    pub state: PaymentState,
    /// Amount, msat.
    pub amount_msat: Option<u64>,
    /// Fee paid, msat: routing, mining, or for a channel opened just in time.
    pub fee_msat: Option<u64>,
    /// Last change, seconds since the Unix epoch.
    pub updated_s: u64,
}

/// A peer as a backup names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerEntry {
    /// Node id.
    pub node_id: String,
    /// Address.
    pub address: String,
}

/// A channel as a backup names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelEntry {
    /// Node id of the other side.
    pub counterparty: String,
    /// `txid:vout` of its funding, once negotiated.
    pub funding: Option<String>,
    /// Size, sat.
    pub capacity_sat: u64,
}

/// With whom this wallet has channels: what a mnemonic cannot tell. It holds no secret and no channel state, on
/// purpose: publishing an old state forfeits the whole channel, and a copied one is old after the next payment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaticBackup {
    /// Form of this file.
    pub version: u32,
    /// Lightning node id of the wallet.
    pub node_id: String,
    /// Its network.
    pub network: BitcoinNetwork,
    /// When it was made, seconds since the Unix epoch.
    pub made_at_s: u64,
    /// Its peers.
    pub peers: Vec<PeerEntry>,
    /// Its channels.
    pub channels: Vec<ChannelEntry>,
}

impl StaticBackup {
    /// The form this version writes.
    pub const VERSION: u32 = 1;
    /// Longest file read, bytes.
    pub const MAX_BYTES: u64 = 4 << 20;
}

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
    /// Who tells it what is on the chain.
    pub chain: ChainSource,
    /// Node ids whose channels are taken before they confirm and without an on-chain reserve. Such a peer
    /// could cheat this wallet of an unconfirmed channel: name only yourself, your sponsor, or test peers.
    pub trusted_peers: Vec<String>,
    /// Name shown to others, at most 32 bytes.
    pub alias: String,
    /// Who opens a channel to this wallet when it is first paid.
    pub liquidity: Option<LiquidityProvider>,
    /// On which terms this wallet opens channels to others when they are first paid.
    pub serve_liquidity: Option<LiquidityService>,
    /// The seed has been used before: look for its coins in the whole chain. Only for a new directory.
    pub recover: bool,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Others pay this wallet.
    Inbound,
    /// This wallet pays.
    Outbound,
}

/// Where a payment stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
