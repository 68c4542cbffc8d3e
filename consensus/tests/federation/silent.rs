//! Silent: it orders blocks, and says nothing else.

use super::attack::{Attacker, Desk};
use super::*;
use oda_consensus::tx::Tx;
use oda_consensus::wire::CommitteeMessage;

pub struct Silent;

impl Attacker for Silent {
    fn say(&mut self, _: &mut Desk<'_>, _: u64, _: CommitteeMessage) -> Vec<Vec<u8>> {
        Vec::new()
    }
    fn submit(&mut self, _: &mut Desk<'_>, _: Tx) -> Vec<Tx> {
        Vec::new()
    }
}

#[test] // C4: any one of four; it is on record, and is nobody's offence
fn a_silent_member_stops_nothing() {
    for place in [0, 3] {
        let mut sim = Sim::new(50 + place, 7, federation(4));
        let silent = sim.seated()[place as usize];
        sim.corrupt(silent, Silent);
        sim.run_until("two epochs", 2 * 26 + 20, |s| s.ledger.current().number >= 2);
        let record = sim.ledger.validator(sim.nodes[silent].id).unwrap().record;
        assert!(record.late > 0 && record.late == record.rounds, "{record:?}");
        assert!(sim.finish() > 2);
    }
}

#[test] // S3: shares of a beacon that nobody heard are given out again
fn a_moment_in_which_nobody_hears_anything() {
    let mut sim = Sim::new(55, 7, federation(4));
    let model = sim.market.models().next().unwrap();
    let round = |s: &Sim| s.ledger.model(model).and_then(|m| m.round.clone());
    sim.run_until("judges", 30, |s| round(s).is_some_and(|r| r.judges.is_some()));
    sim.weather.loss_percent = 100;
    sim.run_slots(1);
    assert!(sim.told.keys().count() > 1, "they were given out once");
    sim.weather = net::CALM;
    let took = sim.run_until("seal", 14, |s| round(s).is_some_and(|r| r.sealed.is_some()));
    println!("sealed {took} slots later");
    assert!(took > 3, "the first shares were lost");
    assert!(sim.finish() > 0);
}
