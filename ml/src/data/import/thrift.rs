//! A look at the sizes that a Parquet file states, before a library allocates by them (K3).
//!
//! The `parquet` crate believes a footer that announces two thousand million row groups, a page header that
//! announces two gigabytes, a dictionary of so many entries: one forged byte ends the process. Its headers are
//! Thrift's compact protocol (`thrift-compact-protocol.md` in Apache Thrift, `parquet.thrift` in Apache
//! Parquet), so they are walked here once, without allocating, and implausible ones refused.

use super::{MAX_FILE, MAX_ROWS};

/// Deepest nesting of structs and lists.
const MAX_DEPTH: usize = 16;

/// Largest footer in bytes.
const MAX_FOOTER: usize = 16 << 20;

/// Most groups in the schema; a flat table has one.
const MAX_NESTED: usize = 32;

/// Field numbers from the outermost struct down to an integer; list elements have none.
type Path<'a> = &'a [i16];

struct Walker<'a, F> {
    left: &'a [u8],
    path: Vec<i16>,
    see: F,
}

impl<F: FnMut(Path<'_>, i64) -> bool> Walker<'_, F> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.left.split_first()?;
        self.left = rest;
        Some(*first)
    }

    fn skip(&mut self, n: u64) -> Option<()> {
        self.left = self.left.get(usize::try_from(n).ok()?..)?;
        Some(())
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn integer(&mut self) -> Option<i64> {
        let raw = self.varint()?;
        Some((raw >> 1).cast_signed() ^ -((raw & 1).cast_signed()))
    }

    fn list(&mut self) -> Option<(u64, u8)> {
        let head = self.byte()?;
        let count = if head >> 4 == 15 { self.varint()? } else { u64::from(head >> 4) };
        // every element takes a byte at least
        (count <= self.left.len() as u64).then_some((count, head & 15))
    }

    fn value(&mut self, kind: u8, in_list: bool, depth: usize) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        match kind {
            1 | 2 => self.skip(u64::from(in_list)),
            3 => self.skip(1),
            4..=6 => {
                let value = self.integer()?;
                (self.see)(&self.path, value).then_some(())
            }
            7 => self.skip(8),
            8 => {
                let n = self.varint()?;
                self.skip(n)
            }
            9 | 10 => {
                let (count, element) = self.list()?;
                (0..count).try_for_each(|_| self.value(element, true, depth + 1))
            }
            11 => {
                let count = self.varint()?;
                let kinds = if count > 0 { self.byte()? } else { 0 };
                (0..count).try_for_each(|_| {
                    self.value(kinds >> 4, true, depth + 1)?;
                    self.value(kinds & 15, true, depth + 1)
                })
            }
            12 => self.fields(depth + 1),
            13 => self.skip(16),
            _ => None,
        }
    }

    fn fields(&mut self, depth: usize) -> Option<()> {
        let mut last = 0i16;
        loop {
            let head = self.byte()?;
            if head == 0 {
                return Some(());
            }
            last = match head >> 4 {
                0 => i16::try_from(self.integer()?).ok()?,
                step => last.checked_add(i16::from(step))?,
            };
            self.path.push(last);
            self.value(head & 15, false, depth)?;
            self.path.pop();
        }
    }
}

/// Walks one struct; the bytes it takes, or `None` if it is damaged or `see` refuses an integer.
fn walk(bytes: &[u8], see: impl FnMut(Path<'_>, i64) -> bool) -> Option<usize> {
    let mut walker = Walker { left: bytes, path: Vec::new(), see };
    walker.fields(0)?;
    Some(bytes.len() - walker.left.len())
}

/// Whether the footer of a Parquet file is whole, and what it lists can be there.
pub(super) fn footer_is_sane(file: &[u8]) -> bool {
    let look = || {
        let (rest, tail) = file.split_last_chunk::<8>()?;
        let (len, magic) = tail.split_first_chunk::<4>()?;
        let len = usize::try_from(u32::from_le_bytes(*len)).ok()?;
        if magic != b"PAR1" || len > MAX_FOOTER {
            return None;
        }
        let footer = rest.get(rest.len().checked_sub(len)?..)?;
        let mut nested = 0;
        walk(footer, |path, value| {
            // FileMetaData.schema (2), SchemaElement.num_children (5)
            nested += usize::from(path == [2, 5] && value > 0);
            nested <= MAX_NESTED
        })
    };
    look().is_some()
}

/// Whether the page headers of a column chunk state sizes that can be; `chunk` is what the footer says it is.
pub(super) fn pages_are_sane(chunk: &[u8]) -> bool {
    let (mut left, mut total) = (chunk, 0u64);
    while !left.is_empty() {
        let (mut packed, mut unpacked) = (None, None);
        let header = walk(left, |path, value| match path {
            // PageHeader.uncompressed_page_size, .compressed_page_size
            [2] => u64::try_from(value).map(|n| unpacked = Some(n)).is_ok(),
            [3] => usize::try_from(value).map(|n| packed = Some(n)).is_ok(),
            // num_values of data page, dictionary page and data page v2
            [5 | 7 | 8, 1] => usize::try_from(value).is_ok_and(|n| n <= MAX_ROWS),
            _ => true,
        });
        let (Some(header), Some(packed), Some(unpacked)) = (header, packed, unpacked) else { return false };
        total = total.saturating_add(unpacked);
        let Some(rest) = header.checked_add(packed).and_then(|n| left.get(n..)) else { return false };
        if total > MAX_FILE {
            return false;
        }
        left = rest;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn footer(metadata: &[u8]) -> Vec<u8> {
        [metadata, &u32::try_from(metadata.len()).unwrap().to_le_bytes(), b"PAR1"].concat()
    }

    #[test] // bytes by hand after thrift-compact-protocol.md
    fn forged_sizes_are_refused() {
        // field 1 i32 = 1; field 3 i64 = 60
        assert!(footer_is_sane(&footer(&[0x15, 2, 0x26, 120, 0])));
        // field 4, a list of 2^31 - 1 structs
        assert!(!footer_is_sane(&footer(&[0x49, 0xfc, 0xff, 0xff, 0xff, 0xff, 7, 0])));
        // page header: type 0, unpacked 8, packed 2, then the two bytes
        let page = |unpacked: &[u8]| [&[0x15, 0, 0x15][..], unpacked, &[0x15, 4, 0, 9, 9]].concat();
        assert!(pages_are_sane(&page(&[16])));
        assert!(pages_are_sane(&[page(&[16]), page(&[16])].concat()));
        assert!(!pages_are_sane(&page(&[0xfe, 0xff, 0xff, 0xff, 0x0f])));
        assert!(!pages_are_sane(&page(&[16])[..7]));
        // structs in structs in structs
        assert!(!footer_is_sane(&footer(&[0x1c; 1000])));
    }

    proptest! {
        #[test] // K3
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (footer_is_sane(&footer(&bytes)), footer_is_sane(&bytes), pages_are_sane(&bytes));
        }
    }
}
