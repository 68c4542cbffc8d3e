//! What goes over the wire: `WWW-Authenticate` with a challenge, `Authorization` with a credential.
//!
//! Both schemes, `L402` and its old name `LSAT`, mean the same (bLIP-26, Backwards Compatibility), and
//! scheme names are case-insensitive (RFC 9110, 11.1).

use super::error::L402Error;
use super::macaroon::clip;
use super::token::{Credential, Token};
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use oda_consensus::ids::Preimage;

/// Longest `Authorization` or `WWW-Authenticate` read, bytes.
pub const MAX_HEADER_BYTES: usize = 12 << 10;
/// Most values of one header looked at.
const MAX_HEADERS: usize = 8;
/// Most macaroons counted for the error.
const MAX_COUNTED: usize = 64;

/// The scheme's names, the current one first.
const SCHEMES: [&str; 2] = ["L402", "LSAT"];

fn is_scheme(word: &str) -> bool {
    SCHEMES.iter().any(|s| word.eq_ignore_ascii_case(s))
}

impl Credential {
    /// Reads `<macaroon>:<preimage>`. bLIP-26 allows several macaroons; a token of this crate is one, so
    /// more than one is refused instead of guessing which was meant.
    ///
    /// # Errors
    /// If it is malformed, too long, or holds more than one macaroon.
    pub fn parse(text: &str) -> Result<Self, L402Error> {
        if text.len() > MAX_HEADER_BYTES {
            return Err(L402Error::TooLong { what: "the credential", bytes: text.len(), max: MAX_HEADER_BYTES });
        }
        let (macaroons, preimage) = text.trim().rsplit_once(':').ok_or(L402Error::BadCredential)?;
        let count = macaroons.split(',').take(MAX_COUNTED).count();
        if count > 1 {
            return Err(L402Error::SeveralMacaroons(count));
        }
        let preimage: Preimage = preimage.trim().parse().map_err(|_| L402Error::BadCredential)?;
        Ok(Self { token: Token::from_base64(macaroons.trim())?, preimage })
    }

    /// `<macaroon>:<preimage>`.
    ///
    /// # Errors
    /// As [`Token::to_bytes`].
    pub fn to_text(&self) -> Result<String, L402Error> {
        Ok(format!("{}:{}", self.token.to_base64()?, hex::encode(self.preimage.0)))
    }

    /// The value of `Authorization`, marked as sensitive.
    ///
    /// # Errors
    /// As [`Token::to_bytes`].
    pub fn to_header(&self) -> Result<HeaderValue, L402Error> {
        let text = format!("{} {}", SCHEMES[0], self.to_text()?);
        let mut value = HeaderValue::try_from(text).map_err(|_| L402Error::BadCredential)?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// The one credential of a request. Other schemes beside it are left alone; the same credential under
    /// both names is fine, as Aperture's client sends it.
    ///
    /// # Errors
    /// If there is none, or several different ones, or it cannot be read.
    pub fn from_headers(headers: &HeaderMap) -> Result<Self, L402Error> {
        let mut found: Option<&str> = None;
        for value in headers.get_all(AUTHORIZATION).iter().take(MAX_HEADERS) {
            let Some((scheme, rest)) = value.to_str().ok().and_then(|text| text.trim().split_once(' ')) else {
                continue;
            };
            if !is_scheme(scheme) {
                continue;
            }
            match found {
                None => found = Some(rest),
                Some(other) if other.trim() == rest.trim() => {}
                Some(_) => return Err(L402Error::SeveralMacaroons(2)),
            }
        }
        Self::parse(found.ok_or(L402Error::Missing)?)
    }
}

/// What a server asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// The token, valid once the invoice is paid.
    pub token: Token,
    /// The invoice.
    pub bolt11: String,
}

impl Challenge {
    /// The values of `WWW-Authenticate`: one for each name of the scheme.
    ///
    /// # Errors
    /// If the invoice cannot stand in a header.
    pub fn to_headers(&self) -> Result<[HeaderValue; 2], L402Error> {
        let macaroon = self.token.to_base64()?;
        if !self.bolt11.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(L402Error::Malformed("the invoice is not bech32".into()));
        }
        let value = |scheme| {
            let text = format!("{scheme} macaroon=\"{macaroon}\", invoice=\"{}\"", self.bolt11);
            HeaderValue::try_from(text).map_err(|e| L402Error::Malformed(e.to_string()))
        };
        Ok([value(SCHEMES[0])?, value(SCHEMES[1])?])
    }

    /// The challenge of a response: none if it has no L402 or LSAT one.
    ///
    /// # Errors
    /// If there is one that cannot be read.
    pub fn from_headers(headers: &HeaderMap) -> Result<Option<Self>, L402Error> {
        let mut bad = None;
        for value in headers.get_all(WWW_AUTHENTICATE).iter().take(MAX_HEADERS) {
            let Ok(text) = value.to_str() else { continue };
            if text.len() > MAX_HEADER_BYTES {
                bad = Some(L402Error::TooLong { what: "the challenge", bytes: text.len(), max: MAX_HEADER_BYTES });
                continue;
            }
            match Self::parse(text) {
                Ok(Some(challenge)) => return Ok(Some(challenge)),
                Ok(None) => {}
                Err(error) => bad = Some(error),
            }
        }
        bad.map_or(Ok(None), Err)
    }

    /// One header value, which may hold challenges of other schemes before or after ours.
    fn parse(text: &str) -> Result<Option<Self>, L402Error> {
        let (mut ours, mut macaroon, mut invoice) = (false, None, None);
        for Item { scheme, key, value } in items(text) {
            if let Some(scheme) = scheme {
                if macaroon.is_some() && invoice.is_some() {
                    break; // a second challenge begins
                }
                ours = is_scheme(scheme);
            }
            match key {
                "macaroon" | "token" if ours => macaroon = Some(value),
                "invoice" if ours => invoice = Some(value),
                _ => {}
            }
        }
        match (macaroon, invoice) {
            (None, None) => Ok(None),
            (Some(macaroon), Some(invoice)) => {
                if !invoice.bytes().all(|b| b.is_ascii_alphanumeric()) {
                    return Err(L402Error::Malformed(format!("`{}` is no invoice", clip(invoice))));
                }
                Ok(Some(Self { token: Token::from_base64(macaroon)?, bolt11: invoice.into() }))
            }
            _ => Err(L402Error::Malformed("a challenge needs both macaroon and invoice".into())),
        }
    }
}

/// `scheme key=value`, the scheme only where it changes.
struct Item<'a> {
    scheme: Option<&'a str>,
    key: &'a str,
    value: &'a str,
}

/// The parameters of a `WWW-Authenticate` value. Quoted values are taken as they stand: no value of ours
/// holds a quote or a backslash.
fn items(text: &str) -> impl Iterator<Item = Item<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (before, after) = rest.split_once('=')?;
        let before = before.trim_start_matches([',', ' ', '\t']).trim_end();
        let (scheme, key) = match before.rsplit_once([' ', '\t', ',']) {
            Some((scheme, key)) => (Some(scheme.trim_end_matches([' ', ',']).rsplit([' ', ',']).next()?), key),
            None => (None, before),
        };
        let after = after.trim_start();
        let value = if let Some(quoted) = after.strip_prefix('"') {
            let (value, tail) = quoted.split_once('"').unwrap_or((quoted, ""));
            rest = tail;
            value
        } else {
            let (value, tail) = after.split_once([',', ' ']).unwrap_or((after, ""));
            rest = tail;
            value
        };
        Some(Item { scheme, key, value })
    })
}
