//! Competing branches and full blocks on the embedded chain.

#![cfg(all(feature = "ldk", feature = "chain"))]

mod common;

use bitcoin::absolute::LockTime;
use bitcoin::consensus::encode::deserialize_hex;
use bitcoin::opcodes::OP_TRUE;
use bitcoin::script::Builder;
use bitcoin::transaction::Version;
use bitcoin::{
    Address, Amount, Block, BlockHash, Network, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Txid, Witness,
};
use oda_lightning::RegtestDriver;
use oda_lightning::chain::{Chain, ChainPolicy, ChainRejection, TxRejection};
use oda_lightning::rpc::RpcClient;
use serde_json::{Value, json};

const NOW_S: u64 = 1_800_000_000;
const COIN_SAT: u64 = 5_000_000_000;

fn anyone() -> ScriptBuf {
    Builder::new().push_opcode(OP_TRUE).into_script()
}

fn to() -> ScriptBuf {
    anyone().to_p2wsh()
}

fn mine(chain: &mut Chain) -> Block {
    let block = chain.assemble(to(), NOW_S).unwrap();
    chain.connect(block.clone()).unwrap();
    block
}

fn mined(blocks: u32, policy: ChainPolicy) -> Chain {
    let mut chain = Chain::new(policy);
    (0..blocks).for_each(|_| drop(mine(&mut chain)));
    chain
}

fn coinbase(chain: &Chain, height: u32) -> OutPoint {
    OutPoint::new(chain.block(height).unwrap().txdata[0].compute_txid(), 0)
}

fn spend(from: &[OutPoint], to_sat: &[u64]) -> Transaction {
    let input = |o: &OutPoint| TxIn {
        previous_output: *o,
        sequence: Sequence::ENABLE_LOCKTIME_NO_RBF,
        witness: Witness::from_slice(&[anyone().as_bytes()]),
        ..TxIn::default()
    };
    Transaction {
        version: Version::TWO,
        lock_time: LockTime::ZERO,
        input: from.iter().map(input).collect(),
        output: to_sat.iter().map(|v| TxOut { value: Amount::from_sat(*v), script_pubkey: to() }).collect(),
    }
}

fn accept(chain: &mut Chain, tx: &Transaction) -> Result<Txid, TxRejection> {
    chain.accept(tx.clone(), NOW_S)
}

fn output(txid: Txid, vout: u32) -> OutPoint {
    OutPoint::new(txid, vout)
}

/// Blocks on the tip of a copy of a chain.
fn branch(from: &Chain, height: u32, blocks: u32, txs: &[Transaction]) -> Vec<Block> {
    let mut copy = Chain::default();
    for h in 1..=height {
        copy.connect(from.block(h).unwrap().clone()).unwrap();
    }
    let mut made = Vec::new();
    for n in 0..blocks {
        let txs = if n == 0 { txs } else { &[] };
        // another clock than that of `mine`, so another block
        let block = copy.assemble_from(txs, 0, to(), NOW_S + 1000).unwrap();
        copy.connect(block.clone()).unwrap();
        made.push(block);
    }
    made
}

#[test]
fn the_longest_branch_wins_and_the_first_of_equals() {
    let mut chain = mined(103, ChainPolicy::default());
    let (kept, conflicted, rival) = (coinbase(&chain, 1), coinbase(&chain, 2), COIN_SAT - 9_000);
    let before = chain.tip();
    let a = spend(&[kept], &[COIN_SAT - 1_000]);
    let b = spend(&[conflicted], &[COIN_SAT - 1_000]);
    let b_child = spend(&[output(b.compute_txid(), 0)], &[COIN_SAT - 2_000]);
    for tx in [&a, &b, &b_child] {
        accept(&mut chain, tx).unwrap();
    }
    let old = mine(&mut chain).block_hash();
    let late = spend(&[output(a.compute_txid(), 0)], &[COIN_SAT - 3_000]);
    accept(&mut chain, &late).unwrap();
    let young = spend(&[coinbase(&chain, 4)], &[COIN_SAT - 1_000]); // mature since the last block
    accept(&mut chain, &young).unwrap();

    let replacing = spend(&[conflicted], &[rival]);
    let theirs = branch(&chain, 103, 2, std::slice::from_ref(&replacing));
    chain.connect(theirs[0].clone()).unwrap();
    assert_eq!(chain.tip(), old, "equally long: the first one stays");
    assert_eq!(chain.connect(theirs[0].clone()), Err(ChainRejection::Duplicate));
    assert_eq!(chain.any_block(&theirs[0].block_hash()).unwrap().1, 104);
    chain.connect(theirs[1].clone()).unwrap();
    assert_eq!((chain.tip(), chain.height()), (theirs[1].block_hash(), 105));
    assert_eq!(chain.height_of(&old), None);
    assert_eq!(chain.any_block(&old).unwrap().1, 104, "still served: a wallet walks back through it");
    let known = |chain: &Chain, tx: &Transaction| chain.transaction(&tx.compute_txid()).is_some();
    assert!(known(&chain, &a) && known(&chain, &late), "what a dropped block held waits again, with what spends it");
    assert!(!known(&chain, &b) && !known(&chain, &b_child), "what the new branch contradicts is gone");
    assert!(known(&chain, &replacing));
    assert!(accept(&mut chain, &b).is_err());
    mine(&mut chain);
    assert!(chain.block(106).unwrap().txdata.iter().any(|t| t.compute_txid() == a.compute_txid()));

    // back by hand: the branch is invalid, the old block leads; and again
    chain.invalidate(&theirs[0].block_hash()).unwrap();
    assert_eq!((chain.tip(), chain.height()), (old, 104));
    assert!(known(&chain, &b_child) && !known(&chain, &replacing));
    let banned = branch_block(&chain, &theirs[1]);
    assert_eq!(chain.connect(banned), Err(ChainRejection::InvalidParent));
    assert_eq!(chain.connect(theirs[1].clone()), Err(ChainRejection::DuplicateInvalid));
    chain.reconsider(&theirs[1].block_hash()).unwrap();
    assert_eq!(chain.height(), 106);
    assert!(known(&chain, &a) && !known(&chain, &b));
    let genesis = chain.block(0).unwrap().block_hash();
    assert_eq!(chain.invalidate(&genesis), Err(ChainRejection::Genesis));
    let nowhere: BlockHash = "11".repeat(32).parse().unwrap();
    assert_eq!(chain.invalidate(&nowhere), Err(ChainRejection::UnknownBlock));
    // further back: what spends coins that are too young now is gone
    chain.invalidate(&before).unwrap();
    assert_eq!(chain.height(), 102);
    assert!(!known(&chain, &young), "its coin has only 98 confirmations now");
    assert!(known(&chain, &a));
}

/// An empty block on another.
fn branch_block(chain: &Chain, parent: &Block) -> Block {
    let mut block = chain.assemble_from(&[], 0, to(), NOW_S + 5_000).unwrap();
    block.header.prev_blockhash = parent.block_hash();
    while block.header.validate_pow(block.header.target()).is_err() {
        block.header.nonce += 1;
    }
    block
}

#[test]
fn a_branch_with_an_invalid_block_is_left_again() {
    let mut chain = mined(102, ChainPolicy::default());
    let waiting = spend(&[coinbase(&chain, 1)], &[COIN_SAT - 1_000]);
    accept(&mut chain, &waiting).unwrap();
    let tip = mine(&mut chain).block_hash();
    let good = branch(&chain, 102, 1, &[]);
    // spends a coin that does not exist; its form is perfect
    let theft = spend(&[output(waiting.compute_txid(), 7)], &[1_000]);
    let mut copy = Chain::default();
    for h in 1..=102 {
        copy.connect(chain.block(h).unwrap().clone()).unwrap();
    }
    copy.connect(good[0].clone()).unwrap();
    let bad = copy.assemble_from(&[theft], 0, to(), NOW_S + 1000).unwrap();
    chain.connect(good[0].clone()).unwrap();
    assert!(matches!(chain.connect(bad.clone()), Err(ChainRejection::Transaction { .. })));
    assert_eq!(chain.tip(), tip, "the chain is where it was");
    assert!(chain.transaction(&waiting.compute_txid()).is_some());
    assert_eq!(chain.connect(bad.clone()), Err(ChainRejection::DuplicateInvalid));
    // as the parent of a longer branch it changes nothing either
    assert_eq!(chain.connect(branch_block(&copy, &bad)), Err(ChainRejection::InvalidParent));
    let more = copy.assemble_from(&[], 0, to(), NOW_S + 2000).unwrap();
    chain.connect(more).unwrap();
    assert_eq!(chain.height(), 104, "a good block on the same branch wins");
}

fn tip(rpc: &RpcClient) -> String {
    rpc.call_string("getbestblockhash", json!([])).unwrap()
}

fn waiting(rpc: &RpcClient) -> Vec<String> {
    let mut list: Vec<String> = serde_json::from_value(rpc.call("getrawmempool", json!([])).unwrap()).unwrap();
    list.sort();
    list
}

fn tips(rpc: &RpcClient) -> Vec<String> {
    let mut tips: Vec<String> =
        rpc.call("getchaintips", json!([])).unwrap().as_array().unwrap().iter().map(Value::to_string).collect();
    tips.sort();
    tips
}

#[test]
fn a_restart_after_or_amid_a_reorganisation_sees_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let start = || common::embedded(Some(dir.path()));
    let chain = start();
    let address = Address::p2wsh(&Builder::new().push_int(2).into_script(), Network::Regtest).to_string();
    // no coin of the faucet comes of age in the blocks that will be dropped
    let faucet = chain.rpc().call_string("getnewaddress", json!([])).unwrap();
    chain.rpc().call("generatetoaddress", json!([5, faucet])).unwrap();
    chain.rpc().call("generatetoaddress", json!([110, address])).unwrap();
    let confirmed = chain.rpc().call_string("sendtoaddress", json!([address, 0.002])).unwrap();
    chain.mine(3).unwrap();
    let late = chain.rpc().call_string("sendtoaddress", json!([address, 0.003])).unwrap();
    let pool_before = std::fs::read(dir.path().join("mempool.dat")).unwrap();
    assert_eq!(waiting(&chain.rpc()), std::slice::from_ref(&late));
    chain.reorg_empty(3, 4).unwrap();
    let mut both = vec![confirmed, late];
    both.sort();
    let seen = |chain: &RegtestDriver| (tip(&chain.rpc()), waiting(&chain.rpc()), tips(&chain.rpc()));
    let before = seen(&chain);
    assert_eq!(before.1, both);
    chain.stop().unwrap();
    let chain = start();
    assert_eq!(seen(&chain), before);
    chain.stop().unwrap();
    // the crash came after the last word about blocks and before the mempool was written
    std::fs::write(dir.path().join("mempool.dat"), pool_before).unwrap();
    let chain = start();
    assert_eq!(seen(&chain), before, "a dropped block's transactions are not lost");
    // amid: the new branch is not longer yet
    let first = chain.rpc().call_string("getblockhash", json!([117])).unwrap();
    chain.rpc().call("invalidateblock", json!([first])).unwrap();
    let before = seen(&chain);
    chain.stop().unwrap();
    let chain = start();
    assert_eq!(seen(&chain), before);
    chain.rpc().call("reconsiderblock", json!([first])).unwrap();
    chain.mine(1).unwrap();
    assert_eq!(waiting(&chain.rpc()), Vec::<String>::new());
    let before = seen(&chain);
    chain.stop().unwrap();
    let chain = start();
    assert_eq!(seen(&chain), before);
    common::cross_check(&chain.rpc());
    chain.stop().unwrap();
}

/// What a wallet's block sync asks during a reorganisation, on either chain.
fn stale_blocks_are_served(driver: RegtestDriver) {
    let rpc = driver.rpc();
    driver.mine(5).unwrap();
    let header = |hash: &str| rpc.call("getblockheader", json!([hash])).unwrap();
    let lost = tip(&rpc);
    assert_eq!(header(&lost)["confirmations"], 1);
    driver.reorg(3, 4).unwrap();
    assert_eq!(driver.height().unwrap(), 6);
    let found = header(&lost);
    assert_eq!((&found["confirmations"], &found["height"]), (&json!(-1), &json!(5)));
    let block: Block = deserialize_hex(&rpc.call_string("getblock", json!([lost, 0])).unwrap()).unwrap();
    assert_eq!(block.block_hash().to_string(), lost);
    let fork = (0..3).fold(lost, |hash, _| header(&hash)["previousblockhash"].as_str().unwrap().into());
    assert_eq!(header(&fork)["confirmations"], 5);
    assert_eq!(header(&fork)["nextblockhash"], rpc.call("getblockhash", json!([3])).unwrap());
    assert!(driver.reorg(7, 8).is_err(), "the genesis block stays");
    driver.mine_empty(2).unwrap();
    assert_eq!(driver.height().unwrap(), 8);
    driver.stop().unwrap();
}

#[test]
fn stale_blocks_are_served_by_the_embedded_chain() {
    stale_blocks_are_served(common::embedded(None));
}

#[test]
fn stale_blocks_are_served_by_bitcoind() {
    let dir = tempfile::tempdir().unwrap();
    if let Some(driver) = common::bitcoind(dir.path()) {
        stale_blocks_are_served(driver);
    }
}

/// Room for about ten small transactions.
fn small_blocks() -> ChainPolicy {
    ChainPolicy { max_block_weight: 9_000, ..ChainPolicy::default() }
}

/// One confirmed coin for each value.
fn coins(chain: &mut Chain, values: &[u64]) -> Vec<OutPoint> {
    let split = spend(&[coinbase(chain, 1)], values);
    let txid = split.compute_txid();
    let block = chain.assemble_from(&[split], 0, to(), NOW_S).unwrap();
    chain.connect(block).unwrap();
    (0..).zip(values).map(|(n, _)| output(txid, n)).collect()
}

#[test]
fn a_rich_child_takes_its_poor_parent_along() {
    let mut chain = mined(101, small_blocks());
    let from = coins(&mut chain, &[1_000_000; 20]);
    let pay = |chain: &mut Chain, from: OutPoint, has: u64, fee: u64| {
        let tx = spend(&[from], &[has - fee]);
        accept(chain, &tx).unwrap()
    };
    let vbytes = spend(&[from[0]], &[1]).vsize() as u64;
    let poor = pay(&mut chain, from[0], 1_000_000, vbytes);
    let ordinary: Vec<Txid> = from[1..].iter().map(|o| pay(&mut chain, *o, 1_000_000, 5 * vbytes)).collect();
    let block = |chain: &Chain| -> Vec<Txid> {
        chain.assemble(to(), NOW_S).unwrap().txdata.iter().skip(1).map(Transaction::compute_txid).collect()
    };
    let first = block(&chain);
    assert!(first.len() < ordinary.len(), "the block is full with {} transactions", first.len());
    assert!(!first.contains(&poor));
    // alone it pays 10 per vbyte, with its parent 5.5: enough; 4.5 would not be
    let cheap = spend(&[output(poor, 0)], &[1_000_000 - vbytes - 8 * vbytes]);
    accept(&mut chain, &cheap).unwrap();
    assert!(!block(&chain).contains(&poor), "4.5 per vbyte together");
    let rich = spend(&[output(poor, 0)], &[1_000_000 - vbytes - 10 * vbytes]);
    let rich = accept(&mut chain, &rich).unwrap();
    let next = block(&chain);
    let at = |txid| next.iter().position(|t| *t == txid).unwrap();
    assert!(at(poor) < at(rich), "the parent comes first");
    assert_eq!(next[..2], [poor, rich], "and the pair before the others");
    mine(&mut chain);
    mine(&mut chain);
    mine(&mut chain);
    assert!(ordinary.iter().all(|txid| chain.transaction(txid).is_some()));
    assert_eq!(block(&chain), []);
}

#[test]
fn a_full_mempool_evicts_the_poorest_and_asks_for_more() {
    let policy = ChainPolicy { max_pool_vbytes: 1_000, ..small_blocks() };
    let mut chain = mined(101, policy);
    let from = coins(&mut chain, &[1_000_000; 16]);
    let vbytes = spend(&[from[0]], &[1]).vsize() as u64;
    let pay = |from: OutPoint, rate: u64| spend(&[from], &[1_000_000 - rate * vbytes]);
    let fitting = 1_000 / vbytes;
    let poor: Vec<Txid> = from[..fitting as usize].iter().map(|o| accept(&mut chain, &pay(*o, 2)).unwrap()).collect();
    assert_eq!(chain.min_fee_sat_per_kvb(), 1_000);
    // a child that pays for its parent protects it
    let saved = spend(&[output(poor[0], 0)], &[1_000_000 - 2 * vbytes - 20 * vbytes]);
    let saved = accept(&mut chain, &saved).unwrap();
    let gone = |chain: &Chain| poor.iter().filter(|t| chain.transaction(t).is_none()).count();
    assert_eq!(gone(&chain), 1);
    assert!(chain.transaction(&poor[0]).is_some() && chain.transaction(&saved).is_some());
    assert_eq!(chain.min_fee_sat_per_kvb(), 3_000, "what was evicted paid, and the relay fee");
    let late = pay(from[15], 2);
    assert!(matches!(accept(&mut chain, &late), Err(TxRejection::PoolFeeTooLow { .. })));
    accept(&mut chain, &pay(from[14], 4)).unwrap();
    assert_eq!(gone(&chain), 2);
    for _ in 0..3 {
        mine(&mut chain);
    }
    assert_eq!(chain.min_fee_sat_per_kvb(), 1_000, "it falls again");
    accept(&mut chain, &late).unwrap();
    let cheap = spend(&[from[13]], &[1_000_000 - vbytes + 1]);
    assert!(matches!(accept(&mut chain, &cheap), Err(TxRejection::FeeTooLow { .. })));
}

#[test]
fn a_dropped_transaction_waits_again_even_below_the_minimum_fee() {
    let policy = ChainPolicy { max_pool_vbytes: 1_000, ..ChainPolicy::default() };
    let mut chain = mined(101, policy);
    let from = coins(&mut chain, &[1_000_000; 16]);
    let vbytes = spend(&[from[0]], &[1]).vsize() as u64;
    let pay = |from: OutPoint, rate: u64| spend(&[from], &[1_000_000 - rate * vbytes]);
    for o in &from[..12] {
        let _ = accept(&mut chain, &pay(*o, 10)); // more than fit
    }
    mine(&mut chain);
    let cheap = pay(from[15], 1);
    let block = chain.assemble_from(std::slice::from_ref(&cheap), 0, to(), NOW_S).unwrap();
    let hash = block.block_hash();
    chain.connect(block).unwrap();
    assert!(matches!(accept(&mut chain, &pay(from[14], 1)), Err(TxRejection::PoolFeeTooLow { .. })));
    chain.invalidate(&hash).unwrap();
    let again = chain.assemble(to(), NOW_S).unwrap();
    assert!(again.txdata.iter().any(|t| t.compute_txid() == cheap.compute_txid()));
}

#[test]
fn fee_estimates_follow_what_waits() {
    let mut chain = mined(101, small_blocks());
    let floor = chain.fee_estimate_sat_per_kvb(1);
    let from = coins(&mut chain, &[1_000_000; 40]);
    let vbytes = spend(&[from[0]], &[1]).vsize() as u64;
    for (n, o) in from.iter().enumerate() {
        let rate = 2 + n as u64; // 2 to 41 sat per vbyte
        accept(&mut chain, &spend(&[*o], &[1_000_000 - rate * vbytes])).unwrap();
    }
    let estimates: Vec<u64> = [1, 2, 3, 1_008].map(|blocks| chain.fee_estimate_sat_per_kvb(blocks)).into();
    assert!(estimates.windows(2).all(|w| w[0] > w[1]), "sooner costs more: {estimates:?}");
    assert_eq!(estimates[3], floor);
    // what the estimate for the next block says does enter it
    let fee = (estimates[0] * vbytes).div_ceil(1000);
    let (hurried, sat) = (coinbase(&chain, 2), COIN_SAT);
    let txid = accept(&mut chain, &spend(&[hurried], &[sat - fee])).unwrap();
    assert!(mine(&mut chain).txdata.iter().any(|t| t.compute_txid() == txid));
}

#[test]
fn transactions_that_depend_on_each_other_are_few() {
    let mut chain = mined(101, ChainPolicy::default());
    let mut from = coinbase(&chain, 1);
    for n in 1..=25u64 {
        from = output(accept(&mut chain, &spend(&[from], &[COIN_SAT - n * 1_000])).unwrap(), 0);
    }
    let one_more = spend(&[from], &[COIN_SAT - 26_000]);
    assert_eq!(accept(&mut chain, &one_more), Err(TxRejection::TooLongChain));
    mine(&mut chain);
    accept(&mut chain, &one_more).unwrap();
}

#[test]
fn what_nobody_relays_is_refused() {
    let mut chain = mined(101, ChainPolicy::default());
    let good = spend(&[coinbase(&chain, 1)], &[100_000]);
    let mut refused = |rule: &'static str, f: &dyn Fn(&mut Transaction)| {
        let mut tx = good.clone();
        f(&mut tx);
        assert_eq!(accept(&mut chain, &tx), Err(TxRejection::NotStandard(rule)));
    };
    let script = |bytes: &[u8]| ScriptBuf::from_bytes(bytes.to_vec());
    refused("dust", &|t| t.output[0].value = Amount::from_sat(329));
    refused("version", &|t| t.version = Version(3));
    refused("scriptpubkey", &|t| t.output[0].script_pubkey = script(&[0x51; 40]));
    refused("scriptpubkey", &|t| t.output[0].script_pubkey = script(&[&[0x6a, 0x4c, 90][..], &[0; 90]].concat()));
    refused("multi-op-return", &|t| {
        let data = TxOut { value: Amount::ZERO, script_pubkey: script(&[0x6a, 1, 7]) };
        t.output.extend([data.clone(), data]);
    });
    refused("scriptsig-not-pushonly", &|t| t.input[0].script_sig = script(&[0xac]));
    refused("bad-witness-nonstandard", &|t| {
        t.input[0].witness = Witness::from_slice(&[&[0; 81][..], anyone().as_bytes()])
    });
    // a witness version without rules may be paid, not spent
    let mut future = good.clone();
    future.output[0].script_pubkey = script(&[&[0x52, 32][..], &[1; 32]].concat());
    let txid = accept(&mut chain, &future).unwrap();
    let spent = spend(&[output(txid, 0)], &[10_000]);
    assert_eq!(accept(&mut chain, &spent), Err(TxRejection::NotStandard("bad-txns-nonstandard-inputs")));
    mine(&mut chain);
    assert_eq!(accept(&mut chain, &spent), Err(TxRejection::NotStandard("bad-txns-nonstandard-inputs")));
}
