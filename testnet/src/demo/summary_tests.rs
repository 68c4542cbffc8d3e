//! Books that balance, and each way in which they may not.

use super::*;
use crate::demo::view::tests::round;
use serde_json::{Value, json};

fn hex(n: u8) -> String {
    format!("{n:02x}").repeat(32)
}

/// One round: trainer-0 (node 1) is paid 5,000,000 msat, trainer-2 (node 2) cheats and is not.
pub(crate) fn books() -> (Books, NetworkFile) {
    let paired = json!({"n": 128, "sum_unat": 1000, "sum_sq_unat2": u64::MAX});
    let test = json!({"n": 1000, "loss_sum_unat": 1, "correct": 101});
    let claim = |n: u8, verdict: Value, measurement: Value, credit: u64| json!({"claim": hex(n), "trainer": hex(n), "measurement": measurement, "verdict": verdict, "credit_unat": credit});
    let outcome = json!({
        "outcome": {
            "model": hex(7), "round": 1, "parent": {"hash": hex(9), "len": 1000}, "sealed": hex(8),
            "claims": [
                claim(1, json!("accepted"), json!({"scored": {"shard": paired, "gate": paired, "probe": paired, "norm_micro": 1000000}}), 412_000),
                claim(2, json!({"refused": "malformed"}), json!({"refused": "malformed"}), 0),
            ],
            "twins": [], "head": {"candidate": {"hash": hex(10), "len": 1000}, "confirm": paired, "guards": [], "parent_test": test, "candidate_test": test},
            "proven_unat": 412_000
        },
        "signature": "00", "height": 9, "time_ms": 9000
    });
    let model = json!({
        "id": hex(7), "manifest": oda_consensus::fuzzing::sample_manifest("sample"), "head": {"weights": {"hash": hex(10), "len": 1000}, "round": 1, "test": null},
        "round": {"number": 2, "opened_height": 9, "start": hex(8), "first_commit_height": null, "claims": [], "sealed": null},
        "proven_unat": 412_000, "parameters": 23, "added_by": hex(5), "added_height": 1,
        "sponsors": [{"sponsor": hex(5), "fund": {}, "held_msat": 0, "paid_msat": 5_000_000, "refunded_msat": 5_000_000}]
    });
    let credit = |n: u8, paid: u64, unat: u64| json!({"model": hex(7), "trainer": hex(n), "credit_unat": unat, "claims": 1, "paid_claims": u64::from(paid > 0), "paid_msat": paid});
    let payment = |n: u8| json!({"escrow": claim_escrow(oda_consensus::ids::ClaimId([n; 32])), "claim": hex(n), "payee": hex(n), "tranche": 0, "amount_msat": 5_000_000, "fee_msat": 0, "phase": "closed"});
    let terms = json!({"rate_msat": 100, "unit_msat": 5_000_000, "tranches": 1});
    let escrow = |n: u8, status: Value| {
        let (payee, tranches) = (hex(n), json!([{"amount_msat": 5_000_000, "payment_hash": hex(n), "status": status}]));
        let id = claim_escrow(oda_consensus::ids::ClaimId([n; 32]));
        let value = json!({"id": id, "payee": payee, "terms": terms, "stage": "judged", "tranches": tranches});
        (id, serde_json::from_value::<Escrow>(value).unwrap())
    };
    let mut view = round(1);
    view.claims[0].own_phase = Some(Phase::Paid);
    view.claims[1].own_phase = Some(Phase::Void);
    let books = Books {
        // as the answers arrive: from text, where integers may exceed 64 bits
        model: serde_json::from_str(&model.to_string()).unwrap(),
        outcomes: vec![
            serde_json::from_str(&outcome.to_string().replace(&u64::MAX.to_string(), "40000000000000000000")).unwrap(),
        ],
        credit: vec![
            serde_json::from_value(credit(1, 5_000_000, 412_000)).unwrap(),
            serde_json::from_value(credit(2, 0, 0)).unwrap(),
        ],
        escrows: BTreeMap::from([escrow(1, json!({"settled": hex(3)})), escrow(2, json!("refunded"))]),
        payments: vec![serde_json::from_value(payment(1)).unwrap(), serde_json::from_value(payment(2)).unwrap()],
        rounds: vec![view],
        channels: Channels {
            capacity_msat: 100_000_000,
            sponsors_msat: 92_000_000,
            trainers_msat: 5_000_000,
            in_flight_msat: 3_000_000,
        },
    };
    let node = |name: &str, n: u8, cheat| crate::config::NodeEntry {
        name: name.into(),
        role: Role::Trainer,
        cheat,
        node: oda_consensus::ids::NodeId([n; 32]),
        p2p: String::new(),
        rpc: None,
    };
    let chain = crate::config::ChainEntry {
        rpc: ([127, 0, 0, 1], 1).into(),
        rpc_user: String::new(),
        rpc_password: String::new(),
    };
    (books, NetworkFile { chain, nodes: vec![node("trainer-0", 1, false), node("trainer-2", 2, true)] })
}

#[test]
fn balanced_books() {
    let (books, file) = books();
    let s = draw_up(&books, &file, Vec::new());
    assert!(s.is_good(), "{s:#?}");
    assert_eq!((s.spent_msat, s.fees_msat, s.refunded_msat, s.rounds, s.adopted), (5_000_000, 0, 5_000_000, 1, 1));
}

/// Each row plants one fault and names the equation or problem that must show it.
#[test]
fn every_fault_shows() {
    type Plant = fn(&mut Books);
    let faults: [(&str, Plant); 13] = [
        ("sponsor's spending", |b| b.payments[0].amount_msat -= 1),
        ("sponsor's spending", |b| b.payments[0].phase = "failed".into()),
        ("settled on the ledger = trainers' receipts", |b| b.credit[0].paid_msat += 1),
        ("paid by the sponsors' promises", |b| b.model.sponsors[0].paid_msat += 1),
        ("refunded by the sponsors' promises", |b| b.model.sponsors[0].refunded_msat = 0),
        ("received by the trainers' wallets", |b| b.rounds[0].claims[0].own_phase = Some(Phase::Claiming)),
        ("earned by the attested gains", |b| {
            let e = b.escrows.values_mut().find(|e| e.paid_msat() > 0).unwrap();
            e.terms.rate_msat = 1;
        }),
        ("credit on the ledger", |b| b.credit[0].credit_unat -= 1),
        ("gain booked on the model", |b| b.model.proven_unat += 1),
        ("trainers' side of the channels", |b| b.channels.trainers_msat -= 1),
        ("gone from the sponsors' side", |b| b.channels.sponsors_msat += 1),
        ("cheated and gained by it", |b| b.credit[1].credit_unat = 1),
        ("accuracy did not rise", |b| {
            let result = b.rounds[0].result.as_mut().unwrap();
            result.after = result.before;
        }),
    ];
    for (name, plant) in faults {
        let (mut books, file) = books();
        plant(&mut books);
        let s = draw_up(&books, &file, Vec::new());
        let shown =
            s.checks.iter().filter(|c| !c.holds()).map(|c| &c.what).chain(&s.problems).any(|text| text.contains(name));
        assert!(shown && !s.is_good(), "{name}: {s:#?}");
    }
}
