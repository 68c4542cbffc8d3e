//! Whether the node is worth asking: a process that runs may still be hours behind the network.

use crate::full::Shared;
use serde_json::json;
use std::time::Duration;

/// The tip may be so many block intervals old,
const MAX_INTERVALS: u64 = 30;
/// or this, if that is longer: committees pause for an unreachable proposer.
const MIN_AGE: Duration = Duration::from_secs(60);

/// What readiness depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Health {
    pub(super) height: u64,
    pub(super) tip_age_ms: u64,
    /// Oldest tip of a node that is synced.
    pub(super) max_age_ms: u64,
    pub(super) connected: usize,
    /// Whether nobody else takes part in the network.
    pub(super) is_alone: bool,
}

impl Health {
    pub(super) fn of(shared: &Shared, now_ms: u64) -> Self {
        let connected = shared.peers().iter().filter(|p| p.connected).count();
        let state = shared.state();
        let tip = state.tip();
        let intervals = MAX_INTERVALS.saturating_mul(state.genesis().block_interval_ms.into());
        Self {
            height: tip.height,
            tip_age_ms: now_ms.saturating_sub(tip.time_ms),
            max_age_ms: intervals.max(u64::try_from(MIN_AGE.as_millis()).unwrap_or(u64::MAX)),
            connected,
            is_alone: state.group().members() == [shared.me],
        }
    }

    /// Why not, one reason a line.
    fn reasons(&self) -> Vec<String> {
        let mut out = Vec::new();
        if self.height == 0 {
            out.push("no block yet".into());
        } else if self.tip_age_ms > self.max_age_ms {
            out.push(format!(
                "the last block is {} s old, at most {} s",
                self.tip_age_ms / 1000,
                self.max_age_ms / 1000
            ));
        }
        if self.connected == 0 && !self.is_alone {
            out.push("no peer is connected".into());
        }
        out
    }

    pub(super) fn is_ready(&self) -> bool {
        self.reasons().is_empty()
    }

    pub(super) fn to_json(self) -> serde_json::Value {
        json!({
            "ready": self.is_ready(),
            "reasons": self.reasons(),
            "height": self.height,
            "tip_age_ms": self.tip_age_ms,
            "peers": self.connected,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_a_young_tip_and_somebody_to_talk_to() {
        let good = Health { height: 5, tip_age_ms: 1_000, max_age_ms: 60_000, connected: 1, is_alone: false };
        assert!(good.is_ready());
        assert!(!Health { height: 0, ..good }.is_ready());
        assert!(Health { tip_age_ms: 60_000, ..good }.is_ready());
        assert!(!Health { tip_age_ms: 60_001, ..good }.is_ready());
        assert!(!Health { connected: 0, ..good }.is_ready());
        assert!(Health { connected: 0, is_alone: true, ..good }.is_ready());
        let both = Health { tip_age_ms: 90_000, connected: 0, ..good };
        assert_eq!(both.reasons().len(), 2);
    }
}
