//! A first channel for who has no coins: opened by a provider the moment the first payment arrives (LSPS2, bLIP-52).
//!
//! A new wallet cannot be paid over Lightning: somebody must first open a channel to it, and it has no coins for the
//! reserve of an on-chain output. Instead its invoice names a hop that does not exist yet; the provider sees the
//! payment come, opens the channel, keeps its fee and passes the rest on, in one go.
//!
//! Held payments (P3) work the same way; the payee then holds the amount less the fee.

use super::error::LightningError;
use super::payments::Via;
use super::types::{LiquidityProvider, LiquidityService};
use super::{Wallet, channels};
use ldk_node::liquidity::LSPS2ServiceConfig;
use ldk_node::{Builder, NodeError};
use oda_consensus::ids::PaymentHash;

/// How long a provider lets a client delay its own output, blocks: LDK's own limit is two weeks.
const MAX_TO_SELF_DELAY_BLOCKS: u32 = 2_016;

/// Tells LDK whom to ask for channels.
pub(super) fn use_provider(builder: &mut Builder, provider: &LiquidityProvider) -> Result<(), LightningError> {
    let node_id = channels::key(&provider.node_id)?;
    let address = channels::peer_address(&provider.address)?;
    builder.set_liquidity_source_lsps2(node_id, address, provider.token.clone());
    Ok(())
}

/// Tells LDK on which terms to open channels to others.
pub(super) fn serve(builder: &mut Builder, service: LiquidityService) {
    builder.set_liquidity_provider_lsps2(LSPS2ServiceConfig {
        require_token: service.token,
        advertise_service: false,
        channel_opening_fee_ppm: service.fee_ppm,
        channel_over_provisioning_ppm: service.over_provisioning_ppm,
        min_channel_opening_fee_msat: service.min_fee_msat,
        min_channel_lifetime: service.min_lifetime_blocks,
        max_client_to_self_delay: MAX_TO_SELF_DELAY_BLOCKS,
        min_payment_size_msat: service.min_payment_msat,
        max_payment_size_msat: service.max_payment_msat,
        client_trusts_lsp: false, // or a held payment would wait on a channel that is not on the chain
    });
}

impl Wallet {
    /// Makes an invoice for somebody who may not have a channel yet: the liquidity provider opens one when it is
    /// paid and keeps at most `max_fee_msat` of it. The payment is taken on arrival. Asks the provider. Blocks.
    ///
    /// # Errors
    /// If no provider is configured, it does not answer, or it asks for more.
    pub fn receive_just_in_time(
        &self,
        amount_msat: u64,
        description: &str,
        expiry_s: u32,
        max_fee_msat: u64,
    ) -> Result<String, LightningError> {
        let description = self.describe(amount_msat, description)?;
        let invoice = self
            .node
            .bolt11_payment()
            .receive_via_jit_channel(amount_msat, &description, expiry_s, Some(max_fee_msat))
            .map_err(|e| self.no_offer(e, amount_msat, max_fee_msat))?;
        Ok(invoice.to_string())
    }

    /// As [`Wallet::hold_invoice`], for somebody who may not have a channel yet: the liquidity provider opens one
    /// when it is paid and keeps at most `max_fee_msat` of it, so that less is held than the payer pays. Blocks.
    ///
    /// # Errors
    /// As [`Wallet::hold_invoice`] and [`Wallet::receive_just_in_time`].
    pub fn hold_invoice_just_in_time(
        &self,
        hash: PaymentHash,
        amount_msat: u64,
        description: &str,
        expiry_s: u32,
        hold_blocks: u32,
        max_fee_msat: u64,
    ) -> Result<String, LightningError> {
        self.make_hold(hash, amount_msat, description, expiry_s, hold_blocks, Via::JustInTime { max_fee_msat })
    }

    pub(super) fn no_offer(&self, error: NodeError, amount_msat: u64, max_fee_msat: u64) -> LightningError {
        match error {
            NodeError::LiquidityFeeTooHigh => LightningError::OfferTooDear { max_fee_msat },
            NodeError::NotRunning => self.watch.not_running(),
            _ => match &self.provider {
                None => LightningError::NoProvider,
                Some(provider) => {
                    LightningError::NoOffer { provider: provider.clone(), amount_msat, why: error.to_string() }
                }
            },
        }
    }
}
