//! Catching up: who is ahead, their blocks, and who cannot give them.
//!
//! A peer that is asked for blocks may send bad ones, none, or say that it has pruned them. None of that may stop the
//! node: the first is sent away, the second passed over after some seconds, the third not asked again for a while.

use super::Core;
use super::requests::LACKS_BLOCKS;
use crate::clock::now_ms;
use crate::net::Topic;
use anyhow::Result;
use oda_consensus::codec;
use oda_consensus::ids::NodeId;
use oda_consensus::wire::{MAX_BLOCKS, Request, Response};
use tokio::time::{Duration, Instant};

/// How long a peer that refused blocks is not asked for any.
pub(super) const LACKING: Duration = Duration::from_secs(60);

impl Core {
    /// Asks one connected peer where its ledger stands: how a node that missed a block notices.
    pub(super) fn poll_peer(&mut self) {
        let peers = self.net.connected();
        if peers.is_empty() {
            return;
        }
        let turn = usize::try_from(now_ms() / 250).unwrap_or(0) % peers.len();
        if let Some(peer) = peers.get(turn) {
            self.ask(*peer, Request::Status);
        }
    }

    /// What a peer answered; blocks are taken one after the other, each with its votes (L1).
    pub(super) fn on_answer(&mut self, peer: NodeId, response: Response) -> Result<()> {
        match response {
            Response::Hello(record) => {
                if record.record.node == peer && self.book.insert(record.clone(), now_ms()) == Some(true) {
                    self.net.publish(Topic::Peers, codec::encode(&record));
                }
            }
            Response::Peers(records) => {
                for record in records.into_iter().take(1024) {
                    self.book.insert(record, now_ms());
                }
            }
            Response::Status(tip) => {
                let mine = self.shared.state().tip().height;
                let busy = self.syncing_from.is_some_and(|(_, since)| since.elapsed() < Duration::from_secs(5));
                // a validator one block behind is about to decide it itself
                let slack = u64::from(self.votes_now());
                self.snapshots.heard(mine, tip.height, Instant::now());
                let waits = self.snapshots.is_seeking();
                let lacks = self.lacking.get(&peer).is_some_and(|since| since.elapsed() < LACKING);
                if tip.height > mine.saturating_add(slack) && !busy && !lacks && !waits {
                    self.syncing_from = Some((peer, Instant::now()));
                    self.ask(peer, Request::Blocks { from: mine + 1, max: MAX_BLOCKS });
                }
            }
            Response::Blocks(blocks) => {
                if self.syncing_from.is_none_or(|(from, _)| from != peer) {
                    return Ok(());
                }
                self.syncing_from = None;
                self.catching_up = true; // duties of rounds long over are nobody's
                let full = blocks.len() >= MAX_BLOCKS as usize;
                for decided in blocks {
                    if let Err(error) = self.take_decided(decided)? {
                        tracing::warn!(peer = %peer.short(), %error, "peer sent a bad block; banned for a minute");
                        self.net.ban(peer, Duration::from_secs(60));
                        self.catching_up = false;
                        return self.state_changed();
                    }
                }
                self.catching_up = full;
                if full {
                    self.syncing_from = Some((peer, Instant::now()));
                    let from = self.shared.state().tip().height + 1;
                    self.ask(peer, Request::Blocks { from, max: MAX_BLOCKS });
                } else {
                    return self.state_changed();
                }
            }
            // a peer that pruned what we need; others may have it
            Response::Refused(why)
                if why.starts_with(LACKS_BLOCKS) && self.syncing_from.is_some_and(|(from, _)| from == peer) =>
            {
                tracing::info!(peer = %peer.short(), why, "peer has no such blocks; asking another");
                self.syncing_from = None;
                self.lacking.retain(|_, since| since.elapsed() < LACKING);
                self.lacking.insert(peer, Instant::now());
                self.snapshots.want(Instant::now());
                if self.catching_up {
                    self.catching_up = false;
                    return self.state_changed();
                }
            }
            _ => {}
        }
        Ok(())
    }
}
