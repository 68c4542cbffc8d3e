//! The data of a model as every node reads it: one safetensors blob for each split.
//!
//! | samples | tensors |
//! |---|---|
//! | rows of bytes (images) | `inputs` U8 `[n, features]`, `classes` U8 `[n]`; the model sees the bytes divided by 255 |
//! | rows of numbers (tables) | `inputs` F32 `[n, features]`, `classes` U8 `[n]` |
//! | running text | `text` U8 `[bytes]`; sample i is bytes `i * context ..= (i + 1) * context` |
//!
//! One plain format, because whatever validators parse must give all of them the same numbers for years:
//! a CSV or Parquet reader that changes a rounding would split a committee. So [`import`] reads those formats
//! once, on the machine of whoever adds the model, and the network only ever sees the result, by hash (D1).
//! Samples lie at fixed places, so a split is read from its file piece by piece and never fills the memory.

pub mod import;

use crate::MlError;
use oda_consensus::architecture::SampleShape;
use safetensors::tensor::{Dtype, TensorInfo, TensorView};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Largest header of a split (K3).
const MAX_HEADER: u64 = 64 << 10;

/// Samples of one split.
#[derive(Debug)]
pub struct Dataset {
    source: Source,
    shape: SampleShape,
    samples: u32,
    /// Where the inputs (or the text) and the classes begin, and whether inputs are F32.
    inputs_at: u64,
    classes_at: u64,
    reals: bool,
}

#[derive(Debug)]
enum Source {
    Memory(Vec<u8>),
    File(File, u64),
}

impl Source {
    fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File(_, len) => *len,
        }
    }

    /// Fills `out` from offset `at`.
    fn read(&self, at: u64, out: &mut [u8]) -> Result<(), MlError> {
        let outside = || MlError::Data(format!("no {} bytes at {at}", out.len()));
        match self {
            Self::Memory(bytes) => {
                let start = usize::try_from(at).map_err(|_| outside())?;
                let end = start.checked_add(out.len()).ok_or_else(outside)?;
                out.copy_from_slice(bytes.get(start..end).ok_or_else(outside)?);
                Ok(())
            }
            Self::File(file, _) => file.read_exact_at(out, at).map_err(|e| MlError::Data(e.to_string())),
        }
    }
}

/// Some samples, ready for a backend.
#[derive(Clone, Debug, PartialEq)]
pub enum Batch {
    /// Rows of bytes; the model sees them divided by 255.
    Bytes {
        /// `n * features` values.
        inputs: Vec<u8>,
        /// `n` classes.
        classes: Vec<u8>,
    },
    /// Rows of numbers.
    Reals {
        /// `n * features` values, all finite.
        inputs: Vec<f32>,
        /// `n` classes.
        classes: Vec<u8>,
    },
    /// Windows of text: `n * (context + 1)` bytes.
    Windows {
        /// The windows, one after the other.
        bytes: Vec<u8>,
    },
}

impl Dataset {
    /// Reads a split from memory.
    ///
    /// # Errors
    /// If the bytes are no safetensors of the expected shape with at least `samples` samples.
    pub fn from_bytes(bytes: Vec<u8>, shape: SampleShape, samples: u32) -> Result<Self, MlError> {
        Self::new(Source::Memory(bytes), shape, samples)
    }

    /// Opens a split in a file; only what is asked for is read.
    ///
    /// # Errors
    /// As [`Dataset::from_bytes`], or if the file cannot be read.
    pub fn open(path: &Path, shape: SampleShape, samples: u32) -> Result<Self, MlError> {
        let fail = |e: std::io::Error| MlError::Data(format!("{}: {e}", path.display()));
        let file = File::open(path).map_err(fail)?;
        let len = file.metadata().map_err(fail)?.len();
        Self::new(Source::File(file, len), shape, samples)
    }

    fn new(source: Source, shape: SampleShape, samples: u32) -> Result<Self, MlError> {
        let fail = |problem: String| Err(MlError::Data(problem));
        let mut word = [0; 8];
        source.read(0, &mut word)?;
        let header_len = u64::from_le_bytes(word);
        if header_len > MAX_HEADER {
            return fail("not a safetensors file, or its header is too long".into());
        }
        let mut header = vec![0; usize::try_from(header_len).unwrap_or(0)];
        source.read(8, &mut header)?;
        let mut entries: BTreeMap<String, serde_json::Value> =
            serde_json::from_slice(&header).map_err(|e| MlError::Data(format!("not a safetensors header: {e}")))?;
        entries.remove("__metadata__");
        let body = 8 + header_len;
        let mut find = |name: &str, rank: usize| -> Result<(TensorInfo, u64), MlError> {
            let missing = || MlError::Data(format!("no tensor `{name}`"));
            let info: TensorInfo = serde_json::from_value(entries.remove(name).ok_or_else(missing)?)
                .map_err(|e| MlError::Data(format!("tensor `{name}`: {e}")))?;
            let elements = info.shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
            let size = if info.dtype == Dtype::F32 { 4 } else { 1 };
            let (from, to) = info.data_offsets;
            let fits = matches!(info.dtype, Dtype::U8 | Dtype::F32)
                && info.shape.len() == rank
                && elements.and_then(|n| n.checked_mul(size)) == to.checked_sub(from)
                && body.checked_add(to as u64).is_some_and(|end| end <= source.len());
            if !fits {
                return Err(MlError::Data(format!(
                    "tensor `{name}` is {:?} {:?}, or cut short",
                    info.dtype, info.shape
                )));
            }
            Ok((info, body + from as u64))
        };
        let mut out =
            Self { shape, samples, inputs_at: 0, classes_at: 0, reals: false, source: Source::Memory(vec![]) };
        match shape {
            SampleShape::Row { inputs, classes } => {
                let ((x, x_at), (y, y_at)) = (find("inputs", 2)?, find("classes", 1)?);
                let (rows, width) = (x.shape.first().copied().unwrap_or(0), x.shape.get(1).copied().unwrap_or(0));
                if width != inputs as usize {
                    return fail(format!("samples have {width} features, the model takes {inputs}"));
                }
                if y.dtype != Dtype::U8 || y.shape.first() != Some(&rows) {
                    return fail(format!("{rows} rows, but classes are {:?} {:?}", y.dtype, y.shape));
                }
                if rows < samples as usize {
                    return fail(format!("{rows} samples, {samples} are needed"));
                }
                (out.inputs_at, out.classes_at, out.reals) = (x_at, y_at, x.dtype == Dtype::F32);
                out.source = source;
                out.check_rows(classes)?;
            }
            SampleShape::Window { context } => {
                let (text, at) = find("text", 1)?;
                let bytes = text.shape.first().copied().unwrap_or(0);
                let there = windows(bytes as u64, context);
                if text.dtype != Dtype::U8 {
                    return fail("text must be bytes".into());
                }
                if there < u64::from(samples) {
                    return fail(format!("{there} samples of {context} bytes, {samples} are needed"));
                }
                out.inputs_at = at;
                out.source = source;
            }
        }
        Ok(out)
    }

    /// Every class within range and every number finite, so that no batch can fail later.
    fn check_rows(&self, classes: u32) -> Result<(), MlError> {
        const AT_ONCE: u32 = 1024;
        for from in (0..self.samples).step_by(AT_ONCE as usize) {
            let some: Vec<u32> = (from..self.samples.min(from + AT_ONCE)).collect();
            let (Batch::Bytes { classes: found, .. } | Batch::Reals { classes: found, .. }) = self.batch(&some)? else {
                continue;
            };
            if let Some(class) = found.iter().find(|c| u32::from(**c) >= classes) {
                return Err(MlError::Data(format!("class {class}, but the model has {classes} classes")));
            }
        }
        Ok(())
    }

    /// Number of samples.
    pub fn len(&self) -> u32 {
        self.samples
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.samples == 0
    }

    /// What a sample is.
    pub fn shape(&self) -> SampleShape {
        self.shape
    }

    /// Reads these samples.
    ///
    /// # Errors
    /// If an index is out of range, the file cannot be read, or a number in it is not finite.
    pub fn batch(&self, indices: &[u32]) -> Result<Batch, MlError> {
        if let Some(index) = indices.iter().find(|i| **i >= self.samples) {
            return Err(MlError::Data(format!("no sample {index}: there are {}", self.samples)));
        }
        match self.shape {
            SampleShape::Window { context } => {
                let bytes = self.gather(indices, self.inputs_at, u64::from(context), context as usize + 1)?;
                Ok(Batch::Windows { bytes })
            }
            SampleShape::Row { inputs, .. } => {
                let width = if self.reals { 4 * inputs as usize } else { inputs as usize };
                let raw = self.gather(indices, self.inputs_at, width as u64, width)?;
                let classes = self.gather(indices, self.classes_at, 1, 1)?;
                if !self.reals {
                    return Ok(Batch::Bytes { inputs: raw, classes });
                }
                let inputs: Vec<f32> =
                    raw.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
                if inputs.iter().any(|v| !v.is_finite()) {
                    return Err(MlError::Data("the inputs hold NaN or infinity".into()));
                }
                Ok(Batch::Reals { inputs, classes })
            }
        }
    }

    /// `width` bytes from `at + index * stride` for each index.
    fn gather(&self, indices: &[u32], at: u64, stride: u64, width: usize) -> Result<Vec<u8>, MlError> {
        let mut out = vec![0; indices.len() * width];
        for (index, part) in indices.iter().zip(out.chunks_exact_mut(width)) {
            self.source.read(at + u64::from(*index) * stride, part)?;
        }
        Ok(out)
    }
}

/// Samples of `context` predictions in so many bytes of text.
pub fn windows(bytes: u64, context: u32) -> u64 {
    bytes.saturating_sub(1) / u64::from(context.max(1))
}

fn file(tensors: Vec<(&str, Dtype, Vec<usize>, &[u8])>) -> Result<Vec<u8>, MlError> {
    let fail = |e: safetensors::SafeTensorError| MlError::Data(e.to_string());
    let mut views = Vec::new();
    for (name, dtype, shape, bytes) in tensors {
        views.push((name, TensorView::new(dtype, shape, bytes).map_err(fail)?));
    }
    safetensors::serialize(views, None).map_err(fail)
}

/// The blob of rows of bytes.
///
/// # Errors
/// If the lengths do not fit together.
pub fn byte_rows(features: usize, inputs: &[u8], classes: &[u8]) -> Result<Vec<u8>, MlError> {
    let n = classes.len();
    file(vec![("inputs", Dtype::U8, vec![n, features], inputs), ("classes", Dtype::U8, vec![n], classes)])
}

/// The blob of rows of numbers.
///
/// # Errors
/// If the lengths do not fit together.
pub fn real_rows(features: usize, inputs: &[f32], classes: &[u8]) -> Result<Vec<u8>, MlError> {
    let n = classes.len();
    let raw: Vec<u8> = inputs.iter().flat_map(|v| v.to_le_bytes()).collect();
    file(vec![("inputs", Dtype::F32, vec![n, features], &raw), ("classes", Dtype::U8, vec![n], classes)])
}

/// The blob of running text.
///
/// # Errors
/// Never, for any text.
pub fn text(bytes: &[u8]) -> Result<Vec<u8>, MlError> {
    file(vec![("text", Dtype::U8, vec![bytes.len()], bytes)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ROW: SampleShape = SampleShape::Row { inputs: 2, classes: 3 };
    const WINDOW: SampleShape = SampleShape::Window { context: 4 };

    #[test]
    fn reads_what_was_written_from_memory_and_file() {
        let blobs = [
            (byte_rows(2, &[1, 2, 3, 4], &[0, 2]).unwrap(), ROW, 2),
            (real_rows(2, &[0.5, -1.0, 2.0, 3.0], &[1, 0]).unwrap(), ROW, 2),
            (text(b"in the beginning").unwrap(), WINDOW, 3),
        ];
        let dir = tempfile::tempdir().unwrap();
        for (blob, shape, n) in blobs {
            let path = dir.path().join("split");
            std::fs::write(&path, &blob).unwrap();
            let memory = Dataset::from_bytes(blob, shape, n).unwrap();
            let file = Dataset::open(&path, shape, n).unwrap();
            let batch = memory.batch(&[n - 1, 0]).unwrap();
            assert_eq!(batch, file.batch(&[n - 1, 0]).unwrap());
            match batch {
                Batch::Bytes { inputs, classes } => assert_eq!((inputs, classes), (vec![3, 4, 1, 2], vec![2, 0])),
                Batch::Reals { inputs, classes } => {
                    assert_eq!((inputs, classes), (vec![2.0, 3.0, 0.5, -1.0], vec![0, 1]));
                }
                Batch::Windows { bytes } => assert_eq!(bytes, b"eginnin th"),
            }
            assert!(memory.batch(&[n]).unwrap_err().to_string().contains("no sample"));
        }
    }

    #[test]
    fn explains_what_is_wrong() {
        let error = |blob: Vec<u8>, shape, n| Dataset::from_bytes(blob, shape, n).unwrap_err().to_string();
        let rows = || byte_rows(2, &[1, 2, 3, 4], &[0, 2]).unwrap();
        assert!(error(rows(), ROW, 3).contains("2 samples, 3 are needed"));
        assert!(error(rows(), SampleShape::Row { inputs: 3, classes: 3 }, 2).contains("2 features, the model takes 3"));
        assert!(error(rows(), SampleShape::Row { inputs: 2, classes: 2 }, 2).contains("class 2"));
        assert!(error(rows(), WINDOW, 1).contains("no tensor `text`"));
        assert!(error(text(b"short").unwrap(), WINDOW, 2).contains("1 samples of 4 bytes, 2 are needed"));
        assert!(error(real_rows(2, &[f32::NAN; 4], &[0, 0]).unwrap(), ROW, 2).contains("NaN"));
        let cut = rows();
        assert!(error(cut[..cut.len() - 1].to_vec(), ROW, 2).contains("cut short"));
        assert!(error(vec![0xff; 40], ROW, 1).contains("safetensors"));
        assert!(byte_rows(2, &[1], &[0, 2]).is_err());
    }

    proptest! {
        #[test] // K3
        fn garbage_never_panics(header in "[ -~]{0,120}", body in proptest::collection::vec(any::<u8>(), 0..64)) {
            let framed = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &body].concat();
            for shape in [ROW, WINDOW] {
                let _ = Dataset::from_bytes(framed.clone(), shape, 1);
                let _ = Dataset::from_bytes(body.clone(), shape, 1);
            }
        }

        #[test] // K3: one changed byte of the header
        fn a_changed_header_never_panics(at in 0usize..160, to: u8) {
            let mut blob = byte_rows(2, &[1, 2, 3, 4], &[0, 2]).unwrap();
            if let Some(b) = blob.get_mut(at) {
                *b = to;
            }
            if let Ok(data) = Dataset::from_bytes(blob, ROW, 2) {
                let _ = data.batch(&[0, 1]);
            }
        }
    }
}
