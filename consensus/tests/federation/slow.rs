//! Slow: all it says takes two seconds, four blocks. It is honest, and must not be taken for anything else.

use super::*;
use oda_consensus::state::ValidatorStatus;

#[test] // C4
fn a_slow_member_is_waited_for_and_not_blamed() {
    for place in [1, 2] {
        let mut sim = Sim::new(60 + place, 7, federation(4));
        let slow = sim.seated()[place as usize];
        sim.nodes[slow].lag_ms = 2_000;
        let took = sim.run_until("two epochs", 2 * 26 + 40, |s| s.ledger.current().number >= 2);
        println!("two epochs in {took} slots with a slow member");
        assert_eq!(sim.status(slow), ValidatorStatus::Active);
        sim.nodes[slow].lag_ms = 0;
        assert!(sim.finish() > 1);
    }
}
