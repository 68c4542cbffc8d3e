//! What a person does with a wallet: read and pay any invoice, be paid, look back, and write down what a mnemonic
//! cannot restore.

use super::error::LightningError;
use super::types::{ChannelEntry, Direction, InvoiceInfo, PaymentRecord, PaymentState, PeerEntry, StaticBackup};
use super::{Wallet, invoice, lock};
use ldk_node::bitcoin::hashes::Hash as _;
use ldk_node::lightning_invoice::{Bolt11InvoiceDescription, Description};
use ldk_node::payment::{PaymentDetails, PaymentDirection, PaymentKind, PaymentStatus as LdkStatus};
use oda_consensus::ids::PaymentHash;

/// All bitcoin there will be, msat.
const MAX_MONEY_MSAT: u64 = 2_100_000_000_000_000_000;
/// Longest description of an invoice of ours, characters.
const MAX_DESCRIPTION: usize = 128;
/// Most records handed out at a time.
pub(super) const MAX_HISTORY: usize = 10_000;

/// Refuses amounts no invoice can be for.
pub(super) fn check_amount(amount_msat: u64) -> Result<(), LightningError> {
    if (1..=MAX_MONEY_MSAT).contains(&amount_msat) { Ok(()) } else { Err(LightningError::BadAmount { amount_msat }) }
}

impl Wallet {
    pub(super) fn describe(&self, amount_msat: u64, text: &str) -> Result<Bolt11InvoiceDescription, LightningError> {
        check_amount(amount_msat)?;
        Description::new(text.chars().take(MAX_DESCRIPTION).collect())
            .map(Bolt11InvoiceDescription::Direct)
            .map_err(|e| LightningError::InvalidInvoice(format!("{e:?}")))
    }

    /// Makes an invoice whose payment is taken on arrival. It needs a channel with room; see
    /// [`Wallet::receive_just_in_time`] for who has none.
    ///
    /// # Errors
    /// If the amount is none, or the wallet cannot write its state.
    pub fn receive(
        &self,
        amount_msat: u64,
        description: &str,
        expiry_s: u32,
    ) -> Result<(String, PaymentHash), LightningError> {
        let description = self.describe(amount_msat, description)?;
        let made = self.node.bolt11_payment().receive(amount_msat, &description, expiry_s);
        let invoice = made.map_err(self.why("making an invoice"))?;
        Ok((invoice.to_string(), PaymentHash(invoice.payment_hash().to_byte_array())))
    }

    /// What an invoice says, if this wallet could pay it.
    ///
    /// # Errors
    /// If it is malformed, for another network, expired, or this wallet's own.
    pub fn read_invoice(&self, bolt11: &str) -> Result<InvoiceInfo, LightningError> {
        let invoice = invoice::parse(bolt11, self.network)?;
        invoice::check_payable(&invoice, &self.node_id, invoice::now())?;
        Ok(invoice::info(&invoice))
    }

    /// Pays any invoice, once: `amount_msat` is needed if it leaves the amount open, and must agree with it
    /// otherwise. As [`Wallet::pay`], the end comes as an event, and [`Wallet::payment_status`] tells it too.
    ///
    /// # Errors
    /// If it is not payable, the amounts differ, there is too little money, or no channel can carry it now.
    pub fn pay_invoice(
        &self,
        bolt11: &str,
        amount_msat: Option<u64>,
        max_fee_msat: Option<u64>,
    ) -> Result<PaymentHash, LightningError> {
        let info = self.read_invoice(bolt11)?;
        let amount = match (info.amount_msat, amount_msat) {
            (Some(asked), Some(given)) if asked != given => {
                return Err(LightningError::WrongAmount { expected_msat: given, found_msat: Some(asked) });
            }
            (Some(asked), _) => asked,
            (None, Some(given)) => given,
            (None, None) => return Err(LightningError::AmountMissing),
        };
        check_amount(amount)?;
        if let (false, Some(why)) = self.watch.status() {
            return Err(LightningError::Waiting(why));
        }
        let sendable_msat = self.sendable_msat();
        if amount > sendable_msat {
            return Err(LightningError::TooLittle { amount_msat: amount, sendable_msat });
        }
        let max_fee_msat = max_fee_msat.unwrap_or_else(|| super::payments::default_max_fee_msat(amount));
        if info.amount_msat.is_some() {
            self.pay_with_max_fee(bolt11, info.hash, amount, max_fee_msat)?;
        } else {
            self.pay_open_amount(bolt11, info.hash, amount, max_fee_msat)?;
        }
        Ok(info.hash)
    }

    /// What all usable channels can send together now, msat, each payment's fees not counted.
    pub fn sendable_msat(&self) -> u64 {
        self.channels().iter().filter(|c| c.usable).map(|c| c.outbound_msat).fold(0, u64::saturating_add)
    }

    /// The newest payments, newest first, at most `limit`.
    pub fn history(&self, limit: usize) -> Vec<PaymentRecord> {
        let mut all = self.node.list_payments();
        all.sort_by_key(|p| std::cmp::Reverse(p.latest_update_timestamp));
        all.iter().take(limit.min(MAX_HISTORY)).map(record).collect()
    }

    /// With whom it has channels: what a mnemonic cannot tell.
    pub fn static_backup(&self) -> StaticBackup {
        let mut peers: Vec<PeerEntry> = self
            .node
            .list_peers()
            .into_iter()
            .filter(|p| p.is_persisted)
            .map(|p| PeerEntry { node_id: p.node_id.to_string(), address: p.address.to_string() })
            .collect();
        peers.sort_by(|a, b| a.node_id.cmp(&b.node_id));
        let entry = |c: super::ChannelInfo| ChannelEntry {
            counterparty: c.counterparty,
            funding: c.funding,
            capacity_sat: c.capacity_sat,
        };
        StaticBackup {
            version: StaticBackup::VERSION,
            node_id: self.node_id.clone(),
            network: self.network,
            made_at_s: invoice::now().as_secs(),
            peers,
            channels: self.channels().into_iter().map(entry).collect(),
        }
    }

    /// Connects to the peers of a backup of this wallet, so that those that still have a channel notice that its
    /// state is lost here, and close it. Peers that do not answer are asked again by LDK. Returns how many answered.
    /// Blocks.
    ///
    /// # Errors
    /// If the backup is another wallet's or another version's.
    pub fn reconnect(&self, backup: &StaticBackup) -> Result<usize, LightningError> {
        let refused = |why: &str| Err(LightningError::BadBackup(why.into()));
        if backup.version != StaticBackup::VERSION {
            return refused("it was written by another version");
        }
        if backup.node_id != self.node_id || backup.network != self.network {
            return refused("it belongs to another wallet or network");
        }
        Ok(backup.peers.iter().filter(|p| self.connect(&p.node_id, &p.address).is_ok()).count())
    }

    /// As [`Wallet::pay_with_max_fee`], for an invoice that leaves the amount open.
    fn pay_open_amount(
        &self,
        bolt11: &str,
        hash: PaymentHash,
        amount_msat: u64,
        max_fee_msat: u64,
    ) -> Result<(), LightningError> {
        let invoice = invoice::parse(bolt11, self.network)?;
        let _one_at_a_time = lock(&self.deciding);
        self.send_once(hash, amount_msat, max_fee_msat, |payment, route| {
            payment.send_using_amount(&invoice, amount_msat, Some(route))
        })
    }
}

fn record(details: &PaymentDetails) -> PaymentRecord {
    let (id, onchain, skimmed_msat) = match &details.kind {
        PaymentKind::Onchain { txid, .. } => (txid.to_string(), true, None),
        PaymentKind::Bolt11Jit { counterparty_skimmed_fee_msat, .. } => {
            (PaymentHash(details.id.0).to_string(), false, *counterparty_skimmed_fee_msat)
        }
        _ => (PaymentHash(details.id.0).to_string(), false, None),
    };
    PaymentRecord {
        id,
        onchain,
        direction: match details.direction {
            PaymentDirection::Inbound => Direction::Inbound,
            PaymentDirection::Outbound => Direction::Outbound,
        },
        state: match details.status {
            LdkStatus::Pending => PaymentState::Pending,
            LdkStatus::Succeeded => PaymentState::Succeeded,
            LdkStatus::Failed => PaymentState::Failed,
        },
        amount_msat: details.amount_msat,
        fee_msat: details.fee_paid_msat.or(skimmed_msat),
        updated_s: details.latest_update_timestamp,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_between_one_msat_and_all_there_is() {
        assert!(check_amount(0).is_err() && check_amount(MAX_MONEY_MSAT + 1).is_err());
        assert!(check_amount(1).is_ok() && check_amount(MAX_MONEY_MSAT).is_ok());
    }
}
