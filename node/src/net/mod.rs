//! libp2p: gossip with explicit validation, requests with bounded answers, connections that come back (N1).
//!
//! One task owns the swarm; everyone else holds a [`Net`] and speaks to it over bounded channels, so a
//! slow node drops gossip instead of stalling the network. Nothing is passed on before the node has
//! said so: a bad message stops at the first honest node and costs its sender score.
//!
//! Attack 17 lives here: every neighbour has an allowance of its own ([`guard`]), half of the event queue
//! is closed to requests, strangers can neither take the connections meant for our own dials nor those of
//! configured peers, and a neighbour counts as connected only after it has named our chain. Peers are found through
//! signed records and walks ([`discovery`]); whom to dial is one pure decision ([`dial`]).

pub(crate) mod address;
mod asking;
mod behaviour;
mod codec;
mod dial;
mod discovery;
mod error;
mod fence;
mod guard;
mod listen;
mod names;
mod probe;
mod reach;
mod relays;
mod standing;
mod swarm;
mod walk;

pub use error::{NetError, RequestError};
pub use reach::{Asks, Reachability};

use libp2p::{Multiaddr, PeerId, identity, multiaddr::Protocol};
use oda_consensus::ids::{ChainId, NodeId};
use oda_consensus::wire::PeerRecord;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::Duration;
use zeroize::Zeroizing;

/// What gossip is about; each kind has its own largest size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    /// Tendermint messages.
    Bft,
    /// Transactions.
    Tx,
    /// Decided blocks.
    Blocks,
    /// Signing sessions.
    Attest,
    /// Peer records.
    Peers,
}

impl Topic {
    /// All topics.
    pub const ALL: [Topic; 5] = [Topic::Bft, Topic::Tx, Topic::Blocks, Topic::Attest, Topic::Peers];

    fn name(self) -> &'static str {
        match self {
            Topic::Bft => "bft",
            Topic::Tx => "tx",
            Topic::Blocks => "blocks",
            Topic::Attest => "attest",
            Topic::Peers => "peers",
        }
    }

    /// Largest message, bytes.
    pub fn max_bytes(self) -> usize {
        match self {
            Topic::Bft | Topic::Blocks => 2 << 20,
            Topic::Attest => 160 << 10,
            Topic::Tx => 72 << 10,
            Topic::Peers => 4 << 10,
        }
    }
}

/// What the node thinks of a gossip message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Valid: pass it on.
    Accept,
    /// Of no use here: do not pass it on, blame nobody.
    Ignore,
    /// Invalid: do not pass it on, and the sender loses score.
    Reject,
}

/// Whether the node relays gossip.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Subscribes to everything.
    #[default]
    Full,
    /// Subscribes to nothing; lives on requests.
    Lite,
}

/// How to join.
#[derive(Clone)]
pub struct NetConfig {
    /// The node's ed25519 secret (K1).
    pub key: Zeroizing<[u8; 32]>,
    /// Network; nodes of another one do not understand us.
    pub chain: ChainId,
    /// Addresses to listen on; none for a node that only asks.
    pub listen: Vec<Multiaddr>,
    /// Peers to stay connected to.
    pub peers: Vec<(PeerId, Multiaddr)>,
    /// What the node takes part in.
    pub role: Role,
    /// Whether it votes, and so wants Tendermint messages.
    pub votes: bool,
    /// Most open connections; a quarter is kept for those this node opens. Configured peers come on top.
    pub max_connections: u32,
    /// How long a request may take.
    pub request_timeout: Duration,
    /// How many connections this node opens by itself, those to configured peers counted in; 0: only those.
    pub outbound: usize,
    /// Addresses to announce instead of those listened on.
    pub external: Vec<Multiaddr>,
    /// Whether a full node that listens is a relay for others and dials them back (N1).
    pub relay: bool,
    /// How a full node learns whether others can reach it, unless its owner says where.
    pub asks: Asks,
    /// Where peers are remembered over restarts, if anywhere.
    pub remember: Option<PathBuf>,
}

impl NetConfig {
    /// For a node that stays: finds peers and remembers them in its data directory.
    ///
    /// # Errors
    /// If the configuration names an address that is none.
    pub fn of(p2p: &crate::config::P2p, datadir: &Path) -> Result<Self, NetError> {
        Ok(Self {
            listen: parse_listen(&p2p.listen)?,
            peers: parse_peers(&p2p.peers)?,
            outbound: p2p.outbound,
            external: parse_listen(&p2p.external)?,
            relay: p2p.relay,
            // nobody on the same machine is kept away by a router
            asks: Asks::Servers(address::Scope::Private),
            remember: Some(datadir.join(crate::known::FILE)),
            ..Self::default()
        })
    }
}

impl Default for NetConfig {
    fn default() -> Self {
        Self {
            key: Zeroizing::new([0; 32]),
            chain: ChainId([0; 32]),
            listen: Vec::new(),
            peers: Vec::new(),
            role: Role::Full,
            votes: false,
            max_connections: 256,
            request_timeout: Duration::from_secs(10),
            outbound: 0,
            external: Vec::new(),
            relay: false,
            asks: Asks::Nobody,
            remember: None,
        }
    }
}

/// Names a gossip message until it is reported on; holds its share of the memory for gossip till then.
#[derive(Debug)]
pub struct MessageToken {
    id: libp2p::gossipsub::MessageId,
    source: PeerId,
    topic: Topic,
    _memory: OwnedSemaphorePermit,
}

/// Names a request until it is answered; dropped unanswered, the peer sees an error.
#[derive(Debug)]
pub struct ResponseToken {
    channel: libp2p::request_response::ResponseChannel<Vec<u8>>,
    _slots: guard::Slots,
}

/// What happens on the network.
#[derive(Debug)]
pub enum NetEvent {
    /// A message; report on it with [`Net::report`].
    Gossip {
        /// The neighbour that passed it on, not the author: say who wrote it in the signed data.
        from: NodeId,
        /// Its topic.
        topic: Topic,
        /// Its bytes.
        data: Vec<u8>,
        /// For the report.
        token: MessageToken,
    },
    /// A request; answer with [`Net::respond`].
    Request {
        /// Who asks; authenticated by the connection.
        from: NodeId,
        /// Its bytes.
        data: Vec<u8>,
        /// For the answer.
        token: ResponseToken,
    },
    /// A peer of this chain is connected.
    PeerConnected(NodeId),
    /// The last connection to a peer is gone.
    PeerDisconnected(NodeId),
}

enum Command {
    Publish(Topic, Vec<u8>),
    Report(MessageToken, Verdict),
    Request(NodeId, Vec<u8>, oneshot::Sender<Result<Vec<u8>, RequestError>>),
    Respond(ResponseToken, Vec<u8>),
    Ban(NodeId, Duration),
    AddAddress(NodeId, Multiaddr),
    Learn(NodeId, Vec<Multiaddr>),
    Score(NodeId, oneshot::Sender<Option<f64>>),
    Shutdown(oneshot::Sender<()>),
}

/// Counts of one topic.
#[derive(Debug, Default)]
pub struct TopicCounts {
    /// Messages heard.
    pub heard: AtomicU64,
    /// Their bytes.
    pub heard_bytes: AtomicU64,
    /// Messages sent by this node itself.
    pub sent: AtomicU64,
    /// Their bytes.
    pub sent_bytes: AtomicU64,
    /// Messages the node rejected.
    pub rejected: AtomicU64,
    /// Messages dropped because the node or a neighbour was busy, or they were too large.
    pub dropped: AtomicU64,
}

/// Counts for operators.
#[derive(Debug, Default)]
pub struct Counters {
    topics: [TopicCounts; 5],
    /// Requests answered.
    pub answered: AtomicU64,
    /// Requests refused: over the asker's allowance, or the node was busy.
    pub refused: AtomicU64,
    /// Neighbours sent away for flooding.
    pub flooders: AtomicU64,
}

impl Counters {
    /// Counts of a topic.
    pub fn topic(&self, topic: Topic) -> &TopicCounts {
        let [bft, tx, blocks, attest, peers] = &self.topics;
        match topic {
            Topic::Bft => bft,
            Topic::Tx => tx,
            Topic::Blocks => blocks,
            Topic::Attest => attest,
            Topic::Peers => peers,
        }
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// A handle to the network.
#[derive(Clone)]
pub struct Net {
    commands: mpsc::Sender<Command>,
    connected: Arc<Mutex<Vec<NodeId>>>,
    standing: Arc<Mutex<Vec<standing::Standing>>>,
    listening: Arc<Mutex<Vec<Multiaddr>>>,
    external: Vec<Multiaddr>,
    found: Arc<Mutex<relays::Found>>,
    counters: Arc<Counters>,
}

impl Net {
    /// Joins the network.
    ///
    /// # Errors
    /// If an address cannot be used; says which and what to do.
    pub async fn start(config: NetConfig) -> Result<(Net, mpsc::Receiver<NetEvent>), NetError> {
        swarm::start(config).await
    }

    /// Gossips a message. Dropped, and counted, if it is too large or the network side overloaded.
    pub fn publish(&self, topic: Topic, data: Vec<u8>) {
        if data.len() > topic.max_bytes() || self.commands.try_send(Command::Publish(topic, data)).is_err() {
            count(&self.counters.topic(topic).dropped);
        }
    }

    /// Says what to do with a message (explicit validation).
    pub fn report(&self, token: MessageToken, verdict: Verdict) {
        let _ = self.commands.try_send(Command::Report(token, verdict));
    }

    /// Asks a peer, connecting first if an address of it is known.
    ///
    /// # Errors
    /// If it cannot be reached, does not answer in time, or too much is going on.
    pub async fn request(&self, peer: NodeId, data: Vec<u8>) -> Result<Vec<u8>, RequestError> {
        if data.len() > codec::MAX_REQUEST as usize {
            return Err(RequestError::TooLarge { bytes: data.len(), max: codec::MAX_REQUEST });
        }
        let (reply, answer) = oneshot::channel();
        self.commands.try_send(Command::Request(peer, data, reply)).map_err(|_| RequestError::Busy)?;
        answer.await.map_err(|_| RequestError::Failed("the network side stopped".into()))?
    }

    /// Answers a request.
    pub fn respond(&self, token: ResponseToken, data: Vec<u8>) {
        let _ = self.commands.try_send(Command::Respond(token, data));
    }

    /// Connected peers of this chain.
    pub fn connected(&self) -> Vec<NodeId> {
        self.connected.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Connected full nodes to ask, in turn, what each of them could answer: those that answer at present, and as many
    /// configured ones as others.
    pub fn askable(&self) -> Vec<NodeId> {
        standing::askable(&self.standing.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Addresses to tell others: those the owner named, else those this node listens on and before them those where
    /// others reached it or pass connections on to it. What a peer says it saw is among them only if two servers of two
    /// ranges of addresses reached this node there: one liar could send everybody elsewhere.
    pub fn announced(&self) -> Vec<Multiaddr> {
        if !self.external.is_empty() {
            return self.external.clone();
        }
        let listening = self.listen_addrs();
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<Multiaddr> = found.confirmed.iter().chain(&found.circuits).cloned().collect();
        let new = |a: &Multiaddr| address::plain(a).is_none_or(|(plain, _)| !found.confirmed.contains(&plain));
        all.extend(listening.into_iter().filter(new));
        all
    }

    /// Whether others can reach this node, as far as it knows, and through how many relays they do.
    pub fn reachability(&self) -> (Reachability, usize) {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        (found.reachability, found.circuits.len())
    }

    /// Addresses this node listens on, with its peer id.
    pub fn listen_addrs(&self) -> Vec<Multiaddr> {
        self.listening.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Refuses a peer for a while.
    pub fn ban(&self, peer: NodeId, time: Duration) {
        let _ = self.commands.try_send(Command::Ban(peer, time));
    }

    /// Remembers where a peer is, for [`Net::request`]; with or without /p2p/PEERID at the end.
    pub fn add_address(&self, peer: NodeId, address: Multiaddr) {
        let _ = self.commands.try_send(Command::AddAddress(peer, address));
    }

    /// Learns from a peer's signed record where a full node is. The record is authentic and newer than the last.
    pub fn learn(&self, record: &PeerRecord) {
        if record.role == oda_consensus::wire::Role::Full {
            let addresses = record.p2p.iter().take(address::MAX_ADDRESSES).filter_map(|a| a.parse().ok()).collect();
            let _ = self.commands.try_send(Command::Learn(record.node, addresses));
        }
    }

    /// Gossip score of a connected peer: below zero it is heard less, below -80 not at all.
    pub async fn score(&self, peer: NodeId) -> Option<f64> {
        let (reply, answer) = oneshot::channel();
        self.commands.try_send(Command::Score(peer, reply)).ok()?;
        answer.await.ok()?
    }

    /// Counts since the start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Closes every connection and ends the task.
    pub async fn shutdown(&self) {
        let (done, wait) = oneshot::channel();
        if self.commands.send(Command::Shutdown(done)).await.is_ok() {
            let _ = wait.await;
        }
    }
}

/// The libp2p name of a node (K1: the same key). `None` for bytes that are no key.
pub fn peer_id(node: NodeId) -> Option<PeerId> {
    let key = identity::ed25519::PublicKey::try_from_bytes(&node.0).ok()?;
    Some(identity::PublicKey::from(key).to_peer_id())
}

/// The node of a libp2p name, if it is an ed25519 key written out.
pub fn node_id(peer: &PeerId) -> Option<NodeId> {
    let bytes = peer.to_bytes();
    // identity multihash (0x00, length 36) of the protobuf of an ed25519 key (08 01 12 20 key)
    let key = bytes.strip_prefix(&[0x00, 0x24, 0x08, 0x01, 0x12, 0x20])?;
    key.try_into().ok().map(NodeId)
}

/// Reads peer addresses.
///
/// # Errors
/// The first that is not one, and how it should look.
pub fn parse_peers(texts: &[String]) -> Result<Vec<(PeerId, Multiaddr)>, NetError> {
    let parse = |text: &String| {
        let fail = |problem: String| NetError::PeerAddress { text: text.clone(), problem };
        let mut address: Multiaddr = text.parse().map_err(|e: libp2p::multiaddr::Error| fail(e.to_string()))?;
        match address.pop() {
            Some(Protocol::P2p(peer)) => Ok((peer, address)),
            _ => Err(fail("it does not end in /p2p/PEERID".into())),
        }
    };
    texts.iter().map(parse).collect()
}

/// Reads listen addresses.
///
/// # Errors
/// The first that is not one, and how it should look.
pub fn parse_listen(texts: &[String]) -> Result<Vec<Multiaddr>, NetError> {
    texts
        .iter()
        .map(|text| {
            text.parse().map_err(|e: libp2p::multiaddr::Error| NetError::ListenAddress {
                text: text.clone(),
                problem: e.to_string(),
            })
        })
        .collect()
}

#[cfg(test)]
mod discovery_tests;
#[cfg(test)]
mod relay_tests;
#[cfg(test)]
mod tests;
