//! What `oda` asks a running full node, as tables for people or JSON for programs.

use crate::net::Reachability;
use crate::rpc::{ApiClient, BlockInfo, ClaimInfo, CreditCursor, VerifyReport};
use crate::top::short;
use anyhow::{Context, Result};
use jsonrpsee::core::client::Error as ClientError;
use jsonrpsee::http_client::{HeaderMap, HeaderValue, HttpClient, HttpClientBuilder};
use oda_consensus::codec;
use oda_consensus::ids::{ClaimId, ModelId};
use oda_consensus::tx::SignedTx;
use serde::Serialize;
use serde_json::Value;

/// Most items of a list that are fetched page by page.
const MAX_ITEMS: usize = 1 << 20;

pub(crate) fn client(url: &str) -> Result<HttpClient> {
    client_with(url, HeaderMap::new())
}

fn client_with(url: &str, headers: HeaderMap) -> Result<HttpClient> {
    HttpClientBuilder::default()
        .set_headers(headers)
        .request_timeout(std::time::Duration::from_secs(600))
        .build(url)
        .with_context(|| format!("{url} is not an RPC address: use http://HOST:PORT"))
}

/// Turns a failed call into one line that says what to do.
pub(crate) fn asked<T>(url: &str, result: Result<T, ClientError>) -> Result<T> {
    result.map_err(|error| match error {
        ClientError::Call(e) => anyhow::anyhow!("{}", e.message()),
        other => anyhow::anyhow!("no full node answers on {url} ({other}): start one, or give its address with --rpc"),
    })
}

/// A whole list, page by page; `cursor` is the name of an item.
async fn all<T, C>(
    url: &str,
    page: impl AsyncFn(Option<C>) -> Result<Vec<T>, ClientError>,
    cursor: impl Fn(&T) -> Option<C>,
) -> Result<Vec<T>> {
    let mut items = Vec::new();
    while items.len() < MAX_ITEMS {
        let after = items.last().map(|last| cursor(last).context(format!("{url} answers with an item without a name")));
        let next = asked(url, page(after.transpose()?).await)?;
        if next.is_empty() {
            return Ok(items);
        }
        items.extend(next);
    }
    anyhow::bail!("{url} has more than {MAX_ITEMS} items: ask for a part of them")
}

fn claim_of(info: &ClaimInfo) -> Option<ClaimId> {
    info.claim["id"].as_str()?.parse().ok()
}

/// `oda stop`.
///
/// # Errors
/// If the node does not answer, or is not the one of this data directory.
pub async fn stop(url: &str, datadir: &std::path::Path) -> Result<()> {
    let mut header = HeaderValue::from_str(&crate::rpc::read_authorization(datadir)?)?;
    header.set_sensitive(true);
    let client = client_with(url, HeaderMap::from_iter([(http::header::AUTHORIZATION, header)]))?;
    asked(url, client.stop().await)?;
    Ok(())
}

/// `oda ledger audit`.
///
/// # Errors
/// If the node does not answer, or something differs.
pub async fn audit(url: &str, books: Option<&crate::audit::Books>, json: bool) -> Result<()> {
    let client = client(url)?;
    let models = all(url, async |after| client.models(None, after).await, |m| Some(m.id)).await?;
    let mut claims = Vec::new();
    for model in models.iter().map(|m| m.id) {
        let of_model = all(url, async |after| client.claims(model, None, None, after).await, claim_of).await?;
        claims.extend(of_model.into_iter().map(|claim| (model, claim)));
    }
    let audit = crate::audit::audit(&models, &claims, books)?;
    if json {
        print_json(&audit)?;
    } else {
        audit.print();
    }
    anyhow::ensure!(audit.differences.is_empty(), "{} differences: see above", audit.differences.len());
    Ok(())
}

/// Prints a value as JSON.
///
/// # Errors
/// If it cannot be written.
pub fn print_json(value: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Nats with four digits from micro-nats.
#[allow(clippy::cast_precision_loss)]
pub fn nats(unat: i64) -> String {
    format!("{:.4}", unat as f64 / 1e6)
}

fn time(ms: u64) -> String {
    let s = ms / 1000;
    format!("{:02}:{:02}:{:02}", s / 3600 % 24, s / 60 % 60, s % 60)
}

pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) {
    let width = |i: usize| {
        rows.iter()
            .filter_map(|r| r.get(i))
            .map(|c| c.chars().count())
            .chain([header.get(i).map_or(0, |h| h.len())])
            .max()
            .unwrap_or(0)
    };
    let line = |cells: Vec<String>| {
        let cells: Vec<String> = cells.iter().enumerate().map(|(i, c)| format!("{c:<w$}", w = width(i))).collect();
        println!("{}", cells.join("  ").trim_end());
    };
    line(header.iter().map(|h| (*h).to_string()).collect());
    rows.iter().for_each(|r| line(r.clone()));
}

/// `oda status`.
///
/// # Errors
/// If the node does not answer.
pub async fn status(url: &str, json: bool) -> Result<()> {
    let s = asked(url, client(url)?.status().await)?;
    if json {
        return print_json(&s);
    }
    let (n, t) = s.committee;
    println!("node       {}{}", s.node, if s.validator { " (validator)" } else { "" });
    println!("network    {} ({})", s.network, s.chain);
    println!("height     {} at {} UTC", s.height, time(s.time_ms));
    println!("peers      {} connected, {} transactions waiting", s.connected, s.mempool);
    match s.reachability {
        Reachability::Unknown => {}
        Reachability::Public => println!("reachable  directly"),
        Reachability::Private => println!("reachable  through {} relays, not directly", s.relays),
    }
    println!(
        "committee  epoch {}, {n} members{}: forging an outcome needs {t}, blocking one needs {}",
        s.epoch,
        if s.seated { " (this node is one)" } else { "" },
        n - t + 1
    );
    Ok(())
}

/// Puts a signed transaction before the network.
///
/// # Errors
/// If the node does not answer or does not take it.
pub async fn submit(url: &str, tx: &SignedTx, json: bool) -> Result<()> {
    let id = asked(url, client(url)?.submit(hex::encode(codec::encode(tx))).await)?;
    if json {
        return print_json(&serde_json::json!({ "transaction": id }));
    }
    println!("{} submitted: transaction {id}", tx.kind());
    Ok(())
}

/// `oda federation`.
///
/// # Errors
/// If the node does not answer.
pub async fn federation(url: &str, json: bool) -> Result<()> {
    let f = asked(url, client(url)?.federation().await)?;
    if json {
        return print_json(&f);
    }
    let (n, t) = (f.members.len(), f.threshold);
    println!("epoch      {} since block {}: {n} members, {t} sign, {} block", f.epoch, f.start_height, n - t + 1);
    println!("attested   block {}", f.checkpoint);
    match &f.dkg {
        Some(d) => println!(
            "next       epoch {}: key generation {}, attempt {}\n",
            d["epoch"],
            text(&d["phase"]),
            d["attempt"]
        ),
        None => println!("next       not drawn yet\n"),
    }
    let rows: Vec<_> = f
        .validators
        .iter()
        .map(|v| {
            let (r, node) = (&v["record"], text(&v["node"]));
            let seat = f.members.iter().any(|m| m.to_string() == node);
            let count = |key: &str| r[key].to_string();
            vec![
                node.chars().take(16).collect(),
                if seat { "seated" } else { "" }.into(),
                verdict(&v["status"]),
                count("rounds"),
                count("agreed"),
                count("late"),
                count("withheld"),
                count("false_scores"),
                format!(
                    "{}/{}",
                    r["decoys_passed"],
                    r["decoys_passed"].as_u64().unwrap_or(0) + r["decoys_failed"].as_u64().unwrap_or(0)
                ),
                count("dkg_missed"),
                kept(&v["storage"]),
            ]
        })
        .collect();
    let header = [
        "VALIDATOR",
        "SEAT",
        "STATUS",
        "ROUNDS",
        "AGREED",
        "LATE",
        "WITHHELD",
        "FALSE",
        "DECOYS",
        "DKG MISSED",
        "BLOBS",
    ];
    table(&header, &rows);
    Ok(())
}

/// Storage challenges answered, of all.
fn kept(v: &Value) -> String {
    let count = |key: &str| v[key].as_u64().unwrap_or(0);
    if v.is_null() { "-".into() } else { format!("{}/{}", count("kept"), count("kept") + count("missed")) }
}

fn text(v: &Value) -> String {
    v.as_str().map_or_else(|| v.to_string(), |s| s.replace('_', " "))
}

/// `oda peers`.
///
/// # Errors
/// If the node does not answer.
pub async fn peers(url: &str, json: bool) -> Result<()> {
    let client = client(url)?;
    let peers = all(url, async |after| client.peers(None, after).await, |p| Some(p.node)).await?;
    if json {
        return print_json(&peers);
    }
    let rows: Vec<_> = peers
        .iter()
        .map(|p| {
            vec![
                p.node.to_string(),
                p.role.clone().unwrap_or_else(|| "?".into()),
                if p.connected { "connected" } else { "known" }.into(),
            ]
        })
        .collect();
    table(&["NODE", "ROLE", "STATE"], &rows);
    Ok(())
}

/// `oda wallet`.
///
/// # Errors
/// If the node does not answer or has no wallet.
pub async fn wallet(url: &str, json: bool) -> Result<()> {
    let w = asked(url, client(url)?.wallet().await)?;
    if json {
        return print_json(&w);
    }
    println!(
        "lightning node  {}\naddress         {}\non chain        {} sat\nover lightning  {} msat",
        w.node_id, w.address, w.onchain_sat, w.lightning_msat
    );
    let rows: Vec<_> = w
        .channels
        .iter()
        .map(|c| {
            vec![
                c.counterparty.clone(),
                c.capacity_sat.to_string(),
                if c.usable { "usable" } else { "not ready" }.into(),
            ]
        })
        .collect();
    table(&["CHANNEL WITH", "SAT", "STATE"], &rows);
    Ok(())
}

fn block_rows(blocks: &[BlockInfo]) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for b in blocks {
        if b.txs.is_empty() {
            rows.push(vec![
                b.height.to_string(),
                time(b.time_ms),
                b.votes.to_string(),
                "-".into(),
                String::new(),
                String::new(),
            ]);
        }
        for tx in &b.txs {
            rows.push(vec![
                b.height.to_string(),
                time(b.time_ms),
                b.votes.to_string(),
                tx.kind.clone(),
                tx.signer.short(),
                tx.about.clone(),
            ]);
        }
    }
    rows
}

const BLOCK_HEADER: [&str; 6] = ["BLOCK", "TIME", "VOTES", "KIND", "SIGNER", "ABOUT"];

/// `oda ledger tail`.
///
/// # Errors
/// If the node does not answer.
pub async fn tail(url: &str, limit: u32, empty: bool, json: bool) -> Result<()> {
    let blocks = asked(url, client(url)?.blocks(None, Some(limit), Some(empty)).await)?;
    if json {
        return print_json(&blocks);
    }
    table(&BLOCK_HEADER, &block_rows(&blocks));
    Ok(())
}

/// `oda ledger get`.
///
/// # Errors
/// If the node does not answer or has no such block.
pub async fn block(url: &str, height: u64, json: bool) -> Result<()> {
    let b = asked(url, client(url)?.block(height).await)?;
    if json {
        return print_json(&b);
    }
    println!(
        "block       {}\nhash        {}\nparent      {}\nstate root  {}\nvotes       {}\n",
        b.height, b.hash, b.prev, b.state_root, b.votes
    );
    table(&BLOCK_HEADER, &block_rows(&[b]));
    Ok(())
}

/// `oda ledger credit`.
///
/// # Errors
/// If the node does not answer.
pub async fn credit(url: &str, model: Option<ModelId>, json: bool) -> Result<()> {
    let client = client(url)?;
    let cursor = |c: &crate::rpc::CreditInfo| Some(CreditCursor { model: c.model, trainer: c.trainer });
    let credit = all(url, async |after| client.credit(model, None, after, None).await, cursor).await?;
    if json {
        return print_json(&credit);
    }
    let rows: Vec<_> = credit
        .iter()
        .map(|c| {
            vec![
                c.model.short(),
                c.trainer.to_string(),
                nats(i64::try_from(c.credit_unat).unwrap_or(i64::MAX)),
                format!("{}/{}", c.paid_claims, c.claims),
                c.paid_msat.to_string(),
            ]
        })
        .collect();
    table(&["MODEL", "TRAINER", "CREDIT NAT", "ADDED/JUDGED", "PAID MSAT"], &rows);
    Ok(())
}

/// `oda ledger verify`.
///
/// # Errors
/// If the node does not answer or its ledger does not replay.
pub async fn verify_ledger(url: &str, json: bool) -> Result<()> {
    let report = asked(url, client(url)?.verify_ledger().await)?;
    print_verify(&report, json)
}

/// Shows the result of a ledger verification.
///
/// # Errors
/// If it cannot be written.
pub fn print_verify(report: &VerifyReport, json: bool) -> Result<()> {
    if json {
        return print_json(report);
    }
    let from = match report.blocks_from {
        0 | 1 => "genesis".to_owned(),
        from => format!(
            "block {from} (older ones are pruned; the state before it is made of all records, under an attested block)"
        ),
    };
    println!(
        "ledger holds: {} blocks, {} transactions replayed from {from}, state root {}",
        report.blocks, report.txs, report.state_root
    );
    Ok(())
}

/// `oda model list`.
///
/// # Errors
/// If the node does not answer.
pub async fn models(url: &str, json: bool) -> Result<()> {
    let client = client(url)?;
    let models = all(url, async |after| client.models(None, after).await, |m| Some(m.id)).await?;
    if json {
        return print_json(&models);
    }
    let rows: Vec<_> = models
        .iter()
        .map(|m| {
            let s = &m.state;
            let proven = s["proven_unat"].as_i64().unwrap_or(0);
            vec![
                m.id.to_string(),
                s["manifest"]["name"].as_str().unwrap_or("?").into(),
                m.parameters.to_string(),
                s["round"]["number"].to_string(),
                short(&s["head"]["weights"]["hash"]),
                nats(proven),
            ]
        })
        .collect();
    table(&["MODEL", "NAME", "PARAMETERS", "ROUND", "HEAD", "PROVEN NAT"], &rows);
    Ok(())
}

/// `oda model show`.
///
/// # Errors
/// If the node does not answer or has no such model.
pub async fn model(url: &str, id: ModelId, json: bool) -> Result<()> {
    let client = client(url)?;
    let model = asked(url, client.model(id).await)?;
    let outcomes = asked(url, client.outcomes(id, None, None).await)?;
    if json {
        return print_json(&serde_json::json!({ "model": model, "outcomes": outcomes }));
    }
    let s = &model.state;
    println!(
        "model       {id}\nname        {}\nparameters  {}\nhead        {}\nround       {}",
        s["manifest"]["name"].as_str().unwrap_or("?"),
        model.parameters,
        s["head"]["weights"]["hash"].as_str().unwrap_or("?"),
        s["round"]["number"]
    );
    println!("proven      {} nat\n", nats(s["proven_unat"].as_i64().unwrap_or(0)));
    let rows: Vec<_> = outcomes
        .iter()
        .flat_map(|o| {
            let (outcome, height) = (&o["outcome"], o["height"].to_string());
            let test = &outcome["head"]["candidate_test"];
            let n = test["n"].as_f64().unwrap_or(0.0);
            let (loss, accuracy) = if n > 0.0 {
                (
                    format!("{:.4}", test["loss_sum_unat"].as_f64().unwrap_or(0.0) / n / 1e6),
                    format!("{:.1} %", 100.0 * test["correct"].as_f64().unwrap_or(0.0) / n),
                )
            } else {
                ("-".into(), "-".into())
            };
            let proven = nats(outcome["proven_unat"].as_i64().unwrap_or(0));
            let round = outcome["round"].to_string();
            outcome["claims"].as_array().cloned().unwrap_or_default().into_iter().map(move |c| {
                vec![
                    round.clone(),
                    height.clone(),
                    proven.clone(),
                    loss.clone(),
                    accuracy.clone(),
                    c["claim"].as_str().unwrap_or("?").into(),
                    short(&c["trainer"]),
                    verdict(&c["verdict"]),
                    nats(c["credit_unat"].as_i64().unwrap_or(0)),
                ]
            })
        })
        .collect();
    table(&["ROUND", "BLOCK", "PROVEN", "LOSS", "ACCURACY", "CLAIM", "TRAINER", "VERDICT", "CREDIT"], &rows);
    Ok(())
}

pub(crate) fn verdict(v: &Value) -> String {
    match v {
        Value::String(s) => s.replace('_', " "),
        Value::Object(o) => o
            .iter()
            .map(|(k, v)| format!("{}: {}", k.replace('_', " "), v.as_str().unwrap_or("").replace('_', " ")))
            .collect(),
        _ => "?".into(),
    }
}

/// `oda claim show`.
///
/// # Errors
/// If the node does not answer or has no such claim.
pub async fn claim(url: &str, id: ClaimId, json: bool) -> Result<()> {
    let info = asked(url, client(url)?.claim(id).await)?;
    if json {
        return print_json(&info);
    }
    let c = &info.claim;
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_string);
    println!(
        "claim      {id}\nmodel      {}\nround      {}\ntrainer    {}\nparent     {}",
        text(&c["model"]),
        c["round"],
        text(&c["trainer"]),
        text(&c["parent"]["hash"])
    );
    println!("committed  block {}", c["committed_height"]);
    if let Some(r) = c["reveal"].as_object() {
        println!(
            "delta      {} ({} bytes), stated gain {} nat",
            text(&r["delta"]["hash"]),
            r["delta"]["len"],
            nats(r["stated_gain_unat"].as_i64().unwrap_or(0))
        );
    }
    if let Some(judged) = c["judged"].as_array().and_then(|j| j.first()) {
        println!(
            "judged     block {}: {}, credit {} nat",
            c["judged"][1],
            verdict(&judged["verdict"]),
            nats(judged["credit_unat"].as_i64().unwrap_or(0))
        );
        let added = &judged["measurement"]["added"];
        if added.is_object() {
            let (n, sum) =
                (added["gate"]["n"].as_i64().unwrap_or(1).max(1), added["gate"]["sum_unat"].as_i64().unwrap_or(0));
            println!(
                "           states {} nat, adds {} nat a sample ({n} samples, sum {sum} unat)",
                nats(added["stated_unat"].as_i64().unwrap_or(0)),
                nats(sum / n)
            );
        }
        if let Some(scores) = judged["measurement"]["scored"].as_object() {
            for (name, what) in [
                ("shard", "own shard, full step"),
                ("gate", "gate sample, full step"),
                ("probe", "gate sample, probe step"),
            ] {
                let Some(p) = scores.get(name).filter(|p| p.is_object()) else { continue };
                let (n, sum) = (p["n"].as_i64().unwrap_or(1).max(1), p["sum_unat"].as_i64().unwrap_or(0));
                println!("           {what}: {:>10} nat a sample ({n} samples, sum {sum} unat)", nats(sum / n));
            }
        }
    }
    let Some(e) = &info.escrow else {
        println!("payment    none offered");
        return Ok(());
    };
    let terms = &e["terms"];
    println!(
        "payment    from {}: {}, {} msat for each micro-nat",
        text(&e["payer"]),
        text(&e["stage"]),
        terms["rate_msat"]
    );
    for tranche in e["tranches"].as_array().into_iter().flatten() {
        println!(
            "           {:>14} msat  {}  {}",
            tranche["amount_msat"],
            text(&tranche["payment_hash"]),
            tranche_status(&tranche["status"])
        );
    }
    Ok(())
}

fn tranche_status(v: &Value) -> String {
    match v {
        Value::Object(o) => o.iter().map(|(k, v)| format!("{k}, receipt {}", v.as_str().unwrap_or("?"))).collect(),
        other => other.as_str().unwrap_or("?").into(),
    }
}
