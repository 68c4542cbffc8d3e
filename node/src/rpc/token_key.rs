//! The secret that scoped tokens are signed with: a file in the data directory, its owner's alone, made once.
//!
//! The server reads it whenever a token is shown, so that a new key (`oda token revoke-all`) ends every older token at
//! once, also on connections that are open; a key held in memory would let them live until the node starts again.

use anyhow::{Context, Result, ensure};
use oda_lightning::l402::RootKey;
use rand_core::{OsRng, RngCore as _};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Its file in the data directory.
pub const TOKEN_KEY_FILE: &str = "rpc.tokens.key";
const KEY_BYTES: usize = 32;
/// More is not read (K3): the key in hex, and a line end.
const MAX_FILE_BYTES: u64 = 2 * KEY_BYTES as u64 + 2;

/// Where the key of a data directory lies.
#[derive(Clone, Debug)]
pub struct TokenKeyFile(PathBuf);

impl TokenKeyFile {
    /// That of this data directory.
    pub fn of(datadir: &Path) -> Self {
        Self(datadir.join(TOKEN_KEY_FILE))
    }

    /// The key, if one was ever made.
    ///
    /// # Errors
    /// If the file cannot be read or holds something else.
    pub fn read(&self) -> Result<Option<RootKey>> {
        let what = || format!("cannot read {}", self.0.display());
        let file = match std::fs::File::open(&self.0) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            opened => opened.with_context(what)?,
        };
        let mut text = Zeroizing::new(String::with_capacity(128));
        file.take(MAX_FILE_BYTES).read_to_string(&mut text).with_context(what)?;
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        hex::decode_to_slice(text.trim(), key.as_mut_slice()).map_err(|_| {
            anyhow::anyhow!("{} holds no key: `oda token revoke-all` makes a new one", self.0.display())
        })?;
        Ok(Some(RootKey::new(&key)))
    }

    /// The key, made now if there is none.
    ///
    /// # Errors
    /// If the file cannot be read or written.
    pub fn read_or_make(&self) -> Result<RootKey> {
        if let Some(key) = self.read()? {
            return Ok(key);
        }
        let new = self.write_beside()?;
        // of two that make one at the same moment, the first stays: tokens of the other would be good for nothing
        let linked = std::fs::hard_link(&new, &self.0);
        let _ = std::fs::remove_file(&new);
        match linked {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => {
                return Err(e).with_context(|| format!("cannot write {}", self.0.display()));
            }
            _ => {}
        }
        self.read()?.with_context(|| format!("{} was removed just now: try again", self.0.display()))
    }

    /// A new key: every token made before is refused from now on.
    ///
    /// # Errors
    /// If the file cannot be written; then the old key still holds.
    pub fn replace(&self) -> Result<()> {
        let new = self.write_beside()?;
        std::fs::rename(&new, &self.0).with_context(|| format!("cannot write {}", self.0.display()))?;
        let dir = self.0.parent().unwrap_or(Path::new("."));
        // until the directory is on disk, a power cut could bring the old key back
        std::fs::File::open(dir).and_then(|d| d.sync_all()).with_context(|| format!("cannot sync {}", dir.display()))
    }

    /// A new key in a file beside, whole and on disk.
    fn write_beside(&self) -> Result<PathBuf> {
        let mut secret = Zeroizing::new([0; KEY_BYTES]);
        OsRng.try_fill_bytes(secret.as_mut_slice()).context("no randomness")?;
        let path = self.0.with_extension(format!("new-{}", std::process::id()));
        let what = || format!("cannot write {}", path.display());
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e).with_context(what),
            _ => {}
        }
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).with_context(what)?;
        let text = Zeroizing::new(hex::encode(secret.as_slice()));
        ensure!(text.len() as u64 <= MAX_FILE_BYTES, "a key that would not be read again");
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).with_context(what)?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_key_is_made_once_and_its_owners_and_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let file = TokenKeyFile::of(dir.path());
        assert!(file.read().unwrap().is_none());
        let first = file.read_or_make().unwrap();
        assert!(file.read_or_make().unwrap() == first && file.read().unwrap() == Some(first.clone()));
        let path = dir.path().join(TOKEN_KEY_FILE);
        let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(), 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        file.replace().unwrap();
        assert!(file.read().unwrap().is_some_and(|key| key != first));
        assert_eq!((mode(), std::fs::read_dir(dir.path()).unwrap().count()), (0o600, 1));
        for wrong in ["", "ab", &"zz".repeat(32), &"ab".repeat(33), &"ab".repeat(1 << 20)] {
            std::fs::write(&path, wrong).unwrap();
            assert!(file.read().unwrap_err().to_string().contains("revoke-all"), "{} bytes", wrong.len());
            assert!(file.read_or_make().is_err(), "a damaged key is not quietly replaced");
        }
    }
}
