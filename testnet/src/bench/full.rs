//! What a full node costs its owner while nothing happens: alone, and beside a network that makes empty blocks.

use super::cluster::{Cluster, Setup};
use super::{Options, watch};
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Validators of the network it follows.
const VALIDATORS: usize = 4;
/// The default of `testnet genesis`, ms.
const BLOCK_MS: u32 = 500;
/// How long it runs before it is measured: connections, caches, the first census of blobs.
const SETTLE: Duration = Duration::from_secs(20);
/// How long one figure is measured, s.
const SPAN_S: u64 = 60;

/// CPU time and memory of a full node that only follows.
///
/// # Errors
/// If the network does not run.
pub async fn full(options: &Options, oda: &Path) -> Result<()> {
    let setup = Setup {
        validators: VALIDATORS,
        block_interval_ms: BLOCK_MS,
        checkpoint_blocks: 0,
        epoch_blocks: 0,
        observers: 1,
    };
    let mut cluster = Cluster::start(setup, oda).await?;
    println!(
        "A full node that only follows, over {:.0} s each:\n\n\
         | | of one core | resident MiB | blocks |\n|---|---|---|---|",
        options.span(SPAN_S).as_secs_f64()
    );
    sleep(SETTLE).await;
    line("beside a network, a block every 500 ms", options, &mut cluster).await?;
    for _ in 0..VALIDATORS {
        cluster.kill_first().await?;
    }
    sleep(SETTLE).await;
    line("alone", options, &mut cluster).await?;
    println!();
    cluster.stop().await
}

/// Measures the node that is left when the validators are gone: the last.
async fn line(what: &str, options: &Options, cluster: &mut Cluster) -> Result<()> {
    let node = cluster.nodes.last().context("no full node")?;
    let (rpc, pid) = (node.rpc.clone(), node.pid().context("the full node has ended")?);
    let (height, cpu_ms, start) = (rpc.status().await?.height, watch::cpu_ms(pid)?, Instant::now());
    sleep(options.span(SPAN_S)).await;
    cluster.check()?;
    let (cpu_ms, seconds) = (watch::cpu_ms(pid)? - cpu_ms, start.elapsed().as_secs_f64());
    let blocks = rpc.status().await?.height.saturating_sub(height);
    ensure!(seconds > 0.0, "no time has passed");
    println!("| {what} | {:.2} % | {:.0} | {blocks} |", cpu_ms / seconds / 10.0, watch::memory_mib(pid)?);
    Ok(())
}
