//! Scoped tokens: what opens a part of what the cookie opens, for a while, and can be handed to somebody.
//!
//! Lending out the cookie lends out everything, until the node starts again. A token is a macaroon: whoever holds one
//! can make it narrower without asking anybody, and nobody can make it wider. Its caveats are `allow=` (a list of
//! `method:NAME` and `class:NAME`, any of which opens) and `valid_until=` (seconds since 1970). Each may appear again; a
//! call must pass every one of them. A caveat this release does not know refuses the token: to skip one would grant
//! what its author took away. A token holds while it is on the list of its data directory ([`super::token_list`]),
//! where each can be struck out alone.

use super::errors::{BAD_TOKEN, BEYOND_TOKEN, TOKEN_EXPIRED};
use super::schema::{self, Auth, Method};
use super::token_key::TokenKeyFile;
use super::token_list::{ID_BYTES, TokenId, TokenList};
use anyhow::{Context, Result};
use oda_lightning::l402::{Bearer, MAX_MACAROON_TEXT_BYTES, RootKey};
use rand_core::{OsRng, RngCore as _};
use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// What a macaroon of this server's is for; the number is this format's.
const PURPOSE: &[u8] = b"oda rpc token 1:";
const LOCATION: &str = "oda";
const ALLOW: &str = "allow";
const VALID_UNTIL: &str = "valid_until";
/// A longer one is cut before it is kept for a connection, and refused as too long.
pub(super) const KEPT_BYTES: usize = MAX_MACAROON_TEXT_BYTES + 1;

/// What a token may be good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grant {
    /// One method, by its full name.
    Method(String),
    /// All methods of an access class, by its name in the reference.
    Class(String),
}

impl Grant {
    fn opens(&self, method: &Method) -> bool {
        match self {
            Self::Method(name) => name == method.name,
            Self::Class(name) => name == method.auth.name(),
        }
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Method(name) => write!(f, "method:{name}"),
            Self::Class(name) => write!(f, "class:{name}"),
        }
    }
}

/// As it stands in a caveat. Methods and classes of later releases are read, and open nothing here.
impl FromStr for Grant {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (kind, name) = text.split_once(':').ok_or(())?;
        let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.'));
        match kind {
            "method" if is_name => Ok(Self::Method(name.into())),
            "class" if is_name => Ok(Self::Class(name.into())),
            _ => Err(()),
        }
    }
}

/// A method that this release has.
///
/// # Errors
/// If there is none of that name.
pub fn method_grant(name: &str) -> Result<Grant, String> {
    let known = schema::method(name).ok_or_else(|| format!("no method `{name}`: `oda rpc-doc` lists them"))?;
    Ok(Grant::Method(known.name.into()))
}

/// An access class that this release has.
///
/// # Errors
/// If there is none of that name.
pub fn class_grant(name: &str) -> Result<Grant, String> {
    let known = [Auth::Open, Auth::Write].into_iter().find(|class| class.name() == name);
    known.map(|class| Grant::Class(class.name().into())).ok_or_else(|| format!("no class `{name}`: open or write"))
}

/// What a token is narrowed by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Narrowing {
    /// Only these; none: whatever it was good for.
    pub allow: Vec<Grant>,
    /// Only before this second (since 1970).
    pub valid_until_s: Option<u64>,
}

/// A new token: all that the cookie opens, less what it is narrowed by. It opens nothing until it is listed.
///
/// # Errors
/// If it would be too long.
pub fn make(key: &RootKey, narrowing: &Narrowing) -> Result<Bearer> {
    let mut id = [0; ID_BYTES];
    OsRng.try_fill_bytes(&mut id).context("no randomness")?;
    narrow(&Bearer::mint(key, LOCATION, &[PURPOSE, &id].concat())?, narrowing)
}

/// The same token narrowed further; needs no key.
///
/// # Errors
/// If it is no token of this kind, or would be too long.
pub fn narrow(token: &Bearer, narrowing: &Narrowing) -> Result<Bearer> {
    anyhow::ensure!(is_ours(token), "this macaroon is no token for a node's RPC");
    let mut token = token.clone();
    if !narrowing.allow.is_empty() {
        let list: Vec<String> = narrowing.allow.iter().map(Grant::to_string).collect();
        token = token.restrict(ALLOW, &list.join(","))?;
    }
    if let Some(valid_until_s) = narrowing.valid_until_s {
        token = token.restrict(VALID_UNTIL, &valid_until_s.to_string())?;
    }
    Ok(token)
}

fn is_ours(token: &Bearer) -> bool {
    id(token).is_some()
}

/// Which token this is, or was narrowed from; none if it is for something else.
pub fn id(token: &Bearer) -> Option<TokenId> {
    Some(TokenId(token.identifier().strip_prefix(PURPOSE)?.try_into().ok()?))
}

/// Why a token does not open a method.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not a token, another node's, changed, or withdrawn.
    #[error("the token is not one this node takes: {0}")]
    Bad(String),
    /// Its time is over.
    #[error("the token expired at {0} (seconds since 1970): ask whoever gave it to you for a new one")]
    Expired(u64),
    /// It is good for other methods.
    #[error("the token does not allow `{0}`")]
    Beyond(&'static str),
}

impl Refused {
    /// Its code on the wire.
    pub fn code(&self) -> i32 {
        match self {
            Self::Bad(_) => BAD_TOKEN,
            Self::Expired(_) => TOKEN_EXPIRED,
            Self::Beyond(_) => BEYOND_TOKEN,
        }
    }
}

/// Judges the tokens shown to a server.
#[derive(Clone, Debug)]
pub(super) struct Doorkeeper {
    key: TokenKeyFile,
    list: TokenList,
}

impl Doorkeeper {
    /// That of this data directory.
    pub(super) fn of(datadir: &Path) -> Self {
        Self { key: TokenKeyFile::of(datadir), list: TokenList::of(datadir) }
    }

    /// Whether this text is a token that opens a method now.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn judge(&self, text: &str, method: &Method, now_ms: u64) -> Result<(), Refused> {
        let bad = |why: String| Refused::Bad(why);
        let token = Bearer::from_base64(text).map_err(|e| bad(e.to_string()))?;
        let id = id(&token).ok_or_else(|| bad("it is for something else".into()))?;
        let unreadable = |what: &str, e: anyhow::Error| {
            tracing::error!("a token was shown, and {e:#}");
            bad(format!("the node cannot read its {what}, see its log"))
        };
        let key = self.key.read().map_err(|e| unreadable("key", e))?;
        let key = key.ok_or_else(|| bad("this node has made none".into()))?;
        token.check_signature(&key).map_err(|_| bad("it was withdrawn, changed, or made elsewhere".into()))?;
        let judged = judge(&token, method, now_ms);
        // what has expired may have gone from the list: its holder is told of the time
        if let Err(Refused::Bad(_) | Refused::Expired(_)) = judged {
            return judged;
        }
        // looked up only for what was made here, so that nobody else makes the node read it
        match self.list.has(&id).map_err(|e| unreadable("list of tokens", e))? {
            true => judged,
            false => Err(bad("it was withdrawn".into())),
        }
    }
}

/// Whether every caveat of an authentic token lets this call pass.
fn judge(token: &Bearer, method: &Method, now_ms: u64) -> Result<(), Refused> {
    let bad = |why: String| Refused::Bad(why);
    let (mut is_allowed, mut valid_until_s) = (true, None::<u64>);
    for (key, value) in token.caveats().map_err(|e| bad(e.to_string()))? {
        match key {
            ALLOW => {
                let grants: Result<Vec<Grant>, ()> = value.split(',').map(|grant| grant.trim().parse()).collect();
                let grants = grants.map_err(|()| bad(format!("its `{ALLOW}` cannot be read")))?;
                is_allowed &= grants.iter().any(|grant| grant.opens(method));
            }
            VALID_UNTIL => {
                let until: u64 = value.parse().map_err(|_| bad(format!("its `{VALID_UNTIL}` cannot be read")))?;
                valid_until_s = Some(valid_until_s.map_or(until, |earlier| earlier.min(until)));
            }
            unknown => {
                let shown: String = unknown.chars().filter(|c| !c.is_control()).take(40).collect();
                return Err(bad(format!("it is restricted by `{shown}`, which this release cannot enforce")));
            }
        }
    }
    if let Some(until) = valid_until_s.filter(|until| now_ms / 1000 >= *until) {
        return Err(Refused::Expired(until));
    }
    if is_allowed { Ok(()) } else { Err(Refused::Beyond(method.name)) }
}

#[cfg(test)]
mod tests {
    use super::super::token_list::Listed;
    use super::schema::METHODS;
    use super::*;

    const NOW_MS: u64 = 1_900_000_000_000;

    fn stop() -> &'static Method {
        schema::method("oda_stop").unwrap()
    }

    fn door() -> (tempfile::TempDir, Doorkeeper, RootKey) {
        let dir = tempfile::tempdir().unwrap();
        let door = Doorkeeper::of(dir.path());
        let key = door.key.read_or_make().unwrap();
        (dir, door, key)
    }

    /// A token that was given out.
    fn given(door: &Doorkeeper, key: &RootKey, narrowing: &Narrowing) -> Bearer {
        let token = make(key, narrowing).unwrap();
        let id = id(&token).unwrap();
        door.list.add(Listed { id, valid_until_s: None, name: None }, 0).unwrap();
        token
    }

    fn only(allow: &[&str], valid_until_s: Option<u64>) -> Narrowing {
        Narrowing { allow: allow.iter().map(|g| g.parse().unwrap()).collect(), valid_until_s }
    }

    fn code(result: Result<(), Refused>) -> i32 {
        result.err().map_or(0, |refused| refused.code())
    }

    #[test]
    fn a_token_opens_what_every_caveat_allows_and_no_more() {
        let (_dir, door, key) = door();
        let all: Vec<Vec<Narrowing>> = vec![
            vec![],
            vec![only(&["class:write"], None)],
            vec![only(&["class:open"], None)],
            vec![only(&["method:oda_ban"], None)],
            vec![only(&["method:oda_ban", "method:oda_stop"], None)],
            vec![only(&["class:write"], None), only(&["method:oda_stop"], None)],
            vec![only(&["method:oda_stop"], None), only(&["class:write", "method:oda_ban"], None)],
            vec![only(&["method:oda_stop"], None), only(&["method:oda_ban"], None)],
            vec![only(&["method:oda_later", "class:later"], None)],
        ];
        for narrowings in all {
            let mut token = given(&door, &key, &Narrowing::default());
            for each in &narrowings {
                token = narrow(&token, each).unwrap();
            }
            let text = token.to_base64().unwrap();
            for method in METHODS {
                let opens = narrowings.iter().all(|n| n.allow.iter().any(|grant| grant.opens(method)));
                let expected = if opens { 0 } else { BEYOND_TOKEN };
                assert_eq!(code(door.judge(&text, method, NOW_MS)), expected, "{} {narrowings:?}", method.name);
            }
        }
    }

    #[test]
    fn the_earliest_end_counts_to_the_second() {
        let (_dir, door, key) = door();
        let end_s = NOW_MS / 1000 + 10;
        for ends in [[end_s, end_s + 5], [end_s + 5, end_s]] {
            let token = given(&door, &key, &only(&[], Some(ends[0])));
            let text = narrow(&token, &only(&[], Some(ends[1]))).unwrap().to_base64().unwrap();
            assert_eq!(door.judge(&text, stop(), end_s * 1000 - 1), Ok(()));
            assert_eq!(door.judge(&text, stop(), end_s * 1000), Err(Refused::Expired(end_s)));
        }
    }

    #[test]
    fn what_is_unknown_or_unreadable_refuses() {
        let (_dir, door, key) = door();
        let token = given(&door, &key, &Narrowing::default());
        for (caveat, value) in [
            ("ip", "127.0.0.1"),
            ("Allow", "method:oda_stop"),
            ("valid_until", "soon"),
            ("valid_until", "-1"),
            ("valid_until", ""),
            ("allow", ""),
            ("allow", "oda_stop"),
            ("allow", "method:oda_stop,"),
            ("allow", "method:oda_stop,role:admin"),
            ("allow", "method:oda_stop;x"),
        ] {
            let text = token.restrict(caveat, value).unwrap().to_base64().unwrap();
            assert_eq!(code(door.judge(&text, stop(), NOW_MS)), BAD_TOKEN, "{caveat}={value}");
        }
    }

    /// The fields of the binary format (version 2) between the identifier and the signature: one caveat each.
    fn without_caveat(bytes: &[u8], skip: usize) -> Vec<u8> {
        // version; location and identifier, each tag, length, bytes; end of section
        let field = |at: usize| at + 2 + usize::from(bytes[at + 1]);
        let mut at = field(field(1)) + 1;
        for _ in 0..skip {
            at = field(at) + 1;
        }
        [&bytes[..at], &bytes[field(at) + 1..]].concat()
    }

    #[test]
    fn forged_changed_and_withdrawn_tokens_are_refused() {
        let (_dir, door, key) = door();
        let scoped = given(&door, &key, &only(&["method:oda_ban"], Some(NOW_MS / 1000 + 9)));
        let bytes = scoped.to_bytes().unwrap();
        assert_eq!(code(door.judge(&scoped.to_base64().unwrap(), stop(), NOW_MS)), BEYOND_TOKEN);
        let judge = |token: &Bearer| code(door.judge(&token.to_base64().unwrap(), stop(), NOW_MS));
        // a caveat taken off
        for skip in 0..2 {
            let shorter = Bearer::from_bytes(&without_caveat(&bytes, skip)).unwrap();
            assert_eq!(shorter.caveats().unwrap().len(), 1);
            assert_eq!(judge(&shorter), BAD_TOKEN);
        }
        // a caveat changed: other bytes of the same length
        for (from, to) in [(&b"oda_ban"[..], &b"oda_buy"[..]), (b"valid_until=1", b"valid_until=2")] {
            let at = bytes.windows(from.len()).position(|w| w == from).unwrap();
            let changed = [&bytes[..at], to, &bytes[at + from.len()..]].concat();
            assert_eq!(judge(&Bearer::from_bytes(&changed).unwrap()), BAD_TOKEN);
        }
        // another key, another purpose
        let other = RootKey::new(&zeroize::Zeroizing::new([7; 32]));
        assert_eq!(judge(&given(&door, &other, &Narrowing::default())), BAD_TOKEN);
        for identifier in [&b"something else"[..], b"oda rpc token 1:short", b"oda rpc token 2:0123456789abcdef"] {
            let foreign = Bearer::mint(&key, LOCATION, identifier).unwrap();
            assert_eq!(judge(&foreign), BAD_TOKEN);
            assert!(narrow(&foreign, &Narrowing::default()).is_err());
        }
        for text in ["", "x", "====", &"A".repeat(KEPT_BYTES), &"\u{fc}".repeat(9)] {
            assert_eq!(code(door.judge(text, stop(), NOW_MS)), BAD_TOKEN);
        }
        let good = given(&door, &key, &Narrowing::default());
        assert_eq!(judge(&good), 0);
        door.key.replace().unwrap();
        assert_eq!(judge(&good), BAD_TOKEN, "withdrawn");
    }

    #[test]
    fn one_token_is_withdrawn_and_the_others_hold() {
        let (dir, door, key) = door();
        let [first, second] = [0; 2].map(|_| given(&door, &key, &only(&["method:oda_stop"], None)));
        let judge = |token: &Bearer| code(door.judge(&token.to_base64().unwrap(), stop(), NOW_MS));
        let narrowed = narrow(&first, &only(&[], Some(NOW_MS / 1000 + 9))).unwrap();
        assert_eq!((judge(&first), judge(&narrowed), judge(&second)), (0, 0, 0));
        door.list.withdraw(&id(&first).unwrap().to_string()).unwrap();
        assert_eq!((judge(&first), judge(&narrowed), judge(&second)), (BAD_TOKEN, BAD_TOKEN, 0));
        // one that expired and has gone from the list is told so; one that was never given out is none
        let expired = make(&key, &only(&[], Some(NOW_MS / 1000))).unwrap();
        assert_eq!(judge(&expired), TOKEN_EXPIRED);
        assert_eq!(judge(&make(&key, &Narrowing::default()).unwrap()), BAD_TOKEN);
        // what does not open the method is told no more than that it is withdrawn
        let other = narrow(&first, &only(&["method:oda_ban"], None)).unwrap();
        assert_eq!(judge(&other), BAD_TOKEN);
        // without the list, or with a damaged one, nothing is let through
        let list = dir.path().join(super::super::token_list::TOKEN_LIST_FILE);
        std::fs::write(&list, "x").unwrap();
        assert_eq!(judge(&second), BAD_TOKEN);
        std::fs::remove_file(&list).unwrap();
        assert_eq!(judge(&second), BAD_TOKEN);
    }
}
