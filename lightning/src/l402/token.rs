//! The credential: a macaroon that commits to a payment hash, and the preimage that proves the payment.
//!
//! The macaroon itself (signatures, binary format) is `libmacaroon`: pure Rust, bounded parsers, compatible
//! with libmacaroons and so with LND and Aperture. The older `macaroon` crate builds libsodium from C.
//! As in go-macaroon, which LND and Aperture use, a root key is hashed once with the fixed key
//! "macaroons-key-generator" before the chain of HMACs begins (`MacaroonKey::generate`); a key taken as it
//! stands gives signatures nobody else can check. What is here is what bLIP-26 adds: the identifier,
//! `key=value` caveats, limits.

use super::error::L402Error;
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use libmacaroon::{Caveat as RawCaveat, Format, Macaroon, MacaroonKey, Verifier};
use oda_consensus::ids::{PaymentHash, Preimage};
use std::fmt;
use zeroize::Zeroizing;

/// Longest macaroon read, bytes before base64.
pub const MAX_MACAROON_BYTES: usize = 4096;
/// Most caveats on a macaroon read or extended.
pub const MAX_CAVEATS: usize = 32;
/// The version of bLIP-26's identifier.
const VERSION: u16 = 0;
/// Version, payment hash, token id.
const IDENTIFIER_BYTES: usize = 2 + 32 + 32;

/// Padding is optional on the way in: clients differ.
const INDIFFERENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, INDIFFERENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, INDIFFERENT);

/// Names one token; its root key, its revocation and the holder's account hang on it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(pub [u8; 32]);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenId({self})")
    }
}

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

/// What a macaroon says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identifier {
    /// Hash of the payment that makes the token valid.
    pub payment_hash: PaymentHash,
    /// Which token.
    pub token_id: TokenId,
}

impl Identifier {
    /// bLIP-26: version (u16, big endian), payment hash, token id.
    pub fn to_bytes(&self) -> [u8; IDENTIFIER_BYTES] {
        let mut out = [0; IDENTIFIER_BYTES];
        let (version, rest) = out.split_at_mut(2);
        let (hash, id) = rest.split_at_mut(32);
        version.copy_from_slice(&VERSION.to_be_bytes());
        hash.copy_from_slice(&self.payment_hash.0);
        id.copy_from_slice(&self.token_id.0);
        out
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, L402Error> {
        let foreign = || L402Error::Foreign { bytes: bytes.len() };
        let (version, rest) = bytes.split_first_chunk::<2>().ok_or_else(foreign)?;
        let version = u16::from_be_bytes(*version);
        if version != VERSION {
            return Err(L402Error::UnknownVersion { version });
        }
        let (hash, rest) = rest.split_first_chunk::<32>().ok_or_else(foreign)?;
        let id: [u8; 32] = rest.try_into().map_err(|_| foreign())?;
        Ok(Self { payment_hash: PaymentHash(*hash), token_id: TokenId(id) })
    }
}

/// A macaroon with an L402 identifier. Decoding one proves nothing; [`Token::check_signature`] does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    identifier: Identifier,
    macaroon: Macaroon,
}

impl Token {
    /// A new token, signed, without caveats.
    ///
    /// # Errors
    /// If the location is longer than a macaroon may hold.
    pub fn mint(key: &RootKey, location: &str, identifier: Identifier) -> Result<Self, L402Error> {
        let macaroon = Macaroon::create(Some(location), &key.0, identifier.to_bytes()).map_err(malformed)?;
        Self { identifier, macaroon }.within_limits()
    }

    /// The same token restricted further. Anyone who holds a token can do this; nobody can undo it.
    ///
    /// # Errors
    /// If the key holds a `=`, or the token would pass [`MAX_CAVEATS`] or [`MAX_MACAROON_BYTES`].
    pub fn restrict(&self, key: &str, value: &str) -> Result<Self, L402Error> {
        if key.is_empty() || key.contains('=') {
            return Err(L402Error::BadCaveat { caveat: clip(key) });
        }
        let mut macaroon = self.macaroon.clone();
        macaroon.add_first_party_caveat(format!("{key}={value}")).map_err(malformed)?;
        Self { identifier: self.identifier, macaroon }.within_limits()
    }

    /// Reads the binary macaroon format, version 2.
    ///
    /// # Errors
    /// If it is truncated, too long, of another format, or its identifier is not L402's.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, L402Error> {
        if bytes.len() > MAX_MACAROON_BYTES {
            return Err(L402Error::TooLong { what: "the macaroon", bytes: bytes.len(), max: MAX_MACAROON_BYTES });
        }
        if bytes.first() != Some(&2) {
            return Err(L402Error::Malformed("not a macaroon in binary format, version 2".into()));
        }
        let macaroon = Macaroon::deserialize_binary(bytes).map_err(malformed)?;
        let identifier = Identifier::from_bytes(macaroon.identifier())?;
        Self { identifier, macaroon }.within_limits()
    }

    /// The binary macaroon format, version 2.
    ///
    /// # Errors
    /// Never for a token that was minted or read within the limits.
    pub fn to_bytes(&self) -> Result<Vec<u8>, L402Error> {
        // `libmacaroon` has no binary output: its text is the same bytes in URL-safe base64
        let text = self.macaroon.serialize(Format::V2).map_err(malformed)?;
        URL_SAFE.decode(text).map_err(|e| L402Error::Malformed(e.to_string()))
    }

    /// Reads base64, of either alphabet, with or without padding.
    ///
    /// # Errors
    /// As [`Token::from_bytes`], or if it is not base64.
    pub fn from_base64(text: &str) -> Result<Self, L402Error> {
        if text.len() > MAX_MACAROON_BYTES.div_ceil(3) * 4 {
            return Err(L402Error::TooLong { what: "the macaroon", bytes: text.len(), max: MAX_MACAROON_BYTES });
        }
        let engine = if text.contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
        let bytes = engine.decode(text).map_err(|e| L402Error::Malformed(format!("not base64: {e}")))?;
        Self::from_bytes(&bytes)
    }

    /// Base64 in the standard alphabet, padded, as Aperture writes it.
    ///
    /// # Errors
    /// As [`Token::to_bytes`].
    pub fn to_base64(&self) -> Result<String, L402Error> {
        Ok(STANDARD.encode(self.to_bytes()?))
    }

    /// What it is for.
    pub fn identifier(&self) -> Identifier {
        self.identifier
    }

    /// The last signature of its chain.
    pub fn signature(&self) -> [u8; 32] {
        let bytes: &[u8; 32] = self.macaroon.signature().as_ref();
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
        self.macaroon.caveats().iter().map(parse).collect()
    }

    /// Whether this key signed it, caveats included; in constant time.
    ///
    /// # Errors
    /// If not, or if a third party's caveat is on it.
    pub fn check_signature(&self, key: &RootKey) -> Result<(), L402Error> {
        let mut verifier = Verifier::default();
        // the chain only: what the caveats mean is judged afterwards, each with an error of its own
        verifier.satisfy_general(|_| true);
        if !self.macaroon.third_party_caveats().is_empty() {
            return Err(L402Error::ThirdParty);
        }
        verifier.verify(&self.macaroon, &key.0, &[]).map_err(|_| L402Error::BadSignature)
    }

    fn within_limits(self) -> Result<Self, L402Error> {
        let caveats = self.macaroon.caveats().len();
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

/// A paid token: what `Authorization` carries. Whoever has it can use it, so `Debug` does not print it.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// The macaroon.
    pub token: Token,
    /// The proof that it was paid.
    pub preimage: Preimage,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential({:?}, <redacted>)", self.token.identifier.token_id)
    }
}

fn malformed(error: libmacaroon::MacaroonError) -> L402Error {
    L402Error::Malformed(clip(&error.to_string()))
}

/// Something from outside, short enough for an error.
pub(super) fn clip(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).take(80).collect()
}
