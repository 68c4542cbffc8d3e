//! The fuzz targets in ordinary tests (K2, K3): every corpus file, and seeded mutations of each.

use oda_consensus::fuzzing::targets;
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Tried of each file.
const MUTATIONS: u32 = 200;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn names(dir: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

fn below(rng: &mut ChaCha8Rng, limit: usize) -> usize {
    rng.next_u64() as usize % limit.max(1)
}

/// Flips, cuts, splices, huge lengths, repeated and inserted bytes; now and then several of them.
fn mutate(bytes: &[u8], other: &[u8], rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for _ in 0..=below(rng, 3) {
        let at = below(rng, out.len());
        match rng.next_u32() % 7 {
            0 if !out.is_empty() => out[at] ^= 1 << (rng.next_u32() % 8),
            1 => out.truncate(at),
            2 => {
                // the tail of another value
                out.truncate(at);
                out.extend_from_slice(&other[below(rng, other.len())..]);
            }
            3 => {
                // where a length may be: all ones, or just more than there is
                let len = if rng.next_u32().is_multiple_of(2) { u64::MAX } else { out.len() as u64 };
                out.iter_mut().skip(at).zip(len.to_le_bytes()).for_each(|(byte, new)| *byte = new);
            }
            4 => {
                let end = (at + 1 + below(rng, 64)).min(out.len());
                let part = out[at.min(end)..end].to_vec();
                out.splice(at..at, part);
            }
            5 => out.insert(at.min(out.len()), rng.next_u32() as u8),
            _ if !out.is_empty() => drop(out.remove(at)),
            _ => {}
        }
    }
    out
}

#[test] // K2, K3: no file unread, no target without one
fn the_corpus_and_its_mutations_pass_every_target() {
    let corpus = root().join("corpus");
    let known: BTreeSet<String> = targets().iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(names(&corpus), known, "corpus directories and targets: run the example make_corpus");
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut files_read = 0;
    for (target, run) in targets() {
        let dir = corpus.join(target);
        let files: Vec<(String, Vec<u8>)> =
            names(&dir).into_iter().map(|name| (name.clone(), std::fs::read(dir.join(name)).unwrap())).collect();
        assert!(!files.is_empty(), "no corpus file for {target}");
        for (name, bytes) in &files {
            println!("{target}/{name}"); // shown if the next line panics
            run(bytes);
            files_read += 1;
            for number in 0..MUTATIONS {
                let other = &files[below(&mut rng, files.len())].1;
                let mutated = mutate(bytes, other, &mut rng);
                let result = std::panic::catch_unwind(|| run(&mutated));
                assert!(result.is_ok(), "{target}/{name}, mutation {number}: {}", hex::encode(&mutated));
            }
        }
    }
    assert!(files_read >= 50, "{files_read} files");
}

#[test] // K2: the corpus is current, so that fuzzing starts behind the header check
fn corpus_files_decode() {
    use oda_consensus::codec::{Record, decode};
    fn all<T: Record>(target: &str) {
        let dir = root().join("corpus").join(target);
        for name in names(&dir) {
            if let Err(e) = decode::<T>(&std::fs::read(dir.join(&name)).unwrap()) {
                panic!("{target}/{name} is stale ({e}): run the example make_corpus");
            }
        }
    }
    all::<oda_consensus::outcome::Attestation>("attestation");
    all::<oda_consensus::bft::Message>("bft_message");
    all::<oda_consensus::tx::Block>("block");
    all::<oda_consensus::wire::DecidedBlock>("decided_block");
    all::<oda_consensus::genesis::Genesis>("genesis");
    all::<oda_consensus::manifest::Manifest>("manifest");
    all::<oda_consensus::wire::Request>("request");
    all::<oda_consensus::wire::Response>("response");
    all::<oda_consensus::frost::SignMessage>("sign_message");
    all::<oda_consensus::wire::SignedPeerRecord>("signed_peer_record");
    all::<oda_consensus::tx::SignedTx>("signed_tx");
    // not records: each file is a delta of one of the shapes that the target knows, and no shape is without one
    let deltas: Vec<Vec<u8>> = names(&root().join("corpus/delta"))
        .iter()
        .map(|n| std::fs::read(root().join("corpus/delta").join(n)).unwrap())
        .collect();
    for (parameters, training) in oda_consensus::fuzzing::delta_shapes() {
        let read = |bytes: &Vec<u8>| oda_consensus::delta::chunks(bytes, parameters, &training).is_ok();
        assert_eq!(deltas.iter().filter(|bytes| read(bytes)).count(), 1, "{parameters}: run the example make_corpus");
    }
}

#[test] // every target has its file in the fuzz crate, and is named there
fn the_fuzz_crate_has_every_target() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let known: BTreeSet<String> = targets().iter().map(|(name, _)| format!("{name}.rs")).collect();
    assert_eq!(names(&root().join("fuzz_targets")), known);
    for (name, _) in targets() {
        assert!(manifest.contains(&format!("name = \"{name}\"\n")), "fuzz/Cargo.toml lacks {name}");
        let text = std::fs::read_to_string(root().join("fuzz_targets").join(format!("{name}.rs"))).unwrap();
        assert!(text.contains(&format!("\"{name}\"")), "{name}.rs runs another target");
    }
}
