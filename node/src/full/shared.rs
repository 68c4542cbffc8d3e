//! What the RPC server may read while the core writes.

use super::CoreEvent;
use crate::net::Reachability;
use crate::peers::PeerBook;
use oda_consensus::ids::{ClaimId, EscrowId, NodeId, PaymentHash};
use oda_consensus::state::State;
use oda_consensus::tx::SignedTx;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;
use tokio::sync::{Notify, broadcast, mpsc, oneshot};

/// A peer as `oda peers` shows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PeerInfo {
    /// Who.
    pub node: NodeId,
    /// Whether a connection is open.
    pub connected: bool,
    /// `full` or `lite`, if its record is known.
    pub role: Option<String>,
}

/// A payment of this node as its wallet knows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PaymentInfo {
    /// Escrow.
    pub escrow: EscrowId,
    /// Tranche of it, 0 the largest.
    pub tranche: u8,
    /// Claim it is for.
    pub claim: ClaimId,
    /// Payee.
    pub payee: NodeId,
    /// SHA-256 of the preimage, as the wallet names the payment.
    pub payment_hash: PaymentHash,
    /// Amount, msat.
    pub amount_msat: u64,
    /// Routing fee, msat, once sent.
    pub fee_msat: u64,
    /// `dealt`, `paying`, `sent`, `failed` or `closed`.
    pub phase: String,
}

/// Ledger state and node facts, shared with the RPC server.
pub struct Shared {
    state: RwLock<Arc<State>>,
    facts: RwLock<Facts>,
    /// This node.
    pub me: NodeId,
    /// Whether it validates.
    pub validator: bool,
    /// Heights of new blocks.
    pub blocks: broadcast::Sender<u64>,
    events: mpsc::Sender<CoreEvent>,
    stop: Notify,
}

#[derive(Default)]
struct Facts {
    peers: Vec<PeerInfo>,
    reachability: (Reachability, usize),
    mempool: usize,
    payments: BTreeMap<(EscrowId, u8), PaymentInfo>,
    wallet: Option<crate::rpc::WalletInfo>,
    custody: Option<(oda_storage::Usage, crate::custody::Report)>,
}

impl Shared {
    pub(super) fn new(state: State, me: NodeId, validator: bool, events: mpsc::Sender<CoreEvent>) -> Self {
        let (blocks, _) = broadcast::channel(256);
        let (facts, stop) = (RwLock::default(), Notify::new());
        Self { state: RwLock::new(Arc::new(state)), facts, me, validator, blocks, events, stop }
    }

    /// A state without a node behind it: all of it can be read, and nothing is passed on. For tests of the RPC server.
    pub fn detached(state: State, me: NodeId) -> Self {
        Self::new(state, me, false, mpsc::channel(1).0)
    }

    /// The state after the last block. Whoever reads long reads the state of that moment, and keeps no block waiting.
    pub fn state(&self) -> Arc<State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts the state after another block in place; for [`Shared::blocks`] to be told then.
    pub fn replace(&self, state: State) {
        let state = Arc::new(state);
        // what is left of the old one goes when the lock is free
        let _old = std::mem::replace(&mut *self.state.write().unwrap_or_else(PoisonError::into_inner), state);
    }

    fn facts(&self) -> RwLockReadGuard<'_, Facts> {
        self.facts.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts peers in place.
    pub fn put_peers(&self, peers: Vec<PeerInfo>) {
        self.facts.write().unwrap_or_else(PoisonError::into_inner).peers = peers;
    }

    pub(super) fn set_peers(&self, connected: &[NodeId], book: &PeerBook) {
        let mut peers: BTreeMap<NodeId, PeerInfo> =
            connected.iter().map(|n| (*n, PeerInfo { node: *n, connected: true, role: None })).collect();
        for record in book.all().map(|r| &r.record).filter(|r| r.node != self.me) {
            let info = peers.entry(record.node).or_insert(PeerInfo { node: record.node, connected: false, role: None });
            info.role = Some(format!("{:?}", record.role).to_lowercase());
        }
        self.put_peers(peers.into_values().collect());
    }

    /// Puts in place whether others can reach this node, and through how many relays.
    pub fn set_reachability(&self, reachability: (Reachability, usize)) {
        self.facts.write().unwrap_or_else(PoisonError::into_inner).reachability = reachability;
    }

    /// Whether others can reach this node, as far as it knows, and through how many relays they do (N1).
    pub fn reachability(&self) -> (Reachability, usize) {
        self.facts().reachability
    }

    pub(super) fn set_mempool(&self, len: usize) {
        self.facts.write().unwrap_or_else(PoisonError::into_inner).mempool = len;
    }

    /// Puts a payment in place.
    pub fn set_payment(&self, payment: PaymentInfo) {
        self.facts
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .payments
            .insert((payment.escrow, payment.tranche), payment);
    }

    /// Puts the wallet in place.
    pub fn set_wallet(&self, wallet: crate::rpc::WalletInfo) {
        self.facts.write().unwrap_or_else(PoisonError::into_inner).wallet = Some(wallet);
    }

    /// Puts what the keeper of blobs came to in place.
    pub fn set_custody(&self, usage: oda_storage::Usage, report: crate::custody::Report) {
        self.facts.write().unwrap_or_else(PoisonError::into_inner).custody = Some((usage, report));
    }

    /// Disk use of the blobs, and this node's share in keeping them; none before the first decision.
    pub fn custody(&self) -> Option<(oda_storage::Usage, crate::custody::Report)> {
        self.facts().custody
    }

    /// Peers known and connected.
    pub fn peers(&self) -> Vec<PeerInfo> {
        self.facts().peers.clone()
    }

    /// Transactions waiting.
    pub fn mempool(&self) -> usize {
        self.facts().mempool
    }

    /// Payments this node has dealt.
    pub fn payments(&self) -> Vec<PaymentInfo> {
        self.facts().payments.values().cloned().collect()
    }

    /// The first payments behind one, ascending by escrow and tranche.
    pub fn payments_after(&self, after: Option<(EscrowId, u8)>, most: usize) -> Vec<PaymentInfo> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.facts().payments.range((from, Bound::Unbounded)).take(most).map(|(_, p)| p.clone()).collect()
    }

    /// This node's wallet, if it has one.
    pub fn wallet(&self) -> Option<crate::rpc::WalletInfo> {
        self.facts().wallet.clone()
    }

    /// Puts a signed transaction before the network.
    ///
    /// # Errors
    /// Why it was not taken.
    pub async fn submit(&self, tx: SignedTx) -> Result<(), String> {
        let (reply, answer) = oneshot::channel();
        self.events
            .send(CoreEvent::Submit(Box::new(tx), reply))
            .await
            .map_err(|_| "the node is stopping".to_string())?;
        answer.await.map_err(|_| "the node is stopping".to_string())?
    }

    /// Refuses a peer for a while; no time ends an earlier ban.
    ///
    /// # Errors
    /// If the node is stopping.
    pub async fn ban(&self, node: NodeId, time: Duration) -> Result<(), String> {
        self.events.send(CoreEvent::Ban(node, time)).await.map_err(|_| "the node is stopping".to_string())
    }

    /// Asks whoever runs the node to stop it.
    pub fn ask_to_stop(&self) {
        self.stop.notify_one();
    }

    /// Waits until somebody has asked.
    pub async fn asked_to_stop(&self) {
        self.stop.notified().await;
    }
}
