//! The embedded chain refuses what Bitcoin refuses, and a real bitcoind takes what it takes.

#![cfg(all(feature = "ldk", feature = "chain"))]

mod common;

use bitcoin::absolute::LockTime;
use bitcoin::block::Block;
use bitcoin::consensus::encode::serialize_hex;
use bitcoin::hashes::Hash as _;
use bitcoin::opcodes::{OP_0, OP_TRUE};
use bitcoin::script::Builder;
use bitcoin::transaction::Version;
use bitcoin::{Address, Amount, Network, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Txid, Witness};
use oda_lightning::RegtestDriver;
use oda_lightning::chain::{Chain, ChainRejection, TxRejection};
use oda_lightning::rpc::{RpcClient, RpcError};
use proptest::prelude::*;
use serde_json::json;

const NOW_S: u64 = 1_800_000_000;

fn anyone() -> ScriptBuf {
    Builder::new().push_opcode(OP_TRUE).into_script()
}

fn nobody() -> ScriptBuf {
    Builder::new().push_opcode(OP_0).into_script()
}

fn p2wsh(script: &ScriptBuf) -> ScriptBuf {
    Address::p2wsh(script, Network::Regtest).script_pubkey()
}

fn mine(chain: &mut Chain, to: &ScriptBuf) {
    let block = chain.assemble(p2wsh(to), NOW_S).unwrap();
    chain.connect(block).unwrap();
}

fn mined(blocks: u32) -> Chain {
    let mut chain = Chain::default();
    (0..blocks).for_each(|_| mine(&mut chain, &anyone()));
    chain
}

fn coinbase(chain: &Chain, height: u32) -> (OutPoint, u64) {
    let tx = &chain.block(height).unwrap().txdata[0];
    (OutPoint::new(tx.compute_txid(), 0), tx.output[0].value.to_sat())
}

/// Spends P2WSH outputs of `script`.
fn spend(script: &ScriptBuf, from: &[OutPoint], to: &[(ScriptBuf, u64)]) -> Transaction {
    let input = |o: &OutPoint| TxIn {
        previous_output: *o,
        sequence: Sequence::ENABLE_LOCKTIME_NO_RBF,
        witness: Witness::from_slice(&[script.as_bytes()]),
        ..TxIn::default()
    };
    Transaction {
        version: Version::TWO,
        lock_time: LockTime::ZERO,
        input: from.iter().map(input).collect(),
        output: to.iter().map(|(s, v)| TxOut { value: Amount::from_sat(*v), script_pubkey: s.clone() }).collect(),
    }
}

fn accept(chain: &mut Chain, tx: &Transaction) -> Result<Txid, TxRejection> {
    chain.accept(tx.clone(), NOW_S)
}

#[test]
fn a_spend_must_keep_every_rule() {
    let mut chain = mined(101);
    let (coin, sat) = coinbase(&chain, 1);
    let good = spend(&anyone(), &[coin], &[(p2wsh(&anyone()), sat - 1000)]);
    let with = |f: fn(&mut Transaction)| {
        let mut tx = good.clone();
        f(&mut tx);
        tx
    };
    let immature = spend(&anyone(), &[coinbase(&chain, 3).0], &[(p2wsh(&anyone()), 1000)]);
    assert_eq!(accept(&mut chain, &immature), Err(TxRejection::ImmatureCoinbase));
    let negative = with(|t| t.output[0].value = Amount::from_sat(5_000_000_001));
    assert_eq!(accept(&mut chain, &negative), Err(TxRejection::InBelowOut));
    let stingy = with(|t| t.output[0].value = Amount::from_sat(4_999_999_950));
    assert!(matches!(accept(&mut chain, &stingy), Err(TxRejection::FeeTooLow { fee_sat: 50, .. })));
    let wrong_script = with(|t| t.input[0].witness = Witness::from_slice(&[nobody().as_bytes()]));
    assert!(matches!(accept(&mut chain, &wrong_script), Err(TxRejection::Script(_))));
    let no_witness = with(|t| t.input[0].witness = Witness::new());
    assert!(matches!(accept(&mut chain, &no_witness), Err(TxRejection::Script(_))));
    let future = with(|t| t.lock_time = LockTime::from_consensus(102));
    assert_eq!(accept(&mut chain, &future), Err(TxRejection::NotFinal));
    let young = with(|t| t.input[0].sequence = Sequence::from_height(102));
    assert_eq!(accept(&mut chain, &young), Err(TxRejection::NotBip68Final));
    let nowhere = with(|t| t.input[0].previous_output.vout = 7);
    assert!(matches!(accept(&mut chain, &nowhere), Err(TxRejection::MissingInput(_))));
    let first = chain.block(1).unwrap().txdata[0].clone();
    assert_eq!(accept(&mut chain, &first), Err(TxRejection::Coinbase));
    let due = with(|t| t.lock_time = LockTime::from_consensus(101));
    assert!(accept(&mut chain, &due).is_ok());
    assert!(accept(&mut chain, &due).is_ok(), "twice is once");
    mine(&mut chain, &anyone());
    assert_eq!(accept(&mut chain, &due), Err(TxRejection::AlreadyConfirmed));
    assert!(matches!(accept(&mut chain, &good), Err(TxRejection::MissingInput(_))), "a double spend");
}

#[test] // BIP 125
fn a_replacement_pays_for_all_it_evicts() {
    let mut chain = mined(102);
    let ((a, sat), (b, _)) = (coinbase(&chain, 1), coinbase(&chain, 2));
    let to = |fee: u64| (p2wsh(&anyone()), sat - fee);
    let parent = spend(&anyone(), &[a], &[to(1000)]);
    let parent_id = accept(&mut chain, &parent).unwrap();
    let child = spend(&anyone(), &[OutPoint::new(parent_id, 0)], &[(p2wsh(&anyone()), sat - 3000)]);
    let child_id = accept(&mut chain, &child).unwrap();
    // more than the parent, less than parent and child
    let cheap = spend(&anyone(), &[a], &[to(2500)]);
    assert!(matches!(accept(&mut chain, &cheap), Err(TxRejection::ReplacementFee { .. })));
    // exactly their fees, nothing for its own relay
    let even = spend(&anyone(), &[a], &[to(3000)]);
    assert!(matches!(accept(&mut chain, &even), Err(TxRejection::ReplacementFee { .. })));
    // it cannot spend what it evicts
    let both = spend(&anyone(), &[a, OutPoint::new(child_id, 0)], &[(p2wsh(&anyone()), sat)]);
    assert_eq!(accept(&mut chain, &both), Err(TxRejection::SpendsConflict));
    let better = spend(&anyone(), &[a, b], &[(p2wsh(&anyone()), 2 * sat - 5000)]);
    let better_id = accept(&mut chain, &better).unwrap();
    mine(&mut chain, &anyone());
    assert!(chain.transaction(&better_id).is_some());
    // a block made elsewhere takes with it what it makes impossible
    let (c, sat) = coinbase(&chain, 3);
    mine(&mut chain, &anyone());
    let doomed = spend(&anyone(), &[c], &[to(1000)]);
    let doomed_id = accept(&mut chain, &doomed).unwrap();
    let child = spend(&anyone(), &[OutPoint::new(doomed_id, 0)], &[(p2wsh(&anyone()), sat - 3000)]);
    let before = chain.assemble(p2wsh(&nobody()), NOW_S).unwrap();
    let child_id = accept(&mut chain, &child).unwrap();
    let rival = spend(&anyone(), &[c], &[to(9000)]);
    accept(&mut chain, &rival).unwrap();
    assert!(chain.transaction(&child_id).is_none());
    chain.connect(before).unwrap();
    assert!(chain.transaction(&doomed_id).is_some() && chain.transaction(&rival.compute_txid()).is_none());
    mine(&mut chain, &anyone());
    assert!(chain.transaction(&parent_id).is_none() && chain.transaction(&child_id).is_none());
}

/// Grinds the nonce after a change.
fn remine(mut block: Block) -> Block {
    block.header.merkle_root = block.compute_merkle_root().unwrap();
    while block.header.validate_pow(block.header.target()).is_err() {
        block.header.nonce += 1;
    }
    block
}

#[test]
fn a_block_must_keep_every_rule() {
    let mut chain = mined(101);
    let (coin, sat) = coinbase(&chain, 1);
    let tx = spend(&anyone(), &[coin], &[(p2wsh(&anyone()), sat - 1000)]);
    accept(&mut chain, &tx).unwrap();
    let good = chain.assemble(p2wsh(&anyone()), NOW_S).unwrap();
    let mut refused = |expected: ChainRejection, f: &dyn Fn(&mut Block)| {
        let mut block = good.clone();
        f(&mut block);
        assert_eq!(chain.connect(block), Err(expected));
    };
    refused(ChainRejection::NotOnTip, &|b| b.header.prev_blockhash = bitcoin::BlockHash::all_zeros());
    refused(ChainRejection::Difficulty, &|b| b.header.bits = bitcoin::CompactTarget::from_consensus(0x1f00_ffff));
    refused(ChainRejection::TimeTooOld, &|b| {
        b.header.time = 1_800_000_000;
        *b = remine(b.clone());
    });
    refused(ChainRejection::MerkleRoot, &|b| {
        b.header.merkle_root = bitcoin::TxMerkleNode::all_zeros();
        while b.header.validate_pow(b.header.target()).is_err() {
            b.header.nonce += 1;
        }
    });
    refused(ChainRejection::ProofOfWork, &|b| {
        while b.header.validate_pow(b.header.target()).is_ok() {
            b.header.nonce += 1;
        }
    });
    refused(ChainRejection::CoinbaseAmount, &|b| {
        b.txdata[0].output[0].value = Amount::from_sat(sat + 1001);
        *b = remine(b.clone());
    });
    refused(ChainRejection::CoinbaseHeight, &|b| {
        b.txdata[0].input[0].script_sig = ScriptBuf::from_bytes(vec![1, 7, 0]);
        *b = remine(b.clone());
    });
    refused(ChainRejection::SecondCoinbase, &|b| {
        b.txdata.push(b.txdata[0].clone());
        *b = remine(b.clone());
    });
    refused(ChainRejection::WitnessCommitment, &|b| {
        b.txdata[1].input[0].witness.push([1]);
        *b = remine(b.clone());
    });
    let twice = ChainRejection::Transaction {
        txid: spend(&anyone(), &[coin], &[(p2wsh(&anyone()), sat - 2000)]).compute_txid(),
        why: TxRejection::MissingInput(coin),
    };
    refused(twice, &|b| {
        b.txdata.push(spend(&anyone(), &[coin], &[(p2wsh(&anyone()), sat - 2000)]));
        b.txdata[0].output.pop();
        let root = b.witness_root().unwrap();
        let commitment = Block::compute_witness_commitment(&root, &[0; 32]);
        let bytes = [&[0xaa, 0x21, 0xa9, 0xed], commitment.to_byte_array().as_slice()].concat();
        let script = ScriptBuf::new_op_return(bitcoin::script::PushBytesBuf::try_from(bytes).unwrap());
        b.txdata[0].output.push(TxOut { value: Amount::ZERO, script_pubkey: script });
        *b = remine(b.clone());
    });
    chain.connect(good).unwrap();
    assert_eq!(chain.height(), 102);
}

/// Spends, broken in random ways, from random coins.
fn arbitrary_spend() -> impl Strategy<Value = (Vec<usize>, Vec<u64>, u32, u32, u8)> {
    (
        prop::collection::vec(0usize..12, 1..4),
        prop::collection::vec(0u64..6_000_000_000, 1..4),
        prop_oneof![Just(0), 95u32..125, 499_999_990u32..500_000_010, any::<u32>()],
        prop_oneof![Just(u32::MAX), Just(u32::MAX - 1), 0u32..20, any::<u32>()],
        any::<u8>(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever the mempool takes makes a valid block, and no money comes from nowhere.
    #[test]
    fn what_is_accepted_can_be_mined(spends in prop::collection::vec(arbitrary_spend(), 1..40)) {
        let mut chain = mined(106);
        let mut coins: Vec<OutPoint> = (1..=6).map(|h| coinbase(&chain, h).0).collect();
        for (n, (from, to, lock, sequence, script)) in spends.into_iter().enumerate() {
            let from: Vec<OutPoint> = from.iter().filter_map(|i| coins.get(i % coins.len())).copied().collect();
            let to: Vec<_> = to.into_iter().map(|v| (p2wsh(&anyone()), v)).collect();
            let script = if script == 0 { nobody() } else { anyone() };
            let mut tx = spend(&script, &from, &to);
            tx.lock_time = LockTime::from_consensus(lock);
            tx.input[0].sequence = Sequence(sequence);
            if let Ok(txid) = accept(&mut chain, &tx) {
                coins.extend((0..tx.output.len()).map(|v| OutPoint::new(txid, v as u32)));
            }
            if n % 7 == 6 {
                mine(&mut chain, &anyone());
            }
        }
        mine(&mut chain, &anyone());
    }
}

fn refusal(rpc: &RpcClient, method: &str, params: serde_json::Value) -> i64 {
    match rpc.call(method, params) {
        Err(RpcError::Refused { code, .. }) => code,
        other => panic!("{method}: {other:?}"),
    }
}

/// The same transactions on both chains: taken and refused alike.
fn verdicts(driver: &RegtestDriver) -> Vec<(&'static str, bool)> {
    let rpc = driver.rpc();
    let address = Address::p2wsh(&anyone(), Network::Regtest).to_string();
    rpc.call("generatetoaddress", json!([110, address])).unwrap();
    let coin = |height: u32| {
        let hash = rpc.call_string("getblockhash", json!([height])).unwrap();
        let block = rpc.call_string("getblock", json!([hash, 0])).unwrap();
        let block: Block = bitcoin::consensus::encode::deserialize_hex(&block).unwrap();
        OutPoint::new(block.txdata[0].compute_txid(), 0)
    };
    let send = |tx: &Transaction| rpc.call("sendrawtransaction", json!([serialize_hex(tx), 0])).is_ok();
    let one = |height, fee: u64| spend(&anyone(), &[coin(height)], &[(p2wsh(&anyone()), 5_000_000_000 - fee)]);
    let mut out = Vec::new();
    let mut case = |name, height: u32, fee: u64, f: &dyn Fn(&mut Transaction)| {
        let mut tx = one(height, fee);
        f(&mut tx);
        out.push((name, send(&tx)));
    };
    case("plain", 1, 1000, &|_| {});
    case("replaced by less", 1, 900, &|_| {});
    case("replaced by the same and no relay fee", 1, 1001, &|_| {});
    case("replaced by more", 1, 2000, &|_| {});
    case("lock time next block", 2, 1000, &|t| t.lock_time = LockTime::from_consensus(111));
    case("lock time this block", 2, 1000, &|t| t.lock_time = LockTime::from_consensus(110));
    case("108 blocks old, 109 wanted", 3, 1000, &|t| t.input[0].sequence = Sequence::from_height(109));
    case("108 blocks old, 108 wanted", 3, 1000, &|t| t.input[0].sequence = Sequence::from_height(108));
    case("immature", 12, 1000, &|_| {});
    case("just mature", 11, 1000, &|_| {});
    case("bad script", 4, 1000, &|t| t.input[0].witness = Witness::from_slice(&[nobody().as_bytes()]));
    case("no fee", 4, 0, &|_| {});
    case("negative fee", 4, 1000, &|t| t.output[0].value = Amount::from_sat(5_000_000_001));
    case("time lock of 512 s", 5, 1000, &|t| t.input[0].sequence = Sequence::from_512_second_intervals(1));
    case("time lock of 0 s", 5, 1000, &|t| t.input[0].sequence = Sequence::from_512_second_intervals(0));
    rpc.call("generatetoaddress", json!([1, address])).unwrap();
    out
}

#[test]
fn embedded_chain_and_bitcoind_agree() {
    let chain = common::embedded(None);
    let ours = verdicts(&chain);
    let taken: Vec<_> = ours.iter().filter(|v| v.1).map(|v| v.0).collect();
    let expected = [
        "plain",
        "replaced by more",
        "lock time this block",
        "108 blocks old, 108 wanted",
        "just mature",
        "time lock of 0 s",
    ];
    assert_eq!(taken, expected);
    let dir = tempfile::tempdir().unwrap();
    if let Some(real) = common::bitcoind(dir.path()) {
        assert_eq!(verdicts(&real), ours);
        real.stop().unwrap();
    }
    // faucet, many outputs, halvings
    chain.fund(&[(Address::p2wsh(&nobody(), Network::Regtest).to_string(), 123_456)]).unwrap();
    chain.mine(400).unwrap();
    common::cross_check(&chain.rpc());
    chain.stop().unwrap();
}

#[test]
fn a_stopped_chain_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let chain = common::embedded(Some(dir.path()));
    let to = Address::p2wsh(&nobody(), Network::Regtest).to_string();
    chain.fund(&[(to.clone(), 70_000)]).unwrap();
    let waiting = chain.rpc().call_string("sendtoaddress", json!([to, 0.001])).unwrap();
    let tip = chain.rpc().call_string("getbestblockhash", json!([])).unwrap();
    chain.stop().unwrap();
    let chain = common::embedded(Some(dir.path()));
    let rpc = chain.rpc();
    assert_eq!(rpc.call_string("getbestblockhash", json!([])).unwrap(), tip);
    assert_eq!(rpc.call("getrawmempool", json!([])).unwrap(), json!([waiting]), "P6: a funding is not lost");
    chain.mine(1).unwrap();
    assert_eq!(rpc.call("getrawmempool", json!([])).unwrap(), json!([]));
    assert_eq!(rpc.call("gettxout", json!([waiting, 0])).unwrap()["confirmations"], json!(1));
    chain.stop().unwrap();

    // a torn last block is dropped, and the chain still starts
    let path = dir.path().join("blocks.dat");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 5]).unwrap();
    let chain = common::embedded(Some(dir.path()));
    assert_eq!(chain.rpc().call_string("getbestblockhash", json!([])).unwrap(), tip);
    chain.mine(3).unwrap();
    chain.stop().unwrap();
}

#[test]
fn callers_get_bitcoinds_errors() {
    let chain = common::embedded(None);
    let rpc = chain.rpc();
    let none = "00".repeat(32);
    for (method, params, code) in [
        ("getblockhash", json!([1]), -8),
        ("getblockhash", json!(["x"]), -3),
        ("getblockhash", json!([-1]), -3),
        ("getblockheader", json!([none]), -5),
        ("getblockheader", json!(["zz"]), -8),
        ("getblock", json!([none, 0]), -5),
        ("getblock", json!([rpc.call_string("getblockhash", json!([0])).unwrap()]), -8),
        ("getrawtransaction", json!([none]), -5),
        ("getmempoolentry", json!([none]), -5),
        ("sendrawtransaction", json!(["00"]), -22),
        ("sendrawtransaction", json!([7]), -3),
        ("generatetoaddress", json!([1, "faucet"]), -5),
        ("generatetoaddress", json!([1_000_000, "x"]), -5),
        ("sendtoaddress", json!([rpc.call_string("getnewaddress", json!([])).unwrap(), 1]), -6),
        ("sendmany", json!(["", {}]), -8),
        ("sendmany", json!(["", {"x": 1}]), -5),
        ("invalidateblock", json!([none]), -5),
        ("reconsiderblock", json!([none]), -5),
        ("invalidateblock", json!([rpc.call_string("getblockhash", json!([0])).unwrap()]), -1),
        ("submitblock", json!(["zz"]), -22),
        ("testmempoolaccept", json!([[]]), -8),
        ("testmempoolaccept", json!([["00"]]), -22),
        ("generateblock", json!(["faucet", []]), -5),
        ("estimatesmartfee", json!([0]), -8),
        ("dumpprivkey", json!([]), -32601),
        ("getblockcount", json!({"a": 1}), -32600),
    ] {
        assert_eq!(refusal(&rpc, method, params.clone()), code, "{method} {params}");
    }
    let address = rpc.call_string("getnewaddress", json!([])).unwrap();
    let bad = json!([address, -1]);
    assert_eq!(refusal(&rpc, "sendtoaddress", bad), -3);
    let mut stranger = rpc.endpoint().clone();
    stranger.password = "guess".into();
    let denied = RpcClient::new(stranger).call("getblockcount", json!([]));
    assert!(matches!(denied, Err(RpcError::Unauthorized { .. })));
    assert_eq!(rpc.call_u64("getblockcount", json!([])).unwrap(), 0);
    chain.stop().unwrap();
}

#[test]
fn the_server_outlives_bad_connections() {
    use std::io::{Read as _, Write as _};
    use std::net::{Shutdown, TcpStream};
    let chain = common::embedded(None);
    let addr = chain.endpoint().addr;
    let deep = format!(
        "POST / HTTP/1.1\r\nAuthorization: Basic b2RhOnNlY3JldA==\r\nContent-Length: 100000\r\n\r\n{}",
        "[".repeat(100_000)
    );
    let body = |b: &str| {
        format!("POST / HTTP/1.1\r\nAuthorization: Basic b2RhOnNlY3JldA==\r\nContent-Length: {}\r\n\r\n{b}", b.len())
    };
    for (sent, expected) in [
        ("\0\0\0\0\r\n\r\n".to_string(), "400"),
        ("GET / HTTP/1.1\r\n\r\n".into(), "405"),
        ("POST / HTTP/1.1\r\nContent-Length: 9999999999\r\n\r\n".into(), "413"),
        ("POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}".into(), "401"),
        ("POST / HTTP/1.1\r\nContent-Length: 8000000\r\n\r\n".into(), "401"), // refused unread
        (body("{"), "500"),
        (body("[]"), "400"),
        (body("[{\"method\":\"stop\"}]"), "400"),
        (body("{\"method\":7}"), "400"),
        (body("{\"method\":\"getblockcount\"}"), "200"),
        (deep, "500"),
        (String::new(), ""),
    ] {
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.write_all(sent.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        let status = answer.split(' ').nth(1).unwrap_or("");
        assert_eq!(status, expected, "{:?}", &sent[..sent.len().min(60)]);
    }
    // many silent connections do not keep the next caller out for good
    let mut silent: Vec<_> = (0..200).filter_map(|_| TcpStream::connect(addr).ok()).collect();
    let mut answer = String::new();
    let _ = silent.last_mut().unwrap().read_to_string(&mut answer);
    assert!(answer.starts_with("HTTP/1.1 503"), "one too many is told so: {answer:?}");
    drop(silent);
    common::until("the chain answers again", || chain.height().is_ok());
    chain.stop().unwrap();
}

#[test]
fn it_serves_this_machine_only_and_one_process_per_directory() {
    use oda_lightning::chain::{ChainConfig, ChainError, ChainServer};
    let dir = tempfile::tempdir().unwrap();
    let config = |listen: &str| ChainConfig {
        data_dir: Some(dir.path().into()),
        listen: listen.parse().unwrap(),
        rpc_user: "u".into(),
        rpc_password: "p".into(),
        policy: oda_lightning::chain::ChainPolicy::default(),
    };
    assert!(matches!(ChainServer::start(config("0.0.0.0:0")), Err(ChainError::NotLoopback(_))));
    let chain = ChainServer::start(config("127.0.0.1:0")).unwrap();
    assert!(matches!(ChainServer::start(config("127.0.0.1:0")), Err(ChainError::InUse(_))));
    let other = ChainConfig { data_dir: None, ..config(&chain.addr().to_string()) };
    assert!(matches!(ChainServer::start(other), Err(ChainError::Listen { .. })));
    // `stop` over JSON-RPC ends `wait`
    let client = RpcClient::new(chain.endpoint().clone());
    std::thread::scope(|s| {
        let waiting = s.spawn(|| chain.wait());
        client.call("stop", json!([])).unwrap();
        waiting.join().unwrap();
    });
    chain.stop();
    ChainServer::start(config("127.0.0.1:0")).unwrap().stop();
}
