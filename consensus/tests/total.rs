//! L2: the state machine is total and deterministic. Any bytes that decode as a block, and any list of
//! transactions, give the same result twice, never panic, and leave the state alone if refused.

#[path = "world/mod.rs"]
#[allow(dead_code)]
mod world;

use oda_consensus::codec;
use oda_consensus::fuzzing::validator;
use oda_consensus::ids::{Digest, Signature};
use oda_consensus::keys::NodeKey;
use oda_consensus::manifest::Architecture;
use oda_consensus::state::{Entry, State};
use oda_consensus::tx::{Block, SignedTx, Tx};
use oda_consensus::wire::{DecidedBlock, PeerRecord, Request, Role, SignedPeerRecord};
use proptest::prelude::*;
use std::sync::OnceLock;
use world::{World, manifest, sponsor, trainer};

/// A round's blocks and transactions, and the ledger's state before each block.
struct Past {
    states: Vec<State>,
    blocks: Vec<Block>,
    txs: Vec<SignedTx>,
}

fn past() -> &'static Past {
    static PAST: OnceLock<Past> = OnceLock::new();
    PAST.get_or_init(|| {
        let mut world = World::new();
        let mut at = world.state.clone();
        let mut states = vec![at.clone()];
        let mut txs = world.whole_round();
        for block in &world.blocks {
            at.apply(block).unwrap();
            states.push(at.clone());
        }
        txs.extend([world.commit(2), world.reveal(1), world.refund(1)]);
        Past { states, blocks: world.blocks, txs }
    })
}

/// Applies a block twice; the same both times, and nothing changes if it is refused.
fn check(state: &State, block: &Block) -> bool {
    let (mut first, mut second) = (state.clone(), state.clone());
    let (a, b) = (first.apply(block), second.apply(block));
    assert_eq!(a, b);
    assert_eq!(first.tip(), second.tip());
    assert_eq!(first.build(&[], 10).0, second.build(&[], 10).0);
    match a {
        Ok(applied) => {
            // D3: what was stored is the state
            let mut restored = state.clone();
            for entry in applied.entries {
                restored.restore(Entry::decode(&entry.key(), &entry.value()).expect("an entry reads back"));
            }
            assert_eq!(restored.tip(), first.tip());
            first.check_invariants(first.models().map(|(id, _)| id)).expect("the sums add up");
            true
        }
        Err(_) => {
            assert_eq!(first.tip(), state.tip());
            assert!(first.claims().eq(state.claims()) && first.escrows().eq(state.escrows()));
            assert!(first.models().eq(state.models()) && first.credits().eq(state.credits()));
            false
        }
    }
}

/// A transaction from the past with bytes overwritten behind the header, signed again by somebody.
fn altered(tx: &SignedTx, flips: &[(u16, u8)], signer: u8, state: &State) -> Option<SignedTx> {
    let mut bytes = codec::encode(tx);
    let len = bytes.len();
    for (at, value) in flips {
        let at = 5 + usize::from(*at) % (len - 5);
        bytes[at] = *value;
    }
    let tx = codec::decode::<SignedTx>(&bytes).ok()?;
    Some(resigned(tx.tx, signer, state))
}

fn resigned(tx: Tx, signer: u8, state: &State) -> SignedTx {
    let key = match signer % 4 {
        0 => sponsor(),
        1 => validator(0),
        2 => NodeKey::from_secret(&[200; 32]),
        _ => trainer(signer % 3),
    };
    SignedTx::new(tx, &key, state.chain())
}

#[test] // the generators below reach what they are meant to reach
fn the_past_applies_and_every_refusal_is_repeatable() {
    let past = past();
    for (state, block) in past.states.iter().zip(&past.blocks) {
        assert!(check(state, block));
    }
    for state in &past.states {
        for block in &past.blocks {
            check(state, block);
        }
    }
    let kinds: std::collections::BTreeSet<_> = past.txs.iter().map(|t| t.kind()).collect();
    assert!(kinds.len() >= 7, "{kinds:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test] // L2
    fn any_decodable_block_gives_the_same_twice(
        which in 0usize..64,
        at in 0usize..64,
        flips in proptest::collection::vec((any::<u16>(), any::<u8>()), 0..4),
    ) {
        let past = past();
        let mut bytes = codec::encode(&past.blocks[which % past.blocks.len()]);
        let len = bytes.len();
        for (position, value) in flips {
            bytes[5 + usize::from(position) % (len - 5)] = value;
        }
        if let Ok(block) = codec::decode::<Block>(&bytes) {
            check(&past.states[at % past.states.len()], &block);
        }
    }

    #[test] // L2: any list, in any order, at any height, by anybody
    fn any_list_of_transactions_builds_a_block_that_applies(
        at in 0usize..64,
        picks in proptest::collection::vec((any::<u8>(), any::<u8>(), proptest::collection::vec((any::<u16>(), any::<u8>()), 0..3)), 0..12),
        time_ms in any::<u64>(),
        forge: bool,
    ) {
        let past = past();
        let state = &past.states[at % past.states.len()];
        let txs: Vec<SignedTx> = picks
            .iter()
            .filter_map(|(which, signer, flips)| {
                let tx = &past.txs[usize::from(*which) % past.txs.len()];
                if flips.is_empty() { Some(tx.clone()) } else { altered(tx, flips, *signer, state) }
            })
            .collect();
        let built = state.build(&txs, time_ms);
        prop_assert_eq!(&built, &state.build(&txs, time_ms));
        let (block, refused) = built;
        prop_assert!(block.txs.len() + refused.len() <= txs.len());
        let tip = state.tip();
        // only where no later block is possible may a built block be refused
        prop_assert!(check(state, &block) || tip.time_ms == u64::MAX || tip.height == u64::MAX);
        // the same transactions without the proposer's care
        let mut forced = block.clone();
        forced.txs = txs;
        forced.header.txs_root = Block::txs_root(&forced.txs);
        if forge {
            forced.txs.iter_mut().for_each(|tx| tx.signature = Signature([0; 64]));
            forced.header.state_root = Digest([1; 32]);
        }
        let accepted = check(state, &forced);
        prop_assert!(!accepted || forced == block);
    }

    #[test] // L2, K3
    fn any_bytes_as_a_block(body in proptest::collection::vec(any::<u8>(), 0..600)) {
        let mut bytes = vec![codec::VERSION];
        bytes.extend_from_slice(b"blck");
        bytes.extend_from_slice(&body);
        if let Ok(block) = codec::decode::<Block>(&bytes) {
            check(&past().states[0], &block);
        }
        for (_, target) in oda_consensus::fuzzing::targets() {
            target(&bytes);
        }
    }
}

/// A transaction larger than any may be.
fn oversized() -> SignedTx {
    let mut manifest = manifest("corpus");
    manifest.architecture = Architecture::Mlp { inputs: 4, hidden: vec![3; 20_000], classes: 2 };
    let unsigned = past().txs[0].clone();
    SignedTx { tx: Tx::AddModel(manifest), ..unsigned }
}

#[test] // K2, K3: a value inside another keeps to its own limit, or one peer could stop every node that hashes it
fn oversized_values_inside_others_are_refused() {
    let past = past();
    let mut block = past.blocks[0].clone();
    block.txs.push(oversized());
    // by hand: `encode` checks the outermost limit only, and these are within it
    assert!(codec::decode::<Block>(&codec::encode(&block)).is_err());
    let submit = Request::SubmitTx(Box::new(oversized()));
    assert!(codec::decode::<Request>(&codec::encode(&submit)).is_err());
    let record = PeerRecord {
        node: validator(0).id(),
        seq_ms: 1,
        role: Role::Lite,
        blobs: vec!["x".repeat(2_300)],
        p2p: Vec::new(),
        lightning: None,
        submissions: None,
    };
    let record = SignedPeerRecord { record, signature: Signature([0; 64]) };
    let decoded = codec::decode::<SignedPeerRecord>(&codec::encode(&record));
    assert!(decoded.is_err());
    let mut large = past.blocks[0].clone();
    large.txs = vec![past.txs[0].clone(); Block::MAX_BYTES / (codec::encode(&past.txs[0]).len() - 5) + 1];
    let certificate =
        oda_consensus::bft::CommitCertificate { height: 1, round: 0, block: large.header.prev, signatures: Vec::new() };
    let decided = DecidedBlock { block: large, certificate };
    assert!(codec::decode::<DecidedBlock>(&codec::encode(&decided)).is_err());
}
