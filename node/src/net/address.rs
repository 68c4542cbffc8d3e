//! Which addresses of others may be dialled (N1, attack 17), and from which of its own a node does.
//!
//! Addresses of peers come from peers. Dialled as they come, they would make a node knock at services of its own
//! machine and network for a stranger, or spend all its connections on the addresses of one attacker.

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, ToSocketAddrs as _, UdpSocket};

/// Most addresses of one peer.
pub const MAX_ADDRESSES: usize = 8;
/// Those of them that lead through relays: as many as a private node reserves at.
pub const MAX_CIRCUITS: usize = 2;
/// Parts of the longest address of a circuit: ip, udp, quic-v1, relay, circuit, peer.
const MAX_PARTS: usize = 6;

/// From where an address can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// This machine.
    Loopback,
    /// This site.
    Private,
    /// Everywhere.
    Global,
}

/// Addresses that one operator gets at once: a /16 of IPv4, a /32 of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// IPv4.
    V4([u8; 2]),
    /// IPv6.
    V6([u8; 4]),
}

/// An address of a kind this node dials, without the peer's name, and its IP address. Names are not looked up: whoever
/// hands out one could point it anywhere later.
pub fn plain(address: &Multiaddr) -> Option<(Multiaddr, IpAddr)> {
    let mut address = address.clone();
    if let Some(Protocol::P2p(_)) = address.iter().last() {
        address.pop();
    }
    let parts: Vec<Protocol<'_>> = address.iter().take(4).collect();
    let (ip, rest) = parts.split_first()?;
    let ip = match ip {
        Protocol::Ip4(ip) => IpAddr::V4(*ip),
        Protocol::Ip6(ip) => IpAddr::V6(*ip),
        _ => return None,
    };
    let port = match rest {
        [Protocol::Tcp(port)] | [Protocol::Udp(port), Protocol::QuicV1] => *port,
        _ => return None,
    };
    (port != 0).then_some((address, ip))
}

/// Whether an address leads through a relay.
pub fn is_circuit(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::P2pCircuit)
}

/// A plain address, or one through a relay at a plain address (`<plain>/p2p/RELAY/p2p-circuit`), without the peer's
/// name; and the IP address dialled in either case. One relay leads to the peer: circuits through circuits are refused.
pub fn dialable(address: &Multiaddr) -> Option<(Multiaddr, IpAddr)> {
    if !is_circuit(address) {
        return plain(address);
    }
    let parts: Vec<Protocol<'_>> = address.iter().take(MAX_PARTS + 1).collect();
    let mut halves = parts.splitn(2, |part| *part == Protocol::P2pCircuit);
    let (before, [] | [Protocol::P2p(_)]) = (halves.next()?, halves.next()?) else { return None };
    let (Protocol::P2p(relay), before) = before.split_last()? else { return None };
    if matches!(before.last(), Some(Protocol::P2p(_))) {
        return None; // `plain` would take a second name for the peer's
    }
    let (at, ip) = plain(&before.iter().cloned().collect())?;
    Some((circuit(at, *relay), ip))
}

/// The address of whoever reserved at a relay.
pub fn circuit(relay_at: Multiaddr, relay: PeerId) -> Multiaddr {
    relay_at.with(Protocol::P2p(relay)).with(Protocol::P2pCircuit)
}

/// From where an IP address can be reached; `None` for one that nobody has.
pub fn scope(ip: IpAddr) -> Option<Scope> {
    match ip {
        IpAddr::V4(ip) => scope_v4(ip),
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(ip) => scope_v4(ip),
            None => scope_v6(ip),
        },
    }
}

fn scope_v4(ip: Ipv4Addr) -> Option<Scope> {
    let [a, b, ..] = ip.octets();
    if ip.is_loopback() {
        Some(Scope::Loopback)
    } else if a == 0 || a >= 224 {
        None // this network, multicast, reserved
    } else if ip.is_private() || ip.is_link_local() || (a == 100 && (64..128).contains(&b)) {
        Some(Scope::Private)
    } else {
        Some(Scope::Global)
    }
}

fn scope_v6(ip: Ipv6Addr) -> Option<Scope> {
    if ip.is_loopback() {
        Some(Scope::Loopback)
    } else if ip.is_unspecified() || ip.is_multicast() {
        None
    } else if ip.is_unique_local() || ip.is_unicast_link_local() {
        Some(Scope::Private)
    } else {
        Some(Scope::Global)
    }
}

/// The group of an address; `None` if it is no global one: a site or machine is one operator's anyway. Behind a relay
/// it is the relay's: whoever runs one decides who answers there.
pub fn group(address: &Multiaddr) -> Option<Group> {
    let (_, ip) = dialable(address)?;
    if scope(ip) != Some(Scope::Global) {
        return None;
    }
    let v4 = |ip: Ipv4Addr| {
        let [a, b, ..] = ip.octets();
        Group::V4([a, b])
    };
    Some(match ip {
        IpAddr::V4(ip) => v4(ip),
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(ip) => v4(ip),
            None => {
                let [a, b, c, d, ..] = ip.octets();
                Group::V6([a, b, c, d])
            }
        },
    })
}

/// What this node dials: global addresses, and those of the machine or site its owner named one of himself.
#[derive(Clone, Debug, Default)]
pub struct Scopes(BTreeSet<Scope>);

impl Scopes {
    /// As the owner's own addresses and configured peers say. Listening on all interfaces says nothing.
    pub fn of<'a>(named: impl Iterator<Item = &'a Multiaddr>) -> Self {
        // listen addresses have port 0 where any will do, which `plain` refuses
        let ip = |a: &Multiaddr| match a.iter().next() {
            Some(Protocol::Ip4(ip)) => Some(IpAddr::V4(ip)),
            Some(Protocol::Ip6(ip)) => Some(IpAddr::V6(ip)),
            _ => None,
        };
        Self(named.filter_map(ip).filter_map(scope).chain([Scope::Global]).collect())
    }

    /// Whether this node dials an IP address.
    pub fn has(&self, ip: IpAddr) -> bool {
        scope(ip).is_some_and(|s| self.0.contains(&s))
    }

    /// What of a peer's addresses is dialled, without its name and bounded; those that lead through relays last.
    pub fn fit<'a>(&self, addresses: impl IntoIterator<Item = &'a Multiaddr>) -> Vec<Multiaddr> {
        let (mut direct, mut circuits) = (Vec::new(), Vec::new());
        let dialable = addresses.into_iter().take(4 * MAX_ADDRESSES).filter_map(dialable);
        for (address, _) in dialable.filter(|(_, ip)| self.has(*ip)) {
            let (list, most) =
                if is_circuit(&address) { (&mut circuits, MAX_CIRCUITS) } else { (&mut direct, MAX_ADDRESSES) };
            if list.len() < most && !list.contains(&address) {
                list.push(address);
            }
        }
        direct.append(&mut circuits);
        direct.truncate(MAX_ADDRESSES);
        direct
    }
}

/// The address of this machine that its peers see: the one the system would send from. Connecting a UDP socket sends
/// nothing.
pub(crate) fn own_ip(peers: &[String]) -> IpAddr {
    let first = |host: &str, fits: fn(&IpAddr) -> bool| (host, 9).to_socket_addrs().ok()?.map(|at| at.ip()).find(fits);
    let from = |peer: &String| {
        let mut parts = peer.split('/').skip(1);
        let (kind, host) = (parts.next()?, parts.next()?);
        let to: IpAddr = match kind {
            "ip4" | "ip6" => host.parse().ok()?,
            "dns" => first(host, |_| true)?,
            "dns4" => first(host, IpAddr::is_ipv4)?,
            "dns6" => first(host, IpAddr::is_ipv6)?,
            _ => return None,
        };
        let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { "::".parse().ok()? };
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect((to, 9)).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    peers.iter().find_map(from).unwrap_or(Ipv4Addr::LOCALHOST.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<Multiaddr> {
        texts.iter().map(|t| t.parse().unwrap()).collect()
    }

    #[test] // attack 17: nobody makes this node knock at its own machine or site
    fn private_addresses_are_dialled_only_where_the_owner_named_one() {
        let offered = addresses(&[
            "/ip4/127.0.0.1/tcp/8332",
            "/ip4/10.0.0.1/tcp/22",
            "/ip4/100.64.0.1/tcp/22",
            "/ip6/::1/tcp/5",
            "/ip6/::ffff:127.0.0.1/tcp/5",
            "/ip6/fd00::1/tcp/5",
            "/ip6/fe80::1/tcp/5",
            "/ip4/0.0.0.0/tcp/5",
            "/ip4/255.255.255.255/tcp/5",
            "/ip4/224.0.0.1/udp/5/quic-v1",
            "/ip4/198.51.100.1/tcp/0",
            "/ip4/198.51.100.1/udp/5",
            "/ip4/198.51.100.1/tcp/5/ws",
            "/dns4/example.org/tcp/5",
            "/ip4/198.51.100.1/tcp/4001",
            "/ip6/2001:db8::1/udp/4001/quic-v1",
        ]);
        let open = addresses(&["/ip4/0.0.0.0/tcp/4001", "/ip4/203.0.113.7/tcp/4001"]);
        let fit: Vec<String> = Scopes::of(open.iter()).fit(&offered).iter().map(ToString::to_string).collect();
        assert_eq!(fit, ["/ip4/198.51.100.1/tcp/4001", "/ip6/2001:db8::1/udp/4001/quic-v1"]);
        let home = addresses(&["/ip4/127.0.0.1/tcp/0"]);
        let fit = Scopes::of(home.iter()).fit(&offered);
        assert!(fit.contains(&"/ip4/127.0.0.1/tcp/8332".parse().unwrap()));
        assert!(!fit.contains(&"/ip4/10.0.0.1/tcp/22".parse().unwrap()), "the machine is not the site");
    }

    #[test] // K3
    fn a_peer_has_few_addresses_and_its_name_is_not_one_of_their_parts() {
        let peer = libp2p::PeerId::random();
        let many: Vec<Multiaddr> =
            (1..100).map(|i| format!("/ip4/198.51.100.1/tcp/{i}/p2p/{peer}").parse().unwrap()).collect();
        let fit = Scopes::of([].iter()).fit(&many);
        assert_eq!(fit.len(), MAX_ADDRESSES);
        assert_eq!(fit[0].to_string(), "/ip4/198.51.100.1/tcp/1");
        let twice = Scopes::of([].iter()).fit([&many[0], &many[0]]);
        assert_eq!(twice.len(), 1);
    }

    #[test]
    fn groups_are_what_one_operator_gets() {
        let group = |t: &str| group(&t.parse().unwrap());
        assert_eq!(group("/ip4/198.51.100.1/tcp/1"), group("/ip4/198.51.7.9/udp/2/quic-v1"));
        assert_eq!(group("/ip6/::ffff:198.51.100.1/tcp/1"), group("/ip4/198.51.7.9/tcp/2"));
        assert_ne!(group("/ip4/198.51.100.1/tcp/1"), group("/ip4/198.52.100.1/tcp/1"));
        assert_eq!(group("/ip6/2001:db8:1::1/tcp/1"), group("/ip6/2001:db8:2::1/tcp/1"));
        assert_eq!(group("/ip4/10.1.1.1/tcp/1"), None);
    }

    const RELAY: &str = "12D3KooWMnT1wpTzXnH8bUqaXXVkC8LLV21NtjcWd5CvWtB9RmCh";

    fn through(at: &str, rest: &str) -> String {
        format!("{at}/p2p/{RELAY}/p2p-circuit{rest}")
    }

    #[test] // N1, attack 17: a relay is dialled where any peer would be, and one circuit leads to the peer
    fn circuits_lead_through_one_relay_that_may_be_dialled() {
        let at = "/ip4/198.51.100.1/tcp/4001";
        let peer = format!("/p2p/{}", PeerId::random());
        let open = Scopes::of([].iter());
        let fit = |text: &str| open.fit(&addresses(&[text])).first().map(ToString::to_string);
        for rest in ["", &peer] {
            assert_eq!(fit(&through(at, rest)), Some(through(at, "")), "without the peer's name");
        }
        let quic = "/ip6/2001:db8::1/udp/4001/quic-v1";
        assert_eq!(fit(&through(quic, &peer)), Some(through(quic, "")));
        let nested = through(at, &format!("{peer}/p2p-circuit"));
        let refused = [
            through("/ip4/127.0.0.1/tcp/4001", ""),
            through("/ip4/10.0.0.1/tcp/4001", &peer),
            through("/dns4/example.org/tcp/4001", ""),
            through(at, "/p2p-circuit"),
            nested.clone(),
            format!("{nested}{peer}"),
            through(&format!("{at}{peer}"), ""),
            through(at, &format!("{peer}{peer}")),
            through(at, "/ip4/10.0.0.1/tcp/22"),
            format!("{at}/p2p-circuit"),
            format!("/p2p/{RELAY}/p2p-circuit"),
            "/p2p-circuit".into(),
        ];
        for bad in refused {
            assert_eq!(fit(&bad), None, "{bad}");
        }
        let home = addresses(&["/ip4/127.0.0.1/tcp/0"]);
        assert_eq!(Scopes::of(home.iter()).fit(&addresses(&[&through("/ip4/127.0.0.1/tcp/4001", "")])).len(), 1);
    }

    #[test] // K3
    fn direct_addresses_come_first_and_circuits_are_few() {
        let many: Vec<String> = (1..20).map(|i| through(&format!("/ip4/198.51.100.{i}/tcp/1"), "")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).chain(["/ip4/198.51.100.1/tcp/9"]).collect();
        let fit = Scopes::of([].iter()).fit(&addresses(&many));
        assert_eq!(fit.iter().map(is_circuit).collect::<Vec<_>>(), [false, true, true]);
    }

    #[test] // attack 17: one relay's clients are one range of addresses, so it does not fill the connections
    fn a_circuit_belongs_to_the_range_of_its_relay() {
        let group = |t: &str| group(&t.parse().unwrap());
        let relay = "/ip4/198.51.100.1/tcp/1";
        assert_eq!(group(&through(relay, "")), group(relay));
        assert!(group(&through(relay, &format!("/p2p/{}", PeerId::random()))).is_some());
    }
}
