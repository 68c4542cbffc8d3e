//! Follows a network over JSON-RPC and the trainers' own words, and builds the [`View`].

use crate::config::Role;
use crate::demo::phases::Timeline;
use crate::demo::view::{ClaimView, RoundResult, RoundView, View};
use crate::network::Network;
use crate::rpc::{Model, Rpc};
use crate::trainer::Facts;
use anyhow::{Context, Result};
use oda_consensus::ids::{ModelId, NodeId};
use std::collections::BTreeMap;

/// Most rounds that are not over at once; older ones are shown as they are.
const MAX_OPEN: usize = 16;

/// Watches the model that the network's sponsor funds.
pub struct Follower {
    rpcs: Vec<Rpc>,
    names: BTreeMap<NodeId, String>,
    trainers: Vec<String>,
    /// When what happened.
    pub timeline: Timeline,
    /// First round that is not known to be over.
    next: u64,
    over: BTreeMap<u64, RoundView>,
}

impl Follower {
    /// A follower of that network, which must be running.
    ///
    /// # Errors
    /// If it has no full node.
    pub fn new(network: &Network) -> Result<Self> {
        let rpcs = network.names(Role::Validator).iter().map(|name| network.rpc(name)).collect::<Result<Vec<_>>>()?;
        anyhow::ensure!(!rpcs.is_empty(), "the network has no validator to ask");
        let names = network.file().nodes.iter().map(|n| (n.node, n.name.clone())).collect();
        let trainers = network.names(Role::Trainer);
        Ok(Self { rpcs, names, trainers, timeline: Timeline::default(), next: 1, over: BTreeMap::new() })
    }

    /// A validator that answers; another one is tried when one is down.
    ///
    /// # Errors
    /// If none does.
    pub async fn rpc(&mut self) -> Result<Rpc> {
        for _ in 0..self.rpcs.len() {
            let Some(rpc) = self.rpcs.first() else { break };
            if rpc.status().await.is_ok() {
                return Ok(rpc.clone());
            }
            self.rpcs.rotate_left(1);
        }
        anyhow::bail!("no validator answers")
    }

    /// The funded model, once the ledger has it.
    ///
    /// # Errors
    /// If no validator answers.
    pub async fn model(&mut self) -> Result<Option<Model>> {
        let models = self.rpc().await?.models().await?;
        Ok(models.into_iter().find(|m| m.round.is_some()))
    }

    /// Rounds that are over, oldest first.
    pub fn over(&self) -> &BTreeMap<u64, RoundView> {
        &self.over
    }

    /// Forgets that rounds were shown, so that a resumed network begins with its newest.
    pub fn skip_to(&mut self, round: u64) {
        self.next = round;
    }

    /// Looks at everything.
    ///
    /// # Errors
    /// If no validator answers.
    pub async fn look(&mut self, network: &Network) -> Result<View> {
        let rpc = self.rpc().await?;
        let status = rpc.status().await?;
        let facts: BTreeMap<String, Facts> =
            self.trainers.iter().filter_map(|name| Some((name.clone(), network.trainer(name).ok()?.facts()))).collect();
        let mut view = View {
            height: status.height,
            chain_height: network.driver().height().await.unwrap_or(0),
            trainers: facts.iter().map(|(name, f)| (name.clone(), f.activity.clone())).collect(),
            ..View::default()
        };
        let fresh = self.timeline.wanted_blocks();
        self.timeline.take(&rpc.blocks(None, fresh).await?);
        let Some(model) = rpc.models().await?.into_iter().find(|m| m.round.is_some()) else { return Ok(view) };
        let Some(current) = model.round.as_ref().map(|r| r.number) else { return Ok(view) };
        let outcomes: BTreeMap<u64, _> =
            rpc.outcomes(model.id, self.next).await?.into_iter().map(|o| (o.outcome.round, o)).collect();
        for number in (self.next..=current).take(MAX_OPEN) {
            let outcome = outcomes.get(&number);
            // between two calls a round may just have ended: it is looked at again next time
            let Ok(claims) = rpc.claims(model.id, number).await else { break };
            let adopted = outcome.is_some_and(|o| o.outcome.adopted());
            let claims = claims
                .iter()
                .map(|info| {
                    let known = self.names.get(&info.claim.trainer).cloned();
                    let name = match info.claim.decoy {
                        true => "decoy".into(),
                        false => known.unwrap_or_else(|| info.claim.trainer.short()),
                    };
                    ClaimView::of(info, &name, facts.get(&name), &model.manifest.judging, adopted)
                })
                .collect();
            let mut round = RoundView { round: number, result: outcome.map(RoundResult::of), claims };
            round.claims.sort_by(|a, b| a.trainer.cmp(&b.trainer));
            if round.is_over() && number == self.next {
                self.next += 1;
                self.over.insert(number, round.clone());
                view.ended.push(round);
            } else {
                view.open.push(round);
            }
        }
        Ok(view)
    }

    /// The model's id, once there is one.
    ///
    /// # Errors
    /// If there is none yet.
    pub async fn model_id(&mut self) -> Result<ModelId> {
        Ok(self.model().await?.context("no model is funded yet")?.id)
    }
}
