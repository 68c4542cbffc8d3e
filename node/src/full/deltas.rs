//! Fetches revealed deltas over the connection their trainer opened itself (R3, N2).
//!
//! A trainer at home has no address at which a validator could fetch its delta. Were it to push the delta to full
//! nodes instead, each of them would have to take bytes it did not ask for, and the trainer to believe whoever says
//! "taken". So members of the committee ask, over the libp2p connection that is there already, for exactly what the
//! ledger says was revealed: signed length, hash checked before a byte is kept (D1), one question at a time. Each
//! member that has the delta serves it to the others like any other blob.
//!
//! The first n-t+1 members in an order of each claim's own ask at once: one of them is honest (C3). The others wait a
//! moment, try those, and then ask the trainer too; so a line at home carries a delta once or twice rather than n
//! times, and nobody's "I have it" is believed.

use super::{Core, CoreEvent};
use crate::net::{Net, RequestError};
use crate::peers::blob_addr;
use oda_consensus::codec;
use oda_consensus::ids::{BlobRef, ClaimId, NodeId};
use oda_consensus::state::State;
use oda_consensus::wire::{DELTA_PART_BYTES, Request, Response};
use oda_storage::{BlobAddr, BlobError, Blobs};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::Semaphore;
use tokio::time::{Duration, Instant, timeout};

/// Deltas on their way at a time, and memory for them, MiB.
const PULLS_MAX: usize = 32;
const MEMORY_MIB: usize = 128;
/// Longest wait for one delta: this, and the time it takes at the slowest allowed rate.
const GRACE: Duration = Duration::from_secs(20);
const RATE_MIN_BYTES_PER_S: u64 = 32 << 10;
/// How long members that are not among the first leave a delta to those, and then try to get it from them.
const LEFT_TO_OTHERS: Duration = Duration::from_secs(2);
/// Pause before a trainer is asked again; it grows with each failure.
const RETRY: Duration = Duration::from_secs(1);
/// Failures after which a trainer is asked no more.
const TRIES_MAX: u32 = 8;
/// Revealed claims looked after at a time (K3).
const OPEN_MAX: usize = 1_024;
/// How often to look whom to ask, besides after each block.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A delta the ledger names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delta {
    /// Its claim.
    pub claim: ClaimId,
    /// Who made it, and alone is asked.
    pub trainer: NodeId,
    /// Its hash and length, as revealed.
    pub blob: BlobRef,
}

/// Why a delta did not come.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// Too many are on their way.
    #[error("too many deltas are on their way")]
    Busy,
    /// No answer.
    #[error(transparent)]
    Net(#[from] RequestError),
    /// The trainer does not want to.
    #[error("refused: {0}")]
    Refused(String),
    /// It took too long.
    #[error("too slow")]
    TooSlow,
    /// No honest trainer answers so.
    #[error("{0}")]
    Wrong(&'static str),
    /// This node's own store; the quota among other things (D2).
    #[error(transparent)]
    Store(#[from] BlobError),
}

/// Asks trainers for deltas. Cloning gives another handle.
#[derive(Clone)]
pub struct Puller {
    net: Net,
    blobs: Arc<Blobs>,
    places: Arc<Semaphore>,
    memory: Arc<Semaphore>,
    /// One question for a delta at a time; ended ones are dropped at the next.
    flights: Arc<Mutex<BTreeMap<ClaimId, Weak<tokio::sync::Mutex<()>>>>>,
}

impl Puller {
    /// Over these connections, into this store.
    pub fn new(net: Net, blobs: Arc<Blobs>) -> Self {
        let (places, memory) = (Arc::new(Semaphore::new(PULLS_MAX)), Arc::new(Semaphore::new(MEMORY_MIB)));
        Self { net, blobs, places, memory, flights: Arc::default() }
    }

    fn flight(&self, claim: ClaimId) -> Arc<tokio::sync::Mutex<()>> {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        flights.retain(|_, flight| flight.strong_count() > 0);
        let flight = flights.get(&claim).and_then(Weak::upgrade).unwrap_or_default();
        flights.insert(claim, Arc::downgrade(&flight));
        flight
    }

    /// Gets a delta from its trainer, unless it is here.
    ///
    /// # Errors
    /// [`PullError`]; nothing is kept then.
    pub async fn pull(&self, delta: &Delta) -> Result<(), PullError> {
        let flight = self.flight(delta.claim);
        let _alone = flight.lock().await;
        if self.blobs.has(&delta.blob).await? {
            return Ok(());
        }
        let _place = self.places.try_acquire().map_err(|_| PullError::Busy)?;
        let mib = u32::try_from(delta.blob.len >> 20).unwrap_or(u32::MAX).saturating_add(1);
        let _memory = self.memory.try_acquire_many(mib).map_err(|_| PullError::Busy)?;
        let longest = GRACE.saturating_add(Duration::from_secs(delta.blob.len / RATE_MIN_BYTES_PER_S));
        let bytes = timeout(longest, self.parts(delta)).await.map_err(|_| PullError::TooSlow)??;
        if BlobRef::of(&bytes) != delta.blob {
            return Err(PullError::Wrong("a delta with other bytes than its trainer revealed")); // D1
        }
        self.blobs.add(bytes).await?;
        Ok(())
    }

    async fn parts(&self, delta: &Delta) -> Result<Vec<u8>, PullError> {
        let Ok(len) = usize::try_from(delta.blob.len) else { return Err(PullError::Busy) };
        let mut bytes = Vec::new(); // grows with what comes, not with what was stated
        while bytes.len() < len {
            let request = Request::Delta { claim: delta.claim, from_byte: bytes.len() as u64 };
            let answer = self.net.request(delta.trainer, codec::encode(&request)).await?;
            match codec::decode(&answer) {
                // full parts only: otherwise a byte at a time would keep this node busy for as long as it likes
                Ok(Response::Delta(part)) if part.len() == DELTA_PART_BYTES.min(len.saturating_sub(bytes.len())) => {
                    bytes.extend_from_slice(&part);
                }
                Ok(Response::Delta(_)) => return Err(PullError::Wrong("a delta's part of a wrong length")),
                Ok(Response::Refused(why)) => return Err(PullError::Refused(why)),
                Ok(_) | Err(_) => return Err(PullError::Wrong("no answer to the question for a delta")),
            }
        }
        Ok(bytes)
    }
}

/// A delta the ledger wants judged, and what is done about it.
struct Want {
    failures: u32,
    next: Instant,
    is_asked: bool,
    is_over: bool,
}

/// The event loop's end of it.
pub(super) struct Deltas {
    pub(super) puller: Puller,
    wanted: BTreeMap<ClaimId, Want>,
    looked: Instant,
}

impl Deltas {
    pub(super) fn new(puller: Puller) -> Self {
        Self { puller, wanted: BTreeMap::new(), looked: Instant::now() }
    }
}

/// Members of a committee that ask a trainer at once: so many that one is honest, in an order of the claim's own so
/// that no member's line carries more than others'.
pub fn first_to_ask(members: &[NodeId], threshold: usize, claim: ClaimId) -> Vec<NodeId> {
    let rank = |node: &NodeId| {
        let mut hasher = blake3::Hasher::new_derive_key("oda 2026 who asks for a delta");
        *hasher.update(&claim.0).update(&node.0).finalize().as_bytes()
    };
    let mut order = members.to_vec();
    order.sort_by_cached_key(rank);
    order.truncate(members.len().saturating_sub(threshold).saturating_add(1));
    order
}

/// The revealed deltas of running rounds that this node will judge, with who asks for each at once.
pub fn open_deltas(state: &State, me: NodeId) -> Vec<(Delta, Vec<NodeId>)> {
    let mut open = Vec::new();
    for (id, model) in state.models() {
        let Some(round) = &model.round else { continue };
        // who will judge is known once nothing more can be claimed; till then it is most likely whoever is in charge
        let committee = state.judges(id).unwrap_or_else(|| state.current());
        if committee.group.index_of(me).is_none() {
            continue;
        }
        for claim in round.claims.iter().filter_map(|claim| state.claim(*claim)) {
            let Some(reveal) = claim.reveal.as_ref().filter(|_| claim.judged.is_none()) else { continue };
            let blob = reveal.delta;
            if blob.len == 0 || blob.len > model.manifest.judging.max_delta_bytes || claim.trainer == me {
                continue; // S7: refused unseen
            }
            if open.len() >= OPEN_MAX {
                return open;
            }
            let (members, threshold) = (committee.group.members(), committee.group.threshold());
            let first = first_to_ask(members, threshold, claim.id);
            open.push((Delta { claim: claim.id, trainer: claim.trainer, blob }, first));
        }
    }
    open
}

impl Core {
    /// Asks trainers for what was revealed and is not here: after each block, and now and then.
    pub(super) fn bring_deltas(&mut self, at_once: bool) {
        let now = Instant::now();
        let is_time = at_once || now.saturating_duration_since(self.deltas.looked) >= LOOK_EVERY;
        if self.duty.is_none() || self.catching_up || !is_time {
            return;
        }
        self.deltas.looked = now;
        let open = open_deltas(&self.shared.state(), self.me);
        let claims: BTreeSet<ClaimId> = open.iter().map(|(delta, _)| delta.claim).collect();
        self.deltas.wanted.retain(|claim, _| claims.contains(claim)); // judged: nothing is asked any more
        let connected = self.net.connected();
        for (delta, first) in open {
            let is_first = first.contains(&self.me);
            let begin = if is_first { now } else { now + LEFT_TO_OTHERS };
            let new = || Want { failures: 0, next: begin, is_asked: false, is_over: false };
            let want = self.deltas.wanted.entry(delta.claim).or_insert_with(new);
            // one that is away is asked when it is back
            if want.is_over || want.is_asked || now < want.next || !connected.contains(&delta.trainer) {
                continue;
            }
            want.is_asked = true;
            let others: Vec<BlobAddr> = match is_first {
                true => Vec::new(),
                false => first.iter().filter_map(|node| self.book.get(*node)).filter_map(blob_addr).collect(),
            };
            let (puller, blobs, events) = (self.deltas.puller.clone(), self.blobs.clone(), self.events.clone());
            tokio::spawn(async move {
                let helped = !others.is_empty()
                    && timeout(LEFT_TO_OTHERS, blobs.fetch(&delta.blob, &others, delta.blob.len, None))
                        .await
                        .is_ok_and(|fetched| fetched.is_ok());
                let result = if helped { Ok(()) } else { puller.pull(&delta).await };
                let _ = events.send(CoreEvent::DeltaAsked(delta.claim, result)).await;
            });
        }
    }

    pub(super) fn on_delta_asked(&mut self, claim: ClaimId, result: Result<(), PullError>) {
        if let Err(PullError::Wrong(what)) = &result {
            self.count_refused(&format!("Delta: {what}"));
        }
        let Some(want) = self.deltas.wanted.get_mut(&claim) else { return };
        want.is_asked = false;
        if let Err(error) = &result {
            tracing::debug!(claim = %claim.short(), %error, "delta not handed over");
            want.failures = want.failures.saturating_add(1);
            want.next = Instant::now() + RETRY.saturating_mul(want.failures);
        }
        let lies = matches!(result, Err(PullError::Wrong(_)));
        want.is_over = result.is_ok() || lies || want.failures >= TRIES_MAX;
    }
}
