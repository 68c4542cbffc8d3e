//! A validator that lies, for test networks (`[validator] misbehave`): it reveals scores it did not
//! measure and sends signature shares that do not hold. Everything else it does honestly, which is
//! how it gets into committees.

use oda_consensus::engine::validator::ValidatorInput;
use oda_consensus::frost::SignMessage;
use oda_consensus::score::Measurement;

/// Makes every claim's gain look larger than it is.
pub(super) fn judge(input: ValidatorInput) -> ValidatorInput {
    match input {
        ValidatorInput::Judged(mut judged) => {
            for (_, _, measurement) in &mut judged.measured.claims {
                if let Measurement::Scored(scores) = measurement {
                    scores.shard.sum_unat = scores.shard.sum_unat.saturating_add(1_000_000);
                }
            }
            ValidatorInput::Judged(judged)
        }
        other => other,
    }
}

/// Spoils signature shares.
pub(super) fn sign(message: SignMessage) -> SignMessage {
    match message {
        SignMessage::Share { id, request, mut share, next } => {
            if let Some(byte) = share.last_mut() {
                *byte ^= 1;
            }
            SignMessage::Share { id, request, share, next }
        }
        other => other,
    }
}
