//! Finding peers: remembers who is where, carries out what [`super::dial`] decides, and walks while peers are missing
//! (N1).
//!
//! Nothing here decides whom to dial, and nothing else dials strangers: what records, walks and the file say only
//! becomes known, within the bounds of [`crate::known`].

use super::address::{Group, Scopes, group};
use super::behaviour::scopes;
use super::dial::{View, what_to_dial};
use super::guard::Neighbour;
use super::swarm::Task;
use super::{NetConfig, NetError, node_id, peer_id};
use crate::clock::now_ms;
use crate::known::Known;
use libp2p::swarm::DialError;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::{Multiaddr, PeerId};
use oda_consensus::ids::NodeId;
use rand_core::RngCore as _;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant};

/// How often to look whether peers are missing.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often the file is written, if anything changed.
const SAVE_EVERY: Duration = Duration::from_secs(10);
/// A dial that says nothing for so long has failed.
const DIAL_WAIT: Duration = Duration::from_secs(30);
/// Pause between walks while peers are missing: first, most.
const WALK_EVERY: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(600));

/// What is known of peers, and what is being done about it.
pub(super) struct Discovery {
    known: Known,
    scopes: Scopes,
    /// Peers the owner named.
    pub(super) configured: BTreeSet<PeerId>,
    dialling: BTreeMap<NodeId, Instant>,
    target: usize,
    salt: [u8; 32],
    file: Option<PathBuf>,
    saving: Option<JoinHandle<()>>,
    next_look: Instant,
    next_save: Instant,
    next_walk: Instant,
    walk_pause: Duration,
}

fn save(path: &Path, bytes: &[u8]) {
    if let Err(error) = crate::file::replace(path, bytes) {
        tracing::warn!(file = %path.display(), %error, "peers cannot be remembered");
    }
}

impl Discovery {
    /// Reads what was remembered.
    pub(super) fn open(config: &NetConfig, me: PeerId) -> Result<Self, NetError> {
        let me = node_id(&me).ok_or_else(|| NetError::Start("the node's key is no ed25519 key".into()))?;
        let scopes = scopes(config);
        let mut known = match &config.remember {
            Some(path) => Known::open(path, me, config.chain, now_ms()),
            None => Known::new(me, config.chain),
        };
        known.keep(|addresses| scopes.fit(addresses));
        let mut salt = [0; 32];
        rand_core::OsRng.fill_bytes(&mut salt);
        let now = Instant::now();
        Ok(Self {
            known,
            scopes,
            configured: config.peers.iter().map(|(peer, _)| *peer).collect(),
            dialling: BTreeMap::new(),
            target: config.outbound,
            salt,
            file: config.remember.clone(),
            saving: None,
            next_look: now,
            next_save: now,
            next_walk: now,
            walk_pause: WALK_EVERY.0,
        })
    }

    /// Somebody said where a peer is; `signed`: it did so itself.
    pub(super) fn heard(&mut self, node: NodeId, addresses: &[Multiaddr], signed: bool) {
        self.known.heard(node, self.scopes.fit(addresses), signed);
    }

    /// Where a peer can be asked.
    pub(super) fn addresses(&self, node: NodeId) -> Vec<Multiaddr> {
        let peer = self.known.peers().get(&node).filter(|p| p.signed || p.reached_ms > 0);
        peer.map(|p| p.to_dial()).unwrap_or_default()
    }

    fn save_sometimes(&mut self, now: Instant) {
        let Some(path) = self.file.clone() else { return };
        if now < self.next_save || self.saving.as_ref().is_some_and(|s| !s.is_finished()) {
            return;
        }
        if let Some(bytes) = self.known.take_changes() {
            self.next_save = now + SAVE_EVERY;
            self.saving = Some(tokio::task::spawn_blocking(move || save(&path, &bytes)));
        }
    }

    /// Writes down what is not yet.
    pub(super) async fn close(&mut self) {
        if let Some(saving) = self.saving.take() {
            let _ = saving.await;
        }
        if let (Some(path), Some(bytes)) = (self.file.clone(), self.known.take_changes()) {
            let _ = tokio::task::spawn_blocking(move || save(&path, &bytes)).await;
        }
    }

    /// Ranges of addresses in which this node has opened connections or dials.
    fn groups<'a>(&self, reached: impl Iterator<Item = &'a Multiaddr>) -> BTreeMap<Group, usize> {
        let mut groups: BTreeMap<Group, usize> = BTreeMap::new();
        for group in reached.filter_map(group) {
            *groups.entry(group).or_default() += 1;
        }
        for node in self.dialling.keys() {
            let own: BTreeSet<Group> = self.addresses(*node).iter().filter_map(group).collect();
            for group in own {
                *groups.entry(group).or_default() += 1;
            }
        }
        groups
    }

    /// Dials over their time have failed.
    fn give_up(&mut self, now: Instant) {
        let late = |since: &Instant| now.saturating_duration_since(*since) > DIAL_WAIT;
        let over: Vec<NodeId> = self.dialling.iter().filter(|(_, since)| late(since)).map(|(n, _)| *n).collect();
        for node in over {
            self.dialling.remove(&node);
            self.known.failed(node);
        }
    }
}

impl Task {
    /// Looks whether peers are missing, and dials and walks if so.
    pub(super) fn discover(&mut self, now: Instant) {
        self.discovery.save_sometimes(now);
        if self.discovery.target == 0 || now < self.discovery.next_look {
            return;
        }
        self.discovery.next_look = now + LOOK_EVERY;
        self.discovery.give_up(now);

        let d = &self.discovery;
        let opened = |peer: &PeerId, n: &Neighbour| d.configured.contains(peer) || n.reached_at.is_some();
        let outbound = self.neighbours.iter().filter(|(peer, n)| opened(peer, n)).count();
        let peers = self.neighbours.keys().chain(&d.configured).chain(self.banned.keys()).chain([&self.me]);
        let excluded: BTreeSet<NodeId> = peers.filter_map(node_id).collect();
        let met = self.neighbours.iter().filter(|(peer, _)| !d.configured.contains(peer));
        let chosen = what_to_dial(
            &View {
                known: d.known.peers(),
                excluded: &excluded,
                dialling: &d.dialling.keys().copied().collect(),
                groups: &d.groups(met.filter_map(|(_, n)| n.reached_at.as_ref())),
                outbound,
                target: d.target,
                salt: &d.salt,
            },
            now_ms(),
        );
        for node in chosen {
            self.dial(node, now);
        }
        let knows_somebody = self.neighbours.values().any(|n| n.is_full);
        if outbound < self.discovery.target && knows_somebody && now >= self.discovery.next_walk {
            self.discovery.next_walk = now + self.discovery.walk_pause;
            self.discovery.walk_pause = (self.discovery.walk_pause * 2).min(WALK_EVERY.1);
            self.swarm.behaviour_mut().walk.start();
        }
    }

    fn dial(&mut self, node: NodeId, now: Instant) {
        let Some(peer) = peer_id(node) else { return self.discovery.known.forget(node) };
        let addresses = self.discovery.known.peers().get(&node).map(|p| p.to_dial()).unwrap_or_default();
        self.discovery.known.tried(node, now_ms());
        match self.swarm.dial(DialOpts::peer_id(peer).addresses(addresses).build()) {
            Ok(()) => {
                self.discovery.dialling.insert(node, now);
            }
            Err(error) => self.blame(node, &error),
        }
    }

    /// Counts a failure, unless it is this node that did not want to.
    fn blame(&mut self, node: NodeId, error: &DialError) {
        let own = matches!(error, DialError::DialPeerConditionFalse(_) | DialError::Denied { .. } | DialError::Aborted);
        if !own {
            self.discovery.known.failed(node);
        }
    }

    pub(super) fn on_dial_failed(&mut self, peer: PeerId, error: &DialError) {
        if let Some(node) = node_id(&peer).filter(|n| self.discovery.dialling.remove(n).is_some()) {
            self.blame(node, error);
        }
    }

    /// A peer has named our chain.
    pub(super) fn on_reached(&mut self, peer: PeerId, node: NodeId) {
        self.discovery.dialling.remove(&node);
        let Some(neighbour) = self.neighbours.get(&peer) else { return };
        let Some(at) = neighbour.reached_at.clone() else { return };
        if neighbour.is_full {
            self.discovery.known.reached(node, at.clone(), now_ms());
            self.swarm.behaviour_mut().walk.add(&peer, at);
        } else {
            self.discovery.known.forget(node); // a lite node: it has nothing to tell
        }
    }

    /// A peer is of another network.
    pub(super) fn on_stranger(&mut self, peer: PeerId) {
        self.swarm.behaviour_mut().walk.remove(&peer);
        if let Some(node) = node_id(&peer) {
            self.discovery.dialling.remove(&node);
            self.discovery.known.forget(node);
        }
    }

    /// The last connection to a peer is gone.
    pub(super) fn on_left(&mut self, peer: PeerId, neighbour: Option<&Neighbour>) {
        let Some((node, neighbour)) = node_id(&peer).zip(neighbour) else { return };
        self.discovery.dialling.remove(&node);
        if neighbour.reached_at.is_some() {
            let lived_ms = u64::try_from(neighbour.since.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.discovery.known.left(node, lived_ms);
            self.discovery.walk_pause = WALK_EVERY.0;
        }
    }
}
