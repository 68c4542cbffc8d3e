//! Simulated Lightning: channels with balances, hold invoices, HTLCs with amounts, deadlines and a limit of their
//! number, and the Bitcoin chain by whose height they expire. What a real node does in `lightning/`; its pitfalls
//! (told again after a crash, failed back at the deadline, refused without a channel) are all here.

use super::{Addr, Dice};
use oda_consensus::ids::{PaymentHash, Preimage};
use std::collections::BTreeMap;

/// Most HTLCs one party may have pending in a channel (LDK's default).
pub const MAX_HTLCS: usize = 50;
/// Blocks before the deadline at which LDK fails an HTLC that nobody claimed.
pub const GRACE_BLOCKS: u32 = 3;

/// What became of an HTLC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Locked.
    Held,
    /// Paid, with this preimage.
    Claimed(Preimage),
    /// Back with the payer.
    Failed,
}

/// Longest hold a payer's wallet agrees to (LDK's `max_total_cltv_expiry_delta`).
pub const MAX_HOLD_BLOCKS: u32 = 1_008;

/// A payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Htlc {
    /// Who pays.
    pub payer: Addr,
    /// Who is paid.
    pub payee: Addr,
    /// Msat.
    pub amount_msat: u64,
    /// Bitcoin height at which it ends.
    pub deadline: u32,
    /// Virtual time at which it was locked.
    pub since_ms: u64,
    /// What became of it.
    pub fate: Fate,
}

/// Why a payment did not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotPaid {
    /// Under way or over already.
    Known,
    /// The channel has no HTLC slot or no money left, or the route failed.
    NoRoute,
    /// The invoice is not for this hash and amount.
    WrongInvoice,
}

/// All channels, and the chain.
pub struct Lightning {
    htlcs: BTreeMap<PaymentHash, Htlc>,
    /// What each node began with and what it has now, msat; locked money is in neither.
    balances: BTreeMap<Addr, i128>,
    /// HTLCs ever locked for each payee, and msat-milliseconds its payers' money was locked for nothing.
    pub locked_for_nothing: BTreeMap<Addr, u128>,
    /// Fees paid for claims, msat.
    pub fees: BTreeMap<Addr, u64>,
    /// Bitcoin height.
    pub height: u32,
    dice: Dice,
    /// Attempts that fail, thousandths.
    pub failing_milli: u32,
    /// Claims that came twice or for something that was over: never allowed.
    pub doubled: Vec<PaymentHash>,
}

/// A BOLT 11 invoice as far as it matters here.
pub fn invoice(hash: PaymentHash, amount_msat: u64, hold_blocks: u32) -> String {
    format!("{hash}:{amount_msat}:{hold_blocks}")
}

impl Lightning {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            htlcs: BTreeMap::new(),
            balances: BTreeMap::new(),
            locked_for_nothing: BTreeMap::new(),
            fees: BTreeMap::new(),
            height: 800_000,
            dice: Dice::new(seed, "lightning"),
            failing_milli: 0,
            doubled: Vec::new(),
        }
    }

    /// Every payment there was.
    pub fn htlcs(&self) -> impl Iterator<Item = (&PaymentHash, &Htlc)> {
        self.htlcs.iter()
    }

    /// One.
    pub fn htlc(&self, hash: PaymentHash) -> Option<&Htlc> {
        self.htlcs.get(&hash)
    }

    /// What a node has gained or lost, msat.
    pub fn balance(&self, node: Addr) -> i128 {
        self.balances.get(&node).copied().unwrap_or(0)
    }

    /// What is gained, lost and locked, all together: always 0.
    pub fn total(&self) -> i128 {
        let locked = self.htlcs.values().filter(|h| h.fate == Fate::Held).map(|h| i128::from(h.amount_msat));
        self.balances.values().sum::<i128>() + locked.sum::<i128>()
    }

    /// The payer's wallet pays a hold invoice.
    ///
    /// # Errors
    /// If it does not.
    pub(super) fn pay(
        &mut self,
        payer: Addr,
        payee: Addr,
        bolt11: &str,
        (hash, amount_msat): (PaymentHash, u64),
        now_ms: u64,
    ) -> Result<(), NotPaid> {
        let mut parts = bolt11.split(':');
        let (named, asked) = (parts.next().unwrap_or(""), parts.next().and_then(|n| n.parse::<u64>().ok()));
        let hold: Option<u32> = parts.next().and_then(|n| n.parse().ok());
        let (true, Some(hold)) = (named == hash.to_string() && asked == Some(amount_msat), hold) else {
            return Err(NotPaid::WrongInvoice);
        };
        if hold > MAX_HOLD_BLOCKS {
            return Err(NotPaid::NoRoute);
        }
        if self.htlcs.get(&hash).is_some_and(|h| h.fate != Fate::Failed) {
            return Err(NotPaid::Known);
        }
        let pending = |h: &&Htlc| h.fate == Fate::Held && h.payer == payer && h.payee == payee;
        if self.htlcs.values().filter(pending).count() >= MAX_HTLCS || self.dice.milli(self.failing_milli) {
            return Err(NotPaid::NoRoute);
        }
        *self.balances.entry(payer).or_default() -= i128::from(amount_msat);
        let deadline = self.height.saturating_add(hold);
        self.htlcs.insert(hash, Htlc { payer, payee, amount_msat, deadline, since_ms: now_ms, fate: Fate::Held });
        Ok(())
    }

    /// A plain payment, as for a fee; what was paid in all is kept.
    pub(super) fn transfer(&mut self, payer: Addr, payee: Addr, amount_msat: u64) {
        *self.balances.entry(payer).or_default() -= i128::from(amount_msat);
        *self.balances.entry(payee).or_default() += i128::from(amount_msat);
        *self.fees.entry(payer).or_default() += amount_msat;
    }

    /// The payee shows the preimage. Whether that paid.
    pub(super) fn claim(&mut self, payee: Addr, hash: PaymentHash, preimage: Preimage) -> bool {
        let Some(h) = self.htlcs.get_mut(&hash).filter(|h| h.payee == payee) else { return false };
        if preimage.payment_hash() != hash || self.height >= h.deadline {
            return false;
        }
        match h.fate {
            Fate::Held => {
                h.fate = Fate::Claimed(preimage);
                *self.balances.entry(payee).or_default() += i128::from(h.amount_msat);
                true
            }
            Fate::Claimed(known) => {
                if known != preimage {
                    self.doubled.push(hash);
                }
                true // the wallet says so again
            }
            Fate::Failed => false,
        }
    }

    /// The payee gives it back. Its payer, if that ended it.
    pub(super) fn fail(&mut self, payee: Addr, hash: PaymentHash, now_ms: u64) -> Option<Addr> {
        let h = self.htlcs.get_mut(&hash).filter(|h| h.payee == payee && h.fate == Fate::Held)?;
        h.fate = Fate::Failed;
        *self.balances.entry(h.payer).or_default() += i128::from(h.amount_msat);
        let held = u128::from(now_ms.saturating_sub(h.since_ms)) * u128::from(h.amount_msat);
        *self.locked_for_nothing.entry(payee).or_default() += held;
        Some(h.payer)
    }

    /// Another Bitcoin height: what is failed back by it.
    pub(super) fn at_height(&mut self, height: u32, now_ms: u64) -> Vec<(PaymentHash, Addr)> {
        self.height = height;
        let due = |h: &Htlc| h.fate == Fate::Held && height.saturating_add(GRACE_BLOCKS) >= h.deadline;
        let due: Vec<(PaymentHash, Addr)> =
            self.htlcs.iter().filter(|(_, h)| due(h)).map(|(hash, h)| (*hash, h.payee)).collect();
        due.into_iter().filter_map(|(hash, payee)| Some((hash, self.fail(payee, hash, now_ms)?))).collect()
    }
}
