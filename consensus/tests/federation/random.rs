//! Any schedule of delays, losses, copies and crashes, at most f validators down at a time: first it must be
//! safe (the network checks), then, once faults end, it must go on within a bound.

use super::net::Weather;
use super::*;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

/// The same storms every time; set another to look for more.
const FIXED: RngSeed = RngSeed::Fixed(7);
/// Slots after the last fault within which the next round is judged, and the next two epochs begin.
const ROUND_SLOTS: u64 = 60;
const EPOCHS_SLOTS: u64 = 4 * 26;

fn stormy(seed: u64, (validators, committee, f): (usize, u16, usize), weather: Weather, faults: &[(u8, u8, u8)]) {
    let mut sim = Sim::new(seed, validators, federation(committee));
    sim.weather = weather;
    let mut back: Vec<(u64, usize)> = Vec::new();
    let mut faults = faults.iter().cycle();
    let end = 3 * 30;
    while sim.ledger.current().number < 3 && sim.slots < end {
        for (_, i) in back.extract_if(.., |(at, _)| *at <= sim.slots).collect::<Vec<_>>() {
            sim.start(i);
        }
        let (who, slots, pause) = *faults.next().unwrap();
        let who = usize::from(who) % validators;
        if back.len() < f && sim.nodes[who].up {
            sim.stop(who);
            back.push((sim.slots + u64::from(slots % 16), who));
        }
        sim.run_slots(1 + u64::from(pause % 8));
    }
    back.into_iter().for_each(|(_, i)| sim.start(i));
    sim.weather = net::CALM;
    let rounds = |s: &Sim| s.outcomes.values().map(Vec::len).sum::<usize>();
    let (judged, epoch) = (rounds(&sim), sim.ledger.current().number);
    let round = sim.run_until("a round after the faults", ROUND_SLOTS, |s| rounds(s) > judged);
    let rest = sim.run_until("two epochs after the faults", EPOCHS_SLOTS, |s| s.ledger.current().number >= epoch + 2);
    println!("seed {seed}: epoch {epoch}, {judged} rounds in the storm; then a round in {round}, 2 epochs in {rest}");
    sim.finish();
}

fn schedule() -> impl Strategy<Value = (u64, Weather, Vec<(u8, u8, u8)>)> {
    let weather = (1u64..250, 0u64..8, 0u64..20).prop_map(|(most, loss_percent, twice_percent)| Weather {
        delay_ms: (1, most),
        loss_percent,
        twice_percent,
    });
    (any::<u64>(), weather, proptest::collection::vec(any::<(u8, u8, u8)>(), 4..24))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5, max_shrink_iters: 0, rng_seed: FIXED, failure_persistence: None, ..ProptestConfig::default() })]

    #[test] // C1-C6, L2
    fn any_storm_over_four_of_seven((seed, weather, faults) in schedule()) {
        stormy(seed, (7, 4, 1), weather, &faults);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1, max_shrink_iters: 0, rng_seed: FIXED, failure_persistence: None, ..ProptestConfig::default() })]

    #[test] // C1-C6, L2
    fn any_storm_over_seven_of_ten((seed, weather, faults) in schedule()) {
        stormy(seed, (10, 7, 2), weather, &faults);
    }
}
