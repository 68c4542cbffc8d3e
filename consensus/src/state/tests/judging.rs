//! Commit and reveal of scores, service records, decoys (R4, R5, C6).

use super::*;
use crate::decoy;
use crate::evidence::Offence;

fn sealed() -> (World, Outcome) {
    let mut w = World::new();
    w.start();
    w.to_sealed(&[0, 1]);
    let honest = w.outcome(&[0]);
    (w, honest)
}

/// The same outcome with other integers, and arithmetic that follows from them.
fn lie(w: &World, honest: &Outcome) -> Outcome {
    let mut measured = honest.measured();
    for (.., m) in &mut measured.claims {
        if let Measurement::Scored(s) = m {
            *m = Measurement::Scored(ClaimScores { gate: paired(128, -5_000), ..*s });
        }
    }
    let name = (honest.model, honest.round, honest.parent, honest.sealed);
    Outcome::derive(&w.manifest, name, measured)
}

#[test] // R4: nobody opens before a threshold has committed, nobody commits once scores are open
fn scores_cannot_be_copied() {
    let (mut w, honest) = sealed();
    let stranger = NodeKey::from_secret(&[110; 32]);
    let commit = ScoreCommit { model: honest.model, round: 1, attempt: 0, commitment: Digest([1; 32]) };
    assert_eq!(w.block(&[(Tx::Score(commit), &stranger)]), Err(TxError::NotAJudge));
    w.commit_scores(0, &honest).unwrap();
    assert_eq!(w.commit_scores(0, &honest), Err(TxError::SaidAlready));
    assert_eq!(w.open_scores(0, &honest), Err(TxError::ScoresHidden));
    w.commit_scores(1, &honest).unwrap();
    w.commit_scores(2, &honest).unwrap();
    assert_eq!(w.open_scores(0, &honest), Err(TxError::ScoresHidden), "the last member has its grace");
    w.idle(4);
    w.open_scores(0, &honest).unwrap();
    assert_eq!(w.commit_scores(3, &honest), Err(TxError::SaidAlready), "a copied commitment comes too late");
    assert_eq!(w.open_scores(1, &lie(&w, &honest)), Err(TxError::WrongOpening));
    w.open_scores(1, &honest).unwrap();
    assert_eq!(w.submit_signed(honest.clone()), Err(TxError::NotSupported), "two opened scores are not three");
    w.open_scores(2, &honest).unwrap();
    w.submit_signed(honest).unwrap();
    let record = |i: usize| w.state.validator(w.members[i].id()).unwrap().record;
    assert_eq!((record(0).rounds, record(0).agreed, record(3).late), (1, 1, 1));
}

#[test] // C6: scores that a threshold proves wrong end a validator's service
fn false_scores_evict() {
    let (mut w, honest) = sealed();
    let lie = lie(&w, &honest);
    assert!(lie.contradicts(&honest) && !honest.contradicts(&honest));
    w.score(&[(0, honest.clone()), (1, honest.clone()), (2, lie.clone()), (3, honest.clone())]);
    assert_eq!(w.submit_signed(lie), Err(TxError::NotSupported), "one liar's outcome has no support");
    w.submit_signed(honest).unwrap();
    let liar = w.state.validator(w.members[2].id()).unwrap();
    assert_eq!(liar.status, ValidatorStatus::Evicted(Offence::FalseScores));
    assert_eq!((liar.record.false_scores, liar.record.agreed), (1, 0));
    assert!(w.state.federation().hurry, "its seat is to be filled");
    let others = [0, 1, 3].map(|i: usize| w.state.validator(w.members[i].id()).unwrap().status);
    assert_eq!(others, [ValidatorStatus::Active; 3]);
}

#[test] // R3, C6: a delta served to some members only makes no liar, and the round is scored again
fn a_delta_served_to_some_is_scored_again() {
    let (mut w, honest) = sealed();
    let mut measured = Measured { head: None, ..honest.measured() };
    measured.claims.iter_mut().for_each(|m| m.2 = Measurement::Refused(Refusal::NotServed));
    let name = (honest.model, honest.round, honest.parent, honest.sealed);
    let without = Outcome::derive(&w.manifest, name, measured);
    assert!(!without.contradicts(&honest) && !honest.contradicts(&without));
    w.score(&[(0, honest.clone()), (1, honest.clone()), (2, without.clone()), (3, without)]);
    assert_eq!(w.submit_signed(honest.clone()), Err(TxError::NotSupported));
    w.idle(1);
    assert_eq!((w.round().scores.attempt, w.round().scores.committed.len()), (1, 0), "all measure again");
    w.submit(honest).unwrap();
    assert!(w.members.iter().all(|m| w.state.validator(m.id()).unwrap().record.agreed == 1));
}

#[test] // R4: members that never open do not stop the round
fn scores_that_are_not_opened_are_taken_again() {
    let (mut w, honest) = sealed();
    (0..4).for_each(|m| w.commit_scores(m, &honest).unwrap());
    w.idle(100);
    assert!(w.round().scores.attempt >= 1);
    w.submit(honest).unwrap();
}

#[test] // C6: a committee that accepts noise is found out by whoever planted it
fn decoys_show_who_judged() {
    let mut w = World::new();
    w.start();
    let (sponsor, alias) = (NodeKey::from_secret(&[100; 32]), NodeKey::from_secret(&[111; 32]));
    let seed = Digest([42; 32]);
    let delta = decoy::delta_ref(seed, &w.manifest);
    let claim = tx::claim_id(w.model(), 1, alias.id());
    let parent = w.manifest.initial_head.hash;
    let commitment = tx::commitment(alias.id(), w.model(), 1, parent, delta, 9, decoy::salt(seed));
    w.block(&[(Tx::Commit(Commit { model: w.manifest.id(), round: 1, parent, commitment }), &alias)]).unwrap();
    w.to_dealt(&[1]);
    w.idle(2);
    let reveal = Reveal { claim, delta, stated_gain_unat: 9, salt: decoy::salt(seed) };
    w.block(&[(Tx::Reveal(reveal), &alias)]).unwrap();
    w.seal();
    assert_eq!(w.block(&[(Tx::Decoy(claim, seed), &sponsor)]), Err(TxError::NotADecoy), "not before the verdict");
    let lazy = w.outcome(&[1]); // accepts the noise
    w.score(&[(0, lazy.clone()), (1, lazy.clone()), (2, lazy.clone())]);
    w.submit_signed(lazy).unwrap();
    assert_eq!(w.block(&[(Tx::Decoy(claim, Digest([0; 32])), &sponsor)]), Err(TxError::NotADecoy));
    assert_eq!(w.block(&[(Tx::Decoy(claim, seed), &alias)]), Err(TxError::NotADecoy), "its payer alone knows");
    w.block(&[(Tx::Decoy(claim, seed), &sponsor)]).unwrap();
    assert_eq!(w.block(&[(Tx::Decoy(claim, seed), &sponsor)]), Err(TxError::NotADecoy), "counts once");
    let failed = |i: usize| w.state.validator(w.members[i].id()).unwrap().record.decoys_failed;
    assert_eq!([0, 1, 2, 3].map(failed), [1, 1, 1, 0], "the member that did not agree is not blamed");
}
