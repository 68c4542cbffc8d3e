//! Two full nodes: one has the ledger, the other begins with a snapshot of it (L4, D3).

use super::History;
use super::pruned::{proofs, reader};
use oda_consensus::codec;
use oda_consensus::wire::{Request, Response};
use oda_node::config::Config;
use oda_node::full::FullNode;
use oda_node::full::pruning::prune;
use oda_node::identity::Identity;
use oda_node::ledger::{LedgerReader as _, verify};
use oda_node::net::{Net, NetConfig, Role, node_id, parse_peers};
use oda_storage::RocksLedger;
use std::path::Path;
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// For machines that stand still.
const PATIENCE: Duration = Duration::from_secs(120);

/// A data directory of this network; where its node listens, as others write it.
fn datadir(history: &History, dir: &Path, peers: &[String], more: &str) -> (Config, String) {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let address = format!("/ip4/127.0.0.1/tcp/{}", socket.port());
    Identity::create(dir).unwrap();
    let text = format!("network = \"regtest\"\n[p2p]\nlisten = [{address:?}]\npeers = {peers:?}\n{more}");
    std::fs::write(dir.join("oda.toml"), text).unwrap();
    std::fs::write(dir.join("genesis.json"), serde_json::to_string(&history.world.genesis).unwrap()).unwrap();
    let peer = oda_node::net::peer_id(Identity::load(dir).unwrap().key.id()).unwrap();
    (Config::load(dir).unwrap(), format!("{address}/p2p/{peer}"))
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// One question to a node, as a stranger asks it.
async fn ask(history: &History, peer: &str, request: Request) -> Response {
    let peers = parse_peers(&[peer.to_owned()]).unwrap();
    let node = node_id(&peers[0].0).unwrap();
    let key = Zeroizing::new([9; 32]);
    let config = NetConfig { key, chain: history.chain(), role: Role::Lite, peers, ..NetConfig::default() };
    let (net, _events) = Net::start(config).await.unwrap();
    until("the stranger is connected", || net.connected().contains(&node)).await;
    let answer = net.request(node, codec::encode(&request)).await.unwrap();
    net.shutdown().await;
    codec::decode(&answer).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)] // L4, D3: from the offer to the tip, over the network
async fn a_node_begins_with_a_snapshot_of_a_pruned_peer_and_goes_on() {
    let history = History::new();
    let (old_dir, new_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (old_config, address) = datadir(&history, old_dir.path(), &[], "");
    drop(history.ledger(&old_dir.path().join("ledger")));
    // block 1 is not to be had any more: whoever replays cannot begin
    prune(&mut RocksLedger::open(&old_dir.path().join("ledger"), history.chain()).unwrap(), 9, 99).unwrap();
    let (new_config, _) = datadir(&history, new_dir.path(), &[address], "[ledger]\nsnapshot_sync = true\n");
    let old = FullNode::start(&old_config, old_dir.path(), false).await.unwrap();
    let new = FullNode::start(&new_config, new_dir.path(), false).await.unwrap();
    until("the new node has the tip", || new.shared.state().tip() == old.shared.state().tip()).await;
    assert_eq!(new.shared.state().tip(), history.world.state.tip());
    let height = history.newest().checkpoint.height;
    assert_eq!(new.reader().bodies_from().unwrap(), height + 1);
    assert_eq!(proofs(&history, &new.reader()), proofs(&history, &old.reader()));
    new.stop().await.unwrap();
    // started again, it is where it was, and its ledger holds
    let new = FullNode::start(&new_config, new_dir.path(), false).await.unwrap();
    assert_eq!(new.shared.state().tip(), history.world.state.tip());
    new.stop().await.unwrap();
    old.stop().await.unwrap();
    let reader = reader(&new_dir.path().join("ledger"), &history);
    let report = verify(history.world.genesis.clone(), Some(history.tip()), &reader).unwrap();
    assert_eq!(report.blocks_from, height + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)] // D3, N1: who has pruned a block says so, and another is asked
async fn a_node_that_replays_passes_over_pruned_peers() {
    let history = History::new();
    let dirs: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let (pruned_config, pruned_at) = datadir(&history, dirs[0].path(), &[], "");
    let (whole_config, whole_at) = datadir(&history, dirs[1].path(), &[], "");
    for dir in &dirs[..2] {
        drop(history.ledger(&dir.path().join("ledger")));
    }
    prune(&mut RocksLedger::open(&dirs[0].path().join("ledger"), history.chain()).unwrap(), 9, 99).unwrap();
    let pruned = FullNode::start(&pruned_config, dirs[0].path(), false).await.unwrap();
    // only the pruned one at first: the node goes nowhere, and neither is sent away
    let (config, _) = datadir(&history, dirs[2].path(), &[pruned_at.clone(), whole_at], "");
    let new = FullNode::start(&config, dirs[2].path(), false).await.unwrap();
    until("it is connected", || new.shared.peers().iter().any(|p| p.connected)).await;
    assert_eq!(new.shared.state().tip().height, 0, "nobody has block 1");
    let from = |from| Request::Blocks { from, max: 2 };
    let refused = ask(&history, &pruned_at, from(9)).await;
    assert!(matches!(&refused, Response::Refused(why) if why.contains("below 10 are not kept")), "{refused:?}");
    let Response::Blocks(blocks) = ask(&history, &pruned_at, from(10)).await else { panic!("block 10 is there") };
    assert_eq!(blocks, history.decided[9..11]);
    let whole = FullNode::start(&whole_config, dirs[1].path(), false).await.unwrap();
    until("the new node has the tip", || new.shared.state().tip() == history.world.state.tip()).await;
    assert_eq!(new.reader().bodies_from().unwrap(), 0);
    for node in [pruned, whole, new] {
        node.stop().await.unwrap();
    }
}
