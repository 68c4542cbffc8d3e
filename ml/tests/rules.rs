//! The rules of this crate on the shipped model: S2, S3, S4, S6, S7 and D1 with real data, real training
//! and real cheats. A judge that accepts everything, or nothing, fails here.

use oda_consensus::ids::{Beacon, BlobRef, NodeId};
use oda_ml::reference::Reference;
use oda_ml::{Backend as _, Dataset, ModelData, judge, model_file, weights};
use std::path::{Path, PathBuf};

/// Hash of the shipped model's initial head: another value is another model.
const INITIAL_HEAD: &str = "93b86726892c3ce43ad31905a561981dee04c1f146f721bc85781fc0dccac00e";

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/fashion-mnist.toml")
}

fn bundle() -> model_file::Bundle {
    model_file::load(&shipped()).unwrap()
}

fn data(b: &model_file::Bundle) -> ModelData {
    let d = &b.manifest.data;
    let split = |i: usize, n| Dataset::from_idx(&b.blobs[i], &b.blobs[i + 1], n).unwrap();
    ModelData { train: split(0, d.train.samples), eval: split(2, d.eval.samples), test: split(4, d.test.samples) }
}

#[test] // D1: every blob is the one its signed reference promises, by hash and size
fn blobs_match_their_references() {
    let b = bundle();
    let mut promised = b.manifest.blobs();
    promised.sort();
    let mut brought: Vec<BlobRef> = b.blobs.iter().map(|bytes| BlobRef::of(bytes)).collect();
    brought.sort();
    assert_eq!(promised.to_vec(), brought);
}

#[test] // S6: weights have one encoding, and the initial head is the same on every machine
fn weights_are_canonical() {
    let b = bundle();
    let m = &b.manifest;
    let head = b.blobs.last().unwrap();
    assert_eq!(m.initial_head.hash.to_string(), INITIAL_HEAD);
    let flat = weights::from_bytes(m, head).unwrap();
    assert_eq!(flat.len() as u64, m.parameters());
    assert_eq!(&weights::to_bytes(m, &flat).unwrap(), head);
}

#[test] // S7: weights of another shape, cut short or with NaN are refused
fn bad_weights_are_refused() {
    let b = bundle();
    let m = &b.manifest;
    let head = b.blobs.last().unwrap();
    let error = |bytes: &[u8]| weights::from_bytes(m, bytes).unwrap_err().to_string();
    let mut nan = head.clone();
    let at = nan.len() - 4;
    nan[at..].copy_from_slice(&f32::NAN.to_le_bytes());
    assert!(error(&nan).contains("holds NaN"), "{}", error(&nan));
    error(&head[..head.len() - 1]);
    error(&[0xff; 64]); // a header length of 2^64 - 1
    let mut other = m.clone();
    other.architecture = oda_consensus::manifest::Architecture::Mlp { inputs: 784, hidden: vec![64], classes: 10 };
    assert!(weights::from_bytes(&other, head).is_err());
    assert!(weights::to_bytes(m, &[0.0; 3]).unwrap_err().to_string().contains("3 parameters"));
}

#[test] // S3: gate and confirm are disjoint, and samples are bound to trainer, round and beacon
fn samples_are_disjoint_and_bound() {
    let b = bundle();
    let (m, id) = (&b.manifest, b.manifest.id());
    let (gate, confirm) = judge::gate_and_confirm(m, id, 1, Beacon([1; 32]));
    assert_eq!((gate.len(), confirm.len()), (m.judging.gate_samples as usize, m.judging.confirm_samples as usize));
    assert!(gate.iter().all(|i| !confirm.contains(i)));
    let shard = |round, beacon, who| judge::shard(m, id, round, Beacon([beacon; 32]), NodeId([who; 32]));
    let one = shard(1, 1, 1);
    assert_eq!(one.len(), m.judging.shard_samples as usize);
    assert!([shard(2, 1, 1), shard(1, 2, 1), shard(1, 1, 2)].iter().all(|other| *other != one));
}

#[test] // each mistake in a model file names the file, the place and what is needed
fn model_file_errors_say_what_is_wrong() {
    let text = std::fs::read_to_string(shipped()).unwrap();
    let dir = shipped().parent().unwrap().canonicalize().unwrap();
    let here = tempfile::tempdir().unwrap();
    let error = |from: &str, to: &str| {
        assert!(text.contains(from), "the shipped file has no `{from}`");
        let changed = text.replace(from, to).replace("\"../data", &format!("\"{}/../data", dir.display()));
        let path = here.path().join("m.toml");
        std::fs::write(&path, changed).unwrap();
        model_file::load(&path).err().map_or_else(|| panic!("`{to}` was accepted"), |e| e.to_string())
    };
    let missing = error("train-images", "no-such-images");
    assert!(missing.contains("train: cannot read") && missing.contains("no-such-images"), "{missing}");
    let few = error("samples = 8000", "samples = 80000");
    assert!(few.contains("8000 samples, 80000 are needed"), "{few}");
    let gate = error("gate_samples = 3000", "gate_samples = 5000");
    assert!(gate.contains("8000 evaluation samples") && gate.contains("6000"), "{gate}");
    assert!(error("batch = 64", "batch = 64\nbatsh = 1").contains("batsh"));
    assert!(error("inputs = 784", "inputs = 783").contains("784 pixels"));
    assert!(error("max_delta_bytes = 65536", "max_delta_bytes = 100").contains("max_delta_bytes must be at least"));
    // parameters() of these widths leaves 64 bits: refused, not overflowed (K3)
    let wide = error("hidden = [128]", "hidden = [4294967295, 4294967295, 4294967295]");
    assert!(wide.contains("layer widths"), "{wide}");
}

#[test] // S2: the yardstick itself, against a sum worked out by hand
fn reference_matches_a_known_loss() {
    let b = bundle();
    let d = data(&b);
    let zeros = vec![0.0; usize::try_from(b.manifest.parameters()).unwrap()];
    let measured = Reference.measure(&b.manifest, &zeros, &d.test, &[0, 1, 2]).unwrap();
    assert_eq!(measured.losses_unat, vec![2_302_585; 3]); // ln 10
    assert!(Reference.measure(&b.manifest, &zeros, &d.test, &[9_999_999]).is_err());
    let nan = vec![f32::NAN; zeros.len()];
    let worst = oda_consensus::score::MAX_LOSS_UNAT;
    assert_eq!(Reference.measure(&b.manifest, &nan, &d.test, &[0]).unwrap().losses_unat, vec![worst]);
}

#[cfg(feature = "torch")]
mod torch {
    use super::*;
    use oda_consensus::manifest::Manifest;
    use oda_consensus::score::{Measurement, Paired, Refusal, Verdict, proven_gain_unat, verdict};
    use oda_ml::cheat::{self, Cheat};
    use oda_ml::judge::{Round, Submitted};
    use oda_ml::torch::{Torch, set_threads, train};
    use oda_ml::{MlError, delta};
    use std::sync::Mutex;
    use std::sync::atomic::AtomicBool;

    /// The thread count belongs to the process: tests that set it or compare bits take turns.
    static THREADS: Mutex<()> = Mutex::new(());

    const BEACON: Beacon = Beacon([5; 32]);

    fn who(n: u8) -> NodeId {
        NodeId([n; 32])
    }

    /// Work on the shard of `owner`, as its dense change.
    fn work(m: &Manifest, d: &ModelData, head: &[f32], owner: NodeId, steps: u32) -> Vec<f32> {
        let shard = judge::shard(m, m.id(), 1, BEACON, owner);
        train(m, head, &d.train, &shard, steps, [3; 32], &AtomicBool::new(false), &mut |_| {}).unwrap()
    }

    fn round<'a>(m: &'a Manifest, parent: &'a [u8], data: &'a ModelData) -> Round<'a> {
        Round { manifest: m, model: m.id(), round: 1, start: BEACON, sealed: BEACON.next(b"seal"), parent, data }
    }

    #[test] // S2: the same integers at 1 and 2 threads, in pieces of any size, and from plain Rust
    fn losses_agree_up_to_rounding_edges() {
        let _turn = THREADS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let b = bundle();
        let (m, d) = (&b.manifest, data(&b));
        let start = weights::from_bytes(m, b.blobs.last().unwrap()).unwrap();
        let trained: Vec<f32> =
            work(m, &d, &start, who(1), 40).iter().zip(&start).map(|(change, w)| w + change).collect();
        for head in [&start, &trained] {
            let all: Vec<u32> = (0..1500).collect();
            set_threads(1);
            let one = Torch.measure(m, head, &d.eval, &all).unwrap();
            let agree = |other: &[i64], what: &str| {
                let off: Vec<i64> =
                    one.losses_unat.iter().zip(other).map(|(a, b)| (a - b).abs()).filter(|d| *d > 0).collect();
                assert_eq!(other.len(), all.len(), "{what}");
                // at most the rounding edges that `Paired::agrees` allows, one unit each
                assert!(off.len() <= 3 && off.iter().all(|d| *d == 1), "{what}: {off:?}");
                let zero = vec![0; all.len()];
                let (a, b) = (Paired::of(&zero, &one.losses_unat).unwrap(), Paired::of(&zero, other).unwrap());
                assert!(a.agrees(&b), "{what}");
            };
            for size in [1, 7, 64, 1000] {
                let pieces = all.chunks(size).map(|part| Torch.measure(m, head, &d.eval, part).unwrap());
                let (mut losses, mut correct) = (Vec::new(), 0);
                for piece in pieces {
                    losses.extend(piece.losses_unat);
                    correct += piece.correct;
                }
                agree(&losses, &format!("pieces of {size}"));
                assert_eq!(correct, one.correct);
            }
            set_threads(2);
            agree(&Torch.measure(m, head, &d.eval, &all).unwrap().losses_unat, "2 threads");
            set_threads(1);
            let plain = Reference.measure(m, head, &d.eval, &all).unwrap();
            agree(&plain.losses_unat, "plain Rust");
            assert_eq!(plain.correct, one.correct);
        }
    }

    #[test] // S4, S6, S7: two honest claims among every cheat; each cheat is refused for its own reason
    fn honest_work_is_adopted_and_every_cheat_refused() {
        let _turn = THREADS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let b = bundle();
        let (m, d) = (&b.manifest, data(&b));
        let parent = b.blobs.last().unwrap();
        let head = weights::from_bytes(m, parent).unwrap();
        let steps = m.training.inner_steps;
        let sent = |dense: &[f32]| Submitted::Bytes(delta::encode(dense, &m.training));
        let honest = || {
            vec![(who(1), sent(&work(m, &d, &head, who(1), steps))), (who(2), sent(&work(m, &d, &head, who(2), steps)))]
        };
        let malformed = |kind| Submitted::Bytes(cheat::malformed(kind, m).unwrap());
        let poison: Vec<f32> = work(m, &d, &head, who(4), steps).iter().map(|v| -v).collect();
        let mut claims = honest();
        claims.extend([
            (who(3), sent(&cheat::random(head.len(), 0.02, [9; 32]))),
            (who(4), sent(&poison)),
            (who(5), sent(&work(m, &d, &head, who(5), 1))),
            (who(6), sent(&work(m, &d, &head, who(99), steps))), // another's shard
            (who(7), sent(&vec![0.0; head.len()])),              // vacuous
            (who(8), malformed(Cheat::WrongShape)),
            (who(9), malformed(Cheat::NotANumber)),
            (who(10), malformed(Cheat::Oversize)),
            (who(11), Submitted::NotRevealed),
            (who(12), Submitted::Refused(Refusal::NotServed)),
        ]);
        // attack 2: the very bytes of an honest claim under another name
        let Submitted::Bytes(stolen) = &claims[0].1 else { unreachable!() };
        let copy = Submitted::Bytes(stolen.clone());
        claims.push((who(13), copy));

        let r = round(m, parent, &d);
        let result = judge::replay(&Torch, &r, &claims).unwrap();
        let verdicts: Vec<Verdict> = result.measured.iter().map(|x| verdict(&m.judging, x)).collect();
        assert_eq!(verdicts[..2], [Verdict::Accepted; 2]);
        assert_eq!(verdicts[2..7], [Verdict::NotAssignedWork; 5]);
        let refused = [Refusal::WrongShape, Refusal::NotFinite, Refusal::Oversize].map(Verdict::Refused);
        assert_eq!(verdicts[7..10], refused);
        assert_eq!(verdicts[10..12], [Verdict::NotRevealed, Verdict::Refused(Refusal::NotServed)]);
        assert_eq!(verdicts[12], Verdict::NotAssignedWork);

        // an empty change measures as exactly nothing, not as a small something
        let Measurement::Scored(nothing) = &result.measured[6] else { panic!("not scored") };
        for p in [nothing.shard, nothing.gate, nothing.probe] {
            assert_eq!((p.sum_unat, p.sum_sq_unat2), (0, 0));
        }

        let scores = result.head.unwrap();
        assert!(proven_gain_unat(&m.judging, &scores.confirm) > 0);
        assert!(scores.candidate_test.correct > scores.parent_test.correct + 400);
        let bytes = result.candidate.unwrap();
        assert_eq!(BlobRef::of(&bytes), scores.candidate);
        weights::from_bytes(m, &bytes).unwrap();

        // refused claims leave no trace in the head, and a second replay finds the same integers
        let alone = judge::replay(&Torch, &r, &claims[..2]).unwrap();
        assert_eq!(alone.candidate.unwrap(), bytes);
        assert_eq!(judge::replay(&Torch, &r, &claims).unwrap().measured, result.measured);
    }

    #[test] // attack 3: with nobody honest there is no candidate at all
    fn a_round_of_cheats_moves_nothing() {
        let b = bundle();
        let (m, d) = (&b.manifest, data(&b));
        let parent = b.blobs.last().unwrap();
        let random = cheat::random(usize::try_from(m.parameters()).unwrap(), 0.02, [1; 32]);
        let claims = [(who(1), Submitted::Bytes(delta::encode(&random, &m.training)))];
        let result = judge::replay(&Torch, &round(m, parent, &d), &claims).unwrap();
        assert!(result.head.is_none() && result.candidate.is_none());
    }

    #[test]
    fn training_reports_steps_and_stops_when_told() {
        let b = bundle();
        let (m, d) = (&b.manifest, data(&b));
        let head = weights::from_bytes(m, b.blobs.last().unwrap()).unwrap();
        let shard: Vec<u32> = (0..64).collect();
        let stop = AtomicBool::new(false);
        let mut seen = Vec::new();
        let watch = &mut |s: oda_ml::torch::Step| {
            seen.push(s.step);
            stop.store(s.step == 3, std::sync::atomic::Ordering::Relaxed);
        };
        let ended = train(m, &head, &d.train, &shard, 50, [0; 32], &stop, watch);
        assert!(matches!(ended, Err(MlError::Stopped)));
        assert_eq!(seen, [1, 2, 3]);
        let never = &AtomicBool::new(false);
        assert!(train(m, &head, &d.train, &[], 1, [0; 32], never, &mut |_| {}).is_err());
    }
}
