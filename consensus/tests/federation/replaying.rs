//! Replaying: it says again, word for word, what others have said.

use super::attack::{Attacker, Desk};
use super::*;
use oda_consensus::frost::SignMessage;
use oda_consensus::wire::{CommitteeMessage, SignedCommitteeEnvelope};

/// Keeps requests, shares and partials, and sends them all again after every other block.
#[derive(Default)]
struct Replayer {
    heard: Vec<Vec<u8>>,
    from: usize,
}

const KEPT: usize = 400;
const AT_ONCE: usize = 12;

impl Attacker for Replayer {
    fn hears(&mut self, _: &mut Desk<'_>, bytes: &[u8], signed: &SignedCommitteeEnvelope) -> Vec<Vec<u8>> {
        let of_use = match &signed.envelope.message {
            CommitteeMessage::Sign(m) => !matches!(m, SignMessage::Nonces { .. }),
            CommitteeMessage::Partial(..) => true,
        };
        if of_use && self.heard.len() < KEPT {
            self.heard.push(bytes.to_vec());
        }
        Vec::new()
    }
    fn block(&mut self, _: &mut Desk<'_>) -> Vec<Vec<u8>> {
        let n = self.heard.len().max(1);
        self.from += AT_ONCE;
        (0..AT_ONCE).filter_map(|i| self.heard.get((self.from + i) % n).cloned()).collect()
    }
}

#[test] // C5, S3: nothing is signed twice, no nonce is used twice, and every repetition is counted
fn replayed_messages_move_nothing() {
    let mut sim = Sim::new(80, 7, federation(4));
    sim.copies = true;
    let replayer = sim.seated()[3];
    sim.corrupt(replayer, Replayer::default());
    sim.run_until("three epochs", 3 * 26 + 6, |s| s.ledger.current().number >= 3);
    println!("refused: {} repeated, {} with a used nonce", sim.refusals("repeats"), sim.refusals("already used"));
    assert!(sim.refusals("repeats") > 0 && sim.refusals("already used") > 0);
    assert!(sim.finish() > 4);
}
