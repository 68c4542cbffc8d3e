//! Proofs of records over a ledger with everything on it (L4).

#[allow(dead_code)]
mod world;

use oda_consensus::codec;
use oda_consensus::epoch::Checkpoint;
use oda_consensus::ids::Digest;
use oda_consensus::proof::{ProofError, RecordProof, Subject};
use oda_consensus::state::Entry;
use oda_consensus::tx::Block;
use world::World;

fn attested(block: &Block) -> Checkpoint {
    let h = block.header;
    Checkpoint { height: h.height, block: h.hash(), state_root: h.state_root }
}

fn played() -> World {
    let mut world = World::new();
    world.whole_round();
    world
}

#[test] // L4: whatever a block wrote is shown under it and under every later block, and nowhere else
fn every_record_is_proven_under_every_later_block() {
    let world = played();
    assert!(world.versions.len() > 60 && world.blocks.len() > 10, "too little to prove");
    let kinds: std::collections::BTreeSet<u8> = world.versions.iter().map(|v| v.key[0]).collect();
    assert!(kinds.len() >= 8, "only {} kinds of entries", kinds.len());
    for version in &world.versions {
        for block in &world.blocks {
            let checkpoint = attested(block);
            if block.header.height < version.height {
                assert!(version.index >= block.header.records, "a record of a later block");
                continue;
            }
            let proof = world.proof(version, block);
            let entry = proof.check(&checkpoint).unwrap();
            assert_eq!((entry.key(), entry.value()), (version.key.clone(), version.value.clone()));
        }
    }
}

#[test] // L4: the last version of each entry is what the state holds, the tip of each block is recorded by the next
fn the_log_holds_what_the_state_holds() {
    let world = played();
    let last = |key: &[u8]| world.versions.iter().rev().find(|v| v.key == key).map(|v| v.value.clone());
    let mut checked = 0;
    for entry in world.entries.iter().rev() {
        let key = entry.key();
        let newest = world.entries.iter().rev().find(|e| e.key() == key).unwrap();
        if !matches!(entry, Entry::Tip(_) | Entry::Log(_)) {
            assert_eq!(last(&key).unwrap(), newest.value());
            checked += 1;
        }
    }
    assert!(checked > 30);
    for pair in world.blocks.windows(2) {
        let Subject::Block(height) = Subject::Block(pair[0].header.height) else { unreachable!() };
        let subject = Subject::Block(height);
        let version = world.versions.iter().find(|v| v.key == subject.key() && Some(v.height) == subject.height());
        let Entry::Tip(tip) = Entry::decode(&subject.key(), &version.unwrap().value).unwrap() else { panic!() };
        assert_eq!((tip.hash, tip.state_root), (pair[0].header.hash(), pair[0].header.state_root));
    }
}

/// A proof with one thing changed.
type Change = fn(&mut RecordProof);

#[test] // L4: one changed bit anywhere and nothing is shown
fn a_changed_proof_shows_nothing() {
    let world = played();
    let (version, last) = (&world.versions[world.versions.len() / 2], world.blocks.last().unwrap());
    let (good, checkpoint) = (world.proof(version, last), attested(last));
    good.check(&checkpoint).unwrap();
    let changes: [(&str, Change); 8] = [
        ("value", |p| *p.value.last_mut().unwrap() ^= 1),
        ("key", |p| *p.key.last_mut().unwrap() ^= 1),
        ("height", |p| p.height -= 1),
        ("index", |p| p.index ^= 1),
        ("path", |p| p.path[0].0[0] ^= 1),
        ("shorter", |p| p.path.truncate(p.path.len() - 1)),
        ("longer", |p| p.path.push(Digest([0; 32]))),
        ("key too long", |p| p.key = vec![b'c'; 10_000]),
    ];
    for (what, change) in changes {
        let mut bad = good.clone();
        change(&mut bad);
        assert_eq!(bad.check(&checkpoint).unwrap_err(), ProofError::NotIncluded, "{what}");
    }
    // another header than the attested block's, root and count of its own making included
    let headers: [Change; 4] = [
        |p| p.header.records += 1,
        |p| p.header.state_root.0[0] ^= 1,
        |p| p.header.time_ms += 1,
        |p| p.header.height += 1,
    ];
    for change in headers {
        let mut bad = good.clone();
        change(&mut bad);
        assert!(matches!(bad.check(&checkpoint), Err(ProofError::NotAttested(_))));
        let own = Checkpoint { state_root: bad.header.state_root, height: bad.header.height, ..checkpoint };
        assert!(matches!(bad.check(&own), Err(ProofError::NotAttested(_))), "the hash of the block is attested");
    }
    let later = RecordProof { height: last.header.height + 1, ..good.clone() };
    assert!(matches!(later.check(&checkpoint), Err(ProofError::Later { .. })));
    // what a server sends survives the codec
    assert_eq!(codec::decode::<RecordProof>(&codec::encode(&good)).unwrap(), good);
}

#[test] // L4: each ledger is the beginning of each later one; another history is not
fn only_the_own_past_is_a_beginning() {
    let world = played();
    let mut other = World::new();
    other.wait_ms(777); // the same genesis, another first block
    other.whole_round();
    for (i, new) in world.blocks.iter().enumerate() {
        for old in &world.blocks[..=i] {
            let proof = world.extension(old, new);
            proof.check(&attested(old), &attested(new)).unwrap();
            let mut bad = proof.clone();
            if let Some(hash) = bad.path.first_mut() {
                hash.0[0] ^= 1;
                assert_eq!(bad.check(&attested(old), &attested(new)), Err(ProofError::NotExtended));
            }
            if old.header.height < new.header.height {
                let swapped = oda_consensus::proof::ExtensionProof { old: proof.new, new: proof.old, path: proof.path };
                assert!(swapped.check(&attested(new), &attested(old)).is_err(), "backwards");
            }
        }
        let foreign = &other.blocks[i];
        let mut proof = world.extension(&world.blocks[0], new);
        proof.old = foreign.header;
        if foreign.header.records <= new.header.records {
            assert!(proof.check(&attested(foreign), &attested(new)).is_err(), "a ledger with another history");
        }
    }
}
