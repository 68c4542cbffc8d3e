//! `testnet demo`: the whole loop on this machine, with the books at the end.

mod books;
pub mod federation;
mod follow;
pub mod phases;
pub mod summary;
pub mod view;

pub use books::Accountant;
pub use follow::Follower;

use federation::Watcher;

use crate::attack::Attack;
use crate::chain::ChainKind;
use crate::config::Role;
use crate::genesis;
use crate::network::{Network, Programs};
use crate::ui::{Mode, Screen};
use anyhow::{Context, Result, bail};
use clap::Args;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// Pause between two looks at the network.
const LOOK: Duration = Duration::from_millis(400);
/// Time between two Bitcoin blocks. Hold windows are hundreds of blocks: slow enough not to run
/// into them, fast enough that what is on chain confirms.
const BITCOIN_BLOCK: Duration = Duration::from_secs(5);
/// Further rounds for which a lying validator is waited for until it is drawn and convicted.
const LIAR_ROUNDS: usize = 12;
/// How long a round may take before the demo gives up.
const ROUND_TIMEOUT: Duration = Duration::from_secs(300);
/// How long the network may be unreachable.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the books may take to balance after the last payment: receipts are on their way.
const BOOKS_TIMEOUT: Duration = Duration::from_secs(60);

/// Command line of the demo.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Rounds to run.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Leave the network running afterwards, until Ctrl-C. Its own trainers stop, so that whoever joins finds work left.
    #[arg(long)]
    pub keep: bool,
    /// Bitcoin chain [default: embedded, or bitcoind if BITCOIND_EXE is set].
    #[arg(long, value_enum)]
    pub chain: Option<ChainKind>,
    /// One JSON object a line instead of a table.
    #[arg(long)]
    pub json: bool,
    /// Where to keep the network; one that is there is resumed [default: a fresh temporary directory].
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// The `oda` program [default: the one beside this program].
    #[arg(long)]
    pub oda: Option<PathBuf>,
    /// Kill a member of the committee in charge after the first round.
    #[arg(long)]
    pub kill: bool,
    /// The network, if it has to be made.
    #[command(flatten)]
    pub network: genesis::Options,
    /// The attack this network is about.
    #[arg(skip)]
    pub attack: Option<Attack>,
}

/// How the demo ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Everything adds up.
    Good,
    /// Something does not.
    Bad,
    /// Stopped by the user.
    Interrupted,
}

/// Runs the demo until it is done or `stop` changes. No process is left behind either way.
///
/// # Errors
/// If the network does not start or gets stuck; says why and where the logs are.
pub async fn run(options: &Options, testnet: &Path, mut stop: watch::Receiver<bool>) -> Result<End> {
    let mut screen = Screen::new(Mode::choose(options.json));
    let temporary = std::env::temp_dir().join(format!("oda-demo-{}", std::process::id()));
    let dir = options.dir.clone().unwrap_or_else(|| temporary.clone());
    let mut programs = Programs::beside(testnet);
    if let Some(oda) = &options.oda {
        programs.oda.clone_from(oda);
    }
    let mut network = Network::open(&dir, programs, ChainKind::choose(options.chain), &options.network).await?;
    let mut end = None;
    let result = tokio::select! {
        result = go(options, &mut network, &mut screen, &mut end) => result,
        () = stopped(&mut stop) => Ok(()),
    };
    let result = result.map(|()| end.unwrap_or(End::Interrupted));
    screen.clear();
    screen.say("stopping all nodes");
    let problems = network.stop_all().await;
    if result.is_ok() {
        problems.iter().for_each(|problem| screen.print(problem));
    }
    let end = match result {
        Ok(End::Good) if !problems.is_empty() => End::Bad,
        Ok(end) => end,
        Err(error) => {
            return Err(error.context(format!("the demo failed; every node's log is in {}", network.dir().display())));
        }
    };
    match (end, &options.dir) {
        (End::Good | End::Interrupted, None) => {
            let _ = std::fs::remove_dir_all(&temporary);
        }
        _ => screen
            .say(&format!("the network stays in {}; go on with `testnet demo --dir {0}`", network.dir().display())),
    }
    Ok(end)
}

/// Ends when the user wants to stop.
pub async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// All of it, until there is nothing left to do; how it ended is in `end` as soon as it is known.
async fn go(options: &Options, network: &mut Network, screen: &mut Screen, end: &mut Option<End>) -> Result<()> {
    start(options, network, screen).await?;
    let mut follower = Follower::new(network)?;
    let model = wait_model(network, &mut follower).await?;
    // of a round that was under way before, this run did not hear everything
    let first = model.round.as_ref().map_or(1, |r| if r.number == 1 { 1 } else { r.number + 1 });
    follower.skip_to(first);
    let manifest = &model.manifest;
    screen.say(&format!(
        "model {}: {}, {} parameters, shard of {} samples",
        model.id.short(),
        manifest.name,
        manifest.parameters(),
        manifest.judging.shard_samples
    ));
    let mut accountant = Accountant::new(network, first)?;
    let mut federation = Watcher::new(network, options.kill);

    let mut mined = Instant::now();
    let mut progress = Instant::now();
    let mut heard = Instant::now();
    let lies = options.attack.is_some_and(|a| a.validator);
    loop {
        // a liar can be convicted only once it is drawn
        let caught = !lies || federation.any_evicted() || follower.over().len() >= options.rounds + LIAR_ROUNDS;
        if follower.over().len() >= options.rounds && caught {
            break;
        }
        tick(network, &mut mined).await?;
        match follower.look(network).await {
            Ok(view) => {
                heard = Instant::now();
                if !view.ended.is_empty() {
                    progress = Instant::now();
                }
                screen.show(&view);
                if let Ok(rpc) = follower.rpc().await {
                    let news = federation.look(network, &rpc, follower.over().len()).await?;
                    news.iter().for_each(|line| screen.say(line));
                }
            }
            Err(error) if heard.elapsed() > SILENCE_TIMEOUT => {
                return Err(error.context("the network has fallen silent"));
            }
            Err(_) => {}
        }
        if progress.elapsed() > ROUND_TIMEOUT {
            let who = network.names(Role::Validator).first().cloned().unwrap_or_default();
            bail!(
                "no round has ended for {} s; the end of {who}'s log:\n{}",
                ROUND_TIMEOUT.as_secs(),
                network.log_tail(&who)
            );
        }
        sleep(LOOK).await;
    }

    let deadline = Instant::now() + BOOKS_TIMEOUT;
    let summary = loop {
        tick(network, &mut mined).await?;
        match accountant.summary(network, &mut follower).await {
            Ok(summary) if summary.is_good() || Instant::now() > deadline => break summary,
            Err(error) if Instant::now() > deadline => return Err(error.context("drawing up the books")),
            _ => sleep(LOOK).await,
        }
        let _ = follower.look(network).await; // what the wallets say may still be under way
    };
    let mut summary = summary::Summary { federation: federation.sum(), ..summary };
    if lies && summary.federation.evicted.is_empty() {
        summary.problems.push("the lying validator was not evicted".into());
    }
    screen.summary(&summary);
    if let Some(attack) = options.attack {
        screen.print(&verdict(attack, &summary));
    }
    *end = Some(if summary.is_good() { End::Good } else { End::Bad });
    if options.keep {
        // they would take a small model to where nothing is left to prove while somebody reads the table
        for problem in network.stop_trainers().await {
            screen.print(&problem);
        }
        screen.print(&how_to_ask(network, &follower)?);
        loop {
            tick(network, &mut mined).await?;
            sleep(LOOK).await;
        }
    }
    Ok(())
}

/// What an attack got, in a sentence.
fn verdict(attack: Attack, summary: &summary::Summary) -> String {
    let Attack { name, does, stopped_by, .. } = attack;
    let got = if attack.validator {
        let evicted: Vec<String> =
            summary.federation.evicted.iter().map(|(who, why)| format!("{who}: {why}")).collect();
        if evicted.is_empty() { "nobody was evicted".into() } else { format!("evicted: {}", evicted.join(", ")) }
    } else {
        let cheats = || summary.trainers.iter().filter(|t| t.cheat);
        let (claims, added): (u64, u64) = (cheats().map(|t| t.claims).sum(), cheats().map(|t| t.added_claims).sum());
        format!(
            "{claims} claims judged, {added} added to the model, paid {} msat",
            cheats().map(|t| t.income_msat).sum::<u64>()
        )
    };
    format!("attack {name} ({does}): {got}. {stopped_by}")
}

async fn start(options: &Options, network: &mut Network, screen: &Screen) -> Result<()> {
    let count = |role| network.names(role).len();
    let cheats = |role| network.file().of(role).filter(|n| n.cheat).count();
    let chain = match ChainKind::choose(options.chain) {
        ChainKind::Embedded => "embedded regtest chain",
        ChainKind::Bitcoind => "bitcoind in regtest mode",
    };
    let genesis = network.genesis()?;
    let (validators, committee) = (count(Role::Validator), usize::from(genesis.federation.committee));
    screen.say(&format!("network in {}", network.dir().display()));
    let sign = oda_consensus::frost::threshold(committee);
    let rotation = match genesis.federation.epoch_blocks {
        0 => String::new(),
        blocks => format!(", another committee every {blocks} blocks"),
    };
    let liars = match cheats(Role::Validator) {
        0 => String::new(),
        n => format!(" of which {n} lies"),
    };
    screen.say(&format!("{validators} validators{liars}: committees of {committee}, {sign} sign{rotation}"));
    screen.say(&format!(
        "{} sponsor, {} trainers of which {} cheats, {chain}",
        count(Role::Sponsor),
        count(Role::Trainer),
        cheats(Role::Trainer),
    ));
    screen.say("starting the Bitcoin chain");
    network.start_chain().await?;
    screen.say("starting the validators");
    network.start_validators().await?;
    screen.say("starting the sponsor and mining coins for its channels");
    network.start_sponsors().await?;
    screen.say("starting the trainers and waiting for their Lightning channels");
    network.start_trainers()?;
    network.wait_channels().await
}

async fn wait_model(network: &mut Network, follower: &mut Follower) -> Result<crate::rpc::Model> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        network.check()?;
        if let Ok(Some(model)) = follower.model().await {
            return Ok(model);
        }
        if Instant::now() > deadline {
            let who = network
                .names(Role::Sponsor)
                .first()
                .cloned()
                .context("the network has no sponsor, so nothing is funded")?;
            bail!("no model was funded within 60 s; the end of {who}'s log:\n{}", network.log_tail(&who));
        }
        sleep(LOOK).await;
    }
}

/// Sees that all processes live, and that the Bitcoin chain goes on.
async fn tick(network: &mut Network, mined: &mut Instant) -> Result<()> {
    network.check()?;
    if mined.elapsed() >= BITCOIN_BLOCK {
        *mined = Instant::now();
        network.driver().mine(1).await?;
    }
    Ok(())
}

/// Commands for a network that is left running.
fn how_to_ask(network: &Network, follower: &Follower) -> Result<String> {
    let first = network.file().of(Role::Validator).next().context("no validator")?;
    let url = format!("http://{}", first.rpc.context("no RPC address")?);
    let claims = follower.over().values().rev().flat_map(|r| &r.claims);
    let claim = claims
        .clone()
        .find(|c| c.accepted == Some(true))
        .or(claims.clone().next())
        .map_or("CLAIM".into(), |c| c.claim.to_string());
    let oda = network.oda().display();
    let genesis = network.dir().join(genesis::GENESIS_FILE);
    Ok(format!(
        "\nThe network runs on until Ctrl-C. Ask it:\n\n  {oda} ledger tail --rpc {url}\n  {oda} ledger credit --rpc {url}\n  {oda} ledger verify --rpc {url}\n  {oda} model list --rpc {url}\n  {oda} claim show {claim} --rpc {url}\n  {oda} verify {claim} --genesis {} --peer {}\n\nJoin it, and be paid (its own trainers have stopped: what the model still has to learn is left to you):\n\n  {oda} lite --join {} --datadir \"$(mktemp -d)\"\n",
        genesis.display(),
        first.p2p,
        network.dir().join(crate::config::JOIN_FILE).display(),
    ))
}
