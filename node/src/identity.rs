//! A node's secrets on disk (K1): one mnemonic, from which ledger identity, transports, share
//! decryption and Lightning derive. What a committee seat needs beside it lies in `seeds`.

use anyhow::{Context, Result, bail};
use oda_consensus::frost::EncryptionSecret;
use oda_consensus::keys::NodeKey;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroizing;

/// All secrets of a node.
pub struct Identity {
    /// Ledger, libp2p and iroh key.
    pub key: Arc<NodeKey>,
    /// Decrypts preimage shares and key shares dealt to this node (P1, C2).
    pub encryption: Arc<EncryptionSecret>,
    /// Seed of the Lightning wallet.
    pub lightning_seed: Zeroizing<[u8; 64]>,
}

/// Where a node's secrets lie.
pub fn keys_dir(datadir: &Path) -> PathBuf {
    datadir.join("keys")
}

impl Identity {
    /// Derives everything from a mnemonic.
    ///
    /// # Errors
    /// If the words are not a BIP 39 mnemonic.
    pub fn from_mnemonic(words: &str) -> Result<Self> {
        let mnemonic = bip39::Mnemonic::parse_normalized(words.trim()).context("not a BIP 39 mnemonic")?;
        let seed = Zeroizing::new(mnemonic.to_seed_normalized(""));
        let key = NodeKey::from_seed(seed.as_slice());
        let encryption = Arc::new(EncryptionSecret::derive(&key.secret()));
        let mut lightning_seed = Zeroizing::new([0; 64]);
        lightning_seed[..32]
            .copy_from_slice(&blake3::derive_key("oda 2026 lightning seed, first half", seed.as_slice()));
        lightning_seed[32..]
            .copy_from_slice(&blake3::derive_key("oda 2026 lightning seed, second half", seed.as_slice()));
        Ok(Self { key: Arc::new(key), encryption, lightning_seed })
    }

    /// From which the keys of a sponsor's sealed guards derive (S3).
    pub fn sealing_secret(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(blake3::derive_key("oda 2026 sealed guards of a sponsor", &*self.key.secret()))
    }

    /// From which the keys of a sponsor's fee tokens derive (P8): the same after a restart, or paid tokens are void.
    pub fn token_secret(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(blake3::derive_key("oda 2026 L402 tokens of a sponsor", &*self.key.secret()))
    }

    /// Reads the secrets of a data directory.
    ///
    /// # Errors
    /// If the mnemonic is missing or a key file is damaged; never signs with a damaged key.
    pub fn load(datadir: &Path) -> Result<Self> {
        let dir = keys_dir(datadir);
        let path = dir.join("mnemonic");
        let words = Zeroizing::new(
            std::fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}: restore it from your written-down words", path.display()))?,
        );
        Self::from_mnemonic(&words).with_context(|| path.display().to_string())
    }

    /// The words of a data directory, to be shown to its owner.
    ///
    /// # Errors
    /// If they are missing or damaged.
    pub fn words(datadir: &Path) -> Result<Zeroizing<String>> {
        let path = keys_dir(datadir).join("mnemonic");
        let words = Zeroizing::new(std::fs::read_to_string(&path).with_context(|| path.display().to_string())?);
        Self::from_mnemonic(&words).with_context(|| path.display().to_string())?;
        Ok(Zeroizing::new(words.trim().to_string()))
    }

    /// Puts written-down words into a data directory that has none; the same words once more are fine.
    ///
    /// # Errors
    /// If they are no mnemonic, or the directory belongs to another.
    pub fn restore(datadir: &Path, words: &str) -> Result<Self> {
        let words = Zeroizing::new(words.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase());
        let identity = Self::from_mnemonic(&words)?;
        let path = keys_dir(datadir).join("mnemonic");
        if path.exists() {
            if Self::load(datadir)?.key.id() != identity.key.id() {
                bail!("{} holds another wallet: refusing to replace it", path.display());
            }
            return Ok(identity);
        }
        write_secret(&path, words.as_bytes())?;
        Ok(identity)
    }

    /// Creates a new mnemonic in an empty data directory and returns it, to be shown once.
    ///
    /// # Errors
    /// If there is one already, or it cannot be written.
    pub fn create(datadir: &Path) -> Result<Zeroizing<String>> {
        let dir = keys_dir(datadir);
        let path = dir.join("mnemonic");
        if path.exists() {
            bail!("{} exists already: refusing to replace a wallet", path.display());
        }
        let mnemonic = bip39::Mnemonic::generate(12).context("no randomness")?;
        let words = Zeroizing::new(mnemonic.to_string());
        write_secret(&path, words.as_bytes())?;
        Ok(words)
    }
}

/// Writes a file only its owner can read, creating its directory.
///
/// # Errors
/// If it cannot be written.
pub fn write_secret(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    }
    let line = Zeroizing::new([bytes, b"\n"].concat());
    crate::file::replace_private(path, &line).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test] // K1
    fn one_mnemonic_restores_everything() {
        let dir = tempfile::tempdir().unwrap();
        let words = Identity::create(dir.path()).unwrap();
        assert!(Identity::create(dir.path()).is_err(), "never replaces a wallet");
        let (a, b) = (Identity::load(dir.path()).unwrap(), Identity::from_mnemonic(&words).unwrap());
        assert_eq!(a.key.id(), b.key.id());
        assert_eq!(*a.lightning_seed, *b.lightning_seed);
        assert_ne!(a.lightning_seed[..32], a.key.secret()[..]);
        // typed from paper: extra spaces, capitals
        let (elsewhere, typed) =
            (tempfile::tempdir().unwrap(), format!("  {}\n", words.to_uppercase().replace(' ', "  ")));
        assert_eq!(Identity::restore(elsewhere.path(), &typed).unwrap().key.id(), a.key.id());
        assert_eq!(Identity::load(elsewhere.path()).unwrap().key.id(), a.key.id());
        assert_eq!(*Identity::words(elsewhere.path()).unwrap(), *words);
        assert!(Identity::restore(elsewhere.path(), &words).is_ok(), "once more is fine");
        let other = Identity::create(tempfile::tempdir().unwrap().path()).unwrap();
        assert!(Identity::restore(elsewhere.path(), &other).is_err(), "never replaces a wallet");
        assert!(Identity::restore(dir.path(), "abandon abandon").is_err());
    }
}
