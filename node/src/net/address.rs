//! Which addresses of others may be dialled (N1, attack 17), and from which of its own a node does.
//!
//! Addresses of peers come from peers. Dialled as they come, they would make a node knock at services of its own
//! machine and network for a stranger, or spend all its connections on the addresses of one attacker.

use libp2p::{Multiaddr, multiaddr::Protocol};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

/// Most addresses of one peer.
pub const MAX_ADDRESSES: usize = 8;

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

/// The group of an address; `None` if it is no global one: a site or machine is one operator's anyway.
pub fn group(address: &Multiaddr) -> Option<Group> {
    let (_, ip) = plain(address)?;
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

    /// What of a peer's addresses is dialled, without its name and bounded.
    pub fn fit<'a>(&self, addresses: impl IntoIterator<Item = &'a Multiaddr>) -> Vec<Multiaddr> {
        let mut fit: Vec<Multiaddr> = Vec::new();
        let plain = addresses.into_iter().take(4 * MAX_ADDRESSES).filter_map(plain);
        for (address, _) in plain.filter(|(_, ip)| scope(*ip).is_some_and(|s| self.0.contains(&s))) {
            if fit.len() < MAX_ADDRESSES && !fit.contains(&address) {
                fit.push(address);
            }
        }
        fit
    }
}

/// The address of this machine that its peers see: the one the system would send from. Connecting a UDP socket sends
/// nothing.
pub(crate) fn own_ip(peers: &[String]) -> IpAddr {
    let from = |peer: &String| {
        let mut parts = peer.split('/').skip(1);
        let (kind, host) = (parts.next()?, parts.next()?);
        let to: IpAddr = host.parse().ok().filter(|_| matches!(kind, "ip4" | "ip6"))?;
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
}
