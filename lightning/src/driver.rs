//! Mining and funding on regtest, the same on the embedded chain and on a real bitcoind.

use crate::bitcoind::{Bitcoind, BitcoindConfig};
use crate::chain::{ChainConfig, ChainError, ChainServer};
use crate::rpc::{RpcClient, RpcEndpoint};
use serde_json::{Map, Value, json};

/// Most blocks asked for in one call.
const MINE_BATCH: u32 = 500;
/// Blocks until a mined coin can be spent.
const COINBASE_MATURITY: u32 = 100;

/// A regtest chain to mine on.
pub enum RegtestDriver {
    /// In this process.
    Embedded(ChainServer),
    /// A child process.
    Bitcoind(Bitcoind),
}

impl RegtestDriver {
    /// Starts the embedded chain.
    ///
    /// # Errors
    /// See [`ChainServer::start`].
    pub fn start_embedded(config: ChainConfig) -> Result<Self, ChainError> {
        ChainServer::start(config).map(Self::Embedded)
    }

    /// Starts a bitcoind and waits until it answers. Blocks.
    ///
    /// # Errors
    /// See [`Bitcoind::start`].
    pub fn start_bitcoind(config: BitcoindConfig) -> Result<Self, ChainError> {
        Bitcoind::start(config).map(Self::Bitcoind)
    }

    /// Where wallets ask.
    pub fn endpoint(&self) -> &RpcEndpoint {
        match self {
            Self::Embedded(chain) => chain.endpoint(),
            Self::Bitcoind(bitcoind) => bitcoind.endpoint(),
        }
    }

    /// A client of it.
    pub fn rpc(&self) -> RpcClient {
        RpcClient::new(self.endpoint().clone())
    }

    /// Its height. Blocks.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn height(&self) -> Result<u64, ChainError> {
        Ok(self.rpc().call_u64("getblockcount", json!([]))?)
    }

    /// Mines blocks whose coins go to the driver. Blocks.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn mine(&self, blocks: u32) -> Result<(), ChainError> {
        let rpc = self.rpc();
        let address = rpc.call_string("getnewaddress", json!([]))?;
        let mut left = blocks;
        while left > 0 {
            let batch = left.min(MINE_BATCH);
            rpc.call("generatetoaddress", json!([batch, address]))?;
            left -= batch;
        }
        Ok(())
    }

    /// Pays each address so many satoshis, in one confirmed transaction; mines what it takes. Blocks.
    ///
    /// # Errors
    /// If an address is not a regtest one, or the coins do not suffice.
    pub fn fund(&self, to: &[(String, u64)]) -> Result<(), ChainError> {
        if self.height()? <= u64::from(COINBASE_MATURITY) {
            self.mine(COINBASE_MATURITY + 1)?;
        }
        let mut amounts = Map::new();
        for (address, sat) in to {
            let btc = bitcoin::Amount::from_sat(*sat).to_btc();
            amounts.insert(address.clone(), Value::from(btc));
        }
        self.rpc().call("sendmany", json!(["", amounts]))?;
        self.mine(1)
    }

    /// Mines blocks that hold no transaction, whatever waits. Blocks.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn mine_empty(&self, blocks: u32) -> Result<(), ChainError> {
        let rpc = self.rpc();
        let address = rpc.call_string("getnewaddress", json!([]))?;
        for _ in 0..blocks {
            rpc.call("generateblock", json!([address, []]))?;
        }
        Ok(())
    }

    /// Takes the last `depth` blocks off the chain and mines others in their place; what the dropped ones held
    /// waits again and enters the first new block. Wallets follow once the new branch is the longer one:
    /// `new_blocks` more than `depth`. Blocks.
    ///
    /// # Errors
    /// If the chain is not that long, or does not answer.
    pub fn reorg(&self, depth: u32, new_blocks: u32) -> Result<(), ChainError> {
        self.drop_blocks(depth)?;
        self.mine(new_blocks)
    }

    /// As [`RegtestDriver::reorg`], but the new blocks are empty: what the dropped ones held stays waiting.
    ///
    /// # Errors
    /// As [`RegtestDriver::reorg`].
    pub fn reorg_empty(&self, depth: u32, new_blocks: u32) -> Result<(), ChainError> {
        self.drop_blocks(depth)?;
        self.mine_empty(new_blocks)
    }

    fn drop_blocks(&self, depth: u32) -> Result<(), ChainError> {
        if depth == 0 {
            return Ok(());
        }
        let (rpc, height) = (self.rpc(), self.height()?);
        let first = height.checked_sub(u64::from(depth) - 1).filter(|first| *first > 0);
        let first = first.ok_or_else(|| ChainError::Refused(format!("the chain has only {height} blocks to drop")))?;
        let hash = rpc.call_string("getblockhash", json!([first]))?;
        Ok(rpc.call("invalidateblock", json!([hash])).map(drop)?)
    }

    /// Sets the chain's clock, seconds since the Unix epoch; none gives it the real time again.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn set_time(&self, time_s: Option<u64>) -> Result<(), ChainError> {
        Ok(self.rpc().call("setmocktime", json!([time_s.unwrap_or(0)])).map(drop)?)
    }

    /// Stops it.
    ///
    /// # Errors
    /// If bitcoind does not stop; it is then killed.
    pub fn stop(self) -> Result<(), ChainError> {
        match self {
            Self::Embedded(chain) => {
                chain.stop();
                Ok(())
            }
            Self::Bitcoind(bitcoind) => bitcoind.stop(),
        }
    }
}
