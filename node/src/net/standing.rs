//! Whom to ask what every full node can answer.
//!
//! Asking connected peers in turn fails twice: a peer that does not answer takes its turns all the same, and peers met
//! on the way crowd out those the owner named. So a peer that is late is passed over while others answer, and at
//! least every second question goes to a configured peer while one is there.

use oda_consensus::ids::NodeId;

/// A connected full node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Who.
    pub node: NodeId,
    /// Whether the owner named it.
    pub is_configured: bool,
    /// Whether a question waits too long for its answer, or failed a moment ago.
    pub is_late: bool,
}

/// Peers to ask in turn: configured ones and others alternating, never more of the others than of them.
pub fn askable(all: &[Standing]) -> Vec<NodeId> {
    let some_prompt = all.iter().any(|s| !s.is_late);
    let mut fit: Vec<&Standing> = all.iter().filter(|s| !s.is_late || !some_prompt).collect();
    fit.sort_by_key(|s| s.node);
    let (configured, others): (Vec<&Standing>, Vec<&Standing>) = fit.into_iter().partition(|s| s.is_configured);
    if configured.is_empty() {
        return others.into_iter().map(|s| s.node).collect();
    }
    let mut others = others.into_iter();
    configured.into_iter().flat_map(|c| [Some(c), others.next()]).flatten().map(|s| s.node).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u8, is_configured: bool, is_late: bool) -> Standing {
        Standing { node: NodeId([n; 32]), is_configured, is_late }
    }

    fn asked(all: &[Standing]) -> Vec<u8> {
        askable(all).iter().map(|n| n.0[0]).collect()
    }

    #[test] // N1: peers met on the way do not crowd out those the owner named
    fn every_second_question_goes_to_a_configured_peer() {
        let met = (10..20).map(|n| peer(n, false, false));
        let all: Vec<Standing> = met.chain([peer(1, true, false), peer(2, true, false)]).collect();
        assert_eq!(asked(&all), [1, 10, 2, 11]);
        assert_eq!(asked(&all[..2]), [10, 11], "without any the others will do");
        assert_eq!(asked(&[peer(1, true, false), peer(2, true, false), peer(3, false, false)]), [1, 3, 2]);
    }

    #[test] // N1: a peer that does not answer does not take the turns of those that do
    fn a_late_peer_is_passed_over_while_another_answers() {
        assert_eq!(asked(&[peer(1, true, true), peer(2, true, false), peer(3, false, true)]), [2]);
        assert_eq!(asked(&[peer(1, true, true), peer(3, false, false)]), [3]);
        assert_eq!(asked(&[peer(1, true, true), peer(3, false, true)]), [1, 3], "better late than none");
        assert!(asked(&[]).is_empty());
    }
}
