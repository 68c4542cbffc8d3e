//! S2, S4, S5, S6 on made-up measurements.

use super::*;
use crate::fuzzing::sample_manifest;
use crate::ids::BlobRef;
use crate::manifest::{Guard, Judging, Manifest, Split, WorkMode};
use proptest::prelude::*;

/// Norm of a delta, where it does not matter.
const NORM: u64 = 1_000_000;

fn manifest() -> Manifest {
    sample_manifest("scores")
}

fn verdict(judging: &Judging, measurement: &Measurement) -> Verdict {
    own_verdict(WorkMode::Assigned, judging, measurement)
}

fn head(confirm: Paired) -> HeadScores {
    let test = TestReport { n: 64, loss_sum_unat: 1, correct: 0 };
    let candidate = BlobRef::of(b"candidate");
    HeadScores { candidate, confirm, guards: Vec::new(), parent_test: test, candidate_test: test }
}

fn proven(confirm: Paired) -> u64 {
    proven_gain_unat(&manifest(), &head(confirm))
}

fn judging() -> Judging {
    manifest().judging
}

/// `n` differences with this mean and an alternating spread around it.
fn paired(n: u32, mean_unat: i64, spread_unat: i64) -> Paired {
    let before = vec![50_000_000; n as usize];
    let after: Vec<i64> =
        (0..n).map(|i| 50_000_000 - mean_unat - if i % 2 == 0 { spread_unat } else { -spread_unat }).collect();
    Paired::of(&before, &after).unwrap()
}

/// Measured as far as a replay goes.
fn scored(shard: Paired, gate: Paired, probe: Paired) -> Measurement {
    let probe = is_assigned_work(&judging(), &shard, &gate).then_some(probe);
    Measurement::Scored(ClaimScores { shard, gate, probe, norm_micro: NORM })
}

#[test] // S4: assigned work, with its noise, is accepted; the same gain everywhere is not
fn assigned_work_is_told_from_other_work() {
    let j = judging();
    let (gate, probe) = (paired(128, 10_000, 40_000), paired(128, 2_000, 5_000));
    assert_eq!(verdict(&j, &scored(paired(64, 60_000, 40_000), gate, probe)), Verdict::Accepted);
    assert_eq!(verdict(&j, &scored(paired(64, 12_000, 40_000), gate, probe)), Verdict::NotAssignedWork);
}

#[test] // S4, attack 4
fn harm_at_the_probe_step_is_refused_but_noise_is_not() {
    let j = judging();
    let (shard, gate) = (paired(64, 60_000, 40_000), paired(128, 0, 40_000));
    assert_eq!(verdict(&j, &scored(shard, gate, paired(128, -2_000, 5_000))), Verdict::Harmful);
    assert_eq!(verdict(&j, &scored(shard, gate, paired(128, -500, 5_000))), Verdict::Accepted);
}

#[test] // the vacuous verifier: empty, all-zero and impossible measurements fail
fn vacuous_measurements_fail() {
    let j = judging();
    let zero = |n| Paired { n, sum_unat: 0, sum_sq_unat2: 0 };
    assert_eq!(verdict(&j, &scored(zero(64), zero(128), zero(128))), Verdict::NotAssignedWork);
    assert_eq!(verdict(&j, &scored(zero(0), zero(0), zero(0))), Verdict::BadMeasurement);
    let impossible = Paired { n: 64, sum_unat: 1 << 30, sum_sq_unat2: 0 };
    assert_eq!(verdict(&j, &scored(impossible, zero(128), zero(128))), Verdict::BadMeasurement);
    assert_eq!(verdict(&j, &Measurement::Refused(Refusal::Malformed)), Verdict::Refused(Refusal::Malformed));
    assert_eq!(verdict(&j, &Measurement::NotRevealed), Verdict::NotRevealed);
}

#[test] // S6
fn only_a_gain_beyond_doubt_is_proven() {
    assert_eq!(proven(paired(128, -1_000, 100)), 0);
    assert_eq!(proven(paired(128, 1_000, 100_000)), 0);
    let gain = proven(paired(128, 10_000, 5_000));
    // 10000 - 2.33 * 5000 / sqrt(127) = 8966.2
    assert!((8_960..8_970).contains(&gain), "{gain}");
    assert_eq!(proven(paired(64, 10_000, 5_000)), 0, "wrong sample size");
}

#[test] // S6, attack 4: better on the whole but worse on a guard slice is not adopted
fn a_guard_slice_stops_a_head() {
    let mut m = manifest();
    m.data.guards = vec![Guard { name: "slice".into(), split: Split { samples: 128, ..m.data.test }, sealed: None }];
    let with = |guards: Vec<Paired>| proven_gain_unat(&m, &HeadScores { guards, ..head(paired(128, 10_000, 5_000)) });
    assert!(with(vec![paired(128, 0, 5_000)]) > 0);
    assert!(with(vec![paired(128, -500, 5_000)]) > 0, "worse, but not beyond doubt");
    assert_eq!(with(vec![paired(128, -5_000, 5_000)]), 0);
    assert_eq!(with(vec![]), 0, "not measured");
    assert_eq!(with(vec![paired(64, 0, 5_000)]), 0, "measured on too few");
}

#[test] // S3: a sealed guard stops a head like any other, and alone may be skipped, whole
fn a_sealed_guard_may_be_skipped() {
    let mut m = manifest();
    let split = Split { samples: 128, ..m.data.test };
    m.data.guards = vec![Guard { name: "sealed".into(), split, sealed: Some(m.data.test.blob) }];
    let good = || head(paired(128, 10_000, 5_000));
    let with = |m: &Manifest, guard| proven_gain_unat(m, &HeadScores { guards: vec![guard], ..good() });
    assert!(with(&m, Paired::SKIPPED) > 0);
    assert!(with(&m, paired(128, 0, 5_000)) > 0);
    assert_eq!(with(&m, paired(128, -5_000, 5_000)), 0);
    assert_eq!(with(&m, paired(64, 0, 5_000)), 0, "measured on too few");
    assert_eq!(with(&m, Paired { sum_unat: 1, ..Paired::SKIPPED }), 0, "a gain on nothing");
    m.data.guards[0].sealed = None;
    assert_eq!(with(&m, Paired::SKIPPED), 0, "an open guard is always measured");
}

#[test] // S4: measured no further than the verdict needs, and exactly as far
fn what_is_measured_follows_from_what_was_measured() {
    let mut j = judging();
    j.screen_samples = 64;
    let verdict =
        |shard, gate, probe| verdict(&j, &Measurement::Scored(ClaimScores { shard, gate, probe, norm_micro: NORM }));
    let (good, bad) = (paired(64, 60_000, 40_000), paired(64, -60_000, 40_000));
    let (whole, part, probe) = (paired(128, 0, 40_000), paired(64, 0, 40_000), paired(128, 100, 1_000));
    assert!(hopeless(&j, &bad, &part) && !hopeless(&j, &good, &part));
    assert_eq!(verdict(bad, part, None), Verdict::NotAssignedWork);
    assert_eq!(verdict(bad, whole, None), Verdict::NotAssignedWork);
    assert_eq!(verdict(good, whole, Some(probe)), Verdict::Accepted);
    assert_eq!(verdict(good, part, None), Verdict::BadMeasurement, "stopped too early");
    assert_eq!(verdict(good, whole, None), Verdict::BadMeasurement, "the probe is missing");
    assert_eq!(verdict(bad, whole, Some(probe)), Verdict::BadMeasurement, "nothing to probe");
    j.screen_samples = 0;
    assert_eq!(
        own_verdict(
            WorkMode::Assigned,
            &j,
            &Measurement::Scored(ClaimScores { shard: bad, gate: part, probe: None, norm_micro: NORM })
        ),
        Verdict::BadMeasurement
    );
}

#[test] // attack 5: of near-copies the first counts, also through a third
fn near_copies_count_as_one() {
    let j = judging();
    let (shard, gate, probe) = (paired(64, 60_000, 40_000), paired(128, 0, 40_000), paired(128, 100, 1_000));
    let (good, lazy) = (scored(shard, gate, probe), scored(gate_like(64), gate, probe));
    let measured = [good, good, lazy, good, good];
    let twin = |a, b| Twin { a, b, cosine_milli: 900 };
    let judge = |twins: &[Twin]| verdicts(WorkMode::Assigned, &j, &measured, twins);
    use Verdict::{Accepted as A, NearCopy as C, NotAssignedWork as N};
    assert_eq!(judge(&[]), [A, A, N, A, A]);
    assert_eq!(judge(&[twin(1, 4)]), [A, A, N, A, C]);
    assert_eq!(judge(&[twin(0, 4), twin(3, 4)]), [A, A, N, C, C]);
    assert_eq!(judge(&[twin(0, 3), twin(1, 4), twin(3, 4)]), [A, C, N, C, C]);
    let fits = |twins: &[Twin]| twins_are_canonical(WorkMode::Assigned, &j, &measured, twins);
    assert!(fits(&[twin(0, 4), twin(3, 4)]));
    assert!(!fits(&[twin(3, 4), twin(0, 4)]) && !fits(&[twin(0, 1), twin(0, 1)]), "in order, once");
    assert!(!fits(&[twin(1, 0)]) && !fits(&[twin(0, 0)]) && !fits(&[twin(0, 2)]) && !fits(&[twin(0, 9)]));
    assert!(!fits(&[Twin { a: 0, b: 1, cosine_milli: 799 }]) && !fits(&[Twin { a: 0, b: 1, cosine_milli: 1001 }]));
}

fn gate_like(n: u32) -> Paired {
    paired(n, 0, 40_000)
}

#[test] // S4, attacks 3 and 10: a part of the work is not paid, nor is one made larger; switched off, both are
fn a_part_of_the_work_is_refused_however_large_it_is_made() {
    let mut j = judging();
    let of = |gain: i64, norm_micro: u64| {
        let (shard, gate) = (paired(64, gain, 8_000), paired(128, 0, 8_000));
        let probe = Some(paired(128, gain / 40, 1_000));
        Measurement::Scored(ClaimScores { shard, gate, probe, norm_micro })
    };
    // three do all of the work, one a half of it; one does a half and hands it in twice as large
    let measured = [of(60_000, NORM), of(58_000, NORM), of(62_000, NORM), of(30_000, NORM / 2), of(60_000, 2 * NORM)];
    use Verdict::{Accepted as A, TooLittleWork as T};
    assert_eq!(verdicts(WorkMode::Assigned, &j, &measured, &[]), [A, A, A, T, T]);
    j.least_work_milli = 0;
    let lax = verdicts(WorkMode::Assigned, &j, &measured, &[]);
    assert_eq!(lax, [A; 5], "nothing else notices");
    // and what is made larger is paid as if it were not
    let (_, parts) = credits(WorkMode::Assigned, 1_000_000, &measured, &lax);
    assert!(parts[4].abs_diff(parts[3]) <= parts[3] / 20, "{parts:?}");
}

#[test] // S4, free mode: paid for what was stated, if it was added; never more than was proven in all
fn free_mode_pays_what_was_stated_and_added() {
    let j = judging();
    let added = |stated_unat, gate| Measurement::Added(Added { stated_unat, gate });
    let measured = [
        added(9_000, paired(128, 12_000, 5_000)),
        added(9_000, paired(128, 9_500, 5_000)), // its lower bound is below
        added(2_000, paired(128, 4_000, 1_000)),
        added(0, paired(128, 4_000, 1_000)),
        added(1, paired(64, 4_000, 1_000)),
        scored(paired(64, 60_000, 40_000), gate_like(128), gate_like(128)), // the other mode's measurement
    ];
    let found = verdicts(WorkMode::Free, &j, &measured, &[]);
    use Verdict::{Accepted as A, BadMeasurement as B, BelowStated as S};
    assert_eq!(found, [A, S, A, S, B, B]);
    assert_eq!(credits(WorkMode::Free, 50_000, &measured, &found), (11_000, vec![9_000, 0, 2_000, 0, 0, 0]));
    assert_eq!(credits(WorkMode::Free, 5_500, &measured, &found), (5_500, vec![4_500, 0, 1_000, 0, 0, 0]));
    assert!(!twins_are_canonical(WorkMode::Free, &j, &measured, &[Twin { a: 0, b: 2, cosine_milli: 900 }]));
}

#[test] // S2: a few units of rounding agree, more do not
fn agreement_allows_rounding_edges_only() {
    let a = paired(4000, 1_000, 3_000);
    let mut b = a;
    b.sum_unat += 5;
    assert!(a.agrees(&b));
    b.sum_unat += 5;
    assert!(!a.agrees(&b));
    let mut c = a;
    c.sum_sq_unat2 += c.sum_sq_unat2 / 100;
    assert!(!a.agrees(&c));
    let mut d = a;
    d.n -= 1;
    assert!(!a.agrees(&d));
}

proptest! {
    #[test]
    fn credit_adds_up_exactly(total: u64, weights in proptest::collection::vec(any::<u64>(), 1..20)) {
        let parts = split_exactly(total, &weights);
        prop_assert_eq!(parts.len(), weights.len());
        prop_assert_eq!(parts.iter().map(|p| u128::from(*p)).sum::<u128>(), u128::from(total));
    }

    #[test] // S4: slicing one claim in two earns nothing extra beyond one unit of rounding
    fn slicing_does_not_raise_credit(total in 0u64..1 << 40, a in 1u64..1 << 40, b in 1u64..1 << 40, cut in 0u64..1 << 40) {
        let cut = cut.min(a);
        let whole = split_exactly(total, &[a, b]);
        let sliced = split_exactly(total, &[cut, a - cut, b]);
        prop_assert!(sliced[0] + sliced[1] <= whole[0] + 2);
    }

    #[test] // L2: total on any integers
    fn verdict_is_total(n: u32, sum: i64, sq: u128) {
        let p = Paired { n, sum_unat: sum, sum_sq_unat2: sq };
        let of = |probe| Measurement::Scored(ClaimScores { shard: p, gate: p, probe, norm_micro: NORM });
        let _ = (verdict(&judging(), &of(None)), verdict(&judging(), &of(Some(p))));
        let free = Measurement::Added(Added { stated_unat: sum, gate: p });
        let _ = (proven(p), own_verdict(WorkMode::Free, &judging(), &free));
        let _ = p.agrees(&p);
    }

    #[test]
    fn measured_sums_are_possible(pairs in proptest::collection::vec((any::<i64>(), any::<i64>()), 0..50)) {
        let (b, a): (Vec<i64>, Vec<i64>) = pairs.into_iter().unzip();
        prop_assert!(Paired::of(&b, &a).unwrap().is_possible());
    }
}
