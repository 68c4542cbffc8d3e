//! Dials that others ask for (N1, attack 17): dial-backs of AutoNAT's server, and direct connections of hole punching.
//!
//! The libraries dial what they are handed: a stranger would have this node knock at its owner's machine and network,
//! or at anybody, as often as it likes. And a connection somebody else asked for looks like one of our own: a few
//! strangers would fill the places this node keeps for peers of its choice. So these dials go only where
//! [`Scopes`] let any other go, are rationed, and are known by their names.

use super::address::{Scopes, plain};
use super::guard::Bucket;
use libp2p::core::{Endpoint, transport::PortUse};
use libp2p::swarm::{
    CloseConnection, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};
use std::collections::BTreeMap;
use std::task::{Context, Poll};
use tokio::time::{Duration, Instant};

/// Addresses of one dial: as many as hole punching offers.
const MAX_ADDRESSES: usize = 20;
/// Dials of one peer per second, and at once: a node asks for a few when it starts.
const DIALS_OF_ONE: (f64, f64) = (1.0 / 30.0, 8.0);
/// Dials of all peers per second, and at once.
const DIALS_OF_ALL: (f64, f64) = (2.0, 32.0);
/// Peers whose allowances are kept; the one that asked longest ago gives way.
const MAX_PEERS: usize = 1024;
/// How long a dial-back may stay open.
const DIAL_BACK: Duration = Duration::from_secs(15);

/// Why a dial was refused.
#[derive(Debug, thiserror::Error)]
#[error("an address this node does not dial for others, or too many dials")]
pub struct Fenced;

/// A dial under way or the connection it became.
struct Dial {
    since: Instant,
    peer: Option<PeerId>,
    is_open: bool,
}

/// A behaviour whose dials are fenced in.
pub struct Fence<B> {
    inner: B,
    scopes: Scopes,
    /// Whether its connections are closed once they have served.
    closes: bool,
    dials: BTreeMap<ConnectionId, Dial>,
    allowances: BTreeMap<PeerId, (Instant, Bucket)>,
    all: Bucket,
    closing: Vec<(PeerId, ConnectionId)>,
    refused: u64,
}

impl<B> Fence<B> {
    /// For dial-backs: the connection is closed when all is said.
    pub fn closing(inner: B, scopes: Scopes) -> Self {
        Self { closes: true, ..Self::new(inner, scopes) }
    }

    /// For connections that stay.
    pub fn new(inner: B, scopes: Scopes) -> Self {
        let (dials, allowances, all) = (BTreeMap::new(), BTreeMap::new(), Bucket::new(DIALS_OF_ALL, Instant::now()));
        Self { inner, scopes, closes: false, dials, allowances, all, closing: Vec::new(), refused: 0 }
    }

    /// Whether the connection was opened for somebody else.
    pub fn opened(&self, connection: ConnectionId) -> bool {
        self.dials.contains_key(&connection)
    }

    /// Dials refused.
    #[cfg(test)]
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Whether these addresses may be dialled for others: all of them, or none is.
    fn fits(&self, addresses: &[Multiaddr]) -> bool {
        let fits = |a: &Multiaddr| plain(a).is_some_and(|(_, ip)| self.scopes.has(ip));
        (1..=MAX_ADDRESSES).contains(&addresses.len()) && addresses.iter().all(fits)
    }

    /// Whether one more dial for this peer is within the allowances.
    fn is_due(&mut self, peer: PeerId, now: Instant) -> bool {
        if self.allowances.len() >= MAX_PEERS && !self.allowances.contains_key(&peer) {
            let oldest = self.allowances.iter().min_by_key(|(_, (asked, _))| *asked).map(|(p, _)| *p);
            oldest.map(|p| self.allowances.remove(&p));
        }
        let (asked, own) = self.allowances.entry(peer).or_insert_with(|| (now, Bucket::new(DIALS_OF_ONE, now)));
        *asked = now;
        own.take(now) && self.all.take(now)
    }

    /// Has the connection closed, if it is a dial-back.
    fn close(&mut self, connection: ConnectionId) {
        if let Some(dial) = self.dials.get(&connection).filter(|d| d.is_open && self.closes)
            && let Some(peer) = dial.peer
            && !self.closing.contains(&(peer, connection))
        {
            self.closing.push((peer, connection));
        }
    }
}

impl<B: NetworkBehaviour> NetworkBehaviour for Fence<B> {
    type ConnectionHandler = THandler<B>;
    type ToSwarm = B::ToSwarm;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<B>, ConnectionDenied> {
        self.inner.handle_established_inbound_connection(connection, peer, local, remote)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        if self.dials.contains_key(&connection) {
            let now = Instant::now();
            // what is refused for its address costs as much, lest somebody try them all
            let is_due = peer.is_some_and(|peer| self.is_due(peer, now));
            if !self.fits(addresses) || !is_due {
                self.refused = self.refused.saturating_add(1);
                tracing::debug!(?peer, ?addresses, "not dialled for others");
                return Err(ConnectionDenied::new(Fenced));
            }
        }
        self.inner.handle_pending_outbound_connection(connection, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<B>, ConnectionDenied> {
        self.inner.handle_established_outbound_connection(connection, peer, address, role, port)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match &event {
            FromSwarm::DialFailure(failed) => drop(self.dials.remove(&failed.connection_id)),
            FromSwarm::ConnectionClosed(closed) => drop(self.dials.remove(&closed.connection_id)),
            FromSwarm::ConnectionEstablished(new) => {
                if let Some(dial) = self.dials.get_mut(&new.connection_id) {
                    (dial.is_open, dial.since) = (true, Instant::now());
                }
            }
            // what this node offers for hole punching is what others would dial: a list with more is refused as a whole
            FromSwarm::NewExternalAddrCandidate(new) if !self.fits(std::slice::from_ref(new.addr)) => return,
            _ => {}
        }
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, event: THandlerOutEvent<Self>) {
        self.inner.on_connection_handler_event(peer, connection, event);
        self.close(connection);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        let now = Instant::now();
        let late = |d: &Dial| d.is_open && now.saturating_duration_since(d.since) > DIAL_BACK;
        let late: Vec<ConnectionId> = self.dials.iter().filter(|(_, d)| late(d)).map(|(id, _)| *id).collect();
        for connection in late {
            self.close(connection);
        }
        if let Some((peer_id, connection)) = self.closing.pop() {
            if let Some(dial) = self.dials.get_mut(&connection) {
                dial.peer = None; // asked once
            }
            return Poll::Ready(ToSwarm::CloseConnection { peer_id, connection: CloseConnection::One(connection) });
        }
        let event = self.inner.poll(cx);
        if let Poll::Ready(ToSwarm::Dial { opts }) = &event {
            let dial = Dial { since: now, peer: opts.get_peer_id(), is_open: false };
            self.dials.insert(opts.connection_id(), dial);
        }
        event
    }
}
