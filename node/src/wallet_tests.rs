//! `oda wallet` on a real wallet and the embedded chain: with its node running, without, and after a loss.

use crate::config::{Config, MoneyFlags};
use crate::identity::Identity;
use crate::wallet_cli::{self, WalletArgs};
use crate::wallet_socket::{Request, Running};
use crate::{seeds, wallet};
use clap::Parser;
use oda_lightning::RegtestDriver;
use oda_lightning::bitcoind::free_port;
use oda_lightning::chain::{ChainConfig, ChainPolicy};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    wallet: WalletArgs,
}

fn chain() -> RegtestDriver {
    let (rpc_user, rpc_password) = ("oda".into(), "secret".into());
    let listen = "127.0.0.1:0".parse().unwrap();
    RegtestDriver::start_embedded(ChainConfig {
        data_dir: None,
        listen,
        rpc_user,
        rpc_password,
        policy: ChainPolicy::default(),
    })
    .unwrap()
}

fn configure(datadir: &Path, chain: &RegtestDriver) -> Config {
    std::fs::create_dir_all(datadir).unwrap();
    let text = format!(
        "network = \"regtest\"\n[p2p]\nlisten = []\n[lightning]\nlisten = \"{}\"\n[lightning.chain]\nkind = \
         \"bitcoind\"\naddress = \"{}\"\nuser = \"oda\"\npassword = \"secret\"\n",
        free_port().unwrap(),
        chain.endpoint().addr
    );
    std::fs::write(datadir.join(crate::config::FILE), text).unwrap();
    Config::load(datadir).unwrap()
}

async fn oda_wallet(datadir: &Path, line: &str) -> anyhow::Result<()> {
    let datadir = datadir.display().to_string();
    let words = ["wallet", "--datadir", &datadir].into_iter().chain(line.split_whitespace());
    wallet_cli::run(Line::try_parse_from(words)?.wallet, MoneyFlags::default(), true).await
}

async fn until_onchain(node: &Running, sat: u64) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while node.ask(&Request::Balance).unwrap()["onchain_sat"] != json!(sat) {
        assert!(Instant::now() < deadline, "gave up waiting for {sat} sat");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wallet_answers_its_owner_whether_its_node_runs_or_not() {
    let (chain, dir) = (chain(), tempfile::tempdir().unwrap());
    let datadir = dir.path().join("a");
    let config = configure(&datadir, &chain);
    let words = Identity::create(&datadir).unwrap();
    let identity = Identity::load(&datadir).unwrap();
    let (node, _) = wallet::start(&config, &datadir, &identity, "test").await.unwrap();

    // running: over the socket, which is its owner's
    let asked = Running::find(&wallet::dir(&datadir)).unwrap();
    let control = wallet::dir(&datadir).join("control");
    assert_eq!(control.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    let balance = asked.ask(&Request::Balance).unwrap();
    assert_eq!((&balance["network"], &balance["chain"]["running"]), (&json!("regtest"), &json!(true)));
    let address = asked.ask(&Request::Address).unwrap()["address"].as_str().unwrap().to_string();
    chain.fund(&[(address, 700_000)]).unwrap();
    until_onchain(&asked, 700_000).await;
    let error = asked.ask(&Request::Pay { bolt11: "lnbc1".into(), amount_msat: None, max_fee_msat: None });
    assert!(error.unwrap_err().to_string().contains("not a valid invoice"));
    let error = wallet::open(&config, &datadir, &identity, "second", false).await.err().unwrap();
    assert!(format!("{error:#}").contains("in use by another process"), "{error:#}");
    for line in ["balance", "address", "invoice 5000 work", "history"] {
        oda_wallet(&datadir, line).await.unwrap();
    }
    for (line, word) in [
        ("open nobody 5", "NODE_ID@HOST:PORT"),
        ("open bob@127.0.0.1:1 5", "not a Lightning node id"),
        ("send bob 5", "no bitcoin address"),
        ("send bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080 lots", "number of satoshi"),
        ("send bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080 99000000", "cannot be sent"),
        ("close 02c6047f9441ed7d6d3045406e95c07cd85c778e4b8cef3ca7abac09b95c709ee5", "no channel with"),
        ("pay lnbcrt1", "not a valid invoice"),
        ("invoice 0", "is no amount"),
        ("invoice 5000 --just-in-time 1", "no liquidity provider"),
    ] {
        let error = format!("{:#}", oda_wallet(&datadir, line).await.unwrap_err());
        assert!(error.contains(word), "{line}: {error}");
    }

    // whoever asks nonsense is told, and the next is answered
    let mut stream = std::os::unix::net::UnixStream::connect(control.join("socket")).unwrap();
    stream.write_all(b"{\"call\":\"steal\"}\n").unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    assert!(answer.contains("not a question this node knows"), "{answer}");
    assert!(asked.ask(&Request::History { limit: 5 }).is_ok());

    // stopped: the wallet is opened by the command itself, and let go of
    let stopping = node.clone();
    wallet::blocking(move || stopping.stop()).await.unwrap().unwrap();
    wallet::blocking(move || drop(node)).await.unwrap();
    std::fs::remove_dir_all(&control).unwrap(); // what the end of the process does to the socket
    for line in ["balance", "history"] {
        oda_wallet(&datadir, line).await.unwrap();
    }

    // K1, C5: lost, and restored from words and backup
    seeds::create(&datadir, 7, &identity.encryption, &mut rand_core::OsRng).unwrap();
    let file = dir.path().join("backup.json");
    oda_wallet(&datadir, &format!("backup {}", file.display())).await.unwrap();
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(!words.split(' ').all(|w| text.contains(w)) && text.contains("holds no channel state"));
    let error = oda_wallet(&datadir, &format!("backup {} --show-mnemonic", file.display())).await.unwrap_err();
    assert!(error.to_string().contains("terminal only"), "{error}");
    chain.mine(10).unwrap();
    let found = dir.path().join("b");
    let config = configure(&found, &chain);
    let typed = || Ok(Zeroizing::new(words.to_uppercase()));
    wallet_cli::restore(&config, &found, Some(&file), typed, true).await.unwrap();
    assert!(seeds::load(&found, 7, &identity.encryption).unwrap().is_some());
    let again = Identity::load(&found).unwrap();
    assert_eq!(again.key.id(), identity.key.id());
    let (node, _) = wallet::start(&config, &found, &again, "test").await.unwrap();
    until_onchain(&Running::find(&wallet::dir(&found)).unwrap(), 700_000).await;
    let other = "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about";
    let refused = wallet_cli::restore(&config, &found, None, || Ok(Zeroizing::new(other.into())), true).await;
    assert!(format!("{:#}", refused.unwrap_err()).contains("another wallet"));
    let stored: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(stored["wallet"]["node_id"], json!(node.node_id()));
    wallet::blocking(move || drop(node)).await.unwrap();
    chain.stop().unwrap();
}

#[test] // C5: a validator has no wallet, and yet something that its words alone do not bring back
fn a_node_without_a_wallet_is_backed_up_and_restored() {
    let dir = tempfile::tempdir().unwrap();
    let bare = |name: &str| {
        let datadir = dir.path().join(name);
        std::fs::create_dir_all(&datadir).unwrap();
        std::fs::write(datadir.join("oda.toml"), "network = \"regtest\"\n[p2p]\nlisten = []\n").unwrap();
        datadir
    };
    let (lost, found, file) = (bare("a"), bare("b"), dir.path().join("backup.json"));
    let words = Identity::create(&lost).unwrap();
    let identity = Identity::load(&lost).unwrap();
    seeds::create(&lost, 7, &identity.encryption, &mut rand_core::OsRng).unwrap();
    let config = crate::config::Config::load(&found).unwrap();
    let restore = |from: &Path| {
        let words = words.clone();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(wallet_cli::restore(&config, &found, Some(from), move || Ok(words), true))
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(oda_wallet(&lost, &format!("backup {}", file.display()))).unwrap();
    restore(&file).unwrap();
    assert_eq!(Identity::load(&found).unwrap().key.id(), identity.key.id());
    assert!(seeds::load(&found, 7, &identity.encryption).unwrap().is_some());
    assert!(runtime.block_on(oda_wallet(&found, "balance")).is_err(), "there is none");
}
