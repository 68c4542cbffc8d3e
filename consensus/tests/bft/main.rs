//! L1 under a deterministic network: agreement, validity and termination, whatever f of 3f+1 validators
//! do, and a validator that is killed anywhere never signs twice (C5, P6).
//!
//! `net` is the network and checks while it runs; `attack` says what an attacker may do; each kind of
//! attacker has a file of its own with the tests it must lose.

mod attack;
mod crash;
mod equivocating;
mod impersonating;
mod late;
mod lying;
mod net;
mod replaying;
mod restart;
mod silent;
mod slow;

use arc_malachitebft_core_types::VoteType;
use attack::{HONEST, four, fresh, one, vote};
use equivocating::TWO_FACED;
use net::Sim;
use oda_consensus::bft::*;
use oda_consensus::codec;
use oda_consensus::ids::BlockHash;
use proptest::prelude::*;

#[test] // L1
fn four_and_seven_decide_the_same_thirty_blocks() {
    for (seed, n) in [(1, 4), (2, 7), (3, 1)] {
        let mut sim = Sim::new(seed, &vec![HONEST; n], 0);
        sim.run(30);
        assert!(sim.evidence.is_empty());
        assert_eq!(sim.max_round, 0, "nothing disturbs, so every first proposal is decided");
    }
}

#[test] // one seed replays any failure
fn same_seed_same_trace() {
    let trace = |seed| {
        let mut sim = Sim::new(seed, &[HONEST, HONEST, HONEST, TWO_FACED], 10);
        sim.crash_at = vec![50, 90];
        sim.run(8);
        sim.trace.finalize()
    };
    assert_eq!(trace(50), trace(50));
    assert_ne!(trace(50), trace(51));
}

#[test] // C5: a height never starts twice, a damaged log never votes
fn heights_only_rise_and_damage_stops() {
    let mut bft = one(0);
    let start = |height| BftInput::StartHeight { height, validators: four() };
    assert!(matches!(bft.handle(start(1)), Err(BftError::HeightPassed { .. })));
    assert!(bft.handle(start(9)).is_ok());
    assert_eq!(bft.height(), 9);
    assert!(matches!(bft.handle(start(8)), Err(BftError::HeightPassed { .. })));
    assert!(matches!(bft.replay(&[]), Err(BftError::AlreadyStarted)));
    let mut fresh = fresh(0, 1);
    assert!(matches!(fresh.handle(start(2)), Err(BftError::NotStarted)));
    assert!(matches!(fresh.replay(&[vec![1, 2, 3]]), Err(BftError::DamagedLog { index: 0, .. })));
    let config = BftConfig { key: net::key(0), chain: net::CHAIN, timeouts: Timeouts::default() };
    assert!(matches!(Bft::new(config, 1, &[]), Err(BftError::Validators(0))));
}

#[test] // K2: changing bytes on the wire breaks a test on purpose
fn bytes_are_pinned() {
    let v = vote(1, VoteType::Precommit, 3, BlockHash([5; 32]));
    let pinned = codec::hash(&Message::Vote(v.clone()));
    assert_eq!(codec::decode::<Message>(&codec::encode(&Message::Vote(v.clone()))).unwrap(), Message::Vote(v));
    assert_eq!(hex::encode(pinned), PINNED);
}
const PINNED: &str = "bc65dce50cbfb82d5de58f985d8e955a7fe8bc313652c3fe5360c14e082bbf5c";

#[test] // pure: no clock, no unseeded randomness, no unordered iteration
fn no_ambient_inputs() {
    for file in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/bft")).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        for word in ["Instant", "SystemTime", "thread_rng", "HashMap", "HashSet", "tokio"] {
            assert!(!text.contains(word), "{word}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test] // K3
    fn arbitrary_bytes_never_panic(body in proptest::collection::vec(any::<u8>(), 0..300), kind in 0u32..5) {
        let mut bft = one(0);
        let mut bytes = vec![codec::VERSION];
        bytes.extend_from_slice(b"bftm");
        bytes.extend_from_slice(&kind.to_le_bytes());
        bytes.extend_from_slice(&body);
        let effects = bft.handle(BftInput::Message { bytes }).unwrap_or_default();
        prop_assert!(effects.is_empty());
        let refused = bft.handle(BftInput::Message { bytes: body }).is_err();
        prop_assert!(refused);
    }

    #[test] // K3: one bit flipped anywhere in an authentic message is noticed
    fn flipped_bits_are_refused(bit in 0usize..8 * 140, precommit: bool, height in 1u64..4) {
        let mut bft = one(0);
        let kind = if precommit { VoteType::Precommit } else { VoteType::Prevote };
        let mut bytes = codec::encode(&Message::Vote(vote(1, kind, height, BlockHash([5; 32]))));
        let bit = bit % (8 * bytes.len());
        bytes[bit / 8] ^= 1 << (bit % 8);
        let effects = bft.handle(BftInput::Message { bytes }).unwrap_or_default();
        prop_assert!(effects.is_empty());
    }
}
