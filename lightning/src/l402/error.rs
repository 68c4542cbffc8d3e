//! Why a token is refused. Each is answered with 402 and a new challenge, its text in the body.

use oda_consensus::ids::PaymentHash;

/// A token is not good for this request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum L402Error {
    /// No `Authorization: L402 ...` at all.
    #[error(
        "payment required: pay the invoice and repeat the request with `Authorization: L402 <macaroon>:<preimage>`"
    )]
    Missing,
    /// Not of the form `<macaroon>:<preimage>`.
    #[error("the credential is not `<macaroon in base64>:<preimage in 64 hex digits>`")]
    BadCredential,
    /// Several macaroons or several different credentials.
    #[error("{0} macaroons came with the request: send the one that this service issued")]
    SeveralMacaroons(usize),
    /// Longer than is read.
    #[error("{what} has {bytes} bytes, at most {max} are read: send fewer caveats")]
    TooLong {
        /// Of what.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// Limit.
        max: usize,
    },
    /// Not a macaroon.
    #[error("the macaroon cannot be read ({0}): was it cut off?")]
    Malformed(String),
    /// Its identifier is not L402's.
    #[error("the macaroon's identifier has {bytes} bytes and is not an L402 token's: it is another service's")]
    Foreign {
        /// Size of the identifier.
        bytes: usize,
    },
    /// A later version of the identifier.
    #[error("the token is of L402 version {version}, only 0 is understood")]
    UnknownVersion {
        /// Found.
        version: u16,
    },
    /// Too many caveats.
    #[error("the macaroon has {caveats} caveats, at most {max} are read", max = super::macaroon::MAX_CAVEATS)]
    TooManyCaveats {
        /// Found.
        caveats: usize,
    },
    /// Not `key=value`.
    #[error("the caveat `{caveat}` is not `key=value`: nobody can judge it")]
    BadCaveat {
        /// As far as it can be shown.
        caveat: String,
    },
    /// Needs a discharge.
    #[error("the macaroon needs a third party's discharge, which this service does not take")]
    ThirdParty,
    /// Its root key is not known (any more).
    #[error("this service has no root key for the token: it was withdrawn, or issued elsewhere")]
    UnknownToken,
    /// Not signed with its root key.
    #[error("the macaroon is not this service's, or was changed: its signature is wrong")]
    BadSignature,
    /// The preimage is another payment's.
    #[error("the preimage does not belong to payment {0}, which this token needs")]
    WrongPreimage(PaymentHash),
    /// Withdrawn.
    #[error("the token was revoked or is used up: pay for a new one")]
    Revoked,
    /// Expired.
    #[error("the token expired at {valid_until_s} (seconds since 1970): pay for a new one")]
    Expired {
        /// First second at which it is not valid.
        valid_until_s: u64,
    },
    /// For other services.
    #[error("the token is not for the service `{service}`")]
    OtherService {
        /// This service.
        service: String,
    },
    /// For other parts of the service.
    #[error("the token does not allow `{capability}`")]
    NotAllowed {
        /// What the request needs.
        capability: String,
    },
    /// A needed caveat is not there.
    #[error("the token has no `{key}`: this service issues none without")]
    NoCaveat {
        /// Which.
        key: String,
    },
    /// A value that says nothing.
    #[error("the value of the caveat `{key}` cannot be read")]
    BadValue {
        /// Which.
        key: String,
    },
    /// A later caveat allows more than an earlier one.
    #[error("a later `{key}` allows more than an earlier one: caveats can only restrict")]
    Widened {
        /// Which.
        key: String,
    },
    /// A restriction addressed to this service that it does not know.
    #[error("the token is restricted by `{key}`, which this service cannot enforce")]
    UnknownCaveat {
        /// Which.
        key: String,
    },
}

impl L402Error {
    /// A word for machines, sent as the header `l402-error`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::BadCredential | Self::Malformed(_) | Self::BadCaveat { .. } | Self::BadValue { .. } => "malformed",
            Self::SeveralMacaroons(_) => "several-macaroons",
            Self::TooLong { .. } | Self::TooManyCaveats { .. } => "too-long",
            Self::Foreign { .. } | Self::UnknownVersion { .. } | Self::UnknownToken => "unknown-token",
            Self::BadSignature => "bad-signature",
            Self::WrongPreimage(_) => "wrong-preimage",
            Self::Revoked => "revoked",
            Self::Expired { .. } => "expired",
            Self::OtherService { .. } => "other-service",
            Self::NotAllowed { .. } => "not-allowed",
            Self::NoCaveat { .. } => "no-caveat",
            Self::Widened { .. } => "widened",
            Self::ThirdParty | Self::UnknownCaveat { .. } => "unknown-caveat",
        }
    }
}
