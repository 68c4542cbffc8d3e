//! Attackers: one file each. Each says what it wants, what it would gain, and which rule stops it.
//!
//! An attacker runs the honest engine and may change everything that engine wants done, hear everything its node
//! hears, and send anything to anybody under its own key or with another's name on it; what it cannot do is break
//! cryptography. Several kinds act in one network at once; those of one kind share a [`Gang`], and so know what the
//! others of their kind know.

use crate::learning::{Made, Work};
use crate::sim::lightning::Lightning;
use crate::sim::{Addr, Dice, Full, Msg, Out};
use oda_consensus::engine::trainer::TrainJob;
use oda_consensus::engine::validator::Judged;
use oda_consensus::frost::ReleaseShare;
use oda_consensus::ids::{BlobHash, ChainId, EscrowId, ModelId, NodeId};
use oda_consensus::keys::NodeKey;
use oda_consensus::state::State;
use oda_consensus::tx::{SignedTx, Tx};
use oda_consensus::wire::Request;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

/// Declares the attackers: one module each, and the list of all.
macro_rules! attackers {
    ($($name:ident),* $(,)?) => {
        $(mod $name;)*
        static KINDS: &[Kind] = &[$($name::KIND),*];
    };
}

attackers!(
    bad_dealer,
    bribed_minority,
    copy,
    eclipser,
    equivocator,
    false_dealer,
    flooder,
    framer,
    free_ride,
    garbage,
    grinder,
    hoard,
    hurry,
    inflate,
    jammer,
    lazy_validator,
    mirror,
    misjudge,
    no_lock,
    noise,
    other_data,
    overfit,
    poison,
    refuser,
    replay,
    share_withholder,
    slice,
    sybil,
    tamper,
    withhold,
);

/// What an attacker is in the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// A lite node that hands in work.
    Trainer,
    /// A validator.
    Validator,
    /// A sponsor.
    Sponsor,
    /// A lite node that does something else than training.
    Outsider,
}

/// One kind of attacker.
pub struct Kind {
    /// Its name, which is its file's.
    pub name: &'static str,
    /// Rows of the attack table (docs/threat-model.md).
    pub rows: &'static [u8],
    /// What it is.
    pub role: Role,
    /// Names under which it acts if a scenario does not say.
    pub names: u32,
    /// What it wants.
    pub goal: &'static str,
    /// What it gains if it wins.
    pub gain: &'static str,
    /// What stops it: rules by number.
    pub stopped_by: &'static str,
    /// What is left to it, if anything.
    pub left: &'static str,
    /// One of it.
    pub make: fn() -> Box<dyn Attacker>,
}

/// All kinds.
pub fn kinds() -> &'static [Kind] {
    KINDS
}

/// A kind by its name.
pub fn kind(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|k| k.name == name)
}

/// Trainers of the same gang that go with a kind, besides its own nodes: their numbers follow those.
pub fn accomplices(name: &str) -> u32 {
    u32::from(name == bribed_minority::KIND.name)
}

/// Whether a kind surrounds a trainer: the first honest one then knows its nodes and one honest node only.
pub fn surrounds(name: &str) -> bool {
    name == eclipser::KIND.name
}

/// Which of its kind an attacker is.
#[derive(Clone, Copy, Debug)]
pub struct Seat {
    /// Its kind.
    pub kind: &'static str,
    /// Its number, from 0.
    pub number: u32,
    /// How many there are.
    pub names: u32,
    /// How hard it tries, thousandths.
    pub strength_milli: u32,
}

/// What all of one kind know.
#[derive(Default)]
pub struct Gang {
    /// Deltas they made, by model and round, in order.
    pub deltas: BTreeMap<(ModelId, u64), Vec<BlobHash>>,
    /// Shares of preimages they hold.
    pub shares: BTreeMap<(EscrowId, u8), Vec<ReleaseShare>>,
    /// Transactions seen, to be said again.
    pub seen: Vec<SignedTx>,
    /// Names that go with them.
    pub friends: BTreeSet<NodeId>,
    /// Anything else, counted.
    pub notes: BTreeMap<&'static str, u64>,
}

/// What an attacker has before it.
pub struct Desk<'a> {
    /// Its place.
    pub addr: Addr,
    /// Its name.
    pub me: NodeId,
    /// Its key.
    pub key: Arc<NodeKey>,
    /// The ledger: its own if it is a full node, else as it can be asked for.
    pub state: Rc<State>,
    /// Its node, if it is a full one.
    pub full: Option<&'a mut Full>,
    /// Virtual time.
    pub now_ms: u64,
    /// The network.
    pub chain: ChainId,
    /// Its dice.
    pub dice: &'a mut Dice,
    /// Which of its kind it is.
    pub seat: Seat,
    /// What its kind knows.
    pub gang: &'a mut Gang,
    /// Its wallet's view.
    pub lightning: &'a Lightning,
    /// Everybody's addresses.
    pub names: &'a BTreeMap<NodeId, Addr>,
}

impl Desk<'_> {
    /// A transaction under its own key.
    pub fn signed(&self, tx: Tx) -> Rc<SignedTx> {
        Rc::new(SignedTx::new(tx, &self.key, self.chain))
    }

    /// Something else in place of a transaction of its own engine, or nothing.
    pub fn instead(&mut self, said: &SignedTx, others: Vec<Tx>) -> Vec<Out> {
        if let Some(full) = &mut self.full {
            full.unsay(said.id());
        }
        others.into_iter().map(|tx| Out::Tx(self.signed(tx))).collect()
    }

    /// A transaction of its own engine, if this is one: full nodes gossip it, lite nodes give it to a peer.
    pub fn own_tx<'o>(&self, out: &'o Out) -> Option<&'o SignedTx> {
        let tx = match out {
            Out::Tx(tx) => tx.as_ref(),
            Out::Ask(_, request) => match request.as_ref() {
                Request::SubmitTx(tx) => tx.as_ref(),
                _ => return None,
            },
            _ => return None,
        };
        (tx.signer == self.me).then_some(tx)
    }

    /// Members of the committee in charge that are not itself.
    pub fn others(&self) -> Vec<NodeId> {
        self.state.validators().into_iter().filter(|m| *m != self.me).collect()
    }

    /// Whether it acts this time, with a probability of so many thousandths at usual strength.
    pub fn tries(&mut self, milli: u32) -> bool {
        let times = u64::from(milli) * u64::from(self.seat.strength_milli) / 1_000;
        self.dice.milli(u32::try_from(times).unwrap_or(u32::MAX))
    }
}

/// One attacker; by default everything is honest.
pub trait Attacker {
    /// What it hands in for a round; `None`: nothing.
    fn work(&mut self, _: &mut Desk<'_>, _: &TrainJob) -> Option<Work> {
        Some(Work::Honest)
    }
    /// What it handed in was made.
    fn trained(&mut self, _: &mut Desk<'_>, _: &TrainJob, _: &Made) {}
    /// Its engine wants this done.
    fn out(&mut self, _: &mut Desk<'_>, out: Out) -> Vec<Out> {
        vec![out]
    }
    /// Its node hears this.
    fn hears(&mut self, _: &mut Desk<'_>, _from: Addr, _: &Msg) -> Vec<Out> {
        Vec::new()
    }
    /// It replayed a round; `None`: it says it could not.
    fn judged(&mut self, _: &mut Desk<'_>, judged: Judged) -> Option<Judged> {
        Some(judged)
    }
    /// Whether it gives a blob of its own to a full node.
    fn serves(&self, _: BlobHash, _to: Addr) -> bool {
        true
    }
    /// Once a block interval.
    fn tick(&mut self, _: &mut Desk<'_>) -> Vec<Out> {
        Vec::new()
    }
}

/// Names after the first begin only when the first one's delta of the round is there to be used.
fn wait_for_first(desk: &Desk<'_>, waiting: &mut Vec<TrainJob>, out: Out) -> Vec<Out> {
    match out {
        Out::Train(job) if desk.seat.number > 0 && !desk.gang.deltas.contains_key(&(job.model, job.round)) => {
            // a later round makes an earlier one pointless
            waiting.retain(|w| w.model != job.model);
            waiting.push(*job);
            Vec::new()
        }
        out => vec![out],
    }
}
