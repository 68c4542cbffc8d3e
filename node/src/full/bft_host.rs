//! Runs the Tendermint engine: WAL, timers, proposals, and what a decision leads to (L1).

use super::{Core, Timer};
use crate::clock::now_ms;
use crate::ledger_file::batch;
use crate::net::{Topic, Verdict};
use anyhow::{Context, Result};
use oda_consensus::bft::{
    Bft, BftConfig, BftEffect, BftError, BftInput, Message, Timeouts, block_id, proposer, verify_certificate,
};
use oda_consensus::codec;
use oda_consensus::engine::validator::ValidatorInput;
use oda_consensus::state::{Applied, BlockError, State};
use oda_consensus::tx::Block;
use oda_consensus::wire::DecidedBlock;
use oda_storage::LedgerStore;
use rand_core::RngCore as _;
use std::collections::VecDeque;
use tokio::time::{Duration, Instant};

/// A proposal may be dated this far ahead of our clock, ms.
const MAX_AHEAD_MS: u64 = 10_000;

impl Core {
    /// Whether this node sits in the committee that orders the next block.
    pub(super) fn votes_now(&self) -> bool {
        let (height, seated) = {
            let state = self.shared.state();
            (state.tip().height, state.group().index_of(self.me).is_some())
        };
        // after a repair: not on heights whose votes its log no longer knows
        self.duty.is_some() && seated && height >= self.ledger().voted_until()
    }

    /// Starts the height after the tip, if this node has a vote in it.
    pub(super) fn start_height(&mut self) -> Result<()> {
        if !self.votes_now() {
            return Ok(());
        }
        let (height, validators) = {
            let state = self.shared.state();
            (state.tip().height + 1, state.validators())
        };
        if self.bft.is_some() {
            return self.drive_bft(BftInput::StartHeight { height, validators });
        }
        let wal = self.ledger().wal(height)?;
        if !wal.is_empty() {
            tracing::info!(entries = wal.len(), "replaying the consensus log");
        }
        let config = BftConfig { key: self.key.clone(), chain: self.chain, timeouts: Timeouts::default() };
        let mut bft = Bft::new(config, height, &validators)?;
        let effects = bft.replay(&wal).context(
            "the consensus log is damaged; this node must not vote: delete the ledger directory to fetch it again \
             from peers",
        )?;
        self.bft = Some(bft);
        self.carry_out(effects)
    }

    /// Publishes a consensus message. A rebroadcast has the same bytes as the first sending, which
    /// gossip would drop as a duplicate, so each sending starts with a number of its own.
    fn publish_vote(&mut self, bytes: &[u8]) {
        let mut data = self.rng.next_u64().to_le_bytes().to_vec();
        data.extend_from_slice(bytes);
        self.net.publish(Topic::Bft, data);
    }

    /// A consensus message from gossip; whether to pass it on (N1).
    pub(super) fn on_bft_gossip(&mut self, data: &[u8]) -> Result<Verdict> {
        let Some((_, bytes)) = data.split_at_checked(8) else { return Ok(Verdict::Reject) };
        if !self.votes_now() {
            return Ok(self.relay(bytes));
        }
        let Some(bft) = &mut self.bft else { return Ok(Verdict::Ignore) };
        match bft.handle(BftInput::Message { bytes: bytes.to_vec() }) {
            Ok(effects) => {
                self.carry_out(effects)?;
                Ok(Verdict::Accept)
            }
            Err(error @ (BftError::Malformed(_) | BftError::Refused(_))) => {
                tracing::debug!(%error, "consensus message refused");
                Ok(Verdict::Reject)
            }
            Err(error) => {
                tracing::debug!(%error, "consensus message not taken");
                Ok(Verdict::Ignore)
            }
        }
    }

    /// A validator without a seat passes on what a member signed, so that members need no direct links.
    fn relay(&self, bytes: &[u8]) -> Verdict {
        let Ok(message) = codec::decode::<Message>(bytes) else { return Verdict::Reject };
        let state = self.shared.state();
        let near = message.height().is_some_and(|h| h > state.tip().height && h <= state.tip().height + 3);
        if near && message.is_of(self.chain, &state.validators()) { Verdict::Accept } else { Verdict::Ignore }
    }

    /// Feeds Tendermint and carries out its effects, in order: what must be persisted is, before
    /// anything after it in the list is sent (P6).
    pub(super) fn drive_bft(&mut self, input: BftInput) -> Result<()> {
        let Some(bft) = &mut self.bft else { return Ok(()) };
        match bft.handle(input) {
            Ok(effects) => self.carry_out(effects),
            Err(error) => {
                tracing::debug!(%error, "consensus input refused");
                Ok(())
            }
        }
    }

    /// Carries out effects in order, each call's before the next call (the engine's contract).
    pub(super) fn carry_out(&mut self, effects: Vec<BftEffect>) -> Result<()> {
        let mut answers = VecDeque::new();
        let mut effects = VecDeque::from(effects);
        loop {
            while let Some(effect) = effects.pop_front() {
                self.bft_effect(effect, &mut answers)?;
            }
            let (Some(answer), Some(bft)) = (answers.pop_front(), &mut self.bft) else { return Ok(()) };
            match bft.handle(answer) {
                Ok(more) => effects.extend(more),
                Err(error) => tracing::debug!(%error, "consensus answer refused"),
            }
        }
    }

    fn bft_effect(&mut self, effect: BftEffect, inputs: &mut VecDeque<BftInput>) -> Result<()> {
        match effect {
            // Late votes of a decided height: the block itself now says what was decided, and this node
            // never works on that height again, so there is nothing left to remember.
            BftEffect::WalAppend { height, .. } if height <= self.shared.state().tip().height => {}
            BftEffect::WalAppend { height, entry } => {
                self.ledger_mut().wal_append(height, &entry).context("writing the consensus log")?
            }
            BftEffect::Publish(bytes) => self.publish_vote(&bytes),
            BftEffect::ScheduleTimeout { token, after_ms } => {
                self.timers.cancel(|t| *t == Timer::Bft(token));
                self.timers.insert(Instant::now() + Duration::from_millis(after_ms), Timer::Bft(token));
            }
            BftEffect::CancelTimeout(token) => self.timers.cancel(|t| *t == Timer::Bft(token)),
            BftEffect::CancelTimeouts => self.timers.cancel(|t| matches!(t, Timer::Bft(_))),
            BftEffect::NeedBlock { height, round, .. } => {
                let state = self.shared.state();
                if state.tip().height + 1 == height {
                    let (block, refused) = state.build(&self.mempool.candidates(), now_ms());
                    drop(state);
                    for (tx, error) in refused {
                        tracing::debug!(kind = tx.kind(), %error, "transaction left out");
                    }
                    inputs.push_back(BftInput::Propose { height, round, block: codec::encode(&block) });
                }
            }
            BftEffect::ValidateBlock { height, block, block_id, .. } => {
                let valid = self.is_valid_proposal(height, &block);
                inputs.push_back(BftInput::Validated { height, block_id, valid });
            }
            // a peer's decided block was faster than our own decision
            BftEffect::Decided { height, .. } if height <= self.shared.state().tip().height => {}
            BftEffect::Decided { height, round, block, certificate } => {
                let block: Block = codec::decode(&block).context("a decided block does not decode")?;
                let proposer = proposer(&self.shared.state().validators(), height, round);
                tracing::debug!(height, round, txs = block.txs.len(), "decided");
                let decided = DecidedBlock { block, certificate };
                if proposer == Some(self.me) {
                    self.net.publish(Topic::Blocks, codec::encode(&decided));
                }
                self.commit(decided)?;
                // pace: the next height starts one block interval after this one did
                let interval = Duration::from_millis(self.shared.state().genesis().block_interval_ms.into());
                let due = (self.height_started + interval).max(Instant::now());
                self.timers.insert(due, Timer::StartHeight);
            }
            BftEffect::Evidence(evidence) => {
                let culprit = evidence.culprit(self.chain).map_or_else(|| "nobody".into(), |n| n.to_string());
                tracing::warn!(validator = culprit, "equivocation seen");
                self.drive_validator(ValidatorInput::Equivocation(evidence))?;
            }
            BftEffect::Fault { reason } => tracing::warn!(reason, "consensus step not finished"),
        }
        Ok(())
    }

    fn is_valid_proposal(&mut self, height: u64, bytes: &[u8]) -> bool {
        let Ok(block) = codec::decode::<Block>(bytes) else { return false };
        if block.header.height != height || block.header.time_ms > now_ms().saturating_add(MAX_AHEAD_MS) {
            return false;
        }
        match self.try_block(&block) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(height, %error, "proposal refused");
                false
            }
        }
    }

    /// Executes a block on trial and keeps the result for [`Self::commit`], under the name of its very bytes.
    fn try_block(&mut self, block: &Block) -> Result<(), BlockError> {
        let mut next = State::clone(&self.shared.state());
        // what waits here was checked when it came
        let applied = next.apply_known(block, &|tx| self.mempool.contains(tx))?;
        self.tried = Some((block_id(&codec::encode(block)), next, applied));
        Ok(())
    }

    /// Applies a decided block: memory, then one synced batch (D3), then everyone who watches.
    pub(super) fn commit(&mut self, decided: DecidedBlock) -> Result<()> {
        let header = decided.block.header;
        let tried = match self.tried.take() {
            Some(tried) if tried.0 == block_id(&codec::encode(&decided.block)) => Some(tried),
            _ => {
                self.try_block(&decided.block).context(
                    "a decided block does not apply: this node's state differs from the network's; run `oda ledger \
                     verify`",
                )?;
                self.tried.take()
            }
        };
        let (_, next, Applied { entries, appended }) = tried.context("the result of a block is lost")?;
        let (block, changes) = batch(&decided, &entries, appended);
        self.ledger_mut().append(&block, &changes).context("writing a block")?;
        self.shared.replace(next);
        self.mempool.prune(&self.shared.state(), &decided.block.txs);
        self.tell_again(header.height);
        let _ = self.shared.blocks.send(header.height);
        self.tell_payees(&entries);
        self.state_changed()
    }

    /// Takes a decided block from a peer: whether it followed our tip, or what is wrong with it.
    ///
    /// # Errors
    /// What is wrong with this node (its disk is full, say): no fault of the peer's, and nothing to go on after.
    pub(super) fn take_decided(&mut self, decided: DecidedBlock) -> Result<Result<bool, String>> {
        let (tip, validators) = {
            let state = self.shared.state();
            (state.tip(), state.validators())
        };
        if decided.block.header.height != tip.height + 1 {
            return Ok(Ok(false));
        }
        if let Err(why) = check_certificate(&decided, self.chain, &validators) {
            return Ok(Err(why));
        }
        if let Err(error) = self.try_block(&decided.block) {
            return Ok(Err(format!("certified block does not apply: {error}")));
        }
        self.commit(decided)?;
        if self.duty.is_some() {
            self.timers.cancel(|t| matches!(t, Timer::Bft(_) | Timer::StartHeight));
            self.timers.insert(Instant::now(), Timer::StartHeight);
        }
        Ok(Ok(true))
    }
}

/// Whether the certificate is for this very block and carries enough votes.
pub(crate) fn check_certificate(
    decided: &DecidedBlock,
    chain: oda_consensus::ids::ChainId,
    validators: &[oda_consensus::ids::NodeId],
) -> Result<(), String> {
    let certificate = &decided.certificate;
    if certificate.height != decided.block.header.height
        || certificate.block != block_id(&codec::encode(&decided.block))
    {
        return Err("the certificate is for another block".into());
    }
    verify_certificate(chain, validators, &decided.certificate).map_err(|e| e.to_string())
}
