//! Peers, channels and what is in them.

use super::Wallet;
use super::error::LightningError;
use super::types::ChannelInfo;
use ldk_node::bitcoin::secp256k1::PublicKey;
use ldk_node::lightning::chain::channelmonitor::BalanceSource;
use ldk_node::lightning::ln::msgs::SocketAddress;
use ldk_node::{LightningBalance, NodeError, PendingSweepBalance};
use std::str::FromStr as _;

/// Sum of the two anchor outputs a channel's opener pays for, msat (BOLT 3).
const ANCHORS_MSAT: u64 = 660_000;

pub(super) fn key(node_id: &str) -> Result<PublicKey, LightningError> {
    node_id.parse().map_err(|_| LightningError::BadNodeId(node_id.chars().take(100).collect()))
}

pub(super) fn peer_address(address: &str) -> Result<SocketAddress, LightningError> {
    SocketAddress::from_str(address).map_err(|_| LightningError::BadAddress(address.chars().take(100).collect()))
}

impl Wallet {
    /// This wallet's share of its channels, msat, payments in flight excluded on both sides. Exact to the
    /// msat, except while a payment is in flight through a channel holding less than its reserve of ours:
    /// then rounded down to a satoshi.
    pub fn lightning_balance_msat(&self) -> u64 {
        let closing: Vec<_> = self.node.list_balances().lightning_balances;
        let on_close_sat = |channel| {
            closing.iter().find_map(|b| match b {
                LightningBalance::ClaimableOnChannelClose { channel_id, amount_satoshis, .. }
                    if *channel_id == channel =>
                {
                    Some(*amount_satoshis)
                }
                _ => None,
            })
        };
        let share = |c: &ldk_node::ChannelDetails| {
            let (ours_msat, theirs_msat) = if c.is_outbound { (ANCHORS_MSAT, 0) } else { (0, ANCHORS_MSAT) };
            let reserve_msat = c.unspendable_punishment_reserve.unwrap_or(0).saturating_mul(1000);
            if c.outbound_capacity_msat > 0 {
                return c.outbound_capacity_msat.saturating_add(reserve_msat).saturating_add(ours_msat);
            }
            // Below the reserve LDK tells only what the other side has; what is in flight to us counts as ours there.
            let their_reserve_msat = c.counterparty_unspendable_punishment_reserve.saturating_mul(1000);
            let rest_msat = c
                .channel_value_sats
                .saturating_mul(1000)
                .saturating_sub(c.inbound_capacity_msat)
                .saturating_sub(their_reserve_msat)
                .saturating_sub(theirs_msat);
            match on_close_sat(c.channel_id) {
                Some(sat) if !c.is_outbound && sat != rest_msat / 1000 => sat.saturating_mul(1000),
                _ => rest_msat,
            }
        };
        self.node.list_channels().iter().filter(|c| c.is_channel_ready).map(share).fold(0, u64::saturating_add)
    }

    /// Whether a channel still carries a payment whose preimage is not known here: one that is over on this side is
    /// carried until both sides have signed a commitment without it (BOLT 2).
    pub fn carries_unclaimed(&self) -> bool {
        self.node.list_balances().lightning_balances.iter().any(|balance| match balance {
            LightningBalance::ClaimableOnChannelClose {
                outbound_payment_htlc_rounded_msat,
                outbound_forwarded_htlc_rounded_msat,
                inbound_htlc_rounded_msat,
                ..
            } => {
                *outbound_payment_htlc_rounded_msat + outbound_forwarded_htlc_rounded_msat + inbound_htlc_rounded_msat
                    > 0
            }
            LightningBalance::MaybePreimageClaimableHTLC { .. }
            | LightningBalance::MaybeTimeoutClaimableHTLC { .. } => true,
            _ => false,
        })
    }

    /// What channels that are closed still owe to this wallet's coins on chain, sat, fees not taken off: their closing is
    /// not in a block yet, or a delay runs. Whoever deletes the wallet now loses it.
    pub fn closing_sat(&self) -> u64 {
        let open: Vec<_> = self.node.list_channels().into_iter().map(|c| c.channel_id).collect();
        let balances = self.node.list_balances();
        let owed = balances.lightning_balances.iter().filter_map(|balance| match balance {
            LightningBalance::ClaimableAwaitingConfirmations { source: BalanceSource::CoopClose, .. } => None, // on chain
            LightningBalance::ClaimableOnChannelClose { channel_id, amount_satoshis, .. }
            | LightningBalance::ClaimableAwaitingConfirmations { channel_id, amount_satoshis, .. }
            | LightningBalance::ContentiousClaimable { channel_id, amount_satoshis, .. }
            | LightningBalance::MaybeTimeoutClaimableHTLC { channel_id, amount_satoshis, .. }
            | LightningBalance::CounterpartyRevokedOutputClaimable { channel_id, amount_satoshis, .. } => {
                (!open.contains(channel_id)).then_some(*amount_satoshis)
            }
            LightningBalance::MaybePreimageClaimableHTLC { .. } => None,
        });
        let swept = balances.pending_balances_from_channel_closures.iter().filter_map(|sweep| match sweep {
            PendingSweepBalance::PendingBroadcast { amount_satoshis, .. }
            | PendingSweepBalance::BroadcastAwaitingConfirmation { amount_satoshis, .. } => Some(*amount_satoshis),
            PendingSweepBalance::AwaitingThresholdConfirmations { .. } => None, // on chain
        });
        owed.chain(swept).fold(0, u64::saturating_add)
    }

    /// Connects to a peer and remembers it for restarts. Blocks.
    ///
    /// # Errors
    /// If node id or address are malformed, or the peer does not answer.
    pub fn connect(&self, node_id: &str, address: &str) -> Result<(), LightningError> {
        self.node
            .connect(key(node_id)?, peer_address(address)?, true)
            .map_err(|e| self.unreachable_peer(e, "connecting to a peer", node_id, address))
    }

    /// Opens a private channel, all of it on this side. Blocks until it is proposed; it is usable after
    /// six confirmations, at once if the other side trusts this one. Payments towards the peer may fill
    /// only a tenth of the channel at a time (the accepting side's limit in LDK) and are at most 50.
    ///
    /// # Errors
    /// If the peer does not answer, or the coins do not suffice.
    pub fn open_channel(&self, node_id: &str, address: &str, capacity_sat: u64) -> Result<(), LightningError> {
        self.open_channel_with_push(node_id, address, capacity_sat, 0)
    }

    /// As [`Wallet::open_channel`], giving `push_msat` of it to the other side.
    ///
    /// # Errors
    /// If the peer does not answer, or the coins do not suffice.
    pub fn open_channel_with_push(
        &self,
        node_id: &str,
        address: &str,
        capacity_sat: u64,
        push_msat: u64,
    ) -> Result<(), LightningError> {
        let push = (push_msat > 0).then_some(push_msat);
        let opened = self.node.open_channel(key(node_id)?, peer_address(address)?, capacity_sat, push, None);
        opened.map(drop).map_err(|e| match e {
            NodeError::InsufficientFunds => {
                LightningError::InsufficientFunds { capacity_sat, balance_sat: self.onchain_balance_sat() }
            }
            other => self.unreachable_peer(other, "opening a channel", node_id, address),
        })
    }

    /// Closes every channel with a peer: together if `force` is false (both must be online), else alone.
    /// A forced close locks our share for a day of blocks.
    ///
    /// # Errors
    /// If the node id is malformed, the peer is offline and `force` false, or LDK refuses.
    pub fn close_channels(&self, counterparty: &str, force: bool) -> Result<(), LightningError> {
        let peer = key(counterparty)?;
        if !force && self.channels().iter().any(|c| c.counterparty == counterparty && c.ready && !c.usable) {
            return Err(LightningError::PeerAway);
        }
        for c in self.node.list_channels().into_iter().filter(|c| c.counterparty_node_id == peer) {
            let closed = if force {
                self.node.force_close_channel(&c.user_channel_id, peer, None)
            } else {
                self.node.close_channel(&c.user_channel_id, peer)
            };
            closed.map_err(self.why("closing a channel"))?;
        }
        Ok(())
    }

    /// Its channels.
    pub fn channels(&self) -> Vec<ChannelInfo> {
        let info = |c: ldk_node::ChannelDetails| ChannelInfo {
            counterparty: c.counterparty_node_id.to_string(),
            capacity_sat: c.channel_value_sats,
            usable: c.is_usable,
            ready: c.is_channel_ready,
            outbound_msat: c.next_outbound_htlc_limit_msat,
            inbound_msat: c.inbound_capacity_msat,
            opened_by_us: c.is_outbound,
            funding: c.funding_txo.map(|o| o.to_string()),
        };
        self.node.list_channels().into_iter().map(info).collect()
    }

    /// Whether a payment of that size can go to a peer directly, now.
    pub fn has_usable_channel(&self, counterparty: &str, min_outbound_msat: u64) -> bool {
        let fits = |c: &ChannelInfo| c.usable && c.counterparty == counterparty && c.outbound_msat >= min_outbound_msat;
        self.channels().iter().any(fits)
    }

    fn unreachable_peer(&self, error: NodeError, action: &'static str, node_id: &str, address: &str) -> LightningError {
        match error {
            NodeError::ConnectionFailed => LightningError::Connect { peer: node_id.into(), address: address.into() },
            other => self.why(action)(other),
        }
    }
}
