//! Collects what the books are made of.

use crate::config::Role;
use crate::demo::follow::Follower;
use crate::demo::phases::RoundPhases;
use crate::demo::summary::{Books, Channels, Summary, draw_up};
use crate::demo::view::RoundView;
use crate::network::Network;
use crate::rpc::{Payment, Rpc};
use crate::trainer::Phase;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;

/// Tries until the ledger stood still while it was read.
const READ_TRIES: usize = 20;

/// Draws up the books of one run.
pub struct Accountant {
    sponsors: Vec<Rpc>,
    first_round: u64,
}

impl Accountant {
    /// An accountant of the rounds from `first_round` on.
    ///
    /// # Errors
    /// If a sponsor has no RPC address.
    pub fn new(network: &Network, first_round: u64) -> Result<Self> {
        let sponsors = network.names(Role::Sponsor).iter().map(|name| network.rpc(name)).collect::<Result<_>>()?;
        Ok(Self { sponsors, first_round })
    }

    /// Reads everything again and draws up the books.
    ///
    /// # Errors
    /// If a node does not answer.
    pub async fn summary(&mut self, network: &Network, follower: &mut Follower) -> Result<Summary> {
        let rpc = follower.rpc().await?;
        let mut books = None;
        for _ in 0..READ_TRIES {
            let before = rpc.status().await?.height;
            let read = self.read(network, &rpc).await?;
            if rpc.status().await?.height == before {
                books = Some(read);
                break;
            }
        }
        let mut books = books.context("the ledger grew during every reading")?;
        books.rounds = self.rounds(network, follower);
        let id = books.model.id.to_string();
        let phases: Vec<RoundPhases> = books.rounds.iter().filter_map(|r| follower.timeline.phases(&id, r)).collect();
        Ok(draw_up(&books, network.file(), phases))
    }

    /// Everything of the ledger, and the payments.
    async fn read(&self, network: &Network, rpc: &Rpc) -> Result<Books> {
        let model = rpc.models().await?.into_iter().find(|m| m.round.is_some()).context("no model is funded")?;
        let mut outcomes = Vec::new();
        loop {
            let page = rpc.outcomes(model.id, outcomes.len() as u64 + 1).await?;
            if page.is_empty() {
                break;
            }
            outcomes.extend(page);
        }
        let mut escrows = BTreeMap::new();
        for outcome in &outcomes {
            for info in rpc.claims(model.id, outcome.outcome.round).await? {
                if let Some(escrow) = info.escrow {
                    ensure!(
                        escrow.payee == info.claim.trainer,
                        "escrow {} of claim {} pays another than its trainer",
                        escrow.id,
                        info.claim.id
                    );
                    escrows.insert(escrow.id, escrow);
                }
            }
        }
        let credit = rpc.credit(model.id).await?;
        let mut payments = Vec::new();
        for sponsor in &self.sponsors {
            payments.extend(sponsor.payments().await?);
        }
        let channels = self.channels(network, &payments).await?;
        Ok(Books { model, outcomes, credit, escrows, payments, rounds: Vec::new(), channels })
    }

    /// What the wallets say of their channels. A payment is in flight from the trainer's first word of
    /// it until its last; the books are drawn up again until no word is under way.
    async fn channels(&self, network: &Network, payments: &[Payment]) -> Result<Channels> {
        let mut channels = Channels { capacity_msat: 0, sponsors_msat: 0, trainers_msat: 0, in_flight_msat: 0 };
        for sponsor in &self.sponsors {
            let wallet = sponsor.wallet().await?;
            channels.sponsors_msat += wallet.lightning_msat;
            channels.capacity_msat +=
                wallet.channels.iter().filter(|c| c.usable).map(|c| c.capacity_sat * 1000).sum::<u64>();
        }
        for name in network.names(Role::Trainer) {
            let facts = network.trainer(&name)?.facts();
            channels.trainers_msat += facts.wallet.map_or(0, |(msat, _)| msat);
            let held = facts
                .claims
                .iter()
                .filter(|(_, c)| matches!(c.phase, Phase::Held | Phase::Claiming))
                .map(|(id, _)| *id);
            channels.in_flight_msat +=
                held.flat_map(|id| payments.iter().filter(move |p| p.claim == id)).map(|p| p.amount_msat).sum::<u64>();
        }
        Ok(channels)
    }

    /// The rounds of this run that are over, with what the trainers say now.
    fn rounds(&self, network: &Network, follower: &Follower) -> Vec<RoundView> {
        let mut rounds: Vec<RoundView> = follower.over().range(self.first_round..).map(|(_, r)| r.clone()).collect();
        for claim in rounds.iter_mut().flat_map(|r| &mut r.claims) {
            let facts = network.trainer(&claim.trainer).map(|t| t.facts());
            claim.own_phase = facts.ok().and_then(|f| f.claims.get(&claim.claim).map(|c| c.phase));
        }
        rounds
    }
}
