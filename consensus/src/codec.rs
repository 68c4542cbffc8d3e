//! The one place where values become bytes (K2).
//!
//! Everything hashed, signed, sent or stored goes through [`encode`] and [`decode`]:
//! a version byte, a four-byte domain tag, then bincode 2 with fixed-width little-endian
//! integers. The obvious way, calling a serializer wherever bytes are needed, lets two
//! kinds of message share one byte string, so that a signature over one can be shown as a
//! signature over the other; the tag rules that out. `decode` refuses trailing bytes and
//! any input that would not encode back to itself, so a value has exactly one byte string.

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};

/// Version of the byte format; the first byte of every encoded value.
pub const VERSION: u8 = 1;

/// No single encoded value may be larger, whatever its kind (K3).
pub const MAX_BYTES: usize = 8 << 20;

const HEADER_BYTES: usize = 5;

fn config() -> Configuration<LittleEndian, Fixint, Limit<MAX_BYTES>> {
    bincode::config::standard().with_little_endian().with_fixed_int_encoding().with_limit::<MAX_BYTES>()
}

/// A kind of value with its own domain tag and size limit.
pub trait Record: bincode::Encode + bincode::Decode<()> {
    /// Domain tag: two kinds never share one.
    const TAG: [u8; 4];
    /// Largest encoding accepted, in bytes, header included.
    const MAX_BYTES: usize;

    /// Whether the records inside this one keep to their own limits. Without it a peer sends an oversized
    /// record inside a larger one, and whoever encodes or hashes the inner one alone stops.
    ///
    /// # Errors
    /// [`CodecError::TooLong`] naming the inner kind.
    fn check_nested(&self) -> Result<(), CodecError> {
        Ok(())
    }
}

/// Whether a record inside another keeps to its limit; for [`Record::check_nested`].
///
/// # Errors
/// [`CodecError::TooLong`].
pub fn within<T: Record>(value: &T) -> Result<(), CodecError> {
    let mut encoder = bincode::enc::EncoderImpl::new(bincode::enc::write::SizeWriter::default(), config());
    let malformed = |e: bincode::error::EncodeError| CodecError::Malformed { tag: tag::<T>(), reason: e.to_string() };
    value.encode(&mut encoder).map_err(malformed)?;
    let len = encoder.into_writer().bytes_written.saturating_add(HEADER_BYTES);
    if len > T::MAX_BYTES {
        return Err(CodecError::TooLong { len, max: T::MAX_BYTES, tag: tag::<T>() });
    }
    value.check_nested()
}

/// Declares the [`Record`] implementation of a type: `record!(Type, b"tag4", max_bytes)`, or, with records inside,
/// `record!(Type, b"tag4", max_bytes, |value| codec::within(&value.inner))`.
#[macro_export]
macro_rules! record {
    ($ty:ty, $tag:literal, $max:expr) => {
        impl $crate::codec::Record for $ty {
            const TAG: [u8; 4] = *$tag;
            const MAX_BYTES: usize = $max;
        }
    };
    ($ty:ty, $tag:literal, $max:expr, |$value:ident| $nested:expr) => {
        impl $crate::codec::Record for $ty {
            const TAG: [u8; 4] = *$tag;
            const MAX_BYTES: usize = $max;
            fn check_nested(&self) -> Result<(), $crate::codec::CodecError> {
                let $value = self;
                $nested
            }
        }
    };
}

/// Why bytes were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Longer than the kind allows.
    #[error("{len} bytes, but a {tag} may have at most {max}")]
    TooLong {
        /// Bytes received.
        len: usize,
        /// Bytes allowed.
        max: usize,
        /// Domain tag expected.
        tag: String,
    },
    /// Wrong version byte or domain tag, or shorter than a header.
    #[error("not a version {VERSION} {tag}: the version byte or domain tag differs")]
    WrongHeader {
        /// Domain tag expected.
        tag: String,
    },
    /// The body is not a value of the kind.
    #[error("malformed {tag}: {reason}")]
    Malformed {
        /// Domain tag expected.
        tag: String,
        /// What the decoder said.
        reason: String,
    },
    /// Decodes, but encodes back to other bytes (trailing bytes included).
    #[error("not the canonical bytes of a {tag}")]
    NotCanonical {
        /// Domain tag expected.
        tag: String,
    },
}

fn tag<T: Record>() -> String {
    T::TAG.escape_ascii().to_string()
}

/// The one byte string of a value.
///
/// # Panics
/// If the value is larger than its kind allows: such a value must never be built.
pub fn encode<T: Record>(value: &T) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    out.push(VERSION);
    out.extend_from_slice(&T::TAG);
    bincode::encode_into_std_write(value, &mut out, config()).expect("encoding into memory cannot fail");
    assert!(out.len() <= T::MAX_BYTES, "{} of {} bytes exceeds its limit of {}", tag::<T>(), out.len(), T::MAX_BYTES);
    out
}

/// The value of a byte string, if it is canonical.
///
/// # Errors
/// [`CodecError`] for anything but the exact output of [`encode`]; never panics.
pub fn decode<T: Record>(bytes: &[u8]) -> Result<T, CodecError> {
    if bytes.len() > T::MAX_BYTES {
        return Err(CodecError::TooLong { len: bytes.len(), max: T::MAX_BYTES, tag: tag::<T>() });
    }
    let (header, body) =
        bytes.split_at_checked(HEADER_BYTES).ok_or_else(|| CodecError::WrongHeader { tag: tag::<T>() })?;
    if header[0] != VERSION || header[1..] != T::TAG {
        return Err(CodecError::WrongHeader { tag: tag::<T>() });
    }
    let (value, _) = bincode::decode_from_slice::<T, _>(body, config())
        .map_err(|e| CodecError::Malformed { tag: tag::<T>(), reason: e.to_string() })?;
    value.check_nested()?;
    // Re-encode without the size assertion of `encode`: the input length bounds the output.
    let again = bincode::encode_to_vec(&value, config())
        .map_err(|e| CodecError::Malformed { tag: tag::<T>(), reason: e.to_string() })?;
    if again != body {
        return Err(CodecError::NotCanonical { tag: tag::<T>() });
    }
    Ok(value)
}

/// BLAKE3 of a value's bytes; the tag inside them keeps kinds apart.
pub fn hash<T: Record>(value: &T) -> [u8; 32] {
    *blake3::hash(&encode(value)).as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[derive(Debug, PartialEq, bincode::Encode, bincode::Decode)]
    struct Sample {
        map: BTreeMap<u8, u16>,
        flag: Option<bool>,
    }
    record!(Sample, b"smpl", 64);

    fn sample() -> Sample {
        Sample { map: BTreeMap::from([(1, 2), (3, 4)]), flag: Some(true) }
    }

    #[test] // K2
    fn round_trip_and_pinned_bytes() {
        let bytes = encode(&sample());
        assert_eq!(decode::<Sample>(&bytes).unwrap(), sample());
        // Changing bytes on the wire or disk must break a test on purpose.
        assert_eq!(hex::encode(&bytes), "01736d706c0200000000000000010200030400".to_owned() + "0101");
    }

    #[test] // K2: one value, one byte string
    fn refuses_trailing_reordered_foreign_and_long() {
        let bytes = encode(&sample());
        let mut long = bytes.clone();
        long.push(0);
        assert!(matches!(decode::<Sample>(&long), Err(CodecError::NotCanonical { .. })));
        let mut swapped = bytes.clone();
        swapped[13..19].copy_from_slice(&[3, 4, 0, 1, 2, 0]);
        assert!(matches!(decode::<Sample>(&swapped), Err(CodecError::NotCanonical { .. })));
        let mut foreign = bytes.clone();
        foreign[1] = b'x';
        assert!(matches!(decode::<Sample>(&foreign), Err(CodecError::WrongHeader { .. })));
        assert!(matches!(decode::<Sample>(&[0; 65]), Err(CodecError::TooLong { .. })));
        // a claimed length of 2^64 - 1 entries must not allocate
        let mut huge = bytes[..5].to_vec();
        huge.extend_from_slice(&[0xff; 8]);
        assert!(decode::<Sample>(&huge).is_err());
    }

    proptest! {
        #[test] // K3
        fn arbitrary_bytes_never_panic_and_accepted_ones_are_canonical(
            body in proptest::collection::vec(any::<u8>(), 0..60)
        ) {
            let mut bytes = vec![VERSION];
            bytes.extend_from_slice(b"smpl");
            bytes.extend_from_slice(&body);
            if let Ok(value) = decode::<Sample>(&bytes) {
                prop_assert_eq!(encode(&value), bytes);
            }
        }
    }
}
