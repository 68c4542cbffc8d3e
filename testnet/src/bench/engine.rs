//! What the consensus engine alone takes: all validators in memory, in one thread, no network, no disk.

use anyhow::{Context, Result, bail};
use oda_consensus::bft::{Bft, BftConfig, BftEffect, BftInput, Message, Timeouts};
use oda_consensus::ids::{ChainId, NodeId};
use oda_consensus::keys::NodeKey;
use std::collections::VecDeque;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

const CHAIN: ChainId = ChainId([7; 32]);

/// Cost of one decided height for one validator.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// CPU time, ms: Malachite, our codec, signing and checking signatures.
    pub cpu_ms: f64,
    /// Of it, signing and checking signatures, ms: as many as there are messages, at the cost of one.
    pub crypto_ms: f64,
    /// Messages it says.
    pub published: f64,
    /// Messages it hears.
    pub heard: f64,
    /// Entries of the write-ahead log, each a synced write.
    pub wal: f64,
}

struct Sim {
    nodes: Vec<Bft>,
    queue: VecDeque<(usize, BftInput)>,
    block: Vec<u8>,
    decided: usize,
    published: u64,
    heard: u64,
    wal: u64,
}

impl Sim {
    fn carry_out(&mut self, me: usize, effects: Vec<BftEffect>) {
        for effect in effects {
            match effect {
                BftEffect::WalAppend { .. } => self.wal += 1,
                BftEffect::Publish(bytes) => {
                    self.published += 1;
                    let others = (0..self.nodes.len()).filter(|to| *to != me);
                    self.queue.extend(others.map(|to| (to, BftInput::Message { bytes: bytes.clone() })));
                }
                BftEffect::NeedBlock { height, round, .. } => {
                    let block = [&height.to_le_bytes(), self.block.as_slice()].concat();
                    self.queue.push_front((me, BftInput::Propose { height, round, block }));
                }
                BftEffect::ValidateBlock { height, block_id, .. } => {
                    self.queue.push_front((me, BftInput::Validated { height, block_id, valid: true }));
                }
                BftEffect::Decided { .. } => self.decided += 1,
                _ => {}
            }
        }
    }

    /// Until all have decided and nothing is under way.
    fn height(&mut self) -> Result<()> {
        self.decided = 0;
        while let Some((to, input)) = self.queue.pop_front() {
            self.heard += u64::from(matches!(input, BftInput::Message { .. }));
            let node = self.nodes.get_mut(to).context("a message for nobody")?;
            // late votes are refused, as in the node
            let effects = node.handle(input).unwrap_or_default();
            self.carry_out(to, effects);
        }
        if self.decided < self.nodes.len() {
            bail!("{} of {} validators decided in memory", self.decided, self.nodes.len());
        }
        Ok(())
    }
}

/// Measures `n` validators over so many heights with blocks of so many bytes.
///
/// # Errors
/// If they do not decide, which would be a bug.
pub fn measure(n: usize, heights: u64, block_bytes: usize) -> Result<Cost> {
    // Malachite describes each message to the log, which `oda` leaves out as well
    let silent = tracing::subscriber::NoSubscriber::default();
    tracing::subscriber::with_default(silent, || run(n, heights, block_bytes))
}

fn run(n: usize, heights: u64, block_bytes: usize) -> Result<Cost> {
    let secret = |i: usize| [u8::try_from(i + 1).unwrap_or(u8::MAX); 32];
    let keys: Vec<Arc<NodeKey>> = (0..n).map(|i| Arc::new(NodeKey::from_secret(&secret(i)))).collect();
    let validators: Vec<NodeId> = keys.iter().map(|k| k.id()).collect();
    let new = |key: &Arc<NodeKey>| {
        Bft::new(BftConfig { key: key.clone(), chain: CHAIN, timeouts: Timeouts::default() }, 1, &validators)
    };
    let nodes = keys.iter().map(new).collect::<Result<Vec<Bft>, _>>()?;
    let (queue, block) = (VecDeque::new(), vec![7; block_bytes]);
    let mut sim = Sim { nodes, queue, block, decided: 0, published: 0, heard: 0, wal: 0 };
    let start = Instant::now();
    for i in 0..n {
        let effects = sim.nodes.get_mut(i).context("no such node")?.replay(&[])?;
        sim.carry_out(i, effects);
    }
    sim.height()?;
    for height in 2..=heights {
        let input = BftInput::StartHeight { height, validators: validators.clone() };
        sim.queue.extend((0..n).map(|i| (i, input.clone())));
        sim.height()?;
    }
    let each = (heights * n as u64) as f64;
    let cpu_ms = start.elapsed().as_secs_f64() * 1e3 / each;
    let (published, heard) = (sim.published as f64 / each, sim.heard as f64 / each);
    let (sign_ms, check_ms) = signature_ms(&keys)?;
    let crypto_ms = published * sign_ms + heard * check_ms;
    Ok(Cost { cpu_ms, crypto_ms, published, heard, wal: sim.wal as f64 / each })
}

/// What one signature and one check cost, ms.
fn signature_ms(keys: &[Arc<NodeKey>]) -> Result<(f64, f64)> {
    const TIMES: u32 = 200;
    let key = keys.first().context("no key")?;
    // any small signed record costs the same
    let vote = Message::Polka(Vec::new());
    let each = |start: Instant| start.elapsed().as_secs_f64() * 1e3 / f64::from(TIMES);
    let start = Instant::now();
    for _ in 0..TIMES {
        std::hint::black_box(key.sign(CHAIN, &vote));
    }
    let sign = each(start);
    let signature = key.sign(CHAIN, &vote);
    let start = Instant::now();
    for _ in 0..TIMES {
        std::hint::black_box(key.id().verify(CHAIN, &vote, &signature));
    }
    let check = each(start);
    Ok((sign, check))
}

/// What a small synced write costs in this directory: the median, ms.
///
/// # Errors
/// If it cannot be written.
pub fn sync_ms(dir: &Path) -> Result<f64> {
    let path = dir.join("sync-probe");
    let mut file = std::fs::File::create(&path).with_context(|| format!("writing {}", path.display()))?;
    let mut times = Vec::new();
    for _ in 0..100 {
        let start = Instant::now();
        file.write_all(&[7; 256]).and_then(|()| file.sync_data()).context("a synced write")?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    drop(file);
    std::fs::remove_file(&path).with_context(|| path.display().to_string())?;
    Ok(super::watch::percentile(&times, 50))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_validator_decides_every_height_in_memory() {
        for n in [1, 4, 7] {
            let cost = measure(n, 3, 100).unwrap();
            assert!(n == 1 || cost.heard >= cost.published, "{n}: {cost:?}");
            assert!(cost.wal >= 1.0, "{n}: {cost:?}");
        }
    }
}
