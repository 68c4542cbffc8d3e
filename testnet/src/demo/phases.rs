//! How long each phase of a round took, from the times of the blocks.

use crate::demo::view::RoundView;
use crate::rpc::{Block, MAX_PAGE};
use serde::Serialize;
use std::collections::BTreeMap;

/// Blocks asked for when following; the first look asks for all it can get.
const FOLLOWED_BLOCKS: u32 = 64;
/// Most events kept; the oldest go first.
const MAX_EVENTS: usize = 1 << 17;

/// Phases of a round in order, each ending with the last block of its kind.
pub const PHASES: [&str; 6] = ["train and commit", "lock", "reveal", "seal", "judge and attest", "settle"];

/// When each transaction entered the ledger.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    last_height: u64,
    /// (height, kind, what it is about) -> block time, ms.
    events: BTreeMap<(u64, String, String), u64>,
}

/// Seconds of each phase of one round.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RoundPhases {
    /// Round.
    pub round: u64,
    /// Seconds, as in [`PHASES`].
    pub seconds: [f64; PHASES.len()],
}

impl Timeline {
    /// How many blocks to ask for.
    pub fn wanted_blocks(&self) -> u32 {
        if self.last_height == 0 { MAX_PAGE } else { FOLLOWED_BLOCKS }
    }

    /// Takes blocks, seen before or not.
    pub fn take(&mut self, blocks: &[Block]) {
        for block in blocks.iter().filter(|b| b.height > self.last_height) {
            for tx in &block.txs {
                self.events.insert((block.height, tx.kind.clone(), tx.about.clone()), block.time_ms);
            }
        }
        self.last_height = blocks.iter().map(|b| b.height).fold(self.last_height, u64::max);
        while self.events.len() > MAX_EVENTS {
            self.events.pop_first();
        }
    }

    /// Time of the last transaction of a kind whose text names one of `keys`.
    fn last(&self, kinds: &[&str], keys: &[String]) -> Option<u64> {
        let named = |about: &str| keys.iter().any(|k| about == k || about.starts_with(&format!("{k} ")));
        self.events
            .iter()
            .filter(|((_, kind, about), _)| kinds.contains(&kind.as_str()) && named(about))
            .map(|(_, t)| *t)
            .max()
    }

    /// Phases of a round that is over. A phase that did not occur took no time; one that overlaps
    /// with the phase before it counts from that one's end.
    pub fn phases(&self, model: &str, round: &RoundView) -> Option<RoundPhases> {
        let number = round.round;
        let of_round = |n: u64| vec![format!("model {model} round {n}")];
        let claims: Vec<String> = round.claims.iter().map(|c| format!("claim {}", c.claim)).collect();
        let escrows: Vec<String> =
            round.claims.iter().filter_map(|c| c.escrow).map(|e| format!("escrow {e}")).collect();
        let start = match number {
            1 => self.last(&["fund"], &[format!("model {model}")]),
            n => self.last(&["outcome"], &of_round(n - 1)),
        }?;
        let ends = [
            self.last(&["commit"], &of_round(number)),
            self.last(&["offer", "choose", "deal"], &[claims.as_slice(), escrows.as_slice()].concat()),
            self.last(&["reveal"], &claims),
            self.last(&["seal"], &of_round(number)),
            self.last(&["outcome"], &of_round(number)),
            self.last(&["settle", "refund"], &escrows),
        ];
        let mut from = start;
        #[allow(clippy::cast_precision_loss)]
        let seconds = ends.map(|end| {
            let until = end.unwrap_or(from).max(from);
            (until - std::mem::replace(&mut from, until)) as f64 / 1e3
        });
        Some(RoundPhases { round: number, seconds })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::view::tests::round;
    use crate::rpc::TxInfo;

    #[test]
    fn phases_follow_from_block_times() {
        let view = round(2);
        let tx = |kind: &str, about: String| TxInfo { kind: kind.into(), about };
        let a = view.claims[0].claim;
        let blocks: Vec<Block> = [
            vec![tx("outcome", "model ff round 1".into())],
            vec![tx("commit", "model ff round 2".into())],
            vec![
                tx("commit", "model ff round 2".into()),
                tx("offer", format!("claim {a} for up to 5 msat")),
                tx("commit", "model ff round 20".into()),
            ],
            vec![tx("deal", format!("escrow {}", view.claims[1].escrow.unwrap()))],
            vec![tx("reveal", format!("claim {a}"))],
            vec![tx("seal", "model ff round 2".into())],
            vec![tx("outcome", "model ff round 2".into())],
            vec![tx("settle", format!("escrow {}", view.claims[0].escrow.unwrap()))],
        ]
        .into_iter()
        .zip(10u64..)
        .map(|(txs, height)| Block { height, hash: String::new(), time_ms: 1000 * height, txs })
        .collect();
        let mut timeline = Timeline::default();
        timeline.take(&blocks[..4]);
        timeline.take(&blocks[2..]);
        let phases = timeline.phases("ff", &view).unwrap();
        assert_eq!(phases.seconds, [2.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
        assert_eq!(timeline.phases("ee", &view), None, "another model");
    }
}
