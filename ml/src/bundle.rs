//! A model on disk as `oda model add` leaves it: the manifest and every blob it names, each under its hash.

use crate::MlError;
use crate::model_file::Bundle;
use oda_consensus::codec;
use oda_consensus::ids::BlobRef;
use oda_consensus::manifest::Manifest;
use oda_consensus::sealed::GuardKey;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// File of the manifest's canonical bytes.
const MANIFEST: &str = "manifest";
/// File of the key of its sealed guards, for the owner's eyes.
const GUARD_KEY: &str = "guard.key";

fn failed(path: &Path) -> impl Fn(std::io::Error) -> MlError + '_ {
    move |e| MlError::ModelFile(format!("{}: {e}", path.display()))
}

/// Writes a model into a folder.
///
/// # Errors
/// If the folder cannot be written.
pub fn save(bundle: &Bundle, dir: &Path) -> Result<(), MlError> {
    std::fs::create_dir_all(dir).map_err(failed(dir))?;
    for bytes in &bundle.blobs {
        let path = dir.join(BlobRef::of(bytes).hash.to_string());
        std::fs::write(&path, bytes).map_err(failed(&path))?;
    }
    if let Some(key) = &bundle.guard_key {
        let path = dir.join(GUARD_KEY);
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&path).map_err(failed(&path))?;
        file.write_all(&key.public().0).map_err(failed(&path))?;
    }
    // last, so that a folder with a manifest is whole
    let path = dir.join(MANIFEST);
    std::fs::write(&path, codec::encode(&bundle.manifest)).map_err(failed(&path))
}

/// Reads a model that [`save`] wrote.
///
/// # Errors
/// If a file is missing, or is not what its name says.
pub fn open(dir: &Path) -> Result<Bundle, MlError> {
    let path = dir.join(MANIFEST);
    let damaged = |why: String| MlError::ModelFile(format!("{}: {why}; run `oda model add` again", dir.display()));
    let bytes = std::fs::read(&path).map_err(failed(&path))?;
    let manifest: Manifest = codec::decode(&bytes).map_err(|e| damaged(format!("manifest: {e}")))?;
    manifest.check().map_err(|e| damaged(e.to_string()))?;
    let mut names = manifest.blobs();
    // the initial head last, as a bundle has it
    names.rotate_left(1);
    let mut blobs: Vec<Vec<u8>> = Vec::new();
    for (i, blob) in names.iter().enumerate() {
        if names.iter().take(i).any(|earlier| earlier == blob) {
            continue;
        }
        let path = dir.join(blob.hash.to_string());
        let bytes = std::fs::read(&path).map_err(failed(&path))?;
        if BlobRef::of(&bytes) != *blob {
            return Err(damaged(format!("{} does not hold what its name says", blob.hash)));
        }
        blobs.push(bytes);
    }
    let guard_key = match std::fs::read(dir.join(GUARD_KEY)) {
        Ok(bytes) => Some(GuardKey::new(bytes.try_into().map_err(|_| damaged(format!("{GUARD_KEY} is no key")))?)),
        Err(_) if manifest.has_sealed_guards() => return Err(damaged(format!("{GUARD_KEY} is missing"))),
        Err(_) => None,
    };
    Ok(Bundle { manifest, blobs, guard_key })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test] // D1
    fn a_saved_model_is_the_same_model_and_damage_is_noticed() {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/iris.toml");
        let made = crate::model_file::load(&shipped, None).unwrap();
        let dir = tempfile::tempdir().unwrap();
        save(&made, dir.path()).unwrap();
        let read = crate::model_file::load(dir.path(), None).unwrap();
        assert_eq!((read.manifest.id(), &read.blobs), (made.manifest.id(), &made.blobs));
        let one = dir.path().join(made.manifest.data.train.blob.hash.to_string());
        let mut bytes = std::fs::read(&one).unwrap();
        bytes[20] ^= 1;
        std::fs::write(&one, bytes).unwrap();
        let error = crate::model_file::load(dir.path(), None).err().unwrap().to_string();
        assert!(error.contains("run `oda model add` again"), "{error}");
        std::fs::remove_file(&one).unwrap();
        assert!(open(dir.path()).is_err());
    }
}
