//! The delta format (S7, K2, K3): one encoding for each delta, no panic on any bytes, bits pinned.

use oda_consensus::delta::{
    Chunk, EncodeError, Kept, SparseDelta, chunks, decode, encode, expected_len, magnitude, max_len, nearest_level,
};
use oda_consensus::fuzzing::sample_manifest;
use oda_consensus::manifest::{Judging, Training};
use oda_consensus::score::Refusal;
use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

fn training(chunk: u32, keep_per_chunk: u32) -> Training {
    Training { chunk, keep_per_chunk, ..sample_manifest("delta").training }
}

fn judging() -> Judging {
    Judging { norm_cap_milli: 50_000, max_delta_bytes: 8 << 20, ..sample_manifest("delta").judging }
}

/// Chunks as a trainer makes them: positions anywhere, magnitudes from a small range; now and then zeros.
fn drawn(parameters: usize, training: &Training, seed: u64) -> Vec<Chunk> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (size, keep) = (training.chunk as usize, training.keep_per_chunk as usize);
    let one = |at: usize| {
        let len = size.min(parameters - at);
        let count = keep.min(len);
        let mut places: Vec<usize> = (0..len).collect();
        for i in 0..count {
            let other = i + rng.next_u32() as usize % (len - i);
            places.swap(i, other);
        }
        places.truncate(count);
        let zeros = if rng.next_u32().is_multiple_of(5) { rng.next_u32() as usize % (count + 1) } else { 0 };
        let low = if zeros > 0 { 0 } else { 60 + (rng.next_u32() % 40) as u8 };
        if zeros > 0 {
            // the lowest places are zeros, the others anywhere above
            places = (0..zeros).chain((zeros..len).rev().take(count - zeros)).collect();
        }
        places.sort_unstable();
        let kept = places.iter().enumerate().map(|(i, at)| {
            let bits = rng.next_u32();
            let large = if zeros > 0 { i >= zeros } else { bits & 1 == 1 };
            Kept { at: u16::try_from(*at).unwrap(), negative: bits & 2 == 2, large }
        });
        let kept = kept.collect();
        Chunk { low, high: 100 + (rng.next_u32() % 20) as u8, kept }.tidied()
    };
    (0..parameters).step_by(size).map(one).collect()
}

/// Decodes the bytes if they are a delta, and insists that they are the only ones for it.
fn canonical(bytes: &[u8], parameters: usize, t: &Training) -> bool {
    let read = chunks(bytes, parameters, t);
    let delta = decode(bytes, parameters, t, &judging());
    if let Ok(read) = &read {
        assert_eq!(encode(parameters, t, read).as_deref(), Ok(bytes), "encodes back to other bytes");
        assert!(bytes.len() <= max_len(parameters, t));
    }
    match (&read, &delta) {
        (Ok(_), Ok(_) | Err(Refusal::NormAboveCap)) => {}
        (Err(a), Err(b)) if a == b => {}
        _ => panic!("two opinions: {:?}", delta.err()),
    }
    read.is_ok()
}

#[test] // the documented range and precision, and the table behind it
fn levels_are_an_eighth_of_an_octave() {
    assert_eq!(magnitude(0), 0.0);
    for level in 1..=255u8 {
        let exact = 2f64.powf(f64::from(level) / 8.0 - 24.0);
        assert!((f64::from(magnitude(level)) / exact - 1.0).abs() < 1e-7, "{level}");
        assert_eq!(nearest_level(magnitude(level)), level);
        assert_eq!(nearest_level(-magnitude(level)), level);
    }
    for (value, level) in
        [(f32::NAN, 0), (0.0, 0), (1e-30, 0), (f32::INFINITY, 255), (f32::MAX, 255), (f32::MIN_POSITIVE, 0)]
    {
        assert_eq!(nearest_level(value), level, "{value}");
    }
    let mut worst = 0.0f32;
    for step in 0..20_000 {
        let value = 7e-8 * 1.0011f32.powi(step);
        if value < 230.0 {
            worst = worst.max((magnitude(nearest_level(value)) / value - 1.0).abs());
        }
    }
    assert!((0.04..0.045).contains(&worst), "{worst}");
}

#[test] // S7: each refusal for its own reason
fn refusals() {
    let t = training(64, 8);
    let good = encode(100, &t, &drawn(100, &t, 1)).unwrap();
    let why = |bytes: &[u8]| decode(bytes, 100, &t, &judging()).unwrap_err();
    assert!(decode(&good, 100, &t, &judging()).is_ok());
    assert_eq!(why(&encode(99, &t, &drawn(99, &t, 1)).unwrap()), Refusal::WrongShape);
    for other in [training(64, 9), training(65, 8)] {
        assert_eq!(why(&encode(100, &other, &drawn(100, &other, 1)).unwrap()), Refusal::WrongShape);
    }
    let mut version = good.clone();
    version[0] = 2;
    assert_eq!(why(&version), Refusal::Malformed);
    assert_eq!(why(&[]), Refusal::Malformed);
    assert_eq!(why(&good[..good.len() - 1]), Refusal::Malformed);
    assert_eq!(why(&[good.clone(), vec![0]].concat()), Refusal::Malformed);
    assert_eq!(why(&vec![0; (8 << 20) + 1]), Refusal::Oversize);
    let mut large = drawn(100, &t, 1);
    large.iter_mut().for_each(|c| c.high = 255);
    assert_eq!(why(&encode(100, &t, &large).unwrap()), Refusal::NormAboveCap);
    // a manifest nobody checked
    for bad in [training(0, 0), training(64, 0), training(64, 65), training((1 << 16) + 1, 1)] {
        assert_eq!(decode(&good, 100, &bad, &judging()), Err(Refusal::WrongShape));
        assert_eq!(encode(100, &bad, &[]), Err(EncodeError::Shape));
        assert_eq!(max_len(100, &bad), usize::MAX);
    }
}

#[test] // the shape is known before the first allocation: a header alone claims nothing
fn a_huge_model_with_few_bytes_is_refused_at_once() {
    let t = training(1 << 16, 1 << 16);
    let parameters = u32::MAX as usize;
    let mut bytes = vec![1];
    for n in [u32::MAX, 1 << 16, 1 << 16] {
        bytes.extend_from_slice(&n.to_le_bytes());
    }
    bytes.resize(1 << 16, 0);
    assert_eq!(decode(&bytes, parameters, &t, &judging()), Err(Refusal::Malformed));
}

#[test] // canonical: each rule of the format is enforced when writing, and so when reading
fn chunks_that_break_a_rule_are_not_written() {
    let t = training(16, 3);
    let kept = |at, negative, large| Kept { at, negative, large };
    let good =
        Chunk { low: 80, high: 90, kept: vec![kept(1, false, false), kept(4, true, true), kept(15, false, false)] };
    let problem = |change: &dyn Fn(&mut Chunk)| {
        let mut chunk = good.clone();
        change(&mut chunk);
        match encode(16, &t, &[chunk]) {
            Err(EncodeError::Chunk { index: 0, problem }) => problem,
            other => panic!("{other:?}"),
        }
    };
    assert!(encode(16, &t, std::slice::from_ref(&good)).is_ok());
    assert!(problem(&|c| c.kept.truncate(2)).contains("min(keep_per_chunk"));
    assert!(problem(&|c| c.kept[1].at = 1).contains("ascend"));
    assert!(problem(&|c| c.kept[2].at = 16).contains("ascend"));
    assert!(problem(&|c| c.low = 91).contains("levels"));
    assert!(problem(&|c| c.low = 90).contains("levels"));
    assert!(problem(&|c| c.kept[1].large = false).contains("levels"));
    assert!(problem(&|c| c.kept.iter_mut().for_each(|k| k.large = true)).contains("levels"));
    // a zero at position 1 although position 0 is free, and a negative one
    assert!(problem(&|c| c.low = 0).contains("zeros"));
    let negative_zero =
        Chunk { low: 0, high: 90, kept: vec![kept(0, true, false), kept(4, true, true), kept(15, false, true)] };
    assert!(matches!(encode(16, &t, &[negative_zero]), Err(EncodeError::Chunk { .. })));
    assert_eq!(encode(17, &t, &[good]), Err(EncodeError::Chunks { expected: 2, found: 1 }));
}

#[test] // changing these hashes is another format: deltas under way and decoys of the past would not be read
fn golden_bits() {
    let t = training(256, 20);
    let bytes = encode(3_000, &t, &drawn(3_000, &t, 7)).unwrap();
    assert_eq!(
        blake3::hash(&bytes).to_hex().as_str(),
        "f4a935866271f57c1b1084ccf46cb93794dbae6a974516bc0d453e7544404af3"
    );
    let delta = decode(&bytes, 3_000, &t, &judging()).unwrap();
    let flat: Vec<u8> =
        delta.changes.iter().flat_map(|(at, v)| [at.to_le_bytes(), v.to_bits().to_le_bytes()].concat()).collect();
    assert_eq!(
        blake3::hash(&flat).to_hex().as_str(),
        "a652e01826d08c4a3f4f8adeed2bf7ba93232aff67f9f27d9003fc84baf8977f"
    );
}

#[test] // canonical: no single bit can be changed without being refused or meaning another delta
fn every_flipped_bit_is_refused_or_another_delta() {
    for (parameters, chunk, keep) in [(300, 64, 8), (100, 16, 16), (90, 30, 1), (129, 128, 5), (40, 8, 2)] {
        let t = training(chunk, keep);
        for seed in 0..4 {
            let bytes = encode(parameters, &t, &drawn(parameters, &t, seed)).unwrap();
            let original = decode(&bytes, parameters, &t, &judging()).unwrap();
            assert!(canonical(&bytes, parameters, &t));
            for bit in 0..8 * bytes.len() {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                if canonical(&flipped, parameters, &t) {
                    let other = decode(&flipped, parameters, &t, &judging());
                    assert_ne!(other.as_ref(), Ok(&original), "two encodings of one delta, bit {bit}");
                }
            }
        }
    }
}

#[test] // the goal: at most 1/205 of a dense delta at 64 of 4096
fn ten_million_parameters_are_tiny() {
    let (parameters, t) = (10_000_000, training(4096, 64));
    let bytes = encode(parameters, &t, &drawn(parameters, &t, 3)).unwrap();
    #[allow(clippy::cast_precision_loss)]
    let ratio = |len: usize| (4 * parameters) as f64 / len as f64;
    let (max, expected) = (max_len(parameters, &t), expected_len(parameters, &t));
    println!("{} bytes, ratio {:.1}, at worst {:.1}", bytes.len(), ratio(bytes.len()), ratio(max));
    assert!(ratio(bytes.len()) > 205.0 && ratio(max) > 195.0);
    assert!(bytes.len() <= max && bytes.len().abs_diff(expected) < expected / 100);
}

#[test] // S6: the same integer everywhere, rounded downwards
fn cosines() {
    let delta = |changes: &[(u32, f32)]| SparseDelta { parameters: 100, changes: changes.to_vec() };
    let a = delta(&[(1, 0.3), (5, -0.7), (99, 0.001)]);
    let opposite = delta(&[(1, -0.3), (5, 0.7), (99, -0.001)]);
    let apart = delta(&[(0, 1.0), (2, 1.0), (98, 1.0)]);
    assert_eq!((a.cosine_milli(&a), a.cosine_milli(&opposite), a.cosine_milli(&apart)), (1000, -1000, 0));
    assert_eq!((a.cosine_milli(&delta(&[])), delta(&[]).cosine_milli(&a)), (0, 0));
    // 3 / 5 within rounding of 600, and a third: floor(-333.3) is -334
    let (x, third) = (delta(&[(0, 1.0)]), delta(&[(0, -1.0), (1, 2.0), (2, 2.0)]));
    assert_eq!(x.cosine_milli(&third), -334);
    assert_eq!(x.cosine_milli(&delta(&[(0, 1.0), (1, 2.0), (2, 2.0)])), 333);
    for strange in [f32::NAN, f32::INFINITY, f32::MAX, f32::MIN_POSITIVE, 1e-45] {
        let s = delta(&[(0, strange)]);
        assert!((-1000..=1000).contains(&s.cosine_milli(&x)));
    }
    assert_eq!(delta(&[(0, 1e-45)]).cosine_milli(&x), 1000);
}

proptest! {
    #[test]
    fn round_trip(parameters in 1usize..2_000, chunk in 1u32..300, keep in 1u32..300, seed: u64) {
        let t = training(chunk, keep.min(chunk));
        let given = drawn(parameters, &t, seed);
        let bytes = encode(parameters, &t, &given).unwrap();
        prop_assert!(bytes.len() <= max_len(parameters, &t));
        prop_assert_eq!(chunks(&bytes, parameters, &t).unwrap(), given.clone());
        let delta = decode(&bytes, parameters, &t, &judging()).unwrap();
        prop_assert!(delta.changes.is_sorted_by(|a, b| a.0 < b.0));
        let flat = delta.applied(&vec![0.0; parameters], 1.0);
        for (chunk, flat) in given.iter().zip(flat.chunks(t.chunk as usize)) {
            for kept in &chunk.kept {
                prop_assert_eq!(flat[usize::from(kept.at)], chunk.value(*kept));
            }
        }
        prop_assert_eq!(delta.cosine_milli(&delta), if delta.changes.is_empty() { 0 } else { 1000 });
    }

    #[test] // K2
    fn changed_bytes_are_refused_or_canonical(
        parameters in 1usize..500, chunk in 1u32..100, keep in 1u32..100, seed: u64,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in 0usize..6, tail in proptest::collection::vec(any::<u8>(), 0..4),
    ) {
        let t = training(chunk, keep.min(chunk));
        let mut bytes = encode(parameters, &t, &drawn(parameters, &t, seed)).unwrap();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(bytes.len().saturating_sub(cut));
        bytes.extend(tail);
        canonical(&bytes, parameters, &t);
    }

    #[test] // K3: behind a true header too
    fn garbage_never_panics(
        parameters in 1usize..500, chunk in 1u32..70, keep in 1u32..70,
        body in proptest::collection::vec(any::<u8>(), 0..400),
    ) {
        let t = training(chunk, keep.min(chunk));
        canonical(&body, parameters, &t);
        let mut bytes = encode(parameters, &t, &drawn(parameters, &t, 1)).unwrap();
        let fitting = bytes.len();
        bytes.truncate(13);
        bytes.extend(body);
        canonical(&bytes, parameters, &t);
        bytes.resize(fitting, 0);
        canonical(&bytes, parameters, &t);
    }
}
