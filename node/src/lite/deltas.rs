//! Hands revealed deltas to the committee over the connections this node opened (R3, N2).
//!
//! Behind a router nobody can fetch a delta from this node, but whoever judges it can ask for it. Whoever knew a delta
//! before its payment is locked could claim it under another name; so nothing leaves before the reveal. And since
//! a line at home is thin, only members of the committee are answered, and none gets a delta more than a few times.

use super::Lite;
use crate::net::ResponseToken;
use oda_consensus::codec;
use oda_consensus::engine::trainer::{ClaimRecord, Phase};
use oda_consensus::epoch::EpochChain;
use oda_consensus::ids::{BlobRef, ClaimId, NodeId};
use oda_consensus::wire::{DELTA_PART_BYTES, Response};
use oda_storage::Blobs;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{Mutex, Semaphore};

/// How many times over one member is given a delta: connections break, nodes restart.
const TIMES_MAX: u64 = 4;
/// Members and claims counted (K3).
const COUNTED_MAX: usize = 4_096;
/// Parts read at a time.
const READS_MAX: usize = 64;

/// A delta's name and bytes.
type Read = (BlobRef, Arc<[u8]>);

/// What was handed over, and the delta last read.
pub struct Handover {
    given_bytes: BTreeMap<(ClaimId, NodeId), u64>,
    reads: Arc<Semaphore>,
    last: Arc<Mutex<Option<Read>>>,
}

impl Default for Handover {
    fn default() -> Self {
        Self { given_bytes: BTreeMap::new(), reads: Arc::new(Semaphore::new(READS_MAX)), last: Arc::default() }
    }
}

/// Whether a node sits in the newest committee known, in the one before, or in the one that holds the claim's shares.
fn may_judge(epochs: &EpochChain, record: &ClaimRecord, node: NodeId) -> bool {
    let newest = epochs.epoch();
    let dealt = record.payment.as_ref().map_or(newest, |payment| payment.epoch);
    let groups = [newest, newest.saturating_sub(1), dealt].map(|epoch| epochs.group(epoch));
    groups.into_iter().flatten().any(|group| group.members().contains(&node))
}

impl Handover {
    /// Which blob to answer from, if at all.
    ///
    /// # Errors
    /// Why not, for whoever asked.
    pub fn allow(
        &mut self,
        from: NodeId,
        from_byte: u64,
        record: Option<&ClaimRecord>,
        epochs: &EpochChain,
    ) -> Result<BlobRef, &'static str> {
        // R3: held is the lock, and the delta is revealed with it; when it is judged nobody needs it from here
        let record = record.filter(|r| r.phase == Phase::Held).ok_or("no delta of that claim is handed over now")?;
        if !may_judge(epochs, record, from) {
            return Err("only the committee is handed a delta");
        }
        if from_byte >= record.delta.len {
            return Err("the delta ends before that");
        }
        let key = (record.claim, from);
        if self.given_bytes.len() >= COUNTED_MAX && !self.given_bytes.contains_key(&key) {
            self.given_bytes.pop_first();
        }
        let given = self.given_bytes.entry(key).or_default();
        let part = (record.delta.len - from_byte).min(DELTA_PART_BYTES as u64);
        if given.saturating_add(part) > record.delta.len.saturating_mul(TIMES_MAX) {
            return Err("the delta was handed over often enough");
        }
        *given = given.saturating_add(part);
        Ok(record.delta)
    }

    /// Forgets what was counted for claims that are over.
    pub fn over(&mut self, claim: ClaimId) {
        self.given_bytes.retain(|(counted, _), _| *counted != claim);
    }

    /// Reads a part, beside the caller's loop.
    pub fn read(
        &self,
        blobs: &Arc<Blobs>,
        delta: BlobRef,
        from_byte: u64,
    ) -> impl Future<Output = Response> + Send + use<> {
        let (blobs, last, place) = (blobs.clone(), self.last.clone(), self.reads.clone().try_acquire_owned());
        async move {
            let Ok(_place) = place else { return Response::Refused("too many ask at once".into()) };
            let mut last = last.lock().await;
            let bytes = match last.as_ref() {
                Some((blob, bytes)) if *blob == delta => bytes.clone(),
                _ => match blobs.get(&delta).await {
                    Ok(bytes) => {
                        let bytes: Arc<[u8]> = bytes.into();
                        *last = Some((delta, bytes.clone()));
                        bytes
                    }
                    Err(error) => return Response::Refused(error.to_string()),
                },
            };
            drop(last);
            let from = usize::try_from(from_byte).unwrap_or(usize::MAX);
            let end = from.saturating_add(DELTA_PART_BYTES).min(bytes.len());
            match bytes.get(from..end).filter(|part| !part.is_empty()) {
                Some(part) => Response::Delta(part.to_vec()),
                None => Response::Refused("the delta ends before that".into()),
            }
        }
    }
}

impl Lite {
    /// A full node asks for part of a delta.
    pub(super) fn hand_over(&mut self, from: NodeId, claim: ClaimId, from_byte: u64, token: ResponseToken) {
        let record = self.trainer.claims().find(|r| r.claim == claim);
        match self.handover.allow(from, from_byte, record, self.trainer.epochs()) {
            Err(why) => self.net.respond(token, codec::encode(&Response::Refused(why.into()))),
            Ok(delta) => {
                let (net, reading) = (self.net.clone(), self.handover.read(&self.blobs, delta, from_byte));
                tokio::spawn(async move { net.respond(token, codec::encode(&reading.await)) });
            }
        }
    }
}
