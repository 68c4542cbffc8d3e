//! The commands that repeat the committed results work: each experiment's tiny version, from command line to report.

use std::path::PathBuf;
use std::process::Command;

/// The example that cargo builds beside the tests.
fn program() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let target = tests.ancestors().nth(2).unwrap();
    let path = target.join("examples/results");
    assert!(path.exists(), "{} is missing: run cargo test for all targets, or --example results", path.display());
    path
}

fn quick(name: &str) -> String {
    let out = tempfile::tempdir().unwrap();
    let run = || {
        let done = Command::new(program()).args([name, "--quick", "--out"]).arg(out.path()).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).into_owned()
    };
    run();
    // an interrupted grid goes on where it stopped
    assert!(run().contains(" 0 of them to run"), "finished cells were run again");
    let cells = std::fs::read_to_string(out.path().join(format!("{name}.jsonl"))).unwrap();
    assert!(cells.lines().count() > 0);
    std::fs::read_to_string(out.path().join(format!("{name}.md"))).unwrap()
}

#[test] // also: the plots a report names are there
fn each_experiment_writes_its_report() {
    for name in ["language", "settings"] {
        let report = quick(name);
        assert!(report.starts_with("# ") && report.contains("## Repeat"), "{name}: {report}");
    }
}

#[test]
fn what_is_not_known_is_explained() {
    let said = |args: &[&str]| {
        let done = Command::new(program()).args(args).output().unwrap();
        assert!(!done.status.success());
        String::from_utf8_lossy(&done.stderr).into_owned()
    };
    assert!(said(&["astrology"]).contains("language"), "names the experiments there are");
    assert!(said(&["collaboration", "--data", "/nonexistent"]).contains("dataset-fashion-mnist"));
}
