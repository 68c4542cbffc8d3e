//! Peers found, remembered and bounded, among real swarms on loopback.

use super::tests::{Peer, QUIET, WAIT, config, peer, start, until};
use super::walk::{Walk, WalkEvent};
use super::*;
use crate::clock::now_ms;
use crate::peers::PeerBook;
use futures::StreamExt as _;
use libp2p::kad::{self, store::MemoryStore};
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{StreamProtocol, Swarm, noise, tcp, yamux};
use oda_consensus::codec;
use oda_consensus::keys::NodeKey;
use oda_consensus::wire::{self, Request, Response, SignedPeerRecord};
use std::collections::BTreeSet;
use tokio::time::{sleep, timeout};

/// A node that exchanges peer records as the real ones do.
struct Host {
    net: Net,
    id: NodeId,
    /// Records it holds.
    records: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

pub(super) fn record_of(key: &NodeKey, chain: ChainId, role: wire::Role, p2p: Vec<String>) -> SignedPeerRecord {
    let record =
        PeerRecord { node: key.id(), seq_ms: now_ms(), role, blobs: vec![], p2p, lightning: None, submissions: None };
    SignedPeerRecord::new(record, key, chain)
}

async fn host(config: NetConfig) -> Host {
    let (key, chain) = (NodeKey::from_secret(&config.key), config.chain);
    let role = if config.role == Role::Full { wire::Role::Full } else { wire::Role::Lite };
    let (net, mut events) = Net::start(config).await.unwrap();
    let record = record_of(&key, chain, role, net.announced().iter().map(ToString::to_string).collect());
    let mut book = PeerBook::new(chain).telling(&net);
    book.insert(record.clone(), now_ms());
    let (learnt, mut answers) = mpsc::channel::<Response>(64);
    let (own, id, records) = (net.clone(), key.id(), Arc::new(AtomicU64::new(1)));
    let counted = records.clone();
    let task = tokio::spawn(async move {
        loop {
            tokio::select! {
                Some(event) = events.recv() => match event {
                    NetEvent::PeerConnected(peer) => {
                        for request in [Request::Hello(record.clone()), Request::Peers] {
                            let (net, learnt) = (own.clone(), learnt.clone());
                            tokio::spawn(async move {
                                if let Ok(bytes) = net.request(peer, codec::encode(&request)).await {
                                    let _ = learnt.send(codec::decode(&bytes).unwrap()).await;
                                }
                            });
                        }
                    }
                    NetEvent::Request { data, token, .. } => {
                        let response = match codec::decode::<Request>(&data).unwrap() {
                            Request::Hello(theirs) => {
                                book.insert(theirs, now_ms());
                                Response::Hello(record.clone())
                            }
                            _ => Response::Peers(book.all().cloned().collect()),
                        };
                        own.respond(token, codec::encode(&response));
                    }
                    _ => {}
                },
                Some(answer) = answers.recv() => {
                    let heard = match answer {
                        Response::Peers(records) => records,
                        Response::Hello(record) => vec![record],
                        _ => vec![],
                    };
                    for record in heard {
                        book.insert(record, now_ms());
                    }
                }
                else => return,
            }
            counted.store(book.all().count() as u64, Ordering::Relaxed);
        }
    });
    Host { net, id, records, task }
}

impl Host {
    async fn stop(self) {
        self.net.shutdown().await;
        self.task.abort();
    }

    async fn until_connected(&self, to: NodeId) {
        until("connected", || async { self.net.connected().contains(&to) }).await;
    }
}

/// Two nodes know only A; A goes; the third finds the second again by what it wrote down.
async fn finds_its_network_again(role: Role, keys: [u8; 3]) {
    let [a, b, c] = keys;
    let dir = tempfile::tempdir().unwrap();
    let a = host(config(a, 1, &[])).await;
    let bootstrap = a.net.listen_addrs();
    let b = host(config(b, 1, &bootstrap)).await;
    b.until_connected(a.id).await;
    until("A knows where B is", || async { a.records.load(Ordering::Relaxed) == 2 }).await;
    let of_c = || NetConfig {
        role,
        outbound: 4,
        remember: Some(dir.path().join(crate::known::FILE)),
        ..config(c, 1, &bootstrap)
    };
    let third = host(of_c()).await;
    third.until_connected(b.id).await;
    a.stop().await;
    third.stop().await;
    // no host: nobody tells it anything any more
    let again = start(of_c()).await;
    again.until_connected(b.id).await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")] // N1
async fn a_full_node_finds_its_network_again_without_its_bootstrap_peer() {
    finds_its_network_again(Role::Full, [100, 101, 102]).await;
}

#[tokio::test(flavor = "multi_thread")] // N1
async fn a_lite_node_finds_its_network_again_without_its_bootstrap_peer() {
    finds_its_network_again(Role::Lite, [103, 104, 105]).await;
}

#[tokio::test(flavor = "multi_thread")] // N1: nobody exchanges records here
async fn a_walk_finds_whom_a_neighbour_knows() {
    let b = peer(110, 1, &[]).await;
    let a = peer(111, 1, &[&b]).await;
    a.until_connected(b.id).await;
    let c = start(NetConfig { outbound: 4, ..config(112, 1, &a.net.listen_addrs()) }).await;
    c.until_connected(b.id).await;
}

#[tokio::test(flavor = "multi_thread")] // N1: told to open no connections, it opens none
async fn without_outbound_only_configured_peers_are_dialled() {
    let b = peer(113, 1, &[]).await;
    let c = start(NetConfig { outbound: 0, ..config(114, 1, &[]) }).await;
    let here = b.net.listen_addrs().iter().map(ToString::to_string).collect();
    let key = NodeKey::from_secret(&[113; 32]);
    c.net.learn(&record_of(&key, ChainId([1; 32]), wire::Role::Full, here).record);
    sleep(QUIET).await;
    assert!(c.net.connected().is_empty());
    let (asker, to) = (c.net.clone(), b.id);
    let mut b = b;
    let answer = tokio::spawn(async move { asker.request(to, vec![1]).await });
    let (_, _, token) = b.request().await;
    b.net.respond(token, vec![2]);
    assert_eq!(answer.await.unwrap().unwrap(), [2], "but a question to it finds it");
}

#[tokio::test(flavor = "multi_thread")] // N1, attack 17: made-up records cost few dials at a time
async fn made_up_addresses_are_dialled_a_few_at_a_time() {
    let trap = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = format!("/ip4/127.0.0.1/tcp/{}", trap.local_addr().unwrap().port());
    let victim = start(NetConfig { outbound: 32, ..config(115, 1, &[]) }).await;
    for n in 0..200 {
        let key = NodeKey::from_secret(&[n; 32]);
        victim.net.learn(&record_of(&key, ChainId([1; 32]), wire::Role::Full, vec![at.clone()]).record);
    }
    let mut held = Vec::new(); // taken and never answered
    let deadline = tokio::time::Instant::now() + QUIET * 2;
    while let Ok(socket) = tokio::time::timeout_at(deadline, trap.accept()).await {
        held.push(socket.unwrap());
    }
    assert!((1..=dial::MAX_DIALS).contains(&held.len()), "{} dials at once", held.len());
}

#[tokio::test(flavor = "multi_thread")] // N1: who does not answer is passed over while others do, and comes back
async fn a_silent_peer_is_asked_last() {
    let mut silent = peer(120, 1, &[]).await;
    let prompt = peer(121, 1, &[]).await;
    let known = [silent.net.listen_addrs(), prompt.net.listen_addrs()].concat();
    let asker = start(NetConfig { role: Role::Lite, ..config(122, 1, &known) }).await;
    let both: BTreeSet<NodeId> = [silent.id, prompt.id].into();
    let asked = |asker: &Peer| asker.net.askable().into_iter().collect::<BTreeSet<_>>();
    until("both are asked", || async { asked(&asker) == both }).await;
    let (net, to) = (asker.net.clone(), silent.id);
    let answer = tokio::spawn(async move { net.request(to, vec![1]).await });
    let (_, _, token) = silent.request().await;
    until("only the prompt one is", || async { asker.net.askable() == [prompt.id] }).await;
    silent.net.respond(token, vec![2]);
    assert_eq!(answer.await.unwrap().unwrap(), [2]);
    until("both are again", || async { asked(&asker) == both }).await;
    let other = start(NetConfig { role: Role::Lite, ..config(123, 1, &asker.net.listen_addrs()) }).await;
    other.until_connected(asker.id).await;
    assert!(other.net.askable().is_empty(), "a lite node is asked nothing");
}

pub(super) fn swarm_of<B: NetworkBehaviour>(n: u8, behaviour: impl FnOnce(PeerId) -> B) -> Swarm<B> {
    let mut secret = [n; 32];
    let key = identity::Keypair::ed25519_from_bytes(&mut secret).unwrap();
    let behaviour = behaviour(key.public().to_peer_id());
    libp2p::SwarmBuilder::with_existing_identity(key)
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|_| behaviour)
        .unwrap()
        .with_swarm_config(|c| c.with_idle_connection_timeout(WAIT))
        .build()
}

const TABLE: &str = "/oda/test/kad/1";

/// Listens on loopback; returns where.
pub(super) async fn listening<B: NetworkBehaviour>(swarm: &mut Swarm<B>) -> Multiaddr {
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
    loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            return address;
        }
    }
}

/// Someone who speaks the protocol of the table and keeps none of our limits.
fn hostile(n: u8) -> Swarm<kad::Behaviour<MemoryStore>> {
    swarm_of(n, |me| {
        let mut kad =
            kad::Behaviour::with_config(me, MemoryStore::new(me), kad::Config::new(StreamProtocol::new(TABLE)));
        kad.set_mode(Some(kad::Mode::Server));
        kad
    })
}

#[tokio::test(flavor = "multi_thread")] // N1, attack 17, K3
async fn a_walk_dials_nobody_stores_nothing_and_answers_no_flood() {
    // takes connections and never answers, lest the liar's own library find out and forget the names
    let trap = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nowhere: Multiaddr = format!("/ip4/127.0.0.1/tcp/{}", trap.local_addr().unwrap().port()).parse().unwrap();
    let mut victim = swarm_of(130, |me| Walk::new(me, TABLE.into(), true).unwrap());
    let mut liar = hostile(131);
    let here = listening(&mut liar).await;
    let at_victim = listening(&mut victim).await;
    for n in 0..200 {
        let made_up = peer_id(NodeKey::from_secret(&[n; 32]).id()).unwrap();
        liar.behaviour_mut().add_address(&made_up, nowhere.clone());
    }
    let (me, other) = (*victim.local_peer_id(), *liar.local_peer_id());
    victim.dial(here.clone()).unwrap();
    let (mut found, mut dials, mut sent, mut stored, mut flooders) = (0, 0, 0, false, BTreeSet::new());
    let story = async {
        loop {
            tokio::select! {
                event = victim.select_next_some() => match event {
                    SwarmEvent::ConnectionEstablished { peer_id, .. } if peer_id == other => {
                        victim.behaviour_mut().add(&other, here.clone());
                        victim.behaviour_mut().start();
                        let record = kad::Record::new(b"key".to_vec(), b"value".to_vec());
                        let kad = liar.behaviour_mut();
                        kad.add_address(&me, at_victim.clone());
                        kad.put_record_to(record, std::iter::once(me), kad::Quorum::One);
                    }
                    SwarmEvent::Behaviour(WalkEvent::Found(..)) => found += 1,
                    SwarmEvent::Dialing { .. } | SwarmEvent::OutgoingConnectionError { .. } => dials += 1,
                    _ => {}
                },
                event = liar.select_next_some() => if let SwarmEvent::Behaviour(kad::Event::OutboundQueryProgressed {
                    result: kad::QueryResult::PutRecord(result), ..
                }) = event {
                    stored |= result.is_ok(); // the victim says it took it
                },
            }
            if stored && found >= 10 && sent < 1_000 {
                let record = kad::Record::new(sent.to_string().into_bytes(), b"value".to_vec());
                liar.behaviour_mut().put_record_to(record, std::iter::once(me), kad::Quorum::One);
                sent += 1;
            }
            flooders.append(&mut victim.behaviour_mut().take_flooders());
            if stored && found >= 10 && flooders.contains(&other) {
                return;
            }
        }
    };
    timeout(WAIT, story).await.expect("in time");
    assert!(dials <= 1, "{dials} dials: one was ours");
    assert_eq!(victim.behaviour_mut().sizes(), (1, 0), "the table holds whom we reached, and no records");
}

#[test] // K3: the table is bounded whatever is put into it
fn the_table_does_not_grow_without_bound() {
    let mut walk = Walk::new(PeerId::random(), TABLE.into(), true).unwrap();
    for port in 1..20_000 {
        walk.add(&PeerId::random(), format!("/ip4/198.51.100.1/tcp/{port}").parse().unwrap());
    }
    let (peers, _) = walk.sizes();
    assert!(peers <= 20 * 20, "{peers} peers: 20 in each of some 15 buckets");
}

#[tokio::test(flavor = "multi_thread")] // attack 17: whoever floods the table of a node is sent away
async fn who_floods_the_table_is_sent_away() {
    let victim = peer(132, 1, &[]).await;
    let names = config(0, 1, &[]);
    let mut liar = swarm_of(133, |me| {
        let table = StreamProtocol::try_from_owned(behaviour::table_protocol(&names)).unwrap();
        Flooder {
            kad: kad::Behaviour::with_config(me, MemoryStore::new(me), kad::Config::new(table)),
            identify: libp2p::identify::Behaviour::new(libp2p::identify::Config::new(
                behaviour::protocol(&names),
                identity::Keypair::ed25519_from_bytes(&mut [133; 32]).unwrap().public(),
            )),
        }
    });
    let at = victim.net.listen_addrs().remove(0);
    liar.behaviour_mut().kad.add_address(&peer_id(victim.id).unwrap(), at.clone());
    liar.dial(at).unwrap();
    let flood = tokio::spawn(async move {
        loop {
            liar.behaviour_mut().kad.get_closest_peers(PeerId::random());
            let _ = timeout(Duration::from_millis(2), liar.select_next_some()).await;
        }
    });
    until("it is noticed", || async { victim.net.counters().flooders.load(Ordering::Relaxed) > 0 }).await;
    victim.until_gone(NodeKey::from_secret(&[133; 32]).id()).await;
    flood.abort();
}

#[derive(NetworkBehaviour)]
struct Flooder {
    kad: kad::Behaviour<MemoryStore>,
    identify: libp2p::identify::Behaviour,
}
