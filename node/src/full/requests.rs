//! Answers to peers' requests. Every answer is bounded, and nothing secret leaves but a share whose
//! release is attested, to the payee alone (P4).

use super::Core;
use crate::clock::now_ms;
use crate::net::{ResponseToken, Topic};
use anyhow::Result;
use oda_consensus::codec;
use oda_consensus::escrow::{EscrowState, TrancheStatus};
use oda_consensus::frost::{ReleaseShare, open_share};
use oda_consensus::ids::{ClaimId, EscrowId, ModelId, NodeId};
use oda_consensus::wire::{ClaimView, DecidedBlock, MAX_BLOCKS, MAX_LINKS, ModelView, Request, Response};
use oda_storage::LedgerStore;

/// How a refusal begins by which a peer knows that this node has no such blocks; other requests are refused too.
pub(super) const LACKS_BLOCKS: &str = "blocks below";

/// Most bytes of blocks in one answer.
const MAX_BLOCK_BYTES: usize = 4 << 20;

impl Core {
    pub(super) fn on_request(&mut self, from: NodeId, data: &[u8], token: ResponseToken) -> Result<()> {
        let response = match codec::decode::<Request>(data) {
            Ok(request) => self.answer(from, request)?,
            Err(error) => Response::Refused(error.to_string()),
        };
        self.net.respond(token, codec::encode(&response));
        Ok(())
    }

    fn answer(&mut self, from: NodeId, request: Request) -> Result<Response> {
        Ok(match request {
            Request::Hello(record) => {
                if record.record.node == from && self.book.insert(record.clone(), now_ms()) == Some(true) {
                    self.net.publish(Topic::Peers, codec::encode(&record));
                }
                Response::Hello(self.record.clone())
            }
            Request::Status => Response::Status(self.shared.state().tip()),
            Request::Blocks { from, .. } if from < self.ledger().bodies_from() => {
                let bodies_from = self.ledger().bodies_from();
                Response::Refused(format!("{LACKS_BLOCKS} {bodies_from} are not kept here: ask another full node"))
            }
            Request::Blocks { from, max } => Response::Blocks(self.blocks(from, max)?),
            Request::SubmitTx(tx) => match self.submit_signed(*tx) {
                Ok(()) => Response::Accepted,
                Err(error) => Response::Refused(error.to_string()),
            },
            Request::Models => Response::Models(self.shared.state().models().map(|(id, _)| id).collect()),
            Request::Model(id) => Response::Model(self.model_view(id)),
            Request::Claim(id) => Response::Claim(self.claim_view(id)),
            Request::Outcome(model, round) => {
                Response::Outcome(self.shared.state().outcome(model, round).cloned().map(Box::new))
            }
            Request::Changed(_) => Response::Refused("a full node follows the ledger itself".into()),
            Request::Shares(escrow) => self.release(from, escrow),
            Request::Invoice { escrow, tranche, bolt11 } => self.on_invoice(from, escrow, tranche, bolt11),
            Request::Epochs { after } => Response::Epochs(self.shared.state().links(after, MAX_LINKS)),
            Request::Checkpoint => {
                Response::Checkpoint(self.shared.state().checkpoints().next_back().cloned().map(Box::new))
            }
            Request::Delta { .. } => Response::Refused("a full node serves deltas as blobs".into()),
            Request::Snapshot => Response::Snapshot(self.offer_snapshot().map(Box::new)),
            Request::Peers => Response::Peers(self.book.all().take(1024).cloned().collect()),
        })
    }

    fn blocks(&self, from: u64, max: u32) -> Result<Vec<DecidedBlock>> {
        let (mut out, mut bytes) = (Vec::new(), 0);
        for height in from..from.saturating_add(max.min(MAX_BLOCKS).into()) {
            let Some(stored) = self.ledger().block(height)? else { break };
            bytes += stored.len();
            if bytes > MAX_BLOCK_BYTES {
                break;
            }
            match codec::decode(&stored) {
                Ok(decided) => out.push(decided),
                Err(_) => break,
            }
        }
        Ok(out)
    }

    fn model_view(&self, id: ModelId) -> Option<Box<ModelView>> {
        let state = self.shared.state();
        let model = state.model(id)?.clone();
        let last = model.round.as_ref().and_then(|r| state.outcome(id, r.number.saturating_sub(1))).cloned();
        Some(Box::new(ModelView { height: state.tip().height, model, last }))
    }

    fn claim_view(&self, id: ClaimId) -> Option<Box<ClaimView>> {
        let state = self.shared.state();
        let claim = state.claim(id)?.clone();
        let escrow = claim.escrow.and_then(|e| state.escrow(e)).cloned();
        let all = |e: &EscrowState| !e.tranches.is_empty() && self.own_shares(e, |_| true).len() == e.tranches.len();
        let share_held = escrow.as_ref().is_some_and(all);
        let outcome = state.outcome(claim.model, claim.round).cloned();
        Some(Box::new(ClaimView { height: state.tip().height, claim, escrow, share_held, outcome }))
    }

    /// This node's shares of the tranches wanted, if it sat in the committee they were dealt to; decrypted and
    /// checked against the deals (P1). Holds however many epochs ago that was.
    fn own_shares(&self, escrow: &EscrowState, wanted: impl Fn(&TrancheStatus) -> bool) -> Vec<(u8, ReleaseShare)> {
        let state = self.shared.state();
        let Some(index) = state.epoch_state(escrow.epoch).and_then(|e| e.group.index_of(self.me)) else {
            return Vec::new();
        };
        let open = |deal| open_share(deal, index, &self.identity.encryption, &escrow.id.0).ok();
        let tranches = escrow.tranches.iter().zip(0u8..).filter(|(t, _)| wanted(&t.status));
        tranches.filter_map(|(t, number)| Some((number, open(&t.deal)?))).collect()
    }

    // P4
    fn release(&self, from: NodeId, id: EscrowId) -> Response {
        let Some(escrow) = self.shared.state().escrow(id).cloned() else {
            return Response::Refused("no such escrow".into());
        };
        if escrow.payee != from {
            return Response::Refused("the share is the payee's alone".into());
        }
        let released = |s: &TrancheStatus| matches!(s, TrancheStatus::Releasing | TrancheStatus::Settled(_));
        if escrow.with(released).is_empty() {
            return Response::Refused("the release is not attested".into());
        }
        let shares = self.own_shares(&escrow, released);
        if shares.is_empty() {
            return Response::Refused("this node holds no share of it".into());
        }
        Response::Shares(shares)
    }
}
