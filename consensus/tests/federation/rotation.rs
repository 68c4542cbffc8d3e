//! A committee changes while the network, the leader, a dealer or a member fails (C1, C2, C6).

use super::attack::{Attacker, Desk};
use super::*;
use oda_consensus::engine::validator::ValidatorInput;
use oda_consensus::epoch::{Federation, Membership};
use oda_consensus::evidence::Offence;
use oda_consensus::frost::{EncryptionSecret, EpochSeed, deal_round1, dkg_context};
use oda_consensus::outcome::{Attestation, Statement};
use oda_consensus::state::{DkgPhase, ValidatorStatus};
use oda_consensus::tx::{DkgMessage, DkgStep, Tx};

/// Slots of an undisturbed epoch, with its switch.
const EPOCH_SLOTS: u64 = 24 + 2;
/// Slots an attempt to sign waits for its leader.
const ATTEMPT_SLOTS: u64 = 4_000 / net::BLOCK_MS;
/// Blocks a retried key generation takes: four steps, each said and decided.
const DKG_BLOCKS: u64 = 4 * 3;

fn to_phase(sim: &mut Sim, phase: DkgPhase) {
    let is = |s: &Sim| s.ledger.dkg().is_some_and(|d| d.phase == phase);
    sim.run_until("phase of the key generation", 3 * EPOCH_SLOTS, is);
}

fn to_epoch(sim: &mut Sim, epoch: u64, most: u64) -> u64 {
    sim.run_until("next epoch", most, |s| s.ledger.current().number >= epoch)
}

#[test] // C1, C2: no half can order, and no epoch is lost when they meet again
fn a_split_committee_stops_and_goes_on() {
    let mut sim = Sim::new(11, 7, federation(4));
    to_phase(&mut sim, DkgPhase::Share);
    let seated = sim.seated();
    for i in 0..7 {
        sim.nodes[i].side = u8::from(seated.iter().position(|s| *s == i).map_or(i % 2 == 0, |p| p < 2));
    }
    sim.run_slots(1);
    let height = sim.ledger.tip().height;
    sim.run_slots(40);
    assert_eq!(sim.ledger.tip().height, height, "two of four decide nothing");
    (0..7).for_each(|i| sim.nodes[i].side = 0);
    let took = to_epoch(&mut sim, 1, EPOCH_SLOTS + DKG_BLOCKS);
    println!("{took} slots from the meeting to the switch");
    to_epoch(&mut sim, 2, EPOCH_SLOTS + DKG_BLOCKS);
    sim.finish();
}

#[test] // C1, C2: the larger part goes on, rotates, and takes the smaller one back
fn the_larger_part_rotates_without_the_smaller() {
    let mut sim = Sim::new(12, 7, federation(4));
    to_phase(&mut sim, DkgPhase::Share);
    let cut: Vec<usize> = {
        let dkg = sim.ledger.dkg().unwrap().clone();
        let drawn = |i: &usize| dkg.members.contains(&sim.nodes[*i].id);
        let seated = sim.seated();
        // one member of the running committee at most, and one of the coming
        let old = seated.iter().copied().find(|i| !drawn(i));
        let new = (0..7).find(|i| drawn(i) && !seated.contains(i));
        old.into_iter().chain(new).collect()
    };
    cut.iter().for_each(|i| sim.nodes[*i].side = 1);
    let took = to_epoch(&mut sim, 1, EPOCH_SLOTS + 2 * DKG_BLOCKS);
    println!("{cut:?} cut off; switch after {took} slots");
    assert!(sim.ledger.tip().height > sim.nodes[cut[0]].height() + 10);
    let paid = |s: &Sim| s.outcomes.values().map(Vec::len).sum::<usize>();
    let before = paid(&sim);
    sim.run_until("a round without them", 40, |s| paid(s) > before);
    cut.iter().for_each(|i| sim.nodes[*i].side = 0);
    to_epoch(&mut sim, 2, 2 * EPOCH_SLOTS);
    sim.finish();
}

#[test] // C4: the handover's first leader dies before it said a word
fn a_dead_leader_costs_one_attempt() {
    let mut sim = Sim::new(13, 7, federation(4));
    sim.run_until("key of the next committee", EPOCH_SLOTS, |s| s.ledger.coming().is_some());
    let statement = Statement::Handover(sim.ledger.coming().unwrap().handover());
    let topic = Attestation { chain: sim.ledger.chain(), statement }.topic();
    let any = sim.seated()[0];
    let leader = sim.nodes[any].signers[&0].leader(topic, 0).unwrap();
    let leader = sim.place(leader);
    sim.stop(leader);
    let signed = |s: &Sim| s.ledger.current().number > 0 || s.ledger.coming().is_some_and(|c| c.signature.is_some());
    let took = sim.run_until("handover", ATTEMPT_SLOTS + 6, signed);
    println!("handover after {took} slots without its first leader");
    assert!(took >= ATTEMPT_SLOTS - 1, "the leader was really missing");
    to_epoch(&mut sim, 1, EPOCH_SLOTS);
    sim.start(leader);
    to_epoch(&mut sim, 2, EPOCH_SLOTS + DKG_BLOCKS);
    sim.finish();
}

/// Deals boxes that no recipient can read; opens them honestly, or refuses.
struct BadDealer {
    opens: bool,
}

impl Attacker for BadDealer {
    fn submit(&mut self, desk: &mut Desk<'_>, tx: Tx) -> Vec<Tx> {
        let Tx::Dkg(DkgMessage { epoch, attempt, step }) = &tx else { return vec![tx] };
        let (epoch, attempt) = (*epoch, *attempt);
        match step {
            DkgStep::Share(_) => {
                let members = &desk.state.dkg().unwrap().members;
                let index = members.iter().position(|m| *m == desk.me).unwrap();
                let wrong: Vec<_> =
                    (0..members.len()).map(|i| EncryptionSecret::derive(&[200 + i as u8; 32]).public()).collect();
                let transcript = desk.state.transcript(epoch, attempt, members).unwrap();
                let step = DkgStep::Share(transcript.deal_round2(&desk.seed(epoch).unwrap(), index, &wrong).unwrap());
                vec![Tx::Dkg(DkgMessage { epoch, attempt, step })]
            }
            DkgStep::Open(..) if !self.opens => Vec::new(),
            _ => vec![tx],
        }
    }
}

/// Corrupts a member of the running key generation that has no seat yet.
fn bad_member(sim: &Sim) -> usize {
    let dkg = sim.ledger.dkg().unwrap();
    let seated = sim.seated();
    let fresh = |i: &usize| dkg.members.contains(&sim.nodes[*i].id) && !seated.contains(i);
    (0..sim.nodes.len()).find(fresh).expect("a new member is drawn")
}

#[test] // C2, C6: whoever opens what it dealt stays, and the key is of use; whoever does not is left out of this key
fn a_dealer_of_unreadable_boxes() {
    for opens in [true, false] {
        let mut sim = Sim::new(14, 7, federation(4));
        to_phase(&mut sim, DkgPhase::Deal);
        let bad = bad_member(&sim);
        sim.corrupt(bad, BadDealer { opens });
        to_phase(&mut sim, DkgPhase::Open);
        to_epoch(&mut sim, 1, EPOCH_SLOTS + 2 * DKG_BLOCKS);
        let member = sim.seated().contains(&bad);
        let record = sim.ledger.validator(sim.nodes[bad].id).unwrap().record;
        assert_eq!(sim.status(bad), ValidatorStatus::Active);
        assert_eq!((member, record.dkg_missed), (opens, u64::from(!opens)));
        assert_eq!(sim.ledger.current().attempt, u32::from(!opens));
        to_epoch(&mut sim, 2, EPOCH_SLOTS + 2 * DKG_BLOCKS);
        assert!(sim.finish() > 0);
    }
}

/// Says the recipients of all shares lied.
struct Complainer;

impl Attacker for Complainer {
    fn submit(&mut self, desk: &mut Desk<'_>, tx: Tx) -> Vec<Tx> {
        let Tx::Dkg(DkgMessage { epoch, attempt, step: DkgStep::Confirm(_) }) = tx else { return vec![tx] };
        let members = &desk.state.dkg().unwrap().members;
        let all = (0..members.len()).filter(|i| members[*i] != desk.me).map(|i| i as u16);
        vec![Tx::Dkg(DkgMessage { epoch, attempt, step: DkgStep::Confirm(all.collect()) })]
    }
}

#[test] // C2, C6: an honest dealer answers all complaints in time, however many, and is not evicted
fn false_complaints_evict_nobody() {
    let short = Federation { dkg_blocks: 3, ..federation(7) };
    let mut sim = Sim::new(15, 10, short);
    to_phase(&mut sim, DkgPhase::Deal);
    let members = sim.ledger.dkg().unwrap().members.clone();
    let liars: Vec<usize> = members.iter().take(2).map(|m| sim.place(*m)).collect();
    liars.iter().for_each(|i| sim.corrupt(*i, Complainer));
    to_epoch(&mut sim, 1, EPOCH_SLOTS + 2 * DKG_BLOCKS);
    assert_eq!(sim.ledger.current().attempt, 0, "nobody was replaced");
    assert!(sim.ledger.validator(members[0]).unwrap().record.dkg_complaints_answered > 0);
    sim.finish();
}

#[test] // C2: an absent dealer is left out and counted
fn an_absent_dealer_is_replaced() {
    for phase in [DkgPhase::Deal, DkgPhase::Share, DkgPhase::Confirm] {
        let mut sim = Sim::new(16, 7, federation(4));
        to_phase(&mut sim, phase);
        let absent = bad_member(&sim);
        sim.stop(absent);
        to_epoch(&mut sim, 1, EPOCH_SLOTS + 2 * DKG_BLOCKS);
        assert!(!sim.seated().contains(&absent));
        assert_eq!(sim.ledger.validator(sim.nodes[absent].id).unwrap().record.dkg_missed, 1, "{phase:?}");
        sim.start(absent);
        to_epoch(&mut sim, 3, 2 * (EPOCH_SLOTS + DKG_BLOCKS));
        sim.finish();
    }
}

#[test] // C2: all of the four are needed; the one that missed its step is asked again, and comes
fn a_member_that_missed_a_step_has_another_chance() {
    let mut sim = Sim::new(17, 4, federation(4));
    to_phase(&mut sim, DkgPhase::Deal);
    let absent = sim.seated()[1];
    sim.stop(absent);
    to_phase(&mut sim, DkgPhase::Failed);
    sim.start(absent);
    let took = to_epoch(&mut sim, 1, 2 * EPOCH_SLOTS + DKG_BLOCKS);
    println!("{took} slots after its return");
    sim.finish();
}

/// Deals two different packages, each of them fine.
struct TwoDeals;

impl Attacker for TwoDeals {
    fn submit(&mut self, desk: &mut Desk<'_>, tx: Tx) -> Vec<Tx> {
        let Tx::Dkg(DkgMessage { epoch, attempt, step: DkgStep::Deal(_) }) = tx else { return vec![tx] };
        let members = &desk.state.dkg().unwrap().members;
        let index = members.iter().position(|m| *m == desk.me).unwrap();
        let context = dkg_context(desk.state.chain(), epoch, attempt);
        let other = deal_round1(&EpochSeed::random(desk.rng), context, index, members.len()).unwrap();
        vec![tx, Tx::Dkg(DkgMessage { epoch, attempt, step: DkgStep::Deal(other) })]
    }
}

#[test] // C2, C6
fn an_equivocating_dealer_is_evicted() {
    let mut sim = Sim::new(18, 7, federation(4));
    to_phase(&mut sim, DkgPhase::Deal);
    let bad = bad_member(&sim);
    sim.corrupt(bad, TwoDeals);
    to_epoch(&mut sim, 1, EPOCH_SLOTS + 2 * DKG_BLOCKS);
    assert_eq!(sim.status(bad), ValidatorStatus::Evicted(Offence::EquivocatedStatements));
    assert!(!sim.seated().contains(&bad));
    sim.finish();
}

#[test] // C2, C5: a restart at any step says the same again, and the member keeps its seat
fn a_member_restarts_in_the_middle() {
    for (seed, away_slots, phases) in [
        (19, 0, [DkgPhase::Deal, DkgPhase::Share, DkgPhase::Confirm, DkgPhase::Done].as_slice()),
        (20, 2, &[DkgPhase::Share]),
    ] {
        for phase in phases {
            let mut sim = Sim::new(seed, 7, federation(4));
            to_phase(&mut sim, *phase);
            let member = bad_member(&sim);
            sim.run_slots(1);
            sim.stop(member);
            sim.run_slots(away_slots);
            sim.start(member);
            to_epoch(&mut sim, 1, EPOCH_SLOTS + DKG_BLOCKS);
            assert!(sim.seated().contains(&member), "{phase:?}");
            assert_eq!(sim.ledger.current().attempt, 0, "nothing had to be said again: {phase:?}");
            sim.run_slots(4);
            assert!(sim.nodes[member].signers.contains_key(&1), "it has its share");
            sim.finish();
        }
    }
}

#[test] // C1, C2: the next committee has its signed key when one of its members goes: another key, signed again
fn a_signed_committee_loses_a_member() {
    let mut sim = Sim::new(21, 7, federation(4));
    let signed = |s: &Sim| s.ledger.coming().is_some_and(|c| c.signature.is_some());
    sim.run_until("signed handover", EPOCH_SLOTS, signed);
    let coming = sim.ledger.coming().unwrap().group.members().to_vec();
    let goes = bad_member(&sim);
    let evict = Membership::Evict { node: sim.nodes[goes].id, since: 0 };
    for i in sim.seated() {
        let now_ms = sim.now_ms;
        sim.nodes[i].drive(ValidatorInput::Vote(evict), now_ms);
        sim.flush(i);
    }
    sim.run_until("eviction", ATTEMPT_SLOTS, |s| s.status(goes) != ValidatorStatus::Active);
    assert_eq!(sim.status(goes), ValidatorStatus::Evicted(Offence::Decision));
    let took = to_epoch(&mut sim, 1, EPOCH_SLOTS + 2 * DKG_BLOCKS);
    println!("another committee in charge {took} slots after the loss of a member of the signed one");
    assert_eq!(sim.ledger.current().attempt, 1);
    assert_ne!(sim.ledger.current().group.members(), coming);
    // whoever lost its seat says nothing in that epoch
    sim.run_slots(4);
    assert!(!sim.nodes[goes].signers.contains_key(&1), "a seat of an attempt that is over");
    let on_the_way = sim.rejections("no member");
    sim.run_slots(10);
    assert_eq!(sim.rejections("no member"), on_the_way);
    sim.finish();
}
