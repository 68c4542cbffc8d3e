//! The rules of the house as tests: which crate may depend on which, what pure code may not touch, and
//! what nobody may write. Each rule is a function over text, and is seen to fail on a planted violation.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_path_buf()
}

type Edges = BTreeMap<String, BTreeSet<String>>;

/// Direct dependencies of each member on other members and outside crates, as declared.
fn dependencies() -> (Edges, serde_json::Value) {
    edges(|d| d["kind"].is_null())
}

fn cargo(args: &[&str]) -> String {
    let out = Command::new(env!("CARGO")).args(args).current_dir(root()).output().expect("cargo");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("text")
}

/// Those of some kind: normal, for builds, for tests. Of crates for other platforms nothing is known: whoever built on a
/// fresh machine never fetched them.
fn edges(wanted: impl Fn(&serde_json::Value) -> bool) -> (Edges, serde_json::Value) {
    let version = cargo(&["-vV"]);
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).expect("a host");
    let text = cargo(&["metadata", "--locked", "--offline", "--format-version", "1", "--filter-platform", host]);
    let meta: serde_json::Value = serde_json::from_str(&text).expect("json");
    let members: BTreeSet<&str> =
        meta["workspace_members"].as_array().expect("members").iter().filter_map(|m| m.as_str()).collect();
    let mut found = BTreeMap::new();
    for package in meta["packages"].as_array().expect("packages") {
        if members.contains(package["id"].as_str().unwrap_or("")) {
            let chosen = package["dependencies"].as_array().expect("dependencies").iter().filter(|d| wanted(d));
            let names = chosen.filter_map(|d| d["name"].as_str()).map(str::to_string).collect();
            found.insert(package["name"].as_str().expect("name").to_string(), names);
        }
    }
    (found, meta)
}

/// Edges no crate may have (docs/architecture.md).
fn forbidden_edges(deps: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let rules: [(&str, &[&str]); 6] = [
        (
            "oda-consensus",
            &[
                "oda-storage",
                "oda-ml",
                "oda-lightning",
                "oda-node",
                "oda-testnet",
                "oda-simnet",
                "tokio",
                "libp2p",
                "iroh",
                "rocksdb",
                "ldk-node",
                "tch",
                "rand",
            ],
        ),
        ("oda-storage", &["oda-ml", "oda-lightning", "oda-node", "oda-testnet", "oda-simnet"]),
        ("oda-ml", &["oda-storage", "oda-lightning", "oda-node", "oda-testnet", "oda-simnet"]),
        ("oda-lightning", &["oda-storage", "oda-ml", "oda-node", "oda-testnet", "oda-simnet"]),
        ("oda-testnet", &["oda-node", "oda-ml", "oda-storage", "tch", "ldk-node"]),
        (
            "oda-simnet",
            &["oda-node", "oda-testnet", "libp2p", "iroh", "iroh-blobs", "rocksdb", "ldk-node", "tch", "tokio"],
        ),
    ];
    let mut out = Vec::new();
    for (from, forbidden) in rules {
        let Some(names) = deps.get(from) else {
            out.push(format!("{from} is missing"));
            continue;
        };
        out.extend(forbidden.iter().filter(|f| names.contains(**f)).map(|f| format!("{from} -> {f}")));
    }
    out
}

#[test]
fn dependency_rule() {
    let (mut deps, _) = dependencies();
    assert_eq!(forbidden_edges(&deps), Vec::<String>::new());
    deps.entry("oda-consensus".into()).or_default().insert("tokio".into());
    assert_eq!(forbidden_edges(&deps), ["oda-consensus -> tokio"], "a planted edge is found");
}

/// Whoever is built with the planted bugs, but the packages of `simnet/planted`. Their names say what they are, also
/// where a dependency is renamed.
fn planted_edges(deps: &Edges) -> Vec<String> {
    let planted = |name: &&String| name.ends_with("-planted");
    let rest = deps.iter().filter(|(from, _)| !planted(from));
    rest.flat_map(|(from, names)| names.iter().filter(planted).map(move |to| format!("{from} -> {to}"))).collect()
}

#[test]
fn nothing_is_built_with_planted_bugs() {
    let (mut deps, _) = edges(|_| true);
    assert_eq!(planted_edges(&deps), Vec::<String>::new());
    let ours: Vec<&String> = deps.keys().filter(|name| name.ends_with("-planted")).collect();
    assert_eq!(ours, ["oda-consensus-planted", "oda-simnet-planted", "oda-storage-planted"]);
    assert!(deps["oda-simnet-planted"].contains("oda-consensus-planted"), "a renamed dependency keeps its name here");
    assert!(!deps["oda-simnet-planted"].contains("oda-consensus"), "the checks would be of the right code");
    deps.entry("oda-node".into()).or_default().insert("oda-consensus-planted".into());
    assert_eq!(planted_edges(&deps), ["oda-node -> oda-consensus-planted"], "a planted edge is found");
}

/// Crates with their features, as `cargo build` or `cargo test` builds them.
fn features(kinds: &str) -> BTreeSet<String> {
    let text =
        cargo(&["tree", "--workspace", "--locked", "--offline", "--prefix", "none", "-f", "{p} [{f}]", "-e", kinds]);
    text.lines().map(|line| line.trim_end_matches(" (*)").to_string()).collect()
}

#[test]
fn programs_and_tests_share_one_build() {
    let (programs, tests) = (features("normal,build"), features("normal,build,dev"));
    assert!(programs.len() > 400, "only {} crates found", programs.len());
    let twice: Vec<_> = programs.difference(&tests).collect();
    assert!(
        twice.is_empty(),
        "`cargo test` adds features to these, and builds all that uses them once more; ask for them in node/Cargo.toml: {twice:?}"
    );
}

/// Licences a package offers that are not allowed; empty if some choice is.
fn licence_problem(expression: &str, allowed: &BTreeSet<&str>) -> Option<String> {
    let all_of = expression.replace('/', " OR ");
    let fits = all_of.split(" AND ").all(|part| {
        let part = part.trim().trim_start_matches('(').trim_end_matches(')');
        part.split(" OR ").any(|choice| allowed.contains(choice.trim().trim_start_matches('(').trim_end_matches(')')))
    });
    (!fits).then(|| expression.to_string())
}

#[test]
fn licences_are_allowed() {
    let deny = std::fs::read_to_string(root().join("deny.toml")).expect("deny.toml");
    let allow = deny.split("allow = [").nth(1).and_then(|s| s.split("\n]").next()).expect("allow list");
    let allowed: BTreeSet<&str> = allow.split('"').skip(1).step_by(2).collect();
    let (_, meta) = dependencies();
    for package in meta["packages"].as_array().expect("packages") {
        let name = package["name"].as_str().unwrap_or("?");
        let excepted = deny.contains(&format!("crate = \"{name}\""));
        let licence = package["license"].as_str().unwrap_or("none");
        if let Some(problem) = licence_problem(licence, &allowed).filter(|_| !excepted) {
            panic!("{name}: {problem} is not in deny.toml");
        }
        let source = package["source"].as_str().unwrap_or("registry+member");
        assert!(source.starts_with("registry+"), "{name} comes from {source}");
    }
    assert!(licence_problem("GPL-3.0-only", &allowed).is_some());
    assert!(licence_problem("MIT AND GPL-3.0-only", &allowed).is_some());
    assert!(licence_problem("GPL-2.0-only OR MIT", &allowed).is_none());
}

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            if !matches!(path.file_name().and_then(|n| n.to_str()), Some("target" | ".git" | "data")) {
                sources(&path, out);
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// Lines that hold one of the words outside comments.
fn offences(text: &str, words: &[&str]) -> Vec<String> {
    let code = |line: &str| !line.trim_start().starts_with("//");
    text.lines()
        .filter(|l| code(l))
        .filter_map(|l| words.iter().find(|w| l.contains(**w)).map(|w| format!("{w}: {}", l.trim())))
        .collect()
}

const IMPURE: [&str; 6] = ["Instant::now", "SystemTime::now", "thread_rng", "HashMap", "HashSet", "tokio::"];
const UNFINISHED: [&str; 6] = ["todo!(", "unimplemented!(", "dbg!(", "#[ignore", "unbounded_channel", "unsafe {"];

#[test]
fn pure_code_is_pure_and_nothing_is_unfinished() {
    let mut files = Vec::new();
    sources(&root(), &mut files);
    assert!(files.len() > 50, "the sources were not found");
    for file in files {
        if file.ends_with("simnet/tests/tidy.rs") {
            continue; // the words themselves stand here
        }
        let text = std::fs::read_to_string(&file).expect("source");
        assert_eq!(offences(&text, &UNFINISHED), Vec::<String>::new(), "{}", file.display());
        if file.starts_with(root().join("consensus/src")) && !file.ends_with("tests.rs") {
            assert_eq!(offences(&text, &IMPURE), Vec::<String>::new(), "{}", file.display());
        }
    }
    assert_eq!(offences("let x = Instant::now();", &IMPURE).len(), 1);
    assert_eq!(offences("// Instant::now is forbidden", &IMPURE).len(), 0);
}

/// A letter and a number, as rules are called: `S4`, not `L402`.
fn is_rule(word: &str) -> bool {
    let mut letters = word.chars();
    letters.next().is_some_and(|c| c.is_ascii_uppercase())
        && matches!(letters.as_str().as_bytes(), [digit] if digit.is_ascii_digit())
}

/// Rules that a text names.
fn rules(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| is_rule(word)).collect()
}

/// What a source says outside its tests, and in them.
fn code_and_tests<'a>(path: &Path, text: &'a str) -> (&'a str, &'a str) {
    let tests = path.components().any(|c| c.as_os_str() == "tests") || path.ends_with("tests.rs");
    match text.find("#[cfg(test)]\nmod") {
        _ if tests => ("", text),
        Some(at) => text.split_at(at),
        None => (text, ""),
    }
}

/// Rules that the specification defines: those it sets in bold.
fn defined(spec: &str) -> BTreeSet<&str> {
    spec.split("**").skip(1).step_by(2).flat_map(rules).collect()
}

#[test]
fn every_rule_is_cited_where_it_is_kept_and_where_it_is_tested() {
    let spec = std::fs::read_to_string(root().join("docs/spec.md")).expect("docs/spec.md");
    let defined = defined(&spec);
    assert!(defined.len() > 30, "the rules were not found: {defined:?}");
    let mut files = Vec::new();
    sources(&root(), &mut files);
    let texts: Vec<(PathBuf, String)> =
        files.into_iter().map(|f| (f.clone(), std::fs::read_to_string(&f).expect("source"))).collect();
    let (mut kept, mut tested) = (BTreeSet::new(), BTreeSet::new());
    for (path, text) in &texts {
        let (code, tests) = code_and_tests(path, text);
        kept.extend(rules(code));
        tested.extend(rules(tests));
    }
    let nowhere: Vec<_> = defined.difference(&kept).collect();
    let untested: Vec<_> = defined.difference(&tested).collect();
    assert!(nowhere.is_empty(), "rules of docs/spec.md that no source cites: {nowhere:?}");
    assert!(untested.is_empty(), "rules of docs/spec.md that no test cites: {untested:?}");
    let unknown: Vec<_> = kept.difference(&defined).filter(|r| "CDKLNPRS".contains(&r[..1])).collect();
    assert!(unknown.is_empty(), "sources cite rules that docs/spec.md does not define: {unknown:?}");
}

/// Files that a page names in backticks, with a folder.
fn named_files(text: &str) -> impl Iterator<Item = &str> {
    let ends = [".rs", ".toml", ".md"];
    let plain = |word: &&str| word.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c));
    let quoted = text.split('`').skip(1).step_by(2);
    quoted.filter(plain).filter(move |w| !w.starts_with('/') && w.contains('/') && ends.iter().any(|e| w.ends_with(e)))
}

#[test]
fn pages_name_files_that_exist() {
    let pages = ["README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/spec.md", "docs/threat-model.md"];
    let crates = ["", "consensus", "ml", "storage", "lightning", "node", "simnet", "testnet", "docs"];
    let mut found = 0;
    for page in pages {
        let text = std::fs::read_to_string(root().join(page)).expect(page);
        for file in named_files(&text) {
            let places = crates.iter().flat_map(|c| [root().join(c).join(file), root().join(c).join("src").join(file)]);
            assert!(places.into_iter().any(|p| p.exists()), "{page} names {file}, which is nowhere");
            found += 1;
        }
    }
    assert!(found > 30, "the names were not found: {found}");
    assert_eq!(
        named_files("`simnet/nowhere.rs` and `/etc/x.toml` and `a b/c.md`").collect::<Vec<_>>(),
        ["simnet/nowhere.rs"]
    );
}
