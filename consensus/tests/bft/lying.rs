//! Invalid blocks, votes for blocks that do not exist, forged certificates, wrong signatures.

use super::attack::{Attacker, HONEST, Kind, Me, SIZES, Sending, four, one, say, vote, vote_in};
use super::net::{CHAIN, Sim, key};
use arc_malachitebft_core_types::VoteType;
use oda_consensus::bft::*;
use oda_consensus::codec;
use oda_consensus::ids::{BlockHash, ChainId, Signature};
use rand_core::RngCore;

/// Proposes blocks nobody accepts, and votes for them.
struct BadBlocks;

pub const BAD_BLOCKS: Kind = Some(|| Box::new(BadBlocks));

impl Attacker for BadBlocks {
    fn block(&mut self, me: &mut Me<'_>, block: Vec<u8>) -> Vec<u8> {
        match me.rng.next_u32() % 3 {
            0 => Vec::new(),
            1 => vec![0xff; 3_000],
            _ => [b"bad ".to_vec(), block].concat(),
        }
    }
}

/// Votes for blocks nobody has seen, in several rounds ahead.
struct Inventor;

pub const INVENTOR: Kind = Some(|| Box::new(Inventor));

impl Attacker for Inventor {
    fn tick(&mut self, me: &mut Me<'_>) -> Vec<Sending> {
        let round = me.rng.next_u32() % 4;
        let mut block = [0; 32];
        me.rng.fill_bytes(&mut block[..2]);
        let kind = if me.rng.next_u32().is_multiple_of(2) { VoteType::Prevote } else { VoteType::Precommit };
        let height = me.height + u64::from(me.rng.next_u32() % 4);
        let vote = vote_in(me.index, kind, height, round, Some(BlockHash(block)));
        vec![Sending::all(codec::encode(&Message::Vote(vote)))]
    }
}

/// Certificates for a block it made up, from whatever signatures it can get.
struct Forger;

pub const FORGER: Kind = Some(|| Box::new(Forger));

impl Forger {
    /// Too few of its fellows, padded in every way that might be overlooked.
    fn signatures(me: &mut Me<'_>, kind: VoteType, round: u32, block: BlockHash) -> Vec<SignedVote> {
        let sign = |i| vote_in(i, kind, me.height, round, Some(block));
        let fellows = || (0..me.attackers.len()).filter(|i| me.attackers[*i]);
        let honest = || (0..me.attackers.len()).filter(|i| !me.attackers[*i]);
        let own: Vec<SignedVote> = fellows().map(sign).collect();
        match me.rng.next_u32() % 4 {
            0 => own,
            1 => [own.clone(), own.clone(), own.clone(), own].concat(), // each several times
            2 => {
                // the honest ones with a signature over something else
                let others = honest().map(|i| SignedVote { signature: own[0].signature, ..sign(i) });
                own.iter().cloned().chain(others).collect()
            }
            _ => {
                // strangers, rightly signed
                own.iter().cloned().chain((100..110).map(sign)).collect()
            }
        }
    }
}

impl Attacker for Forger {
    fn tick(&mut self, me: &mut Me<'_>) -> Vec<Sending> {
        let block = BlockHash([0xdd; 32]);
        let round = me.rng.next_u32() % 3;
        let polka = Message::Polka(Self::signatures(me, VoteType::Prevote, round, block));
        let votes = Self::signatures(me, VoteType::Precommit, round + 5, block);
        // f fellows are no third: entering round + 5 on their word would let them pick the proposer
        let skip = Message::Round { skip: true, votes: votes.clone() };
        let enter = Message::Round { skip: false, votes };
        vec![Sending::forged(&polka), Sending::forged(&skip), Sending::forged(&enter)]
    }

    fn answer_sync(
        &mut self,
        me: &mut Me<'_>,
        (block, c): (Vec<u8>, CommitCertificate),
    ) -> (Vec<u8>, CommitCertificate) {
        let other = [block.clone(), b"?".to_vec()].concat();
        match me.rng.next_u32() % 5 {
            0 => (other, c),
            1 => (other.clone(), CommitCertificate { block: block_id(&other), ..c }),
            2 => (block, CommitCertificate { height: c.height + 1, ..c }),
            3 => (block, CommitCertificate { signatures: c.signatures[..1].repeat(8), ..c }),
            _ => {
                let id = block_id(&other);
                let votes = Self::signatures(me, VoteType::Precommit, c.round, id);
                let signatures = votes.into_iter().map(|v| (v.vote.voter, v.signature)).collect();
                (other, CommitCertificate { block: id, signatures, ..c })
            }
        }
    }
}

#[test] // L1: a validator whose blocks nobody accepts only costs rounds
fn refused_blocks_are_never_decided() {
    Sim::new(20, &[HONEST, BAD_BLOCKS, HONEST, HONEST], 0).run(30);
}

#[test] // L1: f of 3f+1 liars; the network checks agreement, validity and that forgeries move nothing
fn f_liars_decide_nothing_invalid_and_stop_nobody() {
    for n in SIZES {
        for (seed, kind) in [(1, BAD_BLOCKS), (2, INVENTOR), (3, FORGER)] {
            let mut sim = Sim::attacked(seed, n, kind, 0);
            // somebody has to ask for blocks, so that the forger can answer
            sim.absent(0, 1_000, 12_000);
            sim.run(15);
            let f = (n - 1) as u32 / 3;
            assert!(sim.max_round <= 2 * f + 3, "round {} with {f} of {n}, kind {seed}", sim.max_round);
            assert!(seed != 3 || sim.refused > 20, "only {} refused", sim.refused);
            assert!(sim.synced > 0);
        }
    }
}

#[test] // L1, K3
fn forged_and_malformed_messages_are_refused() {
    let mut bft = one(0);
    let block = BlockHash([5; 32]);
    let good = vote(1, VoteType::Prevote, 1, block);
    let mut forged = good.clone();
    forged.signature = Signature([0; 64]);
    for height in [1, 2] {
        let mut forged = forged.clone();
        forged.vote.height = Height(height);
        assert!(matches!(say(&mut bft, &Message::Vote(forged)), Err(BftError::Refused(_))));
    }
    assert!(matches!(say(&mut bft, &Message::Polka(vec![good.clone()])), Err(BftError::Refused(_))));
    assert!(matches!(say(&mut bft, &Message::Polka(vec![])), Err(BftError::Refused(_))));
    let skip = Message::Round { skip: true, votes: vec![good.clone(), forged] };
    assert!(say(&mut bft, &skip).is_err() || say(&mut bft, &skip).unwrap().is_empty());
    let header = ProposalHeader { height: 1, round: 0, pol_round: None, block, proposer: key(1).id() };
    let proposal =
        Message::Proposal(SignedHeader { signature: key(1).sign(CHAIN, &header), header }, b"other".to_vec());
    assert!(matches!(say(&mut bft, &proposal), Err(BftError::Refused(_))));
    let oversized = vec![1; MAX_MESSAGE_BYTES + 1];
    assert!(matches!(bft.handle(BftInput::Message { bytes: oversized }), Err(BftError::Malformed(_))));
    let block = vec![0; MAX_BLOCK_BYTES + 1];
    assert!(matches!(bft.handle(BftInput::Propose { height: 1, round: 0, block }), Err(BftError::BlockTooLarge(_))));
    // the authentic one moves the engine: it is logged
    assert!(matches!(say(&mut bft, &Message::Vote(good)).unwrap()[..], [BftEffect::WalAppend { .. }, ..]));
}

#[test] // L1
fn certificates_need_distinct_validators_and_a_quorum() {
    let validators = four();
    let block = block_id(b"block");
    let sign = |i: usize, kind| (key(i).id(), vote(i, kind, 3, block).signature);
    let of = |signers: &[usize]| CommitCertificate {
        height: 3,
        round: 0,
        block,
        signatures: signers.iter().map(|&i| sign(i, VoteType::Precommit)).collect(),
    };
    let verify = |c: &CommitCertificate| verify_certificate(CHAIN, &validators, c);
    verify(&of(&[0, 1, 2])).unwrap();
    verify(&of(&[0, 1, 2, 3])).unwrap();
    assert!(matches!(verify(&of(&[0, 1])), Err(CertificateError::TooFew { signed: 2, validators: 4 })));
    assert!(matches!(verify(&of(&[])), Err(CertificateError::TooFew { .. })));
    assert!(matches!(verify(&of(&[0, 1, 1])), Err(CertificateError::Duplicate(_))));
    assert!(matches!(verify(&of(&[0, 1, 4])), Err(CertificateError::Foreign(_))));
    let other_block = CommitCertificate { block: block_id(b"other"), ..of(&[0, 1, 2]) };
    assert!(matches!(verify(&other_block), Err(CertificateError::BadSignature(_))));
    for wrong in [CommitCertificate { height: 4, ..of(&[0, 1, 2]) }, CommitCertificate { round: 1, ..of(&[0, 1, 2]) }] {
        assert!(matches!(verify(&wrong), Err(CertificateError::BadSignature(_))));
    }
    let mut prevote = of(&[0, 1, 2]);
    prevote.signatures[1] = sign(1, VoteType::Prevote);
    assert!(matches!(verify(&prevote), Err(CertificateError::BadSignature(_))));
    assert!(verify_certificate(ChainId([8; 32]), &validators, &of(&[0, 1, 2])).is_err());
    assert!(verify_certificate(CHAIN, &[], &of(&[])).is_err());
}
