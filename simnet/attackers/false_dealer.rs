//! Deals something else than it hashed: work is shown, shares are rebuilt, and the payment cannot be claimed.
//!
//! Nothing in a dealt secret shows this beforehand. So the sponsor commits to more candidates than it needs, the payee
//! draws, and the seeds of the others must be shown. This one makes one of its candidates false and hopes.

use super::{Attacker, Desk, Kind, Role};
use crate::sim::Out;
use oda_consensus::escrow::{deal_digest, kept};
use oda_consensus::frost::{Deal, deal_preimage};
use oda_consensus::ids::EscrowId;
use oda_consensus::state::State;
use oda_consensus::tx::{Tx, claim_escrow};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

pub(super) const KIND: Kind = Kind {
    name: "false_dealer",
    rows: &[15],
    role: Role::Sponsor,
    names: 1,
    goal: "get work without paying for it",
    gain: "a round's work",
    stopped_by: "P2: the payee draws which candidates are shown, before its work is; what was not found is proven by the shares \
                 when it is due, and ends the sponsor's promises",
    left: "with T = 3 one false candidate stays unseen with 3/8, and then costs its trainer that tranche, once",
    make: || Box::new(FalseDealer),
};

struct FalseDealer;

/// A deal of another secret than any candidate's; the same each time.
fn lie(state: &State, epoch: u64, escrow: EscrowId) -> Option<Deal> {
    let group = &state.epoch_state(epoch)?.group;
    let members = state.encryption_keys(group.members())?;
    let mut rng = ChaCha20Rng::from_seed(escrow.0);
    deal_preimage(&members, group.threshold(), &escrow.0, &mut rng).ok().map(|(.., deal)| deal)
}

/// Which candidate is false.
const FALSE: usize = 0;

impl Attacker for FalseDealer {
    fn out(&mut self, desk: &mut Desk<'_>, out: Out) -> Vec<Out> {
        let Some(said) = desk.own_tx(&out).cloned() else { return vec![out] };
        match said.tx.clone() {
            Tx::Offer(claim, mut offer) if desk.tries(800) => {
                let lie = lie(&desk.state, offer.epoch, claim_escrow(claim));
                if let (Some(lie), Some(candidate)) = (lie, offer.candidates.get_mut(FALSE)) {
                    candidate.deal = deal_digest(&lie);
                }
                *desk.gang.notes.entry("false offers").or_default() += 1;
                desk.instead(&said, vec![Tx::Offer(claim, offer)])
            }
            Tx::Deal(id, mut opening) => {
                let state = desk.state.clone();
                let Some(escrow) = state.escrow(id) else { return vec![out] };
                let lie = lie(&state, escrow.epoch, id);
                let lied = lie.filter(|l| escrow.candidates.get(FALSE).is_some_and(|c| c.deal == deal_digest(l)));
                let places = escrow.choice.map(|choice| kept(choice, id, escrow.terms.tranches));
                let tranche = places.and_then(|places| places.iter().position(|place| *place == FALSE));
                match (lied, tranche) {
                    (Some(lie), Some(tranche)) => {
                        opening.deals.get_mut(tranche).into_iter().for_each(|deal| *deal = lie.clone());
                        desk.instead(&said, vec![Tx::Deal(id, opening)])
                    }
                    // it would have to show a seed that there is not: refused by every node
                    _ => vec![out],
                }
            }
            _ => vec![out],
        }
    }
}
