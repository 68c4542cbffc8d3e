//! What a client must not forget: the invoice it is about to pay, and the token it paid for.
//!
//! The first is written before the payment starts, the second before the request is repeated. So a client
//! that dies in between finds, when it is back, which payment to ask its wallet about, and pays no second.

use super::header::Challenge;
use super::token::{Credential, Token};
use oda_consensus::ids::{PaymentHash, Preimage};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// Most tokens a store of this crate keeps.
const MAX_RECORDS: usize = 10_000;
/// Longest record file, bytes.
const MAX_RECORD_BYTES: u64 = 32 << 10;

/// What a token is for: tokens go to the origin that issued them and nowhere else.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TokenKey {
    /// `scheme://host:port`.
    pub origin: String,
    /// The part of its service, as the client names it ([`Scope`](super::client::Scope)).
    pub scope: String,
}

/// What is known of a token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Record {
    /// Its invoice is being paid, or was when the client was last heard of.
    Paying {
        /// The token, in base64.
        macaroon: String,
        /// The invoice.
        bolt11: String,
        /// Its payment hash.
        payment_hash: PaymentHash,
        /// Its amount, msat.
        amount_msat: u64,
    },
    /// It is paid.
    Paid {
        /// The token, in base64.
        macaroon: String,
        /// Proof of payment.
        preimage: Preimage,
        /// Its price, msat.
        amount_msat: u64,
        /// When, ms since the Unix epoch.
        paid_at_ms: u64,
    },
}

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Paying { payment_hash, amount_msat, .. } => write!(f, "Paying({payment_hash}, {amount_msat} msat)"),
            Self::Paid { amount_msat, paid_at_ms, .. } => write!(f, "Paid({amount_msat} msat, {paid_at_ms} ms, ..)"),
        }
    }
}

impl Record {
    /// The credential of a paid token, if the record is one and is intact.
    pub fn credential(&self) -> Option<Credential> {
        match self {
            Self::Paid { macaroon, preimage, .. } => {
                Some(Credential { token: Token::from_base64(macaroon).ok()?, preimage: *preimage })
            }
            Self::Paying { .. } => None,
        }
    }

    /// The challenge of a token that is being paid, if the record is one and is intact.
    pub fn challenge(&self) -> Option<Challenge> {
        match self {
            Self::Paying { macaroon, bolt11, .. } => {
                Some(Challenge { token: Token::from_base64(macaroon).ok()?, bolt11: bolt11.clone() })
            }
            Self::Paid { .. } => None,
        }
    }
}

/// The store failed; nothing is paid without it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file holds something else than was written.
    #[error("{} is damaged ({why}): it may name a payment under way; look at the wallet before deleting it", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Too many tokens.
    #[error("{0} tokens are kept: forget some first")]
    Full(usize),
}

/// Keeps records. Every call may block for a disk write; what [`TokenStore::save`] took survives a crash.
pub trait TokenStore: Send + Sync + 'static {
    /// The record of a key.
    ///
    /// # Errors
    /// If it cannot be read; then nothing is paid.
    fn load(&self, key: &TokenKey) -> Result<Option<Record>, StoreError>;

    /// Writes, in place of what was there.
    ///
    /// # Errors
    /// If it is not safely written.
    fn save(&self, key: &TokenKey, record: &Record) -> Result<(), StoreError>;

    /// Forgets. Fine if there is nothing.
    ///
    /// # Errors
    /// If it cannot.
    fn remove(&self, key: &TokenKey) -> Result<(), StoreError>;
}

/// Keeps records as long as the process lives: for tests, and for tokens not worth a file.
#[derive(Debug, Default)]
pub struct MemoryStore {
    records: Mutex<BTreeMap<TokenKey, Record>>,
}

impl TokenStore for MemoryStore {
    fn load(&self, key: &TokenKey) -> Result<Option<Record>, StoreError> {
        Ok(self.records.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned())
    }

    fn save(&self, key: &TokenKey, record: &Record) -> Result<(), StoreError> {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        if records.len() >= MAX_RECORDS && !records.contains_key(key) {
            return Err(StoreError::Full(records.len()));
        }
        records.insert(key.clone(), record.clone());
        Ok(())
    }

    fn remove(&self, key: &TokenKey) -> Result<(), StoreError> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
        Ok(())
    }
}

/// One file a token in a directory, readable by its owner alone.
#[derive(Debug)]
pub struct FileStore {
    dir: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct OnDisk {
    key: TokenKey,
    record: Record,
}

impl FileStore {
    /// Opens a directory, creating it if needed.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let dir = dir.into();
        std::fs::create_dir_all(&dir).map_err(|source| StoreError::Io { path: dir.clone(), source })?;
        Ok(Self { dir })
    }

    fn path(&self, key: &TokenKey) -> PathBuf {
        let mut hash = Sha256::new();
        hash.update(key.origin.as_bytes());
        hash.update([0]);
        hash.update(key.scope.as_bytes());
        self.dir.join(format!("{}.json", hex::encode(hash.finalize())))
    }
}

impl TokenStore for FileStore {
    fn load(&self, key: &TokenKey) -> Result<Option<Record>, StoreError> {
        let path = self.path(key);
        let io = |source| StoreError::Io { path: path.clone(), source };
        let damaged = |why| StoreError::Damaged { path: path.clone(), why };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io(error)),
        };
        let mut text = String::new();
        file.take(MAX_RECORD_BYTES).read_to_string(&mut text).map_err(io)?;
        let found: OnDisk = serde_json::from_str(&text).map_err(|e| damaged(e.to_string()))?;
        if found.key != *key {
            return Err(damaged(format!("it is for {}", found.key.origin)));
        }
        Ok(Some(found.record))
    }

    fn save(&self, key: &TokenKey, record: &Record) -> Result<(), StoreError> {
        let path = self.path(key);
        let io = |source| StoreError::Io { path: path.clone(), source };
        let on_disk = OnDisk { key: key.clone(), record: record.clone() };
        let text = serde_json::to_vec(&on_disk).map_err(|e| io(e.into()))?;
        let new = path.with_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new).map_err(io)?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(io)?;
        std::fs::rename(&new, &path).map_err(io)?;
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(io)
    }

    fn remove(&self, key: &TokenKey) -> Result<(), StoreError> {
        let path = self.path(key);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(StoreError::Io { path, source }),
            _ => Ok(()),
        }
    }
}
