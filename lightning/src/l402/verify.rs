//! Judging a credential: signature, payment, revocation, caveats, in this order.
//!
//! A token is not stored when it is issued: its root key follows from one secret and its id, and the
//! payment hash is in its identifier. So a flood of challenges costs no memory, and a check costs a few
//! hashes. Only revoked tokens are remembered, each until it would have expired anyway.

use super::caveat::{Needed, judge};
use super::error::L402Error;
use super::macaroon::RootKey;
use super::token::{Credential, Identifier, TokenId};
use hmac::{Hmac, Mac as _};
use oda_consensus::ids::PaymentHash;
use sha2::Sha256;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Mutex, PoisonError};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// Where root keys come from.
pub trait RootKeys: Send + Sync + 'static {
    /// The key of a token, one of its own each; none if the token is not known or was withdrawn.
    fn root_key(&self, id: &TokenId) -> Option<RootKey>;

    /// The key of a new token. A store of random keys makes and keeps one here; but then a challenge costs
    /// memory before anything is paid.
    fn new_root_key(&self, id: &TokenId) -> Option<RootKey> {
        self.root_key(id)
    }
}

/// Root keys derived from one secret: HMAC-SHA-256 of the token id. Losing the secret voids all tokens,
/// leaking it lets anyone make paid ones.
pub struct DerivedRootKeys {
    secret: Zeroizing<[u8; 32]>,
}

impl DerivedRootKeys {
    /// From 32 secret random bytes, used for nothing else.
    pub fn new(secret: Zeroizing<[u8; 32]>) -> Self {
        Self { secret }
    }
}

impl fmt::Debug for DerivedRootKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DerivedRootKeys(<redacted>)")
    }
}

impl RootKeys for DerivedRootKeys {
    fn root_key(&self, id: &TokenId) -> Option<RootKey> {
        let secret: &[u8; 32] = &self.secret;
        let mut mac = <Hmac<Sha256> as hmac::Mac>::new_from_slice(secret).ok()?;
        mac.update(b"l402 root key");
        mac.update(&id.0);
        let bytes: Zeroizing<[u8; 32]> = Zeroizing::new(mac.finalize().into_bytes().into());
        Some(RootKey::new(&bytes))
    }
}

/// Which tokens are withdrawn or used up.
pub trait Revocations: Send + Sync + 'static {
    /// Whether a token is.
    fn is_revoked(&self, id: &TokenId, now_ms: u64) -> bool;

    /// Withdraws a token that expires by itself at `valid_until_s`; says whether it was valid until now.
    /// A handler that sells single uses calls this and serves only the one that is answered `true`.
    ///
    /// # Errors
    /// If it cannot be remembered: nothing may be served on the strength of it.
    fn revoke(&self, id: TokenId, valid_until_s: u64, now_ms: u64) -> Result<bool, RevocationsFull>;
}

/// The list of revoked tokens is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} revoked tokens are remembered, no more fit: wait until some expire, or make the limit larger")]
pub struct RevocationsFull(pub usize);

/// Revoked tokens in memory, each forgotten when it would have expired. Lost at a restart: whoever revokes
/// for more than the length of a process keeps them on disk behind the trait.
pub struct MemoryRevocations {
    max: usize,
    revoked: Mutex<Revoked>,
}

#[derive(Default)]
struct Revoked {
    until: BTreeMap<TokenId, u64>,
    by_end: BTreeSet<(u64, TokenId)>,
}

impl MemoryRevocations {
    /// Remembers at most `max` tokens that have not expired.
    pub fn new(max: usize) -> Self {
        Self { max, revoked: Mutex::default() }
    }

    /// How many it remembers.
    pub fn len(&self) -> usize {
        self.revoked.lock().unwrap_or_else(PoisonError::into_inner).until.len()
    }

    /// Whether it remembers none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Default for MemoryRevocations {
    /// 100,000 tokens, some 10 MB.
    fn default() -> Self {
        Self::new(100_000)
    }
}

impl Revocations for MemoryRevocations {
    fn is_revoked(&self, id: &TokenId, _now_ms: u64) -> bool {
        self.revoked.lock().unwrap_or_else(PoisonError::into_inner).until.contains_key(id)
    }

    fn revoke(&self, id: TokenId, valid_until_s: u64, now_ms: u64) -> Result<bool, RevocationsFull> {
        let mut revoked = self.revoked.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(&(end_s, old)) = revoked.by_end.first() {
            if now_ms < end_s.saturating_mul(1000) {
                break;
            }
            revoked.by_end.pop_first();
            revoked.until.remove(&old);
        }
        if revoked.until.contains_key(&id) || now_ms >= valid_until_s.saturating_mul(1000) {
            return Ok(false);
        }
        if revoked.until.len() >= self.max {
            return Err(RevocationsFull(self.max));
        }
        revoked.until.insert(id, valid_until_s);
        revoked.by_end.insert((valid_until_s, id));
        Ok(true)
    }
}

/// A request was paid for: among its extensions for the handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct L402Paid {
    /// Which token.
    pub token_id: TokenId,
    /// The payment that made it valid.
    pub payment_hash: PaymentHash,
    /// Tier of the service.
    pub tier: u32,
    /// What it allows; none names none, and allows all.
    pub capabilities: Option<BTreeSet<String>>,
    /// First second at which it is not valid.
    pub valid_until_s: u64,
}

/// Judges a credential.
///
/// # Errors
/// If it is not good for what is needed, with the reason.
pub fn verify(
    credential: &Credential,
    keys: &dyn RootKeys,
    revocations: &dyn Revocations,
    needed: &Needed<'_>,
) -> Result<L402Paid, L402Error> {
    let Identifier { payment_hash, token_id } = credential.token.identifier();
    let key = keys.root_key(&token_id).ok_or(L402Error::UnknownToken)?;
    credential.token.check_signature(&key)?;
    let found = credential.preimage.payment_hash();
    if !bool::from(found.0.ct_eq(&payment_hash.0)) {
        return Err(L402Error::WrongPreimage(payment_hash));
    }
    let granted = judge(&credential.token, needed)?;
    if revocations.is_revoked(&token_id, needed.now_ms) {
        return Err(L402Error::Revoked);
    }
    Ok(L402Paid {
        token_id,
        payment_hash,
        tier: granted.tier,
        capabilities: granted.capabilities,
        valid_until_s: granted.valid_until_s,
    })
}
