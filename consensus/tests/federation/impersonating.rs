//! Impersonating: envelopes in others' names, others' places in its own, other epochs, and plain noise.

use super::attack::{Attacker, Desk};
use super::*;
use oda_consensus::beacon::BeaconInput;
use oda_consensus::epoch::draw_input;
use oda_consensus::frost::{Announce, SessionId, SignMessage};
use oda_consensus::ids::Digest;
use oda_consensus::outcome::samples_input;
use oda_consensus::tx::Tx;
use oda_consensus::wire::CommitteeMessage;

struct Impersonator;

impl Attacker for Impersonator {
    fn say(&mut self, desk: &mut Desk<'_>, epoch: u64, message: CommitteeMessage) -> Vec<Vec<u8>> {
        let members = desk.state.epoch_state(epoch).map(|e| e.group.members().to_vec()).unwrap_or_default();
        let mut all = vec![desk.sealed(desk.me, epoch, message.clone())];
        for other in members.iter().filter(|m| **m != desk.me) {
            all.push(desk.sealed(*other, epoch, message.clone()));
        }
        if let CommitteeMessage::Partial(input, partial) = &message {
            for index in (0..4).chain([u16::MAX]).filter(|i| *i != partial.index) {
                let mut stolen = partial.clone();
                stolen.index = index;
                all.push(desk.sealed(desk.me, epoch, CommitteeMessage::Partial(*input, stolen)));
            }
        }
        for wrong in [epoch + 1, epoch + 1_000, 0] {
            all.push(desk.sealed(desk.me, wrong, message.clone()));
        }
        if let CommitteeMessage::Sign(SignMessage::Share { id, request, share, next }) = message {
            let id = SessionId { attempt: id.attempt + 1, session: u16::MAX, ..id };
            let share = [share, vec![0; 100]].concat();
            all.push(desk.sealed(
                desk.me,
                epoch,
                CommitteeMessage::Sign(SignMessage::Share { id, request, share, next }),
            ));
        }
        all
    }
    fn block(&mut self, desk: &mut Desk<'_>) -> Vec<Vec<u8>> {
        let epoch = desk.state.current().number;
        let message = SignMessage::Nonces { to: u16::MAX, why: Announce::Refill, offers: Vec::new() };
        let id = SessionId { topic: Digest([desk.state.tip().height as u8; 32]), attempt: 0, session: 0 };
        let request = SignMessage::Request { id, payload: vec![1; 100], chosen: Vec::new() };
        let mut oversized = desk.sealed(desk.me, epoch, CommitteeMessage::Sign(message.clone()));
        oversized.extend(vec![0; 200 << 10]);
        let foreign =
            (0..=epoch).filter(|e| desk.state.epoch_state(*e).is_some_and(|s| s.group.index_of(desk.me).is_none()));
        let mut all: Vec<_> =
            foreign.map(|e| desk.sealed(desk.me, e, CommitteeMessage::Sign(message.clone()))).collect();
        all.extend([
            oversized,
            b"noise".to_vec(),
            desk.sealed(desk.me, epoch, CommitteeMessage::Sign(message)),
            desk.sealed(desk.me, epoch, CommitteeMessage::Sign(request)),
        ]);
        all
    }
}

#[test] // C4, C6, S3: nothing is done in another's name; every kind is refused with its own reason
fn nobody_speaks_for_another() {
    let mut sim = Sim::new(90, 7, federation(4));
    let place = sim.seated()[0];
    sim.corrupt(place, Impersonator);
    let drawn_out = |s: &Sim| s.rejections("no member") > 0;
    sim.run_until("three epochs", 8 * 26, |s| s.ledger.current().number >= 3 && drawn_out(s));
    for why in ["forged", "unknown epoch", "no member", "no envelope"] {
        println!("{why}: {}", sim.rejections(why));
        assert!(sim.rejections(why) > 0, "{why}");
    }
    for why in ["does not lead", "index is forged", "larger than allowed"] {
        println!("{why}: {}", sim.refusals(why));
        assert!(sim.refusals(why) > 0, "{why}");
    }
    assert!(sim.finish() > 4);
}

/// Gives out shares of beacons that are not due, and a great many of nothing; keeps finished proofs to itself.
struct Hasty {
    flood: u64,
}

impl Attacker for Hasty {
    fn submit(&mut self, _: &mut Desk<'_>, tx: Tx) -> Vec<Tx> {
        if matches!(tx, Tx::Draw(..) | Tx::Seal(..)) { Vec::new() } else { vec![tx] }
    }
    fn block(&mut self, desk: &mut Desk<'_>) -> Vec<Vec<u8>> {
        let (state, epoch) = (desk.state, desk.state.current());
        let Some(index) = epoch.group.index_of(desk.me) else { return Vec::new() };
        let (Some(seed), Some(transcript)) =
            (desk.seed(epoch.number), state.transcript(epoch.number, epoch.attempt, epoch.group.members()))
        else {
            return Vec::new();
        };
        let Ok((_, share)) = transcript.shares(&seed, index, desk.encryption) else { return Vec::new() };
        let mut inputs = vec![draw_input(state.chain(), epoch.number + 1), draw_input(state.chain(), epoch.number + 2)];
        for (id, model) in state.models() {
            let round = model.round.as_ref().map_or(0, |r| r.number);
            inputs.extend((round..round + 3).map(|r| samples_input(state.chain(), id, r)));
        }
        let mut all = Vec::new();
        for input in inputs {
            let partial = share.partial(&input, desk.rng);
            all.push(desk.sealed(desk.me, epoch.number, CommitteeMessage::Partial(input, partial)));
        }
        let partial = share.partial(&draw_input(state.chain(), 0), desk.rng);
        for number in 0..std::mem::take(&mut self.flood) {
            let input = BeaconInput { number: 1_000 + number, ..draw_input(state.chain(), 0) };
            all.push(desk.sealed(desk.me, epoch.number, CommitteeMessage::Partial(input, partial.clone())));
        }
        all
    }
}

#[test] // S3: with one hasty member there are fewer than t shares of a beacon that is not due
fn a_hasty_member_reveals_no_beacon() {
    let mut sim = Sim::new(91, 7, federation(4));
    let place = sim.seated()[1];
    sim.corrupt(place, Hasty { flood: 0 });
    sim.run_until("three epochs", 3 * 26 + 6, |s| s.ledger.current().number >= 3);
    // the network checked every honest share when it left; here: there were any
    assert!(sim.told.len() > 6);
    assert!(sim.finish() > 4);
}

#[test] // S3, K3: one member's noise takes no other member's place
fn a_flood_of_partials_stops_no_beacon() {
    let mut sim = Sim::new(92, 7, federation(4));
    let place = sim.seated()[1];
    sim.corrupt(place, Hasty { flood: 1_100 });
    sim.run_until("two epochs", 2 * 26 + 6, |s| s.ledger.current().number >= 2);
    assert!(sim.finish() > 2);
}
