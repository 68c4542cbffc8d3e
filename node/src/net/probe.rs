//! Asks a chosen server whether it can reach an address: AutoNAT v2's client, one question at a time (N1).
//!
//! The library's own client tests whatever any peer says it saw, keeps all of it for ever, and asks servers at random,
//! so that one liar may be asked twice. Here addresses come from [`super::reach`] alone, and so does the server of each
//! question. Only peers this node dialled are asked: strangers that connect have no word in it.

use libp2p::autonat::v2::client;
use libp2p::core::{Endpoint, transport::PortUse};
use libp2p::swarm::behaviour::NewExternalAddrCandidate;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};
use std::collections::BTreeMap;
use std::task::{Context, Poll};

/// Times a question is sent whose server breaks off.
const MAX_TRIES: u32 = 3;

/// AutoNAT's client on a lead.
#[derive(Default)]
pub struct Probe {
    client: client::Behaviour,
    /// Connections this node opened; the library asks over no others.
    opened: BTreeMap<ConnectionId, PeerId>,
    server: Option<PeerId>,
    tries: u32,
}

impl Probe {
    /// Asks a server about an address; each form of one is asked about once.
    pub fn ask(&mut self, server: PeerId, address: &Multiaddr) {
        (self.server, self.tries) = (Some(server), 0);
        let candidate = NewExternalAddrCandidate { addr: address };
        self.client.on_swarm_event(FromSwarm::NewExternalAddrCandidate(candidate));
    }

    /// Gives the question up.
    pub fn forget(&mut self) {
        self.server = None;
    }

    /// Over which connection the question goes once more.
    fn connection(&mut self) -> Option<(PeerId, ConnectionId)> {
        let server = self.server.filter(|_| self.tries < MAX_TRIES)?;
        let connection = self.opened.iter().find(|(_, peer)| **peer == server).map(|(id, _)| *id)?;
        self.tries += 1;
        Some((server, connection))
    }
}

impl NetworkBehaviour for Probe {
    type ConnectionHandler = THandler<client::Behaviour>;
    type ToSwarm = client::Event;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.client.handle_established_inbound_connection(connection, peer, local, remote)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.client.handle_established_outbound_connection(connection, peer, address, role, port)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match &event {
            FromSwarm::NewExternalAddrCandidate(_) => return, // whatever somebody says it saw
            FromSwarm::ConnectionEstablished(new) if new.endpoint.is_dialer() && !new.endpoint.is_relayed() => {
                self.opened.insert(new.connection_id, new.peer_id);
            }
            FromSwarm::ConnectionClosed(closed) => drop(self.opened.remove(&closed.connection_id)),
            _ => {}
        }
        self.client.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, event: THandlerOutEvent<Self>) {
        self.client.on_connection_handler_event(peer, connection, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        loop {
            match self.client.poll(cx) {
                // the only thing the library tells its connections: which address to ask about
                Poll::Ready(ToSwarm::NotifyHandler { event, .. }) => {
                    if let Some((peer_id, connection)) = self.connection() {
                        let handler = NotifyHandler::One(connection);
                        return Poll::Ready(ToSwarm::NotifyHandler { peer_id, handler, event });
                    }
                }
                Poll::Ready(ToSwarm::ExternalAddrConfirmed(_)) => {} // one server's word
                other => return other,
            }
        }
    }
}
