//! Finding a snapshot among peers, any of which may lie (L4, N1).
//!
//! What a peer says it has costs nothing to say. So before a byte of a snapshot is fetched, the block it is of must be
//! attested under a key that follows from the genesis; what is fetched must give that block's root before anything of it
//! is used; and whoever gave something else is named, and another asked. Honest nodes have the same bytes, so those that
//! offer the same blob send it together.

use super::file::{Records, check};
use anyhow::{Context, Result};
use oda_consensus::epoch::EpochChain;
use oda_consensus::genesis::Genesis;
use oda_consensus::ids::{Digest, NodeId};
use oda_consensus::snapshot::SnapshotOffer;
use oda_consensus::wire::{Request, Response};
use std::future::Future;
use std::path::PathBuf;

/// Peers asked in one search (K3).
pub const MAX_ASKED: usize = 8;
/// Largest snapshot that is fetched, bytes (K3).
pub const MAX_SNAPSHOT_BYTES: u64 = 64 << 30;

/// Where this node's ledger stands.
#[derive(Clone, Copy, Debug)]
pub struct Own {
    /// Height.
    pub height: u64,
    /// Records of its log, and their root.
    pub log: (u64, Digest),
}

/// What a search came to.
#[derive(Debug, Default)]
pub struct Search {
    /// A snapshot whose records give an attested root, in this file.
    pub found: Option<(SnapshotOffer, PathBuf)>,
    /// Who said what cannot be true, and what.
    pub liars: Vec<(NodeId, String)>,
    /// Sound offers there were.
    pub offers: usize,
}

/// Looks for the newest snapshot above the own ledger. `ask` asks a peer, `get` fetches an offered blob from those peers
/// into a file.
///
/// # Errors
/// If the genesis is not valid, or this node's disk fails.
pub async fn find<Asked, Got>(
    genesis: &Genesis,
    own: Own,
    peers: &[NodeId],
    ask: impl Fn(NodeId, Request) -> Asked,
    get: impl Fn(SnapshotOffer, Vec<NodeId>) -> Got,
) -> Result<Search>
where
    Asked: Future<Output = Option<Response>>,
    Got: Future<Output = Result<PathBuf, String>>,
{
    let mut chain = EpochChain::new(genesis)?;
    let (mut search, mut offers) = (Search::default(), Vec::<(NodeId, SnapshotOffer)>::new());
    for peer in peers.iter().take(MAX_ASKED) {
        let Some(Response::Snapshot(Some(offer))) = ask(*peer, Request::Snapshot).await else { continue };
        let followed = follow(&mut chain, *peer, &ask).await;
        match followed.and_then(|()| offer.check(&chain).map_err(|e| e.to_string())) {
            Err(why) => search.liars.push((*peer, why)),
            Ok(()) if offer.header.height <= own.height || offer.blob.len > MAX_SNAPSHOT_BYTES => {}
            Ok(()) => offers.push((*peer, *offer)),
        }
    }
    search.offers = offers.len();
    offers.sort_by_key(|(_, offer)| std::cmp::Reverse(offer.header.height));
    while let Some((_, offer)) = offers.first().cloned() {
        let same = |o: &SnapshotOffer| o.header == offer.header && o.blob == offer.blob;
        let providers: Vec<NodeId> = offers.iter().filter(|(_, o)| same(o)).map(|(peer, _)| *peer).collect();
        offers.retain(|(_, o)| !same(o));
        let path = match get(offer.clone(), providers.clone()).await {
            Ok(path) => path,
            Err(why) => {
                tracing::warn!(height = offer.header.height, why, "a snapshot could not be fetched");
                continue;
            }
        };
        let (header, file) = (offer.header, path.clone());
        let checked = move || anyhow::Ok(check(Records::open(&file)?, header, Some(own.log)));
        match tokio::task::spawn_blocking(checked).await.context("checking a snapshot")?? {
            Ok(()) => {
                search.found = Some((offer, path));
                break;
            }
            // the blob has the hash they said, so these are the bytes they have
            Err(why) => search.liars.extend(providers.into_iter().map(|peer| (peer, why.to_string()))),
        }
    }
    Ok(search)
}

/// Follows the committees' keys as far as a peer knows them: each link is signed by the committee before, so nobody can
/// make the chain longer than it is.
async fn follow<Asked>(
    chain: &mut EpochChain,
    peer: NodeId,
    ask: &impl Fn(NodeId, Request) -> Asked,
) -> Result<(), String>
where
    Asked: Future<Output = Option<Response>>,
{
    loop {
        let after = chain.epoch();
        let Some(Response::Epochs(links)) = ask(peer, Request::Epochs { after }).await else { return Ok(()) };
        for link in links {
            chain.advance(link).map_err(|e| e.to_string())?;
        }
        if chain.epoch() == after {
            return Ok(());
        }
    }
}
