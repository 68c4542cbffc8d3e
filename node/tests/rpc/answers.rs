//! What the methods answer with: documented, complete, and nothing undocumented.

use super::*;
use oda_consensus::outcome::{Attestation, Statement};
use oda_node::full::{PaymentInfo, PeerInfo};
use oda_node::rpc::schema::{Auth, Kind, METHODS, SHAPES};
use oda_node::rpc::{ChannelInfo, WalletInfo};
use std::collections::BTreeSet;

/// Puts in place what the ledger does not give: peers, payments, a wallet.
fn furnish(stand: &Stand) {
    let peer = |n: u8| PeerInfo { node: NodeId([n; 32]), connected: n > 1, role: (n > 2).then(|| "full".into()) };
    stand.shared.put_peers((1..=3).map(peer).collect());
    let escrow = stand.world.state.escrows().next().unwrap();
    for tranche in 0..2 {
        stand.shared.set_payment(PaymentInfo {
            escrow: escrow.id,
            tranche,
            claim: stand.world.state.claims().next().unwrap().id,
            payee: escrow.payee,
            payment_hash: escrow.tranches[0].payment_hash,
            amount_msat: 1,
            fee_msat: 0,
            phase: "dealt".into(),
        });
    }
    stand.shared.set_wallet(WalletInfo {
        node_id: "02".repeat(33),
        address: "bcrt1".into(),
        onchain_sat: 1,
        lightning_msat: 2,
        channels: vec![ChannelInfo { counterparty: "03".repeat(33), capacity_sat: 1, usable: true }],
    });
}

/// Checks a value against a JSON schema as far as the document uses it; notes the shapes met.
fn check(value: &Value, schema: &Value, document: &Value, seen: &mut BTreeSet<String>) -> Result<(), String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.strip_prefix("#/components/schemas/").ok_or(reference)?;
        seen.insert(name.to_string());
        return check(value, &document["components"]["schemas"][name], document, seen)
            .map_err(|e| format!("{name}: {e}"));
    }
    if let Some(choices) = schema["anyOf"].as_array() {
        let tried: Vec<_> = choices.iter().map(|c| check(value, c, document, seen)).collect();
        return match tried.iter().any(Result::is_ok) {
            true => Ok(()),
            false => Err(format!("{tried:?}")),
        };
    }
    let fits = match schema["type"].as_str() {
        None => true,
        Some("null") => value.is_null(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => schema["minimum"] != 0 && value.is_i64() || value.is_u64(),
        Some("string") => value.as_str().is_some_and(|text| {
            let hex = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
            match schema["pattern"].as_str() {
                None => true,
                Some(p) if p.contains("64") => hex && text.len() == 64,
                Some(_) => hex && text.len() % 2 == 0,
            }
        }),
        Some("array") => {
            let items = value.as_array().ok_or(format!("{value} is no list"))?;
            return items.iter().try_for_each(|item| check(item, &schema["items"], document, seen));
        }
        Some("object") => {
            let fields = value.as_object().ok_or(format!("{value} is no object"))?;
            let known = schema["properties"].as_object().unwrap();
            for name in schema["required"].as_array().unwrap() {
                if !fields.contains_key(name.as_str().unwrap()) {
                    return Err(format!("{name} is missing"));
                }
            }
            for (name, value) in fields {
                let schema = known.get(name).ok_or(format!("{name} is not documented"))?;
                check(value, schema, document, seen).map_err(|e| format!("{name}: {e}"))?;
            }
            true
        }
        Some(other) => return Err(format!("type {other}")),
    };
    if fits { Ok(()) } else { Err(format!("{value} is no {schema}")) }
}

#[tokio::test]
async fn the_documented_methods_are_those_there_are() {
    let stand = Stand::new().await;
    let there = oda_node::rpc::method_names(stand.shared.clone(), stand.store.clone()).unwrap();
    let mut documented: Vec<_> = METHODS.iter().map(|m| m.name.to_string()).collect();
    documented.sort();
    assert_eq!(documented, there);
    let served = stand.call("rpc.discover", json!([])).await.unwrap();
    let mut names: Vec<_> =
        served["methods"].as_array().unwrap().iter().map(|m| m["name"].as_str().unwrap().to_string()).collect();
    names.sort();
    assert_eq!(names, there);
    let (status, text) = stand.get("/openrpc.json").await;
    assert_eq!((status, serde_json::from_str::<Value>(&text).unwrap()), (200, served));
}

#[test]
fn the_reference_in_the_repository_is_the_generated_one() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/rpc.md");
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text == oda_node::rpc::doc::markdown(), "docs/rpc.md is old: run `oda rpc-doc > docs/rpc.md`");
}

/// Parameters by name for a successful call of each method that anyone may call.
fn example(method: &str, stand: &Stand) -> Value {
    let state = &stand.world.state;
    let (model, claim) = (stand.world.model(), state.claims().next().unwrap());
    match method {
        "oda_block" => json!({ "height": 1 }),
        "oda_blocks" => json!({ "to": 9, "limit": 500, "empty": true }),
        "oda_model" => json!({ "id": model }),
        "oda_claim" => json!({ "id": claim.id }),
        "oda_claims" => json!({ "model": model, "round": 1, "limit": 9 }),
        "oda_outcomes" => json!({ "model": model, "from_round": 1, "limit": 3 }),
        "oda_credit" => json!({ "model": model }),
        "oda_proof" | "oda_history" => json!({ "subject": { "model": model } }),
        "oda_extension" => json!({ "old": 1, "new": 5 }),
        "oda_escrow" => json!({ "id": claim.escrow }),
        _ => json!({}),
    }
}

#[tokio::test]
async fn every_answer_has_the_documented_shape_and_every_shape_is_met() {
    let stand = Stand::new().await;
    furnish(&stand);
    let document = stand.call("rpc.discover", json!([])).await.unwrap();
    let mut seen = BTreeSet::new();
    for m in METHODS.iter().filter(|m| m.kind == Kind::Call && m.auth == Auth::Open) {
        let answer = stand.call(m.name, example(m.name, &stand)).await;
        if ["oda_verifyLedger", "oda_submit"].contains(&m.name) {
            assert!(answer.is_err(), "these need a signed ledger and transaction, see testnet/tests");
            continue;
        }
        let answer = answer.unwrap_or_else(|code| panic!("{}: {code}", m.name));
        assert!(answer.as_array().is_none_or(|list| !list.is_empty()), "{}: nothing to check", m.name);
        let schema = oda_node::rpc::doc::json_schema(m.result);
        check(&answer, &schema, &document, &mut seen).unwrap_or_else(|why| panic!("{}: {why}", m.name));
    }
    // attestations of outcomes have the same shape as those of checkpoints
    let signed = stand.call("oda_attestations", json!({ "model": stand.world.model() })).await.unwrap();
    check(&signed, &oda_node::rpc::doc::json_schema("Attestation[]"), &document, &mut seen).unwrap();
    let unseen: Vec<_> = SHAPES.iter().map(|(name, ..)| *name).filter(|name| !seen.contains(*name)).collect();
    // cursors are only sent; records and reports have their own tests
    assert_eq!(unseen, ["Record", "CreditCursor", "PaymentCursor", "VerifyReport"]);
    let wrong = json!({ "hash": "00", "len": 1 });
    assert!(check(&wrong, &oda_node::rpc::doc::json_schema("Blob"), &document, &mut seen).is_err(), "a planted fault");
}

#[tokio::test]
async fn calls_of_before_there_were_pages_still_work() {
    let stand = Stand::new().await;
    let model = stand.world.model();
    for (method, params) in [
        ("oda_blocks", json!([null, 5, false])),
        ("oda_models", json!([])),
        ("oda_claims", json!([model, 1])),
        ("oda_outcomes", json!([model, 0, 500])),
        ("oda_credit", json!([null])),
        ("oda_credit", json!([model])),
    ] {
        let answer = stand.call(method, params).await.unwrap();
        assert!(!answer.as_array().unwrap().is_empty(), "{method}");
    }
    assert_eq!(stand.call("oda_claims", json!([model, 99])).await, Err(-32001));
    assert_eq!(stand.call("oda_claims", json!([model, 1, null, "00".repeat(32)])).await, Err(-32602));
    let tip = stand.world.state.tip().height;
    let blocks = stand.call("oda_blocks", json!([null, 5, true])).await.unwrap();
    let heights: Vec<_> = blocks.as_array().unwrap().iter().map(|b| b["height"].as_u64().unwrap()).collect();
    assert_eq!(heights, (tip - 4..=tip).collect::<Vec<_>>());
}

#[tokio::test]
async fn credit_is_found_by_trainer() {
    let stand = Stand::new().await;
    let all = stand.call("oda_credit", json!([])).await.unwrap();
    let trainer = &all[0]["trainer"];
    let of_one = stand.call("oda_credit", json!({ "trainer": trainer })).await.unwrap();
    assert!(of_one.as_array().unwrap().iter().all(|c| &c["trainer"] == trainer));
    assert!(!of_one.as_array().unwrap().is_empty() && of_one != all);
}

/// A list read one item at a time is the list.
#[tokio::test]
async fn pages_put_together_are_the_whole_list() {
    let stand = Stand::new().await;
    furnish(&stand);
    let model = json!(stand.world.model());
    type Cursor = fn(&Value) -> Value;
    let cursor: [(&str, Value, Cursor); 9] = [
        ("oda_models", json!({}), |m| m["id"].clone()),
        ("oda_claims", json!({ "model": model }), |c| c["claim"]["id"].clone()),
        ("oda_attestations", json!({}), |a| a["number"].clone()),
        ("oda_attestations", json!({ "model": model }), |a| a["number"].clone()),
        ("oda_committees", json!({}), |c| c["epoch"].clone()),
        ("oda_credit", json!({}), |c| json!({ "model": c["model"], "trainer": c["trainer"] })),
        ("oda_validators", json!({}), |v| v["node"].clone()),
        ("oda_peers", json!({}), |p| p["node"].clone()),
        ("oda_payments", json!({}), |p| json!({ "escrow": p["escrow"], "tranche": p["tranche"] })),
    ];
    for (method, params, name) in cursor {
        let whole = stand.call(method, params.clone()).await.unwrap();
        let mut read = Vec::new();
        loop {
            let mut params = params.clone();
            params["limit"] = json!(1);
            if let Some(last) = read.last() {
                params["after"] = name(last);
            }
            let page = stand.call(method, params).await.unwrap();
            let Some(item) = page.as_array().unwrap().first() else { break };
            assert_eq!(page.as_array().unwrap().len(), 1, "{method}");
            read.push(item.clone());
            assert!(read.len() <= whole.as_array().unwrap().len(), "{method} repeats itself");
        }
        assert_eq!(json!(read), whole, "{method}");
        let least = if method == "oda_attestations" { 1 } else { 2 };
        assert!(read.len() >= least, "{method}: {} items show nothing", read.len());
    }
}

#[tokio::test]
async fn attestations_and_committees_can_be_checked_by_a_stranger() {
    let stand = Stand::new().await;
    let state = &stand.world.state;
    let committees = stand.call("oda_committees", json!({})).await.unwrap();
    let key = |epoch: u64| {
        let hex = committees[usize::try_from(epoch).unwrap()]["key"].as_str().unwrap();
        codec::decode::<oda_consensus::frost::GroupKey>(&hex::decode(hex).unwrap()).unwrap()
    };
    let message = |item: &Value| hex::decode(item["message"].as_str().unwrap()).unwrap();
    let checkpoint = state.checkpoints().next().unwrap();
    let outcome = state.outcomes(stand.world.model()).next().unwrap();
    for (params, signature, epoch) in [
        (json!({}), &checkpoint.signature, checkpoint.epoch),
        (json!({ "model": stand.world.model() }), &outcome.signature, outcome.epoch),
    ] {
        let item = &stand.call("oda_attestations", params).await.unwrap()[0];
        assert_eq!((item["epoch"].as_u64(), item["signature"].as_str()), (Some(epoch), Some(&*signature.to_string())));
        assert!(key(epoch).verify(&message(item), signature));
        let attestation: Attestation = codec::decode(&message(item)).unwrap();
        assert_eq!(item["topic"], json!(attestation.topic()));
        assert_eq!(attestation.chain, state.chain());
    }
    let handover = state.epoch_state(1).unwrap();
    let attestation: Attestation = codec::decode(&message(&committees[1])).unwrap();
    assert_eq!(attestation.statement, Statement::Handover(handover.handover()));
    assert!(key(0).verify(&message(&committees[1]), handover.signature.as_ref().unwrap()));
    assert_eq!(committees[1]["signature"].as_str(), Some(&*handover.signature.as_ref().unwrap().to_string()));
}

#[tokio::test] // L4
async fn what_is_proven_is_what_was_recorded_and_no_more_than_that() {
    use oda_consensus::proof::RecordProof;
    use oda_consensus::state::CheckpointState;
    let stand = Stand::new().await;
    let read = |text: &Value| hex::decode(text.as_str().unwrap()).unwrap();
    let model = json!({ "model": stand.world.model() });
    let proof = stand.call("oda_proof", json!([model])).await.unwrap();
    let checkpoint: CheckpointState = codec::decode(&read(&proof["checkpoint"])).unwrap();
    let record: RecordProof = codec::decode(&read(&proof["record"])).unwrap();
    record.check(&checkpoint.checkpoint).unwrap();
    // the newest version at or below the attested block
    let versions = stand.call("oda_history", json!([model])).await.unwrap();
    let heights: Vec<u64> = versions.as_array().unwrap().iter().map(|v| v["height"].as_u64().unwrap()).collect();
    assert!(heights.len() > 1 && heights.is_sorted(), "{heights:?}");
    let covered = heights.iter().rfind(|h| **h <= checkpoint.checkpoint.height);
    assert_eq!(Some(&record.height), covered);
    let from = json!({ "subject": model, "from_height": heights[1], "limit": 1 });
    assert_eq!(stand.call("oda_history", from).await.unwrap()[0], versions[1]);
    // each block is recorded by the one after it
    let tip = &stand.call("oda_history", json!([{ "block": 1 }])).await.unwrap()[1]["record"];
    assert_eq!(tip["hash"], stand.call("oda_block", json!([1])).await.unwrap()["hash"]);
    let later = json!([{ "block": checkpoint.checkpoint.height }]);
    assert_eq!(stand.call("oda_proof", later).await, Err(-32001), "not attested yet");
    assert_eq!(stand.call("oda_proof", json!([{ "claim": "00".repeat(32) }])).await, Err(-32001));
    assert_eq!(stand.call("oda_proof", json!([{ "weather": 1 }])).await, Err(-32602));
    assert_eq!(stand.call("oda_extension", json!([5, 1])).await, Err(-32001));
}

#[tokio::test] // N1
async fn the_status_says_whether_others_reach_the_node() {
    let stand = Stand::new().await;
    let said = async || {
        let status = stand.call("oda_status", json!({})).await.unwrap();
        (status["reachability"].clone(), status["relays"].clone())
    };
    assert_eq!(said().await, (json!("unknown"), json!(0)));
    stand.shared.set_reachability((oda_node::net::Reachability::Private, 2));
    assert_eq!(said().await, (json!("private"), json!(2)));
}
