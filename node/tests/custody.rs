//! Keeping blobs (D2): what a real ledger needs, and whether it survives that half of the nodes leave at once.

#[allow(dead_code)] // shared with the tests of the state machine
#[path = "../../consensus/tests/world/mod.rs"]
mod world;

use oda_consensus::custody::keepers;
use oda_consensus::ids::{BlobHash, BlobRef, ClaimId, ModelId, NodeId};
use oda_consensus::state::{Entry, Head, State, Tip};
use oda_node::custody::{Bounds, Census, Keeper, Kind, Live, Pace, Peers, Report};
use oda_storage::{BlobLimits, Blobs};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use world::World;

fn blob(n: u64) -> BlobRef {
    BlobRef { hash: BlobHash(*blake3::hash(&n.to_le_bytes()).as_bytes()), len: 400 }
}

/// The ledger of one judged round, as it would be so many rounds later without money: (state, model, heads by round,
/// deltas).
fn aged(rounds: u64, height: u64) -> (State, ModelId, Vec<BlobRef>, Vec<BlobRef>) {
    let mut world = World::new();
    world.whole_round();
    let id = world.model();
    let mut state = world.state;
    let mut model = state.model(id).unwrap().clone();
    let first = state.outcomes(id).next().unwrap().clone();
    let claim = state.claims().find(|c| c.reveal.is_some()).unwrap().clone();
    let mut deltas = vec![claim.reveal.unwrap().delta];
    let mut heads = vec![first.outcome.parent];
    for round in 2..=rounds {
        let mut later = first.clone();
        (later.outcome.round, later.outcome.parent, later.height) = (round, blob(round), round * 100);
        later.outcome.head = None;
        heads.push(later.outcome.parent);
        state.restore(Entry::Outcome(Box::new(later)));
        let mut claim = claim.clone();
        (claim.id, claim.round, claim.committed_height) = (ClaimId([round as u8; 32]), round, round * 100 - 1);
        let mut reveal = claim.reveal.unwrap();
        reveal.delta = blob(1_000 + round);
        claim.reveal = Some(reveal);
        deltas.push(reveal.delta);
        state.restore(Entry::Claim(Box::new(claim)));
    }
    model.head = Head { weights: blob(rounds + 1), round: rounds, test: None };
    heads.push(model.head.weights);
    model.sponsors.clear();
    let round = model.round.as_mut().unwrap();
    (round.number, round.claims) = (rounds + 1, Vec::new());
    state.restore(Entry::Model(Box::new(model)));
    let tip = Tip { height, ..state.tip() };
    state.restore(Entry::Tip(tip));
    (state, id, heads, deltas)
}

// D2: the current head for ever, the last ones and the data while somebody works on the model, deltas for some rounds
#[test]
fn the_ledger_says_what_it_needs() {
    let bounds = Bounds { heads: 2, delta_rounds: 1, young_blocks: 100_000 };
    let (state, id, heads, deltas) = aged(6, 5_000);
    let data: Vec<BlobRef> = state.model(id).unwrap().manifest.blobs();
    let census = Census::of(&state, &bounds);
    let kind = |blob: &BlobRef| census.live.get(&blob.hash).map(|live| live.kind);
    for head in &heads[4..] {
        assert_eq!(kind(head), Some(Kind::Head));
    }
    for head in &heads[1..4] {
        assert_eq!(kind(head), None);
        assert!(census.past.contains(&head.hash));
    }
    assert!(data.iter().all(|blob| kind(blob).is_some()));
    assert_eq!(kind(&deltas[5]), Some(Kind::Delta));
    assert!(deltas[..5].iter().all(|delta| kind(delta).is_none() && census.past.contains(&delta.hash)));
    let place = |blob: &BlobRef| census.past.iter().position(|hash| *hash == blob.hash).unwrap();
    assert!(place(&deltas[1]) < place(&heads[1]) && place(&heads[1]) < place(&heads[2]), "oldest first");

    // nobody pays and it is old: its head is what remains, beside that of the ledger's other model, which is its first
    let old = Bounds { young_blocks: 5, ..bounds };
    let census = Census::of(&state, &old);
    let left: BTreeSet<BlobHash> = census.live.keys().copied().collect();
    assert_eq!(left, BTreeSet::from([heads[6].hash, deltas[5].hash, heads[0].hash]));
    let data: Vec<BlobRef> = data.into_iter().filter(|blob| *blob != heads[0]).collect();
    assert!(data.iter().all(|blob| census.past.contains(&blob.hash)));
    // somebody pays again, or has not got back what was held
    let mut model = state.model(id).unwrap().clone();
    let mut world = World::new();
    world.whole_round();
    model.sponsors = world.state.model(id).unwrap().sponsors.clone();
    assert!(model.sponsors.iter().any(|s| s.covers_another() || s.held_msat > 0));
    let mut paid = state.clone();
    paid.restore(Entry::Model(Box::new(model)));
    let census = Census::of(&paid, &old);
    assert!(data.iter().all(|blob| census.live.contains_key(&blob.hash)));
}

#[test] // D2: only what the ledger has named can be past
fn what_the_ledger_does_not_know_is_nobodys_to_remove() {
    let (state, ..) = aged(6, 5_000);
    let census = Census::of(&state, &Bounds::default());
    let stranger = BlobRef::of(b"a delta that is not revealed yet").hash;
    assert!(!census.live.contains_key(&stranger) && !census.past.contains(&stranger));
}

/// A node with a store of its own.
struct Node {
    blobs: Arc<Blobs>,
    keeper: Keeper,
    _dir: tempfile::TempDir,
}

impl Node {
    async fn start(seed: u8, replicas: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let limits = BlobLimits { connect_ms_max: 5_000, silence_ms_max: 10_000, ..BlobLimits::default() };
        let at = "127.0.0.1:0".parse().unwrap();
        let blobs = Arc::new(Blobs::open_with(dir.path(), &[seed; 32], at, limits).await.unwrap());
        let pace = Pace { patience_ms: 0, retry_ms: 0, ..Pace::default() };
        Self { keeper: Keeper::new(blobs.clone(), replicas, pace), blobs, _dir: dir }
    }

    fn id(&self) -> NodeId {
        self.blobs.node()
    }
}

/// One turn of every node, as each sees the others.
async fn turn(nodes: &mut [Node], census: &Arc<Census>) -> Vec<Report> {
    let all: Peers = nodes.iter().map(|node| (node.id(), node.blobs.addr())).collect();
    let mut reports = Vec::new();
    for node in nodes {
        let mut peers = all.clone();
        peers.remove(&node.id());
        reports.push(node.keeper.turn(census.clone(), Arc::new(peers)).await);
    }
    reports
}

/// How many nodes have each blob.
async fn copies(nodes: &[Node], blobs: &[BlobRef]) -> Vec<usize> {
    let mut out = Vec::new();
    for blob in blobs {
        let mut n = 0;
        for node in nodes {
            n += usize::from(node.blobs.has(blob).await.unwrap());
        }
        out.push(n);
    }
    out
}

async fn settle(nodes: &mut [Node], census: &Arc<Census>, blobs: &[BlobRef], replicas: usize) {
    let end = Instant::now() + Duration::from_secs(120);
    loop {
        let reports = turn(nodes, census).await;
        if reports.iter().all(|report| report.missing == 0) {
            break;
        }
        assert!(Instant::now() < end, "not settled: {reports:?}, {:?}", copies(nodes, blobs).await);
    }
    let found = copies(nodes, blobs).await;
    assert!(found.iter().all(|n| *n >= replicas), "{found:?}");
}

const NODES: u8 = 8;
const REPLICAS: usize = 3;

// D2: half of the nodes leave at once; nothing is lost, and it is k again
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_of_the_nodes_leave_at_once() {
    let mut nodes = Vec::new();
    for seed in 1..=NODES {
        nodes.push(Node::start(seed, REPLICAS).await);
    }
    // one maker has them all at first
    let (mut blobs, mut live) = (Vec::new(), Vec::new());
    for n in 0..10_u8 {
        let mut bytes = vec![0; 30_000 + 20_000 * usize::from(n)];
        blake3::Hasher::new_keyed(&[n; 32]).finalize_xof().fill(&mut bytes);
        let blob = nodes[0].blobs.add(bytes).await.unwrap();
        blobs.push(blob);
        live.push(Live { blob, kind: if n < 3 { Kind::Head } else { Kind::Data } });
    }
    let census = Arc::new(Census {
        live: live.into_iter().map(|l| (l.blob.hash, l)).collect(),
        past: vec![],
        validators: BTreeSet::new(),
    });
    settle(&mut nodes, &census, &blobs, REPLICAS).await;

    // the half that hurts most without taking the last copy of anything; the maker is always in it
    let ids: Vec<NodeId> = nodes.iter().map(Node::id).collect();
    let kept = |half: u32, blob: &BlobRef| {
        let first = keepers(blob.hash, ids.iter().copied(), REPLICAS);
        ids.iter().enumerate().filter(|(i, id)| half >> i & 1 == 0 && first.contains(*id)).count()
    };
    let halves = (0..1_u32 << NODES).filter(|half| half.count_ones() == u32::from(NODES) / 2 && half & 1 == 1);
    let half = halves
        .filter(|half| blobs.iter().all(|blob| kept(*half, blob) > 0))
        .min_by_key(|half| blobs.iter().map(|blob| kept(*half, blob)).sum::<usize>())
        .expect("some half leaves a copy of each");
    let mut left = Vec::new();
    for (i, node) in nodes.into_iter().enumerate() {
        if half >> i & 1 == 1 {
            node.blobs.shutdown().await.unwrap();
        } else {
            left.push(node);
        }
    }
    let found = copies(&left, &blobs).await;
    assert!(found.iter().all(|n| *n >= 1), "still there: {found:?}");
    assert!(found.iter().any(|n| *n < REPLICAS), "and some are short of copies: {found:?}");
    settle(&mut left, &census, &blobs, REPLICAS).await;
    for node in &left {
        for blob in &blobs {
            if node.blobs.has(blob).await.unwrap() {
                assert_eq!(BlobRef::of(&node.blobs.get(blob).await.unwrap()), *blob);
            }
        }
    }
}
