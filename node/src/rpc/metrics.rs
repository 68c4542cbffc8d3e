//! Metrics for Prometheus: what the ledger says is read at each scrape, what the server does is counted as it happens.
//!
//! Labels come from fixed lists, never from outside, or any caller could grow them without end.

use super::health::Health;
use crate::clock::now_ms;
use crate::full::Shared;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, EncodeLabelSet, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Models that are told apart; the totals count all.
const MAX_MODELS_SHOWN: usize = 64;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Answer {
    method: &'static str,
    code: i32,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Method {
    method: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// Everything `/metrics` shows.
pub(super) struct Metrics {
    registry: Registry,
    requests: Family<Answer, Counter>,
    durations: Family<Method, Histogram, fn() -> Histogram>,
    refused: Family<Reason, Counter>,
}

impl Metrics {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let mut registry = Registry::with_prefix("oda");
        let requests = Family::<Answer, Counter>::default();
        let buckets: fn() -> Histogram = || Histogram::new(exponential_buckets(0.000_1, 4.0, 10));
        let durations = Family::new_with_constructor(buckets);
        let refused = Family::<Reason, Counter>::default();
        registry.register("build", "Version of the node", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        registry.register("rpc_requests", "Calls answered; code 0 is success", requests.clone());
        registry.register("rpc_request_duration_seconds", "Time to answer a call", durations.clone());
        registry.register("rpc_refused", "Requests refused before they were read as calls", refused.clone());
        registry.register_collector(Box::new(Node(shared)));
        Self { registry, requests, durations, refused }
    }

    /// Counts an answered call.
    pub(super) fn answered(&self, method: &'static str, code: i32, took: Duration) {
        self.requests.get_or_create(&Answer { method, code }).inc();
        self.durations.get_or_create(&Method { method }).observe(took.as_secs_f64());
    }

    /// Counts a request that was not let in.
    pub(super) fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&Reason { reason }).inc();
    }

    /// All of it in the text format of OpenMetrics, which Prometheus reads.
    ///
    /// # Errors
    /// If it cannot be formatted.
    pub(super) fn text(&self) -> Result<String, fmt::Error> {
        let mut out = String::new();
        prometheus_client::encoding::text::encode(&mut out, &self.registry)?;
        Ok(out)
    }
}

/// What is read from the node at each scrape.
struct Node(Arc<Shared>);

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Node")
    }
}

struct Writer<'a>(DescriptorEncoder<'a>);

impl Writer<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: impl EncodeGaugeValue) -> fmt::Result {
        let gauge = ConstGauge::new(value);
        gauge.encode(self.0.encode_descriptor(name, help, None, MetricType::Gauge)?)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let counter = ConstCounter::new(value);
        counter.encode(self.0.encode_descriptor(name, help, None, MetricType::Counter)?)
    }

    fn per_model<T: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        values: Vec<([(&str, String); 2], T)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in values {
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

impl Collector for Node {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Writer(encoder);
        self.ledger(&mut out)?;
        self.money(&mut out)?;
        self.models(&mut out)?;
        self.blobs(&mut out)?;
        process(&mut out)
    }
}

#[allow(clippy::cast_precision_loss)] // for plots
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1e3
}

#[allow(clippy::cast_precision_loss)] // for plots
fn nats(unat: i64) -> f64 {
    unat as f64 / 1e6
}

impl Node {
    fn ledger(&self, out: &mut Writer<'_>) -> fmt::Result {
        let health = Health::of(&self.0, now_ms());
        let known = self.0.peers().len();
        let mempool = self.0.mempool();
        let state = self.0.state();
        let group = state.group();
        out.gauge("ledger_height", "Height of the last block", health.height)?;
        out.gauge("ledger_tip_age_seconds", "Age of the last block", seconds(health.tip_age_ms))?;
        out.gauge("ready", "1 if /ready says so", u32::from(health.is_ready()))?;
        out.gauge("peers_connected", "Peers connected", health.connected)?;
        out.gauge("relays", "Relays that pass connections on to this node", self.0.reachability().1)?;
        out.gauge("peers_known", "Peers known", known)?;
        out.gauge("mempool_transactions", "Transactions waiting", mempool)?;
        out.gauge("epoch", "Epoch in charge", state.current().number)?;
        out.gauge("seated", "1 if this node sits in the committee", u32::from(group.index_of(self.0.me).is_some()))?;
        out.gauge("committee_members", "Members of the committee", group.members().len())?;
        out.gauge("committee_threshold", "Members needed to sign", group.threshold())?;
        out.gauge("checkpoint_height", "Height of the newest attested block", state.federation().checkpoint)?;
        out.gauge("validators", "Validators and applicants on the ledger", state.all_validators().count())?;
        out.gauge("models", "Models on the ledger", state.models().count())
    }

    fn money(&self, out: &mut Writer<'_>) -> fmt::Result {
        let (mut judged, mut paid_claims) = (0u64, 0u64);
        let (mut held, mut paid, mut refunded) = (0u64, 0u64, 0u64);
        {
            let state = self.0.state();
            for credit in state.credits() {
                judged = judged.saturating_add(credit.claims);
                paid_claims = paid_claims.saturating_add(credit.paid_claims);
            }
            for sponsorship in state.models().flat_map(|(_, m)| &m.sponsors) {
                held = held.saturating_add(sponsorship.held_msat);
                paid = paid.saturating_add(sponsorship.paid_msat);
                refunded = refunded.saturating_add(sponsorship.refunded_msat);
            }
        }
        out.counter("claims_judged", "Claims judged", judged)?;
        out.counter("claims_paid", "Claims paid", paid_claims)?;
        out.counter("paid_msat", "Payments settled, msat", paid)?;
        out.counter("refunded_msat", "Payments refunded, msat", refunded)?;
        out.gauge("held_msat", "Payments dealt and not ended, msat", held)?;
        let Some(wallet) = self.0.wallet() else { return Ok(()) };
        out.gauge("wallet_lightning_msat", "Spendable over Lightning, msat", wallet.lightning_msat)?;
        out.gauge("wallet_onchain_sat", "Spendable on chain, sat", wallet.onchain_sat)?;
        let usable = wallet.channels.iter().filter(|c| c.usable).count();
        out.gauge("wallet_channels_usable", "Channels ready and connected", usable)
    }

    fn blobs(&self, out: &mut Writer<'_>) -> fmt::Result {
        let Some((usage, report)) = self.0.custody() else { return Ok(()) };
        out.gauge("blobs_disk_bytes", "Disk the blobs take", usage.used_bytes)?;
        out.gauge("blobs_quota_bytes", "Disk they may take; 0 is no limit", usage.quota_bytes)?;
        out.gauge("blobs_here", "Complete blobs here", usage.blobs)?;
        out.gauge("blobs_kept", "Blobs here that the ledger needs", report.kept)?;
        out.gauge("blobs_assigned", "Blobs this node should keep a replica of", report.assigned)?;
        out.gauge("blobs_missing", "Of these, how many are not here", report.missing)?;
        out.gauge("blobs_no_room", "Of these, how many do not fit max_disk_mb", report.no_room)?;
        out.gauge("blobs_spare", "Blobs that go when room is needed", report.spare)?;
        out.gauge("blobs_keepers", "Full nodes heard of lately, this one among them", report.nodes)?;
        out.counter("blobs_replicas_fetched", "Replicas fetched", report.fetched)
    }

    fn models(&self, out: &mut Writer<'_>) -> fmt::Result {
        let state = self.0.state();
        let models: Vec<_> = state.models().take(MAX_MODELS_SHOWN).collect();
        let labels =
            |id: &oda_consensus::ids::ModelId, name: &str| [("model", id.to_string()), ("name", name.to_string())];
        let round = |m: &oda_consensus::state::ModelState| m.round.as_ref().map_or(0, |r| r.number);
        let rounds = models.iter().map(|(id, m)| (labels(id, &m.manifest.name), round(m))).collect();
        out.per_model("model_round", "Round the model is in", rounds)?;
        let proven = |m: &oda_consensus::state::ModelState| nats(i64::try_from(m.proven_unat).unwrap_or(i64::MAX));
        let gains = models.iter().map(|(id, m)| (labels(id, &m.manifest.name), proven(m))).collect();
        out.per_model("model_proven_nats", "Gain proven by all adopted heads, nats a sample", gains)?;
        let losses = models.iter().filter_map(|(id, m)| {
            let test = m.head.test.filter(|t| t.n > 0)?;
            Some((labels(id, &m.manifest.name), nats(test.loss_sum_unat) / f64::from(test.n)))
        });
        out.per_model("model_test_loss_nats", "Loss of the head on the test split, nats a sample", losses.collect())
    }
}

/// What Linux says of this process; nothing elsewhere.
fn process(out: &mut Writer<'_>) -> fmt::Result {
    if let Some(bytes) = std::fs::read_to_string("/proc/self/status").ok().as_deref().and_then(resident_bytes) {
        out.gauge("process_resident_memory_bytes", "Memory in use", bytes)?;
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        out.gauge("process_open_fds", "Files and sockets open", open.count())?;
    }
    Ok(())
}

/// VmRSS of proc(5)'s status, which is in KiB whatever it calls them.
fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_the_kernels_words() {
        assert_eq!(resident_bytes("Name:\toda\nVmRSS:\t   12 kB\nThreads:\t1\n"), Some(12 * 1024));
        for bad in ["", "VmRSS:", "VmRSS: x kB", "VmRSS: 1 MB", "VmRSS: 99999999999999999999 kB"] {
            assert_eq!(resident_bytes(bad), None, "{bad}");
        }
    }
}
