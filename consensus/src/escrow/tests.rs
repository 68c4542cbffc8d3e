use super::*;
use crate::frost::{EncryptionKey, EncryptionSecret, deal_preimage, open_share};
use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

const ID: EscrowId = EscrowId([5; 32]);
const MODEL: ModelId = ModelId([6; 32]);
const PAYER: NodeId = NodeId([1; 32]);
const PAYEE: NodeId = NodeId([2; 32]);
const OTHER: NodeId = NodeId([3; 32]);
const AT: At = At { height: 9, time_ms: 1_000 };
const TERMS: Terms = Terms { rate_msat: 1_000, unit_msat: 1_000_000, tranches: 4 };

fn members() -> (Vec<EncryptionSecret>, Vec<EncryptionKey>) {
    let secrets: Vec<_> = (0..4).map(|i| EncryptionSecret::derive(&[i; 32])).collect();
    let keys = secrets.iter().map(EncryptionSecret::public).collect();
    (secrets, keys)
}

fn committee(members: &[EncryptionKey]) -> Committee<'_> {
    Committee { escrow: ID, members, threshold: 3 }
}

fn offered(seeds: &Seeds, keys: &[EncryptionKey]) -> EscrowState {
    EscrowState::offer((ID, MODEL), (PAYER, PAYEE), seeds.offer(TERMS, 0, committee(keys)).unwrap(), 1).unwrap()
}

fn seeds(n: u64) -> Seeds {
    Seeds::draw(TERMS.tranches, &mut ChaCha20Rng::seed_from_u64(n))
}

#[test] // P1, P2, P4, P5: from offer to receipts
fn what_was_earned_is_paid_and_the_rest_goes_back() {
    let (secrets, keys) = members();
    let seeds = seeds(1);
    let mut e = offered(&seeds, &keys);
    let choice = Digest([7; 32]);
    assert_eq!(e.choose(PAYER, choice, 2), Err(EscrowError::WrongSigner(PAYEE)));
    e.choose(PAYEE, choice, 2).unwrap();
    assert_eq!(e.choose(PAYEE, Digest([8; 32]), 2), Err(EscrowError::NotDue), "one draw");
    let (preimages, opening) = seeds.open(choice, 4, committee(&keys)).unwrap();
    assert_eq!(e.deal(PAYEE, &opening, committee(&keys), 3), Err(EscrowError::WrongSigner(PAYER)));
    e.deal(PAYER, &opening, committee(&keys), 3).unwrap();
    assert_eq!(e.account(), (15_000_000, Moved::default()));
    assert_eq!(e.settle(&preimages[..1], 4), Err(EscrowError::NotDue), "nothing is released before judgement");
    e.judge(9_999, AT).unwrap(); // 9 of 15 units
    assert_eq!(e.with(|s| *s == TrancheStatus::Releasing).iter().collect::<Vec<_>>(), [0, 3]);
    for (i, wanted) in preimages.iter().enumerate() {
        let t = &e.tranches[i];
        let shares: Vec<_> = (1..4).map(|m| open_share(&t.deal, m, &secrets[m], &ID.0).unwrap()).collect();
        assert_eq!(rebuild(&t.deal, t.payment_hash, &shares).unwrap(), *wanted);
        assert_eq!(e.convict(i as u8, &shares, 5).unwrap_err() == EscrowError::ProvesNothing, [0, 3].contains(&i));
    }
    assert_eq!(e.settle(&[preimages[1]], 5), Err(EscrowError::NotDue), "not earned");
    assert_eq!(e.settle(&[Preimage([9; 32])], 5), Err(EscrowError::WrongPreimage));
    assert_eq!(e.settle(&[preimages[0]], 5).unwrap(), Moved { paid_msat: 8_000_000, refunded_msat: 0 });
    assert_eq!(e.settle(&[preimages[0], preimages[3]], 5).unwrap().paid_msat, 1_000_000, "both parties show them");
    assert_eq!(e.settle(&[preimages[0], preimages[3]], 5), Err(EscrowError::NotDue), "settles once");
    let rest: TrancheSet = [1, 2].into_iter().collect();
    assert_eq!(e.refund(PAYEE, rest, AT), Err(EscrowError::WrongSigner(PAYER)));
    assert!(!e.is_over());
    e.refund(PAYER, rest, AT).unwrap();
    assert!(e.is_over());
    assert_eq!(e.account(), (0, Moved { paid_msat: 9_000_000, refunded_msat: 6_000_000 }));
}

#[test] // P2: every part of a dealing is checked against what was committed to
fn only_what_was_committed_to_can_be_dealt() {
    let (_, keys) = members();
    let (mine, other) = (seeds(1), seeds(2));
    let mut e = offered(&mine, &keys);
    let choice = Digest([7; 32]);
    e.choose(PAYEE, choice, 2).unwrap();
    let good = mine.open(choice, 4, committee(&keys)).unwrap().1;
    let bad = other.open(choice, 4, committee(&keys)).unwrap().1;
    let refused = |opening: Opening| e.clone().deal(PAYER, &opening, committee(&keys), 3).unwrap_err();
    for i in 0..good.seeds.len() {
        let mut wrong = good.clone();
        wrong.seeds[i] = bad.seeds[i];
        assert!(matches!(refused(wrong), EscrowError::NotAsCommitted(_)), "seed {i}");
    }
    for i in 0..good.deals.len() {
        let mut wrong = good.clone();
        wrong.deals[i] = bad.deals[i].clone();
        assert!(matches!(refused(wrong), EscrowError::NotAsCommitted(_)), "deal {i}");
    }
    let mut short = good.clone();
    short.seeds.pop();
    assert!(matches!(refused(short), EscrowError::BadCandidates(10)));
    let mut long = good.clone();
    long.deals.push(bad.deals[0].clone());
    assert!(matches!(refused(long), EscrowError::BadCandidates(10)));
    e.deal(PAYER, &good, committee(&keys), 3).unwrap();

    let offer = mine.offer(TERMS, 0, committee(&keys)).unwrap();
    let make = |offer| EscrowState::offer((ID, MODEL), (PAYER, PAYEE), offer, 1).unwrap_err();
    let mut twice = offer.clone();
    twice.candidates[1] = twice.candidates[0];
    assert_eq!(make(twice), EscrowError::BadCandidates(10), "one false candidate may not count for two");
    assert_eq!(make(Offer { terms: Terms { unit_msat: 0, ..TERMS }, ..offer }), EscrowError::BadTerms);
}

#[test] // P2: candidates and draws are the same in every build
fn candidates_are_pinned() {
    let (_, keys) = members();
    let (_, made, _) = candidate(Digest([9; 32]), committee(&keys)).unwrap();
    let pinned = "d3b6555a";
    assert_eq!(
        &hex::encode(made.deal.0)[..8],
        pinned,
        "another library version deals otherwise: old and new nodes differ"
    );
    assert_eq!(kept(Digest([7; 32]), ID, 4), kept(Digest([7; 32]), ID, 4));
    let (k, o) = (kept(Digest([7; 32]), ID, 4), opened(Digest([7; 32]), ID, 4));
    let mut all: Vec<_> = k.iter().chain(&o).copied().collect();
    all.sort_unstable();
    assert_eq!(all, (0..10).collect::<Vec<_>>());
}

#[test] // P2: a false candidate is found as often as the documentation says
fn a_false_candidate_is_mostly_found() {
    let (mut found, mut largest) = (0, 0);
    for n in 0..5_000u32 {
        let mut choice = [0; 32];
        choice[..4].copy_from_slice(&n.to_le_bytes());
        let places = kept(Digest(choice), ID, 4);
        found += u32::from(!places.contains(&3));
        largest += u32::from(places[0] == 3);
    }
    // 0.6 and 0.1; standard deviations 35 and 21
    assert!((2_850..3_150).contains(&found), "{found}");
    assert!((410..590).contains(&largest), "{largest}");
}

#[test] // P4: who lets a payment lapse loses it, but only when no hold can be left
fn an_abandoned_payment_lapses() {
    let (_, keys) = members();
    let seeds = seeds(1);
    let mut e = offered(&seeds, &keys);
    let choice = Digest([7; 32]);
    e.choose(PAYEE, choice, 2).unwrap();
    let (preimages, opening) = seeds.open(choice, 4, committee(&keys)).unwrap();
    e.deal(PAYER, &opening, committee(&keys), 3).unwrap();
    e.judge(u64::MAX, AT).unwrap();
    e.settle(&preimages[..1], 5).unwrap();
    let open: TrancheSet = (1..4).collect();
    let late = |ms| At { height: 99, time_ms: AT.time_ms + ms };
    assert_eq!(e.refund(PAYER, open, late(LAPSE_MS - 1)), Err(EscrowError::WrongSigner(PAYEE)));
    assert_eq!(e.refund(OTHER, open, late(LAPSE_MS)), Err(EscrowError::WrongSigner(PAYEE)));
    e.refund(PAYER, open, late(LAPSE_MS)).unwrap();
    assert!(e.is_over());
    assert_eq!(e.settle(&preimages[1..2], 100), Err(EscrowError::NotDue), "what is over stays as it is");
}

#[test] // P2: a false payment that was not found is proven when it is due, and only then
fn a_false_deal_is_proven() {
    let (secrets, keys) = members();
    let seeds = seeds(1);
    let mut e = offered(&seeds, &keys);
    let choice = Digest([7; 32]);
    // the payer commits to the hash of one secret and deals another, and is lucky: it is kept
    let place = kept(choice, ID, 4)[2];
    let (_, _, false_deal) = deal_preimage(&keys, 3, &ID.0, &mut ChaCha20Rng::seed_from_u64(3)).unwrap();
    e.candidates[place].deal = deal_digest(&false_deal);
    e.choose(PAYEE, choice, 2).unwrap();
    let mut opening = seeds.open(choice, 4, committee(&keys)).unwrap().1;
    opening.deals[2] = false_deal.clone();
    e.deal(PAYER, &opening, committee(&keys), 3).unwrap();
    let shares: Vec<_> = (0..3).map(|m| open_share(&false_deal, m, &secrets[m], &ID.0).unwrap()).collect();
    assert_eq!(e.convict(2, &shares, 4), Err(EscrowError::NotDue), "not released: not due");
    e.judge(u64::MAX, AT).unwrap();
    assert_eq!(e.convict(2, &shares[..2], 5), Err(EscrowError::ProvesNothing), "t shares, no fewer");
    assert_eq!(e.convict(1, &shares, 5), Err(EscrowError::ProvesNothing), "shares of another tranche");
    assert_eq!(e.convict(9, &shares, 5), Err(EscrowError::NotDue));
    assert_eq!(e.convict(2, &shares, 5).unwrap().refunded_msat, 2_000_000);
    assert_eq!(e.frauds(), 1);
    assert_eq!(e.convict(2, &shares, 5), Err(EscrowError::NotDue));
}

/// Anything anyone may say of an escrow, right or wrong.
#[derive(Clone, Debug)]
enum Said {
    Choose(NodeId, u8),
    Deal(NodeId, bool),
    Judge(u64),
    Settle(Vec<usize>),
    Refund(NodeId, u8),
    Convict(u8),
}

fn said() -> impl Strategy<Value = Said> {
    let who = || prop::sample::select(vec![PAYER, PAYEE, OTHER]);
    prop_oneof![
        (who(), 0u8..2).prop_map(|(w, c)| Said::Choose(w, c)),
        (who(), any::<bool>()).prop_map(|(w, g)| Said::Deal(w, g)),
        (0u64..20_000).prop_map(Said::Judge),
        prop::collection::vec(0usize..4, 1..4).prop_map(Said::Settle),
        (who(), any::<u8>()).prop_map(|(w, s)| Said::Refund(w, s)),
        (0u8..5).prop_map(Said::Convict),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test] // P5, P6: whatever is said, in any order and as often as may be: money is conserved, never paid twice, ends stay
    fn money_is_conserved(all in prop::collection::vec(said(), 0..40)) {
        let (secrets, keys) = members();
        let mine = seeds(4);
        let other = seeds(5);
        let mut e = offered(&mine, &keys);
        let (mut booked, mut preimages, mut earned) = (Moved::default(), Vec::new(), 0);
        for one in all {
            let before = e.clone();
            let result = match one {
                Said::Choose(who, c) => e.choose(who, Digest([c; 32]), 9).map(|()| Moved::default()),
                Said::Deal(who, good) => {
                    let from = if good { &mine } else { &other };
                    let (made, opening) = from.open(e.choice.unwrap_or(Digest([0; 32])), 4, committee(&keys)).unwrap();
                    let result = e.deal(who, &opening, committee(&keys), 9);
                    if result.is_ok() { preimages = made; }
                    result.map(|()| Moved::default())
                }
                Said::Judge(proved) => {
                    let result = e.judge(proved, AT);
                    if result.is_ok() { earned = TERMS.sum_msat(TERMS.earned(proved)); }
                    result
                }
                Said::Settle(which) => {
                    let shown: Vec<_> = which.iter().filter_map(|i| preimages.get(*i).copied()).collect();
                    e.settle(&shown, 9)
                }
                Said::Refund(who, bits) => e.refund(who, (0..8).filter(|i| bits >> i & 1 == 1).collect(), AT),
                Said::Convict(t) => {
                    let deal = e.tranches.get(usize::from(t)).map(|t| t.deal.clone());
                    let shares = deal.map(|d| (0..3).map(|m| open_share(&d, m, &secrets[m], &ID.0).unwrap()).collect());
                    e.convict(t, &shares.unwrap_or_else(Vec::new), 9)
                }
            };
            match result {
                Ok(moved) => {
                    booked.paid_msat += moved.paid_msat;
                    booked.refunded_msat += moved.refunded_msat;
                }
                // a refusal in the middle of several leaves nothing half done on the ledger, which drops it
                Err(_) => e = before.clone(),
            }
            let (held, moved) = e.account();
            prop_assert_eq!(moved, booked);
            prop_assert_eq!(held + moved.paid_msat + moved.refunded_msat, TERMS.most_msat());
            prop_assert!(moved.paid_msat <= earned);
            prop_assert!(!before.is_over() || e == before, "what is over stays as it is");
            for (b, a) in before.tranches.iter().zip(&e.tranches) {
                prop_assert!(!b.status.is_over() || b.status == a.status);
            }
        }
    }
}
