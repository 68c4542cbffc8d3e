//! What a run is: a readable file that says how many of whom, for how long, in which weather, with which faults and
//! attackers. Everything else is drawn from the seed.

use crate::attackers;
use crate::sim::Dice;
use oda_consensus::epoch::Federation;
use oda_consensus::escrow::Terms;
use oda_consensus::genesis::Genesis;
use oda_consensus::manifest::Timing;
use serde::{Deserialize, Serialize};

/// The scenarios that come with the program, by name.
const BUILT_IN: [(&str, &str); 8] = [
    ("honest", include_str!("../scenarios/honest.toml")),
    ("adversarial", include_str!("../scenarios/adversarial.toml")),
    ("churn", include_str!("../scenarios/churn.toml")),
    ("partition", include_str!("../scenarios/partition.toml")),
    ("economy", include_str!("../scenarios/economy.toml")),
    ("scale", include_str!("../scenarios/scale.toml")),
    ("weights", include_str!("../scenarios/weights.toml")),
    ("storm", include_str!("../scenarios/storm.toml")),
];

/// Largest network.
pub const MAX_NODES: u32 = 5_000;

/// One kind of attacker in a scenario.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attack {
    /// Its name: a file in `simnet/attackers/`.
    pub name: String,
    /// How many nodes; 0: what its kind wants by default (f validators, a trainer or two).
    #[serde(default)]
    pub count: u32,
    /// How hard it tries, thousandths of its usual strength.
    #[serde(default = "usual")]
    pub strength_milli: u32,
}

fn usual() -> u32 {
    1_000
}

/// What the network does to messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Weather {
    /// Least and most delay of a message, ms. What overtakes what follows from it.
    pub delay_ms: (u64, u64),
    /// Messages lost, thousandths.
    pub loss_milli: u32,
    /// Messages that arrive twice, thousandths.
    pub twice_milli: u32,
}

impl Default for Weather {
    fn default() -> Self {
        Self { delay_ms: (10, 120), loss_milli: 0, twice_milli: 0 }
    }
}

/// How often what breaks: mean number an hour over the whole network, while the faults last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// A node's process dies and comes back after a while.
    pub crashes: u32,
    /// A node stands still (a suspended laptop) and goes on.
    pub pauses: u32,
    /// Two halves of the network do not hear each other.
    pub partitions: u32,
    /// One node is not heard by some of the others, but hears them.
    pub one_way: u32,
    /// Everything for one node arrives only when the clog is over.
    pub clogs: u32,
    /// One node's messages take seconds.
    pub slow: u32,
    /// One node's clock is wrong by up to a minute.
    pub skews: u32,
    /// A write fails, or is made and reported failed, or tears the process down.
    pub disk: u32,
    /// No write succeeds until the operator makes room.
    pub full_disks: u32,
    /// An old record on a stopped node's disk is damaged.
    pub bit_flips: u32,
    /// Lightning payments that fail at the first try, thousandths.
    pub payments_milli: u32,
    /// The Bitcoin chain takes back one to three blocks.
    pub reorgs: u32,
    /// Bitcoin finds six to thirty blocks at once, or none for hours.
    pub jumps: u32,
}

impl Faults {
    /// Whether anything is ever broken.
    pub fn any(&self) -> bool {
        *self != Self::default()
    }
}

/// How the models learn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LearningKind {
    /// Figures drawn as they were measured on real models (`docs/results/pay.md`).
    #[default]
    Stub,
    /// Softmax regression in plain Rust on Fashion-MNIST.
    Reference,
}

/// A run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scenario {
    /// Its name.
    pub name: String,
    /// What it shows.
    pub about: String,
    /// Virtual minutes during which faults and attacks last.
    pub minutes: u64,
    /// Virtual minutes after which, faults over, everything honest must have come to its end.
    pub settle_minutes: u64,
    /// Virtual ms between blocks.
    pub block_interval_ms: u32,
    /// Validators.
    pub validators: u32,
    /// Members of a committee.
    pub committee: u16,
    /// Blocks of an epoch; 0: one committee for ever.
    pub epoch_blocks: u32,
    /// Full nodes that do not validate, besides the sponsors'.
    pub followers: u32,
    /// Honest trainers.
    pub trainers: u32,
    /// Sponsors, each with its own full node; they fund the models in turn.
    pub sponsors: u32,
    /// Models.
    pub models: u32,
    /// Rounds' timing, blocks.
    pub timing: Timing,
    /// Millisatoshi per micro-nat of proven improvement; 0: the stub's usual rate.
    pub terms: Terms,
    /// Each sponsor's budget for each of its models, msat.
    pub budget_msat: u64,
    /// What a sponsor asks for each claim (P8), msat.
    pub fee_msat: u64,
    /// How models learn.
    pub learning: LearningKind,
    /// Whether the sponsors invite the honest trainers (P8).
    pub guests: bool,
    /// Network.
    pub weather: Weather,
    /// Faults.
    pub faults: Faults,
    /// Attackers.
    pub attackers: Vec<Attack>,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            name: "unnamed".into(),
            about: String::new(),
            minutes: 120,
            settle_minutes: 90,
            block_interval_ms: 20_000,
            validators: 7,
            committee: 4,
            epoch_blocks: 60,
            followers: 0,
            trainers: 4,
            sponsors: 1,
            models: 1,
            timing: Timing { commit_blocks: 8, linger_blocks: 2, reveal_blocks: 8 },
            terms: Terms { rate_msat: 5_000, unit_msat: 500_000, tranches: 3 },
            budget_msat: 1_000_000_000_000,
            fee_msat: 5_000,
            learning: LearningKind::Stub,
            guests: false,
            weather: Weather::default(),
            faults: Faults::default(),
            attackers: Vec::new(),
        }
    }
}

/// A scenario that cannot be run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScenarioError {
    /// No such name.
    #[error("there is no scenario `{0}`: `simnet list` shows them; a file is given by its path")]
    Unknown(String),
    /// Not read.
    #[error("scenario {0}")]
    Unreadable(String),
    /// Out of its limits.
    #[error("{what}: {limit}")]
    Impossible {
        /// What was asked.
        what: String,
        /// What is possible.
        limit: String,
    },
}

impl Scenario {
    /// All that come with the program: name and text.
    pub fn built_in() -> impl Iterator<Item = (&'static str, &'static str)> {
        BUILT_IN.into_iter()
    }

    /// One that comes with the program.
    ///
    /// # Errors
    /// If there is none of this name.
    pub fn named(name: &str) -> Result<Self, ScenarioError> {
        let found = BUILT_IN.iter().find(|(known, _)| *known == name);
        Self::parse(found.ok_or_else(|| ScenarioError::Unknown(name.into()))?.1)
    }

    /// From the text of a file.
    ///
    /// # Errors
    /// If it is not one, or cannot be run.
    pub fn parse(text: &str) -> Result<Self, ScenarioError> {
        let scenario: Self = toml::from_str(text).map_err(|e| ScenarioError::Unreadable(e.to_string()))?;
        scenario.check()?;
        Ok(scenario)
    }

    /// Validators that may fail at once: f of n = 3f + 1.
    pub fn tolerated(&self) -> u32 {
        u32::from(self.committee.saturating_sub(1)) / 3
    }

    /// The federation of its genesis.
    pub fn federation(&self) -> Federation {
        Federation {
            committee: self.committee,
            epoch_blocks: self.epoch_blocks,
            dkg_blocks: 8,
            checkpoint_blocks: 20,
            score_grace_blocks: 3,
        }
    }

    /// Nodes of an attack: what it asks for, or what its kind usually has.
    pub fn count_of(&self, attack: &Attack) -> u32 {
        match (attack.count, attackers::kind(&attack.name)) {
            (0, Some(kind)) if kind.role == attackers::Role::Validator => self.tolerated().max(1),
            (0, Some(kind)) => kind.names,
            (count, _) => count,
        }
    }

    /// # Errors
    /// What is impossible, and the limit it breaks.
    pub fn check(&self) -> Result<(), ScenarioError> {
        let fail = |what: String, limit: String| Err(ScenarioError::Impossible { what, limit });
        let (n, most) = (self.validators, Genesis::MAX_VALIDATORS);
        if n == 0 || n as usize > most {
            return fail(format!("{n} validators"), format!("1 to {most} are supported"));
        }
        if self.committee < 4 || u32::from(self.committee) > n {
            let limit = format!("it has at least 4 members (n = 3f + 1) and at most the {n} validators of the network");
            return fail(format!("a committee of {}", self.committee), limit);
        }
        if self.epoch_blocks != 0 && self.epoch_blocks < 40 {
            return fail(
                format!("epochs of {} blocks", self.epoch_blocks),
                "0 or at least 40: a key generation takes up to 32".into(),
            );
        }
        if !(1_000..=600_000).contains(&self.block_interval_ms) {
            return fail(format!("blocks every {} ms", self.block_interval_ms), "1000 to 600000".into());
        }
        if self.minutes == 0 || self.minutes > 100_000 {
            return fail(format!("{} minutes", self.minutes), "1 to 100000".into());
        }
        if self.sponsors == 0 || self.models == 0 || self.models > 64 || self.sponsors > 16 {
            return fail(format!("{} sponsors, {} models", self.sponsors, self.models), "1 to 16, and 1 to 64".into());
        }
        let mut bad_validators = 0;
        let mut nodes = n + self.followers + self.sponsors + self.trainers;
        for attack in &self.attackers {
            let Some(kind) = attackers::kind(&attack.name) else {
                let known: Vec<&str> = attackers::kinds().iter().map(|k| k.name).collect();
                return fail(format!("attacker `{}`", attack.name), format!("there are {}", known.join(", ")));
            };
            let count = self.count_of(attack);
            match kind.role {
                attackers::Role::Validator => bad_validators += count,
                attackers::Role::Sponsor if count > self.sponsors => {
                    return fail(format!("{count} x {}", attack.name), format!("there are {} sponsors", self.sponsors));
                }
                attackers::Role::Sponsor => {}
                _ => nodes += count,
            }
        }
        let f = self.tolerated();
        if bad_validators > f.max(1) && bad_validators > n.saturating_sub(u32::from(self.committee) - f) {
            let limit = format!(
                "a committee of {} bears f = {f}; with so many, no draw leaves an honest quorum",
                self.committee
            );
            return fail(format!("{bad_validators} hostile validators of {n}"), limit);
        }
        if nodes > MAX_NODES {
            return fail(format!("{nodes} nodes"), format!("at most {MAX_NODES}"));
        }
        if !self.terms.is_possible() {
            return fail("the terms of payment".into(), "1 to 16 tranches, unit and rate above 0, no overflow".into());
        }
        Ok(())
    }

    /// A small network drawn from a seed: any weather, faults and attackers that a federation must bear.
    pub fn drawn(seed: u64) -> Self {
        let mut dice = Dice::new(seed, "scenario");
        let committee = if dice.milli(250) { 7 } else { 4 };
        let mut scenario = Self {
            name: format!("drawn {seed}"),
            about: "A small network drawn from its seed.".into(),
            minutes: 10,
            validators: u32::from(committee) + dice.below(4) as u32,
            committee,
            epoch_blocks: if dice.milli(500) { 40 } else { 60 },
            trainers: 2 + dice.below(3) as u32,
            sponsors: 1 + dice.below(2) as u32,
            models: 1 + dice.below(2) as u32,
            fee_msat: if dice.milli(500) { 5_000 } else { 0 },
            ..Self::default()
        };
        if dice.milli(700) {
            let most = dice.between(50, 2_000);
            let (loss_milli, twice_milli) = (dice.below(60) as u32, dice.below(60) as u32);
            scenario.weather = Weather { delay_ms: (10, most), loss_milli, twice_milli };
        }
        if dice.milli(700) {
            let f = &mut scenario.faults;
            let rates = [
                &mut f.crashes,
                &mut f.pauses,
                &mut f.partitions,
                &mut f.one_way,
                &mut f.clogs,
                &mut f.slow,
                &mut f.skews,
                &mut f.disk,
                &mut f.full_disks,
                &mut f.bit_flips,
                &mut f.reorgs,
                &mut f.jumps,
            ];
            for rate in rates {
                *rate = if dice.milli(400) { dice.below(8) as u32 } else { 0 };
            }
            f.payments_milli = if dice.milli(300) { dice.below(300) as u32 } else { 0 };
        }
        for _ in 0..dice.below(4) {
            let Some(kind) = dice.pick(attackers::kinds()) else { break };
            let hostile = |a: &Attack| attackers::kind(&a.name).is_some_and(|k| k.role == attackers::Role::Validator);
            let full = kind.role == attackers::Role::Validator && scenario.attackers.iter().any(hostile);
            if full || scenario.attackers.iter().any(|a| a.name == kind.name) {
                continue;
            }
            scenario.attackers.push(Attack { name: kind.name.into(), count: 0, strength_milli: 1_000 });
            // a hostile sponsor beside an honest one
            if kind.role == attackers::Role::Sponsor {
                (scenario.sponsors, scenario.models) = (2, 2);
            }
        }
        scenario
    }

    /// The same scenario with about this many nodes: trainers are added or left out, and attackers in proportion.
    ///
    /// # Errors
    /// If that is too few or too many.
    pub fn with_nodes(mut self, nodes: u32) -> Result<Self, ScenarioError> {
        let fixed = self.validators + self.followers + self.sponsors;
        if nodes <= fixed {
            let limit = format!("{} full nodes are fixed by the scenario; give more", fixed);
            return Err(ScenarioError::Impossible { what: format!("{nodes} nodes"), limit });
        }
        let is_trainer = |a: &Attack| attackers::kind(&a.name).is_some_and(|k| k.role == attackers::Role::Trainer);
        let bad: u32 = self.attackers.iter().filter(|a| is_trainer(a)).map(|a| self.count_of(a)).sum();
        let (free, all) = (nodes - fixed, (self.trainers + bad).max(1));
        let counts: Vec<u32> = self.attackers.iter().map(|a| self.count_of(a)).collect();
        let mut used = 0;
        for (attack, count) in self.attackers.iter_mut().zip(counts).filter(|(a, _)| is_trainer(a)) {
            attack.count = (count * free / all).max(1);
            used += attack.count;
        }
        self.trainers = free.saturating_sub(used).max(1);
        self.check()?;
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_come_with_the_program_can_be_run() {
        for (name, _) in Scenario::built_in() {
            let scenario = Scenario::named(name).unwrap();
            assert_eq!(scenario.name, name);
            assert!(!scenario.about.is_empty(), "{name} does not say what it shows");
        }
    }

    #[test]
    fn impossible_ones_name_the_limit() {
        let error = |change: &dyn Fn(&mut Scenario)| {
            let mut scenario = Scenario::default();
            change(&mut scenario);
            scenario.check().err().map_or_else(|| "accepted".into(), |e| e.to_string())
        };
        let attack = |name: &str, count| Attack { name: name.into(), count, strength_milli: 1_000 };
        for (named, change) in [
            ("at most the 7 validators", &(|s: &mut Scenario| s.committee = 8) as &dyn Fn(&mut Scenario)),
            ("at least 4 members", &|s| s.committee = 3),
            ("1 to 67 are supported", &|s| s.validators = 68),
            ("a committee of 4 bears f = 1", &|s| s.attackers = vec![attack("lazy_validator", 5)]),
            ("there are bad_dealer", &|s| s.attackers = vec![attack("martian", 1)]),
            ("0 or at least 40", &|s| s.epoch_blocks = 10),
            ("at most 5000", &|s| s.trainers = 5_000),
        ] {
            assert!(error(change).contains(named), "{named}: {}", error(change));
        }
        assert_eq!(error(&|_| {}), "accepted");
        assert!(Scenario::named("nothing").unwrap_err().to_string().contains("simnet list"));
        assert!(Scenario::parse("martians = 3").unwrap_err().to_string().contains("martians"));
    }
}
