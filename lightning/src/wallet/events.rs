//! Events, each handed out until what follows from it is on disk (P6).

use super::error::LightningError;
use super::holds::{Arrived, Hold};
use super::types::LnEvent;
use super::{Wallet, ldk, lock};
use ldk_node::Event;
use ldk_node::bitcoin::secp256k1::PublicKey;
use ldk_node::lightning_types::payment::PaymentHash as LdkHash;
use ldk_node::payment::PaymentStatus as LdkStatus;
use oda_consensus::ids::{PaymentHash, Preimage};

/// What the event last handed out needs at its acknowledgement.
pub(super) enum Unacknowledged {
    Held(Box<Hold>),
    Received(PaymentHash),
    Other,
}

impl Wallet {
    /// The next event; the same again until it is acknowledged. For one caller: with two, one would
    /// acknowledge what the other has not seen. May be dropped at any await.
    pub async fn next_event(&self) -> LnEvent {
        loop {
            let event = self.node.next_event_async().await;
            if let Some((event, unacknowledged)) = self.translate(event) {
                *lock(&self.unacknowledged) = Some(unacknowledged);
                return event;
            }
            if let Err(error) = self.node.event_handled() {
                tracing::warn!(%error, "an event of no interest comes again after a restart");
            }
        }
    }

    fn translate(&self, event: Event) -> Option<(LnEvent, Unacknowledged)> {
        let hash = |h: LdkHash| PaymentHash(h.0);
        let name = |k: Option<PublicKey>| k.map(|k| k.to_string()).unwrap_or_default();
        let event = match event {
            Event::PaymentClaimable { payment_hash, claimable_amount_msat, claim_deadline, .. } => {
                let hash = hash(payment_hash);
                // LDK fills the deadline in always; none would mean none is known: treat as due now.
                let claim_deadline_height = claim_deadline.unwrap_or(0);
                let amount_msat = claimable_amount_msat;
                let known = self.holds.get(hash).unwrap_or(Hold {
                    hash,
                    amount_msat,
                    hold_blocks: 0,
                    expires_at_s: 0,
                    bolt11: None,
                    arrived: None,
                    preimage: None,
                });
                let hold = Hold { arrived: Some(Arrived { amount_msat, claim_deadline_height }), ..known };
                if let Err(error) = self.holds.put(hold.clone()) {
                    tracing::error!(%error, "a held payment is not on disk; trying again at its acknowledgement");
                }
                let event = LnEvent::Held { hash, amount_msat, claim_deadline_height };
                return Some((event, Unacknowledged::Held(Box::new(hold))));
            }
            Event::PaymentReceived { payment_hash, amount_msat, .. } => {
                let hash = hash(payment_hash);
                return Some((LnEvent::Received { hash, amount_msat }, Unacknowledged::Received(hash)));
            }
            Event::PaymentSuccessful { payment_hash, payment_preimage, fee_paid_msat, .. } => LnEvent::Sent {
                hash: hash(payment_hash),
                preimage: payment_preimage.map(|p| Preimage(p.0)),
                fee_paid_msat: fee_paid_msat.unwrap_or(0),
            },
            Event::PaymentFailed { payment_hash: Some(payment_hash), reason, .. } => LnEvent::SendFailed {
                hash: hash(payment_hash),
                reason: reason.map_or_else(|| "no reason given".into(), |r| format!("{r:?}")),
            },
            Event::ChannelReady { counterparty_node_id, .. } => {
                LnEvent::ChannelReady { counterparty: name(counterparty_node_id) }
            }
            Event::ChannelClosed { counterparty_node_id, reason, .. } => LnEvent::ChannelClosed {
                counterparty: name(counterparty_node_id),
                reason: reason.map_or_else(|| "no reason given".into(), |r| r.to_string()),
            },
            _ => return None,
        };
        Some((event, Unacknowledged::Other))
    }

    /// Acknowledges the event last returned: what follows from it is on disk (P6).
    ///
    /// # Errors
    /// If no event is out, or the wallet cannot write; the event then comes again.
    pub fn event_handled(&self) -> Result<(), LightningError> {
        let mut slot = lock(&self.unacknowledged);
        match slot.as_ref().ok_or(LightningError::NoEvent)? {
            Unacknowledged::Held(hold) => {
                // only if writing failed before: meanwhile it may have been claimed or given back
                if self.holds.get(hold.hash).is_none() && self.ldk_status(hold.hash) == Some(LdkStatus::Pending) {
                    self.holds.put(hold.as_ref().clone())?;
                }
            }
            Unacknowledged::Received(hash) => self.holds.remove(*hash)?,
            Unacknowledged::Other => {}
        }
        *slot = None;
        self.node.event_handled().map_err(ldk("acknowledging an event"))
    }
}
