//! The embedded chain and a real bitcoind, given the same blocks and transactions, say the same.
//!
//! Without a bitcoind (`BITCOIND_EXE`) there is nothing to compare with, and these tests say so and end.

#![cfg(all(feature = "ldk", feature = "chain"))]

#[path = "common/coins.rs"]
mod coins;
mod common;

use bitcoin::absolute::LockTime;
use bitcoin::consensus::encode::{deserialize_hex, serialize_hex};
use bitcoin::transaction::Version;
use bitcoin::{Address, Amount, Block, Network, OutPoint, Sequence, Transaction, TxIn, TxOut};
use coins::{KINDS, Keys, START_S, anyone};
use oda_lightning::RegtestDriver;
use oda_lightning::rpc::RpcClient;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::{Value, json};
use std::collections::BTreeMap;

struct Pair {
    embedded: RegtestDriver,
    real: Option<RegtestDriver>,
    ours: RpcClient,
    now_s: u64,
    dir: tempfile::TempDir,
}

impl Pair {
    /// Both chains with the same 110 blocks, whose coins anyone may spend; none without a bitcoind.
    fn start() -> Option<Self> {
        Some(Self::start_any()).filter(|pair| pair.real.is_some())
    }

    /// The embedded chain alone if there is no bitcoind.
    fn start_any() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (embedded, real) = (common::embedded(None), common::bitcoind(dir.path()));
        let mut pair = Self { ours: embedded.rpc(), embedded, real, now_s: START_S, dir };
        pair.pass(0);
        pair.mine(110);
        pair
    }

    /// Lets time pass.
    fn pass(&mut self, seconds: u64) {
        self.now_s += seconds;
        self.embedded.set_time(Some(self.now_s)).unwrap();
        self.real.iter().for_each(|real| real.set_time(Some(self.now_s)).unwrap());
    }

    fn hand_over(&self, hash: &str) {
        let block = self.ours.call_string("getblock", json!([hash, 0])).unwrap();
        if let Some(real) = &self.real {
            let verdict = real.rpc().call("submitblock", json!([block])).unwrap();
            assert!(verdict.is_null(), "bitcoind refuses {hash}: {verdict}");
        }
    }

    /// The embedded chain makes blocks, and bitcoind takes them.
    fn mine(&self, blocks: u32) {
        let address = Address::p2wsh(&anyone(), Network::Regtest).to_string();
        let hashes = self.ours.call("generatetoaddress", json!([blocks, address])).unwrap();
        hashes.as_array().unwrap().iter().for_each(|h| self.hand_over(h.as_str().unwrap()));
    }

    fn mine_empty(&self) {
        let address = Address::p2wsh(&anyone(), Network::Regtest).to_string();
        let made = self.ours.call("generateblock", json!([address, []])).unwrap();
        self.hand_over(made["hash"].as_str().unwrap());
    }

    fn both(&self, method: &str, params: Value) -> (Value, Value) {
        let ask = |rpc: &RpcClient| rpc.call(method, params.clone()).unwrap();
        let ours = ask(&self.ours);
        let theirs = self.real.as_ref().map(|real| ask(&real.rpc()));
        (ours.clone(), theirs.unwrap_or(ours))
    }

    /// Whether both did. A bitcoind of the 29 series may end here with an assertion of its own about its index of
    /// branches (`CheckBlockIndex`), which it makes on regtest only; then there is nothing left to compare.
    fn reconsider(&self, hash: &Value) -> bool {
        self.ours.call("reconsiderblock", json!([hash])).unwrap();
        let Some(real) = &self.real else { return true };
        let Err(error) = real.rpc().call("reconsiderblock", json!([hash])) else { return true };
        let log = std::fs::read_to_string(self.dir.path().join("bitcoind.log")).unwrap();
        let own_assertion = log.contains("Assertion") && log.contains("CheckBlockIndex");
        assert!(own_assertion, "{error}: {log}");
        eprintln!("bitcoind ended: {}", log.lines().last().unwrap_or_default());
        false
    }

    /// What both say of a transaction, which must be the same; if it is yes, both take it.
    fn offer(&self, tx: &Transaction, what: &dyn std::fmt::Debug) -> bool {
        let hex = serialize_hex(tx);
        let (ours, theirs) = self.both("testmempoolaccept", json!([[hex], 0]));
        let allowed = |v: &Value| v[0]["allowed"].as_bool().unwrap();
        assert_eq!(allowed(&ours), allowed(&theirs), "{what:?}\nours {ours}\ntheirs {theirs}");
        if allowed(&ours) {
            assert_eq!(ours[0]["fees"]["base"], theirs[0]["fees"]["base"]);
            self.both("sendrawtransaction", json!([hex, 0]));
            self.same_mempool();
        }
        allowed(&ours)
    }

    fn same_mempool(&self) {
        let sorted = |v: Value| {
            let mut list: Vec<String> = serde_json::from_value(v).unwrap();
            list.sort();
            list
        };
        let (ours, theirs) = self.both("getrawmempool", json!([]));
        assert_eq!(sorted(ours), sorted(theirs), "the mempools differ");
    }

    /// Which of two equally long branches is the best after a word about blocks hangs, in bitcoind, on the order in
    /// which it came to look at them.
    fn is_tied(&self) -> bool {
        let (ours, theirs) = self.both("getbestblockhash", json!([]));
        let (our_height, their_height) = self.both("getblockcount", json!([]));
        ours != theirs && our_height == their_height
    }

    fn same_chain(&self) {
        let (ours, theirs) = self.both("getbestblockhash", json!([]));
        assert_eq!(ours, theirs, "the tips differ");
        let tips = |v: Value| {
            let tip =
                |t: &Value| (t["height"].as_u64().unwrap(), t["hash"].to_string(), t["branchlen"].as_u64().unwrap());
            let mut tips: Vec<_> = v.as_array().unwrap().iter().map(tip).collect();
            tips.sort();
            tips
        };
        let (ours, theirs) = self.both("getchaintips", json!([]));
        for (_, hash, _) in tips(ours.clone()) {
            let hash: Value = serde_json::from_str(&hash).unwrap();
            let (ours, theirs) = self.both("getblockheader", json!([hash]));
            for field in ["confirmations", "height", "chainwork", "mediantime", "previousblockhash", "nTx"] {
                assert_eq!(ours[field], theirs[field], "{field} of {hash}");
            }
        }
        assert_eq!(tips(ours), tips(theirs), "the branches differ");
        self.same_mempool();
    }

    fn stop(self) {
        self.real.into_iter().for_each(|real| real.stop().unwrap());
        self.embedded.stop().unwrap();
    }
}

/// A transaction to try, drawn at random and then fitted to the coins there are.
#[derive(Clone, Debug)]
struct Draft {
    from: Vec<usize>,
    kinds: Vec<usize>,
    fee: Fee,
    version: i32,
    lock: Lock,
    sequence: u32,
    /// Whether locks are obeyed: what is drawn for them does not count then.
    honest: bool,
    spoil: bool,
    mine_after: bool,
}

#[derive(Clone, Copy, Debug)]
enum Fee {
    Sat(i64),
    /// So many sat per 1,000 vbytes, and a sat more or less.
    Rate(u64, i64),
}

#[derive(Clone, Copy, Debug)]
enum Lock {
    None,
    Height(i64),
    Time(i64),
}

fn draft() -> impl Strategy<Value = Draft> {
    let fee = prop_oneof![
        1 => (-5i64..400).prop_map(Fee::Sat),
        4 => (prop_oneof![Just(1000u64), Just(2000), Just(1500), Just(10_000)], -1i64..2).prop_map(|(r, d)| Fee::Rate(r, d)),
    ];
    let lock = prop_oneof![4 => Just(Lock::None), 2 => (-2i64..3).prop_map(Lock::Height), 2 => (-700i64..700).prop_map(Lock::Time)];
    let sequence = prop_oneof![
        3 => Just(0xffff_fffd), 1 => Just(u32::MAX), 2 => 0u32..12, 2 => (0u32..5).prop_map(|n| (1 << 22) | n), 1 => any::<u32>()
    ];
    (
        prop::collection::vec(0usize..1000, 1..4),
        prop::collection::vec(0..KINDS, 1..6),
        fee,
        prop_oneof![4 => Just(2), 1 => Just(1), 1 => prop_oneof![Just(0), Just(4), Just(-1)]],
        lock,
        sequence,
        prop::bool::weighted(0.75),
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.12),
    )
        .prop_map(|(from, kinds, fee, version, lock, sequence, honest, spoil, mine_after)| Draft {
            from,
            kinds,
            fee,
            version,
            lock,
            sequence,
            honest,
            spoil,
            mine_after,
        })
}

type Coin = (OutPoint, usize, TxOut);

/// What an accepted transaction made can be spent.
fn add_coins(coins: &mut Vec<Coin>, tx: &Transaction, draft: &Draft) {
    let txid = tx.compute_txid();
    let made = (0..).zip(&tx.output).zip(&draft.kinds);
    coins.extend(made.map(|((n, output), kind)| (OutPoint::new(txid, n), *kind, output.clone())));
}

/// Leaves out most of the coins that waiting transactions spend.
fn forget_spent(coins: &mut Vec<Coin>, pair: &Pair) {
    let mut n = 0;
    coins.retain(|(outpoint, ..)| {
        n += 1;
        let params = json!([outpoint.txid.to_string(), outpoint.vout]);
        n % 10 == 0 || !pair.ours.call("gettxout", params).unwrap().is_null()
    });
}

/// The first coins: of every kind, and some too young to be spent.
fn first_coins(pair: &Pair, keys: &Keys) -> Vec<Coin> {
    let coinbase = |height: u32| {
        let hash = pair.ours.call_string("getblockhash", json!([height])).unwrap();
        let block: Block = deserialize_hex(&pair.ours.call_string("getblock", json!([hash, 0])).unwrap()).unwrap();
        let tx = &block.txdata[0];
        (OutPoint::new(tx.compute_txid(), 0), 0, tx.output[0].clone())
    };
    let start = coinbase(1);
    let output: Vec<TxOut> = (0..4 * KINDS)
        .map(|n| TxOut { value: Amount::from_sat(100_000_000), script_pubkey: keys.script(n % KINDS) })
        .collect();
    let mut tx = Transaction {
        version: Version::TWO,
        lock_time: LockTime::ZERO,
        input: vec![TxIn { previous_output: start.0, ..TxIn::default() }],
        output,
    };
    keys.unlock(&mut tx, &[(0, start.2)], false);
    assert!(pair.offer(&tx, &"the first coins"));
    pair.mine(1);
    let mut coins: Vec<_> = (0..)
        .zip(&tx.output)
        .map(|(n, o)| (OutPoint::new(tx.compute_txid(), n), n as usize % KINDS, o.clone()))
        .collect();
    coins.extend([coinbase(11), coinbase(12), coinbase(13), coinbase(100)]);
    coins
}

fn fit(draft: &Draft, coins: &[Coin], keys: &Keys, pair: &Pair) -> Transaction {
    // twice the same coin is twice the same input: refused by both
    let from: Vec<_> = draft.from.iter().map(|i| coins[i % coins.len()].clone()).collect();
    let info = pair.ours.call("getblockchaininfo", json!([])).unwrap();
    let near = |field: &str, by: i64| u32::try_from(info[field].as_i64().unwrap() + by).unwrap();
    let sequence = |kind: usize| match (draft.honest, kind) {
        (false, _) => draft.sequence,
        (true, 1) => 6,
        (true, 2) => (1 << 22) | 2,
        (true, _) => 0xffff_fffd,
    };
    let input = |c: &Coin| TxIn { previous_output: c.0, sequence: Sequence(sequence(c.1)), ..TxIn::default() };
    let output = |kind: &usize| TxOut { value: Amount::ZERO, script_pubkey: keys.script(*kind) };
    let has = |kind: usize| from.iter().any(|c| c.1 == kind);
    let lock = match draft.lock {
        _ if draft.honest && has(3) => 112,
        _ if draft.honest && has(4) => u32::try_from(START_S).unwrap() + 900,
        Lock::Height(by) if !draft.honest => near("blocks", by),
        Lock::Time(by) if !draft.honest => near("mediantime", by),
        _ => 0,
    };
    let mut tx = Transaction {
        version: Version(if draft.honest { 2 } else { draft.version }),
        lock_time: LockTime::from_consensus(lock),
        input: from.iter().map(input).collect(),
        output: draft.kinds.iter().map(output).collect(),
    };
    let spent: Vec<_> = from.iter().map(|c| (c.1, c.2.clone())).collect();
    keys.unlock(&mut tx, &spent, draft.spoil);
    let fee_sat = match draft.fee {
        Fee::Sat(sat) => sat,
        // signatures differ by a byte at most, which the margins leave room for
        Fee::Rate(rate, by) => i64::try_from((rate * tx.vsize() as u64).div_ceil(1000)).unwrap() + by,
    };
    let paid_sat: u64 = spent.iter().map(|c| c.1.value.to_sat()).sum();
    let sent_sat = paid_sat.checked_add_signed(-fee_sat).unwrap_or(0);
    let share = sent_sat / tx.output.len() as u64;
    for output in &mut tx.output {
        output.value = Amount::from_sat(share);
    }
    tx.output[0].value = Amount::from_sat(sent_sat - share * (tx.output.len() as u64 - 1));
    keys.unlock(&mut tx, &spent, draft.spoil);
    tx
}

/// BIP 65, 68, 112, 113, 341, 342, one by one: due, not due, and spoiled. With no bitcoind, too.
#[test]
fn every_lock_is_kept_and_every_key_is_needed() {
    let mut pair = Pair::start_any();
    let keys = Keys::new();
    let coins = first_coins(&pair, &keys);
    let offered = |pair: &Pair, kind: usize, spoil: bool| {
        let draft = Draft {
            from: vec![kind],
            kinds: vec![0],
            fee: Fee::Rate(2_000, 0),
            version: 2,
            lock: Lock::None,
            sequence: 0,
            honest: true,
            spoil,
            mine_after: false,
        };
        pair.offer(&fit(&draft, &coins, &keys, pair), &draft)
    };
    let taken = |pair: &Pair| -> Vec<usize> {
        let open: Vec<usize> = (0..KINDS)
            .filter(|k| {
                !pair.ours.call("gettxout", json!([coins[*k].0.txid.to_string(), coins[*k].0.vout])).unwrap().is_null()
            })
            .collect();
        assert!(open.iter().all(|kind| !offered(pair, *kind, true)), "spoiled ones are never taken");
        open.into_iter().filter(|kind| offered(pair, *kind, false)).collect()
    };
    assert_eq!(taken(&pair), [0, 5, 6, 7, 8], "anyone, taproot by key and by script, a key, an anchor");
    pair.mine(1);
    assert_eq!(taken(&pair), [3], "block 112 exists");
    for _ in 0..3 {
        pair.mine(1);
        assert!(taken(&pair).is_empty());
    }
    pair.mine(1);
    assert_eq!(taken(&pair), [1], "six blocks after block 111");
    // the median of eleven blocks lags: at the eighth of these it is START_S + 900
    for _ in 0..8 {
        pair.pass(300);
        pair.mine(1);
        assert!(taken(&pair).is_empty());
    }
    pair.pass(300);
    pair.mine(1);
    assert_eq!(taken(&pair), [2, 4], "1,024 seconds, and the time itself");
    pair.mine(1);
    pair.same_chain();
    pair.stop();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3, max_shrink_iters: 5, failure_persistence: None, rng_seed: RngSeed::Fixed(7), ..ProptestConfig::default() })]
    /// Locks of every kind, fees, replacements, chains of unconfirmed coins, signatures, taproot.
    #[test]
    fn both_chains_judge_transactions_alike(drafts in prop::collection::vec(draft(), 60..90)) {
        let Some(mut pair) = Pair::start() else { return Ok(()) };
        let keys = Keys::new();
        let mut coins = first_coins(&pair, &keys);
        let mut verdicts = BTreeMap::new();
        for draft in &drafts {
            let tx = fit(draft, &coins, &keys, &pair);
            let allowed = pair.offer(&tx, draft);
            *verdicts.entry(allowed).or_insert(0) += 1;
            if allowed {
                add_coins(&mut coins, &tx, draft);
            }
            if draft.mine_after {
                forget_spent(&mut coins, &pair);
                pair.pass(301);
                pair.mine(1);
                pair.same_mempool();
            }
        }
        eprintln!("alike on {} transactions: taken and refused {verdicts:?}", drafts.len());
        pair.stop();
    }
}

#[derive(Clone, Debug)]
enum Step {
    Mine(u32),
    MineEmpty,
    Send(Draft),
    /// Declares the block so many below the tip invalid.
    Invalidate(u32),
    /// Takes one of the invalidations back.
    Reconsider(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1u32..4).prop_map(Step::Mine),
        2 => Just(Step::MineEmpty),
        6 => draft().prop_map(|d| Step::Send(Draft { honest: true, spoil: false, ..d })),
        2 => (0u32..6).prop_map(Step::Invalidate),
        2 => (0usize..100).prop_map(Step::Reconsider),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3, max_shrink_iters: 5, failure_persistence: None, rng_seed: RngSeed::Fixed(7), ..ProptestConfig::default() })]
    /// The same tip, branches, confirmations and waiting transactions after every step.
    #[test]
    fn both_chains_reorganise_alike(steps in prop::collection::vec(step(), 40..70)) {
        let Some(mut pair) = Pair::start() else { return Ok(()) };
        let keys = Keys::new();
        let mut coins = first_coins(&pair, &keys);
        pair.mine(8); // so that the first coins stay
        let mut said = Vec::new();
        for step in &steps {
            match step {
                Step::Mine(blocks) => {
                    pair.pass(200);
                    pair.mine(*blocks);
                }
                Step::MineEmpty => pair.mine_empty(),
                Step::Send(draft) => {
                    let tx = fit(draft, &coins, &keys, &pair);
                    if pair.offer(&tx, draft) {
                        add_coins(&mut coins, &tx, draft);
                    }
                }
                Step::Invalidate(below) => {
                    let height = pair.embedded.height().unwrap();
                    let hash = pair.ours.call("getblockhash", json!([height - u64::from(*below)])).unwrap();
                    pair.both("invalidateblock", json!([hash]));
                    said.push(hash);
                }
                Step::Reconsider(which) if !said.is_empty() => {
                    let hash = said.swap_remove(which % said.len());
                    if !pair.reconsider(&hash) {
                        return Ok(());
                    }
                }
                Step::Reconsider(_) => {}
            }
            if matches!(step, Step::Invalidate(_) | Step::Reconsider(_)) && pair.is_tied() {
                println!("two branches of one length: bitcoind took the other one; the case ends here");
                return Ok(());
            }
            pair.same_chain();
        }
        pair.stop();
    }
}
