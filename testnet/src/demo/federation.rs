//! What the demo shows of the federation: who is in charge, who was evicted; and the validator it kills.

use crate::config::Role;
use crate::network::Network;
use crate::rpc::{Federation, Record, Rpc, ValidatorStatus};
use anyhow::Result;
use oda_consensus::ids::NodeId;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// The federation's part of the report.
#[derive(Clone, Debug, Default, Serialize)]
pub struct FederationSum {
    /// Validators.
    pub validators: usize,
    /// Members of a committee, and how many of them sign.
    pub committee: (usize, usize),
    /// Committees that took over in this run.
    pub rotations: u64,
    /// Most rounds that ended under one committee.
    pub most_rounds_per_epoch: usize,
    /// Validators evicted, with the reason.
    pub evicted: Vec<(String, String)>,
    /// Decoys that the members scored as their known answer says, and those they did not.
    pub decoys: (u64, u64),
    /// Validator killed by the demo.
    pub killed: Option<String>,
}

/// Watches the federation.
pub struct Watcher {
    names: BTreeMap<NodeId, String>,
    liars: BTreeSet<NodeId>,
    kill: bool,
    epoch: Option<u64>,
    rounds_at_change: usize,
    sum: FederationSum,
}

impl Watcher {
    /// Watches that network; kills a seated honest validator after the first round, if told to.
    pub fn new(network: &Network, kill: bool) -> Self {
        let nodes = &network.file().nodes;
        let names = nodes.iter().map(|n| (n.node, n.name.clone())).collect();
        let liars = nodes.iter().filter(|n| n.role == Role::Validator && n.cheat).map(|n| n.node).collect();
        Self { names, liars, kill, epoch: None, rounds_at_change: 0, sum: FederationSum::default() }
    }

    fn name(&self, node: &NodeId) -> String {
        self.names.get(node).cloned().unwrap_or_else(|| node.short())
    }

    /// What has changed since the last look.
    ///
    /// # Errors
    /// If the validator to be killed does not run.
    pub async fn look(&mut self, network: &mut Network, rpc: &Rpc, rounds: usize) -> Result<Vec<String>> {
        let Ok(f) = rpc.federation().await else { return Ok(Vec::new()) };
        let mut lines = Vec::new();
        if self.epoch != Some(f.epoch) {
            let members: Vec<String> = f.members.iter().map(|m| self.name(m)).collect();
            lines.push(format!("epoch {}: {} in charge since block {}", f.epoch, members.join(", "), f.start_height));
            if self.epoch.is_some() {
                self.sum.rotations += 1;
                self.rounds_at_change = rounds;
            }
            self.epoch = Some(f.epoch);
        }
        self.sum.most_rounds_per_epoch = self.sum.most_rounds_per_epoch.max(rounds - self.rounds_at_change.min(rounds));
        (self.sum.validators, self.sum.committee) = (f.validators.len(), (f.members.len(), f.threshold));
        let decoys = |count: fn(&Record) -> u64| f.validators.iter().map(|v| count(&v.record)).sum();
        self.sum.decoys = (decoys(|r| r.decoys_passed), decoys(|r| r.decoys_failed));
        for v in &f.validators {
            let ValidatorStatus::Evicted(why) = &v.status else { continue };
            let (name, why) = (self.name(&v.node), why.replace('_', " "));
            if !self.sum.evicted.iter().any(|(n, _)| *n == name) {
                lines.push(format!("{name} evicted: {why}"));
                self.sum.evicted.push((name, why));
            }
        }
        if let Some(victim) = self.victim(network, &f, rounds) {
            network.kill9(&victim).await?;
            lines.push(format!("{victim} killed, a member of the committee in charge"));
            self.sum.killed = Some(victim);
        }
        Ok(lines)
    }

    /// A committee of n survives n - t faults: nobody is killed while a liar sits in it too.
    fn victim(&self, network: &Network, f: &Federation, rounds: usize) -> Option<String> {
        if !self.kill || self.sum.killed.is_some() || rounds == 0 || f.members.iter().any(|m| self.liars.contains(m)) {
            return None;
        }
        let first = network.names(Role::Validator).first().cloned();
        f.members.iter().map(|m| self.name(m)).find(|name| Some(name) != first.as_ref())
    }

    /// Whether a validator was evicted.
    pub fn any_evicted(&self) -> bool {
        !self.sum.evicted.is_empty()
    }

    /// The report.
    pub fn sum(&self) -> FederationSum {
        self.sum.clone()
    }
}
