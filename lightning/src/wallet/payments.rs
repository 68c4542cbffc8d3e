//! Hold invoices, payments, and what became of them (P3, P4, P6).

use super::error::LightningError;
use super::holds::{Arrived, Hold};
use super::types::{Direction, HeldPayment, PaymentState, PaymentStatus};
use super::{Wallet, invoice, ldk, lock};
use ldk_node::NodeError;
use ldk_node::lightning::ln::channelmanager::PaymentId;
use ldk_node::lightning::routing::router::RouteParametersConfig;
use ldk_node::lightning_types::payment::{PaymentHash as LdkHash, PaymentPreimage as LdkPreimage};
use ldk_node::payment::{Bolt11Payment, PaymentDetails, PaymentDirection, PaymentKind, PaymentStatus as LdkStatus};
use oda_consensus::ids::{PaymentHash, Preimage};

/// Blocks past a deadline after which a claim that LDK never confirmed is given up.
const CLAIM_GRACE_BLOCKS: u32 = 6;

/// Extra final CLTV blocks LSPS2 wants (bLIP-52), which LDK registers for such an invoice.
const JUST_IN_TIME_BLOCKS: u32 = 2;

/// How a held payment comes in.
#[derive(Clone, Copy)]
pub(super) enum Via {
    /// Over a channel there is.
    Channel,
    /// Over one that the liquidity provider opens for it.
    JustInTime { max_fee_msat: u64 },
}

impl Via {
    fn min_hold_blocks(self) -> u32 {
        match self {
            Self::Channel => 0,
            Self::JustInTime { .. } => JUST_IN_TIME_BLOCKS,
        }
    }
}

/// What a payment may cost in routing fees if nothing else is said, msat.
pub(super) fn default_max_fee_msat(amount_msat: u64) -> u64 {
    (amount_msat / 100).saturating_add(50_000)
}

fn id(hash: PaymentHash) -> PaymentId {
    PaymentId(hash.0)
}

impl Wallet {
    /// Finishes what a crash interrupted (P6): claims whose preimage was on disk, records of ended payments.
    pub(super) fn resume(&self) -> Result<(), LightningError> {
        let now_s = invoice::now().as_secs();
        for hold in self.holds.all() {
            let status = self.ldk_status(hold.hash);
            let unpaid = hold.arrived.is_none() && hold.expires_at_s.saturating_add(3600) < now_s;
            if matches!(status, Some(LdkStatus::Succeeded | LdkStatus::Failed)) || unpaid {
                self.holds.remove(hold.hash)?;
            } else if let (Some(preimage), Some(arrived)) = (hold.preimage, hold.arrived)
                && let Err(error) = self.claim_in_ldk(hold.hash, arrived.amount_msat, preimage)
            {
                tracing::warn!(hash = %hold.hash, %error, "an interrupted claim cannot be finished");
            }
        }
        self.expire_overdue()
    }

    /// Makes an invoice whose payment is held until [`Wallet::claim`] or [`Wallet::fail`] (P3). The payer's
    /// money stays locked for at least `hold_blocks` blocks before the claim deadline. Asked again for the
    /// same hash and terms it returns the same invoice.
    ///
    /// # Errors
    /// If the hash was used on other terms or has ended, or the hold is longer than 800 blocks.
    pub fn hold_invoice(
        &self,
        hash: PaymentHash,
        amount_msat: u64,
        description: &str,
        expiry_s: u32,
        hold_blocks: u32,
    ) -> Result<String, LightningError> {
        self.make_hold(hash, amount_msat, description, expiry_s, hold_blocks, Via::Channel)
    }

    pub(super) fn make_hold(
        &self,
        hash: PaymentHash,
        amount_msat: u64,
        description: &str,
        expiry_s: u32,
        hold_blocks: u32,
        via: Via,
    ) -> Result<String, LightningError> {
        if hold_blocks > invoice::MAX_HOLD_BLOCKS {
            return Err(LightningError::HoldTooLong { blocks: hold_blocks, max: invoice::MAX_HOLD_BLOCKS });
        }
        let description = self.describe(amount_msat, description)?;
        let _one_at_a_time = lock(&self.deciding);
        let now_s = invoice::now().as_secs();
        match (self.holds.get(hash), self.ldk_status(hash)) {
            (None, None) => {}
            (Some(old), None | Some(LdkStatus::Pending))
                if (old.amount_msat, old.hold_blocks) == (amount_msat, hold_blocks) =>
            {
                match old.bolt11 {
                    Some(bolt11) if old.arrived.is_some() || old.expires_at_s > now_s => return Ok(bolt11),
                    _ => {} // never handed out, or expired unpaid
                }
            }
            _ => return Err(LightningError::HashUsed(hash)),
        }
        // The record first: a crash from here on finds a hash it may use again, on the same terms (P6).
        let mut hold = Hold {
            hash,
            amount_msat,
            hold_blocks,
            expires_at_s: now_s.saturating_add(expiry_s.into()),
            bolt11: None,
            arrived: None,
            preimage: None,
        };
        self.holds.put(hold.clone())?;
        let (bolt11, ldk_hash) = (self.node.bolt11_payment(), LdkHash(hash.0));
        let plain = match via {
            Via::Channel => bolt11
                .receive_for_hash(amount_msat, &description, expiry_s, ldk_hash)
                .map_err(self.why("making an invoice"))?,
            Via::JustInTime { max_fee_msat } => bolt11
                .receive_via_jit_channel_for_hash(amount_msat, &description, expiry_s, Some(max_fee_msat), ldk_hash)
                .map_err(|e| self.no_offer(e, amount_msat, max_fee_msat))?,
        };
        let bolt11 = self.signer.with_hold(plain, hold_blocks.max(via.min_hold_blocks()))?.to_string();
        hold.bolt11 = Some(bolt11.clone());
        self.holds.put(hold)?;
        Ok(bolt11)
    }

    /// Starts paying an invoice, if it is for exactly this hash and amount on this network and was not
    /// started before; the end comes as [`crate::LnEvent::Sent`] or [`crate::LnEvent::SendFailed`]. At most 1 % of the
    /// amount and 50 sat go to routing fees. An error means that nothing was sent; except
    /// [`LightningError::AlreadyPaid`], which means that it was sent before.
    ///
    /// # Errors
    /// If the invoice is not the agreed one, was paid before, or no channel can carry it now.
    pub fn pay(&self, bolt11: &str, hash: PaymentHash, amount_msat: u64) -> Result<(), LightningError> {
        self.pay_with_max_fee(bolt11, hash, amount_msat, default_max_fee_msat(amount_msat))
    }

    /// As [`Wallet::pay`], with a limit on the routing fee.
    ///
    /// # Errors
    /// As [`Wallet::pay`].
    pub fn pay_with_max_fee(
        &self,
        bolt11: &str,
        hash: PaymentHash,
        amount_msat: u64,
        max_fee_msat: u64,
    ) -> Result<(), LightningError> {
        let agreed = invoice::Agreed {
            network: self.network,
            hash,
            amount_msat,
            own_node_id: &self.node_id,
            now: invoice::now(),
        };
        let invoice = invoice::check(bolt11, &agreed)?;
        let _one_at_a_time = lock(&self.deciding);
        self.send_once(hash, amount_msat, max_fee_msat, |payment, route| payment.send(&invoice, Some(route)))
    }

    /// Sends, if the hash was not used before; the caller holds `deciding`.
    pub(super) fn send_once(
        &self,
        hash: PaymentHash,
        amount_msat: u64,
        max_fee_msat: u64,
        send: impl FnOnce(&Bolt11Payment, RouteParametersConfig) -> Result<PaymentId, NodeError>,
    ) -> Result<(), LightningError> {
        if let Some(status) = self.payment_status(hash) {
            return Err(LightningError::AlreadyPaid { hash, state: status.state });
        }
        let route = RouteParametersConfig {
            max_total_routing_fee_msat: Some(max_fee_msat),
            ..RouteParametersConfig::default()
        };
        match send(&self.node.bolt11_payment(), route) {
            Ok(_) => Ok(()),
            Err(NodeError::PaymentSendingFailed) => {
                // Nothing left this node, but LDK booked a failure, which would forbid the hash for good.
                self.node.remove_payment(&id(hash)).map_err(ldk("forgetting a payment that was not sent"))?;
                Err(LightningError::NoRoute { amount_msat })
            }
            Err(NodeError::DuplicatePayment) => Err(LightningError::AlreadyPaid { hash, state: PaymentState::Pending }),
            Err(other) => Err(self.why("paying")(other)),
        }
    }

    /// Takes a held payment. `Ok` means that the claim is on disk and LDK works on it; done is
    /// [`crate::LnEvent::Received`]. Claiming twice is fine.
    ///
    /// # Errors
    /// If nothing is held for the hash, the preimage is not its preimage, or the deadline has passed.
    pub fn claim(&self, hash: PaymentHash, preimage: Preimage) -> Result<(), LightningError> {
        if preimage.payment_hash() != hash {
            return Err(LightningError::WrongPreimage(hash));
        }
        let _one_at_a_time = lock(&self.deciding);
        match self.ldk_status(hash) {
            Some(LdkStatus::Succeeded) => return Ok(()),
            Some(LdkStatus::Failed) => return Err(LightningError::AlreadyFailed(hash)),
            _ => {}
        }
        let mut hold = self.holds.get(hash).ok_or(LightningError::NotHeld(hash))?;
        let arrived = hold.arrived.ok_or(LightningError::NotHeld(hash))?;
        let (height, deadline_height) = (self.best_block_height(), arrived.claim_deadline_height);
        if height >= deadline_height && hold.preimage.is_none() {
            return Err(LightningError::DeadlinePassed { hash, deadline_height, height });
        }
        if hold.preimage.is_none() {
            hold.preimage = Some(preimage);
            self.holds.put(hold)?; // P6: from here on a restart claims it
        }
        self.claim_in_ldk(hash, arrived.amount_msat, preimage)
    }

    pub(super) fn claim_in_ldk(
        &self,
        hash: PaymentHash,
        amount_msat: u64,
        preimage: Preimage,
    ) -> Result<(), LightningError> {
        let claimed = self.node.bolt11_payment().claim_for_hash(LdkHash(hash.0), amount_msat, LdkPreimage(preimage.0));
        claimed.map_err(ldk("claiming a payment"))
    }

    /// Gives a held payment back, or withdraws an invoice nobody paid. Failing twice is fine.
    ///
    /// # Errors
    /// If the hash is unknown, or the payment is claimed.
    pub fn fail(&self, hash: PaymentHash) -> Result<(), LightningError> {
        let _one_at_a_time = lock(&self.deciding);
        let claiming = self.holds.get(hash).is_some_and(|h| h.preimage.is_some());
        match self.status_of(hash, Direction::Inbound) {
            // LDK would book a settled payment as failed
            Some(LdkStatus::Succeeded) => return Err(LightningError::AlreadyClaimed(hash)),
            _ if claiming => return Err(LightningError::AlreadyClaimed(hash)),
            Some(_) => {}
            None => return Err(LightningError::NotHeld(hash)),
        }
        self.fail_in_ldk(hash)
    }

    pub(super) fn fail_in_ldk(&self, hash: PaymentHash) -> Result<(), LightningError> {
        self.node.bolt11_payment().fail_for_hash(LdkHash(hash.0)).map_err(ldk("giving a payment back"))?;
        self.holds.remove(hash)
    }

    /// Books payments whose deadline passed as failed: LDK gave them back and says nothing.
    pub(super) fn expire_overdue(&self) -> Result<(), LightningError> {
        let height = self.best_block_height();
        for hold in self.holds.all() {
            let Some(arrived) = hold.arrived else { continue };
            let grace = if hold.preimage.is_some() { CLAIM_GRACE_BLOCKS } else { 0 };
            let over = height >= arrived.claim_deadline_height.saturating_add(grace);
            if over && self.ldk_status(hold.hash) == Some(LdkStatus::Pending) {
                self.fail_in_ldk(hold.hash)?;
            }
        }
        Ok(())
    }

    /// Payments held now, with the height at which each goes back by itself.
    pub fn held_payments(&self) -> Vec<HeldPayment> {
        let height = self.best_block_height();
        let held = |hold: Hold| {
            let Arrived { amount_msat, claim_deadline_height } = hold.arrived?;
            let claiming = hold.preimage.is_some();
            let open = self.ldk_status(hold.hash) == Some(LdkStatus::Pending);
            let held = open && (claiming || height < claim_deadline_height);
            held.then_some(HeldPayment { hash: hold.hash, amount_msat, claim_deadline_height, claiming })
        };
        self.holds.all().into_iter().filter_map(held).collect()
    }

    pub(super) fn details(&self, hash: PaymentHash) -> Option<PaymentDetails> {
        self.node.payment(&id(hash))
    }

    pub(super) fn ldk_status(&self, hash: PaymentHash) -> Option<LdkStatus> {
        self.details(hash).map(|d| d.status)
    }

    pub(super) fn status_of(&self, hash: PaymentHash, direction: Direction) -> Option<LdkStatus> {
        self.details(hash).filter(|d| self::direction(d) == direction).map(|d| d.status)
    }

    /// What LDK's own store knows of a payment, ours or to us.
    pub fn payment_status(&self, hash: PaymentHash) -> Option<PaymentStatus> {
        let details = self.details(hash)?;
        let hold = self.holds.get(hash);
        let height = self.best_block_height();
        let arrived = hold.as_ref().and_then(|h| h.arrived);
        let claiming = hold.is_some_and(|h| h.preimage.is_some());
        let state = match (details.status, arrived) {
            (LdkStatus::Succeeded, _) => PaymentState::Succeeded,
            (LdkStatus::Failed, _) => PaymentState::Failed,
            (LdkStatus::Pending, Some(a)) if height < a.claim_deadline_height || claiming => PaymentState::Held,
            (LdkStatus::Pending, Some(_)) => PaymentState::Failed, // LDK gave it back and says nothing
            (LdkStatus::Pending, None) => PaymentState::Pending,
        };
        let preimage = match details.kind {
            PaymentKind::Bolt11 { preimage, .. } | PaymentKind::Bolt11Jit { preimage, .. } => {
                preimage.map(|p| Preimage(p.0))
            }
            _ => None,
        };
        Some(PaymentStatus {
            direction: direction(&details),
            state,
            amount_msat: details.amount_msat,
            fee_paid_msat: details.fee_paid_msat,
            preimage,
        })
    }
}

fn direction(details: &PaymentDetails) -> Direction {
    match details.direction {
        PaymentDirection::Inbound => Direction::Inbound,
        PaymentDirection::Outbound => Direction::Outbound,
    }
}
