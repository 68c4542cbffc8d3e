//! A ledger that began with a snapshot is the network's ledger, and no lie becomes one (L4, D3).

use super::pruned::{proofs, reader};
use super::{History, entries};
use oda_consensus::codec;
use oda_consensus::genesis::Genesis;
use oda_consensus::ids::{BlobRef, Digest, NodeId};
use oda_consensus::records::RecordLog;
use oda_consensus::snapshot::{Carried, SnapshotOffer, SnapshotRecord};
use oda_consensus::state::{CheckpointState, Entry, State};
use oda_consensus::tx::Header;
use oda_consensus::wire::{Request, Response};
use oda_node::full::StoreReader;
use oda_node::full::pruning::prune;
use oda_node::ledger::verify;
use oda_node::proof::extend;
use oda_node::snapshot::{Own, Records, Search, check, find, install, write};
use oda_storage::{Fault, FaultyLedger, LedgerStore as _, MemoryLedger, RocksLedger};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A history, a snapshot of its newest attested block, and the whole ledger beside it.
struct Scene {
    history: History,
    whole: tempfile::TempDir,
    files: tempfile::TempDir,
    offer: SnapshotOffer,
}

impl Scene {
    fn new() -> Self {
        let history = History::new();
        let (whole, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        drop(history.ledger(whole.path()));
        let checkpoint = history.newest();
        let header = history.header(checkpoint.checkpoint.height);
        let blob = write(&reader(whole.path(), &history), &header, &files.path().join("honest")).unwrap();
        Self { history, whole, files, offer: SnapshotOffer { checkpoint, header, blob } }
    }

    fn genesis(&self) -> Genesis {
        self.history.world.genesis.clone()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    fn records(&self) -> Records<std::io::BufReader<std::fs::File>> {
        Records::open(&self.path("honest")).unwrap()
    }

    /// A ledger that begins with the snapshot, and has the blocks after it.
    fn begun(&self, dir: &Path) -> RocksLedger {
        let mut store = RocksLedger::open(dir, self.history.chain()).unwrap();
        let mut state = install(&mut store, self.genesis(), self.offer.header, self.records()).unwrap();
        assert_eq!(state.tip().state_root, self.offer.header.state_root);
        self.history.play(&mut state, &mut store, u64::MAX);
        assert_eq!(state.tip(), self.history.world.state.tip());
        store
    }
}

#[test] // L4: it ends where replaying ends, goes on, is verified, and proves what it can
fn a_ledger_that_began_with_a_snapshot_is_the_networks_ledger() {
    let scene = Scene::new();
    let dir = tempfile::tempdir().unwrap();
    let store = scene.begun(dir.path());
    let height = scene.offer.header.height;
    assert!(height < scene.history.tip() - 2);
    let whole = RocksLedger::open(scene.whole.path(), scene.history.chain()).unwrap();
    assert_eq!(entries(&store), entries(&whole));
    assert_eq!(store.tip(), whole.tip());
    for height in 1..=scene.history.tip() {
        let hash = scene.history.header(height).hash();
        assert_eq!(store.height_of(hash).unwrap(), Some(height));
    }
    for index in 0..2 * scene.history.header(scene.history.tip()).records {
        assert_eq!(store.log_node(index).unwrap(), whole.log_node(index).unwrap());
    }
    drop((store, whole));
    // after a restart
    let (begun, whole) = (reader(dir.path(), &scene.history), reader(scene.whole.path(), &scene.history));
    let report = |reader: &StoreReader| verify(scene.genesis(), Some(scene.history.tip()), reader).unwrap();
    let (a, b) = (report(&begun), report(&whole));
    assert_eq!((&a.hash, &a.state_root, a.blocks), (&b.hash, &b.state_root, b.blocks));
    assert_eq!((a.blocks_from, b.blocks_from), (height + 1, 1));
    assert_eq!(proofs(&scene.history, &begun), proofs(&scene.history, &whole));
    // what it cannot: the headers below the snapshot
    let old = scene.history.world.state.checkpoints().next().unwrap().checkpoint.height;
    let error = extend(&begun, old, height).unwrap_err().to_string();
    assert!(error.contains("began with a snapshot") && error.contains("another full node"), "{error}");
    extend(&whole, old, height).unwrap();
}

#[test] // L4, C2: a ledger whose parts all agree is nothing while nobody attested it
fn a_made_up_ledger_is_not_verified() {
    let scene = Scene::new();
    let mut records: Vec<SnapshotRecord> = scene.records().map(Result::unwrap).collect();
    let known = records.iter().rfind(|r| r.key[0] == b'v').unwrap();
    let Carried::Whole(value) = &known.value else { panic!("the newest of its entry") };
    let Entry::Validator(mut validator) = Entry::decode(&known.key, value).unwrap() else { panic!("a validator") };
    validator.node = node(9); // a validator that nobody admitted
    let made_up = Entry::Validator(validator);
    let height = scene.offer.header.height;
    records.push(SnapshotRecord { height, key: made_up.key(), value: Carried::Whole(made_up.value()) });
    let mut log = RecordLog::default();
    records.iter().for_each(|record| drop(log.push(&record.record())));
    let header = Header { records: log.len(), state_root: log.root(), ..scene.offer.header };
    let dir = tempfile::tempdir().unwrap();
    let mut store = RocksLedger::open(dir.path(), scene.history.chain()).unwrap();
    install(&mut store, scene.genesis(), header, records.into_iter().map(Ok)).unwrap();
    drop(store);
    let error = verify(scene.genesis(), Some(height), &reader(dir.path(), &scene.history)).unwrap_err();
    assert!(error.contains("nothing in it is attested"), "{error}");
}

#[test] // L4: whoever makes it, pruned or itself begun with one, it is the same blob
fn every_node_makes_the_same_snapshot() {
    let scene = Scene::new();
    let header = scene.offer.header;
    let again = write(&reader(scene.whole.path(), &scene.history), &header, &scene.path("again")).unwrap();
    assert_eq!(again, scene.offer.blob);
    let dir = tempfile::tempdir().unwrap();
    drop(scene.begun(dir.path()));
    let second = write(&reader(dir.path(), &scene.history), &header, &scene.path("second")).unwrap();
    assert_eq!(second, scene.offer.blob);
    let last = scene.history.header(scene.history.tip());
    let of_last = |dir: &Path| write(&reader(dir, &scene.history), &last, &scene.path("last")).unwrap();
    let newest = of_last(scene.whole.path());
    assert_eq!(of_last(dir.path()), newest, "of a later block");
    prune(&mut RocksLedger::open(scene.whole.path(), scene.history.chain()).unwrap(), 9, 99).unwrap();
    assert_eq!(of_last(scene.whole.path()), newest, "of a pruned ledger");
}

#[test] // D3: whatever write fails, there is a whole ledger or none
fn an_install_that_fails_leaves_no_half_ledger() {
    let scene = Scene::new();
    for fault in [Fault::Fails, Fault::Dies, Fault::WrittenButFails] {
        for write in 1..=4 {
            let mut store = FaultyLedger::new(MemoryLedger::new(), [(write, fault)]);
            let result = install(&mut store, scene.genesis(), scene.offer.header, scene.records());
            let is_whole = store.tip().is_some();
            assert!(result.is_ok() <= is_whole);
            if !is_whole {
                assert!(store.append(&blockless(), &[]).is_err() || write == 1, "{fault:?} {write}");
                store.restart();
                install(&mut store, scene.genesis(), scene.offer.header, scene.records()).unwrap();
            }
            assert_eq!(store.tip().unwrap(), (scene.offer.header.height, scene.offer.header.hash()));
        }
    }
}

fn blockless() -> oda_storage::BlockRecord {
    let hash = oda_consensus::ids::BlockHash([1; 32]);
    oda_storage::BlockRecord { height: 1, hash, prev: hash, bytes: Vec::new(), log: Default::default() }
}

/// What a lying peer does to the bytes.
type Lie = fn(&mut Vec<SnapshotRecord>, &mut Vec<u8>);

const LIES: [(&str, Lie); 8] = [
    ("a changed value", |r, _| {
        let last = r.len() - 1;
        if let Carried::Whole(value) = &mut r[last].value {
            *value.last_mut().unwrap() ^= 1;
        }
    }),
    ("an entry left out", |r, _| drop(r.remove(20))),
    ("an old value", |r, _| {
        let at = r.iter().position(|r| matches!(r.value, Carried::Replaced(_))).unwrap();
        r[at].value = Carried::Replaced(Digest([1; 32]));
    }),
    ("the newest value kept back", |r, _| {
        let at = r.iter().rposition(|r| r.key[0] != b't').unwrap();
        r[at].value = Carried::Replaced(r[at].record().value);
    }),
    ("without end", |r, _| {
        let more = r.clone();
        (0..40).for_each(|_| r.extend(more.clone()));
    }),
    ("cut off between records", |r, _| r.truncate(r.len() - 3)),
    ("cut off within one", |_, tail| *tail = vec![9, 0, 0, 0, 1, 2]),
    ("rubbish", |_, tail| *tail = vec![0xff; 5_000]),
];

#[derive(Clone)]
struct Peer {
    offer: Option<SnapshotOffer>,
    file: PathBuf,
    links: bool,
}

fn node(i: usize) -> NodeId {
    NodeId([i as u8; 32])
}

/// One search among these peers.
async fn search(scene: &Scene, peers: &[Peer], own: Own) -> Search {
    let all: BTreeMap<NodeId, Peer> = peers.iter().cloned().enumerate().map(|(i, p)| (node(i), p)).collect();
    let ids: Vec<NodeId> = all.keys().copied().collect();
    let links = |after| scene.history.world.state.links(after, 9);
    let ask = |peer: NodeId, request: Request| {
        let peer = all[&peer].clone();
        let answer = match request {
            Request::Snapshot => Some(Response::Snapshot(peer.offer.map(Box::new))),
            Request::Epochs { after } if peer.links => Some(Response::Epochs(links(after))),
            _ => None,
        };
        async move { answer }
    };
    let get = |_: SnapshotOffer, from: Vec<NodeId>| {
        let file = all[&from[0]].file.clone();
        async move { Ok(file) }
    };
    find(&scene.genesis(), own, &ids, ask, get).await.unwrap()
}

fn nothing(scene: &Scene) -> Own {
    let state = State::new(scene.genesis()).unwrap();
    Own { height: 0, log: (0, state.log().root()) }
}

impl Scene {
    fn honest(&self) -> Peer {
        Peer { offer: Some(self.offer.clone()), file: self.path("honest"), links: true }
    }

    /// A peer whose blob is another, and whose offer says so.
    fn lying(&self, name: &str, lie: Lie) -> Peer {
        let mut records: Vec<SnapshotRecord> = self.records().map(Result::unwrap).collect();
        let mut bytes = Vec::new();
        lie(&mut records, &mut bytes);
        let tail = std::mem::take(&mut bytes);
        for record in &records {
            let encoded = codec::encode(record);
            bytes.extend_from_slice(&(encoded.len() as u32).to_le_bytes());
            bytes.extend_from_slice(&encoded);
        }
        bytes.extend(tail);
        std::fs::write(self.path(name), &bytes).unwrap();
        let offer = SnapshotOffer { blob: BlobRef::of(&bytes), ..self.offer.clone() };
        Peer { offer: Some(offer), file: self.path(name), links: true }
    }
}

#[tokio::test] // L4: each lie is found before anything is believed, its teller is named, and another is asked
async fn liars_are_named_and_another_is_asked() {
    let scene = Scene::new();
    for (what, lie) in LIES {
        let liar = scene.lying("lie", lie);
        assert!(check(Records::open(&liar.file).unwrap(), scene.offer.header, None).is_err(), "{what}");
        let alone = search(&scene, std::slice::from_ref(&liar), nothing(&scene)).await;
        assert!(alone.found.is_none(), "{what}");
        assert_eq!(alone.liars.len(), 1, "{what}");
        let both = search(&scene, &[liar, scene.honest()], nothing(&scene)).await;
        assert_eq!(both.found.unwrap().0, scene.offer, "{what}");
        assert_eq!(both.liars[0].0, node(0), "{what}");
        // and if the check were left out, the writing of it finds it too
        let mut store = MemoryLedger::new();
        let records = Records::open(&scene.path("lie")).unwrap();
        assert!(install(&mut store, scene.genesis(), scene.offer.header, records).is_err(), "{what}");
        assert_eq!(store.tip(), None, "{what}");
    }
}

#[tokio::test] // L4: an offer is nothing before its block is attested under a key that follows from the genesis
async fn offers_need_an_attestation() {
    let scene = Scene::new();
    type Change = fn(&mut SnapshotOffer, Header);
    let changes: [(&str, Change); 5] = [
        ("another root", |o, _| o.header.state_root.0[0] ^= 1),
        ("more records", |o, _| o.header.records += 1),
        ("an unattested block", |o, later| {
            o.header = later;
            let c = &mut o.checkpoint.checkpoint;
            (c.height, c.block, c.state_root) = (later.height, later.hash(), later.state_root);
        }),
        ("a blob too short", |o, _| o.blob.len = 3),
        ("a blob too long", |o, _| o.blob.len = u64::MAX),
    ];
    let later = scene.history.header(scene.history.tip());
    for (what, change) in changes {
        let mut peer = scene.honest();
        change(peer.offer.as_mut().unwrap(), later);
        let found = search(&scene, &[peer, scene.honest()], nothing(&scene)).await;
        assert_eq!(found.liars.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [node(0)], "{what}");
        assert_eq!((found.offers, found.found.unwrap().0), (1, scene.offer.clone()), "{what}");
    }
    // an older one is no lie, but the newest is taken; who has none or is silent is passed over
    let older: Vec<CheckpointState> = scene.history.world.state.checkpoints().cloned().collect();
    let header = scene.history.header(older[0].checkpoint.height);
    let blob = write(&reader(scene.whole.path(), &scene.history), &header, &scene.path("older")).unwrap();
    let offer = SnapshotOffer { checkpoint: older[0].clone(), header, blob };
    let old = Peer { offer: Some(offer.clone()), file: scene.path("older"), links: false };
    let none = Peer { offer: None, file: PathBuf::new(), links: false };
    let found = search(&scene, &[none.clone(), old.clone(), scene.honest()], nothing(&scene)).await;
    assert_eq!((found.liars.len(), found.offers, found.found.unwrap().0), (0, 2, scene.offer.clone()));
    assert!(search(&scene, &[none], nothing(&scene)).await.found.is_none());
    // a ledger that is its beginning goes on with it; one that is further needs none; another past is refused
    let at = |height: u64| {
        let header = scene.history.header(height);
        Own { height, log: (header.records, header.state_root) }
    };
    assert!(search(&scene, &[scene.honest()], at(9)).await.found.is_some());
    let further = search(&scene, &[scene.honest()], at(scene.history.tip())).await;
    assert!(further.found.is_none() && further.liars.is_empty());
    let foreign = Own { log: (at(9).log.0, Digest([5; 32])), ..at(9) };
    let refused = search(&scene, &[scene.honest()], foreign).await;
    assert!(refused.found.is_none() && refused.liars[0].1.contains("own ledger"));
}
