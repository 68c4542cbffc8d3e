//! One chunk of a blob with the hashes that prove it: the answer to a storage challenge (D2).

use super::{BlobError, Blobs, failed, to_iroh};
use iroh_blobs::protocol::{ChunkRanges, ChunkRangesExt as _};
use oda_consensus::custody;
use oda_consensus::ids::BlobRef;

/// Length of the blob, which the store puts in front of a slice.
const LENGTH_BYTES: usize = 8;

impl Blobs {
    /// Chunk number `chunk` (of [`custody::CHUNK_BYTES`], from 0) of a blob that is here, as [`custody::is_chunk`]
    /// takes it.
    ///
    /// # Errors
    /// [`BlobError::Missing`], [`BlobError::WrongLength`], [`BlobError::Damaged`], [`BlobError::Store`].
    pub async fn slice(&self, blob: &BlobRef, chunk: u64) -> Result<Vec<u8>, BlobError> {
        match self.complete_len(blob.hash).await? {
            None => return Err(BlobError::Missing { hash: blob.hash }),
            Some(found) if found != blob.len => return Err(BlobError::WrongLength { blob: *blob, found }),
            Some(_) => {}
        }
        let export = self.store.blobs().export_bao(to_iroh(blob.hash), ChunkRanges::chunk(chunk));
        let bytes = export.bao_to_vec().await.map_err(failed("reading a chunk of a blob"))?;
        let slice = bytes.get(LENGTH_BYTES..).unwrap_or_default();
        if custody::is_chunk(blob, chunk, slice) {
            Ok(slice.to_vec())
        } else {
            Err(BlobError::Damaged { hash: blob.hash })
        }
    }
}
