//! Subscriptions that can be resumed: everything from a height on, then whatever comes.
//!
//! Sending each new block as it is announced loses those announced between reading the past and listening, and those
//! a full buffer drops. Here an announcement only wakes the task; what it sends is what the store holds next, so
//! nothing is left out or sent twice, and a subscriber that was away names the height to go on from. What waits for a
//! reader is bounded by the connection's buffer; one that does not read is told so and cut off.

use super::errors::{NOT_FOUND, TOO_SLOW, error};
use crate::full::Shared;
use jsonrpsee::core::{RpcResult, SubscriptionError};
use jsonrpsee::server::{IntoSubscriptionCloseResponse, SubscriptionCloseResponse};
use jsonrpsee::types::ErrorObjectOwned;
use jsonrpsee::{PendingSubscriptionSink, SendTimeoutError};
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;

/// How a subscription ended; if not by the subscriber's wish, the reason is the last message.
pub struct Ended(Option<ErrorObjectOwned>);

impl Ended {
    pub(super) fn quietly() -> Self {
        Self(None)
    }
}

impl IntoSubscriptionCloseResponse for Ended {
    fn into_response(self) -> SubscriptionCloseResponse {
        let text = self.0.and_then(|why| serde_json::value::to_raw_value(&why).ok());
        text.map_or(SubscriptionCloseResponse::None, |text| {
            SubscriptionCloseResponse::NotifErr(SubscriptionError::from_json(text))
        })
    }
}

/// Sends what `items` gives for each height from `from` (the next block if absent) on, as long as somebody listens.
pub(super) async fn run<T: Serialize + Send>(
    pending: PendingSubscriptionSink,
    shared: &Arc<Shared>,
    from: Option<u64>,
    slow_consumer: Duration,
    items: impl Fn(u64) -> RpcResult<Option<Vec<T>>> + Send,
) -> Ended {
    let mut news = shared.blocks.subscribe(); // before the tip is read
    let tip = || shared.state().tip().height;
    let mut next = from.unwrap_or_else(|| tip().saturating_add(1)).max(1);
    let Ok(sink) = pending.accept().await else { return Ended::quietly() };
    loop {
        while next <= tip() {
            let found = match items(next) {
                Ok(Some(found)) => found,
                // a block is stored before it is announced: this one is not kept
                Ok(None) => return Ended(Some(error(NOT_FOUND, format!("this node does not keep block {next}")))),
                Err(why) => return Ended(Some(why)),
            };
            for item in found {
                let Ok(text) = serde_json::value::to_raw_value(&item) else { return Ended::quietly() };
                match sink.send_timeout(text, slow_consumer).await {
                    Ok(()) => {}
                    Err(SendTimeoutError::Closed(_)) => return Ended::quietly(),
                    Err(SendTimeoutError::Timeout(_)) => {
                        let why = format!(
                            "nothing was read for {} s: subscribe again with from_height {next}",
                            slow_consumer.as_secs_f32()
                        );
                        return Ended(Some(error(TOO_SLOW, why)));
                    }
                }
            }
            next = next.saturating_add(1);
            tokio::task::yield_now().await;
        }
        tokio::select! {
            _ = sink.closed() => return Ended::quietly(),
            heard = news.recv() => match heard {
                // some missed: they are read from the store all the same
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return Ended::quietly(),
            },
        }
    }
}
