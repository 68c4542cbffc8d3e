//! The manual cannot rot: every `oda` command in it is one that `oda` takes, every example of `oda.toml` one it reads.
//!
//! Running them all would need a network with every role in every state. Parsing them finds what really goes
//! wrong in a manual: a renamed flag, a removed subcommand, an option in the wrong place, a key that is no more.

#![allow(clippy::unwrap_used, clippy::panic)]

use clap::{CommandFactory as _, Parser as _};
use oda_node::cli::Cli;
use oda_node::config::{Config, FILE};
use std::path::Path;

/// Fewer mean that the reader of the manual is broken, not the manual.
const FEWEST_COMMANDS: usize = 25;
/// Characters after which the rest of a line is the shell's.
const SHELL: [&str; 9] = ["|", "||", "&&", "&", ";", ">", ">>", "<", "2>"];

/// A line of a fenced block, with the block's language and where it stands.
struct Line {
    language: String,
    place: String,
    text: String,
}

/// The lines of all fenced blocks; one that ends in a backslash goes on in the next.
fn fenced(name: &str, text: &str) -> Vec<Line> {
    let mut found: Vec<Line> = Vec::new();
    let (mut language, mut goes_on) = (None::<String>, false);
    for (number, line) in (1..).zip(text.lines()) {
        if let Some(fence) = line.trim_start().strip_prefix("```") {
            language = match language {
                Some(_) => None,
                None => Some(fence.trim().to_string()),
            };
            goes_on = false;
            continue;
        }
        let Some(language) = &language else { continue };
        let (piece, continued) = match line.strip_suffix('\\') {
            Some(piece) => (piece, true),
            None => (line, false),
        };
        match found.last_mut() {
            Some(last) if goes_on => last.text.push_str(piece),
            _ => {
                let place = format!("{name}:{number}");
                found.push(Line { language: language.clone(), place, text: piece.to_string() });
            }
        }
        goes_on = continued;
    }
    found
}

/// A line's words as a shell splits them, up to a comment.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if open == c => quote = None,
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                word.get_or_insert_default();
                quote = Some(c);
            }
            (None, '#') if word.is_none() => break,
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

fn is_assignment(word: &str) -> bool {
    let name = word.split_once('=').map_or("", |(name, _)| name);
    !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

/// The `oda` command of a line, as `oda` is given it.
fn command(line: &str) -> Option<Vec<String>> {
    let mut words = words(line);
    let skipped = words.iter().take_while(|w| *w == "$" || is_assignment(w)).count();
    words.drain(..skipped);
    // `sudo -u oda oda ...`
    if words.first().is_some_and(|w| w == "sudo") && words.get(1).is_some_and(|w| w == "-u") {
        words.drain(..words.len().min(3));
    }
    if words.first().is_none_or(|w| w != "oda") {
        return None;
    }
    let end = words.iter().position(|w| SHELL.contains(&w.as_str())).unwrap_or(words.len());
    words.truncate(end);
    Some(words.into_iter().map(filled).collect())
}

/// A valid value for a placeholder of a typed argument; any other word stands for itself.
fn filled(word: String) -> String {
    match word.as_str() {
        "ID" | "CLAIM" | "MODEL" | "NODE" | "TRAINER" | "ESCROW" => "ab".repeat(32),
        "HEIGHT" | "ROUND" | "EPOCH" | "SAT" | "MSAT" => "7".into(),
        _ => word,
    }
}

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// What `oda` says to a command it does not take.
fn refused(words: &[String]) -> Option<String> {
    let error = Cli::try_parse_from(words).err()?;
    (error.exit_code() != 0).then(|| error.to_string()) // 0: --help and --version
}

#[test]
fn every_command_of_the_manual_is_one_oda_takes() {
    let mut bad = Vec::new();
    for (path, fewest) in [("docs/operating.md", FEWEST_COMMANDS), ("README.md", 5), ("docs/tutorial.md", 7)] {
        let lines = fenced(path, &read(path));
        let shown = lines.iter().filter(|l| matches!(l.language.as_str(), "sh" | ""));
        let commands: Vec<_> = shown.filter_map(|l| Some((&l.place, command(&l.text)?))).collect();
        assert!(commands.len() >= fewest, "{path}: only {} commands, at least {fewest} were there", commands.len());
        for (place, words) in commands {
            bad.extend(refused(&words).map(|why| format!("{place}: {}\n{why}", words.join(" "))));
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn every_configuration_of_the_manual_is_one_oda_reads() {
    let text = read("docs/operating.md");
    let mut examples: Vec<(String, String)> = Vec::new();
    for line in fenced("docs/operating.md", &text).into_iter().filter(|l| l.language == "toml") {
        if line.text.starts_with("network =") {
            examples.push((line.place, String::new()));
        }
        let Some((_, example)) = examples.last_mut() else { continue };
        example.push_str(&line.text);
        example.push('\n');
    }
    assert!(examples.len() >= 4, "an example for each role: validator, follower, sponsor, lite");
    for (place, example) in examples {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), &example).unwrap();
        if let Err(error) = Config::load(dir.path()) {
            panic!("{place}: {error:#}\n{example}");
        }
    }
}

#[test]
fn a_rotten_command_is_found() {
    let parse = |line: &str| command(line).map(|words| refused(&words));
    for good in [
        "oda status",
        "$ oda --json status --rpc http://127.0.0.1:8645 | jq .height",
        "ODA_LOG=debug oda node --datadir /var/lib/oda --validator 2> log",
        "sudo -u oda oda claim show CLAIM   # any claim",
        "oda wallet pay \"lnbc1 x\" --amount-msat MSAT > receipt",
        "oda --help",
    ] {
        assert_eq!(parse(good), Some(None), "{good}");
    }
    for bad in ["oda", "oda stats", "oda status --url x", "oda ledger get forty", "oda claim show 12", "oda proof get"]
    {
        assert!(matches!(parse(bad), Some(Some(_))), "{bad}");
    }
    for other in ["", "# oda status", "odax status", "systemctl stop oda", "node b1ce ready"] {
        assert_eq!(parse(other), None, "{other}");
    }
}

#[test]
fn blocks_and_their_lines_are_found() {
    let text = "oda no\n```sh\noda a \\\n  b\n```\nprose `oda no`\n```\noda c\n```\n";
    let found: Vec<_> = fenced("f", text).into_iter().map(|l| (l.language, l.place, l.text)).collect();
    let line = |language: &str, place: &str, text: &str| (language.to_string(), place.to_string(), text.to_string());
    assert_eq!(found, [line("sh", "f:3", "oda a   b"), line("", "f:8", "oda c")]);
}

#[test]
fn every_command_has_a_manual_page() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("man1");
    let status = std::process::Command::new(env!("CARGO_BIN_EXE_oda")).arg("man").arg(&out).status().unwrap();
    assert!(status.success());
    let page = |name: &str| std::fs::read_to_string(out.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let all = page("oda.1");
    let cli = Cli::command();
    let commands: Vec<_> = cli.get_subcommands().filter(|c| !c.is_hide_set()).map(|c| c.get_name()).collect();
    assert!(commands.len() > 15, "{commands:?}");
    for name in commands {
        // roff writes a hyphen as \-
        assert!(all.contains(&name.replace('-', "\\-")), "oda.1 leads to oda-{name}.1");
        assert!(page(&format!("oda-{name}.1")).contains(".SH SYNOPSIS"), "{name}");
    }
    assert!(page("oda-ledger-verify.1").contains("genesis"), "with its options");
}
