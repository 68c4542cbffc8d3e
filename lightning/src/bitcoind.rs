//! A real bitcoind in regtest mode as a child process.

use crate::chain::ChainError;
use crate::rpc::{RpcClient, RpcEndpoint, RpcError};
use serde_json::json;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long it may take to start, or to stop.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two looks.
const POLL: Duration = Duration::from_millis(50);
/// Its own wallet, which keeps the mined coins.
const WALLET: &str = "oda";

/// How to start a bitcoind.
#[derive(Clone, Debug)]
pub struct BitcoindConfig {
    /// The program; see [`exe_from_env`].
    pub exe: PathBuf,
    /// Its directory: configuration, log, blocks.
    pub data_dir: PathBuf,
    /// Where it serves JSON-RPC; on loopback, not port 0 (see [`free_port`]).
    pub listen: SocketAddr,
    /// User callers must name.
    pub rpc_user: String,
    /// Their password; letters and digits.
    pub rpc_password: String,
}

/// The bitcoind named by `BITCOIND_EXE`, if any.
pub fn exe_from_env() -> Option<PathBuf> {
    std::env::var_os("BITCOIND_EXE").filter(|exe| !exe.is_empty()).map(PathBuf::from)
}

/// A loopback address nobody listens on at the moment.
///
/// # Errors
/// If the system has none.
pub fn free_port() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// A running bitcoind. Dropping it kills it.
pub struct Bitcoind {
    child: Child,
    endpoint: RpcEndpoint,
    exe: PathBuf,
}

impl Bitcoind {
    /// Starts it in a directory, new or used before, and waits until it answers. Blocks.
    ///
    /// # Errors
    /// If the program is missing, ends at once, or does not answer within a minute.
    pub fn start(config: BitcoindConfig) -> Result<Self, ChainError> {
        let BitcoindConfig { exe, data_dir, listen, rpc_user: user, rpc_password: password } = config;
        if !listen.ip().is_loopback() {
            return Err(ChainError::NotLoopback(listen));
        }
        let plain = |s: &str| !s.is_empty() && s.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        if !plain(&user) || !plain(&password) {
            let why = "bitcoind's user and password may hold only letters, digits, - and _";
            return Err(ChainError::Refused(why.into()));
        }
        let io = |source| ChainError::Io { path: data_dir.clone(), source };
        std::fs::create_dir_all(&data_dir).map_err(io)?;
        // in a file only its owner can read: command lines are public. Knots relays less than Bitcoin Core
        // unless told `corepolicy`; Core says that it does not know the word, and goes on. The fees differ
        // from release to release.
        let settings = format!(
            "regtest=1\nserver=1\nlisten=0\ntxindex=1\nfallbackfee=0.0001\nprinttoconsole=0\ncorepolicy=1\n\
             minrelaytxfee=0.00001\nincrementalrelayfee=0.00001\nblockmintxfee=0.00001\nrpcuser={user}\n\
             rpcpassword={password}\n[regtest]\nrpcbind={}\nrpcallowip={}\nrpcport={}\n",
            listen.ip(),
            listen.ip(),
            listen.port(),
        );
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(data_dir.join("bitcoin.conf"))
            .map_err(io)?;
        file.write_all(settings.as_bytes()).map_err(io)?;
        let log = File::create(data_dir.join("bitcoind.log")).map_err(io)?;
        let also = log.try_clone().map_err(io)?;
        let dir = std::path::absolute(&data_dir).map_err(io)?;
        let child = Command::new(&exe)
            .arg(format!("-datadir={}", dir.display()))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(also)
            .spawn()
            .map_err(|e| ChainError::Bitcoind { exe: exe.clone(), why: e.to_string() })?;
        let mut started = Self { child, endpoint: RpcEndpoint { addr: listen, user, password }, exe };
        started.wait_ready(&data_dir)?;
        started.open_wallet()?;
        Ok(started)
    }

    fn wait_ready(&mut self, data_dir: &std::path::Path) -> Result<(), ChainError> {
        let deadline = Instant::now() + PATIENCE;
        let rpc = RpcClient::new(self.endpoint.clone());
        loop {
            let ended = self.child.try_wait().ok().flatten();
            let fail = |why: String| ChainError::Bitcoind { exe: self.exe.clone(), why };
            if let Some(status) = ended {
                let log = std::fs::read_to_string(data_dir.join("bitcoind.log")).unwrap_or_default();
                let tail: String = log.lines().rev().take(5).collect::<Vec<_>>().join(" | ");
                return Err(fail(format!("it ended at once ({status}): {tail}")));
            }
            match rpc.call("getblockchaininfo", json!([])) {
                Ok(_) => return Ok(()),
                Err(RpcError::Unauthorized { addr }) => {
                    return Err(fail(format!("another program listens on {addr}")));
                }
                Err(error) if Instant::now() > deadline => return Err(fail(format!("it does not answer: {error}"))),
                Err(_) => std::thread::sleep(POLL),
            }
        }
    }

    /// Opens its wallet, creating it at first.
    fn open_wallet(&self) -> Result<(), ChainError> {
        const NO_SUCH_WALLET: i64 = -18;
        const LOADED_ALREADY: i64 = -35;
        let rpc = RpcClient::new(self.endpoint.clone());
        match rpc.call("loadwallet", json!([WALLET])) {
            Ok(_) | Err(RpcError::Refused { code: LOADED_ALREADY, .. }) => Ok(()),
            Err(RpcError::Refused { code: NO_SUCH_WALLET, .. }) => {
                Ok(rpc.call("createwallet", json!([WALLET])).map(drop)?)
            }
            Err(other) => Err(other.into()),
        }
    }

    /// Where it serves, and as whom to ask.
    pub fn endpoint(&self) -> &RpcEndpoint {
        &self.endpoint
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it ends by itself or is asked to. Blocks.
    ///
    /// # Errors
    /// If it ended with an error.
    pub fn wait(mut self) -> Result<(), ChainError> {
        let status = self.child.wait();
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(ChainError::Bitcoind { exe: self.exe.clone(), why: format!("it ended with {status}") }),
            Err(e) => Err(ChainError::Bitcoind { exe: self.exe.clone(), why: e.to_string() }),
        }
    }

    /// Stops it cleanly. Blocks, up to a minute; then kills it.
    ///
    /// # Errors
    /// If it had to be killed.
    pub fn stop(mut self) -> Result<(), ChainError> {
        RpcClient::new(self.endpoint.clone()).call("stop", json!([]))?;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return Ok(());
            }
            std::thread::sleep(POLL);
        }
        Err(ChainError::Bitcoind {
            exe: self.exe.clone(),
            why: "it did not stop within a minute and was killed".into(),
        })
    }
}

impl Drop for Bitcoind {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
