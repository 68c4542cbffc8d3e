//! A running network: which process is up, how to reach it, how to stop it all.

use crate::chain::{ChainKind, Driver};
use crate::config::{self, NODE_FILE, NetworkFile, NodeConfig, Role};
use crate::genesis::{self, Options};
use crate::process::{self, Ended, Process};
use crate::rpc::{Rpc, Wallet};
use crate::trainer::Trainer;
use anyhow::{Context, Result, bail, ensure};
use oda_consensus::genesis::Genesis;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::{Instant, sleep};

/// How long a node may take until it answers.
const START_TIMEOUT: Duration = Duration::from_secs(90);
/// How long channels may take.
const CHANNEL_TIMEOUT: Duration = Duration::from_secs(120);
/// Pause between two looks at something awaited.
const POLL: Duration = Duration::from_millis(250);
/// Coins a sponsor gets beside each channel, sat: fees, and the reserve of anchor channels.
const SPARE_SAT: u64 = 500_000;

/// The programs a network runs.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `oda`.
    pub oda: PathBuf,
    /// `testnet`, for the chain's process.
    pub testnet: PathBuf,
}

impl Programs {
    /// `oda` beside `testnet`, which is where cargo puts them.
    pub fn beside(testnet: &Path) -> Self {
        Self { oda: testnet.with_file_name("oda"), testnet: testnet.to_path_buf() }
    }
}

/// Processes of one network. Dropping it kills them; [`Network::stop_all`] stops them cleanly.
pub struct Network {
    dir: PathBuf,
    programs: Programs,
    file: NetworkFile,
    chain_kind: ChainKind,
    chain: Option<Process>,
    driver: Driver,
    nodes: BTreeMap<String, Process>,
    trainers: BTreeMap<String, Trainer>,
}

impl Network {
    /// The network in `dir`; made with these options if there is none. Starts nothing.
    ///
    /// # Errors
    /// If it cannot be read or made, or `oda` does not start.
    pub async fn open(dir: &Path, programs: Programs, chain_kind: ChainKind, options: &Options) -> Result<Self> {
        process::check_oda(&programs.oda).await?;
        let file = if dir.join(config::NETWORK_FILE).exists() {
            NetworkFile::load(dir)?
        } else {
            genesis::create(dir, options, now_ms())?
        };
        let dir = std::fs::canonicalize(dir).with_context(|| dir.display().to_string())?;
        let driver = Driver::new(&file.chain);
        let trainers = file.of(Role::Trainer).map(|n| (n.name.clone(), Trainer::default())).collect();
        Ok(Self { dir, programs, file, chain_kind, chain: None, driver, nodes: BTreeMap::new(), trainers })
    }

    /// Its description.
    pub fn file(&self) -> &NetworkFile {
        &self.file
    }

    /// Its genesis.
    ///
    /// # Errors
    /// If the file is missing or malformed.
    pub fn genesis(&self) -> Result<Genesis> {
        let path = self.dir.join(genesis::GENESIS_FILE);
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is malformed", path.display()))
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A node's data directory.
    pub fn datadir(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The `oda` program it runs.
    pub fn oda(&self) -> &Path {
        &self.programs.oda
    }

    /// Mines and pays on the network's Bitcoin chain.
    pub fn driver(&self) -> &Driver {
        &self.driver
    }

    /// What a trainer tells of itself.
    ///
    /// # Errors
    /// If there is no such trainer.
    pub fn trainer(&self, name: &str) -> Result<&Trainer> {
        self.trainers.get(name).with_context(|| format!("the network has no trainer {name}"))
    }

    /// JSON-RPC of a full node.
    ///
    /// # Errors
    /// If there is no such node, or it is a lite node.
    pub fn rpc(&self, name: &str) -> Result<Rpc> {
        Rpc::new(self.file.node(name)?.rpc.with_context(|| format!("{name} is a lite node and serves no RPC"))?)
    }

    /// The end of a node's log.
    pub fn log_tail(&self, name: &str) -> String {
        process::tail(&self.datadir(name).join("log"))
    }

    /// Starts the Bitcoin chain, unless it runs, and waits until it answers.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn start_chain(&mut self) -> Result<()> {
        if self.chain.is_some() {
            return Ok(());
        }
        let dir = self.dir.join("chain");
        std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        let (program, args) = self.chain_kind.command(&self.programs.testnet, &self.dir);
        let (process, _) = Process::spawn("chain", &program, &args, &dir.join("log"), false)?;
        let process = self.chain.insert(process);
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            process.check()?;
            match self.driver.height().await {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => {
                    return Err(error.context("the Bitcoin chain does not answer"));
                }
                Err(_) => sleep(POLL).await,
            }
        }
    }

    /// Starts a node. Does not wait for it.
    ///
    /// # Errors
    /// If it runs already or cannot be started.
    pub fn start(&mut self, name: &str) -> Result<()> {
        ensure!(!self.nodes.contains_key(name), "{name} runs already");
        let entry = self.file.node(name)?;
        let datadir = self.datadir(name);
        let mut args: Vec<String> = match entry.role {
            Role::Validator => vec!["node".into(), "--validator".into()],
            Role::Observer => vec!["node".into()],
            Role::Sponsor => vec!["sponsor".into()],
            Role::Trainer => vec!["--json".into(), "lite".into()],
        };
        args.extend(["--datadir".into(), datadir.display().to_string()]);
        let capture = entry.role == Role::Trainer;
        let (process, stdout) = Process::spawn(name, &self.programs.oda, &args, &datadir.join("log"), capture)?;
        if let Some(stdout) = stdout {
            self.trainer(name)?.follow(stdout);
        }
        self.nodes.insert(name.to_string(), process);
        Ok(())
    }

    /// Waits until a full node answers.
    ///
    /// # Errors
    /// If it ends or takes too long; with the end of its log.
    pub async fn wait_ready(&mut self, name: &str) -> Result<()> {
        let rpc = self.rpc(name)?;
        self.wait(&format!("{name} to answer"), START_TIMEOUT, Some(name), || {
            let rpc = rpc.clone();
            async move { Ok(rpc.status().await.is_ok().then_some(())) }
        })
        .await
    }

    /// Waits for something that the network will do, and watches that all processes live on.
    ///
    /// # Errors
    /// If a process ends, `look` fails, or it takes too long; with the end of the log of `about`.
    pub async fn wait<T, F, Fut>(&mut self, what: &str, limit: Duration, about: Option<&str>, mut look: F) -> Result<T>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<Option<T>>>,
    {
        let deadline = Instant::now() + limit;
        loop {
            self.check()?;
            if let Some(found) = look().await? {
                return Ok(found);
            }
            if Instant::now() > deadline {
                let log =
                    about.map_or(String::new(), |name| format!("; the end of {name}'s log:\n{}", self.log_tail(name)));
                bail!("waited {} s for {what} in vain{log}", limit.as_secs());
            }
            sleep(POLL).await;
        }
    }

    /// Fails if a process that should run has ended.
    ///
    /// # Errors
    /// Which one, with the end of its log.
    pub fn check(&mut self) -> Result<()> {
        self.nodes.values_mut().chain(&mut self.chain).try_for_each(Process::check)
    }

    /// Process id of a running node.
    pub fn pid(&self, name: &str) -> Option<u32> {
        self.nodes.get(name).and_then(Process::pid)
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// If it does not run.
    pub async fn kill9(&mut self, name: &str) -> Result<()> {
        self.nodes.remove(name).with_context(|| format!("{name} does not run"))?.kill9().await
    }

    /// Stops a node cleanly.
    ///
    /// # Errors
    /// If it does not run.
    pub async fn stop(&mut self, name: &str) -> Result<Ended> {
        self.nodes.remove(name).with_context(|| format!("{name} does not run"))?.stop().await
    }

    /// Stops everything, chain last, and tells what did not stop cleanly.
    pub async fn stop_all(&mut self) -> Vec<String> {
        let nodes = std::mem::take(&mut self.nodes);
        let mut problems = self.stop_together(nodes).await;
        if let Some(chain) = self.chain.take() {
            problems.extend(self.stop_together([("chain".to_string(), chain)]).await);
        }
        problems
    }

    /// Stops the trainers and tells what did not stop cleanly.
    pub async fn stop_trainers(&mut self) -> Vec<String> {
        let trainers: Vec<_> =
            self.names(Role::Trainer).into_iter().filter_map(|name| self.nodes.remove_entry(&name)).collect();
        self.stop_together(trainers).await
    }

    async fn stop_together(&self, processes: impl IntoIterator<Item = (String, Process)>) -> Vec<String> {
        let stopping: Vec<_> =
            processes.into_iter().map(|(name, process)| (name, tokio::spawn(process.stop()))).collect();
        let mut problems = Vec::new();
        for (name, task) in stopping {
            match task.await.unwrap_or_else(|e| Err(e.into())) {
                Ok(Ended::Clean) => {}
                Ok(Ended::Killed) => problems
                    .push(format!("{name} did not stop within {} s and was killed", process::STOP_TIMEOUT.as_secs())),
                Ok(Ended::Failed(status)) => {
                    problems.push(format!("{name} stopped with {status}:\n{}", self.log_tail(&name)));
                }
                Err(error) => problems.push(format!("{name}: {error:#}")),
            }
        }
        problems
    }

    /// Names of the nodes of a role.
    pub fn names(&self, role: Role) -> Vec<String> {
        self.file.of(role).map(|n| n.name.clone()).collect()
    }

    /// Starts the validators and waits until they answer.
    ///
    /// # Errors
    /// If one does not.
    pub async fn start_validators(&mut self) -> Result<()> {
        let names = self.names(Role::Validator);
        for name in &names {
            self.start(name)?;
        }
        for name in &names {
            self.wait_ready(name).await?;
        }
        Ok(())
    }

    /// Starts the sponsors and gives each the coins for its channels. Trainers, and whoever joins later, are then told
    /// to trust them: their Lightning node ids are known only now.
    ///
    /// # Errors
    /// If one does not start or is not funded.
    pub async fn start_sponsors(&mut self) -> Result<()> {
        let (sponsors, trainers) = (self.names(Role::Sponsor), self.names(Role::Trainer));
        let mut trusted = Vec::new();
        for name in &sponsors {
            self.start(name)?;
            self.wait_ready(name).await?;
            let wallet = self.wait_wallet(name).await?;
            self.fund(name, &wallet, trainers.len()).await?;
            trusted.push(wallet.node_id);
        }
        for name in &trainers {
            let path = self.datadir(name).join(NODE_FILE);
            let mut config: NodeConfig = config::read(&path)?;
            if let Some(lightning) = &mut config.lightning {
                lightning.trusted.clone_from(&trusted);
            }
            config::write(&path, &config)?;
        }
        genesis::write_join(&self.dir, &self.file, &trusted)
    }

    /// A sponsor's wallet, once it has one.
    ///
    /// # Errors
    /// If it takes too long.
    pub async fn wait_wallet(&mut self, name: &str) -> Result<Wallet> {
        let rpc = self.rpc(name)?;
        self.wait(&format!("the wallet of {name}"), START_TIMEOUT, Some(name), || {
            let rpc = rpc.clone();
            async move { Ok(rpc.wallet().await.ok().filter(|w| !w.node_id.is_empty() && !w.address.is_empty())) }
        })
        .await
    }

    /// One coin per channel, so that no opening waits for another's change to confirm.
    async fn fund(&mut self, name: &str, wallet: &Wallet, channels: usize) -> Result<()> {
        let missing = channels.saturating_sub(wallet.channels.len());
        let config: NodeConfig = config::read(&self.datadir(name).join(NODE_FILE))?;
        let coin_sat = config.sponsor.context("a sponsor without [sponsor]")?.channel_sat + SPARE_SAT;
        let wanted = coin_sat.saturating_mul(missing as u64);
        if wallet.onchain_sat >= wanted {
            return Ok(());
        }
        self.driver.fund(&wallet.address, missing as u64).await.context("mining the sponsor's coins")?;
        let rpc = self.rpc(name)?;
        self.wait("the sponsor's coins", START_TIMEOUT, Some(name), || {
            let rpc = rpc.clone();
            async move { Ok(rpc.wallet().await.ok().filter(|w| w.onchain_sat >= wanted).map(|_| ())) }
        })
        .await
    }

    /// Starts the trainers.
    ///
    /// # Errors
    /// If one cannot be started.
    pub fn start_trainers(&mut self) -> Result<()> {
        self.names(Role::Trainer).iter().try_for_each(|name| self.start(name))
    }

    /// Mines until every trainer has a usable channel.
    ///
    /// # Errors
    /// If it takes too long.
    pub async fn wait_channels(&mut self) -> Result<()> {
        let deadline = Instant::now() + CHANNEL_TIMEOUT;
        let trainers = self.names(Role::Trainer);
        loop {
            self.check()?;
            let has_channel =
                |name: &String| self.trainers.get(name).is_some_and(|t| t.facts().wallet.is_some_and(|(_, n)| n > 0));
            let without = trainers.iter().find(|name| !has_channel(name));
            let Some(first) = without else { return Ok(()) };
            if Instant::now() > deadline {
                bail!(
                    "{first} still has no Lightning channel after {} s; the end of its log:\n{}",
                    CHANNEL_TIMEOUT.as_secs(),
                    self.log_tail(first)
                );
            }
            self.driver.mine(1).await?;
            sleep(Duration::from_secs(1)).await;
        }
    }

    /// Everything, in order: chain, validators, sponsors, trainers, channels.
    ///
    /// # Errors
    /// If a part does not start.
    pub async fn start_all(&mut self) -> Result<()> {
        self.start_chain().await?;
        self.start_validators().await?;
        self.start_sponsors().await?;
        self.start_trainers()?;
        self.wait_channels().await
    }
}

/// Milliseconds since the Unix epoch.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}
