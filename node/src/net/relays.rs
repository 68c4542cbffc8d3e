//! A node that nobody can reach lets others in through relays, and drops those once somebody can (N1).
//!
//! Reserving at whatever offers itself would put a node into the hands of one relay, which then decides who gets
//! through. So two are held, of two ranges of addresses where there are such, and only at full nodes this node dialled
//! itself. What a relay says its addresses are is not believed: the one it was reached at is announced.

use super::address::{circuit, is_circuit, plain};
use super::reach::{Reachability, Voice, voice};
use super::swarm::Task;
use libp2p::autonat::v2::client::Event as Probed;
use libp2p::core::transport::ListenerId;
use libp2p::relay::Status;
use libp2p::{Multiaddr, PeerId, identify};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::PoisonError;
use tokio::time::{Duration, Instant};

/// Relays held at a time.
pub const MAX_RELAYS: usize = super::address::MAX_CIRCUITS;
/// A relay that refused is not asked again for so long.
const REST: Duration = Duration::from_secs(60);
/// Refusals remembered.
const MAX_REFUSED: usize = 256;
/// How often to look for questions and relays.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a neighbour says it does for others.
#[derive(Clone, Copy, Debug, Default)]
pub struct Offers {
    relay: bool,
    dial_back: bool,
}

/// What this node announces beside its own addresses.
#[derive(Debug, Default)]
pub struct Found {
    /// Where others reached it.
    pub confirmed: Vec<Multiaddr>,
    /// Where relays pass connections on to it.
    pub circuits: Vec<Multiaddr>,
    /// What it thinks of itself.
    pub reachability: Reachability,
}

struct Held {
    relay: PeerId,
    voice: Voice,
    at: Multiaddr,
    is_granted: bool,
}

/// Reservations of this node.
pub struct Relays {
    held: HashMap<ListenerId, Held>,
    refused: BTreeMap<PeerId, Instant>,
    next_look: Instant,
}

impl Relays {
    pub(super) fn new(now: Instant) -> Self {
        Self { held: HashMap::new(), refused: BTreeMap::new(), next_look: now }
    }

    /// Where to reserve next: at somebody new, of another range of addresses where that is possible.
    fn missing(&self, offered: &[(PeerId, Voice)], now: Instant) -> Option<(PeerId, Voice)> {
        if self.held.len() >= MAX_RELAYS {
            return None;
        }
        let rests = |peer| self.refused.get(peer).is_some_and(|at| now.saturating_duration_since(*at) < REST);
        let is_held = |peer: &PeerId| self.held.values().any(|h| h.relay == *peer);
        let voices: BTreeSet<Voice> = self.held.values().map(|h| h.voice).collect();
        let free = offered.iter().filter(|(peer, _)| !rests(peer) && !is_held(peer));
        free.min_by_key(|(_, voice)| voices.contains(voice)).copied()
    }

    fn refuse(&mut self, relay: PeerId, now: Instant) {
        self.refused.retain(|_, at| now.saturating_duration_since(*at) < REST);
        if self.refused.len() < MAX_REFUSED {
            self.refused.insert(relay, now);
        }
    }
}

impl Task {
    /// Full nodes of our chain that this node dialled directly, with what they offer and where they are.
    fn dialled(&self, offers: impl Fn(&Offers) -> bool) -> Vec<(PeerId, Voice)> {
        let neighbours = self.neighbours.iter().filter(|(_, n)| n.of_our_chain && n.is_full && offers(&n.offers));
        let direct = neighbours.filter_map(|(peer, n)| Some((*peer, n.reached_at.as_ref()?)));
        direct.filter(|(_, at)| !is_circuit(at)).map(|(peer, at)| (peer, voice(peer, at))).collect()
    }

    /// A neighbour has said what it offers and from where it sees this node come.
    pub(super) fn on_offered(&mut self, peer: PeerId, info: &identify::Info) {
        let Some(neighbour) = self.neighbours.get_mut(&peer) else { return };
        let offers = |name: &str| info.protocols.iter().any(|p| p.as_ref() == name);
        neighbour.offers = Offers {
            relay: offers(libp2p::relay::HOP_PROTOCOL_NAME.as_ref()),
            dial_back: offers("/libp2p/autonat/2/dial-request"),
        };
        // whoever dialled this node chose to: a liar could come by the hundred
        let Some(at) = neighbour.reached_at.as_ref().filter(|at| neighbour.of_our_chain && !is_circuit(at)) else {
            return;
        };
        let listening = self.listening.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.reach.seen(voice(peer, at), &info.observed_addr, &listening);
    }

    /// A server has answered.
    pub(super) fn on_probed(&mut self, event: &Probed) {
        if self.reach.answered(&event.tested_addr, event.result.is_ok()) {
            tracing::debug!(address = %event.tested_addr, server = %event.server, result = ?event.result, "dialled back");
            for address in self.reach.confirmed().to_vec() {
                self.vouch(address);
            }
            self.tell_reachable();
        }
    }

    /// An address of this node that its owner named or others reached: it can be a relay there.
    pub(super) fn vouch(&mut self, address: Multiaddr) {
        if let Some((address, _)) = plain(&address) {
            self.swarm.add_external_address(address);
            if let Some(hop) = self.swarm.behaviour_mut().hop.as_mut() {
                hop.set_status(Some(Status::Enable));
            }
        }
    }

    /// Asks the next question; reserves or lets go.
    pub(super) fn look_reachable(&mut self, now: Instant) {
        if now < self.relays.next_look {
            return;
        }
        self.relays.next_look = now + LOOK_EVERY;
        let servers = self.dialled(|o| o.dial_back);
        if let Some(probe) = self.swarm.behaviour_mut().probe.as_mut() {
            if self.reach.gives_up(now) {
                probe.forget();
            }
            if let Some((server, address)) = self.reach.ask(&servers, now) {
                probe.ask(server, &address);
            }
        }
        if self.reach.reachability() == Reachability::Private {
            if let Some((relay, voice)) = self.relays.missing(&self.dialled(|o| o.relay), now) {
                self.reserve(relay, voice, now);
            }
        } else if !self.relays.held.is_empty() {
            for listener in std::mem::take(&mut self.relays.held).into_keys() {
                self.swarm.remove_listener(listener);
            }
            self.tell_reachable();
        }
    }

    fn reserve(&mut self, relay: PeerId, voice: Voice, now: Instant) {
        let Some(at) = self.neighbours.get(&relay).and_then(|n| n.reached_at.clone()) else { return };
        let at = circuit(at, relay);
        match self.swarm.listen_on(at.clone()) {
            Ok(listener) => {
                self.relays.held.insert(listener, Held { relay, voice, at, is_granted: false });
            }
            Err(error) => {
                tracing::debug!(%relay, %error, "no relay");
                self.relays.refuse(relay, now);
            }
        }
    }

    /// A relay passes connections on to this node.
    pub(super) fn on_granted(&mut self, relay: PeerId) {
        for held in self.relays.held.values_mut().filter(|h| h.relay == relay) {
            held.is_granted = true;
        }
        self.tell_reachable();
    }

    /// A relay refused, or is gone: another takes its place.
    pub(super) fn on_listener_closed(&mut self, listener: ListenerId) {
        if let Some(held) = self.relays.held.remove(&listener) {
            self.relays.refuse(held.relay, Instant::now());
            self.tell_reachable();
        }
    }

    /// What is announced from now on.
    fn tell_reachable(&self) {
        let granted = self.relays.held.values().filter(|h| h.is_granted);
        let circuits: Vec<Multiaddr> = granted.map(|h| h.at.clone()).collect();
        let (confirmed, reachability) = (self.reach.confirmed().to_vec(), self.reach.reachability());
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if (found.reachability, found.circuits.len()) != (reachability, circuits.len()) {
            tracing::info!(?reachability, relays = circuits.len(), ?confirmed, "whether others can reach this node");
        }
        *found = Found { confirmed, circuits, reachability };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::reach::voice;

    #[test] // N1, attack 17
    fn two_relays_of_two_ranges_are_held_where_there_are_such() {
        let now = Instant::now();
        let at = |text: &str| {
            let peer = PeerId::random();
            (peer, voice(peer, &text.parse().unwrap()))
        };
        let held = |(relay, voice): (PeerId, Voice)| Held { relay, voice, at: Multiaddr::empty(), is_granted: true };
        let offered = [at("/ip4/198.51.100.1/tcp/1"), at("/ip4/198.51.100.2/tcp/1"), at("/ip4/203.0.113.1/tcp/1")];
        let mut relays = Relays::new(now);
        let first = relays.missing(&offered, now).unwrap();
        assert_eq!(first, offered[0]);
        relays.held.insert(ListenerId::next(), held(first));
        assert_eq!(relays.missing(&offered, now), Some(offered[2]), "another range");
        assert_eq!(relays.missing(&offered[..2], now), Some(offered[1]), "the same one if there is no other");
        assert_eq!(relays.missing(&offered[..1], now), None, "not twice at one");
        relays.refuse(offered[2].0, now);
        assert_eq!(relays.missing(&offered, now), Some(offered[1]));
        assert_eq!(relays.missing(&offered, now + REST * 2), Some(offered[2]));
        relays.held.insert(ListenerId::next(), held(offered[2]));
        assert_eq!(relays.missing(&offered, now), None, "two are enough");
    }
}
