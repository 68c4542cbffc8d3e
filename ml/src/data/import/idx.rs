//! Standard IDX files, as MNIST and its kin come in, plain or gzip.

use super::{Inputs, MAX_CELLS, MAX_ROWS, Rows, problem, unpack};
use crate::MlError;

/// Dimensions and content of an IDX file of unsigned bytes.
fn parse(bytes: Vec<u8>, what: &str) -> Result<(Vec<usize>, Vec<u8>), MlError> {
    let fail = |problem: String| MlError::Data(format!("{what}: {problem}"));
    let data = unpack(bytes).map_err(|e| fail(problem(&e)))?;
    let Some((&[0, 0, 8, dims @ 1..=4], rest)) = data.split_first_chunk::<4>() else {
        return Err(fail("not an IDX file of unsigned bytes with 1 to 4 dimensions".into()));
    };
    let header = rest.split_at_checked(4 * usize::from(dims));
    let (head, body) = header.ok_or_else(|| fail("shorter than an IDX header".into()))?;
    let size = |d: &[u8]| d.try_into().map_or(0, u32::from_be_bytes) as usize;
    let sizes: Vec<usize> = head.chunks_exact(4).map(size).collect();
    let expected = sizes.iter().try_fold(1usize, |a, b| a.checked_mul(*b));
    if expected != Some(body.len()) {
        let promised = expected.map_or("too many".into(), |n| n.to_string());
        return Err(fail(format!("the header promises {promised} bytes, there are {}", body.len())));
    }
    Ok((sizes, body.to_vec()))
}

/// Parses an image file (rows x anything) and its label file.
///
/// # Errors
/// If either is not IDX, they do not fit together, or a limit is passed.
pub fn read(images: Vec<u8>, labels: Vec<u8>) -> Result<Rows, MlError> {
    let (shape, pixels) = parse(images, "images")?;
    let (label_shape, classes) = parse(labels, "labels")?;
    let (count, features) = match shape.as_slice() {
        [count, rest @ ..] if !rest.is_empty() => (*count, rest.iter().fold(1usize, |n, d| n.saturating_mul(*d))),
        _ => return Err(MlError::Data("images: one dimension only; swapped with the labels?".into())),
    };
    if label_shape.len() != 1 {
        return Err(MlError::Data("labels: not an IDX file of one dimension; swapped with the images?".into()));
    }
    if count != classes.len() {
        return Err(MlError::Data(format!("{count} images but {} labels", classes.len())));
    }
    if count > MAX_ROWS || pixels.len() > 4 * MAX_CELLS {
        return Err(MlError::Data(format!("more than {MAX_ROWS} images or {} pixels", 4 * MAX_CELLS)));
    }
    Ok(Rows { features, inputs: Inputs::Bytes(pixels), classes })
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
        let rows = read(images.clone(), labels.clone()).unwrap();
        assert_eq!((rows.len(), rows.features), (3, 4));
        assert_eq!(rows.select(&[2, 0, 9]).classes, [2, 0]);
        let error = |i: &[u8], l: &[u8]| read(i.to_vec(), l.to_vec()).unwrap_err().to_string();
        assert!(error(&images, &write(&[2], &[0, 1])).contains("3 images but 2 labels"));
        assert!(error(&images[..20], &labels).contains("promises 12 bytes"));
        assert!(error(&images, &images).contains("swapped"));
        assert!(error(&labels, &labels).contains("swapped"));
        assert!(error(&images[..9], &labels).contains("shorter than an IDX header"));
        assert!(error(b"PNG", &labels).contains("not an IDX"));
    }

    proptest! {
        #[test] // K3
        fn garbage_never_panics(a in proptest::collection::vec(any::<u8>(), 0..64), b in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = read(a.clone(), b.clone());
            let _ = read([&[0x1f, 0x8b][..], &a].concat(), b.clone());
            let _ = read([&[0, 0, 8, 2][..], &a].concat(), [&[0, 0, 8, 1][..], &b].concat());
        }
    }
}
