//! Where other nodes' services are, as they themselves signed it (N2).

use crate::clock::now_ms;
use crate::net::Net;
use oda_consensus::ids::{ChainId, NodeId};
use oda_consensus::keys::NodeKey;
use oda_consensus::wire::{LightningAddress, PeerRecord, Role, SignedPeerRecord, Submissions};
use oda_storage::{BlobAddr, Blobs};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Most records kept.
const MAX_RECORDS: usize = 4096;
/// A record may be dated this far ahead of our clock, ms.
const MAX_AHEAD_MS: u64 = 120_000;

/// This node's signed record of where its services are.
pub(crate) fn own_record(
    key: &NodeKey,
    chain: ChainId,
    role: Role,
    (blobs, external): (&Blobs, &[SocketAddr]),
    net: &Net,
    lightning: Option<LightningAddress>,
    submissions: Option<Submissions>,
) -> SignedPeerRecord {
    let sockets = if external.is_empty() { blobs.addr().sockets } else { external.to_vec() };
    let record = PeerRecord {
        node: key.id(),
        seq_ms: now_ms(),
        role,
        blobs: sockets.iter().take(8).map(ToString::to_string).collect(),
        p2p: announced(net),
        lightning,
        submissions,
    };
    SignedPeerRecord::new(record, key, chain)
}

/// Where others reach this node over libp2p, as a record holds it.
pub(crate) fn announced(net: &Net) -> Vec<String> {
    net.announced().iter().take(8).map(ToString::to_string).collect()
}

/// The same record, signed now: its node is still here.
pub(crate) fn signed_anew(old: &SignedPeerRecord, key: &NodeKey, chain: ChainId) -> SignedPeerRecord {
    // never older than the one before, whatever the clock does
    let seq_ms = now_ms().max(old.record.seq_ms.saturating_add(1));
    SignedPeerRecord::new(PeerRecord { seq_ms, ..old.record.clone() }, key, chain)
}

/// Newest signed record of every node heard of.
pub struct PeerBook {
    chain: ChainId,
    records: BTreeMap<NodeId, SignedPeerRecord>,
    /// Who is told of news, so that it finds peers by them (N1).
    net: Option<Net>,
}

impl PeerBook {
    /// An empty book.
    pub fn new(chain: ChainId) -> Self {
        Self { chain, records: BTreeMap::new(), net: None }
    }

    /// The same, telling the network side where full nodes are.
    pub fn telling(self, net: &Net) -> Self {
        Self { net: Some(net.clone()), ..self }
    }

    /// Takes a record if it is authentic and newer than the one known. `None`: refused; else whether it was news.
    pub fn insert(&mut self, signed: SignedPeerRecord, now_ms: u64) -> Option<bool> {
        let node = signed.record.node;
        if signed.record.seq_ms > now_ms.saturating_add(MAX_AHEAD_MS) {
            return None;
        }
        if self.records.get(&node).is_some_and(|r| r.record.seq_ms >= signed.record.seq_ms) {
            return Some(false);
        }
        if !signed.is_authentic(self.chain) {
            return None;
        }
        if self.records.len() >= MAX_RECORDS && !self.records.contains_key(&node) {
            return Some(false);
        }
        if let Some(net) = &self.net {
            net.learn(&signed.record);
        }
        self.records.insert(node, signed);
        Some(true)
    }

    /// One node's record.
    pub fn get(&self, node: NodeId) -> Option<&PeerRecord> {
        self.records.get(&node).map(|r| &r.record)
    }

    /// All records.
    pub fn all(&self) -> impl Iterator<Item = &SignedPeerRecord> {
        self.records.values()
    }

    /// Blob addresses: the preferred nodes first, then every full node.
    pub fn providers(&self, preferred: &[NodeId]) -> Vec<BlobAddr> {
        let first = preferred.iter().filter_map(|n| self.get(*n));
        let rest =
            self.records.values().map(|r| &r.record).filter(|r| r.role == Role::Full && !preferred.contains(&r.node));
        first.chain(rest).filter_map(blob_addr).collect()
    }
}

impl PeerBook {
    /// Blob addresses: the preferred nodes first, then those full nodes of a list.
    pub fn providers_among(&self, preferred: &[NodeId], full: &[NodeId]) -> Vec<BlobAddr> {
        let rest = full.iter().filter(|n| !preferred.contains(n)).filter_map(|n| self.get(*n));
        let first = preferred.iter().filter_map(|n| self.get(*n));
        first.chain(rest.filter(|r| r.role == Role::Full)).filter_map(blob_addr).collect()
    }
}

pub(crate) fn blob_addr(record: &PeerRecord) -> Option<BlobAddr> {
    let sockets: Vec<_> = record.blobs.iter().filter_map(|s| s.parse().ok()).collect();
    (!sockets.is_empty()).then_some(BlobAddr { node: record.node, sockets })
}

#[cfg(test)]
mod tests {
    use super::*;
    use oda_consensus::keys::NodeKey;
    use oda_consensus::wire::Submissions;

    #[test] // N2: forged, stale, far-future and malformed records are refused
    fn only_newer_authentic_records_count() {
        let chain = ChainId([1; 32]);
        let (a, b) = (NodeKey::from_secret(&[1; 32]), NodeKey::from_secret(&[2; 32]));
        let record = |node, seq_ms| PeerRecord {
            node,
            seq_ms,
            role: Role::Full,
            blobs: vec!["127.0.0.1:9".into()],
            p2p: vec![],
            lightning: None,
            submissions: None,
        };
        let mut book = PeerBook::new(chain);
        assert_eq!(book.insert(SignedPeerRecord::new(record(a.id(), 5), &b, chain), 10), None);
        assert_eq!(book.insert(SignedPeerRecord::new(record(a.id(), 5), &a, chain), 10), Some(true));
        assert_eq!(book.insert(SignedPeerRecord::new(record(a.id(), 4), &a, chain), 10), Some(false));
        assert_eq!(book.insert(SignedPeerRecord::new(record(a.id(), 500_000), &a, chain), 10), None);
        let asking = |url: &str, fee_msat| {
            let submissions = Some(Submissions { url: url.into(), fee_msat });
            SignedPeerRecord::new(PeerRecord { submissions, ..record(a.id(), 6) }, &a, chain)
        };
        for bad in ["", "ftp://h:1", "http://", "http://h 1", "http://u@h:1", "http://h/?x"] {
            assert_eq!(book.insert(asking(bad, 1), 10), None, "{bad}");
        }
        assert_eq!(book.insert(asking(&format!("http://{}", "h".repeat(300)), 1), 10), None);
        assert_eq!(book.insert(asking("http://h:1", 0), 10), None);
        assert_eq!(book.insert(asking("http://h:1", 1), 10), Some(true));
        assert_eq!(book.providers(&[]).len(), 1);
        assert_eq!(book.providers_among(&[], &[b.id()]).len(), 0);
        assert_eq!(book.providers_among(&[], &[a.id()]).len(), 1);
        assert_eq!(book.providers_among(&[a.id()], &[a.id()]).len(), 1);
    }
}
