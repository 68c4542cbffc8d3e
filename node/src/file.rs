//! Files put in place whole: whoever reads one, also after a crash or a power cut, finds the old bytes or the new ones.
//!
//! Written straight into place, a file that a kill cut short would be read as damaged at the next start, by a node that
//! nobody is looking at.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Mode of a file with a secret.
const OWNER_ONLY: u32 = 0o600;
/// Mode of any other, before the owner's mask.
const READABLE: u32 = 0o666;

/// Puts bytes in place of whatever was there; on disk when this returns.
///
/// # Errors
/// What the system says; then what was there is untouched.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    put(path, bytes, READABLE, true)
}

/// The same for a secret: only its owner may read it.
///
/// # Errors
/// As [`replace`].
pub fn replace_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    put(path, bytes, OWNER_ONLY, true)
}

/// The same for what is worth nothing after a power cut: whole for every reader, and no disk is woken for it.
///
/// # Errors
/// As [`replace`].
pub fn replace_passing(path: &Path, bytes: &[u8]) -> io::Result<()> {
    put(path, bytes, READABLE, false)
}

fn put(path: &Path, bytes: &[u8], mode: u32, is_synced: bool) -> io::Result<()> {
    // a link leads to the file that is meant
    let path = match std::fs::canonicalize(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => path.to_path_buf(),
        found => found?,
    };
    // `oda wallet backup /dev/stdout` must not put a file in the device's place
    if std::fs::metadata(&path).is_ok_and(|found| !found.is_file()) {
        return OpenOptions::new().write(true).open(&path)?.write_all(bytes);
    }
    let part = beside(&path);
    let mut file = create(&part, mode)?;
    file.write_all(bytes)?;
    if is_synced {
        file.sync_all()?;
        std::fs::rename(part, &path)?;
        return sync_parent(&path);
    }
    std::fs::rename(part, path)
}

fn beside(path: &Path) -> PathBuf {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    part.into()
}

/// One that a killed program left may have any mode, so it is made anew.
fn create(part: &Path, mode: u32) -> io::Result<File> {
    match std::fs::remove_file(part) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(mode).open(part)
}

/// Until the directory is on disk, a power cut could bring the old file back.
fn sync_parent(path: &Path) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_file_is_replaced_whole_and_a_secret_is_its_owners() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.b");
        for put in [replace, replace_private, replace_passing] {
            // what a killed program left: longer, and open to all
            let left = dir.path().join("a.b.part");
            std::fs::write(&left, b"left over and long").unwrap();
            std::fs::set_permissions(&left, Permissions::from_mode(0o666)).unwrap();
            put(&path, b"new").unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), b"new");
            assert!(!left.exists());
        }
        replace_private(&path, b"secret").unwrap();
        assert_eq!(mode(&path), OWNER_ONLY);
    }

    #[test]
    fn a_link_is_followed_and_a_device_stays_one() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        std::fs::write(&real, b"old").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        replace_private(&link, b"new").unwrap();
        assert_eq!(std::fs::read(&real).unwrap(), b"new");
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        let device = dir.path().join("device");
        std::os::unix::fs::symlink("/dev/null", &device).unwrap();
        replace(&device, b"anything").unwrap();
        assert!(!std::fs::metadata(&device).unwrap().is_file());
        assert!(replace(dir.path(), b"a directory").is_err());
    }

    #[test]
    fn what_cannot_be_written_leaves_the_old() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        replace(&path, b"old").unwrap();
        std::fs::create_dir(dir.path().join("a.part")).unwrap();
        assert!(replace(&path, b"new").is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
    }
}
