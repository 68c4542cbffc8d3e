//! A model described in TOML, with its data beside it, turned into a manifest and the blobs it names.
//!
//! ```toml
//! [data]                                    # either every split has its own files ...
//! train = { csv = "train.csv", label = "species" }
//! eval = { csv = "eval.csv", label = "species" }
//! test = { csv = "test.csv", label = "species" }
//! guards = { rare = { csv = "rare.csv", label = "species" } }
//!
//! [data]                                    # ... or one source is cut into splits
//! source = { csv = "iris.csv", label = "species" }
//! eval_samples = 70
//! test_samples = 20
//! guards = { rare = { class = "virginica", samples = 20 } }
//! ```
//! A source is one of `idx = { images, labels }`, `csv`, `parquet` (both with `label`, and optionally
//! `features` and `classes`) or `text`; `samples` keeps the first so many. A guard is a source, or a slice:
//! the first `samples` of a `class` in the evaluation part, or in the test part with `from = "test"`.
//! Such samples stay in their part too. A guard with a file of its own may be `sealed = true`: only the committee
//! can read it (see [`oda_consensus::sealed`]), so its file must be nowhere else.

use crate::data::import::splits::{self, Parts};
use crate::data::import::{self, Classes, Columns, Rows, Scale, Table, problem};
use crate::{Dataset, MlError, ModelData, weights};
use oda_consensus::architecture::SampleShape;
use oda_consensus::ids::{Beacon, BlobRef};
use oda_consensus::manifest::{
    Architecture, DataSet, Guard, Judging, Manifest, Objective, Split, Timing, Training, WorkMode,
};
use oda_consensus::score::MAX_LOSS_UNAT;
use oda_consensus::sealed::{self, GuardKey};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Largest model file in bytes (K3).
const MAX_MODEL_FILE: u64 = 64 << 10;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    /// Any text; the initial weights and the shuffle of the rows follow from it.
    seed: String,
    architecture: Architecture,
    objective: Objective,
    #[serde(default = "assigned")]
    work_mode: WorkMode,
    data: Data,
    training: Training,
    judging: Judging,
    timing: Timing,
}

fn assigned() -> WorkMode {
    WorkMode::Assigned
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Data {
    train: Option<Source>,
    eval: Option<Source>,
    test: Option<Source>,
    /// One source for all three.
    source: Option<Source>,
    eval_samples: Option<u32>,
    test_samples: Option<u32>,
    #[serde(default)]
    guards: BTreeMap<String, Source>,
}

/// One table with optional keys instead of one for each format, so that a mistake is named by its key.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Source {
    idx: Option<Idx>,
    csv: Option<PathBuf>,
    parquet: Option<PathBuf>,
    text: Option<PathBuf>,
    /// Only the first so many samples.
    samples: Option<u32>,
    /// Column with the class, and columns with the features.
    label: Option<String>,
    features: Option<Vec<String>>,
    /// Labels in the order of their classes.
    classes: Option<Vec<String>>,
    /// For guards: a slice by class.
    class: Option<Class>,
    from: Option<From>,
    /// For guards: encrypted, so that nobody can train on it.
    #[serde(default)]
    sealed: bool,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Idx {
    images: PathBuf,
    labels: PathBuf,
}

#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Class {
    Number(u32),
    Name(String),
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum From {
    Eval,
    Test,
}

/// What a source brought, before labels are classes and numbers have one scale.
enum Raw {
    Rows(Rows),
    Table(Table),
    Text(Vec<u8>),
}

/// Samples of one split.
enum Part {
    Rows(Rows),
    Text(Vec<u8>),
}

/// A model ready to be announced.
pub struct Bundle {
    /// Its manifest.
    pub manifest: Manifest,
    /// Bytes of every blob the manifest names, each once; the initial head last.
    pub blobs: Vec<Vec<u8>>,
    /// Key of its sealed guards, if it has any.
    pub guard_key: Option<GuardKey>,
}

/// Reads a model file and the data it names, or a folder that [`crate::bundle::save`] wrote. Relative paths count from the model file; `data` overrides
/// that: a folder is where they count from instead, a file replaces the file of the one `source`.
///
/// # Errors
/// If a file is missing or malformed, a key unknown, or the data too small; says which and what is needed. If a
/// guard is sealed: that takes [`load_sealed`].
pub fn load(path: &Path, data: Option<&Path>) -> Result<Bundle, MlError> {
    if path.is_dir() {
        return crate::bundle::open(path);
    }
    named(path, read(path, data, None))
}

/// As [`load`], for a model that may have sealed guards: their key follows from the sponsor's secret, the model
/// file's seed and the first of these guards, so that a restart gives the same model.
///
/// # Errors
/// As [`load`].
pub fn load_sealed(path: &Path, data: Option<&Path>, secret: &[u8; 32]) -> Result<Bundle, MlError> {
    if path.is_dir() {
        return crate::bundle::open(path);
    }
    named(path, read(path, data, Some(secret)))
}

fn named(path: &Path, read: Result<Bundle, MlError>) -> Result<Bundle, MlError> {
    read.map_err(|e| MlError::ModelFile(format!("{}: {}", path.display(), problem(&e))))
}

fn fail<T>(problem: String) -> Result<T, MlError> {
    Err(MlError::Data(problem))
}

fn read(path: &Path, data: Option<&Path>, secret: Option<&[u8; 32]>) -> Result<Bundle, MlError> {
    let bytes = import::read_file(path)?;
    if bytes.len() as u64 > MAX_MODEL_FILE {
        return fail(format!("more than {MAX_MODEL_FILE} bytes"));
    }
    let text = std::str::from_utf8(&bytes).map_err(|e| MlError::Data(e.to_string()))?;
    let file: File = toml::from_str(text).map_err(|e| MlError::Data(e.to_string()))?;
    file.architecture.check().map_err(MlError::Data)?;
    let mut files = Files {
        base: path.parent().unwrap_or(Path::new(".")).to_path_buf(),
        replaced: None,
        shape: file.architecture.sample(),
    };
    match data {
        Some(there) if there.is_dir() => files.base = there.to_path_buf(),
        Some(there) if file.data.source.is_some() => files.replaced = Some(there.to_path_buf()),
        Some(there) => {
            return fail(format!("{} is no folder; this model's splits have a file each", there.display()));
        }
        None => {}
    }
    let (parts, guards) = files.parts(&file.data, &file.seed)?;
    let mut blobs: Vec<Vec<u8>> = Vec::new();
    let pack = |name: &str, part: Part| -> Result<(Vec<u8>, u32), MlError> {
        let named = |e: MlError| MlError::Data(format!("{name}: {}", problem(&e)));
        let (bytes, samples) = part.pack(files.shape).map_err(named)?;
        // what every node will find when it opens the blob
        Dataset::from_bytes(bytes.clone(), files.shape, samples).map_err(named)?;
        Ok((bytes, samples))
    };
    let mut split = |(bytes, samples): (Vec<u8>, u32)| {
        let blob = BlobRef::of(&bytes);
        if !blobs.contains(&bytes) {
            blobs.push(bytes);
        }
        Split { blob, samples }
    };
    let mut data = DataSet {
        train: split(pack("train", parts.train)?),
        eval: split(pack("eval", parts.eval)?),
        test: split(pack("test", parts.test)?),
        guards: Vec::new(),
    };
    let mut guard_key: Option<GuardKey> = None;
    for (name, part) in guards {
        let (bytes, samples) = pack(&format!("guard `{name}`"), part)?;
        if !file.data.guards.get(&name).is_some_and(|g| g.sealed) {
            data.guards.push(Guard { name, split: split((bytes, samples)), sealed: None });
            continue;
        }
        let Some(secret) = secret else {
            return fail(format!(
                "guard `{name}` is sealed, with a key made from the sponsor's own secret: only `oda sponsor` loads it"
            ));
        };
        let plain = BlobRef::of(&bytes);
        let key = guard_key.get_or_insert_with(|| GuardKey::derive(secret, &file.seed, plain));
        let hidden = sealed::seal_split(key, &bytes).map_err(|e| MlError::Data(format!("guard `{name}`: {e}")))?;
        data.guards.push(Guard { name, split: split((hidden, samples)), sealed: Some(plain) });
    }
    let mut manifest = Manifest {
        name: file.name,
        architecture: file.architecture,
        objective: file.objective,
        data,
        // a stand-in until the weights are drawn: the check below must pass before anything is sized by them
        initial_head: BlobRef::of(b"-"),
        work_mode: file.work_mode,
        training: file.training,
        judging: file.judging,
        timing: file.timing,
    };
    let checked = |m: &Manifest| m.check().map_err(|e| MlError::Data(e.to_string()));
    checked(&manifest)?;
    let seed = Beacon([0; 32]).seed("initial head", &[file.seed.as_bytes()]);
    let head = weights::to_bytes(&manifest, &weights::initial(&manifest, seed))?;
    manifest.initial_head = BlobRef::of(&head);
    blobs.push(head);
    checked(&manifest)?;
    Ok(Bundle { manifest, blobs, guard_key })
}

fn delta_bytes(manifest: &Manifest) -> u64 {
    let parameters = usize::try_from(manifest.parameters()).unwrap_or(usize::MAX);
    oda_consensus::delta::expected_len(parameters, &manifest.training) as u64
}

/// Where files are and what their samples must be.
struct Files {
    base: PathBuf,
    replaced: Option<PathBuf>,
    shape: SampleShape,
}

/// The parts and the guards of a model.
type Everything = (Parts<Part>, Vec<(String, Part)>);

impl Files {
    fn parts(&self, data: &Data, seed: &str) -> Result<Everything, MlError> {
        if data.guards.len() > Manifest::MAX_GUARDS {
            return fail(format!("{} guards, at most {} are supported", data.guards.len(), Manifest::MAX_GUARDS));
        }
        // every source first: labels of all files share one list of classes
        let mut sources: Vec<(String, &Source)> = Vec::new();
        match (&data.source, &data.train, &data.eval, &data.test) {
            (Some(one), None, None, None) => sources.push(("source".into(), one)),
            (None, Some(train), Some(eval), Some(test)) => {
                if data.eval_samples.or(data.test_samples).is_some() {
                    return fail("eval_samples and test_samples cut one `source`; here `samples` in each split".into());
                }
                sources.extend([("train".into(), train), ("eval".into(), eval), ("test".into(), test)]);
            }
            _ => return fail("[data] needs either `source`, or `train`, `eval` and `test`".into()),
        }
        if let Some((name, _)) = sources.iter().find(|(_, s)| s.class.is_some() || s.from.is_some() || s.sealed) {
            return fail(format!("{name}: `class`, `from` and `sealed` belong to guards"));
        }
        let whole = data.guards.iter().filter(|(_, g)| g.class.is_none());
        sources.extend(whole.map(|(name, g)| (format!("guard `{name}`"), g)));
        let (mut raw, mut features): (Vec<Raw>, Option<Vec<String>>) = (Vec::new(), None);
        for (name, source) in &sources {
            let replaced = self.replaced.as_ref().filter(|_| data.source.is_some() && name == "source");
            let read = self.read(source, features.as_ref(), replaced);
            let read = read.map_err(|e| MlError::Data(format!("{name}: {}", problem(&e))))?;
            if let Raw::Table(table) = &read {
                features.get_or_insert_with(|| table.features.clone());
            }
            raw.push(read);
        }
        let explicit = sources.iter().find_map(|(_, s)| s.classes.as_deref());
        if sources.iter().any(|(_, s)| s.classes.as_deref().is_some_and(|c| Some(c) != explicit)) {
            return fail("`classes` must be the same list wherever it is given".into());
        }
        let tables: Vec<&Table> =
            raw.iter().filter_map(|r| if let Raw::Table(t) = r { Some(t) } else { None }).collect();
        let classes = match self.shape {
            SampleShape::Row { classes, .. } => Classes::of(explicit, &tables, classes)?,
            SampleShape::Window { .. } => Classes::Numbers,
        };
        let mut ready: BTreeMap<String, Part> = BTreeMap::new();
        for ((name, source), raw) in sources.iter().zip(raw) {
            let part = self.part(source, raw, &classes);
            ready.insert(name.clone(), part.map_err(|e| MlError::Data(format!("{name}: {}", problem(&e))))?);
        }
        let mut take = |name: &str| ready.remove(name).ok_or_else(|| MlError::Data(format!("no {name}")));
        let mut parts = if data.source.is_some() {
            let (Some(eval), Some(test)) = (data.eval_samples, data.test_samples) else {
                return fail("`source` needs `eval_samples` and `test_samples`; the rest is for training".into());
            };
            let cut = match (take("source")?, self.shape) {
                (Part::Rows(all), _) => splits::rows(&all, eval, test, seed).map(|p| p.map(Part::Rows)),
                (Part::Text(all), SampleShape::Window { context }) => {
                    splits::text(&all, context, eval, test).map(|p| p.map(Part::Text))
                }
                (Part::Text(_), SampleShape::Row { .. }) => fail("this model reads rows, not text".into()),
            };
            cut.map_err(|e| MlError::Data(format!("source: {}", problem(&e))))?
        } else {
            Parts { train: take("train")?, eval: take("eval")?, test: take("test")? }
        };
        let mut guards = Vec::new();
        for (name, guard) in &data.guards {
            let part = match &guard.class {
                Some(class) => slice(guard, class, &parts, &classes)
                    .map_err(|e| MlError::Data(format!("guard `{name}`: {}", problem(&e))))?,
                None => take(&format!("guard `{name}`"))?,
            };
            guards.push((name.clone(), part));
        }
        let scale = if let Part::Rows(rows) = &parts.train { Some(Scale::of(rows)) } else { None };
        let all = [&mut parts.train, &mut parts.eval, &mut parts.test].into_iter();
        for part in all.chain(guards.iter_mut().map(|(_, part)| part)) {
            if let (Part::Rows(rows), Some(scale)) = (part, &scale) {
                scale.apply(rows);
            }
        }
        Ok((parts, guards))
    }

    /// Reads a source's file, or the one in its place; `features` are those of the files before it.
    fn read(
        &self,
        source: &Source,
        features: Option<&Vec<String>>,
        replaced: Option<&PathBuf>,
    ) -> Result<Raw, MlError> {
        let find = |named: &Path| replaced.cloned().unwrap_or_else(|| self.base.join(named));
        let kinds = [source.idx.is_some(), source.csv.is_some(), source.parquet.is_some(), source.text.is_some()];
        if kinds.iter().filter(|k| **k).count() != 1 {
            return fail("name exactly one of `idx`, `csv`, `parquet` and `text`".into());
        }
        let table = source.csv.as_ref().or(source.parquet.as_ref());
        if table.is_none() && (source.label.is_some() || source.features.is_some() || source.classes.is_some()) {
            return fail("`label`, `features` and `classes` belong to `csv` and `parquet`".into());
        }
        let rows = matches!(self.shape, SampleShape::Row { .. });
        if rows == source.text.is_some() {
            let (reads, brings) = if rows { ("rows", "text") } else { ("text", "rows") };
            return fail(format!("this model reads {reads}, the source brings {brings}"));
        }
        if let Some(idx) = &source.idx {
            if replaced.is_some() {
                return fail("`idx` has two files; give the folder with both instead of one file".into());
            }
            let (images, labels) = (find(&idx.images), find(&idx.labels));
            let rows = import::idx::read(import::read_file(&images)?, import::read_file(&labels)?);
            return rows.map(Raw::Rows).map_err(|e| at(&images, &e));
        }
        if let Some(text) = &source.text {
            let path = find(text);
            return import::text::read(import::read_file(&path)?).map(Raw::Text).map_err(|e| at(&path, &e));
        }
        let Some(label) = source.label.clone() else {
            return fail("a table needs `label`, the column with the class".into());
        };
        let columns = Columns { label, features: source.features.clone().or_else(|| features.cloned()) };
        let path = find(table.ok_or_else(|| MlError::Data("no file".into()))?);
        let bytes = import::read_file(&path)?;
        let reader = if source.csv.is_some() { import::csv::read } else { import::parquet::read };
        reader(bytes, &columns).map(Raw::Table).map_err(|e| at(&path, &e))
    }

    /// Labels become classes, and samples beyond the wanted number go.
    fn part(&self, source: &Source, raw: Raw, classes: &Classes) -> Result<Part, MlError> {
        let few = |there: u64, wanted: u32| fail(format!("{there} samples, {wanted} are needed (`samples`)"));
        let rows = match (raw, self.shape) {
            (Raw::Text(mut text), SampleShape::Window { context }) => {
                let there = crate::data::windows(text.len() as u64, context);
                if let Some(wanted) = source.samples {
                    if there < u64::from(wanted) {
                        return few(there, wanted);
                    }
                    text.truncate(wanted as usize * context as usize + 1);
                }
                return Ok(Part::Text(text));
            }
            (Raw::Rows(rows), _) => rows,
            (Raw::Table(table), SampleShape::Row { inputs, classes: most }) => {
                if table.features.len() != inputs as usize {
                    return fail(format!(
                        "{} feature columns ({}), the model takes {inputs}; name them in `features`",
                        table.features.len(),
                        import::list(&table.features)
                    ));
                }
                classes.rows(table, most)?
            }
            _ => return fail("rows and text do not fit together".into()),
        };
        match source.samples {
            Some(wanted) if rows.len() < wanted as usize => few(rows.len() as u64, wanted),
            Some(wanted) => Ok(Part::Rows(rows.select(&(0..wanted as usize).collect::<Vec<_>>()))),
            None => Ok(Part::Rows(rows)),
        }
    }
}

fn at(path: &Path, e: &MlError) -> MlError {
    MlError::Data(format!("{}: {}", path.display(), problem(e)))
}

/// The first samples of a class in the evaluation or test part.
fn slice(guard: &Source, class: &Class, parts: &Parts<Part>, classes: &Classes) -> Result<Part, MlError> {
    let own = [guard.idx.is_some(), guard.csv.is_some(), guard.parquet.is_some(), guard.text.is_some()];
    if own.contains(&true) || guard.label.is_some() || guard.features.is_some() || guard.classes.is_some() {
        return fail("either a `class` of the evaluation or test part, or a file".into());
    }
    if guard.sealed {
        return fail("a slice by class lies open in its part; a sealed guard needs a file of its own".into());
    }
    let (from, name) = match guard.from {
        Some(From::Test) => (&parts.test, "test"),
        Some(From::Eval) | None => (&parts.eval, "evaluation"),
    };
    let Part::Rows(rows) = from else { return fail("text has no classes; give the guard a file".into()) };
    let number = match class {
        Class::Number(n) => u8::try_from(*n).map_err(|_| MlError::Data(format!("there is no class {n}")))?,
        Class::Name(label) => classes.number(label, 256)?,
    };
    let wanted = guard.samples.map_or(Manifest::MAX_GUARD_SAMPLES, |n| n) as usize;
    let all = rows.classes.iter().enumerate().filter(|(_, c)| **c == number).map(|(i, _)| i);
    let places: Vec<usize> = all.take(wanted).collect();
    if places.len() < guard.samples.map_or(2, |n| n as usize) {
        let needed = guard.samples.unwrap_or(2);
        return fail(format!("{} samples of class {number} in the {name} part, {needed} are needed", places.len()));
    }
    Ok(Part::Rows(rows.select(&places)))
}

impl<T> Parts<T> {
    fn map<U>(self, to: impl Fn(T) -> U) -> Parts<U> {
        Parts { train: to(self.train), eval: to(self.eval), test: to(self.test) }
    }
}

impl Part {
    /// The canonical blob and its number of samples.
    fn pack(&self, shape: SampleShape) -> Result<(Vec<u8>, u32), MlError> {
        let count = |n: u64| u32::try_from(n).map_err(|_| MlError::Data(format!("{n} samples are too many")));
        match (self, shape) {
            (Self::Rows(rows), _) => Ok((rows.blob()?, count(rows.len() as u64)?)),
            (Self::Text(text), SampleShape::Window { context }) => {
                let samples = crate::data::windows(text.len() as u64, context);
                if samples == 0 {
                    return fail(format!("{} bytes of text, one sample needs {}", text.len(), u64::from(context) + 1));
                }
                Ok((crate::data::text(text)?, count(samples)?))
            }
            (Self::Text(_), SampleShape::Row { .. }) => fail("this model reads rows, not text".into()),
        }
    }
}

/// Samples needed to prove a mean gain beyond doubt: the least n >= (z * spread / gain)^2, where `spread`
/// is the standard deviation of the per-sample differences (S5). `u64::MAX` if there is no such number.
/// Figures above the largest possible loss count as that loss.
pub fn samples_needed(z_milli: u32, spread_unat: u64, gain_unat: u64) -> u64 {
    let most = MAX_LOSS_UNAT.unsigned_abs();
    // at most 2^32 * 10^8 < 2^59, so that its square fits
    let doubt = u128::from(z_milli) * u128::from(spread_unat.min(most));
    let gain = u128::from(gain_unat.min(most)) * 1000;
    if gain == 0 {
        return u64::MAX;
    }
    u64::try_from((doubt * doubt).div_ceil(gain * gain)).unwrap_or(u64::MAX).max(1)
}

/// The reverse: the smallest mean gain that so many samples prove.
pub fn gain_provable_unat(z_milli: u32, spread_unat: u64, samples: u32) -> u64 {
    let doubt = u128::from(z_milli) * u128::from(spread_unat.min(MAX_LOSS_UNAT.unsigned_abs()));
    let squared = (doubt * doubt).div_ceil(1_000_000 * u128::from(samples.max(1)));
    let root = squared.isqrt();
    u64::try_from(root + u128::from(root * root < squared)).unwrap_or(u64::MAX)
}

impl Bundle {
    /// The splits, opened in memory; sealed guards too if the key is there.
    ///
    /// # Errors
    /// If a blob is missing or not what the manifest says.
    pub fn data(&self) -> Result<ModelData, MlError> {
        let shape = self.manifest.architecture.sample();
        let find = |split: &Split| {
            let blob = self.blobs.iter().find(|bytes| BlobRef::of(bytes) == split.blob);
            blob.ok_or_else(|| MlError::Data(format!("blob {} is missing", split.blob.hash)))
        };
        let open = |split: &Split| Dataset::from_bytes(find(split)?.clone(), shape, split.samples);
        let d = &self.manifest.data;
        let guards = d.guards.iter().map(|g| match (g.sealed, &self.guard_key) {
            (None, _) => open(&g.split).map(Some),
            (Some(_), None) => Ok(None),
            (Some(plain), Some(key)) => {
                let bytes = sealed::open_split(key, find(&g.split)?, plain);
                let bytes = bytes.map_err(|e| MlError::Data(format!("guard `{}`: {e}", g.name)))?;
                Dataset::from_bytes(bytes, shape, g.split.samples).map(Some)
            }
        });
        let guards = guards.collect::<Result<_, _>>()?;
        Ok(ModelData { train: open(&d.train)?, eval: open(&d.eval)?, test: open(&d.test)?, guards })
    }

    /// What the model is, for people: sizes, and what its samples can prove.
    pub fn report(&self) -> String {
        let (m, mut out) = (&self.manifest, String::new());
        let nats = |unat: u64| format!("{}.{:06}", unat / 1_000_000, unat % 1_000_000);
        let milli = |z: u32| format!("{}.{:03}", z / 1000, z % 1000);
        let mut line = |what: &str, text: String| {
            let _ = writeln!(out, "{what:<14} {text}");
        };
        line("model", format!("{} ({})", m.name, m.id()));
        line("parameters", m.parameters().to_string());
        let d = &m.data;
        let kind = |g: &Guard| if g.sealed.is_some() { "sealed" } else { "guard" };
        let guards = d.guards.iter().map(|g| (format!("{} `{}`", kind(g), g.name), g.split));
        for (name, s) in [("train", d.train), ("eval", d.eval), ("test", d.test)]
            .map(|(n, s)| (n.into(), s))
            .into_iter()
            .chain(guards)
        {
            line(&name, format!("{} samples, {} bytes", s.samples, s.blob.len));
        }
        line("initial head", format!("{} bytes", m.initial_head.len));
        line("delta", format!("about {} bytes, at most {}", delta_bytes(m), m.judging.max_delta_bytes));
        let j = &m.judging;
        line("judged on", format!("{} gate and {} confirm samples", j.gate_samples, j.confirm_samples));
        line(
            "smallest gain",
            format!("{} nat a sample; proven at {} standard errors", nats(j.min_gain_unat), milli(j.adopt_z_milli)),
        );
        for spread in [1_000, 10_000, 100_000] {
            let needed = samples_needed(j.adopt_z_milli, spread, j.min_gain_unat);
            let proven = nats(gain_provable_unat(j.adopt_z_milli, spread, j.confirm_samples));
            let spread = nats(spread);
            line(
                "",
                format!(
                    "if samples differ by {spread}: needs {needed} confirm samples; those there are prove {proven}"
                ),
            );
        }
        out
    }
}
