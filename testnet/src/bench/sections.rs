//! The measurements, one table each.

use super::cluster::{Cluster, Setup};
use super::load::{Load, Offered};
use super::{Options, engine, watch};
use crate::rpc::Block;
use anyhow::{Context, Result};
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Shortest block interval the genesis allows, ms: nothing is waited for.
const FASTEST_MS: u32 = 10;
/// Block interval where blocks are not what is measured, ms.
const STEADY_MS: u32 = 50;
/// Blocks between attestations.
const CHECKPOINT_BLOCKS: u32 = 5;
/// The default of `testnet genesis`, ms.
const NORMAL_MS: u32 = 500;
/// How long validators run before they are measured: connections and caches.
const SETTLE: Duration = Duration::from_secs(3);
/// How long the last transactions may take into a block.
const DRAIN: Duration = Duration::from_secs(3);
/// How long a rotation may take.
const ROTATION_TIMEOUT: Duration = Duration::from_secs(120);

fn setup(validators: usize, block_interval_ms: u32) -> Setup {
    Setup { validators, block_interval_ms, checkpoint_blocks: 0, epoch_blocks: 0, observers: 0 }
}

/// Block intervals at idle and under load, and the engine's part in them.
///
/// # Errors
/// If a network does not run.
pub async fn blocks(options: &Options, oda: &Path) -> Result<()> {
    let mut engines = Vec::new();
    println!(
        "Blocks as fast as they come (interval set to {FASTEST_MS} ms), idle and with {} fund transactions offered a second:\n\n\
         | n | load | interval by headers, p50 / p99 ms | as RPC shows it, p50 / p99 ms | blocks/s | offered/s | taken/s | \
         in blocks/s | CPU of a validator per block, ms | of one core |\n|---|---|---|---|---|---|---|---|---|---|",
        options.rate
    );
    let mut notes = Vec::new();
    for n in &options.validators {
        let mut cluster = Cluster::start(setup(*n, FASTEST_MS), oda).await?;
        sleep(SETTLE).await;
        let idle = watch::span(&mut cluster, options.span(20)).await?;
        let first = cluster.nodes.first().context("no validator")?.rpc.clone();
        let found = watch::blocks(&first, idle.heights.0, idle.heights.1).await?;
        line(*n, "idle", &idle, &found, None);
        let idle_ms = watch::percentile(&watch::header_ms(&found), 50);
        let sync_ms = engine::sync_ms(cluster.dir())?;

        let length = options.span(20);
        let load = Load::prepare(&cluster, options.rate, length).await?;
        let sender = tokio::spawn(load.send());
        let busy = watch::span(&mut cluster, length).await?;
        let offered = sender.await.context("the load died")??;
        let found = watch::blocks(&first, busy.heights.0, busy.heights.1).await?;
        line(*n, "load", &busy, &found, Some(&offered));
        sleep(DRAIN).await;
        let end = first.status().await?.height;
        let late = funds(&watch::blocks(&first, busy.heights.1 + 1, end).await?);
        notes.push(note(*n, &busy, &offered, funds(&found) + late));
        engines.push((*n, idle_ms, sync_ms));
        cluster.stop().await?;
    }
    println!();
    notes.iter().for_each(|note| println!("* {note}"));
    println!(
        "\nThe engine's part: Malachite with our signatures, codec and message checks, in memory, per validator and block. \
         The rest of the interval is transport between {} processes on these cores, synced writes to disk, execution \
         of the block, and {FASTEST_MS} ms of pacing at most.\n\n\
         | n | engine CPU ms | of it signatures ms | so Malachite and codec ms | messages said / heard | \
         synced log writes (+ 1 for the block) | one synced write here, ms | interval at idle ms | engine's share of it |\n\
         |---|---|---|---|---|---|---|---|---|",
        options.validators.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    );
    for (n, idle_ms, sync_ms) in engines {
        let cost = tokio::task::spawn_blocking(move || engine::measure(n, 200, 256)).await??;
        println!(
            "| {n} | {:.2} | {:.2} | {:.2} | {:.1} / {:.1} | {:.1} | {sync_ms:.2} | {idle_ms:.0} | {:.0} % |",
            cost.cpu_ms,
            cost.crypto_ms,
            cost.cpu_ms - cost.crypto_ms,
            cost.published,
            cost.heard,
            cost.wal,
            100.0 * cost.cpu_ms / idle_ms
        );
    }
    println!();
    Ok(())
}

fn funds(blocks: &[Block]) -> usize {
    blocks.iter().flat_map(|b| &b.txs).filter(|t| t.kind == "fund").count()
}

fn line(n: usize, load: &str, span: &watch::Span, blocks: &[Block], offered: Option<&Offered>) {
    let header_ms = watch::header_ms(blocks);
    let p = |values: &[f64]| format!("{:.0} / {:.0}", watch::percentile(values, 50), watch::percentile(values, 99));
    let rate = |count: f64| format!("{:.0}", count / span.seconds);
    let (sent, taken, included) = match offered {
        Some(o) => (rate(o.sent as f64), rate(o.taken as f64), rate(funds(blocks) as f64)),
        None => ("-".into(), "-".into(), "-".into()),
    };
    println!(
        "| {n} | {load} | {} | {} | {:.1} | {sent} | {taken} | {included} | {:.1} | {:.0} % |",
        p(&header_ms),
        p(&span.seen_ms),
        span.blocks() as f64 / span.seconds,
        span.cpu_ms / span.blocks().max(1) as f64,
        span.cpu_ms / span.seconds / 10.0
    );
}

fn note(n: usize, span: &watch::Span, offered: &Offered, included: usize) -> String {
    let refused: Vec<String> = offered.refused.iter().map(|(why, times)| format!("{times} x \"{why}\"")).collect();
    let refused = if refused.is_empty() { "none".to_string() } else { refused.join(", ") };
    format!(
        "n = {n}: of {} offered, {} were taken and {included} were in a block {} s after the end; refused: {refused}. \
         Offering and watching took {:.0} % of a core.",
        offered.sent,
        offered.taken,
        DRAIN.as_secs(),
        span.own_cpu_ms / span.seconds / 10.0
    )
}

/// CPU of validators that have nothing to do.
///
/// # Errors
/// If a network does not run.
pub async fn idle(options: &Options, oda: &Path) -> Result<()> {
    let mut cluster = Cluster::start(setup(4, NORMAL_MS), oda).await?;
    sleep(SETTLE).await;
    let (cpu, height, start) = (watch::mean_cpu_ms(&cluster)?, height(&cluster).await?, Instant::now());
    sleep(options.span(20)).await;
    cluster.check()?;
    let cpu = watch::mean_cpu_ms(&cluster)? - cpu;
    let seconds = start.elapsed().as_secs_f64();
    let blocks = self::height(&cluster).await?.saturating_sub(height);
    println!(
        "An idle validator, n = 4, a block every {NORMAL_MS} ms: {:.2} % of one core, {:.1} ms a block ({blocks} blocks \
         in {seconds:.0} s, mean of the four).\n",
        cpu / seconds / 10.0,
        cpu / blocks.max(1) as f64
    );
    cluster.stop().await
}

async fn height(cluster: &Cluster) -> Result<u64> {
    Ok(cluster.nodes.first().context("no validator")?.rpc.status().await?.height)
}

/// From wanting a signature to having it, with all members there and with dead ones.
///
/// # Errors
/// If a network does not run.
pub async fn attestation(options: &Options, oda: &Path) -> Result<()> {
    println!(
        "Attestations: every {CHECKPOINT_BLOCKS}th block, block interval {STEADY_MS} ms; from the moment the leader \
         has executed the block to the verified signature, as it logged it. Dead members were killed with `kill -9`; \
         what was due and never signed was overtaken by a later block's attestation:\n\n\
         | n | t | dead | due | signed | p50 ms | p99 ms | slowest ms |\n|---|---|---|---|---|---|---|---|"
    );
    for n in &options.validators {
        let setup = Setup { checkpoint_blocks: CHECKPOINT_BLOCKS, ..setup(*n, STEADY_MS) };
        let mut cluster = Cluster::start(setup, oda).await?;
        let t = cluster.nodes.first().context("no validator")?.rpc.status().await?.committee.1;
        let mut dead = 0;
        let mut steps = vec![0, 1, n.saturating_sub(t)];
        steps.dedup();
        for goal in steps {
            while dead < goal {
                cluster.kill_one().await?;
                dead += 1;
            }
            sleep(SETTLE).await;
            let (since, from) = (watch::log_ends(&cluster), height(&cluster).await?);
            sleep(options.span(if dead == 0 { 15 } else { 30 })).await;
            cluster.check()?;
            let blocks = u64::from(CHECKPOINT_BLOCKS);
            let due = height(&cluster).await? / blocks - from / blocks;
            let times = watch::signed_ms(&cluster, &since)?;
            let slowest = times.iter().copied().fold(f64::NAN, f64::max);
            println!(
                "| {n} | {t} | {dead} | {due} | {} | {:.1} | {:.1} | {slowest:.1} |",
                times.len(),
                watch::percentile(&times, 50),
                watch::percentile(&times, 99)
            );
        }
        cluster.stop().await?;
    }
    println!();
    Ok(())
}

/// A key generation over the ledger, in a running network.
///
/// # Errors
/// If no rotation comes about.
pub async fn dkg(options: &Options, oda: &Path) -> Result<()> {
    println!(
        "Key generation over the ledger, block interval {STEADY_MS} ms, blocks going on meanwhile:\n\n\
         | n | draw to last confirmation, blocks / ms | draw to handover, blocks / ms | CPU of a validator in that time, ms | \
         of it above its usual, ms | slowest block meanwhile, ms |\n|---|---|---|---|---|---|"
    );
    for n in options.validators.iter().filter(|n| **n <= 7) {
        let mut cluster = Cluster::start(Setup { epoch_blocks: 60, ..setup(*n, STEADY_MS) }, oda).await?;
        let rpc = cluster.nodes.first().context("no validator")?.rpc.clone();
        let mut samples: Vec<(u64, f64)> = Vec::new();
        let (start, mut seen) = (Instant::now(), 0);
        let found = loop {
            anyhow::ensure!(start.elapsed() < ROTATION_TIMEOUT, "no rotation after {ROTATION_TIMEOUT:?}");
            sleep(Duration::from_millis(STEADY_MS.into())).await;
            cluster.check()?;
            let height = rpc.status().await?.height;
            samples.push((height, watch::mean_cpu_ms(&cluster)?));
            if height >= seen + 10 {
                seen = height;
                let found = watch::blocks(&rpc, 1, height).await?;
                // the first generation begins with the network, before there is anything usual
                if found.iter().filter(|b| has(b, "handover")).count() > 1 {
                    break found;
                }
            }
        };
        let draw = found.iter().rfind(|b| has(b, "draw")).context("a handover without a draw")?;
        let done = found.iter().rfind(|b| has(b, "dkg-confirm")).context("a handover without confirmations")?;
        let over = found.iter().rfind(|b| has(b, "handover")).context("no handover")?;
        let took = |end: &Block| format!("{} / {}", end.height - draw.height, end.time_ms - draw.time_ms);
        let cpu_at = |height: u64| samples.iter().rfind(|(h, _)| *h <= height).map_or(f64::NAN, |(_, cpu)| *cpu);
        // the draw's share of the work precedes its block, the handover's signature its own
        let (from, to) = (draw.height.saturating_sub(2), over.height);
        let cpu = cpu_at(to) - cpu_at(from);
        let (first, base) = samples.first().copied().context("no sample")?;
        let usual = (cpu_at(from) - base) / from.saturating_sub(first).max(1) as f64 * (to - from) as f64;
        let meanwhile: Vec<Block> = found.iter().filter(|b| b.height >= from && b.height <= to).cloned().collect();
        let slowest = watch::header_ms(&meanwhile).into_iter().fold(f64::NAN, f64::max);
        println!("| {n} | {} | {} | {cpu:.0} | {:.0} | {slowest:.0} |", took(done), took(over), cpu - usual);
        cluster.stop().await?;
    }
    println!();
    Ok(())
}

fn has(block: &Block, kind: &str) -> bool {
    block.txs.iter().any(|t| t.kind == kind)
}
