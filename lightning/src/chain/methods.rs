//! bitcoind's JSON-RPC methods, as far as ldk-node and the drivers of a test network call them.
//!
//! Names, parameters, results and error codes are bitcoind's (`src/rpc/protocol.h`); a parameter form that
//! nobody here uses is refused, not guessed at.

use super::assemble::faucet_address;
use super::blocks::{Chain, ChainRejection};
use super::files::{MAX_GENERATE, State};
use super::{ChainError, TxRejection};
use bitcoin::consensus::encode::{deserialize_hex, serialize_hex};
use bitcoin::{Address, Amount, Block, BlockHash, Network, OutPoint, ScriptBuf, Transaction, TxOut, Txid};
use serde_json::{Map, Value, json};
use std::str::FromStr as _;

/// Most outputs of one faucet payment.
const MAX_SEND_MANY: usize = 200;
/// Most transactions named in one call.
const MAX_TXS: usize = 1_000;
/// Furthest target of a fee estimate, blocks.
const MAX_TARGET_BLOCKS: u64 = 1_008;

/// An error to be sent back.
#[derive(Debug)]
pub(super) struct Fail {
    pub(super) code: i64,
    pub(super) message: String,
}

fn fail(code: i64, message: impl ToString) -> Fail {
    Fail { code, message: message.to_string() }
}

/// What the file system cannot do is not the caller's fault.
fn internal(error: ChainError) -> Fail {
    match error {
        ChainError::Refused(why) => fail(-1, why),
        other => fail(-32603, other),
    }
}

fn invalid_parameter(message: &str) -> Fail {
    fail(-8, message)
}

struct Params<'a>(&'a [Value]);

impl<'a> Params<'a> {
    fn at(&self, i: usize) -> &'a Value {
        self.0.get(i).unwrap_or(&Value::Null)
    }

    fn str(&self, i: usize, name: &str) -> Result<&'a str, Fail> {
        self.at(i).as_str().ok_or_else(|| fail(-3, format!("parameter {name} must be a string")))
    }

    fn u64(&self, i: usize, name: &str) -> Result<u64, Fail> {
        self.at(i).as_u64().ok_or_else(|| fail(-3, format!("parameter {name} must be a number, not negative")))
    }

    fn txid(&self, i: usize) -> Result<Txid, Fail> {
        Txid::from_str(self.str(i, "txid")?).map_err(|_| invalid_parameter("txid must be 64 hex digits"))
    }

    fn hash(&self) -> Result<BlockHash, Fail> {
        let hash = BlockHash::from_str(self.str(0, "blockhash")?);
        hash.map_err(|_| invalid_parameter("blockhash must be 64 hex digits"))
    }

    /// A block on the chain or beside it, and its height.
    fn block<'c>(&self, chain: &'c Chain) -> Result<(&'c Block, u32), Fail> {
        chain.any_block(&self.hash()?).ok_or_else(|| fail(-5, "Block not found"))
    }
}

fn address(text: &str) -> Result<ScriptBuf, Fail> {
    let parsed = Address::from_str(text).ok().and_then(|a| a.require_network(Network::Regtest).ok());
    parsed.map(|a| a.script_pubkey()).ok_or_else(|| fail(-5, "Invalid address"))
}

fn amount(value: &Value) -> Result<Amount, Fail> {
    let btc = value.as_f64().ok_or_else(|| fail(-3, "Amount is not a number"))?;
    let amount = Amount::from_btc(btc).map_err(|_| fail(-3, "Invalid amount"))?;
    if amount == Amount::ZERO || amount > Amount::MAX_MONEY {
        return Err(fail(-3, "Amount out of range"));
    }
    Ok(amount)
}

fn header(chain: &Chain, block: &Block, height: u32) -> Value {
    let (h, hash) = (&block.header, block.block_hash());
    let on_chain = chain.height_of(&hash).is_some();
    let confirmations = i64::from(chain.height()) - i64::from(height) + 1;
    let mut value = json!({
        "hash": hash.to_string(),
        "confirmations": if on_chain { confirmations } else { -1 },
        "height": height,
        "version": h.version.to_consensus(),
        "merkleroot": h.merkle_root.to_string(),
        "time": h.time,
        "mediantime": chain.median_time_of(&hash),
        "nonce": h.nonce,
        "bits": format!("{:08x}", h.bits.to_consensus()),
        // every regtest block is two hashes of work
        "chainwork": format!("{:064x}", 2 * (u64::from(height) + 1)),
        "nTx": block.txdata.len(),
    });
    if let Some(object) = value.as_object_mut() {
        if height > 0 {
            object.insert("previousblockhash".into(), json!(h.prev_blockhash.to_string()));
        }
        if let Some(next) = chain.block(height.saturating_add(1)).filter(|_| on_chain) {
            object.insert("nextblockhash".into(), json!(next.block_hash().to_string()));
        }
    }
    value
}

/// Satoshis per 1,000 vbytes as BTC.
fn btc_rate(sat_per_kvb: u64) -> f64 {
    Amount::from_sat(sat_per_kvb).to_btc()
}

fn raw_tx(hex: &str) -> Result<Transaction, Fail> {
    deserialize_hex(hex).map_err(|_| fail(-22, "TX decode failed"))
}

fn mempool_entry(chain: &Chain, txid: &Txid) -> Option<Value> {
    let (entry, [up, down]) = (chain.pool().get(txid)?, chain.pool().relatives(txid)?);
    let btc = |sat| Amount::from_sat(sat).to_btc();
    Some(json!({
        "time": entry.time_s,
        "height": entry.height,
        "vsize": entry.vsize,
        "weight": entry.weight,
        "ancestorcount": up.0, "ancestorsize": up.1,
        "descendantcount": down.0, "descendantsize": down.1,
        "fees": {"base": btc(entry.fee_sat), "modified": btc(entry.fee_sat), "ancestor": btc(up.2), "descendant": btc(down.2)},
    }))
}

fn test_accept(state: &State, p: &Params<'_>) -> Result<Value, Fail> {
    // a package of several depends on rules for packages, which this chain has not
    let [tx] = p.at(0).as_array().map_or(&[][..], Vec::as_slice) else {
        return Err(invalid_parameter("this chain tests one transaction at a time"));
    };
    let tx = raw_tx(tx.as_str().ok_or_else(|| fail(-3, "rawtxs must be strings"))?)?;
    let (txid, wtxid) = (tx.compute_txid().to_string(), tx.compute_wtxid().to_string());
    let mut verdict = json!({"txid": txid, "wtxid": wtxid, "allowed": true});
    match (state.chain.test_accept(tx, state.now_s()), verdict.as_object_mut()) {
        (Ok(fee_sat), Some(v)) => {
            v.insert("fees".into(), json!({"base": Amount::from_sat(fee_sat).to_btc()}));
        }
        (Err(why), Some(v)) => {
            v.insert("allowed".into(), json!(false));
            v.insert("reject-reason".into(), json!(why.to_string()));
        }
        _ => {}
    }
    Ok(json!([verdict]))
}

/// Transactions named by txid or given in hex.
fn named_txs(chain: &Chain, list: &Value) -> Result<Vec<Transaction>, Fail> {
    let list = list.as_array().filter(|l| l.len() <= MAX_TXS);
    let list = list.ok_or_else(|| invalid_parameter("transactions must be a list of at most 1000"))?;
    let tx = |v: &Value| {
        let text = v.as_str().ok_or_else(|| fail(-3, "transactions must be strings"))?;
        match Txid::from_str(text) {
            Ok(txid) => {
                let entry = chain.pool().get(&txid);
                entry.map(|e| e.tx.clone()).ok_or_else(|| fail(-5, format!("Transaction {txid} not in mempool.")))
            }
            Err(_) => raw_tx(text),
        }
    };
    list.iter().map(tx).collect()
}

fn tips(chain: &Chain) -> Value {
    let tip = |t: &super::ChainTip| {
        let status = match (t.branch_blocks, t.invalid) {
            (0, _) => "active",
            (_, true) => "invalid",
            _ => "valid-fork",
        };
        json!({"height": t.height, "hash": t.hash.to_string(), "branchlen": t.branch_blocks, "status": status})
    };
    chain.tips().iter().map(tip).collect()
}

fn unspent(chain: &Chain, p: &Params<'_>) -> Result<Value, Fail> {
    let vout = u32::try_from(p.u64(1, "n")?).map_err(|_| invalid_parameter("n is too large"))?;
    let outpoint = OutPoint::new(p.txid(0)?, vout);
    let with_pool = p.at(2).as_bool().unwrap_or(true);
    if with_pool && chain.pool().is_spent(&outpoint) {
        return Ok(Value::Null);
    }
    let describe = |output: &TxOut, confirmations: u32, coinbase: bool| {
        json!({
            "bestblock": chain.tip().to_string(),
            "confirmations": confirmations,
            "value": output.value.to_btc(),
            "scriptPubKey": {"hex": output.script_pubkey.to_hex_string()},
            "coinbase": coinbase,
        })
    };
    Ok(match (chain.coin(&outpoint), chain.pool().output(&outpoint)) {
        (Some((output, height, coinbase)), _) => {
            describe(output, chain.height().saturating_sub(height).saturating_add(1), coinbase)
        }
        (None, Some(output)) if with_pool => describe(output, 0, false),
        _ => Value::Null,
    })
}

fn rejected(why: &TxRejection) -> Fail {
    let code = match why {
        TxRejection::MissingInput(_) => -25,
        TxRejection::AlreadyConfirmed => -27,
        _ => -26,
    };
    fail(code, why)
}

fn send(state: &mut State, to: Vec<TxOut>) -> Result<Value, Fail> {
    let tx = state.chain.faucet_payment(to).map_err(|e| match e {
        ChainRejection::FaucetEmpty { .. } => fail(-6, e),
        other => fail(-4, other),
    })?;
    state.accept(tx).map_err(internal)?.map_err(|e| rejected(&e)).map(|txid| json!(txid.to_string()))
}

/// Carries out one call.
pub(super) fn call(state: &mut State, method: &str, params: &[Value]) -> Result<Value, Fail> {
    let p = Params(params);
    let chain = &state.chain;
    match method {
        "getblockchaininfo" => Ok(json!({
            "chain": "regtest",
            "blocks": chain.height(),
            "headers": chain.height(),
            "bestblockhash": chain.tip().to_string(),
            "mediantime": chain.median_time_s(chain.height()),
            "verificationprogress": 1,
            "initialblockdownload": false,
            "pruned": false,
            "warnings": "",
        })),
        "getblockcount" => Ok(json!(chain.height())),
        "getbestblockhash" => Ok(json!(chain.tip().to_string())),
        "getblockhash" => {
            let block = u32::try_from(p.u64(0, "height")?).ok().and_then(|h| chain.block(h));
            block.map(|b| json!(b.block_hash().to_string())).ok_or_else(|| fail(-8, "Block height out of range"))
        }
        "getblockheader" => {
            let (block, height) = p.block(chain)?;
            match p.at(1).as_bool() {
                Some(false) => Ok(json!(serialize_hex(&block.header))),
                _ => Ok(header(chain, block, height)),
            }
        }
        "getblock" => {
            let (block, _) = p.block(chain)?;
            if p.at(1).as_u64() != Some(0) && p.at(1).as_bool() != Some(false) {
                return Err(invalid_parameter("this chain serves blocks with verbosity 0 only"));
            }
            Ok(json!(serialize_hex(block)))
        }
        "getchaintips" => Ok(tips(chain)),
        "gettxout" => unspent(chain, &p),
        "getrawtransaction" => {
            if !matches!(p.at(1), Value::Null | Value::Bool(false)) && p.at(1).as_u64() != Some(0) {
                return Err(invalid_parameter("this chain serves raw transactions with verbosity 0 only"));
            }
            let tx = chain.transaction(&p.txid(0)?).map(serialize_hex);
            tx.map(|t| json!(t)).ok_or_else(|| fail(-5, "No such mempool or blockchain transaction"))
        }
        "getmempoolinfo" => Ok(json!({
            "loaded": true,
            "size": chain.pool().len(),
            "bytes": chain.pool().vbytes(),
            "maxmempool": chain.policy.max_pool_vbytes,
            "mempoolminfee": btc_rate(chain.min_fee_sat_per_kvb()),
            "minrelaytxfee": btc_rate(chain.policy.min_fee_sat_per_kvb),
            "incrementalrelayfee": btc_rate(chain.policy.min_fee_sat_per_kvb),
        })),
        "getrawmempool" => {
            if p.at(0).as_bool() == Some(true) {
                return Err(invalid_parameter("this chain lists its mempool without details only"));
            }
            Ok(chain.pool().entries().map(|e| json!(e.txid.to_string())).collect())
        }
        "getmempoolentry" => mempool_entry(chain, &p.txid(0)?).ok_or_else(|| fail(-5, "Transaction not in mempool")),
        "estimatesmartfee" => {
            let blocks = p.u64(0, "conf_target")?;
            if !(1..=MAX_TARGET_BLOCKS).contains(&blocks) {
                return Err(invalid_parameter("Invalid conf_target, must be between 1 and 1008"));
            }
            Ok(json!({"feerate": btc_rate(chain.fee_estimate_sat_per_kvb(blocks)), "blocks": blocks}))
        }
        "testmempoolaccept" => test_accept(state, &p),
        "sendrawtransaction" => {
            let tx = raw_tx(p.str(0, "hexstring")?)?;
            state.accept(tx).map_err(internal)?.map_err(|e| rejected(&e)).map(|txid| json!(txid.to_string()))
        }
        "submitblock" => {
            let block = deserialize_hex(p.str(0, "hexdata")?).map_err(|_| fail(-22, "Block decode failed"))?;
            let verdict = state.submit(block).map_err(internal)?;
            Ok(verdict.map_or_else(|why| json!(why.to_string()), |()| Value::Null))
        }
        "invalidateblock" | "reconsiderblock" => {
            let hash = p.hash()?;
            chain.any_block(&hash).ok_or_else(|| fail(-5, "Block not found"))?;
            let done = if method == "invalidateblock" { state.invalidate(&hash) } else { state.reconsider(&hash) };
            done.map(|()| Value::Null).map_err(internal)
        }
        "setmocktime" => {
            let time_s = p.u64(0, "timestamp")?;
            state.mock_time_s = (time_s > 0).then_some(time_s);
            Ok(Value::Null)
        }
        "generateblock" => {
            let payout = address(p.str(0, "output")?)?;
            let txs = named_txs(chain, p.at(1))?;
            let hash = state.mine_exactly(&txs, &payout).map_err(internal)?;
            Ok(json!({"hash": hash.to_string()}))
        }
        "getnewaddress" => Ok(json!(faucet_address().to_string())),
        "generatetoaddress" => {
            let (blocks, payout) = (p.u64(0, "nblocks")?, address(p.str(1, "address")?)?);
            if blocks > MAX_GENERATE {
                return Err(invalid_parameter("at most 1000 blocks are made in one call"));
            }
            let hashes = state.mine(blocks, &payout).map_err(internal)?;
            Ok(hashes.iter().map(|h| json!(h.to_string())).collect())
        }
        "sendtoaddress" => {
            let to = TxOut { value: amount(p.at(1))?, script_pubkey: address(p.str(0, "address")?)? };
            send(state, vec![to])
        }
        "sendmany" => {
            let empty = Map::new();
            let amounts = p.at(1).as_object().unwrap_or(&empty);
            if amounts.is_empty() || amounts.len() > MAX_SEND_MANY {
                return Err(invalid_parameter("amounts must name 1 to 200 addresses"));
            }
            let output =
                |(to, value): (&String, &Value)| Ok(TxOut { value: amount(value)?, script_pubkey: address(to)? });
            let to = amounts.iter().map(output).collect::<Result<_, Fail>>()?;
            send(state, to)
        }
        "stop" => {
            state.stopping = true;
            Ok(json!("oda regtest chain stopping"))
        }
        _ => Err(fail(-32601, "Method not found")),
    }
}
