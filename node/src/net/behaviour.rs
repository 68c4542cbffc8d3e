//! The protocols, with their limits and names.
//!
//! Every name carries the chain, so nodes of another network do not understand us.

use super::address::Scopes;
use super::codec::Bytes;
use super::fence::Fence;
use super::probe::Probe;
use super::walk::Walk;
use super::{Asks, NetConfig, NetError, Role, Topic};
use libp2p::allow_block_list::{self, BlockedPeers};
use libp2p::gossipsub::{self, IdentTopic, MessageAuthenticity, MessageId};
use libp2p::request_response::{self as rr, ProtocolSupport};
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::{ConnectionId, NetworkBehaviour};
use libp2p::{PeerId, autonat, connection_limits, dcutr, identify, identity, ping, relay};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;
use tokio::time::Duration;

/// All protocols of a node.
#[derive(NetworkBehaviour)]
pub struct Behaviour {
    limits: connection_limits::Behaviour,
    /// Peers refused for a while.
    pub bans: allow_block_list::Behaviour<BlockedPeers>,
    /// Gossip.
    pub gossip: gossipsub::Behaviour,
    /// Requests.
    pub requests: rr::Behaviour<Bytes>,
    /// Table of peers.
    pub walk: Walk,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    /// Passes connections on to private nodes.
    pub hop: Toggle<relay::Behaviour>,
    /// Dials others back so that they learn whether they can be reached.
    dial_back: Toggle<Fence<autonat::v2::server::Behaviour>>,
    /// Asks others to.
    pub probe: Toggle<Probe>,
    /// Reaches private nodes through relays, and is reached.
    circuits: relay::client::Behaviour,
    /// Makes direct connections of those, where routers let it.
    punch: Fence<dcutr::Behaviour>,
}

/// Bytes around a gossip message: author, signature, topic, framing.
const ENVELOPE: usize = 1024;
/// Largest gossip frame. Above the largest message plus the start of the next one, which the decoder counts in.
const MAX_FRAME: usize = (2 << 20) + (128 << 10);
/// Connections of one peer; two nodes that dial each other at once have two for a moment.
const CONNECTIONS_PER_PEER: u32 = 4;
/// Reservations a relay holds, and of one peer. The library takes one more than it is told for a peer.
const RESERVATIONS: (usize, usize) = (64, 1);
/// Circuits at a time, and of one peer: enough to find each other.
const CIRCUITS: (usize, usize) = (16, 2);
/// How long a circuit lasts: hole punching takes seconds, requests some more.
const CIRCUIT: Duration = Duration::from_secs(120);
/// What passes through it, both ways together: the requests and gossip of those minutes, no blobs.
const CIRCUIT_BYTES: u64 = 1 << 20;
/// Reservations and circuits one peer may ask for at once, and how long until it may ask for one more.
const ASKS_OF_PEER: (u32, Duration) = (8, Duration::from_secs(120));
/// The same for an IP address, which several may share.
const ASKS_OF_IP: (u32, Duration) = (32, Duration::from_secs(30));
/// A reservation lasts as long as its connection, in effect. The library (0.22) panics when it hands out a reservation
/// anew on a connection whose old one ran out meanwhile, which a peer that reads slowly brings about at will.
const RESERVATION: Duration = Duration::from_secs(365 * 24 * 3600);
/// Connections from one address before its peers lose score.
const PEERS_PER_ADDRESS: f64 = 16.0;

pub(super) fn start_error(e: impl std::fmt::Display) -> NetError {
    NetError::Start(e.to_string())
}

/// The chain, as it stands in every protocol's name.
fn chain_name(config: &NetConfig) -> String {
    config.chain.0.iter().take(8).map(|b| format!("{b:02x}")).collect()
}

/// Name of the requests' protocol, and what neighbours tell each other to prove their chain.
pub fn protocol(config: &NetConfig) -> String {
    format!("/oda/{}/1", chain_name(config))
}

/// Name of the gossip protocol.
pub fn gossip_protocol(config: &NetConfig) -> String {
    format!("/oda/{}/meshsub", chain_name(config))
}

/// Name of the protocol of the table of peers; whoever serves it is a full node.
pub fn table_protocol(config: &NetConfig) -> String {
    format!("/oda/{}/kad/1", chain_name(config))
}

/// A topic's full name.
pub fn topic_of(config: &NetConfig, topic: Topic) -> IdentTopic {
    IdentTopic::new(format!("oda/{}/{}", chain_name(config), topic.name()))
}

/// Name of a message: its content, so that the same one from many peers is one message.
fn message_id(message: &gossipsub::Message) -> MessageId {
    let mut h = blake3::Hasher::new();
    h.update(message.topic.as_str().as_bytes()).update(&[0]).update(&message.data);
    MessageId::from(h.finalize().as_bytes().to_vec())
}

fn score_params(config: &NetConfig) -> gossipsub::PeerScoreParams {
    let mut score = gossipsub::PeerScoreParams {
        // little credit: the third invalid message within a minute silences a peer of the best standing
        topic_score_cap: 10.0,
        ip_colocation_factor_weight: -5.0,
        ip_colocation_factor_threshold: PEERS_PER_ADDRESS,
        // a slow honest peer is not a broken one
        behaviour_penalty_threshold: 3.0,
        ..Default::default()
    };
    score.ip_colocation_factor_whitelist.extend([IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]);
    for topic in Topic::ALL {
        let params = gossipsub::TopicScoreParams {
            topic_weight: 1.0,
            time_in_mesh_weight: 0.01,
            time_in_mesh_quantum: Duration::from_secs(1),
            time_in_mesh_cap: 300.0,
            first_message_deliveries_weight: 0.2,
            first_message_deliveries_decay: 0.9,
            first_message_deliveries_cap: 20.0,
            // no penalty for quiet neighbours: most topics are quiet most of the time
            mesh_message_deliveries_weight: 0.0,
            mesh_failure_penalty_weight: 0.0,
            // -10, -40, -90 ...: the third falls below the graylist threshold of -80
            invalid_message_deliveries_weight: -10.0,
            invalid_message_deliveries_decay: 0.97,
            ..Default::default()
        };
        score.topics.insert(topic_of(config, topic).hash(), params);
    }
    score
}

fn gossip(config: &NetConfig, key: &identity::Keypair) -> Result<gossipsub::Behaviour, NetError> {
    let mut builder = gossipsub::ConfigBuilder::default();
    builder
        .protocol_id_prefix(gossip_protocol(config))
        .heartbeat_initial_delay(Duration::from_millis(500))
        .heartbeat_interval(Duration::from_millis(700))
        .validate_messages()
        .flood_publish(false)
        .mesh_n(6)
        .mesh_n_low(3)
        .mesh_n_high(12)
        .mesh_outbound_min(1)
        .max_transmit_size(MAX_FRAME)
        .max_publish_messages(256)
        .connection_handler_queue_len(1024)
        .message_id_fn(message_id);
    for topic in Topic::ALL {
        builder.max_transmit_size_for_topic(topic.max_bytes() + ENVELOPE, topic_of(config, topic).hash());
    }
    let gossip_config = builder.build().map_err(start_error)?;
    let mut gossip =
        gossipsub::Behaviour::new(MessageAuthenticity::Signed(key.clone()), gossip_config).map_err(start_error)?;
    gossip.with_peer_score(score_params(config), gossipsub::PeerScoreThresholds::default()).map_err(start_error)?;
    if config.role == Role::Full {
        for topic in Topic::ALL.into_iter().filter(|t| *t != Topic::Bft || config.votes) {
            gossip.subscribe(&topic_of(config, topic)).map_err(start_error)?;
        }
    }
    Ok(gossip)
}

/// What a relay grants.
pub fn relay_limits() -> relay::Config {
    let most = |(most, every): (u32, Duration)| (NonZeroU32::new(most).unwrap_or(NonZeroU32::MIN), every);
    let ((of_peer, peer_every), (of_ip, ip_every)) = (most(ASKS_OF_PEER), most(ASKS_OF_IP));
    let config = relay::Config {
        max_reservations: RESERVATIONS.0,
        max_reservations_per_peer: RESERVATIONS.1 - 1,
        reservation_duration: RESERVATION,
        reservation_rate_limiters: Vec::new(),
        max_circuits: CIRCUITS.0,
        max_circuits_per_peer: CIRCUITS.1 - 1,
        max_circuit_duration: CIRCUIT,
        max_circuit_bytes: CIRCUIT_BYTES,
        circuit_src_rate_limiters: Vec::new(),
    };
    let config = config.reservation_rate_per_peer(of_peer, peer_every).reservation_rate_per_ip(of_ip, ip_every);
    config.circuit_src_per_peer(of_peer, peer_every).circuit_src_per_ip(of_ip, ip_every)
}

/// What this node dials, by what its owner named.
pub fn scopes(config: &NetConfig) -> Scopes {
    let named = config.peers.iter().map(|(_, address)| address);
    Scopes::of(config.listen.iter().chain(&config.external).chain(named))
}

impl Behaviour {
    /// Whether a connection was opened because somebody asked for it, not by this node's choice.
    pub fn opened_for_others(&self, connection: ConnectionId) -> bool {
        self.punch.opened(connection) || self.dial_back.as_ref().is_some_and(|d| d.opened(connection))
    }

    /// The protocols of a node.
    pub fn new(
        config: &NetConfig,
        key: &identity::Keypair,
        circuits: relay::client::Behaviour,
    ) -> Result<Self, NetError> {
        let me: PeerId = key.public().to_peer_id();
        let listens = config.role == Role::Full && !config.listen.is_empty();
        let serves = listens && config.relay;
        let asks = listens && config.external.is_empty() && matches!(config.asks, Asks::Servers(_));
        // until somebody vouches for an address of this node it is no relay
        let mut hop = serves.then(|| relay::Behaviour::new(me, relay_limits()));
        if let Some(hop) = &mut hop {
            hop.set_status(Some(relay::Status::Disable));
        }
        let dial_back = serves.then(|| Fence::closing(autonat::v2::server::Behaviour::default(), scopes(config)));
        let name = protocol(config);
        let most = config.max_connections.max(4);
        let limits = connection_limits::ConnectionLimits::default()
            .with_max_established(Some(most))
            // strangers cannot take the places of those we choose ourselves (eclipse)
            .with_max_established_incoming(Some(most / 4 * 3))
            .with_max_established_per_peer(Some(CONNECTIONS_PER_PEER))
            .with_max_pending_incoming(Some(64))
            .with_max_pending_outgoing(Some(64));
        let mut limits = connection_limits::Behaviour::new(limits);
        for (peer, _) in &config.peers {
            limits.bypass_peer_id(peer);
        }
        Ok(Self {
            limits,
            bans: allow_block_list::Behaviour::default(),
            gossip: gossip(config, key)?,
            requests: rr::Behaviour::with_codec(
                Bytes,
                [(name.clone(), ProtocolSupport::Full)],
                rr::Config::default().with_request_timeout(config.request_timeout).with_max_concurrent_streams(64),
            ),
            walk: Walk::new(me, table_protocol(config), config.role == Role::Full)?,
            identify: identify::Behaviour::new(identify::Config::new(name, key.public()).with_cache_size(0)),
            ping: ping::Behaviour::default(),
            hop: hop.into(),
            dial_back: dial_back.into(),
            probe: asks.then(Probe::default).into(),
            circuits,
            punch: Fence::new(dcutr::Behaviour::new(me), scopes(config)),
        })
    }
}
