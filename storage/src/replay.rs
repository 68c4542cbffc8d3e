//! Looks at the log that RocksDB is about to replay, for losses that RocksDB takes for the end of it (D3).
//!
//! After a crash the last write may be torn, and RocksDB rightly goes on without it. But it cannot tell a torn last write
//! from damage in the middle: a length that points past the end, or a record that is all zeros (a page the disk never
//! wrote), ends the replay there, and every later write is dropped without a word; one that is missing altogether is not
//! missed. A validator would come back without votes it has sent. Every write of this crate is on disk before the next
//! one begins, so whole records behind a broken one, or numbers that are not consecutive, are never a crash.
//!
//! The format is RocksDB's, "Write Ahead Log File Format" in its wiki: blocks of 32 KiB; records of checksum (4 bytes,
//! CRC-32C, masked), length (2), type (1) and payload, cut at the ends of blocks; the first piece of a write starts with
//! its sequence number (8) and its number of changes (4). What is only wrong in its checksum RocksDB finds itself.

use std::path::{Path, PathBuf};

const BLOCK_BYTES: usize = 32 << 10;
const HEADER_BYTES: usize = 7;
/// A whole write, or its first piece.
const FULL: u8 = 1;
const FIRST: u8 = 2;
/// Its last piece; 3 is one between.
const LAST: u8 = 4;
/// Longest log read (K3); [`crate::rocks`] keeps them far shorter.
const MAX_LOG_BYTES: u64 = 1 << 30;
/// Sequence numbers further ahead than this are no sequence numbers.
const MAX_AHEAD: u64 = 1 << 32;

/// The piece at a place.
struct Piece<'a> {
    kind: u8,
    payload: &'a [u8],
    checksum: u32,
}

impl<'a> Piece<'a> {
    /// If its header makes sense there, and it is there to its end.
    fn at(log: &'a [u8], at: usize) -> Option<Self> {
        let header = log.get(at..at.checked_add(HEADER_BYTES)?)?;
        let (checksum, rest) = header.split_first_chunk::<4>()?;
        let (len, kind) = rest.split_first_chunk::<2>()?;
        let (len, kind) = (usize::from(u16::from_le_bytes(*len)), *kind.first()?);
        let start = at.checked_add(HEADER_BYTES)?;
        let end = start.checked_add(len)?;
        let fits = at % BLOCK_BYTES + HEADER_BYTES + len <= BLOCK_BYTES;
        let payload = log.get(start..end).filter(|_| fits && (FULL..=LAST).contains(&kind))?;
        Some(Self { kind, payload, checksum: u32::from_le_bytes(*checksum) })
    }

    /// Where the next one begins: blocks end in up to six zeros.
    fn end(&self, at: usize) -> usize {
        let end = at + HEADER_BYTES + self.payload.len();
        let left = BLOCK_BYTES - end % BLOCK_BYTES;
        if left < HEADER_BYTES { end + left } else { end }
    }

    /// Number of the first change of a write, and of the first one after it.
    fn numbers(&self) -> Option<(u64, u64)> {
        let (sequence, rest) = self.payload.split_first_chunk::<8>()?;
        let (count, _) = rest.split_first_chunk::<4>()?;
        let first = u64::from_le_bytes(*sequence);
        Some((first, first.checked_add(u32::from_le_bytes(*count).into())?))
    }

    fn starts_a_write(&self) -> bool {
        matches!(self.kind, FULL | FIRST)
    }

    fn is_whole(&self) -> bool {
        let crc = crc32c([self.kind].iter().chain(self.payload));
        // masked, as RocksDB does, since a checksum of bytes that hold checksums would prove little
        crc.rotate_right(15).wrapping_add(0xa282_ead8) == self.checksum
    }
}

/// CRC-32C (Castagnoli), bit by bit: it is asked for a few records of a damaged log only.
fn crc32c<'a>(bytes: impl Iterator<Item = &'a u8>) -> u32 {
    !bytes.fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    })
}

/// Looks through the logs of a database that is not open.
///
/// # Errors
/// What is wrong, if a write is missing that later ones followed; or if a log cannot be read.
pub(crate) fn check(dir: &Path) -> Result<(), String> {
    for path in logs(dir)? {
        let shown = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let unreadable = |e: std::io::Error| format!("{shown} cannot be read: {e}");
        if std::fs::metadata(&path).map_err(unreadable)?.len() > MAX_LOG_BYTES {
            return Err(format!("{shown} is longer than {MAX_LOG_BYTES} bytes"));
        }
        let log = std::fs::read(&path).map_err(unreadable)?;
        check_log(&log).map_err(|why| format!("{shown}: {why}"))?;
    }
    Ok(())
}

/// The logs, oldest first.
fn logs(dir: &Path) -> Result<Vec<PathBuf>, String> {
    let unreadable = |e: std::io::Error| format!("the directory cannot be read: {e}");
    let mut found = Vec::new();
    for file in std::fs::read_dir(dir).map_err(unreadable)? {
        let path = file.map_err(unreadable)?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
        if let Some(number) = number.filter(|_| path.extension().is_some_and(|e| e == "log")) {
            found.push((number, path));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// Each log by itself: between two of them RocksDB may count on for reasons of its own.
fn check_log(log: &[u8]) -> Result<(), String> {
    let (mut at, mut expected) = (0, None);
    while let Some(piece) = Piece::at(log, at) {
        if piece.starts_a_write() {
            // a first piece at the end of a block may be too short for its numbers: then the next write is believed
            let Some((first, next)) = piece.numbers() else {
                (at, expected) = (piece.end(at), None);
                continue;
            };
            if let Some(wanted) = expected.filter(|wanted| *wanted != first) {
                if !piece.is_whole() {
                    return Ok(()); // damaged: RocksDB says so in its own words
                }
                return Err(format!(
                    "writes are missing before byte {at}: change {first} follows where {wanted} is due"
                ));
            }
            expected = Some(next);
        }
        at = piece.end(at);
    }
    let Some(due) = expected else { return Ok(()) };
    let later = (at..log.len()).skip(1).find(|later| {
        let piece = Piece::at(log, *later).filter(Piece::starts_a_write);
        let numbers = piece.as_ref().and_then(Piece::numbers);
        let is_later = numbers.is_some_and(|(first, _)| first > due && first - due < MAX_AHEAD);
        is_later && piece.is_some_and(|piece| piece.is_whole())
    });
    match later {
        Some(later) => Err(format!("the write at byte {at} is damaged, and at byte {later} another one follows it")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test] // RFC 3720, B.4
    fn checksums_are_castagnolis() {
        assert_eq!(crc32c([0u8; 32].iter()), 0x8a91_36aa);
        assert_eq!(crc32c([0xffu8; 32].iter()), 0x62a8_ab43);
        assert_eq!(crc32c((0..32u8).collect::<Vec<_>>().iter()), 0x46dd_794e);
    }

    #[test] // K3: any bytes are looked through without harm
    fn any_log_ends() {
        for len in [0, 1, 6, 7, 8, BLOCK_BYTES - 1, BLOCK_BYTES, 3 * BLOCK_BYTES + 5] {
            for byte in [0, 1, 2, 0x7f, 0xff] {
                let _ = check_log(&vec![byte; len]);
            }
        }
    }
}
