//! Peers remembered: where full nodes were, and which of them could be reached.
//!
//! The addresses in a configuration go stale: a node whose few bootstrap peers are gone would never find its network
//! again, although it spoke to dozens of others yesterday. So what could be reached is written down beside the ledger.
//! Everything here was said by others: a newcomer never pushes out a peer that this node has reached itself, and a file
//! that cannot be read is set aside, never a reason not to start.

use crate::net::address::{self, MAX_ADDRESSES};
use libp2p::Multiaddr;
use oda_consensus::ids::{ChainId, NodeId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::path::Path;

/// Name of the file in the data directory.
pub const FILE: &str = "peers.json";
/// Peers remembered at a time.
pub const MAX_KNOWN: usize = 1024;
/// Peers written down.
pub const MAX_SAVED: usize = 200;
/// Largest file read, bytes: far above what [`MAX_SAVED`] peers take.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// A connection that lived so long was a good one, ms.
const GOOD_MS: u64 = 60_000;
/// Failures in a row after which a peer that was reached once makes room for a newcomer.
const GIVEN_UP: u32 = 8;

/// One peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownPeer {
    /// Where it says it is.
    pub addresses: Vec<Multiaddr>,
    /// Where it was reached.
    pub reached_at: Option<Multiaddr>,
    /// When it was last reached, ms; 0 for never.
    pub reached_ms: u64,
    /// When it was last dialled, ms; not written down.
    pub tried_ms: u64,
    /// Failures in a row; not written down.
    pub failures: u32,
    /// Whether it signed its addresses itself; else somebody else named them.
    pub signed: bool,
}

impl KnownPeer {
    /// Where to dial it: the address that worked first.
    pub fn to_dial(&self) -> Vec<Multiaddr> {
        let rest = self.addresses.iter().filter(|a| self.reached_at.as_ref() != Some(*a));
        self.reached_at.iter().chain(rest).take(MAX_ADDRESSES).cloned().collect()
    }

    /// Whether it can only be reached through relays.
    pub fn is_behind_relays(&self) -> bool {
        self.reached_at.iter().chain(&self.addresses).all(address::is_circuit)
    }
}

/// The peers known.
#[derive(Debug)]
pub struct Known {
    me: NodeId,
    chain: ChainId,
    peers: BTreeMap<NodeId, KnownPeer>,
    changed: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    chain: ChainId,
    peers: Vec<SavedPeer>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedPeer {
    node: NodeId,
    addresses: Vec<String>,
    reached_ms: u64,
}

impl Known {
    /// Nobody yet.
    pub fn new(me: NodeId, chain: ChainId) -> Self {
        Self { me, chain, peers: BTreeMap::new(), changed: false }
    }

    /// Reads the file. One that is damaged or of another network is set aside with a warning.
    pub fn open(path: &Path, me: NodeId, chain: ChainId, now_ms: u64) -> Self {
        let mut known = Self::new(me, chain);
        match read(path, chain) {
            Ok(saved) => {
                for peer in saved.into_iter().take(MAX_SAVED) {
                    known.restore(peer, now_ms);
                }
            }
            Err(why) => {
                let aside = path.with_extension("json.bad");
                let aside_text = aside.display().to_string();
                tracing::warn!(file = %path.display(), why, "remembered peers cannot be read: set aside as {aside_text}");
                if let Err(error) = std::fs::rename(path, &aside) {
                    tracing::warn!(%error, "nor be set aside");
                }
            }
        }
        known
    }

    fn restore(&mut self, saved: SavedPeer, now_ms: u64) {
        let parse = |text: &String| address::dialable(&text.parse().ok()?).map(|(address, _)| address);
        let addresses: Vec<Multiaddr> = saved.addresses.iter().take(MAX_ADDRESSES).filter_map(parse).collect();
        if saved.node == self.me || addresses.is_empty() || self.peers.len() >= MAX_KNOWN {
            return;
        }
        let reached_at = addresses.first().filter(|_| saved.reached_ms > 0).cloned();
        let reached_ms = saved.reached_ms.min(now_ms); // a clock set back would keep it first for ever
        let peer = KnownPeer { addresses, reached_at, reached_ms, signed: true, ..KnownPeer::default() };
        self.peers.insert(saved.node, peer);
    }

    /// All peers.
    pub fn peers(&self) -> &BTreeMap<NodeId, KnownPeer> {
        &self.peers
    }

    /// Keeps only addresses that `fit` lets through.
    pub fn keep(&mut self, fit: impl Fn(&[Multiaddr]) -> Vec<Multiaddr>) {
        for peer in self.peers.values_mut() {
            peer.addresses = fit(&peer.addresses);
            peer.reached_at = peer.reached_at.take().filter(|a| peer.addresses.contains(a));
        }
        self.peers.retain(|_, peer| !peer.addresses.is_empty());
    }

    /// Somebody said where a peer is; `signed`: it did so itself, and newer than before.
    pub fn heard(&mut self, node: NodeId, addresses: Vec<Multiaddr>, signed: bool) {
        if node == self.me || addresses.is_empty() {
            return;
        }
        if let Some(peer) = self.peers.get_mut(&node) {
            // what others say of a peer never replaces its own word
            if signed && (peer.addresses != addresses || !peer.signed) {
                (peer.addresses, peer.signed, self.changed) = (addresses, true, true);
                peer.addresses.truncate(MAX_ADDRESSES);
            }
        } else if self.make_room(signed) {
            let mut peer = KnownPeer { addresses, signed, ..KnownPeer::default() };
            peer.addresses.truncate(MAX_ADDRESSES);
            self.peers.insert(node, peer);
            self.changed = true;
        }
    }

    /// Whether there is a place for one more: a peer that was never reached and failed, or was named by somebody else,
    /// gives up its own, then one that was reached long ago and has failed ever since. Else whoever makes up thousands of
    /// names would make this node forget those that work.
    fn make_room(&mut self, signed: bool) -> bool {
        if self.peers.len() < MAX_KNOWN {
            return true;
        }
        let poor = |p: &KnownPeer| p.reached_ms == 0 && (p.failures > 0 || (signed && !p.signed));
        let worst = self.peers.iter().filter(|(_, p)| poor(p)).max_by_key(|(_, p)| (!p.signed, p.failures));
        let worst = worst.or_else(|| {
            let gone = self.peers.iter().filter(|(_, p)| p.failures >= GIVEN_UP);
            gone.min_by_key(|(_, p)| p.reached_ms)
        });
        match worst.map(|(node, _)| *node) {
            Some(node) => self.peers.remove(&node).is_some(),
            None => false,
        }
    }

    /// A peer is being dialled.
    pub fn tried(&mut self, node: NodeId, now_ms: u64) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.tried_ms = now_ms;
        }
    }

    /// A peer of our chain was reached at an address.
    pub fn reached(&mut self, node: NodeId, at: Multiaddr, now_ms: u64) {
        if node == self.me || (!self.peers.contains_key(&node) && !self.make_room(true)) {
            return;
        }
        let peer = self.peers.entry(node).or_default();
        if peer.addresses.is_empty() {
            peer.addresses.push(at.clone());
        }
        (peer.reached_at, peer.reached_ms, self.changed) = (Some(at), now_ms, true);
    }

    /// A dial came to nothing.
    pub fn failed(&mut self, node: NodeId) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.failures = peer.failures.saturating_add(1);
        }
    }

    /// A connection this node opened is gone. One that ends at once counts as a failure: else a peer that takes
    /// connections only to drop them would be dialled every second.
    pub fn left(&mut self, node: NodeId, lived_ms: u64) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.failures = if lived_ms >= GOOD_MS { 0 } else { peer.failures.saturating_add(1) };
        }
    }

    /// Not one to dial: no full node, or of another network.
    pub fn forget(&mut self, node: NodeId) {
        self.changed |= self.peers.remove(&node).is_some();
    }

    /// The file's bytes if they have changed since they were last asked for; those that could be reached lately first.
    pub fn take_changes(&mut self) -> Option<Vec<u8>> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let mut peers: Vec<(&NodeId, &KnownPeer)> =
            self.peers.iter().filter(|(_, p)| p.signed || p.reached_ms > 0).collect();
        peers.sort_by_key(|(node, p)| (std::cmp::Reverse(p.reached_ms), p.failures, **node));
        let saved = peers.into_iter().take(MAX_SAVED).map(|(node, p)| SavedPeer {
            node: *node,
            addresses: p.to_dial().iter().map(ToString::to_string).collect(),
            reached_ms: p.reached_ms,
        });
        serde_json::to_vec_pretty(&Saved { chain: self.chain, peers: saved.collect() }).ok()
    }
}

fn read(path: &Path, chain: ChainId) -> Result<Vec<SavedPeer>, String> {
    let mut bytes = Vec::new();
    match std::fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error.to_string()),
        Ok(file) => file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?,
    };
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("larger than {MAX_FILE_BYTES} bytes"));
    }
    let saved: Saved = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
    if saved.chain != chain {
        return Err("of another network".into());
    }
    Ok(saved.peers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use oda_consensus::keys::NodeKey;

    const CHAIN: ChainId = ChainId([1; 32]);

    fn node(n: u64) -> NodeId {
        let mut secret = [7; 32];
        secret[..8].copy_from_slice(&n.to_le_bytes());
        NodeKey::from_secret(&secret).id()
    }

    fn at(n: u64) -> Vec<Multiaddr> {
        vec![format!("/ip4/198.51.100.1/tcp/{}", n % 60_000 + 1).parse().unwrap()]
    }

    #[test] // N1: what could be reached lately comes first, and survives a restart
    fn what_was_reached_is_written_down_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        assert!(Known::open(&path, node(0), CHAIN, 9).peers().is_empty(), "no file is no problem");
        let mut known = Known::new(node(0), CHAIN);
        for n in 0..500 {
            known.heard(node(n), at(n), true);
        }
        known.reached(node(400), at(1).remove(0), 1_000);
        known.reached(node(401), at(401).remove(0), 2_000);
        known.heard(node(700), at(700), false);
        crate::file::replace(&path, &known.take_changes().unwrap()).unwrap();
        assert_eq!(known.take_changes(), None, "nothing new, nothing written");
        let again = Known::open(&path, node(0), CHAIN, 1_500);
        assert_eq!(again.peers().len(), MAX_SAVED);
        assert_eq!(again.peers()[&node(400)].to_dial(), [at(1), at(400)].concat());
        assert_eq!(again.peers()[&node(401)].reached_ms, 1_500, "no time ahead of the clock is kept");
        assert!(!again.peers().contains_key(&node(0)), "nobody dials himself");
        assert!(!again.peers().contains_key(&node(700)), "hearsay is not written down");
    }

    #[test] // D3: a bad file never keeps a node from starting, and is not lost
    fn a_damaged_file_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let other = Saved { chain: ChainId([2; 32]), peers: vec![] };
        let large = vec![b' '; MAX_FILE_BYTES as usize + 1];
        for bad in [b"{\"chain\":".to_vec(), vec![0xff; 100], serde_json::to_vec(&other).unwrap(), large] {
            std::fs::write(&path, &bad).unwrap();
            assert!(Known::open(&path, node(0), CHAIN, 9).peers().is_empty());
            assert!(!path.exists());
            assert_eq!(std::fs::read(path.with_extension("json.bad")).unwrap(), bad);
        }
        let mut known = Known::new(node(0), CHAIN);
        known.heard(node(1), at(1), true);
        crate::file::replace(&path, &known.take_changes().unwrap()).unwrap();
        assert_eq!(Known::open(&path, node(0), CHAIN, 9).peers().len(), 1);
        let text = std::fs::read_to_string(&path).unwrap().replace("/ip4/198.51.100.1", "/unix/x");
        std::fs::write(&path, text).unwrap();
        assert!(Known::open(&path, node(0), CHAIN, 9).peers().is_empty(), "addresses of no kind we dial are left out");
    }

    #[test] // K3, attack 17
    fn made_up_names_neither_grow_the_table_nor_push_out_what_works() {
        let mut known = Known::new(node(0), CHAIN);
        for n in 1..=10 {
            known.heard(node(n), at(n), true);
            known.reached(node(n), at(n).remove(0), n);
        }
        for n in 1_000..4_000 {
            known.heard(node(n), at(n), n % 2 == 0);
            known.failed(node(n));
        }
        assert_eq!(known.peers().len(), MAX_KNOWN);
        assert!((1..=10).all(|n| known.peers().contains_key(&node(n))), "those reached are still known");
        known.heard(node(5_000), at(1), true);
        assert!(known.peers().contains_key(&node(5_000)), "one that failed makes room");
        for n in 6_000..8_000 {
            known.heard(node(n), vec![at(n).remove(0); 50], true);
        }
        assert!(known.peers().contains_key(&node(5_000)), "one that was not tried yet keeps its place");
        assert!(known.peers().values().all(|p| p.addresses.len() <= MAX_ADDRESSES));
        assert_eq!(known.peers().len(), MAX_KNOWN);
    }

    #[test] // N2: nobody moves another's address
    fn hearsay_does_not_replace_a_signed_record() {
        let mut known = Known::new(node(0), CHAIN);
        known.heard(node(1), at(1), false);
        known.heard(node(1), at(2), true);
        known.heard(node(1), at(3), false);
        assert_eq!(known.peers()[&node(1)].to_dial(), at(2));
        known.reached(node(1), at(2).remove(0), 5);
        known.heard(node(1), at(4), true);
        assert_eq!(known.peers()[&node(1)].to_dial(), [at(2), at(4)].concat(), "where it was reached stays");
    }
}
