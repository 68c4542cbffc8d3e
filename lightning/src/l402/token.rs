//! The credential: a macaroon that commits to a payment hash, and the preimage that proves the payment.
//!
//! [`Bearer`] is the macaroon with its caveats and limits. What is here is what bLIP-26 adds: the identifier, which
//! commits to the payment, and the preimage beside it.

use super::error::L402Error;
use super::macaroon::{Bearer, RootKey};
use oda_consensus::ids::{PaymentHash, Preimage};
use std::fmt;

/// The version of bLIP-26's identifier.
const VERSION: u16 = 0;
/// Version, payment hash, token id.
const IDENTIFIER_BYTES: usize = 2 + 32 + 32;

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
    bearer: Bearer,
}

impl Token {
    /// A new token, signed, without caveats.
    ///
    /// # Errors
    /// If the location is longer than a macaroon may hold.
    pub fn mint(key: &RootKey, location: &str, identifier: Identifier) -> Result<Self, L402Error> {
        Ok(Self { identifier, bearer: Bearer::mint(key, location, &identifier.to_bytes())? })
    }

    /// The same token restricted further. Anyone who holds a token can do this; nobody can undo it.
    ///
    /// # Errors
    /// As [`Bearer::restrict`].
    pub fn restrict(&self, key: &str, value: &str) -> Result<Self, L402Error> {
        Ok(Self { identifier: self.identifier, bearer: self.bearer.restrict(key, value)? })
    }

    /// Reads the binary macaroon format, version 2.
    ///
    /// # Errors
    /// As [`Bearer::from_bytes`], or if its identifier is not L402's.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, L402Error> {
        Self::of(Bearer::from_bytes(bytes)?)
    }

    /// Reads base64, of either alphabet, with or without padding.
    ///
    /// # Errors
    /// As [`Token::from_bytes`], or if it is not base64.
    pub fn from_base64(text: &str) -> Result<Self, L402Error> {
        Self::of(Bearer::from_base64(text)?)
    }

    fn of(bearer: Bearer) -> Result<Self, L402Error> {
        Ok(Self { identifier: Identifier::from_bytes(bearer.identifier())?, bearer })
    }

    /// The binary macaroon format, version 2.
    ///
    /// # Errors
    /// As [`Bearer::to_bytes`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, L402Error> {
        self.bearer.to_bytes()
    }

    /// Base64 in the standard alphabet, padded, as Aperture writes it.
    ///
    /// # Errors
    /// As [`Bearer::to_bytes`].
    pub fn to_base64(&self) -> Result<String, L402Error> {
        self.bearer.to_base64()
    }

    /// What it is for.
    pub fn identifier(&self) -> Identifier {
        self.identifier
    }

    /// The last signature of its chain.
    pub fn signature(&self) -> [u8; 32] {
        self.bearer.signature()
    }

    /// Its caveats in order, as (key, value), spaces around each removed.
    ///
    /// # Errors
    /// As [`Bearer::caveats`].
    pub fn caveats(&self) -> Result<Vec<(&str, &str)>, L402Error> {
        self.bearer.caveats()
    }

    /// Whether this key signed it, caveats included; in constant time.
    ///
    /// # Errors
    /// As [`Bearer::check_signature`].
    pub fn check_signature(&self, key: &RootKey) -> Result<(), L402Error> {
        self.bearer.check_signature(key)
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
