use super::*;
use futures::StreamExt as _;
use libp2p::gossipsub::{self, MessageAuthenticity};
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Swarm, identify, noise, tcp, yamux};
use oda_consensus::keys::NodeKey;
use std::future::Future;
use tokio::time::{sleep, timeout};

pub(super) const WAIT: Duration = Duration::from_secs(60);
pub(super) const QUIET: Duration = Duration::from_secs(2);

pub(super) struct Peer {
    pub(super) net: Net,
    pub(super) events: mpsc::Receiver<NetEvent>,
    pub(super) id: NodeId,
}

pub(super) fn config(n: u8, chain: u8, peers: &[Multiaddr]) -> NetConfig {
    let peers: Vec<String> = peers.iter().map(ToString::to_string).collect();
    NetConfig {
        key: NodeKey::from_secret(&[n; 32]).secret(),
        chain: ChainId([chain; 32]),
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
        peers: parse_peers(&peers).unwrap(),
        votes: true,
        ..NetConfig::default()
    }
}

pub(super) async fn start(config: NetConfig) -> Peer {
    let id = NodeKey::from_secret(&config.key).id();
    let (net, events) = Net::start(config).await.unwrap();
    Peer { net, events, id }
}

pub(super) async fn peer(n: u8, chain: u8, known: &[&Peer]) -> Peer {
    let known: Vec<Multiaddr> = known.iter().flat_map(|p| p.net.listen_addrs()).collect();
    start(config(n, chain, &known)).await
}

pub(super) async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let poll = async {
        while !holds().await {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(WAIT, poll).await.unwrap_or_else(|_| panic!("in time: {what}"));
}

impl Peer {
    pub(super) async fn gossip(&mut self) -> (Topic, Vec<u8>, MessageToken) {
        let next = async {
            loop {
                if let NetEvent::Gossip { topic, data, token, .. } = self.events.recv().await.unwrap() {
                    return (topic, data, token);
                }
            }
        };
        timeout(WAIT, next).await.expect("gossip in time")
    }

    pub(super) async fn request(&mut self) -> (NodeId, Vec<u8>, ResponseToken) {
        let next = async {
            loop {
                if let NetEvent::Request { from, data, token } = self.events.recv().await.unwrap() {
                    return (from, data, token);
                }
            }
        };
        timeout(WAIT, next).await.expect("a request in time")
    }

    pub(super) async fn until_connected(&self, to: NodeId) {
        until("connected", || async { self.net.connected().contains(&to) }).await;
    }

    pub(super) async fn until_gone(&self, from: NodeId) {
        until("gone", || async { !self.net.connected().contains(&from) }).await;
    }
}

/// Publishes anew until somebody hears it: gossip needs a moment to know its neighbours.
async fn heard(from: &Net, to: &mut Peer, text: &str) -> MessageToken {
    let (net, text) = (from.clone(), text.to_string());
    let publisher = tokio::spawn(async move {
        for i in 0u32.. {
            net.publish(Topic::Tx, format!("{text}{i}").into_bytes());
            sleep(Duration::from_millis(200)).await;
        }
    });
    let (_, _, token) = to.gossip().await;
    publisher.abort();
    token
}

#[test] // K1
fn one_key_names_node_and_peer() {
    let node = NodeKey::from_secret(&[9; 32]).id();
    assert_eq!(node_id(&peer_id(node).unwrap()), Some(node));
}

#[test]
fn addresses_are_explained() {
    let error = parse_peers(&["/ip4/127.0.0.1/tcp/1".into()]).unwrap_err().to_string();
    assert!(error.contains("/p2p/PEERID"), "{error}");
    assert!(parse_listen(&["nonsense".into()]).unwrap_err().to_string().contains("/ip4/HOST/tcp/PORT"));
}

#[tokio::test(flavor = "multi_thread")] // N1
async fn gossip_reaches_all_of_five_over_tcp_and_quic() {
    let a = peer(20, 1, &[]).await;
    let quic = NetConfig {
        listen: vec!["/ip4/127.0.0.1/udp/0/quic-v1".parse().unwrap()],
        ..config(21, 1, &a.net.listen_addrs())
    };
    let b = start(quic).await;
    let c = peer(22, 1, &[&b]).await;
    let d = peer(23, 1, &[&c]).await;
    let e = peer(24, 1, &[&d, &a]).await;
    let sender = a.net.clone();
    let publisher = tokio::spawn(async move {
        for i in 0u32.. {
            sender.publish(Topic::Blocks, i.to_le_bytes().to_vec());
            sleep(Duration::from_millis(100)).await;
        }
    });
    let wait = [b, c, d, e].map(|mut node| async move {
        // each passes on ten, so that the next in the row hears some
        for _ in 0..10 {
            let (topic, _, token) = node.gossip().await;
            assert_eq!(topic, Topic::Blocks);
            node.net.report(token, Verdict::Accept);
        }
        node // stays up for the others
    });
    futures::future::join_all(wait).await;
    publisher.abort();
}

#[tokio::test(flavor = "multi_thread")] // N1, attack 17
async fn what_is_not_accepted_is_not_passed_on_and_costs_score() {
    let a = peer(1, 1, &[]).await;
    let mut b = peer(2, 1, &[&a]).await;
    let mut c = peer(3, 1, &[&b]).await;
    b.until_connected(a.id).await;
    c.until_connected(b.id).await;
    let token = heard(&a.net, &mut b, "good").await;
    b.net.report(token, Verdict::Accept);
    assert!(c.gossip().await.1.starts_with(b"good"));
    assert!(b.net.score(a.id).await.unwrap() >= 0.0);

    while let Ok(event) = b.events.try_recv() {
        if let NetEvent::Gossip { token, .. } = event {
            b.net.report(token, Verdict::Ignore);
        }
    }
    for i in 0..3 {
        a.net.publish(Topic::Tx, format!("bad {i}").into_bytes());
        let token = loop {
            let (_, data, token) = b.gossip().await;
            if data.starts_with(b"bad") {
                break token;
            }
            b.net.report(token, Verdict::Ignore);
        };
        b.net.report(token, Verdict::Reject);
    }
    until("the sender pays", || async { b.net.score(a.id).await.unwrap() < -60.0 }).await;
    assert_eq!(b.net.counters().topic(Topic::Tx).rejected.load(Ordering::Relaxed), 3);
    assert!(timeout(QUIET, c.gossip()).await.is_err(), "a rejected message went on");
}

#[tokio::test(flavor = "multi_thread")] // K3: a message of the largest size passes whole
async fn the_largest_message_passes() {
    let a = peer(30, 1, &[]).await;
    let mut b = peer(31, 1, &[&a]).await;
    b.until_connected(a.id).await;
    heard(&a.net, &mut b, "up").await;
    a.net.publish(Topic::Bft, vec![7; Topic::Bft.max_bytes()]);
    a.net.publish(Topic::Bft, vec![8; Topic::Bft.max_bytes()]);
    for _ in 0..2 {
        let data = loop {
            let (topic, data, _) = b.gossip().await;
            if topic == Topic::Bft {
                break data;
            }
        };
        assert_eq!(data.len(), Topic::Bft.max_bytes());
    }
    a.net.publish(Topic::Bft, vec![9; Topic::Bft.max_bytes() + 1]);
    assert_eq!(a.net.counters().topic(Topic::Bft).dropped.load(Ordering::Relaxed), 1);
}

#[derive(NetworkBehaviour)]
struct Hostile {
    gossip: gossipsub::Behaviour,
    identify: identify::Behaviour,
}

/// A node that speaks our protocols but keeps none of the limits.
async fn hostile(n: u8, victim: &Peer, chain: u8) -> Swarm<Hostile> {
    let mut secret = [n; 32];
    let key = identity::Keypair::ed25519_from_bytes(&mut secret).unwrap();
    let names = config(n, chain, &[]);
    let limits = gossipsub::ConfigBuilder::default()
        .protocol_id_prefix(behaviour::gossip_protocol(&names))
        .max_transmit_size(64 << 20)
        .build()
        .unwrap();
    let gossip = gossipsub::Behaviour::new(MessageAuthenticity::Signed(key.clone()), limits).unwrap();
    let identify = identify::Behaviour::new(identify::Config::new(behaviour::protocol(&names), key.public()));
    let mut swarm = libp2p::SwarmBuilder::with_existing_identity(key)
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|_| Hostile { gossip, identify })
        .unwrap()
        .with_swarm_config(|c| c.with_idle_connection_timeout(WAIT))
        .build();
    swarm.dial(victim.net.listen_addrs()[0].clone()).unwrap();
    let subscribed = async {
        loop {
            if let SwarmEvent::Behaviour(HostileEvent::Gossip(gossipsub::Event::Subscribed { topic, .. })) =
                swarm.select_next_some().await
                && topic == behaviour::topic_of(&names, Topic::Peers).hash()
            {
                return;
            }
        }
    };
    timeout(WAIT, subscribed).await.expect("the victim subscribes");
    swarm
}

#[tokio::test(flavor = "multi_thread")] // K3, attack 17: the receiver enforces the size, whatever the sender thinks
async fn oversize_gossip_is_refused_by_the_receiver() {
    let mut a = peer(32, 1, &[]).await;
    let mut swarm = hostile(33, &a, 1).await;
    let topic = behaviour::topic_of(&config(0, 1, &[]), Topic::Peers);
    let gossip = &mut swarm.behaviour_mut().gossip;
    gossip.publish(topic.hash(), vec![1; Topic::Peers.max_bytes() + 2048]).unwrap();
    gossip.publish(topic.hash(), vec![2; Topic::Peers.max_bytes()]).unwrap();
    let driver = tokio::spawn(async move {
        loop {
            swarm.select_next_some().await;
        }
    });
    let (_, data, _) = a.gossip().await;
    assert_eq!(data.first(), Some(&2), "only the message within the limit arrives");
    driver.abort();
}

#[tokio::test(flavor = "multi_thread")] // attack 17
async fn a_flooding_neighbour_is_sent_away() {
    let a = peer(34, 1, &[]).await;
    let mut swarm = hostile(35, &a, 1).await;
    let topic = behaviour::topic_of(&config(0, 1, &[]), Topic::Peers);
    let driver = tokio::spawn(async move {
        for i in 0u64.. {
            let _ = swarm.behaviour_mut().gossip.publish(topic.hash(), i.to_le_bytes().to_vec());
            if i % 100 == 0 {
                let _ = timeout(Duration::from_millis(5), swarm.select_next_some()).await;
            }
        }
    });
    until("the flooder is sent away", || async { a.net.counters().flooders.load(Ordering::Relaxed) > 0 }).await;
    a.until_gone(NodeKey::from_secret(&[35; 32]).id()).await;
    driver.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_answered_or_fail_clearly() {
    let a = peer(4, 1, &[]).await;
    let mut b = peer(5, 1, &[&a]).await;
    b.until_connected(a.id).await;
    a.until_connected(b.id).await;
    let (asker, to) = (a.net.clone(), b.id);
    let answer = tokio::spawn(async move { asker.request(to, b"2+2".to_vec()).await });
    let (from, data, token) = b.request().await;
    assert_eq!((from, data), (a.id, b"2+2".to_vec()), "the connection proves who asks");
    b.net.respond(token, b"4".to_vec());
    assert_eq!(answer.await.unwrap().unwrap(), b"4");

    let (asker, to) = (a.net.clone(), b.id);
    let answer = tokio::spawn(async move { asker.request(to, vec![1]).await });
    let (_, _, token) = b.request().await;
    drop(token);
    assert!(
        matches!(answer.await.unwrap(), Err(RequestError::Failed(_))),
        "a dropped request is an error, not silence"
    );

    let nobody = NodeKey::from_secret(&[77; 32]).id();
    assert!(matches!(a.net.request(nobody, vec![]).await, Err(RequestError::Unreachable(n)) if n == nobody));
    a.net.add_address(nobody, "/ip4/127.0.0.1/tcp/1".parse().unwrap());
    assert!(matches!(a.net.request(nobody, vec![]).await, Err(RequestError::Unreachable(_))), "offline");
    let too_large = vec![0; codec::MAX_REQUEST as usize + 1];
    assert!(matches!(a.net.request(b.id, too_large).await, Err(RequestError::TooLarge { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_dials_a_known_address() {
    let mut a = peer(40, 1, &[]).await;
    let b = peer(41, 1, &[]).await;
    b.net.add_address(a.id, a.net.listen_addrs()[0].clone());
    let (asker, to) = (b.net.clone(), a.id);
    let answer = tokio::spawn(async move { asker.request(to, vec![]).await });
    let (_, _, token) = a.request().await;
    a.net.respond(token, vec![5]);
    assert_eq!(answer.await.unwrap().unwrap(), [5]);
}

#[tokio::test(flavor = "multi_thread")] // K3, attack 17: unanswered requests of one peer leave room for gossip and others
async fn a_flood_of_requests_is_bounded() {
    let mut victim = peer(42, 1, &[]).await;
    let loud = peer(43, 1, &[&victim]).await;
    let quiet = peer(44, 1, &[&victim]).await;
    loud.until_connected(victim.id).await;
    quiet.until_connected(victim.id).await;
    let flood: Vec<_> = (0..400)
        .map(|_| {
            let (net, to) = (loud.net.clone(), victim.id);
            tokio::spawn(async move { net.request(to, vec![0; 1000]).await })
        })
        .collect();
    until("refusals", || async { victim.net.counters().refused.load(Ordering::Relaxed) > 0 }).await;
    let (net, to) = (quiet.net.clone(), victim.id);
    let answer = tokio::spawn(async move { net.request(to, b"quiet".to_vec()).await });
    let mut held = Vec::new();
    loop {
        let (from, _, token) = victim.request().await;
        if from == quiet.id {
            victim.net.respond(token, b"heard".to_vec());
            break;
        }
        held.push(token); // never answered
    }
    assert_eq!(answer.await.unwrap().unwrap(), b"heard");
    assert!(held.len() <= guard::SLOTS_PER_PEER, "{} requests of one peer were let in", held.len());
    flood.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread")] // N1
async fn another_network_does_not_understand_us() {
    let mut a = peer(6, 1, &[]).await;
    let mut b = peer(7, 2, &[]).await;
    b.net.add_address(a.id, a.net.listen_addrs()[0].clone());
    let error = b.net.request(a.id, b"hello".to_vec()).await.unwrap_err();
    let cut_off = matches!(&error, RequestError::Failed(e) if e.contains("closed"));
    assert!(cut_off || matches!(error, RequestError::OtherNetwork(_)), "{error}");
    b.net.publish(Topic::Tx, vec![1]);
    assert!(timeout(QUIET, a.events.recv()).await.is_err(), "nothing of it reaches the node");
    assert!(b.events.try_recv().is_err());
    assert!(a.net.connected().is_empty() && b.net.connected().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_named_even_if_another_node_has_it() {
    let plain = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let node = peer(50, 1, &[]).await; // listens with SO_REUSEPORT, as libp2p does
    let mut address = node.net.listen_addrs()[0].clone();
    address.pop();
    let plain = format!("/ip4/127.0.0.1/tcp/{}", plain.local_addr().unwrap().port());
    for address in [plain, address.to_string()] {
        let second = NetConfig { listen: vec![address.parse().unwrap()], ..config(51, 1, &[]) };
        let error = Net::start(second).await.err().expect("refused").to_string();
        assert_eq!(error, format!("address {address} is in use: stop the other process or change [p2p] listen"));
    }
}

#[tokio::test(flavor = "multi_thread")] // a peer that comes back is found again; noise on the port harms nobody
async fn peers_come_back_and_garbage_is_survived() {
    let a = peer(10, 1, &[]).await;
    let address = a.net.listen_addrs()[0].clone();
    let mut b = peer(11, 1, &[&a]).await;
    b.until_connected(a.id).await;
    a.until_connected(b.id).await;
    let port = address.to_string().split('/').nth(4).unwrap().parse::<u16>().unwrap();
    for _ in 0..20 {
        use std::io::Write as _;
        let mut socket = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let _ = socket.write_all(&[0xff; 4096]);
    }
    let (net, to) = (a.net.clone(), b.id);
    let answer = tokio::spawn(async move { net.request(to, vec![1]).await });
    let (_, _, token) = b.request().await;
    b.net.respond(token, vec![2]);
    assert_eq!(answer.await.unwrap().unwrap(), [2]);

    a.net.shutdown().await;
    b.until_gone(a.id).await;
    let mut listen = address;
    listen.pop();
    let again = start(NetConfig { listen: vec![listen], ..config(10, 1, &[]) }).await;
    b.until_connected(again.id).await;
    let mut told = Vec::new();
    while let Ok(event) = b.events.try_recv() {
        told.push(event);
    }
    let last_two = told.get(told.len().saturating_sub(2)..).unwrap_or_default();
    assert!(matches!(last_two, [NetEvent::PeerDisconnected(_), NetEvent::PeerConnected(_)]), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")] // attack 17
async fn a_banned_peer_comes_back_only_when_its_time_is_over() {
    let a = peer(60, 1, &[]).await;
    let b = peer(61, 1, &[&a]).await;
    a.until_connected(b.id).await;
    a.net.ban(b.id, QUIET * 2);
    a.until_gone(b.id).await;
    sleep(QUIET).await;
    assert!(a.net.connected().is_empty(), "redialled all the while, and refused");
    a.until_connected(b.id).await;
}

#[tokio::test(flavor = "multi_thread")] // N1, attack 17: strangers cannot take a configured peer's connection
async fn strangers_cannot_crowd_out_configured_peers() {
    let friend = NodeKey::from_secret(&[70; 32]).id();
    let elsewhere = format!("/ip4/127.0.0.1/tcp/1/p2p/{}", peer_id(friend).unwrap()); // only the friend can dial us
    let victim = start(NetConfig { max_connections: 4, ..config(71, 1, &[elsewhere.parse().unwrap()]) }).await;
    let mut strangers = Vec::new();
    for n in 72..80 {
        strangers.push(peer(n, 1, &[&victim]).await);
    }
    until("full", || async { victim.net.connected().len() == 3 }).await;
    sleep(QUIET).await;
    assert_eq!(victim.net.connected().len(), 3, "the fourth place is for those we dial");
    let friend = peer(70, 1, &[&victim]).await;
    victim.until_connected(friend.id).await;
}

#[tokio::test] // N1: a bootstrap peer may move; its name is the owner's word, so it is looked up
async fn a_configured_peer_is_found_by_its_name() {
    let known = start(config(1, 1, &[])).await;
    let by_name = |a: &Multiaddr| a.to_string().replace("/ip4/127.0.0.1/", "/dns4/localhost/").parse().unwrap();
    let names: Vec<Multiaddr> = known.net.listen_addrs().iter().map(by_name).collect();
    let asker = start(config(2, 1, &names)).await;
    asker.until_connected(known.id).await;
    assert!(names.iter().all(|name| name.to_string().starts_with("/dns4/localhost/tcp/")));
}
