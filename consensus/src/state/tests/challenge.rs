//! Storage challenges (D2).

use super::federation::Seven;
use super::*;
use crate::custody::{self, Asked};
use crate::tx::StorageProof;

/// The bytes behind the model's data.
const BLOBS: [&[u8]; 3] = [&[1; 5_000], &[2; 70_000], &[3; 1_024]];

/// Seven validators, and a model that was judged once.
fn judged() -> Seven {
    let mut s = Seven::new();
    let data = &mut s.w.manifest.data;
    (data.train.blob, data.eval.blob, data.test.blob) =
        (BlobRef::of(BLOBS[0]), BlobRef::of(BLOBS[1]), BlobRef::of(BLOBS[2]));
    s.w.start();
    s
}

fn judge(s: &mut Seven) {
    s.w.to_sealed(&[0]);
    let outcome = s.w.outcome(&[]);
    s.w.submit(outcome).unwrap();
}

fn answer_of(asked: &Asked) -> Vec<u8> {
    let bytes = BLOBS.into_iter().find(|b| BlobRef::of(b).hash == asked.blob.hash).unwrap();
    custody::tests::slice(bytes, asked.chunk)
}

fn answer(s: &mut Seven, asked: &Asked, epoch: u64, slice: Vec<u8>) -> Result<(), TxError> {
    let key = s.key(asked.node);
    s.w.block(&[(Tx::StorageProof(StorageProof { epoch, slice }), &key)])
}

/// Whom the open challenge asks for bytes there are.
fn asked(s: &Seven) -> Vec<Asked> {
    let real = |a: &Asked| BLOBS.iter().any(|b| BlobRef::of(b) == a.blob);
    s.w.state.challenge().unwrap().asked.into_iter().filter(real).collect()
}

#[test] // D2: nobody is asked before a draw, nor for what judges need not have had
fn only_what_was_judged_is_asked_for() {
    let mut s = judged();
    assert_eq!(s.w.state.challenge(), None, "no draw yet");
    s.draw().unwrap();
    assert_eq!(s.w.state.challenge(), None, "no model was judged: its blobs may be nowhere");
    let mut s = judged();
    judge(&mut s);
    s.draw().unwrap();
    let all = s.w.state.challenge().unwrap().asked;
    assert!(!all.is_empty());
    let data = s.w.manifest.data.clone();
    let blobs = [s.w.manifest.initial_head, data.train.blob, data.eval.blob, data.test.blob];
    assert!(all.iter().all(|a| blobs.contains(&a.blob)));
}

#[test] // D2: who shows its chunk is written down, once; nothing else is an answer
fn answers_are_written_down() {
    let mut s = judged();
    judge(&mut s);
    s.draw().unwrap();
    let all = asked(&s);
    let (first, second) = (all[0], all[1]);
    let good = answer_of(&first);
    assert_eq!(answer(&mut s, &first, 2, good.clone()), Err(TxError::NoChallenge(2)));
    let mut bad = good.clone();
    bad[0] ^= 1;
    assert_eq!(answer(&mut s, &first, 1, bad), Err(TxError::BadSlice));
    let outsider = Asked { node: NodeKey::from_secret(&[9; 32]).id(), ..first };
    assert_eq!(answer(&mut s, &outsider, 1, good.clone()), Err(TxError::NotAsked));
    if (first.blob, first.chunk) != (second.blob, second.chunk) {
        assert_eq!(answer(&mut s, &second, 1, good.clone()), Err(TxError::BadSlice), "another's answer");
    }
    assert_eq!(s.w.state.storage_records().count(), 0);
    answer(&mut s, &first, 1, good.clone()).unwrap();
    assert_eq!(answer(&mut s, &first, 1, good), Err(TxError::SaidAlready));
    let record = *s.w.state.storage_record(first.node).unwrap();
    assert_eq!((record.kept, record.missed, record.last_kept), (1, 0, Some(1)));
    // what is asked stands from then on, whatever becomes of the head
    let before = s.w.state.challenge().unwrap();
    judge(&mut s);
    s.w.to_sealed(&[0]);
    let outcome = s.w.outcome(&[0]);
    s.w.submit(outcome).unwrap();
    assert_eq!(s.w.state.challenge().unwrap(), before);
    let rest = answer_of(&second);
    answer(&mut s, &second, 1, rest).unwrap();
}

#[test] // D2: who has not answered when the next epoch's first answer comes has missed its turn; who left has not
fn silence_is_written_down() {
    let mut s = judged();
    judge(&mut s);
    s.draw().unwrap();
    let all = s.w.state.challenge().unwrap().asked;
    let first = asked(&s)[0];
    let good = answer_of(&first);
    answer(&mut s, &first, 1, good).unwrap();
    let gone = all.iter().map(|a| a.node).find(|n| *n != first.node && !s.dkg().members.contains(n));
    s.to_done();
    if let Some(gone) = gone {
        let key = s.key(gone);
        s.w.block(&[(Tx::Leave, &key)]).unwrap();
    }
    s.hand_over();
    s.w.idle(12);
    assert_eq!(s.w.state.current().number, 1);
    assert_eq!(s.w.state.challenge(), None, "over when the epoch begins");
    let late = all[1];
    assert_eq!(answer(&mut s, &late, 1, vec![]), Err(TxError::NoChallenge(1)));
    // the draw of epoch 2 needs the new committee's beacon; its challenge follows from the ledger all the same
    let mut next = s.w.state.challenge.as_deref().unwrap().clone();
    next.epoch = 2;
    next.asked.iter_mut().for_each(|a| a.answered = false);
    let mut dkg = s.w.state.dkg.as_deref().unwrap().clone();
    dkg.epoch = 2;
    s.w.state.restore(Entry::Dkg(Box::new(dkg)));
    let state = s.w.state.clone();
    let open = state.challenge().unwrap();
    assert_eq!(open.epoch, 2);
    let first = open.asked.iter().find(|a| BLOBS.iter().any(|b| BlobRef::of(b) == a.blob)).unwrap();
    let proof = StorageProof { epoch: 2, slice: answer_of(first) };
    let entries = state.storage_proof(first.node, &proof).unwrap();
    let missed: Vec<NodeId> = entries
        .iter()
        .filter_map(|e| if let Entry::Storage(r) = e { (r.missed == 1).then_some(r.node) } else { None })
        .collect();
    let mut expected: Vec<NodeId> = all.iter().map(|a| a.node).filter(|n| *n != who_answered(&state)).collect();
    expected.retain(|n| Some(*n) != gone);
    expected.sort_unstable();
    let mut seen = missed;
    seen.sort_unstable();
    assert_eq!(seen, expected);
    // who missed its turn and answers now has done both
    let is_real = |a: &&Asked| BLOBS.iter().any(|b| BlobRef::of(b) == a.blob);
    let back = open.asked.iter().filter(is_real).find(|a| Some(a.node) != gone && a.node != first.node).unwrap();
    let proof = StorageProof { epoch: 2, slice: answer_of(back) };
    let entries = state.storage_proof(back.node, &proof).unwrap();
    let of = |node| {
        entries.iter().find_map(|e| if let Entry::Storage(r) = e { (r.node == node).then_some(*r) } else { None })
    };
    let record = of(back.node).unwrap();
    assert_eq!((record.kept, record.missed, record.last_kept), (1, 1, Some(2)));
    assert_eq!(of(first.node), None, "it missed nothing, and says nothing now");
}

/// The one node that answered the first challenge.
fn who_answered(state: &State) -> NodeId {
    state.storage_records().find(|r| r.kept == 1).unwrap().node
}
