//! Messages that come after the timeouts they should have met.

use super::attack::{Attacker, HONEST, Kind, Me, SIZES, Sending, To};
use super::net::Sim;
use rand_core::RngCore;

/// Everything it says takes up to so long.
struct Slow {
    most_ms: u64,
    /// Only the odd validators hear it late.
    half: bool,
}

pub const SLOW: Kind = Some(|| Box::new(Slow { most_ms: 12_000, half: false }));
pub const SLOW_TO_HALF: Kind = Some(|| Box::new(Slow { most_ms: 6_000, half: true }));

impl Attacker for Slow {
    fn publish(&mut self, me: &mut Me<'_>, bytes: &[u8]) -> Vec<Sending> {
        let after_ms = 3_000 + u64::from(me.rng.next_u32()) % self.most_ms;
        let all = Sending::all(bytes.to_vec());
        if !self.half {
            return vec![Sending { after_ms, ..all }];
        }
        let half = |odd| To::Some((0..me.attackers.len()).filter(|i| i % 2 == odd).collect());
        vec![Sending { to: half(0), ..all.clone() }, Sending { to: half(1), after_ms, ..all }]
    }
}

#[test] // L1: f of 3f+1 slow
fn f_slow_validators_only_cost_rounds() {
    for n in SIZES {
        for (seed, kind) in [(1, SLOW), (2, SLOW_TO_HALF)] {
            let mut sim = Sim::attacked(seed, n, kind, 0);
            sim.run(20);
            let f = (n - 1) as u32 / 3;
            assert!(sim.max_round <= 2 * f + 2, "round {} with {f} of {n}", sim.max_round);
            assert!(sim.evidence.is_empty(), "being slow is no lie");
        }
    }
}

#[test] // L1: a network slower than every timeout forks nothing, and decides once it is fast again
fn a_network_beyond_the_timeouts_recovers() {
    for n in SIZES {
        let mut sim = Sim::new(n as u64, &vec![HONEST; n], 0);
        sim.slow_until = (60_000, 9_000);
        sim.run_until(60_000);
        let there = sim.slowest();
        // the last slow messages, one long round, then ten quick heights
        sim.run_within(there + 10, 60_000 + 60_000);
        assert!(sim.evidence.is_empty());
    }
}
