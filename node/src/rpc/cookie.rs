//! The cookie: whoever can read the data directory is the node's owner, and nobody has to choose a password.
//!
//! As in bitcoind: a file with a random secret, new at each start, readable by its owner only, removed at the end.
//! Callers send it as HTTP basic authentication; it is compared in constant time.

use anyhow::{Context, Result};
use base64::Engine as _;
use rand_core::{OsRng, RngCore as _};
use std::path::{Path, PathBuf};
use subtle::ConstantTimeEq as _;

/// Its file in the data directory.
pub const COOKIE_FILE: &str = "rpc.cookie";
const USER: &str = "__cookie__";
const SECRET_BYTES: usize = 32;

/// The cookie of a running node; its file goes when this is dropped.
pub(super) struct Cookie {
    path: PathBuf,
    authorization: String,
}

impl Cookie {
    /// Makes a new one.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(super) fn create(path: &Path) -> Result<Self> {
        let mut secret = [0; SECRET_BYTES];
        OsRng.try_fill_bytes(&mut secret).context("no randomness")?;
        let text = format!("{USER}:{}", hex::encode(secret));
        crate::file::replace_private(path, text.as_bytes())
            .with_context(|| format!("cannot write the cookie file {}", path.display()))?;
        Ok(Self { path: path.to_path_buf(), authorization: authorization(&text) })
    }

    /// Whether this is the value of an `Authorization` header that shows the cookie.
    pub(super) fn opens(&self, header: &[u8]) -> bool {
        header.ct_eq(self.authorization.as_bytes()).into()
    }
}

impl Drop for Cookie {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn authorization(cookie: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(cookie))
}

/// The `Authorization` header for the node of this data directory.
///
/// # Errors
/// If there is no cookie: the node does not run, or is another user's.
pub fn read_authorization(datadir: &Path) -> Result<String> {
    let path = datadir.join(COOKIE_FILE);
    let text = std::fs::read_to_string(&path).with_context(|| {
        format!("cannot read {}: it is there while the node runs, for the user who runs it", path.display())
    })?;
    Ok(authorization(text.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_cookie_is_its_owners_new_each_time_and_gone_in_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(COOKIE_FILE);
        std::fs::write(&path, "left behind").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let first = Cookie::create(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let header = read_authorization(dir.path()).unwrap();
        assert!(first.opens(header.as_bytes()));
        drop(first);
        assert!(!path.exists());
        let second = Cookie::create(&path).unwrap();
        for wrong in [header.as_str(), "", "Basic", &header[..header.len() - 1], &format!("{header}=")] {
            assert!(!second.opens(wrong.as_bytes()), "{wrong}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
