//! bitcoind's JSON-RPC methods, as far as ldk-node and the drivers of a test network call them.
//!
//! Names, parameters, results and error codes are bitcoind's (`src/rpc/protocol.h`); a parameter form that
//! nobody here uses is refused, not guessed at.

use super::blocks::{Chain, ChainRejection, faucet_address};
use super::server::State;
use super::{ChainError, TxRejection};
use bitcoin::consensus::encode::{deserialize_hex, serialize_hex};
use bitcoin::{Address, Amount, BlockHash, Network, OutPoint, ScriptBuf, Transaction, TxOut, Txid};
use serde_json::{Map, Value, json};
use std::str::FromStr as _;

/// Most blocks made in one call.
pub(super) const MAX_GENERATE: u64 = 1_000;
/// Most outputs of one faucet payment.
const MAX_SEND_MANY: usize = 200;
/// What `estimatesmartfee` says, BTC per 1,000 vbytes: LDK's floor of 253 sat per 1,000 weight units.
const FEE_ESTIMATE: f64 = 0.000_010_12;
/// Lowest fee rate taken, BTC per 1,000 vbytes.
const MIN_FEE: f64 = 0.000_01;

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

    fn block(&self, chain: &Chain) -> Result<u32, Fail> {
        let hash = BlockHash::from_str(self.str(0, "blockhash")?);
        let hash = hash.map_err(|_| invalid_parameter("blockhash must be 64 hex digits"))?;
        chain.height_of(&hash).ok_or_else(|| fail(-5, "Block not found"))
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

fn header(chain: &Chain, height: u32) -> Option<Value> {
    let block = chain.block(height)?;
    let h = &block.header;
    let mut value = json!({
        "hash": block.block_hash().to_string(),
        "confirmations": chain.height().saturating_sub(height).saturating_add(1),
        "height": height,
        "version": h.version.to_consensus(),
        "merkleroot": h.merkle_root.to_string(),
        "time": h.time,
        "mediantime": chain.median_time_s(height),
        "nonce": h.nonce,
        "bits": format!("{:08x}", h.bits.to_consensus()),
        // every regtest block is two hashes of work
        "chainwork": format!("{:064x}", 2 * (u64::from(height) + 1)),
        "nTx": block.txdata.len(),
    });
    if let (Some(object), true) = (value.as_object_mut(), height > 0) {
        object.insert("previousblockhash".into(), json!(h.prev_blockhash.to_string()));
    }
    Some(value)
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
            let height = p.block(chain)?;
            if p.at(1).as_bool() == Some(false) {
                return chain
                    .block(height)
                    .map(|b| json!(serialize_hex(&b.header)))
                    .ok_or_else(|| fail(-5, "Block not found"));
            }
            header(chain, height).ok_or_else(|| fail(-5, "Block not found"))
        }
        "getblock" => {
            let height = p.block(chain)?;
            if p.at(1).as_u64() != Some(0) && p.at(1).as_bool() != Some(false) {
                return Err(invalid_parameter("this chain serves blocks with verbosity 0 only"));
            }
            chain.block(height).map(|b| json!(serialize_hex(b))).ok_or_else(|| fail(-5, "Block not found"))
        }
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
            "mempoolminfee": MIN_FEE,
            "minrelaytxfee": MIN_FEE,
        })),
        "getrawmempool" => {
            if p.at(0).as_bool() == Some(true) {
                return Err(invalid_parameter("this chain lists its mempool without details only"));
            }
            Ok(chain.pool().entries().map(|e| json!(e.txid.to_string())).collect())
        }
        "getmempoolentry" => {
            let entry = chain.pool().get(&p.txid(0)?).ok_or_else(|| fail(-5, "Transaction not in mempool"))?;
            Ok(json!({
                "time": entry.time_s,
                "height": entry.height,
                "vsize": entry.vsize,
                "weight": entry.weight,
                "fees": {"base": Amount::from_sat(entry.fee_sat).to_btc()},
            }))
        }
        "estimatesmartfee" => Ok(json!({"feerate": FEE_ESTIMATE, "blocks": p.at(0).as_u64().unwrap_or(2).max(2)})),
        "sendrawtransaction" => {
            let tx: Transaction = deserialize_hex(p.str(0, "hexstring")?).map_err(|_| fail(-22, "TX decode failed"))?;
            state.accept(tx).map_err(internal)?.map_err(|e| rejected(&e)).map(|txid| json!(txid.to_string()))
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
