//! Answers to storage challenges, cut out of a real store (D2).

use oda_consensus::custody::{CHUNK_BYTES, MAX_SLICE_BYTES, is_chunk};
use oda_consensus::ids::BlobRef;
use oda_storage::Blobs;
use oda_storage::blobs::BlobError;

#[tokio::test] // D2: what iroh-blobs sends for a chunk is what the ledger takes, at every edge of a chunk and of a group
async fn slices_of_the_store_pass() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(dir.path(), &[1; 32], "127.0.0.1:0".parse().unwrap()).await.unwrap();
    for len in [1, 1_023, 1_024, 1_025, 2_048, 16_383, 16_384, 16_385, 32_768, 33_000, 100_000, 1 << 20, (1 << 20) + 1]
    {
        let mut bytes = vec![0; len];
        blake3::Hasher::new_derive_key("test").finalize_xof().fill(&mut bytes);
        let blob = blobs.add(bytes).await.unwrap();
        let chunks = blob.len.div_ceil(CHUNK_BYTES);
        for chunk in [0, 1, 15, 16, 17, 31, 32, chunks / 2, chunks.saturating_sub(2), chunks - 1] {
            let slice = blobs.slice(&blob, chunk).await;
            if chunk >= chunks {
                assert!(slice.is_err(), "chunk {chunk} of {len} bytes");
                continue;
            }
            let slice = slice.unwrap();
            assert!(slice.len() <= MAX_SLICE_BYTES && is_chunk(&blob, chunk, &slice), "chunk {chunk} of {len} bytes");
            assert!(chunks == 1 || !is_chunk(&blob, (chunk + 1) % chunks, &slice));
        }
    }
    let other = BlobRef::of(b"not here");
    assert!(matches!(blobs.slice(&other, 0).await, Err(BlobError::Missing { .. })));
    blobs.shutdown().await.unwrap();
}
