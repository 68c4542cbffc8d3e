//! Reads `bugs.toml` and plants the bugs in the sources they belong to. For the build script, and for the tests
//! that hold it to its word.

use std::collections::BTreeSet;
use std::path::Path;

/// One line of the protocol, wrong.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)] // the build script reads a part of it
pub struct Bug {
    /// Name, and name of its switch.
    pub name: String,
    /// Rule it breaks (docs/spec.md).
    pub rule: String,
    /// File, below `consensus/src`.
    pub file: String,
    /// Text that occurs there once.
    pub find: String,
    /// The same with the switch.
    pub replace: String,
    /// What a developer could have got wrong.
    pub what: String,
    /// Check that must notice it.
    pub found_by: String,
    /// Within so many seeds.
    pub seeds: u64,
    /// In this scenario.
    pub scenario: String,
    /// Attackers without whom it does not show.
    #[serde(default)]
    pub attackers: Vec<String>,
    /// How hard they try, thousandths; 0: as usual.
    #[serde(default)]
    pub strength_milli: u32,
}

/// A row of the attack table with its defence switched off.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)] // for the tests
pub struct Row {
    /// Number of the row.
    pub row: u8,
    /// Attacker that then wins.
    pub attack: String,
    /// How many of it; 0: as its kind says.
    #[serde(default)]
    pub names: u32,
    /// How hard it tries, thousandths; 0: as usual.
    #[serde(default)]
    pub strength_milli: u32,
    /// Bug that takes the defence away.
    pub bug: String,
    /// Check that must ring.
    pub breaks: String,
    /// Within so many seeds.
    pub seeds: u64,
    /// In this scenario.
    pub scenario: String,
    /// Whether it rings without the attack too.
    #[serde(default)]
    pub alone: bool,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    bug: Vec<Bug>,
    #[serde(default)]
    row: Vec<Row>,
}

/// The rows of the attack table.
///
/// # Errors
/// If it is not a list, or a row names a bug that is not there.
#[allow(dead_code)] // for the tests
pub fn rows(toml: &str) -> Result<Vec<Row>, String> {
    let List { bug: bugs, row: rows } = toml::from_str(toml).map_err(|e| e.to_string())?;
    match rows.iter().find(|row| !bugs.iter().any(|bug| bug.name == row.bug)) {
        Some(row) => Err(format!("row {} switches off {}, which is no bug of the list", row.row, row.bug)),
        None => Ok(rows),
    }
}

/// Reads the list.
///
/// # Errors
/// If it is not one, a name comes twice, or a bug could never be switched on.
pub fn read(toml: &str) -> Result<Vec<Bug>, String> {
    let List { bug: bugs, .. } = toml::from_str(toml).map_err(|e| e.to_string())?;
    let mut names = BTreeSet::new();
    for bug in &bugs {
        let name = &bug.name;
        if !names.insert(name.as_str()) {
            return Err(format!("two planted bugs are called {name}"));
        }
        let switch = format!("crate::planted::on(\"{name}\")");
        if bug.replace.matches(&switch).count() != 1 || bug.replace.matches("planted::on").count() != 1 {
            return Err(format!("the planted bug {name} needs its switch, {switch}, once in `replace`"));
        }
        if bug.seeds == 0 {
            return Err(format!("the planted bug {name} is to be found within 0 seeds"));
        }
    }
    Ok(bugs)
}

/// The text of a file with its bugs in it, each behind its switch.
///
/// # Errors
/// Names the bug whose `find` is not there exactly once, or that overlaps another.
pub fn plant(bugs: &[Bug], file: &str, text: &str) -> Result<String, String> {
    let unfit = |bug: &Bug, why: &str| {
        Err(format!("the planted bug {} no longer fits file {file}: rewrite it in bugs.toml ({why})", bug.name))
    };
    let mut places = Vec::new();
    for bug in bugs.iter().filter(|b| b.file == file) {
        let mut found = text.match_indices(&bug.find).map(|(at, _)| at);
        match (found.next(), found.count()) {
            (Some(at), 0) => places.push((at, bug)),
            (None, _) => return unfit(bug, "what it replaces is not there"),
            (Some(_), more) => return unfit(bug, &format!("what it replaces is there {} times", more + 1)),
        }
    }
    places.sort_by_key(|(at, _)| *at);
    let (mut out, mut end) = (String::new(), 0);
    for (at, bug) in places {
        let Some(before) = text.get(end..at) else { return unfit(bug, "it overlaps the one before it") };
        out.push_str(before);
        out.push_str(&bug.replace);
        end = at + bug.find.len();
    }
    out.push_str(text.get(end..).unwrap_or_default());
    Ok(out)
}

/// A file as it can be part of a crate that is included. The head of a crate loses its inner documentation and
/// attributes, which only a crate's own first file may have. And `record!`, exported from an inclusion, may not be
/// named by the crate's path from within (rust-lang/rust#52234), so it is named by its module's.
pub fn includable(file: &str, text: &str) -> String {
    let inner = |line: &str| file == "lib.rs" && (line.starts_with("//!") || line.starts_with("#!["));
    let mut out = String::new();
    for line in text.lines().filter(|l| !inner(l)) {
        out.push_str(match line {
            "use crate::record;" => "use crate::codec::record;",
            "use crate::{codec, record};" => "use crate::codec::{self, record};",
            other => other,
        });
        out.push('\n');
    }
    if file == "codec.rs" {
        out.push_str("pub(crate) use record;\n");
    }
    out
}

/// Copies a folder of sources, bugs planted; `lib.rs` becomes includable. Every bug's file must be there.
///
/// # Errors
/// As [`plant`], or what the file system says.
#[allow(dead_code)] // the tests plant nothing
pub fn copy(bugs: &[Bug], from: &Path, to: &Path) -> Result<(), String> {
    let mut files = BTreeSet::new();
    copy_folder(bugs, from, to, "", &mut files)?;
    match bugs.iter().find(|b| !files.contains(&b.file)) {
        Some(bug) => Err(format!("the planted bug {} no longer fits: there is no file {}", bug.name, bug.file)),
        None => Ok(()),
    }
}

fn copy_folder(bugs: &[Bug], from: &Path, to: &Path, below: &str, files: &mut BTreeSet<String>) -> Result<(), String> {
    let says = |path: &Path, e: std::io::Error| format!("{}: {e}", path.display());
    std::fs::create_dir_all(to).map_err(|e| says(to, e))?;
    for entry in std::fs::read_dir(from).map_err(|e| says(from, e))? {
        let path = entry.map_err(|e| says(from, e))?.path();
        let name = path.file_name().and_then(|n| n.to_str()).ok_or_else(|| format!("{}: no name", path.display()))?;
        let (file, target) = (format!("{below}{name}"), to.join(name));
        if path.is_dir() {
            copy_folder(bugs, &path, &target, &format!("{file}/"), files)?;
        } else if name.ends_with(".rs") {
            let text = std::fs::read_to_string(&path).map_err(|e| says(&path, e))?;
            let planted = includable(&file, &plant(bugs, &file, &text)?);
            std::fs::write(&target, planted).map_err(|e| says(&target, e))?;
            files.insert(file);
        }
    }
    Ok(())
}
