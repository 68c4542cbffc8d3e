use super::*;
use proptest::prelude::*;

struct Ceremony {
    secrets: Vec<EncryptionSecret>,
    seeds: Vec<EpochSeed>,
    transcript: Transcript,
}

fn ceremony(n: u8) -> Ceremony {
    let secrets: Vec<_> = (0..n).map(|i| EncryptionSecret::derive(&[i + 1; 32])).collect();
    let members: Vec<_> = secrets.iter().zip(1u8..).map(|(s, i)| (NodeId([i; 32]), s.public())).collect();
    let mut rng = ChaCha20Rng::from_seed([n; 32]);
    let seeds: Vec<_> = members.iter().map(|_| EpochSeed::random(&mut rng)).collect();
    let transcript = deal_locally(&members, Digest([7; 32]), &seeds).unwrap();
    Ceremony { secrets, seeds, transcript }
}

#[test] // C2: every member gets the shares of keys that everybody computes from the ledger alone
fn members_and_onlookers_agree_on_the_keys() {
    for n in [2, 4, 7] {
        let c = ceremony(n);
        let (group, beacon) = c.transcript.keys().unwrap();
        assert_eq!((group.threshold(), beacon.threshold()), (threshold(n.into()), threshold(n.into())));
        for i in 0..usize::from(n) {
            let (share, partial) = c.transcript.shares(&c.seeds[i], i, &c.secrets[i]).unwrap();
            assert!(share.belongs_to(&group, c.transcript.members[i]));
            assert!(partial.belongs_to(&beacon));
            let (again, _) = c.transcript.shares(&c.seeds[i], i, &c.secrets[i]).unwrap();
            assert_eq!(again.to_secret_bytes().unwrap(), share.to_secret_bytes().unwrap(), "a restart changes nothing");
        }
        let bytes = crate::codec::encode(&c.transcript);
        assert_eq!(crate::codec::decode::<Transcript>(&bytes).unwrap(), c.transcript);
    }
}

#[test] // C2: shares are for one recipient, one attempt, one dealer
fn boxes_are_bound() {
    let c = ceremony(4);
    assert_eq!(c.transcript.bad_dealers(1, &c.secrets[2]), [0, 2, 3], "another member's key opens nothing");
    let other = Transcript { context: Digest([8; 32]), ..c.transcript.clone() };
    assert_eq!(other.bad_dealers(1, &c.secrets[1]), [0, 2, 3], "another attempt's boxes");
    let mut swapped = c.transcript.clone();
    swapped.round2.swap(0, 3);
    assert_eq!(swapped.bad_dealers(1, &c.secrets[1]), [0, 3], "another dealer's shares do not fit");
    assert!(matches!(swapped.shares(&c.seeds[1], 1, &c.secrets[1]), Err(DkgError::BadShares(bad)) if bad == [0, 3]));
    assert!(c.transcript.shares(&c.seeds[0], 1, &c.secrets[1]).is_err(), "another member's seed");
}

#[test] // C2: only packages with proof of knowledge, for their place and size
fn packages_prove_knowledge() {
    let c = ceremony(4);
    let r = &c.transcript.round1;
    assert!(r[0].check(0, 4) && !r[0].check(1, 4) && !r[0].check(0, 7));
    let mixed = Round1 { signing: r[0].signing.clone(), beacon: r[1].beacon.clone() };
    assert!(!mixed.check(0, 4), "both keys must be proven");
    let mut forged = c.transcript.clone();
    forged.round1[2] = r[1].clone();
    assert_eq!(forged.keys().unwrap_err(), DkgError::BadPackage(2));
}

#[test] // C2: an opened share heals a bad box, and only a fitting one
fn opened_shares_replace_bad_boxes() {
    let mut c = ceremony(4);
    c.transcript.round2[2].boxes[1][40] ^= 1;
    assert_eq!(c.transcript.bad_dealers(1, &c.secrets[1]), [2]);
    let opened = c.transcript.open_for(&c.seeds[2], 2, 1).unwrap();
    assert!(c.transcript.fits(2, 1, &opened) && !c.transcript.fits(2, 0, &opened) && !c.transcript.fits(3, 1, &opened));
    c.transcript.opened.push((2, 1, opened));
    let (group, _) = c.transcript.keys().unwrap();
    let (share, _) = c.transcript.shares(&c.seeds[1], 1, &c.secrets[1]).unwrap();
    assert!(share.belongs_to(&group, c.transcript.members[1]));
}

#[test] // C5: the seed on disk is sealed to its node and bound to its epoch
fn seeds_are_sealed() {
    let (mine, other) = (EncryptionSecret::derive(&[1; 32]), EncryptionSecret::derive(&[2; 32]));
    let mut rng = ChaCha20Rng::from_seed([1; 32]);
    let seed = EpochSeed::random(&mut rng);
    let bytes = seed.seal(5, &mine.public(), &mut rng).unwrap();
    assert!(!bytes.windows(8).any(|w| w == &seed.0[..8]), "not in the clear");
    assert_eq!(*EpochSeed::open(&bytes, 5, &mine).unwrap().0, *seed.0);
    assert!(EpochSeed::open(&bytes, 6, &mine).is_err() && EpochSeed::open(&bytes, 5, &other).is_err());
    for i in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[i] ^= 1 << (i % 8);
        assert!(EpochSeed::open(&damaged, 5, &mine).is_err(), "byte {i}");
    }
    assert!(format!("{seed:?}").contains("redacted"));
}

proptest! {
    #[test] // K3
    fn garbage_never_panics(signing in proptest::collection::vec(any::<u8>(), 0..200),
                            sealed in proptest::collection::vec(any::<u8>(), 0..200), index in 0usize..9) {
        let round1 = Round1 { signing: signing.clone(), beacon: signing };
        let _ = round1.check(index, 4);
        let members: Vec<NodeId> = (0..4).map(|i| NodeId([i; 32])).collect();
        let transcript = Transcript {
            context: Digest([0; 32]), members, round1: vec![round1; 3],
            round2: vec![Round2 { boxes: vec![sealed; 2] }; 5], opened: vec![],
        };
        let secret = EncryptionSecret::derive(&[0; 32]);
        let seed = EpochSeed::random(&mut ChaCha20Rng::from_seed([0; 32]));
        let _ = transcript.keys();
        let _ = transcript.bad_dealers(index, &secret);
        let _ = transcript.shares(&seed, index, &secret);
        let _ = transcript.open_for(&seed, index, 1);
    }
}
