//! Every kind of attacker alone against a small network, over several seeds: nothing that must never happen happens, the
//! honest are paid, and each comes to the end that its file says.

use oda_consensus::state::ValidatorStatus;
use oda_simnet::Scenario;
use oda_simnet::attackers::{Kind, Role, kind, kinds};
use oda_simnet::scenario::Attack;
use oda_simnet::sim::Sim;
use oda_simnet::sim::lightning::Fate;

const SEEDS: [u64; 3] = [1, 2, 3];

fn scenario(kind: &Kind, strength_milli: u32) -> Scenario {
    // a hostile sponsor has its own model, beside an honest one with another
    let sponsors = if kind.role == Role::Sponsor { 2 } else { 1 };
    Scenario {
        name: kind.name.into(),
        minutes: 25,
        settle_minutes: 40,
        trainers: 4,
        sponsors,
        models: sponsors,
        attackers: vec![Attack { name: kind.name.into(), count: 0, strength_milli }],
        ..Scenario::default()
    }
}

/// A run to its end.
fn run(kind: &Kind, seed: u64) -> Sim {
    let mut sim = Sim::new(scenario(kind, 1_000), seed).unwrap();
    sim.run_stormy();
    sim.run_calm();
    sim.checks.finish(sim.now_ms, &sim.lightning);
    sim
}

/// Honest trainers that were paid, and all of them.
fn paid(sim: &Sim) -> (usize, usize) {
    let honest = || sim.lites.iter().filter(|l| sim.is_honest(l.addr));
    (honest().filter(|l| sim.lightning.balance(l.addr) > 0).count(), honest().count())
}

/// Hostile validators, and how they stand.
fn hostile(sim: &Sim) -> Vec<(ValidatorStatus, oda_consensus::state::ServiceRecord)> {
    let ledger = sim.checks.ledger();
    let bad = sim.fulls.iter().filter(|f| !sim.is_honest(f.addr));
    bad.filter_map(|f| ledger.validator(f.id)).map(|v| (v.status, v.record)).collect()
}

fn story(kind: &Kind, seed: u64, sim: &Sim) {
    let (paid, of) = paid(sim);
    let rounds = sim.checks.tally.rounds;
    let evicted: Vec<&String> = sim.checks.tally.evicted.iter().map(|(_, why, _)| why).collect();
    println!(
        "{} {seed}: {} events, {rounds:?} rounds, {paid} of {of} paid, evicted {evicted:?}, notes {:?}",
        kind.name,
        sim.events,
        sim.notes(kind.name)
    );
    for v in &sim.checks.violations {
        println!("  {} {} {}", v.at_ms, v.check, v.detail);
    }
}

fn all_of(role: Role) {
    let only = std::env::var("ATTACKER").ok();
    for kind in kinds().iter().filter(|k| k.role == role && only.as_deref().is_none_or(|o| o == k.name)) {
        for seed in SEEDS {
            let sim = run(kind, seed);
            story(kind, seed, &sim);
            assert!(sim.checks.violations.is_empty(), "{} {seed}: {:?}", kind.name, sim.checks.violations);
            let (paid, of) = paid(&sim);
            // one trainer is surrounded, and may stand still
            let least = if kind.name == "eclipser" { of - 1 } else { of };
            assert!(paid >= least, "{} {seed}: {paid} of {of} honest trainers are paid", kind.name);
            expected(kind.name, seed, &sim);
        }
    }
}

/// What its file says becomes of it.
fn expected(name: &str, seed: u64, sim: &Sim) {
    let at = format!("{name} {seed}");
    let ledger = sim.checks.ledger();
    let out = |why: &str| sim.checks.tally.evicted.iter().any(|(_, offence, _)| offence == why);
    let note = |what: &str| sim.notes(name).get(what).copied().unwrap_or(0);
    match name {
        "misjudge" => assert!(out("FalseScores"), "{at}"),
        "bribed_minority" => assert!(out("FalseScores") && note("too few shares") > 0, "{at}"),
        "equivocator" => assert!(out("EquivocatedVotes") || out("EquivocatedStatements"), "{at}"),
        // one share that does not hold may have been sent to a leader that was gone by then
        "share_withholder" => assert!(out("BadSignatureShare") || note("spoiled") < 2, "{at}"),
        "bad_dealer" => {
            let named = hostile(sim).iter().any(|(_, r)| r.dkg_missed > 0);
            let drawn = sim.fulls.iter().filter(|f| !sim.is_honest(f.addr)).any(|f| {
                (1..=ledger.current().number)
                    .any(|e| ledger.epoch_state(e).is_some_and(|e| e.group.index_of(f.id).is_some()))
            });
            assert!(out("BadDkgPackage") || named || !drawn, "{at}");
        }
        "framer" => {
            assert!(note("forged") > 20, "{at}");
            assert!(sim.checks.tally.evicted.is_empty(), "{at}: {:?}", sim.checks.tally.evicted);
        }
        // R4: it saw scores to copy, and none of them counted
        "lazy_validator" => {
            let records: Vec<_> = hostile(sim).into_iter().map(|(_, r)| r).collect();
            assert!(note("copied") > 0 && records.iter().any(|r| r.late > 0), "{at}: {records:?}");
        }
        // the committees change all the same
        "grinder" => assert!(note("kept back") > 0 && ledger.current().number >= 1, "{at}"),
        "false_dealer" => {
            let sponsors = || ledger.models().flat_map(|(_, m)| m.sponsors.clone());
            let frauds: u32 = sponsors().map(|s| s.frauds).sum();
            let unopened: u32 = sponsors().map(|s| s.unopened).sum();
            assert!(note("false offers") > 0 && frauds + unopened > 0, "{at}: {frauds} frauds, {unopened} not opened");
        }
        "refuser" => {
            let unopened: u32 = ledger.models().flat_map(|(_, m)| m.sponsors.clone()).map(|s| s.unopened).sum();
            assert!(unopened > 0, "{at}");
        }
        // R2: nothing was shown to it, and nothing of it was released
        "no_lock" => {
            let unlocked = ledger.escrows().filter(|e| sim.place(e.payer).is_some_and(|p| !sim.is_honest(p)));
            let shown = unlocked.filter(|e| {
                let claim = ledger.claims().find(|c| c.escrow == Some(e.id));
                let late = e.tranches.iter().any(|t| sim.lightning.htlc(t.payment_hash).is_none());
                late && claim.is_some_and(|c| c.reveal.is_some())
            });
            assert_eq!(shown.count(), 0, "{at}");
        }
        "jammer" => {
            let bound = oda_simnet::sim::lightning::MAX_HTLCS;
            for lite in sim.lites.iter().filter(|l| !sim.is_honest(l.addr)) {
                let all = || sim.lightning.htlcs().filter(|(_, h)| h.payee == lite.addr);
                assert!(all().filter(|(_, h)| h.fate == Fate::Held).count() <= bound, "{at}");
                assert!(all().count() > 0, "{at}: it never held anything");
                let paid = all().filter(|(_, h)| matches!(h.fate, Fate::Claimed(_)));
                assert_eq!(paid.count(), 0, "{at}");
            }
        }
        "replay" => {
            assert!(note("repeated") > 100, "{at}");
            let own = sim.lites.iter().filter(|l| !sim.is_honest(l.addr));
            assert!(own.into_iter().all(|l| sim.lightning.balance(l.addr) == 0), "{at}");
        }
        "withhold" => {
            assert!(note("withheld") > 0, "{at}");
            assert!(sim.checks.tally.evicted.is_empty(), "{at}: nobody is blamed for what was not served");
        }
        "flooder" => assert!(sim.fulls.iter().all(|f| !f.refused.is_empty() || !sim.is_honest(f.addr)), "{at}"),
        "eclipser" => assert!(note("lies") > 0, "{at}"),
        _ => {}
    }
}

#[test] // C1-C6, R4, R5, S3, L1
fn hostile_validators() {
    all_of(Role::Validator);
}

#[test] // P2, R2
fn hostile_sponsors() {
    all_of(Role::Sponsor);
}

#[test] // R1, R3, S4, P3, P8
fn hostile_trainers() {
    all_of(Role::Trainer);
}

#[test] // N1, K3, C5
fn hostile_outsiders() {
    all_of(Role::Outsider);
}

#[test]
fn every_kind_says_what_stops_it() {
    for k in kinds() {
        assert_eq!(kind(k.name).map(|found| found.name), Some(k.name));
        let texts = [k.goal, k.gain, k.stopped_by, k.left];
        assert!(!k.rows.is_empty() && k.rows.iter().all(|row| (1..=18).contains(row)), "{}", k.name);
        assert!(texts.iter().all(|text| text.len() > 5) && k.names > 0, "{}", k.name);
    }
}
