use super::*;
use crate::frost::{
    EncryptionSecret, GroupSignature, KeyShare, SignEffect, SignInput, Signer, SignerConfig, deal_preimage,
    dkg_all_local, payload_hash, threshold,
};
use crate::genesis::{BitcoinNetwork, Validator};
use crate::ids::{Beacon, BlobHash, BlobRef, Preimage, Signature};
use crate::keys::NodeKey;
use crate::manifest::Manifest;
use crate::outcome::{Attestation, HeadScores, Outcome, Statement, TestReport};
use crate::score::{ClaimScores, Measurement, Paired, Refusal};
use crate::tx::{self, Commit, Fund, Lock, Reveal, Tx};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

/// A committee of four, a sponsor and three trainers on one ledger.
struct World {
    state: State,
    shares: Vec<Vec<u8>>,
    members: Vec<NodeKey>,
    sponsor: NodeKey,
    trainers: Vec<NodeKey>,
    manifest: Manifest,
    rng: ChaCha20Rng,
}

impl World {
    fn new() -> Self {
        let mut rng = ChaCha20Rng::from_seed([7; 32]);
        let mut members: Vec<NodeKey> = (0..4u8).map(|i| NodeKey::from_secret(&[i + 1; 32])).collect();
        members.sort_by_key(NodeKey::id);
        let nodes: Vec<NodeId> = members.iter().map(NodeKey::id).collect();
        let (group, shares) = dkg_all_local(&nodes, threshold(4), &mut rng).unwrap();
        let genesis = Genesis {
            name: "test".into(),
            bitcoin: BitcoinNetwork::Regtest,
            time_ms: 1,
            block_interval_ms: 100,
            validators: members
                .iter()
                .map(|k| Validator { node: k.id(), encryption: EncryptionSecret::derive(&k.secret()).public() })
                .collect(),
            group_key: crate::codec::encode(&group),
        };
        Self {
            state: State::new(genesis).unwrap(),
            shares: shares.iter().map(|s| s.to_secret_bytes().unwrap().to_vec()).collect(),
            members,
            sponsor: NodeKey::from_secret(&[100; 32]),
            trainers: (0..3u8).map(|i| NodeKey::from_secret(&[110 + i; 32])).collect(),
            manifest: crate::manifest::tests::sample(),
            rng,
        }
    }

    /// One block of these transactions, as every node would apply it.
    fn block(&mut self, txs: &[(Tx, &NodeKey)]) -> Result<(), TxError> {
        let chain = self.state.chain();
        let signed: Vec<SignedTx> = txs.iter().map(|(tx, key)| SignedTx::new(tx.clone(), key, chain)).collect();
        let (block, mut refused) = self.state.build(&signed, self.state.tip().time_ms + 100);
        let before = self.state.clone();
        let entries = self.state.apply(&block).expect("a built block applies");
        // L2, D3: a state restored from the stored entries is the same state
        let mut restored = before;
        entries.into_iter().for_each(|e| restored.restore(Entry::decode(&e.key(), &e.value()).unwrap()));
        assert_eq!(restored.tip(), self.state.tip());
        assert_eq!(restored.build(&[], 10).0, self.state.build(&[], 10).0);
        refused.pop().map_or(Ok(()), |(_, error)| Err(error))
    }

    fn idle(&mut self, blocks: u64) {
        (0..blocks).for_each(|_| self.block(&[]).unwrap());
    }

    /// The committee signs whatever it is given; the rules under test are the ledger's.
    fn attest(&mut self, statement: Statement) -> GroupSignature {
        let attestation = Attestation { chain: self.state.chain(), statement };
        let (topic, payload) = (attestation.topic(), crate::codec::encode(&attestation));
        let mut signers: Vec<Signer> = self
            .members
            .iter()
            .zip(&self.shares)
            .map(|(k, s)| {
                Signer::new(
                    k.id(),
                    self.state.group().clone(),
                    KeyShare::from_secret_bytes(s).unwrap(),
                    SignerConfig::default(),
                )
            })
            .collect();
        let mut queue = std::collections::VecDeque::new();
        for i in 0..signers.len() {
            queue.push_back((i, SignInput::Open { topic, payload: Some(payload.clone()) }));
            queue.push_back((i, SignInput::Approve { topic, payload_hash: payload_hash(&payload) }));
        }
        while let Some((to, input)) = queue.pop_front() {
            for effect in signers[to].handle(input, 1, &mut self.rng) {
                match effect {
                    SignEffect::Broadcast(message) => {
                        let from = self.members[to].id();
                        let others = (0..signers.len()).filter(|i| *i != to);
                        queue.extend(others.map(|i| (i, SignInput::Message { from, message: message.clone() })));
                    }
                    SignEffect::Signed { signature, .. } => return signature,
                    SignEffect::Review { .. } | SignEffect::Blame { .. } => {}
                }
            }
        }
        panic!("no signature");
    }

    fn model(&self) -> ModelId {
        self.manifest.id()
    }

    fn fund(&self) -> Tx {
        Tx::Fund(Fund { model: self.model(), per_claim_msat: 5_000_000, budget_msat: 50_000_000 })
    }

    fn start(&mut self) {
        let (manifest, sponsor) = (self.manifest.clone(), NodeKey::from_secret(&[100; 32]));
        self.block(&[(Tx::AddModel(manifest), &sponsor), (self.fund(), &sponsor)]).unwrap();
    }

    fn reveal_of(&self, trainer: usize) -> Reveal {
        let round = self.state.model(self.model()).unwrap().round.clone().unwrap().number;
        let claim = tx::claim_id(self.model(), round, self.trainers[trainer].id());
        let delta = BlobRef { hash: BlobHash([trainer as u8; 32]), len: 100 };
        Reveal { claim, delta, stated_gain_unat: 7, salt: Digest([3; 32]) }
    }

    fn commit_of(&self, trainer: usize) -> Tx {
        let model = self.state.model(self.model()).unwrap();
        let round = model.round.as_ref().unwrap().number;
        let r = self.reveal_of(trainer);
        let parent = model.head.weights.hash;
        let who = self.trainers[trainer].id();
        let commitment = tx::commitment(who, self.model(), round, parent, r.delta, r.stated_gain_unat, r.salt);
        Tx::Commit(Commit { model: self.model(), round, parent, commitment })
    }

    fn lock_of(&mut self, trainer: usize) -> (Tx, Preimage) {
        let claim = self.reveal_of(trainer).claim;
        let keys: Vec<_> = self.state.genesis().validators.iter().map(|v| v.encryption).collect();
        let (preimage, payment_hash, deal) =
            deal_preimage(&keys, 3, &tx::claim_escrow(claim).0, &mut self.rng).unwrap();
        (Tx::Lock(Lock { claim, amount_msat: 5_000_000, payment_hash, deal }), preimage)
    }

    /// Trainers commit, the sponsor deals, they reveal, the committee seals. Returns the preimages.
    fn to_sealed(&mut self, trainers: &[usize]) -> Vec<Preimage> {
        let keys: Vec<NodeKey> = (0..3u8).map(|i| NodeKey::from_secret(&[110 + i; 32])).collect();
        let sponsor = NodeKey::from_secret(&[100; 32]);
        for t in trainers {
            let tx = self.commit_of(*t);
            self.block(&[(tx, &keys[*t])]).unwrap();
        }
        let mut preimages = Vec::new();
        for t in trainers {
            let (tx, preimage) = self.lock_of(*t);
            preimages.push(preimage);
            self.block(&[(tx, &sponsor)]).unwrap();
        }
        self.idle(3);
        for t in trainers {
            let tx = Tx::Reveal(self.reveal_of(*t));
            self.block(&[(tx, &keys[*t])]).unwrap();
        }
        self.seal();
        preimages
    }

    fn seal(&mut self) {
        let seal = self.state.seal_of(self.model()).unwrap();
        let signature = self.attest(Statement::Seal(seal.clone()));
        let key = NodeKey::from_secret(&[1; 32]);
        self.block(&[(Tx::Seal(seal, signature), &key)]).unwrap();
    }

    /// An outcome with the given trainers honest and the rest measured as noise.
    fn outcome(&self, honest: &[usize]) -> Outcome {
        let model = self.state.model(self.model()).unwrap();
        let round = model.round.clone().unwrap();
        let measured: Vec<_> = round
            .claims
            .iter()
            .map(|c| self.state.claim(*c).unwrap())
            .map(|c| {
                let is_honest = honest.iter().any(|t| self.trainers[*t].id() == c.trainer);
                let m = match (c.reveal.is_some(), is_honest) {
                    (false, _) => Measurement::NotRevealed,
                    (true, true) => Measurement::Scored(scores(60_000)),
                    (true, false) => Measurement::Scored(scores(0)),
                };
                (c.id, c.trainer, m)
            })
            .collect();
        let head = (!honest.is_empty()).then(|| head_scores(10_000));
        Outcome::derive(
            &self.manifest,
            (self.model(), round.number, model.head.weights, round.sealed.unwrap()),
            measured,
            head,
        )
    }

    fn submit(&mut self, outcome: Outcome) -> Result<(), TxError> {
        let signature = self.attest(Statement::Outcome(outcome.clone()));
        let key = NodeKey::from_secret(&[1; 32]);
        self.block(&[(Tx::Outcome(outcome, signature), &key)])
    }
}

fn paired(n: u32, mean: i64) -> Paired {
    let before = vec![3_000_000; n as usize];
    let after: Vec<i64> = (0..n).map(|i| 3_000_000 - mean - if i % 2 == 0 { 2_000 } else { -2_000 }).collect();
    Paired::of(&before, &after).unwrap()
}

fn scores(shard_gain: i64) -> ClaimScores {
    ClaimScores { shard: paired(64, shard_gain), gate: paired(128, 0), probe: paired(128, 100) }
}

fn head_scores(gain: i64) -> HeadScores {
    let test = |correct| TestReport { n: 64, loss_sum_unat: 64_000_000, correct };
    let candidate = BlobRef { hash: BlobHash([0xaa; 32]), len: 400 };
    HeadScores { candidate, confirm: paired(128, gain), parent_test: test(10), candidate_test: test(20) }
}

#[test] // R1-R5, S3, S6, P4, L3: one round from commit to receipt, one honest and one lazy trainer
fn a_round_from_commit_to_receipt() {
    let mut w = World::new();
    w.start();
    let preimages = w.to_sealed(&[0, 1]);
    let outcome = w.outcome(&[0]);
    assert!(outcome.adopted());
    w.submit(outcome.clone()).unwrap();

    let model = w.state.model(w.model()).unwrap();
    assert_eq!(model.head.weights, outcome.new_head());
    assert_eq!(model.round.as_ref().unwrap().number, 2);
    assert_eq!(w.state.credit(w.model(), w.trainers[0].id()).unwrap().credit_unat, outcome.proven_unat);
    assert_eq!(w.state.credit(w.model(), w.trainers[1].id()).unwrap().credit_unat, 0);

    let escrow = |t: usize| tx::claim_escrow(tx::claim_id(w.manifest.id(), 1, w.trainers[t].id()));
    let (paid, refused) = (escrow(0), escrow(1));
    assert_eq!(w.state.escrow(paid).unwrap().status, EscrowStatus::Releasing);
    assert_eq!(w.state.escrow(refused).unwrap().status, EscrowStatus::Refunding);

    let (anyone, sponsor) = (NodeKey::from_secret(&[55; 32]), NodeKey::from_secret(&[100; 32]));
    // P4: a refused claim's preimage is no receipt, and a wrong preimage none for an accepted one
    assert_eq!(w.block(&[(Tx::Settle(refused, preimages[1]), &anyone)]), Err(TxError::WrongEscrowStatus));
    assert_eq!(w.block(&[(Tx::Settle(paid, preimages[1]), &anyone)]), Err(TxError::WrongPreimage));
    assert_eq!(w.block(&[(Tx::Refund(paid), &sponsor)]), Err(TxError::WrongSigner(w.trainers[0].id())));
    assert_eq!(w.block(&[(Tx::Refund(refused), &anyone)]), Err(TxError::WrongSigner(sponsor.id())));
    w.block(&[(Tx::Settle(paid, preimages[0]), &anyone), (Tx::Refund(refused), &sponsor)]).unwrap();
    assert_eq!(w.block(&[(Tx::Settle(paid, preimages[0]), &anyone)]), Err(TxError::WrongEscrowStatus), "settles once");

    let s = w.state.model(w.model()).unwrap().sponsors[0];
    assert_eq!((s.held_msat, s.paid_msat, s.refunded_msat), (0, 5_000_000, 5_000_000));
    w.state.check_invariants([w.model()].into_iter()).unwrap();
}

#[test] // R1
fn commits_are_bound_to_round_head_and_trainer() {
    let mut w = World::new();
    w.start();
    let (t0, t1) = (NodeKey::from_secret(&[110; 32]), NodeKey::from_secret(&[111; 32]));
    let commit = w.commit_of(0);
    let Tx::Commit(c) = &commit else { unreachable!() };
    assert_eq!(w.block(&[(Tx::Commit(Commit { round: 2, ..*c }), &t0)]), Err(TxError::WrongRound(1)));
    let other = BlobHash([1; 32]);
    assert!(matches!(w.block(&[(Tx::Commit(Commit { parent: other, ..*c }), &t0)]), Err(TxError::WrongHead(_))));
    w.block(&[(commit.clone(), &t0)]).unwrap();
    assert_eq!(w.block(&[(commit.clone(), &t0)]), Err(TxError::ClaimExists), "P8: one claim a round");
    // attack 2: another trainer posts the same commitment; it can never open it as its own
    w.block(&[(commit, &t1)]).unwrap();
    let sponsor = NodeKey::from_secret(&[100; 32]);
    let (lock, _) = w.lock_of(1);
    w.block(&[(lock, &sponsor)]).unwrap();
    w.idle(4);
    let mut stolen = w.reveal_of(0);
    stolen.claim = w.reveal_of(1).claim;
    assert_eq!(w.block(&[(Tx::Reveal(stolen), &t1)]), Err(TxError::WrongOpening));
}

#[test] // R2, R3: windows and order
fn reveals_need_a_lock_and_closed_commits() {
    let mut w = World::new();
    w.start();
    let t0 = NodeKey::from_secret(&[110; 32]);
    let sponsor = NodeKey::from_secret(&[100; 32]);
    w.idle(20); // an idle round waits for its first commit
    let commit = w.commit_of(0);
    w.block(&[(commit, &t0)]).unwrap();
    let reveal = Tx::Reveal(w.reveal_of(0));
    assert_eq!(w.block(&[(reveal.clone(), &t0)]), Err(TxError::NotDealt));
    let (lock, _) = w.lock_of(0);
    assert_eq!(w.block(&[(lock.clone(), &t0)]), Err(TxError::NotASponsor));
    w.block(&[(lock.clone(), &sponsor)]).unwrap();
    assert_eq!(w.block(&[(lock, &sponsor)]), Err(TxError::AlreadyDealt));
    w.idle(1);
    assert_eq!(w.block(&[(reveal.clone(), &sponsor)]), Err(TxError::WrongSigner(t0.id())));
    w.idle(10);
    assert!(matches!(w.block(&[(reveal, &t0)]), Err(TxError::Closed(_))), "R3: too late");
    let t1 = NodeKey::from_secret(&[111; 32]);
    let late = w.commit_of(1);
    assert!(matches!(w.block(&[(late, &t1)]), Err(TxError::Closed(_))));
    w.seal();
    let outcome = w.outcome(&[]);
    w.submit(outcome).unwrap();
    assert_eq!(w.state.escrows().next().unwrap().status, EscrowStatus::Refunding, "not revealed: refunded");
}

#[test] // L5, C3, S4: only what the group key attests, and only with right arithmetic, enters
fn outcomes_need_attestation_and_arithmetic() {
    let mut w = World::new();
    w.start();
    w.to_sealed(&[0, 1]);
    let good = w.outcome(&[0]);
    let key = NodeKey::from_secret(&[1; 32]);
    let other = w.outcome(&[1]);
    let wrong_signature = w.attest(Statement::Outcome(other));
    assert_eq!(w.block(&[(Tx::Outcome(good.clone(), wrong_signature), &key)]), Err(TxError::NotAttested));
    let mut greedy = good.clone();
    greedy.proven_unat += 1;
    assert_eq!(w.submit(greedy), Err(TxError::WrongArithmetic));
    let mut lenient = good.clone();
    lenient.claims.iter_mut().for_each(|c| c.verdict = crate::score::Verdict::Accepted);
    assert_eq!(w.submit(lenient), Err(TxError::WrongArithmetic));
    let mut short = good.clone();
    short.claims.pop();
    assert_eq!(w.submit(short), Err(TxError::WrongStatement));
    let mut stale = good.clone();
    stale.sealed = Beacon([0; 32]);
    assert_eq!(w.submit(stale), Err(TxError::WrongStatement));
    w.submit(good.clone()).unwrap();
    assert_eq!(w.submit(good), Err(TxError::WrongRound(2)), "one outcome a round");
}

#[test] // S6: a head that is not better beyond doubt pays nobody
fn an_unproven_head_pays_nobody() {
    let mut w = World::new();
    w.start();
    w.to_sealed(&[0]);
    let proven = w.outcome(&[0]);
    let measured = proven.claims.iter().map(|c| (c.claim, c.trainer, c.measurement)).collect();
    let unproven =
        Outcome::derive(&w.manifest, (w.model(), 1, proven.parent, proven.sealed), measured, Some(head_scores(100)));
    assert_eq!(unproven.claims[0].verdict, crate::score::Verdict::Accepted);
    assert!(!unproven.adopted());
    w.submit(unproven).unwrap();
    assert_eq!(w.state.escrows().next().unwrap().status, EscrowStatus::Refunding);
    assert_eq!(w.state.model(w.model()).unwrap().head.weights, w.manifest.initial_head);
    assert_eq!(w.state.model(w.model()).unwrap().proven_unat, 0);
}

#[test] // S7: a refused delta is judged without evaluation
fn a_refused_delta_is_refunded() {
    let mut w = World::new();
    w.start();
    w.to_sealed(&[2]);
    let base = w.outcome(&[]);
    let measured = base.claims.iter().map(|c| (c.claim, c.trainer, Measurement::Refused(Refusal::NotFinite))).collect();
    let refused = Outcome::derive(&w.manifest, (w.model(), 1, base.parent, base.sealed), measured, None);
    w.submit(refused).unwrap();
    assert_eq!(w.state.escrows().next().unwrap().status, EscrowStatus::Refunding);
}

#[test] // P6, P8: hashes, budgets and amounts
fn money_rules() {
    let mut w = World::new();
    w.start();
    let sponsor = NodeKey::from_secret(&[100; 32]);
    let fund = |budget| Tx::Fund(Fund { model: w.manifest.id(), per_claim_msat: 5_000_000, budget_msat: budget });
    let (same, zero) = (fund(50_000_000), Tx::Fund(Fund { model: w.manifest.id(), per_claim_msat: 0, budget_msat: 5 }));
    assert_eq!(w.block(&[(same, &sponsor)]), Err(TxError::BadAmount), "a replayed promise changes nothing");
    assert_eq!(w.block(&[(zero, &sponsor)]), Err(TxError::BadAmount));
    let keys: Vec<NodeKey> = (0..3u8).map(|i| NodeKey::from_secret(&[110 + i; 32])).collect();
    let (c0, c1) = (w.commit_of(0), w.commit_of(1));
    w.block(&[(c0, &keys[0]), (c1, &keys[1])]).unwrap();
    let (l0, _) = w.lock_of(0);
    let Tx::Lock(l) = l0.clone() else { unreachable!() };
    assert_eq!(
        w.block(&[(Tx::Lock(Lock { amount_msat: 4_999_999, ..l.clone() }), &sponsor)]),
        Err(TxError::WrongAmount(5_000_000))
    );
    w.block(&[(l0, &sponsor)]).unwrap();
    let reused = Lock { claim: w.reveal_of(1).claim, ..l };
    assert_eq!(w.block(&[(Tx::Lock(reused.clone()), &sponsor)]), Err(TxError::PaymentHashReused(reused.payment_hash)));
}

#[test] // L2: a block that lies about anything is refused and changes nothing
fn lying_blocks_are_refused() {
    let mut w = World::new();
    let tip = w.state.tip();
    let chain = w.state.chain();
    let tx = SignedTx::new(Tx::AddModel(w.manifest.clone()), &w.sponsor, chain);
    let (good, _) = w.state.build(std::slice::from_ref(&tx), 50);
    let mut forged = good.clone();
    forged.txs[0].signature = Signature([0; 64]);
    forged.header.txs_root = Block::txs_root(&forged.txs);
    let cases: Vec<(Block, &str)> = vec![
        (
            {
                let mut b = good.clone();
                b.header.height = 2;
                b
            },
            "does not extend",
        ),
        (
            {
                let mut b = good.clone();
                b.header.prev = BlockHash([9; 32]);
                b
            },
            "does not extend",
        ),
        (
            {
                let mut b = good.clone();
                b.header.time_ms = 1;
                b
            },
            "not later",
        ),
        (
            {
                let mut b = good.clone();
                b.header.state_root = Digest([0; 32]);
                b
            },
            "state root",
        ),
        (
            {
                let mut b = good.clone();
                b.txs.clear();
                b
            },
            "other transactions",
        ),
        (
            {
                let mut b = good.clone();
                b.header.chain = ChainId([0; 32]);
                b
            },
            "another network",
        ),
        (forged, "signature"),
    ];
    for (block, why) in cases {
        let error = w.state.apply(&block).unwrap_err().to_string();
        assert!(error.contains(why), "{error} / {why}");
        assert_eq!(w.state.tip(), tip);
    }
    w.state.apply(&good).unwrap();
}
