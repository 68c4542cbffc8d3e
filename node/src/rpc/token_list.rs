//! The tokens a data directory has given out and not withdrawn: what makes it possible to withdraw one of them.
//!
//! A list of the withdrawn ones would have to be kept for ever, since a token may be good for ever; once it is full
//! nothing more can be withdrawn, once it is lost everything comes back. So those that live are listed: withdrawing one
//! strikes it out, what has expired is dropped at the next change, and without the list every token is refused. The
//! server reads it whenever an authentic token is shown, like the key ([`super::token_key`]), so that it holds on open
//! connections too.

use anyhow::{Context, Result, bail, ensure};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

/// Its file in the data directory.
pub const TOKEN_LIST_FILE: &str = "rpc.tokens.list";
/// Held while the list is changed: of two changes at one moment, the later would undo the earlier.
const LOCK_FILE: &str = "rpc.tokens.lock";
/// Tokens that live at one time (K3).
pub const MAX_TOKENS: usize = 1_024;
/// Longest name, bytes.
pub const MAX_NAME_BYTES: usize = 64;
/// Bytes of a token's identifier.
pub(super) const ID_BYTES: usize = 16;
/// Identifier, end, name, two spaces and a line end.
const MAX_LINE_BYTES: usize = 2 * ID_BYTES + 20 + MAX_NAME_BYTES + 3;
/// More is not read (K3).
const MAX_FILE_BYTES: u64 = (MAX_TOKENS * MAX_LINE_BYTES) as u64;
/// Longest wait for somebody else's change, which takes two synced writes.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(10);

/// Names one token, and all that were made of it by narrowing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenId(pub(super) [u8; ID_BYTES]);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for TokenId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut id = [0; ID_BYTES];
        hex::decode_to_slice(text, &mut id).map_err(|_| ())?;
        Ok(Self(id))
    }
}

/// A name its owner gave a token: one word, which no identifier can be taken for.
///
/// # Errors
/// What is wrong with it.
pub fn token_name(text: &str) -> Result<String, String> {
    let is_word = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'@'));
    if !is_word || !(1..=MAX_NAME_BYTES).contains(&text.len()) || text == NO_NAME {
        return Err(format!("`{text}` is no name: 1 to {MAX_NAME_BYTES} of a-z, A-Z, 0-9, `_`, `-`, `.`, `@`"));
    }
    if text.parse::<TokenId>().is_ok() {
        return Err(format!("`{text}` could be taken for an identifier"));
    }
    Ok(text.into())
}

const NO_NAME: &str = "-";
const NEVER: &str = "never";

/// A token that was given out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Which.
    pub id: TokenId,
    /// When it expires, seconds since 1970.
    pub valid_until_s: Option<u64>,
    /// What its owner calls it.
    pub name: Option<String>,
}

impl Listed {
    /// Whether it has not expired.
    pub fn lives(&self, now_s: u64) -> bool {
        self.valid_until_s.is_none_or(|until| now_s < until)
    }
}

impl fmt::Display for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let until = self.valid_until_s.map_or(NEVER.into(), |until| until.to_string());
        write!(f, "{} {until} {}", self.id, self.name.as_deref().unwrap_or(NO_NAME))
    }
}

impl FromStr for Listed {
    type Err = ();

    fn from_str(line: &str) -> Result<Self, ()> {
        let mut words = line.split(' ');
        let (Some(id), Some(until), Some(name), None) = (words.next(), words.next(), words.next(), words.next()) else {
            return Err(());
        };
        let valid_until_s = if until == NEVER { None } else { Some(until.parse().map_err(|_| ())?) };
        let name = if name == NO_NAME { None } else { Some(token_name(name).map_err(|_| ())?) };
        Ok(Self { id: id.parse()?, valid_until_s, name })
    }
}

/// Where the list of a data directory lies.
#[derive(Clone, Debug)]
pub struct TokenList(PathBuf);

impl TokenList {
    /// That of this data directory.
    pub fn of(datadir: &Path) -> Self {
        Self(datadir.join(TOKEN_LIST_FILE))
    }

    /// All on it, oldest first, those included that expired since the last change.
    ///
    /// # Errors
    /// If the file cannot be read or holds something else.
    pub fn read(&self) -> Result<Vec<Listed>> {
        let what = || format!("cannot read {}", self.0.display());
        let file = match File::open(&self.0) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            opened => opened.with_context(what)?,
        };
        let mut text = String::new();
        file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).with_context(what)?;
        let damaged = || {
            format!("{} is damaged, so no token is taken: `oda token revoke-all` begins a new one", self.0.display())
        };
        ensure!(text.len() as u64 <= MAX_FILE_BYTES && (text.is_empty() || text.ends_with('\n')), damaged());
        let lines = text.lines().map(|line| line.parse().map_err(|()| anyhow::anyhow!(damaged())));
        lines.collect()
    }

    /// Whether a token was given out and not withdrawn.
    ///
    /// # Errors
    /// If the file cannot be read or holds something else.
    pub fn has(&self, id: &TokenId) -> Result<bool> {
        Ok(self.read()?.iter().any(|listed| listed.id == *id))
    }

    /// Puts a token on the list, which drops what has expired.
    ///
    /// # Errors
    /// If its name is taken, the list is full, or it cannot be written.
    pub fn add(&self, token: Listed, now_s: u64) -> Result<()> {
        self.change(|list| {
            list.retain(|listed| listed.lives(now_s));
            if let Some(name) = &token.name {
                let is_taken = list.iter().any(|listed| listed.name.as_ref() == Some(name));
                ensure!(!is_taken, "there is a token named {name}: withdraw it first, or take another name");
            }
            ensure!(list.len() < MAX_TOKENS, "{MAX_TOKENS} tokens live: withdraw some first (`oda token list`)");
            list.push(token);
            Ok(())
        })
    }

    /// Strikes out the token of this name or identifier: it is refused from now on, as is what was narrowed from it.
    ///
    /// # Errors
    /// If there is none, or the list cannot be written; then the token still holds.
    pub fn withdraw(&self, name_or_id: &str) -> Result<Listed> {
        let id: Option<TokenId> = name_or_id.parse().ok();
        self.change(|list| {
            let is_meant = |l: &Listed| id == Some(l.id) || (id.is_none() && l.name.as_deref() == Some(name_or_id));
            let Some(at) = list.iter().position(is_meant) else {
                bail!("no token of that name or identifier is good here: `oda token list` shows those that are");
            };
            Ok(list.remove(at))
        })
    }

    /// Strikes out all.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn clear(&self) -> Result<()> {
        let _lock = self.lock()?;
        self.write(&[])
    }

    /// Reads, changes and writes, alone.
    fn change<T>(&self, change: impl FnOnce(&mut Vec<Listed>) -> Result<T>) -> Result<T> {
        let _lock = self.lock()?;
        let mut list = self.read()?;
        let done = change(&mut list)?;
        self.write(&list)?;
        Ok(done)
    }

    fn lock(&self) -> Result<File> {
        let path = self.0.with_file_name(LOCK_FILE);
        let open = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = open.with_context(|| format!("cannot write {}", path.display()))?;
        let start = Instant::now();
        // given back when the file is closed, also by a kill
        while file.try_lock().is_err() {
            ensure!(start.elapsed() < PATIENCE, "somebody else holds {}", path.display());
            std::thread::sleep(LOOK);
        }
        Ok(file)
    }

    /// Whole or not at all, and on disk when this returns.
    fn write(&self, list: &[Listed]) -> Result<()> {
        let text: String = list.iter().map(|listed| format!("{listed}\n")).collect();
        ensure!(text.len() as u64 <= MAX_FILE_BYTES, "a list that would not be read again");
        crate::file::replace_private(&self.0, text.as_bytes())
            .with_context(|| format!("cannot write {}", self.0.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn listed(number: u8, valid_until_s: Option<u64>, name: Option<&str>) -> Listed {
        Listed { id: TokenId([number; ID_BYTES]), valid_until_s, name: name.map(str::to_string) }
    }

    #[test]
    fn tokens_are_withdrawn_one_by_one_by_name_or_identifier() {
        let dir = tempfile::tempdir().unwrap();
        let list = TokenList::of(dir.path());
        let all = [listed(1, None, Some("alice")), listed(2, Some(50), None), listed(3, Some(90), Some("bob"))];
        for token in &all {
            list.add(token.clone(), 9).unwrap();
        }
        assert_eq!(list.read().unwrap(), all);
        let mode = std::fs::metadata(dir.path().join(TOKEN_LIST_FILE)).unwrap().permissions().mode();
        assert_eq!((mode & 0o777, std::fs::read_dir(dir.path()).unwrap().count()), (0o600, 2), "list and lock");
        // a name is good for one token, and words that name none withdraw none
        assert!(list.add(listed(4, None, Some("alice")), 9).unwrap_err().to_string().contains("named alice"));
        for nobody in ["", "-", "Alice", "alic", &"04".repeat(16), &"02".repeat(15), &"02".repeat(17)] {
            assert!(list.withdraw(nobody).is_err(), "{nobody}");
        }
        assert_eq!(list.read().unwrap(), all);
        assert_eq!(list.withdraw(&"02".repeat(16)).unwrap(), all[1]);
        assert_eq!(list.withdraw("alice").unwrap(), all[0]);
        assert!(list.withdraw("alice").is_err(), "it is gone");
        assert_eq!(list.read().unwrap(), all[2..]);
        assert!(!list.has(&all[0].id).unwrap() && list.has(&all[2].id).unwrap());
        list.clear().unwrap();
        assert_eq!(list.read().unwrap(), []);
    }

    #[test] // K3
    fn the_list_has_a_limit_and_what_expired_makes_room() {
        let dir = tempfile::tempdir().unwrap();
        let list = TokenList::of(dir.path());
        // the longest lines there can be, all but one of which live for ever
        let name = |n: usize| format!("{n:0>MAX_NAME_BYTES$}");
        let id = |n: usize| TokenId(std::array::from_fn(|i| u8::try_from(n >> (8 * (i % 2)) & 255).unwrap()));
        let mut all: Vec<Listed> =
            (1..MAX_TOKENS).map(|n| Listed { id: id(n), valid_until_s: Some(u64::MAX), name: Some(name(n)) }).collect();
        all.insert(0, Listed { id: id(0), valid_until_s: Some(100), name: Some(name(0)) });
        list.write(&all).unwrap();
        assert_eq!(list.read().unwrap(), all);
        let one_more = listed(255, None, None);
        assert!(list.add(one_more.clone(), 99).unwrap_err().to_string().contains("withdraw some"));
        list.add(one_more.clone(), 100).unwrap();
        assert!(list.has(&one_more.id).unwrap() && !list.has(&all[0].id).unwrap(), "the expired one went");
        assert!(list.add(listed(254, None, None), 100).is_err());
    }

    #[test]
    fn a_damaged_list_is_an_error_and_not_an_empty_list() {
        let dir = tempfile::tempdir().unwrap();
        let (list, path) = (TokenList::of(dir.path()), dir.path().join(TOKEN_LIST_FILE));
        let good = format!("{} never -\n", "ab".repeat(16));
        std::fs::write(&path, &good).unwrap();
        assert_eq!(list.read().unwrap().len(), 1);
        let long = format!("{} never {}\n", "ab".repeat(16), "x".repeat(MAX_NAME_BYTES + 1));
        let huge = good.repeat(4 * MAX_TOKENS);
        for wrong in [&good[..9], &good[..good.len() - 1], &good.replace("never", "soon"), "\n", "x", &long, &huge] {
            std::fs::write(&path, wrong).unwrap();
            assert!(list.read().unwrap_err().to_string().contains("revoke-all"), "{} bytes", wrong.len());
            assert!(list.add(listed(1, None, None), 9).is_err() && list.withdraw(&"ab".repeat(16)).is_err());
        }
        list.clear().unwrap();
        assert_eq!(list.read().unwrap(), []);
    }

    #[test]
    fn changes_at_one_moment_do_not_undo_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let list = TokenList::of(dir.path());
        std::thread::scope(|s| {
            for thread in 0..4 {
                let list = &list;
                s.spawn(move || (0..8).for_each(|n| list.add(listed(thread * 8 + n, None, None), 9).unwrap()));
            }
        });
        assert_eq!(list.read().unwrap().len(), 32);
    }

    #[test]
    fn names_are_words_that_are_no_identifiers() {
        for good in ["a", "alice@example.org", "ci-2", &"x".repeat(MAX_NAME_BYTES), &"ab".repeat(15)] {
            assert!(token_name(good).is_ok(), "{good}");
        }
        for wrong in ["", "-", "a b", "a\n", "\u{fc}", &"x".repeat(MAX_NAME_BYTES + 1), &"aB".repeat(16)] {
            assert!(token_name(wrong).is_err(), "{wrong}");
        }
    }
}
