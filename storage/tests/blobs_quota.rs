//! The disk quota (D2): reckoned before anything is fetched, clear when it refuses, and nothing needed is ever lost.

mod blob_peers;

use blob_peers::{MAX_LEN, MIB, Manner, Peer, noise, open};
use oda_consensus::ids::BlobRef;
use oda_storage::{BlobError, BlobLimits, FetchError};
use std::time::Duration;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(120);

fn quota(disk_bytes_max: u64) -> BlobLimits {
    BlobLimits { disk_bytes_max, silence_ms_max: 1_500, ..BlobLimits::default() }
}

#[tokio::test(flavor = "multi_thread")] // D2: over quota nobody is asked, and the error names the setting
async fn what_does_not_fit_is_refused_before_it_is_fetched() {
    let dir = tempfile::tempdir().unwrap();
    let b = open(dir.path(), 1, quota(1_000_000)).await;
    let kept = b.add(noise(1, 600_000)).await.unwrap();
    let error = b.add(noise(2, 600_000)).await.unwrap_err();
    assert!(matches!(error, BlobError::Full { quota_bytes: 1_000_000, .. }), "{error}");
    assert!(error.to_string().contains("[blobs] max_disk_mb"), "{error}");
    let bytes = noise(3, 600_000);
    let blob = BlobRef::of(&bytes);
    let peer = Peer::start(2, Manner::Slowly(MIB, 0), &[&bytes]).await;
    let error = b.fetch(&blob, std::slice::from_ref(&peer.addr), MAX_LEN, None).await.unwrap_err();
    assert!(matches!(error, FetchError::Store(BlobError::Full { .. })), "{error}");
    assert_eq!(peer.requests(), 0, "the signed length is enough to say no");
    // what is here is not thrown away, costs nothing when it comes again, and small things still fit
    assert_eq!(b.get(&kept).await.unwrap(), noise(1, 600_000));
    b.add(noise(1, 600_000)).await.unwrap();
    b.add(noise(4, 300_000)).await.unwrap();
    let usage = b.usage();
    assert!((900_000..=1_000_000).contains(&usage.used_bytes), "{usage:?}");
    assert_eq!(usage.blobs, 2);
    b.shutdown().await.unwrap();
    // counted again at the next start
    let again = open(dir.path(), 1, quota(1_000_000)).await;
    assert_eq!(again.usage(), usage);
    assert!(matches!(again.add(noise(2, 600_000)).await, Err(BlobError::Full { .. })));
}

// D2: what the ledger no longer needs goes first, in its order, and no more than needed
#[tokio::test(flavor = "multi_thread")]
async fn spare_blobs_make_room_and_others_stay() {
    let dir = tempfile::tempdir().unwrap();
    let b = open(dir.path(), 3, quota(1_000_000)).await;
    let mut blobs = Vec::new();
    for seed in 10..14 {
        blobs.push(b.add(noise(seed, 240_000)).await.unwrap());
    }
    b.set_spare([blobs[2].hash, blobs[0].hash, blobs[3].hash]);
    let here = async || {
        let mut here = Vec::new();
        for blob in &blobs {
            here.push(b.has(blob).await.unwrap());
        }
        here
    };
    assert_eq!(here().await, [true; 4], "spare is not yet gone");
    let bytes = noise(20, 240_000);
    let blob = BlobRef::of(&bytes);
    let peer = Peer::start(4, Manner::Slowly(MIB, 0), &[&bytes]).await;
    timeout(PATIENCE, b.fetch(&blob, std::slice::from_ref(&peer.addr), MAX_LEN, None)).await.unwrap().unwrap();
    assert_eq!(here().await, [true, true, false, true]);
    // a blob that all spare ones together make no room for costs none of them
    assert!(matches!(b.add(noise(21, 900_000)).await, Err(BlobError::Full { .. })));
    assert_eq!(here().await, [true, true, false, true]);
    let more = b.add(noise(22, 450_000)).await.unwrap();
    assert_eq!(here().await, [false, true, false, false], "what nobody called spare stays");
    assert!(b.has(&blob).await.unwrap() && b.has(&more).await.unwrap());
    assert!(matches!(b.add(noise(23, 240_000)).await, Err(BlobError::Full { .. })));
}

#[tokio::test(flavor = "multi_thread")] // D2: many at once do not overshoot together
async fn room_is_held_while_a_blob_is_on_its_way() {
    let dir = tempfile::tempdir().unwrap();
    let b = open(dir.path(), 5, quota(1_000_000)).await;
    let tasks: Vec<_> = (30..40)
        .map(|seed| {
            let b = b.clone();
            tokio::spawn(async move { b.add(noise(seed, 300_000)).await })
        })
        .collect();
    let mut taken = 0;
    for task in tasks {
        taken += u32::from(task.await.unwrap().is_ok());
    }
    assert_eq!(taken, 3);
    assert!(b.usage().used_bytes <= 1_000_000);
}

#[tokio::test(flavor = "multi_thread")] // D2: leftovers and plain copies take room, and give it back
async fn leftovers_and_copies_count() {
    let dir = tempfile::tempdir().unwrap();
    let b = open(dir.path(), 6, quota(5_000_000)).await;
    let bytes = noise(40, 4_000_000);
    let stalling = Peer::start(7, Manner::Stalls(3 * MIB), &[&bytes]).await;
    let failed = b.fetch(&BlobRef::of(&bytes), std::slice::from_ref(&stalling.addr), MAX_LEN, None).await;
    assert!(matches!(failed, Err(FetchError::AllFailed { .. })), "{failed:?}");
    let first = timeout(PATIENCE, b.add(noise(41, 2_000_000))).await.unwrap().unwrap();
    b.file(&first).await.unwrap();
    // 2 MB and its copy: another 2 MB do not fit, until both may go
    let copy = dir.path().join("files").join(first.hash.to_string());
    assert!(copy.exists());
    assert!(matches!(b.add(noise(42, 2_000_000)).await, Err(BlobError::Full { .. })));
    b.set_spare([first.hash]);
    b.add(noise(42, 4_000_000)).await.unwrap();
    assert!(!copy.exists() && !b.has(&first).await.unwrap());
}
