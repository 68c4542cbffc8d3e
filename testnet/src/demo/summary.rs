//! The books at the end: every millisatoshi and every micro-nat, from sources that do not know of
//! each other.
//!
//! One source would always agree with itself. So the sponsor's wallet says what was spent, the
//! trainers' wallets what arrived, the ledger what was promised and settled, and the attested
//! outcomes what was earned; each equation below puts two of them side by side.

use crate::config::{NetworkFile, Role};
use crate::demo::federation::FederationSum;
use crate::demo::phases::RoundPhases;
use crate::demo::view::{Money, RoundView};
use crate::rpc::{Credit, Escrow, Model, OutcomeInfo, Payment};
use crate::trainer::Phase;
use oda_consensus::escrow::TrancheStatus;
use oda_consensus::ids::EscrowId;
use oda_consensus::outcome::ClaimOutcome;
use oda_consensus::score::TestReport;
use oda_consensus::tx::claim_escrow;
use serde::Serialize;
use std::collections::BTreeMap;

/// Everything the books are made of. All of the ledger at one height.
#[derive(Clone, Debug)]
pub struct Books {
    /// The model.
    pub model: Model,
    /// All its outcomes.
    pub outcomes: Vec<OutcomeInfo>,
    /// Credit on it.
    pub credit: Vec<Credit>,
    /// Every escrow of its judged rounds.
    pub escrows: BTreeMap<EscrowId, Escrow>,
    /// Payments, as the sponsors' wallets know them.
    pub payments: Vec<Payment>,
    /// Rounds of this run that are over.
    pub rounds: Vec<RoundView>,
    /// What lies in the channels.
    pub channels: Channels,
}

/// What lies in the channels, as the wallets at both ends say. Every channel began on its sponsor's
/// side, so these figures tell of all payments since the network began.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Channels {
    /// Capacity, msat.
    pub capacity_msat: u64,
    /// On the sponsors' sides, msat.
    pub sponsors_msat: u64,
    /// On the trainers' sides, msat.
    pub trainers_msat: u64,
    /// Held by payments of rounds under way, msat.
    pub in_flight_msat: u64,
}

/// One equation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What it says.
    pub what: String,
    /// Left side.
    pub left: i128,
    /// Right side.
    pub right: i128,
    /// Unit of both.
    pub unit: &'static str,
}

impl Check {
    fn new(what: &str, unit: &'static str, left: impl Into<i128>, right: impl Into<i128>) -> Self {
        Self { what: what.into(), left: left.into(), right: right.into(), unit }
    }

    /// Whether both sides are the same.
    pub fn holds(&self) -> bool {
        self.left == self.right
    }
}

/// One trainer's result.
#[derive(Clone, Debug, Serialize)]
pub struct TrainerSum {
    /// Name.
    pub name: String,
    /// Whether it cheated.
    pub cheat: bool,
    /// Claims judged.
    pub claims: u64,
    /// Claims that added to a new head, also by less than the smallest payment.
    pub added_claims: u64,
    /// Income, msat.
    pub income_msat: u64,
    /// Credit, micro-nats.
    pub credit_unat: u64,
}

/// The final report.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Rounds judged in this run.
    pub rounds: usize,
    /// Heads adopted in this run.
    pub adopted: usize,
    /// Test split before the first and after the last head of this run.
    pub test: Option<(TestReport, TestReport)>,
    /// What sponsors paid for settled escrows, msat.
    pub spent_msat: u64,
    /// Lightning fees within that, msat.
    pub fees_msat: u64,
    /// Given back to the sponsors, msat.
    pub refunded_msat: u64,
    /// Trainers.
    pub trainers: Vec<TrainerSum>,
    /// The equations.
    pub checks: Vec<Check>,
    /// What is wrong besides.
    pub problems: Vec<String>,
    /// Seconds of each phase.
    pub phases: Vec<RoundPhases>,
    /// The federation.
    pub federation: FederationSum,
    /// Seconds from the first round's opening to the last payment's end.
    pub seconds: f64,
}

impl Summary {
    /// Whether everything adds up.
    pub fn is_good(&self) -> bool {
        self.problems.is_empty() && self.checks.iter().all(Check::holds)
    }
}

fn sum(amounts: impl Iterator<Item = u64>) -> u64 {
    amounts.fold(0, u64::saturating_add)
}

/// Draws up the books.
pub fn draw_up(books: &Books, file: &NetworkFile, phases: Vec<RoundPhases>) -> Summary {
    let ledger_settled = sum(books.escrows.values().map(Escrow::paid_msat));
    let ledger_refunded = sum(books.escrows.values().map(Escrow::refunded_msat));
    let done = |p: &&Payment| {
        let tranche = books.escrows.get(&p.escrow).and_then(|e| e.tranches.get(usize::from(p.tranche)));
        let settled = tranche.is_some_and(|t| matches!(t.status, TrancheStatus::Settled(_)));
        matches!(p.phase.as_str(), "sent" | "closed") && settled
    };
    let fees_msat = sum(books.payments.iter().filter(done).map(|p| p.fee_msat));
    let spent_msat = sum(books.payments.iter().filter(done).map(|p| p.amount_msat)).saturating_add(fees_msat);
    let income_msat = sum(books.credit.iter().map(|c| c.paid_msat));

    let claims = || books.rounds.iter().flat_map(|r| &r.claims);
    let own_paid =
        sum(claims().filter(|c| matches!(c.own_phase, Some(Phase::Received | Phase::Paid))).map(|c| c.amount_msat));
    let run_paid = sum(claims().filter(|c| c.money == Money::Paid).map(|c| c.amount_msat));
    // P5: what each claim's share of the gain earns at its sponsor's rate, in whole tranches
    let earns = |o: &OutcomeInfo, c: &ClaimOutcome| {
        let escrow = books.escrows.get(&claim_escrow(c.claim)).filter(|_| o.outcome.pays(c));
        escrow.map_or(0, |e| e.terms.sum_msat(e.terms.earned(c.credit_unat)))
    };
    let earned =
        sum(books.outcomes.iter().flat_map(|o| o.outcome.claims.iter().map(move |c| (o, c))).map(|(o, c)| earns(o, c)));
    let proven = sum(books.outcomes.iter().filter(|o| o.outcome.adopted()).map(|o| o.outcome.proven_unat));
    let credited = sum(books.credit.iter().map(|c| c.credit_unat));

    let mut checks = vec![
        Check::new(
            "sponsor's spending = trainers' income + Lightning fees",
            "msat",
            spent_msat,
            income_msat.saturating_add(fees_msat),
        ),
        Check::new("settled on the ledger = trainers' receipts", "msat", ledger_settled, income_msat),
        Check::new(
            "paid by the sponsors' promises = settled on the ledger",
            "msat",
            sum(books.model.sponsors.iter().map(|s| s.paid_msat)),
            ledger_settled,
        ),
        Check::new(
            "refunded by the sponsors' promises = refunded on the ledger",
            "msat",
            sum(books.model.sponsors.iter().map(|s| s.refunded_msat)),
            ledger_refunded,
        ),
        Check::new("received by the trainers' wallets = settled in this run", "msat", own_paid, run_paid),
        Check::new("settled on the ledger = earned by the attested gains", "msat", ledger_settled, earned),
        Check::new("credit on the ledger = proven gain of the adopted heads", "unat", credited, proven),
        Check::new(
            "gain booked on the model = proven gain of the adopted heads",
            "unat",
            books.model.proven_unat,
            proven,
        ),
    ];
    let c = &books.channels;
    let left_sponsors = i128::from(c.capacity_msat) - i128::from(c.sponsors_msat);
    let spent_and_held = spent_msat.saturating_add(c.in_flight_msat);
    checks.push(Check::new(
        "trainers' side of the channels = trainers' receipts",
        "msat",
        c.trainers_msat,
        income_msat,
    ));
    checks.push(Check::new(
        "gone from the sponsors' side = spent + held for the next round",
        "msat",
        left_sponsors,
        spent_and_held,
    ));

    let trainers: Vec<TrainerSum> = file
        .of(Role::Trainer)
        .map(|n| {
            let c = books.credit.iter().find(|c| c.trainer == n.node);
            TrainerSum {
                name: n.name.clone(),
                cheat: n.cheat,
                claims: c.map_or(0, |c| c.claims),
                added_claims: c.map_or(0, |c| c.paid_claims),
                income_msat: c.map_or(0, |c| c.paid_msat),
                credit_unat: c.map_or(0, |c| c.credit_unat),
            }
        })
        .collect();
    let mut problems = Vec::new();
    for t in trainers.iter().filter(|t| t.cheat && (t.income_msat > 0 || t.added_claims > 0 || t.credit_unat > 0)) {
        problems.push(format!(
            "{} cheated and gained by it: {} claims added, {} msat",
            t.name, t.added_claims, t.income_msat
        ));
    }
    if trainers.iter().any(|t| !t.cheat) && run_paid == 0 {
        let accepted = claims().any(|c| c.accepted == Some(true));
        let why = "; some were accepted, but their gains earn less than a tranche: a network with a higher --rate-msat pays them";
        problems.push(format!("no honest claim was paid{}", if accepted { why } else { "" }));
    }
    let test = test_of(&books.rounds);
    match test {
        Some((before, after)) if after.correct > before.correct => {}
        Some((before, after)) => problems.push(format!(
            "test accuracy did not rise: {} of {} before, {} after",
            before.correct, before.n, after.correct
        )),
        None => problems.push("no head was measured on the test split: no claim was accepted".into()),
    }
    Summary {
        rounds: books.rounds.len(),
        adopted: books.rounds.iter().filter(|r| r.result.is_some_and(|r| r.adopted)).count(),
        test,
        spent_msat,
        fees_msat,
        refunded_msat: ledger_refunded,
        trainers,
        checks,
        problems,
        seconds: phases.iter().flat_map(|p| p.seconds).sum(),
        federation: FederationSum::default(),
        phases,
    }
}

/// The first head measured and the last one.
fn test_of(rounds: &[RoundView]) -> Option<(TestReport, TestReport)> {
    let mut results = rounds.iter().filter_map(|r| r.result);
    let first = results.clone().find_map(|r| r.before)?;
    let last = results.rfind(|r| r.after.is_some()).and_then(|r| r.after)?;
    Some((first, last))
}

#[cfg(test)]
#[path = "summary_tests.rs"]
pub(crate) mod tests;
