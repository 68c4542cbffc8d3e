//! What a token's caveats allow (bLIP-26, Attenuation Through Caveats).
//!
//! Three kinds bind this service: `services=name:tier,...`, `{service}_capabilities=a,b` and
//! `{service}_valid_until=seconds`. Each may appear again, as a holder who lends a token restricts it
//! further, but a later one that allows anything an earlier one did not is refused rather than ignored.
//!
//! **Unknown caveats.** bLIP-26 tells the authorizer to skip what it does not know, since a holder may
//! restrict a token for other services too; but it also lets every service define constraints of its own,
//! `{service or capability}_something`, and skipping one of *those* would grant what its author took away.
//! So a caveat whose key begins with this service's name or with the capability asked for, and `_`, is
//! critical: if its meaning is unknown the token is refused. All other unknown keys are skipped.

use super::error::L402Error;
use super::macaroon::clip;
use super::token::Token;
use std::collections::BTreeSet;

/// Key of the services caveat.
const SERVICES: &str = "services";

/// Adds this service's three caveats to a new token.
pub(super) fn grant(
    token: &Token,
    service: &str,
    tier: u32,
    capability: &str,
    valid_until_s: u64,
) -> Result<Token, L402Error> {
    token
        .restrict(SERVICES, &format!("{service}:{tier}"))?
        .restrict(&format!("{service}_capabilities"), capability)?
        .restrict(&format!("{service}_valid_until"), &valid_until_s.to_string())
}

/// Whether a word can be a service's or a capability's name: it stands in keys and in lists.
pub(super) fn is_name(word: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    (1..=64).contains(&word.len()) && word.bytes().all(fits)
}

/// What a request needs.
#[derive(Clone, Copy, Debug)]
pub struct Needed<'a> {
    /// The service.
    pub service: &'a str,
    /// The part of it.
    pub capability: &'a str,
    /// Now, ms since the Unix epoch.
    pub now_ms: u64,
}

/// What a token allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// Tier of the service.
    pub tier: u32,
    /// Parts of the service; none names none, and allows all (bLIP-26).
    pub capabilities: Option<BTreeSet<String>>,
    /// First second at which it is not valid.
    pub valid_until_s: u64,
}

fn list(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|word| !word.is_empty())
}

fn services(value: &str) -> Result<BTreeSet<(&str, u32)>, L402Error> {
    let bad = || L402Error::BadValue { key: SERVICES.into() };
    let service = |word: &'_ str| -> Option<(usize, u32)> {
        let (name, tier) = word.split_once(':')?;
        Some((name.len(), tier.trim().parse().ok()?))
    };
    list(value)
        .map(|word| {
            let (end, tier) = service(word).ok_or_else(bad)?;
            Ok((word.get(..end).ok_or_else(bad)?.trim(), tier))
        })
        .collect()
}

/// Replaces what was allowed by what a later caveat allows, which must be a part of it.
fn narrow<T: Ord>(known: &mut Option<BTreeSet<T>>, later: BTreeSet<T>, key: &str) -> Result<(), L402Error> {
    if known.as_ref().is_some_and(|earlier| !later.is_subset(earlier)) {
        return Err(L402Error::Widened { key: clip(key) });
    }
    *known = Some(later);
    Ok(())
}

/// Judges the caveats of a token whose signature is good.
///
/// # Errors
/// If they do not allow what is needed, each refusal with its reason.
pub fn judge(token: &Token, needed: &Needed<'_>) -> Result<Granted, L402Error> {
    let Needed { service, capability, now_ms } = *needed;
    let capabilities_key = format!("{service}_capabilities");
    let valid_key = format!("{service}_valid_until");
    let critical = |key: &str| {
        let of = |name: &str| key.strip_prefix(name).is_some_and(|rest| rest.starts_with('_'));
        of(service) || of(capability)
    };
    let (mut allowed_services, mut capabilities) = (None, None);
    let mut valid_until_s: Option<u64> = None;
    for (key, value) in token.caveats()? {
        if key == SERVICES {
            narrow(&mut allowed_services, services(value)?, key)?;
        } else if key == capabilities_key {
            narrow(&mut capabilities, list(value).collect(), key)?;
        } else if key == valid_key {
            let later: u64 = value.parse().map_err(|_| L402Error::BadValue { key: clip(key) })?;
            if valid_until_s.is_some_and(|earlier| later > earlier) {
                return Err(L402Error::Widened { key: clip(key) });
            }
            valid_until_s = Some(later);
        } else if critical(key) {
            return Err(L402Error::UnknownCaveat { key: clip(key) });
        }
    }
    let allowed_services = allowed_services.ok_or_else(|| L402Error::NoCaveat { key: SERVICES.into() })?;
    let tier = allowed_services.iter().filter(|(name, _)| *name == service).map(|(_, tier)| *tier).max();
    let tier = tier.ok_or_else(|| L402Error::OtherService { service: service.into() })?;
    if capabilities.as_ref().is_some_and(|known: &BTreeSet<&str>| !known.contains(capability)) {
        return Err(L402Error::NotAllowed { capability: capability.into() });
    }
    // without one, a revoked token would have to be remembered for ever
    let valid_until_s = valid_until_s.ok_or(L402Error::NoCaveat { key: valid_key })?;
    if now_ms >= valid_until_s.saturating_mul(1000) {
        return Err(L402Error::Expired { valid_until_s });
    }
    let capabilities = capabilities.map(|known| known.into_iter().map(str::to_owned).collect());
    Ok(Granted { tier, capabilities, valid_until_s })
}
