//! Asks a full node again and again, as a screen needs it: what has ended is asked for once.

use super::app::{Answer, Ask, MAX_ROUNDS};
use crate::rpc::{ApiClient, MAX_PAGE};
use jsonrpsee::core::client::Error;
use jsonrpsee::http_client::HttpClient;
use oda_consensus::ids::ModelId;
use serde_json::Value;
use std::collections::BTreeMap;

/// Remembers the outcomes of one model.
pub struct Fetcher {
    client: HttpClient,
    model: Option<ModelId>,
    outcomes: BTreeMap<u64, Value>,
}

impl Fetcher {
    /// Asks through this client.
    pub fn new(client: HttpClient) -> Self {
        Self { client, model: None, outcomes: BTreeMap::new() }
    }

    /// One answer.
    ///
    /// # Errors
    /// If the node does not answer.
    pub async fn ask(&mut self, ask: Ask) -> Result<Answer, Error> {
        let client = self.client.clone();
        let (status, models, peers) =
            tokio::try_join!(client.status(), client.models(None, None), client.peers(None, None))?;
        let model = models.iter().find(|m| Some(m.id) == ask.model).or(models.first());
        let id = model.map(|m| m.id);
        if id != self.model {
            self.outcomes.clear();
            self.model = id;
        }
        let mut answer = Answer {
            status,
            peers,
            model: id,
            outcomes: vec![],
            credit: vec![],
            round: 0,
            claims: vec![],
            models: vec![],
        };
        if let (Some(model), Some(id)) = (model, id) {
            let last = model.state["round"]["number"].as_u64().unwrap_or(0);
            let oldest = last.saturating_sub(MAX_ROUNDS);
            let next = self.outcomes.last_key_value().map_or(oldest, |(round, _)| (round + 1).max(oldest));
            for o in client.outcomes(id, Some(next), Some(MAX_PAGE)).await? {
                if let Some(round) = o["outcome"]["round"].as_u64() {
                    self.outcomes.insert(round, o);
                }
            }
            self.outcomes = self.outcomes.split_off(&oldest);
            answer.credit = client.credit(Some(id), None, None, None).await?;
            // the round in progress, or the one before while nobody has claimed anything in it
            let claimed = model.state["round"]["claims"].as_array().is_some_and(|c| !c.is_empty());
            answer.round = ask.round.unwrap_or(if claimed || last < 2 { last } else { last - 1 });
            if answer.round > 0 {
                answer.claims = match client.claims(id, Some(answer.round), None, None).await {
                    // between two answers the round may have ended, and be told of with the next
                    Err(Error::Call(_)) => vec![],
                    other => other?,
                };
            }
            answer.outcomes = self.outcomes.values().cloned().collect();
        }
        answer.models = models;
        Ok(answer)
    }
}
