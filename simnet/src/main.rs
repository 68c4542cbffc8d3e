//! `simnet`: the experiments as commands.

use clap::{Parser, Subcommand};
use oda_simnet::beacon_bias::{Setting, Wish, measure};
use std::io::Write;

#[derive(Parser)]
#[command(name = "simnet", about = "Measures what attacks on the protocol gain", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// What a grinding minority gains from the naive beacon and from the DVRF (attack 18).
    BeaconBias {
        /// Committee size n; t = floor(2n/3) + 1.
        #[arg(long, default_value_t = 4)]
        members: usize,
        /// Members that grind, at most n - t.
        #[arg(long, default_value_t = 1)]
        grinders: usize,
        /// Beacons drawn for each line of the table.
        #[arg(long, default_value_t = 2_000)]
        trials: u32,
        /// Everything is drawn from it.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Signatures a leading grinder makes before it publishes one.
        #[arg(long, default_value_t = 8)]
        tries: u32,
        /// The grinders wish for a property that one beacon in this many has.
        #[arg(long, default_value_t = 8, conflicts_with = "validators")]
        one_in: u32,
        /// Instead: they wish that all of them sit in the next committee, drawn from this many validators.
        #[arg(long)]
        validators: Option<u32>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::BeaconBias { members, grinders, trials, seed, tries, one_in, validators, json } => {
            let wish = validators.map_or(Wish::OneIn(one_in), |validators| Wish::Seats { validators });
            let mut out = std::io::stdout().lock();
            let report = measure(&Setting { members, grinders, trials, seed, tries, wish })?;
            if json {
                writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
            } else {
                write!(out, "{report}")?;
            }
        }
    }
    Ok(())
}
