//! The token's bytes, and what happens to bytes that are none.

use super::fake::keys;
use oda_consensus::ids::{PaymentHash, Preimage};
use oda_lightning::l402::*;
use proptest::prelude::*;
use zeroize::Zeroizing;

fn sample_key() -> RootKey {
    RootKey::new(&Zeroizing::new(std::array::from_fn(|i| u8::try_from(i).unwrap())))
}

fn sample() -> Token {
    let payment_hash = Preimage([0x11; 32]).payment_hash();
    let identifier = Identifier { payment_hash, token_id: TokenId([0x22; 32]) };
    let mut token = Token::mint(&sample_key(), "lsat", identifier).unwrap();
    let caveats =
        [("services", "train:0"), ("train_capabilities", "submit,status"), ("train_valid_until", "1900000000")];
    for (key, value) in caveats {
        token = token.restrict(key, value).unwrap();
    }
    token
}

/// The published construction, byte by byte: any other derivation or encoding gives another signature.
#[test]
fn signature_and_bytes_are_the_standard_ones() {
    let token = sample();
    let signature = "884fadb5836905bc8de552950c34ba6e41df15a247a4d7598df9dfe0928721bc";
    assert_eq!(hex::encode(token.signature()), signature);

    let mut expected = vec![2, 1, 4];
    expected.extend(b"lsat");
    expected.extend([2, 66, 0, 0]);
    expected.extend(Preimage([0x11; 32]).payment_hash().0);
    expected.extend([0x22; 32]);
    expected.push(0);
    for caveat in ["services=train:0", "train_capabilities=submit,status", "train_valid_until=1900000000"] {
        expected.extend([2, u8::try_from(caveat.len()).unwrap()]);
        expected.extend(caveat.as_bytes());
        expected.push(0);
    }
    expected.extend([0, 6, 32]);
    expected.extend(hex::decode(signature).unwrap());
    assert_eq!(token.to_bytes().unwrap(), expected);
    assert_eq!(Token::from_bytes(&expected).unwrap(), token);
    assert_eq!(Token::from_base64(&token.to_base64().unwrap()).unwrap(), token);
    token.check_signature(&sample_key()).unwrap();
}

#[test]
fn a_token_cut_anywhere_or_with_any_bit_changed_is_refused() {
    let bytes = sample().to_bytes().unwrap();
    for end in 0..bytes.len() {
        assert!(Token::from_bytes(&bytes[..end]).is_err(), "cut at {end}");
    }
    let original = sample();
    for i in 0..bytes.len() {
        for bit in 0..8 {
            let mut changed = bytes.clone();
            changed[i] ^= 1 << bit;
            let Ok(token) = Token::from_bytes(&changed) else { continue };
            let same_chain = token.identifier() == original.identifier()
                && token.signature() == original.signature()
                && token.caveats() == original.caveats();
            // the location is a hint that nothing signs
            assert_eq!(token.check_signature(&sample_key()).is_ok(), same_chain, "byte {i} bit {bit}");
        }
    }
    assert!(Token::from_bytes(&[bytes, vec![0]].concat()).is_err(), "a byte too many");
}

#[test]
fn a_token_over_the_limits_is_refused() {
    let mut token = sample();
    for i in 3..MAX_CAVEATS {
        token = token.restrict("other", &i.to_string()).unwrap();
    }
    assert_eq!(token.restrict("other", "x"), Err(L402Error::TooManyCaveats { caveats: MAX_CAVEATS + 1 }));
    assert!(matches!(sample().restrict("other", &"x".repeat(MAX_MACAROON_BYTES)), Err(L402Error::TooLong { .. })));
    assert!(matches!(Credential::parse(&"A".repeat(MAX_HEADER_BYTES + 1)), Err(L402Error::TooLong { .. })));
    assert!(matches!(Token::from_base64(&"AgEE".repeat(5000)), Err(L402Error::TooLong { .. })));
    assert!(matches!(sample().restrict("a=b", "c"), Err(L402Error::BadCaveat { .. })));
}

#[test]
fn foreign_identifiers_are_named() {
    let key = libmacaroon::MacaroonKey::from([1; 32]);
    let text = |id: &[u8]| {
        let macaroon = libmacaroon::Macaroon::create(None, &key, id).unwrap();
        macaroon.serialize(libmacaroon::Format::V2).unwrap()
    };
    assert_eq!(Token::from_base64(&text(&[0; 20])), Err(L402Error::Foreign { bytes: 20 }));
    assert_eq!(Token::from_base64(&text(&[0; 67])), Err(L402Error::Foreign { bytes: 67 }));
    let mut later = [0; 66];
    later[1] = 1;
    assert_eq!(Token::from_base64(&text(&later)), Err(L402Error::UnknownVersion { version: 1 }));
    let macaroon = libmacaroon::Macaroon::create(None, &key, [0; 66]).unwrap();
    let old = macaroon.serialize(libmacaroon::Format::V1).unwrap();
    assert!(matches!(Token::from_base64(&old), Err(L402Error::Malformed(_))), "one format only");
}

#[test]
fn secrets_are_not_printed() {
    let credential = Credential { token: sample(), preimage: Preimage([0x11; 32]) };
    let text = format!("{credential:?} {:?} {:?}", sample_key(), keys());
    assert!(!text.contains("1111") && !text.contains("7777") && !text.contains("[17,"), "{text}");
    assert!(credential.to_header().unwrap().is_sensitive());
}

fn headers(name: http::HeaderName, text: &str) -> http::HeaderMap {
    let value = http::HeaderValue::from_bytes(text.as_bytes());
    value.into_iter().map(|value| (name.clone(), value)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_panic_or_pass(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0usize..200) {
        let mut spliced = sample().to_bytes().unwrap();
        spliced.truncate(cut);
        spliced.extend(&bytes);
        for bytes in [bytes, spliced] {
            if let Ok(token) = Token::from_bytes(&bytes) {
                prop_assert!(token.check_signature(&sample_key()).is_err() || token == sample());
                let _ = token.caveats();
            }
        }
    }

    #[test]
    fn no_header_panics(text in "((L402|lsat|Basic)[ ,=]{0,2})?(macaroon|invoice|x)?[ =\"]{0,3}[\\PC,:=\"]{0,120}") {
        let _ = Credential::from_headers(&headers(http::header::AUTHORIZATION, &text));
        let _ = Challenge::from_headers(&headers(http::header::WWW_AUTHENTICATE, &text));
        let _ = Credential::parse(&text);
    }

    #[test]
    fn challenges_and_credentials_survive_the_wire(hash in any::<[u8; 32]>(), id in any::<[u8; 32]>(), value in "[a-z0-9:,=]{0,40}") {
        let identifier = Identifier { payment_hash: PaymentHash(hash), token_id: TokenId(id) };
        let token = Token::mint(&sample_key(), "here", identifier).unwrap().restrict("services", &value).unwrap();
        let challenge = Challenge { token: token.clone(), bolt11: "lnbcrt1abc".into() };
        for value in challenge.to_headers().unwrap() {
            let text = value.to_str().unwrap().to_owned();
            for text in [text.clone(), format!("Basic realm=\"a b\", {text}"), format!("Negotiate, {text}, Basic realm=x"), text.replace(", ", " ,")] {
                let read = Challenge::from_headers(&headers(http::header::WWW_AUTHENTICATE, &text)).unwrap();
                prop_assert_eq!(read.as_ref(), Some(&challenge), "{}", text);
            }
        }
        let credential = Credential { token, preimage: Preimage(hash) };
        let value = credential.to_header().unwrap();
        let read = Credential::from_headers(&headers(http::header::AUTHORIZATION, value.to_str().unwrap())).unwrap();
        prop_assert_eq!(read, credential);
    }
}
