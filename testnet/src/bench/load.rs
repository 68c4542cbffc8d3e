//! Offers small transactions at a fixed rate, and counts what becomes of them.
//!
//! Each is a sponsor raising its promise by a millisatoshi: cheap to make, executed like any other, and touching a
//! real entry of the state. A promise may only rise, so one sponsor's transactions must stay in order: a sponsor
//! always speaks to the same node, over one connection, and only gossip may still overtake.

use super::cluster::Cluster;
use anyhow::{Context, Result, anyhow};
use jsonrpsee::core::client::ClientT as _;
use jsonrpsee::core::params::BatchRequestBuilder;
use jsonrpsee::http_client::{HttpClient, HttpClientBuilder};
use jsonrpsee::rpc_params;
use oda_consensus::codec;
use oda_consensus::escrow::Terms;
use oda_consensus::fuzzing::sample_manifest;
use oda_consensus::ids::{ChainId, ModelId};
use oda_consensus::keys::NodeKey;
use oda_consensus::tx::{Fund, SignedTx, Tx};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

/// As many as a model may have.
const SPONSORS: usize = 16;
/// Time between two batches to a node.
const BATCH: Duration = Duration::from_millis(20);
/// Most transactions of a batch: a request of the node's RPC holds more than twice as many.
const MAX_BATCH: usize = 64;
const TIMEOUT: Duration = Duration::from_secs(20);

/// What became of what was offered.
#[derive(Clone, Debug, Default)]
pub struct Offered {
    /// Sent.
    pub sent: u64,
    /// Taken by the node asked.
    pub taken: u64,
    /// Refusals by reason.
    pub refused: BTreeMap<String, u64>,
}

/// Transactions made before the measurement, so that signing them takes no part in it.
pub struct Load {
    /// For each node, in order, in hex.
    queues: Vec<(SocketAddr, Vec<String>)>,
    rate: f64,
}

fn client(address: SocketAddr) -> Result<HttpClient> {
    HttpClientBuilder::default().request_timeout(TIMEOUT).build(format!("http://{address}")).context("an RPC address")
}

fn hex_of(tx: Tx, key: &NodeKey, chain: ChainId) -> String {
    hex::encode(codec::encode(&SignedTx::new(tx, key, chain)))
}

impl Load {
    /// Puts a model on the ledger and makes the transactions for so long at so many each second.
    ///
    /// # Errors
    /// If the model does not get there.
    pub async fn prepare(cluster: &Cluster, rate: u32, length: Duration) -> Result<Self> {
        let chain = cluster.genesis.chain();
        let secret = |i: usize| [100u8.saturating_add(u8::try_from(i).unwrap_or(u8::MAX)); 32];
        let sponsors: Vec<NodeKey> = (0..SPONSORS).map(|i| NodeKey::from_secret(&secret(i))).collect();
        let manifest = sample_manifest("bench");
        let model: ModelId = manifest.id();
        let first = cluster.nodes.first().context("no validator")?;
        let key = sponsors.first().context("no sponsor")?;
        let params = rpc_params![hex_of(Tx::AddModel(manifest), key, chain)];
        let _: String = client(first.address)?.request("oda_submit", params).await.context("adding a model")?;
        let deadline = Instant::now() + TIMEOUT;
        for node in &cluster.nodes {
            while node.rpc.models().await?.is_empty() {
                anyhow::ensure!(Instant::now() < deadline, "the model is not on the ledger after {TIMEOUT:?}");
                sleep(Duration::from_millis(50)).await;
            }
        }
        let count = usize::try_from(u128::from(rate) * length.as_millis() / 1000).context("too many transactions")?;
        let mut queues: Vec<_> = cluster.nodes.iter().map(|n| (n.address, Vec::new())).collect();
        let nodes = queues.len();
        for (i, budget_msat) in (0..count).zip((1u64..).flat_map(|b| [b; SPONSORS])) {
            let Some(key) = sponsors.get(i % SPONSORS) else { continue };
            let fund = Fund { model, terms: Terms::whole(1), budget_msat };
            if let Some((_, queue)) = queues.get_mut(i % SPONSORS % nodes) {
                queue.push(hex_of(Tx::Fund(fund), key, chain));
            }
        }
        Ok(Self { queues, rate: f64::from(rate) / count.max(1) as f64 })
    }

    /// Sends them all, each node its own at an even pace. Falls behind if a node does, and does not catch up by
    /// sending faster than the batches allow.
    ///
    /// # Errors
    /// If a node stops answering.
    pub async fn send(self) -> Result<Offered> {
        let start = Instant::now();
        let mut tasks = JoinSet::new();
        for (address, queue) in self.queues {
            let each_second = self.rate * queue.len() as f64;
            tasks.spawn(send_to(client(address)?, queue, each_second, start));
        }
        let mut all = Offered::default();
        while let Some(done) = tasks.join_next().await {
            let one = done.context("a sender died")??;
            all.sent += one.sent;
            all.taken += one.taken;
            for (why, times) in one.refused {
                *all.refused.entry(why).or_default() += times;
            }
        }
        Ok(all)
    }
}

async fn send_to(client: HttpClient, queue: Vec<String>, each_second: f64, start: Instant) -> Result<Offered> {
    let (mut done, mut next) = (Offered::default(), 0usize);
    let mut clock = interval(BATCH);
    clock.set_missed_tick_behavior(MissedTickBehavior::Skip);
    while next < queue.len() {
        clock.tick().await;
        let due = (start.elapsed().as_secs_f64() * each_second) as usize;
        let end = due.min(queue.len()).min(next + MAX_BATCH);
        let Some(batch) = queue.get(next..end).filter(|b| !b.is_empty()) else { continue };
        let mut request = BatchRequestBuilder::new();
        for tx in batch {
            request.insert("oda_submit", rpc_params![tx]).context("building a request")?;
        }
        let answers = client.batch_request::<String>(request).await.map_err(|e| anyhow!("oda_submit: {e}"))?;
        done.sent += batch.len() as u64;
        for answer in answers {
            match answer {
                Ok(_) => done.taken += 1,
                Err(refusal) => {
                    // "transaction ID was not taken: REASON": the reasons are few, the hashes many
                    let text = refusal.message();
                    let why = text.split_once("taken: ").map_or(text, |(_, why)| why);
                    let why: String = why.chars().map(|c| if c.is_ascii_digit() { '#' } else { c }).take(80).collect();
                    *done.refused.entry(why).or_default() += 1;
                }
            }
        }
        next = end;
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_of_the_load_is_one_the_ledger_takes() {
        sample_manifest("bench").check().unwrap();
    }
}
