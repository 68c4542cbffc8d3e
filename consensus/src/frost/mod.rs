//! Threshold cryptography of the committee: group key, signing sessions, dealt preimages (C1-C5, P1).
//!
//! Everything is `frost-secp256k1` (RFC 9591) and libsodium's sealed box through `crypto_box`; here are
//! only the shapes the protocol needs. Randomness and time are arguments.

mod deal;
mod dkg;
mod group;
mod session;

pub use deal::{Deal, DealError, EncryptionKey, EncryptionSecret, ReleaseShare, deal_preimage, open_share, rebuild};
pub use dkg::{DkgError, EpochSeed, OpenedShares, Round1, Round2, Transcript, deal_locally, deal_round1, dkg_context};
pub use group::{CommitteeKey, GroupError, GroupKey, GroupPoint, GroupSignature, KeyShare, dkg_all_local, threshold};
pub use session::{
    Announce, Chosen, NonceOffer, RefusedWhy, SessionId, ShareEvidence, SignEffect, SignInput, SignMessage, Signer,
    SignerConfig, payload_hash, request_digest,
};
