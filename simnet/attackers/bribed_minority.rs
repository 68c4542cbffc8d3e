//! As many members as the committee bears work for one trainer: they call its noise good, give it their shares of the
//! preimages as soon as it is dealt to, and give nobody else any.
//!
//! The trainer hands in random numbers, which cost nothing. It needs either an outcome that calls them good or a
//! threshold of shares; the members it bribed are fewer than either takes.

use super::{Attacker, Desk, Kind, Role};
use crate::learning::Work;
use crate::sim::Out;
use oda_consensus::engine::trainer::TrainJob;
use oda_consensus::engine::validator::Judged;
use oda_consensus::frost::rebuild;
use oda_consensus::ids::{EscrowId, NodeId};
use oda_consensus::score::Measurement;
use oda_consensus::wire::{Request, Response};
use std::rc::Rc;

pub(super) const KIND: Kind = Kind {
    name: "bribed_minority",
    rows: &[7],
    role: Role::Validator,
    names: 1,
    goal: "have an accomplice's noise paid, with f of n = 3f + 1 members bribed",
    gain: "the accomplice's whole escrow, each round",
    stopped_by: "C3: an outcome and a preimage both take t = floor(2n/3) + 1 members; C6: false scores evict as soon as the \
                 true outcome enters; P4: honest members give shares only of what is released",
    left: "a bribed quorum is the stated trust limit; f bribed members may keep their shares from others, which costs those nothing",
    make: || Box::new(Bribed),
};

struct Bribed;

/// Whether a trainer is one of them.
fn is_ours(desk: &Desk<'_>, trainer: NodeId) -> bool {
    desk.gang.friends.contains(&trainer)
}

impl Attacker for Bribed {
    fn work(&mut self, desk: &mut Desk<'_>, _: &TrainJob) -> Option<Work> {
        desk.gang.friends.insert(desk.me);
        Some(Work::Noise)
    }

    fn judged(&mut self, desk: &mut Desk<'_>, mut judged: Judged) -> Option<Judged> {
        let good = judged.measured.claims.iter().find_map(|(_, trainer, m)| match m {
            Measurement::Scored(s) if s.probe.is_some() && !is_ours(desk, *trainer) => Some(*s),
            _ => None,
        });
        for (_, trainer, measurement) in &mut judged.measured.claims {
            if let (true, Some(mut scores)) = (is_ours(desk, *trainer), good) {
                scores.norm_micro += 1;
                *measurement = Measurement::Scored(scores);
            }
        }
        Some(judged)
    }

    fn out(&mut self, _: &mut Desk<'_>, out: Out) -> Vec<Out> {
        vec![match out {
            Out::Answer(to, request, _) if matches!(request.as_ref(), Request::Shares(_)) => {
                Out::Answer(to, request, Rc::new(Response::Refused("not now".into())))
            }
            out => out,
        }]
    }

    fn tick(&mut self, desk: &mut Desk<'_>) -> Vec<Out> {
        let state = desk.state.clone();
        let ours = state.escrows().filter(|e| !e.tranches.is_empty() && is_ours(desk, e.payee));
        let ours: Vec<EscrowId> = ours.map(|e| e.id).collect();
        let mut out = Vec::new();
        for id in ours {
            if let Some(full) = &mut desk.full {
                for (tranche, share) in full.own_shares(id).iter() {
                    let known = desk.gang.shares.entry((id, *tranche)).or_default();
                    if !known.iter().any(|s| s.index == share.index) {
                        known.push(share.clone());
                    }
                }
                continue;
            }
            let Some(escrow) = state.escrow(id).filter(|e| e.payee == desk.me) else { continue };
            for (t, tranche) in (0u8..).zip(&escrow.tranches) {
                let shares = desk.gang.shares.get(&(id, t)).map_or(&[][..], Vec::as_slice);
                match rebuild(&tranche.deal, tranche.payment_hash, shares) {
                    Ok(preimage) => out.push(Out::Claim(tranche.payment_hash, preimage)),
                    Err(_) => *desk.gang.notes.entry("too few shares").or_default() += 1,
                }
            }
        }
        out
    }
}
