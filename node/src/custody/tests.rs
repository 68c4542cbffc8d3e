use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn node(n: u16) -> NodeId {
    NodeId(*blake3::hash(&n.to_be_bytes()).as_bytes())
}

fn blob(n: u16, len: u64) -> BlobRef {
    BlobRef { hash: BlobHash(*blake3::hash(&n.to_le_bytes()).as_bytes()), len }
}

fn census(live: impl IntoIterator<Item = (u16, Kind)>, past: &[u16]) -> Census {
    let live = live.into_iter().map(|(n, kind)| Live { blob: blob(n, 1_000), kind });
    let past = past.iter().map(|n| blob(*n, 0).hash).collect();
    Census { live: live.map(|l| (l.blob.hash, l)).collect(), past, validators: BTreeSet::new() }
}

/// Every node's decision, if each of them has this.
fn decisions(n: u16, census: &Census, have: &BTreeSet<BlobHash>, replicas: usize) -> BTreeMap<NodeId, Decision> {
    let nodes: BTreeSet<NodeId> = (0..n).map(node).collect();
    let decision = |me: NodeId| {
        let peers: BTreeSet<NodeId> = nodes.iter().copied().filter(|node| *node != me).collect();
        decide(&Question { me, peers: &peers, census, have, replicas, quota_bytes: 0 })
    };
    nodes.iter().map(|me| (*me, decision(*me))).collect()
}

proptest! {
    #[test] // D2: without a word exchanged, each blob gets k keepers, or all nodes if they are fewer
    fn every_live_blob_has_its_keepers(n in 1_u16..24, k in 1_usize..6, blobs in 1_u16..20) {
        let census = census((0..blobs).map(|b| (b, if b % 2 == 0 { Kind::Head } else { Kind::Data })), &[]);
        let all = decisions(n, &census, &BTreeSet::new(), k);
        for live in census.live.values() {
            let fetching = all.values().filter(|d| d.fetch.iter().any(|w| w.blob == live.blob)).count();
            prop_assert_eq!(fetching, k.min(usize::from(n)));
        }
        for (me, d) in &all {
            for wanted in &d.fetch {
                prop_assert_eq!(wanted.keepers.len(), k.min(usize::from(n)) - 1);
                prop_assert!(!wanted.keepers.contains(me));
            }
            prop_assert_eq!((d.assigned, d.missing, d.no_room), (d.fetch.len(), d.fetch.len(), 0));
        }
    }

    #[test] // D2: when a node leaves, its places go to the next, and nothing else moves
    fn only_the_places_of_who_left_change(n in 2_u16..24, k in 1_usize..6, b in any::<u16>(), gone in any::<u16>()) {
        let (hash, gone) = (blob(b, 0).hash, node(gone % n));
        let before = keepers(hash, (0..n).map(node), k);
        let after = keepers(hash, (0..n).rev().map(node).filter(|node| *node != gone), k);
        let stayed: Vec<NodeId> = before.iter().copied().filter(|node| *node != gone).collect();
        prop_assert_eq!(&after[..stayed.len()], &stayed[..]);
        prop_assert_eq!(after.len(), k.min(usize::from(n) - 1));
    }

    #[test] // D2: what the ledger needs never goes, and what is fetched fits
    fn live_blobs_stay_and_the_quota_holds(
        live in prop::collection::btree_set(0_u16..40, 0..20),
        past in prop::collection::vec(0_u16..40, 0..20),
        have in prop::collection::btree_set(0_u16..40, 0..30),
        quota_kb in 0_u64..30,
        k in 1_usize..4,
    ) {
        let census = census(live.iter().map(|b| (*b, [Kind::Head, Kind::Data, Kind::Delta][usize::from(b % 3)])), &past);
        let have: BTreeSet<BlobHash> = have.iter().map(|b| blob(*b, 0).hash).collect();
        let (peers, quota_bytes) = ((1..5).map(node).collect(), quota_kb * 1_000);
        let d = decide(&Question { me: node(0), peers: &peers, census: &census, have: &have, replicas: k, quota_bytes });
        prop_assert!(d.spare.iter().all(|hash| have.contains(hash) && !census.live.contains_key(hash)));
        prop_assert!(d.keep.iter().all(|hash| have.contains(hash) && census.live.contains_key(hash)));
        prop_assert_eq!(d.keep.len(), census.live.keys().filter(|hash| have.contains(*hash)).count());
        let cost = |hash: &BlobHash| census.live[hash].cost_bytes();
        let fetched: u64 = d.fetch.iter().map(|w| cost(&w.blob.hash)).sum();
        let kept: u64 = d.keep.iter().map(cost).sum();
        prop_assert!(quota_bytes == 0 || fetched == 0 || fetched + kept <= quota_bytes);
        prop_assert!(quota_bytes > 0 || d.no_room == 0);
        prop_assert_eq!(d.fetch.len() + d.no_room, d.missing);
        prop_assert!(d.fetch.iter().all(|w| !have.contains(&w.blob.hash)));
    }
}

#[test] // D2: heads come before data, and nobody hoards deltas
fn heads_come_first() {
    let census = census([(1, Kind::Data), (2, Kind::Head), (3, Kind::Delta)], &[]);
    let d = decisions(1, &census, &BTreeSet::new(), 3).remove(&node(0)).unwrap();
    assert_eq!(d.fetch.iter().map(|w| w.blob).collect::<Vec<_>>(), [blob(2, 1_000), blob(1, 1_000)]);
}

#[test] // the names of keepers are part of what nodes agree on without talking: changing them moves every blob
fn the_order_is_pinned() {
    let first = keepers(blob(1, 0).hash, (0..5).map(node), 5);
    let order: Vec<usize> = first.iter().filter_map(|id| (0..5).position(|n| node(n) == *id)).collect();
    assert_eq!(order, [2, 0, 3, 4, 1]);
}

#[test] // D2: what the ledger may ask a validator for, it keeps, also where enough full nodes keep it anyway
fn validators_keep_copies_among_themselves() {
    let mut census = census((0..40).map(|b| (b, Kind::Data)), &[]);
    census.validators = (20..26).map(node).collect();
    let all = decisions(30, &census, &BTreeSet::new(), 1);
    for live in census.live.values() {
        let asked = keepers(live.blob.hash, census.validators.iter().copied(), KEEPERS);
        assert!(asked.iter().all(|v| all[v].fetch.iter().any(|w| w.blob == live.blob)), "{live:?}");
        let fetching: Vec<&Decision> = all.values().filter(|d| d.fetch.iter().any(|w| w.blob == live.blob)).collect();
        assert!((KEEPERS..=KEEPERS + 1).contains(&fetching.len()));
        for d in fetching {
            let wanted = d.fetch.iter().find(|w| w.blob == live.blob).unwrap();
            let others: BTreeSet<NodeId> = wanted.keepers.iter().copied().collect();
            assert_eq!(others.len(), wanted.keepers.len(), "nobody is asked twice");
        }
    }
}
