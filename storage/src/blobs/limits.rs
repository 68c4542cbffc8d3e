//! How much peers may cost this node, and how long it waits for them: one place for every bound of the blob store.

/// Bounds on what peers may cost this node, and on how long it waits for them (K3).
#[derive(Debug, Clone, Copy)]
pub struct BlobLimits {
    /// Connections served at once.
    pub connections_max: usize,
    /// Connections served at once to one peer, so that no peer takes them all (N1).
    pub connections_per_peer_max: u32,
    /// Handshakes in progress at once.
    pub handshakes_max: usize,
    /// Transfers served at once, over all connections.
    pub transfers_max: usize,
    /// Transfers at once over one connection.
    pub transfers_per_connection_max: u32,
    /// Longest time one transfer may be served.
    pub transfer_ms_max: u64,
    /// How long a served connection may be without a transfer.
    pub idle_ms_max: u64,
    /// Fetches at once.
    pub fetches_max: usize,
    /// Providers tried for one fetch.
    pub providers_max: usize,
    /// Providers asked at once for parts of one blob.
    pub parallel_max: usize,
    /// After how long without progress a part is given to a second provider as well.
    pub takeover_ms: u64,
    /// How long a provider may take to answer the handshake.
    pub connect_ms_max: u64,
    /// How long a provider may be silent during a transfer.
    pub silence_ms_max: u64,
    /// Slowest average a provider may send at, beyond one `silence_ms_max` of grace.
    pub rate_min_bytes_per_s: u64,
    /// Fastest one fetch may go, beyond the first few MiB that are under way anyway; 0: as fast as it comes. The
    /// slowest
    /// a provider may be is then half of this at most.
    pub fetch_bytes_per_s: u64,
    /// Most the blobs may take on disk, their plain copies included; 0: no limit.
    pub disk_bytes_max: u64,
    /// How often blobs that nothing pins are removed, leftovers of broken fetches among them.
    pub collect_every_ms: u64,
}

impl Default for BlobLimits {
    fn default() -> Self {
        Self {
            connections_max: 64,
            connections_per_peer_max: 8,
            handshakes_max: 32,
            transfers_max: 128,
            transfers_per_connection_max: 16,
            transfer_ms_max: 1_800_000,
            idle_ms_max: 60_000,
            fetches_max: 8,
            providers_max: 32,
            parallel_max: 3,
            takeover_ms: 3_000,
            connect_ms_max: 10_000,
            silence_ms_max: 20_000,
            rate_min_bytes_per_s: 32 << 10,
            fetch_bytes_per_s: 0,
            disk_bytes_max: 0,
            collect_every_ms: 600_000,
        }
    }
}
