//! Trainers of a round, honest and not, and what each hands in.
//!
//! A strategy is tried as a what-if: the head is moved by honest claims alone, and each strategy joins the same
//! honest claims of the same round once. So strategies are compared on the same heads, shards and samples, and a
//! claim that stands in many such rounds is measured once ([`Remember`]). Everything else is the real thing: shards
//! and samples drawn by the judge, deltas compressed and decoded, [`judge::replay`] and [`Outcome::derive`].

use oda_consensus::delta::{self, SparseDelta};
use oda_consensus::ids::{Beacon, BlobRef, ClaimId, ModelId, NodeId};
use oda_consensus::manifest::Manifest;
use oda_consensus::outcome::Outcome;
use oda_ml::compress::compress;
use oda_ml::judge::{self, Claim, Round, Submitted};
use oda_ml::torch::Torch;
use oda_ml::{Backend, Dataset, Inner, Measured, MlError, ModelData, Step, Work, cheat, data, model_file, weights};
use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

/// Short for what fails.
pub type Fallible<T> = Result<T, MlError>;

/// Where the whole of Fashion-MNIST lies once Debian's package `dataset-fashion-mnist` is installed.
const FULL_SET: &str = "/usr/share/datasets/fashion-mnist";

/// A model with its data.
pub struct World {
    /// Its manifest, test split cut short: the judge's report on it is measured here apart, and once.
    pub manifest: Manifest,
    /// Its name.
    pub model: ModelId,
    /// Its data.
    pub data: Arc<ModelData>,
    /// Its first head.
    pub head: Vec<f32>,
    fresh: Arc<Option<Dataset>>,
}

impl World {
    /// Reads `models/NAME.toml`, with figures of the manifest changed by `change`.
    pub fn load(root: &Path, name: &str, change: impl Fn(&mut Manifest)) -> Fallible<Self> {
        let bundle = model_file::load(&root.join(format!("models/{name}.toml")), None)?;
        let data = bundle.data()?;
        let mut manifest = bundle.manifest;
        change(&mut manifest);
        let shape = manifest.architecture.sample();
        let fresh = if name.starts_with("fashion") { full_test_set(shape) } else { None };
        let seed = Beacon([0; 32]).seed("results, initial head", &[name.as_bytes()]);
        let head = weights::initial(&manifest, seed);
        manifest.data.test.samples = 32;
        Ok(Self { model: manifest.id(), manifest, data: Arc::new(data), head, fresh: Arc::new(fresh) })
    }

    /// The same with another manifest.
    pub fn with(other: &Self, manifest: Manifest) -> Self {
        let (data, head, fresh) = (Arc::clone(&other.data), other.head.clone(), Arc::clone(&other.fresh));
        Self { model: manifest.id(), manifest, data, head, fresh }
    }

    /// Samples that nobody trained or judged on: all 10,000 test images if they are there, else the test split.
    pub fn fresh(&self) -> &Dataset {
        self.fresh.as_ref().as_ref().unwrap_or(&self.data.test)
    }

    /// Steps of a whole local run.
    pub fn steps(&self) -> u32 {
        self.manifest.training.inner_steps
    }

    /// What is applied of a dense change once it has been sent.
    pub fn sent(&self, dense: &[f32]) -> Fallible<SparseDelta> {
        let m = &self.manifest;
        let bytes = compress(dense, &m.training);
        delta::decode(&bytes, dense.len(), &m.training, &m.judging)
            .map_err(|why| MlError::Data(format!("the own delta would be refused: {why:?}")))
    }
}

/// All 10,000 test images, of which the model's own test split is a part.
fn full_test_set(shape: oda_consensus::architecture::SampleShape) -> Option<Dataset> {
    let read = |name: &str, skip: usize| {
        let file = std::fs::File::open(PathBuf::from(FULL_SET).join(name)).ok()?;
        let mut bytes = Vec::new();
        flate2::read::GzDecoder::new(file).take(64 << 20).read_to_end(&mut bytes).ok()?;
        Some(bytes.split_off(skip.min(bytes.len())))
    };
    let (images, labels) = (read("t10k-images-idx3-ubyte.gz", 16)?, read("t10k-labels-idx1-ubyte.gz", 8)?);
    let n = u32::try_from(labels.len()).ok()?;
    Dataset::from_bytes(data::byte_rows(784, &images, &labels).ok()?, shape, n).ok()
}

/// Measures each pair of weights and samples once.
#[derive(Default)]
pub struct Remember {
    torch: Torch,
    known: Mutex<BTreeMap<[u8; 32], Measured>>,
}

impl Remember {
    /// Forgets everything, when a head is done with.
    pub fn forget(&self) {
        if let Ok(mut known) = self.known.lock() {
            known.clear();
        }
    }
}

impl Backend for Remember {
    fn measure(&self, m: &Manifest, weights: &[f32], data: &Dataset, indices: &[u32]) -> Result<Measured, MlError> {
        let mut key = blake3::Hasher::new();
        key.update(&std::ptr::from_ref(data).addr().to_le_bytes());
        key.update(&weights.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>());
        key.update(&indices.iter().flat_map(|i| i.to_le_bytes()).collect::<Vec<u8>>());
        let key = *key.finalize().as_bytes();
        let poisoned = || MlError::Backend("another thread panicked".into());
        if let Some(found) = self.known.lock().map_err(|_| poisoned())?.get(&key) {
            return Ok(found.clone());
        }
        let found = self.torch.measure(m, weights, data, indices)?;
        self.known.lock().map_err(|_| poisoned())?.insert(key, found.clone());
        Ok(found)
    }

    fn train(
        &self,
        work: &Work<'_>,
        inner: &mut Inner,
        stop: &AtomicBool,
        watch: &mut dyn FnMut(Step),
    ) -> Result<Vec<f32>, MlError> {
        self.torch.train(work, inner, stop, watch)
    }
}

/// A trainer's name and the memory of its optimiser.
#[derive(Clone)]
pub struct Trainer {
    /// Name.
    pub id: NodeId,
    /// AdamW's memory, kept from round to round.
    pub inner: Inner,
}

impl Trainer {
    /// Trainer number so-and-so of a run.
    pub fn new(world: &World, seed: u64, number: u64) -> Self {
        let id = NodeId(Beacon([7; 32]).seed("trainer", &[&seed.to_le_bytes(), &number.to_le_bytes()]));
        Self { id, inner: Inner::new(world.head.len()) }
    }
}

/// A round of a model: where its claims are made and judged.
pub struct Place<'a> {
    /// The model.
    pub world: &'a World,
    /// Trains and measures.
    pub backend: &'a Remember,
    /// Round, from 1.
    pub round: u64,
    /// Beacon of the shards.
    pub start: Beacon,
    /// The head.
    pub head: Vec<f32>,
}

/// How to train.
#[derive(Clone, Copy)]
pub struct Recipe<'a> {
    /// Weights to begin with.
    pub from: &'a [f32],
    /// Whose data.
    pub data: &'a Dataset,
    /// Which samples.
    pub indices: &'a [u32],
    /// Steps.
    pub steps: u32,
    /// Learning rate in thousandths of the model's.
    pub rate_milli: u32,
}

impl<'a> Place<'a> {
    /// The first round of a run.
    pub fn first(world: &'a World, backend: &'a Remember, seed: u64) -> Self {
        let start = Beacon(Beacon([1; 32]).seed("results", &[&seed.to_le_bytes()]));
        Self { world, backend, round: 1, start, head: world.head.clone() }
    }

    /// Beacon of gate and confirm sample.
    pub fn sealed(&self) -> Beacon {
        self.start.next(b"seal")
    }

    /// The samples assigned to a trainer.
    pub fn shard(&self, trainer: NodeId) -> Vec<u32> {
        judge::shard(&self.world.manifest, self.world.model, self.round, self.start, trainer)
    }

    /// The gate sample.
    pub fn gate(&self) -> Vec<u32> {
        judge::gate_and_confirm(&self.world.manifest, self.world.model, self.round, self.sealed()).0
    }

    /// Trains; batches follow from the round and the trainer's name.
    pub fn train(&self, how: &Recipe<'_>, id: NodeId, inner: &mut Inner) -> Fallible<Vec<f32>> {
        let mut manifest = self.world.manifest.clone();
        manifest.training.lr_micro = manifest.training.lr_micro * how.rate_milli / 1000;
        let seed = self.start.seed("batches", &[&id.0]);
        let Recipe { from: head, data, indices, steps, .. } = *how;
        let work = Work { manifest: &manifest, head, data, indices, steps, seed };
        self.backend.train(&work, inner, &AtomicBool::new(false), &mut |_| {})
    }

    /// A whole honest run.
    pub fn honest(&self, trainer: &mut Trainer) -> Fallible<Vec<f32>> {
        let indices = self.shard(trainer.id);
        let (from, steps) = (self.head.as_slice(), self.world.steps());
        let how = Recipe { from, data: &self.world.data.train, indices: &indices, steps, rate_milli: 1000 };
        self.train(&how, trainer.id, &mut trainer.inner)
    }

    /// A claim; its id, and so its place among the others, is as good as random.
    pub fn claim(&self, trainer: NodeId, dense: &[f32]) -> Claim {
        self.stating(trainer, dense, 1)
    }

    /// A claim with what it states, micro-nats.
    pub fn stating(&self, trainer: NodeId, dense: &[f32], stated_unat: i64) -> Claim {
        let bytes = compress(dense, &self.world.manifest.training);
        let id = ClaimId(self.start.seed("claim", &[&trainer.0]));
        Claim { id, trainer, submitted: Submitted::Delta { bytes, stated_unat } }
    }

    /// Replays and judges; the second is the candidate.
    pub fn judge(&self, claims: Vec<Claim>) -> Fallible<(Outcome, Option<Vec<f32>>)> {
        let (m, model, sealed) = (&self.world.manifest, self.world.model, self.sealed());
        let parent = weights::to_bytes(m, &self.head)?;
        let (round, start, data) = (self.round, self.start, &self.world.data);
        let r = Round { manifest: m, model, round, start, sealed, parent: &parent, data };
        let result = judge::replay(self.backend, &r, claims)?;
        let outcome = Outcome::derive(m, (model, round, BlobRef::of(&parent), sealed), result.measured);
        if !outcome.is_consistent(m) {
            return Err(MlError::Data("the ledger would refuse this outcome".into()));
        }
        let paid: u64 = outcome.claims.iter().map(|c| c.credit_unat).sum();
        assert!(paid <= outcome.proven_unat, "S4: more credit than was proven");
        let candidate = result.candidate.map(|bytes| weights::from_bytes(m, &bytes)).transpose()?;
        Ok((outcome, candidate))
    }

    /// The next round, on this head.
    pub fn next(self, head: Vec<f32>) -> Self {
        Self { round: self.round + 1, start: self.sealed().next(b"outcome"), head, ..self }
    }
}

/// What one party hands in, under all its names.
pub struct Attack {
    /// For the tables.
    pub name: String,
    /// Gradient steps computed for it, in whole local runs.
    pub work: f64,
    /// Names and dense changes.
    pub claims: Vec<(NodeId, Vec<f32>)>,
}

/// One party with as many names as it likes.
pub struct Ring<'a> {
    /// The round.
    pub place: &'a Place<'a>,
    /// Its names; those beyond the first two use the optimiser memory of the first.
    pub names: &'a [Trainer],
    /// What it made two rounds ago and kept.
    pub hoarded: Option<Vec<f32>>,
    runs: BTreeMap<(usize, u32, u32), (Vec<f32>, Inner)>,
}

fn sum(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

fn scaled(a: &[f32], by: f32) -> Vec<f32> {
    a.iter().map(|v| v * by).collect()
}

/// Euclidean norm.
pub fn norm(a: &[f32]) -> f64 {
    a.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt()
}

/// Every coordinate whose turn it is: part `k` of `of`, in stretches of 64 so that no chunk is left empty.
fn slice(a: &[f32], k: usize, of: usize) -> Vec<f32> {
    a.iter().enumerate().map(|(i, v)| if (i / 64) % of == k { *v } else { 0.0 }).collect()
}

impl<'a> Ring<'a> {
    /// Nothing done yet.
    pub fn new(place: &'a Place<'a>, names: &'a [Trainer], hoarded: Option<Vec<f32>>) -> Self {
        Self { place, names, hoarded, runs: BTreeMap::new() }
    }

    fn id(&self, who: usize) -> NodeId {
        self.names[who].id
    }

    /// A run on the name's own shard, done once however many strategies use it; with the optimiser's memory after it.
    pub fn run(&mut self, who: usize, steps: u32, rate_milli: u32) -> Fallible<(Vec<f32>, Inner)> {
        if let Some(done) = self.runs.get(&(who, steps, rate_milli)) {
            return Ok(done.clone());
        }
        let indices = self.place.shard(self.id(who));
        let (from, data) = (self.place.head.as_slice(), &self.place.world.data.train);
        let mut inner = self.names[who].inner.clone();
        let how = Recipe { from, data, indices: &indices, steps, rate_milli };
        let dense = self.place.train(&how, self.id(who), &mut inner)?;
        self.runs.insert((who, steps, rate_milli), (dense.clone(), inner.clone()));
        Ok((dense, inner))
    }

    fn whole(&mut self, who: usize) -> Fallible<Vec<f32>> {
        Ok(self.run(who, self.place.world.steps(), 1000)?.0)
    }

    /// The common run of `first`, then some steps on the name's own shard.
    fn tuned(&mut self, first: usize, who: usize, steps: u32) -> Fallible<Vec<f32>> {
        // beside the runs, under a rate that none has
        let key = (who, steps, 1_000_000 + u32::try_from(first).unwrap_or(0));
        if let Some((done, _)) = self.runs.get(&key) {
            return Ok(done.clone());
        }
        let (common, mut inner) = self.run(first, self.place.world.steps(), 1000)?;
        let (indices, from) = (self.place.shard(self.id(who)), sum(&self.place.head, &common));
        let data = &self.place.world.data.train;
        let how = Recipe { from: &from, data, indices: &indices, steps, rate_milli: 1000 };
        let dense = sum(&common, &self.place.train(&how, self.id(who), &mut inner)?);
        self.runs.insert(key, (dense.clone(), inner));
        Ok(dense)
    }

    /// Random changes of this norm.
    fn noise(&self, who: usize, size: f64) -> Vec<f32> {
        let parameters = self.place.head.len();
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
        let bound = (size * (3.0 / parameters as f64).sqrt()) as f32;
        cheat::random(parameters, bound, self.place.start.seed("noise", &[&self.id(who).0]))
    }

    /// `names` names for one run: each tunes it for some steps on its own shard, and hides half of it if told to.
    fn family(&mut self, first: usize, names: usize, steps: u32, hide: bool) -> Fallible<Vec<(NodeId, Vec<f32>)>> {
        let mut claims = Vec::new();
        for who in first..first + names {
            let mut dense = if who == first && !hide { self.whole(first)? } else { self.tuned(first, who, steps)? };
            if hide {
                // another random half of the weights for each name, so that no two look alike
                let coin = cheat::random(dense.len(), 1.0, self.place.start.seed("hide", &[&self.id(who).0]));
                dense.iter_mut().zip(coin).for_each(|(v, coin)| *v = if coin > 0.0 { *v } else { 0.0 });
            }
            claims.push((self.id(who), dense));
        }
        Ok(claims)
    }

    /// All strategies, one at a time and at last many at once. `wide`: all of them, also those with 16 names.
    pub fn attacks(&mut self, wide: bool) -> Fallible<Vec<Attack>> {
        let steps = self.place.world.steps();
        let (tenth, third, two_thirds) = ((steps / 10).max(1), steps / 3, steps * 2 / 3);
        let share = |s: u32| f64::from(s) / f64::from(steps);
        let (a, b) = (self.whole(0)?, self.whole(1)?);
        let (me, size) = (self.id(0), norm(&a));
        let mut out = Vec::new();
        let mut add = |name: &str, work: f64, claims: Vec<(NodeId, Vec<f32>)>| {
            out.push(Attack { name: name.into(), work, claims });
        };
        add("noise", 0.0, vec![(me, self.noise(0, size))]);
        add("sign flipped", 1.0, vec![(me, scaled(&a, -1.0))]);
        add("other data", 1.0, vec![(self.id(2), a.clone())]);
        if let Some(kept) = &self.hoarded {
            add("hoarded for 2 rounds", 1.0, vec![(me, kept.clone())]);
        }
        add("2 x inflated", 1.0, vec![(me, scaled(&a, 2.0))]);
        add("10 x inflated", 1.0, vec![(me, scaled(&a, 10.0))]);
        for (name, steps, rate, by) in [
            ("1/10 of the steps", tenth, 1000, 1.0),
            ("1/3 of the steps", third, 1000, 1.0),
            ("2/3 of the steps", two_thirds, 1000, 1.0),
            ("1/10 of the steps, 3 x inflated", tenth, 1000, 3.0),
            ("1/10 of the steps, 4 x rate", tenth, 4000, 1.0),
            ("1/3 of the steps, 2 x rate", third, 2000, 1.0),
        ] {
            add(name, share(steps), vec![(me, scaled(&self.run(0, steps, rate)?.0, by))]);
        }
        add("half own shard, half evaluation pool", 1.0, vec![(me, self.pool()?)]);
        let same = |names: std::ops::Range<usize>| names.map(|i| (self.names[i].id, a.clone())).collect::<Vec<_>>();
        add("1 run, 2 names", 1.0, same(0..2));
        if wide {
            add("1 run, 4 names", 1.0, same(0..4));
            add("1 run, 16 names", 1.0, same(0..16));
        }
        let noisy = sum(&a, &self.noise(1, size / 2.0));
        add("copy with noise, 2 names", 1.0, vec![(me, a.clone()), (self.id(1), noisy)]);
        for parts in if wide { &[2, 4][..] } else { &[2][..] }.iter().copied() {
            let claims = (0..parts).map(|k| (self.id(k), slice(&a, k, parts))).collect();
            add(&format!("slices, {parts} names"), 1.0, claims);
        }
        let mean = scaled(&sum(&a, &b), 0.5);
        add("2 runs and their average, 3 names", 2.0, vec![(me, a), (self.id(1), b), (self.id(2), mean)]);
        let families: &[(usize, u32, bool)] =
            &[(2, tenth, false), (4, tenth, false), (16, tenth, false), (2, third, false), (4, third, false)];
        let hidden: &[(usize, u32, bool)] = &[(4, tenth, true), (4, third, true)];
        for (names, tune, hide) in families.iter().chain(hidden).copied() {
            if !wide && (names != 4 || (hide && tune == tenth)) {
                continue;
            }
            let part = if tune == tenth { "1/10" } else { "1/3" };
            let hidden = if hide { ", half hidden" } else { "" };
            let extra = if hide { names } else { names - 1 };
            #[allow(clippy::cast_precision_loss)]
            let work = 1.0 + extra as f64 * share(tune);
            let name = format!("1 run tuned {part}, {names} names{hidden}");
            let claims = self.family(0, names, tune, hide)?;
            out.push(Attack { name, work, claims });
        }
        if wide {
            out.push(self.together(tenth)?);
        }
        Ok(out)
    }

    /// Half of the steps on the own shard, then half on all evaluation data: its samples are public, only the draw
    /// is not.
    fn pool(&mut self) -> Fallible<Vec<f32>> {
        let half = self.place.world.steps() / 2;
        let eval = &self.place.world.data.eval;
        let all: Vec<u32> = (0..eval.len()).collect();
        let mut inner = self.names[0].inner.clone();
        let how = Recipe { from: &self.place.head, data: eval, indices: &all, steps: half, rate_milli: 1000 };
        let first = self.place.train(&how, self.id(0), &mut inner)?;
        let (indices, from) = (self.place.shard(self.id(0)), sum(&self.place.head, &first));
        let data = &self.place.world.data.train;
        let how = Recipe { from: &from, data, indices: &indices, steps: half, rate_milli: 1000 };
        Ok(sum(&first, &self.place.train(&how, self.id(0), &mut inner)?))
    }

    /// Twelve names at once, each with a shard of its own.
    fn together(&mut self, tenth: u32) -> Fallible<Attack> {
        let (flip, copied, sliced, large) = (self.whole(4)?, self.whole(5)?, self.whole(7)?, self.whole(10)?);
        let mut claims = vec![
            (self.id(3), self.noise(3, norm(&flip))),
            (self.id(4), scaled(&flip, -1.0)),
            (self.id(5), copied.clone()),
            (self.id(6), copied.clone()),
            (self.id(7), slice(&sliced, 0, 2)),
            (self.id(8), slice(&sliced, 1, 2)),
            (self.id(9), self.run(9, tenth, 1000)?.0),
            (self.id(10), scaled(&large, 2.0)),
            (self.id(15), copied),
        ];
        claims.extend(self.family(11, 3, tenth, false)?);
        let part = f64::from(tenth) / f64::from(self.place.world.steps());
        Ok(Attack { name: "many of these at once, 12 names".into(), work: 5.0 + 3.0 * part, claims })
    }
}
