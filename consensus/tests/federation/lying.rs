//! Lying: false scores, spoiled signature shares, shares of a beacon that are none.

use super::attack::{Attacker, Desk};
use super::*;
use oda_consensus::engine::validator::ValidatorInput;
use oda_consensus::evidence::Offence;
use oda_consensus::frost::SignMessage;
use oda_consensus::score::Measurement;
use oda_consensus::state::ValidatorStatus;
use oda_consensus::tx::Tx;
use oda_consensus::wire::CommitteeMessage;

/// Measures what nobody else does.
pub struct FalseScores;

impl Attacker for FalseScores {
    fn input(&mut self, mut input: ValidatorInput) -> ValidatorInput {
        if let ValidatorInput::Judged(judged) = &mut input {
            for (_, _, measurement) in &mut judged.measured.claims {
                if let Measurement::Scored(scores) = measurement {
                    scores.shard.sum_unat += 1_000;
                }
            }
        }
        input
    }
}

/// Sends signature shares that do not hold, and keeps what it has signed by others to itself.
pub struct SpoiledShares;

impl Attacker for SpoiledShares {
    fn say(&mut self, desk: &mut Desk<'_>, epoch: u64, mut message: CommitteeMessage) -> Vec<Vec<u8>> {
        if let CommitteeMessage::Sign(SignMessage::Share { share, .. }) = &mut message
            && let Some(byte) = share.last_mut()
        {
            *byte ^= 1;
        }
        vec![desk.sealed(desk.me, epoch, message)]
    }
    fn submit(&mut self, _: &mut Desk<'_>, tx: Tx) -> Vec<Tx> {
        let signed = matches!(tx, Tx::Outcome(..) | Tx::Handover(..) | Tx::Checkpoint(..) | Tx::Membership(..));
        if signed { Vec::new() } else { vec![tx] }
    }
}

/// Gives out, for every input, its share of another one.
#[derive(Default)]
struct WrongPartials {
    old: Option<oda_consensus::beacon::Partial>,
}

impl Attacker for WrongPartials {
    fn say(&mut self, desk: &mut Desk<'_>, epoch: u64, message: CommitteeMessage) -> Vec<Vec<u8>> {
        let message = match message {
            CommitteeMessage::Partial(input, partial) => {
                let wrong = self.old.get_or_insert_with(|| partial.clone()).clone();
                CommitteeMessage::Partial(input, wrong)
            }
            other => other,
        };
        vec![desk.sealed(desk.me, epoch, message)]
    }
}

#[test] // C6: every place of the committee, both ways to lie
fn the_liar_is_evicted_with_its_offence() {
    for place in 0..4 {
        let spoils = place % 2 == 0;
        let mut sim = Sim::new(40 + place, 7, federation(4));
        let liar = sim.seated()[place as usize];
        if spoils {
            sim.corrupt(liar, SpoiledShares)
        } else {
            sim.corrupt(liar, FalseScores)
        }
        sim.run_until("conviction", 60, |s| s.status(liar) != ValidatorStatus::Active);
        let offence = if spoils { Offence::BadSignatureShare } else { Offence::FalseScores };
        assert_eq!(sim.status(liar), ValidatorStatus::Evicted(offence));
        sim.run_until("a committee without it", 40, |s| !s.seated().contains(&liar));
        assert!(sim.finish() > 0);
    }
}

#[test] // S3: a wrong share of a beacon is left out
fn wrong_partials_delay_nothing() {
    let mut sim = Sim::new(45, 7, federation(4));
    let liar = sim.seated()[1];
    sim.corrupt(liar, WrongPartials::default());
    sim.run_until("two epochs", 2 * 26 + 6, |s| s.ledger.current().number >= 2);
    assert!(sim.finish() > 2);
}
