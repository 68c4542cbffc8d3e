//! The program `testnet demo` as a user runs it: its exit code, its report, and that nothing of it is
//! left running afterwards.

use serde_json::Value;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const TESTNET: &str = env!("CARGO_BIN_EXE_testnet");

fn demo(dir: &Path, rounds: usize) -> Child {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let rounds = rounds.to_string();
    // so generous that whatever is proven earns a tranche, however far the model has come
    let rate = ["--rate-msat", "100000"];
    Command::new(TESTNET)
        .args(["demo", "--json", "--rounds", &rounds, "--dir"])
        .arg(dir)
        .args(rate)
        .current_dir(root)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Command lines of running processes that name the network's directory.
fn running(dir: &Path) -> Vec<String> {
    let name = dir.display().to_string();
    let command_line =
        |p: PathBuf| std::fs::read(p.join("cmdline")).map(|c| String::from_utf8_lossy(&c).replace('\0', " "));
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|p| command_line(p.path()).ok())
        .filter(|c| c.contains(&name))
        .collect()
}

fn wait_none_runs(dir: &Path) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !running(dir).is_empty() {
        assert!(Instant::now() < deadline, "still running: {:#?}", running(dir));
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn signal(name: &str, child: &Child) {
    // the shell's own: a bare Debian has no program of that name
    let sent = Command::new("sh").args(["-c", &format!("kill {name} {}", child.id())]).status().unwrap();
    assert!(sent.success());
}

/// Reads events until one satisfies `wanted`; gives back what was read.
fn read_until(out: &mut impl std::io::BufRead, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
    let mut events = Vec::new();
    for line in out.lines() {
        let line = line.unwrap();
        let event: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("not a JSON line ({e}): {line}"));
        let found = wanted(&event);
        events.push(event);
        if found {
            break;
        }
    }
    events
}

fn end(mut child: Child, dir: &Path) -> (Option<i32>, String) {
    let deadline = Instant::now() + Duration::from_secs(150);
    let mut errors = String::new();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("the demo did not end; its nodes' logs are in {}", dir.display());
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    (status.code(), errors)
}

/// What the summary says does not add up.
fn wrong(events: &[Value]) -> String {
    let Some(summary) = events.iter().find(|e| e["event"] == "summary").map(|e| &e["summary"]) else {
        return format!("no summary; the last event: {:?}", events.last());
    };
    let checks = summary["checks"].as_array().into_iter().flatten().filter(|c| c["left"] != c["right"]);
    checks.map(Value::to_string).chain([summary["problems"].to_string()]).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_demo_balances_resumes_and_leaves_nothing_running() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("net");

    // one round, to the end
    let mut child = demo(&dir, 1);
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let events = read_until(&mut out, |_| false);
    let (code, errors) = end(child, &dir);
    assert_eq!(code, Some(0), "{errors}\n{}", wrong(&events));
    wait_none_runs(&dir);
    let summary = events.iter().find(|e| e["event"] == "summary").map(|e| &e["summary"]).expect("no summary");
    assert!(summary["spent_msat"].as_u64().unwrap() > 0, "{summary:#}");
    assert!(events.iter().any(|e| e["event"] == "claim") && events.iter().any(|e| e["event"] == "round"));

    // resumed, and interrupted while money is held: Ctrl-C stops everything
    let mut child = demo(&dir, 50);
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let held = |e: &Value| e["event"] == "claim" && e["claim"]["money"] == "held";
    assert!(read_until(&mut out, held).last().is_some_and(held), "no payment was ever held");
    signal("-INT", &child);
    let drain = std::thread::spawn(move || read_until(&mut out, |_| false).len());
    let (code, errors) = end(child, &dir);
    assert_eq!(code, Some(130), "{errors}");
    drain.join().unwrap();
    wait_none_runs(&dir);

    // resumed again: what was held has ended one way or the other, and the books balance
    let mut child = demo(&dir, 1);
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let events = read_until(&mut out, |_| false);
    let (code, errors) = end(child, &dir);
    assert_eq!(code, Some(0), "{errors}\n{}", wrong(&events));

    // killed without a chance to say goodbye: its children notice and stop
    let mut child = demo(&dir, 50);
    let mut out = BufReader::new(child.stdout.take().unwrap());
    read_until(&mut out, |e| e["event"] == "claim");
    child.kill().unwrap();
    child.wait().unwrap();
    wait_none_runs(&dir);
}

#[test]
fn bad_input_ends_with_one_line() {
    let tmp = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let out = Command::new(TESTNET).args(args).output().unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let dir = tmp.path().join("net").display().to_string();
    let (code, errors) = run(&["demo", "--dir", &dir, "--oda", "/no/such/oda"]);
    assert!(
        code == Some(1) && errors.contains("/no/such/oda is missing") && errors.trim().lines().count() == 1,
        "{errors}"
    );
    let (code, errors) = run(&["genesis", "--dir", &dir, "--model", "/no/such/model.toml"]);
    assert!(code == Some(1) && errors.contains("--model") && errors.trim().lines().count() == 1, "{errors}");
    let (code, errors) = run(&["chain", "--dir", &dir]);
    assert!(code == Some(1) && errors.contains("testnet genesis") && errors.trim().lines().count() == 1, "{errors}");
    assert_eq!(run(&["demo", "--rouns", "5"]).0, Some(2));
}

#[test]
fn a_missing_libtorch_is_named() {
    let tmp = tempfile::tempdir().unwrap();
    let oda = tmp.path().join("oda");
    let says = "#!/bin/sh\necho 'oda: error while loading shared libraries: libtorch_cpu.so: cannot open shared object file' >&2\nexit 127\n";
    std::fs::write(&oda, says).unwrap();
    std::fs::set_permissions(&oda, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let dir = tmp.path().join("net");
    let out = Command::new(TESTNET).args(["demo", "--oda"]).arg(&oda).arg("--dir").arg(dir).output().unwrap();
    let errors = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(1));
    assert_eq!(errors.trim(), "testnet: oda does not start: libtorch is missing; run `make setup` or set LIBTORCH");
}
