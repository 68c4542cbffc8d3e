//! One blob from several providers at once (D1): shared work, liars, stalls, interruptions, and who goes first.

mod blob_peers;

use blob_peers::{MAX_LEN, MIB, Manner, Peer, noise, open};
use oda_consensus::ids::BlobRef;
use oda_storage::{BlobLimits, FetchError};
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

fn limits() -> BlobLimits {
    BlobLimits { takeover_ms: 400, silence_ms_max: 60_000, ..BlobLimits::default() }
}

#[tokio::test(flavor = "multi_thread")] // D1: the work is shared, and nothing travels twice for nothing
async fn several_providers_share_a_blob() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = noise(1, 12 * MIB);
    let blob = BlobRef::of(&bytes);
    let limits = BlobLimits { takeover_ms: 30_000, ..limits() };
    let b = open(dir.path(), 1, limits).await;
    let mut peers = Vec::new();
    for secret in 2..6 {
        peers.push(Peer::start(secret, Manner::Slowly(64 << 10, 10), &[&bytes]).await);
    }
    let at: Vec<_> = peers.iter().map(|peer| peer.addr.clone()).collect();
    timeout(PATIENCE, b.fetch(&blob, &at, MAX_LEN, None)).await.unwrap().unwrap();
    assert_eq!(b.get(&blob).await.unwrap(), bytes);
    let sent: Vec<u64> = peers.iter().map(Peer::sent_bytes).collect();
    assert!(sent[..3].iter().all(|sent| *sent >= blob.len / 12), "three share the work: {sent:?}");
    assert_eq!(sent[3], 0, "three are enough");
    assert!(sent.iter().sum::<u64>() < blob.len * 11 / 10, "{sent:?}");
}

// D1: a lying and a silent one of three do not stop it, and the liar is remembered
#[tokio::test(flavor = "multi_thread")]
async fn a_liar_and_a_silent_one_are_worked_around() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, second) = (noise(2, 8 * MIB), noise(3, 8 * MIB));
    let (blob, next) = (BlobRef::of(&bytes), BlobRef::of(&second));
    let b = open(dir.path(), 10, limits()).await;
    let liar = Peer::start(11, Manner::Lies, &[&bytes, &second]).await;
    let silent = Peer::start(12, Manner::Stalls(300 << 10), &[&bytes, &second]).await;
    let good = Peer::start(13, Manner::Slowly(MIB, 1), &[&bytes, &second]).await;
    let at = [liar.addr.clone(), silent.addr.clone(), good.addr.clone()];
    let begun = Instant::now();
    timeout(PATIENCE, b.fetch(&blob, &at, MAX_LEN, None)).await.unwrap().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(55), "its part was taken over before its silence ended");
    assert_eq!(b.get(&blob).await.unwrap(), bytes);
    assert_eq!(liar.requests(), 1, "dropped at its first lie");
    assert_eq!(silent.requests(), 1);
    assert!(good.sent_bytes() > blob.len * 8 / 10);

    timeout(PATIENCE, b.fetch(&next, &at, MAX_LEN, None)).await.unwrap().unwrap();
    assert_eq!(b.get(&next).await.unwrap(), second);
    assert_eq!(liar.requests(), 1, "a liar is not asked while others have the blob");
}

#[tokio::test(flavor = "multi_thread")] // D1: what one provider sends of a blob is checked, whatever others sent of it
async fn nobody_but_liars_gives_nothing_and_names_them() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = noise(4, 3 * MIB);
    let blob = BlobRef::of(&bytes);
    let b = open(dir.path(), 20, limits()).await;
    let liars = [Peer::start(21, Manner::Lies, &[&bytes]).await, Peer::start(22, Manner::Lies, &[&bytes]).await];
    let at = [liars[0].addr.clone(), liars[1].addr.clone()];
    let error = timeout(PATIENCE, b.fetch(&blob, &at, MAX_LEN, None)).await.unwrap().unwrap_err();
    let FetchError::AllFailed { faults, .. } = error else { panic!("{error}") };
    assert!(faults.iter().map(|(node, _)| *node).eq(at.iter().map(|addr| addr.node)), "in the order given: {faults:?}");
    assert!(!b.has(&blob).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")] // D1: what is on disk is not fetched again, after a restart neither
async fn an_interrupted_fetch_goes_on_from_what_is_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = noise(5, 12 * MIB);
    let blob = BlobRef::of(&bytes);
    let quick = BlobLimits { silence_ms_max: 1_500, ..limits() };
    let b = open(dir.path(), 30, quick).await;
    // one of them sends a good part and then falls silent; more than one falls silent at once
    let stalling = [
        Peer::start(31, Manner::Stalls(900 << 10), &[&bytes]).await,
        Peer::start(32, Manner::Stalls(900 << 10), &[&bytes]).await,
        Peer::start(33, Manner::Stalls(900 << 10), &[&bytes]).await,
    ];
    let at: Vec<_> = stalling.iter().map(|peer| peer.addr.clone()).collect();
    let error = timeout(PATIENCE, b.fetch(&blob, &at, MAX_LEN, None)).await.unwrap().unwrap_err();
    assert!(matches!(&error, FetchError::AllFailed { faults, .. } if faults.len() == 3), "{error}");
    b.shutdown().await.unwrap();
    drop(b);

    let b = open(dir.path(), 30, quick).await;
    let good = Peer::start(34, Manner::Slowly(MIB, 0), &[&bytes]).await;
    timeout(PATIENCE, b.fetch(&blob, std::slice::from_ref(&good.addr), MAX_LEN, None)).await.unwrap().unwrap();
    assert_eq!(b.get(&blob).await.unwrap(), bytes);
    let (held, again) = (2 * MIB as u64, good.sent_bytes());
    assert!(again < blob.len - held, "{again} of {} bytes travelled after more than {held} had arrived", blob.len);
}

#[tokio::test(flavor = "multi_thread")] // D2: a fetch nobody waits for stops when one begins that somebody waits for
async fn a_quiet_fetch_gives_way() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, urgent) = (noise(6, 4 * MIB), noise(7, 100_000));
    let (blob, soon) = (BlobRef::of(&bytes), BlobRef::of(&urgent));
    let b = open(dir.path(), 40, limits()).await;
    let slow = Peer::start(41, Manner::Slowly(64 << 10, 100), &[&bytes]).await;
    let good = Peer::start(42, Manner::Slowly(MIB, 0), &[&bytes, &urgent]).await;
    for wanted in [soon, blob] {
        let quiet = tokio::spawn({
            let (b, at) = (b.clone(), slow.addr.clone());
            async move { b.fetch_quietly(&blob, &[at], MAX_LEN).await }
        });
        let before = slow.requests();
        timeout(PATIENCE, async {
            while slow.requests() == before {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .unwrap();
        assert!(matches!(
            b.fetch_quietly(&soon, std::slice::from_ref(&good.addr), MAX_LEN).await,
            Err(FetchError::GaveWay)
        ));
        // the same blob as well: its lock is given free
        timeout(PATIENCE, b.fetch(&wanted, std::slice::from_ref(&good.addr), MAX_LEN, None)).await.unwrap().unwrap();
        let ended = timeout(PATIENCE, quiet).await.unwrap().unwrap();
        assert!(matches!(ended, Err(FetchError::GaveWay)), "{ended:?}");
        assert!(b.has(&wanted).await.unwrap());
    }
    // and goes through when nobody is in a hurry
    let later = noise(8, 50_000);
    let blob = BlobRef::of(&later);
    let good = Peer::start(43, Manner::Slowly(MIB, 0), &[&later]).await;
    timeout(PATIENCE, b.fetch_quietly(&blob, std::slice::from_ref(&good.addr), MAX_LEN)).await.unwrap().unwrap();
    assert_eq!(b.get(&blob).await.unwrap(), later);
}
