//! Whom to dial now: a pure decision over what is known, made once a second; the swarm only carries it out (N1).
//!
//! Dialling whoever was heard of last hands the choice to strangers: one machine makes up a thousand names with the
//! newest records, and every connection of this node ends there. So peers this node has reached itself come first, the
//! others in an order nobody else knows, few in one range of addresses; each failure doubles a peer's pause, and few
//! dials are under way at a time.

use super::address::{Group, group};
use crate::known::KnownPeer;
use oda_consensus::ids::NodeId;
use std::collections::{BTreeMap, BTreeSet};

/// Dials under way at a time.
pub const MAX_DIALS: usize = 4;
/// Connections this node opens within one range of addresses.
pub const MAX_PER_GROUP: usize = 2;
/// Pause before a peer is dialled again: without failures, after the first, at most; ms.
const PAUSE_MS: (u64, u64, u64) = (1_000, 5_000, 3_600_000);

/// What the decision rests on.
pub struct View<'a> {
    /// Whom one could dial.
    pub known: &'a BTreeMap<NodeId, KnownPeer>,
    /// Whom not: this node itself, who is connected, configured (dialled anyway) or banned.
    pub excluded: &'a BTreeSet<NodeId>,
    /// Who is being dialled.
    pub dialling: &'a BTreeSet<NodeId>,
    /// Connections this node opened, and dials under way, by range of addresses.
    pub groups: &'a BTreeMap<Group, usize>,
    /// Connections this node has opened or was told to keep.
    pub outbound: usize,
    /// How many there should be.
    pub target: usize,
    /// This node's secret order among peers it never reached.
    pub salt: &'a [u8; 32],
}

/// How long a peer is left alone after a dial, ms.
pub fn pause_ms(failures: u32) -> u64 {
    let (none, first, most) = PAUSE_MS;
    match failures {
        0 => none,
        n => first.saturating_mul(1 << (n - 1).min(20)).min(most),
    }
}

fn rank(salt: &[u8; 32], node: &NodeId) -> [u8; 32] {
    *blake3::keyed_hash(salt, &node.0).as_bytes()
}

/// Peers to dial now: those reached most lately first.
pub fn what_to_dial(view: &View<'_>, now_ms: u64) -> Vec<NodeId> {
    let under_way = view.dialling.len();
    let missing = view.target.saturating_sub(view.outbound.saturating_add(under_way));
    let wanted = missing.min(MAX_DIALS.saturating_sub(under_way));
    if wanted == 0 {
        return Vec::new();
    }
    // a clock set back must not silence this node until it is where it was
    let due = |p: &KnownPeer| p.tried_ms > now_ms || now_ms >= p.tried_ms.saturating_add(pause_ms(p.failures));
    let free = |node: &NodeId| !view.excluded.contains(node) && !view.dialling.contains(node);
    let mut candidates: Vec<(&NodeId, &KnownPeer)> =
        view.known.iter().filter(|(node, peer)| free(node) && due(peer)).collect();
    // a circuit is short and costs a third node: only while nobody can be dialled directly
    candidates.sort_by_cached_key(|(node, p)| {
        (p.is_behind_relays(), std::cmp::Reverse(p.reached_ms), !p.signed, rank(view.salt, node))
    });
    let mut groups = view.groups.clone();
    let mut chosen = Vec::new();
    for (node, peer) in candidates {
        if chosen.len() == wanted {
            break;
        }
        let own: BTreeSet<Group> = peer.to_dial().iter().filter_map(group).collect();
        if own.iter().any(|g| groups.get(g).is_some_and(|n| *n >= MAX_PER_GROUP)) {
            continue;
        }
        for group in own {
            *groups.entry(group).or_default() += 1;
        }
        chosen.push(*node);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use libp2p::Multiaddr;
    use proptest::prelude::*;

    const SALT: [u8; 32] = [3; 32];

    fn node(n: u8) -> NodeId {
        NodeId([n; 32])
    }

    fn peer(ip: (u8, u8), reached_ms: u64) -> KnownPeer {
        let at: Multiaddr = format!("/ip4/198.{}.1.{}/tcp/1", ip.0, ip.1).parse().unwrap();
        KnownPeer { addresses: vec![at], reached_ms, signed: true, ..KnownPeer::default() }
    }

    #[derive(Debug, Clone)]
    struct Case {
        known: BTreeMap<NodeId, KnownPeer>,
        excluded: BTreeSet<NodeId>,
        dialling: BTreeSet<NodeId>,
        groups: BTreeMap<Group, usize>,
        outbound: usize,
        target: usize,
        now_ms: u64,
    }

    impl Case {
        fn decide(&self) -> Vec<NodeId> {
            let Self { known, excluded, dialling, groups, outbound, target, .. } = self;
            let (outbound, target) = (*outbound, *target);
            what_to_dial(&View { known, excluded, dialling, groups, outbound, target, salt: &SALT }, self.now_ms)
        }

        fn of(known: impl IntoIterator<Item = (u8, KnownPeer)>) -> Self {
            Self {
                known: known.into_iter().map(|(n, p)| (node(n), p)).collect(),
                excluded: BTreeSet::new(),
                dialling: BTreeSet::new(),
                groups: BTreeMap::new(),
                outbound: 0,
                target: 8,
                now_ms: 10_000_000,
            }
        }
    }

    fn cases() -> impl Strategy<Value = Case> {
        let known = (any::<u8>(), 0u8..6, any::<u8>(), 0u64..100, 0u64..100, 0u32..40);
        let known = prop::collection::btree_map(any::<u8>(), known, 0..40);
        let some = || prop::collection::btree_set(any::<u8>(), 0..6);
        (known, some(), some(), prop::collection::btree_map(0u8..6, 0usize..4, 0..4), 0usize..12, 0usize..12).prop_map(
            |(known, excluded, dialling, groups, outbound, target)| Case {
                excluded: excluded.into_iter().map(node).collect(),
                dialling: dialling.into_iter().map(node).collect(),
                groups: groups.into_iter().map(|(g, n)| (Group::V4([198, g]), n)).collect(),
                outbound,
                target,
                ..Case::of(known.into_iter().map(|(n, (_, net, host, reached, tried, failures))| {
                    let at = peer((net, host), reached * 1_000);
                    (n, KnownPeer { tried_ms: 10_000_000 - tried * 1_000, failures, ..at })
                }))
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test] // N1, attack 17
        fn no_decision_breaks_a_limit(case in cases()) {
            let chosen = case.decide();
            let all: BTreeSet<_> = chosen.iter().collect();
            prop_assert_eq!(all.len(), chosen.len(), "nobody twice");
            prop_assert!(chosen.is_empty() || case.outbound + case.dialling.len() + chosen.len() <= case.target);
            prop_assert!(chosen.is_empty() || case.dialling.len() + chosen.len() <= MAX_DIALS);
            let mut groups = case.groups.clone();
            for node in &chosen {
                prop_assert!(!case.excluded.contains(node) && !case.dialling.contains(node));
                let peer = &case.known[node];
                prop_assert!(case.now_ms - peer.tried_ms >= pause_ms(peer.failures), "its pause is kept");
                *groups.entry(group(&peer.addresses[0]).unwrap()).or_default() += 1;
            }
            for (group, n) in groups {
                prop_assert!(n <= MAX_PER_GROUP.max(case.groups.get(&group).copied().unwrap_or(0)));
            }
        }

        #[test] // N1: whoever could be dialled and was not gave way to a limit, never to a peer reached earlier
        fn the_most_lately_reached_come_first(case in cases()) {
            let chosen = case.decide();
            for pair in chosen.windows(2) {
                prop_assert!(case.known[&pair[0]].reached_ms >= case.known[&pair[1]].reached_ms);
            }
            let again = case.decide();
            prop_assert_eq!(chosen, again);
        }

        #[test] // N1: while something is missing and anybody may be dialled, somebody is
        fn it_never_rests_without_reason(case in cases()) {
            let case = Case { groups: BTreeMap::new(), ..case };
            let missing = case.target > case.outbound + case.dialling.len() && case.dialling.len() < MAX_DIALS;
            let anybody = case.known.iter().any(|(n, p)| {
                let due = case.now_ms >= p.tried_ms + pause_ms(p.failures);
                due && !case.excluded.contains(n) && !case.dialling.contains(n)
            });
            prop_assert_eq!(!case.decide().is_empty(), missing && anybody);
        }
    }

    #[test] // attack 17: the newest records of one attacker do not fill the connections
    fn one_range_of_addresses_gets_two_connections() {
        let attacker = (1..100).map(|n| (n, peer((1, n), 0)));
        let case = Case::of(attacker.chain([(200, peer((2, 1), 0)), (201, peer((3, 1), 0))]));
        let chosen = case.decide();
        assert_eq!(chosen.len(), 4);
        assert!(chosen.contains(&node(200)) && chosen.contains(&node(201)));
    }

    #[test] // N1
    fn peers_behind_relays_come_last() {
        let relay = libp2p::PeerId::random();
        let behind = |n: u8| {
            let direct = peer((n, 1), 9_000_000);
            let through = crate::net::address::circuit(direct.addresses[0].clone(), relay);
            KnownPeer { addresses: vec![through], ..direct }
        };
        let case = Case { target: 2, ..Case::of([(1, behind(1)), (2, peer((2, 1), 0)), (3, behind(3))]) };
        assert_eq!(case.decide()[0], node(2));
        let one_relay = Case::of((1..9).map(|n| (n, behind(5))));
        assert_eq!(one_relay.decide().len(), MAX_PER_GROUP, "one relay's clients do not fill the connections");
    }

    #[test]
    fn pauses_double_up_to_an_hour_and_a_clock_set_back_silences_nobody() {
        assert_eq!([0, 1, 2, 3].map(pause_ms), [1_000, 5_000, 10_000, 20_000]);
        assert_eq!(pause_ms(u32::MAX), 3_600_000);
        let ahead = KnownPeer { tried_ms: u64::MAX, failures: 3, ..peer((1, 1), 0) };
        assert_eq!(Case::of([(1, ahead)]).decide(), [node(1)]);
    }
}
