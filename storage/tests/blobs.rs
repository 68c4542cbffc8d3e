//! Blobs between real endpoints on loopback, honest and hostile.

mod blob_peers;

use blob_peers::{MAX_LEN, addr, endpoint, loopback, noise};
use iroh::endpoint::Connection;
use iroh::protocol::{AcceptError, ProtocolHandler, Router};
use oda_consensus::ids::{BlobHash, BlobRef, NodeId};
use oda_consensus::keys::NodeKey;
use oda_storage::{BlobAddr, BlobError, BlobLimits, Blobs, FetchError, ProviderFault};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

async fn node(dir: &Path, secret: u8) -> Blobs {
    let limits = BlobLimits { connect_ms_max: 2_000, silence_ms_max: 2_000, ..BlobLimits::default() };
    Blobs::open_with(dir, &[secret; 32], loopback(), limits).await.unwrap()
}

fn faults(result: Result<(), FetchError>) -> Vec<(NodeId, ProviderFault)> {
    match result {
        Err(FetchError::AllFailed { faults, .. }) => faults,
        other => panic!("expected every provider to fail, got {other:?}"),
    }
}

/// A node with a valid key that answers a request as it likes.
#[derive(Debug, Clone)]
struct Hostile {
    answer: Arc<Vec<u8>>,
    hang: bool,
    requests: Arc<AtomicU64>,
}

impl ProtocolHandler for Hostile {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        while let Ok((mut send, mut recv)) = connection.accept_bi().await {
            self.requests.fetch_add(1, Ordering::SeqCst);
            let _request = recv.read_to_end(1 << 20).await;
            let _gone = send.write_all(&self.answer).await;
            if self.hang {
                connection.closed().await;
            }
            let _gone = send.finish();
        }
        Ok(())
    }
}

async fn hostile(secret: u8, answer: Vec<u8>, hang: bool) -> (Router, BlobAddr, Arc<AtomicU64>) {
    let endpoint = endpoint(secret).await;
    let addr = addr(&endpoint);
    let requests = Arc::new(AtomicU64::new(0));
    let handler = Hostile { answer: Arc::new(answer), hang, requests: requests.clone() };
    (Router::builder(endpoint).accept(iroh_blobs::ALPN, handler).spawn(), addr, requests)
}

#[tokio::test(flavor = "multi_thread")] // D1: a file read in parts is checked whenever it is asked for
async fn a_damaged_file_is_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = node(dir.path(), 1).await;
    let bytes = noise(7, 100_000);
    let blob = blobs.add(bytes.clone()).await.unwrap();
    let path = blobs.file(&blob).await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    for damage in [[&bytes[..50_000], &[bytes[50_000] ^ 1], &bytes[50_001..]].concat(), bytes[..99].to_vec(), vec![]] {
        std::fs::write(&path, damage).unwrap();
        assert_eq!(blobs.file(&blob).await.unwrap(), path);
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }
    let missing = BlobRef::of(b"never here");
    assert!(matches!(blobs.file(&missing).await, Err(BlobError::Missing { .. })));
    let longer = BlobRef { len: blob.len + 1, ..blob };
    assert!(matches!(blobs.file(&longer).await, Err(BlobError::WrongLength { .. })));
    blobs.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")] // K1, D1, N2
async fn fetches_a_blob_by_reference() {
    let (a_dir, b_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (a, b) = (node(a_dir.path(), 1).await, node(b_dir.path(), 2).await);
    assert_eq!(a.node(), NodeKey::from_secret(&[1; 32]).id(), "K1: one key, one name");
    assert_eq!(a.addr().sockets.len(), 1);
    assert!(a.addr().sockets[0].ip().is_loopback() && a.addr().sockets[0].port() != 0);
    let bytes = noise(1, 1 << 20);
    let blob = a.add(bytes.clone()).await.unwrap();
    assert_eq!(blob, BlobRef::of(&bytes));
    assert!(a.has(&blob).await.unwrap() && !b.has(&blob).await.unwrap());
    let (tell, mut told) = tokio::sync::mpsc::channel(1_000);
    b.fetch(&blob, &[a.addr()], MAX_LEN, Some(tell)).await.unwrap();
    let (mut last, mut count) = (0, 0);
    while let Some(held) = told.recv().await {
        assert!(held >= last && held <= blob.len);
        (last, count) = (held, count + 1);
    }
    assert!(last == blob.len && count > 10, "{count} reports up to {last}");
    assert_eq!(b.get(&blob).await.unwrap(), bytes);
    // here already: nobody is asked
    b.fetch(&blob, &[], MAX_LEN, None).await.unwrap();
    a.shutdown().await.unwrap();
    b.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_goes_no_faster_than_told_and_arrives() {
    let (a_dir, b_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let limits = BlobLimits { fetch_bytes_per_s: 512 << 10, ..BlobLimits::default() };
    let a = node(a_dir.path(), 31).await;
    let b = Blobs::open_with(b_dir.path(), &[32; 32], loopback(), limits).await.unwrap();
    let bytes = noise(9, 256 << 10);
    let blob = a.add(bytes.clone()).await.unwrap();
    let begun = std::time::Instant::now();
    b.fetch(&blob, &[a.addr()], MAX_LEN, None).await.unwrap();
    // a bound from below, which no busy machine breaks
    assert!(begun.elapsed() >= Duration::from_millis(450), "{:?}", begun.elapsed());
    assert_eq!(b.get(&blob).await.unwrap(), bytes);
}

#[tokio::test(flavor = "multi_thread")] // D1: length and limit come from the caller
async fn wrong_lengths_and_unknown_blobs_are_refused() {
    let (a_dir, b_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (a, b) = (node(a_dir.path(), 3).await, node(b_dir.path(), 4).await);
    let blob = a.add(noise(2, 100_000)).await.unwrap();
    let at = [a.addr()];

    let error = b.fetch(&blob, &at, 99_999, None).await.unwrap_err();
    assert!(matches!(error, FetchError::TooLarge { max_len: 99_999, .. }), "{error}");
    for len in [99_999, 100_001, 1 << 40] {
        let wrong = BlobRef { len, ..blob };
        let fault = ProviderFault::WrongLength { stated: 100_000, expected: len };
        let error = b.fetch(&wrong, &at, u64::MAX, None).await;
        assert!(error.as_ref().unwrap_err().to_string().contains(&a.node().short()), "the provider is named");
        assert_eq!(faults(error), [(a.node(), fault)]);
    }
    assert!(matches!(a.get(&BlobRef { len: 5, ..blob }).await, Err(BlobError::WrongLength { found: 100_000, .. })));
    let zero = BlobRef { len: 0, ..blob };
    assert!(matches!(b.fetch(&zero, &at, MAX_LEN, None).await, Err(FetchError::NotEmpty { .. })));
    let unknown = BlobRef { hash: BlobHash([9; 32]), len: 10 };
    assert_eq!(faults(b.fetch(&unknown, &at, MAX_LEN, None).await), [(a.node(), ProviderFault::NotFound)]);
    assert!(matches!(b.fetch(&unknown, &[b.addr()], MAX_LEN, None).await, Err(FetchError::NoProvider { .. })));
    assert!(matches!(b.get(&unknown).await, Err(BlobError::Missing { .. })));
    // nothing of it all stuck: the right reference still works, and so does the empty blob
    b.fetch(&blob, &at, MAX_LEN, None).await.unwrap();
    let empty = BlobRef::of(b"");
    b.fetch(&empty, &at, MAX_LEN, None).await.unwrap();
    assert_eq!(b.get(&empty).await.unwrap(), b"");
}

#[tokio::test(flavor = "multi_thread")] // D1, N1: dead, empty-handed, lying and stalling providers are passed over
async fn bad_providers_are_passed_over_and_named() {
    let dirs: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let (good, empty, b) =
        (node(dirs[0].path(), 5).await, node(dirs[1].path(), 6).await, node(dirs[2].path(), 7).await);
    let bytes = noise(3, 300_000);
    let blob = good.add(bytes.clone()).await.unwrap();
    let dead = BlobAddr { node: NodeKey::from_secret(&[8; 32]).id(), sockets: vec!["127.0.0.1:9".parse().unwrap()] };
    let stranger = BlobAddr { node: dead.node, sockets: good.addr().sockets };
    let no_key = BlobAddr { node: NodeId([0xff; 32]), sockets: good.addr().sockets };
    let mut lie = blob.len.to_le_bytes().to_vec();
    lie.extend_from_slice(&noise(4, 100_000));
    let (_lying, lying, _) = hostile(9, lie, false).await;
    let (_inflating, inflating, _) = hostile(10, u64::MAX.to_le_bytes().to_vec(), false).await;
    let (_stalling, stalling, _) = hostile(11, blob.len.to_le_bytes().to_vec(), true).await;
    let bad = [dead, stranger, no_key, empty.addr(), lying, inflating, stalling];

    let found = faults(b.fetch(&blob, &bad, MAX_LEN, None).await);
    assert!(found.iter().map(|(node, _)| *node).eq(bad.iter().map(|addr| addr.node)));
    let kinds: Vec<_> = found.into_iter().map(|(_, fault)| fault).collect();
    assert!(matches!(kinds[0], ProviderFault::Unreachable(_)), "{kinds:?}");
    assert!(matches!(kinds[1], ProviderFault::Unreachable(_)), "K1: the key must fit: {kinds:?}");
    assert!(matches!(kinds[2], ProviderFault::BadKey | ProviderFault::Unreachable(_)), "{kinds:?}");
    assert_eq!(kinds[3], ProviderFault::NotFound);
    assert!(matches!(kinds[4], ProviderFault::WrongBytes(_)), "{kinds:?}");
    assert_eq!(kinds[5], ProviderFault::WrongLength { stated: u64::MAX, expected: blob.len });
    assert!(matches!(kinds[6], ProviderFault::Silent { .. }), "{kinds:?}");

    let mut all = bad.to_vec();
    all.push(good.addr());
    b.fetch(&blob, &all, MAX_LEN, None).await.unwrap();
    assert_eq!(b.get(&blob).await.unwrap(), bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn fetches_of_one_blob_share_one_transfer() {
    let dirs: Vec<_> = (0..2).map(|_| tempfile::tempdir().unwrap()).collect();
    let (a, b) = (node(dirs[0].path(), 12).await, node(dirs[1].path(), 13).await);
    let blob = a.add(noise(5, 500_000)).await.unwrap();
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            let (b, at) = (b.clone(), a.addr());
            tokio::spawn(async move {
                let (tell, mut told) = tokio::sync::mpsc::channel(1_000);
                b.fetch(&blob, &[at], MAX_LEN, Some(tell)).await.unwrap();
                told.try_recv().is_ok()
            })
        })
        .collect();
    let mut transfers = 0;
    for task in tasks {
        transfers += u32::from(task.await.unwrap());
    }
    assert_eq!(transfers, 1, "the others waited and found it");
    // many different ones at once wait for each other instead of failing
    let mut blobs = Vec::new();
    for seed in 20..40 {
        blobs.push(a.add(noise(seed, 50_000)).await.unwrap());
    }
    let tasks: Vec<_> = blobs
        .into_iter()
        .map(|blob| {
            let (b, at) = (b.clone(), a.addr());
            tokio::spawn(async move { b.fetch(&blob, &[at], MAX_LEN, None).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")] // D1: what arrived is kept; a second provider, or a restart, goes on from there
async fn broken_transfer_is_resumed_not_repeated() {
    let dirs: Vec<_> = (0..2).map(|_| tempfile::tempdir().unwrap()).collect();
    let (a, b) = (node(dirs[0].path(), 14).await, node(dirs[1].path(), 15).await);
    let bytes = noise(6, 4 << 20);
    let blob = a.add(bytes.clone()).await.unwrap();
    // what an honest provider would send, cut off in the middle
    let store = iroh_blobs::store::mem::MemStore::new();
    store.blobs().add_bytes(bytes.clone()).await.unwrap();
    let hash = iroh_blobs::Hash::from_bytes(blob.hash.0);
    let whole = store.blobs().export_bao(hash, iroh_blobs::protocol::ChunkRanges::all()).bao_to_vec().await.unwrap();
    let (_cut, cut, requests) = hostile(16, whole[..whole.len() / 2].to_vec(), false).await;
    let found = faults(b.fetch(&blob, std::slice::from_ref(&cut), MAX_LEN, None).await);
    assert_eq!((found.len(), requests.load(Ordering::SeqCst)), (1, 1));
    assert!(!b.has(&blob).await.unwrap());
    b.shutdown().await.unwrap();
    drop(b);

    let b = node(dirs[1].path(), 15).await;
    let (tell, mut told) = tokio::sync::mpsc::channel(10_000);
    b.fetch(&blob, &[a.addr()], MAX_LEN, Some(tell)).await.unwrap();
    let first = told.recv().await.unwrap();
    assert!(first > blob.len / 4, "started again from {first} of {} bytes", blob.len);
    let mut reports = 1_u64; // one for each 16 KiB that travelled
    while told.recv().await.is_some() {
        reports += 1;
    }
    assert!(reports < blob.len / 16_384 * 3 / 4, "{reports} pieces travelled again");
    assert_eq!(b.get(&blob).await.unwrap(), bytes);
}

#[tokio::test(flavor = "multi_thread")] // D2, P6
async fn pinned_blobs_survive_reopening_and_collection_unpinned_ones_go() {
    let dir = tempfile::tempdir().unwrap();
    let limits = BlobLimits { collect_every_ms: 200, ..BlobLimits::default() };
    let (kept, gone) = {
        let a = Blobs::open_with(dir.path(), &[17; 32], loopback(), limits).await.unwrap();
        let refs = (a.add(noise(7, 200_000)).await.unwrap(), a.add(noise(8, 200_000)).await.unwrap());
        let second = Blobs::open_with(dir.path(), &[17; 32], loopback(), limits).await;
        assert!(matches!(second, Err(BlobError::Open { .. })), "{second:?}");
        a.shutdown().await.unwrap();
        refs
    };
    let a = Blobs::open_with(dir.path(), &[17; 32], loopback(), limits).await.unwrap();
    assert!(a.has(&kept).await.unwrap() && a.has(&gone).await.unwrap());
    a.unpin(gone.hash).await.unwrap();
    for _ in 0..300 {
        if !a.has(&gone).await.unwrap() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(!a.has(&gone).await.unwrap(), "an unpinned blob is collected");
    assert_eq!(a.get(&kept).await.unwrap(), noise(7, 200_000));
}

#[tokio::test(flavor = "multi_thread")] // bad input: a taken port is one clear line, and leaves the directory usable
async fn taken_port_is_named() {
    let dirs: Vec<_> = (0..2).map(|_| tempfile::tempdir().unwrap()).collect();
    let a = node(dirs[0].path(), 18).await;
    let taken = a.addr().sockets[0];
    let error = Blobs::open(dirs[1].path(), &[19; 32], taken).await.unwrap_err();
    assert!(matches!(error, BlobError::Listen { socket, .. } if socket == taken), "{error}");
    node(dirs[1].path(), 19).await.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")] // K3, N1: a peer that holds all its places is refused more, others are served
async fn greedy_peer_is_limited_and_others_are_served() {
    let dirs: Vec<_> = (0..2).map(|_| tempfile::tempdir().unwrap()).collect();
    let limits = BlobLimits { connections_per_peer_max: 2, ..BlobLimits::default() };
    let a = Blobs::open_with(dirs[0].path(), &[20; 32], loopback(), limits).await.unwrap();
    let blob = a.add(noise(9, 50_000)).await.unwrap();
    let (router, _, _) = hostile(21, Vec::new(), false).await;
    let id = iroh::EndpointId::from_bytes(&a.node().0).unwrap();
    let at = iroh::EndpointAddr::new(id).with_ip_addr(a.addr().sockets[0]);
    let mut held = Vec::new();
    for _ in 0..2 {
        let connection = router.endpoint().connect(at.clone(), iroh_blobs::ALPN).await.unwrap();
        let (mut send, recv) = connection.open_bi().await.unwrap();
        send.write_all(&[0]).await.unwrap(); // half a request
        held.push((connection, send, recv));
    }
    let third = router.endpoint().connect(at, iroh_blobs::ALPN).await.unwrap();
    let reason = third.closed().await;
    assert!(reason.to_string().contains("busy"), "{reason}");
    let b = node(dirs[1].path(), 22).await;
    b.fetch(&blob, &[a.addr()], MAX_LEN, None).await.unwrap();
}
