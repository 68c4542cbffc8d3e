//! Questions of this node and to it (N1): bounded, answered once, and put to those that answer.
//!
//! Who waits for a peer that is silent would take a place for ever, and who asks without end the places of the others;
//! so both are counted, and [`super::standing`] is told who keeps us waiting.

use super::standing::Standing;
use super::swarm::{EVENTS, Task};
use super::{NetEvent, RequestError, ResponseToken, count, node_id, peer_id};
use libp2p::PeerId;
use libp2p::request_response::{self as rr, OutboundFailure};
use oda_consensus::ids::NodeId;
use std::collections::BTreeSet;
use std::sync::PoisonError;
use tokio::sync::oneshot;
use tokio::time::{Duration, Instant};

/// Requests are refused once only so many places are left for events: the rest is for gossip.
const EVENTS_FOR_GOSSIP: usize = EVENTS / 2;
/// Requests of ours waiting for answers.
const MAX_PENDING: usize = 1024;
/// A peer that has not answered by then is late, and others are asked before it.
const LATE: Duration = Duration::from_secs(2);
/// How long it is asked last after it failed to answer.
const REST: Duration = Duration::from_secs(10);

/// A request of ours that waits for its answer.
pub(super) struct Pending {
    peer: PeerId,
    since: Instant,
    reply: oneshot::Sender<Result<Vec<u8>, RequestError>>,
}

impl Task {
    pub(super) fn ask(&mut self, node: NodeId, data: Vec<u8>, reply: oneshot::Sender<Result<Vec<u8>, RequestError>>) {
        let mut addresses = self.addresses.get(&node).cloned().unwrap_or_default();
        if addresses.is_empty() {
            addresses = self.discovery.addresses(node);
        }
        let reachable = |p: &PeerId| *p != self.me && (self.swarm.is_connected(p) || !addresses.is_empty());
        let Some(peer) = peer_id(node).filter(reachable) else {
            let _ = reply.send(Err(RequestError::Unreachable(node)));
            return;
        };
        self.pending.retain(|_, p| !p.reply.is_closed());
        if self.pending.len() >= MAX_PENDING {
            let _ = reply.send(Err(RequestError::Busy));
            return;
        }
        let id = self.swarm.behaviour_mut().requests.send_request_with_addresses(&peer, data, addresses);
        self.pending.insert(id, Pending { peer, since: Instant::now(), reply });
    }

    /// Who answers at present, for those who ask whoever can.
    pub(super) fn refresh_standing(&self, now: Instant) {
        let for_less = |since: Instant, limit: Duration| now.saturating_duration_since(since) < limit;
        let waiting = self.pending.values().filter(|p| !p.reply.is_closed() && !for_less(p.since, LATE));
        let slow: BTreeSet<PeerId> = waiting.map(|p| p.peer).collect();
        let standing = self.neighbours.iter().filter(|(_, n)| n.of_our_chain && n.is_full).filter_map(|(peer, n)| {
            Some(Standing {
                node: node_id(peer)?,
                is_configured: self.discovery.configured.contains(peer),
                is_late: slow.contains(peer) || n.failed.is_some_and(|at| for_less(at, REST)),
            })
        });
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner) = standing.collect();
    }

    pub(super) fn on_request_event(&mut self, event: rr::Event<Vec<u8>, Vec<u8>>) {
        match event {
            rr::Event::Message { peer, message: rr::Message::Request { request, channel, .. }, .. } => {
                let slots = self.neighbours.get_mut(&peer).and_then(|n| n.request(&self.slots, Instant::now()));
                let (Some(from), Some(slots)) =
                    (node_id(&peer), slots.filter(|_| self.events.capacity() > EVENTS_FOR_GOSSIP))
                else {
                    count(&self.counters.refused); // the channel is dropped and the peer sees an error
                    return;
                };
                let token = ResponseToken { channel, _slots: slots };
                let _ = self.events.try_send(NetEvent::Request { from, data: request, token });
            }
            rr::Event::Message { message: rr::Message::Response { request_id, response }, .. } => {
                if let Some(pending) = self.pending.remove(&request_id) {
                    if let Some(neighbour) = self.neighbours.get_mut(&pending.peer) {
                        neighbour.failed = None;
                    }
                    let _ = pending.reply.send(Ok(response));
                }
            }
            rr::Event::OutboundFailure { peer, request_id, error, .. } => {
                if let Some(pending) = self.pending.remove(&request_id) {
                    if let Some(neighbour) = self.neighbours.get_mut(&pending.peer) {
                        neighbour.failed = Some(Instant::now());
                    }
                    let error = match (node_id(&peer), error) {
                        (Some(node), OutboundFailure::DialFailure) => RequestError::Unreachable(node),
                        (Some(node), OutboundFailure::UnsupportedProtocols) => RequestError::OtherNetwork(node),
                        (_, error) => RequestError::Failed(error.to_string()),
                    };
                    let _ = pending.reply.send(Err(error));
                }
            }
            rr::Event::InboundFailure { .. } | rr::Event::ResponseSent { .. } => {}
        }
    }
}
