//! Clocks of proposers that jump (L2): the ledger goes by heights, its time only ever goes on, and no jump stops it.

#[allow(dead_code)] // shared with the corpus
mod world;

use oda_consensus::state::{BlockError, State};
use world::{World, sponsor};

/// A day, ms.
const DAY_MS: u64 = 86_400_000;

#[test] // a proposer's clock that was set back, or stands still, dates its block just after the last one
fn time_goes_on_whatever_the_clocks_say() {
    let mut world = World::new();
    let start_ms = world.state.tip().time_ms;
    let clocks_ms = [start_ms + DAY_MS, start_ms + 5, 0, start_ms + DAY_MS, 1, start_ms + 400 * DAY_MS, start_ms, 0];
    let (mut latest_ms, mut at_ms) = (start_ms, Vec::new());
    for clock_ms in clocks_ms {
        let (block, refused) = world.state.build(&[], clock_ms);
        assert!(refused.is_empty());
        latest_ms = clock_ms.max(latest_ms + 1);
        assert_eq!(block.header.time_ms, latest_ms);
        world.state.apply(&block).unwrap();
        at_ms.push(block.header.time_ms);
    }
    assert!(at_ms.is_sorted_by(|a, b| a < b), "{at_ms:?}");
}

#[test] // a block that is dated back is refused by everybody, whoever signed it
fn a_block_before_the_last_one_is_refused() {
    let mut world = World::new();
    world.wait_ms(DAY_MS);
    let (mut block, _) = world.state.build(&[], world.state.tip().time_ms + 10);
    for time_ms in [0, world.state.tip().time_ms - 1, world.state.tip().time_ms] {
        block.header.time_ms = time_ms;
        assert_eq!(world.state.clone().apply(&block), Err(BlockError::NotLater(time_ms)));
    }
}

#[test] // R1-R4: a round is timed by heights: the same blocks, dated a year apart or a millisecond, judge and pay alike
fn a_round_does_not_feel_the_clock() {
    let mut world = World::new();
    world.whole_round();
    let id = world.model();
    let money = |state: &State| {
        let model = state.model(id).unwrap();
        let sponsor = model.sponsors.iter().find(|s| s.sponsor == sponsor().id()).unwrap();
        (
            model.head,
            model.proven_unat,
            sponsor.paid_msat,
            sponsor.held_msat,
            state.claims().cloned().collect::<Vec<_>>(),
        )
    };
    let expected = money(&world.state);
    let mut jumping = State::new(world.genesis.clone()).unwrap();
    for (n, block) in world.blocks.iter().enumerate() {
        // back to the beginning, and days ahead, in turn; less than the thirty days after which silence ends a payment
        let clock_ms = if n % 2 == 0 { 0 } else { jumping.tip().time_ms + DAY_MS / 4 };
        // a checkpoint names the very block, time included
        let txs: Vec<_> = block.txs.iter().filter(|tx| tx.kind() != "checkpoint").cloned().collect();
        let (again, refused) = jumping.build(&txs, clock_ms);
        assert!(refused.is_empty(), "block {n}: {:?}", refused.first().map(|(_, e)| e));
        jumping.apply(&again).unwrap();
    }
    assert_eq!(money(&jumping), expected);
}
