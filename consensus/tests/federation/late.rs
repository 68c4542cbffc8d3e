//! Late: it says everything, but only when it is of no use any more: rounds, requests, draws and whole epochs are
//! over by then.

use super::attack::{Attacker, Desk};
use super::*;
use oda_consensus::wire::CommitteeMessage;
use std::collections::VecDeque;

struct Late {
    blocks: u64,
    kept: VecDeque<(u64, Vec<u8>)>,
}

impl Attacker for Late {
    fn say(&mut self, desk: &mut Desk<'_>, epoch: u64, message: CommitteeMessage) -> Vec<Vec<u8>> {
        let bytes = desk.sealed(desk.me, epoch, message);
        self.kept.push_back((desk.state.tip().height + self.blocks, bytes));
        Vec::new()
    }
    fn block(&mut self, desk: &mut Desk<'_>) -> Vec<Vec<u8>> {
        let height = desk.state.tip().height;
        let due = self.kept.iter().take_while(|(at, _)| *at <= height).count();
        self.kept.drain(..due).map(|(_, bytes)| bytes).collect()
    }
}

#[test] // C4, S3: what comes late moves nothing, whether by a round or by three epochs
fn late_messages_move_nothing() {
    for (seed, blocks) in [(70, 12), (72, 80)] {
        let mut sim = Sim::new(seed, 7, federation(4));
        let late = sim.seated()[2];
        sim.corrupt(late, Late { blocks, kept: VecDeque::new() });
        sim.run_until("four epochs", 4 * 26 + 30, |s| s.ledger.current().number >= 4);
        if blocks == 80 {
            assert!(sim.rejections("old epoch") > 0);
        }
        assert!(sim.finish() > 4);
    }
}
