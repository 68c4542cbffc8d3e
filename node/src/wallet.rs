//! The Lightning wallet as tasks: LDK's calls block, so they run on threads of their own, and its
//! events are acknowledged only after the engine has persisted what follows from them (P6).

use crate::config::{Chain, Config, Lightning, ServeLiquidity};
use crate::identity::Identity;
use crate::rpc::{ChannelInfo, WalletInfo};
use crate::wallet_socket;
use anyhow::{Context, Result, bail};
use oda_consensus::genesis::BitcoinNetwork;
use oda_consensus::wire::LightningAddress;
use oda_lightning::{ChainSource, LiquidityProvider, LiquidityService, RpcEndpoint, Wallet, WalletConfig};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Longest cookie file read, bytes.
const MAX_COOKIE_BYTES: usize = 1024;

/// Where the wallet of a data directory lies.
pub fn dir(datadir: &Path) -> PathBuf {
    datadir.join("lightning")
}

/// Starts the wallet of a data directory, and answers `oda wallet` on this machine.
///
/// # Errors
/// If there is no `[lightning]` section, or the wallet cannot start; says what to do.
pub async fn start(
    config: &Config,
    datadir: &Path,
    identity: &Identity,
    alias: &str,
) -> Result<(Arc<Wallet>, LightningAddress)> {
    let (wallet, address) = open(config, datadir, identity, alias, false).await?;
    if let Err(error) = wallet_socket::serve(&wallet, &dir(datadir)) {
        tracing::warn!("`oda wallet` cannot ask this node: {error:#}");
    }
    Ok((wallet, address))
}

/// Whether [`start`] could begin: the configuration says all a wallet needs.
///
/// # Errors
/// What is missing.
pub fn check(config: &Config, datadir: &Path, identity: &Identity) -> Result<()> {
    wallet_config(config, datadir, identity, "", false).map(drop)
}

/// Opens the wallet of a data directory. `recover` looks for the coins of restored words.
///
/// # Errors
/// As [`start`].
pub async fn open(
    config: &Config,
    datadir: &Path,
    identity: &Identity,
    alias: &str,
    recover: bool,
) -> Result<(Arc<Wallet>, LightningAddress)> {
    let wallet_config = wallet_config(config, datadir, identity, alias, recover)?;
    let listen = wallet_config.listen;
    let wallet = blocking(move || Wallet::start(wallet_config)).await?.context("starting the Lightning wallet")?;
    let address = LightningAddress { node_id: wallet.node_id(), address: listen.to_string() };
    Ok((Arc::new(wallet), address))
}

fn wallet_config(
    config: &Config,
    datadir: &Path,
    identity: &Identity,
    alias: &str,
    recover: bool,
) -> Result<WalletConfig> {
    let lightning = config
        .lightning
        .as_ref()
        .context("this role needs a Lightning wallet: add a [lightning] section to oda.toml")?;
    if is_real_money(config.network) && !lightning.i_know_this_is_real_money {
        bail!(
            "network = \"bitcoin\" is real money, this software is young, and whoever takes this machine takes the \
             coins: try signet first; to go on, set i_know_this_is_real_money = true in [lightning], or give \
             --i-know-this-is-real-money"
        );
    }
    Ok(WalletConfig {
        data_dir: dir(datadir),
        seed: identity.lightning_seed.clone(),
        network: config.network,
        listen: lightning.listen,
        chain: chain_source(lightning, config.network, datadir)?,
        trusted_peers: lightning.trusted.clone(),
        alias: alias.to_string(),
        liquidity: lightning.liquidity.as_ref().map(|l| LiquidityProvider {
            node_id: l.node_id.clone(),
            address: l.address.clone(),
            token: l.token.clone(),
        }),
        serve_liquidity: lightning.serve_liquidity.as_ref().map(service),
        recover,
    })
}

fn service(terms: &ServeLiquidity) -> LiquidityService {
    let usual = LiquidityService::default();
    LiquidityService {
        token: terms.token.clone(),
        fee_ppm: terms.fee_ppm.unwrap_or(usual.fee_ppm),
        min_fee_msat: terms.min_fee_msat.unwrap_or(usual.min_fee_msat),
        over_provisioning_ppm: terms.over_provisioning_ppm.unwrap_or(usual.over_provisioning_ppm),
        min_payment_msat: terms.min_payment_msat.unwrap_or(usual.min_payment_msat),
        max_payment_msat: terms.max_payment_msat.unwrap_or(usual.max_payment_msat),
        min_lifetime_blocks: usual.min_lifetime_blocks,
    }
}

/// bitcoind's usual RPC port (its `chainparamsbase.cpp`).
fn usual_port(network: BitcoinNetwork) -> u16 {
    match network {
        BitcoinNetwork::Regtest => 18_443,
        BitcoinNetwork::Signet => 38_332,
        BitcoinNetwork::Bitcoin => 8_332,
    }
}

/// Whom the wallet asks about the chain.
fn chain_source(lightning: &Lightning, network: BitcoinNetwork, datadir: &Path) -> Result<ChainSource> {
    if let Some(addr) = lightning.bitcoind {
        let (user, password) = (lightning.rpc_user.clone(), lightning.rpc_password.clone());
        return Ok(ChainSource::Bitcoind(RpcEndpoint { addr, user, password }));
    }
    match &lightning.chain {
        None => ChainSource::public(network).context(
            "nobody tells the wallet what is on the regtest chain: add [lightning.chain] with kind = \"bitcoind\" to \
             oda.toml",
        ),
        Some(Chain::Esplora { url }) => Ok(ChainSource::Esplora { url: url.trim_end_matches('/').into() }),
        Some(Chain::Electrum { url }) => Ok(ChainSource::Electrum { url: url.clone() }),
        Some(Chain::Bitcoind { address, user, password, cookie }) => {
            let addr = address.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], usual_port(network))));
            let (user, password) = match (user, password, cookie) {
                (Some(user), Some(password), None) => (user.clone(), password.clone()),
                (None, None, Some(cookie)) => read_cookie(&datadir.join(cookie))?,
                _ => bail!("[lightning.chain] needs user and password of bitcoind, or its cookie file, not both"),
            };
            Ok(ChainSource::Bitcoind(RpcEndpoint { addr, user, password }))
        }
    }
}

fn read_cookie(path: &Path) -> Result<(String, String)> {
    let text = std::fs::read_to_string(path).with_context(|| {
        format!("cannot read the cookie {}: is bitcoind running, and may this user read it?", path.display())
    })?;
    let cookie = text.trim().split_once(':').filter(|_| text.len() <= MAX_COOKIE_BYTES);
    let (user, password) = cookie.with_context(|| format!("{} is not a bitcoind cookie", path.display()))?;
    Ok((user.into(), password.into()))
}

/// Runs a blocking wallet call on a thread of its own.
///
/// # Errors
/// If the thread died.
pub async fn blocking<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(f).await.context("a wallet thread died")
}

/// What `oda wallet` shows.
pub fn info(wallet: &Wallet, address: &str) -> WalletInfo {
    let channels = wallet.channels();
    WalletInfo {
        node_id: wallet.node_id(),
        address: address.to_string(),
        onchain_sat: wallet.onchain_balance_sat(),
        lightning_msat: wallet.lightning_balance_msat(),
        channels: channels
            .into_iter()
            .map(|c| ChannelInfo { counterparty: c.counterparty, capacity_sat: c.capacity_sat, usable: c.usable })
            .collect(),
    }
}

/// Whether a Bitcoin network carries real money.
pub fn is_real_money(network: BitcoinNetwork) -> bool {
    network == BitcoinNetwork::Bitcoin
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MoneyFlags;

    fn config(network: &str, lightning: &str) -> Result<Config> {
        let dir = tempfile::tempdir()?;
        let text = format!(
            "network = \"{network}\"\n[p2p]\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\n[lightning]\nlisten = \
             \"127.0.0.1:9735\"\n{lightning}"
        );
        std::fs::write(dir.path().join(crate::config::FILE), text)?;
        Config::load(dir.path())
    }

    fn chain(network: &str, lightning: &str) -> Result<ChainSource> {
        let config = config(network, lightning)?;
        chain_source(config.lightning.as_ref().unwrap(), config.network, Path::new("/nowhere"))
    }

    #[test]
    fn each_chain_source_has_sane_defaults() {
        let of = |text: &str| chain("signet", &format!("[lightning.chain]\n{text}"));
        let ChainSource::Esplora { url } = chain("signet", "").unwrap() else { panic!() };
        assert!(url.starts_with("https://") && url.contains("signet"), "{url}");
        assert!(matches!(chain("bitcoin", "").unwrap(), ChainSource::Esplora { .. }));
        assert!(chain("regtest", "").unwrap_err().to_string().contains("[lightning.chain]"));
        let ChainSource::Bitcoind(e) = of("kind = \"bitcoind\"\nuser = \"u\"\npassword = \"p\"").unwrap() else {
            panic!()
        };
        assert_eq!((e.addr.to_string(), e.user), ("127.0.0.1:38332".into(), "u".into()));
        let ChainSource::Bitcoind(e) = chain("regtest", "bitcoind = \"127.0.0.1:1\"\nrpc_user = \"u\"").unwrap() else {
            panic!()
        };
        assert_eq!(e.addr.port(), 1);
        let ChainSource::Esplora { url } = of("kind = \"esplora\"\nurl = \"http://127.0.0.1:3002/\"").unwrap() else {
            panic!()
        };
        assert_eq!(url, "http://127.0.0.1:3002");
        assert!(matches!(
            of("kind = \"electrum\"\nurl = \"tcp://127.0.0.1:1\"").unwrap(),
            ChainSource::Electrum { .. }
        ));
        for bad in [
            "kind = \"bitcoind\"",
            "kind = \"bitcoind\"\nuser = \"u\"",
            "kind = \"bitcoind\"\ncookie = \".cookie\"",
            "kind = \"bitcoind\"\nuser = \"u\"\npassword = \"p\"\ncookie = \".cookie\"",
            "kind = \"btcd\"",
            "kind = \"esplora\"",
            "kind = \"esplora\"\nurl = \"http://127.0.0.1\"\nuser = \"u\"",
        ] {
            assert!(of(bad).is_err(), "{bad}");
        }
        let twice = "bitcoind = \"127.0.0.1:1\"\n[lightning.chain]\nkind = \"esplora\"\nurl = \"http://127.0.0.1\"";
        assert!(format!("{:#}", chain("signet", twice).unwrap_err()).contains("twice"));
    }

    #[test]
    fn a_cookie_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".cookie");
        std::fs::write(&path, "__cookie__:00ff\n").unwrap();
        assert_eq!(read_cookie(&path).unwrap(), ("__cookie__".into(), "00ff".into()));
        std::fs::write(&path, "nothing").unwrap();
        assert!(read_cookie(&path).is_err());
    }

    #[test]
    fn real_money_must_be_confirmed() {
        let words = "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about";
        let identity = Identity::from_mnemonic(words).unwrap();
        let ready = |c: &Config| wallet_config(c, Path::new("/nowhere"), &identity, "", false);
        let real = config("bitcoin", "").unwrap();
        let error = format!("{:#}", ready(&real).err().unwrap());
        assert!(error.contains("real money") && error.contains("--i-know-this-is-real-money"), "{error}");
        assert!(ready(&real.clone().with(MoneyFlags::default()).unwrap()).is_err());
        assert!(ready(&real.with(MoneyFlags { is_real: true, network: None }).unwrap()).is_ok());
        assert!(ready(&config("bitcoin", "i_know_this_is_real_money = true\n").unwrap()).is_ok());
        // --network says which is meant; it cannot turn one network's directory into another's
        let meant = |network| MoneyFlags { is_real: true, network: Some(network) };
        let real = config("bitcoin", "").unwrap();
        assert!(real.clone().with(meant(BitcoinNetwork::Bitcoin)).is_ok());
        let error = real.with(meant(BitcoinNetwork::Signet)).unwrap_err().to_string();
        assert!(error.contains("Bitcoin") && error.contains("Signet"), "{error}");
        assert!(ready(&config("signet", "").unwrap()).is_ok());
    }
}
