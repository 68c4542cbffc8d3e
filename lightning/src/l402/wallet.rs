//! This crate's wallet as issuer and payer.
//!
//! The wallet blocks, so each call goes to a thread that may. It books every payment by its hash and
//! refuses a second one, which is what [`Payer::outcome`] relies on.

use super::client::{InvoiceTerms, Outcome, Payer};
use super::server::{BoxError, IssuedInvoice, Issuer};
use crate::wallet::{Direction, LightningError, PaymentState, Wallet};
use ldk_node::bitcoin::Network;
use ldk_node::bitcoin::hashes::Hash as _;
use ldk_node::lightning_invoice::Bolt11Invoice;
use oda_consensus::genesis::BitcoinNetwork;
use oda_consensus::ids::{PaymentHash, Preimage};
use std::sync::Arc;
use std::time::Duration;

/// How often the wallet is asked about a payment under way.
const POLL: Duration = Duration::from_millis(50);
/// How often before a payment under way is left to itself: ten minutes.
const POLLS: u32 = 12_000;
/// Longest invoice read, bytes.
const MAX_INVOICE_BYTES: usize = 4096;

async fn blocking<R: Send + 'static>(
    wallet: &Arc<Wallet>,
    job: impl FnOnce(&Wallet) -> Result<R, LightningError> + Send + 'static,
) -> Result<R, BoxError> {
    let wallet = Arc::clone(wallet);
    Ok(tokio::task::spawn_blocking(move || job(&wallet)).await??)
}

impl Issuer for Arc<Wallet> {
    async fn invoice(&self, amount_msat: u64, description: &str, expiry_s: u32) -> Result<IssuedInvoice, BoxError> {
        let description = description.to_owned();
        let (bolt11, payment_hash) =
            blocking(self, move |wallet| wallet.receive(amount_msat, &description, expiry_s)).await?;
        Ok(IssuedInvoice { bolt11, payment_hash })
    }
}

impl Payer for Arc<Wallet> {
    fn decode(&self, bolt11: &str) -> Result<InvoiceTerms, BoxError> {
        if bolt11.len() > MAX_INVOICE_BYTES {
            return Err(format!("longer than {MAX_INVOICE_BYTES} bytes").into());
        }
        let invoice: Bolt11Invoice = bolt11.parse().map_err(|e| format!("{e}"))?;
        let network = match invoice.network() {
            Network::Regtest => BitcoinNetwork::Regtest,
            Network::Signet => BitcoinNetwork::Signet,
            Network::Bitcoin => BitcoinNetwork::Bitcoin,
            other => return Err(format!("it is for {other}, which this wallet does not know").into()),
        };
        let expires_at = invoice.duration_since_epoch().saturating_add(invoice.expiry_time());
        Ok(InvoiceTerms {
            payment_hash: PaymentHash(invoice.payment_hash().to_byte_array()),
            amount_msat: invoice.amount_milli_satoshis(),
            expires_at_ms: u64::try_from(expires_at.as_millis()).unwrap_or(u64::MAX),
            network,
        })
    }

    async fn pay(&self, bolt11: &str, terms: &InvoiceTerms, max_fee_msat: u64) -> Result<Preimage, BoxError> {
        let hash = terms.payment_hash;
        let amount_msat = terms.amount_msat.ok_or("the invoice leaves the amount open")?;
        let invoice = bolt11.to_owned();
        blocking(self, move |wallet| wallet.pay_with_max_fee(&invoice, hash, amount_msat, max_fee_msat)).await?;
        for _ in 0..POLLS {
            match self.outcome(hash).await? {
                Outcome::Paid(preimage) => return Ok(preimage),
                Outcome::Pending => tokio::time::sleep(POLL).await,
                Outcome::NotStarted | Outcome::Failed => return Err("no route to the payee held".into()),
            }
        }
        Err("it has been under way for ten minutes".into())
    }

    async fn outcome(&self, payment_hash: PaymentHash) -> Result<Outcome, BoxError> {
        let status = blocking(self, move |wallet| Ok(wallet.payment_status(payment_hash))).await?;
        let Some(status) = status else { return Ok(Outcome::NotStarted) };
        if status.direction == Direction::Inbound {
            return Err("the invoice is this wallet's own".into());
        }
        Ok(match (status.state, status.preimage) {
            (PaymentState::Failed, _) => Outcome::Failed,
            (PaymentState::Succeeded, Some(preimage)) => Outcome::Paid(preimage),
            // settled without a preimage cannot be: the next look finds it
            (PaymentState::Pending | PaymentState::Held | PaymentState::Succeeded, _) => Outcome::Pending,
        })
    }
}
