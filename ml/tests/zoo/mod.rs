//! A small model of each architecture, with data made up on the spot: the same in every process.

#![allow(dead_code)]

use oda_consensus::fuzzing::sample_manifest;
use oda_consensus::manifest::{Architecture, Manifest};
use oda_ml::data::{byte_rows, real_rows, text};
use oda_ml::{Dataset, weights};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore as _, SeedableRng as _};

/// Rows and columns of the images.
pub const SIDE: u32 = 14;
/// Samples of each data set.
pub const SAMPLES: u32 = 1500;
const PIXELS: u32 = SIDE * SIDE;
const CLASSES: u32 = 10;

pub struct Model {
    pub name: &'static str,
    pub manifest: Manifest,
    pub data: Dataset,
}

impl Model {
    pub fn head(&self) -> Vec<f32> {
        weights::initial(&self.manifest, [1; 32])
    }

    pub fn indices(&self) -> Vec<u32> {
        (0..SAMPLES).collect()
    }
}

pub fn manifest(architecture: Architecture) -> Manifest {
    let mut out = sample_manifest("zoo");
    architecture.check().unwrap();
    out.architecture = architecture;
    out.training.batch = 32;
    out.training.lr_micro = 3000;
    out
}

pub fn linear() -> Model {
    model("linear", Architecture::Linear { inputs: PIXELS, classes: CLASSES }, images())
}

pub fn mlp() -> Model {
    model("mlp", Architecture::Mlp { inputs: PIXELS, hidden: vec![64, 32], classes: CLASSES }, images())
}

/// The same rows as numbers instead of bytes.
pub fn table() -> Model {
    let (pixels, classes) = rows();
    let numbers: Vec<f32> = pixels.iter().map(|p| f32::from(*p) / 100.0 - 1.0).collect();
    let blob = real_rows(PIXELS as usize, &numbers, &classes).unwrap();
    model("table", Architecture::Mlp { inputs: PIXELS, hidden: vec![48], classes: CLASSES }, blob)
}

pub fn cnn() -> Model {
    let (filters, hidden) = (vec![8, 16], 32);
    let shape = Architecture::Cnn { channels: 1, height: SIDE, width: SIDE, filters, hidden, classes: CLASSES };
    model("cnn", shape, images())
}

pub fn transformer() -> Model {
    let shape = Architecture::Transformer { context: 32, width: 64, layers: 2, heads: 4 };
    model("transformer", shape, text(&prose(32 * SAMPLES as usize + 1)).unwrap())
}

pub fn all() -> [Model; 5] {
    [linear(), mlp(), table(), cnn(), transformer()]
}

pub fn model(name: &'static str, architecture: Architecture, blob: Vec<u8>) -> Model {
    let manifest = manifest(architecture);
    let data = Dataset::from_bytes(blob, manifest.architecture.sample(), SAMPLES).unwrap();
    Model { name, manifest, data }
}

fn images() -> Vec<u8> {
    let (pixels, classes) = rows();
    byte_rows(PIXELS as usize, &pixels, &classes).unwrap()
}

/// A picture for each class, with noise; some classes look alike.
fn rows() -> (Vec<u8>, Vec<u8>) {
    let mut rng = ChaCha20Rng::from_seed([3; 32]);
    let (mut pixels, mut classes) = (Vec::new(), Vec::new());
    for _ in 0..SAMPLES {
        let class = rng.next_u32() % CLASSES;
        for at in 0..PIXELS {
            let (row, column) = (at / SIDE, at % SIDE);
            let lit = (row * (1 + class % 3) + column * (1 + class / 3)) % 7 < 3;
            let noise = rng.next_u32() % 180;
            pixels.push(u8::try_from(if lit { 75 + noise } else { noise }).unwrap());
        }
        classes.push(u8::try_from(class).unwrap());
    }
    (pixels, classes)
}

/// Words in an order in which each depends on the one before.
fn prose(len: usize) -> Vec<u8> {
    const WORDS: [&str; 12] =
        ["the", "sea", "was", "calm", "and", "a", "gull", "cried", "over", "grey", "stones", "again"];
    let mut rng = ChaCha20Rng::from_seed([4; 32]);
    let (mut out, mut word) = (Vec::with_capacity(len + 8), 0usize);
    while out.len() < len {
        out.extend_from_slice(WORDS[word].as_bytes());
        out.extend_from_slice(if rng.next_u32() % 9 == 0 { b".\n" } else { b" " });
        word = (word * 5 + 1 + (rng.next_u32() % 4) as usize) % WORDS.len();
    }
    out.truncate(len);
    out
}

/// How many samples differ at all; fails where two honest validators would not agree (S2).
pub fn edges(one: &[i64], other: &[i64], what: &str) -> usize {
    assert_eq!(one.len(), other.len(), "{what}");
    let off: Vec<u64> = one.iter().zip(other).map(|(a, b)| a.abs_diff(*b)).filter(|d| *d > 0).collect();
    // at most the rounding edges that `Paired::agrees` allows, one unit each
    assert!(off.len() <= 2 + one.len() / 1000 && off.iter().all(|d| *d == 1), "{what}: {off:?}");
    off.len()
}
