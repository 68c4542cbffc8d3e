//! Rounds and money.

use super::*;

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
    assert_eq!(w.state.escrow(paid).unwrap().status, EscrowStatus::Releasing);
    assert_eq!(w.state.escrow(refused).unwrap().status, EscrowStatus::Refunding);

    let (anyone, sponsor) = (NodeKey::from_secret(&[55; 32]), NodeKey::from_secret(&[100; 32]));
    // P4: a refused claim's preimage is no receipt, and a wrong preimage none for an accepted one
    assert_eq!(w.block(&[(Tx::Settle(refused, preimages[1]), &anyone)]), Err(TxError::WrongEscrowStatus));
    assert_eq!(w.block(&[(Tx::Settle(paid, preimages[1]), &anyone)]), Err(TxError::WrongPreimage));
    assert_eq!(w.block(&[(Tx::Refund(paid), &sponsor)]), Err(TxError::WrongSigner(w.trainers[0].id())));
    assert_eq!(w.block(&[(Tx::Refund(refused), &anyone)]), Err(TxError::WrongSigner(sponsor.id())));
    w.block(&[(Tx::Settle(paid, preimages[0]), &anyone), (Tx::Refund(refused), &sponsor)]).unwrap();
    assert_eq!(w.block(&[(Tx::Settle(paid, preimages[0]), &anyone)]), Err(TxError::WrongEscrowStatus), "settles once");

    let s = w.state.model(w.model()).unwrap().sponsors[0];
    assert_eq!((s.held_msat, s.paid_msat, s.refunded_msat), (0, 5_000_000, 5_000_000));
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
    let sponsor = NodeKey::from_secret(&[100; 32]);
    let (lock, _) = w.lock_of(1);
    w.block(&[(lock, &sponsor)]).unwrap();
    w.idle(4);
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
    assert_eq!(w.block(&[(reveal.clone(), &t0)]), Err(TxError::NotDealt));
    let (lock, _) = w.lock_of(0);
    assert_eq!(w.block(&[(lock.clone(), &t0)]), Err(TxError::NotASponsor));
    w.block(&[(lock.clone(), &sponsor)]).unwrap();
    assert_eq!(w.block(&[(lock, &sponsor)]), Err(TxError::AlreadyDealt));
    w.idle(1);
    assert_eq!(w.block(&[(reveal.clone(), &sponsor)]), Err(TxError::WrongSigner(t0.id())));
    w.idle(10);
    assert!(matches!(w.block(&[(reveal, &t0)]), Err(TxError::Closed(_))), "R3: too late");
    let t1 = NodeKey::from_secret(&[111; 32]);
    let late = w.commit_of(1);
    assert!(matches!(w.block(&[(late, &t1)]), Err(TxError::Closed(_))));
    w.seal();
    let outcome = w.outcome(&[]);
    w.submit(outcome).unwrap();
    assert_eq!(w.state.escrows().next().unwrap().status, EscrowStatus::Refunding, "not revealed: refunded");
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
    assert_eq!(w.state.escrows().next().unwrap().status, EscrowStatus::Refunding);
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
    assert_eq!(w.state.escrows().next().unwrap().status, EscrowStatus::Refunding);
}

#[test] // P6, P8: hashes, budgets and amounts
fn money_rules() {
    let mut w = World::new();
    w.start();
    let sponsor = NodeKey::from_secret(&[100; 32]);
    let fund = |budget| Tx::Fund(Fund { model: w.manifest.id(), per_claim_msat: 5_000_000, budget_msat: budget });
    let (same, zero) = (fund(50_000_000), Tx::Fund(Fund { model: w.manifest.id(), per_claim_msat: 0, budget_msat: 5 }));
    assert_eq!(w.block(&[(same, &sponsor)]), Err(TxError::BadAmount), "a replayed promise changes nothing");
    assert_eq!(w.block(&[(zero, &sponsor)]), Err(TxError::BadAmount));
    let keys: Vec<NodeKey> = (0..3u8).map(|i| NodeKey::from_secret(&[110 + i; 32])).collect();
    let (c0, c1) = (w.commit_of(0), w.commit_of(1));
    w.block(&[(c0, &keys[0]), (c1, &keys[1])]).unwrap();
    let (l0, _) = w.lock_of(0);
    let Tx::Lock(l) = l0.clone() else { unreachable!() };
    assert_eq!(
        w.block(&[(Tx::Lock(Lock { amount_msat: 4_999_999, ..l.clone() }), &sponsor)]),
        Err(TxError::WrongAmount(5_000_000))
    );
    w.block(&[(l0, &sponsor)]).unwrap();
    let reused = Lock { claim: w.reveal_of(1).claim, ..l };
    assert_eq!(w.block(&[(Tx::Lock(reused.clone()), &sponsor)]), Err(TxError::PaymentHashReused(reused.payment_hash)));
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
