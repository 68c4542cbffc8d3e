//! `testnet bench`: what consensus costs between real processes, as tables in Markdown.
//!
//! A measurement inside one process knows nothing of sockets, disks and schedulers, and one on a machine with as
//! many cores as validators flatters. So here every validator is its own `oda node --validator` with its own disk
//! directory, all on the machine at hand, and beside each figure of theirs stands what the consensus engine alone
//! takes in memory ([`engine`]). Figures of machines with few cores are those of validators that share them:
//! compare ratios.
//!
//! * [`cluster`] starts and stops the validators.
//! * [`watch`] reads block times, CPU times and logs.
//! * [`load`] offers transactions.
//! * [`sections`] are the measurements of consensus, one table each.
//! * [`full`] is a full node with nothing to do; [`history`] what a long ledger costs, which [`chain`] makes.
//! * [`payments`] runs a whole network, trainers, sponsor and Lightning included.

pub mod chain;
pub mod cluster;
pub mod engine;
pub mod full;
pub mod history;
pub mod load;
pub mod payments;
pub mod sections;
pub mod watch;

use crate::process;
use anyhow::Result;
use clap::Args;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::watch as signal;

/// What can be measured alone.
const SECTIONS: [&str; 6] = ["blocks", "idle", "attestation", "dkg", "history", "payments"];

/// Command line of the benches.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// A quarter of the time, for a first look.
    #[arg(long)]
    pub quick: bool,
    /// Start a node with a ledger of 1,000,000 records, which takes minutes to make, instead of 250,000.
    #[arg(long)]
    pub whole: bool,
    /// Only these.
    #[arg(long, value_delimiter = ',', value_parser = SECTIONS)]
    pub only: Vec<String>,
    /// Committees to measure.
    #[arg(long, value_delimiter = ',', default_value = "4,7,10")]
    pub validators: Vec<usize>,
    /// Transactions offered each second.
    #[arg(long, default_value_t = 1_000)]
    pub rate: u32,
    /// The `oda` program [default: the one beside this program].
    #[arg(long)]
    pub oda: Option<PathBuf>,
}

impl Options {
    fn wants(&self, section: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|o| o == section)
    }

    /// How long one figure is measured.
    fn span(&self, seconds: u64) -> Duration {
        Duration::from_millis(if self.quick { seconds * 250 } else { seconds * 1000 })
    }
}

/// Measures and prints, until done or told to stop.
///
/// # Errors
/// If a network does not start or stops by itself.
pub async fn run(options: &Options, me: &Path, mut stop: signal::Receiver<bool>) -> Result<()> {
    let oda = options.oda.clone().unwrap_or_else(|| me.with_file_name("oda"));
    process::check_oda(&oda).await?;
    tokio::select! {
        done = all(options, me, &oda) => done,
        _ = stop.changed() => anyhow::bail!("stopped before the end"),
    }
}

async fn all(options: &Options, me: &Path, oda: &Path) -> Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!("\n### Between real processes on loopback, {cores} cores for all of them (`testnet bench`)\n");
    if options.wants("blocks") {
        sections::blocks(options, oda).await?;
    }
    if options.wants("idle") {
        sections::idle(options, oda).await?;
        full::full(options, oda).await?;
    }
    if options.wants("attestation") {
        sections::attestation(options, oda).await?;
    }
    if options.wants("dkg") {
        sections::dkg(options, oda).await?;
    }
    if options.wants("history") {
        history::history(options, oda).await?;
    }
    if options.wants("payments") {
        payments::payments(options, me, oda).await?;
    }
    Ok(())
}
