//! What a lite node tells while it works: it stores no ledger and serves no RPC, so its JSON lines
//! (`oda lite --json`) are all there is.
//!
//! Only the newest of each kind is kept. A queue of events would have to be bounded, and whoever is
//! slow to read would lose exactly the step of a payment that is asked about.

pub use oda_consensus::engine::trainer::Phase;
use oda_consensus::ids::ClaimId;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::ChildStdout;

/// Longest line taken, bytes.
const MAX_LINE: u64 = 64 << 10;
/// Most claims remembered; the oldest rounds go first.
const MAX_CLAIMS: usize = 4096;

#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event {
    Started {
        lightning: String,
    },
    Round {},
    Fetch {
        what: String,
        done: u64,
        total: u64,
    },
    Train {
        round: u64,
        step: u32,
        steps: u32,
        loss: f64,
    },
    Trained {
        round: u64,
        bytes: u64,
        gain_unat: i64,
    },
    Claim {
        claim: ClaimId,
        round: u64,
        phase: Phase,
        note: String,
        #[serde(default)]
        time_ms: u64,
    },
    Wallet {
        lightning_msat: u64,
        channels: usize,
    },
    #[serde(other)]
    Other,
}

/// What a trainer does right now.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Activity {
    /// Not started, or waiting for a round.
    #[default]
    Waiting,
    /// Fetching a blob.
    Fetching {
        /// What.
        what: String,
        /// Bytes so far.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// Training.
    Training {
        /// Round.
        round: u64,
        /// Steps done.
        step: u32,
        /// Steps in all.
        steps: u32,
        /// Loss on the batch, nats.
        loss: f64,
    },
    /// Trained; the claim is on its way.
    Trained {
        /// Round.
        round: u64,
        /// Size of the delta.
        bytes: u64,
        /// Own measurement, micro-nats.
        gain_unat: i64,
    },
}

/// A claim as its trainer tells it.
#[derive(Clone, Debug)]
pub struct OwnClaim {
    /// Round.
    pub round: u64,
    /// Where it stands.
    pub phase: Phase,
    /// More about it.
    pub note: String,
    /// Whether the payment was ever held.
    pub held: bool,
    /// When it entered each phase, ms since the Unix epoch.
    pub entered_ms: BTreeMap<Phase, u64>,
}

/// Everything known of one trainer.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Lightning node id, once started.
    pub lightning: Option<String>,
    /// Balance, msat, and usable channels.
    pub wallet: Option<(u64, usize)>,
    /// What it does.
    pub activity: Activity,
    /// Its claims.
    pub claims: BTreeMap<ClaimId, OwnClaim>,
}

impl Facts {
    /// Takes one line of output; anything that is no event is ignored.
    fn take(&mut self, line: &[u8]) {
        let Ok(event) = serde_json::from_slice::<Event>(line) else { return };
        match event {
            Event::Started { lightning } => self.lightning = Some(lightning),
            Event::Round {} => self.activity = Activity::Waiting,
            Event::Fetch { what, done, total } => self.activity = Activity::Fetching { what, done, total },
            Event::Train { round, step, steps, loss } => {
                self.activity = Activity::Training { round, step, steps, loss }
            }
            Event::Trained { round, bytes, gain_unat } => self.activity = Activity::Trained { round, bytes, gain_unat },
            Event::Wallet { lightning_msat, channels } => self.wallet = Some((lightning_msat, channels)),
            Event::Claim { claim, round, phase, note, time_ms } => {
                let known = self.claims.remove(&claim);
                let held = phase == Phase::Held || known.as_ref().is_some_and(|c| c.held);
                let mut entered_ms = known.map(|c| c.entered_ms).unwrap_or_default();
                entered_ms.insert(phase, time_ms);
                self.claims.insert(claim, OwnClaim { round, phase, note, held, entered_ms });
                while self.claims.len() > MAX_CLAIMS {
                    let Some(oldest) = self.claims.iter().min_by_key(|(_, c)| c.round).map(|(id, _)| *id) else {
                        break;
                    };
                    self.claims.remove(&oldest);
                }
            }
            Event::Other => {}
        }
    }
}

/// The facts of one trainer, shared with the task that reads its output. They outlive a restart.
#[derive(Clone, Debug, Default)]
pub struct Trainer(Arc<Mutex<Facts>>);

impl Trainer {
    fn lock(&self) -> MutexGuard<'_, Facts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known now.
    pub fn facts(&self) -> Facts {
        self.lock().clone()
    }

    /// Reads a process's output until it ends. The process is new: what it did before is over.
    pub fn follow(&self, output: ChildStdout) {
        {
            let mut facts = self.lock();
            (facts.lightning, facts.wallet, facts.activity) = (None, None, Activity::Waiting);
        }
        let facts = self.clone();
        tokio::spawn(async move {
            let mut output = BufReader::new(output);
            let mut line = Vec::new();
            loop {
                line.clear();
                match (&mut output).take(MAX_LINE).read_until(b'\n', &mut line).await {
                    Ok(n) if n > 0 => facts.lock().take(&line),
                    _ => return,
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_facts_and_noise_is_ignored() {
        let mut facts = Facts::default();
        let id = ClaimId([7; 32]);
        for line in [
            r#"{"event":"started","node":"00","lightning":"02ab"}"#.to_string(),
            "not json".into(),
            r#"{"event":"something_new","x":1}"#.into(),
            r#"{"event":"train","round":2,"step":3,"steps":30,"loss":0.5}"#.into(),
            format!(r#"{{"event":"claim","claim":"{id}","round":2,"phase":"held","note":"","time_ms":5}}"#),
            format!(r#"{{"event":"claim","claim":"{id}","round":2,"phase":"paid","note":"done","time_ms":7}}"#),
            r#"{"event":"wallet","lightning_msat":5000000,"channels":1}"#.into(),
        ] {
            facts.take(line.as_bytes());
        }
        assert_eq!(facts.lightning.as_deref(), Some("02ab"));
        assert_eq!(facts.activity, Activity::Training { round: 2, step: 3, steps: 30, loss: 0.5 });
        assert_eq!(facts.wallet, Some((5_000_000, 1)));
        let claim = &facts.claims[&id];
        assert!(claim.held && claim.phase == Phase::Paid && claim.round == 2);
        assert_eq!(claim.entered_ms, BTreeMap::from([(Phase::Held, 5), (Phase::Paid, 7)]));
    }

    #[test] // a limit beside every map
    fn old_claims_are_forgotten() {
        let mut facts = Facts::default();
        for round in 0..5000u64 {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&round.to_be_bytes());
            let id = ClaimId(id);
            facts.take(
                format!(r#"{{"event":"claim","claim":"{id}","round":{round},"phase":"void","note":""}}"#).as_bytes(),
            );
        }
        assert_eq!(facts.claims.len(), MAX_CLAIMS);
        assert!(facts.claims.values().all(|c| c.round >= 5000 - MAX_CLAIMS as u64));
    }
}
