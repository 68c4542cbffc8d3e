//! What the ledger remembers of the federation: validators, epochs, key generations, scores.

use crate::beacon::BeaconKey;
use crate::epoch::{Checkpoint, Handover, HandoverLink};
use crate::evidence::Offence;
use crate::frost::{EncryptionKey, GroupKey, GroupSignature, OpenedShares, Round1, Round2};
use crate::ids::{Beacon, BlockHash, Digest, ModelId, NodeId};
use crate::outcome::Outcome;
use crate::record;
use serde::Serialize;

/// Where the federation stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize)]
pub struct FederationState {
    /// Epoch in charge.
    pub epoch: u64,
    /// Validators from whom the next committee is drawn: those active when the epoch began, so that
    /// nobody can change the set once the draw is known.
    pub candidates: Vec<NodeId>,
    /// The epoch ends as soon as the next committee has its key: a member was evicted or left.
    pub hurry: bool,
    /// Blocks to be attested: height, hash and state root of the newest due ones.
    pub due: Vec<(u64, BlockHash, Digest)>,
    /// Height of the newest attested one.
    pub checkpoint: u64,
}
record!(FederationState, b"fedr", 8 << 10);

/// One epoch and its committee.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize)]
pub struct EpochState {
    /// Number; 0 is the genesis committee.
    pub number: u64,
    /// Attempt of the key generation that made its key.
    pub attempt: u32,
    /// Height of the first block it orders; none while the committee before is in charge.
    pub start_height: Option<u64>,
    /// Signing key, with the members.
    #[serde(skip)]
    pub group: GroupKey,
    /// Beacon key.
    #[serde(skip)]
    pub beacon: BeaconKey,
    /// Signature of the committee before over both; the genesis committee has none.
    pub signature: Option<GroupSignature>,
}
record!(EpochState, b"epch", 40 << 10);

impl EpochState {
    /// What the committee before signs.
    pub fn handover(&self) -> Handover {
        Handover::new(self.number, &self.group, &self.beacon)
    }

    /// The signed link from the committee before.
    pub fn link(&self) -> Option<HandoverLink> {
        Some(HandoverLink { handover: self.handover(), signature: self.signature.clone()? })
    }
}

/// How far a key generation is (C2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DkgPhase {
    /// Members publish commitments.
    Deal,
    /// Members publish sealed shares.
    Share,
    /// Members confirm, or complain.
    Confirm,
    /// Accused dealers open shares.
    Open,
    /// The keys are on the ledger.
    Done,
    /// Not enough candidates are left; the running committee goes on and draws again.
    Failed,
}

/// The key generation of the next epoch.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize)]
pub struct DkgState {
    /// Epoch whose key it makes.
    pub epoch: u64,
    /// Attempt, from 0.
    pub attempt: u32,
    /// The draw.
    pub beacon: Beacon,
    /// Candidates in the drawn order, left-out ones gone.
    pub order: Vec<NodeId>,
    /// Members of this attempt, ascending.
    pub members: Vec<NodeId>,
    /// Step.
    pub phase: DkgPhase,
    /// Last height at which the step's messages are taken.
    pub deadline: u64,
    /// Who has done the step.
    pub done: Vec<NodeId>,
    /// Complaints: recipient and dealer, by place.
    pub complaints: Vec<(u16, u16)>,
}
record!(DkgState, b"dkgs", 64 << 10);

/// What one member has dealt in an attempt.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Dealing {
    /// Epoch.
    pub epoch: u64,
    /// Attempt.
    pub attempt: u32,
    /// Who.
    pub node: NodeId,
    /// Commitments.
    pub round1: Round1,
    /// Sealed shares.
    pub round2: Option<Round2>,
    /// Shares opened after complaints, by recipient.
    pub opened: Vec<(u16, OpenedShares)>,
}
record!(Dealing, b"dlng", 48 << 10);

/// Whether a validator may be drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ValidatorStatus {
    /// Has asked to be admitted.
    Applied,
    /// May be drawn.
    Active,
    /// Left by itself.
    Left,
    /// Convicted or voted out.
    Evicted(Offence),
}

/// A validator and how it has served (R4, R5, C6).
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize)]
pub struct ValidatorState {
    /// Who.
    pub node: NodeId,
    /// Its key for sealed boxes.
    pub encryption: EncryptionKey,
    /// Whether it may be drawn.
    pub status: ValidatorStatus,
    /// Height of the last change of status.
    pub since: u64,
    /// Its record.
    pub record: ServiceRecord,
}
record!(ValidatorState, b"vali", 1024);

/// Counts of a validator's duties.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize)]
pub struct ServiceRecord {
    /// Rounds it was to judge.
    pub rounds: u64,
    /// Scores that agreed with the attested outcome.
    pub agreed: u64,
    /// Scores that could not be compared: a delta was not served to all.
    pub incomparable: u64,
    /// Scores proven wrong.
    pub false_scores: u64,
    /// Rounds without a commitment in time.
    pub late: u64,
    /// Commitments not opened.
    pub withheld: u64,
    /// Decoys it scored as their known answer says.
    pub decoys_passed: u64,
    /// Decoys it did not.
    pub decoys_failed: u64,
    /// Key generations it did not take part in.
    pub dkg_missed: u64,
    /// Complaints it made in key generations that the dealer answered.
    pub dkg_complaints_answered: u64,
}

/// Adds to one count of a record.
pub(super) type Count = fn(&mut ServiceRecord);

/// One member's scores of a round (R4).
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize)]
pub struct ScoreState {
    /// Model.
    pub model: ModelId,
    /// Round.
    pub round: u64,
    /// Who.
    pub member: NodeId,
    /// What it committed to.
    pub commitment: Digest,
    /// Height of the commitment.
    pub committed_height: u64,
    /// What it measured, once opened; dropped when the round is judged.
    pub measured: Option<Box<Outcome>>,
    /// Whether it agreed, once the round is judged.
    pub agreed: Option<bool>,
}
record!(ScoreState, b"scor", 61 << 10);

/// An attested block.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode, Serialize)]
pub struct CheckpointState {
    /// What was attested.
    pub checkpoint: Checkpoint,
    /// By which epoch's committee.
    pub epoch: u64,
    /// Its signature.
    pub signature: GroupSignature,
}
record!(CheckpointState, b"chks", 512);
