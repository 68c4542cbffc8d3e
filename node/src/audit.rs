//! `oda ledger audit`: do the ledger's accounts, its receipts and a wallet's own records say the same, to the
//! millisatoshi?
//!
//! A node that only trusts its ledger would not notice a payment that left its wallet and was never booked, nor a
//! receipt without money. So the three are read apart from each other and compared payment by payment: what was
//! promised and where it is (escrow by escrow), preimages against hashes, what the attested gains earned, and, with a
//! data directory, what Lightning itself recorded.

use crate::query::table;
use crate::rpc::{ClaimInfo, ModelInfo};
use anyhow::{Context, Result};
use oda_consensus::escrow::{Stage, Terms, TrancheSet, TrancheStatus};
use oda_consensus::ids::{ClaimId, EscrowId, ModelId, NodeId, PaymentHash};
use oda_lightning::{Direction, PaymentRecord, PaymentState};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a program reads of a model on the ledger.
#[derive(Deserialize)]
struct Model {
    sponsors: Vec<Sponsorship>,
}

#[derive(Deserialize)]
struct Sponsorship {
    sponsor: NodeId,
    fund: Fund,
    held_msat: u64,
    paid_msat: u64,
    refunded_msat: u64,
}

#[derive(Deserialize)]
struct Fund {
    budget_msat: u64,
}

#[derive(Deserialize)]
struct Claim {
    id: ClaimId,
    judged: Option<(Judged, u64)>,
}

#[derive(Deserialize)]
struct Judged {
    credit_unat: u64,
}

#[derive(Deserialize)]
struct Escrow {
    id: EscrowId,
    payer: NodeId,
    payee: NodeId,
    terms: Terms,
    stage: Stage,
    tranches: Vec<Tranche>,
}

#[derive(Deserialize)]
struct Tranche {
    amount_msat: u64,
    payment_hash: PaymentHash,
    status: TrancheStatus,
}

/// The account of one sponsor on one model, msat.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Account {
    /// Model.
    pub model: Option<ModelId>,
    /// Sponsor.
    pub sponsor: Option<NodeId>,
    /// Promised.
    pub funded_msat: u64,
    /// Offered or held, and not ended.
    pub held_msat: u64,
    /// Receipts shown.
    pub paid_msat: u64,
    /// Back with the sponsor.
    pub refunded_msat: u64,
    /// Lightning fees of what was paid, if its wallet was asked.
    pub fees_msat: Option<u64>,
}

/// What was compared, and what differs.
#[derive(Debug, Default, Serialize)]
pub struct Audit {
    /// One account for each sponsor and model.
    pub accounts: Vec<Account>,
    /// Payments on the ledger.
    pub payments: usize,
    /// Of those, compared with the wallet's own records.
    pub in_wallet: usize,
    /// What else the wallet received over Lightning, msat: submission fees (P8), its owner's own invoices.
    pub other_in_msat: Option<u64>,
    /// What else it paid, msat, routing fees included.
    pub other_out_msat: Option<u64>,
    /// Each difference in words; none if everything adds up.
    pub differences: Vec<String>,
}

/// A wallet's records, and whose it is.
pub struct Books {
    /// Node.
    pub me: NodeId,
    /// Records.
    pub history: Vec<PaymentRecord>,
}

/// Compares.
///
/// # Errors
/// If the ledger's answers cannot be read.
pub fn audit(models: &[ModelInfo], claims: &[(ModelId, ClaimInfo)], books: Option<&Books>) -> Result<Audit> {
    let mut out = Audit::default();
    let mut records: BTreeMap<&str, &PaymentRecord> =
        books.iter().flat_map(|b| &b.history).filter(|r| !r.onchain).map(|r| (r.id.as_str(), r)).collect();
    let mut sums: BTreeMap<(ModelId, NodeId), Account> = BTreeMap::new();
    for (model, info) in claims {
        let claim: Claim = serde_json::from_value(info.claim.clone()).context("a claim of the ledger")?;
        let Some(escrow) = &info.escrow else { continue };
        let escrow: Escrow = serde_json::from_value(escrow.clone()).context("an escrow of the ledger")?;
        let account = sums.entry((*model, escrow.payer)).or_default();
        out.check_escrow(&claim, &escrow, account);
        for tranche in &escrow.tranches {
            out.payments += 1;
            let Some(books) = books else { continue };
            let role = if escrow.payer == books.me {
                Direction::Outbound
            } else if escrow.payee == books.me {
                Direction::Inbound
            } else {
                continue;
            };
            out.in_wallet += 1;
            let record = records.remove(tranche.payment_hash.to_string().as_str());
            let fee = out.check_record(&escrow, tranche, role, record);
            if role == Direction::Outbound {
                account.fees_msat = Some(account.fees_msat.unwrap_or(0).saturating_add(fee));
            }
        }
    }
    if books.is_some() {
        // not of the ledger, so nothing to compare with; said apart, or the wallet's balance would not be explained
        let sum = |direction: Direction| {
            let done = records.values().filter(|r| r.state == PaymentState::Succeeded && r.direction == direction);
            let fee = |r: &PaymentRecord| if direction == Direction::Outbound { r.fee_msat.unwrap_or(0) } else { 0 };
            done.fold(0u64, |sum, r| sum.saturating_add(r.amount_msat.unwrap_or(0)).saturating_add(fee(r)))
        };
        (out.other_in_msat, out.other_out_msat) = (Some(sum(Direction::Inbound)), Some(sum(Direction::Outbound)));
    }
    for info in models {
        let model: Model = serde_json::from_value(info.state.clone()).context("a model of the ledger")?;
        for s in model.sponsors {
            let mut account = sums.remove(&(info.id, s.sponsor)).unwrap_or_default();
            let name = format!("sponsor {} of model {}", s.sponsor.short(), info.id.short());
            for (what, booked, summed) in [
                ("held", s.held_msat, account.held_msat),
                ("paid", s.paid_msat, account.paid_msat),
                ("refunded", s.refunded_msat, account.refunded_msat),
            ] {
                out.differ(booked == summed, || {
                    format!("{name}: {booked} msat {what}, but its escrows add up to {summed}")
                });
            }
            let used = s.held_msat.saturating_add(s.paid_msat);
            out.differ(used <= s.fund.budget_msat, || {
                format!("{name}: {used} msat held and paid are above its budget")
            });
            (account.model, account.sponsor, account.funded_msat) =
                (Some(info.id), Some(s.sponsor), s.fund.budget_msat);
            out.accounts.push(account);
        }
    }
    for (model, sponsor) in sums.into_keys() {
        out.differences.push(format!("escrows of {} on model {} have no account", sponsor.short(), model.short()));
    }
    Ok(out)
}

impl Audit {
    fn differ(&mut self, same: bool, what: impl FnOnce() -> String) {
        if !same {
            self.differences.push(what());
        }
    }

    /// Amounts, receipts, and what was earned (P4, P5).
    fn check_escrow(&mut self, claim: &Claim, e: &Escrow, account: &mut Account) {
        let name = format!("escrow {}", e.id.short());
        let sum = |wanted: fn(&TrancheStatus) -> bool| {
            e.tranches.iter().filter(|t| wanted(&t.status)).fold(0u64, |sum, t| sum.saturating_add(t.amount_msat))
        };
        let paid = sum(|s| matches!(s, TrancheStatus::Settled(_)));
        let refunded = match e.stage {
            Stage::Withdrawn => e.terms.most_msat(),
            _ => sum(|s| matches!(s, TrancheStatus::Refunded | TrancheStatus::Expired | TrancheStatus::Fraud)),
        };
        account.paid_msat = account.paid_msat.saturating_add(paid);
        account.refunded_msat = account.refunded_msat.saturating_add(refunded);
        let over = paid.saturating_add(refunded);
        account.held_msat = account.held_msat.saturating_add(e.terms.most_msat().saturating_sub(over));
        for (i, t) in e.tranches.iter().enumerate() {
            let due = e.terms.amount_msat(i);
            self.differ(t.amount_msat == due, || format!("{name}: tranche {i} is {} msat, not {due}", t.amount_msat));
            if let TrancheStatus::Settled(preimage) = t.status {
                self.differ(preimage.payment_hash() == t.payment_hash, || {
                    format!("{name}: the receipt of tranche {i} is not the preimage of its hash")
                });
            }
        }
        if e.stage == Stage::Judged {
            let earned = e.terms.earned(claim.judged.as_ref().map_or(0, |(judged, _)| judged.credit_unat));
            let is_released = |s: TrancheStatus| {
                !matches!(s, TrancheStatus::Dealt | TrancheStatus::Refunding | TrancheStatus::Refunded)
            };
            let tranches = e.tranches.iter().enumerate();
            let released: TrancheSet = tranches.filter(|(_, t)| is_released(t.status)).map(|(i, _)| i).collect();
            self.differ(released == earned, || {
                let (is, due) = (e.terms.sum_msat(released), e.terms.sum_msat(earned));
                format!("{name}: {is} msat released, but claim {} earned {due}", claim.id.short())
            });
        }
    }

    /// One payment against Lightning's record of it; the fee it cost.
    fn check_record(&mut self, e: &Escrow, t: &Tranche, role: Direction, record: Option<&PaymentRecord>) -> u64 {
        let name = format!("escrow {}, payment {}", e.id.short(), t.payment_hash.short());
        let settled = matches!(t.status, TrancheStatus::Settled(_));
        let done = record.filter(|r| r.state == PaymentState::Succeeded);
        match (settled, done) {
            (true, None) => self.differences.push(format!(
                "{name}: settled on the ledger, but the wallet {}",
                record.map_or("knows nothing of it".into(), |r| format!("says {:?}", r.state).to_lowercase())
            )),
            (false, Some(_)) => {
                self.differences.push(format!("{name}: the wallet has it as paid, the ledger as {:?}", t.status));
            }
            (true, Some(r)) => {
                self.differ(r.amount_msat == Some(t.amount_msat), || {
                    format!("{name}: {} msat on the ledger, {:?} in the wallet", t.amount_msat, r.amount_msat)
                });
                self.differ(r.direction == role, || format!("{name}: it went the other way"));
            }
            (false, None) => {
                let over = matches!(t.status, TrancheStatus::Refunded | TrancheStatus::Expired | TrancheStatus::Fraud);
                let held = record.is_some_and(|r| r.state == PaymentState::Held);
                self.differ(!(over && held), || format!("{name}: over on the ledger, still held in the wallet"));
            }
        }
        done.and_then(|r| r.fee_msat).unwrap_or(0)
    }

    /// For people.
    pub fn print(&self) {
        let msat = |m: u64| m.to_string();
        let rows: Vec<Vec<String>> = self
            .accounts
            .iter()
            .map(|a| {
                vec![
                    a.model.map_or("-".into(), |m| m.short()),
                    a.sponsor.map_or("-".into(), |s| s.short()),
                    msat(a.funded_msat),
                    msat(a.held_msat),
                    msat(a.paid_msat),
                    msat(a.refunded_msat),
                    a.fees_msat.map_or("?".into(), msat),
                ]
            })
            .collect();
        table(&["MODEL", "SPONSOR", "FUNDED", "HELD", "PAID", "REFUNDED", "FEES (msat)"], &rows);
        println!("\n{} payments on the ledger, {} compared with the wallet", self.payments, self.in_wallet);
        if let (Some(received), Some(paid)) = (self.other_in_msat, self.other_out_msat) {
            println!("besides: {received} msat received, {paid} msat paid (submission fees, own invoices)");
        }
        self.differences.iter().for_each(|d| println!("differs: {d}"));
        if self.differences.is_empty() {
            println!("everything adds up");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oda_consensus::ids::Preimage;
    use serde_json::{Value, json};

    fn hex(n: u8) -> String {
        format!("{n:02x}").repeat(32)
    }

    fn hash(n: u8) -> String {
        Preimage([n; 32]).payment_hash().to_string()
    }

    /// 8 : 4 : 2 : 1 million; 9 earned and paid, 6 back.
    fn ledger() -> (Value, Value) {
        let status = |n: u8| if [0, 3].contains(&n) { json!({"settled": hex(n + 1)}) } else { json!("refunded") };
        let tranche = |n: u8| json!({"amount_msat": 8_000_000 >> n, "payment_hash": hash(n + 1), "status": status(n)});
        let escrow = json!({
            "id": hex(9), "payer": hex(5), "payee": hex(6), "stage": "judged",
            "terms": {"rate_msat": 100, "unit_msat": 1_000_000, "tranches": 4},
            "tranches": (0..4).map(tranche).collect::<Vec<_>>(),
        });
        let claim = json!({"id": hex(8), "judged": [{"credit_unat": 95_000}, 7]});
        let model = json!({"sponsors": [{
            "sponsor": hex(5), "fund": {"budget_msat": 50_000_000},
            "held_msat": 0, "paid_msat": 9_000_000, "refunded_msat": 6_000_000,
        }]});
        (model, json!({"claim": claim, "escrow": escrow}))
    }

    fn books(me: u8) -> Books {
        let direction = if me == 5 { Direction::Outbound } else { Direction::Inbound };
        let record = |n: u8| PaymentRecord {
            id: hash(n + 1),
            onchain: false,
            direction,
            state: if [0, 3].contains(&n) { PaymentState::Succeeded } else { PaymentState::Failed },
            amount_msat: Some(8_000_000 >> n),
            fee_msat: Some(7),
            updated_s: 1,
        };
        Books { me: NodeId([me; 32]), history: (0..4).map(record).collect() }
    }

    fn run(model: &Value, claim: &Value, books: Option<&Books>) -> Audit {
        let id = ModelId([7; 32]);
        let models = [ModelInfo { id, state: model.clone(), parameters: 1 }];
        audit(&models, &[(id, serde_json::from_value(claim.clone()).unwrap())], books).unwrap()
    }

    #[test]
    fn what_adds_up_is_said_to() {
        let (model, claim) = ledger();
        for books in [None, Some(books(5)), Some(books(6)), Some(books(4))] {
            let a = run(&model, &claim, books.as_ref());
            assert!(a.differences.is_empty(), "{:?}", a.differences);
            assert_eq!((a.payments, a.accounts[0].paid_msat, a.accounts[0].refunded_msat), (4, 9_000_000, 6_000_000));
        }
        assert_eq!(run(&model, &claim, Some(&books(5))).accounts[0].fees_msat, Some(14));
    }

    #[test] // P8: a submission fee is no difference, and shows
    fn other_payments_are_said_apart() {
        let ((model, claim), mut books) = (ledger(), books(5));
        let fee = |n: u8, direction, state| PaymentRecord {
            id: hash(n),
            onchain: false,
            direction,
            state,
            amount_msat: Some(10_000),
            fee_msat: Some(3),
            updated_s: 1,
        };
        books.history.push(fee(40, Direction::Inbound, PaymentState::Succeeded));
        books.history.push(fee(41, Direction::Inbound, PaymentState::Pending));
        books.history.push(fee(42, Direction::Outbound, PaymentState::Succeeded));
        let a = run(&model, &claim, Some(&books));
        assert!(a.differences.is_empty(), "{:?}", a.differences);
        assert_eq!((a.other_in_msat, a.other_out_msat), (Some(10_000), Some(10_003)));
        assert_eq!(run(&model, &claim, None).other_in_msat, None);
    }

    #[test] // each row plants one fault
    fn every_fault_shows() {
        type Plant = fn(&mut Value, &mut Value, &mut Books);
        let faults: [(&str, Plant); 11] = [
            ("paid, but its escrows add up", |m, _, _| m["sponsors"][0]["paid_msat"] = json!(9_000_001)),
            ("refunded, but its escrows", |m, _, _| m["sponsors"][0]["refunded_msat"] = json!(0)),
            ("held, but its escrows", |m, _, _| m["sponsors"][0]["held_msat"] = json!(1)),
            ("above its budget", |m, _, _| m["sponsors"][0]["fund"]["budget_msat"] = json!(8_000_000)),
            ("have no account", |m, _, _| m["sponsors"] = json!([])),
            ("is not the preimage", |_, c, _| c["escrow"]["tranches"][0]["status"] = json!({"settled": hex(77)})),
            ("earned 4000000", |_, c, _| c["claim"]["judged"][0]["credit_unat"] = json!(40_000)),
            ("tranche 1 is", |_, c, _| c["escrow"]["tranches"][1]["amount_msat"] = json!(1)),
            ("the wallet says failed", |_, _, b| b.history[0].state = PaymentState::Failed),
            ("the wallet has it as paid", |_, _, b| b.history[1].state = PaymentState::Succeeded),
            ("in the wallet", |_, _, b| b.history[3].amount_msat = Some(999_999)),
        ];
        for (name, plant) in faults {
            let ((mut model, mut claim), mut books) = (ledger(), books(5));
            plant(&mut model, &mut claim, &mut books);
            let a = run(&model, &claim, Some(&books));
            assert!(a.differences.iter().any(|d| d.contains(name)), "{name}: {:?}", a.differences);
        }
    }
}
