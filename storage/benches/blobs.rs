//! Fetching blobs beside bare iroh-blobs, in one run: `cargo bench --workspace --bench blobs`; `-- --quick` for a look.
//!
//! Both fetch the same bytes over QUIC on loopback into a store on disk, one after the other in turn, so the ratio is what
//! checking the length, sharing the work, pinning and syncing cost. Provider and fetcher share the machine's cores.

#[path = "../tests/blob_peers/mod.rs"]
mod blob_peers;

use blob_peers::{MIB, Manner, Peer, addr, endpoint, noise, open};
use iroh::protocol::Router;
use iroh_blobs::store::fs::FsStore;
use iroh_blobs::{BlobsProtocol, Hash};
use oda_consensus::ids::BlobRef;
use oda_storage::{BlobAddr, BlobLimits};
use std::time::Instant;

const MAX_LEN: u64 = 1 << 30;

/// Middle of some rates.
fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_unstable_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// Secrets that no two endpoints of a run share.
struct Secrets(u8);

impl Secrets {
    fn take(&mut self) -> u8 {
        self.0 += 1;
        self.0
    }
}

/// Fetches with iroh-blobs as it is: one connection, one request, a store on disk; MB/s.
async fn bare(secrets: &mut Secrets, bytes: &[u8], provider: &BlobAddr) -> f64 {
    let dir = tempfile::tempdir().expect("a directory");
    let store = FsStore::load(dir.path()).await.expect("an empty store");
    let endpoint = endpoint(secrets.take()).await;
    let id = iroh::EndpointId::from_bytes(&provider.node.0).expect("a key");
    let at = provider.sockets.iter().fold(iroh::EndpointAddr::new(id), |at, socket| at.with_ip_addr(*socket));
    let start = Instant::now();
    let connection = endpoint.connect(at, iroh_blobs::ALPN).await.expect("a connection");
    store.remote().fetch(connection, Hash::new(bytes)).complete().await.expect("the blob");
    store.sync_db().await.expect("a synced store");
    let rate = bytes.len() as f64 / 1e6 / start.elapsed().as_secs_f64();
    endpoint.close().await;
    store.shutdown().await.expect("a store that closes");
    rate
}

/// Fetches as a node does; MB/s.
async fn ours(secrets: &mut Secrets, bytes: &[u8], providers: &[BlobAddr]) -> f64 {
    let dir = tempfile::tempdir().expect("a directory");
    let blobs = open(dir.path(), secrets.take(), BlobLimits::default()).await;
    let blob = BlobRef::of(bytes);
    let start = Instant::now();
    blobs.fetch(&blob, providers, MAX_LEN, None).await.expect("the blob");
    let rate = bytes.len() as f64 / 1e6 / start.elapsed().as_secs_f64();
    blobs.shutdown().await.expect("a store that closes");
    rate
}

fn main() {
    let quick = std::env::args().any(|a| a == "--quick");
    let (len, rounds) = if quick { (8 * MIB, 3) } else { (64 * MIB, 7) };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut secrets = Secrets(0);
        let dirs: Vec<_> = (0..4).map(|_| tempfile::tempdir().expect("a directory")).collect();
        let mut nodes = Vec::new();
        for dir in &dirs[..3] {
            nodes.push(open(dir.path(), secrets.take(), BlobLimits::default()).await);
        }
        let plain = FsStore::load(dirs[3].path()).await.expect("an empty store");
        let at = endpoint(secrets.take()).await;
        let plain_addr = addr(&at);
        let _router = Router::builder(at).accept(iroh_blobs::ALPN, BlobsProtocol::new(&plain, None)).spawn();
        let [mut alone, mut one, mut three, mut lied] = [const { Vec::new() }; 4];
        for round in 0..rounds {
            let bytes = noise(round, len);
            plain.blobs().add_slice(&bytes).await.expect("a blob");
            for node in &nodes {
                node.add(bytes.clone()).await.expect("a blob");
            }
            let [a, b, c] = [0, 1, 2].map(|i: usize| nodes[i].addr());
            // the liar is new each time: one that was caught is asked last for ten minutes
            let liar = Peer::start(secrets.take(), Manner::Lies, &[&bytes]).await;
            alone.push(bare(&mut secrets, &bytes, &plain_addr).await);
            one.push(ours(&mut secrets, &bytes, std::slice::from_ref(&a)).await);
            three.push(ours(&mut secrets, &bytes, &[a.clone(), b.clone(), c]).await);
            lied.push(ours(&mut secrets, &bytes, &[liar.addr.clone(), a, b]).await);
            assert!(liar.requests() > 0, "it was asked");
        }
        let alone = median(alone);
        println!("| {} MiB, median of {rounds} | MB/s | against bare |\n|---|---|---|", len / MIB);
        println!("| bare iroh-blobs, one provider | {alone:.0} | 1 |");
        for (what, rates) in
            [("one provider", one), ("three providers", three), ("three providers, of which one lies", lied)]
        {
            let rate = median(rates);
            println!("| {what} | {rate:.0} | {:.2} |", rate / alone);
        }
    });
}
