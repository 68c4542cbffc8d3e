//! The network's Bitcoin chain: which one, and mining and paying on it.
//!
//! Only two of bitcoind's calls are used (`getblockcount`, `generatetoaddress`), so the embedded chain
//! and a real bitcoind need no difference here, and no wallet: coins are mined straight to whoever
//! needs them and matured. The chain runs in a process of its own (`testnet chain`), because the nodes
//! must be able to outlive a restart of whoever drives them, and the other way round.

use crate::config::ChainEntry;
use anyhow::{Context, Result, anyhow, bail};
use bitcoin::opcodes::OP_TRUE;
use bitcoin::script::Builder;
use bitcoin::{Address, Network};
use clap::ValueEnum;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long one call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest answer taken, bytes.
const MAX_ANSWER: u64 = 4 << 20;
/// Blocks until a mined coin can be spent (consensus rule).
const MATURITY: u64 = 100;
/// Most blocks mined in one call.
const MAX_BLOCKS: u64 = 1000;

/// Which chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ChainKind {
    /// In process, needs nothing.
    Embedded,
    /// A real bitcoind in regtest mode.
    Bitcoind,
}

impl ChainKind {
    /// What was asked for; else bitcoind if `BITCOIND_EXE` names one, else the embedded chain.
    pub fn choose(asked: Option<Self>) -> Self {
        let named = std::env::var_os("BITCOIND_EXE").is_some_and(|exe| !exe.is_empty());
        asked.unwrap_or(if named { Self::Bitcoind } else { Self::Embedded })
    }

    /// How it is started.
    pub(crate) fn command(self, testnet: &Path, network_dir: &Path) -> (PathBuf, Vec<String>) {
        let kind = match self {
            Self::Embedded => "embedded",
            Self::Bitcoind => "bitcoind",
        };
        let args = ["chain", "--dir", &network_dir.display().to_string(), "--chain", kind].map(String::from);
        (testnet.to_path_buf(), args.to_vec())
    }
}

/// Mines and pays.
#[derive(Clone, Debug)]
pub struct Driver {
    rpc: SocketAddr,
    authorization: String,
    nobody: String,
}

impl Driver {
    /// A driver of the chain at that address.
    pub fn new(chain: &ChainEntry) -> Self {
        let authorization = base64(format!("{}:{}", chain.rpc_user, chain.rpc_password).as_bytes());
        let anyone = Builder::new().push_opcode(OP_TRUE).into_script();
        Self { rpc: chain.rpc, authorization, nobody: Address::p2wsh(&anyone, Network::Regtest).to_string() }
    }

    /// Its height.
    ///
    /// # Errors
    /// If the chain does not answer.
    pub async fn height(&self) -> Result<u64> {
        self.call("getblockcount", json!([])).await?.as_u64().context("getblockcount did not answer with a number")
    }

    /// Mines blocks, their coins to nobody.
    ///
    /// # Errors
    /// If the chain does not answer.
    pub async fn mine(&self, blocks: u64) -> Result<()> {
        self.mine_to(&self.nobody, blocks).await
    }

    async fn mine_to(&self, address: &str, blocks: u64) -> Result<()> {
        anyhow::ensure!(blocks <= MAX_BLOCKS, "{blocks} blocks: at most {MAX_BLOCKS} are mined in one call");
        self.call("generatetoaddress", json!([blocks, address])).await.map(drop)
    }

    /// Mines coins to an address and matures them.
    ///
    /// # Errors
    /// If the chain does not answer.
    pub async fn fund(&self, address: &str, coins: u64) -> Result<()> {
        if coins == 0 {
            return Ok(());
        }
        self.mine_to(address, coins).await?;
        self.mine(MATURITY).await
    }

    async fn call(&self, method: &str, params: Value) -> Result<Value> {
        let answer = timeout(CALL_TIMEOUT, self.exchange(method, params)).await;
        answer
            .map_err(|_| anyhow!("no answer within {} s", CALL_TIMEOUT.as_secs()))
            .and_then(|r| r)
            .with_context(|| format!("{method} on the Bitcoin chain at {}", self.rpc))
    }

    /// One HTTP/1.1 exchange; bitcoind's answers are not JSON-RPC 2.0, so no client library takes them.
    async fn exchange(&self, method: &str, params: Value) -> Result<Value> {
        let body = json!({"jsonrpc": "1.0", "id": "testnet", "method": method, "params": params}).to_string();
        let request = format!(
            "POST / HTTP/1.1\r\nHost: {}\r\nAuthorization: Basic {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.rpc,
            self.authorization,
            body.len(),
        );
        let mut stream = TcpStream::connect(self.rpc).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
        parse(&answer)
    }
}

fn parse(answer: &[u8]) -> Result<Value> {
    let text = std::str::from_utf8(answer).context("the answer is not text")?;
    let (head, body) = text.split_once("\r\n\r\n").context("the answer is not HTTP")?;
    let status = head.lines().next().unwrap_or_default();
    if status.contains(" 401") {
        bail!("user or password refused: another program listens there");
    }
    let mut value: Value = serde_json::from_str(body).with_context(|| format!("the answer ({status}) is not JSON"))?;
    match value.get("error") {
        Some(error) if !error.is_null() => {
            bail!("{}", error.get("message").and_then(Value::as_str).unwrap_or("refused"))
        }
        _ => value.get_mut("result").map(Value::take).context("the answer holds no result"),
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, b| bits << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = DIGITS.get((bits >> (18 - 6 * place) & 63) as usize).copied().unwrap_or(b'=');
            out.push(if place <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test] // RFC 4648, section 10
    fn base64_vectors() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn answers_and_refusals() {
        let ok = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{\"result\":7,\"error\":null,\"id\":1}";
        assert_eq!(parse(ok).unwrap(), json!(7));
        let refused = b"HTTP/1.1 500 Internal Server Error\r\n\r\n{\"result\":null,\"error\":{\"code\":-5,\"message\":\"Invalid address\"}}";
        assert!(parse(refused).unwrap_err().to_string().contains("Invalid address"));
        assert!(parse(b"HTTP/1.1 401 Unauthorized\r\n\r\n").unwrap_err().to_string().contains("password"));
        for noise in [b"".as_slice(), b"\xff", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n{}"] {
            assert!(parse(noise).is_err());
        }
    }
}
