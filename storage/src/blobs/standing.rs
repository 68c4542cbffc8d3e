//! What is remembered of providers that failed or lied (D1): for a while, and of so many.
//!
//! Refusing them altogether would let one wrong reference, or one bad minute, cut an honest node off; forgetting them
//! at once would let a liar cost every fetch its time. So they are asked last, and forgiven by the clock.

use super::transfer::ProviderFault;
use oda_consensus::ids::NodeId;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// Most providers remembered (K3).
const REMEMBERED_MAX: usize = 1_024;
/// For how long wrong bytes are remembered.
const LIE_MS: u64 = 600_000;
/// For how long a failure is.
const FAILURE_MS: u64 = 30_000;

/// How bad it was; the better are asked first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mark {
    Good,
    Failed,
    Lied,
}

#[derive(Debug, Default)]
pub(super) struct Standing {
    marks: BTreeMap<NodeId, (Mark, Instant)>,
}

impl Standing {
    /// Remembers a fault. Not having a blob is none.
    pub(super) fn note(&mut self, node: NodeId, fault: &ProviderFault, now: Instant) {
        let (mark, ms) = match fault {
            ProviderFault::NotFound => return,
            ProviderFault::WrongBytes(_) => (Mark::Lied, LIE_MS),
            // a length that differs may be the reference's fault: no reason to call anyone a liar
            ProviderFault::BadKey
            | ProviderFault::Unreachable(_)
            | ProviderFault::WrongLength { .. }
            | ProviderFault::Silent { .. }
            | ProviderFault::TooSlow { .. }
            | ProviderFault::Broken(_) => (Mark::Failed, FAILURE_MS),
        };
        if self.of(node, now) > mark {
            return;
        }
        if self.marks.len() >= REMEMBERED_MAX && !self.marks.contains_key(&node) {
            self.marks.retain(|_, (_, until)| *until > now);
            if self.marks.len() >= REMEMBERED_MAX {
                let soonest = self.marks.iter().min_by_key(|(_, (_, until))| *until).map(|(node, _)| *node);
                soonest.and_then(|node| self.marks.remove(&node));
            }
        }
        self.marks.insert(node, (mark, now + Duration::from_millis(ms)));
    }

    /// How a node stands.
    pub(super) fn of(&self, node: NodeId, now: Instant) -> Mark {
        self.marks.get(&node).filter(|(_, until)| *until > now).map_or(Mark::Good, |(mark, _)| *mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u32) -> NodeId {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&n.to_be_bytes());
        NodeId(id)
    }

    #[test] // D1: a lie outlasts a failure, and both are forgiven
    fn faults_are_remembered_for_a_while() {
        let (mut standing, now) = (Standing::default(), Instant::now());
        let later = |ms| now + Duration::from_millis(ms);
        standing.note(node(1), &ProviderFault::WrongBytes("x".into()), now);
        standing.note(node(1), &ProviderFault::Broken("x".into()), now);
        standing.note(node(2), &ProviderFault::Broken("x".into()), now);
        standing.note(node(3), &ProviderFault::NotFound, now);
        let marks = |at| [1, 2, 3, 4].map(|n| standing.of(node(n), at));
        assert_eq!(marks(now), [Mark::Lied, Mark::Failed, Mark::Good, Mark::Good]);
        assert_eq!(marks(later(FAILURE_MS)), [Mark::Lied, Mark::Good, Mark::Good, Mark::Good]);
        assert_eq!(marks(later(LIE_MS)), [Mark::Good; 4]);
    }

    #[test] // K3: strangers cannot make it grow
    fn so_many_are_remembered_and_no_more() {
        let (mut standing, now) = (Standing::default(), Instant::now());
        standing.note(node(0), &ProviderFault::WrongBytes("x".into()), now);
        for n in 1..3_000 {
            standing.note(node(n), &ProviderFault::Broken("x".into()), now + Duration::from_millis(n.into()));
        }
        assert_eq!(standing.marks.len(), REMEMBERED_MAX);
        assert_eq!(standing.of(node(0), now), Mark::Lied, "those that are forgiven soonest make place");
        assert_eq!(standing.of(node(2_999), now), Mark::Failed);
    }
}
