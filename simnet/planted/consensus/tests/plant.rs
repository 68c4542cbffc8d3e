//! The planted bugs are planted as the list says, and a bug that no longer fits stops the build.

#[path = "../../plant.rs"]
mod plant;

use plant::{Bug, includable, plant, read};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..")
}

fn text(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).expect(path)
}

fn list() -> Vec<Bug> {
    read(&text("simnet/planted/bugs.toml")).expect("the list")
}

#[test]
fn enough_bugs_spread_over_the_rules() {
    let bugs = list();
    let rules: BTreeSet<&str> = bugs.iter().map(|b| b.rule.as_str()).collect();
    let checks: BTreeSet<&str> = bugs.iter().map(|b| b.found_by.as_str()).collect();
    assert!(bugs.len() >= 24, "{} bugs", bugs.len());
    assert!(rules.len() >= 12 && checks.len() >= 6, "{rules:?} {checks:?}");
    assert!(bugs.iter().all(|b| !b.what.is_empty() && !b.scenario.is_empty()));
}

#[test] // each bug is in the copy, and the copy without its bugs is the original
fn bugs_are_planted_and_nothing_else() {
    let bugs = list();
    for file in bugs.iter().map(|b| b.file.as_str()).collect::<BTreeSet<_>>() {
        let original = text(&format!("consensus/src/{file}"));
        let mut planted = plant(&bugs, file, &original).expect(file);
        for bug in bugs.iter().filter(|b| b.file == file) {
            assert_eq!(planted.matches(&bug.replace).count(), 1, "{}", bug.name);
            planted = planted.replace(&bug.replace, &bug.find);
        }
        assert_eq!(planted, original, "{file}");
        assert!(!original.contains("planted::"), "{file} knows of the bugs");
    }
}

#[test]
fn a_bug_that_no_longer_fits_is_named() {
    let bug = list().into_iter().next().expect("a bug");
    let says = |text: &str| plant(std::slice::from_ref(&bug), &bug.file, text).expect_err("refused");
    for (text, why) in [(String::new(), "not there"), (format!("{0}\n{0}", bug.find), "there 2 times")] {
        let message = says(&text);
        let names = format!("the planted bug {} no longer fits file {}: rewrite it", bug.name, bug.file);
        assert!(message.starts_with(&names) && message.contains(why), "{message}");
    }
    let wider = Bug { find: format!("{}!", bug.find), name: "other".into(), ..bug.clone() };
    let message = plant(&[wider, bug.clone()], &bug.file, &format!("{}!", bug.find)).expect_err("refused");
    assert!(message.contains("overlaps"), "{message}");
}

#[test]
fn a_list_without_its_switches_is_refused() {
    let entry = |name: &str, switch: &str| {
        format!(
            "[[bug]]\nname = '{name}'\nrule = 'S1'\nfile = 'x.rs'\nfind = 'a'\nreplace = '''{switch}'''\nwhat = 'x'\n\
             found_by = 'money'\nseeds = 1\nscenario = 'honest'\n"
        )
    };
    assert_eq!(read(&entry("a", "crate::planted::on(\"a\")")).expect("fine").len(), 1);
    assert!(read(&entry("a", "crate::planted::on(\"b\")")).expect_err("another's switch").contains("its switch"));
    assert!(read(&entry("a", "true")).expect_err("no switch").contains("its switch"));
    let twice = entry("a", "crate::planted::on(\"a\")").repeat(2);
    assert!(read(&twice).expect_err("twice").contains("two planted bugs"));
}

#[test]
fn the_copy_can_be_included() {
    let head = "//! Doc\n#![allow(x)]\n/// A\npub mod a;\n";
    assert_eq!(includable("lib.rs", head), "/// A\npub mod a;\n");
    assert_eq!(includable("a.rs", head), head);
    assert_eq!(includable("a.rs", "use crate::record;\n"), "use crate::codec::record;\n");
}

#[test] // one bug at a time, on its own thread, asleep again when it is dropped
fn a_bug_is_awake_while_it_is_held() {
    use oda_consensus_planted::planted::{on, wake};
    assert!(!on("clip-skipped"));
    let awake = wake("clip-skipped");
    assert!(on("clip-skipped") && !on("mean-paid"));
    assert_eq!(awake.reached(), 1);
    assert!(std::thread::spawn(|| !on("clip-skipped")).join().expect("thread"));
    drop(awake);
    assert!(!on("clip-skipped"));
}

/// The entries of one table of a manifest, the workspace's own packages by their plain names.
fn entries(manifest: &str, table: &str) -> BTreeSet<String> {
    let toml: toml::Table = toml::from_str(&text(manifest)).expect(manifest);
    let table = toml.get(table).and_then(|t| t.as_table()).cloned().unwrap_or_default();
    let optional = |v: &toml::Value| v.get("optional").and_then(toml::Value::as_bool) == Some(true);
    table.into_iter().filter(|(_, v)| !optional(v)).map(|(name, _)| name).collect()
}

#[test] // the same sources need the same libraries
fn the_planted_packages_depend_on_what_the_planted_sources_need() {
    for package in ["consensus", "storage", "simnet"] {
        let (own, planted) = (format!("{package}/Cargo.toml"), format!("simnet/planted/{package}/Cargo.toml"));
        assert_eq!(entries(&own, "dependencies"), entries(&planted, "dependencies"), "{package}");
    }
}
