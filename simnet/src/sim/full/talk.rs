//! What a full node hears, and what it answers.

use super::*;

impl Full {
    pub(in crate::sim) fn timer(&mut self, env: &mut Env<'_>, timer: Timer) {
        match timer {
            Timer::Bft(token) => self.drive_bft(env, BftInput::Timeout(token)),
            Timer::StartHeight => self.start_height(env),
            Timer::Tick => {
                let epochs: Vec<u64> = self.signers.keys().copied().collect();
                for epoch in epochs {
                    let reports = self.sign(env, epoch, SignInput::Tick);
                    reports.into_iter().for_each(|report| self.drive_validator(env, report));
                }
                self.out.push(Out::Timer(TICK_MS, Timer::Tick));
            }
            Timer::Sync => {
                let from = self.height() + 1;
                self.out.push(Out::AskSomebody(Rc::new(Request::Blocks { from, max: 16 })));
                self.out.push(Out::Timer(env.block_ms, Timer::Sync));
            }
            Timer::Poll => {}
        }
    }

    pub(in crate::sim) fn hear(&mut self, env: &mut Env<'_>, from: (Addr, NodeId), msg: &Msg) {
        match msg {
            Msg::Bft(bytes) if self.votes_now() => {
                self.drive_bft(env, BftInput::Message { bytes: bytes.to_vec() });
            }
            Msg::Bft(_) => {}
            Msg::Committee(bytes) => self.hear_committee(env, bytes),
            Msg::Tx(tx) => drop(self.take(env, tx)),
            Msg::Block(decided) => drop(self.take_decided(env, decided)),
            Msg::Ask(request) => {
                let response = self.answer(env, from.1, request);
                self.out.push(Out::Answer(from.0, request.clone(), response));
            }
            Msg::Answer(_, response) => {
                if let Response::Blocks(blocks) = response.as_ref() {
                    for decided in blocks {
                        if !self.up || !self.take_decided(env, &Rc::new(decided.clone())) {
                            break;
                        }
                    }
                }
            }
            Msg::Noise(bytes) => {
                let bytes = bytes.as_slice();
                let known = codec::decode::<SignedTx>(bytes).is_ok() || codec::decode::<Request>(bytes).is_ok();
                self.refuse(if known { "noise that decodes" } else { "noise" });
            }
        }
    }

    pub(super) fn hear_committee(&mut self, env: &mut Env<'_>, data: &[u8]) {
        let Ok(signed) = codec::decode::<SignedCommitteeEnvelope>(data) else {
            return self.refuse("no envelope");
        };
        let CommitteeEnvelope { from, epoch, .. } = signed.envelope;
        match self.state.epoch_state(epoch).map(|e| e.group.index_of(from).is_some()) {
            None => return self.refuse("unknown epoch"),
            Some(false) => return self.refuse("no member"),
            Some(true) if epoch.saturating_add(2) < self.state.current().number => return self.refuse("old epoch"),
            Some(true) => {}
        }
        if !from.verify(self.chain, &signed.envelope, &signed.signature) {
            return self.refuse("forged");
        }
        let proof = signed.signature;
        match signed.envelope.message {
            CommitteeMessage::Partial(input, partial) => {
                self.drive_validator(env, ValidatorInput::Partial { from, epoch, input, partial });
            }
            CommitteeMessage::Sign(message) => {
                let reports = self.sign(env, epoch, SignInput::Message { from, message, proof });
                reports.into_iter().for_each(|report| self.drive_validator(env, report));
            }
        }
    }

    pub(super) fn answer(&mut self, env: &mut Env<'_>, from: NodeId, request: &Request) -> Rc<Response> {
        Rc::new(match request {
            Request::Status => Response::Status(self.state.tip()),
            Request::Blocks { from, max } => Response::Blocks(self.blocks(*from, *max)),
            Request::SubmitTx(tx) => {
                let tx = Rc::new(tx.as_ref().clone());
                if self.take(env, &tx) {
                    self.out.push(Out::Tx(tx));
                    Response::Accepted
                } else {
                    Response::Refused("not valid now".into())
                }
            }
            Request::Models => Response::Models(self.state.models().map(|(id, _)| id).collect()),
            Request::Model(id) => return env.ledgers.model_view(&self.state, *id),
            Request::Claim(id) => {
                let view = self.state.claim(*id).cloned().map(|claim| {
                    let escrow = claim.escrow.and_then(|e| self.state.escrow(e)).cloned();
                    let share_held = escrow
                        .as_ref()
                        .is_some_and(|e| !e.tranches.is_empty() && self.own_shares(e.id).len() == e.tranches.len());
                    let outcome = self.state.outcome(claim.model, claim.round).cloned();
                    Box::new(ClaimView { height: self.height(), claim, escrow, share_held, outcome })
                });
                Response::Claim(view)
            }
            Request::Outcome(model, round) => {
                Response::Outcome(self.state.outcome(*model, *round).cloned().map(Box::new))
            }
            Request::Shares(escrow) => self.release(from, *escrow),
            Request::Invoice { escrow, tranche, bolt11 } => {
                let (escrow, tranche, bolt11) = (*escrow, *tranche, bolt11.clone());
                self.drive_sponsor(env, SponsorInput::Invoice { from, escrow, tranche, bolt11 });
                Response::Accepted
            }
            Request::Epochs { after } => Response::Epochs(self.state.links(*after, MAX_LINKS)),
            Request::Checkpoint => Response::Checkpoint(self.state.checkpoints().next_back().cloned().map(Box::new)),
            Request::Hello(_) | Request::Peers | Request::Changed(_) | Request::Snapshot | Request::Delta { .. } => {
                Response::Refused("not here".into())
            }
        })
    }

    pub(super) fn blocks(&self, from: u64, max: u32) -> Vec<DecidedBlock> {
        let heights = from..from.saturating_add(max.min(MAX_BLOCKS).into());
        heights
            .map_while(|height| {
                let stored = self.disk.block(height).ok()??;
                codec::decode(&stored).ok()
            })
            .collect()
    }

    /// Its shares of an escrow's tranches, decrypted and checked against the deals (P1).
    pub fn own_shares(&mut self, id: EscrowId) -> Rc<Vec<(u8, ReleaseShare)>> {
        if let Some(known) = self.shares.get(&id) {
            return known.clone();
        }
        let mut found = Vec::new();
        if let Some(escrow) = self.state.escrow(id).filter(|e| !e.tranches.is_empty()) {
            let index = self.state.epoch_state(escrow.epoch).and_then(|e| e.group.index_of(self.id));
            let opened = |t: &oda_consensus::escrow::Tranche| {
                index.and_then(|i| open_share(&t.deal, i, &self.encryption, &id.0).ok())
            };
            found = escrow.tranches.iter().zip(0u8..).filter_map(|(t, n)| Some((n, opened(t)?))).collect();
            let found = Rc::new(found);
            self.shares.insert(id, found.clone());
            if self.shares.len() > 1_024 {
                self.shares.pop_first();
            }
            return found;
        }
        Rc::new(std::mem::take(&mut found))
    }

    // P4
    pub(super) fn release(&mut self, from: NodeId, id: EscrowId) -> Response {
        let Some(escrow) = self.state.escrow(id) else { return Response::Refused("no such escrow".into()) };
        if escrow.payee != from {
            return Response::Refused("the share is the payee's alone".into());
        }
        let released = escrow.with(|s| matches!(s, TrancheStatus::Releasing | TrancheStatus::Settled(_)));
        if released.is_empty() {
            return Response::Refused("the release is not attested".into());
        }
        let shares = self.own_shares(id);
        let shares = shares.iter().filter(|(tranche, _)| released.contains(usize::from(*tranche))).cloned();
        Response::Shares(shares.collect())
    }

    /// An envelope in somebody's name, signed with this node's key; what honest nodes and impersonators send.
    pub fn sealed(&self, from: NodeId, epoch: u64, message: CommitteeMessage) -> Rc<Vec<u8>> {
        let envelope = CommitteeEnvelope { from, epoch, message };
        let signature = self.key.sign(self.chain, &envelope);
        Rc::new(codec::encode(&SignedCommitteeEnvelope { envelope, signature }))
    }
}
