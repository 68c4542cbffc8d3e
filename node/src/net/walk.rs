//! Walks through the network: Kademlia's routing table, and nothing else of Kademlia (N1).
//!
//! The library's own behaviour dials every address a stranger answers with, stores what strangers ask it to, and
//! answers as often as it is asked. Here a walk asks connected peers only; whom it would like to dial becomes hearsay for
//! [`super::dial`] to decide on. Records are neither stored nor published, the table holds only peers this node has
//! reached itself, and whoever asks more than its allowance is sent away.

use super::NetError;
use super::behaviour::start_error;
use super::guard::Bucket;
use libp2p::core::{Endpoint, transport::PortUse};
use libp2p::kad::{self, Mode, store::MemoryStore};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, DialError, DialFailure, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, StreamProtocol};
use std::collections::{BTreeMap, BTreeSet};
use std::task::{Context, Poll};
use tokio::time::{Duration, Instant};

/// Messages of one peer per second, and at once; an honest one asks a few times a minute.
const MESSAGES: (f64, f64) = (10.0, 200.0);
/// How long one walk may take.
const WALK: Duration = Duration::from_secs(20);

type Kad = kad::Behaviour<MemoryStore>;

/// What a walk tells.
#[derive(Debug)]
pub enum WalkEvent {
    /// Somebody says that a peer is there.
    Found(PeerId, Vec<Multiaddr>),
    /// Of no interest.
    Other,
}

/// The routing table and its walks.
pub struct Walk {
    kad: Kad,
    walking: Option<kad::QueryId>,
    allowances: BTreeMap<PeerId, Bucket>,
    flooders: BTreeSet<PeerId>,
}

impl Walk {
    /// An empty table. `serve`: answer others; else only ask.
    pub fn new(me: PeerId, protocol: String, serve: bool) -> Result<Self, NetError> {
        let mut settings = kad::Config::new(StreamProtocol::try_from_owned(protocol).map_err(start_error)?);
        settings
            .set_kbucket_inserts(kad::BucketInserts::Manual)
            .set_record_filtering(kad::StoreInserts::FilterBoth)
            .set_replication_interval(None)
            .set_publication_interval(None)
            .set_provider_publication_interval(None)
            .set_periodic_bootstrap_interval(None)
            .set_caching(kad::Caching::Disabled)
            .set_query_timeout(WALK);
        let mut kad = Kad::with_config(me, MemoryStore::new(me), settings);
        kad.set_mode(Some(if serve { Mode::Server } else { Mode::Client }));
        Ok(Self { kad, walking: None, allowances: BTreeMap::new(), flooders: BTreeSet::new() })
    }

    /// Adds a full node of our chain that this node reached at an address. The library bounds the table: 256 buckets of
    /// 20 peers.
    pub fn add(&mut self, peer: &PeerId, address: Multiaddr) {
        self.kad.add_address(peer, address);
    }

    /// A peer is none of ours any more.
    pub fn remove(&mut self, peer: &PeerId) {
        self.kad.remove_peer(peer);
    }

    /// Starts a walk to a random place, unless one is under way.
    pub fn start(&mut self) {
        if self.walking.is_none() {
            self.walking = Some(self.kad.get_closest_peers(PeerId::random()));
        }
    }

    /// Peers that asked too much since last asked for.
    pub fn take_flooders(&mut self) -> BTreeSet<PeerId> {
        std::mem::take(&mut self.flooders)
    }

    /// Peers in the table, and records in the store.
    #[cfg(test)]
    pub fn sizes(&mut self) -> (usize, usize) {
        use libp2p::kad::store::RecordStore as _;
        let peers = self.kad.kbuckets().map(|b| b.num_entries()).sum();
        (peers, self.kad.store_mut().records().count() + self.kad.store_mut().provided().count())
    }
}

impl NetworkBehaviour for Walk {
    type ConnectionHandler = THandler<Kad>;
    type ToSwarm = WalkEvent;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.kad.handle_established_inbound_connection(connection, peer, local, remote)
    }

    // not overridden: handle_pending_outbound_connection. Kademlia would add addresses to every dial of a peer

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.kad.handle_established_outbound_connection(connection, peer, address, role, port)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        if let FromSwarm::ConnectionClosed(closed) = &event
            && closed.remaining_established == 0
        {
            self.allowances.remove(&closed.peer_id);
            self.flooders.remove(&closed.peer_id);
        }
        self.kad.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, event: THandlerOutEvent<Self>) {
        let now = Instant::now();
        if self.allowances.entry(peer).or_insert_with(|| Bucket::new(MESSAGES, now)).take(now) {
            self.kad.on_connection_handler_event(peer, connection, event);
        } else {
            self.flooders.insert(peer);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        let event = match self.kad.poll(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(event) => event,
        };
        Poll::Ready(match event {
            ToSwarm::Dial { opts } => {
                let (connection, peer) = (opts.connection_id(), opts.get_peer_id());
                let wanted = self.kad.handle_pending_outbound_connection(connection, peer, &[], Endpoint::Dialer);
                let error = DialError::Aborted;
                self.kad.on_swarm_event(FromSwarm::DialFailure(DialFailure {
                    peer_id: peer,
                    error: &error,
                    connection_id: connection,
                }));
                match (peer, wanted) {
                    (Some(peer), Ok(addresses)) => ToSwarm::GenerateEvent(WalkEvent::Found(peer, addresses)),
                    _ => ToSwarm::GenerateEvent(WalkEvent::Other),
                }
            }
            ToSwarm::GenerateEvent(event) => {
                if let kad::Event::OutboundQueryProgressed { id, step, .. } = &event
                    && step.last
                    && self.walking == Some(*id)
                {
                    self.walking = None;
                }
                ToSwarm::GenerateEvent(WalkEvent::Other)
            }
            other => other.map_out(|_| WalkEvent::Other),
        })
    }
}
