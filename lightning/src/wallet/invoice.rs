//! Invoices: making them leave time to hold (P3), and believing nothing a stranger's invoice says.
//!
//! ldk-node's hold invoices carry a final CLTV delta of 42 blocks, of which LDK keeps 39 to get its claim
//! on chain: three blocks to hold are guaranteed. There is no setting, and the field is signed; so the
//! invoice is taken apart, the field set, and the whole signed again with the node's own key.

use super::error::LightningError;
use super::types::InvoiceInfo;
use ldk_node::bitcoin::Network;
use ldk_node::bitcoin::bip32::Xpriv;
use ldk_node::bitcoin::hashes::Hash as _;
use ldk_node::lightning::sign::{KeysManager, NodeSigner as _, Recipient};
use ldk_node::lightning_invoice::{
    Bolt11Invoice, Bolt11InvoiceDescriptionRef, MinFinalCltvExpiryDelta, RawTaggedField, TaggedField,
};
use oda_consensus::genesis::BitcoinNetwork;
use oda_consensus::ids::PaymentHash;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Blocks LDK wants between a payment's arrival and its expiry for itself (3 + HTLC_FAIL_BACK_BUFFER).
pub(super) const LDK_FINAL_CLTV_BLOCKS: u32 = 42;
/// Longest hold: a payer's whole route may lock 1,008 blocks, hops and privacy padding included.
pub(super) const MAX_HOLD_BLOCKS: u32 = 800;
/// Longest invoice taken, bytes.
const MAX_INVOICE_BYTES: usize = 4096;

/// The Bitcoin network, as LDK names it.
pub(super) fn network(network: BitcoinNetwork) -> Network {
    match network {
        BitcoinNetwork::Regtest => Network::Regtest,
        BitcoinNetwork::Signet => Network::Signet,
        BitcoinNetwork::Bitcoin => Network::Bitcoin,
    }
}

/// Time since the Unix epoch.
pub(super) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Signs invoices as the node.
pub(super) struct Signer {
    keys: KeysManager,
}

fn invalid(why: impl std::fmt::Debug) -> LightningError {
    LightningError::InvalidInvoice(format!("{why:?}"))
}

impl Signer {
    /// The signer of the node ldk-node builds from the same seed (its derivation: BIP 32 master key of
    /// the seed as LDK's own seed).
    pub(super) fn new(seed: &[u8; 64], net: BitcoinNetwork) -> Result<Self, LightningError> {
        let ldk = |why: String| LightningError::Ldk { action: "deriving the node key", why };
        let master = Xpriv::new_master(network(net), seed).map_err(|e| ldk(e.to_string()))?;
        let at = now();
        let keys = KeysManager::new(&master.private_key.secret_bytes(), at.as_secs(), at.subsec_nanos(), true);
        Ok(Self { keys })
    }

    /// Whether it signs for this node id.
    pub(super) fn signs_for(&self, node_id: &str) -> bool {
        self.keys.get_node_id(Recipient::Node).is_ok_and(|id| id.to_string() == node_id)
    }

    /// The same invoice with a final CLTV delta that leaves `hold_blocks` to hold (P3).
    pub(super) fn with_hold(&self, invoice: Bolt11Invoice, hold_blocks: u32) -> Result<Bolt11Invoice, LightningError> {
        let delta = u64::from(LDK_FINAL_CLTV_BLOCKS.saturating_add(hold_blocks));
        let (mut raw, _, _) = invoice.into_signed_raw().into_parts();
        raw.data
            .tagged_fields
            .retain(|field| !matches!(field, RawTaggedField::KnownSemantics(TaggedField::MinFinalCltvExpiryDelta(_))));
        let field = TaggedField::MinFinalCltvExpiryDelta(MinFinalCltvExpiryDelta(delta));
        raw.data.tagged_fields.push(RawTaggedField::KnownSemantics(field));
        let signature = self.keys.sign_invoice(&raw, Recipient::Node).map_err(invalid)?;
        let signed = raw.sign(|_| Ok::<_, ()>(signature)).map_err(invalid)?;
        Bolt11Invoice::from_signed(signed).map_err(invalid)
    }
}

/// What a payer agreed to pay.
pub(super) struct Agreed<'a> {
    pub(super) network: BitcoinNetwork,
    pub(super) hash: PaymentHash,
    pub(super) amount_msat: u64,
    pub(super) own_node_id: &'a str,
    pub(super) now: Duration,
}

/// Parses an invoice for a network.
pub(super) fn parse(bolt11: &str, net: BitcoinNetwork) -> Result<Bolt11Invoice, LightningError> {
    if bolt11.len() > MAX_INVOICE_BYTES {
        return Err(LightningError::InvalidInvoice(format!("longer than {MAX_INVOICE_BYTES} bytes")));
    }
    let invoice: Bolt11Invoice = bolt11.parse().map_err(|e: ldk_node::lightning_invoice::ParseOrSemanticError| {
        LightningError::InvalidInvoice(e.to_string())
    })?;
    if invoice.network() != network(net) {
        return Err(LightningError::WrongNetwork { expected: net, found: invoice.network().to_string() });
    }
    Ok(invoice)
}

fn hash(invoice: &Bolt11Invoice) -> PaymentHash {
    PaymentHash(invoice.payment_hash().to_byte_array())
}

/// Checks that an invoice can be paid now, by another node than the payee.
pub(super) fn check_payable(invoice: &Bolt11Invoice, own_node_id: &str, now: Duration) -> Result<(), LightningError> {
    if invoice.would_expire(now) {
        return Err(LightningError::Expired);
    }
    if invoice.get_payee_pub_key().to_string() == own_node_id {
        return Err(LightningError::OwnInvoice);
    }
    let max = LDK_FINAL_CLTV_BLOCKS + MAX_HOLD_BLOCKS;
    let blocks = invoice.min_final_cltv_expiry_delta();
    if blocks > u64::from(max) {
        return Err(LightningError::HoldTooLong { blocks: u32::try_from(blocks).unwrap_or(u32::MAX), max });
    }
    Ok(())
}

/// What an invoice says, for people.
pub(super) fn info(invoice: &Bolt11Invoice) -> InvoiceInfo {
    let description = match invoice.description() {
        Bolt11InvoiceDescriptionRef::Direct(text) => text.to_string(),
        Bolt11InvoiceDescriptionRef::Hash(hash) => format!("(text with hash {})", hash.0),
    };
    InvoiceInfo {
        hash: hash(invoice),
        amount_msat: invoice.amount_milli_satoshis(),
        description,
        payee: invoice.get_payee_pub_key().to_string(),
        expires_at_s: invoice.expires_at().unwrap_or_default().as_secs(),
    }
}

/// Parses an invoice and checks that it says exactly what was agreed.
pub(super) fn check(bolt11: &str, agreed: &Agreed<'_>) -> Result<Bolt11Invoice, LightningError> {
    let invoice = parse(bolt11, agreed.network)?;
    let found = hash(&invoice);
    if found != agreed.hash {
        return Err(LightningError::WrongHash { expected: agreed.hash, found });
    }
    let found_msat = invoice.amount_milli_satoshis();
    if found_msat != Some(agreed.amount_msat) {
        return Err(LightningError::WrongAmount { expected_msat: agreed.amount_msat, found_msat });
    }
    check_payable(&invoice, agreed.own_node_id, agreed.now)?;
    Ok(invoice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ldk_node::bitcoin::hashes::sha256;
    use ldk_node::bitcoin::secp256k1::{PublicKey, Secp256k1, SecretKey};
    use ldk_node::lightning_invoice::{Currency, InvoiceBuilder};
    use ldk_node::lightning_types::payment::PaymentSecret;

    const SEED: [u8; 64] = [7; 64];
    const MADE_AT: Duration = Duration::from_secs(1_700_000_000);

    fn node_secret(signer: &Signer) -> SecretKey {
        signer.keys.get_node_secret_key()
    }

    fn sample(signer: &Signer, currency: Currency, amount_msat: Option<u64>) -> Bolt11Invoice {
        let key = node_secret(signer);
        let builder = InvoiceBuilder::new(currency)
            .description("work".into())
            .payment_hash(sha256::Hash::from_byte_array([9; 32]))
            .payment_secret(PaymentSecret([3; 32]))
            .duration_since_epoch(MADE_AT)
            .expiry_time(Duration::from_secs(600))
            .min_final_cltv_expiry_delta(42);
        let builder = match amount_msat {
            Some(msat) => builder.amount_milli_satoshis(msat),
            None => builder,
        };
        builder.build_signed(|h| Secp256k1::new().sign_ecdsa_recoverable(h, &key)).unwrap()
    }

    fn agreed() -> Agreed<'static> {
        Agreed {
            network: BitcoinNetwork::Regtest,
            hash: PaymentHash([9; 32]),
            amount_msat: 5_000_001,
            own_node_id: "",
            now: MADE_AT,
        }
    }

    #[test] // P3
    fn p3_the_hold_is_in_the_invoice_and_everything_else_stays() {
        let signer = Signer::new(&SEED, BitcoinNetwork::Regtest).unwrap();
        let plain = sample(&signer, Currency::Regtest, Some(5_000_001));
        assert_eq!(plain.min_final_cltv_expiry_delta(), 42, "what ldk-node would have left");
        let held = signer.with_hold(plain.clone(), 288).unwrap();
        assert_eq!(held.min_final_cltv_expiry_delta(), 330);
        let again: Bolt11Invoice = held.to_string().parse().unwrap();
        assert_eq!(again, held);
        let node = PublicKey::from_secret_key(&Secp256k1::new(), &node_secret(&signer));
        assert_eq!(again.recover_payee_pub_key(), node);
        assert!(signer.signs_for(&node.to_string()));
        assert_eq!(again.payment_secret(), plain.payment_secret());
        assert_eq!(again.payment_hash(), plain.payment_hash());
        assert_eq!(again.expiry_time(), plain.expiry_time());
        assert_eq!(again.amount_milli_satoshis(), Some(5_000_001));
        assert!(check(&held.to_string(), &agreed()).is_ok());
    }

    #[test]
    fn nothing_but_the_agreed_invoice_is_paid() {
        let signer = Signer::new(&SEED, BitcoinNetwork::Regtest).unwrap();
        let good = sample(&signer, Currency::Regtest, Some(5_000_001)).to_string();
        assert!(check(&good, &agreed()).is_ok());
        let other = Agreed { hash: PaymentHash([8; 32]), ..agreed() };
        assert!(matches!(check(&good, &other), Err(LightningError::WrongHash { .. })));
        let less = Agreed { amount_msat: 5_000_000, ..agreed() };
        assert!(matches!(check(&good, &less), Err(LightningError::WrongAmount { .. })));
        let late = Agreed { now: MADE_AT + Duration::from_secs(601), ..agreed() };
        assert!(matches!(check(&good, &late), Err(LightningError::Expired)));
        let own = PublicKey::from_secret_key(&Secp256k1::new(), &node_secret(&signer)).to_string();
        let own = Agreed { own_node_id: &own, ..agreed() };
        assert!(matches!(check(&good, &own), Err(LightningError::OwnInvoice)));
        let open = sample(&signer, Currency::Regtest, None).to_string();
        assert!(matches!(check(&open, &agreed()), Err(LightningError::WrongAmount { found_msat: None, .. })));
        let real = sample(&signer, Currency::Bitcoin, Some(5_000_001)).to_string();
        assert!(matches!(check(&real, &agreed()), Err(LightningError::WrongNetwork { .. })));
        let long = signer.with_hold(sample(&signer, Currency::Regtest, Some(5_000_001)), 5_000).unwrap();
        assert!(matches!(check(&long.to_string(), &agreed()), Err(LightningError::HoldTooLong { .. })));
        for bad in ["", "lnbcrt", &"l".repeat(5000), &good[..good.len() - 1]] {
            assert!(matches!(check(bad, &agreed()), Err(LightningError::InvalidInvoice(_))), "{bad}");
        }
    }
}
