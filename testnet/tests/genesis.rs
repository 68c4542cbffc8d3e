//! What `testnet genesis` writes: every secret in one place, readable by one user, and keys that work.

use oda_consensus::frost::{EncryptionSecret, EpochSeed};
use oda_consensus::genesis::Genesis;
use oda_consensus::keys::NodeKey;
use oda_testnet::config::{Misdeed, NODE_FILE, NetworkFile, NodeConfig, Role};
use oda_testnet::genesis::{Options, create};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

fn options(dir: &Path) -> Options {
    let model = dir.join("model.toml");
    std::fs::write(&model, "").unwrap();
    Options { name: "test".into(), validators: 4, observers: 1, model, ..Options::default() }
}

fn files(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, out) } else { out.push(path) }
    }
}

fn network() -> (tempfile::TempDir, PathBuf, NetworkFile) {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("net");
    let network = create(&dir, &options(tmp.path()), 1_700_000_000_000).unwrap();
    (tmp, dir, network)
}

#[test] // K1: a secret lies in its node's directory only, and only its owner can read it
fn every_secret_is_private_and_in_one_place() {
    let (_tmp, dir, network) = network();
    let mut all = Vec::new();
    files(&dir, &mut all);
    let texts: BTreeMap<&PathBuf, String> = all.iter().map(|f| (f, std::fs::read_to_string(f).unwrap())).collect();
    let secret_files: Vec<&PathBuf> = all.iter().filter(|f| f.parent().unwrap().ends_with("keys")).collect();
    assert_eq!(secret_files.len(), network.nodes.len() + 4, "one mnemonic each, four shares");
    for file in &secret_files {
        assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600, "{}", file.display());
        let secret = texts[file].trim();
        assert!(secret.len() > 40);
        for (other, text) in &texts {
            assert!(
                other == file || !text.contains(secret),
                "{} holds the secret of {}",
                other.display(),
                file.display()
            );
        }
    }
    for node in &network.nodes {
        let keys = dir.join(&node.name).join("keys");
        assert_eq!(std::fs::metadata(&keys).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(keys.join("epoch-0").exists(), node.role == Role::Validator, "{}", node.name);
    }
}

/// The key for sealed boxes that a node derives from its words.
fn encryption(dir: &Path, name: &str) -> EncryptionSecret {
    let words = std::fs::read_to_string(dir.join(name).join("keys/mnemonic")).unwrap();
    let seed = bip39::Mnemonic::parse_normalized(words.trim()).unwrap().to_seed_normalized("");
    EncryptionSecret::derive(&NodeKey::from_seed(&seed).secret())
}

#[test] // C2, C3, C5: the sealed seeds give shares of the first committee's key, three of four, each to one node alone
fn seeds_belong_to_the_first_committee() {
    let (_tmp, dir, network) = network();
    let genesis: Genesis = serde_json::from_str(&std::fs::read_to_string(dir.join("genesis.json")).unwrap()).unwrap();
    genesis.check().unwrap();
    let (group, _) = genesis.keys().unwrap();
    assert_eq!((group.members().len(), group.threshold()), (4, 3));
    let transcript = genesis.transcript().unwrap();
    let mut seen = Vec::new();
    for node in network.of(Role::Validator) {
        let text = std::fs::read_to_string(dir.join(&node.name).join("keys/epoch-0")).unwrap();
        let sealed = hex::decode(text.trim()).unwrap();
        for other in network.of(Role::Validator) {
            let opened = EpochSeed::open(&sealed, 0, &encryption(&dir, &other.name));
            assert_eq!(opened.is_ok(), other.name == node.name, "sealed to its node");
        }
        let secret = encryption(&dir, &node.name);
        let seed = EpochSeed::open(&sealed, 0, &secret).unwrap();
        let (share, _) = transcript.shares(&seed, group.index_of(node.node).unwrap(), &secret).unwrap();
        for other in network.of(Role::Validator) {
            assert_eq!(share.belongs_to(&group, other.node), other.name == node.name);
        }
        seen.push(sealed);
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 4, "every seed is another");
}

#[test] // K1: the mnemonic restores exactly the identity that the genesis names
fn mnemonics_restore_identities() {
    let (_tmp, dir, network) = network();
    let genesis: Genesis = serde_json::from_str(&std::fs::read_to_string(dir.join("genesis.json")).unwrap()).unwrap();
    for node in &network.nodes {
        let words = std::fs::read_to_string(dir.join(&node.name).join("keys/mnemonic")).unwrap();
        let seed = bip39::Mnemonic::parse_normalized(words.trim()).unwrap().to_seed_normalized("");
        let key = NodeKey::from_seed(&seed);
        assert_eq!(key.id(), node.node);
        let named = genesis.validators.iter().find(|v| v.node == node.node);
        assert_eq!(named.is_some(), node.role == Role::Validator);
        if let Some(validator) = named {
            assert_eq!(validator.encryption, EncryptionSecret::derive(&key.secret()).public());
        }
    }
}

#[test]
fn configurations_fit_together() {
    let (_tmp, dir, network) = network();
    let mut ports = vec![network.chain.rpc.port()];
    for node in &network.nodes {
        let config: NodeConfig = oda_testnet::config::read(&dir.join(&node.name).join(NODE_FILE)).unwrap();
        let known = config.p2p.peers.len();
        match node.role {
            Role::Validator => assert_eq!(known, 3),
            Role::Sponsor | Role::Observer => assert_eq!(known, 4),
            Role::Trainer => assert_eq!(known, 5, "four validators and the sponsor"),
        }
        assert!(!config.p2p.peers.contains(&node.p2p), "knows itself");
        assert_eq!(config.trainer.as_ref().is_some_and(|t| t.cheat == Misdeed::All(true)), node.name == "trainer-2");
        assert_eq!(config.sponsor.is_some(), node.role == Role::Sponsor);
        ports.push(node.p2p.split('/').nth(4).unwrap().parse().unwrap());
        ports.push(config.blobs.listen.port());
        ports.extend(config.rpc.map(|r| r.listen.port()));
        if let Some(lightning) = config.lightning {
            ports.push(lightning.listen.port());
            assert_eq!(lightning.bitcoind, network.chain.rpc);
        }
    }
    let count = ports.len();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), count, "a port is used twice");
}

#[test]
fn refusals_say_what_to_do() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("net");
    let good = options(tmp.path());
    create(&dir, &good, 1).unwrap();
    let again = create(&dir, &good, 1).unwrap_err().to_string();
    assert!(again.contains("holds a network already"), "{again}");
    let no_model =
        create(&tmp.path().join("b"), &Options { model: "no/such.toml".into(), ..good.clone() }, 1).unwrap_err();
    assert!(format!("{no_model:#}").contains("--model"), "{no_model:#}");
    let cheats = create(&tmp.path().join("c"), &Options { cheats: 4, ..good }, 1).unwrap_err().to_string();
    assert!(cheats.contains("--cheats 4"), "{cheats}");
}
