//! Rounds and money.

use super::*;
use crate::escrow::{EscrowError, Offer, Stage, TrancheSet, TrancheStatus, deal_digest, kept};
use crate::frost::{deal_preimage, open_share};

#[test] // R1-R5, S3, S6, P4, L3: one round from commit to receipt, one honest and one lazy trainer
fn a_round_from_commit_to_receipt() {
    let mut w = World::new();
    w.start();
    let preimages = w.to_sealed(&[0, 1]);
    let outcome = w.outcome(&[0]);
    assert!(outcome.adopted());
    w.submit(outcome.clone()).unwrap();

    let model = w.state.model(w.model()).unwrap();
    assert_eq!(model.head.weights, outcome.new_head());
    assert_eq!(model.round.as_ref().unwrap().number, 2);
    assert_eq!(w.state.credit(w.model(), w.trainers[0].id()).unwrap().credit_unat, outcome.proven_unat);
    assert_eq!(w.state.credit(w.model(), w.trainers[1].id()).unwrap().credit_unat, 0);

    let escrow = |t: usize| tx::claim_escrow(tx::claim_id(w.manifest.id(), 1, w.trainers[t].id()));
    let (paid, refused) = (escrow(0), escrow(1));
    let all: TrancheSet = (0..4).collect();
    let releasing = |w: &World, id| w.state.escrow(id).unwrap().with(|s| *s == TrancheStatus::Releasing);
    let refunding = |w: &World, id| w.state.escrow(id).unwrap().with(|s| *s == TrancheStatus::Refunding);
    let earned = TERMS.earned(outcome.proven_unat);
    assert_eq!(earned.iter().collect::<Vec<_>>(), [0, 3], "P5: {} micro-nats", outcome.proven_unat);
    assert_eq!((releasing(&w, paid), refunding(&w, refused)), (earned, all));

    let (anyone, sponsor) = (NodeKey::from_secret(&[55; 32]), NodeKey::from_secret(&[100; 32]));
    let escrow = |e| Err(TxError::Escrow(e));
    // P4: a refused claim's preimage is no receipt, and a wrong preimage none for an accepted one
    let settle = |id, all: &[Preimage]| Tx::Settle(id, all.to_vec());
    assert_eq!(w.block(&[(settle(refused, &preimages[1]), &anyone)]), escrow(EscrowError::NotDue));
    assert_eq!(w.block(&[(settle(paid, &preimages[1]), &anyone)]), escrow(EscrowError::WrongPreimage));
    assert_eq!(w.block(&[(settle(paid, &preimages[0]), &anyone)]), escrow(EscrowError::NotDue), "P5: not all of it");
    let trainer = w.trainers[0].id();
    assert_eq!(w.block(&[(Tx::Refund(paid, earned), &sponsor)]), escrow(EscrowError::WrongSigner(trainer)));
    assert_eq!(w.block(&[(Tx::Refund(refused, all), &anyone)]), escrow(EscrowError::WrongSigner(sponsor.id())));
    let receipts = [preimages[0][0], preimages[0][3]];
    w.block(&[(settle(paid, &receipts), &anyone), (Tx::Refund(refused, all), &sponsor)]).unwrap();
    assert_eq!(w.block(&[(settle(paid, &receipts), &anyone)]), escrow(EscrowError::NotDue), "settles once");
    let rest = refunding(&w, paid);
    w.block(&[(Tx::Refund(paid, rest), &sponsor)]).unwrap();

    let s = w.state.model(w.model()).unwrap().sponsors[0];
    assert_eq!((s.held_msat, s.paid_msat, s.refunded_msat), (0, 9_000_000, 21_000_000));
    assert!(u128::from(s.paid_msat) <= u128::from(outcome.proven_unat) * u128::from(TERMS.rate_msat));
    assert_eq!(w.state.credit(w.model(), trainer).unwrap().paid_msat, 9_000_000);
    w.state.check_invariants([w.model()].into_iter()).unwrap();
}

#[test] // R1
fn commits_are_bound_to_round_head_and_trainer() {
    let mut w = World::new();
    w.start();
    let (t0, t1) = (NodeKey::from_secret(&[110; 32]), NodeKey::from_secret(&[111; 32]));
    let commit = w.commit_of(0);
    let Tx::Commit(c) = &commit else { unreachable!() };
    assert_eq!(w.block(&[(Tx::Commit(Commit { round: 2, ..*c }), &t0)]), Err(TxError::WrongRound(1)));
    let other = BlobHash([1; 32]);
    assert!(matches!(w.block(&[(Tx::Commit(Commit { parent: other, ..*c }), &t0)]), Err(TxError::WrongHead(_))));
    w.block(&[(commit.clone(), &t0)]).unwrap();
    assert_eq!(w.block(&[(commit.clone(), &t0)]), Err(TxError::ClaimExists), "P8: one claim a round");
    // attack 2: another trainer posts the same commitment; it can never open it as its own
    w.block(&[(commit, &t1)]).unwrap();
    w.to_dealt(&[1]);
    w.idle(2);
    let mut stolen = w.reveal_of(0);
    stolen.claim = w.reveal_of(1).claim;
    assert_eq!(w.block(&[(Tx::Reveal(stolen), &t1)]), Err(TxError::WrongOpening));
}

#[test] // R2, R3: windows and order
fn reveals_need_a_lock_and_closed_commits() {
    let mut w = World::new();
    w.start();
    let t0 = NodeKey::from_secret(&[110; 32]);
    let sponsor = NodeKey::from_secret(&[100; 32]);
    w.idle(20); // an idle round waits for its first commit
    let commit = w.commit_of(0);
    w.block(&[(commit, &t0)]).unwrap();
    let reveal = Tx::Reveal(w.reveal_of(0));
    let (offer, seeds) = w.offer_of(0);
    assert_eq!(w.block(&[(offer.clone(), &t0)]), Err(TxError::NotASponsor));
    w.block(&[(offer.clone(), &sponsor)]).unwrap();
    assert_eq!(w.block(&[(offer, &sponsor)]), Err(TxError::AlreadyOffered));
    let choose = w.choose_of(0);
    assert_eq!(w.block(&[(choose.clone(), &sponsor)]), Err(TxError::Escrow(EscrowError::WrongSigner(t0.id()))));
    assert_eq!(w.block(&[(reveal.clone(), &t0)]), Err(TxError::NotDealt), "R2: nothing is locked yet");
    w.block(&[(choose, &t0)]).unwrap();
    let (deal, _) = w.deal_of(0, &seeds);
    w.block(&[(deal, &sponsor)]).unwrap();
    assert_eq!(w.block(&[(reveal.clone(), &sponsor)]), Err(TxError::WrongSigner(t0.id())));
    w.idle(10);
    assert!(matches!(w.block(&[(reveal, &t0)]), Err(TxError::Closed(_))), "R3: too late");
    let t1 = NodeKey::from_secret(&[111; 32]);
    let late = w.commit_of(1);
    assert!(matches!(w.block(&[(late, &t1)]), Err(TxError::Closed(_))));
    w.seal();
    let outcome = w.outcome(&[]);
    w.submit(outcome).unwrap();
    assert!(goes_back(&w), "not revealed: refunded");
}

#[test] // L5, C3, S4: only what the group key attests, and only with right arithmetic, enters
fn outcomes_need_attestation_and_arithmetic() {
    let mut w = World::new();
    w.start();
    w.to_sealed(&[0, 1]);
    let good = w.outcome(&[0]);
    let key = NodeKey::from_secret(&[1; 32]);
    let other = w.outcome(&[1]);
    let wrong_signature = w.attest(Statement::Outcome(other));
    w.score(&(0..4).map(|m| (m, good.clone())).collect::<Vec<_>>());
    assert_eq!(w.block(&[(Tx::Outcome(good.clone(), wrong_signature), &key)]), Err(TxError::NotAttested));
    let mut greedy = good.clone();
    greedy.proven_unat += 1;
    assert_eq!(w.submit(greedy), Err(TxError::WrongArithmetic));
    let mut lenient = good.clone();
    lenient.claims.iter_mut().for_each(|c| c.verdict = crate::score::Verdict::Accepted);
    assert_eq!(w.submit(lenient), Err(TxError::WrongArithmetic));
    let mut short = good.clone();
    short.claims.pop();
    assert_eq!(w.submit(short), Err(TxError::WrongStatement));
    let mut stale = good.clone();
    stale.sealed = Beacon([0; 32]);
    assert_eq!(w.submit(stale), Err(TxError::WrongStatement));
    w.submit(good.clone()).unwrap();
    assert_eq!(w.submit_signed(good), Err(TxError::WrongRound(2)), "one outcome a round");
}

#[test] // S6: a head that is not better beyond doubt pays nobody
fn an_unproven_head_pays_nobody() {
    let mut w = World::new();
    w.start();
    w.to_sealed(&[0]);
    let proven = w.outcome(&[0]);
    let measured = Measured { head: Some(head_scores(100)), ..proven.measured() };
    let unproven = Outcome::derive(&w.manifest, (w.model(), 1, proven.parent, proven.sealed), measured);
    assert_eq!(unproven.claims[0].verdict, crate::score::Verdict::Accepted);
    assert!(!unproven.adopted());
    w.submit(unproven).unwrap();
    assert!(goes_back(&w));
    assert_eq!(w.state.model(w.model()).unwrap().head.weights, w.manifest.initial_head);
    assert_eq!(w.state.model(w.model()).unwrap().proven_unat, 0);
}

#[test] // S7: a refused delta is judged without evaluation
fn a_refused_delta_is_refunded() {
    let mut w = World::new();
    w.start();
    w.to_sealed(&[2]);
    let base = w.outcome(&[]);
    let mut measured = base.measured();
    measured.claims.iter_mut().for_each(|m| m.2 = Measurement::Refused(Refusal::Malformed));
    let refused = Outcome::derive(&w.manifest, (w.model(), 1, base.parent, base.sealed), measured);
    w.submit(refused).unwrap();
    assert!(goes_back(&w));
}

#[test] // P6, P8: hashes, budgets and amounts
fn money_rules() {
    let mut w = World::new();
    w.start();
    let sponsor = NodeKey::from_secret(&[100; 32]);
    let fund = |terms, budget_msat| Tx::Fund(Fund { model: w.manifest.id(), terms, budget_msat });
    let (same, zero) = (fund(TERMS, 50_000_000), fund(Terms { unit_msat: 0, ..TERMS }, 60_000_000));
    let small = fund(Terms { unit_msat: 5_000_000, ..TERMS }, 60_000_000);
    assert_eq!(w.block(&[(same, &sponsor)]), Err(TxError::BadAmount), "a replayed promise changes nothing");
    assert_eq!(w.block(&[(zero, &sponsor)]), Err(TxError::BadAmount));
    assert_eq!(w.block(&[(small, &sponsor)]), Err(TxError::BadAmount), "a budget covers one claim at least");
    let keys = w.trainer_keys();
    let (c0, c1) = (w.commit_of(0), w.commit_of(1));
    w.block(&[(c0, &keys[0]), (c1, &keys[1])]).unwrap();
    let (Tx::Offer(claim, good), _) = w.offer_of(0) else { unreachable!() };
    let other = Offer { terms: Terms { rate_msat: 1, ..TERMS }, ..good.clone() };
    assert_eq!(w.block(&[(Tx::Offer(claim, other), &sponsor)]), Err(TxError::WrongTerms));
    w.block(&[(Tx::Offer(claim, good.clone()), &sponsor)]).unwrap();
    let reused = Tx::Offer(w.reveal_of(1).claim, good.clone());
    let hash = w.state.escrows().next().unwrap().payment_hashes().next().unwrap();
    assert_eq!(w.block(&[(reused, &sponsor)]), Err(TxError::PaymentHashReused(hash)));
    let s = w.state.model(w.model()).unwrap().sponsors[0];
    assert_eq!(s.held_msat, 15_000_000, "held from the offer on");
}

fn goes_back(w: &World) -> bool {
    let e = w.state.escrows().next().unwrap();
    e.stage == Stage::Judged && e.tranches.iter().all(|t| t.status == TrancheStatus::Refunding)
}

#[test] // P2, R2: an offer that is never dealt holds nothing after the verdict, and is on its sponsor's record
fn an_offer_that_is_not_opened_is_counted() {
    let mut w = World::new();
    w.start();
    let (keys, sponsor) = (w.trainer_keys(), NodeKey::from_secret(&[100; 32]));
    let (c0, c1) = (w.commit_of(0), w.commit_of(1));
    w.block(&[(c0, &keys[0]), (c1, &keys[1])]).unwrap();
    let ((o0, _), (o1, _)) = (w.offer_of(0), w.offer_of(1));
    w.block(&[(o0, &sponsor), (o1, &sponsor)]).unwrap();
    let chosen = w.choose_of(0);
    w.block(&[(chosen, &keys[0])]).unwrap();
    w.idle(12);
    w.seal();
    let outcome = w.outcome(&[]);
    w.submit(outcome).unwrap();
    assert!(w.state.escrows().all(|e| e.stage == Stage::Withdrawn && e.is_over()));
    let s = w.state.model(w.model()).unwrap().sponsors[0];
    assert_eq!((s.held_msat, s.refunded_msat, s.unopened), (0, 30_000_000, 1), "one was drawn from and not opened");
    w.state.check_invariants([w.model()].into_iter()).unwrap();
}

#[test] // P2, attack 15: a sponsor whose false payment is proven makes no more promises
fn a_false_payment_ends_a_sponsors_promises() {
    let mut w = World::new();
    w.start();
    let (keys, sponsor, anyone) = (w.trainer_keys(), NodeKey::from_secret(&[100; 32]), NodeKey::from_secret(&[55; 32]));
    let commit = w.commit_of(0);
    w.block(&[(commit, &keys[0])]).unwrap();
    // it commits to the hash of one secret and deals another, and is lucky: the candidate is kept
    let (Tx::Offer(claim, mut offer), seeds) = w.offer_of(0) else { unreachable!() };
    let escrow = tx::claim_escrow(claim);
    let members = w.state.encryption_keys(w.state.group().members()).unwrap();
    let (_, _, lie) = deal_preimage(&members, 3, &escrow.0, &mut w.rng).unwrap();
    offer.candidates[kept(CHOICE, escrow, 4)[0]].deal = deal_digest(&lie);
    w.block(&[(Tx::Offer(claim, offer), &sponsor)]).unwrap();
    let choose = w.choose_of(0);
    w.block(&[(choose, &keys[0])]).unwrap();
    let (Tx::Deal(_, mut opening), _) = w.deal_of(0, &seeds) else { unreachable!() };
    opening.deals[0] = lie.clone();
    w.block(&[(Tx::Deal(escrow, opening), &sponsor)]).unwrap();
    w.idle(2);
    let reveal = Tx::Reveal(w.reveal_of(0));
    w.block(&[(reveal, &keys[0])]).unwrap();
    w.seal();
    let outcome = w.outcome(&[0]);
    w.submit(outcome).unwrap();
    let share = |m: usize| {
        let secret = EncryptionSecret::derive(&w.members[m].secret());
        open_share(&lie, m, &secret, &escrow.0).unwrap()
    };
    let proof = Tx::FalseDeal(escrow, 0, (0..3).map(share).collect());
    let weak = Tx::FalseDeal(escrow, 0, (0..2).map(share).collect());
    assert_eq!(w.block(&[(weak, &anyone)]), Err(TxError::Escrow(EscrowError::ProvesNothing)));
    w.block(&[(proof, &anyone)]).unwrap();
    let s = w.state.model(w.model()).unwrap().sponsors[0];
    assert_eq!((s.frauds, s.held_msat, s.refunded_msat), (1, 7_000_000, 8_000_000));
    w.state.check_invariants([w.model()].into_iter()).unwrap();
    let commit = w.commit_of(0);
    w.block(&[(commit, &keys[0])]).unwrap();
    let (offer, _) = w.offer_of(0);
    assert_eq!(w.block(&[(offer, &sponsor)]), Err(TxError::Barred));
    let more = Tx::Fund(Fund { model: w.model(), terms: TERMS, budget_msat: 90_000_000 });
    assert_eq!(w.block(&[(more, &sponsor)]), Err(TxError::Barred));
}

#[test] // L2: a block that lies about anything is refused and changes nothing
fn lying_blocks_are_refused() {
    let mut w = World::new();
    let tip = w.state.tip();
    let chain = w.state.chain();
    let tx = SignedTx::new(Tx::AddModel(w.manifest.clone()), &w.sponsor, chain);
    let (good, _) = w.state.build(std::slice::from_ref(&tx), 50);
    let mut forged = good.clone();
    forged.txs[0].signature = Signature([0; 64]);
    forged.header.txs_root = Block::txs_root(&forged.txs);
    let cases: Vec<(Block, &str)> = vec![
        (
            {
                let mut b = good.clone();
                b.header.height = 2;
                b
            },
            "does not extend",
        ),
        (
            {
                let mut b = good.clone();
                b.header.prev = BlockHash([9; 32]);
                b
            },
            "does not extend",
        ),
        (
            {
                let mut b = good.clone();
                b.header.time_ms = 1;
                b
            },
            "not later",
        ),
        (
            {
                let mut b = good.clone();
                b.header.state_root = Digest([0; 32]);
                b
            },
            "state root",
        ),
        (
            {
                let mut b = good.clone();
                b.header.records += 1; // L4: a wrong count would make every proof under it fail
                b
            },
            "state root",
        ),
        (
            {
                let mut b = good.clone();
                b.txs.clear();
                b
            },
            "other transactions",
        ),
        (
            {
                let mut b = good.clone();
                b.header.chain = ChainId([0; 32]);
                b
            },
            "another network",
        ),
        (forged, "signature"),
    ];
    for (block, why) in cases {
        let error = w.state.apply(&block).unwrap_err().to_string();
        assert!(error.contains(why), "{error} / {why}");
        assert_eq!(w.state.tip(), tip);
    }
    w.state.apply(&good).unwrap();
}
