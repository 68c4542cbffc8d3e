//! Timers of the core: a sorted map, so that the loop sleeps until exactly the next one.

use std::collections::BTreeMap;
use tokio::time::Instant;

/// Timers of kind `T`, fired in order of time, then of setting.
pub struct Timers<T> {
    map: BTreeMap<(Instant, u64), T>,
    seq: u64,
}

impl<T> Default for Timers<T> {
    fn default() -> Self {
        Self { map: BTreeMap::new(), seq: 0 }
    }
}

impl<T> Timers<T> {
    /// Sets a timer.
    pub fn insert(&mut self, due: Instant, timer: T) {
        self.seq += 1;
        self.map.insert((due, self.seq), timer);
    }

    /// Drops the timers that match.
    pub fn cancel(&mut self, matches: impl Fn(&T) -> bool) {
        self.map.retain(|_, t| !matches(t));
    }

    /// When the next one is due.
    pub fn next_due(&self) -> Option<Instant> {
        self.map.keys().next().map(|(due, _)| *due)
    }

    /// The next timer that is due.
    pub fn pop_due(&mut self, now: Instant) -> Option<T> {
        let key = *self.map.keys().next().filter(|(due, _)| *due <= now)?;
        self.map.remove(&key)
    }
}
