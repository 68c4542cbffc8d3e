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

/// Most seeds a node keeps at a time: its own epoch, the coming one, and what is not yet forgotten.
const MAX_SEEDS: usize = 64;

/// All seeds as they lie on disk, sealed to the node's own key: what a mnemonic does not restore.
///
/// # Errors
/// If the directory cannot be read.
pub fn export(datadir: &Path) -> Result<Vec<(u64, String)>> {
    let dir = keys_dir(datadir);
    let mut seeds = Vec::new();
    for entry in std::fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        let epoch = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_prefix("epoch-")?.parse().ok());
        if let (Some(epoch), true) = (epoch, seeds.len() < MAX_SEEDS) {
            let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            seeds.push((epoch, text.trim().to_string()));
        }
    }
    seeds.sort();
    Ok(seeds)
}

/// Puts exported seeds back; one that is there already is kept.
///
/// # Errors
/// If one is not this node's, or cannot be written.
pub fn import(datadir: &Path, seeds: &[(u64, String)], secret: &EncryptionSecret) -> Result<()> {
    anyhow::ensure!(seeds.len() <= MAX_SEEDS, "{} committee keys: at most {MAX_SEEDS}", seeds.len());
    for (epoch, sealed) in seeds {
        let bytes = hex::decode(sealed).with_context(|| format!("the committee key of epoch {epoch} is damaged"))?;
        EpochSeed::open(&bytes, *epoch, secret)
            .with_context(|| format!("the committee key of epoch {epoch} is damaged or another node's"))?;
        if !path(datadir, *epoch).exists() {
            write_secret(&path(datadir, *epoch), sealed.as_bytes())?;
        }
    }
    Ok(())
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
        std::fs::write(&file, text.replacen(['7', 'a'], "0", 1)).unwrap();
        assert!(load(dir.path(), 3, &mine).is_err());
        std::fs::rename(&file, path(dir.path(), 4)).unwrap();
        std::fs::write(path(dir.path(), 4), &text).unwrap();
        assert!(load(dir.path(), 4, &mine).is_err(), "a file of another epoch");
        forget(dir.path(), 4).unwrap();
        assert!(load(dir.path(), 4, &mine).unwrap().is_none());
    }

    #[test] // C5: what a mnemonic does not restore can be carried over, and only by its owner
    fn seeds_are_carried_over_sealed() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (mine, other) = (EncryptionSecret::derive(&[1; 32]), EncryptionSecret::derive(&[2; 32]));
        create(here.path(), 3, &mine, &mut OsRng).unwrap();
        create(here.path(), 4, &mine, &mut OsRng).unwrap();
        let seeds = export(here.path()).unwrap();
        assert_eq!(seeds.iter().map(|s| s.0).collect::<Vec<_>>(), [3, 4]);
        assert!(import(there.path(), &seeds, &other).is_err());
        assert!(import(there.path(), &[(5, seeds[0].1.clone())], &mine).is_err(), "of another epoch");
        import(there.path(), &seeds, &mine).unwrap();
        import(there.path(), &seeds, &mine).unwrap();
        assert!(load(there.path(), 3, &mine).unwrap().is_some() && load(there.path(), 4, &mine).unwrap().is_some());
    }
}
