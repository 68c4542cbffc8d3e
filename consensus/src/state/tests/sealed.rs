//! Sealed guards: who gives their key to whom, and which rounds measure them (S3).

use super::*;
use crate::engine::validator::{JudgeJob, Validator, ValidatorEffect, ValidatorInput};
use crate::manifest::{Guard, Split};
use crate::sealed::{BOX_BYTES, GuardKey, TAG_BYTES, box_key, due};
use crate::tx::Unseal;

const SAMPLES: u32 = 64;

fn key() -> GuardKey {
    GuardKey::new([77; 32])
}

fn sponsor() -> NodeKey {
    NodeKey::from_secret(&[100; 32])
}

/// A world whose model has an open and a sealed guard.
fn world() -> World {
    let mut w = World::new();
    let plain = BlobRef { hash: BlobHash([0xcc; 32]), len: 1000 };
    let split = |n, len| Split { blob: BlobRef { hash: BlobHash([n; 32]), len }, samples: SAMPLES };
    w.manifest.data.guards = vec![
        Guard { name: "open".into(), split: split(0xdd, 1000), sealed: None },
        Guard { name: "sealed".into(), split: split(0xee, 1000 + TAG_BYTES), sealed: Some(plain) },
    ];
    w.start();
    w
}

fn boxes(w: &World) -> Vec<Vec<u8>> {
    let members = w.state.encryption_keys(w.state.group().members()).unwrap();
    box_key(&key(), &members, (w.state.chain(), w.model(), 0)).unwrap()
}

fn committee(w: &World, epoch: u64, boxes: Vec<Vec<u8>>) -> Tx {
    Tx::Unseal(Unseal::Committee { model: w.model(), epoch, boxes })
}

fn public(w: &World) -> Tx {
    Tx::Unseal(Unseal::Public { model: w.model(), key: key().public() })
}

/// The outcome with the first trainer honest, and this measured on the sealed guard.
fn outcome(w: &World, sealed: Paired) -> Outcome {
    let mut measured = w.outcome(&[0]).measured();
    measured.head = measured.head.map(|h| HeadScores { guards: vec![paired(SAMPLES, 10), sealed], ..h });
    let round = w.round();
    let head = w.state.model(w.model()).unwrap().head.weights;
    Outcome::derive(&w.manifest, (w.model(), round.number, head, round.sealed.unwrap()), measured)
}

/// The job each member is given, in member order.
fn jobs(w: &World) -> Vec<Option<JudgeJob>> {
    let mut rng = ChaCha20Rng::from_seed([1; 32]);
    let mut job_of = |k: &NodeKey| {
        let secret = std::sync::Arc::new(EncryptionSecret::derive(&k.secret()));
        let mut validator = Validator::new(k.id(), secret, Vec::new());
        let effects = validator.handle(&w.state, ValidatorInput::StateChanged, &mut rng);
        effects.into_iter().find_map(|e| if let ValidatorEffect::Judge(job) = e { Some(*job) } else { None })
    };
    w.members.iter().map(&mut job_of).collect()
}

#[test] // S3: the owner alone, once, one box a member, for a committee that can judge
fn only_a_fitting_key_of_the_owner_is_taken() {
    let mut w = world();
    let (owner, other) = (sponsor(), NodeKey::from_secret(&[110; 32]));
    let good = boxes(&w);
    let refused = |w: &mut World, tx, key: &NodeKey| w.block(&[(tx, key)]).unwrap_err();
    for tx in [committee(&w, 0, good.clone()), public(&w)] {
        assert_eq!(refused(&mut w, tx, &other), TxError::WrongSigner(owner.id()));
    }
    let mut long = good.clone();
    long[3].push(0);
    for bad in [good[1..].to_vec(), Vec::new(), [good.clone(), good.clone()].concat(), long] {
        let tx = committee(&w, 0, bad);
        assert_eq!(refused(&mut w, tx, &owner), TxError::BadBoxes(4));
    }
    for epoch in [1, u64::MAX] {
        let tx = committee(&w, epoch, good.clone());
        assert_eq!(refused(&mut w, tx, &owner), TxError::WrongEpoch(0));
    }
    let (first, again) = (committee(&w, 0, good.clone()), committee(&w, 0, good.clone()));
    w.block(&[(first, &owner)]).unwrap();
    assert_eq!(refused(&mut w, again, &owner), TxError::SaidAlready);
    let (everyone, twice, late) = (public(&w), public(&w), committee(&w, 0, good));
    w.block(&[(everyone, &owner)]).unwrap();
    assert!(w.state.model(w.model()).unwrap().keys.is_empty(), "nobody needs a box any more");
    assert_eq!(refused(&mut w, twice, &owner), TxError::SaidAlready);
    assert_eq!(refused(&mut w, late, &owner), TxError::SaidAlready);

    let mut plain = World::new();
    plain.start();
    let tx = public(&plain);
    assert_eq!(refused(&mut plain, tx, &owner), TxError::NothingSealed);
    let unknown = Tx::Unseal(Unseal::Public { model: ModelId([1; 32]), key: key().public() });
    assert!(matches!(refused(&mut plain, unknown, &owner), TxError::NoModel(_)));
}

#[test] // S3: without a key the sealed guard is skipped, and a key that comes after the seal changes nothing
fn a_round_without_a_key_skips_the_sealed_guard() {
    let mut w = world();
    w.to_sealed(&[0, 1]);
    assert!(!w.round().opened);
    let tx = committee(&w, 0, boxes(&w));
    w.block(&[(tx, &sponsor())]).unwrap();
    assert!(!w.round().opened, "fixed at the seal");
    assert!(jobs(&w).iter().all(|j| j.as_ref().unwrap().guard_key.is_none()));
    let measured = outcome(&w, paired(SAMPLES, 10));
    w.commit_scores(0, &measured).unwrap();
    let skipped = outcome(&w, Paired::SKIPPED);
    (1..4).for_each(|m| w.commit_scores(m, &skipped).unwrap());
    assert_eq!(w.open_scores(0, &measured), Err(TxError::WrongStatement), "measured, though nobody could");
    (1..4).for_each(|m| w.open_scores(m, &skipped).unwrap());
    w.idle(4);
    assert_eq!(w.submit_signed(measured), Err(TxError::WrongStatement));
    w.submit_signed(skipped).unwrap();
    assert_eq!(w.state.model(w.model()).unwrap().head.round, 1, "adopted by what was measured");
    w.to_sealed(&[0]);
    assert!(w.round().opened, "the next round has the key");
}

#[test] // S3, attack 1: with the key the sealed guard is measured and stops a head
fn a_round_with_a_key_measures_the_sealed_guard() {
    let mut w = world();
    let tx = due(&w.state, sponsor().id(), w.model(), &key(), false).unwrap();
    w.block(&[(tx, &sponsor())]).unwrap();
    assert_eq!(due(&w.state, sponsor().id(), w.model(), &key(), false), None, "said");
    w.to_sealed(&[0, 1]);
    assert!(w.round().opened);
    assert!(jobs(&w).iter().all(|j| j.as_ref().unwrap().guard_key == Some(key())));
    let skipped = outcome(&w, Paired::SKIPPED);
    let worse = outcome(&w, paired(SAMPLES, -50_000));
    // whoever replays without the key takes what was attested of the sealed guard, and of no other
    let mut replayed = skipped.measured();
    replayed.take_sealed(&w.manifest, &worse);
    assert_eq!(replayed, worse.measured());
    let mut other = skipped.measured();
    other.head.as_mut().unwrap().guards[0] = Paired::SKIPPED;
    other.take_sealed(&w.manifest, &worse);
    assert_eq!(other.head.unwrap().guards[0], Paired::SKIPPED);
    assert!(!worse.adopted() && outcome(&w, paired(SAMPLES, 10)).adopted());
    w.commit_scores(0, &skipped).unwrap();
    (1..4).for_each(|m| w.commit_scores(m, &worse).unwrap());
    assert_eq!(w.open_scores(0, &skipped), Err(TxError::WrongStatement), "skipped, though the key was there");
    (1..4).for_each(|m| w.open_scores(m, &worse).unwrap());
    w.idle(4);
    assert_eq!(w.submit_signed(skipped), Err(TxError::WrongStatement));
    w.submit_signed(worse).unwrap();
    assert_eq!(w.state.model(w.model()).unwrap().head.round, 0, "not adopted");
}

#[test] // S3: a member whose box is garbage does not judge; the others do
fn whoever_cannot_open_its_box_does_not_judge() {
    let mut w = world();
    let mut some = boxes(&w);
    some[1] = vec![9; BOX_BYTES];
    some.swap(2, 3);
    let tx = committee(&w, 0, some);
    w.block(&[(tx, &sponsor())]).unwrap();
    w.to_sealed(&[0]);
    let judging: Vec<bool> = jobs(&w).iter().map(Option::is_some).collect();
    assert_eq!(judging, [true, false, false, false]);
    let tx = public(&w);
    w.block(&[(tx, &sponsor())]).unwrap();
    assert!(jobs(&w).iter().all(|j| j.as_ref().unwrap().guard_key == Some(key())), "now all of them can");
}

#[test] // S3: from the end on every round is open to everyone
fn a_public_key_opens_every_round() {
    let mut w = world();
    let me = sponsor().id();
    assert_eq!(due(&w.state, w.trainers[0].id(), w.model(), &key(), true), None, "not its model");
    let tx = due(&w.state, me, w.model(), &key(), true).unwrap();
    assert_eq!(tx, public(&w));
    w.block(&[(tx, &sponsor())]).unwrap();
    assert_eq!(due(&w.state, me, w.model(), &key(), false), None, "no committee needs it");
    w.to_sealed(&[0]);
    assert!(w.round().opened);
    assert!(jobs(&w).iter().all(|j| j.as_ref().unwrap().guard_key == Some(key())));
    w.submit(outcome(&w, paired(SAMPLES, 10))).unwrap();
}

#[test] // S3: judges that take over a round measure what they can open themselves
fn other_judges_need_the_key_for_themselves() {
    let mut w = world();
    let tx = committee(&w, 0, boxes(&w));
    w.block(&[(tx, &sponsor())]).unwrap();
    w.to_sealed(&[0]);
    assert!(w.round().opened);
    let start_epoch = |w: &mut World, number| {
        let next = EpochState { number, ..w.state.current().clone() };
        w.state.restore(Entry::Epoch(Box::new(next)));
        w.state.restore(Entry::Federation(FederationState { epoch: number, ..w.state.federation().clone() }));
    };
    start_epoch(&mut w, 1);
    w.idle(1);
    assert_eq!((w.round().judges, w.round().opened), (Some(0), true), "the committee before goes on");
    let tx = due(&w.state, sponsor().id(), w.model(), &key(), false).unwrap();
    w.block(&[(tx, &sponsor())]).unwrap();
    assert!(jobs(&w).iter().all(|j| j.as_ref().unwrap().guard_key == Some(key())), "with its own boxes");
    start_epoch(&mut w, 2);
    w.idle(1);
    assert_eq!((w.round().judges, w.round().opened), (Some(2), false), "without the key: the round is not stuck");
    let tx = due(&w.state, sponsor().id(), w.model(), &key(), false).unwrap();
    w.block(&[(tx, &sponsor())]).unwrap();
    let epochs: Vec<u64> = w.state.model(w.model()).unwrap().keys.iter().map(|k| k.epoch).collect();
    assert_eq!(epochs, [1, 2], "the latest two are kept");
    assert!(!w.round().opened, "fixed when they took over");
}
