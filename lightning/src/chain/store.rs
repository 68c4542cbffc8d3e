//! An append-only file of records that a crash may cut off but not confuse.
//!
//! Each record is its length (4 bytes, little endian), its SHA-256 (first 8 bytes), and itself. A record
//! that the end of the file cuts off was never answered for: it is dropped. A wrong record with others
//! behind it is damage, which nobody here can repair.

use super::ChainError;
use bitcoin::hashes::{Hash as _, sha256};
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

/// First bytes of every file.
const MAGIC: &[u8; 8] = b"odachn1\n";
/// Length and checksum.
const HEAD_BYTES: usize = 12;
/// Longest record: a block of largest weight.
const MAX_RECORD_BYTES: usize = 4_000_000;
/// Longest file read.
const MAX_FILE_BYTES: u64 = 4 << 30;

/// An open file, at its end.
pub(super) struct RecordFile {
    path: PathBuf,
    file: File,
    /// Where the last whole record ends.
    end: u64,
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> ChainError + '_ {
    |source| ChainError::Io { path: path.to_path_buf(), source }
}

fn checksum(record: &[u8]) -> [u8; 8] {
    let hash = sha256::Hash::hash(record).to_byte_array();
    let mut sum = [0; 8];
    sum.copy_from_slice(&hash[..8]);
    sum
}

/// One record off the front of `rest`; none if the file ends within it.
fn split(rest: &[u8]) -> Option<(&[u8], &[u8], bool)> {
    let (head, tail) = rest.split_at_checked(HEAD_BYTES)?;
    let (len, sum) = head.split_at_checked(4)?;
    let len = usize::try_from(u32::from_le_bytes(len.try_into().ok()?)).ok()?;
    if len > MAX_RECORD_BYTES {
        return Some((&[], tail, false));
    }
    let (record, tail) = tail.split_at_checked(len)?;
    Some((record, tail, len > 0 && checksum(record) == sum))
}

impl RecordFile {
    /// Opens or creates a file and reads what it holds, dropping a torn end.
    pub(super) fn open(path: PathBuf) -> Result<(Self, Vec<Vec<u8>>), ChainError> {
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = options.map_err(io(&path))?;
        let damaged = |why: String| ChainError::Damaged { path: path.clone(), why };
        let length = file.metadata().map_err(io(&path))?.len();
        if length > MAX_FILE_BYTES {
            return Err(damaged(format!("longer than {MAX_FILE_BYTES} bytes")));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io(&path))?;
        if bytes.len() < MAGIC.len() {
            if !MAGIC.starts_with(&bytes) {
                return Err(damaged("not a file of this program".into()));
            }
            file.set_len(0).map_err(io(&path))?;
            file.seek(SeekFrom::Start(0)).map_err(io(&path))?;
            file.write_all(MAGIC).and_then(|()| file.sync_all()).map_err(io(&path))?;
            return Ok((Self { end: MAGIC.len() as u64, path, file }, Vec::new()));
        }
        let mut rest = bytes.strip_prefix(MAGIC).ok_or_else(|| damaged("not a file of this program".into()))?;
        let mut records = Vec::new();
        while let Some((record, tail, whole)) = split(rest) {
            let at_end = tail.is_empty() || tail.iter().all(|b| *b == 0);
            match (whole, at_end) {
                (true, _) => records.push(record.to_vec()),
                (false, true) => break, // the last write never finished
                (false, false) => {
                    return Err(damaged(format!("record {} is wrong, and more follow it", records.len())));
                }
            }
            rest = tail;
        }
        let end = (bytes.len() - rest.len()) as u64;
        if end < length {
            tracing::warn!(path = %path.display(), bytes = length - end, "dropping a write that a crash cut off");
        }
        let mut opened = Self { path, file, end };
        opened.truncate(end)?;
        Ok((opened, records))
    }

    fn truncate(&mut self, end: u64) -> Result<(), ChainError> {
        self.file.set_len(end).map_err(io(&self.path))?;
        self.file.seek(SeekFrom::Start(end)).map_err(io(&self.path))?;
        self.end = end;
        Ok(())
    }

    /// Adds a record. It is on disk only after [`RecordFile::sync`].
    pub(super) fn append(&mut self, record: &[u8]) -> Result<(), ChainError> {
        let mut bytes = Vec::with_capacity(HEAD_BYTES + record.len());
        let len = u32::try_from(record.len()).unwrap_or(u32::MAX);
        bytes.extend(len.to_le_bytes());
        bytes.extend(checksum(record));
        bytes.extend(record);
        if let Err(error) = self.file.write_all(&bytes) {
            self.truncate(self.end)?; // half a record must not stay in front of the next
            return Err(io(&self.path)(error));
        }
        self.end += bytes.len() as u64;
        Ok(())
    }

    /// Waits until everything is on disk.
    pub(super) fn sync(&mut self) -> Result<(), ChainError> {
        self.file.sync_data().map_err(io(&self.path))
    }

    /// Its length, bytes.
    pub(super) fn len(&self) -> u64 {
        self.end
    }

    /// Puts other records in place of all of them, at once: a crash leaves the old or the new ones.
    pub(super) fn replace(&mut self, records: impl Iterator<Item = Vec<u8>>) -> Result<(), ChainError> {
        let path = self.path.with_extension("new");
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path);
        let mut next = Self { file: options.map_err(io(&path))?, path: path.clone(), end: 0 };
        next.file.write_all(MAGIC).map_err(io(&path))?;
        next.end = MAGIC.len() as u64;
        for record in records {
            next.append(&record)?;
        }
        next.sync()?;
        std::fs::rename(&path, &self.path).map_err(io(&path))?;
        if let Some(dir) = self.path.parent() {
            File::open(dir).and_then(|d| d.sync_all()).map_err(io(dir))?;
        }
        (self.file, self.end) = (next.file, next.end);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> Result<Vec<Vec<u8>>, ChainError> {
        RecordFile::open(path.to_path_buf()).map(|(_, records)| records)
    }

    fn sample(path: &Path) -> Vec<Vec<u8>> {
        let records: Vec<Vec<u8>> = (1..=5u8).map(|n| vec![n; usize::from(n) * 10]).collect();
        let (mut file, none) = RecordFile::open(path.to_path_buf()).unwrap();
        assert!(none.is_empty());
        for r in &records {
            file.append(r).unwrap();
        }
        file.sync().unwrap();
        records
    }

    #[test]
    fn a_file_cut_anywhere_keeps_its_whole_records() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r");
        let records = sample(&path);
        let bytes = std::fs::read(&path).unwrap();
        for cut in 0..bytes.len() {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let read = open(&path).unwrap();
            assert!(records.starts_with(&read), "cut at {cut}");
            // and goes on from there
            let (mut file, _) = RecordFile::open(path.clone()).unwrap();
            file.append(b"more").unwrap();
            drop(file);
            assert_eq!(open(&path).unwrap(), [read, vec![b"more".to_vec()]].concat(), "cut at {cut}");
        }
    }

    #[test]
    fn a_damaged_record_is_told_from_a_torn_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r");
        let records = sample(&path);
        let bytes = std::fs::read(&path).unwrap();
        let mut last = bytes.clone();
        *last.last_mut().unwrap() ^= 1;
        std::fs::write(&path, &last).unwrap();
        assert_eq!(open(&path).unwrap(), records[..4]);
        let mut padded = bytes.clone();
        padded.extend([0; 4096]); // blocks a file system gave but never filled
        std::fs::write(&path, &padded).unwrap();
        assert_eq!(open(&path).unwrap(), records);
        let mut middle = bytes.clone();
        middle[MAGIC.len() + HEAD_BYTES] ^= 1;
        std::fs::write(&path, &middle).unwrap();
        assert!(matches!(open(&path), Err(ChainError::Damaged { .. })));
        std::fs::write(&path, b"something else entirely").unwrap();
        assert!(matches!(open(&path), Err(ChainError::Damaged { .. })));
        std::fs::write(&path, b"odx").unwrap();
        assert!(matches!(open(&path), Err(ChainError::Damaged { .. })));
    }

    #[test]
    fn replacing_is_all_or_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r");
        let records = sample(&path);
        // a crash before the rename
        std::fs::write(path.with_extension("new"), b"odachn1\nhalf").unwrap();
        assert_eq!(open(&path).unwrap(), records);
        let (mut file, _) = RecordFile::open(path.clone()).unwrap();
        file.replace([b"a".to_vec(), b"b".to_vec()].into_iter()).unwrap();
        assert_eq!(open(&path).unwrap(), [b"a".to_vec(), b"b".to_vec()]);
        file.append(b"x").unwrap();
        file.replace([b"c".to_vec()].into_iter()).unwrap();
        file.append(b"d").unwrap();
        assert_eq!(file.len(), std::fs::metadata(&path).unwrap().len());
        drop(file);
        assert_eq!(open(&path).unwrap(), [b"c".to_vec(), b"d".to_vec()]);
    }
}
