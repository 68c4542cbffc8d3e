//! Noise, frames that break off, requests without end, and worthless claims, applications and models under names made up
//! by the dozen.
//!
//! A name costs nothing. Whatever a node does for a stranger for free, it may be asked to do without end.

use super::{Attacker, Desk, Kind, Role};
use crate::learning::Work;
use crate::sim::{Addr, Msg, Out};
use oda_consensus::codec;
use oda_consensus::engine::trainer::TrainJob;
use oda_consensus::frost::EncryptionSecret;
use oda_consensus::ids::{BlobHash, Digest, EscrowId, ModelId};
use oda_consensus::keys::NodeKey;
use oda_consensus::tx::{Commit, SignedTx, Tx};
use oda_consensus::wire::Request;
use rand_core::RngCore;
use std::rc::Rc;

pub(super) const KIND: Kind = Kind {
    name: "flooder",
    rows: &[17],
    role: Role::Outsider,
    names: 2,
    goal: "keep others from being heard, or from being let in",
    gain: "rivals unpaid",
    stopped_by: "N1, K3: frames, queues, answers and lists are bounded, and what does not decode is dropped and counted; P8: a cap on \
                 claims, half of a round's places for who is known on the model, and with a fee no claim of its costs anybody work",
    left: "commits are free: names enough fill the places of a round that are for strangers, and the ledger's places for applicants and models",
    make: || Box::new(Flooder::default()),
};

#[derive(Default)]
struct Flooder {
    names: u64,
    filled: Option<(ModelId, u64)>,
}

/// Claims under new names a flooder makes each round at usual strength.
const CLAIMS: u32 = 3;
/// Messages to every full node each turn.
const FRAMES: u64 = 6;

impl Flooder {
    fn key(&mut self, desk: &Desk<'_>) -> NodeKey {
        self.names += 1;
        let mut h = blake3::Hasher::new_derive_key("oda simnet flooder");
        h.update(&desk.me.0).update(&self.names.to_le_bytes());
        NodeKey::from_secret(h.finalize().as_bytes())
    }

    fn commits(&mut self, desk: &Desk<'_>) -> Vec<Out> {
        let state = desk.state.clone();
        let open = state.models().find_map(|(id, m)| Some((id, m.round.as_ref()?.number, m.head.weights.hash)));
        let Some((model, round, parent)) = open.filter(|(id, round, _)| self.filled != Some((*id, *round))) else {
            return Vec::new();
        };
        self.filled = Some((model, round));
        let many = CLAIMS * desk.seat.strength_milli / 1_000;
        let commit = Commit { model, round, parent, commitment: Digest([5; 32]) };
        let one = |key: NodeKey| Out::Tx(Rc::new(SignedTx::new(Tx::Commit(commit), &key, desk.chain)));
        (0..many).map(|_| one(self.key(desk))).collect()
    }
}

fn frame(desk: &mut Desk<'_>) -> Msg {
    let mut bytes = vec![0; 16 + usize::try_from(desk.dice.below(2_000)).unwrap_or(0)];
    desk.dice.0.fill_bytes(&mut bytes);
    match desk.dice.below(7) {
        0 => Msg::Noise(Rc::new(bytes)),
        1 => Msg::Bft(Rc::new(bytes)),
        2 => Msg::Committee(Rc::new(bytes)),
        // one that breaks off
        3 => {
            let mut whole = codec::encode(desk.signed(Tx::Leave).as_ref());
            whole.truncate(whole.len() / 2);
            Msg::Noise(Rc::new(whole))
        }
        4 => Msg::Ask(Rc::new(Request::Blocks { from: 1, max: u32::MAX })),
        5 => Msg::Ask(Rc::new(Request::Epochs { after: 0 })),
        _ => Msg::Ask(Rc::new(Request::Shares(EscrowId([6; 32])))),
    }
}

impl Attacker for Flooder {
    fn work(&mut self, _: &mut Desk<'_>, _: &TrainJob) -> Option<Work> {
        None
    }

    fn serves(&self, _: BlobHash, _: Addr) -> bool {
        false
    }

    fn tick(&mut self, desk: &mut Desk<'_>) -> Vec<Out> {
        let mut out = self.commits(desk);
        if desk.tries(100) {
            let key = self.key(desk);
            let apply = Tx::Apply(EncryptionSecret::derive(&key.secret()).public());
            out.push(Out::Tx(Rc::new(SignedTx::new(apply, &key, desk.chain))));
        }
        for _ in 0..FRAMES {
            let msg = frame(desk);
            out.push(Out::Raw(None, msg));
        }
        out
    }
}
