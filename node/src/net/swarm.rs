//! The task that owns the swarm.

use super::address::{dialable, is_circuit};
use super::asking::Pending;
use super::behaviour::{Behaviour, BehaviourEvent, protocol, scopes, start_error, table_protocol, topic_of};
use super::discovery::Discovery;
use super::guard::{Neighbour, SLOTS};
use super::listen::{listen, named};
use super::names;
use super::reach::Reach;
use super::relays::{Found, Relays};
use super::standing::Standing;
use super::walk::WalkEvent;
use super::{
    Command, Counters, MessageToken, Net, NetConfig, NetError, NetEvent, Topic, Verdict, count, node_id, peer_id,
};
use futures::StreamExt as _;
use libp2p::gossipsub::{self, MessageAcceptance, PublishError, TopicHash};
use libp2p::multiaddr::Protocol;
use libp2p::request_response::OutboundRequestId;
use libp2p::swarm::{SwarmEvent, dial_opts::DialOpts};
use libp2p::{Multiaddr, PeerId, Swarm, identify, identity, noise, ping, relay, tcp, yamux};
use oda_consensus::ids::NodeId;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant};

/// Events waiting for the node.
pub(super) const EVENTS: usize = 2048;
/// Commands waiting for the swarm.
const COMMANDS: usize = 4096;
/// Memory of gossip the node has not reported on, KiB.
const GOSSIP_KIB: usize = 128 << 10;
/// Banned peers remembered.
const MAX_BANS: usize = 4096;
/// Peers whose addresses are remembered, and addresses of each.
const MAX_ADDRESSES: (usize, usize) = (4096, 8);
/// A neighbour that has not named its chain by then is sent away.
const NAME_WAIT: Duration = Duration::from_secs(15);
/// How long flooders and nodes of other chains are refused.
const BAN: Duration = Duration::from_secs(60);
/// Pause before a configured peer is dialled again: first, most.
const REDIAL: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

pub(super) struct Task {
    pub(super) swarm: Swarm<Behaviour>,
    pub(super) me: PeerId,
    protocol: String,
    table_protocol: String,
    topics: BTreeMap<TopicHash, Topic>,
    pub(super) events: mpsc::Sender<NetEvent>,
    /// Whether a peer came or went, for peers of which the node could not be told yet: its queue was full.
    untold: BTreeMap<NodeId, bool>,
    pub(super) pending: BTreeMap<OutboundRequestId, Pending>,
    pub(super) neighbours: HashMap<PeerId, Neighbour>,
    pub(super) slots: Arc<Semaphore>,
    gossip_memory: Arc<Semaphore>,
    pub(super) addresses: BTreeMap<NodeId, Vec<Multiaddr>>,
    /// Peers to stay connected to: address, when to dial next, pause after that.
    keep: Vec<(PeerId, Multiaddr, Instant, Duration)>,
    /// Names among them that are being looked up; a dial each, and a pause between two of one peer.
    lookups: JoinSet<(PeerId, io::Result<Vec<Multiaddr>>)>,
    pub(super) banned: BTreeMap<PeerId, Instant>,
    pub(super) discovery: Discovery,
    connected: Arc<Mutex<Vec<NodeId>>>,
    pub(super) standing: Arc<Mutex<Vec<Standing>>>,
    pub(super) listening: Arc<Mutex<Vec<Multiaddr>>>,
    /// IP addresses the owner wrote out, and so vouches for.
    named: Vec<IpAddr>,
    pub(super) reach: Reach,
    pub(super) relays: Relays,
    pub(super) found: Arc<Mutex<Found>>,
    pub(super) counters: Arc<Counters>,
}

pub(super) async fn start(config: NetConfig) -> Result<(Net, mpsc::Receiver<NetEvent>), NetError> {
    let mut secret = *config.key;
    let key = identity::Keypair::ed25519_from_bytes(&mut secret).map_err(start_error)?;
    let me = key.public().to_peer_id();
    let mut swarm = libp2p::SwarmBuilder::with_existing_identity(key)
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, yamux::Config::default)
        .map_err(start_error)?
        .with_quic()
        .with_relay_client(noise::Config::new, yamux::Config::default)
        .map_err(start_error)?
        .with_behaviour(|key, circuits| Behaviour::new(&config, key, circuits).map_err(Box::from))
        .map_err(start_error)?
        .with_swarm_config(|c| c.with_idle_connection_timeout(Duration::from_secs(3600)))
        .build();
    let early = listen(&mut swarm, &config.listen).await?;

    let (commands, queue) = mpsc::channel(COMMANDS);
    let (events, receiver) = mpsc::channel(EVENTS);
    let listening = swarm.listeners().filter_map(|a| a.clone().with_p2p(me).ok()).collect();
    let net = Net {
        commands,
        connected: Arc::default(),
        standing: Arc::default(),
        listening: Arc::new(Mutex::new(listening)),
        external: config.external.clone(),
        found: Arc::default(),
        counters: Arc::default(),
    };
    let now = Instant::now();
    let mut task = Task {
        swarm,
        me,
        protocol: protocol(&config),
        table_protocol: table_protocol(&config),
        topics: Topic::ALL.into_iter().map(|t| (topic_of(&config, t).hash(), t)).collect(),
        events,
        untold: BTreeMap::new(),
        pending: BTreeMap::new(),
        neighbours: HashMap::new(),
        slots: Arc::new(Semaphore::new(SLOTS)),
        gossip_memory: Arc::new(Semaphore::new(GOSSIP_KIB)),
        addresses: BTreeMap::new(),
        keep: config.peers.iter().filter(|(p, _)| *p != me).map(|(p, a)| (*p, a.clone(), now, REDIAL.0)).collect(),
        lookups: JoinSet::new(),
        banned: BTreeMap::new(),
        discovery: Discovery::open(&config, me)?,
        connected: net.connected.clone(),
        standing: net.standing.clone(),
        listening: net.listening.clone(),
        named: named(config.listen.iter().chain(&config.external)),
        reach: Reach::new(me, config.asks, scopes(&config)),
        relays: Relays::new(now),
        found: net.found.clone(),
        counters: net.counters.clone(),
    };
    let hashes: BTreeMap<Topic, TopicHash> = task.topics.iter().map(|(h, t)| (*t, h.clone())).collect();
    let vouched: Vec<Multiaddr> = config.external.into_iter().chain(net.listen_addrs()).collect();
    vouched.into_iter().for_each(|address| task.vouch_if_named(address));
    tokio::spawn(task.run(early, queue, hashes));
    Ok((net, receiver))
}

impl Task {
    async fn run(
        mut self,
        early: Vec<SwarmEvent<BehaviourEvent>>,
        mut commands: mpsc::Receiver<Command>,
        hashes: BTreeMap<Topic, TopicHash>,
    ) {
        let mut tick = tokio::time::interval(Duration::from_millis(250));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for event in early {
            self.on_event(event);
        }
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    None => {
                        self.discovery.close().await;
                        return;
                    }
                    Some(Command::Shutdown(done)) => {
                        self.discovery.close().await;
                        drop(self);
                        let _ = done.send(());
                        return;
                    }
                    Some(command) => self.on_command(command, &hashes),
                },
                event = self.swarm.select_next_some() => self.on_event(event),
                Some(Ok((peer, found))) = self.lookups.join_next() => self.on_looked_up(peer, found),
                _ = tick.tick() => self.on_tick(),
            }
            self.tell();
        }
    }

    /// Tells the node who came and went, as far as its queue allows.
    fn tell(&mut self) {
        while let Some((node, came)) = self.untold.pop_first() {
            let event = if came { NetEvent::PeerConnected(node) } else { NetEvent::PeerDisconnected(node) };
            if let Err(mpsc::error::TrySendError::Full(_)) = self.events.try_send(event) {
                self.untold.insert(node, came);
                return;
            }
        }
    }

    fn on_tick(&mut self) {
        let now = Instant::now();
        let over: Vec<PeerId> = self.banned.iter().filter(|(_, until)| **until <= now).map(|(p, _)| *p).collect();
        for peer in over {
            self.banned.remove(&peer);
            self.swarm.behaviour_mut().bans.unblock_peer(peer);
        }
        let silent = |n: &Neighbour| !n.of_our_chain && now.saturating_duration_since(n.since) > NAME_WAIT;
        let silent: Vec<PeerId> = self.neighbours.iter().filter(|(_, n)| silent(n)).map(|(p, _)| *p).collect();
        for peer in silent {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        for (peer, address, next, pause) in &mut self.keep {
            if *next > now || self.swarm.is_connected(peer) || self.banned.contains_key(peer) {
                continue;
            }
            let (peer, address) = (*peer, address.clone());
            self.lookups.spawn(async move { (peer, names::look_up(&address).await) });
            *next = now + *pause;
            *pause = (*pause * 2).min(REDIAL.1);
        }
        for peer in self.swarm.behaviour_mut().walk.take_flooders() {
            if !self.banned.contains_key(&peer) {
                count(&self.counters.flooders);
                self.ban(peer, BAN);
            }
        }
        self.discover(now);
        self.look_reachable(now);
        self.refresh_standing(now);
    }

    /// Where a configured peer is: dials it there.
    fn on_looked_up(&mut self, peer: PeerId, found: io::Result<Vec<Multiaddr>>) {
        match found {
            Ok(addresses) if !self.swarm.is_connected(&peer) && !self.banned.contains_key(&peer) => {
                let _ = self.swarm.dial(DialOpts::peer_id(peer).addresses(addresses).build());
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%peer, %error, "the name of a configured peer is not known: see [p2p] peers"),
        }
    }

    fn ban(&mut self, peer: PeerId, time: Duration) {
        let now = Instant::now();
        let until = now.checked_add(time).unwrap_or(now + BAN);
        if self.banned.len() >= MAX_BANS && !self.banned.contains_key(&peer) {
            let first = self.banned.iter().min_by_key(|(_, until)| **until).map(|(p, _)| *p);
            if let Some(first) = first {
                self.banned.remove(&first);
                self.swarm.behaviour_mut().bans.unblock_peer(first);
            }
        }
        self.banned.insert(peer, until);
        self.swarm.behaviour_mut().bans.block_peer(peer); // also closes its connections
    }

    fn on_command(&mut self, command: Command, hashes: &BTreeMap<Topic, TopicHash>) {
        let behaviour = self.swarm.behaviour_mut();
        match command {
            Command::Publish(topic, data) => {
                let Some(hash) = hashes.get(&topic) else { return };
                let (counts, bytes) = (self.counters.topic(topic), data.len() as u64);
                match behaviour.gossip.publish(hash.clone(), data) {
                    Ok(_) => {
                        count(&counts.sent);
                        counts.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
                    }
                    Err(PublishError::Duplicate | PublishError::NoPeersSubscribedToTopic) => {}
                    Err(error) => {
                        count(&counts.dropped);
                        tracing::debug!(topic = topic.name(), %error, "not published");
                    }
                }
            }
            Command::Report(token, verdict) => {
                let acceptance = match verdict {
                    Verdict::Accept => MessageAcceptance::Accept,
                    Verdict::Ignore => MessageAcceptance::Ignore,
                    Verdict::Reject => {
                        count(&self.counters.topic(token.topic).rejected);
                        MessageAcceptance::Reject
                    }
                };
                behaviour.gossip.report_message_validation_result(&token.id, &token.source, acceptance);
            }
            Command::Request(node, data, reply) => self.ask(node, data, reply),
            Command::Respond(token, data) => {
                if behaviour.requests.send_response(token.channel, data).is_ok() {
                    count(&self.counters.answered);
                }
            }
            Command::Ban(node, time) => {
                if let Some(peer) = peer_id(node) {
                    self.ban(peer, time);
                }
            }
            Command::AddAddress(node, mut address) => {
                if let Some(Protocol::P2p(_)) = address.iter().last() {
                    address.pop();
                }
                if self.addresses.len() >= MAX_ADDRESSES.0 && !self.addresses.contains_key(&node) {
                    self.addresses.pop_first();
                }
                let known = self.addresses.entry(node).or_default();
                if !known.contains(&address) {
                    known.insert(0, address); // the newest first
                    known.truncate(MAX_ADDRESSES.1);
                }
            }
            Command::Learn(node, addresses) => self.discovery.heard(node, &addresses, true),
            Command::Score(node, reply) => {
                let _ = reply.send(peer_id(node).and_then(|p| behaviour.gossip.peer_score(&p)));
            }
            Command::Shutdown(_) => {}
        }
    }

    fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Gossip(gossipsub::Event::Message {
                propagation_source,
                message_id,
                message,
            })) => {
                self.on_gossip(propagation_source, message_id, message);
            }
            SwarmEvent::Behaviour(BehaviourEvent::Requests(event)) => self.on_request_event(event),
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. })) => {
                let is_full = info.protocols.iter().any(|p| p.as_ref() == self.table_protocol);
                self.on_named(peer_id, &info.protocol_version, is_full);
                self.on_offered(peer_id, &info);
            }
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Pushed { peer_id, info, .. })) => {
                self.on_offered(peer_id, &info);
            }
            SwarmEvent::Behaviour(BehaviourEvent::Probe(event)) => self.on_probed(&event),
            SwarmEvent::Behaviour(BehaviourEvent::Circuits(relay::client::Event::ReservationReqAccepted {
                relay_peer_id,
                ..
            })) => self.on_granted(relay_peer_id),
            SwarmEvent::ListenerClosed { listener_id, .. } => self.on_listener_closed(listener_id),
            SwarmEvent::Behaviour(BehaviourEvent::Walk(WalkEvent::Found(peer, addresses))) => {
                if let Some(node) = node_id(&peer) {
                    self.discovery.heard(node, &addresses, false);
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Ping(ping::Event { connection, result: Err(error), .. }))
                if !matches!(error, ping::Failure::Unsupported) =>
            {
                // a peer that vanished without a word would otherwise stay "connected" and never be redialled
                self.swarm.close_connection(connection);
            }
            SwarmEvent::OutgoingConnectionError { peer_id: Some(peer), error, .. } => self.on_dial_failed(peer, &error),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                // nor do those count as ours that somebody had us open
                let is_ours = endpoint.is_dialer() && !self.swarm.behaviour().opened_for_others(connection_id);
                let neighbour = self.neighbours.entry(peer_id).or_insert_with(|| Neighbour::new(Instant::now()));
                if is_ours && neighbour.reached_at.as_ref().is_none_or(is_circuit) {
                    neighbour.reached_at = dialable(endpoint.get_remote_address()).map(|(address, _)| address);
                }
                for (peer, _, _, pause) in &mut self.keep {
                    if *peer == peer_id {
                        *pause = REDIAL.0;
                    }
                }
            }
            SwarmEvent::ConnectionClosed { peer_id, num_established: 0, .. } => {
                let gone = self.neighbours.remove(&peer_id);
                self.on_left(peer_id, gone.as_ref());
                let known = gone.is_some_and(|n| n.of_our_chain);
                self.refresh_connected();
                if known
                    && let Some(node) = node_id(&peer_id)
                    && self.untold.remove(&node) != Some(true)
                {
                    // else it came and went untold: nothing to tell, and no list of strangers
                    self.untold.insert(node, false);
                }
            }
            // what a relay calls its own addresses is not announced
            SwarmEvent::NewListenAddr { address, .. } if !is_circuit(&address) => {
                self.vouch_if_named(address.clone());
                if let Ok(full) = address.with_p2p(self.me) {
                    let mut listening = self.listening.lock().unwrap_or_else(PoisonError::into_inner);
                    if !listening.contains(&full) {
                        listening.push(full);
                    }
                }
            }
            _ => {}
        }
    }

    /// An address the owner wrote out needs no word of others.
    fn vouch_if_named(&mut self, address: Multiaddr) {
        if dialable(&address).is_some_and(|(_, ip)| self.named.contains(&ip)) {
            self.vouch(address);
        }
    }

    /// A neighbour has said which protocol it speaks: that of our chain, or it goes.
    fn on_named(&mut self, peer: PeerId, protocol: &str, is_full: bool) {
        let Some(node) = node_id(&peer).filter(|_| protocol == self.protocol) else {
            if self.keep.iter().any(|(p, ..)| *p == peer) {
                tracing::warn!(%peer, "a configured peer is of another network: check its address and the genesis file");
            }
            self.on_stranger(peer);
            self.ban(peer, BAN);
            return;
        };
        let Some(neighbour) = self.neighbours.get_mut(&peer) else { return };
        neighbour.is_full = is_full;
        if !std::mem::replace(&mut neighbour.of_our_chain, true) {
            self.refresh_connected();
            self.untold.insert(node, true);
        }
        self.on_reached(peer, node);
    }

    fn on_gossip(&mut self, source: PeerId, id: gossipsub::MessageId, message: gossipsub::Message) {
        let topic = self.topics.get(&message.topic).copied();
        let (Some(topic), Some(from)) = (topic, node_id(&source)) else { return };
        let counts = self.counters.topic(topic);
        count(&counts.heard);
        counts.heard_bytes.fetch_add(message.data.len() as u64, Ordering::Relaxed);
        let floods = self.neighbours.get_mut(&source).is_some_and(|n| !n.gossip(Instant::now()));
        let kib = u32::try_from(message.data.len() / 1024 + 1).unwrap_or(u32::MAX);
        let told = match self.gossip_memory.clone().try_acquire_many_owned(kib) {
            Ok(memory) => {
                let token = MessageToken { id: id.clone(), source, topic, _memory: memory };
                self.events.try_send(NetEvent::Gossip { from, topic, data: message.data, token }).is_ok()
            }
            Err(_) => false,
        };
        if !told {
            // a busy node neither passes on nor blames
            count(&counts.dropped);
            self.swarm.behaviour_mut().gossip.report_message_validation_result(&id, &source, MessageAcceptance::Ignore);
        }
        if floods && !self.banned.contains_key(&source) {
            // its message counted all the same, lest a flooder censor what others wrote by passing it on first
            count(&self.counters.flooders);
            self.ban(source, BAN);
        }
    }

    fn refresh_connected(&mut self) {
        let ours = self.neighbours.iter().filter(|(_, n)| n.of_our_chain);
        let now: Vec<NodeId> = ours.filter_map(|(p, _)| node_id(p)).collect();
        *self.connected.lock().unwrap_or_else(PoisonError::into_inner) = now;
        self.refresh_standing(Instant::now());
    }
}
