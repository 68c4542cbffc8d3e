//! Foreign formats, read once on the machine of whoever adds a model and turned into [`super`]'s one format.
//!
//! The obvious way, every node reading the CSV or Parquet file itself, would make a committee depend on how
//! a library parses `0.1` for years. So nothing here runs on a validator: a sponsor's tool reads the file,
//! cuts it into splits, brings the numbers to one scale, and the network sees the resulting blobs by hash (D1).
//! The files are still treated as hostile (K3): they may well come from the internet.

pub mod csv;
pub mod idx;
pub mod parquet;
pub mod splits;
pub mod text;
mod thrift;

use crate::MlError;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// Largest file, packed or unpacked, in bytes (K3).
pub const MAX_FILE: u64 = 512 << 20;

/// Most rows of one file (K3).
pub const MAX_ROWS: usize = 1 << 20;

/// Most columns of one file (K3).
pub const MAX_COLUMNS: usize = 1 << 20;

/// Most numbers of one file (K3): as many F32 as the largest data blob holds.
pub const MAX_CELLS: usize = 64 << 20;

/// What an error of a reader says, to be put behind the name of the file.
pub(crate) fn problem(e: &MlError) -> String {
    match e {
        MlError::Data(problem) => problem.clone(),
        other => other.to_string(),
    }
}

/// Names listed in one error.
const SHOWN: usize = 20;

/// A table as it was read: numbers by row, and each row's label as text.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// Names of the feature columns.
    pub features: Vec<String>,
    /// `rows * features` finite numbers.
    pub values: Vec<f64>,
    /// Label of each row.
    pub labels: Vec<String>,
}

/// Which columns of a file are wanted.
#[derive(Clone, Debug, Default)]
pub struct Columns {
    /// The column with the class.
    pub label: String,
    /// The feature columns in this order; all others of the file, in the file's order, if `None`.
    pub features: Option<Vec<String>>,
}

impl Columns {
    /// Places of the label and of the features among a file's columns.
    fn find(&self, there: &[String]) -> Result<(usize, Vec<usize>), MlError> {
        if there.len() > MAX_COLUMNS {
            return Err(MlError::Data(format!("{} columns, at most {MAX_COLUMNS} are supported", there.len())));
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = there.iter().find(|name| !seen.insert(*name)) {
            return Err(MlError::Data(format!("two columns are called `{twice}`")));
        }
        let place = |name: &String| {
            let missing = || MlError::Data(format!("no column `{name}`; there are {}", list(there)));
            there.iter().position(|t| t == name).ok_or_else(missing)
        };
        let label = place(&self.label)?;
        let features = match &self.features {
            Some(names) if names.len() > MAX_COLUMNS => return Err(MlError::Data("too many features".into())),
            Some(names) => names.iter().map(place).collect::<Result<Vec<usize>, MlError>>()?,
            None => (0..there.len()).filter(|i| *i != label).collect(),
        };
        if features.is_empty() {
            return Err(MlError::Data(format!("no feature columns beside the label `{}`", self.label)));
        }
        if features.contains(&label) {
            return Err(MlError::Data(format!("`{}` is the label and cannot be a feature too", self.label)));
        }
        Ok((label, features))
    }
}

/// Names for an error message, cut to a readable number.
pub(crate) fn list(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(SHOWN).map(|n| format!("`{}`", shorten(n))).collect();
    let more = if names.len() > SHOWN { format!(" and {} more", names.len() - SHOWN) } else { String::new() };
    shown.join(", ") + &more
}

/// A cell or name for an error message.
pub(crate) fn shorten(text: &str) -> String {
    let start: String = text.chars().take(40).collect();
    if start.len() < text.len() { start + "..." } else { start }
}

/// Refuses tables that are too large to be kept.
fn check_size(rows: usize, features: usize) -> Result<(), MlError> {
    if rows > MAX_ROWS {
        return Err(MlError::Data(format!("more than {MAX_ROWS} rows; cut the file")));
    }
    if rows.saturating_mul(features) > MAX_CELLS {
        return Err(MlError::Data(format!("more than {MAX_CELLS} numbers; cut the file or name fewer `features`")));
    }
    Ok(())
}

/// The numbers of rows.
#[derive(Clone, Debug, PartialEq)]
pub enum Inputs {
    /// Bytes of images; the model sees them divided by 255.
    Bytes(Vec<u8>),
    /// Numbers of a table.
    Numbers(Vec<f64>),
}

/// Rows of one split or one file.
#[derive(Clone, Debug, PartialEq)]
pub struct Rows {
    /// Inputs of one row.
    pub features: usize,
    /// `rows * features` values.
    pub inputs: Inputs,
    /// Class of each row.
    pub classes: Vec<u8>,
}

impl Rows {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.classes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.classes.is_empty()
    }

    /// These rows in this order; places outside are left out.
    pub fn select(&self, places: &[usize]) -> Self {
        fn pick<T: Copy>(all: &[T], width: usize, places: &[usize]) -> Vec<T> {
            let row = |p: &usize| p.checked_mul(width).and_then(|at| all.get(at..at.checked_add(width)?));
            places.iter().filter_map(row).flatten().copied().collect()
        }
        let inputs = match &self.inputs {
            Inputs::Bytes(all) => Inputs::Bytes(pick(all, self.features, places)),
            Inputs::Numbers(all) => Inputs::Numbers(pick(all, self.features, places)),
        };
        Self { features: self.features, inputs, classes: pick(&self.classes, 1, places) }
    }

    /// The canonical blob, see [`super`].
    ///
    /// # Errors
    /// If the lengths do not fit together, or a number is too large for an F32.
    pub fn blob(&self) -> Result<Vec<u8>, MlError> {
        match &self.inputs {
            Inputs::Bytes(all) => super::byte_rows(self.features, all, &self.classes),
            Inputs::Numbers(all) => {
                #[allow(clippy::cast_possible_truncation)]
                let reals: Vec<f32> = all.iter().map(|v| *v as f32).collect();
                if let Some(at) = reals.iter().position(|v| !v.is_finite()) {
                    let column = at % self.features.max(1) + 1;
                    return Err(MlError::Data(format!("a value of feature {column} is too large or too small")));
                }
                super::real_rows(self.features, &reals, &self.classes)
            }
        }
    }
}

/// A label that is a class number.
fn class_number(label: &str) -> Option<u64> {
    if let Ok(n) = label.parse::<u64>() {
        return Some(n);
    }
    let n = label.parse::<f64>().ok().filter(|n| n.fract() == 0.0 && (0.0..1e9).contains(n))?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Some(n as u64)
}

/// How labels become classes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Classes {
    /// Labels are class numbers, 0 upwards.
    Numbers,
    /// The class is the label's place in this list.
    Names(Vec<String>),
}

impl Classes {
    /// The rule for all files of a model: the explicit list, or numbers if all labels are numbers, or the
    /// labels in sorted order.
    ///
    /// # Errors
    /// If there are more labels than classes.
    pub fn of(explicit: Option<&[String]>, tables: &[&Table], classes: u32) -> Result<Self, MlError> {
        let names = match explicit {
            Some(names) => names.to_vec(),
            None if tables.iter().all(|t| t.labels.iter().all(|l| class_number(l).is_some())) => {
                return Ok(Self::Numbers);
            }
            None => {
                let all: BTreeSet<&String> = tables.iter().flat_map(|t| &t.labels).collect();
                all.into_iter().cloned().collect()
            }
        };
        if names.len() > classes as usize {
            return Err(MlError::Data(format!(
                "{} different labels, but the model has {classes} classes: {}",
                names.len(),
                list(&names)
            )));
        }
        if let Some(twice) = names.iter().enumerate().find(|(i, n)| names.iter().take(*i).any(|m| m == *n)) {
            return Err(MlError::Data(format!("`classes` lists `{}` twice", shorten(twice.1))));
        }
        Ok(Self::Names(names))
    }

    /// The class of a label.
    ///
    /// # Errors
    /// If there is no such class.
    pub fn number(&self, label: &str, classes: u32) -> Result<u8, MlError> {
        let class = match self {
            Self::Numbers => {
                let outside = || {
                    let problem = "is no class: classes are counted from 0, and the model has";
                    MlError::Data(format!("label {} {problem} {classes}; name them in `classes`", shorten(label)))
                };
                class_number(label).filter(|n| *n < u64::from(classes)).ok_or_else(outside)?
            }
            Self::Names(names) => {
                let unknown = || MlError::Data(format!("label `{}` is none of {}", shorten(label), list(names)));
                names.iter().position(|n| n == label).ok_or_else(unknown)? as u64
            }
        };
        u8::try_from(class).map_err(|_| MlError::Data(format!("class {class}; at most 256 are supported")))
    }

    /// Rows of a table.
    ///
    /// # Errors
    /// If a label has no class; says in which row.
    pub fn rows(&self, table: Table, classes: u32) -> Result<Rows, MlError> {
        let mut numbers = Vec::with_capacity(table.labels.len());
        for (i, label) in table.labels.iter().enumerate() {
            let class = self.number(label, classes);
            numbers.push(class.map_err(|e| MlError::Data(format!("row {}: {}", i + 1, problem(&e))))?);
        }
        Ok(Rows { features: table.features.len(), inputs: Inputs::Numbers(table.values), classes: numbers })
    }
}

/// Mean and deviation of each column, of the training part only: whatever the model could learn about
/// evaluation samples through a common scale would be learned before it is judged on them.
#[derive(Clone, Debug, PartialEq)]
pub struct Scale(Vec<(f64, f64)>);

impl Scale {
    /// Of these rows. A constant column has deviation 0 and becomes zero everywhere.
    pub fn of(training: &Rows) -> Self {
        let Inputs::Numbers(all) = &training.inputs else { return Self(Vec::new()) };
        #[allow(clippy::cast_precision_loss)]
        let n = training.len().max(1) as f64;
        let column = |c: usize| all.iter().skip(c).step_by(training.features.max(1)).copied();
        let scale = |c: usize| {
            let mean = column(c).map(|v| v / n).sum::<f64>();
            let deviation = column(c).map(|v| (v - mean) * ((v - mean) / n)).sum::<f64>().sqrt();
            let first = column(c).next();
            let constant = column(c).all(|v| Some(v) == first);
            (mean, if constant { 0.0 } else { deviation })
        };
        Self((0..training.features).map(scale).collect())
    }

    /// Brings rows to this scale; bytes stay as they are.
    pub fn apply(&self, rows: &mut Rows) {
        let Inputs::Numbers(all) = &mut rows.inputs else { return };
        for row in all.chunks_mut(rows.features.max(1)) {
            for (v, (mean, deviation)) in row.iter_mut().zip(&self.0) {
                *v = if *deviation > 0.0 { (*v - mean) / deviation } else { 0.0 };
            }
        }
    }
}

/// Reads a file of at most [`MAX_FILE`] bytes.
///
/// # Errors
/// If it cannot be read or is larger.
pub fn read_file(path: &Path) -> Result<Vec<u8>, MlError> {
    let fail = |e: std::io::Error| MlError::Data(format!("cannot read {}: {e}", path.display()));
    let mut bytes = Vec::new();
    File::open(path).map_err(fail)?.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(MlError::Data(format!("{} has more than {MAX_FILE} bytes", path.display())));
    }
    Ok(bytes)
}

/// Unpacks gzip; other bytes stay as they are.
///
/// # Errors
/// If the gzip data is damaged or unpacks to more than [`MAX_FILE`] bytes.
pub fn unpack(bytes: Vec<u8>) -> Result<Vec<u8>, MlError> {
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(bytes);
    }
    let mut out = Vec::new();
    let mut gz = flate2::read::MultiGzDecoder::new(&bytes[..]).take(MAX_FILE + 1);
    gz.read_to_end(&mut out).map_err(|e| MlError::Data(format!("damaged gzip: {e}")))?;
    if out.len() as u64 > MAX_FILE {
        return Err(MlError::Data(format!("unpacks to more than {MAX_FILE} bytes")));
    }
    Ok(out)
}
