//! Deltas of trainers behind routers (R3, N2): they go out over the connection the trainer opened, to the committee
//! alone and not before the lock; and what a liar sends is kept nowhere.

#[allow(dead_code)] // shared with the tests of the state machine
#[path = "../../consensus/tests/world/mod.rs"]
mod world;

use oda_consensus::codec;
use oda_consensus::engine::trainer::{ClaimRecord, Phase};
use oda_consensus::epoch::EpochChain;
use oda_consensus::fuzzing::{sample_genesis, validator, validators};
use oda_consensus::ids::{BlobHash, BlobRef, ClaimId, Digest, ModelId, NodeId};
use oda_consensus::keys::NodeKey;
use oda_consensus::wire::{DELTA_PART_BYTES, Request, Response};
use oda_node::full::deltas::{Delta, PullError, Puller, first_to_ask, open_deltas};
use oda_node::jobs;
use oda_node::lite::deltas::Handover;
use oda_node::net::{Net, NetConfig, NetEvent, Role, parse_peers};
use oda_storage::{BlobAddr, BlobLimits, Blobs};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use world::World;

const WAIT: Duration = Duration::from_secs(60);
const CLAIM: ClaimId = ClaimId([5; 32]);

fn epochs() -> EpochChain {
    EpochChain::new(&sample_genesis().unwrap().0).unwrap()
}

/// Three parts, the last a short one.
fn delta_bytes() -> Vec<u8> {
    let mut bytes = vec![0; 2 * DELTA_PART_BYTES + 1_234];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

fn record(delta: BlobRef, phase: Phase) -> ClaimRecord {
    ClaimRecord {
        claim: CLAIM,
        model: ModelId([1; 32]),
        round: 1,
        parent: BlobRef { hash: BlobHash([2; 32]), len: 10 },
        delta,
        stated_gain_unat: 7,
        salt: Digest([3; 32]),
        phase,
        choice: None,
        payment: None,
    }
}

/// A full node of the committee: others reach it.
struct Member {
    net: Net,
    blobs: Arc<Blobs>,
    puller: Puller,
    _dir: tempfile::TempDir,
}

async fn store(key: &NodeKey, disk_bytes_max: u64) -> (Arc<Blobs>, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let at = "127.0.0.1:0".parse().unwrap();
    let limits = BlobLimits { disk_bytes_max, ..BlobLimits::default() };
    (Arc::new(Blobs::open_with(dir.path(), &key.secret(), at, limits).await.unwrap()), dir)
}

fn drain(mut events: mpsc::Receiver<NetEvent>) {
    tokio::spawn(async move { while events.recv().await.is_some() {} });
}

impl Member {
    async fn start(i: u8, disk_bytes_max: u64) -> Self {
        let key = validator(i);
        let listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
        let (net, events) = Net::start(NetConfig { key: key.secret(), listen, ..NetConfig::default() }).await.unwrap();
        drain(events);
        let (blobs, dir) = store(&key, disk_bytes_max).await;
        Self { puller: Puller::new(net.clone(), blobs.clone()), net, blobs, _dir: dir }
    }

    /// Asks again and again while the trainer is not there yet.
    async fn pull(&self, delta: &Delta) -> Result<(), PullError> {
        let end = Instant::now() + WAIT;
        loop {
            match self.puller.pull(delta).await {
                Err(PullError::Net(_)) if Instant::now() < end => sleep(Duration::from_millis(50)).await,
                other => return other,
            }
        }
    }
}

/// What a trainer answers.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Manner {
    Honest,
    OtherBytes,
    Crumbs,
    TooMuch,
    NoAnswer,
}

/// A trainer nobody can dial: it listens nowhere, and its blob address refuses.
async fn home(members: &[&Member], phase: Phase, manner: Manner) -> (Delta, BlobAddr) {
    let key = NodeKey::from_secret(&[77; 32]);
    let peers: Vec<String> = members.iter().flat_map(|m| m.net.listen_addrs()).map(|a| a.to_string()).collect();
    let peers = parse_peers(&peers).unwrap();
    let config = NetConfig { key: key.secret(), role: Role::Lite, peers, ..NetConfig::default() };
    let (net, mut events) = Net::start(config).await.unwrap();
    let (blobs, dir) = store(&key, 0).await;
    let blob = blobs.add(delta_bytes()).await.unwrap();
    let (mut handover, epochs, record) = (Handover::default(), epochs(), record(blob, phase));
    tokio::spawn(async move {
        let _dir = dir;
        while let Some(event) = events.recv().await {
            let NetEvent::Request { from, data, token } = event else { continue };
            let Ok(Request::Delta { claim, from_byte }) = codec::decode(&data) else { continue };
            let known = Some(&record).filter(|r| r.claim == claim);
            let response = match handover.allow(from, from_byte, known, &epochs) {
                Err(why) => Response::Refused(why.into()),
                Ok(delta) => handover.read(&blobs, delta, from_byte).await,
            };
            let response = match (manner, response) {
                (Manner::OtherBytes, Response::Delta(part)) => Response::Delta(vec![0; part.len()]),
                (Manner::Crumbs, Response::Delta(part)) => Response::Delta(part[..1].to_vec()),
                (Manner::TooMuch, Response::Delta(part)) => Response::Delta([part.as_slice(), &[0]].concat()),
                (Manner::NoAnswer, _) => Response::Accepted,
                (_, honest) => honest,
            };
            net.respond(token, codec::encode(&response));
        }
    });
    let dead = BlobAddr { node: key.id(), sockets: vec!["127.0.0.1:9".parse().unwrap()] };
    (Delta { claim: CLAIM, trainer: key.id(), blob }, dead)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)] // R3, N2, D1
async fn a_trainer_nobody_can_reach_hands_its_delta_over() {
    let (first, second) = (Member::start(0, 0).await, Member::start(1, 0).await);
    let (delta, dead) = home(&[&first], Phase::Held, Manner::Honest).await;
    timeout(WAIT, async {
        while !first.net.connected().contains(&delta.trainer) {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the trainer connects");
    // its blobs cannot be fetched, which is all there was before
    let wait = Duration::from_secs(2);
    assert!(jobs::delta(&first.blobs, std::slice::from_ref(&dead), None, delta, wait).await.is_err());
    let bytes = jobs::delta(&first.blobs, &[dead], Some(&first.puller), delta, WAIT).await.unwrap();
    assert!(bytes == delta_bytes() && first.blobs.has(&delta.blob).await.unwrap());
    // a member the trainer has no connection to gets it from the first, like any other blob
    assert!(second.puller.pull(&delta).await.is_err());
    second.blobs.fetch(&delta.blob, &[first.blobs.addr()], delta.blob.len, None).await.unwrap();
    assert!(second.pull(&delta).await.is_ok(), "what is here is not asked for");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)] // K3, D1
async fn what_a_liar_sends_is_kept_nowhere() {
    for manner in [Manner::OtherBytes, Manner::Crumbs, Manner::TooMuch, Manner::NoAnswer] {
        let member = Member::start(0, 0).await;
        let (delta, _) = home(&[&member], Phase::Held, manner).await;
        let result = member.pull(&delta).await;
        assert!(matches!(result, Err(PullError::Wrong(_))), "{manner:?}: {result:?}");
        assert_eq!(member.blobs.usage().blobs, 0, "{manner:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)] // R3, D2
async fn no_delta_comes_early_or_over_the_quota() {
    let member = Member::start(0, 0).await;
    let (delta, _) = home(&[&member], Phase::Invoiced, Manner::Honest).await;
    let result = member.pull(&delta).await;
    assert!(matches!(result, Err(PullError::Refused(_))), "{result:?}");
    let small = Member::start(1, 100_000).await;
    let (delta, _) = home(&[&small], Phase::Held, Manner::Honest).await;
    let result = small.pull(&delta).await;
    assert!(matches!(result, Err(PullError::Store(_))), "{result:?}");
}

#[test] // R3: whoever knew a delta before the lock could claim it; and a line at home is thin
fn a_delta_leaves_after_the_lock_to_the_committee_and_not_without_end() {
    let epochs = epochs();
    let (member, blob) = (validator(0).id(), BlobRef { hash: BlobHash([9; 32]), len: 300_000 });
    let allowed = |phase, from, at| Handover::default().allow(from, at, Some(&record(blob, phase)), &epochs).is_ok();
    for phase in [Phase::Committed, Phase::Chosen, Phase::Dealt, Phase::Invoiced, Phase::Failing, Phase::Void] {
        assert!(!allowed(phase, member, 0), "{phase:?}");
    }
    assert!(allowed(Phase::Held, member, 0) && allowed(Phase::Held, member, 299_999));
    assert!(!allowed(Phase::Paid, member, 0), "nobody needs it once it is judged");
    assert!(!allowed(Phase::Held, member, 300_000));
    assert!(!allowed(Phase::Held, NodeKey::from_secret(&[99; 32]).id(), 0), "a stranger");
    assert!(Handover::default().allow(member, 0, None, &epochs).is_err());
    let (mut handover, record) = (Handover::default(), record(blob, Phase::Held));
    let given = (0..1_000).filter(|_| handover.allow(member, 0, Some(&record), &epochs).is_ok()).count();
    assert_eq!(given, 4 * 300_000 / DELTA_PART_BYTES);
    assert!(handover.allow(validator(1).id(), 0, Some(&record), &epochs).is_ok(), "another member has its own");
    handover.over(CLAIM);
    assert!(handover.allow(member, 0, Some(&record), &epochs).is_ok());
}

#[test] // C3: among those that ask at once is an honest member, and no member's line carries all claims
fn enough_members_ask_at_once() {
    let members = validators();
    let first = |n: u8| first_to_ask(&members, 3, ClaimId([n; 32]));
    let all: BTreeSet<NodeId> = (0..32).flat_map(first).collect();
    assert_eq!(all.len(), members.len());
    assert!((0..32).all(|n| first(n).len() == 2 && first(n) == first(n)));
}

#[test] // R3: only what the ledger says was revealed in a running round, and only by who judges it
fn only_revealed_deltas_of_running_rounds_are_asked_for() {
    let mut world = World::new();
    let put = |world: &mut World, txs: &[oda_consensus::tx::SignedTx]| {
        let refused = world.block(txs);
        assert!(refused.is_empty(), "{refused:?}");
    };
    let txs = [world.add_model(), world.fund()];
    put(&mut world, &txs);
    let txs = [world.commit(0)];
    put(&mut world, &txs);
    let (offer, seeds) = world.offer(0);
    put(&mut world, &[offer]);
    let txs = [world.choose(0)];
    put(&mut world, &txs);
    let txs = [world.deal(0, &seeds).0];
    put(&mut world, &txs);
    put(&mut world, &[]);
    put(&mut world, &[]);
    let me = validator(0).id();
    assert!(open_deltas(&world.state, me).is_empty(), "committed, not revealed");
    let txs = [world.reveal(0)];
    put(&mut world, &txs);
    let open = open_deltas(&world.state, me);
    let claim = world.state.claims().next().unwrap();
    let blob = claim.reveal.as_ref().unwrap().delta;
    assert_eq!(open.len(), 1);
    assert_eq!(open[0].0, Delta { claim: claim.id, trainer: claim.trainer, blob });
    assert!(open_deltas(&world.state, world::sponsor().id()).is_empty(), "it judges nothing");
    let mut over = World::new();
    over.whole_round();
    assert!(over.state.claims().any(|c| c.reveal.is_some()));
    assert!(open_deltas(&over.state, me).is_empty(), "judged");
}
