//! What nodes say: nobody honest says two things where one may be said, or anything too early.

use super::*;

impl Checks {
    // L1, C5
    pub(crate) fn said_bft(&mut self, at_ms: u64, from: Addr, bytes: &[u8]) {
        let Ok(message) = codec::decode::<Message>(bytes) else {
            return self.violated(
                at_ms,
                "sign-once",
                format!("node {} published a message that does not decode", from.0),
            );
        };
        let votes = match message {
            Message::Vote(v) => vec![v],
            Message::Polka(votes) | Message::Round { votes, .. } => votes,
            Message::Proposal(SignedHeader { header, .. }, _) => {
                let at = (header.proposer, header.height, header.round);
                let what = Digest(codec::hash(&header));
                // others' proposals are passed on too
                let own = self.tally.names.get(&header.proposer) == Some(&from);
                let first = *self.proposals.entry(at).or_insert(what);
                if own && first != what {
                    self.violated(
                        at_ms,
                        "sign-once",
                        format!("node {} made two proposals for {} {}", from.0, at.1, at.2),
                    );
                }
                Vec::new()
            }
        };
        for SignedVote { vote: v, .. } in votes {
            let own = self.tally.names.get(&v.voter) == Some(&from);
            let Some(round) = v.round.as_u32().filter(|_| own) else { continue };
            let block = match v.block {
                arc_malachitebft_core_types::NilOrVal::Nil => None,
                arc_malachitebft_core_types::NilOrVal::Val(id) => Some(id),
            };
            let precommit = v.kind == arc_malachitebft_core_types::VoteType::Precommit;
            let at = (v.voter, v.height.0, round, precommit);
            if *self.votes.entry(at).or_insert(block) != block {
                self.violated(at_ms, "sign-once", format!("node {} voted twice at {} {round}", from.0, v.height.0));
            }
        }
    }

    // C5, S3
    pub(crate) fn said_committee(&mut self, at_ms: u64, who: NodeId, epoch: u64, message: &CommitteeMessage) {
        match message {
            CommitteeMessage::Partial(input, _) => {
                if !self.due.contains(&(epoch, *input)) {
                    let why =
                        format!("{} gave out its share of a beacon of epoch {epoch} that is not due", who.short());
                    self.violated(at_ms, "early-share", why);
                }
            }
            CommitteeMessage::Sign(SignMessage::Request { id, payload, chosen }) => {
                self.note_request(*id, payload, chosen)
            }
            CommitteeMessage::Sign(SignMessage::Share { request, .. }) => {
                let group = self.ledger.epoch_state(epoch).map(|e| e.group.clone());
                let index = group.and_then(|g| g.index_of(who)).and_then(|i| u16::try_from(i).ok());
                let chosen = self.requests.get(request).zip(index);
                let nonce = chosen.and_then(|(list, i)| list.iter().find(|(m, _)| *m == i)).map(|(_, c)| c.clone());
                let Some(nonce) = nonce else { return };
                if *self.shares.entry((who, epoch, nonce)).or_insert(*request) != *request {
                    self.violated(at_ms, "nonce", format!("{} signed two requests with one nonce", who.short()));
                }
            }
            CommitteeMessage::Sign(_) => {}
        }
    }

    /// What a hostile member says: honest ones answer its requests.
    pub(crate) fn heard_committee(&mut self, message: &CommitteeMessage) {
        if let CommitteeMessage::Sign(SignMessage::Request { id, payload, chosen }) = message {
            self.note_request(*id, payload, chosen);
        }
    }

    /// A request of a leader, honest or not.
    pub(super) fn note_request(
        &mut self,
        id: oda_consensus::frost::SessionId,
        payload: &[u8],
        chosen: &[oda_consensus::frost::Chosen],
    ) {
        if let Some(digest) = request_digest(id, payload, chosen) {
            self.requests.insert(digest, chosen.iter().map(|c| (c.member, c.commitments.clone())).collect());
        }
    }

    // C6
    pub(crate) fn said_tx(&mut self, at_ms: u64, tx: &SignedTx) {
        let Some(slot) = tx.slot() else { return };
        let what = Digest(codec::hash(tx));
        let first = *self.slots.entry((tx.signer, slot)).or_insert(what);
        if first != what {
            self.violated(at_ms, "sign-once", format!("{} said two things: {}", tx.signer.short(), tx.kind()));
        }
    }

    // P4
    pub(crate) fn answered(&mut self, at_ms: u64, to: Option<NodeId>, request: &Request, response: &Response) {
        let (Request::Shares(id), Response::Shares(shares)) = (request, response) else { return };
        let escrow = self.ledger.escrow(*id).cloned();
        for (tranche, _) in shares {
            let status = escrow.as_ref().and_then(|e| e.tranches.get(usize::from(*tranche))).map(|t| t.status);
            let due = matches!(status, Some(TrancheStatus::Releasing | TrancheStatus::Settled(_)));
            if !due || escrow.as_ref().map(|e| e.payee) != to {
                self.violated(
                    at_ms,
                    "early-share",
                    format!("a share of escrow {} left before its release", id.short()),
                );
            }
        }
    }
}
