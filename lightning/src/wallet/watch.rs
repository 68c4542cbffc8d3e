//! Starts LDK when the chain source is well, and says so when it is not.
//!
//! A bitcoind that restarts after a power cut takes minutes to answer; a node that dies of that must be restarted by
//! hand, and one that goes on blindly cannot see its channels being closed. So a wallet whose source is not well opens
//! without LDK's network side (balances, history and addresses work), and a thread asks again, ever less often, until
//! it is; from then on it only watches, since LDK itself asks again.

use super::error::LightningError;
use super::source::Source;
use super::{ldk, lock};
use ldk_node::{Node, NodeError};
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::Duration;

/// First pause after a failed attempt; each later one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// Between two looks at a source that is well.
const WELL_PAUSE: Duration = Duration::from_secs(10);

#[derive(Default)]
struct State {
    stopping: bool,
    running: bool,
    trouble: Option<String>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// Held while LDK starts or stops.
    switching: Mutex<()>,
}

/// The watching thread and what it knows.
pub(super) struct Watch {
    shared: Arc<Shared>,
}

/// Starts LDK.
pub(super) fn start(node: &Node, source: &Source, listen: SocketAddr) -> Result<(), LightningError> {
    node.start().map_err(|e| match e {
        NodeError::InvalidSocketAddress => LightningError::Listen(listen),
        NodeError::FeerateEstimationUpdateFailed
        | NodeError::FeerateEstimationUpdateTimeout
        | NodeError::ConnectionFailed => source.silent(e),
        other => ldk("starting the wallet")(other),
    })
}

impl Watch {
    /// Watches a source. `trouble` is why LDK is not started yet, if it is not.
    pub(super) fn new(
        node: &Arc<Node>,
        source: Source,
        listen: SocketAddr,
        trouble: Option<&LightningError>,
    ) -> Result<Self, LightningError> {
        let shared = Arc::new(Shared::default());
        {
            let mut state = lock(&shared.state);
            state.running = trouble.is_none();
            state.trouble = trouble.map(ToString::to_string);
        }
        let (watched, node) = (shared.clone(), Arc::downgrade(node));
        std::thread::Builder::new()
            .name("wallet-chain".into())
            .spawn(move || watch(&watched, &node, &source, listen))
            .map_err(|e| LightningError::Ldk { action: "watching the chain source", why: e.to_string() })?;
        Ok(Self { shared })
    }

    /// Whether LDK runs, and what is wrong with the source.
    pub(super) fn status(&self) -> (bool, Option<String>) {
        let state = lock(&self.shared.state);
        (state.running && !state.stopping, state.trouble.clone())
    }

    /// Why LDK says that it does not run.
    pub(super) fn not_running(&self) -> LightningError {
        let state = lock(&self.shared.state);
        match &state.trouble {
            Some(why) if !state.stopping && !state.running => LightningError::Waiting(why.clone()),
            _ => LightningError::Stopped,
        }
    }

    /// Stops watching, and LDK.
    pub(super) fn stop(&self, node: &Node) -> Result<(), NodeError> {
        let _one_at_a_time = lock(&self.shared.switching);
        lock(&self.shared.state).stopping = true;
        self.shared.changed.notify_all();
        node.stop()
    }
}

fn watch(shared: &Shared, node: &Weak<Node>, source: &Source, listen: SocketAddr) {
    let mut pause = if lock(&shared.state).running { WELL_PAUSE } else { FIRST_PAUSE };
    loop {
        {
            let state = lock(&shared.state);
            let waited = shared.changed.wait_timeout_while(state, pause, |s| !s.stopping);
            if waited.unwrap_or_else(PoisonError::into_inner).0.stopping {
                return;
            }
        }
        let running = lock(&shared.state).running;
        // without holding the node: a source may be silent for minutes, and the wallet may go meanwhile
        let probed = source.probe();
        let Some(node) = node.upgrade() else { return };
        let outcome = probed.and_then(|tip| {
            if running {
                return Ok(());
            }
            source.can_continue(&tip, node.status().current_best_block)?;
            let _one_at_a_time = lock(&shared.switching);
            if lock(&shared.state).stopping {
                return Ok(());
            }
            start(&node, source, listen)
        });
        let mut state = lock(&shared.state);
        match outcome {
            Ok(()) => {
                if state.trouble.take().is_some() {
                    tracing::info!(source = source.name(), "the chain source is well; the wallet goes on");
                }
                state.running = true;
                pause = WELL_PAUSE;
            }
            Err(error) => {
                let why = error.to_string();
                if state.trouble.as_ref() != Some(&why) {
                    tracing::warn!("{why}");
                }
                pause = if state.trouble.is_none() { FIRST_PAUSE } else { (pause * 2).min(MAX_PAUSE) };
                state.trouble = Some(why);
            }
        }
    }
}
