//! Reads what the validators do: blocks, CPU time, logs.

use super::cluster::Cluster;
use crate::rpc::{Block, Rpc};
use anyhow::{Context, Result, ensure};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Linux counts CPU time for user programs in hundredths of a second on every architecture (`USER_HZ`, proc(5)).
const TICK_MS: f64 = 10.0;
/// Pause between two looks at the height. Finer would take CPU time from the validators.
const LOOK: Duration = Duration::from_millis(3);
/// Blocks asked for at once: full ones are large as JSON.
const PAGE: u32 = 40;
/// Most of a log that is read.
const MAX_LOG_BYTES: u64 = 64 << 20;

/// The value that `percent` of these do not exceed; they need not be sorted.
pub fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let place = (sorted.len() * percent).div_ceil(100).clamp(1, sorted.len().max(1));
    sorted.get(place - 1).copied().unwrap_or(f64::NAN)
}

/// CPU time a process has used, all its threads, ms.
///
/// # Errors
/// If there is no such process.
pub fn cpu_ms(pid: u32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("reading a process's CPU time")?;
    // the second field, the program's name, may hold anything; the rest begins after its last parenthesis
    let (_, rest) = text.rsplit_once(')').context("/proc/PID/stat without a name")?;
    let field = |n: usize| rest.split_whitespace().nth(n).and_then(|f| f.parse::<f64>().ok());
    let ticks = field(11).zip(field(12)).map(|(user, system)| user + system).context("/proc/PID/stat is too short")?;
    Ok(ticks * TICK_MS)
}

/// Resident memory of a process, MiB.
///
/// # Errors
/// If there is no such process.
pub fn memory_mib(pid: u32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).context("reading a process's memory")?;
    let line = text.lines().find(|l| l.starts_with("VmRSS:")).context("no VmRSS")?;
    let kib: f64 = line.split_whitespace().nth(1).context("no figure")?.parse().context("VmRSS")?;
    Ok(kib / 1024.0)
}

/// Mean CPU time of the running validators, ms.
///
/// # Errors
/// If one has ended.
pub fn mean_cpu_ms(cluster: &Cluster) -> Result<f64> {
    let pids: Vec<u32> = cluster.nodes.iter().filter_map(|n| n.pid()).collect();
    let total: f64 = pids.iter().map(|pid| cpu_ms(*pid)).sum::<Result<f64>>()?;
    Ok(total / pids.len().max(1) as f64)
}

/// What was seen of a span of time.
#[derive(Clone, Debug)]
pub struct Span {
    /// Heights from the first to the last new one.
    pub heights: (u64, u64),
    /// Times between blocks as one node's RPC showed them, ms.
    pub seen_ms: Vec<f64>,
    /// How long it was, s.
    pub seconds: f64,
    /// Mean CPU time of a validator, ms.
    pub cpu_ms: f64,
    /// CPU time of this program, which offers the load and looks, ms.
    pub own_cpu_ms: f64,
}

impl Span {
    /// Blocks in it.
    pub fn blocks(&self) -> u64 {
        self.heights.1.saturating_sub(self.heights.0)
    }
}

/// Watches the first validator's height for so long.
///
/// # Errors
/// If a validator ends.
pub async fn span(cluster: &mut Cluster, length: Duration) -> Result<Span> {
    let rpc = cluster.nodes.first().context("no validator")?.rpc.clone();
    let me = std::process::id();
    let first = rpc.status().await?.height;
    let (cpu, own) = (mean_cpu_ms(cluster)?, cpu_ms(me)?);
    let start = Instant::now();
    let (mut height, mut since, mut seen_ms) = (first, None::<Instant>, Vec::new());
    while start.elapsed() < length {
        sleep(LOOK).await;
        let now = rpc.status().await?.height;
        if now > height {
            let at = Instant::now();
            if let Some(since) = since {
                let each = at.duration_since(since).as_secs_f64() * 1e3 / (now - height) as f64;
                seen_ms.extend((height..now).map(|_| each));
            }
            (height, since) = (now, Some(at));
        }
    }
    cluster.check()?;
    Ok(Span {
        heights: (first, height),
        seen_ms,
        seconds: start.elapsed().as_secs_f64(),
        cpu_ms: mean_cpu_ms(cluster)? - cpu,
        own_cpu_ms: cpu_ms(me)? - own,
    })
}

/// The blocks of these heights, both ends included, oldest first.
///
/// # Errors
/// If the node does not answer or lacks one.
pub async fn blocks(rpc: &Rpc, from: u64, to: u64) -> Result<Vec<Block>> {
    let (mut found, mut end) = (Vec::new(), to);
    while end >= from.max(1) {
        let mut page = rpc.all_blocks(end, PAGE).await?;
        ensure!(!page.is_empty(), "the node has no blocks up to {end}");
        page.retain(|b| b.height >= from);
        let Some(first) = page.first().map(|b| b.height) else { break };
        end = first - 1;
        page.append(&mut found);
        found = page;
    }
    Ok(found)
}

/// Times between these blocks by their headers, ms.
pub fn header_ms(blocks: &[Block]) -> Vec<f64> {
    blocks.windows(2).map(|pair| (pair[1].time_ms - pair[0].time_ms) as f64).collect()
}

/// Length of every validator's log now.
pub fn log_ends(cluster: &Cluster) -> Vec<u64> {
    cluster.nodes.iter().map(|n| std::fs::metadata(&n.log).map_or(0, |m| m.len())).collect()
}

/// Times from wanting a signature to having it, as the validators logged them after these places, ms.
///
/// # Errors
/// If a log cannot be read.
pub fn signed_ms(cluster: &Cluster, since: &[u64]) -> Result<Vec<f64>> {
    let mut found = Vec::new();
    for (node, from) in cluster.nodes.iter().zip(since) {
        let text = read_from(&node.log, *from)?;
        let signed = text.lines().filter(|l| l.contains(": signed epoch="));
        found.extend(signed.filter_map(|l| l.rsplit_once(" ms=")?.1.trim().parse::<f64>().ok()));
    }
    Ok(found)
}

fn read_from(path: &Path, from: u64) -> Result<String> {
    let mut file = std::fs::File::open(path).with_context(|| format!("reading {}", path.display()))?;
    file.seek(SeekFrom::Start(from)).context("reading a log")?;
    let mut bytes = Vec::new();
    file.take(MAX_LOG_BYTES).read_to_end(&mut bytes).context("reading a log")?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_measured_value() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(percentile(&values, 50), 100.0);
        assert_eq!(percentile(&values, 99), 198.0);
        assert_eq!(percentile(&[7.0], 99), 7.0);
        assert!(percentile(&[], 50).is_nan());
    }

    #[test]
    fn cpu_time_of_this_process_grows() {
        let before = cpu_ms(std::process::id()).unwrap();
        let mut sum = 0u64;
        while cpu_ms(std::process::id()).unwrap() < before + 2.0 * TICK_MS {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(cpu_ms(u32::MAX).is_err());
        assert!(memory_mib(std::process::id()).unwrap() > 1.0);
        assert!(memory_mib(u32::MAX).is_err());
    }
}
