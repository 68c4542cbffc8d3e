//! Weight deltas on the wire: of every chunk of parameters the few largest changes, two bits each.
//!
//! The obvious format, a position of 16 bits and a value of 8 for each change, spends most of its bits on what
//! the reader knows already: positions ascend and lie about chunk / keep apart, and with error feedback
//! (`oda-ml`, SparseLoCo, arXiv 2508.15706) a sign and one of two magnitudes a chunk serve training as well.
//! What is left is 1/209 of a dense delta at 64 of 4096. And what is hashed, committed to and paid for should
//! have one encoding only: [`decode`] accepts exactly the bytes that [`encode`] gives, so a claim cannot be made
//! to look new by shuffling its bits.
//!
//! Format 1, little-endian, bits from the least significant of each byte:
//!
//! | part | bits |
//! |---|---|
//! | format version, 1 | 8 |
//! | parameters, chunk, keep | 32 each |
//! | each chunk: level of the small magnitude, level of the large one | 8, 8 |
//! | ... each of its min(keep, length) kept positions, ascending: Rice code of the positions skipped since the last | see below |
//! | ... sign, 1 for negative | 1 |
//! | ... 1 for the large magnitude | 1 |
//! | zeros up to the next byte | 0 to 7 |
//!
//! The chunks follow each other without padding; the last one may be shorter. The Rice parameter is the best for
//! geometric gaps of mean chunk / keep: the smallest r with q^(2^r) at most 0.618, q = 1 - keep / chunk (Gallager
//! and van Voorhis 1975, doi:10.1109/TIT.1975.1055357), found in integers so that all agree on it.
//!
//! Level 0 is zero, level c = 1 to 255 is 2^(c/8 - 24): from 6.5e-8 to 234, in steps of 9.05 %, so that the nearest
//! level is within 4.5 %. Rules that leave one encoding to each delta:
//! * the small level is at most the large one; if they are equal every entry is marked small, else both occur;
//! * an entry of magnitude zero is positive and only fills up: all positions below it are kept too.

mod bits;

use crate::manifest::{Judging, Training};
use crate::score::Refusal;
use bits::{Reader, Writer};

/// First byte of every delta.
pub const FORMAT: u8 = 1;

/// Version, parameters, chunk, keep.
const HEADER: usize = 13;

/// Bits of the two levels of a chunk.
const LEVEL_BITS: u64 = 16;

/// 2^(i/8), each the nearest f32.
const EIGHTHS: [f32; 8] =
    [1.0, 1.090_507_7, 1.189_207_1, 1.296_839_6, std::f32::consts::SQRT_2, 1.542_210_8, 1.681_792_9, 1.834_008_1];

/// A delta as it is applied.
#[derive(Clone, Debug, PartialEq)]
pub struct SparseDelta {
    /// Parameters of the model.
    pub parameters: usize,
    /// Position in the flat vector and change, ascending by position.
    pub changes: Vec<(u32, f32)>,
}

impl SparseDelta {
    /// Euclidean norm, summed in order in f64.
    pub fn norm(&self) -> f64 {
        self.sum_of_squares().sqrt()
    }

    fn sum_of_squares(&self) -> f64 {
        self.changes.iter().fold(0.0, |sum, (_, v)| sum + f64::from(*v) * f64::from(*v))
    }

    /// The norm in millionths, rounded down: the same integer everywhere, as all of it is sums, products and one root.
    pub fn norm_micro(&self) -> u64 {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let floor = (self.norm() * 1e6) as u64;
        floor
    }

    /// `weights + scale * delta`, in f32.
    pub fn applied(&self, weights: &[f32], scale: f32) -> Vec<f32> {
        let mut out = weights.to_vec();
        for (at, v) in &self.changes {
            if let Some(w) = out.get_mut(*at as usize) {
                *w += v * scale;
            }
        }
        out
    }

    /// Cosine of the angle to another delta in thousandths, rounded down; 0 if either is zero.
    ///
    /// Only f64 additions, multiplications, a division and a square root in a fixed order, all exactly
    /// specified by IEEE 754: the same integer on every machine. Symmetric, and 1000 for a delta with itself.
    pub fn cosine_milli(&self, other: &Self) -> i32 {
        let (mut mine, mut theirs) = (self.changes.iter().peekable(), other.changes.iter().peekable());
        let mut dot = 0.0f64;
        while let (Some((at, v)), Some((other_at, w))) = (mine.peek(), theirs.peek()) {
            let order = at.cmp(other_at);
            if order.is_eq() {
                dot += f64::from(*v) * f64::from(*w);
            }
            if order.is_le() {
                mine.next();
            }
            if order.is_ge() {
                theirs.next();
            }
        }
        // of the product, not of each: sqrt(x * x) is exactly x
        let lengths = (self.sum_of_squares() * other.sum_of_squares()).sqrt();
        if lengths <= 0.0 {
            return 0;
        }
        #[allow(clippy::cast_possible_truncation)]
        let milli = (dot / lengths * 1000.0).floor() as i32;
        milli.clamp(-1000, 1000)
    }
}

/// Magnitude that a level stands for.
pub fn magnitude(level: u8) -> f32 {
    if level == 0 {
        return 0.0;
    }
    let fraction = EIGHTHS.get(usize::from(level % 8)).copied().unwrap_or(1.0);
    // 2^(level / 8 - 24), a power of two well inside the range: the product is exact
    fraction * f32::from_bits((u32::from(level / 8) + 127 - 24) << 23)
}

/// Level whose magnitude is nearest to the absolute value; 0 for NaN, 255 for all that is too large.
pub fn nearest_level(value: f32) -> u8 {
    let value = value.abs();
    let (mut low, mut high) = (0u8, u8::MAX);
    // the smallest level that is not below the value, or the largest there is
    while low < high {
        let middle = low + (high - low) / 2;
        if magnitude(middle) < value { low = middle + 1 } else { high = middle }
    }
    let below = low.saturating_sub(1);
    if value - magnitude(below) < magnitude(low) - value { below } else { low }
}

/// One kept parameter of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Position within the chunk.
    pub at: u16,
    /// Whether the change is downwards.
    pub negative: bool,
    /// Whether it has the chunk's large magnitude.
    pub large: bool,
}

/// The kept changes of one chunk, as they are encoded. See the module for what is allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chunk {
    /// Level of the small magnitude.
    pub low: u8,
    /// Level of the large magnitude.
    pub high: u8,
    /// Ascending by position.
    pub kept: Vec<Kept>,
}

impl Chunk {
    fn level(&self, kept: Kept) -> u8 {
        if kept.large { self.high } else { self.low }
    }

    /// Change of one of this chunk's kept parameters.
    pub fn value(&self, kept: Kept) -> f32 {
        let size = magnitude(self.level(kept));
        if kept.negative { -size } else { size }
    }

    /// The same changes with levels, marks and the signs of zeros as the format wants them.
    #[must_use]
    pub fn tidied(mut self) -> Self {
        let large = self.kept.iter().filter(|k| k.large).count();
        if large == 0 {
            self.high = self.low;
        } else if large == self.kept.len() {
            self.low = self.high;
        }
        for kept in &mut self.kept {
            kept.large &= self.low != self.high;
            kept.negative &= kept.large || self.low != 0;
        }
        self
    }

    /// Checks what the format demands of a chunk of `len` parameters of which `count` are kept.
    fn check(&self, len: usize, count: usize) -> Result<(), &'static str> {
        if self.kept.len() != count {
            return Err("keep min(keep_per_chunk, length) positions of each chunk");
        }
        let (mut next, mut small, mut large) = (0usize, false, false);
        for (index, kept) in self.kept.iter().enumerate() {
            let at = usize::from(kept.at);
            if at < next || at >= len {
                return Err("positions must ascend and lie within the chunk");
            }
            next = at + 1;
            if self.level(*kept) == 0 && (kept.negative || at != index) {
                return Err("zeros must be positive and fill the lowest positions");
            }
            if kept.large { large = true } else { small = true }
        }
        match self.low.cmp(&self.high) {
            std::cmp::Ordering::Less if small && large => Ok(()),
            std::cmp::Ordering::Equal if !large => Ok(()),
            _ => {
                Err("the small level must be below the large one and both occur, or all be small and both levels equal")
            }
        }
    }
}

/// What cannot be encoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// No compression of this shape.
    #[error("chunk must be 1 to 65536, keep_per_chunk 1 to chunk, and parameters below 2^32")]
    Shape,
    /// Another number of chunks.
    #[error("{found} chunks, the model has {expected}")]
    Chunks {
        /// Chunks of the model.
        expected: u64,
        /// Chunks given.
        found: u64,
    },
    /// A chunk breaks a rule of the format.
    #[error("chunk {index}: {problem}")]
    Chunk {
        /// Which, from 0.
        index: usize,
        /// What is to be done about it.
        problem: &'static str,
    },
}

/// Everything that follows from the model alone.
#[derive(Clone, Copy)]
struct Shape {
    parameters: u32,
    chunk: u32,
    keep: u32,
    /// Rice parameter of the gaps.
    rice: u32,
}

impl Shape {
    fn new(parameters: usize, training: &Training) -> Option<Self> {
        let (chunk, keep) = (training.chunk, training.keep_per_chunk);
        if chunk == 0 || chunk > 1 << 16 || keep == 0 || keep > chunk {
            return None;
        }
        // q = 1 - keep / chunk in 32 fractional bits, squared until q + q^2 <= 1
        let one = 1u64 << 32;
        let mut q = (u64::from(chunk - keep) << 32) / u64::from(chunk);
        let mut rice = 0;
        while q + ((q * q) >> 32) > one {
            q = (q * q) >> 32;
            rice += 1;
        }
        Some(Self { parameters: u32::try_from(parameters).ok()?, chunk, keep, rice })
    }

    fn header(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        for n in [self.parameters, self.chunk, self.keep] {
            out.extend_from_slice(&n.to_le_bytes());
        }
        out
    }

    fn chunks(&self) -> u32 {
        self.parameters.div_ceil(self.chunk)
    }

    /// Length and kept positions of a chunk.
    fn of_chunk(&self, index: u32) -> (u32, u32) {
        let len = self.parameters.saturating_sub(index.saturating_mul(self.chunk)).min(self.chunk);
        (len, len.min(self.keep))
    }

    /// Sum over all chunks of a figure that depends on length and kept positions.
    fn sum(&self, figure: impl Fn(u32, u32) -> u64) -> u64 {
        let full = u64::from(self.parameters / self.chunk);
        let rest = self.parameters % self.chunk;
        let last = if rest > 0 { figure(rest, rest.min(self.keep)) } else { 0 };
        full.saturating_mul(figure(self.chunk, self.keep)).saturating_add(last)
    }

    fn kept(&self) -> u64 {
        self.sum(|_, kept| u64::from(kept))
    }

    /// Fewest bytes, all gaps below 2^rice; and most, all skipped positions in one gap.
    fn bounds(&self) -> (u64, u64) {
        let least = |kept: u32| LEVEL_BITS + u64::from(kept) * u64::from(3 + self.rice);
        let min = self.sum(|_, kept| least(kept));
        let max = self.sum(|len, kept| least(kept) + u64::from((len - kept) >> self.rice));
        (HEADER as u64 + min.div_ceil(8), HEADER as u64 + max.div_ceil(8))
    }
}

/// No delta of the model is longer, in bytes; `usize::MAX` if there can be none.
pub fn max_len(parameters: usize, training: &Training) -> usize {
    Shape::new(parameters, training).and_then(|s| usize::try_from(s.bounds().1).ok()).unwrap_or(usize::MAX)
}

/// About how long a delta is whose changes lie anywhere, in bytes. For people: never compare with it.
pub fn expected_len(parameters: usize, training: &Training) -> usize {
    let Some(shape) = Shape::new(parameters, training) else { return 0 };
    let skip = 1.0 - f64::from(shape.keep) / f64::from(shape.chunk);
    let long = (0..shape.rice).fold(skip, |q, _| q * q);
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let unary = (shape.kept() as f64 * long / (1.0 - long) / 8.0) as usize;
    usize::try_from(shape.bounds().0).unwrap_or(usize::MAX).saturating_add(unary)
}

/// Writes a delta from its chunks.
///
/// # Errors
/// If the chunks are not what the format demands, so that nobody would read them.
pub fn encode(parameters: usize, training: &Training, chunks: &[Chunk]) -> Result<Vec<u8>, EncodeError> {
    let shape = Shape::new(parameters, training).ok_or(EncodeError::Shape)?;
    let (expected, found) = (u64::from(shape.chunks()), chunks.len() as u64);
    if expected != found {
        return Err(EncodeError::Chunks { expected, found });
    }
    let mut out = Writer::behind(shape.header(), max_len(parameters, training).saturating_sub(HEADER));
    for (chunk, index) in chunks.iter().zip(0u32..) {
        let (len, count) = shape.of_chunk(index);
        let fail = |problem| EncodeError::Chunk { index: index as usize, problem };
        chunk.check(len as usize, count as usize).map_err(fail)?;
        out.put(u32::from(chunk.low), 8);
        out.put(u32::from(chunk.high), 8);
        let mut next = 0u32;
        for kept in &chunk.kept {
            let at = u32::from(kept.at);
            out.put_rice(at.saturating_sub(next), shape.rice);
            out.put(u32::from(kept.negative) | u32::from(kept.large) << 1, 2);
            next = at + 1;
        }
    }
    Ok(out.finish())
}

/// Reads the chunks of a delta one by one, each checked.
struct Chunks<'a> {
    shape: Shape,
    bits: Reader<'a>,
    next: u32,
}

impl<'a> Chunks<'a> {
    fn new(bytes: &'a [u8], parameters: usize, training: &Training) -> Result<Self, Refusal> {
        let (header, body) = bytes.split_at_checked(HEADER).ok_or(Refusal::Malformed)?;
        if header.first() != Some(&FORMAT) {
            return Err(Refusal::Malformed);
        }
        let shape = Shape::new(parameters, training).ok_or(Refusal::WrongShape)?;
        if header != shape.header() {
            return Err(Refusal::WrongShape);
        }
        let (min, max) = shape.bounds();
        // before anything is allocated: a reader's memory is at most 22 bytes for each byte that is really there
        if !(min..=max).contains(&(bytes.len() as u64)) {
            return Err(Refusal::Malformed);
        }
        Ok(Self { shape, bits: Reader::new(body), next: 0 })
    }

    /// Position of the next chunk's first parameter, and the chunk; `None` after the last.
    fn next(&mut self) -> Result<Option<(u32, Chunk)>, Refusal> {
        if self.next >= self.shape.chunks() {
            return if self.bits.at_end() { Ok(None) } else { Err(Refusal::Malformed) };
        }
        let (len, count) = self.shape.of_chunk(self.next);
        let chunk = self.read(len, count).ok_or(Refusal::Malformed)?;
        chunk.check(len as usize, count as usize).map_err(|_| Refusal::Malformed)?;
        let first = self.next.saturating_mul(self.shape.chunk);
        self.next += 1;
        Ok(Some((first, chunk)))
    }

    fn read(&mut self, len: u32, count: u32) -> Option<Chunk> {
        let level = |bits: &mut Reader<'_>| bits.take(8).and_then(|c| u8::try_from(c).ok());
        let (low, high) = (level(&mut self.bits)?, level(&mut self.bits)?);
        let mut kept = Vec::with_capacity(count as usize);
        let mut next = 0u32;
        for _ in 0..count {
            let room = len.checked_sub(next)?.checked_sub(1)?;
            let at = next + self.bits.take_rice(self.shape.rice, room)?;
            let marks = self.bits.take(2)?;
            kept.push(Kept { at: u16::try_from(at).ok()?, negative: marks & 1 == 1, large: marks & 2 == 2 });
            next = at + 1;
        }
        Some(Chunk { low, high, kept })
    }
}

/// Reads a delta as its chunks: what [`encode`] was given. For those who want the encoding, not the changes.
///
/// # Errors
/// As [`decode`], but for size and norm, which are the model's limits and not the format's.
pub fn chunks(bytes: &[u8], parameters: usize, training: &Training) -> Result<Vec<Chunk>, Refusal> {
    let mut reader = Chunks::new(bytes, parameters, training)?;
    let mut out = Vec::new();
    while let Some((_, chunk)) = reader.next()? {
        out.push(chunk);
    }
    Ok(out)
}

/// Reads a delta of a known model and refuses everything else before any evaluation (S7).
///
/// Time is linear in the bytes, memory bounded by the model's shape. Changes of zero are left out. No bytes of this
/// format mean NaN or infinity.
///
/// # Errors
/// The reason, as it goes into the outcome.
pub fn decode(bytes: &[u8], parameters: usize, training: &Training, judging: &Judging) -> Result<SparseDelta, Refusal> {
    if bytes.len() as u64 > judging.max_delta_bytes {
        return Err(Refusal::Oversize);
    }
    let mut reader = Chunks::new(bytes, parameters, training)?;
    let mut changes = Vec::with_capacity(usize::try_from(reader.shape.kept()).unwrap_or(0));
    while let Some((first, chunk)) = reader.next()? {
        for kept in &chunk.kept {
            let change = chunk.value(*kept);
            if change != 0.0 {
                changes.push((first.saturating_add(u32::from(kept.at)), change));
            }
        }
    }
    let delta = SparseDelta { parameters, changes };
    #[allow(clippy::cast_precision_loss)]
    let cap = judging.norm_cap_milli as f64 / 1000.0;
    if delta.norm() > cap { Err(Refusal::NormAboveCap) } else { Ok(delta) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test] // the integers that choose the Rice parameter find what the expected length says
    fn the_rice_parameter_is_the_best() {
        let training = crate::fuzzing::sample_manifest("rice").training;
        let chosen = |chunk, keep_per_chunk| {
            Shape::new(1, &Training { chunk, keep_per_chunk, ..training }).map(|shape| shape.rice)
        };
        assert_eq!((chosen(4096, 64), chosen(1024, 128), chosen(65_536, 1)), (Some(5), Some(2), Some(15)));
        for (chunk, keep) in (1..400u32).flat_map(|chunk| (1..=chunk).map(move |keep| (chunk * 164, keep * 163))) {
            let skip = 1.0 - f64::from(keep) / f64::from(chunk);
            let bits = |r: i32| {
                let long = skip.powi(1 << r);
                f64::from(r) + 1.0 + long / (1.0 - long)
            };
            let best = (0..17).map(bits).fold(f64::MAX, f64::min);
            let found = bits(chosen(chunk, keep).unwrap().cast_signed());
            assert!(found < best + 1e-6, "{keep} of {chunk}: {found} bits, {best} are possible");
        }
    }
}
