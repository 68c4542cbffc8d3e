//! Every method with its parameters, answer and access class (the shapes of answers: [`super::shapes`]): one table that
//! the server goes by, programs fetch as OpenRPC document and people read as `docs/rpc.md`.
//!
//! Types are words: `u64`, `i64`, `bool`, `string`, `hash` (32 bytes in hex), `hex`, `any`, or the name of a shape; with
//! `[]` behind it a list, with `?` one that may be absent or null.

use super::errors::{
    BAD_TOKEN, BEYOND_TOKEN, BUSY, DAMAGED, INVALID_PARAMS, NOT_FOUND, REFUSED, TIMED_OUT, TOKEN_EXPIRED, TOO_SLOW,
    UNAUTHORIZED, UNAVAILABLE,
};
use std::time::Duration;

pub use super::shapes::SHAPES;

/// Who may call a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    /// Whoever reaches the port.
    Open,
    /// Whoever shows the cookie, or a token that allows it: the method acts for the node's owner.
    Write,
}

impl Auth {
    /// Its name in the reference and in tokens.
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Write => "write",
        }
    }
}

/// What kind of method it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One answer.
    Call,
    /// Answers with a subscription's id; items come as notifications of that name.
    Subscribe(&'static str),
    /// Ends a subscription.
    Unsubscribe,
}

/// A field or parameter: name, type, what it is.
pub type Field = (&'static str, &'static str, &'static str);

/// A method.
#[derive(Clone, Copy, Debug)]
pub struct Method {
    /// Full name.
    pub name: &'static str,
    /// Kind.
    pub kind: Kind,
    /// Access class.
    pub auth: Auth,
    /// What it does.
    pub about: &'static str,
    /// Parameters in order.
    pub params: &'static [Field],
    /// Type of the answer, or of a subscription's items.
    pub result: &'static str,
    /// Errors of its own; those of every method apart.
    pub errors: &'static [i32],
    /// Time it may take, if another than [`super::Limits::call_timeout`].
    pub patience: Option<Duration>,
}

/// The entry of a method.
pub fn method(name: &str) -> Option<&'static Method> {
    METHODS.iter().find(|m| m.name == name)
}

const fn call(
    name: &'static str,
    about: &'static str,
    params: &'static [Field],
    result: &'static str,
    errors: &'static [i32],
) -> Method {
    Method { name, kind: Kind::Call, auth: Auth::Open, about, params, result, errors, patience: None }
}

const fn owner(mut method: Method) -> Method {
    method.auth = Auth::Write;
    method
}

const fn kind(mut method: Method, kind: Kind) -> Method {
    method.kind = kind;
    method
}

const fn patient(mut method: Method, seconds: u64) -> Method {
    method.patience = Some(Duration::from_secs(seconds));
    method
}

const LIMIT: Field = ("limit", "u64?", "most items; 500 if absent or more");
const SUBSCRIPTION: Field = ("subscription", "any", "id the subscription was given");

/// Errors any method can answer with.
pub const COMMON_ERRORS: &[i32] = &[INVALID_PARAMS, TIMED_OUT, BUSY, -32603, -32008];

const SUBJECT: Field = (
    "subject",
    "any",
    "one of {\"block\": HEIGHT}, {\"model\": ID}, {\"claim\": ID}, {\"escrow\": ID}, {\"outcome\": [MODEL, ROUND]}, \
     {\"credit\": [MODEL, TRAINER]}, {\"epoch\": NUMBER}, {\"validator\": NODE}",
);

/// All methods.
pub const METHODS: &[Method] = &[
    call("oda_status", "What the node is and where its ledger stands.", &[], "Status", &[]),
    call("oda_block", "One block.", &[("height", "u64", "height")], "Block", &[NOT_FOUND, DAMAGED]),
    call(
        "oda_blocks",
        "Blocks up to a height, newest last. Without `empty`, of the 10,000 up to it, those that hold transactions. For \
         the page before, ask up to the height below the first one received.",
        &[("to", "u64?", "height of the newest; the tip if absent"), LIMIT, ("empty", "bool?", "empty blocks too")],
        "Block[]",
        &[DAMAGED],
    ),
    call(
        "oda_models",
        "Models, ascending by id.",
        &[LIMIT, ("after", "hash?", "id of the last one received")],
        "Model[]",
        &[],
    ),
    call("oda_model", "One model.", &[("id", "hash", "model")], "Model", &[NOT_FOUND]),
    call("oda_claim", "One claim from commit to payment.", &[("id", "hash", "claim")], "ClaimWithEscrow", &[NOT_FOUND]),
    call(
        "oda_claims",
        "Claims of a model, of one round or of all rounds: by round, in each ascending by id.",
        &[
            ("model", "hash", "model"),
            ("round", "u64?", "only this round"),
            LIMIT,
            ("after", "hash?", "id of the last claim received"),
        ],
        "ClaimWithEscrow[]",
        &[NOT_FOUND],
    ),
    call(
        "oda_outcomes",
        "Outcomes of a model, by round.",
        &[("model", "hash", "model"), ("from_round", "u64?", "first round; 0 if absent"), LIMIT],
        "OutcomeRecord[]",
        &[],
    ),
    call(
        "oda_attestations",
        "What committees have signed: the outcomes of a model by round or, without a model, checkpoints by height.",
        &[("model", "hash?", "whose outcomes"), LIMIT, ("after", "u64?", "`number` of the last one received")],
        "Attestation[]",
        &[NOT_FOUND],
    ),
    call(
        "oda_committees",
        "Epochs with committee and key, each signed by the one before: who checks them from 0 on needs to trust nobody.",
        &[LIMIT, ("after", "u64?", "`epoch` of the last one received")],
        "Committee[]",
        &[],
    ),
    call(
        "oda_credit",
        "Credit by model and trainer, ascending.",
        &[
            ("model", "hash?", "only this model"),
            LIMIT,
            ("after", "CreditCursor?", "model and trainer of the last one"),
            ("trainer", "hash?", "only this trainer"),
        ],
        "Credit[]",
        &[],
    ),
    call("oda_escrow", "One escrow.", &[("id", "hash", "escrow")], "Escrow", &[NOT_FOUND]),
    call(
        "oda_federation",
        "The committee in charge, the coming one, the first 500 validators.",
        &[],
        "Federation",
        &[],
    ),
    call(
        "oda_validators",
        "Validators and applicants with their service record, ascending by node.",
        &[LIMIT, ("after", "hash?", "`node` of the last one received")],
        "Validator[]",
        &[],
    ),
    call(
        "oda_peers",
        "Peers this node knows, ascending by node.",
        &[LIMIT, ("after", "hash?", "`node` of the last one received")],
        "Peer[]",
        &[],
    ),
    call(
        "oda_payments",
        "Payments this node has dealt, ascending by escrow and tranche.",
        &[LIMIT, ("after", "PaymentCursor?", "escrow and tranche of the last one received")],
        "Payment[]",
        &[],
    ),
    call("oda_wallet", "This node's Lightning wallet.", &[], "Wallet", &[UNAVAILABLE]),
    patient(
        call(
            "oda_verifyLedger",
            "Replays the whole ledger of this node from genesis and checks every block, vote and root; one call at a time.",
            &[],
            "VerifyReport",
            &[DAMAGED],
        ),
        600,
    ),
    call(
        "oda_proof",
        "Proof that a record is under the newest attested block: the newest version that this block covers. `oda proof check` \
         checks it offline, from the genesis file alone.",
        &[SUBJECT],
        "Proof",
        &[NOT_FOUND, DAMAGED],
    ),
    call(
        "oda_extension",
        "Proof that the ledger at one attested height is the beginning of that at another (RFC 9162, 2.1.4): codec bytes of an \
         `ExtensionProof`.",
        &[("old", "u64", "the lower height"), ("new", "u64", "the higher height")],
        "hex",
        &[NOT_FOUND, DAMAGED],
    ),
    call(
        "oda_handovers",
        "How the committees' keys were handed on, by epoch: codec bytes of each `HandoverLink`, signed by the committee before.",
        &[LIMIT, ("after", "u64?", "epoch of the last one received; from the first if absent")],
        "hex[]",
        &[],
    ),
    call(
        "oda_history",
        "What a record was over time: each version with the block that wrote it, oldest first. For the page after, ask from the \
         height above the last one received.",
        &[SUBJECT, ("from_height", "u64?", "first height; 0 if absent"), LIMIT],
        "Version[]",
        &[DAMAGED],
    ),
    call(
        "oda_submit",
        "Puts a signed transaction before the network and returns its hash. Needs no cookie: a transaction carries its \
         signer's signature, and peers take it from anyone too.",
        &[("tx", "hex", "codec bytes of a `SignedTx`")],
        "hash",
        &[REFUSED],
    ),
    owner(call(
        "oda_stop",
        "Stops the node as SIGTERM does: calls under way are answered, then the ledger is closed.",
        &[],
        "bool",
        &[UNAUTHORIZED, BAD_TOKEN, TOKEN_EXPIRED, BEYOND_TOKEN],
    )),
    owner(call(
        "oda_ban",
        "Closes the connection to a peer and takes none from it for a while; 0 seconds end an earlier ban.",
        &[("node", "hash", "peer"), ("seconds", "u64", "how long, at most a year")],
        "bool",
        &[UNAUTHORIZED, BAD_TOKEN, TOKEN_EXPIRED, BEYOND_TOKEN, UNAVAILABLE],
    )),
    kind(
        call(
            "oda_subscribeBlocks",
            "Every block from a height on, in order, none twice: those on the ledger first, then each new one.",
            &[("from_height", "u64?", "first height; the next block if absent")],
            "Block",
            &[UNAVAILABLE, NOT_FOUND, DAMAGED, TOO_SLOW, -32006],
        ),
        Kind::Subscribe("oda_newBlock"),
    ),
    kind(
        call("oda_unsubscribeBlocks", "Ends a subscription to blocks.", &[SUBSCRIPTION], "bool", &[UNAVAILABLE]),
        Kind::Unsubscribe,
    ),
    kind(
        call(
            "oda_subscribeRecords",
            "The records of every block from a height on that are of this model and one of these kinds.",
            &[
                ("model", "hash?", "only records about this model"),
                ("kinds", "string[]?", "only these kinds (`kind` of a transaction), at most 64"),
                ("from_height", "u64?", "first height; the next block if absent"),
            ],
            "Record",
            &[UNAVAILABLE, NOT_FOUND, DAMAGED, TOO_SLOW, -32006],
        ),
        Kind::Subscribe("oda_newRecord"),
    ),
    kind(
        call("oda_unsubscribeRecords", "Ends a subscription to records.", &[SUBSCRIPTION], "bool", &[UNAVAILABLE]),
        Kind::Unsubscribe,
    ),
    call("rpc.discover", "This document (OpenRPC 1.3).", &[], "any", &[]),
];
