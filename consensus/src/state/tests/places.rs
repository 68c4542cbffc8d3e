//! Places where names cost nothing (P8).

use super::*;
use crate::state::places::{APPLICATION_BLOCKS, MAX_VALIDATORS};
use crate::tx::Invite;

/// Names made up a minute ago.
fn stranger(i: u8) -> NodeKey {
    NodeKey::from_secret(&[150 + i; 32])
}

fn commit_by(w: &mut World, who: &NodeKey) -> Result<(), TxError> {
    let Tx::Commit(commit) = w.commit_of(0) else { unreachable!() };
    w.block(&[(Tx::Commit(commit), who)])
}

/// So many free names, in one block.
fn flood(w: &mut World, names: u8) {
    let Tx::Commit(commit) = w.commit_of(0) else { unreachable!() };
    let keys: Vec<NodeKey> = (0..names).map(stranger).collect();
    w.block(&keys.iter().map(|k| (Tx::Commit(commit), k)).collect::<Vec<_>>()).unwrap();
}

fn most(w: &World) -> u8 {
    u8::try_from(w.manifest.judging.max_claims).unwrap()
}

fn invite(w: &World, turn: u32, guests: &[&NodeKey]) -> Tx {
    let mut guests: Vec<NodeId> = guests.iter().map(|k| k.id()).collect();
    guests.sort_unstable();
    Tx::Invite(Invite { model: w.model(), turn, guests })
}

/// Trainer 0 is paid for the first round.
fn paid_once() -> World {
    let mut w = World::new();
    w.start();
    let Tx::Fund(fund) = w.fund() else { unreachable!() };
    let more = Tx::Fund(Fund { budget_msat: 1_000_000_000, ..fund });
    w.block(&[(more, &NodeKey::from_secret(&[100; 32]))]).unwrap();
    w.to_sealed(&[0]);
    let outcome = w.outcome(&[0]);
    w.submit(outcome).unwrap();
    w
}

#[test] // P8, attack 17: free names fill their half, and who was paid before finds the other
fn strangers_do_not_keep_out_who_was_paid() {
    let mut w = paid_once();
    let most = most(&w);
    flood(&mut w, most - most / 2);
    assert_eq!(commit_by(&mut w, &stranger(most)), Err(TxError::NoPlaceForStrangers));
    let trainer = NodeKey::from_secret(&[110; 32]);
    commit_by(&mut w, &trainer).unwrap();
    assert_eq!(commit_by(&mut w, &stranger(most)), Err(TxError::NoPlaceForStrangers), "it took a place of its own");
}

#[test] // P8: a round is for everybody while nobody is known on its model
fn a_new_model_keeps_no_places() {
    let mut w = World::new();
    w.start();
    let most = most(&w);
    flood(&mut w, most);
    assert_eq!(commit_by(&mut w, &stranger(most)), Err(TxError::TooManyClaims));
}

#[test] // P8: from the first round on there is a place for guests; only who added the model invites
fn guests_have_a_place() {
    let mut w = World::new();
    w.start();
    let (sponsor, guest, other) = (NodeKey::from_secret(&[100; 32]), stranger(90), stranger(91));
    let adder = w.state.model(w.model()).unwrap().added_by;
    let first = invite(&w, 1, &[&guest]);
    assert_eq!(w.block(&[(first.clone(), &other)]), Err(TxError::WrongSigner(adder)));
    w.block(&[(first.clone(), &sponsor)]).unwrap();
    let most = most(&w);
    flood(&mut w, most - most / 2);
    assert_eq!(commit_by(&mut w, &other), Err(TxError::NoPlaceForStrangers));
    commit_by(&mut w, &guest).unwrap();
    // a list that was replaced is not brought back
    let second = invite(&w, 2, &[&other]);
    w.block(&[(second.clone(), &sponsor)]).unwrap();
    for again in [first, second] {
        assert_eq!(w.block(&[(again, &sponsor)]), Err(TxError::SaidAlready));
    }
    // the new guest has a place; who was one counts among strangers now, and their half is more than full
    let place = |k: &NodeKey| w.state.has_place(w.state.model(w.model()).unwrap(), k.id());
    assert_eq!((place(&other), place(&guest)), (Ok(()), Err(TxError::NoPlaceForStrangers)));
    let both = [guest.id(), other.id()];
    let unsorted = if both.is_sorted() { vec![both[1], both[0]] } else { both.to_vec() };
    let many: Vec<NodeId> = (0..=MAX_GUESTS).map(|i| NodeId([u8::try_from(i).unwrap(); 32])).collect();
    for guests in [unsorted, vec![guest.id(); 2], many] {
        let bad = Tx::Invite(Invite { model: w.model(), turn: 3, guests });
        assert_eq!(w.block(&[(bad, &sponsor)]), Err(TxError::BadGuests));
    }
}

#[test] // P8: whoever only fills places is not known for long, and is again when it is paid
fn failing_makes_a_stranger() {
    let mut w = paid_once();
    let trainer = w.trainers[0].id();
    let known = |w: &World| w.state.is_known(w.state.model(w.model()).unwrap(), trainer);
    for failed in 0..MAX_FAILED {
        assert!(known(&w), "after {failed} failures");
        w.to_sealed(&[0, 1]);
        let outcome = w.outcome(&[1]);
        w.submit(outcome).unwrap();
    }
    assert!(!known(&w));
    w.to_sealed(&[0]);
    let outcome = w.outcome(&[0]);
    w.submit(outcome).unwrap();
    assert!(known(&w));
}

#[test] // P8: a round in which nobody offers payment is not the trainers' failure
fn no_offer_is_no_failure() {
    let mut w = paid_once();
    let (trainer, key) = (w.trainers[0].id(), NodeKey::from_secret(&[110; 32]));
    for _ in 0..=MAX_FAILED {
        commit_by(&mut w, &key).unwrap();
        let timing = w.manifest.timing;
        w.idle(u64::from(timing.commit_blocks + timing.reveal_blocks + 2));
        w.seal();
        let outcome = w.outcome(&[]);
        w.submit(outcome).unwrap();
    }
    assert!(w.state.is_known(w.state.model(w.model()).unwrap(), trainer));
}

#[test] // P8: promises cost nothing, and one place among a model's sponsors is for who added it
fn a_place_for_the_sponsor_that_added_the_model() {
    let mut w = World::new();
    let (adder, fund) = (NodeKey::from_secret(&[100; 32]), w.fund());
    w.block(&[(Tx::AddModel(w.manifest.clone()), &adder)]).unwrap();
    let refused = |w: &mut World, i| w.block(&[(fund.clone(), &stranger(i))]).is_err();
    let taken = (0..30u8).filter(|i| !refused(&mut w, *i)).count();
    assert_eq!(taken, super::super::places::MAX_SPONSORS - 1);
    w.block(&[(fund.clone(), &adder)]).unwrap();
    assert!(refused(&mut w, 60));
}

/// One more model, told from the others by its name.
fn another(w: &World, i: usize) -> Tx {
    Tx::AddModel(Manifest { name: format!("free {i}"), ..w.manifest.clone() })
}

#[test] // P8, attack 17: free models fill their half of the table; validators and who was of use find the other
fn free_models_do_not_fill_the_table() {
    let mut w = paid_once();
    let (names, validator, sponsor) = (stranger(1), NodeKey::from_secret(&[1; 32]), NodeKey::from_secret(&[100; 32]));
    let free = MAX_MODELS / 2 - w.state.models().count();
    for from in (0..free).step_by(64) {
        let txs: Vec<Tx> = (from..free.min(from + 64)).map(|i| another(&w, i)).collect();
        w.block(&txs.into_iter().map(|tx| (tx, &names)).collect::<Vec<_>>()).unwrap();
    }
    let next = another(&w, MAX_MODELS);
    assert_eq!(w.block(&[(next.clone(), &names)]), Err(TxError::NoModelPlaceForStrangers));
    assert_eq!(w.state.model(w.model()).unwrap().added_by, sponsor.id());
    w.block(&[(next, &sponsor)]).unwrap();
    let next = another(&w, MAX_MODELS + 1);
    w.block(&[(next, &validator)]).unwrap();
}

#[test] // P8, attack 17: names made up once do not close the federation for ever
fn applications_lapse() {
    let mut w = World::new();
    w.start();
    let key = |i: usize| NodeKey::from_secret(blake3::hash(&i.to_le_bytes()).as_bytes());
    let apply = |k: &NodeKey| Tx::Apply(EncryptionSecret::derive(&k.secret()).public());
    let names: Vec<NodeKey> = (0..MAX_VALIDATORS - w.state.all_validators().count()).map(key).collect();
    w.block(&names.iter().map(|k| (apply(k), k)).collect::<Vec<_>>()).unwrap();
    let (late, first) = (key(1_000), &names[0]);
    assert_eq!(w.block(&[(apply(&late), &late)]), Err(TxError::TooManyValidators));
    assert_eq!(w.block(&[(apply(first), first)]), Err(TxError::SaidAlready));

    let since = w.state.validator(first.id()).unwrap().since;
    let at = |height| At { height, time_ms: height * 1_000 };
    let signed = |k: &NodeKey| SignedTx::new(apply(k), k, w.state.chain());
    let then = |k: &NodeKey, height| w.state.transition(&signed(k), at(height)).map(|_| ());
    assert_eq!(then(&late, since + APPLICATION_BLOCKS), Err(TxError::TooManyValidators));
    assert_eq!(then(&late, since + APPLICATION_BLOCKS + 1), Ok(()));
    assert_eq!(then(first, since + APPLICATION_BLOCKS + 1), Ok(()), "who still waits applies again");
}
