//! What there is to show of a network at one moment, gathered from ledger and trainers.

use oda_consensus::ids::{BlobHash, ClaimId, EscrowId, NodeId};
use oda_consensus::manifest::Judging;
use oda_consensus::score::TestReport;
use oda_consensus::score::{Measurement, Refusal, Verdict, excess_z_milli};
use serde::Serialize;

use crate::rpc::{ClaimInfo, Escrow, OutcomeInfo, Stage};
use crate::trainer::{Activity, Facts, Phase};

/// The network now.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Ledger height.
    pub height: u64,
    /// Height of the Bitcoin chain.
    pub chain_height: u64,
    /// Rounds that are not over, oldest first.
    pub open: Vec<RoundView>,
    /// Rounds that ended since the last view, oldest first.
    pub ended: Vec<RoundView>,
    /// Trainers with what they do.
    pub trainers: Vec<(String, Activity)>,
}

/// One round.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RoundView {
    /// Number, from 1.
    pub round: u64,
    /// Result, once judged.
    pub result: Option<RoundResult>,
    /// Its claims.
    pub claims: Vec<ClaimView>,
}

impl RoundView {
    /// Whether it is judged and no payment is under way.
    pub fn is_over(&self) -> bool {
        self.result.is_some() && self.claims.iter().all(|c| c.money.is_over())
    }
}

/// What a round brought.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RoundResult {
    /// Head after it.
    pub head: BlobHash,
    /// Whether the head is new.
    pub adopted: bool,
    /// Proven gain, micro-nats.
    pub proven_unat: u64,
    /// Head before it, on the test split.
    pub before: Option<TestReport>,
    /// Head after it, on the test split.
    pub after: Option<TestReport>,
}

impl RoundResult {
    /// From an attested outcome.
    pub fn of(info: &OutcomeInfo) -> Self {
        let o = &info.outcome;
        let before = o.head.as_ref().map(|h| h.parent_test);
        let after = if o.adopted() { o.head.as_ref().map(|h| h.candidate_test) } else { before };
        Self { head: o.new_head().hash, adopted: o.adopted(), proven_unat: o.proven_unat, before, after }
    }
}

/// Where the money of a claim is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Money {
    /// No payment was ever offered.
    None,
    /// Offered; what is dealt is being drawn.
    Offered,
    /// Dealt on the ledger, not locked yet.
    Dealt,
    /// The HTLC is held.
    Held,
    /// Attested: the trainer is collecting it.
    Releasing,
    /// With the trainer.
    Paid,
    /// Attested: on its way back.
    Refunding,
    /// With the sponsor again.
    Refunded,
}

impl Money {
    /// Where it is, and how much of it, msat. What is earned comes first; the rest of a claim's tranches is with
    /// the sponsor again before the claim's money is over.
    fn of(escrow: &Escrow, held: bool) -> (Self, u64) {
        let (releasing, paid, refunding) = (escrow.releasing_msat(), escrow.paid_msat(), escrow.refunding_msat());
        let most = escrow.terms.most_msat();
        match escrow.stage {
            Stage::Offered | Stage::Chosen => (Self::Offered, most),
            Stage::Dealt if held => (Self::Held, most),
            Stage::Dealt => (Self::Dealt, most),
            Stage::Judged if releasing > 0 => (Self::Releasing, releasing.saturating_add(paid)),
            Stage::Judged if refunding > 0 => (Self::Refunding, refunding),
            Stage::Judged if paid > 0 => (Self::Paid, paid),
            Stage::Judged | Stage::Withdrawn => (Self::Refunded, escrow.refunded_msat()),
        }
    }

    /// Whether nothing more happens to it.
    pub fn is_over(self) -> bool {
        matches!(self, Self::None | Self::Paid | Self::Refunded)
    }

    /// For people.
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Offered => "offered",
            Self::Dealt => "dealt",
            Self::Held => "held",
            Self::Releasing => "releasing",
            Self::Paid => "paid",
            Self::Refunding => "refunding",
            Self::Refunded => "refunded",
        }
    }
}

/// One claim.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClaimView {
    /// Its id.
    pub claim: ClaimId,
    /// Its escrow, once offered.
    pub escrow: Option<EscrowId>,
    /// Trainer's identity.
    pub node: NodeId,
    /// Trainer's name.
    pub trainer: String,
    /// How far it is, for people.
    pub stage: String,
    /// Measured gain on the trainer's own shard, micro-nats of mean loss.
    pub gain_unat: Option<i64>,
    /// Standard errors by which that exceeds the gain on fresh data, in thousandths.
    pub z_milli: Option<i64>,
    /// Whether it was accepted, once judged.
    pub accepted: Option<bool>,
    /// Amount of it that is there, msat.
    pub amount_msat: u64,
    /// Where it is.
    pub money: Money,
    /// Where its trainer says the claim stands.
    pub own_phase: Option<Phase>,
}

impl ClaimView {
    /// From the ledger's record, and what its trainer says.
    pub fn of(info: &ClaimInfo, trainer: &str, facts: Option<&Facts>, judging: &Judging, adopted: bool) -> Self {
        let own = facts.and_then(|f| f.claims.get(&info.claim.id));
        let held = own.is_some_and(|c| c.held);
        let judged = info.claim.judged.map(|(outcome, _)| outcome);
        let scores = judged.and_then(|o| if let Measurement::Scored(s) = o.measurement { Some(s) } else { None });
        let z_milli = scores.map(|s| excess_z_milli(&s.shard, &s.gate));
        let stage = match judged {
            Some(o) => explain(o.verdict, judging, adopted),
            None if info.claim.reveal.is_some() => "revealed".into(),
            None if held => "locked".into(),
            None if info.escrow.is_some() => "payment offered".into(),
            None => "committed".into(),
        };
        let (money, amount_msat) = info.escrow.as_ref().map_or((Money::None, 0), |e| Money::of(e, held));
        Self {
            claim: info.claim.id,
            escrow: info.escrow.as_ref().map(|e| e.id),
            node: info.claim.trainer,
            trainer: trainer.to_string(),
            stage,
            gain_unat: scores.map(|s| s.shard.mean_unat()),
            z_milli,
            accepted: judged.map(|o| o.verdict == Verdict::Accepted),
            amount_msat,
            money,
            own_phase: own.map(|c| c.phase),
        }
    }
}

/// A verdict with its reason, for people.
fn explain(verdict: Verdict, judging: &Judging, adopted: bool) -> String {
    let milli = |z: u32| format!("{}.{}", z / 1000, z % 1000 / 100);
    match verdict {
        Verdict::Accepted if adopted => "accepted".into(),
        Verdict::Accepted => "accepted, but the new head is no better".into(),
        Verdict::NotRevealed => "rejected: never revealed".into(),
        Verdict::Refused(why) => format!("refused: {}", refusal(why)),
        Verdict::NotAssignedWork => {
            format!("rejected: not the assigned work (z below {})", milli(judging.assigned_z_milli))
        }
        Verdict::Harmful => "rejected: makes the model worse".into(),
        Verdict::NearCopy => {
            format!("rejected: copy of another claim (cosine {} or more)", milli(judging.copy_cosine_milli))
        }
        Verdict::TooLittleWork => {
            format!("rejected: below {} of the median work", f64::from(judging.least_work_milli) / 1e3)
        }
        Verdict::BelowStated => "rejected: adds less than it states".into(),
        Verdict::BadMeasurement => "rejected: wrong sample sizes".into(),
    }
}

fn refusal(why: Refusal) -> &'static str {
    match why {
        Refusal::NotServed => "not served in time",
        Refusal::Oversize => "blob too large",
        Refusal::Malformed => "not a delta",
        Refusal::WrongShape => "wrong shape",
        Refusal::NormAboveCap => "norm above the cap",
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A judged round with one paid and one refunded claim.
    pub(crate) fn round(number: u64) -> RoundView {
        let claim = |n: u8, trainer: &str, accepted, money| ClaimView {
            claim: ClaimId([n; 32]),
            escrow: Some(EscrowId([n; 32])),
            node: NodeId([n; 32]),
            trainer: trainer.into(),
            stage: if accepted { "accepted".into() } else { "refused: not a delta".into() },
            gain_unat: accepted.then_some(351_234),
            z_milli: accepted.then_some(12_345),
            accepted: Some(accepted),
            amount_msat: 5_000_000,
            money,
            own_phase: None,
        };
        let test = |loss_sum_unat, correct| Some(TestReport { n: 1000, loss_sum_unat, correct });
        RoundView {
            round: number,
            result: Some(RoundResult {
                head: BlobHash([0xab; 32]),
                adopted: true,
                proven_unat: 412_000,
                before: test(2_302_000_000, 101),
                after: test(912_000_000, 684),
            }),
            claims: vec![claim(1, "trainer-0", true, Money::Paid), claim(2, "trainer-2", false, Money::Refunded)],
        }
    }

    #[test]
    fn a_round_is_over_when_its_money_has_arrived() {
        let mut r = round(1);
        assert!(r.is_over());
        r.claims[0].money = Money::Releasing;
        assert!(!r.is_over());
        r.claims[0].money = Money::None;
        assert!(r.is_over());
        r.result = None;
        assert!(!r.is_over());
    }
}
