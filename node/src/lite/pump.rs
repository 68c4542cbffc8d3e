//! What reaches a lite node's loop by itself: the wallet's events, the chain's height, the state of the machine.

use super::Event;
use super::machine::{LOOK, Watcher};
use oda_lightning::{LnEvent, Wallet};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Duration, MissedTickBehavior};

/// Carries wallet events to the loop, one at a time, and the chain's height.
pub(super) async fn wallet(wallet: Arc<Wallet>, events: mpsc::Sender<Event>) {
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    loop {
        tokio::select! {
            event = wallet.next_event() => {
                let (done, handled) = oneshot::channel();
                let event = match event {
                    LnEvent::Held { hash, amount_msat, claim_deadline_height } => {
                        Event::Held { hash, amount_msat, deadline: claim_deadline_height, done: Some(done) }
                    }
                    LnEvent::Received { hash, .. } => Event::Received { hash, done: Some(done) },
                    _ => {
                        let _ = wallet.event_handled();
                        continue;
                    }
                };
                if events.send(event).await.is_err() {
                    return;
                }
                if handled.await.is_ok() {
                    let _ = wallet.event_handled();
                }
            }
            _ = tick.tick() => {
                let w = wallet.clone();
                let facts = crate::wallet::blocking(move || (w.best_block_height(), w.lightning_balance_msat(), w.channels().iter().filter(|c| c.usable).count())).await;
                let Ok((height, lightning_msat, channels)) = facts else { return };
                if events.send(Event::Chain { height, lightning_msat, channels }).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Looks at the machine again and again.
pub(super) async fn machine(events: mpsc::Sender<Event>) {
    let mut watcher = Watcher::new();
    let mut tick = tokio::time::interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let readings = watcher.look().await;
        if events.send(Event::Machine(readings)).await.is_err() {
            return;
        }
    }
}
