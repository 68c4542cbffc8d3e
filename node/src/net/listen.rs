//! The addresses a node listens on: up before it goes on, and its own alone.

use super::NetError;
use super::behaviour::{Behaviour, BehaviourEvent};
use futures::StreamExt as _;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, Swarm};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use tokio::time::{Duration, Instant};

/// Swarm events kept while the listeners come up.
const MAX_EARLY: usize = 1024;
/// How long to wait for the listen addresses to be up.
const LISTEN_WAIT: Duration = Duration::from_secs(5);

/// Whether somebody has the port. libp2p listens with SO_REUSEPORT, with which a second node on the
/// same port would start and be given half of the connections; a plain socket is refused instead.
fn is_taken(address: &Multiaddr) -> bool {
    let mut parts = address.iter();
    let ip = match parts.next() {
        Some(Protocol::Ip4(ip)) => ip.into(),
        Some(Protocol::Ip6(ip)) => ip.into(),
        _ => return false,
    };
    let outcome = match parts.next() {
        Some(Protocol::Tcp(port)) if port != 0 => TcpListener::bind(SocketAddr::new(ip, port)).map(drop),
        Some(Protocol::Udp(port)) if port != 0 => UdpSocket::bind(SocketAddr::new(ip, port)).map(drop),
        _ => return false,
    };
    outcome.is_err_and(|e| e.kind() == io::ErrorKind::AddrInUse)
}

/// The IP addresses in a list that are somebody's: all interfaces at once are not.
pub(super) fn named<'a>(addresses: impl Iterator<Item = &'a Multiaddr>) -> Vec<IpAddr> {
    let ip = |address: &Multiaddr| match address.iter().next() {
        Some(Protocol::Ip4(ip)) => Some(ip.into()),
        Some(Protocol::Ip6(ip)) => Some(ip.into()),
        _ => None,
    };
    addresses.filter_map(ip).filter(|ip: &IpAddr| !ip.is_unspecified()).collect()
}

/// Listens on every address, and waits until it does. Returns what else happened meanwhile.
pub(super) async fn listen(
    swarm: &mut Swarm<Behaviour>,
    addresses: &[Multiaddr],
) -> Result<Vec<SwarmEvent<BehaviourEvent>>, NetError> {
    let (mut waiting, mut early) = (HashMap::new(), Vec::new());
    for address in addresses {
        if is_taken(address) {
            return Err(NetError::InUse { address: address.to_string() });
        }
        let failed = |problem: String| NetError::Listen { address: address.to_string(), problem };
        waiting.insert(swarm.listen_on(address.clone()).map_err(|e| failed(e.to_string()))?, address);
    }
    let deadline = Instant::now() + LISTEN_WAIT;
    while !waiting.is_empty() {
        match tokio::time::timeout_at(deadline, swarm.select_next_some()).await {
            Ok(SwarmEvent::NewListenAddr { listener_id, .. }) => drop(waiting.remove(&listener_id)),
            Ok(SwarmEvent::ListenerClosed { listener_id, reason, .. }) => {
                let address = waiting.remove(&listener_id).map(ToString::to_string).unwrap_or_default();
                let problem = reason.err().map_or_else(|| "closed".into(), |e| e.to_string());
                return Err(NetError::Listen { address, problem });
            }
            // a peer may connect to the first address while the second comes up: it must not be forgotten
            Ok(event) => {
                if early.len() < MAX_EARLY {
                    early.push(event);
                }
            }
            Err(_) => {
                let address = waiting.into_values().next().map(ToString::to_string).unwrap_or_default();
                return Err(NetError::Listen { address, problem: "no answer from the system".into() });
            }
        }
    }
    Ok(early)
}
