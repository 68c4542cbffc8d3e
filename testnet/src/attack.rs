//! `testnet attack`: one kind of attacker in a network of real processes.
//!
//! The simulator runs a thousand times as many networks and every attacker there is; this runs the few that are built
//! into real nodes, under the simulator's names, so that what the simulator says can be held against what processes,
//! sockets, libtorch and LDK do.

use crate::demo;
use crate::genesis;
use anyhow::{Result, bail};
use clap::{Args, Parser};

/// An attacker that real nodes can play.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attack {
    /// Its name, in the simulator too.
    pub name: &'static str,
    /// Whether validators play it, not trainers.
    pub validator: bool,
    /// What it does.
    pub does: &'static str,
    /// What becomes of it, and by which rule.
    pub stopped_by: &'static str,
}

const fn trainer(name: &'static str, does: &'static str, stopped_by: &'static str) -> Attack {
    Attack { name, validator: false, does, stopped_by }
}

const fn validator(name: &'static str, does: &'static str, stopped_by: &'static str) -> Attack {
    Attack { name, validator: true, does, stopped_by }
}

/// All of them.
pub const ATTACKS: [Attack; 9] = [
    trainer("noise", "hands in random numbers of a plausible size", "S4, assigned-work test: never paid"),
    trainer("poison", "hands in honest work with its sign turned round", "S4, assigned-work test: never paid"),
    trainer("free_ride", "does one step of training instead of all", "S4, assigned-work test: never paid"),
    trainer("other_data", "trains on data of its own choice", "S4, assigned-work test: never paid"),
    trainer("garbage", "hands in a true header with garbage behind it", "S7, refused before evaluation: never paid"),
    trainer("wrong_shape", "hands in a delta of another shape", "S7, refused before evaluation: never paid"),
    trainer("oversize", "hands in far more bytes than allowed", "S7, refused before evaluation: never paid"),
    validator("misjudge", "reveals scores it did not measure", "C6, contradicted by a threshold: evicted"),
    validator(
        "share_withholder",
        "sends signature shares that do not hold",
        "C4 and C6, proven by its own share: evicted",
    ),
];

/// Command line.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Which; without it all are listed.
    pub name: Option<String>,
    /// Rounds to run.
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// Description of the model that is trained.
    #[arg(long, default_value = "models/fashion-mnist.toml")]
    pub model: std::path::PathBuf,
    /// One JSON object a line.
    #[arg(long)]
    pub json: bool,
    /// The `oda` program [default: the one beside this program].
    #[arg(long)]
    pub oda: Option<std::path::PathBuf>,
}

/// An attack by its name.
///
/// # Errors
/// If there is none.
pub fn named(name: &str) -> Result<Attack> {
    match ATTACKS.iter().find(|a| a.name == name) {
        Some(attack) => Ok(*attack),
        None => {
            let known: Vec<&str> = ATTACKS.iter().map(|a| a.name).collect();
            bail!(
                "no attack `{name}` in real nodes: there are {}; `simnet list` shows the simulator's",
                known.join(", ")
            )
        }
    }
}

/// The list as text.
pub fn list() -> String {
    let mut out = String::new();
    for a in ATTACKS {
        let who = if a.validator { "validator" } else { "trainer" };
        out += &format!("{:<18}{who:<11}{}\n{:<29}{}\n", a.name, a.does, "", a.stopped_by);
    }
    out
}

/// The demo's network with this attacker: seven validators in committees of four, three trainers.
pub fn network(attack: Attack, options: &Options) -> demo::Options {
    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        options: demo::Options,
    }
    let mut demo = Flags::parse_from(["testnet"]).options;
    (demo.rounds, demo.json, demo.oda) = (options.rounds, options.json, options.oda.clone());
    let name = Some(attack.name.to_owned());
    let (cheats, liars) = (usize::from(!attack.validator), usize::from(attack.validator));
    let (cheat_as, lie_as) = if attack.validator { (None, name) } else { (name, None) };
    let (validators, committee, epoch_blocks, model) = (7, 4, 40, options.model.clone());
    demo.network = genesis::Options {
        validators,
        committee,
        epoch_blocks,
        cheats,
        liars,
        cheat_as,
        lie_as,
        model,
        ..genesis::Options::default()
    };
    demo.attack = Some(attack);
    demo
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_played_by_whom_it_says() {
        for a in ATTACKS {
            let flags = Options { name: None, rounds: 1, model: "m".into(), json: false, oda: None };
            let o = network(named(a.name).unwrap(), &flags).network;
            assert_eq!((o.liars, o.cheats), if a.validator { (1, 0) } else { (0, 1) });
            assert_eq!(o.cheat_as.or(o.lie_as).as_deref(), Some(a.name));
            assert!(list().contains(a.name));
        }
        assert!(named("martian").unwrap_err().to_string().contains("there are noise"));
    }
}
