//! What must hold whatever anybody does, looked at after every event, and what is counted for the report.
//!
//! The checks hear everything but are heard by nobody. They apply decided blocks once more, apart from what the
//! nodes share, and they work out verdicts, credit and pay once more from the published measurements with arithmetic
//! written here ([`rules`]): a check that called the function it checks would agree with every bug in it.

mod rules;
mod said;
mod tally;

pub use tally::{ClaimStory, Tally};

use crate::learning::{Made, Work};
use crate::sim::Addr;
use crate::sim::lightning::{Fate, Lightning};
use oda_consensus::beacon::BeaconInput;
use oda_consensus::bft::{Message, SignedHeader, SignedVote};
use oda_consensus::codec;
use oda_consensus::engine::trainer::{Phase, TrainJob};
use oda_consensus::epoch::{EpochChain, draw_input};
use oda_consensus::escrow::TrancheStatus;
use oda_consensus::evidence::Offence;
use oda_consensus::frost::{SignMessage, request_digest};
use oda_consensus::ids::{BlobHash, BlockHash, ClaimId, Digest, ModelId, NodeId, PaymentHash};
use oda_consensus::outcome::{Attestation, Outcome, Statement, samples_input};
use oda_consensus::state::{State, ValidatorStatus};
use oda_consensus::tx::{Block, Reveal, SignedTx, Tx, claim_escrow, claim_id, score_commitment};
use oda_consensus::wire::{CommitteeMessage, DecidedBlock, Request, Response};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Violations that are kept in words; the others are counted.
const MAX_KEPT: usize = 32;

/// Every so-many-th block is applied a second time, in full: it costs as much as everything else a block costs.
const APPLIED_AGAIN: u64 = 4;

/// Something that must never happen.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Violation {
    /// Virtual time.
    pub at_ms: u64,
    /// Which check.
    pub check: &'static str,
    /// What.
    pub detail: String,
}

/// The names of all checks, and what each says.
pub const CHECKS: [(&str, &str); 14] = [
    ("agreement", "all honest ledgers are prefixes of one, with the same state roots (L1, L2)"),
    ("one-outcome", "one outcome a round, supported by a threshold of opened scores (R5, C3)"),
    ("no-honest-evicted", "no honest validator is evicted (C6)"),
    (
        "money",
        "every msat is with somebody; every payment settles or comes back once; no promise above a budget (P4-P6)",
    ),
    ("attested-pay", "nothing is paid but what an attested verdict released (P4)"),
    (
        "credit",
        "verdicts, proven gain and credit follow from the measurements; pay is at most rate times credit (S4-S6)",
    ),
    ("false-pay", "who did no work is not paid (S4)"),
    ("locked-first", "no honest trainer's work is shown before all it was promised is locked (R2)"),
    ("believed", "honest trainers work only on heads that the ledger had (L4, N1)"),
    ("nonce", "no honest member signs two requests with one nonce (C5)"),
    ("sign-once", "no honest validator says two things where one is allowed (L1, C5)"),
    ("early-share", "no honest share of a beacon or preimage leaves before it is due (S3, P4)"),
    (
        "order",
        "samples are drawn after commits close, claims and scores opened as committed, scores committed unseen, time goes \
         forward (R1, R4, S3)",
    ),
    ("liveness", "once faults stop, every honest claim comes to its end in time, and nobody is left behind"),
];

type Vote = (NodeId, u64, u32, bool);

/// Told of what happens: virtual time, and a line.
pub type Log = Box<dyn FnMut(u64, &str)>;

/// What a member committed to, and what it opened.
type Scored = (Option<Digest>, Option<Outcome>);

/// The checks of one run.
pub struct Checks {
    /// What was found.
    pub violations: Vec<Violation>,
    /// How many violations there were in all.
    pub found: u64,
    /// What is counted.
    pub tally: Tally,
    /// Nodes stopped by their disks.
    pub stopped: u64,
    /// Somebody who wants to be told what happens.
    pub log: Option<Log>,
    ledger: Rc<State>,
    blocks: Vec<BlockHash>,
    votes: BTreeMap<Vote, Option<BlockHash>>,
    proposals: BTreeMap<(NodeId, u64, u32), Digest>,
    slots: BTreeMap<(NodeId, Digest), Digest>,
    shares: BTreeMap<(NodeId, u64, Vec<u8>), Digest>,
    requests: BTreeMap<Digest, Vec<(u16, Vec<u8>)>>,
    due: BTreeSet<(u64, BeaconInput)>,
    outcomes: BTreeSet<(ModelId, u64)>,
    scores: BTreeMap<(ModelId, u64, u32), BTreeMap<NodeId, Scored>>,
    evicted: BTreeSet<NodeId>,
    /// Opened in the block that is being looked at.
    shown: Vec<(ClaimId, NodeId)>,
}

impl Checks {
    pub(crate) fn new(genesis: Rc<State>) -> Self {
        let mut checks = Self {
            violations: Vec::new(),
            found: 0,
            tally: Tally::default(),
            stopped: 0,
            log: None,
            ledger: genesis,
            blocks: Vec::new(),
            votes: BTreeMap::new(),
            proposals: BTreeMap::new(),
            slots: BTreeMap::new(),
            shares: BTreeMap::new(),
            requests: BTreeMap::new(),
            due: BTreeSet::new(),
            outcomes: BTreeSet::new(),
            scores: BTreeMap::new(),
            evicted: BTreeSet::new(),
            shown: Vec::new(),
        };
        checks.note_due();
        checks
    }

    /// The ledger as decided.
    pub fn ledger(&self) -> Rc<State> {
        self.ledger.clone()
    }

    /// Tells whoever asked.
    pub(crate) fn say(&mut self, at_ms: u64, what: impl FnOnce() -> String) {
        if let Some(log) = &mut self.log {
            log(at_ms, &what());
        }
    }

    pub(crate) fn violated(&mut self, at_ms: u64, check: &'static str, detail: String) {
        debug_assert!(CHECKS.iter().any(|(name, _)| *name == check));
        self.found += 1;
        self.say(at_ms, || format!("VIOLATED   {check}: {detail}"));
        if self.violations.len() < MAX_KEPT {
            self.violations.push(Violation { at_ms, check, detail });
        }
    }

    pub(crate) fn broken(&mut self, at_ms: u64, from: Addr, why: String) {
        self.violated(at_ms, "agreement", format!("node {}: {why}", from.0));
    }

    pub(crate) fn not_live(&mut self, at_ms: u64, why: String) {
        self.violated(at_ms, "liveness", why);
    }

    // P4, P5
    pub(crate) fn claimed(&mut self, at_ms: u64, hash: PaymentHash, paid: bool) {
        if !paid {
            return;
        }
        let found = self.ledger.escrows().find_map(|e| {
            let place = e.tranches.iter().position(|t| t.payment_hash == hash)?;
            Some((e.clone(), place))
        });
        let Some((escrow, place)) = found else {
            return self.violated(at_ms, "attested-pay", "a payment was claimed that no escrow knows".into());
        };
        let released = escrow.tranches.get(place).map(|t| t.status);
        if !matches!(released, Some(TrancheStatus::Releasing | TrancheStatus::Settled(_))) {
            let why = format!("tranche {place} of escrow {} was claimed while {released:?}", escrow.id.short());
            self.violated(at_ms, "attested-pay", why);
        }
    }

    /// A node committed a block. Whether it is the first to.
    pub(crate) fn committed(
        &mut self,
        at_ms: u64,
        from: Addr,
        decided: &DecidedBlock,
        state: &Rc<State>,
        honest: bool,
    ) -> bool {
        let header = &decided.block.header;
        let (height, hash) = (header.height, header.hash());
        match self.blocks.get(height as usize - 1) {
            Some(known) => {
                if honest && *known != hash {
                    self.violated(at_ms, "agreement", format!("node {} has another block {height}", from.0));
                }
                false
            }
            None if self.ledger.tip().height + 1 != height => false,
            None => {
                self.blocks.push(hash);
                self.say(at_ms, || told(&decided.block));
                let before = std::mem::replace(&mut self.ledger, state.clone());
                if height % APPLIED_AGAIN == 0 {
                    self.apply_again(at_ms, &before, decided, state);
                }
                if header.time_ms <= before.tip().time_ms {
                    self.violated(at_ms, "order", format!("block {height} is not later than its parent"));
                }
                self.note_due();
                self.check_block(at_ms, &before, &decided.block);
                true
            }
        }
    }

    /// L2: applied in full, apart from what the nodes share, the block gives the same state.
    fn apply_again(&mut self, at_ms: u64, before: &State, decided: &DecidedBlock, state: &State) {
        let mut next = before.clone();
        let height = decided.block.header.height;
        if let Err(error) = next.apply(&decided.block) {
            self.violated(at_ms, "agreement", format!("decided block {height} does not apply: {error}"));
        }
        if next.tip() != state.tip() {
            self.violated(at_ms, "agreement", format!("block {height} leads to two states"));
        }
    }

    /// What is due on the ledger by the rules: a draw once an epoch began, the samples of a round once it has judges.
    fn note_due(&mut self) {
        let ledger = self.ledger.clone();
        let epoch = ledger.current().number;
        if ledger.may_draw() {
            self.due.insert((epoch, draw_input(ledger.chain(), epoch + 1)));
        }
        for (id, model) in ledger.models() {
            let Some(round) = model.round.as_ref() else { continue };
            let Some(judges) = round.judges else { continue };
            self.due.insert((judges, samples_input(ledger.chain(), id, round.number)));
        }
    }

    fn check_block(&mut self, at_ms: u64, before: &State, block: &Block) {
        for tx in &block.txs {
            match &tx.tx {
                Tx::Seal(seal, _) => {
                    let model = before.model(seal.model);
                    let close = model.and_then(|m| {
                        let (round, timing) = (m.round.as_ref()?, &m.manifest.timing);
                        let first = round.first_commit_height?;
                        let open = round.opened_height + u64::from(timing.commit_blocks);
                        Some(open.max(first + u64::from(timing.linger_blocks)))
                    });
                    if close.is_none_or(|close| block.header.height <= close) {
                        let why =
                            format!("samples were drawn in block {}, commits close at {close:?}", block.header.height);
                        self.violated(at_ms, "order", why);
                    }
                }
                // R4: who commits after scores were opened may have copied them
                Tx::Score(s) => {
                    let round = self.scores.entry((s.model, s.round, s.attempt)).or_default();
                    let seen = round.values().any(|(_, opened)| opened.is_some());
                    round.entry(tx.signer).or_default().0.get_or_insert(s.commitment);
                    if seen {
                        let why = format!("{} committed to scores after others were opened", tx.signer.short());
                        self.violated(at_ms, "order", why);
                    }
                }
                Tx::ScoreReveal(r) => {
                    let name = (r.outcome.model, r.outcome.round, r.attempt);
                    let member = self.scores.entry(name).or_default().entry(tx.signer).or_default();
                    let committed = member.0;
                    member.1.get_or_insert_with(|| r.outcome.clone());
                    if committed != Some(score_commitment(tx.signer, &r.outcome, r.salt)) {
                        let why = format!("{} opened scores it had not committed to", tx.signer.short());
                        self.violated(at_ms, "order", why);
                    }
                }
                Tx::Reveal(reveal) => self.check_reveal(at_ms, before, tx.signer, reveal),
                Tx::Outcome(outcome, _) => self.check_outcome(at_ms, before, outcome),
                Tx::Settle(id, preimages) => {
                    let known = |hash: &PaymentHash| {
                        before.escrow(*id).is_some_and(|e| e.tranches.iter().any(|t| t.payment_hash == *hash))
                    };
                    let wrong = preimages.iter().filter(|p| {
                        let hash = PaymentHash(sha256(&p.0));
                        !known(&hash)
                    });
                    if wrong.count() > 0 {
                        self.violated(
                            at_ms,
                            "money",
                            format!("escrow {} was settled with a wrong preimage", id.short()),
                        );
                    }
                }
                _ => {}
            }
        }
    }

    // R1: worked out here, not by the function that the ledger uses
    fn check_reveal(&mut self, at_ms: u64, before: &State, signer: NodeId, reveal: &Reveal) {
        let Some(claim) = before.claim(reveal.claim) else { return };
        self.shown.push((claim.id, signer));
        let mut h = blake3::Hasher::new_derive_key("oda 2026 claim commitment");
        h.update(&signer.0).update(&claim.model.0).update(&claim.round.to_le_bytes()).update(&claim.parent.hash.0);
        h.update(&reveal.delta.hash.0).update(&reveal.delta.len.to_le_bytes());
        h.update(&reveal.stated_gain_unat.to_le_bytes()).update(&reveal.salt.0);
        if claim.commitment.0 != *h.finalize().as_bytes() || claim.trainer != signer {
            let why = format!("claim {} was opened as something else than it committed to", claim.id.short());
            self.violated(at_ms, "order", why);
        }
    }

    // R5, C3, S4-S6
    fn check_outcome(&mut self, at_ms: u64, before: &State, outcome: &Outcome) {
        let name = (outcome.model, outcome.round);
        if !self.outcomes.insert(name) {
            self.violated(at_ms, "one-outcome", format!("a second outcome of round {}", outcome.round));
        }
        let Some(model) = before.model(outcome.model) else { return };
        let round = model.round.as_ref().map_or(0, |r| r.number);
        if round != outcome.round || outcome.parent != model.head.weights {
            let why = format!("outcome of round {} on another head, in round {round}", outcome.round);
            self.violated(at_ms, "one-outcome", why);
        }
        let attempt = model.round.as_ref().map_or(0, |r| r.scores.attempt);
        if let Some(judges) = before.judges(outcome.model) {
            let n = judges.group.members().len();
            let needed = 2 * n / 3 + 1;
            let opened = self.scores.get(&(outcome.model, outcome.round, attempt));
            let support = opened.map_or(0, |all| {
                let agree = |(who, (_, theirs)): &(&NodeId, &(Option<Digest>, Option<Outcome>))| {
                    judges.group.members().contains(who) && theirs.as_ref().is_some_and(|t| rules::same(t, outcome))
                };
                all.iter().filter(agree).count()
            });
            if support < needed {
                let why = format!(
                    "outcome of round {} has the support of {support} of {n}, {needed} are needed",
                    outcome.round
                );
                self.violated(at_ms, "one-outcome", why);
            }
        }
        for wrong in rules::wrong(&model.manifest, outcome) {
            self.violated(at_ms, "credit", format!("round {}: {wrong}", outcome.round));
        }
        // R1: each claim judged was committed to this head and opened as committed
        for judged in &outcome.claims {
            let Some(claim) = before.claim(judged.claim) else { continue };
            if claim.parent.hash != outcome.parent.hash || claim.trainer != judged.trainer {
                self.violated(at_ms, "credit", format!("round {}: a claim on another head was judged", outcome.round));
            }
        }
        // P5: what is released is at most rate times credit
        for judged in &outcome.claims {
            let Some(escrow) = self.ledger.escrow(claim_escrow(judged.claim)) else { continue };
            let released = escrow.tranches.iter().filter(|t| t.status == TrancheStatus::Releasing);
            let released: u128 = released.map(|t| u128::from(t.amount_msat)).sum();
            let due = u128::from(escrow.terms.rate_msat) * u128::from(judged.credit_unat);
            let accepted = judged.verdict == oda_consensus::score::Verdict::Accepted;
            if released > due || (!accepted && released > 0) {
                let why = format!("round {}: {released} msat released for a credit worth {due}", outcome.round);
                self.violated(at_ms, "credit", why);
            }
        }
        self.say(at_ms, || told_outcome(outcome));
        self.tally.judged(&self.ledger, outcome, at_ms);
    }

    pub(crate) fn note_reveal(&mut self, reveal: &Reveal, owners: &BTreeMap<BlobHash, Addr>) {
        self.tally.revealed(reveal, owners.contains_key(&reveal.delta.hash));
    }

    /// After a block that was new: what takes a look at everything.
    pub(crate) fn after_block(
        &mut self,
        at_ms: u64,
        lightning: &Lightning,
        names: &BTreeMap<NodeId, Addr>,
        bad: &BTreeMap<Addr, crate::sim::Bad>,
    ) {
        if lightning.total() != 0 || !lightning.doubled.is_empty() {
            self.violated(
                at_ms,
                "money",
                format!("{} msat too many, {:?} doubled", lightning.total(), lightning.doubled),
            );
        }
        let ledger = self.ledger.clone();
        let honest = |node: &NodeId| names.get(node).is_some_and(|addr| !bad.contains_key(addr));
        // R2: the ledger cannot see Lightning, so this is on the trainer
        for (claim, trainer) in std::mem::take(&mut self.shown) {
            let escrow = ledger.claim(claim).and_then(|c| ledger.escrow(c.escrow?)).filter(|_| honest(&trainer));
            let open = escrow.map(|e| e.tranches.iter().filter(|t| lightning.htlc(t.payment_hash).is_none()).count());
            if let Some(open @ 1..) = open {
                let why = format!("claim {} was opened while {open} of its tranches were not locked", claim.short());
                self.violated(at_ms, "locked-first", why);
            }
        }
        // P4: what a sponsor promises is there, whoever holds on to it
        for (id, s) in ledger.models().flat_map(|(id, m)| m.sponsors.iter().map(move |s| (id, s))) {
            let (promised, budget) = (u128::from(s.held_msat) + u128::from(s.paid_msat), s.fund.budget_msat);
            if promised > budget.into() {
                let why = format!("{promised} msat held and paid for model {}, the budget is {budget}", id.short());
                self.violated(at_ms, "money", why);
            }
        }
        for v in ledger.all_validators() {
            let ValidatorStatus::Evicted(offence) = v.status else { continue };
            if !self.evicted.insert(v.node) {
                continue;
            }
            if honest(&v.node) && offence != Offence::Decision {
                self.violated(at_ms, "no-honest-evicted", format!("honest {} evicted: {offence:?}", v.node.short()));
            }
            self.say(at_ms, || format!("evicted    {}: {offence:?}", v.node.short()));
            self.tally.evicted.push((v.node, format!("{offence:?}"), at_ms));
        }
        // a tranche settled on the ledger was paid, one refunded was not
        for escrow in ledger.escrows().filter(|e| e.changed_height == ledger.tip().height) {
            let judged = ledger.claims().find(|c| c.escrow == Some(escrow.id)).is_some_and(|c| c.judged.is_some());
            for t in &escrow.tranches {
                let released = matches!(t.status, TrancheStatus::Releasing | TrancheStatus::Settled(_));
                if released && !judged {
                    self.violated(
                        at_ms,
                        "attested-pay",
                        format!("escrow {} is released without a verdict", escrow.id.short()),
                    );
                }
                let fate = lightning.htlc(t.payment_hash).map(|h| h.fate);
                let wrong = match t.status {
                    TrancheStatus::Settled(_) => !matches!(fate, Some(Fate::Claimed(_))),
                    TrancheStatus::Refunded => matches!(fate, Some(Fate::Claimed(_) | Fate::Held)),
                    _ => false,
                };
                // whose key is whose: a payer may call back what a hostile payee still holds only when it is over
                if wrong {
                    let why =
                        format!("escrow {}: {:?} on the ledger, {fate:?} on Lightning", escrow.id.short(), t.status);
                    self.violated(at_ms, "money", why);
                }
            }
        }
    }

    pub(crate) fn trained(
        &mut self,
        at_ms: u64,
        (who, honest): (Addr, bool),
        job: &TrainJob,
        work: &Work,
        made: &Made,
    ) {
        // N1: whoever asked a liar finds out before it works
        let known = self.tally.heads.get(&job.model).into_iter().flatten().any(|(_, head)| *head == job.head.hash);
        if honest && !known && job.head != job.manifest.initial_head {
            let why = format!("node {} trained on {}, which was never a head", who.0, job.head.hash.short());
            self.violated(at_ms, "believed", why);
        }
        if let Some(name) = self.tally.names.iter().find(|(_, a)| **a == who).map(|(n, _)| *n) {
            self.tally.trained(claim_id(job.model, job.round, name), who, work, made);
        }
    }

    pub(crate) fn report(&mut self, at_ms: u64, who: Addr, claim: ClaimId, phase: Phase, note: &str) {
        self.say(at_ms, || format!("claim      {} of node {}: {phase:?} {note}", claim.short(), who.0));
        self.tally.report(at_ms, claim, phase, note);
    }

    /// Claims on the ledger that are not over.
    pub(crate) fn open_at(&self, _: u64) -> Vec<ClaimId> {
        let over = |c: &oda_consensus::state::ClaimState| {
            c.judged.is_some() && c.escrow.and_then(|e| self.ledger.escrow(e)).is_none_or(|e| e.is_over())
        };
        self.ledger.claims().filter(|c| !over(c)).map(|c| c.id).collect()
    }

    /// C2: whoever has only the genesis can follow the keys to the committee in charge, and believe its checkpoints.
    fn follow_keys(&mut self, at_ms: u64) {
        let ledger = self.ledger.clone();
        let Ok(mut chain) = EpochChain::new(ledger.genesis()) else { return };
        let now = ledger.current().number;
        for link in ledger.links(0, usize::MAX).into_iter().filter(|l| l.handover.epoch <= now) {
            if let Err(error) = chain.advance(link) {
                return self.violated(at_ms, "agreement", format!("the chain of keys breaks: {error}"));
            }
        }
        for c in ledger.checkpoints() {
            let known = self.blocks.get((c.checkpoint.height as usize).saturating_sub(1));
            let message = Attestation { chain: chain.chain(), statement: Statement::Checkpoint(c.checkpoint) };
            let attested = chain.verify(c.epoch, &codec::encode(&message), &c.signature);
            if known != Some(&c.checkpoint.block) || !attested {
                let why = format!("the checkpoint at {} is not of this chain and committee", c.checkpoint.height);
                self.violated(at_ms, "agreement", why);
            }
        }
        if chain.epoch() != now {
            self.violated(at_ms, "agreement", format!("the keys lead to epoch {}, in charge is {now}", chain.epoch()));
        }
    }

    /// At the very end: of those who did no work, how many were paid.
    pub fn finish(&mut self, at_ms: u64, lightning: &Lightning) {
        self.follow_keys(at_ms);
        self.tally.count_pay(&self.ledger, lightning);
        let (paid, of) = self.tally.false_pay();
        // at z = 3 one worthless claim in a thousand passes by chance, and then earns next to nothing
        if paid > 2 + of / 50 {
            self.violated(at_ms, "false-pay", format!("{paid} of {of} claims without any work were paid"));
        }
    }
}

fn told(block: &Block) -> String {
    let mut kinds: BTreeMap<&'static str, u32> = BTreeMap::new();
    block.txs.iter().for_each(|tx| *kinds.entry(tx.kind()).or_default() += 1);
    let kinds: Vec<String> = kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    format!("block      {}: {}", block.header.height, kinds.join(", "))
}

fn told_outcome(outcome: &Outcome) -> String {
    let verdicts: Vec<String> = outcome.claims.iter().map(|c| format!("{} {:?}", c.claim.short(), c.verdict)).collect();
    let what = if outcome.adopted() { "new head" } else { "same head" };
    format!("outcome    round {}: {what}, {} unat proven; {}", outcome.round, outcome.proven_unat, verdicts.join(", "))
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    use sha2::Digest as _;
    sha2::Sha256::digest(bytes).into()
}
