//! Commands shown to people are commands there are: each `testnet`, `simnet` and `make` line of the README and of docs/.
//!
//! Running them would take hours. A program given a shown command and `--help` reads every option and value before it
//! prints its help, so a renamed flag, a value out of range or a missing subcommand ends with an error. `oda`'s commands
//! are parsed in node/tests/manual.rs.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const PROGRAMS: [&str; 2] = ["testnet", "simnet"];
/// Fewer mean that the reader of the pages is broken, not the pages.
const FEWEST: (usize, usize) = (30, 20);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn pages(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            pages(&path, found);
        } else if path.extension().is_some_and(|e| e == "md") {
            found.push(path);
        }
    }
}

/// Lines of fenced blocks, and code within sentences. A block marked `text` is a picture or a page, not commands.
fn shown(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut fence: Option<&str> = None;
    for line in text.lines() {
        if let Some(marked) = line.trim_start().strip_prefix("```") {
            fence = if fence.is_some() { None } else { Some(marked) };
        } else if let Some(marked) = fence {
            if marked != "text" {
                found.push(line.trim_start_matches("$ ").to_string());
            }
        } else {
            found.extend(line.split('`').skip(1).step_by(2).map(str::to_string));
        }
    }
    found
}

fn commands(program: &str) -> Vec<(String, Vec<String>)> {
    let mut files = vec![root().join("README.md"), root().join("CONTRIBUTING.md")];
    pages(&root().join("docs"), &mut files);
    let mut found = Vec::new();
    for file in files {
        for line in shown(&std::fs::read_to_string(&file).unwrap()) {
            let mut words = line.split_whitespace().map(str::to_string).take_while(|w| !w.starts_with('#'));
            if words.next().is_some_and(|w| w == program) {
                found.push((format!("{}: {line}", file.display()), words.collect()));
            }
        }
    }
    found
}

/// A placeholder becomes a value of its kind; one that stands for whatever there is goes.
fn filled(words: Vec<String>) -> Vec<String> {
    let fill = |word: String| match word.as_str() {
        "..." => None,
        "N" => Some("7".into()),
        "PART" => Some("payments".into()),
        "NAME" => Some("noise".into()),
        _ => Some(word),
    };
    words.into_iter().filter_map(fill).collect()
}

fn run(program: &str, words: Vec<String>) -> Output {
    let path = Path::new(env!("CARGO_BIN_EXE_testnet")).with_file_name(program);
    assert!(path.exists(), "{} is missing: cargo build --workspace", path.display());
    Command::new(path).args(words).arg("--help").output().unwrap()
}

fn refused(program: &str, words: Vec<String>) -> Option<String> {
    let out = run(program, words);
    (!out.status.success()).then(|| String::from_utf8_lossy(&out.stderr).into_owned())
}

#[test]
fn every_command_shown_is_one_that_is_taken() {
    let mut bad = Vec::new();
    let mut seen = 0;
    for program in PROGRAMS {
        for (place, words) in commands(program) {
            seen += 1;
            bad.extend(refused(program, filled(words)).map(|why| format!("{place}\n{why}")));
        }
    }
    assert!(seen >= FEWEST.0, "only {seen} commands found");
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn a_rotten_command_is_found() {
    let refused = |line: &str| {
        let mut words = line.split_whitespace().map(str::to_string);
        let program = words.next().unwrap();
        refused(&program, words.collect()).is_some()
    };
    for good in ["simnet run storm --seed 7", "testnet bench --only history --whole"] {
        assert!(!refused(good), "{good}");
    }
    for bad in ["simnet fly", "simnet run storm --seeds 7", "testnet demo --round 3", "testnet bench --only nothing"] {
        assert!(refused(bad), "{bad}");
    }
}

#[test]
fn every_target_shown_is_in_the_makefile() {
    let makefile = std::fs::read_to_string(root().join("Makefile")).unwrap();
    let named = |start: &str| makefile.lines().find_map(|l| l.strip_prefix(start)).unwrap_or_default();
    let targets: Vec<&str> = named(".PHONY:").split_whitespace().collect();
    let shown = commands("make");
    assert!(shown.len() >= FEWEST.1, "only {} found", shown.len());
    for (place, words) in shown {
        for word in words {
            let known = match word.split_once('=') {
                // a variable that nothing reads would be a promise without effect
                Some((name, _)) => {
                    makefile.contains(&format!("$({name})")) || makefile.contains(&format!("$(if $({name})"))
                }
                None => targets.contains(&word.as_str()),
            };
            assert!(known, "{place}: {word}");
        }
    }
}
