//! The rules of this crate on the shipped model: S2, S3, S4, S6, S7 and D1 with real data, real training
//! and real cheats. A judge that accepts everything, or nothing, fails here.

use oda_consensus::ids::{Beacon, BlobRef, NodeId};
use oda_ml::{judge, model_file, weights};
use std::path::{Path, PathBuf};

/// Hash of the shipped model's initial head: another value is another model.
const INITIAL_HEAD: &str = "2abd02ad12a021a98a8be950c90d400ab6afd3284355a752eeb6ec49be0b521e";

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/fashion-mnist.toml")
}

fn bundle() -> model_file::Bundle {
    model_file::load(&shipped(), None).unwrap()
}

#[test] // D1: every blob is the one its signed reference promises, by hash and size
fn blobs_match_their_references() {
    let b = bundle();
    let mut promised = b.manifest.blobs();
    promised.sort();
    promised.dedup();
    let mut brought: Vec<BlobRef> = b.blobs.iter().map(|bytes| BlobRef::of(bytes)).collect();
    brought.sort();
    assert_eq!(promised, brought);
}

#[test] // S6: weights have one encoding, and the initial head is the same on every machine
fn weights_are_canonical() {
    let b = bundle();
    let m = &b.manifest;
    let head = b.blobs.last().unwrap();
    let flat = weights::from_bytes(m, head).unwrap();
    assert_eq!(flat.len() as u64, m.parameters());
    assert_eq!(&weights::to_bytes(m, &flat).unwrap(), head);
    assert_eq!(m.initial_head.hash.to_string(), INITIAL_HEAD);
}

#[test] // S3: gate and confirm are disjoint, and samples are bound to trainer, round and beacon
fn samples_are_disjoint_and_bound() {
    let b = bundle();
    let (m, id) = (&b.manifest, b.manifest.id());
    let (gate, confirm) = judge::gate_and_confirm(m, id, 1, Beacon([1; 32]));
    assert_eq!((gate.len(), confirm.len()), (m.judging.gate_samples as usize, m.judging.confirm_samples as usize));
    assert!(gate.iter().all(|i| !confirm.contains(i)));
    let shard = |round, beacon, who| judge::shard(m, id, round, Beacon([beacon; 32]), NodeId([who; 32]));
    let one = shard(1, 1, 1);
    assert_eq!(one.len(), m.judging.shard_samples as usize);
    assert!([shard(2, 1, 1), shard(1, 2, 1), shard(1, 1, 2)].iter().all(|other| *other != one));
}

#[cfg(feature = "torch")]
mod torch {
    use super::*;
    use oda_consensus::delta;
    use oda_consensus::ids::ClaimId;
    use oda_consensus::manifest::{Guard, Manifest, WorkMode};
    use oda_consensus::outcome::{Measured, Outcome};
    use oda_consensus::score::{Measurement, Refusal, Verdict, proven_gain_unat};
    use oda_ml::cheat::{self, Cheat};
    use oda_ml::compress::compress;
    use oda_ml::judge::{Claim, Round, RoundResult, Submitted};
    use oda_ml::torch::Torch;
    use oda_ml::{Backend as _, Inner, ModelData, Work};
    use std::sync::atomic::AtomicBool;

    const BEACON: Beacon = Beacon([5; 32]);

    fn who(n: u8) -> NodeId {
        NodeId([n; 32])
    }

    /// The model at its first head, with its data.
    struct World {
        manifest: Manifest,
        data: ModelData,
        parent: Vec<u8>,
        head: Vec<f32>,
    }

    impl World {
        fn new() -> Self {
            let b = bundle();
            let (data, parent) = (b.data().unwrap(), b.blobs.last().unwrap().clone());
            let head = weights::from_bytes(&b.manifest, &parent).unwrap();
            Self { manifest: b.manifest, data, parent, head }
        }

        /// Work on the shard of `owner` from some weights on, as its dense change.
        fn work_from(&self, head: &[f32], owner: NodeId, steps: u32) -> Vec<f32> {
            let m = &self.manifest;
            let indices = judge::shard(m, m.id(), 1, BEACON, owner);
            let work = Work { manifest: m, head, data: &self.data.train, indices: &indices, steps, seed: [3; 32] };
            Torch::default().train(&work, &mut Inner::new(head.len()), &AtomicBool::new(false), &mut |_| {}).unwrap()
        }

        fn work(&self, owner: NodeId, steps: u32) -> Vec<f32> {
            self.work_from(&self.head, owner, steps)
        }

        fn steps(&self) -> u32 {
            self.manifest.training.inner_steps
        }

        /// A claim of trainer `n`; claims keep the order of their trainers.
        fn claim(&self, n: u8, dense: &[f32]) -> Claim {
            self.stating(n, dense, 1_000_000)
        }

        fn stating(&self, n: u8, dense: &[f32], stated_unat: i64) -> Claim {
            let bytes = compress(dense, &self.manifest.training);
            Claim { id: ClaimId([n; 32]), trainer: who(n), submitted: Submitted::Delta { bytes, stated_unat } }
        }

        fn replay(&self, claims: Vec<Claim>) -> RoundResult {
            // the shards were drawn for the model as shipped, whatever figure of it a test turns
            let (m, model) = (&self.manifest, bundle().manifest.id());
            let (sealed, parent, data) = (BEACON.next(b"seal"), &self.parent, &self.data);
            let r = Round { manifest: m, model, round: 1, start: BEACON, sealed, parent, data };
            judge::replay(&Torch::default(), &r, claims).unwrap()
        }

        fn outcome(&self, measured: Measured) -> Outcome {
            let m = &self.manifest;
            let name = (m.id(), 1, m.initial_head, BEACON.next(b"seal"));
            let outcome = Outcome::derive(m, name, measured);
            assert!(outcome.is_consistent(m), "a replay gives what the ledger takes");
            outcome
        }

        fn verdicts(&self, claims: Vec<Claim>) -> Vec<Verdict> {
            self.outcome(self.replay(claims).measured).claims.iter().map(|c| c.verdict).collect()
        }
    }

    #[test] // S4, S6, S7: two honest claims among every cheat; each cheat is refused for its own reason
    fn honest_work_is_adopted_and_every_cheat_refused() {
        let w = World::new();
        let (m, steps) = (&w.manifest, w.steps());
        let honest = || vec![w.claim(1, &w.work(who(1), steps)), w.claim(2, &w.work(who(2), steps))];
        let without = |n: u8, submitted| Claim { id: ClaimId([n; 32]), trainer: who(n), submitted };
        let malformed = |n: u8, kind| {
            let bytes = cheat::malformed(kind, m).unwrap();
            without(n, Submitted::Delta { bytes, stated_unat: 1 })
        };
        let poison: Vec<f32> = w.work(who(4), steps).iter().map(|v| -v).collect();
        let mut claims = honest();
        claims.extend([
            w.claim(3, &cheat::random(w.head.len(), 0.02, [9; 32])),
            w.claim(4, &poison),
            w.claim(5, &w.work(who(5), 1)),
            w.claim(6, &w.work(who(99), steps)),  // another's shard
            w.claim(7, &vec![0.0; w.head.len()]), // vacuous
            malformed(8, Cheat::WrongShape),
            malformed(9, Cheat::Garbage),
            malformed(10, Cheat::Oversize),
            without(11, Submitted::NotRevealed),
            without(12, Submitted::Refused(Refusal::NotServed)),
            Claim { id: ClaimId([13; 32]), trainer: who(13), ..honest()[0].clone() }, // attack 2: stolen bytes
        ]);
        let result = w.replay(claims.clone());
        let outcome = w.outcome(result.measured.clone());
        let verdicts: Vec<Verdict> = outcome.claims.iter().map(|c| c.verdict).collect();
        assert_eq!(verdicts[..2], [Verdict::Accepted; 2]);
        assert_eq!(verdicts[2..7], [Verdict::NotAssignedWork; 5]);
        for (verdict, kind) in verdicts[7..10].iter().zip([Cheat::WrongShape, Cheat::Garbage, Cheat::Oversize]) {
            assert!(matches!(verdict, Verdict::Refused(_)), "{kind:?}: {verdict:?}");
        }
        assert_eq!(verdicts[10..12], [Verdict::NotRevealed, Verdict::Refused(Refusal::NotServed)]);
        assert_eq!(verdicts[12], Verdict::NotAssignedWork);

        // an empty change measures as exactly nothing, not as a small something
        let Measurement::Scored(nothing) = outcome.claims[6].measurement else { panic!("not scored") };
        assert_eq!((nothing.shard.sum_unat, nothing.gate.sum_unat, nothing.probe), (0, 0, None));

        let scores = outcome.head.as_ref().unwrap();
        assert_eq!(outcome.proven_unat, proven_gain_unat(m, scores));
        assert!(outcome.adopted());
        assert!(scores.candidate_test.correct > scores.parent_test.correct + 400);
        // S4: the sponsor never pays for more than is proven
        assert_eq!(outcome.claims.iter().map(|c| c.credit_unat).sum::<u64>(), outcome.proven_unat);
        let bytes = result.candidate.unwrap();
        assert_eq!(BlobRef::of(&bytes), scores.candidate);
        weights::from_bytes(m, &bytes).unwrap();

        // refused claims leave no trace in the head, and a second replay finds the same integers
        let alone = w.replay(honest());
        assert_eq!(alone.candidate.unwrap(), bytes);
        assert_eq!(w.replay(claims).measured, result.measured);
    }

    #[test] // attack 3: with nobody honest there is no candidate at all
    fn a_round_of_cheats_moves_nothing() {
        let w = World::new();
        let result = w.replay(vec![w.claim(1, &cheat::random(w.head.len(), 0.02, [1; 32]))]);
        assert!(result.measured.head.is_none() && result.candidate.is_none());
    }

    #[test] // S4, attack 3: the assigned-work test is what stops foreign work
    fn without_the_assigned_work_test_foreign_work_passes() {
        let mut w = World::new();
        let claims = vec![w.claim(1, &w.work(who(1), w.steps())), w.claim(2, &w.work(who(99), w.steps()))];
        assert_eq!(w.verdicts(claims.clone()), [Verdict::Accepted, Verdict::NotAssignedWork]);
        w.manifest.judging.assigned_z_milli = 0;
        let lucky = (1..=8).any(|seal| {
            // half of all foreign claims are ahead by chance: some shard of eight
            let claims = vec![w.claim(seal + 10, &w.work(who(99), w.steps()))];
            w.verdicts(claims) == [Verdict::Accepted]
        });
        assert!(lucky, "nothing else refuses it");
    }

    #[test] // S4, attack 5: one run under two names counts once; switched off, it counts twice
    fn near_copies_count_as_one() {
        let mut w = World::new();
        let common = w.work(who(1), w.steps());
        let half: Vec<f32> = w.head.iter().zip(&common).map(|(h, d)| h + d).collect();
        // the second name tunes the common run on its own shard for a third of the work
        let tuned: Vec<f32> =
            w.work_from(&half, who(2), w.steps() / 3).iter().zip(&common).map(|(t, c)| t + c).collect();
        let claims = vec![w.claim(1, &common), w.claim(2, &tuned), w.claim(3, &w.work(who(3), w.steps()))];
        let verdicts = w.verdicts(claims.clone());
        assert_eq!(
            verdicts,
            [Verdict::Accepted, Verdict::NearCopy, Verdict::Accepted],
            "{:?}",
            w.replay(claims.clone()).measured
        );
        assert_eq!(w.replay(claims.clone()).measured.twins.len(), 1);
        (w.manifest.judging.copy_cosine_milli, w.manifest.judging.least_work_milli) = (1000, 0);
        assert_eq!(w.verdicts(claims), [Verdict::Accepted; 3], "nothing else notices");
    }

    #[test] // S4: stopping early saves work and changes no verdict
    fn screening_changes_no_verdict() {
        let mut w = World::new();
        let claims = || {
            let mut claims = vec![w.claim(1, &w.work(who(1), w.steps()))];
            claims.extend((2..8).map(|n| w.claim(n, &w.work(who(90 + n), w.steps()))));
            claims.push(w.claim(8, &cheat::random(w.head.len(), 0.02, [9; 32])));
            claims
        };
        assert!(w.manifest.judging.screen_samples > 0, "the shipped model screens");
        let claims = claims();
        let screened = w.replay(claims.clone());
        let stopped = screened
            .measured
            .claims
            .iter()
            .filter(|(.., m)| matches!(m, Measurement::Scored(s) if s.gate.n == w.manifest.judging.screen_samples));
        assert!(stopped.count() > 0, "nothing was stopped early");
        let with = w.verdicts(claims.clone());
        w.manifest.judging.screen_samples = 0;
        assert_eq!(with, w.verdicts(claims));
    }

    #[test] // S4, free mode, attack 10: whoever states more than it adds gets nothing, a copy adds nothing
    fn free_mode_takes_improvements_in_the_order_of_their_word() {
        let mut w = World::new();
        w.manifest.work_mode = WorkMode::Free;
        let (one, other) = (w.work(who(1), w.steps()), w.work(who(2), w.steps()));
        let claims = vec![
            w.stating(1, &one, 600_000),
            w.stating(2, &one, 599_999),               // the same again
            w.stating(3, &other, 90_000_000),          // boasts
            w.stating(4, &vec![0.0; w.head.len()], 1), // adds nothing
            w.stating(5, &other, -1),
        ];
        let result = w.replay(claims);
        let outcome = w.outcome(result.measured);
        let verdicts: Vec<Verdict> = outcome.claims.iter().map(|c| c.verdict).collect();
        let mut expected = [Verdict::BelowStated; 5];
        expected[0] = Verdict::Accepted;
        assert_eq!(verdicts, expected);
        assert_eq!((outcome.proven_unat, outcome.claims[0].credit_unat), (600_000, 600_000));
        // S6: the head of a free round is the parent with the accepted steps taken whole
        let delta = delta::decode(
            &compress(&one, &w.manifest.training),
            w.head.len(),
            &w.manifest.training,
            &w.manifest.judging,
        );
        let head = weights::to_bytes(&w.manifest, &delta.unwrap().applied(&w.head, 1.0)).unwrap();
        assert_eq!(result.candidate.unwrap(), head);
    }

    #[test] // S6, attack 4: a head that forgets a guard slice is not adopted
    fn a_guard_slice_is_measured() {
        let mut w = World::new();
        // before the manifest changes, on the shard of the model as shipped
        let claims = vec![w.claim(1, &w.work(who(1), w.steps()))];
        let b = bundle();
        // a slice whose classes are all wrong: whatever is learned makes it worse
        let batch = w.data.test.batch(&(0..200).collect::<Vec<_>>()).unwrap();
        let oda_ml::Batch::Bytes { inputs, classes } = batch else { panic!("images") };
        let wrong: Vec<u8> = classes.iter().map(|c| (c + 1) % 10).collect();
        let blob = oda_ml::data::byte_rows(784, &inputs, &wrong).unwrap();
        let split = oda_consensus::manifest::Split { blob: BlobRef::of(&blob), samples: 200 };
        let shape = b.manifest.architecture.sample();
        w.data.guards = vec![Some(oda_ml::Dataset::from_bytes(blob, shape, 200).unwrap())];
        w.manifest.data.guards = vec![Guard { name: "wrong".into(), split, sealed: None }];
        let guarded = w.outcome(w.replay(claims.clone()).measured);
        assert_eq!(guarded.claims[0].verdict, Verdict::Accepted);
        assert!(guarded.head.is_some() && !guarded.adopted());
        w.manifest.data.guards = vec![];
        let opened = std::mem::take(&mut w.data.guards);
        assert!(w.outcome(w.replay(claims.clone()).measured).adopted(), "nothing else stops it");

        // S3: sealed, the same slice stops it where it is opened, and is skipped where it is not
        let guard = Guard { name: "wrong".into(), split, sealed: Some(split.blob) };
        w.manifest.data.guards = vec![guard];
        w.data.guards = opened;
        let stopped = w.outcome(w.replay(claims.clone()).measured);
        assert!(!stopped.adopted() && stopped.fits_sealed(&w.manifest, true));
        assert_eq!(stopped.head, guarded.head, "measured as any other guard");
        w.data.guards = vec![None];
        let skipped = w.outcome(w.replay(claims).measured);
        assert!(skipped.adopted() && skipped.fits_sealed(&w.manifest, false));
        assert!(!skipped.fits_sealed(&w.manifest, true) && !stopped.fits_sealed(&w.manifest, false));
    }
}
