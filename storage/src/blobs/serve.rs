//! The serving side: every complete blob to anyone, within limits (K3).
//!
//! The handler that comes with the blob store answers any number of requests of five kinds for as
//! long as the peer likes. This one answers a single kind, "this blob or a range of it", and puts a
//! limit beside each thing a peer can make this node hold: handshakes, connections, connections per
//! peer, transfers, and the time each may take.

use super::BlobLimits;
use iroh::EndpointId;
use iroh::endpoint::{Accepting, Connection, RecvStream, SendStream};
use iroh::protocol::{AcceptError, IncomingFilter, IncomingFilterOutcome, ProtocolHandler};
use iroh_blobs::api::Store;
use iroh_blobs::protocol::{ERR_LIMIT, Request};
use iroh_blobs::provider::{StreamPair, events::EventSender, handle_get};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long a peer may take for a handshake, or to send its request.
const REQUEST_MS_MAX: u64 = 10_000;

/// Makes a peer prove its address before it costs a handshake: spoofed floods end here.
pub(super) fn address_check() -> IncomingFilter {
    Arc::new(|incoming| {
        if incoming.remote_addr_validated() { IncomingFilterOutcome::Accept } else { IncomingFilterOutcome::Retry }
    })
}

#[derive(Debug)]
pub(super) struct Server {
    store: Store,
    limits: BlobLimits,
    handshakes: Semaphore,
    connections: Semaphore,
    transfers: Arc<Semaphore>,
    peers: Mutex<BTreeMap<EndpointId, u32>>,
}

impl Server {
    pub(super) fn new(store: Store, limits: BlobLimits) -> Self {
        Self {
            store,
            limits,
            handshakes: Semaphore::new(limits.handshakes_max),
            connections: Semaphore::new(limits.connections_max),
            transfers: Arc::new(Semaphore::new(limits.transfers_max)),
            peers: Mutex::default(),
        }
    }

    async fn serve(&self, connection: &Connection) {
        // Dropped with its tasks when the connection ends: no transfer outlives it.
        let mut tasks = JoinSet::new();
        loop {
            while tasks.try_join_next().is_some() {}
            match timeout(Duration::from_millis(self.limits.idle_ms_max), connection.accept_bi()).await {
                Ok(Ok((mut send, recv))) => {
                    let Ok(permit) = self.transfers.clone().try_acquire_owned() else {
                        send.reset(ERR_LIMIT).ok(); // an error here means that the peer is gone already
                        continue;
                    };
                    let (store, id) = (self.store.clone(), connection.stable_id() as u64);
                    let transfer_ms_max = self.limits.transfer_ms_max;
                    tasks.spawn(async move {
                        let _permit = permit;
                        let transfer = transfer(store, id, send, recv);
                        if timeout(Duration::from_millis(transfer_ms_max), transfer).await.is_err() {
                            tracing::debug!("a peer took too long to take a blob");
                        }
                    });
                }
                Ok(Err(_)) => return, // closed by the peer
                Err(_) if tasks.is_empty() => return,
                Err(_) => {}
            }
        }
    }
}

/// Answers one request. Ending without a word says "not here".
async fn transfer(store: Store, connection: u64, send: SendStream, recv: RecvStream) {
    let mut pair = StreamPair::new(connection, recv, send, EventSender::DEFAULT);
    let request = match timeout(Duration::from_millis(REQUEST_MS_MAX), pair.read_request()).await {
        Ok(Ok(Request::Get(request))) if request.ranges.is_blob() => request,
        Ok(Ok(_)) | Ok(Err(_)) | Err(_) => return,
    };
    if !store.blobs().has(request.hash).await.unwrap_or(false) {
        return;
    }
    if let Err(e) = handle_get(pair, store, request).await {
        tracing::debug!("serving a blob: {e:#}");
    }
}

impl ProtocolHandler for Server {
    async fn on_accepting(&self, accepting: Accepting) -> Result<Connection, AcceptError> {
        let _permit = self.handshakes.try_acquire().map_err(AcceptError::from_err)?;
        let handshake = timeout(Duration::from_millis(REQUEST_MS_MAX), accepting).await;
        Ok(handshake.map_err(AcceptError::from_err)??)
    }

    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        let permit = self.connections.try_acquire();
        let place = PeerPlace::take(&self.peers, connection.remote_id(), self.limits.connections_per_peer_max);
        if permit.is_err() || place.is_none() {
            connection.close(ERR_LIMIT, b"busy");
            return Ok(());
        }
        self.serve(&connection).await;
        connection.close(0_u32.into(), b"done");
        Ok(())
    }
}

/// One of the connections a peer may have; given back when dropped.
struct PeerPlace<'a> {
    peers: &'a Mutex<BTreeMap<EndpointId, u32>>,
    peer: EndpointId,
}

impl<'a> PeerPlace<'a> {
    fn take(peers: &'a Mutex<BTreeMap<EndpointId, u32>>, peer: EndpointId, max: u32) -> Option<Self> {
        let mut counts = peers.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.get(&peer).copied().unwrap_or(0);
        if count >= max {
            return None;
        }
        counts.insert(peer, count.saturating_add(1));
        Some(Self { peers, peer })
    }
}

impl Drop for PeerPlace<'_> {
    fn drop(&mut self) {
        let mut counts = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        match counts.get_mut(&self.peer) {
            Some(count) if *count > 1 => *count = count.saturating_sub(1),
            _ => {
                counts.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test] // N1, K3: a peer has so many places and no more, and the map forgets peers that left
    fn places_are_limited_per_peer_and_given_back() {
        let peers = Mutex::default();
        let (a, b) = (iroh::SecretKey::from_bytes(&[1; 32]).public(), iroh::SecretKey::from_bytes(&[2; 32]).public());
        let first = PeerPlace::take(&peers, a, 2).unwrap();
        let second = PeerPlace::take(&peers, a, 2).unwrap();
        assert!(PeerPlace::take(&peers, a, 2).is_none());
        assert!(PeerPlace::take(&peers, b, 2).is_some());
        drop(first);
        assert!(PeerPlace::take(&peers, a, 2).is_some());
        drop(second);
        assert!(peers.lock().unwrap().is_empty());
    }
}
