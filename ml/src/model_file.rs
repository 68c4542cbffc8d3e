//! A model described in TOML, with its data beside it, turned into a manifest and the blobs it names.

use crate::{Dataset, MlError, weights};
use oda_consensus::ids::{Beacon, BlobRef};
use oda_consensus::manifest::{Architecture, DataSet, Judging, Manifest, Objective, Split, Timing, Training, WorkMode};
use serde::Deserialize;
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    /// Any text; the initial weights follow from it.
    seed: String,
    architecture: Architecture,
    objective: Objective,
    data: Data,
    training: Training,
    judging: Judging,
    timing: Timing,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Data {
    train: Files,
    eval: Files,
    test: Files,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Files {
    /// IDX files, relative to the model file.
    images: PathBuf,
    labels: PathBuf,
    /// Only the first so many samples.
    samples: u32,
}

/// A model ready to be announced.
pub struct Bundle {
    /// Its manifest.
    pub manifest: Manifest,
    /// Bytes of every blob the manifest names.
    pub blobs: Vec<Vec<u8>>,
}

/// Reads a model file and the data it names.
///
/// # Errors
/// If a file is missing or malformed, a key unknown, or the data too small; says which and what is needed.
pub fn load(path: &Path) -> Result<Bundle, MlError> {
    let fail = |e: String| MlError::ModelFile(format!("{}: {e}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|e| fail(e.to_string()))?;
    let file: File = toml::from_str(&text).map_err(|e| fail(e.to_string()))?;
    let dir = path.parent().unwrap_or(Path::new("."));
    let Architecture::Mlp { inputs, classes, .. } = &file.architecture;
    let mut blobs = Vec::new();
    let mut split = |files: &Files, name: &str| -> Result<Split, MlError> {
        let mut read = |p: &Path| -> Result<(BlobRef, usize), MlError> {
            let full = dir.join(p);
            let bytes =
                std::fs::read(&full).map_err(|e| fail(format!("{name}: cannot read {}: {e}", full.display())))?;
            let blob = BlobRef::of(&bytes);
            blobs.push(bytes);
            Ok((blob, blobs.len() - 1))
        };
        let ((images, i), (labels, l)) = (read(&files.images)?, read(&files.labels)?);
        let data = Dataset::from_idx(&blobs[i], &blobs[l], files.samples).map_err(|e| fail(format!("{name}: {e}")))?;
        data.check(*inputs, *classes).map_err(|e| fail(format!("{name}: {e}")))?;
        Ok(Split { images, labels, samples: files.samples })
    };
    let data = DataSet {
        train: split(&file.data.train, "train")?,
        eval: split(&file.data.eval, "eval")?,
        test: split(&file.data.test, "test")?,
    };
    let mut manifest = Manifest {
        name: file.name,
        architecture: file.architecture,
        objective: file.objective,
        data,
        // a stand-in until the weights are drawn: the check below must pass before anything is sized by them
        initial_head: BlobRef::of(b"-"),
        work_mode: WorkMode::Assigned,
        training: file.training,
        judging: file.judging,
        timing: file.timing,
    };
    manifest.check().map_err(|e| fail(e.to_string()))?;
    let seed = Beacon([0; 32]).seed("initial head", &[file.seed.as_bytes()]);
    let head = weights::to_bytes(&manifest, &weights::initial(&manifest, seed))?;
    manifest.initial_head = BlobRef::of(&head);
    blobs.push(head);
    manifest.check().map_err(|e| fail(e.to_string()))?;
    let expected =
        crate::delta::encoded_len(usize::try_from(manifest.parameters()).unwrap_or(usize::MAX), &manifest.training);
    if manifest.judging.max_delta_bytes < expected as u64 {
        return Err(fail(format!("max_delta_bytes must be at least {expected} for this compression")));
    }
    Ok(Bundle { manifest, blobs })
}
