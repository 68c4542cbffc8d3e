//! The protocols, with their limits and names.
//!
//! Every name carries the chain, so nodes of another network do not understand us.

use super::codec::Bytes;
use super::walk::Walk;
use super::{NetConfig, NetError, Role, Topic};
use libp2p::allow_block_list::{self, BlockedPeers};
use libp2p::gossipsub::{self, IdentTopic, MessageAuthenticity, MessageId};
use libp2p::request_response::{self as rr, ProtocolSupport};
use libp2p::swarm::NetworkBehaviour;
use libp2p::{connection_limits, identify, identity, ping};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
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
}

/// Bytes around a gossip message: author, signature, topic, framing.
const ENVELOPE: usize = 1024;
/// Largest gossip frame. Above the largest message plus the start of the next one, which the decoder counts in.
const MAX_FRAME: usize = (2 << 20) + (128 << 10);
/// Connections of one peer; two nodes that dial each other at once have two for a moment.
const CONNECTIONS_PER_PEER: u32 = 4;
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

impl Behaviour {
    /// The protocols of a node.
    pub fn new(config: &NetConfig, key: &identity::Keypair) -> Result<Self, NetError> {
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
            walk: Walk::new(key.public().to_peer_id(), table_protocol(config), config.role == Role::Full)?,
            identify: identify::Behaviour::new(identify::Config::new(name, key.public()).with_cache_size(0)),
            ping: ping::Behaviour::default(),
        })
    }
}
