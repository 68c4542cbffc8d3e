//! Weights, deltas and data by hash (D1): kept on disk, served to peers, fetched from peers.
//!
//! The obvious way, asking a peer for a file and hashing it when it has arrived, lets the peer send
//! gigabytes of rubbish first. Here every 16 KiB are checked against the hash as they arrive, and the
//! length comes from the signed record that names the blob, never from the provider: one that states
//! another is dropped before a byte is stored. What is added or fetched stays until it is unpinned, or until
//! the disk quota is reached and whoever reads the ledger has said that it may go ([`Blobs::set_spare`]).
//!
//! The transport is iroh with relays, address lookup and port mapping off (N2): nothing is dialled but
//! the sockets in a provider's [`BlobAddr`], and only the holder of its key is spoken to (K1).

mod collect;
mod fetch;
mod limits;
mod quota;
mod serve;
mod shares;
mod slice;
mod standing;
mod transfer;

pub use fetch::FetchError;
pub use limits::BlobLimits;
pub use quota::{Usage, cost_bytes};
pub use transfer::ProviderFault;

use crate::blob_addr::{BlobAddr, MAX_SOCKETS};
use collect::Collector;
use fetch::Hurry;
use iroh::endpoint::{Endpoint, PortmapperConfig, QuicTransportConfig, RelayMode, VarInt, presets};
use iroh::protocol::Router;
use iroh::{EndpointId, SecretKey};
use iroh_blobs::api::Store;
use iroh_blobs::api::blobs::BlobStatus;
use iroh_blobs::store::fs::FsStore;
use iroh_blobs::store::fs::options::Options;
use iroh_blobs::{Hash, HashAndFormat};
use oda_consensus::ids::{BlobHash, BlobRef, NodeId};
use quota::Stock;
use standing::Standing;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use tokio::sync::Semaphore;

/// Why the blob store refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The directory could not be opened.
    #[error(
        "opening the blobs in {dir} failed: {reason}; if another process uses it, stop that one or choose another --datadir"
    )]
    Open {
        /// The directory.
        dir: PathBuf,
        /// What the store said.
        reason: String,
    },
    /// The socket could not be bound.
    #[error("cannot listen for blobs on {socket} (UDP): {reason}; choose a free port")]
    Listen {
        /// The socket asked for.
        socket: SocketAddr,
        /// What the system said.
        reason: String,
    },
    /// The blob is not here, or not all of it.
    #[error("blob {hash} is not here: fetch it first")]
    Missing {
        /// The blob.
        hash: BlobHash,
    },
    /// The blob is here, but its reference states another length.
    #[error("blob {} has {found} bytes, but its reference says {}: the reference is wrong", .blob.hash, .blob.len)]
    WrongLength {
        /// The reference.
        blob: BlobRef,
        /// The length of the blob.
        found: u64,
    },
    /// The bytes on disk are not those of the hash.
    #[error("blob {hash} is damaged on disk: remove the blobs directory, it is fetched again")]
    Damaged {
        /// The blob.
        hash: BlobHash,
    },
    /// It would take more disk than the owner allows, and the ledger needs all that is here.
    #[error(
        "no room for blob {}: it needs {needed_bytes} bytes, and {used_bytes} of the {quota_bytes} bytes that [blobs] \
         max_disk_mb allows are taken by blobs the ledger needs; raise max_disk_mb, or set it to 0 for no limit", .blob.hash
    )]
    Full {
        /// The blob.
        blob: BlobRef,
        /// What it takes.
        needed_bytes: u64,
        /// What is taken.
        used_bytes: u64,
        /// What is allowed.
        quota_bytes: u64,
    },
    /// The store failed: disk full, permissions, or it is shut down.
    #[error("{doing} failed in the blob store: {reason}; check free space and permissions")]
    Store {
        /// What was being done.
        doing: &'static str,
        /// What the store said.
        reason: String,
    },
}

/// Maps any error of the store.
fn failed<E: std::fmt::Display>(doing: &'static str) -> impl FnOnce(E) -> BlobError {
    move |e| BlobError::Store { doing, reason: e.to_string() }
}

/// Blobs of this node, on disk and on the network. Cloning gives another handle.
#[derive(Debug, Clone)]
pub struct Blobs {
    store: Store,
    router: Router,
    listen: SocketAddr,
    limits: BlobLimits,
    fetch_slots: Arc<Semaphore>,
    hurry: Arc<Hurry>,
    /// One quiet fetch at a time.
    quiet: Arc<Semaphore>,
    standing: Arc<Mutex<Standing>>,
    stock: Arc<Mutex<Stock>>,
    collector: Arc<Collector>,
    /// Plain copies for whoever reads parts of a blob.
    files: Arc<Path>,
    /// One fetch per hash at a time; ended ones are dropped at the next.
    flights: Arc<Mutex<BTreeMap<BlobHash, Weak<tokio::sync::Mutex<()>>>>>,
}

impl Blobs {
    /// Opens or creates the blobs in `dir` and serves them on `listen` (UDP) under the node's key.
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`BlobError::Open`], [`BlobError::Listen`].
    pub async fn open(dir: &Path, secret: &[u8; 32], listen: SocketAddr) -> Result<Self, BlobError> {
        Self::open_with(dir, secret, listen, BlobLimits::default()).await
    }

    /// [`Blobs::open`] with other limits.
    ///
    /// # Errors
    /// As [`Blobs::open`].
    pub async fn open_with(
        dir: &Path,
        secret: &[u8; 32],
        listen: SocketAddr,
        limits: BlobLimits,
    ) -> Result<Self, BlobError> {
        let open = |reason: String| BlobError::Open { dir: dir.into(), reason };
        std::fs::create_dir_all(dir).map_err(|e| open(e.to_string()))?;
        let mut options = Options::new(dir);
        let collector = Arc::new(Collector::new(limits.collect_every_ms));
        options.gc = Some(collector.config());
        let files = FsStore::load_with_opts(dir.join("blobs.db"), options).await.map_err(|e| open(format!("{e:#}")))?;
        let store = Store::from(files);
        match bind(secret, listen, limits).await {
            Ok(endpoint) => {
                let server = serve::Server::new(store.clone(), limits);
                let router = Router::builder(endpoint)
                    .incoming_filter(serve::address_check())
                    .accept(iroh_blobs::ALPN, server)
                    .spawn();
                let fetch_slots = Arc::new(Semaphore::new(limits.fetches_max));
                let files = dir.join("files").into();
                let blobs = Self {
                    store,
                    router,
                    listen,
                    limits,
                    fetch_slots,
                    hurry: Arc::default(),
                    quiet: Arc::new(Semaphore::new(1)),
                    standing: Arc::default(),
                    stock: Arc::default(),
                    collector,
                    files,
                    flights: Arc::default(),
                };
                blobs.count().await?;
                Ok(blobs)
            }
            Err(error) => {
                // Give the directory free again: the caller may try another port.
                if let Err(e) = store.shutdown().await {
                    tracing::debug!("closing the blob store after a failed start: {e}");
                }
                Err(error)
            }
        }
    }

    /// Name of this node: the public key of its secret (K1).
    pub fn node(&self) -> NodeId {
        NodeId(*self.router.endpoint().id().as_bytes())
    }

    /// Where this node serves blobs, for its signed peer record. Listening on an unspecified address
    /// lists those of all interfaces.
    pub fn addr(&self) -> BlobAddr {
        let endpoint = self.router.endpoint();
        let sockets: Vec<SocketAddr> = if self.listen.ip().is_unspecified() {
            endpoint.addr().ip_addrs().copied().take(MAX_SOCKETS).collect()
        } else {
            endpoint.bound_sockets().into_iter().take(MAX_SOCKETS).collect()
        };
        BlobAddr { node: self.node(), sockets }
    }

    /// Keeps these bytes and pins them; they are on disk when this returns (P6).
    ///
    /// # Errors
    /// [`BlobError::Full`], [`BlobError::Store`].
    pub async fn add(&self, bytes: impl Into<bytes::Bytes>) -> Result<BlobRef, BlobError> {
        let bytes = bytes.into();
        let blob = BlobRef::of(&bytes);
        let room = self.make_room(&blob).await?;
        let added = self
            .store
            .blobs()
            .add_bytes(bytes)
            .with_named_tag(tag(blob.hash))
            .await
            .map_err(failed("adding a blob"))?;
        if *added.hash.as_bytes() != blob.hash.0 {
            return Err(BlobError::Damaged { hash: blob.hash });
        }
        self.sync().await?;
        room.filled();
        Ok(blob)
    }

    /// Keeps a file's bytes and pins them, without having all of them in memory; they are on disk when this returns (P6).
    ///
    /// # Errors
    /// [`BlobError::Full`], [`BlobError::Damaged`] if the file has other bytes than its reference says, or
    /// [`BlobError::Store`].
    pub async fn add_file(&self, path: &Path, blob: &BlobRef) -> Result<(), BlobError> {
        let room = self.make_room(blob).await?;
        let adding = self.store.blobs().add_path(path).with_named_tag(tag(blob.hash));
        let added = adding.await.map_err(failed("adding a file"))?;
        if *added.hash.as_bytes() != blob.hash.0 {
            self.unpin(blob.hash).await?;
            return Err(BlobError::Damaged { hash: blob.hash });
        }
        self.sync().await?;
        room.filled();
        Ok(())
    }

    /// Whether the whole blob is here with the length its reference states.
    ///
    /// # Errors
    /// [`BlobError::Store`].
    pub async fn has(&self, blob: &BlobRef) -> Result<bool, BlobError> {
        Ok(self.complete_len(blob.hash).await? == Some(blob.len))
    }

    /// The bytes of a blob that is here, checked against reference and hash once more (D1).
    ///
    /// # Errors
    /// [`BlobError::Missing`], [`BlobError::WrongLength`], [`BlobError::Damaged`], [`BlobError::Store`].
    pub async fn get(&self, blob: &BlobRef) -> Result<Vec<u8>, BlobError> {
        match self.complete_len(blob.hash).await? {
            None => return Err(BlobError::Missing { hash: blob.hash }),
            Some(found) if found != blob.len => return Err(BlobError::WrongLength { blob: *blob, found }),
            Some(_) => {}
        }
        let bytes = self.store.blobs().get_bytes(to_iroh(blob.hash)).await.map_err(failed("reading a blob"))?;
        if BlobRef::of(&bytes) != *blob {
            return Err(BlobError::Damaged { hash: blob.hash });
        }
        Ok(bytes.into())
    }

    /// A plain file with the bytes of a blob that is here, for reading parts of it; checked against
    /// reference and hash whenever this is called (D1).
    ///
    /// # Errors
    /// [`BlobError::Missing`], [`BlobError::WrongLength`], [`BlobError::Damaged`], [`BlobError::Store`].
    pub async fn file(&self, blob: &BlobRef) -> Result<PathBuf, BlobError> {
        let path = self.files.join(blob.hash.to_string());
        if matches_file(path.clone(), *blob).await {
            return Ok(path);
        }
        match self.complete_len(blob.hash).await? {
            None => return Err(BlobError::Missing { hash: blob.hash }),
            Some(found) if found != blob.len => return Err(BlobError::WrongLength { blob: *blob, found }),
            Some(_) => {}
        }
        let room = self.make_room_for_copy(blob).await?;
        static COPIES: AtomicU64 = AtomicU64::new(0);
        std::fs::create_dir_all(&self.files).map_err(failed("writing a blob's file"))?;
        // two callers at once write two files; whoever renames last wins, with the same bytes
        let part = self.files.join(format!("{}.{}.part", blob.hash, COPIES.fetch_add(1, Ordering::Relaxed)));
        self.store.blobs().export(to_iroh(blob.hash), &part).await.map_err(failed("writing a blob's file"))?;
        std::fs::rename(&part, &path).map_err(failed("writing a blob's file"))?;
        if !matches_file(path.clone(), *blob).await {
            return Err(BlobError::Damaged { hash: blob.hash });
        }
        room.filled();
        Ok(path)
    }

    /// No longer keeps a blob; its space is freed at the next collection.
    ///
    /// # Errors
    /// [`BlobError::Store`].
    pub async fn unpin(&self, hash: BlobHash) -> Result<(), BlobError> {
        self.store.tags().delete(tag(hash)).await.map_err(failed("unpinning a blob"))?;
        Ok(())
    }

    /// Stops serving, ends transfers and closes the directory.
    ///
    /// # Errors
    /// [`BlobError::Store`].
    pub async fn shutdown(&self) -> Result<(), BlobError> {
        self.router.shutdown().await.map_err(failed("closing the endpoint"))?;
        self.store.shutdown().await.map_err(failed("closing the directory"))
    }

    async fn pin(&self, hash: BlobHash) -> Result<(), BlobError> {
        let content = HashAndFormat::raw(to_iroh(hash));
        self.store.tags().set(tag(hash), content).await.map_err(failed("pinning a blob"))?;
        self.sync().await
    }

    async fn sync(&self) -> Result<(), BlobError> {
        self.store.sync_db().await.map_err(failed("syncing the directory"))
    }

    async fn complete_len(&self, hash: BlobHash) -> Result<Option<u64>, BlobError> {
        match self.store.blobs().status(to_iroh(hash)).await.map_err(failed("looking up a blob"))? {
            BlobStatus::Complete { size } => Ok(Some(size)),
            BlobStatus::Partial { .. } | BlobStatus::NotFound => Ok(None),
        }
    }
}

fn to_iroh(hash: BlobHash) -> Hash {
    Hash::from_bytes(hash.0)
}

/// Whether a file holds exactly the bytes of a blob.
async fn matches_file(path: PathBuf, blob: BlobRef) -> bool {
    let check = move || -> std::io::Result<bool> {
        if std::fs::metadata(&path)?.len() != blob.len {
            return Ok(false);
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(std::fs::File::open(&path)?)?;
        Ok(hasher.finalize().as_bytes() == &blob.hash.0)
    };
    tokio::task::spawn_blocking(check).await.is_ok_and(|found| found.unwrap_or(false))
}

/// The name under which the store keeps a pinned blob.
fn tag(hash: BlobHash) -> String {
    format!("pin-{hash}")
}

/// An endpoint that speaks to nobody but the sockets it is given (N2).
async fn bind(secret: &[u8; 32], listen: SocketAddr, limits: BlobLimits) -> Result<Endpoint, BlobError> {
    let transport = QuicTransportConfig::builder()
        .max_concurrent_bidi_streams(VarInt::from_u32(limits.transfers_per_connection_max))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .receive_window(VarInt::from_u32(8 << 20))
        .send_window(4 << 20)
        .build();
    let unusable = |reason: String| BlobError::Listen { socket: listen, reason };
    Endpoint::builder(presets::Minimal)
        .secret_key(SecretKey::from_bytes(secret))
        .relay_mode(RelayMode::Disabled)
        .clear_address_lookup()
        .portmapper_config(PortmapperConfig::Disabled)
        .transport_config(transport)
        .clear_ip_transports()
        .bind_addr(listen)
        .map_err(|e| unusable(e.to_string()))?
        .bind()
        .await
        .map_err(|e| unusable(format!("{e:#}")))
}

fn endpoint_id(node: NodeId) -> Option<EndpointId> {
    EndpointId::from_bytes(&node.0).ok()
}
