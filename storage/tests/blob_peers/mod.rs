//! What the tests of the blob store share: bytes, nodes, and providers that behave oddly and count what they send.
#![allow(dead_code)] // each test binary uses a part

use iroh::endpoint::{Connection, RelayMode, presets};
use iroh::protocol::{AcceptError, ProtocolHandler, Router};
use iroh::{Endpoint, SecretKey};
use iroh_blobs::protocol::Request;
use iroh_blobs::store::mem::MemStore;
use oda_consensus::ids::NodeId;
use oda_storage::{BlobAddr, BlobLimits, Blobs};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub const MAX_LEN: u64 = 64 << 20;
pub const MIB: usize = 1 << 20;

pub fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// Bytes that no two seeds share.
pub fn noise(seed: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut bytes);
    bytes
}

pub async fn open(dir: &Path, secret: u8, limits: BlobLimits) -> Blobs {
    Blobs::open_with(dir, &[secret; 32], loopback(), limits).await.unwrap()
}

/// A bare endpoint on loopback with the key of a seed: no relays, no look-ups (N2).
pub async fn endpoint(secret: u8) -> Endpoint {
    Endpoint::builder(presets::Minimal)
        .secret_key(SecretKey::from_bytes(&[secret; 32]))
        .relay_mode(RelayMode::Disabled)
        .clear_ip_transports()
        .bind_addr(loopback())
        .unwrap()
        .bind()
        .await
        .unwrap()
}

/// Where an endpoint serves blobs.
pub fn addr(endpoint: &Endpoint) -> BlobAddr {
    BlobAddr { node: NodeId(*endpoint.id().as_bytes()), sockets: endpoint.bound_sockets() }
}

/// How a provider answers the ranges it is asked for.
#[derive(Debug, Clone, Copy)]
pub enum Manner {
    /// So many bytes, then a pause, and so on.
    Slowly(usize, u64),
    /// So many bytes of each answer, then nothing more.
    Stalls(usize),
    /// The right length, and every byte after it inverted.
    Lies,
}

/// A provider with the key of a seed.
pub struct Peer {
    pub addr: BlobAddr,
    counts: Arc<Counts>,
    _router: Router,
}

#[derive(Debug, Default)]
struct Counts {
    requests: AtomicU64,
    sent_bytes: AtomicU64,
}

#[derive(Debug, Clone)]
struct Handler {
    store: MemStore,
    manner: Manner,
    counts: Arc<Counts>,
}

impl ProtocolHandler for Handler {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        while let Ok((mut send, mut recv)) = connection.accept_bi().await {
            let Ok((Request::Get(get), _)) = Request::read_async(&mut recv).await else { continue };
            self.counts.requests.fetch_add(1, Ordering::SeqCst);
            let ranges = get.ranges[0].clone();
            let mut answer = self.store.blobs().export_bao(get.hash, ranges).bao_to_vec().await.unwrap();
            let (step, pause_ms, most) = match self.manner {
                Manner::Slowly(step, pause_ms) => (step, pause_ms, usize::MAX),
                Manner::Stalls(most) => (most, 0, most),
                Manner::Lies => {
                    answer.iter_mut().skip(8).for_each(|byte| *byte = !*byte);
                    (MIB, 0, usize::MAX)
                }
            };
            for piece in answer.chunks(step).take(most.div_ceil(step)) {
                if send.write_all(piece).await.is_err() {
                    break;
                }
                self.counts.sent_bytes.fetch_add(piece.len() as u64, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(pause_ms)).await;
            }
            if let Manner::Stalls(_) = self.manner {
                connection.closed().await;
            }
            let _gone = send.finish();
        }
        Ok(())
    }
}

impl Peer {
    /// Starts one that has these blobs.
    pub async fn start(secret: u8, manner: Manner, blobs: &[&[u8]]) -> Self {
        let endpoint = endpoint(secret).await;
        let store = MemStore::new();
        for bytes in blobs {
            store.blobs().add_slice(bytes).await.unwrap();
        }
        let addr = addr(&endpoint);
        let counts = Arc::<Counts>::default();
        let handler = Handler { store, manner, counts: counts.clone() };
        Self { addr, counts, _router: Router::builder(endpoint).accept(iroh_blobs::ALPN, handler).spawn() }
    }

    pub fn requests(&self) -> u64 {
        self.counts.requests.load(Ordering::SeqCst)
    }

    pub fn sent_bytes(&self) -> u64 {
        self.counts.sent_bytes.load(Ordering::SeqCst)
    }
}
