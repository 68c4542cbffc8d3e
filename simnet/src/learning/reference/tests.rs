use super::*;
use oda_consensus::ids::Digest;
use oda_consensus::outcome::Outcome;
use oda_consensus::score::{Measurement, Verdict, excess_z_milli};
use oda_consensus::tx::{Reveal, claim_id};

const TIMING: Timing = Timing { commit_blocks: 4, linger_blocks: 2, reveal_blocks: 6 };

struct Stage {
    learning: Reference,
    manifest: Manifest,
    head: BlobRef,
    round: u64,
    start: Beacon,
}

fn trainer(n: u8) -> NodeId {
    NodeId([n; 32])
}

impl Stage {
    fn new() -> Self {
        let mut learning = Reference::open().unwrap();
        let manifest = learning.manifest("linear", TIMING);
        manifest.check().unwrap();
        Self { learning, head: manifest.initial_head, manifest, round: 1, start: Beacon([3; 32]) }
    }

    fn train(&mut self, who: u8, work: &Work) -> Made {
        let (model, manifest) = (self.manifest.id(), self.manifest.clone());
        let job = TrainJob { model, manifest, round: self.round, head: self.head, start: self.start };
        self.learning.train(&job, trainer(who), work)
    }

    fn job(&self, made: &[(u8, Made)]) -> JudgeJob {
        let claims = made.iter().map(|(who, made)| {
            let claim = claim_id(self.manifest.id(), self.round, trainer(*who));
            let (delta, stated_gain_unat) = (made.delta, made.stated_gain_unat);
            (claim, trainer(*who), Some(Reveal { claim, delta, stated_gain_unat, salt: Digest([0; 32]) }))
        });
        JudgeJob {
            model: self.manifest.id(),
            manifest: self.manifest.clone(),
            round: self.round,
            start: self.start,
            sealed: self.start.next(b"seal"),
            parent: self.head,
            claims: claims.collect(),
            guard_key: None,
            attempt: 0,
        }
    }

    fn judge(&mut self, made: &[(u8, Made)]) -> Outcome {
        let job = self.job(made);
        let judged = self.learning.replay(&job, &|_| true, 1);
        let name = (job.model, job.round, job.parent, job.sealed);
        let outcome = Outcome::derive(&self.manifest, name, judged.measured);
        assert!(outcome.is_consistent(&self.manifest), "the ledger would refuse this");
        for c in &outcome.claims {
            if let Measurement::Scored(s) = c.measurement {
                let (z, norm) = (excess_z_milli(&s.shard, &s.gate), s.norm_micro);
                let (shard, gate) = (s.shard.mean_unat(), s.gate.mean_unat());
                println!("{:3} {:?}: z {z}, shard {shard}, gate {gate}, norm {norm}", c.trainer.0[0], c.verdict);
            }
        }
        outcome
    }

    fn round(&mut self, works: &[(u8, Work)]) -> (Outcome, BTreeMap<u8, Verdict>) {
        let made: Vec<(u8, Made)> = works.iter().map(|(who, work)| (*who, self.train(*who, work))).collect();
        let outcome = self.judge(&made);
        let verdicts = outcome.claims.iter().map(|c| (c.trainer.0[0], c.verdict)).collect();
        (outcome, verdicts)
    }

    fn loss(&self) -> f64 {
        self.learning.true_loss(self.manifest.id(), self.head.hash)
    }
}

#[test] // S4, S7: three real rounds; honest work is accepted and learns, everything else is refused for its reason
fn honest_work_learns_and_the_rest_is_refused() {
    let mut stage = Stage::new();
    let mut fell = vec![stage.loss()];
    for round in 1..=3 {
        let of = stage.train(1, &Work::Honest).delta.hash;
        let works = [
            (1, Work::Honest),
            (2, Work::Honest),
            (3, Work::Honest),
            (11, Work::Noise),
            (12, Work::Copy { of }),
            (13, Work::Flipped),
            (14, Work::Foreign),
            (15, Work::Part { milli: 50 }),
            (16, Work::NoisyCopy { of }),
            (17, Work::Inflated { milli: 40_000 }),
            (18, Work::Malformed),
            (19, Work::Oversize),
            (20, Work::WrongShape),
            (21, Work::Huge),
        ];
        let (outcome, verdicts) = stage.round(&works);
        for honest in 1..=3 {
            assert_eq!(verdicts[&honest], Verdict::Accepted, "round {round}: trainer {honest}");
        }
        assert!((11..=17).all(|cheat| verdicts[&cheat] != Verdict::Accepted), "round {round}: {verdicts:?}");
        assert_eq!(verdicts[&17], Verdict::Refused(Refusal::NormAboveCap));
        assert_eq!(verdicts[&18], Verdict::Refused(Refusal::Malformed));
        assert_eq!(verdicts[&19], Verdict::Refused(Refusal::Oversize));
        assert_eq!(verdicts[&20], Verdict::Refused(Refusal::WrongShape));
        assert_eq!(verdicts[&21], Verdict::Refused(Refusal::NormAboveCap));
        assert!(outcome.adopted(), "round {round}");
        (stage.head, stage.start, stage.round) = (outcome.new_head(), outcome.next_beacon(), round + 1);
        fell.push(stage.loss());
    }
    println!("loss on fresh data: {fell:.3?}");
    assert!(fell.is_sorted_by(|a, b| a > b), "{fell:?}");
}

#[test] // S4: not by luck of one draw
fn honest_claims_are_accepted_under_other_beacons() {
    let (mut stage, mut accepted) = (Stage::new(), 0);
    for beacon in 20..26 {
        stage.start = Beacon([beacon; 32]);
        let (outcome, verdicts) = stage.round(&[(1, Work::Honest), (2, Work::Honest), (3, Work::Honest)]);
        assert!(outcome.adopted());
        accepted += verdicts.values().filter(|v| **v == Verdict::Accepted).count();
    }
    assert!(accepted >= 17, "{accepted} of 18");
}

#[test] // attacks 4, 5, 6: what is made of others' work, and the back door
fn derived_work_earns_nothing() {
    let mut stage = Stage::new();
    let (a, b) = (stage.train(1, &Work::Honest).delta.hash, stage.train(2, &Work::Honest).delta.hash);
    let honest = |who| (who, Work::Honest);
    let works = [
        honest(1),
        honest(2),
        honest(3),
        (11, Work::Slice { of: a, part: 1, parts: 4 }),
        (12, Work::Average { of: vec![a, b] }),
        (13, Work::Tuned { of: a, milli: 50 }),
        (14, Work::Pool),
        (15, Work::Hurried { milli: 50 }),
    ];
    let (_, verdicts) = stage.round(&works);
    assert!([11, 12, 13].iter().all(|cheat| verdicts[cheat] != Verdict::Accepted), "{verdicts:?}");
    let (outcome, verdicts) = stage.round(&[(1, Work::Backdoor), honest(2), honest(3)]);
    assert!(verdicts[&1] != Verdict::Accepted || !outcome.adopted(), "{verdicts:?}");
    let (outcome, _) = stage.round(&[honest(1), honest(2), honest(3)]);
    assert!(outcome.adopted());
}

#[test] // R3, R5: who cannot fetch a delta measures the rest; who can, the same as everybody
fn what_is_not_served_is_left_out() {
    let mut stage = Stage::new();
    let made: Vec<(u8, Made)> = (1..=2).map(|who| (who, stage.train(who, &Work::Honest))).collect();
    assert_eq!(made[0].1, stage.train(1, &Work::Honest), "training repeats");
    let (job, hidden) = (stage.job(&made), made[1].1.delta.hash);
    let all = stage.learning.replay(&job, &|_| true, 1);
    assert_eq!(all.measured, stage.learning.replay(&job, &|_| true, 2).measured);
    let some = stage.learning.replay(&job, &|blob| blob != hidden, 1);
    let refused = some.measured.claims.iter().filter(|c| c.2 == Measurement::Refused(Refusal::NotServed)).count();
    assert_eq!(refused, 1);
    assert_ne!(some.measured.head, all.measured.head);
}

#[test]
fn missing_data_is_named_with_its_cure() {
    let Err(error) = Reference::with(Path::new("no/such/model.toml")) else { panic!("read a file that is not there") };
    assert!(error.to_string().contains("git checkout -- data/fashion-mnist"), "{error}");
}
