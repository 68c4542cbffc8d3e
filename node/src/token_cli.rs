//! `oda token`: makes, narrows and withdraws the scoped tokens of [`crate::rpc::tokens`].
//!
//! A token goes to standard output and what it is good for to standard error, so that a script gets the one and a
//! person sees the other. `narrow` needs neither node nor data directory: whoever holds a token can lend a part of it.

use crate::clock::now_ms;
use crate::query::print_json;
use crate::rpc::tokens::{self, Grant, Narrowing};
use crate::rpc::{Listed, TOKEN_KEY_FILE, TokenKeyFile, TokenList, token_name};
use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use oda_lightning::l402::{Bearer, MAX_MACAROON_TEXT_BYTES};
use serde_json::json;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Longest time a token may be good for, s: a hundred years. Forever is said in a word.
const MAX_LIFE_S: u64 = 100 * 365 * 86_400;

/// Tokens that open a part of what the cookie opens.
#[derive(Subcommand)]
pub enum TokenCommand {
    /// Make a token for the RPC of the node of this data directory, and print it.
    Make {
        /// Data directory of the full node; it may be running.
        #[arg(long, env = "ODA_DATADIR")]
        datadir: PathBuf,
        #[command(flatten)]
        scope: Scope,
        /// How long it is good, as 90s, 30m, 12h or 7d; or never.
        #[arg(long, default_value = "7d", value_parser = life)]
        expires_in: Life,
        /// A word to withdraw it by, beside its identifier.
        #[arg(long, value_parser = token_name)]
        name: Option<String>,
    },
    /// Make a narrower token of one, offline.
    Narrow {
        /// The token; `-` reads it from standard input.
        token: String,
        /// Only this method; may be repeated, and combined with --class.
        #[arg(long = "method", value_parser = tokens::method_grant)]
        methods: Vec<Grant>,
        /// Only methods of this class of the reference: open, write.
        #[arg(long = "class", value_parser = tokens::class_grant)]
        classes: Vec<Grant>,
        /// How long it is good at most, as 90s, 30m, 12h or 7d.
        #[arg(long, value_parser = life)]
        expires_in: Option<Life>,
    },
    /// Show the tokens of this data directory that are good: identifier, end, name. Not the tokens: they are not kept.
    List {
        /// Data directory of the full node; it may be running.
        #[arg(long, env = "ODA_DATADIR")]
        datadir: PathBuf,
    },
    /// Withdraw one token, and all that was narrowed from it; the running node goes by it from the next call on.
    Revoke {
        /// Data directory of the full node; it may be running.
        #[arg(long, env = "ODA_DATADIR")]
        datadir: PathBuf,
        /// Its name or identifier.
        token: String,
    },
    /// Withdraw every token of this data directory at once, with a new key; the running node goes by it from the next call on.
    RevokeAll {
        /// Data directory of the full node; it may be running.
        #[arg(long, env = "ODA_DATADIR")]
        datadir: PathBuf,
    },
}

/// What a token is good for. At least one: a token for everything is what the cookie is.
#[derive(Args)]
#[group(required = true, multiple = true)]
pub struct Scope {
    /// This method; may be repeated, and combined with --class.
    #[arg(long = "method", value_parser = tokens::method_grant)]
    methods: Vec<Grant>,
    /// All methods of this class of the reference: open, write.
    #[arg(long = "class", value_parser = tokens::class_grant)]
    classes: Vec<Grant>,
}

/// How long a token is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life(Option<u64>);

impl Life {
    fn end_s(self) -> Option<u64> {
        self.0.map(|seconds| (now_ms() / 1000).saturating_add(seconds))
    }
}

fn life(text: &str) -> Result<Life, String> {
    if text == "never" {
        return Ok(Life(None));
    }
    let wrong = || format!("`{text}` is no time: 90s, 30m, 12h, 7d, or never");
    let unit_at = text.len().checked_sub(1).filter(|at| text.is_char_boundary(*at)).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(unit_at);
    let unit_s = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    match number.checked_mul(unit_s) {
        Some(seconds) if (1..=MAX_LIFE_S).contains(&seconds) => Ok(Life(Some(seconds))),
        _ => Err(format!("`{text}`: from a second to a hundred years, or never")),
    }
}

/// Runs one of them.
///
/// # Errors
/// If the key cannot be read or written, or the token is none.
pub fn run(command: TokenCommand, json: bool) -> Result<()> {
    match command {
        TokenCommand::Make { datadir, scope, expires_in, name } => {
            let key = TokenKeyFile::of(&datadir).read_or_make()?;
            let (allow, valid_until_s) = ([scope.methods, scope.classes].concat(), expires_in.end_s());
            let token = tokens::make(&key, &Narrowing { allow, valid_until_s })?;
            let id = tokens::id(&token).context("a token without identifier")?;
            // before anybody can have it: what is not listed opens nothing
            TokenList::of(&datadir).add(Listed { id, valid_until_s, name }, now_ms() / 1000)?;
            show(&token, json)
        }
        TokenCommand::List { datadir } => list(&datadir, json),
        TokenCommand::Revoke { datadir, token } => {
            anyhow::ensure!(datadir.is_dir(), "{} is no data directory", datadir.display());
            let Listed { id, name, .. } = TokenList::of(&datadir).withdraw(&token)?;
            let called = name.map(|name| format!(", {name},")).unwrap_or_default();
            println!("token {id}{called} is refused from now on, and what was narrowed from it");
            Ok(())
        }
        TokenCommand::Narrow { token, methods, classes, expires_in } => {
            let token = if token == "-" { from_stdin()? } else { token };
            let token = Bearer::from_base64(token.trim()).context("that is no token")?;
            let valid_until_s = expires_in.and_then(Life::end_s);
            show(&tokens::narrow(&token, &Narrowing { allow: [methods, classes].concat(), valid_until_s })?, json)
        }
        TokenCommand::RevokeAll { datadir } => {
            anyhow::ensure!(datadir.is_dir(), "{} is no data directory", datadir.display());
            TokenKeyFile::of(&datadir).replace()?;
            TokenList::of(&datadir).clear()?;
            println!("{TOKEN_KEY_FILE} is new: every token made before is refused");
            Ok(())
        }
    }
}

fn from_stdin() -> Result<String> {
    let mut text = String::new();
    let most = MAX_MACAROON_TEXT_BYTES as u64 + 2;
    std::io::stdin().lock().take(most).read_to_string(&mut text).context("cannot read the token")?;
    Ok(text)
}

fn list(datadir: &Path, json: bool) -> Result<()> {
    let now_s = now_ms() / 1000;
    let mut all = TokenList::of(datadir).read()?;
    all.retain(|listed| listed.lives(now_s));
    if json {
        let shown =
            all.iter().map(|l| json!({ "id": l.id.to_string(), "valid_until": l.valid_until_s, "name": l.name }));
        return print_json(&json!({ "tokens": shown.collect::<Vec<_>>() }));
    }
    for listed in all {
        println!("{listed}");
    }
    Ok(())
}

fn show(token: &Bearer, json: bool) -> Result<()> {
    let id = tokens::id(token).context("this macaroon is no token for a node's RPC")?;
    let caveats: Vec<String> = token.caveats()?.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let text = token.to_base64()?;
    if json {
        return print_json(&json!({ "token": text, "id": id.to_string(), "caveats": caveats }));
    }
    println!("{text}");
    eprintln!(
        "token {id}, good for what all of these allow: {}",
        if caveats.is_empty() { "everything".into() } else { caveats.join("; ") }
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_absurd_ones_refused() {
        let cases = [("90s", 90), ("30m", 1_800), ("12h", 43_200), ("7d", 604_800), ("36500d", MAX_LIFE_S)];
        for (text, seconds) in cases {
            assert_eq!(life(text), Ok(Life(Some(seconds))), "{text}");
        }
        assert_eq!(life("never"), Ok(Life(None)));
        for wrong in ["", "d", "7", "7w", "-1d", "0s", "1.5h", "7\u{fc}", "36501d", "99999999999999999999d"] {
            assert!(life(wrong).is_err(), "{wrong}");
        }
    }
}
