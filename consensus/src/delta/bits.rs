//! Bits in a byte string, least significant first within each byte, and Rice codes made of them.
//!
//! A Rice code of parameter r writes n as n >> r zeros, a one, and the r low bits of n (Rice and Plaunt 1971,
//! doi:10.1109/TCOM.1971.1090789): 7.53 bits for a gap where one of 64 is kept, whose entropy is 7.43, and no tables.

/// Appends bits.
#[derive(Default)]
pub(super) struct Writer {
    out: Vec<u8>,
    held: u64,
    bits: u32,
}

impl Writer {
    /// Starts behind bytes already written, with room for so many more.
    pub fn behind(mut out: Vec<u8>, room: usize) -> Self {
        out.reserve(room);
        Self { out, held: 0, bits: 0 }
    }

    /// The low `count` bits of `value`; at most 32.
    pub fn put(&mut self, value: u32, count: u32) {
        let count = count.min(32);
        let masked = u64::from(value) & ((1u64 << count) - 1);
        // at most 7 bits are held from before: no shift leaves the word
        self.held |= masked << self.bits;
        self.bits += count;
        while self.bits >= 8 {
            #[allow(clippy::cast_possible_truncation)]
            self.out.push(self.held as u8);
            self.held >>= 8;
            self.bits -= 8;
        }
    }

    /// `value` as a Rice code.
    pub fn put_rice(&mut self, value: u32, parameter: u32) {
        let mut zeros = value >> parameter.min(31);
        while zeros > 0 {
            self.put(0, zeros.min(32));
            zeros -= zeros.min(32);
        }
        self.put(1, 1);
        self.put(value, parameter);
    }

    /// All bytes, the last one filled up with zeros.
    pub fn finish(mut self) -> Vec<u8> {
        if self.bits > 0 {
            self.put(0, 8 - self.bits);
        }
        self.out
    }
}

/// Takes bits off the front. `None` says that there are not so many.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    /// Bits taken.
    at: u64,
}

/// So many bits a window holds wherever it begins.
const WINDOW: u32 = 57;

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn left(&self) -> u64 {
        (self.bytes.len() as u64).saturating_mul(8).saturating_sub(self.at)
    }

    /// The next [`WINDOW`] bits, zeros where the bytes have ended.
    fn window(&self) -> u64 {
        let rest = usize::try_from(self.at / 8).ok().and_then(|at| self.bytes.get(at..)).unwrap_or(&[]);
        let word = match rest.first_chunk::<8>() {
            Some(word) => u64::from_le_bytes(*word),
            None => rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
        };
        word >> (self.at % 8)
    }

    /// The next bits; at most 32.
    pub fn take(&mut self, count: u32) -> Option<u32> {
        if count > 32 || u64::from(count) > self.left() {
            return None;
        }
        let value = self.window() & ((1u64 << count) - 1);
        self.at += u64::from(count);
        u32::try_from(value).ok()
    }

    /// The next Rice code, if it is at most `max`.
    pub fn take_rice(&mut self, parameter: u32, max: u32) -> Option<u32> {
        let limit = max.checked_shr(parameter)?;
        let mut high = 0u32;
        loop {
            let zeros = self.window().trailing_zeros().min(WINDOW - 1);
            // beyond the end everything reads as zero: the limit or `take` below stops there
            high = high.checked_add(zeros)?;
            if high > limit || u64::from(zeros) > self.left() {
                return None;
            }
            self.at += u64::from(zeros);
            if self.take(1)? == 1 {
                break;
            }
            high = high.checked_add(1)?;
        }
        let value = high.checked_mul(1u32.checked_shl(parameter)?)? | self.take(parameter)?;
        (value <= max).then_some(value)
    }

    /// Whether nothing is left but zeros that fill up the last byte.
    pub fn at_end(&self) -> bool {
        let left = self.left();
        left < 8 && self.window() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test] // any change of these bytes is another format
    fn codes_are_pinned() {
        let mut w = Writer::behind(vec![0xaa], 2);
        w.put_rice(9, 2); // 0 0 1, then 1 0
        w.put(5, 3);
        w.put_rice(0, 0);
        assert_eq!(w.finish(), [0xaa, 0b1010_1100, 0b0000_0001]);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(codes in proptest::collection::vec((0u32..70_000, 0u32..17), 0..100)) {
            let mut w = Writer::default();
            codes.iter().for_each(|(value, parameter)| w.put_rice(*value, *parameter));
            let bytes = w.finish();
            let mut r = Reader::new(&bytes);
            for (value, parameter) in codes {
                prop_assert_eq!(r.take_rice(parameter, 70_000), Some(value));
            }
            prop_assert!(r.at_end());
        }

        #[test]
        fn a_code_above_its_limit_is_refused(value in 1u32..5_000, parameter in 0u32..17) {
            let mut w = Writer::default();
            w.put_rice(value, parameter);
            let bytes = w.finish();
            prop_assert_eq!(Reader::new(&bytes).take_rice(parameter, value - 1), None);
            prop_assert_eq!(Reader::new(&bytes).take_rice(parameter, value), Some(value));
        }
    }
}
