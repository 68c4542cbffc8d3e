//! RFC 9591 vectors through our own nonce and key share types; no vector file unread.

use super::nonces::Nonce;
use super::*;
use crate::frost::group::identifier;
use frost::keys::dkg;
use frost::round1::{NonceCommitment, SigningCommitments, SigningNonces};
use frost::{Field, Group, Identifier};
use frost_secp256k1 as frost;
use serde_json::Value;
use std::path::PathBuf;

fn folder() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "vectors"].iter().collect()
}

fn load(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(folder().join(name)).unwrap()).unwrap()
}

type Check = (&'static str, fn(&Value));
/// Files with the check that reads each.
const READ: [Check; 3] =
    [("vectors.json", signing), ("vectors-big-identifier.json", signing), ("vectors_dkg.json", key_generation)];

#[test]
fn no_vector_file_is_unread() {
    let mut found: Vec<String> =
        std::fs::read_dir(folder()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    found.sort();
    let mut read: Vec<&str> = READ.iter().map(|(name, _)| *name).chain(["README.md"]).collect();
    read.sort_unstable();
    assert_eq!(found, read);
}

#[test] // RFC 9591, appendix E.5
fn rfc_9591_vector() {
    let (name, check) = READ[0];
    check(&load(name));
}

#[test]
fn big_identifier_vector() {
    let (name, check) = READ[1];
    check(&load(name));
}

#[test]
fn dkg_vector() {
    let (name, check) = READ[2];
    check(&load(name));
}

fn bytes(v: &Value) -> Vec<u8> {
    hex::decode(v.as_str().unwrap()).unwrap()
}

fn number(v: &Value) -> u16 {
    u16::try_from(v.as_u64().unwrap()).unwrap()
}

/// The identifier as our member indices make it: index 0 is number 1.
fn member(v: &Value) -> Identifier {
    identifier(usize::from(number(v)) - 1)
}

fn list(v: &Value) -> &[Value] {
    v.as_array().unwrap()
}

fn signing(file: &Value) {
    let (inputs, config) = (&file["inputs"], &file["config"]);
    let verifying = frost::VerifyingKey::deserialize(&bytes(&inputs["verifying_key_key"])).unwrap();
    let secret = frost::SigningKey::deserialize(&bytes(&inputs["group_secret_key"])).unwrap();
    assert_eq!(frost::VerifyingKey::from(&secret), verifying);
    let t: u16 = config["MIN_PARTICIPANTS"].as_str().unwrap().parse().unwrap();
    assert_eq!(list(&inputs["share_polynomial_coefficients"]).len() + 1, usize::from(t));
    let total: usize = config["MAX_PARTICIPANTS"].as_str().unwrap().parse().unwrap();
    assert_eq!(list(&inputs["participant_shares"]).len(), total);

    let (mut shares, mut public) = (BTreeMap::new(), BTreeMap::new());
    for one in list(&inputs["participant_shares"]) {
        let id = member(&one["identifier"]);
        let signing = frost::keys::SigningShare::deserialize(&bytes(&one["participant_share"])).unwrap();
        let verifying_share = frost::keys::VerifyingShare::from(signing);
        let key = frost::keys::KeyPackage::new(id, signing, verifying_share, verifying, t);
        shares.insert(id, KeyShare::from_secret_bytes(&key.serialize().unwrap()).unwrap());
        public.insert(id, verifying_share);
    }
    let all: Vec<_> = shares.values().take(usize::from(t)).map(|s| s.package().clone()).collect();
    assert_eq!(frost::keys::reconstruct(&all).unwrap().serialize(), secret.serialize(), "the shares are of the secret");

    let (mut nonces, mut commitments) = (BTreeMap::new(), BTreeMap::new());
    for one in list(&file["round_one_outputs"]["outputs"]) {
        let nonce =
            |k: &str| frost_core::round1::Nonce::<frost::Secp256K1Sha256>::deserialize(&bytes(&one[k])).unwrap();
        let commitment = |k: &str| NonceCommitment::deserialize(&bytes(&one[k])).unwrap();
        let made = SigningNonces::from_nonces(nonce("hiding_nonce"), nonce("binding_nonce"));
        let expected =
            SigningCommitments::new(commitment("hiding_nonce_commitment"), commitment("binding_nonce_commitment"));
        assert_eq!(*made.commitments(), expected);
        // our transport's bytes of commitments carry the very same points
        assert_eq!(SigningCommitments::deserialize(&expected.serialize().unwrap()).unwrap(), expected);
        let id = member(&one["identifier"]);
        nonces.insert(id, Nonce::from_vector(made));
        commitments.insert(id, expected);
    }
    let message = bytes(&inputs["message"]);
    let participants: Vec<Identifier> = list(&inputs["participant_list"]).iter().map(member).collect();
    assert!(participants.iter().all(|p| nonces.contains_key(p)) && participants.len() == nonces.len());
    let package = frost::SigningPackage::new(commitments, &message);
    let preimages = package.binding_factor_preimages(&verifying, &[]).unwrap();
    for one in list(&file["round_one_outputs"]["outputs"]) {
        let (_, found) = preimages.iter().find(|(id, _)| *id == member(&one["identifier"])).unwrap();
        assert_eq!(*found, bytes(&one["binding_factor_input"]));
    }

    let mut signed = BTreeMap::new();
    for one in list(&file["round_two_outputs"]["outputs"]) {
        let id = member(&one["identifier"]);
        let share = nonces.remove(&id).unwrap().sign(&package, &shares[&id]).unwrap();
        assert_eq!(share.serialize(), bytes(&one["sig_share"]));
        frost_core::verify_signature_share(id, &public[&id], &share, &package, &verifying).unwrap();
        signed.insert(id, share);
    }
    assert!(nonces.is_empty(), "a signer of the vector was left out");
    let keys = frost::keys::PublicKeyPackage::new(public, verifying, Some(t));
    let signature = frost::aggregate(&package, &signed, &keys).unwrap();
    let ours = GroupSignature::of(&signature).unwrap();
    assert_eq!(ours.to_bytes(), bytes(&file["final_output"]["sig"]));
    verifying.verify(&message, &frost::Signature::deserialize(&ours.to_bytes()).unwrap()).unwrap();
}

/// Parts 2 and 3 of the key generation; part 1 draws its secrets itself, so they enter after it.
fn key_generation(file: &Value) {
    type Scalars = <frost::Secp256K1Group as Group>::Field;
    let scalar = |v: &Value| <Scalars as Field>::deserialize(&bytes(v).try_into().unwrap()).unwrap();
    let (inputs, config) = (&file["inputs"], &file["config"]);
    let (n, t) = (number(&config["MAX_PARTICIPANTS"]), number(&config["MIN_PARTICIPANTS"]));
    let one = |i: u16| &inputs[i.to_string().as_str()];
    let commitment = |i: u16| {
        let points: Vec<Vec<u8>> = list(&one(i)["vss_commitments"]).iter().map(bytes).collect();
        frost::keys::VerifiableSecretSharingCommitment::deserialize(points).unwrap()
    };
    let round1 = |i: u16| {
        let proof = frost::Signature::deserialize(&bytes(&one(i)["proof_of_knowledge"])).unwrap();
        dkg::round1::Package::new(commitment(i), proof)
    };
    let round2 = |from: u16, to: u16| {
        let share = bytes(&one(from)["signing_shares"][to.to_string().as_str()]);
        dkg::round2::Package::new(frost::keys::SigningShare::deserialize(&share).unwrap())
    };
    for me in 1..=n {
        let others = || (1..=n).filter(move |i| *i != me);
        let id = |i: u16| member(&one(i)["identifier"]);
        let coefficients = vec![scalar(&one(me)["signing_key"]), scalar(&one(me)["coefficient"])];
        let secret1 = dkg::round1::SecretPackage::new(id(me), coefficients, commitment(me), t, n);
        let packages1: BTreeMap<_, _> = others().map(|i| (id(i), round1(i))).collect();
        let (secret2, sent) = dkg::part2(secret1, &packages1).unwrap();
        for to in others() {
            // the crate's own vector file lists for each member the shares it receives
            assert_eq!(sent[&id(to)], round2(to, me), "share of {me} for {to}");
        }
        let packages2: BTreeMap<_, _> = others().map(|i| (id(i), round2(me, i))).collect();
        let (key, public) = dkg::part3(&secret2, &packages1, &packages2).unwrap();
        assert_eq!(key.signing_share().serialize(), bytes(&one(me)["signing_share"]));
        assert_eq!(public.verifying_key().serialize().unwrap(), bytes(&inputs["verifying_key"]));
        for i in 1..=n {
            let found = public.verifying_shares()[&id(i)].serialize().unwrap();
            assert_eq!(found, bytes(&one(i)["verifying_share"]));
        }
        // our key file keeps it as it is
        let kept = KeyShare::from_secret_bytes(&key.serialize().unwrap()).unwrap();
        assert_eq!(*kept.package(), key);
    }
}
