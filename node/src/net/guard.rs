//! What one neighbour may take (K3, attack 17).
//!
//! A limit for all together would let the loudest peer use it up; so each has its own, and the common
//! limits only bound memory.

use super::relays::Offers;
use libp2p::Multiaddr;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Requests of one peer that may wait for the node at a time.
pub const SLOTS_PER_PEER: usize = 16;
/// Requests of all peers that may wait for the node at a time.
pub const SLOTS: usize = 256;
/// Requests of one peer per second, and at once.
const REQUESTS: (f64, f64) = (100.0, 200.0);
/// New gossip messages from one neighbour per second, and at once.
const GOSSIP: (f64, f64) = (500.0, 2000.0);

/// A token bucket.
#[derive(Debug)]
pub struct Bucket {
    rate: f64,
    burst: f64,
    left: f64,
    at: Instant,
}

impl Bucket {
    /// A full one: so much per second, and at once.
    pub fn new((rate, burst): (f64, f64), now: Instant) -> Self {
        Self { rate, burst, left: burst, at: now }
    }

    /// Whether one more is within the allowance.
    pub fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.left = (self.left + passed * self.rate).min(self.burst);
        let enough = self.left >= 1.0;
        if enough {
            self.left -= 1.0;
        }
        enough
    }
}

/// A request's place among its peer's and among all; freed when it is answered or dropped.
#[derive(Debug)]
pub struct Slots {
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

/// One connected neighbour.
#[derive(Debug)]
pub struct Neighbour {
    /// When the first connection came up.
    pub since: Instant,
    /// Whether it has named our chain.
    pub of_our_chain: bool,
    /// Whether it is a full node: it serves the table of peers.
    pub is_full: bool,
    /// Where this node reached it, if it opened the connection by its own choice; through a relay or directly.
    pub reached_at: Option<Multiaddr>,
    /// What it does for others.
    pub offers: Offers,
    /// When it last failed to answer a request.
    pub failed: Option<Instant>,
    slots: Arc<Semaphore>,
    requests: Bucket,
    gossip: Bucket,
}

impl Neighbour {
    /// A neighbour that has just connected.
    pub fn new(now: Instant) -> Self {
        Self {
            since: now,
            of_our_chain: false,
            is_full: false,
            reached_at: None,
            offers: Offers::default(),
            failed: None,
            slots: Arc::new(Semaphore::new(SLOTS_PER_PEER)),
            requests: Bucket::new(REQUESTS, now),
            gossip: Bucket::new(GOSSIP, now),
        }
    }

    /// Whether another request may wait; `None`: refuse it.
    pub fn request(&mut self, all: &Arc<Semaphore>, now: Instant) -> Option<Slots> {
        if !self.requests.take(now) {
            return None;
        }
        let own = self.slots.clone().try_acquire_owned().ok()?;
        Some(Slots { _own: own, _all: all.clone().try_acquire_owned().ok()? })
    }

    /// Whether another gossip message is within the allowance; otherwise it floods.
    pub fn gossip(&mut self, now: Instant) -> bool {
        self.gossip.take(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Duration;

    #[test] // K3, attack 17
    fn one_peer_cannot_take_the_places_of_the_others() {
        let now = Instant::now();
        let all = Arc::new(Semaphore::new(SLOTS));
        let (mut loud, mut quiet) = (Neighbour::new(now), Neighbour::new(now));
        let held: Vec<Slots> = (0..100).filter_map(|_| loud.request(&all, now)).collect();
        assert_eq!(held.len(), SLOTS_PER_PEER);
        assert!(quiet.request(&all, now).is_some());
        drop(held);
        assert!(loud.request(&all, now).is_some(), "answered requests free their places");
    }

    #[test] // K3, attack 17
    fn a_flood_runs_dry_and_refills() {
        let now = Instant::now();
        let mut peer = Neighbour::new(now);
        let taken = (0..5000).filter(|_| peer.gossip(now)).count();
        assert_eq!(taken, 2000);
        assert!(!peer.gossip(now));
        assert!(peer.gossip(now + Duration::from_secs(1)));
        assert!(!Bucket::new((1.0, 0.0), now).take(now - Duration::from_secs(1)), "time going back gives nothing");
    }
}
