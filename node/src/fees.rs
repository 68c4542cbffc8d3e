//! A trainer pays the submission fees its sponsors ask (P8).
//!
//! Beside the engine, not in it: a fee moves no claim by itself, the sponsor's offer does, and that comes the usual
//! way. No single peer is believed about who sponsors a model and has money left: a threshold of the committee must
//! show it. The L402 client writes down what it pays before it pays it, a token for each claim and sponsor, and a
//! claim stays with the sponsor it began to pay; so it is paid for once whatever crashes.

use crate::peers::PeerBook;
use crate::wallet;
use anyhow::{Context, Result, bail};
use axum::body::{Bytes, HttpBody};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use oda_consensus::epoch::EpochChain;
use oda_consensus::genesis::BitcoinNetwork;
use oda_consensus::ids::{ClaimId, ModelId, NodeId};
use oda_consensus::wire::{ModelView, Submissions};
use oda_lightning::Wallet;
use oda_lightning::l402::{
    BoxError, ClientError, FileStore, L402Client, L402ClientLayer, Limits, Scope, TokenKey, TokenStore as _,
    system_clock,
};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use tokio::time::{Duration, Instant};
use tower::{Layer as _, Service as _, ServiceExt as _};

/// Most models, and members of a committee, whose word on sponsors is remembered.
const MAX_MODELS: usize = 64;
const MAX_PEERS: usize = 256;
/// Most sponsors of a model looked at.
const MAX_SPONSORS: usize = 16;
/// Longest answer of a sponsor that is read, bytes.
const MAX_ANSWER: usize = 1024;
/// How long one attempt may take; a payment under way then goes on, and the next attempt finds it.
const PATIENCE: Duration = Duration::from_secs(45);
/// Fees in a row that may bring no offer before a sponsor gets no more of them.
const MAX_UNANSWERED: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

type Http = L402Client<Client<HttpConnector, Empty<Bytes>>, Arc<Wallet>, FileStore>;

/// Who took fees and made no offer; since the start of this node.
#[derive(Default)]
struct Debtors(BTreeMap<NodeId, u32>);

impl Debtors {
    /// What came of a fee paid. True if the sponsor gets no more from now on.
    fn note(&mut self, sponsor: NodeId, answered: bool) -> bool {
        if answered {
            self.0.remove(&sponsor);
            return false;
        }
        let fees = self.0.entry(sponsor).or_default();
        *fees = fees.saturating_add(1);
        *fees == MAX_UNANSWERED
    }

    fn are_trusted(&self, sponsor: NodeId) -> bool {
        self.0.get(&sponsor).is_none_or(|fees| *fees < MAX_UNANSWERED)
    }
}

/// Where a claim's fee stands.
struct Try {
    keys: BTreeSet<TokenKey>,
    busy: bool,
    /// Who was paid.
    paid: Option<NodeId>,
    next: Instant,
    pause: Duration,
    said: bool,
}

/// An attempt to pay for a claim.
pub(crate) struct Attempt {
    pub(crate) claim: ClaimId,
    /// Sponsors that ask a fee, in the ledger's order, and whether their budgets cover another claim.
    options: Vec<(NodeId, Submissions, bool)>,
}

/// Why nothing was paid, or it is not known whether it was.
#[derive(Debug)]
pub(crate) enum Unpaid {
    TooExpensive { sponsor: NodeId, fee_msat: u64 },
    NoBalance { fee_msat: u64 },
    Other(String),
}

/// Who asks fees, and which are paid.
pub(crate) struct Fees {
    client: Payer,
    shown: BTreeMap<ModelId, BTreeMap<NodeId, Vec<(NodeId, bool)>>>,
    tries: BTreeMap<ClaimId, Try>,
    /// Sponsors whose price was complained about.
    warned: BTreeSet<NodeId>,
    debtors: Debtors,
}

/// What an attempt needs.
#[derive(Clone)]
pub(crate) struct Payer {
    layer: L402ClientLayer<Arc<Wallet>, FileStore>,
    store: Arc<FileStore>,
    wallet: Arc<Wallet>,
    max_fee_msat: u64,
}

/// The token of a claim at a sponsor.
fn token_key(url: &str, claim: ClaimId) -> Option<TokenKey> {
    let uri: Uri = url.parse().ok()?;
    let origin = format!("{}://{}", uri.scheme_str()?, uri.authority()?.as_str().to_ascii_lowercase());
    Some(TokenKey { origin, scope: claim.to_string() })
}

/// Sponsors that a threshold of members shows, in the order of the first who does, and whether so many say that the
/// budget covers another claim.
fn agreed(shown: &BTreeMap<NodeId, Vec<(NodeId, bool)>>, members: &[NodeId], threshold: usize) -> Vec<(NodeId, bool)> {
    let views: Vec<&Vec<(NodeId, bool)>> = members.iter().filter_map(|m| shown.get(m)).collect();
    let count =
        |s: NodeId, covers: bool| views.iter().filter(|v| v.iter().any(|x| x.0 == s && (x.1 || !covers))).count();
    let mut out: Vec<(NodeId, bool)> = Vec::new();
    for (sponsor, _) in views.iter().flat_map(|v| v.iter()) {
        if out.iter().all(|(known, _)| known != sponsor) && count(*sponsor, false) >= threshold {
            out.push((*sponsor, count(*sponsor, true) >= threshold));
        }
    }
    out
}

impl Fees {
    pub(crate) fn new(dir: &Path, wallet: Arc<Wallet>, network: BitcoinNetwork, max_fee_msat: u64) -> Result<Self> {
        let store = Arc::new(FileStore::open(dir).context("opening the fee tokens")?);
        let limits = Limits::new(network, max_fee_msat);
        let layer = L402ClientLayer::with(wallet.clone(), store.clone(), limits, system_clock());
        let client = Payer { layer, store, wallet, max_fee_msat };
        Ok(Self {
            client,
            shown: BTreeMap::new(),
            tries: BTreeMap::new(),
            warned: BTreeSet::new(),
            debtors: Debtors::default(),
        })
    }

    /// A peer shows a model.
    pub(crate) fn heard(&mut self, from: NodeId, view: &ModelView) {
        let id = view.model.manifest.id();
        if self.shown.len() >= MAX_MODELS && !self.shown.contains_key(&id) {
            return;
        }
        let views = self.shown.entry(id).or_default();
        if views.len() >= MAX_PEERS && !views.contains_key(&from) {
            views.pop_first();
        }
        let sponsors = view.model.sponsors.iter().take(MAX_SPONSORS).map(|s| (s.sponsor, s.covers_another()));
        views.insert(from, sponsors.collect());
    }

    /// What is to be tried now for these claims, which wait for an offer; of the others, `offered` knows which have one.
    pub(crate) fn due(
        &mut self,
        open: &[(ClaimId, ModelId)],
        offered: impl Fn(ClaimId) -> bool,
        epochs: &EpochChain,
        book: &PeerBook,
    ) -> Vec<Attempt> {
        let over: Vec<ClaimId> = self.tries.keys().filter(|c| open.iter().all(|o| o.0 != **c)).copied().collect();
        for claim in over {
            self.forget(claim, offered(claim));
        }
        let Some(group) = epochs.group(epochs.epoch()) else { return Vec::new() };
        let (mut out, now) = (Vec::new(), Instant::now());
        for (claim, model) in open {
            let known = self.tries.get(claim);
            if known.is_some_and(|t| t.busy || t.paid.is_some() || t.next > now) {
                continue;
            }
            let Some(shown) = self.shown.get(model) else { continue };
            let asks =
                |(sponsor, covers): (NodeId, bool)| Some((sponsor, book.get(sponsor)?.submissions.clone()?, covers));
            let sponsors = agreed(shown, group.members(), group.threshold()).into_iter();
            let options: Vec<_> = sponsors.filter(|s| self.debtors.are_trusted(s.0)).filter_map(asks).collect();
            if options.is_empty() {
                continue;
            }
            let t = self.tries.entry(*claim).or_insert_with(|| Try {
                keys: BTreeSet::new(),
                busy: false,
                paid: None,
                next: now,
                pause: FIRST_PAUSE,
                said: false,
            });
            t.busy = true;
            t.keys.extend(options.iter().filter_map(|(_, s, _)| token_key(&s.url, *claim)));
            out.push(Attempt { claim: *claim, options });
        }
        out
    }

    /// What attempts need; each runs beside the loop.
    pub(crate) fn payer(&self) -> Payer {
        self.client.clone()
    }

    /// An attempt ended.
    pub(crate) fn ended(&mut self, claim: ClaimId, result: Result<NodeId, Unpaid>) {
        let Some(t) = self.tries.get_mut(&claim) else { return };
        t.busy = false;
        t.paid = result.as_ref().ok().copied();
        t.next = Instant::now() + t.pause;
        t.pause = (t.pause * 2).min(LONGEST_PAUSE);
        let Err(why) = result else {
            return tracing::info!(claim = %claim.short(), "submission fee paid");
        };
        let first = !std::mem::replace(&mut t.said, true);
        match why {
            Unpaid::TooExpensive { sponsor, fee_msat } if self.warned.insert(sponsor) => tracing::warn!(
                sponsor = %sponsor.short(), fee_msat, max_fee_msat = self.client.max_fee_msat,
                "the sponsor's submission fee is above max_fee_msat in [trainer]: its rounds earn nothing; raise it if \
                 that is a fair price"
            ),
            Unpaid::NoBalance { fee_msat } if first => tracing::warn!(
                claim = %claim.short(), fee_msat,
                "no channel can carry the submission fee: receive something first, for one with `oda wallet invoice`"
            ),
            // usually the sponsor has not seen the commitment yet
            Unpaid::Other(why) if first => tracing::debug!(claim = %claim.short(), why, "submission fee not paid yet"),
            Unpaid::Other(why) => tracing::info!(claim = %claim.short(), why, "submission fee not paid yet"),
            _ => {}
        }
    }

    /// The claim waits for nothing more: its tokens can go.
    fn forget(&mut self, claim: ClaimId, offered: bool) {
        let Some(t) = self.tries.remove(&claim) else { return };
        if let Some(sponsor) = t.paid.filter(|s| self.debtors.note(*s, offered)) {
            tracing::warn!(
                sponsor = %sponsor.short(), fees = MAX_UNANSWERED,
                "the sponsor took submission fees and made no offer: it gets no more until this node starts again"
            );
        }
        let layer = self.client.layer.clone();
        tokio::spawn(async move {
            for key in t.keys {
                if let Err(error) = layer.forget(&key).await {
                    tracing::debug!(%error, "a fee token is kept");
                }
            }
        });
    }
}

impl Payer {
    /// Pays for a claim, unless that is done, and tells the sponsor, whose name it returns.
    pub(crate) async fn pay(self, attempt: Attempt) -> Result<NodeId, Unpaid> {
        let claim = attempt.claim;
        let chosen = {
            let this = self.clone();
            wallet::blocking(move || this.choose(attempt)).await.map_err(|e| Unpaid::Other(format!("{e:#}")))??
        };
        match tokio::time::timeout(PATIENCE, self.post(&chosen, claim)).await {
            Ok(result) => result.map(|()| chosen.0),
            Err(_) => Err(Unpaid::Other("no answer in time".into())),
        }
    }

    /// The sponsor that was paid before, else the first that may be.
    fn choose(&self, attempt: Attempt) -> Result<(NodeId, Submissions), Unpaid> {
        let mut too_expensive = None;
        for (sponsor, s, _) in &attempt.options {
            let Some(key) = token_key(&s.url, attempt.claim) else { continue };
            match self.store.load(&key) {
                Ok(None) => {}
                Ok(Some(_)) => return Ok((*sponsor, s.clone())),
                Err(error) => return Err(Unpaid::Other(error.to_string())),
            }
        }
        for (sponsor, s, _) in attempt.options.into_iter().filter(|(_, _, covers)| *covers) {
            if s.fee_msat > self.max_fee_msat {
                too_expensive.get_or_insert(Unpaid::TooExpensive { sponsor, fee_msat: s.fee_msat });
                continue;
            }
            let carries = |c: &oda_lightning::ChannelInfo| c.usable && c.outbound_msat >= s.fee_msat;
            if !self.wallet.channels().iter().any(carries) {
                return Err(Unpaid::NoBalance { fee_msat: s.fee_msat });
            }
            return Ok((sponsor, s));
        }
        Err(too_expensive.unwrap_or_else(|| Unpaid::Other("no sponsor's budget covers another claim".into())))
    }

    async fn post(&self, (sponsor, s): &(NodeId, Submissions), claim: ClaimId) -> Result<(), Unpaid> {
        let other = |e: anyhow::Error| Unpaid::Other(format!("{e:#}"));
        let request = Request::post(format!("{}/submissions/{claim}", s.url.trim_end_matches('/')))
            .extension(Scope(claim.to_string()))
            .body(Empty::new())
            .context("the sponsor's address")
            .map_err(other)?;
        let mut http: Http = self.layer.layer(Client::builder(TokioExecutor::new()).build_http());
        let ready = http.ready().await.map_err(|e| Unpaid::Other(e.to_string()))?;
        let answer = match ready.call(request).await {
            Err(ClientError::TooExpensive { amount_msat, .. }) => {
                return Err(Unpaid::TooExpensive { sponsor: *sponsor, fee_msat: amount_msat });
            }
            answer => answer.map_err(|e| Unpaid::Other(e.to_string()))?,
        };
        read(answer).await.map_err(other)
    }
}

async fn read<B>(answer: http::Response<B>) -> Result<()>
where
    B: HttpBody<Error: Into<BoxError>>,
{
    let status = answer.status();
    if status == StatusCode::OK {
        return Ok(());
    }
    let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    bail!("the sponsor answers {status}: {}", String::from_utf8_lossy(&body).trim().escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    const N: fn(u8) -> NodeId = |n| NodeId([n; 32]);

    #[test] // P8: one peer cannot invent a sponsor, nor a budget
    fn a_threshold_of_members_must_show_a_sponsor() {
        let members = [N(1), N(2), N(3), N(4)];
        let mut shown = BTreeMap::new();
        shown.insert(N(1), vec![(N(9), true), (N(20), true), (N(21), true)]);
        shown.insert(N(2), vec![(N(20), true), (N(21), true)]);
        shown.insert(N(7), vec![(N(9), true), (N(20), true)]); // no member
        assert!(agreed(&shown, &members, 3).is_empty());
        shown.insert(N(4), vec![(N(20), true), (N(21), false)]);
        assert_eq!(agreed(&shown, &members, 3), [(N(20), true), (N(21), false)]);
    }

    #[test] // P8: keeping fees is worth three of them
    fn who_makes_no_offers_gets_no_more_fees() {
        let mut debtors = Debtors::default();
        assert!(!debtors.note(N(1), false) && !debtors.note(N(1), false));
        assert!(!debtors.note(N(1), true), "an offer makes up for it");
        assert_eq!([(); 3].map(|()| debtors.note(N(1), false)), [false, false, true], "said once");
        assert!(!debtors.note(N(1), false));
        assert!(!debtors.are_trusted(N(1)) && debtors.are_trusted(N(2)));
    }

    #[test]
    fn a_token_is_for_one_claim_at_one_origin() {
        let key = |url: &str, n| token_key(url, ClaimId([n; 32]));
        assert_eq!(key("http://H:1/a", 1), key("http://h:1", 1));
        assert_ne!(key("http://h:1", 1), key("http://h:1", 2));
        assert_ne!(key("http://h:1", 1), key("http://h:2", 1));
        assert_eq!(key("h", 1), None);
    }
}
