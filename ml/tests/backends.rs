//! S2: every backend measures the same integers, whatever the threads and pieces; and training lowers the loss.

#[cfg(feature = "torch")]
mod oracle;
mod zoo;

use oda_consensus::manifest::Objective;
use oda_consensus::score::MAX_LOSS_UNAT;
use oda_ml::reference::Reference;
use oda_ml::{Backend, Inner, MlError, Step, Work};
use std::sync::atomic::{AtomicBool, Ordering};
use zoo::Model;

static GO: AtomicBool = AtomicBool::new(false);

fn mean_unat(losses: &[i64]) -> i64 {
    losses.iter().sum::<i64>() / i64::try_from(losses.len()).unwrap()
}

fn work<'a>(model: &'a Model, head: &'a [f32], indices: &'a [u32], steps: u32) -> Work<'a> {
    Work { manifest: &model.manifest, head, data: &model.data, indices, steps, seed: [5; 32] }
}

/// The head after some steps on the first samples.
fn trained(backend: &dyn Backend, model: &Model, steps: u32) -> Vec<f32> {
    let (head, indices) = (model.head(), model.indices());
    let mut inner = Inner::new(head.len());
    let work = work(model, &head, &indices[..256], steps);
    let change = backend.train(&work, &mut inner, &GO, &mut |_| {}).unwrap();
    assert_eq!(inner.steps(), u64::from(steps));
    head.iter().zip(&change).map(|(w, c)| w + c).collect()
}

/// Training must help on its own samples, well beyond noise.
fn assert_learns(backend: &dyn Backend, model: &Model) {
    let (head, indices) = (model.head(), model.indices());
    let after = trained(backend, model, 60);
    let loss =
        |w: &[f32]| mean_unat(&backend.measure(&model.manifest, w, &model.data, &indices[..256]).unwrap().losses_unat);
    let (before, after) = (loss(&head), loss(&after));
    assert!(after < before * 3 / 4, "{}: {before} to {after}", model.name);
}

#[test]
fn reference_learns() {
    for model in [zoo::linear(), zoo::mlp(), zoo::table()] {
        assert_learns(&Reference, &model);
    }
}

#[test] // simulation: one seed, one result
fn reference_repeats_bit_for_bit() {
    let model = zoo::mlp();
    assert_eq!(trained(&Reference, &model, 5), trained(&Reference, &model, 5));
}

#[test]
fn reference_names_what_it_cannot_do() {
    for model in [zoo::cnn(), zoo::transformer()] {
        let (head, indices) = (model.head(), model.indices());
        let error = Reference.measure(&model.manifest, &head, &model.data, &indices).unwrap_err().to_string();
        assert!(error.contains("linear and mlp only"), "{error}");
        let mut inner = Inner::new(head.len());
        assert!(Reference.train(&work(&model, &head, &indices, 1), &mut inner, &GO, &mut |_| {}).is_err());
    }
}

#[test] // S2: the yardstick against sums worked out by hand
fn known_losses() {
    let model = zoo::mlp();
    let m = &model.manifest;
    let zeros = vec![0.0; model.head().len()];
    let measured = Reference.measure(m, &zeros, &model.data, &[0, 1, 2]).unwrap();
    assert_eq!(measured.losses_unat, [2_302_585; 3]); // ln 10
    let nan = vec![f32::NAN; zeros.len()];
    assert_eq!(Reference.measure(m, &nan, &model.data, &[0]).unwrap().losses_unat, [MAX_LOSS_UNAT]);
    assert!(Reference.measure(m, &zeros, &model.data, &[zoo::SAMPLES]).is_err());
    assert!(Reference.measure(m, &zeros[1..], &model.data, &[0]).unwrap_err().to_string().contains("parameters"));
    assert!(Reference.measure(m, &zeros, &zoo::transformer().data, &[0]).is_err());
    assert!(Reference.measure(m, &zeros, &model.data, &[]).unwrap().losses_unat.is_empty());
}

/// The complexity term is in every loss, and in the gradient.
fn assert_l2_counts(backend: &dyn Backend, mut model: Model) {
    let (head, indices) = (model.head(), model.indices());
    let measure = |model: &Model, w: &[f32]| backend.measure(&model.manifest, w, &model.data, &[0, 1, 2]).unwrap();
    let plain = measure(&model, &head);
    let squares: f64 = head.iter().map(|w| f64::from(*w) * f64::from(*w)).sum();
    model.manifest.objective = Objective::CrossEntropyL2 { l2_nano: 5_000_000 };
    #[allow(clippy::cast_possible_truncation)]
    let term = (5_000.0 * squares).round() as i64;
    let priced = measure(&model, &head);
    assert!(term > 1000, "{}: nothing to test", model.name);
    assert_eq!(priced.losses_unat, plain.losses_unat.iter().map(|l| l + term).collect::<Vec<_>>(), "{}", model.name);
    assert_eq!(priced.correct, plain.correct);

    // where complexity is all that counts, training shrinks the weights
    model.manifest.objective = Objective::CrossEntropyL2 { l2_nano: 100_000_000_000 };
    assert_eq!(measure(&model, &head).losses_unat, [MAX_LOSS_UNAT; 3]);
    let mut reported = Vec::new();
    let mut inner = Inner::new(head.len());
    let work = work(&model, &head, &indices[..64], 20);
    let change = backend.train(&work, &mut inner, &GO, &mut |s: Step| reported.push(s.loss)).unwrap();
    let after: f64 = head.iter().zip(&change).map(|(w, c)| f64::from(w + c).powi(2)).sum();
    assert!(after < squares * 0.9, "{}: {squares} to {after}", model.name);
    assert!((reported[0] / (100.0 * squares) - 1.0).abs() < 0.05, "{}", model.name);
}

#[test]
fn complexity_counts_in_reference() {
    assert_l2_counts(&Reference, zoo::mlp());
}

/// Reports, stops, and keeps the optimiser's memory as it was unless all steps were done.
fn assert_stops(backend: &dyn Backend, model: &Model) {
    let (head, indices) = (model.head(), model.indices());
    let fresh = Inner::new(head.len());
    let mut inner = fresh.clone();
    let stop = AtomicBool::new(false);
    let mut seen = Vec::new();
    let ended = backend.train(&work(model, &head, &indices, 50), &mut inner, &stop, &mut |s| {
        seen.push(s.step);
        stop.store(s.step == 3, Ordering::Relaxed);
    });
    assert!(matches!(ended, Err(MlError::Stopped)));
    assert_eq!((seen, &inner), (vec![1, 2, 3], &fresh));

    let nan = vec![f32::NAN; head.len()];
    let ended = backend.train(&work(model, &nan, &indices, 5), &mut inner, &GO, &mut |_| {});
    assert!(matches!(ended, Err(MlError::Diverged(1))), "{ended:?}");
    assert_eq!(inner, fresh);
    // the last step's weights are checked too, although no loss follows them
    let mut absurd = work(model, &head, &indices, 1);
    let mut manifest = model.manifest.clone();
    manifest.training.lr_micro = u32::MAX;
    manifest.training.weight_decay_micro = u32::MAX;
    absurd.manifest = &manifest;
    let ended = (1..12).map(|steps| backend.train(&Work { steps, ..absurd }, &mut inner, &GO, &mut |_| {}));
    let ended: Vec<bool> = ended.map(|r| r.is_ok_and(|change| change.iter().any(|v| !v.is_finite()))).collect();
    assert!(!ended.contains(&true), "{ended:?}");
    inner = fresh.clone();
    assert!(backend.train(&work(model, &head, &[], 1), &mut inner, &GO, &mut |_| {}).is_err());
    assert!(backend.train(&work(model, &head, &indices, 1), &mut Inner::new(3), &GO, &mut |_| {}).is_err());
    assert!(backend.train(&work(model, &head, &[zoo::SAMPLES], 1), &mut inner, &GO, &mut |_| {}).is_err());

    // kept state is used: the next round's steps differ from those of a beginner
    backend.train(&work(model, &head, &indices, 5), &mut inner, &GO, &mut |_| {}).unwrap();
    let mut kept = Inner::from_bytes(&inner.to_bytes(), head.len()).unwrap();
    let (next, begun) = (
        backend.train(&work(model, &head, &indices, 5), &mut kept, &GO, &mut |_| {}).unwrap(),
        backend.train(&work(model, &head, &indices, 5), &mut fresh.clone(), &GO, &mut |_| {}).unwrap(),
    );
    assert_eq!(kept.steps(), 10);
    assert_ne!(next, begun);
}

#[test]
fn reference_stops_when_told() {
    assert_stops(&Reference, &zoo::linear());
}

#[cfg(feature = "torch")]
mod torch {
    use super::*;
    use oda_consensus::manifest::Architecture;
    use oda_ml::torch::{Device, Torch, set_threads};
    use std::sync::{Mutex, MutexGuard, PoisonError};

    const TORCH: Torch = Torch { device: Device::Cpu };

    /// The thread count belongs to the process: tests that set it or compare bits take turns.
    static THREADS: Mutex<()> = Mutex::new(());

    fn turn() -> MutexGuard<'static, ()> {
        let turn = THREADS.lock().unwrap_or_else(PoisonError::into_inner);
        set_threads(1);
        turn
    }

    #[test]
    fn every_architecture_learns() {
        let _turn = turn();
        for model in zoo::all() {
            assert_learns(&TORCH, &model);
        }
    }

    #[test] // S2: the same integers at 1 and 2 threads and in pieces of any size
    fn losses_do_not_depend_on_threads_or_pieces() {
        let _turn = turn();
        for model in zoo::all() {
            let all = model.indices();
            for head in [model.head(), trained(&TORCH, &model, 40)] {
                let measure = |part: &[u32]| TORCH.measure(&model.manifest, &head, &model.data, part).unwrap();
                let one = measure(&all);
                assert_eq!(one.losses_unat.len(), all.len());
                assert!(one.correct as usize <= all.len());
                for size in [1, 7, 64] {
                    let (mut losses, mut correct) = (Vec::new(), 0);
                    for piece in all.chunks(size).map(measure) {
                        losses.extend(piece.losses_unat);
                        correct += piece.correct;
                    }
                    let off = zoo::edges(&one.losses_unat, &losses, &format!("{} by {size}", model.name));
                    eprintln!("{}: {off} of {} differ in pieces of {size}", model.name, all.len());
                    if model.name != "transformer" {
                        assert_eq!(correct, one.correct, "{}", model.name);
                    }
                }
                set_threads(2);
                let off = zoo::edges(&one.losses_unat, &measure(&all).losses_unat, model.name);
                eprintln!("{}: {off} of {} differ with 2 threads", model.name, all.len());
                set_threads(1);
            }
        }
    }

    #[test] // S2: plain Rust finds the same integers, and its training takes the same steps
    fn agrees_with_the_reference() {
        let _turn = turn();
        for mut model in [zoo::linear(), zoo::mlp(), zoo::table()] {
            model.manifest.training.weight_decay_micro = 10_000;
            let (all, start) = (model.indices(), model.head());
            let (ours, plain) = (trained(&TORCH, &model, 40), trained(&Reference, &model, 40));
            for head in [&start, &ours] {
                let fast = TORCH.measure(&model.manifest, head, &model.data, &all).unwrap();
                let slow = Reference.measure(&model.manifest, head, &model.data, &all).unwrap();
                let off = zoo::edges(&fast.losses_unat, &slow.losses_unat, model.name);
                eprintln!("{}: {off} of {} differ in plain Rust", model.name, all.len());
                assert_eq!(fast.correct, slow.correct, "{}", model.name);
            }
            let distance =
                |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt();
            let (apart, moved) = (distance(&ours, &plain), distance(&ours, &start));
            assert!(apart < moved / 1000.0, "{}: {apart} apart after moving {moved}", model.name);
        }
    }

    /// Weights that are nowhere zero or one, so that none can be left out unnoticed.
    fn stirred(model: &Model) -> Vec<f32> {
        model.head().iter().enumerate().map(|(i, w)| w + ((i * 37 % 101) as f32 / 50.0 - 1.0) * 0.1).collect()
    }

    #[test] // the arithmetic is what the layers' names promise, step by step in plain Rust
    fn networks_match_their_definitions() {
        let _turn = turn();
        // more than a block of queries, so that their seams are seen
        let shape = Architecture::Transformer { context: 150, width: 12, layers: 2, heads: 3 };
        let text: Vec<u8> = (0..150 * zoo::SAMPLES as usize + 1).map(|i| (i * i % 251) as u8).collect();
        let long = zoo::model("long transformer", shape, oda_ml::data::text(&text).unwrap());
        let indices: Vec<u32> = (0..5).collect();
        for model in [zoo::cnn(), zoo::transformer(), long] {
            let head = stirred(&model);
            let measured = TORCH.measure(&model.manifest, &head, &model.data, &indices).unwrap();
            let batch = model.data.batch(&indices).unwrap();
            let defined = oracle::losses_unat(&model.manifest.architecture, &head, &batch);
            zoo::edges(&measured.losses_unat, &defined, model.name);
        }
    }

    #[test]
    fn complexity_counts() {
        let _turn = turn();
        for model in zoo::all() {
            assert_l2_counts(&TORCH, model);
        }
    }

    #[test]
    fn stops_when_told() {
        let _turn = turn();
        for model in [zoo::linear(), zoo::transformer()] {
            assert_stops(&TORCH, &model);
        }
    }

    #[test]
    fn text_is_right_by_the_share_of_its_bytes() {
        let _turn = turn();
        let model = zoo::transformer();
        let head = trained(&TORCH, &model, 120);
        let all = TORCH.measure(&model.manifest, &head, &model.data, &model.indices()).unwrap();
        let share = f64::from(all.correct) / f64::from(zoo::SAMPLES);
        assert!((0.3..0.95).contains(&share), "{share}");
    }

    #[test]
    fn devices_have_names() {
        for (name, device) in [("auto", Device::Auto), ("cpu", Device::Cpu), ("cuda", Device::Cuda)] {
            assert_eq!(name.parse::<Device>().unwrap(), device);
        }
        assert!("gpu".parse::<Device>().unwrap_err().to_string().contains("auto, cpu or cuda"));
    }
}
