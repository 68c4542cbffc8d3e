use super::address::{Scope, Scopes, circuit, is_circuit, plain};
use super::behaviour::relay_limits;
use super::discovery_tests::{listening, record_of, swarm_of};
use super::fence::Fence;
use super::tests::*;
use super::*;
use futures::StreamExt as _;
use libp2p::core::{Endpoint, transport::PortUse};
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, SwarmEvent, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm, dummy,
};
use libp2p::{Swarm, identify, identity, noise, relay as circuits, tcp, yamux};
use oda_consensus::keys::NodeKey;
use oda_consensus::wire;
use std::collections::VecDeque;
use std::task::{Context, Poll};
use tokio::time::{sleep, timeout};

async fn relay(n: u8) -> Peer {
    start(NetConfig { relay: true, ..config(n, 1, &[]) }).await
}

/// One that takes for granted what two servers would have told it, and listens nowhere.
async fn private(n: u8, relays: &[&Peer]) -> Peer {
    let known: Vec<Multiaddr> = relays.iter().flat_map(|p| p.net.listen_addrs()).collect();
    let node = start(NetConfig { listen: vec![], asks: Asks::IsPrivate, ..config(n, 1, &known) }).await;
    until("it has a relay", || async { node.net.reachability() == (Reachability::Private, relays.len().min(2)) }).await;
    node
}

async fn asks(from: &Peer, to: &mut Peer) -> Result<Vec<u8>, RequestError> {
    let (net, id) = (from.net.clone(), to.id);
    let answer = tokio::spawn(async move { timeout(WAIT, net.request(id, vec![1])).await.unwrap() });
    let served = async {
        let (_, _, token) = to.request().await;
        to.net.respond(token, vec![2]);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        answer = answer => answer.unwrap(),
        () = served => unreachable!(),
    }
}

#[tokio::test(flavor = "multi_thread")] // N1
async fn a_node_that_listens_nowhere_is_asked_through_a_relay() {
    let relay = relay(140).await;
    let mut hidden = private(141, &[&relay]).await;
    let at = hidden.net.announced();
    assert_eq!(at.len(), 1);
    assert!(is_circuit(&at[0]) && plain(&at[0]).is_none(), "{at:?}");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(crate::known::FILE);
    let caller = start(NetConfig { remember: Some(file.clone()), ..config(142, 1, &[]) }).await;
    assert!(matches!(asks(&caller, &mut hidden).await, Err(RequestError::Unreachable(_))), "nobody knows where");
    caller.net.add_address(hidden.id, at[0].clone());
    assert_eq!(asks(&caller, &mut hidden).await.unwrap(), [2]);
    until("both know it", || async {
        caller.net.connected().contains(&hidden.id) && hidden.net.connected().contains(&caller.id)
    })
    .await;
    caller.net.shutdown().await;
    // whatever became of the circuit, it was not reached where its relay is
    let saved: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let peers = saved["peers"].as_array().unwrap();
    let of_hidden = peers.iter().find(|p| p["node"] == serde_json::to_value(hidden.id).unwrap()).unwrap();
    assert_eq!(of_hidden["addresses"], serde_json::json!([at[0].to_string()]));
}

#[tokio::test(flavor = "multi_thread")] // N1
async fn a_relay_that_goes_is_replaced() {
    let (one, two, three) = (relay(143).await, relay(144).await, relay(145).await);
    let hidden = private(146, &[&one, &two, &three]).await;
    let held = |hidden: &Peer, relay: &Peer| {
        let name = peer_id(relay.id).unwrap().to_string();
        hidden.net.announced().iter().any(|a| a.to_string().contains(&name))
    };
    let gone = if held(&hidden, &one) { &one } else { &two };
    gone.net.shutdown().await;
    until("another takes its place", || async {
        !held(&hidden, gone) && hidden.net.reachability() == (Reachability::Private, 2)
    })
    .await;
}

/// What a node says it speaks.
async fn protocols(of: &Peer) -> Vec<String> {
    let key = |n| identity::Keypair::ed25519_from_bytes(&mut [n; 32]).unwrap().public();
    let name = behaviour::protocol(&config(0, 1, &[]));
    let mut asker = swarm_of(147, |_| identify::Behaviour::new(identify::Config::new(name, key(147))));
    asker.dial(of.net.listen_addrs().remove(0)).unwrap();
    let told = async {
        loop {
            if let SwarmEvent::Behaviour(identify::Event::Received { info, .. }) = asker.select_next_some().await {
                return info.protocols.iter().map(ToString::to_string).collect();
            }
        }
    };
    timeout(WAIT, told).await.expect("in time")
}

const OF_RELAYS: [&str; 2] = ["/libp2p/circuit/relay/0.2.0/hop", "/libp2p/autonat/2/dial-request"];

#[tokio::test(flavor = "multi_thread")] // N1
async fn whoever_is_no_relay_offers_neither_protocol() {
    let offers = |all: &[String]| OF_RELAYS.map(|name| all.iter().any(|p| p == name));
    assert_eq!(offers(&protocols(&relay(148).await).await), [true, true]);
    assert_eq!(offers(&protocols(&peer(149, 1, &[]).await).await), [false, false]);
    let lite = NetConfig { relay: true, role: Role::Lite, ..config(150, 1, &[]) };
    assert_eq!(offers(&protocols(&start(lite).await).await), [false, false]);
    // nobody vouches for an address of one that listens everywhere: it dials back, but is no relay yet
    let everywhere = vec!["/ip4/0.0.0.0/tcp/0".parse().unwrap()];
    let open = start(NetConfig { relay: true, listen: everywhere, ..config(151, 1, &[]) }).await;
    assert_eq!(offers(&protocols(&open).await), [false, true]);
}

#[tokio::test(flavor = "multi_thread")] // K3, attack 17
async fn one_peer_gets_two_circuits_of_a_relay() {
    let relay = relay(152).await;
    let caller = start(config(153, 1, &[])).await;
    let mut stay = Vec::new(); // or its circuit is over
    for n in 0..3 {
        let mut hidden = private(154 + n, &[&relay]).await;
        caller.net.add_address(hidden.id, hidden.net.announced().remove(0));
        assert_eq!(asks(&caller, &mut hidden).await.is_ok(), n < 2, "circuit {n}");
        stay.push(hidden);
    }
}

#[derive(NetworkBehaviour)]
struct Client {
    circuits: circuits::client::Behaviour,
}

/// Asks for a reservation; whether it was given.
async fn reserves(n: u8, at: &Multiaddr) -> bool {
    let mut client =
        libp2p::SwarmBuilder::with_existing_identity(identity::Keypair::ed25519_from_bytes(&mut [n; 32]).unwrap())
            .with_tokio()
            .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
            .unwrap()
            .with_relay_client(noise::Config::new, yamux::Config::default)
            .unwrap()
            .with_behaviour(|_, circuits| Client { circuits })
            .unwrap()
            .with_swarm_config(|c| c.with_idle_connection_timeout(WAIT))
            .build();
    client.listen_on(at.clone()).unwrap();
    let answer = async {
        loop {
            match client.select_next_some().await {
                SwarmEvent::Behaviour(ClientEvent::Circuits(circuits::client::Event::ReservationReqAccepted {
                    ..
                })) => return true,
                SwarmEvent::ListenerClosed { .. } => return false,
                _ => {}
            }
        }
    };
    timeout(WAIT, answer).await.expect("in time")
}

#[tokio::test(flavor = "multi_thread")] // K3, attack 17: names cost nothing, addresses do
async fn one_address_gets_few_reservations() {
    let mut relay = swarm_of(160, |me| {
        let mut hop = circuits::Behaviour::new(me, relay_limits());
        hop.set_status(Some(circuits::Status::Enable));
        hop
    });
    let here = listening(&mut relay).await;
    relay.add_external_address(here.clone());
    let at = circuit(here, *relay.local_peer_id());
    let serving = tokio::spawn(async move {
        loop {
            relay.select_next_some().await;
        }
    });
    let mut given = 0;
    while given < 60 && reserves(170 + given, &at).await {
        given += 1;
    }
    assert!((32..=40).contains(&given), "{given} reservations: 32, and one more each 30 s");
    serving.abort();
}

#[test] // K3: what operating.md says a relay costs
fn a_relay_costs_little() {
    let limits = relay_limits();
    assert_eq!((limits.max_reservations, limits.max_circuits), (64, 16));
    // the library compares with `>`: it grants one more to a peer than it is told
    assert_eq!((limits.max_reservations_per_peer + 1, limits.max_circuits_per_peer + 1), (1, 2));
    assert_eq!((limits.max_circuit_bytes, limits.max_circuit_duration), (1 << 20, Duration::from_secs(120)));
    assert_eq!((limits.reservation_rate_limiters.len(), limits.circuit_src_rate_limiters.len()), (2, 2));
    // it would panic on a reservation that runs out while it is renewed
    assert!(limits.reservation_duration > Duration::from_secs(300 * 24 * 3600));
}

#[tokio::test(flavor = "multi_thread")] // N1, attack 17
async fn two_servers_confirm_an_address_and_go_on_choosing_their_peers() {
    let (second, third) = (relay(211).await, relay(214).await);
    let first = start(NetConfig { relay: true, outbound: 2, ..config(210, 1, &[]) }).await;
    let learn = |n: u8, of: &Peer| {
        let here = of.net.listen_addrs().iter().map(ToString::to_string).collect();
        let key = NodeKey::from_secret(&[n; 32]);
        first.net.learn(&record_of(&key, ChainId([1; 32]), wire::Role::Full, here).record);
    };
    learn(211, &second);
    first.until_connected(second.id).await;
    let known = [first.net.listen_addrs(), second.net.listen_addrs()].concat();
    let node = start(NetConfig { asks: Asks::Servers(Scope::Loopback), ..config(212, 1, &known) }).await;
    let listens = plain(&node.net.listen_addrs()[0]).unwrap().0;
    until("two reached it", || async { node.net.reachability().0 == Reachability::Public }).await;
    assert_eq!(node.net.announced(), [listens], "once, and nothing else");
    learn(214, &third);
    // else whoever asks for dial-backs takes the places of peers the server would choose
    first.until_connected(third.id).await;
}

/// Dials what it was told to, as the libraries do for strangers.
struct Obeys(VecDeque<(PeerId, Multiaddr)>);

impl NetworkBehaviour for Obeys {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = std::convert::Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        let Some((peer, at)) = self.0.pop_front() else { return Poll::Pending };
        let opts = DialOpts::peer_id(peer).addresses(vec![at]).condition(PeerCondition::Always).build();
        Poll::Ready(ToSwarm::Dial { opts })
    }
}

/// How many of those dials knocked at the trap, and how many were refused.
async fn knocks(scopes: Scopes, dials: Vec<(PeerId, Multiaddr)>) -> (usize, u64) {
    let trap = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = trap.local_addr().unwrap().port();
    let here: Multiaddr = format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap();
    let dials: VecDeque<_> =
        dials.into_iter().map(|(p, at)| (p, if at.is_empty() { here.clone() } else { at })).collect();
    let most = dials.len();
    let mut swarm: Swarm<Fence<Obeys>> = swarm_of(213, |_| Fence::new(Obeys(dials), scopes));
    let (mut held, mut done) = (Vec::new(), 0);
    let story = async {
        while done < most {
            tokio::select! {
                _ = swarm.select_next_some() => {}
                socket = trap.accept() => held.push(socket.unwrap()),
                () = sleep(Duration::from_millis(20)) => {}
            }
            done = usize::try_from(swarm.behaviour().refused()).unwrap() + held.len();
        }
    };
    timeout(WAIT, story).await.expect("each is dialled or refused");
    (held.len(), swarm.behaviour().refused())
}

#[tokio::test(flavor = "multi_thread")] // attack 17: nobody has this node knock at its own machine
async fn dials_for_others_go_where_any_other_may() {
    let nowhere = Scopes::of([].iter());
    let home = ["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    let trap = || (PeerId::random(), Multiaddr::empty());
    assert_eq!(knocks(nowhere.clone(), vec![trap()]).await, (0, 1));
    assert_eq!(knocks(Scopes::of(home.iter()), vec![trap()]).await, (1, 0));
    for bad in
        ["/ip4/10.0.0.1/tcp/22", "/ip4/198.51.100.1/tcp/0", "/dns4/example.org/tcp/22", "/ip4/198.51.100.1/udp/53"]
    {
        let dial = (PeerId::random(), bad.parse().unwrap());
        assert_eq!(knocks(Scopes::of(home.iter()), vec![dial]).await, (0, 1), "{bad}");
    }
    let through = circuit("/ip4/127.0.0.1/tcp/9".parse().unwrap(), PeerId::random());
    assert_eq!(knocks(Scopes::of(home.iter()), vec![(PeerId::random(), through)]).await, (0, 1));
}

#[tokio::test(flavor = "multi_thread")] // K3, attack 17
async fn dials_for_others_are_rationed() {
    let home = ["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    let one = peer_id(NodeKey::from_secret(&[1; 32]).id()).unwrap();
    let all_of_one = vec![(one, Multiaddr::empty()); 20];
    assert_eq!(knocks(Scopes::of(home.iter()), all_of_one).await, (8, 12));
    let of_many: Vec<_> = (0..100).map(|_| (PeerId::random(), Multiaddr::empty())).collect();
    let (dialled, _) = knocks(Scopes::of(home.iter()), of_many).await;
    assert!((32..=60).contains(&dialled), "{dialled} dials for a hundred names");
}
