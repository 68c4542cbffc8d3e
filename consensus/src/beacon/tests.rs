use super::*;
use proptest::prelude::{any, prop_assert, proptest};
use proptest::test_runner::Config as ProptestConfig;
use std::sync::OnceLock;

struct Committee {
    key: BeaconKey,
    shares: Vec<BeaconShare>,
    packages: Vec<frost::keys::KeyPackage>,
    public: frost::keys::PublicKeyPackage,
}

fn rng(seed: u8) -> ChaCha20Rng {
    ChaCha20Rng::from_seed([seed; 32])
}

fn split(secret: &frost::SigningKey, n: usize, t: usize, seed: u8) -> Committee {
    let ids: Vec<_> = (0..n).map(|i| identifier(i).unwrap()).collect();
    let list = frost::keys::IdentifierList::Custom(&ids);
    let (n16, t16) = (u16::try_from(n).unwrap(), u16::try_from(t).unwrap());
    let (secrets, public) = frost::keys::split(secret, n16, t16, list, &mut rng(seed)).unwrap();
    let packages: Vec<frost::keys::KeyPackage> = ids.iter().map(|id| secrets[id].clone().try_into().unwrap()).collect();
    let shares = packages.iter().enumerate().map(|(i, p)| BeaconShare::of(p, i).unwrap()).collect();
    Committee { key: BeaconKey::of(&public, n, t).unwrap(), shares, packages, public }
}

/// A committee whose key nobody ever held, as in the network.
fn dkg(n: usize, t: usize, seed: u8) -> Committee {
    use frost::keys::dkg;
    let (n16, t16) = (u16::try_from(n).unwrap(), u16::try_from(t).unwrap());
    let ids: Vec<_> = (0..n).map(|i| identifier(i).unwrap()).collect();
    let mut rng = rng(seed);
    let (mut secrets1, mut sent1) = (BTreeMap::new(), BTreeMap::new());
    for id in &ids {
        let (secret, package) = dkg::part1(*id, n16, t16, &mut rng).unwrap();
        secrets1.insert(*id, secret);
        sent1.insert(*id, package);
    }
    let others = |id: &frost::Identifier| {
        sent1.iter().filter(|(k, _)| *k != id).map(|(k, v)| (*k, v.clone())).collect::<BTreeMap<_, _>>()
    };
    let (mut secrets2, mut sent2) = (BTreeMap::new(), BTreeMap::new());
    for (id, secret) in secrets1 {
        let (secret, out) = dkg::part2(secret, &others(&id)).unwrap();
        secrets2.insert(id, secret);
        sent2.insert(id, out);
    }
    let (mut packages, mut public) = (Vec::new(), None);
    for id in &ids {
        let incoming = sent2.iter().filter(|(k, _)| *k != id).map(|(k, v)| (*k, v[id].clone())).collect();
        let (package, of_group) = dkg::part3(&secrets2[id], &others(id), &incoming).unwrap();
        packages.push(package);
        public = Some(of_group);
    }
    let public = public.unwrap();
    let shares = packages.iter().enumerate().map(|(i, p)| BeaconShare::of(p, i).unwrap()).collect();
    Committee { key: BeaconKey::of(&public, n, t).unwrap(), shares, packages, public }
}

fn four() -> &'static Committee {
    static FOUR: OnceLock<Committee> = OnceLock::new();
    FOUR.get_or_init(|| dkg(4, 3, 4))
}

fn input(number: u64) -> BeaconInput {
    BeaconInput { chain: ChainId([3; 32]), purpose: Purpose::Samples, number, subject: [8; 32] }
}

fn partials(c: &Committee, input: &BeaconInput) -> Vec<Partial> {
    c.shares.iter().map(|s| s.partial(input, &mut rng(9))).collect()
}

fn pick(all: &[Partial], mask: u32) -> Vec<Partial> {
    all.iter().filter(|p| mask >> p.index & 1 == 1).cloned().collect()
}

/// The value as whoever held the whole key would compute it: [k] H(x).
fn directly(c: &Committee, input: &BeaconInput) -> Beacon {
    let key = frost::keys::reconstruct(&c.packages[..c.key.threshold()]).unwrap();
    let k = Scalar::from_canonical_bytes(key.serialize().try_into().unwrap()).unwrap();
    let question = input.question();
    let h = point(&question.element.serialize().into()).unwrap();
    question.beacon(&(h * k))
}

#[test] // S3: the value is unique: whoever takes part, it is [k] H(x)
fn every_t_of_n_give_the_one_beacon_and_t_minus_one_give_none() {
    for (n, t) in [(4, 3), (5, 4), (5, 3)] {
        let c = dkg(n, t, n as u8);
        let x = input(1);
        let all = partials(&c, &x);
        let expected = directly(&c, &x);
        // larger sets are cut to their first t, smaller ones have less to say than t - 1
        for mask in (0u32..1 << n).filter(|m| (t - 1..=t).contains(&(m.count_ones() as usize))) {
            let some = pick(&all, mask);
            let result = c.key.combine(&x, &some);
            if some.len() < t {
                let error = BeaconError::TooFew { valid: some.len(), needed: t, bad: vec![] };
                assert_eq!(result, Err(error));
            } else {
                let (beacon, proof) = result.unwrap();
                assert_eq!(beacon, expected, "{n} {t} {mask:b}");
                assert_eq!(proof.partials.len(), t);
                if mask & 1 == 0 {
                    assert_eq!(c.key.verify(&x, &proof), Ok(expected));
                }
            }
        }
    }
}

#[test] // S3
fn random_sets_of_larger_committees_agree() {
    for (n, t) in [(7, 5), (10, 7)] {
        let c = dkg(n, t, 77);
        let x = input(n as u64);
        let mut all = partials(&c, &x);
        let expected = directly(&c, &x);
        for round in 0..2u8 {
            let mut random = rng(round);
            for i in (1..all.len()).rev() {
                all.swap(i, random.next_u32() as usize % (i + 1));
            }
            assert_eq!(c.key.combine(&x, &all[..t]).unwrap().0, expected);
        }
    }
}

#[test] // S3: fewer than t shares interpolate to something else
fn below_the_threshold_interpolation_misses() {
    let (c, x) = (four(), input(2));
    let values = |k: usize| -> Vec<_> {
        partials(c, &x).iter().take(k).map(|p| (p.index, point(&p.element).unwrap())).collect()
    };
    assert_eq!(x.question().beacon(&at_zero(&values(3))), directly(c, &x));
    assert_ne!(x.question().beacon(&at_zero(&values(2))), directly(c, &x));
}

#[test]
fn inputs_are_bound_in_every_field() {
    let c = four();
    let x = input(3);
    let base = directly(c, &x);
    for other in [
        BeaconInput { chain: ChainId([4; 32]), ..x },
        BeaconInput { purpose: Purpose::Committee, ..x },
        BeaconInput { number: 4, ..x },
        BeaconInput { subject: [9; 32], ..x },
    ] {
        assert_ne!(directly(c, &other), base);
        let foreign = partials(c, &other);
        assert!(foreign.iter().all(|p| !c.key.verify_partial(&x, p)));
        assert!(foreign.iter().all(|p| c.key.verify_partial(&other, p)));
    }
}

#[test] // C4: a cheater is named and costs nothing
fn bad_partials_are_named_and_left_out() {
    let (c, x) = (four(), input(5));
    let good = partials(c, &x);
    let elsewhere = dkg(4, 3, 99);
    let forgeries = [
        elsewhere.shares[1].partial(&x, &mut rng(1)), // another group's member 1
        c.shares[1].partial(&input(6), &mut rng(1)),  // another input
        Partial { index: 1, ..good[2].clone() },      // another member's
        Partial { element: good[2].element, ..good[1].clone() },
        Partial { proof: good[2].proof, ..good[1].clone() },
        Partial { element: [0; 32], ..good[1].clone() }, // the identity
        Partial { element: [0xff; 32], proof: [0xff; 64], index: 1 },
    ];
    for bit in [0, 255, 300, 511] {
        let mut p = good[1].clone();
        p.proof[bit / 8] ^= 1 << (bit % 8);
        assert!(!c.key.verify_partial(&x, &p));
    }
    for forged in forgeries {
        assert!(!c.key.verify_partial(&x, &forged));
        let with = [good[0].clone(), forged.clone(), good[2].clone(), good[3].clone()];
        let (beacon, proof) = c.key.combine(&x, &with).unwrap();
        assert_eq!(beacon, directly(c, &x));
        assert_eq!(proof.partials.iter().map(|p| p.index).collect::<Vec<_>>(), [0, 2, 3]);
        let short = [forged.clone(), good[0].clone(), good[3].clone()];
        assert_eq!(c.key.combine(&x, &short), Err(BeaconError::TooFew { valid: 2, needed: 3, bad: vec![1] }));
        let planted = BeaconProof { partials: vec![good[0].clone(), forged, good[3].clone()] };
        assert_eq!(c.key.verify(&x, &planted), Err(BeaconError::Invalid { bad: vec![1] }));
    }
    let stranger = Partial { index: 4, ..good[0].clone() };
    assert!(!c.key.verify_partial(&x, &stranger));
    // a forgery under an honest member's index does not push out the honest one
    let both = [Partial { index: 0, ..good[2].clone() }, good[0].clone(), good[1].clone(), good[2].clone()];
    assert_eq!(c.key.combine(&x, &both).unwrap().0, directly(c, &x));
}

#[test]
fn duplicates_count_once_and_floods_are_refused() {
    let (c, x) = (four(), input(7));
    let good = partials(c, &x);
    let twice = [good[0].clone(), good[0].clone(), good[1].clone()];
    assert_eq!(c.key.combine(&x, &twice), Err(BeaconError::TooFew { valid: 2, needed: 3, bad: vec![] }));
    let flood = vec![good[0].clone(); 5];
    assert_eq!(c.key.combine(&x, &flood), Err(BeaconError::TooMany { given: 5, members: 4 }));
}

#[test]
fn a_proof_is_exactly_t_ascending_partials_of_the_input() {
    let (c, x) = (four(), input(8));
    let g = partials(c, &x);
    let verify = |indexes: &[usize]| {
        c.key.verify(&x, &BeaconProof { partials: indexes.iter().map(|i| g[*i].clone()).collect() })
    };
    assert_eq!(verify(&[0, 2, 3]), Ok(directly(c, &x)));
    assert_eq!(verify(&[1, 2, 3]), Ok(directly(c, &x)));
    assert_eq!(verify(&[2, 0, 3]), Err(BeaconError::Order));
    assert_eq!(verify(&[0, 0, 3]), Err(BeaconError::Order));
    assert_eq!(verify(&[0, 3]), Err(BeaconError::Length { given: 2, needed: 3 }));
    assert_eq!(verify(&[]), Err(BeaconError::Length { given: 0, needed: 3 }));
    assert_eq!(verify(&[0, 1, 2, 3]), Err(BeaconError::Length { given: 4, needed: 3 }));
    let proof = c.key.combine(&x, &g).unwrap().1;
    assert_eq!(c.key.verify(&input(9), &proof), Err(BeaconError::Invalid { bad: vec![0, 1, 2] }));
    assert!(matches!(dkg(4, 3, 98).key.verify(&x, &proof), Err(BeaconError::Invalid { .. })));
}

#[test] // keys that do not fit together would let whoever picks the partials pick the beacon
fn a_key_off_the_polynomial_is_refused() {
    let c = four();
    let bytes = codec::encode(&c.key);
    assert_eq!(codec::decode::<BeaconKey>(&bytes).unwrap(), c.key);
    assert_eq!(bytes.len(), 5 + 2 + 32 + 8 + 4 * 32);
    let (threshold, group, members) = (c.key.threshold, c.key.group, c.key.members.clone());
    let misfit = Err(BeaconError::Key("the members' keys do not fit together"));
    for i in 0..4 {
        let mut moved = members.clone();
        moved[i] += group;
        assert_eq!(BeaconKey::new(threshold, group, moved), misfit);
    }
    assert_eq!(BeaconKey::new(threshold, group + members[0], members.clone()), misfit);
    assert_eq!(BeaconKey::new(2, group, members.clone()), misfit, "the degree is that of the threshold");
    let mut swapped = members.clone();
    swapped.swap(0, 1);
    assert_eq!(BeaconKey::new(threshold, group, swapped), misfit);
    for (n, t) in [(4, 5), (4, 1), (4, 0), (1, 1)] {
        let shape = BeaconError::Shape { members: n, threshold: t };
        assert_eq!(BeaconKey::new(t as u16, group, members[..n].to_vec()), Err(shape));
    }
    let mut bent = bytes.clone();
    let last = bent.len() - 32;
    bent[last..].copy_from_slice((members[3] + group).compress().as_bytes());
    assert!(codec::decode::<BeaconKey>(&bent).is_err());
    bent[last..].fill(0);
    assert!(codec::decode::<BeaconKey>(&bent).is_err(), "the identity is no key");
}

#[test]
fn packages_of_another_shape_or_member_are_refused() {
    let c = four();
    assert!(matches!(BeaconKey::of(&c.public, 5, 3), Err(BeaconError::Key(_))));
    assert!(matches!(BeaconKey::of(&c.public, 3, 3), Err(BeaconError::Key(_))));
    assert!(matches!(BeaconKey::of(&c.public, 4, 2), Err(BeaconError::Key(_))));
    assert!(BeaconKey::of(&c.public, usize::MAX, 3).is_err());
    assert!(matches!(BeaconKey::of(&c.public, 4, usize::MAX), Err(BeaconError::Shape { .. })));
    assert!(BeaconShare::of(&c.packages[0], 1).is_err());
    assert!(BeaconShare::of(&c.packages[0], usize::MAX).is_err());
    assert!(c.shares.iter().all(|s| s.belongs_to(&c.key)));
    assert!(c.shares.iter().all(|s| !s.belongs_to(&dkg(4, 3, 98).key)));
    let crossed = frost::keys::KeyPackage::new(
        *c.packages[0].identifier(),
        *c.packages[1].signing_share(),
        *c.packages[0].verifying_share(),
        *c.packages[0].verifying_key(),
        3,
    );
    assert!(matches!(BeaconShare::of(&crossed, 0), Err(BeaconError::Key("secret and public half differ"))));
}

#[test]
fn secrets_do_not_print() {
    let share = &four().shares[2];
    let text = format!("{share:?}");
    assert_eq!(text, "BeaconShare(<redacted> of member 2)");
    assert!(!text.contains(&hex::encode(share.secret.as_slice())));
    assert!(format!("{:?}", four().key).ends_with("3 of 4 members)"));
}

#[test] // a generator that repeats must not repeat a nonce for another input
fn a_repeating_generator_gives_other_nonces() {
    let c = four();
    let nonce = |x: &BeaconInput| {
        // s = r - c k, so r = s + c k
        let p = c.shares[0].partial(x, &mut rng(1));
        let scalar = |b: &[u8]| Scalar::from_canonical_bytes(b.try_into().unwrap()).unwrap();
        scalar(&p.proof[32..]) + scalar(&p.proof[..32]) * scalar(c.shares[0].secret.as_slice())
    };
    assert_ne!(nonce(&input(1)), nonce(&input(2)));
    assert_eq!(nonce(&input(1)), nonce(&input(1)));
}

/// RFC 9497, appendix A.1.2: skSm, Blind, ProofRandomScalar, then (Input, BlindedElement, EvaluationElement, Proof,
/// Output) of the vectors with batch size 1.
const KEY: &str = "e6f73f344b79b379f1a0dd37e07ff62e38d9f71345ce62ae3a9bc60b04ccd909";
const PUBLIC: &str = "c803e2cc6b05fc15064549b5920659ca4a77b2cca6f04f6b357009335476ad4e";
const BLIND: &str = "64d37aed22a27f5191de1c1d69fadb899d8862b58eb4220029e036ec4c1f6706";
const NONCE: &str = "222a5e897cf59db8145db8d16e597e8facb80ae7d4e26d9881aa6f61d645fc0e";
const VECTORS: [[&str; 5]; 2] = [
    [
        "00",
        "863f330cc1a1259ed5a5998a23acfd37fb4351a793a5b3c090b642ddc439b945",
        "aa8fa048764d5623868679402ff6108d2521884fa138cd7f9c7669a9a014267e",
        "ddef93772692e535d1a53903db24367355cc2cc78de93b3be5a8ffcc6985dd06\
         6d4346421d17bf5117a2a1ff0fcb2a759f58a539dfbe857a40bce4cf49ec600d",
        "b58cfbe118e0cb94d79b5fd6a6dafb98764dff49c14e1770b566e42402da1a7d\
         a4d8527693914139caee5bd03903af43a491351d23b430948dd50cde10d32b3c",
    ],
    [
        "5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a",
        "cc0b2a350101881d8a4cba4c80241d74fb7dcbfde4a61fde2f91443c2bf9ef0c",
        "60a59a57208d48aca71e9e850d22674b611f752bed48b36f7a91b372bd7ad468",
        "401a0da6264f8cf45bb2f5264bc31e109155600babb3cd4e5af7d181a2c9dc0a\
         67154fabf031fd936051dec80b0b6ae29c9503493dde7393b722eafdf5a50b02",
        "8a9a2f3c7f085b65933594309041fc1898d42d0858e59f90814ae90571a6df60\
         356f4610bf816f27afdd84f47719e480906d27ecd994985890e5f539e7ea74b6",
    ],
];

/// Gives one scalar to whoever draws one: 32 bytes of it, then zeros.
struct Fixed([u8; 32]);

impl RngCore for Fixed {
    fn next_u32(&mut self) -> u32 {
        0
    }
    fn next_u64(&mut self) -> u64 {
        0
    }
    fn fill_bytes(&mut self, out: &mut [u8]) {
        out.fill(0);
        out[..32].copy_from_slice(&self.0);
    }
    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), rand_core::Error> {
        self.fill_bytes(out);
        Ok(())
    }
}
impl CryptoRng for Fixed {}

fn bytes32(text: &str) -> [u8; 32] {
    hex::decode(text).unwrap().try_into().unwrap()
}

#[test] // RFC 9497 A.1.2 through our own functions, and its output from t shares of its key
fn rfc_9497_vectors() {
    let server = VoprfServer::<Ristretto255>::new_with_key(&bytes32(KEY)).unwrap();
    assert_eq!(hex::encode(server.get_public_key().compress().as_bytes()), PUBLIC);
    let blind = Scalar::from_canonical_bytes(bytes32(BLIND)).unwrap();
    let committee = split(&frost::SigningKey::deserialize(&bytes32(KEY)).unwrap(), 5, 3, 1);
    for [x, blinded, evaluated, proof, output] in VECTORS {
        let x = hex::decode(x).unwrap();
        let question = Question::new(&x, blind).unwrap();
        assert_eq!(hex::encode(question.element.serialize()), blinded);
        let (element, made) = question.evaluate(&server, &mut Fixed(bytes32(NONCE)));
        assert_eq!((hex::encode(element), hex::encode(made)), (evaluated.to_string(), proof.to_string()));
        let value = question.proven(&server.get_public_key(), &element, &made).unwrap();
        assert_eq!(hex::encode(question.finalize(&(value * blind.invert()))), output);

        let question = Question::new(&x, Scalar::ONE).unwrap();
        let partials: Vec<Partial> = [4, 0, 2]
            .map(|i| {
                let (element, proof) = question.evaluate(&committee.shares[i].server, &mut rng(5));
                Partial { index: i as u16, element, proof }
            })
            .to_vec();
        let (value, _) = committee.key.interpolate(&question, &partials).unwrap();
        assert_eq!(hex::encode(question.finalize(&value)), output);
    }
}

#[test] // K2: changing the value of an input or its bytes must break a test on purpose
fn bytes_and_value_are_pinned() {
    let x = input(1);
    assert_eq!(
        hex::encode(codec::encode(&x)),
        "0162636e69".to_owned() + &"03".repeat(32) + "00000000" + "0100000000000000" + &"08".repeat(32)
    );
    let c = split(&frost::SigningKey::deserialize(&bytes32(KEY)).unwrap(), 4, 3, 1);
    let (beacon, proof) = c.key.combine(&x, &partials(&c, &x)).unwrap();
    assert_eq!(beacon.to_string(), "5b51ee58e3106a1d740240b5b4fe0c560dbaa8249137950905e6de87b8e9d524");
    let bytes = codec::encode(&proof);
    assert_eq!(bytes.len(), 5 + 8 + 3 * 98);
    assert_eq!(codec::decode::<BeaconProof>(&bytes).unwrap(), proof);
    let one = codec::encode(&proof.partials[0]);
    assert_eq!(one.len(), 103);
    assert_eq!(codec::decode::<Partial>(&one).unwrap(), proof.partials[0]);
}

#[test] // K3
fn a_claimed_length_is_bounded() {
    let p = partials(four(), &input(1)).remove(0);
    let list = |len: usize| codec::encode(&BeaconProof { partials: vec![p.clone(); len] });
    assert!(codec::decode::<BeaconProof>(&list(MAX_MEMBERS)).is_ok());
    let mut huge = list(0);
    huge[5..].fill(0xff);
    assert!(codec::decode::<BeaconProof>(&huge).unwrap_err().to_string().contains("67 are allowed"));
    huge[5..].copy_from_slice(&68u64.to_le_bytes());
    assert!(codec::decode::<BeaconProof>(&huge).unwrap_err().to_string().contains("67 are allowed"));
}

#[test] // a low threshold only to keep the test short
fn the_largest_committee_works() {
    let secret = frost::SigningKey::deserialize(&bytes32(KEY)).unwrap();
    let c = split(&secret, MAX_MEMBERS, 6, 3);
    let x = input(67);
    let some: Vec<Partial> = c.shares[61..].iter().map(|s| s.partial(&x, &mut rng(2))).collect();
    let (beacon, proof) = c.key.combine(&x, &some).unwrap();
    assert_eq!(beacon, directly(&c, &x));
    assert_eq!(codec::decode::<BeaconProof>(&codec::encode(&proof)).unwrap(), proof);
    assert_eq!(codec::decode::<BeaconKey>(&codec::encode(&c.key)).unwrap(), c.key);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test] // K3
    fn garbage_never_panics(
        body in proptest::collection::vec(any::<u8>(), 0..320),
        index: u16, element: [u8; 32], halves: [[u8; 32]; 2], number: u64, subject: [u8; 32],
    ) {
        for tag in [b"bcnp", b"bcpf", b"bcnk", b"bcni"] {
            let mut bytes = vec![codec::VERSION];
            bytes.extend_from_slice(tag);
            bytes.extend_from_slice(&body);
            let _ = codec::decode::<Partial>(&bytes);
            let _ = codec::decode::<BeaconProof>(&bytes);
            let _ = codec::decode::<BeaconKey>(&bytes);
            let _ = codec::decode::<BeaconInput>(&bytes);
        }
        let mut proof = [0; 64];
        proof[..32].copy_from_slice(&halves[0]);
        proof[32..].copy_from_slice(&halves[1]);
        let partial = Partial { index, element, proof };
        let x = BeaconInput { number, subject, ..input(0) };
        prop_assert!(!four().key.verify_partial(&x, &partial));
        prop_assert!(four().key.combine(&x, &[partial.clone(), partial.clone()]).is_err());
        let planted = BeaconProof { partials: vec![partial; 3] };
        prop_assert!(four().key.verify(&x, &planted).is_err());
    }
}
