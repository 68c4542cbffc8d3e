//! The payee's own record of every open hold invoice.
//!
//! LDK alone is not enough: after a clean stop it does not tell again which payments it holds, it never
//! says when one expires, and its claim needs the amount from the event that came once. So what a hold
//! needs is in one small file per payment, written before anything follows from it (P6), and removed when
//! the payment has ended; the end itself stays in LDK's payment store.

use super::error::LightningError;
use oda_consensus::ids::{PaymentHash, Preimage};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Most hold invoices open at a time.
pub(super) const MAX_HOLDS: usize = 10_000;
/// Longest record file, bytes.
const MAX_RECORD_BYTES: u64 = 16 << 10;

/// A payment that arrived and is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Arrived {
    pub(super) amount_msat: u64,
    pub(super) claim_deadline_height: u32,
}

/// One hold invoice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Hold {
    pub(super) hash: PaymentHash,
    pub(super) amount_msat: u64,
    pub(super) hold_blocks: u32,
    /// Seconds since the Unix epoch after which nobody may pay it.
    pub(super) expires_at_s: u64,
    /// None until LDK made the invoice.
    pub(super) bolt11: Option<String>,
    pub(super) arrived: Option<Arrived>,
    /// Set before LDK is told to claim: from then on it is never failed.
    pub(super) preimage: Option<Preimage>,
}

/// All of them, in memory and on disk.
pub(super) struct Holds {
    dir: PathBuf,
    open: Mutex<BTreeMap<PaymentHash, Hold>>,
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> LightningError + '_ {
    |source| LightningError::Io { path: path.to_path_buf(), source }
}

impl Holds {
    /// Reads the records of a directory, creating it if needed.
    pub(super) fn open(dir: PathBuf) -> Result<Self, LightningError> {
        std::fs::create_dir_all(&dir).map_err(io(&dir))?;
        let mut open = BTreeMap::new();
        for entry in std::fs::read_dir(&dir).map_err(io(&dir))? {
            let path = entry.map_err(io(&dir))?.path();
            if path.extension().is_some_and(|e| e == "tmp") {
                std::fs::remove_file(&path).map_err(io(&path))?; // a write that a crash cut off
                continue;
            }
            let damaged = |why: String| LightningError::Damaged { path: path.clone(), why };
            if path.metadata().map_err(io(&path))?.len() > MAX_RECORD_BYTES || open.len() >= MAX_HOLDS {
                return Err(damaged("too large, or one file too many".into()));
            }
            let bytes = std::fs::read(&path).map_err(io(&path))?;
            let hold: Hold = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
            if path.file_name().and_then(|n| n.to_str()) != Some(&hold.hash.to_string()) {
                return Err(damaged("it belongs to another payment".into()));
            }
            open.insert(hold.hash, hold);
        }
        Ok(Self { dir, open: Mutex::new(open) })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PaymentHash, Hold>> {
        // a panic elsewhere cannot leave a half-changed map: every change is one insert or remove
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, hash: PaymentHash) -> Option<Hold> {
        self.lock().get(&hash).cloned()
    }

    pub(super) fn all(&self) -> Vec<Hold> {
        self.lock().values().cloned().collect()
    }

    /// Writes a record and only then makes it visible.
    pub(super) fn put(&self, hold: Hold) -> Result<(), LightningError> {
        let mut open = self.lock();
        if !open.contains_key(&hold.hash) && open.len() >= MAX_HOLDS {
            return Err(LightningError::TooManyHolds(open.len()));
        }
        let path = self.dir.join(hold.hash.to_string());
        let tmp = path.with_extension("tmp");
        let bytes = serde_json::to_vec(&hold).map_err(|e| io(&tmp)(e.into()))?;
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600) // it may hold a preimage
            .open(&tmp)
            .map_err(io(&tmp))?;
        file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(io(&tmp))?;
        std::fs::rename(&tmp, &path).map_err(io(&path))?;
        self.sync_dir()?;
        open.insert(hold.hash, hold);
        Ok(())
    }

    /// Removes a record; fine if there is none.
    pub(super) fn remove(&self, hash: PaymentHash) -> Result<(), LightningError> {
        let mut open = self.lock();
        if open.contains_key(&hash) {
            let path = self.dir.join(hash.to_string());
            std::fs::remove_file(&path).map_err(io(&path))?;
            self.sync_dir()?;
            open.remove(&hash);
        }
        Ok(())
    }

    fn sync_dir(&self) -> Result<(), LightningError> {
        File::open(&self.dir).and_then(|d| d.sync_all()).map_err(io(&self.dir))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold(n: u8) -> Hold {
        Hold {
            hash: PaymentHash([n; 32]),
            amount_msat: 1,
            hold_blocks: 288,
            expires_at_s: 9,
            bolt11: None,
            arrived: Some(Arrived { amount_msat: 1, claim_deadline_height: 500 }),
            preimage: Some(Preimage([n; 32])),
        }
    }

    #[test] // P6
    fn p6_records_survive_a_restart_and_a_cut_off_write() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("holds");
        let holds = Holds::open(path.clone()).unwrap();
        holds.put(hold(1)).unwrap();
        holds.put(hold(2)).unwrap();
        holds.remove(hold(2).hash).unwrap();
        holds.remove(hold(2).hash).unwrap();
        drop(holds);
        std::fs::write(path.join("half.tmp"), "{\"ha").unwrap();
        let holds = Holds::open(path.clone()).unwrap();
        assert_eq!(holds.all(), vec![hold(1)]);
        assert!(!path.join("half.tmp").exists());
        assert_eq!(holds.get(hold(2).hash), None);
    }

    #[test]
    fn a_damaged_record_stops_the_wallet() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_path_buf();
        Holds::open(path.clone()).unwrap().put(hold(1)).unwrap();
        let file = path.join(hold(1).hash.to_string());
        std::fs::rename(&file, path.join(hold(3).hash.to_string())).unwrap();
        assert!(matches!(Holds::open(path.clone()), Err(LightningError::Damaged { .. })), "under another name");
        std::fs::write(path.join(hold(3).hash.to_string()), "{}").unwrap();
        assert!(matches!(Holds::open(path), Err(LightningError::Damaged { .. })));
    }
}
