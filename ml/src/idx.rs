//! Standard IDX files, as MNIST and its kin come in, plain or gzip.

use crate::MlError;
use std::io::Read as _;

/// Largest file after unpacking, bytes (K3).
const MAX_UNPACKED: u64 = 512 << 20;

/// Images and labels of one split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// Pixels of one image.
    pub features: usize,
    /// One byte a pixel; the model sees it divided by 255.
    pub pixels: Vec<u8>,
    /// Class of each image.
    pub labels: Vec<u8>,
}

fn unpack(bytes: &[u8]) -> Result<Vec<u8>, MlError> {
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(bytes.to_vec());
    }
    let mut out = Vec::new();
    let mut gz = flate2::read::GzDecoder::new(bytes).take(MAX_UNPACKED + 1);
    gz.read_to_end(&mut out).map_err(|e| MlError::Data(format!("damaged gzip: {e}")))?;
    if out.len() as u64 > MAX_UNPACKED {
        return Err(MlError::Data(format!("unpacks to more than {MAX_UNPACKED} bytes")));
    }
    Ok(out)
}

/// Dimensions and content of an IDX file of unsigned bytes.
fn parse(bytes: &[u8], dims: u8, what: &str) -> Result<(Vec<usize>, Vec<u8>), MlError> {
    let fail = |problem: String| MlError::Data(format!("{what}: {problem}"));
    let data = unpack(bytes)?;
    let header = 4 + 4 * usize::from(dims);
    let (head, body) = data.split_at_checked(header).ok_or_else(|| fail("shorter than an IDX header".into()))?;
    if head[..4] != [0, 0, 8, dims] {
        return Err(fail(format!("not an IDX file of unsigned bytes with {dims} dimensions")));
    }
    let mut sizes = Vec::new();
    for d in head[4..].chunks_exact(4) {
        sizes.push(u32::from_be_bytes([d[0], d[1], d[2], d[3]]) as usize);
    }
    let expected =
        sizes.iter().try_fold(1usize, |a, b| a.checked_mul(*b)).ok_or_else(|| fail("impossible size".into()))?;
    if expected != body.len() {
        return Err(fail(format!("the header promises {expected} bytes, there are {}", body.len())));
    }
    Ok((sizes, body.to_vec()))
}

impl Dataset {
    /// Parses an image file and its label file, and keeps the first `samples`.
    ///
    /// # Errors
    /// If either is not IDX, they do not fit together, or there are fewer than `samples`.
    pub fn from_idx(images: &[u8], labels: &[u8], samples: u32) -> Result<Self, MlError> {
        let (shape, mut pixels) = parse(images, 3, "images")?;
        let (_, mut labels) = parse(labels, 1, "labels")?;
        let features = shape[1].saturating_mul(shape[2]);
        if shape[0] != labels.len() {
            return Err(MlError::Data(format!("{} images but {} labels", shape[0], labels.len())));
        }
        let samples = samples as usize;
        if labels.len() < samples {
            return Err(MlError::Data(format!("{} samples, {samples} are needed", labels.len())));
        }
        pixels.truncate(samples * features);
        labels.truncate(samples);
        Ok(Self { features, pixels, labels })
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Pixels and label of one sample.
    pub fn sample(&self, index: u32) -> Option<(&[u8], u8)> {
        let i = index as usize;
        let pixels = self.pixels.get(i.checked_mul(self.features)?..)?.get(..self.features)?;
        Some((pixels, *self.labels.get(i)?))
    }

    /// Checks that samples fit an input width and a number of classes.
    ///
    /// # Errors
    /// What does not fit.
    pub fn check(&self, inputs: u32, classes: u32) -> Result<(), MlError> {
        if self.features != inputs as usize {
            return Err(MlError::Data(format!("images have {} pixels, the model takes {inputs}", self.features)));
        }
        match self.labels.iter().max() {
            Some(max) if u32::from(*max) >= classes => {
                Err(MlError::Data(format!("label {max}, but the model has {classes} classes")))
            }
            _ => Ok(()),
        }
    }
}

/// Writes an IDX file of unsigned bytes (tests and tools).
pub fn write(dims: &[u32], body: &[u8]) -> Vec<u8> {
    let mut out = vec![0, 0, 8, u8::try_from(dims.len()).unwrap_or(u8::MAX)];
    dims.iter().for_each(|d| out.extend_from_slice(&d.to_be_bytes()));
    out.extend_from_slice(body);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_was_written_and_explains_what_is_wrong() {
        let (images, labels) = (write(&[3, 2, 2], &[1; 12]), write(&[3], &[0, 1, 2]));
        let data = Dataset::from_idx(&images, &labels, 2).unwrap();
        assert_eq!((data.len(), data.features), (2, 4));
        assert!(data.sample(2).is_none());
        let error = |i: &[u8], l: &[u8], n| Dataset::from_idx(i, l, n).unwrap_err().to_string();
        assert!(error(&images, &write(&[2], &[0, 1]), 2).contains("3 images but 2 labels"));
        assert!(error(&images, &labels, 9).contains("3 samples, 9 are needed"));
        assert!(error(&images[..20], &labels, 1).contains("promises 12 bytes"));
        assert!(error(&images, &images, 1).contains("not an IDX"));
        assert!(error(&labels, &labels, 1).contains("shorter than an IDX header"));
        assert!(data.check(5, 3).unwrap_err().to_string().contains("4 pixels"));
        assert!(data.check(4, 1).unwrap_err().to_string().contains("label 1"));
    }

    proptest! {
        #[test] // K3
        fn garbage_never_panics(a in proptest::collection::vec(any::<u8>(), 0..64), b in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Dataset::from_idx(&a, &b, 1);
            let gz = [&[0x1f, 0x8b][..], &a].concat();
            let _ = Dataset::from_idx(&gz, &b, 1);
        }
    }
}
