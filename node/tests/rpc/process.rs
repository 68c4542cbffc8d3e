//! The real program: started, asked, stopped over RPC and by signal.

use super::*;
use oda_node::rpc::COOKIE_FILE;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

const ODA: &str = env!("CARGO_BIN_EXE_oda");

/// A data directory of a full node that knows nobody.
fn datadir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let made = Command::new(ODA).args(["init", "--datadir"]).arg(dir.path()).stdout(Stdio::null()).status().unwrap();
    assert!(made.success());
    let genesis = oda_consensus::fuzzing::sample_genesis().unwrap().0;
    std::fs::write(dir.path().join("genesis.json"), serde_json::to_string(&genesis).unwrap()).unwrap();
    let toml = "network = \"regtest\"\n[p2p]\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\n[rpc]\nlisten = \"127.0.0.1:0\"\n";
    std::fs::write(dir.path().join("oda.toml"), toml).unwrap();
    dir
}

/// Kills what is left when a test fails.
struct Node(Child);

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start_node(dir: &Path) -> (Node, String) {
    let mut child = Command::new(ODA)
        .args(["node", "--datadir"])
        .arg(dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let ready = lines.find_map(|l| l.unwrap().split_once("JSON-RPC on ").map(|(_, url)| url.to_string()));
    (Node(child), ready.expect("a node that starts says where it listens"))
}

fn oda(args: &[&str], dir: &Path) -> std::process::Output {
    Command::new(ODA).args(args).arg("--datadir").arg(dir).output().unwrap()
}

#[test]
fn a_node_stops_over_rpc_for_its_owner_and_by_signal_and_starts_again() {
    let dir = datadir();
    let cookie = dir.path().join(COOKIE_FILE);
    for signal in [None, Some("-TERM"), Some("-INT")] {
        let (mut node, url) = start_node(dir.path());
        assert_eq!(std::fs::metadata(&cookie).unwrap().permissions().mode() & 0o777, 0o600);
        match signal {
            None => {
                let elsewhere = tempfile::tempdir().unwrap();
                let refused = oda(&["stop", "--rpc", &url], elsewhere.path());
                assert!(!refused.status.success());
                assert!(String::from_utf8_lossy(&refused.stderr).contains(COOKIE_FILE));
                std::fs::write(elsewhere.path().join(COOKIE_FILE), "__cookie__:00").unwrap();
                let refused = oda(&["stop", "--rpc", &url], elsewhere.path());
                assert!(String::from_utf8_lossy(&refused.stderr).contains("node's owner"), "{refused:?}");
                assert!(oda(&["stop", "--rpc", &url], dir.path()).status.success());
            }
            Some(signal) => {
                // the shell's own: a bare Debian has no program of that name
                let kill = format!("kill {signal} {}", node.0.id());
                let sent = Command::new("sh").args(["-c", &kill]).status().unwrap();
                assert!(sent.success());
            }
        }
        let ended = node.0.wait().unwrap();
        assert!(ended.success(), "{signal:?}: {ended}");
        assert!(!cookie.exists(), "{signal:?}");
    }
}

#[test]
fn the_program_prints_its_reference() {
    let text = Command::new(ODA).arg("rpc-doc").output().unwrap().stdout;
    assert_eq!(String::from_utf8(text).unwrap(), oda_node::rpc::doc::markdown());
    let json = Command::new(ODA).args(["rpc-doc", "--json"]).output().unwrap().stdout;
    assert_eq!(serde_json::from_slice::<Value>(&json).unwrap(), oda_node::rpc::doc::openrpc());
}
