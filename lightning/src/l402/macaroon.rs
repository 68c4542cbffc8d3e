//! A macaroon within limits: what a paid token and a node's own scoped tokens are both made of.
//!
//! The macaroon itself (signatures, binary format) is `libmacaroon`: pure Rust, bounded parsers, compatible
//! with libmacaroons and so with LND and Aperture. The older `macaroon` crate builds libsodium from C.
//! As in go-macaroon, which LND and Aperture use, a root key is hashed once with the fixed key
//! "macaroons-key-generator" before the chain of HMACs begins (`MacaroonKey::generate`); a key taken as it
//! stands gives signatures nobody else can check. What is here is what every use of it needs: first-party
//! caveats `key=value`, limits, and bytes in and out. What an identifier and a caveat mean is the user's.

use super::error::L402Error;
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use libmacaroon::{Caveat as RawCaveat, Format, Macaroon, MacaroonKey, Verifier};
use std::fmt;
use zeroize::Zeroizing;

/// Longest macaroon read, bytes before base64.
pub const MAX_MACAROON_BYTES: usize = 4096;
/// Longest macaroon read, bytes of its base64.
pub const MAX_MACAROON_TEXT_BYTES: usize = MAX_MACAROON_BYTES.div_ceil(3) * 4;
/// Most caveats on a macaroon read or extended.
pub const MAX_CAVEATS: usize = 32;

/// Padding is optional on the way in: clients differ.
const INDIFFERENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, INDIFFERENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, INDIFFERENT);

/// The secret a token is signed with.
#[derive(Clone, PartialEq, Eq)]
pub struct RootKey(MacaroonKey);

impl RootKey {
    /// From its bytes, which must be secret and random.
    pub fn new(bytes: &Zeroizing<[u8; 32]>) -> Self {
        Self(MacaroonKey::generate(bytes.as_slice()))
    }
}

impl fmt::Debug for RootKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RootKey(<redacted>)")
    }
}

/// A bearer token: whoever has it can use it and can restrict it further, nobody can widen it. Reading one proves
/// nothing; [`Bearer::check_signature`] does. `Debug` shows neither identifier nor signature.
#[derive(Clone, PartialEq, Eq)]
pub struct Bearer(Macaroon);

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bearer({} caveats, <redacted>)", self.0.caveats().len())
    }
}

impl Bearer {
    /// A new one, signed, without caveats.
    ///
    /// # Errors
    /// If identifier and location are longer than a macaroon may be.
    pub fn mint(key: &RootKey, location: &str, identifier: &[u8]) -> Result<Self, L402Error> {
        Self(Macaroon::create(Some(location), &key.0, identifier).map_err(malformed)?).within_limits()
    }

    /// The same restricted further. Anyone who holds a token can do this; nobody can undo it.
    ///
    /// # Errors
    /// If the key holds a `=`, or the token would pass [`MAX_CAVEATS`] or [`MAX_MACAROON_BYTES`].
    pub fn restrict(&self, key: &str, value: &str) -> Result<Self, L402Error> {
        if key.is_empty() || key.contains('=') {
            return Err(L402Error::BadCaveat { caveat: clip(key) });
        }
        let mut macaroon = self.0.clone();
        macaroon.add_first_party_caveat(format!("{key}={value}")).map_err(malformed)?;
        Self(macaroon).within_limits()
    }

    /// Reads the binary macaroon format, version 2.
    ///
    /// # Errors
    /// If it is truncated, too long, or of another format.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, L402Error> {
        if bytes.len() > MAX_MACAROON_BYTES {
            return Err(L402Error::TooLong { what: "the macaroon", bytes: bytes.len(), max: MAX_MACAROON_BYTES });
        }
        if bytes.first() != Some(&2) {
            return Err(L402Error::Malformed("not a macaroon in binary format, version 2".into()));
        }
        Self(Macaroon::deserialize_binary(bytes).map_err(malformed)?).within_limits()
    }

    /// The binary macaroon format, version 2.
    ///
    /// # Errors
    /// Never for one that was minted or read within the limits.
    pub fn to_bytes(&self) -> Result<Vec<u8>, L402Error> {
        // `libmacaroon` has no binary output: its text is the same bytes in URL-safe base64
        let text = self.0.serialize(Format::V2).map_err(malformed)?;
        URL_SAFE.decode(text).map_err(|e| L402Error::Malformed(e.to_string()))
    }

    /// Reads base64, of either alphabet, with or without padding.
    ///
    /// # Errors
    /// As [`Bearer::from_bytes`], or if it is not base64.
    pub fn from_base64(text: &str) -> Result<Self, L402Error> {
        if text.len() > MAX_MACAROON_TEXT_BYTES {
            return Err(L402Error::TooLong { what: "the macaroon", bytes: text.len(), max: MAX_MACAROON_BYTES });
        }
        let engine = if text.contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
        let bytes = engine.decode(text).map_err(|e| L402Error::Malformed(format!("not base64: {e}")))?;
        Self::from_bytes(&bytes)
    }

    /// Base64 in the standard alphabet, padded, as Aperture writes it.
    ///
    /// # Errors
    /// As [`Bearer::to_bytes`].
    pub fn to_base64(&self) -> Result<String, L402Error> {
        Ok(STANDARD.encode(self.to_bytes()?))
    }

    /// What it was minted for.
    pub fn identifier(&self) -> &[u8] {
        self.0.identifier()
    }

    /// The last signature of its chain.
    pub fn signature(&self) -> [u8; 32] {
        let bytes: &[u8; 32] = self.0.signature().as_ref();
        *bytes
    }

    /// Its caveats in order, as (key, value), spaces around each removed.
    ///
    /// # Errors
    /// If one is a third party's, or not `key=value` in UTF-8: nobody here could judge it.
    pub fn caveats(&self) -> Result<Vec<(&str, &str)>, L402Error> {
        let parse = |caveat| match caveat {
            &RawCaveat::ThirdParty(_) => Err(L402Error::ThirdParty),
            RawCaveat::FirstParty(first) => {
                let bad = || L402Error::BadCaveat { caveat: clip(&String::from_utf8_lossy(first.predicate())) };
                let text = std::str::from_utf8(first.predicate()).map_err(|_| bad())?;
                let (key, value) = text.split_once('=').ok_or_else(bad)?;
                Ok((key.trim(), value.trim()))
            }
        };
        self.0.caveats().iter().map(parse).collect()
    }

    /// Whether this key signed it, caveats included; in constant time.
    ///
    /// # Errors
    /// If not, or if a third party's caveat is on it.
    pub fn check_signature(&self, key: &RootKey) -> Result<(), L402Error> {
        let mut verifier = Verifier::default();
        // the chain only: what the caveats mean is judged afterwards, each with an error of its own
        verifier.satisfy_general(|_| true);
        if !self.0.third_party_caveats().is_empty() {
            return Err(L402Error::ThirdParty);
        }
        verifier.verify(&self.0, &key.0, &[]).map_err(|_| L402Error::BadSignature)
    }

    fn within_limits(self) -> Result<Self, L402Error> {
        let caveats = self.0.caveats().len();
        if caveats > MAX_CAVEATS {
            return Err(L402Error::TooManyCaveats { caveats });
        }
        let bytes = self.to_bytes()?.len();
        if bytes > MAX_MACAROON_BYTES {
            return Err(L402Error::TooLong { what: "the macaroon", bytes, max: MAX_MACAROON_BYTES });
        }
        Ok(self)
    }
}

fn malformed(error: libmacaroon::MacaroonError) -> L402Error {
    L402Error::Malformed(clip(&error.to_string()))
}

/// Something from outside, short enough for an error.
pub(super) fn clip(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).take(80).collect()
}
