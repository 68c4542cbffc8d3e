//! Names in the owner's own list of peers: looked up at each dial, so that a bootstrap peer may move.
//!
//! By the system's resolver, which knows the owner's hosts file and network. Names from others are never looked up: see
//! [`super::address`].

use super::address::MAX_ADDRESSES;
use libp2p::{Multiaddr, multiaddr::Protocol};
use std::io;
use std::net::IpAddr;
use tokio::time::{Duration, timeout};

/// How long the resolver may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The name an address begins with, and whether it may stand for an IPv4 and an IPv6 address.
fn name(address: &Multiaddr) -> Option<(String, bool, bool)> {
    match address.iter().next()? {
        Protocol::Dns(name) => Some((name.into_owned(), true, true)),
        Protocol::Dns4(name) => Some((name.into_owned(), true, false)),
        Protocol::Dns6(name) => Some((name.into_owned(), false, true)),
        _ => None,
    }
}

/// What a name stands for now, as addresses to dial; an address without one as it is.
///
/// # Errors
/// What the resolver says, or that it took too long.
pub async fn look_up(address: &Multiaddr) -> io::Result<Vec<Multiaddr>> {
    let Some((name, v4, v6)) = name(address) else { return Ok(vec![address.clone()]) };
    let found = timeout(PATIENCE, tokio::net::lookup_host((name.as_str(), 0))).await??;
    let fits = |ip: &IpAddr| if ip.is_ipv4() { v4 } else { v6 };
    let with = |ip: IpAddr| std::iter::once(Protocol::from(ip)).chain(address.iter().skip(1)).collect();
    Ok(found.map(|socket| socket.ip()).filter(fits).take(MAX_ADDRESSES).map(with).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_is_replaced_and_the_rest_stays() {
        let found = |text: &str| {
            let address = text.parse().unwrap();
            async move { look_up(&address).await.unwrap().iter().map(ToString::to_string).collect::<Vec<_>>() }
        };
        assert_eq!(found("/dns4/localhost/udp/4001/quic-v1").await, ["/ip4/127.0.0.1/udp/4001/quic-v1"]);
        assert!(found("/dns/localhost/tcp/4001").await.contains(&"/ip4/127.0.0.1/tcp/4001".into()));
        assert!(!found("/dns6/localhost/tcp/4001").await.contains(&"/ip4/127.0.0.1/tcp/4001".into()));
        assert_eq!(found("/ip4/198.51.100.1/tcp/1").await, ["/ip4/198.51.100.1/tcp/1"]);
    }
}
