//! How much disk the blobs may take (D2), and what gives way when it is full.
//!
//! Looking at the free space when a write fails is too late: by then half a blob is on disk, and the ledger, which
//! lies on the same disk, cannot write either. So room is reckoned before a byte is fetched or added, with the length
//! from the signed reference, and is held until the blob is there. When it does not suffice, what the caller has called
//! spare goes, first things first and no more than needed; nothing else is ever thrown away for room.

use super::{BlobError, Blobs, failed};
use iroh_blobs::api::blobs::BlobStatus;
use oda_consensus::ids::{BlobHash, BlobRef};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

/// Most spare blobs remembered (K3).
const SPARE_MAX: usize = 1 << 16;

/// How long a plain copy of a blob that is gone may stay, for whoever is about to open it.
const COPY_AGE_MAX: Duration = Duration::from_secs(3_600);

/// What is on disk, as last counted, with what came since.
#[derive(Debug, Default)]
pub(super) struct Stock {
    held: BTreeMap<BlobHash, Held>,
    /// Plain copies.
    copies: BTreeMap<BlobHash, Held>,
    /// Room held for what is on its way, by ticket.
    coming: BTreeMap<u64, u64>,
    tickets: u64,
    /// What may go, first things first.
    spare: VecDeque<BlobHash>,
    /// Collections that had ended when this was counted.
    counted_at: u64,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    bytes: u64,
    is_complete: bool,
    /// Ticket under which it came; 0 if it was counted.
    ticket: u64,
}

/// Disk use of the blobs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Taken, with what is on its way.
    pub used_bytes: u64,
    /// Allowed; 0: no limit.
    pub quota_bytes: u64,
    /// Complete blobs here.
    pub blobs: usize,
}

/// What a blob of so many bytes takes: they, and the tree of hashes over them, 64 bytes for each 16 KiB.
pub fn cost_bytes(len_bytes: u64) -> u64 {
    len_bytes.saturating_add(len_bytes / 256)
}

impl Stock {
    fn used_bytes(&self) -> u64 {
        let sum = |values: &mut dyn Iterator<Item = u64>| values.fold(0_u64, u64::saturating_add);
        let held = sum(&mut self.held.values().map(|held| held.bytes));
        held.saturating_add(sum(&mut self.copies.values().map(|copy| copy.bytes)))
            .saturating_add(sum(&mut self.coming.values().copied()))
    }

    /// Which spare blobs have to go for so many bytes; none if all of them would not suffice.
    fn give_way(&mut self, needed_bytes: u64) -> Vec<BlobHash> {
        let (mut freed_bytes, mut chosen) = (0_u64, 0_usize);
        for hash in &self.spare {
            if freed_bytes >= needed_bytes {
                break;
            }
            let held = self.held.get(hash).map_or(0, |held| held.bytes);
            let copy = self.copies.get(hash).map_or(0, |copy| copy.bytes);
            freed_bytes = freed_bytes.saturating_add(held).saturating_add(copy);
            chosen = chosen.saturating_add(1);
        }
        if freed_bytes < needed_bytes { Vec::new() } else { self.spare.drain(..chosen).collect() }
    }
}

/// Room held for one blob; given back when dropped, unless it was filled.
#[derive(Debug)]
pub(super) struct Room<'a> {
    blobs: &'a Blobs,
    ticket: u64,
    becomes: Becomes,
}

#[derive(Debug, Clone, Copy)]
enum Becomes {
    Blob(BlobHash, u64),
    Copy(BlobHash, u64),
}

impl Room<'_> {
    /// What room was held for is there.
    pub(super) fn filled(self) {
        let mut stock = self.blobs.stock();
        let held = |bytes| Held { bytes, is_complete: true, ticket: self.ticket };
        match self.becomes {
            Becomes::Blob(hash, bytes) => {
                stock.held.insert(hash, held(bytes));
            }
            Becomes::Copy(hash, bytes) => {
                stock.copies.insert(hash, held(bytes));
            }
        }
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.blobs.stock().coming.remove(&self.ticket);
    }
}

impl Blobs {
    fn stock(&self) -> MutexGuard<'_, Stock> {
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much disk the blobs take.
    pub fn usage(&self) -> Usage {
        let stock = self.stock();
        let blobs = stock.held.values().filter(|held| held.is_complete).count();
        Usage { used_bytes: stock.used_bytes(), quota_bytes: self.limits.disk_bytes_max, blobs }
    }

    /// The complete blobs that are here.
    pub fn held(&self) -> BTreeSet<BlobHash> {
        self.stock().held.iter().filter(|(_, held)| held.is_complete).map(|(hash, _)| *hash).collect()
    }

    /// Says what may go when room is needed, first things first; what was said before no longer counts. Until then it
    /// stays and is served.
    pub fn set_spare(&self, spare: impl IntoIterator<Item = BlobHash>) {
        self.stock().spare = spare.into_iter().take(SPARE_MAX).collect();
    }

    /// Holds room for a blob; makes it first if need be.
    pub(super) async fn make_room(&self, blob: &BlobRef) -> Result<Room<'_>, BlobError> {
        let bytes = cost_bytes(blob.len);
        self.room(blob, bytes, Becomes::Blob(blob.hash, bytes)).await
    }

    /// Holds room for the plain copy of a blob.
    pub(super) async fn make_room_for_copy(&self, blob: &BlobRef) -> Result<Room<'_>, BlobError> {
        self.room(blob, blob.len, Becomes::Copy(blob.hash, blob.len)).await
    }

    async fn room(&self, blob: &BlobRef, needed_bytes: u64, becomes: Becomes) -> Result<Room<'_>, BlobError> {
        if self.stock().counted_at != self.collector.ended() {
            self.count().await?;
        }
        if let Some(room) = self.hold(needed_bytes, becomes) {
            return Ok(room);
        }
        let quota_bytes = self.limits.disk_bytes_max;
        let gone = {
            let mut stock = self.stock();
            let over_bytes = stock.used_bytes().saturating_add(needed_bytes).saturating_sub(quota_bytes);
            stock.give_way(over_bytes)
        };
        for hash in &gone {
            self.unpin(*hash).await?;
            let copy = self.files.join(hash.to_string());
            tokio::fs::remove_file(copy).await.ok(); // most have none
            self.stock().copies.remove(hash);
        }
        if !gone.is_empty() {
            tracing::info!(
                blobs = gone.len(),
                "the disk quota is reached: blobs the ledger no longer needs are removed"
            );
        }
        self.collect().await?; // leftovers of broken fetches go as well
        match self.hold(needed_bytes, becomes) {
            Some(room) => Ok(room),
            None => {
                let used_bytes = self.stock().used_bytes();
                Err(BlobError::Full { blob: *blob, needed_bytes, used_bytes, quota_bytes })
            }
        }
    }

    /// Room for so many bytes, if there is.
    fn hold(&self, needed_bytes: u64, becomes: Becomes) -> Option<Room<'_>> {
        let mut stock = self.stock();
        let is_here = match becomes {
            Becomes::Blob(hash, _) => stock.held.get(&hash).is_some_and(|held| held.is_complete),
            Becomes::Copy(..) => false,
        };
        // what is here in part is rewritten in place: its bytes are not needed twice
        let part_bytes = match becomes {
            Becomes::Blob(hash, _) => stock.held.get(&hash).map_or(0, |held| held.bytes),
            Becomes::Copy(hash, _) => stock.copies.get(&hash).map_or(0, |copy| copy.bytes),
        };
        let more_bytes = if is_here { 0 } else { needed_bytes.saturating_sub(part_bytes) };
        let quota_bytes = self.limits.disk_bytes_max;
        if quota_bytes > 0 && more_bytes > 0 && stock.used_bytes().saturating_add(more_bytes) > quota_bytes {
            return None;
        }
        stock.tickets = stock.tickets.saturating_add(1);
        let ticket = stock.tickets;
        if more_bytes > 0 {
            stock.coming.insert(ticket, more_bytes);
        }
        Some(Room { blobs: self, ticket, becomes })
    }

    /// Counts what is on disk, and removes plain copies of what is gone.
    pub(super) async fn count(&self) -> Result<(), BlobError> {
        let counted_at = self.collector.ended();
        let before = self.stock().tickets;
        let listed = self.store.blobs().list().hashes().await.map_err(failed("listing the blobs"))?;
        let mut held = BTreeMap::new();
        for hash in listed {
            let status = self.store.blobs().status(hash).await.map_err(failed("listing the blobs"))?;
            let (len, is_complete) = match status {
                BlobStatus::Complete { size } => (size, true),
                BlobStatus::Partial { size } => (size.unwrap_or(0), false),
                BlobStatus::NotFound => continue,
            };
            held.insert(BlobHash(*hash.as_bytes()), Held { bytes: cost_bytes(len), is_complete, ticket: 0 });
        }
        let files = self.files.to_path_buf();
        let known: BTreeMap<String, BlobHash> = held.keys().map(|hash| (hash.to_string(), *hash)).collect();
        let copies = tokio::task::spawn_blocking(move || copies(&files, &known));
        let copies = copies.await.map_err(failed("listing the blobs"))?;
        let mut stock = self.stock();
        // what came while this was counted is not forgotten
        let kept = |old: &BTreeMap<BlobHash, Held>, new: BTreeMap<BlobHash, Held>| {
            let mut all: BTreeMap<_, _> =
                old.iter().filter(|(_, h)| h.ticket > before).map(|(k, v)| (*k, *v)).collect();
            all.extend(new);
            all
        };
        (stock.held, stock.copies) = (kept(&stock.held, held), kept(&stock.copies, copies));
        stock.counted_at = counted_at;
        Ok(())
    }
}

/// The plain copies of known blobs. Those of others are removed once nobody can be making or opening them.
fn copies(files: &Path, known: &BTreeMap<String, BlobHash>) -> BTreeMap<BlobHash, Held> {
    let mut found = BTreeMap::new();
    for file in std::fs::read_dir(files).into_iter().flatten().flatten() {
        let Ok(meta) = file.metadata() else { continue };
        match file.file_name().to_str().and_then(|name| known.get(name)) {
            Some(hash) => {
                found.insert(*hash, Held { bytes: meta.len(), is_complete: true, ticket: 0 });
            }
            None => {
                let age = meta.modified().ok().and_then(|at| at.elapsed().ok()).unwrap_or_default();
                if age > COPY_AGE_MAX {
                    std::fs::remove_file(file.path()).ok(); // tried again at the next count
                }
            }
        }
    }
    found
}
