//! The secret seeds of a validator's committee seats on disk (C2, C5): `keys/epoch-N`, one for each
//! epoch it deals or sits in, encrypted to the node's own key, deleted when the epoch is of no more use.

use crate::identity::{keys_dir, write_secret};
use anyhow::{Context, Result};
use oda_consensus::frost::{EncryptionSecret, EpochSeed};
use rand_core::{CryptoRng, RngCore};
use std::path::{Path, PathBuf};

fn path(datadir: &Path, epoch: u64) -> PathBuf {
    keys_dir(datadir).join(format!("epoch-{epoch}"))
}

/// Reads the seed of an epoch; `None` if this node never had one.
///
/// # Errors
/// If the file is damaged: this node must not sign in that epoch, and does not start.
pub fn load(datadir: &Path, epoch: u64, secret: &EncryptionSecret) -> Result<Option<EpochSeed>> {
    let path = path(datadir, epoch);
    if !path.exists() {
        return Ok(None);
    }
    let open = || -> Result<EpochSeed> {
        let text = std::fs::read_to_string(&path)?;
        Ok(EpochSeed::open(&hex::decode(text.trim())?, epoch, secret)?)
    };
    open().map(Some).with_context(|| {
        format!(
            "{}: the key file is damaged, so this node must not sign; restore it from a backup of this node, or run \
             without --validator until epoch {epoch} is over and then delete the file",
            path.display()
        )
    })
}

/// Makes a new seed and stores it, synced, before anything is dealt from it.
///
/// # Errors
/// If it cannot be written.
pub fn create(
    datadir: &Path,
    epoch: u64,
    secret: &EncryptionSecret,
    rng: &mut (impl RngCore + CryptoRng),
) -> Result<EpochSeed> {
    let seed = EpochSeed::random(rng);
    let sealed = seed.seal(epoch, &secret.public(), rng)?;
    write_secret(&path(datadir, epoch), hex::encode(sealed).as_bytes())?;
    Ok(seed)
}

/// Deletes the seed of an epoch that is of no more use: who takes the machine later cannot sign for it.
///
/// # Errors
/// If it cannot be deleted.
pub fn forget(datadir: &Path, epoch: u64) -> Result<()> {
    match std::fs::remove_file(path(datadir, epoch)) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("deleting {}", path(datadir, epoch).display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_core::OsRng;

    #[test] // C5: encrypted at rest, and a damaged or foreign file is never used
    fn seeds_are_sealed_and_damage_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let (mine, other) = (EncryptionSecret::derive(&[1; 32]), EncryptionSecret::derive(&[2; 32]));
        assert!(load(dir.path(), 3, &mine).unwrap().is_none());
        create(dir.path(), 3, &mine, &mut OsRng).unwrap();
        assert!(load(dir.path(), 3, &mine).unwrap().is_some());
        let error = format!("{:#}", load(dir.path(), 3, &other).unwrap_err());
        assert!(error.contains("epoch-3") && error.contains("must not sign"), "{error}");
        let file = path(dir.path(), 3);
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replacen(|c: char| c == '7' || c == 'a', "0", 1)).unwrap();
        assert!(load(dir.path(), 3, &mine).is_err());
        std::fs::rename(&file, path(dir.path(), 4)).unwrap();
        std::fs::write(path(dir.path(), 4), &text).unwrap();
        assert!(load(dir.path(), 4, &mine).is_err(), "a file of another epoch");
        forget(dir.path(), 4).unwrap();
        assert!(load(dir.path(), 4, &mine).unwrap().is_none());
    }
}
