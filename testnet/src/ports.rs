//! Ports for the services of a network.
//!
//! Asking the system for any free port (port 0) gives one from the ephemeral range, where a moment
//! later some outgoing connection may sit on it; a network that is to be restarted on the same ports
//! needs ones below that range.

use anyhow::{Result, bail};
use rand_core::{OsRng, RngCore};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

/// Searched for free ports: above the registered services, below Linux's ephemeral range.
const RANGE: std::ops::Range<u16> = 20_000..32_000;

/// Hands out loopback addresses.
pub struct Ports {
    next: u16,
    search: bool,
    given: usize,
}

impl Ports {
    /// `base` and the ports after it, or free ones if it is 0.
    pub fn new(base: u16) -> Self {
        if base != 0 {
            return Self { next: base, search: false, given: 0 };
        }
        let offset = u16::try_from(OsRng.next_u32() % u32::from(RANGE.end - RANGE.start)).unwrap_or(0);
        Self { next: RANGE.start + offset, search: true, given: 0 }
    }

    /// The next address.
    ///
    /// # Errors
    /// If a wanted port is taken, or none is free.
    pub fn take(&mut self) -> Result<SocketAddr> {
        for _ in 0..RANGE.len() {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.next));
            self.next = match self.next.checked_add(1) {
                Some(next) if !self.search || next < RANGE.end => next,
                _ if self.search => RANGE.start,
                _ => bail!("the ports above {} are used up: choose a smaller --base-port", self.next),
            };
            if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
                self.given += 1;
                return Ok(address);
            }
            if !self.search {
                bail!("port {} is taken: choose another --base-port, or 0 for free ones", address.port());
            }
        }
        bail!("no free port between {} and {} on 127.0.0.1", RANGE.start, RANGE.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named() {
        let taken = (20_000..32_000).find_map(|p| TcpListener::bind((Ipv4Addr::LOCALHOST, p)).ok()).unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = Ports::new(port).take().unwrap_err().to_string();
        assert!(error.contains(&port.to_string()) && error.contains("--base-port"), "{error}");
    }

    #[test]
    fn free_ports_are_distinct() {
        let mut ports = Ports::new(0);
        let mut all: Vec<_> = (0..40).map(|_| ports.take().unwrap().port()).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 40);
    }
}
