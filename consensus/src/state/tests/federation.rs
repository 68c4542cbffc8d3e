//! Draws, key generations, handovers, membership, evidence, checkpoints (C1, C2, C6).

use super::*;
use crate::epoch::{Checkpoint, EpochChain, Handover, HandoverLink, Membership, draw_input};
use crate::evidence::{Evidence, Offence};
use crate::frost::{OpenedShares, Round1, deal_round1, dkg_all_local, dkg_context, threshold};
use crate::tx::{DkgMessage, DkgStep};

fn federation() -> Federation {
    Federation { committee: 4, epoch_blocks: 12, dkg_blocks: 8, checkpoint_blocks: 5, score_grace_blocks: 3 }
}

/// Seven validators of which four are seated.
pub(super) struct Seven {
    pub(super) w: World,
    /// Seeds of the coming epoch, by node.
    seeds: BTreeMap<NodeId, EpochSeed>,
}

impl Seven {
    pub(super) fn new() -> Self {
        Self { w: World::with(federation(), 7), seeds: BTreeMap::new() }
    }

    pub(super) fn key(&self, node: NodeId) -> NodeKey {
        (1..=9u8).map(|i| NodeKey::from_secret(&[i; 32])).find(|k| k.id() == node).unwrap()
    }

    pub(super) fn draw(&mut self) -> Result<(), TxError> {
        let proof = self.w.beacon(&draw_input(self.w.state.chain(), 1));
        let key = NodeKey::from_secret(&[1; 32]);
        self.w.block(&[(Tx::Draw(1, proof), &key)])
    }

    pub(super) fn dkg(&self) -> DkgState {
        self.w.state.dkg().unwrap().clone()
    }

    fn step_of(&mut self, node: NodeId) -> DkgStep {
        let dkg = self.dkg();
        let index = dkg.members.iter().position(|m| *m == node).unwrap();
        let context = dkg_context(self.w.state.chain(), dkg.epoch, dkg.attempt);
        let rng = &mut self.w.rng;
        let seed = self.seeds.entry(node).or_insert_with(|| EpochSeed::random(rng));
        let transcript = || self.w.state.transcript(dkg.epoch, dkg.attempt, &dkg.members).unwrap();
        let secret = EncryptionSecret::derive(
            &(1..=9u8).map(|i| NodeKey::from_secret(&[i; 32])).find(|k| k.id() == node).unwrap().secret(),
        );
        match dkg.phase {
            DkgPhase::Deal => DkgStep::Deal(deal_round1(seed, context, index, dkg.members.len()).unwrap()),
            DkgPhase::Share => {
                let keys = self.w.state.encryption_keys(&dkg.members).unwrap();
                DkgStep::Share(transcript().deal_round2(seed, index, &keys).unwrap())
            }
            DkgPhase::Confirm => DkgStep::Confirm(transcript().bad_dealers(index, &secret)),
            other => panic!("nothing to say in {other:?}"),
        }
    }

    fn say(&mut self, node: NodeId, step: DkgStep) -> Result<(), TxError> {
        let dkg = self.dkg();
        let key = self.key(node);
        self.w.block(&[(Tx::Dkg(DkgMessage { epoch: dkg.epoch, attempt: dkg.attempt, step }), &key)])
    }

    /// All drawn members but the silent ones do the current step.
    fn step(&mut self, silent: &[NodeId]) {
        let dkg = self.dkg();
        for node in dkg.members.iter().filter(|m| !silent.contains(m)) {
            let step = self.step_of(*node);
            self.say(*node, step).unwrap();
        }
        if dkg.members.iter().any(|m| silent.contains(m)) {
            self.w.idle(9);
        }
    }

    pub(super) fn to_done(&mut self) {
        while self.dkg().phase != DkgPhase::Done {
            self.step(&[]);
        }
    }

    pub(super) fn hand_over(&mut self) {
        let handover = self.w.state.coming().unwrap().handover();
        let signature = self.w.attest(Statement::Handover(handover.clone()));
        let key = NodeKey::from_secret(&[1; 32]);
        self.w.block(&[(Tx::Handover(handover, signature), &key)]).unwrap();
    }
}

#[test] // C1, C2, L1: draw, key generation, signed handover, and the new committee orders the next block
fn the_next_committee_takes_over() {
    let mut s = Seven::new();
    let old = s.w.state.validators();
    assert_eq!(old.len(), 4);
    s.draw().unwrap();
    assert_eq!(s.draw(), Err(TxError::NoDraw), "one draw an epoch");
    s.to_done();
    let coming = s.w.state.coming().unwrap().clone();
    assert_eq!(s.w.state.validators(), old, "the old committee orders until the key is signed");
    s.w.idle(20);
    assert_eq!(s.w.state.current().number, 0, "an epoch without a signed key goes on");
    s.hand_over();
    assert_eq!(s.w.state.current().number, 1);
    assert_eq!(s.w.state.validators(), coming.group.members());
    assert_eq!(s.w.state.current().start_height, Some(s.w.state.tip().height + 1));
    // a lite node follows with one signature, and refuses anything forged
    let link = s.w.state.links(0, 10).remove(0);
    let mut chain = EpochChain::new(s.w.state.genesis()).unwrap();
    let forged = HandoverLink { signature: s.w.attest(Statement::Checkpoint(checkpoint(&s.w))), ..link.clone() };
    assert!(chain.advance(forged).is_err());
    chain.advance(link.clone()).unwrap();
    assert!(chain.advance(link).is_err(), "twice");
    assert_eq!(chain.newest().unwrap().members(), coming.group.members());
}

#[test] // C2: what a committee signed holds for ever, though its members are forgotten in time
fn an_old_attestation_still_holds() {
    let mut w = World::with(federation(), 4);
    let (chain_id, early) = (w.state.chain(), Statement::Checkpoint(checkpoint(&w)));
    let by_the_first = w.attest(early.clone());
    let mut chain = EpochChain::new(w.state.genesis()).unwrap();
    let members: Vec<NodeId> = w.state.validators();
    let mut signer = None;
    for epoch in 1..=5u64 {
        let (group, shares) = dkg_all_local(&members, threshold(members.len()), &mut w.rng).unwrap();
        let handover = Handover { epoch, committee: group.committee(), keys: Digest([0; 32]) };
        let statement = Statement::Handover(handover.clone());
        let signature = match signer.take() {
            None => w.attest(statement),
            Some(signers) => attest(signers, &Attestation { chain: chain_id, statement }, &mut w.rng),
        };
        chain.advance_keeping(HandoverLink { handover, signature }, 2).unwrap();
        let seats = members.iter().zip(shares);
        signer = Some(seats.map(|(m, s)| (*m, Signer::new(*m, group.clone(), s, SignerConfig::default()))).collect());
    }
    assert_eq!((chain.epoch(), chain.newest().map(|g| g.members().len())), (5, Some(4)));
    assert!(chain.group(3).is_none() && chain.group(4).is_some(), "the members of the newest two");
    let early = crate::codec::encode(&Attestation { chain: chain_id, statement: early });
    assert!(chain.verify(0, &early, &by_the_first));
    assert!((1..9).all(|epoch| !chain.verify(epoch, &early, &by_the_first)), "signed by one committee, not by another");
}

fn checkpoint(w: &World) -> Checkpoint {
    let tip = w.state.tip();
    Checkpoint { height: tip.height, block: tip.hash, state_root: tip.state_root }
}

#[test] // C2: who misses a step is left out and counted, whichever step it is
fn absent_members_are_replaced() {
    for phase in [DkgPhase::Deal, DkgPhase::Share, DkgPhase::Confirm] {
        let mut s = Seven::new();
        s.draw().unwrap();
        let absent = s.dkg().members[1];
        while s.dkg().attempt == 0 {
            let silent = if s.dkg().phase == phase { vec![absent] } else { vec![] };
            s.step(&silent);
        }
        assert!(!s.dkg().members.contains(&absent), "{phase:?}");
        assert_eq!(s.w.state.validator(absent).unwrap().record.dkg_missed, 1);
        s.to_done();
        s.hand_over();
        s.w.idle(12);
        assert_eq!(s.w.state.current().number, 1, "{phase:?}");
    }
}

#[test] // C2: with fewer candidates than seats the old committee goes on, and it is tried again
fn too_few_candidates_change_nothing() {
    let mut s = Seven::new();
    s.draw().unwrap();
    for _ in 0..4 {
        let silent = s.dkg().members.clone();
        if s.dkg().phase == DkgPhase::Failed {
            break;
        }
        s.step(&silent[..1]);
    }
    assert_eq!(s.dkg().phase, DkgPhase::Failed);
    s.w.idle(8);
    assert_eq!(s.dkg().phase, DkgPhase::Deal, "everyone has another chance");
    s.to_done();
}

/// Boxes sealed to the wrong keys: no recipient can read its share.
fn bad_boxes(s: &mut Seven, dealer: NodeId) -> DkgStep {
    let dkg = s.dkg();
    let index = dkg.members.iter().position(|m| *m == dealer).unwrap();
    let keys: Vec<_> = (0..4u8).map(|i| EncryptionSecret::derive(&[200 + i; 32]).public()).collect();
    let transcript = s.w.state.transcript(dkg.epoch, dkg.attempt, &dkg.members).unwrap();
    DkgStep::Share(transcript.deal_round2(&s.seeds[&dealer], index, &keys).unwrap())
}

#[test] // C2, C6, attack 16: a dealer of bad shares opens them or is passed over; one that opens other shares is evicted
fn a_bad_dealer_opens_or_is_left_out() {
    for opens in [true, false] {
        let mut s = Seven::new();
        s.draw().unwrap();
        s.step(&[]);
        let members = s.dkg().members;
        let dealer = members[2];
        for node in members.iter().copied() {
            let step = if node == dealer { bad_boxes(&mut s, dealer) } else { s.step_of(node) };
            s.say(node, step).unwrap();
        }
        s.step(&[]);
        let dkg = s.dkg();
        assert_eq!((dkg.phase, dkg.complaints.len()), (DkgPhase::Open, 3));
        if opens {
            let transcript = s.w.state.transcript(1, 0, &members).unwrap();
            for (recipient, _) in dkg.complaints {
                let right = transcript.open_for(&s.seeds[&dealer], 2, usize::from(recipient)).unwrap();
                let wrong = transcript.open_for(&s.seeds[&dealer], 2, usize::from(recipient ^ 1)).unwrap();
                assert_eq!(s.say(dealer, DkgStep::Open(recipient, wrong.clone())), Err(TxError::BadDkgPackage));
                // what it said there convicts it, and what it says when it opens honestly does not
                let verdict = |s: &Seven, shares: OpenedShares| {
                    let step = DkgStep::Open(recipient, shares);
                    let tx = Tx::Dkg(DkgMessage { epoch: 1, attempt: 0, step });
                    let signed = SignedTx::new(tx, &s.key(dealer), s.w.state.chain());
                    Evidence::BadDeal(crate::codec::encode(&signed)).culprit(&s.w.state)
                };
                assert_eq!(verdict(&s, wrong), Some((dealer, Offence::BadDkgPackage)));
                assert_eq!(verdict(&s, right.clone()), None);
                s.say(dealer, DkgStep::Open(recipient, right)).unwrap();
            }
            assert_eq!(s.dkg().phase, DkgPhase::Done);
            // every member can compute its share from the ledger, the opened ones included
            let transcript = s.w.state.transcript(1, 0, &members).unwrap();
            let (group, beacon) = transcript.keys().unwrap();
            for (i, node) in members.iter().enumerate() {
                let secret = EncryptionSecret::derive(&s.key(*node).secret());
                let (share, partial) = transcript.shares(&s.seeds[node], i, &secret).unwrap();
                assert!(share.belongs_to(&group, *node) && partial.belongs_to(&beacon));
            }
        } else {
            // it may be cut off, and those who complain may lie: nobody is evicted for silence
            s.w.idle(9);
            let left_out = s.w.state.validator(dealer).unwrap();
            assert_eq!((left_out.status, left_out.record.dkg_missed), (ValidatorStatus::Active, 1));
            assert!(!s.dkg().members.contains(&dealer));
            assert_eq!((s.dkg().phase, s.dkg().attempt), (DkgPhase::Deal, 1));
        }
        s.to_done();
        s.hand_over();
    }
}

#[test] // C2, C6, attack 12: wrong steps are refused, false packages convict, and only their signer
fn key_generation_evidence() {
    let mut s = Seven::new();
    s.draw().unwrap();
    let (culprit, other) = (s.dkg().members[0], s.dkg().members[1]);
    let DkgStep::Deal(good) = s.step_of(culprit) else { unreachable!() };
    let DkgStep::Deal(foreign) = s.step_of(other) else { unreachable!() };
    let chain = s.w.state.chain();
    let message = |round1: &Round1| Tx::Dkg(DkgMessage { epoch: 1, attempt: 0, step: DkgStep::Deal(round1.clone()) });
    let signed = |s: &Seven, tx: Tx| SignedTx::new(tx, &s.key(culprit), chain);
    let (a, b) = (signed(&s, message(&good)), signed(&s, message(&foreign)));
    assert_eq!(s.say(culprit, DkgStep::Deal(foreign)), Err(TxError::BadDkgPackage));
    assert_eq!(s.say(culprit, DkgStep::Confirm(vec![])), Err(TxError::WrongDkgStep));
    let outsider = NodeKey::from_secret(&[99; 32]);
    assert_eq!(s.w.block(&[(message(&good), &outsider)]), Err(TxError::NotDrawn));
    let judge = NodeKey::from_secret(&[98; 32]);
    let bytes = |tx: &SignedTx| crate::codec::encode(tx);
    let honest = Tx::Evidence(Evidence::BadDeal(bytes(&a)));
    assert_eq!(s.w.block(&[(honest, &judge)]), Err(TxError::ProvesNothing), "an honest package convicts nobody");
    let same = Tx::Evidence(Evidence::Twice(bytes(&a), bytes(&a)));
    assert_eq!(s.w.block(&[(same, &judge)]), Err(TxError::ProvesNothing));
    let mut forged = b.clone();
    forged.signer = other;
    let framed = Tx::Evidence(Evidence::BadDeal(bytes(&forged)));
    assert_eq!(s.w.block(&[(framed, &judge)]), Err(TxError::ProvesNothing), "nobody is framed");
    let mut copy = s.w.state.clone();
    let twice = SignedTx::new(Tx::Evidence(Evidence::Twice(bytes(&a), bytes(&b))), &judge, chain);
    let at = copy.next(0);
    copy.execute(&twice, at).unwrap();
    assert_eq!(copy.validator(culprit).unwrap().status, ValidatorStatus::Evicted(Offence::EquivocatedStatements));
    s.w.block(&[(Tx::Evidence(Evidence::BadDeal(bytes(&b))), &judge)]).unwrap();
    assert_eq!(s.w.state.validator(culprit).unwrap().status, ValidatorStatus::Evicted(Offence::BadDkgPackage));
    assert!(!s.dkg().members.contains(&culprit) && s.dkg().attempt == 1);
    let again = Tx::Evidence(Evidence::BadDeal(bytes(&b)));
    assert!(s.w.block(&[(again, &judge)]).is_err(), "an attempt that is over convicts nobody twice");
}

#[test] // C1: applicants enter by attestation only, and leave or are removed
fn membership() {
    let mut s = Seven::new();
    let (applicant, key) = (NodeKey::from_secret(&[8; 32]), NodeKey::from_secret(&[1; 32]));
    let encryption = EncryptionSecret::derive(&applicant.secret()).public();
    s.w.block(&[(Tx::Apply(encryption), &applicant)]).unwrap();
    assert_eq!(s.w.block(&[(Tx::Apply(encryption), &applicant)]), Err(TxError::SaidAlready));
    let since = s.w.state.validator(applicant.id()).unwrap().since;
    let admit = Membership::Admit { node: applicant.id(), encryption, since };
    let signature = s.w.attest(Statement::Membership(admit));
    let evict = Membership::Evict { node: applicant.id(), since };
    assert_eq!(s.w.block(&[(Tx::Membership(evict, signature.clone()), &key)]), Err(TxError::WrongStatement));
    let stale = Membership::Admit { node: applicant.id(), encryption, since: since + 1 };
    assert_eq!(s.w.block(&[(Tx::Membership(stale, signature.clone()), &key)]), Err(TxError::WrongStatement));
    let forged = s.w.attest(Statement::Membership(stale));
    assert_eq!(s.w.block(&[(Tx::Membership(admit, forged), &key)]), Err(TxError::NotAttested));
    s.w.block(&[(Tx::Membership(admit, signature), &key)]).unwrap();
    assert_eq!(s.w.state.validator(applicant.id()).unwrap().status, ValidatorStatus::Active);
    assert!(!s.w.state.federation().candidates.contains(&applicant.id()), "candidates are fixed when an epoch begins");
    s.w.block(&[(Tx::Leave, &applicant)]).unwrap();
    assert_eq!(s.w.block(&[(Tx::Leave, &applicant)]), Err(TxError::NoValidator(applicant.id())));
    // a member that leaves keeps its seat until the next committee is ready, which then comes at once
    s.draw().unwrap();
    let member = s.w.state.validators()[0];
    let member_key = s.key(member);
    s.w.block(&[(Tx::Leave, &member_key)]).unwrap();
    assert!(s.w.state.federation().hurry && s.w.state.validators().contains(&member));
    s.to_done();
    s.hand_over();
    assert_eq!(s.w.state.current().number, 1, "without waiting for the epoch's end");
    assert!(!s.w.state.validators().contains(&member));
}

#[test] // checkpoints: only due blocks, only as they are
fn checkpoints_are_of_due_blocks() {
    let mut s = Seven::new();
    let key = NodeKey::from_secret(&[1; 32]);
    s.w.idle(5);
    assert_eq!(s.w.state.due_checkpoint(), None);
    s.w.idle(1);
    let due = s.w.state.due_checkpoint().unwrap();
    assert_eq!(due.height, 5);
    let wrong = Checkpoint { state_root: Digest([0; 32]), ..due };
    let signature = s.w.attest(Statement::Checkpoint(wrong));
    assert_eq!(s.w.block(&[(Tx::Checkpoint(wrong, signature.clone()), &key)]), Err(TxError::WrongStatement));
    assert_eq!(s.w.block(&[(Tx::Checkpoint(due, signature), &key)]), Err(TxError::NotAttested));
    let signature = s.w.attest(Statement::Checkpoint(due));
    s.w.block(&[(Tx::Checkpoint(due, signature.clone()), &key)]).unwrap();
    assert_eq!(s.w.block(&[(Tx::Checkpoint(due, signature.clone()), &key)]), Err(TxError::WrongStatement), "once");
    let chain = EpochChain::new(s.w.state.genesis()).unwrap();
    assert_eq!(chain.attested(&due, &signature).unwrap(), 0);
    assert!(chain.attested(&wrong, &signature).is_err());
    s.w.idle(40);
    assert!(s.w.state.federation().due.len() <= 4, "what nobody attests does not pile up");
}
