//! Which part of a blob is asked of whom: decided without a socket.
//!
//! Cutting a blob into as many parts as there are providers makes the slowest of them decide when it is here. So there
//! are more parts than providers; who is done takes the next, and when none is left, one that does not get on. Two
//! providers then send the same part and the first to finish counts: at the end of a blob some bytes travel twice, but
//! nobody waits for a provider that does not send. (iroh-blobs' own downloader splits a request too, but has no bound
//! on
//! silence, rate or stated length, and forgets who failed.)

use iroh_blobs::protocol::{ChunkRanges, ChunkRangesExt as _};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// Chunks of 1 KiB in a group: what is verified, stored and asked for at once.
const GROUP_CHUNKS: u64 = 16;
/// Smaller parts cost more in round trips than they gain.
const PART_CHUNKS_MIN: u64 = 1_024;
/// Parts a provider, if all are equally fast.
const PARTS_PER_PROVIDER: u64 = 4;
/// Providers that send the same part at once.
const RACERS_MAX: usize = 2;
/// A part is also given to a second provider when it takes so many times as long as the slowest that is done.
const SLOW_FACTOR: u32 = 4;

/// What a worker does next.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    /// Fetch a part.
    Take(Turn, ChunkRanges),
    /// Look again when something changes, or then.
    Wait(Option<Instant>),
    /// All parts are here.
    Over,
}

/// One provider's attempt at a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn(u32);

#[derive(Debug)]
struct Part {
    ranges: ChunkRanges,
    is_done: bool,
}

#[derive(Debug)]
struct Running {
    part: usize,
    begun: Instant,
    /// When something last arrived.
    stirred: Instant,
}

#[derive(Debug)]
pub(super) struct Shares {
    parts: Vec<Part>,
    turns: BTreeMap<Turn, Running>,
    turns_taken: u32,
    slowest_done: Option<Duration>,
    takeover: Duration,
}

/// Chunks of 1 KiB of a blob.
pub(super) fn chunks(len_bytes: u64) -> u64 {
    len_bytes.div_ceil(1_024)
}

/// Bytes that a set of chunks stands for, in a blob of so many.
pub(super) fn bytes_of(ranges: &ChunkRanges, len_bytes: u64) -> u64 {
    let mut sum = 0_u64;
    for bounds in ranges.boundaries().chunks(2) {
        let at = |i: usize| bounds.get(i).map_or(len_bytes, |chunk| chunk.0.saturating_mul(1_024).min(len_bytes));
        sum = sum.saturating_add(at(1).saturating_sub(at(0)));
    }
    sum
}

impl Shares {
    /// Cuts what is missing of a blob into parts for so many providers.
    pub(super) fn new(missing: &ChunkRanges, len_bytes: u64, providers: usize, takeover_ms: u64) -> Self {
        let total = chunks(len_bytes);
        let wanted = match u64::try_from(providers).unwrap_or(u64::MAX) {
            0 | 1 => 1,
            several => several.saturating_mul(PARTS_PER_PROVIDER),
        };
        let step = total.div_ceil(wanted).max(PART_CHUNKS_MIN).next_multiple_of(GROUP_CHUNKS);
        let mut parts = Vec::new();
        let mut start = 0_u64;
        while start < total {
            let end = start.saturating_add(step);
            // the last one asks for whatever follows: its end proves the blob's length
            let span = if end >= total { ChunkRanges::chunks(start..) } else { ChunkRanges::chunks(start..end) };
            let ranges = missing & &span;
            if !ranges.is_empty() {
                parts.push(Part { ranges, is_done: false });
            }
            start = end;
        }
        let takeover = Duration::from_millis(takeover_ms);
        Self { parts, turns: BTreeMap::new(), turns_taken: 0, slowest_done: None, takeover }
    }

    /// What a worker without a part does.
    pub(super) fn next(&mut self, now: Instant) -> Next {
        let mut soonest: Option<(Instant, usize)> = None;
        let mut open = false;
        for (index, _) in self.parts.iter().enumerate().filter(|(_, part)| !part.is_done) {
            open = true;
            let racers: Vec<&Running> = self.turns.values().filter(|turn| turn.part == index).collect();
            let Some(due) = racers.iter().map(|turn| self.takeover_at(turn)).min() else {
                return self.take(index, now);
            };
            if racers.len() < RACERS_MAX && soonest.is_none_or(|(at, _)| due < at) {
                soonest = Some((due, index));
            }
        }
        match soonest {
            _ if !open => Next::Over,
            Some((due, index)) if due <= now => self.take(index, now),
            Some((due, _)) => Next::Wait(Some(due)),
            None => Next::Wait(None),
        }
    }

    /// When a second provider gets the part of this turn: after silence, or when it takes far longer than others did.
    fn takeover_at(&self, turn: &Running) -> Instant {
        let silent = turn.stirred + self.takeover;
        match self.slowest_done {
            Some(slowest) => silent.min(turn.begun + self.takeover + slowest.saturating_mul(SLOW_FACTOR)),
            None => silent,
        }
    }

    fn take(&mut self, part: usize, now: Instant) -> Next {
        let Some(ranges) = self.parts.get(part).map(|part| part.ranges.clone()) else { return Next::Over };
        let turn = Turn(self.turns_taken);
        self.turns_taken = self.turns_taken.wrapping_add(1);
        self.turns.insert(turn, Running { part, begun: now, stirred: now });
        Next::Take(turn, ranges)
    }

    /// Something arrived. False: another provider has sent all of the part meanwhile.
    pub(super) fn stirred(&mut self, turn: Turn, now: Instant) -> bool {
        let Some(running) = self.turns.get_mut(&turn) else { return false };
        running.stirred = now;
        self.parts.get(running.part).is_some_and(|part| !part.is_done)
    }

    /// All of the part is on disk.
    pub(super) fn done(&mut self, turn: Turn, now: Instant) {
        let Some(running) = self.turns.remove(&turn) else { return };
        if let Some(part) = self.parts.get_mut(running.part) {
            part.is_done = true;
        }
        let took = now.saturating_duration_since(running.begun);
        self.slowest_done = self.slowest_done.max(Some(took));
    }

    /// The provider failed, or there is none: somebody else takes the part.
    pub(super) fn given_back(&mut self, turn: Turn) {
        self.turns.remove(&turn);
    }

    /// Turns on which nothing has come for so long that others take them over.
    pub(super) fn silent(&self, now: Instant) -> Vec<Turn> {
        let is_silent = |running: &Running| now.saturating_duration_since(running.stirred) >= self.takeover;
        self.turns.iter().filter(|(_, running)| is_silent(running)).map(|(turn, _)| *turn).collect()
    }

    /// Whether all parts are here.
    pub(super) fn is_over(&self) -> bool {
        self.parts.iter().all(|part| part.is_done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn taken(next: Next) -> (Turn, ChunkRanges) {
        match next {
            Next::Take(turn, ranges) => (turn, ranges),
            other => panic!("expected a part, got {other:?}"),
        }
    }

    #[test] // D1: the parts are the missing chunks, each once, whatever is here already
    fn parts_cover_what_is_missing_and_nothing_else() {
        for (len, providers) in [(1, 3), (MIB, 3), (5 * MIB + 1, 3), (100 * MIB, 3), (100 * MIB, 1), (7 * MIB, 2)] {
            let total = chunks(len);
            for here in [ChunkRanges::empty(), ChunkRanges::chunks(..total / 2), ChunkRanges::chunks(16..48)] {
                let missing = ChunkRanges::all() - here.clone();
                let shares = Shares::new(&missing, len, providers, 1_000);
                let mut seen = ChunkRanges::empty();
                for part in &shares.parts {
                    assert!((&seen & &part.ranges).is_empty(), "a chunk is asked for twice");
                    seen |= part.ranges.clone();
                }
                let all = ChunkRanges::chunks(..total);
                assert_eq!(&seen & &all, &missing & &all);
                assert!(shares.parts.len() <= 12 && (providers > 1 || shares.parts.len() <= 1));
                let bytes: u64 = shares.parts.iter().map(|part| bytes_of(&part.ranges, len)).sum();
                assert_eq!(bytes, bytes_of(&missing, len));
            }
        }
        assert_eq!(bytes_of(&ChunkRanges::all(), 1_500), 1_500);
        assert_eq!(bytes_of(&ChunkRanges::chunks(1..), 1_500), 476);
    }

    #[test] // D1: a failed part goes to the next, a silent one to a second provider, and to no third
    fn parts_of_slow_and_failed_providers_are_taken_over() {
        let now = Instant::now();
        let at = |ms| now + Duration::from_millis(ms);
        let mut shares = Shares::new(&ChunkRanges::all(), 100, 3, 1_000);
        let (first, ranges) = taken(shares.next(now));
        assert_eq!(shares.next(now), Next::Wait(Some(at(1_000))));
        shares.given_back(first);
        let (second, again) = taken(shares.next(now));
        assert_eq!(ranges, again);
        assert!(shares.stirred(second, at(500)) && !shares.stirred(first, at(500)));
        assert_eq!(shares.next(at(1_400)), Next::Wait(Some(at(1_500))));
        let (third, _) = taken(shares.next(at(1_500)));
        assert_eq!(shares.next(at(9_000)), Next::Wait(None));
        assert_eq!(shares.silent(at(1_600)), [second]);
        shares.done(third, at(2_000));
        assert!(!shares.stirred(second, at(2_001)), "the slow one is told to stop");
        assert!(shares.is_over());
        assert_eq!(shares.next(at(2_001)), Next::Over);
    }

    #[test] // a provider that sends something now and then is no reason to wait for ever
    fn parts_that_crawl_are_taken_over() {
        let now = Instant::now();
        let at = |ms| now + Duration::from_millis(ms);
        let mut shares = Shares::new(&ChunkRanges::all(), 2 * MIB, 2, 1_000);
        let (crawling, crawled) = taken(shares.next(now));
        let (quick, _) = taken(shares.next(now));
        shares.done(quick, at(100));
        assert!(shares.stirred(crawling, at(1_300)));
        assert_eq!(shares.next(at(1_300)), Next::Wait(Some(at(1_400))));
        let (_, ranges) = taken(shares.next(at(1_400)));
        assert_eq!(ranges, crawled);
    }
}
