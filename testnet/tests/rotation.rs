//! The federation over real processes (C1, C2, C6): seven validators, committees of four that change every
//! few blocks, one validator that lies and one that is killed; nodes that were away for epochs, or
//! have an empty disk; and the chain of keys, from a peer and from a file.

mod common;

use anyhow::{Context, Result, ensure};
use common::{Story, options, tell};
use oda_testnet::config::{NODE_FILE, Role};
use oda_testnet::demo::view::Money;
use oda_testnet::genesis::Options;
use oda_testnet::rpc::{Federation, ValidatorStatus};
use std::time::Duration;
use tokio::time::Instant;

fn federation_options() -> Options {
    Options { validators: 7, committee: 4, epoch_blocks: 30, liars: 1, decoy_percent: 50, ..options("rotation-test") }
}

impl Story {
    async fn federation(&mut self) -> Result<Federation> {
        self.follower.rpc().await?.federation().await
    }

    // D2: some validators have shown what they keep. Whom a draw asks, and how busy the machine is meanwhile, is
    // chance.
    async fn storage_is_shown(&mut self) -> Result<()> {
        let mut f = self.federation().await?;
        for _ in 0..6 {
            let kept: u64 = f.validators.iter().filter_map(|v| v.storage).map(|s| s.kept).sum();
            if kept > 0 {
                return Ok(());
            }
            f = self.epoch(f.epoch + 1).await?;
        }
        anyhow::bail!("nobody answered a storage challenge: {:#?}", f.validators)
    }

    /// Waits until that epoch is in charge.
    async fn epoch(&mut self, epoch: u64) -> Result<Federation> {
        let deadline = Instant::now() + Duration::from_secs(90);
        loop {
            let f = self.federation().await;
            if let Ok(f) = &f
                && f.epoch >= epoch
            {
                return Ok(f.clone());
            }
            ensure!(Instant::now() < deadline, "epoch {epoch} did not come: {f:#?}\n{}", self.logs());
            let _ = self.follower.look(&self.network).await;
            self.pass().await?;
        }
    }

    /// Honest claims that were paid; every one with a gain in an adopted round must be.
    fn honest_paid(&self) -> Result<usize> {
        let honest: Vec<_> = self.network.file().of(Role::Trainer).filter(|n| !n.cheat).map(|n| n.node).collect();
        let mut paid = 0;
        for round in self.follower.over().values().filter(|r| r.result.is_some_and(|r| r.adopted)) {
            for c in round.claims.iter().filter(|c| honest.contains(&c.node) && c.gain_unat.is_some()) {
                ensure!(c.money == Money::Paid, "an honest claim was not paid: {c:?}");
                paid += 1;
            }
        }
        Ok(paid)
    }

    /// C2: the keys from genesis to now, from a peer and offline; nothing forged or missing passes.
    fn verify_chain(&self, epoch: u64) -> Result<()> {
        let genesis = self.network.dir().join("genesis.json").display().to_string();
        let peer = self.network.file().node("validator-0")?.p2p.clone();
        let file = self.network.dir().join("chain.bin");
        let path = file.display().to_string();
        let (ok, said) = self.oda(&["verify-chain", "--genesis", &genesis, "--peer", &peer, "--out", &path])?;
        ensure!(ok && said.contains("chain holds"), "{said}");
        let offline = ["verify-chain", "--genesis", &genesis, "--file", &path, "--json"];
        let (ok, said) = self.oda(&offline)?;
        let told: serde_json::Value = serde_json::from_str(&said).with_context(|| said.clone())?;
        ensure!(ok && told["epoch"].as_u64().is_some_and(|e| e >= epoch), "{said}");
        ensure!(told["checkpoint"].is_object(), "no attested block: {said}");
        let good = std::fs::read(&file)?;
        let first = 4 + u32::from_le_bytes(good[..4].try_into()?) as usize;
        let mut forged = good.clone();
        forged[first / 2] ^= 1;
        for (what, bytes) in [
            ("forged", forged),
            ("missing its first link", good[first..].to_vec()),
            ("cut", good[..good.len() - 3].to_vec()),
            ("doubled", [&good[..first], &good].concat()),
        ] {
            std::fs::write(&file, bytes)?;
            let (ok, said) = self.oda(&offline)?;
            ensure!(!ok, "a chain file that is {what} was believed: {said}");
        }
        Ok(())
    }
}

impl Story {
    /// D3: the ledger of a stopped node as a file, verified by anyone, imported where it is missing; then dropped, so
    /// that the node has to fetch it from its peers.
    fn carry(&self, name: &str) -> Result<()> {
        let genesis = self.network.dir().join("genesis.json").display().to_string();
        let (dir, path) = (self.network.datadir(name), self.network.dir().join("carried.ledger"));
        let (datadir, file) = (dir.display().to_string(), path.display().to_string());
        let told = |args: &[&str]| -> Result<String> {
            let (ok, said) = self.oda(args)?;
            ensure!(ok, "oda {}: {said}", args.join(" "));
            Ok(said)
        };
        let refused = |args: &[&str], why: &str| -> Result<()> {
            let (ok, said) = self.oda(args)?;
            ensure!(!ok && said.contains(why), "oda {} was to be refused, {why}: {said}", args.join(" "));
            Ok(())
        };
        told(&["ledger", "export", "--datadir", &datadir, &file])?;
        refused(&["ledger", "export", "--datadir", &datadir, &file], "a name that is free")?;
        let offline = ["--json", "ledger", "verify", "--file", &file, "--genesis", &genesis];
        let whole = told(&offline)?;
        ensure!(whole == told(&["--json", "ledger", "verify", "--datadir", &datadir])?, "{whole}");

        let import = ["ledger", "import", "--datadir", &datadir, &file];
        let good = std::fs::read(&path)?;
        std::fs::remove_dir_all(dir.join("ledger"))?;
        let mut bad = good.clone();
        bad[good.len() / 2] ^= 1;
        std::fs::write(&path, bad)?;
        ensure!(!self.oda(&offline)?.0 && !self.oda(&import)?.0, "a damaged file was believed");
        std::fs::write(&path, &good[..good.len() - 9])?;
        refused(&offline, "cut off")?;
        std::fs::write(&path, &good)?;
        let half = told(&import)?; // what came before the damage is there already
        ensure!(half.contains("blocks added") && !half.starts_with("0 "), "{half}");
        ensure!(told(&import)?.starts_with("0 blocks"), "it was added twice");
        ensure!(whole == told(&["--json", "ledger", "verify", "--datadir", &datadir])?, "{whole}");
        told(&["ledger", "repair", "--datadir", &datadir])?;
        Ok(())
    }

    /// L4, D3: a node with an empty disk begins with its peers' snapshot instead of block 1, follows on, and shows what
    /// was written before it.
    async fn begin_with_snapshot(&mut self, name: &str) -> Result<()> {
        let dir = self.network.datadir(name);
        let (log, config) = (dir.join("log"), dir.join(NODE_FILE));
        std::fs::remove_dir_all(dir.join("ledger"))?;
        let told = std::fs::read_to_string(&config)?;
        ensure!(!told.contains("[ledger]"), "the test adds this table: {told}");
        std::fs::write(&config, format!("{told}\n[ledger]\nsnapshot_sync = true\n"))?;
        let before = std::fs::metadata(&log)?.len();
        self.network.start(name)?;
        self.network.wait_ready(name).await?;
        let height = self.tip("validator-0").await?.0;
        self.height(name, height + 1).await.context("a node that begins with a snapshot")?;
        self.same_ledger(name, "validator-0").await?;
        let bytes = std::fs::read(&log)?;
        let said = String::from_utf8_lossy(bytes.get(usize::try_from(before)?..).context("a shorter log")?);
        ensure!(said.contains("the ledger begins with a snapshot"), "it replayed: {}", self.network.log_tail(name));
        // it cannot have asked for block 1, for a node keeps every block it was given
        let rpc = self.network.rpc(name)?;
        let first = rpc.block(1).await.err().context("it has block 1")?.to_string();
        ensure!(first.contains("whole blocks begin at"), "{first}");

        // a block above the snapshot has to be attested before either can be shown
        let genesis = self.network.dir().join("genesis.json").display().to_string();
        let address = format!("http://{}", self.network.file().node(name)?.rpc.context("no RPC")?);
        let model = self.follower.model_id().await?.to_string();
        let out = self.network.dir().join("begun.proof").display().to_string();
        let what = ["proof", "get", "outcome", &model, "1", "--genesis", &genesis, "--rpc", &address, "--out", &out];
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let (shown, said) = self.oda(&what)?;
            let checked = rpc.verify_ledger().await;
            if shown && checked.is_ok() {
                break;
            }
            ensure!(Instant::now() < deadline, "no proof or no check: {said}\n{checked:?}");
            self.pass().await?;
        }
        let (ok, said) = self.oda(&["--json", "proof", "check", &out, "--genesis", &genesis])?;
        let told: serde_json::Value = serde_json::from_str(&said).with_context(|| said.clone())?;
        ensure!(ok && told["kind"] == "outcome" && told["record"]["outcome"]["round"] == 1, "{said}");
        ensure!(told["record"]["height"].as_u64() < told["checkpoint"]["height"].as_u64(), "{said}");

        // what it wrote by itself is whole: checked from the disk, from a block far above the first
        self.network.stop(name).await?;
        let (ok, said) = self.oda(&["--json", "ledger", "verify", "--datadir", &dir.display().to_string()])?;
        let told: serde_json::Value = serde_json::from_str(&said).with_context(|| said.clone())?;
        ensure!(ok && told["blocks_from"].as_u64().is_some_and(|from| from > 1), "{said}");
        Ok(())
    }

    /// L4: records of the ledger, shown offline from the genesis file alone; a changed file shows nothing.
    async fn prove(&mut self) -> Result<()> {
        let genesis = self.network.dir().join("genesis.json").display().to_string();
        let rpc = format!("http://{}", self.network.file().node("validator-0")?.rpc.context("no RPC")?);
        let model = self.follower.model_id().await?.to_string();
        let file = |name: &str| self.network.dir().join(name).display().to_string();
        let (old, new) = (file("old.proof"), file("new.proof"));
        let get = |story: &Self, what: &[&str], out: &str, more: &[&str]| {
            story.oda(&[&["proof", "get"], what, &["--genesis", &genesis, "--rpc", &rpc, "--out", out], more].concat())
        };
        let check = |story: &Self, more: &[&str]| {
            story.oda(&[&["--json", "proof", "check", &new, "--genesis", &genesis], more].concat())
        };
        let (ok, said) = get(self, &["block", "1"], &old, &[])?;
        ensure!(ok && said.contains("attested by"), "{said}");
        let height = self.tip("validator-0").await?.0;
        self.height("validator-0", height + 60).await.context("no later attested block")?;
        let (ok, said) = get(self, &["outcome", &model, "1"], &new, &["--after", &old])?;
        ensure!(ok && said.contains("was rewritten since"), "{said}");
        let (ok, said) = check(self, &["--after", &old])?;
        let told: serde_json::Value = serde_json::from_str(&said).with_context(|| said.clone())?;
        let on_ledger = self.network.rpc("validator-0")?.outcomes(model.parse()?, 1).await?;
        ensure!(ok && told["kind"] == "outcome" && told["record"]["outcome"]["round"] == 1, "{said}");
        ensure!(told["record"]["height"].as_u64() == on_ledger.first().map(|o| o.height), "{said}");
        ensure!(told["extends_height"].as_u64() < told["checkpoint"]["height"].as_u64(), "{said}");

        let good = std::fs::read(&new)?;
        for at in (0..good.len()).step_by(good.len() / 40) {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&new, bad)?;
            let (ok, said) = check(self, &["--after", &old])?;
            ensure!(!ok, "a proof with byte {at} changed was believed: {said}");
        }
        std::fs::write(&new, &good)?;
        let (ok, said) = get(self, &["claim", &"00".repeat(32)], &new, &[])?;
        ensure!(!ok && said.contains("no such record"), "{said}");
        Ok(())
    }
}

async fn play(story: &mut Story) -> Result<()> {
    let liars: Vec<_> = story.network.file().of(Role::Validator).filter(|n| n.cheat).map(|n| n.node).collect();
    story.network.start("observer-0")?;
    story.network.wait_ready("observer-0").await?;
    story.rounds_over(1).await?;
    let away_since = story.tip("observer-0").await?.0;
    story.network.stop("observer-0").await?;

    // kill a member of the committee in charge, while the liar does not sit in it
    let mut f = story.federation().await?;
    while f.members.iter().any(|m| liars.contains(m)) {
        f = story.epoch(f.epoch + 1).await?;
    }
    let victim = f
        .members
        .iter()
        .find_map(|m| story.network.file().nodes.iter().find(|n| n.node == *m && n.name != "validator-0").cloned());
    let victim = victim.context("nobody to kill")?;
    story.network.kill9(&victim.name).await?;

    let now = f.epoch;
    let f = story.epoch(now + 3).await.context("rotation with one killed and one lying")?;
    ensure!(!f.members.contains(&victim.node), "a dead validator cannot have a key of epoch {}", f.epoch);
    let over = story.follower.over().len();
    story.rounds_over(over + 1).await?;
    let f = story.federation().await?;
    for v in &f.validators {
        match &v.status {
            ValidatorStatus::Evicted(_) => ensure!(liars.contains(&v.node), "an honest validator was evicted: {v:?}"),
            _ => ensure!(v.record.false_scores == 0, "{v:?}"),
        }
    }
    story.balanced().await?;
    // every honest claim that was revealed is paid; a busy machine may keep some from being revealed in time
    while story.honest_paid()? < 4 {
        let over = story.follower.over().len();
        ensure!(over < 8, "only {} honest claims were paid in {over} rounds", story.honest_paid()?);
        story.rounds_over(over + 1).await?;
    }
    story.verify_chain(f.epoch)?;
    story.storage_is_shown().await?;
    story.prove().await?;

    // away for epochs, and with nothing at all, a node catches up from any honest peer
    story.network.start("observer-0")?;
    story.network.wait_ready("observer-0").await?;
    let height = story.tip("validator-0").await?.0;
    ensure!(height > away_since + 60, "it was away for less than two epochs");
    story.height("observer-0", height).await.context("a node that was away for epochs")?;
    story.same_ledger("observer-0", "validator-0").await?;
    story.network.stop("observer-0").await?;
    story.carry("observer-0")?;
    story.network.start("observer-0")?;
    story.network.wait_ready("observer-0").await?;
    story.height("observer-0", height).await.context("a node with an empty disk")?;
    story.same_ledger("observer-0", "validator-0").await?;
    story.network.rpc("observer-0")?.verify_ledger().await?;
    story.network.stop("observer-0").await?;
    story.begin_with_snapshot("observer-0").await?;

    // the killed validator comes back, catches up, and may be drawn again
    story.network.start(&victim.name)?;
    story.network.wait_ready(&victim.name).await?;
    let height = story.tip("validator-0").await?.0;
    story.height(&victim.name, height).await.context("the killed validator")?;
    Ok(())
}

#[test] // C1, C2, C4, C6, L1, R4
fn a_federation_rotates_with_one_killed_and_one_lying() {
    tell(federation_options(), async |story: &mut Story| play(story).await);
}
